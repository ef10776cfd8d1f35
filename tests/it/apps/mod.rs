//! Real apps behind the gateway, with the settings and the plugins of the recipes in
//! `docs/apps.md`. `tests/run` prints the apps that passed.

mod dokuwiki;
mod radicale;
mod trac;
mod verdaccio;
mod webhook_client;

use serde_json::json;

use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::certificates::Authority;
use crate::support::gateway::{Gateway, Settings};
use crate::support::program::record;
use crate::support::provider::StandIn;
use crate::support::scene::{SESSION, TLS_ORIGIN};

const PAGE: &str = include_str!("../../../docs/apps.md");

/// The code blocks of a recipe in one language.
fn recipe(app: &str, language: &str) -> Vec<&'static str> {
    let (_, section) = PAGE.split_once(&format!("\n### {app}\n")).unwrap();
    let section = section.split("\n### ").next().unwrap();
    let fence = format!("```{language}\n");
    let blocks = section.split(&fence).skip(1);
    let blocks: Vec<_> = blocks
        .map(|block| block.split("```").next().unwrap())
        .collect();
    assert!(!blocks.is_empty(), "{app} has no {language}");
    blocks
}

/// The settings of a recipe. Each app that the recipe names has its real address.
fn settings(app: &str, addresses: &[(&str, &str)]) -> String {
    let [text] = recipe(app, "toml")[..] else {
        panic!("{app} has several settings")
    };
    replaced(text, addresses)
}

/// A text of a recipe with the values of the test.
fn replaced(text: &str, values: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (of_recipe, of_test) in values {
        assert!(text.contains(of_recipe), "no {of_recipe} in {text}");
        text = text.replace(of_recipe, of_test);
    }
    text
}

/// A URL of the gateway.
fn url(path: &str) -> String {
    format!("{TLS_ORIGIN}{path}")
}

/// A provider, and a gateway with TLS in front of apps.
struct Front {
    gateway: Gateway,
    provider: StandIn,
    authority: Authority,
}

impl Front {
    /// A gateway with these settings of apps and routes. The user names at the provider are the
    /// subjects, and all users are in the group `staff`.
    async fn start(apps: &str) -> Self {
        let authority = Authority::new();
        let provider = StandIn::start().await;
        provider.userinfo(|claims| {
            claims["preferred_username"] = claims["sub"].clone();
            claims["groups"] = json!(["staff"]);
        });
        let settings = Settings::new(TLS_ORIGIN, &provider.url(), "").apps(apps);
        Self {
            gateway: Gateway::start(settings.tls(&authority)),
            provider,
            authority,
        }
    }

    /// A browser without a session.
    fn browser(&self) -> Browser {
        Browser::trusting(&self.authority).leading(TLS_ORIGIN, self.gateway.address())
    }

    /// A browser whose user has signed in at the gateway, and the page at `path`.
    async fn sign_in(&self, user: &str, path: &str) -> (Browser, Page) {
        let browser = self.browser();
        browser.plant(&self.provider.url(), &format!("user={user}; Path=/"));
        let page = browser.visit(&url(path)).await;
        assert_eq!(page.status, 200, "{}", page.describe());
        (browser, page)
    }

    /// Fails unless `path` needs a login, also with forged fields in several spellings. The field
    /// `name` contains a user.
    async fn assert_needs_a_login(&self, path: &str, name: &str) {
        for request in forged(&BrowserRequest::fetch(&url(path)), name, "alice") {
            let page = self.browser().send(request).await;
            assert_eq!(page.status, 401, "{}", page.describe());
            assert!(page.json()["login_url"].is_string(), "{}", page.describe());
        }
    }
}

/// A browser whose user has no name at the provider, so that the app gets no field with the user.
async fn nameless(front: &Front) -> Browser {
    let members = json!({ "preferred_username": null, "groups": null });
    front.provider.user_members(members);
    let browser = front.browser();
    browser.plant(&front.provider.url(), "user=nameless; Path=/");
    browser.visit(&url("/")).await;
    assert!(browser.cookie(TLS_ORIGIN, SESSION).is_some());
    browser
}

/// The request with the name of a user in a field, in several spellings of the field.
fn forged(request: &BrowserRequest, name: &str, user: &str) -> Vec<BrowserRequest> {
    let spellings = [
        name.to_lowercase(),
        name.to_uppercase(),
        name.replace('-', "_"),
        name.replace('-', "."),
    ];
    let requests = spellings
        .iter()
        .map(|name| request.clone().field(name, user));
    requests.collect()
}

/// Ends the session with the form of the sign-out page. `page` is an answer to the logout of an
/// app, or the page that the logout leads to.
async fn finish_sign_out(browser: &Browser, page: Page) {
    let page = browser.follow_all(page).await;
    assert_eq!(page.url.as_str(), url("/oauth2/sign_out"));
    let page = browser.submit(&page, &page.login_form(), &[]).await;
    let page = browser.follow_all(page).await;
    assert!(
        page.url.as_str().starts_with(&url("/oauth2/signed_out")),
        "{}",
        page.describe()
    );
    let page = browser.fetch(&url("/")).await;
    assert_eq!(page.status, 401, "{}", page.describe());
}

/// Reports to `tests/run` that an app has passed.
fn passed(app: &str, flow: &str) {
    record("apps.txt", &[app, flow]);
}
