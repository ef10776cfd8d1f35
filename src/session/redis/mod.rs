//! The session store in Redis or Valkey, which several replicas share.
//!
//! [`RedisStore`] is the handle of a replica. One thread has the connection to the server and runs
//! all calls ([`link`]). Each change is one script ([`scripts`]), which the server runs as one
//! transaction, and which informs the other replicas ([`event`]). The values are encrypted
//! ([`value`]), and the keys contain no session ids. Whoever can read the server learns how many
//! sessions each user hash has, but cannot use a session.
//!
//! All keys begin with the configured prefix and the hash tag `{1}`. KEY, HASH and REPLICA are raw
//! bytes, so that the keys are short. The hash tag determines the slot of a key in a cluster, so all
//! keys of a store are in one slot, and each script is one transaction also in a cluster:
//!
//! | key | type | content |
//! | --- | --- | --- |
//! | `{1}sKEY` | string | the session ([`value`]) |
//! | `{1}lKEY` | string | the lease of the session: the token of its holder |
//! | `{1}i1` | sorted set | the keys of all sessions, by the time of the last use |
//! | `{1}uHASH` | sorted set | the sessions of a user, by the end of their lifetime |
//! | `{1}pHASH` | sorted set | the sessions that belong to one session at the provider, in no order |
//! | `{1}eKIND HASH` | string | the time when a group of sessions has ended, by the server's clock |
//! | `{1}mKIND HASH` | string | a mark of a value that was used |
//! | `{1}rREPLICA` | string | shows that a replica is running |
//! | `{1}v` | string | the name of the server that the replicas use ([`arrival`]) |
//! | `{1}w` | string | exists while the replicas bring back their latest changes ([`arrival`]) |
//!
//! A script writes the indexes before the session, and an index entry without a session is removed
//! when a script reads the index. Every key except `{1}i1` and `{1}v` has a time to live, and the sweep
//! removes the entries of `{1}i1`, so the server needs no cleaning by hand.

mod alarm;
mod arrival;
mod calls;
mod commands;
mod connect;
mod error;
mod event;
mod heartbeats;
mod intents;
mod journal;
mod leases;
mod link;
mod moving;
mod pending;
mod probe;
mod reconfiguring;
mod scripts;
mod sentinels;
mod server_clock;
mod settings;
mod value;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use redis::RedisError;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, watch};

use self::alarm::Alarm;
pub use self::error::RedisConnectError;
use self::event::Origin;
use self::journal::Journal;
use self::leases::Leases;
use self::link::{Link, connecting};
pub(crate) use self::moving::{Destination, move_sessions};
pub use self::moving::{MoveError, Moved};
use self::pending::Pending;
use self::scripts::Names;
pub use self::settings::RedisSettings;
use crate::clock::{Clock, Timestamp};
use crate::seal::KeyRing;
use crate::secret::random;
use crate::session::cache::{Eviction, SessionCache};
use crate::session::groups::digest_of;
use crate::session::limits::Limits;
use crate::session::record::StoreIdentity;
use crate::session::{Registrations, StartError, StoreError, StoreTag};

/// The parts of a replica that do not come from the settings of the store.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) limits: Arc<Limits>,
    /// The maximum number of bytes in the cache.
    pub(super) capacity: u64,
    pub(super) registrations: Registrations,
    pub(super) keys: Arc<KeyRing>,
    pub(super) clock: Clock,
}

/// The handle of a replica of the shared store. When the handle is dropped, the thread of the
/// replica ends.
#[derive(Debug)]
pub(super) struct RedisStore {
    shared: Arc<Shared>,
    runtime: Handle,
    store_tag: StoreTag,
}

/// The numbers of reads whose session could not be read, by reason.
#[derive(Debug, Default)]
struct Unreadable {
    damaged: AtomicU64,
    newer: AtomicU64,
    unknown_key: AtomicU64,
}

/// The data of a replica.
struct Shared {
    settings: RedisSettings,
    names: Names,
    cache: Arc<SessionCache>,
    limits: Arc<Limits>,
    registrations: ArcSwap<Registrations>,
    keys: ArcSwap<KeyRing>,
    clock: Clock,
    link: watch::Sender<Link>,
    /// The error of a command that shows that the connection must be replaced.
    failed: watch::Sender<Option<RedisError>>,
    alarm: Alarm,
    /// The number of sessions at the last answer of the server.
    count: AtomicU64,
    /// The number of replicas at the last answer of the server. Zero before the first answer.
    replicas: AtomicU32,
    /// The time by which the clock of the server is ahead of the gateway's clock, in milliseconds.
    server_ahead: AtomicI64,
    /// The time at which the last heartbeat that came back was sent, by the gateway's clock. Zero
    /// before the first heartbeat.
    last_heartbeat: AtomicU64,
    /// Whether the answer to a command is missing, so that the server may have made a change of which
    /// this replica does not know.
    has_lost_answers: AtomicBool,
    pending: Pending,
    journal: Journal,
    leases: Leases,
    unreadable: Unreadable,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Starts the thread of a replica. This function blocks the calling thread until the first
    /// attempt to connect has ended.
    ///
    /// # Errors
    ///
    /// [`StartError`]. If the server only does not answer, there is no error, and the replica
    /// connects later.
    pub(super) fn start(settings: RedisSettings, replica: Replica) -> Result<Self, StartError> {
        let origin: Origin = random()?;
        let store_tag = store_tag(&settings);
        let shared = Arc::new(Shared {
            names: Names {
                prefix: settings.prefix.clone(),
                database: settings.database,
                origin,
            },
            cache: new_cache(replica.capacity),
            limits: replica.limits,
            registrations: ArcSwap::from_pointee(replica.registrations),
            keys: ArcSwap::new(replica.keys),
            clock: replica.clock,
            link: connecting(),
            failed: watch::Sender::new(None),
            alarm: Alarm::default(),
            count: AtomicU64::new(0),
            replicas: AtomicU32::new(0),
            server_ahead: AtomicI64::new(0),
            last_heartbeat: AtomicU64::new(0),
            has_lost_answers: AtomicBool::new(false),
            pending: Pending::default(),
            journal: Journal::default(),
            leases: Leases::default(),
            unreadable: Unreadable::default(),
            settings,
        });
        // Until the first heartbeat, the cache is not known to be up to date.
        shared.cache.coherence().set_until(Timestamp::default());
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::Thread)?;
        let handle = runtime.handle().clone();
        let (first, tried) = std::sync::mpsc::channel();
        let work = Arc::clone(&shared).keep_connected(first);
        let thread = std::thread::Builder::new().name("sessions".to_owned());
        // No code joins the thread. The thread ends when the store is closed or dropped.
        thread
            .spawn(move || runtime.block_on(work))
            .map_err(StartError::Thread)?;
        let store = Self {
            runtime: handle,
            store_tag,
            shared,
        };
        let settings = &store.shared.settings;
        let patience = settings
            .connect_timeout
            .saturating_add(settings.command_timeout);
        match tried.recv_timeout(patience) {
            Ok(Err(error)) if error.is_mistake() => Err(StartError::Redis(error)),
            Ok(_) | Err(_) => Ok(store),
        }
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.shared.link.send_replace(Link::Closed);
    }
}

fn new_cache(capacity: u64) -> Arc<SessionCache> {
    // No code needs to know which sessions are in the cache.
    let (notices, _unused) = mpsc::unbounded_channel();
    Arc::new(SessionCache::new(capacity, Eviction::Keeps, notices))
}

/// Returns the identity of the store, which all replicas of the store compute. The addresses of the
/// servers do not count, because a store can move to another server.
fn identity(settings: &RedisSettings) -> StoreIdentity {
    let digest = digest_of(&settings.prefix, &settings.database.to_string());
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

/// Returns the tag of the store, which is the beginning of its identity.
fn store_tag(settings: &RedisSettings) -> StoreTag {
    let tag = identity(settings).first_chunk().copied();
    StoreTag::from_bytes(tag.unwrap_or_default())
}

impl Shared {
    /// Converts a time of the gateway's clock to the clock of the server.
    fn server_time(&self, at: Timestamp) -> u64 {
        let ahead = self.server_ahead.load(Ordering::Relaxed);
        at.as_millis().saturating_add_signed(ahead)
    }

    /// Returns an error if the server does not answer or refuses changes.
    fn ready(&self) -> Result<(), StoreError> {
        match &*self.link.borrow() {
            Link::Down(error) => {
                let error: Arc<RedisConnectError> = Arc::clone(error);
                Err(StoreError::Unavailable(error))
            }
            Link::Closed => Err(StoreError::Closed),
            Link::Connecting | Link::Up(_) if self.alarm.is_refused() => {
                Err(StoreError::Refused(Arc::new(fmt::Error)))
            }
            Link::Connecting | Link::Up(_) => Ok(()),
        }
    }
}

#[cfg(test)]
pub(super) mod server;
#[cfg(test)]
mod tests;

#[cfg(test)]
impl Shared {
    /// Waits until this replica has applied all messages that the server has sent so far. The server
    /// sends messages and answers in one order.
    async fn settle(self: Arc<Self>) -> Result<(), StoreError> {
        let mut count = redis::cmd("ZCARD");
        count.arg(self.names.index());
        self.note_count(self.send(&count).await?);
        Ok(())
    }
}
