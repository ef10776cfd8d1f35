//! The endpoints of oauth2-proxy: links to the sign-in and to the sign-out, and health checks.

use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, SESSION, Scene, url};

const OTHER: &str = "http://other.localhost";

async fn by_get() -> Scene {
    Scene::with(|settings| settings.with("[login]\nsign_out_by_get = true\n")).await
}

#[tokio::test]
async fn a_link_to_either_sign_in_endpoint_names_the_page_after_the_sign_in() {
    let scene = Scene::new().await;
    for endpoint in ["sign_in", "start"] {
        for (asked, page) in [
            ("%2Fa%3Fb%3D1", "/a?b=1"),
            ("http%3A%2F%2Flocalhost%2Fa", "/a"),
            // Published configurations of nginx do not encode the address.
            ("http://localhost/a?b=1", "/a?b=1"),
            // TLS can end at another proxy.
            ("https://localhost/a", "/a"),
            ("http://LOCALHOST/a", "/a"),
            ("http://localhost", "/"),
            // An address that is no page of this site leads to the start page.
            ("https://evil.test/a", "/"),
            ("//evil.test/a", "/"),
            ("/%5Cevil.test", "/"),
            ("http://localhost@evil.test/a", "/"),
            ("http://localhost%5C@evil.test/a", "/"),
            ("http://localhost.evil.test/a", "/"),
            ("http://localhost:1/a", "/"),
            ("http://localhost/oauth2/sign_out", "/"),
            ("javascript:alert(1)", "/"),
        ] {
            let browser = scene.browser_of("alice");
            let link = url(&format!("/oauth2/{endpoint}?rd={asked}"));
            let seen = browser.visit(&link).await;
            assert_eq!(seen.text(), "seen", "{asked}: {}", seen.describe());
            assert_eq!(scene.app.last().target(), page, "{endpoint} {asked}");
        }
    }
}

#[tokio::test]
async fn a_login_for_a_page_at_another_host_begins_at_that_host() {
    let shared = format!("[login]\nhost = \"{ORIGIN}\"\n");
    for settings in ["", &shared] {
        let scene = Scene::with(|start| start.public_urls(&[ORIGIN, OTHER]).with(settings)).await;
        let browser = scene
            .browser_of("alice")
            .leading(OTHER, scene.gateway.address());
        let link = format!("/oauth2/start?rd={OTHER}/a&provider=main&rd=/b");
        let page = browser.open(&url(&link)).await;
        let location = page.location().unwrap();
        let start = format!("{OTHER}/oauth2/start?provider=main&rd=%2Fa");
        assert_eq!(location.as_str(), start, "{settings}");
        let page = browser.visit(&start).await;
        assert_eq!(page.text(), "seen", "{settings}: {}", page.describe());
        let last = scene.app.last();
        let host = last.head.value("host").unwrap();
        assert_eq!(
            (&*host, &*last.target()),
            ("other.localhost", "/a"),
            "{settings}"
        );
    }
}

#[tokio::test]
async fn only_a_listed_proxy_names_the_requested_page() {
    let listed = "[auth_check]\noauth2_proxy = [\"127.0.0.1\"]\n";
    for (settings, is_listed) in [(listed, true), ("", false)] {
        let scene = Scene::with(|start| start.with(settings)).await;
        let ask = async |path: &str, named: &str| {
            let visit = BrowserRequest::navigation(&url(path));
            let visit = visit.field("x-auth-request-redirect", named);
            scene.browser_of("alice").send(visit).await
        };
        let page = ask("/oauth2/sign_in", "/a?b=1").await;
        if is_listed {
            assert_eq!(page.status, 401, "{}", page.describe());
            assert!(page.field("www-authenticate").is_some());
            assert_eq!(page.refresh_target(), "/oauth2/start?rd=%2Fa%3Fb%3D1");
        } else {
            assert_eq!(page.status, 303, "{}", page.describe());
        }
        // A page of another site, an endpoint of the gateway, and a login that the user begins.
        for named in ["https://evil.test/", "//evil.test", "/oauth2/sign_in", ""] {
            let page = ask("/oauth2/sign_in", named).await;
            assert_eq!(page.status, 303, "{named}: {}", page.describe());
        }
        let browser = scene.browser_of("alice");
        let visit = BrowserRequest::navigation(&url("/oauth2/start"));
        let page = browser
            .send(visit.field("x-auth-request-redirect", "/a"))
            .await;
        browser.follow_all(page).await;
        let wanted = if is_listed { "/a" } else { "/" };
        assert_eq!(scene.app.last().target(), wanted);
    }
}

async fn get(browser: &Browser, change: impl FnOnce(BrowserRequest) -> BrowserRequest) -> Page {
    let visit = BrowserRequest::navigation(&url("/oauth2/sign_out?rd=%2Fbye"));
    browser.send(change(visit)).await
}

fn is_signed_out(browser: &Browser) -> bool {
    browser.cookie(ORIGIN, SESSION).is_none()
}

#[tokio::test]
async fn a_link_of_the_app_signs_out_by_get_if_the_settings_allow_it() {
    let scene = by_get().await;
    let browser = scene.signed_in("alice").await;
    let session = browser.cookie(ORIGIN, SESSION).unwrap();
    let page = get(&browser, |visit| visit.from(ORIGIN)).await;
    assert_eq!(
        page.location().unwrap().as_str(),
        url("/bye"),
        "{}",
        page.describe()
    );
    assert!(is_signed_out(&browser));
    // The session has ended, and not only its cookie.
    let old = BrowserRequest::fetch(&url("/api"));
    let old = old.field("cookie", &format!("{SESSION}={session}"));
    assert_eq!(scene.browser().send(old).await.status, 401);
    // A user types the address, or a script of the app sends the request.
    let browser = scene.signed_in("alice").await;
    get(&browser, |visit| visit).await;
    assert!(is_signed_out(&browser));
    let browser = scene.signed_in("alice").await;
    browser.fetch(&url("/oauth2/sign_out")).await;
    assert!(is_signed_out(&browser));
    // By default, the answer is a page that asks.
    let scene = Scene::new().await;
    let browser = scene.signed_in("alice").await;
    let page = get(&browser, |visit| visit.from(ORIGIN)).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    assert!(page.text().contains("Sign out?"), "{}", page.text());
    assert!(!is_signed_out(&browser));
}

#[tokio::test]
async fn c_21_no_other_site_and_no_image_signs_out_by_get() {
    let scene = by_get().await;
    let browser = scene.signed_in("alice").await;
    let session = browser.cookie(ORIGIN, SESSION).unwrap();
    let cookie = format!("{SESSION}={session}");
    for (fields, what) in [
        (
            &[("sec-fetch-site", "cross-site")][..],
            "a link of another site",
        ),
        (&[("sec-fetch-site", "same-site")], "a link of a sibling"),
        (&[("sec-fetch-dest", "image")], "an image of the app"),
        (&[("sec-fetch-dest", "iframe")], "a frame of the app"),
        (&[("sec-fetch-dest", "script")], "a script of the app"),
        (&[("sec-purpose", "prefetch")], "a prefetch"),
        (
            &[("sec-fetch-site", "none"), ("sec-fetch-dest", "empty")],
            "a script without a page",
        ),
    ] {
        let page = get(&browser, |visit| {
            let visit = visit.from(ORIGIN).field("cookie", &cookie);
            let names = fields.iter();
            names.fold(visit, |visit, (name, value)| visit.field(name, value))
        })
        .await;
        assert_eq!(page.status, 200, "{what}: {}", page.describe());
        assert!(page.text().contains("Sign out?"), "{what}: {}", page.text());
        assert_eq!(browser.fetch(&url("/api")).await.status, 200, "{what}");
    }
    // An older browser sends no fields of Fetch Metadata.
    for (fields, signs_out) in [
        ("", false),
        ("Referer: http://evil.test/\r\n", false),
        ("Referer: http://localhost/page\r\n", true),
    ] {
        let head = format!(
            "GET /oauth2/sign_out HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\
             Cookie: {cookie}\r\n{fields}Connection: close\r\n\r\n"
        );
        let answer = exchange(scene.gateway.address(), head.as_bytes(), 1).await;
        let cleared = !answer.responses[0].head.values("set-cookie").is_empty();
        assert_eq!(cleared, signs_out, "{fields} {answer:?}");
    }
    assert_eq!(browser.fetch(&url("/api")).await.status, 401);
}

#[tokio::test]
async fn health_checks_at_the_public_listener_need_neither_a_host_nor_a_session() {
    let scene = Scene::with(|settings| {
        let settings = settings.server("ping_path = \"/ping\"\nready_path = \"/ready\"");
        settings.with("[log]\naccess = true\n")
    })
    .await;
    let ask = async |line: &str| {
        let head = format!("{line} HTTP/1.1\r\nHost: 10.0.0.9:4180\r\nConnection: close\r\n\r\n");
        let mut outcome = exchange(scene.gateway.address(), head.as_bytes(), 1).await;
        outcome.responses.remove(0)
    };
    let metrics = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let requests = async || {
        let found = exchange(scene.gateway.operations(), metrics.as_bytes(), 1).await;
        let text = found.responses[0].text();
        let lines = text
            .lines()
            .filter(|line| line.starts_with("sidegate_requests_total{"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = requests().await;
    for line in ["GET /ping", "HEAD /ping", "GET /ready", "GET /ping?x=1"] {
        let answer = ask(line).await;
        assert_eq!(answer.status(), 200, "{line}");
        assert_eq!(
            answer.head.value("cache-control").as_deref(),
            Some("no-store")
        );
    }
    assert_eq!(ask("GET /ping").await.text(), "OK\n");
    // A health check is not in the metrics of requests.
    assert_eq!(requests().await, before);
    for line in [
        "POST /ping",
        "GET /ping/",
        "GET /%70ing",
        "GET /PING",
        "GET /pings",
    ] {
        let status = ask(line).await.status();
        assert_eq!(status, 421, "{line}");
    }
    assert_ne!(requests().await, before);
    assert_eq!(scene.app.count(), 0);
    // A reload turns the health checks off, and the paths belong to the app again.
    let mut scene = scene;
    let text = scene.gateway.settings().text();
    let text = text.replace("ping_path = \"/ping\"\n", "");
    scene.gateway.reload(&text).await.unwrap();
    let browser = scene.browser();
    assert_eq!(browser.fetch(&url("/ping")).await.status, 401);
    assert_eq!(browser.fetch(&url("/ready")).await.status, 200);
}
