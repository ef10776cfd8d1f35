//! Routes with `keep_fragment`: the browser keeps the address of a page in the storage of its tab.
//! The tests of this file are a browser without scripts, or send the requests of the scripts. The
//! tests in `browser.rs` run the scripts in a real browser.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::form::{decode, links};
use crate::support::openid::OpenIdScene;
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, Scene, changed_at, refusal, url};
use crate::support::two_providers::TwoProviders;
use crate::support::upstream::Answer;

/// A route that keeps fragments, and a public route.
pub(crate) const KEEPS: &str = "[[routes]]\nkeep_fragment = true\n\
                                [[routes]]\nprefix = \"/public\"\naccess = \"public\"\n";

/// A path with a query of this length in total.
pub(crate) fn long_path(length: usize) -> String {
    let start = "/page?x=";
    format!("{start}{}", "a".repeat(length - start.len()))
}

/// The value of an attribute of the script.
pub(crate) fn attribute(page: &Page, name: &str) -> Option<String> {
    let text = page.text();
    let (_, rest) = text.split_once(&format!(" data-{name}=\""))?;
    Some(decode(rest.split_once('"')?.0))
}

/// Opens the page that asks for the sign-in, and signs in with its link. Returns the first page,
/// and the page that restores the address.
async fn until_restore(browser: &Browser, address: &str) -> (Page, Page) {
    let first = browser.open(address).await;
    assert_eq!(first.status, 401, "{}", first.describe());
    let next = links(&first.text()).remove(0).href;
    assert_eq!(attribute(&first, "next"), Some(next.clone()));
    let restore = browser.visit(&next).await;
    assert_eq!(restore.status, 200, "{}", restore.describe());
    let name = attribute(&first, "name");
    assert_eq!(attribute(&restore, "name"), name);
    let path = format!("/oauth2/restore/{}", name.unwrap());
    assert_eq!(restore.url.path(), path);
    (first, restore)
}

/// Sends the form that the script of the page `restore` sends.
async fn post(browser: &Browser, restore: &Page, sealed: &str) -> Page {
    let address = restore.url.join(&attribute(restore, "path").unwrap());
    let form = BrowserRequest::navigation(address.unwrap().as_str()).form(&[("page", sealed)]);
    browser.send(form.from(restore.url.as_str())).await
}

#[tokio::test]
async fn a_browser_without_scripts_returns_to_its_page() {
    let scene = Scene::with_routes(KEEPS, "").await;
    for length in [10, 1025, 5800] {
        let (browser, path) = (scene.browser(), long_path(length));
        let (first, restore) = until_restore(&browser, &url(&path)).await;
        let noscript = |page: &Page| page.text().contains("<noscript><meta");
        assert!(noscript(&first) && noscript(&restore), "{length}");
        assert_eq!(first.refresh_target(), attribute(&first, "next").unwrap());
        let page = browser.visit(&url(&restore.refresh_target())).await;
        assert_eq!(page.text(), "seen", "{length}: {}", page.describe());
        assert_eq!(page.url.as_str(), url(&path));
        assert_eq!(scene.app.last().head.value("cookie"), None);
    }
}

#[tokio::test]
async fn an_address_of_8_kb_comes_back_from_the_storage_of_the_tab() {
    let scene = Scene::with_routes(KEEPS, "").await;
    for length in [10, 8192] {
        let (browser, path) = (scene.browser(), long_path(length));
        let (first, restore) = until_restore(&browser, &url(&path)).await;
        let in_cookies = attribute(&first, "in-cookies");
        let warns = first.text().contains("cannot be kept");
        let refreshes = first.text().contains("http-equiv");
        if length == 8192 {
            assert_eq!((in_cookies, warns, refreshes), (None, true, false));
            // Without a script, the user gets to know that the address was not kept.
            let page = browser.visit(&url(&restore.refresh_target())).await;
            assert_eq!(refusal(&page), "400 page_not_saved", "{}", page.describe());
        } else {
            let expected = (Some("true".to_owned()), false, true);
            assert_eq!((in_cookies, warns, refreshes), expected);
        }
        let sealed = attribute(&first, "page").unwrap();
        let answer = post(&browser, &restore, &sealed).await;
        assert_eq!(answer.status, 303, "{}", answer.describe());
        assert_eq!(answer.field("location"), Some(&*url(&path)));
        let page = browser.follow_all(answer).await;
        assert_eq!(page.text(), "seen", "{}", page.describe());
        assert_eq!(scene.app.last().head.value("cookie"), None);
    }
}

#[tokio::test]
async fn an_address_of_more_than_8_kb_is_named_on_the_page() {
    let scene = Scene::with_routes(KEEPS, "").await;
    let page = scene.browser().open(&url(&long_path(8193))).await;
    assert_eq!(refusal(&page), "401 page_not_kept", "{}", page.describe());
    assert_eq!(attribute(&page, "page"), None);
}

#[tokio::test]
async fn a_50_only_a_page_that_the_gateway_has_sealed_for_the_tab_and_the_host_is_restored() {
    const OTHER: &str = "http://other.localhost";
    let hosts = [ORIGIN, OTHER];
    let scene = Scene::with_settings(|settings| settings.public_urls(&hosts).with(KEEPS)).await;
    let browser = scene.browser().leading(OTHER, scene.gateway.address());
    let (first, restore) = until_restore(&browser, &url("/page")).await;
    let (other_tab, other_host) = (
        scene.browser().open(&url("/a")).await,
        browser.open(&format!("{OTHER}/page")).await,
    );
    let sealed = attribute(&first, "page").unwrap();
    let foreign = [other_tab, other_host].map(|page| attribute(&page, "page"));
    let mut refused: Vec<String> = foreign.into_iter().flatten().collect();
    assert_eq!(refused.len(), 2);
    refused.extend([
        changed_at(&sealed, 20),
        format!("{sealed}="),
        sealed[..sealed.len() - 4].to_owned(),
    ]);
    let plain = [
        "",
        "/page",
        "//evil.test/",
        "https://evil.test/",
        "javascript:alert(1)",
    ];
    refused.extend(plain.map(str::to_owned));
    for text in refused {
        let page = post(&browser, &restore, &text).await;
        assert_eq!(refusal(&page), "400 page_not_saved", "{text}");
        assert_eq!(page.field("location"), None, "{text}");
    }
    let page = post(&browser, &restore, &sealed).await;
    assert_eq!(page.field("location"), Some(&*url("/page")));
}

#[tokio::test]
async fn a_50_only_a_page_of_the_gateway_sends_the_form_that_restores() {
    let scene = Scene::with_routes(KEEPS, "").await;
    let browser = scene.browser();
    let (first, restore) = until_restore(&browser, &url("/page")).await;
    let sealed = attribute(&first, "page").unwrap();
    let address = restore.url.join(&attribute(&restore, "path").unwrap());
    let address = address.unwrap();
    let form = || BrowserRequest::navigation(address.as_str()).form(&[("page", &*sealed)]);
    for foreign in ["https://evil.test/", "http://other.localhost/"] {
        let page = browser.send(form().from(foreign)).await;
        assert_eq!(
            refusal(&page),
            "403 cross_origin",
            "{foreign}: {}",
            page.describe()
        );
    }
    // A browser without `Sec-Fetch-Site` sends the origin of the page.
    let lines = |origin: &str| {
        let body = format!("page={sealed}");
        format!(
            "POST {} HTTP/1.1\r\nHost: localhost\r\n{origin}Connection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\n\r\n{body}",
            address.path(),
            body.len()
        )
    };
    for (origin, status) in [
        ("Origin: http://localhost\r\n", 303),
        ("Origin: null\r\n", 403),
        ("Origin: https://evil.test\r\n", 403),
        ("", 403),
    ] {
        let outcome = exchange(scene.gateway.address(), lines(origin).as_bytes(), 1).await;
        assert_eq!(outcome.statuses(), [status], "{origin}");
    }
}

#[tokio::test]
async fn a_50_a_page_in_the_storage_of_a_tab_is_valid_for_a_day() {
    let scene = Scene::with_routes(KEEPS, "").await;
    let browser = scene.browser();
    let (first, restore) = until_restore(&browser, &url("/page")).await;
    let sealed = attribute(&first, "page").unwrap();
    scene.gateway.advance(Duration::from_hours(24));
    let page = post(&browser, &restore, &sealed).await;
    assert_eq!(page.field("location"), Some(&*url("/page")));
    scene.gateway.advance(Duration::from_secs(1));
    let page = post(&browser, &restore, &sealed).await;
    assert_eq!(refusal(&page), "400 page_not_saved", "{}", page.describe());
}

#[tokio::test]
async fn a_50_only_the_name_of_a_tab_is_a_page_that_restores() {
    let scene = Scene::with_routes(KEEPS, "").await;
    for name in ["", "x", "0000000000000000/", "000000000000000G"] {
        let page = scene
            .browser()
            .open(&url(&format!("/oauth2/restore/{name}")))
            .await;
        assert_eq!(
            refusal(&page),
            "404 no_route",
            "{name}: {}",
            page.describe()
        );
    }
    let address = url("/oauth2/restore/0000000000000000");
    let prefetch = BrowserRequest::navigation(&address).field("sec-purpose", "prefetch");
    let page = scene.browser().send(prefetch).await;
    assert_eq!(refusal(&page), "403 prefetch", "{}", page.describe());
}

#[tokio::test]
async fn a_40_a_page_with_a_script_cannot_be_framed_and_runs_only_its_script() {
    let scene = Scene::with_routes(KEEPS, "").await;
    let browser = scene.browser();
    let path = "/page?x=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&y='--%3E";
    let (first, restore) = until_restore(&browser, &url(path)).await;
    let scripts = [first, restore].map(|page| {
        let policy = page.field("content-security-policy").unwrap().to_owned();
        let text = page.text();
        let scripts: Vec<&str> = text.split("<script").skip(1).collect();
        let [script] = &*scripts else {
            panic!("{text}");
        };
        let (_, script) = script.split_once('>').unwrap();
        let (script, _) = script.split_once("</script>").unwrap();
        let hash = STANDARD.encode(digest(&SHA256, script.as_bytes()));
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        let allowed = format!("; script-src 'sha256-{hash}'; ");
        assert!(policy.contains(&allowed), "{policy}");
        assert!(
            policy.contains("; frame-ancestors 'none'; base-uri 'none'"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(page.field("x-frame-options"), Some("DENY"));
        assert_eq!(page.field("cache-control"), Some("no-store"));
        // A popup of the app keeps its opener, as with a redirect.
        assert_eq!(page.field("cross-origin-opener-policy"), None);
        assert!(!text.contains("alert"), "{text}");
        script.to_owned()
    });
    assert_ne!(scripts[0], scripts[1]);
}

#[tokio::test]
async fn a_user_with_a_fragment_can_choose_a_provider() {
    let routes = "[[routes]]\nprovider = [\"main\", \"other\"]\nkeep_fragment = true\n";
    let two = TwoProviders::start(routes).await;
    let (browser, path) = (two.browser(), long_path(8000));
    let page = browser.open(&url(&path)).await;
    assert_eq!(page.status, 401, "{}", page.describe());
    assert_eq!(attribute(&page, "next"), None);
    let sealed = attribute(&page, "page").unwrap();
    let link = links(&page.text()).remove(0);
    let restore = browser.visit(&url(&link.href)).await;
    assert_eq!(attribute(&restore, "name"), attribute(&page, "name"));
    let page = post(&browser, &restore, &sealed).await;
    assert_eq!(page.field("location"), Some(&*url(&path)));
}

#[tokio::test]
async fn with_one_sign_in_for_several_hosts_the_host_of_the_page_keeps_the_fragment() {
    const APP: &str = "http://app.localhost";
    let settings = format!("[login]\nhost = \"{ORIGIN}\"\n{KEEPS}");
    let hosts = [ORIGIN, APP];
    let scene = Scene::with_settings(|start| start.public_urls(&hosts).with(&settings)).await;
    let browser = scene.browser().leading(APP, scene.gateway.address());
    let path = long_path(8000);
    let (first, restore) = until_restore(&browser, &format!("{APP}{path}")).await;
    assert_eq!(restore.url.origin().ascii_serialization(), APP);
    let sealed = attribute(&first, "page").unwrap();
    let answer = post(&browser, &restore, &sealed).await;
    let page = browser.follow_all(answer).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(page.url.as_str(), format!("{APP}{path}"));
}

#[tokio::test]
async fn a_program_and_a_frame_get_the_usual_answers() {
    let scene = Scene::with_routes(KEEPS, "").await;
    let browser = scene.browser();
    let frame = BrowserRequest::navigation(&url("/page")).field("sec-fetch-dest", "iframe");
    for request in [BrowserRequest::fetch(&url("/page")), frame] {
        let page = browser.send(request).await;
        assert_eq!(page.status, 401, "{}", page.describe());
        assert_eq!(attribute(&page, "page"), None);
        assert_eq!(page.set_cookies(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn an_unreachable_provider_does_not_lose_the_fragment() {
    let mut scene = OpenIdScene::with_routes(KEEPS).await;
    scene.provider.down().await;
    for length in [10, 8000] {
        let (browser, path) = (scene.browser(), long_path(length));
        let page = browser.open(&url(&path)).await;
        assert_eq!(page.status, 503, "{}", page.describe());
        // The script stores the fragment, and opens no other page.
        assert_eq!(attribute(&page, "next"), None);
        let sealed = attribute(&page, "page").unwrap();
        // The link and the retry of the page lead to the login, and not to the address without its
        // fragment.
        let link = links(&page.text()).remove(0).href;
        let text = page.text();
        let (_, refresh) = text.split_once("http-equiv=\"refresh\"").unwrap();
        let (_, refresh) = refresh.split_once(";url=").unwrap();
        assert_eq!(decode(refresh.split_once('"').unwrap().0), link);
        let again = browser.open(&url(&link)).await;
        assert_eq!(again.status, 503, "{}", again.describe());
        scene.provider.up().await;
        scene.gateway.advance(Duration::from_mins(1));
        let restore = browser.visit(&url(&link)).await;
        assert_eq!(attribute(&restore, "name"), attribute(&page, "name"));
        // A browser without scripts returns to its page, if the address is short.
        let without = browser
            .visit(&url(&attribute(&restore, "path").unwrap()))
            .await;
        let returns = without.text() == "seen";
        assert_eq!(returns, length == 10, "{}", without.describe());
        let answer = post(&browser, &restore, &sealed).await;
        assert_eq!(answer.field("location"), Some(&*url(&path)));
        scene.provider.down().await;
        scene.gateway.advance(Duration::from_hours(2));
    }
}

#[tokio::test]
async fn c_21_a_link_of_another_site_to_the_sign_out_of_the_app_does_not_end_the_new_session() {
    let routes = "[[routes]]\nkeep_fragment = true\napp_sign_out = \"/bye\"\n";
    let scene = Scene::with_routes(routes, "").await;
    let browser = scene.browser();
    let link = BrowserRequest::navigation(&url("/bye")).from("https://evil.test/");
    let page = browser.send(link).await;
    // The browser is redirected, so it remembers that another site caused the request.
    assert_eq!(page.status, 303, "{}", page.describe());
    scene
        .app
        .answer_by(|request| match request.target().as_str() {
            "/bye" => Answer::with(303, &[("Location", "/left")], ""),
            _ => Answer::ok("seen"),
        });
    let answer = browser.follow_all(page).await;
    assert_eq!(answer.url.as_str(), url("/left"), "{}", answer.describe());
    assert_eq!(scene.app.requests()[0].target(), "/bye");
    assert_eq!(browser.fetch(&url("/page")).await.text(), "seen");
}
