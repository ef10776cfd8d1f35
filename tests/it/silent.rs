//! Silent sign-ins: a page load asks the provider whether the user is signed in there.

use serde_json::json;
use sidegate::clock::Clock;

use crate::one_sign_in::sign_out::sign_out;
use crate::one_sign_in::{HOSTS, IP, LOGIN, shared};
use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::{Gateway, Settings};
use crate::support::openid::{OpenIdScene, settings_without_routes};
use crate::support::provider::{Endpoint, StandIn, parameters};
use crate::support::scene::{ORIGIN, SESSION, url};
use crate::support::upstream::{Answer, RecordingUpstream};

const MARKER: &str = "__Host-sidegate-silent";

const ROUTES: &str = r#"
[[routes]]
prefix = "/"
silent_sign_in = true
[[routes]]
prefix = "/public"
access = "public"
silent_sign_in = true
[[routes]]
prefix = "/plain"
access = "public"
"#;

async fn scene() -> OpenIdScene {
    scene_with(|settings| settings).await
}

async fn scene_with(change: impl FnOnce(Settings) -> Settings) -> OpenIdScene {
    let clock = Clock::manual(Clock::system().now());
    let provider = StandIn::at_time_of(&clock).await;
    scene_of(provider, clock, change).await
}

async fn scene_of(
    provider: StandIn,
    clock: Clock,
    change: impl FnOnce(Settings) -> Settings,
) -> OpenIdScene {
    let app = RecordingUpstream::start().await;
    let settings = settings_without_routes(&provider.url(), &app.url(), &[]).with(ROUTES);
    let gateway = Gateway::with_clock(change(settings), clock);
    OpenIdScene {
        gateway,
        provider,
        app,
    }
}

/// The `prompt` of each authorization request so far.
fn prompts(scene: &OpenIdScene) -> Vec<Option<String>> {
    let asked = scene.provider.authorizations();
    let asked = asked.iter().map(|url| parameters(url.query().unwrap()));
    asked.map(|asked| asked.get("prompt").cloned()).collect()
}

fn silent(count: usize) -> Vec<Option<String>> {
    vec![Some("none".to_owned()); count]
}

/// Fails unless `page` is the answer of the app, and the app saw `user`.
#[track_caller]
fn assert_seen_by(scene: &OpenIdScene, page: &Page, user: Option<&str>) {
    assert_eq!(page.text(), "seen", "{}", page.describe());
    let asserted = scene.asserted("x-forwarded-user");
    assert_eq!(asserted.as_deref(), user, "{}", page.describe());
}

/// Makes the provider answer every authorization request with this error.
fn refuse(provider: &StandIn, error: &'static str) {
    provider.authorization_response(move |response| {
        *response = json!({"error": error, "state": response["state"]});
    });
}

#[tokio::test]
async fn a_public_page_signs_a_user_in_who_is_signed_in_at_the_provider() {
    let scene = scene().await;
    let browser = scene.browser_of("alice");
    let page = browser.visit(&url("/public/a?x=1")).await;
    assert_seen_by(&scene, &page, Some("alice"));
    assert_eq!(page.url.as_str(), url("/public/a?x=1"));
    assert_eq!(prompts(&scene), silent(1));
    assert_eq!(browser.cookie(ORIGIN, MARKER), None);
    assert_eq!(scene.app.count(), 1);
}

#[tokio::test]
async fn a_34_a_public_page_tries_once_and_then_shows_itself_without_a_user() {
    let scene = scene().await;
    let browser = scene.browser();
    for _ in 0..2 {
        let page = browser.visit(&url("/public/a?x=1")).await;
        assert_seen_by(&scene, &page, None);
        assert_eq!(page.url.as_str(), url("/public/a?x=1"));
        assert_eq!(prompts(&scene), silent(1));
    }
    assert_eq!(browser.cookie(ORIGIN, MARKER).as_deref(), Some("answered"));
    // The user signs in at the provider, and the cookie expires.
    browser.forget(MARKER);
    browser.plant(&scene.provider.url(), "user=bob; Path=/");
    let page = browser.visit(&url("/public/a")).await;
    assert_seen_by(&scene, &page, Some("bob"));
}

#[tokio::test]
async fn a_34_a_protected_page_tries_once_and_then_asks_the_user() {
    let scene = scene().await;
    let browser = scene.browser();
    let page = browser.visit(&url("/deep?x=1")).await;
    // Without `prompt=none`, the provider signs in everybody.
    assert_seen_by(&scene, &page, Some("alice"));
    assert_eq!(page.url.as_str(), url("/deep?x=1"));
    assert_eq!(prompts(&scene), [Some("none".to_owned()), None]);
}

#[tokio::test]
async fn a_34_a_browser_that_stores_no_cookies_gets_the_public_page() {
    let scene = scene().await;
    let mut page = scene.browser().open(&url("/public/a?x=1")).await;
    for _ in 0..10 {
        let Some(next) = page.location() else {
            break;
        };
        // A new browser has no cookies.
        page = scene.browser().open(next.as_str()).await;
    }
    assert_seen_by(&scene, &page, None);
    assert_eq!(page.url.as_str(), url("/public/a?x=1&sidegate_silent=no"));
    assert_eq!(prompts(&scene), silent(1));
}

#[tokio::test]
async fn every_error_of_a_silent_sign_in_leads_back_to_the_page() {
    for error in [
        "login_required",
        "interaction_required",
        "consent_required",
        "account_selection_required",
        "access_denied",
        "temporarily_unavailable",
        "server_error",
        "an_error_of_its_own",
    ] {
        let scene = scene().await;
        refuse(&scene.provider, error);
        let browser = scene.browser_of("alice");
        let page = browser.visit(&url("/public/a")).await;
        assert_seen_by(&scene, &page, None);
        assert_eq!(prompts(&scene), silent(1), "{error}");
        assert_eq!(browser.cookie(ORIGIN, SESSION), None, "{error}");
    }
    // The provider sends a code, but its token endpoint fails.
    let scene = scene().await;
    scene
        .provider
        .next(Endpoint::Token, Answer::with(500, &[], ""));
    let browser = scene.browser_of("alice");
    let page = browser.visit(&url("/public/a")).await;
    assert_seen_by(&scene, &page, None);
    let figure = "sidegate_logins_total{result=\"silent\",reason=\"provider_unavailable\"}";
    let operations = scene.gateway.operations();
    crate::support::scene::wait_for_figure(operations, figure, 1).await;
}

#[tokio::test]
async fn an_error_page_of_the_provider_stops_further_attempts() {
    let scene = scene().await;
    scene
        .provider
        .next(Endpoint::Authorization, Answer::with(500, &[], "broken"));
    let browser = scene.browser_of("alice");
    let page = browser.visit(&url("/public/a")).await;
    assert_eq!(page.text(), "broken");
    assert_eq!(browser.cookie(ORIGIN, MARKER).as_deref(), Some("tried"));
    // The user goes back, and opens the page again.
    let page = browser.open(&url("/public/a")).await;
    assert_seen_by(&scene, &page, None);
    let start = browser.open(&url("/deep")).await;
    let asked = parameters(start.location().unwrap().query().unwrap());
    assert_eq!(asked.get("prompt"), None);
    let page = browser.follow_all(start).await;
    assert_seen_by(&scene, &page, Some("alice"));
    assert_eq!(browser.cookie(ORIGIN, MARKER), None);
}

#[tokio::test]
async fn a_provider_that_is_down_does_not_hide_the_public_page() {
    let clock = Clock::manual(Clock::system().now());
    let mut provider = StandIn::at_time_of(&clock).await;
    provider.down().await;
    let scene = scene_of(provider, clock, |settings| settings).await;
    let page = scene.browser().open(&url("/public/a")).await;
    assert_seen_by(&scene, &page, None);
}

#[tokio::test]
async fn after_a_sign_out_nobody_is_signed_in_silently_until_the_next_login() {
    let scene = scene().await;
    let browser = scene.browser_of("alice");
    browser.visit(&url("/public/a")).await;
    assert_eq!(prompts(&scene), silent(1));
    sign_out(&browser, ORIGIN).await;
    assert_eq!(
        browser.cookie(ORIGIN, MARKER).as_deref(),
        Some("signed-out")
    );
    let page = browser.open(&url("/public/a")).await;
    assert_seen_by(&scene, &page, None);
    let start = browser.open(&url("/deep")).await;
    let asked = parameters(start.location().unwrap().query().unwrap());
    assert_eq!(asked.get("prompt"), None);
    let page = browser.follow_all(start).await;
    assert_seen_by(&scene, &page, Some("alice"));
    assert_eq!(browser.cookie(ORIGIN, MARKER), None);
    // The session is lost, for example because the process has restarted.
    browser.plant(ORIGIN, &format!("{SESSION}=x; Path=/; Secure"));
    let page = browser.visit(&url("/public/a")).await;
    assert_seen_by(&scene, &page, Some("alice"));
}

#[tokio::test]
async fn only_a_page_load_begins_a_silent_sign_in() {
    let scene = scene().await;
    let browser = scene.browser_of("alice");
    let at = url("/public/a");
    let form = [("a", "b")];
    for request in [
        BrowserRequest::fetch(&at),
        BrowserRequest::image(&at),
        BrowserRequest::navigation(&at).form(&form).from(ORIGIN),
        BrowserRequest::navigation(&at).field("sec-purpose", "prefetch"),
        BrowserRequest::navigation(&at).method("HEAD"),
        BrowserRequest::navigation(&at).field("sec-fetch-dest", "iframe"),
        BrowserRequest::navigation(&url("/plain/a")),
    ] {
        let page = browser.send(request.clone()).await;
        assert_eq!(page.status, 200, "{request:?}: {}", page.describe());
        assert_eq!(page.set_cookies(), Vec::<String>::new(), "{request:?}");
    }
    // A program sends no `Sec-Fetch-Mode`.
    let program = "GET /public/a HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n";
    let outcome =
        crate::support::raw::exchange(scene.gateway.address(), program.as_bytes(), 1).await;
    assert_eq!(outcome.statuses(), [200]);
    assert_eq!(prompts(&scene), []);
}

#[tokio::test]
async fn a_provider_that_posts_its_answers_signs_in_silently_too() {
    let key = "[providers.main.authorization_request]\nresponse_mode = \"form_post\"\n";
    let scene = scene_with(|settings| settings.with(key)).await;
    let submit = async |browser: &Browser| {
        let form = browser.visit(&url("/public/a")).await;
        let answer = browser.submit(&form, &form.login_form(), &[]).await;
        browser.follow_all(answer).await
    };
    let nobody = scene.browser();
    assert_seen_by(&scene, &submit(&nobody).await, None);
    assert_eq!(nobody.cookie(ORIGIN, MARKER).as_deref(), Some("answered"));
    let alice = scene.browser_of("alice");
    assert_seen_by(&scene, &submit(&alice).await, Some("alice"));
    assert_eq!(alice.cookie(ORIGIN, MARKER), None);
}

#[tokio::test]
async fn hosts_that_share_a_sign_in_share_silent_sign_ins() {
    let scene = scene_with(shared).await;
    let browser = HOSTS.iter().fold(Browser::new(), |browser, host| {
        browser.leading(host, scene.gateway.address())
    });
    let open = async |host: &str| browser.visit(&format!("{host}/public/a?x=1")).await;
    for _ in 0..2 {
        let page = open(IP).await;
        assert_seen_by(&scene, &page, None);
        assert_eq!(page.url.as_str(), format!("{IP}/public/a?x=1"));
        assert_eq!(prompts(&scene), silent(1));
    }
    for host in [IP, LOGIN] {
        assert_eq!(browser.cookie(host, MARKER).as_deref(), Some("answered"));
    }
    browser.forget(MARKER);
    browser.plant(&scene.provider.url(), "user=bob; Path=/");
    assert_seen_by(&scene, &open(IP).await, Some("bob"));
    for host in [IP, LOGIN] {
        assert_eq!(browser.cookie(host, MARKER), None, "{host}");
    }
    // The session of the login host serves the other hosts.
    assert_seen_by(&scene, &open(HOSTS[3]).await, Some("bob"));
    assert_eq!(prompts(&scene), silent(2));
    // After a sign-out at one host, no host signs the user in silently.
    sign_out(&browser, IP).await;
    for host in HOSTS {
        let page = open(host).await;
        assert_seen_by(&scene, &page, None);
    }
    assert_eq!(prompts(&scene), silent(2));
}
