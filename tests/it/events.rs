//! The event stream for the scripts of an app.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::long_answers::sign_out;
use crate::support::browser_request::BrowserRequest;
use crate::support::h2::{H2, Outcome};
use crate::support::provider::CANARY;
use crate::support::scene::{ORIGIN, ROUTES, SESSION, Scene, TLS_ORIGIN, url};
use crate::support::socket::End;
use crate::support::upstream::Answer;
use crate::support::webdriver::Chromium;
use crate::support::wire::TEST_TIMEOUT;

const EVENTS: &str = "/oauth2/events";

/// A page whose script writes each event into the page.
const PAGE: &str = "<p id=log></p><script>\
    const source = new EventSource('/oauth2/events');\
    const note = (event) => { document.getElementById('log').textContent += \
        event.type + ' ' + event.data + '; '; };\
    for (const name of ['ends_in', 'renewed', 'ended']) source.addEventListener(name, note);\
    source.addEventListener('ended', () => source.close());\
    </script>";

/// A client that reads the event stream over HTTP/1.1.
pub(crate) struct EventClient(End);

impl EventClient {
    /// Opens the stream of the session `cookie`.
    pub(crate) async fn open(gateway: SocketAddr, cookie: &str) -> Self {
        let mut end = End::connect(gateway).await;
        end.send(request(cookie, "Sec-Fetch-Site: same-origin\r\n"))
            .await;
        let head = timeout(TEST_TIMEOUT, end.wire.head()).await.unwrap();
        let head = head.expect("a head");
        assert_eq!(head.status(), 200);
        assert_eq!(
            head.value("content-type").as_deref(),
            Some("text/event-stream")
        );
        assert_eq!(head.value("cache-control").as_deref(), Some("no-store"));
        assert_eq!(head.value("x-accel-buffering").as_deref(), Some("no"));
        let mut client = Self(end);
        let beginning = client.chunk().await.unwrap();
        assert_eq!(beginning.lines().next(), Some("retry: 3000"));
        client
    }

    /// The next part of the stream; `None` at the end of the stream.
    async fn chunk(&mut self) -> Option<String> {
        let reading = async {
            let mut line = String::new();
            while !line.ends_with("\r\n") {
                let byte = self.0.wire.bytes(1).await.expect("a whole stream");
                line.push(char::from(byte[0]));
            }
            let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
            let chunk = self.0.wire.bytes(size + 2).await.unwrap();
            (size > 0).then(|| String::from_utf8(chunk[..size].to_vec()).unwrap())
        };
        timeout(TEST_TIMEOUT, reading).await.expect("no event")
    }

    /// The name and the data of the next event. Comments are skipped.
    async fn event(&mut self) -> (String, Value) {
        let reading = async {
            loop {
                let text = self.chunk().await.expect("an event");
                if text != ":\n\n" {
                    break text;
                }
            }
        };
        let text = timeout(TEST_TIMEOUT, reading).await.expect("no event");
        let (name, data) = text.split_once('\n').unwrap();
        let data = data.strip_prefix("data: ").unwrap();
        let name = name.strip_prefix("event: ").unwrap();
        (name.to_owned(), serde_json::from_str(data).unwrap())
    }

    /// Fails unless the stream ends with this event, possibly after events with new times.
    pub(crate) async fn expect_end(&mut self, reason: &str) {
        let (name, data) = loop {
            let (name, data) = self.event().await;
            if name != "ends_in" {
                break (name, data);
            }
        };
        let login_url = url("/oauth2/sign_in");
        let expected = json!({"reason": reason, "login_url": login_url});
        assert_eq!((name.as_str(), data), ("ended", expected));
        assert_eq!(self.chunk().await, None);
    }
}

fn request(cookie: &str, fields: &str) -> String {
    format!("GET {EVENTS} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n{fields}\r\n")
}

fn open_figure() -> &'static str {
    "sidegate_streams_open{route=\"\",kind=\"events\"}"
}

fn ended_figure(reason: &str) -> String {
    format!("sidegate_streams_ended_total{{route=\"\",reason=\"{reason}\"}}")
}

#[tokio::test]
async fn a_real_browser_hears_in_another_tab_that_the_user_has_signed_out() {
    let scene = Scene::new().await;
    scene
        .app
        .answer_by(|_request| Answer::with(200, &[("Content-Type", "text/html")], PAGE));
    let browser = Chromium::leading("localhost:80", scene.gateway.address()).await;
    browser.open("http://localhost/app").await;
    browser.wait_for_text("ends_in {").await;
    let client = browser.client();
    let first = client.window().await.unwrap();
    let second = client.new_window(true).await.unwrap().handle;
    client.switch_to_window(second).await.unwrap();
    browser.open("http://localhost/oauth2/sign_out").await;
    browser
        .run("document.querySelector('form button').click()")
        .await;
    browser.wait_for(|url| url.ends_with("signed_out")).await;
    client.switch_to_window(first).await.unwrap();
    browser.wait_for_text("ended {").await;
    let text = browser.text().await;
    assert!(text.contains("\"reason\":\"signed_out\""), "{text}");
    assert!(!text.contains(CANARY), "{text}");
}

#[tokio::test]
async fn the_stream_reports_new_deadlines_and_the_end_of_the_session() {
    let setting = "[session]\nidle_secs = 100\nabsolute_secs = 1000\n";
    let scene = Scene::with(|settings| settings.with(setting)).await;
    let browser = scene.signed_in("alice").await;
    let cookie = format!("{SESSION}={}", browser.cookie(ORIGIN, SESSION).unwrap());
    let gateway = scene.gateway.address();
    let mut client = EventClient::open(gateway, &cookie).await;
    scene.wait_for_figure(open_figure(), 1).await;
    // The stream is not a use of the session, so nothing changes.
    scene.gateway.advance(Duration::from_secs(20));
    assert_eq!(client.chunk().await.as_deref(), Some(":\n\n"));
    // A request to the app is a use of the session.
    assert_eq!(browser.fetch(&url("/")).await.status, 200);
    scene.gateway.advance(Duration::from_secs(20));
    let expected = json!({"idle_ends_in": 80, "ends_in": 960, "renewable": true});
    assert_eq!(client.event().await, ("ends_in".to_owned(), expected));
    scene.gateway.advance(Duration::from_secs(80));
    client.expect_end("session_idle").await;
    let ended = ended_figure("session_idle");
    scene.wait_for_figure(&ended, 1).await;
    scene.wait_for_figure(open_figure(), 0).await;
}

#[tokio::test]
async fn the_stream_reports_a_refresh_without_the_tokens() {
    let scene = Scene::new().await;
    scene.provider.give_refresh_tokens();
    scene.provider.token_members(json!({"expires_in": 600}));
    let browser = scene.signed_in("alice").await;
    let cookie = format!("{SESSION}={}", browser.cookie(ORIGIN, SESSION).unwrap());
    let mut client = EventClient::open(scene.gateway.address(), &cookie).await;
    scene.gateway.advance(Duration::from_secs(601));
    assert_eq!(browser.fetch(&url("/")).await.status, 200);
    let (name, data) = loop {
        let (name, data) = client.event().await;
        if name != "ends_in" {
            break (name, data);
        }
    };
    assert_eq!(
        (name.as_str(), &data["renewable"]),
        ("renewed", &json!(true))
    );
    let received = String::from_utf8_lossy(client.0.wire.seen()).into_owned();
    assert!(!received.contains(CANARY), "{received}");
    sign_out(&browser, ORIGIN).await;
    client.expect_end("signed_out").await;
}

#[tokio::test]
async fn a_token_that_cannot_be_refreshed_ends_the_stream_when_it_expires() {
    let scene = Scene::new().await;
    let members = json!({"expires_in": 600, "refresh_token": null});
    scene.provider.token_members(members);
    let cookie = scene.cookie("alice").await;
    let mut client = EventClient::open(scene.gateway.address(), &cookie).await;
    scene.gateway.advance(Duration::from_secs(601));
    client.expect_end("token_expired").await;
}

#[tokio::test]
async fn only_a_script_of_the_site_and_only_with_a_session_opens_the_stream() {
    let scene = Scene::new().await;
    let browser = scene.signed_in("alice").await;
    for site in ["cross-site", "same-site", "none"] {
        let visit = BrowserRequest::fetch(&url(EVENTS)).field("sec-fetch-site", site);
        let page = browser.send(visit).await;
        assert_eq!(page.status, 403, "{site}");
        assert_eq!(page.json()["reason"], "cross_origin", "{site}");
    }
    let nobody = scene.browser().fetch(&url(EVENTS)).await;
    assert_eq!(nobody.status, 401);
    assert_eq!(nobody.json()["reason"], "no_cookie");
    assert_eq!(nobody.json()["login_url"], url("/oauth2/sign_in"));
    let post = BrowserRequest::fetch(&url(EVENTS)).method("POST");
    assert_eq!(browser.send(post.from(ORIGIN)).await.status, 405);
    scene.wait_for_figure(open_figure(), 0).await;
}

#[tokio::test]
async fn a_session_has_a_limited_number_of_streams() {
    let scene = Scene::new().await;
    let cookie = scene.cookie("alice").await;
    let gateway = scene.gateway.address();
    let mut open = Vec::new();
    for _ in 0..32 {
        open.push(EventClient::open(gateway, &cookie).await);
    }
    let refused = async || {
        let mut end = End::connect(gateway).await;
        end.send(request(&cookie, "Sec-Fetch-Site: same-origin\r\n"))
            .await;
        end.wire.head().await.unwrap().status()
    };
    assert_eq!(refused().await, 429);
    // Another user has streams of their own.
    let other = scene.cookie("bob").await;
    let other = EventClient::open(gateway, &other).await;
    // A closed tab makes room for a new one.
    drop(open.pop());
    scene.wait_for_figure(open_figure(), 32).await;
    let again = EventClient::open(gateway, &cookie).await;
    drop((again, other));
    scene.wait_for_figure(&ended_figure("client_gone"), 3).await;
}

#[tokio::test]
async fn the_streams_end_when_the_process_drains_and_when_a_reload_removes_the_host() {
    let scene = Scene::with(|settings| settings.server("drain_secs = 10")).await;
    let cookie = scene.cookie("alice").await;
    let Scene {
        mut gateway,
        provider,
        app,
    } = scene;
    let mut client = EventClient::open(gateway.address(), &cookie).await;
    let text = gateway.settings().text();
    // A reload that changes nothing for the session ends no stream.
    gateway.reload(&text).await.unwrap();
    assert_eq!(client.chunk().await.as_deref(), Some(":\n\n"));
    let other = text.replace("\"http://localhost\"", "\"http://localhost:81\"");
    gateway.reload(&other).await.unwrap();
    assert_eq!(client.chunk().await, None);
    gateway.reload(&text).await.unwrap();
    let mut client = EventClient::open(gateway.address(), &cookie).await;
    let (ended, ()) = tokio::join!(client.chunk(), gateway.drain());
    assert_eq!(ended, None);
    drop((provider, app));
}

#[tokio::test]
async fn the_stream_works_over_http_2() {
    let (scene, tls) = Scene::over_tls_with(ROUTES).await;
    let (browser, cookie) = scene.signed_in_over_tls(&tls, "alice").await;
    let address = scene.gateway.address();
    let mut client = H2::connect(address, "localhost", tls.client(&["h2"])).await;
    let fields = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", EVENTS),
        ("cookie", &cookie),
        ("sec-fetch-site", "same-origin"),
    ];
    let fields = fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    client.head(1, &fields, false).await;
    assert_eq!(client.outcome(1).await, Outcome::Status(200));
    let (beginning, is_over) = client.received(1, 10).await;
    let beginning = String::from_utf8(beginning).unwrap();
    assert!(
        beginning.starts_with("retry: 3000\nevent: ends_in\n") && !is_over,
        "{beginning}"
    );
    sign_out(&browser, TLS_ORIGIN).await;
    let (rest, is_over) = client.received(1, usize::MAX).await;
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.contains("event: ended\n"), "{rest}");
    assert!(rest.contains("\"reason\":\"signed_out\""), "{rest}");
    assert!(is_over);
}
