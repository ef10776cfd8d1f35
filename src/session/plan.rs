//! Executes several commands with one commit. After the commit, this module updates the index and
//! the caches.

use std::collections::HashSet;
use std::mem;
use std::sync::Arc;

use super::backend::Change;
use super::command::{Answer, Batch, Command, Effect, ReplicaId, send};
use super::ending::EndReason;
use super::groups::{EndAll, EndedAll, Group};
use super::keeper::Keeper;
use super::reconfigure::AT_ONCE;
use super::store::{Opened, Opening, Replacement, StoreError, Which};
use super::stored::Stored;
use super::{SessionKey, record};

impl Keeper {
    /// Adds the waiting commands to a batch. This function stops at the first command that has to
    /// wait until the batch is committed, and returns this command.
    pub(super) fn gather(&mut self, first: Command, batch: &mut Batch) -> Option<Command> {
        let mut next = Some(first);
        while let Some(command) = next {
            if batch.has_to_wait(&command) {
                return Some(command);
            }
            batch.commands = batch.commands.saturating_add(1);
            self.plan(command, batch);
            next = self.commands.try_recv().ok();
        }
        None
    }

    fn plan(&mut self, command: Command, batch: &mut Batch) {
        match command {
            Command::Open {
                session,
                opening,
                replica,
                answer,
            } => {
                let provider = record::provider(session.contents());
                let registration = provider.and_then(|name| self.registrations.get(name));
                if registration != Some(&opening.registration) {
                    return send(answer, Ok(Opened::NoProvider));
                }
                if self.ended.have_ended(&session, &opening) {
                    return send(answer, Ok(Opened::EndedMeanwhile));
                }
                self.plan_open(session, opening, (replica, answer), batch);
            }
            Command::Replace {
                version,
                next,
                replica,
                answer,
            } => match self.version(next.key()) {
                Ok(Some(current)) if current == version => {
                    let provider_session = self.index.provider_session(next.key());
                    batch.put(&next, Group::of(&next, provider_session));
                    batch.effects.push(Effect::Replaced {
                        next,
                        replica,
                        answer,
                    });
                }
                Ok(Some(_newer)) => send(answer, Ok(Replacement::Outdated)),
                Ok(None) => send(answer, Ok(Replacement::Ended)),
                Err(error) => send(answer, Err(error)),
            },
            Command::End { which, why, answer } => match self.is_there(&which) {
                Ok(true) => {
                    let key = *which.key();
                    batch.remove(key);
                    let end = (key, why);
                    batch.effects.push(Effect::Ended { end, answer });
                }
                Ok(false) => send(answer, Ok(Vec::new())),
                Err(error) => send(answer, Err(error)),
            },
            Command::EndAll { order, answer } => self.plan_end_all(order, answer, batch),
            Command::Get { key, answer } => send(answer, self.read(&key)),
            // The thread never executes these commands as a part of a batch.
            Command::List { .. }
            | Command::Touch { .. }
            | Command::Sweep { .. }
            | Command::Reconfigure { .. }
            | Command::Close { .. } => {}
            #[cfg(test)]
            Command::Attach { .. } => {}
        }
    }

    fn plan_open(
        &mut self,
        session: Arc<Stored>,
        mut opening: Opening,
        (replica, answer): (ReplicaId, Answer<Opened>),
        batch: &mut Batch,
    ) {
        let mut before = mem::take(&mut opening.replaces);
        before.retain(|key| self.knows(key));
        before.dedup();
        let mut above_limit = Vec::new();
        if let Some(user) = session.user() {
            // The index contains the new session only after the commit. Another login of the same
            // user must wait for the commit, because otherwise the new session would not count
            // toward the user's session limit.
            batch.users.insert(user);
            // The index still contains the sessions that this batch ends. If sessions that end with
            // this batch counted toward the session limit, the login would end too many sessions.
            let going = before.iter().chain(&batch.removed);
            let going: Vec<_> = going.copied().collect();
            above_limit = self.index.above_limit(user, opening.per_person, &going);
        }
        batch.put(&session, opening.groups(&session));
        let before = before.into_iter().map(|key| (key, EndReason::Replaced));
        let above_limit = above_limit.into_iter().map(|key| (key, EndReason::Evicted));
        let ended: Vec<_> = before.chain(above_limit).collect();
        for (key, _) in &ended {
            batch.remove(*key);
        }
        batch.effects.push(Effect::Opened {
            session,
            provider_session: opening.provider_session,
            ended,
            replica,
            answer,
        });
    }

    fn plan_end_all(&mut self, order: EndAll, answer: Answer<EndedAll>, batch: &mut Batch) {
        if let Some(notice) = &order.notice {
            if self.ended.knows(notice, order.now) {
                return send(answer, Ok(EndedAll::Repeated));
            }
            batch.notices.insert(notice.mark);
        }
        batch.end_groups(&order.groups);
        let mut keys = self.keys_of_all(&order.groups);
        // An earlier command of this batch already ends some of the sessions.
        keys.retain(|key| !batch.changes_session(key));
        for key in &keys {
            batch.remove(*key);
        }
        batch.effects.push(Effect::EndedAll {
            order,
            keys,
            answer,
        });
    }

    fn keys_of_all(&mut self, groups: &[Group]) -> Vec<SessionKey> {
        groups
            .iter()
            .flat_map(|group| self.keys_of(group))
            .collect()
    }

    /// Returns the keys of the sessions of a group.
    pub(super) fn keys_of(&mut self, group: &Group) -> Vec<SessionKey> {
        let mut keys = self.index.keys_of(group);
        if matches!(group, Group::Keys(_)) {
            keys.sort_unstable();
            keys.dedup();
            keys.retain(|key| self.knows(key));
        }
        keys
    }

    /// Commits a batch. After the commit, this function applies the change of each command to the
    /// index and the caches, and answers the command. The changes are applied in the order of the
    /// commands.
    ///
    /// If the commit fails, the function tries to commit at least the commands that only end
    /// sessions. A full disk has no space for new sessions, but usually still allows to remove
    /// sessions.
    pub(super) fn settle(&mut self, batch: Batch) {
        let Err(error) = self.commit(&batch.changes) else {
            for effect in batch.effects {
                self.take_effect(effect);
            }
            return;
        };
        let (ends, others): (Vec<_>, Vec<_>) =
            batch.effects.into_iter().partition(Effect::only_ends);
        let mixed = !others.is_empty();
        for effect in others {
            effect.failed(&error);
        }
        if mixed {
            self.settle_ends(ends);
            return;
        }
        for effect in ends {
            effect.failed(&error);
        }
    }

    /// Commits commands that only end sessions. The other commands of their batch have failed.
    fn settle_ends(&mut self, mut effects: Vec<Effect>) {
        let mut removed = HashSet::new();
        for effect in &mut effects {
            match effect {
                Effect::Ended { end, .. } => {
                    removed.insert(end.0);
                }
                Effect::EndedAll { order, keys, .. } => {
                    // A command that has failed would have ended some sessions of the groups.
                    *keys = self.keys_of_all(&order.groups);
                    keys.retain(|key| removed.insert(*key));
                }
                Effect::Opened { .. } | Effect::Replaced { .. } => {}
            }
        }
        let changes: Vec<_> = removed.into_iter().map(Change::Remove).collect();
        let committed = self.commit(&changes);
        for effect in effects {
            match &committed {
                Ok(()) => self.take_effect(effect),
                Err(error) => effect.failed(error),
            }
        }
    }

    fn take_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Opened {
                session,
                provider_session,
                ended,
                replica,
                answer,
            } => {
                for (key, why) in &ended {
                    self.forget(key, *why);
                }
                self.remember((&session, provider_session), replica);
                // The cache applies many waiting reads and writes together, and treats all reads as
                // older than all writes. If many new sessions waited, the cache would evict sessions
                // that are in use.
                self.run_pending_tasks();
                self.count();
                send(answer, Ok(Opened::Stored));
            }
            Effect::Replaced {
                next,
                replica,
                answer,
            } => {
                self.replace(&next, replica);
                send(answer, Ok(Replacement::Stored));
            }
            Effect::Ended { end, answer } => {
                self.forget(&end.0, end.1);
                send(answer, Ok(vec![end]));
            }
            Effect::EndedAll {
                order,
                keys,
                answer,
            } => {
                for some in keys.chunks(AT_ONCE) {
                    for key in some {
                        self.forget(key, order.why);
                    }
                    self.run_pending_tasks();
                }
                self.ended.note(order);
                send(answer, Ok(EndedAll::Ended(keys)));
            }
        }
    }

    fn is_there(&mut self, which: &Which) -> Result<bool, StoreError> {
        match which {
            Which::Key(key) => Ok(self.knows(key)),
            Which::Version(key, version) => Ok(self.version(key)? == Some(*version)),
        }
    }

    /// Returns the current version of a session, or `None` if the session does not exist.
    fn version(&mut self, key: &SessionKey) -> Result<Option<u64>, StoreError> {
        if let Some(cached) = self.live(key) {
            let version = record::version(cached.contents());
            return version.map(Some).ok_or(StoreError::Damaged);
        }
        self.process_evictions();
        if self.index.file_only(key).is_none() {
            return Ok(None);
        }
        let loaded = self.backend.load(key)?;
        Ok(loaded.map(|loaded| loaded.contents.version))
    }

    /// Returns the current version of a session for the cache of a replica, or `None` if the
    /// session does not exist.
    fn read(&mut self, key: &SessionKey) -> Result<Option<Arc<Stored>>, StoreError> {
        if let Some(cached) = self.live(key) {
            return Ok(Some(Arc::new(cached.copy())));
        }
        self.process_evictions();
        let Some(away) = self.index.file_only(key).map(Arc::clone) else {
            return Ok(None);
        };
        let Some(loaded) = self.backend.load(key)? else {
            return Ok(None);
        };
        // A refresh may have changed the identity of the session. Even with another identity, the
        // session counts toward the session limit of the user who signed in.
        let session = Stored::new(*away.rank(), loaded.last_used, &loaded.contents);
        session.note_use_of(&away);
        Ok(Some(Arc::new(session)))
    }
}
