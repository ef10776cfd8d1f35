//! Tests of origins that end connections and streams, and of requests that the client aborts.

use super::*;
use crate::origin::KeepAlive;

/// An app that answers the first request with `first`, and all other requests with "ok". Returns
/// the app and the number of requests that the app has received.
async fn first_then_ok(first: impl Fn(SendResponse<Bytes>) + 'static) -> (App, Rc<Cell<usize>>) {
    let count = Rc::new(Cell::new(0));
    let seen = Rc::clone(&count);
    let app = App::start(move |_request, respond| {
        increment(&seen);
        if seen.get() == 1 {
            first(respond);
        } else {
            answer(respond, "ok");
        }
        std::future::ready(())
    });
    (app.await, count)
}

#[tokio::test]
async fn after_goaway_requests_finish_and_new_requests_get_another_connection() {
    local(async {
        let finish = Rc::new(Notify::new());
        let wait = Rc::clone(&finish);
        let app = App::start(move |_request, mut respond| {
            let wait = Rc::clone(&wait);
            async move {
                let mut body = respond.send_response(head(200), false).unwrap();
                wait.notified().await;
                body.send_data(Bytes::from_static(b"ok"), true).unwrap();
            }
        })
        .await;
        let pool = app.pool();
        let old = pool.send(get("/old")).await.unwrap();
        app.shutdown.notify_waiters();
        // The test sends the second request after the gateway has read the GOAWAY frame.
        until(|| pool.idle() == 0 && pool.usable() == 0).await;
        let new = pool.send(get("/new")).await.unwrap();
        assert_eq!(app.connections.get(), 2);
        finish.notify_one();
        assert_eq!(text(old).await.unwrap(), "ok");
        finish.notify_one();
        assert_eq!(text(new).await.unwrap(), "ok");
        until(|| app.limit.free() == 15).await;
    })
    .await;
}

#[tokio::test]
async fn s_33_a_refused_request_without_content_is_sent_again_once() {
    local(async {
        for (method, content, sent) in [
            (Method::GET, false, 2),
            (Method::POST, false, 2),
            (Method::POST, true, 1),
        ] {
            let refuse = |mut respond: SendResponse<Bytes>| {
                respond.send_reset(Reason::REFUSED_STREAM);
            };
            let (app, count) = first_then_ok(refuse).await;
            let body = if content {
                TestBody::whole("x")
            } else {
                TestBody::nothing()
            };
            let outcome = app.pool().send(request(method.clone(), "/", body)).await;
            assert_eq!(
                outcome.is_ok(),
                sent == 2,
                "{method} {content}: {outcome:?}"
            );
            assert_eq!(count.get(), sent, "{method} {content}");
        }
        // After a second refusal, the gateway does not send the request again.
        let count = Rc::new(Cell::new(0));
        let seen = Rc::clone(&count);
        let app = App::start(move |_request, mut respond| {
            increment(&seen);
            respond.send_reset(Reason::REFUSED_STREAM);
            std::future::ready(())
        })
        .await;
        let error = app.pool().send(get("/")).await.unwrap_err();
        assert!(matches!(error, Error::Http2(_)), "{error:?}");
        assert_eq!(count.get(), 2);
    })
    .await;
}

#[tokio::test]
async fn s_33_a_request_that_may_have_been_processed_is_not_sent_again() {
    local(async {
        for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::NO_ERROR] {
            let (app, count) = first_then_ok(move |mut respond| respond.send_reset(reason)).await;
            let error = app.pool().send(get("/")).await.unwrap_err();
            assert!(matches!(error, Error::Http2(_)), "{reason:?}: {error:?}");
            assert_eq!(count.get(), 1, "{reason:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn s_33_a_safe_request_on_a_lost_connection_is_sent_again() {
    local(async {
        for (method, again) in [(Method::GET, true), (Method::DELETE, false)] {
            let server = Server::start().await;
            let limit = Arc::new(limit(4, 4));
            let pool = Pool::new(http2(&server), limit, times(), Clock::system());
            let ok = async |connection: &mut server::Connection<TcpStream, Bytes>| {
                let (_, respond) = connection.accept().await.unwrap().unwrap();
                answer(respond, "ok");
                // `accept` waits for the next request, and also writes the answer.
                connection.accept().await
            };
            let app = async {
                let stream = server.accept().await.0;
                let mut connection = server::handshake(stream).await.unwrap();
                // The app accepts a second request, and closes the connection without an answer.
                assert!(matches!(ok(&mut connection).await, Some(Ok(_))));
                drop(connection);
                if again {
                    let stream = server.accept().await.0;
                    let mut connection = server::handshake(stream).await.unwrap();
                    ok(&mut connection).await;
                }
            };
            let client = async {
                assert_eq!(fetch(&pool, "/1").await.unwrap(), "ok");
                let second = request(method.clone(), "/2", TestBody::nothing());
                let second = pool.send(second).await;
                assert_eq!(second.is_ok(), again, "{method}: {second:?}");
                drop((second, pool));
            };
            join!(app, client);
        }
    })
    .await;
}

#[tokio::test]
async fn f_09_an_incomplete_response_never_ends_cleanly() {
    local(async {
        for (length, reason) in [
            (None, Reason::CANCEL),
            (None, Reason::INTERNAL_ERROR),
            (None, Reason::NO_ERROR),
            (Some("5"), Reason::NO_ERROR),
        ] {
            let app = App::start(move |_request, mut respond| async move {
                let mut head = head(200);
                if let Some(length) = length {
                    head.headers_mut()
                        .insert("content-length", length.parse().unwrap());
                }
                let mut body = respond.send_response(head, false).unwrap();
                assert!(send_bytes(&mut body, 3).await);
                tokio::task::yield_now().await;
                body.send_reset(reason);
            })
            .await;
            let response = app.pool().send(get("/")).await.unwrap();
            let error = text(response).await.unwrap_err();
            assert!(matches!(error, Error::Http2(_)), "{reason:?}: {error:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_is_given_up_resets_only_its_stream() {
    local(async {
        let reset = Rc::new(RefCell::new(Vec::new()));
        let (seen, arrived) = (Rc::clone(&reset), Rc::new(Cell::new(0)));
        let count = Rc::clone(&arrived);
        let app = App::start(move |request, mut respond| {
            let (seen, count) = (Rc::clone(&seen), Rc::clone(&count));
            async move {
                increment(&count);
                let path = request.uri().path().to_owned();
                if path == "/ok" {
                    return answer(respond, "ok");
                }
                // The app never reads the content of the request.
                let _content = request.into_body();
                let reason = if path == "/body" {
                    let mut body = respond.send_response(head(200), false).unwrap();
                    std::future::poll_fn(|cx| body.poll_reset(cx)).await
                } else {
                    std::future::poll_fn(|cx| respond.poll_reset(cx)).await
                };
                seen.borrow_mut().push((path, reason.unwrap()));
            }
        })
        .await;
        let pool = app.pool();
        let mut other = pool.send(get("/other"));
        for path in ["/head", "/body"] {
            // The client sends more bytes than the flow control allows, and never ends the content.
            let (client, content) = TestBody::new();
            client
                .send(Ok(Bytes::from(vec![b'x'; 1024 * 1024])))
                .unwrap();
            let mut sent = pool.send(request(Method::POST, path, content));
            let response = tokio::select! {
                biased;
                _ = &mut other => panic!("the other request has ended"),
                response = &mut sent => Some(response.unwrap()),
                () = until(|| path == "/head" && arrived.get() == 2) => None,
            };
            drop((sent, response));
            until(|| reset.borrow().iter().any(|(reset, _)| reset == path)).await;
            drop(client);
        }
        let expected = ["/head", "/body"].map(|path| (path.to_owned(), Reason::CANCEL));
        assert_eq!(*reset.borrow(), expected);
        assert_eq!(fetch(&pool, "/ok").await.unwrap(), "ok");
        drop(other);
        until(|| reset.borrow().len() == 3).await;
        assert_eq!(app.connections.get(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_request_whose_content_breaks_off_resets_its_stream() {
    local(async {
        let reset = Rc::new(Cell::new(None));
        let seen = Rc::clone(&reset);
        let app = App::start(move |request, _respond| {
            let seen = Rc::clone(&seen);
            async move {
                let mut content = request.into_body();
                while let Some(data) = content.data().await {
                    match data {
                        Ok(data) => {
                            content.flow_control().release_capacity(data.len()).unwrap();
                        }
                        Err(error) => return seen.set(error.reason()),
                    }
                }
            }
        })
        .await;
        let (client, content) = TestBody::new();
        client.send(Ok(Bytes::from_static(b"half"))).unwrap();
        client.send(Err(io::Error::other("gone"))).unwrap();
        let pool = app.pool();
        let error = pool
            .send(request(Method::POST, "/", content))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::RequestBody(_)), "{error:?}");
        until(|| reset.get() == Some(Reason::CANCEL)).await;
    })
    .await;
}

#[tokio::test]
async fn a_dead_connection_is_detected_by_a_ping() {
    local(async {
        let server = Server::start().await;
        let limit = Arc::new(limit(4, 4));
        let keep_alive = KeepAlive {
            silence: Duration::from_millis(20),
            interval: Duration::from_hours(1),
            answer: Duration::from_millis(20),
        };
        let times = Times {
            keep_alive,
            ..times()
        };
        let pool = Pool::new(http2(&server), Arc::clone(&limit), times, Clock::system());
        let (outcome, _connection) = join!(pool.send(get("/")), async {
            let stream = server.accept().await.0;
            let mut connection = server::handshake(stream).await.unwrap();
            let request = connection.accept().await.unwrap().unwrap();
            // From now on, the app reads nothing and answers nothing.
            (connection, request)
        });
        assert!(matches!(outcome, Err(Error::Http2(_))), "{outcome:?}");
        until(|| limit.free() == 4).await;
    })
    .await;
}

#[tokio::test]
async fn a_silent_app_that_answers_pings_keeps_its_stream() {
    local(async {
        let app = App::start(|_request, respond| async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            answer(respond, "ok");
        })
        .await;
        let keep_alive = KeepAlive {
            silence: Duration::from_millis(20),
            interval: Duration::from_millis(20),
            answer: Duration::from_secs(5),
        };
        let pool = app.pool_with(Times {
            keep_alive,
            ..times()
        });
        assert_eq!(fetch(&pool, "/").await.unwrap(), "ok");
    })
    .await;
}

/// Reads one frame, and returns its type, its flags and its payload.
async fn frame(peer: &mut Peer) -> io::Result<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    peer.0.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    peer.0.read_exact(&mut payload).await?;
    Ok((head[3], head[4], payload))
}

/// gRPC servers close a connection on which pings arrive too often (`too_many_pings`).
#[tokio::test]
async fn pings_are_rare_while_nothing_else_arrives() {
    local(async {
        let server = Server::start().await;
        let keep_alive = KeepAlive {
            silence: Duration::from_millis(10),
            interval: Duration::from_hours(1),
            answer: WATCHDOG,
        };
        let times = Times {
            keep_alive,
            ..times()
        };
        let pool = Pool::new(
            http2(&server),
            Arc::new(limit(1, 1)),
            times,
            Clock::system(),
        );
        let pings = async {
            let mut peer = server.accept().await;
            peer.until("SM\r\n\r\n").await;
            // Empty settings.
            peer.0
                .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
                .await
                .unwrap();
            let mut pings = 0_usize;
            while let Ok(Ok((kind, flags, payload))) =
                timeout(Duration::from_millis(300), frame(&mut peer)).await
            {
                if (kind, flags) == (6, 0) {
                    pings = pings.saturating_add(1);
                    let answer = [&[0, 0, 8, 6, 1, 0, 0, 0, 0][..], &payload].concat();
                    peer.0.write_all(&answer).await.unwrap();
                }
            }
            pings
        };
        let mut request = pool.send(get("/"));
        tokio::select! {
            outcome = &mut request => panic!("{outcome:?}"),
            pings = pings => assert_eq!(pings, 1),
        }
    })
    .await;
}

#[tokio::test]
async fn f_10_the_deadlines_of_head_and_body_apply_to_each_stream() {
    local(async {
        let app = App::start(|request, mut respond| async move {
            let mut body = None;
            if request.uri().path() == "/body" {
                body = Some(respond.send_response(head(200), false).unwrap());
            }
            std::future::pending::<()>().await;
            drop(body);
        })
        .await;
        let short = Duration::from_millis(30);
        let pool = app.pool_with(Times {
            head: short,
            stall: Some(short),
            ..times()
        });
        let error = pool.send(get("/head")).await.unwrap_err();
        assert!(matches!(error, Error::HeadTimeout), "{error:?}");
        let response = pool.send(get("/body")).await.unwrap();
        let error = text(response).await.unwrap_err();
        assert!(matches!(error, Error::BodyTimeout), "{error:?}");
        assert_eq!(app.connections.get(), 1);
    })
    .await;
}

#[tokio::test]
async fn f_11_a_storm_of_informational_responses_is_no_answer() {
    local(async {
        let app = App::start(|request, mut respond| async move {
            if request.uri().path() == "/storm" {
                for status in (0..1000).map(|index| [100, 102, 103, 199][index % 4]) {
                    respond.send_informational(head(status)).unwrap();
                }
            }
            answer(respond, "ok");
        })
        .await;
        let pool = app.pool();
        assert_eq!(fetch(&pool, "/storm").await.unwrap(), "ok");
        assert_eq!(fetch(&pool, "/").await.unwrap(), "ok");
    })
    .await;
}

#[tokio::test]
async fn s_32_an_app_that_resets_every_stream_stops_nobody() {
    local(async {
        let app = App::start(|request, mut respond| async move {
            if request.uri().path() == "/ok" {
                return answer(respond, "ok");
            }
            respond.send_reset(Reason::INTERNAL_ERROR);
        })
        .await;
        let pool = app.pool();
        for _ in 0..2000 {
            pool.send(get("/")).await.unwrap_err();
        }
        assert_eq!(fetch(&pool, "/ok").await.unwrap(), "ok");
    })
    .await;
}

#[tokio::test]
async fn an_app_that_cannot_be_reached_fails_all_requests_that_wait() {
    local(async {
        let server = Server::start().await;
        let connector = http2(&server);
        drop(server);
        let limit = Arc::new(limit(1, 16));
        let pool = Pool::new(connector, limit, times(), Clock::system());
        let (one, two) = join!(pool.send(get("/1")), pool.send(get("/2")));
        for outcome in [one, two] {
            assert!(matches!(outcome, Err(Error::Connect(_))), "{outcome:?}");
        }
    })
    .await;
}
