//! The one thread that changes sessions.
//!
//! Opening, replacing, ending and fetching are commands to it, so their order is the order in
//! which they take effect: a sign-out that comes between two renewals wins, and nothing that has
//! ended comes back. It gathers the commands that wait, commits them together, brings the cache up
//! to date and only then answers. A session has at most one change in a batch, so every command is
//! planned on what is committed.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::mpsc;

use super::command::{Batch, Command, Notice, say};
use super::ending::{EndReason, Listeners};
use super::file::FileError;
use super::index::{Index, Walked};
use super::reconfigure::Lifetimes;
use super::registration::Registrations;
use super::store::{Change, Store, StoreError};
use super::stored::Stored;
use super::{Maintained, Session, SessionKey, SessionState};
use crate::clock::Timestamp;
use crate::telemetry::chain;

/// How many sessions one batch of maintenance removes at most: small enough that a worker's `get`
/// beside it waits for milliseconds at the worst.
const MOST_REMOVED: usize = 100;

/// How many commands may wait; whoever has one more waits to be let in.
const QUEUE: usize = 1024;

/// The ways to the keeper.
#[derive(Debug)]
pub(super) struct Ways {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) notices: mpsc::UnboundedSender<Notice>,
    pub(super) cache: Cache<SessionKey, Arc<Stored>>,
    pub(super) figures: Arc<Figures>,
    pub(super) listeners: Arc<Listeners>,
}

/// What is counted, for everybody to read.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) sessions: AtomicU64,
    pub(super) pushed_out: AtomicU64,
}

/// What the keeper goes by.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) lifetimes: Arc<Lifetimes>,
    pub(super) per_person: usize,
    /// Bytes that the cache may take.
    pub(super) capacity: u64,
    /// What each provider is.
    pub(super) registrations: Registrations,
}

/// Holds the store and the index; runs on a thread of its own.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) lifetimes: Arc<Lifetimes>,
    pub(super) per_person: usize,
    pub(super) registrations: Registrations,
    pub(super) store: Store,
    pub(super) index: Index,
    pub(super) cache: Cache<SessionKey, Arc<Stored>>,
    pub(super) commands: mpsc::Receiver<Command>,
    notices: mpsc::UnboundedReceiver<Notice>,
    figures: Arc<Figures>,
    /// Whoever is told of sessions that end.
    listeners: Arc<Listeners>,
    /// Those whose last uses are to be written.
    used: HashMap<SessionKey, Arc<Stored>>,
}

impl Keeper {
    /// A keeper with nothing in its cache yet.
    pub(super) fn new(store: Store, limits: Limits) -> (Self, Ways) {
        let (commands, commanded) = mpsc::channel(QUEUE);
        let (notices, told) = mpsc::unbounded_channel();
        let figures = Arc::new(Figures::default());
        let listeners = Arc::new(Listeners::default());
        let is_durable = matches!(store, Store::Disk(_));
        let (counter, notify) = (Arc::clone(&figures), notices.clone());
        let cache = Cache::builder()
            .eviction_policy(EvictionPolicy::lru())
            .max_capacity(limits.capacity)
            .weigher(|_, session: &Arc<Stored>| session.weight())
            .eviction_listener(move |_key, session: Arc<Stored>, cause| {
                // Whatever else leaves the cache was marked by the keeper itself.
                if cause != RemovalCause::Size {
                    return;
                }
                if is_durable {
                    session.supersede();
                } else {
                    session.end();
                }
                counter.pushed_out.fetch_add(1, Ordering::Relaxed);
                // A send fails only when the keeper is gone, and the index with it.
                notify.send(Notice::PushedOut(session)).unwrap_or_default();
            })
            .build();
        let keeper = Self {
            lifetimes: limits.lifetimes,
            per_person: limits.per_person,
            registrations: limits.registrations,
            store,
            index: Index::default(),
            cache: cache.clone(),
            commands: commanded,
            notices: told,
            figures: Arc::clone(&figures),
            listeners: Arc::clone(&listeners),
            used: HashMap::new(),
        };
        let ways = Ways {
            commands,
            notices,
            cache,
            figures,
            listeners,
        };
        (keeper, ways)
    }

    /// Takes over the sessions that the file holds, each as it is read: there is never more of them
    /// in memory than the cache has room for.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub(super) fn restore(&mut self, now: Timestamp) -> Result<(), FileError> {
        // Nobody asks for anything before this is over.
        let mut store = mem::replace(&mut self.store, Store::Memory);
        let providers = mem::take(&mut self.registrations);
        let idle = self.lifetimes.idle();
        let restored = match &mut store {
            Store::Memory => Ok(()),
            Store::Disk(disk) => disk.all((idle, now), &providers, |key, loaded| {
                self.remember(loaded.into_session(key).stored());
                // What the cache has no room for must not pile up here; when it was used last, the
                // file knows.
                self.take_notices();
                self.used.clear();
            }),
        };
        self.store = store;
        self.registrations = providers;
        self.count();
        restored
    }

    pub(super) fn remember(&mut self, session: &Arc<Stored>) {
        self.index.insert(Arc::clone(session));
        self.cache.insert(*session.key(), Arc::clone(session));
    }

    /// Does what is asked, until the store is closed or nobody is left to ask.
    pub(super) fn run(mut self) {
        let mut waiting = None;
        while let Some(first) = waiting.take().or_else(|| self.commands.blocking_recv()) {
            self.take_notices();
            match first {
                Command::Maintain { now, answer } => {
                    let maintained = self.maintain(now);
                    say(answer, maintained);
                }
                Command::Reconfigure { new, now, answer } => {
                    let reconfigured = self.reconfigure(*new, now);
                    // Nobody may be waiting any more.
                    drop(answer.send(reconfigured));
                }
                Command::Close { answer } => {
                    let closed = self.write_last_uses(Vec::new());
                    // The file is free for the next process when the answer comes.
                    drop(self);
                    say(answer, closed);
                    return;
                }
                Command::Open { .. }
                | Command::Replace { .. }
                | Command::End { .. }
                | Command::EndVersion { .. }
                | Command::Fetch { .. } => {
                    let mut batch = Batch::default();
                    waiting = self.gather(first, &mut batch);
                    self.settle(batch);
                }
            }
        }
        // Nobody is left to be told; a failure was logged.
        drop(self.write_last_uses(Vec::new()));
    }

    /// Commits changes.
    pub(super) fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        reported(self.store.commit(changes))
    }

    pub(super) fn count(&self) {
        let sessions = u64::try_from(self.index.len()).unwrap_or(u64::MAX);
        self.figures.sessions.store(sessions, Ordering::Relaxed);
    }

    /// Lets another value stand for its session.
    pub(super) fn stand(&mut self, new: &Arc<Stored>) {
        self.index.replace(new);
        if let Some(used) = self.used.get_mut(new.key()) {
            new.note_use_of(used);
            *used = Arc::clone(new);
        }
        // Whoever looks it up finds one or the other, never one that is superseded.
        self.cache.insert(*new.key(), Arc::clone(new));
    }

    /// Forgets a session that is over, and tells whoever listens. Readers that hold its value see that.
    pub(super) fn forget(&mut self, key: &SessionKey, why: EndReason) {
        let in_memory = self.cache.remove(key);
        let mut known = self.index.remove(key, in_memory);
        if let Some(session) = &known {
            session.end();
        } else {
            self.hear_of_evictions();
            // In the file; in memory it was forgotten when that was heard.
            known = self.index.remove(key, None);
        }
        self.used.remove(key);
        self.count();
        if known.is_some() {
            self.listeners.tell((*key, why));
        }
    }

    /// Hears of everything that has left the cache. What leaves it is out of it a moment before
    /// the keeper is told; when the cache's housekeeping is over, it was.
    pub(super) fn hear_of_evictions(&mut self) {
        self.cache.run_pending_tasks();
        self.take_notices();
    }

    pub(super) fn knows(&mut self, key: &SessionKey) -> bool {
        if self.cache.contains_key(key) {
            return true;
        }
        self.hear_of_evictions();
        self.index.away(key).is_some()
    }

    /// The session of a key, brought back from the store if the cache has pushed it out.
    pub(super) fn ready(&mut self, key: &SessionKey) -> Result<Option<Arc<Session>>, StoreError> {
        if let Some(held) = self.cache.get(key)
            && held.state() == SessionState::Live
        {
            let session = Session::of(held).ok_or(StoreError::Damaged)?;
            return Ok(Some(Arc::new(session)));
        }
        self.hear_of_evictions();
        let Some(away) = self.index.away(key).map(Arc::clone) else {
            return Ok(None);
        };
        let Some(loaded) = self.store.load(key)? else {
            return Ok(None);
        };
        // Its person stays who it was.
        let session = Session::new(*away.rank(), loaded.last_used, loaded.contents);
        session.stored().note_use_of(&away);
        self.stand(session.stored());
        Ok(Some(Arc::new(session)))
    }

    pub(super) fn take_notices(&mut self) {
        while let Ok(notice) = self.notices.try_recv() {
            match notice {
                Notice::Used(session) => {
                    let key = *session.key();
                    let standing = if self.index.has(&session) {
                        Some(session)
                    } else {
                        self.cache.get(&key)
                    };
                    self.used.extend(standing.map(|session| (key, session)));
                }
                Notice::PushedOut(session) if self.index.has(&session) => {
                    self.note_pushed_out(session);
                }
                // Another value stands for it, or it is over.
                Notice::PushedOut(_) => {}
            }
        }
    }

    fn note_pushed_out(&mut self, session: Arc<Stored>) {
        let key = *session.key();
        // The cache's listener knows whether it is in the file.
        match session.state() {
            SessionState::Ended => {
                self.index.remove(&key, Some(session));
                self.used.remove(&key);
                self.count();
                self.listeners.tell((key, EndReason::PushedOut));
            }
            SessionState::Live | SessionState::Superseded => {
                let away = self.index.set_away(&session);
                self.used.insert(key, away);
            }
        }
    }

    /// Removes sessions that have passed their deadline, at most a small batch, writes last uses,
    /// and lets the cache do its own housekeeping.
    pub(super) fn maintain(&mut self, now: Timestamp) -> Result<Maintained, StoreError> {
        let idle = self.lifetimes.idle();
        let over = |session: &Stored| session.over(idle, now);
        let (expired, walked) = self.index.walk(MOST_REMOVED, over);
        let removals = expired.iter().map(|(key, _)| Change::Remove(*key));
        let removals = removals.collect();
        let written = self.write_last_uses(removals);
        if written.is_ok() {
            for (key, why) in &expired {
                self.forget(key, *why);
            }
        } else {
            self.index.walk_anew();
        }
        self.cache.run_pending_tasks();
        self.take_notices();
        written.map(|()| match walked {
            Walked::UpToMost => Maintained::More,
            Walked::APart => Maintained::Done,
        })
    }

    /// Commits the last uses that are noted, and removals after them.
    fn write_last_uses(&mut self, removals: Vec<Change>) -> Result<(), StoreError> {
        let used = self.used.iter();
        let used = used.map(|(key, session)| Change::Used(*key, session.last_used()));
        let changes: Vec<_> = used.chain(removals).collect();
        self.commit(&changes)?;
        self.used.clear();
        Ok(())
    }
}

/// Tells the operator of a commit that failed.
pub(super) fn reported(committed: Result<(), StoreError>) -> Result<(), StoreError> {
    if let Err(error) = &committed {
        let reason = error.reason();
        tracing::error!(reason, error = chain(error), "Sessions are not stored");
    }
    committed
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
