//! Answers in files.

use super::{BUFFERED, MIB, ROUTES, SPILLED, Spilling, keys, lose_files, text, wait_until_spilled};
use crate::long_answers::sign_out;
use crate::support::gateway::Settings;
use crate::support::h2::H2;
use crate::support::raw::Raw;
use crate::support::scene::{self, ORIGIN, SESSION, Scene, url};
use crate::support::upstream::Answer;

/// Sends a request whose answer has `content`, and does not read the answer.
async fn download(scene: &Scene, path: &str, fields: &str, answer: Answer) -> Raw {
    let before = scene.app.count();
    scene.app.next(answer);
    let mut client = Raw::connect(scene.gateway.address()).await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    client.send(request).await;
    scene
        .app
        .wait_until(|requests| requests.len() > before)
        .await;
    client
}

/// Waits until the only connection of the app is free.
async fn wait_for_the_app(scene: &Scene) {
    let page = scene.browser().open(&url("/public/other")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
}

#[tokio::test]
async fn a_large_answer_in_a_file_frees_the_connection_of_the_app() {
    let spilling = Spilling::new().await;
    let scene = &spilling.scene;
    let content = text(16 * MIB);
    let mut slow = download(scene, "/public/large", "", Answer::ok(&content)).await;
    wait_for_the_app(scene).await;
    spilling.wait_until_spilled(4 * MIB).await;
    let buffered = scene.figure(BUFFERED).await.unwrap();
    assert!(buffered < 1024 * 1024, "{buffered}");
    let answer = slow.response("GET").await.expect("an answer");
    assert!(answer.body.complete && answer.body.bytes == content.as_bytes());
    scene.wait_for_figure(SPILLED, 0).await;
    scene.wait_for_figure(BUFFERED, 0).await;
}

#[tokio::test]
async fn trailers_and_failures_follow_an_answer_in_a_file() {
    let spilling = Spilling::new().await;
    let scene = &spilling.scene;
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Check\r\n\r\n";
    let accepts = "TE: trailers\r\nConnection: TE\r\n";
    let content = text(16 * MIB);
    let chunk = format!("{:x}\r\n{content}\r\n", content.len());
    let whole = Answer::raw(head).then_send(chunk.as_bytes());
    for (answer, complete) in [
        (whole.clone().then_send(b"0\r\nX-Check: good\r\n\r\n"), true),
        // Only the missing last chunk shows that the answer is broken.
        (whole.then_close(), false),
    ] {
        let mut slow = download(scene, "/public/large", accepts, answer).await;
        wait_for_the_app(scene).await;
        spilling.wait_until_spilled(4 * MIB).await;
        let answer = slow.response("GET").await.expect("an answer");
        assert_eq!(answer.body.complete, complete);
        let trailers: &[&str] = if complete { &["x-check: good"] } else { &[] };
        assert_eq!(answer.body.trailers, trailers);
        // A broken answer may lose its last bytes.
        let received = answer.body.bytes;
        assert!(received.len() == content.len() || !complete && received.len() > 4 * MIB);
        assert!(
            received == content.as_bytes()[..received.len()],
            "{complete}"
        );
        drop(slow);
        scene.wait_for_figure(SPILLED, 0).await;
    }
}

#[tokio::test]
async fn an_answer_whose_file_is_lost_never_looks_complete() {
    let spilling = Spilling::new().await;
    let scene = &spilling.scene;
    let content = text(16 * MIB);
    let mut slow = download(scene, "/public/large", "", Answer::ok(&content)).await;
    wait_for_the_app(scene).await;
    spilling.wait_until_spilled(4 * MIB).await;
    lose_files(&spilling.folder);
    let answer = slow.response("GET").await.expect("an answer");
    let received = answer.body.bytes;
    assert!(!answer.body.complete && received.len() < content.len());
    assert!(received == content.as_bytes()[..received.len()]);
    let broken = "sidegate_broken_answers_total{route=\"/public/large\",end=\"buffer_file_lost\"}";
    scene.wait_for_figure(broken, 1).await;
}

#[tokio::test]
async fn the_file_of_an_answer_is_closed_when_its_session_ends() {
    let spilling = Spilling::new().await;
    let scene = &spilling.scene;
    let browser = scene.signed_in("alice").await;
    let cookie = browser.cookie(&url("/"), SESSION).unwrap();
    let fields = format!("Cookie: {SESSION}={cookie}\r\n");
    let mut slow = download(scene, "/large", &fields, Answer::ok(&text(16 * MIB))).await;
    spilling.wait_until_spilled(4 * MIB).await;
    sign_out(&browser, ORIGIN).await;
    scene.wait_for_figure(SPILLED, 0).await;
    assert!(!slow.until_closed().await[0].body.complete);
}

#[tokio::test]
async fn a_large_answer_over_http_2_is_in_a_file_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let change = |settings: Settings| keys(settings.with(scene::ROUTES), &folder).with(ROUTES);
    let (scene, tls) = Scene::over_tls_by(change).await;
    let gateway = scene.gateway.address();
    let mut slow = H2::connect_without_table(gateway, "localhost", tls.client(&["h2"])).await;
    let content = text(4 * MIB);
    scene.app.next(Answer::ok(&content));
    let fields = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", "/public/large"),
    ];
    let fields = fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    slow.head(1, &fields, false).await;
    wait_until_spilled(scene.gateway.operations(), 3 * MIB).await;
    for stream in [0, 1] {
        slow.allow(stream, 8 * MIB).await;
    }
    let (bytes, complete) = slow.received(1, content.len() + 1).await;
    assert!(complete && bytes == content.as_bytes());
}
