//! The frames of a WebSocket message (RFC 6455 section 5.2), as far as the benchmarks need them:
//! each message is one binary frame.

/// The first byte of a frame with a whole binary message.
const WHOLE_BINARY: u8 = 0x82;

/// The first frame of the received bytes.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    /// Where the content begins.
    pub(crate) content: usize,
    /// Where the frame ends.
    pub(crate) end: usize,
    key: Option<[u8; 4]>,
}

impl Frame {
    /// Parses the received bytes; `None` until the whole frame has arrived.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let [first, second, rest @ ..] = bytes else {
            return None;
        };
        assert_eq!(*first, WHOLE_BINARY, "a frame is not a whole message");
        let (length, long) = match second & 0x7f {
            0x7e => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), 2),
            0x7f => (u64::from_be_bytes(*rest.first_chunk()?) as usize, 8),
            short => (usize::from(short), 0),
        };
        let masked = second & 0x80 != 0;
        let key = if masked {
            Some(*rest.get(long..)?.first_chunk()?)
        } else {
            None
        };
        let content = 2 + long + if masked { 4 } else { 0 };
        let end = content + length;
        (bytes.len() >= end).then_some(Self { content, end, key })
    }

    /// Removes the mask from the content.
    pub(crate) fn unmask(self, content: &mut [u8]) {
        if let Some(key) = self.key {
            mask(content, key);
        }
    }
}

/// Writes a frame with `content`. The frames of a client have a `key`.
pub(crate) fn write(content: &[u8], key: Option<[u8; 4]>, frame: &mut Vec<u8>) {
    let masked = if key.is_some() { 0x80 } else { 0 };
    frame.push(WHOLE_BINARY);
    match content.len() {
        length @ ..0x7e => frame.push(masked | length as u8),
        length @ ..0x1_0000 => {
            frame.push(masked | 0x7e);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(masked | 0x7f);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend(key.into_iter().flatten());
    let begin = frame.len();
    frame.extend_from_slice(content);
    if let (Some(key), Some(content)) = (key, frame.get_mut(begin..)) {
        mask(content, key);
    }
}

fn mask(content: &mut [u8], key: [u8; 4]) {
    for four in content.chunks_mut(4) {
        for (byte, key) in four.iter_mut().zip(key) {
            *byte ^= key;
        }
    }
}
