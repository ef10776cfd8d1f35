//! Counts the open connections of each client.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fields::ClientNetworks;

/// The number of entries in the table of the clients, for each connection that may be open. With
/// eight entries for each connection, two clients rarely have the same entry.
const ENTRIES: usize = 8;
/// The smallest and the largest number of entries.
const SMALLEST: usize = 1 << 10;
const LARGEST: usize = 1 << 20;

/// The numbers of open connections of all clients. The hash of a client selects the client's entry
/// in the table, so that the workers need no lock. If the hash selects the same entry for two
/// clients, the two clients count as one client. The hash has a secret key, so no client can choose
/// its entry.
#[derive(Debug)]
pub(super) struct Clients {
    counts: Box<[AtomicUsize]>,
    hasher: RandomState,
    networks: ClientNetworks,
    /// A client with more connections than this number has more than its share.
    share: usize,
    /// The number of clients that have more than their share.
    over_share: AtomicUsize,
}

impl Clients {
    /// Creates the table for at most `connections` open connections. A client has more than its
    /// share if it has more than `share` connections. `networks` are the networks that count as one
    /// client.
    pub(super) fn new(connections: usize, share: usize, networks: ClientNetworks) -> Arc<Self> {
        let entries = connections.saturating_mul(ENTRIES).clamp(SMALLEST, LARGEST);
        let counts = (0..entries).map(|_entry| AtomicUsize::new(0));
        Arc::new(Self {
            counts: counts.collect(),
            hasher: RandomState::new(),
            networks,
            share,
            over_share: AtomicUsize::new(0),
        })
    }

    /// The number of open connections of a client.
    pub(super) fn connections(&self, client: ClientId) -> usize {
        let counter = self.counts.get(client.0);
        counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// Returns true if at least one client has more than its share.
    pub(super) fn is_one_over_share(&self) -> bool {
        self.over_share.load(Ordering::Relaxed) > 0
    }

    /// Counts a connection of the client at `address`, until the returned value is dropped.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> ClientCount {
        let hash = self.hasher.hash_one(self.networks.of(address));
        let entries = u64::try_from(self.counts.len()).unwrap_or(1);
        let entry = hash.checked_rem(entries).unwrap_or_default();
        let count = ClientCount {
            clients: Arc::clone(self),
            client: ClientId(usize::try_from(entry).unwrap_or_default()),
        };
        let before = count
            .counter()
            .map(|counter| counter.fetch_add(1, Ordering::Relaxed));
        if before == Some(self.share) {
            self.over_share.fetch_add(1, Ordering::Relaxed);
        }
        count
    }
}

/// Identifies a client. If two clients have the same entry in the table, both have the same id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ClientId(usize);

/// The part of one connection in the count of its client. When this value is dropped, the
/// connection does not count any more.
#[derive(Debug)]
pub(super) struct ClientCount {
    clients: Arc<Clients>,
    client: ClientId,
}

impl ClientCount {
    /// The client of the connection.
    pub(super) fn client(&self) -> ClientId {
        self.client
    }

    /// The number of open connections of the client.
    fn connections(&self) -> usize {
        self.clients.connections(self.client)
    }

    /// Returns the number of open connections of the client, if the client has more than its share.
    pub(super) fn over_share(&self) -> Option<usize> {
        Some(self.connections()).filter(|connections| *connections > self.clients.share)
    }

    fn counter(&self) -> Option<&AtomicUsize> {
        self.clients.counts.get(self.client.0)
    }
}

impl Drop for ClientCount {
    fn drop(&mut self) {
        let before = self
            .counter()
            .map(|counter| counter.fetch_sub(1, Ordering::Relaxed));
        if before.and_then(|before| before.checked_sub(1)) == Some(self.clients.share) {
            self.clients.over_share.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d_43_each_client_has_its_own_count() {
        let clients = Clients::new(10_000, 1, ClientNetworks::default());
        let enter = |address: &str| clients.enter(address.parse().unwrap());
        let first = enter("2001:db8::1");
        assert!(!clients.is_one_over_share());
        let second = enter("2001:db8::ffff:2");
        assert_eq!((first.connections(), first.over_share()), (2, Some(2)));
        assert!(first.client() == second.client() && clients.is_one_over_share());
        drop(second);
        assert_eq!((first.connections(), first.over_share()), (1, None));
        assert!(!clients.is_one_over_share());
        let other = enter("192.0.2.1");
        // Another client rarely has the same entry.
        let same = usize::from(first.client() == other.client());
        assert_eq!(first.connections(), 1 + same);
        let mapped = enter("::ffff:192.0.2.1");
        assert_eq!(mapped.client(), other.client());
        assert_eq!(mapped.connections(), 2 + same);
        drop((first, other, mapped));
        assert!(!clients.is_one_over_share());
    }
}
