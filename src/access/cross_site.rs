//! The guard against requests that a page of another site sends with a user's session.
//!
//! Many apps have no protection of their own against cross-site request forgery. A browser adds the
//! session cookie to a request that a page of a sibling domain causes, because the attribute
//! `SameSite=Lax` does not distinguish hosts of the same site.

use std::fmt;

use http::header;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};

use super::Permit;
use super::stream::AllowedOrigin;
use crate::fields::{OnlyValue, SEC_FETCH_SITE, View};

/// The sites whose pages may send unsafe requests with a user's session. A request is unsafe if its
/// method can change data (RFC 9110 section 9.2.1).
///
/// A public route serves everybody. A public route forwards an unsafe request of any other page
/// without the session of the user. A route that is not public refuses such a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum CrossSite {
    /// The pages of all sites.
    Allow,
    /// The pages of the origin to which the request is sent, and the pages of the listed origins.
    Refuse(Vec<AllowedOrigin>),
}

impl Default for CrossSite {
    fn default() -> Self {
        Self::Refuse(Vec::new())
    }
}

impl CrossSite {
    /// Returns true if this guard refuses the unsafe requests of every site whose unsafe requests
    /// `other` refuses.
    pub(super) fn refuses_all_of(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Allow) => true,
            (Self::Allow, Self::Refuse(_)) => false,
            (Self::Refuse(own), Self::Refuse(others)) => {
                own.iter().all(|origin| others.contains(origin))
            }
        }
    }

    /// Whether an unsafe request with these fields is permitted. `public_origin` is the origin to
    /// which the request was sent.
    ///
    /// A page cannot set `Sec-Fetch-Site` or `Origin`. `Sec-Fetch-Site` is correct even if the page
    /// hides its origin (`Origin: null`), so `Origin` decides only about a request without
    /// `Sec-Fetch-Site`. A request without both fields is permitted: browsers send at least one of
    /// the two fields with an unsafe request, so the sender is a program and not a page.
    pub(super) fn permits(&self, fields: &(impl View + ?Sized), public_origin: &str) -> bool {
        let Self::Refuse(except) = self else {
            return true;
        };
        let origin = fields.only_value(&header::ORIGIN);
        if let OnlyValue::One(origin) = origin
            && except.iter().any(|listed| listed.is(origin))
        {
            return true;
        }
        match fields.only_value(&SEC_FETCH_SITE) {
            // A browser sends `none` if the user and not a page caused the request.
            OnlyValue::One(site) => matches!(site, b"same-origin" | b"none"),
            OnlyValue::Several => false,
            OnlyValue::Absent => match origin {
                OnlyValue::One(origin) => origin == public_origin.as_bytes(),
                OnlyValue::Several => false,
                OnlyValue::Absent => true,
            },
        }
    }
}

impl Permit {
    /// Applies the guard to an unsafe request. Returns true if the route refuses the request,
    /// because a page of another site caused the request. If the route is public, the permit loses
    /// the session instead, so the app gets neither the identity nor the credentials of the user.
    pub(crate) fn refuses_cross_site(
        &mut self,
        fields: &(impl View + ?Sized),
        public_origin: &str,
    ) -> bool {
        // A request without a session has no rights that a page of another site could use.
        if self.session.is_none() || self.route.cross_site.permits(fields, public_origin) {
            return false;
        }
        if self.route.is_public() {
            self.session = None;
            return false;
        }
        true
    }
}

impl<'de> Deserialize<'de> for CrossSite {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrOrigins;
        impl<'de> Visitor<'de> for WordOrOrigins {
            type Value = CrossSite;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "\"refuse\", \"allow\", or a list of origins such as \
                     [\"https://www.example.com\"]",
                )
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<CrossSite, E> {
                match word {
                    "refuse" => Ok(CrossSite::default()),
                    "allow" => Ok(CrossSite::Allow),
                    other => Err(E::custom(format!(
                        "`{other}` is not known; write \"refuse\", \"allow\", or a list of origins \
                         such as [\"https://www.example.com\"]"
                    ))),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<CrossSite, A::Error> {
                let origins: Vec<AllowedOrigin> =
                    Deserialize::deserialize(SeqAccessDeserializer::new(list))?;
                if origins.is_empty() {
                    let why = "the list is empty; write \"refuse\" to list no origin";
                    return Err(A::Error::custom(why));
                }
                Ok(CrossSite::Refuse(origins))
            }
        }
        deserializer.deserialize_any(WordOrOrigins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(json: &str) -> Result<CrossSite, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    /// Whether `guard` permits a request with these fields to `https://gw.test`.
    fn permits(guard: &CrossSite, fields: &[(&str, &str)]) -> bool {
        let fields: Vec<(&str, &[u8])> = fields
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        guard.permits(&*fields, "https://gw.test")
    }

    const SITE: &str = "sec-fetch-site";
    const ORIGIN: &str = "origin";

    #[test]
    fn c_23_only_pages_of_the_same_origin_may_send_unsafe_requests() {
        let refuse = CrossSite::default();
        for fields in [
            &[(SITE, "same-origin"), (ORIGIN, "https://gw.test")][..],
            // A page with the referrer policy `no-referrer` hides its origin.
            &[(SITE, "same-origin"), (ORIGIN, "null")],
            &[(SITE, "none")],
            &[(ORIGIN, "https://gw.test")],
            &[],
        ] {
            assert!(permits(&refuse, fields), "{fields:?}");
            assert!(permits(&CrossSite::Allow, fields), "{fields:?}");
        }
        for fields in [
            &[(SITE, "cross-site"), (ORIGIN, "https://evil.test")][..],
            &[(SITE, "same-site"), (ORIGIN, "https://www.gw.test")],
            &[(SITE, "cross-site"), (ORIGIN, "https://gw.test")],
            &[(SITE, "cross-site")],
            &[(SITE, "Same-Origin")],
            &[(SITE, "")],
            &[(SITE, "same-origin"), (SITE, "cross-site")],
            &[(ORIGIN, "https://evil.test")],
            &[(ORIGIN, "http://gw.test")],
            &[(ORIGIN, "https://gw.test.evil.test")],
            &[(ORIGIN, "null")],
            &[(ORIGIN, "")],
            &[(ORIGIN, "https://gw.test"), (ORIGIN, "https://evil.test")],
        ] {
            assert!(!permits(&refuse, fields), "{fields:?}");
            assert!(permits(&CrossSite::Allow, fields), "{fields:?}");
        }
    }

    #[test]
    fn c_23_a_listed_origin_may_send_unsafe_requests() {
        let listed = guard(r#"["https://www.gw.test", "https://partner.test:8443"]"#).unwrap();
        for (fields, permitted) in [
            (
                &[(SITE, "same-site"), (ORIGIN, "https://www.gw.test")][..],
                true,
            ),
            (
                &[(SITE, "cross-site"), (ORIGIN, "https://partner.test:8443")],
                true,
            ),
            (&[(ORIGIN, "https://www.gw.test")], true),
            (&[(SITE, "same-origin")], true),
            (
                &[(SITE, "cross-site"), (ORIGIN, "https://partner.test")],
                false,
            ),
            (&[(SITE, "cross-site"), (ORIGIN, "null")], false),
            (
                &[
                    (SITE, "cross-site"),
                    (ORIGIN, "https://www.gw.test"),
                    (ORIGIN, "https://www.gw.test"),
                ],
                false,
            ),
        ] {
            assert_eq!(permits(&listed, fields), permitted, "{fields:?}");
        }
    }

    #[test]
    fn the_setting_is_a_word_or_a_list_of_origins() {
        assert_eq!(guard(r#""refuse""#).unwrap(), CrossSite::default());
        assert_eq!(guard(r#""allow""#).unwrap(), CrossSite::Allow);
        for (json, said) in [
            (r#""off""#, "`off` is not known; write \"refuse\""),
            (
                r#""https://a.test""#,
                "or a list of origins such as [\"https://",
            ),
            ("[]", "the list is empty"),
            (r#"["null"]"#, "`null` is not an origin"),
            (r#"["https://A.test/"]"#, "write `https://a.test`"),
            ("true", "expected \"refuse\", \"allow\", or a list"),
        ] {
            let error = guard(json).unwrap_err();
            assert!(error.contains(said), "{json}: {error}");
        }
    }
}
