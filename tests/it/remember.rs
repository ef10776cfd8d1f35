//! How long a browser keeps the session cookie.

use crate::one_sign_in::{HOSTS, IP, LOGIN, shared};
use crate::support::browser::{Browser, Page};
use crate::support::form::links;
use crate::support::scene::{ORIGIN, SESSION, Scene, url};
use crate::support::two_providers::TwoProviders;

const LABEL: &str = "Keep me signed in in this browser";

fn mode(mode: &str) -> String {
    format!("[login]\nremember_me = \"{mode}\"\n")
}

/// The lifetime of the session cookie of `origin` in seconds. `None` means that the browser deletes
/// the cookie when it is closed.
fn lifetime(browser: &Browser, origin: &str) -> Option<i64> {
    let cookies = browser.cookies(origin);
    let session = cookies.into_iter().find(|cookie| cookie.name == SESSION);
    session.expect("a session cookie").max_age
}

/// The target of the link with which the user decides, and whether it is selected.
fn decision(page: &Page) -> (String, bool) {
    let mut found = links(&page.text()).into_iter();
    let link = found.find(|link| link.label.contains(LABEL));
    let link = link.unwrap_or_else(|| panic!("{}", page.text()));
    (link.href, link.label.contains('\u{2611}'))
}

#[tokio::test]
async fn the_settings_decide_whether_a_browser_keeps_the_session() {
    for (remember_me, link, kept) in [
        ("always", "/", true),
        ("never", "/", false),
        ("never", "/oauth2/start?remember=1", false),
        ("ask", "/", false),
        ("ask", "/oauth2/start?rd=%2F", false),
        ("ask", "/oauth2/start?rd=%2F&remember=0", false),
        ("ask", "/oauth2/start?rd=%2F&remember=1", true),
    ] {
        let scene = Scene::with(|settings| settings.with(&mode(remember_me))).await;
        let browser = scene.browser();
        let page = browser.visit(&url(link)).await;
        assert_eq!(page.text(), "seen", "{}", page.describe());
        let expected = kept.then_some(86_400);
        assert_eq!(lifetime(&browser, ORIGIN), expected, "{remember_me} {link}");
    }
}

#[tokio::test]
async fn the_user_decides_where_the_user_chooses_a_provider() {
    let two = TwoProviders::start_with("", |settings| settings.with(&mode("ask"))).await;
    let browser = two.browser();
    let page = browser.open(&url("/page?x=1")).await;
    let (keep, selected) = decision(&page);
    assert!(!selected, "{}", page.text());
    let page = browser.open(&url(&keep)).await;
    let (forget, selected) = decision(&page);
    assert!(selected, "{}", page.text());
    let mut targets = links(&page.text()).into_iter().map(|link| link.href);
    let target = targets.find(|href| href.contains("provider=")).unwrap();
    let last = browser.visit(&url(&target)).await;
    assert_eq!(last.url.as_str(), url("/page?x=1"), "{}", last.describe());
    assert_eq!(lifetime(&browser, ORIGIN), Some(86_400));
    // The user changes the decision.
    let page = two.browser().open(&url(&forget)).await;
    assert!(!decision(&page).1, "{}", page.text());
}

#[tokio::test]
async fn the_decision_applies_to_the_cookie_of_the_login_host() {
    let ask = "remember_me = \"ask\"\n";
    let scene = Scene::with(|settings| shared(settings).with(ask)).await;
    let browser = HOSTS.iter().fold(Browser::new(), |browser, host| {
        browser.leading(host, scene.gateway.address())
    });
    let page = browser
        .visit(&format!("{IP}/oauth2/start?rd=%2F&remember=1"))
        .await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(lifetime(&browser, LOGIN), Some(86_400));
    assert_eq!(lifetime(&browser, IP), None);
}
