//! Refreshes that fail: the provider is away, gives an error, or refuses the grant or the client.

use std::time::Duration;

use serde_json::json;

use super::{DUE, OVER, assert_seen, minutes, with_wait};
use crate::support::browser_request::BrowserRequest;
use crate::support::form::links;
use crate::support::scene::{assert_no_canary, refusal, url};
use crate::support::upstream::Answer;
use crate::support::webdriver::Chromium;

fn json(status: u16, body: &str) -> Answer {
    Answer::with(status, &[("Content-Type", "application/json")], body)
}

#[tokio::test]
async fn g_06_f_38_a_lost_answer_is_asked_for_again_where_the_server_gives_grace() {
    let scene = with_wait(10, |settings| settings).await;
    scene.provider.give_grace();
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(OVER);
    scene.provider.lose_refresh();
    let page = browser.fetch(&url("/page")).await;
    assert_seen(&scene, &page, 3);
    assert_eq!(scene.provider.refreshes().len(), 2);
    assert_eq!(scene.provider.authorizations().len(), 1);
}

#[tokio::test]
async fn f_38_a_lost_answer_without_grace_costs_one_login() {
    let scene = with_wait(10, |settings| settings).await;
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(OVER);
    scene.provider.lose_refresh();
    let page = browser.visit(&url("/page")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(scene.provider.refreshes().len(), 2);
    assert_eq!(scene.provider.authorizations().len(), 2);
    let ended =
        "sidegate_refreshes_total{provider=\"main\",result=\"ended\",reason=\"refresh_refused\"}";
    scene.wait_for_figure(ended, 1).await;
}

#[tokio::test]
async fn g_07_f_04_f_06_a_failing_provider_signs_nobody_out() {
    let reset = Answer::silence().then_reset();
    let html = Answer::with(200, &[("Content-Type", "text/html")], "<h1>Welcome</h1>");
    for (context, answer) in [
        ("500", Answer::with(500, &[], "oops")),
        (
            "502 that names an error",
            json(502, "{\"error\":\"invalid_grant\"}"),
        ),
        ("503", Answer::with(503, &[("Retry-After", "30")], "")),
        (
            "429",
            Answer::with(429, &[("Retry-After", "30")], "Too Many Attempts."),
        ),
        ("408", Answer::with(408, &[], "")),
        ("closed", Answer::silence().then_close()),
        ("reset", reset),
        ("garbage", html),
        ("half a document", json(200, "{\"access_token\":\"a")),
    ] {
        let scene = minutes().await;
        let browser = scene.signed_in("alice").await;
        scene.provider.refuse_refreshes(Some(answer));
        // At this time, the old token is still valid.
        scene.gateway.advance(DUE);
        for _ in 0..3 {
            assert_seen(&scene, &browser.fetch(&url("/page")).await, 1);
        }
        scene.provider.wait_for_refresh(1).await;
        scene.gateway.advance(Duration::from_secs(6));
        let page = browser.fetch(&url("/page")).await;
        assert_eq!(page.status, 503, "{context}: {}", page.describe());
        let after: u64 = page.field("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&after), "{context}: {after}");
        assert_eq!(page.field("content-type"), Some("application/problem+json"));
        assert_no_canary(&page);
        let page = browser.open(&url("/page?x=1&y")).await;
        assert_eq!(page.status, 503, "{context}: {}", page.describe());
        let text = page.text();
        assert!(text.contains("You are still signed in"), "{text}");
        assert!(text.contains(";url=/page?x=1&amp;y\""), "{text}");
        // At this time, the provider works again.
        scene.provider.refuse_refreshes(None);
        scene.gateway.advance(Duration::from_mins(6));
        let mut page = browser.open(&url("/page")).await;
        // A request waits for a second at most. On a busy machine, a request can wait longer, so
        // the test tries several times.
        for _ in 0..10 {
            if refusal(&page) != "503 refresh_slow" {
                break;
            }
            page = browser.open(&url("/page")).await;
        }
        assert_eq!(page.text(), "seen", "{context}: {}", page.describe());
        assert_eq!(scene.provider.authorizations().len(), 1, "{context}");
    }
}

#[tokio::test]
async fn g_07_a_short_failure_at_the_end_of_a_token_only_delays_requests() {
    let scene = with_wait(10, |settings| settings).await;
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(OVER);
    scene.provider.fail_next(Answer::with(500, &[], "oops"));
    assert_seen(&scene, &browser.fetch(&url("/page")).await, 2);
    assert_eq!(scene.provider.refreshes().len(), 2);
}

#[tokio::test]
async fn g_07_a_form_that_cannot_be_forwarded_gets_a_503_and_is_not_repeated() {
    let scene = minutes().await;
    let browser = scene.signed_in("alice").await;
    let busy = Answer::with(503, &[("Retry-After", "30")], "");
    scene.provider.refuse_refreshes(Some(busy));
    scene.gateway.advance(OVER);
    let form = BrowserRequest::navigation(&url("/form")).form(&[("a", "b")]);
    let page = browser.send(form.from(&url("/page"))).await;
    assert_eq!(
        (page.status.as_u16(), page.field("retry-after")),
        (503, Some("30"))
    );
    let text = page.text();
    assert!(text.contains("did not get what you sent"), "{text}");
    assert!(!text.contains("http-equiv"), "{text}");
    assert_eq!(scene.app.count(), 1);
}

#[tokio::test]
async fn g_08_a_grant_that_has_ended_ends_the_session() {
    for (context, answer) in [
        ("refused", json(400, "{\"error\":\"invalid_grant\"}")),
        (
            "refused with 401",
            json(401, "{\"error\":\"invalid_grant\"}"),
        ),
    ] {
        let scene = minutes().await;
        let browser = scene.signed_in("alice").await;
        let other = browser.clone();
        scene.provider.refuse_refreshes(Some(answer));
        scene.gateway.advance(OVER);
        let page = browser.fetch(&url("/page")).await;
        assert_eq!(page.status, 401, "{context}: {}", page.describe());
        assert_eq!(page.json()["reason"], "grant_ended", "{context}");
        let page = other.open(&url("/page")).await;
        let to = page.location().unwrap();
        assert!(to.path().ends_with("/authorize"), "{context}: {to}");
        assert_eq!(scene.provider.refreshes().len(), 1, "{context}");
        // The user has to sign in again, and needs no other action.
        let page = browser.visit(&url("/page")).await;
        assert_eq!(page.text(), "seen", "{context}: {}", page.describe());
    }
}

#[tokio::test]
async fn f_29_a_refused_client_raises_the_alarm_and_keeps_every_session() {
    let scene = minutes().await;
    let browser = scene.signed_in("alice").await;
    let refused = json(401, "{\"error\":\"invalid_client\"}");
    scene.provider.refuse_refreshes(Some(refused));
    scene.gateway.advance(DUE);
    assert_seen(&scene, &browser.fetch(&url("/page")).await, 1);
    let alarm =
        "sidegate_refreshes_total{provider=\"main\",result=\"alarm\",reason=\"client_refused\"}";
    scene.wait_for_figure(alarm, 1).await;
    scene.gateway.advance(Duration::from_secs(6));
    let page = browser.fetch(&url("/page")).await;
    assert_eq!(page.status, 503, "{}", page.describe());
    assert_eq!(page.json()["reason"], "client_refused");
    // The operator corrects the mistake.
    scene.provider.refuse_refreshes(None);
    scene.gateway.advance(Duration::from_mins(1));
    assert_eq!(browser.fetch(&url("/page")).await.text(), "seen");
    assert_eq!(scene.provider.authorizations().len(), 1);
}

#[tokio::test]
async fn f_03_an_hour_without_the_provider_signs_nobody_out() {
    let mut scene = with_wait(1, |settings| settings).await;
    scene.provider.token_members(json!({ "expires_in": 7200 }));
    let browser = scene.signed_in("alice").await;
    let stranger = scene.browser();
    scene.provider.down().await;
    for _ in 0..60 {
        scene.gateway.advance(Duration::from_mins(1));
        assert_eq!(browser.fetch(&url("/page")).await.text(), "seen");
    }
    let page = stranger.open(&url("/page")).await;
    assert_eq!(page.status, 503, "{}", page.describe());
    assert!(
        page.text().contains("tries again by itself"),
        "{}",
        page.text()
    );
}

#[tokio::test]
async fn a_real_browser_continues_by_itself_when_the_provider_is_back() {
    let scene = minutes().await;
    let browser = Chromium::leading("localhost:80", scene.gateway.address()).await;
    browser.open("http://localhost/page").await;
    browser.wait_for_text("seen").await;
    scene
        .provider
        .refuse_refreshes(Some(Answer::with(503, &[], "")));
    scene.gateway.advance(OVER);
    browser.open("http://localhost/page").await;
    let text = browser.text().await;
    assert!(
        text.starts_with("Your session cannot be renewed right now")
            && text.contains("This page tries again by itself."),
        "{text}"
    );
    browser.picture("not_renewed").await;
    scene.provider.refuse_refreshes(None);
    scene.gateway.advance(Duration::from_mins(6));
    browser.wait_for_text("seen").await;
    assert_eq!(scene.provider.authorizations().len(), 1);
}

#[tokio::test]
async fn a_user_can_sign_in_again_while_the_provider_refuses_the_gateway() {
    let scene = minutes().await;
    let browser = scene.signed_in("alice").await;
    let answer = json(400, "{\"error\":\"invalid_request\"}");
    scene.provider.refuse_refreshes(Some(answer));
    scene.gateway.advance(OVER);
    let page = browser.open(&url("/page")).await;
    assert_eq!(page.status, 503, "{}", page.describe());
    let links = links(&page.text());
    let again = links.iter().find(|link| link.label == "Sign in again");
    let page = browser.visit(&url(&again.unwrap().href)).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(scene.provider.authorizations().len(), 2);
}
