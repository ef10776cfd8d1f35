//! Tests of the pool: when a connection is used again, and when a request is sent again.

use tokio::join;
use tokio::time::sleep;

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const CLOSE: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_clean_connection_is_used_again() {
    local(async {
        let server = Server::start().await;
        let pool = server.pool();
        let (first, mut peer) = join!(fetch(&pool, "/1"), server.answer(OK));
        assert_eq!(first.unwrap(), "ok");
        assert_eq!(pool.idle(), 1);
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
        let (second, head) = join!(fetch(&pool, "/2"), peer.answer(chunked));
        assert_eq!(second.unwrap(), "hi");
        assert!(head.starts_with("GET /2 HTTP/1.1\r\n"), "{head}");
        let post = request(Method::POST, "/3", TestBody::whole("content"));
        let (third, ()) = join!(pool.send(post), async {
            peer.until("7\r\ncontent\r\n0\r\n\r\n").await;
            peer.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        });
        let third = third.unwrap();
        // A response without a body ends after its head, so the connection is idle again.
        assert!(third.body().is_end_stream());
        assert_eq!(pool.idle(), 1);
    })
    .await;
}

#[tokio::test]
async fn the_connection_used_last_is_used_first() {
    local(async {
        let server = Server::start().await;
        let pool = server.pool();
        let both = async { join!(fetch(&pool, "/a"), fetch(&pool, "/b")) };
        let answer = async {
            let (mut one, mut two) = (server.accept().await, server.accept().await);
            one.answer(OK).await;
            // The pool must read the first response completely before the second response arrives.
            while pool.idle() < 1 {
                tokio::task::yield_now().await;
            }
            two.answer(OK).await;
            (one, two)
        };
        let (_, (_one, mut two)) = join!(both, answer);
        let (third, head) = join!(fetch(&pool, "/c"), two.answer(OK));
        assert_eq!(third.unwrap(), "ok");
        assert!(head.starts_with("GET /c "));
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_was_idle_for_too_long_is_not_used_again() {
    local(async {
        let server = Server::start().await;
        let idle = Duration::from_millis(20);
        let pool = server.pool_with(Times { idle, ..times() });
        let (_, mut old) = join!(fetch(&pool, "/1"), server.answer(OK));
        sleep(idle.saturating_mul(2)).await;
        let (second, _new) = join!(fetch(&pool, "/2"), server.answer(OK));
        assert_eq!(second.unwrap(), "ok");
        assert!(old.rest().await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_target_is_sent_in_origin_form() {
    local(async {
        let server = Server::start().await;
        let pool = server.pool();
        for (uri, line) in [
            ("http://evil.example/a?b=c", "GET /a?b=c HTTP/1.1\r\n"),
            ("http://evil.example", "GET / HTTP/1.1\r\n"),
            ("/%2e?", "GET /%2e? HTTP/1.1\r\n"),
        ] {
            let (_, head) = join!(fetch(&pool, uri), async {
                server.accept().await.answer(CLOSE).await
            });
            assert!(head.starts_with(line), "{head}");
        }
    })
    .await;
}

/// Sends a request on a connection that was used before. The server answers this request with the
/// bytes `second` and closes the connection.
async fn stale(
    server: &Server,
    pool: &Pool,
    again: Request<Upload>,
    second: &str,
) -> Result<String, Error> {
    let (_, mut peer) = join!(fetch(pool, "/first"), server.answer(OK));
    assert_eq!(pool.idle(), 1);
    let (outcome, ()) = join!(pool.send(again), async move {
        peer.head().await;
        peer.send(second).await;
    });
    text(outcome?).await
}

#[tokio::test]
async fn s_33_a_get_on_a_stale_connection_is_sent_once_more() {
    local(async {
        let server = Server::start().await;
        let pool = server.pool();
        let (_, mut peer) = join!(fetch(&pool, "/first"), server.answer(OK));
        let (outcome, head) = join!(fetch(&pool, "/again"), async {
            peer.head().await;
            drop(peer);
            server.accept().await.answer(OK).await
        });
        assert_eq!(outcome.unwrap(), "ok");
        assert!(head.starts_with("GET /again "), "{head}");
    })
    .await;
}

#[tokio::test]
async fn s_33_a_get_is_not_sent_a_third_time() {
    local(async {
        let server = Server::start().await;
        let pool = server.pool();
        let (_, mut peer) = join!(fetch(&pool, "/first"), server.answer(OK));
        let (outcome, ()) = join!(fetch(&pool, "/again"), async {
            peer.head().await;
            drop(peer);
            server.accept().await.head().await;
        });
        assert!(matches!(outcome, Err(Error::Broken(_))), "{outcome:?}");
        let (next, head) = join!(fetch(&pool, "/next"), async {
            server.accept().await.answer(OK).await
        });
        assert_eq!(next.unwrap(), "ok");
        assert!(head.starts_with("GET /next "), "{head}");
    })
    .await;
}

#[tokio::test]
async fn s_33_a_post_is_never_sent_twice() {
    local(async {
        let server = Server::start().await;
        let pool = server.pool();
        for (method, body) in [
            (Method::POST, TestBody::nothing()),
            (Method::POST, TestBody::whole("x")),
            (Method::DELETE, TestBody::nothing()),
            (Method::GET, TestBody::whole("x")),
        ] {
            let again = request(method, "/again", body);
            let outcome = stale(&server, &pool, again, "").await;
            assert!(matches!(outcome, Err(Error::Broken(_))), "{outcome:?}");
            // The next connection must receive the request for `/next`, not the failed request a
            // second time.
            let (_, head) = join!(fetch(&pool, "/next"), async {
                server.accept().await.answer(CLOSE).await
            });
            assert!(head.starts_with("GET /next "), "{head}");
        }
    })
    .await;
}

#[tokio::test]
async fn s_33_a_get_is_not_repeated_after_a_byte_of_an_answer() {
    local(async {
        let server = Server::start().await;
        let pool = server.pool();
        let outcome = stale(&server, &pool, get("/again"), "HTTP/1.1 2").await;
        assert!(matches!(outcome, Err(Error::Broken(_))), "{outcome:?}");
    })
    .await;
}

#[tokio::test]
async fn s_33_a_get_on_a_new_connection_is_not_sent_again() {
    local(async {
        let server = Server::start().await;
        let pool = server.pool();
        let (outcome, head) = join!(fetch(&pool, "/"), async {
            server.accept().await.head().await
        });
        assert!(head.starts_with("GET / "));
        assert!(matches!(outcome, Err(Error::Broken(_))), "{outcome:?}");
    })
    .await;
}

#[tokio::test]
async fn f_09_a_refused_connection_is_an_error_and_the_next_request_connects() {
    local(async {
        let server = Server::start().await;
        let pool = server.pool();
        let address = server.listener.local_addr().unwrap();
        drop(server.listener);
        let error = fetch(&pool, "/").await.unwrap_err();
        assert!(matches!(error, Error::Connect(_)), "{error:?}");
        assert!(!error.may_have_been_processed());
        let listener = TcpListener::bind(address).await.unwrap();
        let origin = server.origin;
        let server = Server { listener, origin };
        let (second, _peer) = join!(fetch(&pool, "/"), server.answer(OK));
        assert_eq!(second.unwrap(), "ok");
    })
    .await;
}

#[tokio::test]
async fn f_10_an_origin_that_never_answers_is_given_up() {
    local(async {
        let server = Server::start().await;
        let head = Duration::from_millis(30);
        let pool = server.pool_with(Times { head, ..times() });
        let (outcome, rest) = join!(fetch(&pool, "/"), async {
            server.accept().await.rest().await
        });
        assert!(matches!(outcome, Err(Error::HeadTimeout)), "{outcome:?}");
        assert!(rest.starts_with(b"GET / "));
    })
    .await;
}

#[tokio::test]
async fn the_head_deadline_waits_for_a_slow_client_but_not_for_the_origin() {
    local(async {
        let server = Server::start().await;
        let head = Duration::from_millis(60);
        let pool = server.pool_with(Times { head, ..times() });
        let (client, body) = TestBody::new();
        let post = request(Method::POST, "/", body);
        let (outcome, took) = join!(pool.send(post), async {
            let mut peer = server.accept().await;
            peer.head().await;
            sleep(head.saturating_mul(3)).await;
            client.send(Ok("late".into())).unwrap();
            peer.until("late\r\n").await;
            drop(client);
            let ended = Clock::system().instant();
            peer.rest().await;
            Clock::system().instant().duration_since(ended)
        });
        assert!(matches!(outcome, Err(Error::HeadTimeout)), "{outcome:?}");
        assert!(took.saturating_mul(2) >= head, "{took:?}");
    })
    .await;
}

#[tokio::test]
async fn a_broken_request_body_is_reported_as_the_clients_error() {
    local(async {
        let server = Server::start().await;
        let pool = server.pool();
        let (client, body) = TestBody::new();
        let post = request(Method::POST, "/", body);
        let (outcome, rest) = join!(pool.send(post), async {
            let mut peer = server.accept().await;
            client.send(Ok("half".into())).unwrap();
            peer.until("half\r\n").await;
            client.send(Err(io::Error::other("gone"))).unwrap();
            peer.rest().await
        });
        let Err(Error::RequestBody(source)) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(source.to_string(), "gone");
        assert!(rest.is_empty(), "{rest:?}");
    })
    .await;
}

#[tokio::test]
async fn s_32_an_early_answer_ends_the_upload_and_the_connection() {
    local(async {
        let server = Server::start().await;
        let pool = server.pool();
        let (client, body) = TestBody::new();
        let post = request(Method::POST, "/", body);
        let early = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n";
        let (outcome, mut peer) = join!(pool.send(post), server.answer(early));
        let response = outcome.unwrap();
        assert_eq!(response.status(), 413);
        assert_eq!(text(response).await.unwrap(), "");
        client.closed().await;
        assert_eq!(peer.rest().await, b"");
        assert_eq!(pool.idle(), 0);
    })
    .await;
}

#[tokio::test]
async fn s_32_the_connection_is_closed_when_the_client_goes_away() {
    local(async {
        let server = Server::start().await;
        let pool = server.pool();
        let part = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok";
        let (outcome, mut peer) = join!(pool.send(get("/")), server.answer(part));
        drop(outcome.unwrap());
        assert!(peer.rest().await.is_empty());
        let mut sent = Box::pin(pool.send(get("/")));
        let mut peer = tokio::select! {
            _ = &mut sent => panic!("there is no answer"),
            peer = server.accept() => peer,
        };
        let head = tokio::select! {
            _ = &mut sent => panic!("there is no answer"),
            head = peer.head() => head,
        };
        assert!(head.starts_with("GET / "));
        drop(sent);
        assert!(peer.rest().await.is_empty());
        assert_eq!(pool.idle(), 0);
    })
    .await;
}
