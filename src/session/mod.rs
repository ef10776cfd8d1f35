//! Who is signed in.
//!
//! A [`Session`] is an identity with its tokens under a [`SessionId`] that only the browser knows. The
//! room knows nothing of HTTP except the text of the cookie, and nothing of how somebody signed in.
//!
//! [`Sessions`] is a cache in front of a store. The cache is bounded by bytes, and the least recently
//! used sessions leave it first. The store decides whether a session exists: `store.rs` is the trait,
//! and `local.rs` is the store of one process, in memory or in a file. A second front with a cache of
//! its own can share a store.
//!
//! Looking a session up takes no lock and reads no file. Every change (open, replace, end) goes to the
//! store, which commits it and brings the caches up to date before it answers. So nobody acts on a
//! change that is not committed, and a refresh that comes a moment after a sign-out does not undo it.
//!
//! Every end of a session has a reason ([`EndReason`]). Work that lasts longer than a request registers
//! in the [`EndRegistry`] of its worker, which tells it when its session has ended. A reload changes
//! settings, keys and providers while sessions go on ([`Sessions::reconfigure`]).
//!
//! The cache does not expire entries. A cache that does runs its maintenance inside `get`, so a
//! thousand sessions that expire together would stall the worker that asks next. The deadlines are part
//! of the value, and every use checks them. The control plane calls [`Sessions::maintain`], which
//! removes expired sessions in small batches.

mod backend;
mod cache;
mod command;
pub mod cookie;
mod disk;
mod ending;
mod file;
mod id;
mod index;
mod keeper;
mod lease;
mod live;
mod local;
mod marks;
mod outcome;
mod packed;
mod pause;
mod plan;
mod preview;
mod reconfigure;
mod record;
mod registration;
mod settings;
mod store;
mod stored;
mod survey;
mod uses;

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use self::cache::Read;
pub(crate) use self::ending::SessionEvent;
pub use self::ending::{EndReason, EndRegistry, EndWatch};
pub use self::file::FileError;
pub(crate) use self::file::inspect;
pub(crate) use self::id::StoreTag;
pub use self::id::{SessionId, SessionKey};
use self::index::{Person, Rank};
use self::keeper::KeeperSettings;
#[cfg(test)]
pub(crate) use self::kit::two_fronts;
pub(crate) use self::lease::{Lease, Leased};
pub use self::live::Session;
use self::local::LocalStore;
pub(crate) use self::marks::Once;
pub(crate) use self::outcome::EndedVersion;
pub use self::outcome::{Ended, Lookup, Maintained, OpenError, Replaced, StartError};
pub(crate) use self::preview::{Preview, preview};
use self::reconfigure::Limits;
pub(crate) use self::reconfigure::Reconfiguration;
pub use self::reconfigure::{ReconfigureError, Reconfigured};
use self::record::Contents;
pub use self::registration::{Registration, Registrations};
pub use self::settings::{DiskSettings, Settings, StoreSettings};
pub use self::store::StoreError;
use self::store::{Opened, Opening, Replacement, Store, Which};
pub use self::stored::OVERHEAD;
pub(crate) use self::stored::SessionState;
use self::stored::Stored;
use self::uses::Uses;
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::seal::KeyRing;
use crate::token::TokenSet;

/// A login that has succeeded.
#[derive(Debug)]
pub struct NewSession<'a> {
    /// The configured name of the provider.
    pub provider: &'a str,
    /// The registration of the provider at the start of the login. If it is another one by now, no session
    /// is opened, since the name may belong to another server.
    pub registration: Registration,
    /// The identity of the person.
    pub identity: Identity,
    /// The tokens of the grant.
    pub tokens: TokenSet,
    /// The sessions that the browser had before. They end.
    pub replaces: Vec<SessionKey>,
}

/// All sessions of this process: a cache in front of a store. All workers share it, and looking a session
/// up takes no lock.
#[derive(Debug)]
pub struct Sessions {
    limits: Arc<Limits>,
    /// Whether a session that is not in the cache may be in the store.
    outlives_cache: bool,
    store_tag: StoreTag,
    cache: Cache<SessionKey, Arc<Stored>>,
    uses: Uses,
    store: Arc<dyn Store>,
}

impl Sessions {
    /// Opens the store that the settings name. Blocks, for seconds if the file is large. `keys` seal
    /// the records in the file. Sessions in the file end if their provider is not among `providers`, or
    /// was another server or client before.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub fn start(
        settings: Settings,
        keys: impl Into<Arc<KeyRing>>,
        providers: &Registrations,
        now: Timestamp,
    ) -> Result<Self, StartError> {
        let Settings {
            idle,
            absolute,
            capacity,
            per_person,
            refresh_wait: _,
            store,
        } = settings;
        let limits = Limits::new(idle, absolute, per_person);
        let keeper = KeeperSettings {
            limits: Arc::clone(&limits),
            capacity,
            registrations: providers.clone(),
        };
        let store = LocalStore::start(&store, keys.into(), keeper, now)?;
        Ok(Self::on(Arc::new(store), limits))
    }

    /// A front of a store.
    fn on(store: Arc<dyn Store>, limits: Arc<Limits>) -> Self {
        Self {
            limits,
            outlives_cache: store.outlives_cache(),
            store_tag: store.store_tag(),
            cache: store.cache().sessions().clone(),
            uses: Uses::default(),
            store,
        }
    }

    /// Lets other settings take effect while sessions go on: all of them or, on an error, none.
    /// Sessions end if their provider is not registered any more, or is another server or client now.
    /// The change is committed before this returns.
    ///
    /// # Errors
    ///
    /// [`ReconfigureError`]; nothing has changed then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves open whether the settings took effect.
    pub(crate) async fn reconfigure(
        &self,
        new: Reconfiguration,
        now: Timestamp,
    ) -> Result<Reconfigured, ReconfigureError> {
        self.store.reconfigure(new, now).await
    }

    /// Finds the session of an id and marks it as used.
    pub fn find(&self, id: &SessionId, now: Timestamp) -> Lookup {
        let key = id.key();
        let Some(mut stored) = self.cache.get(&key) else {
            return self.absent(id);
        };
        if stored.state() == SessionState::Superseded {
            // The session was replaced a moment ago, or evicted.
            let Some(again) = self.cache.get(&key) else {
                return self.absent(id);
            };
            stored = again;
        }
        if stored.state() == SessionState::Ended {
            return Lookup::Unknown;
        }
        if !self.note_use(&stored, now) {
            return Lookup::Expired;
        }
        match Session::of(stored) {
            Some(session) => Lookup::Live(Arc::new(session)),
            None => Lookup::Unknown,
        }
    }

    /// Notes a use of a session. False if the session has passed a deadline.
    fn note_use(&self, stored: &Arc<Stored>, now: Timestamp) -> bool {
        if stored.deadline(self.limits.idle()) <= now {
            return false;
        }
        if let Some(before) = stored.note_use(now) {
            self.tell_of_use(stored, before, now);
        }
        true
    }

    /// Uses a session again that was looked up at `found_at`. False if the session has to be looked up
    /// again: this value is not current, it has passed a deadline, or the look-up was too long ago.
    pub(crate) fn still(&self, session: &Session, found_at: Timestamp, now: Timestamp) -> bool {
        let is_recent = found_at <= now && now.since(found_at) < self.limits.without_look_up();
        is_recent && session.state() == SessionState::Live && self.note_use(session.stored(), now)
    }

    /// The result for an id that is not in the cache.
    fn absent(&self, id: &SessionId) -> Lookup {
        if id.store_tag() != self.store_tag {
            return Lookup::OtherInstance;
        }
        if self.outlives_cache {
            Lookup::Away
        } else {
            Lookup::Unknown
        }
    }

    /// Notes a use for the store, but only the first one in each stretch of time.
    fn tell_of_use(&self, stored: &Arc<Stored>, before: Timestamp, now: Timestamp) {
        if !self.outlives_cache {
            return;
        }
        let stretch = self.limits.stretch();
        if before.as_millis().checked_div(stretch) != now.as_millis().checked_div(stretch) {
            self.uses.note(stored);
        }
    }

    /// Reads a session from the store into the cache; `None` when there is no such session. The caller
    /// checks its deadlines with [`Sessions::find`].
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
            let stored = self.store.get(*key).await?;
            match read.finish(stored) {
                Read::Current(None) => return Ok(None),
                Read::Current(Some(stored)) => {
                    let session = Session::of(stored).ok_or(StoreError::Damaged)?;
                    return Ok(Some(Arc::new(session)));
                }
                Read::Outdated => {}
            }
        }
    }

    /// Opens a session and returns its new id. The sessions that it replaces end, and the person's oldest
    /// sessions beyond the bound. All of this is committed before it returns, or nothing.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; nothing is opened or ended then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave a session whose id nobody knows.
    pub async fn open(&self, new: NewSession<'_>, now: Timestamp) -> Result<SessionId, OpenError> {
        let id = SessionId::random(self.store_tag)?;
        let rank = Rank {
            person: Person::of(&new.identity),
            ends_at: now.plus(self.limits.absolute()),
            key: id.key(),
        };
        let contents = Contents {
            version: 0,
            provider: new.provider.into(),
            identity: new.identity,
            tokens: new.tokens,
            opened_at: now,
        };
        let session = Arc::new(Stored::new(rank, now, &contents));
        let opening = Opening {
            registration: new.registration,
            replaces: new.replaces,
            per_person: self.limits.per_person(),
        };
        match self.store.open(session, opening).await? {
            Opened::Stored => Ok(id),
            Opened::NoProvider => Err(OpenError::UnknownProvider),
        }
    }

    /// Replaces a session's tokens, and its identity if another one is given, provided that `old` is
    /// still the current version. The new version is committed before this returns and before anybody
    /// can find it.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the old version stays current then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves open whether the session was replaced.
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

    /// Ends a session, for every request that comes after, whatever its version. The end is committed
    /// before this returns. Ending a session that does not exist is no error.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the session goes on then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves open whether the session ended.
    pub async fn end(&self, key: &SessionKey, why: EndReason) -> Result<Ended, StoreError> {
        let ended = self.store.end(Which::Key(*key), why).await?;
        Ok(if ended.is_empty() {
            Ended::Nothing
        } else {
            Ended::Session
        })
    }

    /// Ends a session, provided that nobody has replaced this version meanwhile.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the session goes on then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves open whether the session ended.
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

    /// Ends sessions that have passed a deadline, at most a small batch, stores when sessions were used
    /// last, and lets the cache do its housekeeping. The control plane calls it about once a second.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the next call tries again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may lose the last uses of the time since the last call.
    pub async fn maintain(&self, now: Timestamp) -> Result<Maintained, StoreError> {
        self.tell_uses().await?;
        self.store.sweep(now).await
    }

    /// Closes the store. Requests still find the sessions in the cache, but nobody can change a session.
    /// When this returns another process can open the file.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; all changes that were acknowledged before are durable all the same.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves open whether the store is closed.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.tell_uses().await?;
        self.store.close().await
    }

    async fn tell_uses(&self) -> Result<(), StoreError> {
        let uses = self.uses.take();
        if uses.is_empty() {
            return Ok(());
        }
        self.store.touch(uses).await
    }

    /// The number of sessions in the cache and the store.
    pub fn count(&self) -> u64 {
        self.store.count()
    }

    /// The number of sessions that the cache has evicted to stay within its capacity.
    pub(crate) fn pushed_out(&self) -> u64 {
        self.store.cache().evicted()
    }

    /// The number of bytes that count for the capacity of the cache: the contents of its sessions, and
    /// [`OVERHEAD`] for each.
    pub fn weight(&self) -> u64 {
        self.cache.weighted_size()
    }

    /// The longest lifetime of a session cookie.
    pub(crate) fn cookie_lifetime(&self) -> Duration {
        self.limits.absolute()
    }
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod fronts_tests;
#[cfg(test)]
mod kit;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
