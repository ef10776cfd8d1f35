//! The look-up of a session in the cache. A look-up takes no lock and reads no file.

use std::sync::Arc;

use super::limits::SessionLimits;
use super::stored::{SessionState, Stored};
use super::{Deadlines, Lookup, Session, SessionRef, Sessions, StoreTag};
use crate::clock::Timestamp;

impl Sessions {
    /// Finds a session, and records that the session was used.
    pub fn find(&self, session: impl Into<SessionRef>, now: Timestamp) -> Lookup {
        self.look_up(session.into(), now, |session| {
            self.note_use(session.stored(), session.limits(), now)
        })
    }

    /// Finds a session. This look-up does not count as a use of the session.
    pub(crate) fn observe(&self, session: SessionRef, now: Timestamp) -> Lookup {
        self.look_up(session, now, |session| {
            session.limits().deadline(session.last_used()) > now
        })
    }

    /// Returns the result of a look-up of a session that the caller has just fetched, and records
    /// that the session was used.
    pub(crate) fn find_fetched(&self, session: Arc<Session>, now: Timestamp) -> Lookup {
        let is_live = self.note_use(session.stored(), session.limits(), now);
        fetched(session, is_live)
    }

    /// Returns the result of a look-up of a session that the caller has just fetched. This look-up
    /// does not count as a use of the session.
    pub(crate) fn observe_fetched(session: Arc<Session>, now: Timestamp) -> Lookup {
        let is_live = session.limits().deadline(session.last_used()) > now;
        fetched(session, is_live)
    }

    /// Finds a session. `is_live` returns false if the session has passed a deadline.
    #[inline]
    fn look_up(
        &self,
        SessionRef { store_tag, key }: SessionRef,
        now: Timestamp,
        is_live: impl FnOnce(&Session) -> bool,
    ) -> Lookup {
        let Some(mut stored) = self.cache.get(&key) else {
            return self.absent(store_tag);
        };
        if stored.state() == SessionState::Superseded {
            // The session was replaced or evicted just after the first read of the cache, so the
            // cache is read again.
            let Some(again) = self.cache.get(&key) else {
                return self.absent(store_tag);
            };
            stored = again;
        }
        if stored.state() == SessionState::Ended {
            return Lookup::Unknown;
        }
        if !self.coherence.covers(&stored, now) {
            return Lookup::Away;
        }
        let Some(session) = self.session_of(stored) else {
            return Lookup::Unknown;
        };
        if is_live(&session) {
            Lookup::Live(Arc::new(session))
        } else {
            Lookup::Expired
        }
    }

    /// Returns the times at which a session ends.
    pub(crate) fn deadlines(&self, session: &Session) -> Deadlines {
        let limits = self.limits.of(session);
        Deadlines {
            idle: limits.deadline(session.last_used()),
            latest: limits.ends_at(),
        }
    }

    /// Records a use of a session. Returns false if the session has passed a deadline.
    #[inline]
    fn note_use(&self, stored: &Arc<Stored>, limits: &SessionLimits, now: Timestamp) -> bool {
        if limits.deadline(stored.last_used()) <= now {
            return false;
        }
        if let Some(before) = stored.note_use(now) {
            // The cache evicts the session that was not read for the longest time. A use without a
            // look-up must count as a read, so the session is read here, at most once per second.
            drop(self.cache.get(stored.key()));
            self.tell_of_use(stored, before, now);
        }
        true
    }

    /// Records another use of a session. `found_at` is the time at which the caller looked up the
    /// session. Returns false if `session` is not current, if the session has passed a deadline, if a
    /// reload has changed the limits, or if too much time has passed since `found_at`. If this
    /// function returns false, the caller must look up the session again.
    pub(crate) fn still(&self, session: &Session, found_at: Timestamp, now: Timestamp) -> bool {
        let is_recent = found_at <= now && now.since(found_at) < self.limits.without_look_up();
        let limits = session.limits();
        is_recent
            && session.state() == SessionState::Live
            && self.coherence.covers(session.stored(), now)
            && self.limits.are_current(limits)
            && self.note_use(session.stored(), limits, now)
    }

    /// Records that a session was used. The value `session` may be an old version of the session,
    /// and the cache may have evicted the session.
    pub(crate) fn mark_used(&self, session: &Session, now: Timestamp) {
        let newest = match session.state() {
            SessionState::Live => None,
            SessionState::Superseded => self.cache.get(session.key()),
            SessionState::Ended => return,
        };
        // This code ignores whether the session has passed a deadline, because the next look-up
        // checks the deadlines.
        let limits = self.limits.of(session);
        let stored = newest.as_ref().unwrap_or_else(|| session.stored());
        let _is_live = self.note_use(stored, &limits, now);
    }

    /// Returns the result of a look-up of a session that the cache does not contain. `store_tag` is
    /// the tag of the store that created the session.
    fn absent(&self, store_tag: StoreTag) -> Lookup {
        // A shared store can contain sessions that were moved from another store.
        if store_tag != self.store_tag && !self.is_shared {
            return Lookup::OtherInstance;
        }
        if self.outlives_cache {
            Lookup::Away
        } else {
            Lookup::Unknown
        }
    }

    /// Records that a session was used. The next call of `tell_uses` reports the use to the store.
    /// The store needs only the first use in each time interval, so this function ignores later
    /// uses in the same interval.
    fn tell_of_use(&self, stored: &Arc<Stored>, before: Timestamp, now: Timestamp) {
        if !self.outlives_cache {
            return;
        }
        let report_interval = self.limits.report_interval();
        if before.as_millis().checked_div(report_interval)
            != now.as_millis().checked_div(report_interval)
        {
            self.uses.note(stored);
        }
    }
}

/// Returns the result of a look-up of a fetched session. The cache may already have evicted the
/// session.
fn fetched(session: Arc<Session>, is_live: bool) -> Lookup {
    if session.state() == SessionState::Ended {
        Lookup::Unknown
    } else if is_live {
        Lookup::Live(session)
    } else {
        Lookup::Expired
    }
}

#[cfg(test)]
#[path = "capacity_tests.rs"]
mod tests;
