//! Reads the claims that every kind of token has (RFC 7519 section 4.1).
//!
//! If a claim has an unexpected type, the token is invalid.

use std::time::Duration;

use serde_json::Value;

use super::json::{Object, quoted_number};
use super::jwt::TokenError;
use crate::clock::Timestamp;

/// The latest accepted date: the end of the year 9999, in seconds.
const LAST_DATE: f64 = 253_402_300_799.0;
/// The maximum length of a subject, in characters (OpenID Connect Core 1.0 section 2).
const MAX_SUBJECT: usize = 255;
/// The maximum length of a `sid`, in bytes. The store keeps the `sid` with the session.
const MAX_SID: usize = 512;

/// The optional claims for which the value null means that the claim is absent. Some providers
/// write null for each unused claim.
const NULLABLE: [&str; 5] = ["at_hash", "auth_time", "azp", "c_hash", "nbf"];

/// Returns the value of a claim, or `None` if the claim is absent.
fn value<'a>(members: &'a Object, name: &str) -> Option<&'a Value> {
    let value = members.get(name)?;
    (!value.is_null() || !NULLABLE.contains(&name)).then_some(value)
}

/// Reads an optional claim, whose value must be a string.
pub(super) fn text<'a>(
    members: &'a Object,
    name: &'static str,
) -> Result<Option<&'a str>, TokenError> {
    match value(members, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(TokenError::Claim(name)),
    }
}

/// Reads the required claim `aud`: one string, or an array that contains only strings.
pub(super) fn audiences(members: &Object) -> Result<Vec<&str>, TokenError> {
    let audiences = match members.get("aud") {
        Some(text @ Value::String(_)) => std::slice::from_ref(text),
        Some(Value::Array(audiences)) => audiences,
        None | Some(_) => return Err(TokenError::Claim("aud")),
    };
    let texts = audiences.iter().map(Value::as_str);
    texts.collect::<Option<_>>().ok_or(TokenError::Claim("aud"))
}

/// Reads the required claim `sub`, which must not be empty. Some providers issue tokens with an
/// empty `sub` for the client credentials grant. A token with an empty `sub` belongs to no user.
pub(super) fn subject(members: &Object) -> Result<&str, TokenError> {
    let subject = members.get("sub").and_then(Value::as_str);
    subject
        .filter(|subject| !subject.is_empty() && !subject.contains(char::is_control))
        .filter(|subject| subject.chars().count() <= MAX_SUBJECT)
        .ok_or(TokenError::Claim("sub"))
}

/// Returns the id of the session of the user at the provider (OpenID Connect Back-Channel Logout 1.0
/// section 2.1). The function ignores a `sid` that is not a string, is empty or is too long, because
/// a login needs no `sid`.
pub(super) fn sid(members: &Object) -> Option<&str> {
    let sid = members.get("sid").and_then(Value::as_str);
    sid.filter(|sid| (1..=MAX_SID).contains(&sid.len()))
}

/// The rules for the dates in the tokens of one provider.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dates {
    /// The accepted difference between the clocks of the provider and the gateway.
    pub(super) leeway: Duration,
    /// True if the gateway also accepts a date that is a number in quotes.
    pub(super) quoted: bool,
}

impl Dates {
    /// Checks the dates of a token and returns `exp`. `exp` is required and must be in the future.
    /// `nbf` and `iat` are optional, must not be in the future, and must not be later than `exp`.
    /// Every comparison with `now` uses the leeway.
    pub(super) fn check(&self, members: &Object, now: Timestamp) -> Result<Timestamp, TokenError> {
        let expires_at = self.read(members, "exp")?;
        let expires_at = expires_at.ok_or(TokenError::Claim("exp"))?;
        if self.is_past(expires_at, now) {
            return Err(TokenError::Expired);
        }
        for name in ["nbf", "iat"] {
            let Some(date) = self.read(members, name)? else {
                continue;
            };
            if self.is_ahead(date, now) {
                return Err(TokenError::NotYetValid(name));
            }
            if date > expires_at {
                return Err(TokenError::Claim(name));
            }
        }
        Ok(expires_at)
    }

    /// Reads a `NumericDate`, with or without a fraction (RFC 7519 section 2).
    pub(super) fn read(
        &self,
        members: &Object,
        name: &'static str,
    ) -> Result<Option<Timestamp>, TokenError> {
        let seconds = match value(members, name) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) if self.quoted => quoted_number(text),
            Some(_) => None,
        };
        seconds
            .filter(|seconds| *seconds > 0.0 && *seconds <= LAST_DATE)
            .map(|seconds| Some(Timestamp::from_seconds(seconds)))
            .ok_or(TokenError::Claim(name))
    }

    /// Returns true if `date` is earlier than `now` by at least the leeway.
    pub(super) fn is_past(&self, date: Timestamp, now: Timestamp) -> bool {
        date.plus(self.leeway) <= now
    }

    /// Returns true if `date` is in the future by more than the leeway.
    pub(super) fn is_ahead(&self, date: Timestamp, now: Timestamp) -> bool {
        date > now.plus(self.leeway)
    }
}
