//! Logins at real authorization servers, with the same program. Only the settings differ.

mod django;
mod glewlwyd;
mod keycloak;
mod mock;
mod oidc_provider;
mod refresh;
mod spring;

use crate::support::browser::{Browser, Page};
use crate::support::gateway::{Process, Settings};
use crate::support::person::Person;
use crate::support::program::free_address;
use crate::support::scene::{ORIGIN, ROUTES, SESSION, url};
use crate::support::servers::Server;
use crate::support::upstream::RecordingUpstream;

/// The program with real servers, and an app that records the requests.
struct Setup {
    gateway: Process,
    app: RecordingUpstream,
}

/// A client that a test registers at a server, with its client authentication.
struct Client<'a> {
    id: &'a str,
    /// The value of `client_authentication` in the settings.
    authentication: &'a str,
    secret: Option<&'a str>,
    /// More keys of the provider, as TOML.
    more: &'a str,
}

impl<'a> Client<'a> {
    fn secret(id: &'a str, authentication: &'a str, secret: &'a str) -> Self {
        let secret = Some(secret);
        Self {
            id,
            authentication,
            secret,
            more: "",
        }
    }

    fn public(id: &'a str) -> Self {
        Self {
            id,
            authentication: "none",
            secret: None,
            more: "",
        }
    }

    /// A client whose authentication method comes from the server's metadata.
    fn as_published(id: &'a str, secret: &'a str) -> Self {
        Self::secret(id, "auto", secret)
    }

    /// A client with a private key; `more` names the key.
    fn private_key(id: &'a str, more: &'a str) -> Self {
        Self {
            authentication: "private_key_jwt",
            more,
            ..Self::public(id)
        }
    }

    fn with(self, more: &'a str) -> Self {
        Self { more, ..self }
    }

    /// The settings of the provider `name`.
    fn section(&self, settings: &Settings, name: &str, server: &str) -> String {
        let Self {
            id,
            authentication,
            more,
            ..
        } = self;
        let secret = self.secret.map_or_else(String::new, |secret| {
            let path = settings.file(&format!("client_secret_{name}"), secret);
            format!("client_secret_file = \"{path}\"\n")
        });
        format!(
            "[providers.{name}]\n{server}\nclient_id = \"{id}\"\n\
             client_authentication = \"{authentication}\"\n{secret}{more}\n"
        )
    }
}

/// The settings of an OpenID Provider: only its profile and issuer.
fn openid(server: &Server, profile: &str) -> String {
    let issuer = server.issuer();
    format!("profile = \"{profile}\"\nissuer = \"{issuer}\"")
}

impl Setup {
    /// A gateway with one provider, for the client. `server` contains the settings of the server.
    async fn new(server: &str, client: &Client<'_>) -> Self {
        Self::with(ROUTES, |settings| client.section(settings, "main", server)).await
    }

    /// A gateway to which the server can connect. The second result is the origin of the gateway for
    /// the server.
    async fn reachable(server: &str, client: &Client<'_>) -> (Self, String) {
        let (address, app) = (free_address(), RecordingUpstream::start().await);
        let origin = format!("http://{address}");
        let settings = Settings::new(ORIGIN, "http://unused.test", &app.url());
        let settings = settings
            .public_urls(&[ORIGIN, &origin])
            .listening_at(&address);
        let provider = client.section(&settings, "main", server);
        let gateway = Process::start(settings.provider(&provider).with(ROUTES)).await;
        (Self { gateway, app }, origin)
    }

    /// A gateway with these routes, and with the providers that `providers` writes.
    async fn with(routes: &str, providers: impl FnOnce(&Settings) -> String) -> Self {
        let app = RecordingUpstream::start().await;
        let settings = Settings::new(ORIGIN, "http://unused.test", &app.url());
        let providers = providers(&settings);
        let gateway = Process::start(settings.provider(&providers).with(routes)).await;
        Self { gateway, app }
    }

    fn browser(&self) -> Browser {
        Browser::new().leading(ORIGIN, self.gateway.address())
    }

    /// Signs in with a new browser. Returns what reached the app.
    async fn sign_in(&self, person: Person) -> ForwardedUser {
        self.sign_in_with(&self.browser(), person).await
    }

    /// Signs in. Returns what reached the app.
    async fn sign_in_with(&self, browser: &Browser, person: Person) -> ForwardedUser {
        let page = person.sign_in(browser, &url("/start?from=here")).await;
        self.arrived(browser, &page).await
    }

    /// Signs out with the button of the gateway's page. Returns the first page after all redirects.
    async fn sign_out(&self, browser: &Browser) -> Page {
        let question = browser.open(&url("/oauth2/sign_out")).await;
        let answer = browser.submit(&question, &question.login_form(), &[]).await;
        assert_eq!(browser.cookie(ORIGIN, SESSION), None);
        browser.visit(&url(&answer.refresh_target())).await
    }

    /// Fails unless the next page load of the browser ends at a login form.
    async fn asks_for_password(&self, browser: &Browser) {
        let page = browser.visit(&url("/start?from=here")).await;
        let asks = page.login_form().password_field().is_some();
        assert!(asks, "no password was asked: {}", page.describe());
    }

    /// Fails unless the login of a new browser ends at a page of the gateway with `reason`.
    async fn refuses(&self, person: Person, reason: &str) {
        let browser = self.browser();
        let page = person.sign_in(&browser, &url("/start?from=here")).await;
        assert_refused(&browser, &page, reason);
    }

    /// Checks the page of the app, and returns the fields that reached the app.
    async fn arrived(&self, browser: &Browser, page: &Page) -> ForwardedUser {
        assert_eq!(page.text(), "seen", "{}", page.describe());
        assert_eq!(page.url.as_str(), url("/start?from=here"));
        // Cookies ignore ports. On one host, gateway and server would get each other's cookies.
        for (place, ours) in [(ORIGIN, true), ("http://127.0.0.1/", false)] {
            for cookie in browser.cookies(place) {
                assert_eq!(cookie.name.contains("sidegate"), ours, "{cookie:?}");
            }
        }
        let head = self.app.last().head;
        let field = |name: &str| head.value(name).unwrap_or_default();
        assert_eq!(field("cookie"), "");
        let authorization = field("authorization");
        let token = authorization.strip_prefix("Bearer ").unwrap().to_owned();
        // The program logs at its most detailed level.
        self.gateway
            .wait_for_log(|log| log.contains("Signed in"))
            .await;
        let log = self.gateway.log();
        assert!(!log.contains(&token), "{log}");
        ForwardedUser {
            token,
            user: field("x-forwarded-user"),
            email: field("x-forwarded-email"),
            groups: field("x-forwarded-groups"),
        }
    }
}

/// Fails unless the login ended at a page of the gateway with this reason, and without a session.
#[track_caller]
fn assert_refused(browser: &Browser, page: &Page, reason: &str) {
    let expected = format!("Reason: {reason}<");
    assert!(page.text().contains(&expected), "{}", page.describe());
    assert!(page.status.as_u16() >= 400, "{}", page.describe());
    assert_eq!(browser.cookie(ORIGIN, SESSION), None);
}

/// The fields that the app got about the user.
#[derive(Debug)]
struct ForwardedUser {
    token: String,
    user: String,
    email: String,
    groups: String,
}

impl ForwardedUser {
    /// Returns the user, the email address and the groups. Fails unless a token reached the app.
    #[track_caller]
    fn person(&self) -> [&str; 3] {
        assert!(!self.token.is_empty(), "no token arrived");
        [&self.user, &self.email, &self.groups]
    }
}
