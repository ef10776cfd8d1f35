//! The requests to the token endpoint, and the handling of its answers.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::support::form::links;
use crate::support::provider::Endpoint;
use crate::support::provider::{CLIENT_SECRET, parameters};
use crate::support::scene::{Scene, assert_refused, url};
use crate::support::upstream::Answer;

#[tokio::test]
async fn a_10_a_12_the_token_request_is_as_the_standard_says() {
    let scene = Scene::new().await;
    scene.signed_in("alice").await;
    let [request] = <[_; 1]>::try_from(scene.provider.exchanges()).unwrap();
    assert_eq!(request.head.start_line(), "POST /token HTTP/1.1");
    assert_eq!(
        request.head.value("accept").as_deref(),
        Some("application/json")
    );
    let body = String::from_utf8(request.body.clone()).unwrap();
    let sent = parameters(&body);
    assert_eq!(sent["grant_type"], "authorization_code");
    assert_eq!(sent["redirect_uri"], "http://localhost/oauth2/callback");
    assert!((43..=128).contains(&sent["code_verifier"].len()));
    // The client uses one authentication method, never two.
    let in_body = sent
        .get("client_secret")
        .is_some_and(|secret| secret == CLIENT_SECRET);
    assert_ne!(in_body, request.head.value("authorization").is_some());
}

#[tokio::test]
async fn a_26_a_redirect_of_the_token_endpoint_is_not_followed() {
    let scene = Scene::new().await;
    let elsewhere = crate::support::upstream::RecordingUpstream::start().await;
    for status in [301, 302, 303, 307, 308] {
        let location = elsewhere.url();
        scene
            .provider
            .fail_next(Answer::with(status, &[("Location", &location)], ""));
        let browser = scene.browser();
        let callback = scene.until_callback(&browser, "/").await;
        let page = browser.follow(&callback).await;
        assert_refused(
            &scene,
            &browser,
            &page,
            "502 token_endpoint_redirected",
            &status.to_string(),
        );
    }
    assert_eq!(elsewhere.count(), 0);
}

#[tokio::test]
async fn a_27_a_28_unusable_token_responses_open_no_session() {
    let scene = Scene::new().await;
    let json = [("Content-Type", "application/json")];
    let big = format!(
        "{{\"access_token\":\"a\",\"token_type\":\"Bearer\",\"x\":\"{}\"}}",
        "x".repeat(5_000_000)
    );
    let long = format!(
        "{{\"access_token\":\"{}\",\"token_type\":\"Bearer\"}}",
        "a".repeat(65_536)
    );
    let (malformed, unusable) = ("503 token_response_malformed", "502 token_unusable");
    let bodies = [
        ("{}", malformed),
        ("", malformed),
        ("null", malformed),
        ("[]", malformed),
        (r#"{"token_type":"Bearer"}"#, malformed),
        (r#"{"access_token":"","token_type":"Bearer"}"#, unusable),
        (r#"{"access_token":"a","token_type":"mac"}"#, malformed),
        (r#"{"access_token":"a"}"#, malformed),
        (r#"{"access_token":17,"token_type":"Bearer"}"#, malformed),
        (
            r#"{"access_token":"a\r\nX-Evil: y","token_type":"Bearer"}"#,
            unusable,
        ),
        (r#"{"access_token":"a b","token_type":"Bearer"}"#, unusable),
        (
            r#"{"access_token":"a\u0000","token_type":"Bearer"}"#,
            unusable,
        ),
        (r#"{"access_token":"a,b","token_type":"Bearer"}"#, unusable),
        (r#"{"access_token":"ä","token_type":"Bearer"}"#, unusable),
        (
            r#"{"access_token":"a","token_type":"Bearer"} trailing"#,
            malformed,
        ),
        (
            r#"{"access_token":"a","access_token":"b","token_type":"Bearer"}"#,
            malformed,
        ),
        (r#"{"error":"invalid_grant"}"#, "400 code_refused"),
        ("\u{feff}{", malformed),
        (&big, "503 provider_call_failed"),
        (&long, unusable),
    ];
    for (body, refused) in bodies {
        scene.provider.fail_next(Answer::with(200, &json, body));
        let browser = scene.browser();
        let callback = scene.until_callback(&browser, "/").await;
        let page = browser.follow(&callback).await;
        let shown: String = body.chars().take(80).collect();
        assert_refused(&scene, &browser, &page, refused, &shown);
    }
}

#[tokio::test]
async fn a_27_f_06_errors_and_broken_answers_of_the_token_endpoint_open_no_session() {
    let scene = Scene::new().await;
    let html = [("Content-Type", "text/html")];
    for (status, body, refused) in [
        (400, "<h1>no</h1>", "502 client_refused"),
        (401, "{}", "502 client_refused"),
        (429, "slow down", "503 provider_throttled"),
        (500, "oops", "503 provider_unavailable"),
        (503, "", "503 provider_unavailable"),
    ] {
        scene.provider.fail_next(Answer::with(status, &html, body));
        let browser = scene.browser();
        let callback = scene.until_callback(&browser, "/").await;
        let page = browser.follow(&callback).await;
        assert_refused(&scene, &browser, &page, refused, body);
    }
    for broken in [
        Answer::silence().then_close(),
        Answer::silence().then_reset(),
        Answer::raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{").then_close(),
        Answer::raw(b"garbage\r\n\r\n").then_close(),
    ] {
        scene.provider.fail_next(broken);
        let browser = scene.browser();
        let callback = scene.until_callback(&browser, "/").await;
        let page = browser.follow(&callback).await;
        assert_refused(
            &scene,
            &browser,
            &page,
            "503 provider_call_failed",
            "a broken answer",
        );
    }
}

#[tokio::test]
async fn a_27_token_responses_of_real_servers_are_accepted() {
    let scene = Scene::new().await;
    for members in [
        serde_json::json!({ "token_type": "BeArEr" }),
        serde_json::json!({ "expires_in": null }),
        serde_json::json!({ "expires_in": "3600" }),
        serde_json::json!({ "expires_in": 3600.5 }),
        serde_json::json!({ "expires_in": 63_158_400 }),
        serde_json::json!({ "refresh_token": null }),
        serde_json::json!({ "scope": "a b", "unknown": { "x": [1] } }),
    ] {
        scene.provider.token_members(members.clone());
        let page = scene.browser().visit(&url("/")).await;
        assert_eq!(page.text(), "seen", "{members}: {}", page.describe());
    }
}

#[tokio::test]
async fn unusable_userinfo_opens_no_session() {
    let scene = Scene::new().await;
    for members in [
        serde_json::json!({ "id": null, "sub": null }),
        serde_json::json!({ "id": "", "sub": "" }),
        serde_json::json!({ "id": ["x"], "sub": { "y": 1 } }),
        serde_json::json!({ "id": "a\r\nX: y", "sub": "a\r\nX: y" }),
    ] {
        scene.provider.user_members(members.clone());
        let browser = scene.browser();
        let callback = scene.until_callback(&browser, "/").await;
        let page = browser.follow(&callback).await;
        assert_refused(
            &scene,
            &browser,
            &page,
            "502 no_subject",
            &members.to_string(),
        );
    }
}

#[tokio::test]
async fn an_exchange_finishes_after_its_browser_has_gone() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let callback = scene.until_callback(&browser, "/").await;
    let gate = Arc::new(Notify::new());
    let body = "{\"access_token\":\"alice.1\",\"token_type\":\"Bearer\"}";
    let json = [("Content-Type", "application/json")];
    scene
        .provider
        .fail_next(Answer::with(200, &json, body).held_by(&gate));
    let leaving = tokio::spawn({
        let (browser, callback) = (browser.clone(), callback.clone());
        async move { browser.follow(&callback).await }
    });
    scene.provider.wait_for(Endpoint::Token, 1).await;
    leaving.abort();
    gate.notify_one();
    // The code is used up, so the gateway does not redeem the code a second time.
    let page = browser.follow(&callback).await;
    assert_refused(&scene, &browser, &page, "400 state_used", "repeated");
    assert_eq!(scene.provider.exchanges().len(), 1);
    assert_eq!(scene.provider.authorizations().len(), 1);
}

#[tokio::test]
async fn f_01_while_the_provider_is_down_a_login_says_when_to_try_again() {
    let scene = Scene::new().await;
    for (answer, after) in [
        (Answer::with(503, &[], "down"), "5"),
        (Answer::with(503, &[("Retry-After", "17")], "down"), "17"),
    ] {
        let browser = scene.browser();
        let callback = scene.until_callback(&browser, "/page").await;
        scene.provider.fail_next(answer);
        let page = browser.follow(&callback).await;
        assert_eq!(page.status, 503, "{}", page.describe());
        assert_eq!(page.field("retry-after"), Some(after));
        let again = links(&page.text()).remove(0).href;
        let start = browser.open(&url(&again)).await;
        let page = browser.follow_all(start).await;
        assert_eq!(
            (page.text().as_str(), page.url.as_str()),
            ("seen", "http://localhost/page")
        );
    }
    assert_eq!(scene.browser().visit(&url("/page")).await.text(), "seen");
}
