//! What other settings would do to the sessions of a file, told without opening the file as one.
//!
//! The process that the file belongs to may be running. So the file is neither locked nor written:
//! what the database writes while it opens it (it repairs what a crash has left, and rebuilds what it
//! knows of free pages) stays in memory. A commit of that process writes the file's head before any
//! later commit uses again the pages that it has freed. If the head is unchanged after a read,
//! the page belongs to that head.

#![expect(
    clippy::disallowed_types,
    reason = "the database asks for a backend that threads can share; no request comes here"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{ReadableDatabase as _, StorageBackend};

use super::file::{self, FileError, refused};
use super::registration::{self, Registrations};
use super::survey::{Rules, survey};
use crate::clock::Timestamp;
use crate::seal::KeyRing;

/// How often the file is read anew when its process changes it meanwhile.
const TRIES: usize = 3;

/// The head of the file, in which each commit is noted.
const HEAD: usize = 320;

/// What a start or a reload with other settings would do to the sessions of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Preview {
    /// So many sessions end because their provider is not configured any more, or is another server or
    /// client, by the provider's name.
    Ends(BTreeMap<Box<str>, u64>),
    /// It cannot be told, because a running process changes the file faster than it can be read.
    InUse,
}

/// Tells what a start or a reload with these keys and providers would do to the sessions of a file.
/// The file is neither made nor locked nor changed. All of it is read.
///
/// # Errors
///
/// [`FileError`]: what would refuse the start. [`FileError::UnknownKey`] refuses a reload, too.
pub(crate) fn preview(
    path: &Path,
    keys: &KeyRing,
    providers: &Registrations,
    now: Timestamp,
) -> Result<Preview, FileError> {
    file::inspect(path)?;
    for _ in 0..TRIES {
        let snapshot = File::open(path).and_then(Snapshot::new);
        let snapshot = match snapshot {
            Ok(snapshot) if snapshot.head.is_empty() => return Ok(Preview::Ends(BTreeMap::new())),
            Ok(snapshot) => snapshot,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Preview::Ends(BTreeMap::new()));
            }
            Err(error) => return Err(refused(path, error.into())),
        };
        let has_changed = Arc::clone(&snapshot.has_changed);
        let looked = look(path, snapshot, keys, (providers, now));
        if !has_changed.load(Ordering::Relaxed) {
            return looked.map(Preview::Ends);
        }
    }
    Ok(Preview::InUse)
}

fn look(
    path: &Path,
    snapshot: Snapshot,
    keys: &KeyRing,
    (after, now): (&Registrations, Timestamp),
) -> Result<BTreeMap<Box<str>, u64>, FileError> {
    let (database, _about) = file::open_with(path, snapshot)?;
    let look = || {
        let transaction = database.begin_read()?;
        let rules = Rules {
            keys,
            now,
            before: &registration::read(&transaction, keys)?,
            after,
        };
        survey(&transaction, &rules)
    };
    let found = look().map_err(|error: redb::Error| refused(path, error))?;
    if found.unknown > 0 {
        return Err(FileError::UnknownKey {
            path: path.to_owned(),
            sessions: found.unknown,
        });
    }
    Ok(found.ended)
}

/// A file as it is now. What is written to it stays here.
#[derive(Debug)]
struct Snapshot {
    file: File,
    head: Vec<u8>,
    written: Mutex<Written>,
    /// Set once the file is another one than at the beginning.
    has_changed: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Written {
    len: u64,
    /// Up to where the file counts; zeros are beyond.
    of_file: u64,
    /// What was written where, in its order. The database writes little while it opens a file.
    writes: Vec<(u64, Vec<u8>)>,
}

impl Snapshot {
    fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let mut head = vec![0; HEAD];
        let length = read_at_most(&file, 0, &mut head)?;
        head.truncate(length);
        Ok(Self {
            file,
            head,
            written: Mutex::new(Written {
                len,
                of_file: len,
                writes: Vec::new(),
            }),
            has_changed: Arc::default(),
        })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        // A panic in between leaves bytes that nobody reads any more.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_file(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        read_at_most(&self.file, offset, out)?;
        let mut head = vec![0; self.head.len()];
        self.file.read_exact_at(&mut head, 0)?;
        if head == self.head {
            return Ok(());
        }
        self.has_changed.store(true, Ordering::Relaxed);
        Err(io::Error::other("the file has changed meanwhile"))
    }
}

impl StorageBackend for Snapshot {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        if end(offset, out) > written.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.fill(0);
        let of_file = usize::try_from(written.of_file.saturating_sub(offset));
        let of_file = of_file.unwrap_or(usize::MAX).min(out.len());
        self.read_file(offset, out.get_mut(..of_file).unwrap_or_default())?;
        for (at, data) in &written.writes {
            copy((*at, data), (offset, out));
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.written();
        written.len = len;
        written.of_file = written.of_file.min(len);
        for (at, data) in &mut written.writes {
            let left = usize::try_from(len.saturating_sub(*at));
            data.truncate(left.unwrap_or(usize::MAX));
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.written().writes.push((offset, data.to_vec()));
        Ok(())
    }
}

/// Reads up to the end of the file, and says how many bytes that is.
fn read_at_most(file: &File, mut offset: u64, mut out: &mut [u8]) -> io::Result<usize> {
    let mut length = 0_usize;
    while !out.is_empty() {
        let read = match file.read_at(out, offset) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        offset = end(offset, out.get(..read).unwrap_or_default());
        length = length.saturating_add(read);
        out = out.get_mut(read..).unwrap_or_default();
    }
    Ok(length)
}

/// Where bytes end that begin at an offset.
fn end(offset: u64, bytes: &[u8]) -> u64 {
    offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
}

/// Copies bytes to where others lie, as far as both are of the same range.
fn copy((from, data): (u64, &[u8]), (to, out): (u64, &mut [u8])) {
    let (begin, end) = (from.max(to), end(from, data).min(end(to, out)));
    let part = |at: u64| {
        let begin = usize::try_from(begin.checked_sub(at)?).ok()?;
        Some(begin..usize::try_from(end.checked_sub(at)?).ok()?)
    };
    let data = part(from).and_then(|part| data.get(part));
    let out = part(to).and_then(|part| out.get_mut(part));
    if let (Some(data), Some(out)) = (data, out) {
        out.copy_from_slice(data);
    }
}

#[cfg(test)]
#[path = "preview_tests.rs"]
mod tests;
