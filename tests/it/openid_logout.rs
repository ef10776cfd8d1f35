//! The OpenID Foundation's tests of back-channel logout for relying parties, each with its own name
//! (with `_` instead of `-`). In the Foundation's tests, a sign-out at the relying party causes the
//! logout. The cause makes no difference to the logout token.

use serde_json::json;

use crate::back_channel::{assert_accepted, assert_refused, draft, is_signed_in, scene, send};

#[tokio::test]
async fn oidcc_client_test_rp_backchannel_rpinitlogout() {
    let scene = scene().await;
    let browser = scene.signed_in("alice").await;
    assert_accepted(&send(&scene, &draft(&scene, "alice").signed()).await);
    assert!(!is_signed_in(&browser).await);
}

#[tokio::test]
async fn oidcc_client_test_rp_backchannel_rpinitlogout_alg_none() {
    assert_refused("alg none", |draft| {
        draft.header["alg"] = "none".into();
        let token = draft.signed_by(draft.keys, "RS256");
        let (signed, _) = token.rsplit_once('.').unwrap();
        Some(format!("{signed}."))
    })
    .await;
}

#[tokio::test]
async fn oidcc_client_test_rp_backchannel_rpinitlogout_no_event() {
    assert_refused("no event", |draft| {
        draft.claims.as_object_mut().unwrap().remove("events");
        None
    })
    .await;
}

#[tokio::test]
async fn oidcc_client_test_rp_backchannel_rpinitlogout_with_nonce() {
    assert_refused("nonce", |draft| {
        draft.claims["nonce"] = "n".into();
        None
    })
    .await;
}

#[tokio::test]
async fn oidcc_client_test_rp_backchannel_rpinitlogout_wrong_alg() {
    assert_refused("another algorithm", |draft| {
        draft.header["alg"] = "HS256".into();
        let secret = crate::support::provider::CLIENT_SECRET;
        Some(draft.signed_with_secret(secret.as_bytes()))
    })
    .await;
}

#[tokio::test]
async fn oidcc_client_test_rp_backchannel_rpinitlogout_wrong_aud() {
    assert_refused("another audience", |draft| {
        draft.claims["aud"] = "another-client".into();
        None
    })
    .await;
}

#[tokio::test]
async fn oidcc_client_test_rp_backchannel_rpinitlogout_wrong_event() {
    assert_refused("another event", |draft| {
        draft.claims["events"] = json!({ "http://schemas.openid.net/event/wrong": {} });
        None
    })
    .await;
}

#[tokio::test]
async fn oidcc_client_test_rp_backchannel_rpinitlogout_wrong_iss() {
    assert_refused("another issuer", |draft| {
        draft.claims["iss"] = "https://other.example".into();
        None
    })
    .await;
}
