//! States which sessions in the cache of a replica are known to be up to date.
//!
//! A store in this process reports every change to the cache, so its sessions are always up to date.
//! A store behind a network can lose reports. The store therefore limits the time until which the
//! cache may be used ([`Coherence::until`]). Heartbeats extend this time. If the store may have lost
//! a report, the store begins a new generation of the cache. A session of an earlier generation may
//! be used only after the store has confirmed the session.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::stored::Stored;
use crate::clock::Timestamp;

/// The generation of a cache, and the time until which the cache may be used.
#[derive(Debug)]
pub(super) struct Coherence {
    generation: AtomicU32,
    until: AtomicU64,
}

impl Default for Coherence {
    fn default() -> Self {
        Self {
            generation: AtomicU32::new(0),
            until: AtomicU64::new(u64::MAX),
        }
    }
}

impl Coherence {
    /// Returns true if a request may use this cached session at the time `now` without asking the
    /// store.
    #[inline]
    pub(super) fn covers(&self, session: &Stored, now: Timestamp) -> bool {
        // A request that reads the new time must also read the new generation.
        now.as_millis() < self.until.load(Ordering::Acquire)
            && session.confirmed_in() == self.generation.load(Ordering::Relaxed)
    }

    /// Returns the number of the current generation.
    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Begins a new generation: every cached session must be confirmed again.
    pub(super) fn begin_generation(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets the time until which the cache may be used.
    pub(super) fn set_until(&self, until: Timestamp) {
        self.until.store(until.as_millis(), Ordering::Release);
    }
}
