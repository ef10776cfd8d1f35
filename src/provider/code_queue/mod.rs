//! The queue of the codes that wait for their exchange.
//!
//! Anybody can begin a login and then send an invented code. Only the provider can distinguish an
//! invented code from a valid code, so each code costs a call. Without a limit, invented codes would
//! use up the calls per minute that all users share.
//!
//! An exchange needs one of a few places ([`Pace::places`]). If the provider accepts the code, the
//! place becomes free at once, so users with valid codes do not delay each other. If the exchange
//! fails, the place stays occupied. One such place becomes free per [`Pace::interval`]. The interval
//! becomes longer when the provider has received many calls in the last minute, so invented codes get
//! at most half of the calls that nobody else uses.
//!
//! While no place is free, codes wait. The networks of the waiting codes take turns, so a single
//! attacker delays another network by one turn. Within a network, the queue chooses a code at random.
//! The order of arrival says nothing about a code, and an attacker can choose it. Only few codes of
//! a network whose codes fail may wait. The queue never refuses a network: a code without a turn can
//! be sent again, and then has priority over codes that come for the first time.

mod state;

use std::net::IpAddr;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::select;
use tokio::sync::oneshot::Receiver;
use tokio::time::{Instant, sleep_until, timeout};

use self::state::State;
use crate::clock::Clock;

/// The longest time that a code waits for its turn.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The longest time between two looks at the pace.
const LOOK: Duration = Duration::from_secs(1);

/// The client to which a code in the queue belongs. Each client gets the same number of turns.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum QueueClient {
    /// All browsers of a network.
    Network(IpAddr),
    /// The browsers in which this user has signed in before, wherever they are. The value is a hash
    /// of the user.
    User([u8; 32]),
}

/// The pace of exchanges.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Pace {
    /// The number of places for exchanges.
    pub(super) places: usize,
    /// The time after which one place of a failed exchange becomes free.
    pub(super) interval: Duration,
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
    turn: Receiver<()>,
    /// True until the turn has come.
    waits: bool,
}

impl CodeQueue {
    /// Waits for the turn of a code of `client`. Returns `None` if the turn has not come in time, or
    /// if another code has replaced the code. `state` is the fingerprint of the login's state. Each
    /// state has only one place in the queue: a later request with the same state replaces the
    /// earlier request.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. If the future is dropped, the code leaves the queue.
    pub(super) async fn turn(
        self: &Arc<Self>,
        (client, state): (QueueClient, [u8; 32]),
        pace: impl Fn() -> Pace,
        clock: &Clock,
    ) -> Option<CodeTurn> {
        let (id, turn) = self.lock().enter(client, state);
        let code = WaitingCode {
            queue: Arc::clone(self),
            client,
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
    async fn called(mut self, pace: impl Fn() -> Pace) -> Option<CodeTurn> {
        loop {
            let now = self.clock.instant();
            let next = {
                let mut state = self.queue.lock();
                state.set_pace(pace());
                state.serve(now);
                state.next_turn()
            };
            let wake = next.map_or(LOOK, |next| next.saturating_duration_since(now).min(LOOK));
            select! {
                biased;
                called = &mut self.turn => {
                    called.ok()?;
                    self.waits = false;
                    return Some(CodeTurn {
                        queue: Arc::clone(&self.queue),
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
        if !state.leave(self.client, self.id) && self.turn.try_recv().is_ok() {
            state.finish((self.client, false), now);
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
        state.finish((self.client, self.has_failed), now);
    }
}

/// Returns the time that is `duration` after `now`.
fn after(now: Instant, duration: Duration) -> Instant {
    now.checked_add(duration).unwrap_or(now)
}

#[cfg(test)]
mod tests;
