//! Sign-in, session and sign-out in a real browser.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::fragments::{KEEPS, attribute, long_path};
use crate::support::scene::Scene;
use crate::support::upstream::Answer;
use crate::support::webdriver::Chromium;

/// Makes the app show the user that the gateway asserts.
fn show_user_in_app(scene: &Scene) {
    scene.app.answer_by(|request| {
        let user = request
            .head
            .value("x-forwarded-user")
            .unwrap_or_else(|| "nobody".to_owned());
        let html = [("Content-Type", "text/html")];
        Answer::with(200, &html, &format!("<p>{user} sees {}", request.target()))
    });
}

pub(crate) async fn chromium(scene: &Scene) -> Chromium {
    Chromium::leading("localhost:80", scene.gateway.address()).await
}

#[tokio::test]
async fn a_person_signs_in_stays_signed_in_and_signs_out() {
    let scene = Scene::new().await;
    show_user_in_app(&scene);
    let browser = chromium(&scene).await;
    browser.open("http://localhost/deep/page?x=1").await;
    assert_eq!(
        browser.wait_for(|url| url.contains("/deep/")).await,
        "alice sees /deep/page?x=1"
    );
    assert_eq!(
        browser.run("return location.href").await,
        "http://localhost/deep/page?x=1"
    );
    // A script of a page can read neither the session cookie nor the authorization code.
    assert_eq!(browser.run("return document.cookie").await, "");
    let text = browser.promise("fetch('/api').then(r => r.text())").await;
    assert_eq!(text, "<p>alice sees /api");
    assert_eq!(scene.provider.exchanges().len(), 1);
    // A user who goes back or reloads the page does not have to sign in a second time.
    browser.open("http://localhost/second").await;
    browser.run("setTimeout(() => history.back())").await;
    browser.wait_for(|url| url.contains("/deep/")).await;
    assert_eq!(scene.provider.exchanges().len(), 1);

    browser.open("http://localhost/oauth2/sign_out").await;
    assert!(browser.text().await.contains("Sign out"));
    browser
        .run("document.querySelector('form button').click()")
        .await;
    let text = browser.wait_for(|url| url.ends_with("signed_out")).await;
    assert!(text.contains("signed out"), "{text}");
    // The test calls `fetch` in a page of the app, because the gateway's own pages may not call
    // `fetch`.
    browser.open("http://localhost/public/after").await;
    let status = browser.promise("fetch('/api').then(r => r.status)").await;
    assert_eq!(status, 401);
}

#[tokio::test]
async fn forty_restored_tabs_all_return_to_their_own_page() {
    let scene = Scene::new().await;
    show_user_in_app(&scene);
    let browser = chromium(&scene).await;
    // All tabs reach the provider's page before the first tab continues.
    scene.provider.ask_first();
    let client = browser.client();
    let mut tabs = Vec::new();
    for number in 0..40 {
        let tab = client.new_window(true).await.unwrap().handle;
        client.switch_to_window(tab.clone()).await.unwrap();
        // The script navigates asynchronously. If the driver navigated itself, the driver would
        // wait for the page.
        let script = format!("setTimeout(() => location.href = 'http://localhost/tab/{number}')");
        browser.run(&script).await;
        tabs.push(tab);
    }
    for tab in &tabs {
        client.switch_to_window(tab.clone()).await.unwrap();
        browser.wait_for(|url| url.contains("/authorize")).await;
    }
    let mut seen = Vec::new();
    for tab in tabs {
        client.switch_to_window(tab).await.unwrap();
        browser.run("document.getElementById('go').click()").await;
        seen.push(browser.wait_for(|url| url.contains("localhost/tab/")).await);
    }
    let expected: Vec<_> = (0..40)
        .map(|number| format!("alice sees /tab/{number}"))
        .collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn r_a_real_browser_is_never_led_to_another_origin() {
    let scene = Scene::new().await;
    show_user_in_app(&scene);
    let browser = chromium(&scene).await;
    for path in [
        "/%5cevil.test",
        "/%09/evil.test",
        "/.//evil.test",
        "/%2f%2fevil.test",
        "//evil.test/x",
        "/a/..//evil.test",
        "/https://evil.test",
        "/x?next=//evil.test",
        "/%252fevil.test",
    ] {
        browser.open(&format!("http://localhost{path}")).await;
        let url = browser.client().current_url().await.unwrap();
        assert_eq!(
            url.origin().ascii_serialization(),
            "http://localhost",
            "{path} led to {url}"
        );
        browser.client().delete_all_cookies().await.unwrap();
    }
}

#[tokio::test]
async fn a_page_of_another_site_can_neither_sign_out_nor_frame_us() {
    let scene = Scene::new().await;
    show_user_in_app(&scene);
    let browser = chromium(&scene).await;
    browser.open("http://localhost/page").await;
    browser.wait_for(|url| url.ends_with("/page")).await;
    let evil = crate::support::upstream::RecordingUpstream::start().await;
    evil.answer_by(|_| {
        let html = [("Content-Type", "text/html")];
        let body = "<form id=f method=post action='http://localhost/oauth2/sign_out'></form>\
                    <iframe id=i src='http://localhost/oauth2/sign_out'></iframe>";
        Answer::with(200, &html, body)
    });
    browser.open(&evil.url()).await;
    browser.run("document.getElementById('f').submit()").await;
    browser
        .wait_for(|url| url.ends_with("/oauth2/sign_out"))
        .await;
    browser.open("http://localhost/still").await;
    assert_eq!(browser.text().await, "alice sees /still");
    assert_eq!(scene.provider.exchanges().len(), 1);
}

#[tokio::test]
async fn a_frame_without_a_session_leads_to_a_sign_in_in_the_whole_tab() {
    let scene = Scene::new().await;
    scene.app.answer_by(|request| {
        let html = [("Content-Type", "text/html")];
        let body = match request.target().as_str() {
            "/public/outer" => "<iframe src='/inner'></iframe>",
            _ => "<p>inside the frame",
        };
        Answer::with(200, &html, body)
    });
    let browser = chromium(&scene).await;
    let shown = "return frames[0].document.body?.innerText ?? ''";
    browser.open("http://localhost/public/outer").await;
    browser
        .wait_for_script("frames[0].document.querySelector('a')")
        .await;
    let text = browser.run(shown).await;
    assert!(
        text.as_str().unwrap().starts_with("Sign in first"),
        "{text}"
    );
    browser
        .run("frames[0].document.querySelector('a').click()")
        .await;
    browser
        .wait_for_script("frames[0]?.document.body?.innerText === 'inside the frame'")
        .await;
    let url = browser.run("return location.href").await;
    assert_eq!(url, "http://localhost/public/outer");
}

#[tokio::test]
async fn a_person_ends_the_session_of_another_browser() {
    let scene = Scene::new().await;
    let other = scene.signed_in("alice").await;
    show_user_in_app(&scene);
    let browser = chromium(&scene).await;
    browser.open("http://localhost/page").await;
    browser.wait_for(|url| url.ends_with("/page")).await;
    browser.open("http://localhost/oauth2/sessions").await;
    let text = browser.text().await;
    assert!(text.contains("Chrome on Linux This browser"), "{text}");
    assert!(text.contains("A browser on Linux"), "{text}");
    for (name, width) in [("sessions", 1200), ("sessions_narrow", 360)] {
        browser.client().set_window_size(width, 900).await.unwrap();
        browser.picture(name).await;
        // Nothing is wider than the window.
        let overflows = "return document.documentElement.scrollWidth > innerWidth";
        assert_eq!(browser.run(overflows).await, false, "{name}");
    }
    browser
        .run("document.querySelector('li:nth-child(2) button').click()")
        .await;
    browser.wait_for_text("knows no other session of").await;
    assert_eq!(other.fetch("http://localhost/").await.status, 401);
}

#[tokio::test]
async fn of_two_browsers_on_the_page_of_sessions_one_ends_the_session_of_the_other() {
    let scene = Scene::new().await;
    show_user_in_app(&scene);
    let (first, second) = (chromium(&scene).await, chromium(&scene).await);
    for browser in [&first, &second] {
        browser.open("http://localhost/page").await;
        browser.wait_for(|url| url.ends_with("/page")).await;
    }
    for browser in [&first, &second] {
        browser.open("http://localhost/oauth2/sessions").await;
        let listed = "return document.querySelectorAll('li').length";
        assert_eq!(browser.run(listed).await, 2);
        let own = "return document.body.innerText.split('This browser').length - 1";
        assert_eq!(browser.run(own).await, 1);
    }
    // From now on, the provider shows a page before each login.
    scene.provider.ask_first();
    first
        .run("document.querySelector('li:nth-child(2) button').click()")
        .await;
    first.wait_for_text("knows no other session of").await;
    second.open("http://localhost/next").await;
    second.wait_for(|url| url.contains("/authorize")).await;
    first.open("http://localhost/still").await;
    assert_eq!(first.text().await, "alice sees /still");
}

#[tokio::test]
async fn a_sign_out_in_one_tab_ends_the_stream_of_another_tab() {
    let scene = Scene::new().await;
    let open = Arc::new(Notify::new());
    scene.app.answer_by(move |request| {
        if request.target() == "/events" {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: first\n\n";
            return Answer::raw(head.as_bytes()).then_await(&open);
        }
        let html = [("Content-Type", "text/html")];
        let script = "<script>const source = new EventSource('/events')</script>";
        Answer::with(200, &html, &format!("<a href=/next>next</a>{script}"))
    });
    let browser = chromium(&scene).await;
    browser.open("http://localhost/page").await;
    browser.wait_for_script("source.readyState === 1").await;
    let client = browser.client();
    let first = client.window().await.unwrap();
    let second = client.new_window(true).await.unwrap().handle;
    client.switch_to_window(second).await.unwrap();
    browser.open("http://localhost/oauth2/sign_out").await;
    browser
        .run("document.querySelector('form button').click()")
        .await;
    browser.wait_for(|url| url.ends_with("signed_out")).await;
    scene.provider.ask_first();
    client.switch_to_window(first).await.unwrap();
    // The browser tries to open the stream again, and gets 401.
    browser.wait_for_script("source.readyState === 2").await;
    browser
        .run("document.querySelector('a[href=\"/next\"]').click()")
        .await;
    browser.wait_for(|url| url.contains("/authorize")).await;
}

#[tokio::test]
async fn a_fragment_and_a_long_address_survive_the_sign_in() {
    let scene = Scene::with_routes(KEEPS, "").await;
    show_user_in_app(&scene);
    let browser = chromium(&scene).await;
    // A form of the provider leads to the next page, so the browser forgets the fragment.
    scene.provider.ask_first();
    for (path, fragment) in [
        ("/page".to_owned(), "#/deep/link?a=b&c=%22%3E#2"),
        (long_path(8100), "#x"),
        (long_path(8192), ""),
        ("/page?x=1".to_owned(), "#//evil.test/<script>"),
    ] {
        browser.open("http://localhost/public/start").await;
        browser.client().delete_all_cookies().await.unwrap();
        let address = format!("http://localhost{path}{fragment}");
        browser.open(&address).await;
        browser.wait_for(|url| url.contains("/authorize")).await;
        browser.run("document.getElementById('go').click()").await;
        browser.wait_for(|url| url.contains("localhost/page")).await;
        let expected = address.replace('<', "%3C").replace('>', "%3E");
        assert_eq!(browser.run("return location.href").await, expected);
        assert_eq!(browser.run("return sessionStorage.length").await, 0);
        // The user can go back to the page of the provider, past the pages with the scripts.
        // The driver repeats a script that a page load interrupts, so the script has to end before the
        // browser goes back.
        browser.run("setTimeout(() => history.back())").await;
        browser.wait_for(|url| url.contains("/authorize")).await;
    }
}

#[tokio::test]
async fn a_50_values_in_the_storage_of_a_tab_never_lead_to_another_origin() {
    let scene = Scene::with_routes(KEEPS, "").await;
    show_user_in_app(&scene);
    let browser = chromium(&scene).await;
    // The attacker has a valid name and a valid sealed page.
    let first = scene.browser().open("http://localhost/page?x=1").await;
    let [name, page] = ["name", "page"].map(|name| attribute(&first, name).unwrap());
    browser.open("http://localhost/page").await;
    browser.wait_for(|url| url.ends_with("/page")).await;
    let restored = |fragment: &str| format!("http://localhost/page?x=1{fragment}");
    let return_path = format!("http://localhost/oauth2/return/{name}");
    let own =
        |page: &str, fragment: Value| json!({"name": name, "page": page, "fragment": fragment});
    for (stored, expected) in [
        (own(&page, json!("//evil.test/")), restored("#//evil.test/")),
        (own(&page, json!("@evil.test")), restored("#@evil.test")),
        (
            own(&page, json!("javascript:window.evil=1")),
            restored("#javascript:window.evil=1"),
        ),
        (
            own(&page, json!("\t\n\u{0}\\\\evil.test")),
            restored("#%00\\\\evil.test"),
        ),
        (own(&page, json!(["//evil.test"])), restored("#//evil.test")),
        (
            own("https://evil.test/", json!("x")),
            format!("{return_path}#x"),
        ),
        (
            own("javascript:window.evil=1", json!("")),
            return_path.clone(),
        ),
        (json!({"name": "x", "page": page}), return_path.clone()),
        (json!("https://evil.test/"), return_path.clone()),
        (json!(null), return_path.clone()),
    ] {
        browser.open("http://localhost/page").await;
        let text = serde_json::to_string(&stored.to_string()).unwrap();
        browser
            .run(&format!("sessionStorage.setItem('sidegate-page', {text})"))
            .await;
        browser
            .open(&format!("http://localhost/oauth2/restore/{name}"))
            .await;
        browser.wait_for(|url| !url.contains("/restore/")).await;
        let address = browser.run("return location.href").await;
        assert_eq!(address, expected, "{stored}");
        assert_eq!(browser.run("return window.evil ?? 0").await, 0, "{stored}");
    }
}

/// Takes screenshots of the gateway's own pages, for people to look at. The screenshots are stored
/// with the build results.
#[tokio::test]
async fn screenshots_of_our_pages_can_be_taken() {
    let scene = Scene::new().await;
    show_user_in_app(&scene);
    let browser = chromium(&scene).await;
    // The test first opens the pages without a session, and then the pages with a session.
    let pictures = async |pages: &[(&str, &str, &str)]| {
        for (name, path, title) in pages {
            browser.open(&format!("http://localhost{path}")).await;
            let text = browser.text().await;
            assert!(text.starts_with(title), "{name}: {text}");
            browser.picture(name).await;
        }
    };
    let callback = "/oauth2/callback";
    pictures(&[
        (
            "callback_foreign",
            &format!("{callback}?code=x&state=y"),
            "This sign-in was not started here",
        ),
        (
            "callback_denied",
            &format!("{callback}?error=access_denied"),
            "You were not signed in",
        ),
        (
            "callback_refused",
            &format!("{callback}?error=unauthorized_client"),
            "The sign-in server refused this gateway",
        ),
        ("signed_out", "/oauth2/signed_out", "You are signed out"),
    ])
    .await;
    browser.open("http://localhost/page").await;
    browser.wait_for(|url| url.ends_with("/page")).await;
    pictures(&[
        ("sign_out", "/oauth2/sign_out", "Sign out?"),
        ("forbidden", "/admin", "You may not use this page"),
    ])
    .await;
}
