//! The bytes of an HTTP/2 client, as the HTTP library reads them: with marked trailers, and without
//! floods (see [`super::frames`]).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::deadline::ConnectionState;
use super::frames::{Frames, TooManySettings};

/// A byte stream on which HTTP/2 is read and written. In most cases, a read returns the bytes of the
/// client without a copy.
#[derive(Debug)]
pub(super) struct Http2Input<S> {
    inner: S,
    state: Rc<ConnectionState>,
    frames: Frames,
    /// Bytes of the client that `frames` has not read yet. If more bytes of the client are needed,
    /// these are only the first bytes of a frame.
    unread: Bytes,
    /// The bytes that the next reads return.
    ready: Bytes,
}

impl<S> Http2Input<S> {
    pub(super) fn new(inner: S, state: Rc<ConnectionState>) -> Self {
        Self {
            inner,
            state,
            frames: Frames::default(),
            unread: Bytes::new(),
            ready: Bytes::new(),
        }
    }

    /// Makes the next bytes ready. Returns false if more bytes of the client are needed.
    fn prepare(&mut self) -> Result<bool, TooManySettings> {
        while self.ready.is_empty() && !self.unread.is_empty() {
            let passed = self.frames.pass(&self.unread)?;
            if passed > 0 {
                self.ready = self.unread.split_to(passed);
            } else if let Some(replacement) = self.frames.replace(&self.unread) {
                self.unread.advance(replacement.taken);
                self.ready = replacement.bytes.into();
            } else {
                break;
            }
        }
        self.count_heads();
        Ok(!self.ready.is_empty())
    }

    /// Reads the bytes of the client after the first `before` bytes of `buf`. Leaves the bytes in
    /// `buf` that the library gets unchanged.
    fn arrived(&mut self, buf: &mut ReadBuf<'_>, before: usize) -> Result<(), TooManySettings> {
        let read = buf.filled().get(before..).unwrap_or_default();
        let passed = if self.unread.is_empty() {
            self.frames.pass(read)?
        } else {
            0
        };
        if passed < read.len() {
            let rest = read.get(passed..).unwrap_or_default();
            self.unread = [&*self.unread, rest].concat().into();
            buf.set_filled(before.saturating_add(passed));
        }
        self.count_heads();
        Ok(())
    }

    fn count_heads(&mut self) {
        let heads = self.frames.take_heads();
        self.state.arrivals().heads_arrived(heads);
    }

    fn flooded(&self, flood: TooManySettings) -> io::Error {
        self.state.arrivals().flooded();
        io::Error::other(flood)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Http2Input<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.prepare().map_err(|flood| this.flooded(flood))? {
                let count = this.ready.len().min(buf.remaining());
                buf.put_slice(&this.ready.split_to(count));
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            let is_end = buf.filled().len() == before;
            let arrived = this.arrived(buf, before);
            arrived.map_err(|flood| this.flooded(flood))?;
            if is_end || buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Http2Input<S> {
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

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;
    use crate::clock::Clock;
    use crate::server::coarse_clock::CoarseClock;
    use crate::server::connection::PREFACE;

    /// What the library reads in pieces of `room` bytes, if `bytes` arrive in pieces of `size` bytes.
    async fn read(bytes: &[u8], size: usize, room: usize) -> io::Result<Vec<u8>> {
        let clock = CoarseClock::new(Clock::system());
        let state = ConnectionState::new(([127, 0, 0, 1], 1).into(), &clock);
        let (mut client, server) = duplex(size);
        let mut input = Http2Input::new(server, state);
        let sending = async move {
            // The write fails if the gateway ends the connection.
            client.write_all(bytes).await.unwrap_or_default();
        };
        let reading = async move {
            let (mut read, mut buffer) = (Vec::new(), vec![0; room]);
            loop {
                match input.read(&mut buffer).await? {
                    0 => return Ok(read),
                    count => read.extend_from_slice(&buffer[..count]),
                }
            }
        };
        tokio::join!(sending, reading).1
    }

    #[tokio::test]
    async fn s_26_trailers_are_marked_in_reads_of_every_size() {
        let head = [0, 0, 4, 1, 4, 0, 0, 0, 1, b'h', b'e', b'a', b'd'];
        // Three fields, with one byte of padding.
        let trailers = [0, 0, 5, 1, 13, 0, 0, 0, 1, 1, b'a', b'b', b'c', 0];
        let marked = [0, 0, 1, 1, 1, 0, 0, 0, 1, 0x97];
        let fields = [0, 0, 3, 9, 4, 0, 0, 0, 1, b'a', b'b', b'c'];
        let data = [0, 0, 9, 0, 0, 0, 0, 0, 1, 0, 0, 3, 1, 5, 0, 0, 0, 1];
        let sent = [PREFACE, &head, &data, &trailers, &data].concat();
        let expected = [PREFACE, &head, &data, &marked, &fields, &data].concat();
        for size in 1..=sent.len() {
            for room in [1, 5, 100] {
                let seen = read(&sent, size, room).await.unwrap();
                assert_eq!(seen, expected, "{size} {room}");
            }
        }
    }

    #[tokio::test]
    async fn d_13_a_client_that_changes_its_settings_too_often_is_cut_off() {
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        for size in [1, 9, 100, 10_000] {
            for (count, is_read) in [(100, true), (101, false)] {
                let sent = [PREFACE, &settings.repeat(count)].concat();
                assert_eq!(read(&sent, size, 50).await.is_ok(), is_read, "{size}");
            }
        }
    }
}
