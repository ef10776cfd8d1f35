//! One sign-in for several hosts: tickets, host ids and wildcards.

mod providers;
pub(crate) mod sign_out;
mod tickets;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::form::links;
use crate::support::gateway::{Gateway, Settings};
use crate::support::provider::{Endpoint, parameters};
use crate::support::raw::exchange;
use crate::support::scene::{ROUTES, SESSION, Scene, refusal};
use crate::support::upstream::Answer;
use crate::support::webdriver::Chromium;

/// The login host.
pub(crate) const LOGIN: &str = "http://localhost";
/// Hosts that share the sessions of the login host. The hosts `IP` and `LOGIN` have no common
/// domain.
const APP: &str = "http://app.localhost";
pub(crate) const IP: &str = "http://127.0.0.1";
/// A host of the wildcard.
const WILD: &str = "http://one.apps.localhost";

pub(crate) const HOSTS: [&str; 4] = [LOGIN, APP, IP, WILD];

pub(crate) fn shared(settings: Settings) -> Settings {
    let urls = [LOGIN, APP, IP, "http://*.apps.localhost"];
    let settings = settings.public_urls(&urls);
    settings.with(&format!("[login]\nhost = \"{LOGIN}\"\n"))
}

async fn scene() -> Scene {
    Scene::with(shared).await
}

/// A browser that reaches the gateway at all its hosts.
fn browser(gateway: &Gateway) -> Browser {
    browser_at(gateway.address())
}

/// A browser that reaches the gateway at `address` at all its hosts.
fn browser_at(address: SocketAddr) -> Browser {
    HOSTS.iter().fold(Browser::new(), |browser, host| {
        browser.leading(host, address)
    })
}

/// A browser whose user is signed in at the host `at`.
async fn signed_in(scene: &Scene, at: &str, user: &str) -> Browser {
    let addresses = (scene.gateway.address(), &*scene.provider.url());
    signed_in_at(at, addresses, user).await
}

/// A browser whose user is signed in at the host `at`. `provider` is the URL of the provider.
pub(crate) async fn signed_in_at(
    at: &str,
    (gateway, provider): (SocketAddr, &str),
    user: &str,
) -> Browser {
    let browser = browser_at(gateway);
    browser.plant(provider, &format!("user={user}; Path=/"));
    let page = browser.visit(&format!("{at}/")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    browser
}

/// The status of a request with this session cookie.
async fn status(scene: &Scene, host: &str, id: &str) -> u16 {
    let host = host.trim_start_matches("http://");
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nCookie: {SESSION}={id}\r\n\r\n");
    let outcome = exchange(scene.gateway.address(), request.as_bytes(), 1).await;
    outcome.responses[0].status()
}

#[tokio::test]
async fn one_sign_in_serves_all_hosts() {
    let scene = scene().await;
    let browser = browser(&scene.gateway);
    let page = browser.visit(&format!("{APP}/page?x=%22&y=1")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(page.url.as_str(), "http://app.localhost/page?x=%22&y=1");
    let asked = scene.provider.authorizations();
    let asked = parameters(asked[0].query().unwrap());
    assert_eq!(asked["redirect_uri"], format!("{LOGIN}/oauth2/callback"));
    for host in HOSTS {
        let page = browser.visit(&format!("{host}/page")).await;
        assert_eq!(page.text(), "seen", "{}", page.describe());
        assert_eq!(page.url.as_str(), format!("{host}/page"));
        let seen = scene.app.last().head.value("host").unwrap();
        assert_eq!(format!("http://{seen}"), host);
    }
    assert_eq!(scene.provider.authorizations().len(), 1);
    assert_eq!(scene.provider.exchanges().len(), 1);
    let ids = HOSTS.map(|host| browser.cookie(host, SESSION).unwrap());
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 4, "{ids:?}");
    scene.wait_for_figure("sidegate_sessions", 1).await;
    // Only the session cookie and the counter of logins remain.
    for host in HOSTS {
        let names = browser.cookies(host).into_iter().map(|cookie| cookie.name);
        let others: Vec<_> = names
            .filter(|name| name.len() > SESSION.len() + 8)
            .collect();
        assert_eq!(others, Vec::<String>::new(), "{host}");
    }
}

#[tokio::test]
async fn one_sign_in_serves_all_hosts_if_the_provider_posts_its_answers() {
    let key = "[providers.main.authorization_request]\nresponse_mode = \"form_post\"\n";
    let scene = Scene::with(|settings| shared(settings).with(key)).await;
    scene.provider.post_answers();
    let browser = browser(&scene.gateway);
    let form = browser.visit(&format!("{APP}/page?x=1")).await;
    let answer = browser.submit(&form, &form.login_form(), &[]).await;
    let page = browser.follow_all(answer).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(page.url.as_str(), format!("{APP}/page?x=1"));
    let page = browser.visit(&format!("{IP}/")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
}

#[tokio::test]
async fn a_31_two_hosts_with_posted_answers_have_one_session() {
    let key = "[providers.main.authorization_request]\nresponse_mode = \"form_post\"\n";
    let scene = Scene::with(|settings| shared(settings).with(key)).await;
    scene.provider.post_answers();
    let browser = browser(&scene.gateway);
    // Both logins begin before the first one ends.
    let forms = [
        browser.visit(&format!("{APP}/page")).await,
        browser.visit(&format!("{IP}/page")).await,
    ];
    for (form, host) in forms.iter().zip([APP, IP]) {
        let answer = browser.submit(form, &form.login_form(), &[]).await;
        let page = browser.follow_all(answer).await;
        assert_eq!(page.text(), "seen", "{}", page.describe());
        assert_eq!(page.url.as_str(), format!("{host}/page"));
    }
    scene.wait_for_figure("sidegate_sessions", 1).await;
    let ids = [LOGIN, APP, IP].map(|host| (host, browser.cookie(host, SESSION).unwrap()));
    sign_out::sign_out(&browser, APP).await;
    for (host, id) in &ids {
        assert_eq!(status(&scene, host, id).await, 401, "{host}");
    }
}

#[tokio::test]
async fn a_31_answers_for_two_hosts_at_the_same_moment_open_one_session() {
    let scene = scene().await;
    let browser = browser(&scene.gateway);
    let [first, second] = [
        until_callback(&browser, APP).await,
        until_callback(&browser, IP).await,
    ];
    let hold = scene.provider.hold(Endpoint::Token);
    let answers = async { tokio::join!(browser.follow(&first), browser.follow(&second)) };
    let release = async {
        scene.provider.wait_for(Endpoint::Token, 1).await;
        hold.release();
    };
    let ((first, second), ()) = tokio::join!(answers, release);
    for (answer, host) in [(first, APP), (second, IP)] {
        let page = browser.follow_all(answer).await;
        assert_eq!(page.text(), "seen", "{}", page.describe());
        assert_eq!(page.url.as_str(), format!("{host}/page"));
    }
    assert_eq!(scene.provider.exchanges().len(), 1);
    assert_eq!(scene.provider.authorizations().len(), 2);
    scene.wait_for_figure("sidegate_sessions", 1).await;
    let ids = [LOGIN, APP, IP].map(|host| (host, browser.cookie(host, SESSION).unwrap()));
    sign_out::sign_out(&browser, IP).await;
    for (host, id) in &ids {
        assert_eq!(status(&scene, host, id).await, 401, "{host}");
    }
}

/// Begins a login at `host`. Returns the answer of the provider, whose redirect leads to the
/// callback.
async fn until_callback(browser: &Browser, host: &str) -> Page {
    let mut page = browser.open(&format!("{host}/page")).await;
    loop {
        let next = page
            .location()
            .unwrap_or_else(|| panic!("{}", page.describe()));
        if next.path() == "/oauth2/callback" {
            return page;
        }
        page = browser.follow(&page).await;
    }
}

#[tokio::test]
async fn a_real_browser_has_one_sign_in_for_all_hosts() {
    let scene = scene().await;
    scene.app.answer_by(|request| {
        let html = [("Content-Type", "text/html")];
        let host = request.head.value("host").unwrap();
        let user = request.head.value("x-forwarded-user");
        Answer::with(200, &html, &format!("<p>{user:?} at {host}"))
    });
    let browser = Chromium::leading("*:80", scene.gateway.address()).await;
    let path = format!("/page?x={}", "a".repeat(5000));
    // The host `IP` has no common domain with the other hosts.
    for host in [APP, WILD, IP, LOGIN] {
        browser.open(&format!("{host}{path}")).await;
        let text = browser.wait_for(|url| url.ends_with(&path)).await;
        let host = host.trim_start_matches("http://");
        assert_eq!(text, format!("Some(\"alice\") at {host}"));
    }
    assert_eq!(scene.provider.exchanges().len(), 1);
    browser.open(&format!("{WILD}/oauth2/sign_out")).await;
    browser
        .run("document.querySelector('form button').click()")
        .await;
    browser.wait_for(|url| url.ends_with("signed_out")).await;
    for host in [APP, WILD, IP, LOGIN] {
        browser.open(&format!("{host}/public/after")).await;
        let status = browser.promise("fetch('/api').then(r => r.status)").await;
        assert_eq!(status, 401, "{host}");
    }
}

#[tokio::test]
async fn a_shared_login_returns_to_a_page_with_a_long_address() {
    let scene = scene().await;
    let browser = browser(&scene.gateway);
    let path = format!("/page?x={}", "a".repeat(5000));
    let page = browser.visit(&format!("{APP}{path}")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(page.url.as_str(), format!("{APP}{path}"));
}

#[tokio::test]
async fn the_rules_of_routes_apply_at_every_host() {
    let scene = scene().await;
    let browser = signed_in(&scene, APP, "alice").await;
    let page = browser.visit(&format!("{IP}/admin")).await;
    assert_eq!(refusal(&page), "403 rule", "{}", page.describe());
    let page = browser.visit(&format!("{WILD}/public")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
}

#[tokio::test]
async fn a_program_gets_the_login_url_of_its_own_host() {
    let scene = scene().await;
    let browser = browser(&scene.gateway);
    let page = browser.fetch(&format!("{APP}/api")).await;
    assert_eq!(page.status, 401);
    let login_url = page.json()["login_url"].as_str().unwrap().to_owned();
    assert_eq!(login_url, format!("{APP}/oauth2/sign_in"));
    let page = browser
        .send(BrowserRequest::navigation(&login_url).field("referer", &format!("{APP}/list")))
        .await;
    let page = browser.follow_all(page).await;
    assert_eq!(page.url.as_str(), format!("{APP}/list"));
}

#[tokio::test]
async fn all_hosts_share_one_refresh() {
    let scene = scene().await;
    scene.provider.token_members(json!({ "expires_in": 60 }));
    let browser = signed_in(&scene, APP, "alice").await;
    browser.visit(&format!("{IP}/")).await;
    for number in 2..4 {
        scene.gateway.advance(Duration::from_secs(61));
        for host in [IP, APP, LOGIN] {
            let page = browser.fetch(&format!("{host}/page")).await;
            assert_eq!(page.text(), "seen", "{}", page.describe());
            let bearer = scene.app.last().head.value("authorization").unwrap();
            assert!(bearer.ends_with(&format!(".{number}")), "{bearer}");
        }
        assert_eq!(scene.provider.refreshes().len(), number - 1);
    }
}

#[tokio::test]
async fn a_login_as_somebody_else_ends_the_session_of_all_hosts() {
    let scene = scene().await;
    let browser = signed_in(&scene, APP, "alice").await;
    browser.visit(&format!("{IP}/")).await;
    let alice = browser.cookie(IP, SESSION).unwrap();
    browser.plant(&scene.provider.url(), "user=bob; Path=/");
    let page = browser
        .visit(&format!("{APP}/oauth2/sign_in?prompt=login"))
        .await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(status(&scene, IP, &alice).await, 401);
    browser.visit(&format!("{IP}/")).await;
    let user = scene.app.last().head.value("x-forwarded-user");
    assert_eq!(user.as_deref(), Some("bob"));
}

#[tokio::test]
async fn a_failed_sign_in_leads_back_to_the_page_of_the_other_host() {
    let scene = scene().await;
    let browser = browser(&scene.gateway);
    let start = browser.open(&format!("{APP}/page")).await;
    let login = browser.follow(&start).await;
    let asked = parameters(login.location().unwrap().query().unwrap());
    let refused = format!(
        "{LOGIN}/oauth2/callback?error=access_denied&state={}",
        asked["state"]
    );
    let page = browser.open(&refused).await;
    assert_eq!(refusal(&page), "403 access_denied", "{}", page.describe());
    let hrefs: Vec<_> = links(&page.text())
        .into_iter()
        .map(|link| link.href)
        .collect();
    assert_eq!(hrefs, [format!("{APP}/page")]);
}

#[tokio::test]
async fn a_failed_repeated_sign_in_leads_back_to_a_repeated_sign_in() {
    let scene = scene().await;
    let browser = signed_in(&scene, APP, "alice").await;
    let start = browser
        .open(&format!("{APP}/oauth2/sign_in?prompt=login"))
        .await;
    let login = browser.follow(&start).await;
    let asked = parameters(login.location().unwrap().query().unwrap());
    let refused = format!(
        "{LOGIN}/oauth2/callback?error=access_denied&state={}",
        asked["state"]
    );
    let page = browser.open(&refused).await;
    let href = links(&page.text()).remove(0).href;
    let again = format!("{APP}/oauth2/sign_in?provider=main&prompt=login&to=");
    assert!(href.starts_with(&again), "{href}");
    let page = browser.visit(&href).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
}

/// Settings that keep keys and sessions in `folder`.
fn on_disk(folder: &Path) -> String {
    let keys = folder.join("keys");
    std::fs::write(&keys, format!("{}=\n", "A".repeat(43))).unwrap();
    format!(
        "state_key_file = \"{}\"\n[session.store.disk]\nfile = \"{}\"\n",
        keys.display(),
        folder.join("sessions").display()
    )
}

/// Stops the gateway, and starts a gateway with the same settings.
async fn restarted(scene: Scene, stored: &str) -> Scene {
    let Scene {
        gateway,
        provider,
        app,
    } = scene;
    let clock = gateway.clock().clone();
    gateway.drain().await;
    let settings = Settings::new(LOGIN, &provider.url(), &app.url()).with(ROUTES);
    let gateway = Gateway::with_clock(shared(settings).with(stored), clock);
    Scene {
        gateway,
        provider,
        app,
    }
}

#[tokio::test]
async fn host_ids_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let stored = on_disk(folder.path());
    let before = Scene::with(|settings| shared(settings).with(&stored)).await;
    let browser = signed_in(&before, APP, "alice").await;
    let id = browser.cookie(APP, SESSION).unwrap();
    let after = restarted(before, &stored).await;
    assert_eq!(status(&after, APP, &id).await, 200);
    assert_eq!(status(&after, IP, &id).await, 401);
}

#[tokio::test]
async fn a_34_a_shared_login_without_effect_stops_with_a_page_after_three_rounds() {
    let scene = scene().await;
    let browser = browser(&scene.gateway);
    let mut rounds = 0;
    let mut page = browser.open(&format!("{APP}/")).await;
    while page.status.is_redirection() {
        page = browser.follow(&page).await;
        if browser.cookie(APP, SESSION).is_some() {
            // The browser loses the session cookie of the host after each ticket.
            browser.plant(APP, &format!("{SESSION}=; Path=/; Secure; Max-Age=0"));
            rounds += 1;
        }
        assert!(rounds < 10, "endless redirects");
    }
    assert_eq!(rounds, 3, "{}", page.describe());
    assert_eq!(refusal(&page), "400 login_loop", "{}", page.describe());
    assert_eq!(scene.provider.exchanges().len(), 1);
}

#[tokio::test]
async fn a_48_an_id_of_one_host_is_useless_at_another_host() {
    let scene = scene().await;
    let browser = signed_in(&scene, APP, "alice").await;
    browser.visit(&format!("{IP}/")).await;
    let ids = [LOGIN, APP, IP].map(|host| (host, browser.cookie(host, SESSION).unwrap()));
    for (host, id) in &ids {
        for other in HOSTS {
            let expected = if other == *host { 200 } else { 401 };
            assert_eq!(
                status(&scene, other, id).await,
                expected,
                "{host} at {other}"
            );
            // The connection remembers the session of the first request.
            let ask = |host: &str| {
                let host = host.trim_start_matches("http://");
                format!("GET / HTTP/1.1\r\nHost: {host}\r\nCookie: {SESSION}={id}\r\n\r\n")
            };
            let both = [ask(host), ask(other)].concat();
            let outcome = exchange(scene.gateway.address(), both.as_bytes(), 2).await;
            assert_eq!(outcome.statuses(), [200, expected], "{host}, then {other}");
        }
    }
}

#[tokio::test]
async fn a_49_a_wildcard_serves_exactly_one_label() {
    let scene = scene().await;
    let status = |host: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let address = scene.gateway.address();
        async move { exchange(address, request.as_bytes(), 1).await.statuses() }
    };
    assert_eq!(status("two.apps.localhost").await, [401]);
    assert_eq!(status("TWO.apps.localhost:80").await, [401]);
    for host in [
        "apps.localhost",
        "a.b.apps.localhost",
        "evilapps.localhost",
        "two.apps.localhost.evil.test",
        "two.apps.localhost:8080",
    ] {
        assert_eq!(status(host).await, [421], "{host}");
    }
}
