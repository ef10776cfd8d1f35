//! npm's oidc-provider: every client authentication method, every algorithm, and faults on demand.

use serde_json::{Value, json};

use super::{Client, Setup, assert_refused, openid};
use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::Settings;
use crate::support::person::ALICE;
use crate::support::scene::{ORIGIN, SESSION, url};
use crate::support::servers::{Flows, Server};

const EXPECTED: [&str; 3] = ["alice", "alice@example.test", "staff"];

pub(super) const SCOPES: &str = "scopes = [\"openid\", \"profile\", \"email\", \"groups\"]";

/// The access token is for another resource, so the claims are requested in the ID token.
const NO_USERINFO: &str = r#"scopes = ["openid"]
identity.userinfo = false
authorization_request.parameters.claims = """
{"id_token":{"email":null,"email_verified":null,"groups":null,"pad":null}}""""#;

/// A client with the secret that all clients have.
fn client<'a>(id: &'a str, secret: &'a str, more: &'a str) -> Client<'a> {
    Client::secret(id, "client_secret_basic", secret).with(more)
}

/// Changes the behaviour of the server; the script of the server describes the changes.
pub(super) async fn control(server: &Server, name: &str, body: &Value) -> Value {
    let url = format!("{}/_ctl/{name}", server.issuer());
    let visit = BrowserRequest::fetch(&url).method("POST");
    let visit = visit.body("application/json", body.to_string().as_bytes());
    let page = Browser::new().send(visit).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    page.json()
}

#[tokio::test]
async fn people_sign_in_at_oidc_provider() {
    let flows = Flows::of("oidc-provider");
    let server = Server::oidc_provider().await;
    let provider = openid(&server, "oidc");
    every_client_authentication(&server, &provider, &flows).await;
    every_kind_of_token(&server, &provider, &flows).await;
    down_and_up_again(&server, &provider, &flows).await;
    other_keys_while_the_gateway_runs(&server, &provider, &flows).await;
    an_answer_by_form_post(&server, &provider, &flows).await;
    signing_out(&server, &provider, &flows).await;
    a_session_ends_at_the_provider(&server, &provider, &flows).await;
    silent_and_recent_sign_ins(&server, &provider, &flows).await;
}

async fn every_client_authentication(server: &Server, provider: &str, flows: &Flows) {
    let secret = server.file("client_secret");
    let key = server.path("client_key");
    let key = format!(
        "{SCOPES}\nclient_assertion.private_key_file = \"{key}\"\n\
         client_assertion.key_id = \"client-key\""
    );
    // Each client has the name of its authentication method.
    let with_secret = |method| Client::secret(method, method, &secret).with(SCOPES);
    for (flow, client) in [
        ("client_secret_basic", with_secret("client_secret_basic")),
        ("client_secret_post", with_secret("client_secret_post")),
        ("client_secret_jwt", with_secret("client_secret_jwt")),
        (
            "private_key_jwt",
            Client::private_key("private_key_jwt", &key),
        ),
        (
            "method from the metadata",
            Client::as_published("client_secret_basic", &secret).with(SCOPES),
        ),
        ("public client", Client::public("public").with(SCOPES)),
    ] {
        let setup = Setup::new(provider, &client).await;
        assert_eq!(setup.sign_in(ALICE).await.person(), EXPECTED, "{flow}");
        flows.passed(flow);
    }
    let setup = Setup::new(provider, &client("client_secret_basic", "wrong", SCOPES)).await;
    setup.refuses(ALICE, "client_refused").await;
    flows.passed("wrong secret");
}

async fn every_kind_of_token(server: &Server, provider: &str, flows: &Flows) {
    let secret = server.file("client_secret");
    for (id, flow, more) in [
        ("RS256", "RS256", SCOPES),
        ("PS256", "PS256", SCOPES),
        ("ES256", "ES256", SCOPES),
        ("EdDSA", "EdDSA", SCOPES),
        ("signed_userinfo", "signed userinfo", SCOPES),
        ("jwt_access_token", "JWT access token", NO_USERINFO),
        ("huge", "tokens of 8 KB", NO_USERINFO),
    ] {
        let setup = Setup::new(provider, &client(id, &secret, more)).await;
        let arrived = setup.sign_in(ALICE).await;
        assert_eq!(arrived.person(), EXPECTED, "{id}");
        let length = arrived.token.len();
        match id {
            "huge" => assert!(length > 8000, "{length}"),
            "jwt_access_token" => assert_eq!(arrived.token.split('.').count(), 3),
            _ => assert!(!arrived.token.contains('.'), "{id}"),
        }
        flows.passed(flow);
    }
}

async fn down_and_up_again(server: &Server, provider: &str, flows: &Flows) {
    let secret = server.file("client_secret");
    let setup = Setup::new(provider, &client("client_secret_basic", &secret, SCOPES)).await;
    let signed_in = setup.browser();
    setup.sign_in_with(&signed_in, ALICE).await;
    control(
        server,
        "fault",
        &json!({ "path": "/token", "status": 503, "count": 1 }),
    )
    .await;
    setup.refuses(ALICE, "provider_unavailable").await;
    // Users who are signed in notice no failure, and the next user can sign in.
    assert_eq!(signed_in.open(&url("/still")).await.text(), "seen");
    setup.sign_in(ALICE).await;
    flows.passed("503 and back");
}

async fn other_keys_while_the_gateway_runs(server: &Server, provider: &str, flows: &Flows) {
    let secret = server.file("client_secret");
    let setup = Setup::new(provider, &client("ES256", &secret, SCOPES)).await;
    setup.sign_in(ALICE).await;
    control(server, "rotate-keys", &json!({})).await;
    assert_eq!(setup.sign_in(ALICE).await.person(), EXPECTED);
    flows.passed("rotation of keys");
}

async fn an_answer_by_form_post(server: &Server, provider: &str, flows: &Flows) {
    let secret = server.file("client_secret");
    let more = format!("{SCOPES}\nauthorization_request.response_mode = \"form_post\"");
    let setup = Setup::new(provider, &client("client_secret_basic", &secret, &more)).await;
    assert_eq!(setup.sign_in(ALICE).await.person(), EXPECTED);
    flows.passed("form_post");
}

async fn a_session_ends_at_the_provider(server: &Server, provider: &str, flows: &Flows) {
    let secret = server.file("client_secret");
    let client = client("client_secret_post", &secret, SCOPES);
    let client = Client {
        authentication: "client_secret_post",
        ..client
    };
    let (setup, origin) = Setup::reachable(provider, &client).await;
    let url_of_logout = format!("{origin}/oauth2/backchannel_logout");
    let change = json!({ "client": client.id, "url": url_of_logout });
    control(server, "backchannel", &change).await;
    let browser = setup.browser();
    setup.sign_in_with(&browser, ALICE).await;
    assert_eq!(browser.fetch(&url("/api")).await.status, 200);
    // The user ends the session at the provider's own page.
    let page = browser
        .open(&format!("{}/session/end", server.issuer()))
        .await;
    confirm(&browser, &page).await;
    assert_eq!(browser.fetch(&url("/api")).await.status, 401);
    flows.passed("back-channel logout");
    flows.goodbye("back-channel logout");
}

/// Confirms the sign-out at a page of the server. Returns the redirect of the server.
async fn confirm(browser: &Browser, page: &Page) -> Page {
    let text = page.text();
    let (_, rest) = text.split_once("name=\"xsrf\" value=\"").unwrap();
    let (xsrf, _) = rest.split_once('"').unwrap();
    let mut end = page.url.clone();
    end.set_query(None);
    end.set_path("/session/end/confirm");
    let visit = BrowserRequest::navigation(end.as_str()).from(page.url.as_str());
    let answer = browser
        .send(visit.form(&[("xsrf", xsrf), ("logout", "yes")]))
        .await;
    assert!(answer.status.is_redirection(), "{}", answer.describe());
    answer
}

async fn signing_out(server: &Server, provider: &str, flows: &Flows) {
    let secret = server.file("client_secret");
    let setup = Setup::new(provider, &client("client_secret_basic", &secret, SCOPES)).await;
    let browser = setup.browser();
    setup.sign_in_with(&browser, ALICE).await;
    let question = setup.sign_out(&browser).await;
    let redirect = confirm(&browser, &question).await;
    let signed_out = browser.follow_all(redirect).await;
    let text = signed_out.text();
    assert!(text.contains("has ended, too"), "{}", signed_out.describe());
    let revoked = |log: &str| log.contains("Refresh token revoked");
    setup.gateway.wait_for_log(revoked).await;
    let hits = control(server, "hits", &json!({})).await;
    assert_eq!(hits["/token/revocation"], 1, "{hits}");
    setup.asks_for_password(&browser).await;
    flows.goodbye("RP-initiated logout");
    flows.goodbye("revocation");
}

async fn silent_and_recent_sign_ins(server: &Server, provider: &str, flows: &Flows) {
    let routes = "[[routes]]\n[[routes]]\nprefix = \"/public\"\naccess = \"public\"\n\
                  silent_sign_in = true\n[[routes]]\nprefix = \"/recent\"\n\
                  session.max_age_secs = 600\n";
    let secret = server.file("client_secret");
    let client = client("client_secret_basic", &secret, SCOPES);
    let section = |settings: &Settings| client.section(settings, "main", provider);
    let setup = Setup::with(routes, section).await;
    let browser = setup.browser();
    let user = async || {
        let page = browser.visit(&url("/public/a")).await;
        assert_eq!(page.text(), "seen", "{}", page.describe());
        setup.app.last().head.value("x-forwarded-user")
    };
    assert_eq!(user().await, None);
    setup.sign_in_with(&browser, ALICE).await;
    browser.forget(SESSION);
    assert_eq!(user().await.as_deref(), Some("alice"));
    flows.passed("prompt=none");
    // The ID token contains `auth_time` only if the request contains `max_age`.
    assert_eq!(browser.fetch(&url("/recent")).await.status, 401);
    let page = ALICE.sign_in(&browser, &url("/recent")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(browser.fetch(&url("/recent")).await.status, 200);
    flows.passed("max_age");
}

/// RFC 9207: both servers name their issuer in their answers.
#[tokio::test]
async fn an_answer_of_one_oidc_provider_is_not_taken_for_one_of_another() {
    let flows = Flows::of("oidc-provider");
    let (one, two) = (Server::oidc_provider().await, Server::oidc_provider().await);
    let (secret_one, secret_two) = (one.file("client_secret"), two.file("client_secret"));
    let (at_one, at_two) = (openid(&one, "oidc"), openid(&two, "oidc"));
    let routes = "[[routes]]\nprovider = \"one\"\n\
                  [[routes]]\nprefix = \"/two\"\nprovider = \"two\"\n";
    let setup = Setup::with(routes, |settings| {
        let section = |name, at: &str, secret| {
            client("client_secret_basic", secret, SCOPES).section(settings, name, at)
        };
        [
            section("one", &at_one, &secret_one),
            section("two", &at_two, &secret_two),
        ]
        .concat()
    });
    let setup = setup.await;
    setup.sign_in(ALICE).await;
    // A login begins at the first server. The second server answers this login, at the callback of
    // the first server.
    let browser = setup.browser();
    let start = browser.open(&url("/start?from=here")).await;
    let asked = start.location().unwrap().to_string();
    let other = asked.replace(one.issuer(), two.issuer());
    assert_ne!(asked, other);
    let before = exchanges(&one).await;
    let login = browser.open(&other).await;
    let answer = ALICE.go_on(&browser, login, ORIGIN).await;
    assert_refused(&browser, &answer, "response_issuer");
    assert_eq!(
        exchanges(&one).await,
        before,
        "the code went to the other server"
    );
    flows.passed("iss of the answer (RFC 9207)");
}

/// The number of token requests to the server.
async fn exchanges(server: &Server) -> u64 {
    let hits = control(server, "hits", &json!({})).await;
    hits["/token"].as_u64().unwrap_or_default()
}
