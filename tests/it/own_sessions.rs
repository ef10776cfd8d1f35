//! The page with a user's own sessions.

use std::time::Duration;

use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::form::forms;
use crate::support::scene::{ORIGIN, SESSION, Scene, assert_no_canary, refusal, url};

const PAGE: &str = "/oauth2/sessions";

const FIREFOX: &str = "Mozilla/5.0 (Windows NT 10.0; rv:140.0) Gecko/20100101 Firefox/140.0";

/// A browser that has signed in as `user` with another `User-Agent`.
async fn firefox(scene: &Scene, user: &str) -> Browser {
    let browser = scene.browser_of(user);
    let callback = scene.until_callback(&browser, "/").await;
    let location = callback.location().unwrap();
    let visit = BrowserRequest::navigation(location.as_str()).field("user-agent", FIREFOX);
    let page = browser.send(visit).await;
    assert_eq!(page.status, 303, "{}", page.describe());
    browser
}

async fn is_signed_in(browser: &Browser) -> bool {
    browser.fetch(&url("/")).await.status == 200
}

/// The targets of the buttons that end other sessions, in the order of the page.
fn ends(page: &Page) -> Vec<String> {
    let actions = forms(&page.text()).into_iter().map(|form| form.action);
    actions.filter(|action| action.contains("end=")).collect()
}

async fn post(browser: &Browser, target: &str, from: &str) -> Page {
    let none: [(&str, &str); 0] = [];
    let visit = BrowserRequest::navigation(&url(target)).form(&none);
    browser.send(visit.from(from)).await
}

#[tokio::test]
async fn a_user_sees_where_the_account_is_signed_in() {
    let scene = Scene::new().await;
    let other = firefox(&scene, "alice").await;
    scene.gateway.advance(Duration::from_hours(2));
    let own = scene.signed_in("alice").await;
    scene.signed_in("bob").await;
    scene.gateway.advance(Duration::from_mins(3));
    assert!(is_signed_in(&other).await);
    scene.gateway.advance(Duration::from_mins(1));
    let page = own.open(&url(PAGE)).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    assert_no_canary(&page);
    let text = page.text();
    let order = [
        "Your sessions",
        "You are signed in as alice in these browsers",
        "change your password at main",
        "can sign in again without a password as long as the browser is signed in at main",
        "A browser on Linux",
        "This browser",
        "Last used just now",
        "Signed in 4 minutes ago from 127.0.0.0/24",
        "Firefox on Windows",
        "Last used 1 minute ago",
        "Signed in 2 hours ago from 127.0.0.0/24",
        "End session",
        "End all other sessions",
    ];
    let mut rest = &*text;
    for wanted in order {
        let found = rest.split_once(wanted);
        (_, rest) = found.unwrap_or_else(|| panic!("{wanted}: {text}"));
    }
    assert_eq!(text.matches("<li>").count(), 2, "{text}");
    // The page contains no session id.
    for browser in [&own, &other] {
        let id = browser.cookie(ORIGIN, SESSION).unwrap();
        assert!(!text.contains(&id[..8]), "{text}");
    }
    assert_eq!(page.field("cache-control"), Some("no-store"));
    assert_eq!(page.field("x-frame-options"), Some("DENY"));
}

#[tokio::test]
async fn a_user_ends_one_other_session() {
    let scene = Scene::new().await;
    let (first, second) = (
        firefox(&scene, "alice").await,
        firefox(&scene, "alice").await,
    );
    let own = scene.signed_in("alice").await;
    let page = own.open(&url(PAGE)).await;
    let [one, _, others] = &*ends(&page) else {
        panic!("{}", page.text());
    };
    assert_eq!(others, "/oauth2/sessions?end=others");
    let answer = post(&own, one, ORIGIN).await;
    assert_eq!(answer.status, 303);
    let page = own.follow(&answer).await;
    assert_eq!(page.url.as_str(), url(PAGE));
    assert_eq!(ends(&page).len(), 2, "{}", page.text());
    let left = [is_signed_in(&first).await, is_signed_in(&second).await];
    assert_eq!(left.iter().filter(|left| **left).count(), 1);
    assert!(is_signed_in(&own).await);
}

#[tokio::test]
async fn a_user_ends_all_other_sessions() {
    let scene = Scene::new().await;
    let others = [
        firefox(&scene, "alice").await,
        firefox(&scene, "alice").await,
    ];
    let bob = scene.signed_in("bob").await;
    let own = scene.signed_in("alice").await;
    let answer = post(&own, "/oauth2/sessions?end=others", ORIGIN).await;
    let page = own.follow(&answer).await;
    assert!(
        page.text()
            .contains("knows no other session of alice at main"),
        "{}",
        page.text()
    );
    assert_eq!(ends(&page), Vec::<String>::new());
    for other in others {
        assert!(!is_signed_in(&other).await);
    }
    assert!(is_signed_in(&own).await && is_signed_in(&bob).await);
}

#[tokio::test]
async fn c_21_neither_another_site_nor_another_user_ends_a_session() {
    let scene = Scene::new().await;
    let (own, other) = (
        scene.signed_in("alice").await,
        firefox(&scene, "alice").await,
    );
    let page = own.open(&url(PAGE)).await;
    let [one, all] = &*ends(&page) else {
        panic!("{}", page.text());
    };
    for target in [one, all] {
        let page = post(&own, target, "http://evil.test").await;
        assert_eq!(refusal(&page), "403 cross_origin");
        // A GET request ends nothing.
        assert_eq!(own.open(&url(target)).await.status, 200);
    }
    let bob = scene.signed_in("bob").await;
    for target in [one, all] {
        assert_eq!(post(&bob, target, ORIGIN).await.status, 303);
    }
    for target in ["?end=", "?end=x", "", "?end=others&end=others"] {
        assert_eq!(
            post(&own, &format!("{PAGE}{target}"), ORIGIN).await.status,
            303
        );
    }
    assert!(is_signed_in(&own).await && is_signed_in(&other).await);
}

#[tokio::test]
async fn without_a_session_the_page_asks_for_a_sign_in() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let page = browser.open(&url(PAGE)).await;
    assert_eq!(refusal(&page), "401 no_cookie");
    assert!(page.text().contains("href=\"/oauth2/sign_in\""));
    let answer = post(&browser, "/oauth2/sessions?end=others", ORIGIN).await;
    assert_eq!(browser.follow(&answer).await.status, 401);
}

#[tokio::test]
async fn a_user_without_a_subject_sees_only_the_own_session() {
    let mut scene = Scene::with_settings(|settings| settings).await;
    let text = scene.gateway.settings().text();
    let nameless = text.replace(
        "identity.source = \"userinfo\"",
        "identity.source = \"none\"",
    );
    assert_ne!(nameless, text);
    scene.gateway.reload(&nameless).await.unwrap();
    let (own, other) = (scene.signed_in("alice").await, scene.signed_in("bob").await);
    let page = own.open(&url(PAGE)).await;
    let text = page.text();
    assert!(
        text.contains("cannot find your sessions in other browsers"),
        "{text}"
    );
    assert!(!text.contains("no other session"), "{text}");
    assert_eq!(ends(&page), Vec::<String>::new());
    let answer = post(&own, "/oauth2/sessions?end=others", ORIGIN).await;
    assert_eq!(answer.status, 303);
    assert!(is_signed_in(&other).await);
}
