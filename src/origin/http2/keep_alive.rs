//! Sends HTTP/2 pings, to detect origins that have disappeared.

use std::rc::Rc;
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, timeout};

use super::connection::State;
use crate::clock::Clock;

/// The time limits that control the pings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct KeepAlive {
    /// If a request is open and the origin has sent nothing for the time `silence`, the gateway
    /// sends a ping.
    pub(crate) silence: Duration,
    /// The shortest time between two pings while only answers to pings arrive. By default, a gRPC
    /// server allows only one ping in five minutes. If pings arrive more often, the server closes
    /// the connection (`too_many_pings`).
    pub(crate) interval: Duration,
    /// The longest time for the answer to a ping.
    pub(crate) answer: Duration,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(20),
            interval: Duration::from_secs(310),
            answer: Duration::from_secs(20),
        }
    }
}

/// Sends the pings of one connection, and waits for the answers to the pings.
pub(super) struct Schedule {
    keep_alive: KeepAlive,
    state: Rc<State>,
    clock: Clock,
}

impl Schedule {
    pub(super) fn new(keep_alive: KeepAlive, state: Rc<State>, clock: Clock) -> Self {
        Self {
            keep_alive,
            state,
            clock,
        }
    }

    /// Sends pings as long as the origin answers. Returns when the origin does not answer a ping in
    /// time, or when a connection that the pool has dropped does not close.
    pub(super) async fn until_dead(&mut self, pings: &mut PingPong) {
        let mut seen = self.state.received();
        let mut pinged: Option<Instant> = None;
        let mut unneeded = false;
        loop {
            self.clock.sleep(self.keep_alive.silence).await;
            // If `unneeded` is true, the pool had already dropped the connection before this sleep.
            // While this task slept, the task of the connection had time to send GOAWAY.
            if unneeded {
                return;
            }
            unneeded = Rc::strong_count(&self.state) == 1;
            let received = self.state.received();
            if received != seen {
                (seen, pinged) = (received, None);
                continue;
            }
            let since = pinged.map(|at| self.clock.instant().saturating_duration_since(at));
            if self.state.is_idle() || since.is_some_and(|since| since < self.keep_alive.interval) {
                continue;
            }
            pinged = Some(self.clock.instant());
            let answer = pings.ping(Ping::opaque());
            if !matches!(timeout(self.keep_alive.answer, answer).await, Ok(Ok(_pong))) {
                return;
            }
        }
    }
}
