//! Reads the answer of an app into a buffer if the client is slow.
//!
//! Usually the client's connection reads an answer directly from the app's connection. The answer
//! to a slow client would occupy the app's connection for a long time, so a task reads the answer
//! into a buffer. When the buffer contains the whole rest of the answer, other requests can use the
//! app's connection.

use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use crate::gateway::body::{BodyError, UpstreamBody};
use crate::gateway::body_buffer::BodyBuffer;
use crate::gateway::buffers::Growth;
use crate::origin;
use crate::upstream::EvictionWatch;

/// The result of a poll for the next frame.
type NextFrame = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// The place from which the gateway reads the rest of an answer.
pub(super) enum AnswerSource {
    /// The task of the client's connection reads the answer directly from the app's connection.
    Direct(UpstreamBody),
    /// A task reads the answer into a buffer.
    Buffered(ReadAhead),
    /// The answer has ended, or the client's connection has stopped sending the answer.
    Released,
}

/// A buffer for the app's answer, and the part of the answer that is not in the buffer yet.
pub(super) struct ReadAhead {
    buffer: Box<BodyBuffer>,
    /// The trailers of the answer, which follow the bytes in the buffer.
    trailers: Option<HeaderMap>,
    /// The part of the answer that is not in the buffer. `None` after the app's answer has ended.
    rest: Option<UpstreamBody>,
    /// The failure that interrupted the app's answer. The client first gets the bytes in the
    /// buffer, and then the failure.
    failure: Option<origin::Error>,
    /// The waker of the task that fills the buffer.
    filler: Option<Waker>,
}

impl AnswerSource {
    /// Yields the next frame.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> NextFrame {
        match self {
            Self::Direct(body) => body.poll_frame(cx).map_err(BodyError::Upstream),
            Self::Buffered(ahead) => ahead.poll_frame(cx),
            Self::Released => Poll::Ready(None),
        }
    }

    /// Returns an [`EvictionWatch`]. The `EvictionWatch` reports when the gateway ends the answer
    /// to free the connection for a waiting request.
    pub(super) fn eviction(&self) -> Option<EvictionWatch> {
        match self {
            Self::Direct(body) => body.eviction(),
            Self::Buffered(ahead) => ahead.rest.as_ref()?.eviction(),
            Self::Released => None,
        }
    }

    /// Returns true if the answer has no further frames.
    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Direct(body) => body.is_end_stream(),
            Self::Buffered(ahead) => ahead.is_end_stream(),
            Self::Released => true,
        }
    }
}

impl ReadAhead {
    /// Reads `rest` into the empty `buffer`.
    pub(super) fn new(rest: UpstreamBody, buffer: BodyBuffer) -> Self {
        Self {
            buffer: Box::new(buffer),
            trailers: None,
            rest: Some(rest),
            failure: None,
            filler: None,
        }
    }

    /// Fills the buffer. Returns `Ready` when the app's answer has ended.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.filler = Some(cx.waker().clone());
        while let Some(rest) = &mut self.rest {
            match ready!(self.buffer.poll_growth(cx)) {
                Growth::Allowed => {}
                // The task is woken when the client's connection has taken a frame of the answer.
                Growth::AtLimit | Growth::NoShare => return Poll::Pending,
            }
            match ready!(rest.poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if rest.is_end_stream() {
                        self.rest = None;
                    }
                    match frame.into_data() {
                        Ok(data) => self.buffer.push(data),
                        Err(other) => self.trailers = other.into_trailers().ok(),
                    }
                }
                Some(Err(failure)) => {
                    self.failure = Some(failure);
                    self.rest = None;
                }
                None => self.rest = None,
            }
        }
        Poll::Ready(())
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> NextFrame {
        if let Some(next) = ready!(self.buffer.poll_next(cx)) {
            self.wake_filler();
            return Poll::Ready(Some(next.map(Frame::data).map_err(BodyError::File)));
        }
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        match &mut self.rest {
            None => Poll::Ready(self.failure.take().map(BodyError::Upstream).map(Err)),
            // The buffer is empty, so the client's connection reads the next frame itself.
            Some(rest) => {
                let frame = ready!(rest.poll_frame(cx));
                self.wake_filler();
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Upstream)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_empty =
            self.buffer.bytes() == 0 && self.trailers.is_none() && self.failure.is_none();
        is_empty && self.rest.as_ref().is_none_or(UpstreamBody::is_end_stream)
    }

    fn wake_filler(&mut self) {
        if let Some(filler) = self.filler.take() {
            filler.wake();
        }
    }
}

/// The task that fills the buffer ends when the buffer is dropped.
impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.wake_filler();
    }
}
