//! The page after a login: the requested page, and never another origin.

use crate::support::provider::parameters;
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, Scene, url};

#[tokio::test]
async fn a_36_parameters_of_a_sign_in_change_nothing_of_the_request() {
    let scene = Scene::new().await;
    let evil = "?iss=https://evil.test&target_link_uri=https://evil.test/&login_hint=x&scope=admin\
                &redirect_uri=https://evil.test/&client_id=9&state=s&rd=//evil.test&next=//evil.test";
    let browser = scene.browser();
    let page = browser.open(&url(&format!("/oauth2/sign_in{evil}"))).await;
    let location = page.location().unwrap();
    assert!(!location.as_str().contains("evil"), "{location}");
    let asked = parameters(location.query().unwrap());
    assert_eq!(asked["login_hint"], "x");
    let known = [
        "client_id",
        "code_challenge",
        "code_challenge_method",
        "login_hint",
        "redirect_uri",
        "response_type",
        "state",
    ];
    assert!(asked.keys().eq(known.iter()), "{asked:?}");
    assert_eq!(
        (asked["client_id"].as_str(), asked["redirect_uri"].as_str()),
        ("3", "http://localhost/oauth2/callback")
    );
    let page = browser.follow(&page).await;
    let page = browser.follow(&page).await;
    assert_eq!(page.field("location"), Some("http://localhost/"));
}

#[tokio::test]
async fn a_36_an_invalid_login_hint_is_left_out() {
    let scene = Scene::new().await;
    for hint in ["", "a%0d%0ab", "a%00", &"a".repeat(257)] {
        let address = url(&format!("/oauth2/sign_in?login_hint={hint}"));
        let page = scene.browser().open(&address).await;
        let asked = parameters(page.location().unwrap().query().unwrap());
        assert!(!asked.contains_key("login_hint"), "{hint}: {asked:?}");
    }
}

#[tokio::test]
async fn a_36_a_sign_in_sends_the_listed_parameters_to_the_provider() {
    let passed = "authorization_request.pass_parameters = [\"ui_locales\", \"kc_idp_hint\"]\n\
                  authorization_request.parameters = { ui_locales = \"fr\" }\n";
    let scene = Scene::with(|settings| settings.of_provider(passed)).await;
    let link = "/oauth2/sign_in?ui_locales=de&ui_locales=de-CH+de&kc_idp_hint=a%26b&login_hint=x";
    let page = scene.browser().open(&url(link)).await;
    let asked = parameters(page.location().unwrap().query().unwrap());
    assert_eq!(asked["ui_locales"], "de-CH de");
    assert_eq!(asked["kc_idp_hint"], "a&b");
    assert!(!asked.contains_key("login_hint"), "{asked:?}");
    // The query of a protected page belongs to the app.
    let page = scene
        .browser()
        .open(&url("/page?ui_locales=de&kc_idp_hint=x"))
        .await;
    let asked = parameters(page.location().unwrap().query().unwrap());
    assert_eq!(asked["ui_locales"], "fr");
    assert!(!asked.contains_key("kc_idp_hint"), "{asked:?}");
}

#[tokio::test]
async fn a_37_the_code_is_gone_from_the_address() {
    let scene = Scene::new().await;
    let page = scene.browser().visit(&url("/page")).await;
    assert_eq!(page.url.as_str(), "http://localhost/page");
}

#[tokio::test]
async fn r_paths_that_browsers_read_as_other_hosts_never_lead_to_another_origin() {
    let scene = Scene::new().await;
    let address = scene.gateway.address();
    let mut logins = Vec::new();
    for target in [
        "//evil.test",
        "///evil.test",
        "/\\evil.test",
        "/%09/evil.test",
        "/%5cevil.test",
        "/%2f%2fevil.test",
        "/.//evil.test",
        "/a/..//evil.test",
        "/%2e%2e//evil.test",
        "//evil.test/%2f..",
        "/%252f%252fevil.test",
        "http://evil.test/",
        "/%0d%0aSet-Cookie:%20a=b",
        "/https://evil.test",
        "/redirect?u=//evil.test",
        "/a?x=https://evil.test",
        "/",
    ] {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Mode: navigate\r\n\
             Sec-Fetch-Dest: document\r\nAccept: text/html\r\n\r\n"
        );
        let mut outcome = exchange(address, request.as_bytes(), 1).await;
        let response = outcome.responses.pop().unwrap();
        if response.status() == 400 {
            continue;
        }
        assert_eq!(response.status(), 303, "{target}");
        logins.push(target);
        // The request began a login. The test completes the login in a browser with the same
        // cookies.
        let browser = scene.browser();
        for cookie in response.head.values("set-cookie") {
            browser.plant(ORIGIN, &cookie);
        }
        let page = browser
            .open(&response.head.value("location").unwrap())
            .await;
        let page = browser.follow(&page).await;
        let to = page.location().unwrap();
        assert_eq!(
            to.origin().ascii_serialization(),
            ORIGIN,
            "{target} led to {to}"
        );
        assert!(
            page.field("location")
                .unwrap()
                .starts_with("http://localhost/"),
            "{target}"
        );
    }
    // All other targets were refused before the login began.
    assert_eq!(
        logins,
        ["/redirect?u=//evil.test", "/a?x=https://evil.test", "/"]
    );
}
