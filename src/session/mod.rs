//! Who is signed in.
//!
//! A [`Session`] is an identity with its tokens under a [`SessionId`] that only the browser
//! knows. [`Sessions`] keeps them in memory, bounded by bytes, least recently used out first. The
//! room knows nothing of HTTP but the cookie's text, and nothing of how somebody signed in.
//!
//! The cache has no expiry of its own: a cache that expires entries runs its maintenance inside
//! `get`, and a thousand sessions that expire together then stall the worker that asks next.
//! Deadlines are part of the value and checked at each use; [`Sessions::maintain`], called by the
//! control plane, frees what has passed them in small batches.

pub mod cookie;
mod id;
mod index;

use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::mpsc;

pub use self::id::{Instance, SessionId, SessionKey};
use self::index::{Index, Looked};
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::secret::NoRandomness;
use crate::token::TokenSet;

/// How many sessions one batch of [`Sessions::maintain`] removes at most: small enough that a
/// worker's `get` beside it waits for milliseconds at the worst.
const BATCH: usize = 100;

/// What one cache entry costs beside the bytes that it holds, as measured: two counters, two
/// pointers in each of three structures of the cache, and the index.
const OVERHEAD: usize = 600;

/// How long sessions last and how many there may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, try_from = "RawSettings")]
pub struct Settings {
    /// A session that is not used for this long ends.
    pub idle: Duration,
    /// A session ends this long after its login, whatever its use.
    pub absolute: Duration,
    /// Bytes that all sessions together may take.
    pub capacity: u64,
    /// Sessions that one person may have; the oldest end first.
    pub per_person: usize,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSettings {
    idle_secs: NonZeroU64,
    absolute_secs: NonZeroU64,
    capacity_mib: NonZeroU64,
    per_person: NonZeroUsize,
}

/// Browsers keep no cookie for longer (RFC 6265bis section 5.5).
const LONGEST_SECS: u64 = 400 * 24 * 3600;

impl TryFrom<RawSettings> for Settings {
    type Error = String;

    fn try_from(raw: RawSettings) -> Result<Self, String> {
        let RawSettings {
            idle_secs,
            absolute_secs,
            capacity_mib,
            per_person,
        } = raw;
        let (idle_secs, absolute_secs) = (idle_secs.get(), absolute_secs.get());
        if idle_secs > absolute_secs {
            return Err(format!(
                "idle_secs ({idle_secs}) exceeds absolute_secs ({absolute_secs})"
            ));
        }
        if absolute_secs > LONGEST_SECS {
            return Err(format!(
                "absolute_secs ({absolute_secs}) exceeds the 400 days ({LONGEST_SECS}) for which \
                 browsers keep a cookie"
            ));
        }
        Ok(Self {
            idle: Duration::from_secs(idle_secs),
            absolute: Duration::from_secs(absolute_secs),
            capacity: capacity_mib.get().saturating_mul(1024 * 1024),
            per_person: per_person.get(),
        })
    }
}

/// One signed-in browser.
#[derive(Debug)]
pub struct Session {
    provider: Box<str>,
    identity: Identity,
    tokens: TokenSet,
    opened_at: Timestamp,
    ends_at: Timestamp,
    last_used: AtomicU64,
    ended: AtomicBool,
}

impl Session {
    /// The configured name of the provider that signed this person in.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// Who is signed in.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The tokens of the grant.
    pub fn tokens(&self) -> &TokenSet {
        &self.tokens
    }

    /// When it was opened.
    pub fn opened_at(&self) -> Timestamp {
        self.opened_at
    }

    fn deadline(&self, idle: Duration) -> Timestamp {
        let last_used = Timestamp::from_millis(self.last_used.load(Ordering::Relaxed));
        last_used.plus(idle).min(self.ends_at)
    }

    fn weight(&self) -> usize {
        let parts = [
            self.identity.weight(),
            self.tokens.weight(),
            self.provider.len(),
        ];
        parts.into_iter().fold(OVERHEAD, usize::saturating_add)
    }
}

/// What a session id leads to.
#[derive(Clone, Debug)]
#[must_use]
pub enum Lookup {
    /// A live session.
    Live(Arc<Session>),
    /// A session that has passed its idle or absolute deadline.
    Expired,
    /// No session here; the id was given out by another process, or by this one before a restart.
    OtherInstance,
    /// No session: it was ended, pushed out, or never existed.
    Unknown,
}

/// All sessions of this process. Shared by all workers; using one takes no lock.
#[derive(Debug)]
pub struct Sessions {
    settings: Settings,
    instance: Instance,
    cache: Cache<SessionKey, Arc<Session>>,
    // Taken by the control plane only: at a login, at a sign-out, and between batches.
    #[expect(
        clippy::disallowed_types,
        reason = "never taken on the path of a signed-in request"
    )]
    index: std::sync::Mutex<(Index, mpsc::UnboundedReceiver<SessionKey>)>,
    evicted: Arc<AtomicU64>,
}

/// What one call of [`Sessions::maintain`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Maintained {
    /// Nothing more is due.
    Done,
    /// A full batch was removed; more may be due at once.
    More,
}

impl Sessions {
    /// An empty store with an instance tag of its own.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] when the operating system gives no random bytes.
    pub fn new(settings: Settings) -> Result<Self, NoRandomness> {
        let (removed, removals) = mpsc::unbounded_channel();
        let evicted = Arc::new(AtomicU64::new(0));
        let pushed_out = Arc::clone(&evicted);
        let cache = Cache::builder()
            .eviction_policy(EvictionPolicy::lru())
            .max_capacity(settings.capacity)
            .weigher(|_, session: &Arc<Session>| {
                u32::try_from(session.weight()).unwrap_or(u32::MAX)
            })
            .eviction_listener(move |key: Arc<SessionKey>, session: Arc<Session>, cause| {
                session.ended.store(true, Ordering::Release);
                if cause == RemovalCause::Size {
                    pushed_out.fetch_add(1, Ordering::Relaxed);
                }
                // A send fails only when the store itself is gone, and the index with it.
                removed.send(*key).unwrap_or_default();
            })
            .build();
        #[expect(clippy::disallowed_types, reason = "see the field")]
        let index = std::sync::Mutex::new((Index::default(), removals));
        Ok(Self {
            settings,
            instance: Instance::random()?,
            cache,
            index,
            evicted,
        })
    }

    /// Finds the session of an id and marks it as used.
    pub fn find(&self, id: &SessionId, now: Timestamp) -> Lookup {
        let Some(session) = self.cache.get(&id.key()) else {
            let other = id.instance() != self.instance;
            return if other {
                Lookup::OtherInstance
            } else {
                Lookup::Unknown
            };
        };
        if session.ended.load(Ordering::Acquire) {
            return Lookup::Unknown;
        }
        if session.deadline(self.settings.idle) <= now {
            return Lookup::Expired;
        }
        // A write a second is enough for an idle deadline, and keeps the line shared between cores.
        let last_used = session.last_used.load(Ordering::Relaxed);
        if now.as_millis().saturating_sub(last_used) >= 1000 {
            session.last_used.store(now.as_millis(), Ordering::Relaxed);
        }
        Lookup::Live(session)
    }

    /// Opens a session and gives its new id. A person's oldest sessions beyond the cap end.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] when the operating system gives no random bytes; nothing is opened then.
    pub fn open(
        &self,
        provider: &str,
        identity: Identity,
        tokens: TokenSet,
        now: Timestamp,
    ) -> Result<SessionId, NoRandomness> {
        let id = SessionId::random(self.instance)?;
        let session = Arc::new(Session {
            provider: provider.into(),
            identity,
            tokens,
            opened_at: now,
            ends_at: now.plus(self.settings.absolute),
            last_used: AtomicU64::new(now.as_millis()),
            ended: AtomicBool::new(false),
        });
        let due = session.deadline(self.settings.idle);
        let surplus =
            self.index(|index| index.insert(id.key(), &session, due, self.settings.per_person));
        self.cache.insert(id.key(), session);
        for key in surplus {
            self.cache.invalidate(&key);
        }
        Ok(id)
    }

    /// Ends a session, for every request that comes after. Ending what is not there is fine.
    pub fn end(&self, id: &SessionId) {
        self.end_by_key(&id.key());
    }

    /// As [`Sessions::end`], for whoever kept no more of the id than its key.
    pub fn end_by_key(&self, key: &SessionKey) {
        // Readers that already hold the value see that it ended, too.
        if let Some(session) = self.cache.remove(key) {
            session.ended.store(true, Ordering::Release);
        }
        self.index(|index| index.remove(key));
    }

    /// Frees sessions that have passed their deadline, at most a small batch, and lets the cache
    /// do its own housekeeping. Called by the control plane about once a second.
    pub fn maintain(&self, now: Timestamp) -> Maintained {
        let idle = self.settings.idle;
        let (expired, looked) =
            self.index(|index| index.expired(now, BATCH, |session| session.deadline(idle)));
        for key in &expired {
            self.cache.invalidate(key);
        }
        self.index(|index| expired.iter().for_each(|key| index.remove(key)));
        self.cache.run_pending_tasks();
        if looked == Looked::AtSome {
            Maintained::More
        } else {
            Maintained::Done
        }
    }

    /// How many sessions the cache holds, within its own rounding.
    pub fn count(&self) -> u64 {
        self.cache.entry_count()
    }

    /// How many sessions were pushed out because the byte bound was reached.
    pub fn pushed_out(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// How long a session cookie may live at the most.
    pub fn cookie_lifetime(&self) -> Duration {
        self.settings.absolute
    }

    /// Works on the index, first forgetting what the cache has dropped by itself.
    fn index<T>(&self, work: impl FnOnce(&mut Index) -> T) -> T {
        let mut guard = self
            .index
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (index, removals) = &mut *guard;
        while let Ok(key) = removals.try_recv() {
            index.remove(&key);
        }
        work(index)
    }
}

#[cfg(test)]
mod tests;
