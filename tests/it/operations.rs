//! Operation: the operations listener, signals, the log, the settings, and limits during an attack.

use std::fs::{File, Permissions};
use std::io::pipe;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use sidegate::clock::Clock;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::support::browser::Browser;
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::{PROGRAM, Process, Settings};
use crate::support::provider::{CANARY, StandIn};
use crate::support::raw::{Raw, Response, exchange};
use crate::support::scene::{ORIGIN, ROUTES, SESSION, Scene, url};
use crate::support::upstream::{Answer, RecordingUpstream};

struct Running {
    process: Process,
    provider: StandIn,
    app: RecordingUpstream,
}

impl Running {
    async fn start() -> Self {
        let provider = StandIn::start().await;
        let app = RecordingUpstream::start().await;
        let settings = Settings::new(ORIGIN, &provider.url(), &app.url()).with(ROUTES);
        Self {
            process: Process::start(settings).await,
            provider,
            app,
        }
    }

    fn browser(&self) -> Browser {
        Browser::new().leading(ORIGIN, self.process.address())
    }
}

async fn get(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let response = ask(address, &request).await;
    (response.status(), response.text())
}

async fn ask(address: std::net::SocketAddr, request: &str) -> Response {
    let mut outcome = exchange(address, request.as_bytes(), 1).await;
    outcome.responses.remove(0)
}

#[tokio::test]
async fn a_client_that_disconnects_still_gets_an_access_log_event() {
    let running = Running::start().await;
    running.app.next(Answer::silence());
    let mut client = Raw::connect(running.process.address()).await;
    client
        .send("GET /public/slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    running.app.wait_until(|requests| requests.len() == 1).await;
    drop(client);
    let line = |log: &str| {
        log.lines()
            .any(|line| line.contains("client_gone") && line.contains("/public/slow"))
    };
    running.process.wait_for_log(line).await;
}

#[tokio::test]
async fn health_readiness_and_metrics_are_on_their_own_listener_alone() {
    let scene = Scene::new().await;
    let operations = scene.gateway.operations();
    assert_eq!(get(operations, "/healthz").await.0, 200);
    assert_eq!(get(operations, "/readyz").await.0, 200);
    scene.signed_in("alice").await;
    scene.browser().fetch(&url("/x")).await;
    let (status, metrics) = get(operations, "/metrics").await;
    assert_eq!(status, 200);
    assert!(
        metrics.contains("sidegate_") && metrics.ends_with("# EOF\n"),
        "{metrics}"
    );
    for path in ["/debug/pprof", "/", "/admin", "/metrics/x"] {
        assert_eq!(get(operations, path).await.0, 404, "{path}");
    }
    let before = scene.app.count();
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(
            scene.browser().fetch(&url(path)).await.status,
            401,
            "{path}"
        );
    }
    assert_eq!(scene.app.count(), before);
}

#[tokio::test]
async fn x_05_the_operations_listener_answers_any_host_and_tells_no_secret() {
    let scene = Scene::new().await;
    let cookie = scene.cookie("alice").await;
    let session = cookie.split_once('=').unwrap().1;
    let operations = scene.gateway.operations();
    // An orchestrator's probes use the address of the pod as their host.
    for host in ["localhost", "10.1.2.3:9180", "[fd00::1]", "evil.test"] {
        for path in ["/healthz", "/readyz", "/metrics"] {
            for (method, status) in [("GET", 200), ("HEAD", 200), ("POST", 405), ("OPTIONS", 405)] {
                let request = format!(
                    "{method} {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: https://evil.test\r\n\
                     Access-Control-Request-Method: GET\r\nCookie: {cookie}\r\n\r\n"
                );
                let response = ask(operations, &request).await;
                assert_eq!(response.status(), status, "{request}");
                let head = String::from_utf8_lossy(&response.head.bytes).to_lowercase();
                for field in ["access-control-", "set-cookie", "location:"] {
                    assert!(!head.contains(field), "{field} in {head}");
                }
                for secret in [CANARY, session, "alice"] {
                    assert!(!response.text().contains(secret), "{secret} in {path}");
                }
            }
        }
    }
    let figures = get(operations, "/metrics").await.1;
    assert!(figures.contains("sidegate_"), "{figures}");
    for path in [
        "/",
        "/debug",
        "/debug/pprof/",
        "/debug/vars",
        "/pprof",
        "/config",
        "/env",
        "/sessions",
        "/oauth2/sign_in",
        "/metrics/../debug",
        "/public/x",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nCookie: {cookie}\r\n\r\n");
        assert_eq!(ask(operations, &request).await.status(), 404, "{path}");
    }
}

#[tokio::test]
async fn x_09_a_public_route_is_logged_at_the_start() {
    let nowhere = "http://127.0.0.1:1";
    let settings = || Settings::new(ORIGIN, nowhere, nowhere);
    let open = |log: &str| {
        log.lines()
            .filter(|l| l.contains("open to everybody"))
            .count()
    };
    // Routes are logged before the line with the address of the listener.
    let process = Process::start(settings().with(ROUTES)).await;
    let log = process.log();
    assert_eq!(open(&log), 1, "{log}");
    let line = log
        .lines()
        .find(|l| l.contains("open to everybody"))
        .unwrap();
    assert!(
        line.contains("\"/public\"") && line.contains("WARN"),
        "{line}"
    );
    let process = Process::start(settings()).await;
    assert_eq!(open(&process.log()), 0, "{}", process.log());
}

#[tokio::test]
async fn t_14_a_start_warns_about_a_secret_that_others_can_read() {
    // In a pod, there would be no warning. An empty variable counts as missing.
    let no_pod = [("KUBERNETES_SERVICE_HOST", "")];
    let nowhere = "http://127.0.0.1:1";
    let new = || Settings::new(ORIGIN, nowhere, nowhere);
    let process = Process::start_in(new(), &no_pod).await;
    assert!(!process.log().contains("has the mode"), "{}", process.log());
    let settings = new();
    let secret = settings.path().with_file_name("client_secret");
    std::fs::set_permissions(&secret, Permissions::from_mode(0o644)).unwrap();
    let warning = format!("{} has the mode 0644", secret.display());
    let process = Process::start_in(settings, &no_pod).await;
    let log = process.log();
    let line = log.lines().find(|line| line.contains(&warning)).unwrap();
    assert!(
        line.contains("WARN") && line.contains("providers.main.client_secret_file"),
        "{line}"
    );
}

#[tokio::test]
async fn neither_health_nor_readiness_depends_on_the_provider() {
    let app = RecordingUpstream::start().await;
    let mut gone = RecordingUpstream::start().await;
    let nowhere = format!("http://{}", gone.stop().await);
    let settings = Settings::new(ORIGIN, &nowhere, &app.url()).with(ROUTES);
    let gateway = crate::support::gateway::Gateway::start(settings);
    assert_eq!(get(gateway.operations(), "/readyz").await.0, 200);
    let browser = Browser::new().leading(ORIGIN, gateway.address());
    assert_eq!(browser.fetch(&url("/public/x")).await.text(), "seen");
    // The gateway does not send the user to a provider where the login could not be completed.
    let page = browser.open(&url("/")).await;
    assert_eq!(page.status, 503, "{}", page.describe());
    assert!(page.text().contains("provider_unreachable"));
}

#[tokio::test]
async fn sigterm_finishes_what_is_in_flight_and_exits_cleanly() {
    let mut running = Running::start().await;
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    running.app.next(Answer::ok("finished").held_by(&gate));
    let browser = running.browser();
    let request = tokio::spawn(async move { browser.fetch(&url("/public/x")).await });
    running.app.wait_until(|requests| requests.len() == 1).await;
    running.process.signal("TERM").await;
    running
        .process
        .wait_for_log(|log| log.contains("Draining"))
        .await;
    gate.notify_one();
    assert_eq!(request.await.unwrap().text(), "finished");
    assert_eq!(running.process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn draining_loses_no_request() {
    let scene = Scene::new().await;
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    scene.app.next(Answer::ok("finished").held_by(&gate));
    let browser = scene.browser();
    let request = tokio::spawn(async move { browser.fetch(&url("/public/x")).await });
    scene.app.wait_until(|requests| requests.len() == 1).await;
    let draining = tokio::spawn(scene.gateway.drain());
    gate.notify_one();
    assert_eq!(request.await.unwrap().text(), "finished");
    draining.await.unwrap();
}

#[tokio::test]
async fn neither_log_nor_metrics_hold_a_secret() {
    let running = Running::start().await;
    let browser = running.browser();
    let callback = browser.open(&url("/deep/page?secret=canary")).await;
    let callback = browser.follow(&callback).await;
    let page = browser.follow(&callback).await;
    browser.follow(&page).await;
    let cookie = browser.cookie(ORIGIN, SESSION).unwrap();
    running.provider.fail_next(Answer::with(
        400,
        &[],
        "{\"error\":\"invalid_grant\",\"x\":\"canary\"}",
    ));
    let other = running.browser();
    other.visit(&url("/")).await;
    other
        .open(&url(
            "/oauth2/callback?code=canary&state=canary&error=canary",
        ))
        .await;
    other
        .send(BrowserRequest::fetch(&url("/x")).field("authorization", "Bearer canary"))
        .await;
    running.app.next(Answer::silence().then_reset());
    browser.fetch(&url("/x?canary=1")).await;
    browser
        .send(
            BrowserRequest::fetch(&url("/x"))
                .method("POST")
                .body("text/plain", b"canary"),
        )
        .await;
    let target = url("/last");
    browser.fetch(&target).await;
    running
        .process
        .wait_for_log(|log| log.contains("/last"))
        .await;
    let (_, metrics) = get(running.process.operations(), "/metrics").await;
    let state = callback.location().unwrap();
    let state = state
        .query_pairs()
        .find(|(name, _)| name == "state")
        .unwrap()
        .1
        .into_owned();
    for text in [running.process.log(), metrics] {
        for secret in [CANARY, cookie.as_str(), state.as_str()] {
            let at = text.find(secret);
            let line =
                at.map(|at| &text[text[..at].rfind('\n').unwrap_or(0)..(at + 80).min(text.len())]);
            assert!(at.is_none(), "a secret was written: {}", line.unwrap());
        }
    }
}

#[tokio::test]
async fn one_request_is_one_event_of_the_access_log() {
    let running = Running::start().await;
    running
        .browser()
        .fetch(&url("/public/logged?x=hidden"))
        .await;
    running
        .process
        .wait_for_log(|log| log.contains("/public/logged"))
        .await;
    // A second event of the first request would appear before the event of the next request.
    running.browser().fetch(&url("/public/next")).await;
    running
        .process
        .wait_for_log(|log| log.contains("/public/next"))
        .await;
    let log = running.process.log();
    let events: Vec<_> = log
        .lines()
        .filter(|line| line.contains("/public/logged"))
        .collect();
    assert_eq!(events.len(), 1, "{events:?}");
    let event: serde_json::Value = serde_json::from_str(events[0]).unwrap();
    for (name, value) in [
        ("http.request.method", json!("GET")),
        ("url.path", json!("/public/logged")),
        ("http.response.status_code", json!(200)),
        ("decision", json!("permit")),
        ("route", json!("/public")),
        ("upstream", json!("app")),
    ] {
        assert_eq!(event[name], value, "{name} in {event}");
    }
    assert!(!log.contains("hidden"), "{log}");
}

#[tokio::test]
async fn a_19_thousands_of_visitors_without_a_session_cost_no_memory() {
    let running = Running::start().await;
    let image = BrowserRequest::image(&url("/oauth2/sign_in")).from("https://evil.test/");
    let page = BrowserRequest::navigation(&url("/"));
    for visit in [&image, &page].repeat(100) {
        running.browser().send(visit.clone()).await;
    }
    let before = running.process.memory();
    for visit in [&image, &page].repeat(1000) {
        running.browser().send(visit.clone()).await;
    }
    let grown = running.process.memory().saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB");
}

#[tokio::test]
async fn d_01_d_02_d_03_idle_and_slow_connections_are_closed() {
    let scene = Scene::with(|settings| {
        settings.server("first_byte_secs = 1\nhandshake_secs = 1\nhead_secs = 1\nidle_secs = 1")
    })
    .await;
    let address = scene.gateway.address();
    let start = Clock::system().instant();
    let silent = Raw::connect(address).await;
    let mut slow = Raw::connect(address).await;
    slow.send("GET /public/x HTTP/1.1\r\nHost: loc").await;
    let mut preface = Raw::connect(address).await;
    preface.send("PRI * HTT").await;
    let mut idle = Raw::connect(address).await;
    idle.send("GET /public/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(idle.response("GET").await.unwrap().status(), 200);
    let mut second = Raw::connect(address).await;
    second
        .send("GET /public/x HTTP/1.1\r\nHost: localhost\r\n\r\nGET /pub")
        .await;
    assert_eq!(second.response("GET").await.unwrap().status(), 200);
    let mut closing = JoinSet::new();
    for mut connection in [silent, slow, preface, idle, second] {
        closing.spawn(async move {
            connection.closed().await;
            Clock::system().instant().duration_since(start)
        });
    }
    let closed = closing.join_all().await;
    // The server checks deadlines four times a second, so a connection can end a little before its
    // deadline of one second.
    let early = Duration::from_millis(500);
    assert!(closed.iter().all(|after| *after >= early), "{closed:?}");
}

#[tokio::test]
async fn d_01_hundreds_of_silent_connections_do_not_delay_others() {
    let scene = Scene::with(|settings| settings.server("first_byte_secs = 2")).await;
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent.push(Raw::connect(scene.gateway.address()).await);
    }
    assert_eq!(
        scene.browser().fetch(&url("/public/x")).await.text(),
        "seen"
    );
    for connection in &mut silent {
        connection.closed().await;
    }
}

#[tokio::test]
async fn d_04_a_very_slow_body_is_cut_off() {
    let scene = Scene::with(|settings| {
        settings.server("body_window_secs = 1\nbody_rate = 500\nbuffer_mib = 0")
    })
    .await;
    let mut raw = Raw::connect(scene.gateway.address()).await;
    raw.send("POST /public/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nabc")
        .await;
    let answer = raw
        .response("POST")
        .await
        .expect("closed without an answer");
    assert_eq!(answer.status(), 408);
    raw.closed().await;
    // The app got the beginning of the body, and no end.
    scene.app.wait_until_unconnected().await;
    let arrived = scene.app.requests();
    assert_eq!(arrived.len(), 1);
    assert_eq!(
        (arrived[0].body.as_slice(), arrived[0].complete),
        (&b"abc"[..], false)
    );
}

#[tokio::test]
async fn d_07_heads_beyond_the_limits_are_refused() {
    let scene = Scene::new().await;
    for (what, refused, target, fields) in [
        ("target", 431, "a".repeat(65_000), String::new()),
        (
            "field",
            431,
            String::new(),
            format!("X: {}\r\n", "a".repeat(65_536)),
        ),
        (
            "cookie",
            431,
            String::new(),
            format!("Cookie: {}\r\n", "a".repeat(100_000)),
        ),
        ("fields", 431, String::new(), "X: y\r\n".repeat(5000)),
    ] {
        let request = format!("GET /public/{target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        let outcome = exchange(scene.gateway.address(), request.as_bytes(), 9).await;
        assert_eq!(
            (outcome.statuses(), outcome.closed),
            (vec![refused], true),
            "{what}"
        );
    }
    assert_eq!(scene.app.count(), 0);
}

async fn program(arguments: &[&str]) -> (Option<i32>, String) {
    said(Command::new(PROGRAM).args(arguments)).await
}

pub(crate) async fn said(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn check_names_every_mistake_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    let text = "public_url = \"http://app.example.com\"\n[server]\nlisten = \"nowhere\"\nidle_secs = 0\n\
                lissten = 3\n[providers.main]\nprofile = \"oauth9\"\nclient_id = \"3\"\n\
                [upstreams.app]\nurl = \"ftp://x\"\n";
    std::fs::write(&path, text).unwrap();
    let (code, said) = program(&["check", "--config", path.to_str().unwrap()]).await;
    assert_eq!(code, Some(78), "{said}");
    for key in [
        "public_url",
        "server.listen",
        "server.idle_secs",
        "lissten",
        "upstreams.app.url",
    ] {
        assert!(said.contains(key), "{key} in\n{said}");
    }
}

#[tokio::test]
async fn exit_codes_are_as_documented() {
    assert_eq!(program(&["--version"]).await.0, Some(0));
    assert_eq!(program(&["--help"]).await.0, Some(0));
    assert_eq!(program(&["run"]).await.0, Some(64));
    assert_eq!(program(&["fly"]).await.0, Some(64));
    assert_eq!(
        program(&["check", "--config", "/nowhere/at/all.toml"])
            .await
            .0,
        Some(78)
    );
}

/// The exit code of `sidegate check` with these outputs, and what the command writes to the first of
/// them that is a pipe.
async fn check_with(stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> (Option<i32>, String) {
    let settings = Settings::new(ORIGIN, "http://127.0.0.1:1", "http://127.0.0.1:2").with(ROUTES);
    let mut command = Command::new(PROGRAM);
    command.args(["check", "--config"]).arg(settings.write());
    let child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
    let output = child.wait_with_output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn f_33_a_command_whose_output_is_closed_or_full_ends_in_an_orderly_way() {
    let (reader, closed) = pipe().unwrap();
    drop(reader);
    // `sidegate check | head -1`: the reader wants no more lines.
    assert_eq!(
        check_with(closed, Stdio::piped()).await,
        (Some(0), String::new())
    );
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let (code, said) = check_with(full(), Stdio::piped()).await;
    let message = "sidegate: cannot write the output: No space left on device (os error 28)\n";
    assert_eq!((code, &*said), (Some(1), message));
    assert_eq!(check_with(full(), full()).await, (Some(1), String::new()));
    let (code, said) = check_with(Stdio::piped(), full()).await;
    assert_eq!(code, Some(0));
    assert!(said.ends_with("the settings are good\n"), "{said}");
}

/// A command without the capability to read the memory of other processes, which root usually has.
fn without_ptrace(program: &str) -> Command {
    let is_root = rustix::process::geteuid().is_root();
    let mut command = Command::new(if is_root { "setpriv" } else { program });
    if is_root {
        command.args(["--bounding-set", "-sys_ptrace", program]);
    }
    command
}

#[tokio::test]
async fn l_05_other_processes_cannot_read_the_memory_and_no_core_is_dumped() {
    let nowhere = "http://127.0.0.1:1";
    for is_allowed in [false, true] {
        let settings = Settings::new(ORIGIN, nowhere, nowhere);
        let settings = settings.server(&format!("core_dumps = {is_allowed}"));
        let mut process = Process::start_logging_by(settings, without_ptrace("sh")).await;
        let folder = format!("/proc/{}", process.id());
        let mut opening = without_ptrace("sh");
        opening.args(["-c", ": <\"$0\"", &format!("{folder}/mem")]);
        let (code, said) = said(&mut opening).await;
        assert_eq!(code == Some(0), is_allowed, "{said}");
        assert!(is_allowed || said.contains("ermission denied"), "{said}");
        let limits = std::fs::read_to_string(format!("{folder}/limits")).unwrap();
        let limit = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let own = std::fs::read_to_string("/proc/self/limits").unwrap();
        let own = own
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        if is_allowed {
            assert_eq!(limit, own);
            assert!(
                process.log().contains("server.core_dumps"),
                "{}",
                process.log()
            );
            continue;
        }
        let limit = limit.unwrap().split_ascii_whitespace().nth(4);
        assert_eq!(limit, Some("0"), "{limits}");
        process.signal("ABRT").await;
        let ended = process.ended().await;
        assert_eq!((ended.signal(), ended.core_dumped()), (Some(6), false));
    }
}

#[tokio::test]
async fn a_second_start_on_the_same_address_fails() {
    let scene = Scene::new().await;
    let taken = scene.gateway.address();
    let settings = Settings::new(ORIGIN, &scene.provider.url(), &scene.app.url());
    let path = settings.write();
    let listen = taken.to_string();
    let (code, said) = program(&[
        "run",
        "--config",
        path.to_str().unwrap(),
        "--listen",
        &listen,
    ])
    .await;
    assert_eq!(code, Some(1), "{said}");
}

#[tokio::test]
async fn unreadable_files_stop_the_start() {
    let settings = || Settings::new(ORIGIN, "http://127.0.0.1:1", "https://127.0.0.1:2");
    let nothing = settings().file("nothing.pem", "");
    for broken in [
        settings().app("ca_file = \"/nowhere/ca.crt\""),
        settings().app(&format!("ca_file = \"{nothing}\"")),
        settings()
            .server("certificate_file = \"/nowhere/tls.crt\"\nkey_file = \"/nowhere/tls.key\""),
        settings().with("[login]\nstate_key_file = \"/nowhere/keys\"\n"),
        settings().provider(
            "[providers.main]\nprofile = \"oauth2\"\nurl = \"http://127.0.0.1:1\"\n\
             authorization_endpoint = \"/a\"\ntoken_endpoint = \"/t\"\nclient_id = \"3\"\n\
             client_secret_file = \"/nowhere/secret\"\n",
        ),
    ] {
        let path = broken.write();
        let (code, said) = program(&["run", "--config", path.to_str().unwrap()]).await;
        assert_eq!(code, Some(78), "{said}");
        assert!(
            said.contains("nowhere") || said.contains("nothing"),
            "{said}"
        );
    }
}
