//! The file of durable sessions: made, looked at, opened, and refused.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase as _, StorageBackend, TableDefinition, TableHandle as _};

use super::StoreTag;
use crate::secret::NoRandomness;

/// What the file says of itself.
pub(super) const ABOUT: TableDefinition<'_, &str, u64> = TableDefinition::new("sidegate");
/// Sessions by key, each as `record::seal` gives it.
pub(super) const SESSIONS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("sessions");
/// When sessions were used last, in milliseconds; none means at the login.
pub(super) const USED: TableDefinition<'_, &[u8; 16], u64> = TableDefinition::new("used");

/// The format of what is in the tables.
const FORMAT: u64 = 1;

/// Entries of [`ABOUT`].
const FORMAT_KEY: &str = "format";
const STORE_TAG_KEY: &str = "instance";
pub(super) const COMMIT_KEY: &str = "commit";

/// Memory for pages; what is used often is in the session cache already.
const PAGE_CACHE: usize = 16 * 1024 * 1024;

/// The file's mode: its owner alone.
const PRIVATE: u32 = 0o600;

/// What every database of redb begins with.
const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";

/// Why the file of sessions cannot be used. Side: gateway; the operator acts. Nothing that somebody
/// put into the file was changed: the database may have noted in it that its check went well, or what
/// it repaired after a crash.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Its contents are not what was written.
    #[error(
        "{} is damaged; put a copy back, or move it away: everybody then signs in again",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        #[source]
        source: Arc<redb::Error>,
    },
    /// It is a file of something else.
    #[error("{} is no file of sessions; name another one in session.store.disk.file", .0.display())]
    Foreign(PathBuf),
    /// It cannot be opened, read or written.
    #[error("{} cannot be used", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has it open.
    #[error(
        "{} is in use by another process; each Sidegate needs a file of its own",
        .0.display()
    )]
    Locked(PathBuf),
    /// A later version of Sidegate wrote it.
    #[error(
        "{} was written by a newer Sidegate (format {found}); start that one, or move the file away: \
         everybody then signs in again",
        .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// There is no random number for a new file.
    #[error("no new file of sessions can be made")]
    NoRandomness(#[from] NoRandomness),
    /// The folder that it should lie in is not there.
    #[error("the folder of {} is not there; make it, writable for this process alone", .0.display())]
    NoFolder(PathBuf),
    /// It holds sessions that none of the keys opens.
    #[error(
        "{} holds {sessions} sessions sealed with a key that is not in login.state_key_file; put that \
         key back below the newest one, or move the file away: everybody then signs in again",
        .path.display()
    )]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// How many.
        sessions: usize,
    },
}

/// Looks at a file of sessions without opening it as one: it is neither made nor locked nor changed.
///
/// # Errors
///
/// [`FileError`], as far as can be told.
pub(crate) fn inspect(path: &Path) -> Result<(), FileError> {
    let failed = |source| FileError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return has_folder(path),
        Err(error) => return Err(failed(error)),
    };
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err(FileError::Foreign(path.to_owned()));
    }
    if about.len() == 0 {
        return Ok(());
    }
    let mut magic = [0; MAGIC.len()];
    match file.read_exact(&mut magic) {
        Ok(()) if magic == MAGIC => Ok(()),
        Ok(()) => Err(FileError::Foreign(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(FileError::Foreign(path.to_owned()))
        }
        Err(error) => Err(failed(error)),
    }
}

fn has_folder(path: &Path) -> Result<(), FileError> {
    if folder_of(path).is_dir() {
        Ok(())
    } else {
        Err(FileError::NoFolder(path.to_owned()))
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    }
}

/// What a file says of itself.
pub(super) struct About {
    pub(super) store_tag: StoreTag,
    /// The number of the last commit.
    pub(super) commit: u64,
}

/// Makes a new file: whole under another name first, so that a crash on the way leaves no file that
/// is not one.
pub(super) fn make(path: &Path) -> Result<(), FileError> {
    let failed = |source| FileError::Io {
        path: path.to_owned(),
        source,
    };
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE)
        .open(&new)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(FileError::Locked(path.to_owned())),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // Under the lock: whoever made it just before has also given it its name.
    if std::fs::metadata(path).is_ok_and(|about| about.len() > 0) {
        return Err(FileError::Locked(path.to_owned()));
    }
    // What a crash left.
    file.set_len(0).map_err(failed)?;
    let tag = u32::from_be_bytes(*StoreTag::random()?.as_bytes());
    let begin = || {
        let database = Database::builder().create_with_backend(FileBackend::new(file)?)?;
        let transaction = database.begin_write()?;
        {
            transaction.open_table(SESSIONS)?;
            transaction.open_table(USED)?;
            let mut about = transaction.open_table(ABOUT)?;
            about.insert(FORMAT_KEY, FORMAT)?;
            about.insert(STORE_TAG_KEY, u64::from(tag))?;
        }
        transaction.commit()?;
        Ok(database)
    };
    let database = begin().map_err(|error| refused(path, error))?;
    std::fs::rename(&new, path).map_err(failed)?;
    let folder = File::open(folder_of(path)).map_err(failed)?;
    folder.sync_all().map_err(failed)?;
    drop(database);
    Ok(())
}

/// Opens a file that is there, and looks whether it is ours.
pub(super) fn open(path: &Path) -> Result<(Database, About), FileError> {
    let failed = |source| FileError::Io {
        path: path.to_owned(),
        source,
    };
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let file = opened.map_err(failed)?;
    let backend = FileBackend::new(file).map_err(|error| refused(path, error.into()))?;
    let opened = open_with(path, backend)?;
    // Not before it is known to be ours.
    make_private(path).map_err(failed)?;
    Ok(opened)
}

/// Opens what lies behind a backend, and looks whether it is a file of ours.
pub(super) fn open_with(
    path: &Path,
    backend: impl StorageBackend,
) -> Result<(Database, About), FileError> {
    // A look without the check, or without writing, is not for a file that is not known to be whole:
    // the database may panic at it.
    let look = || {
        let database = Database::builder()
            .set_cache_size(PAGE_CACHE)
            .set_check_integrity_on_open(true)
            .create_with_backend(backend)?;
        let transaction = database.begin_read()?;
        let ours = transaction
            .list_tables()?
            .any(|table| table.name() == ABOUT.name());
        if !ours {
            return Ok(None);
        }
        let about = transaction.open_table(ABOUT)?;
        let entry = |name: &str| -> Result<Option<u64>, redb::Error> {
            Ok(about.get(name)?.map(|entry| entry.value()))
        };
        let entries = (
            entry(FORMAT_KEY)?,
            entry(STORE_TAG_KEY)?,
            entry(COMMIT_KEY)?,
        );
        drop(about);
        Ok(Some((database, entries)))
    };
    let looked: Result<_, redb::Error> = look();
    let Some((database, entries)) = looked.map_err(|error| refused(path, error))? else {
        return Err(FileError::Foreign(path.to_owned()));
    };
    match entries {
        (Some(found), ..) if found > FORMAT => Err(FileError::Newer {
            path: path.to_owned(),
            found,
        }),
        (Some(FORMAT), Some(tag), commit) => {
            let tag = u32::try_from(tag).map_err(|_wide| corrupted("its tag is too wide"));
            let tag = tag.map_err(|error| refused(path, error))?;
            let about = About {
                store_tag: StoreTag::from_bytes(tag.to_be_bytes()),
                commit: commit.unwrap_or_default(),
            };
            Ok((database, about))
        }
        (Some(_) | None, ..) => Err(refused(path, corrupted("it does not say what it is"))),
    }
}

/// Takes from everybody but its owner what they may do with the file.
fn make_private(path: &Path) -> io::Result<()> {
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & !PRIVATE & 0o777 != 0 {
        // By its name: closing a second handle may end the lock.
        std::fs::set_permissions(path, Permissions::from_mode(PRIVATE))?;
    }
    Ok(())
}

/// What an error of the database means for the file.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library has many errors, and says that there will be more"
)]
pub(super) fn refused(path: &Path, error: redb::Error) -> FileError {
    let path = path.to_owned();
    match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
            FileError::Locked(path)
        }
        redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
            FileError::Foreign(path)
        }
        redb::Error::Io(source) => FileError::Io { path, source },
        error => FileError::Damaged {
            path,
            source: Arc::new(error),
        },
    }
}

pub(super) fn corrupted(what: &str) -> redb::Error {
    redb::Error::Corrupted(what.to_owned())
}

pub(super) fn closed() -> redb::Error {
    redb::Error::DatabaseClosed
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
