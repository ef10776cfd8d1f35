//! Tests which URI and which fields the app gets over HTTP/2, and tests trailers and TLS.

use http::Version;

use super::*;
use crate::origin::tests::encrypted::{Authority, named};
use crate::tls::Trust;

/// The heads and the trailers of recorded requests.
type Seen = Rc<RefCell<Vec<(http::request::Parts, Option<HeaderMap>)>>>;

/// An app that records the heads and trailers of its requests, and echoes their content.
async fn echo(seen: Seen) -> App {
    App::start(move |request, mut respond| {
        let seen = Rc::clone(&seen);
        async move {
            let (parts, mut content) = request.into_parts();
            let mut answer = respond.send_response(head(200), false).unwrap();
            while let Some(Ok(data)) = content.data().await {
                content.flow_control().release_capacity(data.len()).unwrap();
                answer.send_data(data, false).unwrap();
            }
            let trailers = content.trailers().await.unwrap();
            seen.borrow_mut().push((parts, trailers));
            let mut end = HeaderMap::new();
            end.insert("grpc-status", "0".parse().unwrap());
            end.insert("set-cookie", "a=b".parse().unwrap());
            answer.send_trailers(end).unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn a_request_has_the_form_of_http_2() {
    local(async {
        let seen = Rc::new(RefCell::default());
        let app = echo(Rc::clone(&seen)).await;
        let mut request = get("/a%20b?c=d");
        let headers = request.headers_mut();
        headers.insert("te", "trailers".parse().unwrap());
        headers.insert("connection", "te".parse().unwrap());
        headers.insert("key-bin", "AQID".parse().unwrap());
        headers.insert("expect", "100-continue".parse().unwrap());
        let response = app.pool().send(request).await.unwrap();
        assert_eq!(response.version(), Version::HTTP_11);
        text(response).await.unwrap();
        let seen = seen.borrow();
        let (parts, _) = &seen[0];
        assert_eq!(parts.uri.to_string(), "http://app.example/a%20b?c=d");
        let mut names: Vec<_> = parts.headers.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["key-bin", "te"]);
        assert_eq!(parts.headers["te"], "trailers");
    })
    .await;
}

#[tokio::test]
async fn trailers_pass_in_both_directions() {
    local(async {
        let seen = Rc::new(RefCell::default());
        let app = echo(Rc::clone(&seen)).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", "abc".parse().unwrap());
        let frames = vec![
            Frame::data(Bytes::from_static(b"hello")),
            Frame::trailers(trailers),
        ];
        let body = Frames(frames.into_iter());
        let request = Request::post("/")
            .header("host", "app.example")
            .body(Upload::streaming(body))
            .unwrap();
        let mut response = app.pool().send(request).await.unwrap();
        response.body_mut().forward_trailers();
        let collected = response.into_body().collect().await.unwrap();
        let end = collected.trailers().unwrap().clone();
        assert_eq!(collected.to_bytes(), "hello");
        assert_eq!(end["grpc-status"], "0");
        assert!(!end.contains_key("set-cookie"));
        let seen = seen.borrow();
        assert_eq!(seen[0].1.as_ref().unwrap()["checksum"], "abc");
    })
    .await;
}

/// A body that consists of the frames in an iterator.
struct Frames(std::vec::IntoIter<Frame<Bytes>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(self.0.next().map(Ok))
    }
}

#[tokio::test]
async fn a_large_upload_is_echoed() {
    local(async {
        let app = echo(Rc::default()).await;
        let (client, body) = TestBody::new();
        let pool = app.pool();
        let response = pool.send(request(Method::POST, "/", body)).await.unwrap();
        let piece = Bytes::from(vec![b'x'; 100_000]);
        let (echoed, ()) = join!(text(response), async {
            for _ in 0..50 {
                client.send(Ok(piece.clone())).unwrap();
                tokio::task::yield_now().await;
            }
            drop(client);
        });
        assert_eq!(echoed.unwrap().len(), 5_000_000);
    })
    .await;
}

/// Serves one TLS connection. The server supports the ALPN protocols `alpn`.
async fn over_tls(alpn: &[&str]) -> Result<String, Error> {
    let authority = Authority::new();
    let server = Server::start().await;
    let origin = format!("https://localhost:{}", server.origin.port());
    let trust = Trust::from_file(&authority.file).unwrap();
    let connector = Connector::new(origin.parse().unwrap(), Some(trust), WATCHDOG).unwrap();
    let connector = Arc::new(connector.with_protocol(Protocol::Http2));
    let pool = Pool::new(connector, Arc::new(limit(1, 1)), times(), Clock::system());
    let acceptor = authority.signs_with(&named("localhost"), alpn);
    let app = spawn_local(async move {
        let stream = acceptor.accept(server.accept().await.0).await.ok()?;
        let mut connection = server::handshake(stream).await.ok()?;
        while let Some(Ok((request, respond))) = connection.accept().await {
            assert_eq!(request.uri().scheme_str(), Some("https"));
            answer(respond, "ok");
        }
        Some(())
    });
    let result = fetch(&pool, "/").await;
    app.abort();
    result
}

#[tokio::test]
async fn an_https_origin_has_to_choose_http_2_by_alpn() {
    local(async {
        assert_eq!(over_tls(&["h2", "http/1.1"]).await.unwrap(), "ok");
        for without in [&[][..], &["http/1.1"]] {
            let error = over_tls(without).await.unwrap_err();
            assert!(matches!(error, Error::NoHttp2(_)), "{without:?}: {error:?}");
            assert!(!error.may_have_been_processed());
        }
    })
    .await;
}

#[tokio::test]
async fn an_http_origin_that_speaks_only_http_1_is_recognised() {
    local(async {
        let server = Server::start().await;
        let limit = Arc::new(limit(1, 1));
        let pool = Pool::new(http2(&server), Arc::clone(&limit), times(), Clock::system());
        let (outcome, seen) = join!(fetch(&pool, "/secret"), async {
            let mut peer = server.accept().await;
            let seen = peer.until("SM\r\n\r\n").await;
            peer.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
                .await;
            seen + &String::from_utf8_lossy(&peer.rest().await)
        });
        assert!(matches!(outcome, Err(Error::NoHttp2(_))), "{outcome:?}");
        assert!(!seen.contains("secret"), "{seen}");
        until(|| limit.free() == 1).await;
    })
    .await;
}
