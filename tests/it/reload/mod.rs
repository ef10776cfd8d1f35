//! Reloading settings in a running gateway: changes that take effect at once, and connections and
//! sessions that are kept.

mod files;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use sidegate::instance::{ReloadCause, ReloadError, Reloaded};
use tokio::sync::Notify;

use crate::support::browser::Browser;
use crate::support::certificates::Authority;
use crate::support::connection::OpenConnection;
use crate::support::gateway::{Process, Settings};
use crate::support::provider::StandIn;
use crate::support::scene::{ORIGIN, SESSION, Scene, TLS_ORIGIN, figure, url, wait_for_figure};
use crate::support::upstream::{Answer, RecordingUpstream};

/// The rule of `/` in every scene, and a rule that no user meets.
const ANYBODY: &str = "[[routes]]\nprefix = \"/\"\n";
const NOBODY: &str =
    "[[routes]]\nprefix = \"/\"\naccess.any_of.groups = [\"nobody\"]\nprovider = \"main\"\n";

const APPLIED: &str = "sidegate_reloads_total{result=\"applied\"}";
const REFUSED: &str = "sidegate_reloads_total{result=\"refused\"}";

/// Replaces the text `from`, which must occur exactly once.
fn edited(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from} in\n{text}");
    text.replace(from, to)
}

/// The `Cookie` field of a browser that has signed in at `address` over TLS.
async fn cookie_of(
    user: &str,
    (address, tls): (std::net::SocketAddr, &Authority),
    provider: &StandIn,
) -> String {
    let browser = Browser::trusting(tls).leading(TLS_ORIGIN, address);
    browser.plant(&provider.url(), &format!("user={user}; Path=/"));
    let page = browser.visit(&format!("{TLS_ORIGIN}/")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    format!("{SESSION}={}", browser.cookie(TLS_ORIGIN, SESSION).unwrap())
}

#[tokio::test]
async fn a_new_rule_decides_the_next_request_of_an_open_connection() {
    let (mut scene, tls) = Scene::over_tls().await;
    let address = scene.gateway.address();
    let cookie = cookie_of("alice", (address, &tls), &scene.provider).await;
    let mut lines = OpenConnection::both(address, &tls).await;
    let open = scene.gateway.settings().text();
    let closed = edited(&open, ANYBODY, NOBODY);
    for _ in 0..3 {
        for (text, status) in [(&open, 200), (&closed, 403)] {
            scene.gateway.reload(text).await.unwrap();
            for line in &mut lines {
                assert_eq!(line.ask(&cookie).await, status);
            }
        }
    }
    assert_eq!(scene.figure(APPLIED).await, Some(6));
}

#[tokio::test]
async fn bad_settings_change_nothing_and_every_problem_is_reported() {
    let mut scene = Scene::new().await;
    let alice = scene.signed_in("alice").await;
    let good = scene.gateway.settings().text();
    let bad = edited(
        &good,
        ANYBODY,
        "[[routes]]\nprefix = \"/\"\nacess = \"public\"\n",
    );
    let bad = bad.replace("workers = 2", "wokers = 2");
    let refused = scene.gateway.reload(&bad).await;
    let Err(ReloadError::Settings(problems)) = refused else {
        panic!("{refused:?}");
    };
    let keys: Vec<&str> = problems.0.iter().map(|problem| &*problem.key).collect();
    assert_eq!(keys, ["server.wokers", "routes.0.acess"]);
    assert_eq!(alice.fetch(&url("/")).await.status, 200);
    assert_eq!(scene.browser().fetch(&url("/")).await.status, 401);
    assert_eq!(scene.figure(REFUSED).await, Some(1));
    assert_eq!(
        scene.figure("sidegate_last_reload_successful").await,
        Some(0)
    );
    scene.gateway.reload(&good).await.unwrap();
    assert_eq!(
        scene.figure("sidegate_last_reload_successful").await,
        Some(1)
    );
}

#[tokio::test]
async fn a_request_keeps_the_settings_with_which_it_began() {
    let mut scene = Scene::new().await;
    let alice = scene.signed_in("alice").await;
    let other = RecordingUpstream::start().await;
    let gate = Arc::new(Notify::new());
    let asked = scene.app.count();
    scene
        .app
        .next(Answer::ok("from the old app").held_by(&gate));
    let slow = alice.clone();
    let slow = tokio::spawn(async move { slow.fetch(&url("/slow")).await });
    scene.app.wait_until(|seen| seen.len() > asked).await;
    let text = scene.gateway.settings().text();
    let text = edited(&text, &scene.app.url(), &other.url());
    scene.gateway.reload(&text).await.unwrap();
    assert_eq!(
        scene.figure("sidegate_sites").await,
        Some(2),
        "one is still used"
    );
    assert_eq!(alice.fetch(&url("/new")).await.status, 200);
    assert_eq!(other.last().target(), "/new");
    gate.notify_one();
    let page = slow.await.unwrap();
    assert_eq!(page.text(), "from the old app", "{}", page.describe());
    // No request uses the old settings any more, so the gateway frees the old settings.
    scene.wait_for_figure("sidegate_sites", 1).await;
}

#[tokio::test]
async fn unchanged_apps_keep_their_connections() {
    let (mut scene, tls) = Scene::over_tls().await;
    let address = scene.gateway.address();
    let cookie = cookie_of("alice", (address, &tls), &scene.provider).await;
    let [mut line, _] = OpenConnection::both(address, &tls).await;
    let text = scene.gateway.settings().text();
    assert_eq!(line.ask(&cookie).await, 200);
    let open = scene.app.connections();
    for number in 1..4 {
        let more = format!("workers = 2\nbody_mib = {number}");
        let text = edited(&text, "workers = 2", &more);
        let reloaded = scene.gateway.reload(&text).await.unwrap();
        assert_eq!(reloaded, Reloaded::default());
        assert_eq!(line.ask(&cookie).await, 200);
    }
    assert_eq!(
        scene.app.connections(),
        open,
        "the app's connection is kept"
    );
    let other = edited(
        &text,
        &scene.app.url(),
        &format!("{}\"\nqueue = 7 #", scene.app.url()),
    );
    scene.gateway.reload(&other).await.unwrap();
    assert_eq!(line.ask(&cookie).await, 200);
    assert_eq!(
        scene.app.connections(),
        open + 1,
        "another app's would not be"
    );
}

#[tokio::test]
async fn a_provider_that_is_another_one_ends_its_sessions_and_no_other_change_does() {
    let mut scene = Scene::new().await;
    let alice = scene.signed_in("alice").await;
    let text = scene.gateway.settings().text();
    // The settings name the same server and client, but another scope.
    let scopes = edited(
        &text,
        "client_id = \"3\"",
        "client_id = \"3\"\nscopes = [\"x\"]",
    );
    let reloaded = scene.gateway.reload(&scopes).await.unwrap();
    assert_eq!(reloaded.sessions.ended, BTreeMap::new());
    assert_eq!(alice.fetch(&url("/")).await.status, 200);
    let anew = edited(&text, "client_id = \"3\"", "client_id = \"4\"");
    let reloaded = scene.gateway.reload(&anew).await.unwrap();
    assert_eq!(
        reloaded.sessions.ended,
        BTreeMap::from([("main".into(), 1)])
    );
    assert_eq!(alice.fetch(&url("/")).await.status, 401);
    // The session does not come back when the old provider is restored.
    scene.gateway.reload(&text).await.unwrap();
    assert_eq!(alice.fetch(&url("/")).await.status, 401);
    let removed = text.replace("[providers.main]", "[providers.other]");
    let removed = removed.replace("\"main\"", "\"other\"");
    assert_eq!(
        scene.signed_in("bob").await.fetch(&url("/")).await.status,
        200
    );
    let reloaded = scene.gateway.reload(&removed).await.unwrap();
    assert_eq!(
        reloaded.sessions.ended,
        BTreeMap::from([("main".into(), 1)])
    );
}

#[tokio::test]
async fn a_login_that_began_before_a_reload_ends_with_the_new_settings() {
    let mut scene = Scene::new().await;
    let text = scene.gateway.settings().text();
    let browser = scene.browser_of("alice");
    let callback = scene.until_callback(&browser, "/wanted").await;
    // Without a key file, the random keys of the start still decrypt the state after a reload.
    scene.gateway.reload(&text).await.unwrap();
    let page = browser.follow_all(callback).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(scene.app.last().target(), "/wanted");
}

#[tokio::test]
async fn a_used_state_stays_used_after_a_reload() {
    let mut scene = Scene::new().await;
    let text = scene.gateway.settings().text();
    let browser = scene.browser_of("alice");
    let callback = scene.until_callback(&browser, "/").await;
    let twin = browser.clone();
    let page = browser.follow(&callback).await;
    assert_eq!(page.status, 303, "{}", page.describe());
    scene.gateway.reload(&text).await.unwrap();
    twin.forget(SESSION);
    let again = twin.follow(&callback).await;
    assert_eq!(again.status, 400, "{}", again.describe());
    assert_eq!(scene.provider.exchanges().len(), 1);
}

#[tokio::test]
async fn settings_that_need_a_restart_are_named_and_the_others_take_effect() {
    let mut scene = Scene::new().await;
    let text = scene.gateway.settings().text();
    let text = edited(&text, "workers = 2", "workers = 1\nidle_secs = 9");
    let text = edited(
        &text,
        ANYBODY,
        "[[routes]]\nprefix = \"/\"\naccess = \"public\"\n",
    );
    for _ in 0..2 {
        let reloaded = scene.gateway.reload(&text).await.unwrap();
        assert_eq!(
            reloaded.need_restart,
            ["server.idle_secs", "server.workers"]
        );
        assert_eq!(scene.browser().fetch(&url("/")).await.status, 200);
    }
}

/// The name of a provider may mean another server when the answer of the provider arrives.
#[tokio::test]
async fn a_code_never_goes_to_a_server_that_did_not_make_it() {
    let mut scene = Scene::new().await;
    let other = StandIn::start().await;
    let browser = scene.browser_of("alice");
    let callback = scene.until_callback(&browser, "/wanted").await;
    let text = scene.gateway.settings().text();
    let text = edited(&text, &scene.provider.url(), &other.url());
    scene.gateway.reload(&text).await.unwrap();
    let page = browser.follow(&callback).await;
    assert_eq!(page.status, 400, "{}", page.describe());
    assert_eq!(browser.cookie(ORIGIN, SESSION), None);
    assert_eq!(
        (other.exchanges().len(), scene.provider.exchanges().len()),
        (0, 0)
    );
}

#[tokio::test]
async fn a_refresh_after_a_reload_uses_the_new_provider_settings() {
    let mut scene = Scene::new().await;
    scene.provider.token_members(json!({ "expires_in": 60 }));
    let alice = scene.signed_in("alice").await;
    let text = scene.gateway.settings().text();
    let post = "client_id = \"3\"\nclient_authentication = \"client_secret_post\"";
    let text = edited(&text, "client_id = \"3\"", post);
    scene.gateway.reload(&text).await.unwrap();
    scene.gateway.advance(Duration::from_secs(61));
    assert_eq!(alice.fetch(&url("/")).await.status, 200);
    assert_eq!(scene.provider.refreshes().len(), 1);
    let refresh = scene.provider.exchanges().pop().unwrap();
    let form = String::from_utf8_lossy(&refresh.body);
    assert!(form.contains("client_secret="), "{form}");
}

#[tokio::test]
async fn a_new_certificate_is_used_for_the_next_connection() {
    let (mut scene, old) = Scene::over_tls().await;
    let address = scene.gateway.address();
    let cookie = cookie_of("alice", (address, &old), &scene.provider).await;
    let [mut open, _] = OpenConnection::both(address, &old).await;
    assert_eq!(open.ask(&cookie).await, 200);
    let new = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let files = new.issue(folder.path(), &["localhost"]);
    let text = scene.gateway.settings().text();
    let lines = text.lines().map(|line| match line.split_once(" = ") {
        Some(("certificate_file", _)) => format!("certificate_file = {:?}\n", files.certificate),
        Some(("key_file", _)) => format!("key_file = {:?}\n", files.key),
        _ => format!("{line}\n"),
    });
    let text: String = lines.collect();
    let reloaded = scene.gateway.reload(&text).await.unwrap();
    assert_eq!(reloaded, Reloaded::default());
    for mut line in OpenConnection::both(address, &new).await {
        assert_eq!(line.ask(&cookie).await, 200);
    }
    assert_eq!(open.ask(&cookie).await, 200);
}

/// One key, as a line of the key file.
fn key(byte: u8) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode([byte; 32]);
    format!("{text}\n")
}

/// Sessions in a file, sealed with the key of 32 bytes of value 1.
fn on_disk(settings: Settings) -> Settings {
    let keys = settings.file("keys", &key(1));
    let folder = keys.trim_end_matches("/keys").to_owned();
    settings.with(&format!(
        "[login]\nstate_key_file = \"{keys}\"\n[session.store.disk]\nfile = \"{folder}/sessions.redb\"\n"
    ))
}

#[tokio::test]
async fn keys_can_be_added_and_only_taken_away_when_nothing_needs_them() {
    let mut scene = Scene::with(on_disk).await;
    let alice = scene.signed_in("alice").await;
    let bob = scene.browser_of("bob");
    let callback = scene.until_callback(&bob, "/").await;
    let settings = scene.gateway.settings();
    settings.file("keys", &format!("{}{}", key(2), key(1)));
    scene
        .gateway
        .reload_for(ReloadCause::KeyFile)
        .await
        .unwrap();
    // A pending login that the old key has sealed continues.
    let page = bob.follow_all(callback).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    scene.gateway.settings().file("keys", &key(2));
    let refused = scene
        .gateway
        .reload_for(ReloadCause::KeyFile)
        .await
        .unwrap_err();
    let said = sidegate::telemetry::chain(&refused);
    assert!(said.contains("1 session"), "{said}");
    for browser in [&alice, &bob] {
        assert_eq!(browser.fetch(&url("/")).await.status, 200);
    }
}

/// A changed store needs a restart. The open store keeps its keys until the restart.
#[tokio::test]
async fn a_changed_store_setting_leaves_the_open_store_alone() {
    let mut scene = Scene::with(on_disk).await;
    let text = scene.gateway.settings().text();
    let start = text.find("[login]").unwrap();
    let reloaded = scene.gateway.reload(&text[..start]).await.unwrap();
    assert!(!reloaded.need_restart.is_empty());
    // The file has a session that is sealed with its own keys.
    scene.signed_in("alice").await;
    let reloaded = scene.gateway.reload(&text).await.unwrap();
    assert_eq!(reloaded.need_restart, Vec::<String>::new());
}

#[tokio::test]
async fn settings_that_would_block_every_request_until_a_restart_are_refused() {
    let proxies = "trusted_proxies = [\"127.0.0.0/8\"]";
    let mut scene = Scene::with(|settings| settings.server(proxies).listening_everywhere()).await;
    let text = scene.gateway.settings().text();
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let files = authority.issue(folder.path(), &["localhost"]);
    let tls = format!(
        "certificate_file = {:?}\nkey_file = {:?}",
        files.certificate, files.key
    );
    let refused = scene.gateway.reload(&edited(&text, proxies, &tls)).await;
    assert!(matches!(refused, Err(ReloadError::Plain(_))), "{refused:?}");
    let both = format!("{proxies}\n{tls}");
    let reloaded = scene
        .gateway
        .reload(&edited(&text, proxies, &both))
        .await
        .unwrap();
    assert_eq!(reloaded.need_restart, ["server.certificate_file"]);
}

/// Users who send requests all the time, over connections that stay open.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    people: Vec<tokio::task::JoinHandle<Vec<u16>>>,
}

impl Load {
    async fn start(address: std::net::SocketAddr, tls: &Authority, cookies: &[String]) -> Self {
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut people = Vec::new();
        for cookie in cookies {
            for mut line in OpenConnection::both(address, tls).await {
                let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
                let cookie = cookie.clone();
                people.push(tokio::spawn(async move {
                    let mut failures = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let status = line.ask(&cookie).await;
                        served.fetch_add(1, Ordering::Relaxed);
                        failures.extend(Some(status).filter(|status| *status != 200));
                    }
                    failures
                }));
            }
        }
        Self {
            stop,
            served,
            people,
        }
    }

    /// The statuses of all requests that failed, and the number of successful requests.
    async fn end(self) -> (Vec<u16>, usize) {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for person in self.people {
            failures.extend(person.await.unwrap());
        }
        (failures, self.served.load(Ordering::Relaxed))
    }
}

/// SIGHUP reloads valid and invalid settings in turn, while users send requests to the real
/// program.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_reloads_lose_no_request_no_session_and_no_memory() {
    let tls = Authority::new();
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    let settings = Settings::new(TLS_ORIGIN, &provider.url(), &app.url());
    let settings = settings.with(ANYBODY).tls(&tls);
    let process = Process::start_quietly(settings).await;
    let (address, operations) = (process.address(), process.operations());
    let mut cookies = Vec::new();
    for user in ["alice", "bob", "carol", "dave"] {
        cookies.push(cookie_of(user, (address, &tls), &provider).await);
    }
    let load = Load::start(address, &tls, &cookies).await;
    let text = process.settings().text();
    let more = "[[routes]]\nprefix = \"/admin\"\naccess.any_of.groups = [\"admins\"]\n\
                provider = \"main\"\n";
    let (mut applied, mut refused, mut settled) = (0, 0, 0);
    for number in 0..200 {
        if number % 2 == 1 {
            process
                .settings()
                .overwrite(&text.replace("prefix", "perfix"));
            refused += 1;
        } else {
            // Every fourth file has an additional route. Each file has another provider name and
            // another limit for the app.
            let more = if number % 4 == 0 { more } else { "" };
            let other = format!("client_id = \"3\"\ndisplay_name = \"Server {number}\"");
            let text = edited(&text, "client_id = \"3\"", &other);
            let other = format!("[upstreams.app]\nqueue = {}", number + 1);
            let text = edited(&text, "[upstreams.app]", &other);
            process.settings().overwrite(&format!("{text}{more}"));
            applied += 1;
        }
        process.signal("HUP").await;
        wait_for_figure(operations, APPLIED, applied).await;
        wait_for_figure(operations, REFUSED, refused).await;
        if number == 40 {
            settled = process.memory();
        }
    }
    let (failures, served) = load.end().await;
    assert_eq!(failures, Vec::<u16>::new());
    assert!(served > 1000, "{served} requests were served meanwhile");
    // No user had to sign in again.
    assert_eq!(figure(operations, "sidegate_sessions").await, Some(4));
    assert_eq!(provider.exchanges().len(), 4);
    wait_for_figure(operations, "sidegate_sites", 1).await;
    let after = process.memory();
    println!(
        "reloads: applied={applied} refused={refused} requests={served} failed_requests=0 \
         sessions_lost=0 resident_kib_before={settled} resident_kib_after={after}"
    );
    assert!(after < settled + 4096, "{settled} KiB grew to {after} KiB");
}
