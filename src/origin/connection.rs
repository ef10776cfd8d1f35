//! One connection of a pool.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::Instant;

use super::connector::{Connector, Stream};
use super::error::Error;
use super::head_timer::HeadTimer;
use super::outgoing::Outgoing;
use super::traffic::{MonitoredStream, Traffic};
use crate::clock::Clock;

/// The longest head that is read, in bytes; hyper's own limit on fields is 100.
const MAX_HEAD: usize = 64 * 1024;

/// A connection to the origin, and the task that moves its bytes.
pub(super) struct Connection {
    pub(super) sender: SendRequest<Outgoing>,
    _task: AbortOnDrop,
    pub(super) traffic: Rc<Traffic>,
    pub(super) head_timer: HeadTimer,
    /// Since when it is idle, or at work.
    pub(super) since: Instant,
    /// It has carried a request to its response.
    pub(super) used: bool,
    /// How often in a row it was handed on to a waiting request of this worker.
    pub(super) handovers: u8,
}

/// What is left of a connection when HTTP has ended on it and the socket is still open.
pub(super) struct ReleasedSocket {
    pub(super) stream: Stream,
    /// What the origin sent behind the head of its 101.
    pub(super) early: Bytes,
    pub(super) permit: OwnedSemaphorePermit,
}

impl Connection {
    /// Opens a connection. `permit` is held until its socket is closed. After a 101 `switched` gets
    /// the socket.
    ///
    /// # Errors
    ///
    /// Those of [`Connector::connect`], and [`Error::Broken`].
    pub(super) async fn open(
        connector: &Connector,
        permit: OwnedSemaphorePermit,
        clock: &Clock,
        switched: Option<oneshot::Sender<ReleasedSocket>>,
    ) -> Result<Box<Self>, Error> {
        let stream = connector.connect().await?;
        let traffic = Rc::new(Traffic::default());
        let stream = MonitoredStream::new(stream, Rc::clone(&traffic));
        let (sender, mut connection) = http1::Builder::new()
            // Most requests are a head alone, for which lists of buffers are a detour.
            .writev(false)
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Error::Broken)?;
        let passing = Rc::clone(&traffic);
        let task = spawn_local(async move {
            let ended = poll_fn(|cx| {
                passing.allow_reads();
                Pin::new(&mut connection).poll(cx)
            });
            if let Err(error) = ended.await {
                tracing::debug!(error = %error, "A connection to an origin ended with an error");
            }
            // The socket is closed before its permit is free.
            let parts = connection.into_parts();
            if let Some(switched) = switched {
                let socket = ReleasedSocket {
                    stream: parts.io.into_inner().into_stream(),
                    early: parts.read_buf,
                    permit,
                };
                // Nobody waits for the socket of a request that was given up.
                switched.send(socket).map_err(drop).unwrap_or_default();
            }
        });
        Ok(Box::new(Self {
            sender,
            _task: AbortOnDrop(task.abort_handle()),
            traffic,
            head_timer: HeadTimer::default(),
            since: clock.instant(),
            used: false,
            handovers: 0,
        }))
    }

    /// Whether a request can be sent on it. hyper is ready for the next request only after both
    /// messages ended and nothing more came.
    pub(super) fn is_usable(&self, now: Instant, idle: Duration) -> bool {
        self.sender.is_ready() && now.saturating_duration_since(self.since) < idle
    }
}

/// Ends the task when dropped: a connection that is let go of is closed, whatever it was doing.
pub(super) struct AbortOnDrop(pub(super) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
