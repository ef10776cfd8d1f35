//! Signals under load. Only SIGTERM, SIGINT and SIGQUIT stop the gateway.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use rustix::fs::OFlags;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{Plan, Row, run_row};
use crate::durable::stored_at;
use crate::support::gateway::{PROGRAM, Settings};
use crate::support::killed::StoreFolder;
use crate::support::raw::Raw;
use crate::support::scene::ORIGIN;
use crate::support::upstream::{Answer, RecordingUpstream};
use crate::support::wire::TEST_TIMEOUT;

/// A gateway that is stopped and restarted at `address`, with a public app at `/held`.
fn plan(app: &RecordingUpstream, folder: &Path, address: &'static str) -> Plan {
    let stored = stored_at(&StoreFolder::new(folder), folder);
    Plan {
        rest: format!(
            "[upstreams.held]\nurl = \"{}\"\n\
             [[routes]]\nprefix = \"/held\"\nupstream = \"held\"\naccess = \"public\"\n{stored}",
            app.url()
        ),
        address: Some(address),
        ..Plan::default()
    }
}

/// Sends a request that the app does not answer yet.
async fn begin(row: &Row, app: &RecordingUpstream) -> Raw {
    let before = app.count();
    let mut client = Raw::connect(row.gateway.address()).await;
    client
        .send("GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    app.wait_until(|requests| requests.len() > before).await;
    client
}

/// Sends the signal, and waits until the gateway drains.
async fn drain(row: &Row, signal: &str) {
    row.door.close();
    row.gateway.signal(signal).await;
    let drains = |log: &str| log.contains("Draining");
    row.gateway.wait_for_log(drains).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_15_other_signals_stop_nothing() {
    run_row("other signals", Plan::default(), async |row: &mut Row| {
        let ignored = |name: &str, log: &str| {
            let is_said = |line: &str| line.contains("Signal ignored") && line.contains(name);
            log.lines().filter(|line| is_said(line)).count()
        };
        for round in 1..=3 {
            for name in ["USR1", "USR2", "PIPE", "XFSZ"] {
                row.gateway.signal(name).await;
            }
            for name in ["SIGUSR1", "SIGUSR2"] {
                let is_said = |log: &str| ignored(name, log) == round;
                row.gateway.wait_for_log(is_said).await;
            }
            row.gateway.signal("HUP").await;
            let applied = "sidegate_reloads_total{result=\"applied\"}";
            let round = u64::try_from(round).unwrap();
            row.wait_for_at_least(applied, round).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_15_sigquit_and_sigint_drain() {
    let folder = tempfile::tempdir().unwrap();
    let app = RecordingUpstream::start().await;
    let plan = plan(&app, folder.path(), "127.0.0.17");
    run_row("SIGQUIT and SIGINT", plan, async |row: &mut Row| {
        row.outcome.more_rows += 1;
        for signal in ["QUIT", "INT"] {
            let gate = Arc::new(Notify::new());
            app.next(Answer::ok("finished").held_by(&gate));
            let mut client = begin(row, &app).await;
            drain(row, signal).await;
            gate.notify_one();
            let answer = client.response("GET").await.expect("an answer");
            assert_eq!(answer.text(), "finished");
            let code = row.gateway.ended().await.code();
            assert_eq!(code, Some(0), "{signal}");
            row.gateway.restart().await;
            row.door.open();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_15_a_second_signal_stops_the_process_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let app = RecordingUpstream::start().await;
    let plan = plan(&app, folder.path(), "127.0.0.18");
    run_row("second SIGTERM", plan, async |row: &mut Row| {
        app.next(Answer::silence());
        let mut client = begin(row, &app).await;
        // The drain time is 30 seconds, which is longer than the wait for the end of the process.
        drain(row, "TERM").await;
        row.gateway.signal("TERM").await;
        assert_eq!(row.gateway.ended().await.code(), Some(1));
        client.closed().await;
        let is_said = |log: &str| log.contains("stopped at once by a second signal");
        row.gateway.wait_for_log(is_said).await;
        row.gateway.restart().await;
        row.door.open();
    })
    .await;
}

/// Opens a pipe for writing when the program has opened it for reading.
async fn opened(pipe: &Path) -> File {
    let mut options = File::options();
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
    options.write(true).custom_flags(nonblocking);
    let opening = async {
        loop {
            match options.open(pipe) {
                Ok(file) => return file,
                Err(_no_reader) => tokio::task::yield_now().await,
            }
        }
    };
    timeout(TEST_TIMEOUT, opening).await.unwrap()
}

#[tokio::test]
async fn f_15_signals_during_the_start_do_not_kill_the_process() {
    let nowhere = "http://127.0.0.1:1";
    for (signals, is_stopped) in [(&["HUP", "USR1", "USR2"][..], false), (&["TERM"], true)] {
        let settings = Settings::new(ORIGIN, nowhere, nowhere).one_worker();
        let path = settings.write();
        let text = settings.text();
        // The start waits until the test writes the settings into a pipe.
        settings.become_a_pipe().await;
        let mut child = Command::new(PROGRAM)
            .args(["run", "--config"])
            .arg(&path)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pipe = opened(&path).await;
        let id = child.id().unwrap().to_string();
        for signal in signals {
            let mut kill = Command::new("/bin/kill");
            let sent = kill.args(["-s", signal, &id]).status().await;
            assert!(sent.unwrap().success());
        }
        if is_stopped {
            let ended = timeout(TEST_TIMEOUT, child.wait()).await.unwrap();
            assert_eq!(ended.unwrap().code(), Some(0));
            continue;
        }
        // A reload reads the settings again, from a file.
        settings.overwrite(&text);
        std::io::Write::write_all(&mut { pipe }, text.as_bytes()).unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut wanted = vec!["Settings reloaded", "SIGUSR1", "SIGUSR2"];
        let reading = async {
            while !wanted.is_empty() {
                let line = lines.next_line().await.unwrap().expect("all events");
                wanted.retain(|text| !line.contains(text));
            }
        };
        timeout(TEST_TIMEOUT, reading).await.unwrap();
    }
}
