//! code-server, a workbench whose page connects to its server again.

use std::fs;
use std::path::Path;
use std::time::Duration;

use fantoccini::Locator;
use serde_json::{Value, json};
use sidegate::clock::Clock;
use tokio::join;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::support::gateway::{Process, Settings};
use crate::support::program::{Program, installed, project, record};
use crate::support::provider::StandIn;
use crate::support::scene::ORIGIN;
use crate::support::upstream::RecordingUpstream;
use crate::support::webdriver::Chromium;
use crate::support::wire::TEST_TIMEOUT;

use super::{assert_within_two_seconds, sign_out_in_a_new_tab};

/// The settings of the workbench for less load, without a request to another server.
const SETTINGS: &str = r#"{
    "extensions.autoUpdate": false,
    "telemetry.telemetryLevel": "off",
    "workbench.startupEditor": "none"
}"#;

/// The selector of the file `notes.txt` in the list of files.
const FILE: &str = ".explorer-folders-view .monaco-list-row[aria-label^='notes.txt']";

/// The selector of the text in the editor.
const EDITOR: &str = ".monaco-editor .view-lines";

/// code-server with the file `notes.txt` in the folder `files`.
async fn code_server() -> Program {
    let modules = project("tests/.cache/npm/node_modules");
    installed(&modules.join("code-server/lib/vscode/node_modules"));
    let prepare = |folder: &Path| {
        let files = folder.join("files");
        fs::create_dir(&files).unwrap();
        fs::write(files.join("notes.txt"), "first").unwrap();
        let user = folder.join("data/User");
        fs::create_dir_all(&user).unwrap();
        fs::write(user.join("settings.json"), SETTINGS).unwrap();
        let mut command = Command::new(installed(&project("tests/.cache/node/bin/node")));
        command
            .arg(project("tests/peers/code_server.mjs"))
            .arg(&modules)
            .args(["--auth", "none", "--bind-addr", "127.0.0.1:0"])
            .args(["--disable-update-check", "--disable-workspace-trust"])
            .arg("--user-data-dir")
            .arg(folder.join("data"))
            .arg(files)
            // All other files of code-server are in the home folder.
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", folder);
        command
    };
    Program::start("HTTP server listening on ", prepare).await
}

/// The events of a log.
fn events(log: &str) -> impl Iterator<Item = Value> {
    log.lines().map(|line| serde_json::from_str(line).unwrap())
}

/// The number of WebSocket handshakes of the page that the gateway has answered with `status`.
fn handshakes(log: &str, status: u16) -> usize {
    // A handshake that has opened a stream has a second event at the end of the stream.
    let message = if status == 101 {
        "Stream opened"
    } else {
        "Request"
    };
    let handshakes = events(log).filter(|event| {
        // The path of the WebSockets has only one segment, but the paths of the workbench's files
        // have more segments.
        let path = event["url.path"].as_str().unwrap_or_default();
        let version = path.strip_prefix("/stable-");
        version.is_some_and(|version| !version.contains('/'))
            && event["message"] == message
            && event["http.response.status_code"] == status
    });
    handshakes.count()
}

/// The number of WebSocket connections that have ended because of a sign-out.
fn signed_out(log: &str) -> usize {
    let ended =
        events(log).filter(|event| event["upgrade"] == "websocket" && event["end"] == "signed_out");
    ended.count()
}

/// Waits until the file of code-server has these contents.
async fn wait_for_contents(path: &str, contents: &str) {
    let waiting = async {
        while fs::read_to_string(path).unwrap() != contents {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let came = timeout(TEST_TIMEOUT, waiting).await.is_ok();
    assert!(came, "{path} has {:?}", fs::read_to_string(path));
}

async fn click(browser: &Chromium, selector: &str) {
    let wanted = format!("document.querySelector(\"{selector}\")");
    browser.wait_for_script(&wanted).await;
    let element = browser.client().find(Locator::Css(selector)).await;
    element.unwrap().click().await.unwrap();
}

/// Types into the editor of the page.
async fn type_text(browser: &Chromium, text: &str) {
    let editor = browser.client().active_element().await.unwrap();
    editor.send_keys(text).await.unwrap();
}

/// Waits until the editor of the page shows this text.
async fn wait_for_editor(browser: &Chromium, text: &str) {
    let shown = format!("document.querySelector('{EDITOR}')?.innerText === '{text}'");
    browser.wait_for_script(&shown).await;
}

#[tokio::test]
async fn code_server_connects_again_by_itself_after_a_sign_in_in_another_tab() {
    let code_server = code_server().await;
    let provider = StandIn::start().await;
    let app = RecordingUpstream::start().await;
    let routes = format!(
        "[upstreams.code]\nurl = \"{}\"\n[[routes]]\nprefix = \"/\"\nupstream = \"code\"\n\
         [[routes]]\nprefix = \"/other\"\nupstream = \"app\"\n",
        code_server.address().trim_end_matches('/')
    );
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url()).with(&routes);
    let gateway = Process::start_with(settings, "").await;
    let browser = Chromium::leading("localhost:80", gateway.address()).await;
    browser.open("http://localhost/").await;
    click(&browser, FILE).await;
    wait_for_editor(&browser, "first").await;
    click(&browser, EDITOR).await;
    type_text(&browser, "-second").await;
    let notes = code_server.path("files/notes.txt");
    wait_for_contents(&notes, "first-second").await;
    // One WebSocket is for the files, and one WebSocket is for the extensions.
    gateway.wait_for_log(|log| handshakes(log, 101) == 2).await;
    browser.run("window.loaded = 'one time'").await;

    let client = browser.client();
    let page = client.window().await.unwrap();
    let end = async {
        gateway.wait_for_log(|log| signed_out(log) == 2).await;
        json!(Clock::system().now().as_millis())
    };
    let (clicked, ended) = join!(sign_out_in_a_new_tab(&browser), end);
    assert_within_two_seconds(&ended, clicked);
    let other = client.window().await.unwrap();
    client.switch_to_window(page.clone()).await.unwrap();
    type_text(&browser, "-third").await;
    wait_for_editor(&browser, "first-second-third").await;
    // The page has tried two times to open each WebSocket.
    gateway.wait_for_log(|log| handshakes(log, 401) >= 4).await;
    assert_eq!(fs::read_to_string(&notes).unwrap(), "first-second");

    client.switch_to_window(other).await.unwrap();
    browser.open("http://localhost/other").await;
    assert_eq!(browser.text().await, "seen");
    client.switch_to_window(page).await.unwrap();
    gateway.wait_for_log(|log| handshakes(log, 101) == 4).await;
    wait_for_contents(&notes, "first-second-third").await;
    assert_eq!(browser.run("return window.loaded").await, "one time");
    assert_eq!(provider.exchanges().len(), 2);
    record("stream_peers.txt", &["WebSocket", "code-server"]);
}
