//! A strict reader of HTTP/1.1 that keeps every byte.
//!
//! The reader shares no code with the gateway's libraries, so the reader checks the framing of
//! messages independently. The reader returns [`Framing::Bad`] for a message that a strict
//! recipient would refuse.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The time that a test waits for bytes that must come.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A socket, plain or TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The head of a message, byte for byte.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) bytes: Vec<u8>,
}

/// The rule that determines the end of a message's body.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Framing {
    None,
    Length(usize),
    Chunked,
    UntilClose,
    Bad(String),
}

/// A body, and whether it was complete.
#[derive(Clone, Debug, Default)]
pub(crate) struct Body {
    pub(crate) bytes: Vec<u8>,
    pub(crate) trailers: Vec<String>,
    /// The body ended as its framing states.
    pub(crate) complete: bool,
}

impl Head {
    pub(crate) fn start_line(&self) -> String {
        self.lines().next().unwrap_or_default()
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        let text: String = self.bytes.iter().copied().map(char::from).collect();
        text.trim_end_matches("\r\n")
            .split("\r\n")
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// Names and values in order. Bytes are read as Latin-1, and values are trimmed of space and
    /// tab.
    pub(crate) fn fields(&self) -> Vec<(String, String)> {
        let split = |line: String| {
            let (name, value) = line.split_once(':').unwrap_or((line.as_str(), ""));
            (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
        };
        self.lines().skip(1).map(split).collect()
    }

    /// All values of a field. The comparison of names ignores case.
    pub(crate) fn values(&self, name: &str) -> Vec<String> {
        let wanted = |(n, v): (String, String)| n.eq_ignore_ascii_case(name).then_some(v);
        self.fields().into_iter().filter_map(wanted).collect()
    }

    /// The single value of a field; `None` if the field is absent.
    ///
    /// # Panics
    ///
    /// Panics if the field is repeated.
    pub(crate) fn value(&self, name: &str) -> Option<String> {
        let mut values = self.values(name);
        assert!(
            values.len() < 2,
            "{name} came {} times: {values:?}",
            values.len()
        );
        values.pop()
    }

    /// The reason why a strict recipient (RFC 9112 sections 2.2, 5, 6) would refuse this head.
    fn fault(&self) -> Option<String> {
        let text: String = self.bytes.iter().copied().map(char::from).collect();
        let bare = text.replace("\r\n", "");
        if bare.contains(['\r', '\n', '\0']) {
            return Some("a bare CR, LF or NUL".into());
        }
        for line in self.lines().skip(1) {
            let name = line.split(':').next().unwrap_or_default();
            let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
            if !line.contains(':') || name.is_empty() || !name.chars().all(token) {
                return Some(format!("the field line {line:?}"));
            }
        }
        None
    }

    /// The framing by RFC 9112 section 6.3, strictly: one field, one value. `without_length`
    /// applies if the message has neither field.
    fn framing(&self, without_length: Framing) -> Framing {
        if let Some(fault) = self.fault() {
            return Framing::Bad(fault);
        }
        let lengths = self.values("content-length");
        let codings = self.values("transfer-encoding");
        match (lengths.as_slice(), codings.as_slice()) {
            ([], []) => without_length,
            ([length], []) if length.bytes().all(|b| b.is_ascii_digit()) => length
                .parse()
                .map_or_else(|_| Framing::Bad(length.clone()), Framing::Length),
            ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Framing::Chunked,
            _ => Framing::Bad(format!("lengths {lengths:?} and codings {codings:?}")),
        }
    }

    /// The framing of a request.
    pub(crate) fn request_framing(&self) -> Framing {
        self.framing(Framing::None)
    }

    /// The framing of a final response to `method`.
    pub(crate) fn response_framing(&self, method: &str) -> Framing {
        if method == "HEAD" || matches!(self.status(), 100..=199 | 204 | 304) {
            return Framing::None;
        }
        self.framing(Framing::UntilClose)
    }

    /// The status code of a response.
    pub(crate) fn status(&self) -> u16 {
        let line = self.start_line();
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        status.unwrap_or_else(|| panic!("not a status line: {line:?}"))
    }
}

/// A socket with the unread part of its data, and with all data that was ever received.
pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    seen: Vec<u8>,
}

impl Wire {
    pub(crate) fn new(stream: impl Stream + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            buffer: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// Every received byte.
    pub(crate) fn seen(&self) -> &[u8] {
        &self.seen
    }

    /// Discards the record of the received bytes.
    pub(crate) fn forget(&mut self) {
        self.seen = Vec::new();
    }

    /// Reads more bytes into the buffer; `false` at the end of the stream or after an error.
    pub(crate) async fn fill(&mut self) -> bool {
        let mut chunk = vec![0_u8; 16 * 1024];
        match self.stream.read(&mut chunk).await {
            Ok(read @ 1..) => {
                self.buffer.extend_from_slice(&chunk[..read]);
                self.seen.extend_from_slice(&chunk[..read]);
                true
            }
            Ok(0) | Err(_) => false,
        }
    }

    /// Reads until the stream ends. Returns the bytes, and the error or `None` for an ordinary end.
    pub(crate) async fn until_end(&mut self) -> (Vec<u8>, Option<std::io::ErrorKind>) {
        let mut bytes = std::mem::take(&mut self.buffer);
        let mut chunk = [0_u8; 1024];
        loop {
            match self.stream.read(&mut chunk).await {
                Ok(0) => return (bytes, None),
                Ok(read) => bytes.extend_from_slice(&chunk[..read]),
                Err(error) => return (bytes, Some(error.kind())),
            }
        }
    }

    /// Takes all bytes up to and including `end`; `None` if the stream ends before `end`.
    async fn take_through(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            let found = self
                .buffer
                .windows(end.len())
                .position(|window| window == end);
            if let Some(at) = found {
                return Some(self.buffer.drain(..at + end.len()).collect());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// The next `count` bytes; `None` if the stream has fewer bytes.
    pub(crate) async fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            if !self.fill().await {
                return None;
            }
        }
        Some(self.buffer.drain(..count).collect())
    }

    /// The next head; `None` if the stream ends before the head is complete.
    pub(crate) async fn head(&mut self) -> Option<Head> {
        self.take_through(b"\r\n\r\n")
            .await
            .map(|bytes| Head { bytes })
    }

    /// The body after a head. `progress` is called with each part of the body when the part
    /// arrives.
    pub(crate) async fn body(
        &mut self,
        framing: &Framing,
        progress: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Body {
        let mut body = Body::default();
        body.complete = match framing {
            Framing::None => true,
            Framing::Bad(_) => false,
            Framing::Length(length) => self.exactly(*length, &mut body, progress).await,
            Framing::Chunked => self.chunks(&mut body, progress).await,
            Framing::UntilClose => {
                while !self.buffer.is_empty() || self.fill().await {
                    let piece = std::mem::take(&mut self.buffer);
                    progress(&piece);
                    body.bytes.extend(piece);
                }
                true
            }
        };
        body
    }

    async fn exactly(
        &mut self,
        mut wanted: usize,
        body: &mut Body,
        progress: &mut (dyn FnMut(&[u8]) + Send),
    ) -> bool {
        while wanted > 0 {
            if self.buffer.is_empty() && !self.fill().await {
                return false;
            }
            let piece: Vec<u8> = self.buffer.drain(..wanted.min(self.buffer.len())).collect();
            wanted -= piece.len();
            progress(&piece);
            body.bytes.extend(piece);
        }
        true
    }

    async fn chunks(&mut self, body: &mut Body, progress: &mut (dyn FnMut(&[u8]) + Send)) -> bool {
        loop {
            let Some(line) = self.take_through(b"\r\n").await else {
                return false;
            };
            let size = std::str::from_utf8(&line[..line.len() - 2]).ok();
            let plain = size.filter(|size| size.bytes().all(|b| b.is_ascii_hexdigit()));
            let Some(size) = plain.and_then(|size| usize::from_str_radix(size, 16).ok()) else {
                return false;
            };
            if size == 0 {
                break;
            }
            if !self.exactly(size, body, progress).await {
                return false;
            }
            if self
                .take_through(b"\r\n")
                .await
                .is_none_or(|end| end != b"\r\n")
            {
                return false;
            }
        }
        loop {
            let Some(line) = self.take_through(b"\r\n").await else {
                return false;
            };
            if line == b"\r\n" {
                return true;
            }
            body.trailers
                .push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    }

    /// Writes `bytes`. The method ignores the error if the peer has already closed the connection.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Writes `bytes`, and discards everything that arrives meanwhile. Returns `false` if the peer has
    /// closed the connection.
    pub(crate) async fn flood(&mut self, bytes: &[u8]) -> bool {
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let discard = async {
            let mut chunk = vec![0_u8; 16 * 1024];
            while matches!(reader.read(&mut chunk).await, Ok(1..)) {}
        };
        let write = async { writer.write_all(bytes).await.is_ok() && writer.flush().await.is_ok() };
        tokio::select! {
            is_written = write => is_written,
            () = discard => false,
        }
    }

    /// Ends the writing side.
    pub(crate) async fn finish(&mut self) {
        drop(self.stream.shutdown().await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head {
        Head {
            bytes: text.as_bytes().to_vec(),
        }
    }

    #[test]
    fn framing_is_read_strictly() {
        let framing =
            |fields: &str| head(&format!("GET / HTTP/1.1\r\n{fields}\r\n")).request_framing();
        assert_eq!(framing(""), Framing::None);
        assert_eq!(framing("Content-Length: 5\r\n"), Framing::Length(5));
        assert_eq!(framing("transfer-encoding: Chunked\r\n"), Framing::Chunked);
        for bad in [
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding : chunked\r\n",
            "A: b\nTransfer-Encoding: chunked\r\n",
        ] {
            assert!(matches!(framing(bad), Framing::Bad(_)), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn chunks_are_read_to_their_end_and_no_further() {
        let (mut near, far) = tokio::io::duplex(1024);
        near.write_all(b"3\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\nrest")
            .await
            .unwrap();
        let mut wire = Wire::new(far);
        let body = wire.body(&Framing::Chunked, &mut |_| {}).await;
        assert_eq!(
            (body.bytes.as_slice(), body.complete),
            (&b"abcde"[..], true)
        );
        assert_eq!(body.trailers, ["X: y"]);
        assert_eq!(wire.buffer, b"rest");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_not_complete() {
        for (framing, bytes) in [
            (Framing::Chunked, &b"5\r\nabc"[..]),
            (Framing::Length(9), b"abc"),
            (Framing::Chunked, b"1 \r\na"),
        ] {
            let (mut near, far) = tokio::io::duplex(1024);
            near.write_all(bytes).await.unwrap();
            drop(near);
            assert!(
                !Wire::new(far).body(&framing, &mut |_| {}).await.complete,
                "{bytes:?}"
            );
        }
    }
}
