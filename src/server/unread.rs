//! The rest of a request body that was answered before the body was read.
//!
//! A client that still sends a body must get the answer. If the gateway refused the rest of the body
//! at once, many clients would lose the answer:
//!
//! - Over HTTP/1.1, the gateway reads and discards what has already arrived. If this is the rest of
//!   the body, the connection stays open. Otherwise the answer contains `Connection: close` (RFC
//!   9112 section 9.6), and the connection closes as described in [`super::socket`].
//!
//! - Over HTTP/2, the gateway reads and discards the rest for a limited time after the end of the
//!   answer. The gateway then resets the stream (RFC 9113 section 8.1). A client that finds the
//!   end of the answer and the reset in one read takes the reset for an error of the request.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::body::{Afterwards, BodyWatch};
use super::deadline::{ConnectionState, LINGER};

/// The maximum number of bytes that the gateway discards before an answer over HTTP/1.1.
const MAX_DISCARDED: usize = 64 * 1024;

/// The unread bodies of the HTTP/2 streams of one connection whose answers have ended.
#[derive(Debug, Default)]
pub(super) struct Lingering(RefCell<Vec<(Instant, Incoming)>>);

impl Lingering {
    /// Adds a body. `now` is the time at which the answer ended.
    pub(super) fn add(&self, body: Incoming, now: Instant) {
        self.0.borrow_mut().push((now, body));
    }

    /// Discards the bytes that have arrived. The connection calls this function after each poll, so
    /// that the client can send the rest of its bodies.
    pub(super) fn poll(&self, cx: &mut Context<'_>) {
        let mut bodies = self.0.borrow_mut();
        if !bodies.is_empty() {
            bodies.retain_mut(|(_since, body)| !is_read(body, cx));
        }
    }

    /// Drops the bodies that have not ended in time. The client gets a reset of each stream.
    pub(super) fn end_overdue(&self, now: Instant) {
        let mut bodies = self.0.borrow_mut();
        bodies.retain(|(since, _body)| now.saturating_duration_since(*since) < LINGER);
    }
}

impl ConnectionState {
    /// Whether an HTTP/1.1 connection has to close after an answer, because the body of the request
    /// has not ended. If `expects` is true, the client may wait for a 100 response before it sends
    /// the body, so the gateway does not read the body.
    pub(super) async fn leaves_body(&self, upload: &BodyWatch, expects: bool) -> bool {
        let Some(body) = upload.answered(Afterwards::Refused) else {
            // The body has ended, or is still forwarded to an app that has answered early.
            return self.dormancy().has_open_body();
        };
        if expects || !discard(body).await {
            return true;
        }
        self.body_is_read();
        false
    }

    /// Ends the request bodies that do not end in time.
    pub(super) fn sweep_bodies(&self, now: Instant) {
        self.lingering.end_overdue(now);
        self.half_closed.sweep();
    }

    /// Reads and discards the rest of the body of an HTTP/2 request whose answer has ended.
    pub(super) fn lingers(&self, body: Incoming) {
        self.lingering.add(body, self.coarse_now());
        // The connection has to ask for the rest of the body.
        self.wake();
    }
}

/// Discards the bytes of a body that have arrived. Returns true if the body has ended.
fn is_read(body: &mut Incoming, cx: &mut Context<'_>) -> bool {
    loop {
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Pending => return false,
            Poll::Ready(None | Some(Err(_))) => return true,
            Poll::Ready(Some(Ok(_frame))) => {}
        }
    }
}

/// Discards the rest of a body over HTTP/1.1, as far as the rest has already arrived. Returns true
/// if the body has ended, so that the connection can serve another request.
///
/// # Cancel safety
///
/// If the future is dropped, the body must not be used any more.
pub(super) async fn discard(mut body: Incoming) -> bool {
    let mut left = MAX_DISCARDED;
    // The connection reads the next bytes before it polls this future again. If there are none then,
    // no further bytes have arrived.
    let mut has_asked = false;
    poll_fn(|cx| {
        loop {
            match Pin::new(&mut body).poll_frame(cx) {
                Poll::Pending if has_asked => return Poll::Ready(false),
                Poll::Pending => {
                    has_asked = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(None) => return Poll::Ready(true),
                Poll::Ready(Some(Err(_broken))) => return Poll::Ready(false),
                Poll::Ready(Some(Ok(frame))) => {
                    has_asked = false;
                    let length = frame.data_ref().map_or(0, bytes::Bytes::len);
                    let Some(rest) = left.checked_sub(length) else {
                        return Poll::Ready(false);
                    };
                    left = rest;
                }
            }
        }
    })
    .await
}
