//! Requests with `Expect: 100-continue` (RFC 9110 section 10.1.1). The gateway does not ask the
//! client for the content before the app has asked for the content.

use std::time::Duration;

use crate::support::gateway::{Gateway, Settings};
use crate::support::provider::StandIn;
use crate::support::raw::Raw;
use crate::support::scene::{ORIGIN, ROUTES, wait_for_figure};
use crate::support::socket::{End, SocketApp};
use crate::support::wire::Head;

/// A client that has sent the head of a request with an expectation, and the app that has received
/// this head.
struct Upload {
    gateway: Gateway,
    _provider: StandIn,
    client: Raw,
    app: End,
    head: Head,
}

impl Upload {
    async fn begin() -> Self {
        let provider = StandIn::start().await;
        let sockets = SocketApp::start().await;
        let settings = Settings::new(ORIGIN, &provider.url(), &sockets.url()).with(ROUTES);
        let gateway = Gateway::start(settings);
        let mut client = Raw::connect(gateway.address()).await;
        let head = "POST /public/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n\
                    Expect: 100-continue\r\n\r\n";
        client.send(head).await;
        let (head, app) = sockets.accept().await;
        Self {
            gateway,
            _provider: provider,
            client,
            app,
            head,
        }
    }
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn s_20_the_client_gets_100_when_the_app_sends_100() {
    let mut upload = Upload::begin().await;
    assert_eq!(upload.head.value("expect").unwrap(), "100-continue");
    assert!(upload.client.is_silent().await);
    // An app may send other informational responses first. Informational responses other than 100
    // do not ask for the content.
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    upload.app.send(hints).await;
    assert!(upload.client.is_silent().await);
    upload.app.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(upload.client.head().await.unwrap().status(), 100);
    upload.client.send("content").await;
    upload.app.expect("content").await;
    upload.app.send(ANSWER).await;
    assert_eq!(upload.client.response("POST").await.unwrap().text(), "ok");
    let counted = "sidegate_informational_responses_total{route=\"/public\",status=\"103\"}";
    wait_for_figure(upload.gateway.operations(), counted, 1).await;
}

#[tokio::test]
async fn the_client_gets_no_100_if_the_app_refuses_the_content() {
    let mut upload = Upload::begin().await;
    let refusal = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno";
    upload.app.send(refusal).await;
    // The first head that the client gets is the final answer.
    assert_eq!(upload.client.head().await.unwrap().status(), 413);
    // The content of this request never comes, so both connections end.
    assert!(upload.app.rest().await.is_empty());
    upload.client.closed().await;
    let seen = String::from_utf8_lossy(upload.client.seen()).into_owned();
    assert!(seen.ends_with("no") && !seen.contains(" 100 "), "{seen}");
}

#[tokio::test]
async fn after_a_second_the_client_may_send_the_content_to_a_silent_app() {
    let mut upload = Upload::begin().await;
    upload.gateway.advance(Duration::from_millis(900));
    assert!(upload.client.is_silent().await);
    upload.gateway.advance(Duration::from_millis(100));
    assert_eq!(upload.client.head().await.unwrap().status(), 100);
    upload.client.send("content").await;
    upload.app.expect("content").await;
    upload.app.send(ANSWER).await;
    assert_eq!(upload.client.response("POST").await.unwrap().text(), "ok");
}

#[tokio::test]
async fn a_client_that_does_not_wait_for_100_is_served() {
    let mut upload = Upload::begin().await;
    upload.client.send("content").await;
    upload.gateway.advance(Duration::from_secs(1));
    upload.app.expect("content").await;
    upload.app.send(ANSWER).await;
    assert_eq!(upload.client.response("POST").await.unwrap().text(), "ok");
}
