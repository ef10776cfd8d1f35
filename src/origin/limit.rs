//! The limit on the number of connections to an origin, for all workers together.

#![expect(
    clippy::disallowed_types,
    reason = "only requests that wait for a connection, and connections that close meanwhile, take \
              the lock"
)]

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::Instant;

use super::error::Error;
use super::owner::Owner;
use super::share::{Held, Queue, ShareSettings, Verdict};

/// The maximum age of a pool's report. The limit ignores older reports.
const REPORT_LIFETIME: Duration = Duration::from_millis(300);

/// The limit on the number of open connections, and a short queue of waiting requests. All workers
/// share the limit and the queue.
///
/// An idle connection counts as open, because some apps use one process or thread for each open
/// connection. The idle connections of one worker must not block the requests of another worker.
/// When a request begins to wait for a connection, the limit notifies all pools, and the pools
/// close idle connections. The pools also report which exchanges use their connections, so that the
/// queue can take a connection away from a slow client.
#[derive(Debug)]
pub(crate) struct Limit {
    open: Arc<Semaphore>,
    /// The number of waiting requests.
    waiting: AtomicUsize,
    /// The number of waiting requests that currently let requests of other clients go first.
    held_back: AtomicUsize,
    queue: usize,
    max_wait: Duration,
    shares: Shares,
    demand: watch::Sender<()>,
    contended: Mutex<Contended>,
}

/// The rules for the connections of slow clients and of clients with many connections. The limits
/// in `Shares` apply only while requests wait for a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Shares {
    /// The gateway can evict an exchange that has waited for its own client for longer than this
    /// time.
    pub(crate) slow_client: Duration,
    /// The largest share of the connections that one client may have, in thousandths.
    pub(crate) max_thousandths: u16,
}

impl Shares {
    /// Returns how many connections one client may hold if the origin has `connections`
    /// connections.
    pub(super) fn most(self, connections: usize) -> usize {
        let most = connections.saturating_mul(self.max_thousandths.into());
        most.checked_div(1000).unwrap_or_default().max(1)
    }
}

/// The part of the limit that a lock protects: the queue of waiting requests, and the reports of
/// the pools.
struct Contended {
    queue: Queue<oneshot::Sender<Permit>>,
    reports: Vec<Report>,
    next_pool: u64,
}

/// The last report of a pool about its exchanges.
struct Report {
    pool: u64,
    /// The time at which the pool made this report. The value is `None` until the pool makes its
    /// first report.
    at: Option<Instant>,
    held: Vec<Held>,
    /// The exchanges that the pool has to evict.
    verdicts: Vec<Verdict>,
}

impl std::fmt::Debug for Contended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contended")
            .field("waiting", &self.queue.len())
            .finish_non_exhaustive()
    }
}

impl Limit {
    /// Creates a limit. At most `connections` connections are open at the same time. At most
    /// `queue` requests wait, each for at most `max_wait`.
    pub(crate) fn new(
        connections: NonZeroUsize,
        queue: usize,
        max_wait: Duration,
        shares: Shares,
    ) -> Self {
        let connections = connections.get().min(Semaphore::MAX_PERMITS);
        let terms = ShareSettings {
            most: shares.most(connections),
            slow_client: shares.slow_client,
        };
        Self {
            open: Arc::new(Semaphore::new(connections)),
            waiting: AtomicUsize::new(0),
            held_back: AtomicUsize::new(0),
            queue,
            max_wait,
            shares,
            demand: watch::Sender::new(()),
            contended: Mutex::new(Contended {
                queue: Queue::new(terms),
                reports: Vec::new(),
                next_pool: 0,
            }),
        }
    }

    /// The number of waiting requests of all workers.
    pub(crate) fn waiting(&self) -> usize {
        // The atomic load in this function and the atomic increment in the function `queue` have to
        // be sequentially consistent. If a pool sees that the number of waiting requests is zero,
        // the pool keeps its idle connection. A request that begins to wait later first increments
        // the number of waiting requests, and then notifies the pool. When a pool handles the
        // notification, the list of the pool already contains the idle connection. The pool closes
        // the idle connection, so that the waiting request can open a new connection.
        self.waiting.load(Ordering::SeqCst)
    }

    /// The number of waiting requests that do not have to wait for requests of other clients.
    pub(super) fn wanted(&self) -> usize {
        let held_back = self.held_back.load(Ordering::SeqCst);
        self.waiting().saturating_sub(held_back)
    }

    /// Whether a new request of this client has to let requests of other clients go first. This
    /// function takes the lock only if `held_back` is not zero.
    pub(super) fn holds_back(&self, owner: Owner, now: Instant) -> bool {
        let any = self.held_back.load(Ordering::Relaxed) > 0;
        any && self.contended().queue.holds_back(owner, now)
    }

    /// The rules for slow clients and for clients with many connections.
    pub(super) fn shares(&self) -> Shares {
        self.shares
    }

    /// The number of connections that may still be opened now.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.open.available_permits()
    }

    /// Returns the number of waiting requests that currently let requests of other clients go
    /// first.
    #[cfg(test)]
    pub(super) fn held_back(&self) -> usize {
        self.held_back.load(Ordering::SeqCst)
    }

    /// Returns the right to open a connection. Returns `None` if all connections are taken, or if a
    /// waiting request has priority.
    pub(super) fn try_open(self: &Arc<Self>, owner: Owner, now: Instant) -> Option<Permit> {
        if self.wanted() > 0 || self.holds_back(owner, now) {
            return None;
        }
        self.permit()
    }

    fn permit(self: &Arc<Self>) -> Option<Permit> {
        let permit = Arc::clone(&self.open).try_acquire_owned().ok()?;
        Some(Permit {
            permit: Some(permit),
            limit: Some(Arc::clone(self)),
        })
    }

    /// Takes a place in the queue, and notifies all pools that a request waits. All workers share
    /// one queue, which orders the requests by their arrival. If a client already uses its whole
    /// share of the connections, requests of other clients get a connection first.
    pub(super) fn queue(self: &Arc<Self>, owner: Owner, now: Instant) -> Result<Place<'_>, Error> {
        let (sender, granted) = oneshot::channel();
        let (id, waiter_to_replace) = {
            let mut contended = self.contended();
            let full = contended.queue.len() >= self.queue;
            let places = self.shares.most(self.queue);
            let waiter_to_replace = full.then(|| contended.queue.waiter_to_replace(owner, places));
            if matches!(waiter_to_replace, Some(None)) {
                return Err(Error::Busy);
            }
            self.waiting.fetch_add(1, Ordering::SeqCst);
            let id = contended.queue.push(owner, now, sender);
            self.count_held_back(&contended);
            (id, waiter_to_replace)
        };
        // Dropping `waiter_to_replace` closes the channel of the request that was removed from the
        // queue. The removed request then fails with [`Error::Busy`].
        drop(waiter_to_replace);
        // A connection may have been closed before the request was counted as waiting, so
        // `dispatch` now looks for a free permit.
        fence(Ordering::SeqCst);
        self.dispatch();
        // The number of waiting requests is increased before the pools are notified, because a
        // notified pool reads this number.
        self.demand.send_replace(());
        Ok(Place {
            limit: self,
            id,
            granted,
        })
    }

    /// Gives free connections to waiting requests.
    fn dispatch(self: &Arc<Self>) {
        // This function releases the lock before it drops a permit, because dropping a permit takes
        // the lock.
        let mut left_over = None;
        let mut contended = self.contended();
        while contended.queue.has_next() {
            let Some(permit) = left_over.take().or_else(|| self.permit()) else {
                break;
            };
            // If a waiting request was dropped, the next waiting request gets the permit.
            left_over = match contended.queue.pop() {
                Some(waiter) => waiter.send(permit).err(),
                None => Some(permit),
            };
        }
        self.count_held_back(&contended);
        drop(contended);
        drop(left_over);
    }

    fn count_held_back(&self, contended: &Contended) {
        let held_back = contended.queue.held_back();
        self.held_back.store(held_back, Ordering::SeqCst);
    }

    fn contended(&self) -> MutexGuard<'_, Contended> {
        self.contended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the requests in `requests` that may get the next connection. Returns the position of
    /// the first of them, and their number.
    pub(super) fn next_of(&self, requests: impl Iterator<Item = u64>) -> (Option<usize>, usize) {
        let contended = self.contended();
        let (mut first, mut count) = (None, 0_usize);
        for (at, id) in requests.enumerate() {
            if contended.queue.may_be_next(id) {
                first = first.or(Some(at));
                count = count.saturating_add(1);
            }
        }
        (first, count)
    }

    /// Records that an exchange of a client has ended. The lock is taken only while requests wait.
    pub(super) fn ended(
        self: &Arc<Self>,
        owner: Owner,
        is_evicted: bool,
        now: impl FnOnce() -> Instant,
    ) {
        if self.waiting() == 0 {
            return;
        }
        let mut contended = self.contended();
        contended.queue.ended(owner, is_evicted, now());
        self.count_held_back(&contended);
        drop(contended);
        // The client of the ended exchange now has fewer connections, so a waiting request of this
        // client may get a connection.
        self.dispatch();
    }

    /// Records that a waiting request of this client has got the connection of another request.
    pub(super) fn granted(&self, owner: Owner) {
        let mut contended = self.contended();
        contended.queue.granted(owner);
        self.count_held_back(&contended);
    }

    /// The longest time that a request may stay in the queue.
    pub(super) fn max_wait(&self) -> Duration {
        self.max_wait
    }

    /// Returns a receiver that is notified of each request that begins to wait.
    pub(super) fn demand(&self) -> watch::Receiver<()> {
        self.demand.subscribe()
    }

    /// Registers a pool, so that the pool can report its exchanges to the limit. Returns the number
    /// by which the limit identifies the pool.
    pub(super) fn join(&self) -> u64 {
        let mut contended = self.contended();
        let pool = contended.next_pool;
        contended.next_pool = pool.wrapping_add(1);
        contended.reports.push(Report {
            pool,
            at: None,
            held: Vec::new(),
            verdicts: Vec::new(),
        });
        pool
    }

    /// Removes a pool.
    pub(super) fn leave(&self, pool: u64) {
        let mut contended = self.contended();
        contended.reports.retain(|report| report.pool != pool);
    }

    /// Stores the exchanges of a pool, and chooses the exchanges that lose their connection.
    /// Returns the exchanges that the pool has to evict.
    pub(super) fn review(
        self: &Arc<Self>,
        pool: u64,
        held: Vec<Held>,
        now: Instant,
    ) -> Vec<Verdict> {
        let mut contended = self.contended();
        let mut reports = contended.reports.iter_mut();
        if let Some(report) = reports.find(|report| report.pool == pool) {
            report.at = Some(now);
            report.held = held;
        }
        let notify = contended.choose(pool, now);
        let mut reports = contended.reports.iter_mut();
        let own = reports.find(|report| report.pool == pool);
        let own = own.map(|report| std::mem::take(&mut report.verdicts));
        drop(contended);
        if notify {
            self.demand.send_replace(());
        }
        // The new report of the pool can show that a client now has less than its whole share. A
        // waiting request of this client may then get a connection.
        self.dispatch();
        own.unwrap_or_default()
    }

    /// Records that an exchange was not evicted, although the queue had chosen this exchange for
    /// eviction.
    pub(super) fn eviction_failed(&self) {
        self.contended().queue.eviction_failed();
    }
}

impl Contended {
    /// Chooses the exchanges that lose their connection. Returns whether a pool other than `pool`
    /// has to evict an exchange.
    fn choose(&mut self, pool: u64, now: Instant) -> bool {
        let fresh = |report: &Report| {
            let age = report.at.map(|at| now.saturating_duration_since(at));
            age.is_some_and(|age| age <= REPORT_LIFETIME)
        };
        let complete = self.reports.iter().all(fresh);
        let fresh = self.reports.iter().filter(|report| fresh(report));
        let held = fresh.flat_map(|report| report.held.iter().map(|held| (report.pool, *held)));
        let (pools, held): (Vec<u64>, Vec<Held>) = held.unzip();
        self.queue.count_held(held.iter(), now);
        // If the report of a worker is missing or too old, the slowest client could be a client of
        // this worker.
        if !complete && !self.queue.has_waited(REPORT_LIFETIME, now) {
            return false;
        }
        let mut notify = false;
        for (at, verdict) in self.queue.exchanges_to_evict(&held, now) {
            let of = pools.get(at);
            let mut reports = self.reports.iter_mut();
            if let Some(report) = reports.find(|report| Some(&report.pool) == of) {
                report.held.retain(|held| held.key != verdict.key);
                report.verdicts.push(verdict);
                notify |= report.pool != pool;
            }
        }
        notify
    }
}

/// The right to open a connection, and to keep it open. When this value is dropped, a waiting
/// request gets the permit.
#[derive(Debug)]
pub(crate) struct Permit {
    permit: Option<OwnedSemaphorePermit>,
    limit: Option<Arc<Limit>>,
}

impl Permit {
    /// Creates a `Permit` for a limit that has no queue of waiting requests.
    pub(super) fn without_queue(permit: OwnedSemaphorePermit) -> Self {
        Self {
            permit: Some(permit),
            limit: None,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        drop(self.permit.take());
        let Some(limit) = self.limit.take() else {
            return;
        };
        // A new request first increments the number of waiting requests, and then looks for a free
        // permit. The memory fence guarantees one of two results: the new request finds the permit
        // that this function has released, or this function sees that a request waits.
        fence(Ordering::SeqCst);
        if limit.waiting() > 0 {
            limit.dispatch();
        }
    }
}

/// The place of a waiting request in the queue of an origin. When a `Place` is dropped, the place
/// in the queue becomes free.
#[derive(Debug)]
pub(super) struct Place<'a> {
    limit: &'a Arc<Limit>,
    id: u64,
    granted: oneshot::Receiver<Permit>,
}

impl Place<'_> {
    /// Returns the number that identifies the request in the queue.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Waits for the right to open a connection.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if a request of another client took the request's place in the queue.
    pub(super) async fn granted(&mut self) -> Result<Permit, Error> {
        let granted = (&mut self.granted).await;
        granted.map_err(|_crowded_out| Error::Busy)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut contended = self.limit.contended();
        let sender = contended.queue.remove(self.id);
        self.limit.waiting.fetch_sub(1, Ordering::SeqCst);
        self.limit.count_held_back(&contended);
        drop(contended);
        drop(sender);
    }
}
