//! Tests of three properties: only one process listens on an address, a drain loses no request, and
//! the number of connections is limited.

use super::*;

#[tokio::test]
async fn only_one_listener_can_have_an_address() {
    let server = Server::start(with(long()));
    let again = Listener::bind(server.plain);
    assert!(matches!(again, Err(Error::Bind { address, .. }) if address == server.plain));
    server.workers.drained().await;
    // After the workers have ended, another process can listen on the address, although the kernel
    // still has some of their connections.
    Listener::bind(server.plain).unwrap();
}

#[tokio::test]
async fn a_drain_finishes_requests_and_closes_idle_connections() {
    let mut server = Server::with_workers(with(long()), 2);
    let mut idle = server.client().await;
    assert!(idle.get("/").await.ends_with("hello"));
    let mut secure = server.secure_client(&[b"http/1.1"]).await;
    assert!(secure.get("/").await.ends_with("hello"));
    for path in ["/", "/"] {
        server.entered(path).await;
        server.left(path).await;
    }
    let mut busy = server.client().await;
    busy.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.entered("/hold").await;

    server.workers.begin_drain();
    assert_eq!(idle.rest().await, "");
    assert_eq!(secure.rest().await, "");
    server.probe.release.add_permits(1);
    let response = busy.rest().await;
    assert!(
        response.starts_with("HTTP/1.1 200") && response.ends_with("held"),
        "{response}"
    );
    assert!(response.contains("connection: close\r\n"), "{response}");
    assert_eq!(server.workers.drained().await, Drained { cut: 0, lost: 0 });
    assert!(TcpStream::connect(server.plain).await.is_err());
}

#[tokio::test]
async fn a_drain_answers_an_unread_request() {
    let mut server = Server::start(with(long()));
    let mut used = server.client().await;
    assert!(used.get("/").await.ends_with("hello"));
    server.entered("/").await;
    server.left("/").await;
    let mut blocking = server.client().await;
    blocking
        .send("GET /block HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    server.entered("/block").await;
    // The worker's thread is blocked, so the worker cannot read the request to `/second` yet.
    used.send("GET /second HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.workers.begin_drain();
    server.probe.release.add_permits(1);
    let response = used.rest().await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response:?}");
    assert!(response.contains("connection: close\r\n"), "{response}");
    assert_eq!(server.workers.drained().await, Drained { cut: 0, lost: 0 });
}

#[tokio::test]
async fn a_drain_ends_late_requests_and_counts_them() {
    let mut server = Server::start(with(Deadlines {
        drain: SHORT,
        ..long()
    }));
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = server.client().await;
        client.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n").await;
        server.entered("/never").await;
        clients.push(client);
    }
    assert_eq!(
        soon(server.workers.drained()).await,
        Drained { cut: 2, lost: 0 }
    );
    for mut client in clients {
        assert_eq!(client.rest().await, "");
    }
}

#[tokio::test]
async fn a_drain_serves_connections_queued_in_the_kernel() {
    let mut server = Server::start(with(long()));
    let mut blocking = server.client().await;
    blocking
        .send("GET /block HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    server.entered("/block").await;
    // The worker's thread is blocked, so these connections exist only in the kernel's queue.
    let mut queued = Vec::new();
    for _ in 0..5 {
        let mut client = server.client().await;
        client.send("GET /queued HTTP/1.1\r\nHost: a\r\n\r\n").await;
        queued.push(client);
    }
    server.workers.begin_drain();
    server.probe.release.add_permits(1);
    for mut client in queued {
        let response = client.rest().await;
        assert!(
            response.starts_with("HTTP/1.1 200") && response.ends_with("hello"),
            "{response}"
        );
        assert!(response.contains("connection: close\r\n"), "{response}");
    }
    assert!(blocking.rest().await.ends_with("unblocked"));
    assert_eq!(
        soon(server.workers.drained()).await,
        Drained { cut: 0, lost: 0 }
    );
}

#[tokio::test]
async fn a_drain_serves_connections_that_wait_at_the_limit() {
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    let mut server = Server::start(Settings {
        deadlines: long(),
        limits,
        ..Settings::default()
    });
    let mut busy = server.client().await;
    busy.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.entered("/hold").await;
    let mut waiting = server.client().await;
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.workers.begin_drain();
    server.probe.release.add_permits(1);
    assert!(busy.rest().await.ends_with("held"));
    let response = waiting.rest().await;
    assert!(response.contains("connection: close\r\n"), "{response}");
    assert_eq!(
        soon(server.workers.drained()).await,
        Drained { cut: 0, lost: 0 }
    );
}

#[tokio::test]
async fn a_connection_without_a_request_does_not_delay_a_drain() {
    let server = Server::start(with(Deadlines {
        drain: TEST_TIMEOUT * 2,
        ..long()
    }));
    let mut ahead = server.secure_client(&[]).await;
    assert!(ahead.get("/").await.ends_with("hello"));
    let mut silent = server.client().await;
    assert_eq!(
        soon(server.workers.drained()).await,
        Drained { cut: 0, lost: 0 }
    );
    assert_eq!(silent.rest().await, "");
}

#[tokio::test]
async fn dropping_the_workers_drains_them() {
    let server = Server::start(with(long()));
    let mut client = server.client().await;
    assert!(client.get("/").await.ends_with("hello"));
    drop(server.workers);
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn d_09_at_the_limit_the_longest_idle_connection_is_closed() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let deadlines = Deadlines {
        first_byte: MODEST,
        ..long()
    };
    let mut server = Server::start(Settings {
        deadlines,
        limits,
        ..Settings::default()
    });
    let mut idle = server.client().await;
    assert!(idle.get("/").await.ends_with("hello"));
    server.entered("/").await;
    server.left("/").await;
    let mut busy = server.client().await;
    busy.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.entered("/hold").await;
    let mut third = server.client().await;
    assert!(third.get("/").await.ends_with("hello"));
    assert_eq!(
        idle.rest().await,
        "",
        "the longest idle connection is closed"
    );
    server.probe.release.add_permits(1);
    assert!(
        busy.until("held").await.starts_with("HTTP/1.1 200"),
        "a busy connection stays open"
    );
}

#[tokio::test]
async fn two_workers_serve_one_listener() {
    let server = Server::with_workers(with(long()), 2);
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(server.client().await);
    }
    for client in &mut clients {
        assert!(client.get("/").await.ends_with("hello"));
    }
    drop(clients);
    assert_eq!(
        soon(server.workers.drained()).await,
        Drained { cut: 0, lost: 0 }
    );
}

#[tokio::test]
async fn a_panic_while_the_handler_is_made_fails_the_start() {
    // `good` is the number of workers that do not panic. If `good` is 0, the server has only one
    // worker, and this worker panics. If `good` is 2, the server has three workers, and one worker
    // panics.
    for good in [0, 2] {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let (events, _seen) = mpsc::unbounded_channel();
        let probe = Probe {
            events,
            release: Arc::new(Semaphore::new(0)),
            produced: Arc::default(),
        };
        let count = Arc::new(AtomicU64::new(0));
        let make = move || {
            let before = count.fetch_add(1, Ordering::Relaxed);
            assert!(before < good, "no handler");
            Site(probe.clone())
        };
        let setup = Setup {
            name: "test",
            workers: NonZeroUsize::MIN.saturating_add(usize::try_from(good).unwrap()),
            endpoints: vec![Endpoint::plain(listener)],
            settings: with(long()),
            clock: Clock::system(),
            metrics: None,
        };
        let started = tokio::task::spawn_blocking(move || Workers::start(setup, make));
        let result = soon(started).await.unwrap();
        assert!(matches!(result, Err(Error::WorkerLost)), "{result:?}");
    }
}
