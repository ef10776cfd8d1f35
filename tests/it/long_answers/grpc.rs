//! Each gRPC answer ends with a gRPC status.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::join;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{SOON, chunk, cookie_of, sign_out};
use crate::support::browser::Browser;
use crate::support::scene::TLS_ORIGIN;
use crate::websocket::http2::over_tls;

#[tokio::test]
async fn w_03_a_grpc_answer_ends_with_the_status_unauthenticated() {
    let (gateway, provider, app, tls) = over_tls().await;
    let browser = Browser::trusting(&tls).leading(TLS_ORIGIN, gateway.address());
    browser.plant(&provider.url(), "user=alice; Path=/");
    let home = format!("{TLS_ORIGIN}/");
    let (page, ()) = join!(browser.visit(&home), app.answer_plainly());
    assert_eq!(page.text(), "plain", "{}", page.describe());
    let socket = TcpStream::connect(gateway.address()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(tls.client(&["h2"]));
    let socket = connector
        .connect("localhost".try_into().unwrap(), socket)
        .await
        .unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
        .await
        .unwrap();
    let running = tokio::spawn(connection);
    let mut open = Vec::new();
    for kind in ["application/grpc+proto", "application/grpc-web+proto"] {
        let request = Request::post(format!("{TLS_ORIGIN}/pkg.Service/Watch"))
            .header("content-type", kind)
            .header("origin", TLS_ORIGIN)
            .header("cookie", cookie_of(&browser, TLS_ORIGIN))
            .body(Empty::<Bytes>::new())
            .unwrap();
        let (answer, served) = join!(sender.send_request(request), async {
            let (_head, mut served) = app.accept().await;
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: ";
            let first = format!("{head}{kind}\r\n\r\n{}", chunk("message"));
            served.send(first).await;
            served
        });
        let mut body = answer.unwrap().into_body();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "message");
        open.push((body, served));
    }
    sign_out(&browser, TLS_ORIGIN).await;
    let (mut web, mut web_served) = open.pop().unwrap();
    let (mut body, mut served) = open.pop().unwrap();
    let last = timeout(SOON, body.frame()).await.expect("no end in time");
    let trailers: HeaderMap = last.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "16");
    assert!(body.frame().await.is_none());
    assert_eq!(served.rest().await, b"");
    // A client of gRPC-Web does not read HTTP trailers, so the answer to such a client breaks off.
    let last = timeout(SOON, web.frame()).await.expect("no end in time");
    let error = last.unwrap().unwrap_err();
    let error = format!("{error:?}");
    assert!(
        error.contains("Reset") && error.contains("CANCEL"),
        "{error}"
    );
    assert_eq!(web_served.rest().await, b"");
    running.abort();
}
