//! A value for a field: a claim of the user, or a constant.

use serde::Deserialize;

use super::encoding::{self, Encoding};
use crate::identity::{Claim, Identity};

/// The configured value of a field.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "RawValue")]
pub(crate) struct FieldValue {
    source: Source,
    prefix: Box<str>,
    suffix: Box<str>,
    encoding: Encoding,
}

/// The claim or the constant from which a value comes.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Source {
    Claim(ClaimName),
    Constant(Box<str>),
}

/// The name of a claim.
#[derive(Clone, Debug, Eq, PartialEq)]
enum ClaimName {
    /// The subject.
    Subject,
    /// The email address, if the provider has verified it.
    Email,
    /// The user name at the provider.
    PreferredUsername,
    /// The display name.
    Name,
    /// The path of a claim that has no variant of its own.
    Path(Box<str>),
}

/// The table in the settings that describes the value of a field.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawValue {
    claim: Option<String>,
    constant: Option<String>,
    prefix: Option<String>,
    suffix: Option<String>,
    encoding: Option<Encoding>,
}

/// The reason why the settings describe no usable value.
///
/// Responsible: the operator.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
enum ValueError {
    #[error("write either `claim` or `constant`")]
    Source,
    #[error(
        "`constant` cannot have `prefix`, `suffix` or `encoding`; write the whole text as `constant`"
    )]
    WholeConstant,
    #[error("`{0}` must be printable ASCII without white space at the edge of the field")]
    Text(&'static str),
    #[error("`claim` must be the name of one claim, or a path with dots to it, without `[]`")]
    Claim,
    #[error("`groups` is a list of names; write assertions.groups, which has a format")]
    Groups,
}

impl TryFrom<RawValue> for FieldValue {
    type Error = ValueError;

    fn try_from(written: RawValue) -> Result<Self, ValueError> {
        let changes =
            written.prefix.is_some() || written.suffix.is_some() || written.encoding.is_some();
        let source = match (written.claim, written.constant) {
            (Some(claim), None) => Source::Claim(claim_name(&claim)?),
            (None, Some(_)) if changes => return Err(ValueError::WholeConstant),
            (None, Some(text)) if text.is_empty() || text.trim() != text || !is_plain(&text) => {
                return Err(ValueError::Text("constant"));
            }
            (None, Some(text)) => Source::Constant(text.into()),
            (None, None) | (Some(_), Some(_)) => return Err(ValueError::Source),
        };
        let (prefix, suffix) = (
            written.prefix.unwrap_or_default(),
            written.suffix.unwrap_or_default(),
        );
        // An app removes white space at the start and the end of a field.
        if prefix.starts_with(' ') || !is_plain(&prefix) {
            return Err(ValueError::Text("prefix"));
        }
        if suffix.ends_with(' ') || !is_plain(&suffix) {
            return Err(ValueError::Text("suffix"));
        }
        Ok(Self {
            source,
            prefix: prefix.into(),
            suffix: suffix.into(),
            encoding: written.encoding.unwrap_or_default(),
        })
    }
}

fn is_plain(text: &str) -> bool {
    text.bytes().all(encoding::is_plain)
}

fn claim_name(name: &str) -> Result<ClaimName, ValueError> {
    match name {
        "subject" => Ok(ClaimName::Subject),
        "email" => Ok(ClaimName::Email),
        "preferred_username" => Ok(ClaimName::PreferredUsername),
        "name" => Ok(ClaimName::Name),
        "groups" => Err(ValueError::Groups),
        path if path.is_empty() || path.contains("[]") => Err(ValueError::Claim),
        path => Ok(ClaimName::Path(path.into())),
    }
}

/// If `name` is the path of an additional claim, returns this path, so that the provider keeps the
/// claim in the identity. An identity always has fields for the standard claims, such as `email`.
pub(crate) fn additional_claim(name: &str) -> Option<Box<str>> {
    match claim_name(name) {
        Ok(ClaimName::Path(path)) => Some(path),
        Ok(
            ClaimName::Subject | ClaimName::Email | ClaimName::PreferredUsername | ClaimName::Name,
        )
        | Err(_) => None,
    }
}

impl FieldValue {
    /// Returns true if the value comes from a claim.
    pub(crate) fn is_claim(&self) -> bool {
        matches!(self.source, Source::Claim(_))
    }

    /// Whether a text of the settings contains a colon.
    pub(super) fn has_colon(&self) -> bool {
        let texts = [
            self.constant().unwrap_or_default(),
            &self.prefix,
            &self.suffix,
        ];
        texts.iter().any(|text| text.contains(':'))
    }

    /// Returns the configured text if the value is a constant, or `None` if the value comes from a
    /// claim.
    pub(super) fn constant(&self) -> Option<&str> {
        match &self.source {
            Source::Constant(text) => Some(text),
            Source::Claim(_) => None,
        }
    }

    /// Returns the text that the app gets for the user with the identity `identity`. Returns `None`
    /// if the identity does not contain the claim.
    pub(super) fn text(&self, identity: &Identity) -> Option<String> {
        let claim = match &self.source {
            Source::Constant(text) => return Some(text.as_ref().to_owned()),
            Source::Claim(name) => match name {
                ClaimName::Subject => identity.subject.as_ref(),
                ClaimName::Email => identity.verified_email(),
                ClaimName::PreferredUsername => identity.preferred_username.as_ref(),
                ClaimName::Name => identity.name.as_ref(),
                ClaimName::Path(path) => identity.claim(path),
            },
        };
        let claim = self.encoding.apply(claim.map(Claim::as_str)?);
        Some([&*self.prefix, &*claim, &*self.suffix].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Email;

    fn value(json: &str) -> Result<FieldValue, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    fn alice(verified: bool) -> Identity {
        let claim = |text| Claim::new(text).unwrap();
        Identity {
            subject: Some(claim("42")),
            email: Some(Email {
                address: claim("alice@example.org"),
                verified,
            }),
            name: Some(claim("Zoë")),
            ..Identity::nameless("op")
        }
        .with_claims([("org.id".into(), claim("7"))])
    }

    #[test]
    fn a_value_is_a_claim_or_a_constant() {
        for (json, expected) in [
            (r#"{"claim": "subject"}"#, Some("42")),
            (r#"{"claim": "email"}"#, Some("alice@example.org")),
            (r#"{"claim": "preferred_username"}"#, None),
            (r#"{"claim": "name"}"#, Some("Zoë")),
            (
                r#"{"claim": "name", "encoding": "percent", "prefix": "a%20", "suffix": "!"}"#,
                Some("a%20Zo%C3%AB!"),
            ),
            (r#"{"claim": "org.id"}"#, Some("7")),
            (r#"{"claim": "org.name"}"#, None),
            (r#"{"claim": "org.name", "prefix": "x"}"#, None),
            (r#"{"constant": "Viewer = a"}"#, Some("Viewer = a")),
        ] {
            let text = value(json).unwrap().text(&alice(true));
            assert_eq!(text.as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn an_unverified_email_address_is_not_a_value() {
        let email = value(r#"{"claim": "email"}"#).unwrap();
        assert_eq!(email.text(&alice(false)), None);
    }

    #[test]
    fn a_value_without_an_effect_is_refused() {
        for (json, said) in [
            ("{}", "either `claim` or `constant`"),
            (r#"{"claim": "a", "constant": "b"}"#, "either"),
            (
                r#"{"constant": "a", "prefix": "b"}"#,
                "cannot have `prefix`",
            ),
            (r#"{"constant": "a", "encoding": "raw"}"#, "cannot have"),
            (r#"{"constant": ""}"#, "`constant` must be"),
            (r#"{"constant": " a"}"#, "`constant` must be"),
            (r#"{"constant": "a\r\nb"}"#, "`constant` must be"),
            (r#"{"claim": "a", "prefix": " b"}"#, "`prefix` must be"),
            (r#"{"claim": "a", "suffix": "b "}"#, "`suffix` must be"),
            (r#"{"claim": "a", "suffix": "ä"}"#, "`suffix` must be"),
            (r#"{"claim": ""}"#, "name of one claim"),
            (r#"{"claim": "a[].b"}"#, "name of one claim"),
            (r#"{"claim": "groups"}"#, "assertions.groups"),
            (r#"{"claim": "a", "encoding": "base64"}"#, "unknown variant"),
            (r#"{"claims": "a"}"#, "unknown field `claims`"),
        ] {
            let error = value(json).unwrap_err();
            assert!(error.contains(said), "{json}: {error}");
        }
    }

    #[test]
    fn only_claims_without_a_fixed_name_are_additional() {
        assert_eq!(additional_claim("org.id").as_deref(), Some("org.id"));
        for name in ["subject", "email", "preferred_username", "name", "", "a[]"] {
            assert_eq!(additional_claim(name), None, "{name}");
        }
    }
}
