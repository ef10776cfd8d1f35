//! Signs the JSON Web Tokens by which we say who we are (RFC 7523).

use std::fmt;

use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
};
use jsonwebtoken::{AlgorithmFamily, EncodingKey, Header, encode};
use serde::Serialize;

use crate::provider::settings::Algorithm;
use crate::secret::{NoRandomness, Secret};

/// What an RSA key can sign with; the first is the default.
const RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// What is wrong with a private key.
///
/// Side: gateway.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SigningKeyProblem {
    /// Encrypted: nobody is there to type a passphrase.
    #[error("it is encrypted; it has to be there without a passphrase")]
    Encrypted,
    /// Not one PEM block `PRIVATE KEY` or `RSA PRIVATE KEY`.
    #[error("it is not one private key in PEM (PKCS#8)")]
    NotPrivatePem,
    /// A public key or a certificate.
    #[error("it is a public key; the private key belongs here")]
    Public,
    /// SEC1, which only knows elliptic curves and which the library does not read.
    #[error(
        "it is in the older form \"EC PRIVATE KEY\"; turn it into PKCS#8: openssl pkcs8 -topk8 \
         -nocrypt -in KEY -out KEY.pem"
    )]
    Sec1,
    /// The configured algorithm is one of another kind of key.
    #[error("it does not suit `client_assertion.algorithm`")]
    WrongAlgorithm,
    /// RSA below 2048 or above 8192 bits, another curve than P-256, P-384 and Ed25519, and the
    /// like.
    #[error("it is too short, on a curve that is not known, or not a valid key")]
    Weak,
}

/// Why no token could be made.
///
/// Side: gateway.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// There was no randomness for its identifier.
    #[error("the token can have no identifier")]
    Identifier(#[source] NoRandomness),
    /// The key that was tried at start does not sign any more.
    #[error("the token could not be signed")]
    Signature,
}

/// A key with its algorithm. Shows the algorithm alone.
pub(in crate::provider) struct Signer {
    algorithm: jsonwebtoken::Algorithm,
    key: EncodingKey,
}

impl Signer {
    /// From a private key: PKCS#8 for RSA, P-256, P-384 and Ed25519, or PKCS#1 for RSA. Without
    /// `algorithm` it is RS256, ES256, ES384 or `EdDSA`, as the key is.
    pub(in crate::provider) fn from_pem(
        pem: &str,
        algorithm: Option<Algorithm>,
    ) -> Result<Self, SigningKeyProblem> {
        let key = private_key(pem)?;
        let suited = suited(&key).ok_or(SigningKeyProblem::Weak)?;
        let wanted = algorithm.or_else(|| suited.first().copied());
        let algorithm = wanted.filter(|wanted| suited.contains(wanted));
        let algorithm = algorithm
            .ok_or(SigningKeyProblem::WrongAlgorithm)?
            .library();
        let signer = Self { algorithm, key };
        // Tried once here, so that a key which cannot sign is found at start.
        let tried = signer.sign(None, &());
        tried
            .map(|_token| signer)
            .map_err(|_cannot| SigningKeyProblem::Weak)
    }

    /// HS256 keyed with the client secret as it stands (OpenID Connect Core 1.0 section 10.1).
    pub(in crate::provider) fn from_secret(secret: &Secret<String>) -> Self {
        Self {
            algorithm: jsonwebtoken::Algorithm::HS256,
            key: EncodingKey::from_secret(secret.expose().as_bytes()),
        }
    }

    /// A compact JWS of `claims`, of type `JWT`. `kid` is there only when `key_id` is.
    pub(in crate::provider) fn sign(
        &self,
        key_id: Option<&str>,
        claims: &impl Serialize,
    ) -> Result<Secret<String>, SigningError> {
        let mut header = Header::new(self.algorithm);
        header.kid = key_id.map(str::to_owned);
        encode(&header, claims, &self.key)
            .map(Secret::new)
            .map_err(|_says_no_more| SigningError::Signature)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signer").field(&self.algorithm).finish()
    }
}

fn private_key(pem: &str) -> Result<EncodingKey, SigningKeyProblem> {
    if pem.contains("ENCRYPTED") {
        return Err(SigningKeyProblem::Encrypted);
    }
    let public = pem.contains("PUBLIC KEY-----") || pem.contains("CERTIFICATE-----");
    if public && !pem.contains("PRIVATE KEY-----") {
        return Err(SigningKeyProblem::Public);
    }
    if pem.contains("-----BEGIN EC PRIVATE KEY-----") {
        return Err(SigningKeyProblem::Sec1);
    }
    let labels = [
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----",
    ];
    let labelled = labels.iter().any(|label| pem.contains(label));
    if !labelled || pem.matches("-----BEGIN").count() != 1 {
        return Err(SigningKeyProblem::NotPrivatePem);
    }
    let pem = pem.as_bytes();
    EncodingKey::from_rsa_pem(pem)
        .or_else(|_not_rsa| EncodingKey::from_ec_pem(pem))
        .or_else(|_not_ec| EncodingKey::from_ed_pem(pem))
        .map_err(|_not_ed| SigningKeyProblem::NotPrivatePem)
}

/// The algorithms that a key can sign with, the default first; `None` when it is no good at all.
fn suited(key: &EncodingKey) -> Option<&'static [Algorithm]> {
    let bytes = key.as_bytes();
    match key.family() {
        AlgorithmFamily::Rsa => {
            // Takes 2048 to 8192 bits.
            rsa::KeyPair::from_der(bytes).ok()?;
            Some(&RSA)
        }
        AlgorithmFamily::Ec => {
            if EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes).is_ok() {
                return Some(&[Algorithm::ES256]);
            }
            EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, bytes).ok()?;
            Some(&[Algorithm::ES384])
        }
        AlgorithmFamily::Ed => {
            Ed25519KeyPair::from_pkcs8(bytes).ok()?;
            Some(&[Algorithm::EdDSA])
        }
        AlgorithmFamily::Hmac => None,
    }
}
