//! Tests of the attacks D-01 to D-06 that need only a single connection.

use tokio::time::{Instant, interval};

use super::*;

/// The beginning of a TLS record that announces a longer `ClientHello` (RFC 8446 section 5.1).
const HALF_HELLO: &[u8] = &[22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3, 7, 7, 7, 7, 7];

/// Fails if the server closed the connection before the deadline. The sweep can close a connection
/// too early, but at most by one sweep interval.
#[track_caller]
fn assert_not_before(deadline: Duration, start: Instant) {
    let elapsed = Clock::system().instant().duration_since(start);
    let earliest = deadline.checked_div(2).unwrap();
    assert!(elapsed >= earliest, "closed after {elapsed:?}");
}

#[tokio::test]
async fn d_01_a_silent_connection_is_closed() {
    let server = Server::start(with(Deadlines {
        first_byte: SHORT,
        ..long()
    }));
    let start = Clock::system().instant();
    assert_eq!(server.client().await.rest().await, "");
    assert_not_before(SHORT, start);
    let start = Clock::system().instant();
    let mut silent = Client(TcpStream::connect(server.secure).await.unwrap());
    assert_eq!(silent.rest().await, "");
    assert_not_before(SHORT, start);
}

#[tokio::test]
async fn d_01_half_a_client_hello_is_closed() {
    let server = Server::start(with(Deadlines {
        handshake: SHORT,
        ..long()
    }));
    let start = Clock::system().instant();
    let mut client = Client(TcpStream::connect(server.secure).await.unwrap());
    client.send(HALF_HELLO).await;
    client.rest().await;
    assert_not_before(SHORT, start);
}

#[tokio::test]
async fn d_01_a_client_hello_byte_by_byte_is_closed() {
    let server = Server::start(with(Deadlines {
        handshake: SHORT,
        ..long()
    }));
    let start = Clock::system().instant();
    let mut client = Client(TcpStream::connect(server.secure).await.unwrap());
    drip(&mut client, HALF_HELLO).await;
    assert_not_before(SHORT, start);
}

#[tokio::test]
async fn d_02_a_partial_http2_preface_is_closed_over_tls_and_plain() {
    let mut server = Server::start(with(Deadlines {
        head: SHORT,
        ..long()
    }));
    let start = Clock::system().instant();
    let mut plain = server.client().await;
    plain.send("PRI * HTT").await;
    plain.rest().await;
    assert_not_before(SHORT, start);
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let start = Clock::system().instant();
        let mut secure = server.secure_client(&[alpn]).await;
        secure.send("PRI * HTT").await;
        secure.rest().await;
        assert_not_before(SHORT, start);
    }
    assert!(server.events.try_recv().is_err(), "no handler was called");
}

#[tokio::test]
async fn d_02_a_silent_http2_client_is_closed() {
    let server = Server::start(with(Deadlines {
        head: SHORT,
        ..long()
    }));
    let start = Clock::system().instant();
    server.secure_client(&[b"h2"]).await.rest().await;
    assert_not_before(SHORT, start);
}

#[tokio::test]
async fn d_02_a_whole_http2_preface_on_a_plain_listener_is_closed_at_once() {
    let server = Server::start(with(long()));
    let mut client = server.client().await;
    client
        .send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await;
    assert!(!client.rest().await.contains("200 OK"));
}

#[tokio::test]
async fn d_03_a_head_byte_by_byte_is_closed_on_a_new_connection_and_on_a_used_one() {
    let server = Server::start(with(Deadlines {
        head: SHORT,
        ..long()
    }));
    let start = Clock::system().instant();
    let mut client = server.client().await;
    drip(&mut client, b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b").await;
    assert_not_before(SHORT, start);

    let mut client = server.client().await;
    assert!(client.get("/").await.ends_with("hello"));
    let start = Clock::system().instant();
    drip(&mut client, b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b").await;
    assert_not_before(SHORT, start);

    let mut client = server.secure_client(&[b"http/1.1"]).await;
    assert!(client.get("/").await.ends_with("hello"));
    let start = Clock::system().instant();
    client.send("GET / HT").await;
    client.rest().await;
    assert_not_before(SHORT, start);
}

#[tokio::test]
async fn d_03_an_idle_connection_is_closed() {
    let server = Server::start(with(Deadlines {
        idle: MODEST,
        ..long()
    }));
    let mut client = server.client().await;
    assert!(client.get("/").await.ends_with("hello"));
    let start = Clock::system().instant();
    assert_eq!(client.rest().await, "");
    assert_not_before(MODEST, start);
    let mut client = server.secure_client(&[b"http/1.1"]).await;
    assert!(client.get("/").await.ends_with("hello"));
    let start = Clock::system().instant();
    assert_eq!(client.rest().await, "");
    assert_not_before(MODEST, start);
    // The idle deadline also applies between the TLS handshake and the first request, because
    // browsers open connections in advance.
    let start = Clock::system().instant();
    assert_eq!(server.secure_client(&[]).await.rest().await, "");
    assert_not_before(MODEST, start);
}

#[tokio::test]
async fn a_request_in_flight_is_not_subject_to_other_deadlines() {
    let mut server = Server::start(with(Deadlines {
        head: MODEST,
        idle: MODEST,
        ..long()
    }));
    let mut client = server.client().await;
    client.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.entered("/hold").await;
    // While the first request is unfinished, two later connections reach their deadlines.
    let mut late = server.client().await;
    late.send("GET / HT").await;
    late.rest().await;
    let mut idle = server.client().await;
    assert!(idle.get("/").await.ends_with("hello"));
    idle.rest().await;
    server.probe.release.add_permits(1);
    assert!(client.until("held").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn d_06_a_client_that_does_not_read_is_disconnected_and_costs_no_memory() {
    let mut server = Server::start(with(Deadlines {
        write: MODEST,
        ..long()
    }));
    let mut client = server.client().await;
    client
        .send("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    server.entered("/endless").await;
    server.left("/endless").await;
    let produced = server.probe.produced.load(Ordering::Relaxed);
    // The kernel buffers at most a few megabytes on the two sides of a loopback connection.
    assert!(produced < 32 * 1024 * 1024, "{produced}");
    let mut seen = Vec::new();
    soon(client.0.read_to_end(&mut seen))
        .await
        .map_or_else(drop, drop);
    assert!(
        !seen.ends_with(b"0\r\n\r\n"),
        "an aborted response must not look complete"
    );
}

/// Begins an endless answer to a client with a small receive buffer. The client reads 2,000 bytes
/// every 100 milliseconds. At this rate, the server's socket does not become writable again within
/// [`MODEST`]. Returns true if the connection stays open for four times the duration [`MODEST`].
async fn is_open_to_a_slow_reader(server: &mut Server) -> bool {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    let mut client = Client(socket.connect(server.plain).await.unwrap());
    client
        .send("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    server.entered("/endless").await;
    let mut ticks = interval(Duration::from_millis(100));
    let start = Clock::system().instant();
    while Clock::system().instant().duration_since(start) < MODEST.saturating_mul(4) {
        ticks.tick().await;
        let mut piece = vec![0; 2000];
        if soon(client.0.read_exact(&mut piece)).await.is_err() {
            return false;
        }
    }
    server.events.try_recv().is_err()
}

#[tokio::test]
async fn d_06_a_client_that_reads_slowly_is_not_disconnected() {
    let mut server = Server::start(with(Deadlines {
        write: MODEST,
        ..long()
    }));
    assert!(is_open_to_a_slow_reader(&mut server).await);
}

#[tokio::test]
async fn d_06_a_client_below_the_lowest_rate_is_disconnected() {
    let mut settings = with(Deadlines {
        answer_window: MODEST,
        ..long()
    });
    settings.limits.answer_rate = 10_000;
    let mut server = Server::start(settings);
    assert!(is_open_to_a_slow_reader(&mut server).await);
    settings.limits.answer_rate = 1_000_000;
    let mut server = Server::start(settings);
    assert!(!is_open_to_a_slow_reader(&mut server).await);
}

/// Sends the bytes one by one with short pauses until the server closes the connection.
async fn drip<S: AsyncRead + AsyncWrite + Unpin>(client: &mut Client<S>, bytes: &[u8]) {
    let mut ticks = interval(DRIP);
    let (mut reader, mut writer) = tokio::io::split(&mut client.0);
    let sending = async {
        for byte in bytes {
            ticks.tick().await;
            if writer.write_u8(*byte).await.is_err() {
                break;
            }
        }
        pending::<()>().await;
    };
    let mut seen = Vec::new();
    tokio::select! {
        ended = timeout(TEST_TIMEOUT, reader.read_to_end(&mut seen)) => {
            assert!(ended.is_ok(), "a slow client was not disconnected");
        }
        () = sending => {}
    }
}
