//! `WebSockets`, event streams and large uploads through a proxy that asks for auth checks.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::Asking;
use crate::support::browser_request::BrowserRequest;
use crate::support::raw::Raw;
use crate::support::scene::{ORIGIN, SESSION, url};
use crate::support::socket::{Opening, switching_for};
use crate::support::upstream::{Answer, Recorded};
use crate::support::wire::TEST_TIMEOUT;

/// A WebSocket frame with the text `hello` of the app.
const FROM_APP: &[u8] = b"\x81\x05hello";

/// A WebSocket frame with the text `world` of the client. The mask has only zeros.
const FROM_CLIENT: &[u8] = b"\x81\x85\0\0\0\0world";

/// The answer of the app: a WebSocket, or the target of the request.
pub(super) fn answer(request: &Recorded) -> Answer {
    if request.head.value("upgrade").is_some() {
        Answer::raw(switching_for(&request.head).as_bytes()).then_send(FROM_APP)
    } else {
        Answer::ok(&request.target())
    }
}

pub(super) async fn websockets(asking: &Asking) {
    let browser = asking.signed_in("alice").await;
    let cookie = format!("{SESSION}={}", browser.cookie(ORIGIN, SESSION).unwrap());
    let opening = Opening::at("/socket").of_browser(&cookie);
    let (head, mut end) = opening.answer(asking.address()).await;
    assert_eq!(head.status(), 101, "{}: {head:?}", asking.name());
    assert_eq!(asking.seen("x-forwarded-user").as_deref(), Some("alice"));
    end.expect(FROM_APP).await;
    end.send(FROM_CLIENT).await;
    end.finish().await;
    let arrived = async {
        while !contains(&asking.scene.app.bytes(), b"world") {
            tokio::task::yield_now().await;
        }
    };
    let arrived = timeout(TEST_TIMEOUT, arrived).await;
    assert!(arrived.is_ok(), "{}: the frame is lost", asking.name());
    let (head, _end) = Opening::at("/socket").answer(asking.address()).await;
    assert_eq!(head.status(), 401, "{}: without a session", asking.name());
}

pub(super) async fn event_streams(asking: &Asking) {
    let browser = asking.signed_in("alice").await;
    let cookie = browser.cookie(ORIGIN, SESSION).unwrap();
    let gate = Arc::new(Notify::new());
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Accel-Buffering: no\r\n\
                Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n";
    let events = Answer::raw(head.as_bytes()).then_await(&gate);
    let events = events.then_send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n");
    asking.scene.app.next(events);
    let mut client = Raw::connect(asking.address()).await;
    client
        .send(format!(
            "GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\
             Cookie: {SESSION}={cookie}\r\n\r\n"
        ))
        .await;
    let head = client.head().await.unwrap();
    assert_eq!(head.status(), 200, "{}: {head:?}", asking.name());
    while !contains(client.seen(), b"data: 1") {
        assert!(client.more().await, "{}: no event", asking.name());
    }
    gate.notify_one();
    while !contains(client.seen(), b"data: 2") {
        assert!(client.more().await, "{}: no second event", asking.name());
    }
}

pub(super) async fn uploads(asking: &Asking) {
    let browser = asking.signed_in("alice").await;
    let content = vec![b'x'; 300_000];
    let upload = BrowserRequest::fetch(&url("/upload")).method("POST");
    let page = browser
        .send(upload.body("text/plain", &content).from(ORIGIN))
        .await;
    asking.expect(&page, 200, "an upload");
    assert_eq!(asking.scene.app.last().body.len(), content.len());
    let authorization = asking.seen("authorization");
    assert!(authorization.is_some(), "{}: no token", asking.name());
    let head = "POST /chunked HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n\
                Transfer-Encoding: chunked\r\nConnection: close\r\nCookie: ";
    let cookie = browser.cookie(ORIGIN, SESSION).unwrap();
    let mut client = Raw::connect(asking.address()).await;
    client
        .send(format!(
            "{head}{SESSION}={cookie}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        ))
        .await;
    let response = client.response("POST").await.unwrap();
    assert_eq!(response.status(), 200, "{}: {response:?}", asking.name());
    assert_eq!(asking.scene.app.last().body, b"hello", "{}", asking.name());
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
