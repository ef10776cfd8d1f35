//! Request counters for each route.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::histogram::Durations;
use super::metrics::Labels;

/// The decision about a request, as a label of metrics and events.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum DecisionLabel {
    /// The request was forwarded.
    Permit,
    /// A login is needed.
    Challenge,
    /// The user is not allowed to use the route.
    Forbid,
    /// No route matches, or the host is unknown.
    NoRoute,
    /// The request is for one of the gateway's own endpoints.
    Own,
    /// The request was invalid.
    Refuse,
    /// The session exists but cannot be used now.
    Unavailable,
    /// The request was forwarded, although the rule of the route refuses the user. The settings do
    /// not enforce the rule.
    WouldForbid,
}

const DECISIONS: [DecisionLabel; 8] = [
    DecisionLabel::Permit,
    DecisionLabel::Challenge,
    DecisionLabel::Forbid,
    DecisionLabel::NoRoute,
    DecisionLabel::Own,
    DecisionLabel::Refuse,
    DecisionLabel::Unavailable,
    DecisionLabel::WouldForbid,
];

impl DecisionLabel {
    /// Returns the value of the metric label `decision`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Permit => "permit",
            Self::Challenge => "challenge",
            Self::Forbid => "forbid",
            Self::NoRoute => "no_route",
            Self::Own => "own",
            Self::Refuse => "refuse",
            Self::Unavailable => "unavailable",
            Self::WouldForbid => "would_forbid",
        }
    }
}

/// The classes of status codes.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Counts the requests that use one version of the settings. Counting a request takes no lock.
/// There is one counter for each combination of route, decision and status class.
pub(crate) struct RequestCounters {
    /// The names of the routes, and `-` for requests without a route.
    routes: Vec<Box<str>>,
    /// A counter is created when the counter is first used.
    counters: Vec<OnceLock<Counter>>,
    requests: Family<Labels, Counter>,
    durations: Durations,
}

impl RequestCounters {
    pub(super) fn new(
        routes: impl IntoIterator<Item = Box<str>>,
        requests: Family<Labels, Counter>,
        durations: Durations,
    ) -> Self {
        let routes: Vec<Box<str>> = routes.into_iter().chain(["-".into()]).collect();
        let count = routes
            .len()
            .saturating_mul(DECISIONS.len())
            .saturating_mul(CLASSES.len());
        Self {
            routes,
            counters: std::iter::repeat_with(OnceLock::new).take(count).collect(),
            requests,
            durations,
        }
    }

    /// Counts a request. `route` is the index of the route, or `None` for a request without a
    /// route.
    pub(crate) fn count(
        &self,
        route: Option<usize>,
        decided: DecisionLabel,
        status: StatusCode,
        duration: Duration,
    ) {
        self.durations.observe(duration);
        let last = self.routes.len().saturating_sub(1);
        // Metrics must not cause a panic, so a request with an invalid index is counted as a
        // request without a route.
        let route = route.unwrap_or(last).min(last);
        let decision = DECISIONS
            .iter()
            .position(|one| *one == decided)
            .unwrap_or_default();
        let class = usize::from(status.as_u16() / 100)
            .clamp(1, CLASSES.len())
            .saturating_sub(1);
        let index = route
            .saturating_mul(DECISIONS.len())
            .saturating_add(decision)
            .saturating_mul(CLASSES.len())
            .saturating_add(class);
        let Some(counter) = self.counters.get(index) else {
            return;
        };
        // The lock of the metric family is taken only when a counter is created.
        let counter = counter.get_or_init(|| {
            let route = self
                .routes
                .get(route)
                .map_or_else(String::new, ToString::to_string);
            let class = CLASSES.get(class).copied().unwrap_or_default();
            self.requests.get_or_create_owned(&vec![
                ("route", route.into()),
                ("decision", decided.as_str().into()),
                ("status", class.into()),
            ])
        });
        counter.inc();
    }
}

impl fmt::Debug for RequestCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestCounters")
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn requests_count_by_route_decision_and_class() {
        let metrics = Metrics::default();
        let requests = metrics.request_counters(["app".into(), "api".into()]);
        let count = |route, decided, status: u16| {
            let status = StatusCode::from_u16(status).unwrap();
            requests.count(route, decided, status, Duration::from_micros(300));
        };
        count(Some(1), DecisionLabel::Permit, 204);
        count(Some(1), DecisionLabel::Permit, 200);
        count(None, DecisionLabel::Refuse, 400);
        count(Some(99), DecisionLabel::NoRoute, 404);
        let text = metrics.encode();
        for line in [
            "sidegate_requests_total{route=\"api\",decision=\"permit\",status=\"2xx\"} 2",
            "sidegate_requests_total{route=\"-\",decision=\"refuse\",status=\"4xx\"} 1",
            "sidegate_requests_total{route=\"-\",decision=\"no_route\",status=\"4xx\"} 1",
            "sidegate_request_duration_seconds_count 4",
            "sidegate_request_duration_seconds_bucket{le=\"0.00025\"} 0",
            "sidegate_request_duration_seconds_bucket{le=\"0.0005\"} 4",
            "sidegate_request_duration_seconds_bucket{le=\"10.0\"} 4",
            "sidegate_request_duration_seconds_bucket{le=\"+Inf\"} 4",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn routes_of_the_same_name_share_counters_across_sites() {
        let metrics = Metrics::default();
        let old = metrics.request_counters(["app".into(), "api".into()]);
        let new = metrics.request_counters(["more".into(), "app".into()]);
        for (counters, index) in [(&old, 0), (&new, 1)] {
            let (permit, ok) = (DecisionLabel::Permit, StatusCode::OK);
            counters.count(Some(index), permit, ok, Duration::ZERO);
        }
        let line = "sidegate_requests_total{route=\"app\",decision=\"permit\",status=\"2xx\"} 2";
        assert!(metrics.encode().contains(line), "{}", metrics.encode());
    }
}
