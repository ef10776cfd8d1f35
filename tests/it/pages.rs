//! The gateway's own pages and answers.

use crate::support::browser::Page;
use crate::support::browser_request::BrowserRequest;
use crate::support::form::links;
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, SESSION, Scene, assert_no_canary, refusal, url};

/// The fields that every page and every redirect of the gateway must have.
fn assert_hardened(page: &Page) {
    let field = |name: &str| page.field(name).unwrap_or_default();
    assert!(
        field("cache-control").contains("no-store"),
        "{}",
        page.describe()
    );
    // Other sites never get a URL of the gateway as a referrer. A URL with a code is sent to
    // nobody.
    let redirect_or_callback = page.status.is_redirection() || page.url.path().contains("callback");
    let policy = if redirect_or_callback {
        "no-referrer"
    } else {
        "same-origin"
    };
    assert_eq!(field("referrer-policy"), policy, "{}", page.describe());
    assert_eq!(
        field("x-content-type-options"),
        "nosniff",
        "{}",
        page.describe()
    );
    if page
        .field("content-type")
        .is_some_and(|kind| kind.starts_with("text/html"))
    {
        let policy = field("content-security-policy");
        assert!(policy.contains("default-src 'none'"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(field("cross-origin-opener-policy"), "same-origin");
        assert!(!page.text().contains("<script"), "{}", page.text());
    }
    assert_no_canary(page);
}

#[tokio::test]
async fn a_08_a_navigation_without_a_session_goes_to_the_provider() {
    let scene = Scene::new().await;
    let page = scene.browser().open(&url("/deep/page?x=1")).await;
    assert_eq!(page.status, 303);
    assert_hardened(&page);
    let location = page.location().unwrap();
    assert!(
        location
            .as_str()
            .starts_with(&format!("{}/authorize?", scene.provider.url()))
    );
    let asked = crate::support::provider::parameters(location.query().unwrap());
    assert_eq!(asked["response_type"], "code");
    assert_eq!(asked["client_id"], "3");
    assert_eq!(asked["redirect_uri"], "http://localhost/oauth2/callback");
    assert_eq!(asked["code_challenge_method"], "S256");
    assert_eq!(asked["code_challenge"].len(), 43);
    assert!(asked["state"].len() >= 22, "{}", asked["state"]);
    assert_eq!(scene.app.count(), 0);
}

#[tokio::test]
async fn requests_other_than_navigations_get_401_with_the_login_url() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let cases = [
        BrowserRequest::fetch(&url("/api")),
        BrowserRequest::image(&url("/favicon.ico")),
        BrowserRequest::fetch(&url("/api"))
            .method("POST")
            .body("application/json", b"{}"),
        BrowserRequest::fetch(&url("/manifest.json")).field("sec-fetch-dest", "manifest"),
        BrowserRequest::fetch(&url("/worker.js")).field("sec-fetch-dest", "serviceworker"),
        BrowserRequest::navigation(&url("/page")).field("sec-purpose", "prefetch"),
        BrowserRequest::navigation(&url("/frame")).field("sec-fetch-dest", "object"),
        BrowserRequest::navigation(&url("/form"))
            .form(&[("a", "b")])
            .from(ORIGIN),
        BrowserRequest::fetch(&url("/api")).method("DELETE"),
    ];
    for visit in cases {
        let shown = format!("{visit:?}");
        let page = browser.send(visit).await;
        assert_eq!(page.status, 401, "{shown}");
        assert_eq!(page.field("location"), None, "{shown}");
        assert!(page.set_cookies().is_empty(), "{shown}");
        assert!(page.field("www-authenticate").is_some(), "{shown}");
        assert_hardened(&page);
    }
    let page = browser.fetch(&url("/api")).await;
    assert_eq!(page.field("content-type"), Some("application/problem+json"));
    let problem = page.json();
    assert_eq!(problem["status"], 401);
    let login = problem["login_url"].as_str().unwrap();
    assert!(login.starts_with(&url("/oauth2/sign_in")), "{login}");
    assert_eq!(scene.app.count(), 0);
    // After the login at this URL, the browser is at the page that the script has requested.
    let page = browser.visit(login).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
}

/// Fails unless a request without a session, with these field lines, begins no login and sets no
/// cookie.
async fn assert_no_login(scene: &Scene, target: &str, lines: &str, status: u16) {
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
    let outcome = exchange(scene.gateway.address(), request.as_bytes(), 1).await;
    let response = &outcome.responses[0];
    assert_eq!(response.status(), status, "{request}");
    for name in ["set-cookie", "location"] {
        assert_eq!(response.head.value(name), None, "{name} for {request}");
    }
}

#[tokio::test]
async fn x_12_a_script_is_told_where_to_sign_in_and_never_redirected() {
    let scene = Scene::new().await;
    for mode in ["cors", "same-origin", "no-cors", "navigate", "websocket"] {
        for accept in ["*/*", "application/json", "text/html,*/*;q=0.8"] {
            let lines =
                format!("Sec-Fetch-Dest: empty\r\nSec-Fetch-Mode: {mode}\r\nAccept: {accept}\r\n");
            assert_no_login(&scene, "/api?x=1", &lines, 401).await;
        }
    }
    // Old browsers send no fetch metadata. A request that does not accept HTML explicitly counts as
    // the request of a script.
    for lines in ["Accept: */*\r\n", "Accept: application/json\r\n", ""] {
        assert_no_login(&scene, "/api", lines, 401).await;
    }
    assert_eq!(scene.app.count(), 0);
}

#[tokio::test]
async fn x_13_subresources_begin_no_login() {
    let scene = Scene::new().await;
    for (target, lines) in [
        (
            "/favicon.ico",
            "Sec-Fetch-Dest: image\r\nSec-Fetch-Mode: no-cors\r\nAccept: image/*\r\n",
        ),
        ("/favicon.ico", "Accept: image/webp,*/*;q=0.5\r\n"),
        ("/apple-touch-icon.png", "Accept: */*\r\n"),
        (
            "/manifest.json",
            "Sec-Fetch-Dest: manifest\r\nSec-Fetch-Mode: cors\r\nAccept: */*\r\n",
        ),
        (
            "/sw.js",
            "Sec-Fetch-Dest: serviceworker\r\nSec-Fetch-Mode: same-origin\r\nService-Worker: \
             script\r\nAccept: */*\r\n",
        ),
        (
            "/worker.js",
            "Sec-Fetch-Dest: worker\r\nSec-Fetch-Mode: same-origin\r\nAccept: */*\r\n",
        ),
        (
            "/frame",
            "Sec-Fetch-Dest: iframe\r\nSec-Fetch-Mode: navigate\r\nAccept: text/html\r\n",
        ),
        (
            "/style.css",
            "Sec-Fetch-Dest: style\r\nSec-Fetch-Mode: no-cors\r\nAccept: text/css,*/*\r\n",
        ),
    ] {
        assert_no_login(&scene, target, lines, 401).await;
    }
    assert_eq!(scene.app.count(), 0);
    assert!(scene.provider.authorizations().is_empty());
}

#[tokio::test]
async fn x_14_prefetched_pages_begin_no_login() {
    let scene = Scene::new().await;
    let page = "Accept: text/html\r\n";
    let navigation =
        "Accept: text/html\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";
    for in_advance in [
        "Sec-Purpose: prefetch",
        "Sec-Purpose: prefetch;prerender",
        "Sec-Purpose: prefetch;anonymous-client-ip",
        "Sec-Purpose: prerender",
        "Purpose: prefetch",
        "X-Moz: prefetch",
        "X-Purpose: preview",
    ] {
        for fields in [page, navigation] {
            let lines = format!("{fields}{in_advance}\r\n");
            assert_no_login(&scene, "/page", &lines, 401).await;
            assert_no_login(&scene, "/oauth2/sign_in", &lines, 403).await;
            assert_no_login(&scene, "/oauth2/sign_in?prompt=login", &lines, 403).await;
        }
    }
    assert_eq!(scene.app.count(), 0);
    // A user who then opens the page begins a login.
    let started = scene.browser().open(&url("/oauth2/sign_in")).await;
    assert_eq!(started.status, 303, "{}", started.describe());
}

#[tokio::test]
async fn a_refused_user_sees_which_account_is_signed_in() {
    let scene = Scene::new().await;
    let browser = scene.signed_in("alice").await;
    let before = scene.app.count();
    for path in ["/admin", "/admin/", "/admin/x?y", "/ADMIN"] {
        let page = browser.open(&url(path)).await;
        assert_eq!(page.status, 403, "{path}");
        assert!(page.text().contains("alice"), "{}", page.text());
        assert_hardened(&page);
    }
    assert_eq!(scene.app.count(), before);
    // `/administrator` only begins with the same letters as `/admin`, so the rule of `/admin` does
    // not apply.
    assert_eq!(browser.open(&url("/administrator")).await.status, 200);
    let problem = browser.fetch(&url("/admin/api")).await;
    assert_eq!(
        (problem.status.as_u16(), problem.json()["status"].as_u64()),
        (403, Some(403))
    );
}

#[tokio::test]
async fn only_a_verified_address_opens_a_route_for_a_mail_domain() {
    let scene = Scene::new().await;
    let browser = scene.signed_in("alice").await;
    assert_eq!(browser.open(&url("/team")).await.status, 200);
    let attempts = [
        serde_json::json!({ "email_verified": false }),
        serde_json::json!({ "email_verified": null }),
        serde_json::json!({ "email_verified": "true" }),
        serde_json::json!({ "email": "alice@evil.test" }),
        serde_json::json!({ "email": "alice@evil.test@example.com" }),
        serde_json::json!({ "email": "alice@notexample.com" }),
        serde_json::json!({ "email": "alice@example.com." }),
        serde_json::json!({ "email": "alice@ex\u{430}mple.com" }),
        serde_json::json!({ "email": null }),
    ];
    for members in attempts {
        scene.provider.user_members(members.clone());
        let browser = scene.browser_of("mallory");
        let before = scene.app.count();
        let page = browser.visit(&url("/team")).await;
        assert_eq!(page.status, 403, "{members}: {}", page.describe());
        assert_eq!(scene.app.count(), before, "{members}");
    }
}

#[tokio::test]
async fn a_group_opens_its_route() {
    let scene = Scene::new().await;
    scene
        .provider
        .user_members(serde_json::json!({ "groups": ["staff", "admins"] }));
    let browser = scene.browser_of("carol");
    let page = browser.visit(&url("/admin/panel")).await;
    assert_eq!(
        (page.status.as_u16(), page.text()),
        (200, "seen".to_owned())
    );
    assert_eq!(scene.app.last().target(), "/admin/panel");
}

#[tokio::test]
async fn a_40_our_pages_cannot_be_framed_and_echo_no_input() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let script = "%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E";
    for (path, status) in [
        ("/oauth2/sign_out".to_owned(), 200),
        ("/oauth2/signed_out".to_owned(), 200),
        ("/oauth2/callback".to_owned(), 400),
        ("/oauth2/nowhere".to_owned(), 404),
        (
            format!(
                "/oauth2/callback?error={script}&error_description={script}&error_uri={script}"
            ),
            502,
        ),
        (
            format!("/oauth2/callback?state={script}&code={script}"),
            400,
        ),
        (format!("/oauth2/sign_out?x={script}"), 200),
        (format!("/oauth2/{script}"), 400),
    ] {
        let page = browser.open(&url(&path)).await;
        assert_eq!(page.status, status, "{path}");
        assert!(page.field("content-type").unwrap().starts_with("text/html"));
        assert!(!page.text().contains("alert(1)"), "{path}: {}", page.text());
        assert_hardened(&page);
    }
    assert_eq!(scene.app.count(), 0);
}

#[tokio::test]
async fn our_own_paths_never_reach_the_app() {
    let scene = Scene::new().await;
    let browser = scene.signed_in("alice").await;
    let before = scene.app.count();
    for path in [
        "/oauth2",
        "/oauth2/",
        "/oauth2/x",
        "/OAuth2/x",
        "/oauth2/metrics",
        "/oauth2//x",
    ] {
        let page = browser.open(&url(path)).await;
        assert_ne!(page.text(), "seen", "{path}");
    }
    assert_eq!(scene.app.count(), before);
    browser.open(&url("/oauth2x")).await;
    assert_eq!(scene.app.count(), before + 1);
}

#[tokio::test]
async fn h_22_an_unknown_host_gets_nothing() {
    let scene = Scene::new().await;
    let browser = scene
        .browser()
        .leading("http://evil.test", scene.gateway.address());
    let page = browser.open("http://evil.test/").await;
    assert_eq!(page.status, 421);
    assert_eq!(
        (page.field("location"), page.set_cookies().len()),
        (None, 0)
    );
    assert_hardened(&page);
}

#[tokio::test]
async fn c_24_preflights_from_other_origins_get_no_credentials() {
    let scene = Scene::new().await;
    let browser = scene.signed_in("alice").await;
    let before = scene.app.count();
    let preflight = BrowserRequest::fetch(&url("/api"))
        .from("https://evil.test")
        .method("OPTIONS")
        .field("access-control-request-method", "POST");
    let page = browser.send(preflight).await;
    assert_eq!(page.status, 401, "{}", page.describe());
    for name in [
        "access-control-allow-origin",
        "access-control-allow-credentials",
    ] {
        assert_eq!(page.field(name), None, "{name}");
    }
    assert_eq!(scene.app.count(), before);
}

#[tokio::test]
async fn a_40_a_page_in_a_frame_asks_for_a_sign_in_in_the_whole_tab() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    for dest in ["iframe", "frame"] {
        let in_frame = BrowserRequest::navigation(&url("/inner?x=1"))
            .from(&url("/outer?y=%22"))
            .field("sec-fetch-dest", dest)
            .field("referer", &url("/outer?y=%22"));
        let page = browser.send(in_frame).await;
        assert_eq!(refusal(&page), "401 no_cookie", "{}", page.describe());
        let policy = page.field("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'"), "{policy}");
        assert!(policy.contains("frame-ancestors 'self'"), "{policy}");
        assert_eq!(page.field("x-frame-options"), Some("SAMEORIGIN"));
        assert!(
            page.text().contains(" target=\"_top\">Sign in</a>"),
            "{}",
            page.text()
        );
        let link = links(&page.text()).remove(0);
        let on_top = BrowserRequest::navigation(&url(&link.href)).from(page.url.as_str());
        let page = browser.send(on_top).await;
        let page = browser.follow_all(page).await;
        assert_eq!(page.url.as_str(), url("/outer?y=%22"));
        browser.forget(SESSION);
    }
    // The answer of a frame stores no cookies, and a long address is not used.
    let (long, longer) = (format!("/?x={}", "a".repeat(2000)), "a".repeat(9000));
    for (inner, to) in [
        ("/inner?x=1", "/inner?x=1"),
        (&*long, "/"),
        (&*format!("/?x={longer}"), "/"),
    ] {
        let in_frame = BrowserRequest::navigation(&url(inner))
            .from(ORIGIN)
            .field("sec-fetch-dest", "iframe")
            .field("referer", &url(&long));
        let page = browser.send(in_frame).await;
        assert_eq!(page.status, 401, "{}", page.describe());
        assert_eq!(page.field("x-frame-options"), Some("SAMEORIGIN"));
        assert_eq!(page.set_cookies(), Vec::<String>::new());
        let link = links(&page.text()).remove(0);
        let on_top = BrowserRequest::navigation(&url(&link.href)).from(page.url.as_str());
        let page = browser.send(on_top).await;
        let page = browser.follow_all(page).await;
        assert_eq!(page.url.as_str(), url(to));
        browser.forget(SESSION);
        browser.forget("__Host-sidegate-round");
    }
    // Other kinds of requests get a page that cannot be shown in a frame.
    for dest in ["embed", "object", "empty"] {
        let other = BrowserRequest::navigation(&url("/inner")).field("sec-fetch-dest", dest);
        let page = browser.send(other).await;
        assert_eq!(page.status, 401, "{}", page.describe());
        assert_hardened(&page);
        assert_eq!(page.field("x-frame-options"), Some("DENY"));
    }
}
