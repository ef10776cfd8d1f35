//! Requests that a page of another site causes, with the session of a user.

use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::{Process, Settings};
use crate::support::provider::StandIn;
use crate::support::raw::{Raw, Response, exchange};
use crate::support::scene::{ORIGIN, SESSION, Scene, refusal, url};
use crate::support::upstream::RecordingUpstream;

/// A route for each value of the setting.
const ROUTES: &str = r#"
[[routes]]
[[routes]]
prefix = "/listed"
cross_site = ["https://www.example.com"]
[[routes]]
prefix = "/any"
cross_site = "allow"
[[routes]]
prefix = "/public"
access = "public"
[[routes]]
prefix = "/open"
access = "public"
bearer = "access_token"
[[routes]]
prefix = "/open/listed"
access = "public"
cross_site = ["https://www.example.com"]
[[routes]]
prefix = "/open/any"
access = "public"
bearer = "access_token"
cross_site = "allow"
[assertions]
signed = {}
fields.X-Role = { constant = "viewer" }
[signing]
key_files = ["KEY"]
"#;

/// A scene with these routes. The apps get signed assertions.
async fn scene() -> Scene {
    Scene::with_settings(|settings| {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let key = settings.file("key.pem", &key);
        settings.with(&ROUTES.replace("KEY", &key))
    })
    .await
}

/// Sends a request with an empty body. Returns the answer.
async fn answered(scene: &Scene, start: &str, lines: &str) -> Response {
    let request =
        format!("{start} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n{lines}\r\n");
    let mut outcome = exchange(scene.gateway.address(), request.as_bytes(), 1).await;
    outcome.responses.pop().unwrap()
}

#[tokio::test]
async fn c_23_a_form_of_another_site_never_reaches_the_app() {
    let scene = scene().await;
    let cookie = format!("Cookie: {}\r\n", scene.cookie("alice").await);
    let sibling = "Sec-Fetch-Site: same-site\r\nOrigin: https://www.example.com\r\n";
    let foreign = "Sec-Fetch-Site: cross-site\r\nOrigin: https://evil.test\r\n";
    for (start, lines, status) in [
        ("POST /", foreign, 403),
        ("POST /", sibling, 403),
        ("POST /", "Origin: null\r\n", 403),
        ("POST /", "Origin: https://evil.test\r\n", 403),
        ("POST /", "Sec-Fetch-Site: cross-site\r\n", 403),
        ("DELETE /", foreign, 403),
        ("PUT /", foreign, 403),
        ("PROPFIND /", foreign, 403),
        ("POST /listed", foreign, 403),
        ("POST /listed", sibling, 200),
        ("POST /any", foreign, 200),
        ("POST /public", foreign, 200),
        // A program sends neither field.
        ("POST /", "", 200),
        ("POST /", "Origin: http://localhost\r\n", 200),
        (
            "POST /",
            "Sec-Fetch-Site: same-origin\r\nOrigin: null\r\n",
            200,
        ),
        // A link of another site may lead to the app.
        ("GET /", foreign, 200),
        ("HEAD /", foreign, 200),
        ("OPTIONS /", foreign, 200),
    ] {
        let before = scene.app.count();
        let response = answered(&scene, start, &format!("{cookie}{lines}")).await;
        let context = format!("{start} {lines}: {}", response.text());
        assert_eq!(response.status(), status, "{context}");
        let reached = usize::from(status == 200);
        assert_eq!(scene.app.count(), before + reached, "{context}");
        if status == 403 {
            assert!(response.text().contains("cross_site"), "{context}");
        }
    }
    // Without a session, the user has to sign in, as before.
    let response = answered(&scene, "POST /", foreign).await;
    assert_eq!(response.status(), 401, "{}", response.text());
}

#[tokio::test]
async fn c_23_a_public_route_forwards_a_form_of_another_site_without_the_user() {
    let scene = scene().await;
    let cookie = format!("Cookie: {}; theme=dark\r\n", scene.cookie("alice").await);
    let sibling = "Sec-Fetch-Site: same-site\r\nOrigin: https://www.example.com\r\n";
    let foreign = "Sec-Fetch-Site: cross-site\r\nOrigin: https://evil.test\r\n";
    for (start, lines, has_user) in [
        ("POST /public", foreign, false),
        ("POST /public", sibling, false),
        ("POST /open", foreign, false),
        ("POST /open", sibling, false),
        ("POST /open", "Origin: null\r\n", false),
        ("PUT /open", foreign, false),
        ("POST /open/listed", foreign, false),
        ("POST /open/listed", sibling, true),
        ("POST /open/any", foreign, true),
        ("POST /open", "", true),
        ("POST /open", "Sec-Fetch-Site: same-origin\r\n", true),
        ("GET /open", foreign, true),
    ] {
        let response = answered(&scene, start, &format!("{cookie}{lines}")).await;
        let context = format!("{start} {lines}: {}", response.text());
        assert_eq!(response.status(), 200, "{context}");
        let request = scene.app.last();
        let mut of_user = vec!["x-forwarded-user", "x-sidegate-assertion", "x-role"];
        if !start.ends_with("/public") && !start.ends_with("/listed") {
            of_user.push("authorization");
        }
        for field in of_user {
            let value = request.head.value(field);
            assert_eq!(value.is_some(), has_user, "{field} {value:?} {context}");
        }
        // The app gets the cookies of the app itself.
        assert_eq!(request.head.value("cookie").as_deref(), Some("theme=dark"));
    }
    // The app of a public route gets the credentials of the client.
    let webhook = "Authorization: Basic eA==\r\n";
    answered(&scene, "POST /public", &format!("{webhook}{foreign}")).await;
    let authorization = scene.app.last().head.value("authorization");
    assert_eq!(authorization.as_deref(), Some("Basic eA=="));
}

#[tokio::test]
async fn c_23_a_stream_of_another_site_is_refused_before_its_body() {
    let scene = scene().await;
    let cookie = scene.cookie("alice").await;
    let before = scene.app.count();
    let mut raw = Raw::connect(scene.gateway.address()).await;
    raw.send(format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\nOrigin: https://evil.test\r\n\
         Accept: application/json\r\nContent-Length: 100\r\n\r\n"
    ))
    .await;
    let response = raw.response("POST").await.unwrap();
    assert_eq!(response.status(), 403);
    let kind = response.head.value("content-type");
    assert_eq!(kind.as_deref(), Some("application/problem+json"));
    assert!(
        response.text().contains("\"cross_site\""),
        "{}",
        response.text()
    );
    assert_eq!(scene.app.count(), before);
}

#[tokio::test]
async fn the_pages_of_the_app_may_send_forms_and_the_log_names_a_refusal() {
    let provider = StandIn::start().await;
    let app = RecordingUpstream::start().await;
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url());
    let process = Process::start(settings).await;
    let browser = Browser::new().leading(ORIGIN, process.address());
    browser.visit(&url("/")).await;
    let form = BrowserRequest::navigation(&url("/save")).form(&[("a", "b")]);
    let page = browser.send(form.clone().from(ORIGIN)).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    let before = app.count();
    // A browser that sends a cookie with `SameSite=Lax` to a sibling domain also sends it here.
    let cookie = browser.cookie(ORIGIN, SESSION).unwrap();
    let stolen = form
        .from("https://evil.test")
        .field("cookie", &format!("{SESSION}={cookie}"));
    let page = browser.send(stolen).await;
    assert_eq!(refusal(&page), "403 cross_site", "{}", page.describe());
    assert_eq!(app.count(), before);
    let is_event = |line: &&str| line.contains("\"Request\"") && line.contains("cross_site");
    process
        .wait_for_log(|log| log.lines().any(|line| is_event(&line)))
        .await;
    let log = process.log();
    let event: Value = serde_json::from_str(log.lines().find(is_event).unwrap()).unwrap();
    for (name, value) in [
        ("reason", json!("cross_site")),
        ("decision", json!("forbid")),
        ("route", json!("/")),
        ("http.response.status_code", json!(403)),
    ] {
        assert_eq!(event[name], value, "{name} in {event}");
    }
}
