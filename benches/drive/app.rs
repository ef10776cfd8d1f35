//! An app with streams, on one thread: it echoes WebSocket messages, sends and swallows large
//! bodies, and answers gRPC calls. It counts what it has done.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, on};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use super::{address, frames};

/// The answer to the key of the example in RFC 6455 section 1.3, which the load sends.
const ACCEPT: HeaderValue = HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
/// The size of one piece of a large body.
const PIECE: usize = 64 * 1024;

#[derive(Args)]
pub(crate) struct App {
    /// The port for HTTP/1.1
    port: u16,
    /// The port for HTTP/2 without TLS
    http2_port: u16,
}

/// The number of messages, bodies and calls that are complete.
type Done = Rc<Cell<u64>>;

impl App {
    /// Serves until the process is stopped.
    pub(crate) async fn run(&self) -> Value {
        let done = Done::default();
        let http2 = spawn_local(listen(self.http2_port, true, Rc::clone(&done)));
        listen(self.port, false, done).await;
        http2.abort();
        Value::Null
    }
}

async fn listen(port: u16, http2: bool, done: Done) {
    let listener = TcpListener::bind(address(port)).await.expect("a free port");
    loop {
        let (stream, _peer) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("an open connection");
        let done = Rc::clone(&done);
        let service = service_fn(move |request| answer(request, Rc::clone(&done)));
        spawn_local(async move {
            // A client that leaves is no failure of the app.
            if http2 {
                let serving = hyper::server::conn::http2::Builder::new(Local);
                let serving = serving.serve_connection(TokioIo::new(stream), service);
                serving.await.unwrap_or_default();
            } else {
                let serving = hyper::server::conn::http1::Builder::new();
                let serving = serving.serve_connection(TokioIo::new(stream), service);
                serving.with_upgrades().await.unwrap_or_default();
            }
        });
    }
}

/// Runs the streams of HTTP/2 on the only thread.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

async fn answer(request: Request<Incoming>, done: Done) -> Result<Response<Content>, Infallible> {
    let add = || done.set(done.get() + 1);
    let answer = match request.uri().path() {
        "/socket" => {
            spawn_local(echo(on(request), done));
            return Ok(switching());
        }
        "/download" => {
            let size = request.uri().query().and_then(|size| size.parse().ok());
            let piece = vec![b'd'; PIECE].into();
            Content::new(piece, size.expect("a size"), None)
        }
        "/upload" => {
            swallow(request.into_body()).await;
            Content::text(String::new())
        }
        "/bench.Echo/Unary" => {
            let body = request.into_body().collect().await.expect("a whole call");
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let message = body.to_bytes();
            let size = message.len() as u64;
            Content::new(message, size, Some(trailers))
        }
        "/count" => Content::text(done.get().to_string()),
        _ => {
            let bearer = request.headers().get(header::AUTHORIZATION);
            let bearer = bearer.map_or(&[][..], HeaderValue::as_bytes);
            Content::text(format!("authorization={}", bearer.escape_ascii()))
        }
    };
    add();
    let call = answer.trailers.is_some();
    let kind = if call {
        "application/grpc"
    } else {
        "text/plain"
    };
    let mut response = Response::new(answer);
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

fn switching() -> Response<Content> {
    let mut response = Response::new(Content::text(String::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = response.headers_mut();
    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(header::SEC_WEBSOCKET_ACCEPT, ACCEPT);
    response
}

async fn swallow(mut body: Incoming) {
    while let Some(frame) = body.frame().await {
        drop(frame.expect("a whole body"));
    }
}

/// Echoes the messages of a WebSocket until the client leaves.
async fn echo(upgrade: OnUpgrade, done: Done) {
    let upgraded = upgrade.await.expect("a WebSocket");
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().expect("a socket");
    let mut stream = parts.io.into_inner();
    let mut received = parts.read_buf.to_vec();
    let mut echoed = Vec::new();
    loop {
        while let Some(frame) = frames::Frame::read(&received) {
            let content = received.get_mut(frame.content..frame.end);
            let content = content.expect("a whole frame");
            frame.unmask(content);
            echoed.clear();
            frames::write(content, None, &mut echoed);
            received.drain(..frame.end);
            done.set(done.get() + 1);
            if stream.write_all(&echoed).await.is_err() {
                return;
            }
        }
        if !matches!(stream.read_buf(&mut received).await, Ok(1..)) {
            return;
        }
    }
}

/// A body that repeats one piece, and may have trailers.
struct Content {
    piece: Bytes,
    left: u64,
    trailers: Option<HeaderMap>,
}

impl Content {
    fn new(piece: Bytes, left: u64, trailers: Option<HeaderMap>) -> Self {
        Self {
            piece,
            left,
            trailers,
        }
    }

    fn text(text: String) -> Self {
        let left = text.len() as u64;
        Self::new(text.into(), left, None)
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(
                self.trailers
                    .take()
                    .map(|fields| Ok(Frame::trailers(fields))),
            );
        }
        let size = self.piece.len().min(self.left as usize);
        self.left -= size as u64;
        Poll::Ready(Some(Ok(Frame::data(self.piece.slice(..size)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.trailers.is_some() {
            SizeHint::default()
        } else {
            SizeHint::with_exact(self.left)
        }
    }
}
