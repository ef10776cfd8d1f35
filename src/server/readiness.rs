//! The state of the process, which health checks ask for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;
const BROKEN: u8 = 3;

/// The state of this process: starting, ready, draining or broken. Clones share the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness(Arc<AtomicU8>);

impl Readiness {
    /// Marks the process as ready: all listeners are bound, and everything is loaded.
    pub(crate) fn mark_ready(&self) {
        // A process that is already draining does not become ready again.
        let _was_starting: bool = self.change(STARTING, READY);
    }

    /// Returns true if the process accepts new requests.
    pub(crate) fn is_ready(&self) -> bool {
        self.is(READY)
    }

    /// Marks the process as draining.
    pub(crate) fn mark_draining(&self) {
        // If the state is `BROKEN`, the state stays unchanged, because `fetch_max` keeps the larger
        // value, and `BROKEN` is larger than `DRAINING`.
        self.0.fetch_max(DRAINING, Ordering::AcqRel);
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
        self.0.compare_exchange(from, to, done, seen).is_ok()
    }

    fn is(&self, state: u8) -> bool {
        self.0.load(Ordering::Acquire) == state
    }
}
