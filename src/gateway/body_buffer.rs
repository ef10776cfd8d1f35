//! A buffer that stores a part of one body. The first bytes of a large buffer can be in a file.
//!
//! New pieces of the body are stored in memory. When the memory of the buffer is full, the buffer
//! moves the pieces to the end of the file. Therefore the file contains the first bytes of the
//! buffer, and the memory contains the last bytes.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};

use super::buffers::{Growth, Reservation};
use super::spill::{Spill, Written, count};
use crate::upstream::Owner;

/// The memory that a buffer needs for each piece of a body, besides the bytes of the piece.
const PIECE: usize = 64;

/// If a piece has at most this many bytes, the buffer copies these bytes to the end of the previous
/// piece. If the buffer did not copy small pieces, a client could send single bytes, and each byte
/// would need the memory of a whole piece.
const SMALL: usize = 512;

/// The buffer appends a small piece to the last piece only if the joined piece has at most `MERGED`
/// bytes.
const MERGED: usize = 4096;

/// The sizes of the buffer of one body.
#[derive(Clone, Copy, Debug)]
pub(super) struct BufferSizes {
    /// The maximum number of bytes that the buffer keeps in memory.
    pub(super) memory: usize,
    /// The maximum number of bytes that the buffer stores in a file. Zero means no file.
    pub(super) file: usize,
    /// The client to which the body belongs. The budgets count the bytes of each client.
    pub(super) client: Owner,
}

/// A buffer that stores a part of one body.
#[derive(Debug)]
pub(super) struct BodyBuffer {
    pieces: VecDeque<Bytes>,
    /// The number of bytes in the buffer.
    bytes: u64,
    /// The maximum number of bytes that the buffer keeps in memory.
    limit: usize,
    memory: Reservation,
    /// `None` if the buffer must not use a file.
    spill: Option<Box<Spill>>,
}

impl BodyBuffer {
    /// Creates an empty buffer. `limit` is the largest number of bytes in memory.
    pub(super) fn new(limit: usize, memory: Reservation, spill: Option<Spill>) -> Self {
        Self {
            pieces: VecDeque::new(),
            bytes: 0,
            limit,
            memory,
            spill: spill.map(Box::new),
        }
    }

    /// The number of bytes in the buffer.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the number of pieces, if no byte of the body can be in a file.
    pub(super) fn pieces_in_memory(&self) -> Option<usize> {
        self.spill.is_none().then_some(self.pieces.len())
    }

    /// States whether the body begins with `prefix`. Returns `None` if the buffer contains too few
    /// bytes. The buffer must have no file, because the file would contain the first bytes.
    pub(super) fn begins_with(&self, prefix: &[u8]) -> Option<bool> {
        let mut missing = prefix;
        for piece in &self.pieces {
            let (expected, later) = missing
                .split_at_checked(piece.len())
                .unwrap_or((missing, &[]));
            if !piece.starts_with(expected) {
                return Some(false);
            }
            missing = later;
        }
        missing.is_empty().then_some(true)
    }

    /// Stores a piece. Call [`BodyBuffer::poll_growth`] first.
    pub(super) fn push(&mut self, data: Bytes) {
        self.bytes = self.bytes.saturating_add(count(data.len()));
        if let Some(last) = self.pieces.back_mut()
            && data.len() <= SMALL
            && last.len().saturating_add(data.len()) <= MERGED
        {
            self.memory.add(data.len());
            append(last, &data);
        } else {
            self.memory.add(memory_of(&data));
            self.pieces.push_back(data);
        }
    }

    /// Waits for the decision whether the buffer may store another piece. If the memory of the
    /// buffer is full, the buffer first writes its pieces to the file.
    pub(super) fn poll_growth(&mut self, cx: &mut Context<'_>) -> Poll<Growth> {
        loop {
            if let Some(spill) = &mut self.spill
                && let Some(written) = ready!(spill.poll_written(cx))
            {
                self.written(&written);
            }
            let growth = self.memory.growth(self.limit, 1);
            let Some(spill) = &mut self.spill else {
                return Poll::Ready(growth);
            };
            if growth == Growth::Allowed {
                return Poll::Ready(growth);
            }
            let length = self.pieces.iter().map(Bytes::len);
            let length = length.fold(0, usize::saturating_add);
            if !spill.has_room(length.max(1)) {
                return Poll::Ready(growth);
            }
            if self.pieces.is_empty() {
                // Other buffers use the whole memory budget. The next piece is moved to the file
                // before the buffer stores a further piece.
                return Poll::Ready(Growth::Allowed);
            }
            let pieces = std::mem::take(&mut self.pieces);
            spill.begin_write(pieces.into_iter().collect());
        }
    }

    /// Frees the memory of the pieces that were written to the file. If the write has failed, the
    /// pieces stay in memory.
    fn written(&mut self, Written { pieces, is_stored }: &Written) {
        if *is_stored {
            for piece in pieces.iter() {
                self.memory.remove(memory_of(piece));
            }
        } else {
            self.pieces = pieces.iter().cloned().collect();
        }
    }

    /// Removes and returns the next bytes. The result is `None` if the buffer is empty. An error
    /// means that bytes of the file are lost.
    ///
    /// While a write to the file is in progress, this function can return `Pending` without
    /// registering the waker of the task. The caller of `poll_growth` then has to wake the task
    /// that waits for the next bytes.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let from_file = match &mut self.spill {
            Some(spill) => ready!(spill.poll_read(cx)),
            None => None,
        };
        let next = from_file.or_else(|| {
            let piece = self.pieces.pop_front()?;
            self.memory.remove(memory_of(&piece));
            Some(Ok(piece))
        });
        if let Some(Ok(data)) = &next {
            self.bytes = self.bytes.saturating_sub(count(data.len()));
        }
        Poll::Ready(next)
    }
}

/// Copies `data` to the end of `last`.
fn append(last: &mut Bytes, data: &Bytes) {
    let mut merged = std::mem::take(last)
        .try_into_mut()
        .unwrap_or_else(|shared| {
            let mut copy = BytesMut::with_capacity(MERGED);
            copy.extend_from_slice(&shared);
            copy
        });
    merged.extend_from_slice(data);
    *last = merged.freeze();
}

fn memory_of(piece: &Bytes) -> usize {
    piece.len().saturating_add(PIECE)
}

#[cfg(test)]
#[path = "body_buffer_tests.rs"]
mod tests;
