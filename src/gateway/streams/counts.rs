//! The number of tunnels of each client.
//!
//! A tunnel can last for days, and always occupies a connection to the app. Without a limit for
//! each client, one client could open so many tunnels that no other client gets a connection to the
//! app.

#![expect(
    clippy::disallowed_types,
    reason = "a handshake and the end of a stream take the lock; no other request takes it"
)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::upstream::Owner;

/// The number of open tunnels of each client, for all workers together. All clones of a
/// [`StreamCounts`] value share the same numbers. A reload does not change the numbers of open
/// tunnels.
#[derive(Clone, Debug, Default)]
pub(crate) struct StreamCounts(Arc<Mutex<HashMap<Owner, usize>>>);

impl StreamCounts {
    /// Counts one more tunnel, until the returned value is dropped. Returns `None` if the owner
    /// already has `max` tunnels.
    pub(in crate::gateway) fn open(&self, owner: Owner, max: usize) -> Option<StreamSlot> {
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

    fn open_streams(&self) -> MutexGuard<'_, HashMap<Owner, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One counted tunnel.
#[derive(Debug)]
pub(in crate::gateway) struct StreamSlot {
    counts: StreamCounts,
    owner: Owner,
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

    fn owner(address: &str) -> Owner {
        Owner::new(None, address.parse().unwrap())
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
        // A client without open tunnels has no entry in the map.
        assert!(counts.open_streams().is_empty());
    }
}
