//! A worker that stands still, and a whole process that stands still.

use std::sync::mpsc;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::{Plan, Row, run_row};
use crate::support::raw::exchange;

const STALLED: &str = "sidegate_stalled_workers";

/// The longest time of a bystander's request whose worker stands still.
const STANDSTILL: Duration = Duration::from_secs(40);

/// A time in which the gateway would notice a worker that stands still.
const LONG: Duration = Duration::from_secs(7);

/// The id of a thread of the process.
fn thread_of(process: u32, name: &str) -> Pid {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let mut threads = threads.map(|thread| thread.unwrap().path());
    let found = threads.find(|thread| {
        let found = std::fs::read_to_string(thread.join("comm")).unwrap();
        found.trim() == name
    });
    let id = found.expect("a thread with this name");
    Pid::from_raw(id.file_name().unwrap().to_str().unwrap().parse().unwrap())
}

/// The status and the text of `/readyz`.
async fn readiness(row: &Row) -> (u16, String) {
    let request = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = exchange(row.gateway.operations(), request, 1).await;
    let answer = &answer.responses[0];
    (answer.status(), answer.text())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_21_a_worker_that_stands_still_is_not_ready() {
    let plan = Plan {
        longest: Some(STANDSTILL),
        ..Plan::default()
    };
    run_row("worker that stands still", plan, async |row: &mut Row| {
        let worker = thread_of(row.gateway.id(), "worker-1");
        assert_eq!(readiness(row).await, (200, "ready\n".to_owned()));
        let (resume, resumed) = mpsc::channel();
        // One thread of the test has to trace the thread of the gateway.
        let stopping = spawn_blocking(move || {
            ptrace::seize(worker, ptrace::Options::empty()).unwrap();
            ptrace::interrupt(worker).unwrap();
            waitpid(worker, Some(WaitPidFlag::__WALL)).unwrap();
            resumed.recv().unwrap();
            ptrace::detach(worker, None).unwrap();
        });
        row.wait_for_at_least(STALLED, 1).await;
        let text = "not ready: workers that stand still: 1\n";
        assert_eq!(readiness(row).await, (503, text.to_owned()));
        let is_said = |log: &str| {
            let mut lines = log.lines();
            lines.any(|line| line.contains("Worker stands still") && line.contains("\"worker\":1"))
        };
        row.gateway.wait_for_log(is_said).await;
        resume.send(()).unwrap();
        stopping.await.unwrap();
        let runs_again = |log: &str| log.contains("Worker runs again");
        row.gateway.wait_for_log(runs_again).await;
        assert_eq!(row.figure(STALLED).await, 0);
        assert_eq!(readiness(row).await.0, 200);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_15_a_suspended_process_is_ready_as_soon_as_it_continues() {
    let plan = Plan {
        longest: Some(STANDSTILL),
        ..Plan::default()
    };
    run_row("suspended process", plan, async |row: &mut Row| {
        row.outcome.more_rows += 1;
        for signal in ["STOP", "TSTP"] {
            row.gateway.signal(signal).await;
            sleep(LONG).await;
            row.gateway.signal("CONT").await;
            for _ in 0..200 {
                assert_eq!(readiness(row).await.0, 200, "{signal}");
                sleep(Duration::from_millis(5)).await;
            }
        }
        assert!(!row.gateway.log().contains("Worker stands still"));
    })
    .await;
}
