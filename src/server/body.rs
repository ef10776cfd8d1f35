//! Request and response bodies. A request body has a minimum rate and a maximum size. A request is
//! in progress until its response body is dropped.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::deadline::ConnectionState;
use super::frames::remove_mark;
use super::rate_meter::RateMeter;
use super::refusal::MalformedBody;
use super::stream::InFlight;

/// The reason why a request body ended too early. Responsible: the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BodyFailure {
    /// The client disconnected, or the framing of the body is invalid. After `BodyFailure::Broken`,
    /// the gateway cannot send an answer on the connection.
    #[error("the request body broke off")]
    Broken,
    /// The body is longer than [`RequestBody::limit`] allows. The answer is 413.
    #[error("the request body is too large")]
    TooLarge,
    /// The client sends the body more slowly than the lowest allowed rate. The answer is 408.
    #[error("the request body is sent too slowly")]
    TooSlow,
}

/// Reports why a request body failed, and how much of the body has arrived. The HTTP client that
/// forwards the body reports only that sending has failed. The `BodyWatch` contains the reason why
/// the request body failed.
#[derive(Clone, Debug, Default)]
pub(crate) struct BodyWatch(Option<Rc<Observed>>);

/// The values that the `BodyWatch` of a body reports.
#[derive(Debug, Default)]
struct Observed {
    failure: Cell<Option<BodyFailure>>,
    bytes: Cell<u64>,
    rest: RefCell<Rest>,
}

/// The rest of a body that nobody reads any more.
#[derive(Debug, Default)]
enum Rest {
    /// The request has no answer yet, and the body is still read.
    #[default]
    Read,
    /// The request has no answer yet, and nobody reads the body any more.
    Unread(Incoming),
    /// The request has an answer.
    Answered(Afterwards),
}

/// What happens after the answer to the rest of a body that nobody reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Afterwards {
    /// The rest is refused: an HTTP/1.1 connection closes, and an HTTP/2 stream is reset.
    Refused,
    /// The rest is read and discarded for a limited time.
    Discarded,
}

impl BodyWatch {
    /// Returns the failure, if the body has failed.
    pub(crate) fn failure(&self) -> Option<BodyFailure> {
        self.0.as_ref().and_then(|observed| observed.failure.get())
    }

    /// Records that the request has its answer. Returns the body, if nobody reads it any more and it
    /// has not ended.
    pub(super) fn answered(&self, afterwards: Afterwards) -> Option<Incoming> {
        let observed = self.0.as_ref()?;
        match observed.rest.replace(Rest::Answered(afterwards)) {
            Rest::Unread(body) => Some(body),
            Rest::Read | Rest::Answered(_) => None,
        }
    }

    /// Whether the request has a body.
    pub(super) fn has_body(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the number of bytes that have arrived.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |observed| observed.bytes.get())
    }
}

/// The body of a request. The body yields each data frame when the frame arrives. Trailers can
/// contain any field, so the body yields trailers only if [`RequestBody::forward_trailers`] sets a
/// filter.
///
/// `is_end_stream` and `size_hint` return the values of hyper's body, so a request without a body
/// is also forwarded without a body. If the caller stops polling before a frame arrives, no data is
/// lost. If the caller drops the body before its end, [`super::unread`] handles the rest.
pub(crate) struct RequestBody {
    /// `None` if the request has no body, or if the body has ended.
    open: Option<Box<OpenBody>>,
}

/// A body that has not ended, with the data with which the gateway enforces its limits.
struct OpenBody {
    inner: Incoming,
    state: OpenState,
    observed: Rc<Observed>,
    left: u64,
    /// `None` if the gateway does not limit how slowly the client sends the body.
    rate_meter: Option<RateMeter>,
    trailer_filter: Option<TrailerFilter>,
}

/// The state of a connection on which the client can still send bytes of a request body. While this
/// value exists, the connection does not become dormant.
struct OpenState(Rc<ConnectionState>);

impl OpenState {
    fn new(state: &Rc<ConnectionState>) -> Self {
        state.dormancy().body_begins();
        Self(Rc::clone(state))
    }
}

impl Drop for OpenState {
    fn drop(&mut self) {
        self.0.dormancy().body_ends();
    }
}

/// Removes the trailers that must not be forwarded.
pub(crate) type TrailerFilter = Box<dyn Fn(&mut HeaderMap)>;

impl RequestBody {
    pub(super) fn new(
        inner: Incoming,
        state: &Rc<ConnectionState>,
        window: Duration,
        rate: u64,
    ) -> Self {
        let open = (!inner.is_end_stream()).then(|| {
            Box::new(OpenBody {
                inner,
                state: OpenState::new(state),
                observed: Rc::default(),
                left: u64::MAX,
                rate_meter: Some(RateMeter::new(state.clock(), window, rate)),
                trailer_filter: None,
            })
        });
        Self { open }
    }

    /// Allows at most `bytes` further bytes of the body.
    ///
    /// # Errors
    ///
    /// Returns [`BodyFailure::TooLarge`] if the declared length is larger than `bytes`. The
    /// function checks the declared length without reading the body.
    pub(crate) fn limit(&mut self, bytes: u64) -> Result<(), BodyFailure> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        open.left = bytes;
        if open.inner.size_hint().lower() > bytes {
            return Err(open.fail(BodyFailure::TooLarge));
        }
        Ok(())
    }

    /// Turns off the check that the client sends the body at the lowest allowed rate or faster. The
    /// caller must limit the client's pauses by another deadline.
    pub(crate) fn allow_pauses(&mut self) {
        if let Some(open) = &mut self.open {
            open.rate_meter = None;
        }
    }

    /// Makes the body yield its trailers, except the trailers that the `TrailerFilter` removes. By
    /// default, the body drops all trailers. `filter` is called only if the request has a body.
    pub(crate) fn forward_trailers(&mut self, filter: impl FnOnce() -> TrailerFilter) {
        if let Some(open) = &mut self.open {
            open.trailer_filter = Some(filter());
        }
    }

    /// Returns a handle that reports why the request body failed. The caller keeps the handle while
    /// another part of the gateway forwards the body.
    pub(crate) fn watch(&self) -> BodyWatch {
        BodyWatch(self.open.as_ref().map(|open| Rc::clone(&open.observed)))
    }
}

impl OpenBody {
    fn fail(&self, failure: BodyFailure) -> BodyFailure {
        self.observed.failure.set(Some(failure));
        failure
    }

    fn accept(&mut self, length: usize) -> Result<(), BodyFailure> {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        if let Some(meter) = &mut self.rate_meter {
            meter.arrived(length);
        }
        let bytes = &self.observed.bytes;
        bytes.set(bytes.get().saturating_add(length));
        self.left = self
            .left
            .checked_sub(length)
            .ok_or_else(|| self.fail(BodyFailure::TooLarge))?;
        Ok(())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let this = self.get_mut();
        let Some(open) = &mut this.open else {
            return Poll::Ready(None);
        };
        // After a failure, each further poll returns the same failure.
        if let Some(failure) = open.observed.failure.get() {
            return Poll::Ready(Some(Err(failure)));
        }
        let half_closed = &open.state.0.half_closed;
        let Poll::Ready(polled) = Pin::new(&mut open.inner).poll_frame(cx) else {
            if half_closed.body_waits(cx.waker()) {
                return Poll::Ready(Some(Err(open.fail(BodyFailure::Broken))));
            }
            let Some(meter) = &mut open.rate_meter else {
                return Poll::Pending;
            };
            ready!(meter.poll_too_slow(cx));
            return Poll::Ready(Some(Err(open.fail(BodyFailure::TooSlow))));
        };
        half_closed.body_arrives();
        match polled {
            None => {
                this.open = None;
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                tracing::debug!(client.address = %open.state.0.client(), %error, "Request body broke off");
                if MalformedBody::is(&error) {
                    open.state.0.arrivals().malformed_body();
                }
                Poll::Ready(Some(Err(open.fail(BodyFailure::Broken))))
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Poll::Ready(Some(match open.accept(data.len()) {
                    Ok(()) => {
                        // Most callers do not poll a body again after its last byte.
                        if open.inner.is_end_stream() {
                            this.open = None;
                        }
                        Ok(Frame::data(data))
                    }
                    Err(failure) => Err(failure),
                })),
                // The trailers are the last frame of a body.
                Err(other) => {
                    let trailers = this.open.take().and_then(|open| {
                        let mut trailers = other.into_trailers().ok()?;
                        remove_mark(&mut trailers);
                        open.trailer_filter?(&mut trailers);
                        (!trailers.is_empty()).then_some(trailers)
                    });
                    Poll::Ready(trailers.map(|fields| Ok(Frame::trailers(fields))))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.open.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let open = self.open.as_ref();
        open.map_or_else(|| SizeHint::with_exact(0), |open| open.inner.size_hint())
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(open) = self.open.take().filter(|open| !open.inner.is_end_stream()) else {
            return;
        };
        let OpenBody {
            inner,
            state,
            observed,
            ..
        } = *open;
        // If a socket with unread input is closed, the kernel sends a reset.
        state.0.body_left_unread();
        let mut rest = observed.rest.borrow_mut();
        match *rest {
            Rest::Read | Rest::Unread(_) => *rest = Rest::Unread(inner),
            Rest::Answered(Afterwards::Refused) => drop(inner),
            Rest::Answered(Afterwards::Discarded) => state.0.lingers(inner),
        }
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody")
            .field("size", &self.size_hint())
            .finish_non_exhaustive()
    }
}

/// The body of a response. The request counts as unfinished until the body of this response is
/// dropped.
#[derive(Debug)]
pub(super) struct ResponseBody<B> {
    /// `None` if the server itself has refused the request.
    inner: Option<B>,
    in_flight: InFlight,
}

impl<B> ResponseBody<B> {
    pub(super) fn new(inner: B, in_flight: InFlight) -> Self {
        Self {
            inner: Some(inner),
            in_flight,
        }
    }

    pub(super) fn empty(in_flight: InFlight) -> Self {
        Self {
            inner: None,
            in_flight,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        // Over HTTP/1.1, the socket shows whether the client takes bytes.
        let Some((stream, now)) = this.in_flight.stream() else {
            return Pin::new(inner).poll_frame(cx);
        };
        if let Some(piece) = stream.next_piece(now) {
            return Poll::Ready(Some(Ok(piece)));
        }
        let polled = ready!(Pin::new(inner).poll_frame(cx));
        // Trailers are the last frame of a body.
        if polled
            .as_ref()
            .is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers))
        {
            stream.answer_ends();
        }
        Poll::Ready(polled.map(|frame| frame.map(|frame| stream.hand_over(frame, now))))
    }

    fn is_end_stream(&self) -> bool {
        let stream = self.in_flight.stream();
        let has_rest = stream.is_some_and(|(stream, _now)| stream.has_rest());
        let ends = !has_rest && self.inner.as_ref().is_none_or(Body::is_end_stream);
        if let Some((stream, _now)) = stream.filter(|_stream| ends) {
            // The connection ends the HTTP/2 stream now and does not poll the body again.
            stream.answer_ends();
        }
        ends
    }

    /// The client's connection calls `size_hint` only before the first frame.
    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
