//! Several tabs, several providers, and clients that do not wait.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::support::browser_request::BrowserRequest;
use crate::support::form::links;
use crate::support::provider::Endpoint;
use crate::support::raw::Raw;
use crate::support::scene::{ORIGIN, SESSION, Scene, assert_nothing_opened, url};
use crate::support::two_providers::{SEPARATE_ROUTES, TwoProviders};
use crate::support::upstream::Answer;

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

#[tokio::test]
async fn tabs_that_began_before_the_login_share_its_session() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let mut callbacks = Vec::new();
    for number in 0..5 {
        let path = format!("/tab/{number}");
        callbacks.push(scene.until_callback(&browser, &path).await);
    }
    let mut sessions = Vec::new();
    for (number, callback) in callbacks.iter().enumerate() {
        let answer = browser.follow(callback).await;
        let location = answer.location().unwrap();
        assert_eq!(location.path(), format!("/tab/{number}"));
        sessions.push(browser.cookie(ORIGIN, SESSION).unwrap());
    }
    assert_eq!(scene.provider.exchanges().len(), 1);
    assert!(sessions.iter().all(|session| *session == sessions[0]));
    // All pending logins were removed.
    let pending = |name: &str| name.starts_with("__Host-sidegate-") && !name.ends_with("round");
    let left = browser.cookies(ORIGIN);
    assert!(!left.iter().any(|cookie| pending(&cookie.name)), "{left:?}");
}

#[tokio::test]
async fn a_user_who_signs_in_again_gets_a_new_session() {
    let scene = Scene::new().await;
    let browser = scene.signed_in("alice").await;
    let before = browser.cookie(ORIGIN, SESSION).unwrap();
    let start = browser.open(&url("/oauth2/sign_in?prompt=login")).await;
    let asked = start.location().unwrap();
    assert!(
        asked
            .query_pairs()
            .any(|(name, value)| name == "prompt" && value == "login")
    );
    browser.follow_all(start).await;
    assert_ne!(browser.cookie(ORIGIN, SESSION).unwrap(), before);
    assert_eq!(scene.provider.exchanges().len(), 2);
}

#[tokio::test]
async fn a_browser_that_does_not_wait_for_its_new_session_keeps_the_old_one() {
    let scene = Scene::new().await;
    let browser = scene.signed_in("alice").await;
    let start = browser.open(&url("/oauth2/sign_in?prompt=login")).await;
    let callback = browser.follow(&start).await.location().unwrap();
    let gate = Arc::new(Notify::new());
    let token = r#"{"token_type":"Bearer","expires_in":60,"access_token":"late"}"#;
    let answer = Answer::with(200, &JSON, token).held_by(&gate);
    scene.provider.fail_next(answer);

    let cookies: Vec<String> = browser
        .cookies(ORIGIN)
        .iter()
        .map(|cookie| format!("{}={}", cookie.name, cookie.value))
        .collect();
    let mut client = Raw::connect(scene.gateway.address()).await;
    let (path, query) = (callback.path(), callback.query().unwrap());
    let cookies = cookies.join("; ");
    client
        .send(format!(
            "GET {path}?{query} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookies}\r\n\r\n"
        ))
        .await;
    scene.provider.wait_for(Endpoint::Token, 2).await;
    drop(client);
    gate.notify_one();
    let page = browser.open(&url("/still")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
}

#[tokio::test]
async fn a_20_a_23_an_answer_of_one_provider_is_never_accepted_for_another() {
    let two = TwoProviders::start(SEPARATE_ROUTES).await;
    let browser = two.browser();
    let mut answer = two.callback(&browser, "/page").await.location().unwrap();
    assert_eq!(answer.path(), "/oauth2/callback/main");
    for (path, refused) in [
        ("/oauth2/callback/other", "400 state_foreign"),
        ("/oauth2/callback", "404 no_route"),
        ("/oauth2/callback/nobody", "404 no_route"),
    ] {
        answer.set_path(path);
        let page = browser.open(answer.as_str()).await;
        assert_nothing_opened(&browser, &page, refused, path);
    }
    assert!(two.main.exchanges().is_empty() && two.other.exchanges().is_empty());
    answer.set_path("/oauth2/callback/main");
    let page = browser.visit(answer.as_str()).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
}

#[tokio::test]
async fn a_session_of_one_provider_does_not_serve_the_others_routes() {
    let two = TwoProviders::start(SEPARATE_ROUTES).await;
    let browser = two.browser();
    assert_eq!(browser.visit(&url("/page")).await.text(), "seen");
    let refused = browser
        .send(BrowserRequest::fetch(&url("/other/data")))
        .await;
    assert_eq!(refused.status, 401, "{}", refused.describe());
    let problem = refused.json();
    assert_eq!(problem["reason"], "session_of_other_provider");
    // The hint leads to the other provider and does not cause a loop.
    let login_url = problem["login_url"].as_str().unwrap();
    let start = browser.open(login_url).await;
    let location = start.location().unwrap();
    assert!(
        location.as_str().starts_with(&two.other.url()),
        "{location}"
    );
    let answer = browser.follow(&start).await;
    let signed_in = browser.follow(&answer).await;
    assert_eq!(signed_in.status, 303, "{}", signed_in.describe());
    let served = browser
        .send(BrowserRequest::fetch(&url("/other/data")))
        .await;
    assert_eq!(served.text(), "seen", "{}", served.describe());
}

#[tokio::test]
async fn a_20_a_21_a_22_an_answer_has_to_name_the_issuer_that_was_asked() {
    let two = TwoProviders::start(SEPARATE_ROUTES).await;
    let (issuer, other) = (two.main.url(), two.other.url());
    let upper = issuer.replace("http://", "HTTP://");
    let encoded = issuer.replace("127", "%3127");
    for iss in [
        None,
        Some(other.as_str()),
        Some(&format!("{issuer}/")),
        Some(&upper),
        Some(&encoded),
        Some(""),
    ] {
        two.main.response_iss(iss);
        let browser = two.browser();
        let page = browser.visit(&url("/page")).await;
        assert_eq!(page.status, 502, "{iss:?}: {}", page.describe());
        assert!(page.text().contains("response_issuer"), "{iss:?}");
        assert!(browser.cookie(ORIGIN, SESSION).is_none(), "{iss:?}");
    }
    assert!(two.main.exchanges().is_empty() && two.other.exchanges().is_empty());
    two.main.response_iss(Some(&issuer));
    let browser = two.browser();
    assert_eq!(browser.visit(&url("/page")).await.text(), "seen");
    // The other provider does not promise `iss` in its answers.
    assert_eq!(browser.visit(&url("/other/x")).await.text(), "seen");
}

#[tokio::test]
async fn a_20_an_error_from_another_issuer_is_not_accepted() {
    let two = TwoProviders::start(SEPARATE_ROUTES).await;
    let browser = two.browser();
    let error = |iss: &str| {
        let text = "/oauth2/callback/main?error=access_denied&error_description=x";
        format!("{}&iss={iss}", url(text))
    };
    let page = browser.open(&error(&two.other.url())).await;
    assert!(
        page.text().contains("response_issuer"),
        "{}",
        page.describe()
    );
    for known in [error(&two.main.url()), error("").replace("&iss=", "")] {
        let page = browser.open(&known).await;
        assert!(page.text().contains("access_denied"), "{}", page.describe());
    }
}

/// The answer of a provider that refuses a code.
fn code_refused() -> Answer {
    Answer::with(400, &JSON, r#"{"error":"invalid_grant"}"#)
}

#[tokio::test]
async fn a_session_of_one_provider_is_no_login_at_another() {
    let two = TwoProviders::start(SEPARATE_ROUTES).await;
    let victim = two.browser();
    assert_eq!(victim.visit(&url("/page")).await.text(), "seen");
    two.other.fail_next(code_refused());
    let page = victim.visit(&url("/other/x")).await;
    assert_eq!(page.status, 400, "{}", page.describe());
    assert!(page.text().contains("code_refused"));
    assert_eq!(victim.visit(&url("/page")).await.text(), "seen");
}

#[tokio::test]
async fn a_refused_new_sign_in_does_not_continue_as_the_previous_user() {
    let scene = Scene::new().await;
    let browser = scene.signed_in("alice").await;
    scene.provider.fail_next(code_refused());
    browser.plant(&scene.provider.url(), "user=bob; Path=/");
    let page = browser.visit(&url("/oauth2/sign_in?prompt=login")).await;
    assert_eq!(page.status, 400, "{}", page.describe());
    // The link to continue also asks for a new sign-in.
    let again = links(&page.text()).remove(0).href;
    assert!(again.contains("prompt=login"), "{again}");
}
