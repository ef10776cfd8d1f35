//! Tests of connections that carry several requests.

use super::*;
use crate::origin::Eviction;

/// Answers no request before `count` requests have arrived.
fn together(
    count: usize,
) -> impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> Pin<Box<dyn Future<Output = ()>>> {
    let barrier = Rc::new(tokio::sync::Barrier::new(count));
    move |_request, respond| {
        let barrier = Rc::clone(&barrier);
        Box::pin(async move {
            barrier.wait().await;
            answer(respond, "ok");
        })
    }
}

/// Sends `count` requests at the same time.
async fn fetch_all(pool: &Pool, count: usize) {
    let mut requests = Vec::new();
    for _ in 0..count {
        let pool = pool.clone();
        requests.push(spawn_local(async move { fetch(&pool, "/").await.unwrap() }));
    }
    for request in requests {
        assert_eq!(request.await.unwrap(), "ok");
    }
}

#[tokio::test]
async fn requests_at_the_same_time_share_a_connection() {
    local(async {
        let app = App::start(together(100)).await;
        let pool = app.pool();
        fetch_all(&pool, 100).await;
        assert_eq!(app.connections.get(), 1);
        assert_eq!(app.limit.free(), 15);
        assert_eq!(pool.idle(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_further_connection_is_opened_only_when_all_are_full() {
    local(async {
        let app = App::start(together(101)).await;
        fetch_all(&app.pool(), 101).await;
        assert_eq!(app.connections.get(), 2);
    })
    .await;
}

#[tokio::test]
async fn the_origin_limits_the_streams_of_a_connection() {
    local(async {
        let mut builder = server::Builder::new();
        builder.max_concurrent_streams(2);
        let app = App::with(builder, limit(16, 16), together(6)).await;
        fetch_all(&app.pool(), 6).await;
        assert_eq!(app.connections.get(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_request_waits_for_a_stream_if_no_connection_may_be_opened() {
    local(async {
        let mut builder = server::Builder::new();
        builder.max_concurrent_streams(1);
        let app = App::with(builder, limit(1, 1), together(1)).await;
        let pool = app.pool();
        let first = pool.send(get("/1")).await.unwrap();
        let (second, mut third) = (pool.send(get("/2")), pool.send(get("/3")));
        let mut second = std::pin::pin!(second);
        tokio::select! {
            // The second request has to enter the queue before the third request, because the queue
            // has only one place.
            biased;
            _ = &mut second => panic!("two requests on one stream"),
            busy = &mut third => assert!(matches!(busy, Err(Error::Busy)), "{busy:?}"),
        }
        assert_eq!(text(first).await.unwrap(), "ok");
        assert_eq!(text(second.await.unwrap()).await.unwrap(), "ok");
        assert_eq!(app.connections.get(), 1);
        assert_eq!(app.limit.waiting(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_request_that_waits_too_long_is_refused() {
    local(async {
        let mut builder = server::Builder::new();
        builder.max_concurrent_streams(1);
        let one = NonZeroUsize::MIN;
        let limit = Limit::new(one, 1, Duration::from_millis(20), SHARES);
        let app = App::with(builder, limit, together(1)).await;
        let pool = app.pool();
        let _first = pool.send(get("/1")).await.unwrap();
        let busy = pool.send(get("/2")).await;
        assert!(matches!(busy, Err(Error::Busy)), "{busy:?}");
    })
    .await;
}

#[tokio::test]
async fn workers_take_turns_with_the_only_connection() {
    local(async {
        let app = App::with(server::Builder::new(), limit(1, 16), together(1)).await;
        let (one, two) = (app.pool(), app.pool());
        for connections in [2, 4, 6] {
            let busy = one.send(get("/1")).await.unwrap();
            let (other, ()) = join!(fetch(&two, "/2"), async {
                until(|| app.limit.waiting() == 1).await;
                assert_eq!(text(busy).await.unwrap(), "ok");
            });
            assert_eq!(other.unwrap(), "ok");
            assert_eq!(app.connections.get(), connections);
            // The connection of the other worker is idle now. The worker with the idle connection
            // closes this connection, so that the worker with the waiting request can open a
            // connection.
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_client_does_not_block_other_streams() {
    local(async {
        const LENGTH: usize = 4 * 1024 * 1024;
        let app = App::start(|_request, mut respond| async move {
            let mut body = respond.send_response(head(200), false).unwrap();
            if send_bytes(&mut body, LENGTH).await {
                body.send_data(Bytes::new(), true).unwrap();
            }
        })
        .await;
        let pool = app.pool();
        let mut slow = Vec::new();
        for _ in 0..99 {
            slow.push(pool.send(get("/slow")).await.unwrap());
        }
        let fast = text(pool.send(get("/fast")).await.unwrap()).await.unwrap();
        assert_eq!(fast.len(), LENGTH);
        let last = text(slow.pop().unwrap()).await.unwrap();
        assert_eq!(last.len(), LENGTH);
        assert_eq!(app.connections.get(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_connection_closes_when_it_was_idle_for_too_long() {
    local(async {
        let app = App::start(together(1)).await;
        let idle = Duration::from_millis(50);
        let pool = app.pool_with(Times { idle, ..times() });
        fetch_all(&pool, 1).await;
        assert_eq!((pool.idle(), app.limit.free()), (1, 15));
        until(|| app.limit.free() == 16).await;
        assert_eq!(pool.idle(), 0);
        fetch_all(&pool, 1).await;
        assert_eq!(app.connections.get(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_request_that_is_dropped_while_a_connection_opens_loses_nothing() {
    local(async {
        let app = App::start(together(1)).await;
        let pool = app.pool();
        let mut dropped = pool.send(get("/1"));
        let polled = std::future::poll_fn(|cx| Poll::Ready(dropped.as_mut().poll(cx)));
        assert!(polled.await.is_pending());
        drop(dropped);
        fetch_all(&pool, 1).await;
        assert_eq!(app.connections.get(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_waits_for_its_client_is_reset_for_a_waiting_request() {
    local(async {
        let mut builder = server::Builder::new();
        builder.max_concurrent_streams(2);
        let shares = Shares {
            slow_client: Duration::from_millis(50),
            ..SHARES
        };
        let limit = Limit::new(NonZeroUsize::MIN, 4, WATCHDOG, shares);
        let app = App::with(builder, limit, |request, mut respond| async move {
            if request.uri().path() == "/fast" {
                return answer(respond, "ok");
            }
            let mut content = request.into_body();
            if !content.is_end_stream() {
                while content.data().await.is_some_and(|data| data.is_ok()) {}
                return;
            }
            let mut body = respond.send_response(head(200), false).unwrap();
            send_bytes(&mut body, 1 << 20).await;
        })
        .await;
        let pool = app.pool();
        let mut unread = pool.send(get("/slow")).await.unwrap().into_body();
        unread.frame().await.unwrap().unwrap();
        let watch = unread.eviction().unwrap();
        let (_sender, body) = TestBody::new();
        let upload = pool.send(request(Method::POST, "/slow", body));
        // The exchange with the unread answer waits for its client. The upload also waits for its
        // client. The exchange with the unread answer has waited longer, so the first request for
        // `/fast` evicts this exchange.
        let (uploaded, ()) = join!(upload, async {
            let first = fetch(&pool, "/fast");
            let (first, evicted) = join!(first, async {
                let evicted = watch.evicted().await;
                drop(unread);
                evicted
            });
            assert_eq!(first.unwrap(), "ok");
            assert_eq!(evicted, Eviction::SlowClient);
            let _unread = pool.send(get("/slow")).await.unwrap();
            assert_eq!(fetch(&pool, "/fast").await.unwrap(), "ok");
        });
        let error = uploaded.map(|_| ()).unwrap_err();
        assert!(
            matches!(error, Error::Evicted(Eviction::SlowClient)),
            "{error:?}"
        );
        assert_eq!(app.connections.get(), 1);
    })
    .await;
}
