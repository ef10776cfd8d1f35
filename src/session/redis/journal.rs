//! The changes that this replica has made at the server in the last minute.
//!
//! A server that takes over after a failover can lack the latest changes of its predecessor. A server that has
//! restarted can lack the changes that it had not saved. After each new connection, the replica therefore makes its
//! changes of the last minute again, if the server lacks them: ends of sessions, ends of groups, marks of used
//! values, token sets of refreshes, and leases. The replica does not store a session again that the server lacks,
//! because another replica may have ended the session.

#![expect(
    clippy::disallowed_types,
    reason = "a lock for changes; no request with a cached session takes it"
)]

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Cmd, FromRedisValue, Pipeline, RedisError};

use super::Shared;
use super::calls::{AT_ONCE, millis};
use super::commands::Commands;
use super::error::{Meaning, meaning};
use super::intents::set_mark;
use super::pending::in_groups;
use super::scripts::{Key, REMEMBER};
use super::value::FORMAT;
use crate::clock::Timestamp;
use crate::session::groups::REMEMBERED;
use crate::session::store::Which;
use crate::session::stored::Stored;
use crate::session::{EndReason, SessionKey};

/// The time for which this replica remembers a change.
const KEPT: Duration = Duration::from_mins(1);
/// The maximum numbers of remembered changes and of remembered token sets.
const MAX_CHANGES: usize = 100_000;
const MAX_TOKEN_SETS: usize = 10_000;
/// The number of token sets in one round trip.
const TOKEN_SETS_AT_ONCE: usize = 100;

/// The changes of the last minute.
#[derive(Debug, Default)]
pub(super) struct Journal(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    /// The changes, oldest first.
    changes: VecDeque<(Timestamp, Change)>,
    /// The sessions with new token sets, oldest first.
    token_sets: VecDeque<(Timestamp, Arc<Stored>)>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Change {
    /// The end of a session, or of one version of it.
    End(Which, EndReason),
    /// The end of a group, at a time of the server's clock. The group is in the form in which scripts know it.
    GroupEnd(Vec<u8>, u64),
    /// The mark with this name, until a time of the gateway's clock.
    Mark(Key, Timestamp),
}

impl Journal {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, change: Change, now: Timestamp) {
        add(&mut self.entries().changes, MAX_CHANGES, (now, change));
    }

    /// Notes an end that the server has made.
    pub(super) fn note_end(&self, which: Which, why: EndReason, now: Timestamp) {
        // The sweep and the limit of sessions make such ends again.
        if !matches!(why, EndReason::Idle | EndReason::Evicted) {
            self.note(Change::End(which, why), now);
        }
    }

    /// Notes the ends of groups that the server has made, at the time `at` of the server's clock.
    pub(super) fn note_group_ends(&self, groups: &[Vec<u8>], at: u64, now: Timestamp) {
        // The server remembers no end of a list of sessions.
        for group in groups.iter().filter(|group| !group.starts_with(b"K")) {
            self.note(Change::GroupEnd(group.clone(), at), now);
        }
    }

    /// Notes a mark that the server has set.
    pub(super) fn note_mark(&self, name: Key, until: Timestamp, now: Timestamp) {
        self.note(Change::Mark(name, until), now);
    }

    /// Forgets a mark that this replica removes.
    pub(super) fn forget_mark(&self, name: &[u8]) {
        let is_it = |(_, change): &(_, Change)| matches!(change, Change::Mark(of, _) if of == name);
        let changes = &mut self.entries().changes;
        // The mark is usually one of the latest changes.
        let from_end = changes.iter().rev().position(is_it);
        let at =
            from_end.and_then(|from_end| changes.len().checked_sub(from_end.saturating_add(1)));
        drop(at.and_then(|at| changes.remove(at)));
    }

    /// Notes a token set that the server has stored.
    pub(super) fn note_replacement(&self, session: &Arc<Stored>, now: Timestamp) {
        let entry = (now, Arc::clone(session));
        add(&mut self.entries().token_sets, MAX_TOKEN_SETS, entry);
    }

    /// Returns the changes that were not old at the time `now`.
    fn changes(&self, now: Timestamp) -> Vec<Change> {
        let changes = &mut self.entries().changes;
        forget_old(changes, now);
        changes.iter().map(|(_, change)| change.clone()).collect()
    }

    /// Returns the newest token set of each session that was not old at the time `now`.
    fn token_sets(&self, now: Timestamp) -> Vec<Arc<Stored>> {
        let token_sets = &mut self.entries().token_sets;
        forget_old(token_sets, now);
        let newest: HashMap<_, _> = token_sets
            .iter()
            .map(|(_, session)| (*session.key(), Arc::clone(session)))
            .collect();
        newest.into_values().collect()
    }
}

fn add<T>(entries: &mut VecDeque<(Timestamp, T)>, most: usize, entry: (Timestamp, T)) {
    forget_old(entries, entry.0);
    if entries.len() >= most {
        entries.pop_front();
    }
    entries.push_back(entry);
}

fn forget_old<T>(entries: &mut VecDeque<(Timestamp, T)>, now: Timestamp) {
    let is_old = |(at, _): &(Timestamp, T)| now.since(*at) > KEPT;
    while entries.front().is_some_and(is_old) {
        entries.pop_front();
    }
}

impl Shared {
    /// Repeats the changes of the last minute that the server lacks. Leases and token sets are repeated first, because
    /// the other replicas wait only a few seconds for them. The end of a version is repeated after the token set of this
    /// version.
    pub(super) async fn repeat_changes(&self, commands: &mut Commands) -> Result<(), RedisError> {
        // An outage before the failover does not make a change old.
        let now = self.last_heartbeat().unwrap_or_else(|| self.clock.now());
        let leases = self.leases.commands(&self.names, self.clock.now());
        self.run_in_parts::<(i64, i64)>(commands, (&leases, TOKEN_SETS_AT_ONCE))
            .await?;
        for some in self.journal.token_sets(now).chunks(TOKEN_SETS_AT_ONCE) {
            self.repeat_token_sets(commands, some).await?;
        }
        let (mut ends, mut of_versions) = (Vec::new(), Vec::new());
        let (mut groups, mut marks) = (Vec::new(), Vec::new());
        for change in self.journal.changes(now) {
            match change {
                Change::End(Which::Key(key), why) => ends.push((key, why)),
                Change::End(which, why) => of_versions.push(self.end_command(&which, why)),
                Change::GroupEnd(group, at) => groups.push((group, at)),
                Change::Mark(name, until) => {
                    let left = until.since(self.clock.now());
                    marks.extend((!left.is_zero()).then(|| set_mark(&name, left)));
                }
            }
        }
        self.repeat_ends(commands, ends).await?;
        self.run_in_parts::<(i64, i64)>(commands, (&of_versions, AT_ONCE))
            .await?;
        self.repeat_group_ends(commands, &groups).await?;
        self.run_in_parts::<Option<String>>(commands, (&marks, AT_ONCE))
            .await
    }

    /// Lets the server remember the ends of groups again.
    async fn repeat_group_ends(
        &self,
        commands: &mut Commands,
        groups: &[(Vec<u8>, u64)],
    ) -> Result<(), RedisError> {
        for some in groups.chunks(AT_ONCE) {
            let keys = some.iter().map(|(group, _)| self.names.ended_at(group));
            let mut command = self.names.call(REMEMBER, keys);
            command.arg(millis(REMEMBERED));
            for (_, at) in some {
                command.arg(*at);
            }
            let repeated: Result<i64, _> = command.query_async(commands).await;
            unless_refused(repeated)?;
        }
        Ok(())
    }

    /// Ends the sessions again that this replica has ended.
    async fn repeat_ends(
        &self,
        commands: &mut Commands,
        ends: Vec<(SessionKey, EndReason)>,
    ) -> Result<(), RedisError> {
        for (why, keys) in in_groups(ends) {
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

    /// Stores the token sets again whose sessions have an older version at the server.
    async fn repeat_token_sets(
        &self,
        commands: &mut Commands,
        sessions: &[Arc<Stored>],
    ) -> Result<(), RedisError> {
        let mut pipeline = redis::pipe();
        for session in sessions {
            let name = self.names.session(session.key().as_bytes());
            pipeline.cmd("GETRANGE").arg(name).arg(0).arg(8);
        }
        let pipeline = pipeline.ignore_errors();
        let heads: Vec<Result<Vec<u8>, RedisError>> = pipeline.query_async(commands).await?;
        let mut pipeline = redis::pipe();
        for (session, head) in sessions.iter().zip(heads) {
            match head {
                Ok(head) => {
                    if let Some(older) = older_version(&head, session.version())
                        && let Ok(Some(command)) = self.replacement(older, session)
                    {
                        pipeline.add_command(command);
                    }
                }
                refused => unless_refused(refused)?,
            }
        }
        self.run_all::<String>(commands, pipeline).await
    }

    /// Runs commands, at most `most` in one round trip. A command that the server refuses has no effect.
    async fn run_in_parts<T: FromRedisValue>(
        &self,
        commands: &mut Commands,
        (all, most): (&[Cmd], usize),
    ) -> Result<(), RedisError> {
        for some in all.chunks(most) {
            let mut pipeline = redis::pipe();
            for command in some {
                pipeline.add_command(command.clone());
            }
            self.run_all::<T>(commands, pipeline).await?;
        }
        Ok(())
    }

    /// Runs commands. A command that the server refuses has no effect.
    async fn run_all<T: FromRedisValue>(
        &self,
        commands: &mut Commands,
        mut pipeline: Pipeline,
    ) -> Result<(), RedisError> {
        if pipeline.is_empty() {
            return Ok(());
        }
        let pipeline = pipeline.ignore_errors();
        let answers: Vec<Result<T, RedisError>> = pipeline.query_async(commands).await?;
        answers.into_iter().try_for_each(unless_refused)
    }
}

/// Returns the error of a command, unless the server has refused the command.
pub(super) fn unless_refused<T>(answer: Result<T, RedisError>) -> Result<(), RedisError> {
    match answer {
        Err(error) if meaning(&error) != Meaning::Refused => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Returns the version in the first bytes of a value, if it is older than `version`.
fn older_version(head: &[u8], version: u64) -> Option<u64> {
    let (format, stored) = head.split_first()?;
    let stored = u64::from_be_bytes(stored.try_into().ok()?);
    (*format == FORMAT && stored < version).then_some(stored)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::redis::value::version_bytes;

    fn key(number: usize) -> SessionKey {
        SessionKey::from_bytes(u128::try_from(number).unwrap().to_be_bytes())
    }

    #[test]
    fn the_remembered_changes_are_bounded() {
        let journal = Journal::default();
        let (why, now) = (EndReason::SignedOut, Timestamp::from_millis(1_000_000));
        for number in 0..=MAX_CHANGES {
            journal.note_end(Which::Key(key(number)), why, now);
        }
        assert_eq!(journal.changes(now).len(), MAX_CHANGES);
        let later = now.plus(KEPT).plus(Duration::from_millis(1));
        journal.note_end(Which::Key(key(0)), why, later);
        assert_eq!(journal.changes(later).len(), 1);
        assert_eq!(journal.changes(later.plus(KEPT)).len(), 1);
        assert!(journal.changes(later.plus(KEPT * 2)).is_empty());
    }

    #[test]
    fn ends_that_repeat_themselves_and_removed_marks_are_not_remembered() {
        let (journal, now) = (Journal::default(), Timestamp::from_millis(1_000_000));
        journal.note_end(Which::Key(key(1)), EndReason::Idle, now);
        journal.note_end(Which::Key(key(2)), EndReason::Evicted, now);
        journal.note_group_ends(&[b"K".to_vec()], 1, now);
        journal.note_mark(b"kept".to_vec(), now, now);
        journal.note_mark(b"removed".to_vec(), now, now);
        journal.forget_mark(b"removed");
        assert_eq!(journal.changes(now), [Change::Mark(b"kept".to_vec(), now)]);
    }

    #[test]
    fn only_an_older_version_of_this_format_is_replaced() {
        let head = |format: u8, version: u64| [&[format][..], &version_bytes(version)].concat();
        assert_eq!(older_version(&head(FORMAT, 4), 5), Some(4));
        assert_eq!(older_version(&head(FORMAT, 5), 5), None);
        assert_eq!(older_version(&head(FORMAT, 6), 5), None);
        assert_eq!(older_version(&head(FORMAT + 1, 4), 5), None);
        assert_eq!(older_version(b"", 5), None);
    }
}
