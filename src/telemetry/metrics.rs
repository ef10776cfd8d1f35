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
    /// Its session could not be used in time.
    Unavailable,
}

const DECISIONS: [Decided; 7] = [
    Decided::Permit,
    Decided::Challenge,
    Decided::Forbid,
    Decided::NoRoute,
    Decided::Own,
    Decided::Refuse,
    Decided::Unavailable,
];

/// What a call of a token endpoint is for (RFC 6749 sections 4.1.3 and 6).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TokenCall {
    /// The exchange of a code.
    Code,
    /// A refresh.
    Refresh,
}

impl TokenCall {
    fn grant(self) -> &'static str {
        match self {
            Self::Code => "authorization_code",
            Self::Refresh => "refresh_token",
        }
    }
}

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
            Self::Unavailable => "unavailable",
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
    refreshes: Family<Labels, Counter>,
    refused_tokens: Family<Labels, Counter>,
    waiting: Gauge,
    refreshing: Gauge,
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
            refreshes: Family::default(),
            refused_tokens: Family::default(),
            waiting: Gauge::default(),
            refreshing: Gauge::default(),
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
        let calls = "Calls of a provider's token endpoint by grant and result";
        registry.register("token_calls", calls, self.token_calls.clone());
        let durations = "Time of a call of a token endpoint, identity included";
        registry.register(
            "token_call_duration_seconds",
            durations,
            self.token_durations.clone(),
        );
        let refreshes = "Refreshes of sessions by provider, result and reason";
        registry.register("refreshes", refreshes, self.refreshes.clone());
        let refused =
            "Answers of apps that refuse an access token, by route and what became of them";
        registry.register("refused_tokens", refused, self.refused_tokens.clone());
        let waiting = "Requests that wait for their session's token or for the session";
        registry.register("waiting_requests", waiting, self.waiting.clone());
        let refreshing = "Refreshes under way, also those that pause before they are tried again";
        registry.register("refreshes_under_way", refreshing, self.refreshing.clone());
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
    pub fn token_call(
        &self,
        provider: &str,
        call: TokenCall,
        result: &'static str,
        duration: Duration,
    ) {
        self.token_durations.observe(duration);
        let labels = vec![
            ("provider", provider.to_owned().into()),
            ("grant", call.grant().into()),
            ("result", result.into()),
        ];
        self.token_calls.get_or_create_owned(&labels).inc();
    }

    /// Counts what became of a refresh: `renewed`, `ended`, `kept` or `alarm`, with a reason.
    pub fn refresh(&self, provider: &str, result: &'static str, reason: &'static str) {
        let labels = vec![
            ("provider", provider.to_owned().into()),
            ("result", result.into()),
            ("reason", reason.into()),
        ];
        self.refreshes.get_or_create_owned(&labels).inc();
    }

    /// Counts an answer of an app that refuses a token: `passed`, `retried` or `relogin`.
    pub fn refused_token(&self, route: &str, outcome: &'static str) {
        let labels = vec![
            ("route", route.to_owned().into()),
            ("outcome", outcome.into()),
        ];
        self.refused_tokens.get_or_create_owned(&labels).inc();
    }

    /// Counts a request as waiting for its session until the guard drops.
    pub fn waiting(&self) -> Counted<'_> {
        Counted::new(&self.waiting)
    }

    /// Counts a refresh as under way until the guard drops.
    pub fn refreshing(&self) -> Counted<'_> {
        Counted::new(&self.refreshing)
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

/// Something that is counted as long as it lasts.
#[derive(Debug)]
pub struct Counted<'a>(&'a Gauge);

impl<'a> Counted<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.dec();
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
        metrics.token_call("main", TokenCall::Code, "ok", Duration::from_millis(20));
        metrics.refresh("main", "ended", "refresh_refused");
        metrics.refused_token("app", "retried");
        metrics.sessions(7, 2);
        let lasting = (metrics.waiting(), metrics.refreshing());
        assert!(metrics.encode().contains("sidegate_waiting_requests 1"));
        assert!(metrics.encode().contains("sidegate_refreshes_under_way 1"));
        drop(lasting);
        let text = metrics.encode();
        for line in [
            "sidegate_logins_total{result=\"failed\",reason=\"state_expired\"} 1",
            "sidegate_token_calls_total{provider=\"main\",grant=\"authorization_code\",result=\"ok\"} 1",
            "sidegate_refreshes_total{provider=\"main\",result=\"ended\",reason=\"refresh_refused\"} 1",
            "sidegate_refused_tokens_total{route=\"app\",outcome=\"retried\"} 1",
            "sidegate_waiting_requests 0",
            "sidegate_refreshes_under_way 0",
            "sidegate_sessions 7",
            "sidegate_sessions_pushed_out 2",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
