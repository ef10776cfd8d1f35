//! Attacks on the forms that a browser keeps during a login.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::fragments::attribute;
use crate::kept_forms::{
    KEEPS, MULTIPART, OWNER, URLENCODED, browser_without_session, confirm, end_sessions, form,
    from_page, keep, multipart, scene, show, until_confirmation, until_restore, url_of,
};
use crate::support::browser_request::BrowserRequest;
use crate::support::form::links;
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, SESSION, Scene, assert_no_canary, refusal, url};

#[tokio::test]
async fn k_01_a_form_of_another_user_is_neither_shown_nor_sent() {
    let scene = scene().await;
    let browser = browser_without_session(&scene, "alice").await;
    let (sealed, page) = keep(&browser, form("/save", &[("alices", "b")])).await;
    browser.plant(&scene.provider.url(), "user=bob; Path=/");
    let restore = until_restore(&browser, &page).await;
    let before = scene.app.count();
    let shown = show(&browser, &restore, &sealed).await;
    assert_eq!(
        refusal(&shown),
        "403 form_of_other_user",
        "{}",
        shown.describe()
    );
    assert!(!shown.text().contains("alices"), "{}", shown.describe());
    for path in ["/save", restore.url.path()] {
        let request = BrowserRequest::navigation(&url(path)).form(&[("sidegate-form", &*sealed)]);
        let answer = browser.send(request.from(restore.url.as_str())).await;
        assert_eq!(refusal(&answer), "403 form_of_other_user", "{path}");
    }
    assert_eq!(scene.app.count(), before);
    // The form is not used up.
    let alice = scene.signed_in("alice").await;
    let shown = show(&alice, &restore, &sealed).await;
    assert_eq!(confirm(&alice, &shown).await.text(), "seen");
}

#[tokio::test]
async fn k_02_a_form_can_be_sent_one_time() {
    let scene = scene().await;
    let browser = browser_without_session(&scene, "alice").await;
    let confirmation = until_confirmation(&browser, form("/save", &[("a", "b")])).await;
    let before = scene.app.count();
    let tabs = (0..10).map(|_| confirm(&browser, &confirmation));
    let mut answers = Vec::new();
    for tab in tabs {
        answers.push(refusal(&tab.await));
    }
    assert_eq!(answers.remove(0), "200 ");
    assert_eq!(answers, ["400 form_used"; 9]);
    assert_eq!(scene.app.count(), before + 1);
}

#[tokio::test]
async fn k_03_a_changed_form_is_refused() {
    let scene = scene().await;
    let browser = browser_without_session(&scene, "alice").await;
    let (sealed, page) = keep(&browser, form("/save", &[("a", "b")])).await;
    let restore = until_restore(&browser, &page).await;
    let before = scene.app.count();
    let (name, text) = sealed.split_once('.').unwrap();
    let flipped = |at: usize| {
        let other = if &text[at..=at] == "A" { "B" } else { "A" };
        format!("{name}.{}{other}{}", &text[..at], &text[at + 1..])
    };
    let changed = [
        String::new(),
        ".".to_owned(),
        "a=b".to_owned(),
        text.to_owned(),
        format!("0000000000000000.{text}"),
        format!("{sealed}="),
        format!("{sealed}&a=b"),
        sealed[..sealed.len() - 2].to_owned(),
        flipped(0),
        flipped(text.len() / 2),
        flipped(text.len() - 1),
    ];
    for changed in changed {
        let shown = show(&browser, &restore, &changed).await;
        assert_eq!(refusal(&shown), "400 form_unknown", "{changed}");
        let sent = [b"sidegate-form=", changed.as_bytes()].concat();
        let request = BrowserRequest::navigation(&url("/save")).method("POST");
        let request = from_page(request.body(URLENCODED, &sent));
        let answer = browser.send(request).await;
        assert_eq!(refusal(&answer), "400 form_unknown", "{changed}");
    }
    // A form can be sent only to its own target.
    for path in ["/other", "/save?x", "/save/"] {
        let request = form(path, &[("sidegate-form", &sealed)]);
        let answer = browser.send(request).await;
        assert_eq!(refusal(&answer), "400 form_unknown", "{path}");
    }
    assert_eq!(scene.app.count(), before);
    let shown = show(&browser, &restore, &sealed).await;
    assert_eq!(confirm(&browser, &shown).await.text(), "seen");
}

#[tokio::test]
async fn k_04_only_a_form_of_a_page_of_the_same_origin_is_kept() {
    let scene = scene().await;
    let browser = browser_without_session(&scene, "alice").await;
    let fields = [("a", "b")];
    let plain = || BrowserRequest::navigation(&url("/save")).form(&fields);
    let json = BrowserRequest::navigation(&url("/save")).method("POST");
    for (name, request) in [
        ("another site", plain().from("https://evil.test/")),
        ("a sibling", plain().from("http://www.localhost/")),
        ("nobody", plain()),
        (
            "a sibling with another origin",
            plain()
                .from("https://evil.test/")
                .field("sec-fetch-site", "same-site"),
        ),
        (
            "a frame",
            form("/save", &fields).field("sec-fetch-dest", "iframe"),
        ),
        (
            "a script",
            form("/save", &fields).field("sec-fetch-mode", "cors"),
        ),
        ("JSON", from_page(json.body("application/json", b"{}"))),
        ("another method", form("/save", &fields).method("PUT")),
        ("another route", form("/usual", &fields)),
        ("a sign-out of the app", form("/leaves/bye", &fields)),
    ] {
        let page = browser.send(request).await;
        assert_eq!(page.status, 401, "{name}: {}", page.describe());
        assert_eq!(attribute(&page, "form"), None, "{name}");
        assert!(!page.text().contains("<script"), "{name}");
    }
    keep(&browser, form("/save", &fields)).await;
    keep(&browser, form("/leaves/other", &fields)).await;
}

#[tokio::test]
async fn k_05_a_form_of_more_than_one_mebibyte_is_not_kept() {
    let scene = scene().await;
    let browser = browser_without_session(&scene, "alice").await;
    let overhead = multipart(0).len();
    let request = |body: &[u8]| {
        let request = BrowserRequest::navigation(&url("/save")).method("POST");
        from_page(request.body(MULTIPART, body))
    };
    let whole = multipart(1024 * 1024 - overhead);
    let confirmation = until_confirmation(&browser, request(&whole)).await;
    confirm(&browser, &confirmation).await;
    assert_eq!(scene.app.last().body, whole);
    end_sessions(&scene, "alice").await;
    let before = scene.app.count();
    let page = browser
        .send(request(&multipart(1024 * 1024 - overhead + 1)))
        .await;
    assert_eq!(refusal(&page), "413 form_too_large", "{}", page.describe());
    assert!(page.text().contains("up to 1 MiB."), "{}", page.describe());
    assert_eq!(links(&page.text()).remove(0).href, "/form?x=1");
    assert_eq!(attribute(&page, "form"), None);
    assert_eq!(scene.app.count(), before);
    // A form without a declared length.
    let [session, owner] = [SESSION, OWNER].map(|name| browser.cookie(ORIGIN, name).unwrap());
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000)).repeat(17);
    let request = format!(
        "POST /save HTTP/1.1\r\nHost: localhost\r\nCookie: {SESSION}={session}; {OWNER}={owner}\r\n\
         Accept: text/html\r\nOrigin: {ORIGIN}\r\nContent-Type: {MULTIPART}\r\n\
         Transfer-Encoding: chunked\r\n\r\n{chunk}"
    );
    let outcome = exchange(scene.gateway.address(), request.as_bytes(), 1).await;
    let answer = &outcome.responses[0];
    assert_eq!(answer.status(), 413, "{}", answer.text());
    assert!(
        answer.text().contains("form_too_large"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn k_06_another_site_can_neither_show_nor_send_nor_discard_a_form() {
    let scene = scene().await;
    let browser = browser_without_session(&scene, "alice").await;
    let (sealed, page) = keep(&browser, form("/any/save", &[("a", "b")])).await;
    let restore = until_restore(&browser, &page).await;
    let before = scene.app.count();
    let session = browser.cookie(ORIGIN, SESSION).unwrap();
    for (path, field) in [
        (restore.url.path(), "show"),
        (restore.url.path(), "sidegate-form"),
        // The route itself permits requests of other sites.
        ("/any/save", "sidegate-form"),
    ] {
        for site in [
            &[
                ("sec-fetch-site", "cross-site"),
                ("origin", "https://evil.test"),
            ][..],
            &[
                ("sec-fetch-site", "same-site"),
                ("origin", "http://www.localhost"),
            ],
            &[("sec-fetch-site", "cross-site"), ("origin", ORIGIN)],
            &[("sec-fetch-site", "none")],
        ] {
            let mut request = BrowserRequest::navigation(&url(path)).form(&[(field, &*sealed)]);
            for (name, value) in site {
                request = request.field(name, value);
            }
            let request = request.field("cookie", &format!("{SESSION}={session}"));
            let answer = browser.send(request).await;
            let context = format!("{path} {field} {site:?}: {}", answer.describe());
            assert_eq!(refusal(&answer), "403 cross_origin", "{context}");
        }
    }
    assert_eq!(scene.app.count(), before);
    let shown = show(&browser, &restore, &sealed).await;
    assert_eq!(confirm(&browser, &shown).await.text(), "seen");
}

#[tokio::test]
async fn k_07_the_names_of_fields_files_and_targets_cannot_become_markup() {
    let scene = scene().await;
    let evil = "\"><script>alert(1)</script>'";
    let file = "--B\r\nContent-Disposition: form-data; name=\"<script>alert(1)</script>\"; \
         filename=\"<img src=x onerror=alert(1)>.jpg\"\r\n\r\nx\r\n--B--\r\n";
    let upload = BrowserRequest::navigation(&url("/save")).method("POST");
    let upload = from_page(upload.body(MULTIPART, file.as_bytes()));
    let target = "/save?x=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&y='";
    for request in [form(target, &[(evil, evil)]), upload] {
        let browser = browser_without_session(&scene, "alice").await;
        let confirmation = until_confirmation(&browser, request).await;
        let text = confirmation.text();
        assert!(text.contains("&lt;script&gt;alert(1)"), "{text}");
        for markup in ["<script", "<img", "onerror=alert(1)>"] {
            assert!(!text.contains(markup), "{text}");
        }
        let answer = confirm(&browser, &confirmation).await;
        assert_eq!(answer.text(), "seen", "{}", answer.describe());
        assert_no_canary(&confirmation);
    }
}

#[tokio::test]
async fn k_08_no_page_with_a_form_can_be_framed_or_stored_and_only_its_own_script_runs() {
    let scene = scene().await;
    let browser = browser_without_session(&scene, "alice").await;
    let (sealed, first) = keep(&browser, form("/save", &[("a", "b")])).await;
    let restore = until_restore(&browser, &first).await;
    let confirmation = show(&browser, &restore, &sealed).await;
    let mut scripts = Vec::new();
    for page in [&first, &restore, &confirmation] {
        let policy = page.field("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(policy.contains("base-uri 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(page.field("x-frame-options"), Some("DENY"));
        assert_eq!(page.field("cache-control"), Some("no-store"));
        assert_eq!(page.field("referrer-policy"), Some("same-origin"));
        let text = page.text();
        for script in text.split("<script").skip(1) {
            let (_, script) = script.split_once('>').unwrap();
            let (script, _) = script.split_once("</script>").unwrap();
            let hash = STANDARD.encode(digest(&SHA256, script.as_bytes()));
            assert!(
                policy.contains(&format!("script-src 'sha256-{hash}'; ")),
                "{policy}"
            );
            scripts.push(script.to_owned());
        }
    }
    assert_eq!(scripts.len(), 2);
    assert_ne!(scripts[0], scripts[1]);
    // The page that asks the user shares no window with other sites.
    let policy = confirmation.field("cross-origin-opener-policy");
    assert_eq!(policy, Some("same-origin"));
}

#[tokio::test]
async fn k_09_a_form_of_another_host_is_refused() {
    const OTHER: &str = "http://other.localhost";
    let hosts = [ORIGIN, OTHER];
    let scene = Scene::with_settings(|settings| settings.public_urls(&hosts).with(KEEPS)).await;
    let browser = scene
        .browser_of("alice")
        .leading(OTHER, scene.gateway.address());
    let mut sealed = Vec::new();
    for origin in hosts {
        assert_eq!(browser.visit(&format!("{origin}/")).await.text(), "seen");
        browser.forget(SESSION);
        let page = format!("{origin}/form");
        let request = BrowserRequest::navigation(&format!("{origin}/save"));
        let request = request.form(&[("a", "b")]).from(&page);
        let (text, page) = keep(&browser, request).await;
        let restore = until_restore(&browser, &page).await;
        sealed.push((text, restore));
    }
    // Both hosts have a session again.
    assert_eq!(browser.visit(&format!("{ORIGIN}/")).await.text(), "seen");
    let before = scene.app.count();
    let foreign = [(&sealed[0].0, &sealed[1].1), (&sealed[1].0, &sealed[0].1)];
    for (text, restore) in foreign {
        let shown = show(&browser, restore, text).await;
        assert_eq!(refusal(&shown), "400 form_unknown", "{}", shown.describe());
        let request = BrowserRequest::navigation(&url_of(restore, "/save"));
        let request = request.form(&[("sidegate-form", &**text)]);
        let answer = browser.send(request.from(restore.url.as_str())).await;
        assert_eq!(
            refusal(&answer),
            "400 form_unknown",
            "{}",
            answer.describe()
        );
    }
    assert_eq!(scene.app.count(), before);
}

#[tokio::test]
async fn k_10_the_rule_of_the_route_decides_about_a_kept_form() {
    let scene = scene().await;
    let browser = browser_without_session(&scene, "bob").await;
    let before = scene.app.count();
    let confirmation = until_confirmation(&browser, form("/admin/save", &[("a", "b")])).await;
    let answer = confirm(&browser, &confirmation).await;
    assert_eq!(refusal(&answer), "403 rule", "{}", answer.describe());
    assert_eq!(scene.app.count(), before);
}

#[tokio::test]
async fn k_11_without_a_valid_statement_about_its_owner_no_form_is_kept() {
    let scene = scene().await;
    let bob = scene.signed_in("bob").await.cookie(ORIGIN, OWNER).unwrap();
    let browser = browser_without_session(&scene, "alice").await;
    let alice = browser.cookie(ORIGIN, OWNER).unwrap();
    let request = form("/save", &[("a", "b")]);
    let plant = |value: &str| {
        browser.plant(
            ORIGIN,
            &format!("{OWNER}={value}; Path=/; Secure; HttpOnly"),
        );
    };
    let other = if alice.starts_with('A') { "B" } else { "A" };
    let changed = format!("{other}{}", &alice[1..]);
    for planted in [&*bob, "", "x", &changed, &alice[1..], &"A".repeat(300)] {
        plant(planted);
        let page = browser.send(request.clone()).await;
        assert_eq!(
            refusal(&page),
            "401 form_without_owner",
            "{}",
            page.describe()
        );
        assert!(
            page.text().contains("The form was not kept"),
            "{}",
            page.describe()
        );
        assert_eq!(attribute(&page, "form"), None);
    }
    // A browser that has never signed in.
    let page = scene.browser().send(request.clone()).await;
    assert_eq!(
        refusal(&page),
        "401 form_without_owner",
        "{}",
        page.describe()
    );
    plant(&alice);
    keep(&browser, request.clone()).await;
    // The statement is not valid without end.
    scene.gateway.advance(Duration::from_hours(24 * 8));
    let page = browser.send(request).await;
    assert_eq!(
        refusal(&page),
        "401 form_without_owner",
        "{}",
        page.describe()
    );
}

#[tokio::test]
async fn k_12_an_old_form_is_refused() {
    let scene = scene().await;
    let browser = browser_without_session(&scene, "alice").await;
    let confirmation = until_confirmation(&browser, form("/save", &[("a", "b")])).await;
    let before = scene.app.count();
    scene.gateway.advance(Duration::from_hours(1));
    let alice = scene.signed_in("alice").await;
    let answer = confirm(&alice, &confirmation).await;
    assert_eq!(
        refusal(&answer),
        "400 form_expired",
        "{}",
        answer.describe()
    );
    assert_eq!(scene.app.count(), before + 1);
}
