//! Spring Authorization Server: the access token is a JWT for the client, a refresh ends the old
//! access token, and public clients get no refresh token.

use super::{Client, Setup, openid};
use crate::support::person::ALICE;
use crate::support::scene::url;
use crate::support::servers::{Flows, Server};

const EXPECTED: [&str; 3] = ["alice", "alice@example.test", "staff"];

pub(super) fn basic() -> Client<'static> {
    Client::secret("basic", "client_secret_basic", "secret-basic")
}

// The server takes seconds to start, so one test uses one server for everything.
#[tokio::test]
async fn people_sign_in_at_spring_authorization_server() {
    let flows = Flows::of("spring");
    let server = Server::spring(None).await;
    let provider = openid(&server, "spring-authorization-server");
    for (flow, client) in [
        ("client_secret_basic", basic()),
        (
            "client_secret_post",
            Client::secret("post", "client_secret_post", "secret-post"),
        ),
        (
            "method from the metadata",
            Client::as_published("basic", "secret-basic"),
        ),
        ("public client", Client::public("public")),
    ] {
        let setup = Setup::new(&provider, &client).await;
        let arrived = setup.sign_in(ALICE).await;
        assert_eq!(arrived.person(), EXPECTED, "{flow}");
        assert_eq!(
            arrived.token.split('.').count(),
            3,
            "{flow}: the token is a JWT"
        );
        let refreshable = setup.gateway.log().contains("\"refresh_token\":true");
        assert_eq!(refreshable, flow != "public client", "{flow}");
        flows.passed(flow);
    }
    let wrong = Client::secret("basic", "client_secret_basic", "wrong");
    let setup = Setup::new(&provider, &wrong).await;
    setup.refuses(ALICE, "client_refused").await;
    flows.passed("wrong secret");
    signing_out(&provider, &flows).await;
}

async fn signing_out(provider: &str, flows: &Flows) {
    let setup = Setup::new(provider, &basic()).await;
    let browser = setup.browser();
    setup.sign_in_with(&browser, ALICE).await;
    let question = browser.open(&url("/oauth2/sign_out")).await;
    let answer = browser.submit(&question, &question.login_form(), &[]).await;
    browser.follow_all(answer).await;
    assert_eq!(browser.fetch(&url("/api")).await.status, 401);
    flows.passed("sign-out at the gateway");
    // The session at the server still exists, so there is no login form this time.
    let page = browser.visit(&url("/start?from=here")).await;
    setup.arrived(&browser, &page).await;
    flows.passed("single sign-on");
}
