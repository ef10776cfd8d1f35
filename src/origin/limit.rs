//! How many connections an origin may have, over all workers.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::error::Error;

/// One bound on open connections that all workers share, with a short queue.
///
/// An idle connection counts as open, because a prefork or one-thread app gives it a process. So
/// that one worker's idle connections do not starve another's requests, whoever begins to wait
/// says so to every pool, and pools then give up what they hold idle.
#[derive(Debug)]
pub(crate) struct Limit {
    open: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue: usize,
    max_wait: Duration,
    demand: watch::Sender<()>,
}

impl Limit {
    /// At most `connections` open at once; at most `queue` requests wait for one, each for
    /// `max_wait`.
    pub(crate) fn new(connections: NonZeroUsize, queue: usize, max_wait: Duration) -> Self {
        let connections = connections.get().min(Semaphore::MAX_PERMITS);
        Self {
            open: Arc::new(Semaphore::new(connections)),
            waiting: AtomicUsize::new(0),
            queue,
            max_wait,
            demand: watch::Sender::new(()),
        }
    }

    /// How many requests wait, over all workers.
    pub(crate) fn waiting(&self) -> usize {
        // Pairs with the increment in `queue`: whoever reads zero here put its connection away
        // before the waiter spoke, and is told.
        self.waiting.load(Ordering::SeqCst)
    }

    /// How many more connections may be opened now.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.open.available_permits()
    }

    /// The right to open a connection now, if there is one and nobody waits for it. One atomic
    /// operation.
    pub(super) fn try_open(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.open).try_acquire_owned().ok()
    }

    /// Waits for the right to open a connection; first come, first served over all workers.
    pub(super) async fn open(&self) -> Result<OwnedSemaphorePermit, Error> {
        // The semaphore is never closed.
        Arc::clone(&self.open)
            .acquire_owned()
            .await
            .map_err(|_closed| Error::Busy)
    }

    /// A slot in the queue, and word to every pool that somebody waits.
    pub(super) fn queue(&self) -> Result<QueueSlot<'_>, Error> {
        let room = |waiting: usize| {
            let more = waiting.checked_add(1)?;
            (more <= self.queue).then_some(more)
        };
        self.waiting
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, room)
            .map_err(|_full| Error::Busy)?;
        self.demand.send_replace(());
        Ok(QueueSlot(self))
    }

    /// How long a slot in the queue is kept.
    pub(super) fn max_wait(&self) -> Duration {
        self.max_wait
    }

    /// Changes whenever somebody begins to wait.
    pub(super) fn demand(&self) -> watch::Receiver<()> {
        self.demand.subscribe()
    }
}

/// A slot in the queue; dropping it leaves the queue.
pub(super) struct QueueSlot<'a>(&'a Limit);

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
