//! Turns believed claims into an [`Identity`].

use serde_json::Value;

use super::json::Object;
use super::settings::{ClaimNames, EmailsVerified, IdentitySettings};
use crate::identity::{Claim, Email, Identity};

/// The longest subject, in characters.
const LONGEST_SUBJECT: usize = 255;
/// The most groups that are taken; more are as good as not there, never as more rights.
const MOST_GROUPS: usize = 1000;

/// What claims are called at one server, and who the issuer of its subjects is.
#[derive(Debug)]
pub(super) struct Naming {
    issuer: Box<str>,
    names: ClaimNames,
    emails_verified: EmailsVerified,
}

impl Naming {
    pub(super) fn new(issuer: &str, settings: &IdentitySettings) -> Self {
        Self {
            issuer: issuer.into(),
            names: settings.claims.clone(),
            emails_verified: settings.emails_verified,
        }
    }

    /// The identity that everybody has where claims are not read.
    pub(super) fn nameless(&self) -> Identity {
        Identity::nameless(&self.issuer)
    }

    /// The identity in `members`; `None` without a subject. Claims of an unexpected type or with
    /// characters that a field cannot carry are absent.
    pub(super) fn identity(&self, members: &Object) -> Option<Identity> {
        let names = &self.names;
        let text = |name: &str| Claim::new(find(members, name)?.as_str()?);
        let identity = Identity {
            subject: Some(subject(find(members, &names.subject)?)?),
            email: text(&names.email).map(|address| Email {
                address,
                verified: self.is_verified(members),
            }),
            preferred_username: text(&names.preferred_username),
            name: text(&names.name),
            ..self.nameless()
        };
        Some(identity.with_groups(groups(find(members, &names.groups))))
    }

    fn is_verified(&self, members: &Object) -> bool {
        let claim = find(members, &self.names.email_verified);
        match self.emails_verified {
            EmailsVerified::Always => true,
            EmailsVerified::Claim => claim == Some(&Value::Bool(true)),
            EmailsVerified::Timestamp => claim.is_some_and(is_time),
        }
    }
}

/// A claim by its whole name, or by a path with dots.
fn find<'a>(members: &'a Object, name: &str) -> Option<&'a Value> {
    if name.is_empty() {
        return None;
    }
    members.get(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        let first = members.get(first)?;
        rest.split('.')
            .try_fold(first, |value, part| value.as_object()?.get(part))
    })
}

/// Text, or a whole number as its digits: database keys are numbers in many a userinfo answer.
fn subject(value: &Value) -> Option<Claim> {
    match value {
        Value::String(text) => Claim::new(text),
        Value::Number(number) if !number.is_f64() => Claim::new(&number.to_string()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    }
    .filter(|subject| subject.as_str().chars().count() <= LONGEST_SUBJECT)
}

fn groups(value: Option<&Value>) -> Vec<Claim> {
    let texts: &[Value] = match value {
        Some(Value::Array(groups)) => groups,
        Some(text @ Value::String(_)) => std::slice::from_ref(text),
        None | Some(_) => &[],
    };
    let texts = texts.iter().take(MOST_GROUPS);
    texts
        .filter_map(|text| Claim::new(text.as_str()?))
        .collect()
}

/// A date as text (it begins with a year), or seconds since the epoch.
fn is_time(value: &Value) -> bool {
    match value {
        Value::String(text) => {
            let year = text.as_bytes().get(..4);
            year.is_some_and(|year| year.iter().all(u8::is_ascii_digit))
                && !text.starts_with("0000")
        }
        Value::Number(number) => number.as_f64().is_some_and(|seconds| seconds > 0.0),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn identity(settings: &IdentitySettings, members: Value) -> Option<Identity> {
        let Value::Object(members) = members else {
            panic!("not an object");
        };
        Naming::new("op", settings).identity(&members)
    }

    fn settings(value: Value) -> IdentitySettings {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_laravel_user_is_somebody() {
        let settings = settings(json!({
            "source": "userinfo",
            "emails_verified": "timestamp",
            "claims": { "subject": "id", "email_verified": "email_verified_at" },
        }));
        let mut user = json!({
            "id": 17, "name": "Alice", "email": "alice@example.com",
            "email_verified_at": "2023-07-18T20:48:13.000000Z", "created_at": null,
        });
        let alice = identity(&settings, user.clone()).unwrap();
        assert_eq!(alice.subject.as_ref().unwrap().as_str(), "17");
        assert_eq!(alice.label(), Some("Alice"));
        assert!(alice.email.unwrap().verified);
        for unverified in [
            json!(null),
            json!(""),
            json!(false),
            json!(true),
            json!("never"),
        ] {
            user["email_verified_at"] = unverified;
            assert!(
                !identity(&settings, user.clone())
                    .unwrap()
                    .email
                    .unwrap()
                    .verified
            );
        }
    }

    #[test]
    fn claims_are_found_by_path_and_by_names_with_dots() {
        let settings = settings(json!({ "claims": {
            "subject": "data.user.id",
            "groups": "https://example.com/groups",
            "name": "",
        }}));
        let found = identity(
            &settings,
            json!({
                "data": { "user": { "id": "a" } },
                "https://example.com/groups": ["x"],
                "": "nobody",
            }),
        );
        let found = found.unwrap();
        assert_eq!(found.subject.unwrap().as_str(), "a");
        assert_eq!(found.groups_value.unwrap().as_str(), "x");
        assert!(found.name.is_none());
    }

    #[test]
    fn j_68_without_a_usable_subject_there_is_nobody() {
        let long = "x".repeat(256);
        for sub in [
            json!(null),
            json!(""),
            json!(1.5),
            json!(true),
            json!("a\r\nb"),
            json!(long),
            json!([1]),
        ] {
            assert!(
                identity(&IdentitySettings::default(), json!({ "sub": sub })).is_none(),
                "{sub}"
            );
        }
        assert!(identity(&IdentitySettings::default(), json!({})).is_none());
    }

    #[test]
    fn j_75_only_true_verifies_an_email() {
        for (said, verified) in [
            (json!(true), true),
            (json!("true"), false),
            (json!(1), false),
            (json!(null), false),
            (json!("2023-07-18"), false),
        ] {
            let members = json!({ "sub": "1", "email": "a@b", "email_verified": said });
            let found = identity(&IdentitySettings::default(), members).unwrap();
            assert_eq!(found.email.unwrap().verified, verified, "{said}");
        }
        let always = settings(json!({ "emails_verified": "always" }));
        let found = identity(&always, json!({ "sub": "1", "email": "a@b" })).unwrap();
        assert!(found.email.unwrap().verified);
    }

    #[test]
    fn j_76_claims_of_an_unexpected_kind_are_absent() {
        let found = identity(
            &IdentitySettings::default(),
            json!({
                "sub": "1", "name": { "a": 1 }, "email": "a\r\nX-User: root", "__proto__": "x",
                "preferred_username": ["root"], "groups": ["a", 5, { "b": 1 }, "c,admin", "d\n", "e"],
            }),
        );
        let found = found.unwrap();
        assert!(found.name.is_none() && found.email.is_none());
        assert!(found.preferred_username.is_none());
        assert_eq!(found.groups_value.unwrap().as_str(), "a,e");
        let single = json!({ "sub": "1", "groups": "admin" });
        let single = identity(&IdentitySettings::default(), single).unwrap();
        assert_eq!(single.groups_value.unwrap().as_str(), "admin");
        let many: Vec<String> = (0..100_000).map(|n| n.to_string()).collect();
        let many = json!({ "sub": "1", "groups": many });
        let many = identity(&IdentitySettings::default(), many).unwrap();
        assert_eq!(many.groups.len(), MOST_GROUPS);
    }
}
