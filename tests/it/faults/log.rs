//! Logs that cannot be written: a full disk, a pipe that nobody reads, a closed output, and a file
//! that is rotated. The gateway serves all requests and can be stopped.

use std::io::{BufRead as _, BufReader, PipeReader, pipe};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::{LOOK, Plan, Row, run_row};
use crate::durable::stored_at;
use crate::support::killed::StoreFolder;
use crate::support::limits;
use crate::support::wire::TEST_TIMEOUT;

const LOST: &str = "sidegate_lost_log_lines_total";
const UNWRITTEN: &str = "sidegate_unwritten_log_bytes";

/// The largest number of bytes that wait to be written, with one write in progress.
const CAPACITY: u64 = 8 * 1024 * 1024 + 4096;

/// A number of requests whose log lines need much more memory than `CAPACITY`.
const MANY: usize = 3000;
const LONG: usize = 6000;

/// A gateway that is restarted at `address`, which no other test uses. The sessions are on disk.
fn plan(folder: &Path, address: &'static str) -> Plan {
    Plan {
        rest: stored_at(&StoreFolder::new(folder), folder),
        address: Some(address),
        ..Plan::default()
    }
}

/// Stops the gateway.
async fn stop(row: &mut Row) {
    row.door.close();
    row.gateway.signal("TERM").await;
    assert!(row.gateway.ended().await.success());
}

/// Restarts the gateway with the access log and with other outputs.
async fn restart(row: &mut Row, shell: Command, redirection: &str) {
    stop(row).await;
    let settings = row.gateway.settings();
    settings.write_in_place(&settings.text().replace("access = false\n", ""));
    row.gateway.restart_redirected(shell, redirection).await;
    row.door.open();
}

/// Stops the gateway, and starts it with the usual outputs.
async fn recover(row: &mut Row) {
    stop(row).await;
    row.gateway.restart().await;
    row.door.open();
}

/// Sends requests one after the other, each with a path of at least `length` bytes. Every request
/// is answered.
async fn request(row: &Row, cookie: &str, number: usize, length: usize) {
    let mut client = row.door.connect().await;
    let long = "x".repeat(length);
    for number in 0..number {
        let path = format!("/request-{number}/{long}");
        client.forget();
        client
            .send(format!(
                "GET {path} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n"
            ))
            .await;
        let answer = client.response("GET").await.expect("an answer");
        assert_eq!(answer.text(), format!("alice {path}"));
    }
}

/// A shell whose outputs are one pipe.
fn to_pipe() -> (PipeReader, Command) {
    let (reader, writer) = pipe().unwrap();
    let mut shell = Command::new("sh");
    shell.stdout(writer.try_clone().unwrap()).stderr(writer);
    (reader, shell)
}

/// A shell whose output `$LOG` is a file.
fn to_file(file: &Path) -> (Command, &'static str) {
    let mut shell = Command::new("sh");
    shell.env("LOG", file).stdout(Stdio::null());
    (shell, ">>\"$LOG\" 2>&1")
}

/// Reads complete events from the pipe, up to the event about lost lines. Returns the number of
/// lines that were lost.
fn read_to_report(lines: &mut BufReader<PipeReader>) -> u64 {
    let mut line = String::new();
    loop {
        line.clear();
        lines.read_line(&mut line).unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        if event["message"].as_str().unwrap().contains("lost") {
            return event["lines"].as_u64().unwrap();
        }
    }
}

/// Waits until the file contains `text`.
async fn wait_for(file: &Path, text: &str) -> String {
    let waiting = async {
        loop {
            let log = std::fs::read_to_string(file).unwrap();
            if log.contains(text) {
                return log;
            }
            sleep(LOOK).await;
        }
    };
    let found = timeout(TEST_TIMEOUT, waiting).await;
    found.unwrap_or_else(|_late| panic!("{text} is not in {}", file.display()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_21_a_log_on_a_full_device_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), "127.0.0.11");
    run_row("log on a full device", plan, async |row: &mut Row| {
        let cookie = row.cookie("alice").await;
        // The gateway also starts with both outputs on a full device.
        restart(row, Command::new("sh"), ">/dev/full 2>&1").await;
        request(row, &cookie, MANY, LONG).await;
        row.wait_for_at_least(LOST, 1).await;
        assert!(row.figure(UNWRITTEN).await <= CAPACITY);
        assert!(row.gateway.is_ready().await);
        recover(row).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_21_a_log_that_nobody_reads_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), "127.0.0.12");
    run_row("log that nobody reads", plan, async |row: &mut Row| {
        let cookie = row.cookie("alice").await;
        let (reader, shell) = to_pipe();
        restart(row, shell, "").await;
        request(row, &cookie, MANY, LONG).await;
        row.wait_for_at_least(LOST, 1).await;
        assert!(row.figure(UNWRITTEN).await <= CAPACITY);
        assert!(row.gateway.is_ready().await);
        // When somebody reads, one event states how many lines were lost.
        let mut lines = BufReader::new(reader);
        let reading = spawn_blocking(move || (read_to_report(&mut lines), lines));
        let (reported, lines) = timeout(TEST_TIMEOUT, reading).await.unwrap().unwrap();
        assert_eq!(row.figure(LOST).await, reported);
        // Again nobody reads. The gateway stops nevertheless.
        request(row, &cookie, 200, LONG).await;
        row.wait_for_at_least(UNWRITTEN, 1024).await;
        recover(row).await;
        drop(lines);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_33_a_closed_output_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), "127.0.0.13");
    run_row("closed output", plan, async |row: &mut Row| {
        row.outcome.more_rows += 1;
        let cookie = row.cookie("alice").await;
        let (reader, shell) = to_pipe();
        restart(row, shell, "").await;
        request(row, &cookie, 10, 10).await;
        drop(reader);
        request(row, &cookie, 200, LONG).await;
        row.wait_for_at_least(UNWRITTEN, 1024).await;
        assert!(row.gateway.is_ready().await);
        // Both outputs are closed before the start.
        restart(row, Command::new("sh"), ">&- 2>&-").await;
        request(row, &cookie, 200, LONG).await;
        assert!(row.gateway.is_ready().await);
        recover(row).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_33_the_log_continues_in_a_file_that_is_renamed_or_truncated() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), "127.0.0.14");
    run_row("rotated log", plan, async |row: &mut Row| {
        row.outcome.more_rows += 1;
        let cookie = row.cookie("alice").await;
        let file = folder.path().join("sidegate.log");
        let (shell, redirection) = to_file(&file);
        restart(row, shell, redirection).await;
        request(row, &cookie, 3, 10).await;
        wait_for(&file, "/request-2/").await;
        let renamed: PathBuf = folder.path().join("sidegate.log.1");
        std::fs::rename(&file, &renamed).unwrap();
        request(row, &cookie, 6, 10).await;
        wait_for(&renamed, "/request-5/").await;
        assert!(!file.exists());
        let truncated = std::fs::File::options().write(true).open(&renamed);
        truncated.unwrap().set_len(0).unwrap();
        request(row, &cookie, 9, 10).await;
        let log = wait_for(&renamed, "/request-8/").await;
        assert!(!log.contains('\0'), "the file has a hole");
        assert_eq!(row.figure(LOST).await, 0);
        recover(row).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_21_a_disk_that_was_full_gets_every_line_later() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), "127.0.0.15");
    run_row(
        "log on a disk that is full for a while",
        plan,
        async |row| {
            let cookie = row.cookie("alice").await;
            let file = folder.path().join("sidegate.log");
            let (shell, redirection) = to_file(&file);
            restart(row, shell, redirection).await;
            // The limit also has the effect of a full disk: the write of a line ends in its middle. The
            // signal of the kernel (SIGXFSZ) does not kill the gateway.
            let end = std::fs::metadata(&file).unwrap().len() + 2000;
            limits::limit_file_size(row.gateway.id(), &end.to_string());
            request(row, &cookie, 200, 100).await;
            row.wait_for_at_least(UNWRITTEN, 100 * 200).await;
            assert!(row.gateway.is_ready().await);
            limits::limit_file_size(row.gateway.id(), "unlimited");
            let log = wait_for(&file, "/request-199/").await;
            let complete = log.rsplit_once('\n').unwrap().0;
            let events = complete
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap());
            let of_alice = |event: &Value| {
                let path = event["url.path"].as_str().unwrap_or_default();
                path.starts_with("/request-")
            };
            assert_eq!(events.filter(of_alice).count(), 200);
            assert_eq!(row.figure(LOST).await, 0);
            recover(row).await;
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_events_are_in_the_log_when_the_gateway_has_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), "127.0.0.16");
    run_row("log of a stop", plan, async |row: &mut Row| {
        let cookie = row.cookie("alice").await;
        let file = folder.path().join("sidegate.log");
        let (shell, redirection) = to_file(&file);
        restart(row, shell, redirection).await;
        request(row, &cookie, 500, 100).await;
        stop(row).await;
        let log = std::fs::read_to_string(&file).unwrap();
        assert!(log.contains("/request-499/"), "{log}");
        assert!(log.lines().last().unwrap().contains("Stopped"), "{log}");
        row.gateway.restart().await;
        row.door.open();
    })
    .await;
}
