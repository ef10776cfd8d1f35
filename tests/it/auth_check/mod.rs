//! Auth checks of real proxies.

mod attacks;
mod documented;
mod fronts;
mod published;
mod stopped;
mod streams;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use serde_json::{Value, json};

use self::fronts::{BROKEN_HAPROXY, CADDY, ENVOY, ENVOY_HTTP, Front, HAPROXY, NGINX, TRAEFIK};
use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::program::{Program, record};
use crate::support::provider::unbase64url;
use crate::support::raw::{Raw, exchange};
use crate::support::scene::{ORIGIN, SESSION, Scene, url};
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
const LIFETIME: Duration = Duration::from_hours(1);

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
const ROWS: [(&str, Row); 14] = [
    ("no session", |asking| Box::pin(without_a_session(asking))),
    ("session", |asking| Box::pin(with_a_session(asking))),
    ("forged request", |asking| {
        Box::pin(attacks::forged_request(asking))
    }),
    ("other paths", |asking| {
        Box::pin(attacks::other_paths(asking))
    }),
    ("forged user", |asking| {
        Box::pin(attacks::forged_user(asking))
    }),
    ("forged check", |asking| {
        Box::pin(attacks::forged_check(asking))
    }),
    ("gRPC", |asking| Box::pin(attacks::grpc_calls(asking))),
    ("foreign pages", |asking| {
        Box::pin(attacks::foreign_pages(asking))
    }),
    ("WebSocket", |asking| Box::pin(streams::websockets(asking))),
    ("other protocols", |asking| {
        Box::pin(attacks::other_protocols(asking))
    }),
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
        row(&asking).await;
        record("auth_checks.txt", &[front.name, name]);
    }
    let browser = asking.signed_in("alice").await;
    let Asking { scene, proxy, .. } = asking;
    stopped::nothing_passes(scene, &browser, front.name).await;
    record("auth_checks.txt", &[front.name, "stopped gateway"]);
    drop(proxy);
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
async fn p_44_haproxy_refuses_a_request_if_the_lua_action_fails() {
    let asking = Asking::start(&BROKEN_HAPROXY).await;
    let before = asking.scene.app.count();
    let page = asking.browser().fetch(&url("/public/broken")).await;
    asking.expect(&page, 503, "a request without an answer of the gateway");
    assert_eq!(asking.scene.app.count(), before);
}

#[tokio::test]
async fn p_44_every_row_holds_with_envoy_over_grpc() {
    every_row(&ENVOY).await;
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

#[tokio::test]
async fn only_a_listed_envoy_may_speak_http2_without_tls() {
    const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // An empty SETTINGS frame (RFC 9113 section 6.5).
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let envoy = scene("envoy").await;
    let mut client = Raw::connect(envoy.gateway.address()).await;
    client.drip(PREFACE).await;
    client.send(SETTINGS).await;
    while client.seen().len() < SETTINGS.len() {
        assert!(client.more().await, "{:?}", client.seen());
    }
    // The gateway begins with its own SETTINGS frame.
    assert_eq!(client.seen()[3], 4, "{:?}", client.seen());
    // The same proxy may also speak HTTP/1.1, even if its first bytes are those of the preface.
    let mut client = Raw::connect(envoy.gateway.address()).await;
    client
        .drip("PROPFIND /public/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(client.response("PROPFIND").await.unwrap().status(), 200);
    let nginx = scene("nginx").await;
    let mut client = Raw::connect(nginx.gateway.address()).await;
    client.send(PREFACE).await;
    client.send(SETTINGS).await;
    client.closed().await;
    assert!(
        !client.seen().starts_with(&SETTINGS[..3]),
        "{:?}",
        client.seen()
    );
}
