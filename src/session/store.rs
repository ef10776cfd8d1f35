//! What a store of sessions can do, as an object-safe asynchronous trait.
//!
//! [`super::Sessions`] is a cache in front of a store. A process may have several such fronts on one
//! store, and a store that several processes share has one front in each of them. Whether a session
//! exists is the decision of the store alone. The store tells each cache of every change
//! ([`super::cache::Event`]).

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use super::cache::SessionCache;
use super::ending::{End, EndReason};
use super::lease::StoreLease;
use super::marks::{Mark, Once};
use super::reconfigure::{Reconfiguration, ReconfigureError, Reconfigured};
use super::registration::Registration;
use super::stored::Stored;
use super::{Maintained, SessionKey, StoreTag};
use crate::clock::Timestamp;

/// The future that a store returns. It is boxed, because a trait with `async fn` is not object safe.
/// One allocation is nothing beside a commit or a cache miss.
pub(super) type StoreFuture<'a, T, E = StoreError> =
    Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// A store of sessions. Each call is one transaction.
///
/// A store applies its changes to [`Store::cache`] in the order of their commits, and before it
/// answers the caller who made the change. So when [`Store::end`] has returned, no worker finds the
/// session; when [`Store::replace`] has returned, no worker finds the version before.
///
/// # Cancel safety
///
/// Dropping a future of [`Store::get`] changes nothing. Dropping another one leaves open whether the
/// change is made.
pub(super) trait Store: fmt::Debug + Send + Sync + 'static {
    /// The cache of this front, which the store writes to.
    fn cache(&self) -> &Arc<SessionCache>;

    /// The tag of the ids of this store's sessions.
    fn store_tag(&self) -> StoreTag;

    /// Whether a session that is not in the cache may be in the store.
    fn outlives_cache(&self) -> bool;

    /// The number of sessions.
    fn count(&self) -> u64;

    /// Reads a session. Only [`super::cache::ReadGuard::finish`] may put the result into the cache.
    fn get(&self, key: SessionKey) -> StoreFuture<'_, Option<Arc<Stored>>>;

    /// Stores a new session, and ends those that the opening names and the oldest ones beyond the
    /// bound of a person.
    fn open(&self, session: Arc<Stored>, opening: Opening) -> StoreFuture<'_, Opened>;

    /// Puts `next` in the place of version `version` of the same session.
    fn replace(&self, version: u64, next: Arc<Stored>) -> StoreFuture<'_, Replacement>;

    /// Ends a session, and returns what has ended.
    fn end(&self, which: Which, why: EndReason) -> StoreFuture<'_, Vec<End>>;

    /// Notes when sessions were used last. The next [`Store::sweep`] makes it durable.
    fn touch(&self, uses: Vec<(SessionKey, Timestamp)>) -> StoreFuture<'_, ()>;

    /// Marks a value as used until a time, unless it is marked already.
    fn once(&self, mark: Mark, now: Timestamp, until: Timestamp) -> StoreFuture<'_, Once>;

    /// Removes a mark.
    fn unmark(&self, mark: Mark) -> StoreFuture<'_, ()>;

    /// Grants the right to refresh a session until a time, unless somebody else has it.
    fn lease(
        &self,
        key: SessionKey,
        now: Timestamp,
        until: Timestamp,
    ) -> StoreFuture<'_, StoreLease>;

    /// Ends sessions that have passed a deadline, at most a small batch.
    fn sweep(&self, now: Timestamp) -> StoreFuture<'_, Maintained>;

    /// Lets other settings take effect, all of them or none.
    fn reconfigure(
        &self,
        new: Reconfiguration,
        now: Timestamp,
    ) -> StoreFuture<'_, Reconfigured, ReconfigureError>;

    /// Closes the store. Every later call fails with [`StoreError::Closed`].
    fn close(&self) -> StoreFuture<'_, ()>;
}

/// The conditions for opening a session, and the sessions that end with it.
#[derive(Debug)]
pub(super) struct Opening {
    /// The registration of the provider at the start of the login.
    pub(super) registration: Registration,
    /// Sessions that end with the login.
    pub(super) replaces: Vec<SessionKey>,
    /// The maximum number of sessions of the person, with the new one.
    pub(super) per_person: usize,
}

/// The result of [`Store::open`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(super) enum Opened {
    Stored,
    /// The provider is not registered any more, or is another server or client now.
    NoProvider,
}

/// The result of [`Store::replace`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(super) enum Replacement {
    Stored,
    /// The session has a newer version.
    Outdated,
    /// The session has ended.
    Ended,
}

/// The session that is to end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    /// The session of this key, whatever its version.
    Key(SessionKey),
    /// The session of this key if it still has this version.
    Version(SessionKey, u64),
}

impl Which {
    pub(super) fn key(&self) -> &SessionKey {
        match self {
            Self::Key(key) | Self::Version(key, _) => key,
        }
    }
}

/// Why sessions were not changed, or a session was not read.
///
/// Responsible: the gateway. Every signed-in user stays signed in.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The change could not be committed, for instance because the disk is full.
    #[error("the session file could not be written")]
    NotCommitted(#[source] Arc<dyn StdError + Send + Sync>),
    /// The entry of the session in the file cannot be decrypted or decoded.
    #[error("the session's entry in the file is damaged")]
    Damaged,
    /// The store has been closed because the process ends.
    #[error("the session store is closed")]
    Closed,
    /// The file cannot be read.
    #[error("the session file could not be read")]
    Unreadable(#[source] Arc<dyn StdError + Send + Sync>),
}

impl StoreError {
    /// A stable code for logs and metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotCommitted(_) => "session_not_stored",
            Self::Damaged => "session_damaged",
            Self::Closed => "stopping",
            Self::Unreadable(_) => "session_not_read",
        }
    }
}
