//! The webhook: an app ends sessions of its users with a signed request.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::back_channel::{is_signed_in, name_sessions};
use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::Settings;
use crate::support::openid::OpenIdScene;
use crate::support::provider::hs256;
use crate::support::scene::{Scene, url};

pub(crate) const KEY: &str = "0123456789abcdef0123456789abcdef";

/// A provider like Laravel Passport, and a gateway with the key of the webhook.
pub(crate) async fn scene() -> Scene {
    Scene::with(with_key).await
}

/// Adds the key of the webhook.
pub(crate) fn with_key(settings: Settings) -> Settings {
    let key = settings.file("webhook_key", &format!("{KEY}\n"));
    settings.of_provider(&format!("sign_out.webhook_key_files = [\"{key}\"]\n"))
}

fn signature(key: &str, time: u64, body: &str) -> String {
    let signature = hs256(key.as_bytes(), format!("{time}.{body}").as_bytes());
    let hex = signature.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    format!("t={time},v1={hex}")
}

async fn post(scene: &Scene, signature: Option<&str>, body: &str) -> Page {
    post_by(&scene.browser(), signature, body).await
}

async fn post_by(browser: &Browser, signature: Option<&str>, body: &str) -> Page {
    let mut visit = BrowserRequest::fetch(&url("/oauth2/revoke")).method("POST");
    if let Some(signature) = signature {
        visit = visit.field("x-sidegate-signature", signature);
    }
    let visit = visit.body("application/json", body.as_bytes());
    browser.send(visit).await
}

pub(crate) async fn revoke(scene: &Scene, body: &Value) -> Page {
    let (body, now) = (body.to_string(), scene.gateway.clock().now().as_secs());
    post(scene, Some(&signature(KEY, now, &body)), &body).await
}

#[tokio::test]
async fn an_app_ends_the_sessions_of_a_user_by_subject_or_address() {
    for named in [
        json!({ "subject": "alice" }),
        json!({ "email": "Alice@example.com" }),
    ] {
        let scene = scene().await;
        let browsers = [
            scene.signed_in("alice").await,
            scene.signed_in("alice").await,
        ];
        let bystander = scene.signed_in("bob").await;
        let page = revoke(&scene, &named).await;
        assert_eq!(page.status, 200, "{named}: {}", page.describe());
        for browser in &browsers {
            assert!(!is_signed_in(browser).await, "{named}");
        }
        assert!(is_signed_in(&bystander).await, "{named}");
    }
}

#[tokio::test]
async fn an_app_ends_the_sessions_of_one_session_at_the_provider() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("webhook_key");
    fs::write(&file, KEY).unwrap();
    let files = format!("[\"{}\"]", file.display());
    let keys = [("sign_out.webhook_key_files", &*files)];
    let scene = OpenIdScene::prepared(&keys, name_sessions).await;
    let browsers = [
        scene.signed_in("alice").await,
        scene.signed_in("alice").await,
    ];
    let bystander = scene.signed_in("bob").await;
    let now = scene.gateway.clock().now().as_secs();
    for (sid, is_ended) in [("sid-of-nobody", false), ("sid-of-alice", true)] {
        let body = json!({ "sid": sid }).to_string();
        let signed = signature(KEY, now, &body);
        let page = post_by(&scene.browser(), Some(&signed), &body).await;
        assert_eq!(page.status, 200, "{sid}: {}", page.describe());
        for browser in &browsers {
            assert_eq!(is_signed_in(browser).await, !is_ended, "{sid}");
        }
    }
    assert!(is_signed_in(&bystander).await);
}

#[tokio::test]
async fn an_unsigned_or_old_request_ends_nothing() {
    let scene = scene().await;
    let browser = scene.signed_in("alice").await;
    let body = json!({ "subject": "alice" }).to_string();
    let now = scene.gateway.clock().now().as_secs();
    let signed = signature(KEY, now, &body);
    for (signature, what) in [
        (None, "no signature"),
        (Some("t=1,v1=".to_owned()), "an empty signature"),
        (Some(signed.replace("v1=", "v0=")), "another version"),
        (
            Some(signature("another key of more than 32 bytes", now, &body)),
            "another key",
        ),
        (Some(signature(KEY, now, "{}")), "another body"),
        (
            Some(signed.replacen(&now.to_string(), &(now + 1).to_string(), 1)),
            "another time",
        ),
        (Some(signature(KEY, now - 302, &body)), "too old"),
        (Some(signature(KEY, now + 302, &body)), "in the future"),
    ] {
        let page = post(&scene, signature.as_deref(), &body).await;
        assert_eq!(page.status, 400, "{what}: {}", page.describe());
        assert_eq!(page.json()["error"], "invalid_request", "{what}");
        assert!(is_signed_in(&browser).await, "{what}");
    }
}

#[tokio::test]
async fn a_body_that_names_nobody_or_too_much_is_refused() {
    let scene = scene().await;
    let browser = scene.signed_in("alice").await;
    for body in [
        json!({}),
        json!({ "subject": "alice", "email": "alice@example.com" }),
        json!({ "subject": 5 }),
        json!({ "user": "alice" }),
        json!(["alice"]),
    ] {
        let page = revoke(&scene, &body).await;
        assert_eq!(page.status, 400, "{body}: {}", page.describe());
    }
    assert!(is_signed_in(&browser).await);
}

#[tokio::test]
async fn a_signed_request_has_one_effect() {
    let scene = scene().await;
    let browser = scene.signed_in("alice").await;
    let body = json!({ "subject": "alice" }).to_string();
    let signed = signature(KEY, scene.gateway.clock().now().as_secs(), &body);
    assert_eq!(post(&scene, Some(&signed), &body).await.status, 200);
    assert!(!is_signed_in(&browser).await);
    scene.gateway.advance(Duration::from_secs(1));
    let browser = scene.signed_in("alice").await;
    assert_eq!(post(&scene, Some(&signed), &body).await.status, 409);
    assert!(is_signed_in(&browser).await);
}

#[tokio::test]
async fn guesses_of_a_signature_are_limited() {
    let scene = scene().await;
    let mut statuses = Vec::new();
    for _ in 0..12 {
        statuses.push(post(&scene, Some("t=1,v1=00"), "{}").await.status.as_u16());
    }
    assert_eq!(statuses[..10], [400; 10]);
    assert_eq!(statuses[10..], [429; 2]);
    // A signed request from the same address still has its effect.
    let browser = scene.signed_in("alice").await;
    let page = revoke(&scene, &json!({ "subject": "alice" })).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    assert!(!is_signed_in(&browser).await);
}

#[tokio::test]
async fn a_login_under_way_opens_no_session_after_a_request_by_email() {
    let scene = scene().await;
    let browser = scene.browser_of("alice");
    let callback = browser.follow(&browser.open(&url("/page")).await).await;
    scene.gateway.advance(Duration::from_secs(1));
    let page = revoke(&scene, &json!({ "email": "alice@example.com" })).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    let page = browser.follow(&callback).await;
    assert_eq!(page.status, 400, "{}", page.describe());
    assert!(!is_signed_in(&browser).await);
}

#[tokio::test]
async fn without_a_key_there_is_no_webhook() {
    let scene = Scene::new().await;
    let page = revoke(&scene, &json!({ "subject": "alice" })).await;
    assert_eq!(page.status, 404, "{}", page.describe());
}
