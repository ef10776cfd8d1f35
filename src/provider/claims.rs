//! Claims that every kind of token has, read without mercy (RFC 7519 section 4.1).
//!
//! A claim of an unexpected type is a reason to refuse, never to skip the check.

use std::time::Duration;

use serde_json::Value;

use super::json::{Object, quoted_number};
use super::jwt::TokenError;
use crate::clock::Timestamp;

/// The last date that is believed: the end of the year 9999, in seconds.
const LAST_DATE: f64 = 253_402_300_799.0;
/// The longest subject, in characters (OpenID Connect Core 1.0 section 2).
const LONGEST_SUBJECT: usize = 255;

/// A claim that is a text or absent.
pub(super) fn text<'a>(
    members: &'a Object,
    name: &'static str,
) -> Result<Option<&'a str>, TokenError> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(TokenError::Claim(name)),
    }
}

/// `aud`, which has to be there: a text, or an array of nothing but texts.
pub(super) fn audiences(members: &Object) -> Result<Vec<&str>, TokenError> {
    let audiences = match members.get("aud") {
        Some(text @ Value::String(_)) => std::slice::from_ref(text),
        Some(Value::Array(audiences)) => audiences,
        None | Some(_) => return Err(TokenError::Claim("aud")),
    };
    let texts = audiences.iter().map(Value::as_str);
    texts.collect::<Option<_>>().ok_or(TokenError::Claim("aud"))
}

/// `sub` names somebody. A token for the client itself (client credentials) has an empty one at
/// some servers.
pub(super) fn subject(members: &Object) -> Result<&str, TokenError> {
    let subject = members.get("sub").and_then(Value::as_str);
    subject
        .filter(|subject| !subject.is_empty() && !subject.contains(char::is_control))
        .filter(|subject| subject.chars().count() <= LONGEST_SUBJECT)
        .ok_or(TokenError::Claim("sub"))
}

/// How dates are read at one server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dates {
    /// How far its clock may differ from ours.
    pub(super) leeway: Duration,
    /// Whether they may be numbers in quotes.
    pub(super) quoted: bool,
}

impl Dates {
    /// `exp` has to be there and ahead, `nbf` and `iat` may be there and must not be ahead; the
    /// leeway counts for all. What begins after its end was never valid. Gives `exp`.
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

    /// A `NumericDate`, with a fraction or without (RFC 7519 section 2).
    pub(super) fn read(
        &self,
        members: &Object,
        name: &'static str,
    ) -> Result<Option<Timestamp>, TokenError> {
        let seconds = match members.get(name) {
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

    /// Whether `date` is over, for the slower of both clocks.
    pub(super) fn is_past(&self, date: Timestamp, now: Timestamp) -> bool {
        date.plus(self.leeway) <= now
    }

    /// Whether `date` is to come, for the faster of both clocks.
    pub(super) fn is_ahead(&self, date: Timestamp, now: Timestamp) -> bool {
        date > now.plus(self.leeway)
    }
}
