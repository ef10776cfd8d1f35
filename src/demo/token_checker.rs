//! Verifies access tokens independently of the gateway.
//!
//! The gateway verifies tokens with a JWT library. This module uses only the RSA primitive, so that
//! a bug in the JWT library cannot hide a wrong token from this module.

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::Error;
use crate::clock::Timestamp;

/// The maximum number of seconds by which the issuer's clock may be ahead of the app's clock.
const LEEWAY: f64 = 2.0;

/// Verifies tokens with one RSA public key.
#[derive(Clone, Debug)]
pub(crate) struct TokenChecker {
    key: Vec<u8>,
}

/// A decoded token, whose signature can be invalid.
#[derive(Clone, Debug)]
pub(crate) struct ParsedToken {
    pub(crate) header: Map<String, Value>,
    pub(crate) claims: Map<String, Value>,
    /// True if the algorithm is RS256 and the signature is valid.
    pub(crate) signed: bool,
}

impl TokenChecker {
    /// Reads a PEM block with a `SubjectPublicKeyInfo`.
    pub(crate) fn from_pem(pem: &str) -> Result<Self, Error> {
        let lines = pem.lines().map(str::trim);
        let body: String = lines.filter(|line| !line.starts_with("-----")).collect();
        match STANDARD.decode(body) {
            Ok(key) if !key.is_empty() => Ok(Self { key }),
            Ok(_) | Err(_) => Err(Error::PublicKey),
        }
    }

    /// Decodes a compact JWT and verifies its signature. Returns `None` if `token` is not a JWT.
    pub(crate) fn read(&self, token: &str) -> Option<ParsedToken> {
        let (signed, signature) = token.rsplit_once('.')?;
        // If the token has more than three parts, `claims` contains a dot and cannot be decoded.
        let (header, claims) = signed.split_once('.')?;
        let header = decode_object(header)?;
        let claims = decode_object(claims)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.key);
        let signed = header.get("alg").and_then(Value::as_str) == Some("RS256")
            && key.verify(signed.as_bytes(), &signature).is_ok();
        Some(ParsedToken {
            header,
            claims,
            signed,
        })
    }
}

impl ParsedToken {
    /// Returns the subject if the token is valid at `now` for `audience` (RFC 7519 section 4.1).
    /// Returns the reason if the token is invalid.
    pub(crate) fn subject(&self, audience: &str, now: Timestamp) -> Result<&str, &'static str> {
        // An `f64` is precise enough to distinguish all milliseconds in this century.
        let now = std::time::Duration::from_millis(now.as_millis()).as_secs_f64();
        let date = |name: &str| self.claims.get(name).and_then(Value::as_f64);
        if !self.signed {
            return Err("it is not signed with the expected key");
        }
        if self.claims.get("aud").and_then(Value::as_str) != Some(audience) {
            return Err("it is for another audience");
        }
        if date("exp").is_none_or(|exp| exp <= now) {
            return Err("it has expired");
        }
        // If the clock of the issuer is ahead, a new token has an `nbf` in the near future.
        if date("nbf").is_some_and(|nbf| nbf > now + LEEWAY) {
            return Err("it is not valid yet");
        }
        match self.claims.get("sub").and_then(Value::as_str) {
            Some(subject) if !subject.is_empty() => Ok(subject),
            Some(_) | None => Err("it has no subject"),
        }
    }
}

fn decode_object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::tokens::{Claims, Keys};

    fn claims() -> Claims {
        Claims {
            aud: "3".into(),
            jti: "0".repeat(80),
            iat: 100.25,
            nbf: 100.25,
            exp: 200.5,
            sub: "17".into(),
            scopes: Vec::new(),
        }
    }

    #[test]
    fn a_token_is_valid_only_if_signed_in_time_and_for_its_audience() {
        let keys = Keys::generate().unwrap();
        let checker = TokenChecker::from_pem(keys.public_pem()).unwrap();
        let at = |seconds| Timestamp::from_seconds(seconds);
        let token = checker.read(&keys.sign(&claims()).unwrap()).unwrap();
        assert_eq!(token.subject("3", at(150.0)), Ok("17"));
        assert!(token.subject("4", at(150.0)).is_err());
        assert!(token.subject("3", at(200.5)).is_err());
        assert!(token.subject("3", at(98.0)).is_err());
        assert!(token.subject("3", at(99.0)).is_ok());
        let nobody = Claims {
            sub: String::new(),
            ..claims()
        };
        let nobody = checker.read(&keys.sign(&nobody).unwrap()).unwrap();
        assert!(nobody.subject("3", at(150.0)).is_err());
    }

    #[test]
    fn tokens_with_changed_claims_or_other_algorithms_are_not_valid() {
        let keys = Keys::generate().unwrap();
        let checker = TokenChecker::from_pem(keys.public_pem()).unwrap();
        let token = keys.sign(&claims()).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let [header, payload, signature] = parts[..] else {
            panic!("{token}")
        };
        let root = URL_SAFE_NO_PAD.encode(r#"{"aud":"3","exp":9e9,"sub":"root"}"#);
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        for forged in [
            format!("{header}.{root}.{signature}"),
            format!("{none}.{payload}.{signature}"),
            format!("{none}.{root}."),
        ] {
            let forged = checker.read(&forged).unwrap();
            assert!(forged.subject("3", Timestamp::from_seconds(150.0)).is_err());
        }
        for garbage in ["evil", "", "a.b.c", "..", &format!("{token}.x")] {
            assert!(checker.read(garbage).is_none(), "{garbage}");
        }
    }
}
