//! The values that a worker determines once in each sweep over its connections.

use std::cell::Cell;
use std::rc::Rc;

use tokio::time::Instant;

use crate::clock::Clock;

/// A clock that returns the time of the last sweep. The returned time can be up to one sweep
/// interval in the past. Reading this clock needs no system call. The clock also stores whether the
/// last sweep found many connections.
#[derive(Debug)]
pub(super) struct CoarseClock {
    clock: Clock,
    reading: Cell<Instant>,
    crowded: Cell<bool>,
}

impl CoarseClock {
    pub(super) fn new(clock: Clock) -> Rc<Self> {
        let reading = Cell::new(clock.instant());
        Rc::new(Self {
            clock,
            reading,
            crowded: Cell::new(false),
        })
    }

    /// Returns the exact clock.
    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Returns the time of the last call of [`CoarseClock::set`].
    pub(super) fn now(&self) -> Instant {
        self.reading.get()
    }

    /// Stores the time that [`CoarseClock::now`] returns.
    pub(super) fn set(&self, now: Instant) {
        self.reading.set(now);
    }

    /// Whether the worker had more than [`super::dormant::CROWD`] connections at the last sweep.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded.get()
    }

    pub(super) fn set_crowded(&self, crowded: bool) {
        self.crowded.set(crowded);
    }
}
