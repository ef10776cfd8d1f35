//! The limit of connections for each client, and the check of the limit of descriptors.

use std::process::Command;

use serde_json::Value;

use crate::support::gateway::{PROGRAM, Process, Settings};
use crate::support::provider::StandIn;
use crate::support::raw::Raw;
use crate::support::scene::{ORIGIN, ROUTES, Scene};
use crate::support::upstream::{Answer, RecordingUpstream};

const REQUEST: &str = "GET /public HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Sends the header of a load balancer and a request. The connection stays open.
async fn open(scene: &Scene, header: &str) -> Raw {
    let mut raw = Raw::connect(scene.gateway.address()).await;
    raw.send(format!("{header}{REQUEST}")).await;
    assert_eq!(raw.response("GET").await.unwrap().status(), 200);
    raw
}

/// Fails unless the connection is still open.
async fn assert_open(raw: &mut Raw) {
    raw.send(REQUEST).await;
    assert_eq!(raw.response("GET").await.unwrap().status(), 200);
}

async fn scene(keys: &str) -> Scene {
    Scene::with(|settings| settings.server("connections_per_client = 1").server(keys)).await
}

#[tokio::test]
async fn d_43_a_second_connection_of_a_client_closes_the_first_one_at_a_limit_of_one() {
    let scene = scene("").await;
    let mut first = open(&scene, "").await;
    let mut second = open(&scene, "").await;
    first.closed().await;
    assert_open(&mut second).await;
}

#[tokio::test]
async fn d_43_connections_of_listed_proxies_count_for_no_client() {
    for keys in [
        "trusted_proxies = [\"127.0.0.1\"]",
        "[auth_check]\noauth2_proxy = [\"127.0.0.1\"]",
        "trusted_proxies = [\"127.0.0.1\"]\n[[auth_check.proxies]]\nkind = \"nginx\"\n\
         networks = [\"127.0.0.1\"]",
    ] {
        let scene = scene(keys).await;
        let mut first = open(&scene, "").await;
        let mut second = open(&scene, "").await;
        assert_open(&mut first).await;
        assert_open(&mut second).await;
    }
}

#[tokio::test]
async fn d_43_the_client_of_a_load_balancer_is_the_address_in_the_proxy_header() {
    let keys = "proxy_protocol = [\"127.0.0.1\"]\ntrusted_proxies = [\"192.0.2.8\"]\n\
                client_ipv4_bits = 31";
    let scene = scene(keys).await;
    let line = |address: &str| format!("PROXY TCP4 {address} 192.0.2.99 40000 443\r\n");
    let mut first = open(&scene, &line("192.0.2.2")).await;
    let mut other = open(&scene, &line("192.0.2.4")).await;
    // This address belongs to the network of the first client.
    let mut second = open(&scene, &line("192.0.2.3")).await;
    first.closed().await;
    let mut exempt = Vec::new();
    for header in [
        line("192.0.2.8"),
        line("192.0.2.8"),
        "PROXY UNKNOWN\r\n".to_owned(),
    ] {
        exempt.push(open(&scene, &header).await);
    }
    for connection in [&mut other, &mut second].into_iter().chain(&mut exempt) {
        assert_open(connection).await;
    }
}

#[tokio::test]
async fn d_43_the_warnings_name_the_client_of_a_load_balancer() {
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url())
        .with(ROUTES)
        .server("connections_per_client = 1\nproxy_protocol = [\"127.0.0.1\"]");
    let process = Process::start(settings).await;
    let line = |address: &str| format!("PROXY TCP4 {address} 192.0.2.99 40000 443\r\n{REQUEST}");
    let mut first = Raw::connect(process.address()).await;
    first.send(line("192.0.2.2")).await;
    assert_eq!(first.response("GET").await.unwrap().status(), 200);
    let mut second = Raw::connect(process.address()).await;
    second.send(line("192.0.2.2")).await;
    assert_eq!(second.response("GET").await.unwrap().status(), 200);
    first.closed().await;
    // The request of this client stays in progress, so its next connection is closed.
    app.next(Answer::silence());
    let mut busy = Raw::connect(process.address()).await;
    busy.send(line("192.0.2.4")).await;
    app.wait_until(|requests| requests.len() == 3).await;
    let mut refused = Raw::connect(process.address()).await;
    refused.send(line("192.0.2.4")).await;
    refused.closed().await;
    for (reason, client) in [
        ("client_limit", "192.0.2.2"),
        ("client_refused", "192.0.2.4"),
    ] {
        let reason = format!("\"reason\":\"{reason}\"");
        let is_warning = |line: &&str| line.contains("WARN") && line.contains(&reason);
        process
            .wait_for_log(|log| log.lines().any(|line| is_warning(&line)))
            .await;
        let log = process.log();
        let warning: Value = serde_json::from_str(log.lines().find(is_warning).unwrap()).unwrap();
        assert_eq!(warning["client.address"], client, "{warning}");
    }
    drop(busy);
}

#[test]
fn f_22_check_compares_the_settings_with_the_limit_of_descriptors() {
    let settings = Settings::new(ORIGIN, "http://127.0.0.1:1", "http://127.0.0.1:2");
    let settings = settings.server("connections = 700");
    let path = settings.write();
    let check = |limits: &str| {
        let mut check = Command::new("prlimit");
        check
            .args([limits, PROGRAM, "check", "--config"])
            .arg(&path);
        let output = check.output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = check("--nofile=100:1024");
    // 256 connections to the app, and 176 other descriptors for two workers and one provider.
    let warning = "warning: server.connections: 700 connections, 256 connections to apps \
                   (upstreams.X.connections) and 176 other descriptors need 1132 descriptors, but \
                   the process may open only 1024, so Sidegate accepts 592 connections at the same \
                   time; raise the limit of the process (LimitNOFILE in a systemd unit, ulimit -n in \
                   a shell), or lower server.connections\n";
    assert_eq!(said, warning);
    // Sidegate raises the soft limit to the hard limit.
    assert_eq!(check("--nofile=100:1132"), "");
}
