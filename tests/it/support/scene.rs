//! A gateway between a stand-in provider and a recording app, as most tests need it.

use std::net::SocketAddr;

use tokio::time::timeout;

use super::browser::{Browser, Page};
use super::certificates::Authority;
use super::gateway::{Gateway, Settings};
use super::provider::StandIn;
use super::raw::exchange;
use super::upstream::RecordingUpstream;
use super::wire::PATIENCE;

/// The public URL: its port is the default one, and browsers are told where that leads to.
pub(crate) const ORIGIN: &str = "http://localhost";

/// The name of the session cookie.
pub(crate) const SESSION: &str = "__Host-sidegate";

/// Gateway, provider and app.
pub(crate) struct Scene {
    pub(crate) gateway: Gateway,
    pub(crate) provider: StandIn,
    pub(crate) app: RecordingUpstream,
}

/// The routes of every scene: `/public` is open, `/admin` is for one group, `/team` for one mail
/// domain, everything else for whoever is signed in.
pub(crate) const ROUTES: &str = r#"
[[routes]]
prefix = "/"
[[routes]]
prefix = "/public"
access = "public"
[[routes]]
prefix = "/admin"
access.any_of.groups = ["admins"]
provider = "main"
[[routes]]
prefix = "/team"
access.any_of.email_domains = ["example.com"]
"#;

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with(|settings| settings).await
    }

    /// With these routes, and more keys of the provider.
    pub(crate) async fn with_routes(routes: &str, more: &str) -> Self {
        let provider = StandIn::start().await;
        let app = RecordingUpstream::start().await;
        let settings = Settings::new(ORIGIN, &provider.url(), &app.url());
        let gateway = Gateway::start(settings.of_provider(more).with(routes));
        Self {
            gateway,
            provider,
            app,
        }
    }

    /// With other settings.
    pub(crate) async fn with(change: impl FnOnce(Settings) -> Settings) -> Self {
        let provider = StandIn::start().await;
        let app = RecordingUpstream::start().await;
        let settings = Settings::new(ORIGIN, &provider.url(), &app.url()).with(ROUTES);
        let gateway = Gateway::start(change(settings));
        Self {
            gateway,
            provider,
            app,
        }
    }

    /// With TLS at the gateway, and the authority that vouches for it; the public URL is
    /// `https://localhost`.
    pub(crate) async fn over_tls() -> (Self, Authority) {
        let authority = Authority::new();
        let provider = StandIn::start().await;
        let app = RecordingUpstream::start().await;
        let settings = Settings::new("https://localhost", &provider.url(), &app.url());
        let gateway = Gateway::start(settings.with(ROUTES).tls(&authority));
        (
            Self {
                gateway,
                provider,
                app,
            },
            authority,
        )
    }

    /// A browser that finds the gateway at its public URL.
    pub(crate) fn browser(&self) -> Browser {
        Browser::new().leading(ORIGIN, self.gateway.address())
    }

    /// A browser whose person is `user` at the provider, not yet signed in here.
    pub(crate) fn browser_of(&self, user: &str) -> Browser {
        let browser = self.browser();
        browser.plant(&self.provider.url(), &format!("user={user}; Path=/"));
        browser
    }

    /// A browser that is signed in.
    pub(crate) async fn signed_in(&self, user: &str) -> Browser {
        let browser = self.browser_of(user);
        let page = browser.visit(&url("/")).await;
        assert_eq!(page.text(), "seen", "{}", page.describe());
        browser
    }

    /// Goes to the provider and back, but does not yet deliver the answer: the redirect with code
    /// and state.
    pub(crate) async fn until_callback(&self, browser: &Browser, path: &str) -> Page {
        let start = browser.open(&url(path)).await;
        let callback = browser.follow(&start).await;
        assert!(callback.location().is_some(), "{}", callback.describe());
        callback
    }

    /// A figure of the operations listener, by its name and labels.
    pub(crate) async fn figure(&self, name: &str) -> Option<u64> {
        figure(self.gateway.operations(), name).await
    }

    /// Waits until a figure is this; zero until it was counted.
    pub(crate) async fn wait_for_figure(&self, name: &str, value: u64) {
        wait_for_figure(self.gateway.operations(), name, value).await;
    }

    /// The `Cookie` field of a signed-in person, for raw requests.
    pub(crate) async fn cookie(&self, user: &str) -> String {
        let browser = self.signed_in(user).await;
        format!("{SESSION}={}", browser.cookie(ORIGIN, SESSION).unwrap())
    }
}

/// A figure of an operations listener, by its name and labels.
pub(crate) async fn figure(operations: SocketAddr, name: &str) -> Option<u64> {
    let request =
        format!("GET /metrics HTTP/1.1\r\nHost: {operations}\r\nConnection: close\r\n\r\n");
    let outcome = exchange(operations, request.as_bytes(), 1).await;
    let text = outcome.responses[0].text();
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Waits until a figure of an operations listener is this; zero until it was counted.
pub(crate) async fn wait_for_figure(operations: SocketAddr, name: &str, value: u64) {
    let waiting = async {
        while figure(operations, name).await.unwrap_or_default() != value {
            tokio::task::yield_now().await;
        }
    };
    let came = timeout(PATIENCE, waiting).await;
    assert!(
        came.is_ok(),
        "{name} is {:?}",
        figure(operations, name).await
    );
}

/// An address of the gateway.
pub(crate) fn url(path: &str) -> String {
    format!("{ORIGIN}{path}")
}

/// Fails when a response carries a token, a secret or a code.
pub(crate) fn assert_no_canary(page: &Page) {
    let shown = format!("{:?}", page.fields);
    let location = page.field("location").unwrap_or_default();
    // The code may stand in the provider's own redirect, which is none of ours.
    for text in [
        page.text(),
        shown.replace(location, ""),
        location.to_owned(),
    ] {
        assert!(
            !text.contains(super::provider::CANARY),
            "a secret got out: {}",
            page.describe()
        );
    }
}

/// Fails unless the callback was refused as [`assert_nothing_opened`] says, and nothing reached the
/// app.
#[track_caller]
pub(crate) fn assert_refused(
    scene: &Scene,
    browser: &Browser,
    page: &Page,
    expected: &str,
    context: &str,
) {
    assert_nothing_opened(browser, page, expected, context);
    assert_eq!(scene.app.count(), 0, "{context}");
}

/// The status and the reason code of a page of ours, such as `400 state_used`.
pub(crate) fn refusal(page: &Page) -> String {
    let text = page.text();
    let rest = text.split_once("Reason: ").map_or("", |(_, rest)| rest);
    let end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let reason = rest.split(end).next().unwrap_or_default();
    format!("{} {reason}", page.status.as_u16())
}

/// Fails unless `page` is the refusal that is expected, shows no secret and opened no session.
/// `expected` is a status and a reason code, or several such pairs with `or` between them: a
/// failure of the gateway itself must not count as a refusal.
#[track_caller]
pub(crate) fn assert_nothing_opened(browser: &Browser, page: &Page, expected: &str, context: &str) {
    let refusal = refusal(page);
    assert!(
        expected.split(" or ").any(|pair| pair == refusal),
        "{context}: {refusal}, not {expected}: {}",
        page.describe()
    );
    assert_eq!(
        browser.cookie(ORIGIN, SESSION),
        None,
        "{context}: {}",
        page.describe()
    );
    assert!(page.body.len() <= 8192, "{context}");
    assert_no_canary(page);
}
