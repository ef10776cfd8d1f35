//! Requests whose client waits for `100 Continue` before sending the content (RFC 9110 section
//! 10.1.1).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::EXPECT;
use http::request::Parts;
use http::{Request, StatusCode};
use tokio::sync::Notify;

use crate::clock::Clock;

/// The longest time that the gateway waits for the origin's `100 Continue`. Many origins never send
/// a 100 response, so the gateway lets the client send the content after `MAX_WAIT`.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Delays the content of a request until the origin has sent `100 Continue`, or until [`MAX_WAIT`]
/// has passed. The HTTP server of the gateway sends `100 Continue` to the client when the gateway
/// first reads the content.
///
/// If the origin sends its final answer first, the HTTP server sends no 100 response, because the
/// answer has already begun.
pub(super) struct ContinueGate(Pin<Box<dyn Future<Output = ()>>>);

impl ContinueGate {
    /// Returns a `ContinueGate` if the request with the head `parts` has the field `Expect`.
    pub(super) fn of(parts: &mut Parts, clock: &Clock) -> Option<Self> {
        if !parts.headers.contains_key(EXPECT) {
            return None;
        }
        let continued = Arc::new(Notify::new());
        let notify = Arc::clone(&continued);
        // hyper stores the callback in the extensions of a request.
        let mut callback = Request::new(());
        hyper::ext::on_informational(&mut callback, move |response| {
            if response.status() == StatusCode::CONTINUE {
                notify.notify_one();
            }
        });
        parts
            .extensions
            .extend(std::mem::take(callback.extensions_mut()));
        let clock = clock.clone();
        Some(Self(Box::pin(async move {
            tokio::select! {
                () = continued.notified() => {}
                () = clock.sleep(MAX_WAIT) => {}
            }
        })))
    }

    /// Returns `Ready` when the gateway can begin to read the content of the request. Do not call
    /// this function again after it has returned `Ready`.
    pub(super) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}
