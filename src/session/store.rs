//! Where sessions are kept beyond the cache, and why something could not be.

use std::error::Error as StdError;
use std::sync::Arc;

use super::disk::Disk;
use super::index::{Person, Rank};
use super::record::Contents;
use super::stored::Stored;
use super::{Session, SessionKey};
use crate::clock::Timestamp;

/// Why a change of sessions did not happen, or a session could not be fetched.
///
/// Side: gateway. What was asked for did not happen; who is signed in stays so.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The change could not be committed, for instance because the disk is full.
    #[error("the session file could not be written")]
    NotCommitted(#[source] Arc<dyn StdError + Send + Sync>),
    /// What the file holds under the session's key does not open.
    #[error("the session's entry in the file is damaged")]
    Damaged,
    /// The store has been closed, since the process ends.
    #[error("the session store is closed")]
    Closed,
    /// The file cannot be read.
    #[error("the session file could not be read")]
    Unreadable(#[source] Arc<dyn StdError + Send + Sync>),
}

impl StoreError {
    /// A stable code for logs and metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotCommitted(_) => "session_not_stored",
            Self::Damaged => "session_damaged",
            Self::Closed => "stopping",
            Self::Unreadable(_) => "session_not_read",
        }
    }
}

/// One change; several are committed together or not at all.
#[derive(Debug)]
pub(super) enum Change {
    /// A session is there in this version.
    Put(Arc<Stored>),
    /// A session is over.
    Remove(SessionKey),
    /// A session was used last at this time.
    Used(SessionKey, Timestamp),
}

/// A session as it lies in the store.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) ends_at: Timestamp,
    pub(super) last_used: Timestamp,
    pub(super) contents: Contents,
}

impl Loaded {
    pub(super) fn into_session(self, key: SessionKey) -> Session {
        let rank = Rank {
            person: Person::of(&self.contents.identity),
            ends_at: self.ends_at,
            key,
        };
        Session::new(rank, self.last_used, self.contents)
    }
}

/// Where sessions are kept beyond the cache.
#[derive(Debug)]
pub(super) enum Store {
    /// Nowhere: what the cache drops is gone.
    Memory,
    /// In a file.
    Disk(Box<Disk>),
}

impl Store {
    /// Commits changes. They are durable when this returns.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotCommitted`]: none of them happened, as far as anybody can see.
    pub(super) fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        match self {
            Self::Memory => Ok(()),
            Self::Disk(_) if changes.is_empty() => Ok(()),
            Self::Disk(disk) => disk.commit(changes),
        }
    }

    /// Reads a session that is not in memory.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`], [`StoreError::Unreadable`].
    pub(super) fn load(&mut self, key: &SessionKey) -> Result<Option<Loaded>, StoreError> {
        match self {
            Self::Memory => Ok(None),
            Self::Disk(disk) => disk.load(key),
        }
    }
}
