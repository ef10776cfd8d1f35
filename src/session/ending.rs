//! Informs long-running work, such as a stream, when its session ends.
//!
//! The gateway looks up the session of a request only when the request begins. A stream lasts
//! longer than a request, and a stream must end when the session of the stream ends. To end
//! streams, each worker has an [`EndRegistry`]. When the end of a session is committed, the store
//! informs the registry. The registry also looks for sessions that have passed a deadline, or that a
//! shared store has to confirm. The registry looks once per second, or more often if the store is
//! shared. A request that registers no work does not use the registry.

#![expect(
    clippy::disallowed_types,
    reason = "a lock for new listeners and for the store; no request takes it"
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
use super::{Session, SessionKey, SessionState, Sessions, StoreError};
use crate::clock::{Clock, Timestamp};

/// The longest time between two searches for sessions that have passed a deadline.
const BETWEEN_SWEEPS: Duration = Duration::from_secs(1);

/// The reason why a session has ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum EndReason {
    /// The session has reached its maximum age.
    Absolute,
    /// Another replica has ended the session, and this replica has not learned the reason.
    Elsewhere,
    /// The provider has ended the grant.
    GrantEnded,
    /// No request has used the session during the idle time.
    Idle,
    /// The provider was removed from the settings, or its name now belongs to another server or
    /// client.
    ProviderRemoved,
    /// The session was evicted, because the user has too many sessions or because a store in memory
    /// is full.
    Evicted,
    /// An app has refused the access token, so the user must sign in again.
    RefusedByApp,
    /// The same browser has signed in again.
    Replaced,
    /// An app or an administrator has ended the session.
    Revoked,
    /// The user has signed out.
    SignedOut,
    /// The provider has reported that the session of the user at the provider has ended.
    SignedOutAtProvider,
    /// The store has not answered for too long, so this replica does not know whether the session
    /// still exists. The session may continue. Only long-running work ends for this reason.
    Unconfirmed,
}

impl EndReason {
    /// Returns a stable code for logs and metrics.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Absolute => "session_too_old",
            Self::Elsewhere => "session_ended_elsewhere",
            Self::GrantEnded => "grant_ended",
            Self::Idle => "session_idle",
            Self::ProviderRemoved => "provider_removed",
            Self::Evicted => "session_pushed_out",
            Self::RefusedByApp => "refused_by_app",
            Self::Replaced => "session_replaced",
            Self::Revoked => "session_revoked",
            Self::SignedOut => "signed_out",
            Self::SignedOutAtProvider => "signed_out_at_provider",
            Self::Unconfirmed => "session_unconfirmed",
        }
    }
}

/// The key of a session that has ended, and the reason why the session has ended.
pub(super) type End = (SessionKey, EndReason);

/// The channels to the registries of all workers.
#[derive(Debug, Default)]
pub(super) struct Listeners(Mutex<Vec<mpsc::UnboundedSender<End>>>);

impl Listeners {
    /// Returns a receiver that gets a message for each session that ends after this call.
    pub(super) fn listen(&self) -> mpsc::UnboundedReceiver<End> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.with(|senders| senders.push(sender));
        receiver
    }

    /// Informs all listeners of the end of a session. Before a call of this function, the caller
    /// must record in the session value that the session has ended. A listener that registers too
    /// late gets no message, but the session value already shows that the session has ended.
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

/// The registry of one worker. For each session, the registry contains the long-running work, such
/// as a stream. Clones share the registry.
#[derive(Clone, Debug)]
pub struct EndRegistry(Rc<Registry>);

#[derive(Debug)]
struct Registry {
    sessions: Arc<Sessions>,
    entries: RefCell<HashMap<SessionKey, Entry>>,
}

/// The registry's entry for one session for which work is registered.
#[derive(Debug)]
struct Entry {
    /// The latest value of the session that the registry knows. The store can already have a newer
    /// value of the session.
    stored: Arc<Stored>,
    /// The configured name of the provider.
    provider: Box<str>,
    opened_at: Timestamp,
    end: Rc<EndSignal>,
}

impl Entry {
    /// Stores the argument `stored` as the latest value of the session in this entry.
    fn renew(&mut self, stored: Arc<Stored>) {
        if let Some(session) = Session::of(Arc::clone(&stored)) {
            self.end.renew(session);
        }
        self.stored = stored;
    }
}

/// Reports the end or a new version of one session to all work that is registered for this session.
/// The registry of a worker has one signal for each session.
#[derive(Debug, Default)]
struct EndSignal {
    why: Cell<Option<EndReason>>,
    /// The newest version of the session that the registry has reported.
    newest: RefCell<Option<Arc<Session>>>,
    changed: Notify,
}

impl EndSignal {
    fn renew(&self, session: Session) {
        let mut newest = self.newest.borrow_mut();
        let known = newest.as_ref().map(|known| known.version());
        if known != Some(session.version()) {
            *newest = Some(Arc::new(session));
            self.changed.notify_waiters();
        }
    }

    /// Returns the newest version of the session if this version is newer than `seen`.
    fn newer(&self, seen: u64) -> Option<Arc<Session>> {
        let newest = self.newest.borrow();
        newest.clone().filter(|session| session.version() > seen)
    }
}

/// An event that the registry reports to a task: the session of the task has ended or has a new
/// version.
#[derive(Clone, Debug)]
pub(crate) enum SessionEvent {
    /// The session has ended.
    Ended(EndReason),
    /// The session has a new version with other tokens and possibly another identity.
    Renewed(Arc<Session>),
}

/// The reason why the end of a session cannot be watched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum WatchError {
    /// The session has ended.
    Ended,
    /// The store cannot read the session now. The session has not ended, so the client may try
    /// again later. The value is a stable code for logs and metrics.
    Unavailable(&'static str),
}

impl EndRegistry {
    /// Starts a registry for this worker. The task of the registry ends at most one second after
    /// the last clone of the registry and the last [`EndWatch`] were dropped.
    ///
    /// # Panics
    ///
    /// Panics if the caller is not a local task of a worker.
    pub fn start(sessions: Arc<Sessions>, clock: Clock) -> Self {
        let (registry, ends) = Self::new(sessions);
        // The handle of the task is not needed, because the task ends by itself.
        let pause = between_sweeps(registry.0.sessions.store.coherence());
        let work = serve(Rc::downgrade(&registry.0), ends, (clock, pause));
        drop(spawn_local(work));
        registry
    }

    fn new(sessions: Arc<Sessions>) -> (Self, mpsc::UnboundedReceiver<End>) {
        let ends = sessions.store.cache().listeners().listen();
        let entries = RefCell::default();
        (Self(Rc::new(Registry { sessions, entries })), ends)
    }

    /// Registers the caller, so that the caller learns when `session` ends. Returns `None` if
    /// `session` is out of date or has ended. If `watch` returns `None`, the caller must look up
    /// the session again.
    pub fn watch(&self, session: &Session) -> Option<EndWatch> {
        let (key, stored) = (*session.key(), Arc::clone(session.stored()));
        let end = {
            let mut entries = self.0.entries.borrow_mut();
            let entry = entries.entry(key).or_insert_with(|| Entry {
                stored: Arc::clone(&stored),
                provider: session.provider().into(),
                opened_at: session.opened_at(),
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
        // The watch is registered before the state of the session is read, so that the watch also
        // notices an end of the session between the two steps.
        match session.state() {
            SessionState::Live => Some(watch),
            SessionState::Superseded | SessionState::Ended => None,
        }
    }
}

impl EndRegistry {
    /// Registers the caller like [`EndRegistry::watch`]. If `session` is out of date, this function
    /// replaces `session` with the newest version from the store.
    ///
    /// # Errors
    ///
    /// [`WatchError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn follow(&self, session: &mut Arc<Session>) -> Result<EndWatch, WatchError> {
        if let Some(watch) = self.watch(session) {
            return Ok(watch);
        }
        let newest = self.0.sessions.fetch(session.key()).await;
        let newest = newest.map_err(|error| WatchError::Unavailable(error.reason()))?;
        let newest = newest.ok_or(WatchError::Ended)?;
        let watch = self.watch(&newest).ok_or(WatchError::Ended)?;
        *session = newest;
        Ok(watch)
    }
}

/// Informs long-running work of the end of its session. When the last `EndWatch` of a session is
/// dropped, the entry of the session is removed from the registry.
#[derive(Debug)]
#[must_use]
pub struct EndWatch {
    registry: Rc<Registry>,
    key: SessionKey,
    end: Rc<EndSignal>,
    /// The version of the session that the last call of `next` returned.
    seen: Cell<u64>,
}

impl EndWatch {
    /// Waits until the session has ended or has a new version. The registry reports a new version
    /// about one second after the commit of the version. The eviction of a session from the cache
    /// does not end the session if a file contains the session.
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

    /// Waits until the session has ended, and returns the reason for the end.
    #[cfg(test)]
    async fn ended(&self) -> EndReason {
        loop {
            if let SessionEvent::Ended(why) = self.next().await {
                return why;
            }
        }
    }
}

impl Drop for EndWatch {
    fn drop(&mut self) {
        // This watch and the registry entry each hold one reference to `end`. If the reference
        // count is two, this watch is the last watch of the session.
        if Rc::strong_count(&self.end) == 2 {
            let mut entries = self.registry.entries.borrow_mut();
            let entry = entries.get(&self.key);
            if entry.is_some_and(|entry| Rc::ptr_eq(&entry.end, &self.end)) {
                entries.remove(&self.key);
            }
        }
    }
}

/// Returns the time between two searches. If a message of a shared store is lost, the cache counts as
/// out of date after three quarters of the time `coherence`. The next search must begin in the last
/// quarter.
fn between_sweeps(coherence: Option<Duration>) -> Duration {
    let quarter = coherence.and_then(|coherence| coherence.checked_div(4));
    quarter.map_or(BETWEEN_SWEEPS, |quarter| quarter.min(BETWEEN_SWEEPS))
}

/// Informs a registry about sessions that have ended or passed a deadline. The task runs until the
/// registry is dropped.
async fn serve(
    registry: Weak<Registry>,
    mut ends: mpsc::UnboundedReceiver<End>,
    (clock, pause): (Clock, Duration),
) {
    let mut ticks = interval(pause);
    // A busy worker can miss the times of one or more sweeps. The worker skips a missed sweep,
    // because the next sweep finds all expired sessions.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let end = tokio::select! {
            Some(end) = ends.recv() => Some(end),
            _ = ticks.tick() => None,
        };
        // The task has only a weak reference, so that the registry can be dropped while the task
        // runs.
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

    /// Searches for sessions that have passed a deadline or have a new version.
    async fn sweep(&self, now: Timestamp) {
        let limits = &self.sessions.limits;
        let (mut expired, mut away) = (Vec::new(), Vec::new());
        for (key, entry) in self.entries.borrow_mut().iter_mut() {
            if entry.stored.state() != SessionState::Live
                && let Some(current) = self.sessions.cache.get(key)
            {
                entry.renew(current);
            }
            match entry.stored.state() {
                SessionState::Live if !self.sessions.coherence.covers(&entry.stored, now) => {
                    away.push(*key);
                }
                SessionState::Live => {
                    let times = (entry.opened_at, entry.stored.ends_at());
                    let limits = limits.of_login(&entry.provider, times);
                    let why = limits.expired(entry.stored.last_used(), now);
                    expired.extend(why.map(|why| (*key, why)));
                }
                // The store has a newer value of the session, or the cache has evicted the session.
                // The registry must look up the session in the store, because a request may have
                // used the session.
                SessionState::Superseded => away.push(*key),
                // The session has ended. The sweep ignores an ended session, because the store
                // sends a message with the reason for the end to the registry.
                SessionState::Ended => {}
            }
        }
        for (key, why) in expired {
            self.end(&key, why);
        }
        for key in away {
            self.look_up(&key, now).await;
        }
    }

    async fn look_up(&self, key: &SessionKey, now: Timestamp) {
        let session = match self.sessions.fetch(key).await {
            Ok(Some(session)) => session,
            Ok(None) if self.sessions.is_shared => return self.end(key, EndReason::Elsewhere),
            // The cache can be used no longer without an answer of the store.
            Err(StoreError::Unavailable(_)) => return self.end(key, EndReason::Unconfirmed),
            // If the session no longer exists, a store in this process has already reported to the
            // registry why the session ended. If the session cannot be read, the next sweep tries
            // again.
            Ok(None) | Err(_) => return,
        };
        let stored = session.stored();
        let limits = self.sessions.limits.of(&session);
        if let Some(why) = limits.expired(session.last_used(), now) {
            self.end(key, why);
        } else if let Some(entry) = self.entries.borrow_mut().get_mut(key) {
            entry.renew(Arc::clone(stored));
        }
    }
}

#[cfg(test)]
#[path = "ending_tests.rs"]
mod tests;
