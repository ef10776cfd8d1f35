//! Refreshing tokens: one refresh for each expiry, and no lost session for any failure of the
//! provider.

mod failures;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sidegate::clock::Clock;
use tokio::task::JoinSet;

use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::{Gateway, Settings};
use crate::support::scene::{ORIGIN, SESSION, Scene, assert_no_canary, url};
use crate::support::upstream::{Answer, Recorded};

/// The user and the number of the access token in a request.
fn bearer(request: &Recorded) -> (String, usize) {
    let field = request.head.value("authorization").unwrap_or_default();
    let token = field.strip_prefix("Bearer ").unwrap_or_default();
    let parts: Vec<&str> = token.split('.').collect();
    match parts[..] {
        [user, _, number] => (user.to_owned(), number.parse().unwrap()),
        _ => panic!("no token in {:?}", request.head),
    }
}

/// A scene whose access tokens live for a minute, and where a request waits for one second at most.
async fn minutes() -> Scene {
    with_wait(1, |settings| settings).await
}

async fn with_wait(seconds: u64, change: impl FnOnce(Settings) -> Settings) -> Scene {
    let wait = format!("[session]\nrefresh_wait_secs = {seconds}\n");
    let scene = Scene::with(|settings| change(settings.with(&wait))).await;
    scene.provider.token_members(json!({ "expires_in": 60 }));
    scene
}

/// A time after the expiry of a token with a lifetime of one minute.
const OVER: Duration = Duration::from_secs(61);

/// A time at which a token with a lifetime of one minute is due for a refresh and still valid.
const DUE: Duration = Duration::from_millis(59_500);

/// Fails unless the page is the app's page, and the app got the token with this number.
fn assert_seen(scene: &Scene, page: &Page, number: usize) {
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(bearer(&scene.app.last()).1, number);
}

#[tokio::test]
async fn g_01_a_thousand_requests_at_the_end_of_a_token_make_one_refresh_and_none_fails() {
    let scene = with_wait(10, |settings| settings.app("queue = 2000")).await;
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(OVER);
    let gate = scene.provider.hold_refreshes();
    let mut asking = JoinSet::new();
    for number in 0..1000 {
        let browser = browser.clone();
        asking.spawn(async move { browser.fetch(&url(&format!("/{number}"))).await });
    }
    scene
        .wait_for_figure("sidegate_waiting_requests", 1000)
        .await;
    gate.notify_one();
    while let Some(page) = asking.join_next().await {
        let page = page.unwrap();
        assert_eq!(page.text(), "seen", "{}", page.describe());
    }
    assert_eq!(scene.provider.refreshes().len(), 1);
    let requests = scene.app.requests();
    let numbers = requests.iter().skip(1).map(|request| bearer(request).1);
    assert_eq!(numbers.filter(|number| *number == 2).count(), 1000);
    assert_eq!(scene.provider.authorizations().len(), 1);
}

#[tokio::test]
async fn g_01_nobody_waits_while_the_old_token_is_valid() {
    let scene = minutes().await;
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(DUE);
    let gate = scene.provider.hold_refreshes();
    for _ in 0..100 {
        let page = browser.fetch(&url("/page")).await;
        assert_seen(&scene, &page, 1);
    }
    scene.provider.wait_for_refresh(1).await;
    gate.notify_one();
    let refreshed = "sidegate_refreshes_total{provider=\"main\",result=\"renewed\",reason=\"ok\"}";
    scene.wait_for_figure(refreshed, 1).await;
    assert_seen(&scene, &browser.fetch(&url("/page")).await, 2);
    assert_eq!(scene.provider.refreshes().len(), 1);
}

#[tokio::test]
async fn g_01_a_slow_provider_causes_a_503_and_never_ends_the_session() {
    let scene = minutes().await;
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(OVER);
    let gate = scene.provider.hold_refreshes();
    let page = browser.fetch(&url("/page")).await;
    assert_eq!(page.status, 503, "{}", page.describe());
    assert_eq!(page.field("retry-after"), Some("1"));
    assert_eq!(page.json()["reason"], "refresh_slow");
    assert_no_canary(&page);
    gate.notify_one();
    let refreshed = "sidegate_refreshes_total{provider=\"main\",result=\"renewed\",reason=\"ok\"}";
    scene.wait_for_figure(refreshed, 1).await;
    assert_seen(&scene, &browser.fetch(&url("/page")).await, 2);
    assert_eq!(scene.provider.authorizations().len(), 1);
}

#[tokio::test]
async fn f_37_a_token_that_expires_during_its_own_refresh_is_replaced_twice() {
    let scene = with_wait(10, |settings| settings).await;
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(OVER);
    let gate = scene.provider.hold_refreshes();
    let asking = browser.clone();
    let asking = tokio::spawn(async move { asking.fetch(&url("/page")).await });
    for number in 1..=3 {
        scene.provider.wait_for_refresh(number).await;
        scene.gateway.advance(OVER);
        gate.notify_one();
    }
    // The app gets the last token although it has expired, because some providers state a lifetime
    // that is too short.
    assert_seen(&scene, &asking.await.unwrap(), 4);
    assert_eq!(scene.app.count(), 2);
}

#[tokio::test]
async fn g_03_a_refresh_is_kept_when_its_browser_has_gone() {
    let scene = minutes().await;
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(OVER);
    let gate = scene.provider.hold_refreshes();
    let gone = browser.clone();
    let asking = tokio::spawn(async move { gone.open(&url("/page")).await });
    scene.provider.wait_for_refresh(1).await;
    asking.abort();
    scene.wait_for_figure("sidegate_waiting_requests", 0).await;
    gate.notify_one();
    assert_seen(&scene, &browser.open(&url("/page")).await, 2);
    assert_eq!(scene.provider.refreshes().len(), 1);
}

#[tokio::test]
async fn g_05_without_a_new_refresh_token_the_old_one_is_kept() {
    let scene = minutes().await;
    let browser = scene.signed_in("alice").await;
    scene.provider.give_grace();
    let members = json!({ "expires_in": 60, "refresh_token": null });
    scene.provider.token_members(members);
    for number in 2..5 {
        scene.gateway.advance(OVER);
        assert_seen(&scene, &browser.open(&url("/page")).await, number);
    }
    let sent: Vec<_> = scene
        .provider
        .refreshes()
        .iter()
        .map(|form| form["refresh_token"].clone())
        .collect();
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|token| *token == sent[0]), "{sent:?}");
}

#[tokio::test]
async fn refresh_tokens_that_rotate_are_used_once_each() {
    let scene = minutes().await;
    let browser = scene.signed_in("alice").await;
    for number in 2..6 {
        scene.gateway.advance(OVER);
        assert_seen(&scene, &browser.open(&url("/page")).await, number);
    }
    assert_eq!(scene.provider.refreshes().len(), 4);
    assert_eq!(scene.provider.authorizations().len(), 1);
}

#[tokio::test]
async fn g_10_tokens_of_two_users_are_never_mixed() {
    let scene = with_wait(10, |settings| settings.app("queue = 2000")).await;
    let people = [scene.signed_in("alice").await, scene.signed_in("bob").await];
    for _ in 0..250 {
        scene.gateway.advance(OVER);
        let mut asking = JoinSet::new();
        for browser in people.iter().cycle().take(20) {
            let browser = browser.clone();
            asking.spawn(async move { browser.fetch(&url("/page")).await });
        }
        while let Some(page) = asking.join_next().await {
            assert_eq!(page.unwrap().text(), "seen");
        }
    }
    let requests = scene.app.requests();
    assert_eq!(requests.len(), 2 + 250 * 20);
    for request in &requests {
        let user = request.head.value("x-forwarded-user").unwrap();
        assert_eq!(bearer(request).0, user);
    }
    assert_eq!(scene.provider.refreshes().len(), 500);
}

#[tokio::test]
async fn g_12_signing_out_wins_over_a_refresh_under_way() {
    let scene = with_wait(10, |settings| settings).await;
    let browser = scene.signed_in("alice").await;
    let cookie = browser.cookie(ORIGIN, SESSION).unwrap();
    scene.gateway.advance(OVER);
    let gate = scene.provider.hold_refreshes();
    let waiting = browser.clone();
    let waiting = tokio::spawn(async move { waiting.fetch(&url("/page")).await });
    scene.provider.wait_for_refresh(1).await;
    let form = BrowserRequest::navigation(&url("/oauth2/sign_out")).form::<&str, &str>(&[]);
    let page = browser.send(form.from(&url("/"))).await;
    assert_eq!(page.status, 303, "{}", page.describe());
    gate.notify_one();
    let page = waiting.await.unwrap();
    assert_eq!(page.status, 401, "{}", page.describe());
    // The old cookie also does not work.
    let thief = scene.browser();
    thief.plant(ORIGIN, &format!("{SESSION}={cookie}; Path=/; Secure"));
    assert_eq!(thief.fetch(&url("/page")).await.status, 401);
    assert_eq!(scene.app.count(), 1);
}

#[tokio::test]
async fn f_05_requests_that_wait_for_a_slow_provider_delay_no_others() {
    let scene = with_wait(10, |settings| settings).await;
    let alice = scene.signed_in("alice").await;
    scene.gateway.advance(OVER);
    let bob = scene.signed_in("bob").await;
    let gate = scene.provider.hold_refreshes();
    let mut asking = JoinSet::new();
    for _ in 0..50 {
        let alice = alice.clone();
        asking.spawn(async move { alice.fetch(&url("/page")).await });
    }
    scene.wait_for_figure("sidegate_waiting_requests", 50).await;
    for _ in 0..50 {
        assert_eq!(bob.fetch(&url("/page")).await.text(), "seen");
    }
    gate.notify_one();
    while let Some(page) = asking.join_next().await {
        assert_eq!(page.unwrap().text(), "seen");
    }
}

#[tokio::test]
async fn f_14_a_drain_waits_for_a_refresh_that_nobody_waits_for() {
    let scene = minutes().await;
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(DUE);
    let gate = scene.provider.hold_refreshes();
    assert_seen(&scene, &browser.fetch(&url("/page")).await, 1);
    scene.provider.wait_for_refresh(1).await;
    let Scene { gateway, .. } = scene;
    let address = gateway.address();
    let draining = tokio::spawn(gateway.drain());
    // The listener is closed when the drain has begun.
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!draining.is_finished());
    gate.notify_one();
    draining.await.unwrap();
}

#[tokio::test]
async fn f_14_a_refresh_that_a_drain_waited_for_survives_the_restart() {
    let scene = minutes().await;
    let Scene {
        gateway,
        provider,
        app,
    } = scene;
    gateway.drain().await;
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, STANDARD.encode([7; 32])).unwrap();
    let file = folder.path().join("sessions");
    let clock = Clock::manual(Clock::system().now());
    let start = || {
        let store = format!(
            "[login]\nstate_key_file = \"{}\"\n[session.store.disk]\nfile = \"{}\"\n",
            keys.display(),
            file.display()
        );
        let settings = Settings::new(ORIGIN, &provider.url(), &app.url());
        Gateway::with_clock(settings.with(&store), clock.clone())
    };
    let gateway = start();
    let browser = Browser::new().leading(ORIGIN, gateway.address());
    assert_eq!(browser.visit(&url("/")).await.text(), "seen");
    gateway.advance(DUE);
    let gate = provider.hold_refreshes();
    assert_eq!(browser.fetch(&url("/page")).await.text(), "seen");
    provider.wait_for_refresh(1).await;
    let draining = tokio::spawn(gateway.drain());
    gate.notify_one();
    draining.await.unwrap();

    let gateway = start();
    let later = Browser::new().leading(ORIGIN, gateway.address());
    let cookie = browser.cookie(ORIGIN, SESSION).unwrap();
    later.plant(ORIGIN, &format!("{SESSION}={cookie}; Path=/; Secure"));
    assert_eq!(later.fetch(&url("/page")).await.text(), "seen");
    assert_eq!(bearer(&app.last()).1, 2);
    // The stored refresh token is the newest refresh token.
    gateway.advance(OVER);
    gate.notify_one();
    assert_eq!(later.fetch(&url("/page")).await.text(), "seen");
    assert_eq!(bearer(&app.last()).1, 3);
    assert_eq!(provider.refreshes().len(), 2);
}

#[tokio::test]
async fn f_18_steps_of_the_clock_sign_nobody_out() {
    let scene = with_wait(10, |settings| settings).await;
    scene.provider.token_members(json!({ "expires_in": 3600 }));
    let browser = scene.signed_in("alice").await;
    for step in [1, 30, 300, 3600, 7200, 3] {
        scene.gateway.advance(Duration::from_secs(step));
        let page = browser.fetch(&url("/page")).await;
        assert_eq!(page.text(), "seen", "{step}: {}", page.describe());
    }
    assert_eq!(scene.provider.authorizations().len(), 1);
    assert_eq!(scene.provider.refreshes().len(), 2);
}

#[tokio::test]
async fn f_18_a_clock_that_is_set_back_signs_nobody_out() {
    let refresh = "[[routes]]\non_upstream_401 = \"refresh_and_retry\"\n";
    for back in [Duration::from_secs(1), Duration::from_hours(24)] {
        let scene = Scene::with_routes(refresh, "").await;
        scene.provider.token_members(json!({ "expires_in": 3600 }));
        scene.app.answer_by(scene.provider.app());
        let browser = scene.signed_in("alice").await;
        let other = scene.browser_of("bob");
        let callback = scene.until_callback(&other, "/page").await;
        scene.gateway.advance(Duration::from_mins(1));
        assert_seen(&scene, &browser.fetch(&url("/page")).await, 1);
        scene.gateway.set_back(back + Duration::from_mins(1));
        // Users stay signed in, and a pending login succeeds.
        assert_seen(&scene, &browser.fetch(&url("/page")).await, 1);
        assert_eq!(other.follow_all(callback).await.text(), "seen");
        assert_eq!(scene.provider.refreshes().len(), 0);
        // A token whose time of issue is in the future does not count as a new token.
        scene.provider.revoke_access_tokens();
        assert_seen(&scene, &browser.fetch(&url("/page")).await, 3);
        // From this time, the gateway measures the lifetime with the changed clock.
        for number in [4, 5] {
            scene.gateway.advance(Duration::from_secs(3601));
            assert_seen(&scene, &browser.fetch(&url("/page")).await, number);
        }
        // The test then corrects the clock.
        scene.gateway.advance(back);
        let number = if back < Duration::from_hours(1) { 5 } else { 6 };
        assert_seen(&scene, &browser.fetch(&url("/page")).await, number);
        assert_eq!(scene.provider.authorizations().len(), 2);
    }
}

#[tokio::test]
async fn f_37_a_token_of_one_second_is_refreshed_once_a_second_and_one_of_years_never() {
    let scene = with_wait(10, |settings| settings).await;
    scene.provider.token_members(json!({ "expires_in": 1 }));
    let browser = scene.signed_in("alice").await;
    for second in 1..=20 {
        scene.gateway.advance(Duration::from_millis(1001));
        for _ in 0..5 {
            assert_seen(&scene, &browser.fetch(&url("/page")).await, second + 1);
        }
        assert_eq!(scene.provider.refreshes().len(), second);
    }
    let years = with_wait(10, |settings| settings).await;
    years
        .provider
        .token_members(json!({ "expires_in": 315_360_000 }));
    let browser = years.signed_in("alice").await;
    for _ in 0..20 {
        years.gateway.advance(Duration::from_hours(1));
        assert_seen(&years, &browser.fetch(&url("/page")).await, 1);
    }
    assert_eq!(years.provider.refreshes().len(), 0);
}

#[tokio::test]
async fn a_public_route_serves_a_session_that_cannot_be_used_as_anonymous() {
    let scene = with_wait(10, |settings| settings).await;
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(OVER);
    let busy = Answer::with(503, &[("Retry-After", "30")], "");
    scene.provider.refuse_refreshes(Some(busy));
    let page = browser.fetch(&url("/public/x")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    let nobody = scene.app.last();
    assert_eq!(nobody.head.value("authorization"), None);
    assert_eq!(nobody.head.value("x-forwarded-user"), None);
    scene.provider.refuse_refreshes(None);
    scene.gateway.advance(Duration::from_secs(31));
    let page = browser.fetch(&url("/public/x")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    let alice = scene.app.last();
    assert_eq!(alice.head.value("x-forwarded-user").unwrap(), "alice");
    // Without a key for a credential, a public route sends no token.
    assert_eq!(alice.head.value("authorization"), None);
}

#[tokio::test]
async fn a_session_without_a_refresh_token_ends_with_its_access_token() {
    let scene = minutes().await;
    let members = json!({ "expires_in": 60, "refresh_token": null });
    scene.provider.token_members(members);
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(OVER);
    let page = browser.fetch(&url("/page")).await;
    assert_eq!(page.status, 401, "{}", page.describe());
    assert_eq!(page.json()["reason"], "token_expired");
    assert_eq!(browser.visit(&url("/page")).await.text(), "seen");
    assert_eq!(scene.provider.refreshes().len(), 0);
}

#[tokio::test]
async fn a_sign_in_succeeds_while_the_current_token_has_expired() {
    let scene = with_wait(10, |settings| settings).await;
    let browser: Browser = scene.signed_in("alice").await;
    scene.gateway.advance(OVER);
    let page = browser.visit(&url("/oauth2/sign_in")).await;
    assert_seen(&scene, &page, 2);
    assert_eq!(scene.provider.authorizations().len(), 1);
}

#[tokio::test]
async fn the_metrics_count_refreshes_and_logins_separately() {
    let scene = with_wait(10, |settings| settings).await;
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(OVER);
    browser.fetch(&url("/page")).await;
    for (line, value) in [
        (
            "sidegate_token_calls_total{provider=\"main\",grant=\"authorization_code\",result=\"ok\"}",
            1,
        ),
        (
            "sidegate_token_calls_total{provider=\"main\",grant=\"refresh_token\",result=\"ok\"}",
            1,
        ),
        (
            "sidegate_refreshes_total{provider=\"main\",result=\"renewed\",reason=\"ok\"}",
            1,
        ),
        ("sidegate_waiting_requests", 0),
    ] {
        assert_eq!(scene.figure(line).await, Some(value), "{line}");
    }
}
