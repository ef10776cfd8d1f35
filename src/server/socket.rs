//! Two layers around the socket of a connection, which record the activity of the connection in
//! [`ConnectionState`].
//!
//! [`Socket`] is the layer below TLS. [`Socket`] records whether the client accepts the bytes that
//! the gateway sends. [`Plaintext`] is the layer above TLS. [`Plaintext`] records when a request
//! head begins. If the client may still be sending at the end of a connection, [`Plaintext`]
//! continues to read for a short time.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio_rustls::server::TlsStream;

use super::connection::PREFACE;
use super::deadline::ConnectionState;
use super::phase::{Phase, Protocol};
use crate::fields::request_id::X_REQUEST_ID;
use crate::relay::{self, Duplex};

/// The size of the buffer for bytes that are read and discarded after the last response.
const DISCARD: usize = 4096;

/// A TCP connection that records when bytes are sent and received. The [`ConnectionState`] contains
/// the socket, so that the sweep can ask the kernel how many bytes the client has acknowledged.
#[derive(Debug)]
pub(super) struct Socket {
    state: Rc<ConnectionState>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, state: Rc<ConnectionState>) -> Self {
        state.socket().replace(Some(stream));
        Self { state }
    }

    /// Calls the function `poll` with the socket as its argument. The sweep runs in another task,
    /// so no other code borrows the socket at this time.
    fn with<T>(
        &self,
        poll: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match self.state.socket().borrow_mut().as_mut() {
            Some(stream) => poll(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn write(
        &self,
        poll: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let result = self.with(poll);
        match &result {
            Poll::Ready(Ok(1..)) => self.state.sent(),
            Poll::Ready(Ok(0) | Err(_)) => {}
            Poll::Pending => self.state.send_waits(),
        }
        result
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.state.has_broken_answer() {
            self.reset_on_close();
        }
        // This code removes the socket from the shared state, because other owners of the state
        // would keep the socket open.
        drop(self.state.socket().take());
    }
}

impl Duplex for Socket {
    fn reset_on_close(&self) {
        if let Some(stream) = &*self.state.socket().borrow() {
            // If the operating system refuses the socket option, the socket is closed without a
            // reset.
            let socket = SockRef::from(stream);
            socket.set_linger(Some(Duration::ZERO)).unwrap_or_default();
        }
    }

    fn limit_unsent(&self, bytes: usize) {
        if let Some(stream) = &*self.state.socket().borrow() {
            relay::limit_unsent(&SockRef::from(stream), bytes);
        }
    }
}

impl Duplex for Box<TlsStream<Socket>> {
    fn reset_on_close(&self) {
        self.get_ref().0.reset_on_close();
    }

    fn limit_unsent(&self, bytes: usize) {
        self.get_ref().0.limit_unsent(bytes);
    }
}

impl Duplex for TokioIo<Upgraded> {
    /// Does nothing, because an HTTP/2 stream has no socket of its own. The peer sees only the end
    /// of the stream, and gets no reset.
    fn reset_on_close(&self) {}

    /// This function does nothing, because a limit on the socket would apply to all streams of the
    /// HTTP/2 connection.
    fn limit_unsent(&self, _bytes: usize) {}
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = self.with(|stream| stream.poll_read(cx, buf));
        if let Some(received @ [_, ..]) = buf.filled().get(before..) {
            self.state.received(received);
        }
        result
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(|stream| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(|stream| stream.poll_write_vectored(cx, bufs))
    }

    /// A TCP socket accepts several slices in one system call.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }
}

/// The byte stream on which HTTP is read and written.
#[derive(Debug)]
pub(super) struct Plaintext<S> {
    inner: S,
    state: Rc<ConnectionState>,
    protocol: Protocol,
    /// The number of bytes of the HTTP/2 preface that the client still has to send.
    preface: usize,
    /// Bytes that were already read from `inner`. The next read from this stream returns the bytes
    /// in `early`.
    early: Bytes,
    refusals: Refusals,
}

/// What happens to an answer with which hyper itself refuses a head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Refusals {
    /// The client gets the answer.
    Sent,
    /// The client gets no answer with the status 431, because the head is read again with other
    /// limits.
    Withheld,
    /// hyper has sent an answer that was withheld.
    Found,
}

impl<S> Plaintext<S> {
    pub(super) fn new(inner: S, state: Rc<ConnectionState>, protocol: Protocol) -> Self {
        Self {
            inner,
            state,
            protocol,
            preface: PREFACE.len(),
            early: Bytes::new(),
            refusals: Refusals::Sent,
        }
    }

    /// Withholds an answer with which hyper itself refuses a head above its limits.
    pub(super) fn withholding_refusals(self, withholds: bool) -> Self {
        let refusals = if withholds {
            Refusals::Withheld
        } else {
            Refusals::Sent
        };
        Self { refusals, ..self }
    }

    /// Returns true if hyper has refused the current head, and the answer was withheld.
    pub(super) fn has_withheld_refusal(&self) -> bool {
        self.refusals == Refusals::Found && self.state.phase() == Phase::Head
    }

    /// Returns true if `bytes` must not be sent. hyper refuses a head in the phase `Head`. In this
    /// phase, the rest of an earlier answer can also be sent, because bytes of the next head can
    /// arrive before the socket has accepted the answer.
    #[inline]
    fn withholds(&mut self, bytes: &[u8]) -> bool {
        if self.state.phase() == Phase::Head {
            return self.is_refusal(bytes);
        }
        if self.refusals == Refusals::Found {
            self.refusals = Refusals::Withheld;
        }
        false
    }

    #[cold]
    fn is_refusal(&mut self, bytes: &[u8]) -> bool {
        if self.refusals == Refusals::Withheld && is_refusal_of_library(bytes) {
            self.refusals = Refusals::Found;
        }
        self.refusals == Refusals::Found
    }

    /// Makes the next read return the bytes in the argument `early`.
    pub(super) fn rewound(self, early: Bytes) -> Self {
        Self { early, ..self }
    }

    /// Returns the byte stream, and all bytes that were read from the stream but not processed.
    /// `read` contains the bytes that hyper has read from this value and has not processed.
    pub(super) fn into_parts(self, read: Bytes) -> (S, Bytes) {
        let unprocessed = if self.early.is_empty() {
            read
        } else {
            Bytes::from([&*read, &*self.early].concat())
        };
        (self.inner, unprocessed)
    }

    /// Whether a read without bytes has found the end of the input, and hyper must not know it yet.
    /// TLS reports the end as an error if the client has sent no closing message.
    #[cold]
    fn is_hidden_end(&self, result: &Poll<io::Result<()>>, room: usize) -> bool {
        let is_end = match result {
            Poll::Ready(Ok(())) => room > 0,
            Poll::Ready(Err(error)) => error.kind() == io::ErrorKind::UnexpectedEof,
            Poll::Pending => false,
        };
        is_end && self.protocol == Protocol::Http1 && self.state.hides_end_of_input()
    }

    /// Records that `count` bytes were read.
    fn arrived(&mut self, count: usize) {
        match self.protocol {
            Protocol::Http1 => {
                self.state.head_begins();
                self.state.arrivals().read(count);
            }
            // The time limit for a request head also applies to the HTTP/2 connection preface, but
            // not to later frames of the connection. After the preface, the arrival of a frame does
            // not end the idle time, because some frames belong to no request (PING, WINDOW_UPDATE,
            // SETTINGS).
            Protocol::Http2 => {
                self.state.arrivals().read_http2(count);
                if self.preface > 0 {
                    self.state.head_begins();
                    self.preface = self.preface.saturating_sub(count);
                    if self.preface == 0 {
                        self.state.preface_complete();
                    }
                }
            }
        }
    }
}

/// Returns true if `bytes` begin with the answer with which hyper refuses a large head. The answer
/// has no content. Each answer without content from the handler has the field `X-Request-Id`.
fn is_refusal_of_library(bytes: &[u8]) -> bool {
    if !bytes.starts_with(b"HTTP/1.1 431 ") {
        return false;
    }
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let fields = lines.skip(1).take_while(|line| !line.is_empty());
    let mut is_empty = false;
    for field in fields {
        is_empty |= field.eq_ignore_ascii_case(b"content-length: 0");
        let name = field.split(|byte| *byte == b':').next();
        if name.is_some_and(|name| name.eq_ignore_ascii_case(X_REQUEST_ID.as_str().as_bytes())) {
            return false;
        }
    }
    is_empty
}

impl<S: AsyncRead + Unpin> AsyncRead for Plaintext<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let count = self.early.len().min(buf.remaining());
            let early = self.early.split_to(count);
            buf.put_slice(&early);
            self.state.set_input_is_empty(false);
            self.arrived(count);
            return Poll::Ready(Ok(()));
        }
        if self.state.arrivals().is_turn_over() {
            // The runtime looks for events of all sockets before this task runs again.
            return pin!(yield_now()).poll(cx).map(Ok);
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.state.set_input_is_empty(result.is_pending());
        let read = buf.filled().len().saturating_sub(before);
        if read == 0 && result.is_ready() && self.is_hidden_end(&result, buf.remaining()) {
            return Poll::Pending;
        }
        if read > 0 {
            self.arrived(read);
        }
        result
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Plaintext<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.withholds(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(first) = bufs.first()
            && self.withholds(first)
        {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    /// Closes the sending direction. The server reads and discards the bytes that the client still
    /// sends, until the client closes the connection or the deadline for this phase passes. If
    /// bytes stayed unread, the kernel would send a reset, and the reset could destroy the last
    /// response.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.has_withheld_refusal() {
            return Poll::Ready(Ok(()));
        }
        if this.state.phase() != Phase::Linger {
            let linger = this.protocol == Protocol::Http1 && this.state.has_unread_input();
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
            if !linger {
                return Poll::Ready(Ok(()));
            }
            this.state.enter(Phase::Linger);
        }
        // The sweep ends the phase by a wake-up.
        this.state.set_waker(cx.waker());
        while !this.state.is_linger_over() {
            let mut discarded = [0; DISCARD];
            let mut buf = ReadBuf::new(&mut discarded);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
