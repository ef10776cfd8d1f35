//! Front-channel logout: a page of the provider ends the session of the browser (OpenID Connect
//! Front-Channel Logout 1.0).

use crate::back_channel::{is_signed_in, scene};
use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::openid::OpenIdScene;
use crate::support::provider::Endpoint;
use crate::support::scene::{ORIGIN, SESSION, url};

async fn load(browser: &Browser, parameters: &[(&str, &str)]) -> Page {
    let mut address = url::Url::parse(&url("/oauth2/frontchannel_logout")).unwrap();
    address.query_pairs_mut().extend_pairs(parameters);
    let frame = BrowserRequest::navigation(address.as_str()).field("sec-fetch-dest", "iframe");
    browser.send(frame).await
}

/// Loads the frame with which the provider ends its session of `user`.
pub(crate) async fn logout(scene: &OpenIdScene, browser: &Browser, user: &str) -> Page {
    let (issuer, sid) = (scene.provider.url(), format!("sid-of-{user}"));
    load(browser, &[("iss", &issuer), ("sid", &sid)]).await
}

#[tokio::test]
async fn b_20_a_frame_ends_only_the_session_that_it_names() {
    let scene = scene().await;
    let browser = scene.signed_in("alice").await;
    let (issuer, calls) = (
        scene.provider.url(),
        scene.provider.calls(Endpoint::Revocation),
    );
    for parameters in [
        [("iss", &*issuer), ("sid", "sid-of-bob")],
        [("iss", "https://other.example"), ("sid", "sid-of-alice")],
    ] {
        let page = load(&browser, &parameters).await;
        assert_eq!(page.status, 200, "{}", page.describe());
        assert!(page.set_cookies().is_empty(), "{}", page.describe());
        assert!(is_signed_in(&browser).await);
    }
    for parameters in [&[][..], &[("iss", &*issuer)], &[("sid", "sid-of-alice")]] {
        let page = load(&browser, parameters).await;
        assert_eq!(page.status, 400, "{}", page.describe());
        assert!(is_signed_in(&browser).await);
    }
    let page = logout(&scene, &browser, "alice").await;
    assert_eq!(page.status, 200, "{}", page.describe());
    assert_eq!(browser.cookie(ORIGIN, SESSION), None);
    assert!(!is_signed_in(&browser).await);
    assert_eq!(scene.provider.calls(Endpoint::Revocation), calls);
}

#[tokio::test]
async fn b_20_only_this_answer_may_be_in_a_frame() {
    let scene = scene().await;
    let browser = scene.signed_in("alice").await;
    let copy = browser.cookie(ORIGIN, SESSION).unwrap();
    let page = logout(&scene, &browser, "alice").await;
    let policy = page.field("content-security-policy").unwrap();
    assert!(!policy.contains("frame-ancestors"), "{policy}");
    assert_eq!(page.field("x-frame-options"), None);
    assert_eq!(page.field("cache-control"), Some("no-store"));
    assert!(page.body.is_empty());
    // The old cookie is useless.
    browser.plant(ORIGIN, &format!("{SESSION}={copy}; Path=/; Secure"));
    assert!(!is_signed_in(&browser).await);
    let page = browser.open(&url("/oauth2/sign_out")).await;
    let policy = page.field("content-security-policy").unwrap();
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
}

#[tokio::test]
async fn without_a_session_the_answer_is_the_same() {
    let scene = scene().await;
    let page = logout(&scene, &scene.browser(), "alice").await;
    assert_eq!(page.status, 200, "{}", page.describe());
    assert!(page.set_cookies().is_empty(), "{}", page.describe());
}
