//! Counters and durations, for whoever scrapes them.

use std::borrow::Cow;
use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use http::StatusCode;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::histogram::Durations;

type Labels = Vec<(&'static str, Cow<'static, str>)>;

/// What the gateway decided about a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decided {
    /// It was sent on.
    Permit,
    /// A login was asked for.
    Challenge,
    /// Its person may not use the route.
    Forbid,
    /// No route or no host takes it.
    NoRoute,
    /// One of our own endpoints answered.
    Own,
    /// It was malformed.
    Refuse,
}

const DECISIONS: [Decided; 6] = [
    Decided::Permit,
    Decided::Challenge,
    Decided::Forbid,
    Decided::NoRoute,
    Decided::Own,
    Decided::Refuse,
];

impl Decided {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permit => "permit",
            Self::Challenge => "challenge",
            Self::Forbid => "forbid",
            Self::NoRoute => "no_route",
            Self::Own => "own",
            Self::Refuse => "refuse",
        }
    }
}

/// Status classes, 1xx to 5xx.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// All figures of this process. Counting a request takes no lock.
pub struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    cells: Vec<OnceLock<Counter>>,
    routes: Vec<Box<str>>,
    durations: Durations,
    logins: Family<Labels, Counter>,
    token_calls: Family<Labels, Counter>,
    token_durations: Durations,
    sessions: Gauge,
    pushed_out: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("routes", &self.routes.len())
            .finish_non_exhaustive()
    }
}

impl Metrics {
    /// Figures for these routes, each at its index. Requests of no route count under `-`.
    pub fn new(routes: impl IntoIterator<Item = Box<str>>) -> Self {
        let routes: Vec<Box<str>> = routes.into_iter().chain(["-".into()]).collect();
        let count = routes
            .len()
            .saturating_mul(DECISIONS.len())
            .saturating_mul(CLASSES.len());
        let cells = std::iter::repeat_with(OnceLock::new).take(count).collect();
        let mut metrics = Self {
            registry: Registry::with_prefix("sidegate"),
            requests: Family::default(),
            cells,
            routes,
            durations: Durations::default(),
            logins: Family::default(),
            token_calls: Family::default(),
            token_durations: Durations::default(),
            sessions: Gauge::default(),
            pushed_out: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        let requests = "Requests by route, decision and status class";
        registry.register("requests", requests, self.requests.clone());
        let durations = "Time from a request's head to its response's head";
        registry.register(
            "request_duration_seconds",
            durations,
            self.durations.clone(),
        );
        registry.register("logins", "Logins by result and reason", self.logins.clone());
        let calls = "Calls of a provider's token endpoint by result";
        registry.register("token_calls", calls, self.token_calls.clone());
        let durations = "Time of a call of a token endpoint, identity included";
        registry.register(
            "token_call_duration_seconds",
            durations,
            self.token_durations.clone(),
        );
        registry.register("sessions", "Live sessions", self.sessions.clone());
        let pushed_out = "Sessions pushed out because the byte bound was reached, since the start";
        registry.register("sessions_pushed_out", pushed_out, self.pushed_out.clone());
    }

    /// Counts a request. `route` is the route's index, `None` when it has none.
    pub fn request(
        &self,
        route: Option<usize>,
        decided: Decided,
        status: StatusCode,
        duration: Duration,
    ) {
        self.durations.observe(duration);
        let last = self.routes.len().saturating_sub(1);
        let route = route.unwrap_or(last).min(last);
        let decision = DECISIONS
            .iter()
            .position(|one| *one == decided)
            .unwrap_or_default();
        let class = usize::from(status.as_u16() / 100)
            .clamp(1, CLASSES.len())
            .saturating_sub(1);
        let place = route
            .saturating_mul(DECISIONS.len())
            .saturating_add(decision)
            .saturating_mul(CLASSES.len())
            .saturating_add(class);
        let Some(cell) = self.cells.get(place) else {
            return;
        };
        // The family's own lock is taken once for each cell, not once for each request.
        let counter = cell.get_or_init(|| {
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

    /// Counts a login: `ok`, or `failed` with a reason.
    pub fn login(&self, result: &'static str, reason: &'static str) {
        let labels = vec![("result", result.into()), ("reason", reason.into())];
        self.logins.get_or_create_owned(&labels).inc();
    }

    /// Counts a call of a token endpoint.
    pub fn token_call(&self, provider: &str, result: &'static str, duration: Duration) {
        self.token_durations.observe(duration);
        let labels = vec![
            ("provider", provider.to_owned().into()),
            ("result", result.into()),
        ];
        self.token_calls.get_or_create_owned(&labels).inc();
    }

    /// Sets the number of live sessions, and of those pushed out so far.
    pub fn sessions(&self, live: u64, pushed_out: u64) {
        self.sessions.set(i64::try_from(live).unwrap_or(i64::MAX));
        self.pushed_out
            .set(i64::try_from(pushed_out).unwrap_or(i64::MAX));
    }

    /// Everything in the `OpenMetrics` text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail; a partial answer would still be text.
        if encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new(["app".into(), "api".into()])
    }

    #[test]
    fn requests_count_by_route_decision_and_class() {
        let metrics = metrics();
        let count = |route, decided, status: u16| {
            let status = StatusCode::from_u16(status).unwrap();
            metrics.request(route, decided, status, Duration::from_micros(300));
        };
        count(Some(1), Decided::Permit, 204);
        count(Some(1), Decided::Permit, 200);
        count(None, Decided::Refuse, 400);
        count(Some(99), Decided::NoRoute, 404);
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
    fn logins_sessions_and_token_calls_are_shown() {
        let metrics = metrics();
        metrics.login("failed", "state_expired");
        metrics.token_call("main", "ok", Duration::from_millis(20));
        metrics.sessions(7, 2);
        let text = metrics.encode();
        for line in [
            "sidegate_logins_total{result=\"failed\",reason=\"state_expired\"} 1",
            "sidegate_token_calls_total{provider=\"main\",result=\"ok\"} 1",
            "sidegate_sessions 7",
            "sidegate_sessions_pushed_out 2",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
