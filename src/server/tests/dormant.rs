//! Tests of dormant connections. The tests drive the connections of one worker themselves, with a
//! clock that they advance, so that each test knows when a connection is dormant.

use tokio::task::yield_now;

use super::served::{Served, local, slots};
use super::*;
use crate::server::deadline::Phase;
use crate::server::dormant::{CROWD, DORMANT_AFTER, Stage};
use crate::server::worker::Registry;

/// Sends requests before, during and after the time in which the connection is dormant.
async fn wake_twice<S: AsyncRead + AsyncWrite + Unpin>(served: &Served, mut client: Client<S>) {
    assert!(client.get("/").await.ends_with("hello"));
    served.until_phase(Phase::Idle).await;
    served.pass(DORMANT_AFTER.saturating_sub(Duration::from_millis(1)));
    assert_eq!(served.state().dormancy().stage(), Stage::Awake);
    for _ in 0..2 {
        served.make_dormant().await;
        // Further sweeps change nothing.
        served.pass(DORMANT_AFTER);
        yield_now().await;
        assert_eq!(served.state().dormancy().stage(), Stage::Dormant);
        let answer = client.get("/").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.ends_with("hello"), "{answer}");
        served.until_stage(Stage::Awake).await;
    }
}

#[tokio::test]
async fn a_dormant_connection_answers_the_next_request() {
    local(async {
        let served = Served::start(long()).await;
        let client = served.client().await;
        wake_twice(&served, client).await;
    })
    .await;
}

#[tokio::test]
async fn a_dormant_connection_over_tls_answers_the_next_request() {
    local(async {
        let served = Served::start(long()).await;
        let client = served.secure_client(b"http/1.1").await;
        wake_twice(&served, client).await;
    })
    .await;
}

#[tokio::test]
async fn pipelined_requests_wake_a_dormant_connection_and_all_get_answers() {
    local(async {
        let mut served = Served::start(long()).await;
        let mut client = served.client().await;
        assert!(client.get("/first").await.ends_with("hello"));
        served.make_dormant().await;
        let request = |path| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        client
            .send([request("/second"), request("/third")].concat())
            .await;
        for path in ["/first", "/second", "/third"] {
            assert_eq!(
                served.events.recv().await,
                Some(Event::Entered(path.into()))
            );
            assert_eq!(served.events.recv().await, Some(Event::Left(path.into())));
        }
        assert!(client.until("hello").await.starts_with("HTTP/1.1 200 OK"));
        assert!(client.until("hello").await.starts_with("HTTP/1.1 200 OK"));
    })
    .await;
}

#[tokio::test]
async fn a_long_pipeline_in_a_crowd_loses_no_request() {
    local(async {
        let mut served = Served::start(long()).await;
        let client = served.client().await;
        served.worker.registry.coarse_clock.set_crowded(true);
        // hyper reads more bytes at a time after a large body. Later, a new connection of hyper
        // reads fewer bytes at a time than the previous connection of hyper has already read.
        let body = "x".repeat(200_000);
        let upload = format!(
            "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let requests = (0..300).map(|number| {
            let padding = "y".repeat(200);
            format!("GET /{number} HTTP/1.1\r\nHost: a\r\nX-Padding: {padding}\r\n\r\n")
        });
        let sent: String = std::iter::once(upload).chain(requests).collect();
        let (mut reader, mut writer) = tokio::io::split(client.0);
        let sending = async { writer.write_all(sent.as_bytes()).await.unwrap() };
        let receiving = async {
            let mut seen = Vec::new();
            while seen
                .windows(15)
                .filter(|part| *part == b"HTTP/1.1 200 OK")
                .count()
                < 301
            {
                assert!(soon(reader.read_buf(&mut seen)).await.unwrap() > 0);
            }
        };
        tokio::join!(sending, receiving);
        let mut entered = Vec::new();
        while let Ok(event) = served.events.try_recv() {
            if let Event::Entered(path) = event {
                entered.push(path);
            }
        }
        let expected = (0..300).map(|number| format!("/{number}"));
        let expected: Vec<String> = std::iter::once("/count".into()).chain(expected).collect();
        assert_eq!(entered, expected);
    })
    .await;
}

#[tokio::test]
async fn a_half_received_head_is_kept_and_has_its_deadline() {
    local(async {
        let mut served = Served::start(Deadlines {
            head: Duration::from_secs(10),
            ..long()
        })
        .await;
        let mut client = served.client().await;
        // hyper reads the second head together with the first head.
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /seco")
            .await;
        client.until("hello").await;
        served.until_phase(Phase::Idle).await;
        served.pass(DORMANT_AFTER);
        served.until_phase(Phase::Head).await;
        assert_eq!(served.state().dormancy().stage(), Stage::Awake);
        served.pass(Duration::from_secs(9));
        client
            .send("nd HTTP/1.1\r\nHost: a\r\n\r\nGET /third")
            .await;
        client.until("hello").await;
        for path in ["/", "/second"] {
            assert_eq!(
                served.events.recv().await,
                Some(Event::Entered(path.into()))
            );
            assert_eq!(served.events.recv().await, Some(Event::Left(path.into())));
        }
        served.until_phase(Phase::Idle).await;
        served.pass(DORMANT_AFTER);
        served.until_phase(Phase::Head).await;
        served.pass(Duration::from_secs(10));
        assert_eq!(client.rest().await, "");
        served.until_closed().await;
        assert!(served.events.try_recv().is_err());
    })
    .await;
}

#[tokio::test]
async fn a_slow_head_after_dormancy_has_its_deadline() {
    local(async {
        let served = Served::start(Deadlines {
            head: Duration::from_secs(10),
            ..long()
        })
        .await;
        let mut client = served.client().await;
        client.get("/").await;
        served.make_dormant().await;
        client.send("GET / HT").await;
        served.until_phase(Phase::Head).await;
        served.pass(Duration::from_secs(9));
        yield_now().await;
        assert_eq!(served.state().phase(), Phase::Head);
        served.pass(Duration::from_secs(1));
        assert_eq!(client.rest().await, "");
        served.until_closed().await;
    })
    .await;
}

#[tokio::test]
async fn the_idle_time_includes_the_time_in_which_a_connection_is_dormant() {
    local(async {
        let served = Served::start(Deadlines {
            idle: Duration::from_secs(10),
            ..long()
        })
        .await;
        let mut client = served.client().await;
        client.get("/").await;
        served.make_dormant().await;
        served.pass(Duration::from_secs(8));
        yield_now().await;
        assert_eq!(served.state().dormancy().stage(), Stage::Dormant);
        served.pass(Duration::from_secs(1));
        assert_eq!(client.rest().await, "");
        served.until_closed().await;
    })
    .await;
}

#[tokio::test]
async fn a_drain_closes_dormant_connections_at_once() {
    local(async {
        let served = Served::start(long()).await;
        let mut client = served.client().await;
        client.get("/").await;
        served.make_dormant().await;
        // A drain calls `close`. No sweep runs in this test, so only `close` can end the
        // connection.
        served.state().close();
        assert_eq!(client.rest().await, "");
        served.until_closed().await;
    })
    .await;
}

#[tokio::test]
async fn a_dormant_connection_over_tls_is_closed_with_a_closing_message() {
    local(async {
        let served = Served::start(long()).await;
        let mut client = served.secure_client(b"http/1.1").await;
        client.get("/").await;
        served.make_dormant().await;
        served.state().close();
        // Without the TLS alert `close_notify`, the client would get an error.
        let read = soon(client.0.read(&mut [0])).await.unwrap();
        assert_eq!(read, 0);
        drop(client);
        served.until_closed().await;
    })
    .await;
}

#[tokio::test]
async fn a_client_can_close_a_dormant_connection() {
    local(async {
        let served = Served::start(long()).await;
        let mut client = served.client().await;
        client.get("/").await;
        served.make_dormant().await;
        drop(client);
        served.until_closed().await;
        let mut secure = served.secure_client(b"http/1.1").await;
        secure.get("/").await;
        served.make_dormant().await;
        secure.0.shutdown().await.unwrap();
        assert_eq!(secure.rest().await, "");
        served.until_closed().await;
    })
    .await;
}

#[tokio::test]
async fn a_connection_with_an_open_request_body_does_not_become_dormant() {
    local(async {
        let served = Served::start(long()).await;
        let mut client = served.client().await;
        client
            .send("POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
            .await;
        client.until("later").await;
        served.until_phase(Phase::Idle).await;
        served.pass(DORMANT_AFTER);
        yield_now().await;
        assert_eq!(served.state().dormancy().stage(), Stage::Awake);
    })
    .await;
}

#[tokio::test]
async fn a_connection_with_a_request_in_flight_does_not_become_dormant() {
    local(async {
        let served = Served::start(long()).await;
        let mut client = served.client().await;
        client.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await;
        served.until_phase(Phase::Busy).await;
        served.pass(DORMANT_AFTER);
        yield_now().await;
        assert_eq!(served.state().dormancy().stage(), Stage::Awake);
        served.probe.release.add_permits(1);
        assert!(client.until("held").await.starts_with("HTTP/1.1 200 OK"));
        served.make_dormant().await;
    })
    .await;
}

#[tokio::test]
async fn a_request_that_arrives_with_the_sweep_gets_its_answer() {
    local(async {
        let served = Served::start(long()).await;
        let mut client = served.client().await;
        client.get("/").await;
        served.until_phase(Phase::Idle).await;
        client.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await;
        served.pass(DORMANT_AFTER);
        served.until_phase(Phase::Busy).await;
        served.probe.release.add_permits(1);
        client.until("held").await;
    })
    .await;
}

#[tokio::test]
async fn an_http2_connection_does_not_become_dormant() {
    local(async {
        let served = Served::start(long()).await;
        let mut client = served.secure_client(b"h2").await;
        // The preface and an empty SETTINGS frame (RFC 9113 section 3.4).
        client
            .send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await;
        served.until_phase(Phase::Idle).await;
        served.pass(DORMANT_AFTER);
        yield_now().await;
        assert_eq!(served.state().dormancy().stage(), Stage::Impossible);
    })
    .await;
}

#[test]
fn a_sweep_counts_the_connections_of_the_worker() {
    let clock = Clock::system();
    let slots = slots(CROWD + 2);
    let registry = Registry::new(with(long()), Arc::clone(&slots), clock.clone());
    let open = || {
        let slot = slots.try_take().unwrap();
        registry.enter(([127, 0, 0, 1], 1).into(), slot)
    };
    let is_crowded = || {
        registry.sweep(clock.instant());
        let connections = registry.connections.borrow();
        connections.values().next().unwrap().is_crowded()
    };
    let mut registrations: Vec<_> = (0..CROWD).map(|_| open()).collect();
    assert!(!is_crowded());
    registrations.push(open());
    assert!(is_crowded());
    registrations.pop();
    assert!(!is_crowded());
}
