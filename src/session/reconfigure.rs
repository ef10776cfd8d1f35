//! The settings that a reload changes without ending valid sessions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::backend::{Backend, Change};
use super::ending::EndReason;
use super::keeper::{Keeper, log_failure};
use super::limits::LimitsOfProviders;
use super::registration::{self, Registrations};
use super::store::StoreError;
use super::survey::Survey;
use super::{SessionKey, record};
use crate::clock::Timestamp;
use crate::seal::KeyRing;

/// New settings of sessions. A change of the store or of its capacity needs a restart.
#[derive(Debug)]
pub(crate) struct Reconfiguration {
    /// If no request uses a session for the time `idle`, the session ends.
    pub idle: Duration,
    /// A session ends when this time has passed since its login, even if the session is in use. If
    /// a reload changes `absolute`, the absolute deadlines of existing sessions stay the same.
    pub absolute: Duration,
    /// The shorter limits of single providers. Both limits also apply to running sessions.
    pub of_providers: LimitsOfProviders,
    /// The maximum number of sessions of one user. If a reload changes `per_person`, the new value
    /// takes effect for a user at the next login of this user.
    pub per_person: usize,
    /// The new keys for the session file. `None` changes no key.
    pub keys: Option<Arc<KeyRing>>,
    /// The fingerprints of all providers.
    pub registrations: Registrations,
}

/// The effect of new settings on the sessions.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reconfigured {
    /// The number of sessions that ended, for each provider name. A session ended if its provider
    /// was removed from the settings, or if the name of its provider now belongs to another server
    /// or client.
    pub ended: BTreeMap<Box<str>, u64>,
}

/// The reason why new settings did not take effect. All settings and sessions are unchanged after a
/// [`ReconfigureError`]. The operator is responsible for this error.
#[derive(Debug, thiserror::Error)]
pub enum ReconfigureError {
    /// The file contains sessions that cannot be decrypted with any of the new keys.
    #[error(
        "the session file holds {sessions} sessions sealed with a key that is not in \
         login.state_key_file any more; put that key back below the newest one until they have ended"
    )]
    KeyInUse {
        /// The number of sessions that cannot be decrypted with any of the new keys.
        sessions: usize,
    },
    /// The file could not be read or written.
    #[error("the sessions were not changed")]
    Store(#[from] StoreError),
}

/// The keeper removes ended sessions from the cache in groups of `AT_ONCE` sessions, and runs the
/// cache's maintenance after each group. If `AT_ONCE` were large, a worker that uses the cache
/// might have to run much of the maintenance.
pub(super) const AT_ONCE: usize = 100;

impl Keeper {
    /// Applies new settings. A session ends if its provider was removed or has changed. One commit
    /// removes the ended sessions.
    ///
    /// If a provider has changed or a key was removed, the store reads the whole session file.
    /// While the file is read, requests can use sessions, but no session can be changed.
    pub(super) fn reconfigure(
        &mut self,
        new: Reconfiguration,
        now: Timestamp,
    ) -> Result<Reconfigured, ReconfigureError> {
        let Reconfiguration {
            idle,
            absolute,
            of_providers,
            per_person,
            keys,
            registrations,
        } = new;
        self.process_evictions();
        let found = self.survey(keys.as_deref(), &registrations, now)?;
        if found.unknown_key > 0 {
            return Err(ReconfigureError::KeyInUse {
                sessions: found.unknown_key,
            });
        }
        let expired = found.expired.iter().map(|key| (*key, EndReason::Absolute));
        let of_changed = found.of_changed_providers.iter();
        let of_changed = of_changed.map(|key| (*key, EndReason::ProviderRemoved));
        let mut over: Vec<_> = expired.chain(of_changed).collect();
        if idle > self.limits.idle() || self.limits.differ_by_provider() {
            // A reload with longer limits must not make expired sessions valid again.
            let why = |session: &_| Self::expired((&self.limits, &self.replicas), session, now);
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
        // The limits change only after the commit, so that a failed reload changes nothing.
        self.limits.set((idle, absolute), per_person, of_providers);
        self.registrations = registrations;
        registration::report(&found.ended);
        Ok(Reconfigured { ended: found.ended })
    }

    /// Finds the sessions that become invalid with the new keys and providers.
    fn survey(
        &mut self,
        keys: Option<&KeyRing>,
        after: &Registrations,
        now: Timestamp,
    ) -> Result<Survey, StoreError> {
        let before = &self.registrations;
        let is_same = |provider: &str| registration::is_same(provider, before, after);
        let all_same = before.keys().all(|provider| is_same(provider));
        match &mut self.backend {
            Backend::Memory if all_same => Ok(Survey::default()),
            Backend::Memory => {
                let mut found = Survey::default();
                for session in self.index.all() {
                    let provider = record::provider(session.contents());
                    if let Some(provider) = provider.filter(|provider| !is_same(provider)) {
                        found.note_changed_provider(*session.key(), provider);
                    }
                }
                Ok(found)
            }
            Backend::Disk(disk) => {
                let current = Arc::clone(disk.keys());
                let keys = keys.unwrap_or(&current);
                if all_same && keys.contains_keys_of(&current) {
                    return Ok(Survey::default());
                }
                disk.survey(keys, now, after)
            }
        }
    }

    /// Removes the sessions in the argument `over` from the file, in one commit. After this call, new
    /// entries are encrypted with `keys`, and only sessions of `providers` are valid.
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
        let removals = over.iter().map(|(key, _)| Change::Remove(*key));
        let removals: Vec<_> = removals.collect();
        log_failure(disk.register(&removals, providers, keys))
    }
}

#[cfg(test)]
#[path = "reconfigure_tests.rs"]
mod tests;
