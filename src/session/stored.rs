//! What is kept of a session in memory: as small as it can be, since there may be a million.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use zeroize::Zeroizing;

use super::index::{Person, Rank};
use super::record::{self, Contents};
use super::{EndReason, SessionKey};
use crate::clock::Timestamp;

/// What one session costs beside its contents, as `benches/memory.rs` measures it at a million of
/// them: this structure, the cache's entry, the index, and the allocator's share of each.
pub const OVERHEAD: usize = 492;

/// One version of a session: fields that change or order it, and everything else as bytes.
#[derive(Debug)]
pub(super) struct Stored {
    rank: Rank,
    last_used: AtomicU64,
    next_refresh: AtomicU64,
    /// [`Contents`], encoded; empty while they are in the file alone.
    contents: Zeroizing<Box<[u8]>>,
    state: AtomicU8,
}

/// Whether a value that somebody holds is still the session's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SessionState {
    /// It is.
    Live,
    /// Another value stands for the session, or it is on disk only: it has to be looked up again.
    Superseded,
    /// The session is over.
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
            state: AtomicU8::new(LIVE),
        }
    }

    /// The same version for the cache of another front.
    pub(super) fn copy(&self) -> Self {
        Self {
            rank: self.rank,
            last_used: AtomicU64::new(self.last_used().as_millis()),
            next_refresh: AtomicU64::new(self.next_refresh.load(Ordering::Relaxed)),
            contents: self.contents.clone(),
            state: AtomicU8::new(LIVE),
        }
    }

    /// What is kept of a session whose contents are in the file alone.
    pub(super) fn without_contents(&self) -> Self {
        Self {
            rank: self.rank,
            last_used: AtomicU64::new(self.last_used().as_millis()),
            next_refresh: AtomicU64::new(u64::MAX),
            contents: Zeroizing::default(),
            state: AtomicU8::new(SUPERSEDED),
        }
    }

    pub(super) fn key(&self) -> &SessionKey {
        &self.rank.key
    }

    pub(super) fn rank(&self) -> &Rank {
        &self.rank
    }

    pub(super) fn person(&self) -> Option<Person> {
        self.rank.person
    }

    pub(super) fn ends_at(&self) -> Timestamp {
        self.rank.ends_at
    }

    pub(super) fn contents(&self) -> &[u8] {
        &self.contents
    }

    pub(super) fn state(&self) -> SessionState {
        match self.state.load(Ordering::Acquire) {
            LIVE => SessionState::Live,
            SUPERSEDED => SessionState::Superseded,
            _ => SessionState::Ended,
        }
    }

    pub(super) fn supersede(&self) {
        // What has ended stays so.
        self.state.fetch_max(SUPERSEDED, Ordering::Release);
    }

    pub(super) fn end(&self) {
        self.state.store(ENDED, Ordering::Release);
    }

    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.next_refresh.load(Ordering::Relaxed) <= now.as_millis()
    }

    pub(super) fn claim_refresh(&self, now: Timestamp, until: Timestamp) -> bool {
        let due = self.next_refresh.load(Ordering::Relaxed);
        let order = Ordering::Relaxed;
        due <= now.as_millis()
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

    /// Notes a use. A write a second is enough for an idle deadline, and keeps the line shared
    /// between cores. Gives back the use before, when this one was written.
    pub(super) fn note_use(&self, now: Timestamp) -> Option<Timestamp> {
        let before = self.last_used();
        if now.since(before) < Duration::from_secs(1) {
            return None;
        }
        self.last_used.store(now.as_millis(), Ordering::Relaxed);
        Some(before)
    }

    /// Takes over the last use of another value of the same session, if that was later.
    pub(super) fn note_use_of(&self, other: &Self) {
        self.note_use_at(other.last_used());
    }

    /// Notes a use that another front knows of, if it was later.
    pub(super) fn note_use_at(&self, at: Timestamp) {
        self.last_used.fetch_max(at.as_millis(), Ordering::Relaxed);
    }

    /// Why it is over, if it has passed a deadline.
    pub(super) fn over(&self, idle: Duration, now: Timestamp) -> Option<EndReason> {
        if self.ends_at() <= now {
            Some(EndReason::Absolute)
        } else if self.deadline(idle) <= now {
            Some(EndReason::Idle)
        } else {
            None
        }
    }

    pub(super) fn deadline(&self, idle: Duration) -> Timestamp {
        self.last_used().plus(idle).min(self.ends_at())
    }

    /// For the cache's bound.
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

    /// There may be a million of them, and the allocator's next larger block is 112 bytes.
    #[test]
    fn what_is_kept_of_a_session_beside_its_contents_fits_into_96_bytes() {
        let counts = 2 * size_of::<usize>();
        assert!(size_of::<Stored>() + counts <= 96);
    }
}
