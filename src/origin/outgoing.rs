//! The request body, in the form that is sent to an origin.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Request;
use http::header::{CONTENT_LENGTH, EXPECT, TRAILER};
use http::request::Parts;
use http_body::{Body, Frame, SizeHint};

use super::connector::Connector;
use super::expect::ContinueGate;
use super::progress::{ClientPauses, StreamingCall, UploadProgress};
use super::trailers::DroppedTrailers;
use crate::clock::Clock;
use crate::upload::Upload;

/// The error of a request body that ended too early. [`UploadProgress`] contains the cause.
#[derive(Debug, thiserror::Error)]
#[error("the request body broke off")]
pub(super) struct Interrupted;

/// A request body that records in [`UploadProgress`] whether the gateway waits for the client or
/// for the origin. A body without content allocates no memory. The content is in a box, because a
/// request is moved several times and has to be small.
pub(super) struct Outgoing(Option<Box<Content>>);

struct Content {
    upload: Upload,
    progress: Rc<UploadProgress>,
    /// The gate that delays the content of a request with `Expect`. The value is `None` if the
    /// request has no `Expect`, or if the content is not delayed any more.
    gate: Option<ContinueGate>,
    /// Whether the gateway sends the trailers of the body to the origin.
    sends_trailers: bool,
    dropped_trailers: Arc<DroppedTrailers>,
}

impl Outgoing {
    /// Converts the body `upload` of a request. The argument `parts` contains the head of the
    /// request. The request is sent over HTTP/1.1.
    pub(super) fn http1(
        parts: &mut Parts,
        upload: Upload,
        clock: &Clock,
        connector: &Connector,
    ) -> Self {
        if upload.is_end_stream() {
            return Self::empty();
        }
        // Only a chunked body has trailers, and hyper sends only trailers that the `Trailer` field
        // announces.
        let sends_trailers =
            parts.headers.contains_key(TRAILER) && !parts.headers.contains_key(CONTENT_LENGTH);
        if !sends_trailers {
            parts.headers.remove(TRAILER);
        }
        Self(Some(Box::new(Content {
            upload,
            progress: UploadProgress::new(clock, ClientPauses::Ignored),
            gate: ContinueGate::of(parts, clock),
            sends_trailers,
            dropped_trailers: Arc::clone(connector.dropped_trailers()),
        })))
    }

    /// Converts a request that is sent on an HTTP/2 stream.
    pub(super) fn http2(
        mut parts: Parts,
        upload: Upload,
        clock: &Clock,
        connector: &Connector,
    ) -> Request<Self> {
        // The gateway does not wait for a 100 response of an HTTP/2 origin. The listener sends
        // `100 Continue` to the client as soon as the origin accepts content.
        parts.headers.remove(EXPECT);
        let pauses = match parts.extensions.get::<StreamingCall>() {
            Some(StreamingCall) => ClientPauses::Counted,
            None => ClientPauses::Ignored,
        };
        // All extensions are removed, because some extensions change how h2 writes a request.
        parts.extensions.clear();
        if upload.is_end_stream() {
            return Request::from_parts(parts, Self::empty());
        }
        let content = Content {
            upload,
            progress: UploadProgress::new(clock, pauses),
            gate: None,
            sends_trailers: true,
            dropped_trailers: Arc::clone(connector.dropped_trailers()),
        };
        Request::from_parts(parts, Self(Some(Box::new(content))))
    }

    pub(super) fn empty() -> Self {
        Self(None)
    }

    /// Returns the progress of the body, or `None` if the body has no content.
    pub(super) fn progress(&self) -> Option<Rc<UploadProgress>> {
        let content = self.0.as_ref()?;
        Some(Rc::clone(&content.progress))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Interrupted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        loop {
            let Some(content) = &mut self.0 else {
                return Poll::Ready(None);
            };
            let Content {
                upload,
                progress,
                gate,
                sends_trailers,
                dropped_trailers,
            } = &mut **content;
            if let Some(closed) = gate {
                ready!(closed.poll_open(cx));
                *gate = None;
            }
            let Poll::Ready(frame) = Pin::new(upload).poll_frame(cx) else {
                progress.wait_for_client();
                return Poll::Pending;
            };
            // The client has sent bytes, and the gateway now waits until the origin accepts these
            // bytes.
            let data = match &frame {
                Some(Ok(frame)) => frame.data_ref(),
                Some(Err(_)) | None => None,
            };
            progress.wait_for_origin(data.map_or(0, Bytes::len));
            match frame {
                Some(Ok(frame)) if frame.is_data() || *sends_trailers => {
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(Ok(_trailers)) => dropped_trailers.of_request(),
                Some(Err(cause)) => {
                    progress.fail(cause);
                    return Poll::Ready(Some(Err(Interrupted)));
                }
                None => {
                    self.0 = None;
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|content| content.upload.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(
            || SizeHint::with_exact(0),
            |content| content.upload.size_hint(),
        )
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        // The gateway reads no more bytes of this body from the client, so the gateway can only
        // wait for the origin.
        self.progress.wait_for_origin(0);
    }
}
