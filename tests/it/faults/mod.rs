//! Faults under load: slow clients, apps and providers that fail, host names that are lost or
//! change, invented codes, certificates that are replaced, a store that fails, a disk that is read-only
//! or slow, a log that cannot be written, a clock that is set, and a stop of the gateway. Bystanders,
//! who use the gateway at the same time, must not notice a fault. There are five
//! oracles: a bystander gets a correct answer to each request, stays signed in, gets no answer of
//! another user, and gets each answer in time; at the end, the gateway has as many descriptors as
//! at its start, and has nothing unfinished. A gateway that ends although no test stops it is a
//! crash.
//!
//! Each test is a row, or a table of rows. A row gives [`run_row`] a function that causes one fault
//! and checks the effects of the fault. `run_row` starts the gateway and the bystanders, and
//! records the counts of the bystanders. `tests/run faults` computes its last line from these
//! counts.

mod answers;
mod apps;
mod bystander;
mod certificates;
mod clocks;
mod crowds;
mod disk;
mod door;
mod floods;
mod invented_codes;
mod log;
mod logouts;
mod names;
mod outcome;
mod providers;
mod signals;
mod slow;
mod stops;
mod streams;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use self::bystander::Bystander;
use self::door::Door;
use self::outcome::{Outcome, UnfinishedRow};
use crate::support::browser::Browser;
use crate::support::certificates::Authority;
use crate::support::fake_clock::FakeClock;
use crate::support::gateway::{Process, Settings};
use crate::support::hosts::Hosts;
use crate::support::limits;
use crate::support::openid::settings_without_routes;
use crate::support::provider::StandIn;
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, SESSION, TLS_ORIGIN, figure};
use crate::support::socket::{End, Opening, SocketApp};
use crate::support::upstream::{Answer, Recorded, RecordingUpstream};
use crate::support::wire::TEST_TIMEOUT;

/// The longest time of a row.
const ROW_PATIENCE: Duration = Duration::from_mins(3);

/// The number of descriptors that this process needs: both ends of a thousand tunnels, and the
/// sockets of other tests.
const DESCRIPTORS: u32 = 8192;

/// The open streams of the route for streams.
const OPEN: &str = "sidegate_streams_open{route=\"/any\",kind=\"websocket\"}";

/// Metrics that are zero when the gateway has finished everything.
const UNFINISHED: [&str; 6] = [
    OPEN,
    "sidegate_buffered_bytes",
    "sidegate_http2_window_bytes",
    "sidegate_refreshes_under_way",
    "sidegate_waiting_codes",
    "sidegate_waiting_requests",
];

/// The longest time of a bystander's request, unless a row needs a longer time.
const LONGEST: Duration = Duration::from_secs(5);

/// A key of the apps. The gateway soon closes a connection that nobody uses.
const IDLE: &str = "idle_timeout_secs = 1\n";

/// The time between two looks at the gateway's metrics.
const LOOK: Duration = Duration::from_millis(10);

/// A gateway with an app for streams at `/any` and an app for bystanders at `/`. Both routes need a
/// session.
struct Row {
    gateway: Process,
    door: Arc<Door>,
    provider: StandIn,
    sockets: SocketApp,
    app: RecordingUpstream,
    bystanders: Vec<Bystander>,
    /// The number of descriptors of the gateway before its first client.
    descriptors: usize,
    outcome: Outcome,
}

/// The settings of a row that differ from the defaults.
#[expect(
    clippy::struct_excessive_bools,
    reason = "the settings are independent"
)]
#[derive(Default)]
struct Plan {
    /// Keys of the route for streams.
    streams: &'static str,
    /// Keys of the app for streams.
    app: &'static str,
    /// Other sections, such as the store.
    rest: String,
    server: &'static str,
    /// Keys of the provider.
    provider: &'static str,
    /// The host of the provider's URLs, if it is not an address.
    provider_name: Option<&'static str>,
    /// Keys of the app of the bystanders.
    bystanders_app: &'static str,
    /// The gateway uses only one worker.
    one_worker: bool,
    /// Whether the gateway uses TLS, so that its clients can use HTTP/2.
    tls: bool,
    /// The lifetime of access tokens, in seconds.
    token_lifetime: Option<u64>,
    /// Bodies are forwarded while they arrive, so that a slow client occupies a connection.
    without_buffers: bool,
    /// The longest time of a bystander's request, if it is not `LONGEST`.
    longest: Option<Duration>,
    /// The bystanders repeat a request if the gateway has closed its kept connection.
    repeats: bool,
    /// The address of the gateway, if it is not `127.0.0.1`. Only the gateway uses this address, so
    /// its port stays free while the gateway is stopped.
    address: Option<&'static str>,
    /// The provider is an OpenID Provider, which can send logout tokens.
    openid: bool,
    /// Limits of the operating system for the gateway, as arguments of `prlimit`.
    limits: &'static [&'static str],
    /// The only host names that the gateway knows.
    hosts: Option<Arc<Hosts>>,
    /// The system clock of the gateway.
    clock: Option<Arc<FakeClock>>,
}

impl Plan {
    fn settings(
        &self,
        provider: &StandIn,
        sockets: &SocketApp,
        app: &RecordingUpstream,
        tls: Option<&Authority>,
    ) -> Settings {
        let routes = format!(
            "[upstreams.sockets]\nurl = \"{}\"\n{IDLE}{}\n\
             [[routes]]\nprefix = \"/\"\nupstream = \"app\"\n\
             [[routes]]\nprefix = \"/any\"\nupstream = \"sockets\"\n{}\n{}",
            sockets.url(),
            self.app,
            self.streams,
            self.rest
        );
        let origin = if self.tls { TLS_ORIGIN } else { ORIGIN };
        let settings = if self.openid {
            settings_without_routes(&provider.url(), &app.url(), &[])
        } else {
            Settings::new(origin, &provider.url(), &app.url())
        };
        let mut settings = settings
            .server(self.server)
            // The descriptors of a process that allows no core dump are a secret of root.
            .server("core_dumps = true")
            .of_provider(self.provider)
            .app(IDLE)
            .app(self.bystanders_app)
            .with(&routes);
        if self.one_worker {
            settings = settings.one_worker();
        }
        if self.without_buffers {
            settings = settings.server("buffer_mib = 0");
        }
        if let Some(tls) = tls {
            settings = settings.tls(tls);
        }
        if let Some(address) = self.address {
            settings = settings.listening_at(&format!("{address}:0"));
        }
        settings
    }
}

/// Runs one row, or several rows that `fault` counts.
///
/// # Panics
///
/// Panics if a request of a bystander or a check in `fault` has failed.
async fn run_row(name: &'static str, plan: Plan, fault: impl AsyncFnOnce(&mut Row)) {
    let unfinished = UnfinishedRow(name);
    let mut row = Row::start(plan).await;
    let ended = timeout(ROW_PATIENCE, fault(&mut row)).await;
    row.stop_bystanders().await;
    row.outcome.stuck += usize::from(ended.is_err());
    if row.gateway.has_crashed() {
        row.outcome.crashes += 1;
    } else if row.gateway.is_running() {
        row.count_leaks(TEST_TIMEOUT).await;
    }
    drop(unfinished);
    std::mem::take(&mut row.outcome).finish(name);
}

impl Row {
    async fn start(plan: Plan) -> Self {
        limits::set_descriptors(std::process::id(), DESCRIPTORS);
        let provider = StandIn::start().await;
        if let Some(name) = plan.provider_name {
            provider.take_name(name);
        }
        if let Some(lifetime) = plan.token_lifetime {
            provider.token_members(serde_json::json!({ "expires_in": lifetime }));
        }
        let (sockets, app) = (SocketApp::start().await, RecordingUpstream::start().await);
        app.forget_what_is_answered();
        app.answer_by(|request| Answer::ok(&greeting(request)));
        let tls = plan.tls.then(Authority::new);
        let settings = plan.settings(&provider, &sockets, &app, tls.as_ref());
        let gateway = match (&plan.hosts, &plan.clock) {
            (Some(hosts), _) => Process::start_by(settings, hosts.shell()).await,
            (None, Some(clock)) => Process::start_by(settings, clock.shell()).await,
            (None, None) if !plan.limits.is_empty() => {
                Process::start_limited(settings, plan.limits).await
            }
            (None, None) => Process::start_quietly(settings).await,
        };
        let door = Arc::new(Door::new(gateway.address(), tls));
        let mut row = Self {
            descriptors: settled_descriptors(&gateway).await,
            gateway,
            door,
            provider,
            sockets,
            app,
            bystanders: Vec::new(),
            outcome: Outcome::default(),
        };
        for user in ["bob", "carol"] {
            let cookie = row.cookie(user).await;
            let longest = plan.longest.unwrap_or(LONGEST);
            let limits = (longest, plan.repeats);
            let bystander = Bystander::start(&row.door, user, cookie, limits).await;
            row.bystanders.push(bystander);
        }
        row
    }

    /// The `Cookie` field of a user who signs in now.
    async fn cookie(&self, user: &str) -> String {
        let browser = self.browser(user);
        let origin = self.door.origin();
        let page = browser.visit(&format!("{origin}/start")).await;
        assert_eq!(page.text(), format!("{user} /start"), "{}", page.describe());
        format!("{SESSION}={}", browser.cookie(origin, SESSION).unwrap())
    }

    /// Checks that a user is still signed in.
    async fn is_signed_in(&self, user: &str, cookie: &str) {
        let request = format!("GET /after HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n");
        let answer = exchange(self.gateway.address(), request.as_bytes(), 1).await;
        assert_eq!(answer.responses[0].text(), format!("{user} /after"));
    }

    /// Waits until the bystanders have sent some more requests.
    async fn bystanders_go_on(&self, more: usize) {
        let before = self.app.count();
        self.app
            .wait_until(|requests| requests.len() > before + more)
            .await;
    }

    /// Starts the gateway again, which has stopped.
    async fn restart(&mut self) {
        self.gateway.restart().await;
        self.door.open();
    }

    /// A browser whose user at the provider is `user`.
    fn browser(&self, user: &str) -> Browser {
        let browser = match &self.door.tls {
            None => Browser::new(),
            Some(tls) => Browser::trusting(tls),
        };
        let browser = browser.leading(self.door.origin(), self.door.address);
        browser.plant(&self.provider.url(), &format!("user={user}; Path=/"));
        browser
    }

    /// Opens a WebSocket. Returns the client's end and the app's end.
    async fn open(&self, cookie: &str) -> (End, End) {
        let opening = Opening::at("/any").of_browser(cookie);
        let answer = opening.answer(self.gateway.address());
        let ((head, client), app) = tokio::join!(answer, self.sockets.switch());
        assert_eq!(head.status(), 101);
        (client, app)
    }

    /// Waits until a metric of the gateway is at least `least`.
    async fn wait_for_at_least(&self, name: &str, least: u64) {
        let waiting = async {
            while self.figure(name).await < least {
                sleep(LOOK).await;
            }
        };
        let came = timeout(TEST_TIMEOUT, waiting).await;
        assert!(came.is_ok(), "{name} is {}", self.figure(name).await);
    }

    /// A metric of the gateway. A metric that is not reported yet counts as zero.
    async fn figure(&self, name: &str) -> u64 {
        let value = figure(self.gateway.operations(), name).await;
        value.unwrap_or_default()
    }

    /// Waits until each bystander has sent its last request, and adds the counts of the bystanders
    /// to the outcome.
    async fn stop_bystanders(&mut self) {
        for bystander in self.bystanders.drain(..) {
            self.outcome.add(bystander.stop().await);
        }
    }

    /// Waits until the gateway has finished everything and has no more descriptors than at its
    /// start. Whatever remains is stuck or leaked.
    async fn count_leaks(&mut self, patience: Duration) {
        let leaked = || self.gateway.descriptors().saturating_sub(self.descriptors);
        let waiting = async {
            while !self.unfinished().await.is_empty() || leaked() > 0 {
                sleep(LOOK).await;
            }
        };
        if timeout(patience, waiting).await.is_err() {
            let unfinished = self.unfinished().await;
            let open = settled_descriptors(&self.gateway).await;
            self.outcome.leaked_descriptors += open.saturating_sub(self.descriptors);
            self.outcome.stuck += unfinished.len();
        }
    }

    /// The metrics that show unfinished work, with their values.
    async fn unfinished(&self) -> Vec<(&'static str, u64)> {
        let mut unfinished = Vec::new();
        for name in UNFINISHED {
            let value = self.figure(name).await;
            if value > 0 {
                unfinished.push((name, value));
            }
        }
        unfinished
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        if std::thread::panicking() && self.gateway.has_crashed() {
            outcome::record_crash();
        }
    }
}

/// The number of descriptors when the number does not change any more.
async fn settled_descriptors(gateway: &Process) -> usize {
    let mut seen = [0; 5];
    loop {
        seen.rotate_left(1);
        seen[0] = gateway.descriptors();
        if seen.iter().all(|number| *number == seen[0]) {
            return seen[0];
        }
        sleep(LOOK).await;
    }
}

/// The app's answer to a bystander. The answer names the user of the request.
fn greeting(request: &Recorded) -> String {
    let user = request.head.value("x-forwarded-user").unwrap_or_default();
    format!("{user} {}", request.target())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Plan, Row};
    use crate::support::raw::Raw;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_open_connection_counts_as_leaked_and_a_stream_also_as_stuck() {
        let mut row = Row::start(Plan::default()).await;
        let cookie = row.cookie("alice").await;
        let stream = row.open(&cookie).await;
        row.stop_bystanders().await;
        let idle = Raw::connect(row.gateway.address()).await;
        // The gateway closes its unused connections to the apps after one second.
        row.count_leaks(Duration::from_secs(5)).await;
        assert_eq!((row.outcome.leaked_descriptors, row.outcome.stuck), (3, 1));
        drop((stream, idle));
    }
}
