//! Records the reads and writes on a connection during its current request.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{Method, Request, StatusCode, Uri, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroizing;

use super::connector::Stream;
use super::head_timer::AwaitedHead;
use super::saved_head::field;

/// Records what is read and written on a connection for the current request.
///
/// The gateway records a request head as a copy of the bytes that hyper writes. Copying each field
/// separately would take ten times as long, and the gateway rarely uses the copy of a request head.
#[derive(Default)]
pub(super) struct Traffic {
    /// The number of bytes of the response that have arrived.
    received: Cell<usize>,
    /// Whether the last read found no bytes. Each time the runtime runs the task of a connection,
    /// the task reads from its socket several times. The runtime checks its sockets only between
    /// the runs of two tasks, so no new bytes become available during a run. After a read has found
    /// no bytes, this flag prevents further read calls during the same run of the task.
    nothing_to_read: Cell<bool>,
    /// The status of the first informational (1xx) response that the origin sent before its final
    /// response.
    informational: Cell<Option<StatusCode>>,
    /// The response head for which the connection waits.
    awaited: AwaitedHead,
    recording: Cell<bool>,
    /// The bytes of the request head. The gateway wipes the bytes when the response begins, when
    /// the next request begins, or when the connection is dropped.
    head: RefCell<Zeroizing<Vec<u8>>>,
}

impl Traffic {
    /// Begins a request. If `record` is true, the head of the request is recorded, so that the
    /// request can be sent one more time.
    pub(super) fn begin(&self, record: bool) {
        self.received.set(0);
        self.informational.set(None);
        self.recording.set(record);
        self.wipe_head();
    }

    /// The response head for which the connection waits.
    pub(super) fn awaited(&self) -> &AwaitedHead {
        &self.awaited
    }

    /// Allows reads again. The connection's task must call this function at the start of each poll
    /// of the task.
    pub(super) fn allow_reads(&self) {
        self.nothing_to_read.set(false);
    }

    /// Returns the recorded request head, if no byte of a response has arrived. Only requests
    /// without content are recorded.
    pub(super) fn unanswered_head(&self) -> Option<Parts> {
        if self.received.get() > 0 {
            return None;
        }
        let head = self.head.borrow();
        // If hyper has written only a part of the head, this function returns `None`.
        let whole = head.strip_suffix(b"\r\n\r\n")?;
        let mut lines = whole.split(|byte| *byte == b'\n');
        let (mut parts, ()) = Request::new(()).into_parts();
        let mut words = lines.next()?.split(|byte| *byte == b' ');
        parts.method = Method::from_bytes(words.next()?).ok()?;
        parts.uri = Uri::try_from(words.next()?).ok()?;
        parts.version = Version::HTTP_11;
        for line in lines {
            let (name, mut value) = field(line)?;
            // The bytes do not show which values were marked as sensitive, so this function marks
            // all values as sensitive.
            value.set_sensitive(true);
            parts.headers.append(name, value);
        }
        Some(parts)
    }

    /// Records the head of a request. Only the bytes of the first write are recorded, because hyper
    /// writes a complete head with one call.
    fn on_write(&self, bytes: &[u8]) {
        if self.recording.replace(false) {
            self.head.borrow_mut().extend_from_slice(bytes);
        }
    }

    /// Returns the status of the first informational (1xx) response that the origin sent before its
    /// final response.
    pub(super) fn informational(&self) -> Option<StatusCode> {
        self.informational.get()
    }

    /// The number of bytes of the response that have arrived.
    pub(super) fn received(&self) -> usize {
        self.received.get()
    }

    fn on_read(&self, bytes: &[u8]) {
        let before = self.received.get();
        self.received.set(before.saturating_add(bytes.len()));
        if before == 0 {
            self.informational.set(informational_status(bytes));
        }
        self.wipe_head();
    }

    /// Wipes the recorded head, because it contains tokens and cookies.
    fn wipe_head(&self) {
        let mut head = self.head.borrow_mut();
        if !head.is_empty() {
            head.fill(0);
            head.clear();
        }
    }
}

/// If `bytes` begins with an informational (1xx) response, returns the status of this response.
fn informational_status(bytes: &[u8]) -> Option<StatusCode> {
    let status = bytes.strip_prefix(b"HTTP/1.1 ")?.first_chunk::<3>()?;
    let [b'1', _, _] = status else { return None };
    StatusCode::from_bytes(status).ok()
}

/// A stream that records its reads and writes in [`Traffic`].
pub(super) struct MonitoredStream {
    stream: Stream,
    traffic: Rc<Traffic>,
}

impl MonitoredStream {
    pub(super) fn new(stream: Stream, traffic: Rc<Traffic>) -> Self {
        Self { stream, traffic }
    }

    /// Returns the stream, and drops the record.
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
            // The previous read has registered the waker, so the task runs again when bytes arrive.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.traffic.nothing_to_read.set(outcome.is_pending());
        if buf.filled().len() > before {
            let read = buf.filled().get(before..).unwrap_or_default();
            self.traffic.on_read(read);
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
