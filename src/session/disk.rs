//! Sessions in a file: one redb database, whose lock keeps every other process out.
//!
//! A commit writes every page beside what is there and ends with one `fsync`; after a crash the
//! last commit whose checksums hold is what counts. Opening checks the whole file, so what is read
//! later is what was written. That takes its time, and a failed commit makes it necessary (the database
//! would repair itself by as much reading in any case), so what has just failed is not tried at once
//! again.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, WriteTransaction};

use super::file::{self, ABOUT, COMMIT_KEY, FileError, SESSIONS, USED, closed, corrupted, refused};
use super::pause::{Pause, Why};
use super::record::{self, Contents, Entry};
use super::registration::{self, Registrations};
use super::store::{Change, Loaded, StoreError};
use super::{SessionKey, StoreTag};
use crate::clock::{Clock, Timestamp};
use crate::seal::KeyRing;
use crate::secret::NoRandomness;

/// An open file of sessions.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    keys: KeyRing,
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

    /// Gives all sessions in the file that count to `take`. Removed are those that have passed their
    /// deadline, and those whose provider is not among `providers` any more, or is another one: they
    /// say nothing about anybody there. From here on the file's sessions are of `providers`.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub(super) fn all(
        &mut self,
        (idle, now): (Duration, Timestamp),
        providers: &Registrations,
        mut take: impl FnMut(SessionKey, Loaded),
    ) -> Result<(), FileError> {
        let damaged = |error: redb::Error| refused(&self.path, error);
        let before = self.registrations().map_err(damaged)?;
        let is_same = |name: &str| {
            before
                .get(name)
                .is_some_and(|it| providers.get(name) == Some(it))
        };
        let (mut over, mut unknown) = (Vec::new(), 0_usize);
        let (mut others, mut of) = (0_usize, BTreeSet::new());
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
                } else if !is_same(&loaded.contents.provider) {
                    over.push(Change::Remove(key));
                    others = others.saturating_add(1);
                    of.insert(loaded.contents.provider);
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
        let commit = self.commit.saturating_add(1);
        self.settle(&over, providers, commit).map_err(damaged)?;
        self.commit = commit;
        if others > 0 {
            tracing::warn!(
                reason = "provider_changed",
                sessions = others,
                providers = ?of,
                "Sessions have ended, because their provider is not configured any more or is another \
                 server or client now"
            );
        }
        Ok(())
    }

    /// Whose the sessions of the file are.
    fn registrations(&self) -> Result<Registrations, redb::Error> {
        let database = self.database.as_ref().ok_or_else(closed)?;
        registration::read(&database.begin_read()?, &self.keys)
    }

    /// Commits removals, and whose the sessions are that stay.
    fn settle(
        &self,
        over: &[Change],
        providers: &Registrations,
        commit: u64,
    ) -> Result<(), redb::Error> {
        let database = self.database.as_ref().ok_or_else(closed)?;
        let transaction = database.begin_write()?;
        apply(&transaction, over, &self.keys, commit)?;
        registration::write(&transaction, providers, &self.keys)?;
        Ok(transaction.commit()?)
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
        let began = instant();
        let removes = |change: &Change| matches!(change, Change::Remove(_));
        let removals_alone = changes.iter().all(removes);
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
        let Err(error) = write(database, changes, &self.keys, commit) else {
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
    apply(&transaction, changes, keys, commit)?;
    Ok(transaction.commit()?)
}

fn apply(
    transaction: &WriteTransaction,
    changes: &[Change],
    keys: &KeyRing,
    commit: u64,
) -> Result<(), redb::Error> {
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
    Ok(())
}

fn instant() -> Instant {
    Clock::system().instant()
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
