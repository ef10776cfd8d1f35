//! A request in flight, and its HTTP/2 stream.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::control::{AnswerControl, Informed};
use super::deadline::ConnectionState;

/// One stream of an HTTP/2 connection.
#[derive(Debug, Default)]
pub(super) struct Stream {
    task: OnceCell<AbortHandle>,
    /// The time when the connection received the latest chunk of the response from the handler.
    /// `None` if the client has accepted the latest chunk.
    blocked: Cell<Option<Instant>>,
    /// Whether the stream was ended because its client did not accept the response in time.
    timed_out: Cell<bool>,
    informed: Informed,
}

impl Stream {
    /// Stores the task of the stream.
    pub(super) fn spawned(&self, task: AbortHandle) {
        // The cell is always empty here, because each stream is spawned only one time.
        self.task.set(task).unwrap_or_default();
    }

    /// The time when the connection received the latest chunk of the response from the handler.
    /// `None` if the client has accepted the latest chunk.
    pub(super) fn blocked_since(&self) -> Option<Instant> {
        self.blocked.get()
    }

    /// The answer that is being sent on the stream.
    pub(super) fn informed(&self) -> &Informed {
        &self.informed
    }

    /// Ends the stream, because the client does not accept the response in time.
    pub(super) fn time_out(&self) {
        self.timed_out.set(true);
        self.abort();
    }

    /// Ends the stream. The runtime drops the task of the stream soon afterwards, and the client
    /// gets a reset of the stream.
    pub(super) fn abort(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }

    pub(super) fn is_timed_out(&self) -> bool {
        self.timed_out.get()
    }
}

/// A request in flight. The handler's future owns this guard first, and then the response body.
#[derive(Debug)]
pub(super) struct InFlight {
    state: Rc<ConnectionState>,
    /// `None` over HTTP/1.1.
    stream: Option<Rc<Stream>>,
}

impl InFlight {
    pub(super) fn new(state: &Rc<ConnectionState>, stream: Option<Rc<Stream>>) -> Self {
        Self {
            state: Rc::clone(state),
            stream,
        }
    }

    /// Records that the connection has received a chunk of the response from the handler. The
    /// connection asks for the next chunk when the client has accepted this chunk. Over HTTP/1.1,
    /// the function does nothing, because the socket shows whether the client accepts bytes.
    pub(super) fn chunk_handed_over(&self) {
        if let Some(stream) = &self.stream {
            stream.blocked.set(Some(self.state.coarse_now()));
        }
    }

    /// Returns the [`AnswerControl`] by which the handler can end the answer to this request.
    pub(super) fn control(&self) -> AnswerControl {
        AnswerControl::new(&self.state, self.stream.as_ref())
    }

    /// Records that the connection asks for the next chunk of the response.
    pub(super) fn chunk_requested(&self) {
        if let Some(stream) = &self.stream {
            stream.blocked.set(None);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state.end(self.stream.as_ref());
    }
}
