//! Forwards bytes between two connections after a switch of protocols (RFC 9110 section 7.8).
//!
//! A [`Relay`] forwards bytes in both directions, unchanged. If a receiver does not accept bytes,
//! the relay keeps these bytes in memory. When the number of kept bytes reaches a limit, the relay
//! reads no more bytes from the sender. If one side closes its sending direction, the relay closes
//! the sending direction to the other side. If one side resets its connection, the relay resets the
//! connection to the other side. All relays of a thread share one buffer for reading. A relay
//! allocates memory only for bytes that the receiver does not accept immediately.
//!
//! [`FrameTracker`] tracks the WebSocket frames that the app sends. When the gateway ends a relay,
//! the relay may send a close frame only between two frames of the app. [`FrameTracker`] shows when
//! the app is between two frames.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

mod frames;
#[cfg(test)]
mod tests;

pub(crate) use self::frames::{Close, FrameTracker};

/// The maximum number of bytes in one read.
const SCRATCH: usize = 64 * 1024;

/// The maximum number of unsent bytes that the kernel keeps for a connection. If the kernel kept
/// more unsent bytes than this number, the socket of a slow client could accept no bytes for
/// minutes. Without this limit, the gateway would treat the working connection of a slow client as
/// stalled.
pub(crate) const MAX_UNSENT: u32 = 128 * 1024;

/// After the close frame, the relay reads at most this number of bytes at a time. The relay
/// discards the bytes that the relay reads after the close frame.
const DISCARD: usize = 1024;

thread_local! {
    /// The read buffer that all relays of a thread share. The buffer is in use only during a read
    /// and the following write.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A connection that a relay can use.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin {
    /// Makes the kernel send a reset when this connection is closed. The reset tells the peer that
    /// the peer has not received all data.
    fn reset_on_close(&self);

    /// Limits the number of unsent bytes that the kernel keeps for this connection.
    fn limit_unsent(&self, bytes: usize);
}

/// Implements [`Duplex::limit_unsent`] for a socket. If `bytes` is larger than [`MAX_UNSENT`], the
/// limit is [`MAX_UNSENT`]. Sent bytes that are not acknowledged yet do not count as unsent, so the
/// limit does not slow down a connection with a long round-trip time.
pub(crate) fn limit_unsent(socket: &SockRef<'_>, bytes: usize) {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(MAX_UNSENT);
    // If the operating system refuses the socket option, the kernel can keep more unsent bytes, but
    // the memory of the relay is still limited.
    socket.set_tcp_notsent_lowat(bytes).unwrap_or_default();
}

/// A connection that has switched protocols, and the bytes that arrived after the head of the
/// handshake.
pub(crate) struct Peer {
    /// The connection.
    pub(crate) io: Box<dyn Duplex>,
    /// The bytes of the new protocol that arrived directly after the head of the handshake.
    pub(crate) early: Bytes,
}

/// The numbers of bytes that a relay has forwarded. Clones share the numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct ByteCounts(Rc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    from_client: Cell<u64>,
    from_app: Cell<u64>,
}

impl ByteCounts {
    /// The number of bytes that the client has sent.
    pub(crate) fn client_bytes(&self) -> u64 {
        self.0.from_client.get()
    }

    /// The number of bytes that the app has sent.
    pub(crate) fn app_bytes(&self) -> u64 {
        self.0.from_app.get()
    }
}

/// The reason why a relay ended before the gateway closed the relay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ended {
    /// Both sides have closed their sending direction.
    Closed,
    /// The client's connection broke.
    ClientBroke,
    /// The app's connection broke.
    AppBroke,
}

/// Forwards bytes between a client and an app. The relay ends when both sides have closed their
/// sending direction, or when one connection breaks.
///
/// # Cancel safety
///
/// [`Relay::run`] is cancel safe, because the bytes that were read stay in the relay.
pub(crate) struct Relay {
    client: Box<dyn Duplex>,
    app: Box<dyn Duplex>,
    to_app: Direction,
    to_client: Direction,
    byte_counts: ByteCounts,
    frames: FrameTracker,
    /// True if the next poll first tries to forward bytes to the app.
    to_app_first: bool,
}

/// One direction of a relay.
struct Direction {
    /// Bytes that were read but that the receiver has not accepted yet.
    pending: VecDeque<u8>,
    /// The maximum number of pending bytes, without the bytes that arrived before the switch to the
    /// other protocol.
    max_lag: usize,
    stage: Stage,
    unflushed: bool,
}

#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum Stage {
    #[default]
    Open,
    /// The sender has closed its sending direction. The relay can still have bytes that it must
    /// send to the receiver.
    Ending,
    /// The relay has told the receiver that no more bytes follow.
    Ended,
}

/// The connection that broke.
enum Broken {
    Sender,
    Receiver,
}

impl Direction {
    fn new(early: Bytes, max_lag: usize) -> Self {
        Self {
            pending: Vec::from(early).into(),
            max_lag,
            stage: Stage::Open,
            unflushed: false,
        }
    }

    /// The maximum number of bytes that the next read may return. If the kept bytes and a read of
    /// full size together exceed `max_lag`, this function returns zero, and the relay does not
    /// read. Therefore a slow receiver does not cause many small reads.
    fn next_read(&self) -> usize {
        let size = self.max_lag.min(SCRATCH);
        let rest = self.max_lag.saturating_sub(self.pending.len());
        if rest < size { 0 } else { size }
    }

    /// Forwards all available bytes. Returns `Ready` when the relay has closed `receiver` for
    /// writing.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        sender: &mut dyn Duplex,
        receiver: &mut dyn Duplex,
        mut on_data: impl FnMut(&[u8]),
    ) -> Poll<Result<(), Broken>> {
        loop {
            let is_blocked = match self.poll_pending(cx, receiver) {
                Poll::Ready(Ok(())) => false,
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                Poll::Pending => true,
            };
            let size = self.next_read();
            match self.stage {
                Stage::Open if size > 0 => {}
                Stage::Open | Stage::Ending if is_blocked => return Poll::Pending,
                Stage::Open | Stage::Ending => {
                    let told = std::task::ready!(Pin::new(receiver).poll_shutdown(cx));
                    self.stage = Stage::Ended;
                    return Poll::Ready(told.map_err(|_error| Broken::Receiver));
                }
                Stage::Ended => return Poll::Ready(Ok(())),
            }
            let read = BUFFER.with_borrow_mut(|buffer| {
                buffer.resize(SCRATCH, 0);
                let mut buffer = ReadBuf::new(buffer.get_mut(..size).unwrap_or_default());
                match Pin::new(&mut *sender).poll_read(cx, &mut buffer) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
                        return Poll::Ready(Err(Broken::Sender));
                    }
                    // If a TLS peer closes its connection without `close_notify`, the relay treats
                    // the close as a normal end.
                    Poll::Ready(Ok(()) | Err(_)) => {}
                }
                let data = buffer.filled();
                on_data(data);
                Poll::Ready(self.pass(cx, data, receiver))
            });
            match read {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                Poll::Pending => return self.poll_flush(cx, receiver),
            }
        }
    }

    /// Writes bytes that were read, and keeps the bytes that the receiver does not accept.
    fn pass(
        &mut self,
        cx: &mut Context<'_>,
        mut data: &[u8],
        receiver: &mut dyn Duplex,
    ) -> Result<(), Broken> {
        if data.is_empty() {
            self.stage = Stage::Ending;
        }
        // Bytes that are still pending must be written before `data`.
        while !data.is_empty() && self.pending.is_empty() {
            match Pin::new(&mut *receiver).poll_write(cx, data) {
                Poll::Ready(Ok(count @ 1..)) => {
                    self.unflushed = true;
                    data = data.get(count..).unwrap_or_default();
                }
                Poll::Ready(Ok(0) | Err(_)) => return Err(Broken::Receiver),
                Poll::Pending => break,
            }
        }
        self.keep(data);
        Ok(())
    }

    /// Appends bytes to the pending bytes. When the memory for pending bytes is full, the memory
    /// doubles, up to `max_lag`.
    fn keep(&mut self, data: &[u8]) {
        let length = self.pending.len();
        if self.pending.capacity().saturating_sub(length) < data.len() {
            let doubled = length.min(self.max_lag.saturating_sub(length));
            self.pending.reserve_exact(doubled.max(data.len()));
        }
        self.pending.extend(data);
    }

    /// Writes the pending bytes. Returns `Ready` when no pending bytes are left.
    fn poll_pending(
        &mut self,
        cx: &mut Context<'_>,
        receiver: &mut dyn Duplex,
    ) -> Poll<Result<(), Broken>> {
        while !self.pending.is_empty() {
            let (data, _rest) = self.pending.as_slices();
            match std::task::ready!(Pin::new(&mut *receiver).poll_write(cx, data)) {
                Ok(count @ 1..) => {
                    self.unflushed = true;
                    drop(self.pending.drain(..count));
                }
                Ok(0) | Err(_) => return Poll::Ready(Err(Broken::Receiver)),
            }
        }
        // This assignment frees the memory of the pending bytes.
        self.pending = VecDeque::new();
        Poll::Ready(Ok(()))
    }

    /// Flushes the receiver, because TLS may keep written bytes until the stream is flushed.
    /// Returns `Pending` even after a successful flush, because `Ready` means that the direction
    /// has ended.
    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        receiver: &mut dyn Duplex,
    ) -> Poll<Result<(), Broken>> {
        if self.unflushed {
            match std::task::ready!(Pin::new(receiver).poll_flush(cx)) {
                Ok(()) => self.unflushed = false,
                Err(_error) => return Poll::Ready(Err(Broken::Receiver)),
            }
        }
        Poll::Pending
    }
}

impl Relay {
    /// Creates a relay between `client` and `app`. `frames` tracks the bytes that the app sends.
    /// `max_lag` is the maximum number of bytes that the relay keeps for each side. The kernel also
    /// keeps up to `max_lag` unsent bytes for each side, but not more than [`MAX_UNSENT`].
    pub(crate) fn new(client: Peer, app: Peer, mut frames: FrameTracker, max_lag: usize) -> Self {
        client.io.limit_unsent(max_lag);
        app.io.limit_unsent(max_lag);
        let byte_counts = ByteCounts::default();
        add(&byte_counts.0.from_client, client.early.len());
        add(&byte_counts.0.from_app, app.early.len());
        frames.follow(&app.early);
        Self {
            client: client.io,
            app: app.io,
            to_app: Direction::new(client.early, max_lag),
            to_client: Direction::new(app.early, max_lag),
            byte_counts,
            frames,
            to_app_first: true,
        }
    }

    /// Returns the numbers of bytes that this relay has forwarded.
    pub(crate) fn byte_counts(&self) -> ByteCounts {
        self.byte_counts.clone()
    }

    /// Forwards bytes until both sides have closed their sending direction, or until one connection
    /// breaks. If one connection breaks, the other connection is closed with a reset.
    pub(crate) async fn run(&mut self) -> Ended {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let Self {
            client,
            app,
            to_app,
            to_client,
            byte_counts,
            frames,
            to_app_first,
        } = self;
        let (mut up, mut down) = (Poll::Pending, Poll::Pending);
        // The runtime limits how much work a task can do in one poll. A direction that always has
        // bytes to forward can use up all the work that the runtime allows in one poll. So that
        // both directions can forward bytes, each poll begins with the direction that was second in
        // the previous poll. Each poll of the relay polls both directions, so that the task wakes
        // when one of the two directions can continue.
        for is_to_app in [*to_app_first, !*to_app_first] {
            if is_to_app {
                up = to_app.poll(cx, &mut **client, &mut **app, |data| {
                    add(&byte_counts.0.from_client, data.len());
                });
            } else {
                down = to_client.poll(cx, &mut **app, &mut **client, |data| {
                    add(&byte_counts.0.from_app, data.len());
                    frames.follow(data);
                });
            }
        }
        *to_app_first = !*to_app_first;
        let ended = match (up, down) {
            (Poll::Ready(Err(Broken::Sender)), _) | (_, Poll::Ready(Err(Broken::Receiver))) => {
                Ended::ClientBroke
            }
            (Poll::Ready(Err(Broken::Receiver)), _) | (_, Poll::Ready(Err(Broken::Sender))) => {
                Ended::AppBroke
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Ended::Closed,
            (Poll::Pending, _) | (_, Poll::Pending) => return Poll::Pending,
        };
        match ended {
            Ended::ClientBroke => self.app.reset_on_close(),
            Ended::AppBroke => self.client.reset_on_close(),
            Ended::Closed => {}
        }
        Poll::Ready(ended)
    }

    /// Closes both connections. If the last frame from the app is complete, the client gets a close
    /// frame before the gateway closes the client's connection.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes both connections immediately.
    pub(crate) async fn close(self, close: Close) {
        let frame = self.frames.close(close);
        let Self {
            mut client,
            app,
            mut to_client,
            ..
        } = self;
        drop(app);
        // If bytes for the client are pending, the client may have received only a part of a frame.
        // The gateway must not send a close frame in the middle of another frame.
        if let Some(frame) = frame.filter(|_frame| to_client.pending.is_empty())
            && to_client.stage == Stage::Open
        {
            to_client.keep(&frame);
            let written = poll_fn(|cx| to_client.poll_pending(cx, &mut *client)).await;
            if written.is_err() {
                return;
            }
        }
        // If `shutdown` fails, the client has already disconnected.
        client.shutdown().await.unwrap_or_default();
        // If a socket with unread input is closed, the kernel sends a reset. A reset can destroy
        // the close frame before the client has read the close frame.
        let mut input = [0; DISCARD];
        while let Ok(1..) = client.read(&mut input).await {}
    }
}

fn add(figure: &Cell<u64>, count: usize) {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    figure.set(figure.get().saturating_add(count));
}
