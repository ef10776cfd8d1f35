//! Several providers for one route: users choose a provider.

use fantoccini::Locator;

use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::form::links;
use crate::support::scene::{ORIGIN, SESSION, url};
use crate::support::two_providers::{SEPARATE_ROUTES, TwoProviders};
use crate::support::upstream::Answer;
use crate::support::webdriver::Chromium;
use crate::support::wire::TEST_TIMEOUT;

/// Every route accepts both providers, except `/main`.
const EITHER: &str = "[[routes]]\nprovider = [\"main\", \"other\"]\n\
                      [[routes]]\nprefix = \"/main\"\nprovider = \"main\"\n\
                      [[routes]]\nprefix = \"/both\"\nprovider = [\"other\", \"main\"]\n";

/// Clicks a link, which the page must have exactly once.
async fn click(browser: &Browser, page: &Page, label: &str) -> Page {
    let links = links(&page.text());
    let mut named = links.iter().filter(|link| link.label == label);
    let link = named
        .next()
        .unwrap_or_else(|| panic!("no {label} in {}", page.describe()));
    assert!(named.next().is_none(), "{}", page.describe());
    let to = page.url.join(&link.href).unwrap();
    let clicked = BrowserRequest::navigation(to.as_str()).from(page.url.as_str());
    browser.send(clicked).await
}

fn labels(page: &Page) -> Vec<String> {
    let links = links(&page.text());
    links.into_iter().map(|link| link.label).collect()
}

#[tokio::test]
async fn the_page_says_if_the_sign_in_cannot_return_to_the_page_of_the_user() {
    let two = TwoProviders::start(EITHER).await;
    let long = format!("{ORIGIN}/{}", "a".repeat(8192));
    for (query, referrer, is_lost) in [
        ("", "", false),
        ("?rd=%2Fpage", "", false),
        ("?rd=%2Fa%2F..%2Fb", "", true),
        ("?return_to=http%3A%2F%2Flocalhost%2F%5Ca", "", true),
        ("?rd=%2Foauth2%2Fsign_out", "", false),
        ("?rd=%2F%2Fevil.test%2F", "", false),
        ("?rd=%2F%5Cevil.test%2F..%2F", "", false),
        ("?rd=https%3A%2F%2Fevil.test%2F..%2F", "", false),
        ("?to=forged", "", true),
        ("?to=forged", "http://localhost/page", false),
        ("?to=forged", "http://localhost/oauth2/sign_in", true),
        ("", "http://localhost/oauth2/signed_out", false),
        ("", "http://localhost/a%00b", true),
        ("", "https://evil.test/a%00b", false),
        ("", &long, true),
        ("?rd=%2Fpage", &long, false),
    ] {
        let address = url(&format!("/oauth2/sign_in{query}"));
        let mut request = BrowserRequest::navigation(&address);
        if !referrer.is_empty() {
            request = request.field("referer", referrer);
        }
        let page = two.browser().send(request).await;
        assert_eq!(page.status, 200, "{}", page.describe());
        let says = page.text().contains("could not be kept");
        assert_eq!(says, is_lost, "{query} {referrer}");
    }
}

#[tokio::test]
async fn users_choose_a_provider_and_return_to_their_page() {
    let two = TwoProviders::start(EITHER).await;
    for (label, provider) in [("main", &two.main), ("Other & <Sons>", &two.other)] {
        let browser = two.browser();
        let page = browser.open(&url("/deep/page?x=1")).await;
        assert_eq!(page.status, 401, "{}", page.describe());
        assert!(page.field("www-authenticate").is_some());
        assert_eq!(page.field("cache-control"), Some("no-store"));
        assert!(page.set_cookies().is_empty(), "{}", page.describe());
        assert!(page.text().contains("<h1>Sign in</h1>"), "{}", page.text());
        assert_eq!(labels(&page), ["main", "Other & <Sons>"]);
        let start = click(&browser, &page, label).await;
        let location = start.location().unwrap();
        assert!(location.as_str().starts_with(&provider.url()), "{location}");
        let page = browser.follow_all(start).await;
        assert_eq!(
            (page.text().as_str(), page.url.as_str()),
            ("seen", "http://localhost/deep/page?x=1")
        );
    }
    assert_eq!(two.app.count(), 2);
    assert_eq!(
        labels(&two.browser().open(&url("/both")).await),
        ["Other & <Sons>", "main"]
    );
}

#[tokio::test]
async fn the_page_names_the_provider_of_a_session_that_the_route_does_not_accept() {
    let third = "[[routes]]\nprefix = \"/third\"\nprovider = \"third\"\n";
    let two = TwoProviders::start(&format!("{EITHER}{third}")).await;
    let browser = two.browser();
    assert_eq!(browser.visit(&url("/third/x")).await.text(), "seen");
    let page = browser.open(&url("/page")).await;
    assert_eq!(page.status, 401, "{}", page.describe());
    let said = "You are signed in with third, but this page needs another sign-in.";
    assert!(page.text().contains(said), "{}", page.text());
    let refused = browser.fetch(&url("/api")).await;
    assert_eq!(refused.json()["reason"], "session_of_other_provider");
    // A route with one provider sends users to this provider at once.
    let start = browser.open(&url("/main")).await;
    let location = start.location().unwrap();
    assert!(location.as_str().starts_with(&two.main.url()), "{location}");
    // A route with several providers accepts a session of each of these providers.
    let start = click(&browser, &page, "main").await;
    assert_eq!(browser.follow_all(start).await.text(), "seen");
    for path in ["/page", "/both", "/main"] {
        assert_eq!(browser.open(&url(path)).await.text(), "seen", "{path}");
    }
}

#[tokio::test]
async fn sign_in_without_a_provider_lets_people_choose() {
    let two = TwoProviders::start(SEPARATE_ROUTES).await;
    let browser = two.browser();
    let address = "/oauth2/sign_in?prompt=login&login_hint=alice%40example.com&provider=nobody";
    let linked = BrowserRequest::navigation(&url(address)).from(&url("/linked?from=here"));
    let linked = linked.field("referer", &url("/linked?from=here"));
    let page = browser.send(linked).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    assert_eq!(labels(&page), ["main", "Other & <Sons>"]);
    let start = click(&browser, &page, "main").await;
    let asked: Vec<_> = start
        .location()
        .unwrap()
        .query_pairs()
        .into_owned()
        .collect();
    for (name, value) in [("prompt", "login"), ("login_hint", "alice@example.com")] {
        assert!(
            asked.iter().any(|(n, v)| n == name && v == value),
            "{name}: {asked:?}"
        );
    }
    let page = browser.follow_all(start).await;
    assert_eq!(page.url.as_str(), "http://localhost/linked?from=here");
    // A user who is already signed in at the chosen provider continues at once.
    let page = browser.open(&url("/oauth2/sign_in?provider=main")).await;
    assert_eq!(page.field("location"), Some("http://localhost/"));
}

#[tokio::test]
async fn a_real_browser_shows_the_choice_and_comes_back() {
    let two = TwoProviders::start(EITHER).await;
    two.app.answer_by(|_| {
        let html = [("Content-Type", "text/html")];
        Answer::with(200, &html, "<p id=app>seen")
    });
    let browser = Chromium::leading("localhost:80", two.gateway.address()).await;
    browser.open("http://localhost/deep/page?x=1").await;
    let text = browser.text().await;
    assert!(text.contains("Other & <Sons>"), "{text}");
    browser.picture("choice").await;
    let second = "document.querySelectorAll('a')[1].click()";
    browser.run(second).await;
    // The chooser page has the same URL, so the test recognises the app's page by its content.
    let app = browser.client().wait().at_most(TEST_TIMEOUT);
    let app = app.for_element(Locator::Id("app")).await.unwrap();
    assert_eq!(app.text().await.unwrap(), "seen");
    let url = browser.run("return location.href").await;
    assert_eq!(url, "http://localhost/deep/page?x=1");
}

#[tokio::test]
async fn scripts_get_the_url_of_the_chooser_page() {
    let two = TwoProviders::start(EITHER).await;
    let problem = two.browser().fetch(&url("/api")).await;
    assert_eq!(problem.status, 401, "{}", problem.describe());
    assert_eq!(problem.json()["login_url"], url("/oauth2/sign_in"));
    let problem = two.browser().fetch(&url("/main/api")).await;
    assert_eq!(
        problem.json()["login_url"],
        url("/oauth2/sign_in?provider=main")
    );
}

#[tokio::test]
async fn the_chooser_accepts_only_a_sealed_return_path() {
    let two = TwoProviders::start(EITHER).await;
    for to in ["//evil.test", "/page", "", "L3BhZ2U"] {
        let browser = two.browser();
        let address = format!("/oauth2/sign_in?provider=main&to={to}");
        browser.visit(&url(&address)).await;
        assert!(browser.cookie(ORIGIN, SESSION).is_some());
        assert_eq!(two.app.last().target(), "/", "{to}");
    }
}
