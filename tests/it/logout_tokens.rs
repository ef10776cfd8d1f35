//! Logout tokens that are not valid, and unusual logout tokens that are valid.

use std::time::Duration;

use serde_json::{Value, json};
use sidegate::clock::Clock;

use crate::back_channel::{
    EVENT, assert_accepted, assert_refused, draft, is_signed_in, scene, send,
};
use crate::support::provider::{CLIENT, CLIENT_SECRET};

/// Fails unless the gateway refuses a logout token with each of these changes of a claim. The value
/// null removes the claim.
async fn refuses_claims(changes: &[(&str, Value)]) {
    for (name, value) in changes {
        assert_refused(&format!("{name} {value}"), |draft| {
            let claims = draft.claims.as_object_mut().unwrap();
            if value.is_null() {
                claims.remove(*name);
            } else {
                claims.insert((*name).to_owned(), value.clone());
            }
            None
        })
        .await;
    }
}

#[tokio::test]
async fn b_03_a_logout_token_without_a_signature_is_refused() {
    for alg in ["none", "None", "nOnE", ""] {
        assert_refused(alg, |draft| {
            draft.header["alg"] = alg.into();
            let token = draft.signed_by(draft.keys, "RS256");
            let (signed, _) = token.rsplit_once('.').unwrap();
            Some(format!("{signed}."))
        })
        .await;
    }
}

#[tokio::test]
async fn b_04_a_logout_token_with_another_algorithm_or_key_is_refused() {
    assert_refused("HS256", |draft| {
        draft.header["alg"] = "HS256".into();
        Some(draft.signed_with_secret(CLIENT_SECRET.as_bytes()))
    })
    .await;
    assert_refused("another algorithm than that of the signature", |draft| {
        draft.header["alg"] = "PS256".into();
        Some(draft.signed_by(draft.keys, "RS256"))
    })
    .await;
    assert_refused("the key of an attacker", |draft| {
        Some(draft.signed_by(draft.keys.of_an_attacker(), "RS256"))
    })
    .await;
}

#[tokio::test]
async fn b_05_a_logout_token_for_another_client_is_refused() {
    refuses_claims(&[
        ("aud", Value::Null),
        ("aud", "another-client".into()),
        ("aud", json!(["another-client"])),
        ("aud", json!([CLIENT, "another-client"])),
        ("aud", json!([CLIENT, 5])),
        ("aud", 5.into()),
    ])
    .await;
}

#[tokio::test]
async fn b_06_a_logout_token_of_another_issuer_is_refused() {
    refuses_claims(&[
        ("iss", Value::Null),
        ("iss", "https://other.example".into()),
        ("iss", json!(["https://other.example"])),
        ("iss", 5.into()),
    ])
    .await;
}

#[tokio::test]
async fn b_07_b_08_a_logout_token_without_its_event_is_refused() {
    refuses_claims(&[
        ("events", Value::Null),
        ("events", json!({})),
        ("events", json!([EVENT])),
        ("events", EVENT.into()),
        (
            "events",
            json!({ "http://schemas.openid.net/event/other": {} }),
        ),
        ("events", json!({ EVENT: Value::Null })),
        ("events", json!({ EVENT: "logout" })),
        ("events", json!({ EVENT: [] })),
    ])
    .await;
}

#[tokio::test]
async fn b_09_a_logout_token_with_a_nonce_is_refused() {
    refuses_claims(&[("nonce", "n".into()), ("nonce", 5.into())]).await;
}

#[tokio::test]
async fn b_10_a_logout_token_without_iat_or_an_old_one_is_refused() {
    let now = Clock::system().now().as_secs();
    refuses_claims(&[
        ("iat", Value::Null),
        ("iat", now.to_string().into()),
        ("iat", (now - 200).into()),
        ("iat", (now + 200).into()),
        ("exp", (now - 200).into()),
        ("exp", "never".into()),
        ("nbf", (now + 200).into()),
    ])
    .await;
}

#[tokio::test]
async fn b_11_a_logout_token_is_good_for_one_use() {
    refuses_claims(&[("jti", Value::Null), ("jti", "".into()), ("jti", 5.into())]).await;
    let scene = scene().await;
    let browser = scene.signed_in("alice").await;
    let token = draft(&scene, "alice").signed();
    assert_accepted(&send(&scene, &token).await);
    assert!(!is_signed_in(&browser).await);
    scene.gateway.advance(Duration::from_secs(1));
    let browser = scene.signed_in("alice").await;
    assert_accepted(&send(&scene, &token).await);
    assert!(is_signed_in(&browser).await);
}

#[tokio::test]
async fn b_12_a_logout_token_that_names_nobody_is_refused() {
    assert_refused("neither sub nor sid", |draft| {
        let claims = draft.claims.as_object_mut().unwrap();
        claims.remove("sub");
        claims.remove("sid");
        None
    })
    .await;
    refuses_claims(&[
        ("sub", "".into()),
        ("sub", 5.into()),
        ("sid", "".into()),
        ("sid", 5.into()),
    ])
    .await;
}

#[tokio::test]
async fn b_13_a_token_of_another_type_is_not_a_logout_token() {
    for typ in ["at+jwt", "secevent+jwt", "dpop+jwt"] {
        assert_refused(typ, |draft| {
            draft.header["typ"] = typ.into();
            None
        })
        .await;
    }
    assert_refused("an ID token", |draft| {
        let claims = draft.claims.as_object_mut().unwrap();
        claims.remove("events");
        claims.insert("nonce".to_owned(), "n".into());
        draft.header["typ"] = "JWT".into();
        None
    })
    .await;
    // Some providers use the type of ID tokens, or no type, and some send no `exp`.
    for typ in [json!("JWT"), json!("application/logout+jwt"), Value::Null] {
        let scene = scene().await;
        let browser = scene.signed_in("alice").await;
        let mut other = draft(&scene, "alice");
        other.claims.as_object_mut().unwrap().remove("exp");
        let header = other.header.as_object_mut().unwrap();
        header.remove("typ");
        if !typ.is_null() {
            header.insert("typ".to_owned(), typ.clone());
        }
        assert_accepted(&send(&scene, &other.signed()).await);
        assert!(!is_signed_in(&browser).await, "{typ}");
    }
}
