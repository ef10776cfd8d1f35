//! The results of the operations of [`super::Sessions`].

use std::sync::Arc;

use super::{FileError, RedisConnectError, Session, StoreError};
use crate::clock::Timestamp;
use crate::secret::NoRandomness;

/// The result of a look-up of a session id.
#[derive(Clone, Debug)]
#[must_use]
pub enum Lookup {
    /// A live session.
    Live(Arc<Session>),
    /// The session is not in the cache, but the store may contain the session.
    /// [`super::Sessions::fetch`] reads the session from the store.
    Away,
    /// A session that has passed its idle or absolute deadline.
    Expired,
    /// The id belongs to the store of another process, or to the store that this process had in
    /// memory before a restart.
    OtherInstance,
    /// No session has this id: the session has ended, was evicted, or never existed.
    Unknown,
}

/// The times at which a session ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Deadlines {
    /// The session ends at this time if no request uses the session.
    pub(crate) idle: Timestamp,
    /// The session ends at this time at the latest.
    pub(crate) latest: Timestamp,
}

/// The result of replacing a session.
#[derive(Clone, Debug)]
#[must_use]
pub enum Replaced {
    /// The session was replaced. The variant `Stored` contains the new version.
    Stored(Arc<Session>),
    /// Another caller has already replaced the session. The variant `Newer` contains the current
    /// version.
    Newer(Arc<Session>),
    /// The session has ended.
    Ended,
}

/// The result of ending a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// A session has ended.
    Session,
    /// A session has ended at this replica. Other replicas can use the session for a limited time,
    /// because the shared store does not answer. The session ends everywhere when the store answers.
    OnlyHere,
    /// No session with this key existed.
    Nothing,
}

/// The result of an attempt to end one version of a session.
#[derive(Clone, Debug)]
#[must_use]
pub(crate) enum EndedVersion {
    /// The session has ended.
    Ended,
    /// The session has a newer version. The variant `Newer` contains the newer version.
    Newer(Arc<Session>),
}

/// The result of [`super::Sessions::maintain`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Maintained {
    /// This call has searched one part of the sessions and has removed all expired sessions in this
    /// part.
    Done,
    /// This call has removed the maximum number of sessions, so there may be more expired sessions.
    More,
}

/// The reason why the session store could not be started. The operator is responsible for this
/// error.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The session file cannot be used.
    #[error("the file of sessions cannot be used")]
    File(#[from] FileError),
    /// The operating system does not return random bytes.
    #[error("the store of sessions cannot get random bytes")]
    NoRandomness(#[from] NoRandomness),
    /// The settings of the shared store cannot be used.
    #[error("the session store cannot be used")]
    Redis(#[source] Arc<RedisConnectError>),
    /// The thread of the store cannot be started.
    #[error("the thread of the session store cannot be started")]
    Thread(#[source] std::io::Error),
}

/// The reason why no session was created. The gateway is responsible for this error.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// All sessions of the user, or all sessions that belong to the same session at the provider,
    /// have ended during the login.
    #[error("the sessions of this sign-in have ended since it began")]
    EndedMeanwhile,
    /// The operating system does not return random bytes.
    #[error("no session id could be generated")]
    NoRandomness(#[from] NoRandomness),
    /// The session could not be stored.
    #[error("the session could not be stored")]
    Store(#[from] StoreError),
    /// During the login, the operator removed the provider from the settings or gave the name of
    /// the provider to another server or client.
    #[error("the provider is not the one that it was when this sign-in began")]
    UnknownProvider,
}
