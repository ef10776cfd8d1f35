//! Attacks with tickets and ticket requests.

use std::time::Duration;

use super::sign_out::sign_out;
use serde_json::json;

use super::{APP, IP, LOGIN, WILD, browser, restarted, scene, shared, signed_in, status};
use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::form::links;
use crate::support::scene::{SESSION, Scene, assert_no_canary, refusal};

/// Follows redirects until a redirect leads to the ticket endpoint of `host`. Returns the URL with
/// the ticket.
async fn ticket_url(browser: &Browser, host: &str, path: &str) -> String {
    let mut page = browser.open(&format!("{host}{path}")).await;
    for _ in 0..10 {
        let location = page
            .location()
            .unwrap_or_else(|| panic!("{}", page.describe()));
        if location.path() == "/oauth2/ticket" {
            return location.to_string();
        }
        page = browser.follow(&page).await;
    }
    panic!("no ticket: {}", page.describe())
}

/// Fails unless the page refuses a ticket and the browser has no session at `host`.
#[track_caller]
fn assert_refused(browser: &Browser, page: &Page, host: &str, expected: &str) {
    assert_eq!(refusal(page), expected, "{}", page.describe());
    assert_eq!(browser.cookie(host, SESSION), None, "{}", page.describe());
    assert_no_canary(page);
}

#[tokio::test]
async fn a_41_a_ticket_of_an_attacker_signs_no_victim_in() {
    let scene = scene().await;
    let mallory = signed_in(&scene, LOGIN, "mallory").await;
    let lure = ticket_url(&mallory, APP, "/").await;
    let victim = browser(&scene.gateway);
    let page = victim.open(&lure).await;
    assert_refused(&victim, &page, APP, "400 ticket_without_cookie");
    // A login of the victim that is in progress does not help the attacker.
    victim.open(&format!("{APP}/")).await;
    let page = victim.open(&lure).await;
    assert_refused(&victim, &page, APP, "400 ticket_used");
    // A signed-in victim keeps the own session.
    let alice = signed_in(&scene, APP, "alice").await;
    let page = alice.visit(&lure).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    let user = scene.app.last().head.value("x-forwarded-user");
    assert_eq!(user.as_deref(), Some("alice"));
    // The attacker's own tab cannot use the ticket any more.
    let page = mallory.visit(&lure).await;
    assert_refused(&mallory, &page, APP, "400 ticket_used");
}

#[tokio::test]
async fn a_41_a_ticket_for_the_tab_of_an_attacker_is_refused_in_the_browser_of_the_victim() {
    let scene = scene().await;
    let mallory = browser(&scene.gateway);
    let start = mallory.open(&format!("{APP}/")).await;
    let lure = start.location().unwrap().to_string();
    // The login host answers the attacker's ticket request in the victim's browser.
    let alice = signed_in(&scene, LOGIN, "alice").await;
    let page = alice.visit(&lure).await;
    assert_refused(&alice, &page, APP, "400 ticket_without_cookie");
    // The ticket for the victim's session is useless in the attacker's tab.
    let page = mallory.open(page.url.as_str()).await;
    assert_refused(&mallory, &page, APP, "400 ticket_used");
}

#[tokio::test]
async fn an_older_ticket_does_not_end_a_newer_session() {
    let scene = scene().await;
    let browser = signed_in(&scene, LOGIN, "alice").await;
    let older = ticket_url(&browser, APP, "/page").await;
    browser.plant(LOGIN, &format!("{SESSION}=; Path=/; Secure; Max-Age=0"));
    scene.gateway.advance(Duration::from_secs(2));
    browser.visit(&format!("{APP}/")).await;
    let newer = browser.cookie(APP, SESSION).unwrap();
    let page = browser.open(&older).await;
    assert_eq!(page.field("location"), Some("http://app.localhost/page"));
    assert_eq!(browser.cookie(APP, SESSION), Some(newer.clone()));
    assert_eq!(status(&scene, APP, &newer).await, 200);
    assert_eq!(scene.provider.exchanges().len(), 2);
    // The ticket is used up.
    let thief = super::browser(&scene.gateway);
    let page = thief.open(&older).await;
    assert_refused(&thief, &page, APP, "400 ticket_used");
}

#[tokio::test]
async fn a_newer_ticket_replaces_the_session_of_its_host() {
    let scene = scene().await;
    let browser = signed_in(&scene, APP, "alice").await;
    let before = browser.cookie(APP, SESSION).unwrap();
    browser.plant(LOGIN, &format!("{SESSION}=; Path=/; Secure; Max-Age=0"));
    scene.gateway.advance(Duration::from_secs(2));
    // The login replaces the session of the host, although the login host does not know it.
    let ticket = ticket_url(&browser, APP, "/oauth2/sign_in?prompt=login").await;
    assert_eq!(status(&scene, APP, &before).await, 401);
    let page = browser.visit(&ticket).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    scene.wait_for_figure("sidegate_sessions", 1).await;
}

#[tokio::test]
async fn a_signed_in_user_sees_why_a_ticket_is_refused() {
    let scene = scene().await;
    let browser = signed_in(&scene, APP, "alice").await;
    for query in ["", "?ticket=x"] {
        let page = browser.open(&format!("{APP}/oauth2/ticket{query}")).await;
        let reason = if query.is_empty() {
            "missing"
        } else {
            "foreign"
        };
        assert_eq!(refusal(&page), format!("400 ticket_{reason}"));
    }
}

#[tokio::test]
async fn a_42_a_changed_ticket_or_a_ticket_at_another_host_is_refused() {
    let scene = scene().await;
    let browser = signed_in(&scene, LOGIN, "alice").await;
    let ticket = ticket_url(&browser, APP, "/").await;
    let cookies = browser.cookies(APP).into_iter();
    let mut tabs = cookies.filter(|cookie| cookie.name.len() > SESSION.len() + 8);
    let tab = tabs.next().unwrap();
    let planted = format!("{}={}; Path=/; Secure", tab.name, tab.value);
    for host in [IP, WILD] {
        browser.plant(host, &planted);
        let page = browser.open(&ticket.replace(APP, host)).await;
        assert_refused(&browser, &page, host, "400 ticket_foreign");
    }
    let page = browser.open(&ticket.replace(APP, LOGIN)).await;
    assert_eq!(page.status, 404, "{}", page.describe());
    for (changed, reason) in [
        (ticket.replace("ticket=", "ticket=A"), "400 ticket_foreign"),
        (ticket[..ticket.len() - 1].to_owned(), "400 ticket_foreign"),
        (format!("{ticket}&ticket=x"), "400 ticket_missing"),
        (format!("{APP}/oauth2/ticket"), "400 ticket_missing"),
    ] {
        let page = browser.open(&changed).await;
        assert_refused(&browser, &page, APP, reason);
    }
    let page = browser.visit(&ticket).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
}

#[tokio::test]
async fn a_43_a_ticket_is_good_for_one_use() {
    let scene = scene().await;
    let browser = signed_in(&scene, LOGIN, "alice").await;
    let ticket = ticket_url(&browser, APP, "/page").await;
    let cookies = browser.cookies(APP).into_iter();
    let mut tabs = cookies.filter(|cookie| cookie.name.len() > SESSION.len() + 8);
    let tab = tabs.next().unwrap();
    let first = browser.open(&ticket).await;
    assert_eq!(first.field("location"), Some("http://app.localhost/page"));
    // A reload of the URL leads to the page.
    let again = browser.open(&ticket).await;
    assert_eq!(again.field("location"), Some("http://app.localhost/page"));
    // The redirect counts as a round, so that it cannot be part of an endless loop.
    let rounds = again.set_cookies().into_iter();
    let mut rounds = rounds.filter(|text| text.starts_with("__Host-sidegate-round="));
    assert!(
        rounds
            .next()
            .unwrap()
            .starts_with("__Host-sidegate-round=2;")
    );
    assert!(
        !again
            .set_cookies()
            .iter()
            .any(|text| text.starts_with("__Host-sidegate="))
    );
    // A thief has the URL and the cookie of the tab, but comes too late.
    let thief = super::browser(&scene.gateway);
    thief.plant(APP, &format!("{}={}; Path=/; Secure", tab.name, tab.value));
    let page = thief.open(&ticket).await;
    assert_refused(&thief, &page, APP, "400 ticket_used");
}

#[tokio::test]
async fn a_44_a_ticket_that_is_a_minute_old_is_refused() {
    let scene = scene().await;
    let browser = signed_in(&scene, LOGIN, "alice").await;
    let ticket = ticket_url(&browser, APP, "/page").await;
    scene.gateway.advance(Duration::from_mins(1));
    let page = browser.open(&ticket).await;
    assert_refused(&browser, &page, APP, "400 ticket_expired");
    let hrefs: Vec<_> = links(&page.text())
        .into_iter()
        .map(|link| link.href)
        .collect();
    assert_eq!(hrefs, ["/page"]);
}

#[tokio::test]
async fn a_45_a_ticket_is_refused_after_the_sign_out() {
    let scene = scene().await;
    let browser = signed_in(&scene, LOGIN, "alice").await;
    let ticket = ticket_url(&browser, APP, "/").await;
    sign_out(&browser, LOGIN).await;
    let page = browser.open(&ticket).await;
    assert_refused(&browser, &page, APP, "400 ticket_session_ended");
}

#[tokio::test]
async fn a_45_the_page_names_the_reason_why_the_session_of_a_ticket_cannot_be_used() {
    let scene = scene().await;
    let members = json!({ "expires_in": 30, "refresh_token": null });
    scene.provider.token_members(members);
    let browser = signed_in(&scene, LOGIN, "alice").await;
    let ticket = ticket_url(&browser, APP, "/").await;
    scene.gateway.advance(Duration::from_secs(45));
    let page = browser.open(&ticket).await;
    assert_refused(&browser, &page, APP, "400 ticket_token_expired");
}

#[tokio::test]
async fn a_45_a_ticket_for_a_session_of_another_instance_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, format!("{}=\n", "A".repeat(43))).unwrap();
    let settings = format!("state_key_file = \"{}\"\n", keys.display());
    let before = Scene::with(|start| shared(start).with(&settings)).await;
    let browser = signed_in(&before, LOGIN, "alice").await;
    let ticket = ticket_url(&browser, APP, "/").await;
    // The sessions are in memory, so the next gateway does not know them.
    let after = restarted(before, &settings).await;
    let returned = super::browser(&after.gateway);
    for cookie in browser.cookies(APP) {
        let planted = format!("{}={}; Path=/; Secure", cookie.name, cookie.value);
        returned.plant(APP, &planted);
    }
    let page = returned.open(&ticket).await;
    assert_refused(
        &returned,
        &page,
        APP,
        "400 ticket_session_of_other_instance",
    );
}

#[tokio::test]
async fn a_46_only_the_login_host_answers_ticket_requests_that_the_gateway_has_sealed() {
    let scene = scene().await;
    let browser = signed_in(&scene, LOGIN, "alice").await;
    let start = browser.open(&format!("{APP}/page")).await;
    let request = start.location().unwrap().to_string();
    assert!(
        request.starts_with("http://localhost/oauth2/ticket_request?"),
        "{request}"
    );
    let page = browser.open(&request.replace(LOGIN, APP)).await;
    assert_eq!(page.status, 404, "{}", page.describe());
    for (changed, reason) in [
        (
            request.replace("request=", "request=A"),
            "400 ticket_foreign",
        ),
        (
            format!("{LOGIN}/oauth2/ticket_request"),
            "400 ticket_missing",
        ),
        (
            format!("{LOGIN}/oauth2/ticket_request?request=https://evil.test/"),
            "400 ticket_foreign",
        ),
    ] {
        let page = browser.open(&changed).await;
        assert_eq!(refusal(&page), reason, "{}", page.describe());
        assert_eq!(page.field("location"), None);
    }
    scene.gateway.advance(Duration::from_mins(10));
    let page = browser.open(&request).await;
    assert_eq!(refusal(&page), "400 ticket_expired", "{}", page.describe());
}

#[tokio::test]
async fn a_46_a_host_that_a_reload_has_removed_gets_no_ticket() {
    let mut scene = scene().await;
    let browser = signed_in(&scene, LOGIN, "alice").await;
    let start = browser.open(&format!("{APP}/page")).await;
    let other = super::browser(&scene.gateway);
    let login = other.open(&format!("{APP}/page")).await;
    let login = other.follow(&login).await;
    let callback = other.follow(&login).await;
    let text = scene.gateway.settings().text();
    let text = text.replace("\"http://app.localhost\", ", "");
    scene.gateway.reload(&text).await.unwrap();
    let page = browser.follow(&start).await;
    assert_eq!(refusal(&page), "400 ticket_foreign", "{}", page.describe());
    let page = other.follow(&callback).await;
    assert_eq!(refusal(&page), "400 state_foreign", "{}", page.describe());
}

#[tokio::test]
async fn a_47_other_pages_cannot_embed_or_prefetch_the_ticket_endpoints() {
    let scene = scene().await;
    let browser = signed_in(&scene, LOGIN, "alice").await;
    let start = browser.open(&format!("{APP}/page")).await;
    let request = start.location().unwrap().to_string();
    let ticket = ticket_url(&browser, APP, "/page").await;
    for url in [&request, &ticket] {
        let page = browser.send(BrowserRequest::image(url)).await;
        assert_eq!(page.status, 403, "{}", page.describe());
        let early = BrowserRequest::navigation(url).field("sec-purpose", "prefetch");
        let page = browser.send(early).await;
        assert_eq!(refusal(&page), "403 prefetch", "{}", page.describe());
        let page = browser
            .send(BrowserRequest::navigation(url).method("HEAD"))
            .await;
        assert_eq!(page.status, 405, "{}", page.describe());
    }
    let page = browser.visit(&ticket).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
}
