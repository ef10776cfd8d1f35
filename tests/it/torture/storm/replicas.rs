//! Several gateway processes with one store. Each request goes to any of the processes. Providers
//! fail, processes are killed and stopped, and the connections to the store fail.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sidegate::clock::Clock;
use tokio::sync::watch;

use super::{OUTAGE, Plan, SERVERS, finish, start_providers};
use crate::support::torture::app::TokenApp;
use crate::support::torture::fault::{Fault, Schedule};
use crate::support::torture::ledger::Ledger;
use crate::support::torture::server::TortureProvider;
use crate::torture::cluster::{Cluster, REPLICAS};
use crate::torture::report::Report;
use crate::torture::visitor::{Setup, Visitors};

/// The possible lifetimes of access tokens in seconds.
const LIFETIMES: [u64; 3] = [5, 6, 7];

const SESSIONS: usize = 300;

/// The percentage of refreshes with a fault at the first try.
const PERCENT: u64 = 25;

/// The minimum number of occurrences of each kind of fault.
const MINIMUM_OF_EACH_FAULT: usize = 2;

/// The durations of the faults, and the time between two faults.
const STOPPED: Duration = Duration::from_secs(10);
const KILLED: Duration = Duration::from_millis(500);
const STORE_BLOCKED: Duration = Duration::from_secs(3);
const STORE_STOPPED: Duration = Duration::from_secs(2);
const BETWEEN_INCIDENTS: Duration = Duration::from_millis(1500);

/// The time after a fault of the store during which a gateway may still answer 503.
const STORE_RETURNS: Duration = Duration::from_secs(3);

/// A fault of a process, of the store or of a provider.
#[derive(Clone, Copy, Debug)]
enum Incident {
    /// SIGKILL, and a new process.
    Killed,
    /// SIGSTOP for longer than the store's answers take.
    Stopped,
    /// No packet passes between one process and the store.
    StoreBlocked,
    /// All connections between one process and the store are closed.
    StoreCut,
    /// The store is stopped, for all processes.
    StoreStopped,
    /// Another server of the store becomes the master.
    Failover,
    /// A provider refuses connections.
    ProviderGone,
}

impl Incident {
    const ALL: [Self; 7] = [
        Self::Killed,
        Self::StoreBlocked,
        Self::ProviderGone,
        Self::Stopped,
        Self::StoreCut,
        Self::StoreStopped,
        Self::Failover,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Killed => "process killed",
            Self::Stopped => "process stopped for 10 s",
            Self::StoreBlocked => "store unreachable for one process",
            Self::StoreCut => "connections to the store cut",
            Self::StoreStopped => "store stopped",
            Self::Failover => "failover of the store",
            Self::ProviderGone => "provider gone",
        }
    }
}

/// The servers on which faults happen.
struct Machines {
    cluster: Cluster,
    providers: Vec<TortureProvider>,
    counts: BTreeMap<&'static str, usize>,
    /// The times and the names of the faults.
    history: Vec<String>,
}

impl Machines {
    /// Causes a fault and repairs it. `chosen` selects the process or the provider.
    async fn suffer(&mut self, incident: Incident, chosen: usize, setup: &Setup) {
        let concerns_store = match incident {
            Incident::StoreBlocked
            | Incident::StoreCut
            | Incident::StoreStopped
            | Incident::Failover => true,
            Incident::Killed | Incident::Stopped | Incident::ProviderGone => false,
        };
        if concerns_store {
            setup.store_trouble_until.store(u64::MAX, Ordering::SeqCst);
        }
        *self.counts.entry(incident.name()).or_default() += 1;
        let place = chosen % REPLICAS;
        let begun = Clock::system().now().as_millis();
        self.history
            .push(format!("{begun} {} ({place})", incident.name()));
        let (gateway, replica) = (&mut self.cluster.gateways[place], &setup.replicas[place]);
        match incident {
            Incident::Killed => {
                replica.goes_down();
                gateway.process.signal("KILL").await;
                let status = gateway.process.ended().await;
                assert_eq!(status.signal(), Some(9), "{status}");
                let now = Clock::system().now();
                let killed = |ledger: &mut Ledger| ledger.process_killed(place, now);
                setup.shared_ledger.send_modify(killed);
                tokio::time::sleep(KILLED).await;
                gateway.restart().await;
                replica.comes_up();
            }
            Incident::Stopped => {
                replica.goes_down();
                gateway.process.signal("STOP").await;
                tokio::time::sleep(STOPPED).await;
                gateway.process.signal("CONT").await;
                replica.comes_up();
            }
            Incident::StoreBlocked => {
                gateway.gate.block();
                tokio::time::sleep(STORE_BLOCKED).await;
                gateway.gate.unblock();
            }
            Incident::StoreCut => gateway.gate.cut(),
            Incident::StoreStopped => {
                self.cluster.store.signal("STOP").await;
                tokio::time::sleep(STORE_STOPPED).await;
                self.cluster.store.signal("CONT").await;
            }
            Incident::Failover => self.cluster.fail_over().await,
            Incident::ProviderGone => {
                let place = chosen % self.providers.len();
                self.providers[place].is_gone_for(OUTAGE).await;
            }
        }
        if concerns_store {
            let until = Clock::system().now().plus(STORE_RETURNS).as_millis();
            setup.store_trouble_until.store(until, Ordering::SeqCst);
        }
    }

    /// Causes one fault after the other, until the run ends.
    async fn suffer_until(
        mut self,
        setup: Arc<Setup>,
        mut finished: watch::Receiver<bool>,
    ) -> Self {
        for number in 0.. {
            let pause = finished.wait_for(|finished| *finished);
            if tokio::time::timeout(BETWEEN_INCIDENTS, pause).await.is_ok() {
                break;
            }
            // No user can sign in while a server is away, and this is not a failure of the gateway.
            let nobody_signs_in = setup.signing_in.write().await;
            let incident = Incident::ALL[number % Incident::ALL.len()];
            let chosen = setup.schedule.number(&format!("incident {number}")) >> 1;
            let chosen = usize::try_from(chosen).unwrap();
            self.suffer(incident, chosen, &setup).await;
            setup.outages.fetch_add(1, Ordering::Relaxed);
            drop(nobody_signs_in);
        }
        self
    }
}

/// Whether each kind of fault has occurred often enough.
fn every_fault_occurred(setup: &Setup) -> bool {
    let mut faults = setup.shared_ledger.borrow().faults();
    let mut count = |fault: Fault| faults.remove(fault.name()).unwrap_or_default();
    setup.outages.load(Ordering::Relaxed) >= MINIMUM_OF_EACH_FAULT * Incident::ALL.len()
        && (setup.schedule.faults().iter()).all(|fault| count(*fault) >= MINIMUM_OF_EACH_FAULT)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g_02_three_processes_with_one_store_make_one_refresh_and_sign_nobody_out() {
    let plan = Plan::from_environment();
    let clock = Clock::system();
    let shared_ledger = Ledger::shared_ledger();
    let schedule = Schedule::new(plan.seed, PERCENT, &LIFETIMES).without(Fault::ClientRefused);
    let providers = start_providers(&shared_ledger, &schedule, &clock).await;
    let urls = providers.iter().map(TortureProvider::url).collect();
    let app = TokenApp::start(&shared_ledger, &clock).await;
    let cluster = Cluster::start(&providers, &app).await;
    let replicas = cluster.replicas();
    let machines = Machines {
        cluster,
        providers,
        counts: BTreeMap::new(),
        history: Vec::new(),
    };
    let Visitors {
        setup,
        tasks: mut visitors,
        events: mut happened,
        finished,
    } = Visitors::start(
        replicas,
        urls,
        (&shared_ledger, &schedule),
        (SESSIONS, &SERVERS),
    );
    let storm = tokio::spawn(machines.suffer_until(Arc::clone(&setup), finished.subscribe()));
    let end = clock.now().plus(plan.time);
    finish(&clock, end, || every_fault_occurred(&setup)).await;
    finished.send_replace(true);
    let machines = storm.await.unwrap();
    machines
        .providers
        .iter()
        .for_each(TortureProvider::stop_faults);
    drop(setup);
    let mut incidents = machines.counts.clone();
    let outages = incidents
        .remove(Incident::ProviderGone.name())
        .unwrap_or_default();
    let report = Report::new(plan.seed, &schedule, MINIMUM_OF_EACH_FAULT);
    let mut report = report.with_incidents(REPLICAS, incidents);
    while let Some(event) = happened.recv().await {
        report.record(event);
    }
    while let Some(visitor) = visitors.join_next().await {
        visitor.unwrap();
    }
    report.close(&shared_ledger.borrow(), outages, clock.now().since(end));
    println!("{report}");
    // If the test fails, this shows what happened before a failed request.
    let events = machines.history.into_iter();
    for event in events.chain(machines.cluster.events_of_store()) {
        println!("{event}");
    }
    report.assert_no_failures();
    machines.cluster.assert_clean_logs();
}
