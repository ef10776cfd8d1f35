//! What can come of a wish of [`super::Sessions`].

use std::sync::Arc;

use super::{FileError, Session, StoreError};
use crate::secret::NoRandomness;

/// What a session id leads to.
#[derive(Clone, Debug)]
#[must_use]
pub enum Lookup {
    /// A live session.
    Live(Arc<Session>),
    /// Nothing in memory, but perhaps something in the file: [`super::Sessions::fetch`] tells.
    Away,
    /// A session that has passed its idle or absolute deadline.
    Expired,
    /// No session here; the id was given out by another process, or by this one before a restart
    /// that its sessions did not outlive.
    OtherInstance,
    /// No session: it was ended, pushed out, or never existed.
    Unknown,
}

/// What became of a wish to replace a session.
#[derive(Clone, Debug)]
#[must_use]
pub enum Replaced {
    /// The new version stands.
    Stored(Arc<Session>),
    /// Somebody else was first; this version stands.
    Newer(Arc<Session>),
    /// The session is over, and stays so.
    Ended,
}

/// What was ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// A session.
    Session,
    /// There was none.
    Nothing,
}

/// What became of a wish to end one version of a session.
#[derive(Clone, Debug)]
#[must_use]
pub(crate) enum EndedVersion {
    /// The session is over.
    Ended,
    /// The session was replaced meanwhile; this version stands.
    Newer(Arc<Session>),
}

/// What one call of [`super::Sessions::maintain`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Maintained {
    /// Nothing more is due.
    Done,
    /// A full batch was removed; more may be due at once.
    More,
}

/// Why sessions could not be kept from the start. Side: gateway.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file of durable sessions cannot be used.
    #[error("the file of sessions cannot be used")]
    File(#[from] FileError),
    /// The operating system gives no random bytes.
    #[error("no session could be opened")]
    NoRandomness(#[from] NoRandomness),
    /// The thread that keeps them cannot be started.
    #[error("the thread that keeps sessions cannot be started")]
    Thread(#[source] std::io::Error),
}

/// Why no session was opened. Side: gateway.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system gives no random bytes.
    #[error("no session id could be drawn")]
    NoRandomness(#[from] NoRandomness),
    /// The session could not be stored.
    #[error("the session could not be stored")]
    Store(#[from] StoreError),
    /// The provider was taken out of the settings while somebody was signing in at it, or is another
    /// server or client now.
    #[error("the provider is not what it was when this sign-in began")]
    UnknownProvider,
}
