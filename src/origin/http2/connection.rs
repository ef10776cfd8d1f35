//! One HTTP/2 connection.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{PingPong, SendStream};
use http::Request;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use super::keep_alive::{KeepAlive, Schedule};
use crate::clock::Clock;
use crate::origin::answer_head::AnswerLimits;
use crate::origin::connector::{Connector, Stream};
use crate::origin::error::Error;
use crate::origin::limit::Permit;

/// The maximum number of streams that the gateway uses on one connection. If the origin allows
/// fewer streams, the gateway uses only the allowed number.
pub(super) const MAX_STREAMS: usize = 100;
/// The number of bytes that the origin may send on one stream before the client has accepted them.
const STREAM_WINDOW: u32 = 128 * 1024;
/// The window of a connection is as large as the windows of all its streams together. If the
/// flow-control window of the connection were smaller, a few clients that do not read their answers
/// would block all other HTTP/2 streams of the connection.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 100;
/// The maximum number of bytes of a request that wait in memory until the origin reads them.
const SEND_BUFFER: usize = 64 * 1024;
/// The number of reset streams that the gateway remembers. The origin may still send frames for an
/// HTTP/2 stream that the gateway has reset.
const REMEMBERED_RESETS: usize = 1024;
/// The number of streams that the gateway may reset because of errors of the origin. If the gateway
/// has to reset more HTTP/2 streams, the gateway closes the connection.
const LOCAL_RESETS: usize = 64;

type Driver = client::Connection<Stream, Bytes>;

/// A connection, and its task that reads and writes its socket. When the `Connection` was dropped
/// and no request uses the connection any more, the task sends a GOAWAY frame and closes the
/// socket.
pub(super) struct Connection {
    sender: RefCell<SendRequest<Bytes>>,
    state: Rc<State>,
}

/// The part of a [`Connection`] that the task of the connection also uses.
pub(super) struct State {
    /// The number of slots that requests use.
    taken: Cell<usize>,
    /// The number of response heads and parts of response bodies that have arrived.
    received: Cell<u64>,
    /// The time when the connection became idle.
    since: Cell<Instant>,
}

impl State {
    /// Returns true if no request uses the connection.
    pub(super) fn is_idle(&self) -> bool {
        self.taken.get() == 0
    }

    /// The number of response heads and parts of response bodies that have arrived.
    pub(super) fn received(&self) -> u64 {
        self.received.get()
    }
}

impl Connection {
    /// Opens a connection, and waits for the settings of the origin, so that no request exceeds the
    /// origin's limit of streams. The connection keeps `permit` until its socket is closed.
    ///
    /// # Errors
    ///
    /// [`Error::NoHttp2`], and the errors of [`Connector::connect`].
    pub(super) async fn open(
        connector: &Connector,
        permit: Permit,
        keep_alive: KeepAlive,
        clock: &Clock,
    ) -> Result<Rc<Self>, Error> {
        let stream = connector.connect().await?;
        let begun = async {
            let (sender, mut driver) = builder(connector.answer_limits())
                .handshake::<_, Bytes>(stream)
                .await?;
            settings(&mut driver).await.map(|()| (sender, driver))
        };
        let begun = timeout(connector.deadline(), begun).await;
        let (sender, mut driver) = match begun {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => return Err(Error::NoHttp2(error.into())),
            Err(_elapsed) => return Err(Error::ConnectTimeout),
        };
        let state = Rc::new(State {
            taken: Cell::new(0),
            received: Cell::new(0),
            since: Cell::new(clock.instant()),
        });
        let schedule = Schedule::new(keep_alive, Rc::clone(&state), clock.clone());
        let pings = driver.ping_pong();
        spawn_local(async move {
            drive(driver, pings, schedule).await;
            // The permit is released only after the function `drive` has closed the socket, so that
            // the origin never has more connections than the limit allows.
            drop(permit);
        });
        Ok(Rc::new(Self {
            sender: RefCell::new(sender),
            state,
        }))
    }

    /// The number of requests that the connection may carry at the same time.
    pub(super) fn slots(&self) -> usize {
        let allowed = self.sender.borrow().current_max_send_streams();
        allowed.min(MAX_STREAMS)
    }

    /// Takes a slot. Returns false if no slot is free.
    pub(super) fn reserve(&self) -> bool {
        let taken = self.state.taken.get();
        let free = taken < self.slots();
        if free {
            self.state.taken.set(taken.saturating_add(1));
        }
        free
    }

    /// Gives a slot back.
    pub(super) fn release(&self, now: Instant) {
        let taken = self.state.taken.get();
        self.state.taken.set(taken.saturating_sub(1));
        self.state.since.set(now);
    }

    /// Returns true if no request uses the connection.
    pub(super) fn is_idle(&self) -> bool {
        self.state.is_idle()
    }

    /// Whether the next request can be sent on this connection.
    pub(super) fn is_usable(&self, now: Instant, max_idle: Duration) -> bool {
        let idle = || now.saturating_duration_since(self.state.since.get());
        self.accepts_requests() && (!self.is_idle() || idle() < max_idle)
    }

    /// Returns false if the connection is broken, or if the origin has announced the end of the
    /// connection (GOAWAY).
    pub(super) fn accepts_requests(&self) -> bool {
        // No task has to be woken, because the connection is checked again before its next use.
        let mut context = Context::from_waker(Waker::noop());
        let ready = self.sender.borrow_mut().poll_ready(&mut context);
        matches!(ready, Poll::Ready(Ok(())))
    }

    /// Whether a response has arrived on this connection.
    pub(super) fn was_used(&self) -> bool {
        self.state.received.get() > 0
    }

    /// Records that a response head or a part of a response body has arrived.
    pub(super) fn record_receipt(&self) {
        let received = self.state.received.get();
        self.state.received.set(received.wrapping_add(1));
    }

    /// Sends the head of a request. If `is_complete` is true, the request has no content.
    pub(super) fn send(
        &self,
        head: Request<()>,
        is_complete: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        // Each request uses its own clone of the sender. While a request waits because of the
        // origin's limit of HTTP/2 streams, a second request needs another `SendRequest` value.
        let mut sender = self.sender.borrow().clone();
        sender.send_request(head, is_complete)
    }
}

fn builder(limits: AnswerLimits) -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        // The gateway opens no stream before the settings of the origin have arrived.
        .initial_max_send_streams(0)
        .max_header_list_size(limits.list_bytes())
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .max_local_error_reset_streams(Some(LOCAL_RESETS));
    builder
}

/// Waits for the first settings of the origin. An origin that does not speak HTTP/2 never sends
/// settings.
async fn settings(driver: &mut Driver) -> Result<(), h2::Error> {
    poll_fn(|cx| match Pin::new(&mut *driver).poll(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Ready(Ok(())) => Poll::Ready(Err(h2::Reason::NO_ERROR.into())),
        Poll::Pending if driver.max_concurrent_send_streams() > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Runs a connection until it ends, or until the origin does not answer a ping.
async fn drive(mut driver: Driver, pings: Option<PingPong>, mut schedule: Schedule) {
    // `pings` is never `None`, because the first call of `ping_pong` for a connection returns a
    // [`PingPong`].
    let Some(mut pings) = pings else { return };
    let ended = tokio::select! {
        biased;
        ended = &mut driver => ended,
        () = schedule.until_dead(&mut pings) => {
            tracing::debug!("An origin does not answer on an HTTP/2 connection, so it is closed");
            return;
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "An HTTP/2 connection to an origin ended with an error");
    }
}
