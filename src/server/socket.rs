//! The two layers around a connection's bytes that tell its [`ConnectionState`] what happens.
//!
//! [`Socket`] sits under TLS and sees whether the client takes what we send. [`Plaintext`] sits
//! above it and sees where a head begins; at the end it reads on for a moment when the client may
//! still be sending.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::deadline::{ConnectionState, Phase, Protocol};
use crate::relay::Duplex;

/// The length of the HTTP/2 connection preface (RFC 9113 section 3.4).
const PREFACE: usize = 24;
/// How much of the input after the end is thrown away per read.
const DISCARD: usize = 4096;

/// A TCP connection that records what moves.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    state: Rc<ConnectionState>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, state: Rc<ConnectionState>) -> Self {
        Self { stream, state }
    }

    fn record(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Ready(Ok(1..)) => self.state.sent(),
            Poll::Ready(Ok(0) | Err(_)) => {}
            Poll::Pending => self.state.send_waits(),
        }
        result
    }
}

impl Duplex for Socket {
    fn reset_on_close(&self) {
        // A socket that does not take the option is closed without a reset.
        let socket = SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap_or_default();
    }
}

impl Duplex for TlsStream<Socket> {
    fn reset_on_close(&self) {
        self.get_ref().0.reset_on_close();
    }
}

impl Duplex for TokioIo<Upgraded> {
    /// Not for a single stream: its peer learns of the end only.
    fn reset_on_close(&self) {}
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.state.received();
        }
        result
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.record(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.record(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What HTTP reads and writes.
#[derive(Debug)]
pub(super) struct Plaintext<S> {
    inner: S,
    state: Rc<ConnectionState>,
    protocol: Protocol,
    /// Bytes of the HTTP/2 preface that are still to come.
    preface: usize,
}

impl<S> Plaintext<S> {
    pub(super) fn new(inner: S, state: Rc<ConnectionState>, protocol: Protocol) -> Self {
        Self {
            inner,
            state,
            protocol,
            preface: PREFACE,
        }
    }

    /// The connection's bytes, for a protocol that is not HTTP.
    pub(super) fn into_inner(self) -> S {
        self.inner
    }

    fn arrived(&mut self, count: usize) {
        match self.protocol {
            Protocol::Http1 => self.state.head_begins(),
            // Only the preface counts: afterwards frames come that belong to no request (PING,
            // WINDOW_UPDATE, SETTINGS), and an idle connection stays idle whatever it sends.
            Protocol::Http2 if self.preface > 0 => {
                self.state.head_begins();
                self.preface = self.preface.saturating_sub(count);
                if self.preface == 0 {
                    self.state.preface_complete();
                }
            }
            Protocol::Http2 => {}
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Plaintext<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        let count = buf.filled().len().saturating_sub(before);
        if count > 0 {
            self.arrived(count);
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
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    /// Closes our direction; if the client may still be sending, reads its input away until it
    /// closes too or the sweep cuts the connection, else a reset would overtake the last response.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.state.phase() != Phase::Linger {
            let linger = this.protocol == Protocol::Http1 && this.state.has_unread_input();
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
            if !linger {
                return Poll::Ready(Ok(()));
            }
            this.state.enter(Phase::Linger);
        }
        loop {
            let mut discarded = [0; DISCARD];
            let mut buf = ReadBuf::new(&mut discarded);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
