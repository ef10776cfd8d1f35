//! The response body from the origin.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::error::Error;
use super::idle::BorrowedConnection;
use super::progress::UploadProgress;
use super::received::Received;
use super::trailers::DroppedTrailers;
use super::usage::{EvictionWatch, OpenUsage};
use crate::fields;

/// A response body from the origin.
///
/// The body ends without an error only if the origin has sent the complete body. After the complete
/// body, the connection returns to the pool. If a body is dropped before its end, its connection is
/// closed.
pub(crate) struct ResponseBody {
    incoming: Received,
    /// The time when the head of the response arrived. `None` after the first poll of the body. Nearly
    /// always, the gateway polls the body for the first time immediately after the arrival of the
    /// head, so the first poll does not read the clock.
    arrived: Option<Instant>,
    borrowed: Option<BorrowedConnection>,
    progress: Option<Rc<UploadProgress>>,
    stall: StallTimer,
    broken: bool,
    forwards_trailers: bool,
}

impl ResponseBody {
    /// Creates a body. `stall` is the longest allowed pause between two parts of the body. `None`
    /// means no limit. `borrowed` is the connection that returns to the pool at the end of the
    /// body. If the body comes from an HTTP/2 stream, the argument `borrowed` is `None`. The head of
    /// the response has arrived at the time `now`.
    pub(super) fn new(
        (incoming, now): (Received, Instant),
        borrowed: Option<BorrowedConnection>,
        progress: Option<Rc<UploadProgress>>,
        stall: Option<Duration>,
    ) -> Self {
        let mut body = Self {
            incoming,
            arrived: Some(now),
            borrowed,
            progress,
            stall: StallTimer::new(stall),
            broken: false,
            forwards_trailers: false,
        };
        body.release_at_end(Some(now));
        if let Some(usage) = body.usage() {
            usage.answer();
        }
        body
    }

    /// Records that the answer is a stream. The client of a stream can be silent for any length of
    /// time.
    pub(crate) fn declare_stream(&self) {
        if let Some(usage) = self.usage() {
            usage.declare_stream();
        }
    }

    /// Returns a value that reports when the gateway takes the connection away from the exchange,
    /// because another request waits. Returns `None` if the exchange does not need its connection
    /// any more.
    pub(crate) fn eviction(&self) -> Option<EvictionWatch> {
        self.usage().map(OpenUsage::watch)
    }

    /// Returns the `OpenUsage` of the connection, which records the current exchange. Returns
    /// `None` after the connection has returned to the pool.
    fn usage(&self) -> Option<&OpenUsage> {
        match (&self.incoming, &self.borrowed) {
            (Received::Http1(_), borrowed) => borrowed.as_ref().map(BorrowedConnection::usage),
            (Received::Http2(body), _) => Some(body.usage()),
        }
    }

    /// The time when the head of the response arrived, if the body has not been polled yet.
    pub(crate) fn arrived(&self) -> Option<Instant> {
        self.arrived
    }

    /// Makes the body yield the trailers that [`fields::outbound_trailers`] allows. By default, the
    /// body drops all trailers. [`DroppedTrailers`] logs a warning for the first dropped trailers
    /// of an origin.
    pub(crate) fn forward_trailers(&mut self) {
        self.forwards_trailers = true;
    }

    /// Handles the trailers at the end of the body, and returns the trailers that the client gets.
    fn end_with(&mut self, mut trailers: HeaderMap) -> Option<HeaderMap> {
        fields::outbound_trailers(&mut trailers);
        if !self.forwards_trailers && !trailers.is_empty() {
            let log = match (&self.incoming, &self.borrowed) {
                (Received::Http1(_), Some(borrowed)) => Some(borrowed.dropped_trailers()),
                (Received::Http1(_), None) => None,
                (Received::Http2(body), _) => Some(body.dropped_trailers()),
            };
            log.map(DroppedTrailers::of_response).unwrap_or_default();
        }
        self.release(None);
        (self.forwards_trailers && !trailers.is_empty()).then_some(trailers)
    }

    /// Gives the connection back if the body is complete. `now` is the current time, if it is known.
    fn release_at_end(&mut self, now: Option<Instant>) {
        if self.incoming.is_end_stream() {
            self.release(now);
        }
    }

    fn release(&mut self, now: Option<Instant>) {
        if let Some(borrowed) = self.borrowed.take() {
            borrowed.give_back(now);
        }
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        // Dropping `borrowed` closes its connection.
        self.borrowed = None;
        self.broken = true;
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if this.broken {
            return Poll::Ready(None);
        }
        let now = this.arrived.take();
        if let Some(usage) = this.usage() {
            usage.next_requested();
        }
        let incoming = Pin::new(&mut this.incoming);
        let polled = match &this.borrowed {
            Some(borrowed) => borrowed.take_part(|| incoming.poll_frame(cx)),
            None => incoming.poll_frame(cx),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                // A frame has arrived, so the timer that limits the pause between two frames is
                // switched off.
                this.stall.armed = false;
                match frame.into_data() {
                    Ok(data) => {
                        this.release_at_end(now);
                        if let Some(usage) = this.usage() {
                            usage.part_handed_over(data.len());
                        }
                        Poll::Ready(Some(Ok(Frame::data(data))))
                    }
                    Err(other) => {
                        let trailers = other.into_trailers().unwrap_or_default();
                        let forwarded = this.end_with(trailers);
                        Poll::Ready(forwarded.map(|fields| Ok(Frame::trailers(fields))))
                    }
                }
            }
            Poll::Ready(Some(Err(error))) => {
                let eviction = this.usage().and_then(|usage| usage.eviction());
                let error = match eviction {
                    Some(eviction) => Error::Evicted(eviction),
                    None => UploadProgress::explain(this.progress.as_ref(), error),
                };
                this.fail(error)
            }
            Poll::Ready(None) => {
                this.release(None);
                Poll::Ready(None)
            }
            Poll::Pending => {
                let progress = this.progress.as_deref();
                match this.stall.poll(progress, cx) {
                    Poll::Ready(()) => this.fail(Error::BodyTimeout),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        !self.broken && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// The deadline for the next part of a body. The timer is created when the gateway first has to
/// wait for data from the origin.
struct StallTimer {
    limit: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl StallTimer {
    fn new(limit: Option<Duration>) -> Self {
        Self {
            limit,
            timer: None,
            armed: false,
        }
    }

    /// Returns `Ready` when the origin has sent no data for too long. Call this function only when
    /// all data from the origin has been read.
    fn poll(&mut self, progress: Option<&UploadProgress>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.limit else {
            return Poll::Pending;
        };
        if !self.armed {
            self.timer = Some(Box::pin(sleep(limit)));
            self.armed = true;
        }
        while let Some(timer) = &mut self.timer {
            ready!(timer.as_mut().poll(cx));
            // The time limit counts from the start of the last wait for the origin. If this wait
            // began after the timer started, the timer runs again.
            let due = progress.and_then(|progress| progress.waiting_since().checked_add(limit));
            let Some(due) = due.filter(|due| *due > timer.deadline()) else {
                return Poll::Ready(());
            };
            timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}
