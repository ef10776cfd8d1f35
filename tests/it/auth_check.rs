//! Auth checks of real proxies, with the configurations of docs/auth-check.md.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use tokio::process::Command;

use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::program::{Program, free_address, installed, project, record};
use crate::support::provider::unbase64url;
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, SESSION, Scene, refusal, url};
use crate::support::upstream::Answer;

const DOCS: &str = include_str!("../../docs/auth-check.md");

/// The fields that tell the app who the user is.
const IDENTITY: [&str; 5] = [
    "x-sidegate-assertion",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-preferred-username",
    "x-forwarded-groups",
];

/// A scene whose gateway answers the auth checks of proxies of this kind.
async fn scene(kind: &str) -> Scene {
    let proxies =
        format!("[[auth_check.proxies]]\nnetworks = [\"127.0.0.1\"]\nkind = \"{kind}\"\n");
    let scene = Scene::with(|settings| {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let key = settings.file("signing.pem", &key);
        let signing = format!("[assertions]\nsigned = {{}}\n[signing]\nkey_files = [\"{key}\"]\n");
        settings.with(&signing).with(&proxies)
    })
    .await;
    scene.app.answer_by(|request| Answer::ok(&request.target()));
    scene
}

/// Returns the code block of the documentation with this language, with the addresses of the scene.
fn documented(language: &str, scene: &Scene, listen: SocketAddr) -> String {
    let start = format!("```{language}\n");
    let (_, rest) = DOCS.split_once(&start).unwrap();
    let (block, _) = rest.split_once("```\n").unwrap();
    let address = |documented: &str| {
        assert!(block.contains(documented), "{language}: {documented}");
        documented.to_owned()
    };
    let block = block.replace(
        &address("127.0.0.1:4180"),
        &scene.gateway.address().to_string(),
    );
    let block = block.replace("127.0.0.1:8080", &scene.app.address().to_string());
    block.replace("127.0.0.1:8000", &listen.to_string())
}

/// Runs `command` and prints the address as soon as the address accepts connections.
fn announced(command: &str, folder: &Path, address: SocketAddr) -> Command {
    let port = address.port();
    let script = format!(
        "(until (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.05; done; \
         echo listening {address}) & exec {command} 1>&2"
    );
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).current_dir(folder);
    bash
}

fn nginx(scene: &Scene, folder: &Path) -> Command {
    let address: SocketAddr = free_address().parse().unwrap();
    let server = documented("nginx", scene, address);
    let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {name};\n"))
        .concat();
    let text = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr;\n\
         events {{ }}\nhttp {{ access_log off;\n{folders}{server}}}\n"
    );
    fs::write(folder.join("nginx.conf"), text).unwrap();
    let program = installed(Path::new("/usr/sbin/nginx")).display();
    let at = folder.display();
    announced(
        &format!("{program} -p {at} -e stderr -c nginx.conf"),
        folder,
        address,
    )
}

fn caddy(scene: &Scene, folder: &Path) -> Command {
    let address: SocketAddr = free_address().parse().unwrap();
    let site = documented("caddyfile", scene, address);
    let text = format!("{{\n\tadmin off\n\tauto_https off\n}}\n{site}");
    // The site is for every host, and listens at one address.
    let site = format!("http://{address} {{");
    let text = text.replace(
        &site,
        &format!("http://:{} {{\n\tbind 127.0.0.1", address.port()),
    );
    fs::write(folder.join("Caddyfile"), text).unwrap();
    let program = project("tests/.cache/venv/bin/caddy");
    let program = installed(&program).display();
    announced(
        &format!("{program} run --config Caddyfile"),
        folder,
        address,
    )
}

fn traefik(scene: &Scene, folder: &Path) -> Command {
    let address: SocketAddr = free_address().parse().unwrap();
    fs::write(folder.join("dynamic.yaml"), {
        let start = "```yaml\n";
        let (_, rest) = DOCS.split_once(start).unwrap();
        let (block, _) = rest.split_once("```\n").unwrap();
        let gateway = scene.gateway.address().to_string();
        let block = block.replace("127.0.0.1:4180", &gateway);
        block.replace("127.0.0.1:8080", &scene.app.address().to_string())
    })
    .unwrap();
    let program = project("tests/.cache/venv/bin/traefik");
    let program = installed(&program).display();
    let command = format!(
        "{program} --entrypoints.web.address={address} --providers.file.filename=dynamic.yaml"
    );
    announced(&command, folder, address)
}

type Prepare = fn(&Scene, &Path) -> Command;

/// Every kind of proxy that the tests can install.
const PROXIES: [(&str, Prepare); 3] = [("nginx", nginx), ("caddy", caddy), ("traefik", traefik)];

/// A proxy in front of an app, which asks the gateway.
struct Asking {
    kind: &'static str,
    scene: Scene,
    proxy: Program,
}

impl Asking {
    async fn start(kind: &'static str, prepare: Prepare) -> Self {
        let scene = scene(kind).await;
        let proxy = Program::start("listening ", |folder| prepare(&scene, folder)).await;
        let asking = Self { kind, scene, proxy };
        asking.wait_for_routes().await;
        asking
    }

    /// Traefik listens before it has read its routes.
    async fn wait_for_routes(&self) {
        for _ in 0..100 {
            let page = self.browser().fetch(&url("/public/ready")).await;
            if page.status == 200 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("{} never answers", self.kind);
    }

    fn browser(&self) -> Browser {
        let address: SocketAddr = self.proxy.address().parse().unwrap();
        Browser::new().leading(ORIGIN, address)
    }

    /// A browser in which `user` has signed in through the proxy.
    async fn signed_in(&self, user: &str) -> Browser {
        let browser = self.browser();
        let provider = self.scene.provider.url();
        browser.plant(&provider, &format!("user={user}; Path=/"));
        let page = browser.visit(&url("/start?from=here")).await;
        self.expect(&page, 200, "the sign-in");
        assert_eq!(page.text(), "/start?from=here", "{}", self.kind);
        browser
    }

    fn expect(&self, page: &Page, status: u16, what: &str) {
        assert_eq!(
            page.status,
            status,
            "{}: {what}: {}",
            self.kind,
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
            assert_eq!(claims[name], value, "{}: {name}: {claims}", self.kind);
        }
    }
}

#[tokio::test]
async fn p_44_real_proxies_ask_and_every_row_holds() {
    for (kind, prepare) in PROXIES {
        let asking = Asking::start(kind, prepare).await;
        without_a_session(&asking).await;
        with_a_session(&asking).await;
        forged_fields(&asking).await;
        grpc_calls(&asking).await;
        foreign_websockets(&asking).await;
        foreign_forms(&asking).await;
        sign_out(&asking).await;
        record("auth_checks.txt", &[kind, "passed"]);
    }
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
        assert_eq!(asking.seen(field), None, "{}: {field}", asking.kind);
    }
}

async fn with_a_session(asking: &Asking) {
    let browser = asking.signed_in("alice").await;
    browser.fetch(&url("/cookies")).await;
    let cookies = asking.seen("cookie").unwrap_or_default();
    assert_eq!(cookies, "", "{}", asking.kind);
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
    assert!(cookies.contains("theme=dark"), "{}: {cookies}", asking.kind);
    assert!(!cookies.contains(SESSION), "{}: {cookies}", asking.kind);
    let form = [("note", "a & b")];
    let post = BrowserRequest::navigation(&url("/notes")).form(&form);
    let page = browser.send(post.from(ORIGIN)).await;
    asking.expect(&page, 200, "a form");
    assert_eq!(asking.scene.app.last().body, b"note=a+%26+b");
    asking.expect_signed("POST");
    let page = browser.fetch(&url("/admin")).await;
    asking.expect(&page, 403, "a page for another group");
}

async fn forged_fields(asking: &Asking) {
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
        ("cookie", "__Host-sidegate=evil"),
    ] {
        let forged = BrowserRequest::fetch(&url("/private")).field(name, value);
        let page = browser.send(forged).await;
        asking.expect(&page, 401, name);
    }
    assert_eq!(asking.scene.app.count(), before, "{}", asking.kind);
    for path in [
        "/public/../private",
        "/public/%2e%2e/private",
        "/public%2f..%2fprivate",
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let address = asking.proxy.address().parse().unwrap();
        let answer = exchange(address, head.as_bytes(), 1).await;
        let passed = asking.scene.app.requests().into_iter().skip(before);
        let paths: Vec<_> = passed.map(|request| request.target()).collect();
        assert!(
            paths.is_empty(),
            "{}: {path} -> {paths:?} {answer:?}",
            asking.kind
        );
    }
    let mut forged = BrowserRequest::fetch(&url("/public/x"));
    for field in IDENTITY {
        forged = forged.field(field, "root");
    }
    let page = browser.send(forged).await;
    asking.expect(&page, 200, "forged fields on a public page");
    for field in IDENTITY {
        assert_eq!(asking.seen(field), None, "{}: {field}", asking.kind);
    }
    // A webhook has its own credentials.
    let webhook = BrowserRequest::fetch(&url("/public/hook")).field("authorization", "Basic eA==");
    let page = browser.send(webhook).await;
    asking.expect(&page, 200, "a webhook");
    let authorization = asking.seen("authorization");
    assert_eq!(
        authorization.as_deref(),
        Some("Basic eA=="),
        "{}",
        asking.kind
    );
    refused_fields(asking).await;
    forged_check(asking).await;
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
    assert_eq!(page.field("authorization"), None, "{}", asking.kind);
    assert_eq!(page.field("x-forwarded-user"), None, "{}", asking.kind);
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
        assert_eq!(count, 0, "{}: {name}: {}", asking.kind, page.status);
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
            assert!(!page.status.is_success(), "{}: {kind} {path}", asking.kind);
        }
    }
    assert_eq!(asking.scene.app.count(), before, "{}", asking.kind);
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
    let address = asking.proxy.address().parse().unwrap();
    let answer = exchange(address, head.as_bytes(), 1).await;
    assert_eq!(answer.statuses(), [403], "{}", asking.kind);
    assert_eq!(asking.scene.app.count(), before, "{}", asking.kind);
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
    assert_eq!(refusal(&page), "403 cross_site", "{}: {shown}", asking.kind);
    assert_eq!(asking.scene.app.count(), before, "{}", asking.kind);
    // A public route forwards the form without the user.
    let page = browser.send(foreign("/public/hook")).await;
    asking.expect(&page, 200, "a form on a public route");
    assert_eq!(asking.scene.app.last().body, b"a=b");
    for field in IDENTITY {
        assert_eq!(asking.seen(field), None, "{}: {field}", asking.kind);
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
