//! Idle HTTP/1.1 connections without the objects of hyper.
//!
//! A connection of hyper keeps two buffers of 8 KB and a map of fields, even while no request is in
//! flight. Therefore, when an HTTP/1.1 connection has been idle for [`DORMANT_AFTER`], the gateway
//! frees the connection of hyper. The client's connection stays open and is called dormant. When
//! bytes arrive, or when the connection has to close, the gateway creates a new connection of
//! hyper.
//!
//! If a worker has more than [`CROWD`] connections, each of its connections becomes dormant
//! directly after a response. The next request of another connection uses the freed memory, which
//! is still in the CPU caches. With few connections, the memory of all connections stays in the CPU
//! caches, so a new connection of hyper for each request would cost instructions and save nothing.
//!
//! The sweep asks a connection to become dormant. Bytes may have arrived since the sweep, so the
//! task of the connection polls hyper before the task decides whether the connection becomes
//! dormant. A connection of hyper may be freed only if it is between two requests:
//!
//! - No request is in flight, and the client has accepted all bytes of the last response.
//! - The last request body was read to its end.
//! - The last read found no bytes. Otherwise TLS could still have bytes that it has already read
//!   from the socket, and the socket would never report these bytes.
//! - The connection is not closing and does not switch to another protocol.
//!
//! If hyper has already read a part of the next head, the new connection of hyper gets this part
//! first.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use super::deadline::ConnectionState;

/// An HTTP/1.1 connection becomes dormant when it has been idle for this time. With a much shorter
/// time, a busy connection would become dormant between two requests, and each request would need a
/// new connection of hyper.
pub(super) const DORMANT_AFTER: Duration = Duration::from_secs(1);
/// If a worker has more connections than this number, a connection becomes dormant directly after a
/// response.
pub(super) const CROWD: usize = 1000;

/// Whether a connection is dormant, and what prevents it from becoming dormant.
#[derive(Debug, Default)]
pub(super) struct Dormancy {
    stage: Cell<Stage>,
    /// The number of request bodies that were neither read to the end nor dropped.
    open_bodies: Cell<usize>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Stage {
    /// The connection has no HTTP/1.1 connection of hyper: it is new, or it uses another protocol.
    #[default]
    Impossible,
    /// hyper serves the requests of this connection over HTTP/1.1.
    Awake,
    /// The sweep has asked the connection to become dormant.
    Asked,
    /// The gateway has freed the connection of hyper, and the client's connection stays open.
    Dormant,
}

impl Dormancy {
    pub(super) fn stage(&self) -> Stage {
        self.stage.get()
    }

    pub(super) fn set(&self, stage: Stage) {
        self.stage.set(stage);
    }

    pub(super) fn body_begins(&self) {
        self.open_bodies
            .set(self.open_bodies.get().saturating_add(1));
    }

    pub(super) fn body_ends(&self) {
        self.open_bodies
            .set(self.open_bodies.get().saturating_sub(1));
    }

    pub(super) fn has_open_body(&self) -> bool {
        self.open_bodies.get() > 0
    }
}

impl ConnectionState {
    /// Asks the connection to become dormant, if the connection has been idle for long enough.
    pub(super) fn ask_dormant(&self) {
        if self.dormancy().stage() == Stage::Awake && self.may_be_dormant() {
            self.dormancy().set(Stage::Asked);
            self.wake();
        }
    }

    /// Returns whether the connection becomes dormant now. The task of the connection calls this
    /// function after each poll of hyper.
    pub(super) fn becomes_dormant(&self) -> bool {
        let asked = match self.dormancy().stage() {
            Stage::Asked => true,
            Stage::Awake => self.is_crowded() && self.has_served(),
            Stage::Impossible | Stage::Dormant => false,
        };
        if !asked {
            return false;
        }
        let may = self.may_be_dormant();
        let stage = if may { Stage::Dormant } else { Stage::Awake };
        self.dormancy().set(stage);
        may
    }

    fn may_be_dormant(&self) -> bool {
        let now = self.coarse_now();
        let crowded = self.is_crowded();
        let idle = |since| crowded || now.saturating_duration_since(since) >= DORMANT_AFTER;
        self.idle_since().is_some_and(idle)
            && !self.is_closing()
            && !self.is_upgrade_requested()
            && !self.has_unread_input()
            && self.input_is_empty()
            && !self.dormancy().has_open_body()
    }

    /// Waits until a dormant connection has bytes to read, or has to close.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn dormancy_ended(&self) {
        let ended = |cx: &mut Context<'_>| {
            self.set_waker(cx.waker());
            match &*self.socket().borrow() {
                Some(socket) if !self.is_closing() => socket.poll_read_ready(cx).map(drop),
                Some(_) | None => Poll::Ready(()),
            }
        };
        poll_fn(ended).await;
    }
}

#[cfg(test)]
#[path = "dormant_tests.rs"]
mod tests;
