//! A small HTTP/1.1 server on loopback for the provider and the app of the demo.
//!
//! Each connection has its own task. The server reads the whole body of a request before the server
//! calls the handler. When the [`Server`] value is dropped, the server accepts no new connection.
//! The server still answers the requests that have begun.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Sleep;

use super::Error;

/// The longest accepted request body, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// The longest time for the head or the body of a request.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A running server. When the `Server` is dropped, the server stops gracefully.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    _stop: watch::Sender<()>,
}

impl Server {
    /// The address that the server listens on, with the real port instead of 0.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A handler returns this error to close the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed without an answer")]
pub(crate) struct CloseConnection;

/// The result of a handler.
pub(crate) type HandlerResult = Result<Response<ReplyBody>, CloseConnection>;

/// Listens on `address` and serves requests with `handler` until the returned value is dropped.
///
/// # Errors
///
/// Returns [`Error::NotLoopback`] if other machines could reach the address. Returns
/// [`Error::Bind`] if the program cannot listen on the address.
pub(crate) async fn serve<H, F>(address: SocketAddr, handler: H) -> Result<Server, Error>
where
    H: Fn(Request<Bytes>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = HandlerResult> + Send + 'static,
{
    Ok(BoundListener::bind(address).await?.serve(handler))
}

/// A listener that does not serve requests yet. The address of the listener is known before the
/// handler is created.
#[derive(Debug)]
pub(crate) struct BoundListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl BoundListener {
    /// Starts to listen on `address`.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotLoopback`] if other machines could reach the address. Returns
    /// [`Error::Bind`] if the program cannot listen on the address.
    pub(crate) async fn bind(address: SocketAddr) -> Result<Self, Error> {
        if !address.ip().is_loopback() {
            return Err(Error::NotLoopback { address });
        }
        let bind = |source| Error::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        Ok(Self { listener, address })
    }

    /// The address of the listener, with the real port instead of 0.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves requests with `handler` until the returned value is dropped.
    pub(crate) fn serve<H, F>(self, handler: H) -> Server
    where
        H: Fn(Request<Bytes>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = HandlerResult> + Send + 'static,
    {
        let (stop, stopped) = watch::channel(());
        tokio::spawn(accept(self.listener, handler, stopped));
        Server {
            address: self.address,
            _stop: stop,
        }
    }
}

async fn accept<H, F>(listener: TcpListener, handler: H, mut stopped: watch::Receiver<()>)
where
    H: Fn(Request<Bytes>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = HandlerResult> + Send + 'static,
{
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // No task sends a value through the channel `stopped`, so `changed` returns only when
            // the sender is dropped.
            _gone = stopped.changed() => return,
        };
        match accepted {
            Ok((stream, _peer)) => {
                tokio::spawn(connection(stream, handler.clone(), stopped.clone()));
            }
            // Accepting a connection fails, for example, when the process has no free file
            // descriptor. Without a pause, the loop would use a whole CPU core for failing calls of
            // `accept`.
            Err(error) => {
                tracing::warn!(%error, "Demo server cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection<H, F>(stream: TcpStream, handler: H, mut stopped: watch::Receiver<()>)
where
    H: Fn(Request<Bytes>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = HandlerResult> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let handler = handler.clone();
        async move {
            match collect(request).await {
                Ok(request) => handler(request).await,
                Err(status) => Ok(plain(status, "the request body was not accepted\n")),
            }
        }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _gone = stopped.changed() => {
            // The server closes the connection after the answer to the current request.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "Demo connection ended early");
    }
}

async fn collect(request: Request<Incoming>) -> Result<Request<Bytes>, StatusCode> {
    let (parts, body) = request.into_parts();
    let collected = tokio::time::timeout(TIMEOUT, Limited::new(body, MAX_BODY).collect());
    let body = collected
        .await
        .map_err(|_elapsed| StatusCode::REQUEST_TIMEOUT)?
        .map_err(|_too_long_or_broken| StatusCode::PAYLOAD_TOO_LARGE)?
        .to_bytes();
    Ok(Request::from_parts(parts, body))
}

/// A response body in parts.
#[derive(Debug)]
pub(crate) enum ReplyBody {
    /// The body consists of parts that are known when the body is created.
    Paced(PacedParts),
    /// The body consists of parts that another task sends. The body ends when the other task drops
    /// the sender of the channel.
    Live(mpsc::Receiver<Bytes>),
}

/// The parts of a body, with a pause after each part except the last part.
#[derive(Debug)]
pub(crate) struct PacedParts {
    parts: VecDeque<Bytes>,
    pause: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl ReplyBody {
    /// Returns a body with one part, which is sent with a `Content-Length`.
    pub(crate) fn whole(part: impl Into<Bytes>) -> Self {
        Self::paced([part.into()], Duration::ZERO)
    }

    /// Returns a body with several parts, each of which is sent as a chunk. The server waits for
    /// `pause` between two parts.
    pub(crate) fn paced(parts: impl IntoIterator<Item = Bytes>, pause: Duration) -> Self {
        Self::Paced(PacedParts {
            parts: parts.into_iter().filter(|part| !part.is_empty()).collect(),
            pause,
            waiting: None,
        })
    }
}

impl PacedParts {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(waiting) = &mut self.waiting {
            std::task::ready!(waiting.as_mut().poll(context));
        }
        let part = self.parts.pop_front();
        let more = !self.parts.is_empty();
        self.waiting = more.then(|| Box::pin(tokio::time::sleep(self.pause)));
        Poll::Ready(part)
    }

    fn size_hint(&self) -> SizeHint {
        match self.parts.iter().map(Bytes::len).collect::<Vec<_>>()[..] {
            [] => SizeHint::with_exact(0),
            // The size of a body with one part is exact, so hyper sends the body with a
            // `Content-Length`. A body with several parts is sent in chunks.
            [length] if self.waiting.is_none() => {
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            _ => SizeHint::default(),
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = match &mut *self {
            Self::Paced(parts) => parts.poll_next(context),
            Self::Live(parts) => parts.poll_recv(context),
        };
        part.map(|part| part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Paced(parts) => parts.parts.is_empty(),
            Self::Live(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Paced(parts) => parts.size_hint(),
            Self::Live(_) => SizeHint::default(),
        }
    }
}

/// Returns a plain-text response.
pub(crate) fn plain(status: StatusCode, text: &'static str) -> Response<ReplyBody> {
    answer(status, "text/plain; charset=utf-8", text)
}

/// Returns a response with a content type and without caching fields.
pub(crate) fn answer(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::whole(body));
    *response.status_mut() = status;
    let content_type = http::HeaderValue::from_static(content_type);
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, content_type);
    response
}
