//! What the payload of a token has to say before it is believed (RFC 7519 section 4.1).
//!
//! A claim of an unexpected type is a reason to refuse, never to skip the check.

use std::time::Duration;

use serde_json::Value;

use super::json::{Object, quoted_number};
use super::jwt::AccessTokenError;
use super::settings::Settings;
use crate::clock::Timestamp;

/// The last date that is believed: the end of the year 9999, in seconds.
const LAST_DATE: f64 = 253_402_300_799.0;
/// The longest subject, in characters (OpenID Connect Core 1.0 section 2).
const LONGEST_SUBJECT: usize = 255;

/// Believed claims.
#[derive(Debug)]
pub(super) struct Claims {
    pub(super) expires_at: Timestamp,
    pub(super) members: Object,
}

/// What is asked of the claims of one server's tokens.
#[derive(Debug)]
pub(super) struct Rules {
    audience: String,
    issuer: Option<String>,
    leeway: Duration,
    quoted_dates: bool,
}

impl Rules {
    pub(super) fn new(settings: &Settings) -> Self {
        let access_token = &settings.access_token;
        Self {
            audience: access_token
                .audience
                .as_ref()
                .unwrap_or(&settings.client_id)
                .clone(),
            issuer: access_token.issuer.clone(),
            leeway: Duration::from_secs(access_token.leeway_secs.into()),
            quoted_dates: access_token.quoted_dates,
        }
    }

    /// Checks audience, issuer, dates and subject.
    pub(super) fn check(
        &self,
        members: Object,
        now: Timestamp,
    ) -> Result<Claims, AccessTokenError> {
        self.check_audience(&members)?;
        self.check_issuer(&members)?;
        let expires_at = self.check_dates(&members, now)?;
        check_subject(&members)?;
        Ok(Claims {
            expires_at,
            members,
        })
    }

    /// `aud` is a text or an array of nothing but texts, and we are it or among them.
    fn check_audience(&self, members: &Object) -> Result<(), AccessTokenError> {
        let one = std::slice::from_ref;
        let audiences = match members.get("aud") {
            Some(text @ Value::String(_)) => one(text),
            Some(Value::Array(audiences)) => audiences,
            _ => return Err(AccessTokenError::Claim("aud")),
        };
        if !audiences.iter().all(Value::is_string) {
            return Err(AccessTokenError::Claim("aud"));
        }
        audiences
            .iter()
            .any(|audience| audience.as_str() == Some(&self.audience))
            .then_some(())
            .ok_or(AccessTokenError::Audience)
    }

    fn check_issuer(&self, members: &Object) -> Result<(), AccessTokenError> {
        match (members.get("iss"), &self.issuer) {
            (None | Some(Value::String(_)), None) => Ok(()),
            (Some(Value::String(said)), Some(wanted)) if said == wanted => Ok(()),
            (Some(Value::String(_)), Some(_)) => Err(AccessTokenError::Issuer),
            (_, _) => Err(AccessTokenError::Claim("iss")),
        }
    }

    /// `exp` has to be there and ahead, `nbf` and `iat` may be there and must not be ahead; the
    /// leeway counts for all. What begins after its end was never valid.
    fn check_dates(&self, members: &Object, now: Timestamp) -> Result<Timestamp, AccessTokenError> {
        let expires_at = self.date(members, "exp")?;
        let expires_at = expires_at.ok_or(AccessTokenError::Claim("exp"))?;
        if expires_at.plus(self.leeway) <= now {
            return Err(AccessTokenError::Expired);
        }
        for name in ["nbf", "iat"] {
            let Some(date) = self.date(members, name)? else {
                continue;
            };
            if date > now.plus(self.leeway) {
                return Err(AccessTokenError::NotYet(name));
            }
            if date > expires_at {
                return Err(AccessTokenError::Claim(name));
            }
        }
        Ok(expires_at)
    }

    /// A `NumericDate`, with a fraction or without (RFC 7519 section 2).
    fn date(
        &self,
        members: &Object,
        name: &'static str,
    ) -> Result<Option<Timestamp>, AccessTokenError> {
        let seconds = match members.get(name) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) if self.quoted_dates => quoted_number(text),
            Some(_) => None,
        };
        seconds
            .filter(|seconds| *seconds > 0.0 && *seconds <= LAST_DATE)
            .map(|seconds| Some(Timestamp::from_seconds(seconds)))
            .ok_or(AccessTokenError::Claim(name))
    }
}

/// `sub` names somebody. A token for the client itself (client credentials) has an empty one at
/// some servers.
fn check_subject(members: &Object) -> Result<(), AccessTokenError> {
    let subject = members.get("sub").and_then(Value::as_str);
    subject
        .filter(|subject| !subject.is_empty() && !subject.contains(char::is_control))
        .filter(|subject| subject.chars().count() <= LONGEST_SUBJECT)
        .map(drop)
        .ok_or(AccessTokenError::Claim("sub"))
}
