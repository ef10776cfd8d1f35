//! Verifies the signatures of JSON Web Tokens (RFC 7519) in the compact form of JWS (RFC 7515).
//!
//! This module verifies all kinds of tokens. The JWT library verifies only the signature. The
//! caller checks the claims, because the library would ignore claims of an unexpected type. The
//! token cannot choose the method of its verification. The algorithm comes from the configured list
//! and the keys come from the configured key set. The token can only select one of the configured
//! keys by `kid`. The gateway ignores the header members `jku`, `jwk`, `x5u` and `x5c`.

mod error;
mod key;
pub(super) mod signer;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

pub use self::error::{TokenError, TokenKind};
pub use self::key::KeyProblem;
pub(super) use self::key::{Key, Unusable};

use super::json::{self, Object};
use super::keys::KeySet;
use super::settings::Algorithm;

/// The maximum length of a token, in bytes.
const MAX_TOKEN_LENGTH: usize = 64 * 1024;

/// The accepted types of an access token (RFC 9068 section 2.1).
pub(super) const ACCESS_TOKEN_TYPES: &[&str] = &["jwt", "at+jwt"];
/// The accepted types of an ID token or a userinfo response. The types of access tokens (`at+jwt`),
/// logout tokens and security event tokens are not accepted.
pub(super) const ID_TOKEN_TYPES: &[&str] = &["jwt"];
/// The accepted types of a logout token (OpenID Connect Back-Channel Logout 1.0 section 2.4). Some
/// providers use the type of ID tokens.
pub(super) const LOGOUT_TOKEN_TYPES: &[&str] = &["jwt", "logout+jwt"];

/// Unsupported header members that change the meaning of a token. The gateway refuses a token whose
/// header contains an unsupported member (RFC 7515 section 4.1.11, RFC 7797, RFC 7516).
const UNSUPPORTED_MEMBERS: [&str; 5] = ["crit", "b64", "zip", "enc", "cty"];

/// Known algorithms that the gateway never accepts. An error text shows the name of an algorithm
/// only if the algorithm is known.
const REFUSED_ALGORITHMS: [&str; 8] = [
    "ES256K", "ES512", "Ed25519", "Ed448", "HS256", "HS384", "HS512", "none",
];

/// The requirements for the header of a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpectedHeader<'a> {
    /// The accepted algorithms.
    pub(super) algorithms: &'a [Algorithm],
    /// The accepted types, in lower case and without `application/`. A token without a type is also
    /// accepted.
    pub(super) types: &'a [&'static str],
}

/// A token with a verified signature. The claims have not been checked yet.
#[derive(Debug)]
pub(super) struct VerifiedToken {
    pub(super) members: Object,
    /// The algorithm of the signature.
    pub(super) algorithm: Algorithm,
    /// The issuer that the key names, if any.
    pub(super) key_issuer: Option<Box<str>>,
}

/// Verifies the signature, and then reads the payload. If the token has a `kid`, only keys with the
/// same id and keys without an id are tried. If the token has no `kid`, all keys for the algorithm
/// are tried.
///
/// # Errors
///
/// Returns [`TokenError::Malformed`], [`TokenError::Json`], [`TokenError::Header`],
/// [`TokenError::Type`] or [`TokenError::Algorithm`] before any key is used. Returns
/// [`TokenError::UnknownKey`] or [`TokenError::Signature`] if no key verifies the signature.
pub(super) fn verify(
    token: &str,
    expected: &ExpectedHeader<'_>,
    keys: &KeySet,
) -> Result<VerifiedToken, TokenError> {
    if token.len() > MAX_TOKEN_LENGTH {
        return Err(TokenError::Malformed);
    }
    // A compact JWS has exactly three parts, so a token with a fourth part is refused.
    let mut parts = token.splitn(4, '.');
    let parts = [parts.next(), parts.next(), parts.next(), parts.next()];
    let [Some(header), Some(payload), Some(signature), None] = parts else {
        return Err(TokenError::Malformed);
    };
    let header = json::object(&decode(header)?).map_err(TokenError::Json)?;
    let algorithm = expected.algorithm(&header)?;
    let key_id = key_id(&header)?;
    // All three parts are decoded before the slow verification, so that a malformed token costs
    // little time.
    let payload = decode(payload)?;
    decode(signature)?;
    let signed = token
        .strip_suffix(signature)
        .and_then(|token| token.strip_suffix('.'))
        .ok_or(TokenError::Malformed)?;
    let mut candidates = keys.candidates(key_id, algorithm).peekable();
    if candidates.peek().is_none() {
        return Err(TokenError::UnknownKey);
    }
    let key = candidates
        .find(|key| key.verifies(signature, signed, algorithm))
        .ok_or(TokenError::Signature)?;
    Ok(VerifiedToken {
        // The payload is parsed only after the signature was verified.
        members: json::object(&payload).map_err(TokenError::Json)?,
        algorithm,
        key_issuer: key.issuer().map(Into::into),
    })
}

/// Returns the claims without the verification of the token. The caller may use the claims only to
/// select the keys for the verification, or to refuse the token.
pub(super) fn unverified_claims(token: &str) -> Option<Object> {
    if token.len() > MAX_TOKEN_LENGTH {
        return None;
    }
    let payload = decode(token.split('.').nth(1)?).ok()?;
    json::object(&payload).ok()
}

impl ExpectedHeader<'_> {
    /// Checks the header and returns the algorithm from the accepted list.
    fn algorithm(&self, header: &Object) -> Result<Algorithm, TokenError> {
        if let Some(name) = UNSUPPORTED_MEMBERS
            .into_iter()
            .find(|name| header.contains_key(*name))
        {
            return Err(TokenError::Header(name));
        }
        match header.get("typ") {
            None => {}
            // `typ` is case-insensitive, and may omit `application/` (RFC 7515 section 4.1.9).
            Some(Value::String(text)) => {
                let text = text.to_ascii_lowercase();
                let text = text.strip_prefix("application/").unwrap_or(&text);
                if !self.types.contains(&text) {
                    return Err(TokenError::Type);
                }
            }
            Some(_) => return Err(TokenError::Type),
        }
        let named = header.get("alg").and_then(Value::as_str);
        let named = named.unwrap_or_default();
        let known = Algorithm::named(named);
        known
            .filter(|algorithm| self.algorithms.contains(algorithm))
            .ok_or_else(|| {
                let mut never = REFUSED_ALGORITHMS.into_iter();
                let never = never.find(|name| *name == named);
                TokenError::Algorithm(known.map(Algorithm::name).or(never).unwrap_or("?"))
            })
    }
}

/// Returns the optional `kid`, which must be a string (RFC 7515 section 4.1.4).
fn key_id(header: &Object) -> Result<Option<&str>, TokenError> {
    match header.get("kid") {
        None => Ok(None),
        Some(Value::String(id)) => Ok(Some(id)),
        Some(_) => Err(TokenError::Header("kid")),
    }
}

/// Decodes canonical base64url without padding (RFC 7515 section 2).
fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_where| TokenError::Malformed)
}

impl Algorithm {
    fn library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::ES256 => jsonwebtoken::Algorithm::ES256,
            Self::ES384 => jsonwebtoken::Algorithm::ES384,
            Self::EdDSA => jsonwebtoken::Algorithm::EdDSA,
            Self::PS256 => jsonwebtoken::Algorithm::PS256,
            Self::PS384 => jsonwebtoken::Algorithm::PS384,
            Self::PS512 => jsonwebtoken::Algorithm::PS512,
            Self::RS256 => jsonwebtoken::Algorithm::RS256,
            Self::RS384 => jsonwebtoken::Algorithm::RS384,
            Self::RS512 => jsonwebtoken::Algorithm::RS512,
        }
    }
}
