//! Apps that refuse a token which the gateway considers valid.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;

use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::raw::Raw;
use crate::support::scene::{ORIGIN, SESSION, Scene, url};
use crate::support::upstream::{Answer, Recorded};

/// A scene whose only route has this setting, and whose app accepts only valid tokens.
async fn scene(setting: &str) -> Scene {
    scene_of(
        &format!("[[routes]]\non_upstream_401 = \"{setting}\"\n"),
        "",
    )
    .await
}

async fn scene_of(routes: &str, provider: &str) -> Scene {
    let scene = Scene::with_routes(routes, provider).await;
    scene.app.answer_by(scene.provider.app());
    scene
}

/// A signed-in browser. The token of this session has been valid for a while and has just been
/// revoked.
async fn with_revoked_token(scene: &Scene) -> Browser {
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(Duration::from_secs(30));
    scene.provider.revoke_access_tokens();
    browser
}

fn post(path: &str, body: &[u8]) -> BrowserRequest {
    BrowserRequest::fetch(&url(path))
        .method("POST")
        .body("text/plain", body)
}

fn bodies(scene: &Scene, path: &str) -> Vec<usize> {
    let requests = scene.app.requests().into_iter();
    let these = requests.filter(|request| request.target() == path);
    these.map(|request| request.body.len()).collect()
}

#[tokio::test]
async fn by_default_the_apps_refusal_is_passed_on_and_nothing_is_asked() {
    let scene = scene("pass").await;
    let browser = with_revoked_token(&scene).await;
    for visit in [BrowserRequest::fetch(&url("/a")), post("/b", b"body")] {
        let page = browser.send(visit).await;
        assert_eq!(page.status, 401, "{}", page.describe());
        assert_eq!(page.json()["message"], "Unauthenticated.");
    }
    assert_eq!(scene.provider.refreshes().len(), 0);
    assert_eq!(scene.app.count(), 3);
}

#[tokio::test]
async fn a_refused_token_is_refreshed_and_the_request_sent_once_more() {
    let scene = scene("refresh_and_retry").await;
    for (path, body, sent) in [
        ("/none", 0, 0),
        ("/small", 1000, 1000),
        ("/most", 65_536, 65_536),
    ] {
        let browser = with_revoked_token(&scene).await;
        let before = scene.provider.refreshes().len();
        let visit = if body == 0 {
            BrowserRequest::fetch(&url(path))
        } else {
            post(path, &vec![b'a'; body])
        };
        let page = browser.send(visit).await;
        assert_eq!(page.text(), "seen", "{path}: {}", page.describe());
        assert_eq!(bodies(&scene, path), [sent, sent], "{path}");
        assert_eq!(scene.provider.refreshes().len() - before, 1, "{path}");
        let last = scene.app.last();
        assert_eq!(
            last.head.value("x-forwarded-user").as_deref(),
            Some("alice")
        );
        assert_eq!(last.head.value("cookie"), None, "{path}");
    }
}

#[tokio::test]
async fn a_body_too_large_to_keep_is_not_sent_again_but_the_next_request_is_served() {
    let scene = scene("refresh_and_retry").await;
    let browser = with_revoked_token(&scene).await;
    let page = browser.send(post("/large", &vec![b'a'; 65_537])).await;
    assert_eq!(page.status, 401, "{}", page.describe());
    assert_eq!(bodies(&scene, "/large"), [65_537]);
    let renewed = "sidegate_refreshes_total{provider=\"main\",result=\"renewed\",reason=\"ok\"}";
    scene.wait_for_figure(renewed, 1).await;
    let page = browser.send(post("/large", &vec![b'a'; 65_537])).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
}

#[tokio::test]
async fn a_streamed_body_is_sent_again_after_all_of_it_has_arrived() {
    let routes = "[[routes]]\non_upstream_401 = \"refresh_and_retry\"\nbuffers.request_kib = 0\n";
    let scene = scene_of(routes, "").await;
    let cookie = scene.cookie("alice").await;
    scene.gateway.advance(Duration::from_secs(30));
    scene.provider.revoke_access_tokens();
    let mut client = Raw::connect(scene.gateway.address()).await;
    let head = format!(
        "POST /stream HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\
         Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    );
    client.send(head).await;
    scene.app.wait_until(|requests| requests.len() == 2).await;
    client.send("6\r\n world\r\n0\r\n\r\n").await;
    let response = client.response("POST").await.unwrap();
    assert_eq!(response.text(), "seen");
    let sent: Vec<_> = scene
        .app
        .requests()
        .into_iter()
        .skip(1)
        .map(|r| r.body)
        .collect();
    assert_eq!(sent, [b"hello world", b"hello world"]);
}

#[tokio::test]
async fn a_body_of_which_the_app_did_not_take_everything_is_not_sent_again() {
    let routes = "[[routes]]\non_upstream_401 = \"refresh_and_retry\"\nbuffers.request_kib = 0\n";
    let scene = scene_of(routes, "").await;
    let cookie = scene.cookie("alice").await;
    scene.gateway.advance(Duration::from_secs(30));
    scene.provider.revoke_access_tokens();
    scene.app.next(Answer::with(401, &[], "early").early());
    let mut client = Raw::connect(scene.gateway.address()).await;
    let head = format!(
        "POST /early HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\
         Content-Length: 10\r\n\r\nhello"
    );
    client.send(head).await;
    let response = client.response("POST").await.unwrap();
    assert_eq!(
        (response.status(), response.text().as_str()),
        (401, "early")
    );
    assert_eq!(scene.app.count(), 2);
}

#[tokio::test]
async fn a_request_is_sent_once_more_and_not_twice() {
    let scene = scene("refresh_and_retry").await;
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(Duration::from_secs(30));
    scene.app.answer_by(|_| Answer::with(401, &[], "never"));
    let page = browser.fetch(&url("/a")).await;
    assert_eq!((page.status.as_u16(), page.text().as_str()), (401, "never"));
    assert_eq!(scene.app.count(), 3);
    assert_eq!(scene.provider.refreshes().len(), 1);
    // The token is new now, so a refresh would not help.
    for _ in 0..5 {
        assert_eq!(browser.fetch(&url("/a")).await.text(), "never");
    }
    assert_eq!(scene.provider.refreshes().len(), 1);
    scene.gateway.advance(Duration::from_secs(11));
    assert_eq!(browser.fetch(&url("/a")).await.text(), "never");
    assert_eq!(scene.provider.refreshes().len(), 2);
}

#[tokio::test]
async fn the_apps_own_refusal_is_passed_on_when_there_are_no_new_tokens() {
    let scene = scene("refresh_and_retry").await;
    let browser = with_revoked_token(&scene).await;
    let busy = Answer::with(503, &[("Retry-After", "60")], "");
    scene.provider.refuse_refreshes(Some(busy));
    let page = browser.fetch(&url("/a")).await;
    assert_eq!(page.json()["message"], "Unauthenticated.");
    assert_eq!(page.status, 401);
}

#[tokio::test]
async fn a_grant_that_has_ended_leads_to_a_login_at_once() {
    let scene = scene("refresh_and_retry").await;
    let browser = with_revoked_token(&scene).await;
    let gone = || {
        Answer::with(
            400,
            &[("Content-Type", "application/json")],
            "{\"error\":\"invalid_grant\"}",
        )
    };
    scene.provider.refuse_refreshes(Some(gone()));
    let page = browser.open(&url("/a?b=c")).await;
    assert_eq!(page.status, 303, "{}", page.describe());
    scene.provider.refuse_refreshes(None);
    let page = browser.follow_all(page).await;
    assert_eq!((page.text().as_str(), page.url.path()), ("seen", "/a"));

    // If the grant has ended, the session ends, although the app caused the refresh.
    let browser = with_revoked_token(&scene).await;
    scene.provider.refuse_refreshes(Some(gone()));
    let page = browser.fetch(&url("/a")).await;
    assert_eq!(page.status, 401, "{}", page.describe());
    assert_eq!(page.json()["reason"], "grant_ended");
}

#[tokio::test]
async fn relogin_ends_the_session_and_leads_to_a_login() {
    let scene = scene("relogin").await;
    let browser = with_revoked_token(&scene).await;
    let before = browser.cookie(ORIGIN, SESSION).unwrap();
    let page = browser.visit(&url("/a?b=c")).await;
    assert_eq!((page.text().as_str(), page.url.path()), ("seen", "/a"));
    assert_ne!(browser.cookie(ORIGIN, SESSION).unwrap(), before);
    assert_eq!(scene.provider.authorizations().len(), 2);
    assert_eq!(scene.provider.refreshes().len(), 0);

    scene.gateway.advance(Duration::from_secs(30));
    scene.provider.revoke_access_tokens();
    let page = browser.send(post("/form", b"x")).await;
    assert_eq!(page.status, 401, "{}", page.describe());
    assert_eq!(page.json()["reason"], "refused_by_app");
    assert!(page.json()["login_url"].is_string());
}

#[tokio::test]
async fn an_app_that_refuses_every_token_causes_no_login_loop() {
    let scene = scene("relogin").await;
    let browser = scene.signed_in("alice").await;
    scene.app.answer_by(|_| Answer::with(401, &[], "never"));
    // The user has just signed in, so another login would not help.
    let page = browser.visit(&url("/a")).await;
    assert_eq!((page.status.as_u16(), page.text().as_str()), (401, "never"));
    assert_eq!(scene.provider.authorizations().len(), 1);
}

/// Sends a request of `browser`. While the app handles the request, a refresh revokes the token of
/// the request.
async fn send_while_token_is_revoked(
    scene: &Scene,
    browser: &Browser,
    visit: BrowserRequest,
) -> Page {
    let gate = Arc::new(Notify::new());
    let refusal = Answer::with(401, &[], "dead").held_by(&gate);
    let count = scene.app.count();
    scene.app.next(refusal);
    let asking = browser.clone();
    let asking = tokio::spawn(async move { asking.send(visit).await });
    scene
        .app
        .wait_until(|requests| requests.len() > count)
        .await;
    scene.gateway.advance(Duration::from_secs(61));
    let page = browser.fetch(&url("/other")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    gate.notify_one();
    asking.await.unwrap()
}

#[tokio::test]
async fn a_request_whose_token_a_parallel_refresh_revoked_is_sent_again_with_every_setting() {
    for setting in ["pass", "relogin", "refresh_and_retry"] {
        let scene = scene(setting).await;
        scene.provider.token_members(json!({ "expires_in": 60 }));
        let browser = scene.signed_in("alice").await;
        for visit in [BrowserRequest::fetch(&url("/a")), post("/b", b"body")] {
            let page = send_while_token_is_revoked(&scene, &browser, visit).await;
            assert_eq!(page.text(), "seen", "{setting}: {}", page.describe());
        }
        // The gateway sends one refresh for each expiry.
        assert_eq!(scene.provider.refreshes().len(), 2, "{setting}");
        assert_eq!(scene.provider.authorizations().len(), 1, "{setting}");
    }
}

#[tokio::test]
async fn a_request_whose_token_is_revoked_during_a_refresh_waits_for_the_refresh() {
    let scene = scene("pass").await;
    scene.provider.token_members(json!({ "expires_in": 60 }));
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(Duration::from_millis(59_500));
    let gate = scene.provider.hold_refreshes();
    // The token is due for a refresh, and the provider revokes the token at the refresh.
    let ask = |path: &str| {
        let (browser, to) = (browser.clone(), url(path));
        tokio::spawn(async move { browser.fetch(&to).await })
    };
    let first = ask("/a");
    scene.provider.wait_for_refresh(1).await;
    let second = ask("/b");
    let refused = |requests: &[Recorded]| requests.iter().any(|r| r.target() == "/b");
    scene.app.wait_until(refused).await;
    gate.notify_one();
    for page in [first.await.unwrap(), second.await.unwrap()] {
        assert_eq!(page.text(), "seen", "{}", page.describe());
    }
    assert_eq!(bodies(&scene, "/b").len(), 2);
}

#[tokio::test]
async fn laravels_redirect_to_its_login_page_is_a_refusal_where_the_provider_says_so() {
    let shape = "signed_out_answers = [{ status = 302, location = \"/login\" }]\n";
    let route = "[[routes]]\non_upstream_401 = \"refresh_and_retry\"\n";
    for (provider, retried) in [(shape, true), ("", false)] {
        let scene = Scene::with_routes(route, provider).await;
        let browser = scene.signed_in("alice").await;
        scene.gateway.advance(Duration::from_secs(30));
        scene.app.next(Answer::with(
            302,
            &[("Location", "http://localhost/login")],
            "",
        ));
        let page = browser.open(&url("/a")).await;
        let expected = if retried { 200 } else { 302 };
        assert_eq!(page.status.as_u16(), expected, "{}", page.describe());
        assert_eq!(scene.provider.refreshes().len(), usize::from(retried));
        // Another redirect of the app is forwarded.
        scene.gateway.advance(Duration::from_secs(30));
        scene
            .app
            .next(Answer::with(302, &[("Location", "/elsewhere")], ""));
        assert_eq!(browser.open(&url("/a")).await.status, 302);
    }
}

#[tokio::test]
async fn a_field_of_a_403_says_whether_the_token_is_refused() {
    let shape = "signed_out_answers = [{ status = 403, field = { name = \"WWW-Authenticate\", \
                 contains = \"invalid_token\" } }]\n";
    let route = "[[routes]]\non_upstream_401 = \"refresh_and_retry\"\n";
    let scene = Scene::with_routes(route, shape).await;
    let browser = scene.signed_in("alice").await;
    for (error, status, refreshes) in [("insufficient_scope", 403, 0), ("invalid_token", 200, 1)] {
        scene.gateway.advance(Duration::from_secs(30));
        let challenge = format!("Bearer error=\"{error}\"");
        let fields = [("WWW-Authenticate", &*challenge)];
        scene.app.next(Answer::with(403, &fields, "refused"));
        let page = browser.fetch(&url("/a")).await;
        assert_eq!(page.status.as_u16(), status, "{}", page.describe());
        assert_eq!(scene.provider.refreshes().len(), refreshes, "{error}");
    }
}

#[tokio::test]
async fn the_metrics_count_the_outcomes_of_refusals() {
    let scene = scene("refresh_and_retry").await;
    let browser = with_revoked_token(&scene).await;
    browser.fetch(&url("/a")).await;
    let retried = "sidegate_refused_tokens_total{route=\"/\",outcome=\"retried\"}";
    assert_eq!(scene.figure(retried).await, Some(1));
}

#[tokio::test]
async fn a_refresh_for_another_route_fails_no_parallel_request() {
    let routes = "[[routes]]\nprefix = \"/passing\"\n\
                  [[routes]]\non_upstream_401 = \"refresh_and_retry\"\n";
    let scene = scene_of(routes, "").await;
    scene
        .provider
        .token_members(json!({ "expires_in": 86_400 }));
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(Duration::from_mins(1));
    let gate = Arc::new(Notify::new());
    let count = scene.app.count();
    scene
        .app
        .next(Answer::with(401, &[], "dead").held_by(&gate));
    let asking = browser.clone();
    let asking = tokio::spawn(async move { asking.fetch(&url("/passing")).await });
    scene
        .app
        .wait_until(|requests| requests.len() > count)
        .await;
    scene.provider.revoke_access_tokens();
    let page = browser.fetch(&url("/other")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    gate.notify_one();
    let page = asking.await.unwrap();
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(scene.provider.refreshes().len(), 1);
}

/// A request whose token expires before the app looks at the token.
async fn with_token_that_expires_on_its_way(scene: &Scene) -> Page {
    scene.provider.token_members(json!({ "expires_in": 60 }));
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(Duration::from_secs(50));
    let gate = Arc::new(Notify::new());
    let before = scene.app.count();
    scene
        .app
        .next(Answer::with(401, &[], "expired").held_by(&gate));
    let asking = tokio::spawn(async move { browser.fetch(&url("/page")).await });
    scene
        .app
        .wait_until(|requests| requests.len() > before)
        .await;
    scene.gateway.advance(Duration::from_secs(11));
    gate.notify_one();
    asking.await.unwrap()
}

#[tokio::test]
async fn a_token_that_expires_on_its_way_to_the_app_is_replaced_on_each_route() {
    for setting in ["pass", "relogin", "refresh_and_retry"] {
        let scene = scene(setting).await;
        let page = with_token_that_expires_on_its_way(&scene).await;
        assert_eq!(page.text(), "seen", "{setting}: {}", page.describe());
        assert_eq!(scene.provider.refreshes().len(), 1, "{setting}");
        assert_eq!(scene.provider.authorizations().len(), 1, "{setting}");
    }
}

#[tokio::test]
async fn g_01_a_provider_outage_turns_no_expired_token_into_a_refusal_of_the_user() {
    for setting in ["pass", "relogin", "refresh_and_retry"] {
        let routes = format!(
            "[session]\nrefresh_wait_secs = 1\n[[routes]]\non_upstream_401 = \"{setting}\"\n"
        );
        let scene = scene_of(&routes, "").await;
        scene
            .provider
            .refuse_refreshes(Some(Answer::with(503, &[], "down")));
        let page = with_token_that_expires_on_its_way(&scene).await;
        assert_eq!(page.status, 503, "{setting}: {}", page.describe());
        assert!(page.field("retry-after").is_some(), "{setting}");
        assert_eq!(page.json()["reason"], "provider_unavailable", "{setting}");
    }
}

#[tokio::test]
async fn w_03_a_second_attempt_that_waits_for_its_app_ends_with_its_session() {
    let scene = scene("refresh_and_retry").await;
    let browser = with_revoked_token(&scene).await;
    let cookie = format!("{SESSION}={}", browser.cookie(ORIGIN, SESSION).unwrap());
    let gate = Arc::new(Notify::new());
    scene.app.next(Answer::with(
        401,
        &[("WWW-Authenticate", "Bearer error=\"invalid_token\"")],
        "",
    ));
    scene.app.next(Answer::ok("secret").held_by(&gate));
    let before = scene.app.count();
    let mut client = Raw::connect(scene.gateway.address()).await;
    client
        .send(format!(
            "GET /a HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n"
        ))
        .await;
    scene
        .app
        .wait_until(|requests| requests.len() == before + 2)
        .await;
    let none: [(&str, &str); 0] = [];
    let visit = BrowserRequest::navigation(&format!("{ORIGIN}/oauth2/sign_out")).form(&none);
    let page = browser.send(visit.from(ORIGIN)).await;
    assert_eq!(page.status, 303, "{}", page.describe());
    let answer = tokio::time::timeout(Duration::from_secs(5), client.response("GET")).await;
    gate.notify_one();
    let answer = answer.expect("the request has not ended").unwrap();
    assert_eq!(answer.status(), 401);
    assert!(answer.text().contains("ended while the app"));
}
