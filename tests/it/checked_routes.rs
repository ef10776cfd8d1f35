//! Routes without an upstream: the gateway answers auth checks, and forwards no request.

use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::gateway::{Gateway, Settings};
use crate::support::provider::unbase64url;
use crate::support::raw::{Response, exchange};
use crate::support::scene::{ORIGIN, SESSION, Scene};

/// Lets nginx at the address of the tests ask.
const NGINX: &str = "[[auth_check.proxies]]\nnetworks = [\"127.0.0.1\"]\nkind = \"nginx\"\n";

const ROUTES: &str = "[[routes]]\nupstream = \"\"\n\
     [[routes]]\nprefix = \"/public\"\nupstream = \"\"\naccess = \"public\"\n\
     [[routes]]\nprefix = \"/admin\"\nupstream = \"\"\naccess.any_of.groups = [\"admins\"]\n\
     [[routes]]\nprefix = \"/start\"\n";

async fn send(scene: &Scene, line: &str, fields: &str) -> Response {
    let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    let mut outcome = exchange(scene.gateway.address(), request.as_bytes(), 1).await;
    outcome.responses.remove(0)
}

async fn check(scene: &Scene, path: &str, fields: &str) -> Response {
    let fields = format!("X-Original-Method: GET\r\nX-Original-URI: {path}\r\n{fields}");
    send(scene, "GET /_sidegate/auth", &fields).await
}

/// Signs in at the route with an upstream, and returns the `Cookie` field of the user.
async fn cookie(scene: &Scene) -> String {
    let browser = scene.browser_of("alice");
    browser.visit(&format!("{ORIGIN}/start")).await;
    let cookie = browser.cookie(ORIGIN, SESSION).unwrap();
    format!("Cookie: {SESSION}={cookie}\r\n")
}

#[tokio::test]
async fn a_route_without_an_upstream_answers_auth_checks() {
    let scene = Scene::with_settings(|settings| settings.with(ROUTES).with(NGINX)).await;
    let cookie = cookie(&scene).await;
    let before = scene.app.count();
    for (path, cookie, status) in [
        ("/x", "", 401),
        ("/x", &*cookie, 200),
        ("/public/x", "", 200),
        ("/admin/x", "", 401),
        ("/admin/x", &*cookie, 403),
    ] {
        let answer = check(&scene, path, cookie).await;
        assert_eq!(answer.status(), status, "{path} {}", answer.text());
        let user = (status == 200 && !cookie.is_empty()).then_some("alice");
        let field = answer.head.value("x-forwarded-user");
        assert_eq!(field.as_deref(), user, "{path}");
        let token = answer.head.value("authorization").unwrap_or_default();
        assert_eq!(token.starts_with("Bearer "), user.is_some(), "{path}");
    }
    assert_eq!(scene.app.count(), before);
}

#[tokio::test]
async fn a_forwarded_request_of_a_route_without_an_upstream_reaches_no_app() {
    let scene = Scene::with_settings(|settings| settings.with(ROUTES).with(NGINX)).await;
    let cookie = cookie(&scene).await;
    let before = scene.app.count();
    let socket = format!(
        "{cookie}Origin: {ORIGIN}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    for (line, fields) in [
        ("GET /x", &*cookie),
        ("GET /public/x", ""),
        ("POST /public/x", "Content-Length: 0\r\n"),
        ("GET /socket", &*socket),
    ] {
        let answer = send(&scene, line, fields).await;
        assert_eq!(answer.status(), 404, "{line}");
        let text = answer.text();
        assert!(text.contains("route_without_app"), "{line}: {text}");
    }
    // The gateway makes the decision first.
    assert_eq!(send(&scene, "GET /x", "").await.status(), 401);
    assert_eq!(send(&scene, "GET /admin/x", &cookie).await.status(), 403);
    assert_eq!(scene.app.count(), before);
}

#[tokio::test]
async fn settings_without_any_upstream_serve_auth_checks() {
    let scene = Scene::new().await;
    let settings = Settings::new(ORIGIN, &scene.provider.url(), &scene.app.url());
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let key = settings.file("signing.pem", &key);
    let more = format!(
        "[assertions]\nsigned = {{}}\n[signing]\nkey_files = [\"{key}\"]\n[[routes]]\n\
         [[routes]]\nprefix = \"/wiki\"\nname = \"wiki\"\naccess = \"public\"\n"
    );
    let gateway = Gateway::start(settings.apps("").with(&more).with(NGINX));
    let ask = async |line: &str, fields: &str| {
        let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        let mut outcome = exchange(gateway.address(), request.as_bytes(), 1).await;
        outcome.responses.remove(0)
    };
    let original = "X-Original-Method: GET\r\nX-Original-URI: /";
    for (path, status) in [("x", 401), ("wiki/x", 200)] {
        let answer = ask("GET /_sidegate/auth", &format!("{original}{path}\r\n")).await;
        assert_eq!(answer.status(), status, "{path}");
    }
    assert_eq!(ask("GET /wiki/x", "").await.status(), 404);
    // The user signs in at the provider, although no app exists.
    let browser = Browser::new().leading(ORIGIN, gateway.address());
    browser.visit(&format!("{ORIGIN}/oauth2/sign_in")).await;
    let cookie = browser.cookie(ORIGIN, SESSION).unwrap();
    let fields = format!("{original}wiki/x\r\nCookie: {SESSION}={cookie}\r\n");
    let answer = ask("GET /_sidegate/auth", &fields).await;
    let token = answer.head.value("x-sidegate-assertion").unwrap();
    let claims = unbase64url(token.split('.').nth(1).unwrap());
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(
        (&claims["sub"], &claims["aud"]),
        (&json!("alice"), &json!("wiki"))
    );
}
