//! npm `oauth2-mock-server`: no login page, no `iss` in the answer, every client is accepted, and
//! the metadata lists only `none` as a client authentication.

use super::{Client, Setup, openid};
use crate::support::person::ALICE;
use crate::support::scene::url;
use crate::support::servers::{Flows, Server};

const EXPECTED: [&str; 3] = ["alice", "alice@example.test", "staff"];

#[tokio::test]
async fn people_sign_in_at_oauth2_mock_server() {
    let flows = Flows::of("oauth2-mock-server");
    let server = Server::oauth2_mock_server(None).await;
    let provider = openid(&server, "oidc");
    for (flow, client) in [
        (
            "client_secret_basic",
            Client::secret("any", "client_secret_basic", "any"),
        ),
        (
            "client_secret_post",
            Client::secret("any", "client_secret_post", "any"),
        ),
        ("public client", Client::public("any")),
    ] {
        let setup = Setup::new(&provider, &client).await;
        let browser = setup.browser();
        let arrived = setup.sign_in_with(&browser, ALICE).await;
        assert_eq!(arrived.person(), EXPECTED, "{flow}");
        flows.passed(flow);
        let question = browser.open(&url("/oauth2/sign_out")).await;
        let answer = browser.submit(&question, &question.login_form(), &[]).await;
        browser.follow_all(answer).await;
        assert_eq!(browser.fetch(&url("/api")).await.status, 401, "{flow}");
    }
    flows.passed("sign-out at the gateway");
    // The metadata lists only `none`, so no method fits a secret.
    let setup = Setup::new(&provider, &Client::as_published("any", "any")).await;
    let page = ALICE
        .sign_in(&setup.browser(), &url("/start?from=here"))
        .await;
    assert!(page.status.is_server_error(), "{}", page.describe());
    flows.passed("no method fits");
}
