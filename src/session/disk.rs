//! A session file: a redb database. The database locks the file against all other processes.
//!
//! A commit writes changed pages to free places of the file and ends with one `fsync`. After a
//! crash, the file contains the last commit whose checksums are valid. When the store opens the
//! file, the database checks all contents of the file, so that damaged data is found at the start
//! and not at a later read. The check of a large file takes time, because the check reads the whole
//! file. The store also opens and checks the file again after a failed commit. The check after a
//! failed commit costs no additional time, because the database must read the whole file for a
//! repair. After a failed operation, the store waits before it tries again, because checking a file
//! can take a long time.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableDatabase as _, WriteTransaction};
use tokio::time::Instant;

use super::backend::{Change, Loaded};
use super::entry::{Entry, FileId, Format, Sealing};
use super::file::{self, COMMIT_KEY, FileError, PROPERTIES, SESSIONS, USED, closed, refused};
use super::first_format::upgrade;
use super::limits::Limits;
use super::pause::{Cause, Pause};
use super::registration::{self, Registrations};
use super::store::StoreError;
use super::survey::{Rules, Survey, loaded, survey, survey_and_take};
use super::{SessionKey, StoreTag};
use crate::clock::{Clock, Timestamp};
use crate::seal::KeyRing;
use crate::secret::NoRandomness;

/// An open session file.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    keys: Arc<KeyRing>,
    /// The fingerprints of the providers in the current settings.
    providers: Registrations,
    store_tag: StoreTag,
    file_id: FileId,
    /// The open database. After a failed commit, `database` is `None` until the file is opened
    /// again.
    database: Option<Database>,
    /// The sequence number of the last commit.
    commit: u64,
    /// The pause after a failed attempt to open the file.
    opening: Pause,
    /// The pause after a failed write.
    writing: Pause,
    /// The pause after a failed commit that contained only removals. A removal usually succeeds on
    /// a full disk, because a removal frees at least as much space as the removal needs.
    removing: Pause,
}

impl Disk {
    /// Opens the file, or creates the file if it does not exist. Converts a file of format 1. Only
    /// sessions of `providers` are valid.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub(super) fn open(
        path: &Path,
        (keys, providers): (Arc<KeyRing>, &Registrations),
        now: Timestamp,
    ) -> Result<Self, FileError> {
        file::inspect(path)?;
        // An empty file is treated like a missing file, because some tools create an empty file
        // before the first start.
        let exists = std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0);
        if !exists {
            file::create(path)?;
        }
        let (database, properties) = file::open(path)?;
        let file_id = match properties.file_id {
            Some(file_id) => file_id,
            None => upgrade(path, &database, &keys, now)?,
        };
        Ok(Self {
            path: path.to_owned(),
            keys,
            providers: providers.clone(),
            store_tag: properties.store_tag,
            file_id,
            database: Some(database),
            commit: properties.commit,
            opening: Pause::default(),
            writing: Pause::default(),
            removing: Pause::default(),
        })
    }

    /// Returns the store tag, which is part of the ids of the sessions in this file.
    pub(super) fn store_tag(&self) -> StoreTag {
        self.store_tag
    }

    /// Calls `take` for each valid session in the file, and removes the invalid sessions from the
    /// file.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub(super) fn restore(
        &mut self,
        limits: &Limits,
        now: Timestamp,
        take: impl FnMut(SessionKey, Loaded),
    ) -> Result<(), FileError> {
        let damaged = |error: redb::Error| refused(&self.path, error);
        let read = || {
            let transaction = self.database.as_ref().ok_or_else(closed)?.begin_read()?;
            let rules = Rules {
                keys: &self.keys,
                now,
                format: Format::Second(self.file_id),
                providers: &self.providers,
            };
            survey_and_take(&transaction, &rules, limits, take)
        };
        let found = read().map_err(damaged)?;
        if found.unknown_key > 0 {
            return Err(FileError::UnknownKey {
                path: self.path.clone(),
                sessions: found.unknown_key,
            });
        }
        let invalid = found.expired.iter().chain(&found.of_changed_providers);
        let write = Write {
            changes: &invalid.copied().map(Change::Remove).collect::<Vec<_>>(),
            sealing: self.sealing(),
            commit: self.commit.saturating_add(1),
        };
        let database = self.database.as_ref().ok_or_else(|| damaged(closed()))?;
        write.on(database).map_err(damaged)?;
        self.commit = write.commit;
        registration::report(&found.ended);
        Ok(())
    }

    /// Finds the sessions in the file that would become invalid with the given keys and providers.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`], [`StoreError::Unreadable`].
    pub(super) fn survey(
        &mut self,
        keys: &KeyRing,
        now: Timestamp,
        providers: &Registrations,
    ) -> Result<Survey, StoreError> {
        self.ensure_open().map_err(StoreError::Unreadable)?;
        let read = || {
            let transaction = self.database.as_ref().ok_or_else(closed)?.begin_read()?;
            let rules = Rules {
                keys,
                now,
                format: Format::Second(self.file_id),
                providers,
            };
            survey(&transaction, &rules)
        };
        read().map_err(|error| StoreError::Unreadable(Arc::new(error)))
    }

    /// Returns the keys with which the entries of the file are encrypted.
    pub(super) fn keys(&self) -> &Arc<KeyRing> {
        &self.keys
    }

    /// Commits changes. After this call, new entries are encrypted with `keys`, and only sessions of
    /// `providers` are valid.
    ///
    /// # Errors
    ///
    /// After [`StoreError::NotCommitted`], nothing has changed.
    pub(super) fn register(
        &mut self,
        changes: &[Change],
        providers: &Registrations,
        keys: Arc<KeyRing>,
    ) -> Result<(), StoreError> {
        if !changes.is_empty() {
            self.commit(changes)?;
        }
        self.keys = keys;
        self.providers.clone_from(providers);
        Ok(())
    }

    /// Commits changes.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotCommitted`].
    pub(super) fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let began = instant();
        let removes = |change: &Change| matches!(change, Change::Remove(_));
        let only_removals = changes.iter().all(removes);
        let pause = if only_removals {
            &self.removing
        } else {
            &self.writing
        };
        pause.check(began).map_err(StoreError::NotCommitted)?;
        self.ensure_open().map_err(StoreError::NotCommitted)?;
        let commit = self.commit.saturating_add(1);
        let Some(database) = &self.database else {
            return Err(StoreError::NotCommitted(Arc::new(closed())));
        };
        let write = Write {
            changes,
            sealing: self.sealing(),
            commit,
        };
        let Err(error) = write.on(database) else {
            self.commit = commit;
            self.removing.end();
            // A commit that only removes entries needs little space, so its success does not show
            // that the disk has space for other writes.
            if !only_removals {
                self.writing.end();
            }
            return Ok(());
        };
        // After a failed commit, the open database accepts no further commit. The gateway does not
        // know whether the file contains the failed commit. When the file is opened again, the
        // commit number in the file shows whether the file contains the failed commit.
        self.database = None;
        match self.open_again() {
            Ok(()) if self.commit == commit => Ok(()),
            Ok(()) | Err(_) => {
                let error: Cause = Arc::new(error);
                let ended = instant();
                // If the removal of sessions fails, all other writes pause, too, because other
                // writes need more space.
                self.writing.note_failure(began, ended, &error);
                if only_removals {
                    self.removing.note_failure(began, ended, &error);
                }
                Err(StoreError::NotCommitted(error))
            }
        }
    }

    fn sealing(&self) -> Sealing<'_> {
        Sealing {
            file: self.file_id,
            providers: &self.providers,
            keys: &self.keys,
        }
    }

    /// Opens the file again if it was closed after a failure.
    fn ensure_open(&mut self) -> Result<(), Cause> {
        if self.database.is_some() {
            return Ok(());
        }
        self.opening.check(instant())?;
        self.open_again()
    }

    fn open_again(&mut self) -> Result<(), Cause> {
        let began = instant();
        match file::open(&self.path) {
            Ok((database, properties)) if properties.file_id == Some(self.file_id) => {
                self.commit = properties.commit;
                self.database = Some(database);
                self.opening.end();
                Ok(())
            }
            other => {
                let replaced = FileError::Replaced(self.path.clone());
                let error: Cause = Arc::new(other.err().unwrap_or(replaced));
                self.opening.note_failure(began, instant(), &error);
                Err(error)
            }
        }
    }

    /// Reads one session.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`], [`StoreError::Unreadable`].
    pub(super) fn load(&mut self, key: &SessionKey) -> Result<Option<Loaded>, StoreError> {
        let unreadable = |error: redb::Error| StoreError::Unreadable(Arc::new(error));
        self.ensure_open().map_err(StoreError::Unreadable)?;
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
        let entry = Entry::new(value.value(), Format::Second(self.file_id));
        let entry = entry.ok_or(StoreError::Damaged)?;
        let contents = entry.open(key, &self.keys, &self.providers);
        let contents = contents.ok_or(StoreError::Damaged)?;
        let used = used.map(Timestamp::from_millis);
        Ok(Some(loaded(entry.ends_at, contents, used)))
    }
}

/// The data that one commit writes to the session file.
struct Write<'a> {
    changes: &'a [Change],
    sealing: Sealing<'a>,
    /// The sequence number of this commit.
    commit: u64,
}

impl Write<'_> {
    fn on(&self, database: &Database) -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        self.apply(&transaction)?;
        Ok(transaction.commit()?)
    }

    fn apply(&self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        let mut sessions = transaction.open_table(SESSIONS)?;
        let mut used = transaction.open_table(USED)?;
        for change in self.changes {
            match change {
                Change::Put(session) => {
                    let sealed = self.sealing.seal(session);
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
        let mut properties = transaction.open_table(PROPERTIES)?;
        // After a failed commit, the commit number in the file shows whether the file contains the
        // commit.
        properties.insert(COMMIT_KEY, self.commit)?;
        Ok(())
    }
}

fn instant() -> Instant {
    Clock::system().instant()
}

#[cfg(test)]
#[path = "disk_tests.rs"]
pub(super) mod tests;
