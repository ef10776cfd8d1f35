//! Functions that create, inspect and open the session file, and errors for a file that cannot be
//! used.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{
    Database, ReadableDatabase as _, StorageBackend, TableDefinition, TableHandle as _,
    WriteTransaction,
};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::StoreTag;
use super::entry::FileId;
use crate::secret::NoRandomness;

/// The name of the table with the properties of the file, such as the format version.
pub(super) const PROPERTIES: TableDefinition<'_, &str, u64> = TableDefinition::new("sidegate");
/// The table of the encrypted sessions. The key of an entry is the session key, and the value has
/// the format of the module `entry`.
pub(super) const SESSIONS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("sessions");
/// The table with the time of the last use of each session, in milliseconds. A session without an
/// entry in this table was last used at its login.
pub(super) const USED: TableDefinition<'_, &[u8; 16], u64> = TableDefinition::new("used");

/// The version of the file format. A newer version of the gateway uses a higher number.
const FORMAT: u64 = 2;
/// The version of the first file format, which a start converts (`first_format`).
const FIRST_FORMAT: u64 = 1;

/// The names of the entries in [`PROPERTIES`].
const FORMAT_KEY: &str = "format";
const STORE_TAG_KEY: &str = "instance";
const FILE_ID_KEY: &str = "file";
pub(super) const COMMIT_KEY: &str = "commit";

/// The size of the database's page cache. A small page cache is enough, because the session cache
/// contains the sessions in use.
const PAGE_CACHE: usize = 16 * 1024 * 1024;

/// The permissions of the file: only the owner of the file can read and write the file.
const PRIVATE: u32 = 0o600;

/// The first bytes of every redb database.
const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";

/// The reason why the session file cannot be used. The operator is responsible for this error.
/// After a [`FileError`], the sessions in the file are unchanged. The other parts of the file can
/// have changed, because the database writes to the file after a check or a repair.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The contents of the file are damaged.
    #[error(
        "{} is damaged; restore a copy, or move the file away: all users then sign in again",
        .path.display()
    )]
    Damaged {
        /// The path of the file.
        path: PathBuf,
        /// The error of the database that describes the damage.
        #[source]
        source: Arc<redb::Error>,
    },
    /// The file is not a session file of Sidegate.
    #[error("{} is not a session file; set session.store.disk.file to another path", .0.display())]
    Foreign(PathBuf),
    /// The file cannot be opened, read or written.
    #[error("{} cannot be used", .path.display())]
    Io {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another process has the file open.
    #[error(
        "{} is in use by another process; each Sidegate needs a file of its own",
        .0.display()
    )]
    Locked(PathBuf),
    /// Another file has replaced the file while the process runs.
    #[error("{} was replaced by another file; put the file back, or restart Sidegate", .0.display())]
    Replaced(PathBuf),
    /// A newer version of Sidegate wrote the file.
    #[error(
        "{} was written by a newer Sidegate (format {found}); start that version, or move the file away: \
         all users then sign in again",
        .path.display()
    )]
    Newer {
        /// The path of the file.
        path: PathBuf,
        /// The format version of the file.
        found: u64,
    },
    /// The operating system returned no random bytes, so no new session file can be created.
    #[error("no new session file can be created")]
    NoRandomness(#[from] NoRandomness),
    /// The folder of the file does not exist.
    #[error("the folder of {} does not exist; create it, and let only this process write to it", .0.display())]
    NoFolder(PathBuf),
    /// The temporary name of a new file belongs to a link, a folder or a device.
    #[error(
        "{} is not a regular file, so no new session file is written there; remove it, and let only \
         this process write to its folder",
        .0.display()
    )]
    NotRegular(PathBuf),
    /// The file contains sessions that cannot be decrypted with any of the keys.
    #[error(
        "{} holds {sessions} sessions sealed with a key that is not in login.state_key_file; put that \
         key back below the newest one, or move the file away: all users then sign in again",
        .path.display()
    )]
    UnknownKey {
        /// The path of the file.
        path: PathBuf,
        /// The number of sessions that cannot be decrypted with any of the keys.
        sessions: usize,
    },
}

/// Inspects a session file without opening the database. This function does not create, lock or
/// change the file.
///
/// # Errors
///
/// Returns a [`FileError`] if the file cannot be used.
pub(crate) fn inspect(path: &Path) -> Result<(), FileError> {
    let failed = |source| FileError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return has_folder(path),
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
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
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

/// The properties of an open session file.
pub(super) struct Properties {
    pub(super) store_tag: StoreTag,
    /// The id of the file. A file of format 1 has no id.
    pub(super) file_id: Option<FileId>,
    /// The sequence number of the latest commit.
    pub(super) commit: u64,
}

/// Creates a new file. The file has a temporary name until the file is complete. Therefore a crash
/// never leaves an incomplete session file at `path`.
pub(super) fn create(path: &Path) -> Result<(), FileError> {
    let failed = |source| FileError::Io {
        path: path.to_owned(),
        source,
    };
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let file = match create_only(&new) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            remove_incomplete(&new, path)?;
            create_only(&new)
        }
        created => created,
    };
    let file = file.map_err(failed)?;
    lock(&file, path)?;
    // Before the lock, another process may have removed the file as an incomplete file.
    if !is_at(&file, &new).map_err(failed)? {
        return Err(FileError::Locked(path.to_owned()));
    }
    // The new file has a temporary name. This process checks `path` while it holds the lock of the
    // new file. Without the lock, another process could create the file at `path` after the check.
    if std::fs::metadata(path).is_ok_and(|about| about.len() > 0) {
        return Err(FileError::Locked(path.to_owned()));
    }
    let file_id = FileId::random()?;
    let tag = u32::from_be_bytes(*StoreTag::random()?.as_bytes());
    let begin = || {
        let database = Database::builder().create_with_backend(FileBackend::new(file)?)?;
        let transaction = database.begin_write()?;
        {
            transaction.open_table(SESSIONS)?;
            transaction.open_table(USED)?;
            let mut about = transaction.open_table(PROPERTIES)?;
            about.insert(STORE_TAG_KEY, u64::from(tag))?;
        }
        write_format(&transaction, file_id)?;
        transaction.commit()?;
        Ok(database)
    };
    let database = begin().map_err(|error| refused(path, error))?;
    std::fs::rename(&new, path).map_err(failed)?;
    // After a crash, the file has its new name only if the folder was synced before the crash.
    let folder = File::open(folder_of(path)).map_err(failed)?;
    folder.sync_all().map_err(failed)?;
    // This process keeps the lock on the database until the file has its final name.
    drop(database);
    Ok(())
}

/// Creates a file, which must not exist. If somebody has planted a link with this name, the function
/// fails and does not follow the link (`O_EXCL`).
fn create_only(new: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(new)
}

/// Removes the incomplete file that a crash has left with the temporary name. The content of the file
/// stays unchanged, because another name can refer to the same file.
fn remove_incomplete(new: &Path, path: &Path) -> Result<(), FileError> {
    let failed = |source| FileError::Io {
        path: new.to_owned(),
        source,
    };
    // Without `NONBLOCK`, the open of a pipe would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(new, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::LOOP) => return Err(FileError::NotRegular(new.to_owned())),
        Err(error) => return Err(failed(error.into())),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(FileError::NotRegular(new.to_owned()));
    }
    // The process that writes the file holds its lock.
    lock(&file, path)?;
    if !is_at(&file, new).map_err(failed)? {
        return Err(FileError::Locked(path.to_owned()));
    }
    std::fs::remove_file(new).map_err(failed)
}

/// Locks a file. `path` is the path of the session file.
fn lock(file: &File, path: &Path) -> Result<(), FileError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(FileError::Locked(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(FileError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Returns true if `path` itself is the open file, and not a link to the file or another file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes the version of the format and the id of the file.
pub(super) fn write_format(
    transaction: &WriteTransaction,
    file: FileId,
) -> Result<(), redb::Error> {
    let mut about = transaction.open_table(PROPERTIES)?;
    about.insert(FORMAT_KEY, FORMAT)?;
    about.insert(FILE_ID_KEY, file.number())?;
    Ok(())
}

/// Opens an existing file, and checks that the file is a session file.
pub(super) fn open(path: &Path) -> Result<(Database, Properties), FileError> {
    let failed = |source| FileError::Io {
        path: path.to_owned(),
        source,
    };
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let file = opened.map_err(failed)?;
    let backend = FileBackend::new(file).map_err(|error| refused(path, error.into()))?;
    let opened = open_with(path, backend)?;
    // The permissions are changed after the check, so that the gateway never changes a file that is
    // not a session file.
    make_private(path).map_err(failed)?;
    Ok(opened)
}

/// Opens the database on a storage backend, and checks that the database is a session file.
pub(super) fn open_with(
    path: &Path,
    backend: impl StorageBackend,
) -> Result<(Database, Properties), FileError> {
    // The integrity check is necessary, because the database may panic on a damaged file. The
    // gateway therefore never opens the file without the integrity check, and never opens the file
    // in read-only mode.
    let open = || {
        let database = Database::builder()
            .set_cache_size(PAGE_CACHE)
            .set_check_integrity_on_open(true)
            .create_with_backend(backend)?;
        let transaction = database.begin_read()?;
        let ours = transaction
            .list_tables()?
            .any(|table| table.name() == PROPERTIES.name());
        if !ours {
            return Ok(None);
        }
        let about = transaction.open_table(PROPERTIES)?;
        let entry = |name: &str| -> Result<Option<u64>, redb::Error> {
            Ok(about.get(name)?.map(|entry| entry.value()))
        };
        let entries = (
            entry(FORMAT_KEY)?,
            entry(STORE_TAG_KEY)?,
            entry(FILE_ID_KEY)?.map(FileId::from_number),
            entry(COMMIT_KEY)?,
        );
        drop(about);
        Ok(Some((database, entries)))
    };
    let opened: Result<_, redb::Error> = open();
    let Some((database, entries)) = opened.map_err(|error| refused(path, error))? else {
        return Err(FileError::Foreign(path.to_owned()));
    };
    match entries {
        (Some(found), ..) if found > FORMAT => Err(FileError::Newer {
            path: path.to_owned(),
            found,
        }),
        (Some(FIRST_FORMAT), Some(tag), file_id @ None, commit)
        | (Some(FORMAT), Some(tag), file_id @ Some(_), commit) => {
            let tag = u32::try_from(tag).map_err(|_wide| corrupted("the store tag is too large"));
            let tag = tag.map_err(|error| refused(path, error))?;
            let properties = Properties {
                store_tag: StoreTag::from_bytes(tag.to_be_bytes()),
                file_id,
                commit: commit.unwrap_or_default(),
            };
            Ok((database, properties))
        }
        (Some(_) | None, ..) => Err(refused(path, corrupted("the properties are incomplete"))),
    }
}

/// Removes all permissions except the permissions of the owner.
fn make_private(path: &Path) -> io::Result<()> {
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & !PRIVATE & 0o777 != 0 {
        // This code sets the permissions through the path of the file, and does not open a second
        // handle of the file. If this code opened and closed a second handle of the file, the
        // operating system could release the lock of the database.
        std::fs::set_permissions(path, Permissions::from_mode(PRIVATE))?;
    }
    Ok(())
}

/// Converts an error of the database to a [`FileError`].
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library has many errors, and the enum is non-exhaustive"
)]
pub(super) fn refused(path: &Path, error: redb::Error) -> FileError {
    let path = path.to_owned();
    match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
            FileError::Locked(path)
        }
        redb::Error::Io(source) if source.kind() == ErrorKind::InvalidData => {
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
