//! Connections on which the app switches to another protocol: the users who may open such a
//! connection, and the bytes that the gateway forwards.

use std::time::Duration;

use serde_json::json;
use tokio::join;
use tokio::time::timeout;

use crate::support::gateway::{Process, Settings};
use crate::support::provider::StandIn;
use crate::support::scene::{ORIGIN, Scene};
use crate::support::socket::{End, KEY, Opening, SocketApp, switching};

pub(crate) mod ending;
pub(crate) mod http2;
mod offers;

/// A text frame as an app sends it. `text` must be short.
pub(crate) fn text_frame(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    [&[0x81, length], text.as_bytes()].concat()
}

/// A scene with an app for streams: `/ws` is for one group, `/any` for all users who are signed
/// in, and `/public` for everybody. Bodies of requests are forwarded while they arrive.
pub(crate) async fn scene_with(streams: &str, app: &str, rest: &str) -> (Scene, SocketApp) {
    let sockets = SocketApp::start().await;
    let routes = format!(
        "[upstreams.sockets]\nurl = \"{}\"\n{app}\n\
         [[routes]]\nprefix = \"/\"\nupstream = \"app\"\n\
         [[routes]]\nprefix = \"/ws\"\nupstream = \"sockets\"\nprovider = \"main\"\n\
         access.any_of.groups = [\"staff\"]\nbuffers.request_kib = 0\n{streams}\n\
         [[routes]]\nprefix = \"/any\"\nupstream = \"sockets\"\nbuffers.request_kib = 0\n{streams}\n\
         [[routes]]\nprefix = \"/public\"\naccess = \"public\"\nupstream = \"sockets\"\n\
         buffers.request_kib = 0\n{streams}\n{rest}",
        sockets.url()
    );
    let scene = Scene::with_routes(&routes, "").await;
    scene
        .provider
        .user_members(json!({ "groups": ["staff"], "email": "alice@example.com" }));
    (scene, sockets)
}

pub(crate) async fn scene() -> (Scene, SocketApp) {
    scene_with("", "", "").await
}

/// Opens a WebSocket from a signed-in browser. Returns the client's end and the app's end.
async fn open(scene: &Scene, sockets: &SocketApp, cookie: &str) -> (End, End) {
    let opening = Opening::at("/any").of_browser(cookie);
    let ((head, client), app) = join!(opening.answer(scene.gateway.address()), sockets.switch());
    assert_eq!(head.status(), 101);
    (client, app)
}

/// Fails unless the client gets a close frame with this code and then the end of the connection.
pub(crate) async fn closed_with(client: &mut End, code: u16) {
    let frame = client.rest().await;
    assert_eq!(frame.first(), Some(&0x88), "{frame:?}");
    assert_eq!(frame.get(2..4), Some(&code.to_be_bytes()[..]), "{frame:?}");
    assert_eq!(usize::from(frame[1]), frame.len() - 2, "{frame:?}");
}

#[tokio::test]
async fn w_05_the_app_gets_the_handshake_with_identity_and_token_and_both_talk() {
    let (scene, sockets) = scene().await;
    let cookie = scene.cookie("alice").await;
    let opening = Opening::at("/ws/kernel?x=1")
        .of_browser(&format!("theme=dark; {cookie}"))
        .with("Sec-WebSocket-Protocol", "v1, v2")
        .with("Sec-WebSocket-Extensions", "permessage-deflate")
        .with("Authorization", "Bearer forged")
        .with("X-Forwarded-User", "mallory");
    let mut client = opening.send(scene.gateway.address()).await;
    let (head, mut app) = sockets.accept().await;
    assert_eq!(head.start_line(), "GET /ws/kernel?x=1 HTTP/1.1");
    for (name, value) in [
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-key", KEY),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "v1, v2"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("x-forwarded-user", "alice"),
        ("cookie", "theme=dark"),
        ("origin", "http://localhost"),
    ] {
        assert_eq!(head.values(name), [value], "{name}");
    }
    let bearer = head.values("authorization");
    assert!(
        bearer.len() == 1 && bearer[0].starts_with("Bearer alice."),
        "{bearer:?}"
    );
    // The first frame of the app may arrive in one piece with the head of its response.
    let answer = switching().replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: v2\r\n\r\n");
    app.send([answer.as_bytes(), b"first"].concat()).await;
    let head = client.wire.head().await.unwrap();
    assert_eq!(head.status(), 101);
    assert_eq!(head.values("upgrade"), ["websocket"]);
    assert_eq!(head.values("connection"), ["Upgrade"]);
    assert_eq!(head.values("sec-websocket-protocol"), ["v2"]);
    client.expect("first").await;
    client.send("ping").await;
    app.expect("ping").await;
    let large = vec![b'x'; 3_000_000];
    join!(client.send(&large), app.expect(&large));
    join!(app.send(&large), client.expect(&large));
    app.finish().await;
    client.send("after the end of the other direction").await;
    app.expect("after the end of the other direction").await;
    client.finish().await;
    assert_eq!((client.rest().await, app.rest().await), (vec![], vec![]));
    let ended = "sidegate_streams_ended_total{route=\"/ws\",reason=\"closed\"}";
    scene.wait_for_figure(ended, 1).await;
    let open = "sidegate_streams_open{route=\"/ws\",kind=\"websocket\"}";
    scene.wait_for_figure(open, 0).await;
}

#[tokio::test]
async fn w_01_pages_of_other_sites_cannot_open_a_websocket() {
    let listed = "streams.origins = [\"https://partner.example.com\"]";
    let (scene, sockets) = scene_with(listed, "", "").await;
    let cookie = scene.cookie("alice").await;
    for (origins, allowed) in [
        (vec!["http://localhost"], true),
        (vec!["https://partner.example.com"], true),
        (vec!["https://evil.test"], false),
        (vec!["null"], false),
        (vec![], false),
        (vec!["https://localhost"], false),
        (vec!["http://localhost.evil.test"], false),
        (vec!["http://localhost:8080"], false),
        (vec!["http://localhost", "https://evil.test"], false),
        (vec!["https://partner.example.com.evil.test"], false),
    ] {
        let opening = Opening::at("/any").with("Cookie", &cookie);
        let opening = origins
            .iter()
            .fold(opening, |opening, origin| opening.with("Origin", origin));
        if allowed {
            let answer = opening.answer(scene.gateway.address());
            let ((head, _client), _app) = join!(answer, sockets.switch());
            assert_eq!(head.status(), 101, "{origins:?}");
        } else {
            let (head, mut client) = opening.answer(scene.gateway.address()).await;
            assert_eq!(head.status(), 403, "{origins:?}");
            let page = String::from_utf8(client.rest().await).unwrap();
            assert!(page.contains("foreign_origin"), "{page}");
        }
    }
    assert!(!sockets.is_asked().await);
}

#[tokio::test]
async fn w_02_without_a_session_the_answer_is_401_and_no_redirect() {
    let (scene, sockets) = scene().await;
    let opening = Opening::at("/any")
        .with("Origin", ORIGIN)
        .with("Accept", "text/html");
    let (head, mut client) = opening.answer(scene.gateway.address()).await;
    assert_eq!(head.status(), 401);
    assert_eq!(head.values("location"), [""; 0]);
    // The client must not send frames on this connection.
    assert_eq!(head.values("connection"), ["close"]);
    client.rest().await;
    // A user who may not use the route.
    scene.provider.user_members(json!({ "groups": ["guests"] }));
    let cookie = scene.cookie("bob").await;
    let opening = Opening::at("/ws").of_browser(&cookie);
    let (head, _client) = opening.answer(scene.gateway.address()).await;
    assert_eq!(head.status(), 403);
    assert!(!sockets.is_asked().await);
}

#[tokio::test]
async fn a_public_route_needs_no_session_and_sends_no_identity() {
    let (scene, sockets) = scene().await;
    let opening = Opening::at("/public/ws")
        .with("Authorization", "Bearer of-the-client")
        .with("X-Forwarded-User", "forged");
    let mut client = opening.send(scene.gateway.address()).await;
    let (head, mut app) = sockets.accept().await;
    assert_eq!(head.values("authorization"), ["Bearer of-the-client"]);
    assert_eq!(head.values("x-forwarded-user"), [""; 0]);
    app.send(switching()).await;
    assert_eq!(client.wire.head().await.unwrap().status(), 101);
    app.send("hello").await;
    client.expect("hello").await;
}

#[tokio::test]
async fn s_40_bytes_after_a_handshake_reach_the_app_only_after_the_switch() {
    let (scene, sockets) = scene().await;
    let hidden = "GET /public/admin HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let opening = Opening::at("/public/ws");
    for status in [200, 403, 404, 426, 503] {
        let mut client = opening.send(scene.gateway.address()).await;
        client.send(hidden).await;
        let (_head, mut app) = sockets.accept().await;
        app.send(format!(
            "HTTP/1.1 {status} No\r\nContent-Length: 2\r\nUpgrade: websocket\r\n\r\nno"
        ))
        .await;
        let head = client.wire.head().await.unwrap();
        assert_eq!(
            (head.status(), head.values("connection")),
            (status, vec!["close".to_owned()])
        );
        assert_eq!(client.rest().await, b"no");
        assert_eq!(app.rest().await, b"");
    }
    assert!(!sockets.is_asked().await);
    // After a switch, the same bytes go to the app.
    let mut client = opening.send(scene.gateway.address()).await;
    client.send(hidden).await;
    let mut app = sockets.switch().await;
    app.expect(hidden).await;
    assert_eq!(client.wire.head().await.unwrap().status(), 101);
    assert_eq!(scene.app.count(), 0);
}

#[tokio::test]
async fn s_41_a_switch_that_differs_from_the_request_is_an_error() {
    let (scene, sockets) = scene().await;
    let good = switching();
    let bad = [
        good.replace("Upgrade: websocket\r\n", ""),
        good.replace("Connection: Upgrade\r\n", ""),
        good.replace("websocket", "tcp"),
        good.replace("s3pP", "s3pQ"),
        good.replace("Sec-WebSocket-Accept", "X-Accept"),
    ];
    for answer in bad {
        let opening = Opening::at("/public/ws");
        let mut client = opening.send(scene.gateway.address()).await;
        let (_head, mut app) = sockets.accept().await;
        app.send(format!("{answer}frames")).await;
        let head = client.wire.head().await.unwrap();
        assert_eq!(head.status(), 502, "{answer}");
        let page = String::from_utf8(client.rest().await).unwrap();
        assert!(
            page.contains("upstream_bad_switch") && !page.contains("frames"),
            "{page}"
        );
        assert_eq!(app.rest().await, b"");
    }
}

#[tokio::test]
async fn s_42_a_version_that_the_app_does_not_speak_ends_the_connection() {
    let (scene, sockets) = scene().await;
    let bytes = Opening::at("/public/ws").bytes();
    let bytes = bytes.replace("Version: 13", "Version: 999");
    let mut client = End::connect(scene.gateway.address()).await;
    client.send(format!("{bytes}\u{1}tunnel bytes")).await;
    let (head, mut app) = sockets.accept().await;
    assert_eq!(head.values("sec-websocket-version"), ["999"]);
    app.send(
        "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    let head = client.wire.head().await.unwrap();
    assert_eq!(head.status(), 426);
    assert_eq!(head.values("sec-websocket-version"), ["13"]);
    assert_eq!((client.rest().await, app.rest().await), (vec![], vec![]));
}

#[tokio::test]
async fn w_02_a_preflight_opens_no_socket_without_a_session() {
    let (scene, sockets) = scene_with("allow_preflight = true", "", "").await;
    let opening = Opening::at("/any")
        .with("Origin", ORIGIN)
        .with("Access-Control-Request-Method", "GET");
    for bytes in [
        opening.bytes(),
        opening
            .bytes()
            .replace("Upgrade: websocket", "Upgrade: tcp"),
    ] {
        let mut client = End::connect(scene.gateway.address()).await;
        client.send(bytes.replace("GET /", "OPTIONS /")).await;
        let head = tokio::select! {
            head = client.wire.head() => head.unwrap(),
            (head, _app) = sockets.accept() => panic!("the app is asked: {}", head.start_line()),
        };
        assert_eq!(head.status(), 403);
    }
}

#[tokio::test]
async fn a_route_may_forbid_other_protocols() {
    let (scene, sockets) = scene_with("streams.upgrades = false", "", "").await;
    let (head, mut client) = Opening::at("/public/ws")
        .answer(scene.gateway.address())
        .await;
    assert_eq!(head.status(), 403);
    let page = String::from_utf8(client.rest().await).unwrap();
    assert!(page.contains("upgrade_forbidden"), "{page}");
    assert!(!sockets.is_asked().await);
}

#[tokio::test]
async fn the_number_of_tunnels_of_an_app_is_limited() {
    let (scene, sockets) = scene_with("", "tunnels = 1\nconnections = 1", "").await;
    let opening = Opening::at("/public/ws");
    let mut client = opening.send(scene.gateway.address()).await;
    let mut app = sockets.switch().await;
    assert_eq!(client.wire.head().await.unwrap().status(), 101);
    let (head, mut second) = opening.answer(scene.gateway.address()).await;
    assert_eq!(
        (head.status(), head.values("retry-after")),
        (503, vec!["5".to_owned()])
    );
    let page = String::from_utf8(second.rest().await).unwrap();
    assert!(page.contains("upstream_tunnels"), "{page}");
    // Ordinary requests use other connections.
    let plain = b"GET /public/x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut third = End::connect(scene.gateway.address()).await;
    third.send(plain).await;
    let (_head, mut other) = sockets.accept().await;
    other.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(third.wire.head().await.unwrap().status(), 204);
    // The slot is free when the tunnel has ended.
    client.finish().await;
    app.finish().await;
    client.rest().await;
    scene
        .wait_for_figure(
            "sidegate_streams_open{route=\"/public\",kind=\"websocket\"}",
            0,
        )
        .await;
    let ((head, _client), _app) = join!(opening.answer(scene.gateway.address()), sockets.switch());
    assert_eq!(head.status(), 101);
}

#[tokio::test]
async fn d_34_one_session_cannot_open_streams_without_limit() {
    let (scene, sockets) = scene_with("streams.per_client = 2", "", "").await;
    let cookie = scene.cookie("alice").await;
    let (mut client, mut app) = open(&scene, &sockets, &cookie).await;
    let _second = open(&scene, &sockets, &cookie).await;
    let opening = Opening::at("/any").of_browser(&cookie);
    let (head, mut third) = opening.answer(scene.gateway.address()).await;
    assert_eq!(head.status(), 429);
    let page = String::from_utf8(third.rest().await).unwrap();
    assert!(page.contains("too_many_streams"), "{page}");
    assert!(!sockets.is_asked().await);
    // Other sessions, and clients without a session, have limits of their own.
    let other = scene.cookie("bob").await;
    let _theirs = open(&scene, &sockets, &other).await;
    let public = Opening::at("/public/ws");
    for _ in 0..2 {
        // The app does not switch, so the request counts only until its answer.
        let mut client = public.send(scene.gateway.address()).await;
        let (_head, mut app) = sockets.accept().await;
        app.send("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
            .await;
        assert_eq!(client.wire.head().await.unwrap().status(), 404);
    }
    let mut kept = Vec::new();
    for _ in 0..2 {
        let answer = public.answer(scene.gateway.address());
        let ((head, client), app) = join!(answer, sockets.switch());
        assert_eq!(head.status(), 101);
        kept.push((client, app));
    }
    let (head, _client) = public.answer(scene.gateway.address()).await;
    assert_eq!(head.status(), 429);
    // The end of a stream makes room for another stream.
    client.finish().await;
    app.finish().await;
    client.rest().await;
    let open_streams = "sidegate_streams_open{route=\"/any\",kind=\"websocket\"}";
    scene.wait_for_figure(open_streams, 2).await;
    open(&scene, &sockets, &cookie).await;
}

#[tokio::test]
async fn w_10_a_side_that_does_not_read_blocks_the_other() {
    let (scene, sockets) = scene().await;
    let opening = Opening::at("/public/ws");
    let ((head, client), app) = join!(opening.answer(scene.gateway.address()), sockets.switch());
    assert_eq!(head.status(), 101);
    for (mut sender, mut receiver) in [(client, app)] {
        let mut sent = 0_usize;
        let piece = vec![0_u8; 64 * 1024];
        // The sockets between client and app buffer a few megabytes at most.
        let stopped = loop {
            let sending = timeout(Duration::from_millis(500), sender.send(&piece));
            if sending.await.is_err() {
                break true;
            }
            sent += piece.len();
            if sent > 64 * 1024 * 1024 {
                break false;
            }
        };
        assert!(stopped, "{sent} bytes went to an app that reads nothing");
        // All sent bytes arrive when the app reads.
        receiver.expect(vec![0_u8; sent]).await;
    }
}

/// The number of bytes that the gateway reads from an app whose client reads nothing.
async fn read_ahead(max_lag_kib: usize) -> usize {
    let provider = StandIn::start().await;
    let sockets = SocketApp::start().await;
    let settings = Settings::new(ORIGIN, &provider.url(), &sockets.url());
    let route = format!(
        "[[routes]]\nprefix = \"/\"\naccess = \"public\"\nstreams.max_lag_kib = {max_lag_kib}\n"
    );
    let gateway = Process::start(settings.with(&route)).await;
    let opening = Opening::at("/ws");
    let ((head, client), mut app) = join!(opening.answer(gateway.address()), sockets.switch());
    assert_eq!(head.status(), 101);
    let piece = vec![0_u8; 64 * 1024];
    while timeout(Duration::from_secs(1), app.send(&piece))
        .await
        .is_ok()
    {}
    client.reset();
    gateway.wait_for_log(|log| log.contains("\"end\":")).await;
    let log = gateway.log();
    let ended = log.lines().find(|line| line.contains("\"end\":"));
    let ended: serde_json::Value = serde_json::from_str(ended.expect("an event")).unwrap();
    let read = ended["http.response.body.size"].as_u64().expect("a number");
    usize::try_from(read).unwrap()
}

#[tokio::test]
async fn w_10_the_data_that_a_slow_reader_may_lag_is_a_setting() {
    // The number of KiB that the sockets of the gateway and of the client also keep.
    const BUFFERS: usize = 512;
    for max_lag in [16, 1024] {
        let read = read_ahead(max_lag).await / 1024;
        let fits = max_lag <= read && read <= max_lag + BUFFERS;
        assert!(fits, "{read} KiB were read with a limit of {max_lag} KiB");
    }
}
