//! Tests of undocumented properties of hyper on which the gateway depends.

use http::HeaderValue;
use tokio::join;

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// [`Traffic`](crate::origin::traffic::Traffic) requires that hyper writes the whole head of a
/// request with one write.
#[tokio::test]
async fn s_33_a_repeated_request_has_the_same_bytes() {
    local(async {
        let server = Server::start().await;
        let pool = server.pool();
        let (_, mut peer) = join!(fetch(&pool, "/first"), server.answer(OK));
        let mut again = get("/again?a=b&c=%20:");
        for (name, value) in [
            ("x-two", &b"1"[..]),
            ("x-two", b"2"),
            ("x-empty", b""),
            ("x-colons", b":a: b:"),
            ("x-spaces", b"a  b\tc"),
            ("x-latin", b"caf\xe9"),
            // If hyper divided a head, a field value of this length would need several writes.
            ("x-long", &b"0123456789".repeat(2048)),
        ] {
            let value = HeaderValue::from_bytes(value).unwrap();
            again.headers_mut().append(name, value);
        }
        let mut bearer = HeaderValue::from_static("Bearer abc");
        bearer.set_sensitive(true);
        again.headers_mut().insert("authorization", bearer);
        let (outcome, (first, second)) = join!(pool.send(again), async {
            let first = peer.head_bytes().await;
            drop(peer);
            let mut next = server.accept().await;
            let second = next.head_bytes().await;
            next.send(OK).await;
            (first, second)
        });
        assert_eq!(text(outcome.unwrap()).await.unwrap(), "ok");
        assert!(first.starts_with(b"GET /again?a=b&c=%20: HTTP/1.1\r\n"));
        assert_eq!(
            first.escape_ascii().to_string(),
            second.escape_ascii().to_string()
        );
    })
    .await;
}

/// [`UploadProgress`](crate::origin::progress::UploadProgress) assumes that hyper polls the request
/// body only when hyper has space for more data. If hyper polls the body and gets no bytes,
/// `UploadProgress` records that the gateway waits for the client.
#[tokio::test]
async fn an_origin_that_stops_reading_an_upload_misses_its_deadline() {
    local(async {
        let server = Server::start().await;
        let head = Duration::from_millis(100);
        let pool = server.pool_with(Times { head, ..times() });
        let (client, body) = TestBody::new();
        // All pieces together are much larger than the buffers of the sockets and of hyper. After
        // the last piece, the client sends no more data. The buffers of hyper are full, so hyper
        // does not poll the body and cannot notice that no more data follows.
        let piece = Bytes::from(vec![b'a'; 64 * 1024]);
        for _ in 0..1024 {
            client.send(Ok(piece.clone())).unwrap();
        }
        let (outcome, _peer) = join!(pool.send(request(Method::POST, "/", body)), async {
            let mut peer = server.accept().await;
            peer.head().await;
            peer
        });
        assert!(matches!(outcome, Err(Error::HeadTimeout)), "{outcome:?}");
        drop(client);
    })
    .await;
}
