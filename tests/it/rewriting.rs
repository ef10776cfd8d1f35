//! Routes whose apps do not know their public address: replaced prefixes, and replaced addresses in
//! answers.

use std::time::Duration;

use serde_json::Value;

use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::{Gateway, Process, Settings};
use crate::support::provider::StandIn;
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, SESSION, Scene, url};
use crate::support::socket::{Opening, SocketApp, switching};
use crate::support::upstream::{Answer, RecordingUpstream};

const ROUTES: &str = r#"
[[routes]]
upstream = "app"
[[routes]]
prefix = "/wiki"
upstream = "app"
rewrite = { app_prefix = "/", prefix_fields = ["X-Forwarded-Prefix", "X-Script-Name"] }
bearer = "none"
[[routes]]
prefix = "/open"
access = "public"
upstream = "app"
rewrite.app_prefix = "/assets"
[[routes]]
prefix = "/based"
upstream = "based"
[[routes]]
prefix = "/blog"
upstream = "app"
rewrite = { app_prefix = "/", locations = true, cookies = true, app_origins = ["http://blog.internal"] }
[upstreams.based]
url = "BASED/base"
"#;

async fn scene() -> (Scene, RecordingUpstream) {
    let based = RecordingUpstream::start().await;
    let routes = ROUTES.replace("BASED", &based.url());
    (Scene::with_routes(&routes, "").await, based)
}

/// Sends a request with this method, target and field lines. Returns the status of the answer and
/// its `Location`.
async fn send(gateway: &Gateway, line: &str, lines: &str) -> (u16, Option<String>) {
    let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
    let outcome = exchange(gateway.address(), request.as_bytes(), 1).await;
    let response = &outcome.responses[0];
    (response.status(), response.head.value("location"))
}

#[tokio::test]
async fn e_01_e_02_an_app_gets_its_own_paths_whatever_the_spelling_of_the_prefix_is() {
    let (scene, based) = scene().await;
    let session = format!("Cookie: {}\r\n", scene.cookie("alice").await);
    for (app, target, wanted) in [
        (&scene.app, "/wiki/", "/"),
        (
            &scene.app,
            "/wiki/a/b?x=/wiki/c&y=%zz",
            "/a/b?x=/wiki/c&y=%zz",
        ),
        (&scene.app, "/wiki/wiki/a", "/wiki/a"),
        (&scene.app, "/WIKI/a", "/a"),
        (&scene.app, "/%77iki;x=1/a;y=2", "/a;y=2"),
        (&scene.app, "/wiki./a", "/a"),
        (&scene.app, "/wikis/a", "/wikis/a"),
        (&scene.app, "/open", "/assets"),
        (&scene.app, "/open/a.css?v=1", "/assets/a.css?v=1"),
        (&based, "/based", "/base/based"),
        (&based, "/based/a?b", "/base/based/a?b"),
    ] {
        let before = app.count();
        let (status, _) = send(&scene.gateway, &format!("GET {target}"), &session).await;
        assert_eq!(status, 200, "{target}");
        assert_eq!(app.count(), before + 1, "{target}");
        assert_eq!(app.last().target(), wanted, "{target}");
    }
    let before = scene.app.count();
    for (target, status) in [
        ("/wiki//evil.test/a", 400),
        ("/wiki/../admin", 400),
        ("/wiki/%2e%2e/admin", 400),
        ("/wiki/..;/admin", 400),
        ("/wiki%2f..%2fadmin", 400),
        ("/wiki/%2fevil.test", 400),
        ("/wiki\\evil.test", 400),
        ("/wiki/a/..//evil.test", 400),
    ] {
        let answer = send(&scene.gateway, &format!("GET {target}"), &session).await;
        assert_eq!(answer, (status, None), "{target}");
    }
    assert_eq!(scene.app.count(), before);
}

#[tokio::test]
async fn a_request_for_the_prefix_itself_leads_to_the_prefix_with_a_slash() {
    let (scene, _based) = scene().await;
    let session = format!("Cookie: {}\r\n", scene.cookie("alice").await);
    let before = scene.app.count();
    for (line, wanted) in [
        ("GET /wiki", "/wiki/"),
        ("HEAD /wiki", "/wiki/"),
        ("GET /wiki?a=/b", "/wiki/?a=/b"),
        ("GET /WIKI;x", "/WIKI;x/"),
    ] {
        let answer = send(&scene.gateway, line, &session).await;
        assert_eq!(answer, (308, Some(url(wanted))), "{line}");
    }
    assert_eq!(scene.app.count(), before);
    // The rule of the route decides first.
    let (status, _) = send(&scene.gateway, "GET /wiki", "").await;
    assert_eq!(status, 401);
    let (status, _) = send(&scene.gateway, "POST /wiki", &session).await;
    assert_eq!(status, 200);
    assert_eq!(scene.app.last().head.start_line(), "POST / HTTP/1.1");
}

#[tokio::test]
async fn e_04_the_app_learns_its_prefix_only_from_the_gateway() {
    let (scene, _based) = scene().await;
    let session = format!("Cookie: {}\r\n", scene.cookie("alice").await);
    let forged: String = [
        "X-Forwarded-Prefix",
        "x_forwarded_prefix",
        "X.Forwarded.Prefix",
        "X-Script-Name",
        "x_script_name",
        "SCRIPT_NAME",
        "Script.Name",
        "PATH_INFO",
        "Path-Info",
    ]
    .map(|name| format!("{name}: /evil\r\n"))
    .concat();
    for (target, wanted) in [
        ("/wiki/a", Some("/wiki")),
        ("/WIKI;x/a", Some("/wiki")),
        ("/blog/a", None),
        ("/open/a", None),
        ("/other", None),
    ] {
        let lines = format!("{session}{forged}Connection: X-Forwarded-Prefix, X-Script-Name\r\n");
        let (status, _) = send(&scene.gateway, &format!("GET {target}"), &lines).await;
        assert_eq!(status, 200, "{target}");
        let head = scene.app.last().head;
        let text = String::from_utf8_lossy(&head.bytes).into_owned();
        assert!(!text.contains("evil"), "{target}: {text}");
        for name in ["x-forwarded-prefix", "x-script-name"] {
            assert_eq!(head.values(name), Vec::from_iter(wanted), "{target} {name}");
        }
    }
}

#[tokio::test]
async fn e_05_e_06_e_07_a_browser_gets_public_addresses_and_no_cookie_of_the_gateway() {
    let (scene, _based) = scene().await;
    let browser = scene.signed_in("alice").await;
    let app = scene.app.url();
    let answer = |fields: &[(&str, &str)]| scene.app.next(Answer::with(302, fields, ""));
    for (location, wanted) in [
        ("/login?next=/a", url("/blog/login?next=/a")),
        (&format!("{app}/login"), url("/blog/login")),
        ("http://blog.internal/login", url("/blog/login")),
        ("https://localhost/login", url("/blog/login")),
        ("/oauth2/sign_out", "/oauth2/sign_out".to_owned()),
        (&url("/blog/login"), url("/blog/login")),
        ("login", "login".to_owned()),
        ("//evil.test/", "//evil.test/".to_owned()),
        ("https://evil.test/", "https://evil.test/".to_owned()),
    ] {
        answer(&[("Location", location)]);
        let page = browser.fetch(&url("/blog/a")).await;
        assert_eq!(page.field("location"), Some(&*wanted), "{location}");
        assert_eq!(scene.app.last().target(), "/a");
    }
    let before = browser.cookie(ORIGIN, SESSION);
    let forged = format!("{SESSION}=evil; Path=/; Secure");
    answer(&[
        ("Location", "/b"),
        ("Content-Location", "/b.html"),
        ("Refresh", "5; url=/c"),
        ("Set-Cookie", "a=1; Path=/; Domain=blog.internal"),
        ("Set-Cookie", &forged),
        ("Set-Cookie", "b=2; Path=/b; HttpOnly"),
    ]);
    let page = browser.fetch(&url("/blog/a")).await;
    assert_eq!(page.field("content-location"), Some(&*url("/blog/b.html")));
    assert_eq!(
        page.field("refresh"),
        Some(&*format!("5; url={}", url("/blog/c")))
    );
    assert_eq!(
        page.set_cookies(),
        ["a=1; Path=/blog", "b=2; Path=/blog/b; HttpOnly"]
    );
    assert_eq!(browser.cookie(ORIGIN, SESSION), before);
    // The addresses of other routes stay unchanged.
    answer(&[("Location", "/login"), ("Set-Cookie", "a=1; Path=/")]);
    let page = browser.fetch(&url("/wiki/a")).await;
    assert_eq!(page.field("location"), Some("/login"));
    assert_eq!(page.set_cookies(), ["a=1; Path=/"]);
}

#[tokio::test]
async fn a_second_attempt_has_the_same_path_and_public_addresses() {
    let routes = "[[routes]]\nprefix = \"/wiki\"\non_upstream_401 = \"refresh_and_retry\"\n\
                  rewrite = { app_prefix = \"/\", locations = true }\n[[routes]]\n";
    let scene = Scene::with_routes(routes, "").await;
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(Duration::from_secs(30));
    let before = scene.app.count();
    scene.app.next(Answer::with(401, &[], "dead"));
    scene.app.next(Answer::with(302, &[("Location", "/b")], ""));
    let visit = BrowserRequest::fetch(&url("/wiki/a?b")).method("POST");
    let page = browser.send(visit.body("text/plain", b"text")).await;
    assert_eq!(page.field("location"), Some(&*url("/wiki/b")));
    let requests = scene.app.requests().split_off(before);
    let seen: Vec<_> = requests
        .iter()
        .map(|request| (request.head.start_line(), request.body.clone()))
        .collect();
    let sent = ("POST /a?b HTTP/1.1".to_owned(), b"text".to_vec());
    assert_eq!(seen, [sent.clone(), sent]);
}

#[tokio::test]
async fn a_handshake_has_the_path_of_the_app_and_public_addresses() {
    let (sockets, provider) = (SocketApp::start().await, StandIn::start().await);
    let app = RecordingUpstream::start().await;
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url()).with(&format!(
        "[[routes]]\nupstream = \"app\"\n[[routes]]\nprefix = \"/chat\"\nupstream = \"sockets\"\n\
         rewrite = {{ app_prefix = \"/\", cookies = true }}\n[upstreams.sockets]\nurl = \"{}/v1\"\n",
        sockets.url()
    ));
    let scene = Scene {
        gateway: Gateway::start(settings),
        provider,
        app,
    };
    let cookie = scene.cookie("alice").await;
    // A handshake for the prefix itself is not redirected.
    for (path, wanted) in [("/chat/room?x", "/v1/room?x"), ("/chat", "/v1/")] {
        let opening = Opening::at(path).of_browser(&cookie);
        let answering = opening.answer(scene.gateway.address());
        let switch = async {
            let (head, mut end) = sockets.accept().await;
            let answer = switching().replacen(
                "\r\n",
                "\r\nSet-Cookie: a=1; Path=/v1/\r\nSet-Cookie: b=1; Path=/\r\n",
                1,
            );
            end.send(answer).await;
            (head, end)
        };
        let ((answer, _client), (head, _app)) = tokio::join!(answering, switch);
        assert_eq!(head.start_line(), format!("GET {wanted} HTTP/1.1"));
        assert_eq!(answer.status(), 101);
        assert_eq!(
            answer.values("set-cookie"),
            ["a=1; Path=/chat", "b=1; Path=/chat"]
        );
    }
}

#[tokio::test]
async fn the_access_log_has_the_public_path() {
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    let route = "[[routes]]\nprefix = \"/wiki\"\naccess = \"public\"\nrewrite.app_prefix = \"/\"\n";
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url()).with(route);
    let process = Process::start(settings).await;
    let request = b"GET /wiki/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let outcome = exchange(process.address(), request, 1).await;
    assert_eq!(outcome.statuses(), [200]);
    assert_eq!(app.last().target(), "/a");
    let is_request = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["url.path"] == "/wiki/a"
    };
    process
        .wait_for_log(|log| log.lines().any(is_request))
        .await;
}
