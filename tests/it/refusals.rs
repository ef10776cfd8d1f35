//! What an operator and a user learn when the gateway refuses a request or a connection because of
//! its bytes, its host or its proxy: an event that names the setting, a metric and a page.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::support::certificates::Authority;
use crate::support::gateway::{Process, Settings};
use crate::support::h2::{H2, Outcome, RST_STREAM, frame};
use crate::support::provider::StandIn;
use crate::support::raw::{Raw, Response};
use crate::support::scene::{ORIGIN, ROUTES, TLS_ORIGIN, figure, wait_for_figure};
use crate::support::upstream::RecordingUpstream;

/// A gateway as a process, whose log can be read.
struct Running {
    process: Process,
    app: RecordingUpstream,
    _provider: StandIn,
}

impl Running {
    /// Starts a gateway with this public URL.
    async fn start(origin: &str, change: impl FnOnce(Settings) -> Settings) -> Self {
        let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
        let settings = Settings::new(origin, &provider.url(), &app.url()).with(ROUTES);
        Self {
            process: Process::start_with(change(settings), "level = \"info\"\n").await,
            app,
            _provider: provider,
        }
    }

    /// The first answer to these bytes. The gateway has to close the connection.
    async fn answer(&self, address: SocketAddr, bytes: impl AsRef<[u8]>) -> Option<Response> {
        let mut client = Raw::connect(address).await;
        client.send(bytes).await;
        let mut answers = client.until_closed().await;
        assert!(answers.len() < 2, "{answers:?}");
        answers.pop()
    }

    /// Waits until this number of refusals was counted, and fails if the number becomes larger.
    async fn counts(&self, reason: &str, number: u64) {
        let name = format!("sidegate_refusals_total{{reason=\"{reason}\"}}");
        wait_for_figure(self.process.operations(), &name, number).await;
    }

    /// The events with this reason and this text: at least one, and at most one in each minute.
    async fn limited_events(&self, reason: &str, message: &str) -> Vec<Value> {
        let is_event = |line: &&str| line.contains(reason) && line.contains(message);
        let is_logged = |log: &str| log.lines().any(|line| is_event(&line));
        self.process.wait_for_log(is_logged).await;
        let log = self.process.log();
        let lines = log.lines().filter(is_event);
        let events: Vec<Value> = lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        // A time without its seconds, such as 2026-11-30T16:39.
        let minute = |event: &Value| event["timestamp"].as_str().unwrap()[..16].to_owned();
        let minutes: BTreeSet<_> = events.iter().map(minute).collect();
        assert_eq!(minutes.len(), events.len(), "{events:?}");
        events
    }
}

/// A request with this number of bytes in its cookies.
fn with_cookies(bytes: usize, accept: &str) -> String {
    format!(
        "GET /public/x HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nCookie: {}\r\n\r\n",
        "a".repeat(bytes)
    )
}

/// The warning about large heads.
const LARGE: &str = "above the limits server.head_kib and server.fields";

#[tokio::test]
async fn d_07_a_head_above_the_limits_gets_our_page_an_event_and_a_figure() {
    let running = Running::start(ORIGIN, |settings| settings).await;
    let address = running.process.address();
    let many = |count: usize| {
        let fields = "A: b\r\n".repeat(count);
        format!("GET /public/x HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")
    };
    for (kind, accept) in [
        ("text/html", "text/html"),
        ("application/problem+json", "*/*"),
    ] {
        let answer = running
            .answer(address, with_cookies(40_000, accept))
            .await
            .unwrap();
        assert_eq!(answer.status(), 431);
        let head = &answer.head;
        let is_kind = head.value("content-type").unwrap().starts_with(kind);
        assert!(is_kind, "{}", head.start_line());
        assert!(
            answer.text().contains("head_too_large"),
            "{}",
            answer.text()
        );
        assert_eq!(head.value("connection").as_deref(), Some("close"));
        let id = head.value("x-request-id").unwrap();
        assert!(answer.text().contains(&id), "{}", answer.text());
        let is_event = |line: &str| line.contains("\"Request\"") && line.contains(&id);
        running
            .process
            .wait_for_log(|log| log.lines().any(is_event))
            .await;
        let log = running.process.log();
        let event: Value =
            serde_json::from_str(log.lines().find(|line| is_event(line)).unwrap()).unwrap();
        assert_eq!(event["reason"], "head_too_large");
        assert_eq!(event["decision"], "refuse");
        assert_eq!(event["http.response.status_code"], 431);
        assert_eq!(event["url.path"], "/public/x");
        assert_eq!(event["server.address"], "localhost");
    }
    running.counts("head_too_large", 2).await;
    let requests = "sidegate_requests_total{route=\"-\",decision=\"refuse\",status=\"4xx\"}";
    assert_eq!(
        figure(running.process.operations(), requests).await,
        Some(2)
    );
    // A head with more fields than the HTTP library usually accepts gets our page, too.
    let answer = running.answer(address, many(120)).await.unwrap();
    assert_eq!(answer.status(), 431);
    assert!(answer.text().contains("head_too_large"));
    running.counts("head_too_large", 3).await;
    let events = running.limited_events("head_too_large", LARGE).await;
    assert_eq!(events[0]["url.path"], "/public/x", "{events:?}");
    assert_eq!(events[0]["server.address"], "localhost", "{events:?}");
    assert_eq!(running.app.count(), 0);
}

#[tokio::test]
async fn d_07_a_head_that_the_library_refuses_gets_an_event_with_its_path_and_its_host() {
    let running = Running::start(ORIGIN, |settings| settings).await;
    let head = with_cookies(100_000, "text/html");
    let answer = running.answer(running.process.address(), head).await;
    let answer = answer.unwrap();
    assert_eq!((answer.status(), &*answer.text()), (431, ""));
    running.counts("head_too_large", 1).await;
    let events = running.limited_events("head_too_large", LARGE).await;
    assert_eq!(events[0]["url.path"], "/public/x", "{events:?}");
    assert_eq!(events[0]["server.address"], "localhost", "{events:?}");
    assert_eq!(running.app.count(), 0);
}

#[tokio::test]
async fn d_07_fewer_fields_than_the_library_accepts_are_refused_with_our_page() {
    for (limit, passes, refused) in [(20, 19, 20), (150, 149, 200)] {
        let settings = format!("fields = {limit}");
        let running = Running::start(ORIGIN, |all| all.server(&settings)).await;
        for (count, status) in [(passes, 200), (refused, 431)] {
            let fields = "A: b\r\n".repeat(count);
            let request = format!("GET /public HTTP/1.0\r\nHost: localhost\r\n{fields}\r\n");
            let answer = running
                .answer(running.process.address(), request)
                .await
                .unwrap();
            assert_eq!(answer.status(), status, "{count} of {limit}");
            let is_ours = answer.text().contains("head_too_large");
            assert_eq!(is_ours, status == 431, "{}", answer.text());
        }
    }
}

#[tokio::test]
async fn d_07_a_large_list_of_fields_over_http2_gets_an_event_and_a_figure() {
    let authority = Authority::new();
    let running = Running::start(TLS_ORIGIN, |settings| settings.tls(&authority)).await;
    let address = running.process.address();
    let value = vec![b'a'; 10_000];
    let mut fields: Vec<(&[u8], &[u8])> = vec![
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", b"/public/x"),
        (b"accept", b"text/html"),
    ];
    let config = authority.client(&["h2"]);
    let mut client = H2::connect_without_table(address, "localhost", config).await;
    client.head(1, &fields, false).await;
    assert_eq!(client.outcome(1).await, Outcome::Status(200));
    fields.extend([(&b"cookie"[..], &*value); 4]);
    client.head_in_pieces(3, &fields).await;
    assert_eq!(client.outcome(3).await, Outcome::Status(431));
    let (page, ended) = client.received(3, usize::MAX).await;
    let page = String::from_utf8(page).unwrap();
    assert!(ended && page.contains("head_too_large"), "{page}");
    running.counts("head_too_large", 1).await;
    running.limited_events("head_too_large", LARGE).await;
    // The HTTP library itself refuses a much larger head.
    fields.extend([(&b"cookie"[..], &*value); 3]);
    client.head_in_pieces(5, &fields).await;
    assert_eq!(client.outcome(5).await, Outcome::Status(431));
    running.counts("head_too_large", 2).await;
    // The connection serves other requests.
    client.head(7, &fields[..5], false).await;
    assert_eq!(client.outcome(7).await, Outcome::Status(200));
    assert_eq!(running.app.count(), 2);
}

#[tokio::test]
async fn d_27_bytes_that_are_not_http_get_one_event_a_minute_and_are_all_counted() {
    let running = Running::start(ORIGIN, |settings| settings).await;
    let address = running.process.address();
    for bytes in [
        "GET / HTTP/9.1\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost : localhost\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: localhost\r\nX\r\n\r\n",
    ] {
        let answer = running.answer(address, bytes).await.unwrap();
        assert_eq!(answer.status(), 400, "{bytes:?}");
    }
    running.counts("malformed", 3).await;
    let events = running
        .limited_events("malformed", "its bytes are not valid HTTP")
        .await;
    assert_eq!(events[0]["client.address"], "127.0.0.1");
    assert!(
        events[0]["error"].as_str().unwrap().contains("HTTP"),
        "{events:?}"
    );
    // A client that only disconnects has sent nothing that is wrong.
    for bytes in ["", "GET / HT"] {
        let mut client = Raw::connect(address).await;
        client.send(bytes).await;
        client.finish().await;
        client.closed().await;
    }
    running.counts("malformed", 3).await;
}

#[tokio::test]
async fn d_27_s_26_s_34_malformed_bodies_over_http2_get_an_event_and_a_figure() {
    let authority = Authority::new();
    let mut fields: Vec<(&[u8], &[u8])> = vec![
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", b"/public/x"),
        (b"trailer", b"x-sum"),
    ];
    let running = Running::start(TLS_ORIGIN, |settings| settings.tls(&authority)).await;
    let config = authority.client(&["h2"]);
    let address = running.process.address();
    let mut client = H2::connect_without_table(address, "localhost", config).await;
    client.head(1, &fields, true).await;
    client.head(1, &[(b":path", b"/admin")], false).await;
    assert_eq!(client.outcome(1).await, Outcome::Refused);
    running.counts("malformed_body", 1).await;
    // The body is longer than announced.
    fields.push((b"content-length", b"1"));
    client.head(3, &fields, true).await;
    client.body(3, b"abc").await;
    assert_eq!(client.outcome(3).await, Outcome::Refused);
    running.counts("malformed_body", 2).await;
    let events = running
        .limited_events("malformed_body", "its body or its trailers are malformed")
        .await;
    assert_eq!(events[0]["client.address"], "127.0.0.1");
    // The connection serves other requests. A client that resets a stream has sent nothing that
    // is wrong.
    fields.pop();
    client.head(5, &fields, true).await;
    let cancel = [0, 0, 0, 8];
    client.bytes(&frame(RST_STREAM, 0, 5, &cancel)).await;
    client.head(7, &fields, true).await;
    client.data(7, b"abc").await;
    client.head(7, &[(b"x-sum", b"1")], false).await;
    assert_eq!(client.outcome(7).await, Outcome::Status(200));
    running.counts("malformed_body", 2).await;
}

#[tokio::test]
async fn t_11_tls_and_proxy_headers_on_a_plain_port_get_a_warning_that_names_the_setting() {
    let running = Running::start(ORIGIN, |settings| settings).await;
    let address = running.process.address();
    let request = "GET /public/x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let line = format!("PROXY TCP4 192.0.2.1 192.0.2.2 4 443\r\n{request}");
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    binary.extend(request.as_bytes());
    let hello = b"\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03".to_vec();
    for (bytes, reason) in [
        (hello, "tls_on_plain_port"),
        (line.into_bytes(), "proxy_header"),
        (binary, "proxy_header"),
    ] {
        let answer = running.answer(address, &bytes).await;
        assert!(
            answer.is_none_or(|answer| answer.status() == 400),
            "{reason}"
        );
    }
    running.counts("tls_on_plain_port", 1).await;
    running.counts("proxy_header", 2).await;
    for (reason, setting) in [
        ("tls_on_plain_port", "server.certificate_file"),
        ("proxy_header", "server.proxy_protocol"),
    ] {
        let events = running.limited_events(reason, setting).await;
        assert_eq!(events[0]["level"], "WARN", "{events:?}");
        assert_eq!(events[0]["client.address"], "127.0.0.1", "{events:?}");
    }
    // The second request of a connection is not the start of a TLS handshake.
    let later = format!("{request}\x16\x03\x01\r\n\r\n");
    let mut client = Raw::connect(address).await;
    client.send(later).await;
    assert_eq!(client.until_closed().await.len(), 2);
    running.counts("malformed", 1).await;
    assert_eq!(running.app.count(), 1);
}

#[tokio::test]
async fn t_11_plain_http_and_proxy_headers_on_a_tls_port_are_counted() {
    let authority = Authority::new();
    let running = Running::start(TLS_ORIGIN, |settings| settings.tls(&authority)).await;
    let address = running.process.address();
    for bytes in [
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 4 443\r\n",
    ] {
        let mut client = Raw::connect(address).await;
        client.send(bytes).await;
        client.closed().await;
    }
    running.counts("tls_handshake", 1).await;
    running.counts("proxy_header", 1).await;
    let message = "server.proxy_protocol announces none";
    running.limited_events("proxy_header", message).await;
}

#[tokio::test]
async fn h_22_an_unknown_host_gets_a_warning_that_names_the_host_and_the_setting() {
    let running = Running::start(ORIGIN, |settings| settings).await;
    let address = running.process.address();
    for host in ["Shop.Example.com:8080", "shop.example.com", "other.test"] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = running.answer(address, request).await.unwrap();
        assert_eq!(answer.status(), 421, "{host}");
    }
    running.counts("unknown_host", 3).await;
    let events = running
        .limited_events("unknown_host", "missing in public_url")
        .await;
    assert_eq!(events[0]["server.address"], "shop.example.com:8080");
    assert_eq!(events[0]["level"], "WARN");
    // A host that is not canonical is refused before.
    let answer = running
        .answer(address, "GET / HTTP/1.1\r\nHost: a\x1b[2J\r\n\r\n")
        .await;
    assert_eq!(answer.unwrap().status(), 400);
    assert!(!running.process.log().contains('\x1b'));
}

#[tokio::test]
async fn t_16_the_page_for_a_user_behind_an_unlisted_proxy_does_not_ask_for_https() {
    let own = own_address();
    let running = Running::start("https://localhost", |settings| {
        let settings = settings.listening_everywhere();
        settings.server("trusted_proxies = [\"192.0.2.8\"]")
    })
    .await;
    let address = SocketAddr::new(own, running.process.address().port());
    for (fields, reason) in [
        ("X-Forwarded-Proto: https\r\n", "unlisted_proxy"),
        ("X-Forwarded-Proto: http, https\r\n", "unlisted_proxy"),
        ("X-Forwarded-For: 192.0.2.1\r\n", "unlisted_proxy"),
        ("Forwarded: for=192.0.2.1\r\n", "unlisted_proxy"),
        ("Via: 1.1 edge\r\n", "unlisted_proxy"),
        ("", "insecure_transport"),
        ("X-Forwarded-Proto: http\r\n", "insecure_transport"),
        (
            "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n",
            "insecure_transport",
        ),
    ] {
        let request =
            format!("GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n{fields}\r\n");
        let answer = running.answer(address, request).await.unwrap();
        let text = answer.text();
        assert_eq!(answer.status(), 403, "{fields}");
        assert!(text.contains(reason), "{fields}: {text}");
        assert_eq!(
            text.contains("https://"),
            reason == "insecure_transport",
            "{text}"
        );
        assert!(text.contains("server.trusted_proxies"), "{text}");
        // The page names neither the proxy nor the client.
        assert!(
            !text.contains(&own.to_string()) && !text.contains("192.0.2"),
            "{text}"
        );
    }
    running.counts("unlisted_proxy", 5).await;
    running.counts("insecure_transport", 3).await;
    for reason in ["unlisted_proxy", "insecure_transport"] {
        let events = running
            .limited_events(reason, "missing in server.trusted_proxies")
            .await;
        assert_eq!(events[0]["client.address"], own.to_string());
    }
    assert_eq!(running.app.count(), 0);
}

/// An address of this machine that is not a loopback address.
fn own_address() -> IpAddr {
    // Connecting a UDP socket sends nothing. The system chooses the address of this machine.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").unwrap();
    let address = socket.local_addr().unwrap().ip();
    assert!(
        !address.is_loopback(),
        "this machine has only loopback addresses"
    );
    address
}
