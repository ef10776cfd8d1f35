//! Counts the frames of HTTP/2 that the HTTP library does not limit.
//!
//! Each SETTINGS frame can change the windows of all streams of its connection, so a client can use
//! a few bytes to cause much work. A client needs only a few of these frames.

use super::connection::PREFACE;

/// The number of bytes of a frame without its payload (RFC 9113 section 4.1).
const HEAD: usize = 9;
/// The type of a SETTINGS frame, and its flag ACK (RFC 9113 section 6.5).
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
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
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            begun: [0; HEAD],
            count: 0,
            before: PREFACE.len(),
            changes: 0,
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

    fn frame(&mut self, [high, middle, low, kind, flags, ..]: [u8; HEAD]) {
        let length = u32::from_be_bytes([0, high, middle, low]);
        self.before = usize::try_from(length).unwrap_or(usize::MAX);
        if kind == SETTINGS && flags & ACK == 0 {
            self.changes = self.changes.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 0];
        [&head[..], payload].concat()
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
