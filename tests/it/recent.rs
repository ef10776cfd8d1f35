//! A connection remembers its last session, but never longer than this session is valid.

use std::time::Duration;

use serde_json::json;

use crate::support::browser_request::BrowserRequest;
use crate::support::connection::OpenConnection;
use crate::support::scene::{SESSION, Scene, TLS_ORIGIN};

/// A time after the expiry of a token with a lifetime of one minute.
const OVER: Duration = Duration::from_secs(61);

/// The user and the number of the last token that the app got.
fn bearer(scene: &Scene) -> (String, usize) {
    let last = scene.app.last();
    let field = last.head.value("authorization").unwrap_or_default();
    let token = field.strip_prefix("Bearer ").unwrap_or_default();
    let parts: Vec<&str> = token.split('.').collect();
    match parts[..] {
        [user, _, number] => (user.to_owned(), number.parse().unwrap()),
        _ => panic!("no token in {:?}", last.head),
    }
}

#[tokio::test]
async fn an_open_connection_gets_the_new_token_of_a_session_that_was_refreshed() {
    let (scene, tls) = Scene::over_tls().await;
    scene.provider.token_members(json!({ "expires_in": 60 }));
    let (_browser, cookie) = scene.signed_in_over_tls(&tls, "alice").await;
    let mut lines = OpenConnection::both(scene.gateway.address(), &tls).await;
    for number in 1..4 {
        for line in &mut lines {
            assert_eq!(line.ask(&cookie).await, 200);
            assert_eq!(bearer(&scene), ("alice".to_owned(), number));
        }
        scene.gateway.advance(OVER);
    }
}

#[tokio::test]
async fn c_20_an_open_connection_loses_a_session_that_was_ended_elsewhere() {
    let (scene, tls) = Scene::over_tls().await;
    let (browser, cookie) = scene.signed_in_over_tls(&tls, "alice").await;
    let mut lines = OpenConnection::both(scene.gateway.address(), &tls).await;
    for line in &mut lines {
        assert_eq!(line.ask(&cookie).await, 200);
    }
    let form: [(&str, &str); 0] = [];
    let sign_out = BrowserRequest::navigation(&format!("{TLS_ORIGIN}/oauth2/sign_out"));
    let page = browser.send(sign_out.form(&form).from(TLS_ORIGIN)).await;
    assert_eq!(page.status, 303, "{}", page.describe());
    let before = scene.app.count();
    for line in &mut lines {
        assert_eq!(line.ask(&cookie).await, 401);
    }
    assert_eq!(scene.app.count(), before);
}

#[tokio::test]
async fn sessions_on_a_shared_connection_are_kept_apart() {
    let (scene, tls) = Scene::over_tls().await;
    let (_, alice) = scene.signed_in_over_tls(&tls, "alice").await;
    let (_, bob) = scene.signed_in_over_tls(&tls, "bob").await;
    for line in &mut OpenConnection::both(scene.gateway.address(), &tls).await {
        for (cookie, user) in [(&alice, "alice"), (&bob, "bob"), (&alice, "alice")] {
            assert_eq!(line.ask(cookie).await, 200);
            assert_eq!(bearer(&scene).0, user);
        }
        assert_eq!(line.ask("other=1").await, 401);
    }
}

#[tokio::test]
async fn an_app_gets_the_other_cookies_of_each_request_and_never_ours() {
    let (scene, tls) = Scene::over_tls().await;
    let (_browser, ours) = scene.signed_in_over_tls(&tls, "alice").await;
    let lines = [
        (
            format!("lang=en; {ours}; theme=dark"),
            Some("lang=en; theme=dark"),
        ),
        (
            format!("lang=en; {ours}; theme=dark"),
            Some("lang=en; theme=dark"),
        ),
        (
            format!("lang=de; {ours}; theme=dark"),
            Some("lang=de; theme=dark"),
        ),
        (format!("{ours}; a=1"), Some("a=1")),
        (ours.clone(), None),
        (ours.clone(), None),
        (
            format!("lang=en; {ours}; theme=dark"),
            Some("lang=en; theme=dark"),
        ),
    ];
    for line in &mut OpenConnection::both(scene.gateway.address(), &tls).await {
        for (cookies, others) in &lines {
            assert_eq!(line.ask(cookies).await, 200);
            let seen = scene.app.last().head.value("cookie");
            assert_eq!(seen.as_deref(), *others, "{cookies}");
        }
        // A request with two different session cookies has no session, even on a connection that
        // remembers a session.
        let planted = format!("{ours}; {SESSION}=other");
        assert_eq!(line.ask(&planted).await, 401);
        assert_eq!(line.ask(&ours).await, 200);
    }
}

#[tokio::test]
async fn c_15_a_session_in_use_on_one_connection_stays_and_an_unused_one_ends() {
    for which in 0..2 {
        let (scene, tls) = Scene::over_tls().await;
        let (_browser, cookie) = scene.signed_in_over_tls(&tls, "alice").await;
        let line = &mut OpenConnection::both(scene.gateway.address(), &tls).await[which];
        // Eight hours without a use end the session. The session is used every three hours, for
        // twelve hours.
        for _ in 0..5 {
            assert_eq!(line.ask(&cookie).await, 200);
            scene.gateway.advance(Duration::from_hours(3));
        }
        assert_eq!(line.ask(&cookie).await, 200);
        scene.gateway.advance(Duration::from_hours(8));
        assert_eq!(line.ask(&cookie).await, 401);
    }
}
