//! Serves one connection, from the accept to the end of the connection.

use std::cell::Cell;
use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::body::{RequestBody, ResponseBody};
use super::deadline::ConnectionState;
use super::gather::Gather;
use super::head_limits::{RefusedHead, is_above};
use super::hpack;
use super::http1::serve_http1;
use super::http2_input::Http2Input;
use super::phase::{Phase, Protocol};
use super::refusal::{MalformedBody, Refusal};
use super::socket::{Plaintext, Socket};
use super::stream::InFlight;
use super::switch::Switch;
use super::{Content, Handler, Settings, TunnelFn};

/// The maximum number of bytes that are buffered in each direction: per connection (HTTP/1.1) or
/// per stream (HTTP/2). If the settings allow longer heads, an HTTP/1.1 connection may buffer a
/// longer head ([`super::Limits::library_head_bytes`]).
pub(super) const BUFFER: usize = 64 * 1024;
/// The HTTP/2 connection preface (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The maximum number of bytes that the gateway has received on one HTTP/2 stream and has not yet
/// read.
const STREAM_WINDOW: u32 = 128 * 1024;
/// The maximum number of bytes that the gateway has received on one HTTP/2 connection and has not
/// yet read, if the handler has enough memory. If the apps of eight uploads read no bytes, these
/// uploads also block the other uploads of the same connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// The smallest window of a connection. A server cannot announce a smaller one (RFC 9113 section
/// 6.9.2).
const SMALLEST_WINDOW: u32 = 65_535;
/// The maximum number of streams that the gateway resets because of errors of the client. If the
/// errors of a client would cause more than `LOCAL_RESETS` resets, the gateway closes the
/// connection.
const LOCAL_RESETS: usize = 64;
/// The maximum number of streams that the client has reset and the gateway has not yet processed.
/// If a client resets more streams than this number, the gateway closes the connection
/// (CVE-2023-44487).
const PENDING_RESETS: usize = 20;

/// The data that is needed to answer the requests of one connection.
pub(super) struct Serving<H: Handler> {
    pub(super) handler: Rc<H>,
    pub(super) per_connection: Rc<H::PerConnection>,
    pub(super) state: Rc<ConnectionState>,
    pub(super) settings: Settings,
    /// The tunnel that follows a 101 response.
    pub(super) tunnel: Rc<Cell<Option<TunnelFn>>>,
}

impl<H: Handler> Serving<H> {
    /// Tells the handler that the bytes that the client has sent are refused; see
    /// [`Handler::connection_refused`].
    pub(super) fn refused(&self, refusal: Refusal, error: &dyn Error, head: Option<&Parts>) {
        let connection = &self.per_connection;
        let handler = &self.handler;
        handler.connection_refused(connection, refusal, error, head);
    }
}

/// Serves a connection until it ends.
///
/// # Cancel safety
///
/// Dropping the future closes the socket and drops the handler's futures. When the sweep ends a
/// connection, this future is dropped.
pub(super) async fn serve<H: Handler>(
    serving: Rc<Serving<H>>,
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
) {
    let socket = Socket::new(stream, Rc::clone(&serving.state));
    match tls {
        None if serving.handler.accepts_http2(&serving.per_connection) => {
            Box::pin(serve_by_preface(serving, socket)).await;
        }
        None => serve_http1(serving, socket, Bytes::new()).await,
        // The future of the TLS handshake has its own box. The memory of the box is freed before
        // the connection is served, and a connection without TLS does not allocate the box.
        Some(config) => match Box::pin(handshake(&serving, socket, config)).await {
            None => {}
            Some(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                // An HTTP/2 client has to send the connection preface first. The deadline of a
                // request head also applies to the preface.
                serving.state.enter(Phase::Head);
                Box::pin(http2(serving, stream, Bytes::new())).await;
            }
            Some(stream) => {
                serving.state.enter(Phase::Idle);
                serve_http1(serving, stream, Bytes::new()).await;
            }
        },
    }
}

/// Serves HTTP/2 if the client begins with the connection preface, and HTTP/1.1 otherwise.
async fn serve_by_preface<H: Handler>(serving: Rc<Serving<H>>, mut socket: Socket) {
    let mut early = BytesMut::with_capacity(PREFACE.len());
    while early.len() < PREFACE.len() && PREFACE.starts_with(&early) {
        // If the client disconnects, the connection ends without an answer.
        let Ok(1..) = socket.read_buf(&mut early).await else {
            return;
        };
    }
    if early.starts_with(PREFACE) {
        Box::pin(http2(serving, socket, early.freeze())).await;
    } else {
        serve_http1(serving, socket, early.freeze()).await;
    }
}

/// Performs the TLS handshake. The returned stream is in a `Box`. Without the box, each future that
/// moves the stream would need memory for another copy of the stream.
async fn handshake<H: Handler>(
    serving: &Serving<H>,
    socket: Socket,
    config: Arc<ServerConfig>,
) -> Option<Box<TlsStream<Socket>>> {
    match TlsAcceptor::from(config).accept(socket).await {
        Err(error) => {
            let client = serving.state.client();
            tracing::debug!(client.address = %client, %error, "TLS handshake failed");
            // A client that only disconnects has sent nothing that is wrong.
            if error.kind() == io::ErrorKind::InvalidData {
                let refusal = Refusal::of_handshake(serving.state.arrivals().opening());
                serving.refused(refusal, &error, None);
            }
            None
        }
        Ok(stream) => {
            serving.state.arrivals().handshake_ended();
            Some(Box::new(stream))
        }
    }
}

/// Serves HTTP/2. `early` contains bytes that were already read from the stream.
async fn http2<H, S>(serving: Rc<Serving<H>>, stream: S, early: Bytes)
where
    H: Handler,
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let state = Rc::clone(&serving.state);
    let Settings {
        deadlines, limits, ..
    } = serving.settings;
    let wanted = CONNECTION_WINDOW.saturating_sub(SMALLEST_WINDOW);
    let reserved = serving
        .handler
        .reserve_window(&serving.per_connection, wanted);
    let window = SMALLEST_WINDOW.saturating_add(reserved);
    let mut builder = http2::Builder::new(StreamExecutor(Rc::clone(&state)));
    builder
        .timer(TokioTimer::new())
        // Allows WebSockets over HTTP/2 (RFC 8441).
        .enable_connect_protocol()
        // HTTP/2 pings detect that a client has disappeared, even if the gateway sends no other
        // bytes.
        .keep_alive_interval(deadlines.idle)
        .keep_alive_timeout(deadlines.write)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.library_head_bytes()).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW.min(window))
        .initial_connection_window_size(window)
        .max_send_buf_size(BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS);
    let stream = Gather::new(stream);
    let gathered = stream.clone();
    let stream = Plaintext::new(stream, Rc::clone(&state), Protocol::Http2);
    let io = TokioIo::new(Http2Input::new(stream.rewound(early), Rc::clone(&state)));
    let answering = Rc::clone(&serving);
    let service = service_fn(move |request| answer(&answering, request, Protocol::Http2));
    let connection = pin!(builder.serve_connection(io, service));
    let finished = finish(
        &state,
        connection,
        |cx| {
            state.lingering.poll(cx);
            for _ in 0..state.arrivals().turn_ended() {
                serving.refused(Refusal::HeadTooLarge, &RefusedHead, None);
            }
            if state.arrivals().take_malformed_body() {
                serving.refused(Refusal::MalformedBody, &MalformedBody, None);
            }
            gathered.poll_release(cx)
        },
        || true,
        http2::Connection::graceful_shutdown,
    );
    if let Err(Broken::Http(error)) = finished.await
        && let Some(refusal) = Refusal::of_http2(&error, state.arrivals())
    {
        serving.refused(refusal, &error, None);
    }
}

/// The error with which a connection ended. The function [`finish`] has already logged the error.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The HTTP library reports an error of the client or of the socket.
    #[error(transparent)]
    Http(hyper::Error),
    /// The socket is broken.
    #[error(transparent)]
    Socket(io::Error),
}

/// The state of a connection after [`finish`] returns without an error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Finished {
    /// The connection has ended.
    Ended,
    /// The connection becomes dormant.
    Dormant,
}

/// Runs a connection until it ends or becomes dormant. Begins the graceful shutdown when
/// [`ConnectionState::close`] is called. Calls `after_poll` after each poll, to send the bytes that
/// are still buffered.
pub(super) async fn finish<C: Future<Output = hyper::Result<()>>>(
    state: &ConnectionState,
    mut connection: Pin<&mut C>,
    mut after_poll: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    may_close: impl Fn() -> bool,
    close: impl Fn(Pin<&mut C>),
) -> Result<Finished, Broken> {
    let mut shutdown_begun = false;
    let result = poll_fn(|cx| {
        // The connection is polled before a shutdown begins, so that a request that has already
        // arrived gets an answer.
        let mut polled = connection.as_mut().poll(cx);
        if polled.is_pending() {
            state.set_waker(cx.waker());
        }
        if !shutdown_begun && polled.is_pending() {
            if state.is_closing() && may_close() {
                shutdown_begun = true;
                close(connection.as_mut());
                polled = connection.as_mut().poll(cx);
            } else if state.becomes_dormant() {
                return Poll::Ready(Ok(Finished::Dormant));
            }
        }
        match (after_poll(cx), polled) {
            (Poll::Ready(Err(error)), _) => Poll::Ready(Err(Broken::Socket(error))),
            (_, polled) => polled.map_ok(|()| Finished::Ended).map_err(Broken::Http),
        }
    });
    result.await.inspect_err(|error| {
        tracing::debug!(client.address = %state.client(), %error, "Connection ended with an error");
    })
}

/// Passes a request to the handler. The request counts as unfinished from the call of this
/// function, even if the returned future is never polled.
pub(super) fn answer<H: Handler>(
    serving: &Serving<H>,
    request: Request<Incoming>,
    protocol: Protocol,
) -> impl Future<Output = Result<Response<ResponseBody<H::Body>>, Infallible>> + use<H> {
    let Settings {
        deadlines, limits, ..
    } = serving.settings;
    let state = Rc::clone(&serving.state);
    let in_flight = state.begin(protocol);
    let handler = Rc::clone(&serving.handler);
    let per_connection = Rc::clone(&serving.per_connection);
    let (mut head, body) = request.into_parts();
    state.set_http10(head.version == Version::HTTP_10);
    // hyper adds an extension only to a request that asks for another protocol.
    let switch = if head.extensions.is_empty() {
        Switch::No
    } else {
        Switch::read(&mut head, protocol, serving)
    };
    let body = RequestBody::new(body, &state, deadlines.body_window, limits.body_rate);
    let upload = body.watch();
    // The rest of the body must not be read without need if the client waits for a 100 response.
    let expects = upload.has_body() && head.headers.contains_key(EXPECT);
    let received = state.arrivals().head_parsed();
    let is_above = is_above(&limits, &head, (protocol, received));
    // Over HTTP/2, hyper does not remove the content of a response to HEAD (RFC 9110 section
    // 9.3.2).
    let without_content = protocol == Protocol::Http2 && head.method == Method::HEAD;
    async move {
        let panic_logger = PanicLogger(&state);
        let mut response = if is_above {
            handler.refuse_head(&per_connection, head, body)
        } else {
            handler.handle(&per_connection, head, body).await
        };
        drop(panic_logger);
        let mut leaves_body = false;
        if upload.has_body() {
            match in_flight.stream() {
                None => leaves_body = state.leaves_body(&upload, expects).await,
                Some((stream, _now)) => stream.set_upload(upload),
            }
        }
        switch.answer(&mut response, &state);
        let mut response = if without_content {
            head_response(response, in_flight)
        } else {
            response.body_mut().begin(|| in_flight.control());
            response.map(|body| ResponseBody::new(body, in_flight))
        };
        let is_last = leaves_body || state.is_closing();
        write_connection_fields(&mut response, protocol, is_last);
        Ok(response)
    }
}

/// Writes the fields of a response that depend on its connection. `is_last` states whether the
/// connection closes after the response.
fn write_connection_fields<B>(response: &mut Response<B>, protocol: Protocol, is_last: bool) {
    match protocol {
        // The `Connection` field of a 101 response must not be replaced, because the field contains
        // `Upgrade`.
        Protocol::Http1 if response.status() == StatusCode::SWITCHING_PROTOCOLS => {}
        Protocol::Http1 if is_last => {
            // The last response on a connection contains `Connection: close` (RFC 9112 section
            // 9.6).
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        Protocol::Http1 => {}
        Protocol::Http2 => hpack::index_only_repeating(response.headers_mut()),
    }
}

/// Returns the response to a HEAD request. The body of `response` is dropped, and only the length
/// of the body is used.
fn head_response<B: Body>(response: Response<B>, in_flight: InFlight) -> Response<ResponseBody<B>> {
    let length = response.body().size_hint().exact();
    let mut response = response.map(|_body| ResponseBody::empty(in_flight));
    if let Some(length @ 1..) = length {
        let length = HeaderValue::from(length);
        response
            .headers_mut()
            .entry(CONTENT_LENGTH)
            .or_insert(length);
    }
    response
}

/// Logs that a handler panicked. The payload of the panic is not logged, because the payload may
/// contain data of the request.
struct PanicLogger<'a>(&'a ConnectionState);

impl Drop for PanicLogger<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(client.address = %self.0.client(), "Handler panicked");
        }
    }
}

/// Runs the streams of one HTTP/2 connection on the worker's thread.
#[derive(Clone, Debug)]
struct StreamExecutor(Rc<ConnectionState>);

impl<F> Executor<F> for StreamExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, stream: F) {
        // The future is not spawned inside an `async` block, because the block would contain a
        // second copy of each request.
        let task = tokio::task::spawn_local(stream);
        self.0.stream_spawned(task.abort_handle());
    }
}
