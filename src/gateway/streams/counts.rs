//! The number of switched connections of each client.
//!
//! A switched connection can last for days and occupies a connection of the gateway and a
//! connection of the app. Without a limit for each client, one client could switch so many
//! connections that no other client gets a connection.

#![expect(
    clippy::disallowed_types,
    reason = "a handshake and the end of a stream take the lock; no other request takes it"
)]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::session::SessionKey;

/// The client to which a stream belongs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(in crate::gateway) enum StreamOwner {
    /// The session of the handshake.
    Session(SessionKey),
    /// The address of a client whose handshake has no session.
    Address(IpAddr),
}

impl StreamOwner {
    /// Returns the owner of a stream. `address` is used only if there is no session. An IPv6 client
    /// usually has all addresses of a `/64` network, so these addresses count as one client.
    pub(in crate::gateway) fn new(session: Option<SessionKey>, address: IpAddr) -> Self {
        match (session, address.to_canonical()) {
            (Some(session), _) => Self::Session(session),
            (None, IpAddr::V6(address)) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                Self::Address(IpAddr::V6(Ipv6Addr::from_bits(network)))
            }
            (None, address @ IpAddr::V4(_)) => Self::Address(address),
        }
    }
}

/// The open streams of all workers. All clones share the same counts. A reload does not change the
/// counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct StreamCounts(Arc<Mutex<HashMap<StreamOwner, usize>>>);

impl StreamCounts {
    /// Counts one more stream until the caller drops the returned value. Returns `None` if the
    /// owner already has `max` streams.
    pub(in crate::gateway) fn open(&self, owner: StreamOwner, max: usize) -> Option<StreamSlot> {
        let mut open = self.open_streams();
        let count = open.entry(owner).or_default();
        if *count >= max {
            return None;
        }
        *count = count.saturating_add(1);
        Some(StreamSlot {
            counts: self.clone(),
            owner,
        })
    }

    fn open_streams(&self) -> MutexGuard<'_, HashMap<StreamOwner, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One counted stream.
#[derive(Debug)]
pub(in crate::gateway) struct StreamSlot {
    counts: StreamCounts,
    owner: StreamOwner,
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut open = self.counts.open_streams();
        if let Some(count) = open.get_mut(&self.owner) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(address: &str) -> StreamOwner {
        StreamOwner::new(None, address.parse().unwrap())
    }

    #[test]
    fn an_owner_has_at_most_the_allowed_number_of_streams_at_once() {
        let counts = StreamCounts::default();
        let (one, other) = (owner("192.0.2.1"), owner("192.0.2.2"));
        let first = counts.open(one, 2).unwrap();
        let second = counts.open(one, 2).unwrap();
        assert!(counts.open(one, 2).is_none());
        assert!(counts.open(other, 2).is_some());
        drop(first);
        let third = counts.open(one, 2);
        assert!(third.is_some());
        drop((second, third));
        // The map contains no owner without streams.
        assert!(counts.open_streams().is_empty());
    }

    #[test]
    fn a_network_of_ipv6_and_a_mapped_address_are_one_owner() {
        assert_eq!(owner("2001:db8::1"), owner("2001:db8:0:0:ffff::2"));
        assert_ne!(owner("2001:db8::1"), owner("2001:db8:0:1::1"));
        assert_eq!(owner("::ffff:192.0.2.1"), owner("192.0.2.1"));
        let session = Some(SessionKey::from_bytes([7; 16]));
        let addresses = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let [one, other] = addresses.map(|address| StreamOwner::new(session, address));
        assert_eq!(one, other);
    }
}
