//! Signed assertions: short-lived JSON Web Tokens (RFC 7519) that tell an app who is signed in.
//!
//! A client that reaches the app without the gateway can write any assertion field. Such a client
//! cannot create a signed assertion.

mod keys;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};

pub(crate) use self::keys::SigningKeys;
use super::{NameError, parse};
use crate::clock::Timestamp;
use crate::identity::{Identity, ListedClaim, ListedClaims};

/// The name of the field, if the settings have the table `signed` without the key `field`.
const DEFAULT_FIELD: HeaderName = HeaderName::from_static("x-sidegate-assertion");

/// The default lifetime of a signed assertion, in seconds.
const DEFAULT_LIFETIME: u64 = 60;

/// The limits of the lifetime, in seconds.
const LIFETIMES: std::ops::RangeInclusive<u64> = 10..=3600;

/// The settings of the signed assertion for one app, or for all apps.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct SignedSettings {
    pub(crate) field: HeaderName,
    /// The audience. By default, the audience is the name of the upstream.
    pub(crate) audience: Option<Box<str>>,
    lifetime: Duration,
    claims: Vec<ListedClaim>,
}

/// The table `signed` in the settings.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSigned {
    field: Option<String>,
    audience: Option<String>,
    lifetime_secs: Option<u64>,
    claims: Option<Vec<ListedClaim>>,
}

impl RawSigned {
    /// Checks the table. Returns `None` if the field has the name `""`, so that the app gets no
    /// signed assertion.
    pub(super) fn checked(self) -> Result<Option<SignedSettings>, NameError> {
        let Some(field) = parse("signed.field", self.field, Some(DEFAULT_FIELD))? else {
            let others = self.audience.is_some() || self.lifetime_secs.is_some();
            return if others || self.claims.is_some() {
                Err(NameError::UnusedSigned)
            } else {
                Ok(None)
            };
        };
        if self.audience.as_deref() == Some("") {
            return Err(NameError::Audience);
        }
        let lifetime = self.lifetime_secs.unwrap_or(DEFAULT_LIFETIME);
        if !LIFETIMES.contains(&lifetime) {
            return Err(NameError::Lifetime);
        }
        let default = || {
            vec![
                ListedClaim::Email,
                ListedClaim::PreferredUsername,
                ListedClaim::Groups,
            ]
        };
        Ok(Some(SignedSettings {
            field,
            audience: self.audience.map(Into::into),
            lifetime: Duration::from_secs(lifetime),
            claims: self.claims.unwrap_or_else(default),
        }))
    }
}

/// The assertions that the gateway signs for one app.
#[derive(Debug)]
pub(crate) struct SignedAssertion {
    id: u64,
    settings: SignedSettings,
    /// The first public URL.
    issuer: Box<str>,
    audience: Box<str>,
    /// The maximum length of the list of groups, in bytes of JSON.
    groups_bytes: usize,
    keys: Arc<SigningKeys>,
}

/// The id that the next [`SignedAssertion`] value gets.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// The request for which an assertion is signed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignedRequest<'a> {
    pub(crate) method: &'a Method,
    /// The canonical authority of the request.
    pub(crate) host: &'a HeaderValue,
    /// The configured name of the provider at which the user signed in.
    pub(crate) provider: &'a str,
}

/// The claims of an assertion (RFC 7519 section 4).
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
    provider: &'a str,
    host: &'a str,
    method: &'a str,
    #[serde(flatten)]
    listed: ListedClaims<'a>,
}

impl SignedAssertion {
    /// Creates the assertions of the app with the name `upstream`. `groups_bytes` is the maximum
    /// length of the list of groups, in bytes of JSON.
    pub(crate) fn new(
        settings: &SignedSettings,
        upstream: &str,
        groups_bytes: usize,
        (issuer, keys): (&str, &Arc<SigningKeys>),
    ) -> Self {
        let audience = settings.audience.as_deref().unwrap_or(upstream);
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            settings: settings.clone(),
            issuer: issuer.into(),
            audience: audience.into(),
            groups_bytes,
            keys: Arc::clone(keys),
        }
    }

    /// Returns a number that no other value of the process has.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The audience of the assertions.
    pub(crate) fn audience(&self) -> &str {
        &self.audience
    }

    /// The name of the field.
    pub(crate) fn field(&self) -> &HeaderName {
        &self.settings.field
    }

    /// Returns the time until which an assertion that is signed now may be sent again. Every
    /// assertion that an app gets is valid for at least half of the lifetime.
    pub(crate) fn reusable_until(&self, now: Timestamp) -> Timestamp {
        now.plus(self.settings.lifetime.checked_div(2).unwrap_or_default())
    }

    /// Signs an assertion about `identity` for one method and one host. Calls `report` with the
    /// number of groups that the assertion leaves out. Returns `None` if the identity has no
    /// subject.
    pub(crate) fn sign(
        &self,
        identity: &Identity,
        request: SignedRequest<'_>,
        now: Timestamp,
        report: impl FnOnce(usize),
    ) -> Option<HeaderValue> {
        let subject = identity.subject.as_ref()?.as_str();
        let listed = ListedClaims::of(identity, &self.settings.claims);
        let mut listed = listed.with_verified_email_only();
        if let Some(groups) = &mut listed.groups {
            let all = groups.len();
            self.shorten(groups);
            report(all.saturating_sub(groups.len()));
        }
        let claims = Claims {
            iss: &self.issuer,
            sub: subject,
            aud: &self.audience,
            iat: now.as_secs(),
            exp: now.plus(self.settings.lifetime).as_secs(),
            provider: request.provider,
            host: request.host.to_str().ok()?,
            method: request.method.as_str(),
            listed,
        };
        self.keys.sign(&claims)
    }

    /// Keeps the names of groups whose JSON array fits into the maximum length.
    fn shorten(&self, groups: &mut Vec<&str>) {
        // The array needs two bytes for its brackets, and a comma before each name except the first
        // name.
        let mut left = self.groups_bytes.saturating_sub(1);
        groups.retain(|name| {
            let length = serde_json::to_vec(name).map_or(usize::MAX, |json| json.len());
            let rest = left.checked_sub(length.saturating_add(1));
            left = rest.unwrap_or(left);
            rest.is_some()
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::keys::tests::{keys, new_key, verified};
    use super::*;
    use crate::identity::{Claim, Email};
    use crate::upstream::AssertionNames;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_999);

    fn alice(verified: bool) -> Identity {
        let claim = |text| Claim::new(text).unwrap();
        Identity {
            subject: Some(claim("42")),
            email: Some(Email {
                address: claim("alice@example.org"),
                verified,
            }),
            preferred_username: Some(claim("alice")),
            name: Some(claim("Zoë")),
            ..Identity::nameless("op")
        }
        .with_groups([claim("staff"), claim("a \"b\" \\"), claim("a,b")])
    }

    fn settings(json: &str) -> Result<Option<SignedSettings>, String> {
        let names = serde_json::from_str::<AssertionNames>(&format!(r#"{{"signed": {json}}}"#));
        names
            .map(|names| names.signed)
            .map_err(|error| error.to_string())
    }

    /// The claims of an assertion about `identity` for a POST request. The groups may have 15 bytes.
    fn claims(json: &str, identity: &Identity) -> Option<Value> {
        claims_with(json, identity, 15).0
    }

    /// Returns also the reported numbers of left-out groups.
    fn claims_with(
        json: &str,
        identity: &Identity,
        groups_bytes: usize,
    ) -> (Option<Value>, Vec<usize>) {
        let keys = Arc::new(keys(&[&new_key()]));
        let settings = settings(json).unwrap().unwrap();
        let issuer = ("https://gw.test", &keys);
        let assertion = SignedAssertion::new(&settings, "wiki", groups_bytes, issuer);
        let request = SignedRequest {
            method: &Method::POST,
            host: &HeaderValue::from_static("wiki.test"),
            provider: "main",
        };
        let mut reported = Vec::new();
        let token = assertion.sign(identity, request, NOW, |count| reported.push(count));
        let set: Value = serde_json::from_str(&keys.key_set()).unwrap();
        let claims = token.map(|token| verified(&token, &set["keys"][0]).unwrap().1);
        (claims, reported)
    }

    #[test]
    fn the_groups_are_limited_in_bytes_of_json_and_left_out_groups_are_reported() {
        for (bytes, expected) in [
            // `["staff","a \"b\" \\","a,b"]`
            (28, json!(["staff", "a \"b\" \\", "a,b"])),
            (27, json!(["staff", "a \"b\" \\"])),
            (22, json!(["staff", "a \"b\" \\"])),
            (21, json!(["staff", "a,b"])),
            (15, json!(["staff", "a,b"])),
            (14, json!(["staff"])),
            (1, json!([])),
        ] {
            let (claims, reported) = claims_with("{}", &alice(true), bytes);
            let groups = &claims.unwrap()["groups"];
            assert_eq!(*groups, expected, "{bytes}");
            let length = groups.to_string().len();
            assert!(length <= bytes || bytes == 1, "{bytes}: {groups}");
            let left_out = 3 - expected.as_array().unwrap().len();
            assert_eq!(reported, [left_out], "{bytes}");
        }
        let (claims, reported) = claims_with(r#"{"claims": ["name"]}"#, &alice(true), 1);
        assert_eq!(
            (&claims.unwrap()["groups"], reported),
            (&Value::Null, vec![])
        );
    }

    #[test]
    fn h_44_an_assertion_is_bound_to_app_host_method_and_time() {
        let expected = json!({
            "iss": "https://gw.test", "sub": "42", "aud": "wiki",
            "iat": 1_800_000_000_u64, "exp": 1_800_000_060_u64,
            "provider": "main", "host": "wiki.test", "method": "POST",
            "email": "alice@example.org", "email_verified": true,
            "preferred_username": "alice",
            "groups": ["staff", "a,b"],
        });
        assert_eq!(claims("{}", &alice(true)).unwrap(), expected);
        let changed = r#"{"audience": "urn:x", "lifetime_secs": 10, "claims": ["name"]}"#;
        let expected = json!({
            "iss": "https://gw.test", "sub": "42", "aud": "urn:x",
            "iat": 1_800_000_000_u64, "exp": 1_800_000_010_u64,
            "provider": "main", "host": "wiki.test", "method": "POST", "name": "Zoë",
        });
        assert_eq!(claims(changed, &alice(true)).unwrap(), expected);
    }

    #[test]
    fn claims_that_a_user_does_not_have_are_left_out() {
        let unverified = claims("{}", &alice(false)).unwrap();
        assert_eq!(
            (&unverified["email"], &unverified["email_verified"]),
            (&Value::Null, &Value::Null)
        );
        let with_subject = Identity {
            subject: Claim::new("42"),
            ..Identity::nameless("op")
        };
        let few = claims("{}", &with_subject).unwrap();
        assert_eq!(
            (&few["preferred_username"], &few["groups"]),
            (&Value::Null, &json!([]))
        );
        // Without a subject, an assertion would name no user.
        assert_eq!(claims("{}", &Identity::nameless("op")), None);
    }

    #[test]
    fn settings_of_a_signed_assertion_are_checked() {
        let default = settings("{}").unwrap().unwrap();
        assert_eq!(default.field, "x-sidegate-assertion");
        assert_eq!(settings(r#"{"field": ""}"#).unwrap(), None);
        let names = serde_json::from_str::<AssertionNames>("{}").unwrap();
        assert_eq!(names.signed, None);
        for (json, said) in [
            (
                r#"{"field": "Authorization"}"#,
                "signed.field names a field",
            ),
            (r#"{"field": "X_Forwarded_User"}"#, "has the same field as"),
            (r#"{"field": "", "audience": "a"}"#, "leave the other keys"),
            (r#"{"field": "", "claims": []}"#, "leave the other keys"),
            (r#"{"audience": ""}"#, "signed.audience is empty"),
            (r#"{"lifetime_secs": 9}"#, "between 10 and 3600"),
            (r#"{"lifetime_secs": 3601}"#, "between 10 and 3600"),
            (r#"{"claims": ["mail"]}"#, "unknown variant `mail`"),
            (r#"{"audiences": "a"}"#, "unknown field `audiences`"),
        ] {
            let error = settings(json).unwrap_err();
            assert!(error.contains(said), "{json}: {error}");
        }
    }
}
