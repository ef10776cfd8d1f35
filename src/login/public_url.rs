//! The origins (scheme, host and port) at which browsers reach the gateway.

use std::fmt;

use serde::Deserialize;
use url::{Host, Url};

/// One configured origin.
///
/// The gateway uses the configured origin for `redirect_uri`, absolute `Location` fields, cookie
/// attributes and the same-origin check. `Host` and forwarding fields only select one of the
/// configured origins. An attacker who forges `Host` therefore cannot put another origin into a
/// redirect or a cookie.
///
/// ```
/// use sidegate::login::PublicUrl;
///
/// let url: PublicUrl = String::from("https://App.example.com:443/").try_into().unwrap();
/// assert_eq!(url.origin(), "https://app.example.com");
/// assert_eq!(url.authority(), "app.example.com");
/// assert!(PublicUrl::try_from(String::from("http://app.example.com")).is_err());
/// ```
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub struct PublicUrl {
    origin: Box<str>,
    authority_at: usize,
}

impl PublicUrl {
    /// Returns the origin as browsers write it: scheme, host, and the port if the port is not the
    /// default port.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Returns the host, and the port if the port is not the default port.
    pub fn authority(&self) -> &str {
        self.origin.get(self.authority_at..).unwrap_or_default()
    }

    /// Returns the scheme: `https`, or `http` for a loopback host.
    pub(crate) fn scheme(&self) -> &str {
        if self.origin.starts_with("https:") {
            "https"
        } else {
            "http"
        }
    }

    /// Returns the origin with the canonical authority `authority`, if the host of `authority` has
    /// exactly one label more than the host of `self`. Scheme and port of both origins are equal.
    /// Browsers refuse labels that are not valid Punycode, such as `xn--a`.
    pub(super) fn child(&self, authority: &str) -> Option<Self> {
        let label = authority.strip_suffix(self.authority())?;
        let label = label.strip_suffix('.')?;
        let is_label = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        if !(1..=63).contains(&label.len()) || !label.bytes().all(is_label) {
            return None;
        }
        let origin = [self.scheme(), "://", authority].concat();
        if label.starts_with("xn--") {
            let parsed = Self::try_from(origin.clone()).ok()?;
            return (*parsed.origin == *origin).then_some(parsed);
        }
        Some(Self {
            origin: origin.into(),
            authority_at: self.authority_at,
        })
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)
    }
}

impl TryFrom<String> for PublicUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.contains([',', ' ']) {
            let origins = text.split([',', ' ']).filter(|origin| !origin.is_empty());
            let origins: Vec<String> = origins.map(|origin| format!("{origin:?}")).collect();
            return Err(format!(
                "`{text}` is not one origin; write a list: [{}]",
                origins.join(", ")
            ));
        }
        let url = Url::parse(&text)
            .map_err(|_invalid| format!("`{text}` is not a URL; write https://HOST"))?;
        let loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => return Err(format!("`{text}` has no host; write https://HOST")),
        };
        if url.host_str().is_some_and(|host| host.contains('*')) {
            return Err(format!(
                "`{text}` would match no host, because `*` has a meaning only in `public_url`, as \
                 the whole first label; write a list with the origin of each host"
            ));
        }
        match url.scheme() {
            "https" => {}
            "http" if loopback => {}
            "http" => {
                return Err(format!(
                    "`{text}` is plain http; over http, browsers accept `Secure` and `__Host-` \
                     cookies only from loopback hosts such as localhost, so no user could stay \
                     signed in; write https://"
                ));
            }
            other => return Err(format!("`{text}` has the scheme `{other}`; write https://")),
        }
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return Err(format!(
                "`{text}` is more than an origin; write only scheme, host and port"
            ));
        }
        // The gateway removes the ports 80 and 443 from the host of a request. An origin with
        // `https` and port 80, or with `http` and port 443, is refused, because such an origin
        // could match the host of another origin.
        let confusing = matches!(
            (url.scheme(), url.port()),
            ("https", Some(80)) | ("http", Some(443))
        );
        if confusing || url.host_str().is_some_and(|host| host.ends_with('.')) {
            return Err(format!(
                "`{text}` cannot be matched safely: do not use the default port of the other scheme, \
                 or a host that ends with a dot"
            ));
        }
        let origin = url.origin().ascii_serialization();
        // The authority begins three characters after the scheme, because `://` has three
        // characters.
        let authority_at = url.scheme().len().saturating_add(3);
        Ok(Self {
            origin: origin.into(),
            authority_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PublicUrl, String> {
        PublicUrl::try_from(text.to_owned())
    }

    #[test]
    fn plain_http_is_for_loopback_hosts_only() {
        for good in [
            "http://localhost:4180",
            "http://127.0.0.1:1",
            "http://[::1]:80",
            "http://a.localhost",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "http://app.example.com",
            "http://10.0.0.1",
            "http://localhost.example.com",
        ] {
            assert!(parse(bad).unwrap_err().contains("__Host-"), "{bad}");
        }
    }

    #[test]
    fn more_than_an_origin_is_refused() {
        for bad in [
            "https://a.example/app",
            "https://a.example/?x",
            "https://a.example/#x",
            "https://u@a.example",
            "https://u:p@a.example",
            "ftp://a.example",
            "https://a.example:80",
            "http://localhost:443",
            "https://a.example./",
            "https://*.example",
            "https://a*.example",
            "a.example",
            "",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_of_an_origin() {
        let url = parse("http://[::1]:4180").unwrap();
        assert_eq!((url.authority(), url.scheme()), ("[::1]:4180", "http"));
        let url = parse("https://APP.example.com").unwrap();
        assert_eq!(url.authority(), "app.example.com");
    }
}
