//! HTTP/1.1 clients that have closed their sending direction.
//!
//! A client may close its sending direction after its last request, and then wait for the answer. A
//! client that has vanished looks the same at first. hyper would drop the handler in both cases, so
//! [`super::socket::Plaintext`] hides the end of the input from hyper until the answer has ended.
//!
//! The sweep ends the connection if the client has reset it, or if the gateway has sent no byte for
//! [`super::Deadlines::half_closed`]. If the handler still waits for the body of the request, the
//! sweep ends the body, because no byte of it can arrive any more.

use std::cell::{Cell, RefCell};
use std::task::Waker;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::deadline::{ConnectionState, Phase};

/// What the gateway knows about the end of the input of a connection.
#[derive(Debug, Default)]
pub(super) struct HalfClosed {
    /// The time at which the end of the input was hidden from hyper for the first time.
    since: Cell<Option<Instant>>,
    /// The reader that waits for the body of the request.
    reader: RefCell<Option<Waker>>,
    /// The number of sweeps since the reader began to wait.
    sweeps: Cell<u8>,
}

/// If a reader has waited for this number of sweeps, no further byte arrives. Between two sweeps,
/// hyper passes all bytes that have arrived to the reader.
const SWEEPS: u8 = 2;

impl HalfClosed {
    /// Records that the reader of a request body waits for bytes. Returns true if no byte can arrive
    /// any more.
    pub(super) fn body_waits(&self, reader: &Waker) -> bool {
        let mut kept = self.reader.borrow_mut();
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(reader)) {
            *kept = Some(reader.clone());
        }
        self.sweeps.get() >= SWEEPS
    }

    /// Records that bytes of a request body have arrived.
    pub(super) fn body_arrives(&self) {
        self.reader.take();
        self.sweeps.set(0);
    }

    /// Ends the body of the request, if its reader has waited for [`SWEEPS`] sweeps since the end of
    /// the input was found.
    pub(super) fn sweep(&self) {
        if self.since.get().is_none() || self.reader.borrow().is_none() {
            return;
        }
        self.sweeps.set(self.sweeps.get().saturating_add(1));
        if self.sweeps.get() >= SWEEPS
            && let Some(reader) = self.reader.take()
        {
            reader.wake();
        }
    }
}

impl ConnectionState {
    /// Records the end of the input. Returns true if hyper must not know it yet, because the socket
    /// has not accepted the whole answer.
    pub(super) fn hides_end_of_input(&self) -> bool {
        let hides =
            matches!(self.phase(), Phase::Busy | Phase::Idle) && self.idle_since().is_none();
        if hides && !self.is_half_closed() {
            self.half_closed.since.set(Some(self.coarse_now()));
        }
        hides
    }

    /// Whether the end of the input was found while an answer was in progress.
    pub(super) fn is_half_closed(&self) -> bool {
        self.half_closed.since.get().is_some()
    }

    /// Whether a client that has closed its sending direction has vanished, or has waited for longer
    /// than `limit`. `last_sent` is the time at which the gateway last sent bytes.
    pub(super) fn has_vanished(&self, now: Instant, last_sent: Instant, limit: Duration) -> bool {
        let Some(since) = self.half_closed.since.get() else {
            return false;
        };
        let socket = self.socket().borrow();
        let error = |socket: &TcpStream| socket.take_error().ok().flatten();
        // While the socket accepts no bytes, the deadline for slow readers applies.
        let waits = !self.is_stalled();
        waits && now.saturating_duration_since(since.max(last_sent)) >= limit
            || socket.as_ref().and_then(error).is_some()
    }
}
