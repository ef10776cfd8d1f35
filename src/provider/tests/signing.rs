//! Signing keys of every type, and their entries in a key set.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512,
};
use serde_json::{Value, json as value};

use super::*;
use crate::provider::jwt::{ExpectedHeader, ID_TOKEN_TYPES, VerifiedToken, verify};
use crate::provider::keys::KeySet;
use crate::provider::settings::Algorithm;

/// A private key.
pub(super) enum Signer {
    Ec(EcdsaKeyPair, &'static str),
    Ed(Ed25519KeyPair),
    Rsa(&'static LazyLock<KeyPair>),
}

fn elliptic(algorithm: &'static EcdsaSigningAlgorithm, curve: &'static str) -> Signer {
    Signer::Ec(EcdsaKeyPair::generate(algorithm).unwrap(), curve)
}

pub(super) static RSA: Signer = Signer::Rsa(&KEY);
pub(super) static OTHER_RSA: Signer = Signer::Rsa(&OTHER_KEY);
pub(super) static P256: LazyLock<Signer> =
    LazyLock::new(|| elliptic(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"));
pub(super) static OTHER_P256: LazyLock<Signer> =
    LazyLock::new(|| elliptic(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"));
pub(super) static P384: LazyLock<Signer> =
    LazyLock::new(|| elliptic(&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"));
pub(super) static ED25519: LazyLock<Signer> =
    LazyLock::new(|| Signer::Ed(Ed25519KeyPair::generate().unwrap()));

pub(super) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    /// Returns the public key as an entry of a key set, without an id.
    pub(super) fn jwk(&self) -> Value {
        match self {
            Self::Ec(key, curve) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(match *curve {
                    "P-256" => 32,
                    _ => 48,
                });
                value!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) })
            }
            Self::Ed(key) => {
                let x = encode(key.public_key().as_ref());
                value!({ "kty": "OKP", "crv": "Ed25519", "x": x })
            }
            Self::Rsa(key) => {
                let key = key.public_key();
                let n = encode(key.modulus().big_endian_without_leading_zero());
                let e = encode(key.exponent().big_endian_without_leading_zero());
                value!({ "kty": "RSA", "n": n, "e": e })
            }
        }
    }

    /// Returns the public key as an entry of a key set, with the additional members `further`.
    pub(super) fn jwk_with(&self, further: Value) -> Value {
        let mut entry = self.jwk();
        let Value::Object(further) = further else {
            panic!("not an object");
        };
        entry.as_object_mut().unwrap().extend(further);
        entry
    }

    /// Signs `message` with `algorithm`. The header of the token can name a different algorithm.
    pub(super) fn signature(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Ec(key, _) => {
                let signature = key.sign(&SystemRandom::new(), message).unwrap();
                signature.as_ref().to_vec()
            }
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
            Self::Rsa(key) => {
                let how: &'static dyn RsaEncoding = match algorithm {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(how, &SystemRandom::new(), message, &mut signature)
                    .unwrap();
                signature
            }
        }
    }

    /// Returns a token with this header and payload, signed with the algorithm of `header`.
    pub(super) fn token(&self, header: &Value, payload: &str) -> String {
        let algorithm = header["alg"].as_str().unwrap_or_default();
        self.raw_token(algorithm, &header.to_string(), payload.as_bytes())
    }

    /// Returns a token whose parts are exactly the given bytes.
    pub(super) fn raw_token(&self, algorithm: &str, header: &str, payload: &[u8]) -> String {
        let message = format!("{}.{}", encode(header.as_bytes()), encode(payload));
        let signature = self.signature(algorithm, message.as_bytes());
        format!("{message}.{}", encode(&signature))
    }
}

/// Returns a key set with the given entries. At least one of `entries` must be a usable key.
pub(super) fn key_set(entries: &[Value]) -> KeySet {
    let set = value!({ "keys": entries });
    KeySet::from_jwks(set.to_string().as_bytes()).unwrap()
}

pub(super) fn verified_by(
    keys: &KeySet,
    algorithms: &[Algorithm],
    token: &str,
) -> Result<VerifiedToken, TokenError> {
    let types = ID_TOKEN_TYPES;
    verify(token, &ExpectedHeader { algorithms, types }, keys)
}

/// Verifies `token`, and accepts all algorithms. Returns `ok` or the reason code of the error.
pub(super) fn outcome(keys: &KeySet, token: &str) -> &'static str {
    verified_by(keys, &Algorithm::ALL, token)
        .map_or_else(|error| error.reason(TokenKind::IdToken), |_verified| "ok")
}
