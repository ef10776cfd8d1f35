//! Signs client assertions (RFC 7523).

use std::fmt;

use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
};
use jsonwebtoken::{AlgorithmFamily, EncodingKey, Header, encode};
use serde::Serialize;

use crate::provider::settings::Algorithm;
use crate::secret::{NoRandomness, Secret};

/// The algorithms of an RSA key. If the settings name no algorithm, the gateway uses the first
/// algorithm of this list.
const RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// The problem with a private key file. The operator has to correct the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SigningKeyProblem {
    /// The key is encrypted. The gateway cannot ask for a passphrase when the gateway starts.
    #[error("it is encrypted; remove the passphrase")]
    Encrypted,
    /// The text is not one PEM block `PRIVATE KEY` or `RSA PRIVATE KEY`.
    #[error("it is not one private key in PEM (PKCS#8)")]
    NotPrivatePem,
    /// The text is a public key or a certificate.
    #[error("it is a public key; the private key belongs here")]
    Public,
    /// The key is in the SEC1 format, which the library does not read.
    #[error(
        "it is in the older form \"EC PRIVATE KEY\"; turn it into PKCS#8: openssl pkcs8 -topk8 \
         -nocrypt -in KEY -out KEY.pem"
    )]
    Sec1,
    /// The type of the key does not match the configured algorithm.
    #[error("it does not fit `client_assertion.algorithm`")]
    WrongAlgorithm,
    /// The key is too weak, not supported or not valid. For example, an RSA key has fewer than 2048
    /// or more than 8192 bits, or the curve of an elliptic-curve key is not P-256, P-384 or
    /// Ed25519.
    #[error("it is too short, on an unknown curve, or not a valid key")]
    Weak,
}

/// The reason why no token could be signed. The cause is in the gateway, not at the provider.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The operating system returned no random bytes for the identifier of the token.
    #[error("no identifier could be created for the token")]
    Identifier(#[source] NoRandomness),
    /// The creation of the signature failed, although a test signature succeeded when the gateway
    /// started.
    #[error("the token could not be signed")]
    Signature,
}

/// A private key with its algorithm. `Debug` shows only the algorithm.
pub(in crate::provider) struct Signer {
    algorithm: jsonwebtoken::Algorithm,
    key: EncodingKey,
}

impl Signer {
    /// Reads a private key: PKCS#8 for RSA, P-256, P-384 and Ed25519, or PKCS#1 for RSA. If no
    /// `algorithm` is given, the type of the key determines the algorithm: RS256, ES256, ES384 or
    /// `EdDSA`.
    pub(in crate::provider) fn from_pem(
        pem: &str,
        algorithm: Option<Algorithm>,
    ) -> Result<Self, SigningKeyProblem> {
        let key = private_key(pem)?;
        let supported = supported_algorithms(&key).ok_or(SigningKeyProblem::Weak)?;
        let chosen = algorithm.or_else(|| supported.first().copied());
        let algorithm = chosen.filter(|chosen| supported.contains(chosen));
        let algorithm = algorithm
            .ok_or(SigningKeyProblem::WrongAlgorithm)?
            .library();
        let signer = Self { algorithm, key };
        // When the gateway starts, a test signature shows whether the key can be used.
        let tried = signer.sign(None, &());
        tried
            .map(|_token| signer)
            .map_err(|_cannot| SigningKeyProblem::Weak)
    }

    /// Creates a signer for HS256. The key is the unchanged client secret (OpenID Connect Core 1.0
    /// section 10.1).
    pub(in crate::provider) fn from_secret(secret: &Secret<String>) -> Self {
        Self {
            algorithm: jsonwebtoken::Algorithm::HS256,
            key: EncodingKey::from_secret(secret.expose().as_bytes()),
        }
    }

    /// Signs `claims` as a compact JWS of type `JWT`. The JWS has the header member `kid` only if
    /// `key_id` is given.
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

/// Returns the algorithms with which the key can sign, or `None` if the key is not valid. If the
/// settings name no algorithm, the gateway uses the first returned algorithm.
fn supported_algorithms(key: &EncodingKey) -> Option<&'static [Algorithm]> {
    let bytes = key.as_bytes();
    match key.family() {
        AlgorithmFamily::Rsa => {
            // `from_der` accepts only RSA keys of 2048 to 8192 bits.
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
