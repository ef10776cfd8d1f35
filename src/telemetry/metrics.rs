//! The metrics of a process.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::histogram::Durations;
use super::log_writer::COUNTS;
use super::process::ProcessMetrics;
use super::requests::RequestCounters;
use super::streams::OpenStream;

pub(super) type Labels = Vec<(&'static str, Cow<'static, str>)>;

/// The result of a reload of the settings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reload {
    /// The new settings are in use.
    Applied,
    /// The new settings are invalid, so the old settings stay in use.
    Refused,
}

/// The purpose of a call to a token endpoint (RFC 6749 sections 4.1.3 and 6).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TokenCall {
    /// The exchange of a code for a token set.
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

/// All metrics of this process. Counting a request takes no lock.
pub struct Metrics {
    registry: Registry,
    /// The metrics whose names do not begin with `sidegate`.
    process: Registry,
    requests: Family<Labels, Counter>,
    durations: Durations,
    logins: Family<Labels, Counter>,
    waiting_codes: Gauge,
    token_calls: Family<Labels, Counter>,
    token_durations: Durations,
    refreshes: Family<Labels, Counter>,
    refused_tokens: Family<Labels, Counter>,
    informational: Family<Labels, Counter>,
    groups_left_out: Family<Labels, Counter>,
    open_streams: Family<Labels, Gauge>,
    ended_streams: Family<Labels, Counter>,
    evictions: Family<Labels, Counter>,
    broken_answers: Family<Labels, Counter>,
    stalled_workers: Gauge,
    shed_connections: Family<Labels, Counter>,
    waiting: Gauge,
    buffered: Gauge,
    http2_windows: Gauge,
    spilled: Gauge,
    spill_files: Gauge,
    refused_spills: Family<Labels, Counter>,
    refusals: Family<Labels, Counter>,
    refreshing: Gauge,
    sessions: Gauge,
    pushed_out: Counter,
    unreadable: Family<Labels, Counter>,
    store_up: Gauge,
    store_replicas: Gauge,
    sites: Gauge,
    reloads: Family<Labels, Counter>,
    last_reload_successful: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    /// Creates all metrics with their initial values.
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("sidegate"),
            process: Registry::default(),
            requests: Family::default(),
            durations: Durations::default(),
            logins: Family::default(),
            waiting_codes: Gauge::default(),
            token_calls: Family::default(),
            token_durations: Durations::default(),
            refreshes: Family::default(),
            refused_tokens: Family::default(),
            informational: Family::default(),
            groups_left_out: Family::default(),
            open_streams: Family::default(),
            ended_streams: Family::default(),
            evictions: Family::default(),
            broken_answers: Family::default(),
            stalled_workers: Gauge::default(),
            shed_connections: Family::default(),
            waiting: Gauge::default(),
            buffered: Gauge::default(),
            http2_windows: Gauge::default(),
            spilled: Gauge::default(),
            spill_files: Gauge::default(),
            refused_spills: Family::default(),
            refusals: Family::default(),
            refreshing: Gauge::default(),
            sessions: Gauge::default(),
            pushed_out: Counter::default(),
            unreadable: Family::default(),
            store_up: Gauge::default(),
            store_replicas: Gauge::default(),
            sites: Gauge::default(),
            reloads: Family::default(),
            last_reload_successful: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        self.process.register_collector(Box::new(ProcessMetrics));
        let registry = &mut self.registry;
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version of the program", build);
        let requests = "Requests by route, decision and status class";
        registry.register("requests", requests, self.requests.clone());
        let refusals = "Requests and connections that were refused because of what the client sent, by \
                        reason";
        registry.register("refusals", refusals, self.refusals.clone());
        let durations = "Time from a request's head to its response's head, without the content";
        registry.register(
            "request_duration_seconds",
            durations,
            self.durations.clone(),
        );
        registry.register("logins", "Logins by result and reason", self.logins.clone());
        let codes = "Authorization codes that wait for their exchange";
        registry.register("waiting_codes", codes, self.waiting_codes.clone());
        let calls = "Calls to a provider's token endpoint by grant and result";
        registry.register("token_calls", calls, self.token_calls.clone());
        let durations = "Time of a call to a token endpoint, with the time to get the identity";
        registry.register(
            "token_call_duration_seconds",
            durations,
            self.token_durations.clone(),
        );
        let refreshes = "Refreshes of sessions by provider, result and reason";
        registry.register("refreshes", refreshes, self.refreshes.clone());
        let refused = "Answers of apps that refuse an access token, by route and outcome";
        registry.register("refused_tokens", refused, self.refused_tokens.clone());
        let informational = "Answers of apps that begin with an informational response, by route \
                             and status";
        registry.register(
            "informational_responses",
            informational,
            self.informational.clone(),
        );
        let left_out = "Groups that the field to an app could not carry, by provider";
        registry.register("groups_left_out", left_out, self.groups_left_out.clone());
        let refreshing = "Refreshes in progress, including those that wait for a retry";
        registry.register("refreshes_under_way", refreshing, self.refreshing.clone());
        let sites = "Versions of the settings in use: the current one, and older ones with unfinished \
                     requests";
        registry.register("sites", sites, self.sites.clone());
        let reloads = "Reloads of the settings by result";
        registry.register("reloads", reloads, self.reloads.clone());
        let last = "1 if the settings in use are those of the last start or reload, 0 if the last \
                    reload was refused";
        registry.register(
            "last_reload_successful",
            last,
            self.last_reload_successful.clone(),
        );
        self.last_reload_successful.set(1);
        self.register_process();
        self.register_sessions();
        self.register_exchanges();
    }

    /// Registers the metrics about the log and the workers.
    fn register_process(&mut self) {
        let registry = &mut self.registry;
        let lost = "Log lines that were lost because the log could not be written";
        registry.register("lost_log_lines", lost, COUNTS.lost.clone());
        let unwritten = "Bytes of log lines that wait to be written";
        registry.register("unwritten_log_bytes", unwritten, COUNTS.unwritten.clone());
        let stalled = "Workers that stand still";
        registry.register("stalled_workers", stalled, self.stalled_workers.clone());
    }

    /// Registers the metrics about sessions and their store.
    fn register_sessions(&mut self) {
        let registry = &mut self.registry;
        registry.register("sessions", "Open sessions", self.sessions.clone());
        let pushed_out = "Sessions that were pushed out since the start because memory was full";
        registry.register("sessions_pushed_out", pushed_out, self.pushed_out.clone());
        let unreadable = "Reads of a shared store that found an unreadable session, by reason";
        registry.register("unreadable_sessions", unreadable, self.unreadable.clone());
        let store_up = "1 if the session store answers and accepts changes, otherwise 0";
        registry.register("session_store_up", store_up, self.store_up.clone());
        let replicas = "Processes that share the session store";
        registry.register(
            "session_store_replicas",
            replicas,
            self.store_replicas.clone(),
        );
        // The control plane corrects these values within a second after the start.
        self.store_up.set(1);
        self.store_replicas.set(1);
        self.unreadable_sessions([("damaged", 0), ("newer", 0), ("unknown_key", 0)]);
    }

    /// Registers the metrics about streams, evictions, broken answers, waiting requests and
    /// buffers.
    fn register_exchanges(&mut self) {
        let registry = &mut self.registry;
        let open = "Switched connections and long answers, by route and kind";
        registry.register("streams_open", open, self.open_streams.clone());
        let ended = "Ended switched connections and long answers by route and reason";
        registry.register("streams_ended", ended, self.ended_streams.clone());
        let evictions = "Requests and answers that lost their connection to a waiting request, by \
                         route, kind and reason";
        registry.register("evictions", evictions, self.evictions.clone());
        let broken = "Answers of apps that ended before they were complete, by route and end";
        registry.register("broken_answers", broken, self.broken_answers.clone());
        let shed = "Connections of clients that were closed to make room for others, by reason";
        registry.register("shed_connections", shed, self.shed_connections.clone());
        let waiting = "Requests that wait for their session or its access token";
        registry.register("waiting_requests", waiting, self.waiting.clone());
        let buffered = "Bytes of the buffers for slow clients that are in memory";
        registry.register("buffered_bytes", buffered, self.buffered.clone());
        let windows = "Bytes that HTTP/2 clients may send before the gateway has read earlier bytes, \
                       beyond 64 KiB for each connection";
        registry.register("http2_window_bytes", windows, self.http2_windows.clone());
        let spilled = "Bytes of the buffers for slow clients that are in files";
        registry.register("spilled_bytes", spilled, self.spilled.clone());
        let files = "Open files with buffered bodies";
        registry.register("spill_files", files, self.spill_files.clone());
        let refused = "Bodies that could not be written to a file, by reason";
        registry.register("refused_spills", refused, self.refused_spills.clone());
    }

    /// Returns the counters for the requests that use one version of the settings. `routes`
    /// contains the names of the routes, in the order of their indexes. Routes with the same name
    /// in several versions of the settings share their counters.
    pub(crate) fn request_counters(
        &self,
        routes: impl IntoIterator<Item = Box<str>>,
    ) -> RequestCounters {
        RequestCounters::new(routes, self.requests.clone(), self.durations.clone())
    }

    /// Counts a login. `result` is `ok` or `failed`, and `reason` is the reason for the failure.
    pub fn login(&self, result: &'static str, reason: &'static str) {
        let labels = vec![("result", result.into()), ("reason", reason.into())];
        self.logins.get_or_create_owned(&labels).inc();
    }

    /// Counts a code as waiting for its exchange, until the guard is dropped.
    pub(crate) fn waiting_code(&self) -> GaugeGuard {
        GaugeGuard::new(&self.waiting_codes)
    }

    /// Counts a call to a token endpoint.
    pub(crate) fn token_call(
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

    /// Counts a refresh. The labels are the result of the refresh (`renewed`, `ended`, `kept` or
    /// `alarm`) and the reason for the result.
    pub(crate) fn refresh(&self, provider: &str, result: &'static str, reason: &'static str) {
        let labels = vec![
            ("provider", provider.to_owned().into()),
            ("result", result.into()),
            ("reason", reason.into()),
        ];
        self.refreshes.get_or_create_owned(&labels).inc();
    }

    /// Counts an answer in which an app refuses a token. The label states what the gateway did with
    /// the answer: `passed`, `retried`, `relogin` or `unavailable`.
    pub(crate) fn refused_token(&self, route: &str, outcome: &'static str) {
        let labels = vec![
            ("route", route.to_owned().into()),
            ("outcome", outcome.into()),
        ];
        self.refused_tokens.get_or_create_owned(&labels).inc();
    }

    /// Counts an answer for which the app first sent an informational (1xx) response.
    pub(crate) fn informational(&self, route: &str, status: StatusCode) {
        let labels = vec![
            ("route", route.to_owned().into()),
            ("status", status.as_str().to_owned().into()),
        ];
        self.informational.get_or_create_owned(&labels).inc();
    }

    /// Counts the groups of a user that do not fit into the groups field of a request to an app.
    /// The groups are counted when the session of the user is read, not for each request.
    pub(crate) fn groups_left_out(&self, provider: &str, count: usize) {
        let labels = vec![("provider", provider.to_owned().into())];
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.groups_left_out
            .get_or_create_owned(&labels)
            .inc_by(count);
    }

    /// Counts a request that lost its connection because another request waited for a connection to
    /// the app. `kind` is `request` before the answer has begun, and `response` after the answer
    /// has begun.
    pub(crate) fn evicted(&self, route: &str, kind: &'static str, reason: &'static str) {
        let labels = vec![
            ("route", route.to_owned().into()),
            ("kind", kind.into()),
            ("reason", reason.into()),
        ];
        self.evictions.get_or_create_owned(&labels).inc();
    }

    /// Counts a stream as open, until the returned value is dropped.
    pub(crate) fn stream(&self, route: &str, kind: &'static str) -> OpenStream {
        let labels = vec![("route", route.to_owned().into()), ("kind", kind.into())];
        let open = self.open_streams.get_or_create_owned(&labels);
        OpenStream::new(route, GaugeGuard::new(&open), self.ended_streams.clone())
    }

    /// Counts an incomplete answer: an answer of an app that broke off.
    pub(crate) fn broken_answer(&self, route: &str, end: &'static str) {
        let labels = vec![("route", route.to_owned().into()), ("end", end.into())];
        self.broken_answers.get_or_create_owned(&labels).inc();
    }

    /// Sets the number of workers that stand still.
    pub(crate) fn stalled_workers(&self, count: usize) {
        self.stalled_workers
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a connection that was closed to make room for others.
    pub(crate) fn shed_connection(&self, reason: &'static str) {
        let labels = vec![("reason", reason.into())];
        self.shed_connections.get_or_create_owned(&labels).inc();
    }

    /// Counts a request as waiting for its session, until the guard is dropped.
    pub(crate) fn waiting(&self) -> GaugeGuard {
        GaugeGuard::new(&self.waiting)
    }

    /// The number of bytes in memory that the buffers for slow clients use.
    pub(crate) fn buffered(&self) -> &Gauge {
        &self.buffered
    }

    /// The number of bytes that the receive windows of HTTP/2 connections may use, beyond the smallest
    /// window of each connection.
    pub(crate) fn http2_windows(&self) -> &Gauge {
        &self.http2_windows
    }

    /// The number of bytes of the buffers for slow clients that are in files.
    pub(crate) fn spilled(&self) -> &Gauge {
        &self.spilled
    }

    /// The number of open files with buffered bodies.
    pub(crate) fn spill_files(&self) -> &Gauge {
        &self.spill_files
    }

    /// Counts a body that could not be written to a file. `reason` is `full`, `descriptors` or
    /// `disk_error`.
    pub(crate) fn refused_spill(&self, reason: &'static str) {
        let labels = vec![("reason", reason.into())];
        self.refused_spills.get_or_create_owned(&labels).inc();
    }

    /// Counts a request that was refused, or a connection that was closed, because of what the client
    /// sent.
    pub(crate) fn refusal(&self, reason: &'static str) {
        let labels = vec![("reason", reason.into())];
        self.refusals.get_or_create_owned(&labels).inc();
    }

    /// Counts a refresh as in progress until the returned guard is dropped.
    pub(crate) fn refreshing(&self) -> GaugeGuard {
        GaugeGuard::new(&self.refreshing)
    }

    /// Counts a site (one version of the settings) as in use, until the guard is dropped.
    pub fn site(&self) -> GaugeGuard {
        GaugeGuard::new(&self.sites)
    }

    /// Counts a reload of the settings.
    pub fn reload(&self, outcome: Reload) {
        let (result, successful) = match outcome {
            Reload::Applied => ("applied", 1),
            Reload::Refused => ("refused", 0),
        };
        self.last_reload_successful.set(successful);
        let labels = vec![("result", result.into())];
        self.reloads.get_or_create_owned(&labels).inc();
    }

    /// Sets the number of open sessions, and the number of sessions that were removed since the
    /// start because memory was full.
    pub fn sessions(&self, live: u64, pushed_out: u64) {
        self.sessions.set(i64::try_from(live).unwrap_or(i64::MAX));
        self.pushed_out.inner().store(pushed_out, Ordering::Relaxed);
    }

    /// Sets the numbers of reads that found a session which cannot be read, by reason.
    pub(crate) fn unreadable_sessions(&self, counts: [(&'static str, u64); 3]) {
        for (reason, count) in counts {
            let labels = vec![("reason", reason.into())];
            let counter = self.unreadable.get_or_create_owned(&labels);
            counter.inner().store(count, Ordering::Relaxed);
        }
    }

    /// Sets whether the session store answers and accepts changes, and the number of processes that
    /// share the store.
    pub(crate) fn session_store(&self, is_up: bool, replicas: NonZeroU32) {
        self.store_up.set(i64::from(is_up));
        self.store_replicas.set(i64::from(replicas.get()));
    }

    /// Returns all metrics in the `OpenMetrics` text format.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // A write to a string never fails. If a write failed, this function would return an empty
        // text, because an incomplete text must never be reported.
        let encoded = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &self.process))
            .and_then(|()| encode_eof(&mut text));
        if encoded.is_err() {
            text.clear();
        }
        text
    }
}

/// A guard that increases a gauge by one until the guard is dropped.
#[derive(Debug)]
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    pub(super) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
