//! An ID token before it is signed: header, claims and signature. A test can make each of these
//! parts wrong.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::keys::{Keys, hs256};

pub(crate) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn unbase64url(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// The contents of an ID token before it is signed, with the access token and code that belong to
/// it.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) header: Value,
    pub(crate) claims: Value,
    pub(crate) keys: Keys,
    pub(crate) access_token: String,
    pub(crate) code: String,
}

impl Draft {
    /// The algorithm in the header.
    pub(crate) fn alg(&self) -> &str {
        self.header["alg"].as_str().unwrap_or_default()
    }

    /// Signs with `keys` and `alg`, even if the header names another algorithm.
    pub(crate) fn signed_by(&self, keys: Keys, alg: &str) -> String {
        let (header, claims) = (self.header.to_string(), self.claims.to_string());
        compact(header, claims, |message| keys.sign(alg, message))
    }

    /// Signs with the algorithm in the header.
    pub(crate) fn signed(&self) -> String {
        self.signed_by(self.keys, self.alg())
    }

    /// Signs with a shared secret.
    pub(crate) fn signed_with_secret(&self, secret: &[u8]) -> String {
        let (header, claims) = (self.header.to_string(), self.claims.to_string());
        compact(header, claims, |message| hs256(secret, message))
    }
}

/// The compact form (RFC 7515 section 3.1) of exactly these bytes.
pub(crate) fn compact(
    header: impl AsRef<[u8]>,
    payload: impl AsRef<[u8]>,
    sign: impl FnOnce(&[u8]) -> Vec<u8>,
) -> String {
    let message = format!("{}.{}", base64url(header), base64url(payload));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", base64url(signature))
}
