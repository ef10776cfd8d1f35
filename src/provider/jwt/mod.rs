//! Signatures of JSON Web Tokens (RFC 7519, compact JWS of RFC 7515).
//!
//! The library checks the signature and nothing else: its own claim checks pass over claims of an
//! unexpected type. What the payload says is judged by [`Rules`]. The token has no say in how it is
//! checked: the algorithm comes from our list, the keys from our files, and `jku`, `jwk`, `x5u`,
//! `x5c` and `kid` are not looked at.

pub(super) mod signer;

use std::path::Path;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{AlgorithmFamily, DecodingKey, crypto};
use serde_json::Value;

use super::Error;
use super::claims::{Claims, Rules};
use super::json::{self, JsonError, Object};
use super::settings::{AccessTokenSettings, Algorithm};
use crate::clock::Timestamp;

/// The longest token that is looked at, in bytes.
const LONGEST_TOKEN: usize = 64 * 1024;

/// The types of token that are taken, in lower case and without `application/` (RFC 9068 section
/// 2.1); a logout token or a security event is none of them.
const TYPES: [&str; 2] = ["jwt", "at+jwt"];

/// Header members that change what the rest means. We understand none of them, so a token that has
/// one is not for us (RFC 7515 section 4.1.11, RFC 7797, RFC 7516).
const NOT_UNDERSTOOD: [&str; 5] = ["crit", "b64", "zip", "enc", "cty"];

/// Why an access token is not believed.
///
/// Side: provider.
#[derive(Debug, thiserror::Error)]
pub enum AccessTokenError {
    /// The algorithm is not one of ours.
    #[error("the algorithm is not in `access_token.algorithms`")]
    Algorithm,
    /// The token is for somebody else.
    #[error("the token is not for us (`aud`)")]
    Audience,
    /// A claim is missing, of another type or out of any reason.
    #[error("the claim `{0}` is missing or unusable")]
    Claim(&'static str),
    /// The token has expired.
    #[error("the token has expired (`exp`)")]
    Expired,
    /// The header has a member that has to be understood, and is not.
    #[error("the header member `{0}` is not understood")]
    Header(&'static str),
    /// The token is from somebody else.
    #[error("the token is from another issuer (`iss`)")]
    Issuer,
    /// Header or payload are not the JSON object that they have to be.
    #[error("the header or the payload is not a JSON object")]
    Json(#[source] JsonError),
    /// Not three parts of canonical base64url, or too long.
    #[error("the token is not a compact JWS")]
    Malformed,
    /// The token is for later, or from the future.
    #[error("the token is not valid yet (`{0}`)")]
    NotYet(&'static str),
    /// None of the keys made the signature.
    #[error("none of the public keys made the signature")]
    Signature,
    /// Another kind of token.
    #[error("the token is of another type (`typ`)")]
    Type,
}

impl AccessTokenError {
    /// A stable code for logs and counters.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Algorithm => "access_token_algorithm",
            Self::Audience => "access_token_audience",
            Self::Claim(_) => "access_token_claim",
            Self::Expired => "access_token_expired",
            Self::Header(_) => "access_token_header",
            Self::Issuer => "access_token_issuer",
            Self::Json(_) | Self::Malformed => "access_token_malformed",
            Self::NotYet(_) => "access_token_not_yet_valid",
            Self::Signature => "access_token_signature",
            Self::Type => "access_token_type",
        }
    }
}

/// What is wrong with a public key.
///
/// Side: gateway.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyProblem {
    /// Not one PEM block `PUBLIC KEY` or `RSA PUBLIC KEY`.
    #[error("it is not one public key in PEM")]
    NotPublicPem,
    /// A private key: it has no business on this machine.
    #[error("it is a private key; only the public key belongs here")]
    Private,
    /// No algorithm of the list can use it.
    #[error("it suits none of `access_token.algorithms`")]
    Unsuited,
    /// RSA below 2048 or above 8192 bits, a point that is not on its curve, and the like.
    #[error("it is too short or not a valid key")]
    Weak,
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

    /// The `alg` of RFC 7518 section 3.1; compared byte for byte.
    fn name(self) -> &'static str {
        match self {
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
        }
    }
}

/// Checks access tokens of one server.
#[derive(Debug)]
pub(super) struct Verifier {
    keys: Vec<DecodingKey>,
    algorithms: Vec<Algorithm>,
    rules: Rules,
}

impl Verifier {
    /// Reads the keys. `None` when there are none: this server's tokens are opaque to us.
    pub(super) fn new(settings: &AccessTokenSettings, rules: Rules) -> Result<Option<Self>, Error> {
        if settings.public_key_files.is_empty() {
            return Ok(None);
        }
        let mut keys = Vec::new();
        for path in &settings.public_key_files {
            keys.push(read_key(path, &settings.algorithms)?);
        }
        Ok(Some(Self {
            keys,
            algorithms: settings.algorithms.clone(),
            rules,
        }))
    }

    /// Verifies the signature and then every claim.
    pub(super) fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, AccessTokenError> {
        let payload = self.verified_payload(token)?;
        let members = json::object(&payload).map_err(AccessTokenError::Json)?;
        self.rules.check(members, now)
    }

    fn verified_payload(&self, token: &str) -> Result<Vec<u8>, AccessTokenError> {
        if token.len() > LONGEST_TOKEN {
            return Err(AccessTokenError::Malformed);
        }
        let mut parts = token.splitn(4, '.');
        let parts = [parts.next(), parts.next(), parts.next(), parts.next()];
        let [Some(header), Some(payload), Some(signature), None] = parts else {
            return Err(AccessTokenError::Malformed);
        };
        let algorithm =
            self.algorithm(&json::object(&decode(header)?).map_err(AccessTokenError::Json)?)?;
        // All three parts are decoded before any signature is computed.
        let bytes = decode(payload)?;
        decode(signature)?;
        let signed_length = token
            .len()
            .saturating_sub(signature.len())
            .saturating_sub(1);
        let signed = token.get(..signed_length).unwrap_or_default();
        let family = algorithm.library().family();
        let mut suited = self.keys.iter().filter(|key| key.family() == family);
        let made_by = |key: &DecodingKey| {
            // An error is a key that cannot have made it, such as one on another curve.
            crypto::verify(signature, signed.as_bytes(), key, algorithm.library()).unwrap_or(false)
        };
        suited
            .any(made_by)
            .then_some(bytes)
            .ok_or(AccessTokenError::Signature)
    }

    /// Reads the header; the algorithm comes from our list.
    fn algorithm(&self, header: &Object) -> Result<Algorithm, AccessTokenError> {
        if let Some(name) = NOT_UNDERSTOOD
            .into_iter()
            .find(|name| header.contains_key(*name))
        {
            return Err(AccessTokenError::Header(name));
        }
        match header.get("typ") {
            None => {}
            Some(Value::String(text)) => {
                let text = text.to_ascii_lowercase();
                let text = text.strip_prefix("application/").unwrap_or(&text);
                if !TYPES.contains(&text) {
                    return Err(AccessTokenError::Type);
                }
            }
            Some(_) => return Err(AccessTokenError::Type),
        }
        let named = header.get("alg").and_then(Value::as_str);
        let mut algorithms = self.algorithms.iter();
        algorithms
            .find(|algorithm| named == Some(algorithm.name()))
            .copied()
            .ok_or(AccessTokenError::Algorithm)
    }
}

/// Canonical base64url without padding (RFC 7515 section 2).
fn decode(part: &str) -> Result<Vec<u8>, AccessTokenError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_where| AccessTokenError::Malformed)
}

fn read_key(path: &Path, algorithms: &[Algorithm]) -> Result<DecodingKey, Error> {
    let pem = super::read_text("access_token.public_key_files", path)?;
    key(&pem, algorithms).map_err(|source| Error::PublicKey {
        path: path.to_owned(),
        source,
    })
}

fn key(pem: &str, algorithms: &[Algorithm]) -> Result<DecodingKey, KeyProblem> {
    if pem.contains("PRIVATE KEY-----") {
        return Err(KeyProblem::Private);
    }
    // The library reads the first block of several, and takes a certificate for a key.
    let labels = [
        "-----BEGIN PUBLIC KEY-----",
        "-----BEGIN RSA PUBLIC KEY-----",
    ];
    let labelled = labels.iter().any(|label| pem.contains(label));
    if !labelled || pem.matches("-----BEGIN").count() != 1 {
        return Err(KeyProblem::NotPublicPem);
    }
    let pem = pem.as_bytes();
    let key = DecodingKey::from_rsa_pem(pem)
        .or_else(|_not_rsa| DecodingKey::from_ec_pem(pem))
        .or_else(|_not_ec| DecodingKey::from_ed_pem(pem))
        .map_err(|_not_ed| KeyProblem::NotPublicPem)?;
    let bytes = key.try_get_as_bytes().map_err(|_never| KeyProblem::Weak)?;
    let (allowed, valid): (&[Algorithm], bool) = match key.family() {
        AlgorithmFamily::Rsa => (&RSA, valid_rsa(bytes)),
        // An uncompressed point: one byte and two coordinates.
        AlgorithmFamily::Ec if bytes.len() == 65 => (
            &[Algorithm::ES256],
            ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes).is_ok(),
        ),
        AlgorithmFamily::Ec => (
            &[Algorithm::ES384],
            ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, bytes).is_ok(),
        ),
        AlgorithmFamily::Ed => (
            &[Algorithm::EdDSA],
            ParsedPublicKey::new(&ED25519, bytes).is_ok(),
        ),
        AlgorithmFamily::Hmac => (&[], false),
    };
    if !valid {
        return Err(KeyProblem::Weak);
    }
    let suited = algorithms
        .iter()
        .any(|algorithm| allowed.contains(algorithm));
    suited.then_some(key).ok_or(KeyProblem::Unsuited)
}

const RSA: [Algorithm; 6] = [
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
];

/// Whether an RSA key has 2048 to 8192 bits and an exponent that is not trivial. The exponent 3 is
/// taken: it is odd, but not wrong, with the paddings of PKCS#1 that are checked in full.
fn valid_rsa(der: &[u8]) -> bool {
    let Ok(key) = aws_lc_rs::rsa::PublicKey::from_der(der) else {
        return false;
    };
    let modulus = key.modulus();
    let modulus = modulus.big_endian_without_leading_zero();
    let exponent = key.exponent();
    let exponent = exponent.big_endian_without_leading_zero();
    (256..=1024).contains(&modulus.len())
        && modulus.first().is_some_and(|first| *first >= 0x80)
        && !matches!(exponent, [] | [1])
        && ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der).is_ok()
}
