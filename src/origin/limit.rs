//! The limit of connections to an origin, for all workers together.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::error::Error;

/// The limit of open connections, and a short queue of waiting requests. All workers share the
/// limit and the queue.
///
/// An idle connection counts as open, because some apps use one process or thread for each open
/// connection. The idle connections of one worker must not block the requests of another worker.
/// Therefore each request that begins to wait notifies all pools, and the pools close idle
/// connections.
#[derive(Debug)]
pub(crate) struct Limit {
    open: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue: usize,
    max_wait: Duration,
    demand: watch::Sender<()>,
}

impl Limit {
    /// Creates a limit. At most `connections` connections are open at the same time. At most
    /// `queue` requests wait, each for at most `max_wait`.
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

    /// The number of waiting requests of all workers.
    pub(crate) fn waiting(&self) -> usize {
        // The load and the increment in `queue` have to be sequentially consistent. A pool that
        // reads zero here and keeps an idle connection misses no waiting request: a request first
        // increments the number and then notifies the pool. When the pool handles this
        // notification, its list already contains the idle connection. The pool closes this
        // connection, so that the waiting request can open a new connection.
        self.waiting.load(Ordering::SeqCst)
    }

    /// The number of connections that may still be opened now.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.open.available_permits()
    }

    /// Returns the right to open a connection, or `None` if no right is available or another
    /// request already waits. The check is one atomic operation.
    pub(super) fn try_open(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.open).try_acquire_owned().ok()
    }

    /// Waits for the right to open a connection. The requests of all workers wait in one queue, in
    /// the order of their arrival.
    pub(super) async fn open(&self) -> Result<OwnedSemaphorePermit, Error> {
        // The semaphore is never closed, so this call never fails.
        Arc::clone(&self.open)
            .acquire_owned()
            .await
            .map_err(|_closed| Error::Busy)
    }

    /// Takes a slot in the queue, and notifies all pools that a request waits.
    pub(super) fn queue(&self) -> Result<QueueSlot<'_>, Error> {
        let room = |waiting: usize| {
            let more = waiting.checked_add(1)?;
            (more <= self.queue).then_some(more)
        };
        self.waiting
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, room)
            .map_err(|_full| Error::Busy)?;
        // The request is counted before the pools are notified, because a notified pool reads the
        // count.
        self.demand.send_replace(());
        Ok(QueueSlot(self))
    }

    /// The longest time that a request may stay in the queue.
    pub(super) fn max_wait(&self) -> Duration {
        self.max_wait
    }

    /// Returns a receiver that is notified of each request that begins to wait.
    pub(super) fn demand(&self) -> watch::Receiver<()> {
        self.demand.subscribe()
    }
}

/// A slot in the queue. Dropping this value frees the slot.
pub(super) struct QueueSlot<'a>(&'a Limit);

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
