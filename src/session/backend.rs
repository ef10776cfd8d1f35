//! The places where a local store keeps the sessions: only in memory, or also in a file.

use super::SessionKey;
use super::disk::Disk;
use super::index::{Person, Rank};
use super::record::Contents;
use super::store::StoreError;
use super::stored::Stored;
use crate::clock::Timestamp;
use std::sync::Arc;

/// A change of the stored sessions. A commit makes all of its changes or none of them.
#[derive(Debug)]
pub(super) enum Change {
    /// Stores this version of a session.
    Put(Arc<Stored>),
    /// Removes a session that has ended.
    Remove(SessionKey),
    /// Stores the time when a session was last used.
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
            person: Person::of(&self.contents.identity),
            ends_at: self.ends_at,
            key,
        };
        Arc::new(Stored::new(rank, self.last_used, &self.contents))
    }
}

/// The place where a local store keeps the sessions, in addition to the cache.
#[derive(Debug)]
pub(super) enum Backend {
    /// The cache is the only place. A session that the cache evicts ends.
    Memory,
    /// The sessions are also in a file.
    Disk(Box<Disk>),
}

impl Backend {
    /// Commits changes. All changes are durable when this function returns.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotCommitted`]: the store contains none of the changes.
    pub(super) fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        match self {
            Self::Memory => Ok(()),
            Self::Disk(_) if changes.is_empty() => Ok(()),
            Self::Disk(disk) => disk.commit(changes),
        }
    }

    /// Reads from the file a session that is not in memory.
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
