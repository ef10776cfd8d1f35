//! An HTTP/2 client that writes frames without checks (RFC 9113). Field names and values are sent
//! as literals, so that tests can send every malformed head.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::raw::{tls, tls_over};
use super::wire::{TEST_TIMEOUT, Wire};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// One connection.
pub(crate) struct H2 {
    wire: Wire,
}

/// The result of a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    Status(u16),
    /// The stream was reset, or the connection got GOAWAY or was closed.
    Refused,
}

impl H2 {
    /// Connects with TLS and sends the preface and empty settings.
    pub(crate) async fn connect(
        address: SocketAddr,
        name: &str,
        config: Arc<rustls::ClientConfig>,
    ) -> Self {
        Self::announcing(tls(address, name, config).await, &[]).await
    }

    /// Like [`H2::connect`], over an open connection.
    pub(crate) async fn over(
        stream: TcpStream,
        name: &str,
        config: Arc<rustls::ClientConfig>,
    ) -> Self {
        Self::announcing(tls_over(stream, name, config).await.unwrap(), &[]).await
    }

    /// Connects with TLS and sets the size of the field table to zero (RFC 7541 section 4.2), so
    /// that each response contains its whole status.
    pub(crate) async fn connect_without_table(
        address: SocketAddr,
        name: &str,
        config: Arc<rustls::ClientConfig>,
    ) -> Self {
        const HEADER_TABLE_SIZE: [u8; 6] = [0, 1, 0, 0, 0, 0];
        Self::announcing(tls(address, name, config).await, &HEADER_TABLE_SIZE).await
    }

    /// Connects with TLS, and sends no preface.
    pub(crate) async fn connect_without_preface(
        address: SocketAddr,
        name: &str,
        config: Arc<rustls::ClientConfig>,
    ) -> Self {
        let wire = tls(address, name, config).await;
        Self { wire }
    }

    async fn announcing(mut wire: Wire, settings: &[u8]) -> Self {
        wire.write(PREFACE).await;
        let mut connection = Self { wire };
        connection.frame(SETTINGS, 0, 0, settings).await;
        connection
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.wire.write(&frame(kind, flags, stream, payload)).await;
    }

    /// Opens `stream` (odd, increasing) with these fields, including the pseudo-header fields.
    pub(crate) async fn head(&mut self, stream: u32, fields: &[(&[u8], &[u8])], body: bool) {
        let block = literals(fields);
        let flags = END_HEADERS | if body { 0 } else { END_STREAM };
        self.frame(HEADERS, flags, stream, &block).await;
    }

    /// Opens `stream` with a head that is longer than one frame, and without a body.
    pub(crate) async fn head_in_pieces(&mut self, stream: u32, fields: &[(&[u8], &[u8])]) {
        let block = literals(fields);
        let mut pieces = block.chunks(16_000).peekable();
        let (mut kind, mut flags) = (HEADERS, END_STREAM);
        while let Some(piece) = pieces.next() {
            if pieces.peek().is_none() {
                flags |= END_HEADERS;
            }
            self.frame(kind, flags, stream, piece).await;
            (kind, flags) = (CONTINUATION, 0);
        }
    }

    /// Sends the whole body of `stream`.
    pub(crate) async fn body(&mut self, stream: u32, bytes: &[u8]) {
        self.frame(DATA, END_STREAM, stream, bytes).await;
    }

    /// Sends a part of the body of `stream`.
    pub(crate) async fn data(&mut self, stream: u32, bytes: &[u8]) {
        self.frame(DATA, 0, stream, bytes).await;
    }

    /// Allows the server to send `bytes` more on `stream`, or on the connection if `stream` is 0.
    pub(crate) async fn allow(&mut self, stream: u32, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap();
        self.frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
            .await;
    }

    /// Collects the body of the response on `stream` until the body has `count` bytes, or until the
    /// body ends. The flag states whether the body has ended in order.
    pub(crate) async fn received(&mut self, stream: u32, count: usize) -> (Vec<u8>, bool) {
        let reading = async {
            let mut bytes = Vec::new();
            while bytes.len() < count {
                match self.next_frame().await {
                    Some((DATA, flags, of, payload)) if of == stream => {
                        bytes.extend(payload);
                        if flags & END_STREAM != 0 {
                            return (bytes, true);
                        }
                    }
                    Some((RST_STREAM, _, of, _)) if of == stream => return (bytes, false),
                    Some(_) => {}
                    None => return (bytes, false),
                }
            }
            (bytes, false)
        };
        timeout(TEST_TIMEOUT, reading)
            .await
            .expect("no data in time")
    }

    /// Collects the bodies of the responses on several streams, until all have ended or the
    /// connection ends. The flags say which bodies have ended in order.
    pub(crate) async fn bodies(&mut self, streams: &[u32]) -> Vec<(Vec<u8>, bool)> {
        let mut bodies = vec![(Vec::new(), false); streams.len()];
        let mut open = streams.len();
        let reading = async {
            while open > 0 {
                let Some((kind, flags, of, payload)) = self.next_frame().await else {
                    return;
                };
                let Some(at) = streams.iter().position(|stream| *stream == of) else {
                    continue;
                };
                if kind == DATA {
                    bodies[at].0.extend(payload);
                }
                bodies[at].1 |= flags & END_STREAM != 0 && matches!(kind, DATA | HEADERS);
                open -= usize::from(bodies[at].1 || kind == RST_STREAM);
            }
        };
        let ended = timeout(TEST_TIMEOUT, reading).await;
        ended.expect("the responses do not end");
        bodies
    }

    /// Returns the number of bytes that the client may send on the connection, as announced when the
    /// connection began (RFC 9113 section 6.9.2). The server may answer a first ping before it sends
    /// its announcements, but not a second one.
    pub(crate) async fn window(&mut self) -> u32 {
        const SMALLEST: u32 = 65_535;
        let reading = async {
            let mut window = SMALLEST;
            for _ in 0..2 {
                self.frame(PING, 0, 0, &[0; 8]).await;
                loop {
                    match self.next_frame().await.expect("a frame") {
                        (WINDOW_UPDATE, _, 0, payload) => {
                            window += u32::from_be_bytes(payload.try_into().unwrap());
                        }
                        (PING, ACK, ..) => break,
                        _ => {}
                    }
                }
            }
            window
        };
        timeout(TEST_TIMEOUT, reading)
            .await
            .expect("no answer to the pings in time")
    }

    /// Sends these bytes unchanged. Returns `false` if the server has closed the connection.
    pub(crate) async fn bytes(&mut self, bytes: &[u8]) -> bool {
        self.wire.write(bytes).await
    }

    /// Sends these bytes unchanged, and discards everything that arrives meanwhile. Returns `false` if
    /// the server has closed the connection.
    pub(crate) async fn flood(&mut self, bytes: &[u8]) -> bool {
        self.wire.flood(bytes).await
    }

    /// Waits for the result of `stream`.
    pub(crate) async fn outcome(&mut self, stream: u32) -> Outcome {
        match self.block(stream).await {
            Some(block) => Outcome::Status(status(&block)),
            None => Outcome::Refused,
        }
    }

    /// The statuses of the responses on several streams.
    pub(crate) async fn statuses(&mut self, streams: &[u32]) -> Vec<u16> {
        let mut statuses = vec![0; streams.len()];
        let reading = async {
            while statuses.contains(&0) {
                let Some((kind, _, of, payload)) = self.next_frame().await else {
                    return;
                };
                let at = streams.iter().position(|stream| *stream == of);
                if let (HEADERS, Some(at)) = (kind, at) {
                    statuses[at] = status(&payload);
                }
            }
        };
        let came = timeout(TEST_TIMEOUT, reading).await;
        came.expect("the responses do not come");
        statuses
    }

    /// Waits for the head of the response on `stream`, still compressed; `None` if there is no
    /// head.
    pub(crate) async fn block(&mut self, stream: u32) -> Option<Vec<u8>> {
        timeout(TEST_TIMEOUT, self.read(stream))
            .await
            .expect("no answer in time")
    }

    async fn read(&mut self, wanted: u32) -> Option<Vec<u8>> {
        loop {
            match self.next_frame().await? {
                (HEADERS, _, stream, payload) if stream == wanted => return Some(payload),
                (RST_STREAM, _, stream, _) if stream == wanted => return None,
                (GOAWAY, ..) => return None,
                _ => {}
            }
        }
    }

    /// The next frame: type, flags, stream and payload. Settings and pings are acknowledged.
    async fn next_frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let head = self.wire.bytes(9).await?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let payload = self.wire.bytes(length).await?;
        match (head[3], head[4]) {
            (SETTINGS, 0) => self.frame(SETTINGS, ACK, 0, &[]).await,
            (PING, 0) => self.frame(PING, ACK, 0, &payload).await,
            _ => {}
        }
        Some((head[3], head[4], stream, payload))
    }
}

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A block of these fields as literals that are never indexed, with new names (RFC 7541 section
/// 6.2.3).
pub(crate) fn literals(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x10);
        write_text(&mut block, name);
        write_text(&mut block, value);
    }
    block
}

/// A field as a literal that enters the field table (RFC 7541 section 6.2.1).
pub(crate) fn indexed_literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut block = vec![0x40];
    write_text(&mut block, name);
    write_text(&mut block, value);
    block
}

fn write_text(block: &mut Vec<u8>, text: &[u8]) {
    write_length(block, text.len());
    block.extend_from_slice(text);
}

/// Writes an integer with a seven-bit prefix (RFC 7541 section 5.1).
fn write_length(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        block.push(u8::try_from(length).unwrap());
        return;
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128 + 128).unwrap());
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// The status. `:status` is the first field of a response: indexed (RFC 7541 appendix A, 8 to 14),
/// or a literal with an indexed name, possibly with Huffman coding.
fn status(block: &[u8]) -> u16 {
    // A table size update may come before `:status`.
    let block = match block[0] {
        0x20..=0x3f => &block[1..],
        _ => block,
    };
    match block[0] {
        0x88 => 200,
        0x89 => 204,
        0x8a => 206,
        0x8b => 304,
        0x8c => 400,
        0x8d => 404,
        0x8e => 500,
        0x48..=0x4e | 0x08..=0x0e | 0x18..=0x1e => {
            let length = usize::from(block[1] & 0x7f);
            let text = &block[2..2 + length];
            let digits = if block[1] & 0x80 == 0 {
                text.to_vec()
            } else {
                huffman_digits(text)
            };
            String::from_utf8(digits).unwrap().parse().unwrap()
        }
        other => panic!("no status: the block begins with {other:#x}"),
    }
}

/// Decodes digits (RFC 7541 appendix B): `0`, `1` and `2` have five bits, and the other digits have
/// six bits.
fn huffman_digits(bytes: &[u8]) -> Vec<u8> {
    let bits: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
        .collect();
    let number = |bits: &[u8]| bits.iter().fold(0_u8, |sum, bit| sum * 2 + bit);
    let mut digits = Vec::new();
    let mut rest = bits.as_slice();
    while rest.len() >= 5 {
        let short = number(&rest[..5]);
        let used = match short {
            0..=2 => {
                digits.push(b'0' + short);
                5
            }
            _ if rest.len() >= 6 && (25..=31).contains(&number(&rest[..6])) => {
                digits.push(b'3' + number(&rest[..6]) - 25);
                6
            }
            _ => break,
        };
        rest = &rest[used..];
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_in_every_coding() {
        assert_eq!(status(&[0x88, 0x01]), 200);
        assert_eq!(status(b"\x48\x03303"), 303);
        // RFC 7541 appendix C.6.1: 302 with Huffman coding.
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), 302);
        assert_eq!(huffman_digits(&[0x64, 0x0e, 0xff]), b"307");
        assert_eq!(status(b"\x20\x08\x03421"), 421);
    }

    #[test]
    fn lengths_are_coded_as_the_examples() {
        let mut block = Vec::new();
        write_length(&mut block, 10);
        write_length(&mut block, 127);
        write_length(&mut block, 1337);
        assert_eq!(block, [10, 127, 0, 127, 0xba, 0x09]);
    }
}
