//! The WebSocket protocol over HTTP/2 (RFC 8441).

use tokio::join;

use crate::support::browser::Browser;
use crate::support::browser_request::BrowserRequest;
use crate::support::certificates::Authority;
use crate::support::gateway::{Gateway, Settings};
use crate::support::h2::{H2, Outcome};
use crate::support::provider::StandIn;
use crate::support::scene::{SESSION, TLS_ORIGIN, wait_for_figure};
use crate::support::socket::{SocketApp, switching_for};

/// A gateway with TLS and an app for streams. `/public` needs no session.
pub(crate) async fn over_tls() -> (Gateway, StandIn, SocketApp, Authority) {
    let authority = Authority::new();
    let provider = StandIn::start().await;
    let sockets = SocketApp::start().await;
    let settings = Settings::new(TLS_ORIGIN, &provider.url(), &sockets.url())
        .with("[[routes]]\nprefix = \"/\"\n[[routes]]\nprefix = \"/public\"\naccess = \"public\"\n")
        .tls(&authority);
    (Gateway::start(settings), provider, sockets, authority)
}

/// The fields of a request for a WebSocket over HTTP/2 (RFC 8441 section 5).
fn connect<'a>(path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a [u8], &'a [u8])> {
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "v1"),
    ];
    let all = fields.iter().chain(more);
    all.map(|(name, value)| (name.as_bytes(), value.as_bytes()))
        .collect()
}

#[tokio::test]
async fn w_05_a_stream_of_http_2_becomes_a_websocket_to_an_app_that_speaks_http_1() {
    let (gateway, _provider, sockets, tls) = over_tls().await;
    let mut client = H2::connect(gateway.address(), "localhost", tls.client(&["h2"])).await;
    client.head(1, &connect("/public/ws?x=1", &[]), true).await;
    let (head, mut app) = sockets.accept().await;
    assert_eq!(head.start_line(), "GET /public/ws?x=1 HTTP/1.1");
    for (name, value) in [
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "v1"),
        ("host", "localhost"),
    ] {
        assert_eq!(head.values(name), [value], "{name}");
    }
    app.send(switching_for(&head)).await;
    assert_eq!(client.outcome(1).await, Outcome::Status(200));
    client.data(1, b"ping").await;
    app.expect("ping").await;
    app.send("pong").await;
    assert_eq!(client.received(1, 4).await, (b"pong".to_vec(), false));
    // The connection carries other requests in the meantime.
    let plain: Vec<(&[u8], &[u8])> = vec![
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", b"/public/x"),
    ];
    client.head(3, &plain, false).await;
    let (outcome, ()) = join!(client.outcome(3), sockets.answer_plainly());
    assert_eq!(outcome, Outcome::Status(200));
    client.body(1, b"bye").await;
    app.expect("bye").await;
    assert_eq!(app.rest().await, b"");
    app.send("last").await;
    app.finish().await;
    assert_eq!(
        client.received(1, usize::MAX).await,
        (b"last".to_vec(), true)
    );
    let ended = "sidegate_streams_ended_total{route=\"/public\",reason=\"closed\"}";
    wait_for_figure(gateway.operations(), ended, 1).await;
}

#[tokio::test]
async fn w_01_w_02_s_41_a_websocket_over_http_2_is_refused_as_one_over_http_1() {
    let (gateway, provider, sockets, tls) = over_tls().await;
    let browser = Browser::trusting(&tls).leading(TLS_ORIGIN, gateway.address());
    browser.plant(&provider.url(), "user=alice; Path=/");
    let home = format!("{TLS_ORIGIN}/");
    let (page, ()) = join!(browser.visit(&home), sockets.answer_plainly());
    assert_eq!(page.text(), "plain", "{}", page.describe());
    let cookie = format!("{SESSION}={}", browser.cookie(TLS_ORIGIN, SESSION).unwrap());
    let mut client =
        H2::connect_without_table(gateway.address(), "localhost", tls.client(&["h2"])).await;
    client.head(1, &connect("/ws", &[]), true).await;
    assert_eq!(client.outcome(1).await, Outcome::Status(401));
    let evil = [("cookie", &*cookie), ("origin", "https://evil.test")];
    client.head(3, &connect("/ws", &evil), true).await;
    assert_eq!(client.outcome(3).await, Outcome::Status(403));
    assert!(!sockets.is_asked().await);
    // The app answers with a wrong `Sec-WebSocket-Accept`.
    let good = [("cookie", &*cookie), ("origin", TLS_ORIGIN)];
    client.head(5, &connect("/ws", &good), true).await;
    drop(sockets.switch().await);
    assert_eq!(client.outcome(5).await, Outcome::Status(502));
    // The session of this WebSocket ends.
    client.head(7, &connect("/ws", &good), true).await;
    let (head, mut app) = sockets.accept().await;
    app.send(switching_for(&head)).await;
    assert_eq!(client.outcome(7).await, Outcome::Status(200));
    let none: [(&str, &str); 0] = [];
    let sign_out = BrowserRequest::navigation(&format!("{TLS_ORIGIN}/oauth2/sign_out"));
    let page = browser.send(sign_out.form(&none).from(TLS_ORIGIN)).await;
    assert_eq!(page.status, 303, "{}", page.describe());
    let (frame, ended) = client.received(7, usize::MAX).await;
    assert_eq!(
        (frame.get(2..4), ended),
        (Some(&1008_u16.to_be_bytes()[..]), true)
    );
    assert_eq!(app.rest().await, b"");
}
