//! A worker's idle connections to one origin, and its requests that wait for one.

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
use crate::clock::Clock;

/// How often in a row a connection passes between requests of one worker while another worker's
/// request waits.
const MAX_HANDOVERS: u8 = 8;

/// A worker's idle connections to one origin, and its requests that wait for one.
///
/// The connection that was used last is used first, so that few stay in use and the others grow old.
pub(super) struct Idle {
    clock: Clock,
    limit: Arc<Limit>,
    /// The longest time after which an idle connection is used again.
    longest: Duration,
    /// Oldest first.
    #[expect(
        clippy::vec_box,
        reason = "each is moved whole, twice for every request"
    )]
    connections: RefCell<Vec<Box<Connection>>>,
    /// Requests of this worker that wait for a connection, first come first.
    waiters: RefCell<VecDeque<oneshot::Sender<Box<Connection>>>>,
    waiting: Cell<usize>,
    maintenance: RefCell<Option<AbortOnDrop>>,
}

/// What a request that needed a connection was given.
pub(super) enum Granted {
    /// A connection that another request is done with.
    Connection(Box<Connection>),
    /// The right to open one.
    Permit(OwnedSemaphorePermit),
}

impl Idle {
    /// No connections yet. Panics where no local task can be spawned.
    pub(super) fn new(limit: Arc<Limit>, longest: Duration, clock: Clock) -> Rc<Self> {
        let demand = limit.demand();
        let idle = Rc::new(Self {
            clock,
            limit,
            longest,
            connections: RefCell::default(),
            waiters: RefCell::default(),
            waiting: Cell::new(0),
            maintenance: RefCell::default(),
        });
        let task = spawn_local(maintain(Rc::downgrade(&idle), demand, longest));
        *idle.maintenance.borrow_mut() = Some(AbortOnDrop(task.abort_handle()));
        idle
    }

    /// How many connections are idle.
    pub(super) fn count(&self) -> usize {
        self.connections.borrow().len()
    }

    /// The connection that was used last, if it is still good.
    pub(super) fn take(&self) -> Option<Box<Connection>> {
        let mut connections = self.connections.borrow_mut();
        let now = self.clock.instant();
        while let Some(mut connection) = connections.pop() {
            if connection.is_usable(now, self.longest) {
                connection.since = now;
                return Some(connection);
            }
        }
        None
    }

    /// The right to open a connection; waits for it, or for a connection of this worker to come free.
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
                waiters.retain(|waiter| !waiter.is_closed());
                waiters.push_back(sender);
            }
            let first = async {
                tokio::select! {
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
            // A connection may have been handed over at the same moment.
            Granted::Permit(permit) => Ok(handed
                .try_recv()
                .map_or(Granted::Permit(permit), Granted::Connection)),
        }
    }

    /// Takes back a connection whose exchange ended cleanly. Whoever waits comes first: this
    /// worker's requests by handing it on, another worker's by closing it.
    fn put_back(&self, mut connection: Box<Connection>) {
        connection.since = self.clock.instant();
        if !connection.is_usable(connection.since, self.longest) {
            return;
        }
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
        if !elsewhere {
            self.connections.borrow_mut().push(connection);
        }
    }

    /// Closes connections that are dead or too old, and one more for each request that waits at another
    /// worker.
    fn close_unneeded(&self) {
        let mut connections = self.connections.borrow_mut();
        let now = self.clock.instant();
        connections.retain(|connection| connection.is_usable(now, self.longest));
        let given = self.limit.waiting().min(connections.len());
        connections.drain(..given);
    }
}

/// Gives up idle connections when somebody waits for one, and those that are too old.
async fn maintain(idle: Weak<Idle>, mut demand: watch::Receiver<()>, longest: Duration) {
    let period = longest.max(Duration::from_secs(1));
    loop {
        if let Ok(Err(_closed)) = timeout(period, demand.changed()).await {
            return;
        }
        let Some(idle) = idle.upgrade() else { return };
        idle.close_unneeded();
    }
}

/// Counts a waiting request of this worker.
struct WaitingGuard<'a>(&'a Cell<usize>);

impl<'a> WaitingGuard<'a> {
    fn new(waiting: &'a Cell<usize>) -> Self {
        waiting.set(waiting.get().saturating_add(1));
        Self(waiting)
    }
}

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// A connection on loan to a response body.
pub(super) struct BorrowedConnection {
    connection: Box<Connection>,
    /// Where it goes back to; nowhere if it cannot be used again.
    idle: Option<Rc<Idle>>,
}

impl BorrowedConnection {
    /// A loan of a connection that can be used again once the body has ended cleanly.
    pub(super) fn reusable(connection: Box<Connection>, idle: Rc<Idle>) -> Self {
        Self {
            connection,
            idle: Some(idle),
        }
    }

    /// A loan of a connection that is closed after this exchange.
    pub(super) fn single_use(connection: Box<Connection>) -> Self {
        Self {
            connection,
            idle: None,
        }
    }

    /// The body ended cleanly.
    pub(super) fn give_back(self) {
        if let Some(idle) = self.idle {
            idle.put_back(self.connection);
        }
    }
}
