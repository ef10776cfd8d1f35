//! nginx with the configurations that users of oauth2-proxy have, and nginx with the directives that
//! the ingress controller writes for its annotations.
//!
//! The ingress controller itself does not run here. The tests write the directives that the
//! controller writes for the annotations, and nginx runs with these directives.

use std::net::SocketAddr;
use std::path::Path;

use tokio::process::Command;

use super::fronts::snippet;
use super::{IDENTITY, stopped, streams};
use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::program::{Program, free_address, nginx, record};
use crate::support::scene::{ORIGIN, SESSION, Scene, url};

/// A page of the app with a query.
const PAGE: &str = "/start?from=here";

/// The values of `error_page` in the published configurations for nginx.
const SIGN_INS: [(&str, &str); 4] = [
    (
        "redirect",
        "error_page 401 = @sign_in;\n\
         }\nlocation @sign_in { return 302 /oauth2/sign_in?rd=$scheme://$host$request_uri;",
    ),
    ("sign-in page", "error_page 401 = /oauth2/sign_in;"),
    (
        "sign-in page with 403",
        "error_page 401 =403 /oauth2/sign_in;",
    ),
    ("start", "error_page 401 = /oauth2/start;"),
];

/// nginx in front of the gateway and the app of a scene.
struct Nginx {
    scene: Scene,
    program: Program,
}

impl Nginx {
    /// `servers` contains the directives of the block `http`. `LISTEN`, `GATEWAY` and `APP` stand
    /// for the addresses.
    async fn start(scene: Scene, servers: &str) -> Self {
        scene.app.answer_by(streams::answer);
        let prepare = |folder: &Path| command(&scene, servers, folder);
        let program = Program::start("listening ", prepare).await;
        Self { scene, program }
    }

    fn browser(&self) -> Browser {
        let address: SocketAddr = self.program.address().parse().unwrap();
        let browser = Browser::new().leading(ORIGIN, address);
        browser.plant(&self.scene.provider.url(), "user=alice; Path=/");
        browser
    }

    /// Opens a page without a session, signs in, and fails unless the user returns to the page.
    async fn sign_in(&self, name: &str) -> Browser {
        let browser = self.browser();
        let before = self.scene.app.count();
        let mut page = browser.visit(&url(PAGE)).await;
        assert_eq!(
            self.scene.app.count() > before,
            page.status == 200,
            "{name}"
        );
        if page.status != 200 {
            // The page opens the sign-in by itself.
            page = browser.visit(&url(&page.refresh_target())).await;
        }
        let shown = page.describe();
        assert_eq!(
            (page.status.as_u16(), &*page.text()),
            (200, PAGE),
            "{name}: {shown}"
        );
        browser
    }

    fn seen(&self, field: &str) -> Option<String> {
        self.scene.app.last().head.value(field)
    }

    /// Stops the gateway, and fails if a request still passes nginx.
    async fn stop_gateway(self, browser: &Browser, name: &str) {
        let Self { scene, program } = self;
        stopped::nothing_passes(scene, browser, name).await;
        drop(program);
    }
}

fn command(scene: &Scene, servers: &str, folder: &Path) -> Command {
    let address: SocketAddr = free_address().parse().unwrap();
    let servers = servers
        .replace("LISTEN", &address.to_string())
        .replace("GATEWAY", &scene.gateway.address().to_string())
        .replace("APP", &scene.app.address().to_string());
    let http = format!("proxy_buffer_size 32k; proxy_buffers 8 32k;\n{servers}");
    nginx(&http, folder, address)
}

/// A configuration for oauth2-proxy with `auth_request`.
fn for_oauth2_proxy(error_page: &str) -> String {
    format!(
        "server {{ listen LISTEN;\n\
         location /oauth2/ {{ proxy_pass http://GATEWAY; proxy_set_header Host $host;\n\
         proxy_set_header X-Real-IP $remote_addr;\n\
         proxy_set_header X-Auth-Request-Redirect $request_uri; }}\n\
         location = /oauth2/auth {{ proxy_pass http://GATEWAY; proxy_set_header Host $host;\n\
         proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-Uri $request_uri;\n\
         proxy_set_header Content-Length \"\"; proxy_pass_request_body off; }}\n\
         location / {{ auth_request /oauth2/auth;\n\
         auth_request_set $user $upstream_http_x_auth_request_user;\n\
         auth_request_set $email $upstream_http_x_auth_request_email;\n\
         auth_request_set $gap $upstream_http_gap_auth;\n\
         proxy_set_header X-User $user; proxy_set_header X-Email $email;\n\
         proxy_set_header X-Gap $gap; proxy_pass http://APP;\n{error_page}\n}}\n}}\n"
    )
}

fn listed() -> &'static str {
    "[login]\nsign_out_by_get = true\n[auth_check]\noauth2_proxy = [\"127.0.0.1\"]\n"
}

async fn link(browser: &Browser, path: &str) -> Page {
    let link = BrowserRequest::navigation(&url(path));
    browser.send(link.from(&url(PAGE))).await
}

#[tokio::test]
async fn a_user_returns_to_the_page_with_every_published_configuration_of_nginx() {
    for (name, error_page) in SIGN_INS {
        let scene = Scene::with(|settings| settings.with(listed())).await;
        let nginx = Nginx::start(scene, &for_oauth2_proxy(error_page)).await;
        let before = nginx.scene.app.count();
        let page = nginx.browser().fetch(&url("/api")).await;
        assert!(!page.status.is_success(), "{name}: {}", page.describe());
        if name.starts_with("sign-in page") {
            let address = page.json()["login_url"].clone();
            assert_eq!(address, url("/oauth2/sign_in"), "{name}");
        }
        assert_eq!(nginx.scene.app.count(), before, "{name}");
        let browser = nginx.sign_in(name).await;
        for (field, value) in [
            ("x-user", "alice"),
            ("x-email", "alice@example.com"),
            ("x-gap", "alice@example.com"),
        ] {
            assert_eq!(nginx.seen(field).as_deref(), Some(value), "{name}: {field}");
        }
        // A link of the app to the sign-out.
        let page = link(&browser, "/oauth2/sign_out?rd=%2Fbye").await;
        let location = page
            .location()
            .unwrap_or_else(|| panic!("{}", page.describe()));
        assert_eq!(location.as_str(), url("/bye"), "{name}");
        assert_eq!(browser.cookie(ORIGIN, SESSION), None, "{name}");
        let browser = nginx.sign_in(name).await;
        nginx.stop_gateway(&browser, name).await;
        record("auth_checks.txt", &["nginx-for-oauth2-proxy", name]);
    }
}

/// The directives that the ingress controller writes for these annotations. In the controller, a
/// module writes the encoded address into `$escaped_request_uri`.
fn of_ingress(auth_url: &str, auth_host: &str, sign_in: &str, fields: &[&str]) -> String {
    let copied = fields.iter().enumerate().map(|(index, field)| {
        let variable = field.to_lowercase().replace('-', "_");
        format!(
            "auth_request_set $authHeader{index} $upstream_http_{variable};\n\
             proxy_set_header '{field}' $authHeader{index};\n"
        )
    });
    let copied: String = copied.collect();
    format!(
        "map $request_uri $escaped_request_uri {{ default %2F; '{PAGE}' %2Fstart%3Ffrom%3Dhere; }}\n\
         server {{ listen LISTEN;\n\
         location /oauth2/ {{ proxy_pass http://GATEWAY; proxy_set_header Host $http_host;\n\
         proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $remote_addr;\n\
         proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Proto $scheme; }}\n\
         location = /_external-auth {{ internal; proxy_pass_request_body off;\n\
         proxy_set_header Content-Length \"\"; proxy_set_header X-Forwarded-Proto \"\";\n\
         proxy_set_header Host {auth_host};\n\
         proxy_set_header X-Original-URL $scheme://$http_host$request_uri;\n\
         proxy_set_header X-Original-Method $request_method;\n\
         proxy_set_header X-Sent-From \"nginx-ingress-controller\";\n\
         proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $remote_addr;\n\
         proxy_set_header X-Auth-Request-Redirect $request_uri;\n\
         proxy_http_version 1.1; set $target {auth_url}; proxy_pass $target; }}\n\
         location @sign_in {{ internal; add_header Set-Cookie $auth_cookie; return 302 {sign_in}; }}\n\
         location / {{ auth_request /_external-auth;\n\
         auth_request_set $auth_cookie $upstream_http_set_cookie;\n\
         add_header Set-Cookie $auth_cookie;\n{copied}error_page 401 = @sign_in;\n\
         proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr;\n\
         proxy_set_header X-Forwarded-For $remote_addr; proxy_http_version 1.1;\n\
         proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;\n\
         proxy_set_header X-Original-URL \"\"; proxy_set_header X-Original-Method \"\";\n\
         proxy_set_header X-Original-URI \"\"; proxy_set_header Forwarded \"\";\n\
         proxy_pass http://APP; }}\n}}\n"
    )
}

#[tokio::test]
async fn the_published_annotations_of_ingress_nginx_keep_working() {
    let scene = Scene::with(|settings| settings.with(listed())).await;
    let fields = ["X-Auth-Request-User", "X-Auth-Request-Email"];
    let sign_in = "http://$host/oauth2/start?rd=$escaped_request_uri";
    let servers = of_ingress("http://GATEWAY/oauth2/auth", "$host", sign_in, &fields);
    let nginx = Nginx::start(scene, &servers).await;
    let before = nginx.scene.app.count();
    let page = nginx.browser().fetch(&url("/api")).await;
    assert_eq!(page.status, 302, "{}", page.describe());
    assert_eq!(nginx.scene.app.count(), before);
    let browser = nginx.sign_in("published annotations").await;
    assert_eq!(nginx.seen("x-auth-request-user").as_deref(), Some("alice"));
    nginx.stop_gateway(&browser, "published annotations").await;
    record(
        "auth_checks.txt",
        &["ingress-nginx-directives", "published annotations"],
    );
}

#[tokio::test]
async fn the_annotations_of_the_snippet_work_in_the_directives_of_the_controller() {
    let scene = super::scene("ingress_nginx").await;
    let gateway = scene.gateway.address().to_string();
    let printed = snippet("ingress-nginx", &scene.gateway.settings().write(), &gateway);
    let annotation = |name: &str| {
        let mut lines = printed.lines();
        let prefix = format!("nginx.ingress.kubernetes.io/{name}: ");
        let value = lines.find_map(|line| line.trim().strip_prefix(&prefix));
        value
            .unwrap_or_else(|| panic!("{name}: {printed}"))
            .to_owned()
    };
    let auth_url = annotation("auth-url");
    let (_, path) = auth_url
        .trim_start_matches("http://")
        .split_once('/')
        .unwrap();
    let fields = annotation("auth-response-headers");
    let fields: Vec<&str> = fields.split(',').collect();
    let sign_in = annotation("auth-signin").replace("https://", "http://");
    let target = format!("http://GATEWAY/{path}");
    let servers = of_ingress(
        &target,
        "sidegate.default.svc.cluster.local",
        &sign_in,
        &fields,
    );
    let nginx = Nginx::start(scene, &servers).await;
    let browser = nginx.sign_in("the snippet").await;
    assert_eq!(nginx.seen("x-forwarded-user").as_deref(), Some("alice"));
    assert!(nginx.seen("authorization").unwrap().starts_with("Bearer "));
    assert_eq!(nginx.seen("cookie").unwrap_or_default(), "");
    // A client cannot write the fields of the gateway, and cannot choose the path of the check.
    let forged = |path: &str| {
        let request = BrowserRequest::fetch(&url(path)).field("x-original-method", "OPTIONS");
        let names = IDENTITY.into_iter();
        names.fold(request, |request, field| request.field(field, "root"))
    };
    let page = nginx.browser().send(forged("/public/x")).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    for field in IDENTITY {
        assert_eq!(nginx.seen(field), None, "{field}");
    }
    let before = nginx.scene.app.count();
    let page = nginx.browser().send(forged("/private")).await;
    assert_eq!(page.status, 302, "{}", page.describe());
    let page = browser.fetch(&url("/admin")).await;
    assert_eq!(page.status, 403, "{}", page.describe());
    assert_eq!(nginx.scene.app.count(), before);
    nginx.stop_gateway(&browser, "the snippet").await;
    record(
        "auth_checks.txt",
        &["ingress-nginx-directives", "annotations of the snippet"],
    );
}
