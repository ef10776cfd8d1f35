//! One sign-in with several providers.

use super::{APP, IP, LOGIN, browser, shared};
use crate::support::form::links;
use crate::support::two_providers::TwoProviders;

#[tokio::test]
async fn a_route_with_several_providers_uses_the_session_of_the_login_host() {
    let routes = "[[routes]]\nprovider = [\"main\", \"other\"]\n";
    let two = TwoProviders::start_with(routes, shared).await;
    let browser = browser(&two.gateway);
    let page = browser.visit(&format!("{APP}/page")).await;
    assert_eq!(page.url.origin().ascii_serialization(), LOGIN);
    let links = links(&page.text());
    let labels: Vec<_> = links.iter().map(|link| link.label.as_str()).collect();
    assert_eq!(labels, ["main", "Other & <Sons>"]);
    let page = browser.visit(&format!("{LOGIN}{}", links[1].href)).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(page.url.as_str(), format!("{APP}/page"));
    assert_eq!(two.other.authorizations().len(), 1);
    // The second host asks no question.
    let page = browser.visit(&format!("{IP}/page")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    let asked = two.main.authorizations().len() + two.other.authorizations().len();
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn a_session_that_a_route_does_not_accept_leads_to_a_choice() {
    let routes = "[[routes]]\nprovider = [\"main\", \"other\"]\n\
                  [[routes]]\nprefix = \"/third\"\nprovider = \"third\"\n";
    let two = TwoProviders::start_with(routes, shared).await;
    let browser = browser(&two.gateway);
    let page = browser.visit(&format!("{APP}/third")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    // At this host, the user has a session that the route does not accept.
    let page = browser.open(&format!("{APP}/page")).await;
    assert_eq!(page.status, 401, "{}", page.describe());
    assert_eq!(links(&page.text()).len(), 2);
    // At this host, the user has no session.
    let page = browser.visit(&format!("{IP}/page")).await;
    assert_eq!(page.url.origin().ascii_serialization(), LOGIN);
    assert_eq!(links(&page.text()).len(), 2);
}
