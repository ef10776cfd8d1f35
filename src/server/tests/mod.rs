//! Tests of the server, with real sockets and with clients that misbehave.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::timeout;

use super::*;
use crate::clock::{Clock, Timestamp};
use crate::tls::{DevelopmentFiles, ServerIdentity, Trust, development_certificates};

mod bodies;
mod deadlines;
mod dormant;
mod drain;
mod early;
mod half_closed;
mod heads;
mod heartbeats;
mod protocols;
mod served;
mod shedding;

/// The time limit of one step of a test. If a step takes longer than `TEST_TIMEOUT`, the test
/// fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A short deadline, for tests in which the deadline has to pass.
const SHORT: Duration = Duration::from_millis(120);
/// A longer deadline, for tests that wait until the deadline has passed. Even on a slow machine,
/// the client of the test is faster than this deadline.
const MODEST: Duration = Duration::from_millis(600);
/// The pause between two bytes of a slow client. The pause between two bytes is much shorter than
/// the deadline [`SHORT`].
const DRIP: Duration = Duration::from_millis(20);
/// The length of the answer to `/large`.
const LARGE: usize = 32 * 1024 * 1024;
const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// Returns deadlines that are too long to pass in a test. Each test shortens the deadline that it
/// tests.
fn long() -> Deadlines {
    let minute = Duration::from_mins(1);
    Deadlines {
        first_byte: minute,
        handshake: minute,
        head: minute,
        idle: minute,
        write: minute,
        half_closed: minute,
        answer_window: minute,
        body_window: minute,
        drain: minute,
    }
}

fn with(deadlines: Deadlines) -> Settings {
    Settings {
        deadlines,
        ..Settings::default()
    }
}

/// An event that the test's handler reports.
#[derive(Debug, Eq, PartialEq)]
enum Event {
    Entered(String),
    Left(String),
    /// A connection was closed because of the bytes of its client.
    Refused(Refusal),
}

/// The data that the handlers of all workers share with the test.
#[derive(Clone)]
struct Probe {
    events: mpsc::UnboundedSender<Event>,
    /// Each request for `/hold` waits for one permit of this semaphore.
    release: Arc<Semaphore>,
    /// The number of bytes that all endless bodies have produced.
    produced: Arc<AtomicU64>,
}

struct Site(Probe);

struct RequestGuard {
    path: String,
    probe: Probe,
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.probe
            .events
            .send(Event::Left(self.path.clone()))
            .unwrap_or_default();
    }
}

impl Handler for Site {
    type Body = Pieces;
    type PerConnection = ();

    fn connection_opened(&self, _connection: Connection) {}

    async fn handle(&self, (): &(), head: Parts, body: RequestBody) -> Response<Pieces> {
        let path = head.uri.path().to_owned();
        self.0.events.send(Event::Entered(path.clone())).unwrap();
        let guard = RequestGuard {
            path,
            probe: self.0.clone(),
        };
        match guard.path.as_str() {
            "/hold" => {
                self.0.release.acquire().await.unwrap().forget();
                Response::new(Pieces::of(&["held"]))
            }
            "/never" => pending().await,
            "/panic" => panic!("asked to"),
            "/endless" => Response::new(Pieces {
                endless: Some(guard),
                ..Pieces::of(&[])
            }),
            "/block" => {
                // The worker's thread is blocked until the test releases it.
                while self
                    .0
                    .release
                    .try_acquire()
                    .map(SemaphorePermit::forget)
                    .is_err()
                {
                    std::thread::yield_now();
                }
                Response::new(Pieces::of(&["unblocked"]))
            }
            "/count" => count(body, u64::MAX).await,
            "/count-1000" => count(body, 1000).await,
            // The answer ends before the request body is read.
            "/later" => {
                drop(tokio::task::spawn_local(async move {
                    let _guard = guard;
                    let answer = count(body, u64::MAX).await;
                    assert_eq!(answer.status(), StatusCode::OK);
                }));
                respond(StatusCode::OK, "later")
            }
            // Larger than the buffers of the sockets of both sides.
            "/large" => Response::new(Pieces::of(&[&"x".repeat(LARGE)])),
            "/early" => respond(StatusCode::UNAUTHORIZED, "early"),
            _ => Response::new(Pieces::of(&["hel", "lo"])),
        }
    }

    fn refuse_head(&self, (): &(), _head: Parts, _body: RequestBody) -> Response<Pieces> {
        respond(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too large")
    }

    fn connection_refused(
        &self,
        (): &(),
        refusal: Refusal,
        _error: &dyn std::error::Error,
        _head: Option<&Parts>,
    ) {
        self.0.events.send(Event::Refused(refusal)).unwrap();
    }
}

async fn count(mut body: RequestBody, limit: u64) -> Response<Pieces> {
    let watch = body.watch();
    if body.limit(limit).is_err() {
        return respond(StatusCode::PAYLOAD_TOO_LARGE, "declared");
    }
    let (mut bytes, mut trailers) = (0, false);
    let end = loop {
        match body.frame().await {
            None => break None,
            Some(Err(failure)) => break Some(failure),
            Some(Ok(frame)) => {
                trailers |= frame.is_trailers();
                bytes = frame.data_ref().map_or(0, Bytes::len).saturating_add(bytes);
            }
        }
    };
    assert_eq!(watch.failure(), end);
    let status = match end {
        None => StatusCode::OK,
        Some(BodyFailure::TooSlow) => StatusCode::REQUEST_TIMEOUT,
        Some(BodyFailure::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
        Some(BodyFailure::Broken) => StatusCode::BAD_REQUEST,
    };
    respond(status, &format!("{trailers} {bytes}"))
}

fn respond(status: StatusCode, text: &str) -> Response<Pieces> {
    let mut response = Response::new(Pieces::of(&[text]));
    *response.status_mut() = status;
    response
}

struct Pieces {
    pieces: VecDeque<Bytes>,
    /// The guard of an endless body. When the body is dropped, the guard is dropped, too. The value
    /// is `None` if the body is not endless.
    endless: Option<RequestGuard>,
}

impl Pieces {
    fn of(pieces: &[&str]) -> Self {
        let pieces = pieces
            .iter()
            .map(|piece| Bytes::copy_from_slice(piece.as_bytes()));
        Self {
            pieces: pieces.collect(),
            endless: None,
        }
    }
}

impl Content for Pieces {}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(guard) = &self.endless {
            guard.probe.produced.fetch_add(16 * 1024, Ordering::Relaxed);
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(
                &[b'x'; 16 * 1024],
            )))));
        }
        Poll::Ready(self.pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.endless.is_none() && self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.endless.is_some() {
            return SizeHint::default();
        }
        SizeHint::with_exact(
            self.pieces
                .iter()
                .map(|piece| u64::try_from(piece.len()).unwrap())
                .sum(),
        )
    }
}

/// A running server.
struct Server {
    plain: SocketAddr,
    secure: SocketAddr,
    workers: Workers,
    probe: Probe,
    events: mpsc::UnboundedReceiver<Event>,
    metrics: Arc<Metrics>,
    acceptor: Acceptor,
    identity: ServerIdentity,
    written: DevelopmentFiles,
    dir: TempDir,
}

impl Server {
    fn start(settings: Settings) -> Self {
        Self::with_workers(settings, 1)
    }

    fn with_workers(settings: Settings, count: usize) -> Self {
        let dir = TempDir::new().unwrap();
        let written = development_certificates(&dir.path().join("first"), &[], NOW).unwrap();
        let identity = ServerIdentity {
            certificate: written.certificate.clone(),
            key: written.key.clone(),
        };
        let acceptor = Acceptor::load(&identity, Clock::manual(NOW)).unwrap();
        let plain = Listener::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let secure = Listener::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let addresses = (plain.local_addr().unwrap(), secure.local_addr().unwrap());
        let endpoints = vec![
            Endpoint::plain(plain),
            Endpoint::tls(secure, acceptor.clone()),
        ];
        let (sender, events) = mpsc::unbounded_channel();
        let probe = Probe {
            events: sender,
            release: Arc::new(Semaphore::new(0)),
            produced: Arc::default(),
        };
        let site = probe.clone();
        let metrics = Arc::new(Metrics::default());
        let count = NonZeroUsize::new(count).unwrap();
        let setup = Setup {
            name: "test",
            workers: count,
            endpoints,
            settings,
            clock: Clock::system(),
            metrics: Some(Arc::clone(&metrics)),
        };
        let workers = Workers::start(setup, move || Site(site.clone())).unwrap();
        let (plain, secure) = addresses;
        Self {
            plain,
            secure,
            workers,
            probe,
            events,
            metrics,
            acceptor,
            identity,
            written,
            dir,
        }
    }

    async fn client(&self) -> Client<TcpStream> {
        Client(TcpStream::connect(self.plain).await.unwrap())
    }

    async fn secure_client(&self, alpn: &[&[u8]]) -> Client<Tls> {
        Client(handshake(self.secure, &self.written, alpn).await.unwrap())
    }

    async fn event(&mut self) -> Event {
        soon(self.events.recv()).await.unwrap()
    }

    async fn entered(&mut self, path: &str) {
        assert_eq!(self.event().await, Event::Entered(path.to_owned()));
    }

    async fn refused(&mut self, refusal: Refusal) {
        assert_eq!(self.event().await, Event::Refused(refusal));
    }

    async fn left(&mut self, path: &str) {
        assert_eq!(self.event().await, Event::Left(path.to_owned()));
    }
}

type Tls = tokio_rustls::client::TlsStream<TcpStream>;

async fn handshake(
    address: SocketAddr,
    trust: &DevelopmentFiles,
    alpn: &[&[u8]],
) -> io::Result<Tls> {
    let trust = Trust::from_file(&trust.authority).unwrap();
    let mut config = rustls::ClientConfig::clone(&trust.client_config());
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    // The certificates of the tests are valid at the time `NOW`.
    config.time_provider = Arc::new(TestDay);
    let stream = TcpStream::connect(address).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector
        .connect("localhost".try_into().unwrap(), stream)
        .await
}

#[derive(Debug)]
struct TestDay;

impl rustls::time_provider::TimeProvider for TestDay {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        let time = Duration::from_secs(NOW.as_secs());
        Some(rustls::pki_types::UnixTime::since_unix_epoch(time))
    }
}

/// Fails if `future` takes too long.
async fn soon<F: Future>(future: F) -> F::Output {
    timeout(TEST_TIMEOUT, future)
        .await
        .expect("it took too long")
}

/// A client that sends exactly the bytes that the test defines.
struct Client<S>(S);

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// Reads up to and including `end`.
    async fn until(&mut self, end: &str) -> String {
        let mut seen = Vec::new();
        while !seen.ends_with(end.as_bytes()) {
            let byte = soon(self.0.read_u8()).await;
            let Ok(byte) = byte else {
                panic!("ended after {:?}", String::from_utf8_lossy(&seen));
            };
            seen.push(byte);
        }
        String::from_utf8(seen).unwrap()
    }

    /// Reads until the server closes the connection, with or without an error. Returns all bytes
    /// that were read.
    async fn rest(&mut self) -> String {
        let mut seen = Vec::new();
        // A reset also ends the connection. The function also returns the bytes that arrived before
        // a reset.
        soon(self.0.read_to_end(&mut seen))
            .await
            .map_or_else(drop, drop);
        String::from_utf8_lossy(&seen).into_owned()
    }

    /// Sends one request on a connection that stays open.
    async fn get(&mut self, path: &str) -> String {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        let head = self.until("\r\n\r\n").await;
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse::<usize>().unwrap());
        let mut body = vec![0; length];
        soon(self.0.read_exact(&mut body)).await.unwrap();
        head + &String::from_utf8(body).unwrap()
    }
}
