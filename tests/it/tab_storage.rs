//! Forms and fragments in the storage of a tab of a real browser.

use std::time::Duration;

use crate::browser::chromium;
use crate::fragments;
use crate::kept_forms;
use crate::support::openid::OpenIdScene;
use crate::support::scene::Scene;
use crate::support::upstream::{Answer, Recorded};
use crate::support::webdriver::Chromium;

/// Shows a form at `/public/form`, and answers a sent form with the fields that the app got.
fn show_forms_in_app(scene: &Scene) {
    scene.app.answer_by(|request| {
        let html = [("Content-Type", "text/html")];
        let form = "<form id=f method=post action='/save?a=b' enctype='multipart/form-data'>\
                    <input name=title><textarea name=text></textarea>\
                    <input type=password name=password><input type=file name=photo>\
                    <button>Save</button></form>";
        let user = request.head.value("x-forwarded-user").unwrap_or_default();
        match (request.method().as_str(), &*request.target()) {
            ("POST", _) => Answer::with(200, &html, &format!("<p>{user} has saved")),
            (_, "/public/form") => Answer::with(200, &html, form),
            _ => Answer::with(200, &html, "seen"),
        }
    });
}

/// Types a text, a password and a file into the form of the app.
async fn fill_in(browser: &Chromium) {
    browser.open("http://localhost/public/form").await;
    let script = "const f = document.getElementById('f');\
                  f.elements.title.value = 'Title \\u00e4 \"';\
                  f.elements.text.value = 'two\\nlines';\
                  f.elements.password.value = 's3cret';\
                  const files = new DataTransfer();\
                  const bytes = Uint8Array.from({ length: 300000 }, (_, i) => i % 251);\
                  files.items.add(new File([bytes], 'photo.jpg', { type: 'image/jpeg' }));\
                  f.elements.photo.files = files.files;";
    browser.run(script).await;
}

async fn click(browser: &Chromium, button: &str) {
    browser
        .run(&format!(
            "[...document.querySelectorAll('button')].find(b => b.innerText === '{button}').click()"
        ))
        .await;
}

#[tokio::test]
async fn a_form_with_a_file_survives_the_end_of_the_session() {
    let scene = Scene::with_routes(kept_forms::KEEPS, "").await;
    show_forms_in_app(&scene);
    let browser = chromium(&scene).await;
    browser.open("http://localhost/page").await;
    browser.wait_for(|url| url.ends_with("/page")).await;
    fill_in(&browser).await;
    // What the app gets with a session.
    click(&browser, "Save").await;
    browser.wait_for_text("alice has saved").await;
    let expected = posts(&scene).remove(0);
    fill_in(&browser).await;
    kept_forms::end_sessions(&scene, "alice").await;
    scene.provider.ask_first();
    assert_eq!(posts(&scene).len(), 1);
    click(&browser, "Save").await;
    browser.wait_for(|url| url.contains("/authorize")).await;
    browser.run("document.getElementById('go').click()").await;
    browser.wait_for_text("Send your form?").await;
    let text = browser.text().await;
    for shown in [
        "http://localhost/save?a=b",
        "title",
        "9 characters",
        "photo.jpg, 293 KiB",
    ] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    assert!(!text.contains("s3cret") && !text.contains("two"), "{text}");
    take_pictures(&browser).await;
    assert_eq!(browser.run("return sessionStorage.length").await, 0);
    assert_eq!(posts(&scene).len(), 1);
    click(&browser, "Send the form").await;
    browser.wait_for_text("alice has saved").await;
    let url = browser.run("return location.href").await;
    assert_eq!(url, "http://localhost/save?a=b");
    assert_eq!(posts(&scene).len(), 2);
    let sent = posts(&scene).remove(1);
    // Each form has its own boundary.
    assert_eq!(without_boundary(&sent), without_boundary(&expected));
    for field in ["referer", "origin", "x-forwarded-user"] {
        assert_eq!(
            sent.head.value(field),
            expected.head.value(field),
            "{field}"
        );
    }
    // A reload of the answer does not send the form again.
    browser.run("location.reload()").await;
    browser.wait_for_text("The form was already sent").await;
    browser.picture("form_used").await;
    assert_eq!(posts(&scene).len(), 2);
}

/// The forms that the app got.
fn posts(scene: &Scene) -> Vec<Recorded> {
    let requests = scene.app.requests().into_iter();
    requests
        .filter(|request| request.method() == "POST")
        .collect()
}

/// Takes screenshots of the page that asks for the confirmation, for people to look at.
async fn take_pictures(browser: &Chromium) {
    for (name, width) in [
        ("form_confirmation", 1200),
        ("form_confirmation_narrow", 360),
    ] {
        browser.client().set_window_size(width, 900).await.unwrap();
        browser.picture(name).await;
        // Nothing is wider than the window.
        let overflows = "return document.documentElement.scrollWidth > innerWidth";
        assert_eq!(browser.run(overflows).await, false, "{name}");
    }
}

/// The content of a multipart form, with the same boundary in each form.
fn without_boundary(request: &Recorded) -> Vec<u8> {
    let kind = request.head.value("content-type").unwrap();
    let (_, boundary) = kind.split_once("boundary=").unwrap();
    let mut parts = Vec::new();
    let mut rest = &*request.body;
    while let Some(at) = memchr::memmem::find(rest, boundary.as_bytes()) {
        parts.extend_from_slice(&rest[..at]);
        rest = &rest[at + boundary.len()..];
    }
    parts.extend_from_slice(rest);
    parts
}

#[tokio::test]
async fn k_01_the_browser_offers_the_form_of_another_user_to_nobody() {
    let scene = Scene::with_routes(kept_forms::KEEPS, "").await;
    show_forms_in_app(&scene);
    let browser = chromium(&scene).await;
    browser.open("http://localhost/page").await;
    browser.wait_for(|url| url.ends_with("/page")).await;
    fill_in(&browser).await;
    kept_forms::end_sessions(&scene, "alice").await;
    scene.provider.ask_first();
    click(&browser, "Save").await;
    browser.wait_for(|url| url.contains("/authorize")).await;
    // The page of the provider contains the answer for its user.
    browser.run("document.cookie = 'user=bob; path=/'").await;
    let page = browser.client().current_url().await.unwrap();
    browser.open(page.as_str()).await;
    browser.run("document.getElementById('go').click()").await;
    browser.wait_for_text("belongs to another account").await;
    let text = browser.text().await;
    assert!(!text.contains("photo"), "{text}");
    browser.picture("form_of_other_user").await;
    assert_eq!(browser.run("return sessionStorage.length").await, 0);
    let form = browser.client().current_url().await.unwrap();
    // Alice comes back to the same tab.
    browser.open("http://localhost/oauth2/sign_out").await;
    click(&browser, "Sign out").await;
    browser.wait_for(|url| url.ends_with("/signed_out")).await;
    browser.open("http://localhost/page").await;
    browser.wait_for(|url| url.contains("/authorize")).await;
    browser.run("document.cookie = 'user=alice; path=/'").await;
    let page = browser.client().current_url().await.unwrap();
    browser.open(page.as_str()).await;
    browser.run("document.getElementById('go').click()").await;
    browser.wait_for(|url| url.ends_with("/page")).await;
    assert_eq!(browser.text().await, "seen");
    let seen = scene.app.last();
    assert_eq!(
        seen.head.value("x-forwarded-user"),
        Some("alice".to_owned())
    );
    browser.open(form.as_str()).await;
    let text = browser.text().await;
    assert!(!text.contains("Send") && !text.contains("photo"), "{text}");
    assert_eq!(posts(&scene).len(), 0);
}

#[tokio::test]
async fn a_form_that_the_browser_cannot_store_stays_on_the_page_of_the_gateway() {
    let scene = Scene::with_routes(kept_forms::KEEPS, "").await;
    show_forms_in_app(&scene);
    let browser = chromium(&scene).await;
    browser.open("http://localhost/page").await;
    browser.wait_for(|url| url.ends_with("/page")).await;
    fill_in(&browser).await;
    // No place is left in the storage of the tab.
    let full = "let size = 4e6; while (size >= 1) {\
                try { sessionStorage.setItem('x' + size + Math.random(), 'x'.repeat(size)); }\
                catch { size /= 2; } }";
    browser.run(full).await;
    kept_forms::end_sessions(&scene, "alice").await;
    click(&browser, "Save").await;
    browser.wait_for_text("cannot keep the form").await;
    assert_eq!(browser.run("return location.pathname").await, "/save");
    browser.picture("form_not_stored").await;
    // The typed text is still on the page of the app.
    browser.run("setTimeout(() => history.back())").await;
    browser.wait_for(|url| url.ends_with("/public/form")).await;
}

#[tokio::test]
async fn an_unreachable_provider_does_not_lose_the_fragment_in_a_browser() {
    let mut scene = OpenIdScene::with_routes(fragments::KEEPS).await;
    scene.provider.down().await;
    let browser = Chromium::leading("localhost:80", scene.gateway.address()).await;
    let address = "http://localhost/page?x=1#/deep/link";
    browser.open(address).await;
    browser
        .wait_for_text("This page tries again by itself.")
        .await;
    scene.provider.up().await;
    scene.gateway.advance(Duration::from_mins(1));
    browser.wait_for_text("seen").await;
    assert_eq!(browser.run("return location.href").await, address);
}
