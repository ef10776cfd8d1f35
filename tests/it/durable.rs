//! Sessions that outlive the process.

use std::io::{BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde_json::json;
use sidegate::clock::Clock;
use tokio::time::timeout;

use crate::support::browser::Browser;
use crate::support::gateway::{Gateway, PROGRAM, Settings};
use crate::support::killed::{AT_ONCE, ChildLog, RandomNumbers, StoreFolder, change_sessions};
use crate::support::limits;
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, ROUTES, SESSION, Scene, url};
use crate::support::wire::TEST_TIMEOUT;

/// The environment variable that contains the folder of a child's sessions, and the seed of the
/// child. A test that finds this variable is the child.
const CHILD: &str = "SIDEGATE_TEST_CHILD";

fn as_child() -> Option<(StoreFolder, u64)> {
    let text = std::env::var_os(CHILD)?.into_string().unwrap();
    let (seed, folder) = text.split_once(':').unwrap();
    Some((StoreFolder::new(Path::new(folder)), seed.parse().unwrap()))
}

/// Starts the named test of this binary again, as a child whose output can be read.
fn child(mut command: Command, test: &str, folder: &Path, seed: u64) -> Child {
    command
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, format!("{seed}:{}", folder.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_changes_survive_a_kill_at_any_moment() {
    if let Some((store_folder, seed)) = as_child() {
        return change_sessions(&store_folder, seed).await;
    }
    let test = "durable::acknowledged_changes_survive_a_kill_at_any_moment";
    let seed = 6;
    println!("seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let store_folder = StoreFolder::new(folder.path());
    let (mut random, mut child_log) = (RandomNumbers::new(seed), ChildLog::default());
    // All rounds use the same file. In every fourth round the child is killed at its start.
    for round in 0..12 {
        let command = Command::new(std::env::current_exe().unwrap());
        let mut child = child(command, test, folder.path(), seed * 100 + round);
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let enough = match round % 4 {
            3 => child_log.done(),
            _ => child_log.done() + 1 + random.below(1500),
        };
        child_log.read(&mut said, |child_log| child_log.done() >= enough);
        child.kill().unwrap();
        child_log.read(&mut said, |_| false);
        child.wait().unwrap();
        let sessions = store_folder.start(store_folder.store()).unwrap();
        let held = child_log.check(&sessions, Clock::system().now()).await;
        println!("round {round}: {held:?}");
        assert!(held.is_exact(&child_log), "{held:?}");
        assert!(held.unannounced <= AT_ONCE * (round + 1), "{held:?}");
        sessions.close().await.unwrap();
    }
    let done = [child_log.opened, child_log.replaced, child_log.ended];
    assert!(done.iter().all(|done| *done > 100), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_new_changes_and_loses_no_acknowledged_one() {
    if let Some((store_folder, seed)) = as_child() {
        // The child ends when each task has had a change that could not be written.
        return change_sessions(&store_folder, seed).await;
    }
    let test = "durable::a_full_disk_fails_new_changes_and_loses_no_acknowledged_one";
    let folder = tempfile::tempdir().unwrap();
    let store_folder = StoreFolder::new(folder.path());
    let mut child_log = ChildLog::default();
    // Limits each file of the child to this many blocks of 512 bytes. The limit grows in each
    // round.
    for (seed, blocks) in [(1, 600), (2, 1500), (3, 3500)] {
        let mut command = Command::new("sh");
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        command
            .args(["-c", &script])
            .arg(std::env::current_exe().unwrap());
        let mut child = child(command, test, folder.path(), seed);
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let before = (child_log.opened, child_log.ended);
        child_log.read(&mut said, |_| false);
        assert!(child.wait().unwrap().success());
        assert!(child_log.opened > before.0 && child_log.ended > before.1);
        let sessions = store_folder.start(store_folder.store()).unwrap();
        let held = child_log.check(&sessions, Clock::system().now()).await;
        assert!(held.is_exact(&child_log) && held.live > 0, "{held:?}");
        sessions.close().await.unwrap();
        let length = std::fs::metadata(store_folder.file()).unwrap().len();
        println!("{blocks} blocks: {held:?}, {length} bytes");
    }
}

/// A scene whose sessions are in a folder that outlives the scene.
async fn scene(store_folder: &StoreFolder, folder: &Path) -> Scene {
    let stored = stored_at(store_folder, folder);
    Scene::with(|settings| settings.with(&stored)).await
}

/// Settings for sessions in a folder.
pub(crate) fn stored_at(store_folder: &StoreFolder, folder: &Path) -> String {
    format!(
        "[login]\nstate_key_file = \"{}\"\n[session.store.disk]\nfile = \"{}\"\n",
        folder.join("keys").display(),
        store_folder.file().display(),
    )
}

/// The status of a page for a request with this cookie.
async fn status(gateway: &Gateway, cookie: &str) -> u16 {
    let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n");
    let answer = exchange(gateway.address(), request.as_bytes(), 1).await;
    answer.responses[0].status()
}

/// Sets the file size limit of this process. A small limit has the effect of a full disk.
fn limit_own_file_size(bytes: &str) {
    limits::limit_file_size(std::process::id(), bytes);
}

const RENEWED: &str =
    "sidegate_refreshes_total{provider=\"main\",result=\"renewed\",reason=\"ok\"}";
const NOT_STORED: &str =
    "sidegate_refreshes_total{provider=\"main\",result=\"kept\",reason=\"session_not_stored\"}";

/// Sends a request, which must reach the app with the access token of this number.
async fn seen(scene: &Scene, browser: &Browser, number: usize) {
    let page = browser.fetch(&url("/page")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    let bearer = scene.app.last().head.value("authorization").unwrap();
    assert!(
        bearer.ends_with(&format!(".{number}")),
        "{number}: {bearer}"
    );
}

/// Two refreshes happen while the disk is full. A request waits for the first refresh, and no
/// request waits for the second refresh.
async fn refresh_with_a_full_disk(store_folder: &StoreFolder, folder: &Path) {
    let before = scene(store_folder, folder).await;
    before.provider.token_members(json!({ "expires_in": 60 }));
    let alice = before.signed_in("alice").await;
    before.gateway.advance(Duration::from_secs(61));
    limit_own_file_size("1");
    let waiting = {
        let alice = alice.clone();
        tokio::spawn(async move { alice.fetch(&url("/page")).await })
    };
    before.wait_for_figure(NOT_STORED, 1).await;
    assert!(!waiting.is_finished());
    limit_own_file_size("unlimited");
    let page = waiting.await.unwrap();
    assert_eq!(page.text(), "seen", "{}", page.describe());
    seen(&before, &alice, 2).await;
    assert_eq!(before.provider.refreshes().len(), 1);

    // The token is due for a refresh, but still valid for a moment.
    before.gateway.advance(Duration::from_millis(59_500));
    let failures = before.figure(NOT_STORED).await.unwrap();
    limit_own_file_size("1");
    seen(&before, &alice, 2).await;
    before.wait_for_figure(NOT_STORED, failures + 1).await;
    seen(&before, &alice, 2).await;
    // No request arrives for most of a token's lifetime.
    before.gateway.advance(Duration::from_secs(40));
    before.wait_for_figure(NOT_STORED, failures + 3).await;
    limit_own_file_size("unlimited");
    before.wait_for_figure(RENEWED, 2).await;
    seen(&before, &alice, 3).await;
    assert_eq!(before.provider.refreshes().len(), 2);

    // The file has the newest tokens, and the next refresh with these tokens succeeds.
    let Scene {
        gateway,
        provider,
        app,
    } = before;
    let clock = gateway.clock().clone();
    gateway.drain().await;
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url());
    let gateway = Gateway::with_clock(settings.with(&stored_at(store_folder, folder)), clock);
    let after = Scene {
        gateway,
        provider,
        app,
    };
    let cookie = alice.cookie(ORIGIN, SESSION).unwrap();
    let alice = after.browser();
    alice.plant(ORIGIN, &format!("{SESSION}={cookie}; Path=/; Secure"));
    for (number, later) in [(3, 0), (4, 61)] {
        after.gateway.advance(Duration::from_secs(later));
        seen(&after, &alice, number).await;
    }
    assert_eq!(after.provider.refreshes().len(), 3);
    assert_eq!(after.provider.authorizations().len(), 1);
}

#[tokio::test]
async fn g_06_tokens_that_a_full_disk_refused_are_stored_later_without_a_second_refresh() {
    if let Some((store_folder, _)) = as_child() {
        let folder = store_folder.file().parent().unwrap().to_owned();
        return refresh_with_a_full_disk(&store_folder, &folder).await;
    }
    let test =
        "durable::g_06_tokens_that_a_full_disk_refused_are_stored_later_without_a_second_refresh";
    let folder = tempfile::tempdir().unwrap();
    drop(StoreFolder::new(folder.path()));
    // The test runs in a separate process, because the limit on files must not affect other tests.
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap());
    let mut child = child(command, test, folder.path(), 0);
    let mut said = String::new();
    let mut output = child.stdout.take().unwrap();
    output.read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn people_stay_signed_in_over_a_restart_and_signed_out() {
    let folder = tempfile::tempdir().unwrap();
    let store_folder = StoreFolder::new(folder.path());
    let before = scene(&store_folder, folder.path()).await;
    let alice = before.cookie("alice").await;
    let bob = before.signed_in("bob").await;
    let bobs = format!("{SESSION}={}", bob.cookie(ORIGIN, SESSION).unwrap());
    let page = bob.visit(&url("/oauth2/sign_out")).await;
    assert!(page.text().contains("Sign out?"), "{}", page.describe());
    let request = format!(
        "POST /oauth2/sign_out HTTP/1.1\r\nHost: localhost\r\nOrigin: {ORIGIN}\r\n\
         Content-Length: 0\r\nCookie: {bobs}\r\n\r\n"
    );
    let answer = exchange(before.gateway.address(), request.as_bytes(), 1).await;
    assert_eq!(answer.responses[0].status(), 303);
    before.gateway.drain().await;
    let settings = Settings::new(ORIGIN, &before.provider.url(), &before.app.url());
    let after = Gateway::start(
        settings
            .with(ROUTES)
            .with(&stored_at(&store_folder, folder.path())),
    );
    assert_eq!(status(&after, &alice).await, 200);
    assert_eq!(status(&after, &bobs).await, 401);
}

#[tokio::test]
async fn sessions_end_when_a_provider_name_means_another_server_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store_folder = StoreFolder::new(folder.path());
    let before = scene(&store_folder, folder.path()).await;
    let alice = before.cookie("alice").await;
    before.gateway.drain().await;
    // A provider with another address is another provider.
    let after = scene(&store_folder, folder.path()).await;
    assert_eq!(status(&after.gateway, &alice).await, 401);
    let alice = after.cookie("alice").await;
    assert_eq!(status(&after.gateway, &alice).await, 200);
}

/// Copies all sessions of one session file to another session file. No gateway may use the files.
fn copy_sessions(from: &Path, to: &Path) {
    let table = TableDefinition::<&[u8; 16], &[u8]>::new("sessions");
    let from = Database::open(from).unwrap();
    let from = from.begin_read().unwrap().open_table(table).unwrap();
    let to = Database::open(to).unwrap();
    let transaction = to.begin_write().unwrap();
    let mut copied = 0;
    {
        let mut to = transaction.open_table(table).unwrap();
        for entry in from.iter().unwrap() {
            let (key, value) = entry.unwrap();
            to.insert(key.value(), value.value()).unwrap();
            copied += 1;
        }
    }
    transaction.commit().unwrap();
    assert!(copied > 0);
}

/// Both gateways have the same keys, the same provider and the same client id.
#[tokio::test]
async fn c_26_a_gateway_refuses_its_file_with_a_session_of_another_gateway() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [one, other] = [&folders[0], &folders[1]].map(|folder| StoreFolder::new(folder.path()));
    let Scene {
        gateway,
        provider,
        app,
    } = scene(&one, folders[0].path()).await;
    let with = |store: &StoreFolder, folder: &Path| {
        let settings = Settings::new(ORIGIN, &provider.url(), &app.url());
        settings.with(ROUTES).with(&stored_at(store, folder))
    };
    let browser = Browser::new().leading(ORIGIN, gateway.address());
    let page = browser.visit(&url("/page")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    let cookie = format!("{SESSION}={}", browser.cookie(ORIGIN, SESSION).unwrap());
    gateway.drain().await;
    let second = Gateway::start(with(&other, folders[1].path()));
    assert_eq!(status(&second, &cookie).await, 401);
    second.drain().await;
    // The session of the first gateway is still valid in its own file.
    let first = Gateway::start(with(&one, folders[0].path()));
    assert_eq!(status(&first, &cookie).await, 200);
    first.drain().await;
    copy_sessions(&one.file(), &other.file());
    let settings = with(&other, folders[1].path());
    let mut run = tokio::process::Command::new(PROGRAM);
    run.args(["run", "--config"])
        .arg(settings.write())
        .kill_on_drop(true);
    let run = timeout(TEST_TIMEOUT, run.output()).await.unwrap().unwrap();
    let said = String::from_utf8([run.stdout, run.stderr].concat()).unwrap();
    assert_eq!(run.status.code(), Some(1), "{said}");
    let file = other.file().display().to_string();
    assert!(said.contains(&format!("{file} is damaged")), "{said}");
}
