//! Keycloak: `Secure` cookies on plain loopback, no `aud` in the access token, groups in an object,
//! 401 `unauthorized_client` for a wrong secret.

use super::{Client, Setup, openid};
use crate::support::person::ALICE;
use crate::support::scene::url;
use crate::support::servers::{Flows, Server};
use crate::support::upstream::Answer;
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
    setup.arrived(&browser, &page);
    flows.passed("single sign-on");
    let answer = browser.submit(&question, &question.login_form(), &[]).await;
    let page = browser.visit(&url(&answer.refresh_target())).await;
    assert!(
        page.text().contains("has ended, too"),
        "{}",
        page.describe()
    );
    let page = browser.visit(&url("/start?from=here")).await;
    let asks = page.login_form().password_field().is_some();
    assert!(asks, "no password was asked: {}", page.describe());
    flows.passed("sign-out at the provider");
}

async fn in_a_real_browser(provider: &str, flows: &Flows) {
    let setup = Setup::new(provider, &basic()).await;
    setup.app.answer_by(|request| {
        let user = request.head.value("x-forwarded-email").unwrap_or_default();
        let html = [("Content-Type", "text/html")];
        Answer::with(200, &html, &format!("<p>{user} sees {}", request.target()))
    });
    let browser = Chromium::leading("localhost:80", setup.gateway.address()).await;
    browser.open(&url("/deep/page?x=1")).await;
    browser.picture("keycloak_login").await;
    browser.log_in(ALICE.name, ALICE.password).await;
    let text = browser.wait_for(|url| url.contains("/deep/")).await;
    assert_eq!(text, "alice@example.test sees /deep/page?x=1");
    browser.picture("keycloak_signed_in").await;
    assert_eq!(browser.run("return document.cookie").await, "");
    flows.passed("in Chromium");
    browser.open(&url("/oauth2/sign_out")).await;
    browser
        .run("document.querySelector('form button').click()")
        .await;
    browser.wait_for_text("has ended, too").await;
    browser.picture("keycloak_signed_out").await;
    browser.open(&url("/deep/page?x=1")).await;
    browser.picture("keycloak_login_again").await;
    flows.passed("sign-out at the provider in Chromium");
}
