//! Whole requests, and bodies in files.

mod answers;

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::Path;

use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::gateway::{Gateway, Process, Settings};
use crate::support::limits::limit_file_size;
use crate::support::provider::StandIn;
use crate::support::raw::{Raw, Response};
use crate::support::scene::{self, ORIGIN, Scene, figure, url, wait_for_figure};
use crate::support::socket::SocketApp;
use crate::support::upstream::{Answer, RecordingUpstream};
use crate::support::wire::TEST_TIMEOUT;

/// The number of bytes in files.
const SPILLED: &str = "sidegate_spilled_bytes";

/// The number of bytes in memory.
const BUFFERED: &str = "sidegate_buffered_bytes";

const MIB: usize = 1024 * 1024;

const ROUTES: &str = r#"
[[routes]]
prefix = "/public/whole"
access = "public"
buffers = { whole_request = true, request_spill_mib = 16 }
[[routes]]
prefix = "/public/memory"
access = "public"
buffers.whole_request = true
[[routes]]
prefix = "/public/begin"
access = "public"
buffers.request_spill_mib = 1
[[routes]]
prefix = "/public/large"
access = "public"
buffers.answer_spill_mib = 32
[[routes]]
prefix = "/large"
buffers.answer_spill_mib = 32
"#;

/// A scene with a folder for files. The app has only one connection.
struct Spilling {
    scene: Scene,
    folder: TempDir,
}

impl Spilling {
    async fn new() -> Self {
        Self::with("", ROUTES).await
    }

    /// With more keys of `server`, and with these routes.
    async fn with(server: &str, routes: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let change = |settings: Settings| keys(settings, &folder).server(server).with(routes);
        Self {
            scene: Scene::with(change).await,
            folder,
        }
    }

    /// Waits until at least `bytes` bytes are in files.
    async fn wait_until_spilled(&self, bytes: usize) {
        wait_until_spilled(self.scene.gateway.operations(), bytes).await;
    }
}

/// Makes all files in the folder lose their bytes.
fn lose_files(folder: &TempDir) {
    let mut lost = 0;
    for entry in Path::new("/proc/self/fd").read_dir().unwrap() {
        let path = entry.unwrap().path();
        let is_in_folder = |target: &Path| target.starts_with(folder.path());
        if path.read_link().is_ok_and(|target| is_in_folder(&target)) {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(0).unwrap();
            lost += 1;
        }
    }
    assert!(lost > 0, "no file is open");
}

async fn wait_until_spilled(operations: SocketAddr, bytes: usize) {
    let bytes = u64::try_from(bytes).unwrap();
    let waiting = async {
        while figure(operations, SPILLED).await.unwrap_or_default() < bytes {
            tokio::task::yield_now().await;
        }
    };
    let came = timeout(TEST_TIMEOUT, waiting).await;
    assert!(came.is_ok(), "{:?}", figure(operations, SPILLED).await);
}

/// The settings of all tests.
fn keys(settings: Settings, folder: &TempDir) -> Settings {
    let settings = settings.server(&format!("spill_dir = '{}'", folder.path().display()));
    settings.app("connections = 1")
}

/// A text in which all lines are different.
fn text(bytes: usize) -> String {
    let mut text = String::new();
    for line in 0..bytes / 16 {
        writeln!(text, "{line:015}").unwrap();
    }
    text
}

/// Begins an upload in chunks.
async fn begin(gateway: SocketAddr, path: &str, fields: &str) -> Raw {
    let mut client = Raw::connect(gateway).await;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Transfer-Encoding: chunked\r\n\r\n"
    );
    client.send(head).await;
    client
}

async fn chunk(client: &mut Raw, content: &str) {
    let length = content.len();
    client.send(format!("{length:x}\r\n{content}\r\n")).await;
}

/// Ends the upload, and returns the answer.
async fn end(client: &mut Raw) -> Response {
    client.send("0\r\n\r\n").await;
    client.response("POST").await.expect("an answer")
}

/// Fails unless the app got this body complete, with its length.
#[track_caller]
fn assert_whole(app: &RecordingUpstream, content: &str) {
    let last = app.last();
    let length = content.len().to_string();
    assert_eq!(last.head.value("content-length"), Some(length));
    assert_eq!(last.head.value("transfer-encoding"), None);
    assert!(last.complete && last.body == content.as_bytes());
}

#[tokio::test]
async fn the_app_gets_a_large_request_when_it_is_whole() {
    let spilling = Spilling::new().await;
    let scene = &spilling.scene;
    let content = text(8 * MIB);
    let mut client = begin(scene.gateway.address(), "/public/whole", "").await;
    for part in content.as_bytes().chunks(MIB) {
        chunk(&mut client, std::str::from_utf8(part).unwrap()).await;
    }
    // All bytes but the last ones are in the file, and the memory has its usual limit.
    spilling.wait_until_spilled(8 * MIB - 128 * 1024).await;
    let buffered = scene.figure(BUFFERED).await.unwrap();
    assert!(buffered < 256 * 1024, "{buffered}");
    // The file has no name.
    assert_eq!(spilling.folder.path().read_dir().unwrap().count(), 0);
    // The only connection of the app is free.
    let page = scene.browser().open(&url("/public/other")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(scene.app.count(), 1);
    assert_eq!(end(&mut client).await.status(), 200);
    assert_whole(&scene.app, &content);
    scene.wait_for_figure(SPILLED, 0).await;
    scene.wait_for_figure(BUFFERED, 0).await;
}

#[tokio::test]
async fn the_app_gets_the_length_of_a_whole_get_request() {
    let spilling = Spilling::new().await;
    let scene = &spilling.scene;
    let mut client = Raw::connect(scene.gateway.address()).await;
    let head =
        "GET /public/whole HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(head).await;
    chunk(&mut client, "a query").await;
    client.send("0\r\n\r\n").await;
    assert_eq!(
        client.response("GET").await.expect("an answer").status(),
        200
    );
    assert_whole(&scene.app, "a query");
}

#[tokio::test]
async fn a_whole_request_in_single_bytes_fits_into_the_memory() {
    let spilling = Spilling::new().await;
    let scene = &spilling.scene;
    let content = text(60 * 1024);
    let mut client = begin(scene.gateway.address(), "/public/memory", "").await;
    let mut chunks = String::new();
    for byte in content.chars() {
        write!(chunks, "1\r\n{byte}\r\n").unwrap();
    }
    client.send(chunks).await;
    assert_eq!(end(&mut client).await.status(), 200);
    assert_whole(&scene.app, &content);
}

#[tokio::test]
async fn the_app_never_sees_a_request_that_is_larger_than_its_buffer() {
    let spilling = Spilling::with("body_mib = 4", ROUTES).await;
    let scene = &spilling.scene;
    let gateway = scene.gateway.address();
    for (path, limit) in [
        ("/public/memory", 64 * 1024),
        // `server.body_mib` is smaller than `request_spill_mib`.
        ("/public/whole", 4 * MIB),
    ] {
        // The largest request is accepted.
        let content = text(limit);
        let mut client = begin(gateway, path, "").await;
        chunk(&mut client, &content).await;
        assert_eq!(end(&mut client).await.status(), 200, "{path}");
        assert_whole(&scene.app, &content);
        let before = scene.app.count();
        let mut client = begin(gateway, path, "").await;
        chunk(&mut client, &content).await;
        chunk(&mut client, "x").await;
        let answer = client.response("POST").await.expect("an answer");
        assert_eq!(answer.status(), 413, "{path}");
        // If the length is in the head, the client gets 413 before it sends the content.
        let mut client = Raw::connect(gateway).await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
             Content-Length: {}\r\n\r\n",
            limit + 1
        );
        client.send(head).await;
        assert_eq!(client.head().await.unwrap().status(), 413, "{path}");
        assert_eq!(scene.app.count(), before, "{path}");
    }
    scene.wait_for_figure(SPILLED, 0).await;
}

#[tokio::test]
async fn the_app_never_sees_a_whole_request_that_breaks_off() {
    let spilling = Spilling::new().await;
    let scene = &spilling.scene;
    let mut client = begin(scene.gateway.address(), "/public/whole", "").await;
    chunk(&mut client, &text(2 * MIB)).await;
    spilling.wait_until_spilled(MIB).await;
    drop(client);
    scene.wait_for_figure(SPILLED, 0).await;
    assert_eq!(scene.app.count(), 0);
    // A client with an invalid body stays connected, so the gateway answers it.
    let mut client = begin(scene.gateway.address(), "/public/whole", "").await;
    chunk(&mut client, &text(2 * MIB)).await;
    client.send("no length\r\n").await;
    let refused = client.response("POST").await.expect("an answer");
    assert_eq!(refused.status(), 400, "{}", refused.text());
    scene.wait_for_figure(SPILLED, 0).await;
    assert_eq!(scene.app.count(), 0);
}

#[tokio::test]
async fn the_gateway_itself_asks_for_the_content_of_a_whole_request() {
    let spilling = Spilling::new().await;
    let scene = &spilling.scene;
    let fields = "Expect: 100-continue\r\n";
    let mut client = begin(scene.gateway.address(), "/public/whole", fields).await;
    assert_eq!(client.head().await.unwrap().status(), 100);
    assert_eq!(scene.app.count(), 0);
    let content = text(64);
    chunk(&mut client, &content).await;
    assert_eq!(end(&mut client).await.status(), 200);
    assert_whole(&scene.app, &content);
    assert_eq!(scene.app.last().head.value("expect"), None);
}

#[tokio::test]
async fn a_route_of_whole_requests_has_whole_calls_and_immediate_handshakes() {
    let spilling = Spilling::new().await;
    let scene = &spilling.scene;
    let fields = "Content-Type: application/grpc-web\r\n";
    let mut client = begin(scene.gateway.address(), "/public/whole", fields).await;
    chunk(&mut client, "one").await;
    scene.wait_for_figure(BUFFERED, 3 + 64).await;
    assert_eq!(scene.app.count(), 0);
    chunk(&mut client, "two").await;
    assert_eq!(end(&mut client).await.status(), 200);
    assert_whole(&scene.app, "onetwo");
    // A handshake has no content. A handshake with content is refused
    // (`framing_upgrade_with_body`).
    let handshake = "GET /public/whole HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
                     Upgrade: other\r\n\r\n";
    let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                     Upgrade: other\r\n\r\n";
    scene.app.next(Answer::raw(switched));
    let mut client = Raw::connect(scene.gateway.address()).await;
    client.send(handshake).await;
    assert_eq!(client.head().await.unwrap().status(), 101);
}

#[tokio::test]
async fn a_request_that_is_larger_than_its_file_is_forwarded_while_it_arrives() {
    let spilling = Spilling::new().await;
    let scene = &spilling.scene;
    let content = text(3 * MIB);
    let mut client = begin(scene.gateway.address(), "/public/begin", "").await;
    let (first, last) = content.split_at(2 * MIB);
    chunk(&mut client, first).await;
    scene.app.wait_until(|requests| requests.len() == 1).await;
    chunk(&mut client, last).await;
    assert_eq!(end(&mut client).await.status(), 200);
    let recorded = scene.app.last();
    assert!(recorded.complete && recorded.body == content.as_bytes());
    assert_eq!(recorded.head.value("content-length"), None);
    scene.wait_for_figure(SPILLED, 0).await;
}

#[tokio::test]
async fn d_41_one_client_leaves_space_for_the_files_of_other_clients() {
    let route = "[[routes]]\nprefix = \"/whole\"\n\
                 buffers = { whole_request = true, request_spill_mib = 1 }\n";
    let spilling = Spilling::with("spill_mib = 32\nbuffer_mib = 0", route).await;
    let scene = &spilling.scene;
    let gateway = scene.gateway.address();
    let [attacker, bystander] = [scene.cookie("alice").await, scene.cookie("bob").await]
        .map(|cookie| format!("Cookie: {cookie}\r\n"));
    let before = scene.app.count();
    let mut attack = Vec::new();
    let content = text(MIB - 16 * 1024);
    // Sixteen of these bodies have room in half of the space.
    for number in 1..=16 {
        let mut client = begin(gateway, "/whole", &attacker).await;
        chunk(&mut client, &content).await;
        spilling.wait_until_spilled(number * content.len()).await;
        attack.push(client);
    }
    let mut client = begin(gateway, "/whole", &attacker).await;
    chunk(&mut client, &content).await;
    let refused = client.response("POST").await.expect("an answer");
    assert_eq!(refused.status(), 503);
    assert!(
        refused.text().contains("buffers_full"),
        "{}",
        refused.text()
    );
    assert!(refused.head.value("retry-after").is_some());
    let count = "sidegate_refused_spills_total{reason=\"full\"}";
    scene.wait_for_figure(count, 1).await;
    assert_eq!(scene.app.count(), before);
    let mut client = begin(gateway, "/whole", &bystander).await;
    chunk(&mut client, &content).await;
    assert_eq!(end(&mut client).await.status(), 200);
    assert_whole(&scene.app, &content);
}

#[tokio::test]
async fn a_full_disk_refuses_only_whole_requests() {
    let folder = tempfile::tempdir().unwrap();
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url()).with(scene::ROUTES);
    let process = Process::start(keys(settings, &folder).with(ROUTES)).await;
    limit_file_size(process.id(), "300000");
    let content = text(MIB);
    let mut client = begin(process.address(), "/public/whole", "").await;
    chunk(&mut client, &content).await;
    let refused = client.response("POST").await.expect("an answer");
    assert_eq!(refused.status(), 503);
    assert!(
        refused.text().contains("buffers_full"),
        "{}",
        refused.text()
    );
    assert_eq!(app.count(), 0);
    process
        .wait_for_log(|log| log.contains("cannot be written to server.spill_dir"))
        .await;
    let mut client = begin(process.address(), "/public/begin", "").await;
    chunk(&mut client, &content).await;
    assert_eq!(end(&mut client).await.status(), 200);
    let recorded = app.last();
    assert!(recorded.complete && recorded.body == content.as_bytes());
    let count = "sidegate_refused_spills_total{reason=\"disk_error\"}";
    wait_for_figure(process.operations(), count, 2).await;
    wait_for_figure(process.operations(), SPILLED, 0).await;
}

#[tokio::test]
async fn a_request_whose_file_is_lost_never_looks_complete() {
    let folder = tempfile::tempdir().unwrap();
    let (provider, app) = (StandIn::start().await, SocketApp::start().await);
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url()).with(scene::ROUTES);
    let gateway = Gateway::start(keys(settings, &folder).with(ROUTES));
    let content = text(16 * MIB);
    let mut client = begin(gateway.address(), "/public/whole", "").await;
    chunk(&mut client, &content).await;
    client.send("0\r\n\r\n").await;
    // The app reads nothing, so the sockets contain only a part of the file.
    let (head, mut served) = app.accept().await;
    assert_eq!(
        head.value("content-length"),
        Some(content.len().to_string())
    );
    lose_files(&folder);
    let reading = timeout(TEST_TIMEOUT, served.wire.until_end());
    let (received, _error) = reading.await.expect("the upload does not end");
    assert!(received.len() < content.len(), "{}", received.len());
    assert!(content.as_bytes().starts_with(&received));
    let answer = client.response("POST").await.expect("an answer");
    assert_eq!(answer.status(), 500);
    let text = answer.text();
    assert!(text.contains("buffer_file_lost"), "{text}");
}
