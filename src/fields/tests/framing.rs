//! Tests of framing with hyper's parser: hyper rejects some requests, and the gateway rejects some
//! requests that hyper accepts.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Returns the status of the gateway's answer to the bytes `request`. The status comes from hyper
/// or from [`check_framing`].
async fn answer_to(request: &str) -> u16 {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let service = service_fn(|request: Request<Incoming>| async {
        let (parts, body) = request.into_parts();
        let status = match check_framing(&parts) {
            Err(error) => error.status(),
            Ok(()) if body.collect().await.is_err() => StatusCode::BAD_REQUEST,
            Ok(()) => StatusCode::OK,
        };
        let mut response = Response::new(Empty::<Bytes>::new());
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        Ok::<_, Infallible>(response)
    });
    let mut text = Vec::new();
    let answering = async {
        // In some cases the connection ends with an error, but the test compares only the answer.
        drop(
            Builder::new()
                .serve_connection(TokioIo::new(server), service)
                .await,
        );
    };
    let asked = async {
        client.write_all(request.as_bytes()).await.unwrap();
        client.read_to_end(&mut text).await.unwrap();
    };
    let both = async { tokio::join!(answering, asked) };
    let ended = tokio::time::timeout(Duration::from_secs(10), both).await;
    assert!(ended.is_ok(), "no answer to {request:?}");
    let text = String::from_utf8(text).unwrap();
    let last = text.rsplit("HTTP/1.").next().unwrap();
    last.split(' ')
        .nth(1)
        .map_or(0, |status| status.parse().unwrap())
}

async fn assert_answers(fields_and_body: &[(&str, u16)]) {
    for (rest, wanted) in fields_and_body {
        let got = answer_to(&format!("POST / HTTP/1.1\r\nHost: gw.test\r\n{rest}")).await;
        assert_eq!(got, *wanted, "{rest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn s_04_s_11_only_one_plain_chunked_is_a_transfer_encoding() {
    const BODY: &str = "\r\n\r\n0\r\n\r\n";
    for (line, wanted) in [
        ("Transfer-Encoding: chunked", 200),
        ("Transfer-Encoding: Chunked", 200),
        ("Transfer-Encoding: xchunked", 400),
        ("Transfer-Encoding: chunked, identity", 400),
        ("Transfer-Encoding: identity, chunked", 400),
        ("Transfer-Encoding: chunked, chunked", 400),
        ("Transfer-Encoding: gzip, chunked", 400),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            400,
        ),
        (
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
            400,
        ),
        ("Transfer-Encoding: chunked;q=1", 400),
        ("Transfer-Encoding: \"chunked\"", 400),
        ("Transfer-Encoding: \x0bchunked", 400),
        ("Transfer-Encoding:\r\n chunked", 400),
        ("Transfer-Encoding: chunked\0", 400),
        ("Transfer-Encoding : chunked", 400),
    ] {
        assert_answers(&[(&format!("{line}{BODY}"), wanted)]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn s_12_transfer_encoding_is_for_http_1_1_only() {
    let old = "POST / HTTP/1.0\r\nHost: gw.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(answer_to(old).await, 400);
    let mut request = Request::post("/")
        .header("transfer-encoding", "chunked")
        .body(())
        .unwrap();
    for (version, fine) in [
        (Version::HTTP_10, false),
        (Version::HTTP_11, true),
        (Version::HTTP_2, false),
    ] {
        *request.version_mut() = version;
        let parts = request.clone().into_parts().0;
        assert_eq!(check_framing(&parts).is_ok(), fine, "{version:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn s_17_a_content_length_is_one_plain_number() {
    for (line, wanted) in [
        ("Content-Length: 0", 200),
        ("Content-Length: 00", 400),
        ("Content-Length: 005", 400),
        ("Content-Length: +5", 400),
        ("Content-Length: 5,5", 400),
        ("Content-Length: 5, 6", 400),
        ("Content-Length: 0x5", 400),
        ("Content-Length: -1", 400),
        ("Content-Length:", 400),
        ("Content-Length: 5\r\nContent-Length: 6", 400),
        ("Content-Length: 9223372036854775808", 400),
        ("Content-Length: 18446744073709551616", 400),
    ] {
        assert_answers(&[(&format!("{line}\r\n\r\nhello"), wanted)]).await;
    }
    // White space around a value is not a part of the value (RFC 9110 section 5.5).
    assert_answers(&[("Content-Length: 5 \t\r\n\r\nhello", 200)]).await;
    // If a request has two equal `Content-Length` lines, the HTTP/1 parser keeps only one line. The
    // HTTP/2 parser keeps both `Content-Length` lines.
    let twice = Request::post("/")
        .header(CONTENT_LENGTH, "5")
        .header(CONTENT_LENGTH, "5");
    let parts = twice.body(()).unwrap().into_parts().0;
    assert_eq!(
        check_framing(&parts).unwrap_err(),
        FramingError::ContentLength
    );
    // The gateway itself also rejects these values, because a later version of a parser may accept
    // them.
    for value in ["", "+5", "-1", "5 5", "9223372036854775808"] {
        let request = Request::post("/").header(CONTENT_LENGTH, value);
        let parts = request.body(()).unwrap().into_parts().0;
        assert!(check_framing(&parts).is_err(), "{value}");
    }
}

#[test]
fn s_01_s_02_a_request_with_two_lengths_is_rejected() {
    let both = Request::post("/")
        .header("content-length", "5")
        .header("transfer-encoding", "chunked");
    let parts = both.body(()).unwrap().into_parts().0;
    assert_eq!(check_framing(&parts).unwrap_err(), FramingError::TwoLengths);
}

#[tokio::test(start_paused = true)]
async fn s_01_s_03_the_parser_keeps_only_the_chunked_length_and_closes_the_connection() {
    let smuggled = "0\r\n\r\nGET /smug HTTP/1.1\r\nHost: gw.test\r\n\r\n";
    for lines in [
        format!(
            "Content-Length: {}\r\nTransfer-Encoding: chunked",
            smuggled.len()
        ),
        format!(
            "Transfer-Encoding: chunked\r\nContent-Length: {}",
            smuggled.len()
        ),
    ] {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let seen = std::cell::RefCell::new(Vec::new());
        let service = service_fn(|request: Request<Incoming>| {
            let length = request.headers().contains_key(CONTENT_LENGTH);
            seen.borrow_mut()
                .push((request.uri().path().to_owned(), length));
            async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
        });
        let request = format!("POST / HTTP/1.1\r\nHost: gw.test\r\n{lines}\r\n\r\n{smuggled}");
        client.write_all(request.as_bytes()).await.unwrap();
        // The client does not close its side of the connection, so the server has to end the
        // connection.
        let serving = Builder::new().serve_connection(TokioIo::new(server), service);
        let ended = tokio::time::timeout(Duration::from_secs(10), serving).await;
        assert!(ended.is_ok(), "{lines}");
        assert_eq!(seen.take(), [("/".to_owned(), false)], "{lines}");
    }
}

#[tokio::test(start_paused = true)]
async fn s_20_an_expectation_is_exactly_100_continue() {
    for (line, wanted) in [
        ("Expect: 100-continue", 200),
        ("Expect: 100-Continue", 200),
        ("Expect: y 100-continue", 417),
        ("Expect: 100-continue, x", 417),
        ("Expect: 100-continue\r\nExpect: 100-continue", 417),
        ("Expect:", 417),
    ] {
        assert_answers(&[(&format!("{line}\r\nContent-Length: 5\r\n\r\nhello"), wanted)]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn s_43_an_upgrade_request_with_a_body_is_rejected() {
    assert_answers(&[
        ("Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
        (
            "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello",
            400,
        ),
        (
            "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
            400,
        ),
        (
            "Upgrade: h2c, websocket\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello",
            200,
        ),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn h_06_s_21_s_27_s_29_the_parser_rejects_malformed_heads() {
    assert_answers(&[
        ("X-User : admin\r\n\r\n", 400),
        ("X-A: b\r\n c\r\n\r\n", 400),
        ("X-A: b\0c\r\n\r\n", 400),
        ("X-A: b\x7fc\r\n\r\n", 400),
        ("X A: b\r\n\r\n", 400),
        ("X(A: b\r\n\r\n", 400),
        (": b\r\n\r\n", 400),
    ])
    .await;
}

#[test]
fn codes_for_the_log_are_stable_and_distinct() {
    for (error, code) in [
        (FramingError::ContentLength, "framing_content_length"),
        (FramingError::Expectation, "framing_expectation"),
        (FramingError::TransferEncoding, "framing_transfer_encoding"),
        (FramingError::TwoLengths, "framing_two_lengths"),
        (FramingError::UpgradeWithBody, "framing_upgrade_with_body"),
    ] {
        assert_eq!(error.reason(), code);
    }
}
