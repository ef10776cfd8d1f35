//! Counts frames of HTTP/2.
//!
//! Each SETTINGS frame can change the windows of all streams of its connection, so a client can use
//! a few bytes to cause much work. A client needs only a few of these frames. The HTTP library does
//! not limit them.
//!
//! The HTTP library does not report the heads that it refuses because they are too large, so the
//! heads are counted here.

use super::arrivals::Heads;
use super::connection::PREFACE;

/// The number of bytes of a frame without its payload (RFC 9113 section 4.1).
const HEAD: usize = 9;
/// The type of a SETTINGS frame, and its flag ACK (RFC 9113 section 6.5).
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
/// The types of the frames that contain heads and trailers, and the flag of the last of them (RFC
/// 9113 sections 6.2 and 6.10).
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
/// A head with more compressed bytes than this number may be too large for the HTTP library. The
/// code of Huffman needs at least five bits for each byte, so every head above the smallest limit of
/// the library ([`super::Limits::library_head_bytes`]) has more compressed bytes. A head of repeated
/// fields can have fewer, but no client has such a head unless it attacks the gateway.
const LARGE: usize = 16 * 1024;
/// The maximum number of times that a client may change its settings.
const CHANGES: u32 = 100;

/// The client has changed its settings too often.
#[derive(Debug, thiserror::Error)]
#[error("the client has changed its settings more than {CHANGES} times")]
pub(super) struct TooManySettings;

/// Reads the heads of the frames that a client sends.
#[derive(Debug)]
pub(super) struct Frames {
    /// The first bytes of a head whose other bytes have not arrived yet.
    begun: [u8; HEAD],
    /// The number of these bytes.
    count: usize,
    /// The number of bytes before the next head: the preface, or the rest of a payload.
    before: usize,
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
            begun: [0; HEAD],
            count: 0,
            before: PREFACE.len(),
            changes: 0,
            highest: 0,
            opens_stream: false,
            head_bytes: 0,
            heads: Heads::default(),
        }
    }
}

impl Frames {
    /// Reads the next bytes of the client.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), TooManySettings> {
        loop {
            let skipped = self.before.min(bytes.len());
            self.before = self.before.saturating_sub(skipped);
            bytes = bytes.get(skipped..).unwrap_or_default();
            let Some((head, rest)) = self.head(bytes) else {
                break;
            };
            bytes = rest;
            self.frame(head);
        }
        if self.changes > CHANGES {
            return Err(TooManySettings);
        }
        Ok(())
    }

    /// Returns the heads of requests that were completed since the last call.
    pub(super) fn take_heads(&mut self) -> Heads {
        std::mem::take(&mut self.heads)
    }

    /// Returns the next head and the bytes after it. Returns `None` if the head is not complete.
    fn head<'a>(&mut self, bytes: &'a [u8]) -> Option<([u8; HEAD], &'a [u8])> {
        if self.count == 0
            && let Some((head, rest)) = bytes.split_first_chunk()
        {
            return Some((*head, rest));
        }
        let places = self.begun.get_mut(self.count..).unwrap_or_default();
        let taken = places.len().min(bytes.len());
        for (place, byte) in places.iter_mut().zip(bytes) {
            *place = *byte;
        }
        self.count = self.count.saturating_add(taken);
        if self.count < HEAD {
            return None;
        }
        self.count = 0;
        Some((self.begun, bytes.get(taken..).unwrap_or_default()))
    }

    fn frame(&mut self, [high, middle, low, kind, flags, stream @ ..]: [u8; HEAD]) {
        let length = u32::from_be_bytes([0, high, middle, low]);
        self.before = usize::try_from(length).unwrap_or(usize::MAX);
        match kind {
            SETTINGS if flags & ACK == 0 => self.changes = self.changes.saturating_add(1),
            HEADERS => {
                let stream = stream_id(stream);
                self.opens_stream = stream > self.highest;
                self.highest = self.highest.max(stream);
                self.head_frame(0, flags);
            }
            CONTINUATION => self.head_frame(self.head_bytes, flags),
            _ => {}
        }
    }

    /// Counts a frame of a head. Trailers are not counted, because they begin no request. `before` is the number of bytes in the earlier frames of the head.
    fn head_frame(&mut self, before: usize, flags: u8) {
        self.head_bytes = self.before.saturating_add(before);
        if flags & END_HEADERS != 0 && self.opens_stream {
            self.heads.all = self.heads.all.saturating_add(1);
            let is_large = self.head_bytes > LARGE;
            self.heads.large = self.heads.large.saturating_add(u32::from(is_large));
        }
    }
}

/// Reads the id of a stream. The first bit does not belong to the id (RFC 9113 section 4.1).
fn stream_id(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes) & (u32::MAX >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        frame_of(0, (kind, flags), payload)
    }

    fn frame_of(stream: u32, (kind, flags): (u8, u8), payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags];
        [&head[..], &stream.to_be_bytes(), payload].concat()
    }

    /// The number of SETTINGS frames without ACK in these pieces.
    fn changes<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> u32 {
        let mut frames = Frames::default();
        for piece in pieces {
            assert!(frames.read(piece).is_ok());
        }
        frames.changes
    }

    #[test]
    fn d_13_settings_are_counted_in_pieces_of_every_size() {
        let frames = [
            PREFACE.to_vec(),
            frame(SETTINGS, 0, b"123456"),
            // A payload that looks like SETTINGS.
            frame(0, 0, &frame(SETTINGS, 0, b"").repeat(7)),
            frame(SETTINGS, ACK, b""),
            frame(6, 0, b"12345678"),
            frame(SETTINGS, 0, b""),
            frame(1, 5, &[4; 300]),
            frame(SETTINGS, 0, &[0; 60]),
        ];
        let bytes = frames.concat();
        for size in 1..=bytes.len() {
            assert_eq!(changes(bytes.chunks(size)), 3, "{size}");
        }
    }

    #[test]
    fn d_07_heads_are_counted_and_large_heads_too() {
        let part = |stream, kind, flags, bytes| frame_of(stream, (kind, flags), &vec![0; bytes]);
        let bytes = [
            PREFACE.to_vec(),
            part(1, HEADERS, END_HEADERS, LARGE),
            part(3, HEADERS, 0, LARGE),
            part(3, CONTINUATION, 0, 0),
            part(3, CONTINUATION, END_HEADERS, 1),
            // Bytes of a body.
            part(3, 0, END_HEADERS, LARGE + 1),
            part(7, HEADERS, END_HEADERS, 1),
        ];
        let mut frames = Frames::default();
        assert!(frames.read(&bytes.concat()).is_ok());
        assert_eq!(frames.take_heads(), Heads { all: 3, large: 1 });
        assert_eq!(frames.take_heads(), Heads::default());
    }

    #[test]
    fn d_07_trailers_are_not_counted_as_heads() {
        let part = |stream, kind, flags, bytes| frame_of(stream, (kind, flags), &vec![0; bytes]);
        let bytes = [
            PREFACE.to_vec(),
            part(1, HEADERS, END_HEADERS, 1),
            // The first bit does not belong to the id.
            part(3 | 1 << 31, HEADERS, END_HEADERS, LARGE + 1),
            part(1, HEADERS, END_HEADERS, LARGE + 1),
            part(3, HEADERS, 0, LARGE),
            part(3, CONTINUATION, END_HEADERS, 1),
            part(5, HEADERS, 0, 1),
            part(5, CONTINUATION, END_HEADERS, 1),
        ];
        let mut frames = Frames::default();
        assert!(frames.read(&bytes.concat()).is_ok());
        assert_eq!(frames.take_heads(), Heads { all: 3, large: 1 });
    }

    #[test]
    fn d_13_a_client_that_changes_its_settings_too_often_is_refused() {
        let mut frames = Frames::default();
        assert!(frames.read(PREFACE).is_ok());
        for _ in 0..CHANGES {
            assert!(frames.read(&frame(SETTINGS, 0, b"")).is_ok());
            assert!(frames.read(&frame(SETTINGS, ACK, b"")).is_ok());
        }
        assert!(frames.read(&frame(SETTINGS, 0, b"")).is_err());
    }
}
