//! The idle connections of a worker to one origin, and the worker's requests that wait for a
//! connection.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::connection::{AbortOnDrop, Connection};
use super::error::Error;
use super::limit::Limit;
use super::trailers::DroppedTrailers;
use crate::clock::Clock;

/// While a request of another worker waits, a worker may give a connection to its own requests at
/// most this many times. Without this limit, the other worker might never get a connection.
const MAX_HANDOVERS: u8 = 8;

/// The idle connections of a worker to one origin, and the worker's requests that wait for a
/// connection.
///
/// A request takes the most recently used connection. Therefore a connection that is not needed
/// stays idle until it is too old and is closed.
pub(super) struct IdleConnections {
    clock: Clock,
    limit: Arc<Limit>,
    /// A connection that has been idle for longer than this time is not used again.
    max_idle: Duration,
    /// The idle connections. The first connection has been idle for the longest time.
    #[expect(
        clippy::vec_box,
        reason = "each is moved whole, twice for every request"
    )]
    connections: RefCell<Vec<Box<Connection>>>,
    /// The requests of this worker that wait for a connection, in the order of their arrival.
    waiters: RefCell<VecDeque<oneshot::Sender<Box<Connection>>>>,
    waiting: Cell<usize>,
    maintenance: RefCell<Option<AbortOnDrop>>,
}

/// The result of waiting for a connection.
pub(super) enum Granted {
    /// A connection that another request no longer needs.
    Connection(Box<Connection>),
    /// The right to open a connection.
    Permit(OwnedSemaphorePermit),
}

impl IdleConnections {
    /// Creates an empty list. Panics if the caller is not in a runtime that can spawn local tasks.
    pub(super) fn new(limit: Arc<Limit>, max_idle: Duration, clock: Clock) -> Rc<Self> {
        let demand = limit.demand();
        let idle = Rc::new(Self {
            clock,
            limit,
            max_idle,
            connections: RefCell::default(),
            waiters: RefCell::default(),
            waiting: Cell::new(0),
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

    /// Removes and returns the most recently used connection that is still usable.
    pub(super) fn take(&self) -> Option<Box<Connection>> {
        let mut connections = self.connections.borrow_mut();
        let now = self.clock.instant();
        while let Some(mut connection) = connections.pop() {
            if connection.is_usable(now, self.max_idle) {
                connection.since = now;
                return Some(connection);
            }
        }
        None
    }

    /// Waits for the right to open a connection, or for a connection of this worker.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`].
    pub(super) async fn wait(&self) -> Result<Granted, Error> {
        if let Some(permit) = self.limit.try_open() {
            return Ok(Granted::Permit(permit));
        }
        let (sender, mut handed) = oneshot::channel();
        let granted = {
            let _slot = self.limit.queue()?;
            let _waiting = WaitingGuard::new(&self.waiting);
            {
                let mut waiters = self.waiters.borrow_mut();
                // When a waiting request is dropped, its sender stays in the list.
                waiters.retain(|waiter| !waiter.is_closed());
                waiters.push_back(sender);
            }
            let first = async {
                tokio::select! {
                    // `biased` prefers an open connection to the right to open a connection,
                    // because an open connection needs no handshake.
                    biased;
                    connection = &mut handed => {
                        let connection = connection.map_err(|_gone| Error::Busy)?;
                        Ok(Granted::Connection(connection))
                    }
                    permit = self.limit.open() => Ok(Granted::Permit(permit?)),
                }
            };
            timeout(self.limit.max_wait(), first)
                .await
                .map_err(|_elapsed| Error::Busy)??
        };
        match granted {
            Granted::Connection(_) => Ok(granted),
            // Another request may have handed over its connection at the same moment. The waiting
            // request then uses the connection, so that the connection is not lost.
            Granted::Permit(permit) => Ok(handed
                .try_recv()
                .map_or(Granted::Permit(permit), Granted::Connection)),
        }
    }

    /// Takes back a connection whose exchange has ended cleanly. If a request of this worker waits,
    /// that request gets the connection. If only a request of another worker waits, the connection
    /// is closed, so that the other worker can open a connection. After [`MAX_HANDOVERS`] handovers
    /// in a row, a waiting request of another worker has priority.
    fn put_back(&self, mut connection: Box<Connection>) {
        connection.since = self.clock.instant();
        if !connection.is_usable(connection.since, self.max_idle) {
            return;
        }
        // The limit counts the waiting requests of all workers, and `waiting` counts the waiting
        // requests of this worker. `limit.waiting()` minus `waiting` is the number of requests that
        // wait at other workers.
        let elsewhere = self.limit.waiting() > self.waiting.get();
        connection.handovers = if elsewhere {
            connection.handovers.saturating_add(1)
        } else {
            0
        };
        if connection.handovers <= MAX_HANDOVERS {
            let mut waiters = self.waiters.borrow_mut();
            while let Some(waiter) = waiters.pop_front() {
                match waiter.send(connection) {
                    Ok(()) => return,
                    Err(refused) => connection = refused,
                }
            }
        }
        // If a request of another worker waits, this connection is closed, so that the waiting
        // request can open a new one.
        if !elsewhere {
            self.connections.borrow_mut().push(connection);
        }
    }

    /// Closes connections that are broken or too old. Then closes one idle connection for each
    /// request that waits at any worker.
    fn close_unneeded(&self) {
        let mut connections = self.connections.borrow_mut();
        let now = self.clock.instant();
        connections.retain(|connection| connection.is_usable(now, self.max_idle));
        let given = self.limit.waiting().min(connections.len());
        connections.drain(..given);
    }
}

/// Closes idle connections when they are too old, or when a request of another worker needs the
/// right to open a connection.
async fn maintain(
    idle: Weak<IdleConnections>,
    mut demand: watch::Receiver<()>,
    max_idle: Duration,
) {
    // If `max_idle` is zero, the loop must still wait before each iteration.
    let period = max_idle.max(Duration::from_secs(1));
    loop {
        if let Ok(Err(_closed)) = timeout(period, demand.changed()).await {
            return;
        }
        let Some(idle) = idle.upgrade() else { return };
        idle.close_unneeded();
    }
}

/// Counts a waiting request of this worker until this guard is dropped.
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
    /// The list to which the connection is returned. `None` if the connection cannot be used again.
    idle: Option<Rc<IdleConnections>>,
}

impl BorrowedConnection {
    /// Wraps a connection that can be used again when the response body has ended cleanly.
    pub(super) fn reusable(connection: Box<Connection>, idle: Rc<IdleConnections>) -> Self {
        Self {
            connection,
            idle: Some(idle),
        }
    }

    /// Wraps a connection that is closed after this exchange.
    pub(super) fn single_use(connection: Box<Connection>) -> Self {
        Self {
            connection,
            idle: None,
        }
    }

    /// Returns the value that logs when trailers to or from this origin are dropped.
    pub(super) fn dropped_trailers(&self) -> &DroppedTrailers {
        &self.connection.dropped_trailers
    }

    /// Returns the connection to its list. The response body must have ended cleanly.
    pub(super) fn give_back(self) {
        if let Some(idle) = self.idle {
            idle.put_back(self.connection);
        }
    }
}
