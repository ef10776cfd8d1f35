//! Tests which claims of ID tokens are accepted and which are refused. The tests of this file also
//! verify the signature.

mod openid;
mod registered;

use serde_json::{Value, json as value};

use super::signing::*;
use super::*;
use crate::provider::id_token::{IdClaims, IdTokenRules, LoginContext};
use crate::provider::issuer::Issuer;
use crate::provider::jwt::{VerifiedToken, verify};
use crate::provider::settings::Algorithm;

const ISSUER: &str = "https://id.example/realms/shop";
const CLIENT: &str = "99adb0aa";
const NONCE: &str = "n-0S6_WzA2Mj";
const SECONDS: f64 = 1_689_713_300.0;
/// One minute before `NOW`.
const BEGUN_AT: Timestamp = Timestamp::from_millis(1_689_713_240_000);

/// The tokens of the example in OpenID Connect Core 1.0, appendix A.4. The example also contains
/// the hashes of the access token and of the code, for the algorithm RS256.
const ACCESS_TOKEN: &str = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y";
const AT_HASH: &str = "77QmUPtjPfzWtF2AnpK9RQ";
const CODE: &str = "Qcb0Orv1zh30vL1MPRsbm-diHiMwcLyZvn1arpZv-Jxf_11jnpEX3Tgfvk";
const C_HASH: &str = "LDktKdoQak3Pk0cnXxCltA";

fn rules(further: &Value) -> IdTokenRules {
    let mut settings = value!({ "client_id": CLIENT, "issuer": ISSUER });
    let further = further.as_object().unwrap().clone();
    settings.as_object_mut().unwrap().extend(further);
    let settings: Settings = serde_json::from_value(settings).unwrap();
    let issuer = Issuer::new(&settings).unwrap();
    IdTokenRules::new(&settings, issuer).unwrap()
}

fn claims() -> Value {
    value!({
        "iss": ISSUER, "aud": CLIENT, "sub": "17", "nonce": NONCE,
        "iat": SECONDS - 1.0, "exp": SECONDS + 300.0,
    })
}

fn verified(claims: Value) -> VerifiedToken {
    let Value::Object(members) = claims else {
        panic!("not an object");
    };
    VerifiedToken {
        members,
        algorithm: Algorithm::RS256,
        key_issuer: None,
    }
}

fn check(rules: &IdTokenRules, verified: VerifiedToken) -> Result<IdClaims, TokenError> {
    let access_token = Secret::new(ACCESS_TOKEN.to_owned());
    let code = Secret::new(CODE.to_owned());
    let exchange = LoginContext {
        nonce: NONCE,
        access_token: &access_token,
        code: &code,
        begun_at: BEGUN_AT,
        max_age: None,
    };
    rules.check(verified, &exchange, NOW)
}

fn outcome_of(rules: &IdTokenRules, claims: Value) -> &'static str {
    check(rules, verified(claims))
        .map_or_else(|error| error.reason(TokenKind::IdToken), |_claims| "ok")
}

/// Replaces some of the valid claims, and returns the outcome of the check. A claim that is
/// replaced by null stays in the token with the value null.
fn with(rules: &IdTokenRules, changed: &Value) -> &'static str {
    let mut claims = claims();
    let changed = changed.as_object().unwrap().clone();
    claims.as_object_mut().unwrap().extend(changed);
    outcome_of(rules, claims)
}

fn without(rules: &IdTokenRules, name: &str) -> &'static str {
    let mut claims = claims();
    assert!(claims.as_object_mut().unwrap().remove(name).is_some());
    outcome_of(rules, claims)
}

fn strict() -> IdTokenRules {
    rules(&value!({}))
}

#[test]
fn a_valid_id_token_gives_the_identity() {
    let claims = check(&strict(), verified(claims())).unwrap();
    assert_eq!((&*claims.issuer, &*claims.subject), (ISSUER, "17"));
    assert_eq!(claims.members["nonce"], NONCE);
}

#[test]
fn an_id_token_is_verified_and_then_checked() {
    let template = "https://id.example/{tenantid}/v2.0";
    let rules = rules(&value!({
        "issuer": template, "tenants": ["one", "two"], "id_token": { "algorithms": ["ES256"] },
    }));
    let entries = [("many", template), ("two", "https://id.example/two/v2.0")];
    let keys = entries.map(|(kid, issuer)| P256.jwk_with(value!({ "kid": kid, "issuer": issuer })));
    let keys = key_set(&keys);
    let mut claims = claims();
    claims["iss"] = value!("https://id.example/one/v2.0");
    claims["tid"] = value!("one");
    for (header, expected) in [
        (value!({ "alg": "ES256", "kid": "many" }), "ok"),
        (
            value!({ "alg": "ES256", "kid": "two" }),
            "id_token_key_issuer",
        ),
        (
            value!({ "alg": "ES256", "kid": "many", "typ": "at+jwt" }),
            "id_token_type",
        ),
        (
            value!({ "alg": "ES384", "kid": "many" }),
            "id_token_algorithm",
        ),
        (
            value!({ "alg": "ES256", "kid": "none" }),
            "id_token_unknown_key",
        ),
    ] {
        let token = P256.token(&header, &claims.to_string());
        let verified = verify(&token, &rules.expected(), &keys);
        let outcome = verified
            .and_then(|verified| check(&rules, verified))
            .map_or_else(|error| error.reason(TokenKind::IdToken), |_claims| "ok");
        assert_eq!(outcome, expected, "{header}");
    }
}

#[test]
fn rules_without_an_issuer_or_an_algorithm_are_refused() {
    for (settings, key) in [
        (value!({ "client_id": CLIENT }), "`issuer`"),
        (
            value!({ "client_id": CLIENT, "issuer": ISSUER, "id_token": { "algorithms": [] } }),
            "`id_token.algorithms`",
        ),
    ] {
        let settings: Settings = serde_json::from_value(settings).unwrap();
        let issuer = Issuer::new(&settings).unwrap();
        let error = IdTokenRules::new(&settings, issuer).unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
    }
}
