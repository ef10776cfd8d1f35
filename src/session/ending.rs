//! Sessions that end, told to whatever outlasts a request.
//!
//! A request asks once whether its session stands. What goes on for longer, as a stream does, must end
//! with its session. So each worker has an [`EndRegistry`]: the keeper tells it of every session that
//! has ended, once that is committed, and once a second it looks for deadlines that have passed. What
//! is not registered costs a request nothing.

#![expect(
    clippy::disallowed_types,
    reason = "a lock for whoever begins to listen, and for the keeper; no request comes here"
)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval};

use super::stored::Stored;
use super::{Session, SessionKey, SessionState, Sessions};
use crate::clock::{Clock, Timestamp};

/// How often a registry looks for deadlines that have passed.
const BETWEEN_SWEEPS: Duration = Duration::from_secs(1);

/// Why a session has ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum EndReason {
    /// It was as old as a session may become.
    Absolute,
    /// Its provider said that the grant has ended.
    GrantEnded,
    /// It was not used for as long as a session may be idle.
    Idle,
    /// Its provider is not configured any more, or is another server or client now.
    ProviderRemoved,
    /// Its person had too many sessions, or memory, where there is no file, had no room for it.
    PushedOut,
    /// An app refused its token, and its person has to sign in again for that.
    RefusedByApp,
    /// Its browser signed in anew.
    Replaced,
    /// Its person signed out.
    SignedOut,
}

impl EndReason {
    /// A stable code for logs and metrics.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Absolute => "session_too_old",
            Self::GrantEnded => "grant_ended",
            Self::Idle => "session_idle",
            Self::ProviderRemoved => "provider_removed",
            Self::PushedOut => "session_pushed_out",
            Self::RefusedByApp => "refused_by_app",
            Self::Replaced => "session_replaced",
            Self::SignedOut => "signed_out",
        }
    }
}

/// A session that has ended.
pub(super) type End = (SessionKey, EndReason);

/// The ways to all registries.
#[derive(Debug, Default)]
pub(super) struct Listeners(Mutex<Vec<mpsc::UnboundedSender<End>>>);

impl Listeners {
    /// Hears of each session that ends from here on.
    pub(super) fn listen(&self) -> mpsc::UnboundedReceiver<End> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.with(|senders| senders.push(sender));
        receiver
    }

    /// Tells everybody. The session's value is marked before: whoever begins to listen while this goes
    /// on, and is not told, sees that.
    pub(super) fn tell(&self, end: End) {
        let (key, why) = end;
        tracing::debug!(
            session.key = key.log_prefix(),
            reason = why.reason(),
            "Session ended"
        );
        self.with(|senders| senders.retain(|sender| sender.send(end).is_ok()));
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        let mut count = 0;
        self.with(|senders| count = senders.len());
        count
    }

    fn with(&self, act: impl FnOnce(&mut Vec<mpsc::UnboundedSender<End>>)) {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// What outlasts a request in one worker, by its session. Clones share it.
#[derive(Clone, Debug)]
pub struct EndRegistry(Rc<Registry>);

#[derive(Debug)]
struct Registry {
    sessions: Arc<Sessions>,
    entries: RefCell<HashMap<SessionKey, Entry>>,
}

/// A session for which something is registered.
#[derive(Debug)]
struct Entry {
    /// A value of it: the one that stands, or one before.
    stored: Arc<Stored>,
    end: Rc<Told>,
}

impl Entry {
    /// Notes the value that stands now.
    fn renew(&mut self, stored: Arc<Stored>) {
        if let Some(session) = Session::of(Arc::clone(&stored)) {
            self.end.renew(session);
        }
        self.stored = stored;
    }
}

/// What all that is registered for one session waits for.
#[derive(Debug, Default)]
struct Told {
    why: Cell<Option<EndReason>>,
    /// The newest version that was told.
    newest: RefCell<Option<Arc<Session>>>,
    changed: Notify,
}

impl Told {
    fn renew(&self, session: Session) {
        let mut newest = self.newest.borrow_mut();
        let known = newest.as_ref().map(|known| known.version());
        if known != Some(session.version()) {
            *newest = Some(Arc::new(session));
            self.changed.notify_waiters();
        }
    }

    /// The newest version, if it is newer than `seen`.
    fn newer(&self, seen: u64) -> Option<Arc<Session>> {
        let newest = self.newest.borrow();
        newest.clone().filter(|session| session.version() > seen)
    }
}

/// What happens to a session that is watched.
#[derive(Clone, Debug)]
pub(crate) enum SessionEvent {
    /// It has ended.
    Ended(EndReason),
    /// It has a new version: other tokens, perhaps another identity.
    Renewed(Arc<Session>),
}

impl EndRegistry {
    /// A registry for this worker. Its task ends when the last clone and the last [`EndWatch`] are
    /// dropped, within a second.
    ///
    /// # Panics
    ///
    /// Outside of a worker's local tasks.
    pub fn start(sessions: Arc<Sessions>, clock: Clock) -> Self {
        let (registry, ends) = Self::new(sessions);
        // The handle is not needed: the task ends by itself.
        drop(spawn_local(serve(Rc::downgrade(&registry.0), ends, clock)));
        registry
    }

    fn new(sessions: Arc<Sessions>) -> (Self, mpsc::UnboundedReceiver<End>) {
        let ends = sessions.store.cache().listeners().listen();
        let entries = RefCell::default();
        (Self(Rc::new(Registry { sessions, entries })), ends)
    }

    /// Registers something that is to end with a session. `None` when this value of the session does
    /// not stand any more: then it has to be looked up again.
    pub fn watch(&self, session: &Session) -> Option<EndWatch> {
        let (key, stored) = (*session.key(), Arc::clone(session.stored()));
        let end = {
            let mut entries = self.0.entries.borrow_mut();
            let entry = entries.entry(key).or_insert_with(|| Entry {
                stored: Arc::clone(&stored),
                end: Rc::default(),
            });
            entry.stored = stored;
            Rc::clone(&entry.end)
        };
        let watch = EndWatch {
            registry: Rc::clone(&self.0),
            key,
            end,
            seen: Cell::new(session.version()),
        };
        // Not before it is registered: what ends after this is told.
        match session.state() {
            SessionState::Live => Some(watch),
            SessionState::Superseded | SessionState::Ended => None,
        }
    }
}

/// Something that is to end with its session. Dropping it takes it out of the registry.
#[derive(Debug)]
#[must_use]
pub struct EndWatch {
    registry: Rc<Registry>,
    key: SessionKey,
    end: Rc<Told>,
    /// The version of the session that was reported last.
    seen: Cell<u64>,
}

impl EndWatch {
    /// Waits until the session has ended or has a new version. A new version is reported about a
    /// second after its commit.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn next(&self) -> SessionEvent {
        loop {
            let changed = self.end.changed.notified();
            if let Some(why) = self.end.why.get() {
                return SessionEvent::Ended(why);
            }
            if let Some(session) = self.end.newer(self.seen.get()) {
                self.seen.set(session.version());
                return SessionEvent::Renewed(session);
            }
            changed.await;
        }
    }

    /// Waits until the session has ended, and says why. New tokens are no end; nor is it one when
    /// memory has no room for a session that is in the file.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn ended(&self) -> EndReason {
        loop {
            let changed = self.end.changed.notified();
            if let Some(why) = self.end.why.get() {
                return why;
            }
            changed.await;
        }
    }
}

impl Drop for EndWatch {
    fn drop(&mut self) {
        // This one and the entry's.
        if Rc::strong_count(&self.end) == 2 {
            let mut entries = self.registry.entries.borrow_mut();
            let entry = entries.get(&self.key);
            if entry.is_some_and(|entry| Rc::ptr_eq(&entry.end, &self.end)) {
                entries.remove(&self.key);
            }
        }
    }
}

/// Keeps a registry up to date for as long as there is one.
async fn serve(registry: Weak<Registry>, mut ends: mpsc::UnboundedReceiver<End>, clock: Clock) {
    let mut ticks = interval(BETWEEN_SWEEPS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let end = tokio::select! {
            Some(end) = ends.recv() => Some(end),
            _ = ticks.tick() => None,
        };
        let Some(registry) = registry.upgrade() else {
            return;
        };
        match end {
            Some((key, why)) => registry.end(&key, why),
            None => registry.sweep(clock.now()).await,
        }
    }
}

impl Registry {
    fn end(&self, key: &SessionKey, why: EndReason) {
        let entry = self.entries.borrow_mut().remove(key);
        if let Some(Entry { end, .. }) = entry {
            end.why.set(Some(why));
            end.changed.notify_waiters();
        }
    }

    /// Looks for sessions that have passed a deadline.
    async fn sweep(&self, now: Timestamp) {
        let idle = self.sessions.limits.idle();
        let (mut over, mut away) = (Vec::new(), Vec::new());
        for (key, entry) in self.entries.borrow_mut().iter_mut() {
            if entry.stored.state() != SessionState::Live
                && let Some(standing) = self.sessions.cache.get(key)
            {
                entry.renew(standing);
            }
            let Some(why) = entry.stored.over(idle, now) else {
                continue;
            };
            match entry.stored.state() {
                SessionState::Live => over.push((*key, why)),
                // It is in the file alone, and may have been used since it was in memory.
                SessionState::Superseded => away.push(*key),
                // The keeper tells why.
                SessionState::Ended => {}
            }
        }
        for (key, why) in over {
            self.end(&key, why);
        }
        for key in away {
            self.look_up(&key, now).await;
        }
    }

    async fn look_up(&self, key: &SessionKey, now: Timestamp) {
        // If it is not there, the keeper has told why; if it cannot be read, it is looked for again.
        let Ok(Some(session)) = self.sessions.fetch(key).await else {
            return;
        };
        let stored = session.stored();
        if let Some(why) = stored.over(self.sessions.limits.idle(), now) {
            self.end(key, why);
        } else if let Some(entry) = self.entries.borrow_mut().get_mut(key) {
            entry.renew(Arc::clone(stored));
        }
    }
}

#[cfg(test)]
#[path = "ending_tests.rs"]
mod tests;
