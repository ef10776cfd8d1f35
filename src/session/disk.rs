//! Sessions in a file: one redb database, whose lock keeps every other process out.
//!
//! A commit writes every page beside what is there and ends with one `fsync`; after a crash the
//! last commit whose checksums hold is what counts. Opening checks the whole file, so what is read
//! later is what was written.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redb::{Database, ReadableDatabase as _, ReadableTable as _};

use super::file::{self, ABOUT, COMMIT_KEY, FileError, SESSIONS, USED, closed, corrupted, refused};
use super::record::{self, Contents, Entry};
use super::store::{Change, Loaded, StoreError};
use super::{Instance, SessionKey};
use crate::clock::Timestamp;
use crate::seal::KeyRing;
use crate::secret::NoRandomness;

/// An open file of sessions.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    keys: KeyRing,
    instance: Instance,
    /// Absent after a failure, until the file could be opened again.
    database: Option<Database>,
    /// The number of the last commit.
    commit: u64,
}

impl Disk {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub(super) fn open(path: &Path, keys: KeyRing) -> Result<Self, FileError> {
        file::inspect(path)?;
        let is_there = std::fs::metadata(path).is_ok_and(|about| about.len() > 0);
        if !is_there {
            file::make(path)?;
        }
        let (database, about) = file::open(path)?;
        Ok(Self {
            path: path.to_owned(),
            keys,
            instance: about.instance,
            database: Some(database),
            commit: about.commit,
        })
    }

    /// The tag of the ids that were given out for sessions in this file.
    pub(super) fn instance(&self) -> Instance {
        self.instance
    }

    /// Gives all sessions in the file that have not passed their deadline to `take`; those that have
    /// are removed.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub(super) fn all(
        &mut self,
        idle: Duration,
        now: Timestamp,
        mut take: impl FnMut(SessionKey, Loaded),
    ) -> Result<(), FileError> {
        let damaged = |error: redb::Error| refused(&self.path, error);
        let (mut over, mut unknown) = (Vec::new(), 0_usize);
        self.each(|key, entry, used| {
            if entry.ends_at <= now {
                over.push(Change::Remove(key));
            } else if !entry.is_known_to(&self.keys) {
                unknown = unknown.saturating_add(1);
            } else {
                let contents = entry.open(&key, &self.keys);
                let contents = contents.ok_or_else(|| corrupted("an entry does not open"))?;
                let loaded = loaded(entry, contents, used);
                if loaded.last_used.plus(idle).min(loaded.ends_at) <= now {
                    over.push(Change::Remove(key));
                } else {
                    take(key, loaded);
                }
            }
            Ok(())
        })
        .map_err(damaged)?;
        if unknown > 0 {
            return Err(FileError::UnknownKey {
                path: self.path.clone(),
                sessions: unknown,
            });
        }
        if !over.is_empty() {
            let commit = self.commit.saturating_add(1);
            let database = self.database.as_ref().ok_or_else(|| damaged(closed()))?;
            write(database, &over, &self.keys, commit).map_err(damaged)?;
            self.commit = commit;
        }
        Ok(())
    }

    fn each(
        &self,
        mut look: impl FnMut(SessionKey, &Entry<'_>, Option<Timestamp>) -> Result<(), redb::Error>,
    ) -> Result<(), redb::Error> {
        let transaction = self.database.as_ref().ok_or_else(closed)?.begin_read()?;
        let (sessions, used) = (
            transaction.open_table(SESSIONS)?,
            transaction.open_table(USED)?,
        );
        for entry in sessions.iter()? {
            let (key, value) = entry?;
            let used = used.get(key.value())?.map(|used| used.value());
            let entry = Entry::new(value.value()).ok_or_else(|| corrupted("an entry is cut"))?;
            let key = SessionKey::from_bytes(*key.value());
            look(key, &entry, used.map(Timestamp::from_millis))?;
        }
        Ok(())
    }

    /// Commits changes.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotCommitted`].
    pub(super) fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        if self.database.is_none() {
            self.open_again().map_err(not_committed)?;
        }
        let commit = self.commit.saturating_add(1);
        let Some(database) = &self.database else {
            return Err(not_committed(closed()));
        };
        let Err(error) = write(database, changes, &self.keys, commit) else {
            self.commit = commit;
            return Ok(());
        };
        // Whether it became durable is not known, and this database takes no further commit. The
        // number of the last commit in the file tells.
        self.database = None;
        match self.open_again() {
            Ok(()) if self.commit == commit => Ok(()),
            Ok(()) | Err(_) => Err(not_committed(error)),
        }
    }

    fn open_again(&mut self) -> Result<(), FileError> {
        let (database, about) = file::open(&self.path)?;
        self.commit = about.commit;
        self.database = Some(database);
        Ok(())
    }

    /// Reads one session.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`], [`StoreError::Unreadable`].
    pub(super) fn load(&mut self, key: &SessionKey) -> Result<Option<Loaded>, StoreError> {
        let unreadable = |error: redb::Error| StoreError::Unreadable(Arc::new(error));
        if self.database.is_none() {
            let opened = self.open_again();
            opened.map_err(|error| StoreError::Unreadable(Arc::new(error)))?;
        }
        let database = self.database.as_ref();
        let database = database.ok_or_else(|| unreadable(closed()))?;
        let read = || {
            let transaction = database.begin_read()?;
            let value = transaction.open_table(SESSIONS)?.get(key.as_bytes())?;
            let used = transaction.open_table(USED)?.get(key.as_bytes())?;
            Ok((value, used.map(|used| used.value())))
        };
        let (value, used) = read().map_err(unreadable)?;
        let Some(value) = value else {
            return Ok(None);
        };
        let entry = Entry::new(value.value()).ok_or(StoreError::Damaged)?;
        let contents = entry.open(key, &self.keys).ok_or(StoreError::Damaged)?;
        let used = used.map(Timestamp::from_millis);
        Ok(Some(loaded(&entry, contents, used)))
    }
}

/// `used` is when the session was used last, as far as the file knows.
fn loaded(entry: &Entry<'_>, contents: Contents, used: Option<Timestamp>) -> Loaded {
    Loaded {
        ends_at: entry.ends_at,
        last_used: used.unwrap_or_default().max(contents.opened_at),
        contents,
    }
}

/// Writes changes as one commit with this number.
fn write(
    database: &Database,
    changes: &[Change],
    keys: &KeyRing,
    commit: u64,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut sessions = transaction.open_table(SESSIONS)?;
        let mut used = transaction.open_table(USED)?;
        for change in changes {
            match change {
                Change::Put(session) => {
                    let sealed = record::seal(session, keys);
                    let sealed = sealed.ok_or_else(|| io::Error::other(NoRandomness))?;
                    sessions.insert(session.key().as_bytes(), sealed.as_slice())?;
                }
                Change::Remove(key) => {
                    sessions.remove(key.as_bytes())?;
                    used.remove(key.as_bytes())?;
                }
                Change::Used(key, at) => {
                    used.insert(key.as_bytes(), at.as_millis())?;
                }
            }
        }
        transaction.open_table(ABOUT)?.insert(COMMIT_KEY, commit)?;
    }
    transaction.commit()?;
    Ok(())
}

fn not_committed(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::NotCommitted(Arc::new(error))
}
