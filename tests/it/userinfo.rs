//! The endpoints for the scripts of an app: who is signed in, and the start of a login.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::browser_request::BrowserRequest;
use crate::support::openid::OpenIdScene;
use crate::support::provider::parameters;
use crate::support::scene::{ORIGIN, SESSION, Scene, assert_no_canary, url};

const USERINFO: &str = "/oauth2/userinfo";

async fn scene(login: &str) -> OpenIdScene {
    let mut scene = OpenIdScene::prepared(&[("identity.userinfo", "false")], |provider| {
        provider.give_refresh_tokens();
        provider.tamper_claims(|claims| {
            claims["name"] = json!("Alice \"A\"");
            claims["email"] = json!("alice@example.com");
            claims["email_verified"] = json!(true);
            claims["preferred_username"] = json!("alice-1");
            claims["groups"] = json!(["staff", "ops"]);
        });
    })
    .await;
    let text = scene.gateway.settings().text();
    let reloaded = scene.gateway.reload(&format!("{text}\n{login}")).await;
    reloaded.unwrap();
    scene
}

fn without_times(mut answer: Value) -> Value {
    for name in ["idle_ends_in", "ends_in"] {
        answer.as_object_mut().unwrap().remove(name).unwrap();
    }
    answer
}

#[tokio::test]
async fn a_script_learns_who_is_signed_in() {
    let scene = scene("").await;
    let browser = scene.signed_in("alice").await;
    let page = browser.fetch(&url(USERINFO)).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    assert_eq!(page.field("content-type"), Some("application/json"));
    assert_eq!(page.field("cache-control"), Some("no-store"));
    assert_eq!(page.field("access-control-allow-origin"), None);
    assert_no_canary(&page);
    let expected = json!({
        "provider": "main",
        "sub": "alice",
        "user": "alice",
        "preferredUsername": "alice-1",
        "email": "alice@example.com",
        "email_verified": true,
        "preferred_username": "alice-1",
        "name": "Alice \"A\"",
        "groups": ["staff", "ops"],
        "renewable": true,
        "login_url": url("/oauth2/sign_in"),
        "logout_url": url("/oauth2/sign_out"),
    });
    assert_eq!(without_times(page.json()), expected);
    assert_eq!(scene.app.count(), 1);
}

#[tokio::test]
async fn the_settings_list_the_claims_of_the_answer() {
    let scene = scene("[login]\nuserinfo_claims = [\"groups\"]\n").await;
    let browser = scene.signed_in("alice").await;
    let page = browser.fetch(&url(USERINFO)).await;
    let expected = json!({
        "provider": "main",
        "sub": "alice",
        "user": "alice",
        "groups": ["staff", "ops"],
        "renewable": true,
        "login_url": url("/oauth2/sign_in"),
        "logout_url": url("/oauth2/sign_out"),
    });
    assert_eq!(without_times(page.json()), expected);
}

#[tokio::test]
async fn a_script_learns_when_the_session_ends_and_does_not_prolong_it() {
    let setting = "[session]\nidle_secs = 100\nabsolute_secs = 1000\n";
    let scene = Scene::with(|settings| settings.with(setting)).await;
    let browser = scene.signed_in("alice").await;
    let ends = async || {
        let answer = browser.fetch(&url(USERINFO)).await.json();
        let seconds = |name: &str| answer[name].as_u64().unwrap();
        (seconds("idle_ends_in"), seconds("ends_in"))
    };
    assert_eq!(ends().await, (100, 1000));
    scene.gateway.advance(Duration::from_mins(1));
    assert_eq!(ends().await, (40, 940));
    scene.gateway.advance(Duration::from_secs(30));
    assert_eq!(ends().await, (10, 910));
    // A request to the app counts as a use.
    assert_eq!(browser.fetch(&url("/")).await.status, 200);
    assert_eq!(ends().await, (100, 910));
    for _ in 0..2 {
        scene.gateway.advance(Duration::from_secs(50));
        drop(browser.fetch(&url(USERINFO)).await);
    }
    let page = browser.fetch(&url(USERINFO)).await;
    assert_eq!(page.status, 401);
    assert_eq!(page.json()["reason"], "session_expired");
    assert_eq!(browser.fetch(&url("/")).await.status, 401);
}

#[tokio::test]
async fn without_a_session_every_client_gets_data_with_the_login_url() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    browser.plant(ORIGIN, &format!("{SESSION}=x; Path=/; Secure"));
    for request in [
        BrowserRequest::fetch(&url(USERINFO)),
        BrowserRequest::navigation(&url(USERINFO)),
    ] {
        let page = browser.send(request).await;
        assert_eq!(page.status, 401);
        assert_eq!(page.field("content-type"), Some("application/problem+json"));
        assert!(page.field("www-authenticate").is_some());
        assert_eq!(page.json()["reason"], "malformed_cookie");
        assert_eq!(page.json()["login_url"], url("/oauth2/sign_in"));
    }
    let post = BrowserRequest::fetch(&url(USERINFO)).method("POST");
    assert_eq!(browser.send(post.from(ORIGIN)).await.status, 405);
}

#[tokio::test]
async fn a_link_of_an_app_begins_a_login_that_returns_to_a_page_of_this_host() {
    for (query, page) in [
        ("rd=%2Fdeep%3Fx%3D1", "/deep?x=1"),
        ("return_to=http%3A%2F%2Flocalhost%2Fdeep", "/deep"),
        ("rd=https%3A%2F%2Fevil.test%2F", "/"),
        ("rd=%2F%2Fevil.test", "/"),
        ("rd=%2F%5Cevil.test", "/"),
        ("rd=%2Foauth2%2Fsign_in", "/"),
        ("rd=javascript%3Aalert(1)", "/"),
        ("", "/from"),
    ] {
        let scene = Scene::new().await;
        let browser = scene.browser();
        let link = url(&format!("/oauth2/start?{query}"));
        let visit = BrowserRequest::navigation(&link).from(&url("/from"));
        let visit = visit.field("referer", &url("/from"));
        let login = browser.send(visit).await;
        assert_eq!(login.status, 303, "{query}: {}", login.describe());
        let last = browser.follow_all(login).await;
        assert_eq!(last.url.as_str(), url(page), "{query}");
        assert_eq!(last.text(), "seen", "{query}");
        // A user who is signed in needs no new login.
        let again = browser.open(&link).await;
        if !query.is_empty() {
            assert_eq!(again.location().unwrap().as_str(), url(page), "{query}");
        }
    }
}

#[tokio::test]
async fn a_link_of_an_app_can_ask_for_another_account() {
    let scene = Scene::new().await;
    let browser = scene.signed_in("alice").await;
    for (prompt, sent) in [
        ("select_account", Some("select_account")),
        ("login", Some("login")),
        ("none", None),
        ("consent", None),
    ] {
        let link = format!("/oauth2/start?prompt={prompt}&rd=%2Fa&provider=main");
        let page = browser.open(&url(&link)).await;
        let location = page.location().unwrap();
        match sent {
            Some(sent) => {
                let asked = parameters(location.query().unwrap());
                assert_eq!(asked["prompt"], sent);
            }
            None => assert_eq!(location.as_str(), url("/a"), "{prompt}"),
        }
    }
}
