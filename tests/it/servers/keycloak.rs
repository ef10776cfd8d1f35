//! Keycloak: `Secure` cookies on plain loopback, no `aud` in the access token, groups in an object,
//! 401 `unauthorized_client` for a wrong secret.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{Client, Setup, openid};
use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::{Process, Settings};
use crate::support::hosts::Hosts;
use crate::support::person::ALICE;
use crate::support::scene::{ROUTES, url};
use crate::support::servers::{Flows, KEYCLOAK_ADMIN, Server};
use crate::support::upstream::{Answer, Recorded, RecordingUpstream};
use crate::support::webdriver::Chromium;

/// Alice's user identifier in the realm.
const ALICE_ID: &str = "7d0c9c1e-5b1f-4c52-9a51-000000000001";

const GROUPS: &str = "identity.claims.groups = \"realm_access.roles\"";

// Keycloak takes ten seconds to start, so one test uses one server for everything.
#[tokio::test]
async fn people_sign_in_at_keycloak() {
    let flows = Flows::of("keycloak");
    let server = Server::keycloak().await;
    let provider = openid(&server, "keycloak");
    every_client_authentication(&server, &provider, &flows).await;
    the_wrong_secret(&provider, &flows).await;
    signing_out(&provider, &flows).await;
    in_a_real_browser(&provider, &flows).await;
    an_administrator_ends_a_session(&server, &provider, &flows).await;
    a_page_of_keycloak_ends_the_session(&server, &flows).await;
}

fn basic() -> Client<'static> {
    Client::secret("basic", "client_secret_basic", "secret-basic").with(GROUPS)
}

async fn every_client_authentication(server: &Server, provider: &str, flows: &Flows) {
    let key = server.path("client_key");
    let key = format!("{GROUPS}\nclient_assertion.private_key_file = \"{key}\"");
    let post = Client::secret("post", "client_secret_post", "secret-post");
    for (flow, client) in [
        ("client_secret_basic", basic()),
        ("client_secret_post", post.with(GROUPS)),
        (
            "private_key_jwt",
            Client::private_key("private_key_jwt", &key),
        ),
        (
            "method from the metadata",
            Client::as_published("basic", "secret-basic").with(GROUPS),
        ),
        ("public client", Client::public("public").with(GROUPS)),
    ] {
        let setup = Setup::new(provider, &client).await;
        let arrived = setup.sign_in(ALICE).await;
        let [user, email, groups] = arrived.person();
        assert_eq!([user, email], [ALICE_ID, "alice@example.test"], "{flow}");
        assert!(
            groups.split(',').any(|group| group == "staff"),
            "{flow}: {groups}"
        );
        assert_eq!(
            arrived.token.split('.').count(),
            3,
            "{flow}: the token is a JWT"
        );
        flows.passed(flow);
    }
    flows.passed("groups from realm_access.roles");
}

async fn the_wrong_secret(provider: &str, flows: &Flows) {
    let client = Client::secret("basic", "client_secret_basic", "wrong");
    let setup = Setup::new(provider, &client).await;
    setup.refuses(ALICE, "client_refused").await;
    flows.passed("wrong secret");
}

async fn signing_out(provider: &str, flows: &Flows) {
    // Keycloak ends its session when the gateway revokes the refresh token, even without the browser.
    let client =
        basic().with("identity.claims.groups = \"realm_access.roles\"\nsign_out.revoke = false");
    let setup = Setup::new(provider, &client).await;
    let browser = setup.browser();
    setup.sign_in_with(&browser, ALICE).await;
    let question = browser.open(&url("/oauth2/sign_out")).await;
    let answer = browser.submit(&question, &question.login_form(), &[]).await;
    browser.follow_all(answer).await;
    assert_eq!(browser.fetch(&url("/api")).await.status, 401);
    flows.passed("sign-out at the gateway");
    // The browser has not opened the end-session endpoint, so the session at Keycloak still exists,
    // and there is no login form this time.
    let page = browser.visit(&url("/start?from=here")).await;
    setup.arrived(&browser, &page).await;
    flows.passed("single sign-on");
    let answer = browser.submit(&question, &question.login_form(), &[]).await;
    let page = browser.visit(&url(&answer.refresh_target())).await;
    assert!(
        page.text().contains("has ended, too"),
        "{}",
        page.describe()
    );
    setup.asks_for_password(&browser).await;
    flows.passed("sign-out at the provider");
    flows.goodbye("RP-initiated logout");
}

/// The app's page: it has an open stream and a link.
fn page_with_stream(request: &Recorded, open: &Arc<Notify>) -> Answer {
    if request.target() == "/events" {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: first\n\n";
        return Answer::raw(head.as_bytes()).then_await(open);
    }
    let user = request.head.value("x-forwarded-email").unwrap_or_default();
    let html = [("Content-Type", "text/html")];
    let script = "<script>const source = new EventSource('/events')</script>";
    let target = request.target();
    Answer::with(
        200,
        &html,
        &format!("<p>{user} sees {target} <a href=/next>next</a>{script}"),
    )
}

async fn in_a_real_browser(provider: &str, flows: &Flows) {
    let setup = Setup::new(provider, &basic()).await;
    let open = Arc::new(Notify::new());
    setup
        .app
        .answer_by(move |request| page_with_stream(request, &open));
    let browser = Chromium::leading("localhost:80", setup.gateway.address()).await;
    browser.open(&url("/deep/page?x=1")).await;
    browser.picture("keycloak_login").await;
    browser.log_in(ALICE.name, ALICE.password).await;
    let text = browser.wait_for(|url| url.contains("/deep/")).await;
    assert_eq!(text, "alice@example.test sees /deep/page?x=1 next");
    browser.picture("keycloak_signed_in").await;
    assert_eq!(browser.run("return document.cookie").await, "");
    flows.passed("in Chromium");
    browser.wait_for_script("source.readyState === 1").await;
    let client = browser.client();
    let first = client.window().await.unwrap();
    let second = client.new_window(true).await.unwrap().handle;
    client.switch_to_window(second).await.unwrap();
    browser.open(&url("/oauth2/sign_out")).await;
    browser
        .run("document.querySelector('form button').click()")
        .await;
    browser.wait_for_text("has ended, too").await;
    browser.picture("keycloak_signed_out").await;
    flows.passed("sign-out at the provider in Chromium");
    // The stream of the other tab has ended, and the next click asks for a password.
    client.switch_to_window(first).await.unwrap();
    browser.wait_for_script("source.readyState === 2").await;
    browser
        .run("document.querySelector('a[href=\"/next\"]').click()")
        .await;
    browser
        .wait_for_script("document.querySelector('input[type=password]')")
        .await;
    browser.picture("keycloak_login_again").await;
    flows.passed("sign-out in another tab");
    let revoked = |log: &str| log.contains("Refresh token revoked");
    setup.gateway.wait_for_log(revoked).await;
    flows.goodbye("revocation");
}

/// Keycloak's admin API for the realm of the tests, with an access token of the administrator.
struct Admin {
    base: String,
    bearer: String,
}

impl Admin {
    async fn of(server: &Server) -> Self {
        let base = server.issuer().strip_suffix("/realms/shop").unwrap();
        let endpoint = format!("{base}/realms/master/protocol/openid-connect/token");
        let (name, password) = KEYCLOAK_ADMIN;
        let form = BrowserRequest::fetch(&endpoint).form(&[
            ("grant_type", "password"),
            ("client_id", "admin-cli"),
            ("username", name),
            ("password", password),
        ]);
        let answer = Browser::new().send(form).await;
        assert_eq!(answer.status, 200, "{}", answer.describe());
        let token = answer.json()["access_token"].as_str().unwrap().to_owned();
        Self {
            base: format!("{base}/admin/realms/shop"),
            bearer: format!("Bearer {token}"),
        }
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> Page {
        let visit = BrowserRequest::fetch(&format!("{}/{path}", self.base)).method(method);
        let visit = visit.field("authorization", &self.bearer);
        let visit = visit.body("application/json", body.as_bytes());
        let answer = Browser::new().send(visit).await;
        assert!(answer.status.is_success(), "{}", answer.describe());
        answer
    }

    /// The ids of Alice's sessions.
    async fn sessions(&self) -> Vec<String> {
        let path = format!("users/{ALICE_ID}/sessions");
        let sessions = self.call("GET", &path, "").await.json();
        let ids = sessions.as_array().unwrap().iter();
        ids.map(|session| session["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Changes the settings of a client.
    async fn change_client(&self, id: &str, change: impl FnOnce(&mut Value)) {
        let path = format!("clients?clientId={id}");
        let mut client = self.call("GET", &path, "").await.json()[0].take();
        change(&mut client);
        let path = format!("clients/{}", client["id"].as_str().unwrap());
        self.call("PUT", &path, &client.to_string()).await;
    }
}

async fn an_administrator_ends_a_session(server: &Server, provider: &str, flows: &Flows) {
    let (setup, origin) = Setup::reachable(provider, &basic()).await;
    let admin = Admin::of(server).await;
    let logout = format!("{origin}/oauth2/backchannel_logout");
    admin
        .change_client("basic", |client| {
            client["attributes"]["backchannel.logout.url"] = logout.into();
            client["attributes"]["backchannel.logout.session.required"] = "true".into();
        })
        .await;
    let (browser, other) = (setup.browser(), setup.browser());
    setup.sign_in_with(&browser, ALICE).await;
    let before = admin.sessions().await;
    setup.sign_in_with(&other, ALICE).await;
    let mut new = admin.sessions().await;
    new.retain(|id| !before.contains(id));
    let [new] = <[_; 1]>::try_from(new).unwrap();
    for browser in [&browser, &other] {
        assert_eq!(browser.fetch(&url("/api")).await.status, 200);
    }
    // One session of the user ends, and the other session continues.
    admin.call("DELETE", &format!("sessions/{new}"), "").await;
    assert_eq!(other.fetch(&url("/api")).await.status, 401);
    assert_eq!(browser.fetch(&url("/api")).await.status, 200);
    flows.goodbye("back-channel logout (an administrator ends a session)");
    // All sessions of the user end. For a user with several sessions, Keycloak sends one logout
    // token. Without `sid`, this token ends all sessions of the user.
    admin
        .change_client("basic", |client| {
            client["attributes"]["backchannel.logout.session.required"] = "false".into();
        })
        .await;
    setup.sign_in_with(&other, ALICE).await;
    let path = format!("users/{ALICE_ID}/logout");
    admin.call("POST", &path, "").await;
    for browser in [&browser, &other] {
        assert_eq!(browser.fetch(&url("/api")).await.status, 401);
    }
    setup.asks_for_password(&browser).await;
    flows.passed("back-channel logout");
    flows.goodbye("back-channel logout (an administrator signs a user out)");
}

/// Keycloak and the gateway are at the same site, so that the browser sends the session cookie in
/// frames of Keycloak's pages.
const SAME_SITE: (&str, &str) = ("app.localhost", "sso.app.localhost");

async fn a_page_of_keycloak_ends_the_session(server: &Server, flows: &Flows) {
    let (host, keycloak) = SAME_SITE;
    let origin = format!("http://{host}");
    let admin = Admin::of(server).await;
    admin
        .change_client("post", |client| {
            client["redirectUris"] = json!([format!("{origin}/*")]);
            client["frontchannelLogout"] = true.into();
            client["attributes"]["frontchannel.logout.url"] =
                format!("{origin}/oauth2/frontchannel_logout").into();
        })
        .await;
    let hosts = Hosts::new();
    hosts.set(&[(keycloak, Ipv4Addr::LOCALHOST)]);
    let app = RecordingUpstream::start().await;
    let settings = Settings::new(&origin, "http://unused.test", &app.url());
    let issuer = server.issuer().replace("127.0.0.1", keycloak);
    let provider = format!("profile = \"keycloak\"\nissuer = \"{issuer}\"");
    let client = Client::secret("post", "client_secret_post", "secret-post");
    let provider = client.section(&settings, "main", &provider);
    let settings = settings.provider(&provider).with(ROUTES);
    let gateway = Process::start_by(settings, hosts.shell()).await;
    let browser = Chromium::leading(&format!("{host}:80"), gateway.address()).await;
    browser.open(&format!("{origin}/page")).await;
    browser.log_in(ALICE.name, ALICE.password).await;
    let text = browser.wait_for(|url| url.ends_with("/page")).await;
    assert_eq!(text, "seen");
    // The user signs out at a page of Keycloak.
    browser
        .open(&format!("{issuer}/protocol/openid-connect/logout"))
        .await;
    browser
        .run("document.querySelector('#kc-logout').click()")
        .await;
    let ended = |log: &str| log.contains("Signed out by a page of the provider");
    gateway.wait_for_log(ended).await;
    browser.picture("keycloak_front_channel").await;
    browser.open(&format!("{origin}/page")).await;
    browser
        .wait_for_script("document.querySelector('input[type=password]')")
        .await;
    flows.passed("front-channel logout in Chromium");
    flows.goodbye("front-channel logout");
}
