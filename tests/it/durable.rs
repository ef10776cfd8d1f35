//! Sessions that outlive the process.

use std::io::BufReader;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use sidegate::clock::Clock;

use crate::support::gateway::{Gateway, Settings};
use crate::support::killed::{AT_ONCE, Dice, Ledger, Place, change_sessions};
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, ROUTES, SESSION, Scene, url};

/// Names the folder of a child's sessions, and its seed: a test that finds it is the child.
const CHILD: &str = "SIDEGATE_TEST_CHILD";

fn as_child() -> Option<(Place, u64)> {
    let text = std::env::var_os(CHILD)?.into_string().unwrap();
    let (seed, folder) = text.split_once(':').unwrap();
    Some((Place::new(Path::new(folder)), seed.parse().unwrap()))
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
async fn what_was_acknowledged_is_there_after_a_kill_at_any_moment() {
    if let Some((place, seed)) = as_child() {
        return change_sessions(&place, seed).await;
    }
    let test = "durable::what_was_acknowledged_is_there_after_a_kill_at_any_moment";
    let seed = 6;
    println!("seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path());
    let (mut dice, mut ledger) = (Dice::new(seed), Ledger::default());
    // The same file lives through all of them; now and then the kill comes at the start.
    for round in 0..12 {
        let command = Command::new(std::env::current_exe().unwrap());
        let mut child = child(command, test, folder.path(), seed * 100 + round);
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let enough = match round % 4 {
            3 => ledger.done(),
            _ => ledger.done() + 1 + dice.below(1500),
        };
        ledger.read(&mut said, |ledger| ledger.done() >= enough);
        child.kill().unwrap();
        ledger.read(&mut said, |_| false);
        child.wait().unwrap();
        let sessions = place.start(place.store()).unwrap();
        let held = ledger.check(&sessions, Clock::system().now()).await;
        println!("round {round}: {held:?}");
        assert!(held.is_exact(&ledger), "{held:?}");
        assert!(held.unheard <= AT_ONCE * (round + 1), "{held:?}");
        sessions.close().await.unwrap();
    }
    let done = [ledger.opened, ledger.replaced, ledger.ended];
    assert!(done.iter().all(|done| *done > 100), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_what_it_does_not_take_and_loses_nothing() {
    if let Some((place, seed)) = as_child() {
        // Ends by itself when each task has met a change that was not taken.
        return change_sessions(&place, seed).await;
    }
    let test = "durable::a_full_disk_fails_what_it_does_not_take_and_loses_nothing";
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path());
    let mut ledger = Ledger::default();
    // No file of the child may grow beyond so many blocks of 512 bytes; more room each time.
    for (seed, blocks) in [(1, 600), (2, 1500), (3, 3500)] {
        let mut command = Command::new("sh");
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        command
            .args(["-c", &script])
            .arg(std::env::current_exe().unwrap());
        let mut child = child(command, test, folder.path(), seed);
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let before = (ledger.opened, ledger.ended);
        ledger.read(&mut said, |_| false);
        assert!(child.wait().unwrap().success());
        assert!(ledger.opened > before.0 && ledger.ended > before.1);
        let sessions = place.start(place.store()).unwrap();
        let held = ledger.check(&sessions, Clock::system().now()).await;
        assert!(held.is_exact(&ledger) && held.live > 0, "{held:?}");
        sessions.close().await.unwrap();
        let length = std::fs::metadata(place.file()).unwrap().len();
        println!("{blocks} blocks: {held:?}, {length} bytes");
    }
}

/// A scene whose sessions lie in a folder that outlives it.
async fn scene(place: &Place, folder: &Path) -> Scene {
    Scene::with(|settings| settings.with(&durable(place, folder))).await
}

/// Settings by which sessions lie there.
fn durable(place: &Place, folder: &Path) -> String {
    format!(
        "[login]\nstate_key_file = \"{}\"\n[session.store.disk]\nfile = \"{}\"\n",
        folder.join("keys").display(),
        place.file().display(),
    )
}

/// The status of the page that a cookie gets.
async fn status(gateway: &Gateway, cookie: &str) -> u16 {
    let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n");
    let answer = exchange(gateway.address(), request.as_bytes(), 1).await;
    answer.responses[0].status()
}

#[tokio::test]
async fn people_stay_signed_in_over_a_restart_and_signed_out() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path());
    let before = scene(&place, folder.path()).await;
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
    let after = Gateway::start(settings.with(ROUTES).with(&durable(&place, folder.path())));
    assert_eq!(status(&after, &alice).await, 200);
    assert_eq!(status(&after, &bobs).await, 401);
}

#[tokio::test]
async fn whom_a_provider_knew_is_nobody_at_the_one_that_its_name_leads_to_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path());
    let before = scene(&place, folder.path()).await;
    let alice = before.cookie("alice").await;
    before.gateway.drain().await;
    // It is at another address, so it is another one.
    let after = scene(&place, folder.path()).await;
    assert_eq!(status(&after.gateway, &alice).await, 401);
    let alice = after.cookie("alice").await;
    assert_eq!(status(&after.gateway, &alice).await, 200);
}
