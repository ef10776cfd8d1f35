//! A preview of what other settings would do to the sessions of a file.
//!
//! The process of the file may be running, so the preview neither locks nor writes the file. The database
//! writes while it opens a file: it repairs the damage of a crash and rebuilds its list of free pages.
//! These writes stay in memory. The running process may commit meanwhile. Each of its commits writes the
//! head of the file before a later commit reuses the freed pages. So if the head is unchanged after a
//! read, the page that was read belongs to that head.

#![expect(
    clippy::disallowed_types,
    reason = "the database requires a backend that threads can share; no request uses it"
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

/// The number of times that the file is read if its process changes it meanwhile.
const ATTEMPTS: usize = 3;

/// The length of the file's head, which every commit writes.
const HEAD: usize = 320;

/// The effect of other settings on the sessions of a file, at a start or a reload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Preview {
    /// The numbers of sessions that end because their provider was removed from the settings or is another
    /// server or client, by the name of the provider.
    Ends(BTreeMap<Box<str>, u64>),
    /// The effect is unknown, because a running process changes the file faster than it can be read.
    InUse,
}

/// Computes the effect of a start or a reload with these keys and providers on the sessions of a file.
/// The file is not created, locked or changed. All of it is read.
///
/// # Errors
///
/// [`FileError`]: a start would fail with the same error. With [`FileError::UnknownKey`], a reload would
/// fail, too.
pub(crate) fn preview(
    path: &Path,
    keys: &KeyRing,
    providers: &Registrations,
    now: Timestamp,
) -> Result<Preview, FileError> {
    file::inspect(path)?;
    for _ in 0..ATTEMPTS {
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
        let ended = survey_file(path, snapshot, keys, (providers, now));
        if !has_changed.load(Ordering::Relaxed) {
            return ended.map(Preview::Ends);
        }
    }
    Ok(Preview::InUse)
}

fn survey_file(
    path: &Path,
    snapshot: Snapshot,
    keys: &KeyRing,
    (after, now): (&Registrations, Timestamp),
) -> Result<BTreeMap<Box<str>, u64>, FileError> {
    let (database, _properties) = file::open_with(path, snapshot)?;
    let read = || {
        let transaction = database.begin_read()?;
        let rules = Rules {
            keys,
            now,
            before: &registration::read(&transaction, keys)?,
            after,
        };
        survey(&transaction, &rules)
    };
    let found = read().map_err(|error: redb::Error| refused(path, error))?;
    if found.unknown_key > 0 {
        return Err(FileError::UnknownKey {
            path: path.to_owned(),
            sessions: found.unknown_key,
        });
    }
    Ok(found.ended)
}

/// A copy-on-write snapshot of a file: writes stay in memory.
#[derive(Debug)]
struct Snapshot {
    file: File,
    head: Vec<u8>,
    written: Mutex<Written>,
    /// Whether the file has changed since the start.
    has_changed: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Written {
    len: u64,
    /// The bytes up to here come from the file. Zeros follow.
    of_file: u64,
    /// The writes with their offsets, in their order. The database writes little while it opens a file.
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
        // After a panic nobody reads the bytes any more.
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

/// Reads until the buffer is full or the file ends, and returns the number of bytes.
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

/// The end of bytes that start at an offset.
fn end(offset: u64, bytes: &[u8]) -> u64 {
    offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
}

/// Copies the part of the data that overlaps with the buffer. Both have an offset in the file.
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
