//! Reads the frames that an HTTP/2 client sends, before the HTTP library reads them.
//!
//! [`Frames`] counts the frames that the HTTP library does not limit. Each SETTINGS frame can change
//! the windows of all streams of its connection, so a client can use a few bytes to cause much work.
//! A client needs only a few of these frames. The library does not report the heads that it refuses
//! because they are too large, so [`Frames`] also counts the heads.
//!
//! [`Frames`] also marks trailers. Trailers must not contain pseudo-fields (RFC 9113 section 8.1),
//! but the HTTP library drops pseudo-fields that are the first fields of trailers. The library
//! refuses each pseudo-field that comes after another field: it resets the stream. Therefore
//! [`Frames`] puts a field in front of all trailers, the mark. [`remove_mark`] removes this field
//! from the trailers that the library returns. So the library alone decodes the fields, and no second
//! decoder can disagree with it.
//!
//! The mark has its own HEADERS frame, and the HEADERS frame of the client becomes a CONTINUATION
//! frame. A block of fields may begin with updates of the size of the field table (RFC 7541 section
//! 4.2). The library accepts these updates at the beginning of each frame.

use http::HeaderMap;
use http::header::{AUTHORIZATION, Entry};

use super::arrivals::Heads;
use super::connection::PREFACE;

/// The number of bytes of a frame without its payload (RFC 9113 section 4.1).
const HEAD: usize = 9;
/// The type of a HEADERS frame, and its flags (RFC 9113 section 6.2).
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;
/// The type of a SETTINGS frame, and its flag ACK (RFC 9113 section 6.5).
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
/// The type of a CONTINUATION frame (RFC 9113 section 6.10).
const CONTINUATION: u8 = 9;
/// A head with more compressed bytes than this number may be too large for the HTTP library. The
/// code of Huffman needs at least five bits for each byte, so every head above the smallest limit of
/// the library ([`super::Limits::library_head_bytes`]) has more compressed bytes. A head of repeated
/// fields can have fewer, but no client has such a head unless it attacks the gateway.
const LARGE: usize = 16 * 1024;
/// The maximum number of times that a client may change its settings.
const CHANGES: u32 = 100;
/// The mark: the field `authorization` without a value, as the entry 23 of the static table (RFC 7541
/// appendix A). The trailers of a request must not contain this field (RFC 9110 section 6.5.1), so a
/// client loses nothing if the mark cannot be distinguished from a field of the client.
const MARK: u8 = 0x97;

/// The client has changed its settings too often.
#[derive(Debug, thiserror::Error)]
#[error("the client has changed its settings more than {CHANGES} times")]
pub(super) struct TooManySettings;

/// Removes the mark from the trailers of a request. Fields of the client with the same name stay,
/// unless they are empty.
pub(super) fn remove_mark(trailers: &mut HeaderMap) {
    let Entry::Occupied(fields) = trailers.entry(AUTHORIZATION) else {
        return;
    };
    let (name, values) = fields.remove_entry_mult();
    let others: Vec<_> = values.filter(|value| !value.is_empty()).collect();
    for value in others {
        trailers.append(&name, value);
    }
}

/// Reads the frames that a client sends.
#[derive(Debug)]
pub(super) struct Frames {
    /// The number of bytes before the next head: the preface, or the rest of a payload.
    before: usize,
    /// The number of bytes after `before` that the library must not get.
    padding: usize,
    /// The number of SETTINGS frames without ACK.
    changes: u32,
    /// The highest id of all streams that the client has opened.
    highest: u32,
    /// Whether the current head opens a stream. The value is false for trailers.
    opens_stream: bool,
    /// The number of compressed bytes of the current head.
    head_bytes: usize,
    /// The complete heads of requests since the last call of [`Frames::take_heads`].
    heads: Heads,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            before: PREFACE.len(),
            padding: 0,
            changes: 0,
            highest: 0,
            opens_stream: false,
            head_bytes: 0,
            heads: Heads::default(),
        }
    }
}

/// The bytes that replace the first bytes of the client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Replacement {
    /// The number of bytes that are replaced.
    pub(super) taken: usize,
    /// The new bytes.
    pub(super) bytes: Vec<u8>,
}

impl Frames {
    /// Returns the number of bytes at the beginning of `bytes` that the library gets unchanged.
    /// `bytes` begin with the first byte that was neither passed on nor replaced.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Result<usize, TooManySettings> {
        let mut rest = bytes;
        loop {
            let passed = self.before.min(rest.len());
            self.before = self.before.saturating_sub(passed);
            rest = rest.get(passed..).unwrap_or_default();
            if self.before > 0 || self.padding > 0 {
                break;
            }
            let Some(head) = Head::read(rest).filter(|head| !self.has_trailers(head)) else {
                break;
            };
            self.frame(&head);
            self.before = self.before.saturating_add(HEAD);
        }
        if self.changes > CHANGES {
            return Err(TooManySettings);
        }
        Ok(bytes.len().saturating_sub(rest.len()))
    }

    /// Returns what replaces the first bytes, if [`Frames::pass`] passes none of `bytes`. Returns
    /// `None` if more bytes are needed.
    pub(super) fn replace(&mut self, bytes: &[u8]) -> Option<Replacement> {
        if self.padding > 0 {
            let taken = self.padding.min(bytes.len());
            self.padding = self.padding.saturating_sub(taken);
            let bytes = Vec::new();
            return (taken > 0).then_some(Replacement { taken, bytes });
        }
        let head = Head::read(bytes)?;
        let taken = HEAD.saturating_add(head.fixed());
        let begin = bytes.get(..taken)?;
        let fixed = begin.get(HEAD..)?;
        let block = head.length.saturating_sub(fixed.len());
        let padding = head.padding(fixed);
        self.opens_stream = false;
        let bytes = if padding > block || head.depends_on_itself(fixed) {
            // The library refuses the frame, and does not decode its fields.
            self.before = block;
            begin.to_vec()
        } else {
            self.padding = padding;
            self.before = block.saturating_sub(padding);
            head.marked(self.before)
        };
        Some(Replacement { taken, bytes })
    }

    /// Returns the heads of requests that were completed since the last call.
    pub(super) fn take_heads(&mut self) -> Heads {
        std::mem::take(&mut self.heads)
    }

    /// Counts a frame of a head. `bytes` is the number of bytes in all frames of the head until now.
    /// Trailers are not counted, because they begin no request.
    fn head_frame(&mut self, bytes: usize, flags: u8) {
        self.head_bytes = bytes;
        if flags & END_HEADERS != 0 && self.opens_stream {
            self.heads.all = self.heads.all.saturating_add(1);
            let is_large = self.head_bytes > LARGE;
            self.heads.large = self.heads.large.saturating_add(u32::from(is_large));
        }
    }

    /// Returns true if the frame contains trailers, or the first part of them. A frame that is too
    /// short for its flags is refused by the library.
    fn has_trailers(&self, head: &Head) -> bool {
        head.kind == HEADERS && head.stream <= self.highest && head.fixed() <= head.length
    }

    fn frame(&mut self, head: &Head) {
        self.before = head.length;
        match head.kind {
            HEADERS => {
                self.opens_stream = head.stream > self.highest;
                self.highest = self.highest.max(head.stream);
                self.head_frame(head.length, head.flags);
            }
            CONTINUATION => {
                let bytes = self.head_bytes.saturating_add(head.length);
                self.head_frame(bytes, head.flags);
            }
            SETTINGS if head.flags & ACK == 0 => self.changes = self.changes.saturating_add(1),
            _ => {}
        }
    }
}

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    /// Returns `None` if the head is not complete.
    fn read(bytes: &[u8]) -> Option<Self> {
        let [high, middle, low, kind, flags, stream @ ..] = *bytes.first_chunk::<HEAD>()?;
        let length = u32::from_be_bytes([0, high, middle, low]);
        Some(Self {
            length: usize::try_from(length).unwrap_or(usize::MAX),
            kind,
            flags,
            stream: stream_id(stream),
        })
    }

    /// The number of bytes before the fields of a HEADERS frame (RFC 9113 section 6.2).
    fn fixed(&self) -> usize {
        match (self.flags & PADDED != 0, self.flags & PRIORITY != 0) {
            (false, false) => 0,
            (true, false) => 1,
            (false, true) => 5,
            (true, true) => 6,
        }
    }

    /// The number of bytes after the fields. `fixed` are the bytes before the fields.
    fn padding(&self, fixed: &[u8]) -> usize {
        match fixed.first() {
            Some(length) if self.flags & PADDED != 0 => usize::from(*length),
            Some(_) | None => 0,
        }
    }

    fn depends_on_itself(&self, fixed: &[u8]) -> bool {
        let Some([stream @ .., _weight]) = fixed.last_chunk::<5>() else {
            return false;
        };
        stream_id(*stream) == self.stream
    }

    /// Returns a HEADERS frame with the mark, and the head of a CONTINUATION frame with `length`
    /// bytes of fields. The flags of this head apply to the two frames.
    fn marked(&self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + 1 + HEAD);
        self.write(&mut bytes, 1, (HEADERS, self.flags & END_STREAM));
        bytes.push(MARK);
        self.write(&mut bytes, length, (CONTINUATION, self.flags & END_HEADERS));
        bytes
    }

    /// Writes the head of a frame of the same stream.
    fn write(&self, bytes: &mut Vec<u8>, length: usize, (kind, flags): (u8, u8)) {
        let [.., high, middle, low] = length.to_be_bytes();
        bytes.extend([high, middle, low, kind, flags]);
        bytes.extend(self.stream.to_be_bytes());
    }
}

/// Reads the id of a stream. The first bit does not belong to the id (RFC 9113 section 4.1).
fn stream_id(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes) & (u32::MAX >> 1)
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
