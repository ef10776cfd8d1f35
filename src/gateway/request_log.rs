//! The access-log event of a request. The event is written when the answer to the request has
//! ended.

use std::net::IpAddr;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::server::{AnswerControl, BodyWatch};
use crate::telemetry::{DecisionLabel, RequestEvent, user_agent};

/// The value of `end` in the access log for a complete answer. An answer is complete when the
/// client's connection has taken the whole content.
pub(super) const COMPLETE: &str = "complete";

/// The end code in the log for an answer or a tunnel that the client has ended.
pub(super) const CLIENT_GONE: &str = "client_gone";

/// The end code in the log for a request or an answer that the end of a drain has stopped.
pub(super) const DRAIN: &str = "drain";

/// Returns the end code for an answer that the client or the server has ended too early. If the app
/// or the gateway has ended the answer, do not call this function.
pub(super) fn interruption(control: Option<&AnswerControl>) -> &'static str {
    let Some(control) = control else {
        return CLIENT_GONE;
    };
    match control.read_failure() {
        Some(failure) => failure.code(),
        None if control.is_draining() => DRAIN,
        None => CLIENT_GONE,
    }
}

/// The data of a request's access-log event. The event is written when this value is dropped, so
/// every request is logged exactly one time. At first, the record of the request owns the
/// `RequestLog`. Later, the body of the answer, or the tunnel, owns the `RequestLog`.
#[derive(Debug)]
pub(super) struct RequestLog {
    pub(super) event: RequestEvent,
    clock: Clock,
    started: Instant,
    /// The time at which the gateway sent the request to the app.
    sent_to_app: Option<Instant>,
    /// Counts the bytes of the request body.
    upload: BodyWatch,
    has_ended: bool,
    /// The handle by which the gateway controls the answer. If the server ends the answer,
    /// `control` contains the reason for the end of the answer.
    control: Option<AnswerControl>,
}

impl RequestLog {
    pub(super) fn new(
        (clock, started): (Clock, Instant),
        (client, request_id): (IpAddr, HeaderValue),
        parts: &Parts,
        upload: BodyWatch,
    ) -> Box<Self> {
        Box::new(Self {
            event: RequestEvent {
                request_id,
                method: parts.method.clone(),
                target: None,
                version: parts.version,
                authority: None,
                user: None,
                user_agent: user_agent(&parts.headers),
                upgrade: None,
                auth_check: None,
                client,
                status: StatusCode::OK,
                route: None,
                decided: DecisionLabel::Refuse,
                reason: None,
                // If no other end code is recorded later, the access log contains `CLIENT_GONE`.
                end: CLIENT_GONE,
                from_client: 0,
                to_client: 0,
                duration: Duration::ZERO,
                head_duration: None,
                waited: None,
                upstream_duration: None,
                upstream: None,
            },
            clock,
            started,
            sent_to_app: None,
            upload,
            has_ended: false,
            control: None,
        })
    }

    /// Stores the [`AnswerControl`] of the answer.
    pub(super) fn begin(&mut self, control: AnswerControl) {
        self.control = Some(control);
    }

    /// Records that the gateway sends the request to the app.
    pub(super) fn sending(&mut self) {
        self.sent_to_app = Some(self.clock.instant());
    }

    /// Records that the app's answer arrived at the time `now`. If the gateway sends a request two
    /// times, `upstream_duration` is the sum of the two durations.
    pub(super) fn upstream_answered(&mut self, now: Instant) {
        let before = self.event.upstream_duration.unwrap_or_default();
        let sent = self.sent_to_app.take().unwrap_or(now);
        let took = now.saturating_duration_since(sent);
        self.event.upstream_duration = Some(before.saturating_add(took));
    }

    /// Whether the end of the answer was recorded.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Records that content was sent to the client.
    pub(super) fn sent(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.event.to_client = self.event.to_client.saturating_add(bytes);
    }

    /// Records the end of an answer. `end` is `None` if the body was dropped before its end. An
    /// answer to a HEAD request counts as complete even if its body was dropped.
    pub(super) fn ended(&mut self, end: Option<&'static str>) {
        self.has_ended = true;
        self.event.end = match end {
            Some(end) => end,
            None if self.event.method == Method::HEAD => COMPLETE,
            None => interruption(self.control.as_ref()),
        };
    }

    /// Records the end of a stream that has sent `to_client` bytes to the client. For a tunnel,
    /// `from_client` is the number of bytes from the client.
    pub(super) fn stream_ended(
        &mut self,
        end: &'static str,
        from_client: Option<u64>,
        to_client: u64,
    ) {
        self.event.end = end;
        self.event.from_client = from_client.unwrap_or_default();
        self.event.to_client = to_client;
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        let now = self.clock.instant();
        let event = &mut self.event;
        event.duration = now.saturating_duration_since(self.started);
        event.from_client = event.from_client.saturating_add(self.upload.bytes());
        event.log();
    }
}
