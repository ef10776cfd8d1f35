//! Ends of long answers that are not the ends of their sessions, in the metrics and in the log.

use serde_json::json;
use tokio::time::timeout;

use super::{begin, cut, ended_figure, get, open_figure, pass};
use crate::support::gateway::{Gateway, Process, Settings};
use crate::support::provider::StandIn;
use crate::support::scene::{ORIGIN, wait_for_figure};
use crate::support::socket::SocketApp;
use crate::support::wire::PATIENCE;
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
        .wait_for_figure(&ended_figure("/any", "closed"), 1)
        .await;
    // The app's connection could be used again, so the app closes it.
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
    let app = SocketApp::start().await;
    let provider = StandIn::start().await;
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url())
        .with("[[routes]]\nprefix = \"/\"\naccess = \"public\"\n")
        .server("write_secs = 1");
    let gateway = Gateway::start(settings);
    let (client, mut served) = begin(gateway.address(), &app, &get("/", "")).await;
    // With a write deadline of one second, the connection could otherwise end before it is a stream.
    wait_for_figure(gateway.operations(), &open_figure("/"), 1).await;
    let block = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let closed = async { while served.wire.write(block.as_bytes()).await {} };
    timeout(PATIENCE, closed)
        .await
        .expect("the app still sends");
    let figure = ended_figure("/", "client_stalled");
    wait_for_figure(gateway.operations(), &figure, 1).await;
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
        .wait_for_log(|log| log.contains("Stream ended"))
        .await;
    let log = gateway.log();
    let ended = log.lines().find(|line| line.contains("Stream ended"));
    let ended: serde_json::Value = serde_json::from_str(ended.expect("an event")).unwrap();
    for (name, value) in [
        ("reason", json!("drain")),
        ("client_bytes", json!(4)),
        ("upstream_bytes", json!(10)),
        ("network.protocol.name", json!("http")),
        ("url.path", json!("/e")),
    ] {
        assert_eq!(ended[name], value, "{name}: {ended}");
    }
}
