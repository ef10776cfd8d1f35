//! Logs trailers that the gateway cannot forward (RFC 9110 section 6.5).

use std::sync::atomic::{AtomicBool, Ordering};

use super::name::Origin;

/// Logs at most one warning about dropped trailers of requests, and at most one warning about
/// dropped trailers of responses.
#[derive(Debug)]
pub(super) struct DroppedTrailers {
    origin: Origin,
    is_request_logged: AtomicBool,
    is_response_logged: AtomicBool,
}

impl DroppedTrailers {
    pub(super) fn new(origin: Origin) -> Self {
        Self {
            origin,
            is_request_logged: AtomicBool::new(false),
            is_response_logged: AtomicBool::new(false),
        }
    }

    /// Logs that the trailers of a request are dropped.
    pub(super) fn of_request(&self) {
        if !self.is_request_logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                upstream.origin = %self.origin,
                "The trailers of a request are dropped. An HTTP/1.1 app gets only the trailers \
                 that the client announces in the field `Trailer`, and only if the body has no \
                 `Content-Length`. This warning is logged once"
            );
        }
    }

    /// Logs that the trailers of a response are dropped.
    pub(super) fn of_response(&self) {
        if !self.is_response_logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                upstream.origin = %self.origin,
                "The trailers of a response are dropped. An HTTP/1.1 client gets only trailers that \
                 the app announces in the field `Trailer`, and only if the client sends \
                 `TE: trailers`. An HTTP/2 client gets all trailers. This warning is logged once"
            );
        }
    }
}
