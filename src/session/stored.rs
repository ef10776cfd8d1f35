//! The record of a session in memory. Records are small, because there may be a million records.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use zeroize::Zeroizing;

use super::SessionKey;
use super::index::{Rank, UserHash};
use super::record::{self, Contents};
use crate::clock::Timestamp;

/// The memory that one session needs in addition to its contents, in bytes. This number includes
/// the memory for the record, the cache entry, the index and the overhead of the allocator. The
/// benchmark `benches/memory.rs` measures `OVERHEAD` with a million sessions whose provider has sent
/// a `sid`. Without a `sid`, a session needs about 120 bytes less.
pub const OVERHEAD: usize = 629;

/// One version of a session. The contents of the session are encoded as bytes. Fields that can
/// change, and fields by which the index sorts the sessions, are not encoded.
#[derive(Debug)]
pub(super) struct Stored {
    rank: Rank,
    last_used: AtomicU64,
    next_refresh: AtomicU64,
    /// The encoded [`Contents`]. The encoded contents are empty if the contents of the session are
    /// only in the file.
    contents: Zeroizing<Box<[u8]>>,
    /// The generation of the cache in which the store has last confirmed this version
    /// ([`super::coherence::Coherence`]).
    confirmed_in: AtomicU32,
    /// The longest time between two uses since the login, in seconds.
    longest_pause: AtomicU32,
    state: AtomicU8,
}

/// The state of a session value: current, out of date, or ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SessionState {
    /// The value is current.
    Live,
    /// The session has a newer value, or the cache has evicted the session. The caller must look up
    /// the session again.
    Superseded,
    /// The session has ended.
    Ended,
}

impl Stored {
    pub(super) fn new(rank: Rank, last_used: Timestamp, contents: &Contents) -> Self {
        let life = contents.tokens.lifetime();
        let next_refresh = life.refresh_at.or(life.expires_at);
        let next_refresh = next_refresh.unwrap_or(Timestamp::MAX);
        Self {
            rank,
            last_used: AtomicU64::new(last_used.as_millis()),
            next_refresh: AtomicU64::new(next_refresh.as_millis()),
            contents: record::encode(contents),
            confirmed_in: AtomicU32::new(0),
            longest_pause: AtomicU32::new(0),
            state: AtomicU8::new(LIVE),
        }
    }

    /// Returns a copy of this version for the cache of another replica.
    pub(super) fn copy(&self) -> Self {
        Self {
            rank: self.rank,
            last_used: AtomicU64::new(self.last_used().as_millis()),
            next_refresh: AtomicU64::new(self.next_refresh.load(Ordering::Relaxed)),
            contents: self.contents.clone(),
            confirmed_in: AtomicU32::new(0),
            longest_pause: AtomicU32::new(self.longest_pause.load(Ordering::Relaxed)),
            state: AtomicU8::new(LIVE),
        }
    }

    /// Returns the record of a session whose contents are only in the file.
    pub(super) fn without_contents(&self) -> Self {
        Self {
            rank: self.rank,
            last_used: AtomicU64::new(self.last_used().as_millis()),
            // A record without contents has no tokens, so a refresh is never due.
            next_refresh: AtomicU64::new(u64::MAX),
            contents: Zeroizing::default(),
            confirmed_in: AtomicU32::new(0),
            longest_pause: AtomicU32::new(self.longest_pause.load(Ordering::Relaxed)),
            state: AtomicU8::new(SUPERSEDED),
        }
    }

    pub(super) fn key(&self) -> &SessionKey {
        &self.rank.key
    }

    pub(super) fn rank(&self) -> &Rank {
        &self.rank
    }

    pub(super) fn user(&self) -> Option<UserHash> {
        self.rank.user
    }

    pub(super) fn ends_at(&self) -> Timestamp {
        self.rank.ends_at
    }

    /// Returns the version of the session, or zero if the contents cannot be decoded.
    pub(super) fn version(&self) -> u64 {
        record::version(&self.contents).unwrap_or_default()
    }

    /// Returns the generation of the cache in which the store has last confirmed this version.
    pub(super) fn confirmed_in(&self) -> u32 {
        self.confirmed_in.load(Ordering::Relaxed)
    }

    /// Notes that the store has confirmed this version in a generation of the cache.
    pub(super) fn confirm(&self, generation: u32) {
        self.confirmed_in.store(generation, Ordering::Relaxed);
    }

    pub(super) fn contents(&self) -> &[u8] {
        &self.contents
    }

    pub(super) fn state(&self) -> SessionState {
        // The threads that write the state use `Release`, and this load uses `Acquire`, so that a
        // thread that sees the new state also finds the new value in the cache.
        match self.state.load(Ordering::Acquire) {
            LIVE => SessionState::Live,
            SUPERSEDED => SessionState::Superseded,
            _ => SessionState::Ended,
        }
    }

    pub(super) fn supersede(&self) {
        // An ended session stays ended.
        self.state.fetch_max(SUPERSEDED, Ordering::Release);
    }

    pub(super) fn end(&self) {
        self.state.store(ENDED, Ordering::Release);
    }

    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.next_refresh.load(Ordering::Relaxed) <= now.as_millis()
    }

    pub(super) fn claim_refresh(&self, now: Timestamp, until: Timestamp) -> bool {
        // No other data depends on `next_refresh`, so the ordering `Relaxed` is sufficient.
        let due = self.next_refresh.load(Ordering::Relaxed);
        let order = Ordering::Relaxed;
        due <= now.as_millis()
            // Several requests can find that a refresh is due, but only one of these requests
            // changes `next_refresh`.
            && self
                .next_refresh
                .compare_exchange(due, until.as_millis(), order, order)
                .is_ok()
    }

    pub(super) fn postpone_refresh(&self, until: Timestamp) {
        let until = until.as_millis();
        self.next_refresh.store(until, Ordering::Relaxed);
    }

    pub(super) fn last_used(&self) -> Timestamp {
        Timestamp::from_millis(self.last_used.load(Ordering::Relaxed))
    }

    /// Notes a use. This function writes the time at most once per second, because an idle deadline
    /// needs no more precision. After each write, the other processor cores have to load the
    /// written cache line again. Frequent writes of the time would make requests slower. Returns
    /// the time of the previous use if this call has written a new time.
    pub(super) fn note_use(&self, now: Timestamp) -> Option<Timestamp> {
        let before = self.last_used();
        let pause = now.since(before);
        if pause < Duration::from_secs(1) {
            return None;
        }
        self.last_used.store(now.as_millis(), Ordering::Relaxed);
        self.note_pause(u32::try_from(pause.as_secs()).unwrap_or(u32::MAX));
        Some(before)
    }

    /// Returns the longest time between two uses since the login.
    pub(super) fn longest_pause(&self) -> Duration {
        Duration::from_secs(self.longest_pause.load(Ordering::Relaxed).into())
    }

    fn note_pause(&self, seconds: u32) {
        if seconds > self.longest_pause.load(Ordering::Relaxed) {
            self.longest_pause.fetch_max(seconds, Ordering::Relaxed);
        }
    }

    /// Copies the time of the last use and the longest pause from `other`, unless this record
    /// already has a later time or a longer pause. `other` is another record of the same session.
    pub(super) fn note_use_of(&self, other: &Self) {
        self.note_use_at(other.last_used());
        self.note_pause(other.longest_pause.load(Ordering::Relaxed));
    }

    /// Sets the time of the last use to `at`, unless the record already has a later time.
    pub(super) fn note_use_at(&self, at: Timestamp) {
        self.last_used.fetch_max(at.as_millis(), Ordering::Relaxed);
    }

    /// Returns the number of bytes that the session needs in the cache.
    pub(super) fn weight(&self) -> u32 {
        let weight = OVERHEAD.saturating_add(self.contents.len());
        u32::try_from(weight).unwrap_or(u32::MAX)
    }
}

const LIVE: u8 = 0;
const SUPERSEDED: u8 = 1;
const ENDED: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// A record must fit into a block of 112 bytes. A larger record would take a block of 128 bytes,
    /// and a store can contain a million records.
    #[test]
    fn a_record_without_its_contents_fits_into_112_bytes() {
        let counts = 2 * size_of::<usize>();
        assert!(size_of::<Stored>() + counts <= 112);
    }
}
