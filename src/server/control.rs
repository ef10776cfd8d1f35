//! Types with which a handler observes or ends its answer while the server sends the answer.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::{Rc, Weak};

use tokio::sync::Notify;

use super::deadline::ConnectionState;
use super::reading::ReadFailure;
use super::stream::Stream;

/// Tells the streams on one connection that the drain time of the server is almost over.
#[derive(Debug, Default)]
pub(super) struct StreamStop {
    has_begun: Cell<bool>,
    begun: Notify,
}

impl StreamStop {
    /// Tells the streams to end.
    pub(super) fn begin(&self) {
        self.has_begun.set(true);
        self.begun.notify_waiters();
    }

    /// Whether [`StreamStop::begin`] was called.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.get()
    }

    /// Waits for [`StreamStop::begin`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn begun(&self) {
        // `notified` is created before `has_begun` is read, so that this function misses no call of
        // `begin`.
        let notified = self.begun.notified();
        if !self.has_begun.get() {
            notified.await;
        }
    }
}

/// Reports when a tunnel has to end.
#[derive(Clone, Debug)]
pub(crate) struct TunnelStop(pub(super) Rc<ConnectionState>);

impl TunnelStop {
    /// Waits until the tunnel has to end. After this function has returned, the tunnel still has a
    /// short time to send its last bytes.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn requested(&self) {
        self.0.stop.begun().await;
    }

    /// Returns the reason, if the gateway has ended the connection because the client took the
    /// bytes too slowly.
    pub(crate) fn read_failure(&self) -> Option<ReadFailure> {
        self.0.failure()
    }
}

/// A `SlowReader` is an answer that must know whether its client reads slowly. The server informs
/// the `SlowReader` when the client reads the answer slowly.
pub(crate) trait SlowReader {
    /// The server calls this function one time, when a sweep finds that the client does not accept
    /// the bytes of the answer immediately.
    fn client_is_slow(self: Rc<Self>);
}

/// Stores the [`SlowReader`] that the server informs when the client reads the answer slowly.
#[derive(Default)]
pub(super) struct Informed(RefCell<Option<Weak<dyn SlowReader>>>);

impl Informed {
    /// Removes and returns the stored answer. Returns `None` if no answer is stored, or if the
    /// answer was dropped.
    pub(super) fn take(&self) -> Option<Rc<dyn SlowReader>> {
        self.0.take()?.upgrade()
    }
}

impl fmt::Debug for Informed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Informed").finish_non_exhaustive()
    }
}

/// Controls an answer that is being sent to a client.
#[derive(Debug)]
pub(crate) struct AnswerControl {
    state: Rc<ConnectionState>,
    /// The HTTP/2 stream on which the answer is sent. `None` over HTTP/1.1.
    stream: Option<Rc<Stream>>,
}

impl AnswerControl {
    pub(super) fn new(state: &Rc<ConnectionState>, stream: Option<&Rc<Stream>>) -> Self {
        Self {
            state: Rc::clone(state),
            stream: stream.map(Rc::clone),
        }
    }

    /// Stores `reader`. The server informs `reader` when the client reads the answer slowly.
    pub(crate) fn when_slow(&self, reader: Weak<dyn SlowReader>) {
        let informed = match &self.stream {
            Some(stream) => stream.informed(),
            None => self.state.informed(),
        };
        informed.0.replace(Some(reader));
    }

    /// Ends the answer, even if the client does not read the answer. Over HTTP/1.1, this function
    /// closes the connection before the end of the answer. Over HTTP/2, this function resets the
    /// HTTP/2 stream.
    pub(crate) fn abort(&self) {
        match &self.stream {
            Some(stream) => stream.abort(),
            None => self.state.abort(),
        }
    }

    /// Whether the server is stopping and its drain time is almost over.
    pub(crate) fn is_draining(&self) -> bool {
        self.state.stop.has_begun()
    }

    /// The reason why the answer was ended, if the client did not take bytes fast enough.
    pub(crate) fn read_failure(&self) -> Option<ReadFailure> {
        let stream = self.stream.as_ref();
        let of_stream = stream.and_then(|stream| stream.failure());
        self.state.failure().or(of_stream)
    }
}
