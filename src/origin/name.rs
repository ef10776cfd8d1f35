//! The identity of an origin: scheme, host and port.

use std::fmt;
use std::str::FromStr;

use http::HeaderValue;
use rustls::pki_types::ServerName;
use url::{Host, Url};

/// Scheme, host and port (RFC 9110 section 4.3.1), parsed from `http://host:port` or
/// `https://host:port`.
#[derive(Clone, Debug, Eq, Hash, PartialEq, serde::Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Origin {
    encrypted: bool,
    host: Host<String>,
    port: u16,
    authority: HeaderValue,
}

/// The reason why a text is not an origin.
///
/// The operator has to correct the settings.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum ParseOriginError {
    /// The text does not begin with `http://` or `https://` and a host.
    #[error("must be http://host:port or https://host:port")]
    Malformed,
    /// The text contains a path, a query, a fragment or a user, which are not parts of an origin.
    #[error("must end after the host and port")]
    MoreThanAnOrigin,
}

impl Origin {
    /// Whether connections use TLS (`https`).
    pub(crate) fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// The host in the form for the resolver: an IPv6 address has no brackets.
    pub(crate) fn host(&self) -> String {
        match &self.host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        }
    }

    /// The port, or the default port of the scheme.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Host and port in the form of a `Host` field, without the default port of the scheme.
    pub(crate) fn authority(&self) -> &str {
        // Host and port consist of visible ASCII characters, so the conversion never fails.
        self.authority.to_str().unwrap_or_default()
    }

    /// The `Host` field for this origin (RFC 9110 section 7.2). Cloning a `HeaderValue` only
    /// increments a reference count.
    pub(crate) fn host_value(&self) -> &HeaderValue {
        &self.authority
    }

    /// The name for which the origin's certificate must be valid.
    pub(super) fn server_name(&self) -> Option<ServerName<'static>> {
        match &self.host {
            // Names in certificates have no trailing dot, so the dot is removed here. The name for
            // the resolver keeps a trailing dot, because the resolver then uses no search domains.
            Host::Domain(name) => ServerName::try_from(name.trim_end_matches('.').to_owned()).ok(),
            Host::Ipv4(address) => Some(ServerName::from(std::net::IpAddr::from(*address))),
            Host::Ipv6(address) => Some(ServerName::from(std::net::IpAddr::from(*address))),
        }
    }
}

impl FromStr for Origin {
    type Err = ParseOriginError;

    fn from_str(text: &str) -> Result<Self, ParseOriginError> {
        let url = Url::parse(text).map_err(|_reason| ParseOriginError::Malformed)?;
        let encrypted = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(ParseOriginError::Malformed),
        };
        let (_, rest) = text.split_once("://").ok_or(ParseOriginError::Malformed)?;
        // The `url` library corrects mistakes (white space, backslashes, dot segments), as browsers
        // do. This function rejects an origin that the library would have to correct.
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '\\', '?', '#', '@']) {
            return Err(ParseOriginError::MoreThanAnOrigin);
        }
        if rest.is_empty() || rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(ParseOriginError::Malformed);
        }
        let host = url.host().ok_or(ParseOriginError::Malformed)?.to_owned();
        let port = url
            .port_or_known_default()
            .filter(|port| *port != 0)
            .ok_or(ParseOriginError::Malformed)?;
        let authority = match url.port() {
            None => host.to_string(),
            Some(port) => format!("{host}:{port}"),
        };
        let authority =
            HeaderValue::from_str(&authority).map_err(|_invalid| ParseOriginError::Malformed)?;
        let origin = Self {
            encrypted,
            host,
            port,
            authority,
        };
        // If the host is not a valid server name, every TLS handshake would fail, because no
        // certificate can be valid for the host. This function returns an error for a host that is
        // not a valid server name, so that the operator sees the mistake when the gateway starts.
        if encrypted && origin.server_name().is_none() {
            return Err(ParseOriginError::Malformed);
        }
        Ok(origin)
    }
}

impl TryFrom<String> for Origin {
    type Error = ParseOriginError;

    fn try_from(text: String) -> Result<Self, ParseOriginError> {
        text.parse()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.encrypted { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_not_exactly_an_origin_is_refused() {
        for bad in [
            "",
            "app",
            "app:8000",
            "//app:8000",
            "http:app",
            "http://",
            "http:///",
            "http://app/x",
            "http://app//",
            "http://app/.",
            "http://app?x",
            "http://app#x",
            "http://a@app",
            "http://a:b@app",
            "http://@app",
            "http://app\\x",
            "http://a\tpp",
            "http://app ",
            "http://app:0",
            "http://app:65536",
            "ftp://app",
            "unix:/run/app.sock",
        ] {
            assert!(bad.parse::<Origin>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_origin_has_the_written_parts() {
        for (text, shown, host, port, authority) in [
            ("http://app", "http://app", "app", 80, "app"),
            ("HTTP://App:80/", "http://app", "app", 80, "app"),
            (
                "https://app:8443",
                "https://app:8443",
                "app",
                8443,
                "app:8443",
            ),
            ("http://my_app:80", "http://my_app", "my_app", 80, "my_app"),
            (
                "http://[::1]:8000",
                "http://[::1]:8000",
                "::1",
                8000,
                "[::1]:8000",
            ),
            (
                "https://127.0.0.1",
                "https://127.0.0.1",
                "127.0.0.1",
                443,
                "127.0.0.1",
            ),
        ] {
            let origin: Origin = text.parse().unwrap();
            assert_eq!(origin.to_string(), shown);
            assert_eq!(origin.host(), host);
            assert_eq!(origin.port(), port);
            assert_eq!(origin.authority(), authority);
        }
    }
}
