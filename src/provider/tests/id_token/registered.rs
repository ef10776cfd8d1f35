//! Tests the claims of RFC 7519, and the claims of tenants.

use super::*;

#[test]
fn j_30_to_40_the_issuer_is_compared_byte_for_byte() {
    let rules = strict();
    assert_eq!(without(&rules, "iss"), "id_token_claim");
    for bad in [
        value!(null),
        value!(5),
        value!({ "a": ISSUER }),
        value!([ISSUER]),
        value!(["https://evil.example", ISSUER]),
    ] {
        assert_eq!(
            with(&rules, &value!({ "iss": bad })),
            "id_token_claim",
            "{bad}"
        );
    }
    for other in [
        format!("{ISSUER}/"),
        ISSUER.to_uppercase(),
        ISSUER.replace("https:", "http:"),
        format!("{ISSUER}\0"),
        ISSUER.replace("/realms/", "%2Frealms%2F"),
        ISSUER.replace(".example", ".example:443"),
        String::new(),
    ] {
        assert_eq!(
            with(&rules, &value!({ "iss": other })),
            "id_token_issuer",
            "{other}"
        );
    }
    // If the provider has no tenants, the claim `tid` has no meaning.
    assert_eq!(with(&rules, &value!({ "tid": 5 })), "ok");
}

#[test]
fn an_issuer_with_tenants_accepts_the_listed_ones() {
    let rules = rules(&value!({
        "issuer": "https://id.example/{tenantid}/v2.0", "tenants": ["one", "two"],
    }));
    let of = |tenant: &str| format!("https://id.example/{tenant}/v2.0");
    for (iss, tid, expected) in [
        (of("one"), value!("one"), "ok"),
        (of("two"), value!("two"), "ok"),
        (of("one"), value!("two"), "id_token_tenant"),
        (of("one"), value!(""), "id_token_tenant"),
        (of("one"), value!("{tenantid}"), "id_token_tenant"),
        (of("one"), value!(null), "id_token_claim"),
        (of("one"), value!(["one"]), "id_token_claim"),
        (of("three"), value!("three"), "id_token_issuer"),
        (of("{tenantid}"), value!("{tenantid}"), "id_token_issuer"),
    ] {
        let changed = value!({ "iss": iss, "tid": tid });
        assert_eq!(with(&rules, &changed), expected, "{changed}");
    }
    assert_eq!(with(&rules, &value!({ "iss": of("one") })), "ok");
    let mut two = claims();
    two["iss"] = value!(of("two"));
    assert_eq!(&*check(&rules, verified(two)).unwrap().issuer, of("two"));
}

#[test]
fn j_22_a_key_of_one_issuer_verifies_no_token_of_another() {
    let template = "https://id.example/{tenantid}/v2.0";
    let of = |tenant: &str| template.replace("{tenantid}", tenant);
    let many = rules(&value!({ "issuer": template, "tenants": ["one", "two"] }));
    let single = rules(&value!({ "issuer": of("one") }));
    let outcome = |rules: &IdTokenRules, tid: Option<&str>, key_issuer: &str| {
        let mut claims = claims();
        claims["iss"] = value!(of("one"));
        if let Some(tid) = tid {
            claims["tid"] = value!(tid);
        }
        let verified = VerifiedToken {
            key_issuer: Some(key_issuer.into()),
            ..verified(claims)
        };
        check(rules, verified).map_or_else(|error| error.reason(TokenKind::IdToken), |_claims| "ok")
    };
    let refused = "id_token_key_issuer";
    for (tid, key_issuer, of_many, of_single) in [
        (Some("one"), &*of("one"), "ok", "ok"),
        (Some("one"), template, "ok", "ok"),
        (None, &of("one"), "ok", "ok"),
        // A key whose issuer is a template is accepted if the settings contain the same template.
        // If the settings contain another issuer, the gateway inserts the token's tenant into the
        // template, and the result must be equal to `iss`.
        (None, template, "ok", refused),
        (Some("one"), &of("two"), refused, refused),
        (Some("one"), ISSUER, refused, refused),
        (Some("one"), "", refused, refused),
    ] {
        let row = format!("{tid:?} {key_issuer}");
        assert_eq!(outcome(&many, tid, key_issuer), of_many, "{row}");
        assert_eq!(outcome(&single, tid, key_issuer), of_single, "{row}");
    }
}

#[test]
fn j_41_to_53_audience_and_authorized_party_are_checked() {
    let rules = rules(&value!({ "id_token": { "audiences": ["api"] } }));
    assert_eq!(without(&rules, "aud"), "id_token_claim");
    for (aud, azp, expected) in [
        (value!(null), None, "id_token_claim"),
        (value!(5), None, "id_token_claim"),
        (value!({ "a": CLIENT }), None, "id_token_claim"),
        (value!([CLIENT, 5]), None, "id_token_claim"),
        (value!(["other", 5]), None, "id_token_claim"),
        (value!([[CLIENT]]), None, "id_token_claim"),
        (value!([]), None, "id_token_audience"),
        (value!(["other"]), None, "id_token_audience"),
        (value!("other"), None, "id_token_audience"),
        (value!(format!("{CLIENT}x")), None, "id_token_audience"),
        (value!(format!("x {CLIENT}")), None, "id_token_audience"),
        (value!(CLIENT.to_uppercase()), None, "id_token_audience"),
        (value!("api"), Some(value!(CLIENT)), "id_token_audience"),
        (value!([CLIENT]), None, "ok"),
        (value!([CLIENT, "other"]), None, "id_token_audience"),
        (
            value!([CLIENT, "other"]),
            Some(value!(CLIENT)),
            "id_token_audience",
        ),
        (value!([CLIENT, "api"]), None, "id_token_claim"),
        (value!([CLIENT, "api"]), Some(value!(CLIENT)), "ok"),
        (value!(["api", CLIENT]), Some(value!(CLIENT)), "ok"),
        (value!([CLIENT, "api"]), Some(value!("api")), "id_token_azp"),
        (value!(CLIENT), Some(value!(CLIENT)), "ok"),
        (value!(CLIENT), Some(value!("other")), "id_token_azp"),
        (value!(CLIENT), Some(value!("")), "id_token_azp"),
        (value!(CLIENT), Some(value!(5)), "id_token_claim"),
        (value!(CLIENT), Some(value!(null)), "ok"),
        (value!(CLIENT), Some(value!([CLIENT])), "id_token_claim"),
    ] {
        let mut changed = value!({ "aud": aud });
        if let Some(azp) = azp {
            changed["azp"] = azp;
        }
        assert_eq!(with(&rules, &changed), expected, "{changed}");
    }
    let both = value!({ "aud": [CLIENT, "api"], "azp": CLIENT });
    assert_eq!(with(&strict(), &both), "id_token_audience");
    let error = check(
        &strict(),
        verified(value!({ "iss": ISSUER, "aud": [CLIENT, "x"] })),
    );
    assert!(matches!(error, Err(TokenError::UntrustedAudience)));
}

#[test]
fn j_54_to_64_an_id_token_needs_an_expiry_in_the_future() {
    let rules = strict();
    assert_eq!(without(&rules, "exp"), "id_token_claim");
    for (exp, expected) in [
        (value!(null), "id_token_claim"),
        (value!("1752871693"), "id_token_claim"),
        (value!(-1), "id_token_claim"),
        (value!(0), "id_token_claim"),
        (value!(1e300), "id_token_claim"),
        (value!(true), "id_token_claim"),
        (value!([SECONDS + 1.0]), "id_token_claim"),
        (value!(253_402_300_800_u64), "id_token_claim"),
        (value!(SECONDS - 31.0), "id_token_expired"),
        (value!(SECONDS - 30.0), "id_token_expired"),
        (value!(253_402_300_799_u64), "ok"),
        (value!(SECONDS + 0.25), "ok"),
    ] {
        assert_eq!(with(&rules, &value!({ "exp": exp })), expected, "{exp}");
    }
    let late = value!({ "exp": SECONDS - 29.0, "iat": SECONDS - 60.0 });
    assert_eq!(with(&rules, &late), "ok");
    let exact = self::rules(&value!({ "id_token": { "leeway_secs": 0 } }));
    assert_eq!(with(&exact, &late), "id_token_expired");
}

#[test]
fn j_65_to_67_the_issue_time_is_recent() {
    let rules = strict();
    assert_eq!(without(&rules, "iat"), "id_token_claim");
    for name in ["iat", "nbf"] {
        for (date, expected) in [
            (value!(SECONDS + 30.0), "ok"),
            (value!(SECONDS + 30.1), "id_token_not_yet_valid"),
            (value!(10_000_000_000_u64), "id_token_not_yet_valid"),
            (value!("1689713293"), "id_token_claim"),
            (
                value!(null),
                if name == "nbf" {
                    "ok"
                } else {
                    "id_token_claim"
                },
            ),
            (value!(-1), "id_token_claim"),
            (value!(true), "id_token_claim"),
        ] {
            assert_eq!(
                with(&rules, &value!({ name: date })),
                expected,
                "{name} {date}"
            );
        }
    }
    for (iat, expected) in [
        (SECONDS - 3629.0, "ok"),
        (SECONDS - 3630.0, "id_token_stale"),
        (SECONDS - 604_800.0, "id_token_stale"),
    ] {
        assert_eq!(with(&rules, &value!({ "iat": iat })), expected, "{iat}");
    }
    assert_eq!(with(&rules, &value!({ "nbf": SECONDS - 604_800.0 })), "ok");
    for name in ["iat", "nbf"] {
        let reversed = value!({ name: SECONDS - 1.0, "exp": SECONDS - 2.0 });
        assert_eq!(with(&rules, &reversed), "id_token_claim", "{name}");
    }
}

#[test]
fn j_68_an_id_token_needs_a_subject() {
    let rules = strict();
    assert_eq!(without(&rules, "sub"), "id_token_claim");
    let long = "x".repeat(256);
    for bad in [
        value!(null),
        value!(""),
        value!(5),
        value!(["17"]),
        value!(long),
        value!("a\nb"),
        value!("a\0"),
        value!("a\u{85}"),
    ] {
        assert_eq!(
            with(&rules, &value!({ "sub": bad })),
            "id_token_claim",
            "{bad}"
        );
    }
    assert_eq!(with(&rules, &value!({ "sub": "x".repeat(255) })), "ok");
}
