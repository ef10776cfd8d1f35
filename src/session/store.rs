//! The interface of a session store: an object-safe asynchronous trait.
//!
//! [`super::Sessions`] is a replica, which caches the sessions of a store. Several replicas of one
//! process can share a store. If several processes share a store, each process has a replica. A
//! session exists if the store contains the session, even if no cache contains the session. The
//! store informs each cache of every change ([`super::cache::Event`]).

use std::error::Error as StdError;
use std::fmt;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::cache::SessionCache;
use super::ending::{End, EndReason};
use super::groups::{EndAll, EndedAll, Group, ProviderSessionHash};
use super::lease::StoreLease;
use super::marks::{Mark, MarkKind, Once};
use super::named::NamedHash;
use super::reconfigure::{Reconfiguration, ReconfigureError, Reconfigured};
use super::registration::Registration;
use super::stored::Stored;
use super::{Maintained, SessionKey, StoreTag};
use crate::clock::Timestamp;

/// The future that a store returns. The future is boxed, because a trait with `async fn` is not
/// object safe. Boxing a future costs little, compared to a commit or a read from the store.
pub(super) type StoreFuture<'a, T, E = StoreError> =
    Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// A store of sessions. Each call of a method is one transaction.
///
/// A store applies its changes to [`Store::cache`] in the order of their commits. The store updates
/// the caches before the store answers the caller of the change. After [`Store::end`] has returned,
/// no worker finds the session. After [`Store::replace`] has returned, no worker finds the previous
/// version.
///
/// # Cancel safety
///
/// Dropping a future of [`Store::get`] has no effect. If a caller drops the future of a method that
/// makes a change, the store may still make the change.
pub(super) trait Store: fmt::Debug + Send + Sync + 'static {
    /// Returns the cache of this replica. The store writes to the cache.
    fn cache(&self) -> &Arc<SessionCache>;

    /// Returns the store tag, which is part of the ids of this store's sessions.
    fn store_tag(&self) -> StoreTag;

    /// Returns true if the store may contain sessions that are not in the cache.
    fn outlives_cache(&self) -> bool;

    /// Returns true if other processes can change the sessions of the store. A report of such a
    /// change can be lost.
    fn is_shared(&self) -> bool {
        false
    }

    /// Returns an error if the store cannot make changes at the moment.
    ///
    /// # Errors
    ///
    /// The error with which a change would probably fail.
    fn ready(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Returns true if a session has ended at this replica, but other replicas can still use the
    /// session, because a shared store does not answer.
    fn is_pending(&self, _key: &SessionKey) -> bool {
        false
    }

    /// Waits until all replicas of this process have applied all changes so far.
    #[cfg(test)]
    fn settle(&self) -> StoreFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Returns the number of sessions.
    fn count(&self) -> u64;

    /// Returns the number of processes that share the store.
    fn replicas(&self) -> NonZeroU32 {
        NonZeroU32::MIN
    }

    /// Returns the number of reads of a shared store that found a session which cannot be read, by
    /// reason.
    fn unreadable(&self) -> [(&'static str, u64); 3] {
        [("damaged", 0), ("newer", 0), ("unknown_key", 0)]
    }

    /// Returns the time after which no replica uses a session that another replica has ended. `None`
    /// if only this process uses the store.
    fn coherence(&self) -> Option<Duration> {
        None
    }

    /// Reads a session. This method must not put the session into the cache. Only
    /// [`super::cache::ReadGuard::finish`] may add a session to the cache after the session was
    /// read from the store.
    fn get(&self, key: SessionKey) -> StoreFuture<'_, Option<Arc<Stored>>>;

    /// Stores a new session, and ends the sessions in `opening.replaces`. If the new session
    /// exceeds the limit `opening.per_person`, the store also ends the oldest sessions of the user.
    fn open(&self, session: Arc<Stored>, opening: Opening) -> StoreFuture<'_, Opened>;

    /// Replaces a session by `next`, if the session still has the version `version`.
    fn replace(&self, version: u64, next: Arc<Stored>) -> StoreFuture<'_, Replacement>;

    /// Ends a session, and returns an [`End`] for the ended session. Returns an empty list if there
    /// is no session to end.
    fn end(&self, which: Which, why: EndReason) -> StoreFuture<'_, Vec<End>>;

    /// Ends the sessions of the groups, and marks the notice of the order as used if
    /// `order.uses_notice` is true, in one commit. If the notice is already marked, the store
    /// changes nothing. The store remembers for at least one hour that each group has ended at
    /// `order.now`, unless the group is [`Group::Keys`].
    fn end_all(&self, order: EndAll) -> StoreFuture<'_, EndedAll>;

    /// Returns the keys of the sessions of a group.
    fn list(&self, group: Group) -> StoreFuture<'_, Vec<SessionKey>>;

    /// Notes the times when sessions were last used. The next [`Store::sweep`] stores the times of
    /// the last uses durably.
    fn touch(&self, uses: Vec<(SessionKey, Timestamp)>) -> StoreFuture<'_, ()>;

    /// Marks a value as used until the time `until`, unless the value is already marked.
    fn once(
        &self,
        mark: (MarkKind, Mark),
        now: Timestamp,
        until: Timestamp,
    ) -> StoreFuture<'_, Once>;

    /// Removes a mark.
    fn unmark(&self, mark: (MarkKind, Mark)) -> StoreFuture<'_, ()>;

    /// Gives the caller the lease of a session until the time `until`, unless another holder has
    /// the lease.
    fn lease(
        &self,
        key: SessionKey,
        now: Timestamp,
        until: Timestamp,
    ) -> StoreFuture<'_, StoreLease>;

    /// Ends a limited number of sessions that have passed a deadline.
    fn sweep(&self, now: Timestamp) -> StoreFuture<'_, Maintained>;

    /// Applies new settings. If there is an error, no setting changes.
    fn reconfigure(
        &self,
        new: Reconfiguration,
        now: Timestamp,
    ) -> StoreFuture<'_, Reconfigured, ReconfigureError>;

    /// Closes the store. Every later call fails with [`StoreError::Closed`].
    fn close(&self) -> StoreFuture<'_, ()>;
}

/// The conditions for a new session, and the sessions that end when the new session is created.
#[derive(Debug)]
pub(super) struct Opening {
    /// The fingerprint that the provider had when the login began.
    pub(super) registration: Registration,
    /// The sessions that end when the new session is created.
    pub(super) replaces: Vec<SessionKey>,
    /// The maximum number of sessions of the user, including the new session.
    pub(super) per_person: usize,
    /// The session at the provider to which the new session belongs. `None` if the provider has
    /// sent no `sid`.
    pub(super) provider_session: Option<ProviderSessionHash>,
    /// The names by which an app can name the new session.
    pub(super) named: Vec<NamedHash>,
    /// The time when the login began. If a group of the new session has ended after this time, the
    /// store must answer [`Opened::EndedMeanwhile`].
    pub(super) begun_at: Timestamp,
}

/// The result of [`Store::open`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(super) enum Opened {
    Stored,
    /// All sessions of the user, or all sessions that belong to the same session at the provider,
    /// have ended during the login.
    EndedMeanwhile,
    /// The provider was removed from the settings, or the name of the provider now belongs to
    /// another server or client.
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

/// Selects the session that the store must end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Which {
    /// Ends the session with this key. The session can have any version.
    Key(SessionKey),
    /// Ends the session with this key only if the session has this version.
    Version(SessionKey, u64),
}

impl Which {
    pub(super) fn key(&self) -> &SessionKey {
        match self {
            Self::Key(key) | Self::Version(key, _) => key,
        }
    }
}

/// The reason why the store could not change or read a session.
///
/// The gateway is responsible for this error. Every signed-in user stays signed in after a
/// [`StoreError`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The change could not be committed, for example because the disk is full.
    #[error("the session file could not be written")]
    NotCommitted(#[source] Arc<dyn StdError + Send + Sync>),
    /// The session's entry in the file cannot be decrypted or decoded.
    #[error("the session's entry in the file is damaged")]
    Damaged,
    /// The store was closed because the process ends.
    #[error("the session store is closed")]
    Closed,
    /// A newer version of the gateway has written the session.
    #[error("a newer version of Sidegate has written the session")]
    Newer,
    /// The shared store has refused the command, for example because its memory is full. The store
    /// has changed nothing.
    #[error("the session store refused the command")]
    Refused(#[source] Arc<dyn StdError + Send + Sync>),
    /// The shared store has not answered. The store may have made the change.
    #[error("the session store does not answer")]
    Unavailable(#[source] Arc<dyn StdError + Send + Sync>),
    /// The session is encrypted with a key that this process does not have.
    #[error(
        "the session is sealed with a key that is not in login.state_key_file; all replicas need the \
         same keys"
    )]
    UnknownKey,
    /// The session file cannot be read.
    #[error("the session file could not be read")]
    Unreadable(#[source] Arc<dyn StdError + Send + Sync>),
}

impl StoreError {
    /// Returns a stable code for logs and metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotCommitted(_) => "session_not_stored",
            Self::Damaged => "session_damaged",
            Self::Closed => "stopping",
            Self::Newer => "session_of_newer_version",
            Self::Refused(_) => "session_store_refused",
            Self::Unavailable(_) => "session_store_unavailable",
            Self::UnknownKey => "session_key_unknown",
            Self::Unreadable(_) => "session_not_read",
        }
    }
}
