//! Maps verified claims to an [`Identity`].

use serde_json::Value;

use super::json::Object;
use super::settings::{ClaimNames, EmailsVerified, IdentitySettings};
use crate::identity::{Claim, Email, Identity};

/// The maximum length of a subject, in characters.
const MAX_SUBJECT: usize = 255;
/// The maximum number of groups. Additional groups are ignored, which can only reduce the rights of
/// the user.
const MAX_GROUPS: usize = 1000;

/// The names of the claims at one provider.
#[derive(Debug)]
pub(super) struct ClaimMapping {
    names: ClaimNames,
    emails_verified: EmailsVerified,
}

impl ClaimMapping {
    pub(super) fn new(settings: &IdentitySettings) -> Self {
        Self {
            names: settings.claims.clone(),
            emails_verified: settings.emails_verified,
        }
    }

    /// Combines the claims of several sources into the identity at `issuer`. Returns `None` if
    /// there is no usable subject. If several sources contain a claim, the first of them is used.
    /// The ID token is the first source, before the userinfo. The caller has checked that all
    /// sources have the same subject. A claim is ignored if it has an unexpected type, or
    /// characters that are not allowed in a field.
    pub(super) fn identity(&self, sources: &[&Object], issuer: &str) -> Option<Identity> {
        let names = &self.names;
        if self.groups_are_elsewhere(sources) {
            // Because no group of the user is known, a rule that requires a group refuses the user.
            // The log shows the reason to the operator.
            tracing::warn!(
                issuer,
                claim = &*names.groups,
                "The user has too many groups for a token, so no group is known"
            );
        }
        let identity = Identity {
            subject: Some(subject(first(sources, &names.subject)?)?),
            email: self.email(sources),
            preferred_username: text(first(sources, &names.preferred_username)),
            name: text(first(sources, &names.name)),
            ..Identity::nameless(issuer)
        };
        Some(identity.with_groups(groups(first(sources, &names.groups))))
    }

    fn email(&self, sources: &[&Object]) -> Option<Email> {
        let value = first(sources, &self.names.email)?;
        let address = text(Some(value))?;
        // If a source states that an address is verified, the statement applies only to the address
        // in the same source.
        let mut naming = sources
            .iter()
            .filter(|members| find(members, &self.names.email) == Some(value));
        let verified = naming.any(|members| self.is_verified(members));
        Some(Email { address, verified })
    }

    fn is_verified(&self, members: &Object) -> bool {
        let claim = find(members, &self.names.email_verified);
        match self.emails_verified {
            EmailsVerified::Always => true,
            EmailsVerified::Claim => claim == Some(&Value::Bool(true)),
            EmailsVerified::Timestamp => claim.is_some_and(is_time),
        }
    }

    /// Returns true if the groups are not in the token, but at another URL that the token names
    /// (OpenID Connect Core 1.0 section 5.6.2). Providers do this if a user has too many groups for
    /// a token. The gateway never fetches the groups from this URL.
    fn groups_are_elsewhere(&self, sources: &[&Object]) -> bool {
        let claim = &*self.names.groups;
        let top = claim.split('.').next().unwrap_or_default();
        let elsewhere = sources.iter().any(|members| {
            let names = members.get("_claim_names").and_then(Value::as_object);
            names.is_some_and(|names| names.contains_key(claim) || names.contains_key(top))
        });
        elsewhere && first(sources, claim).is_none()
    }
}

/// Returns the value of a claim from the first source that contains the claim. A claim with the
/// value null is ignored.
fn first<'a>(sources: &[&'a Object], name: &str) -> Option<&'a Value> {
    let mut found = sources.iter().filter_map(|members| find(members, name));
    found.find(|value| !value.is_null())
}

fn text(value: Option<&Value>) -> Option<Claim> {
    Claim::new(value?.as_str()?)
}

/// Finds a claim by its full name, or by a path with dots such as `data.user.id`.
fn find<'a>(members: &'a Object, name: &str) -> Option<&'a Value> {
    if name.is_empty() {
        return None;
    }
    // The full name is tried first, because names such as `https://example.com/groups` contain
    // dots.
    members.get(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        let first = members.get(first)?;
        rest.split('.')
            .try_fold(first, |value, part| value.as_object()?.get(part))
    })
}

/// Reads a subject from a string or a whole number. In many userinfo responses, the subject is a
/// numeric database key.
fn subject(value: &Value) -> Option<Claim> {
    match value {
        Value::String(text) => Claim::new(text),
        // A number with a fraction or a very large number may be rounded. After rounding, two users
        // could have the same subject.
        Value::Number(number) if !number.is_f64() => Claim::new(&number.to_string()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    }
    .filter(|subject| subject.as_str().chars().count() <= MAX_SUBJECT)
}

/// Reads the groups from an array of strings, from one string, or from the member names of an
/// object (Zitadel's roles). If the claim is an object, the name of a member is a group only if the
/// value of the member is an object, too. For example, the value `false` may mean that the user is
/// not in the group.
fn groups(value: Option<&Value>) -> Vec<Claim> {
    match value {
        Some(Value::Array(groups)) => claims(groups.iter().filter_map(Value::as_str)),
        Some(Value::String(group)) => claims([&**group].into_iter()),
        Some(Value::Object(groups)) => {
            let named = groups.iter().filter(|(_name, value)| value.is_object());
            claims(named.map(|(name, _value)| &**name))
        }
        None | Some(Value::Null | Value::Bool(_) | Value::Number(_)) => Vec::new(),
    }
}

fn claims<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Claim> {
    texts.take(MAX_GROUPS).filter_map(Claim::new).collect()
}

/// Returns true if the value is a time: a text that begins with a year, or a number of seconds
/// since the Unix epoch.
fn is_time(value: &Value) -> bool {
    match value {
        Value::String(text) => {
            let year = text.as_bytes().get(..4);
            year.is_some_and(|year| year.iter().all(u8::is_ascii_digit))
                // The year 0000 is excluded, because some databases use it for a missing date.
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
        ClaimMapping::new(settings).identity(&[&members], "op")
    }

    fn settings(value: Value) -> IdentitySettings {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_laravel_user_gives_an_identity() {
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

    /// Returns the identity from an ID token and a userinfo response.
    fn both(settings: &IdentitySettings, id_token: &Value, userinfo: &Value) -> Identity {
        let sources = [id_token, userinfo].map(|value| value.as_object().unwrap());
        ClaimMapping::new(settings)
            .identity(&sources, "https://id.example")
            .unwrap()
    }

    #[test]
    fn the_id_token_wins_and_the_userinfo_adds() {
        let settings = settings(json!({ "claims": { "groups": "access.roles" } }));
        let found = both(
            &settings,
            &json!({ "sub": "1", "name": "Alice", "preferred_username": null, "access": {} }),
            &json!({
                "sub": "1", "name": "Mallory", "preferred_username": "alice",
                "access": { "roles": ["a"] },
            }),
        );
        assert_eq!(&*found.issuer, "https://id.example");
        assert_eq!(found.name.unwrap().as_str(), "Alice");
        assert_eq!(found.preferred_username.unwrap().as_str(), "alice");
        assert_eq!(found.groups_value.unwrap().as_str(), "a");
        // If a claim of the ID token cannot be used, the same claim of the userinfo does not
        // replace it.
        let unusable = both(
            &settings,
            &json!({ "sub": "1", "name": ["Alice"] }),
            &json!({ "sub": "1", "name": "Mallory" }),
        );
        assert!(unusable.name.is_none());
    }

    #[test]
    fn j_75_only_the_source_of_an_address_can_verify_it() {
        let (a, b) = (json!("a@id.example"), json!("b@id.example"));
        let yes = json!(true);
        for (id_token, userinfo, verified) in [
            (
                json!({ "email": a, "email_verified": yes }),
                json!({}),
                true,
            ),
            (
                json!({ "email": a }),
                json!({ "email": a, "email_verified": yes }),
                true,
            ),
            (
                json!({}),
                json!({ "email": a, "email_verified": yes }),
                true,
            ),
            (
                json!({ "email": a }),
                json!({ "email": b, "email_verified": yes }),
                false,
            ),
            (
                json!({ "email": a }),
                json!({ "email_verified": yes }),
                false,
            ),
            (
                json!({ "email_verified": yes }),
                json!({ "email": a }),
                false,
            ),
        ] {
            let (mut id_token, userinfo) = (id_token, userinfo);
            id_token["sub"] = json!("1");
            let found = both(&IdentitySettings::default(), &id_token, &userinfo);
            let email = found.email.unwrap();
            assert_eq!(email.address.as_str(), "a@id.example");
            assert_eq!(email.verified, verified, "{id_token} {userinfo}");
        }
    }

    #[test]
    fn j_76_groups_may_be_the_names_of_an_object() {
        let claim = "urn:zitadel:iam:org:project:roles";
        let settings = settings(json!({ "claims": { "groups": claim } }));
        let roles = json!({
            "admin": { "271": "shop.example" }, "staff": {}, "a,b": {}, "x\n": {},
            "guest": false, "boss": null, "root": true, "king": "yes",
        });
        let found = identity(&settings, json!({ "sub": "1", claim: roles })).unwrap();
        assert_eq!(found.groups_value.unwrap().as_str(), "admin,staff");
        for unusable in [
            json!({}),
            json!(true),
            json!(5),
            json!([{ "name": "admin" }]),
        ] {
            let found = identity(&settings, json!({ "sub": "1", claim: unusable })).unwrap();
            assert!(found.groups.is_empty());
        }
    }

    #[test]
    fn groups_in_another_place_are_not_fetched() {
        let members = json!({
            "sub": "1", "_claim_names": { "groups": "src1" },
            "_claim_sources": { "src1": { "endpoint": "https://id.example/groups" } },
        });
        let found = identity(&IdentitySettings::default(), members.clone()).unwrap();
        assert!(found.groups.is_empty() && found.groups_value.is_none());
        let mapping = ClaimMapping::new(&IdentitySettings::default());
        let mut members = members.as_object().unwrap().clone();
        assert!(mapping.groups_are_elsewhere(&[&members]));
        members.insert("groups".to_owned(), json!(["a"]));
        assert!(!mapping.groups_are_elsewhere(&[&members]));
        let plain = json!({ "sub": "1", "_claim_names": "groups" });
        assert!(!mapping.groups_are_elsewhere(&[plain.as_object().unwrap()]));
    }

    #[test]
    fn j_68_without_a_usable_subject_there_is_no_identity() {
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
        for (claim, verified) in [
            (json!(true), true),
            (json!("true"), false),
            (json!(1), false),
            (json!(null), false),
            (json!("2023-07-18"), false),
        ] {
            let members = json!({ "sub": "1", "email": "a@b", "email_verified": claim });
            let found = identity(&IdentitySettings::default(), members).unwrap();
            assert_eq!(found.email.unwrap().verified, verified, "{claim}");
        }
        let always = settings(json!({ "emails_verified": "always" }));
        let found = identity(&always, json!({ "sub": "1", "email": "a@b" })).unwrap();
        assert!(found.email.unwrap().verified);
    }

    #[test]
    fn j_76_claims_of_an_unexpected_type_are_absent() {
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
        assert_eq!(many.groups.len(), MAX_GROUPS);
    }
}
