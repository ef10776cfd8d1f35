//! An unavailable provider: new logins get a page that retries, and sessions continue.

use std::time::Duration;

use crate::support::browser::Page;
use crate::support::browser_request::BrowserRequest;
use crate::support::form::links;
use crate::support::openid::OpenIdScene;
use crate::support::provider::Endpoint;
use crate::support::scene::{ORIGIN, SESSION, Scene, assert_no_canary, url};
use crate::support::upstream::Answer;
use crate::support::webdriver::Chromium;

/// The delay in seconds and the URL of a page that reloads itself.
fn refresh(page: &Page) -> Option<(u64, String)> {
    let text = page.text();
    let (_, after) = text.split_once("http-equiv=\"refresh\" content=\"")?;
    let (content, _) = after.split_once('"')?;
    let (seconds, address) = content.split_once(";url=")?;
    let address = crate::support::form::decode(address);
    Some((seconds.parse().unwrap(), address))
}

fn out_of_order(retry_after: Option<&str>) -> Answer {
    let fields: Vec<_> = retry_after
        .into_iter()
        .map(|after| ("Retry-After", after))
        .collect();
    Answer::with(503, &fields, "")
}

#[tokio::test]
async fn a_login_that_cannot_be_finished_is_offered_again_without_its_code() {
    let scene = Scene::new().await;
    for (retry_after, header) in [
        (None, "5"),
        (Some("1"), "1"),
        (Some("7"), "7"),
        (Some("3600"), "3600"),
    ] {
        let browser = scene.browser();
        scene.provider.fail_next(out_of_order(retry_after));
        let page = browser.visit(&url("/deep/page?x=1")).await;
        assert_eq!(page.status, 503, "{}", page.describe());
        assert_eq!(page.field("retry-after"), Some(header));
        // This page does not retry by itself, because a hidden tab would sign in again and again.
        assert_eq!(refresh(&page), None);
        let address = links(&page.text()).remove(0).href;
        assert!(
            address.starts_with("/oauth2/sign_in?provider=main&to="),
            "{address}"
        );
        assert_no_canary(&page);
        assert!(browser.cookie(ORIGIN, SESSION).is_none());
        let page = browser.visit(&url(&address)).await;
        assert_eq!(
            (page.text().as_str(), page.url.as_str()),
            ("seen", "http://localhost/deep/page?x=1")
        );
    }
}

#[tokio::test]
async fn a_code_that_the_provider_never_received_can_still_be_used() {
    let mut scene =
        Scene::with(|settings| settings.of_provider("token_calls_per_minute = 1\n")).await;
    scene.signed_in("alice").await;
    let browser = scene.browser_of("bob");
    let callback = scene.until_callback(&browser, "/page").await;
    let callback = callback.location().unwrap();
    // At first, the code waits, because no call is left. The server is then unreachable.
    let page = browser.open(callback.as_str()).await;
    assert_eq!(page.status, 503, "{}", page.describe());
    assert!(page.text().contains("too_many_codes"));
    scene.gateway.advance(Duration::from_mins(1));
    let ready = browser.open(&url("/oauth2/sign_in?to=/other")).await;
    assert_eq!(ready.status, 303, "{}", ready.describe());
    scene.provider.down().await;
    let page = browser.open(callback.as_str()).await;
    assert_eq!(page.status, 503, "{}", page.describe());
    assert!(page.text().contains("provider_unreachable"));
    // The page does not retry by itself.
    assert_eq!(refresh(&page), None);
    scene.provider.up().await;
    scene.gateway.advance(Duration::from_mins(1));
    let page = browser.visit(callback.as_str()).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert!(browser.cookie(ORIGIN, SESSION).is_some());
    // The server may have used up the code.
    let page = browser.open(callback.as_str()).await;
    assert_eq!(page.location().unwrap().path(), "/page");
    assert_eq!(scene.provider.exchanges().len(), 1);
}

#[tokio::test]
async fn a_script_is_told_when_to_retry() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let callback = scene.until_callback(&browser, "/").await;
    scene.provider.fail_next(out_of_order(Some("9")));
    let to = callback.location().unwrap();
    let asking = BrowserRequest::navigation(to.as_str()).field("accept", "application/json");
    let page = browser.send(asking).await;
    assert_eq!(page.field("content-type"), Some("application/problem+json"));
    assert_eq!(
        (page.status.as_u16(), page.field("retry-after")),
        (503, Some("9"))
    );
    assert_eq!(page.json()["reason"], "provider_unavailable");
    assert_eq!(refresh(&page), None);
}

#[tokio::test]
async fn a_16_a_decision_of_the_provider_is_not_retried() {
    let scene = Scene::new().await;
    for error in ["access_denied", "temporarily_unavailable", "server_error"] {
        let page = scene
            .browser()
            .open(&url(&format!("/oauth2/callback?error={error}")))
            .await;
        assert!(page.text().contains(error), "{}", page.describe());
        assert_eq!(refresh(&page), None, "{error}");
    }
    // The page also does not retry after a permanent failure.
    let refused = [("Content-Type", "application/json")];
    let answer = Answer::with(401, &refused, "{\"error\":\"invalid_client\"}");
    scene.provider.fail_next(answer);
    let page = scene.browser().visit(&url("/")).await;
    assert_eq!(page.status, 502, "{}", page.describe());
    assert_eq!((refresh(&page), page.field("retry-after")), (None, None));
    let said = page.text();
    assert!(
        said.contains("refused this gateway") && said.contains("client_refused"),
        "{said}"
    );
}

#[tokio::test]
async fn a_page_about_a_posted_answer_does_not_retry_by_itself_after_a_request_to_the_provider() {
    let key = "[providers.main.authorization_request]\nresponse_mode = \"form_post\"\n";
    let scene = Scene::with(|settings| settings.with(key)).await;
    scene.provider.post_answers();
    scene.provider.fail_next(out_of_order(None));
    let browser = scene.browser();
    let form = browser.visit(&url("/page")).await;
    let page = browser.submit(&form, &form.login_form(), &[]).await;
    let page = browser.follow(&page).await;
    assert_eq!(
        (page.status.as_u16(), page.field("retry-after")),
        (503, Some("5"))
    );
    assert_eq!(refresh(&page), None);
    let start = links(&page.text()).remove(0);
    assert!(start.href.starts_with("/oauth2/sign_in?"), "{start:?}");
}

#[tokio::test]
async fn sessions_continue_while_the_provider_is_down() {
    let scene = Scene::new().await;
    let browser = scene.signed_in("alice").await;
    scene.provider.fail_next(out_of_order(None));
    let page = scene.browser().visit(&url("/")).await;
    assert_eq!(page.status, 503, "{}", page.describe());
    assert_eq!(browser.open(&url("/page")).await.text(), "seen");
}

#[tokio::test]
async fn a_real_browser_is_signed_in_once_the_provider_is_back() {
    let mut scene = OpenIdScene::new().await;
    scene.provider.down().await;
    let browser = Chromium::leading("localhost:80", scene.gateway.address()).await;
    browser.open("http://localhost/page").await;
    let text = browser.text().await;
    assert!(text.contains("This page tries again by itself."), "{text}");
    browser.picture("outage").await;
    scene.provider.up().await;
    scene.gateway.advance(Duration::from_secs(5));
    browser.wait_for_text("seen").await;
    assert_eq!(scene.provider.calls(Endpoint::Token), 1);
}
