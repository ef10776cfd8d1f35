//! Checks the claims of a logout token (OpenID Connect Back-Channel Logout 1.0 section 2.6).

use std::time::Duration;

use aws_lc_rs::digest::{self, SHA256};
use serde_json::Value;

use super::IdTokenRules;
use crate::clock::Timestamp;
use crate::provider::claims;
use crate::provider::json::Object;
use crate::provider::jwt::{self, ExpectedHeader, TokenError, VerifiedToken};

/// The maximum age of a logout token. A provider sends a logout token immediately after it has
/// issued the logout token.
const MAX_AGE: Duration = Duration::from_mins(2);

/// The member of `events` that makes a token a logout token.
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// The claims of a valid logout token. At least one of `sid` and `subject` is present.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct LogoutClaims {
    /// The issuer, as in the ID tokens of the same user.
    pub(crate) issuer: Box<str>,
    /// The session of the user at the provider that has ended.
    pub(crate) sid: Option<Box<str>>,
    /// The user whose sessions have ended.
    pub(crate) subject: Option<Box<str>>,
    /// The SHA-256 hash of the issuer, the client identifier and the `jti`. Every logout token has
    /// another hash.
    pub(crate) id: [u8; 32],
}

impl IdTokenRules {
    /// Returns the requirements for the header of logout tokens.
    pub(in crate::provider) fn expected_of_logout(&self) -> ExpectedHeader<'_> {
        ExpectedHeader {
            algorithms: &self.algorithms,
            types: jwt::LOGOUT_TOKEN_TYPES,
        }
    }

    /// Checks every claim of a logout token whose signature has been verified.
    ///
    /// # Errors
    ///
    /// Returns [`TokenError`] for the first problem that is found.
    pub(in crate::provider) fn check_logout(
        &self,
        verified: &VerifiedToken,
        now: Timestamp,
    ) -> Result<LogoutClaims, TokenError> {
        let members = &verified.members;
        let issuer = self.issuer_of(verified)?;
        self.trusted_audiences(members)?;
        self.check_logout_dates(members, now)?;
        check_event(members)?;
        // An ID token has a nonce, and a logout token has no nonce. A logout token can therefore
        // never be used as an ID token.
        if members.contains_key("nonce") {
            return Err(TokenError::Claim("nonce"));
        }
        let jti = claims::text(members, "jti")?.filter(|jti| !jti.is_empty());
        let jti = jti.ok_or(TokenError::Claim("jti"))?;
        let subject = members
            .contains_key("sub")
            .then(|| claims::subject(members));
        let sid = members.contains_key("sid").then(|| {
            let sid = claims::sid(members);
            sid.ok_or(TokenError::Claim("sid"))
        });
        let (subject, sid) = (subject.transpose()?, sid.transpose()?);
        if subject.is_none() && sid.is_none() {
            return Err(TokenError::Claim("sid"));
        }
        Ok(LogoutClaims {
            issuer: issuer.into(),
            sid: sid.map(Into::into),
            subject: subject.map(Into::into),
            id: id(issuer, &self.client_id, jti),
        })
    }

    /// Checks the dates of a logout token. Some providers send no `exp`, so `iat` limits the age of
    /// the token.
    fn check_logout_dates(&self, members: &Object, now: Timestamp) -> Result<(), TokenError> {
        let dates = &self.dates;
        let expires_at = dates.read(members, "exp")?;
        if expires_at.is_some_and(|date| dates.is_past(date, now)) {
            return Err(TokenError::Expired);
        }
        let not_before = dates.read(members, "nbf")?;
        if not_before.is_some_and(|date| dates.is_ahead(date, now)) {
            return Err(TokenError::NotYetValid("nbf"));
        }
        let issued_at = dates.read(members, "iat")?;
        let issued_at = issued_at.ok_or(TokenError::Claim("iat"))?;
        if dates.is_ahead(issued_at, now) {
            return Err(TokenError::NotYetValid("iat"));
        }
        if dates.is_past(issued_at.plus(MAX_AGE), now) {
            return Err(TokenError::TooOld("iat"));
        }
        Ok(())
    }
}

/// Checks that the token states the event of a logout. The value of the event must be an object.
fn check_event(members: &Object) -> Result<(), TokenError> {
    let events = members.get("events").and_then(Value::as_object);
    let event = events.and_then(|events| events.get(EVENT));
    event
        .is_some_and(Value::is_object)
        .then_some(())
        .ok_or(TokenError::Claim("events"))
}

/// Returns the hash that identifies a logout token. A provider may use the same `jti` for the tokens
/// of two clients, so the hash depends on the client. The hashed bytes contain the lengths of the
/// issuer and the client identifier, so that no other three values have the same bytes.
fn id(issuer: &str, client_id: &str, jti: &str) -> [u8; 32] {
    let lengths = (issuer.len(), client_id.len());
    let text = format!("{} {} {issuer} {client_id} {jti}", lengths.0, lengths.1);
    let mut id = [0; 32];
    id.copy_from_slice(digest::digest(&SHA256, text.as_bytes()).as_ref());
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b_11_the_same_jti_for_two_clients_is_not_a_repetition() {
        assert_eq!(id("https://op", "one", "1"), id("https://op", "one", "1"));
        assert_ne!(id("https://op", "one", "1"), id("https://op", "two", "1"));
        assert_ne!(id("https://op", "a b", "1"), id("https://op", "a", "b 1"));
    }
}
