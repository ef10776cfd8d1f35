//! The body of a forwarded request. The gateway may buffer the first part of the body.
//!
//! The gateway first reads the body into a buffer, so that a slow client does not occupy a
//! connection to the app. The request gets a connection to the app when the body is complete, or
//! when the buffer is full.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

use super::Error;
use super::body_buffer::BodyBuffer;
use super::buffers::Growth;
use crate::server::{BodyFailure, BodyWatch, RequestBody};

/// The body of a request to an app.
#[derive(Debug)]
pub(super) struct ForwardedBody {
    /// The buffered first part of the body. The value is `None` if the gateway has buffered no part
    /// of the body.
    begin: Option<Box<Begin>>,
    rest: RequestBody,
    /// True if the gateway has read enough of the body to send the request to the app.
    is_ready: bool,
}

/// The first part of a body.
#[derive(Debug)]
struct Begin {
    buffer: BodyBuffer,
    /// The trailers, if the complete body is buffered and the body has trailers.
    trailers: Option<HeaderMap>,
}

/// States how much of a request body must be in the buffer before the gateway forwards the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Needed {
    /// The beginning of the body: as many bytes as the buffer can store.
    Begin,
    /// The whole body.
    Whole,
}

/// The reason why a body could not be buffered.
#[derive(Debug)]
pub(super) enum NotBuffered {
    /// The body has failed.
    Failed(BodyFailure),
    /// The file with the first part of the body cannot be read.
    File(io::Error),
    /// The whole body is needed, but the buffer is full.
    Full,
}

/// The reason why a body ended before it was completely forwarded.
#[derive(Debug, thiserror::Error)]
pub(super) enum Interrupted {
    /// The body has failed. Responsible: the client.
    #[error("the client's request body has failed")]
    Client(#[source] BodyFailure),
    /// The file with the buffered body cannot be read. Responsible: the gateway.
    #[error("the file with the request body cannot be read")]
    File(#[source] io::Error),
}

impl From<NotBuffered> for Error {
    fn from(error: NotBuffered) -> Self {
        match error {
            NotBuffered::Failed(failure) => Self::RequestBody(failure),
            NotBuffered::File(error) => Self::FileLost(error),
            NotBuffered::Full => Self::BuffersFull,
        }
    }
}

impl From<Interrupted> for Error {
    fn from(error: Interrupted) -> Self {
        match error {
            Interrupted::File(error) => Self::FileLost(error),
            Interrupted::Client(failure) => Self::RequestBody(failure),
        }
    }
}

impl ForwardedBody {
    /// Creates the body. The gateway can send a request without content to the app immediately.
    pub(super) fn new(body: RequestBody) -> Self {
        Self {
            begin: None,
            is_ready: body.is_end_stream(),
            rest: body,
        }
    }

    /// True if the gateway has read enough of the body to send the request to the app.
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Returns the number of pieces of the body, if the gateway has the complete body in memory.
    pub(super) fn complete_pieces(&self) -> Option<usize> {
        match &self.begin {
            _ if !self.rest.is_end_stream() => None,
            None => Some(0),
            Some(begin) => begin.buffer.pieces_in_memory(),
        }
    }

    /// The part of the body that is not buffered.
    pub(super) fn rest_mut(&mut self) -> &mut RequestBody {
        &mut self.rest
    }

    /// Returns a handle that reports why the gateway could not read the complete body.
    pub(super) fn watch(&self) -> BodyWatch {
        self.rest.watch()
    }

    /// Permits the gateway to forward the body while the body arrives.
    pub(super) fn streaming(mut self) -> Self {
        self.is_ready = true;
        self
    }

    /// The number of bytes of the body that are buffered.
    pub(super) fn buffered(&self) -> u64 {
        self.begin.as_ref().map_or(0, |begin| begin.buffer.bytes())
    }

    /// Reads the first bytes of the body, and returns true if the body begins with `prefix`. No byte
    /// of the body is lost. `buffer` stores the bytes, and has no file.
    ///
    /// # Errors
    ///
    /// The failure of the body.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the part of the body that the future has read is lost.
    pub(super) async fn begins_with(
        &mut self,
        prefix: &[u8],
        buffer: BodyBuffer,
    ) -> Result<bool, BodyFailure> {
        let begin = self
            .begin
            .get_or_insert_with(|| Box::new(Begin::new(buffer)));
        // If a part of the body can be in a file, an earlier call has already read the first bytes.
        if begin.buffer.pieces_in_memory().is_none() {
            return Ok(false);
        }
        loop {
            if let Some(known) = begin.buffer.begins_with(prefix) {
                return Ok(known);
            }
            if self.rest.is_end_stream() {
                return Ok(false);
            }
            let frame = poll_fn(|cx| Pin::new(&mut self.rest).poll_frame(cx)).await;
            let Some(frame) = frame.transpose()? else {
                return Ok(false);
            };
            begin.push(frame);
        }
    }

    /// Returns the whole body, after the whole body was buffered. The body is empty afterwards.
    ///
    /// # Errors
    ///
    /// [`Interrupted`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the body is lost.
    pub(super) async fn contents(&mut self) -> Result<Bytes, Interrupted> {
        Ok(self.collect().await?.to_bytes())
    }

    /// Replaces the whole body, after the whole body was read. `buffer` stores the new body.
    pub(super) fn replace(&mut self, mut buffer: BodyBuffer, body: Bytes) {
        if !body.is_empty() {
            buffer.push(body);
        }
        self.begin = Some(Box::new(Begin::new(buffer)));
        self.is_ready = true;
    }

    /// Reads the body until it is complete, or until the buffer is full. Then the body is ready.
    ///
    /// # Errors
    ///
    /// [`NotBuffered`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the part of the body that the future has read is lost.
    pub(super) async fn buffer(
        &mut self,
        buffer: BodyBuffer,
        needed: Needed,
    ) -> Result<(), NotBuffered> {
        let mut begin = Box::new(Begin::new(buffer));
        if let Some(mut before) = self.begin.take() {
            // A part of the earlier buffer can be in a file.
            while let Some(piece) = poll_fn(|cx| before.buffer.poll_next(cx)).await {
                begin.buffer.push(piece.map_err(NotBuffered::File)?);
            }
            begin.trailers = before.trailers;
        }
        while !self.rest.is_end_stream() {
            match (poll_fn(|cx| begin.buffer.poll_growth(cx)).await, needed) {
                (Growth::Allowed, _) => {}
                (Growth::AtLimit | Growth::NoShare, Needed::Begin) => break,
                (Growth::AtLimit | Growth::NoShare, Needed::Whole) => {
                    return Err(NotBuffered::Full);
                }
            }
            let frame = poll_fn(|cx| Pin::new(&mut self.rest).poll_frame(cx)).await;
            let Some(frame) = frame.transpose().map_err(NotBuffered::Failed)? else {
                break;
            };
            begin.push(frame);
        }
        self.begin = Some(begin);
        self.is_ready = true;
        Ok(())
    }
}

impl Begin {
    fn new(buffer: BodyBuffer) -> Self {
        Self {
            buffer,
            trailers: None,
        }
    }

    fn push(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) => self.buffer.push(data),
            // The trailers are the last frame of a body.
            Err(other) => self.trailers = other.into_trailers().ok(),
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        match ready!(self.buffer.poll_next(cx)) {
            Some(Ok(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Some(Err(error)) => Poll::Ready(Some(Err(Interrupted::File(error)))),
            None => Poll::Ready(
                self.trailers
                    .take()
                    .map(|fields| Ok(Frame::trailers(fields))),
            ),
        }
    }

    fn is_empty(&self) -> bool {
        self.buffer.bytes() == 0 && self.trailers.is_none()
    }
}

impl Body for ForwardedBody {
    type Data = Bytes;
    type Error = Interrupted;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        let this = self.get_mut();
        if let Some(begin) = &mut this.begin {
            if let Some(frame) = ready!(begin.poll_frame(cx)) {
                return Poll::Ready(Some(frame));
            }
            this.begin = None;
        }
        let rest = Pin::new(&mut this.rest).poll_frame(cx);
        rest.map_err(Interrupted::Client)
    }

    fn is_end_stream(&self) -> bool {
        self.begin.as_ref().is_none_or(|begin| begin.is_empty()) && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let Some(begin) = &self.begin else {
            return self.rest.size_hint();
        };
        let buffered = begin.buffer.bytes();
        if begin.trailers.is_some() {
            // A request with `Content-Length` cannot have trailers over HTTP/1.1, so this function
            // must not return an exact length.
            let mut at_least = SizeHint::default();
            at_least.set_lower(buffered);
            return at_least;
        }
        if self.rest.is_end_stream() {
            return SizeHint::with_exact(buffered);
        }
        let rest = self.rest.size_hint();
        rest.exact().map_or_else(SizeHint::default, |rest| {
            SizeHint::with_exact(rest.saturating_add(buffered))
        })
    }
}
