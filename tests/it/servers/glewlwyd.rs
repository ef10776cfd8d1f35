//! glewlwyd: endpoints with a double slash, `auth_time` 0, `token_type` in lower case, an ID token
//! with the same lifetime as the access token, and 403 for a wrong secret.

use serde_json::json;

use super::{Client, Setup, assert_refused, openid};
use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::person::ALICE;
use crate::support::scene::url;
use crate::support::servers::{Flows, Server};

/// Signs in as the scripts of the login page do, and returns to the gateway.
pub(super) async fn sign_in(browser: &Browser, server: &Server, client: &str) -> Page {
    let start = browser.open(&url("/start?from=here")).await;
    let asked = start.location().unwrap();
    let login = browser.follow(&start).await.location().unwrap();
    assert!(login.query().unwrap().contains("callback_url"), "{login}");
    let api = server.issuer().trim_end_matches("/oidc");
    let password = json!({ "username": ALICE.name, "password": ALICE.password });
    call(browser, "POST", &format!("{api}/auth/"), &password).await;
    let scopes = json!({ "scope": "openid profile email" });
    call(
        browser,
        "PUT",
        &format!("{api}/auth/grant/{client}"),
        &scopes,
    )
    .await;
    let go_on = BrowserRequest::navigation(&format!("{asked}&g_continue")).from(login.as_str());
    let callback = browser.send(go_on).await;
    browser.follow_all(callback).await
}

async fn call(browser: &Browser, method: &str, url: &str, body: &serde_json::Value) {
    let visit = BrowserRequest::fetch(url).method(method);
    let visit = visit.body("application/json", body.to_string().as_bytes());
    let page = browser.send(visit).await;
    assert_eq!(page.status, 200, "{}", page.describe());
}

// The server does not state whether an address is verified, so the operator has to state it in the
// settings.
pub(super) const VERIFIED: &str = "identity.emails_verified = \"always\"";

#[tokio::test]
async fn people_sign_in_at_glewlwyd() {
    let flows = Flows::of("glewlwyd");
    let server = Server::glewlwyd().await;
    let provider = openid(&server, "oidc");
    let basic = || Client::secret("basic", "client_secret_basic", "secret-basic");
    let post = || Client::secret("post", "client_secret_post", "secret-post");
    for (flow, client, expected) in [
        (
            "client_secret_basic",
            basic().with(VERIFIED),
            "alice@example.test",
        ),
        (
            "client_secret_post",
            post().with(VERIFIED),
            "alice@example.test",
        ),
        (
            "public client",
            Client::public("public").with(VERIFIED),
            "alice@example.test",
        ),
        ("unverified address", basic(), ""),
        (
            "method from the metadata",
            Client::as_published("basic", "secret-basic"),
            "",
        ),
    ] {
        let setup = Setup::new(&provider, &client).await;
        let browser = setup.browser();
        let page = sign_in(&browser, &server, client.id).await;
        let arrived = setup.arrived(&browser, &page);
        let [user, email, groups] = arrived.person();
        assert!(!user.is_empty(), "{flow}");
        assert_eq!([email, groups], [expected, ""], "{flow}");
        let parts = arrived.token.split('.').count();
        assert_eq!(parts, 3, "{flow}: the token is a JWT");
        flows.passed(flow);
    }
    let wrong = Client::secret("basic", "client_secret_basic", "wrong");
    let setup = Setup::new(&provider, &wrong).await;
    let browser = setup.browser();
    let page = sign_in(&browser, &server, wrong.id).await;
    assert_refused(&browser, &page, "client_refused");
    flows.passed("wrong secret");
}
