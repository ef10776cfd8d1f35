//! The state of the process, which health checks ask for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;
const BROKEN: u8 = 3;

/// The state of this process: starting, ready, draining or broken, and the number of workers that
/// stand still. Clones share the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness(Arc<State>);

#[derive(Debug, Default)]
struct State {
    phase: AtomicU8,
    stalled_workers: AtomicUsize,
}

impl Readiness {
    /// Marks the process as ready: all listeners are bound, and everything is loaded.
    pub(crate) fn mark_ready(&self) {
        // A process that is already draining does not become ready again.
        let _was_starting: bool = self.change(STARTING, READY);
    }

    /// Returns true if the process accepts new requests and no worker stands still.
    pub(crate) fn is_ready(&self) -> bool {
        self.is(READY) && self.stalled_workers() == 0
    }

    /// The number of workers that stand still.
    pub(crate) fn stalled_workers(&self) -> usize {
        self.0.stalled_workers.load(Ordering::Relaxed)
    }

    /// Sets the number of workers that stand still.
    pub(crate) fn set_stalled_workers(&self, count: usize) {
        self.0.stalled_workers.store(count, Ordering::Relaxed);
    }

    /// Marks the process as draining.
    pub(crate) fn mark_draining(&self) {
        // If the state is `BROKEN`, the state stays unchanged, because `fetch_max` keeps the larger
        // value, and `BROKEN` is larger than `DRAINING`.
        self.0.phase.fetch_max(DRAINING, Ordering::AcqRel);
    }

    /// Marks a ready process as broken, because only a restart can repair it. Returns `true` if the
    /// process was ready before this call.
    #[must_use]
    pub(crate) fn mark_broken(&self) -> bool {
        self.change(READY, BROKEN)
    }

    /// Returns true if only a restart can repair the process.
    pub(crate) fn is_broken(&self) -> bool {
        self.is(BROKEN)
    }

    fn change(&self, from: u8, to: u8) -> bool {
        let (done, seen) = (Ordering::AcqRel, Ordering::Acquire);
        let phase = &self.0.phase;
        phase.compare_exchange(from, to, done, seen).is_ok()
    }

    fn is(&self, state: u8) -> bool {
        self.0.phase.load(Ordering::Acquire) == state
    }
}
