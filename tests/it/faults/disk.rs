//! A session file on a disk that becomes read-only, or that is slow.

use std::path::Path;
use std::time::Duration;

use sidegate::clock::Clock;
use tokio::time::timeout;

use super::{Plan, Row, run_row};
use crate::durable::stored_at;
use crate::support::killed::StoreFolder;
use crate::support::strace::Injection;
use crate::support::wire::TEST_TIMEOUT;

/// The thread of the gateway that reads and writes the session file.
const KEEPER: &str = "sessions";

/// The system calls that write to a file, and the effect of a file system that became read-only.
const WRITES: &str = "pwrite64,ftruncate,fallocate,fsync,fdatasync,openat";
const READ_ONLY: &str = "error=EROFS";

/// The system calls that wait for the disk, and the time that each of them takes.
const SYNCS: &str = "fsync,fdatasync";
const SLOW: Duration = Duration::from_millis(700);

/// The number of requests of the bystanders during each fault.
const REQUESTS: usize = 100;

/// The address of a gateway that is stopped and started again.
const ADDRESS: Option<&str> = Some("127.0.0.5");

fn plan(folder: &Path) -> Plan {
    Plan {
        rest: stored_at(&StoreFolder::new(folder), folder),
        address: ADDRESS,
        ..Plan::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_21_a_session_file_that_becomes_read_only_signs_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path());
    run_row("session file read-only", plan, async |row: &mut Row| {
        let before = row.cookie("alice").await;
        let fault = Injection::into(row.gateway.id(), KEEPER, WRITES, READ_ONLY).await;
        // Nobody can sign in, and the page says why.
        let page = row.browser("dave");
        let page = page.visit(&format!("{}/start", row.door.origin())).await;
        assert_eq!(page.status, 503, "{}", page.describe());
        assert!(
            page.text().contains("session_not_stored"),
            "{}",
            page.describe()
        );
        row.bystanders_go_on(REQUESTS).await;
        row.is_signed_in("alice", &before).await;
        assert!(fault.end().await > 0);
        // The gateway waits some time before it writes again.
        let signed_in = async {
            loop {
                let browser = row.browser("dave");
                let page = browser.visit(&format!("{}/start", row.door.origin())).await;
                if page.status == 200 {
                    return;
                }
                assert_eq!(page.status, 503, "{}", page.describe());
            }
        };
        timeout(TEST_TIMEOUT, signed_in).await.unwrap();
        row.door.close();
        row.gateway.signal("TERM").await;
        assert!(row.gateway.ended().await.success());
        row.restart().await;
        row.is_signed_in("alice", &before).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_21_a_slow_session_file_delays_only_logins() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        // A request of a bystander does not wait for the disk.
        longest: Some(SLOW),
        ..plan(folder.path())
    };
    run_row("session file slow", plan, async |row: &mut Row| {
        let delay = format!("delay_enter={}", SLOW.as_micros());
        let fault = Injection::into(row.gateway.id(), KEEPER, SYNCS, &delay).await;
        let clock = Clock::system();
        let began = clock.now();
        let cookie = row.cookie("alice").await;
        let took = clock.now().since(began);
        assert!(took >= SLOW, "{took:?}");
        row.bystanders_go_on(REQUESTS).await;
        row.is_signed_in("alice", &cookie).await;
        assert!(fault.end().await > 0);
    })
    .await;
}
