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
        let arrived = setup.arrived(&browser, &page).await;
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
    signing_out(&server, &provider, &flows).await;
    a_session_ends_at_the_provider(&server, &provider, &flows).await;
}

/// Ends the session at the server as the scripts of its page do. `page` is the page to which the
/// gateway has sent the browser. Returns the page of the gateway after the sign-out.
async fn end_session(browser: &Browser, server: &Server, page: &Page) -> Page {
    let of_page = |wanted: &str| {
        let mut pairs = page.url.query_pairs();
        let found = pairs.find(|(name, _value)| name == wanted);
        found.expect(wanted).1.into_owned()
    };
    assert_eq!(of_page("prompt"), "end_session");
    let session = format!("{}/session/{}", server.issuer(), of_page("sid"));
    call(browser, "DELETE", &session, &json!({})).await;
    let api = server.issuer().trim_end_matches("/oidc");
    call(browser, "DELETE", &format!("{api}/auth/"), &json!({})).await;
    let back = BrowserRequest::navigation(&of_page("callback_url")).from(page.url.as_str());
    let back = browser.send(back).await;
    browser.follow_all(back).await
}

async fn signing_out(server: &Server, provider: &str, flows: &Flows) {
    let client = Client::secret("basic", "client_secret_basic", "secret-basic");
    let setup = Setup::new(provider, &client).await;
    let browser = setup.browser();
    let page = sign_in(&browser, server, client.id).await;
    setup.arrived(&browser, &page).await;
    let page = setup.sign_out(&browser).await;
    let signed_out = end_session(&browser, server, &page).await;
    let text = signed_out.text();
    assert!(text.contains("has ended, too"), "{}", signed_out.describe());
    let page = browser.visit(&url("/start?from=here")).await;
    assert!(page.url.path().ends_with("/login.html"), "{}", page.url);
    flows.goodbye("RP-initiated logout");
}

async fn a_session_ends_at_the_provider(server: &Server, provider: &str, flows: &Flows) {
    let client = Client::secret("basic", "client_secret_basic", "secret-basic");
    let (setup, origin) = Setup::reachable(provider, &client).await;
    let api = server.issuer().trim_end_matches("/oidc");
    let (admin, place) = (Browser::new(), format!("{api}/client/{}", client.id));
    let password = json!({ "username": "admin", "password": "password" });
    call(&admin, "POST", &format!("{api}/auth/"), &password).await;
    let mut known = admin.fetch(&place).await.json();
    known["backchannel_logout_uri"] = format!("{origin}/oauth2/backchannel_logout").into();
    // The server accepts only texts as properties of a client.
    known["backchannel_logout_session_required"] = "true".into();
    call(&admin, "PUT", &place, &known).await;
    let browser = setup.browser();
    let page = sign_in(&browser, server, client.id).await;
    setup.arrived(&browser, &page).await;
    // The user ends the session at the server. The server sends the logout token, whose type is
    // `JWT`, a moment later.
    let sid = browser.cookie(server.issuer(), "GLEWLWYD2_OIDC_SID");
    let session = format!("{}/session/{}", server.issuer(), sid.unwrap());
    call(&browser, "DELETE", &session, &json!({})).await;
    let ended = |log: &str| log.contains("Sessions ended by request");
    setup.gateway.wait_for_log(ended).await;
    assert_eq!(browser.fetch(&url("/api")).await.status, 401);
    flows.goodbye("back-channel logout");
}
