//! Tests which claims of access tokens are accepted and which are refused.

use serde_json::{Value, json as value};

use super::access_token::{reason, verifier};
use super::*;

/// Changes one claim of the example token, and returns the outcome of the verification. If `claim`
/// is `None`, the claim is removed.
fn with(verifier: &AccessTokenVerifier, name: &str, claim: Option<Value>) -> &'static str {
    let mut payload = reference_payload();
    let members = payload.as_object_mut().unwrap();
    members.remove(name);
    members.extend(claim.map(|claim| (name.to_owned(), claim)));
    reason(verifier, &signed(&payload.to_string()))
}

#[test]
fn j_30_to_40_a_configured_issuer_is_required() {
    let good = "https://id.example";
    let checking = verifier(&format!("access_token.issuer = \"{good}\""));
    assert_eq!(with(&checking, "iss", Some(value!(good))), "ok");
    for bad in [
        None,
        Some(value!(null)),
        Some(value!(5)),
        Some(value!({ "a": good })),
        Some(value!([good])),
        Some(value!(["https://evil.example", good])),
    ] {
        assert_eq!(
            with(&checking, "iss", bad.clone()),
            "access_token_claim",
            "{bad:?}"
        );
    }
    for other in [
        "https://id.example/",
        "HTTPS://id.example",
        "http://id.example",
        "https://id.example\0",
        "https%3A//id.example",
        "",
    ] {
        assert_eq!(
            with(&checking, "iss", Some(value!(other))),
            "access_token_issuer",
            "{other}"
        );
    }
    let not_checking = verifier("");
    assert_eq!(with(&not_checking, "iss", Some(value!("anybody"))), "ok");
    assert_eq!(
        with(&not_checking, "iss", Some(value!([good]))),
        "access_token_claim"
    );
}

#[test]
fn j_41_to_49_a_token_for_another_audience_is_refused() {
    let verifier = verifier("");
    let good = "99adb0aa-17fc-4578-8226-e45e4d3e9156";
    for bad in [
        None,
        Some(value!(null)),
        Some(value!(5)),
        Some(value!({ "a": good })),
        Some(value!([good, 5])),
        Some(value!(["other", 5])),
    ] {
        assert_eq!(
            with(&verifier, "aud", bad.clone()),
            "access_token_claim",
            "{bad:?}"
        );
    }
    for other in [
        value!([]),
        value!(["other"]),
        value!("other"),
        value!(format!("{good}x")),
        value!(good.strip_prefix('9')),
        value!(good.to_uppercase()),
    ] {
        assert_eq!(
            with(&verifier, "aud", Some(other.clone())),
            "access_token_audience",
            "{other}"
        );
    }
    assert_eq!(with(&verifier, "aud", Some(value!([good]))), "ok");
    assert_eq!(with(&verifier, "aud", Some(value!(["other", good]))), "ok");
    let api = self::verifier("access_token.audience = \"api\"");
    assert_eq!(with(&api, "aud", Some(value!("api"))), "ok");
    assert_eq!(
        with(&api, "aud", Some(value!(good))),
        "access_token_audience"
    );
}

#[test]
fn j_54_to_64_a_token_needs_an_expiry_in_the_future() {
    // The profile accepts dates in quotes. This part of the test uses a verifier that refuses dates
    // in quotes.
    let strict = verifier("access_token.quoted_dates = false");
    for bad in [
        None,
        Some(value!(null)),
        Some(value!("1752871693")),
        Some(value!(-1)),
        Some(value!(0)),
        Some(value!(1e300)),
        Some(value!(1e18)),
        Some(value!(true)),
        Some(value!([1_752_871_693])),
    ] {
        assert_eq!(
            with(&strict, "exp", bad.clone()),
            "access_token_claim",
            "{bad:?}"
        );
    }
    let now = 1_689_713_300.0;
    let mut payload = value!({ "aud": "99adb0aa-17fc-4578-8226-e45e4d3e9156", "sub": "1" });
    for (exp, expected) in [
        (now - 3.0, "access_token_expired"),
        (now - 2.0, "access_token_expired"),
        (now - 1.999, "ok"),
        (now - 1.0, "ok"),
        (now + 0.25, "ok"),
        (253_402_300_799.0, "ok"),
        (253_402_300_800.0, "access_token_claim"),
    ] {
        payload["exp"] = value!(exp);
        assert_eq!(
            reason(&strict, &signed(&payload.to_string())),
            expected,
            "{exp}"
        );
    }
}

#[test]
fn quoted_dates_are_accepted_if_the_profile_allows_them() {
    let verifier = verifier("");
    for name in ["exp", "nbf", "iat"] {
        let said = reference_payload()[name].to_string();
        assert_eq!(with(&verifier, name, Some(value!(said))), "ok", "{name}");
        for bad in ["", "1e9", "-5", "1610383442.", " 1610383442", "inf", "0x5"] {
            assert_eq!(
                with(&verifier, name, Some(value!(bad))),
                "access_token_claim",
                "{bad}"
            );
        }
    }
    assert_eq!(
        with(&verifier, "exp", Some(value!("1610383442.123882"))),
        "access_token_expired"
    );
}

#[test]
fn j_65_to_67_a_token_from_the_future_is_refused() {
    let verifier = verifier("access_token.quoted_dates = false");
    let now = 1_689_713_300.0;
    for name in ["nbf", "iat"] {
        for (date, expected) in [
            (Some(value!(now + 1.9)), "ok"),
            (Some(value!(now + 2.0)), "ok"),
            (Some(value!(now + 2.1)), "access_token_not_yet_valid"),
            (
                Some(value!(10_000_000_000_u64)),
                "access_token_not_yet_valid",
            ),
            (Some(value!(now - 604_800.0)), "ok"),
            (Some(value!("1689713293")), "access_token_claim"),
            (
                Some(value!(null)),
                if name == "nbf" {
                    "ok"
                } else {
                    "access_token_claim"
                },
            ),
            (Some(value!(-1)), "access_token_claim"),
            (None, "ok"),
        ] {
            assert_eq!(
                with(&verifier, name, date.clone()),
                expected,
                "{name} {date:?}"
            );
        }
    }
    // The token expires before the token becomes valid. Each of the two dates alone would be valid,
    // because the gateway allows for a small difference between the clocks (the leeway).
    let (aud, exp) = ("99adb0aa-17fc-4578-8226-e45e4d3e9156", now - 1.0);
    for name in ["nbf", "iat"] {
        let payload = value!({ "aud": aud, "sub": "1", "exp": exp, name: now });
        assert_eq!(
            reason(&verifier, &signed(&payload.to_string())),
            "access_token_claim",
            "{name}"
        );
    }
}

#[test]
fn j_68_a_token_without_a_subject_is_refused() {
    let verifier = verifier("");
    let long = "x".repeat(256);
    for bad in [
        None,
        Some(value!("")),
        Some(value!(5)),
        Some(value!(null)),
        Some(value!(long)),
        Some(value!("a\nb")),
    ] {
        assert_eq!(
            with(&verifier, "sub", bad.clone()),
            "access_token_claim",
            "{bad:?}"
        );
    }
    assert_eq!(with(&verifier, "sub", Some(value!("x".repeat(255)))), "ok");
}
