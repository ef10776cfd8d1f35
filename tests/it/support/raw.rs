//! A client that sends bytes unchanged: malformed, late or in pieces.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::wire::{Body, Head, TEST_TIMEOUT, Wire};

/// One connection.
pub(crate) struct Raw {
    wire: Wire,
    patience: Duration,
}

/// One response.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) head: Head,
    pub(crate) body: Body,
}

impl Response {
    pub(crate) fn status(&self) -> u16 {
        self.head.status()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body.bytes).into_owned()
    }
}

/// The state of a connection after everything was sent.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The final responses, in order.
    pub(crate) responses: Vec<Response>,
    /// The gateway closed the connection.
    pub(crate) closed: bool,
}

impl Outcome {
    pub(crate) fn statuses(&self) -> Vec<u16> {
        self.responses.iter().map(Response::status).collect()
    }
}

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }

    /// Uses an open connection.
    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            wire: Wire::new(stream),
            patience: TEST_TIMEOUT,
        }
    }

    /// Sets the longest time to wait for an answer.
    pub(crate) fn waiting_for(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Connects. With a configuration, the connection uses TLS for `localhost`.
    ///
    /// # Errors
    ///
    /// If the gateway refuses the connection.
    pub(crate) async fn try_connect(
        address: SocketAddr,
        config: Option<Arc<rustls::ClientConfig>>,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let Some(config) = config else {
            return Ok(Self::over(stream));
        };
        Ok(Self {
            wire: tls_over(stream, "localhost", config).await?,
            patience: TEST_TIMEOUT,
        })
    }

    /// Connects with TLS. The configuration contains the offered protocols.
    pub(crate) async fn connect_tls(
        address: SocketAddr,
        name: &str,
        config: Arc<rustls::ClientConfig>,
    ) -> Self {
        Self {
            wire: tls(address, name, config).await,
            patience: TEST_TIMEOUT,
        }
    }

    /// Sends `bytes`. The method ignores the error if the gateway has already closed the
    /// connection.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.write(bytes.as_ref()).await;
    }

    /// Sends `bytes` one at a time, each in its own segment if the kernel allows it.
    pub(crate) async fn drip(&mut self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref() {
            self.wire.write(&[*byte]).await;
            tokio::task::yield_now().await;
        }
    }

    /// Shuts down the sending side.
    pub(crate) async fn finish(&mut self) {
        self.wire.finish().await;
    }

    /// The next final response to `method`; `None` if the gateway closes the connection without a
    /// final response.
    ///
    /// # Panics
    ///
    /// Panics if nothing arrives in time.
    pub(crate) async fn response(&mut self, method: &str) -> Option<Response> {
        let reading = async {
            loop {
                let head = self.wire.head().await?;
                if matches!(head.status(), 102..=199 | 100) {
                    continue;
                }
                let framing = head.response_framing(method);
                let body = self.wire.body(&framing, &mut |_| {}).await;
                return Some(Response { head, body });
            }
        };
        let answer = timeout(self.patience, reading).await;
        answer.expect("no answer in time")
    }

    /// The next head, also of an informational response; `None` if the gateway closes the
    /// connection.
    pub(crate) async fn head(&mut self) -> Option<Head> {
        timeout(TEST_TIMEOUT, self.wire.head())
            .await
            .expect("no head in time")
    }

    /// Reads responses until the gateway closes the connection.
    ///
    /// # Panics
    ///
    /// Panics if the gateway does not close the connection in time.
    pub(crate) async fn until_closed(&mut self) -> Vec<Response> {
        let mut responses = Vec::new();
        while let Some(response) = self.response("GET").await {
            responses.push(response);
        }
        responses
    }

    /// Waits until the gateway closes the connection. The client sends nothing more, and discards
    /// received data.
    ///
    /// # Panics
    ///
    /// Panics if the gateway does not close the connection in time.
    pub(crate) async fn closed(&mut self) {
        let reading = async { while self.wire.fill().await {} };
        timeout(TEST_TIMEOUT, reading)
            .await
            .expect("the gateway left the connection open");
    }

    /// Discards the record of the received bytes.
    pub(crate) fn forget(&mut self) {
        self.wire.forget();
    }

    /// Every received byte.
    pub(crate) fn seen(&self) -> &[u8] {
        self.wire.seen()
    }

    /// Whether no byte arrives within a short time.
    pub(crate) async fn is_silent(&mut self) -> bool {
        timeout(Duration::from_millis(50), self.wire.fill())
            .await
            .is_err()
    }

    /// Reads more bytes; `false` at the end of the stream.
    pub(crate) async fn more(&mut self) -> bool {
        timeout(TEST_TIMEOUT, self.wire.fill())
            .await
            .expect("nothing arrived in time")
    }
}

/// A TLS connection. The configuration contains the offered protocols.
pub(crate) async fn tls(
    address: SocketAddr,
    name: &str,
    config: Arc<rustls::ClientConfig>,
) -> Wire {
    let stream = TcpStream::connect(address).await.unwrap();
    tls_over(stream, name, config).await.unwrap()
}

/// A TLS connection over `stream`.
pub(crate) async fn tls_over(
    stream: TcpStream,
    name: &str,
    config: Arc<rustls::ClientConfig>,
) -> io::Result<Wire> {
    stream.set_nodelay(true).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    Ok(Wire::new(connector.connect(name, stream).await?))
}

/// The answer to a GET request on its own connection. `fields` are complete lines. Returns `None` if the
/// connection ends without an answer.
pub(crate) async fn get(address: SocketAddr, path: &str, fields: &str) -> Option<Response> {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Connection: close\r\n\r\n");
    let mut outcome = exchange(address, request.as_bytes(), 1).await;
    outcome.responses.pop()
}

/// Sends `bytes` on a new connection. Reads until `enough` final responses have arrived, the
/// gateway closes the connection, or nothing arrives for three seconds.
pub(crate) async fn exchange(address: SocketAddr, bytes: &[u8], enough: usize) -> Outcome {
    let mut raw = Raw::connect(address).await;
    raw.send(bytes).await;
    let mut responses = Vec::new();
    let closed = loop {
        if responses.len() == enough {
            break false;
        }
        let quiet = Duration::from_secs(3);
        match timeout(quiet, raw.wire.head()).await {
            Ok(Some(head)) if (100..200).contains(&head.status()) => {}
            Ok(Some(head)) => {
                let method = bytes.split(|b| *b == b' ').next().unwrap_or_default();
                let method = String::from_utf8_lossy(method);
                let framing = head.response_framing(method.trim_start());
                let body = raw.wire.body(&framing, &mut |_| {}).await;
                responses.push(Response { head, body });
            }
            Ok(None) => break true,
            Err(_quiet) => break false,
        }
    };
    Outcome { responses, closed }
}

/// Decodes the escapes of the data files: `\r \n \t \0 \\ \s` (a space at an end), `\xHH`, and
/// `\{N*text}` for `N` times the text.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let kind = after
            .chars()
            .next()
            .unwrap_or_else(|| panic!("a single backslash in {text:?}"));
        rest = &after[kind.len_utf8()..];
        match kind {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            '0' => bytes.push(0),
            's' => bytes.push(b' '),
            '\\' => bytes.push(b'\\'),
            'x' => {
                bytes.push(u8::from_str_radix(&rest[..2], 16).unwrap());
                rest = &rest[2..];
            }
            '{' => {
                let (repeated, after) = rest.split_once('}').unwrap();
                let (times, what) = repeated.split_once('*').unwrap();
                bytes.extend(unescape(what).repeat(times.parse().unwrap()));
                rest = after;
            }
            other => panic!("no escape \\{other} in {text:?}"),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::upstream::{Answer, RecordingUpstream};

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape(r"a\r\n\t\0\\\x80\s"), b"a\r\n\t\0\\\x80 ");
        assert_eq!(unescape(r"x\{3*ab}y\{2*\n}"), b"xabababy\n\n");
    }

    #[tokio::test]
    async fn responses_on_one_connection_are_told_apart() {
        let upstream = RecordingUpstream::start().await;
        upstream.next(Answer::ok("one"));
        upstream.next(Answer::raw(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n",
        ));
        upstream.next(Answer::raw(b"HTTP/1.1 204 No Content\r\n\r\n").then_close());
        let mut raw = Raw::connect(upstream.address()).await;
        raw.drip("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(raw.response("GET").await.unwrap().text(), "one");
        raw.send("GET /2 HTTP/1.1\r\n\r\nGET /3 HTTP/1.1\r\n\r\n")
            .await;
        let rest: Vec<_> = raw
            .until_closed()
            .await
            .iter()
            .map(|r| (r.status(), r.text()))
            .collect();
        assert_eq!(rest, [(200, "two".to_owned()), (204, String::new())]);
        let outcome = exchange(upstream.address(), b"GET /4 HTTP/1.1\r\n\r\n", 2).await;
        assert_eq!((outcome.statuses(), outcome.closed), (vec![200], false));
    }
}
