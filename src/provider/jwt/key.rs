//! Public keys, read from PEM and from JSON Web Keys (RFC 7517). Every key is checked before use.

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{AlgorithmFamily, DecodingKey, crypto};
use serde_json::Value;

use crate::provider::json::Object;
use crate::provider::settings::Algorithm;

/// The JWK members that only a private or a shared key contains (RFC 7518 section 6). The gateway
/// skips a key with a private member, because a published private key is no longer secret.
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// The problem with a public key file. The operator has to correct the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyProblem {
    /// The text is not one PEM block `PUBLIC KEY` or `RSA PUBLIC KEY`.
    #[error("it is not one public key in PEM")]
    NotPublicPem,
    /// The key is private. The gateway must not have the private key of a provider.
    #[error("it is a private key; only the public key belongs here")]
    Private,
    /// No configured algorithm can use the key.
    #[error("it does not fit any of the configured `algorithms`")]
    WrongAlgorithm,
    /// The key is too weak or not valid. For example, an RSA key has fewer than 2048 or more than
    /// 8192 bits, or a point is not on its curve.
    #[error("it is too short or not a valid key")]
    Weak,
}

/// The reason why an entry of a key set is skipped. The log shows the error text of a variant after
/// the words "an entry is".
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, thiserror::Error)]
pub(in crate::provider) enum Unusable {
    #[error("with an unknown or wrong algorithm")]
    Algorithm,
    #[error("on an unknown curve")]
    Curve,
    #[error("of an unknown key type")]
    KeyType,
    #[error("without a usable member `{0}`")]
    Member(&'static str),
    #[error("not an object")]
    NotAnObject,
    #[error("a private or shared key")]
    Private,
    #[error("above the maximum number of keys")]
    TooMany,
    #[error("not for signatures")]
    Use,
    #[error("too short or not a valid key")]
    Weak,
}

/// The type of a key. Each algorithm needs a key of one type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum KeyType {
    Ed25519,
    P256,
    P384,
    Rsa,
}

impl KeyType {
    fn supports(self, algorithm: Algorithm) -> bool {
        let needed = match algorithm {
            Algorithm::ES256 => Self::P256,
            Algorithm::ES384 => Self::P384,
            Algorithm::EdDSA => Self::Ed25519,
            Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512
            | Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512 => Self::Rsa,
        };
        self == needed
    }

    /// Creates the key. For an RSA key, `bytes` is a PKCS#1 key in DER. For an ECDSA key, `bytes`
    /// is an uncompressed point. For an Ed25519 key, `bytes` contains the 32 bytes of RFC 8032.
    /// Returns `None` if the key is too short, too long or not valid.
    fn key(self, bytes: &[u8]) -> Option<DecodingKey> {
        let point = |length: usize| bytes.len() == length && bytes.first() == Some(&4);
        let (key, valid) = match self {
            Self::Ed25519 => (
                DecodingKey::from_ed_der(bytes),
                bytes.len() == 32 && ParsedPublicKey::new(&ED25519, bytes).is_ok(),
            ),
            Self::P256 => (
                DecodingKey::from_ec_der(bytes),
                point(65) && ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes).is_ok(),
            ),
            Self::P384 => (
                DecodingKey::from_ec_der(bytes),
                point(97) && ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, bytes).is_ok(),
            ),
            Self::Rsa => (DecodingKey::from_rsa_der(bytes), valid_rsa(bytes)),
        };
        valid.then_some(key)
    }
}

/// A public key and its permitted use.
#[derive(Debug)]
pub(in crate::provider) struct Key {
    id: Option<Box<str>>,
    issuer: Option<Box<str>>,
    /// The algorithm that the key names, if any. If the key names an algorithm, the key may be used
    /// only with this algorithm.
    algorithm: Option<Algorithm>,
    family: KeyType,
    decoding: DecodingKey,
}

impl Key {
    /// Reads one public key in PEM. A key in PEM has no key id.
    pub(in crate::provider) fn from_pem(pem: &str) -> Result<Self, KeyProblem> {
        if pem.contains("PRIVATE KEY-----") {
            return Err(KeyProblem::Private);
        }
        // The library reads only the first PEM block, and accepts a certificate as a key. The
        // function `from_pem` checks the labels of all PEM blocks, because the library does not
        // check all labels.
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
        let key_type = match key.family() {
            AlgorithmFamily::Rsa => KeyType::Rsa,
            // An uncompressed point of P-256 has 65 bytes: one byte, and two coordinates of 32
            // bytes each.
            AlgorithmFamily::Ec if bytes.len() == 65 => KeyType::P256,
            AlgorithmFamily::Ec => KeyType::P384,
            AlgorithmFamily::Ed => KeyType::Ed25519,
            AlgorithmFamily::Hmac => return Err(KeyProblem::NotPublicPem),
        };
        Ok(Self {
            id: None,
            issuer: None,
            algorithm: None,
            family: key_type,
            decoding: key_type.key(bytes).ok_or(KeyProblem::Weak)?,
        })
    }

    /// Reads one entry of a key set (RFC 7517 section 4).
    pub(in crate::provider) fn from_jwk(entry: &Value) -> Result<Self, Unusable> {
        let members = entry.as_object().ok_or(Unusable::NotAnObject)?;
        if PRIVATE.iter().any(|name| members.contains_key(*name)) {
            return Err(Unusable::Private);
        }
        // A key for encryption must not be used to verify signatures.
        if !for_signatures(members) {
            return Err(Unusable::Use);
        }
        let (key_type, bytes) = key_type(members)?;
        let algorithm = match text(members, "alg")? {
            None => None,
            Some(name) => {
                let algorithm = Algorithm::named(name);
                let supported = algorithm.filter(|algorithm| key_type.supports(*algorithm));
                Some(supported.ok_or(Unusable::Algorithm)?)
            }
        };
        Ok(Self {
            id: text(members, "kid")?.map(Into::into),
            issuer: text(members, "issuer")?.map(Into::into),
            algorithm,
            family: key_type,
            decoding: key_type.key(&bytes).ok_or(Unusable::Weak)?,
        })
    }

    /// Returns true if this key may have signed a token. `id` contains the `kid` of the token. A
    /// key without an id can have signed any token. A token without a `kid` can be signed with any
    /// key.
    pub(in crate::provider) fn matches_id(&self, id: Option<&str>) -> bool {
        match (&self.id, id) {
            (Some(ours), Some(id)) => **ours == *id,
            (None, _) | (_, None) => true,
        }
    }

    /// Returns true if the type of the key fits `algorithm`, and the key does not name another
    /// algorithm.
    pub(in crate::provider) fn supports(&self, algorithm: Algorithm) -> bool {
        let may = |only: Algorithm| only == algorithm;
        self.family.supports(algorithm) && self.algorithm.is_none_or(may)
    }

    /// Returns the issuer that the key names, if any. The issuer may be a template.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// Returns true if this key made `signature` (in base64url) over `message`.
    pub(super) fn verifies(&self, signature: &str, message: &str, algorithm: Algorithm) -> bool {
        let (message, algorithm) = (message.as_bytes(), algorithm.library());
        // If the JWT library returns an error, this key cannot have made the signature.
        crypto::verify(signature, message, &self.decoding, algorithm).unwrap_or(false)
    }
}

/// Reads the type of a key, and the bytes for [`KeyType::key`].
fn key_type(members: &Object) -> Result<(KeyType, Vec<u8>), Unusable> {
    let curve = || members.get("crv").and_then(Value::as_str);
    match members.get("kty").and_then(Value::as_str) {
        Some("RSA") => Ok((KeyType::Rsa, rsa(members)?)),
        Some("EC") => {
            let (key_type, length) = match curve() {
                Some("P-256") => (KeyType::P256, 32),
                Some("P-384") => (KeyType::P384, 48),
                Some(_) | None => return Err(Unusable::Curve),
            };
            // RFC 7518 section 6.2.1.2 requires coordinates of full length. If the coordinate x
            // were too short, the coordinate y would begin at a wrong position in the point.
            let coordinate = |name| {
                let bytes = bytes(members, name)?;
                let complete = bytes.len() == length;
                complete.then_some(bytes).ok_or(Unusable::Member(name))
            };
            // The first byte of an uncompressed point is 4 (SEC 1 section 2.3.3).
            Ok((
                key_type,
                [vec![4], coordinate("x")?, coordinate("y")?].concat(),
            ))
        }
        Some("OKP") if curve() == Some("Ed25519") => Ok((KeyType::Ed25519, bytes(members, "x")?)),
        Some("OKP") => Err(Unusable::Curve),
        Some(_) | None => Err(Unusable::KeyType),
    }
}

/// Encodes the modulus and the exponent of an RSA key (RFC 7518 section 6.3.1) as PKCS#1. The
/// function removes leading zeros, because some providers add a sign byte to the modulus and the
/// exponent.
fn rsa(members: &Object) -> Result<Vec<u8>, Unusable> {
    let number = |name| {
        let bytes = bytes(members, name)?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Ok(bytes.get(zeros..).unwrap_or_default().to_vec())
    };
    let (n, e) = (number("n")?, number("e")?);
    // The gateway must not calculate with a very long modulus, because the calculation would take a
    // long time.
    if bits(&n) > 8192 {
        return Err(Unusable::Weak);
    }
    let der: Result<PublicKeyX509Der<'_>, _> = RsaPublicKeyComponents { n, e }.as_der();
    let der = der.map_err(|_no_key| Unusable::Weak)?;
    let key = aws_lc_rs::rsa::PublicKey::from_der(der.as_ref());
    let key = key.map_err(|_rejected| Unusable::Weak)?;
    Ok(key.as_ref().to_vec())
}

/// Returns true if the key may verify signatures. The members `use` and `key_ops` are optional, but
/// a present member must allow the verification (RFC 7517 sections 4.2 and 4.3).
fn for_signatures(members: &Object) -> bool {
    let usage = members.get("use").is_none_or(|usage| usage == "sig");
    let operations = members.get("key_ops").is_none_or(|operations| {
        let operations = operations.as_array();
        operations.is_some_and(|names| names.iter().any(|name| name == "verify"))
    });
    usage && operations
}

/// Reads an optional member, whose value must be a string.
fn text<'a>(members: &'a Object, name: &'static str) -> Result<Option<&'a str>, Unusable> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Unusable::Member(name)),
    }
}

/// Decodes a required member in base64url (RFC 7515 section 2).
fn bytes(members: &Object, name: &'static str) -> Result<Vec<u8>, Unusable> {
    let text = text(members, name)?.unwrap_or_default();
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    bytes
        .filter(|bytes| !bytes.is_empty())
        .ok_or(Unusable::Member(name))
}

/// Returns true if an RSA key has 2048 to 8192 bits and an odd exponent other than 1. The unusual
/// exponent 3 is accepted. The exponent 3 is secure, because the library checks the PKCS#1 padding
/// completely.
fn valid_rsa(der: &[u8]) -> bool {
    let Ok(key) = aws_lc_rs::rsa::PublicKey::from_der(der) else {
        return false;
    };
    let exponent = key.exponent();
    let exponent = exponent.big_endian_without_leading_zero();
    (2048..=8192).contains(&bits(key.modulus().big_endian_without_leading_zero()))
        && exponent != [1]
        && exponent.last().is_some_and(|last| last % 2 == 1)
        && ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der).is_ok()
}

/// Returns the number of bits of `number`, which has no leading zero bytes.
fn bits(number: &[u8]) -> usize {
    let unused = number.first().map_or(0, |first| first.leading_zeros());
    let unused = usize::try_from(unused).unwrap_or_default();
    number.len().saturating_mul(8).saturating_sub(unused)
}
