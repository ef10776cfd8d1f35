//! Sessions in a file: one redb database, whose lock keeps every other process out.
//!
//! A commit writes every page beside what is there and ends with one `fsync`; after a crash the
//! last commit whose checksums hold is what counts. Opening checks the whole file, so what is read
//! later is what was written. That takes its time, and a failed commit makes it necessary (the database
//! would repair itself by as much reading in any case), so what has just failed is not tried at once
//! again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redb::{Database, ReadableDatabase as _, WriteTransaction};
use tokio::time::Instant;

use super::backend::{Change, Loaded};
use super::file::{self, ABOUT, COMMIT_KEY, FileError, SESSIONS, USED, closed, refused};
use super::pause::{Pause, Why};
use super::record::{self, Entry};
use super::registration::{self, Registrations};
use super::store::StoreError;
use super::survey::{Found, Rules, loaded, survey, survey_and_take};
use super::{SessionKey, StoreTag};
use crate::clock::{Clock, Timestamp};
use crate::seal::KeyRing;
use crate::secret::NoRandomness;

/// An open file of sessions.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    keys: Arc<KeyRing>,
    store_tag: StoreTag,
    /// Absent after a failure, until the file could be opened again.
    database: Option<Database>,
    /// The number of the last commit.
    commit: u64,
    /// Since it could not be opened.
    opening: Pause,
    /// Since something could not be written.
    writing: Pause,
    /// Since not even removals could be: they need no room that they do not free, so a full disk
    /// mostly takes them.
    removing: Pause,
}

impl Disk {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub(super) fn open(path: &Path, keys: Arc<KeyRing>) -> Result<Self, FileError> {
        file::inspect(path)?;
        let is_there = std::fs::metadata(path).is_ok_and(|about| about.len() > 0);
        if !is_there {
            file::make(path)?;
        }
        let (database, about) = file::open(path)?;
        Ok(Self {
            path: path.to_owned(),
            keys,
            store_tag: about.store_tag,
            database: Some(database),
            commit: about.commit,
            opening: Pause::default(),
            writing: Pause::default(),
            removing: Pause::default(),
        })
    }

    /// The tag of the ids that were given out for sessions in this file.
    pub(super) fn store_tag(&self) -> StoreTag {
        self.store_tag
    }

    /// Gives all sessions in the file that count to `take`, and removes the others. From here on the
    /// file's sessions are of `providers`.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub(super) fn all(
        &mut self,
        (idle, now): (Duration, Timestamp),
        providers: &Registrations,
        take: impl FnMut(SessionKey, Loaded),
    ) -> Result<(), FileError> {
        let damaged = |error: redb::Error| refused(&self.path, error);
        let look = || {
            let transaction = self.database.as_ref().ok_or_else(closed)?.begin_read()?;
            let rules = Rules {
                keys: &self.keys,
                now,
                before: &registration::read(&transaction, &self.keys)?,
                after: providers,
            };
            survey_and_take(&transaction, &rules, idle, take)
        };
        let found = look().map_err(damaged)?;
        if found.unknown > 0 {
            return Err(FileError::UnknownKey {
                path: self.path.clone(),
                sessions: found.unknown,
            });
        }
        let over = found.expired.iter().chain(&found.of_others);
        let write = Write {
            changes: &over.copied().map(Change::Remove).collect::<Vec<_>>(),
            providers: Some(providers),
            keys: &self.keys,
            commit: self.commit.saturating_add(1),
        };
        let database = self.database.as_ref().ok_or_else(|| damaged(closed()))?;
        write.on(database).map_err(damaged)?;
        self.commit = write.commit;
        registration::report(&found.ended);
        Ok(())
    }

    /// Looks which sessions in the file would not count any more with other keys and providers.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`], [`StoreError::Unreadable`].
    pub(super) fn look(
        &mut self,
        keys: &KeyRing,
        now: Timestamp,
        (before, after): (&Registrations, &Registrations),
    ) -> Result<Found, StoreError> {
        self.be_open().map_err(StoreError::Unreadable)?;
        let look = || {
            let transaction = self.database.as_ref().ok_or_else(closed)?.begin_read()?;
            let rules = Rules {
                keys,
                now,
                before,
                after,
            };
            survey(&transaction, &rules)
        };
        look().map_err(|error| StoreError::Unreadable(Arc::new(error)))
    }

    /// The keys that seal the file now.
    pub(super) fn keys(&self) -> &Arc<KeyRing> {
        &self.keys
    }

    /// Commits changes, and that from here on the file's sessions are of `providers` and are sealed
    /// with other keys.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotCommitted`]: then nothing of it has happened.
    pub(super) fn register(
        &mut self,
        changes: &[Change],
        providers: &Registrations,
        keys: Arc<KeyRing>,
    ) -> Result<(), StoreError> {
        self.commit_with(changes, Some(providers), &keys)?;
        self.keys = keys;
        Ok(())
    }

    /// Commits changes.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotCommitted`].
    pub(super) fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let keys = Arc::clone(&self.keys);
        self.commit_with(changes, None, &keys)
    }

    fn commit_with(
        &mut self,
        changes: &[Change],
        providers: Option<&Registrations>,
        keys: &KeyRing,
    ) -> Result<(), StoreError> {
        let began = instant();
        let removes = |change: &Change| matches!(change, Change::Remove(_));
        let removals_alone = providers.is_none() && changes.iter().all(removes);
        let pause = if removals_alone {
            &self.removing
        } else {
            &self.writing
        };
        pause.is_over(began).map_err(StoreError::NotCommitted)?;
        self.be_open().map_err(StoreError::NotCommitted)?;
        let commit = self.commit.saturating_add(1);
        let Some(database) = &self.database else {
            return Err(StoreError::NotCommitted(Arc::new(closed())));
        };
        let write = Write {
            changes,
            providers,
            keys,
            commit,
        };
        let Err(error) = write.on(database) else {
            self.commit = commit;
            self.removing.end();
            if !removals_alone {
                self.writing.end();
            }
            return Ok(());
        };
        // Whether it became durable is not known, and this database takes no further commit. The
        // number of the last commit in the file tells.
        self.database = None;
        match self.open_again() {
            Ok(()) if self.commit == commit => Ok(()),
            Ok(()) | Err(_) => {
                let error: Why = Arc::new(error);
                let ended = instant();
                self.writing.note_failure(began, ended, &error);
                if removals_alone {
                    self.removing.note_failure(began, ended, &error);
                }
                Err(StoreError::NotCommitted(error))
            }
        }
    }

    /// Opens the file again, if that could not be done after a failure.
    fn be_open(&mut self) -> Result<(), Why> {
        if self.database.is_some() {
            return Ok(());
        }
        self.opening.is_over(instant())?;
        self.open_again()
    }

    fn open_again(&mut self) -> Result<(), Why> {
        let began = instant();
        match file::open(&self.path) {
            Ok((database, about)) => {
                self.commit = about.commit;
                self.database = Some(database);
                self.opening.end();
                Ok(())
            }
            Err(error) => {
                let error: Why = Arc::new(error);
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
        self.be_open().map_err(StoreError::Unreadable)?;
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
        Ok(Some(loaded(entry.ends_at, contents, used)))
    }
}

/// One commit.
struct Write<'a> {
    changes: &'a [Change],
    /// Whose the sessions are from here on, if that is to be said anew.
    providers: Option<&'a Registrations>,
    keys: &'a KeyRing,
    /// Its number.
    commit: u64,
}

impl Write<'_> {
    fn on(&self, database: &Database) -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        self.apply(&transaction)?;
        if let Some(providers) = self.providers {
            registration::write(&transaction, providers, self.keys)?;
        }
        Ok(transaction.commit()?)
    }

    fn apply(&self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        let mut sessions = transaction.open_table(SESSIONS)?;
        let mut used = transaction.open_table(USED)?;
        for change in self.changes {
            match change {
                Change::Put(session) => {
                    let sealed = record::seal(session, self.keys);
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
        let mut about = transaction.open_table(ABOUT)?;
        about.insert(COMMIT_KEY, self.commit)?;
        Ok(())
    }
}

fn instant() -> Instant {
    Clock::system().instant()
}

#[cfg(test)]
#[path = "disk_tests.rs"]
pub(super) mod tests;
