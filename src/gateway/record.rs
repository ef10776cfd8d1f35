//! Collects the data of a request for the access log and the metrics.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Extensions, HeaderMap, Method, Response, StatusCode, Version};
use tokio::time::Instant;

use super::grpc::LoggedStatus;
use super::{Body, Error, WorkerSite};
use crate::access::Route;
use crate::origin::Informational;
use crate::telemetry::{self, DecisionLabel};
use crate::upstream::Eviction;

/// The data of one request for the access log and the metrics. The data is written one time, when
/// the record is dropped, so a request is logged even if its client has disconnected.
#[derive(Debug)]
pub(super) struct Record {
    site: Rc<WorkerSite>,
    started: Instant,
    method: Method,
    version: Version,
    status: Option<StatusCode>,
    route: Option<Rc<Route>>,
    pub(super) client: IpAddr,
    pub(super) target: Option<PathAndQuery>,
    pub(super) decided: DecisionLabel,
    pub(super) reason: Option<&'static str>,
    upstream_duration: Option<Duration>,
    /// The time at which the upstream's final answer arrived. The value is `None` if the gateway
    /// itself answers the request.
    answered: Option<Instant>,
    waited: Option<Duration>,
}

impl Record {
    /// Creates the record of a request. The request counts as refused until another decision is
    /// recorded.
    pub(super) fn new(site: Rc<WorkerSite>, client: IpAddr, parts: &Parts) -> Self {
        Self {
            started: site.clock().instant(),
            site,
            method: parts.method.clone(),
            version: parts.version,
            status: None,
            route: None,
            client,
            target: None,
            decided: DecisionLabel::Refuse,
            reason: None,
            upstream_duration: None,
            answered: None,
            waited: None,
        }
    }

    /// The site that handles the request.
    pub(super) fn site(&self) -> &Rc<WorkerSite> {
        &self.site
    }

    /// The version of HTTP of the request.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Records the route of the request and the decision.
    pub(super) fn route(&mut self, route: &Rc<Route>, decided: DecisionLabel) {
        self.route = Some(Rc::clone(route));
        self.decided = decided;
    }

    /// Records the time that the request waited for its session.
    pub(super) fn waited(&mut self, duration: Duration) {
        self.waited = Some(self.waited.unwrap_or_default().saturating_add(duration));
    }

    /// Counts the informational response that came before the app's final answer, if there was one.
    /// `extensions` are the extensions of the answer; most answers have none.
    pub(super) fn informational(&self, extensions: &Extensions) {
        if !extensions.is_empty()
            && let Some(Informational(status)) = extensions.get()
            && let Some(route) = &self.route
        {
            self.site.metrics().informational(route.name(), *status);
        }
    }

    /// Records that the upstream has answered the request that was sent at `since`. If a request
    /// has two attempts, the times of both attempts are added.
    pub(super) fn upstream_answered(&mut self, since: Instant) {
        let now = self.site.clock().instant();
        let took = now.saturating_duration_since(since);
        let before = self.upstream_duration.unwrap_or_default();
        self.upstream_duration = Some(before.saturating_add(took));
        self.answered = Some(now);
    }

    /// Counts a request that has lost its connection to a waiting request.
    pub(super) fn evicted(&self, eviction: Eviction) {
        if let Some(route) = &self.route {
            let metrics = self.site.metrics();
            metrics.evicted(route.name(), "request", eviction.reason());
        }
    }

    /// Records that the upstream's answer is not the final answer to the client.
    pub(super) fn not_final(&mut self) {
        self.answered = None;
    }

    /// Records the answer. The record is written to the log when its owner drops it.
    #[inline]
    pub(super) fn answered(&mut self, mut response: Response<Body>) -> Response<Body> {
        // Most answers have no extensions, so `remove` is called only if there are extensions.
        let logged = if response.extensions().is_empty() {
            None
        } else {
            response.extensions_mut().remove::<LoggedStatus>()
        };
        self.status = Some(logged.map_or_else(|| response.status(), |LoggedStatus(status)| status));
        response
    }

    /// Records an error and returns the answer that reports the error. `headers` are the fields of
    /// the request.
    pub(super) fn refused(&mut self, error: &Error, headers: &HeaderMap) -> Response<Body> {
        self.reason = Some(error.reason());
        error.log();
        let response = error.respond(&self.method, headers);
        self.answered(response)
    }
}

/// Writes the record to the log and the metrics. No other code writes a record.
impl Drop for Record {
    fn drop(&mut self) {
        // Access logs use 499 if the client has disconnected before the answer.
        let gone = || StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
        let reason = self.reason.or(match self.status {
            Some(_) => None,
            None => Some("client_gone"),
        });
        let status = self.status.unwrap_or_else(gone);
        let ended = self.answered.unwrap_or_else(|| self.site.clock().instant());
        let duration = ended.saturating_duration_since(self.started);
        let route = self.route.as_deref();
        let counters = self.site.counters();
        counters.count(route.map(Route::index), self.decided, status, duration);
        telemetry::RequestEvent {
            method: &self.method,
            path: self.target.as_ref().map(PathAndQuery::path),
            version: self.version,
            client: self.client,
            status,
            route: route.map(Route::name),
            decided: self.decided,
            reason,
            duration,
            waited: self.waited,
            upstream_duration: self.upstream_duration,
            // A request that was not forwarded has no upstream in the log.
            upstream: self.upstream_duration.and(route).map(Route::upstream_name),
        }
        .log();
    }
}
