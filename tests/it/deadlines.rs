//! The limits of sessions that a provider or a route shortens.

use std::time::Duration;

use sidegate::clock::Clock;

use crate::events::EventClient;
use crate::one_sign_in::{HOSTS, IP, shared};
use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::{Gateway, Settings};
use crate::support::openid::{OpenIdScene, settings_without_routes};
use crate::support::provider::{StandIn, parameters};
use crate::support::raw::Raw;
use crate::support::scene::{ORIGIN, SESSION, Scene, refusal, url};
use crate::support::upstream::RecordingUpstream;

/// `/age` and `/idle` have limits of their own.
const ROUTES: &str = r#"
[[routes]]
[[routes]]
prefix = "/age"
session.max_age_secs = 300
[[routes]]
prefix = "/idle"
session.idle_secs = 300
"#;

async fn openid(change: impl FnOnce(Settings) -> Settings) -> OpenIdScene {
    let clock = Clock::manual(Clock::system().now());
    let provider = StandIn::at_time_of(&clock).await;
    let app = RecordingUpstream::start().await;
    let settings = settings_without_routes(&provider.url(), &app.url(), &[]).with(ROUTES);
    let gateway = Gateway::with_clock(change(settings), clock);
    OpenIdScene {
        gateway,
        provider,
        app,
    }
}

/// The parameters `prompt` and `max_age` of a redirect to the provider.
fn asked(page: &Page) -> (Option<String>, Option<String>) {
    assert_eq!(page.status, 303, "{}", page.describe());
    let location = page.location().unwrap();
    let asked = parameters(location.query().unwrap());
    (asked.get("prompt").cloned(), asked.get("max_age").cloned())
}

fn demands(prompt: Option<&str>, max_age: Option<&str>) -> (Option<String>, Option<String>) {
    (prompt.map(str::to_owned), max_age.map(str::to_owned))
}

async fn status(browser: &Browser, path: &str) -> u16 {
    browser.fetch(&url(path)).await.status.as_u16()
}

#[tokio::test]
async fn c_15_a_provider_can_shorten_the_deadlines_of_its_sessions() {
    let limits = "session = { idle_secs = 100, absolute_secs = 250 }\n";
    let scene = Scene::with(|settings| settings.of_provider(limits)).await;
    let browser = scene.signed_in("alice").await;
    let info = browser.fetch(&url("/oauth2/userinfo")).await.json();
    assert_eq!(
        (&info["idle_ends_in"], &info["ends_in"]),
        (&100.into(), &250.into())
    );
    scene.gateway.advance(Duration::from_secs(99));
    assert_eq!(status(&browser, "/").await, 200);
    scene.gateway.advance(Duration::from_secs(100));
    assert_eq!(status(&browser, "/").await, 401);
    let browser = scene.signed_in("alice").await;
    for _ in 0..3 {
        scene.gateway.advance(Duration::from_secs(80));
        assert_eq!(status(&browser, "/").await, 200);
    }
    scene.gateway.advance(Duration::from_secs(10));
    assert_eq!(status(&browser, "/").await, 401);
}

#[tokio::test]
async fn c_15_a_reload_shortens_the_deadlines_of_running_sessions_on_open_connections() {
    let mut scene = Scene::with(Settings::one_worker).await;
    let browser = scene.signed_in("alice").await;
    let cookie = format!("{SESSION}={}", browser.cookie(ORIGIN, SESSION).unwrap());
    let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n");
    let mut connection = Raw::connect(scene.gateway.address()).await;
    connection.send(&request).await;
    assert_eq!(connection.response("GET").await.unwrap().status(), 200);
    let mut events = EventClient::open(scene.gateway.address(), &cookie).await;
    scene.gateway.advance(Duration::from_secs(5));
    let text = scene.gateway.settings().text();
    let limit = "[providers.main]\nsession.absolute_secs = 5\n";
    let shorter = text.replace("[providers.main]\n", limit);
    assert_ne!(shorter, text);
    scene.gateway.reload(&shorter).await.unwrap();
    connection.send(&request).await;
    assert_eq!(connection.response("GET").await.unwrap().status(), 401);
    events.expect_end("session_too_old").await;
    // A later reload does not bring the session back.
    scene.gateway.reload(&text).await.unwrap();
    assert_eq!(status(&browser, "/").await, 401);
}

#[tokio::test]
async fn a_route_asks_for_a_new_sign_in_when_the_last_one_is_too_old() {
    let scene = openid(|settings| settings).await;
    let browser = scene.browser();
    // The first login proves its time.
    let start = browser.open(&url("/age")).await;
    assert_eq!(asked(&start), demands(None, Some("300")));
    assert_eq!(browser.follow_all(start).await.text(), "seen");
    scene.gateway.advance(Duration::from_secs(299));
    assert_eq!(status(&browser, "/age").await, 200);
    scene.gateway.advance(Duration::from_secs(1));
    let refused = browser.fetch(&url("/age")).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.json()["reason"], "sign_in_too_old");
    let login_url = url("/oauth2/sign_in?prompt=login&max_age=300");
    assert_eq!(refused.json()["login_url"], login_url);
    // The rest of the site needs no new sign-in.
    assert_eq!(status(&browser, "/").await, 200);
    let start = browser.open(&url("/age?x=1")).await;
    assert_eq!(asked(&start), demands(Some("login"), Some("300")));
    let page = browser.follow_all(start).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(page.url.as_str(), url("/age?x=1"));
    // The link of the answer to a script leads to a sign-in, too.
    scene.gateway.advance(Duration::from_mins(5));
    let start = browser.open(&login_url).await;
    assert_eq!(asked(&start), demands(Some("login"), Some("300")));
    browser.follow_all(start).await;
    assert_eq!(status(&browser, "/age").await, 200);
    assert_eq!(scene.provider.authorizations().len(), 3);
}

#[tokio::test]
async fn a_33_an_old_sign_in_at_the_provider_does_not_help() {
    let scene = openid(|settings| settings).await;
    scene.provider.tamper_claims(|claims| {
        claims["auth_time"] = (claims["iat"].as_u64().unwrap() - 1000).into();
    });
    // The session is new, but the user has authenticated long ago.
    let browser = scene.signed_in("alice").await;
    assert_eq!(status(&browser, "/").await, 200);
    assert_eq!(status(&browser, "/age").await, 401);
    let page = browser.visit(&url("/age")).await;
    assert_eq!(refusal(&page), "502 id_token_stale", "{}", page.describe());
    // The old session continues.
    assert_eq!(status(&browser, "/").await, 200);
    // A session without the time of the authentication counts as old.
    scene.provider.tamper_claims(|claims| {
        claims.as_object_mut().unwrap().remove("auth_time");
    });
    let browser = scene.signed_in("bob").await;
    assert_eq!(status(&browser, "/").await, 200);
    assert_eq!(status(&browser, "/age").await, 401);
}

#[tokio::test]
async fn without_openid_connect_the_age_of_the_session_decides() {
    let scene = Scene::with_settings(|settings| settings.with(ROUTES)).await;
    let browser = scene.browser();
    let start = browser.open(&url("/age")).await;
    assert_eq!(asked(&start), demands(None, None));
    assert_eq!(browser.follow_all(start).await.text(), "seen");
    scene.gateway.advance(Duration::from_mins(5));
    let start = browser.open(&url("/age")).await;
    assert_eq!(asked(&start), demands(Some("login"), None));
    assert_eq!(browser.follow_all(start).await.text(), "seen");
}

#[tokio::test]
async fn a_route_asks_for_a_new_sign_in_after_a_pause_anywhere_on_the_site() {
    let scene = openid(|settings| settings).await;
    let browser = scene.signed_in("alice").await;
    assert_eq!(status(&browser, "/idle").await, 200);
    scene.gateway.advance(Duration::from_secs(299));
    assert_eq!(status(&browser, "/").await, 200);
    scene.gateway.advance(Duration::from_secs(299));
    assert_eq!(status(&browser, "/idle").await, 200);
    scene.gateway.advance(Duration::from_mins(5));
    // The use of another page does not hide the pause.
    assert_eq!(status(&browser, "/").await, 200);
    let refused = browser.fetch(&url("/idle")).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.json()["reason"], "session_paused");
    let start = browser.open(&url("/idle")).await;
    assert_eq!(asked(&start), demands(Some("login"), Some("300")));
    browser.follow_all(start).await;
    assert_eq!(status(&browser, "/idle").await, 200);
}

#[tokio::test]
async fn a_host_that_shares_a_sign_in_asks_the_login_host_for_a_new_one() {
    let scene = openid(shared).await;
    let browser = HOSTS.iter().fold(Browser::new(), |browser, host| {
        browser.leading(host, scene.gateway.address())
    });
    let visit = async |path: &str| {
        let page = browser.visit(&format!("{IP}{path}")).await;
        assert_eq!(page.text(), "seen", "{}", page.describe());
        scene.provider.authorizations().len()
    };
    assert_eq!(visit("/").await, 1);
    assert_eq!(visit("/age").await, 1);
    scene.gateway.advance(Duration::from_mins(5));
    assert_eq!(visit("/").await, 1);
    assert_eq!(visit("/age").await, 2);
    let asked = scene.provider.asked();
    assert_eq!((&*asked["prompt"], &*asked["max_age"]), ("login", "300"));
    // Another host of the site gets the new session, but not an old one.
    let other = |path: &str| format!("{}{path}", HOSTS[1]);
    assert_eq!(browser.visit(&other("/age")).await.text(), "seen");
    assert_eq!(scene.provider.authorizations().len(), 2);
    scene.gateway.advance(Duration::from_mins(5));
    let last = HOSTS[3];
    assert_eq!(browser.visit(&format!("{last}/age")).await.text(), "seen");
    let asked = scene.provider.asked();
    assert_eq!((asked.get("prompt"), &*asked["max_age"]), (None, "300"));
}

#[tokio::test]
async fn a_link_can_ask_for_a_recent_sign_in() {
    let scene = openid(|settings| settings).await;
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(Duration::from_secs(100));
    let open = async |max_age: &str| {
        let link = format!("/oauth2/start?rd=%2F&max_age={max_age}");
        let visit = BrowserRequest::navigation(&url(&link)).from(ORIGIN);
        browser.send(visit).await
    };
    assert_eq!(open("101").await.location().unwrap().as_str(), url("/"));
    assert_eq!(asked(&open("100").await), demands(None, Some("100")));
    assert_eq!(open("x").await.location().unwrap().as_str(), url("/"));
}
