//! A reload with another key or with other providers.

use std::sync::Arc;

use super::Shared;
use super::value::{self, HEAD_AND_KEY_NAME, Head};
use crate::clock::Timestamp;
use crate::seal::KeyRing;
use crate::session::groups::{EndAll, EndedAll, Group};
use crate::session::reconfigure::{Reconfiguration, ReconfigureError, Reconfigured};
use crate::session::registration::provider_hash;
use crate::session::survey::Survey;
use crate::session::{EndReason, Maintained, Registrations, SessionKey, StoreError, registration};

/// The number of sessions whose heads one round trip reads.
const AT_ONCE: usize = 1000;

impl Shared {
    /// Applies new settings. If a provider has changed or a key was removed, the function reads the
    /// heads of all sessions. The sessions of changed providers end for all replicas.
    pub(super) async fn reconfigure(
        self: Arc<Self>,
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
        let before = self.registrations.load_full();
        let current = self.keys.load_full();
        let keys = keys.unwrap_or_else(|| Arc::clone(&current));
        let is_same = |name: &str| registration::is_same(name, &before, &registrations);
        let all_same = before.keys().all(|name| is_same(name));
        let mut found = Survey::default();
        if !all_same || !keys.contains_keys_of(&current) {
            found = self.survey(&keys, (&before, &registrations)).await?;
        }
        if found.unknown_key > 0 {
            return Err(ReconfigureError::KeyInUse {
                sessions: found.unknown_key,
            });
        }
        for some in found.of_changed_providers.chunks(AT_ONCE) {
            let order = EndAll {
                groups: vec![Group::Keys(some.to_vec())],
                why: EndReason::ProviderRemoved,
                now,
                notice: None,
                uses_notice: false,
            };
            let _ended: EndedAll = Arc::clone(&self).end_all(order).await?;
        }
        if idle > self.limits.idle() {
            // A reload with a longer idle time must not make expired sessions valid again. The sweep
            // does not know the limits of single providers. If a reload removes such a limit, a session
            // that has passed only this limit is valid again.
            while Arc::clone(&self).sweep(now).await? == Maintained::More {}
        }
        self.limits.set((idle, absolute), per_person, of_providers);
        self.registrations.store(Arc::new(registrations));
        self.keys.store(keys);
        registration::report(&found.ended);
        Ok(Reconfigured { ended: found.ended })
    }

    /// Finds the sessions that become invalid with other keys and providers.
    async fn survey(
        &self,
        keys: &KeyRing,
        (before, after): (&Registrations, &Registrations),
    ) -> Result<Survey, StoreError> {
        let mut found = Survey::default();
        for some in self.list_all().await?.chunks(AT_ONCE) {
            let mut commands = redis::pipe();
            for key in some {
                commands
                    .cmd("GETRANGE")
                    .arg(self.names.session(key.as_bytes()))
                    .arg(0)
                    .arg(HEAD_AND_KEY_NAME.saturating_sub(1));
            }
            let heads: Vec<Vec<u8>> = self.send_all(&commands).await?;
            for (key, start) in some.iter().zip(&heads) {
                note(&mut found, *key, (start, keys), (before, after));
            }
        }
        Ok(found)
    }
}

/// Notes a session that becomes invalid.
fn note(
    found: &mut Survey,
    key: SessionKey,
    (start, keys): (&[u8], &KeyRing),
    (before, after): (&Registrations, &Registrations),
) {
    // A session that has ended meanwhile has no head. A newer version of the gateway looks after its
    // own sessions.
    let Ok(head) = Head::read(start) else {
        return;
    };
    let of = |providers: &Registrations| {
        let mut all = providers.iter();
        let found = all.find(|(name, known)| provider_hash(name, known) == head.provider);
        found.map(|(name, _)| name.clone())
    };
    match (of(before), of(after)) {
        // The provider of this session was removed, or its name belongs to another provider.
        (Some(name), None) => found.note_changed_provider(key, &name),
        // Only a replica with other settings knows the provider of this session.
        (None, None) => {}
        (_, Some(_)) if value::is_known(start, keys) => {}
        (_, Some(_)) => found.unknown_key = found.unknown_key.saturating_add(1),
    }
}
