//! Streams with real peers: libraries at both ends, a real browser, and real apps. `tests/run`
//! prints the peers that passed.

mod binary;
mod code_server;
mod events;
mod grpc;
mod jupyterlab;

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use sidegate::demo::{Demo, ProviderKind, Purpose};
use tokio::time::timeout;

use crate::support::program::{Program, peer, project, python, record};
use crate::support::scene::Scene;
use crate::support::upstream::Answer;
use crate::support::webdriver::Chromium;

/// The longest time for all conversations of a client on a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_mins(3);

/// The close code of the client and of the app for each conversation.
const OUTCOMES: &str = include_str!("../../data/websocket_peers.txt");

const STREAMS: &str = include_str!("../../../docs/streams.md");

/// A page that shows what comes over a WebSocket. The page connects again when the socket closes.
const PAGE: &str = "<p id=shown></p><script>\
    window.seen = { opened: 0, refused: 0, ticks: 0, closed: [] };\
    function connect() {\
      const socket = new WebSocket('ws://localhost/ws/ticks');\
      let open = false;\
      socket.onopen = () => { open = true; seen.opened += 1; };\
      socket.onmessage = event => { seen.ticks += 1; shown.textContent = event.data; };\
      socket.onclose = event => {\
        if (open) seen.closed.push({ code: event.code, at: Date.now() }); else seen.refused += 1;\
        setTimeout(connect, 100);\
      };\
    }\
    connect();\
    </script>";

/// Adds a script to a page of Jupyter Server. The script uses a kernel. The function `run` opens a
/// WebSocket and executes code; the result of `run` is the text of the value.
const NOTEBOOK: &str = "\
    window.api = (method, path) => fetch('/jupyter/api/' + path, { method, headers: {\
      'X-XSRFToken': document.cookie.match(/_xsrf=([^;]+)/)[1] } });\
    window.run = code => new Promise((done, failed) => {\
      const socket = new WebSocket('ws://localhost/jupyter/api/kernels/' + kernel + '/channels');\
      socket.onclose = event => {\
        window.cut = { code: event.code, at: Date.now() };\
        failed('closed with ' + event.code);\
      };\
      socket.onopen = () => socket.send(JSON.stringify({\
        channel: 'shell', parent_header: {}, metadata: {}, buffers: [],\
        header: { msg_id: code, msg_type: 'execute_request', username: '', session: 'page',\
          version: '5.3', date: new Date().toISOString() },\
        content: { code, silent: false, store_history: true, user_expressions: {},\
          allow_stdin: false, stop_on_error: true } }));\
      socket.onmessage = event => {\
        const message = JSON.parse(event.data);\
        if (message.parent_header.msg_id !== code) return;\
        if (message.msg_type === 'error') failed(message.content.evalue);\
        if (message.msg_type === 'execute_result') done(message.content.data['text/plain']);\
      };\
    });";

/// The clocks of the demo.
const CLOCKS: [&str; 2] = ["socket", "events"];

/// A scene with one more app for the paths below `prefix`.
async fn scene_with(app: &Program, prefix: &str) -> Scene {
    let routes = format!(
        "[upstreams.peer]\nurl = \"{}\"\n[[routes]]\nprefix = \"/\"\nupstream = \"app\"\n\
         [[routes]]\nprefix = \"{prefix}\"\nupstream = \"peer\"\n",
        app.address()
    );
    Scene::with_routes(&routes, "").await
}

/// The app `tests/peers/NAME.py`.
async fn app(name: &str, arguments: &[&str]) -> Program {
    peer(&format!("{name}.py"), arguments).await
}

/// A Jupyter Server with these additional settings.
async fn jupyter(more: &str) -> Program {
    // The tested settings are the settings in the documentation.
    let (_, settings) = STREAMS.split_once("```python\n").unwrap();
    let (settings, _) = settings.split_once("```").unwrap();
    let settings = format!("{settings}{more}");
    let prepare = |folder: &Path| {
        fs::write(folder.join("jupyter_server_config.py"), &settings).unwrap();
        let mut command = python();
        command
            .arg(project("tests/peers/jupyter_server_app.py"))
            .arg(folder);
        command
    };
    Program::start("ready ", prepare).await
}

/// All conversations of the client `tests/peers/NAME.py`.
async fn conversations(name: &str, arguments: &[&str]) -> Output {
    let mut command = python();
    command
        .arg(project(&format!("tests/peers/{name}.py")))
        .args(arguments)
        .kill_on_drop(true);
    let running = timeout(TEST_TIMEOUT, command.output()).await;
    running.expect("the conversations do not end").unwrap()
}

/// Returns the lines that the client has printed about both sides.
async fn transcript(name: &str, arguments: &[&str]) -> String {
    let output = conversations(name, arguments).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The lines of each conversation, with its name.
fn cases(transcript: &str) -> Vec<(&str, Vec<&str>)> {
    let cases = transcript.split("case: ").skip(1);
    cases
        .map(|case| {
            let mut lines = case.lines();
            (lines.next().unwrap(), lines.collect())
        })
        .collect()
}

/// Fails at the first conversation that is not the same through the gateway.
fn assert_same(directly: &[(&str, Vec<&str>)], through: &[(&str, Vec<&str>)]) {
    for (directly, through) in directly.iter().zip(through) {
        assert_eq!(directly, through);
    }
    assert_eq!(directly.len(), through.len());
}

/// The close codes of each conversation, in the form of [`OUTCOMES`].
fn outcomes(cases: &[(&str, Vec<&str>)]) -> Vec<String> {
    let code = |lines: &[&str], side: &str| {
        let ended = lines.iter().find_map(|line| line.strip_prefix(side));
        ended.unwrap().split(' ').next().unwrap().to_owned()
    };
    cases
        .iter()
        .map(|(name, lines)| {
            let [client, app] = ["client: ended ", "app: ended "].map(|side| code(lines, side));
            format!("{client}\t{app}\t{name}")
        })
        .collect()
}

#[tokio::test]
async fn w_11_good_and_bad_frames_pass_as_if_there_were_no_gateway() {
    let app = app("websocket_server", &[]).await;
    let scene = scene_with(&app, "/ws").await;
    let cookie = scene.cookie("alice").await;
    let gateway = scene.gateway.address().to_string();
    let client = "websocket_client";
    let refused = conversations(client, &[&gateway, "/ws", "no=session"]).await;
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(error.contains("HTTP 401"), "{error}");
    let address = app.address().trim_start_matches("http://");
    let directly = transcript(client, &[address, "/ws", ""]).await;
    let through = transcript(client, &[&gateway, "/ws", &cookie]).await;
    let (directly, through) = (cases(&directly), cases(&through));
    assert_same(&directly, &through);
    let expected: Vec<_> = OUTCOMES
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert_eq!(outcomes(&through), expected);
    let open = "sidegate_streams_open{route=\"/ws\",kind=\"websocket\"}";
    scene.wait_for_figure(open, 0).await;
    record("stream_peers.txt", &["WebSocket", "websockets"]);
}

/// Signs out in a new tab, which is then the current tab. Returns the time of the click.
async fn sign_out_in_a_new_tab(browser: &Chromium) -> i64 {
    let client = browser.client();
    let tab = client.new_window(true).await.unwrap().handle;
    client.switch_to_window(tab).await.unwrap();
    browser.open("http://localhost/oauth2/sign_out").await;
    let click = "const now = Date.now(); document.querySelector('form button').click(); return now";
    let clicked = browser.run(click).await.as_i64().unwrap();
    browser.wait_for(|url| url.ends_with("signed_out")).await;
    clicked
}

/// Fails unless a socket was closed for the sign-out, within two seconds.
fn assert_closed_by_sign_out(closed: &Value, clicked: i64) {
    assert_eq!(closed["code"], 1008, "{closed}");
    assert_within_two_seconds(&closed["at"], clicked);
}

fn assert_within_two_seconds(at: &Value, clicked: i64) {
    let after = at.as_i64().unwrap() - clicked;
    assert!((0..2000).contains(&after), "closed after {after} ms");
}

#[tokio::test]
async fn w_03_the_socket_of_a_page_ends_with_the_session_and_returns_with_the_next_one() {
    let app = app("websocket_server", &[]).await;
    let scene = scene_with(&app, "/ws").await;
    scene
        .app
        .answer_by(|_| Answer::with(200, &[("Content-Type", "text/html")], PAGE));
    let browser = Chromium::leading("localhost:80", scene.gateway.address()).await;
    browser.open("http://localhost/page").await;
    browser.wait_for(|url| url.ends_with("/page")).await;
    browser.wait_for_script("seen.ticks >= 3").await;
    assert!(browser.text().await.starts_with("tick "));
    let page = browser.client().window().await.unwrap();
    let clicked = sign_out_in_a_new_tab(&browser).await;
    let other = browser.client().window().await.unwrap();
    browser
        .client()
        .switch_to_window(page.clone())
        .await
        .unwrap();
    browser
        .wait_for_script("seen.closed.length > 0 && seen.refused >= 2")
        .await;
    let seen = browser.run("return seen").await;
    assert_closed_by_sign_out(&seen["closed"][0], clicked);
    assert_eq!(seen["opened"], 1, "{seen}");
    // Another tab signs in. The page only tries to connect again.
    browser.client().switch_to_window(other).await.unwrap();
    browser.open("http://localhost/elsewhere").await;
    browser.wait_for(|url| url.ends_with("/elsewhere")).await;
    browser.client().switch_to_window(page).await.unwrap();
    let more = format!("seen.opened === 2 && seen.ticks > {} + 3", seen["ticks"]);
    browser.wait_for_script(&more).await;
    assert_eq!(browser.run("return seen.closed.length").await, 1);
    assert_eq!(scene.provider.exchanges().len(), 2);
    record("stream_peers.txt", &["WebSocket", "chromium"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clocks_of_the_demo_stop_at_a_sign_out_and_start_again_at_a_sign_in() {
    let listen = "127.0.0.1:0".parse().unwrap();
    let demo = Demo::start(listen, ProviderKind::OpenId, Purpose::Show).await;
    let demo = demo.unwrap();
    let front = demo.public_url().as_str();
    let browser = Chromium::start().await;
    browser.open(front).await;
    browser.log_in("alice", "password").await;
    browser.wait_for_text("Hello, alice").await;
    browser
        .run("document.querySelector('a[href=\"/live\"]').click()")
        .await;
    let state = |clock: &str, state: &str| {
        format!("document.querySelector('#{clock}.{state}')?.innerText.includes(':')")
    };
    for clock in CLOCKS {
        browser.wait_for_script(&state(clock, "running")).await;
    }
    browser.picture("live").await;
    let client = browser.client();
    let page = client.window().await.unwrap();
    let other = client.new_window(true).await.unwrap().handle;
    client.switch_to_window(other.clone()).await.unwrap();
    browser.open(front).await;
    let sign_out = "document.querySelector('form[action=\"/oauth2/sign_out\"] button').click()";
    browser.run(sign_out).await;
    browser
        .wait_for(|url| url.contains("/oauth2/signed_out?"))
        .await;
    browser
        .wait_for_text("Your session at demo has ended, too.")
        .await;
    client.switch_to_window(page.clone()).await.unwrap();
    for clock in CLOCKS {
        browser.wait_for_script(&state(clock, "stopped")).await;
    }
    let text = browser.text().await;
    assert!(text.contains("with close code 1008"), "{text}");
    browser.picture("live_stopped").await;
    client.switch_to_window(other).await.unwrap();
    // The provider asks for the password again, because the sign-out has also ended its session.
    browser.open(front).await;
    browser.log_in("alice", "password").await;
    browser.wait_for_text("Hello, alice").await;
    client.switch_to_window(page).await.unwrap();
    for clock in CLOCKS {
        browser.wait_for_script(&state(clock, "running")).await;
    }
    demo.stop().await;
}

#[tokio::test]
async fn jupyter_server_computes_and_its_kernel_survives_a_sign_out() {
    let app = jupyter("").await;
    let scene = scene_with(&app, "/jupyter").await;
    let browser = Chromium::leading("localhost:80", scene.gateway.address()).await;
    browser.open("http://localhost/jupyter/").await;
    browser.wait_for(|url| url.ends_with("/jupyter/")).await;
    browser.run(NOTEBOOK).await;
    let user = "api('GET', 'me').then(r => r.json()).then(me => me.identity.username)";
    assert_eq!(browser.promise(user).await, "alice");
    let start = "api('POST', 'kernels').then(async r => {\
                 window.kernel = (await r.json()).id; return r.status; })";
    assert_eq!(browser.promise(start).await, 201);
    assert_eq!(browser.promise("run('x = 6*7; x')").await, "42");
    let page = browser.client().window().await.unwrap();
    let clicked = sign_out_in_a_new_tab(&browser).await;
    let other = browser.client().window().await.unwrap();
    browser
        .client()
        .switch_to_window(page.clone())
        .await
        .unwrap();
    browser.wait_for_script("window.cut").await;
    assert_closed_by_sign_out(&browser.run("return cut").await, clicked);
    assert_eq!(
        browser.promise("run('x')").await,
        "failed: closed with 1006"
    );
    browser.client().switch_to_window(other).await.unwrap();
    browser.open("http://localhost/").await;
    assert_eq!(browser.text().await, "seen");
    browser.client().switch_to_window(page).await.unwrap();
    assert_eq!(browser.promise("run('x')").await, "42");
    let stop = "api('DELETE', 'kernels/' + kernel).then(r => r.status)";
    assert_eq!(browser.promise(stop).await, 204);
    record("stream_peers.txt", &["WebSocket", "jupyter_server"]);
}
