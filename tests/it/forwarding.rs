//! Forwarding of requests and responses.

use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::Notify;

use crate::support::browser::Browser;
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::{Gateway, PROGRAM, Process, Settings};
use crate::support::provider::StandIn;
use crate::support::raw::{Raw, exchange};
use crate::support::scene::{ORIGIN, ROUTES, SESSION, Scene, assert_no_canary, url};
use crate::support::upstream::{Answer, RecordingUpstream};

#[tokio::test]
async fn every_method_and_its_body_pass() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    for method in [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "REPORT",
    ] {
        let visit = BrowserRequest::fetch(&url("/public/x?a=b&a=c")).method(method);
        let body: &[u8] = match method {
            "GET" | "HEAD" | "OPTIONS" => b"",
            _ => b"some body",
        };
        let visit = if body.is_empty() {
            visit
        } else {
            visit.body("text/plain", body)
        };
        let page = browser.send(visit).await;
        let shown = if method == "HEAD" { "" } else { "seen" };
        assert_eq!(
            (page.status.as_u16(), page.text().as_str()),
            (200, shown),
            "{method}"
        );
        let last = scene.app.last();
        assert_eq!(
            (last.method().as_str(), last.target().as_str()),
            (method, "/public/x?a=b&a=c")
        );
        assert_eq!(
            (last.body.as_slice(), last.complete),
            (body, true),
            "{method}"
        );
    }
}

#[tokio::test]
async fn the_chunked_body_of_a_get_is_forwarded() {
    let scene = Scene::new().await;
    let mut client = Raw::connect(scene.gateway.address()).await;
    client
        .send(
            "GET /public/search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\
             Connection: close\r\n\r\n5\r\nquery\r\n0\r\n\r\n",
        )
        .await;
    let responses = client.until_closed().await;
    assert_eq!(responses[0].status(), 200);
    assert_eq!(scene.app.last().body, b"query");
}

#[tokio::test]
async fn bodies_stream_in_both_directions() {
    let scene = Scene::without_buffers().await;
    let gate = Arc::new(Notify::new());
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
    let rest = b"6\r\nsecond\r\n0\r\n\r\n";
    scene
        .app
        .next(Answer::raw(head).early().then_await(&gate).then_send(rest));
    let mut raw = Raw::connect(scene.gateway.address()).await;
    raw.send("POST /public/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    raw.send("3\r\none\r\n").await;
    // The beginning of the answer arrives before the end of the request's body, and the beginning
    // of the body arrives before the end of the answer.
    while !String::from_utf8_lossy(raw.seen()).contains("first") {
        assert!(raw.more().await, "closed");
    }
    assert!(!String::from_utf8_lossy(raw.seen()).contains("second"));
    raw.send("3\r\ntwo\r\n0\r\n\r\n").await;
    gate.notify_one();
    let response = raw.response("POST").await.unwrap();
    assert_eq!(
        (response.text().as_str(), response.body.complete),
        ("firstsecond", true)
    );
    scene
        .app
        .wait_until(|requests| requests[0].complete && requests[0].body == b"onetwo")
        .await;
}

#[tokio::test]
async fn d_06_a_slow_reader_slows_the_app_down() {
    let scene = Scene::new().await;
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let mut answer = Answer::raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let end = Arc::new(Notify::new());
    for _ in 0..2000 {
        answer = answer.then_send(chunk.as_bytes());
    }
    scene
        .app
        .next(answer.then_notify(&end).then_send(b"0\r\n\r\n"));
    let mut raw = Raw::connect(scene.gateway.address()).await;
    raw.send("GET /public/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert!(raw.more().await);
    // 131 MB do not fit in sockets and buffers, so the app blocks until the client reads.
    let early = tokio::time::timeout(Duration::from_secs(2), end.notified()).await;
    assert!(early.is_err(), "the gateway took the whole response");
    let response = raw.response("GET").await.unwrap();
    assert_eq!(
        (response.body.complete, response.body.bytes.len()),
        (true, 2000 * 0x10000)
    );
}

#[tokio::test]
async fn a_truncated_response_is_truncated_for_the_client_too() {
    let scene = Scene::new().await;
    for answer in [
        Answer::raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").then_close(),
        Answer::raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").then_reset(),
        Answer::raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            .then_close(),
        Answer::raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n"),
    ] {
        scene.app.next(answer);
        let request = "GET /public/x HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let outcome = exchange(scene.gateway.address(), request.as_bytes(), 9).await;
        assert!(outcome.closed, "left open");
        // The gateway forwards the part of the body that arrived, and marks the body as incomplete.
        let [response] = &outcome.responses[..] else {
            panic!("{:?}", outcome.statuses())
        };
        assert_eq!(
            (
                response.status(),
                response.text().as_str(),
                response.body.complete
            ),
            (200, "half", false)
        );
    }
}

#[tokio::test]
async fn a_broken_app_gives_502_as_page_or_problem() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    for answer in [
        Answer::raw(b"garbage that is no HTTP\r\n\r\n").then_close(),
        Answer::raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")
            .then_close(),
        Answer::raw(b"HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n").then_close(),
        Answer::silence().then_close(),
        Answer::silence().then_reset(),
        Answer::raw(b"HTTP/1.1 200 OK\r\nContent-Le").then_close(),
    ] {
        scene.app.next(answer.clone());
        let page = browser
            .send(BrowserRequest::fetch(&url("/public/x")).method("POST"))
            .await;
        assert_eq!(page.status, 502, "{}", page.describe());
        assert_eq!(page.field("content-type"), Some("application/problem+json"));
        assert_no_canary(&page);
    }
    scene.app.next(Answer::raw(b"garbage\r\n\r\n").then_close());
    let page = browser.open(&url("/public/x")).await;
    assert_eq!(page.status, 502);
    assert!(page.field("content-type").unwrap().starts_with("text/html"));
}

#[tokio::test]
async fn an_app_that_is_not_there_gives_502_and_keeps_the_session() {
    let mut scene = Scene::new().await;
    let browser = scene.signed_in("alice").await;
    let address = scene.app.stop().await;
    let page = browser.fetch(&url("/x")).await;
    assert_eq!(page.status, 502, "{}", page.describe());
    scene.app = RecordingUpstream::at(address).await;
    let page = browser.fetch(&url("/x")).await;
    assert_eq!(
        (page.status.as_u16(), page.text()),
        (200, "seen".to_owned())
    );
}

#[tokio::test]
async fn f_08_an_app_without_an_address_gets_502_with_its_reason() {
    let provider = StandIn::start().await;
    let settings = Settings::new(ORIGIN, &provider.url(), "http://no-such-host.invalid")
        .with("[[routes]]\nprefix = \"/\"\naccess = \"public\"\n");
    let gateway = Gateway::start(settings);
    let mut client = Raw::connect(gateway.address()).await;
    client
        .send("GET / HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n")
        .await;
    let answer = client.response("GET").await.unwrap();
    assert_eq!(answer.status(), 502);
    assert!(
        answer.text().contains("upstream_unreachable"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn an_app_that_says_nothing_gives_504() {
    let scene = Scene::with(|settings| settings.app("response_timeout_secs = 1")).await;
    scene.app.next(Answer::silence());
    let page = scene.browser().fetch(&url("/public/x")).await;
    assert_eq!(page.status, 504, "{}", page.describe());
    assert_eq!(page.json()["status"], 504);
}

#[tokio::test]
async fn requests_beyond_the_connection_limit_wait_in_order_and_then_get_503() {
    let scene =
        Scene::with(|settings| settings.app("connections = 1\nqueue = 1\nqueue_wait_secs = 60"))
            .await;
    let gate = Arc::new(Notify::new());
    scene.app.next(Answer::ok("first").held_by(&gate));
    let visit =
        |browser: Browser| tokio::spawn(async move { browser.fetch(&url("/public/x")).await });
    let first = visit(scene.browser());
    scene.app.wait_until(|requests| requests.len() == 1).await;
    let (mut one, mut two) = (visit(scene.browser()), visit(scene.browser()));
    // One request waits, and the other request is refused at once.
    let (turned_away, waiting) = tokio::select! {
        page = &mut one => (page.unwrap(), two),
        page = &mut two => (page.unwrap(), one),
    };
    assert_eq!(turned_away.status, 503);
    gate.notify_one();
    assert_eq!(first.await.unwrap().text(), "first");
    assert_eq!(waiting.await.unwrap().text(), "seen");
    assert_eq!(scene.app.most_connections(), 1);
}

#[tokio::test]
async fn s_33_a_safe_request_survives_a_connection_that_the_app_had_closed() {
    let scene = Scene::new().await;
    // One connection belongs to one worker, and so uses one pool of connections to the app.
    let mut raw = Raw::connect(scene.gateway.address()).await;
    let mut get = async |path: &str| {
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
            .await;
        let response = raw.response("GET").await.unwrap();
        (response.status(), response.text())
    };
    let seen = (200, "seen".to_owned());
    assert_eq!(get("/public/first").await, seen);
    // The app resets the connection when it gets the next request.
    scene.app.next(Answer::silence().then_reset());
    assert_eq!(get("/public/again").await, seen);
    let arrived = scene.app.requests();
    let arrived: Vec<_> = arrived
        .iter()
        .map(|request| (request.target(), request.connection))
        .collect();
    assert_eq!(
        arrived,
        [
            ("/public/first".to_owned(), 0),
            ("/public/again".to_owned(), 0),
            ("/public/again".to_owned(), 1),
        ]
    );
    // A reset of a new connection is not caused by a stale connection, so the request is not sent
    // again.
    scene.app.next(Answer::ok("seen").then_close());
    assert_eq!(get("/public/last").await, seen);
    scene.app.wait_until_unconnected().await;
    scene.app.next(Answer::silence().then_reset());
    assert_eq!(get("/public/broken").await.0, 502);
    assert_eq!(scene.app.count(), arrived.len() + 2);
}

#[tokio::test]
async fn d_05_a_body_that_announces_too_much_is_refused_unread() {
    let scene = Scene::with(|settings| settings.server("body_mib = 1")).await;
    let head = "POST /public/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n\r\n";
    let outcome = exchange(scene.gateway.address(), head.as_bytes(), 1).await;
    assert_eq!((outcome.statuses(), scene.app.count()), (vec![413], 0));
    let mut raw = Raw::connect(scene.gateway.address()).await;
    raw.send("POST /public/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    for _ in 0..40 {
        raw.send(format!("10000\r\n{}\r\n", "x".repeat(0x10000)))
            .await;
    }
    let refused = raw
        .response("POST")
        .await
        .expect("closed without an answer");
    assert_eq!(refused.status(), 413);
    // The app got no more than the limit, and no end of the body.
    scene.app.wait_until_unconnected().await;
    let arrived = scene.app.requests();
    assert_eq!(arrived.len(), 1);
    assert!(!arrived[0].complete && arrived[0].body.len() <= 1024 * 1024);
}

#[tokio::test]
async fn routes_end_at_segments_and_the_longest_wins() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    for open in ["/public", "/public/", "/public/x", "/public?x"] {
        assert_eq!(browser.fetch(&url(open)).await.status, 200, "{open}");
    }
    let before = scene.app.count();
    for closed in [
        "/publicly",
        "/public.",
        "/PUBLIC/x",
        "/publi",
        "/",
        "/admin/public/",
    ] {
        assert_eq!(browser.fetch(&url(closed)).await.status, 401, "{closed}");
    }
    assert_eq!(scene.app.count(), before);
}

#[tokio::test]
async fn s_47_white_space_before_the_colon_of_an_answer_is_removed() {
    let scene = Scene::new().await;
    for (answer, body) in [
        ("Server : old\r\nContent-Length: 4\r\n\r\nbody", "body"),
        // A field that frames the answer keeps its meaning.
        ("Server\t: old\r\nContent-Length : 4\r\n\r\nbody", "body"),
        (
            "Server : old\r\nTransfer-Encoding : chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
            "body",
        ),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{answer}");
        scene.app.next(Answer::raw(answer.as_bytes()));
        let request = "GET /public HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let outcome = exchange(scene.gateway.address(), request.as_bytes(), 1).await;
        assert_eq!(outcome.statuses(), [200], "{answer}");
        let response = &outcome.responses[0];
        assert_eq!(response.text(), body, "{answer}");
        assert_eq!(response.head.value("server").as_deref(), Some("old"));
        let head = String::from_utf8_lossy(&response.head.bytes).to_lowercase();
        assert!(!head.contains(" :") && !head.contains("\t:"), "{head}");
    }
}

#[tokio::test]
async fn field_names_begin_with_capital_letters_if_the_app_needs_them() {
    for (setting, name) in [
        ("", "\r\nx-forwarded-host: localhost\r\n"),
        (
            "title_case_fields = true",
            "\r\nX-Forwarded-Host: localhost\r\n",
        ),
    ] {
        let scene = Scene::with(|settings| settings.app(setting)).await;
        let request = "GET /public HTTP/1.1\r\nHost: localhost\r\nx-own: a\r\n\r\n";
        let outcome = exchange(scene.gateway.address(), request.as_bytes(), 1).await;
        assert_eq!(outcome.statuses(), [200]);
        let head = scene.app.last().head;
        let head = String::from_utf8_lossy(&head.bytes);
        assert!(head.contains(name), "{head}");
        assert_eq!(
            head.contains("\r\nX-Own: a\r\n"),
            !setting.is_empty(),
            "{head}"
        );
    }
}

#[tokio::test]
async fn field_names_begin_with_capital_letters_if_the_clients_need_them() {
    for (setting, names) in [
        ("", ["\r\nx-own: a\r\n", "\r\nset-cookie: b=1\r\n"]),
        (
            "title_case_fields = true",
            ["\r\nX-Own: a\r\n", "\r\nSet-Cookie: b=1\r\n"],
        ),
    ] {
        let scene = Scene::with(|settings| settings.server(setting)).await;
        let fields = [("x-own", "a"), ("set-cookie", "b=1")];
        scene.app.next(Answer::with(200, &fields, "body"));
        let request = "GET /public HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let outcome = exchange(scene.gateway.address(), request.as_bytes(), 1).await;
        assert_eq!(outcome.statuses(), [200]);
        let head = String::from_utf8_lossy(&outcome.responses[0].head.bytes).into_owned();
        for name in names {
            assert!(head.contains(name), "{head}");
        }
    }
}

#[tokio::test]
async fn one_warning_names_the_setting_that_would_permit_a_refused_request() {
    let provider = StandIn::start().await;
    let app = RecordingUpstream::start().await;
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url());
    let settings = settings
        .with("admin_socket_file = \"admin.sock\"\n")
        .with(ROUTES);
    let process = Process::start(settings).await;
    let browser = Browser::new().leading(ORIGIN, process.address());
    browser.visit(&url("/")).await;
    let cookie = browser.cookie(ORIGIN, SESSION).unwrap();
    // An explanation of such a request does not use up the warning.
    let socket = process.settings().path().with_file_name("admin.sock");
    let mut explain = Command::new(PROGRAM);
    explain.args(["explain", "--anonymous", "/a%2Fb", "--socket"]);
    let explained = explain.arg(socket).output().await.unwrap();
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.contains("encoded_slash"), "{explained}");
    assert!(!process.log().contains("routes.allow_in_path"));
    // No setting permits an unusual path of the gateway itself.
    let own = "GET /oauth2//sign_in HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let outcome = exchange(process.address(), own.as_bytes(), 1).await;
    assert_eq!(outcome.statuses(), [400]);
    let is_refused = |log: &str| log.contains("target_empty_segment");
    process.wait_for_log(is_refused).await;
    assert!(!process.log().contains("routes.allow_in_path"));
    let foreign = format!(
        "Cookie: {SESSION}={cookie}\r\nSec-Fetch-Site: cross-site\r\nContent-Length: 0\r\n"
    );
    for (start, lines, status) in [
        ("GET /a%2Fb", "", 400),
        ("GET /c%2Fd", "", 400),
        // No setting permits this path.
        ("GET /a/../b", "", 400),
        ("POST /", &*foreign, 403),
        ("POST /x", &*foreign, 403),
    ] {
        let request = format!("{start} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
        let outcome = exchange(process.address(), request.as_bytes(), 1).await;
        assert_eq!(outcome.statuses(), [status], "{start}");
    }
    for setting in ["routes.allow_in_path", "routes.0.cross_site"] {
        process.wait_for_log(|log| log.contains(setting)).await;
        let log = process.log();
        assert_eq!(log.matches(setting).count(), 1, "{log}");
    }
}

#[tokio::test]
async fn h_17_a_proxy_that_states_another_scheme_is_in_the_log_one_time() {
    let provider = StandIn::start().await;
    let app = RecordingUpstream::start().await;
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url())
        .server("trusted_proxies = [\"127.0.0.1\"]")
        .with(ROUTES);
    let process = Process::start(settings).await;
    for scheme in ["http", "https", "https"] {
        let request = format!(
            "GET /public HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Proto: {scheme}\r\n\r\n"
        );
        let outcome = exchange(process.address(), request.as_bytes(), 1).await;
        assert_eq!(outcome.statuses(), [200]);
        let stated = app.last().head.value("x-forwarded-proto");
        assert_eq!(stated.as_deref(), Some("http"));
    }
    let warning = "states another scheme in X-Forwarded-Proto";
    process.wait_for_log(|log| log.contains(warning)).await;
    let log = process.log();
    assert_eq!(log.matches(warning).count(), 1, "{log}");
}
