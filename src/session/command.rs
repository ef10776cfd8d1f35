//! What the keeper is asked and told, and what it gathers before a commit.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::ending::{End, EndReason};
use super::index::Person;
use super::reconfigure::{Reconfiguration, ReconfigureError, Reconfigured};
use super::registration::Registration;
use super::store::{Change, StoreError};
use super::stored::Stored;
use super::{Ended, EndedVersion, Maintained, Replaced, Session, SessionKey};
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::token::TokenSet;

/// How many commands are gathered at most before what they change is committed: reads count, too, or
/// a stream of them would put a commit off.
const MOST_TOGETHER: usize = 256;

/// Where the answer to a command goes. Nobody may be waiting any more; the command counts all the
/// same.
pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the keeper is asked.
#[derive(Debug)]
pub(super) enum Command {
    Open {
        session: Arc<Stored>,
        /// What its provider was when the person signed in.
        registration: Registration,
        replaces: Vec<SessionKey>,
        answer: Answer<Opened>,
    },
    Replace {
        old: Arc<Session>,
        tokens: TokenSet,
        identity: Option<Box<Identity>>,
        answer: Answer<Replaced>,
    },
    End {
        key: SessionKey,
        why: EndReason,
        answer: Answer<Ended>,
    },
    EndVersion {
        old: Arc<Session>,
        why: EndReason,
        answer: Answer<EndedVersion>,
    },
    Fetch {
        key: SessionKey,
        answer: Answer<Option<Arc<Session>>>,
    },
    Maintain {
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
}

/// What became of a new session.
#[derive(Debug)]
pub(super) enum Opened {
    Stored,
    /// Its provider is not registered any more, or is another server or client now.
    NoProvider,
}

/// What the keeper is told by those who cannot wait.
#[derive(Debug)]
pub(super) enum Notice {
    /// The cache pushed a session out.
    PushedOut(Arc<Stored>),
    /// A session was used, and the store may know of a use long before only.
    Used(Arc<Stored>),
}

/// Commands that are committed together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// How many commands were planned, those that change nothing among them.
    pub(super) commands: usize,
    pub(super) changes: Vec<Change>,
    pub(super) effects: Vec<Effect>,
    sessions: HashSet<SessionKey>,
    pub(super) people: HashSet<Person>,
}

/// What happens once a batch is committed.
#[derive(Debug)]
pub(super) enum Effect {
    Opened {
        session: Arc<Stored>,
        ended: Vec<End>,
        answer: Answer<Opened>,
    },
    Replaced {
        old: [Arc<Stored>; 2],
        new: Arc<Session>,
        answer: Answer<Replaced>,
    },
    Ended {
        end: End,
        answer: Answer<Ended>,
    },
    EndedVersion {
        end: End,
        answer: Answer<EndedVersion>,
    },
}

impl Batch {
    pub(super) fn put(&mut self, session: &Arc<Stored>) {
        self.sessions.insert(*session.key());
        self.changes.push(Change::Put(Arc::clone(session)));
    }

    pub(super) fn remove(&mut self, key: SessionKey) {
        self.sessions.insert(key);
        self.changes.push(Change::Remove(key));
    }

    /// Whether a command has to be planned on what this batch makes of things.
    pub(super) fn has_to_wait(&self, command: &Command) -> bool {
        match command {
            Command::Open {
                session, replaces, ..
            } => {
                let person = session.person();
                self.is_full()
                    || person.is_some_and(|person| self.people.contains(&person))
                    || replaces.iter().any(|key| self.sessions.contains(key))
            }
            Command::Replace { old, .. } | Command::EndVersion { old, .. } => {
                self.is_full() || self.sessions.contains(old.key())
            }
            Command::End { key, .. } | Command::Fetch { key, .. } => {
                self.is_full() || self.sessions.contains(key)
            }
            Command::Maintain { .. } | Command::Reconfigure { .. } | Command::Close { .. } => true,
        }
    }

    fn is_full(&self) -> bool {
        self.commands >= MOST_TOGETHER
    }
}

impl Effect {
    pub(super) fn failed(self, error: &StoreError) {
        match self {
            Self::Opened { answer, .. } => say(answer, Err(error.clone())),
            Self::Ended { answer, .. } => say(answer, Err(error.clone())),
            Self::Replaced { answer, .. } => say(answer, Err(error.clone())),
            Self::EndedVersion { answer, .. } => say(answer, Err(error.clone())),
        }
    }
}

/// Answers; nobody may be waiting any more.
pub(super) fn say<T>(answer: Answer<T>, what: Result<T, StoreError>) {
    drop(answer.send(what));
}
