//! A gateway between an OpenID Provider and a recording app.

use std::collections::BTreeMap;

use sidegate::clock::Clock;

use crate::support::browser::{Browser, Page};
use crate::support::gateway::{Gateway, Settings};
use crate::support::provider::{CLIENT, CLIENT_SECRET, Endpoint, StandIn};
use crate::support::scene::{ORIGIN, ROUTES, SESSION, assert_nothing_opened, refusal, url};
use crate::support::upstream::RecordingUpstream;

/// Gateway, provider and app. Gateway and provider use one clock.
pub(crate) struct OpenIdScene {
    pub(crate) gateway: Gateway,
    pub(crate) provider: StandIn,
    pub(crate) app: RecordingUpstream,
}

/// Settings with one OpenID Provider and the routes of every scene. `keys` are keys of the provider
/// with their TOML values. An empty value removes a key.
pub(crate) fn settings(issuer: &str, app: &str, keys: &[(&str, &str)]) -> Settings {
    settings_without_routes(issuer, app, keys).with(ROUTES)
}

/// Settings like [`settings`], without routes.
pub(crate) fn settings_without_routes(issuer: &str, app: &str, keys: &[(&str, &str)]) -> Settings {
    let settings = Settings::new(ORIGIN, issuer, app);
    let secret = settings.file("client_secret", &format!("{CLIENT_SECRET}\n"));
    let mut all: BTreeMap<&str, String> = BTreeMap::from([
        ("profile", "\"oidc\"".to_owned()),
        ("issuer", format!("\"{issuer}\"")),
        ("client_id", format!("\"{CLIENT}\"")),
        ("client_secret_file", format!("\"{secret}\"")),
        (
            "client_authentication",
            "\"client_secret_basic\"".to_owned(),
        ),
        ("scopes", "[\"openid\"]".to_owned()),
        ("identity.source", "\"id_token\"".to_owned()),
        ("identity.userinfo", "true".to_owned()),
        // The clock does not advance during hundreds of logins.
        ("token_calls_per_minute", "1000000".to_owned()),
    ]);
    all.extend(keys.iter().map(|(key, value)| (*key, (*value).to_owned())));
    let mut section = "[providers.main]\n".to_owned();
    for (key, value) in all.iter().filter(|(_, value)| !value.is_empty()) {
        section.extend([key, " = ", value, "\n"]);
    }
    settings.provider(&section)
}

impl OpenIdScene {
    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// A scene with other keys of the provider, in the form of [`settings`].
    pub(crate) async fn with(keys: &[(&str, &str)]) -> Self {
        Self::prepared(keys, |_provider| ()).await
    }

    /// Prepares the provider before the gateway first calls it.
    pub(crate) async fn prepared(keys: &[(&str, &str)], prepare: impl FnOnce(&StandIn)) -> Self {
        let clock = Clock::manual(Clock::system().now());
        let provider = StandIn::at_time_of(&clock).await;
        prepare(&provider);
        Self::between(provider, keys, clock).await
    }

    /// A scene with a provider that already runs or is unreachable.
    pub(crate) async fn between(provider: StandIn, keys: &[(&str, &str)], clock: Clock) -> Self {
        let app = RecordingUpstream::start().await;
        let settings = settings(&provider.url(), &app.url(), keys);
        let gateway = Gateway::with_clock(settings, clock);
        Self {
            gateway,
            provider,
            app,
        }
    }

    /// A scene with these routes.
    pub(crate) async fn with_routes(routes: &str) -> Self {
        let clock = Clock::manual(Clock::system().now());
        let provider = StandIn::at_time_of(&clock).await;
        let app = RecordingUpstream::start().await;
        let settings = settings_without_routes(&provider.url(), &app.url(), &[]).with(routes);
        Self {
            gateway: Gateway::with_clock(settings, clock),
            provider,
            app,
        }
    }

    /// A browser that reaches the gateway at its public URL.
    pub(crate) fn browser(&self) -> Browser {
        Browser::new().leading(ORIGIN, self.gateway.address())
    }

    /// A browser whose user at the provider is `user`.
    pub(crate) fn browser_of(&self, user: &str) -> Browser {
        let browser = self.browser();
        browser.plant(&self.provider.url(), &format!("user={user}; Path=/"));
        browser
    }

    /// A browser in which `user` is signed in.
    pub(crate) async fn signed_in(&self, user: &str) -> Browser {
        let browser = self.browser_of(user);
        self.attempt_by(browser.clone())
            .await
            .assert_signed_in(user)
            .await;
        browser
    }

    /// A login in a new browser, up to the gateway's answer to the callback.
    pub(crate) async fn attempt(&self) -> Attempt {
        self.attempt_by(self.browser()).await
    }

    /// A login in `browser`, up to the gateway's answer to the callback, or up to an earlier
    /// failure.
    pub(crate) async fn attempt_by(&self, browser: Browser) -> Attempt {
        self.attempt_at(browser, "/").await
    }

    /// A login in `browser` that begins at `path`, up to the gateway's answer to the callback.
    pub(crate) async fn attempt_at(&self, browser: Browser, path: &str) -> Attempt {
        let count = |endpoint| (endpoint, self.provider.calls(endpoint));
        let before = BTreeMap::from(Endpoint::ALL.map(count));
        let at_app = self.app.count();
        let start = browser.open(&url(path)).await;
        let page = if start.status.is_redirection() {
            let answer = browser.follow(&start).await;
            if answer.status.is_redirection() {
                browser.follow(&answer).await
            } else {
                // The browser repeats a posted answer in a page load.
                let posted = browser.submit(&answer, &answer.login_form(), &[]).await;
                browser.follow(&posted).await
            }
        } else {
            start
        };
        let now = |(endpoint, before)| (endpoint, self.provider.calls(endpoint) - before);
        let calls = before.into_iter().map(now).collect();
        Attempt {
            page,
            browser,
            calls,
            at_app: self.app.count() - at_app,
        }
    }

    /// The value of a field in the app's last request.
    pub(crate) fn asserted(&self, field: &str) -> Option<String> {
        self.app.last().head.value(field)
    }
}

/// One login and its effects.
pub(crate) struct Attempt {
    /// The gateway's last answer.
    pub(crate) page: Page,
    pub(crate) browser: Browser,
    calls: BTreeMap<Endpoint, usize>,
    at_app: usize,
}

impl Attempt {
    /// The number of calls to an endpoint during the login.
    pub(crate) fn calls(&self, endpoint: Endpoint) -> usize {
        self.calls[&endpoint]
    }

    /// The reason code that the page shows.
    pub(crate) fn reason(&self) -> Option<String> {
        let refusal = refusal(&self.page);
        let (_status, reason) = refusal.split_once(' ')?;
        (!reason.is_empty()).then(|| reason.to_owned())
    }

    /// Fails unless the login ended at the app.
    pub(crate) async fn assert_signed_in(&self, context: &str) {
        let page = &self.page;
        assert_eq!(page.status, 303, "{context}: {}", page.describe());
        let session = self.browser.cookie(ORIGIN, SESSION);
        assert!(session.is_some(), "{context}: {}", page.describe());
        let seen = self.browser.follow(page).await;
        assert_eq!(seen.text(), "seen", "{context}: {}", seen.describe());
    }

    /// Fails unless the login was refused with this status and reason code (or one of several, see
    /// [`assert_nothing_opened`]). The login must not have opened a session, and must not have
    /// caused a call that needs a valid ID token.
    #[track_caller]
    pub(crate) fn assert_refused(&self, expected: &str, context: &str) {
        assert_nothing_opened(&self.browser, &self.page, expected, context);
        assert_eq!(self.at_app, 0, "{context}");
        assert!(self.calls(Endpoint::Token) <= 1, "{context}");
    }

    /// Fails unless the login was refused for the ID token: like [`Attempt::assert_refused`], with
    /// a reason code that ends with this text.
    #[track_caller]
    pub(crate) fn assert_not_believed(&self, context: &str, reason: &str) {
        let shown = self.reason().unwrap_or_default();
        self.assert_refused(&format!("502 {shown}"), context);
        assert_eq!(self.calls(Endpoint::Userinfo), 0, "{context}");
        let fits = shown.starts_with("id_token") && shown.ends_with(reason);
        assert!(fits, "{context}: {shown:?} does not end in {reason:?}");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::support::provider::unbase64url;
    use crate::support::upstream::Answer;

    #[tokio::test]
    async fn the_provider_signs_people_in_and_says_what_it_is_told() {
        let clock = Clock::manual(Clock::system().now());
        let provider = StandIn::at_time_of(&clock).await;
        let issuer = provider.url();
        let at = |path: &str| format!("\"{issuer}{path}\"");
        let (authorize, token, userinfo) = (at("/authorize"), at("/token"), at("/userinfo"));
        let keys = [
            ("profile", "\"oauth2\""),
            ("discovery", ""),
            ("issuer", ""),
            ("identity.source", "\"userinfo\""),
            ("identity.userinfo", ""),
            ("authorization_endpoint", authorize.as_str()),
            ("token_endpoint", &token),
            ("userinfo_endpoint", &userinfo),
        ];
        let scene = OpenIdScene::between(provider, &keys, clock).await;
        scene.signed_in("bob").await;
        let user = scene.asserted("x-forwarded-user");
        assert_eq!(user.as_deref(), Some("bob"));
        assert_eq!(scene.provider.calls(Endpoint::Token), 1);
        scene
            .provider
            .next(Endpoint::Token, Answer::with(503, &[], ""));
        let attempt = scene.attempt().await;
        attempt.assert_refused("503 provider_unavailable", "503");
        assert_eq!(
            (
                attempt.calls(Endpoint::Token),
                attempt.calls(Endpoint::Userinfo)
            ),
            (1, 0)
        );
    }

    #[tokio::test]
    async fn metadata_and_keys_are_published_changed_held_and_taken_away() {
        let clock = Clock::manual(Clock::system().now());
        let mut provider = StandIn::at_time_of(&clock).await;
        let issuer = provider.url();
        let browser = Browser::new();
        let at = |path: &str| format!("{issuer}{path}");
        let metadata = browser.open(&at("/.well-known/openid-configuration")).await;
        assert_eq!(metadata.json()["issuer"], Value::from(issuer.as_str()));
        let jwks_uri = metadata.json()["jwks_uri"].as_str().unwrap().to_owned();
        let before = browser.open(&jwks_uri).await.json();
        provider.jwks(|keys| keys["keys"] = Value::Null);
        assert_eq!(browser.open(&jwks_uri).await.json()["keys"], Value::Null);
        provider.behave();
        provider.rotate_keys();
        assert_ne!(browser.open(&jwks_uri).await.json(), before);
        let hold = provider.hold(Endpoint::Jwks);
        let waiting = tokio::spawn({
            let (browser, jwks_uri) = (browser.clone(), jwks_uri.clone());
            async move { browser.open(&jwks_uri).await }
        });
        provider.wait_for(Endpoint::Jwks, 4).await;
        assert!(!waiting.is_finished());
        hold.release();
        assert_eq!(waiting.await.unwrap().status, 200);
        provider.raw(Endpoint::Jwks, 404, "text/html", "gone");
        assert_eq!(browser.open(&jwks_uri).await.status, 404);
        provider.down().await;
        let address = provider.url().replace("http://", "");
        assert!(tokio::net::TcpStream::connect(&address).await.is_err());
        provider.up().await;
        assert_eq!(browser.open(&jwks_uri).await.text(), "gone");
        assert_eq!(provider.calls(Endpoint::Jwks), 6);
    }

    #[tokio::test]
    async fn an_id_token_differs_only_by_the_requested_change() {
        let clock = Clock::manual(Clock::system().now());
        let provider = StandIn::at_time_of(&clock).await;
        provider.tamper_claims(|claims| claims["aud"] = "other".into());
        provider.sign_with("ES256");
        let browser = Browser::new();
        let verifier = "v".repeat(43);
        let challenge = {
            use aws_lc_rs::digest::{SHA256, digest};
            crate::support::provider::base64url(digest(&SHA256, verifier.as_bytes()))
        };
        let back = "http://localhost:1/back";
        let mut to = url::Url::parse(&format!("{}/authorize", provider.url())).unwrap();
        to.query_pairs_mut().extend_pairs([
            ("redirect_uri", back),
            ("state", "s"),
            ("nonce", "n"),
            ("scope", "openid"),
            ("code_challenge", &challenge),
        ]);
        let answer = browser.open(to.as_str()).await.location().unwrap();
        let answer: BTreeMap<_, _> = answer.query_pairs().into_owned().collect();
        assert_eq!(answer["iss"], provider.url());
        let form = [
            ("grant_type", "authorization_code"),
            ("code", answer["code"].as_str()),
            ("redirect_uri", back),
            ("code_verifier", &verifier),
            ("client_id", CLIENT),
            ("client_secret", CLIENT_SECRET),
        ];
        let endpoint = format!("{}/token", provider.url());
        let post = || crate::support::browser_request::BrowserRequest::fetch(&endpoint).form(&form);
        let response = browser.send(post()).await;
        let id_token = response.json()["id_token"].as_str().unwrap().to_owned();
        let parts: Vec<Vec<u8>> = id_token.split('.').map(unbase64url).collect();
        let header: Value = serde_json::from_slice(&parts[0]).unwrap();
        let claims: Value = serde_json::from_slice(&parts[1]).unwrap();
        assert_eq!(
            (&header["alg"], &header["kid"]),
            (&"ES256".into(), &"p256-0".into())
        );
        assert_eq!(
            (&claims["aud"], &claims["nonce"]),
            (&"other".into(), &"n".into())
        );
        assert_eq!(parts[2].len(), 64);
        // A code can be used only once.
        assert_eq!(browser.send(post()).await.status, 400);
    }
}
