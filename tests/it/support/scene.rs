//! A gateway with a stand-in provider and a recording app, for most tests.

use std::net::SocketAddr;

use tokio::time::timeout;

use super::browser::{Browser, Page};
use super::certificates::Authority;
use super::gateway::{Gateway, Settings};
use super::provider::StandIn;
use super::raw::exchange;
use super::upstream::RecordingUpstream;
use super::wire::TEST_TIMEOUT;

/// The public URL. The public URL has the default port, and the browsers know the real address of
/// the gateway.
pub(crate) const ORIGIN: &str = "http://localhost";

/// The public URL of a gateway with TLS.
pub(crate) const TLS_ORIGIN: &str = "https://localhost";

/// The name of the session cookie.
pub(crate) const SESSION: &str = "__Host-sidegate";

/// Gateway, provider and app.
pub(crate) struct Scene {
    pub(crate) gateway: Gateway,
    pub(crate) provider: StandIn,
    pub(crate) app: RecordingUpstream,
}

/// The routes of every scene. `/public` is public, `/admin` is for one group, and `/team` is for
/// one email domain. All other paths are for all signed-in users.
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

    /// A scene without buffers for slow clients, so that bodies are forwarded while they arrive.
    pub(crate) async fn without_buffers() -> Self {
        Self::with(|settings| settings.server("buffer_mib = 0")).await
    }

    /// A scene with these routes, and additional keys of the provider.
    pub(crate) async fn with_routes(routes: &str, more: &str) -> Self {
        Self::with_settings(|settings| settings.of_provider(more).with(routes)).await
    }

    /// A scene whose settings have no routes before `change`.
    pub(crate) async fn with_settings(change: impl FnOnce(Settings) -> Settings) -> Self {
        let provider = StandIn::start().await;
        let app = RecordingUpstream::start().await;
        let gateway = Gateway::start(change(Settings::new(ORIGIN, &provider.url(), &app.url())));
        Self {
            gateway,
            provider,
            app,
        }
    }

    /// With other settings.
    pub(crate) async fn with(change: impl FnOnce(Settings) -> Settings) -> Self {
        Self::with_settings(|settings| change(settings.with(ROUTES))).await
    }

    /// A scene with TLS at the gateway. Also returns the authority that issued the gateway's
    /// certificate. The public URL is `https://localhost`.
    pub(crate) async fn over_tls() -> (Self, Authority) {
        Self::over_tls_with(ROUTES).await
    }

    /// A scene like [`Scene::over_tls`], with these routes.
    pub(crate) async fn over_tls_with(routes: &str) -> (Self, Authority) {
        Self::over_tls_by(|settings| settings.with(routes)).await
    }

    /// A scene like [`Scene::over_tls`], with other settings.
    pub(crate) async fn over_tls_by(
        change: impl FnOnce(Settings) -> Settings,
    ) -> (Self, Authority) {
        let authority = Authority::new();
        let provider = StandIn::start().await;
        let app = RecordingUpstream::start().await;
        let settings = Settings::new(TLS_ORIGIN, &provider.url(), &app.url());
        let gateway = Gateway::start(change(settings).tls(&authority));
        (
            Self {
                gateway,
                provider,
                app,
            },
            authority,
        )
    }

    /// A browser that reaches the gateway at its public URL.
    pub(crate) fn browser(&self) -> Browser {
        Browser::new().leading(ORIGIN, self.gateway.address())
    }

    /// A browser whose user at the provider is `user`. The user is not yet signed in at the
    /// gateway.
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

    /// A browser that is signed in over TLS, and the `Cookie` field of its requests.
    pub(crate) async fn signed_in_over_tls(
        &self,
        tls: &Authority,
        user: &str,
    ) -> (Browser, String) {
        let browser = Browser::trusting(tls).leading(TLS_ORIGIN, self.gateway.address());
        browser.plant(&self.provider.url(), &format!("user={user}; Path=/"));
        let page = browser.visit(&format!("{TLS_ORIGIN}/")).await;
        assert_eq!(page.text(), "seen", "{}", page.describe());
        let cookie = browser.cookie(TLS_ORIGIN, SESSION).unwrap();
        (browser, format!("{SESSION}={cookie}"))
    }

    /// Follows a login to the provider's redirect with code and state, without opening the
    /// callback.
    pub(crate) async fn until_callback(&self, browser: &Browser, path: &str) -> Page {
        let start = browser.open(&url(path)).await;
        let callback = browser.follow(&start).await;
        assert!(callback.location().is_some(), "{}", callback.describe());
        callback
    }

    /// The value of a metric, by its name and labels.
    pub(crate) async fn figure(&self, name: &str) -> Option<u64> {
        figure(self.gateway.operations(), name).await
    }

    /// Waits until a metric has this value. A metric that is not reported yet counts as zero.
    pub(crate) async fn wait_for_figure(&self, name: &str, value: u64) {
        wait_for_figure(self.gateway.operations(), name, value).await;
    }

    /// The `Cookie` field of a signed-in user, for raw requests.
    pub(crate) async fn cookie(&self, user: &str) -> String {
        let browser = self.signed_in(user).await;
        format!("{SESSION}={}", browser.cookie(ORIGIN, SESSION).unwrap())
    }
}

/// The value of a metric at an operations listener, by its name and labels.
pub(crate) async fn figure(operations: SocketAddr, name: &str) -> Option<u64> {
    let request =
        format!("GET /metrics HTTP/1.1\r\nHost: {operations}\r\nConnection: close\r\n\r\n");
    let outcome = exchange(operations, request.as_bytes(), 1).await;
    let text = outcome.responses[0].text();
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Waits until a metric at an operations listener has this value. A metric that is not reported yet
/// counts as zero.
pub(crate) async fn wait_for_figure(operations: SocketAddr, name: &str, value: u64) {
    let waiting = async {
        while figure(operations, name).await.unwrap_or_default() != value {
            tokio::task::yield_now().await;
        }
    };
    let came = timeout(TEST_TIMEOUT, waiting).await;
    assert!(
        came.is_ok(),
        "{name} is {:?}",
        figure(operations, name).await
    );
}

/// A text with another character at the byte `at`.
pub(crate) fn changed_at(text: &str, at: usize) -> String {
    let other = if &text[at..=at] == "A" { "B" } else { "A" };
    [&text[..at], other, &text[at + 1..]].concat()
}

/// A URL of the gateway.
pub(crate) fn url(path: &str) -> String {
    format!("{ORIGIN}{path}")
}

/// Fails if a response contains a token, a secret or a code.
pub(crate) fn assert_no_canary(page: &Page) {
    let shown = format!("{:?}", page.fields);
    let location = page.field("location").unwrap_or_default();
    // The code may appear in the provider's own redirect.
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

/// Fails unless the callback was refused as in [`assert_nothing_opened`], and nothing reached the
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

/// The status and the reason code of a page of the gateway, such as `400 state_used`.
pub(crate) fn refusal(page: &Page) -> String {
    let text = page.text();
    let rest = text.split_once("Reason: ").map_or("", |(_, rest)| rest);
    let end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let reason = rest.split(end).next().unwrap_or_default();
    format!("{} {reason}", page.status.as_u16())
}

/// Fails unless `page` is the expected refusal, shows no secret and opened no session. `expected`
/// is a status and a reason code, or several such pairs separated by `or`. The reason matters: an
/// internal error of the gateway must not pass as a refusal.
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
