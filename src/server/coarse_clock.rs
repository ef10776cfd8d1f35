//! The clock that a worker reads once in each sweep over its connections.

use std::cell::Cell;
use std::rc::Rc;

use tokio::time::Instant;

use crate::clock::Clock;

/// A clock that returns the time of the last sweep. The returned time can be up to one sweep
/// interval in the past. Reading this clock needs no system call.
#[derive(Debug)]
pub(super) struct CoarseClock {
    clock: Clock,
    reading: Cell<Instant>,
}

impl CoarseClock {
    pub(super) fn new(clock: Clock) -> Rc<Self> {
        let reading = Cell::new(clock.instant());
        Rc::new(Self { clock, reading })
    }

    /// Returns the exact clock.
    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Returns the time of the last call of [`CoarseClock::update`].
    pub(super) fn now(&self) -> Instant {
        self.reading.get()
    }

    /// Reads the exact clock and stores the result for [`CoarseClock::now`].
    pub(super) fn update(&self) -> Instant {
        let now = self.clock.instant();
        self.reading.set(now);
        now
    }
}
