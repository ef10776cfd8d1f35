//! Answers that the browser posts to the callback (OAuth 2.0 Form Post Response Mode).

use url::form_urlencoded;

use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::jar::SameSite;
use crate::support::scene::{ORIGIN, SESSION, Scene, assert_refused, changed_at, refusal, url};
use crate::support::upstream::Answer;
use crate::support::webdriver::Chromium;

const FORM: &str = "application/x-www-form-urlencoded";

/// A gateway whose provider answers by `form_post`.
async fn scene() -> Scene {
    let key = "[providers.main.authorization_request]\nresponse_mode = \"form_post\"\n";
    let scene = Scene::with(|settings| settings.with(key)).await;
    scene.provider.post_answers();
    scene
}

/// Follows the login to the provider's page with the form.
async fn until_form(scene: &Scene, browser: &Browser, path: &str) -> Page {
    let start = browser.open(&url(path)).await;
    assert!(start.status.is_redirection(), "{}", start.describe());
    let page = browser.follow(&start).await;
    assert!(page.url.as_str().starts_with(&scene.provider.url()));
    page
}

/// Submits the form, as the page does without an action of the user, and opens the second request
/// of the answer.
async fn submit(browser: &Browser, page: &Page) -> Page {
    let first = browser.submit(page, &page.login_form(), &[]).await;
    assert_eq!(first.status, 303, "{}", first.describe());
    assert_eq!(first.set_cookies(), [""; 0]);
    let second = first.location().unwrap();
    assert!(
        second
            .as_str()
            .starts_with(&url("/oauth2/callback?answer="))
    );
    browser.follow(&first).await
}

async fn sign_in(scene: &Scene, browser: &Browser, path: &str) -> Page {
    let form = until_form(scene, browser, path).await;
    let answer = submit(browser, &form).await;
    assert_eq!(answer.status, 303, "{}", answer.describe());
    browser.follow_all(answer).await
}

#[tokio::test]
async fn a_15_an_answer_that_is_posted_signs_in() {
    let scene = scene().await;
    let browser = scene.browser();
    let form = until_form(&scene, &browser, "/deep/page?x=1").await;
    let pending = browser.cookies(ORIGIN);
    assert_eq!(pending.len(), 1, "{pending:?}");
    assert!(pending[0].same_site == SameSite::Lax && pending[0].secure && pending[0].http_only);
    let first = browser.submit(&form, &form.login_form(), &[]).await;
    // The URL of the second request contains the answer only in encrypted form.
    let second = first.location().unwrap();
    for (_, value) in form.login_form().filled(&[]) {
        assert!(!second.as_str().contains(&value), "{value} in {second}");
    }
    let answer = browser.follow(&first).await;
    assert_eq!(
        (answer.status.as_u16(), answer.field("location")),
        (303, Some("http://localhost/deep/page?x=1"))
    );
    let page = browser.follow(&answer).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    // No cookie is sent across sites.
    let left = browser.cookies(ORIGIN);
    assert!(left.iter().any(|cookie| cookie.name == SESSION));
    let lax = |same_site: SameSite| same_site == SameSite::Lax;
    assert!(left.iter().all(|cookie| lax(cookie.same_site)), "{left:?}");
    // No URL of the gateway contains the code.
    let answered = scene.provider.exchanges();
    assert_eq!(answered.len(), 1);
}

#[tokio::test]
async fn a_15_only_a_form_below_a_size_limit_is_read() {
    let scene = scene().await;
    let browser = scene.browser();
    let form = until_form(&scene, &browser, "/").await;
    let fields = form.login_form();
    let to = fields.action.clone();
    let text = {
        let mut text = form_urlencoded::Serializer::new(String::new());
        text.extend_pairs(fields.filled(&[]));
        text.finish()
    };
    let from = |visit: BrowserRequest| visit.from(form.url.as_str());
    for kind in ["application/json", "text/plain", "multipart/form-data", ""] {
        let visit = from(
            BrowserRequest::navigation(&to)
                .method("POST")
                .body(kind, text.as_bytes()),
        );
        let page = browser.send(visit).await;
        assert_eq!(page.status, 415, "{kind}: {}", page.describe());
    }
    let page = browser
        .send(from(BrowserRequest::navigation(&to).method("POST")))
        .await;
    assert_eq!(page.status, 415, "{}", page.describe());
    let long = format!("{text}&x={}", "y".repeat(32 * 1024));
    let visit = from(
        BrowserRequest::navigation(&to)
            .method("POST")
            .body(FORM, long.as_bytes()),
    );
    assert_eq!(browser.send(visit).await.status, 413);
    let refused = |page: &Page, context: &str| {
        assert_refused(&scene, &browser, page, "400 malformed_response", context);
    };
    // Parameters in the URL of a POST are ignored.
    let visit = BrowserRequest::navigation(&format!("{to}?{text}")).method("POST");
    let page = browser.send(from(visit.body(FORM, b""))).await;
    refused(&page, "an answer in the address of a POST");
    let twice = format!("{text}&code=x");
    let visit = from(
        BrowserRequest::navigation(&to)
            .method("POST")
            .body(FORM, twice.as_bytes()),
    );
    let page = browser.send(visit).await;
    refused(&page, "two codes");
    let long = format!("code={}&state=x", "y".repeat(6000));
    let visit = BrowserRequest::navigation(&to).method("POST");
    let page = browser.send(from(visit.body(FORM, long.as_bytes()))).await;
    refused(&page, "a code that is too long for the second request");
    assert_eq!(scene.provider.exchanges().len(), 0);
    // The pending login is still valid after these requests.
    let kind = "Application/X-WWW-Form-Urlencoded ; charset=UTF-8";
    let visit = from(
        BrowserRequest::navigation(&to)
            .method("POST")
            .body(kind, text.as_bytes()),
    );
    let page = browser.send(visit).await;
    let page = browser.follow_all(page).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
}

#[tokio::test]
async fn a_15_only_an_answer_that_the_gateway_has_encrypted_for_the_endpoint_is_read() {
    let scene = scene().await;
    let browser = scene.browser();
    let form = until_form(&scene, &browser, "/").await;
    let first = browser.submit(&form, &form.login_form(), &[]).await;
    let second = first.location().unwrap();
    let answer = second.query().unwrap().strip_prefix("answer=").unwrap();
    let changed = changed_at(answer, 20);
    for query in [
        String::new(),
        "answer=".to_owned(),
        format!("answer={changed}"),
        format!("answer={}", &answer[..answer.len() - 4]),
        format!("answer={answer}&answer={answer}"),
        "answer=code%3Dx%26state%3Dy".to_owned(),
    ] {
        let page = browser
            .open(&url(&format!("/oauth2/callback?{query}")))
            .await;
        assert_refused(&scene, &browser, &page, "400 malformed_response", &query);
    }
    // In another browser, the answer is as useless as the form itself.
    let stranger = scene.browser();
    let page = stranger.open(second.as_str()).await;
    let expected = "400 state_without_cookie";
    assert_refused(&scene, &stranger, &page, expected, "another browser");
    assert!(scene.provider.exchanges().is_empty());
    let page = browser.follow(&first).await;
    assert_eq!(page.status, 303, "{}", page.describe());
}

#[tokio::test]
async fn a_31_two_tabs_with_posted_answers_have_one_session() {
    let scene = scene().await;
    let browser = scene.browser();
    let first = until_form(&scene, &browser, "/first").await;
    let second = until_form(&scene, &browser, "/second").await;
    let answer = submit(&browser, &second).await;
    assert_eq!(answer.field("location"), Some("http://localhost/second"));
    let session = browser.cookie(ORIGIN, SESSION).unwrap();
    let answer = submit(&browser, &first).await;
    assert_eq!(answer.field("location"), Some("http://localhost/first"));
    assert_eq!(browser.follow(&answer).await.text(), "seen");
    assert_eq!(browser.cookie(ORIGIN, SESSION).unwrap(), session);
    assert_eq!(scene.provider.exchanges().len(), 1);
    scene.wait_for_figure("sidegate_sessions", 1).await;
}

#[tokio::test]
async fn a_15_a_38_methods_but_get_and_post_do_not_use_up_the_code() {
    let scene = scene().await;
    let browser = scene.browser();
    let form = until_form(&scene, &browser, "/").await;
    let to = form.login_form().action;
    for method in ["HEAD", "PUT", "DELETE", "OPTIONS"] {
        let page = browser
            .send(BrowserRequest::navigation(&to).method(method))
            .await;
        assert_eq!(page.status, 405, "{method}");
        assert_eq!(page.field("allow"), Some("GET, POST"), "{method}");
    }
    let prefetch = BrowserRequest::navigation(&to).field("sec-purpose", "prefetch");
    assert_eq!(browser.send(prefetch).await.status, 403);
    assert_eq!(scene.provider.exchanges().len(), 0);
    assert_eq!(submit(&browser, &form).await.status, 303);
}

#[tokio::test]
async fn a_01_a_02_a_posted_answer_belongs_to_the_browser_that_began_the_login() {
    let scene = scene().await;
    let attacker = scene.browser_of("mallory");
    let form = until_form(&scene, &attacker, "/").await;
    let stranger = scene.browser();
    let page = submit(&stranger, &form).await;
    assert_refused(
        &scene,
        &stranger,
        &page,
        "400 state_without_cookie",
        "no login of its own",
    );
    let victim = scene.browser();
    until_form(&scene, &victim, "/").await;
    let page = submit(&victim, &form).await;
    assert_refused(
        &scene,
        &victim,
        &page,
        "400 state_without_cookie",
        "a login of its own",
    );
    // The cookie of a pending login is valid only for the answer to this login.
    let tabs = scene.browser();
    let first = until_form(&scene, &tabs, "/first").await;
    let pending = tabs.cookies(ORIGIN)[0].name.clone();
    let second = until_form(&scene, &tabs, "/second").await;
    tabs.forget(&pending);
    let page = submit(&tabs, &first).await;
    assert_refused(
        &scene,
        &tabs,
        &page,
        "400 state_without_cookie",
        "another tab's login",
    );
    assert_eq!(scene.provider.exchanges().len(), 0);
    let answer = submit(&tabs, &second).await;
    assert_eq!(answer.field("location"), Some("http://localhost/second"));
    assert_eq!(scene.provider.exchanges().len(), 1);
}

#[tokio::test]
async fn a_04_a_posted_answer_is_redeemed_once() {
    let scene = scene().await;
    let browser = scene.browser();
    let form = until_form(&scene, &browser, "/page").await;
    assert_eq!(submit(&browser, &form).await.status, 303);
    let again = submit(&browser, &form).await;
    assert_eq!(again.field("location"), Some("http://localhost/page"));
    assert_eq!(scene.provider.exchanges().len(), 1);
    assert_eq!(browser.follow(&again).await.text(), "seen");
}

#[tokio::test]
async fn a_16_an_error_may_still_arrive_by_redirect() {
    let scene = scene().await;
    let browser = scene.browser();
    until_form(&scene, &browser, "/").await;
    let page = browser
        .open(&url("/oauth2/callback?error=access_denied"))
        .await;
    assert_refused(
        &scene,
        &browser,
        &page,
        "403 access_denied",
        "an error in the address",
    );
}

#[tokio::test]
async fn a_32_a_posted_login_as_somebody_else_ends_the_previous_session() {
    let scene = scene().await;
    let browser = scene.browser_of("alice");
    assert_eq!(sign_in(&scene, &browser, "/").await.text(), "seen");
    let before = browser.cookie(ORIGIN, SESSION).unwrap();
    browser.plant(&scene.provider.url(), "user=bob; Path=/");
    let page = sign_in(&scene, &browser, "/oauth2/sign_in?prompt=login").await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    let user = scene.app.last().head.value("x-forwarded-user");
    assert_eq!(user.as_deref(), Some("bob"));
    assert_ne!(browser.cookie(ORIGIN, SESSION).unwrap(), before);
    let old = scene.browser();
    old.plant(ORIGIN, &format!("{SESSION}={before}; Path=/; Secure"));
    assert_eq!(old.fetch(&url("/")).await.status, 401);
}

#[tokio::test]
async fn a_34_posted_logins_without_effect_stop_with_a_page_after_three_rounds() {
    let scene = scene().await;
    let browser = scene.browser();
    for round in 0..3 {
        let form = until_form(&scene, &browser, "/").await;
        assert_eq!(submit(&browser, &form).await.status, 303, "{round}");
        // The browser loses the session cookie after each login.
        browser.forget(SESSION);
    }
    let page = browser.open(&url("/")).await;
    assert_eq!(refusal(&page), "400 login_loop", "{}", page.describe());
    assert_eq!(scene.provider.exchanges().len(), 3);
}

#[tokio::test]
async fn a_15_a_32_a_real_browser_posts_answers_across_two_sites() {
    let scene = scene().await;
    scene.app.answer_by(|request| {
        let user = request.head.value("x-forwarded-user").unwrap_or_default();
        let html = [("Content-Type", "text/html")];
        Answer::with(200, &html, &format!("<p>{user} sees {}", request.target()))
    });
    let browser = Chromium::leading("localhost:80", scene.gateway.address()).await;
    // The provider is at 127.0.0.1, so the provider is another site than the gateway.
    browser.open("http://localhost/deep/page?x=1").await;
    let text = browser
        .wait_for(|url| url.contains("localhost/deep/"))
        .await;
    assert_eq!(text, "alice sees /deep/page?x=1");
    let session = || async {
        let cookies = browser.client().get_all_cookies().await.unwrap();
        let found = cookies.into_iter().find(|cookie| cookie.name() == SESSION);
        found.expect("no session").value().to_owned()
    };
    let before = session().await;
    // A browser sends no session cookie with a form from another site. The second request of the
    // answer has the session cookie, so the new login ends the previous session.
    browser
        .open("http://localhost/oauth2/sign_in?prompt=login")
        .await;
    browser.wait_for(|url| url == "http://localhost/").await;
    assert_ne!(session().await, before);
    assert_eq!(scene.provider.exchanges().len(), 2);
    let old = scene.browser();
    old.plant(ORIGIN, &format!("{SESSION}={before}; Path=/; Secure"));
    assert_eq!(old.fetch(&url("/")).await.status, 401);
}

#[tokio::test]
async fn a_15_a_code_in_the_query_is_refused_when_form_post_was_requested() {
    let scene = scene().await;
    let browser = scene.browser();
    let form = until_form(&scene, &browser, "/page").await.login_form();
    let mut query = form_urlencoded::Serializer::new(String::new());
    let answer = query.extend_pairs(form.filled(&[])).finish();
    let page = browser.open(&format!("{}?{answer}", form.action)).await;
    assert_refused(
        &scene,
        &browser,
        &page,
        "400 malformed_response",
        "in an address",
    );
    assert!(scene.provider.exchanges().is_empty());
}

#[tokio::test]
async fn an_image_on_another_page_begins_no_login() {
    let scene = scene().await;
    let browser = scene.browser();
    let image = BrowserRequest::image(&url("/oauth2/sign_in")).from("https://evil.test/");
    let page = browser.send(image).await;
    assert_eq!(page.status, 403, "{}", page.describe());
    assert!(browser.cookies(ORIGIN).is_empty());
}
