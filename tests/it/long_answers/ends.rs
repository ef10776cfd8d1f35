//! Ends of long answers that are not the ends of their sessions, in the metrics and in the log.

use serde_json::json;
use tokio::time::timeout;

use super::{HEAD, begin, chunk, cookie_of, cut, ended_figure, get, open_figure, pass, sign_out};
use crate::support::gateway::{Gateway, Process, Settings};
use crate::support::provider::StandIn;
use crate::support::raw::Raw;
use crate::support::scene::{ORIGIN, Scene, wait_for_figure};
use crate::support::socket::{End, SocketApp};
use crate::support::upstream::Answer;
use crate::support::wire::TEST_TIMEOUT;
use crate::websocket::scene;

#[tokio::test]
async fn a_long_answer_ends_as_its_app_ends_it() {
    let (scene, app) = scene().await;
    let cookie = scene.cookie("alice").await;
    let gateway = scene.gateway.address();
    let (mut client, mut served) = begin(gateway, &app, &get("/any", &cookie)).await;
    scene.wait_for_figure(&open_figure("/any"), 1).await;
    served.send("0\r\n\r\n").await;
    client.expect("0\r\n\r\n").await;
    scene
        .wait_for_figure(&ended_figure("/any", "complete"), 1)
        .await;
    // The app closes its connection, because otherwise the connection could be used again.
    drop(served);
    let (mut client, served) = begin(gateway, &app, &get("/any", &cookie)).await;
    scene.wait_for_figure(&open_figure("/any"), 1).await;
    drop(served);
    assert_eq!(client.rest().await, b"");
    scene
        .wait_for_figure(&ended_figure("/any", "upstream_broken"), 1)
        .await;
    let (client, mut served) = begin(gateway, &app, &get("/any", &cookie)).await;
    scene.wait_for_figure(&open_figure("/any"), 1).await;
    drop(client);
    assert_eq!(served.rest().await, b"");
    scene
        .wait_for_figure(&ended_figure("/any", "client_gone"), 1)
        .await;
}

#[tokio::test]
async fn a_client_that_takes_no_data_has_a_reason_of_its_own() {
    assert_reason("write_secs = 1", "client_stalled").await;
}

#[tokio::test]
async fn a_client_that_takes_data_too_slowly_has_a_reason_of_its_own() {
    let lowest = "answer_rate = 1000000000\nanswer_window_secs = 1";
    assert_reason(lowest, "client_too_slow").await;
}

/// Sends an answer to a client that does not read. Fails if the answer does not end with `reason`.
async fn assert_reason(setting: &str, reason: &str) {
    let app = SocketApp::start().await;
    let provider = StandIn::start().await;
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url())
        .with("[[routes]]\nprefix = \"/\"\naccess = \"public\"\n")
        .server(setting);
    let gateway = Gateway::start(settings);
    let (client, mut served) = begin(gateway.address(), &app, &get("/", "")).await;
    // With a limit of one second, the connection could end before the answer is a stream.
    wait_for_figure(gateway.operations(), &open_figure("/"), 1).await;
    let block = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let closed = async { while served.wire.write(block.as_bytes()).await {} };
    timeout(TEST_TIMEOUT, closed)
        .await
        .expect("the app still sends");
    wait_for_figure(gateway.operations(), &ended_figure("/", reason), 1).await;
    drop(client);
}

#[tokio::test]
async fn w_08_long_answers_get_the_time_of_a_drain_and_are_logged() {
    let app = SocketApp::start().await;
    let provider = StandIn::start().await;
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url())
        .server("drain_secs = 3")
        .with("[[routes]]\nprefix = \"/\"\naccess = \"public\"\n");
    let mut gateway = Process::start(settings).await;
    let request = "POST /e?secret=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody";
    let (mut client, mut served) = begin(gateway.address(), &app, request).await;
    served.expect("body").await;
    wait_for_figure(gateway.operations(), &open_figure("/"), 1).await;
    gateway.signal("TERM").await;
    gateway.wait_for_log(|log| log.contains("rain")).await;
    pass(&mut served, &mut client, "still").await;
    cut(&mut client, &mut served).await;
    assert!(gateway.ended().await.success());
    gateway
        .wait_for_log(|log| log.contains("\"Request\""))
        .await;
    let log = gateway.log();
    let line = |message: &str| {
        let mut lines = log.lines().filter(|line| line.contains(message));
        let line = lines.next().expect("an event");
        assert_eq!(lines.next(), None, "{message}");
        serde_json::from_str::<serde_json::Value>(line).unwrap()
    };
    let (opened, ended) = (line("Stream opened"), line("\"Request\""));
    assert_eq!(opened["url.path"], "/e");
    assert!(opened["request.id"].is_string(), "{opened}");
    assert_eq!(opened["request.id"], ended["request.id"]);
    for (name, value) in [
        ("end", json!("drain")),
        ("http.request.body.size", json!(4)),
        ("http.response.body.size", json!(10)),
        ("http.response.status_code", json!(200)),
        ("url.path", json!("/e")),
    ] {
        assert_eq!(ended[name], value, "{name}: {ended}");
    }
}

#[tokio::test]
async fn f_09_an_answer_that_breaks_off_with_its_first_chunk_still_has_its_head() {
    let scene = Scene::new().await;
    let cookie = scene.cookie("alice").await;
    for (path, cookie) in [("/public/x", None), ("/any", Some(&cookie))] {
        for first in ["ZZ\r\n", "5\r\nab"] {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            let bytes = format!("{head}{first}");
            scene.app.next(Answer::raw(bytes.as_bytes()).then_close());
            let mut client = Raw::connect(scene.gateway.address()).await;
            client
                .send(get(path, cookie.map_or("", String::as_str)))
                .await;
            let head = client.head().await;
            let status = head.map(|head| head.status());
            assert!(status.is_some(), "silence: {path} {first}");
        }
    }
}

#[tokio::test]
async fn w_03_an_http_1_0_client_does_not_mistake_a_cut_answer_for_a_complete_answer() {
    let (scene, app) = scene().await;
    let browser = scene.signed_in("alice").await;
    let cookie = cookie_of(&browser, ORIGIN);
    let request = format!("GET /any HTTP/1.0\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n");
    let mut client = End::connect(scene.gateway.address()).await;
    client.send(&request).await;
    let (_head, mut served) = app.accept().await;
    served.send(format!("{HEAD}{}", chunk("first"))).await;
    let head = timeout(TEST_TIMEOUT, client.wire.head()).await;
    assert_eq!(head.unwrap().expect("a head").status(), 200);
    client.expect("first").await;
    scene.wait_for_figure(&open_figure("/any"), 1).await;
    sign_out(&browser, ORIGIN).await;
    client.ends_with_reset().await;
}

#[tokio::test]
async fn f_09_an_http_1_0_client_does_not_mistake_a_broken_answer_for_a_complete_answer() {
    let (scene, app) = scene().await;
    let browser = scene.signed_in("alice").await;
    let cookie = cookie_of(&browser, ORIGIN);
    let request = format!("GET /any HTTP/1.0\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n");
    let mut client = End::connect(scene.gateway.address()).await;
    client.send(&request).await;
    let (_head, mut served) = app.accept().await;
    served.send(format!("{HEAD}{}", chunk("first"))).await;
    let head = timeout(TEST_TIMEOUT, client.wire.head()).await;
    assert_eq!(head.unwrap().expect("a head").status(), 200);
    client.expect("first").await;
    drop(served);
    client.ends_with_reset().await;
}
