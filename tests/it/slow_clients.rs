//! Slow clients lose the app's connections while requests of other clients wait for the app.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::timeout;

use crate::support::h2::{H2, Outcome};
use crate::support::raw::Raw;
use crate::support::scene::{ROUTES, Scene};
use crate::support::socket::{End, SocketApp};
use crate::support::upstream::Answer;
use crate::support::wire::TEST_TIMEOUT;
use crate::websocket::scene_with;

/// The number of bytes of a long answer. The buffers of the kernel and of the gateway are smaller
/// than a long answer.
const LONG: usize = 8 << 20;

/// The settings of an app with one connection, which a slow client may keep for one second.
const ONE: &str = "connections = 1\nslow_client_secs = 1\n";

/// The app's answer with this number of bytes.
pub(crate) fn answer_of(length: usize) -> Answer {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + length, b'a');
    Answer::raw(&bytes)
}

/// The head of an upload, and its first byte.
pub(crate) fn upload(path: &str, fields: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n{fields}\r\na")
}

fn evictions(route: &str, kind: &str, reason: &str) -> String {
    format!("sidegate_evictions_total{{route=\"{route}\",kind=\"{kind}\",reason=\"{reason}\"}}")
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")
}

/// Sends a request of a signed-in user, who must get the app's answer.
async fn served(gateway: SocketAddr, cookie: &str) {
    assert_eq!(
        status(gateway, &get("/seen", &format!("Cookie: {cookie}\r\n"))).await,
        200
    );
}

async fn status(gateway: SocketAddr, request: &str) -> u16 {
    let mut raw = Raw::connect(gateway).await;
    raw.send(request).await;
    raw.response("GET").await.unwrap().status()
}

#[tokio::test]
async fn d_38_a_silent_upload_loses_its_connection_to_a_waiting_request() {
    let scene = Scene::with(|settings| settings.app(ONE).server("buffer_mib = 0")).await;
    let (cookie, gateway) = (scene.cookie("bob").await, scene.gateway.address());
    let before = scene.app.count();
    let mut slow = Raw::connect(gateway).await;
    slow.send(upload("/public", "")).await;
    scene
        .app
        .wait_until(|requests| requests.len() > before)
        .await;
    served(gateway, &cookie).await;
    let refused = slow.response("POST").await.unwrap();
    assert_eq!(refused.status(), 408);
    assert!(refused.text().contains("slow_client"), "{}", refused.text());
    slow.closed().await;
    let evicted = evictions("/public", "request", "slow_client");
    assert_eq!(scene.figure(&evicted).await, Some(1));
    assert!(!scene.app.requests()[before].complete);
}

#[tokio::test]
async fn d_39_an_answer_that_nobody_reads_breaks_off_for_a_waiting_request() {
    let scene = Scene::with(|settings| settings.app(ONE).server("buffer_mib = 0")).await;
    let (cookie, gateway) = (scene.cookie("bob").await, scene.gateway.address());
    scene.app.next(answer_of(LONG));
    let before = scene.app.count();
    let mut slow = End::with_small_buffer(gateway).await;
    slow.send(get("/public", "")).await;
    scene
        .app
        .wait_until(|requests| requests.len() > before)
        .await;
    served(gateway, &cookie).await;
    let evicted = evictions("/public", "response", "slow_client");
    scene.wait_for_figure(&evicted, 1).await;
    let read = timeout(TEST_TIMEOUT, slow.wire.until_end()).await;
    let (bytes, _error) = read.expect("the connection stays open");
    assert!(bytes.starts_with(b"HTTP/1.1 200") && bytes.len() < LONG);
}

#[tokio::test]
async fn d_38_d_39_slow_uploads_and_answers_over_http_2_are_reset_alone() {
    let (scene, tls) =
        Scene::over_tls_by(|settings| settings.with(ROUTES).app(ONE).server("buffer_mib = 0"))
            .await;
    let (app, config) = (&scene.app, tls.client(&["h2"]));
    let gateway = scene.gateway.address();
    let connect = || H2::connect_without_table(gateway, "localhost", Arc::clone(&config));
    let (mut uploader, mut reader) = (connect().await, connect().await);
    let fields = |method: &'static str, path: &'static str| {
        let fields = [
            (":method", method),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", path),
        ];
        fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()))
    };
    let mut other = connect().await;
    uploader
        .head(1, &fields("POST", "/public/upload"), true)
        .await;
    uploader.data(1, b"a").await;
    app.wait_until(|requests| requests.len() == 1).await;
    other.head(1, &fields("GET", "/public/seen"), false).await;
    assert_eq!(other.outcome(1).await, Outcome::Status(200));
    assert_eq!(uploader.outcome(1).await, Outcome::Status(408));
    app.next(answer_of(LONG));
    reader.head(1, &fields("GET", "/public/long"), false).await;
    app.wait_until(|requests| requests.len() == 3).await;
    other.head(3, &fields("GET", "/public/seen"), false).await;
    assert_eq!(other.outcome(3).await, Outcome::Status(200));
    let (bytes, complete) = reader.received(1, LONG).await;
    assert!(!complete && bytes.len() < LONG, "{}", bytes.len());
    // The connections continue.
    for mut slow in [uploader, reader] {
        slow.head(3, &fields("GET", "/public/seen"), false).await;
        assert_eq!(slow.outcome(3).await, Outcome::Status(200));
    }
}

/// The head of an event stream, and its first event.
const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
                      Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";

/// Opens an event stream. Returns the ends of the client and of the app.
async fn open_events(gateway: SocketAddr, app: &SocketApp, request: &str) -> (End, End) {
    let mut client = End::connect(gateway).await;
    client.send(request).await;
    let (_head, mut served) = app.accept().await;
    served.send(EVENTS).await;
    let head = timeout(TEST_TIMEOUT, client.wire.head()).await.unwrap();
    assert_eq!(head.unwrap().status(), 200);
    client.expect("5\r\nfirst\r\n").await;
    (client, served)
}

#[tokio::test]
async fn a_declared_stream_within_the_share_of_its_client_is_never_too_slow() {
    let app_keys = "connections = 2\nslow_client_secs = 1\nqueue_wait_secs = 3\n";
    let routes = "[[routes]]\nprefix = \"/declared\"\naccess = \"public\"\nstream = true\n\
                  upstream = \"sockets\"\n";
    let (scene, app) = scene_with("", app_keys, routes).await;
    let gateway = scene.gateway.address();
    // The client and the app are silent.
    let cookie = format!("Cookie: {}\r\n", scene.cookie("alice").await);
    let (mut client, mut served) = open_events(gateway, &app, &get("/any", &cookie)).await;
    // The client of the other stream sends a part of its content, and is silent after that.
    let mut upload_client = End::connect(gateway).await;
    upload_client.send(upload("/declared", "")).await;
    let (_head, mut upload_app) = app.accept().await;
    let other = format!("Cookie: {}\r\n", scene.cookie("bob").await);
    assert_eq!(status(gateway, &get("/any", &other)).await, 503);
    served.send("4\r\nnext\r\n").await;
    client.expect("4\r\nnext\r\n").await;
    upload_client.send("b").await;
    upload_app.expect("ab").await;
}

#[tokio::test]
async fn d_40_streams_above_the_share_of_a_client_end_for_a_waiting_request() {
    let (scene, app) = scene_with("", "connections = 4\n", "").await;
    let gateway = scene.gateway.address();
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(open_events(gateway, &app, &get("/public", "")).await);
    }
    let cookie = format!("Cookie: {}\r\n", scene.cookie("bob").await);
    let waiting = get("/any", &cookie);
    let (status, ()) = tokio::join!(status(gateway, &waiting), app.answer_plainly());
    assert_eq!(status, 200);
    let evicted = evictions("/public", "response", "client_over_share");
    scene.wait_for_figure(&evicted, 1).await;
    // The newest stream has ended.
    let (mut newest, _app) = streams.pop().unwrap();
    assert_eq!(newest.rest().await, b"");
    for (client, served) in &mut streams {
        served.send("4\r\nnext\r\n").await;
        client.expect("4\r\nnext\r\n").await;
    }
}

/// Twelve silent uploads with these fields. No upload counts as slow.
async fn one_client_with_silent_uploads(path: &str, fields: &str, scene: &Scene) {
    let gateway = scene.gateway.address();
    let cookie = scene.cookie("bob").await;
    let before = scene.app.count();
    let mut uploads = Vec::new();
    for _ in 0..12 {
        let mut slow = Raw::connect(gateway).await;
        slow.send(upload(path, fields)).await;
        uploads.push(slow);
    }
    scene
        .app
        .wait_until(|requests| requests.len() == before + 8)
        .await;
    for _ in 0..20 {
        served(gateway, &cookie).await;
    }
    let evicted = evictions(path, "request", "client_over_share");
    let evicted = scene.figure(&evicted).await.unwrap_or_default();
    // The client keeps its share of four connections.
    assert!((1..=4).contains(&evicted), "{evicted}");
}

const SHARED: &str = "connections = 8\nslow_client_secs = 60\n";

#[tokio::test]
async fn d_40_one_session_keeps_only_its_share_of_the_connections() {
    let scene = Scene::with(|settings| settings.app(SHARED).server("buffer_mib = 0")).await;
    let fields = format!(
        "Cookie: {}\r\nOrigin: http://localhost\r\n",
        scene.cookie("alice").await
    );
    one_client_with_silent_uploads("/", &fields, &scene).await;
}

#[tokio::test]
async fn d_40_one_address_keeps_only_its_share_of_the_connections() {
    let scene = Scene::with(|settings| settings.app(SHARED).server("buffer_mib = 0")).await;
    one_client_with_silent_uploads("/public", "", &scene).await;
}
