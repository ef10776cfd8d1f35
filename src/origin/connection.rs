//! One connection of a pool.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::Instant;

use super::connector::Connector;
use super::error::Error;
use super::outgoing::Outgoing;
use super::patience::Patience;
use super::wire::{Watched, Wire};
use crate::clock::Clock;

/// The longest head that is read, in bytes; hyper's own limit on fields is 100.
const MAX_HEAD: usize = 64 * 1024;

/// A connection to the origin, and the task that moves its bytes.
pub(super) struct Connection {
    pub(super) sender: SendRequest<Outgoing>,
    _task: AbortOnDrop,
    pub(super) wire: Rc<Wire>,
    pub(super) patience: Patience,
    /// Since when it is idle, or at work.
    pub(super) since: Instant,
    /// It has carried a request to its response.
    pub(super) used: bool,
    /// How often in a row it was handed on to a waiting request of this worker.
    pub(super) handed_on: u8,
}

impl Connection {
    /// Opens a connection. `permit` is held until its socket is closed.
    ///
    /// # Errors
    ///
    /// Those of [`Connector::connect`], and [`Error::Broken`].
    pub(super) async fn open(
        connector: &Connector,
        permit: OwnedSemaphorePermit,
        clock: &Clock,
    ) -> Result<Box<Self>, Error> {
        let stream = connector.connect().await?;
        let wire = Rc::new(Wire::default());
        let stream = Watched::new(stream, Rc::clone(&wire));
        let (sender, connection) = http1::Builder::new()
            // Most requests are a head alone, for which lists of buffers are a detour.
            .writev(false)
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Error::Broken)?;
        let passing = Rc::clone(&wire);
        let task = spawn_local(async move {
            // The socket is closed before its permit is free.
            let _permit = permit;
            let mut connection = pin!(connection);
            let connection = poll_fn(|cx| {
                passing.look_again();
                connection.as_mut().poll(cx)
            });
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "A connection to an origin ended with an error");
            }
        });
        Ok(Box::new(Self {
            sender,
            _task: AbortOnDrop(task.abort_handle()),
            wire,
            patience: Patience::default(),
            since: clock.instant(),
            used: false,
            handed_on: 0,
        }))
    }

    /// Whether a request can be sent on it. hyper is ready for the next request only after both
    /// messages ended and nothing more came.
    pub(super) fn is_good(&self, now: Instant, idle: Duration) -> bool {
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
