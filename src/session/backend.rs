//! Where a local store keeps its sessions beyond the cache: nowhere, or in a file.

use super::SessionKey;
use super::disk::Disk;
use super::index::{Person, Rank};
use super::record::Contents;
use super::store::StoreError;
use super::stored::Stored;
use crate::clock::Timestamp;
use std::sync::Arc;

/// One change; several are committed together or not at all.
#[derive(Debug)]
pub(super) enum Change {
    /// Stores this version of a session.
    Put(Arc<Stored>),
    /// Removes a session that has ended.
    Remove(SessionKey),
    /// Stores when a session was used last.
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

/// Where a local store keeps its sessions beyond the cache.
#[derive(Debug)]
pub(super) enum Backend {
    /// Nowhere: a session that the cache evicts has ended.
    Memory,
    /// In a file.
    Disk(Box<Disk>),
}

impl Backend {
    /// Commits changes. They are durable when this returns.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotCommitted`]: none of the changes took effect.
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
