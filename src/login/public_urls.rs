//! The setting `public_url`: all origins at which browsers reach the gateway.

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor, value::SeqAccessDeserializer};
use url::Url;

use super::PublicUrl;

/// All origins of the gateway. There is at least one entry, and no two entries have the same
/// authority.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PublicUrls {
    listed: Vec<PublicUrl>,
    /// The origins `https://example.com` whose subdomains are public, for entries such as
    /// `https://*.example.com`.
    parents: Vec<PublicUrl>,
}

/// One entry of the setting `public_url`.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
enum Entry {
    Origin(PublicUrl),
    /// The origin `https://example.com` of the entry `https://*.example.com`.
    Wildcard(PublicUrl),
}

impl PublicUrls {
    /// Returns the origin with the given canonical authority (lower case, no default port).
    pub(crate) fn find(&self, authority: &str) -> Option<PublicUrl> {
        let mut listed = self.listed.iter();
        let listed = listed.find(|url| url.authority() == authority);
        listed.cloned().or_else(|| self.below_wildcard(authority))
    }

    /// Returns the origin with the given canonical authority, if a wildcard contains the authority.
    pub(crate) fn below_wildcard(&self, authority: &str) -> Option<PublicUrl> {
        self.parents.iter().find_map(|url| url.child(authority))
    }

    /// Returns the origins that are listed without a wildcard, in the order of the settings.
    pub(crate) fn listed(&self) -> impl Iterator<Item = &PublicUrl> {
        self.listed.iter()
    }

    /// Returns all entries as text: first the origins, and then the wildcards.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        let wildcards = self.parents.iter();
        let wildcards = wildcards.map(|url| format!("{}://*.{}", url.scheme(), url.authority()));
        self.listed.iter().map(ToString::to_string).chain(wildcards)
    }

    /// Returns the authorities of all entries: first the origins, and then the wildcards.
    pub(crate) fn authorities(&self) -> impl Iterator<Item = String> {
        let listed = self.listed.iter().map(|url| url.authority().to_owned());
        let wildcards = self.parents.iter();
        listed.chain(wildcards.map(|url| format!("*.{}", url.authority())))
    }

    /// Returns two entries that contain the same host with different ports. Browsers send a cookie
    /// to all ports of a host (RFC 6265 section 8.5), so such origins share their cookies.
    pub(crate) fn same_host(&self) -> Option<(String, String)> {
        let entries: Vec<_> = self.names().zip(self.authorities()).collect();
        for (index, (name, authority)) in entries.iter().enumerate() {
            let (host, port) = host_and_port(authority);
            let mut others = entries.iter().skip(index);
            let other = others.find(|(_, other)| {
                let (other_host, other_port) = host_and_port(other);
                // The wildcards follow the origins, so only `other_host` can be a wildcard that
                // contains `host`.
                let parent = other_host.strip_prefix('*');
                let label = parent.and_then(|parent| host.strip_suffix(parent));
                let is_below = label.is_some_and(|label| !label.contains('.'));
                (host == other_host || is_below) && port != other_port
            });
            if let Some((other, _)) = other {
                return Some((name.clone(), other.clone()));
            }
        }
        None
    }

    /// Returns true if an entry is a wildcard.
    pub(crate) fn have_wildcard(&self) -> bool {
        !self.parents.is_empty()
    }
}

/// Splits an authority. The port is empty if it is the default port.
fn host_and_port(authority: &str) -> (&str, &str) {
    match authority.rsplit_once(':') {
        // An address of IPv6 contains colons, and ends with a bracket.
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, ""),
    }
}

impl TryFrom<String> for Entry {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let Some((scheme, parent)) = text.split_once("://*.") else {
            return PublicUrl::try_from(text).map(Self::Origin);
        };
        let parent = PublicUrl::try_from(format!("{scheme}://{parent}"))?;
        let url = Url::parse(parent.origin()).ok();
        let name = url.as_ref().and_then(Url::domain).unwrap_or_default();
        // With `https://*.com`, anybody could register a host that the gateway serves.
        if name.contains('.') || name == "localhost" {
            Ok(Self::Wildcard(parent))
        } else {
            Err(format!(
                "`{text}` would let anybody choose a host; write a wildcard of a domain that is \
                 yours, such as https://*.apps.example.com"
            ))
        }
    }
}

impl TryFrom<Vec<Entry>> for PublicUrls {
    type Error = String;

    fn try_from(entries: Vec<Entry>) -> Result<Self, String> {
        if entries.is_empty() {
            return Err("at least one origin is required".to_owned());
        }
        let (mut listed, mut parents) = (Vec::new(), Vec::new());
        for entry in entries {
            let (urls, url) = match entry {
                Entry::Origin(url) => (&mut listed, url),
                Entry::Wildcard(url) => (&mut parents, url),
            };
            let mut others = urls.iter().map(PublicUrl::authority);
            if others.any(|other| other == url.authority()) {
                return Err(format!("`{}` is listed twice", url.authority()));
            }
            urls.push(url);
        }
        Ok(Self { listed, parents })
    }
}

/// Accepts one origin as a string, or several origins as a list.
impl<'de> Deserialize<'de> for PublicUrls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrSeveral;
        impl<'de> Visitor<'de> for OneOrSeveral {
            type Value = Vec<Entry>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an origin such as \"https://app.example.com\", or a list of origins")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Entry::try_from(text.to_owned())
                    .map(|entry| vec![entry])
                    .map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(items))
            }
        }
        let entries = deserializer.deserialize_any(OneOrSeveral)?;
        Self::try_from(entries).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(entries: &[&str]) -> Result<PublicUrls, String> {
        let entries = entries
            .iter()
            .map(|text| Entry::try_from((*text).to_owned()));
        PublicUrls::try_from(entries.collect::<Result<Vec<_>, _>>()?)
    }

    #[test]
    fn two_origins_cannot_share_an_authority() {
        for twice in [
            ["https://localhost:1", "http://localhost:1"],
            ["https://*.localhost:1", "http://*.localhost:1"],
        ] {
            assert_eq!(parse(&twice).unwrap_err(), "`localhost:1` is listed twice");
        }
        assert!(parse(&["https://a.test", "https://*.a.test"]).is_ok());
        assert_eq!(parse(&[]).unwrap_err(), "at least one origin is required");
    }

    #[test]
    fn origins_that_differ_only_in_the_port_share_their_cookies() {
        let same = |entries: &[&str]| parse(entries).unwrap().same_host().is_some();
        for (one, other, expected) in [
            ("https://a.test", "https://a.test:8443", true),
            ("https://[::1]:1", "https://[::1]", true),
            ("https://[::1]", "https://[::2]", false),
            ("https://x.a.test:1", "https://*.a.test", true),
            ("https://x.a.test", "https://*.a.test", false),
            ("https://x.y.a.test:1", "https://*.a.test", false),
            ("https://a.test:1", "https://*.a.test", false),
            ("https://*.a.test:1", "https://*.a.test", true),
            ("https://a.test:1", "https://b.test:2", false),
        ] {
            assert_eq!(same(&[one, other]), expected, "{one} {other}");
            assert_eq!(same(&[other, one]), expected, "{other} {one}");
        }
    }

    #[test]
    fn a_49_a_wildcard_stands_for_exactly_one_label() {
        let urls = parse(&["https://login.test", "https://*.Apps.example.com:8443"]).unwrap();
        let found = urls.find("one.apps.example.com:8443").unwrap();
        assert_eq!(
            (found.origin(), found.authority(), found.scheme()),
            (
                "https://one.apps.example.com:8443",
                "one.apps.example.com:8443",
                "https"
            )
        );
        for other in [
            "apps.example.com:8443",
            ".apps.example.com:8443",
            "a.b.apps.example.com:8443",
            "oneapps.example.com:8443",
            "evilapps.example.com:8443",
            "one.apps.example.com",
            "one.apps.example.com:84430",
            "one.apps.example.com:8443.evil.test",
            "login.test.apps.example.com",
            // Browsers refuse labels that are not valid Punycode.
            "xn--a.apps.example.com:8443",
            "xn--abc-.apps.example.com:8443",
            "",
        ] {
            assert_eq!(urls.find(other), None, "{other}");
        }
        let bucher = "xn--bcher-kva.apps.example.com:8443";
        assert_eq!(urls.find(bucher).unwrap().authority(), bucher);
        assert_eq!(urls.listed().count(), 1);
        let names: Vec<_> = urls.names().collect();
        assert_eq!(
            names,
            ["https://login.test", "https://*.apps.example.com:8443"]
        );
    }

    #[test]
    fn a_49_a_wildcard_that_takes_too_much_or_nothing_is_refused() {
        for (text, reason) in [
            ("https://*.com", "anybody"),
            ("https://*.", "not a URL"),
            ("https://*.127.0.0.1", "anybody"),
            ("http://*.apps.example.com", "plain http"),
            ("https://*.example.com/app", "more than an origin"),
            ("https://*", "first label"),
            ("https://a*.example.com", "first label"),
            ("https://a.*.example.com", "first label"),
            ("https://*.*.example.com", "first label"),
        ] {
            let error = parse(&[text]).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(parse(&["http://*.localhost"]).is_ok());
    }
}
