//! The body of a response that arrives on an HTTP/2 stream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};

use super::Slot;
use crate::origin::connection::AbortOnDrop;
use crate::origin::error::Error;
use crate::origin::trailers::DroppedTrailers;
use crate::origin::usage::OpenUsage;

/// The body of a response. Dropping the body before its end resets the stream.
pub(in crate::origin) struct Incoming {
    stream: RecvStream,
    /// The number of bytes that have not arrived yet, if the response states its length.
    missing: Option<u64>,
    phase: Phase,
    /// The task that sends the content of the request. The task is aborted when this response body
    /// is dropped.
    _upload: Option<AbortOnDrop>,
    // The stream must be dropped before the slot becomes free. Rust drops the last member of a
    // struct last, so `slot` is the last member.
    slot: Slot,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Phase {
    Data,
    Trailers,
    Ended,
}

impl Incoming {
    pub(super) fn new(
        stream: RecvStream,
        head: &HeaderMap,
        upload: Option<AbortOnDrop>,
        slot: Slot,
    ) -> Self {
        let length = head.get(CONTENT_LENGTH);
        let missing = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Self {
            stream,
            missing,
            phase: Phase::Data,
            _upload: upload,
            slot,
        }
    }

    /// Returns the `DroppedTrailers` of the origin, which logs a warning when the gateway drops
    /// trailers.
    pub(in crate::origin) fn dropped_trailers(&self) -> &DroppedTrailers {
        self.slot.connections.connector.dropped_trailers()
    }

    /// Returns the `OpenUsage` of the HTTP/2 stream, which records the exchange.
    pub(in crate::origin) fn usage(&self) -> &OpenUsage {
        &self.slot.usage
    }

    fn received(&mut self, data: &Bytes) -> Result<(), Error> {
        self.slot.connection.record_receipt();
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.missing = self.missing.map(|missing| missing.saturating_sub(length));
        // When the client asks for a part of the body, the client has already accepted the earlier
        // parts. The gateway now allows the origin to send as many further bytes as `data`
        // contains.
        let flow = self.stream.flow_control();
        flow.release_capacity(data.len()).map_err(Error::Http2)
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        // An origin that does not want the rest of a request may reset the stream after its
        // complete response (RFC 9113 section 8.1). The library h2 reports a reset after a complete
        // response only to the task that sends the request body. An error from `poll_data` always
        // means that the response is incomplete (no `END_STREAM` flag).
        if this.phase == Phase::Data {
            match ready!(this.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    let received = this.received(&data);
                    return Poll::Ready(Some(received.map(|()| Frame::data(data))));
                }
                Some(Err(error)) => {
                    this.phase = Phase::Ended;
                    return Poll::Ready(Some(Err(Error::Http2(error))));
                }
                None => this.phase = Phase::Trailers,
            }
        }
        if this.phase == Phase::Ended {
            return Poll::Ready(None);
        }
        let trailers = ready!(this.stream.poll_trailers(cx));
        this.phase = Phase::Ended;
        this.slot.connection.record_receipt();
        Poll::Ready(match trailers {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(Error::Http2(error))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.phase == Phase::Ended || self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            return SizeHint::with_exact(0);
        }
        self.missing
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
