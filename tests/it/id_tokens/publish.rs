//! What a provider publishes instead of its keys, or beside them.

use serde_json::{Value, json};

use crate::support::openid::{Endpoint, Keys, OpenIdProvider, base64url};
use crate::support::upstream::Answer;

/// The keys, to be changed in place.
fn keys(jwks: &mut Value) -> &mut Vec<Value> {
    jwks["keys"].as_array_mut().unwrap()
}

/// Sets a member of the RSA key, which signs by default.
fn in_rsa(jwks: &mut Value, name: &str, value: &Value) {
    keys(jwks)[0][name] = value.clone();
}

/// Orders the provider to publish so.
pub(super) fn order(provider: &OpenIdProvider, what: &str) {
    let (word, rest) = what.split_once(' ').unwrap_or((what, ""));
    let rest = rest.to_owned();
    let first = Keys::first();
    match word {
        "rsa" => provider.jwks(move |jwks| {
            let (name, value) = rest.split_once(' ').unwrap();
            in_rsa(jwks, name, &serde_json::from_str(value).unwrap());
        }),
        "rsa-without" => provider.jwks(move |jwks| {
            keys(jwks)[0].as_object_mut().unwrap().remove(&rest);
        }),
        // One more entry, before all others.
        "beside" => provider.jwks(move |jwks| {
            keys(jwks).insert(0, serde_json::from_str(&rest).unwrap());
        }),
        "only" => provider.jwks(move |jwks| {
            *jwks = json!({ "keys": [first.jwk(&rest)] });
        }),
        "of-attacker-beside" => provider.jwks(move |jwks| {
            keys(jwks).insert(0, first.of_an_attacker().jwk(&rest));
        }),
        "of-attacker" => provider.jwks(move |jwks| *jwks = first.of_an_attacker().jwks()),
        "renamed" => provider.jwks(move |jwks| {
            // All families under one name.
            for key in keys(jwks) {
                key["kid"] = rest.as_str().into();
            }
        }),
        "curve-name" => provider.jwks(move |jwks| keys(jwks)[1]["crv"] = rest.as_str().into()),
        "off-curve" => provider.jwks(move |jwks| {
            keys(jwks)[1]["y"] = base64url([7; 32]).into();
        }),
        "exponent-1" => provider.jwks(|jwks| in_rsa(jwks, "e", &json!("AQ"))),
        "short-rsa" => provider.jwks(|jwks| in_rsa(jwks, "n", &base64url([0xc1; 128]).into())),
        "long-rsa" => provider.jwks(|jwks| in_rsa(jwks, "n", &base64url([0xc1; 2049]).into())),
        "secret-beside" => provider.jwks(|jwks| {
            let k = base64url("everybody knows this secret very well");
            keys(jwks).push(json!({ "kty": "oct", "kid": "rsa-0", "k": k, "alg": "HS256" }));
        }),
        "many" => provider.jwks(move |jwks| {
            let filler = first.of_an_attacker().jwk("ES256");
            let count = rest.parse().unwrap();
            let mut all: Vec<Value> = std::iter::repeat_n(filler, count).collect();
            all.append(keys(jwks));
            jwks["keys"] = all.into();
        }),
        "set" => provider.raw(Endpoint::Jwks, 200, "application/json", &rest),
        "twice" => {
            let text = first.jwks().to_string();
            let evil = first.of_an_attacker().jwks()["keys"].to_string();
            let text = format!("{},\"keys\":{evil}}}", text.strip_suffix('}').unwrap());
            provider.raw(Endpoint::Jwks, 200, "application/json", &text);
        }
        "big" => {
            let text = first.jwks().to_string();
            let filler = " ".repeat(rest.parse().unwrap());
            provider.raw(
                Endpoint::Jwks,
                200,
                "application/json",
                &format!("{text}{filler}"),
            );
        }
        "as" => provider.raw(Endpoint::Jwks, 200, &rest, &first.jwks().to_string()),
        "status" => {
            let status = rest.parse().unwrap();
            let text = first.jwks().to_string();
            provider.raw(Endpoint::Jwks, status, "application/json", &text);
        }
        "redirect" => {
            let at = format!("{}/elsewhere", provider.issuer());
            provider.instead(Endpoint::Jwks, Answer::with(301, &[("Location", &at)], ""));
        }
        "gone" => provider.instead(Endpoint::Jwks, Answer::silence().then_close()),
        _ => panic!("nothing is published so: {what:?}"),
    }
}
