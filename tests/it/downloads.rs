//! Large downloads: the memory that a download needs, and how a client resumes a download (RFC 9110
//! section 14).

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::support::certificates::Authority;
use crate::support::gateway::{Process, Settings};
use crate::support::provider::StandIn;
use crate::support::scene::TLS_ORIGIN;
use crate::support::wire::{Head, Wire};

/// The number of bytes of the file.
const SIZE: usize = 256 << 20;

/// The version of the file.
const ETAG: &str = "\"v1\"";

/// The largest part that the app writes at once.
const PART: usize = 64 << 10;

/// The longest time for a download on a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_mins(2);

/// The byte at a position of the file. The period is a prime number, so the test notices a lost or
/// repeated part of any usual size.
fn byte_at(position: usize) -> u8 {
    u8::try_from(position % 251).unwrap()
}

/// The content of the file, from any position below 251.
fn pattern() -> Vec<u8> {
    (0..251 + 16 * PART).map(byte_at).collect()
}

/// Starts an HTTP/1.1 app with one large file. Returns its URL.
async fn app() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(Wire::new(stream)));
        }
    });
    format!("http://{address}")
}

/// Answers the requests of one connection.
async fn serve(mut client: Wire) {
    let pattern = pattern();
    while let Some(request) = client.head().await {
        let (answer, start) = answer(&request);
        let mut open = client.write(answer.as_bytes()).await;
        let mut position = start;
        while request.start_line().starts_with("GET ") && position < SIZE && open {
            let part = &pattern[position % 251..][..PART.min(SIZE - position)];
            open = client.write(part).await;
            position += part.len();
        }
    }
}

/// The head of the answer, and the position at which its content starts.
fn answer(request: &Head) -> (String, usize) {
    let range = request.value("range");
    let start = range.as_deref().and_then(|range| {
        let start = range.strip_prefix("bytes=")?.strip_suffix('-')?;
        start.parse::<usize>().ok()
    });
    let current = request.value("if-range").is_none_or(|etag| etag == ETAG);
    let fields = |length: usize| {
        format!("Content-Length: {length}\r\nAccept-Ranges: bytes\r\nETag: {ETAG}\r\n")
    };
    match start.filter(|_| current) {
        None => (format!("HTTP/1.1 200 OK\r\n{}\r\n", fields(SIZE)), 0),
        Some(start) => {
            let fields = fields(SIZE - start);
            let range = format!("Content-Range: bytes {start}-{}/{SIZE}", SIZE - 1);
            let head = format!("HTTP/1.1 206 Partial Content\r\n{fields}{range}\r\n\r\n");
            (head, start)
        }
    }
}

/// Sends a request for the file on a new connection of this protocol.
async fn ask(
    (gateway, authority): (&Process, &Authority),
    protocol: &str,
    method: &str,
    fields: &[(&str, &str)],
) -> Response<Incoming> {
    let stream = TcpStream::connect(gateway.address()).await.unwrap();
    let tls = TlsConnector::from(authority.client(&[protocol]));
    let name = "localhost".try_into().unwrap();
    let stream = TokioIo::new(tls.connect(name, stream).await.unwrap());
    let mut request = Request::builder().method(method);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    if protocol == "h2" {
        let request = request.uri(format!("{TLS_ORIGIN}/file"));
        let connecting = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
        let (mut sender, connection) = connecting.await.unwrap();
        tokio::spawn(connection);
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        sender.send_request(request).await.unwrap()
    } else {
        let request = request.uri("/file").header("Host", "localhost");
        let connecting = hyper::client::conn::http1::handshake(stream);
        let (mut sender, connection) = connecting.await.unwrap();
        tokio::spawn(connection);
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        sender.send_request(request).await.unwrap()
    }
}

/// Reads the content of an answer from `start` until at least `end`. Returns the position after the
/// last byte. Fails if a byte is wrong.
async fn read(response: &mut Response<Incoming>, start: usize, end: usize) -> usize {
    let pattern = pattern();
    let mut position = start;
    let reading = async {
        while position < end {
            let frame = response.frame().await.expect("the content is too short");
            let data = frame.unwrap().into_data().expect("no trailers");
            assert!(
                data == pattern[position % 251..][..data.len()],
                "{position}"
            );
            position += data.len();
        }
    };
    timeout(TEST_TIMEOUT, reading)
        .await
        .expect("the download stops");
    position
}

fn field<'a>(response: &'a Response<Incoming>, name: &str) -> &'a str {
    response.headers()[name].to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_download_needs_little_memory_and_resumes_after_a_cut() {
    let provider = StandIn::start().await;
    let authority = Authority::new();
    let settings = Settings::new(TLS_ORIGIN, &provider.url(), &app().await)
        .tls(&authority)
        .with("[[routes]]\nprefix = \"/\"\naccess = \"public\"\n");
    let gateway = Process::start_quietly(settings).await;
    let there = (&gateway, &authority);
    for protocol in ["http/1.1", "h2"] {
        let head = ask(there, protocol, "HEAD", &[]).await;
        assert_eq!(head.status(), 200, "{protocol}");
        assert_eq!(field(&head, "content-length"), SIZE.to_string());
        assert_eq!(field(&head, "accept-ranges"), "bytes");
        let content = head.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(content.len(), 0);

        let before = gateway.peak_memory();
        let mut whole = ask(there, protocol, "GET", &[]).await;
        assert_eq!(whole.status(), 200, "{protocol}");
        assert_eq!(read(&mut whole, 0, SIZE).await, SIZE);
        assert!(whole.frame().await.is_none());
        let mut cut = ask(there, protocol, "GET", &[]).await;
        let reached = read(&mut cut, 0, SIZE / 3).await;
        let etag = field(&cut, "etag").to_owned();
        drop(cut);

        let range = format!("bytes={reached}-");
        let mut rest = ask(
            there,
            protocol,
            "GET",
            &[("Range", &range), ("If-Range", &etag)],
        )
        .await;
        assert_eq!(rest.status(), 206, "{protocol}");
        let expected = format!("bytes {reached}-{}/{SIZE}", SIZE - 1);
        assert_eq!(field(&rest, "content-range"), expected);
        assert_eq!(read(&mut rest, reached, SIZE).await, SIZE);
        let grown = gateway.peak_memory() - before;
        assert!(grown < 32 << 10, "{protocol}: {grown} KiB more");

        // The file has changed, so the client gets the whole file.
        let fields = [("Range", range.as_str()), ("If-Range", "\"v0\"")];
        let mut changed = ask(there, protocol, "GET", &fields).await;
        assert_eq!(changed.status(), 200, "{protocol}");
        read(&mut changed, 0, PART).await;
    }
}
