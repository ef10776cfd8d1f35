//! A session that outlives its access tokens, at real servers. These tests wait in real time,
//! because the servers use their own clocks.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Client, Setup, glewlwyd, oidc_provider, openid, spring};
use crate::support::browser::Browser;
use crate::support::browser_request::BrowserRequest;
use crate::support::person::ALICE;
use crate::support::scene::url;
use crate::support::servers::{Flows, Server};
use crate::support::upstream::Recorded;
use crate::support::wire::TEST_TIMEOUT;

/// The lifetime of an access token in seconds.
const LIFE: u64 = 4;

/// The number of simultaneous requests when the token has expired.
const AT_ONCE: usize = 20;

/// A signed-in browser whose access tokens the test follows.
struct LongSession<'a> {
    setup: &'a Setup,
    browser: Browser,
    userinfo: String,
}

fn token(request: &Recorded) -> String {
    let field = request.head.value("authorization").unwrap_or_default();
    field.strip_prefix("Bearer ").unwrap().to_owned()
}

impl LongSession<'_> {
    /// The last token that the app got.
    fn token(&self) -> String {
        token(&self.setup.app.last())
    }

    /// Sends requests until the app gets another token than `old`. Fails unless every request is
    /// served.
    async fn until_renewed(&self, old: &str) -> String {
        let asking = async {
            loop {
                let page = self.browser.fetch(&url("/api")).await;
                assert_eq!(page.text(), "seen", "{}", page.describe());
                if self.token() != old {
                    return self.token();
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(TEST_TIMEOUT, asking)
            .await
            .expect("never refreshed")
    }

    /// Whether the server still accepts this access token.
    async fn is_good(&self, token: &str) -> bool {
        let bearer = format!("Bearer {token}");
        let visit = BrowserRequest::fetch(&self.userinfo).field("authorization", &bearer);
        let status = Browser::new().send(visit).await.status;
        assert!(matches!(status.as_u16(), 200 | 401), "{status}");
        status == 200
    }

    /// Many requests need a new token at the same time. The app gets one new token.
    async fn all_at_once(&self, old: &str) -> String {
        sleep(Duration::from_secs(LIFE + 1)).await;
        let before = self.setup.app.count();
        let mut asking = JoinSet::new();
        for _ in 0..AT_ONCE {
            let tab = self.browser.clone();
            asking.spawn(async move { tab.fetch(&url("/api")).await });
        }
        while let Some(page) = asking.join_next().await {
            let page = page.unwrap();
            assert_eq!(page.text(), "seen", "{}", page.describe());
        }
        let requests = self.setup.app.requests();
        let tokens: BTreeSet<_> = requests[before..].iter().map(token).collect();
        assert_eq!((requests.len() - before, tokens.len()), (AT_ONCE, 1));
        let new = tokens.into_iter().next().unwrap();
        assert_ne!(new, old);
        new
    }
}

/// Keeps a session for several lifetimes of an access token.
///
/// These servers end the whole grant when a refresh token is used twice. One more refresh after the
/// simultaneous requests therefore proves that the simultaneous requests caused a single refresh.
async fn outlives_its_tokens(stay: &LongSession<'_>, kills_access_tokens: bool, flows: &Flows) {
    let first = stay.token();
    let head = stay.setup.app.last().head;
    let person = |head: &crate::support::wire::Head| {
        ["x-forwarded-user", "x-forwarded-email"].map(|name| head.value(name))
    };
    let second = stay.until_renewed(&first).await;
    // The refresh has just happened, so the old token has not expired by itself.
    let old_is_good = stay.is_good(&first).await;
    assert!(!(kills_access_tokens && old_is_good));
    let third = stay.until_renewed(&second).await;
    assert!(stay.is_good(&third).await);
    assert_eq!(person(&stay.setup.app.last().head), person(&head));
    flows.passed("refresh");
    let fourth = stay.all_at_once(&third).await;
    assert!(stay.is_good(&fourth).await);
    stay.until_renewed(&fourth).await;
    flows.passed("refresh under concurrency");
    if kills_access_tokens {
        flows.passed("old access token dies");
    }
}

/// The number of calls to the token endpoint.
async fn calls(server: &Server, path: &str) -> u64 {
    let origin = server.issuer().trim_end_matches("/o");
    let page = Browser::new().open(&format!("{origin}/_ctl/hits")).await;
    page.json()[path].as_u64().unwrap_or_default()
}

#[tokio::test]
async fn a_session_at_oidc_provider_outlives_its_tokens() {
    let server = Server::oidc_provider_whose_tokens_live(Some(LIFE)).await;
    let secret = server.file("client_secret");
    let more = format!(
        "{}\nrefresh.revokes_access_token = false",
        oidc_provider::SCOPES
    );
    let client = Client::secret("client_secret_basic", "client_secret_basic", &secret);
    let setup = Setup::new(&openid(&server, "oidc"), &client.with(&more)).await;
    let browser = setup.browser();
    setup.sign_in_with(&browser, ALICE).await;
    let stay = LongSession {
        setup: &setup,
        browser,
        userinfo: format!("{}/me", server.issuer()),
    };
    outlives_its_tokens(&stay, false, &Flows::of("oidc-provider")).await;
    // The calls are for the code, two single refreshes, one refresh for the simultaneous requests,
    // and one more refresh.
    assert_eq!(calls(&server, "/token").await, 5);
    the_server_fails_at_a_refresh(&stay, &server).await;
}

/// The server fails at a refresh. The session continues, and requests are served.
async fn the_server_fails_at_a_refresh(stay: &LongSession<'_>, server: &Server) {
    let old = stay.token();
    let fault = json!({ "path": "/token", "status": 503, "count": 1 });
    oidc_provider::control(server, "fault", &fault).await;
    stay.until_renewed(&old).await;
    assert_eq!(calls(server, "/token").await, 7);
    Flows::of("oidc-provider").passed("503 at a refresh");
}

#[tokio::test]
async fn a_session_at_django_oauth_toolkit_outlives_its_tokens() {
    let server = Server::django_oauth_toolkit_whose_tokens_live(LIFE).await;
    let client = Client::secret("basic", "client_secret_basic", "secret-basic")
        .with("refresh.revokes_access_token = true");
    let setup = Setup::new(&openid(&server, "oidc"), &client).await;
    let browser = setup.browser();
    setup.sign_in_with(&browser, ALICE).await;
    let stay = LongSession {
        setup: &setup,
        browser,
        userinfo: format!("{}/userinfo/", server.issuer()),
    };
    outlives_its_tokens(&stay, true, &Flows::of("django-oauth-toolkit")).await;
    assert_eq!(calls(&server, "/o/token/").await, 5);
}

#[tokio::test]
async fn a_session_at_glewlwyd_outlives_its_tokens() {
    let server = Server::glewlwyd_whose_tokens_live(Some(LIFE)).await;
    let more = format!(
        "{}\nrefresh.revokes_access_token = false",
        glewlwyd::VERIFIED
    );
    let client = Client::secret("basic", "client_secret_basic", "secret-basic").with(&more);
    let setup = Setup::new(&openid(&server, "oidc"), &client).await;
    let browser = setup.browser();
    let page = glewlwyd::sign_in(&browser, &server, "basic").await;
    setup.arrived(&browser, &page).await;
    let stay = LongSession {
        setup: &setup,
        browser,
        userinfo: format!("{}/userinfo", server.issuer()),
    };
    outlives_its_tokens(&stay, false, &Flows::of("glewlwyd")).await;
}

#[tokio::test]
async fn a_session_at_spring_authorization_server_outlives_its_tokens() {
    let server = Server::spring(Some(LIFE)).await;
    let provider = openid(&server, "spring-authorization-server");
    let setup = Setup::new(&provider, &spring::basic()).await;
    let browser = setup.browser();
    setup.sign_in_with(&browser, ALICE).await;
    let stay = LongSession {
        setup: &setup,
        browser,
        userinfo: format!("{}/userinfo", server.issuer()),
    };
    outlives_its_tokens(&stay, true, &Flows::of("spring")).await;
}

#[tokio::test]
async fn a_session_at_oauth2_mock_server_outlives_its_tokens() {
    let server = Server::oauth2_mock_server(Some(LIFE)).await;
    let client = Client::secret("any", "client_secret_basic", "any")
        .with("refresh.revokes_access_token = false");
    let setup = Setup::new(&openid(&server, "oidc"), &client).await;
    let browser = setup.browser();
    setup.sign_in_with(&browser, ALICE).await;
    let stay = LongSession {
        setup: &setup,
        browser,
        userinfo: format!("{}/userinfo", server.issuer()),
    };
    outlives_its_tokens(&stay, false, &Flows::of("oauth2-mock-server")).await;
}
