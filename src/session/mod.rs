//! Who is signed in.
//!
//! A [`Session`] is an identity with its tokens under a [`SessionId`] that only the browser
//! knows. [`Sessions`] keeps them in memory, bounded by bytes, least recently used out first, and
//! if wanted in a file as well, so that they outlive the process. The room knows nothing of HTTP
//! but the cookie's text, and nothing of how somebody signed in.
//!
//! Looking a session up takes no lock and reads no file. Whatever changes one (opening, replacing
//! its tokens, ending) is a command to the one thread that keeps them, and is committed before
//! anybody can act on it. So a sign-out is never undone by a renewal that comes a moment later.
//!
//! Whoever ends a session says why ([`EndReason`]). What goes on for longer than a request registers
//! in its worker's [`EndRegistry`] and is told. A reload changes settings, keys and providers while
//! sessions go on ([`Sessions::reconfigure`]).
//!
//! The cache has no expiry of its own: a cache that expires entries runs its maintenance inside
//! `get`, and a thousand sessions that expire together then stall the worker that asks next.
//! Deadlines are part of the value and checked at each use; [`Sessions::maintain`], called by the
//! control plane, frees what has passed them in small batches.

mod command;
pub mod cookie;
mod disk;
mod ending;
mod file;
mod id;
mod index;
mod keeper;
mod live;
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

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::{mpsc, oneshot};

use self::command::{Command, Notice, Opened};
use self::ending::Listeners;
pub use self::ending::{EndReason, EndRegistry, EndWatch};
pub use self::file::FileError;
pub(crate) use self::file::inspect;
pub(crate) use self::id::StoreTag;
pub use self::id::{SessionId, SessionKey};
use self::index::{Person, Rank};
use self::keeper::{Figures, Keeper, Limits, Ways};
pub use self::live::Session;
pub(crate) use self::outcome::EndedVersion;
pub use self::outcome::{Ended, Lookup, Maintained, OpenError, Replaced, StartError};
pub(crate) use self::preview::{Preview, preview};
use self::reconfigure::Lifetimes;
pub(crate) use self::reconfigure::Reconfiguration;
pub use self::reconfigure::{ReconfigureError, Reconfigured};
use self::record::Contents;
pub use self::registration::{Registration, Registrations};
pub use self::settings::{DiskSettings, Settings, StoreSettings};
use self::store::Store;
pub use self::store::StoreError;
pub use self::stored::OVERHEAD;
pub(crate) use self::stored::SessionState;
use self::stored::Stored;
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::seal::KeyRing;
use crate::token::TokenSet;

/// A login that succeeded.
#[derive(Debug)]
pub struct NewSession<'a> {
    /// The configured name of the provider.
    pub provider: &'a str,
    /// What that provider was when the person signed in. If that is not what is registered, nobody is
    /// signed in: by now the name may be that of another server.
    pub registration: Registration,
    /// Who signed in.
    pub identity: Identity,
    /// The tokens of the grant.
    pub tokens: TokenSet,
    /// Sessions that end with it: those that the browser had before.
    pub replaces: Vec<SessionKey>,
}

/// All sessions of this process. Shared by all workers; looking one up takes no lock.
#[derive(Debug)]
pub struct Sessions {
    lifetimes: Arc<Lifetimes>,
    /// Whether what is not in memory may be in a file.
    is_durable: bool,
    store_tag: StoreTag,
    cache: Cache<SessionKey, Arc<Stored>>,
    commands: mpsc::Sender<Command>,
    notices: mpsc::UnboundedSender<Notice>,
    figures: Arc<Figures>,
    listeners: Arc<Listeners>,
}

impl Sessions {
    /// Opens the store that the settings name and starts the thread that keeps it. Blocks, for
    /// seconds if the file is large. `keys` seal what is in the file; its sessions of providers that
    /// are not among `providers`, or were another server or client before, are removed.
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
        let lifetimes = Lifetimes::new(settings.idle, settings.absolute);
        let limits = Limits {
            lifetimes: Arc::clone(&lifetimes),
            per_person: settings.per_person,
            capacity: settings.capacity,
            registrations: providers.clone(),
        };
        let (store_tag, is_durable, keeper, ways) = match settings.store {
            StoreSettings::Memory => {
                let (keeper, ways) = Keeper::new(Store::Memory, limits);
                (StoreTag::random()?, false, keeper, ways)
            }
            StoreSettings::Disk(disk) => {
                let disk = disk::Disk::open(&disk.file, keys.into())?;
                let store_tag = disk.store_tag();
                let (mut keeper, ways) = Keeper::new(Store::Disk(Box::new(disk)), limits);
                keeper.restore(now)?;
                (store_tag, true, keeper, ways)
            }
        };
        let thread = std::thread::Builder::new().name("sessions".to_owned());
        thread
            .spawn(move || keeper.run())
            .map_err(StartError::Thread)?;
        let Ways {
            commands,
            notices,
            cache,
            figures,
            listeners,
        } = ways;
        Ok(Self {
            lifetimes,
            is_durable,
            store_tag,
            cache,
            commands,
            notices,
            figures,
            listeners,
        })
    }

    /// Lets other settings take effect while sessions go on: all of them or, on an error, none. Sessions
    /// of providers that are not registered any more, or are another server or client now, end; it is
    /// committed before this returns.
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
        let (answer, answered) = oneshot::channel();
        let new = Box::new(new);
        let command = Command::Reconfigure { new, now, answer };
        let sent = self.commands.send(command).await;
        sent.map_err(|_closed| StoreError::Closed)?;
        answered.await.map_err(|_closed| StoreError::Closed)?
    }

    /// Finds the session of an id and marks it as used.
    pub fn find(&self, id: &SessionId, now: Timestamp) -> Lookup {
        let key = id.key();
        let Some(mut stored) = self.cache.get(&key) else {
            return self.absent(id);
        };
        if stored.state() == SessionState::Superseded {
            // It was replaced just now, or pushed out.
            let Some(again) = self.cache.get(&key) else {
                return self.absent(id);
            };
            stored = again;
        }
        if stored.state() == SessionState::Ended {
            return Lookup::Unknown;
        }
        if !self.use_now(&stored, now) {
            return Lookup::Expired;
        }
        match Session::of(stored) {
            Some(session) => Lookup::Live(Arc::new(session)),
            None => Lookup::Unknown,
        }
    }

    /// Marks a session as used, unless it has passed its deadline: then it says false.
    fn use_now(&self, stored: &Arc<Stored>, now: Timestamp) -> bool {
        if stored.deadline(self.lifetimes.idle()) <= now {
            return false;
        }
        if let Some(before) = stored.note_use(now) {
            self.tell_of_use(stored, before, now);
        }
        true
    }

    /// Uses a session that was found at `found_at` once more without a look-up. False when it has to
    /// be looked up again, because this value no longer stands, has passed its deadline, or was found
    /// too long ago.
    pub(crate) fn still(&self, session: &Session, found_at: Timestamp, now: Timestamp) -> bool {
        let lately = found_at <= now && now.since(found_at) < self.lifetimes.without_look();
        lately && session.state() == SessionState::Live && self.use_now(session.stored(), now)
    }

    /// What an id leads to that nothing is in memory for.
    fn absent(&self, id: &SessionId) -> Lookup {
        if id.store_tag() != self.store_tag {
            return Lookup::OtherInstance;
        }
        if self.is_durable {
            Lookup::Away
        } else {
            Lookup::Unknown
        }
    }

    /// Lets the store know of a use, seldom: once in each stretch of time in which there is one.
    fn tell_of_use(&self, stored: &Arc<Stored>, before: Timestamp, now: Timestamp) {
        if !self.is_durable {
            return;
        }
        let stretch = self.lifetimes.unwritten();
        if before.as_millis().checked_div(stretch) != now.as_millis().checked_div(stretch) {
            // A send fails only when the keeper is gone, and then nothing is kept any more.
            let notice = Notice::Used(Arc::clone(stored));
            self.notices.send(notice).unwrap_or_default();
        }
    }

    /// Brings a session back that is in the file and not in memory; `None` when it is not there
    /// either. Its deadline is [`Sessions::find`]'s affair.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn fetch(&self, key: &SessionKey) -> Result<Option<Arc<Session>>, StoreError> {
        let key = *key;
        self.ask(|answer| Command::Fetch { key, answer }).await
    }

    /// Opens a session and gives its new id. A person's oldest sessions beyond the cap end, and
    /// those that it replaces. All of it is committed, or nothing, before this returns.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; nothing is opened or ended then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave a session that nobody knows the id of.
    pub async fn open(&self, new: NewSession<'_>, now: Timestamp) -> Result<SessionId, OpenError> {
        let id = SessionId::random(self.store_tag)?;
        let rank = Rank {
            person: Person::of(&new.identity),
            ends_at: now.plus(self.lifetimes.absolute()),
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
        let (registration, replaces) = (new.registration, new.replaces);
        let opened = self.ask(|answer| Command::Open {
            session,
            registration,
            replaces,
            answer,
        });
        match opened.await? {
            Opened::Stored => Ok(id),
            Opened::NoProvider => Err(OpenError::UnknownProvider),
        }
    }

    /// Replaces a session's tokens, and its identity if another is given, provided that `old` still
    /// stands. The new version is committed before this returns and before anybody can find it.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the old version stands then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves open whether it was replaced.
    pub async fn replace(
        &self,
        old: &Arc<Session>,
        tokens: TokenSet,
        identity: Option<Identity>,
    ) -> Result<Replaced, StoreError> {
        let (old, identity) = (Arc::clone(old), identity.map(Box::new));
        self.ask(|answer| Command::Replace {
            old,
            tokens,
            identity,
            answer,
        })
        .await
    }

    /// Ends a session, for every request that comes after, whatever its version. It is committed
    /// before this returns. Ending what is not there is fine.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the session goes on then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves open whether it ended.
    pub async fn end(&self, key: &SessionKey, why: EndReason) -> Result<Ended, StoreError> {
        let key = *key;
        self.ask(|answer| Command::End { key, why, answer }).await
    }

    /// As [`Sessions::end`], provided that nobody replaced this version meanwhile.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the session goes on then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves open whether it ended.
    pub(crate) async fn end_version(
        &self,
        old: &Arc<Session>,
        why: EndReason,
    ) -> Result<EndedVersion, StoreError> {
        let old = Arc::clone(old);
        self.ask(|answer| Command::EndVersion { old, why, answer })
            .await
    }

    /// Frees sessions that have passed their deadline, at most a small batch, writes down when
    /// sessions were used last, and lets the cache do its own housekeeping. Called by the control
    /// plane about once a second.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the next call tries again.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn maintain(&self, now: Timestamp) -> Result<Maintained, StoreError> {
        self.ask(|answer| Command::Maintain { now, answer }).await
    }

    /// Closes the store; what is in memory can still be found, but nothing can be changed. When
    /// this returns another process can open the file.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; all that was acknowledged before is durable all the same.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the closing.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.ask(|answer| Command::Close { answer }).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.commands.send(command(answer)).await;
        sent.map_err(|_closed| StoreError::Closed)?;
        answered.await.map_err(|_closed| StoreError::Closed)?
    }

    /// How many sessions there are, in memory or in the file.
    pub fn count(&self) -> u64 {
        self.figures.sessions.load(Ordering::Relaxed)
    }

    /// How many sessions were pushed out of memory because the byte bound was reached.
    pub(crate) fn pushed_out(&self) -> u64 {
        self.figures.pushed_out.load(Ordering::Relaxed)
    }

    /// How many bytes sessions in memory take, as they count for the bound: what they hold, and
    /// [`OVERHEAD`] for each.
    pub fn weight(&self) -> u64 {
        self.cache.weighted_size()
    }

    /// How long a session cookie may live at the most.
    pub(crate) fn cookie_lifetime(&self) -> Duration {
        self.lifetimes.absolute()
    }
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
