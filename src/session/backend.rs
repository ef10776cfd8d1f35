//! The storage of a local store. A store without a file has all sessions in memory. A store with a
//! file has all sessions in the file, and some of these sessions also in memory.

use super::SessionKey;
use super::disk::Disk;
use super::index::{Rank, UserHash};
use super::record::Contents;
use super::store::StoreError;
use super::stored::Stored;
use crate::clock::Timestamp;
use std::sync::Arc;

/// A change to the stored sessions. A commit applies either all changes of a list or no change of
/// the list.
#[derive(Debug)]
pub(super) enum Change {
    /// Stores this version of a session.
    Put(Arc<Stored>),
    /// Removes a session that has ended.
    Remove(SessionKey),
    /// Stores the time at which a session was last used.
    Used(SessionKey, Timestamp),
}

/// A session that was read from the file.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) ends_at: Timestamp,
    pub(super) last_used: Timestamp,
    pub(super) contents: Contents,
}

impl Loaded {
    pub(super) fn into_stored(self, key: SessionKey) -> Arc<Stored> {
        let rank = Rank {
            user: UserHash::of(&self.contents.identity),
            ends_at: self.ends_at,
            key,
        };
        Arc::new(Stored::new(rank, self.last_used, &self.contents))
    }
}

/// The storage that a local store uses in addition to its cache.
#[derive(Debug)]
pub(super) enum Backend {
    /// The sessions are only in the cache. If the cache is full and evicts a session, the session
    /// ends.
    Memory,
    /// A file contains all sessions, and the cache contains some of these sessions.
    Disk(Box<Disk>),
}

impl Backend {
    /// Commits changes. If the store has a file, all changes are durable when this function
    /// returns.
    ///
    /// # Errors
    ///
    /// After [`StoreError::NotCommitted`], the store contains none of the changes.
    pub(super) fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        match self {
            Self::Memory => Ok(()),
            Self::Disk(_) if changes.is_empty() => Ok(()),
            Self::Disk(disk) => disk.commit(changes),
        }
    }

    /// Reads a session from the file.
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
