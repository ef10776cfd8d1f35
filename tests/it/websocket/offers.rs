//! Requests that ask for one of several protocols.

use tokio::join;

use super::text_frame;
use crate::support::gateway::{Process, Settings};
use crate::support::provider::StandIn;
use crate::support::scene::ORIGIN;
use crate::support::socket::{End, Opening, SocketApp};

/// A gateway whose routes are public, with an app for streams.
async fn gateway() -> (Process, SocketApp) {
    let sockets = SocketApp::start().await;
    let provider = StandIn::start().await;
    let settings = Settings::new(ORIGIN, &provider.url(), &sockets.url())
        .with("[[routes]]\nprefix = \"/\"\naccess = \"public\"\n");
    (Process::start(settings).await, sockets)
}

/// Sends a handshake with this field `Upgrade`.
async fn send(gateway: &Process, upgrade: &str) -> End {
    let handshake = Opening::at("/ws").with("Origin", ORIGIN).bytes();
    let offers = handshake.replace(
        "\r\nUpgrade: websocket\r\n",
        &format!("\r\nUpgrade: {upgrade}\r\n"),
    );
    assert_ne!(offers, handshake);
    let mut client = End::connect(gateway.address()).await;
    client.send(offers).await;
    client
}

#[tokio::test]
async fn s_36_the_app_gets_the_first_protocol_that_is_no_http() {
    let (gateway, sockets) = gateway().await;
    let (mut client, mut app) = join!(send(&gateway, "h2c, websocket, tcp"), sockets.switch());
    let head = client.wire.head().await.unwrap();
    assert_eq!(head.status(), 101);
    assert_eq!(head.values("upgrade"), ["websocket"]);
    app.send(text_frame("hello")).await;
    client.expect(text_frame("hello")).await;
    client.send("and back").await;
    app.expect("and back").await;
    let mut client = send(&gateway, "TCP, websocket").await;
    let (head, mut app) = sockets.accept().await;
    assert_eq!(head.values("upgrade"), ["TCP"]);
    app.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n")
        .await;
    let head = client.wire.head().await.unwrap();
    assert_eq!(
        (head.status(), head.values("upgrade")),
        (101, vec!["TCP".to_owned()])
    );
}

#[tokio::test]
async fn s_36_a_request_that_asks_only_for_http_gets_an_answer_without_a_switch() {
    let (gateway, sockets) = gateway().await;
    let (mut client, ()) = join!(send(&gateway, "h2c, TLS/1.2"), sockets.answer_plainly());
    let head = client.wire.head().await.unwrap();
    assert_eq!(head.status(), 200);
    let ignored = |log: &str| {
        let mut lines = log
            .lines()
            .filter(|line| line.contains("Upgrade of a request is ignored"));
        lines
            .next()
            .is_some_and(|line| line.contains("h2c, TLS/1.2"))
            && lines.next().is_none()
    };
    gateway.wait_for_log(ignored).await;
}
