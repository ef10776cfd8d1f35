//! Combines the small writes of an HTTP/2 connection into one TLS record.
//!
//! One poll of a connection may answer many requests, but h2 writes each response separately.
//! Without a buffer, each write would cause one TLS record, one system call and one wake-up of the
//! client. [`Gather`] buffers the writes until the poll ends. The code that polls the connection
//! has to call [`Gather::poll_release`] at the end of each poll.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The size of the buffer in bytes, which is the maximum length of the data in one TLS record (RFC
/// 8446 section 5.1).
const RECORD: usize = 16 * 1024;
/// The longest write that is buffered. If a write is longer than `SMALL`, a separate TLS record is
/// cheaper than a copy into the buffer.
const SMALL: usize = 4 * 1024;

/// A stream that buffers small writes until [`Gather::poll_release`] sends the buffered bytes.
/// Clones share the stream.
#[derive(Debug)]
pub(super) struct Gather<S>(Rc<RefCell<GatherBuffer<S>>>);

struct GatherBuffer<S> {
    stream: S,
    /// The buffered bytes. An empty buffer has no capacity, so that an idle connection uses no
    /// memory for the buffer.
    bytes: Vec<u8>,
    /// The number of bytes at the start of the buffer that the stream has already accepted.
    taken: usize,
}

impl<S: fmt::Debug> fmt::Debug for GatherBuffer<S> {
    /// The output of `Debug` does not contain the bytes of the buffer, because these bytes contain
    /// cookies and pages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatherBuffer")
            .field("stream", &self.stream)
            .field("length", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

impl<S> Gather<S> {
    pub(super) fn new(stream: S) -> Self {
        Self(Rc::new(RefCell::new(GatherBuffer {
            stream,
            bytes: Vec::new(),
            taken: 0,
        })))
    }
}

impl<S> Clone for Gather<S> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    /// Sends the buffered bytes. If the stream does not accept all bytes, the task of `cx` is woken
    /// when the stream can accept more bytes.
    pub(super) fn poll_release(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.0.borrow_mut();
        ready!(held.poll_release(cx))?;
        Pin::new(&mut held.stream).poll_flush(cx)
    }
}

impl<S: AsyncWrite + Unpin> GatherBuffer<S> {
    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest @ [_, ..]) = self.bytes.get(self.taken..) {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            // A stream that accepts zero bytes would make this loop endless.
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.taken = self.taken.saturating_add(count);
        }
        self.bytes = Vec::new();
        self.taken = 0;
        Poll::Ready(Ok(()))
    }

    /// Waits until the stream can accept a write of `piece` bytes. Returns whether the write has to
    /// be buffered.
    fn poll_room(&mut self, cx: &mut Context<'_>, piece: usize) -> Poll<io::Result<bool>> {
        if piece > SMALL {
            ready!(self.poll_release(cx))?;
            return Poll::Ready(Ok(false));
        }
        if self.bytes.len().saturating_add(piece) > RECORD {
            ready!(self.poll_release(cx))?;
        }
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(RECORD);
        }
        Poll::Ready(Ok(true))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let held = &mut *self.0.borrow_mut();
        if !ready!(held.poll_room(cx, buf.len()))? {
            return Pin::new(&mut held.stream).poll_write(cx, buf);
        }
        held.bytes.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let held = &mut *self.0.borrow_mut();
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if !ready!(held.poll_room(cx, length))? {
            return Pin::new(&mut held.stream).poll_write_vectored(cx, bufs);
        }
        for buf in bufs {
            held.bytes.extend_from_slice(buf);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().stream.is_write_vectored()
    }

    /// Flushes nothing. The buffered bytes are sent at the end of the poll of the connection.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let held = &mut *self.0.borrow_mut();
        ready!(held.poll_release(cx))?;
        Pin::new(&mut held.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// A stream that records the length of each write.
    #[derive(Debug)]
    struct RecordedStream {
        inner: DuplexStream,
        writes: Rc<RefCell<Vec<usize>>>,
    }

    impl AsyncRead for RecordedStream {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for RecordedStream {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let count = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
            self.writes.borrow_mut().push(count);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_shutdown(cx)
        }
    }

    type Writes = Rc<RefCell<Vec<usize>>>;

    /// Returns three values: a [`Gather`] that writes into a pipe of `room` bytes, the list of the
    /// lengths of the writes into the pipe, and the other end of the pipe.
    fn gathering(room: usize) -> (Gather<RecordedStream>, Writes, DuplexStream) {
        let (inner, client) = duplex(room);
        let writes = Writes::default();
        let stream = RecordedStream {
            inner,
            writes: Rc::clone(&writes),
        };
        (Gather::new(stream), writes, client)
    }

    async fn release(gather: &Gather<RecordedStream>) -> io::Result<()> {
        poll_fn(|cx| gather.poll_release(cx)).await
    }

    /// Reads all bytes until the stream is shut down.
    async fn arriving(mut client: DuplexStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn the_writes_of_one_poll_are_sent_together() {
        let (mut gather, writes, client) = gathering(64 * 1024);
        gather.write_all(b"one, ").await.unwrap();
        let pieces = [IoSlice::new(b"two, "), IoSlice::new(b"three")];
        assert_eq!(gather.write_vectored(&pieces).await.unwrap(), 10);
        gather.flush().await.unwrap();
        assert!(writes.borrow().is_empty());
        let shown = format!("{gather:?}");
        assert!(
            shown.contains("length: 15") && !shown.contains("111, 110, 101"),
            "{shown}"
        );
        release(&gather).await.unwrap();
        assert_eq!(*writes.borrow(), [15]);
        // An idle connection has no buffer.
        assert_eq!(gather.0.borrow().bytes.capacity(), 0);
        // If the buffer is empty, `poll_release` writes nothing.
        release(&gather).await.unwrap();
        assert_eq!(*writes.borrow(), [15]);
        drop(gather);
        assert_eq!(arriving(client).await, b"one, two, three");
    }

    #[tokio::test]
    async fn at_most_one_record_is_buffered_and_no_long_write() {
        let (mut gather, writes, client) = gathering(256 * 1024);
        let (small, large) = (vec![b's'; SMALL], vec![b'l'; SMALL + 1]);
        for _ in 0..5 {
            gather.write_all(&small).await.unwrap();
        }
        // Four writes of `SMALL` bytes fill one TLS record. The fifth write begins a new TLS
        // record.
        assert_eq!(*writes.borrow(), [RECORD]);
        gather.write_all(&large).await.unwrap();
        assert_eq!(*writes.borrow(), [RECORD, SMALL, SMALL + 1]);
        drop(gather);
        let expected = [small.repeat(5), large].concat();
        assert_eq!(arriving(client).await, expected);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_blocks_the_writer_and_loses_nothing() {
        let (mut gather, writes, client) = gathering(1000);
        let piece = b"0123456789".repeat(100);
        let sent = piece.repeat(40);
        // The pipe can hold 1000 bytes, and the buffer can hold one record. When the pipe and the
        // buffer are full, the `Gather` stream accepts no more bytes.
        let mut taken = 0;
        let full = poll_fn(|cx| {
            loop {
                match Pin::new(&mut gather).poll_write(cx, &piece) {
                    Poll::Ready(count) => taken += count.unwrap(),
                    Poll::Pending => return Poll::Ready(gather.0.borrow().bytes.len()),
                }
            }
        });
        assert_eq!(full.await, RECORD / 1000 * 1000);
        assert_eq!(taken, RECORD / 1000 * 1000);
        assert_eq!(*writes.borrow(), [1000]);
        let writing = async move {
            gather.write_all(&sent[taken..]).await.unwrap();
            release(&gather).await.unwrap();
        };
        let ((), arrived) = tokio::join!(writing, arriving(client));
        assert_eq!(arrived, piece.repeat(40));
    }

    #[tokio::test]
    async fn buffered_bytes_are_sent_before_the_end() {
        let (mut gather, _writes, client) = gathering(1000);
        gather.write_all(b"goodbye").await.unwrap();
        gather.shutdown().await.unwrap();
        assert_eq!(arriving(client).await, b"goodbye");
    }

    #[tokio::test]
    async fn a_closed_connection_is_an_error() {
        let (mut gather, _writes, client) = gathering(1000);
        drop(client);
        gather.write_all(b"lost").await.unwrap();
        let error = release(&gather).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
