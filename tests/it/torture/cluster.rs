//! Several gateway processes that share a store, each with a forwarder between the process and the
//! store.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::replica::Replica;
use super::storm::SERVERS;
use crate::support::gate::Gate;
use crate::support::gateway::{Process, Settings};
use crate::support::program::free_address;
use crate::support::provider::CANARY;
use crate::support::redis::{Redis, free_port};
use crate::support::scene::ORIGIN;
use crate::support::torture::app::TokenApp;
use crate::support::torture::server::TortureProvider;

/// The number of processes.
pub(super) const REPLICAS: usize = 3;

/// The deadline of a refresh, which determines the time of a lease: 5 s more. The deadline is longer
/// than a process is stopped, so a stopped process still gets the answer of its call.
const REFRESH_DEADLINE_SECS: u64 = 15;

/// The keys that encrypt the sessions, which all processes share.
const STATE_KEYS: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n";

/// A gateway process, and the forwarder between the process and the store.
pub(super) struct Gateway {
    pub(super) process: Process,
    pub(super) gate: Gate,
    /// The logs of earlier processes.
    old_logs: String,
}

/// The processes and their store.
pub(super) struct Cluster {
    pub(super) gateways: Vec<Gateway>,
    /// The master and its replica. They change their roles at a failover.
    pub(super) store: Redis,
    replica: Redis,
}

impl Cluster {
    /// Starts all processes.
    pub(super) async fn start(providers: &[TortureProvider], app: &TokenApp) -> Self {
        let address: SocketAddr = free_address().parse().unwrap();
        let port = address.port().to_string();
        let store = start_server(&port, &[]).await;
        let (replica_port, of_master) = (free_port(), ["--replicaof", "127.0.0.1", &port]);
        let replica = start_server(&replica_port, &of_master).await;
        replica
            .until(&["info", "replication"], "master_link_status:up")
            .await;
        let mut gateways = Vec::new();
        for process in 0..REPLICAS {
            let gate = Gate::start(address).await;
            let settings = settings(process, &gate, (providers, app));
            gateways.push(Gateway {
                process: Process::start_quietly(settings).await,
                gate,
                old_logs: String::new(),
            });
        }
        Self {
            gateways,
            store,
            replica,
        }
    }

    /// Makes the replica of the store the new master. The connections to the old master stay open, and
    /// the old master refuses changes.
    pub(super) async fn fail_over(&mut self) {
        assert_eq!(self.store.command(&["failover"]).await, "OK");
        self.replica.until(&["role"], "master").await;
        let port = self.replica.command(&["config", "get", "port"]).await;
        let port = port.lines().last().unwrap().parse().unwrap();
        for gateway in &self.gateways {
            gateway.gate.redirect((Ipv4Addr::LOCALHOST, port).into());
        }
        std::mem::swap(&mut self.store, &mut self.replica);
        self.replica
            .until(&["info", "replication"], "master_link_status:up")
            .await;
    }

    /// The processes as the visitors see them.
    pub(super) fn replicas(&self) -> Arc<[Replica]> {
        let addresses = self
            .gateways
            .iter()
            .map(|gateway| gateway.process.address());
        addresses.map(Replica::new).collect()
    }

    /// What the processes have logged about their store.
    pub(super) fn events_of_store(&self) -> Vec<String> {
        let mut events = Vec::new();
        for (process, gateway) in self.gateways.iter().enumerate() {
            let log = gateway.whole_log();
            let lines = log.lines().filter(|line| line.contains("session store"));
            events.extend(lines.map(|line| format!("process {process}: {line}")));
        }
        events
    }

    /// Fails if the log of a process contains a token or a panic.
    pub(super) fn assert_clean_logs(&self) {
        for gateway in &self.gateways {
            let log = gateway.whole_log();
            for word in [CANARY, "panicked"] {
                assert!(!log.contains(word), "{word} is in the log");
            }
        }
    }
}

impl Gateway {
    /// The logs of this process and of the earlier processes.
    fn whole_log(&self) -> String {
        format!("{}{}", self.old_logs, self.process.log())
    }

    /// Starts the process again, after its end.
    pub(super) async fn restart(&mut self) {
        self.old_logs.push_str(&self.process.log());
        self.process.restart().await;
    }
}

async fn start_server(port: &str, options: &[&str]) -> Redis {
    let common = ["--bind", "127.0.0.1", "--port", port];
    let replication = ["--repl-diskless-sync-delay", "0"];
    Redis::start(&[&common[..], &replication, options].concat()).await
}

fn settings(
    process: usize,
    gate: &Gate,
    (providers, app): (&[TortureProvider], &TokenApp),
) -> Settings {
    let settings = Settings::new(ORIGIN, "http://unused.test", &app.url());
    let secret = settings.file("secret", &format!("process-{process}\n"));
    let keys = settings.file("state_keys", STATE_KEYS);
    let store = gate.address();
    let mut sections = String::new();
    let mut rest = format!(
        "[login]\nstate_key_file = \"{keys}\"\n[session]\nrefresh_wait_secs = 120\n\
         [session.store.redis]\nurls = [\"redis://{store}\"]\n"
    );
    for (provider, behavior) in providers.iter().zip(SERVERS) {
        let name = behavior.server;
        sections.push_str(&provider.section("oauth2", &secret));
        writeln!(sections, "refresh.deadline_secs = {REFRESH_DEADLINE_SECS}").unwrap();
        write!(
            rest,
            "[[routes]]\nprefix = \"/{name}\"\nprovider = \"{name}\"\n\
             on_upstream_401 = \"refresh_and_retry\"\n"
        )
        .unwrap();
    }
    settings
        .with(&rest)
        .provider(&sections)
        .app("connections = 512\nqueue = 1024")
}
