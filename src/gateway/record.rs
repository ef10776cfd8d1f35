//! What is written down about a request, gathered on its walk.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Version};

use super::Gateway;
use crate::access::Route;
use crate::telemetry::{self, Decided};

/// What the access log and the figures will say. It is written once, at the latest when it drops:
/// a request whose client went away leaves its line, too.
#[derive(Debug)]
pub(super) struct Record<'a> {
    gateway: &'a Gateway,
    started: Instant,
    method: Method,
    version: Version,
    status: Option<StatusCode>,
    route: Option<&'a Route>,
    pub(super) client: IpAddr,
    pub(super) target: Option<PathAndQuery>,
    pub(super) decided: Decided,
    pub(super) reason: Option<&'static str>,
    upstream_duration: Option<Duration>,
    waited: Option<Duration>,
}

impl<'a> Record<'a> {
    /// Begins a record: until more is known the request is refused.
    pub(super) fn new(gateway: &'a Gateway, client: IpAddr, parts: &Parts) -> Self {
        Self {
            gateway,
            started: gateway.clock.instant(),
            method: parts.method.clone(),
            version: parts.version,
            status: None,
            route: None,
            client,
            target: None,
            decided: Decided::Refuse,
            reason: None,
            upstream_duration: None,
            waited: None,
        }
    }

    /// Notes which route the request takes and what was decided.
    pub(super) fn route(&mut self, route: &'a Route, decided: Decided) {
        self.route = Some(route);
        self.decided = decided;
    }

    /// Notes how long the request waited for its session.
    pub(super) fn waited(&mut self, duration: Duration) {
        self.waited = Some(self.waited.unwrap_or_default().saturating_add(duration));
    }

    /// Notes how long the upstream took; of a request that is sent once more, both times together.
    pub(super) fn at_upstream(&mut self, duration: Duration) {
        let before = self.upstream_duration.unwrap_or_default();
        self.upstream_duration = Some(before.saturating_add(duration));
    }

    /// Ends the record with the status of the answer.
    pub(super) fn close(mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

/// The one exit.
impl Drop for Record<'_> {
    fn drop(&mut self) {
        // 499 is what access logs of this field say of a client that went away before its answer.
        let gone = || StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
        let reason = self.reason.or(match self.status {
            Some(_) => None,
            None => Some("client_gone"),
        });
        let status = self.status.unwrap_or_else(gone);
        let duration = self
            .gateway
            .clock
            .instant()
            .saturating_duration_since(self.started);
        let index = self.route.map(Route::index);
        self.gateway
            .metrics
            .request(index, self.decided, status, duration);
        telemetry::Access {
            method: &self.method,
            path: self.target.as_ref().map(PathAndQuery::path),
            version: self.version,
            client: self.client,
            status,
            route: self.route.map(Route::name),
            decided: self.decided,
            reason,
            duration,
            waited: self.waited,
            upstream_duration: self.upstream_duration,
            upstream: self
                .upstream_duration
                .and(self.route)
                .map(Route::upstream_name),
        }
        .log();
    }
}
