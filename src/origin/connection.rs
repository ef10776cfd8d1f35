//! One connection of a pool.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::Instant;

use super::answer_head::AnswerLimits;
use super::connector::{Connector, Stream};
use super::error::Error;
use super::head_timer::HeadTimer;
use super::limit::Permit;
use super::outgoing::Outgoing;
use super::traffic::{MonitoredStream, Traffic};
use super::trailers::DroppedTrailers;
use super::usage::OpenUsage;
use super::wake::WakeSwitch;
use crate::clock::Clock;

/// A connection to the origin, with the task that reads and writes its socket.
pub(super) struct Connection {
    pub(super) sender: SendRequest<Outgoing>,
    _task: AbortOnDrop,
    pub(super) traffic: Rc<Traffic>,
    /// The time when the current request began, or when the connection became idle.
    pub(super) since: Instant,
    /// Whether this connection has already carried a request and its response.
    pub(super) used: bool,
    /// The number of times that this worker gave the connection to its own requests while a request
    /// of another worker waited.
    pub(super) handovers: u8,
    pub(super) usage: OpenUsage,
    pub(super) dropped_trailers: Arc<DroppedTrailers>,
    /// The limits for the heads of the answers.
    pub(super) limits: AnswerLimits,
    wake_switch: WakeSwitch,
}

/// The open socket of a connection that has switched from HTTP to another protocol.
pub(super) struct ReleasedSocket {
    pub(super) stream: Stream,
    /// The bytes that the origin sent after the head of its 101 response.
    pub(super) early: Bytes,
    pub(super) permit: Permit,
}

impl Connection {
    /// Opens a connection. The connection keeps the argument `permit` until the socket is closed.
    /// After a 101 response, the task of the connection sends the socket to the channel `switched`.
    /// The task of the connection closes the connection if the head of a response takes longer than
    /// `head_limit`.
    ///
    /// The function `usage` gets a handle that can abort the task of the connection. `usage`
    /// returns the record of the exchanges that use the connection.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Broken`] or an error of [`Connector::connect`].
    pub(super) async fn open(
        connector: &Connector,
        permit: Permit,
        (clock, head_limit): (&Clock, Duration),
        switched: Option<oneshot::Sender<ReleasedSocket>>,
        usage: impl FnOnce(AbortHandle) -> OpenUsage,
    ) -> Result<Box<Self>, Error> {
        let stream = connector.connect().await?;
        let traffic = Rc::new(Traffic::default());
        let stream = MonitoredStream::new(stream, Rc::clone(&traffic));
        let handshake = builder(connector).handshake(TokioIo::new(stream));
        let (sender, mut connection) = handshake.await.map_err(Error::Broken)?;
        let passing = Rc::clone(&traffic);
        let wake_switch = WakeSwitch::default();
        let switch = wake_switch.clone();
        let task = spawn_local(async move {
            // The waker of a task never changes, so one waker is enough for all polls of the
            // connection.
            let mut waker: Option<Waker> = None;
            let mut timer = HeadTimer::default();
            let ended = poll_fn(|cx| {
                passing.allow_reads();
                let waker = waker.get_or_insert_with(|| switch.waker(cx.waker()));
                let cx = &mut Context::from_waker(waker);
                let ended = Pin::new(&mut connection).poll(cx);
                let late = passing.awaited().poll_late(&mut timer, head_limit, cx);
                if late.is_ready() {
                    Poll::Ready(Ok(()))
                } else {
                    ended
                }
            });
            if let Err(error) = ended.await {
                tracing::debug!(error = %error, "A connection to an origin ended with an error");
            }
            // The socket must be closed before the semaphore permit is released, so that the origin
            // never has more connections than the limit allows.
            let parts = connection.into_parts();
            if let Some(switched) = switched {
                let socket = ReleasedSocket {
                    stream: parts.io.into_inner().into_stream(),
                    early: parts.read_buf,
                    permit,
                };
                // If the caller has dropped the request, `send` returns the socket, and the socket
                // is closed here.
                switched.send(socket).map_err(drop).unwrap_or_default();
            }
        });
        Ok(Box::new(Self {
            sender,
            _task: AbortOnDrop(task.abort_handle()),
            traffic,
            since: clock.instant(),
            used: false,
            handovers: 0,
            usage: usage(task.abort_handle()),
            dropped_trailers: Arc::clone(connector.dropped_trailers()),
            limits: connector.answer_limits(),
            wake_switch,
        }))
    }

    /// Calls the function `take`, which takes a part of the response. If the connection's task has
    /// already received the complete response, this call does not wake the task.
    pub(super) fn take_part<T>(&self, take: impl FnOnce() -> T) -> T {
        // hyper wants the next request only after it has received the complete response.
        if self.sender.is_ready() {
            self.wake_switch.ignore_wakes(take)
        } else {
            take()
        }
    }

    /// Returns `true` if the next request can be sent on this connection. The previous request and
    /// its response must have ended, and no further byte may have arrived.
    pub(super) fn is_usable(&self, now: Instant, idle: Duration) -> bool {
        // An addition of times takes fewer instructions than a subtraction.
        self.is_ready() && self.since.checked_add(idle).is_none_or(|end| now < end)
    }

    /// Returns `true` if the connection is open and no exchange uses it.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }
}

/// Returns the builder of hyper's side of a connection.
fn builder(connector: &Connector) -> http1::Builder {
    let limits = connector.answer_limits();
    let mut builder = http1::Builder::new();
    if let Some(fields) = limits.unusual_fields() {
        builder.max_headers(fields);
    }
    builder
        // Most requests have no body, so hyper writes only one buffer: the head. For one buffer, a
        // vectored write is slower than a simple write.
        .writev(false)
        .max_buf_size(limits.head_bytes)
        .title_case_headers(connector.uses_title_case())
        // A proxy removes white space before the colon of a field (RFC 9112 section 5.1).
        .allow_spaces_after_header_name_in_responses(true);
    builder
}

/// Aborts a task when this guard is dropped. When a [`Connection`] is dropped, this guard aborts
/// the task of the connection, so that the socket is closed.
pub(super) struct AbortOnDrop(pub(super) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
