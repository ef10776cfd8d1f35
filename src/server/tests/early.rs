//! Tests of early answers, which come before the end of the request body, and of clients that close
//! their sending direction before their answer.

use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use socket2::SockRef;

use super::*;

const POST: &str = "HTTP/1.1\r\nHost: a\r\nContent-Length:";

/// Deadlines with which a client that has closed its sending direction waits for `limit`.
fn half_closed(limit: Duration) -> Settings {
    with(Deadlines {
        half_closed: limit,
        ..long()
    })
}

#[tokio::test]
async fn s_30_an_early_answer_announces_the_end_of_the_connection() {
    let server = Server::start(with(long()));
    for begin in [
        format!("POST /early {POST} 16000000\r\n\r\n"),
        format!("POST /early {POST} 1000\r\n\r\nnot all of it"),
        format!("POST /early {POST} 200000\r\n\r\n{}", "x".repeat(100_000)),
        "POST /early HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
            .to_owned(),
        format!("POST /early {POST} 3\r\nExpect: 100-continue\r\n\r\n"),
    ] {
        let mut client = server.client().await;
        client.send(&begin).await;
        let response = client.rest().await;
        assert!(response.starts_with("HTTP/1.1 401"), "{response}");
        assert!(response.contains("\r\nconnection: close\r\n"), "{response}");
        assert!(response.ends_with("\r\n\r\nearly"), "{response}");
    }
}

#[tokio::test]
async fn s_18_a_body_that_has_arrived_is_discarded_and_the_connection_stays() {
    let server = Server::start(with(long()));
    let mut client = server.client().await;
    for begin in [
        format!("POST /early {POST} 3\r\n\r\nabc"),
        format!("POST /early {POST} 40000\r\n\r\n{}", "x".repeat(40_000)),
        "POST /early HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            .to_owned(),
    ] {
        client.send(&begin).await;
        let response = client.until("\r\n\r\nearly").await;
        assert!(!response.contains("connection"), "{response}");
    }
    let response = client.get("/").await;
    assert!(response.ends_with("hello"), "{response}");
}

#[tokio::test]
async fn s_30_a_client_that_closes_its_sending_direction_gets_its_answer() {
    let server = Server::start(with(long()));
    server.probe.release.add_permits(20);
    for round in 0..20 {
        for (request, end) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "hello"),
            ("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "held"),
            (format!("POST /count {POST} 3\r\n\r\nabc"), "false 3"),
            (format!("POST /early {POST} 3\r\n\r\nabc"), "early"),
            ("GET / HTTP/1.0\r\n\r\n".to_owned(), "hello"),
            (
                "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /count HTTP/1.1\r\nHost: a\r\n\r\n"
                    .to_owned(),
                "false 0",
            ),
        ] {
            let mut client = server.client().await;
            client.send(&request).await;
            client.0.shutdown().await.unwrap();
            let response = client.rest().await;
            assert!(response.ends_with(end), "{round} {request:?}: {response:?}");
        }
    }
    server.workers.begin_drain();
    assert_eq!(server.workers.drained().await, Drained { cut: 0, lost: 0 });
}

#[tokio::test]
async fn s_30_the_answer_can_come_long_after_the_client_has_closed_its_sending_direction() {
    let mut server = Server::start(with(long()));
    let mut plain = server.client().await;
    plain.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.entered("/hold").await;
    plain.0.shutdown().await.unwrap();
    let mut secure = server.secure_client(&[]).await;
    secure.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.entered("/hold").await;
    secure.0.shutdown().await.unwrap();
    // The server has found both ends before it answers the third request.
    let mut other = server.client().await;
    assert!(other.get("/").await.ends_with("hello"));
    server.entered("/").await;
    server.left("/").await;
    server.probe.release.add_permits(2);
    assert!(plain.rest().await.ends_with("held"));
    assert!(secure.rest().await.ends_with("held"));
}

#[tokio::test]
async fn s_30_a_client_that_has_vanished_does_not_occupy_the_handler() {
    // A client that only closes its sending direction looks like a client that has vanished.
    let mut server = Server::start(half_closed(SHORT));
    let mut client = server.client().await;
    client.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.entered("/never").await;
    client.0.shutdown().await.unwrap();
    server.left("/never").await;
    assert_eq!(client.rest().await, "");

    // A reset shows that the client has vanished, before and after the end of the input.
    let mut server = Server::start(with(long()));
    for closes_first in [false, true] {
        let mut client = server.client().await;
        client.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n").await;
        server.entered("/never").await;
        if closes_first {
            client.0.shutdown().await.unwrap();
            let mut other = server.client().await;
            assert!(other.get("/").await.ends_with("hello"));
            server.entered("/").await;
            server.left("/").await;
        }
        let socket = SockRef::from(&client.0);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        server.left("/never").await;
    }
}

#[tokio::test]
async fn s_30_an_answer_continues_while_a_client_with_a_closed_sending_direction_reads() {
    let mut server = Server::start(half_closed(SHORT));
    let mut client = server.client().await;
    client
        .send("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    server.entered("/endless").await;
    client.0.shutdown().await.unwrap();
    let reading = async {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            assert!(client.0.read(&mut bytes).await.unwrap() > 0);
        }
    };
    // The client reads for much longer than the deadline.
    let read: Result<(), _> = timeout(MODEST, reading).await;
    assert!(read.is_err());
    drop(client);
    server.left("/endless").await;
}

/// Connects over HTTP/2. The connection runs until its streams are dropped.
async fn http2(server: &Server) -> SendRequest<Bytes> {
    let stream = server.secure_client(&[b"h2"]).await.0;
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move { connection.await.map_or_else(drop, drop) });
    sender
}

/// Sends the head of a request with a body.
fn post(sender: &mut SendRequest<Bytes>, path: &str) -> (ResponseFuture, SendStream<Bytes>) {
    let request = Request::post(format!("https://localhost{path}"));
    sender
        .send_request(request.body(()).unwrap(), false)
        .unwrap()
}

/// Sends `count` bytes of a body, as fast as the server allows. Returns false if the server resets
/// the stream.
async fn send(stream: &mut SendStream<Bytes>, count: usize) -> bool {
    let mut left = count;
    while left > 0 {
        stream.reserve_capacity(left.min(16 * 1024));
        let Some(Ok(room)) = soon(std::future::poll_fn(|cx| stream.poll_capacity(cx))).await else {
            return false;
        };
        let piece = room.min(left);
        if stream.send_data(vec![b'x'; piece].into(), false).is_err() {
            return false;
        }
        left = left.saturating_sub(piece);
    }
    true
}

/// Returns the reason with which the server resets a stream.
async fn reset(stream: &mut SendStream<Bytes>) -> Reason {
    let reason = std::future::poll_fn(|cx| stream.poll_reset(cx));
    soon(reason).await.unwrap()
}

async fn collected(answer: ResponseFuture) -> (StatusCode, String) {
    let (head, mut body) = soon(answer).await.unwrap().into_parts();
    let mut bytes = Vec::new();
    while let Some(data) = soon(body.data()).await {
        bytes.extend(data.unwrap());
    }
    (head.status, String::from_utf8(bytes).unwrap())
}

#[tokio::test]
async fn s_30_over_http2_the_rest_of_a_body_is_read_after_an_early_answer() {
    let server = Server::start(with(long()));
    let mut sender = http2(&server).await;
    for (path, status, text) in [
        ("/early", StatusCode::UNAUTHORIZED, "early"),
        ("/later", StatusCode::OK, "later"),
        ("/count-1000", StatusCode::PAYLOAD_TOO_LARGE, "false 0"),
    ] {
        let (answer, mut stream) = post(&mut sender, path);
        assert!(send(&mut stream, 1001).await);
        assert_eq!(collected(answer).await, (status, text.to_owned()), "{path}");
        // The rest is much larger than the windows of the stream and of the connection.
        assert!(send(&mut stream, 3_000_000).await, "{path}");
        stream.send_data(Bytes::new(), true).unwrap();
    }
    // Other requests of the connection do not wait for the unread bodies.
    let (answer, mut stream) = post(&mut sender, "/count");
    stream.send_data(Bytes::from_static(b"abc"), true).unwrap();
    assert_eq!(collected(answer).await.1, "false 3");
    drop(sender);
    server.workers.begin_drain();
    assert_eq!(server.workers.drained().await, Drained { cut: 0, lost: 0 });
}

#[tokio::test]
async fn s_30_over_http2_a_stream_is_reset_if_its_body_does_not_end() {
    let server = Server::start(with(long()));
    let mut sender = http2(&server).await;
    let (answer, mut stream) = post(&mut sender, "/early");
    assert!(send(&mut stream, 1000).await);
    assert_eq!(collected(answer).await.1, "early");
    assert_eq!(reset(&mut stream).await, Reason::NO_ERROR);
}

#[tokio::test]
async fn s_30_over_http2_a_stream_is_reset_at_once_if_its_answer_breaks_off() {
    let server = Server::start(with(Deadlines {
        write: SHORT,
        ..long()
    }));
    let mut sender = http2(&server).await;
    let (answer, mut stream) = post(&mut sender, "/endless");
    assert!(send(&mut stream, 1000).await);
    let answer = soon(answer).await.unwrap();
    let clock = Clock::system();
    let begin = clock.instant();
    assert_eq!(reset(&mut stream).await, Reason::CANCEL);
    // The gateway lingers for two seconds after a complete answer.
    let waited = clock.instant().duration_since(begin);
    assert!(waited < Duration::from_millis(1500));
    drop(answer);
}
