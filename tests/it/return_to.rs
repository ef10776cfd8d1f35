//! The page after a login: the requested page, and never another origin.

use std::time::Duration;

use crate::fragments::long_path;
use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::form::links;
use crate::support::gateway::{Process, Settings};
use crate::support::provider::{StandIn, parameters};
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, SESSION, Scene, refusal, url};
use crate::support::two_providers::TwoProviders;
use crate::support::upstream::RecordingUpstream;

#[tokio::test]
async fn a_36_parameters_of_a_sign_in_change_nothing_of_the_request() {
    let scene = Scene::new().await;
    let evil = "?iss=https://evil.test&target_link_uri=https://evil.test/&login_hint=x&scope=admin\
                &redirect_uri=https://evil.test/&client_id=9&state=s&rd=//evil.test&next=//evil.test";
    let browser = scene.browser();
    let page = browser.open(&url(&format!("/oauth2/sign_in{evil}"))).await;
    let location = page.location().unwrap();
    assert!(!location.as_str().contains("evil"), "{location}");
    let asked = parameters(location.query().unwrap());
    assert_eq!(asked["login_hint"], "x");
    let known = [
        "client_id",
        "code_challenge",
        "code_challenge_method",
        "login_hint",
        "redirect_uri",
        "response_type",
        "state",
    ];
    assert!(asked.keys().eq(known.iter()), "{asked:?}");
    assert_eq!(
        (asked["client_id"].as_str(), asked["redirect_uri"].as_str()),
        ("3", "http://localhost/oauth2/callback")
    );
    let page = browser.follow(&page).await;
    let page = browser.follow(&page).await;
    assert_eq!(page.field("location"), Some("http://localhost/"));
}

#[tokio::test]
async fn a_36_an_invalid_login_hint_is_left_out() {
    let scene = Scene::new().await;
    for hint in ["", "a%0d%0ab", "a%00", &"a".repeat(257)] {
        let address = url(&format!("/oauth2/sign_in?login_hint={hint}"));
        let page = scene.browser().open(&address).await;
        let asked = parameters(page.location().unwrap().query().unwrap());
        assert!(!asked.contains_key("login_hint"), "{hint}: {asked:?}");
    }
}

#[tokio::test]
async fn a_36_a_sign_in_sends_the_listed_parameters_to_the_provider() {
    let passed = "authorization_request.pass_parameters = [\"ui_locales\", \"kc_idp_hint\"]\n\
                  authorization_request.parameters = { ui_locales = \"fr\" }\n";
    let scene = Scene::with(|settings| settings.of_provider(passed)).await;
    let link = "/oauth2/sign_in?ui_locales=de&ui_locales=de-CH+de&kc_idp_hint=a%26b&login_hint=x";
    let page = scene.browser().open(&url(link)).await;
    let asked = parameters(page.location().unwrap().query().unwrap());
    assert_eq!(asked["ui_locales"], "de-CH de");
    assert_eq!(asked["kc_idp_hint"], "a&b");
    assert!(!asked.contains_key("login_hint"), "{asked:?}");
    // The query of a protected page belongs to the app.
    let page = scene
        .browser()
        .open(&url("/page?ui_locales=de&kc_idp_hint=x"))
        .await;
    let asked = parameters(page.location().unwrap().query().unwrap());
    assert_eq!(asked["ui_locales"], "fr");
    assert!(!asked.contains_key("kc_idp_hint"), "{asked:?}");
}

#[tokio::test]
async fn a_37_the_code_is_gone_from_the_address() {
    let scene = Scene::new().await;
    let page = scene.browser().visit(&url("/page")).await;
    assert_eq!(page.url.as_str(), "http://localhost/page");
}

#[tokio::test]
async fn r_paths_that_browsers_read_as_other_hosts_never_lead_to_another_origin() {
    let scene = Scene::new().await;
    let address = scene.gateway.address();
    let mut logins = Vec::new();
    for target in [
        "//evil.test",
        "///evil.test",
        "/\\evil.test",
        "/%09/evil.test",
        "/%5cevil.test",
        "/%2f%2fevil.test",
        "/.//evil.test",
        "/a/..//evil.test",
        "/%2e%2e//evil.test",
        "//evil.test/%2f..",
        "/%252f%252fevil.test",
        "http://evil.test/",
        "/%0d%0aSet-Cookie:%20a=b",
        "/https://evil.test",
        "/redirect?u=//evil.test",
        "/a?x=https://evil.test",
        "/",
    ] {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Mode: navigate\r\n\
             Sec-Fetch-Dest: document\r\nAccept: text/html\r\n\r\n"
        );
        let mut outcome = exchange(address, request.as_bytes(), 1).await;
        let response = outcome.responses.pop().unwrap();
        if response.status() == 400 {
            continue;
        }
        assert_eq!(response.status(), 303, "{target}");
        logins.push(target);
        // The request began a login. The test completes the login in a browser with the same
        // cookies.
        let browser = scene.browser();
        for cookie in response.head.values("set-cookie") {
            browser.plant(ORIGIN, &cookie);
        }
        let page = browser
            .open(&response.head.value("location").unwrap())
            .await;
        let page = browser.follow(&page).await;
        let to = page.location().unwrap();
        assert_eq!(
            to.origin().ascii_serialization(),
            ORIGIN,
            "{target} led to {to}"
        );
        assert!(
            page.field("location")
                .unwrap()
                .starts_with("http://localhost/"),
            "{target}"
        );
    }
    // All other targets were refused before the login began.
    assert_eq!(
        logins,
        ["/redirect?u=//evil.test", "/a?x=https://evil.test", "/"]
    );
}

/// The `Path` of the cookies that save a page, and the cookies as `NAME=VALUE`.
fn saved(page: &Page) -> (String, Vec<String>) {
    let cookies = page.set_cookies().into_iter();
    let saved: Vec<_> = cookies
        .filter(|text| text.starts_with("__Secure-sidegate-page-"))
        // The cookies of the oldest saved pages are deleted.
        .filter(|text| !text.contains("Max-Age=0"))
        .map(|text| {
            let (pair, attributes) = text.split_once("; Path=").unwrap();
            let (path, rest) = attributes.split_once("; ").unwrap();
            assert_eq!(rest, "Max-Age=1200; Secure; HttpOnly; SameSite=Lax");
            assert!(pair.len() <= 4096, "{}", pair.len());
            (path.to_owned(), pair.to_owned())
        })
        .collect();
    let path = saved.first().unwrap().0.clone();
    assert!(saved.iter().all(|(other, _)| *other == path), "{saved:?}");
    (path, saved.into_iter().map(|(_, pair)| pair).collect())
}

#[tokio::test]
async fn a_login_returns_to_a_page_with_a_long_address() {
    let scene = Scene::new().await;
    for length in [1024, 1025, 2900, 3100, 5800] {
        let (browser, path) = (scene.browser(), long_path(length));
        let start = browser.open(&url(&path)).await;
        let location = start.location().unwrap();
        assert!(location.as_str().len() < 2500, "{length}: {location}");
        let page = browser.follow_all(start).await;
        assert_eq!(page.text(), "seen", "{length}: {}", page.describe());
        assert_eq!(page.url.as_str(), url(&path));
        let seen = scene.app.last();
        assert_eq!(seen.target(), path);
        assert_eq!(seen.head.value("cookie"), None);
    }
}

#[tokio::test]
async fn two_tabs_with_long_addresses_return_to_their_own_pages() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let paths = [2000, 4000].map(long_path);
    let mut starts = Vec::new();
    for path in &paths {
        starts.push(browser.open(&url(path)).await);
    }
    for (start, path) in starts.into_iter().zip(&paths) {
        let (own, _) = saved(&start);
        let page = browser.follow_all(start).await;
        assert_eq!(page.url.as_str(), url(path));
        // Only the session cookie and the counter of logins remain.
        let left = browser.cookies(&url(&own)).into_iter();
        let left: Vec<_> = left.filter(|c| c.name.starts_with("__Secure-")).collect();
        assert_eq!(left, []);
    }
}

#[tokio::test]
async fn c_12_a_browser_keeps_at_most_twenty_saved_pages() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let mut endpoints = Vec::new();
    for number in 0..25 {
        // The oldest page is the page whose login has begun first.
        scene.gateway.advance(Duration::from_secs(1));
        let start = browser
            .open(&url(&format!("{}{number}", long_path(2000))))
            .await;
        endpoints.push(saved(&start).0);
    }
    let is_saved = |endpoint: &String| {
        let cookies = browser.cookies(&url(endpoint)).into_iter();
        cookies
            .filter(|cookie| cookie.name.starts_with("__Secure-"))
            .count()
            == 1
    };
    let expected = [[false; 5].as_slice(), &[true; 20]].concat();
    assert_eq!(endpoints.iter().map(is_saved).collect::<Vec<_>>(), expected);
    let markers = browser.cookies(ORIGIN).into_iter();
    let markers = markers.filter(|cookie| cookie.name.starts_with("__Host-sidegate-page-"));
    assert_eq!(markers.count(), 20);
}

#[tokio::test]
async fn a_user_with_a_long_address_can_choose_a_provider() {
    let routes = "[[routes]]\nprovider = [\"main\", \"other\"]\n";
    let two = TwoProviders::start(routes).await;
    let (browser, path) = (two.browser(), long_path(5000));
    let page = browser.open(&url(&path)).await;
    assert_eq!(page.status, 401, "{}", page.describe());
    let link = links(&page.text()).remove(0);
    assert!(link.href.len() < 1000, "{}", link.href);
    let page = browser.visit(&url(&link.href)).await;
    assert_eq!(page.url.as_str(), url(&path));
}

#[tokio::test]
async fn an_address_that_cannot_be_kept_is_named_on_the_page() {
    let scene = Scene::new().await;
    let (small, large) = (scene.browser(), scene.browser());
    for name in ["one", "two"] {
        large.plant(ORIGIN, &format!("{name}={}; Path=/", "x".repeat(3900)));
    }
    for (browser, length) in [(&small, 8193), (&small, 7000), (&large, 1025)] {
        let page = browser.open(&url(&long_path(length))).await;
        assert_eq!(refusal(&page), "401 page_not_kept", "{}", page.describe());
        assert!(page.text().contains("too long"), "{}", page.text());
        assert_eq!(page.set_cookies(), Vec::<String>::new());
        let link = links(&page.text()).remove(0);
        let sign_in = BrowserRequest::navigation(&url(&link.href)).from(page.url.as_str());
        let start = browser.send(sign_in).await;
        let page = browser.follow_all(start).await;
        assert_eq!(page.url.as_str(), url("/"));
        browser.forget(SESSION);
        browser.forget("__Host-sidegate-round");
    }
}

#[tokio::test]
async fn a_repeated_sign_in_with_an_address_that_cannot_be_kept_is_still_repeated() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let sign_in = BrowserRequest::navigation(&url("/oauth2/sign_in?prompt=login"));
    let page = browser
        .send(sign_in.field("referer", &url(&long_path(7000))))
        .await;
    assert_eq!(refusal(&page), "401 page_not_kept", "{}", page.describe());
    let href = links(&page.text()).remove(0).href;
    assert!(href.contains("prompt=login"), "{href}");
}

#[tokio::test]
async fn a_page_to_which_no_login_returns_is_named_before_the_login() {
    let scene = Scene::new().await;
    let page = scene.browser().open(&url("/javascript:/x")).await;
    assert_eq!(refusal(&page), "401 page_not_kept", "{}", page.describe());
    assert!(page.text().contains("cannot be kept"), "{}", page.text());
}

#[tokio::test]
async fn a_50_cookies_of_a_sibling_do_not_hide_a_saved_page() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let path = long_path(2000);
    let start = browser.open(&url(&path)).await;
    let (endpoint, cookies) = saved(&start);
    let tab = endpoint.rsplit('/').next().unwrap();
    assert_eq!(cookies.len(), 1);
    for name in ["0", "1", &format!("{tab}-1")] {
        let cookie = format!("__Secure-sidegate-page-{name}=x; Path=/; Secure");
        browser.plant(ORIGIN, &cookie);
    }
    let page = browser.follow_all(start).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(page.url.as_str(), url(&path));
}

#[tokio::test]
async fn a_50_a_saved_page_of_another_tab_or_host_is_refused() {
    const OTHER: &str = "http://other.localhost";
    let scene = Scene::with(|settings| settings.public_urls(&[ORIGIN, OTHER])).await;
    let starts = [scene.browser(), scene.browser()]
        .map(|browser| async move { saved(&browser.open(&url(&long_path(2000))).await) });
    let [one, two] = starts;
    let ((one, cookies), (two, _)) = (one.await, two.await);
    let planted = |origin: &str, path: &str| {
        let browser = scene.browser().leading(OTHER, scene.gateway.address());
        for cookie in &cookies {
            browser.plant(origin, &format!("{cookie}; Path={path}; Secure"));
        }
        browser
    };
    let page = planted(ORIGIN, &one).open(&url(&one)).await;
    assert_eq!(page.field("location"), Some(&*url(&long_path(2000))));
    for (origin, path) in [
        (ORIGIN, two.as_str()),
        (OTHER, &one),
        (ORIGIN, "/oauth2/return/0000000000000000"),
        (ORIGIN, "/oauth2/return/x"),
        (ORIGIN, "/oauth2/return/"),
    ] {
        let page = planted(origin, path).open(&format!("{origin}{path}")).await;
        assert_eq!(refusal(&page), "400 page_not_saved", "{origin}{path}");
        assert_eq!(page.field("location"), None);
    }
    let page = scene.browser().open(&url(&one)).await;
    assert_eq!(refusal(&page), "400 page_not_saved", "{}", page.describe());
}

#[tokio::test]
async fn the_log_says_if_a_sign_in_cannot_return_to_the_page_of_the_user() {
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url());
    let process = Process::start_with(settings, "level = \"debug\"\n").await;
    let browser = Browser::new().leading(ORIGIN, process.address());
    // The events of the first two requests are in the log before the event of the last request.
    for asked in ["%2Fpage", "%2F%2Fevil.test%2F..%2F", "%2Fa%2F..%2Fb"] {
        let page = browser
            .open(&url(&format!("/oauth2/sign_in?rd={asked}")))
            .await;
        assert_eq!(page.status, 303, "{}", page.describe());
    }
    let logged = |log: &str| log.matches("Page not kept").count() == 1;
    process.wait_for_log(logged).await;
    assert!(!process.log().contains("evil.test"), "{}", process.log());
}
