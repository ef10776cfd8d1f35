//! The part of a buffered body that is in a file.
//!
//! Because the file has no name, no other program can open the file. When the gateway closes the
//! file or crashes, the file system frees the space of the file. A disk can be slow, so every
//! operation on the file runs on a blocking thread of the runtime.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use super::buffers::{Growth, Reservation};
use crate::clock::Clock;
use crate::telemetry::{EventLimiter, Metrics, chain};

/// The number of bytes that one operation reads from the file.
const PART: usize = 64 * 1024;

/// The operator's settings for the files.
#[derive(Clone, Debug)]
pub(crate) struct SpillSettings {
    /// The folder in which the gateway creates the files.
    pub(crate) folder: Arc<Path>,
    /// The maximum total size, in bytes, of all files with buffered bodies.
    pub(crate) bytes: usize,
    /// The maximum number of open files, because each file needs a descriptor.
    pub(crate) files: usize,
}

/// Reports to the operator that a body cannot be written to a file.
#[derive(Clone, Debug)]
pub(super) struct SpillReports {
    pub(super) metrics: Arc<Metrics>,
    pub(super) warnings: Arc<EventLimiter>,
    pub(super) clock: Clock,
}

/// The part of the budgets that one file uses.
#[derive(Debug)]
pub(super) struct SpillRoom {
    /// The reservation of the bytes in the file.
    pub(super) bytes: Reservation,
    /// The reservation of the open file.
    pub(super) file: Reservation,
}

/// An open file. Dropping this value closes the file and frees its descriptor.
#[derive(Debug)]
struct OpenFile {
    file: File,
    _descriptor: Reservation,
}

impl SpillReports {
    /// Counts a body for which the budget of the files has no room.
    fn no_room(&self) {
        self.metrics.refused_spill("full");
    }

    /// Counts a body that gets no descriptor. The log has at most one warning in each minute.
    fn no_descriptor(&self) {
        let reason = "descriptors";
        self.metrics.refused_spill(reason);
        if self.warnings.is_due(reason, self.clock.since_epoch()) {
            tracing::warn!(
                reason,
                keys = "nothing if one client has caused this, otherwise the limit of descriptors of \
                        the process (LimitNOFILE, ulimit -n), or a lower server.connections",
                "A body is not written to server.spill_dir, because this client, or all clients \
                 together, have too many open files. This warning is logged once a minute"
            );
        }
    }

    /// Counts a failed write. The log has at most one warning for each folder and minute.
    fn write_failed(&self, folder: &Path, error: &io::Error) {
        self.metrics.refused_spill("disk_error");
        if self.warnings.is_due(folder, self.clock.since_epoch()) {
            let error = chain(error);
            tracing::warn!(error, "Bodies cannot be written to server.spill_dir");
        }
    }
}

/// The part of one body that is in a file. The gateway creates the file at the first write.
#[derive(Debug)]
pub(super) struct Spill {
    folder: Arc<Path>,
    /// The largest number of bytes in the file.
    limit: usize,
    /// The reservations of this file in the budgets for all files. While the file is open, the file
    /// itself owns the reservation of its descriptor.
    room: SpillRoom,
    reports: SpillReports,
    file: Option<Arc<OpenFile>>,
    written: u64,
    read: u64,
    writing: Option<Writing>,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    /// Whether the gateway has already counted, in the metrics, that the budgets have no room for
    /// this body.
    is_refusal_counted: bool,
    /// Whether a write has failed. After a failed write, the gateway writes nothing more.
    has_failed: bool,
}

/// A write that has begun.
#[derive(Debug)]
struct Writing {
    task: JoinHandle<io::Result<Arc<OpenFile>>>,
    pieces: Arc<[Bytes]>,
    length: usize,
}

/// The result of a write that has ended.
pub(super) struct Written {
    pub(super) pieces: Arc<[Bytes]>,
    /// True if the write stored all pieces in the file.
    pub(super) is_stored: bool,
}

impl Spill {
    /// Creates an empty part of a body. `limit` is the largest number of bytes in the file.
    pub(super) fn new(
        settings: &SpillSettings,
        limit: usize,
        room: SpillRoom,
        reports: SpillReports,
    ) -> Self {
        Self {
            folder: Arc::clone(&settings.folder),
            limit,
            room,
            reports,
            file: None,
            written: 0,
            read: 0,
            writing: None,
            reading: None,
            is_refusal_counted: false,
            has_failed: false,
        }
    }

    /// Whether `length` more bytes may be written to the file.
    pub(super) fn has_room(&mut self, length: usize) -> bool {
        if self.has_failed {
            return false;
        }
        let needs_file = self.file.is_none();
        if needs_file && self.room.file.growth(1, 1) != Growth::Allowed {
            self.refuse(SpillReports::no_descriptor);
            return false;
        }
        match self.room.bytes.growth(self.limit, length) {
            Growth::Allowed => true,
            Growth::AtLimit => false,
            Growth::NoShare => {
                self.refuse(SpillReports::no_room);
                false
            }
        }
    }

    /// Reports one time that the budgets have no room for this body.
    fn refuse(&mut self, report: impl Fn(&SpillReports)) {
        if !self.is_refusal_counted {
            self.is_refusal_counted = true;
            report(&self.reports);
        }
    }

    /// Starts a write that appends the pieces to the file. Call this function only after the
    /// previous write has ended.
    pub(super) fn begin_write(&mut self, pieces: Arc<[Bytes]>) {
        let lengths = pieces.iter().map(Bytes::len);
        let length = lengths.fold(0, usize::saturating_add);
        self.room.bytes.add(length);
        let folder = Arc::clone(&self.folder);
        let (start, content) = (self.written, Arc::clone(&pieces));
        let task = if let Some(file) = self.file.clone() {
            spawn_blocking(move || write(file, start, &content))
        } else {
            self.room.file.add(1);
            let descriptor = self.room.file.take();
            spawn_blocking(move || write(create(&folder, descriptor)?, start, &content))
        };
        self.writing = Some(Writing {
            task,
            pieces,
            length,
        });
    }

    /// Waits for the end of the write. Returns `None` if no write has begun.
    pub(super) fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<Option<Written>> {
        let Some(writing) = &mut self.writing else {
            return Poll::Ready(None);
        };
        let result = ready!(Pin::new(&mut writing.task).poll(cx)).unwrap_or_else(lost);
        let Some(Writing { pieces, length, .. }) = self.writing.take() else {
            return Poll::Ready(None);
        };
        let is_stored = match result {
            Ok(file) => {
                self.file = Some(file);
                self.written = self.written.saturating_add(count(length));
                true
            }
            Err(error) => {
                self.reports.write_failed(&self.folder, &error);
                self.room.bytes.remove(length);
                self.has_failed = true;
                false
            }
        };
        Poll::Ready(Some(Written { pieces, is_stored }))
    }

    /// Reads the next part of the file. The result is `None` if the caller has already read all
    /// bytes of the file.
    ///
    /// If a write to the file is in progress, `poll_read` can return `Pending` without registering
    /// the waker of the task. In this case, the code that waits for the end of the write has to
    /// wake the task that reads the file.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            if let Some(reading) = &mut self.reading {
                let part = ready!(Pin::new(reading).poll(cx)).unwrap_or_else(lost);
                self.reading = None;
                if let Ok(part) = &part {
                    self.read = self.read.saturating_add(count(part.len()));
                }
                if self.read >= self.written && self.writing.is_none() {
                    self.close();
                }
                return Poll::Ready(Some(part));
            }
            let left = self.written.saturating_sub(self.read);
            match &self.file {
                Some(file) if left > 0 => {
                    let (file, start) = (Arc::clone(file), self.read);
                    let length = usize::try_from(left).unwrap_or(usize::MAX).min(PART);
                    self.reading = Some(spawn_blocking(move || read(&file, start, length)));
                }
                Some(_) | None if self.writing.is_some() => return Poll::Pending,
                Some(_) | None => return Poll::Ready(None),
            }
        }
    }

    /// Truncates the file to zero bytes, to simulate a loss of data.
    #[cfg(test)]
    pub(super) fn lose(&self) {
        if let Some(open) = &self.file {
            open.file.set_len(0).unwrap_or_default();
        }
    }

    /// Closes the file, and releases the reservation of its bytes. The next write creates a new file.
    fn close(&mut self) {
        (self.written, self.read) = (0, 0);
        self.room.bytes.clear();
        let file = self.file.take();
        // Closing a large file without a name takes time, because the file system then frees the
        // space of the file.
        if let (Some(file), Ok(runtime)) = (file, Handle::try_current()) {
            drop(runtime.spawn_blocking(move || drop(file)));
        }
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        self.close();
    }
}

/// Creates a file without a name.
fn create(folder: &Path, descriptor: Reservation) -> io::Result<Arc<OpenFile>> {
    Ok(Arc::new(OpenFile {
        file: tempfile::tempfile_in(folder)?,
        _descriptor: descriptor,
    }))
}

/// Writes the pieces to the file, starting at the position `start`.
fn write(open: Arc<OpenFile>, start: u64, pieces: &[Bytes]) -> io::Result<Arc<OpenFile>> {
    let mut position = start;
    for piece in pieces {
        open.file.write_all_at(piece, position)?;
        position = position.saturating_add(count(piece.len()));
    }
    Ok(open)
}

fn read(open: &OpenFile, start: u64, length: usize) -> io::Result<Bytes> {
    let mut part = vec![0; length];
    open.file.read_exact_at(&mut part, start)?;
    Ok(part.into())
}

/// Returns the error of a blocking task that was cancelled or has panicked.
fn lost<T>(error: JoinError) -> io::Result<T> {
    Err(io::Error::other(error))
}

/// Converts a length to the type of positions in a file.
pub(super) fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
