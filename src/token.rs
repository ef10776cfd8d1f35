//! A set of tokens as one owner that wipes itself.
//!
//! The access token lies in one buffer behind the word `Bearer `, so the field value that is
//! injected into each request is a slice of it: no formatting and no copy on the request path.
//! When the last slice is gone the buffer is wiped.

use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::secret::Secret;

/// The longest token that is taken, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;

/// Why a token was not taken.
///
/// Side: provider.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The token has no characters.
    #[error("the token is empty")]
    Empty,
    /// The token has a character that would end or split a bearer credential.
    #[error("the token has a character that a bearer token cannot have")]
    Malformed,
    /// The token is longer than [`MAX_TOKEN`].
    #[error("the token is longer than {MAX_TOKEN} bytes")]
    TooLong,
}

/// The tokens of one grant.
#[derive(Debug)]
pub struct TokenSet {
    bearer: HeaderValue,
    refresh_token: Option<Secret<String>>,
    expires_at: Option<Timestamp>,
}

impl TokenSet {
    /// Takes the tokens of one successful token response (RFC 6749 section 5.1). `expires_at` is
    /// `None` when the server did not say.
    ///
    /// # Errors
    ///
    /// When the access token is empty, longer than [`MAX_TOKEN`] or not fit for a bearer credential
    /// (RFC 6750 section 2.1), or when the refresh token is empty, too long or has characters outside
    /// visible ASCII (RFC 6749 appendix A.17).
    pub fn new(
        access_token: &str,
        refresh_token: Option<&str>,
        expires_at: Option<Timestamp>,
    ) -> Result<Self, Error> {
        check(access_token, is_bearer)?;
        if let Some(token) = refresh_token {
            check(token, |byte| matches!(byte, 0x20..=0x7e))?;
        }
        let mut buffer = Zeroizing::new(Vec::with_capacity(access_token.len().saturating_add(7)));
        buffer.extend_from_slice(b"Bearer ");
        buffer.extend_from_slice(access_token.as_bytes());
        let mut bearer = HeaderValue::from_maybe_shared(Bytes::from_owner(Wiped(buffer)))
            .map_err(|_invalid| Error::Malformed)?;
        bearer.set_sensitive(true);
        let refresh_token = refresh_token.map(|token| Secret::new(token.to_owned()));
        Ok(Self {
            bearer,
            refresh_token,
            expires_at,
        })
    }

    /// The value of the `Authorization` field, marked sensitive; a clone is a reference count.
    pub fn bearer(&self) -> &HeaderValue {
        &self.bearer
    }

    /// The access token itself, for the provider's own endpoints.
    pub fn access_token(&self) -> &str {
        let bytes = self
            .bearer
            .as_bytes()
            .strip_prefix(b"Bearer ")
            .unwrap_or_default();
        // Checked to be ASCII when it was built.
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// The refresh token, when the server gave one.
    pub fn refresh_token(&self) -> Option<&Secret<String>> {
        self.refresh_token.as_ref()
    }

    /// When the access token expires, when the server said so.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    /// Whether the access token is past its expiry at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }

    /// An estimate of the heap bytes held, for the session cache's bound.
    pub fn weight(&self) -> usize {
        let refresh = self
            .refresh_token
            .as_ref()
            .map_or(0, |token| token.expose().len());
        self.bearer
            .len()
            .saturating_add(refresh)
            .saturating_add(128)
    }
}

/// The owner behind the shared bytes: dropping it wipes them.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn check(token: &str, allowed: impl Fn(u8) -> bool) -> Result<(), Error> {
    match token.len() {
        0 => Err(Error::Empty),
        length if length > MAX_TOKEN => Err(Error::TooLong),
        _ if token.bytes().all(allowed) => Ok(()),
        _ => Err(Error::Malformed),
    }
}

/// More than the `b64token` of RFC 6750 section 2.1, since well-known servers give tokens with `!` or
/// `|` in them; but nothing that could end or split a credential.
fn is_bearer(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b",;\"\\".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bearer_value_is_ready_and_does_not_print() {
        let tokens = TokenSet::new("abc.def", Some("def50200"), None).unwrap();
        assert_eq!(tokens.bearer().as_bytes(), b"Bearer abc.def");
        assert_eq!(tokens.access_token(), "abc.def");
        let shown = format!("{tokens:?}");
        assert!(
            !shown.contains("abc") && !shown.contains("def50200"),
            "{shown}"
        );
    }

    #[test]
    fn a_28_tokens_that_would_break_a_field_are_refused() {
        for bad in ["a b", "a\r\nb", "a\0", "a,b", "ä", "a\"", "a;b"] {
            assert_eq!(
                TokenSet::new(bad, None, None).unwrap_err(),
                Error::Malformed,
                "{bad:?}"
            );
        }
        assert_eq!(TokenSet::new("", None, None).unwrap_err(), Error::Empty);
        assert!(TokenSet::new("00D5!AQ|x", None, None).is_ok());
        let long = "a".repeat(MAX_TOKEN + 1);
        assert_eq!(
            TokenSet::new(&long, None, None).unwrap_err(),
            Error::TooLong
        );
        assert!(TokenSet::new(&"a".repeat(MAX_TOKEN), None, None).is_ok());
        assert_eq!(
            TokenSet::new("a", Some("x\ny"), None).unwrap_err(),
            Error::Malformed
        );
    }

    #[test]
    fn a_token_without_a_stated_expiry_does_not_expire_by_itself() {
        let now = Timestamp::from_millis(5);
        assert!(!TokenSet::new("a", None, None).unwrap().is_expired(now));
        assert!(TokenSet::new("a", None, Some(now)).unwrap().is_expired(now));
    }
}
