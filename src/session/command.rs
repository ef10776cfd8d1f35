//! The commands to the thread of a local store, and the batch of changes for the next commit.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::backend::Change;
#[cfg(test)]
use super::cache::SessionCache;
use super::ending::{End, EndReason};
use super::groups::{EndAll, EndedAll, Group, ProviderSessionHash};
use super::index::UserHash;
use super::marks::Mark;
use super::reconfigure::{Reconfiguration, ReconfigureError, Reconfigured};
use super::store::{Opened, Opening, Replacement, StoreError, Which};
use super::stored::Stored;
use super::{Maintained, SessionKey};
use crate::clock::Timestamp;

/// The maximum number of commands in a batch. The limit also counts commands that change nothing,
/// so that many reads cannot delay the commit.
const MAX_COMMANDS: usize = 256;

/// The channel through which the thread of the store answers a command. The thread executes a
/// command even if the caller no longer waits for the answer.
pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// Identifies a replica of the store. A replica is a `Sessions` value with its own cache.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ReplicaId(pub(super) usize);

/// A command to the thread of the store.
#[derive(Debug)]
pub(super) enum Command {
    Get {
        key: SessionKey,
        answer: Answer<Option<Arc<Stored>>>,
    },
    Open {
        session: Arc<Stored>,
        opening: Opening,
        replica: ReplicaId,
        answer: Answer<Opened>,
    },
    Replace {
        version: u64,
        next: Arc<Stored>,
        replica: ReplicaId,
        answer: Answer<Replacement>,
    },
    End {
        which: Which,
        why: EndReason,
        answer: Answer<Vec<End>>,
    },
    EndAll {
        order: EndAll,
        answer: Answer<EndedAll>,
    },
    List {
        group: Group,
        answer: Answer<Vec<SessionKey>>,
    },
    Touch {
        uses: Vec<(SessionKey, Timestamp)>,
        answer: Answer<()>,
    },
    Sweep {
        now: Timestamp,
        answer: Answer<Maintained>,
    },
    Reconfigure {
        new: Box<Reconfiguration>,
        now: Timestamp,
        answer: oneshot::Sender<Result<Reconfigured, ReconfigureError>>,
    },
    Close {
        answer: Answer<()>,
    },
    /// Adds a replica whose cache is `cache`.
    #[cfg(test)]
    Attach {
        cache: Arc<SessionCache>,
        answer: std::sync::mpsc::Sender<ReplicaId>,
    },
}

/// Commands whose changes are committed together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The number of commands in this batch, including the commands that change nothing.
    pub(super) commands: usize,
    pub(super) changes: Vec<Change>,
    pub(super) effects: Vec<Effect>,
    sessions: HashSet<SessionKey>,
    /// The sessions that end when this batch is committed.
    pub(super) removed: Vec<SessionKey>,
    pub(super) users: HashSet<UserHash>,
    /// The notices whose groups end when this batch is committed.
    pub(super) notices: HashSet<Mark>,
    /// The groups of the sessions that this batch creates or replaces.
    put_groups: HashSet<Group>,
    /// The groups that end when this batch is committed.
    ended_groups: HashSet<Group>,
}

/// A change to the index and the caches. The thread of the store makes this change after it has
/// committed the batch.
#[derive(Debug)]
pub(super) enum Effect {
    Opened {
        session: Arc<Stored>,
        provider_session: Option<ProviderSessionHash>,
        ended: Vec<End>,
        replica: ReplicaId,
        answer: Answer<Opened>,
    },
    Replaced {
        next: Arc<Stored>,
        replica: ReplicaId,
        answer: Answer<Replacement>,
    },
    Ended {
        end: End,
        answer: Answer<Vec<End>>,
    },
    EndedAll {
        order: EndAll,
        keys: Vec<SessionKey>,
        answer: Answer<EndedAll>,
    },
}

impl Batch {
    /// Creates or replaces a session. `groups` are the groups of the session.
    pub(super) fn put(&mut self, session: &Arc<Stored>, groups: impl IntoIterator<Item = Group>) {
        self.put_groups.extend(groups);
        self.sessions.insert(*session.key());
        self.changes.push(Change::Put(Arc::clone(session)));
    }

    pub(super) fn remove(&mut self, key: SessionKey) {
        self.sessions.insert(key);
        self.removed.push(key);
        self.changes.push(Change::Remove(key));
    }

    /// Notes that groups of sessions end when this batch is committed.
    pub(super) fn end_groups(&mut self, groups: &[Group]) {
        self.ended_groups.extend(groups.iter().cloned());
    }

    /// Returns true if this batch changes the session with this key.
    pub(super) fn changes_session(&self, key: &SessionKey) -> bool {
        self.sessions.contains(key)
    }

    /// Returns true if a command cannot be executed before this batch is committed, for example
    /// because the batch changes the same session.
    pub(super) fn has_to_wait(&self, command: &Command) -> bool {
        match command {
            Command::Open {
                session, opening, ..
            } => {
                let user = session.user();
                let mut replaces = opening.replaces.iter();
                self.is_full()
                    || self.ends_group_of(session, opening)
                    || user.is_some_and(|user| self.users.contains(&user))
                    || replaces.any(|key| self.sessions.contains(key))
            }
            Command::Replace { next, .. } => self.is_full() || self.sessions.contains(next.key()),
            Command::End { which, .. } => self.is_full() || self.sessions.contains(which.key()),
            Command::EndAll { order, .. } => {
                let notice = order.notice.as_ref();
                self.is_full()
                    || order.groups.iter().any(|group| self.puts_into(group))
                    || notice.is_some_and(|notice| self.notices.contains(&notice.mark))
            }
            Command::Get { key, .. } => self.is_full() || self.sessions.contains(key),
            Command::List { .. }
            | Command::Touch { .. }
            | Command::Sweep { .. }
            | Command::Reconfigure { .. }
            | Command::Close { .. } => true,
            #[cfg(test)]
            Command::Attach { .. } => true,
        }
    }

    /// Returns true if the new session belongs to a group that this batch ends. The login may have
    /// begun before the end of the group, and the store notes this end only after the commit.
    fn ends_group_of(&self, session: &Stored, opening: &Opening) -> bool {
        let ended = &self.ended_groups;
        !ended.is_empty() && opening.groups(session).any(|group| ended.contains(&group))
    }

    /// Returns true if this batch creates or replaces a session of the group. The index contains a
    /// new session only after the commit, and this batch cannot change a session a second time.
    fn puts_into(&self, group: &Group) -> bool {
        match group {
            Group::Keys(keys) => keys.iter().any(|key| self.sessions.contains(key)),
            Group::All
            | Group::Named(_)
            | Group::ProviderSession(_)
            | Group::User(_)
            | Group::UserWithoutSid(_) => self.put_groups.contains(group),
        }
    }

    fn is_full(&self) -> bool {
        self.commands >= MAX_COMMANDS
    }
}

impl Effect {
    /// Returns true if the command only ends sessions.
    pub(super) fn only_ends(&self) -> bool {
        match self {
            Self::Ended { .. } | Self::EndedAll { .. } => true,
            Self::Opened { .. } | Self::Replaced { .. } => false,
        }
    }

    pub(super) fn failed(self, error: &StoreError) {
        match self {
            Self::Opened { answer, .. } => send(answer, Err(error.clone())),
            Self::Replaced { answer, .. } => send(answer, Err(error.clone())),
            Self::Ended { answer, .. } => send(answer, Err(error.clone())),
            Self::EndedAll { answer, .. } => send(answer, Err(error.clone())),
        }
    }
}

/// Answers a command. This function does nothing if the caller no longer waits for the answer.
pub(super) fn send<T>(answer: Answer<T>, result: Result<T, StoreError>) {
    drop(answer.send(result));
}
