//! Types through which a handler observes its answer, or ends it, while the server sends it.

use std::rc::Rc;

use super::deadline::{ConnectionState, Stream};

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
        self.0.streams_stopped().await;
    }

    /// Whether the connection was ended because the client did not accept bytes in time.
    pub(crate) fn client_stalled(&self) -> bool {
        self.0.is_timed_out()
    }
}

/// Controls an answer that is being sent to a client.
#[derive(Debug)]
pub(crate) struct AnswerControl {
    state: Rc<ConnectionState>,
    /// The stream of the answer. `None` over HTTP/1.1.
    stream: Option<Rc<Stream>>,
}

impl AnswerControl {
    pub(super) fn new(state: &Rc<ConnectionState>, stream: Option<&Rc<Stream>>) -> Self {
        Self {
            state: Rc::clone(state),
            stream: stream.map(Rc::clone),
        }
    }

    /// Ends the answer, even if the client does not read. Over HTTP/1.1, this function closes the
    /// connection before the end of the answer. Over HTTP/2, the stream is reset.
    pub(crate) fn abort(&self) {
        match &self.stream {
            Some(stream) => stream.abort(),
            None => self.state.abort(),
        }
    }

    /// Whether the drain is almost over.
    pub(crate) fn is_draining(&self) -> bool {
        self.state.has_stopped_streams()
    }

    /// Whether the answer was ended because the client did not accept bytes in time.
    pub(crate) fn client_stalled(&self) -> bool {
        let stream = self.stream.as_ref();
        self.state.is_timed_out() || stream.is_some_and(|stream| stream.is_timed_out())
    }
}
