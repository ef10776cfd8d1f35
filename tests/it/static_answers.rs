//! Routes without an app: files, redirects, and pages about maintenance.

use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::{Gateway, Settings};
use crate::support::provider::StandIn;
use crate::support::raw::{Response, exchange};
use crate::support::scene::{ORIGIN, Scene, url};
use crate::support::upstream::RecordingUpstream;

const ROUTES: &str = r#"
[[routes]]
upstream = "app"
[[routes]]
prefix = "/robots.txt"
access = "public"
answer = { body_file = "ROBOTS", content_type = "text/plain; charset=utf-8" }
[[routes]]
prefix = "/manifest.json"
answer = { body_file = "ROBOTS", content_type = "application/manifest+json" }
[[routes]]
prefix = "/old"
access = "public"
answer = { redirect = "/new?from=old#top", status = 301 }
[[routes]]
prefix = "/docs"
answer.redirect = "https://docs.example.com/start"
[[routes]]
prefix = "/down"
access = "public"
answer = { status = 503, retry_after_secs = 600 }
[[routes]]
prefix = "/down/own"
access = "public"
answer = { status = 503, body_file = "ROBOTS", content_type = "text/html" }
[[routes]]
prefix = "/gone"
access = "public"
answer.status = 410
[[routes]]
prefix = "/staff"
access.any_of.groups = ["staff"]
provider = "main"
answer.status = 404
[upstreams.other]
url = "http://127.0.0.1:9"
"#;

async fn scene() -> Scene {
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url());
    let robots = settings.file("robots.txt", "User-agent: *\n");
    let settings = settings.with(&ROUTES.replace("ROBOTS", &robots));
    Scene {
        gateway: Gateway::start(settings),
        provider,
        app,
    }
}

async fn ask(scene: &Scene, line: &str, lines: &str) -> Response {
    let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
    let mut outcome = exchange(scene.gateway.address(), request.as_bytes(), 1).await;
    outcome.responses.remove(0)
}

fn field(response: &Response, name: &str) -> Option<String> {
    response.head.value(name)
}

#[tokio::test]
async fn a_file_is_for_everyone_who_may_use_its_route() {
    let scene = scene().await;
    let robots = ask(&scene, "GET /robots.txt", "").await;
    assert_eq!(
        (robots.status(), robots.text()),
        (200, "User-agent: *\n".into())
    );
    for (name, value) in [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", "14"),
        ("cache-control", "public, max-age=300"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(field(&robots, name).as_deref(), Some(value));
    }
    let head = ask(&scene, "HEAD /robots.txt", "Connection: close\r\n").await;
    assert_eq!((head.status(), head.text()), (200, String::new()));
    assert_eq!(field(&head, "content-length").as_deref(), Some("14"));
    let refused = ask(&scene, "POST /robots.txt", "Content-Length: 2\r\n").await;
    assert_eq!(refused.status(), 405);
    assert_eq!(field(&refused, "allow").as_deref(), Some("GET, HEAD"));
    // The default rule needs a session.
    let refused = ask(&scene, "GET /manifest.json", "").await;
    assert_eq!(refused.status(), 401);
    let browser = scene.browser_of("alice");
    let manifest = browser.visit(&url("/manifest.json")).await;
    assert_eq!(
        (manifest.status.as_u16(), manifest.text()),
        (200, "User-agent: *\n".into())
    );
    assert_eq!(manifest.field("cache-control"), Some("no-store"));
    assert_eq!(scene.app.count(), 0);
}

#[tokio::test]
async fn e_08_a_redirect_leads_only_to_its_target() {
    let scene = scene().await;
    for target in ["/old", "/old/", "/old/a?next=//evil.test", "/old;x"] {
        let moved = ask(&scene, &format!("GET {target}"), "").await;
        if target == "/old;x" {
            // A public route has no other spellings.
            assert_eq!(moved.status(), 401);
            continue;
        }
        assert_eq!(moved.status(), 301, "{target}");
        assert_eq!(field(&moved, "location"), Some(url("/new?from=old#top")));
        assert_eq!(
            field(&moved, "cache-control").as_deref(),
            Some("public, max-age=300")
        );
    }
    let forged = "X-Forwarded-Host: evil.test\r\n";
    let moved = ask(&scene, "POST /old", forged).await;
    assert_eq!(field(&moved, "location"), Some(url("/new?from=old#top")));
    assert_eq!(ask(&scene, "GET /docs", "").await.status(), 401);
    let browser = scene.signed_in("alice").await;
    let before = scene.app.count();
    let page = browser.open(&url("/docs/a")).await;
    assert_eq!(page.status, 302);
    assert_eq!(
        page.field("location"),
        Some("https://docs.example.com/start")
    );
    assert_eq!(page.field("cache-control"), Some("no-store"));
    assert_eq!(scene.app.count(), before);
}

#[tokio::test]
async fn a_page_about_maintenance_answers_every_request() {
    let scene = scene().await;
    for line in ["GET /down", "POST /down/a", "DELETE /down"] {
        let down = ask(&scene, line, "").await;
        assert_eq!(down.status(), 503, "{line}");
        assert_eq!(field(&down, "retry-after").as_deref(), Some("600"));
        assert_eq!(field(&down, "cache-control").as_deref(), Some("no-store"));
        assert!(
            down.text().contains("\"reason\":\"maintenance\""),
            "{}",
            down.text()
        );
    }
    let page = scene.browser().open(&url("/down")).await;
    assert!(
        page.text()
            .contains("<h1>This page is being maintained</h1>")
    );
    let own = ask(&scene, "GET /down/own", "").await;
    assert_eq!((own.status(), own.text()), (503, "User-agent: *\n".into()));
    // The app may read all of these paths as the path that the answer blocks.
    for path in ["/gone", "/GONE", "/gone;x", "/gone./a"] {
        let gone = ask(&scene, &format!("GET {path}"), "").await;
        assert_eq!(gone.status(), 410, "{path}");
        assert!(
            gone.text().contains("\"reason\":\"gone\""),
            "{}",
            gone.text()
        );
        // The page depends on `Accept` and contains the request id.
        assert_eq!(field(&gone, "cache-control").as_deref(), Some("no-store"));
    }
    let lines = "Content-Type: application/grpc\r\nTE: trailers\r\n";
    let status = ask(&scene, "POST /down/pkg.Service/Call", lines).await;
    assert_eq!(field(&status, "grpc-status").as_deref(), Some("14"));
    assert_eq!(scene.app.count(), 0);
}

#[tokio::test]
async fn the_rule_of_a_route_without_an_app_is_checked() {
    let scene = scene().await;
    let browser = scene.signed_in("alice").await;
    assert_eq!(browser.open(&url("/staff")).await.status, 403);
    let staff = scene.browser_of("bob");
    scene
        .provider
        .user_members(serde_json::json!({ "groups": ["staff"] }));
    let page = staff.visit(&url("/staff")).await;
    assert_eq!(page.status, 404);
    assert!(page.text().contains("Reason: not_found"), "{}", page.text());
    let handshake = BrowserRequest::fetch(&url("/staff"))
        .field("connection", "upgrade")
        .field("upgrade", "websocket");
    assert_eq!(staff.send(handshake).await.status, 404);
}

#[tokio::test]
async fn a_reload_reads_the_file_again_or_changes_nothing() {
    let mut scene = scene().await;
    let text = scene.gateway.settings().text();
    let body = async |scene: &Scene| ask(scene, "GET /robots.txt", "").await.text();
    scene.gateway.settings().file("robots.txt", "new\n");
    assert_eq!(body(&scene).await, "User-agent: *\n");
    scene.gateway.reload(&text).await.unwrap();
    assert_eq!(body(&scene).await, "new\n");
    let missing = text.replace(
        "robots.txt\", content_type = \"text/plain",
        "none\", content_type = \"text/plain",
    );
    assert_ne!(missing, text);
    assert!(scene.gateway.reload(&missing).await.is_err());
    assert_eq!(body(&scene).await, "new\n");
}
