//! The fields that tell an app who is signed in: assertion fields and credentials.

mod app_fields;
mod credentials;
mod encoding;
mod field_name;
mod signed;
mod value;

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};
use serde::Deserialize;

pub(crate) use self::app_fields::{AppFields, Authorization, BasicPassword};
pub(crate) use self::credentials::{BasicSettings, Bearer, CredentialSettings};
pub(crate) use self::field_name::FieldName;
use self::field_name::{FieldNameError, fold};
use self::signed::RawSigned;
use self::signed::SignedSettings;
pub(crate) use self::signed::{SignedAssertion, SignedRequest, SigningKeys};
use self::value::FieldValue;
pub(crate) use self::value::additional_claim;
use crate::identity::{Claim, GroupsForm, GroupsFormat, Identity};

/// The names of the assertion fields. Each claim has at most one assertion field. A claim without a
/// field name is not sent to the app.
///
/// In the settings, the operator writes a field name for each claim, or `""` if the claim is not
/// sent.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "RawNames")]
pub(crate) struct AssertionNames {
    /// The subject. The subject identifies the user at the provider and never changes.
    pub(crate) user: Option<HeaderName>,
    /// The email address, if the provider has verified it.
    pub(crate) email: Option<HeaderName>,
    /// The user name that the user has chosen at the provider. The same user name may later belong
    /// to another user.
    pub(crate) preferred_username: Option<HeaderName>,
    /// The groups.
    pub(crate) groups: Option<HeaderName>,
    /// The form and the maximum length of the groups field.
    pub(crate) groups_form: GroupsForm,
    /// The configured name of the provider. An app may need the name of the provider, because two
    /// providers may use the same subject for different users.
    pub(crate) provider: Option<HeaderName>,
    /// The field with the signed assertion, and the settings of the assertion.
    pub(crate) signed: Option<SignedSettings>,
    /// Additional fields, each with its value.
    pub(crate) fields: Vec<(HeaderName, FieldValue)>,
}

impl AssertionNames {
    /// Returns the configured field names. A client must never send a field with one of the
    /// configured names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &HeaderName> {
        let names = [
            &self.user,
            &self.email,
            &self.preferred_username,
            &self.groups,
            &self.provider,
        ];
        let signed = self.signed.iter().map(|signed| &signed.field);
        let fields = self.fields.iter().map(|(name, _)| name);
        names.into_iter().flatten().chain(signed).chain(fields)
    }
}

impl AssertionNames {
    /// Returns true if an assertion field has this name, or a name that many apps cannot
    /// distinguish from this name.
    pub(crate) fn has(&self, name: &FieldName) -> bool {
        let folded = fold(name.as_name());
        self.iter().any(|other| fold(other) == folded)
    }
}

impl Default for AssertionNames {
    /// The default names are `X-Forwarded-User`, `X-Forwarded-Email`,
    /// `X-Forwarded-Preferred-Username` and `X-Forwarded-Groups`. The name of the provider is not
    /// sent by default.
    fn default() -> Self {
        let name = |name| Some(HeaderName::from_static(name));
        Self {
            user: name("x-forwarded-user"),
            email: name("x-forwarded-email"),
            preferred_username: name("x-forwarded-preferred-username"),
            groups: name("x-forwarded-groups"),
            groups_form: GroupsForm::default(),
            provider: None,
            signed: None,
            fields: Vec::new(),
        }
    }
}

/// The table of field names in the settings.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawNames {
    user: Option<String>,
    email: Option<String>,
    preferred_username: Option<String>,
    groups: Option<String>,
    groups_format: GroupsFormat,
    groups_bytes: Option<u32>,
    provider: Option<String>,
    signed: Option<RawSigned>,
    fields: BTreeMap<String, FieldValue>,
}

/// The largest allowed value of `groups_bytes`, the maximum length of the groups field.
const MAX_GROUPS_BYTES: u32 = 64 * 1024;

/// The reason why a field cannot contain a claim.
///
/// The operator is responsible for this error.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum NameError {
    /// The audience of the signed assertion is an empty text.
    #[error("signed.audience is empty; leave it out to use the name of the upstream")]
    Audience,
    /// Two claims have the same field name, or have two names that many apps cannot distinguish
    /// (`X-A` and `X_A`).
    #[error(
        "{key} has the same field as another claim; choose another name, or \"\" to leave it out"
    )]
    Duplicate {
        /// The settings key with the problem.
        key: String,
    },
    /// The maximum length of the groups field is 0 or too large.
    #[error("groups_bytes is not between 1 and {MAX_GROUPS_BYTES}")]
    GroupsBytes,
    /// The lifetime of the signed assertion is too short or too long.
    #[error("signed.lifetime_secs is not between 10 and 3600")]
    Lifetime,
    /// The value is not the name of a field that can contain a claim.
    #[error("{key} {error}")]
    Name {
        /// The settings key with the problem.
        key: String,
        /// The reason.
        error: FieldNameError,
    },
    /// The app gets no signed assertion, so the other settings of the assertion have no effect.
    #[error(
        "signed.field is \"\", so the app gets no signed assertion; leave the other keys of \
             `signed` out"
    )]
    UnusedSigned,
}

impl TryFrom<RawNames> for AssertionNames {
    type Error = NameError;

    fn try_from(written: RawNames) -> Result<Self, NameError> {
        let default = Self::default();
        let form = &default.groups_form;
        let bytes = match written.groups_bytes {
            None => form.bytes,
            Some(bytes @ 1..=MAX_GROUPS_BYTES) => usize::try_from(bytes).unwrap_or(form.bytes),
            Some(_) => return Err(NameError::GroupsBytes),
        };
        let names = Self {
            groups_form: GroupsForm {
                format: written.groups_format,
                bytes,
            },
            user: parse("user", written.user, default.user)?,
            email: parse("email", written.email, default.email)?,
            preferred_username: parse(
                "preferred_username",
                written.preferred_username,
                default.preferred_username,
            )?,
            groups: parse("groups", written.groups, default.groups)?,
            provider: parse("provider", written.provider, default.provider)?,
            signed: match written.signed {
                Some(signed) => signed.checked()?,
                None => None,
            },
            fields: written
                .fields
                .into_iter()
                .map(|(text, value)| Ok((name(&format!("fields.{text}"), text)?, value)))
                .collect::<Result<_, _>>()?,
        };
        names.check_distinct()?;
        Ok(names)
    }
}

impl AssertionNames {
    /// Refuses two fields with the same normalized name, because many apps read only one of the
    /// two.
    fn check_distinct(&self) -> Result<(), NameError> {
        let keyed = [
            ("user", &self.user),
            ("email", &self.email),
            ("preferred_username", &self.preferred_username),
            ("groups", &self.groups),
            ("provider", &self.provider),
        ];
        let keyed = keyed
            .into_iter()
            .filter_map(|(key, name)| Some((key.to_owned(), name.as_ref()?)));
        let signed = self.signed.iter();
        let signed = signed.map(|signed| ("signed.field".to_owned(), &signed.field));
        let fields = self.fields.iter();
        let fields = fields.map(|(name, _)| (format!("fields.{name}"), name));
        let mut seen = Vec::new();
        for (key, name) in keyed.chain(signed).chain(fields) {
            let folded = fold(name);
            if seen.contains(&folded) {
                return Err(NameError::Duplicate { key });
            }
            seen.push(folded);
        }
        Ok(())
    }
}

fn parse(
    key: &str,
    written: Option<String>,
    default: Option<HeaderName>,
) -> Result<Option<HeaderName>, NameError> {
    match written {
        None => Ok(default),
        Some(written) if written.is_empty() => Ok(None),
        Some(written) => name(key, written).map(Some),
    }
}

fn name(key: &str, written: String) -> Result<HeaderName, NameError> {
    let name = FieldName::try_from(written).map(FieldName::into_name);
    name.map_err(|error| NameError::Name {
        key: key.to_owned(),
        error,
    })
}

/// Returns the assertion fields of a request with their values. If a field has no value, the caller
/// must not add the field to the request. The caller has already removed the fields that the client
/// sent with the names of assertion fields.
///
/// `X-Forwarded-User` contains the subject. The email address is sent only if the provider has
/// verified it, because apps use the address as a login name. A field has no value if nobody is
/// signed in or if the identity does not contain the claim. The groups field can have several
/// values, but the function returns only its first value.
pub(crate) fn assertions<'a>(
    names: &'a AssertionNames,
    identity: Option<&'a Identity>,
    groups: &'a [HeaderValue],
    provider: Option<&'a Claim>,
) -> impl Iterator<Item = (&'a HeaderName, Option<&'a HeaderValue>)> {
    let email = identity.and_then(Identity::verified_email);
    let claims = [
        (&names.user, identity.and_then(|who| who.subject.as_ref())),
        (&names.email, email),
        (
            &names.preferred_username,
            identity.and_then(|who| who.preferred_username.as_ref()),
        ),
        (&names.provider, provider),
    ];
    let fields = claims
        .into_iter()
        .filter_map(|(name, claim)| Some((name.as_ref()?, claim.map(Claim::as_value))));
    let groups = names.groups.iter().map(|name| (name, groups.first()));
    fields.chain(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Email;

    fn alice(verified: bool) -> Identity {
        let claim = |text| Claim::new(text).unwrap();
        Identity {
            subject: Some(claim("42")),
            email: Some(Email {
                address: claim("alice@example.org"),
                verified,
            }),
            preferred_username: Some(claim("alice")),
            ..Identity::nameless("op")
        }
        .with_groups([claim("staff"), claim("admins")])
    }

    fn names(json: &str) -> Result<AssertionNames, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    fn written(names: &AssertionNames, identity: Option<&Identity>) -> Vec<String> {
        let line = |(name, value): (&HeaderName, Option<&HeaderValue>)| {
            Some(format!("{name}: {}", value?.to_str().unwrap()))
        };
        let report = |left_out| assert_eq!(left_out, 0);
        let groups = identity.map(|who| who.groups.field(names.groups_form, report));
        let groups = groups.unwrap_or_default();
        let fields = assertions(names, identity, &groups, None);
        let mut lines: Vec<String> = fields.filter_map(line).collect();
        lines.sort();
        lines
    }

    #[test]
    fn every_claim_has_its_field() {
        assert_eq!(
            written(&AssertionNames::default(), Some(&alice(true))),
            [
                "x-forwarded-email: alice@example.org",
                "x-forwarded-groups: staff,admins",
                "x-forwarded-preferred-username: alice",
                "x-forwarded-user: 42",
            ]
        );
    }

    #[test]
    fn an_unverified_email_is_not_asserted() {
        let lines = written(&AssertionNames::default(), Some(&alice(false)));
        assert!(lines.iter().all(|line| !line.contains("email")));
    }

    #[test]
    fn an_absent_claim_removes_its_field() {
        let names = AssertionNames::default();
        let nameless = Identity::nameless("op");
        for identity in [Some(&nameless), None] {
            let written: Vec<_> = assertions(&names, identity, &[], None).collect();
            let mut expected: Vec<_> = names.iter().collect();
            let mut cleared: Vec<_> = written.iter().map(|(name, _)| *name).collect();
            expected.sort_by_key(|name| name.as_str());
            cleared.sort_by_key(|name| name.as_str());
            assert_eq!(cleared, expected);
            assert!(written.iter().all(|(_, value)| value.is_none()));
        }
    }

    #[test]
    fn names_can_be_changed_and_claims_left_out() {
        let names = names(r#"{"user": "Remote-User", "email": "", "groups": ""}"#).unwrap();
        assert_eq!(
            written(&names, Some(&alice(true))),
            ["remote-user: 42", "x-forwarded-preferred-username: alice"]
        );
        assert_eq!(names.iter().count(), 2);
    }

    #[test]
    fn the_provider_has_a_field_only_where_one_is_set() {
        let provider = Claim::new("staff").unwrap();
        let sent = |names: &AssertionNames, provider: Option<&Claim>| {
            let mut written = assertions(names, None, &[], provider);
            let fields = written.find(|(name, _)| *name == "x-forwarded-provider");
            fields.map(|(_, value)| value.cloned())
        };
        let fields = names(r#"{"provider": "X-Forwarded-Provider"}"#).unwrap();
        assert_eq!(sent(&fields, Some(&provider)).unwrap().unwrap(), "staff");
        assert_eq!(sent(&fields, None), Some(None));
        assert_eq!(fields.iter().count(), 5);
        // `assertions` returns only the configured fields.
        let without_provider = names("{}").unwrap();
        assert_eq!(sent(&without_provider, Some(&provider)), None);
        assert_eq!(without_provider, names(r#"{"provider": ""}"#).unwrap());
        assert!(names(r#"{"provider": "X_Forwarded_User"}"#).is_err());
    }

    #[test]
    fn the_form_of_the_groups_is_a_setting() {
        let form = |json: &str| names(json).map(|names| names.groups_form);
        assert_eq!(form("{}").unwrap(), GroupsForm::default());
        let json = form(r#"{"groups_format": "json", "groups_bytes": 9}"#).unwrap();
        assert_eq!((json.format, json.bytes), (GroupsFormat::Json, 9));
        for bytes in ["0", "65537"] {
            let error = form(&format!(r#"{{"groups_bytes": {bytes}}}"#)).unwrap_err();
            assert!(error.contains("between 1 and 65536"), "{error}");
        }
    }

    #[test]
    fn fields_with_another_meaning_cannot_carry_a_claim() {
        for name in [
            "Host",
            "Content-Length",
            "transfer-encoding",
            "Transfer_Encoding",
            "Connection",
            "Cookie",
            "Authorization",
            "X_Forwarded_For",
        ] {
            let error = names(&format!(r#"{{"user": "{name}"}}"#)).unwrap_err();
            assert!(error.contains("user names a field"), "{name}: {error}");
        }
        assert!(names(r#"{"email": "a b"}"#).unwrap_err().contains("email"));
        assert!(names(r#"{"mail": "X-Mail"}"#).is_err());
    }

    #[test]
    fn two_claims_cannot_share_a_field() {
        for json in [
            r#"{"user": "X-A", "email": "x-a"}"#,
            r#"{"user": "X-A", "email": "X_A"}"#,
            r#"{"user": "X-Forwarded-Email"}"#,
        ] {
            assert!(names(json).unwrap_err().contains("another claim"), "{json}");
        }
    }
}
