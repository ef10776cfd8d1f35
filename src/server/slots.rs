//! The limits of open connections, which all workers share.
//!
//! Each connection of a client needs one slot. A slot consists of a permit for the connection
//! (`server.connections`) and of a permit for its descriptor. A switched connection, such as a
//! WebSocket, also has a connection to the app, so it needs a permit for a second descriptor. The
//! descriptors for everything else, such as the connections to providers, are not in these limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;
use super::clients::Clients;
use super::demand::{Demands, Need};
use super::report::Reports;

/// A client has more than its share if it has more than this fraction (one eighth) of the
/// connections.
const SHARE: usize = 8;

/// The limits of open connections, and the connections of each client.
#[derive(Debug)]
pub(super) struct Slots {
    connections: Arc<Semaphore>,
    descriptors: Arc<Semaphore>,
    pub(super) clients: Arc<Clients>,
    /// The maximum number of connections of one client.
    pub(super) most: usize,
    pub(super) reports: Reports,
    /// The number of workers that wait for a slot that every client can lose.
    waiting: AtomicUsize,
    /// The number of workers that have asked for an index.
    workers: AtomicUsize,
    pub(super) demands: Demands,
}

impl Slots {
    /// Creates the limits of a server without connections.
    pub(super) fn new(limits: &Limits, reports: Reports) -> Arc<Self> {
        let descriptors = limits.descriptors.clamp(1, Semaphore::MAX_PERMITS);
        let connections = limits.connections.clamp(1, descriptors);
        let fraction = connections.checked_div(SHARE).unwrap_or_default();
        let default = connections.saturating_sub(fraction);
        // If one client may have all connections, its new connections wait for a slot.
        let most = match limits.connections_per_client {
            Some(most) if most >= limits.connections => usize::MAX,
            Some(most) => most.min(default.max(1)),
            None => default,
        };
        Arc::new(Self {
            connections: Arc::new(Semaphore::new(connections)),
            descriptors: Arc::new(Semaphore::new(descriptors)),
            clients: Clients::new(connections, fraction.max(1), limits.client_networks),
            most: if most < connections { most } else { usize::MAX },
            reports,
            waiting: AtomicUsize::new(0),
            workers: AtomicUsize::new(0),
            demands: Demands::new(),
        })
    }

    /// Returns the index of the next worker.
    pub(super) fn next_worker(&self) -> usize {
        self.workers.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns true if no slot is free.
    pub(super) fn is_full(&self) -> bool {
        self.connections.available_permits() == 0 || self.descriptors.available_permits() == 0
    }

    /// Returns true if a worker waits for a slot that every client can lose.
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Returns a slot, if a slot is free.
    pub(super) fn try_take(self: &Arc<Self>) -> Option<Slot> {
        let connection = Arc::clone(&self.connections).try_acquire_owned().ok()?;
        let descriptor = Arc::clone(&self.descriptors).try_acquire_owned().ok()?;
        Some(Slot {
            slots: Arc::clone(self),
            _connection: connection,
            _descriptor: descriptor,
        })
    }

    /// Waits for a slot. The semaphores are never closed, so this function always returns a slot.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn take(self: &Arc<Self>) -> Option<Slot> {
        let connection = Arc::clone(&self.connections).acquire_owned().await.ok()?;
        let descriptor = Arc::clone(&self.descriptors).acquire_owned().await.ok()?;
        Some(Slot {
            slots: Arc::clone(self),
            _connection: connection,
            _descriptor: descriptor,
        })
    }

    /// Counts the worker as waiting for a slot until the returned value is dropped. Meanwhile, the
    /// sweeps of all workers close connections.
    pub(super) fn want(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.waiting)
    }
}

/// Counts a worker as waiting until this value is dropped.
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The slot of one connection. When this value is dropped, the slot is free.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    _connection: OwnedSemaphorePermit,
    _descriptor: OwnedSemaphorePermit,
}

impl Slot {
    /// Counts the descriptor of the connection to the app, when the protocol of a connection was
    /// switched. If no descriptor is left, the connection stays open, and waiting connections of
    /// other clients are closed instead.
    pub(super) fn second_descriptor(&self) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.slots.descriptors).try_acquire_owned().ok();
        if permit.is_none() {
            drop(self.slots.demands.ask(None, Need::Slot));
        }
        permit
    }
}
