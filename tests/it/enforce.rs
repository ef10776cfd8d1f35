//! Rules with `enforce = false`: the gateway only reports whom the rule would refuse.

use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::gateway::{Process, Settings};
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, SESSION, Scene, url};

/// A route for everyone who is signed in, and routes with rules that are not enforced. The group of
/// the user is `staff`.
const ROUTES: &str = r#"
[[routes]]
[[routes]]
prefix = "/admin"
access.any_of.groups = ["admins"]
enforce = false
[[routes]]
prefix = "/staff"
access.any_of.groups = ["staff"]
enforce = false
[[routes]]
prefix = "/note"
access.any_of.groups = ["admins"]
enforce = false
answer.redirect = "/admin"
"#;

/// A scene with the routes, and with more settings.
async fn scene(more: &str) -> Scene {
    let scene = Scene::with_routes(&format!("{ROUTES}{more}"), "").await;
    let groups = json!({ "groups": ["staff"] });
    scene.provider.user_members(groups);
    scene
}

/// A metric with the requests of a route.
fn requests(route: &str, decision: &str, status: &str) -> String {
    format!(
        "sidegate_requests_total{{route=\"{route}\",decision=\"{decision}\",status=\"{status}\"}}"
    )
}

#[tokio::test]
async fn a_rule_that_is_not_enforced_refuses_nobody_and_counts() {
    let scene = scene("").await;
    let browser = scene.signed_in("alice").await;
    for (path, route, decision, status) in [
        ("/admin/x", "/admin", "would_forbid", "2xx"),
        ("/staff/x", "/staff", "permit", "2xx"),
        ("/note", "/note", "would_forbid", "3xx"),
    ] {
        let page = browser.fetch(&url(path)).await;
        assert!(!page.status.is_client_error(), "{}", page.describe());
        scene
            .wait_for_figure(&requests(route, decision, status), 1)
            .await;
    }
    assert_eq!(
        scene.app.last().head.value("x-forwarded-user").unwrap(),
        "alice"
    );
    for path in ["/admin/x", "/staff/x", "/note"] {
        let page = scene.browser().fetch(&url(path)).await;
        assert_eq!(page.status, 401, "{path}");
    }
    let challenged = requests("/admin", "challenge", "4xx");
    scene.wait_for_figure(&challenged, 1).await;
}

#[tokio::test]
async fn an_auth_check_reports_a_rule_that_is_not_enforced() {
    let proxies = "[[auth_check.proxies]]\nnetworks = [\"127.0.0.1\"]\nkind = \"nginx\"\n";
    let scene = scene(proxies).await;
    let cookie = scene.cookie("alice").await;
    let ask = format!(
        "GET /_sidegate/auth HTTP/1.1\r\nHost: localhost\r\nX-Original-Method: GET\r\n\
         X-Original-URI: /admin/x\r\nCookie: {cookie}\r\n\r\n"
    );
    let outcome = exchange(scene.gateway.address(), ask.as_bytes(), 1).await;
    assert_eq!(outcome.statuses(), [200]);
    let counted = requests("/admin", "would_forbid", "2xx");
    scene.wait_for_figure(&counted, 1).await;
}

#[tokio::test]
async fn a_reload_enforces_a_rule() {
    let mut scene = scene("").await;
    let browser = scene.signed_in("alice").await;
    assert_eq!(browser.fetch(&url("/admin/x")).await.status, 200);
    let text = scene
        .gateway
        .settings()
        .text()
        .replace("enforce = false\n", "");
    scene.gateway.reload(&text).await.unwrap();
    assert_eq!(browser.fetch(&url("/admin/x")).await.status, 403);
    assert_eq!(browser.fetch(&url("/staff/x")).await.status, 200);
}

#[tokio::test]
async fn the_log_names_the_rules_that_are_not_enforced_and_whom_they_would_refuse() {
    let scene = scene("").await;
    let settings = Settings::new(ORIGIN, &scene.provider.url(), &scene.app.url()).with(ROUTES);
    let process = Process::start(settings).await;
    let browser = Browser::new().leading(ORIGIN, process.address());
    browser.visit(&url("/admin/x")).await;
    browser.fetch(&url("/admin/y")).await;
    browser.fetch(&url("/staff/y")).await;
    assert!(browser.cookie(ORIGIN, SESSION).is_some());
    process
        .wait_for_log(|log| log.contains("\"url.path\":\"/staff/y\""))
        .await;
    let log = process.log();
    let warned = log.lines().filter(|line| line.contains("refuses nobody"));
    assert_eq!(warned.count(), 3, "{log}");
    let lines: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let events: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "The rule would refuse the user, but enforce = false")
        .collect();
    assert_eq!(events.len(), 1, "{log}");
    assert_eq!(
        (&events[0]["route"], &events[0]["reason"]),
        (&Value::from("/admin"), &Value::from("rule"))
    );
    let decisions = |path: &str| {
        let of_path = lines.iter().filter(|line| line["url.path"] == path);
        of_path
            .map(|line| line["decision"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(decisions("/admin/y"), ["would_forbid"]);
    assert_eq!(decisions("/staff/y"), ["permit"]);
}
