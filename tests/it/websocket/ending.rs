//! Tunnels end with their session, by a rule, by a deadline, or at the end of a drain.

use std::time::Duration;

use serde_json::json;
use sidegate::clock::Clock;
use tokio::join;

use super::{closed_with, open, scene, scene_with, text_frame};
use crate::back_channel::{assert_accepted, draft_of, send_form};
use crate::support::browser::Browser;
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::{Gateway, Process, Settings};
use crate::support::openid::settings;
use crate::support::provider::StandIn;
use crate::support::raw::Raw;
use crate::support::scene::{ORIGIN, SESSION, url, wait_for_figure};
use crate::support::socket::{End, Opening, SocketApp, switching};

#[tokio::test]
async fn w_03_signing_out_in_any_tab_closes_the_sockets_of_the_session() {
    let (scene, sockets) = scene().await;
    let browser = scene.signed_in("alice").await;
    let cookie = format!("{SESSION}={}", browser.cookie(ORIGIN, SESSION).unwrap());
    let (mut client, mut app) = open(&scene, &sockets, &cookie).await;
    let other = scene.cookie("bob").await;
    let (mut bystander, mut theirs) = open(&scene, &sockets, &other).await;
    app.send(text_frame("hello")).await;
    client.expect(text_frame("hello")).await;
    let none: [(&str, &str); 0] = [];
    let sign_out = BrowserRequest::navigation(&url("/oauth2/sign_out")).form(&none);
    assert_eq!(browser.send(sign_out.from(ORIGIN)).await.status, 303);
    closed_with(&mut client, 1008).await;
    assert_eq!(app.rest().await, b"");
    let (head, _client) = Opening::at("/any")
        .of_browser(&cookie)
        .answer(scene.gateway.address())
        .await;
    assert_eq!(head.status(), 401);
    theirs.send("still").await;
    bystander.expect("still").await;
    // After the user has signed in again, the next attempt succeeds. The browser's cookies need not
    // be deleted.
    let page = browser.visit(&url("/")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    let cookie = format!("{SESSION}={}", browser.cookie(ORIGIN, SESSION).unwrap());
    open(&scene, &sockets, &cookie).await;
    let ended = "sidegate_streams_ended_total{route=\"/any\",reason=\"signed_out\"}";
    scene.wait_for_figure(ended, 1).await;
}

#[tokio::test]
async fn w_03_no_close_frame_interrupts_a_message() {
    let (scene, sockets) = scene().await;
    let browser = scene.signed_in("alice").await;
    let cookie = format!("{SESSION}={}", browser.cookie(ORIGIN, SESSION).unwrap());
    let (mut client, mut app) = open(&scene, &sockets, &cookie).await;
    let frame = text_frame("hello");
    app.send(&frame[..4]).await;
    client.expect(&frame[..4]).await;
    let none: [(&str, &str); 0] = [];
    let sign_out = BrowserRequest::navigation(&url("/oauth2/sign_out")).form(&none);
    assert_eq!(browser.send(sign_out.from(ORIGIN)).await.status, 303);
    assert_eq!(client.rest().await, b"");
    assert_eq!(app.rest().await, b"");
}

#[tokio::test]
async fn w_03_the_deadlines_of_a_session_close_its_sockets() {
    for (key, reason) in [
        ("idle_secs = 600\nabsolute_secs = 3600", "session_idle"),
        ("idle_secs = 600\nabsolute_secs = 600", "session_too_old"),
    ] {
        let (scene, sockets) =
            scene_with("streams.idle_secs = 0", "", &format!("[session]\n{key}\n")).await;
        let cookie = scene.cookie("alice").await;
        let (mut client, mut app) = open(&scene, &sockets, &cookie).await;
        // Bytes from the app are not a use of the session.
        app.send(text_frame("tick")).await;
        client.expect(text_frame("tick")).await;
        scene.gateway.advance(Duration::from_secs(601));
        closed_with(&mut client, 1008).await;
        let ended = format!("sidegate_streams_ended_total{{route=\"/any\",reason=\"{reason}\"}}");
        scene.wait_for_figure(&ended, 1).await;
    }
}

#[tokio::test]
async fn a_socket_may_outlive_a_deadline_of_its_session_by_the_grace() {
    let sockets = SocketApp::start().await;
    let provider = StandIn::start().await;
    let settings = Settings::new(ORIGIN, &provider.url(), &sockets.url())
        .one_worker()
        .with("[session]\nidle_secs = 600\nabsolute_secs = 600\n")
        .with("[[routes]]\nprefix = \"/\"\n")
        .with("[[routes]]\nprefix = \"/any\"\nstreams.idle_secs = 0\nstreams.grace_secs = 300\n");
    let gateway = Gateway::start(settings);
    let (_browser, cookie) = sign_in(&gateway, &provider, &sockets, "alice").await;
    let (mut client, mut app) = open_at("/any", &gateway, &sockets, &cookie).await;
    let (mut without_grace, _app) = open_at("/", &gateway, &sockets, &cookie).await;
    gateway.advance(Duration::from_secs(601));
    // The worker informs both sockets of the end of the session at the same time.
    closed_with(&mut without_grace, 1008).await;
    let opening = Opening::at("/any").of_browser(&cookie);
    let (head, _client) = opening.answer(gateway.address()).await;
    assert_eq!(head.status(), 401);
    app.send(text_frame("on")).await;
    client.expect(text_frame("on")).await;
    gateway.advance(Duration::from_secs(301));
    closed_with(&mut client, 1008).await;
    let ended = "sidegate_streams_ended_total{route=\"/any\",reason=\"session_too_old\"}";
    wait_for_figure(gateway.operations(), ended, 1).await;
}

#[tokio::test]
async fn bytes_from_a_client_keep_its_session_alive_unless_the_route_forbids_it() {
    for (counts, alive) in [(true, true), (false, false)] {
        let streams = format!("streams.idle_secs = 0\nstreams.counts_as_use = {counts}");
        let session = "[session]\nidle_secs = 600\nabsolute_secs = 36000\n";
        let (scene, sockets) = scene_with(&streams, "", session).await;
        let cookie = scene.cookie("alice").await;
        let (mut client, mut app) = open(&scene, &sockets, &cookie).await;
        for _ in 0..3 {
            client.send("typing").await;
            app.expect("typing").await;
            // The tunnel checks its deadlines between these steps of the clock.
            for _ in 0..20 {
                scene.gateway.advance(Duration::from_secs(15));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let (head, _client) = Opening::at("/any")
            .of_browser(&cookie)
            .answer_or_app(scene.gateway.address(), &sockets)
            .await;
        assert_eq!(head.status() == 101, alive, "{counts}");
    }
}

/// A gateway whose users are in the group of `/admin`. The next refreshes decide about the group.
pub(crate) struct SignedInAdmin {
    pub(crate) gateway: Gateway,
    provider: StandIn,
    pub(crate) sockets: SocketApp,
    browser: Browser,
    pub(crate) cookie: String,
}

impl SignedInAdmin {
    pub(crate) async fn start() -> Self {
        Self::with(|settings| settings).await
    }

    /// With other settings.
    async fn with(change: impl FnOnce(Settings) -> Settings) -> Self {
        let sockets = SocketApp::start().await;
        let clock = Clock::manual(Clock::system().now());
        let provider = StandIn::at_time_of(&clock).await;
        provider.give_refresh_tokens();
        provider.tamper_claims(|claims| claims["groups"] = json!(["admins"]));
        let keys = [
            ("identity.userinfo", "false"),
            ("scopes", "[\"openid\", \"offline_access\"]"),
        ];
        let settings = change(settings(&provider.url(), &sockets.url(), &keys));
        let gateway = Gateway::with_clock(settings, clock);
        let (browser, cookie) = sign_in(&gateway, &provider, &sockets, "alice").await;
        Self {
            gateway,
            provider,
            sockets,
            browser,
            cookie,
        }
    }

    /// Opens a socket. Returns the ends of the client and the app.
    async fn open(&self, path: &'static str) -> (End, End) {
        open_at(path, &self.gateway, &self.sockets, &self.cookie).await
    }

    /// Refreshes the session. After this change, the user is only in this group.
    pub(crate) async fn refresh(&self, group: &'static str) {
        self.refresh_in(&self.browser, group).await;
    }

    /// Refreshes the session of any browser.
    async fn refresh_in(&self, browser: &Browser, group: &'static str) {
        self.provider
            .tamper_claims(move |claims| claims["groups"] = json!([group]));
        self.gateway.advance(Duration::from_secs(3601));
        let other = url("/page");
        let (page, ()) = join!(browser.fetch(&other), self.sockets.answer_plainly());
        assert_eq!(page.text(), "plain", "{}", page.describe());
    }
}

/// Opens a socket. Returns the ends of the client and the app.
async fn open_at(
    path: &'static str,
    gateway: &Gateway,
    sockets: &SocketApp,
    cookie: &str,
) -> (End, End) {
    let opening = Opening::at(path).of_browser(cookie);
    let ((head, client), app) = join!(opening.answer(gateway.address()), sockets.switch());
    assert_eq!(head.status(), 101);
    (client, app)
}

/// Signs a user in. Returns the browser, and the `Cookie` field of its requests.
async fn sign_in(
    gateway: &Gateway,
    provider: &StandIn,
    sockets: &SocketApp,
    user: &str,
) -> (Browser, String) {
    let browser = Browser::new().leading(ORIGIN, gateway.address());
    browser.plant(&provider.url(), &format!("user={user}; Path=/"));
    let home = url("/");
    let (page, ()) = join!(browser.visit(&home), sockets.answer_plainly());
    assert_eq!(page.text(), "plain", "{}", page.describe());
    let cookie = format!("{SESSION}={}", browser.cookie(ORIGIN, SESSION).unwrap());
    (browser, cookie)
}

#[tokio::test]
async fn w_03_w_04_a_refresh_that_removes_a_group_closes_only_the_sockets_of_its_routes() {
    let user = SignedInAdmin::with(Settings::one_worker).await;
    let mut admin = user.open("/admin/ws").await;
    let mut any = user.open("/ws").await;
    let (bob, cookie) = sign_in(&user.gateway, &user.provider, &user.sockets, "bob").await;
    let mut of_bob = open_at("/admin/ws", &user.gateway, &user.sockets, &cookie).await;
    // A refresh that does not change the groups closes no WebSocket.
    user.refresh("admins").await;
    // The worker looks for the new versions of all sessions at the same time.
    user.refresh_in(&bob, "guests").await;
    closed_with(&mut of_bob.0, 1008).await;
    admin.1.send(text_frame("on")).await;
    admin.0.expect(text_frame("on")).await;
    user.refresh("guests").await;
    closed_with(&mut admin.0, 1008).await;
    let ended = "sidegate_streams_ended_total{route=\"/admin\",reason=\"rule\"}";
    wait_for_figure(user.gateway.operations(), ended, 2).await;
    any.1.send(text_frame("on")).await;
    any.0.expect(text_frame("on")).await;
}

#[tokio::test]
async fn w_03_a_logout_at_the_provider_closes_the_sockets_of_the_user() {
    let user = SignedInAdmin::start().await;
    let mut of_alice = user.open("/ws").await;
    let (_bob, cookie) = sign_in(&user.gateway, &user.provider, &user.sockets, "bob").await;
    let mut of_bob = open_at("/ws", &user.gateway, &user.sockets, &cookie).await;
    let mut token = draft_of(&user.provider, user.gateway.clock().now(), "alice");
    token.claims.as_object_mut().unwrap().remove("sid");
    let page = send_form(user.gateway.address(), &[("logout_token", &token.signed())]).await;
    assert_accepted(&page);
    closed_with(&mut of_alice.0, 1008).await;
    let ended = "sidegate_streams_ended_total{route=\"/\",reason=\"signed_out_at_provider\"}";
    wait_for_figure(user.gateway.operations(), ended, 1).await;
    of_bob.1.send(text_frame("on")).await;
    of_bob.0.expect(text_frame("on")).await;
}

#[tokio::test]
async fn a_reload_closes_only_the_sockets_that_its_rules_forbid() {
    let (mut scene, sockets) = scene().await;
    let cookie = scene.cookie("alice").await;
    let (mut client, mut app) = open(&scene, &sockets, &cookie).await;
    let before = scene.gateway.settings().text();
    scene
        .gateway
        .reload(&format!("{before}\n# the same\n"))
        .await
        .unwrap();
    app.send(text_frame("same")).await;
    client.expect(text_frame("same")).await;
    let any = "prefix = \"/any\"\nupstream = \"sockets\"\n";
    assert_eq!(before.matches(any).count(), 1);
    let closed = format!("{any}provider = \"main\"\naccess.any_of.groups = [\"nobody\"]\n");
    scene
        .gateway
        .reload(&before.replace(any, &closed))
        .await
        .unwrap();
    closed_with(&mut client, 1008).await;
    assert_eq!(app.rest().await, b"");
}

#[tokio::test]
async fn a_reload_closes_a_socket_whose_path_at_the_app_changes() {
    let (mut scene, sockets) = scene().await;
    let cookie = scene.cookie("alice").await;
    let before = scene.gateway.settings().text();
    let any = "prefix = \"/any\"\nupstream = \"sockets\"\n";
    assert_eq!(before.matches(any).count(), 1);
    let with = |rewrite: &str| before.replace(any, &format!("{any}rewrite.{rewrite}\n"));
    let (mut client, mut app) = open(&scene, &sockets, &cookie).await;
    scene
        .gateway
        .reload(&with("locations = true"))
        .await
        .unwrap();
    app.send(text_frame("same")).await;
    client.expect(text_frame("same")).await;
    let other = with("app_prefix = \"/other\"");
    scene.gateway.reload(&other).await.unwrap();
    closed_with(&mut client, 1008).await;
    assert_eq!(app.rest().await, b"");
}

#[tokio::test]
async fn a_reload_closes_a_socket_whose_host_is_not_served_any_more() {
    let (mut scene, sockets) = scene().await;
    let cookie = scene.cookie("alice").await;
    let (mut client, mut app) = open(&scene, &sockets, &cookie).await;
    let before = scene.gateway.settings().text();
    let mut lines: Vec<_> = before.lines().collect();
    let public_url = lines.iter_mut().find(|line| line.starts_with("public_url"));
    *public_url.unwrap() = "public_url = \"http://other.localhost\"";
    scene.gateway.reload(&lines.join("\n")).await.unwrap();
    closed_with(&mut client, 1008).await;
    assert_eq!(app.rest().await, b"");
}

#[tokio::test]
async fn w_04_a_refresh_during_a_handshake_counts_for_it() {
    let user = SignedInAdmin::start().await;
    let opening = Opening::at("/admin/ws").of_browser(&user.cookie);
    let mut client = opening.send(user.gateway.address()).await;
    let (_head, mut app) = user.sockets.accept().await;
    user.refresh("guests").await;
    app.send(switching()).await;
    assert_eq!(client.wire.head().await.unwrap().status(), 101);
    closed_with(&mut client, 1008).await;
    assert_eq!(app.rest().await, b"");
}

#[tokio::test]
async fn a_reload_between_the_decision_and_the_switch_counts() {
    let (mut scene, sockets) = scene().await;
    let cookie = scene.cookie("alice").await;
    let opening = Opening::at("/any").of_browser(&cookie);
    let mut client = opening.send(scene.gateway.address()).await;
    let (_head, mut app) = sockets.accept().await;
    let before = scene.gateway.settings().text();
    let any = "prefix = \"/any\"\nupstream = \"sockets\"\n";
    let closed = format!("{any}provider = \"main\"\naccess.any_of.groups = [\"nobody\"]\n");
    scene
        .gateway
        .reload(&before.replace(any, &closed))
        .await
        .unwrap();
    app.send(switching()).await;
    assert_eq!(client.wire.head().await.unwrap().status(), 101);
    closed_with(&mut client, 1008).await;
    assert_eq!(app.rest().await, b"");
}

#[tokio::test]
async fn w_08_sockets_close_with_1001_at_the_end_of_a_drain() {
    let sockets = SocketApp::start().await;
    let provider = StandIn::start().await;
    let settings = Settings::new(ORIGIN, &provider.url(), &sockets.url())
        .server("drain_secs = 2")
        .with("[[routes]]\nprefix = \"/\"\naccess = \"public\"\n");
    let mut gateway = Process::start(settings).await;
    let opening = Opening::at("/ws");
    let ((head, mut client), mut app) = join!(opening.answer(gateway.address()), sockets.switch());
    assert_eq!(head.status(), 101);
    gateway.signal("TERM").await;
    gateway.wait_for_log(|log| log.contains("rain")).await;
    client.send("still").await;
    app.expect("still").await;
    app.send(text_frame("here")).await;
    client.expect(text_frame("here")).await;
    closed_with(&mut client, 1001).await;
    assert!(gateway.ended().await.success());
    gateway
        .wait_for_log(|log| log.contains("\"Request\""))
        .await;
    let log = gateway.log();
    let opened = log.lines().find(|line| line.contains("Stream opened"));
    assert!(opened.is_some_and(|line| line.contains("/ws")), "{log}");
    let ended: Vec<_> = log
        .lines()
        .filter(|line| line.contains("\"Request\""))
        .collect();
    assert_eq!(ended.len(), 1, "{ended:?}");
    let ended: serde_json::Value = serde_json::from_str(ended[0]).unwrap();
    for (name, value) in [
        ("end", json!("drain")),
        ("http.request.body.size", json!(5)),
        ("http.response.body.size", json!(6)),
        ("http.response.status_code", json!(101)),
        ("upgrade", json!("websocket")),
        ("url.path", json!("/ws")),
    ] {
        assert_eq!(ended[name], value, "{name}: {ended}");
    }
}

#[tokio::test]
async fn idle_sockets_and_old_sockets_are_closed() {
    for (key, reason) in [
        ("streams.idle_secs = 1", "stream_idle"),
        (
            "streams.idle_secs = 0\nstreams.total_secs = 1",
            "stream_too_long",
        ),
    ] {
        let (scene, sockets) = scene_with(key, "", "").await;
        let cookie = scene.cookie("alice").await;
        let (mut client, _app) = open(&scene, &sockets, &cookie).await;
        closed_with(&mut client, 1001).await;
        let ended = format!("sidegate_streams_ended_total{{route=\"/any\",reason=\"{reason}\"}}");
        scene.wait_for_figure(&ended, 1).await;
    }
}

#[tokio::test]
async fn w_08_a_handshake_during_a_drain_is_a_whole_one() {
    let sockets = SocketApp::start().await;
    let provider = StandIn::start().await;
    let settings = Settings::new(ORIGIN, &provider.url(), &sockets.url())
        .one_worker()
        .server("drain_secs = 4")
        .with("[[routes]]\nprefix = \"/\"\naccess = \"public\"\n");
    let mut gateway = Process::start(settings).await;
    let mut idle = Raw::connect(gateway.address()).await;
    idle.send("GET /oauth2/signed_out HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(idle.response("GET").await.unwrap().status(), 200);
    let mut client = Opening::at("/ws").send(gateway.address()).await;
    let (_head, mut app) = sockets.accept().await;
    gateway.signal("TERM").await;
    // The worker closes its idle connections when the drain begins.
    idle.closed().await;
    app.send(switching()).await;
    let head = client.wire.head().await.unwrap();
    assert_eq!(head.status(), 101);
    assert_eq!(head.values("connection"), ["Upgrade"]);
    app.send(text_frame("here")).await;
    client.expect(text_frame("here")).await;
    closed_with(&mut client, 1001).await;
    assert!(gateway.ended().await.success());
}
