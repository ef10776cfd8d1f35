//! Changes that the server has to make later: ends of sessions and releases of leases that the server
//! did not accept, and ends that the server may have lost in a failover.

#![expect(
    clippy::disallowed_types,
    reason = "a lock for changes and for reads of the server; no request with a cached session takes it"
)]

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Cmd, RedisError};

use super::Shared;
use super::calls::{AT_ONCE, group_bytes};
use super::commands::Commands;
use super::error::{Meaning, meaning};
use super::event::letter;
use super::leases::Token;
use super::scripts::{END_ALL, RELEASE};
use crate::clock::Timestamp;
use crate::session::groups::Group;
use crate::session::{EndReason, SessionKey};

/// The maximum number of sign-outs that wait for the server.
const MAX_ENDS: usize = 100_000;
/// The maximum number of leases that wait for their release.
const MAX_RELEASES: usize = 10_000;
/// The maximum number of ends that this replica repeats after a new connection.
const MAX_REPEATED: usize = 100_000;
/// The time for which this replica remembers an end. A server that takes over can lack the changes of
/// the last moments.
const REPEATED: Duration = Duration::from_mins(1);
/// The number of refused ends after which this replica waits for the next heartbeat.
const MAX_REFUSED: usize = 10;

/// The changes of this replica that the server has to make later.
#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<Changes>);

#[derive(Debug, Default)]
struct Changes {
    /// The sessions that have ended at this replica, but not yet at the server.
    ends: HashMap<SessionKey, EndReason>,
    /// The sessions that this replica has ended at the server, oldest first.
    ended: VecDeque<(Timestamp, SessionKey, EndReason)>,
    releases: Vec<Release>,
}

/// A lease that this replica does not need any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Release {
    pub(super) key: SessionKey,
    pub(super) token: Token,
    /// The end of the lease. Afterwards, no release is necessary.
    pub(super) until: Timestamp,
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

    /// Notes an end that the server has made.
    pub(super) fn note_end(&self, key: SessionKey, why: EndReason, now: Timestamp) {
        // The sweep and the limit of sessions make such ends again.
        if matches!(why, EndReason::Idle | EndReason::Evicted) {
            return;
        }
        let ended = &mut self.changes().ended;
        forget_old(ended, now);
        if ended.len() >= MAX_REPEATED {
            ended.pop_front();
        }
        ended.push_back((now, key, why));
    }

    /// Returns the ends of the last minute.
    fn latest_ends(&self, now: Timestamp) -> Vec<(SessionKey, EndReason)> {
        let ended = &mut self.changes().ended;
        forget_old(ended, now);
        ended.iter().map(|(_at, key, why)| (*key, *why)).collect()
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
            self.pending.note_end(*key, why, now);
        }
    }

    /// Ends sessions at the server, with one script.
    async fn end_at_server(
        &self,
        commands: &mut Commands,
        (why, keys): (EndReason, &[SessionKey]),
    ) -> Result<(), RedisError> {
        let mut command = self.names.call(END_ALL);
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
            .arg(group_bytes(&Group::Keys(keys.to_vec())));
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
            let command = self.release_command(&release);
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

    pub(super) fn release_command(&self, release: &Release) -> Cmd {
        let mut command = self.names.call(RELEASE);
        command
            .arg(release.key.as_bytes().as_slice())
            .arg(release.token.as_slice());
        command
    }

    /// Ends the sessions again that this replica has ended in the last minute. After a failover, the
    /// new server may lack these changes, and may still contain the sessions.
    pub(super) async fn repeat_ends(&self, commands: &mut Commands) -> Result<(), RedisError> {
        for (why, keys) in in_groups(self.pending.latest_ends(self.clock.now())) {
            match self.end_at_server(commands, (why, &keys)).await {
                Err(error) if meaning(&error) == Meaning::Refused => {
                    // The next heartbeat tries again.
                    for key in keys {
                        self.pending.end(key, why);
                    }
                }
                result => result?,
            }
        }
        Ok(())
    }
}

fn forget_old(ended: &mut VecDeque<(Timestamp, SessionKey, EndReason)>, now: Timestamp) {
    let is_old = |(at, ..): &(Timestamp, _, _)| now.since(*at) > REPEATED;
    while ended.front().is_some_and(is_old) {
        ended.pop_front();
    }
}

/// Groups ends by their reason. One script ends the sessions of one group.
fn in_groups(ends: Vec<(SessionKey, EndReason)>) -> Vec<(EndReason, Vec<SessionKey>)> {
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
        for number in 0..=MAX_REPEATED {
            pending.note_end(key(number), why, now);
        }
        assert_eq!(pending.changes().ended.len(), MAX_REPEATED);
        let later = now.plus(REPEATED).plus(Duration::from_millis(1));
        pending.note_end(key(0), why, later);
        assert_eq!(pending.changes().ended.len(), 1);
    }
}
