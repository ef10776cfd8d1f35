//! Collects the data of a request for the access log and the metrics.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderValue, Method, Response, StatusCode, Version};
use tokio::time::Instant;

use super::auth_check::AuthCheck;
use super::body_buffer::BufferSizes;
use super::error::Responsible;
use super::grpc::LoggedStatus;
use super::page::ShownReason;
use super::request_log::{DRAIN, RequestLog};
use super::signed_in::user;
use super::{Body, Error, WorkerSite};
use crate::access::Route;
use crate::fields::request_id::X_REQUEST_ID;
use crate::identity::Identity;
use crate::origin::Informational;
use crate::server::RequestBody;
use crate::target::Target;
use crate::telemetry::{self, DecisionLabel, user_agent};
use crate::upstream::{Eviction, Owner};

const NO_ID: HeaderValue = HeaderValue::from_static("");

/// The data of one request for the access log and the metrics. The request is counted in the
/// metrics when its answer begins. The access-log event is written when the answer has ended. If
/// the client disconnects or the drain ends before the answer begins, the request is counted and
/// logged when this value is dropped.
#[derive(Debug)]
pub(super) struct Record {
    site: Rc<WorkerSite>,
    /// The id of the request. After the gateway has moved the id to the answer, this field contains
    /// [`NO_ID`].
    request_id: HeaderValue,
    started: Instant,
    method: Method,
    version: Version,
    pub(super) route: Option<Rc<Route>>,
    pub(super) decided: DecisionLabel,
    /// The time at which the upstream's final answer arrived. The value is `None` if the gateway
    /// itself answers the request.
    answered: Option<Instant>,
    is_counted: bool,
    /// The auth check, if another proxy asks whether it may forward the request.
    auth_check: Option<AuthCheck>,
    /// The data that only the access log needs. `None` if the access log is off.
    log: Option<Box<RequestLog>>,
}

impl Record {
    /// Creates the record of a request. The log contains the decision "refuse" unless the gateway
    /// records another decision.
    pub(super) fn new(
        site: Rc<WorkerSite>,
        (client, request_id): (IpAddr, HeaderValue),
        parts: &Parts,
        body: &RequestBody,
    ) -> Self {
        let started = site.clock().instant();
        let log = telemetry::logs_requests().then(|| {
            let clock = site.clock().clone();
            let request = (client, request_id.clone());
            RequestLog::new((clock, started), request, parts, body.watch())
        });
        Self {
            request_id,
            started,
            site,
            method: parts.method.clone(),
            version: parts.version,
            route: None,
            decided: DecisionLabel::Refuse,
            answered: None,
            is_counted: false,
            auth_check: None,
            log,
        }
    }

    pub(super) fn site(&self) -> &Rc<WorkerSite> {
        &self.site
    }

    pub(super) fn request_id(&self) -> &HeaderValue {
        &self.request_id
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Records that the request is an auth check for the request `original`.
    #[cold]
    pub(super) fn auth_check(&mut self, check: AuthCheck, original: &Parts) {
        self.auth_check = Some(check);
        self.method.clone_from(&original.method);
        if let Some(log) = &mut self.log {
            log.event.method.clone_from(&original.method);
            log.event.user_agent = user_agent(&original.headers);
            log.event.auth_check = Some(check.kind_name());
        }
    }

    /// Records the canonical target.
    pub(super) fn target(&mut self, target: &Target) {
        if let Some(log) = &mut self.log {
            log.event.target = Some(target.path_and_query().clone());
            log.event.authority = Some(target.authority_value().clone());
        }
    }

    /// Records the client's address, which a trusted proxy can state in `X-Forwarded-For`.
    pub(super) fn client(&mut self, client: IpAddr) {
        if let Some(log) = &mut self.log {
            log.event.client = client;
        }
    }

    /// Records the user of the request.
    pub(super) fn user(&mut self, identity: Option<&Identity>) {
        if let (Some(log), Some(identity)) = (&mut self.log, identity) {
            log.event.user = user(self.site.settings().log_user, identity);
        }
    }

    /// Records the reason code of the decision or of an error.
    pub(super) fn reason(&mut self, reason: &'static str) {
        if let Some(log) = &mut self.log {
            log.event.reason = Some(reason);
        }
    }

    /// Records the route of the request and the decision.
    pub(super) fn route(&mut self, route: &Rc<Route>, decided: DecisionLabel) {
        self.route = Some(Rc::clone(route));
        self.decided = decided;
    }

    /// The sizes of the buffer that the gateway uses for an answer to `client` if the client reads
    /// slowly.
    pub(super) fn answer_buffer(&self, client: Owner) -> BufferSizes {
        let buffers = self.route.as_ref().map(|route| route.buffers());
        BufferSizes {
            memory: buffers.map_or(0, |buffers| buffers.answer),
            file: buffers.map_or(0, |buffers| buffers.answer_spill),
            client,
        }
    }

    /// Records how long the request has waited for a refresh or a fetch of its session.
    pub(super) fn waited(&mut self, duration: Duration) {
        if let Some(log) = &mut self.log {
            let before = log.event.waited.unwrap_or_default();
            log.event.waited = Some(before.saturating_add(duration));
        }
    }

    /// Counts the informational response that came before the app's final answer. `extensions` are
    /// the extensions of the final answer.
    pub(super) fn informational(&self, extensions: &Extensions) {
        if !extensions.is_empty()
            && let Some(Informational(status)) = extensions.get()
            && let Some(route) = &self.route
        {
            self.site.metrics().informational(route.name(), *status);
        }
    }

    /// Records that the gateway sends the request to the app.
    pub(super) fn sending(&mut self) {
        if let Some(log) = &mut self.log {
            log.sending();
        }
    }

    /// Records that the app has answered the request, or that the exchange with the app has failed.
    /// `now` is the current time. If it is `None`, this function reads the clock.
    pub(super) fn upstream_answered(&mut self, now: Option<Instant>) {
        let now = now.unwrap_or_else(|| self.site.clock().instant());
        self.answered = Some(now);
        if let Some(log) = &mut self.log {
            log.upstream_answered(now);
        }
    }

    /// Counts a request that the gateway ended because another request was waiting for the
    /// connection to the app.
    pub(super) fn evicted(&self, eviction: Eviction) {
        if let Some(route) = &self.route {
            let metrics = self.site.metrics();
            metrics.evicted(route.name(), "request", eviction.reason());
        }
    }

    /// Deletes the arrival time of the upstream's answer, because the gateway may replace this
    /// answer.
    pub(super) fn not_final(&mut self) {
        self.answered = None;
    }

    /// Records the answer, and returns it for the client.
    pub(super) fn answered(&mut self, mut response: Response<Body>) -> Response<Body> {
        self.answer(&mut response);
        response
    }

    /// Records the answer. Every answer to a client passes through this function.
    #[inline]
    pub(super) fn answer(&mut self, response: &mut Response<Body>) {
        if let Some(check) = self.auth_check {
            check.word(response);
        }
        let mut status = response.status();
        // Most answers have no extensions, so `remove` is called only if `extensions` is not empty.
        if !response.extensions().is_empty() {
            let extensions = response.extensions_mut();
            if let Some(LoggedStatus(logged)) = extensions.remove() {
                status = logged;
            }
            // The log contains the same reason as the page.
            if let Some(ShownReason(reason)) = extensions.remove() {
                self.reason(reason);
            }
        }
        // The client must get the id that the log contains, even if the app has written another id.
        let id = std::mem::replace(&mut self.request_id, NO_ID);
        response.headers_mut().insert(X_REQUEST_ID, id);
        let duration = self.count(status);
        if let Some(mut log) = self.log.take() {
            self.complete(&mut log, status);
            log.event.head_duration = Some(duration);
            response.body_mut().log_at_end(log);
        }
    }

    /// Records an error and returns the answer that reports the error. `headers` are the fields of
    /// the request.
    pub(super) fn refused(&mut self, error: &Error, headers: &HeaderMap) -> Response<Body> {
        self.reason(error.reason());
        error.log(self.request_id.to_str().unwrap_or_default());
        if error.responsible() == Responsible::Client {
            self.site.metrics().refusal(error.reason());
        }
        let response = error.respond(&self.method, headers);
        self.answered(response)
    }

    /// Counts the request in the metrics, and returns the time from the start of the request to the
    /// start of its answer.
    fn count(&mut self, status: StatusCode) -> Duration {
        self.is_counted = true;
        let ended = self.answered.unwrap_or_else(|| self.site.clock().instant());
        let duration = ended.saturating_duration_since(self.started);
        let route = self.route.as_deref().map(Route::index);
        let counters = self.site.counters();
        counters.count(route, self.decided, status, duration);
        duration
    }

    /// Adds the result of the request to the data of its access-log event.
    fn complete(&self, log: &mut RequestLog, status: StatusCode) {
        let (event, route) = (&mut log.event, self.route.as_deref());
        event.status = status;
        event.decided = self.decided;
        event.route = route.map(|route| route.name().into());
        // The access-log event names the upstream only if the upstream has answered or failed.
        let upstream = event.upstream_duration.and(route);
        event.upstream = upstream.and_then(|route| Some(route.upstream_name()?.into()));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.is_counted {
            return;
        }
        let drained = self.site.has_drain_ended();
        let status = if drained {
            self.reason(DRAIN);
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            // Access logs use 499 if the client has disconnected before the answer.
            StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
        };
        self.count(status);
        if let Some(mut log) = self.log.take() {
            if drained {
                log.event.end = DRAIN;
            }
            self.complete(&mut log, status);
        }
    }
}
