//! What is written down about a request, gathered on its walk.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Version};

use crate::access::Route;
use crate::clock::Clock;
use crate::server::Connection;
use crate::telemetry::{self, Decided, Metrics};

/// What the access log and the figures will say, gathered on the walk.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) started: Instant,
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) client: IpAddr,
    pub(super) target: Option<PathAndQuery>,
    pub(super) route: Option<(usize, Box<str>, Box<str>)>,
    pub(super) decided: Decided,
    pub(super) reason: Option<&'static str>,
    pub(super) upstream_duration: Option<Duration>,
}

impl Record {
    /// Begins a record: until more is known the request is refused.
    pub(super) fn new(connection: Connection, parts: &Parts, clock: &Clock) -> Self {
        Self {
            started: clock.instant(),
            method: parts.method.clone(),
            version: parts.version,
            client: connection.peer.ip(),
            target: None,
            route: None,
            decided: Decided::Refuse,
            reason: None,
            upstream_duration: None,
        }
    }

    pub(super) fn route(&mut self, route: &Route, decided: Decided) {
        self.route = Some((
            route.index(),
            route.name().into(),
            route.upstream_name().into(),
        ));
        self.decided = decided;
    }

    /// The one exit.
    pub(super) fn close(&self, status: StatusCode, metrics: &Metrics, clock: &Clock) {
        let duration = clock.instant().saturating_duration_since(self.started);
        let route = self.route.as_ref();
        metrics.request(
            route.map(|(index, ..)| *index),
            self.decided,
            status,
            duration,
        );
        telemetry::Access {
            method: &self.method,
            path: self.target.as_ref().map(PathAndQuery::path),
            version: self.version,
            client: self.client,
            status,
            route: route.map(|(_, name, _)| &**name),
            decided: self.decided,
            reason: self.reason,
            duration,
            upstream_duration: self.upstream_duration,
            upstream: self
                .upstream_duration
                .and(route)
                .map(|(.., upstream)| &**upstream),
        }
        .log();
    }
}
