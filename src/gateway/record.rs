//! What is written down about a request, gathered on its walk.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response, StatusCode, Version};
use tokio::time::Instant;

use super::{Body, Error, WorkerSite};
use crate::access::Route;
use crate::telemetry::{self, Decided};

/// What the access log and the figures will say. It is written once, at the latest when it drops:
/// a request whose client went away leaves its line, too.
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
    pub(super) decided: Decided,
    pub(super) reason: Option<&'static str>,
    upstream_duration: Option<Duration>,
    /// When it was answered, where the clock was read then anyway.
    answered: Option<Instant>,
    waited: Option<Duration>,
}

impl Record {
    /// Begins a record: until more is known the request is refused.
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
            decided: Decided::Refuse,
            reason: None,
            upstream_duration: None,
            answered: None,
            waited: None,
        }
    }

    /// The site that decides about the request.
    pub(super) fn site(&self) -> &Rc<WorkerSite> {
        &self.site
    }

    /// Notes which route the request takes and what was decided.
    pub(super) fn route(&mut self, route: &Rc<Route>, decided: Decided) {
        self.route = Some(Rc::clone(route));
        self.decided = decided;
    }

    /// Notes how long the request waited for its session.
    pub(super) fn waited(&mut self, duration: Duration) {
        self.waited = Some(self.waited.unwrap_or_default().saturating_add(duration));
    }

    /// Notes that the upstream, asked at `since`, has answered now; of a request that is sent once
    /// more, both times count together.
    pub(super) fn upstream_answered(&mut self, since: Instant) {
        let now = self.site.clock().instant();
        let took = now.saturating_duration_since(since);
        let before = self.upstream_duration.unwrap_or_default();
        self.upstream_duration = Some(before.saturating_add(took));
        self.answered = Some(now);
    }

    /// Notes that what the upstream answered is not the end.
    pub(super) fn not_final(&mut self) {
        self.answered = None;
    }

    /// Notes that the request is answered. The record ends with whoever has it.
    pub(super) fn answered(&mut self, response: Response<Body>) -> Response<Body> {
        self.status = Some(response.status());
        response
    }

    /// The answer to a request that ends with an error; `headers` are the request's.
    pub(super) fn refused(&mut self, error: &Error, headers: &HeaderMap) -> Response<Body> {
        self.reason = Some(error.reason());
        error.log();
        self.answered(error.respond(headers))
    }
}

/// The one exit.
impl Drop for Record {
    fn drop(&mut self) {
        // 499 is what access logs of this field say of a client that went away before its answer.
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
        telemetry::Access {
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
            upstream: self.upstream_duration.and(route).map(Route::upstream_name),
        }
        .log();
    }
}
