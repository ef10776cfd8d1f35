//! The HTTP/2 connections of one worker to an origin.
//!
//! An HTTP/2 connection carries many requests at the same time. Each request has its own HTTP/2
//! stream with its own flow control, so a slow response does not delay the other responses. A
//! request takes a [`Slot`] of a connection. The worker opens a new connection only if no open
//! connection has a free slot. If the origin announces the end of a connection (GOAWAY), the
//! requests on this connection finish, and new requests get another connection.

mod body;
mod connection;
mod exchange;
mod keep_alive;
mod upload;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot::{self, Receiver, Sender};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use self::connection::{Connection, MAX_STREAMS};
use super::connection::AbortOnDrop;
use super::connector::Connector;
use super::error::Error;
use super::idle::{REVIEW_PAUSE, WaitingGuard};
use super::limit::{Limit, Permit};
use super::owner::Owner;
use super::pool::Times;
use super::share::{Queue, ShareSettings};
use super::usage::{OpenUsage, Resource, Usages};
use crate::clock::Clock;

pub(super) use self::body::Incoming;
pub(crate) use self::keep_alive::KeepAlive;

/// After a worker has closed a busy connection, the worker waits at least this time before it
/// closes another busy connection. A worker closes a busy connection so that a request of another
/// worker can open a connection.
const CLOSE_INTERVAL: Duration = Duration::from_secs(1);

/// The connections of one worker, and the worker's requests that wait for a slot.
pub(super) struct Connections {
    connector: Arc<Connector>,
    limit: Arc<Limit>,
    times: Times,
    clock: Clock,
    /// The connections that accept requests. The first connection with a free slot is used, so that
    /// connections that are not needed become idle.
    open: RefCell<Vec<Rc<Connection>>>,
    /// The requests that wait for a slot, in the order of their arrival. If the channel to a
    /// waiting request is closed, that request tries again to get a slot.
    waiters: RefCell<Queue<Sender<Result<Slot, Error>>>>,
    /// The open HTTP/2 streams of this worker, with the exchanges that use them.
    usages: Usages,
    /// The number of connections that are being opened.
    opening: Cell<usize>,
    /// The number of slots of the newest connection.
    slots: Cell<usize>,
    /// The number of requests of this worker that wait in the queue of [`Limit`].
    waiting: Cell<usize>,
    last_closed: Cell<Option<Instant>>,
    maintenance: RefCell<Option<AbortOnDrop>>,
}

/// The right to use one stream of a connection. When a `Slot` is dropped, the next waiting request
/// gets the right to use an HTTP/2 stream.
pub(super) struct Slot {
    connection: Rc<Connection>,
    connections: Rc<Connections>,
    usage: OpenUsage,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connection.release(self.connections.clock.instant());
        self.connections.serve();
    }
}

impl Connections {
    /// Creates an empty list. Panics if the caller is not in a runtime that can spawn local tasks.
    pub(super) fn new(
        connector: Arc<Connector>,
        limit: Arc<Limit>,
        times: Times,
        clock: Clock,
    ) -> Rc<Self> {
        let demand = limit.demand();
        let terms = ShareSettings {
            most: usize::MAX,
            slow_client: limit.shares().slow_client,
        };
        let connections = Rc::new(Self {
            usages: Usages::new(clock.clone(), None),
            connector,
            limit,
            times,
            clock,
            open: RefCell::default(),
            waiters: RefCell::new(Queue::new(terms)),
            opening: Cell::new(0),
            slots: Cell::new(MAX_STREAMS),
            waiting: Cell::new(0),
            last_closed: Cell::default(),
            maintenance: RefCell::default(),
        });
        let task = spawn_local(maintain(Rc::downgrade(&connections), demand, times.idle));
        *connections.maintenance.borrow_mut() = Some(AbortOnDrop(task.abort_handle()));
        connections
    }

    /// The number of connections that carry no request.
    pub(super) fn idle(&self) -> usize {
        let open = self.open.borrow();
        open.iter()
            .filter(|connection| connection.is_idle())
            .count()
    }

    /// The number of connections that accept requests.
    #[cfg(test)]
    pub(super) fn usable(&self) -> usize {
        let open = self.open.borrow();
        let usable = open
            .iter()
            .filter(|connection| connection.accepts_requests());
        usable.count()
    }

    /// Returns a free slot of a connection. If all slots are taken, this function opens a
    /// connection, or waits until a slot is free.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Busy`], or an error of [`Connection::open`].
    async fn slot(self: &Rc<Self>, owner: Owner) -> Result<Slot, Error> {
        let since = self.clock.instant();
        loop {
            let now = self.clock.instant();
            if !self.holds_back(owner, now)
                && let Some(slot) = self.take()
            {
                return Ok(slot);
            }
            let (sender, granted) = oneshot::channel();
            let count = {
                let mut waiters = self.waiters.borrow_mut();
                // If a waiting request was dropped, the channel of this request is closed, but the
                // list still contains the sender.
                waiters.retain(|waiter| !waiter.is_closed());
                waiters.push(owner, now, sender);
                waiters.len()
            };
            let expected = self.opening.get().saturating_mul(self.slots.get());
            let granted = if count <= expected {
                granted.await
            } else if let Some(permit) = self.limit.try_open(owner, now) {
                self.open_connection(permit);
                granted.await
            } else {
                self.queue(owner, granted, since).await?
            };
            if let Ok(result) = granted {
                return result;
            }
        }
    }

    /// Waits for a slot, or for the right to open a connection. `since` is the time at which the
    /// request began to wait.
    async fn queue(
        self: &Rc<Self>,
        owner: Owner,
        mut granted: Receiver<Result<Slot, Error>>,
        since: Instant,
    ) -> Result<Result<Result<Slot, Error>, oneshot::error::RecvError>, Error> {
        let permit = {
            let now = self.clock.instant();
            let mut place = self.limit.queue(owner, now)?;
            let _waiting = WaitingGuard::new(&self.waiting);
            let waited = now.saturating_duration_since(since);
            let first = async {
                tokio::select! {
                    // Because of `biased`, `select!` first checks whether an open connection has a
                    // free slot. A request on an open connection needs no handshake.
                    biased;
                    granted = &mut granted => Ok(Err(granted)),
                    permit = place.granted() => Ok(Ok(permit?)),
                }
            };
            timeout(self.limit.max_wait().saturating_sub(waited), first)
                .await
                .map_err(|_elapsed| Error::Busy)?
        };
        match permit? {
            Err(granted) => Ok(granted),
            Ok(permit) => {
                self.open_connection(permit);
                Ok(granted.await)
            }
        }
    }

    /// Opens a connection in its own task, so that the connection is opened even if the request
    /// that needs it is dropped.
    fn open_connection(self: &Rc<Self>, permit: Permit) {
        self.opening.set(self.opening.get().saturating_add(1));
        let connections = Rc::clone(self);
        spawn_local(async move {
            let (connector, times) = (&connections.connector, connections.times);
            let opened = Connection::open(connector, permit, times.keep_alive, &connections.clock);
            let opened = opened.await;
            let opening = connections.opening.get().saturating_sub(1);
            connections.opening.set(opening);
            match opened {
                Ok(connection) => connections.add(connection),
                Err(error) => connections.fail(error),
            }
        });
    }

    fn add(self: &Rc<Self>, connection: Rc<Connection>) {
        self.slots.set(connection.slots().max(1));
        self.open.borrow_mut().push(connection);
        self.serve();
        // Dropping the senders wakes the requests that still wait for a slot. Each woken request
        // tries again to get a slot. If no slot is free, the request can open a further connection.
        drop(self.waiters.borrow_mut().take());
    }

    /// Passes the error of a connection that could not be opened to the first waiting request. If
    /// no other connection is open or being opened, all waiting requests get the error.
    fn fail(&self, error: Error) {
        let alone = self.open.borrow().is_empty() && self.opening.get() == 0;
        let waiters = self.waiters.borrow_mut().take();
        let mut waiters = waiters.filter(|waiter| !waiter.is_closed());
        let first = waiters.next();
        if alone {
            for waiter in waiters {
                // `send` fails only if the waiting request was dropped, and a dropped request needs
                // no error.
                waiter.send(Err(error.of_connecting())).unwrap_or_default();
            }
        }
        if let Some(first) = first {
            first.send(Err(error)).unwrap_or_default();
        }
    }

    /// Takes a free slot. Removes the connections that accept no requests.
    fn take(self: &Rc<Self>) -> Option<Slot> {
        let mut open = self.open.borrow_mut();
        let now = self.clock.instant();
        open.retain(|connection| connection.is_usable(now, self.times.idle));
        let connection = open.iter().find(|connection| connection.reserve())?;
        Some(Slot {
            connection: Rc::clone(connection),
            connections: Rc::clone(self),
            usage: self.usages.add(Resource::Stream),
        })
    }

    /// Gives free slots to waiting requests.
    fn serve(self: &Rc<Self>) {
        let mut waiters = self.waiters.borrow_mut();
        waiters.retain(|waiter| !waiter.is_closed());
        drop(waiters);
        loop {
            if !self.waiters.borrow().has_next() {
                return;
            }
            let Some(slot) = self.take() else { return };
            // A slot must not be dropped while the queue is borrowed, because the drop of a slot
            // borrows the queue again.
            let waiter = self.waiters.borrow_mut().pop();
            if let Some(waiter) = waiter {
                drop(waiter.send(Ok(slot)));
            }
        }
    }

    /// Closes connections that are broken or have been idle for too long. If requests of other
    /// workers wait, closes one idle connection for each of these requests. If too few connections
    /// are idle, one busy connection gets no further request, and is closed when its requests have
    /// finished.
    fn close_unneeded(&self) {
        let now = self.clock.instant();
        let mut open = self.open.borrow_mut();
        open.retain(|connection| connection.is_usable(now, self.times.idle));
        let mut wanted = self.limit.waiting().saturating_sub(self.waiting.get());
        open.retain(|connection| {
            let given = wanted > 0 && connection.is_idle();
            wanted = wanted.saturating_sub(usize::from(given));
            !given
        });
        // Without `CLOSE_INTERVAL`, the workers would close and open connections all the time if
        // all workers had waiting requests.
        let last = self.last_closed.get();
        let may_give_up =
            last.is_none_or(|last| now.saturating_duration_since(last) >= CLOSE_INTERVAL);
        if wanted > 0 && may_give_up && !open.is_empty() {
            self.last_closed.set(Some(now));
            open.remove(0);
        }
    }

    /// Whether waiting requests of other clients have priority over a request of this client.
    fn holds_back(&self, owner: Owner, now: Instant) -> bool {
        let waiters = self.waiters.borrow();
        !waiters.is_empty() && waiters.holds_back(owner, now)
    }

    /// Evicts exchanges, so that waiting requests of this worker get their HTTP/2 streams. Other
    /// workers cannot use an HTTP/2 stream of this worker, so each worker chooses among its own
    /// exchanges only.
    fn review(self: &Rc<Self>) {
        let now = self.clock.instant();
        let held = self.usages.held(now);
        let streams = self.open.borrow().len().saturating_mul(self.slots.get());
        let verdicts = {
            let mut waiters = self.waiters.borrow_mut();
            waiters.retain(|waiter| !waiter.is_closed());
            waiters.set_most(self.limit.shares().most(streams));
            waiters.count_held(held.iter(), now);
            waiters.exchanges_to_evict(&held, now)
        };
        for (_at, verdict) in verdicts {
            self.usages.evict(verdict, now);
        }
        self.serve();
    }
}

/// Closes connections when they have been idle for too long, or when another worker needs the right
/// to open a connection.
async fn maintain(
    connections: Weak<Connections>,
    mut demand: watch::Receiver<()>,
    max_idle: Duration,
) {
    // If `max_idle` is zero, the loop must still wait before each iteration.
    let idle_period = max_idle.max(Duration::from_secs(1));
    let mut period = idle_period;
    loop {
        if let Ok(Err(_closed)) = timeout(period, demand.changed()).await {
            return;
        }
        let Some(connections) = connections.upgrade() else {
            return;
        };
        connections.close_unneeded();
        period = idle_period;
        if !connections.waiters.borrow().is_empty() {
            connections.review();
            period = REVIEW_PAUSE;
        }
    }
}
