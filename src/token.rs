//! The tokens of a grant. A [`TokenSet`] owns the tokens. When a `TokenSet` is dropped, the memory
//! of its tokens is overwritten.
//!
//! One buffer contains the text `Bearer ` and the access token. The value of the `Authorization`
//! field is a slice of the buffer with the access token, so requests never format or copy a token.
//! When the last slice of the buffer is dropped, the buffer is overwritten.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::secret::Secret;

/// The maximum length of a token, in bytes.
pub(crate) const MAX_TOKEN: usize = 16 * 1024;

/// The reason why the gateway refuses a token that a provider has issued.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The token is an empty text.
    #[error("the token is empty")]
    Empty,
    /// The token has a character that could end or split the value of the `Authorization` field.
    #[error("the token has a character that a bearer token cannot have")]
    Malformed,
    /// The token is longer than [`MAX_TOKEN`].
    #[error("the token is longer than {MAX_TOKEN} bytes")]
    TooLong,
}

/// The times of a token set: when it was obtained, and when it expires or needs a refresh. With the
/// times of a token set, the gateway decides how long to use the access token and when to start a
/// refresh.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Lifetime {
    /// The time immediately before the gateway sent the token request.
    pub obtained_at: Timestamp,
    /// The time when the access token expires. `expires_at` is `None` if the provider stated no
    /// expiry.
    pub expires_at: Option<Timestamp>,
    /// The time after which a request with the access token starts a refresh. `refresh_at` is never
    /// later than `expires_at`. `refresh_at` is `None` if the access token has no expiry or there
    /// is no refresh token.
    pub refresh_at: Option<Timestamp>,
    /// The earliest time of the next refresh. No refresh starts before `not_before`.
    pub not_before: Timestamp,
}

impl Lifetime {
    /// Returns the time until a refresh is allowed. Returns zero if the clock was set back to a
    /// time before `obtained_at`. If the clock was set back, the age of the tokens is unknown, and
    /// a wrong clock must not delay the refresh.
    pub(crate) fn wait_before_refresh(&self, now: Timestamp) -> Duration {
        if now < self.obtained_at {
            return Duration::ZERO;
        }
        self.not_before.since(now)
    }
}

/// The nonce and the authentication time from a login's ID token. The gateway compares later ID
/// tokens of the same grant with the nonce and the authentication time of the login (OpenID Connect
/// Core 1.0 section 12.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Authentication {
    /// The nonce of the authorization request. Empty if the grant has no refresh token.
    pub(crate) nonce: Box<str>,
    /// The time when the user authenticated, if the provider stated this time.
    pub(crate) auth_time: Option<Timestamp>,
}

/// The tokens of one grant.
#[derive(Debug)]
pub struct TokenSet {
    bearer: HeaderValue,
    refresh_token: Option<Secret<String>>,
    id_token: Option<Secret<String>>,
    lifetime: Lifetime,
    authentication: Option<Box<Authentication>>,
}

impl TokenSet {
    /// Checks and stores the tokens of one successful token response (RFC 6749 section 5.1).
    ///
    /// # Errors
    ///
    /// Refuses an access token that is empty or longer than [`MAX_TOKEN`], and an access token that
    /// cannot be a bearer credential (RFC 6750 section 2.1). Refuses a refresh token that is empty,
    /// longer than [`MAX_TOKEN`] or has characters other than printable ASCII (RFC 6749 appendix
    /// A.17).
    pub fn new(
        access_token: &str,
        refresh_token: Option<&str>,
        lifetime: Lifetime,
    ) -> Result<Self, Error> {
        check(access_token, is_bearer)?;
        let refresh_token = refresh_token.map(checked).transpose()?;
        // The buffer never grows, because growth would leave a copy of the token in memory.
        let mut buffer = Zeroizing::new(Vec::with_capacity(access_token.len().saturating_add(7)));
        buffer.extend_from_slice(b"Bearer ");
        buffer.extend_from_slice(access_token.as_bytes());
        let bearer = secret_value(buffer).ok_or(Error::Malformed)?;
        Ok(Self {
            bearer,
            refresh_token,
            id_token: None,
            lifetime,
            authentication: None,
        })
    }

    /// Returns the same access token with another refresh token. Use this function if the answer to
    /// a refresh contains a new refresh token but no usable access token.
    ///
    /// # Errors
    ///
    /// Returns the errors that [`TokenSet::new`] returns for the refresh token.
    pub(crate) fn with_refresh_token(&self, refresh_token: &str) -> Result<Self, Error> {
        Ok(Self {
            bearer: self.bearer.clone(),
            refresh_token: Some(checked(refresh_token)?),
            id_token: self.id_token.clone(),
            lifetime: self.lifetime,
            authentication: self.authentication.clone(),
        })
    }

    /// Postpones the next refresh at least until `time`, and returns the changed tokens. `asked_at`
    /// is the time at which the gateway sent the last refresh request.
    #[must_use]
    pub(crate) fn not_before(mut self, time: Timestamp, asked_at: Timestamp) -> Self {
        let refresh_at = self.lifetime.refresh_at.map(|at| at.max(time));
        // `refresh_at` must not be later than the expiry, because after the expiry every request
        // waits for a refresh.
        self.lifetime.refresh_at = match (refresh_at, self.lifetime.expires_at) {
            (Some(at), Some(end)) => Some(at.min(end)),
            (at, _) => at,
        };
        self.lifetime.not_before = time;
        // If the system clock is set back to a time before `obtained_at`, the next refresh is
        // allowed immediately (see `wait_before_refresh`).
        self.lifetime.obtained_at = asked_at;
        self
    }

    /// Adds the nonce and the authentication time from the login's ID token.
    #[must_use]
    pub(crate) fn with_authentication(mut self, authentication: Option<Authentication>) -> Self {
        self.authentication = authentication.map(Box::new);
        self
    }

    /// Adds an ID token that was verified. An ID token that is longer than [`MAX_TOKEN`] is not
    /// added.
    #[must_use]
    pub(crate) fn with_id_token(mut self, id_token: Option<&str>) -> Self {
        let usable = id_token.filter(|token| check(token, is_bearer).is_ok());
        self.id_token = usable.map(|token| Secret::new(token.to_owned()));
        self
    }

    /// Returns the ID token, if the session keeps it.
    pub(crate) fn id_token(&self) -> Option<&Secret<String>> {
        self.id_token.as_ref()
    }

    /// Returns the value of the `Authorization` field. `HeaderValue` marks the value as sensitive,
    /// so `Debug` does not print the token. A clone of the value only increments a reference count.
    pub(crate) fn bearer(&self) -> &HeaderValue {
        &self.bearer
    }

    /// Returns the access token without `Bearer `, for requests to the provider's own endpoints.
    pub fn access_token(&self) -> &str {
        let bytes = self
            .bearer
            .as_bytes()
            .strip_prefix(b"Bearer ")
            .unwrap_or_default();
        // `new` has checked that the token is ASCII, so the conversion to text never fails.
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Returns the refresh token, if the provider issued a refresh token.
    pub fn refresh_token(&self) -> Option<&Secret<String>> {
        self.refresh_token.as_ref()
    }

    pub(crate) fn lifetime(&self) -> &Lifetime {
        &self.lifetime
    }

    /// Returns the nonce and the authentication time from the login's ID token, if the login had an
    /// ID token.
    pub(crate) fn authentication(&self) -> Option<&Authentication> {
        self.authentication.as_deref()
    }

    /// Returns the time when the access token expires, if the provider stated this time.
    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        self.lifetime.expires_at
    }

    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        self.lifetime
            .expires_at
            .is_some_and(|expires_at| expires_at <= now)
    }

    /// Returns true if the access token has expired, and a refresh can replace it. A token without
    /// any lifetime is not replaced, because the provider would issue another such token.
    pub(crate) fn can_replace_expired(&self, now: Timestamp) -> bool {
        let obtained_at = self.lifetime.obtained_at;
        let had_lifetime = self.lifetime.expires_at > Some(obtained_at);
        had_lifetime && self.is_expired(now) && self.refresh_token.is_some()
    }
}

/// Creates a field value from secret bytes. `Debug` does not print the value. When the value and
/// all its clones are dropped, the bytes are overwritten. Returns `None` if `bytes` contains a byte
/// that is not allowed in a field value.
pub(crate) fn secret_value(bytes: Zeroizing<Vec<u8>>) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(Wiped(bytes))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The owner of the bytes that the clones of a `HeaderValue` share. When the `HeaderValue` and all
/// its clones are dropped, the bytes are overwritten.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Checks that the gateway can send the refresh token back to the provider.
fn checked(refresh_token: &str) -> Result<Secret<String>, Error> {
    check(refresh_token, |byte| matches!(byte, 0x20..=0x7e))?;
    Ok(Secret::new(refresh_token.to_owned()))
}

fn check(token: &str, allowed: impl Fn(u8) -> bool) -> Result<(), Error> {
    match token.len() {
        0 => Err(Error::Empty),
        length if length > MAX_TOKEN => Err(Error::TooLong),
        _ if token.bytes().all(allowed) => Ok(()),
        _ => Err(Error::Malformed),
    }
}

/// Accepts more characters than the `b64token` of RFC 6750 section 2.1, because some well-known
/// providers issue tokens with `!` or `|`. Refuses every character that could end or split the
/// value of the `Authorization` field.
fn is_bearer(byte: u8) -> bool {
    // In a token, a comma or a semicolon could make an app split the field value. A quotation mark
    // or a backslash could change the meaning of the following characters.
    byte.is_ascii_graphic() && !b",;\"\\".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lifetime of a token whose expiry is unknown.
    const LIFETIME: Lifetime = Lifetime {
        obtained_at: Timestamp::from_millis(1),
        expires_at: None,
        refresh_at: None,
        not_before: Timestamp::from_millis(1),
    };

    #[test]
    fn f_18_a_clock_that_is_set_back_ends_the_wait_before_a_refresh() {
        let at = Timestamp::from_millis;
        let lifetime = Lifetime {
            obtained_at: at(100),
            not_before: at(150),
            ..LIFETIME
        };
        for (now, wait_before_refresh) in [(100, 50), (149, 1), (150, 0), (999, 0), (99, 0), (0, 0)]
        {
            assert_eq!(
                lifetime.wait_before_refresh(at(now)),
                Duration::from_millis(wait_before_refresh),
                "{now}"
            );
        }
    }

    #[test]
    fn the_bearer_value_is_ready_and_does_not_print() {
        let tokens = TokenSet::new("abc.def", Some("def50200"), LIFETIME).unwrap();
        assert_eq!(tokens.bearer().as_bytes(), b"Bearer abc.def");
        assert_eq!(tokens.access_token(), "abc.def");
        let shown = format!("{tokens:?}");
        assert!(
            !shown.contains("abc") && !shown.contains("def50200"),
            "{shown}"
        );
    }

    #[test]
    fn an_id_token_is_kept_with_another_refresh_token_and_is_not_printed() {
        let tokens = TokenSet::new("a", Some("r"), LIFETIME).unwrap();
        let tokens = tokens.with_id_token(Some("e30.canary"));
        let tokens = tokens.with_refresh_token("s").unwrap();
        assert_eq!(tokens.id_token().unwrap().expose(), "e30.canary");
        assert!(!format!("{tokens:?}").contains("canary"));
        let long = "a".repeat(MAX_TOKEN + 1);
        assert!(tokens.with_id_token(Some(&long)).id_token().is_none());
    }

    #[test]
    fn a_28_tokens_that_would_break_a_field_are_refused() {
        for bad in ["a b", "a\r\nb", "a\0", "a,b", "ä", "a\"", "a;b"] {
            assert_eq!(
                TokenSet::new(bad, None, LIFETIME).unwrap_err(),
                Error::Malformed,
                "{bad:?}"
            );
        }
        assert_eq!(TokenSet::new("", None, LIFETIME).unwrap_err(), Error::Empty);
        assert!(TokenSet::new("00D5!AQ|x", None, LIFETIME).is_ok());
        let long = "a".repeat(MAX_TOKEN + 1);
        assert_eq!(
            TokenSet::new(&long, None, LIFETIME).unwrap_err(),
            Error::TooLong
        );
        assert!(TokenSet::new(&"a".repeat(MAX_TOKEN), None, LIFETIME).is_ok());
        assert_eq!(
            TokenSet::new("a", Some("x\ny"), LIFETIME).unwrap_err(),
            Error::Malformed
        );
    }

    #[test]
    fn a_token_without_a_stated_expiry_does_not_expire_by_itself() {
        let now = Timestamp::from_millis(5);
        assert!(!TokenSet::new("a", None, LIFETIME).unwrap().is_expired(now));
        let lifetime = Lifetime {
            expires_at: Some(now),
            ..LIFETIME
        };
        assert!(TokenSet::new("a", None, lifetime).unwrap().is_expired(now));
    }

    #[test]
    fn replacing_the_refresh_token_keeps_the_other_values() {
        let authentication = Authentication {
            nonce: "n".into(),
            auth_time: None,
        };
        let old = TokenSet::new("a", Some("old"), LIFETIME).unwrap();
        let old = old.with_authentication(Some(authentication.clone()));
        let new = old.with_refresh_token("new").unwrap();
        assert_eq!(new.refresh_token().unwrap().expose(), "new");
        assert_eq!(new.bearer(), old.bearer());
        assert_eq!(new.lifetime(), old.lifetime());
        assert_eq!(new.authentication(), Some(&authentication));
        assert_eq!(
            old.with_refresh_token("x\ny").unwrap_err(),
            Error::Malformed
        );
    }

    #[test]
    fn a_delayed_refresh_is_not_delayed_beyond_expiry() {
        let at = Timestamp::from_millis;
        for (refresh_at, expires_at, expected) in [
            (Some(5), Some(20), Some(9)),
            (Some(15), Some(20), Some(15)),
            (Some(5), Some(8), Some(8)),
            (None, Some(8), None),
            (None, None, None),
        ] {
            let lifetime = Lifetime {
                expires_at: expires_at.map(at),
                refresh_at: refresh_at.map(at),
                ..LIFETIME
            };
            let tokens = TokenSet::new("a", Some("old"), lifetime).unwrap();
            let put_off = Lifetime {
                obtained_at: at(7),
                refresh_at: expected.map(at),
                not_before: at(9),
                ..lifetime
            };
            assert_eq!(*tokens.not_before(at(9), at(7)).lifetime(), put_off);
        }
    }
}
