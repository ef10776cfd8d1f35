//! Buffers that protect an app from slow clients.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::long_answers::sign_out;
use crate::support::gateway::Settings;
use crate::support::h2::{H2, Outcome};
use crate::support::raw::Raw;
use crate::support::scene::{self, ORIGIN, SESSION, Scene, url};
use crate::support::upstream::Answer;
use crate::support::wire::TEST_TIMEOUT;

/// The number of bytes in the buffers of the process.
const BUFFERED: &str = "sidegate_buffered_bytes";

/// The number of bytes that the windows of HTTP/2 connections use.
const WINDOWS: &str = "sidegate_http2_window_bytes";

/// The number of bytes that a piece of three bytes needs in a buffer.
const ONE_PIECE: u64 = 3 + 64;

/// Routes whose bodies are not buffered, or are buffered up to 4 KiB.
const ROUTES: &str = r#"
[[routes]]
prefix = "/public/streaming"
access = "public"
buffers.request_kib = 0
[[routes]]
prefix = "/public/declared"
access = "public"
stream = true
[[routes]]
prefix = "/public/small"
access = "public"
buffers.request_kib = 4
[[routes]]
prefix = "/public/large"
access = "public"
buffers.answer_kib = 2048
"#;

/// The length of an answer that fits into no kernel buffer, but into the buffer of `/public/large`.
const LARGE: usize = 1024 * 1024;

/// A gateway whose app has only one connection.
async fn scene() -> Scene {
    scene_with("").await
}

/// A gateway whose app has only one connection, with more routes.
async fn scene_with(routes: &str) -> Scene {
    let change = |settings: Settings| settings.app("connections = 1").with(ROUTES).with(routes);
    Scene::with(change).await
}

/// Begins a chunked upload: sends the head and a piece of three bytes.
async fn upload(scene: &Scene, path: &str, fields: &str) -> Raw {
    let mut client = Raw::connect(scene.gateway.address()).await;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\
         Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
    );
    client.send(head).await;
    client
}

/// Sends the rest of an upload, and returns the status of the answer.
async fn finish(mut client: Raw) -> u16 {
    client.send("3\r\ntwo\r\n0\r\n\r\n").await;
    client.response("POST").await.expect("an answer").status()
}

#[tokio::test]
async fn a_slow_upload_takes_no_connection_of_the_app() {
    let scene = scene().await;
    let mut slow = Vec::new();
    for _ in 0..10 {
        slow.push(upload(&scene, "/public/x", "").await);
    }
    scene.wait_for_figure(BUFFERED, 10 * ONE_PIECE).await;
    // Another client uses the only connection of the app.
    let page = scene.browser().open(&url("/public/other")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(scene.app.count(), 1);
    for client in slow {
        assert_eq!(finish(client).await, 200);
    }
    assert_eq!(scene.app.count(), 11);
    let last = scene.app.last();
    assert_eq!(
        (last.body.as_slice(), last.complete),
        (&b"onetwo"[..], true)
    );
    // The gateway knows the complete body, so the app gets the length of the body.
    assert_eq!(last.head.value("content-length").as_deref(), Some("6"));
    scene.wait_for_figure(BUFFERED, 0).await;
}

#[tokio::test]
async fn a_body_larger_than_its_buffer_is_sent_when_the_buffer_is_full() {
    let scene = scene().await;
    let mut client = upload(&scene, "/public/small", "").await;
    scene.wait_for_figure(BUFFERED, ONE_PIECE).await;
    client
        .send(format!("1000\r\n{}\r\n", "x".repeat(0x1000)))
        .await;
    scene.app.wait_until(|requests| !requests.is_empty()).await;
    assert_eq!(finish(client).await, 200);
    let last = scene.app.last();
    let expected = format!("one{}two", "x".repeat(0x1000));
    assert_eq!(
        (last.body.as_slice(), last.complete),
        (expected.as_bytes(), true)
    );
    assert_eq!(last.head.value("content-length"), None);
}

#[tokio::test]
async fn a_client_that_may_wait_for_the_app_is_not_buffered() {
    let scene = scene().await;
    for (path, fields) in [
        ("/public/streaming", ""),
        ("/public/declared", ""),
        ("/public/x", "Expect: 100-continue\r\n"),
        ("/public/x", "Content-Type: application/grpc-web\r\n"),
    ] {
        let before = scene.app.count();
        let client = upload(&scene, path, fields).await;
        scene
            .app
            .wait_until(|requests| requests.len() > before)
            .await;
        assert_eq!(finish(client).await, 200, "{path} {fields}");
        assert_eq!(scene.app.last().body, b"onetwo", "{path} {fields}");
    }
}

#[tokio::test]
async fn buffered_trailers_reach_the_app() {
    let scene = scene().await;
    let mut client = upload(&scene, "/public/x", "Trailer: X-Check\r\n").await;
    client.send("0\r\nX-Check: good\r\n\r\n").await;
    assert_eq!(
        client.response("POST").await.expect("an answer").status(),
        200
    );
    let last = scene.app.last();
    assert_eq!(last.trailers, ["x-check: good"]);
}

#[tokio::test]
async fn the_app_never_sees_an_upload_that_breaks_off_in_its_buffer() {
    let scene = scene().await;
    let client = upload(&scene, "/public/x", "").await;
    scene.wait_for_figure(BUFFERED, ONE_PIECE).await;
    drop(client);
    scene.wait_for_figure(BUFFERED, 0).await;
    assert_eq!(scene.app.count(), 0);
}

#[tokio::test]
async fn a_session_that_ends_while_its_upload_arrives_admits_no_request() {
    let scene = scene().await;
    let browser = scene.signed_in("alice").await;
    let before = scene.app.count();
    let cookie = browser.cookie(&url("/"), SESSION).unwrap();
    let client = upload(
        &scene,
        "/upload",
        &format!("Cookie: {SESSION}={cookie}\r\n"),
    )
    .await;
    scene.wait_for_figure(BUFFERED, ONE_PIECE).await;
    // The session is idle for too long.
    scene.gateway.advance(Duration::from_hours(9));
    assert_eq!(finish(client).await, 401);
    assert_eq!(scene.app.count(), before);
}

#[tokio::test]
async fn d_41_one_client_leaves_memory_for_the_buffers_of_other_clients() {
    let route = "[[routes]]\nprefix = \"/upload\"\nbuffers.request_kib = 256\n";
    let change = |settings: Settings| {
        let settings = settings.app("connections = 100").server("buffer_mib = 1");
        settings.with(route)
    };
    let scene = Scene::with(change).await;
    let [attacker, bystander] = [scene.cookie("alice").await, scene.cookie("bob").await]
        .map(|cookie| format!("Cookie: {cookie}\r\n"));
    let large = format!("32000\r\n{}\r\n", "x".repeat(0x32000));
    let before = scene.app.count();
    // The attacker uses memory until the gateway forwards a body while the body arrives. The memory
    // has room for five bodies, and half of the memory has room for two bodies.
    let mut attack = Vec::new();
    while scene.app.count() == before {
        let mut client = upload(&scene, "/upload", &attacker).await;
        client.send(&large).await;
        attack.push(client);
        let buffered = u64::try_from(attack.len() * 0x32000).unwrap();
        let waiting = async {
            while scene.figure(BUFFERED).await.unwrap() < buffered && scene.app.count() == before {
                tokio::task::yield_now().await;
            }
        };
        timeout(TEST_TIMEOUT, waiting)
            .await
            .expect("the body is lost");
    }
    let mut client = upload(&scene, "/upload", &bystander).await;
    client.send(&large).await;
    assert_eq!(finish(client).await, 200);
    // The app gets the length only if the whole body was in the buffer.
    let last = scene.app.last();
    assert_eq!(last.body.len(), 0x32000 + 6);
    assert_eq!(last.head.value("content-length").as_deref(), Some("204806"));
}

#[tokio::test]
async fn without_memory_for_buffers_a_body_is_forwarded_while_it_arrives() {
    let scene = Scene::with(|settings| settings.server("buffer_mib = 0")).await;
    let client = upload(&scene, "/public/x", "").await;
    scene.app.wait_until(|requests| !requests.is_empty()).await;
    assert_eq!(finish(client).await, 200);
}

/// Sends a request whose answer is large, and does not read the answer.
async fn large_download(scene: &Scene, path: &str) -> Raw {
    scene.app.next(Answer::ok(&"x".repeat(LARGE)));
    let mut client = Raw::connect(scene.gateway.address()).await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.send(request).await;
    scene.app.wait_until(|requests| !requests.is_empty()).await;
    client
}

#[tokio::test]
async fn a_slow_download_frees_the_connection_of_the_app() {
    let scene = scene().await;
    let mut slow = large_download(&scene, "/public/large").await;
    let page = scene.browser().open(&url("/public/other")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    let buffered = scene.figure(BUFFERED).await;
    assert!(
        buffered.is_some_and(|bytes| bytes > 100_000),
        "{buffered:?}"
    );
    // Nothing of the answer is lost.
    let answer = slow.response("GET").await.expect("an answer");
    assert_eq!(
        (answer.body.complete, answer.body.bytes.len()),
        (true, LARGE)
    );
    scene.wait_for_figure(BUFFERED, 0).await;
}

#[tokio::test]
async fn a_broken_answer_stays_broken_after_its_buffer() {
    let scene = scene().await;
    // Without `Content-Length`, only the missing last chunk shows that the answer is broken.
    let answer = Answer::raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .then_send(format!("{LARGE:x}\r\n{}\r\n", "x".repeat(LARGE)).as_bytes());
    scene.app.next(answer.then_close());
    let mut client = Raw::connect(scene.gateway.address()).await;
    client
        .send("GET /public/large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    scene.app.wait_until(|requests| !requests.is_empty()).await;
    // The only connection is free again as soon as the buffer contains the broken answer.
    let page = scene.browser().open(&url("/public/other")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    let answers = client.until_closed().await;
    assert_eq!(answers[0].status(), 200);
    assert!(!answers[0].body.complete);
}

#[tokio::test]
async fn a_buffer_is_dropped_when_its_session_ends() {
    let scene = scene_with("[[routes]]\nprefix = \"/large\"\nbuffers.answer_kib = 2048").await;
    let browser = scene.signed_in("alice").await;
    let cookie = browser.cookie(&url("/"), SESSION).unwrap();
    scene.app.next(Answer::ok(&"x".repeat(LARGE)));
    let mut client = Raw::connect(scene.gateway.address()).await;
    let request =
        format!("GET /large HTTP/1.1\r\nHost: localhost\r\nCookie: {SESSION}={cookie}\r\n\r\n");
    client.send(request).await;
    scene
        .app
        .wait_until(|requests| requests.iter().any(|request| request.target() == "/large"))
        .await;
    // The answer is in the buffer, because the only connection of the app serves another request.
    let page = scene.browser().open(&url("/public/other")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    sign_out(&browser, ORIGIN).await;
    scene.wait_for_figure(BUFFERED, 0).await;
    let answers = client.until_closed().await;
    assert!(!answers[0].body.complete);
}

#[tokio::test]
async fn a_slow_download_over_http_2_frees_the_connection_of_the_app() {
    let change = |settings: Settings| {
        settings
            .app("connections = 1")
            .with(scene::ROUTES)
            .with(ROUTES)
    };
    let (scene, tls) = Scene::over_tls_by(change).await;
    let config = tls.client(&["h2"]);
    let gateway = scene.gateway.address();
    let mut slow = H2::connect_without_table(gateway, "localhost", Arc::clone(&config)).await;
    let mut other = H2::connect_without_table(gateway, "localhost", config).await;
    let fields = |path: &'static str| {
        let fields = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", path),
        ];
        fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()))
    };
    scene.app.next(Answer::ok(&"x".repeat(LARGE)));
    slow.head(1, &fields("/public/large"), false).await;
    scene.app.wait_until(|requests| !requests.is_empty()).await;
    // The flow control of the first client allows 65,535 bytes.
    other.head(1, &fields("/public/other"), false).await;
    assert_eq!(other.outcome(1).await, Outcome::Status(200));
    for stream in [0, 1] {
        slow.allow(stream, 2 * LARGE).await;
    }
    let (bytes, complete) = slow.received(1, LARGE + 1).await;
    assert_eq!((bytes.len(), complete), (LARGE, true));
}

#[tokio::test]
async fn d_41_windows_of_http2_connections_use_the_memory_for_buffers() {
    const SMALLEST: u32 = 65_535;
    const LARGEST: u32 = 1024 * 1024;
    let (scene, tls) = Scene::over_tls_by(|settings| settings.server("buffer_mib = 4")).await;
    let (gateway, config) = (scene.gateway.address(), tls.client(&["h2"]));
    let connect = || H2::connect_without_table(gateway, "localhost", Arc::clone(&config));
    let mut connections = Vec::new();
    let mut windows = Vec::new();
    for _ in 0..5 {
        let mut connection = connect().await;
        windows.push(connection.window().await);
        connections.push(connection);
    }
    // All windows together use at most half of the memory, and this client does not use all of it.
    assert_eq!((windows[0], windows[4]), (LARGEST, SMALLEST));
    assert!(windows.is_sorted_by(|one, next| one >= next), "{windows:?}");
    let reserved: u32 = windows.iter().map(|window| window - SMALLEST).sum();
    assert!(reserved < 3 * LARGEST / 2, "{windows:?}");
    scene.wait_for_figure(WINDOWS, reserved.into()).await;
    drop(connections);
    scene.wait_for_figure(WINDOWS, 0).await;
    assert_eq!(connect().await.window().await, LARGEST);
}
