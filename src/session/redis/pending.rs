//! Changes that the server has to make later: ends of sessions and releases of leases that the server
//! did not accept.

#![expect(
    clippy::disallowed_types,
    reason = "a lock for changes and for reads of the server; no request with a cached session takes it"
)]

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::RedisError;

use super::Shared;
use super::calls::{AT_ONCE, group_bytes};
use super::commands::Commands;
use super::error::{Meaning, meaning};
use super::event::letter;
use super::leases::Release;
use super::scripts::END_ALL;
use crate::session::groups::Group;
use crate::session::store::Which;
use crate::session::{EndReason, SessionKey};

/// The maximum number of sign-outs that wait for the server.
const MAX_ENDS: usize = 100_000;
/// The maximum number of leases that wait for their release.
const MAX_RELEASES: usize = 10_000;
/// The number of refused ends after which this replica waits for the next heartbeat.
const MAX_REFUSED: usize = 10;

/// The changes of this replica that the server has to make later.
#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<Changes>);

#[derive(Debug, Default)]
struct Changes {
    /// The sessions that have ended at this replica, but not yet at the server.
    ends: HashMap<SessionKey, EndReason>,
    releases: Vec<Release>,
}

impl Pending {
    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the end of a session until the server accepts the end. Returns false if there are too
    /// many such ends.
    pub(super) fn end(&self, key: SessionKey, why: EndReason) -> bool {
        let ends = &mut self.changes().ends;
        let has_room = ends.len() < MAX_ENDS || ends.contains_key(&key);
        if has_room {
            ends.insert(key, why);
        }
        has_room
    }

    /// Returns true if the session has ended here, but the server does not know it yet.
    pub(super) fn is_ended(&self, key: &SessionKey) -> bool {
        self.changes().ends.contains_key(key)
    }

    /// Returns the ends that wait for the server.
    fn waiting_ends(&self) -> Vec<(SessionKey, EndReason)> {
        let ends = &self.changes().ends;
        ends.iter().map(|(key, why)| (*key, *why)).collect()
    }

    /// Returns the number of ends that wait for the server.
    pub(super) fn number_of_ends(&self) -> usize {
        self.changes().ends.len()
    }

    /// Keeps the release of a lease until the server accepts the release. If there are too many
    /// releases, this lease ends when its time is over.
    pub(super) fn release(&self, release: Release) {
        let releases = &mut self.changes().releases;
        if releases.len() < MAX_RELEASES {
            releases.push(release);
        }
    }

    /// Returns the number of leases that wait for their release.
    #[cfg(test)]
    pub(super) fn releases(&self) -> usize {
        self.changes().releases.len()
    }
}

impl Shared {
    /// Makes the changes that the server did not accept before. Other replicas must learn of these
    /// changes before this replica begins to make other changes.
    pub(super) async fn make_pending(&self, commands: &mut Commands) -> Result<(), RedisError> {
        self.end_pending(commands).await?;
        self.release_pending(commands).await
    }

    async fn end_pending(&self, commands: &mut Commands) -> Result<(), RedisError> {
        let mut refused = 0_usize;
        for (why, keys) in in_groups(self.pending.waiting_ends()) {
            match self.end_at_server(commands, (why, &keys)).await {
                Ok(()) => self.note_made(&keys, why),
                Err(error) if meaning(&error) == Meaning::Refused => {
                    // One of the sessions may be the reason.
                    for key in keys {
                        match self.end_at_server(commands, (why, &[key])).await {
                            Ok(()) => self.note_made(&[key], why),
                            Err(error) if meaning(&error) != Meaning::Refused => return Err(error),
                            Err(_refused) => refused = refused.saturating_add(1),
                        }
                        // The next heartbeat tries again. The sessions stay ended at this replica.
                        if refused >= MAX_REFUSED {
                            return Ok(());
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Notes that the server has ended sessions whose ends have waited.
    fn note_made(&self, keys: &[SessionKey], why: EndReason) {
        let now = self.clock.now();
        for key in keys {
            self.pending.changes().ends.remove(key);
            self.journal.note_end(Which::Key(*key), why, now);
        }
    }

    /// Ends sessions at the server, with one script.
    pub(super) async fn end_at_server(
        &self,
        commands: &mut Commands,
        (why, keys): (EndReason, &[SessionKey]),
    ) -> Result<(), RedisError> {
        let group = group_bytes(&Group::Keys(keys.to_vec()));
        let mut command = self.names.call(END_ALL, self.names.of_group(&group));
        // No notice is stored. For single sessions, the script ignores the time of the end and stores
        // no end.
        command
            .arg(&[letter(why)])
            .arg("")
            .arg(0)
            .arg(0)
            .arg(0)
            .arg(1)
            .arg(AT_ONCE)
            .arg(group);
        let ended: (String, i64, Vec<Vec<u8>>) = command.query_async(commands).await?;
        self.note_count(ended.1);
        Ok(())
    }

    async fn release_pending(&self, commands: &mut Commands) -> Result<(), RedisError> {
        loop {
            let Some(release) = self.pending.changes().releases.pop() else {
                return Ok(());
            };
            if release.until <= self.clock.now() {
                continue;
            }
            let command = release.command(&self.names);
            let released: Result<i64, _> = command.query_async(commands).await;
            let Err(error) = released else { continue };
            self.pending.release(release);
            // The next heartbeat tries again after a refusal.
            return match meaning(&error) {
                Meaning::Refused => Ok(()),
                Meaning::Busy | Meaning::Reconnect => Err(error),
            };
        }
    }
}

/// Groups ends by their reason. One script ends the sessions of one group.
pub(super) fn in_groups(ends: Vec<(SessionKey, EndReason)>) -> Vec<(EndReason, Vec<SessionKey>)> {
    let mut by_reason: HashMap<EndReason, Vec<SessionKey>> = HashMap::new();
    for (key, why) in ends {
        by_reason.entry(why).or_default().push(key);
    }
    let mut groups = Vec::new();
    for (why, keys) in by_reason {
        groups.extend(keys.chunks(AT_ONCE).map(|keys| (why, keys.to_vec())));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn key(number: usize) -> SessionKey {
        SessionKey::from_bytes(u128::try_from(number).unwrap().to_be_bytes())
    }

    #[test]
    fn the_changes_that_wait_are_bounded() {
        let pending = Pending::default();
        let (why, now) = (EndReason::SignedOut, Timestamp::from_millis(1_000_000));
        for number in 0..MAX_ENDS {
            assert!(pending.end(key(number), why));
        }
        // A session that waits already needs no more room.
        assert!(!pending.end(key(MAX_ENDS), why) && pending.end(key(0), why));
        for number in 0..=MAX_RELEASES {
            let (key, token) = (key(number), [0; 16]);
            let until = now;
            pending.release(Release { key, token, until });
        }
        assert_eq!(pending.releases(), MAX_RELEASES);
    }
}
