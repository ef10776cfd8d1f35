//! Sign-outs: a sign-out at any host ends the sessions at all hosts.

use std::time::Duration;

use serde_json::json;

use super::{APP, HOSTS, IP, LOGIN, browser, scene, shared, signed_in, status};
use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::provider::parameters;
use crate::support::scene::{SESSION, Scene};
use crate::webhook::{revoke, with_key};

/// Presses the button of the sign-out page of `host`.
pub(crate) async fn press(browser: &Browser, host: &str) -> Page {
    let none: [(&str, &str); 0] = [];
    let visit = BrowserRequest::navigation(&format!("{host}/oauth2/sign_out")).form(&none);
    browser.send(visit.from(host)).await
}

/// Signs out at `host`, and follows the redirects up to the last page.
pub(crate) async fn sign_out(browser: &Browser, host: &str) -> Page {
    let page = press(browser, host).await;
    if page.status.is_redirection() {
        return browser.follow_all(page).await;
    }
    assert_eq!(page.status, 200, "{}", page.describe());
    browser
        .visit(&format!("{host}{}", page.refresh_target()))
        .await
}

#[tokio::test]
async fn a_sign_out_at_one_host_ends_the_session_at_all_hosts() {
    for at in HOSTS {
        let scene = scene().await;
        let browser = signed_in(&scene, APP, "alice").await;
        for host in HOSTS {
            browser.visit(&format!("{host}/")).await;
        }
        let ids = HOSTS.map(|host| (host, browser.cookie(host, SESSION).unwrap()));
        for (host, id) in &ids {
            assert_eq!(status(&scene, host, id).await, 200, "{host}");
        }
        let page = sign_out(&browser, at).await;
        assert_eq!(page.url.as_str(), format!("{at}/oauth2/signed_out"));
        assert!(
            page.text().contains("You are signed out"),
            "{}",
            page.text()
        );
        for (host, id) in &ids {
            assert_eq!(status(&scene, host, id).await, 401, "{host} after {at}");
        }
    }
}

#[tokio::test]
async fn the_webhook_of_an_app_ends_the_session_at_all_hosts() {
    let scene = Scene::with(|settings| with_key(shared(settings))).await;
    let browser = signed_in(&scene, APP, "alice").await;
    for host in HOSTS {
        browser.visit(&format!("{host}/")).await;
    }
    let ids = HOSTS.map(|host| (host, browser.cookie(host, SESSION).unwrap()));
    let page = revoke(&scene, &json!({ "subject": "alice" })).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    for (host, id) in &ids {
        assert_eq!(status(&scene, host, id).await, 401, "{host}");
    }
}

#[tokio::test]
async fn a_sign_out_at_a_host_without_a_session_ends_the_session_of_the_login_host() {
    let scene = scene().await;
    let browser = signed_in(&scene, APP, "alice").await;
    let ids = [LOGIN, APP].map(|host| (host, browser.cookie(host, SESSION).unwrap()));
    let page = sign_out(&browser, IP).await;
    assert_eq!(page.url.as_str(), format!("{IP}/oauth2/signed_out"));
    for (host, id) in &ids {
        assert_eq!(status(&scene, host, id).await, 401, "{host}");
    }
    let left = browser.cookies(IP).into_iter().map(|cookie| cookie.name);
    let left: Vec<_> = left.filter(|name| name.starts_with("__")).collect();
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test]
async fn a_sign_out_ends_the_two_sessions_of_a_browser() {
    let scene = scene().await;
    let browser = signed_in(&scene, APP, "alice").await;
    // The second login does not replace the first session, as if both logins ran at the same time.
    let clear = format!("{SESSION}=; Path=/; Secure; Max-Age=0");
    browser.plant(LOGIN, &clear);
    browser.visit(&format!("{IP}/")).await;
    let ids = [LOGIN, APP, IP].map(|host| (host, browser.cookie(host, SESSION).unwrap()));
    for (host, id) in &ids {
        assert_eq!(status(&scene, host, id).await, 200, "{host}");
    }
    sign_out(&browser, APP).await;
    for (host, id) in &ids {
        assert_eq!(status(&scene, host, id).await, 401, "{host}");
    }
    scene.wait_for_figure("sidegate_sessions", 0).await;
}

#[tokio::test]
async fn a_sign_out_at_another_host_ends_the_session_at_the_provider() {
    let scene = Scene::with(|settings| {
        let end_session = "end_session_endpoint = \"/end_session\"\n";
        shared(settings).of_provider(end_session)
    })
    .await;
    for at in [APP, IP] {
        let browser = signed_in(&scene, APP, "alice").await;
        let page = press(&browser, at).await;
        let mut page = browser
            .open(&format!("{at}{}", page.refresh_target()))
            .await;
        let mut location = page.location().unwrap();
        while location.path() != "/end_session" {
            page = browser.follow(&page).await;
            location = page
                .location()
                .unwrap_or_else(|| panic!("{}", page.describe()));
        }
        // Only the redirect URI of the login host is registered.
        let asked = parameters(location.query().unwrap());
        let return_to = format!("{LOGIN}/oauth2/signed_out");
        assert_eq!(asked["post_logout_redirect_uri"], return_to);
        let back = format!("{return_to}?state={}", asked["state"]);
        let page = browser.visit(&back).await;
        let start = format!("{at}/oauth2/signed_out?state=");
        assert!(page.url.as_str().starts_with(&start), "{}", page.url);
        let text = page.text();
        assert!(text.contains("has ended, too."), "{text}");
    }
}

#[tokio::test]
async fn a_51_a_sign_out_of_an_attacker_does_not_sign_a_victim_out() {
    let scene = scene().await;
    let alice = signed_in(&scene, APP, "alice").await;
    let ids = [LOGIN, APP].map(|host| (host, alice.cookie(host, SESSION).unwrap()));
    let mallory = browser(&scene.gateway);
    let page = press(&mallory, APP).await;
    let page = mallory
        .open(&format!("{APP}{}", page.refresh_target()))
        .await;
    let lure = page.location().unwrap().to_string();
    assert!(lure.starts_with("http://localhost/oauth2/end_session?request="));
    let page = alice.visit(&lure).await;
    assert!(page.text().contains("You are signed in"), "{}", page.text());
    for (host, id) in &ids {
        assert_eq!(status(&scene, host, id).await, 200, "{host}");
    }
    // The victim has the cookie of an own sign-out, but has signed in again.
    press(&alice, APP).await;
    scene.gateway.advance(Duration::from_secs(10));
    let page = alice.visit(&format!("{APP}/")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    let ids = [LOGIN, APP].map(|host| (host, alice.cookie(host, SESSION).unwrap()));
    let answer = alice.open(&lure).await;
    let answer = answer.location().unwrap().to_string();
    let page = alice.visit(&answer).await;
    assert!(page.text().contains("You are signed in"), "{}", page.text());
    alice.visit(&answer.replace(APP, IP)).await;
    for forged in ["?request=x", "?answer=x", "?request=", ""] {
        for host in [LOGIN, IP, APP] {
            alice
                .visit(&format!("{host}/oauth2/end_session{forged}"))
                .await;
        }
    }
    for (host, id) in &ids {
        assert_eq!(status(&scene, host, id).await, 200, "{host}");
    }
}

#[tokio::test]
async fn after_a_reload_that_sets_or_removes_the_login_host_a_user_can_end_the_session() {
    let login_host = format!("[login]\nhost = \"{LOGIN}\"\n");
    let urls = [LOGIN, APP, IP];
    for (before, after) in [("", &*login_host), (&*login_host, "")] {
        for ends in ["sign-out", "login"] {
            let mut scene = Scene::with(|settings| settings.public_urls(&urls).with(before)).await;
            let browser = signed_in(&scene, APP, "alice").await;
            let id = browser.cookie(APP, SESSION).unwrap();
            let text = scene.gateway.settings().text();
            let text = text.replace(&login_host, "");
            scene
                .gateway
                .reload(&format!("{text}\n{after}"))
                .await
                .unwrap();
            assert_eq!(status(&scene, APP, &id).await, 401);
            scene.wait_for_figure("sidegate_sessions", 1).await;
            if ends == "sign-out" {
                sign_out(&browser, APP).await;
                scene.wait_for_figure("sidegate_sessions", 0).await;
            } else {
                // The login host does not know the session.
                browser.plant(LOGIN, &format!("{SESSION}=; Path=/; Secure; Max-Age=0"));
                let page = browser.visit(&format!("{APP}/")).await;
                assert_eq!(page.text(), "seen", "{}", page.describe());
                scene.wait_for_figure("sidegate_sessions", 1).await;
            }
        }
    }
}

#[tokio::test]
async fn a_host_that_redeems_tickets_has_no_callback() {
    let mut scene = Scene::with(|settings| settings.public_urls(&[LOGIN, APP])).await;
    let browser = browser(&scene.gateway);
    let start = browser.open(&format!("{APP}/")).await;
    let callback = browser.follow(&start).await;
    let text = scene.gateway.settings().text();
    let login_host = json!(LOGIN);
    let text = format!("{text}\n[login]\nhost = {login_host}\n");
    scene.gateway.reload(&text).await.unwrap();
    let page = browser.follow(&callback).await;
    assert_eq!(page.status, 404, "{}", page.describe());
    assert_eq!(scene.provider.exchanges().len(), 0);
    let page = browser.visit(&format!("{APP}/")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
}
