//! The results of the operations of [`super::Sessions`].

use std::sync::Arc;

use super::{FileError, Session, StoreError};
use crate::secret::NoRandomness;

/// The result of looking a session id up.
#[derive(Clone, Debug)]
#[must_use]
pub enum Lookup {
    /// A live session.
    Live(Arc<Session>),
    /// The session is not in the cache, but may be in the store: [`super::Sessions::fetch`] reads it.
    Away,
    /// A session that has passed its idle or absolute deadline.
    Expired,
    /// The id belongs to the store of another process, or to the store in memory of this process before
    /// a restart.
    OtherInstance,
    /// There is no session: it has ended, was pushed out, or never existed.
    Unknown,
}

/// The result of replacing a session.
#[derive(Clone, Debug)]
#[must_use]
pub enum Replaced {
    /// The new version is current.
    Stored(Arc<Session>),
    /// Somebody else has replaced the session before; this version is current.
    Newer(Arc<Session>),
    /// The session has ended.
    Ended,
}

/// The result of ending a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// A session has ended.
    Session,
    /// There was no session.
    Nothing,
}

/// The result of ending one version of a session.
#[derive(Clone, Debug)]
#[must_use]
pub(crate) enum EndedVersion {
    /// The session has ended.
    Ended,
    /// The session was replaced meanwhile; this version is current.
    Newer(Arc<Session>),
}

/// The result of [`super::Sessions::maintain`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Maintained {
    /// No more sessions have expired, as far as this call has looked.
    Done,
    /// A full batch was removed, and more sessions may have expired.
    More,
}

/// Why the store of sessions could not be started. Responsible: the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file of durable sessions cannot be used.
    #[error("the file of sessions cannot be used")]
    File(#[from] FileError),
    /// The operating system gives no random bytes.
    #[error("the store of sessions cannot get random bytes")]
    NoRandomness(#[from] NoRandomness),
    /// The thread of the store cannot be started.
    #[error("the thread of the session store cannot be started")]
    Thread(#[source] std::io::Error),
}

/// Why no session was opened. Responsible: the gateway.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system gives no random bytes.
    #[error("no session id could be generated")]
    NoRandomness(#[from] NoRandomness),
    /// The session could not be stored.
    #[error("the session could not be stored")]
    Store(#[from] StoreError),
    /// During the sign-in, the provider was removed from the settings, or became another server or
    /// client.
    #[error("the provider is not the one that it was when this sign-in began")]
    UnknownProvider,
}
