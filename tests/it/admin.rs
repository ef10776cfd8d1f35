//! The admin socket, and the commands `sidegate sessions` and `sidegate explain --socket`.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use crate::durable::stored_at;
use crate::support::gateway::{Gateway, PROGRAM, Settings};
use crate::support::killed::StoreFolder;
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, ROUTES, SESSION, Scene, url};
use crate::support::wire::TEST_TIMEOUT;

/// The line belongs to the table `operations`.
const SOCKET: &str = "admin_socket_file = \"admin.sock\"\n";

async fn scene() -> Scene {
    Scene::with_settings(|settings| settings.with(SOCKET).with(ROUTES)).await
}

/// The path of a file in the folder of the settings file.
fn beside(gateway: &Gateway, name: &str) -> PathBuf {
    PathBuf::from(gateway.settings().file(name, ""))
}

fn settings_file(gateway: &Gateway) -> PathBuf {
    beside(gateway, "unused").with_file_name("sidegate.toml")
}

fn socket_of(gateway: &Gateway) -> PathBuf {
    beside(gateway, "unused").with_file_name("admin.sock")
}

/// Runs `sidegate sessions`. Returns the exit code, the output and the error output.
async fn sessions(gateway: &Gateway, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(PROGRAM);
    command.arg("sessions").args(arguments);
    command.arg("--config").arg(settings_file(gateway));
    let output = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[tokio::test]
async fn an_operator_lists_and_ends_sessions() {
    let scene = scene().await;
    scene.provider.user_members(json!({
        "email": "Person@example.com",
        "email_verified": true,
    }));
    let alice = scene.cookie("alice").await;
    let bob = scene.signed_in("bob").await;
    scene.gateway.advance(Duration::from_mins(3));
    assert_eq!(bob.fetch(&url("/")).await.status, 200);
    let (code, listed, errors) = sessions(&scene.gateway, &["list", "--all"]).await;
    assert_eq!((code, &*errors), (0, ""));
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    assert_eq!(lines[2], "2 sessions listed");
    let line_of = |name: &str| {
        let found = lines.iter().find(|line| line.contains(name));
        *found.unwrap_or_else(|| panic!("{name}: {listed}"))
    };
    let ends = "signed in 3 minutes ago, used 0 seconds ago, ends in 8 hours";
    assert!(line_of(" bob ").ends_with(ends), "{listed}");
    assert!(
        line_of(" alice ").contains("used 3 minutes ago"),
        "{listed}"
    );
    assert!(line_of(" bob ").contains("Person@example.com"), "{listed}");
    assert!(line_of(" bob ").contains("  main  "), "{listed}");
    // The list contains no session id and no token.
    let id = alice.split_once('=').unwrap().1;
    assert!(
        !listed.contains(id) && !listed.contains(&id[..12]),
        "{listed}"
    );
    assert!(!listed.contains("access"), "{listed}");

    let (code, ended, _) = sessions(&scene.gateway, &["end", "--person", "bob"]).await;
    assert_eq!((code, &*ended), (0, "1 session ended\n"));
    assert_eq!(bob.fetch(&url("/")).await.status, 401);
    let (_, listed, _) = sessions(&scene.gateway, &["list", "--person", "alice"]).await;
    assert!(listed.ends_with("\n1 session listed\n"), "{listed}");
    let (code, ended, _) = sessions(&scene.gateway, &["end", "--person", "nobody"]).await;
    assert_eq!(code, 0);
    let hint = ended.strip_prefix("0 sessions ended\n");
    let hint = hint.unwrap_or_else(|| panic!("{ended}"));
    assert!(hint.contains("no login in progress is refused"), "{hint}");
    // The two users have the same address.
    scene.cookie("carol").await;
    let person = ["end", "--person", "person@EXAMPLE.com"];
    let (_, ended, _) = sessions(&scene.gateway, &person).await;
    assert_eq!(ended, "2 sessions ended\n");
    scene.wait_for_figure("sidegate_sessions", 0).await;
}

#[tokio::test]
async fn an_operator_ends_all_sessions() {
    let scene = scene().await;
    let browsers = [scene.signed_in("alice").await, scene.signed_in("bob").await];
    let (code, ended, _) = sessions(&scene.gateway, &["end", "--all"]).await;
    assert_eq!((code, &*ended), (0, "2 sessions ended\n"));
    for browser in browsers {
        assert_eq!(browser.fetch(&url("/")).await.status, 401);
        // A new login works.
        let page = browser.visit(&url("/")).await;
        assert_eq!(page.text(), "seen", "{}", page.describe());
    }
}

#[tokio::test]
async fn a_command_needs_one_selection_and_a_running_gateway_with_a_socket() {
    let scene = scene().await;
    for arguments in [
        &["list"][..],
        &["end"],
        &["end", "--all", "--person", "bob"],
        &["list", "--all", "--user", "bob"],
    ] {
        let (code, _, errors) = sessions(&scene.gateway, arguments).await;
        assert_eq!(code, 64, "{arguments:?}: {errors}");
    }
    let without = Scene::new().await;
    let (code, _, errors) = sessions(&without.gateway, &["list", "--all"]).await;
    assert_eq!(code, 78);
    assert!(errors.contains("admin_socket_file is not set"), "{errors}");
    std::fs::remove_file(socket_of(&scene.gateway)).unwrap();
    let (code, _, errors) = sessions(&scene.gateway, &["list", "--all"]).await;
    assert_eq!(code, 1);
    assert!(errors.contains("admin.sock"), "{errors}");
    assert!(
        errors.contains("the admin socket cannot be used"),
        "{errors}"
    );
}

#[tokio::test]
async fn only_the_user_of_the_gateway_can_use_the_socket() {
    let scene = scene().await;
    let socket = socket_of(&scene.gateway);
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    scene.gateway.drain().await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_socket_that_a_killed_process_left_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    drop(UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    let key = format!("admin_socket_file = \"{}\"\n", socket.display());
    let settings = || Settings::new(ORIGIN, "http://127.0.0.1:9", "http://127.0.0.1:9").with(&key);
    let gateway = Gateway::start(settings());
    let (code, listed, errors) = sessions(&gateway, &["list", "--all"]).await;
    assert_eq!((code, &*listed, &*errors), (0, "0 sessions listed\n", ""));
    // A second gateway does not take the socket of a running gateway.
    let other = settings();
    let mut second = Command::new(PROGRAM);
    second.arg("run").arg("--config").arg(other.write());
    let output = second.output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("another process listens"), "{errors}");
    let (_, listed, _) = sessions(&gateway, &["list", "--all"]).await;
    assert_eq!(listed, "0 sessions listed\n");
    gateway.drain().await;
    // Another file is never removed.
    std::fs::write(&socket, "precious").unwrap();
    let mut third = Command::new(PROGRAM);
    third.arg("run").arg("--config").arg(other.write());
    let output = third.output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
}

#[tokio::test]
async fn sessions_in_a_file_that_are_not_in_memory_are_listed_and_ended() {
    let folder = tempfile::tempdir().unwrap();
    let store_folder = StoreFolder::new(folder.path());
    let stored = stored_at(&store_folder, folder.path());
    // The cache contains only a few sessions.
    let small = "[session]\ncapacity_mib = 1\n";
    let scene = Scene::with_settings(|settings| {
        settings.with(SOCKET).with(ROUTES).with(&stored).with(small)
    })
    .await;
    let first = scene.signed_in("first").await;
    let refresh = "~".repeat(16_000);
    scene
        .provider
        .token_members(json!({ "refresh_token": refresh }));
    for number in 0..70 {
        scene.cookie(&format!("user-{number}")).await;
    }
    let (_, listed, _) = sessions(&scene.gateway, &["list", "--all"]).await;
    assert!(listed.ends_with("\n71 sessions listed\n"), "{listed}");
    let (_, ended, _) = sessions(&scene.gateway, &["end", "--person", "first"]).await;
    assert_eq!(ended, "1 session ended\n");
    assert!(first.cookie(ORIGIN, SESSION).is_some());
    assert_eq!(first.fetch(&url("/")).await.status, 401);
}

#[tokio::test]
async fn a_command_with_the_socket_needs_no_settings_file() {
    let scene = scene().await;
    scene.cookie("alice").await;
    let socket = socket_of(&scene.gateway);
    std::fs::write(settings_file(&scene.gateway), "damaged = [").unwrap();
    let run = async |more: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["sessions", "end", "--all", "--socket"]);
        command.arg(&socket).args(more).output().await.unwrap()
    };
    let both = run(&["--config", "sidegate.toml"]).await;
    assert_eq!(both.status.code(), Some(64));
    let output = run(&[]).await;
    let ended = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &*ended),
        (Some(0), "1 session ended\n")
    );
}

#[tokio::test]
async fn a_folder_in_which_every_user_can_replace_the_socket_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let key = format!("admin_socket_file = \"{}\"\n", socket.display());
    let settings = Settings::new(ORIGIN, "http://127.0.0.1:9", "http://127.0.0.1:9").with(&key);
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("run").arg("--config").arg(settings.write());
    let output = timeout(TEST_TIMEOUT, command.kill_on_drop(true).output()).await;
    let output = output.expect("the gateway runs").unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("every user can replace files"), "{errors}");
    assert!(!socket.exists());
    // With the sticky bit, as in `/tmp`, a user can replace only the user's own files.
    let sticky = std::fs::Permissions::from_mode(0o1777);
    std::fs::set_permissions(folder.path(), sticky).unwrap();
    let gateway = Gateway::start(settings);
    // The gateway does not remove the socket of another process.
    std::fs::remove_file(&socket).unwrap();
    let successor = UnixListener::bind(&socket).unwrap();
    gateway.drain().await;
    assert!(socket.exists());
    drop(successor);
}

/// Routes with a rule, and with a rule that is not enforced.
const EXPLAINED: &str = r#"
[[routes]]
[[routes]]
prefix = "/admin"
access.any_of.groups = ["admins"]
[[routes]]
prefix = "/trial"
access.any_of.groups = ["admins"]
enforce = false
"#;

/// Runs `sidegate explain` as a user with many groups. Returns the exit code and the output.
async fn explain(gateway: &Gateway, arguments: &[&str]) -> (i32, String) {
    let groups: Vec<String> = (0..40).map(|number| format!("group-{number}")).collect();
    let claims = json!({ "sub": "alice", "groups": groups });
    let claims = gateway.settings().file("claims.json", &claims.to_string());
    let mut command = Command::new(PROGRAM);
    command.arg("explain").args(arguments);
    let output = command.args(["--as", &claims]).output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    let code = output.status.code().unwrap();
    (code, String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn the_running_gateway_explains_a_decision_with_its_current_settings() {
    let mut scene = Scene::with_settings(|settings| settings.with(SOCKET).with(EXPLAINED)).await;
    let settings = settings_file(&scene.gateway).display().to_string();
    let socket = socket_of(&scene.gateway).display().to_string();
    let at_socket = ["--socket", &*socket];
    for path in ["/", "/admin/x", "/trial", "/x//y", "/oauth2/sign_in"] {
        let running = explain(&scene.gateway, &["--socket", &socket, path]).await;
        let offline = explain(&scene.gateway, &["--config", &settings, path]).await;
        assert_eq!(running, offline, "{path}");
        assert!(running.1.contains("decision"), "{path}: {}", running.1);
    }
    let json = [&at_socket[..], &["/admin/x", "--json"]].concat();
    let (code, text) = explain(&scene.gateway, &json).await;
    let read: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &read["decision"]), (2, &json!("forbid")));
    // The file already has other settings, but the gateway has not read them yet.
    let text = scene.gateway.settings().text();
    let text = text.replace("[\"admins\"]\n[[", "[\"group-1\"]\n[[");
    scene.gateway.settings().overwrite(&text);
    let admin = [&at_socket[..], &["/admin/x"]].concat();
    assert_eq!(explain(&scene.gateway, &admin).await.0, 2);
    scene.gateway.reload(&text).await.unwrap();
    let (code, text) = explain(&scene.gateway, &admin).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("group-1"), "{text}");
    for (arguments, expected, said) in [
        (
            &[&at_socket[..], &["x"]].concat()[..],
            1,
            "the URL is not valid",
        ),
        (&["/x"], 64, "--socket"),
        (
            &[&at_socket[..], &["--config", &settings, "/x"]].concat(),
            64,
            "cannot be used with",
        ),
        (
            &["--socket", "absent.sock", "/x"],
            1,
            "absent.sock: the admin socket cannot be used",
        ),
    ] {
        let (code, text) = explain(&scene.gateway, arguments).await;
        assert_eq!(code, expected, "{arguments:?} {text}");
        assert!(text.contains(said), "{arguments:?} {text}");
    }
}

#[tokio::test]
async fn an_explanation_leaves_no_trace_in_the_running_gateway() {
    let small = "[assertions]\ngroups_bytes = 64\n";
    let settings = |start: Settings| start.with(SOCKET).with(small).with(EXPLAINED);
    let scene = Scene::with_settings(settings).await;
    let socket = socket_of(&scene.gateway).display().to_string();
    let metrics = || async {
        let found = exchange(scene.gateway.operations(), METRICS.as_bytes(), 1).await;
        let text = found.responses[0].text();
        let counted = |line: &&str| line.starts_with("sidegate_") && !line.contains("_seconds");
        let lines = text.lines().filter(counted);
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = metrics().await;
    for path in ["/", "/trial", "/admin"] {
        let (_, text) = explain(&scene.gateway, &["--socket", &socket, path]).await;
        assert!(text.contains("alice"), "{text}");
    }
    assert_eq!(metrics().await, before);
    // The report about a real user is counted.
    let groups: Vec<String> = (0..40).map(|number| format!("group-{number}")).collect();
    scene.provider.user_members(json!({ "groups": groups }));
    scene.signed_in("alice").await;
    assert_ne!(metrics().await, before);
    let left_out = "sidegate_groups_left_out_total{provider=\"main\"}";
    assert!(scene.figure(left_out).await.unwrap() > 0);
}

const METRICS: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
