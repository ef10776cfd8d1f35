//! Tests of request bodies: rate, size, and bodies that the handler does not read.

use super::*;

const POST: &str = "HTTP/1.1\r\nHost: a\r\nContent-Length:";

#[tokio::test]
async fn d_04_a_slow_body_is_answered_with_408_and_the_connection_closes() {
    let server = Server::start(with(Deadlines {
        body_window: SHORT,
        ..long()
    }));
    let mut client = server.client().await;
    client
        .send(format!("POST /count {POST} 100000\r\n\r\n0123456789"))
        .await;
    let response = client.rest().await;
    assert!(response.starts_with("HTTP/1.1 408"), "{response}");
}

#[tokio::test]
async fn d_04_slow_chunks_are_too_slow() {
    let server = Server::start(with(Deadlines {
        body_window: SHORT,
        ..long()
    }));
    let mut client = server.client().await;
    client
        .send("POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let (mut reader, mut writer) = client.0.split();
    let dripping = async {
        let mut ticks = tokio::time::interval(DRIP);
        while writer.write_all(b"1\r\nx\r\n").await.is_ok() {
            ticks.tick().await;
        }
    };
    let reading = async {
        let mut head = [0; 12];
        soon(reader.read_exact(&mut head)).await.unwrap();
        head
    };
    tokio::select! {
        () = dripping => panic!("closed without an answer"),
        head = reading => assert_eq!(&head, b"HTTP/1.1 408"),
    }
}

#[tokio::test]
async fn d_05_a_declared_length_over_the_limit_is_refused_before_a_byte_is_read() {
    let server = Server::start(with(long()));
    let mut client = server.client().await;
    client
        .send(format!("POST /count-1000 {POST} 10000000000\r\n\r\n"))
        .await;
    let head = client.until("declared").await;
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
}

#[tokio::test]
async fn a_body_without_a_declared_length_is_counted() {
    let server = Server::start(with(long()));
    for (chunks, expected) in [(10, "200 OK"), (11, "413 Payload Too Large")] {
        let mut client = server.client().await;
        client
            .send("POST /count-1000 HTTP/1.1\r\nHost: a\r\n")
            .await;
        client
            .send("Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
            .await;
        client
            .send(format!("64\r\n{}\r\n", "x".repeat(100)).repeat(chunks))
            .await;
        client.send("0\r\n\r\n").await;
        let response = client.rest().await;
        assert!(
            response.starts_with(&format!("HTTP/1.1 {expected}")),
            "{response}"
        );
        assert!(
            response.ends_with(" 1000"),
            "more bytes than the limit were read: {response}"
        );
    }
}

#[tokio::test]
async fn h_12_s_26_trailers_are_dropped() {
    let server = Server::start(with(long()));
    let mut client = server.client().await;
    client
        .send("POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n")
        .await;
    client
        .send("Trailer: Authorization\r\n\r\n3\r\nabc\r\n0\r\nAuthorization: x\r\n\r\n")
        .await;
    let response = client.until("false 3").await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(
        client.get("/").await.ends_with("hello"),
        "the next request is read from its first byte"
    );
}

#[tokio::test]
async fn s_24_a_broken_chunk_breaks_the_body() {
    let server = Server::start(with(long()));
    let mut client = server.client().await;
    client
        .send("POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.send("3\r\nabc\r\nnonsense\r\n").await;
    let response = client.rest().await;
    assert!(response.starts_with("HTTP/1.1 400"), "{response}");
}

#[tokio::test]
async fn s_18_an_unread_body_is_never_parsed_as_a_request() {
    let mut server = Server::start(with(long()));
    let hidden = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for method in ["POST", "GET"] {
        let mut client = server.client().await;
        let length = hidden.len();
        client
            .send(format!("{method} /early {POST} {length}\r\n\r\n{hidden}"))
            .await;
        client.until("early").await;
        // The server either closes the connection or answers the next request. The server must
        // never answer the request that is hidden in the body.
        if client
            .0
            .write_all(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .is_ok()
        {
            let mut seen = [0; 1];
            soon(client.0.read(&mut seen)).await.map_or_else(drop, drop);
        }
    }
    server.workers.drained().await;
    let mut early = 0;
    while let Ok(event) = server.events.try_recv() {
        assert!(!format!("{event:?}").contains("smuggled"), "{event:?}");
        early += usize::from(event == Event::Entered("/early".to_owned()));
    }
    assert_eq!(early, 2);
}

#[tokio::test]
async fn s_30_after_an_early_answer_the_connection_closes_and_the_answer_arrives() {
    let mut server = Server::start(with(long()));
    let mut client = server.client().await;
    client
        .send(format!("POST /early {POST} 16000000\r\n\r\n"))
        .await;
    let response = client.rest().await;
    assert!(
        response.starts_with("HTTP/1.1 401") && response.ends_with("early"),
        "{response}"
    );
    // The server has closed its sending direction, but continues to read. The client continues to
    // send. A reset could destroy the answer before the client has read the answer. The body is
    // larger than the kernel's buffers for a socket.
    let piece = vec![b'x'; 100_000];
    for _ in 0..160 {
        client.send(&piece).await;
    }
    client
        .send("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    drop(client);
    server.entered("/early").await;
    server.left("/early").await;
    server.workers.drained().await;
    assert!(server.events.try_recv().is_err());
}

#[tokio::test]
async fn s_20_an_early_answer_to_expect_closes_the_connection() {
    let server = Server::start(with(long()));
    let mut client = server.client().await;
    client
        .send(format!(
            "POST /early {POST} 10\r\nExpect: 100-continue\r\n\r\n"
        ))
        .await;
    let response = client.rest().await;
    assert!(response.starts_with("HTTP/1.1 401"), "{response}");

    let mut client = server.client().await;
    client
        .send(format!(
            "POST /count {POST} 3\r\nExpect: 100-continue\r\n\r\n"
        ))
        .await;
    client.until("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.send("abc").await;
    client.until("false 3").await;
}

#[tokio::test]
async fn a_request_without_a_body_has_no_deadline() {
    let server = Server::start(with(Deadlines {
        body_window: Duration::ZERO,
        ..long()
    }));
    let mut client = server.client().await;
    assert!(client.get("/count").await.ends_with("false 0"));
    assert!(
        client.get("/count").await.ends_with("false 0"),
        "the connection stays open"
    );
}

#[tokio::test]
async fn a_handler_is_dropped_when_its_client_goes_away() {
    let mut server = Server::start(with(Deadlines {
        half_closed: SHORT,
        ..long()
    }));
    let mut client = server.client().await;
    client.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.entered("/never").await;
    drop(client);
    server.left("/never").await;
}

#[tokio::test]
async fn a_panic_of_a_handler_ends_only_its_connection() {
    let server = Server::start(with(long()));
    let mut other = server.client().await;
    assert!(other.get("/").await.ends_with("hello"));
    let mut client = server.client().await;
    client.send("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.rest().await, "");
    assert!(other.get("/").await.ends_with("hello"));
    assert_eq!(server.workers.drained().await, Drained { cut: 0, lost: 0 });
}
