//! Request and response bodies. A request body has a minimum rate and a maximum size. A request is
//! in progress until its response body is dropped.

use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::deadline::ConnectionState;
use super::reading::LowestRate;
use super::stream::InFlight;
use crate::clock::Clock;

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
}

impl BodyWatch {
    /// Returns the failure, if the body has failed.
    pub(crate) fn failure(&self) -> Option<BodyFailure> {
        self.0.as_ref().and_then(|observed| observed.failure.get())
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
/// lost.
pub(crate) struct RequestBody {
    inner: Incoming,
    /// The data with which the gateway enforces the limits of the body. The value is `None` if the
    /// request has no body.
    open: Option<Box<OpenBody>>,
}

struct OpenBody {
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
                state: OpenState::new(state),
                observed: Rc::default(),
                left: u64::MAX,
                rate_meter: Some(RateMeter::new(state.clock(), window, rate)),
                trailer_filter: None,
            })
        });
        Self { inner, open }
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
        if self.inner.size_hint().lower() > bytes {
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
        let Poll::Ready(polled) = Pin::new(&mut this.inner).poll_frame(cx) else {
            let Some(meter) = &mut open.rate_meter else {
                return Poll::Pending;
            };
            ready!(meter.poll_too_slow(cx));
            return Poll::Ready(Some(Err(open.fail(BodyFailure::TooSlow))));
        };
        match polled {
            None => {
                this.open = None;
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                tracing::debug!(client.address = %open.state.0.peer, %error, "Request body broke off");
                Poll::Ready(Some(Err(open.fail(BodyFailure::Broken))))
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Poll::Ready(Some(match open.accept(data.len()) {
                    Ok(()) => Ok(Frame::data(data)),
                    Err(failure) => Err(failure),
                })),
                // The trailers are the last frame of a body.
                Err(other) => {
                    let trailers = this.open.take().and_then(|open| {
                        let mut trailers = other.into_trailers().ok()?;
                        open.trailer_filter?(&mut trailers);
                        (!trailers.is_empty()).then_some(trailers)
                    });
                    Poll::Ready(trailers.map(|fields| Ok(Frame::trailers(fields))))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.open.is_none() || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(open) = &self.open
            && !self.inner.is_end_stream()
        {
            // If a socket with unread input is closed, the kernel sends a reset.
            open.state.0.body_left_unread();
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

/// Measures how fast a client sends a request body. The meter counts only the time during which the
/// reader of the body waits for data. If the reader never has to wait, the timer is never set.
struct RateMeter {
    clock: Clock,
    window: Duration,
    /// The number of bytes that must arrive in each period `window`.
    least: u64,
    bytes: u64,
    /// The total time for which the server has waited for data in this window, without the wait
    /// that is in progress.
    waited: Duration,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl RateMeter {
    fn new(clock: &Clock, window: Duration, rate: u64) -> Self {
        Self {
            clock: clock.clone(),
            window,
            least: LowestRate::new(rate, window).least,
            bytes: 0,
            waited: Duration::ZERO,
            waiting_since: None,
            timer: None,
        }
    }

    fn arrived(&mut self, bytes: u64) {
        if let Some(since) = self.waiting_since.take() {
            let waited = self.clock.instant().saturating_duration_since(since);
            self.waited = self.waited.saturating_add(waited);
        }
        self.bytes = self.bytes.saturating_add(bytes);
        // Enough bytes have arrived in this window, so the next window begins.
        if self.bytes >= self.least {
            self.bytes = 0;
            self.waited = Duration::ZERO;
        }
    }

    /// Returns `Ready` if the reader has waited for data for the time `window`, and fewer than
    /// `least` bytes have arrived in this time. Call this function only when no data of the body is
    /// available.
    fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = self.clock.instant();
            let since = *self.waiting_since.get_or_insert(now);
            let waited = self.waited.saturating_add(now.duration_since(since));
            let left = self.window.saturating_sub(waited);
            let due = now.checked_add(left).filter(|_due| !left.is_zero());
            let Some(due) = due else {
                return Poll::Ready(());
            };
            // The deadline `due` can move to a later time before the timer fires. The timer is set
            // again only after the timer has fired, because most bodies end earlier.
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            ready!(timer.as_mut().poll(cx));
            timer.as_mut().reset(due);
        }
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
        Poll::Ready(polled.map(|frame| frame.map(|frame| stream.hand_over(frame, now))))
    }

    fn is_end_stream(&self) -> bool {
        let stream = self.in_flight.stream();
        let has_rest = stream.is_some_and(|(stream, _now)| stream.has_rest());
        !has_rest && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    /// The client's connection calls `size_hint` only before the first frame.
    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::advance;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(20);

    async fn is_too_slow(rate_meter: &mut RateMeter) -> bool {
        poll_fn(|cx| Poll::Ready(rate_meter.poll_too_slow(cx).is_ready())).await
    }

    #[tokio::test(start_paused = true)]
    async fn d_04_a_window_without_enough_bytes_is_too_slow() {
        let mut rate_meter = RateMeter::new(&Clock::system(), WINDOW, 500);
        for _ in 0..19 {
            assert!(!is_too_slow(&mut rate_meter).await);
            advance(Duration::from_secs(1)).await;
            rate_meter.arrived(1);
        }
        assert!(!is_too_slow(&mut rate_meter).await);
        advance(Duration::from_secs(1)).await;
        assert!(is_too_slow(&mut rate_meter).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_at_the_lowest_rate_is_never_too_slow() {
        let mut rate_meter = RateMeter::new(&Clock::system(), WINDOW, 500);
        for _ in 0..200 {
            assert!(!is_too_slow(&mut rate_meter).await);
            advance(Duration::from_millis(1900)).await;
            rate_meter.arrived(1000);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_waits_does_not_count() {
        let mut rate_meter = RateMeter::new(&Clock::system(), WINDOW, 500);
        assert!(!is_too_slow(&mut rate_meter).await);
        rate_meter.arrived(1);
        // The upstream accepts no bytes for an hour, so the gateway reads no bytes from the client.
        advance(Duration::from_hours(1)).await;
        assert!(!is_too_slow(&mut rate_meter).await);
        advance(Duration::from_secs(19)).await;
        assert!(!is_too_slow(&mut rate_meter).await);
        advance(Duration::from_secs(1)).await;
        assert!(is_too_slow(&mut rate_meter).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_timer_wakes_the_waiting_task() {
        let mut rate_meter = RateMeter::new(&Clock::system(), WINDOW, 500);
        let start = Clock::system().instant();
        poll_fn(|cx| rate_meter.poll_too_slow(cx)).await;
        let took = Clock::system().instant().duration_since(start);
        assert_eq!(took, WINDOW);
    }
}
