//! The idle connections of a worker to one origin, and the worker's requests that wait for a
//! connection.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use super::connection::{AbortOnDrop, Connection};
use super::error::Error;
use super::limit::{Limit, Permit};
use super::owner::Owner;
use super::trailers::DroppedTrailers;
use super::usage::{OpenUsage, Resource, Usages};
use crate::clock::Clock;

/// While a request of another worker waits, a worker may give a connection to its own requests at
/// most this many times. Without this limit, a waiting request of another worker might never get a
/// connection.
const MAX_HANDOVERS: u8 = 8;

/// The shortest time between two reviews. In a review, the [`Limit`] chooses the exchanges to
/// evict.
pub(super) const REVIEW_PAUSE: Duration = Duration::from_millis(10);

/// The idle connections of a worker to one origin, and the worker's requests that wait for a
/// connection.
///
/// A request takes the most recently used connection, so a connection that is not needed becomes
/// too old and is closed.
pub(super) struct IdleConnections {
    clock: Clock,
    limit: Arc<Limit>,
    /// The maximum idle time of a connection. A connection that has been idle for longer than
    /// `max_idle` is not used again.
    max_idle: Duration,
    /// The idle connections. The first connection in the list has been idle for the longest time.
    #[expect(
        clippy::vec_box,
        reason = "each is moved whole, twice for every request"
    )]
    connections: RefCell<Vec<Box<Connection>>>,
    /// The requests of this worker that wait for a connection, in the order of their arrival.
    waiters: RefCell<VecDeque<Waiter>>,
    /// The connections of this worker, with the exchanges that use them.
    usages: Usages,
    /// The number by which [`Limit`] identifies this pool.
    pool: u64,
    /// The time at which the function `review` last reported the exchanges of this worker.
    reviewed: Cell<Option<Instant>>,
    maintenance: RefCell<Option<AbortOnDrop>>,
}

/// A request that waits for a connection of this worker.
struct Waiter {
    /// The number that identifies the request in the queue of the limit.
    id: u64,
    owner: Owner,
    sender: oneshot::Sender<Box<Connection>>,
}

/// The result of waiting for a connection.
pub(super) enum Granted {
    /// An open connection that no request uses.
    Connection(Box<Connection>),
    /// The request has the right to open a new connection.
    Permit(Permit),
}

impl IdleConnections {
    /// Creates an empty list. Panics if the caller is not in a runtime that can spawn local tasks.
    pub(super) fn new(limit: Arc<Limit>, max_idle: Duration, clock: Clock) -> Rc<Self> {
        let demand = limit.demand();
        let idle = Rc::new(Self {
            usages: Usages::new(clock.clone(), Some(Arc::clone(&limit))),
            pool: limit.join(),
            clock,
            limit,
            max_idle,
            connections: RefCell::default(),
            waiters: RefCell::default(),
            reviewed: Cell::new(None),
            maintenance: RefCell::default(),
        });
        let task = spawn_local(maintain(Rc::downgrade(&idle), demand, max_idle));
        *idle.maintenance.borrow_mut() = Some(AbortOnDrop(task.abort_handle()));
        idle
    }

    /// The number of idle connections.
    pub(super) fn count(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Adds a new connection to the list of connections that this worker reports to the `Limit`.
    pub(super) fn add_usage(&self, resource: Resource) -> OpenUsage {
        self.usages.add(resource)
    }

    /// Removes and returns the most recently used connection that is still usable. Returns `None`
    /// if `owner` has to let requests of other clients go first, because `owner` already has its
    /// whole share of the connections.
    pub(super) fn take(&self, owner: Owner) -> Option<Box<Connection>> {
        let mut connections = self.connections.borrow_mut();
        let now = self.clock.instant();
        if self.limit.holds_back(owner, now) {
            return None;
        }
        while let Some(mut connection) = connections.pop() {
            if connection.is_usable(now, self.max_idle) {
                connection.since = now;
                return Some(connection);
            }
        }
        None
    }

    /// Waits until the caller gets the right to open a connection, or gets an open connection of
    /// this worker.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`].
    pub(super) async fn wait(&self, owner: Owner) -> Result<Granted, Error> {
        let now = self.clock.instant();
        if let Some(permit) = self.limit.try_open(owner, now) {
            return Ok(Granted::Permit(permit));
        }
        let (sender, mut handed) = oneshot::channel();
        let granted = {
            let mut place = self.limit.queue(owner, now)?;
            {
                let mut waiters = self.waiters.borrow_mut();
                // When a waiting request is dropped, its channel is closed, but the sender of this
                // channel is still in `waiters`.
                waiters.retain(|waiter| !waiter.sender.is_closed());
                let id = place.id();
                waiters.push_back(Waiter { id, owner, sender });
            }
            let first = async {
                tokio::select! {
                    // Because of `biased`, an open connection has priority over the permit to open
                    // a new connection. An open connection needs no handshake.
                    biased;
                    connection = &mut handed => {
                        let connection = connection.map_err(|_gone| Error::Busy)?;
                        Ok(Granted::Connection(connection))
                    }
                    permit = place.granted() => Ok(Granted::Permit(permit?)),
                }
            };
            timeout(self.limit.max_wait(), first)
                .await
                .map_err(|_elapsed| Error::Busy)??
        };
        match granted {
            Granted::Connection(_) => Ok(granted),
            // When the waiting request gets its permit, another request may already have sent a
            // connection to the channel `handed`. The waiting request must use the connection in
            // `handed`, because a connection that stays in `handed` would be closed.
            Granted::Permit(permit) => Ok(handed
                .try_recv()
                .map_or(Granted::Permit(permit), Granted::Connection)),
        }
    }

    /// Takes back a connection whose exchange has ended cleanly. If a request of this worker waits,
    /// that request gets the connection. If only a request of another worker waits, the connection
    /// is closed, so that the other worker can open a connection. If [`MAX_HANDOVERS`] requests of
    /// this worker in a row got the connection, a waiting request of another worker has priority.
    /// `now` is the current time. If it is `None`, this function reads the clock.
    fn put_back(&self, mut connection: Box<Connection>, now: Option<Instant>) {
        connection.since = now.unwrap_or_else(|| self.clock.instant());
        connection.usage.end();
        if !connection.is_ready() {
            return;
        }
        // If no waiting request may get the connection now, the connection becomes idle. A later
        // request of a client with less than its share can use the idle connection.
        if self.limit.wanted() == 0 {
            connection.handovers = 0;
            self.connections.borrow_mut().push(connection);
            return;
        }
        self.hand_over(connection);
    }

    /// Gives a connection to a waiting request.
    fn hand_over(&self, mut connection: Box<Connection>) {
        // The waiting request begins now, even if the end of the last exchange was noticed late.
        connection.since = self.clock.instant();
        let mut waiters = self.waiters.borrow_mut();
        waiters.retain(|waiter| !waiter.sender.is_closed());
        loop {
            let (next, count) = self.limit.next_of(waiters.iter().map(|waiter| waiter.id));
            // `self.limit.wanted()` counts the waiting requests of all workers, and the variable
            // `count` counts only the waiting requests of this worker. If `self.limit.wanted()` is
            // larger than `count`, requests of other workers also wait.
            let elsewhere = self.limit.wanted() > count;
            connection.handovers = if elsewhere {
                connection.handovers.saturating_add(1)
            } else {
                0
            };
            let next = next.filter(|_next| connection.handovers <= MAX_HANDOVERS);
            let Some(waiter) = next.and_then(|next| waiters.remove(next)) else {
                // If a request of another worker waits, this connection is closed, so that the
                // waiting request can open a new connection.
                if !elsewhere {
                    self.connections.borrow_mut().push(connection);
                }
                return;
            };
            match waiter.sender.send(connection) {
                Ok(()) => return self.limit.granted(waiter.owner),
                Err(refused) => connection = refused,
            }
        }
    }

    /// Closes connections that are broken or too old. For each waiting request of any worker, the
    /// function then closes one more idle connection.
    fn close_unneeded(&self) {
        let mut connections = self.connections.borrow_mut();
        let now = self.clock.instant();
        connections.retain(|connection| connection.is_usable(now, self.max_idle));
        let given = self.limit.wanted().min(connections.len());
        connections.drain(..given);
    }

    /// Reports the exchanges of this worker to the limit, and evicts the exchanges that the limit
    /// has chosen.
    fn review(&self) {
        let now = self.clock.instant();
        let last = self.reviewed.replace(Some(now));
        if last.is_some_and(|last| now.saturating_duration_since(last) < REVIEW_PAUSE) {
            self.reviewed.set(last);
            return;
        }
        let held = self.usages.held(now);
        for verdict in self.limit.review(self.pool, held, now) {
            if !self.usages.evict(verdict, now) {
                self.limit.eviction_failed();
            }
        }
    }
}

impl Drop for IdleConnections {
    fn drop(&mut self) {
        self.limit.leave(self.pool);
    }
}

/// Closes idle connections when they are too old, or when a request of another worker waits for a
/// connection. While a request waits for a connection, this function checks which exchanges have to
/// lose their connections.
async fn maintain(
    idle: Weak<IdleConnections>,
    mut demand: watch::Receiver<()>,
    max_idle: Duration,
) {
    // The idle period is at least one second, so that the loop pauses before each iteration.
    let idle_period = max_idle.max(Duration::from_secs(1));
    let mut period = idle_period;
    loop {
        if let Ok(Err(_closed)) = timeout(period, demand.changed()).await {
            return;
        }
        let Some(idle) = idle.upgrade() else { return };
        idle.close_unneeded();
        period = idle_period;
        if idle.limit.waiting() > 0 {
            idle.review();
            period = REVIEW_PAUSE;
        }
    }
}

/// The guard of one waiting request. While the guard exists, its request counts as one of this
/// worker's waiting requests.
pub(super) struct WaitingGuard<'a>(&'a Cell<usize>);

impl<'a> WaitingGuard<'a> {
    pub(super) fn new(waiting: &'a Cell<usize>) -> Self {
        waiting.set(waiting.get().saturating_add(1));
        Self(waiting)
    }
}

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// A connection that a response body uses.
pub(super) struct BorrowedConnection {
    connection: Box<Connection>,
    /// The list of idle connections to which the connection is returned after the exchange. `None`
    /// if the connection cannot be used again.
    idle: Option<Rc<IdleConnections>>,
}

impl BorrowedConnection {
    /// Wraps a connection that can be used again when the response body has ended without an error.
    pub(super) fn reusable(connection: Box<Connection>, idle: Rc<IdleConnections>) -> Self {
        Self {
            connection,
            idle: Some(idle),
        }
    }

    /// Wraps a connection that the gateway closes after the current exchange.
    pub(super) fn single_use(connection: Box<Connection>) -> Self {
        Self {
            connection,
            idle: None,
        }
    }

    /// Returns the record of how the exchange uses the connection.
    pub(super) fn usage(&self) -> &OpenUsage {
        &self.connection.usage
    }

    /// Calls the function `take`, which takes a part of the response. See
    /// [`Connection::take_part`].
    pub(super) fn take_part<T>(&self, take: impl FnOnce() -> T) -> T {
        self.connection.take_part(take)
    }

    /// Returns the value that logs warnings about dropped trailers for this origin.
    pub(super) fn dropped_trailers(&self) -> &DroppedTrailers {
        &self.connection.dropped_trailers
    }

    /// Puts the connection back into the list of idle connections. Call this function only after
    /// the response body has ended without an error. `now` is the current time, or `None` if the
    /// caller does not know it.
    pub(super) fn give_back(self, now: Option<Instant>) {
        if let Some(idle) = self.idle {
            idle.put_back(self.connection, now);
        }
    }
}
