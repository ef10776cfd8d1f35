//! Routes with `keep_forms`: a form that arrives after the session has ended is sent after the login
//! and after a confirmation. The tests of this file send the requests of the scripts. The tests in
//! `tab_storage.rs` run the scripts in a real browser.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::fragments::attribute;
use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::form::{decode, forms, links};
use crate::support::gateway::{Process, Settings};
use crate::support::openid::OpenIdScene;
use crate::support::provider::StandIn;
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, SESSION, Scene, refusal, url};
use crate::support::two_providers::TwoProviders;
use crate::support::upstream::{Answer, RecordingUpstream};

/// Routes that keep forms, a route that does not keep forms, and a public route.
pub(crate) const KEEPS: &str = r#"
[[routes]]
keep_forms = true
[[routes]]
prefix = "/admin"
keep_forms = true
access.any_of.groups = ["admins"]
[[routes]]
prefix = "/any"
keep_forms = true
cross_site = "allow"
[[routes]]
prefix = "/leaves"
keep_forms = true
app_sign_out = "/leaves/bye"
[[routes]]
prefix = "/usual"
[[routes]]
prefix = "/public"
access = "public"
"#;

/// The cookie that states to whom a form belongs.
pub(crate) const OWNER: &str = "__Host-sidegate-owner";

/// The page from which the forms of the tests are sent.
pub(crate) const FORM_PAGE: &str = "http://localhost/form?x=1";

pub(crate) async fn scene() -> Scene {
    Scene::with_routes(KEEPS, "").await
}

/// Ends all sessions of a user. The browsers keep their cookies.
pub(crate) async fn end_sessions(scene: &Scene, user: &str) {
    let other = scene.signed_in(user).await;
    let none: [(&str, &str); 0] = [];
    let own = url("/oauth2/sessions");
    let request = BrowserRequest::navigation(&format!("{own}?end=others")).form(&none);
    let page = other.send(request.from(&own)).await;
    assert_eq!(page.status, 303, "{}", page.describe());
}

/// A browser whose session has just ended.
pub(crate) async fn browser_without_session(scene: &Scene, user: &str) -> Browser {
    let browser = scene.signed_in(user).await;
    end_sessions(scene, user).await;
    assert_eq!(browser.fetch(&url("/")).await.status, 401);
    browser
}

/// A form of a page of the app.
pub(crate) fn form(path: &str, fields: &[(&str, &str)]) -> BrowserRequest {
    from_page(BrowserRequest::navigation(&url(path)).form(fields))
}

pub(crate) fn from_page(request: BrowserRequest) -> BrowserRequest {
    request.from(FORM_PAGE).field("referer", FORM_PAGE)
}

/// Sends a form that the gateway keeps. Returns the sealed form, and the page that asks for the
/// sign-in.
pub(crate) async fn keep(browser: &Browser, request: BrowserRequest) -> (String, Page) {
    let page = browser.send(request).await;
    assert_eq!(page.status, 401, "{}", page.describe());
    let sealed = attribute(&page, "form");
    let sealed = sealed.unwrap_or_else(|| panic!("not kept: {}", page.describe()));
    (sealed, page)
}

/// Signs in with the link of the page. Returns the page that restores the form.
pub(crate) async fn until_restore(browser: &Browser, page: &Page) -> Page {
    let next = links(&page.text()).remove(0).href;
    let restore = browser.visit(&url_of(page, &next)).await;
    assert_eq!(restore.status, 200, "{}", restore.describe());
    let name = attribute(page, "name").unwrap();
    assert_eq!(restore.url.path(), format!("/oauth2/form/{name}"));
    assert_eq!(attribute(&restore, "name"), Some(name));
    restore
}

pub(crate) fn url_of(page: &Page, link: &str) -> String {
    page.url.join(link).unwrap().to_string()
}

/// Sends the form that the script of the page `restore` sends.
pub(crate) async fn show(browser: &Browser, restore: &Page, sealed: &str) -> Page {
    let path = attribute(restore, "path").unwrap();
    let request = BrowserRequest::navigation(&url_of(restore, &path)).form(&[("show", sealed)]);
    browser.send(request.from(restore.url.as_str())).await
}

/// Keeps a form, signs in and opens the page that asks for the confirmation.
pub(crate) async fn until_confirmation(browser: &Browser, request: BrowserRequest) -> Page {
    let (sealed, page) = keep(browser, request).await;
    let restore = until_restore(browser, &page).await;
    let confirmation = show(browser, &restore, &sealed).await;
    assert_eq!(confirmation.status, 200, "{}", confirmation.describe());
    confirmation
}

/// Presses the button that sends the form.
pub(crate) async fn confirm(browser: &Browser, confirmation: &Page) -> Page {
    let form = forms(&confirmation.text()).remove(0);
    let referrer = confirmation.url.as_str();
    let request = BrowserRequest::navigation(&form.action).form(&form.filled(&[]));
    let request = request.from(referrer).field("referer", referrer);
    browser.send(request).await
}

/// Presses the button that discards the form.
async fn discard(browser: &Browser, confirmation: &Page) -> Page {
    let text = confirmation.text();
    let (_, rest) = text.split_once(" formaction=\"").unwrap();
    let target = decode(rest.split_once('"').unwrap().0);
    let form = forms(&text).remove(0);
    let request = BrowserRequest::navigation(&url_of(confirmation, &target));
    let request = request.form(&form.filled(&[]));
    browser.send(request.from(confirmation.url.as_str())).await
}

/// A multipart form with a text and a file of this size.
pub(crate) fn multipart(size: usize) -> Vec<u8> {
    let mut body = b"--B\r\nContent-Disposition: form-data; name=\"text\"\r\n\r\ntwo\r\nlines\r\n\
                     --B\r\nContent-Disposition: form-data; name=\"photo\"; filename=\"a.jpg\"\r\n\
                     Content-Type: image/jpeg\r\n\r\n"
        .to_vec();
    body.extend((0..=255).cycle().take(size));
    body.extend(b"\r\n--B--\r\n");
    body
}

pub(crate) const MULTIPART: &str = "multipart/form-data; boundary=B";
pub(crate) const URLENCODED: &str = "application/x-www-form-urlencoded";

#[tokio::test]
async fn a_form_reaches_the_app_after_the_login_and_a_confirmation() {
    let scene = scene().await;
    let target = "/save/it?a=b&c=%22%3E#".trim_end_matches('#');
    for (kind, body, shown) in [
        (
            URLENCODED,
            b"name=Al%C3%A4&password=s3cret&empty=".to_vec(),
            &["name", "3 characters", "password", "6 characters", "Empty"][..],
        ),
        (URLENCODED, Vec::new(), &[]),
        (
            MULTIPART,
            multipart(70_000),
            &["text", "10 characters", "photo", "File a.jpg, 69 KiB"],
        ),
        (
            "text/plain",
            b"name=value\r\n".to_vec(),
            &["cannot be listed. The form has 12 bytes."],
        ),
    ] {
        let browser = browser_without_session(&scene, "alice").await;
        let before = scene.app.count();
        let request = BrowserRequest::navigation(&url(target)).method("POST");
        let request = from_page(request.body(kind, &body));
        let confirmation = until_confirmation(&browser, request).await;
        let text = confirmation.text();
        assert!(text.contains("Send your form?"), "{text}");
        assert!(
            text.contains("just now to http://localhost/save/it?a=b"),
            "{text}"
        );
        for part in shown {
            assert!(text.contains(part), "{kind}: {part}: {text}");
        }
        // The sealed form can contain any characters.
        let sealed = forms(&text).remove(0).fields.remove(0).value;
        let readable = text.replace(&sealed, "");
        for value in ["s3cret", "two", "lines"] {
            assert!(!readable.contains(value), "{kind}: {readable}");
        }
        assert_eq!(scene.app.count(), before, "{kind}");
        let answer = confirm(&browser, &confirmation).await;
        assert_eq!(answer.text(), "seen", "{}", answer.describe());
        assert_eq!(answer.url.as_str(), url(target));
        assert_eq!(scene.app.count(), before + 1, "{kind}");
        let sent = scene.app.last();
        assert_eq!(
            (sent.method(), sent.target()),
            ("POST".to_owned(), target.to_owned())
        );
        assert_eq!(sent.body, body, "{kind}");
        let field = |name: &str| sent.head.value(name);
        assert_eq!(field("content-type").as_deref(), Some(kind));
        assert_eq!(field("content-length"), Some(body.len().to_string()));
        assert_eq!(field("referer").as_deref(), Some(FORM_PAGE));
        assert_eq!(field("origin").as_deref(), Some(ORIGIN));
        assert_eq!(field("x-forwarded-user").as_deref(), Some("alice"));
        assert_eq!(field("cookie"), None);
    }
}

#[tokio::test]
async fn a_form_survives_a_sign_out_in_another_tab() {
    let scene = scene().await;
    let browser = scene.signed_in("alice").await;
    let none: [(&str, &str); 0] = [];
    let sign_out = BrowserRequest::navigation(&url("/oauth2/sign_out")).form(&none);
    browser.send(sign_out.from(&url("/"))).await;
    assert_eq!(browser.cookie(ORIGIN, SESSION), None);
    let confirmation = until_confirmation(&browser, form("/save", &[("a", "b")])).await;
    confirm(&browser, &confirmation).await;
    assert_eq!(scene.app.last().body, b"a=b");
}

#[tokio::test]
async fn a_form_survives_a_restart_and_the_idle_deadline() {
    let provider = StandIn::start().await;
    let app = RecordingUpstream::start().await;
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url());
    let keys = settings.file("keys", &format!("{}\n", STANDARD.encode([7; 32])));
    let settings = settings.with(&format!("[login]\nstate_key_file = \"{keys}\"\n{KEEPS}"));
    let mut gateway = Process::start(settings).await;
    let browser = Browser::new().leading(ORIGIN, gateway.address());
    assert_eq!(browser.visit(&url("/")).await.text(), "seen");
    gateway.signal("TERM").await;
    assert!(gateway.ended().await.success());
    gateway.restart().await;
    let confirmation = until_confirmation(&browser, form("/save", &[("a", "b")])).await;
    confirm(&browser, &confirmation).await;
    assert_eq!(app.last().body, b"a=b");
    drop(gateway);

    let scene = scene().await;
    let browser = scene.signed_in("alice").await;
    scene.gateway.advance(Duration::from_hours(9));
    let confirmation = until_confirmation(&browser, form("/save", &[("a", "b")])).await;
    confirm(&browser, &confirmation).await;
    assert_eq!(scene.app.last().body, b"a=b");
}

#[tokio::test]
async fn a_form_is_kept_again_if_the_session_ends_before_the_confirmation() {
    let scene = scene().await;
    let browser = browser_without_session(&scene, "alice").await;
    let body = multipart(900_000);
    let request = BrowserRequest::navigation(&url("/save")).method("POST");
    let request = from_page(request.body(MULTIPART, &body));
    let first = until_confirmation(&browser, request).await;
    end_sessions(&scene, "alice").await;
    let before = scene.app.count();
    let again = confirm(&browser, &first).await;
    assert_eq!(again.status, 401, "{}", again.describe());
    let sealed = attribute(&again, "form").unwrap();
    let restore = until_restore(&browser, &again).await;
    let second = show(&browser, &restore, &sealed).await;
    assert!(second.text().contains("a.jpg"), "{}", second.describe());
    confirm(&browser, &second).await;
    assert_eq!(scene.app.count(), before + 1);
    assert_eq!(scene.app.last().body, body);
    assert_eq!(
        scene.app.last().head.value("referer").as_deref(),
        Some(FORM_PAGE)
    );
    // Both sealed texts contain one form.
    for page in [&first, &second] {
        let answer = confirm(&browser, page).await;
        assert_eq!(refusal(&answer), "400 form_used", "{}", answer.describe());
    }
    assert_eq!(scene.app.count(), before + 1);
}

#[tokio::test]
async fn a_discarded_form_leads_back_to_its_page_and_cannot_be_sent() {
    let scene = scene().await;
    let browser = browser_without_session(&scene, "alice").await;
    let confirmation = until_confirmation(&browser, form("/save", &[("a", "b")])).await;
    let before = scene.app.count();
    let answer = discard(&browser, &confirmation).await;
    assert_eq!(answer.status, 303, "{}", answer.describe());
    assert_eq!(answer.field("location"), Some(FORM_PAGE));
    for answer in [
        confirm(&browser, &confirmation).await,
        discard(&browser, &confirmation).await,
    ] {
        assert_eq!(refusal(&answer), "400 form_used", "{}", answer.describe());
    }
    assert_eq!(scene.app.count(), before);
}

#[tokio::test]
async fn only_routes_that_keep_forms_set_the_statement_about_the_owner() {
    let scene = Scene::new().await;
    let browser = scene.signed_in("alice").await;
    assert_eq!(browser.cookie(ORIGIN, OWNER), None);
    let scene = self::scene().await;
    let browser = scene.signed_in("alice").await;
    let cookies = browser.cookies(ORIGIN);
    let owner = cookies.iter().find(|cookie| cookie.name == OWNER).unwrap();
    assert!(owner.secure && owner.http_only && owner.path == "/");
    assert!(!owner.value.contains("alice"));
    // An app never gets the statement.
    browser.open(&url("/page")).await;
    assert_eq!(scene.app.last().head.value("cookie"), None);
}

#[tokio::test]
async fn a_user_with_a_form_can_choose_a_provider() {
    let routes = "[[routes]]\nprovider = [\"main\", \"other\"]\nkeep_forms = true\n\
                  [[routes]]\nprefix = \"/one\"\nprovider = \"main\"\n";
    let two = TwoProviders::start(routes).await;
    let browser = two.browser();
    assert_eq!(browser.visit(&url("/one")).await.text(), "seen");
    browser.forget(SESSION);
    let (sealed, page) = keep(&browser, form("/save", &[("a", "b")])).await;
    assert_eq!(attribute(&page, "next"), None);
    let restore = until_restore(&browser, &page).await;
    let confirmation = show(&browser, &restore, &sealed).await;
    assert_eq!(confirm(&browser, &confirmation).await.text(), "seen");
    assert_eq!(two.app.last().body, b"a=b");
}

#[tokio::test]
async fn with_one_sign_in_for_several_hosts_the_host_of_the_form_keeps_the_form() {
    const APP: &str = "http://app.localhost";
    let settings = format!("[login]\nhost = \"{ORIGIN}\"\n{KEEPS}");
    let hosts = [ORIGIN, APP];
    let scene = Scene::with_settings(|start| start.public_urls(&hosts).with(&settings)).await;
    let browser = scene.browser().leading(APP, scene.gateway.address());
    let page = browser.visit(&format!("{APP}/")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    browser.forget(SESSION);
    let request = BrowserRequest::navigation(&format!("{APP}/save")).form(&[("a", "b")]);
    let confirmation = until_confirmation(&browser, request.from(&format!("{APP}/"))).await;
    assert_eq!(confirmation.url.origin().ascii_serialization(), APP);
    assert_eq!(confirm(&browser, &confirmation).await.text(), "seen");
    assert_eq!(scene.app.last().body, b"a=b");
}

#[tokio::test]
async fn a_form_is_kept_while_the_provider_is_down() {
    let mut scene = OpenIdScene::with_routes(KEEPS).await;
    let browser = scene.browser();
    assert_eq!(browser.visit(&url("/")).await.text(), "seen");
    browser.forget(SESSION);
    scene.provider.down().await;
    scene.gateway.advance(Duration::from_hours(2));
    let page = browser.send(form("/save", &[("a", "b")])).await;
    assert_eq!(page.status, 503, "{}", page.describe());
    assert!(!page.text().contains("http-equiv"), "{}", page.describe());
    let sealed = attribute(&page, "form").unwrap();
    let retry = url_of(&page, &links(&page.text()).remove(0).href);
    let again = browser.open(&retry).await;
    assert_eq!(again.status, 503, "{}", again.describe());
    scene.provider.up().await;
    scene.gateway.advance(Duration::from_mins(1));
    let restore = browser.visit(&retry).await;
    let confirmation = show(&browser, &restore, &sealed).await;
    assert_eq!(confirm(&browser, &confirmation).await.text(), "seen");
    assert_eq!(scene.app.last().body, b"a=b");
}

#[tokio::test]
async fn a_form_page_without_a_session_asks_for_a_sign_in_and_keeps_the_form() {
    let scene = scene().await;
    let browser = browser_without_session(&scene, "alice").await;
    let (sealed, page) = keep(&browser, form("/save", &[("a", "b")])).await;
    let name = attribute(&page, "name").unwrap();
    let early = browser.open(&url(&format!("/oauth2/form/{name}"))).await;
    assert_eq!(early.status, 401, "{}", early.describe());
    assert!(!early.text().contains("<script"), "{}", early.describe());
    let link = url_of(&early, &links(&early.text()).remove(0).href);
    let restore = browser.visit(&link).await;
    let confirmation = show(&browser, &restore, &sealed).await;
    assert_eq!(confirm(&browser, &confirmation).await.text(), "seen");
    for name in ["", "x", "0000000000000000/", "000000000000000G"] {
        let page = browser.open(&url(&format!("/oauth2/form/{name}"))).await;
        assert_eq!(refusal(&page), "404 no_route", "{name}");
    }
    let address = url("/oauth2/form/0000000000000000");
    let prefetch = BrowserRequest::navigation(&address).field("sec-purpose", "prefetch");
    let page = browser.send(prefetch).await;
    assert_eq!(refusal(&page), "403 prefetch", "{}", page.describe());
}

#[tokio::test]
async fn other_forms_of_the_route_reach_the_app_unchanged() {
    let scene = scene().await;
    let browser = scene.signed_in("alice").await;
    let large = [b"sidegate-fork=".as_slice(), &vec![b'x'; 3 * 1024 * 1024]].concat();
    let own = b"a=b&sidegate-form=0000000000000000.AAAA".as_slice();
    for body in [
        b"".as_slice(),
        b"s",
        b"sidegate-form",
        b"sidegate-for=",
        own,
        &large,
    ] {
        let request = BrowserRequest::navigation(&url("/save")).method("POST");
        let page = browser
            .send(from_page(request.body(URLENCODED, body)))
            .await;
        assert_eq!(page.text(), "seen", "{}", page.describe());
        assert!(scene.app.last().body == body, "{} bytes", body.len());
    }
    // The first bytes arrive one by one, with trailers at the end.
    let session = browser.cookie(ORIGIN, SESSION).unwrap();
    for (body, expected) in [
        ("1\r\ns\r\n1\r\ni\r\n3\r\nx=y\r\n0\r\n\r\n", "six=y"),
        ("3\r\nsid\r\n0\r\n\r\n", "sid"),
        ("0\r\n\r\n", ""),
    ] {
        let request = format!(
            "POST /save HTTP/1.1\r\nHost: localhost\r\nCookie: {SESSION}={session}\r\n\
             Content-Type: {URLENCODED}\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        );
        let outcome = exchange(scene.gateway.address(), request.as_bytes(), 1).await;
        assert_eq!(outcome.responses[0].text(), "seen");
        assert_eq!(scene.app.last().body, expected.as_bytes());
    }
}

#[tokio::test]
async fn the_answer_of_the_app_is_the_answer_to_the_confirmed_form() {
    let scene = scene().await;
    let browser = browser_without_session(&scene, "alice").await;
    let confirmation = until_confirmation(&browser, form("/save", &[("a", "b")])).await;
    scene
        .app
        .next(Answer::with(303, &[("Location", "done")], ""));
    let answer = confirm(&browser, &confirmation).await;
    assert_eq!(answer.status, 303, "{}", answer.describe());
    // The browser resolves the relative address against the URL of the original form.
    assert_eq!(answer.location().unwrap().as_str(), url("/done"));
}
