//! Answers and requests that take long: event streams, long polls, downloads and uploads. Such
//! answers and requests end with their session, as switched connections do.

use std::time::Duration;

use tokio::join;
use tokio::time::timeout;

use crate::support::browser::Browser;
use crate::support::browser_request::BrowserRequest;
use crate::support::h2::{H2, Outcome};
use crate::support::raw::Raw;
use crate::support::scene::{ORIGIN, SESSION, Scene, TLS_ORIGIN, url, wait_for_figure};
use crate::support::socket::{End, SocketApp};
use crate::support::upstream::Answer;
use crate::support::wire::TEST_TIMEOUT;
use crate::websocket::ending::SignedInAdmin;
use crate::websocket::http2::over_tls;
use crate::websocket::{scene, scene_with};

mod ends;
mod grpc;

/// The longest time from the end of a session to the end of its answer, on a busy machine.
const SOON: Duration = Duration::from_secs(5);

/// The head of an answer without a length, such as an event stream.
const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";

/// A chunk with a short text.
fn chunk(text: &str) -> String {
    assert!(text.len() < 10, "{text}");
    format!("{}\r\n{text}\r\n", text.len())
}

/// Sends a request that the app answers with the head and the first chunk of a long answer. Returns
/// the ends of the client and of the app.
async fn begin(gateway: std::net::SocketAddr, app: &SocketApp, request: &str) -> (End, End) {
    let mut client = End::connect(gateway).await;
    client.send(request).await;
    let (_head, mut app) = app.accept().await;
    app.send(HEAD).await;
    let head = timeout(TEST_TIMEOUT, client.wire.head()).await;
    assert_eq!(head.unwrap().expect("a head").status(), 200);
    pass(&mut app, &mut client, "first").await;
    (client, app)
}

/// Sends a chunk from the app to the client.
async fn pass(app: &mut End, client: &mut End, text: &str) {
    app.send(chunk(text)).await;
    client.expect(chunk(text)).await;
}

fn get(path: &str, cookie: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n")
}

/// Fails unless the client's connection and the app's connection end soon, and the answer is not
/// complete.
async fn cut(client: &mut End, app: &mut End) {
    let ends = timeout(SOON, async { join!(client.rest(), app.rest()) });
    let (received, at_app) = ends.await.expect("the answer is not cut");
    assert_eq!(String::from_utf8_lossy(&received), "");
    assert_eq!(at_app, b"");
}

/// Signs out with the form of the sign-out page.
pub(crate) async fn sign_out(browser: &Browser, origin: &str) {
    let none: [(&str, &str); 0] = [];
    let visit = BrowserRequest::navigation(&format!("{origin}/oauth2/sign_out")).form(&none);
    let page = browser.send(visit.from(origin)).await;
    assert_eq!(page.status, 303, "{}", page.describe());
}

fn cookie_of(browser: &Browser, origin: &str) -> String {
    format!("{SESSION}={}", browser.cookie(origin, SESSION).unwrap())
}

fn open_figure(route: &str) -> String {
    format!("sidegate_streams_open{{route=\"{route}\",kind=\"response\"}}")
}

fn ended_figure(route: &str, reason: &str) -> String {
    format!("sidegate_streams_ended_total{{route=\"{route}\",reason=\"{reason}\"}}")
}

#[tokio::test]
async fn w_03_signing_out_cuts_the_event_streams_of_the_session() {
    let (scene, app) = scene().await;
    let browser = scene.signed_in("alice").await;
    let cookie = cookie_of(&browser, ORIGIN);
    let gateway = scene.gateway.address();
    let (mut client, mut served) = begin(gateway, &app, &get("/any", &cookie)).await;
    let other = scene.cookie("bob").await;
    let (mut bystander, mut theirs) = begin(gateway, &app, &get("/any", &other)).await;
    let mut public = begin(gateway, &app, &get("/public", "")).await;
    scene.wait_for_figure(&open_figure("/any"), 2).await;
    scene.wait_for_figure(&open_figure("/public"), 1).await;
    // The answer has just begun, so no guard watches the answer yet.
    let mut young = begin(gateway, &app, &get("/any", &cookie)).await;
    sign_out(&browser, ORIGIN).await;
    cut(&mut client, &mut served).await;
    cut(&mut young.0, &mut young.1).await;
    scene
        .wait_for_figure(&ended_figure("/any", "signed_out"), 1)
        .await;
    pass(&mut theirs, &mut bystander, "still").await;
    pass(&mut public.1, &mut public.0, "still").await;
    // An `EventSource` connects again by itself. The `EventSource` gets 401 until the user has
    // signed in again. The browser's cookies need not be deleted.
    let mut again = Raw::connect(gateway).await;
    again.send(get("/any", &cookie)).await;
    assert_eq!(again.response("GET").await.unwrap().status(), 401);
    let page = browser.visit(&url("/")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    let cookie = cookie_of(&browser, ORIGIN);
    begin(gateway, &app, &get("/any", &cookie)).await;
}

#[tokio::test]
async fn w_03_signing_out_resets_the_event_streams_over_http_2() {
    let (gateway, provider, app, tls) = over_tls().await;
    let browser = Browser::trusting(&tls).leading(TLS_ORIGIN, gateway.address());
    browser.plant(&provider.url(), "user=alice; Path=/");
    let home = format!("{TLS_ORIGIN}/");
    let (page, ()) = join!(browser.visit(&home), app.answer_plainly());
    assert_eq!(page.text(), "plain", "{}", page.describe());
    let cookie = cookie_of(&browser, TLS_ORIGIN);
    let mut client = H2::connect(gateway.address(), "localhost", tls.client(&["h2"])).await;
    let fields = |path: &'static str, cookie: &str| {
        let fields = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", path),
            ("cookie", cookie),
        ];
        fields.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
    };
    let mut apps = Vec::new();
    for (stream, path, cookie) in [(1, "/events", &*cookie), (3, "/public/events", "a=b")] {
        let owned = fields(path, cookie);
        let fields: Vec<_> = owned
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        client.head(stream, &fields, false).await;
        let (_head, mut end) = app.accept().await;
        end.send(HEAD).await;
        assert_eq!(client.outcome(stream).await, Outcome::Status(200));
        end.send(chunk("first")).await;
        assert_eq!(client.received(stream, 5).await, (b"first".to_vec(), false));
        apps.push(end);
    }
    sign_out(&browser, TLS_ORIGIN).await;
    // The stream is reset, and the app's connection is closed.
    let reset = timeout(SOON, client.received(1, usize::MAX)).await;
    assert_eq!(reset.expect("no reset"), (Vec::new(), false));
    assert_eq!(apps[0].rest().await, b"");
    // Other streams of the connection continue.
    apps[1].send(chunk("still")).await;
    assert_eq!(client.received(3, 5).await, (b"still".to_vec(), false));
}

#[tokio::test]
async fn w_03_w_09_a_refresh_cuts_only_the_answers_that_the_new_identity_may_not_have() {
    let user = SignedInAdmin::start().await;
    let gateway = user.gateway.address();
    let mut admin = begin(gateway, &user.sockets, &get("/admin/e", &user.cookie)).await;
    let mut any = begin(gateway, &user.sockets, &get("/e", &user.cookie)).await;
    let operations = user.gateway.operations();
    wait_for_figure(operations, &open_figure("/admin"), 1).await;
    // A refresh that does not change the groups ends no answer.
    user.refresh("admins").await;
    // The registry looks for new versions of sessions once a second.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    pass(&mut admin.1, &mut admin.0, "on").await;
    user.refresh("guests").await;
    cut(&mut admin.0, &mut admin.1).await;
    wait_for_figure(operations, &ended_figure("/admin", "rule"), 1).await;
    pass(&mut any.1, &mut any.0, "on").await;
}

#[tokio::test]
async fn a_reload_cuts_only_the_answers_that_its_rules_forbid() {
    let (mut scene, app) = scene().await;
    let cookie = scene.cookie("alice").await;
    let gateway = scene.gateway.address();
    let (mut client, mut served) = begin(gateway, &app, &get("/any", &cookie)).await;
    let mut public = begin(gateway, &app, &get("/public", "")).await;
    scene.wait_for_figure(&open_figure("/any"), 1).await;
    scene.wait_for_figure(&open_figure("/public"), 1).await;
    let before = scene.gateway.settings().text();
    let same = format!("{before}\n# the same\n");
    scene.gateway.reload(&same).await.unwrap();
    // The guards of the answers have got the new site.
    tokio::time::sleep(Duration::from_millis(500)).await;
    pass(&mut served, &mut client, "same").await;
    pass(&mut public.1, &mut public.0, "same").await;
    // A route that forbids the switch of protocols still allows long answers.
    let any = "prefix = \"/any\"\nupstream = \"sockets\"\n";
    assert_eq!(before.matches(any).count(), 1);
    let plain = before.replace(any, &format!("{any}streams.upgrades = false\n"));
    scene.gateway.reload(&plain).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    pass(&mut served, &mut client, "plain").await;
    let nobody = format!("{any}provider = \"main\"\naccess.any_of.groups = [\"nobody\"]\n");
    let closed = before
        .replace(any, &nobody)
        .replace("access = \"public\"\n", "");
    scene.gateway.reload(&closed).await.unwrap();
    cut(&mut client, &mut served).await;
    cut(&mut public.0, &mut public.1).await;
    scene
        .wait_for_figure(&ended_figure("/any", "rule"), 1)
        .await;
}

#[tokio::test]
async fn w_03_the_deadlines_of_a_session_cut_its_answers() {
    for (keys, reason) in [
        ("idle_secs = 600\nabsolute_secs = 3600", "session_idle"),
        ("idle_secs = 600\nabsolute_secs = 600", "session_too_old"),
    ] {
        let session = format!("[session]\n{keys}\n");
        let (scene, app) = scene_with("streams.idle_secs = 0", "", &session).await;
        let cookie = scene.cookie("alice").await;
        let gateway = scene.gateway.address();
        let (mut client, mut served) = begin(gateway, &app, &get("/any", &cookie)).await;
        scene.wait_for_figure(&open_figure("/any"), 1).await;
        // Bytes from the app are not a use of the session.
        pass(&mut served, &mut client, "tick").await;
        scene.gateway.advance(Duration::from_secs(601));
        cut(&mut client, &mut served).await;
        scene
            .wait_for_figure(&ended_figure("/any", reason), 1)
            .await;
    }
}

#[tokio::test]
async fn an_upload_keeps_its_session_alive_unless_the_route_forbids_it() {
    for (counts, alive) in [(true, true), (false, false)] {
        let streams = format!("streams.idle_secs = 0\nstreams.counts_as_use = {counts}");
        let session = "[session]\nidle_secs = 600\nabsolute_secs = 36000\n";
        let (scene, app) = scene_with(&streams, "", session).await;
        let cookie = scene.cookie("alice").await;
        let request = format!(
            "POST /any HTTP/1.1\r\nHost: localhost\r\nOrigin: {ORIGIN}\r\nCookie: {cookie}\r\n\
             Transfer-Encoding: chunked\r\n\r\n"
        );
        let gateway = scene.gateway.address();
        let (mut client, mut served) = begin(gateway, &app, &request).await;
        scene.wait_for_figure(&open_figure("/any"), 1).await;
        for _ in 0..3 {
            client.send(chunk("part")).await;
            served.expect(chunk("part")).await;
            // The guard checks its deadlines between these steps of the clock.
            for _ in 0..20 {
                scene.gateway.advance(Duration::from_secs(15));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let mut other = Raw::connect(gateway).await;
        other.send(get("/", &cookie)).await;
        let status = other.response("GET").await.unwrap().status();
        assert_eq!(status == 200, alive, "{counts}: {status}");
    }
}

#[tokio::test]
async fn w_03_a_download_is_cut_although_its_client_does_not_read() {
    let (scene, app) = scene().await;
    let browser = scene.signed_in("alice").await;
    let cookie = cookie_of(&browser, ORIGIN);
    let mut client = End::connect(scene.gateway.address()).await;
    client.send(get("/any", &cookie)).await;
    let (_head, mut served) = app.accept().await;
    let length = 1_usize << 30;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    served.send(head).await;
    let block = vec![b'x'; 64 * 1024];
    // The app sends until no buffer on the way has room.
    while timeout(Duration::from_millis(500), served.wire.write(&block))
        .await
        .is_ok()
    {}
    scene.wait_for_figure(&open_figure("/any"), 1).await;
    sign_out(&browser, ORIGIN).await;
    let closed = async { while served.wire.write(&block).await {} };
    timeout(SOON, closed).await.expect("the app still sends");
    scene
        .wait_for_figure(&ended_figure("/any", "signed_out"), 1)
        .await;
    // The client has not read, and the gateway has closed the client's connection, so the next
    // bytes of the client get a reset.
    let reset = async {
        while client.wire.write(b"x").await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, reset)
        .await
        .expect("the connection stays open");
    let received = timeout(TEST_TIMEOUT, async {
        let mut count = 0;
        while let Some(bytes) = client.wire.bytes(1).await {
            count += bytes.len();
            client.wire.forget();
        }
        count
    });
    assert!(received.await.expect("the connection stays open") < length);
}

#[tokio::test]
async fn w_03_a_request_that_waits_for_its_app_ends_with_its_session() {
    let (scene, app) = scene().await;
    for upload in [false, true] {
        let browser = scene.signed_in("alice").await;
        let cookie = cookie_of(&browser, ORIGIN);
        let mut client = Raw::connect(scene.gateway.address()).await;
        let request = if upload {
            format!(
                "POST /any HTTP/1.1\r\nHost: localhost\r\nOrigin: {ORIGIN}\r\nCookie: {cookie}\r\n\
                 Content-Length: 1000000\r\n\r\nbegin"
            )
        } else {
            get("/any", &cookie)
        };
        client.send(request).await;
        let (_head, mut served) = app.accept().await;
        if upload {
            served.expect("begin").await;
        }
        sign_out(&browser, ORIGIN).await;
        let answer = timeout(SOON, client.response("GET")).await;
        let answer = answer.expect("no answer").expect("an answer");
        assert_eq!(answer.status(), 401, "{upload}");
        assert!(answer.head.value("www-authenticate").is_some());
        assert!(answer.text().contains("ended while the app"), "{upload}");
        assert_eq!(served.rest().await, b"", "{upload}");
    }
}

#[tokio::test]
async fn w_09_a_stream_may_outlive_a_deadline_of_its_session_by_the_grace() {
    let session = "[session]\nidle_secs = 600\nabsolute_secs = 600\n";
    let streams = "streams.idle_secs = 0\nstreams.grace_secs = 300";
    let (scene, app) = scene_with(streams, "", session).await;
    let cookie = scene.cookie("alice").await;
    let gateway = scene.gateway.address();
    let (mut client, mut served) = begin(gateway, &app, &get("/any", &cookie)).await;
    scene.wait_for_figure(&open_figure("/any"), 1).await;
    scene.gateway.advance(Duration::from_secs(601));
    // The registry looks for deadlines once a second. The session has ended, and the stream
    // continues.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut other = Raw::connect(gateway).await;
    other.send(get("/any", &cookie)).await;
    assert_eq!(other.response("GET").await.unwrap().status(), 401);
    pass(&mut served, &mut client, "on").await;
    scene.gateway.advance(Duration::from_secs(301));
    cut(&mut client, &mut served).await;
    scene
        .wait_for_figure(&ended_figure("/any", "session_too_old"), 1)
        .await;
    // A stream has no grace period after a sign-out.
    let browser = scene.signed_in("alice").await;
    let cookie = cookie_of(&browser, ORIGIN);
    let (mut client, mut served) = begin(gateway, &app, &get("/any", &cookie)).await;
    sign_out(&browser, ORIGIN).await;
    cut(&mut client, &mut served).await;
}

#[tokio::test]
async fn w_03_a_thousand_event_streams_of_a_session_are_cut_at_once() {
    const COUNT: usize = 1000;
    let scene =
        Scene::with(|settings| settings.app("connections = 1500\nbody_timeout_secs = 0")).await;
    let browser = scene.signed_in("alice").await;
    let cookie = cookie_of(&browser, ORIGIN);
    let never = std::sync::Arc::default();
    scene.app.answer_by(move |_| {
        let begun = format!("{HEAD}{}", chunk("first"));
        Answer::raw(begun.as_bytes()).then_await(&never)
    });
    let mut clients = Vec::new();
    for _ in 0..COUNT {
        let mut client = End::connect(scene.gateway.address()).await;
        client.send(get("/", &cookie)).await;
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.wire.head().await.expect("a head").status(), 200);
        client.expect(chunk("first")).await;
    }
    let open = open_figure("/");
    scene
        .wait_for_figure(&open, u64::try_from(COUNT).unwrap())
        .await;
    sign_out(&browser, ORIGIN).await;
    let all = async {
        for client in &mut clients {
            assert_eq!(client.rest().await, b"");
        }
    };
    timeout(SOON, all).await.expect("streams are left");
    scene.wait_for_figure(&open, 0).await;
}

#[tokio::test]
async fn an_idle_answer_and_an_old_answer_are_cut_and_a_plain_one_is_no_stream() {
    for (key, reason) in [
        ("streams.idle_secs = 1", "stream_idle"),
        (
            "streams.idle_secs = 0\nstreams.total_secs = 1",
            "stream_too_long",
        ),
    ] {
        let (scene, app) = scene_with(key, "", "").await;
        let cookie = scene.cookie("alice").await;
        let gateway = scene.gateway.address();
        let (mut client, mut served) = begin(gateway, &app, &get("/any", &cookie)).await;
        cut(&mut client, &mut served).await;
        scene
            .wait_for_figure(&ended_figure("/any", reason), 1)
            .await;
        // A request that waits for its app is not idle, and its answer is not a stream.
        let mut slow = Raw::connect(gateway).await;
        slow.send(get("/any", &cookie)).await;
        let (_head, mut served) = app.accept().await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        served
            .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        assert_eq!(slow.response("GET").await.unwrap().text(), "ok");
        assert_eq!(scene.figure(&open_figure("/any")).await, Some(0));
    }
}
