//! A preview lists the sessions in a file that new settings would end.
//!
//! The preview does not lock the file and does not write to the file, because another process may
//! be using the file. The database writes to a file when the database opens the file, because the
//! database repairs the damage of a crash and rebuilds its list of free pages. In a preview, the
//! writes of the database stay in memory. Another process can commit during the preview. Each
//! commit writes the head of the file (its first bytes). If a commit frees a page, only a later
//! commit can write new data to this page. The preview reads a page of the file, and then reads the
//! head of the file again. If the head of the file is unchanged, no commit has overwritten the page
//! between the read of the page and the second read of the head.

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

use super::entry::Format;
use super::file::{self, FileError, refused};
use super::first_format;
use super::registration::Registrations;
use super::survey::{Rules, survey};
use crate::clock::Timestamp;
use crate::seal::KeyRing;

/// The maximum number of attempts to read the file. An attempt fails if another process changes the
/// file during the attempt.
const ATTEMPTS: usize = 3;

/// The length of the session file's head, in bytes. Every commit writes the head of the file.
const HEAD: usize = 320;

/// The effect that other settings would have on the sessions of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Preview {
    /// For each provider name, the number of sessions that would end. A session ends if its
    /// provider was removed from the settings, or if the name of its provider now belongs to
    /// another server or client.
    Ends(BTreeMap<Box<str>, u64>),
    /// The preview cannot tell which sessions end, because another process changed the file during
    /// each attempt to read the file.
    InUse,
}

/// Computes the effect that a start or a reload with these keys and providers has on the sessions
/// of a file. Reads the whole file. This function does not create, lock or change the file.
///
/// # Errors
///
/// Returns the [`FileError`] with which a start would fail. If the error is
/// [`FileError::UnknownKey`], a reload would also fail.
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
            // At a start, the store treats an empty file like a missing file, so no session ends.
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
    (providers, now): (&Registrations, Timestamp),
) -> Result<BTreeMap<Box<str>, u64>, FileError> {
    let (database, properties) = file::open_with(path, snapshot)?;
    let read = || {
        let transaction = database.begin_read()?;
        let before;
        let format = if let Some(file) = properties.file_id {
            Format::Second(file)
        } else {
            before = first_format::registrations(&transaction, keys)?;
            Format::First(&before)
        };
        let rules = Rules {
            keys,
            now,
            format,
            providers,
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

/// A copy-on-write snapshot of a file. The snapshot keeps all writes in memory.
#[derive(Debug)]
struct Snapshot {
    file: File,
    head: Vec<u8>,
    written: Mutex<Written>,
    /// True if the file has changed since the snapshot was created.
    has_changed: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Written {
    len: u64,
    /// The first `of_file` bytes of the snapshot come from the file. After the first `of_file`
    /// bytes, the snapshot contains only zeros, except for the bytes in `writes`.
    of_file: u64,
    /// The write operations of the database, each with its offset, in the order in which they
    /// happened. The list is short, because the database makes only a few writes when the database
    /// opens a file.
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
        // The lock is poisoned only after a panic, and after a panic no code uses the snapshot.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_file(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        read_at_most(&self.file, offset, out)?;
        // This function reads the page at `offset` first, and then reads the head of the file (its
        // first bytes). Every commit changes the head of the file. If the head of the file is
        // unchanged, no commit has overwritten the page that was read.
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

/// Reads until the buffer is full or the file ends. Returns the number of bytes that were read.
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

/// Returns the offset of the first byte after `bytes`, which start at `offset`.
fn end(offset: u64, bytes: &[u8]) -> u64 {
    offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
}

/// Copies the part of `data` that overlaps with the buffer `out`. `from` and `to` are offsets in
/// the file.
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
