//! Attacks through a proxy that asks for auth checks.

use super::{Asking, IDENTITY};
use crate::support::browser_request::BrowserRequest;
use crate::support::raw::{Raw, exchange};
use crate::support::scene::{ORIGIN, SESSION, refusal, url};

/// Fields of a client that must not change the request of the check.
pub(super) async fn forged_request(asking: &Asking) {
    let browser = asking.browser();
    let before = asking.scene.app.count();
    for (name, value) in [
        ("x-forwarded-uri", "/public/x"),
        ("x-original-uri", "/public/x"),
        ("x-original-method", "OPTIONS"),
        ("x-forwarded-method", "OPTIONS"),
        ("forwarded", "path=/public/x"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("x-envoy-original-path", "/public/x"),
        // CVE-2026-34457: a health check must not pass.
        ("user-agent", "GoogleHC/1.0"),
        ("user-agent", "kube-probe/1.30"),
        ("user-agent", "ELB-HealthChecker/2.0"),
        // CVE-2026-25748: a malformed cookie must not pass.
        ("cookie", "__Host-sidegate=evil"),
        ("cookie", "__Host-sidegate="),
        ("cookie", "__Host-sidegate"),
        ("cookie", "__Host-sidegate=\"\"; __Host-sidegate=%00"),
    ] {
        let forged = BrowserRequest::fetch(&url("/private")).field(name, value);
        let page = browser.send(forged).await;
        asking.expect(&page, 401, name);
    }
    assert_eq!(asking.scene.app.count(), before, "{}", asking.name());
}

/// Paths that must not pass as a public path.
pub(super) async fn other_paths(asking: &Asking) {
    let before = asking.scene.app.count();
    for path in [
        "/public/../private",
        "/public/%2e%2e/private",
        "/public%2f..%2fprivate",
        "/publicity",
        "/PUBLIC/x",
        // CVE-2026-41059 and CVE-2025-54576.
        "/private%23/public",
        "/private%3f/public",
        "/private?x=/public/x",
        "/private#/public",
        "/oauth2/../private",
        "//private",
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let address = asking.address();
        let answer = exchange(address, head.as_bytes(), 1).await;
        let passed = asking.scene.app.requests().into_iter().skip(before);
        let paths: Vec<_> = passed.map(|request| request.target()).collect();
        let context = format!("{}: {path} -> {paths:?} {answer:?}", asking.name());
        assert!(paths.is_empty(), "{context}");
        let [status] = answer.statuses()[..] else {
            panic!("{context}")
        };
        assert!((300..500).contains(&status), "{context}");
    }
}

/// Fields of a client with which an app could take the client for another user.
pub(super) async fn forged_user(asking: &Asking) {
    let browser = asking.browser();
    let forged = |path: &str| {
        let request = BrowserRequest::fetch(&url(path));
        IDENTITY
            .into_iter()
            .fold(request, |request, field| request.field(field, "root"))
    };
    let page = browser.send(forged("/public/x")).await;
    asking.expect(&page, 200, "forged fields on a public page");
    for field in IDENTITY {
        assert_eq!(asking.seen(field), None, "{}: {field}", asking.name());
    }
    let page = asking.signed_in("alice").await.send(forged("/page")).await;
    asking.expect(&page, 200, "forged fields of a signed-in user");
    for field in IDENTITY {
        let values = asking.scene.app.last().head.values(field);
        let is_forged = values.iter().any(|value| value.contains("root"));
        assert!(!is_forged, "{}: {field}: {values:?}", asking.name());
    }
    hop_by_hop_names(asking).await;
    // A webhook has its own credentials.
    let webhook = BrowserRequest::fetch(&url("/public/hook")).field("authorization", "Basic eA==");
    let page = browser.send(webhook).await;
    asking.expect(&page, 200, "a webhook");
    let authorization = asking.seen("authorization");
    assert_eq!(
        authorization.as_deref(),
        Some("Basic eA=="),
        "{}",
        asking.name()
    );
    refused_fields(asking).await;
    fields_of_proxies(asking).await;
}

/// A client cannot remove the fields of the gateway with `Connection` (CVE-2026-29054).
async fn hop_by_hop_names(asking: &Asking) {
    let browser = asking.signed_in("alice").await;
    let cookie = browser.cookie(ORIGIN, SESSION).unwrap();
    let mut forwarded = 0;
    for name in [
        "X-Forwarded-User",
        "x-forwarded-groups",
        "X-Sidegate-Assertion",
        "Authorization",
        "Cookie",
    ] {
        let before = asking.scene.app.count();
        let head = format!(
            "GET /page HTTP/1.1\r\nHost: localhost\r\nCookie: {SESSION}={cookie}; a=b\r\n\
             Connection: close, {name}\r\n\r\n"
        );
        let answer = exchange(asking.address(), head.as_bytes(), 1).await;
        if asking.scene.app.count() > before {
            forwarded += 1;
            let seen = |field| asking.seen(field).unwrap_or_default();
            let context = format!("{}: {name}", asking.name());
            assert_eq!(seen("x-forwarded-user"), "alice", "{context}");
            assert!(seen("authorization").starts_with("Bearer "), "{context}");
            assert_eq!(seen("cookie"), "a=b", "{context}");
            asking.expect_signed("GET");
        } else {
            let statuses = answer.statuses();
            let is_refused = statuses.first().is_some_and(|status| *status >= 300);
            assert!(is_refused, "{}: {name}: {statuses:?}", asking.name());
        }
    }
    assert!(forwarded > 0, "{}: no request arrived", asking.name());
}

/// A client cannot reach the auth check through the proxy.
pub(super) async fn forged_check(asking: &Asking) {
    let signed_in = asking.signed_in("alice").await;
    let check = BrowserRequest::fetch(&url("/_sidegate/auth"))
        .field("x-original-uri", "/")
        .field("x-original-method", "GET")
        .field("x-forwarded-uri", "/")
        .field("x-forwarded-method", "GET");
    let page = signed_in.send(check).await;
    assert_eq!(page.field("authorization"), None, "{}", asking.name());
    assert_eq!(page.field("x-forwarded-user"), None, "{}", asking.name());
}

/// Fields that an app could read instead of the fields of the gateway never reach the app.
async fn refused_fields(asking: &Asking) {
    let before = asking.scene.app.count();
    for name in [
        "client-cert",
        "x-client-cert",
        "x-auth-request-user",
        "x-auth-request-email",
        "x_forwarded_user",
        "x.forwarded.user",
        "x-forwarded_groups",
        "x-original-url",
        "x-rewrite-url",
        "remote-user",
        "path-info",
        "script-name",
        "x-forwarded-prefix",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "x-script-name",
    ] {
        // A client could hide the field from the check.
        for connection in ["close", &format!("close, {name}")] {
            let head = format!(
                "GET /public/x HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n\
                 {name}: /admin\r\n\r\n"
            );
            let answer = exchange(asking.address(), head.as_bytes(), 1).await;
            let passed = asking.scene.app.requests().into_iter().skip(before);
            let reached = passed.filter(|request| request.head.value(name).is_some());
            // nginx removes names with an underscore or a dot, so it may forward the request.
            let count = reached.count();
            let context = format!("{}: {name} ({connection})", asking.name());
            assert_eq!(count, 0, "{context}: {:?}", answer.statuses());
        }
    }
}

/// A client cannot write the fields with which a proxy tells the app about the request.
async fn fields_of_proxies(asking: &Asking) {
    for name in [
        "forwarded",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-original-method",
        "x-original-uri",
        "x-real-ip",
    ] {
        let forged = BrowserRequest::fetch(&url("/public/x")).field(name, "for=10.1.2.3");
        let before = asking.scene.app.count();
        let page = asking.browser().send(forged).await;
        asking.expect(&page, 200, name);
        assert_eq!(asking.scene.app.count(), before + 1, "{}", asking.name());
        let values = asking.scene.app.last().head.values(name);
        let is_forged = values.iter().any(|value| value.contains("10.1.2.3"));
        assert!(!is_forged, "{}: {name}: {values:?}", asking.name());
    }
}

/// A client cannot switch the connection to the app to HTTP/2, whose requests get no check.
pub(super) async fn other_protocols(asking: &Asking) {
    let mut forwarded = false;
    for upgrade in [
        "Upgrade: websocket",
        "Upgrade: h2c",
        "Upgrade: h2c, websocket",
        "Upgrade: websocket, h2c",
        "Upgrade: h2c\r\nUpgrade: websocket",
        "Upgrade: websocket\r\nUpgrade: h2c",
    ] {
        let before = asking.scene.app.count();
        let head = format!(
            "GET /public/x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\n\
             HTTP2-Settings: AAMAAABkAAQAAP__\r\n{upgrade}\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let mut client = Raw::connect(asking.address()).await;
        client.send(head).await;
        let answer = client.head().await;
        let context = format!("{}: {upgrade}: {answer:?}", asking.name());
        let is_refused = answer.is_some_and(|head| head.status() >= 400);
        let is_forwarded = asking.scene.app.count() > before;
        assert!(is_forwarded || is_refused, "{context}");
        forwarded |= is_forwarded;
        let passed = asking.scene.app.requests().into_iter().skip(before);
        for request in passed {
            let protocols = request.head.values("upgrade");
            let has_other = protocols.iter().any(|protocol| protocol != "websocket");
            assert!(!has_other, "{context}: {protocols:?}");
        }
    }
    assert!(forwarded, "{}: no request arrived", asking.name());
}

/// A refused gRPC call gets the HTTP status 200, which a proxy must not take for a permission.
pub(super) async fn grpc_calls(asking: &Asking) {
    let signed_in = asking.signed_in("alice").await;
    let before = asking.scene.app.count();
    for kind in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc-web",
    ] {
        for (browser, path) in [(&asking.browser(), "/private"), (&signed_in, "/admin")] {
            let call = BrowserRequest::fetch(&url(path)).method("POST");
            let page = browser.send(call.body(kind, b"x").from(ORIGIN)).await;
            // Envoy itself turns each refusal of a gRPC call into a status of gRPC.
            let status = page.field("grpc-status").unwrap_or("0");
            let is_refused = !page.status.is_success() || status != "0";
            assert!(is_refused, "{}: {kind} {path}", asking.name());
        }
    }
    assert_eq!(asking.scene.app.count(), before, "{}", asking.name());
}

pub(super) async fn foreign_pages(asking: &Asking) {
    foreign_websockets(asking).await;
    foreign_forms(asking).await;
}

/// A page of another origin must not open a WebSocket with the session of the user.
async fn foreign_websockets(asking: &Asking) {
    let browser = asking.signed_in("alice").await;
    let cookie = browser.cookie(ORIGIN, SESSION).unwrap();
    let before = asking.scene.app.count();
    let head = format!(
        "GET /socket HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.test\r\n\
         Cookie: {SESSION}={cookie}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let address = asking.address();
    let answer = exchange(address, head.as_bytes(), 1).await;
    assert_eq!(answer.statuses(), [403], "{}", asking.name());
    assert_eq!(asking.scene.app.count(), before, "{}", asking.name());
}

/// A page of another site must not send a form with the session of the user.
async fn foreign_forms(asking: &Asking) {
    let browser = asking.signed_in("alice").await;
    let cookie = format!("{SESSION}={}", browser.cookie(ORIGIN, SESSION).unwrap());
    let foreign = |path: &str| {
        let form = BrowserRequest::navigation(&url(path)).form(&[("a", "b")]);
        form.from("https://evil.test").field("cookie", &cookie)
    };
    let before = asking.scene.app.count();
    let page = browser.send(foreign("/notes")).await;
    let shown = page.describe();
    assert_eq!(
        refusal(&page),
        "403 cross_site",
        "{}: {shown}",
        asking.name()
    );
    assert_eq!(asking.scene.app.count(), before, "{}", asking.name());
    // A public route forwards the form without the user.
    let page = browser.send(foreign("/public/hook")).await;
    asking.expect(&page, 200, "a form on a public route");
    assert_eq!(asking.scene.app.last().body, b"a=b");
    for field in IDENTITY {
        assert_eq!(asking.seen(field), None, "{}: {field}", asking.name());
    }
    let own = BrowserRequest::navigation(&url("/public/hook")).form(&[("a", "b")]);
    let page = browser.send(own.from(ORIGIN)).await;
    asking.expect(&page, 200, "a form of the app on a public route");
    asking.expect_signed("POST");
}
