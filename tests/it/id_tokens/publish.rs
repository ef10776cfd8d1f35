//! Changes to the keys that a provider publishes.

use serde_json::{Value, json};

use crate::support::provider::{Endpoint, Keys, StandIn, base64url};
use crate::support::upstream::Answer;

/// The positions of the keys for RS256 and ES256.
const RSA: usize = 0;
const P256: usize = 1;

/// The list of published keys.
fn keys(jwks: &mut Value) -> &mut Vec<Value> {
    jwks["keys"].as_array_mut().unwrap()
}

/// Makes the provider publish its keys with this change.
pub(super) fn order(provider: &StandIn, what: &str) {
    let (word, rest) = what.split_once(' ').unwrap_or((what, ""));
    let honest = Keys::first().jwks().to_string();
    let raw = |status, kind: &str, body: &str| provider.raw(Endpoint::Jwks, status, kind, body);
    let json = "application/json";
    match word {
        "set" => raw(200, json, rest),
        "twice" => {
            let evil = Keys::first().of_an_attacker().jwks()["keys"].to_string();
            let start = honest.strip_suffix('}').unwrap();
            raw(200, json, &format!("{start},\"keys\":{evil}}}"));
        }
        "big" => raw(
            200,
            json,
            &format!("{honest}{}", " ".repeat(rest.parse().unwrap())),
        ),
        "as" => raw(200, rest, &honest),
        "status" => raw(rest.parse().unwrap(), json, &honest),
        "redirect" => {
            let at = format!("{}/elsewhere", provider.url());
            provider.instead(Endpoint::Jwks, Answer::with(301, &[("Location", &at)], ""));
        }
        "gone" => provider.instead(Endpoint::Jwks, Answer::silence().then_close()),
        _ => {
            let (word, rest) = (word.to_owned(), rest.to_owned());
            provider.jwks(move |jwks| change(jwks, &word, &rest));
        }
    }
}

/// Changes the published keys, entry by entry.
fn change(jwks: &mut Value, word: &str, rest: &str) {
    let first = Keys::first();
    let entries = keys(jwks);
    match word {
        "rsa" => {
            let (name, value) = rest.split_once(' ').unwrap();
            entries[RSA][name] = serde_json::from_str(value).unwrap();
        }
        "rsa-without" => drop(entries[RSA].as_object_mut().unwrap().remove(rest)),
        // Adds one entry before all others.
        "beside" => entries.insert(0, serde_json::from_str(rest).unwrap()),
        "only" => *entries = vec![first.jwk(rest)],
        "of-attacker-beside" => entries.insert(0, first.of_an_attacker().jwk(rest)),
        "of-attacker" => *jwks = first.of_an_attacker().jwks(),
        // All keys get the same `kid`.
        "renamed" => entries.iter_mut().for_each(|key| key["kid"] = rest.into()),
        "curve-name" => entries[P256]["crv"] = rest.into(),
        "off-curve" => entries[P256]["y"] = base64url([7; 32]).into(),
        "exponent-1" => entries[RSA]["e"] = "AQ".into(),
        "short-rsa" => entries[RSA]["n"] = base64url([0xc1; 128]).into(),
        "long-rsa" => entries[RSA]["n"] = base64url([0xc1; 2049]).into(),
        "secret-beside" => {
            let k = base64url("everybody knows this secret very well");
            entries.push(json!({ "kty": "oct", "kid": "rsa-0", "k": k, "alg": "HS256" }));
        }
        "many" => {
            let filler = first.of_an_attacker().jwk("ES256");
            let count = rest.parse().unwrap();
            entries.splice(..0, std::iter::repeat_n(filler, count));
        }
        _ => panic!("unknown change of the keys: {word:?}"),
    }
}
