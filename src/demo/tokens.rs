//! The keys of the authorization server, which sign access tokens, encrypt codes and refresh
//! tokens, and make CSRF tokens.

use std::fmt::Write as _;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use aws_lc_rs::{hmac, rsa};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Error;
use crate::clock::Timestamp;
use crate::secret;

/// The first bytes of every encrypted value: version 2 of the format of league/oauth2-server.
const VERSION: [u8; 4] = [0xde, 0xf5, 0x02, 0x00];

/// The length of the salt in bytes. The version, the salt, the nonce and the tag have 84 bytes in
/// total, as many as the overhead of league/oauth2-server. An encrypted value of the demo therefore
/// has the same length as on the real server.
const SALT: usize = 52;

/// The DER encoding of a 2048-bit `RSAPublicKey` (RFC 8017 appendix A.1.1): the bytes before the
/// modulus, and the bytes after the modulus (the exponent 65537).
const BEFORE_MODULUS: [u8; 9] = [0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00];
const AFTER_MODULUS: [u8; 5] = [0x02, 0x03, 0x01, 0x00, 0x01];

/// The header of a Passport token: the members `typ` and `alg`, but no `kid`.
const HEADER: &str = r#"{"typ":"JWT","alg":"RS256"}"#;

/// The keys of one authorization server of the demo. The keys are generated when the server starts
/// and are never stored.
pub(crate) struct Keys {
    signing: rsa::KeyPair,
    sealing: RandomizedNonceKey,
    forms: hmac::Key,
    public_pem: String,
    /// The modulus in base64url.
    modulus: String,
    /// The key id: the thumbprint of the signing key (RFC 7638 section 3).
    kid: String,
}

impl Keys {
    /// Generates a 2048-bit key pair and two secret keys.
    pub(crate) fn generate() -> Result<Self, Error> {
        let failed = |_unspecified| Error::Key;
        let signing = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).map_err(failed)?;
        let public: PublicKeyX509Der<'_> = signing.public_key().as_der().map_err(failed)?;
        let public_pem = pem("PUBLIC KEY", public.as_ref());
        let modulus = signing.public_key().as_ref();
        let modulus = modulus.strip_prefix(&BEFORE_MODULUS);
        let modulus = modulus.and_then(|rest| rest.strip_suffix(&AFTER_MODULUS));
        let modulus = URL_SAFE_NO_PAD.encode(modulus.ok_or(Error::Key)?);
        let members = format!(r#"{{"e":"AQAB","kty":"RSA","n":"{modulus}"}}"#);
        let kid = URL_SAFE_NO_PAD.encode(digest(&SHA256, members.as_bytes()));
        let sealing = secret::random::<32>()?;
        Ok(Self {
            signing,
            sealing: RandomizedNonceKey::new(&AES_256_GCM, &sealing).map_err(failed)?,
            forms: hmac::Key::new(hmac::HMAC_SHA256, &secret::random::<32>()?),
            public_pem,
            modulus,
            kid,
        })
    }

    /// The public key as a PEM block (`SubjectPublicKeyInfo`).
    pub(crate) fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// The public key as a JWK (RFC 7517 section 4).
    pub(crate) fn jwk(&self) -> Value {
        json!({
            "kty": "RSA",
            "use": "sig",
            "alg": "RS256",
            "kid": self.kid,
            "n": self.modulus,
            "e": "AQAB",
        })
    }

    /// Signs `claims` as a compact RS256 JWT with the header of a Passport token. Returns `None` if
    /// signing fails, which does not happen in practice.
    pub(crate) fn sign(&self, claims: &impl Serialize) -> Option<String> {
        self.sign_with(HEADER, claims)
    }

    /// Signs `claims` as a compact RS256 JWT with the type `typ` and the key id. Returns `None` if
    /// signing fails.
    pub(crate) fn sign_as(&self, typ: &str, claims: &impl Serialize) -> Option<String> {
        let header = json!({ "typ": typ, "alg": "RS256", "kid": self.kid });
        self.sign_with(&header.to_string(), claims)
    }

    fn sign_with(&self, header: &str, claims: &impl Serialize) -> Option<String> {
        let claims = serde_json::to_vec(claims).ok()?;
        let mut token = URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let mut signature = vec![0; self.signing.public_modulus_len()];
        self.signing
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                token.as_bytes(),
                &mut signature,
            )
            .ok()?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Some(token)
    }

    /// Encrypts `value` as JSON and encodes the result as lower-case hex. Only [`Keys::open`] can
    /// decrypt the returned text.
    pub(crate) fn seal(&self, value: &impl Serialize) -> Option<String> {
        let mut text = serde_json::to_vec(value).ok()?;
        // AES-GCM needs no salt. The salt only makes the encrypted value as long as an encrypted
        // value of a real server.
        let salt = secret::random::<SALT>().ok()?;
        let nonce = self
            .sealing
            .seal_in_place_append_tag(Aad::from(salt), &mut text)
            .ok()?;
        Some(hex(&[&VERSION[..], &salt, nonce.as_ref(), &text].concat()))
    }

    /// Decrypts a value that [`Keys::seal`] has encrypted. Returns `None` if the value was changed
    /// or was encrypted by a different server.
    pub(crate) fn open<T: DeserializeOwned>(&self, sealed: &str) -> Option<T> {
        let bytes = unhex(sealed)?;
        let rest = bytes.strip_prefix(&VERSION)?;
        let (salt, rest) = rest.split_first_chunk::<SALT>()?;
        let (nonce, text) = rest.split_first_chunk::<12>()?;
        let mut text = text.to_vec();
        let text = self
            .sealing
            .open_in_place(Nonce::from(nonce), Aad::from(salt), &mut text)
            .ok()?;
        serde_json::from_slice(text).ok()
    }

    /// Returns the CSRF token of the forms in the login session `session`.
    pub(crate) fn form_token(&self, session: &str) -> String {
        hex(hmac::sign(&self.forms, session.as_bytes()).as_ref())
    }

    /// Returns true if `token` is the CSRF token of `session`. The comparison takes constant time.
    pub(crate) fn is_form_token(&self, session: &str, token: &str) -> bool {
        unhex(token).is_some_and(|tag| hmac::verify(&self.forms, session.as_bytes(), &tag).is_ok())
    }
}

/// The claims of an access token, in the same order as in a Passport token. Dates are seconds with
/// a fraction in microseconds. For each token, the real Passport server reads its clock three
/// times: for `exp`, then for `iat`, then for `nbf`.
#[derive(Debug, Serialize)]
pub(crate) struct Claims {
    pub(crate) aud: String,
    pub(crate) jti: String,
    pub(crate) iat: f64,
    pub(crate) nbf: f64,
    pub(crate) exp: f64,
    pub(crate) sub: String,
    pub(crate) scopes: Vec<String>,
}

/// Returns the time `at` in seconds, with six decimal places. The first three decimal places are
/// the milliseconds of `at`. The last three decimal places are the microseconds in `micros` (0 to
/// 999).
pub(crate) fn numeric_date(at: Timestamp, micros: u16) -> f64 {
    let millis = at.as_millis() % 1000;
    // Like the real server, this function parses the number from text, so the JSON contains exactly
    // the digits of the text.
    format!("{}.{millis:03}{micros:03}", at.as_secs())
        .parse()
        .unwrap_or_default()
}

/// Returns a random identifier of 80 hexadecimal digits, for a code or a token.
pub(crate) fn identifier() -> Option<String> {
    secret::random::<40>().ok().map(|bytes| hex(&bytes))
}

fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in STANDARD.encode(der).as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).unwrap_or_default());
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().saturating_mul(2));
    for byte in bytes {
        // Writing to a `String` does not fail.
        if write!(text, "{byte:02x}").is_err() {
            break;
        }
    }
    text
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    pairs
        .iter()
        .map(|[high, low]| {
            let value = digit(*high)?.checked_mul(16)?.checked_add(digit(*low)?)?;
            u8::try_from(value).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::token_checker::TokenChecker;

    #[test]
    fn a_sealed_value_is_as_long_as_a_real_one_and_opens_only_with_its_key() {
        let keys = Keys::generate().unwrap();
        let text = "x".repeat(300);
        let sealed = keys.seal(&text).unwrap();
        assert!(sealed.starts_with("def50200"));
        assert_eq!(sealed.len(), 2 * (84 + 302));
        assert_eq!(keys.open::<String>(&sealed), Some(text));
        assert_eq!(Keys::generate().unwrap().open::<String>(&sealed), None);
    }

    #[test]
    fn a_sealed_value_with_a_changed_character_does_not_open() {
        let keys = Keys::generate().unwrap();
        let sealed = keys.seal(&"17").unwrap();
        for index in 0..sealed.len() {
            let mut other = sealed.clone().into_bytes();
            other[index] = if other[index] == b'0' { b'1' } else { b'0' };
            let other = String::from_utf8(other).unwrap();
            assert_eq!(keys.open::<String>(&other), None, "{index}");
        }
        let odd = sealed.strip_prefix('d').unwrap();
        for other in ["", "def50200", odd, &sealed.to_uppercase(), "zz"] {
            assert_eq!(keys.open::<String>(other), None, "{other}");
        }
    }

    #[test]
    fn dates_keep_their_microseconds_to_the_digit() {
        let date = numeric_date(Timestamp::from_millis(1_795_384_938_372), 369);
        assert_eq!(serde_json::to_string(&date).unwrap(), "1795384938.372369");
    }

    #[test]
    fn a_signed_token_has_the_header_and_the_member_order_of_a_real_token() {
        let keys = Keys::generate().unwrap();
        let claims = Claims {
            aud: "3".into(),
            jti: identifier().unwrap(),
            iat: 1.5,
            nbf: 1.5,
            exp: 2.5,
            sub: "17".into(),
            scopes: vec!["read".into()],
        };
        let token = keys.sign(&claims).unwrap();
        assert!(token.starts_with("eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9."));
        let payload = URL_SAFE_NO_PAD
            .decode(token.split('.').nth(1).unwrap())
            .unwrap();
        let payload = String::from_utf8(payload).unwrap();
        let at = |name: &str| payload.find(&format!("\"{name}\":")).unwrap();
        let names = ["aud", "jti", "iat", "nbf", "exp", "sub", "scopes"];
        assert!(names.map(at).is_sorted(), "{payload}");
        let checker = TokenChecker::from_pem(keys.public_pem()).unwrap();
        assert!(checker.read(&token).unwrap().signed);
        let other = TokenChecker::from_pem(Keys::generate().unwrap().public_pem()).unwrap();
        assert!(!other.read(&token).unwrap().signed);
    }

    #[test]
    fn a_form_token_belongs_to_one_session() {
        let keys = Keys::generate().unwrap();
        let token = keys.form_token("a");
        assert!(keys.is_form_token("a", &token));
        assert!(!keys.is_form_token("b", &token));
        assert!(!keys.is_form_token("a", ""));
    }
}
