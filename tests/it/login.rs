//! The authorization code flow: normal logins and attacks.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::{Process, Settings};
use crate::support::provider::{StandIn, parameters, token_request};
use crate::support::raw::Raw;
use crate::support::scene::{
    ORIGIN, SESSION, Scene, assert_no_canary, assert_refused, refusal, url,
};

/// The callback's URL with one parameter changed; `None` removes the parameter.
fn changed(callback: &Page, name: &str, value: Option<&str>) -> String {
    let mut to = callback.location().unwrap();
    let pairs: Vec<_> = to
        .query_pairs()
        .into_owned()
        .filter(|(known, _)| known != name)
        .collect();
    to.query_pairs_mut().clear().extend_pairs(pairs);
    if let Some(value) = value {
        to.query_pairs_mut().append_pair(name, value);
    }
    to.into()
}

fn state_of(callback: &Page) -> String {
    parameters(callback.location().unwrap().query().unwrap())
        .remove("state")
        .unwrap()
}

#[tokio::test]
async fn a_login_ends_on_the_page_that_was_asked_for() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let callback = scene
        .until_callback(&browser, "/deep/page?x=1&y=%C3%A4")
        .await;
    let answer = browser.follow(&callback).await;
    assert_eq!(
        (answer.status.as_u16(), answer.field("location")),
        (303, Some("http://localhost/deep/page?x=1&y=%C3%A4"))
    );
    assert!(answer.field("cache-control").unwrap().contains("no-store"));
    assert_no_canary(&answer);
    let page = browser.follow(&answer).await;
    assert_eq!(page.text(), "seen");
    let last = scene.app.last();
    assert_eq!(last.target(), "/deep/page?x=1&y=%C3%A4");
    assert!(
        last.head
            .value("authorization")
            .unwrap()
            .starts_with("Bearer alice.")
    );
    for _ in 0..3 {
        browser.open(&url("/again")).await;
    }
    assert_eq!(scene.provider.exchanges().len(), 1);
}

#[tokio::test]
async fn a_01_a_02_an_answer_belongs_to_the_browser_that_began_the_login() {
    let scene = Scene::new().await;
    let attacker = scene.browser_of("mallory");
    let callback = scene.until_callback(&attacker, "/").await;
    let stranger = scene.browser();
    let page = stranger.follow(&callback).await;
    assert_refused(
        &scene,
        &stranger,
        &page,
        "400 state_without_cookie",
        "no login of its own",
    );
    let victim = scene.browser();
    scene.until_callback(&victim, "/").await;
    let page = victim.follow(&callback).await;
    assert_refused(
        &scene,
        &victim,
        &page,
        "400 state_without_cookie",
        "a login of its own",
    );
    assert_eq!(scene.provider.exchanges().len(), 0);
}

#[tokio::test]
async fn a_03_a_modified_state_is_refused() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let callback = scene.until_callback(&browser, "/").await;
    let state = state_of(&callback);
    let mut flipped = state.clone().into_bytes();
    let middle = flipped.len() / 2;
    flipped[middle] = if flipped[middle] == b'A' { b'B' } else { b'A' };
    let other = scene.browser();
    let others_state = state_of(&scene.until_callback(&other, "/").await);
    let foreign = "400 state_foreign";
    let states = [
        (String::new(), "400 state_missing"),
        (String::from_utf8(flipped).unwrap(), foreign),
        (state[..state.len() - 1].to_owned(), foreign),
        (format!("{state}="), foreign),
        (format!("{state}A"), "400 state_of_other_browser"),
        (state.to_uppercase(), foreign),
        ("a".repeat(20_000), foreign),
        (format!("{state}\0"), foreign),
        (format!(" {state}"), foreign),
        ("%s%n%1$s".to_owned(), foreign),
        (others_state, "400 state_without_cookie"),
    ];
    for (bad, refused) in &states {
        let page = browser
            .send(BrowserRequest::navigation(&changed(
                &callback,
                "state",
                Some(bad),
            )))
            .await;
        assert_refused(&scene, &browser, &page, refused, bad);
    }
    let page = browser.open(&changed(&callback, "state", None)).await;
    assert_refused(&scene, &browser, &page, "400 state_missing", "no state");
    assert_eq!(scene.provider.exchanges().len(), 0);
    // The pending login is still valid after these requests.
    let page = browser.follow(&callback).await;
    assert_eq!(browser.follow(&page).await.text(), "seen");
}

#[tokio::test]
async fn a_04_an_answer_that_is_repeated_is_redeemed_once() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let callback = scene.until_callback(&browser, "/page").await;
    let first = browser.follow(&callback).await;
    let again = browser.follow(&callback).await;
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (303, 303));
    assert_eq!(again.field("location"), Some("http://localhost/page"));
    assert_eq!(scene.provider.exchanges().len(), 1);
    browser.forget(SESSION);
    let page = browser.follow(&callback).await;
    assert_refused(
        &scene,
        &browser,
        &page,
        "400 state_without_cookie",
        "repeated without a session",
    );
    assert_eq!(scene.provider.exchanges().len(), 1);
}

#[tokio::test]
async fn a_05_an_answer_that_comes_fifty_times_at_once_is_redeemed_once() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let callback = scene.until_callback(&browser, "/").await;
    let mut tabs = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (browser, callback) = (browser.clone(), callback.clone());
        tabs.spawn(async move { browser.follow(&callback).await });
    }
    let pages = tabs.join_all().await;
    let opened = |page: &&Page| {
        page.set_cookies()
            .iter()
            .any(|text| text.starts_with("__Host-sidegate="))
    };
    assert_eq!(pages.iter().filter(opened).count(), 1);
    assert_eq!(scene.provider.exchanges().len(), 1);
}

#[tokio::test]
async fn a_13_a_code_without_its_verifier_is_useless() {
    let scene = Scene::new().await;
    let victim = scene.browser();
    let leaked = scene.until_callback(&victim, "/").await;
    let code = parameters(leaked.location().unwrap().query().unwrap())
        .remove("code")
        .unwrap();
    let attacker = scene.browser_of("mallory");
    let own = scene.until_callback(&attacker, "/").await;
    let page = attacker.open(&changed(&own, "code", Some(&code))).await;
    assert_refused(
        &scene,
        &attacker,
        &page,
        "400 code_refused",
        "an injected code",
    );
    // The code was sent with the verifier of the attacker's own login, so a server can refuse the
    // code.
    let exchanges = scene.provider.exchanges();
    assert_eq!(exchanges.len(), 1);
    let sent = token_request(&exchanges[0].body).unwrap();
    assert_eq!(sent["code"], code);
    let challenges: Vec<_> = scene
        .provider
        .authorizations()
        .iter()
        .map(|asked| parameters(asked.query().unwrap())["code_challenge"].clone())
        .collect();
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, sent["code_verifier"].as_bytes()));
    assert_eq!(challenges.len(), 2);
    assert_eq!(challenge, challenges[1]);
}

#[tokio::test]
async fn a_14_tokens_in_the_callback_are_ignored() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let callback = scene.until_callback(&browser, "/").await;
    let mut to = callback.location().unwrap();
    let state = state_of(&callback);
    to.query_pairs_mut()
        .clear()
        .append_pair("access_token", "evil")
        .append_pair("state", &state);
    to.query_pairs_mut().append_pair("token_type", "bearer");
    let page = browser.open(to.as_str()).await;
    assert_refused(
        &scene,
        &browser,
        &page,
        "400 malformed_response",
        "a token instead of a code",
    );
    assert_eq!(scene.provider.exchanges().len(), 0);
}

#[tokio::test]
async fn a_15_a_38_other_methods_do_not_use_up_the_code() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let callback = scene.until_callback(&browser, "/").await;
    let to = callback.location().unwrap();
    for method in ["HEAD", "OPTIONS", "POST", "PUT", "DELETE"] {
        let page = browser
            .send(BrowserRequest::navigation(to.as_str()).method(method))
            .await;
        assert_eq!(page.status, 405, "{method}");
    }
    let posted = BrowserRequest::navigation(&url("/oauth2/callback"))
        .form(&[("code", "x"), ("state", &state_of(&callback))]);
    assert_eq!(browser.send(posted).await.status, 405);
    let prefetch =
        BrowserRequest::navigation(to.as_str()).field("sec-purpose", "prefetch;prerender");
    let page = browser.send(prefetch).await;
    assert_eq!(refusal(&page), "403 prefetch", "{}", page.describe());
    assert_eq!(scene.provider.exchanges().len(), 0);
    let page = browser.follow(&callback).await;
    assert_eq!(page.status, 303, "{}", page.describe());
}

#[tokio::test]
async fn a_16_errors_of_the_provider_end_in_a_page_of_fixed_words() {
    let scene = Scene::new().await;
    let long = "e".repeat(10_000);
    for (error, refused) in [
        ("access_denied", "403 access_denied"),
        ("login_required", "403 interaction_required"),
        ("consent_required", "403 consent_required"),
        ("temporarily_unavailable", "503 temporarily_unavailable"),
        ("<b>x", "502 unrecognized_error"),
        (&long, "502 unrecognized_error"),
    ] {
        let browser = scene.browser();
        let callback = scene.until_callback(&browser, "/").await;
        let mut to = callback.location().unwrap();
        let state = state_of(&callback);
        to.query_pairs_mut()
            .clear()
            .append_pair("error", error)
            .append_pair("state", &state);
        to.query_pairs_mut()
            .append_pair("error_description", "call 0800 for help");
        let page = browser.open(to.as_str()).await;
        assert_refused(&scene, &browser, &page, refused, error);
        assert!(!page.text().contains("0800"), "{}", page.text());
        // Passport 12 omits the state in some errors.
        let page = browser
            .open(&url(&format!("/oauth2/callback?error={}", &error[..1])))
            .await;
        assert_refused(
            &scene,
            &browser,
            &page,
            "502 unrecognized_error",
            "an error without state",
        );
        let page = browser
            .open(&format!(
                "{}&error=access_denied",
                callback.location().unwrap()
            ))
            .await;
        assert_refused(
            &scene,
            &browser,
            &page,
            "400 malformed_response",
            "an error and a code",
        );
    }
    assert_eq!(scene.provider.exchanges().len(), 0);
}

#[tokio::test]
async fn a_17_a_18_repeated_or_misspelt_parameters_are_refused() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let callback = scene.until_callback(&browser, "/").await;
    let to = callback.location().unwrap().to_string();
    let (base, query) = to.split_once('?').unwrap();
    let (malformed, missing) = ("400 malformed_response", "400 state_missing");
    for (bad, refused) in [
        (format!("{query}&code=x"), malformed),
        (format!("code=x&{query}"), malformed),
        (format!("{query}&{query}"), malformed),
        (format!("{query}&state=x"), malformed),
        (format!("{query}&iss=a&iss=b"), malformed),
        (query.replace("state=", "STATE="), missing),
        (query.replace("state=", "state[]="), missing),
        (query.replace("state=", "state%00="), missing),
        (query.replace("state=", "%2573tate="), missing),
        (query.replace("code=", "Code="), malformed),
    ] {
        let page = browser.open(&format!("{base}?{bad}")).await;
        assert_refused(&scene, &browser, &page, refused, &bad);
    }
    assert_eq!(scene.provider.exchanges().len(), 0);
    let encoded = query.replace("state=", "%73tate=");
    let page = browser.open(&format!("{base}?{encoded}")).await;
    assert_eq!(
        page.status,
        303,
        "one decoding is the form's own: {}",
        page.describe()
    );
}

#[tokio::test]
async fn a_31_two_tabs_sign_in_at_once_and_their_answers_cross() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let first = scene.until_callback(&browser, "/first").await;
    let second = scene.until_callback(&browser, "/second").await;
    let second = browser.follow(&second).await;
    let first = browser.follow(&first).await;
    assert_eq!(second.field("location"), Some("http://localhost/second"));
    assert_eq!(first.field("location"), Some("http://localhost/first"));
    assert_eq!(browser.follow(&first).await.text(), "seen");
    assert_eq!(browser.follow(&second).await.text(), "seen");
}

#[tokio::test]
async fn forty_restored_tabs_all_end_at_their_own_page() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let mut tabs = tokio::task::JoinSet::new();
    for number in 0..40 {
        let browser = browser.clone();
        let target = url(&format!("/tab/{number}"));
        tabs.spawn(async move {
            let page = browser.open(&target).await;
            (number, browser.follow(&page).await)
        });
    }
    let callbacks = tabs.join_all().await;
    // All logins are pending now, so the cookie jar has forty cookies of pending logins.
    for (number, callback) in &callbacks {
        let page = browser.follow(callback).await;
        let page = browser.follow_all(page).await;
        assert_eq!(
            (page.text(), page.url.path()),
            ("seen".to_owned(), format!("/tab/{number}").as_str())
        );
    }
    let left = browser.cookies(ORIGIN);
    assert!(
        left.iter()
            .all(|cookie| cookie.name.len() + cookie.value.len() < 120),
        "{left:?}"
    );
}

#[tokio::test]
async fn a_32_a_login_as_somebody_else_ends_the_previous_session() {
    let scene = Scene::new().await;
    let browser = scene.signed_in("alice").await;
    let before = browser.cookie(ORIGIN, SESSION).unwrap();
    browser.plant(&scene.provider.url(), "user=bob; Path=/");
    let page = browser.visit(&url("/oauth2/sign_in?prompt=login")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(
        scene.app.last().head.value("x-forwarded-user").as_deref(),
        Some("bob")
    );
    let after = browser.cookie(ORIGIN, SESSION).unwrap();
    assert_ne!(before, after);
    let old = scene.browser();
    old.plant(ORIGIN, &format!("{SESSION}={before}; Path=/; Secure"));
    assert_eq!(old.fetch(&url("/")).await.status, 401);
}

#[tokio::test]
async fn a_34_a_login_without_effect_stops_with_a_page_after_three_rounds() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let mut rounds = 0;
    let mut page = browser.open(&url("/")).await;
    while page.status.is_redirection() {
        page = browser.follow(&page).await;
        if browser.cookie(ORIGIN, SESSION).is_some() {
            // The browser loses the session cookie after each login.
            browser.forget(SESSION);
            rounds += 1;
        }
        assert!(rounds < 10, "endless redirects");
    }
    assert_eq!(rounds, 3, "{}", page.describe());
    assert_eq!(refusal(&page), "400 login_loop", "{}", page.describe());
    assert_eq!(scene.provider.exchanges().len(), 3);
}

#[tokio::test]
async fn a_35_a_callback_without_a_login_offers_a_new_login() {
    let scene = Scene::new().await;
    let malformed = "400 malformed_response";
    for (query, refused) in [
        ("", malformed),
        ("?code=x", "400 state_missing"),
        ("?state=x", malformed),
        ("?code=&state=", malformed),
        ("?code=x&state=y", "400 state_foreign"),
        ("?iss=x", malformed),
        ("?error=", "502 unrecognized_error"),
    ] {
        let browser = scene.browser();
        let page = browser
            .open(&url(&format!("/oauth2/callback{query}")))
            .await;
        assert_refused(&scene, &browser, &page, refused, query);
        assert!(page.text().contains("href="), "{query}: {}", page.text());
    }
}

#[tokio::test]
async fn a_39_an_answer_at_another_origin_of_ours_is_refused() {
    let scene =
        Scene::with(|settings| settings.public_urls(&[ORIGIN, "http://other.localhost"])).await;
    let browser = scene
        .browser()
        .leading("http://other.localhost", scene.gateway.address());
    let callback = scene.until_callback(&browser, "/").await;
    let moved = callback.location().unwrap().to_string();
    let moved = moved.replace("//localhost/", "//other.localhost/");
    let secret = browser
        .cookies(ORIGIN)
        .into_iter()
        .find(|c| c.name.starts_with("__Host-sidegate-"));
    let secret = secret.unwrap();
    let planted = format!("{}={}; Path=/; Secure", secret.name, secret.value);
    browser.plant("http://other.localhost", &planted);
    let page = browser.open(&moved).await;
    assert_refused(
        &scene,
        &browser,
        &page,
        "400 state_foreign",
        "another origin",
    );
    assert_eq!(scene.provider.exchanges().len(), 0);
}

#[tokio::test]
async fn a_09_states_and_challenges_do_not_repeat() {
    let scene = Scene::new().await;
    let mut seen = BTreeSet::new();
    for _ in 0..300 {
        let page = scene.browser().open(&url("/")).await;
        let asked = parameters(page.location().unwrap().query().unwrap());
        assert!(seen.insert(asked["state"].clone()), "a state was repeated");
        assert!(
            seen.insert(asked["code_challenge"].clone()),
            "a challenge came twice"
        );
    }
}

#[tokio::test]
async fn over_tls_everything_is_https() {
    let (scene, authority) = Scene::over_tls().await;
    let origin = "https://localhost";
    let browser = Browser::trusting(&authority).leading(origin, scene.gateway.address());
    let page = browser.open("https://localhost/page").await;
    let asked = parameters(page.location().unwrap().query().unwrap());
    assert_eq!(asked["redirect_uri"], "https://localhost/oauth2/callback");
    let page = browser.follow_all(page).await;
    assert_eq!(
        (page.text().as_str(), page.url.as_str()),
        ("seen", "https://localhost/page")
    );
    assert_eq!(
        scene.app.last().head.value("x-forwarded-proto").as_deref(),
        Some("https")
    );
}

/// The log contains the error text of the server for the operator, and pages never show this text.
#[tokio::test]
async fn the_log_shows_the_error_and_the_description_of_the_authorization_endpoint() {
    let provider = StandIn::start().await;
    let settings = Settings::new(ORIGIN, &provider.url(), "http://127.0.0.1:9");
    let process = Process::start(settings).await;
    let mut client = Raw::connect(process.address()).await;
    client
        .send(
            "GET /oauth2/callback?error=invalid_scope&error_description=The+scope+%22x%22%0a+is+\
             unknown HTTP/1.1\r\nHost: localhost\r\n\r\n",
        )
        .await;
    let page = client.response("GET").await.unwrap();
    assert_eq!(page.status(), 502);
    assert!(!page.text().contains("unknown"), "{}", page.text());
    let said = r#"invalid_scope: The scope \"x\" is unknown"#;
    process.wait_for_log(|log| log.contains(said)).await;
}
