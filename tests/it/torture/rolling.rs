//! Several gateway processes behind HAProxy, which are restarted one after the other under load.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use sidegate::clock::Clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::cluster::Cluster;
use super::replica::Replica;
use super::report::Report;
use super::storm::{SERVERS, start_providers};
use super::visitor::Visitors;
use crate::support::program::{Program, announced, free_address, installed};
use crate::support::torture::app::TokenApp;
use crate::support::torture::fault::Schedule;
use crate::support::torture::ledger::{Ledger, SharedLedger};
use crate::support::torture::server::TortureProvider;
use crate::support::wire::TEST_TIMEOUT;

const SESSIONS: usize = 40;

/// The lifetime of access tokens in seconds, so that refreshes take place during the restarts.
const LIFE: u64 = 5;

/// The number of restarts of each process.
const ROUNDS: usize = 2;

/// HAProxy in front of the processes.
fn load_balancer(cluster: &Cluster, folder: &Path) -> Command {
    let address: SocketAddr = free_address().parse().unwrap();
    let servers = cluster.gateways.iter().enumerate().map(|(place, gateway)| {
        let (public, operations) = (gateway.process.address(), gateway.process.operations());
        let (ip, port) = (operations.ip(), operations.port());
        format!("  server r{place} {public} check addr {ip} port {port}\n")
    });
    let text = format!(
        "global\n  stats socket unix@admin.sock level admin\n\
         defaults\n  mode http\n  timeout connect 2s\n  timeout client 60s\n  timeout server 150s\n\
         \x20 timeout check 1s\n  option redispatch 1\n  retries 3\n\
         frontend all\n  bind {address}\n  default_backend gateways\n\
         backend gateways\n  balance random\n  option httpchk\n\
         \x20 http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host operations\n\
         \x20 http-check expect status 200\n  default-server inter 200ms fall 1 rise 1\n{}",
        servers.collect::<String>()
    );
    fs::write(folder.join("haproxy.cfg"), text).unwrap();
    let program = installed(Path::new("/usr/sbin/haproxy")).display();
    announced(&format!("{program} -db -f haproxy.cfg"), folder, address)
}

/// Sends a command to HAProxy. Returns the answer.
async fn tell(socket: &str, command: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(command.as_bytes()).await.unwrap();
    stream.write_all(b"\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Waits until HAProxy states this about a process: `DRAIN` or `UP`, and no request in progress.
async fn until_balancer_says(socket: &str, place: usize, wanted: &str) {
    let name = format!("gateways,r{place},");
    let waiting = async {
        loop {
            let stats = tell(socket, "show stat").await;
            let line = stats.lines().find(|line| line.starts_with(&name)).unwrap();
            let columns: Vec<_> = line.split(',').collect();
            // The columns 4 and 17 are the requests in progress and the status.
            if columns[17].starts_with(wanted) && (wanted == "UP" || columns[4] == "0") {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let came = timeout(TEST_TIMEOUT, waiting).await;
    assert!(came.is_ok(), "process {place} is never {wanted}");
}

/// Restarts each process, as an operator does: the load balancer sends no more requests to the
/// process, and then the process gets SIGTERM.
async fn restart_all(cluster: &mut Cluster, socket: &str) {
    for (place, gateway) in cluster.gateways.iter_mut().enumerate() {
        tell(socket, &format!("set server gateways/r{place} state drain")).await;
        until_balancer_says(socket, place, "DRAIN").await;
        gateway.process.signal("TERM").await;
        let status = gateway.process.ended().await;
        assert!(status.success(), "{status}: {}", gateway.process.log());
        gateway.restart().await;
        tell(socket, &format!("set server gateways/r{place} state ready")).await;
        until_balancer_says(socket, place, "UP").await;
    }
}

async fn wait_for_all_users(shared_ledger: &SharedLedger) {
    let mut changes = shared_ledger.subscribe();
    let signed_in = |ledger: &Ledger| ledger.families().len() == SESSIONS;
    let signing_in = timeout(TEST_TIMEOUT, changes.wait_for(signed_in));
    // The result locks the record, so it must be dropped at once.
    let all_signed_in = signing_in.await.is_ok();
    assert!(all_signed_in, "not all users could sign in");
}

/// Fails unless every user has signed in once, and has got new tokens.
fn assert_one_login_each(ledger: &Ledger) {
    let families = ledger.families();
    assert_eq!(families.len(), SESSIONS, "users had to sign in again");
    assert!(families.iter().all(|family| family.refreshes() > 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_17_a_rolling_restart_fails_no_request_and_signs_nobody_out() {
    let clock = Clock::system();
    let shared_ledger = Ledger::shared_ledger();
    let schedule = Schedule::new(1, 0, &[LIFE]);
    let providers = start_providers(&shared_ledger, &schedule, &clock).await;
    let app = TokenApp::start(&shared_ledger, &clock).await;
    let mut cluster = Cluster::start(&providers, &app).await;
    let balancer = Program::start("listening ", |folder| load_balancer(&cluster, folder)).await;
    let socket = balancer.path("admin.sock");
    for place in 0..cluster.gateways.len() {
        until_balancer_says(&socket, place, "UP").await;
    }
    let Visitors {
        setup,
        tasks: mut visitors,
        events: mut happened,
        finished,
    } = Visitors::start(
        [Replica::new(balancer.address().parse().unwrap())].into(),
        providers.iter().map(TortureProvider::url).collect(),
        (&shared_ledger, &schedule),
        (SESSIONS, &SERVERS),
    );
    drop(setup);
    wait_for_all_users(&shared_ledger).await;
    for _ in 0..ROUNDS {
        restart_all(&mut cluster, &socket).await;
    }
    finished.send_replace(true);
    let mut report = Report::new(1, &schedule, 0);
    while let Some(event) = happened.recv().await {
        report.record(event);
    }
    while let Some(visitor) = visitors.join_next().await {
        visitor.unwrap();
    }
    report.close(&shared_ledger.borrow(), 0, Duration::ZERO);
    println!("{report}");
    report.assert_no_failures();
    assert_one_login_each(&shared_ledger.borrow());
    cluster.assert_clean_logs();
}
