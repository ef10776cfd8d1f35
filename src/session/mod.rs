//! The sessions of signed-in users.
//!
//! A [`Session`] contains an identity and its tokens. Only the browser knows the [`SessionId`] of
//! the session. The only HTTP code in this module is `cookie.rs`, which writes cookies. The module
//! does not know how a user signed in.
//!
//! [`Sessions`] is a replica, which caches the sessions of a store. The number of bytes in the
//! cache is limited. A full cache evicts the least recently used sessions first. A session exists
//! if the store contains the session, even if the cache does not contain the session. `store.rs`
//! contains the trait `Store`. `local.rs` contains the store of one process, in memory or in a
//! file. Several replicas can share a store, and each replica has its own cache.
//!
//! A look-up of a session takes no lock and reads no file. This module calls the store to create,
//! replace or end a session. The store commits the change and updates the caches before the store
//! answers. A request sees only committed changes. For example, a refresh just after a sign-out
//! does not undo the sign-out.
//!
//! Every end of a session has a reason ([`EndReason`]). A task that runs longer than its request is
//! registered in the [`EndRegistry`] of the worker. The registry informs the task when the session
//! of the task has ended. Valid sessions continue when a reload changes settings, keys and
//! providers ([`Sessions::reconfigure`]).
//!
//! The cache does not expire entries, because a cache that expires entries runs its maintenance
//! inside `get`. If many sessions expired at the same time, the next worker that calls `get` would
//! be blocked for a long time. Each session contains its deadlines, and the code checks these
//! deadlines at every use of the session. The control plane calls [`Sessions::maintain`], which
//! removes expired sessions in small batches.

mod backend;
mod cache;
mod coherence;
mod command;
mod confirmed;
pub mod cookie;
mod device;
mod disk;
mod ending;
mod entry;
mod figures;
mod file;
mod first_format;
mod groups;
mod host_id;
mod id;
mod imagined;
mod index;
mod keeper;
mod lease;
mod limits;
mod live;
mod local;
mod look_up;
mod marks;
mod named;
mod new_session;
mod outcome;
mod packed;
mod pause;
mod plan;
mod preview;
mod reconfigure;
mod record;
mod redis;
mod registration;
mod settings;
mod store;
mod stored;
mod survey;
mod uses;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use self::cache::Read;
use self::coherence::Coherence;
pub use self::device::Device;
pub use self::ending::{EndReason, EndRegistry, EndWatch};
pub(crate) use self::ending::{SessionEvent, WatchError};
pub use self::file::FileError;
pub(crate) use self::file::inspect;
#[cfg(test)]
pub(crate) use self::fixture::{two_redis_replicas, two_replicas};
use self::groups::ProviderSessionHash;
pub(crate) use self::groups::{EndedAll, LogoutNotice, SessionsOf};
pub(crate) use self::host_id::SessionIds;
pub use self::host_id::SessionRef;
pub(crate) use self::id::StoreTag;
pub use self::id::{SessionId, SessionKey};
use self::index::{Rank, UserHash};
use self::keeper::KeeperSettings;
pub(crate) use self::lease::{Lease, Leased};
use self::limits::Limits;
pub use self::limits::{LimitsOfProviders, ProviderLimits};
pub use self::live::Session;
use self::local::LocalStore;
pub(crate) use self::marks::{MarkKind, Once};
pub(crate) use self::named::{Named, NamedSessions};
pub use self::new_session::NewSession;
pub(crate) use self::outcome::{Deadlines, EndedVersion};
pub use self::outcome::{Ended, Lookup, Maintained, OpenError, Replaced, StartError};
pub(crate) use self::preview::{Preview, preview};
pub(crate) use self::reconfigure::Reconfiguration;
pub use self::reconfigure::{ReconfigureError, Reconfigured};
use self::record::Contents;
pub(crate) use self::redis::{Destination, move_sessions};
pub use self::redis::{MoveError, Moved, RedisConnectError, RedisSettings};
use self::redis::{RedisStore, Replica};
pub use self::registration::{Registration, Registrations};
pub use self::settings::{DiskSettings, Settings, StoreSettings};
pub use self::store::StoreError;
use self::store::{Opened, Opening, Replacement, Store, Which};
pub use self::stored::OVERHEAD;
pub(crate) use self::stored::SessionState;
use self::stored::Stored;
use self::uses::Uses;
use crate::clock::{Clock, Timestamp};
use crate::identity::Identity;
use crate::seal::KeyRing;
use crate::token::TokenSet;

/// A replica, which caches the sessions of a store. All workers of a process share one replica. A
/// look-up of a session takes no lock.
#[derive(Debug)]
pub struct Sessions {
    limits: Arc<Limits>,
    /// True if the store may contain sessions that are not in the cache.
    outlives_cache: bool,
    /// True if other processes can change the sessions of the store.
    is_shared: bool,
    store_tag: StoreTag,
    coherence: Arc<Coherence>,
    clock: Clock,
    cache: Cache<SessionKey, Arc<Stored>>,
    uses: Uses,
    store: Arc<dyn Store>,
}

impl Sessions {
    /// Opens the store that the settings select. This function blocks the calling thread. If the
    /// file is large, this function blocks the thread for some seconds. The records in the file are
    /// encrypted with `keys`. A session in the file ends if its provider is not among `providers`,
    /// or if the name of its provider now belongs to another server or client. If a shared store
    /// does not answer, the function succeeds, and the replica connects to the store later.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub fn start(
        settings: Settings,
        keys: impl Into<Arc<KeyRing>>,
        providers: &Registrations,
        clock: &Clock,
    ) -> Result<Self, StartError> {
        let Settings {
            idle,
            absolute,
            of_providers,
            capacity,
            per_person,
            refresh_wait: _,
            store,
        } = settings;
        let limits = Limits::new(idle, absolute, per_person, of_providers);
        let keeper = KeeperSettings {
            limits: Arc::clone(&limits),
            capacity,
            registrations: providers.clone(),
        };
        let store: Arc<dyn Store> = match store {
            StoreSettings::Memory => Arc::new(LocalStore::in_memory(keeper)?),
            StoreSettings::Disk(disk) => Arc::new(LocalStore::on_disk(
                &disk,
                keys.into(),
                keeper,
                clock.now(),
            )?),
            StoreSettings::Redis(redis) => {
                let replica = Replica {
                    limits: Arc::clone(&limits),
                    capacity,
                    registrations: providers.clone(),
                    keys: keys.into(),
                    clock: clock.clone(),
                };
                Arc::new(RedisStore::start(*redis, replica)?)
            }
        };
        Ok(Self::on(store, limits, clock.clone()))
    }

    /// Creates a replica of a store.
    fn on(store: Arc<dyn Store>, limits: Arc<Limits>, clock: Clock) -> Self {
        Self {
            limits,
            outlives_cache: store.outlives_cache(),
            is_shared: store.is_shared(),
            coherence: Arc::clone(store.cache().coherence()),
            clock,
            store_tag: store.store_tag(),
            cache: store.cache().sessions().clone(),
            uses: Uses::default(),
            store,
        }
    }

    /// Applies new settings to running sessions. If the function succeeds, all new settings take
    /// effect. On an error, no setting takes effect. A session ends if its provider was removed
    /// from the settings, or if the name of its provider now belongs to another server or client.
    /// All changes are committed before this function returns.
    ///
    /// # Errors
    ///
    /// [`ReconfigureError`]: nothing has changed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the caller does not know whether the settings take effect.
    pub(crate) async fn reconfigure(
        &self,
        new: Reconfiguration,
        now: Timestamp,
    ) -> Result<Reconfigured, ReconfigureError> {
        // The store must not end a session that a request has just used.
        self.tell_uses().await?;
        self.store.reconfigure(new, now).await
    }

    /// Reads a session from the store, and puts the session into the cache. Returns `None` if the
    /// session does not exist. The caller must check the deadlines of the session with
    /// [`Sessions::find`].
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn fetch(&self, key: &SessionKey) -> Result<Option<Arc<Session>>, StoreError> {
        loop {
            let read = self.store.cache().begin_read(*key);
            let stored = match self.store.get(*key).await {
                Ok(stored) => stored,
                // While a shared store is away, the cache can be used for a limited time.
                Err(error @ StoreError::Unavailable(_)) => {
                    let cached = self.covered(key).and_then(|stored| self.session_of(stored));
                    return cached.map(|cached| Some(Arc::new(cached))).ok_or(error);
                }
                Err(error) => return Err(error),
            };
            match read.finish(stored) {
                Read::Current(None) => return Ok(None),
                Read::Current(Some(stored)) => {
                    let session = self.session_of(stored).ok_or(StoreError::Damaged)?;
                    return Ok(Some(Arc::new(session)));
                }
                Read::StoreIsBehind(newer, version) => {
                    if let Some(newer) = self.bring_back(newer, version).await? {
                        return Ok(Some(Arc::new(newer)));
                    }
                }
                // The session changed during the read, so the loop reads the session again.
                Read::Outdated => {}
            }
        }
    }

    /// Decodes a session, and computes its current limits. Returns `None` if the record has no
    /// contents.
    fn session_of(&self, stored: Arc<Stored>) -> Option<Session> {
        let mut session = Session::of(stored)?;
        session.set_limits(self.limits.of(&session));
        Some(session)
    }

    /// Creates a session and returns its new id. This function also ends the sessions in
    /// `new.replaces`. If the user has more sessions than the limit allows, the oldest sessions of
    /// the user end, too. The store creates the new session and ends the other sessions in one
    /// commit. This function returns after the commit.
    ///
    /// # Errors
    ///
    /// After an [`OpenError`], no session was created or ended.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the store may contain a session whose id nobody knows.
    pub async fn open(&self, new: NewSession<'_>, now: Timestamp) -> Result<SessionId, OpenError> {
        let id = SessionId::random(self.store_tag)?;
        let rank = Rank {
            user: UserHash::of(&new.identity),
            ends_at: now.plus(self.limits.absolute_of(new.provider)),
            key: id.key(),
        };
        let contents = Contents {
            version: 0,
            provider: new.provider.into(),
            identity: new.identity,
            tokens: new.tokens,
            opened_at: now,
            sid: new.sid,
            device: new.device,
            newer: Box::default(),
        };
        let session = Arc::new(Stored::new(rank, now, &contents));
        let opening = Opening {
            registration: new.registration,
            replaces: new.replaces,
            per_person: self.limits.per_person(),
            provider_session: ProviderSessionHash::of_contents(&contents),
            named: named::hashes_of(&contents),
            begun_at: new.begun_at,
        };
        match self.store.open(session, opening).await? {
            Opened::Stored => Ok(id),
            Opened::EndedMeanwhile => Err(OpenError::EndedMeanwhile),
            Opened::NoProvider => Err(OpenError::UnknownProvider),
        }
    }

    /// Replaces the tokens of a session. If `identity` is `Some`, this function replaces the
    /// identity of the session, too. This function replaces nothing if `old` is not the current
    /// version. The new version is committed before this function returns. Requests find the new
    /// version only after the commit.
    ///
    /// # Errors
    ///
    /// If this function returns a [`StoreError`], the session still has its old version.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the caller does not know whether the session has been replaced.
    pub async fn replace(
        &self,
        old: &Arc<Session>,
        tokens: TokenSet,
        identity: Option<Identity>,
    ) -> Result<Replaced, StoreError> {
        let new = Arc::new(old.next(tokens, identity));
        let replaced = self.store.replace(old.version(), Arc::clone(new.stored()));
        match replaced.await? {
            Replacement::Stored => Ok(Replaced::Stored(new)),
            Replacement::Outdated => {
                let newer = self.fetch(old.key()).await?;
                Ok(newer.map_or(Replaced::Ended, Replaced::Newer))
            }
            Replacement::Ended => Ok(Replaced::Ended),
        }
    }

    /// Ends every version of a session. No later request finds the session. The end of the session
    /// is committed before this function returns. If the session does not exist, the function
    /// returns no error.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: the session continues.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the caller does not know whether the session has ended.
    pub async fn end(&self, key: &SessionKey, why: EndReason) -> Result<Ended, StoreError> {
        let ended = self.store.end(Which::Key(*key), why).await?;
        Ok(if ended.is_empty() {
            Ended::Nothing
        } else if self.store.is_pending(key) {
            Ended::OnlyHere
        } else {
            Ended::Session
        })
    }

    /// Ends a session, unless the session has a newer version than `old`.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: the session continues.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the caller does not know whether the session has ended.
    pub(crate) async fn end_version(
        &self,
        old: &Arc<Session>,
        why: EndReason,
    ) -> Result<EndedVersion, StoreError> {
        let version = Which::Version(*old.key(), old.version());
        if !self.store.end(version, why).await?.is_empty() {
            return Ok(EndedVersion::Ended);
        }
        let newer = self.fetch(old.key()).await?;
        Ok(newer.map_or(EndedVersion::Ended, EndedVersion::Newer))
    }

    /// Ends a limited number of sessions that have passed a deadline, stores the times of last
    /// uses, and runs the housekeeping of the cache. The control plane calls this function about
    /// one time per second.
    ///
    /// # Errors
    ///
    /// After a [`StoreError`], the next call of `maintain` tries again.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the uses of sessions since the last call may not reach the store.
    pub async fn maintain(&self, now: Timestamp) -> Result<Maintained, StoreError> {
        self.tell_uses().await?;
        self.store.sweep(now).await
    }

    /// Closes the store. After `close`, requests still find the sessions in the cache, but no
    /// session can change any more. When this function returns, another process can open the file.
    ///
    /// # Errors
    ///
    /// [`StoreError`]. If the store has answered that a change is committed, the change is durable
    /// even after an error.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the caller does not know whether the store is closed.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.tell_uses().await?;
        self.store.close().await
    }

    async fn tell_uses(&self) -> Result<(), StoreError> {
        let uses = self.uses.take();
        if uses.is_empty() {
            return Ok(());
        }
        let told = self.store.touch(uses.clone()).await;
        if let Err(StoreError::Unavailable(_) | StoreError::Refused(_)) = told {
            // The next call reports these uses again.
            self.uses.put_back(uses);
        }
        told
    }

    /// Returns the number of processes that share the store. They share the limits of the calls to
    /// each provider.
    pub(crate) fn replicas(&self) -> NonZeroU32 {
        self.store.replicas()
    }

    /// Returns the reference to a session of this store.
    pub(crate) fn reference(&self, session: &Session) -> SessionRef {
        SessionRef {
            store_tag: self.store_tag,
            key: *session.key(),
        }
    }

    /// Returns the longest lifetime of a session cookie.
    pub(crate) fn cookie_lifetime(&self) -> Duration {
        self.limits.absolute()
    }
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod model;
#[cfg(test)]
mod replicas_tests;
#[cfg(test)]
mod tests;
