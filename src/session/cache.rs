//! The cache of one replica. A replica is a `Sessions` value, which caches the sessions of a store.
//! Requests look up sessions in the cache. The cache informs its listeners when a session ends.
//!
//! Requests read the cache without a lock. All threads that write to the cache take one lock, so
//! the writes happen one after another. A store writes its changes to the cache in the order of its
//! commits. The store answers the caller of a change only after the cache contains the change.
//!
//! An answer of [`super::store::Store::get`] may be older than a change that the cache already
//! contains. For example, the store reads a session just before the sign-out of the session, and
//! the store answers just after the sign-out. An outdated answer of the store must not put an ended
//! session into the cache again. [`SessionCache::begin_read`] creates a guard before each read. If
//! the session changes after the creation of the guard, the guard becomes invalid.
//! [`ReadGuard::finish`] puts the session into the cache only if the guard is still valid.

#![expect(
    clippy::disallowed_types,
    reason = "writers take the lock: the store and whoever reads from it; no find takes it"
)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::{Notify, mpsc};

use super::coherence::Coherence;
use super::ending::{EndReason, Listeners};
use super::stored::Stored;
use super::{SessionKey, SessionState};
use crate::clock::Timestamp;

/// A change that the store reports to the caches of all replicas.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// Another replica has replaced the session.
    Replaced(SessionKey),
    /// A replica has reported that the session was used at this time.
    Used(SessionKey, Timestamp),
    /// The session has ended.
    Ended(SessionKey, EndReason),
    /// Another replica has released the lease of the session.
    Released(SessionKey),
    /// The store could not report some changes, so every session in the cache may be out of date. A
    /// request may use such a session only after the store has confirmed the session.
    Lost,
}

/// A message from a cache to its store.
#[derive(Debug)]
pub(super) enum Notice {
    /// The cache now contains a session that was read from the store.
    Entered(Arc<Stored>),
    /// The cache has evicted a session.
    Evicted(Arc<Stored>),
}

/// States whether a session ends when the cache evicts the session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Eviction {
    /// The session ends, because only the cache contained the session.
    Ends,
    /// The session continues, because the store can read the session from the file.
    Keeps,
}

/// The cache of one replica.
#[derive(Debug)]
pub(super) struct SessionCache {
    sessions: Cache<SessionKey, Arc<Stored>>,
    eviction: Eviction,
    /// The reads from the store that are in progress. While a thread writes to the cache, the
    /// thread holds the lock of `reads`.
    reads: Mutex<HashMap<SessionKey, Reads>>,
    notices: mpsc::UnboundedSender<Notice>,
    listeners: Listeners,
    evicted: Arc<AtomicU64>,
    /// States which sessions of the cache are known to be up to date.
    coherence: Arc<Coherence>,
}

/// The unfinished reads of one session. Each read gets the session from the store.
#[derive(Debug, Default)]
struct Reads {
    count: usize,
    /// The number of changes of the session since the oldest unfinished read began.
    epoch: u64,
    /// Wakes the tasks that wait for the next change of the session.
    waiting: Option<Arc<Notify>>,
}

impl Reads {
    fn note_change(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        if let Some(waiting) = &self.waiting {
            waiting.notify_waiters();
        }
    }
}

impl SessionCache {
    /// Creates an empty cache of at most `capacity` bytes.
    pub(super) fn new(
        capacity: u64,
        eviction: Eviction,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Self {
        let evicted = Arc::new(AtomicU64::new(0));
        let (counter, notify) = (Arc::clone(&evicted), notices.clone());
        let sessions = Cache::builder()
            .eviction_policy(EvictionPolicy::lru())
            .max_capacity(capacity)
            .weigher(|_, session: &Arc<Stored>| session.weight())
            // The eviction listener runs on a thread that may already hold the lock of `reads`, so
            // the listener must not take this lock.
            .eviction_listener(move |_key, session: Arc<Stored>, cause| {
                // The eviction listener handles only evictions that happen because the cache is
                // full. Functions that remove or replace a session set the `SessionState` of the
                // old value themselves.
                if cause != RemovalCause::Size {
                    return;
                }
                match eviction {
                    Eviction::Ends => session.end(),
                    Eviction::Keeps => session.supersede(),
                }
                counter.fetch_add(1, Ordering::Relaxed);
                // `send` fails only if the thread of the store has ended.
                notify.send(Notice::Evicted(session)).unwrap_or_default();
            })
            .build();
        Self {
            sessions,
            eviction,
            reads: Mutex::default(),
            notices,
            listeners: Listeners::default(),
            evicted,
            coherence: Arc::default(),
        }
    }

    /// Creates an empty cache for another replica of the same store.
    #[cfg(test)]
    pub(super) fn sibling(&self, capacity: u64) -> Self {
        Self::new(capacity, self.eviction, self.notices.clone())
    }

    /// Returns the `moka` cache, in which requests look for sessions.
    pub(super) fn sessions(&self) -> &Cache<SessionKey, Arc<Stored>> {
        &self.sessions
    }

    /// Returns the state that tells which sessions of the cache are known to be up to date.
    pub(super) fn coherence(&self) -> &Arc<Coherence> {
        &self.coherence
    }

    /// Returns the listeners that this cache informs when a session ends.
    pub(super) fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// Returns the number of sessions that the cache has evicted because the cache was full.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Returns the cached value of a session.
    pub(super) fn get(&self, key: &SessionKey) -> Option<Arc<Stored>> {
        self.sessions.get(key)
    }

    /// Returns the cached value of a session if the value is current.
    pub(super) fn live(&self, key: &SessionKey) -> Option<Arc<Stored>> {
        let cached = self.sessions.get(key)?;
        (cached.state() == SessionState::Live).then_some(cached)
    }

    /// Returns true if the cache contains exactly this `Arc`. Returns false if the cache contains
    /// an equal value in another `Arc`.
    pub(super) fn holds(&self, session: &Arc<Stored>) -> bool {
        let cached = self.sessions.get(session.key());
        cached.is_some_and(|cached| Arc::ptr_eq(&cached, session))
    }

    /// Puts a session into the cache after this replica has created or replaced the session.
    pub(super) fn put(&self, session: &Arc<Stored>) {
        let mut reads = self.reads();
        note_change(&mut reads, session.key());
        let before = self.sessions.get(session.key());
        session.confirm(self.coherence.generation());
        self.sessions.insert(*session.key(), Arc::clone(session));
        // The new value of the session is put into the cache before the old value is marked as
        // superseded, so that a request always finds a current value in the cache.
        if let Some(before) = before {
            session.note_use_of(&before);
            before.supersede();
        }
    }

    /// Applies a change that the store has reported.
    pub(super) fn apply(&self, event: Event) {
        let mut reads = self.reads();
        match event {
            Event::Replaced(key) => {
                note_change(&mut reads, &key);
                if let Some(before) = self.sessions.remove(&key) {
                    before.supersede();
                }
            }
            Event::Used(key, at) => {
                if let Some(session) = self.sessions.get(&key) {
                    session.note_use_at(at);
                }
            }
            Event::Ended(key, why) => {
                note_change(&mut reads, &key);
                if let Some(session) = self.sessions.remove(&key) {
                    session.end();
                }
                // This code releases the lock of `reads` first, because the method `tell` takes the
                // lock of the listeners. No thread holds the lock of `reads` and the lock of the
                // listeners at the same time.
                drop(reads);
                self.listeners.tell((key, why));
            }
            Event::Released(key) => note_change(&mut reads, &key),
            Event::Lost => {
                self.coherence.begin_generation();
                for of_key in reads.values_mut() {
                    of_key.note_change();
                }
            }
        }
    }

    /// Creates the guard that detects changes of a session during a read. The caller must call this
    /// function before the caller reads the session from the store.
    pub(super) fn begin_read(&self, key: SessionKey) -> ReadGuard<'_> {
        let mut reads = self.reads();
        let of_key = reads.entry(key).or_default();
        of_key.count = of_key.count.saturating_add(1);
        ReadGuard {
            cache: self,
            key,
            epoch: of_key.epoch,
            generation: self.coherence.generation(),
        }
    }

    /// Lets the cache do its pending work, such as evictions. When this function returns, the cache
    /// has informed the store of all earlier evictions.
    pub(super) fn run_pending_tasks(&self) {
        self.sessions.run_pending_tasks();
    }

    fn notify(&self, notice: Notice) {
        // `send` fails only if the thread of the store has ended.
        self.notices.send(notice).unwrap_or_default();
    }

    fn reads(&self) -> MutexGuard<'_, HashMap<SessionKey, Reads>> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Invalidates the [`ReadGuard`] of each running read of the session.
fn note_change(reads: &mut HashMap<SessionKey, Reads>, key: &SessionKey) {
    if let Some(of_key) = reads.get_mut(key) {
        of_key.note_change();
    }
}

/// A running read of a session from the store.
#[derive(Debug)]
pub(super) struct ReadGuard<'a> {
    cache: &'a SessionCache,
    key: SessionKey,
    epoch: u64,
    /// The generation of the cache at the beginning of the read.
    generation: u32,
}

/// The result of reading a session from the store.
#[derive(Debug)]
#[must_use]
pub(super) enum Read {
    /// The value of the session that is in the cache now, or `None` if the session does not exist.
    Current(Option<Arc<Stored>>),
    /// The cache contains a newer version than the store, which has the second version: the store has lost
    /// a change.
    StoreIsBehind(Arc<Stored>, u64),
    /// The session changed during the read, so the caller must read the store again.
    Outdated,
}

impl ReadGuard<'_> {
    /// Puts a session into the cache after this replica has created or replaced the session in a
    /// store behind a network. `self` is a guard from the time before the change. If the session has
    /// changed since then, the cache may already know of a later change. The cache then contains no
    /// value of the session, so the next request reads the session from the store.
    pub(super) fn put(self, session: &Arc<Stored>) {
        let cache = self.cache;
        let mut reads = cache.reads();
        let is_unchanged = reads.get(&self.key).map(|of_key| of_key.epoch) == Some(self.epoch);
        note_change(&mut reads, &self.key);
        if is_unchanged {
            let before = cache.sessions.get(&self.key);
            session.confirm(self.generation);
            cache.sessions.insert(self.key, Arc::clone(session));
            if let Some(before) = before {
                session.note_use_of(&before);
                before.supersede();
            }
        } else {
            session.supersede();
            if let Some(before) = cache.sessions.remove(&self.key) {
                before.supersede();
            }
        }
    }

    /// Waits until the session is replaced or ended.
    pub(super) async fn changed(&self) {
        loop {
            let change = {
                let mut reads = self.cache.reads();
                let Some(of_key) = reads.get_mut(&self.key) else {
                    return;
                };
                if of_key.epoch != self.epoch {
                    return;
                }
                // This task holds the lock of `reads` until the call of `notified_owned` has
                // returned. A task that changes the session must also hold the lock of `reads`, so
                // the waiting task misses no change.
                Arc::clone(of_key.waiting.get_or_insert_default()).notified_owned()
            };
            change.await;
        }
    }

    /// Puts `session`, the answer of the store, into the cache, unless the session has changed
    /// since the read began.
    pub(super) fn finish(self, session: Option<Arc<Stored>>) -> Read {
        let cache = self.cache;
        let reads = cache.reads();
        if reads.get(&self.key).map(|of_key| of_key.epoch) != Some(self.epoch) {
            drop(reads);
            return Read::Outdated;
        }
        let current = match (cache.live(&self.key), session, cache.eviction) {
            (Some(cached), Some(session), Eviction::Keeps)
                if cached.version() > session.version() =>
            {
                return Read::StoreIsBehind(cached, session.version());
            }
            // The cache already contains this version of the session.
            (Some(cached), Some(session), _) if is_same(&cached, &session) => {
                cached.note_use_of(&session);
                cached.confirm(self.generation);
                Some(cached)
            }
            // This replica did not learn that another replica has replaced the session. Or two replicas have
            // stored different tokens in the same version, because a server of the store had a successor.
            (Some(before), Some(session), _) => {
                session.confirm(self.generation);
                cache.sessions.insert(self.key, Arc::clone(&session));
                session.note_use_of(&before);
                before.supersede();
                Some(session)
            }
            (None, Some(session), Eviction::Keeps) => {
                session.confirm(self.generation);
                cache.sessions.insert(self.key, Arc::clone(&session));
                cache.notify(Notice::Entered(Arc::clone(&session)));
                Some(session)
            }
            // The cache has just evicted the session, and the eviction ended the session.
            (None, Some(_), Eviction::Ends) | (None, None, _) => None,
            // This replica did not learn that the session has ended.
            (Some(cached), None, _) => {
                cache.sessions.remove(&self.key);
                cached.end();
                drop(reads);
                cache.listeners.tell((self.key, EndReason::Elsewhere));
                return Read::Current(None);
            }
        };
        drop(reads);
        Read::Current(current)
    }
}

/// Returns true if two values are the same version of a session, with the same contents.
fn is_same(cached: &Stored, session: &Stored) -> bool {
    cached.version() == session.version() && cached.contents() == session.contents()
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        let mut reads = self.cache.reads();
        if let Some(of_key) = reads.get_mut(&self.key) {
            of_key.count = of_key.count.saturating_sub(1);
            if of_key.count == 0 {
                reads.remove(&self.key);
            }
        }
    }
}
