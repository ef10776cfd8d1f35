//! What a reload changes while sessions go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::backend::{Backend, Change};
use super::ending::EndReason;
use super::keeper::{Keeper, log_failure};
use super::registration::{self, Registrations};
use super::store::StoreError;
use super::survey::Found;
use super::{SessionKey, record};
use crate::clock::Timestamp;
use crate::seal::KeyRing;

/// Settings that take the place of those before. The store and its capacity are not among them: they
/// need a restart.
#[derive(Debug)]
pub(crate) struct Reconfiguration {
    /// A session that is not used for this long ends.
    pub idle: Duration,
    /// A session that is opened from now on ends this long after its login, whatever its use.
    pub absolute: Duration,
    /// Sessions that one person may have. It counts at the next login.
    pub per_person: usize,
    /// Other keys that seal what is in the file; `None` leaves the keys as they are.
    pub keys: Option<Arc<KeyRing>>,
    /// What each provider is.
    pub registrations: Registrations,
}

/// What became of the sessions when other settings took effect.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reconfigured {
    /// How many sessions ended because their provider is not configured any more, or is another server
    /// or client now, by the provider's name.
    pub ended: BTreeMap<Box<str>, u64>,
}

/// Why other settings did not take effect. Nothing has changed. Side: gateway; the operator acts.
#[derive(Debug, thiserror::Error)]
pub enum ReconfigureError {
    /// The file holds sessions that none of the new keys opens.
    #[error(
        "the file of sessions holds {sessions} sessions sealed with a key that is not in \
         login.state_key_file any more; put that key back below the newest one until they have ended"
    )]
    KeyInUse {
        /// How many.
        sessions: usize,
    },
    /// The file could not be read or written.
    #[error("the sessions were not changed")]
    Store(#[from] StoreError),
}

/// How long a session may be used without a look-up, at the most: the cache is to know which ones
/// are in use.
const LONGEST_WITHOUT_LOOK: u64 = 30_000;

/// How long the store may not know of the last use of a session, at the most.
const LONGEST_UNWRITTEN: u64 = 60_000;

/// How long sessions last, in milliseconds, and how many a person may have. All threads read it, and
/// only a reload writes it.
#[derive(Debug)]
pub(super) struct Limits {
    idle: AtomicU64,
    absolute: AtomicU64,
    per_person: AtomicUsize,
}

impl Limits {
    pub(super) fn new(idle: Duration, absolute: Duration, per_person: usize) -> Arc<Self> {
        Arc::new(Self {
            idle: AtomicU64::new(millis(idle)),
            absolute: AtomicU64::new(millis(absolute)),
            per_person: AtomicUsize::new(per_person),
        })
    }

    pub(super) fn set(&self, idle: Duration, absolute: Duration, per_person: usize) {
        self.idle.store(millis(idle), Ordering::Relaxed);
        self.absolute.store(millis(absolute), Ordering::Relaxed);
        self.per_person.store(per_person, Ordering::Relaxed);
    }

    pub(super) fn per_person(&self) -> usize {
        self.per_person.load(Ordering::Relaxed)
    }

    pub(super) fn idle(&self) -> Duration {
        Duration::from_millis(self.idle.load(Ordering::Relaxed))
    }

    pub(super) fn absolute(&self) -> Duration {
        Duration::from_millis(self.absolute.load(Ordering::Relaxed))
    }

    /// How long a session may be used without a look-up.
    pub(super) fn without_look(&self) -> Duration {
        Duration::from_millis(self.tenth().min(LONGEST_WITHOUT_LOOK))
    }

    /// Milliseconds, in each of which the store learns of one use. Never zero.
    pub(super) fn unwritten(&self) -> u64 {
        self.tenth().clamp(1, LONGEST_UNWRITTEN)
    }

    fn tenth(&self) -> u64 {
        self.idle.load(Ordering::Relaxed) / 10
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How many sessions are forgotten before the cache does its housekeeping: so few that no worker waits
/// for long if it has to help with that.
const AT_ONCE: usize = 100;

impl Keeper {
    /// Lets other settings take effect. Sessions whose provider is not there any more or is another one
    /// end in the same commit that registers the new ones.
    ///
    /// Where a provider or a key has gone, all of the file is read. Until that is done, sessions can be
    /// used and not changed.
    pub(super) fn reconfigure(
        &mut self,
        new: Reconfiguration,
        now: Timestamp,
    ) -> Result<Reconfigured, ReconfigureError> {
        let Reconfiguration {
            idle,
            absolute,
            per_person,
            keys,
            registrations,
        } = new;
        self.hear_of_evictions();
        let found = self.look(keys.as_deref(), &registrations, now)?;
        if found.unknown > 0 {
            return Err(ReconfigureError::KeyInUse {
                sessions: found.unknown,
            });
        }
        let expired = found.expired.iter().map(|key| (*key, EndReason::Absolute));
        let of_others = found.of_others.iter();
        let of_others = of_others.map(|key| (*key, EndReason::ProviderRemoved));
        let mut over: Vec<_> = expired.chain(of_others).collect();
        let before = self.limits.idle();
        if idle > before {
            // A longer idle time must not revive expired sessions.
            let why = |session: &_| Self::over(&self.fronts, session, (before, now));
            let all = self.index.all();
            over.extend(all.filter_map(|session| Some((*session.key(), why(session)?))));
        }
        self.register(&over, &registrations, keys)?;
        for over in over.chunks(AT_ONCE) {
            for (key, why) in over {
                self.forget(key, *why);
            }
            self.run_pending_tasks();
        }
        self.take_notices();
        self.limits.set(idle, absolute, per_person);
        self.registrations = registrations;
        registration::report(&found.ended);
        Ok(Reconfigured { ended: found.ended })
    }

    /// Looks which sessions do not count with other keys and providers.
    fn look(
        &mut self,
        keys: Option<&KeyRing>,
        after: &Registrations,
        now: Timestamp,
    ) -> Result<Found, StoreError> {
        let before = &self.registrations;
        let counts = |provider: &str| registration::counts(provider, before, after);
        let all_count = before.keys().all(|provider| counts(provider));
        match &mut self.backend {
            Backend::Memory if all_count => Ok(Found::default()),
            Backend::Memory => {
                let mut found = Found::default();
                for session in self.index.all() {
                    let provider = record::provider(session.contents());
                    if let Some(provider) = provider.filter(|provider| !counts(provider)) {
                        found.note_other(*session.key(), provider);
                    }
                }
                Ok(found)
            }
            Backend::Disk(disk) => {
                let current = Arc::clone(disk.keys());
                let keys = keys.unwrap_or(&current);
                if all_count && keys.contains_keys_of(&current) {
                    return Ok(Found::default());
                }
                disk.look(keys, now, (before, after))
            }
        }
    }

    /// Commits that these sessions are over and that the others are of these providers and are sealed
    /// with these keys.
    fn register(
        &mut self,
        over: &[(SessionKey, EndReason)],
        providers: &Registrations,
        keys: Option<Arc<KeyRing>>,
    ) -> Result<(), StoreError> {
        let Backend::Disk(disk) = &mut self.backend else {
            return Ok(());
        };
        let keys = keys.unwrap_or_else(|| Arc::clone(disk.keys()));
        if over.is_empty() && *providers == self.registrations && keys.is_same_as(disk.keys()) {
            return Ok(());
        }
        let removals = over.iter().map(|(key, _)| Change::Remove(*key));
        let removals: Vec<_> = removals.collect();
        log_failure(disk.register(&removals, providers, keys))
    }
}

#[cfg(test)]
#[path = "reconfigure_tests.rs"]
mod tests;
