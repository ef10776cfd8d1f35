//! Tests which signatures of ID tokens are accepted and which are refused. This module also tests
//! how the JWT library behaves.

use aws_lc_rs::hmac;
use serde_json::{Value, json as value};

use super::signing::*;
use super::*;
use crate::provider::keys::KeySet;
use crate::provider::settings::Algorithm;

const PAYLOAD: &str = r#"{"sub":"1"}"#;

/// Returns all test keys, each with its own id.
fn keys() -> KeySet {
    let entries = [
        ("rsa", &RSA),
        ("p256", &P256),
        ("p384", &P384),
        ("ed", &ED25519),
    ];
    key_set(&entries.map(|(kid, signer)| signer.jwk_with(value!({ "kid": kid }))))
}

fn signers() -> [(&'static str, &'static Signer); 9] {
    [
        ("ES256", &P256),
        ("ES384", &P384),
        ("EdDSA", &ED25519),
        ("PS256", &RSA),
        ("PS384", &RSA),
        ("PS512", &RSA),
        ("RS256", &RSA),
        ("RS384", &RSA),
        ("RS512", &RSA),
    ]
}

/// Verifies a token with the header `header`, which the RSA key signs with RS256. Returns the
/// outcome of the verification.
fn under(header: &str) -> &'static str {
    outcome(&keys(), &RSA.raw_token("RS256", header, PAYLOAD.as_bytes()))
}

/// Returns the outcome for a token with the payload `payload`.
fn saying(payload: &[u8]) -> &'static str {
    outcome(
        &keys(),
        &RSA.raw_token("RS256", r#"{"alg":"RS256"}"#, payload),
    )
}

#[test]
fn every_algorithm_works_with_its_own_key_and_hash() {
    let keys = keys();
    for (name, signer) in signers() {
        let token = signer.token(&value!({ "alg": name }), PAYLOAD);
        let verified = verified_by(&keys, &Algorithm::ALL, &token).unwrap();
        assert_eq!(verified.algorithm.name(), name);
        assert_eq!(verified.members["sub"], "1");
        assert_eq!(verified.key_issuer, None);
        for (other, _) in signers().iter().filter(|(other, _)| *other != name) {
            // The token is signed with the algorithm `name`, but its header names another
            // algorithm.
            let token =
                signer.raw_token(name, &format!(r#"{{"alg":"{other}"}}"#), PAYLOAD.as_bytes());
            assert_eq!(
                outcome(&keys, &token),
                "id_token_signature",
                "{name} as {other}"
            );
        }
    }
}

#[test]
fn j_01_to_08_the_algorithm_none_is_refused() {
    for alg in [
        "\"none\"",
        "\"None\"",
        "\"nOnE\"",
        "\"\"",
        "null",
        "[\"RS256\"]",
        "\"rs256\"",
    ] {
        let header = format!("{{\"alg\":{alg}}}");
        assert_eq!(under(&header), "id_token_algorithm", "{alg}");
        let message = format!(
            "{}.{}",
            encode(header.as_bytes()),
            encode(PAYLOAD.as_bytes())
        );
        let unsigned = format!("{message}.");
        assert_eq!(outcome(&keys(), &unsigned), "id_token_algorithm", "{alg}");
    }
    assert_eq!(under(r#"{"typ":"JWT"}"#), "id_token_algorithm");
}

#[test]
fn j_09_an_ecdsa_signature_is_two_numbers_that_are_not_zero() {
    let keys = keys();
    let message = format!(
        "{}.{}",
        encode(br#"{"alg":"ES256"}"#),
        encode(PAYLOAD.as_bytes())
    );
    let good = P256.signature("ES256", message.as_bytes());
    let (r, s) = good.split_at(32);
    let zero = [0; 32];
    // The order of the P-256 group. Each part of a signature must be less than the order of the
    // group, so the order itself is not a valid part.
    let order = hex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
    let der = [&[0x30, 68, 2, 32][..], r, &[2, 32], s].concat();
    let verdict = |signature: &[u8]| outcome(&keys, &format!("{message}.{}", encode(signature)));
    assert_eq!(verdict(&good), "ok");
    for (what, signature) in [
        ("all zero", [zero, zero].concat()),
        ("r zero", [&zero, s].concat()),
        ("s zero", [r, &zero].concat()),
        ("the order", [order.clone(), order].concat()),
        ("DER", der),
        ("63 bytes", good[..63].to_vec()),
        ("65 bytes", [&good[..], &[0]].concat()),
        ("65 bytes, in front", [&[0], &good[..]].concat()),
        ("nothing", Vec::new()),
    ] {
        assert_eq!(verdict(&signature), "id_token_signature", "{what}");
    }
    let of_384 = format!(
        "{}.{}",
        encode(br#"{"alg":"ES384"}"#),
        encode(PAYLOAD.as_bytes())
    );
    let zeros = format!("{of_384}.{}", encode(&[0; 96]));
    assert_eq!(outcome(&keys, &zeros), "id_token_signature");
}

fn hex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.map(byte).collect()
}

#[test]
fn j_10_to_13_a_published_key_is_not_used_as_a_shared_secret() {
    let keys = keys();
    let pem = public_pem(&KEY);
    let der: PublicKeyX509Der<'_> = KEY.public_key().as_der().unwrap();
    let jwks = value!({ "keys": [RSA.jwk()] }).to_string();
    let modulus = KEY.public_key().modulus();
    for secret in [
        pem.as_bytes(),
        der.as_ref(),
        KEY.public_key().as_ref(),
        modulus.big_endian_without_leading_zero(),
        jwks.as_bytes(),
        b"i0p6Sah1joLy8P1gwkP6ldBQiQZKbcewi9nPEUMp",
        b"",
    ] {
        for (alg, expected) in [
            ("HS256", "id_token_algorithm"),
            ("RS256", "id_token_signature"),
            ("ES256", "id_token_signature"),
            ("EdDSA", "id_token_signature"),
        ] {
            let header = format!(r#"{{"alg":"{alg}"}}"#);
            let message = format!(
                "{}.{}",
                encode(header.as_bytes()),
                encode(PAYLOAD.as_bytes())
            );
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
            let tag = hmac::sign(&key, message.as_bytes());
            let token = format!("{message}.{}", encode(tag.as_ref()));
            assert_eq!(outcome(&keys, &token), expected, "{alg}");
        }
    }
}

#[test]
fn j_14_an_algorithm_that_is_not_allowed_is_refused_by_its_name() {
    let keys = keys();
    for (name, signer) in signers().into_iter().filter(|(name, _)| *name != "RS256") {
        let token = signer.token(&value!({ "alg": name }), PAYLOAD);
        let refused = verified_by(&keys, &[Algorithm::RS256], &token).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("the algorithm `{name}` is not accepted")
        );
    }
    for (name, shown) in [("ES512", "ES512"), ("none", "none"), ("<script>", "?")] {
        let token = RSA.token(&value!({ "alg": name }), PAYLOAD);
        let refused = verified_by(&keys, &Algorithm::ALL, &token).unwrap_err();
        assert!(
            refused.to_string().contains(&format!("`{shown}`")),
            "{refused}"
        );
    }
}

#[test]
fn j_16_to_22_keys_in_the_header_are_ignored_and_kid_is_text() {
    let theirs = OTHER_RSA.jwk_with(value!({ "kid": "rsa" }));
    let long = "k".repeat(40 * 1024);
    for (member, with_kid) in [
        (value!({ "jwk": theirs }), "id_token_signature"),
        (
            value!({ "jwk": theirs, "kid": "rsa" }),
            "id_token_signature",
        ),
        (
            value!({ "jku": "http://127.0.0.1:9/jwks", "kid": "rsa" }),
            "id_token_signature",
        ),
        (
            value!({ "x5u": "http://127.0.0.1:9/cert" }),
            "id_token_signature",
        ),
        (value!({ "x5c": ["MII="] }), "id_token_signature"),
        (value!({ "kid": "../../dev/null" }), "id_token_unknown_key"),
        (value!({ "kid": "' OR 1=1" }), "id_token_unknown_key"),
        (value!({ "kid": "rsa\0" }), "id_token_unknown_key"),
        (value!({ "kid": "" }), "id_token_unknown_key"),
        (value!({ "kid": long }), "id_token_unknown_key"),
        (
            value!({ "kid": "k".repeat(64 * 1024) }),
            "id_token_malformed",
        ),
        (value!({ "kid": 5 }), "id_token_header"),
        (value!({ "kid": null }), "id_token_header"),
        (value!({ "kid": ["rsa"] }), "id_token_header"),
    ] {
        let mut header = value!({ "typ": "JWT", "alg": "RS256" });
        let Value::Object(member) = member else {
            panic!("not an object");
        };
        header.as_object_mut().unwrap().extend(member);
        let token = OTHER_RSA.token(&header, PAYLOAD);
        let shown: String = header.to_string().chars().take(80).collect();
        assert_eq!(outcome(&keys(), &token), with_kid, "{shown}");
    }
}

#[test]
fn j_23_to_27_a_header_that_changes_the_meaning_is_refused() {
    for member in [
        r#""crit":["exp"]"#,
        r#""crit":["b64"],"b64":false"#,
        r#""crit":["unknown"],"unknown":1"#,
        r#""crit":[]"#,
        r#""b64":false"#,
        r#""zip":"DEF""#,
        r#""enc":"A256GCM""#,
        r#""cty":"JWT""#,
    ] {
        let header = format!(r#"{{"alg":"RS256",{member}}}"#);
        assert_eq!(under(&header), "id_token_header", "{member}");
    }
    for (typ, expected) in [
        (r#""JWT""#, "ok"),
        (r#""jwt""#, "ok"),
        (r#""application/jwt""#, "ok"),
        (r#""at+jwt""#, "id_token_type"),
        (r#""application/at+jwt""#, "id_token_type"),
        (r#""AT+JWT""#, "id_token_type"),
        (r#""logout+jwt""#, "id_token_type"),
        (r#""secevent+jwt""#, "id_token_type"),
        (r#""ID""#, "id_token_type"),
        (r#""JOSE+JSON""#, "id_token_type"),
        (r#""""#, "id_token_type"),
        ("null", "id_token_type"),
        (r#"["JWT"]"#, "id_token_type"),
    ] {
        let header = format!(r#"{{"alg":"RS256","typ":{typ}}}"#);
        assert_eq!(under(&header), expected, "{typ}");
    }
    assert_eq!(under(r#"{"alg":"RS256"}"#), "ok");
}

#[test]
fn j_28_no_byte_of_a_token_can_be_changed() {
    let keys = keys();
    for (name, signer) in [("ES256", &P256), ("EdDSA", &ED25519)] {
        let token = signer.token(&value!({ "alg": name, "typ": "JWT" }), PAYLOAD);
        assert_eq!(outcome(&keys, &token), "ok");
        for position in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[position] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            assert_ne!(outcome(&keys, &changed), "ok", "{name} at {position}");
        }
        let (message, signature) = token.rsplit_once('.').unwrap();
        let other = signer.token(&value!({ "alg": name, "typ": "JWT" }), r#"{"sub":"2"}"#);
        let (_message, of_other) = other.rsplit_once('.').unwrap();
        let short = encode(&URL_SAFE_NO_PAD.decode(signature).unwrap()[1..]);
        for signature in ["", of_other, &short] {
            let token = format!("{message}.{signature}");
            assert_eq!(outcome(&keys, &token), "id_token_signature", "{name}");
        }
    }
}

#[test]
fn j_69_a_repeated_member_is_refused() {
    for payload in [
        r#"{"sub":"1","sub":"1"}"#,
        r#"{"iss":"a","\u0069ss":"b"}"#,
        r#"{"nonce":"a","nonce":"b"}"#,
        r#"{"email":"a","email":"b"}"#,
        r#"{"a":{"b":1,"b":2}}"#,
    ] {
        assert_eq!(
            saying(payload.as_bytes()),
            "id_token_malformed",
            "{payload}"
        );
    }
    for header in [
        r#"{"alg":"none","alg":"RS256"}"#,
        r#"{"\u0061lg":"none","alg":"RS256"}"#,
        r#"{"alg":"RS256","kid":"a","kid":"rsa"}"#,
    ] {
        assert_eq!(under(header), "id_token_malformed", "{header}");
    }
}

#[test]
fn j_70_the_payload_has_to_be_an_object() {
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    for payload in [
        br#"[1752871693,1689713293,"17","x","y"]"#.as_slice(),
        b"\"a\"",
        b"5",
        b"",
        br#"{"sub":"1"}x"#,
        b"\xef\xbb\xbf{}",
        b"{\"a\":\"\xff\"}",
        br#"{"a":"\ud800"}"#,
        deep.as_bytes(),
    ] {
        let shown = String::from_utf8_lossy(payload);
        assert_eq!(saying(payload), "id_token_malformed", "{shown}");
    }
    assert_eq!(saying(b"{}"), "ok");
    for length in [64 * 1024, 1024 * 1024, 8 * 1024 * 1024] {
        let long = format!(r#"{{"a":"{}"}}"#, "a".repeat(length));
        assert_eq!(saying(long.as_bytes()), "id_token_malformed", "{length}");
    }
}

#[test]
fn j_71_to_73_a_token_has_three_parts_of_base64url() {
    let keys = keys();
    let token = P256.token(&value!({ "alg": "ES256" }), PAYLOAD);
    let (message, signature) = token.rsplit_once('.').unwrap();
    let jwe = |header: Value| format!("{}.a.b.c.d", encode(header.to_string().as_bytes()));
    for bad in [
        String::new(),
        "..".to_owned(),
        ".".repeat(1_000_000),
        message.to_owned(),
        format!("{token}."),
        format!("{token}.{signature}"),
        format!("{{\"payload\":\"{token}\"}}"),
        format!("{{\"protected\":\"{}\"}}", token.replace('.', "\",\"")),
        jwe(value!({ "alg": "PBES2-HS256+A128KW", "p2c": 1_000_000_000, "enc": "A128GCM" })),
        jwe(value!({ "alg": "RSA1_5", "enc": "A128GCM" })),
        jwe(value!({ "alg": "dir", "enc": "A128GCM", "zip": "DEF" })),
        format!("{token}="),
        format!("{token} "),
        format!("{token}\n"),
        format!(" {token}"),
        format!("{message}.%41{signature}"),
        format!("{message}.+/{signature}"),
    ] {
        let shown: String = bad.chars().take(60).collect();
        assert_eq!(outcome(&keys, &bad), "id_token_malformed", "{shown}");
    }
    // A JWE is refused even if it has only three parts.
    let three = |header: Value| format!("{}.YQ.YQ", encode(header.to_string().as_bytes()));
    let direct = three(value!({ "alg": "dir", "enc": "A128GCM" }));
    assert_eq!(outcome(&keys, &direct), "id_token_header");
    assert_eq!(
        outcome(&keys, &three(value!({ "alg": "dir" }))),
        "id_token_algorithm"
    );
}

#[test]
fn an_error_has_a_code_for_each_kind_of_token() {
    for (token, code) in [
        (TokenKind::AccessToken, "access_token_unknown_key"),
        (TokenKind::IdToken, "id_token_unknown_key"),
        (TokenKind::Userinfo, "userinfo_unknown_key"),
    ] {
        assert_eq!(TokenError::UnknownKey.reason(token), code);
    }
    let error = GrantError::IdToken(TokenError::Nonce);
    assert_eq!(
        (error.reason(), error.class().actor),
        ("id_token_nonce", Actor::Provider)
    );
}

/// Shows that the JWT library accepts claims of a wrong type, and refuses a whole key set because
/// of one entry. Therefore the module `provider` uses its own code to read keys and claims. If one
/// of these tests fails, check whether the module `provider` still needs its own code to read keys
/// and claims.
mod probes {
    use std::collections::HashMap;

    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{DecodingKey, Validation, decode};

    use super::*;

    fn decoded(claims: &Value) -> bool {
        let token = RSA.token(&value!({ "alg": "RS256" }), &claims.to_string());
        let key = DecodingKey::from_rsa_der(KEY.public_key().as_ref());
        let mut validation = Validation::new(jsonwebtoken::Algorithm::RS256);
        validation.set_issuer(&["https://id.example"]);
        validation.set_audience(&["client"]);
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        decode::<HashMap<String, Value>>(&token, &key, &validation).is_ok()
    }

    #[test]
    fn the_library_ignores_claims_of_an_unexpected_type() {
        assert!(decoded(
            &value!({ "iss": "https://id.example", "aud": "client" })
        ));
        assert!(!decoded(
            &value!({ "iss": "https://id.example", "aud": "other" })
        ));
        assert!(decoded(
            &value!({ "iss": "https://id.example", "aud": ["other", 5] })
        ));
        assert!(decoded(&value!({
            "iss": ["https://evil.example", "https://id.example"], "aud": "client",
        })));
    }

    #[test]
    fn the_library_fails_a_whole_key_set_for_one_entry() {
        let set = |entry: Value| {
            let text = value!({ "keys": [RSA.jwk(), entry] }).to_string();
            serde_json::from_str::<JwkSet>(&text)
        };
        assert!(set(RSA.jwk()).is_ok());
        assert!(set(value!(null)).is_err());
        assert!(set(RSA.jwk_with(value!({ "kid": 5 }))).is_err());
    }
}
