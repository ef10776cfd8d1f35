//! What passes over a connection while a request is at work on it.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{Method, Request, Uri, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroizing;

use super::connector::Stream;
use super::saved_head::field;

/// What went out and came in since a request was given to a connection.
///
/// The head is noted as it is written, in one copy: keeping the fields themselves costs ten times as
/// much, and nearly no request is ever sent twice.
#[derive(Default)]
pub(super) struct Traffic {
    response_begun: Cell<bool>,
    /// Nothing is there to be read, and nothing will be while the connection's task runs: what the
    /// runtime hears of sockets it hears between tasks. hyper asks several times.
    nothing_to_read: Cell<bool>,
    recording: Cell<bool>,
    /// Wiped when the connection goes; before, by whatever comes next.
    head: RefCell<Zeroizing<Vec<u8>>>,
}

impl Traffic {
    /// A request is given to the connection; `note` if its head may be wanted once more.
    pub(super) fn begin(&self, note: bool) {
        self.response_begun.set(false);
        self.recording.set(note);
        self.wipe_head();
    }

    /// The connection's task runs again.
    pub(super) fn allow_reads(&self) {
        self.nothing_to_read.set(false);
    }

    /// The head that was written, if it was noted and not one byte of an answer came. It is a request
    /// without content.
    pub(super) fn unanswered_head(&self) -> Option<Parts> {
        if self.response_begun.get() {
            return None;
        }
        let head = self.head.borrow();
        let whole = head.strip_suffix(b"\r\n\r\n")?;
        let mut lines = whole.split(|byte| *byte == b'\n');
        let (mut parts, ()) = Request::new(()).into_parts();
        let mut words = lines.next()?.split(|byte| *byte == b' ');
        parts.method = Method::from_bytes(words.next()?).ok()?;
        parts.uri = Uri::try_from(words.next()?).ok()?;
        parts.version = Version::HTTP_11;
        for line in lines {
            let (name, mut value) = field(line)?;
            // Which of them were is not on the wire.
            value.set_sensitive(true);
            parts.headers.append(name, value);
        }
        Some(parts)
    }

    /// hyper writes a head in one piece.
    fn on_write(&self, bytes: &[u8]) {
        if self.recording.replace(false) {
            self.head.borrow_mut().extend_from_slice(bytes);
        }
    }

    fn on_read(&self) {
        self.response_begun.set(true);
        self.wipe_head();
    }

    /// Tokens and cookies are in it.
    fn wipe_head(&self) {
        let mut head = self.head.borrow_mut();
        head.fill(0);
        head.clear();
    }
}

/// A stream that says what passes.
pub(super) struct MonitoredStream {
    stream: Stream,
    traffic: Rc<Traffic>,
}

impl MonitoredStream {
    pub(super) fn new(stream: Stream, traffic: Rc<Traffic>) -> Self {
        Self { stream, traffic }
    }

    /// The stream alone.
    pub(super) fn into_stream(self) -> Stream {
        self.stream
    }
}

impl AsyncRead for MonitoredStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.traffic.nothing_to_read.get() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.traffic.nothing_to_read.set(outcome.is_pending());
        if buf.filled().len() > before {
            self.traffic.on_read();
        }
        outcome
    }
}

impl AsyncWrite for MonitoredStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.traffic.on_write(buf);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "traffic_tests.rs"]
mod tests;
