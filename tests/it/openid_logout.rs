//! The OpenID Foundation's logout tests for relying parties, each with its own name (with `_` instead
//! of `-`): RP-initiated, back-channel and front-channel logout. In the Foundation's tests of the
//! back channel, a sign-out at the relying party causes the logout. The cause makes no difference to
//! the logout token.

use serde_json::json;
use url::Url;

use crate::back_channel::{assert_accepted, assert_refused, draft, is_signed_in, scene, send};
use crate::front_channel::logout as load_frame;
use crate::sign_out::{scene as scene_with_end_session, sign_out, subject_of};
use crate::support::browser::{Browser, Page};
use crate::support::openid::OpenIdScene;
use crate::support::provider::{CLIENT, Endpoint, parameters};
use crate::support::scene::{ORIGIN, SESSION, url};

// RP-initiated logout.

/// Signs Alice out up to the redirect of the provider to the page after the sign-out. Checks the
/// request to the end-session endpoint.
async fn until_redirect_back(scene: &OpenIdScene) -> (Browser, Url) {
    let browser = scene.signed_in("alice").await;
    let page = sign_out(&browser).await;
    let to_provider = browser.open(&url(&page.refresh_target())).await;
    assert_eq!(browser.cookie(ORIGIN, SESSION), None);
    let back = browser.follow(&to_provider).await.location().unwrap();
    let asked = scene.provider.requests(Endpoint::EndSession).pop().unwrap();
    let asked = parameters(asked.target().split_once('?').unwrap().1);
    assert_eq!(subject_of(&asked["id_token_hint"]), "alice");
    assert_eq!(asked["client_id"], CLIENT);
    let registered = url("/oauth2/signed_out");
    assert_eq!(asked["post_logout_redirect_uri"], registered);
    assert!(asked["state"].len() >= 22, "{asked:?}");
    (browser, back)
}

/// Opens the page after the sign-out with another query than that of the provider.
async fn come_back_with(browser: &Browser, mut back: Url, query: Option<&str>) -> Page {
    back.set_query(query);
    let page = browser.open(back.as_str()).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    // The session of the gateway has ended in every case.
    assert!(!is_signed_in(browser).await);
    page
}

const CLAIMS_THE_END: &str = "Your session at main has ended, too.";
const DOES_NOT_KNOW: &str = "You may still be signed in at main.";

#[tokio::test]
async fn oidcc_client_test_rp_init_logout() {
    let scene = scene_with_end_session(&[]).await;
    let (browser, back) = until_redirect_back(&scene).await;
    let query = back.query().map(str::to_owned);
    let page = come_back_with(&browser, back, query.as_deref()).await;
    assert!(page.text().contains(CLAIMS_THE_END), "{}", page.text());
}

#[tokio::test]
async fn oidcc_client_test_rp_init_logout_other_state() {
    let scene = scene_with_end_session(&[]).await;
    let (browser, back) = until_redirect_back(&scene).await;
    let other = Some("state=another");
    let page = come_back_with(&browser, back, other).await;
    assert!(page.text().contains(DOES_NOT_KNOW), "{}", page.text());
}

#[tokio::test]
async fn oidcc_client_test_rp_init_logout_no_state() {
    let scene = scene_with_end_session(&[]).await;
    let (browser, back) = until_redirect_back(&scene).await;
    let page = come_back_with(&browser, back, None).await;
    assert!(page.text().contains(DOES_NOT_KNOW), "{}", page.text());
}

// Back-channel logout.

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

// Front-channel logout. Session management is not listed, because the gateway has no frame that
// watches the session at the provider.

#[tokio::test]
async fn oidcc_client_test_rp_frontchannel_rpinitlogout() {
    let scene = OpenIdScene::prepared(&[], |provider| {
        crate::sign_out::publish(provider);
        crate::back_channel::name_sessions(provider);
    })
    .await;
    let browser = scene.signed_in("alice").await;
    let page = sign_out(&browser).await;
    let to_provider = browser.open(&url(&page.refresh_target())).await;
    let back = browser.follow(&to_provider).await;
    // The page of the provider loads the frame, although the session has already ended.
    let frame = load_frame(&scene, &browser, "alice").await;
    assert_eq!(frame.status, 200, "{}", frame.describe());
    let page = browser.follow(&back).await;
    assert!(page.text().contains(CLAIMS_THE_END), "{}", page.text());
    assert!(!is_signed_in(&browser).await);
}

#[tokio::test]
async fn oidcc_client_test_rp_frontchannel_opinitlogout() {
    let scene = scene().await;
    let browser = scene.signed_in("alice").await;
    let frame = load_frame(&scene, &browser, "alice").await;
    assert_eq!(frame.status, 200, "{}", frame.describe());
    assert_eq!(browser.cookie(ORIGIN, SESSION), None);
    assert!(!is_signed_in(&browser).await);
}
