//! What each app gets: the credentials of a route, and the assertion fields of an upstream.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use sidegate::clock::Clock;
use tokio::sync::Notify;

use crate::support::browser::Browser;
use crate::support::gateway::{Gateway, Process, Settings};
use crate::support::openid;
use crate::support::provider::{StandIn, unbase64url};
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, SESSION, Scene, url};
use crate::support::socket::{Opening, SocketApp};
use crate::support::upstream::{Answer, Recorded, RecordingUpstream};

/// Sends a request with these field lines. Returns the request that reached the app.
async fn sent(gateway: &Gateway, app: &RecordingUpstream, target: &str, lines: &str) -> Recorded {
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
    let outcome = exchange(gateway.address(), request.as_bytes(), 1).await;
    assert_eq!(outcome.statuses(), [200], "{target} {lines}");
    app.last()
}

/// A gateway with two apps. `/calendar` and `/open/calendar` lead to the second app.
struct TwoApps {
    scene: Scene,
    calendar: RecordingUpstream,
}

const OWN_FIELDS: &str = r#"
[assertions]
provider = "X-Provider"
fields."X-Unit" = { claim = "org.unit", encoding = "rfc2047" }

[upstreams.calendar]
url = "CALENDAR"
bearer = "none"

[upstreams.calendar.assertions]
user = ""
email = ""
groups = ""
preferred_username = "X-Remote-User"
fields."X-Display" = { claim = "name", encoding = "percent", prefix = "u:", suffix = "!" }
fields."X-Role" = { constant = "viewer" }
fields."X-Raw" = { claim = "org.unit" }
fields."X-Number" = { claim = "org.number" }

[[routes]]
upstream = "app"
[[routes]]
prefix = "/open"
access = "public"
upstream = "app"
[[routes]]
prefix = "/calendar"
upstream = "calendar"
[[routes]]
prefix = "/open/calendar"
access = "public"
upstream = "calendar"
"#;

async fn two_apps(settings: &str) -> TwoApps {
    let calendar = RecordingUpstream::start().await;
    let settings = settings.replace("CALENDAR", &calendar.url());
    let scene = Scene::with_routes(&settings, "").await;
    scene.provider.user_members(json!({
        "name": "Zoë %", "preferred_username": "zoe", "groups": ["a"],
        "org": { "unit": "Küche", "number": 7 },
    }));
    TwoApps { scene, calendar }
}

/// The values of a field, read as UTF-8.
fn values(request: &Recorded, name: &str) -> Vec<String> {
    let bytes = |value: String| value.chars().map(|c| u8::try_from(c).unwrap()).collect();
    let values = request.head.values(name).into_iter();
    values
        .map(|value| String::from_utf8(bytes(value)).unwrap())
        .collect()
}

/// The fields that the first app gets about the user.
const OF_APP: [(&str, Option<&str>); 11] = [
    ("X-Provider", Some("main")),
    ("X-Forwarded-User", Some("alice")),
    ("X-Forwarded-Email", Some("alice@example.com")),
    ("X-Forwarded-Preferred-Username", Some("zoe")),
    ("X-Forwarded-Groups", Some("a")),
    ("X-Unit", Some("=?utf-8?b?S8O8Y2hl?=")),
    ("X-Remote-User", None),
    ("X-Display", None),
    ("X-Role", None),
    ("X-Raw", None),
    ("X-Number", None),
];
/// The fields that the second app gets about the user.
const OF_CALENDAR: [(&str, Option<&str>); 11] = [
    ("X-Provider", Some("main")),
    ("X-Forwarded-User", None),
    ("X-Forwarded-Email", None),
    ("X-Forwarded-Preferred-Username", None),
    ("X-Forwarded-Groups", None),
    ("X-Unit", None),
    ("X-Remote-User", Some("zoe")),
    ("X-Display", Some("u:Zo%C3%AB %25!")),
    ("X-Role", Some("viewer")),
    ("X-Raw", Some("Küche")),
    ("X-Number", Some("7")),
];

#[tokio::test]
async fn h_01_h_42_each_app_gets_its_own_fields_and_no_forged_field_of_any_app() {
    let apps = two_apps(OWN_FIELDS).await;
    let (gateway, cookie) = (&apps.scene.gateway, apps.scene.cookie("alice").await);
    let spellings: [fn(&str) -> String; 5] = [
        str::to_owned,
        str::to_lowercase,
        str::to_uppercase,
        |name| name.replace('-', "_"),
        |name| name.replace('-', "."),
    ];
    let forged: String = OF_APP
        .iter()
        .flat_map(|(name, _)| spellings.map(|spell| format!("{}: evil\r\n", spell(name))))
        .collect();
    for (path, app, expected) in [
        ("/a", &apps.scene.app, OF_APP),
        ("/open/a", &apps.scene.app, OF_APP),
        ("/calendar/a", &apps.calendar, OF_CALENDAR),
        ("/open/calendar/a", &apps.calendar, OF_CALENDAR),
    ] {
        for signed_in in [true, false] {
            if !signed_in && !path.starts_with("/open") {
                continue;
            }
            let session = format!("Cookie: {cookie}\r\n");
            let lines = format!("{}{forged}", if signed_in { &session } else { "" });
            let request = sent(gateway, app, path, &lines).await;
            let text = String::from_utf8_lossy(&request.head.bytes);
            assert!(!text.contains("evil"), "{path}: {text}");
            for (name, value) in expected {
                let value = value.filter(|_| signed_in);
                assert_eq!(
                    values(&request, name),
                    Vec::from_iter(value),
                    "{path} {name}"
                );
            }
            let token = signed_in && path == "/a";
            let bearers = request.head.values("authorization");
            assert_eq!(bearers.len(), usize::from(token), "{path} {bearers:?}");
        }
    }
}

#[tokio::test]
async fn h_14_h_39_a_public_route_forwards_the_credentials_of_the_client() {
    let routes = "[[routes]]\n[[routes]]\nprefix = \"/hook\"\naccess = \"public\"\n\
                  [[routes]]\nprefix = \"/told\"\naccess = \"public\"\nbearer = \"access_token\"\n";
    let scene = Scene::with_routes(routes, "").await;
    let cookie = scene.cookie("alice").await;
    let own = "Authorization: Basic eDp5\r\n";
    let session = format!("Cookie: {cookie}\r\n");
    for (path, lines, user, expected) in [
        ("/hook", own.to_owned(), None, Some("Basic eDp5")),
        (
            "/hook",
            format!("{session}{own}"),
            Some("alice"),
            Some("Basic eDp5"),
        ),
        ("/hook", session.clone(), Some("alice"), None),
        (
            "/told",
            format!("{session}{own}"),
            Some("alice"),
            Some("Bearer alice.canary."),
        ),
        ("/told", own.to_owned(), None, None),
        (
            "/",
            format!("{session}{own}"),
            Some("alice"),
            Some("Bearer alice.canary."),
        ),
    ] {
        let head = sent(&scene.gateway, &scene.app, path, &lines).await.head;
        let context = format!("{path} {lines}");
        assert_eq!(head.value("x-forwarded-user").as_deref(), user, "{context}");
        match (head.values("authorization").as_slice(), expected) {
            ([], None) => {}
            ([value], Some(expected)) => assert!(value.starts_with(expected), "{context}: {value}"),
            (values, _) => panic!("{context}: {values:?}"),
        }
    }
}

const BASIC: &str =
    "basic = { user = { claim = \"preferred_username\" }, password_file = \"FILE\" }";

/// A gateway with a route `/basic` whose app gets a user name and a password.
fn basic_settings(provider: &StandIn, app: &str, rest: &str) -> Settings {
    let settings = Settings::new(ORIGIN, &provider.url(), app);
    let basic = BASIC.replace("FILE", &settings.file("password", "s3cret-canary\n"));
    settings.with(&format!(
        "[[routes]]\n[[routes]]\nprefix = \"/basic\"\n{basic}\n{rest}"
    ))
}

#[tokio::test]
async fn an_app_gets_a_user_name_and_a_password() {
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    let settings = basic_settings(&provider, &app.url(), "token_field = \"X-Token\"\n");
    let scene = Scene {
        gateway: Gateway::start(settings),
        provider,
        app,
    };
    scene
        .provider
        .user_members(json!({ "preferred_username": "zoë" }));
    let cookie = format!("Cookie: {}\r\n", scene.cookie("alice").await);
    for forged in ["", "Authorization: Basic evil\r\n", "X_Token: evil\r\n"] {
        let lines = format!("{cookie}{forged}");
        let head = sent(&scene.gateway, &scene.app, "/basic", &lines)
            .await
            .head;
        let expected = format!("Basic {}", BASE64_STANDARD.encode("zoë:s3cret-canary"));
        assert_eq!(head.values("authorization"), [expected]);
        let token = head.value("x-token").unwrap();
        assert!(token.starts_with("alice.canary."), "{token}");
        assert!(!String::from_utf8_lossy(&head.bytes).contains("evil"));
        let head = sent(&scene.gateway, &scene.app, "/other", &lines)
            .await
            .head;
        assert!(
            head.value("authorization")
                .unwrap()
                .starts_with("Bearer alice.canary.")
        );
        assert_eq!(head.values("x-token"), [""; 0]);
    }
}

#[tokio::test]
async fn h_41_a_user_name_with_a_colon_is_not_encoded_and_one_warning_names_the_setting() {
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    let settings = basic_settings(&provider, &app.url(), "");
    let process = Process::start_with(settings, "").await;
    provider.user_members(json!({ "preferred_username": "root:x" }));
    let browser = Browser::new().leading(ORIGIN, process.address());
    browser.plant(&provider.url(), "user=alice; Path=/");
    for _ in 0..3 {
        assert_eq!(browser.visit(&url("/basic")).await.text(), "seen");
        assert_eq!(app.last().head.values("authorization"), [""; 0]);
    }
    let warnings = |log: &str| {
        log.lines()
            .filter(|line| line.contains("routes.1.basic.user"))
            .count()
    };
    process.wait_for_log(|log| warnings(log) == 1).await;
    assert!(!process.log().contains("s3cret-canary"));
}

#[tokio::test]
async fn a_handshake_carries_the_fields_of_its_app() {
    let sockets = SocketApp::start().await;
    let provider = StandIn::start().await;
    let app = RecordingUpstream::start().await;
    let rest = format!(
        "upstream = \"sockets\"\n[upstreams.sockets]\nurl = \"{}\"\n\
         assertions.fields.X-Role = {{ constant = \"viewer\" }}\n",
        sockets.url()
    );
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url());
    let basic = BASIC.replace("FILE", &settings.file("password", "s3cret-canary\n"));
    let settings = settings.with(&format!(
        "[[routes]]\nupstream = \"app\"\n[[routes]]\nprefix = \"/basic\"\n{basic}\n{rest}"
    ));
    let scene = Scene {
        gateway: Gateway::start(settings),
        provider,
        app,
    };
    scene
        .provider
        .user_members(json!({ "preferred_username": "zoe" }));
    let cookie = scene.cookie("alice").await;
    let opening = Opening::at("/basic")
        .of_browser(&cookie)
        .with("X_Role", "evil");
    let _client = opening.send(scene.gateway.address()).await;
    let (head, _app) = sockets.accept().await;
    let expected = format!("Basic {}", BASE64_STANDARD.encode("zoe:s3cret-canary"));
    assert_eq!(head.values("authorization"), [expected]);
    assert_eq!(head.values("x-role"), ["viewer"]);
    assert_eq!(head.values("x_role"), [""; 0]);
}

#[tokio::test]
async fn a_second_attempt_carries_the_new_token_in_the_field_of_the_route() {
    let routes = "[[routes]]\non_upstream_401 = \"refresh_and_retry\"\ntoken_field = \"X-Token\"\n";
    let scene = Scene::with_routes(routes, "").await;
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(Duration::from_secs(30));
    let before = scene.app.count();
    scene.app.next(Answer::with(401, &[], "dead"));
    assert_eq!(browser.fetch(&url("/a")).await.text(), "seen");
    let requests = scene.app.requests().split_off(before);
    let tokens: Vec<_> = requests
        .iter()
        .map(|request| request.head.values("x-token"))
        .collect();
    let [[first], [second]] = [tokens[0].as_slice(), tokens[1].as_slice()] else {
        panic!("{tokens:?}")
    };
    assert_ne!(first, second);
    assert!(
        requests
            .iter()
            .all(|r| r.head.values("authorization").is_empty())
    );
}

#[tokio::test]
async fn an_app_without_a_token_does_not_refuse_a_token() {
    let routes = "[[routes]]\non_upstream_401 = \"refresh_and_retry\"\n\
                  [[routes]]\nprefix = \"/silent\"\nbearer = \"none\"\n";
    let scene = Scene::with_routes(routes, "").await;
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(Duration::from_secs(30));
    let (gate, count) = (Arc::new(Notify::new()), scene.app.count());
    scene
        .app
        .next(Answer::with(401, &[], "password?").held_by(&gate));
    let asking = browser.clone();
    let asking = tokio::spawn(async move { asking.fetch(&url("/silent")).await });
    scene
        .app
        .wait_until(|requests| requests.len() > count)
        .await;
    // During the request, another request refreshes the session.
    scene.app.next(Answer::with(401, &[], "dead"));
    assert_eq!(browser.fetch(&url("/a")).await.text(), "seen");
    assert_eq!(scene.provider.refreshes().len(), 1);
    gate.notify_one();
    assert_eq!(asking.await.unwrap().text(), "password?");
}

/// The claims of a JWT.
fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&unbase64url(payload)).unwrap()
}

#[tokio::test]
async fn an_app_gets_the_id_token_of_the_login_and_then_of_a_refresh() {
    let clock = Clock::manual(Clock::system().now());
    let provider = StandIn::at_time_of(&clock).await;
    provider.give_refresh_tokens();
    let app = RecordingUpstream::start().await;
    let settings = openid::settings(&provider.url(), &app.url(), &[]);
    let settings = settings.app("bearer = \"id_token\"");
    let scene = openid::OpenIdScene {
        gateway: Gateway::with_clock(settings, clock),
        provider,
        app,
    };
    let browser = scene.signed_in("alice").await;
    let id_token = |request: &Recorded| {
        let values = request.head.values("authorization");
        let [value] = values.as_slice() else {
            panic!("{values:?}")
        };
        value.strip_prefix("Bearer ").unwrap().to_owned()
    };
    browser.fetch(&url("/a")).await;
    let first = id_token(&scene.app.last());
    assert_eq!(claims(&first)["sub"], "alice");
    assert_eq!(claims(&first)["aud"], "3");
    scene.gateway.advance(Duration::from_hours(2));
    assert_eq!(browser.fetch(&url("/b")).await.status, 200);
    let second = id_token(&scene.app.last());
    assert_eq!(scene.provider.refreshes().len(), 1);
    let issued = |token: &str| claims(token)["iat"].as_u64().unwrap();
    assert!(issued(&second) > issued(&first), "{second}");
    // A refresh without an ID token keeps the ID token of the session.
    scene.provider.token_members(json!({ "id_token": null }));
    scene.gateway.advance(Duration::from_hours(2));
    assert_eq!(browser.fetch(&url("/c")).await.status, 200);
    assert_eq!(scene.provider.refreshes().len(), 2);
    assert_eq!(id_token(&scene.app.last()), second);
    let cookie = browser.cookie(ORIGIN, SESSION).unwrap();
    let lines = format!("Cookie: {SESSION}={cookie}\r\n");
    let head = sent(&scene.gateway, &scene.app, "/public/x", &lines)
        .await
        .head;
    assert_eq!(head.values("authorization"), [""; 0]);
}

#[tokio::test]
async fn a_request_is_not_repeated_with_the_same_id_token() {
    let clock = Clock::manual(Clock::system().now());
    let provider = StandIn::at_time_of(&clock).await;
    provider.give_refresh_tokens();
    let app = RecordingUpstream::start().await;
    let settings = openid::settings(&provider.url(), &app.url(), &[]);
    let settings = settings
        .app("bearer = \"id_token\"")
        .with("[[routes]]\nprefix = \"/again\"\nbearer = \"id_token\"\non_upstream_401 = \"refresh_and_retry\"\n");
    let scene = openid::OpenIdScene {
        gateway: Gateway::with_clock(settings, clock),
        provider,
        app,
    };
    let browser = scene.signed_in("alice").await;
    for (members, attempts, page) in [
        (json!({}), 2, "seen"),
        (json!({ "id_token": null }), 1, "dead"),
    ] {
        scene.provider.token_members(members);
        scene.gateway.advance(Duration::from_secs(30));
        let before = scene.app.count();
        scene.app.next(Answer::with(401, &[], "dead"));
        assert_eq!(browser.fetch(&url("/again")).await.text(), page);
        assert_eq!(scene.app.count() - before, attempts, "{page}");
    }
    assert_eq!(scene.provider.refreshes().len(), 2);
}

#[tokio::test]
async fn a_reload_changes_the_fields_and_keeps_the_connections() {
    let mut scene = Scene::with(Settings::one_worker).await;
    let cookie = format!("Cookie: {}\r\n", scene.cookie("alice").await);
    let before = sent(&scene.gateway, &scene.app, "/", &cookie).await;
    let text = scene.gateway.settings().text();
    let text = text.replacen(
        "[[routes]]",
        "[upstreams.app.assertions]\nuser = \"X-Remote-User\"\n[[routes]]\nbearer = \"none\"\n",
        1,
    );
    scene.gateway.reload(&text).await.unwrap();
    let after = sent(&scene.gateway, &scene.app, "/", &cookie).await;
    assert_eq!(before.head.values("x-forwarded-user"), ["alice"]);
    assert_eq!(after.head.values("x-forwarded-user"), [""; 0]);
    assert_eq!(after.head.values("x-remote-user"), ["alice"]);
    assert_eq!(after.head.values("authorization"), [""; 0]);
    assert_eq!(before.connection, after.connection);
}
