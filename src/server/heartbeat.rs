//! The heartbeats of the workers, and the thread that notices a worker without a heartbeat.
//!
//! Each sweep of a worker is a heartbeat. The thread of the watch looks at the heartbeats once in
//! each second. The thread does not compare times, but counts its own looks. If the whole process
//! was stopped for a while, the thread was stopped, too, and counts no look for this time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::{Error, Readiness, Workers};
use crate::telemetry::Metrics;

/// The time between two looks at the heartbeats.
const LOOK: Duration = Duration::from_secs(1);

/// A worker stands still if this many looks in a row have found no new heartbeat.
const LOOKS: u32 = 5;

/// The heartbeats of all workers.
#[derive(Clone, Debug)]
pub(super) struct Heartbeats(Arc<[AtomicU64]>);

/// The heartbeat of one worker.
#[derive(Debug)]
pub(super) struct Heartbeat {
    all: Heartbeats,
    index: usize,
}

impl Heartbeats {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_worker| AtomicU64::new(0)).collect())
    }

    /// The heartbeat of the worker `index`.
    pub(super) fn of(&self, index: usize) -> Heartbeat {
        let all = self.clone();
        Heartbeat { all, index }
    }

    /// Starts the thread that looks at the heartbeats.
    pub(super) fn watch(
        &self,
        look: Duration,
        readiness: Readiness,
        metrics: Arc<Metrics>,
    ) -> Result<Watch, Error> {
        let (stop, stopped) = mpsc::channel();
        let mut watched = Watched::new(self.clone());
        let thread = thread::Builder::new().name("watch".to_owned());
        let watching = move || {
            while stopped.recv_timeout(look) == Err(RecvTimeoutError::Timeout) {
                let still = watched.look();
                readiness.set_stalled_workers(still);
                metrics.stalled_workers(still);
            }
        };
        thread.spawn(watching).map_err(Error::Spawn)?;
        Ok(Watch { _stop: stop })
    }
}

impl Workers {
    /// Starts to watch the workers, until the returned value is dropped. While a worker stands
    /// still, `readiness` reports that the process is not ready, and `metrics` contains the number
    /// of these workers.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`].
    pub(crate) fn watch(
        &self,
        readiness: Readiness,
        metrics: Arc<Metrics>,
    ) -> Result<Watch, Error> {
        self.heartbeats.watch(LOOK, readiness, metrics)
    }
}

impl Heartbeat {
    /// Records that the worker runs.
    pub(super) fn beat(&self) {
        if let Some(beats) = self.all.0.get(self.index) {
            beats.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The running watch. The thread of the watch ends when this value is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    _stop: mpsc::Sender<()>,
}

/// The state of the watch.
struct Watched {
    heartbeats: Heartbeats,
    workers: Vec<WatchedWorker>,
}

#[derive(Clone, Default)]
struct WatchedWorker {
    /// The number of heartbeats at the last look.
    seen: u64,
    /// The number of looks since the last heartbeat.
    missed: u32,
}

impl Watched {
    fn new(heartbeats: Heartbeats) -> Self {
        let workers = vec![WatchedWorker::default(); heartbeats.0.len()];
        Self {
            heartbeats,
            workers,
        }
    }

    /// Looks at all heartbeats once. Returns the number of workers that stand still.
    fn look(&mut self) -> usize {
        let workers = self.workers.iter_mut().zip(self.heartbeats.0.iter());
        let still = workers.enumerate().map(|(index, (worker, beats))| {
            let beats = beats.load(Ordering::Relaxed);
            usize::from(worker.stands_still(index, beats))
        });
        still.sum()
    }
}

impl WatchedWorker {
    /// Compares the number of heartbeats with the last look. Logs when the worker begins to stand
    /// still, and when the worker runs again.
    fn stands_still(&mut self, index: usize, beats: u64) -> bool {
        if self.seen == beats {
            self.missed = self.missed.saturating_add(1);
            if self.missed == LOOKS {
                tracing::error!(worker = index, "Worker stands still");
            }
        } else {
            if self.missed >= LOOKS {
                tracing::warn!(worker = index, "Worker runs again");
            }
            self.seen = beats;
            self.missed = 0;
        }
        self.missed >= LOOKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_stands_still_after_five_looks_without_a_heartbeat() {
        let heartbeats = Heartbeats::new(2);
        let (first, second) = (heartbeats.of(0), heartbeats.of(1));
        let mut watched = Watched::new(heartbeats);
        for _ in 0..20 {
            first.beat();
            second.beat();
            assert_eq!(watched.look(), 0);
        }
        for look in 1..10 {
            second.beat();
            assert_eq!(watched.look(), usize::from(look >= LOOKS), "{look}");
        }
        for look in 1..10 {
            let expected = 1 + usize::from(look >= LOOKS);
            assert_eq!(watched.look(), expected, "{look}");
        }
        first.beat();
        assert_eq!(watched.look(), 1);
        second.beat();
        assert_eq!(watched.look(), 0);
    }
}
