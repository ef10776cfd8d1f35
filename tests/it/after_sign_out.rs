//! What the browser does after a sign-out: return addresses, another account, and the app's own
//! sign-out.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::durable::stored_at;
use crate::one_sign_in::sign_out::press;
use crate::one_sign_in::{HOSTS, IP, LOGIN, shared, signed_in_at};
use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::form::forms;
use crate::support::gateway::{Process, Settings};
use crate::support::killed::StoreFolder;
use crate::support::limits::limit_file_size;
use crate::support::openid::OpenIdScene;
use crate::support::provider::{Endpoint, StandIn, parameters};
use crate::support::scene::{ORIGIN, SESSION, Scene, refusal, url};
use crate::support::upstream::{Answer, RecordingUpstream};
use crate::support::wire::TEST_TIMEOUT;

const NONE: [(&str, &str); 0] = [];

fn publish(provider: &StandIn) {
    let end_session = format!("{}/end_session", provider.url());
    provider.metadata(move |metadata| metadata["end_session_endpoint"] = json!(end_session));
}

/// A scene whose provider has an end-session endpoint.
async fn scene(keys: &[(&str, &str)]) -> OpenIdScene {
    OpenIdScene::prepared(keys, publish).await
}

/// Signs out with the query `query`.
async fn sign_out(browser: &Browser, query: &str) -> Page {
    let visit = BrowserRequest::navigation(&url(&format!("/oauth2/sign_out?{query}")));
    browser.send(visit.form(&NONE).from(ORIGIN)).await
}

/// Sends the form of a page.
async fn submit(browser: &Browser, page: &Page) -> Page {
    let form = forms(&page.text()).remove(0);
    browser.submit(page, &form, &[]).await
}

#[tokio::test]
async fn a_logout_hint_is_the_claim_that_the_settings_name() {
    let keys = [("sign_out", "{ logout_hint = \"sub\" }")];
    let scene = scene(&keys).await;
    // The ID token is longer than a cookie.
    for filler in [0, 4000] {
        scene
            .provider
            .tamper_claims(move |claims| claims["filler"] = json!("x".repeat(filler)));
        let browser = scene.signed_in("alice").await;
        let page = sign_out(&browser, "").await;
        browser.visit(&url(&page.refresh_target())).await;
        let asked = scene.provider.requests(Endpoint::EndSession).pop().unwrap();
        let asked = asked.target();
        let (_, query) = asked.split_once('?').unwrap();
        let asked = parameters(query);
        assert_eq!(asked["logout_hint"], "alice");
        assert_eq!(asked.contains_key("id_token_hint"), filler == 0);
    }
}

#[tokio::test]
async fn after_a_sign_out_the_browser_returns_to_a_page_of_this_host() {
    for end_session in [true, false] {
        let keys = format!("{{ end_session = {end_session} }}");
        let scene = scene(&[("sign_out", &keys)]).await;
        for (query, page) in [
            ("return_to=%2Fpublic%2Fbye%3Fx%3D1", "/public/bye?x=1"),
            ("rd=http%3A%2F%2Flocalhost%2Fpublic%2Fbye", "/public/bye"),
            (
                "rd=http%3A%2F%2Flocalhost.evil.test%2F",
                "/oauth2/signed_out",
            ),
            (
                "rd=http%3A%2F%2Flocalhost%40evil.test%2F",
                "/oauth2/signed_out",
            ),
            (
                "rd=http%3A%2F%2Flocalhost%2F%2Fevil.test",
                "/oauth2/signed_out",
            ),
            ("rd=%2F%2Fevil.test", "/oauth2/signed_out"),
            ("return_to=%2F%5Cevil.test", "/oauth2/signed_out"),
            ("return_to=%2Foauth2%2Fsign_in", "/oauth2/signed_out"),
            ("rd=%2Fa&rd=%2Fb", "/oauth2/signed_out"),
        ] {
            let browser = scene.signed_in("alice").await;
            // The confirmation page keeps the address.
            let confirm = browser
                .visit(&url(&format!("/oauth2/sign_out?{query}")))
                .await;
            let answer = submit(&browser, &confirm).await;
            assert_eq!(browser.cookie(ORIGIN, SESSION), None);
            let last = if end_session {
                assert_eq!(answer.status, 200, "{}", answer.describe());
                browser.visit(&url(&answer.refresh_target())).await
            } else {
                assert_eq!(answer.status, 303, "{}", answer.describe());
                browser.follow_all(answer).await
            };
            let mut place = last.url.clone();
            if place.path() == "/oauth2/signed_out" {
                place.set_query(None);
            }
            assert_eq!(place.as_str(), url(page), "{query}");
        }
    }
}

/// Signs in, is refused at `/admin`, and presses the button of the page.
async fn use_another_account(scene: &OpenIdScene) -> (Browser, Page) {
    let browser = scene.signed_in("alice").await;
    let refused = browser.visit(&url("/admin/x?y=1")).await;
    assert_eq!(refusal(&refused), "403 rule");
    let text = refused.text();
    assert!(text.contains("Sign out and use another account"), "{text}");
    let answer = submit(&browser, &refused).await;
    assert_eq!(answer.status, 200, "{}", answer.describe());
    assert_eq!(browser.cookie(ORIGIN, SESSION), None);
    let next = browser.open(&url(&answer.refresh_target())).await;
    (browser, next)
}

#[tokio::test]
async fn another_account_is_asked_for_at_the_provider() {
    for prompt in ["select_account", "login"] {
        let keys = format!("{{ another_account = \"{prompt}\" }}");
        let scene = scene(&[("sign_out", &keys)]).await;
        let (browser, login) = use_another_account(&scene).await;
        let location = login.location().unwrap();
        assert!(location.as_str().starts_with(&scene.provider.url()));
        assert_eq!(parameters(location.query().unwrap())["prompt"], prompt);
        assert_eq!(scene.provider.calls(Endpoint::EndSession), 0);
        // After the login, the browser is at the page that has refused the first account.
        let page = browser.follow_all(login).await;
        assert_eq!(page.url.as_str(), url("/admin/x?y=1"));
    }
}

#[tokio::test]
async fn another_account_ends_the_session_of_a_provider_with_an_end_session_endpoint() {
    let scene = scene(&[]).await;
    let (browser, next) = use_another_account(&scene).await;
    let location = next.location().unwrap();
    assert_eq!(location.path(), "/end_session");
    let back = browser.follow(&next).await;
    let page = browser.follow(&back).await;
    assert_eq!(page.location().unwrap().as_str(), url("/admin/x?y=1"));
    assert_eq!(scene.provider.authorizations().len(), 1);
}

#[tokio::test]
async fn another_account_after_the_end_of_the_session_asks_for_a_password() {
    let scene = scene(&[]).await;
    let browser = scene.browser();
    let page = sign_out(&browser, "another_account=1").await;
    let login = browser.open(&url(&page.refresh_target())).await;
    let asked = parameters(login.location().unwrap().query().unwrap());
    assert_eq!(asked["prompt"], "login");
}

#[tokio::test]
async fn a_drain_waits_for_revocations() {
    let scene = OpenIdScene::prepared(&[], |provider| {
        provider.give_refresh_tokens();
        let revoke = format!("{}/revoke", provider.url());
        provider.metadata(move |metadata| metadata["revocation_endpoint"] = json!(revoke));
    })
    .await;
    let browser = scene.signed_in("alice").await;
    // The second attempt begins a second after the first attempt.
    scene
        .provider
        .next(Endpoint::Revocation, Answer::with(503, &[], ""));
    sign_out(&browser, "").await;
    scene.provider.wait_for(Endpoint::Revocation, 1).await;
    scene.gateway.drain().await;
    assert_eq!(scene.provider.calls(Endpoint::Revocation), 2);
}

#[tokio::test]
async fn a_sign_out_clears_the_site_data_that_the_settings_name() {
    let setting = "[login]\nclear_site_data = [\"cache\", \"storage\"]\n";
    let scene = Scene::with(|settings| settings.with(setting)).await;
    let browser = scene.signed_in("alice").await;
    let page = browser.visit(&url("/oauth2/sign_out")).await;
    assert_eq!(page.field("clear-site-data"), None);
    // Another site can delete no data.
    let visit = BrowserRequest::navigation(&url("/oauth2/sign_out")).form(&NONE);
    let refused = browser.send(visit.from("http://evil.test")).await;
    assert_eq!(refused.status, 403);
    assert_eq!(refused.field("clear-site-data"), None);
    let page = sign_out(&browser, "").await;
    let cleared = page.field("clear-site-data");
    assert_eq!(cleared, Some("\"cache\", \"storage\""));
}

#[tokio::test]
async fn a_failed_second_step_does_not_claim_that_the_user_is_still_signed_in() {
    let folder = tempfile::tempdir().unwrap();
    let stored = stored_at(&StoreFolder::new(folder.path()), folder.path());
    let stored = stored.replace("[login]", "");
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url());
    let gateway = Process::start(shared(settings).with(&stored)).await;
    let addresses = (gateway.address(), &*provider.url());
    let browser = signed_in_at(LOGIN, addresses, "alice").await;
    let page = press(&browser, IP).await;
    let ask = browser
        .open(&format!("{IP}{}", page.refresh_target()))
        .await;
    let answer = browser.follow(&ask).await;
    limit_file_size(gateway.id(), "1");
    let failed = browser.follow(&answer).await;
    assert_eq!(refusal(&failed), "503 session_not_stored");
    let text = failed.text();
    assert!(
        text.contains("Your session at this host has ended"),
        "{text}"
    );
    assert!(!text.contains("You are still signed in"), "{text}");
    limit_file_size(gateway.id(), "unlimited");
    assert!(text.contains("href=\"/oauth2/end_session\""), "{text}");
    // After a failure, the store pauses before its next attempt.
    let again = async {
        loop {
            let page = browser.visit(&format!("{IP}/oauth2/end_session")).await;
            if page.status != 503 {
                break page;
            }
        }
    };
    let page = timeout(TEST_TIMEOUT, again).await.unwrap();
    assert!(
        page.text().contains("You are signed out"),
        "{}",
        page.text()
    );
    for host in HOSTS {
        let page = browser.fetch(&format!("{host}/")).await;
        assert_eq!(page.status, 401, "{host}");
    }
}

/// A scene whose app signs users out at `/bye`.
async fn app_with_sign_out(answer: u16) -> Scene {
    let routes = "[[routes]]\napp_sign_out = \"/bye\"\n";
    let scene = Scene::with_routes(routes, "").await;
    scene
        .app
        .answer_by(move |request| match request.target().as_str() {
            "/bye" => Answer::with(answer, &[("Location", "/after")], ""),
            _ => Answer::with(200, &[], "seen"),
        });
    scene
}

#[tokio::test]
async fn the_own_sign_out_of_an_app_ends_our_session_and_keeps_its_redirect() {
    for (method, from, status, ends) in [
        ("POST", ORIGIN, 302, true),
        ("GET", ORIGIN, 302, true),
        ("POST", ORIGIN, 200, true),
        // The app asks for a confirmation.
        ("GET", ORIGIN, 200, false),
        // The app has refused the sign-out.
        ("POST", ORIGIN, 419, false),
        // A link of another site may sign the user out at the app, but not here.
        ("GET", "http://evil.test", 302, false),
        ("POST", "http://evil.test", 302, false),
        ("HEAD", ORIGIN, 302, false),
    ] {
        let scene = app_with_sign_out(status).await;
        let browser = scene.signed_in("alice").await;
        let id = browser.cookie(ORIGIN, SESSION).unwrap();
        let visit = BrowserRequest::navigation(&url("/bye")).method(method);
        let page = browser.send(visit.from(from)).await;
        let case = format!("{method} {from} {status}: {}", page.describe());
        if ends {
            assert_eq!(page.status, status, "{case}");
            assert_eq!(page.field("location"), Some("/after"), "{case}");
            assert_eq!(browser.cookie(ORIGIN, SESSION), None, "{case}");
        }
        let copy = scene.browser();
        copy.plant(ORIGIN, &format!("{SESSION}={id}; Path=/; Secure"));
        let later = copy.fetch(&url("/")).await;
        assert_eq!(later.status, if ends { 401 } else { 200 }, "{case}");
    }
    // An image of a page of the app ends nothing.
    let scene = app_with_sign_out(302).await;
    let browser = scene.signed_in("alice").await;
    browser.send(BrowserRequest::image(&url("/bye"))).await;
    assert!(browser.cookie(ORIGIN, SESSION).is_some());
    // Other paths end nothing.
    let scene = app_with_sign_out(302).await;
    let browser = scene.signed_in("alice").await;
    for path in ["/bye/", "/byes", "/Bye"] {
        browser.open(&url(path)).await;
        assert!(browser.cookie(ORIGIN, SESSION).is_some(), "{path}");
    }
}

#[tokio::test]
async fn a_slow_answer_of_an_app_that_signs_out_is_complete() {
    let scene = app_with_sign_out(302).await;
    let browser = scene.signed_in("alice").await;
    let rest = Arc::new(Notify::new());
    let head = "HTTP/1.1 302 Found\r\nLocation: /after\r\nTransfer-Encoding: chunked\r\n\r\n";
    let first = Answer::raw(format!("{head}5\r\nfirst\r\n").as_bytes());
    let slow = first.then_await(&rest).then_send(b"4\r\nlast\r\n0\r\n\r\n");
    scene.app.next(slow);
    let signing_out = async {
        let visit = BrowserRequest::navigation(&url("/bye")).method("POST");
        browser.send(visit.from(ORIGIN)).await
    };
    // The gateway watches an answer that takes longer than about a second.
    let watched = async {
        let open = "sidegate_streams_open{route=\"/\",kind=\"response\"}";
        scene.wait_for_figure(open, 1).await;
        scene.wait_for_figure("sidegate_sessions", 0).await;
        rest.notify_one();
    };
    let (page, ()) = tokio::join!(signing_out, watched);
    assert_eq!(page.status, 302, "{}", page.describe());
    assert_eq!(page.text(), "firstlast");
    assert_eq!(browser.cookie(ORIGIN, SESSION), None);
}

#[tokio::test]
async fn a_failed_sign_out_after_the_app_is_logged_with_its_own_status() {
    let folder = tempfile::tempdir().unwrap();
    let stored = stored_at(&StoreFolder::new(folder.path()), folder.path());
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    app.answer_by(|request| match request.target().as_str() {
        "/bye" => Answer::with(302, &[("Location", "/after"), ("Set-Cookie", "app=0")], ""),
        _ => Answer::with(200, &[], "seen"),
    });
    let routes = "[[routes]]\napp_sign_out = \"/bye\"\n";
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url());
    let gateway = Process::start(settings.with(routes).with(&stored)).await;
    let browser = Browser::new().leading(ORIGIN, gateway.address());
    let page = browser.visit(&url("/")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    limit_file_size(gateway.id(), "1");
    let visit = BrowserRequest::navigation(&url("/bye")).method("POST");
    let page = browser.send(visit.from(ORIGIN)).await;
    assert_eq!(refusal(&page), "503 session_not_stored");
    assert!(page.text().contains("You are still signed in"));
    assert_eq!(page.set_cookies(), ["app=0"]);
    let is_event = |line: &&str| line.contains("\"Request\"") && line.contains("/bye");
    let logged = |log: &str| log.lines().any(|line| is_event(&line));
    gateway.wait_for_log(logged).await;
    let log = gateway.log();
    let events: Vec<&str> = log.lines().filter(is_event).collect();
    assert_eq!(events.len(), 1, "{events:?}");
    let event: serde_json::Value = serde_json::from_str(events[0]).unwrap();
    for (name, value) in [
        ("http.response.status_code", json!(503)),
        ("reason", json!("session_not_stored")),
        ("end", json!("complete")),
        ("request.id", json!(page.field("x-request-id").unwrap())),
    ] {
        assert_eq!(event[name], value, "{name} in {event}");
    }
    limit_file_size(gateway.id(), "unlimited");
}

#[tokio::test]
async fn a_redirect_to_the_provider_is_not_a_sign_out_of_the_app() {
    let routes = "[[routes]]\napp_sign_out = \"/bye\"\non_upstream_401 = \"relogin\"\n";
    let setting = "[login]\nclear_site_data = [\"storage\"]\n";
    let scene = Scene::with_routes(routes, setting).await;
    let browser = scene.signed_in("alice").await;
    scene.app.answer_by(|_request| Answer::with(401, &[], ""));
    // Directly after a sign-in, another login would not help.
    scene.gateway.advance(Duration::from_secs(30));
    let visit = BrowserRequest::navigation(&url("/bye")).from(ORIGIN);
    let page = browser.send(visit).await;
    let location = page.field("location").unwrap();
    assert!(location.contains("/authorize"), "{}", page.describe());
    assert_eq!(page.field("clear-site-data"), None);
}
