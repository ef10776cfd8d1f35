//! The memory and the files for the buffers of slow clients.
//!
//! The gateway buffers the first part of a request body before it takes a connection of the app.
//! The gateway also buffers an answer if the client reads the answer slowly. The buffers of the
//! process share one budget for memory and one budget for files.
//!
//! The budget for memory also contains the receive windows of HTTP/2 connections. A connection
//! announces its window when it is accepted, and the protocol does not let the gateway make a window
//! smaller later. Therefore a window may use only bytes of the first half of the budget. The other
//! half remains for buffers, even if the connections of all windows are idle.
//!
//! The buffers of one client may grow while their total size is smaller than the free part of the
//! budget. Therefore one client gets at most half of the budget, and the next client finds free
//! bytes. If several clients fill their buffers, all these clients get equal parts of the budget. A
//! further part of the budget, of the same size, stays free for a new client. If a client has used
//! its share of the budgets, the gateway forwards the bodies of this client while they arrive.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::{EventLimiter, Metrics};
use crate::upstream::Owner;

/// The number of entries in the table of the clients.
const ENTRIES: u64 = 4096;

/// The budget for buffered bytes in memory, the budget for buffered bytes in files, and the budget for
/// open files. All clones share the same budgets. A reload does not reset the used parts.
#[derive(Clone, Debug)]
pub(crate) struct Budgets {
    memory: Arc<Budget>,
    files: Arc<Budget>,
    /// The unit of this budget is a file, because each file needs a descriptor.
    open_files: Arc<Budget>,
    /// Limits the warnings about the files. Clients decide how many bodies the gateway writes to
    /// files, so clients must not decide how many warnings the log contains.
    spill_warnings: Arc<EventLimiter>,
}

impl Budgets {
    /// Creates budgets with zero used bytes. `metrics` shows how many bytes of each budget are
    /// used.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            memory: Budget::new(metrics.buffered(), metrics.http2_windows()),
            files: Budget::new(metrics.spilled(), &Gauge::default()),
            open_files: Budget::new(metrics.spill_files(), &Gauge::default()),
            spill_warnings: Arc::new(EventLimiter::new(Duration::from_mins(1))),
        }
    }

    /// Returns the limiter of the warnings about the files.
    pub(super) fn spill_warnings(&self) -> &Arc<EventLimiter> {
        &self.spill_warnings
    }

    /// Creates an empty reservation in the budget for memory. `max` is the size of the budget in
    /// bytes.
    pub(super) fn memory(&self, client: Owner, max: usize) -> Reservation {
        Reservation::new(&self.memory, Use::Buffer, client, max)
    }

    /// Reserves memory for the receive window of an HTTP/2 connection of `client`: at most `wanted`
    /// bytes, and fewer bytes if the budget has little free memory. `max` is the size of the budget
    /// in bytes.
    pub(super) fn window(&self, client: Owner, max: usize, wanted: usize) -> Reservation {
        let mut window = Reservation::new(&self.memory, Use::Window, client, max / 2);
        let mut bytes = wanted;
        while bytes > 0 && window.growth(wanted, bytes) != Growth::Allowed {
            bytes /= 2;
        }
        window.add(bytes);
        window
    }

    /// Creates an empty reservation in the budget for files. `max` is the size of the budget in
    /// bytes.
    pub(super) fn files(&self, client: Owner, max: usize) -> Reservation {
        Reservation::new(&self.files, Use::Buffer, client, max)
    }

    /// Creates an empty reservation in the budget for open files. The unit is one file instead of
    /// one byte. `max` is the maximum number of open files.
    pub(super) fn open_files(&self, client: Owner, max: usize) -> Reservation {
        Reservation::new(&self.open_files, Use::Buffer, client, max)
    }
}

/// A budget that all buffers of the process share.
#[derive(Debug)]
struct Budget {
    /// The number of bytes in buffers.
    buffered: Gauge,
    /// The number of bytes that the receive windows of HTTP/2 connections may use.
    windows: Gauge,
    /// For each client, the number of bytes that the client uses from the budget. The hash of a
    /// client selects the client's entry in this table, so that the workers need no lock. If the
    /// hash selects the same entry for two clients, the two clients together get the share of one
    /// client. The hash has a secret key, so no client can choose its entry.
    clients: Box<[AtomicUsize]>,
    hasher: RandomState,
}

impl Budget {
    /// Creates a budget with zero used bytes. The gauges show the numbers of used bytes.
    fn new(buffered: &Gauge, windows: &Gauge) -> Arc<Self> {
        Arc::new(Self {
            buffered: buffered.clone(),
            windows: windows.clone(),
            clients: (0..ENTRIES).map(|_entry| AtomicUsize::new(0)).collect(),
            hasher: RandomState::new(),
        })
    }

    /// Returns the number of used bytes.
    fn used(&self) -> usize {
        let used = self.buffered.get().saturating_add(self.windows.get());
        usize::try_from(used).unwrap_or_default()
    }

    fn gauge(&self, used_for: Use) -> &Gauge {
        match used_for {
            Use::Buffer => &self.buffered,
            Use::Window => &self.windows,
        }
    }
}

/// What uses the bytes of a reservation.
#[derive(Clone, Copy, Debug)]
enum Use {
    /// A buffer for a body.
    Buffer,
    /// The receive window of an HTTP/2 connection.
    Window,
}

/// The part of the budget that one buffer or window uses. Dropping this value frees the bytes in the
/// budget.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<Budget>,
    used_for: Use,
    /// The index of the client in the field `clients` of the budget.
    client: usize,
    max: usize,
    bytes: usize,
}

/// Whether a buffer may store more bytes.
#[must_use]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Growth {
    Allowed,
    /// The buffer has reached its limit.
    AtLimit,
    /// The client has used its whole part of the budget.
    NoShare,
}

impl Reservation {
    /// Creates a reservation that uses no bytes of the budget yet.
    fn new(budget: &Arc<Budget>, used_for: Use, client: Owner, max: usize) -> Self {
        let entry = budget.hasher.hash_one(client) % ENTRIES;
        Self {
            budget: Arc::clone(budget),
            used_for,
            client: usize::try_from(entry).unwrap_or_default(),
            max,
            bytes: 0,
        }
    }

    /// Returns whether the buffer may store `length` more bytes. `limit` is the limit of this
    /// buffer in bytes.
    pub(super) fn growth(&self, limit: usize, length: usize) -> Growth {
        let free = self.max.saturating_sub(self.budget.used());
        let of_client = self.of_client().map(|bytes| bytes.load(Ordering::Relaxed));
        if self.bytes.saturating_add(length) > limit {
            Growth::AtLimit
        } else if of_client.unwrap_or_default().saturating_add(length) > free {
            Growth::NoShare
        } else {
            Growth::Allowed
        }
    }

    /// The number of bytes that this reservation uses.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of bytes in all buffers and windows of the client.
    fn of_client(&self) -> Option<&AtomicUsize> {
        self.budget.clients.get(self.client)
    }

    /// Adds `bytes` to the number of bytes that this buffer uses from the budget.
    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.budget.gauge(self.used_for).inc_by(signed(bytes));
        if let Some(of_client) = self.of_client() {
            of_client.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Returns at most `bytes` reserved bytes to the budget.
    pub(super) fn remove(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.budget.gauge(self.used_for).dec_by(signed(bytes));
        if let Some(of_client) = self.of_client() {
            of_client.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Moves the reserved bytes to a new value.
    pub(super) fn take(&mut self) -> Self {
        Self {
            budget: Arc::clone(&self.budget),
            bytes: std::mem::take(&mut self.bytes),
            ..*self
        }
    }

    /// Frees all bytes of this reservation in the budget.
    pub(super) fn clear(&mut self) {
        self.remove(self.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.clear();
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: usize = 164;

    fn client(address: u8) -> Owner {
        Owner::new(None, [192, 0, 2, address].into())
    }

    fn budget() -> Arc<Budget> {
        let new = || Budget::new(&Gauge::default(), &Gauge::default());
        let mut budget = new();
        // The loop ends when the hash selects a different entry for each of the twenty clients.
        while entries(&budget) < 20 {
            budget = new();
        }
        budget
    }

    /// Returns the number of different budget entries that twenty clients get.
    fn entries(budget: &Arc<Budget>) -> usize {
        let clients = (0..20).map(|address| empty(budget, address, 0).client);
        clients.collect::<std::collections::BTreeSet<_>>().len()
    }

    fn empty(budget: &Arc<Budget>, address: u8, max: usize) -> Reservation {
        Reservation::new(budget, Use::Buffer, client(address), max)
    }

    /// Creates a reservation for the client with the address `address`, and adds pieces while the
    /// reservation may grow.
    fn grown(budget: &Arc<Budget>, address: u8, max: usize, limit: usize) -> Reservation {
        let mut reservation = empty(budget, address, max);
        while reservation.growth(limit, 1) == Growth::Allowed {
            reservation.add(PIECE);
        }
        reservation
    }

    #[test]
    fn a_buffer_grows_up_to_its_limit() {
        let reservation = grown(&budget(), 1, 1024 * 1024, 10_000);
        assert_eq!(reservation.bytes, 61 * PIECE);
    }

    #[test]
    fn one_client_with_many_buffers_leaves_half_of_the_budget() {
        let (budget, max, limit) = (budget(), 64 * 1024, 8 * 1024);
        let attacker: Vec<_> = (0..100).map(|_| grown(&budget, 1, max, limit)).collect();
        let used: usize = attacker.iter().map(|buffer| buffer.bytes).sum();
        assert!((max / 2..max / 2 + 200).contains(&used), "{used}");
        // The first buffers of the attacker use the attacker's whole share, so the last buffer
        // stores nothing.
        assert_eq!(attacker[99].bytes, 0);
        let bystander = grown(&budget, 2, max, limit);
        assert!(bystander.bytes >= limit, "{}", bystander.bytes);
        // The bystander uses a part of the budget, so the share of the attacker is smaller now. If
        // the attacker drops one buffer and fills another buffer, the new buffer must be smaller.
        let mut attacker = attacker;
        attacker.remove(0);
        assert_eq!(grown(&budget, 1, max, limit).bytes, 25 * PIECE);
        drop((attacker, bystander));
        assert_eq!(budget.buffered.get(), 0);
        assert_eq!(grown(&budget, 1, max, limit).bytes, 50 * PIECE);
    }

    #[test]
    fn many_clients_use_the_budget_up_and_never_more() {
        let (budget, max) = (budget(), 64 * 1024);
        let open: Vec<_> = (0..20)
            .map(|address| grown(&budget, address, max, max))
            .collect();
        let sizes: Vec<_> = open.iter().map(|reservation| reservation.bytes).collect();
        assert!(sizes.is_sorted_by(|one, next| one >= next), "{sizes:?}");
        assert!(sizes[0] >= max / 2 && sizes[19] < 1024, "{sizes:?}");
        let sum = sizes.iter().sum::<usize>();
        // Only the last piece of a buffer may exceed the limit.
        assert!(sum <= max + PIECE, "{sum}");
        assert_eq!(budget.buffered.get(), i64::try_from(sum).unwrap());
        drop(open);
        assert_eq!(budget.buffered.get(), 0);
    }

    #[test]
    fn a_budget_of_zero_allows_no_buffer() {
        let reservation = empty(&budget(), 1, 0);
        assert_eq!(reservation.growth(1024, 1), Growth::NoShare);
    }

    #[test]
    fn freed_bytes_are_free_in_the_budget() {
        let budget = budget();
        let mut reservation = empty(&budget, 1, 1000);
        reservation.add(300);
        reservation.add(200);
        assert_eq!(reservation.growth(1000, 1), Growth::NoShare);
        reservation.remove(300);
        assert_eq!(budget.buffered.get(), 200);
        assert_eq!(reservation.growth(1000, 600), Growth::Allowed);
        assert_eq!(reservation.growth(700, 600), Growth::AtLimit);
    }

    #[test]
    fn windows_become_smaller_and_leave_half_of_the_budget_to_buffers() {
        let budgets = Budgets {
            memory: budget(),
            ..Budgets::new(&Metrics::default())
        };
        let (max, wanted) = (64 * 1024, 8 * 1024);
        let open: Vec<_> = (0..20)
            .map(|address| budgets.window(client(address), max, wanted))
            .collect();
        let sizes: Vec<_> = open.iter().map(Reservation::bytes).collect();
        assert!(sizes.is_sorted_by(|one, next| one >= next), "{sizes:?}");
        assert_eq!((sizes[0], sizes[2], sizes[19]), (wanted, wanted, 0));
        let sum = sizes.iter().sum::<usize>();
        assert!((max / 4..=max / 2).contains(&sum), "{sum}");
        assert_eq!(budgets.memory.windows.get(), signed(sum));
        // A client without a window may fill a buffer.
        let buffer = grown(&budgets.memory, 21, max, wanted);
        assert!(buffer.bytes() >= wanted, "{}", buffer.bytes());
        drop(open);
        assert_eq!(budgets.memory.windows.get(), 0);
    }

    #[test]
    fn full_buffers_leave_no_bytes_to_windows() {
        let budgets = Budgets {
            memory: budget(),
            ..Budgets::new(&Metrics::default())
        };
        let max = 64 * 1024;
        let buffer = grown(&budgets.memory, 1, max, max);
        assert!(buffer.bytes() >= max / 2);
        assert_eq!(budgets.window(client(2), max, 8 * 1024).bytes(), 0);
        drop(buffer);
        assert_eq!(budgets.window(client(2), max, 8 * 1024).bytes(), 8 * 1024);
    }
}
