//! Hundreds of sessions over many expiries, with a provider that often fails.
//!
//! The program uses the system's clock, and tokens live for seconds. The timers of the program
//! (pauses, breaker, deadlines, waiting requests) therefore run as in production. With a clock that
//! a test advances, the timers would not run as in production.
//!
//! `SIDEGATE_TORTURE_SEED` and `SIDEGATE_TORTURE_SECS` select another run.

mod replicas;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sidegate::clock::{Clock, Timestamp};
use tokio::sync::watch;

use super::replica::Replica;
use super::report::Report;
use super::visitor::{Setup, Visitors};
use crate::support::gateway::{Process, Settings};
use crate::support::provider::CANARY;
use crate::support::scene::ORIGIN;
use crate::support::torture::app::TokenApp;
use crate::support::torture::fault::{Fault, Schedule};
use crate::support::torture::ledger::{Ledger, ProviderBehavior, SharedLedger};
use crate::support::torture::server::TortureProvider;

/// The servers. Both servers rotate refresh tokens, and end the login when an old refresh token is
/// used again.
pub(super) const SERVERS: [ProviderBehavior; 2] = [
    ProviderBehavior {
        server: "keeping",
        kills_access_tokens: false,
        grace: Duration::ZERO,
    },
    ProviderBehavior {
        server: "killing",
        kills_access_tokens: true,
        grace: Duration::ZERO,
    },
];

/// The possible lifetimes of access tokens in seconds.
const LIFETIMES: [u64; 3] = [3, 4, 5];

const SESSIONS: usize = 240;

/// The percentage of refreshes with a fault at the first try.
const PERCENT: u64 = 25;

/// The minimum number of occurrences of each kind of fault.
const MINIMUM_OF_EACH_FAULT: usize = 20;

/// The duration of an outage, and the time between two outages.
const OUTAGE: Duration = Duration::from_millis(250);
const BETWEEN_OUTAGES: Duration = Duration::from_millis(1500);

/// The parameters of the run.
struct Plan {
    seed: u64,
    time: Duration,
}

impl Plan {
    fn from_environment() -> Self {
        let number = |name, otherwise| {
            #[expect(
                clippy::disallowed_methods,
                reason = "an option of the tests, not a setting of the program"
            )]
            let text = std::env::var(name);
            text.map_or(otherwise, |text| {
                let number = text.parse();
                number.unwrap_or_else(|_| panic!("{name} is no whole number: {text}"))
            })
        };
        Self {
            seed: number("SIDEGATE_TORTURE_SEED", 1),
            time: Duration::from_secs(number("SIDEGATE_TORTURE_SECS", 40)),
        }
    }
}

fn settings(providers: &[TortureProvider], app: &TokenApp) -> Settings {
    // Among thousands of refreshes, some refreshes have two faults and several outages in a row.
    // The pauses after these faults and outages add up to more than half a minute.
    let mut settings = Settings::new(ORIGIN, "http://unused.test", &app.url())
        .with("[session]\nrefresh_wait_secs = 120\n");
    let secret = settings.file("secret", "s3cret\n");
    let mut sections = String::new();
    for (provider, behavior) in providers.iter().zip(SERVERS) {
        let name = behavior.server;
        sections.push_str(&provider.section("oauth2", &secret));
        settings = settings.with(&format!(
            "[[routes]]\nprefix = \"/{name}\"\nprovider = \"{name}\"\n\
             on_upstream_401 = \"refresh_and_retry\"\n"
        ));
    }
    settings
        .provider(&sections)
        .app("connections = 512\nqueue = 1024")
}

pub(super) async fn start_providers(
    shared_ledger: &SharedLedger,
    schedule: &Schedule,
    clock: &Clock,
) -> Vec<TortureProvider> {
    let mut providers = Vec::new();
    for behavior in SERVERS {
        let schedule = schedule.clone();
        providers.push(TortureProvider::start(shared_ledger, behavior, schedule, clock).await);
    }
    providers
}

/// Stops one server after the other for a moment, until the run ends.
async fn outages(
    mut providers: Vec<TortureProvider>,
    setup: Arc<Setup>,
    mut finished: watch::Receiver<bool>,
) -> Vec<TortureProvider> {
    loop {
        let pause = tokio::time::timeout(BETWEEN_OUTAGES, finished.wait_for(|finished| *finished));
        if pause.await.is_ok() {
            return providers;
        }
        // No user can sign in while a server is stopped, and this is not a failure of the gateway.
        let nobody_signs_in = setup.signing_in.write().await;
        let next = setup.outages.fetch_add(1, Ordering::Relaxed) % providers.len();
        providers[next].is_gone_for(OUTAGE).await;
        drop(nobody_signs_in);
    }
}

/// Whether each kind of fault has occurred often enough.
fn every_fault_occurred(setup: &Setup) -> bool {
    let mut faults = setup.shared_ledger.borrow().faults();
    let mut count = |fault: Fault| faults.remove(fault.name()).unwrap_or_default();
    setup.outages.load(Ordering::Relaxed) >= MINIMUM_OF_EACH_FAULT
        && (setup.schedule.faults().iter()).all(|fault| count(*fault) >= MINIMUM_OF_EACH_FAULT)
}

/// Waits until the time `end` and until each fault has occurred often enough.
async fn finish(clock: &Clock, end: Timestamp, enough: impl Fn() -> bool) {
    // A short run, or a run on a slow machine, continues until each fault has occurred.
    let longest = end.plus(Duration::from_mins(3));
    let mut every = tokio::time::interval(Duration::from_millis(100));
    loop {
        every.tick().await;
        let now = clock.now();
        if now >= longest || now >= end && enough() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g_01_g_10_f_38_a_failing_provider_causes_no_failed_request_and_no_forced_login() {
    let plan = Plan::from_environment();
    let clock = Clock::system();
    let shared_ledger = Ledger::shared_ledger();
    // A refused client waits for an operator. No other wait in this test is as long as the wait for
    // an operator.
    let schedule = Schedule::new(plan.seed, PERCENT, &LIFETIMES).without(Fault::ClientRefused);
    let providers = start_providers(&shared_ledger, &schedule, &clock).await;
    let app = TokenApp::start(&shared_ledger, &clock).await;
    let gateway = Process::start_quietly(settings(&providers, &app)).await;
    let Visitors {
        setup,
        tasks: mut visitors,
        events: mut happened,
        finished,
    } = Visitors::start(
        [Replica::new(gateway.address())].into(),
        providers.iter().map(TortureProvider::url).collect(),
        (&shared_ledger, &schedule),
        (SESSIONS, &SERVERS),
    );
    let storm = tokio::spawn(outages(providers, Arc::clone(&setup), finished.subscribe()));
    let mut report = Report::new(plan.seed, &schedule, MINIMUM_OF_EACH_FAULT);
    let mut servers = Vec::new();
    let end = clock.now().plus(plan.time);
    finish(&clock, end, || every_fault_occurred(&setup)).await;
    finished.send_replace(true);
    for provider in storm.await.unwrap() {
        provider.stop_faults();
        servers.push(provider);
    }
    let outages = setup.outages.load(Ordering::Relaxed);
    drop(setup);
    while let Some(event) = happened.recv().await {
        report.record(event);
    }
    while let Some(visitor) = visitors.join_next().await {
        visitor.unwrap();
    }
    report.close(&shared_ledger.borrow(), outages, clock.now().since(end));
    println!("{report}");
    report.assert_no_failures();
    let log = gateway.log();
    for word in [CANARY, "panicked"] {
        assert!(!log.contains(word), "{word} is in the log");
    }
}
