//! Many sessions that outlive the process: `cargo bench --bench durable`.
//!
//! A child process opens 10,000 sessions, refreshes some and signs others out, until it is killed
//! with SIGKILL. Its file must contain exactly the acknowledged changes. Then the benchmark
//! compares the time of a login on disk with a login in memory. `-- --test` does less of it.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark must fail on an error, and it prints its results"
)]

#[path = "../tests/it/support/killed.rs"]
mod killed;

use std::io::BufReader;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use sidegate::clock::Clock;
use sidegate::session::{Sessions, StoreSettings};
use tokio::task::JoinSet;

use killed::{AT_ONCE, ChildLog, StoreFolder, change_sessions, login};

/// Contains the folder of the child. A process that finds this variable is the child.
const CHILD: &str = "SIDEGATE_BENCH_CHILD";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if let Some(folder) = std::env::var_os(CHILD) {
        let store_folder = StoreFolder::new(Path::new(&folder));
        return runtime.block_on(change_sessions(&store_folder, 1));
    }
    let few = std::env::args().any(|argument| argument == "--test");
    let (sessions, logins) = if few { (500, 100) } else { (10_000, 2_000) };
    runtime.block_on(killed_and_started(sessions));
    runtime.block_on(cost_of_a_login(logins));
}

/// Kills a child after it has opened this number of sessions, and opens its file.
async fn killed_and_started(sessions: u64) {
    let folder = tempfile::tempdir().unwrap();
    let store_folder = StoreFolder::new(folder.path());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut child_log = ChildLog::default();
    let clock = Clock::system();
    let pending = clock.instant();
    child_log.read(&mut said, |child_log| child_log.opened >= sessions);
    let took = clock.instant().duration_since(pending);
    child.kill().unwrap();
    child_log.read(&mut said, |_| false);
    child.wait().unwrap();
    println!(
        "durable: acknowledged={} opened={} renewed={} signed_out={} in {:.1} s by {AT_ONCE} at once, \
         then SIGKILL",
        child_log.done(),
        child_log.opened,
        child_log.replaced,
        child_log.ended,
        took.as_secs_f64(),
    );
    let pending = clock.instant();
    let started = store_folder.start(store_folder.store()).unwrap();
    let took = clock.instant().duration_since(pending);
    let (opened, ended) = (child_log.opened, child_log.ended);
    let held = child_log.check(&started, clock.now()).await;
    let length = std::fs::metadata(store_folder.file()).unwrap().len();
    println!(
        "durable: live={} lost={} back={} stale={} unannounced={} (of {opened} opened, {ended} signed out); \
         start={:.0} ms file={:.1} MiB, {} bytes a session",
        held.live,
        held.lost,
        held.back,
        held.stale,
        held.unannounced,
        took.as_secs_f64() * 1000.0,
        mebibytes(length),
        length / held.live.max(1),
    );
    assert!(held.is_exact(&child_log), "the file holds something else");
    started.close().await.unwrap();
    let after = std::fs::metadata(store_folder.file()).unwrap().len();
    println!("durable: file={:.1} MiB after a stop", mebibytes(after));
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a figure to read"
)]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

/// Logins in memory and on disk, one by one and several in parallel.
async fn cost_of_a_login(logins: u32) {
    let folder = tempfile::tempdir().unwrap();
    let store_folder = StoreFolder::new(folder.path());
    for (name, store) in [
        ("memory", StoreSettings::Memory),
        ("disk", store_folder.store()),
    ] {
        let sessions = Arc::new(store_folder.start(store).unwrap());
        let alone = logged_in(&sessions, logins, 1).await;
        let together = logged_in(&sessions, logins, 64).await;
        println!(
            "durable: a login to {name} takes {:.0} us alone, {:.0} us of 64 at once",
            alone.as_secs_f64() * 1e6,
            together.as_secs_f64() * 1e6,
        );
    }
}

/// The time of each of these logins, with `at_once` logins in parallel.
async fn logged_in(sessions: &Arc<Sessions>, logins: u32, at_once: u32) -> Duration {
    let clock = Clock::system();
    let pending = clock.instant();
    let mut tasks = JoinSet::new();
    for task in 0..at_once {
        let (sessions, clock) = (Arc::clone(sessions), clock.clone());
        tasks.spawn(async move {
            for number in 0..logins / at_once {
                let new = login(&format!("{at_once}-{task}-{number}"), 0);
                sessions.open(new, clock.now()).await.expect("it is stored");
            }
        });
    }
    tasks.join_all().await;
    clock.instant().duration_since(pending) / (logins / at_once * at_once)
}
