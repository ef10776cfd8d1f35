//! Tests the claims of OpenID Connect, and the claims of a signed userinfo response.

use super::*;

#[test]
fn the_nonce_is_the_one_of_our_request() {
    let rules = strict();
    assert_eq!(without(&rules, "nonce"), "id_token_claim");
    for (nonce, expected) in [
        (value!(null), "id_token_claim"),
        (value!(5), "id_token_claim"),
        (value!([NONCE]), "id_token_claim"),
        (value!(""), "id_token_nonce"),
        (value!("another"), "id_token_nonce"),
        (value!(NONCE.to_lowercase()), "id_token_nonce"),
        (value!(format!("{NONCE}\0")), "id_token_nonce"),
    ] {
        assert_eq!(
            with(&rules, &value!({ "nonce": nonce })),
            expected,
            "{nonce}"
        );
    }
}

#[test]
fn j_74_hashes_in_the_token_must_match() {
    let rules = strict();
    for (name, good, other) in [("at_hash", AT_HASH, C_HASH), ("c_hash", C_HASH, AT_HASH)] {
        for (hash, expected) in [
            (value!(good), "ok"),
            (value!(other), "id_token_hash"),
            (value!(""), "id_token_hash"),
            (value!(format!("{good}==")), "id_token_hash"),
            (value!(good.split_at(20).0), "id_token_hash"),
            (value!(null), "ok"),
            (value!(5), "id_token_claim"),
            (value!([good]), "id_token_claim"),
        ] {
            assert_eq!(
                with(&rules, &value!({ name: hash })),
                expected,
                "{name} {hash}"
            );
        }
    }
}

#[test]
fn j_74_a_hash_uses_the_hash_function_of_the_signature() {
    use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
    let left = |function, length: usize| {
        let hash = digest(function, ACCESS_TOKEN.as_bytes());
        URL_SAFE_NO_PAD.encode(&hash.as_ref()[..length])
    };
    let hashes = [left(&SHA256, 16), left(&SHA384, 24), left(&SHA512, 32)];
    assert_eq!(hashes[0], AT_HASH);
    for algorithm in Algorithm::ALL {
        let right = match algorithm.name() {
            name if name.ends_with("256") => 0,
            name if name.ends_with("384") => 1,
            _ => 2,
        };
        for (at, hash) in hashes.iter().enumerate() {
            let mut claims = claims();
            claims["at_hash"] = value!(hash);
            let verified = VerifiedToken {
                algorithm,
                ..verified(claims)
            };
            let outcome = check(&strict(), verified);
            assert_eq!(outcome.is_ok(), at == right, "{algorithm:?} {hash}");
        }
    }
}

#[test]
fn j_78_other_tokens_of_the_same_provider_are_not_id_tokens() {
    let rules = strict();
    let logout = value!({
        "events": { "http://schemas.openid.net/event/backchannel-logout": {} }, "sid": "1",
    });
    assert_eq!(with(&rules, &logout), "id_token_type");
    assert_eq!(with(&rules, &value!({ "events": null })), "id_token_type");
    // An access token has another audience than an ID token. An access token with our audience has
    // no nonce.
    assert_eq!(
        with(&rules, &value!({ "aud": "api", "scope": "a" })),
        "id_token_audience"
    );
    assert_eq!(without(&rules, "nonce"), "id_token_claim");
    assert_eq!(
        with(&rules, &value!({ "aud": "another-client" })),
        "id_token_audience"
    );
    let expired = value!({ "exp": SECONDS - 600.0, "iat": SECONDS - 900.0 });
    assert_eq!(with(&rules, &expired), "id_token_expired");
}

#[test]
fn a_requested_authentication_has_to_be_proven() {
    let asked = rules(&value!({ "authorization_request": { "max_age_secs": 300 } }));
    assert_eq!(with(&asked, &value!({})), "id_token_claim");
    for (auth_time, expected) in [
        (value!(SECONDS - 389.0), "ok"),
        (value!(SECONDS - 390.0), "ok"),
        (value!(SECONDS - 391.0), "id_token_stale"),
        (value!(SECONDS + 30.0), "ok"),
        (value!(SECONDS + 31.0), "id_token_not_yet_valid"),
        (value!(0), "id_token_claim"),
        (value!("1689713293"), "id_token_claim"),
        (value!(null), "id_token_claim"),
    ] {
        let changed = value!({ "auth_time": auth_time });
        assert_eq!(with(&asked, &changed), expected, "{auth_time}");
    }
    // One provider sends 0 as the authentication time of every user.
    assert_eq!(with(&strict(), &value!({ "auth_time": 0 })), "ok");
    let most = rules(&value!({ "authorization_request": { "max_age_secs": u32::MAX } }));
    assert_eq!(with(&most, &value!({ "auth_time": 1 })), "ok");
    let contexts = value!({ "authorization_request": { "acr_values": ["gold", "silver"] } });
    let asked = rules(&contexts);
    assert_eq!(with(&asked, &value!({})), "id_token_claim");
    for (acr, expected) in [
        (value!("silver"), "ok"),
        (value!("bronze"), "id_token_acr"),
        (value!("gold silver"), "id_token_acr"),
        (value!(["gold"]), "id_token_claim"),
        (value!(0), "id_token_claim"),
    ] {
        assert_eq!(with(&asked, &value!({ "acr": acr })), expected, "{acr}");
    }
}

#[test]
fn j_77_the_issuer_and_audience_of_signed_userinfo_are_checked() {
    let rules = strict();
    for (members, expected) in [
        (value!({ "sub": "17" }), "ok"),
        (value!({ "sub": "17", "iss": ISSUER, "aud": CLIENT }), "ok"),
        (value!({ "aud": ["api", CLIENT] }), "ok"),
        (value!({ "exp": SECONDS + 1.0 }), "ok"),
        (value!({ "iss": "https://evil.example" }), "userinfo_issuer"),
        (value!({ "iss": [ISSUER] }), "userinfo_claim"),
        (value!({ "iss": null }), "userinfo_claim"),
        (value!({ "aud": "other" }), "userinfo_audience"),
        (value!({ "aud": [] }), "userinfo_audience"),
        (value!({ "aud": [CLIENT, 5] }), "userinfo_claim"),
        (value!({ "aud": null }), "userinfo_claim"),
        (value!({ "exp": SECONDS - 31.0 }), "userinfo_expired"),
        (value!({ "exp": "1" }), "userinfo_claim"),
        (value!({ "events": {} }), "userinfo_type"),
    ] {
        let outcome = rules
            .check_userinfo(members.as_object().unwrap(), ISSUER, NOW)
            .map_or_else(|error| error.reason(TokenKind::Userinfo), |()| "ok");
        assert_eq!(outcome, expected, "{members}");
    }
}
