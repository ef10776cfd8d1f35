//! django-oauth-toolkit: `sub` is a number as a string, tokens are opaque, the issuer has a path.

use super::{Client, Setup, openid};
use crate::support::person::ALICE;
use crate::support::servers::{Flows, Server};

const EXPECTED: [&str; 3] = ["1", "alice@example.test", "staff"];

#[tokio::test]
async fn people_sign_in_at_django_oauth_toolkit() {
    let flows = Flows::of("django-oauth-toolkit");
    let server = Server::django_oauth_toolkit().await;
    assert!(server.issuer().ends_with("/o"));
    let provider = openid(&server, "oidc");
    for (flow, client) in [
        (
            "client_secret_basic",
            Client::secret("basic", "client_secret_basic", "secret-basic"),
        ),
        (
            "client_secret_post",
            Client::secret("basic", "client_secret_post", "secret-basic"),
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
        assert!(!arrived.token.contains('.'), "{flow}: the token is opaque");
        flows.passed(flow);
    }
    let setup = Setup::new(
        &provider,
        &Client::secret("basic", "client_secret_basic", "wrong"),
    )
    .await;
    setup.refuses(ALICE, "client_refused").await;
    flows.passed("wrong secret");
    signing_out(&provider, &flows).await;
}

async fn signing_out(provider: &str, flows: &Flows) {
    let client = Client::secret("basic", "client_secret_basic", "secret-basic");
    let setup = Setup::new(provider, &client).await;
    let browser = setup.browser();
    setup.sign_in_with(&browser, ALICE).await;
    let signed_out = setup.sign_out(&browser).await;
    let text = signed_out.text();
    assert!(text.contains("has ended, too"), "{}", signed_out.describe());
    setup.asks_for_password(&browser).await;
    flows.goodbye("RP-initiated logout");
}

#[tokio::test]
async fn people_sign_in_at_django_oauth_toolkit_without_openid() {
    let server = Server::django_oauth_toolkit_without_openid().await;
    let origin = server.issuer().trim_end_matches("/o");
    let provider = format!(
        "profile = \"oauth2\"\nurl = \"{origin}\"\nscopes = [\"read\"]\n\
         authorization_endpoint = \"/o/authorize/\"\ntoken_endpoint = \"/o/token/\"\n\
         userinfo_endpoint = \"/api/user\"\nidentity.source = \"userinfo\"\n\
         identity.claims.subject = \"id\""
    );
    let client = Client::secret("basic", "client_secret_basic", "secret-basic");
    let setup = Setup::new(&provider, &client).await;
    assert_eq!(setup.sign_in(ALICE).await.person(), EXPECTED);
    Flows::of("django-oauth-toolkit").passed("OAuth 2 without OpenID");
}
