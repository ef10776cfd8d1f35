//! The two bodies of an exchange: the upload on its way out, the response on its way back.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use super::pool::Lease;
use super::{BoxError, Error};

/// Whose turn it is while a request body is on its way, and why it broke off.
///
/// The origin's deadlines must not run while the client is slow: that is judged by the listener's
/// own rules.
pub(super) struct Pulse {
    turn: Cell<Turn>,
    failure: RefCell<Option<BoxError>>,
}

#[derive(Clone, Copy)]
enum Turn {
    /// The origin takes what comes; the client has to send.
    Client,
    /// The origin has to take bytes, or to answer, since then.
    Origin(Instant),
}

impl Pulse {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            turn: Cell::new(Turn::Origin(Instant::now())),
            failure: RefCell::new(None),
        })
    }

    fn set_origins_turn(&self) {
        self.turn.set(Turn::Origin(Instant::now()));
    }

    /// How long the origin has kept us waiting.
    pub(super) fn quiet(&self) -> Duration {
        match self.turn.get() {
            Turn::Client => Duration::ZERO,
            Turn::Origin(since) => since.elapsed(),
        }
    }

    /// What an error of the connection really was: the request body's own, if that broke first.
    pub(super) fn explain(pulse: Option<&Rc<Self>>, error: hyper::Error) -> Error {
        let failure = pulse.and_then(|pulse| pulse.failure.borrow_mut().take());
        failure.map_or(Error::Broken(error), Error::RequestBody)
    }
}

/// The request body broke off; the cause lies in the [`Pulse`].
#[derive(Debug, thiserror::Error)]
#[error("the request body broke off")]
pub(super) struct Interrupted;

/// A request body that tells how it fares. Without content it costs nothing.
pub(super) struct Upload<B>(Option<Content<B>>);

struct Content<B> {
    body: Pin<Box<B>>,
    pulse: Rc<Pulse>,
}

impl<B: Body> Upload<B> {
    pub(super) fn new(body: B) -> Self {
        if body.is_end_stream() {
            return Self::empty();
        }
        Self(Some(Content {
            body: Box::pin(body),
            pulse: Pulse::new(),
        }))
    }

    pub(super) fn empty() -> Self {
        Self(None)
    }

    /// `None` when there is no content.
    pub(super) fn pulse(&self) -> Option<Rc<Pulse>> {
        let content = self.0.as_ref()?;
        Some(Rc::clone(&content.pulse))
    }
}

impl<B: Body<Data = Bytes>> Body for Upload<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Interrupted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        loop {
            let Some(Content { body, pulse }) = &mut self.0 else {
                return Poll::Ready(None);
            };
            let Poll::Ready(frame) = body.as_mut().poll_frame(cx) else {
                pulse.turn.set(Turn::Client);
                return Poll::Pending;
            };
            pulse.set_origins_turn();
            match frame {
                Some(Ok(frame)) if frame.is_data() => return Poll::Ready(Some(Ok(frame))),
                // Trailers are dropped (RFC 9110 section 6.5.1 lets only a receiver that knows
                // them merge them).
                Some(Ok(_trailers)) => {}
                Some(Err(error)) => {
                    *pulse.failure.borrow_mut() = Some(error.into());
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
            .is_none_or(|content| content.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(
            || SizeHint::with_exact(0),
            |content| content.body.size_hint(),
        )
    }
}

impl<B> Drop for Content<B> {
    fn drop(&mut self) {
        // Nothing more is asked of the client.
        self.pulse.set_origins_turn();
    }
}

/// A response body as it comes from the origin.
///
/// It ends cleanly only if the origin ended it cleanly; then its connection goes back to the pool.
/// A body that is dropped before its end takes its connection with it. Trailers are dropped.
pub struct ResponseBody<B: 'static> {
    incoming: Incoming,
    lease: Option<Lease<B>>,
    pulse: Option<Rc<Pulse>>,
    stall: Stall,
    received: u64,
    broken: bool,
}

impl<B> ResponseBody<B> {
    /// `stall` is the longest silence of the origin inside the body; `None` allows any.
    pub(super) fn new(
        incoming: Incoming,
        lease: Lease<B>,
        pulse: Option<Rc<Pulse>>,
        stall: Option<Duration>,
    ) -> Self {
        let mut body = Self {
            incoming,
            lease: Some(lease),
            pulse,
            stall: Stall::new(stall),
            received: 0,
            broken: false,
        };
        body.settle_at_end();
        body
    }

    /// The bytes of content that came so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    fn settle_at_end(&mut self) {
        if self.incoming.is_end_stream() {
            self.settle();
        }
    }

    fn settle(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.lease = None;
        self.broken = true;
        Poll::Ready(Some(Err(error)))
    }
}

impl<B> Body for ResponseBody<B> {
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
        loop {
            match Pin::new(&mut this.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    this.stall.armed = false;
                    // What is no data are trailers.
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    this.received = this.received.saturating_add(length);
                    this.settle_at_end();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(Some(Err(error))) => {
                    let error = Pulse::explain(this.pulse.as_ref(), error);
                    return this.fail(error);
                }
                Poll::Ready(None) => {
                    this.settle();
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    let pulse = this.pulse.as_deref();
                    return match this.stall.poll(pulse, cx) {
                        Poll::Ready(()) => this.fail(Error::BodyTimeout),
                        Poll::Pending => Poll::Pending,
                    };
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

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("received", &self.received)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// The longest silence inside a body. The timer exists only once there was nothing to read.
struct Stall {
    limit: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Stall {
    fn new(limit: Option<Duration>) -> Self {
        Self {
            limit,
            timer: None,
            armed: false,
        }
    }

    /// Ready when the origin has been silent for too long; called when nothing is there to read.
    fn poll(&mut self, pulse: Option<&Pulse>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.limit else {
            return Poll::Pending;
        };
        if !self.armed {
            self.timer = Some(Box::pin(sleep(limit)));
            self.armed = true;
        }
        while let Some(timer) = &mut self.timer {
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // An origin that still takes the upload is not silent.
            let left = pulse.and_then(|pulse| limit.checked_sub(pulse.quiet()));
            let Some(left) = left.filter(|left| !left.is_zero()) else {
                return Poll::Ready(());
            };
            self.timer = Some(Box::pin(sleep(left)));
        }
        Poll::Pending
    }
}
