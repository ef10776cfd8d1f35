//! Trailers in both directions, over HTTP/1.1 and HTTP/2 (RFC 9110 section 6.5).

use std::future::ready;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::gateway::{Process, Settings};
use crate::support::provider::StandIn;
use crate::support::raw::Raw;
use crate::support::scene::{ROUTES, Scene};
use crate::support::upstream::{Answer, RecordingUpstream};

/// A response with the trailers `Grpc-Status` and `Set-Cookie`. `announced` are lines of the
/// response's head.
fn trailed(announced: &str) -> Answer {
    let text = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{announced}\r\n4\r\nbody\r\n0\r\n\
         Grpc-Status: 7\r\nSet-Cookie: a=b\r\n\r\n"
    );
    Answer::raw(text.as_bytes())
}

/// Sends a chunked body with trailers. `fields` are lines of the request's head.
async fn send_trailed(client: &mut Raw, fields: &str) {
    let head = "POST /public/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n";
    client
        .send(format!(
            "{head}{fields}\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Forwarded-User: root\r\n\
             Authorization: Bearer x\r\n\r\n"
        ))
        .await;
}

#[tokio::test]
async fn h_12_s_26_only_announced_and_harmless_trailers_reach_an_http_1_app() {
    let scene = Scene::new().await;
    let mut client = Raw::connect(scene.gateway.address()).await;
    for (fields, announced, arrived) in [
        (
            "Trailer: x-sum, authorization, x-forwarded-user\r\n",
            Some("x-sum"),
            vec!["x-sum: 1"],
        ),
        ("Trailer: authorization\r\n", None, vec![]),
        ("", None, vec![]),
    ] {
        send_trailed(&mut client, fields).await;
        assert_eq!(client.response("POST").await.unwrap().status(), 200);
        let last = scene.app.last();
        assert_eq!(last.head.value("trailer").as_deref(), announced, "{fields}");
        assert_eq!(last.trailers, arrived, "{fields}");
        assert_eq!((last.body.as_slice(), last.complete), (&b"abc"[..], true));
    }
}

#[tokio::test]
async fn an_http_1_client_gets_announced_trailers_if_it_accepts_trailers() {
    let scene = Scene::new().await;
    let mut client = Raw::connect(scene.gateway.address()).await;
    for (te, announced, arrives) in [
        (
            "TE: trailers\r\nConnection: TE\r\n",
            "Trailer: Grpc-Status, Set-Cookie\r\n",
            true,
        ),
        ("TE: trailers\r\nConnection: TE\r\n", "", false),
        ("", "Trailer: Grpc-Status\r\n", false),
    ] {
        scene.app.next(trailed(announced));
        client.forget();
        client
            .send(format!(
                "GET /public/x HTTP/1.1\r\nHost: localhost\r\n{te}\r\n"
            ))
            .await;
        let response = client.response("GET").await.unwrap();
        assert_eq!(response.text(), "body", "{te}{announced}");
        let seen = String::from_utf8_lossy(client.seen()).to_lowercase();
        assert_eq!(seen.contains("grpc-status: 7"), arrives, "{seen}");
        assert!(!seen.contains("set-cookie"), "{seen}");
        let accepted = scene.app.last().head.value("te");
        let expected = (!te.is_empty()).then_some("trailers");
        assert_eq!(accepted.as_deref(), expected);
        // Every answer has ended cleanly, so the app keeps one connection.
        assert_eq!(scene.app.connections(), 1);
    }
}

#[tokio::test]
async fn trailers_pass_between_an_http_2_client_and_an_app() {
    let (scene, authority) = Scene::over_tls().await;
    let stream = TcpStream::connect(scene.gateway.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(authority.client(&["h2"]))
        .connect(name, stream)
        .await
        .unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    // The app does not announce its trailers, and HTTP/2 needs no announcement.
    scene.app.next(trailed(""));
    let sent: HeaderMap = [("x-sum", "1"), ("authorization", "Bearer x")]
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .into_iter()
        .collect();
    // With `map_frame`, the body does not state its length, so the app gets the chunked coding.
    let body = Full::new(Bytes::from("abc"))
        .with_trailers(ready(Some(Ok(sent))))
        .map_frame(|frame| frame);
    let request = Request::post("https://localhost/public/x")
        .header("trailer", "x-sum")
        .body(body)
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().unwrap();
    assert_eq!(trailers.len(), 1);
    assert_eq!(trailers["grpc-status"], "7");
    assert_eq!(collected.to_bytes(), "body");
    let last = scene.app.last();
    assert_eq!(last.trailers, ["x-sum: 1"]);
    assert_eq!(last.body, b"abc");
}

/// The log has one warning that trailers were dropped, no matter how many messages lose their
/// trailers.
#[tokio::test]
async fn dropped_trailers_leave_one_warning_for_each_direction() {
    let provider = StandIn::start().await;
    let app = RecordingUpstream::start().await;
    let settings = Settings::new("http://localhost", &provider.url(), &app.url()).with(ROUTES);
    let process = Process::start(settings).await;
    let mut client = Raw::connect(process.address()).await;
    for _ in 0..3 {
        app.next(trailed(""));
        send_trailed(&mut client, "").await;
        assert_eq!(client.response("POST").await.unwrap().text(), "body");
    }
    for text in ["trailers of a request", "trailers of a response"] {
        process.wait_for_log(|log| log.contains(text)).await;
        assert_eq!(process.log().matches(text).count(), 1, "{text}");
    }
}
