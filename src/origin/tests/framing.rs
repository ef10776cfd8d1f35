//! Tests of answers with contradictory framing, incomplete answers, and answers that arrive without
//! a request.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use tokio::join;

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Sends a request, and returns the response or the error. The server answers with `response` and
/// then closes the connection.
async fn broken_off(response: &str) -> Result<String, Error> {
    let server = Server::start().await;
    let pool = server.pool();
    let (outcome, ()) = join!(fetch(&pool, "/"), async {
        drop(server.answer(response).await);
    });
    assert_eq!(pool.idle(), 0, "{response:?}");
    outcome
}

/// Answers a request with the bytes `response`. Asserts that the gateway closes the connection of
/// this request and sends the next request on another connection.
async fn never_reused(method: Method, response: &str) -> Response<Bytes> {
    let server = Server::start().await;
    let pool = server.pool();
    let first = request(method, "/1", TestBody::nothing());
    let (outcome, mut peer) = join!(pool.send(first), server.answer(response));
    let (parts, body) = outcome.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let (second, _other) = join!(fetch(&pool, "/2"), server.answer(OK));
    assert_eq!(second.unwrap(), "ok", "{response:?}");
    assert!(peer.rest().await.is_empty(), "{response:?}");
    Response::from_parts(parts, body)
}

#[tokio::test]
async fn f_09_a_truncated_body_never_ends_cleanly() {
    local(async {
        for response in [
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok",
            "HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nok",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\nx\r\n\r\n",
        ] {
            let outcome = broken_off(response).await;
            assert!(
                matches!(outcome, Err(Error::Broken(_))),
                "{response:?}: {outcome:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn f_09_an_invalid_answer_is_an_error() {
    local(async {
        for response in [
            "",
            "HTTP/1.1 200",
            "HTTP/1.1 200 OK\r\nx: y\r\n",
            "hello\r\n\r\n",
            "<html>HTTP/0.9</html>",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\nok",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ] {
            let outcome = broken_off(response).await;
            assert!(
                matches!(outcome, Err(Error::Broken(_))),
                "{response:?}: {outcome:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn d_33_an_endless_head_is_given_up() {
    local(async {
        let wide = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101));
        for response in [wide, many] {
            let server = Server::start().await;
            let pool = server.pool();
            let (outcome, _) = join!(fetch(&pool, "/"), async {
                let mut peer = server.accept().await;
                peer.head().await;
                // The gateway may close the connection before the server has written all bytes.
                peer.0.write_all(response.as_bytes()).await.ok();
                peer.rest().await
            });
            let is_refused = matches!(
                outcome,
                Err(Error::HeadTooLarge(_) | Error::TooManyFields(100))
            );
            assert!(is_refused, "{outcome:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn d_33_endless_interim_responses_are_given_up() {
    local(async {
        for drop_by_drop in [
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 103 x\r\nlink: x\r\n\r\n",
        ] {
            let server = Server::start().await;
            let head = Duration::from_millis(50);
            let pool = server.pool_with(Times { head, ..times() });
            let (outcome, ()) = join!(fetch(&pool, "/"), async {
                let mut peer = server.accept().await;
                peer.head().await;
                while peer.0.write_all(drop_by_drop.as_bytes()).await.is_ok() {
                    tokio::task::yield_now().await;
                }
            });
            assert!(matches!(outcome, Err(Error::HeadTimeout)), "{outcome:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn s_41_an_unrequested_switch_of_protocols_is_refused() {
    local(async {
        for fields in ["", "connection: upgrade\r\nupgrade: websocket\r\n"] {
            let response = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\nsecret");
            let server = Server::start().await;
            let pool = server.pool();
            let (outcome, mut peer) = join!(fetch(&pool, "/"), server.answer(&response));
            assert!(
                matches!(outcome, Err(Error::UnrequestedUpgrade)),
                "{outcome:?}"
            );
            assert!(peer.rest().await.is_empty());
            assert_eq!(pool.idle(), 0);
        }
    })
    .await;
}

#[tokio::test]
async fn s_32_bytes_after_an_answer_are_never_the_next_answer() {
    local(async {
        let stray = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray";
        for (method, response) in [
            (Method::GET, OK.to_owned() + stray),
            (Method::GET, OK.to_owned() + "\r\n"),
            (
                Method::GET,
                format!("HTTP/1.1 204 No Content\r\n\r\n{stray}"),
            ),
            (
                Method::GET,
                format!("HTTP/1.1 204 No Content\r\ncontent-length: 52\r\n\r\n{stray}"),
            ),
            (
                Method::GET,
                format!("HTTP/1.1 304 Not Modified\r\n\r\n{stray}"),
            ),
            (Method::HEAD, OK.to_owned()),
            (
                Method::GET,
                format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{stray}"),
            ),
        ] {
            never_reused(method, &response).await;
        }
    })
    .await;
}

#[tokio::test]
async fn s_32_bytes_on_an_idle_connection_close_it() {
    local(async {
        let server = Server::start().await;
        let pool = server.pool();
        let (_, mut peer) = join!(fetch(&pool, "/1"), server.answer(OK));
        assert_eq!(pool.idle(), 1);
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray")
            .await;
        assert!(peer.rest().await.is_empty());
        let (second, _other) = join!(fetch(&pool, "/2"), server.answer(OK));
        assert_eq!(second.unwrap(), "ok");
    })
    .await;
}

#[tokio::test]
async fn s_32_an_http_1_0_answer_ends_with_its_connection() {
    local(async {
        let whole = broken_off("HTTP/1.0 200 OK\r\n\r\nuntil the end").await;
        assert_eq!(whole.unwrap(), "until the end");
        let whole = broken_off("HTTP/1.1 200 OK\r\n\r\nuntil the end").await;
        assert_eq!(whole.unwrap(), "until the end");
        let kept_alive = "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok";
        let response = never_reused(Method::GET, kept_alive).await;
        assert_eq!(response.version(), http::Version::HTTP_11);
    })
    .await;
}

#[tokio::test]
async fn s_32_an_answer_framed_twice_is_reframed_and_its_connection_closed() {
    local(async {
        let chunks = "2\r\nok\r\n0\r\n\r\n";
        for (fields, body, length) in [
            (
                "content-length: 2\r\ncontent-length: 2\r\n",
                "ok",
                Some("2"),
            ),
            ("content-length: 2, 2\r\n", "ok", Some("2")),
            (
                "transfer-encoding: chunked\r\ncontent-length: 9\r\n",
                chunks,
                None,
            ),
            (
                "content-length: 1\r\ntransfer-encoding: Chunked\r\n",
                chunks,
                None,
            ),
            (
                "connection: close\r\ncontent-length: 2\r\n",
                "ok",
                Some("2"),
            ),
        ] {
            let response = format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}");
            let response = never_reused(Method::GET, &response).await;
            let lengths: Vec<_> = response.headers().get_all(CONTENT_LENGTH).iter().collect();
            assert_eq!(lengths, Vec::from_iter(length), "{fields:?}");
            assert!(!response.headers().contains_key(TRANSFER_ENCODING));
            assert_eq!(response.body().len(), 2);
        }
    })
    .await;
}

#[tokio::test]
async fn s_32_an_unrequested_coding_is_refused() {
    local(async {
        for coding in [
            "gzip",
            "gzip, chunked",
            "identity",
            "chunked\r\ntransfer-encoding: chunked",
        ] {
            let response = format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: {coding}\r\n\r\n2\r\nok\r\n0\r\n\r\n"
            );
            let outcome = broken_off(&response).await;
            assert!(matches!(outcome, Err(Error::Framing)), "{outcome:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn trailers_are_dropped_unless_the_caller_wants_them() {
    local(async {
        let server = Server::start().await;
        let pool = server.pool();
        let trailed = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                       2\r\nok\r\n0\r\nx: y\r\nset-cookie: z\r\n\r\n";
        for wanted in [false, true] {
            let (outcome, peer) = join!(pool.send(get("/")), server.answer(trailed));
            let mut body = outcome.unwrap().into_body();
            if wanted {
                body.forward_trailers();
            }
            let collected = body.collect().await.unwrap();
            let trailers = collected.trailers().cloned().unwrap_or_default();
            assert_eq!(trailers.contains_key("x"), wanted);
            assert!(!trailers.contains_key("set-cookie"));
            assert_eq!(collected.to_bytes(), "ok");
            assert_eq!(pool.idle(), 1);
            drop(peer);
        }
    })
    .await;
}

#[tokio::test]
async fn f_10_a_stalled_body_is_an_error() {
    local(async {
        let server = Server::start().await;
        let stall = Some(Duration::from_millis(30));
        let pool = server.pool_with(Times { stall, ..times() });
        let part = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok";
        let (outcome, mut peer) = join!(fetch(&pool, "/"), server.answer(part));
        assert!(matches!(outcome, Err(Error::BodyTimeout)), "{outcome:?}");
        assert!(peer.rest().await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_body_without_a_deadline_may_pause() {
    local(async {
        let server = Server::start().await;
        let pool = server.pool_with(Times {
            stall: None,
            ..times()
        });
        let part = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok";
        let (outcome, mut peer) = join!(pool.send(get("/")), server.answer(part));
        let mut read = Box::pin(text(outcome.unwrap()));
        tokio::select! {
            read = &mut read => panic!("{read:?}"),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        peer.send("ok").await;
        assert_eq!(read.await.unwrap(), "okok");
    })
    .await;
}
