//! Finds the boundaries of WebSocket frames (RFC 6455 section 5.2).

use bytes::{BufMut as _, Bytes, BytesMut};

/// The reason why the gateway ends a relay. The client gets the reason in a close frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Close {
    /// The gateway stops, or a deadline of the stream has passed: code 1001.
    GoingAway,
    /// The session has ended, or the user may not use the route any more: code 1008.
    Policy,
}

impl Close {
    /// Returns the status code of the close frame (RFC 6455 section 7.4.1).
    fn code(self) -> u16 {
        match self {
            Self::GoingAway => 1001,
            Self::Policy => 1008,
        }
    }

    /// Returns the short text of the close frame, which the client can log.
    fn text(self) -> &'static str {
        match self {
            Self::GoingAway => "the gateway closes this connection",
            Self::Policy => "the session has ended",
        }
    }
}

/// Tracks the position inside the WebSocket frames that an app sends.
#[derive(Debug)]
pub(crate) struct FrameTracker(Position);

/// The longest head of a frame: two bytes, eight bytes of length, and four bytes of mask.
const LONGEST_HEAD: usize = 14;

/// The first byte of a close frame: the FIN bit and the opcode 8.
const FINAL_CLOSE: u8 = 0x88;

#[derive(Clone, Copy, Debug)]
enum Position {
    /// The protocol is unknown, so the gateway cannot find the boundaries of messages.
    Unknown,
    /// The next byte belongs to the head of a WebSocket frame. The number in `Head` states how many
    /// bytes of the head have arrived. Between two frames, the number in `Head` is zero, because no
    /// byte of the next frame's head has arrived.
    Head([u8; LONGEST_HEAD], usize),
    /// The next byte belongs to the payload of a frame. The number in `Payload` states how many
    /// bytes of the payload have not arrived yet.
    Payload(u64),
    /// The app has sent a close frame. No frame may follow a close frame.
    Closed,
}

impl FrameTracker {
    /// Creates a tracker for a WebSocket. The tracker has to process all bytes that the app sends,
    /// from the first byte.
    pub(crate) fn websocket() -> Self {
        Self(Position::Head([0; LONGEST_HEAD], 0))
    }

    /// Creates a tracker for the bytes of an unknown protocol.
    pub(crate) fn unknown() -> Self {
        Self(Position::Unknown)
    }

    /// Processes bytes that the app has sent.
    pub(crate) fn follow(&mut self, mut data: &[u8]) {
        while let Some((first, rest)) = data.split_first() {
            match &mut self.0 {
                Position::Unknown | Position::Closed => return,
                Position::Payload(left) => {
                    let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    let taken = length.min(*left);
                    *left = left.saturating_sub(taken);
                    let taken = usize::try_from(taken).unwrap_or(usize::MAX);
                    data = data.get(taken..).unwrap_or_default();
                    if *left == 0 {
                        self.0 = Position::Head([0; LONGEST_HEAD], 0);
                    }
                }
                Position::Head(head, count) => {
                    if let Some(place) = head.get_mut(*count) {
                        *place = *first;
                    }
                    *count = count.saturating_add(1);
                    data = rest;
                    if let Some(payload) = head.get(..*count).and_then(payload) {
                        self.0 = next_position(head, payload);
                    }
                }
            }
        }
    }

    /// Returns a close frame, if a close frame may be sent at the current position.
    pub(super) fn close(&self, close: Close) -> Option<Bytes> {
        let Position::Head(_, 0) = self.0 else {
            return None;
        };
        let text = close.text();
        // The payload has fewer than 126 bytes, so one byte of the frame can contain the length.
        let length = u8::try_from(text.len().saturating_add(2)).ok()?;
        let mut frame = BytesMut::new();
        frame.put_u8(FINAL_CLOSE);
        frame.put_u8(length);
        frame.put_u16(close.code());
        frame.put_slice(text.as_bytes());
        Some(frame.freeze())
    }
}

/// Returns the length of a frame's payload, or `None` if `head` is not a complete frame head.
fn payload(head: &[u8]) -> Option<u64> {
    let [_opcode, second, rest @ ..] = head else {
        return None;
    };
    // RFC 6455 section 5.1 forbids masked frames from a server. If an app sends a masked frame
    // nevertheless, the tracker must still find the end of this frame.
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let (length, extended) = match second & 0x7f {
        126 => {
            let bytes: [u8; 2] = rest.get(..2)?.try_into().ok()?;
            (u64::from(u16::from_be_bytes(bytes)), 2_usize)
        }
        127 => {
            let bytes: [u8; 8] = rest.get(..8)?.try_into().ok()?;
            (u64::from_be_bytes(bytes), 8)
        }
        short => (u64::from(short), 0),
    };
    (rest.len() >= extended.saturating_add(mask)).then_some(length)
}

/// Returns the position directly after `head`, which is a complete frame head.
fn next_position(head: &[u8], payload: u64) -> Position {
    let is_close = head.first().is_some_and(|first| first & 0x0f == 0x08);
    match payload {
        _ if is_close => Position::Closed,
        0 => Position::Head([0; LONGEST_HEAD], 0),
        left => Position::Payload(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may_close(frames: &FrameTracker) -> bool {
        frames.close(Close::Policy).is_some()
    }

    /// A frame with `length` bytes of payload.
    fn frame(opcode: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        match length {
            0..126 => frame.push(u8::try_from(length).unwrap()),
            126..65536 => {
                frame.push(126);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(127);
                frame.extend(u64::try_from(length).unwrap().to_be_bytes());
            }
        }
        frame.extend(vec![0xff; length]);
        frame
    }

    #[test]
    fn a_close_frame_may_be_sent_between_two_frames_only() {
        for length in [0, 1, 125, 126, 65_535, 65_536, 70_000] {
            let bytes = frame(2, length);
            let mut frames = FrameTracker::websocket();
            for (index, byte) in bytes.iter().enumerate() {
                assert_eq!(may_close(&frames), index == 0, "{length}: {index}");
                frames.follow(&[*byte]);
            }
            assert!(may_close(&frames), "{length}");
        }
    }

    #[test]
    fn several_frames_may_come_in_one_piece() {
        let mut bytes = [frame(1, 3), frame(9, 0), frame(2, 300)].concat();
        let mut frames = FrameTracker::websocket();
        frames.follow(&bytes);
        assert!(may_close(&frames));
        bytes.pop();
        let mut frames = FrameTracker::websocket();
        frames.follow(&bytes);
        assert!(!may_close(&frames));
    }

    #[test]
    fn no_close_frame_follows_one_of_the_app_or_an_unknown_protocol() {
        let mut frames = FrameTracker::websocket();
        frames.follow(&frame(8, 2));
        assert!(!may_close(&frames));
        assert!(!may_close(&FrameTracker::unknown()));
    }

    #[test]
    fn w_03_w_08_a_close_frame_has_its_code_and_a_text() {
        for (close, code) in [(Close::Policy, 1008_u16), (Close::GoingAway, 1001)] {
            let frame = FrameTracker::websocket().close(close).unwrap();
            assert_eq!(frame[0], 0x88);
            assert_eq!(usize::from(frame[1]), frame.len() - 2);
            assert_eq!(frame[2..4], code.to_be_bytes());
            assert!(std::str::from_utf8(&frame[4..]).unwrap().len() > 10);
        }
    }
}
