//! Tests of attack D-07: heads that are too large, and protocols that a listener without TLS does
//! not support.

use super::*;

async fn status(server: &Server, head: &str) -> String {
    let mut client = server.client().await;
    // The server may answer and close the connection before the client has sent the whole request.
    client
        .0
        .write_all(head.as_bytes())
        .await
        .map_or_else(drop, drop);
    client
        .rest()
        .await
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn d_07_heads_over_the_limit_are_refused() {
    let mut server = Server::start(with(long()));
    let fits = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: {}\r\nConnection: close\r\n\r\n",
        "x".repeat(31 * 1024)
    );
    assert_eq!(status(&server, &fits).await, "HTTP/1.1 200 OK");
    server.entered("/").await;
    server.left("/").await;
    let cookie = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n",
        "x".repeat(100_000)
    );
    let many = format!("X-A: {}\r\n", "x".repeat(65_536)).repeat(100);
    let uri = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(66_000));
    let barely = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: {}\r\n\r\n",
        "x".repeat(33 * 1024)
    );
    for head in [
        cookie,
        format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"),
        uri,
    ] {
        let status = status(&server, &head).await;
        assert!(status.starts_with("HTTP/1.1 431"), "{status}");
        server.refused(Refusal::HeadTooLarge).await;
    }
    // The handler answers a head that is only a little too large.
    let mut client = server.client().await;
    client.send(barely).await;
    let answer = client.until("too large").await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert!(server.events.try_recv().is_err(), "no handler was called");
}

#[tokio::test]
async fn d_07_a_pipelined_head_over_the_limit_is_refused_also_if_it_came_with_the_head_before() {
    let mut server = Server::start(with(long()));
    let large = format!(
        "GET /second HTTP/1.1\r\nHost: a\r\nX-A: {}\r\n\r\n",
        "x".repeat(33 * 1024)
    );
    for cut in [0, 1000, 20_000] {
        let (with_first, rest) = large.split_at(cut);
        let mut client = server.client().await;
        client
            .send(format!(
                "GET /first HTTP/1.1\r\nHost: a\r\n\r\n{with_first}"
            ))
            .await;
        server.entered("/first").await;
        client.until("hello").await;
        client.send(rest).await;
        let answer = client.until("too large").await;
        assert!(answer.contains("HTTP/1.1 431"), "{cut}: {answer}");
        server.left("/first").await;
    }
    assert!(server.events.try_recv().is_err(), "no handler was called");
}

#[tokio::test]
async fn a_client_that_keeps_sending_after_a_malformed_head_is_reported() {
    let mut server = Server::start(with(long()));
    let mut client = server.client().await;
    client.send("GET / HTTP/9.1\r\n\r\n").await;
    let answer = client.until("\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    // The client does not close the connection, so the server waits before the end.
    server.refused(Refusal::Malformed).await;
    drop(client);
}

#[tokio::test]
async fn d_07_a_head_with_many_fields_is_read_again_and_refused_by_the_handler() {
    let mut server = Server::start(with(long()));
    let head = |fields: usize| {
        let more = "X-A: b\r\n".repeat(fields);
        format!("GET /many HTTP/1.1\r\nHost: a\r\n{more}\r\n")
    };
    for fields in [120, 1000] {
        let mut plain = server.client().await;
        let mut secure = server.secure_client(&[]).await;
        // The head arrives in two pieces, and with the next head.
        let text = head(fields);
        let (first, rest) = text.split_at(text.len() / 2);
        plain.send(first).await;
        let mut other = server.client().await;
        assert!(other.get("/").await.ends_with("hello"));
        server.entered("/").await;
        server.left("/").await;
        let next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
        plain.send([rest, next].concat()).await;
        secure.send([&text, next].concat()).await;
        let plain = plain.until("hello").await;
        let secure = secure.until("hello").await;
        for answers in [plain, secure] {
            assert!(answers.starts_with("HTTP/1.1 431"), "{answers}");
            assert_eq!(answers.matches("HTTP/1.1").count(), 2, "{answers}");
            assert!(answers.contains("too large"), "{answers}");
        }
        for _ in 0..2 {
            server.entered("/next").await;
            server.left("/next").await;
        }
    }
    // hyper refuses more fields, after requests of the same connection, too.
    let mut client = server.client().await;
    assert!(client.get("/").await.ends_with("hello"));
    server.entered("/").await;
    server.left("/").await;
    client.send(head(1200)).await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    server.refused(Refusal::HeadTooLarge).await;
}

/// The frames of an HTTP/2 request for `https://a/` with a field of this length.
fn http2_request(stream: u8, length: usize) -> Vec<u8> {
    const PIECE: usize = 16_384;
    let mut block = b"\x82\x87\x84\x41\x01a\x00\x03x-a\x7f".to_vec();
    let mut rest = length.checked_sub(127).unwrap();
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
    block.extend(std::iter::repeat_n(b'x', length));
    let pieces = block.chunks(PIECE).collect::<Vec<_>>();
    let last = pieces.len().checked_sub(1).unwrap();
    let frames = pieces.iter().enumerate().flat_map(|(number, piece)| {
        let [.., high, middle, low] = u32::try_from(piece.len()).unwrap().to_be_bytes();
        let kind = if number == 0 { 1 } else { 9 };
        let end_stream = u8::from(number == 0);
        let end_headers = if number == last { 4 } else { 0 };
        let flags = end_stream | end_headers;
        let head = [high, middle, low, kind, flags, 0, 0, 0, stream];
        [&head, *piece].concat()
    });
    frames.collect()
}

#[tokio::test]
async fn d_07_a_head_that_the_library_refuses_over_http2_is_reported() {
    let mut server = Server::start(with(long()));
    let mut client = server.secure_client(&[b"h2"]).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    client.send(preface).await;
    client.send(http2_request(1, 70_000)).await;
    server.refused(Refusal::HeadTooLarge).await;
    // The connection serves other requests. The handler refuses the first of them.
    client.send(http2_request(3, 40_000)).await;
    client.send(http2_request(5, 1000)).await;
    server.entered("/").await;
    server.left("/").await;
    client.send(http2_request(7, 70_000)).await;
    server.refused(Refusal::HeadTooLarge).await;
    assert!(
        server.events.try_recv().is_err(),
        "nothing else is reported"
    );
}

#[tokio::test]
async fn d_07_the_hundredth_field_passes_and_the_next_does_not() {
    let server = Server::start(with(long()));
    for (fields, expected) in [(98, "HTTP/1.1 200 OK"), (99, "HTTP/1.1 431")] {
        let more = "X-A: b\r\n".repeat(fields);
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n");
        let status = status(&server, &head).await;
        assert!(status.starts_with(expected), "{fields}: {status}");
    }
}

#[tokio::test]
async fn t_11_the_wrong_protocol_on_a_listener_is_closed_at_once() {
    let mut server = Server::start(with(long()));
    let mut client = Client(TcpStream::connect(server.secure).await.unwrap());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(!client.rest().await.contains("HTTP/1.1 200"));
    server.refused(Refusal::Handshake).await;
    let hello = b"\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03\r\n\r\n";
    let mut client = server.client().await;
    client.send(hello).await;
    assert!(!client.rest().await.contains("HTTP/1.1 200"));
    drop(client);
    server.refused(Refusal::TlsOnPlain).await;
    let mut client = server.client().await;
    client
        .send("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert!(!client.rest().await.contains("HTTP/1.1 200"));
    drop(client);
    server.refused(Refusal::ProxyHeader).await;
    assert!(server.events.try_recv().is_err(), "no handler was called");
}

#[tokio::test]
async fn s_31_pipelined_requests_are_answered_in_order() {
    let server = Server::start(with(long()));
    let mut client = server.client().await;
    let pair = "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /early HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(pair.repeat(50)).await;
    for _ in 0..50 {
        assert!(client.until("hello").await.starts_with("HTTP/1.1 200"));
        assert!(client.until("early").await.starts_with("HTTP/1.1 401"));
    }
}
