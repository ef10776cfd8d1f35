//! Auth checks of real proxies.

mod documented;
mod fronts;
mod streams;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use serde_json::{Value, json};

use self::fronts::{CADDY, ENVOY_HTTP, Front, HAPROXY, NGINX, TRAEFIK};
use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::program::{Program, record};
use crate::support::provider::unbase64url;
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, SESSION, Scene, refusal, url};
use crate::support::upstream::Answer;

/// The fields that tell the app who the user is.
const IDENTITY: [&str; 5] = [
    "x-sidegate-assertion",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-preferred-username",
    "x-forwarded-groups",
];

/// The lifetime of an access token.
const LIFETIME: Duration = Duration::from_mins(60);

/// A scene whose gateway answers the auth checks of proxies of this kind.
async fn scene(kind: &str) -> Scene {
    let proxies =
        format!("[[auth_check.proxies]]\nnetworks = [\"127.0.0.1\"]\nkind = \"{kind}\"\n");
    let scene = Scene::with(|settings| {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let key = settings.file("signing.pem", &key);
        let signing = format!("[assertions]\nsigned = {{}}\n[signing]\nkey_files = [\"{key}\"]\n");
        let wait = "[session]\nrefresh_wait_secs = 1\n";
        settings.with(&signing).with(wait).with(&proxies)
    })
    .await;
    scene.app.answer_by(streams::answer);
    scene
        .provider
        .token_members(json!({ "expires_in": LIFETIME.as_secs() }));
    scene
}

/// A proxy in front of an app, which asks the gateway.
struct Asking {
    front: &'static Front,
    scene: Scene,
    proxy: Program,
}

impl Asking {
    async fn start(front: &'static Front) -> Self {
        let scene = scene(front.kind).await;
        let prepare = |folder: &std::path::Path| (front.prepare)(&scene, folder);
        let proxy = Program::start("listening ", prepare).await;
        let asking = Self {
            front,
            scene,
            proxy,
        };
        asking.wait_for_routes().await;
        asking
    }

    fn name(&self) -> &'static str {
        self.front.name
    }

    fn address(&self) -> SocketAddr {
        self.proxy.address().parse().unwrap()
    }

    /// Traefik listens before it has read its routes.
    async fn wait_for_routes(&self) {
        for _ in 0..100 {
            let page = self.browser().fetch(&url("/public/ready")).await;
            if page.status == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} never answers", self.name());
    }

    fn browser(&self) -> Browser {
        Browser::new().leading(ORIGIN, self.address())
    }

    /// A browser in which `user` has signed in through the proxy.
    async fn signed_in(&self, user: &str) -> Browser {
        let browser = self.browser();
        let provider = self.scene.provider.url();
        browser.plant(&provider, &format!("user={user}; Path=/"));
        let page = browser.visit(&url("/start?from=here")).await;
        self.expect(&page, 200, "the sign-in");
        assert_eq!(page.text(), "/start?from=here", "{}", self.name());
        browser
    }

    fn expect(&self, page: &Page, status: u16, what: &str) {
        assert_eq!(
            page.status,
            status,
            "{}: {what}: {}",
            self.name(),
            page.describe()
        );
    }

    /// The value of a field in the app's last request.
    fn seen(&self, field: &str) -> Option<String> {
        self.scene.app.last().head.value(field)
    }

    /// Fails unless the app's last request has a signed assertion for this method.
    fn expect_signed(&self, method: &str) {
        let token = self.seen("x-sidegate-assertion").unwrap();
        let claims = token.split('.').nth(1).unwrap();
        let claims: Value = serde_json::from_slice(&unbase64url(claims)).unwrap();
        for (name, value) in [
            ("sub", "alice"),
            ("method", method),
            ("host", "localhost"),
            ("aud", "app"),
        ] {
            assert_eq!(claims[name], value, "{}: {name}: {claims}", self.name());
        }
    }
}

/// A check of one front. The future of a check cannot be sent to another thread.
type Row = for<'a> fn(&'a Asking) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// The rows that every front has to pass.
const ROWS: [(&str, Row); 13] = [
    ("no session", |asking| Box::pin(without_a_session(asking))),
    ("session", |asking| Box::pin(with_a_session(asking))),
    ("forged request", |asking| Box::pin(forged_request(asking))),
    ("other paths", |asking| Box::pin(other_paths(asking))),
    ("forged user", |asking| Box::pin(forged_user(asking))),
    ("forged check", |asking| Box::pin(forged_check(asking))),
    ("gRPC", |asking| Box::pin(grpc_calls(asking))),
    ("foreign pages", |asking| Box::pin(foreign_pages(asking))),
    ("WebSocket", |asking| Box::pin(streams::websockets(asking))),
    ("event stream", |asking| {
        Box::pin(streams::event_streams(asking))
    }),
    ("upload", |asking| Box::pin(streams::uploads(asking))),
    ("sign-out", |asking| Box::pin(sign_out(asking))),
    ("503", |asking| Box::pin(unavailable(asking))),
];

async fn every_row(front: &'static Front) {
    let asking = Asking::start(front).await;
    for (name, row) in ROWS {
        println!("{}: {name}", front.name);
        row(&asking).await;
        record("auth_checks.txt", &[front.name, name]);
    }
}

#[tokio::test]
async fn p_44_every_row_holds_with_nginx() {
    every_row(&NGINX).await;
}

#[tokio::test]
async fn p_44_every_row_holds_with_caddy() {
    every_row(&CADDY).await;
}

#[tokio::test]
async fn p_44_every_row_holds_with_traefik() {
    every_row(&TRAEFIK).await;
}

#[tokio::test]
async fn p_44_every_row_holds_with_haproxy() {
    every_row(&HAPROXY).await;
}

#[tokio::test]
async fn p_44_every_row_holds_with_envoy_over_http() {
    every_row(&ENVOY_HTTP).await;
}

async fn without_a_session(asking: &Asking) {
    let browser = asking.browser();
    let page = browser.open(&url("/private")).await;
    asking.expect(&page, 303, "a page without a session");
    let provider = asking.scene.provider.url();
    assert!(page.location().unwrap().as_str().starts_with(&provider));
    let page = browser.fetch(&url("/api")).await;
    asking.expect(&page, 401, "a program without a session");
    assert!(page.json()["login_url"].is_string(), "{}", page.describe());
    let page = browser.fetch(&url("/public/x")).await;
    asking.expect(&page, 200, "a public page");
    for field in IDENTITY {
        assert_eq!(asking.seen(field), None, "{}: {field}", asking.name());
    }
}

async fn with_a_session(asking: &Asking) {
    let browser = asking.signed_in("alice").await;
    browser.fetch(&url("/cookies")).await;
    let cookies = asking.seen("cookie").unwrap_or_default();
    assert_eq!(cookies, "", "{}", asking.name());
    let page = browser.fetch(&url("/deep/page?x=1")).await;
    asking.expect(&page, 200, "a page with a session");
    assert_eq!(page.text(), "/deep/page?x=1");
    assert_eq!(asking.seen("x-forwarded-user").as_deref(), Some("alice"));
    let authorization = asking.seen("authorization").unwrap();
    assert!(authorization.starts_with("Bearer "), "{authorization}");
    asking.expect_signed("GET");
    browser.plant(ORIGIN, "theme=dark; Path=/");
    browser.fetch(&url("/cookies")).await;
    let cookies = asking.seen("cookie").unwrap();
    assert!(
        cookies.contains("theme=dark"),
        "{}: {cookies}",
        asking.name()
    );
    assert!(!cookies.contains(SESSION), "{}: {cookies}", asking.name());
    let form = [("note", "a & b")];
    let post = BrowserRequest::navigation(&url("/notes")).form(&form);
    let page = browser.send(post.from(ORIGIN)).await;
    asking.expect(&page, 200, "a form");
    assert_eq!(asking.scene.app.last().body, b"note=a+%26+b");
    asking.expect_signed("POST");
    let page = browser.fetch(&url("/admin")).await;
    asking.expect(&page, 403, "a page for another group");
}

/// Fields of a client that must not change the request of the check.
async fn forged_request(asking: &Asking) {
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
async fn other_paths(asking: &Asking) {
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
        assert!(
            paths.is_empty(),
            "{}: {path} -> {paths:?} {answer:?}",
            asking.name()
        );
    }
}

/// Fields of a client with which an app could take the client for another user.
async fn forged_user(asking: &Asking) {
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
}

/// A client cannot reach the auth check through the proxy.
async fn forged_check(asking: &Asking) {
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

/// A client cannot remove the fields of the gateway with `Connection` (CVE-2026-29054).
async fn hop_by_hop_names(asking: &Asking) {
    let browser = asking.signed_in("alice").await;
    let cookie = browser.cookie(ORIGIN, SESSION).unwrap();
    let before = asking.scene.app.count();
    let head = format!(
        "GET /page HTTP/1.1\r\nHost: localhost\r\nCookie: {SESSION}={cookie}\r\n\
         Connection: close, X-Forwarded-User, x-forwarded-groups\r\n\r\n"
    );
    exchange(asking.address(), head.as_bytes(), 1).await;
    if asking.scene.app.count() > before {
        let user = asking.seen("x-forwarded-user");
        assert_eq!(user.as_deref(), Some("alice"), "{}", asking.name());
    }
}

/// Fields that an app could read instead of the fields of the gateway never reach the app.
async fn refused_fields(asking: &Asking) {
    let before = asking.scene.app.count();
    for name in [
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
        let forged = BrowserRequest::fetch(&url("/public/x")).field(name, "/admin");
        let page = asking.browser().send(forged).await;
        let passed = asking.scene.app.requests().into_iter().skip(before);
        let reached = passed.filter(|request| request.head.value(name).is_some());
        // nginx removes names with an underscore or a dot, so it may forward the request.
        let count = reached.count();
        assert_eq!(count, 0, "{}: {name}: {}", asking.name(), page.status);
    }
}

/// A refused gRPC call gets the HTTP status 200, which a proxy must not take for a permission.
async fn grpc_calls(asking: &Asking) {
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

async fn foreign_pages(asking: &Asking) {
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

async fn sign_out(asking: &Asking) {
    let browser = asking.signed_in("alice").await;
    let session = browser.cookie(ORIGIN, SESSION).unwrap();
    let none: [(&str, &str); 0] = [];
    let sign_out = BrowserRequest::navigation(&url("/oauth2/sign_out")).form(&none);
    let page = browser.send(sign_out.from(ORIGIN)).await;
    asking.expect(&page, 303, "the sign-out");
    let cookie = format!("{SESSION}={session}");
    let old = BrowserRequest::fetch(&url("/api")).field("cookie", &cookie);
    let page = asking.browser().send(old).await;
    asking.expect(&page, 401, "the old cookie");
}

/// The provider does not answer, and the token of the session has expired.
async fn unavailable(asking: &Asking) {
    let browser = asking.signed_in("alice").await;
    let busy = Answer::with(503, &[("Retry-After", "30")], "");
    asking.scene.provider.refuse_refreshes(Some(busy));
    asking.scene.gateway.advance(LIFETIME + LIFETIME);
    let before = asking.scene.app.count();
    let page = browser.fetch(&url("/page")).await;
    asking.expect(&page, 503, "a session that cannot be renewed");
    assert_eq!(asking.scene.app.count(), before, "{}", asking.name());
    if asking.front.forwards_errors {
        let after = page.field("retry-after").unwrap_or_default();
        assert_eq!(after, "30", "{}: {}", asking.name(), page.describe());
        let page = browser.open(&url("/page")).await;
        let text = page.text();
        assert!(text.contains("You are still signed in"), "{text}");
    }
}

#[tokio::test]
async fn p_44_a_proxy_that_is_not_listed_gets_no_check() {
    // The networks contain another address than that of the test.
    let proxies = "[[auth_check.proxies]]\nnetworks = [\"127.0.0.9\"]\nkind = \"nginx\"\n";
    let scene = Scene::with(|settings| settings.with(proxies)).await;
    let ask = "GET /_sidegate/auth HTTP/1.1\r\nHost: localhost\r\nX-Original-Method: GET\r\n\
               X-Original-URI: /public/x\r\nConnection: close\r\n\r\n";
    let answer = exchange(scene.gateway.address(), ask.as_bytes(), 1).await;
    // The path is an ordinary path of the app, so the request needs a session.
    assert_eq!(answer.statuses(), [401], "{answer:?}");
}
