//! Figures about the sessions, for the metrics and the warnings.

use super::Sessions;

impl Sessions {
    /// Returns the number of all sessions in the store.
    pub fn count(&self) -> u64 {
        self.store.count()
    }

    /// Returns the number of sessions that the cache has evicted because the cache was full.
    pub(crate) fn pushed_out(&self) -> u64 {
        self.store.cache().evicted()
    }

    /// Returns the number of sessions that have ended because the cache was full. Returns zero
    /// if the store can contain sessions that are not in the cache, because these sessions continue.
    pub(crate) fn ended_by_capacity(&self) -> u64 {
        if self.outlives_cache {
            0
        } else {
            self.pushed_out()
        }
    }

    /// Returns the number of reads of a shared store that found a session which cannot be read, by
    /// reason.
    pub(crate) fn unreadable(&self) -> [(&'static str, u64); 3] {
        self.store.unreadable()
    }

    /// Returns the number of bytes that count towards the capacity of the cache: the contents of
    /// the cached sessions, plus [`super::OVERHEAD`] for each session.
    pub fn weight(&self) -> u64 {
        self.cache.weighted_size()
    }
}
