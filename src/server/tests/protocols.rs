//! Tests of TLS, ALPN, HTTP/2, and replaced certificates.

use std::fs;

use http_body_util::Empty;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinHandle;

use super::*;

/// The connection preface and an empty SETTINGS frame (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

type Sender = SendRequest<Empty<Bytes>>;

async fn http2(server: &Server) -> (Sender, JoinHandle<hyper::Result<()>>) {
    let stream = server.secure_client(&[b"h2"]).await.0;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(1_000_000)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    (sender, tokio::spawn(connection))
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("https://localhost{path}"))
        .body(Empty::new())
        .unwrap()
}

async fn text(sender: &mut Sender, path: &str) -> String {
    let response = soon(sender.send_request(get(path))).await.unwrap();
    let body = soon(response.into_body().collect())
        .await
        .unwrap()
        .to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn a_head_over_http2_has_the_length_of_the_content_and_no_content() {
    let server = Server::start(with(long()));
    let (mut sender, _connection) = http2(&server).await;
    let head = Request::head("https://localhost/")
        .body(Empty::new())
        .unwrap();
    let response = soon(sender.send_request(head)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let length = response.headers().get("content-length").cloned();
    let body = soon(response.into_body().collect()).await.unwrap();
    assert!(body.to_bytes().is_empty());
    assert!(length.is_none_or(|length| length == "5"));
    // The same connection can still serve another request.
    assert_eq!(text(&mut sender, "/").await, "hello");
}

#[tokio::test]
async fn t_04_alpn_decides() {
    let server = Server::start(with(long()));
    let (mut sender, _connection) = http2(&server).await;
    assert_eq!(text(&mut sender, "/").await, "hello");
    for alpn in [&[][..], &[&b"http/1.1"[..]]] {
        let mut client = server.secure_client(alpn).await;
        assert!(client.get("/").await.ends_with("hello"), "{alpn:?}");
    }
    let both = handshake(server.secure, &server.written, &[b"http/1.1", b"h2"])
        .await
        .unwrap();
    assert_eq!(
        both.get_ref().1.alpn_protocol(),
        Some(&b"h2"[..]),
        "the server prefers HTTP/2"
    );
    assert!(
        handshake(server.secure, &server.written, &[b"spdy/3"])
            .await
            .is_err()
    );
    let mut wrong = server.secure_client(&[b"h2"]).await;
    wrong.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(!wrong.rest().await.contains("200 OK"));
}

#[tokio::test]
async fn s_37_an_http2_preface_after_alpn_said_http1_is_closed() {
    let mut server = Server::start(with(long()));
    let mut client = server.secure_client(&[b"http/1.1"]).await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.rest().await;
    drop(client);
    server.refused(Refusal::Malformed).await;
    assert!(server.events.try_recv().is_err());
}

#[tokio::test]
async fn t_07_a_replaced_certificate_serves_new_connections_while_old_ones_live() {
    let server = Server::start(with(long()));
    let mut old = server.secure_client(&[]).await;
    assert!(old.get("/").await.ends_with("hello"));
    let fresh = development_certificates(&server.dir.path().join("next"), &[], NOW).unwrap();
    fs::copy(&fresh.certificate, &server.identity.certificate).unwrap();
    assert!(
        server.acceptor.refresh().is_err(),
        "a new certificate without its key changes nothing"
    );
    assert!(
        server
            .secure_client(&[])
            .await
            .get("/")
            .await
            .ends_with("hello")
    );
    fs::copy(&fresh.key, &server.identity.key).unwrap();
    assert_eq!(
        server.acceptor.refresh().unwrap(),
        crate::tls::Refreshed::Replaced
    );

    assert!(
        old.get("/").await.ends_with("hello"),
        "the old connection stays open"
    );
    let mut new = Client(handshake(server.secure, &fresh, &[]).await.unwrap());
    assert!(new.get("/").await.ends_with("hello"));
    assert!(
        handshake(server.secure, &server.written, &[])
            .await
            .is_err()
    );
}

#[tokio::test]
async fn d_07_large_heads_are_refused_over_http2() {
    let server = Server::start(with(long()));
    let (mut sender, _connection) = http2(&server).await;
    let mut request = get("/");
    for index in 0..101 {
        let name = http::HeaderName::try_from(format!("x-{index}")).unwrap();
        request.headers_mut().insert(name, "a".parse().unwrap());
    }
    let response = soon(sender.send_request(request)).await.unwrap();
    assert_eq!(
        response.status(),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    );

    let mut request = get("/");
    for index in 0..150 {
        request
            .headers_mut()
            .append("cookie", format!("a{index}=b").parse().unwrap());
    }
    let response = soon(sender.send_request(request)).await.unwrap();
    assert_eq!(
        response.status(),
        StatusCode::OK,
        "several `Cookie` fields count as one"
    );

    let mut request = get("/");
    request
        .headers_mut()
        .insert("x-a", "x".repeat(40_000).parse().unwrap());
    // The request can fail in two ways: the server refuses the request, or the client library does
    // not send the request because the server has announced the limit.
    if let Ok(response) = soon(sender.send_request(request)).await {
        assert_eq!(
            response.status(),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        );
    }
}

#[tokio::test]
async fn d_06_d_17_only_a_stream_that_nobody_reads_is_closed() {
    let mut server = Server::start(with(Deadlines {
        write: MODEST,
        ..long()
    }));
    let (mut sender, _connection) = http2(&server).await;
    let mut other = sender.clone();
    let held = tokio::spawn(async move { text(&mut other, "/hold").await });
    server.entered("/hold").await;
    let stalled = soon(sender.send_request(get("/endless"))).await.unwrap();
    server.entered("/endless").await;
    server.left("/endless").await;
    // The client's window is 64 KB. The server itself buffers 64 KB and one more piece of the body.
    let produced = server.probe.produced.load(Ordering::Relaxed);
    assert!(produced <= 256 * 1024, "{produced}");
    let cut = soon(stalled.into_body().collect()).await;
    assert!(cut.is_err(), "an aborted response must not look complete");
    server.probe.release.add_permits(1);
    assert_eq!(
        soon(held).await.unwrap(),
        "held",
        "the other stream continues"
    );
    assert_eq!(
        text(&mut sender, "/").await,
        "hello",
        "the connection stays open"
    );
}

#[tokio::test]
async fn a_drain_finishes_http2_streams_and_ends_the_connection() {
    let mut server = Server::start(with(long()));
    let (mut sender, connection) = http2(&server).await;
    let mut other = sender.clone();
    let held = tokio::spawn(async move { text(&mut other, "/hold").await });
    server.entered("/hold").await;
    let (_idle, idle_connection) = http2(&server).await;
    server.workers.begin_drain();
    soon(idle_connection).await.unwrap().unwrap();
    server.probe.release.add_permits(1);
    assert_eq!(soon(held).await.unwrap(), "held");
    soon(connection).await.unwrap().unwrap();
    assert!(soon(sender.send_request(get("/"))).await.is_err());
    assert_eq!(server.workers.drained().await, Drained { cut: 0, lost: 0 });
}

#[tokio::test]
async fn an_http2_handler_is_dropped_when_its_stream_or_connection_goes_away() {
    let mut server = Server::start(with(long()));
    let (mut sender, _connection) = http2(&server).await;
    let mut other = sender.clone();
    let waiting = tokio::spawn(async move { other.send_request(get("/never")).await });
    server.entered("/never").await;
    waiting.abort();
    server.left("/never").await;
    assert_eq!(text(&mut sender, "/").await, "hello");
    server.entered("/").await;
    server.left("/").await;

    let mut client = server.secure_client(&[b"h2"]).await;
    client.send(PREFACE).await;
    // A HEADERS frame with END_STREAM and END_HEADERS (RFC 9113 section 6.2). The fields of the
    // frame are `:method` (GET), `:scheme` (https), `:path` and `:authority`.
    client
        .send(b"\0\0\x15\x01\x05\0\0\0\x01\x82\x87\x04\x06/never\x01\x09localhost")
        .await;
    server.entered("/never").await;
    drop(client);
    server.left("/never").await;
}

#[tokio::test]
async fn an_idle_http2_connection_is_closed_in_spite_of_pings() {
    let server = Server::start(with(Deadlines {
        idle: MODEST,
        write: MODEST,
        ..long()
    }));
    let (mut sender, connection) = http2(&server).await;
    assert_eq!(text(&mut sender, "/").await, "hello");
    soon(connection).await.unwrap().unwrap();

    // A raw client that sends its preface and then PING frames (RFC 9113 section 6.7).
    let client = server.secure_client(&[b"h2"]).await.0;
    let (mut reader, mut writer) = tokio::io::split(client);
    writer
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let pinging = async {
        let mut ticks = tokio::time::interval(DRIP);
        while writer
            .write_all(b"\0\0\x08\x06\0\0\0\0\0pingping")
            .await
            .is_ok()
        {
            ticks.tick().await;
        }
    };
    let mut seen = Vec::new();
    let reading = timeout(TEST_TIMEOUT, reader.read_to_end(&mut seen));
    let (_stopped, ended) = tokio::join!(timeout(TEST_TIMEOUT, pinging), reading);
    assert!(ended.is_ok(), "the connection was not closed");
}
