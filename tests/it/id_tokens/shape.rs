//! A token in a form that no correct provider issues.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::support::provider::CLIENT_SECRET;
use crate::support::provider::{Draft, Keys, base64url, hs256, left_half, unbase64url};

/// The parts of the token, which `finish` puts together after all steps.
pub(super) struct Shape<'a> {
    draft: &'a Draft,
    pub(super) header: Value,
    pub(super) claims: Value,
    /// Bytes that replace header and claims, or are inserted before their closing brace.
    pub(super) raw_header: Option<Vec<u8>>,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) more_header: Vec<u8>,
    pub(super) more_claims: Vec<u8>,
    signing: Signing,
    signature: String,
    /// The serialisation of the three parts.
    pub(super) form: String,
}

enum Signing {
    By(Keys, String),
    Secret(Vec<u8>),
    /// The "signature" of a key with the exponent 1.
    Trivial,
    Nothing,
}

impl<'a> Shape<'a> {
    pub(super) fn new(draft: &'a Draft) -> Self {
        Self {
            draft,
            header: draft.header.clone(),
            claims: draft.claims.clone(),
            raw_header: None,
            payload: None,
            more_header: Vec::new(),
            more_claims: Vec::new(),
            signing: Signing::By(draft.keys, draft.alg().to_owned()),
            signature: String::new(),
            form: String::new(),
        }
    }

    /// Selects the signing key. The header names its algorithm unless a later step changes it.
    pub(super) fn sign(&mut self, how: &str) {
        let keys = self.draft.keys;
        let (word, rest) = how.split_once(' ').unwrap_or((how, ""));
        let (alg, signing) = match word {
            "none" => ("none", Signing::Nothing),
            "attacker" => (rest, Signing::By(keys.of_an_attacker(), rest.to_owned())),
            "secret" => ("HS256", Signing::Secret(secret(keys, rest))),
            "trivial" => ("RS256", Signing::Trivial),
            alg => (alg, Signing::By(keys, alg.to_owned())),
        };
        if self.claims.get("at_hash").is_some() {
            self.claims["at_hash"] = left_half(alg, &self.draft.access_token).into();
        }
        self.header["alg"] = alg.into();
        self.header["kid"] = keys.kid(alg).into();
        self.signing = signing;
    }

    pub(super) fn signature(&mut self, how: &str) {
        how.clone_into(&mut self.signature);
    }

    pub(super) fn finish(self) -> String {
        let header = self.raw_header.clone();
        let header = header.unwrap_or_else(|| joined(&self.header, &self.more_header));
        let payload = self.payload.clone();
        let payload = payload.unwrap_or_else(|| joined(&self.claims, &self.more_claims));
        let message = format!("{}.{}", base64url(header), base64url(payload));
        let signature = match &self.signing {
            Signing::By(keys, alg) => keys.sign(alg, message.as_bytes()),
            Signing::Secret(secret) => hs256(secret, message.as_bytes()),
            Signing::Trivial => padded(message.as_bytes()),
            Signing::Nothing => Vec::new(),
        };
        let signature = base64url(resigned(signature, &self.signature));
        written(&message, &signature, &self.form)
    }
}

/// The object with `more` before its closing brace.
fn joined(object: &Value, more: &[u8]) -> Vec<u8> {
    let mut bytes = object.to_string().into_bytes();
    if !more.is_empty() {
        bytes.pop();
        bytes.push(b',');
        bytes.extend_from_slice(more);
        bytes.push(b'}');
    }
    bytes
}

/// Decodes `\xNN` as a byte. Every other backslash stays.
pub(super) fn bytes(text: &str) -> Vec<u8> {
    let mut pieces = text.split("\\x");
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        bytes.push(u8::from_str_radix(&piece[..2], 16).unwrap());
        bytes.extend_from_slice(&piece.as_bytes()[2..]);
    }
    bytes
}

/// The bytes that a naive verifier would use as the shared secret.
fn secret(keys: Keys, which: &str) -> Vec<u8> {
    match which {
        "pem" => keys.rsa_pem().into_bytes(),
        "pem-trimmed" => keys.rsa_pem().trim_end().as_bytes().to_vec(),
        "der" => keys.rsa_der(),
        "modulus" => keys.rsa_numbers().0,
        "modulus-text" => base64url(keys.rsa_numbers().0).into_bytes(),
        "jwk" => keys.jwk("RS256").to_string().into_bytes(),
        "jwks" => keys.jwks().to_string().into_bytes(),
        "client" => CLIENT_SECRET.as_bytes().to_vec(),
        "empty" => Vec::new(),
        "kid" => keys.kid("RS256").into_bytes(),
        // The `oct` key that some rows publish.
        "published" => b"everybody knows this secret very well".to_vec(),
        _ => panic!("no such secret: {which:?}"),
    }
}

/// The PKCS#1 v1.5 padding with SHA-256 for a modulus of 2048 bits. With the exponent 1, the
/// signature is equal to the padding.
fn padded(message: &[u8]) -> Vec<u8> {
    const PREFIX: [u8; 19] = [
        0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01,
        0x05, 0x00, 0x04, 0x20,
    ];
    let hash = digest(&SHA256, message);
    let mut padded = vec![0x00, 0x01];
    padded.resize(256 - 1 - PREFIX.len() - 32, 0xff);
    padded.push(0x00);
    padded.extend_from_slice(&PREFIX);
    padded.extend_from_slice(hash.as_ref());
    padded
}

fn resigned(mut signature: Vec<u8>, how: &str) -> Vec<u8> {
    let half = signature.len() / 2;
    match how {
        "" => {}
        "zero" => signature.fill(0),
        "r=0" => signature[..half].fill(0),
        "s=0" => signature[half..].fill(0),
        "ones" => signature.fill(0xff),
        "der" => return der(&signature),
        "cut" => drop(signature.pop()),
        "longer" => signature.push(0),
        "leading-zero" => signature.insert(0, 0),
        "swapped-halves" => signature.rotate_left(half),
        "empty" => signature.clear(),
        "byte" => signature.truncate(1),
        "twice" => signature.extend_from_within(..),
        _ => panic!("no such signature: {how:?}"),
    }
    signature
}

/// `r` and `s` as an ASN.1 sequence, as in TLS.
fn der(raw: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let mut number: Vec<u8> = bytes
            .iter()
            .copied()
            .skip_while(|byte| *byte == 0)
            .collect();
        if number.first().is_none_or(|byte| *byte >= 0x80) {
            number.insert(0, 0);
        }
        [vec![2, u8::try_from(number.len()).unwrap()], number].concat()
    };
    let (r, s) = raw.split_at(raw.len() / 2);
    let body = [integer(r), integer(s)].concat();
    [vec![0x30, u8::try_from(body.len()).unwrap()], body].concat()
}

/// Serialises the token.
fn written(message: &str, signature: &str, form: &str) -> String {
    let compact = format!("{message}.{signature}");
    let (header, payload) = message.split_once('.').unwrap();
    let (word, rest) = form.split_once(' ').unwrap_or((form, ""));
    match word {
        "" => compact,
        "two-segments" => message.to_owned(),
        "one-segment" => header.to_owned(),
        "no-header" => format!(".{payload}.{signature}"),
        "no-payload" => format!("{header}..{signature}"),
        "before" => format!("{}{compact}", String::from_utf8(bytes(rest)).unwrap()),
        "after" => format!("{compact}{}", String::from_utf8(bytes(rest)).unwrap()),
        "dots" => ".".repeat(rest.parse().unwrap()),
        "is" => rest.to_owned(),
        "long" => "A".repeat(rest.parse().unwrap()),
        "flattened" => {
            json!({ "protected": header, "payload": payload, "signature": signature }).to_string()
        }
        "general" => {
            let signatures = json!([{ "protected": header, "signature": signature }]);
            json!({ "payload": payload, "signatures": signatures }).to_string()
        }
        "polyglot" => {
            // A reader of JSON finds other claims in this token than a reader of compact tokens.
            let claims = base64url(r#"{"iss":"evil"}"#);
            format!("{{\"x\":\"{header}.{payload}\",\"payload\":\"{claims}\"}}.{signature}")
        }
        "padded" => [header, payload, signature].map(with_padding).join("."),
        "padded-signature" => format!("{message}.{}", with_padding(signature)),
        "plain-alphabet" => compact.replace('-', "+").replace('_', "/"),
        "spaced" => format!("{header}. {payload}.{signature}"),
        "newline-inside" => {
            let (start, end) = payload.split_at(payload.len() / 2);
            format!("{header}.{start}\n{end}.{signature}")
        }
        "percent" => compact.replace('.', "%2E"),
        "percent-letter" => format!("%65{}", &compact[1..]),
        "loose-signature" => format!("{message}.{}", loose(signature)),
        "loose-payload" => format!("{header}.{}.{signature}", loose(payload)),
        "encrypted" => {
            let header = base64url(rest);
            format!(
                "{header}.{}.AAAAAAAAAAAAAAAA.{}.AAAAAAAAAAAAAAAAAAAAAA",
                "A".repeat(342),
                payload
            )
        }
        "nested" => {
            // A signed token is the payload of an unsigned token.
            let outer = base64url(r#"{"alg":"none","cty":"JWT"}"#);
            format!("{outer}.{}.", base64url(compact))
        }
        _ => panic!("no such form: {form:?}"),
    }
}

fn with_padding(part: &str) -> String {
    let missing = (4 - part.len() % 4) % 4;
    format!("{part}{}", "=".repeat(missing))
}

/// Sets the bits of the last character that belong to no byte.
fn loose(part: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    assert_ne!(part.len() % 4, 0, "no bit of {part} is loose");
    let (start, last) = part.split_at(part.len() - 1);
    let at = ALPHABET.iter().position(|byte| *byte == last.as_bytes()[0]);
    format!("{start}{}", char::from(ALPHABET[at.unwrap() + 1]))
}

#[test]
fn unused_bits_do_not_change_what_a_lenient_decoder_reads() {
    let part = base64url([1, 2, 3, 4]);
    assert_ne!(loose(&part), part);
    assert_eq!(unbase64url(&part), [1, 2, 3, 4]);
    assert_eq!(loose(&part)[..5], part[..5]);
}
