//! Tests which entries of key sets are accepted, and which keys may verify a token.

use std::error::Error as _;

use serde_json::{Value, json as value};

use super::set_up::rsa_pem;
use super::signing::*;
use super::*;
use crate::provider::keys::KeySet;
use crate::provider::settings::{Algorithm, IdTokenSettings};

const PAYLOAD: &str = r#"{"sub":"1"}"#;

/// Returns a token with `kid` in its header.
fn named(signer: &Signer, algorithm: &str, kid: &str) -> String {
    signer.token(&value!({ "alg": algorithm, "kid": kid }), PAYLOAD)
}

fn bare(signer: &Signer, algorithm: &str) -> String {
    signer.token(&value!({ "alg": algorithm }), PAYLOAD)
}

/// Returns the reason why `entry` is skipped. Checks that a valid key in the same key set can still
/// be used.
fn skipped(entry: &Value) -> String {
    let good = RSA.jwk_with(value!({ "kid": "good" }));
    let keys = key_set(&[entry.clone(), good]);
    assert_eq!(
        outcome(&keys, &named(&RSA, "RS256", "good")),
        "ok",
        "{entry}"
    );
    keys.skipped().to_string()
}

/// Returns the JWK of `signer`, with the additional members `further`.
fn but(signer: &Signer, further: Value) -> Value {
    signer.jwk_with(further)
}

#[test]
fn j_79_an_unusable_entry_is_skipped_and_the_others_are_used() {
    let without = |signer: &Signer, name: &str| {
        let mut entry = signer.jwk();
        entry.as_object_mut().unwrap().remove(name);
        entry
    };
    let key_types = [
        value!({}),
        value!({ "kty": "AKP", "alg": "ML-DSA-65", "pub": "x" }),
        but(&RSA, value!({ "kty": "rsa" })),
        but(&RSA, value!({ "kty": 5 })),
        value!({ "kty": "oct" }),
    ];
    let curves = [
        but(&P256, value!({ "crv": "secp256k1" })),
        but(&P256, value!({ "crv": "P-521" })),
        but(&ED25519, value!({ "crv": "X25519" })),
        but(&ED25519, value!({ "crv": "Ed448" })),
        without(&P256, "crv"),
    ];
    let algorithms = [
        but(&RSA, value!({ "alg": "RSA-OAEP" })),
        but(&RSA, value!({ "alg": "ES256" })),
        but(&P256, value!({ "alg": "ES384" })),
    ];
    for (reason, entries) in [
        (
            "not an object",
            &[value!(null), value!([]), value!("RSA")][..],
        ),
        ("of an unknown key type", &key_types),
        ("on an unknown curve", &curves),
        ("with an unknown or wrong algorithm", &algorithms),
    ] {
        for entry in entries {
            assert_eq!(skipped(entry), format!("1 {reason}"), "{entry}");
        }
    }
    for (member, entry) in [
        ("kid", but(&RSA, value!({ "kid": 5 }))),
        ("kid", but(&RSA, value!({ "kid": null }))),
        ("issuer", but(&RSA, value!({ "issuer": 5 }))),
        ("alg", but(&RSA, value!({ "alg": ["RS256"] }))),
        ("n", without(&RSA, "n")),
        ("e", without(&RSA, "e")),
        ("e", but(&RSA, value!({ "e": "AQAB=" }))),
        ("e", but(&RSA, value!({ "e": 65537 }))),
        ("y", without(&P384, "y")),
        ("x", but(&P256, value!({ "x": "AA" }))),
        ("x", but(&P256, value!({ "crv": "P-384" }))),
    ] {
        let reason = format!("1 without a usable member `{member}`");
        assert_eq!(skipped(&entry), reason, "{entry}");
    }
    assert!(key_set(&[RSA.jwk()]).skipped().is_empty());
}

#[test]
fn j_29_keys_for_other_purposes_are_skipped() {
    for further in [
        value!({ "use": "enc" }),
        value!({ "use": "SIG" }),
        value!({ "use": null }),
        value!({ "use": ["sig"] }),
        value!({ "key_ops": ["sign", "wrapKey"] }),
        value!({ "key_ops": [] }),
        value!({ "key_ops": "verify" }),
    ] {
        let entry = but(&RSA, further);
        assert_eq!(skipped(&entry), "1 not for signatures", "{entry}");
    }
    for entry in [
        value!({ "kty": "oct", "k": "c2VjcmV0", "alg": "HS256" }),
        but(&RSA, value!({ "d": "AQAB" })),
        but(&RSA, value!({ "p": null })),
        but(&P256, value!({ "d": "AA" })),
    ] {
        assert_eq!(skipped(&entry), "1 a private or shared key", "{entry}");
    }
}

#[test]
fn j_29_weak_keys_are_skipped() {
    let ones = |bytes: usize| encode(&vec![0xff; bytes]);
    let y = URL_SAFE_NO_PAD
        .decode(P256.jwk()["y"].as_str().unwrap())
        .unwrap();
    let mut off_the_curve = y.clone();
    off_the_curve[31] ^= 1;
    for entry in [
        but(&RSA, value!({ "n": ones(128) })),
        but(&RSA, value!({ "n": ones(255) })),
        but(&RSA, value!({ "n": ones(1025) })),
        but(&RSA, value!({ "n": ones(100_000) })),
        but(&RSA, value!({ "e": "AQ" })),
        but(&RSA, value!({ "e": "AA" })),
        but(&RSA, value!({ "e": "AQAA" })),
        but(&RSA, value!({ "e": ones(300) })),
        but(&P256, value!({ "y": encode(&off_the_curve) })),
        but(&P256, value!({ "y": encode(&[0; 32]) })),
        but(&ED25519, value!({ "x": encode(&[1; 31]) })),
        but(&ED25519, value!({ "x": encode(&[1; 33]) })),
    ] {
        assert_eq!(skipped(&entry), "1 too short or not a valid key", "{entry}");
    }
    let long = but(&P256, value!({ "y": encode(&[&y[..], &[0]].concat()) }));
    assert_eq!(skipped(&long), "1 without a usable member `y`");
}

#[test]
fn j_29_unusual_but_valid_keys_are_accepted() {
    let n = RSA.jwk()["n"].as_str().unwrap().to_owned();
    let n = [&[0][..], &URL_SAFE_NO_PAD.decode(n).unwrap()].concat();
    // A key may have 2049 bits, although 2049 is not a multiple of eight.
    let odd_length = [&[0x01][..], &[0xff; 256]].concat();
    for entry in [
        RSA.jwk_with(value!({ "e": "Aw" })),
        RSA.jwk_with(value!({ "n": encode(&n), "e": encode(&[0, 1, 0, 1]) })),
        RSA.jwk_with(value!({ "n": encode(&odd_length) })),
        RSA.jwk_with(value!({ "x5c": [5], "x5t": null, "ext": true, "use": "sig" })),
        RSA.jwk_with(value!({ "key_ops": ["verify", "x"] })),
        RSA.jwk_with(value!({ "kid": "" })),
    ] {
        let keys = key_set(std::slice::from_ref(&entry));
        assert!(keys.skipped().is_empty(), "{entry}");
    }
}

#[test]
fn j_79_a_set_without_a_usable_key_is_refused() {
    let good = RSA.jwk().to_string();
    for (text, reason) in [
        ("", "keys_malformed"),
        ("<html>", "keys_malformed"),
        ("[]", "keys_malformed"),
        ("{}", "keys_malformed"),
        (r#"{"keys":null}"#, "keys_malformed"),
        (r#"{"keys":{}}"#, "keys_malformed"),
        (&format!(r#"{{"keys":{good}}}"#), "keys_malformed"),
        (&format!(r#"{{"Keys":[{good}]}}"#), "keys_malformed"),
        (&format!("[{good}]"), "keys_malformed"),
        (
            &format!(r#"{{"keys":[],"keys":[{good}]}}"#),
            "keys_malformed",
        ),
        (r#"{"keys":[{"kty":"RSA","kty":"oct"}]}"#, "keys_malformed"),
        (r#"{"keys":[]}"#, "keys_unusable"),
        (r#"{"keys":[null,{"kty":"oct"}]}"#, "keys_unusable"),
    ] {
        let refused = KeySet::from_jwks(text.as_bytes()).expect_err(text);
        assert_eq!(refused.reason(), reason, "{text}");
    }
    let refused = KeySet::from_jwks(br#"{"keys":[null,{"kty":"oct"},null]}"#).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the key set has no usable key (skipped: 1 of an unknown key type, 2 not an \
         object)"
    );
    let empty = KeySet::from_jwks(br#"{"keys":[]}"#).unwrap_err();
    assert!(empty.to_string().ends_with("(skipped: none)"), "{empty}");
}

#[test]
fn j_79_at_most_a_hundred_keys_are_kept() {
    let mut entries = vec![P256.jwk_with(value!({ "kid": "x" })); 10_000];
    entries[99] = ED25519.jwk();
    entries[100] = RSA.jwk();
    let keys = key_set(&entries);
    assert_eq!(
        keys.skipped().to_string(),
        "9900 above the maximum number of keys"
    );
    assert_eq!(outcome(&keys, &bare(&ED25519, "EdDSA")), "ok");
    assert_eq!(outcome(&keys, &bare(&RSA, "RS256")), "id_token_unknown_key");
}

#[test]
fn j_79_a_key_id_selects_the_key() {
    let keys = key_set(&[
        RSA.jwk_with(value!({ "kid": "a" })),
        OTHER_RSA.jwk_with(value!({ "kid": "b" })),
    ]);
    for (token, expected) in [
        (named(&RSA, "RS256", "a"), "ok"),
        (named(&OTHER_RSA, "RS256", "b"), "ok"),
        (named(&RSA, "RS256", "b"), "id_token_signature"),
        (named(&RSA, "RS256", "c"), "id_token_unknown_key"),
        (named(&RSA, "RS256", "A"), "id_token_unknown_key"),
        (named(&RSA, "RS256", ""), "id_token_unknown_key"),
        (named(&P256, "ES256", "a"), "id_token_unknown_key"),
        (bare(&RSA, "RS256"), "ok"),
        (bare(&OTHER_RSA, "PS512"), "ok"),
        (bare(&P256, "ES256"), "id_token_unknown_key"),
    ] {
        assert_eq!(outcome(&keys, &token), expected, "{token}");
    }
    let nameless = key_set(&[RSA.jwk()]);
    assert_eq!(outcome(&nameless, &named(&RSA, "RS256", "a")), "ok");
    let other = named(&OTHER_RSA, "RS256", "a");
    assert_eq!(outcome(&nameless, &other), "id_token_signature");
}

#[test]
fn j_15_j_22_all_keys_with_the_same_id_are_tried() {
    let named_a = |signer: &Signer| signer.jwk_with(value!({ "kid": "a" }));
    let keys = key_set(&[named_a(&P256), named_a(&OTHER_RSA), named_a(&RSA)]);
    for (signer, algorithm) in [(&RSA, "RS256"), (&OTHER_RSA, "RS384"), (&*P256, "ES256")] {
        let token = named(signer, algorithm, "a");
        assert_eq!(outcome(&keys, &token), "ok", "{algorithm}");
    }
    let stranger = named(&OTHER_P256, "ES256", "a");
    assert_eq!(outcome(&keys, &stranger), "id_token_signature");
    // A key of another type is not tried, even if the key has the same id.
    let keys = key_set(&[named_a(&P256)]);
    assert_eq!(
        outcome(&keys, &named(&RSA, "RS256", "a")),
        "id_token_unknown_key"
    );
}

#[test]
fn a_key_that_names_its_algorithm_is_used_with_no_other() {
    let keys = key_set(&[RSA.jwk_with(value!({ "kid": "a", "alg": "PS256" }))]);
    assert_eq!(outcome(&keys, &named(&RSA, "PS256", "a")), "ok");
    assert_eq!(
        outcome(&keys, &named(&RSA, "RS256", "a")),
        "id_token_unknown_key"
    );
}

#[test]
fn new_keys_help_only_with_an_unknown_key_or_a_wrong_signature() {
    assert!(TokenError::UnknownKey.new_keys_may_help());
    assert!(TokenError::Signature.new_keys_may_help());
    for error in [
        TokenError::Algorithm("none"),
        TokenError::Expired,
        TokenError::KeyIssuer,
        TokenError::Malformed,
        TokenError::Nonce,
    ] {
        assert!(!error.new_keys_may_help(), "{error}");
    }
}

#[test]
fn configured_key_files_replace_the_published_keys() {
    let files = Files::new();
    let jwks = value!({ "keys": [P256.jwk_with(value!({ "kid": "a" })), null] });
    let mut settings = IdTokenSettings::default();
    assert!(KeySet::from_files(&settings).unwrap().is_none());
    settings.jwks_file = Some(files.write("jwks.json", &jwks.to_string()));
    let keys = KeySet::from_files(&settings).unwrap().unwrap();
    assert_eq!(keys.skipped().to_string(), "1 not an object");
    assert_eq!(outcome(&keys, &named(&P256, "ES256", "a")), "ok");
    assert_eq!(outcome(&keys, &bare(&RSA, "RS256")), "id_token_unknown_key");
    settings.public_key_files = vec![files.0.path().join("public.pem")];
    let keys = KeySet::from_files(&settings).unwrap().unwrap();
    assert_eq!(outcome(&keys, &named(&P256, "ES256", "a")), "ok");
    // A key from a PEM file has no id, so this key is tried for every token.
    assert_eq!(outcome(&keys, &named(&RSA, "RS256", "whatever")), "ok");
    settings.jwks_file = None;
    let keys = KeySet::from_files(&settings).unwrap().unwrap();
    assert_eq!(outcome(&keys, &bare(&RSA, "RS256")), "ok");
    assert_eq!(
        outcome(&keys, &bare(&P256, "ES256")),
        "id_token_unknown_key"
    );
}

#[test]
fn an_unusable_key_file_is_named() {
    let files = Files::new();
    let folder = files.0.path();
    for (name, text, key, why) in [
        ("jwks", "hunter2", "id_token.jwks_file", "not a JSON object"),
        ("jwks", "{}", "id_token.jwks_file", "no array `keys`"),
        (
            "jwks",
            r#"{"keys":[{"kty":"oct","k":"hunter2"}]}"#,
            "id_token.jwks_file",
            "shared",
        ),
        ("jwks", " ", "id_token.jwks_file", "is empty"),
        (
            "pem",
            "hunter2",
            "id_token.public_key_files",
            "not one public key",
        ),
        (
            "pem",
            &rsa_pem(&[0xff; 128], &[1, 0, 1]),
            "id_token.public_key_files",
            "too short",
        ),
    ] {
        let path = files.write(name, text);
        let mut settings = IdTokenSettings::default();
        match name {
            "jwks" => settings.jwks_file = Some(path.clone()),
            _ => settings.public_key_files = vec![path.clone()],
        }
        let error = KeySet::from_files(&settings).unwrap_err();
        assert_eq!(
            (error.reason(), error.class().actor),
            ("provider_settings", Actor::Operator)
        );
        let text = chain(&error);
        assert!(text.contains(key) && text.contains(why), "{text}");
        assert!(text.contains(&path.display().to_string()), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    let missing = IdTokenSettings {
        jwks_file: Some(folder.join("missing")),
        ..IdTokenSettings::default()
    };
    let error = KeySet::from_files(&missing).unwrap_err();
    assert!(error.to_string().contains("id_token.jwks_file"), "{error}");
    assert!(error.source().is_some());
    let unsuited = IdTokenSettings {
        public_key_files: vec![folder.join("public.pem")],
        algorithms: vec![Algorithm::ES256],
        ..IdTokenSettings::default()
    };
    let text = chain(&KeySet::from_files(&unsuited).unwrap_err());
    assert!(text.contains("does not fit any"), "{text}");
}
