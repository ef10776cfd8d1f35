//! Accidents and misuse: host names that change, environment variables, redirects of the app,
//! missing routes, requests that imitate users.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

use crate::support::browser::Browser;
use crate::support::browser_request::BrowserRequest;
use crate::support::certificates::Authority;
use crate::support::encrypted::Encrypted;
use crate::support::gateway::{Gateway, PROGRAM, Settings};
use crate::support::provider::StandIn;
use crate::support::raw::{Raw, Response, exchange};
use crate::support::scene::{ORIGIN, ROUTES, Scene, assert_refused, refusal, url};
use crate::support::upstream::{Answer, RecordingUpstream};

/// Sends one request on a new connection.
async fn answer(address: SocketAddr, request: &str) -> Response {
    let mut outcome = exchange(address, request.as_bytes(), 1).await;
    outcome
        .responses
        .pop()
        .unwrap_or_else(|| panic!("no answer to {request}"))
}

#[tokio::test]
async fn x_02_a_hijacked_provider_name_gets_neither_code_nor_secret() {
    let authority = Authority::new();
    let provider = StandIn::start().await;
    let app = RecordingUpstream::start().await;
    let at = provider.url();
    let behind = at.strip_prefix("http://").unwrap().parse().unwrap();
    let server = Encrypted::start(&authority.identity(&["localhost"]), behind).await;
    let settings = Settings::new(ORIGIN, &at, &app.url()).with(ROUTES);
    let (ca, secret) = (
        settings.file("ca.crt", &authority.pem()),
        settings.file("secret", "s3cret-canary\n"),
    );
    let settings = settings.provider(&format!(
        "[providers.main]\nprofile = \"oauth2\"\nclient_id = \"3\"\nca_file = \"{ca}\"\n\
         client_secret_file = \"{secret}\"\nauthorization_endpoint = \"{at}/authorize\"\n\
         token_endpoint = \"https://localhost:{0}/token\"\n\
         userinfo_endpoint = \"https://localhost:{0}/userinfo\"\nidentity.source = \"userinfo\"\n",
        server.port
    ));
    let scene = Scene {
        gateway: Gateway::start(settings),
        provider,
        app,
    };
    for (authority, name) in [
        (&authority, "other.example"),
        (&authority, "127.0.0.1"),
        (&Authority::new(), "localhost"),
    ] {
        server.present(&authority.identity(&[name]));
        let browser = scene.browser();
        let page = browser.visit(&url("/")).await;
        assert_refused(&scene, &browser, &page, "503 provider_unreachable", name);
        assert_eq!(scene.provider.exchanges().len(), 0, "{name}");
    }
    // Each new connection resolves the name again and checks the certificate again.
    server.present(&authority.identity(&["localhost"]));
    // After a failure, the gateway stops calling the server for a while.
    scene.gateway.advance(Duration::from_secs(5));
    assert_eq!(scene.browser().visit(&url("/")).await.text(), "seen");
    assert_eq!(scene.provider.exchanges().len(), 1);
    let seen = scene.app.count();
    server.present(&authority.identity(&["other.example"]));
    let page = scene.browser().visit(&url("/")).await;
    assert_eq!(
        refusal(&page),
        "503 provider_unreachable",
        "{}",
        page.describe()
    );
    assert_eq!(
        (scene.provider.exchanges().len(), scene.app.count()),
        (1, seen)
    );
}

/// Runs a test in a separate process, because the test changes the environment of the process.
#[tokio::test]
async fn x_03_proxy_variables_have_no_effect_on_this_machine() {
    let trap = RecordingUpstream::start().await;
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([
        "--exact",
        "login::a_login_ends_on_the_page_that_was_asked_for",
    ]);
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        child.env(name, trap.url());
        child.env(name.to_uppercase(), trap.url());
    }
    let output = child.env_remove("NO_PROXY").output().await.unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("1 passed"), "{shown}");
    assert_eq!(trap.connections(), 0);
}

#[tokio::test]
async fn x_04_a_redirect_of_the_app_is_passed_on_and_never_followed() {
    let scene = Scene::new().await;
    let internal = RecordingUpstream::start().await;
    let cookie = scene.cookie("alice").await;
    for location in [
        format!("{}/latest/meta-data/", internal.url()),
        format!("//{}/x", internal.address()),
        format!("{}/admin", scene.app.url()),
        "/relative?a=b#c".to_owned(),
    ] {
        for (status, method) in [
            (301, "GET"),
            (302, "POST"),
            (303, "PUT"),
            (307, "POST"),
            (308, "DELETE"),
        ] {
            let before = scene.app.count();
            scene
                .app
                .next(Answer::with(status, &[("Location", &location)], "moved"));
            let request = format!(
                "{method} /x HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\nContent-Length: 4\r\n\r\nbody"
            );
            let response = answer(scene.gateway.address(), &request).await;
            assert_eq!(response.status(), status, "{location}");
            assert_eq!(response.head.values("location"), [location.as_str()]);
            assert_eq!(response.text(), "moved");
            assert_eq!(scene.app.count(), before + 1, "{status} {location}");
        }
    }
    assert_eq!(internal.connections(), 0);
}

#[tokio::test]
async fn x_06_a_variable_with_an_unknown_key_is_refused() {
    let settings = Settings::new(ORIGIN, "http://127.0.0.1:1", "http://127.0.0.1:2");
    let path = settings.write();
    let check = async |name: &str, value: &str| {
        let mut program = Command::new(PROGRAM);
        program.args([Path::new("check"), Path::new("--config"), &path]);
        let output = program.env(name, value).output().await.unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), said)
    };
    let (code, said) = check("SIDEGATE__SESSION__IDLE_SECS", "600").await;
    assert_eq!(code, Some(0), "{said}");
    for (name, hint) in [
        ("SIDEGATE__SESSION__IDLE_SEC", "idle_secs"),
        ("SIDEGATE__SESION__IDLE_SECS", "session"),
        ("SIDEGATE__PROVIDERS__MAIN__CLIENTID", "client_id"),
    ] {
        let (code, said) = check(name, "600").await;
        assert_eq!(code, Some(78), "{name}: {said}");
        assert!(said.contains(hint), "{name}: {said}");
    }
}

/// Paths that other gateways, or operators, often treat as public.
const TARGETS: &[&str] = &[
    "/",
    "//",
    "/.",
    "/%2e%2e/",
    "/public/x",
    "/static/app.js",
    "/assets/a.css",
    "/login",
    "/logout",
    "/health",
    "/healthz",
    "/metrics",
    "/robots.txt",
    "/favicon.ico",
    "/.well-known/security.txt",
    "/.well-known/acme-challenge/x",
    "/api/v1/users?public=1",
    "/a%2fb",
    "/;x",
    "/index.html;.js",
    "/x?access=public",
    "/OAUTH2x",
    "/oauth2x/callback",
    "http://localhost/absolute",
    "*",
];

#[tokio::test]
async fn x_08_without_routes_every_request_needs_a_session() {
    let provider = StandIn::start().await;
    let app = RecordingUpstream::start().await;
    let gateway = Gateway::start(Settings::new(ORIGIN, &provider.url(), &app.url()));
    let refused = async |method: &str, target: &str, lines: &str| {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
        let response = answer(gateway.address(), &request).await;
        let status = response.status();
        let to_provider = response
            .head
            .value("location")
            .is_some_and(|to| to.starts_with(&provider.url()));
        // The gateway itself answers `OPTIONS *` with 204.
        let about_all = (status, method, target) == (204, "OPTIONS", "*");
        assert!(
            about_all
                || (400..500).contains(&status)
                || status == 501
                || (status == 303 && to_provider),
            "{status} to {request}"
        );
    };
    for target in TARGETS {
        for method in [
            "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "TRACE", "FOO",
        ] {
            refused(method, target, "").await;
        }
        for lines in [
            "Accept: text/html\r\n",
            "Authorization: Bearer x\r\nX-Forwarded-User: root\r\n",
            "Origin: https://evil.test\r\nAccess-Control-Request-Method: GET\r\n",
            "Cookie: __Host-sidegate=x\r\n",
            "X-Original-URL: /public\r\nX-HTTP-Method-Override: OPTIONS\r\n",
            "Upgrade: websocket\r\nConnection: Upgrade\r\n",
        ] {
            refused("GET", target, lines).await;
            refused("OPTIONS", target, lines).await;
        }
    }
    assert_eq!((app.connections(), app.count()), (0, 0));
    // The setup works: a signed-in user reaches the app.
    let browser = Browser::new().leading(ORIGIN, gateway.address());
    assert_eq!(browser.visit(&url("/public/x")).await.text(), "seen");
}

#[tokio::test]
async fn x_10_a_request_without_a_session_is_never_replayed() {
    const MARK: &str = "transfer-all-the-money";
    let scene = Scene::new().await;
    let browser = scene.browser();
    let form = BrowserRequest::navigation(&url("/form"))
        .form(&[("order", MARK)])
        .from(&url("/form"))
        .field("referer", &url("/form"));
    let json = BrowserRequest::fetch(&url("/api"))
        .method("PUT")
        .body("application/json", format!("\"{MARK}\"").as_bytes());
    for visit in [form, json] {
        let page = browser.send(visit.clone()).await;
        assert_eq!(page.status, 401, "{}", page.describe());
        assert_eq!(page.field("location"), None);
        assert!(page.set_cookies().is_empty() && !page.text().contains(MARK));
    }
    assert_eq!(scene.app.count(), 0);
    let page = browser.visit(&url("/form")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    let arrived = scene.app.requests();
    assert_eq!(arrived.len(), 1);
    assert_eq!(
        (arrived[0].method(), arrived[0].body.len()),
        ("GET".to_owned(), 0)
    );
    let asked = format!(
        "{:?}{:?}",
        scene.provider.authorizations(),
        scene.provider.exchanges()
    );
    assert!(!asked.contains(MARK), "{asked}");
}

/// A field of a request or response that must be forwarded unchanged.
type Field = (&'static str, &'static str);

/// Status, fields of the request, fields of the response, body of the response.
type Exchange = (u16, &'static [Field], &'static [Field], &'static str);

const EXCHANGES: [Exchange; 5] = [
    (
        206,
        &[("Range", "bytes=0-3, -1"), ("If-Range", "W/\"v1\"")],
        &[("Content-Range", "bytes 0-3/10"), ("ETag", "W/\"v1\"")],
        "part",
    ),
    (
        416,
        &[("Range", "bytes=99-")],
        &[("Content-Range", "bytes */10"), ("Accept-Ranges", "bytes")],
        "none",
    ),
    (
        200,
        &[("If-None-Match", "\"v0\"")],
        &[
            ("ETag", "\"v1\""),
            ("Vary", "Accept-Encoding"),
            ("Cache-Control", "max-age=60"),
            ("Last-Modified", "Mon, 19 Jan 2026 03:14:07 GMT"),
        ],
        "whole",
    ),
    (
        412,
        &[
            ("If-Match", "\"v0\""),
            ("If-Unmodified-Since", "Mon, 19 Jan 2026 03:14:07 GMT"),
        ],
        &[("ETag", "\"v1\"")],
        "changed",
    ),
    (206, &[("Range", "bytes=4-")], &[("ETag", "\"v1\"")], "rest"),
];

#[tokio::test]
async fn x_11_range_and_conditional_fields_are_forwarded_unchanged() {
    let scene = Scene::new().await;
    let people = [
        String::new(),
        format!("Cookie: {}\r\n", scene.cookie("alice").await),
        format!("Cookie: {}\r\n", scene.cookie("bob").await),
    ];
    for cookie in people {
        let mut raw = Raw::connect(scene.gateway.address()).await;
        for (status, asked, said, body) in EXCHANGES {
            scene.app.next(Answer::with(status, said, body));
            let lines = asked
                .iter()
                .flat_map(|(name, value)| [*name, ": ", *value, "\r\n"]);
            let lines: String = lines.collect();
            raw.send(format!(
                "GET /public/x HTTP/1.1\r\nHost: localhost\r\n{cookie}{lines}\r\n"
            ))
            .await;
            let response = raw.response("GET").await.unwrap();
            assert_eq!(
                (response.status(), response.text()),
                (status, body.to_owned())
            );
            let arrived = scene.app.last();
            for (name, value) in asked {
                assert_eq!(arrived.head.values(name), [*value], "{name}");
            }
            // No shared cache may store the answer to a user.
            let control = said.iter().find(|(name, _)| *name == "Cache-Control");
            let control = control.map(|(_, value)| (*value).to_owned());
            let control = match (cookie.is_empty(), control) {
                (true, control) => control,
                (false, Some(control)) => Some(format!("private, {control}")),
                (false, None) => Some("private".to_owned()),
            };
            assert_eq!(response.head.value("cache-control"), control);
            for name in ["etag", "vary", "content-range", "last-modified"] {
                let app = said.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
                let app: Vec<_> = app.map(|(_, value)| *value).collect();
                assert_eq!(response.head.values(name), app, "{name}");
            }
            assert!(response.head.values("set-cookie").is_empty());
        }
        not_modified(&scene, &mut raw, &cookie).await;
    }
}

/// A 304 response has no body although the response has a length, and the connections stay open.
async fn not_modified(scene: &Scene, raw: &mut Raw, cookie: &str) {
    for method in ["GET", "HEAD"] {
        let connections = scene.app.connections();
        scene.app.next(Answer::raw(
            b"HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\nContent-Length: 5\r\n\r\n",
        ));
        let condition = "If-None-Match: W/\"v0\", \"v1\"\r\n";
        raw.send(format!(
            "{method} /public/x HTTP/1.1\r\nHost: localhost\r\n{cookie}{condition}\r\n"
        ))
        .await;
        let response = raw.response(method).await.unwrap();
        assert_eq!((response.status(), response.text()), (304, String::new()));
        assert_eq!(response.head.values("etag"), ["\"v1\""]);
        let arrived = scene.app.last();
        assert_eq!(arrived.head.values("if-none-match"), ["W/\"v0\", \"v1\""]);
        raw.send(format!(
            "GET /public/y HTTP/1.1\r\nHost: localhost\r\n{cookie}\r\n"
        ))
        .await;
        assert_eq!(raw.response("GET").await.unwrap().text(), "seen");
        assert_eq!(scene.app.connections(), connections);
    }
}
