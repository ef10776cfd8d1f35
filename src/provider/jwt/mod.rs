//! Signatures of JSON Web Tokens (RFC 7519, compact JWS of RFC 7515).
//!
//! One path for tokens of every kind. The library checks the signature and nothing else: its own
//! claim checks pass over claims of an unexpected type. What the payload says is judged by whoever
//! asked. The token has no say in how it is checked: the algorithm comes from our list, the keys
//! from our set, of which it may name one, and `jku`, `jwk`, `x5u` and `x5c` are not looked at.

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

/// The longest token that is looked at, in bytes.
const LONGEST_TOKEN: usize = 64 * 1024;

/// The types of an access token (RFC 9068 section 2.1).
pub(super) const ACCESS_TOKEN_TYPES: &[&str] = &["jwt", "at+jwt"];
/// The type of a token that is what the place where it was found says; neither an access token nor
/// a logout token nor a security event is one.
pub(super) const PLAIN_TYPES: &[&str] = &["jwt"];

/// Header members that change what the rest means. We understand none of them, so a token that has
/// one is not for us (RFC 7515 section 4.1.11, RFC 7797, RFC 7516).
const NOT_UNDERSTOOD: [&str; 5] = ["crit", "b64", "zip", "enc", "cty"];

/// Names of algorithms that tokens come with and that are never believed, for the message.
const NEVER: [&str; 8] = [
    "ES256K", "ES512", "Ed25519", "Ed448", "HS256", "HS384", "HS512", "none",
];

/// What is asked of the header of a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpectedHeader<'a> {
    /// The algorithms that are believed.
    pub(super) algorithms: &'a [Algorithm],
    /// The types that are taken, in lower case and without `application/`; no type at all is taken
    /// as well.
    pub(super) types: &'a [&'static str],
}

/// What a token says, now that one of our keys is known to have signed it. Its claims are still to
/// be checked.
#[derive(Debug)]
pub(super) struct VerifiedToken {
    pub(super) members: Object,
    /// The algorithm of the signature.
    pub(super) algorithm: Algorithm,
    /// Whose tokens alone the key signs, where it says so.
    pub(super) key_issuer: Option<Box<str>>,
}

/// Verifies the signature, then reads the payload. A token that names a key has to be signed with a
/// key of that name, or one that has none; a token that names none, with any key for its algorithm.
///
/// # Errors
///
/// [`TokenError::Malformed`], [`TokenError::Json`], [`TokenError::Header`], [`TokenError::Type`]
/// and [`TokenError::Algorithm`] without a look at any key; then [`TokenError::UnknownKey`] and
/// [`TokenError::Signature`].
pub(super) fn verify(
    token: &str,
    expected: &ExpectedHeader<'_>,
    keys: &KeySet,
) -> Result<VerifiedToken, TokenError> {
    if token.len() > LONGEST_TOKEN {
        return Err(TokenError::Malformed);
    }
    let mut parts = token.splitn(4, '.');
    let parts = [parts.next(), parts.next(), parts.next(), parts.next()];
    let [Some(header), Some(payload), Some(signature), None] = parts else {
        return Err(TokenError::Malformed);
    };
    let header = json::object(&decode(header)?).map_err(TokenError::Json)?;
    let algorithm = expected.algorithm(&header)?;
    let key_id = key_id(&header)?;
    // All three parts are decoded before any signature is computed.
    let payload = decode(payload)?;
    decode(signature)?;
    let signed = token
        .strip_suffix(signature)
        .and_then(|token| token.strip_suffix('.'))
        .ok_or(TokenError::Malformed)?;
    let mut suited = keys.candidates(key_id, algorithm).peekable();
    if suited.peek().is_none() {
        return Err(TokenError::UnknownKey);
    }
    let key = suited
        .find(|key| key.verifies(signature, signed, algorithm))
        .ok_or(TokenError::Signature)?;
    Ok(VerifiedToken {
        members: json::object(&payload).map_err(TokenError::Json)?,
        algorithm,
        key_issuer: key.issuer().map(Into::into),
    })
}

impl ExpectedHeader<'_> {
    /// Reads the header; the algorithm comes from our list.
    fn algorithm(&self, header: &Object) -> Result<Algorithm, TokenError> {
        if let Some(name) = NOT_UNDERSTOOD
            .into_iter()
            .find(|name| header.contains_key(*name))
        {
            return Err(TokenError::Header(name));
        }
        match header.get("typ") {
            None => {}
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
                let mut never = NEVER.into_iter();
                let never = never.find(|name| *name == named);
                TokenError::Algorithm(known.map(Algorithm::name).or(never).unwrap_or("?"))
            })
    }
}

/// The name of the key, which is text if it is there (RFC 7515 section 4.1.4).
fn key_id(header: &Object) -> Result<Option<&str>, TokenError> {
    match header.get("kid") {
        None => Ok(None),
        Some(Value::String(id)) => Ok(Some(id)),
        Some(_) => Err(TokenError::Header("kid")),
    }
}

/// Canonical base64url without padding (RFC 7515 section 2).
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
