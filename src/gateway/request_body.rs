//! The body of a forwarded request. The gateway may buffer the first part of the body.
//!
//! The gateway first reads the body into a buffer, so that a slow client does not occupy a
//! connection to the app. The request gets a connection to the app when the body is complete, or
//! when the buffer is full.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::buffers::{Growth, Reservation};
use crate::server::{BodyFailure, BodyWatch, RequestBody};

/// The body of a request to an app.
#[derive(Debug)]
pub(super) struct ForwardedBody {
    /// The buffered first part of the body. `None` if nothing is buffered.
    begin: Option<Box<Begin>>,
    rest: RequestBody,
    /// True if the gateway has read enough of the body to send the request to the app.
    is_ready: bool,
}

/// The first part of a body, as a list of the pieces that have arrived.
#[derive(Debug)]
struct Begin {
    pieces: VecDeque<Bytes>,
    /// The number of bytes in `pieces`.
    bytes: u64,
    /// The trailers, if the complete body is buffered and the body has trailers.
    trailers: Option<HeaderMap>,
    reservation: Reservation,
}

impl ForwardedBody {
    /// Creates the body. If a request has no content, the gateway may send the request to the app
    /// at once.
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

    /// Reads the body until it is complete, or until the buffer is full. `limit` is the size of the
    /// buffer in bytes.
    ///
    /// # Errors
    ///
    /// Returns the error that ended the reading of the body.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the body is lost.
    pub(super) async fn buffered(
        mut self,
        limit: usize,
        reservation: Reservation,
    ) -> Result<Self, BodyFailure> {
        let mut begin = Box::new(Begin {
            pieces: VecDeque::new(),
            bytes: 0,
            trailers: None,
            reservation,
        });
        while !self.rest.is_end_stream() && begin.reservation.growth(limit) == Growth::Allowed {
            let frame = poll_fn(|cx| Pin::new(&mut self.rest).poll_frame(cx)).await;
            let Some(frame) = frame.transpose()? else {
                break;
            };
            match frame.into_data() {
                Ok(data) => begin.push(data),
                // The trailers are the last frame of a body.
                Err(other) => begin.trailers = other.into_trailers().ok(),
            }
        }
        self.begin = Some(begin);
        Ok(self.streaming())
    }
}

impl Begin {
    fn push(&mut self, data: Bytes) {
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(length);
        self.reservation.add(data.len());
        self.pieces.push_back(data);
    }

    fn pop(&mut self) -> Option<Frame<Bytes>> {
        let Some(data) = self.pieces.pop_front() else {
            return self.trailers.take().map(Frame::trailers);
        };
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_sub(length);
        self.reservation.remove(data.len());
        Some(Frame::data(data))
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.trailers.is_none()
    }
}

impl Body for ForwardedBody {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let this = self.get_mut();
        if let Some(begin) = &mut this.begin {
            if let Some(frame) = begin.pop() {
                return Poll::Ready(Some(Ok(frame)));
            }
            this.begin = None;
        }
        Pin::new(&mut this.rest).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.begin.as_ref().is_none_or(|begin| begin.is_empty()) && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let Some(begin) = &self.begin else {
            return self.rest.size_hint();
        };
        if begin.trailers.is_some() {
            // A request with `Content-Length` cannot have trailers over HTTP/1.1, so this function
            // must not return an exact length.
            let mut at_least = SizeHint::default();
            at_least.set_lower(begin.bytes);
            return at_least;
        }
        if self.rest.is_end_stream() {
            return SizeHint::with_exact(begin.bytes);
        }
        let rest = self.rest.size_hint();
        rest.exact().map_or_else(SizeHint::default, |rest| {
            SizeHint::with_exact(rest.saturating_add(begin.bytes))
        })
    }
}
