//! The thread of a local store, which makes all changes to sessions.
//!
//! Other threads send commands to this thread to create, replace, end or read a session. The
//! commands take effect in the order in which they arrive. A sign-out that arrives between two
//! refreshes takes effect, and no later command makes the ended session valid again. The thread
//! gathers the waiting commands and commits their changes together. The thread answers a command
//! only after the thread has applied the change to the caches of all replicas. A batch contains at
//! most one change of each session, so the thread computes every change from data that is already
//! committed.
//!
//! A replica is a `Sessions` value, which caches the sessions of a store. The index and the cache
//! of one replica refer to the same value of a session, so the session is in memory only one time.
//! The cache of another replica contains its own copy of the session. If a session is in no cache
//! (`Index::file_only`), the index contains only the time of the last use and the time at which the
//! session ends. The rest of the session record is only in the file.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::backend::{Backend, Change};
use super::cache::{Event, Eviction, Notice, SessionCache};
use super::command::{Batch, Command, ReplicaId, send};
use super::ending::EndReason;
use super::file::FileError;
use super::groups::{EndedGroups, ProviderSessionHash};
use super::index::{Index, WalkEnd};
use super::limits::Limits;
use super::registration::Registrations;
use super::store::StoreError;
use super::stored::Stored;
use super::{Maintained, SessionKey, SessionState};
use crate::clock::Timestamp;
use crate::telemetry::chain;

/// The maximum number of sessions that one sweep removes. During a sweep, a worker that uses the
/// cache may have to wait. `MAX_REMOVED` is small, so that a worker waits at most a few
/// milliseconds for a sweep.
const MAX_REMOVED: usize = 100;

/// The maximum number of commands in the queue. If the queue is full, callers wait for space in the
/// queue.
const QUEUE: usize = 1024;

/// A handle with which other threads send commands to the thread of the store.
#[derive(Debug)]
pub(super) struct KeeperHandle {
    pub(super) commands: mpsc::Sender<Command>,
    /// The cache of the first replica.
    pub(super) cache: Arc<SessionCache>,
    pub(super) count: Arc<AtomicU64>,
}

/// The settings with which the thread of the store starts.
#[derive(Debug)]
pub(super) struct KeeperSettings {
    pub(super) limits: Arc<Limits>,
    /// The maximum number of bytes in the cache.
    pub(super) capacity: u64,
    pub(super) registrations: Registrations,
}

/// The data that the thread of the store owns.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) limits: Arc<Limits>,
    pub(super) registrations: Registrations,
    pub(super) backend: Backend,
    pub(super) index: Index,
    /// The caches of all replicas. Only tests have more than one replica.
    pub(super) replicas: Vec<Arc<SessionCache>>,
    pub(super) commands: mpsc::Receiver<Command>,
    notices: mpsc::UnboundedReceiver<Notice>,
    count: Arc<AtomicU64>,
    /// For each session, the time of the last use, if this time is not committed yet.
    pub(super) used: HashMap<SessionKey, Timestamp>,
    /// The groups of sessions that have ended, and the notices that asked for these ends.
    pub(super) ended: EndedGroups,
}

impl Keeper {
    /// Creates a `Keeper` without sessions, and the first replica of the store.
    pub(super) fn new(backend: Backend, settings: KeeperSettings) -> (Self, KeeperHandle) {
        let (commands, commanded) = mpsc::channel(QUEUE);
        let (to_keeper, notices) = mpsc::unbounded_channel();
        let eviction = match backend {
            Backend::Memory => Eviction::Ends,
            Backend::Disk(_) => Eviction::Keeps,
        };
        let cache = SessionCache::new(settings.capacity, eviction, to_keeper);
        let (cache, count) = (Arc::new(cache), Arc::new(AtomicU64::new(0)));
        let keeper = Self {
            limits: settings.limits,
            registrations: settings.registrations,
            backend,
            index: Index::default(),
            replicas: vec![Arc::clone(&cache)],
            commands: commanded,
            notices,
            count: Arc::clone(&count),
            used: HashMap::new(),
            ended: EndedGroups::default(),
        };
        let handle = KeeperHandle {
            commands,
            cache,
            count,
        };
        (keeper, handle)
    }

    /// Reads all sessions of the file into the cache, one at a time, so that the memory never
    /// contains more sessions than the cache can contain.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub(super) fn restore(&mut self, now: Timestamp) -> Result<(), FileError> {
        let mut backend = mem::replace(&mut self.backend, Backend::Memory);
        let limits = Arc::clone(&self.limits);
        let restored = match &mut backend {
            Backend::Memory => Ok(()),
            Backend::Disk(disk) => disk.restore(&limits, now, |key, loaded| {
                let provider_session = ProviderSessionHash::of_contents(&loaded.contents);
                let stored = loaded.into_stored(key);
                self.remember((&stored, provider_session), FIRST_REPLICA);
                // While the keeper reads the file, the cache reports the sessions that the cache
                // evicts and the times at which sessions were last used. The reports of the cache
                // are discarded, so that they do not fill the memory. The file already contains the
                // time of the last use of each session.
                self.take_notices();
                self.used.clear();
            }),
        };
        self.backend = backend;
        self.count();
        restored
    }

    /// Executes commands until the store is closed or all senders are dropped.
    pub(super) fn run(mut self) {
        let mut waiting = None;
        while let Some(first) = waiting.take().or_else(|| self.commands.blocking_recv()) {
            self.take_notices();
            match first {
                Command::List { group, answer } => {
                    let keys = self.keys_of(&group);
                    send(answer, Ok(keys));
                }
                Command::Touch { uses, answer } => {
                    self.note_uses(uses);
                    send(answer, Ok(()));
                }
                Command::Sweep { now, answer } => {
                    let swept = self.sweep(now);
                    send(answer, swept);
                }
                Command::Reconfigure { new, now, answer } => {
                    let reconfigured = self.reconfigure(*new, now);
                    // If the caller no longer waits, nobody receives the answer.
                    drop(answer.send(reconfigured));
                }
                Command::Close { answer } => {
                    let closed = self.write_last_uses(Vec::new());
                    // The keeper closes the file before it answers the caller, so that another
                    // process can then open the file.
                    drop(self);
                    send(answer, closed);
                    return;
                }
                #[cfg(test)]
                Command::Attach { cache, answer } => {
                    let replica = ReplicaId(self.replicas.len());
                    self.replicas.push(cache);
                    answer.send(replica).unwrap();
                }
                Command::Open { .. }
                | Command::Replace { .. }
                | Command::End { .. }
                | Command::EndAll { .. }
                | Command::Get { .. } => {
                    let mut batch = Batch::default();
                    waiting = self.gather(first, &mut batch);
                    self.settle(batch);
                }
            }
        }
        // No caller waits for the result of the last commit, and a failure is already logged.
        drop(self.write_last_uses(Vec::new()));
    }

    /// Commits changes.
    pub(super) fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        log_failure(self.backend.commit(changes))
    }

    pub(super) fn count(&self) {
        let sessions = u64::try_from(self.index.len()).unwrap_or(u64::MAX);
        self.count.store(sessions, Ordering::Relaxed);
    }

    /// Adds a session that `replica` has created, with the session at the provider to which the
    /// session belongs.
    pub(super) fn remember(
        &mut self,
        (session, provider_session): (&Arc<Stored>, Option<ProviderSessionHash>),
        replica: ReplicaId,
    ) {
        self.index.insert(Arc::clone(session), provider_session);
        if let Some(cache) = self.replicas.get(replica.0) {
            cache.put(session);
        }
    }

    /// Replaces a session by the new version from `replica`.
    pub(super) fn replace(&mut self, next: &Arc<Stored>, replica: ReplicaId) {
        if let Some(away) = self.index.file_only(next.key()) {
            next.note_use_of(away);
        }
        self.index.replace(next);
        for (number, cache) in self.replicas.iter().enumerate() {
            if number == replica.0 {
                cache.put(next);
                continue;
            }
            // The cache of another replica may contain a later time at which the session was last
            // used.
            if let Some(before) = cache.get(next.key()) {
                next.note_use_of(&before);
            }
            cache.apply(Event::Replaced(*next.key()));
        }
    }

    /// Removes an ended session from the index and the caches, and marks the session as ended.
    pub(super) fn forget(&mut self, key: &SessionKey, why: EndReason) {
        let cached = self.replicas.iter().find_map(|cache| cache.get(key));
        let mut known = self.index.remove(key, cached);
        if known.is_none() {
            // A cache may have evicted the session just now. Until this thread has processed the
            // notice of the eviction, the index lists the session as cached.
            self.process_evictions();
            known = self.index.remove(key, None);
        }
        self.used.remove(key);
        self.count();
        if let Some(session) = known {
            session.end();
            self.tell(Event::Ended(*key, why));
        }
    }

    fn tell(&self, event: Event) {
        for cache in &self.replicas {
            cache.apply(event);
        }
    }

    /// Processes the notices about all sessions that the caches have evicted. A cache reports an
    /// eviction only when its housekeeping runs, which can be a moment after the eviction. This
    /// function first runs the housekeeping of all caches, and then processes the notices about
    /// evictions.
    pub(super) fn process_evictions(&mut self) {
        self.run_pending_tasks();
        self.take_notices();
    }

    pub(super) fn run_pending_tasks(&self) {
        for cache in &self.replicas {
            cache.run_pending_tasks();
        }
    }

    pub(super) fn knows(&mut self, key: &SessionKey) -> bool {
        if self.replicas.iter().any(|cache| cache.get(key).is_some()) {
            return true;
        }
        self.process_evictions();
        self.index.file_only(key).is_some()
    }

    /// Returns the current value of a session if a cache contains the value.
    pub(super) fn live(&self, key: &SessionKey) -> Option<Arc<Stored>> {
        self.replicas.iter().find_map(|cache| cache.live(key))
    }

    pub(super) fn take_notices(&mut self) {
        while let Ok(notice) = self.notices.try_recv() {
            match notice {
                Notice::Entered(session) => self.note_entered(&session),
                Notice::Evicted(session) => self.note_evicted(session),
            }
        }
    }

    /// Notes that a cache now contains a session that was read from the file.
    fn note_entered(&mut self, session: &Arc<Stored>) {
        // The cache may have evicted or replaced the session after the cache sent this notice.
        let is_held = self.replicas.iter().any(|cache| cache.holds(session));
        if is_held && let Some(away) = self.index.file_only(session.key()) {
            session.note_use_of(away);
            self.index.replace(session);
        }
    }

    fn note_evicted(&mut self, session: Arc<Stored>) {
        let key = *session.key();
        if !self.index.has(&session) {
            // The session has ended, or the index contains another value of the session.
            if let Some(other) = self.live(&key) {
                other.note_use_of(&session);
            }
            if let Some(away) = self.index.file_only(&key) {
                away.note_use_of(&session);
                self.note_use(key, session.last_used());
            }
            return;
        }
        // If the store has no file, the listener of the cache has already marked the evicted
        // session as ended.
        if session.state() == SessionState::Ended {
            self.index.remove(&key, Some(session));
            self.used.remove(&key);
            self.count();
            self.tell(Event::Ended(key, EndReason::Evicted));
        } else if let Some(other) = self.live(&key) {
            other.note_use_of(&session);
            self.index.replace(&other);
        } else {
            self.index.set_file_only(&session);
            self.note_use(key, session.last_used());
        }
    }

    /// Records the times at which sessions were last used, as a replica has reported. This function
    /// ignores sessions that have ended.
    pub(super) fn note_uses(&mut self, uses: Vec<(SessionKey, Timestamp)>) {
        for (key, at) in uses {
            if self.knows(&key) {
                if let Some(away) = self.index.file_only(&key) {
                    away.note_use_at(at);
                }
                // The last use is reported to every replica, because another replica could
                // otherwise treat the session as idle.
                self.tell(Event::Used(key, at));
                self.note_use(key, at);
            }
        }
    }

    fn note_use(&mut self, key: SessionKey, at: Timestamp) {
        let used = self.used.entry(key).or_insert(at);
        *used = at.max(*used);
    }

    /// Returns the reason for the end of a session, if the session has passed a deadline. This
    /// function also checks the caches, because another replica may have used the session later.
    pub(super) fn expired(
        (limits, replicas): (&Limits, &[Arc<SessionCache>]),
        session: &Stored,
        now: Timestamp,
    ) -> Option<EndReason> {
        let why = limits.expired(session, now)?;
        let key = session.key();
        let mut copies = replicas.iter().filter_map(|cache| cache.get(key));
        let is_in_use = copies.any(|copy| limits.expired(&copy, now).is_none());
        (!is_in_use).then_some(why)
    }

    /// Removes a limited number of sessions that have passed a deadline. Stores the times at which
    /// sessions were last used, and runs the housekeeping of the caches.
    pub(super) fn sweep(&mut self, now: Timestamp) -> Result<Maintained, StoreError> {
        let limits = (&*self.limits, &*self.replicas);
        let find = |session: &Stored| Self::expired(limits, session, now);
        let (expired, end) = self.index.walk(MAX_REMOVED, find);
        let removals = expired.iter().map(|(key, _)| Change::Remove(*key));
        let removals = removals.collect();
        let written = self.write_last_uses(removals);
        if written.is_ok() {
            for (key, why) in &expired {
                self.forget(key, *why);
            }
        } else {
            // The next sweep must find the expired sessions again, because the expired sessions
            // still exist.
            self.index.restart_walk();
        }
        self.process_evictions();
        written.map(|()| match end {
            WalkEnd::EnoughFound => Maintained::More,
            WalkEnd::PartDone => Maintained::Done,
        })
    }

    /// Makes one commit that first stores the times of the last uses and then removes the sessions
    /// in `removals`.
    fn write_last_uses(&mut self, removals: Vec<Change>) -> Result<(), StoreError> {
        let used = self.used.iter();
        let used = used.map(|(key, at)| Change::Used(*key, *at));
        // The removal of a session also deletes the stored time of the last use of the session. If
        // a commit removed the session first and then stored the time, the file would contain the
        // last use of a session that no longer exists.
        let changes: Vec<_> = used.chain(removals).collect();
        self.commit(&changes)?;
        self.used.clear();
        Ok(())
    }
}

/// The id of the first replica of a local store.
pub(super) const FIRST_REPLICA: ReplicaId = ReplicaId(0);

/// Logs a commit that failed.
pub(super) fn log_failure(committed: Result<(), StoreError>) -> Result<(), StoreError> {
    if let Err(error) = &committed {
        let reason = error.reason();
        tracing::error!(reason, error = chain(error), "Sessions are not stored");
    }
    committed
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
