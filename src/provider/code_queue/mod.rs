//! The queue of the codes that wait for their exchange.
//!
//! Anybody can begin a login and then send an invented code. Only the provider can distinguish an
//! invented code from a valid code, so each code costs a call. Without a limit, invented codes would
//! use up the calls per minute that all users share.
//!
//! An exchange needs one of a few places ([`Pace::places`]). If the provider accepts the code, the
//! place becomes free at once, so users with valid codes do not delay each other. If the exchange
//! fails, the place stays occupied. One such place becomes free per [`Pace::interval`]. The interval
//! is longer when others have made many calls in the last minute, so invented codes get only a part
//! of the calls that nobody else uses.
//!
//! While no place is free, codes wait. An attacker can invent states and codes for free, and can send
//! them from many networks. Three things are scarce, and the turns follow them:
//!
//! - **An account.** A browser in which a user has signed in before proves this. Codes of known
//!   users, codes of networks, and codes of networks with a recent failed exchange are three
//!   classes. One place is kept for each class, and the classes alternate. The codes of a class
//!   never replace waiting codes of another class.
//! - **A failed exchange.** A free place belongs to those whose last failed exchange is the oldest,
//!   and that occupy the fewest places. Exchanges that succeed do not count.
//! - **Networks.** Networks contain smaller networks ([`QueueClient::path`]), and take turns at each
//!   level. A /48 of IPv6 therefore has one share, however many smaller networks send codes.
//!
//! Within the smallest network, the queue chooses a code at random. The order of arrival says
//! nothing about a code, and an attacker can choose it. Only few codes of a network whose codes fail
//! may wait. The queue never refuses a network: a code without a turn can be sent again, and then has
//! priority over codes that come for the first time. The queue stores nothing about such a code.
//! The browser proves that the code returns ([`QueuedCode::returns`]).

mod share;
mod state;

use std::net::IpAddr;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::select;
use tokio::sync::oneshot::Receiver;
use tokio::time::{Instant, sleep_until, timeout};

use self::state::{Class, State};
use crate::clock::Clock;
use crate::fields::ClientNetworks;

/// The longest time that a code waits for its turn.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The longest time between two looks at the pace.
const LOOK: Duration = Duration::from_secs(1);

/// The larger networks to which a network belongs, from the largest.
const LARGER_NETWORKS: [ClientNetworks; 3] = [
    ClientNetworks { ipv4: 16, ipv6: 32 },
    ClientNetworks { ipv4: 24, ipv6: 48 },
    ClientNetworks { ipv4: 32, ipv6: 56 },
];

/// The client to which a code in the queue belongs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum QueueClient {
    /// All browsers of a network.
    Network(IpAddr),
    /// The browsers in which this user has signed in before, wherever they are. The value is a hash
    /// of the user.
    User([u8; 32]),
}

/// A code that asks for its turn.
#[derive(Clone, Copy, Debug)]
pub struct QueuedCode {
    /// The client to which the code belongs.
    pub client: QueueClient,
    /// The fingerprint of the login's state. Each state has only one place in the queue: a later
    /// request with the same state replaces the earlier request.
    pub state: [u8; 32],
    /// Whether the code has left a queue without a turn before.
    pub returns: bool,
}

/// The pace of exchanges.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Pace {
    /// The number of places that one class of clients can occupy.
    pub(super) places: usize,
    /// The time after which one place of a failed exchange becomes free.
    pub(super) interval: Duration,
    /// The maximum number of exchanges in progress.
    pub(super) exchanges: usize,
    /// The number of calls that the limiter allows now.
    pub(super) calls: usize,
}

impl Pace {
    /// The number of places that are kept for other classes while one class occupies all of its
    /// places.
    pub(super) const KEPT: usize = 2;
}

impl QueueClient {
    /// Returns the parts of the queue to which the client belongs, from the largest network to the
    /// client itself.
    fn path(self) -> Vec<Self> {
        let larger = match self {
            Self::Network(address) => LARGER_NETWORKS
                .map(|size| Self::Network(size.of(address)))
                .to_vec(),
            Self::User(_) => Vec::new(),
        };
        larger.into_iter().chain([self]).collect()
    }
}

/// The queue of the codes for one provider. After a reload, the old and the new
/// [`Provider`](super::Provider) share a queue.
#[derive(Debug, Default)]
pub(super) struct CodeQueue(
    #[expect(
        clippy::disallowed_types,
        reason = "locked only for a code, for one calculation"
    )]
    std::sync::Mutex<State>,
);

/// The right to exchange one code. When a `CodeTurn` is dropped, its place becomes free, unless the
/// exchange has failed.
#[derive(Debug)]
#[must_use]
pub struct CodeTurn {
    queue: Arc<CodeQueue>,
    class: Class,
    client: QueueClient,
    clock: Clock,
    has_failed: bool,
}

/// A code that waits for its turn.
struct WaitingCode {
    queue: Arc<CodeQueue>,
    client: QueueClient,
    id: u64,
    clock: Clock,
    /// Gets a value when the turn of the code has come, and an error when another code has replaced
    /// the code.
    turn: Receiver<Class>,
    /// True until the turn has come.
    waits: bool,
}

impl CodeQueue {
    /// Waits for the turn of a code. Returns `None` if the turn has not come in time, or if another
    /// code has replaced the code. `pace` receives the number of exchanges that have failed in the
    /// last minute.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. If the future is dropped, the code leaves the queue.
    pub(super) async fn turn(
        self: &Arc<Self>,
        code: QueuedCode,
        pace: impl Fn(usize) -> Pace,
        clock: &Clock,
    ) -> Option<CodeTurn> {
        let (id, turn) = self.lock().enter(code);
        let code = WaitingCode {
            queue: Arc::clone(self),
            client: code.client,
            id,
            clock: clock.clone(),
            turn,
            waits: true,
        };
        timeout(MAX_WAIT, code.called(pace)).await.ok()?
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WaitingCode {
    async fn called(mut self, pace: impl Fn(usize) -> Pace) -> Option<CodeTurn> {
        loop {
            let now = self.clock.instant();
            let next = {
                let mut state = self.queue.lock();
                let failed = state.failed_in_last_minute(now);
                state.set_pace(pace(failed));
                state.serve(now);
                state.next_turn()
            };
            let wake = next.map_or(LOOK, |next| next.saturating_duration_since(now).min(LOOK));
            select! {
                biased;
                called = &mut self.turn => {
                    let class = called.ok()?;
                    self.waits = false;
                    return Some(CodeTurn {
                        queue: Arc::clone(&self.queue),
                        class,
                        client: self.client,
                        clock: self.clock.clone(),
                        has_failed: false,
                    });
                }
                () = sleep_until(after(now, wake)) => {}
            }
        }
    }
}

impl Drop for WaitingCode {
    fn drop(&mut self) {
        if !self.waits {
            return;
        }
        let now = self.clock.instant();
        let mut state = self.queue.lock();
        // The turn may have come in the moment in which the wait ended.
        if !state.leave(self.client, self.id)
            && let Ok(class) = self.turn.try_recv()
        {
            state.finish((class, self.client), false, now);
        }
    }
}

impl CodeTurn {
    /// Records that the provider may have seen the code, and that the code has opened no session.
    pub(super) fn note_failed(&mut self) {
        self.has_failed = true;
    }
}

impl Drop for CodeTurn {
    fn drop(&mut self) {
        let now = self.clock.instant();
        let mut state = self.queue.lock();
        state.finish((self.class, self.client), self.has_failed, now);
    }
}

/// Returns the time that is `duration` after `now`.
fn after(now: Instant, duration: Duration) -> Instant {
    now.checked_add(duration).unwrap_or(now)
}

#[cfg(test)]
mod tests;
