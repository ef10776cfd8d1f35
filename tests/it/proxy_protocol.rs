//! The PROXY protocol: a load balancer states the address of the client.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpSocket;

use crate::support::gateway::{Process, Settings};
use crate::support::provider::StandIn;
use crate::support::raw::{Raw, Response, tls_over};
use crate::support::scene::{ORIGIN, Scene};
use crate::support::upstream::RecordingUpstream;

const LISTED: &str = "proxy_protocol = [\"127.0.0.1\"]\ntrusted_proxies = [\"192.0.2.8\"]";
const REQUEST: &str = "GET /public HTTP/1.1\r\nHost: localhost\r\n\r\n";
const LINE: &str = "PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n";

/// A version 2 header for an IPv4 connection from this address.
fn binary(address: [u8; 4]) -> Vec<u8> {
    let head = *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    [&head[..], &address, &[192, 0, 2, 2, 0x9c, 0x40, 1, 187]].concat()
}

async fn scene() -> Scene {
    Scene::with(|settings| settings.server(LISTED)).await
}

/// Connects from a loopback address that is not listed.
async fn from_elsewhere(address: SocketAddr) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    let own = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0));
    socket.bind(own).unwrap();
    Raw::over(socket.connect(address).await.unwrap())
}

/// The value of `X-Forwarded-For` in the request that reached the app.
async fn forwarded(scene: &Scene, header: &[u8], request: &str) -> Option<String> {
    let mut raw = Raw::connect(scene.gateway.address()).await;
    raw.send([header, request.as_bytes()].concat()).await;
    let response = raw.response("GET").await.unwrap();
    assert_eq!(response.status(), 200, "{}", response.text());
    scene.app.last().head.value("x-forwarded-for")
}

#[tokio::test]
async fn the_app_and_the_log_get_the_address_of_the_header() {
    let scene = scene().await;
    let from_client = "GET /public HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n";
    for (header, request, expected) in [
        (LINE.into(), REQUEST, "192.0.2.1"),
        (binary([192, 0, 2, 7]), REQUEST, "192.0.2.7"),
        (b"PROXY UNKNOWN\r\n".to_vec(), REQUEST, "127.0.0.1"),
        // Only a trusted proxy may state the address of another client.
        (LINE.into(), from_client, "192.0.2.1"),
        (binary([192, 0, 2, 8]), from_client, "1.2.3.4, 192.0.2.8"),
        (
            b"PROXY TCP6 2001:db8::1 2001:db8::2 40000 443\r\n".to_vec(),
            REQUEST,
            "2001:db8::1",
        ),
    ] {
        let address = forwarded(&scene, &header, request).await;
        assert_eq!(address.as_deref(), Some(expected), "{header:?}");
    }
    // Peers of other networks connect without a header.
    let mut raw = from_elsewhere(scene.gateway.address()).await;
    raw.send(REQUEST).await;
    assert_eq!(raw.response("GET").await.unwrap().status(), 200);
    let address = scene.app.last().head.value("x-forwarded-for");
    assert_eq!(address.as_deref(), Some("127.0.0.2"));
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let routes = crate::support::scene::ROUTES;
    let (scene, authority) =
        Scene::over_tls_by(|settings| settings.with(routes).server(LISTED)).await;
    let address = scene.gateway.address();
    for header in [LINE.as_bytes(), &binary([192, 0, 2, 1])] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, header)
            .await
            .unwrap();
        let config = authority.client(&[]);
        let mut wire = tls_over(stream, "localhost", config).await.unwrap();
        wire.write(REQUEST.as_bytes()).await;
        let head = wire.head().await.unwrap();
        assert_eq!(head.status(), 200);
        let address = scene.app.last().head.value("x-forwarded-for");
        assert_eq!(address.as_deref(), Some("192.0.2.1"));
    }
}

#[tokio::test]
async fn x_19_a_header_from_another_network_is_no_header() {
    let scene = scene().await;
    for header in [LINE.as_bytes(), &binary([192, 0, 2, 1])] {
        let mut raw = from_elsewhere(scene.gateway.address()).await;
        raw.send([header, REQUEST.as_bytes()].concat()).await;
        let responses = raw.until_closed().await;
        let statuses: Vec<u16> = responses.iter().map(Response::status).collect();
        assert_eq!(statuses, [400], "{header:?}");
    }
    assert_eq!(scene.app.count(), 0);
}

#[tokio::test]
async fn x_20_x_22_a_connection_without_a_valid_header_is_closed() {
    let provider = StandIn::start().await;
    let app = RecordingUpstream::start().await;
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url()).server(LISTED);
    let process = Process::start(settings.with(crate::support::scene::ROUTES)).await;
    for bytes in [
        REQUEST.to_owned(),
        LINE.replace("TCP4", "TCP5") + REQUEST,
        LINE.replace('\r', "") + REQUEST,
        LINE.replace(" 443", &" 443".repeat(30)) + REQUEST,
        // A load balancer that forwards the header of a client would state a wrong address.
        format!("X{LINE}{LINE}{REQUEST}"),
    ] {
        let mut raw = Raw::connect(process.address()).await;
        raw.send(&bytes).await;
        raw.closed().await;
        assert_eq!(raw.seen(), b"", "{bytes}");
    }
    assert_eq!(app.count(), 0);
    let warning = "has no valid PROXY header";
    process.wait_for_log(|log| log.contains(warning)).await;
    // The second header of a connection is not a header.
    let mut raw = Raw::connect(process.address()).await;
    raw.send(format!("{LINE}{LINE}{REQUEST}")).await;
    let responses = raw.until_closed().await;
    assert_eq!(responses.len(), 1);
    assert_eq!(responses[0].status(), 400);
    assert_eq!(app.count(), 0);
}

#[tokio::test]
async fn x_23_a_header_has_a_deadline() {
    let scene = Scene::with(|settings| settings.server(LISTED).server("first_byte_secs = 5")).await;
    for begin in [
        &b""[..],
        b"PROXY TCP4 192.0.2.1",
        &binary([1, 2, 3, 4])[..20],
    ] {
        let mut raw = Raw::connect(scene.gateway.address()).await;
        raw.send(begin).await;
        assert!(raw.is_silent().await, "{begin:?}");
        scene.gateway.advance(Duration::from_secs(6));
        raw.closed().await;
    }
}

#[tokio::test]
async fn x_24_a_stated_address_does_not_make_plain_http_acceptable() {
    // 127.0.0.1 is loopback, so the gateway listens everywhere, and the test connects to another
    // address of this machine if there is one.
    let Some(own) = own_address() else {
        panic!("this machine has no address except loopback addresses")
    };
    let provider = StandIn::start().await;
    let app = RecordingUpstream::start().await;
    let settings = Settings::new("https://localhost", &provider.url(), &app.url())
        .listening_everywhere()
        .server(&format!(
            "proxy_protocol = [\"{own}\"]\ntrusted_proxies = [\"192.0.2.8\"]"
        ))
        .with(crate::support::scene::ROUTES);
    let gateway = crate::support::gateway::Gateway::start(settings);
    let address = SocketAddr::new(own, gateway.address().port());
    for stated in ["127.0.0.1", "192.0.2.8"] {
        let mut raw = Raw::connect(address).await;
        let line = LINE.replace("192.0.2.1", stated);
        raw.send(format!("{line}{REQUEST}")).await;
        let response = raw.response("GET").await.unwrap();
        assert_eq!(response.status(), 403, "{stated}");
        assert!(response.text().contains("insecure_transport"), "{stated}");
    }
    assert_eq!(app.count(), 0);
}

/// An address of this machine that is not a loopback address.
fn own_address() -> Option<std::net::IpAddr> {
    // Connecting a UDP socket sends nothing. The system chooses the address of this machine.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback()).then_some(address)
}
