//! Another prefix for the gateway's own endpoints, for apps that have paths below `/oauth2/`.

use crate::support::browser_request::BrowserRequest;
use crate::support::provider::{Endpoint, parameters};
use crate::support::scene::{ORIGIN, Scene, url};
use crate::support::upstream::Answer;

const PREFIX: &str = "[login]\nown_prefix = \"/_gw/\"\n";

async fn scene() -> Scene {
    Scene::with(|settings| settings.with(PREFIX)).await
}

#[tokio::test]
async fn an_app_with_paths_below_oauth2_gets_its_requests() {
    let scene = scene().await;
    let browser = scene.browser();
    let page = browser.visit(&url("/oauth2/sign_in?x=1")).await;
    assert_eq!(page.url.as_str(), "http://localhost/oauth2/sign_in?x=1");
    assert_eq!(page.text(), "seen");
    let before = scene.app.count();
    for path in ["/oauth2/callback", "/oauth2/sign_out", "/oauth2/", "/_gwx/"] {
        assert_eq!(browser.open(&url(path)).await.text(), "seen", "{path}");
    }
    assert_eq!(scene.app.count(), before + 4);
    for path in ["/_gw/", "/_gw", "/_gw/other", "/_GW/sign_in", "/_gw;x/a"] {
        assert_eq!(browser.open(&url(path)).await.status, 404, "{path}");
    }
    assert_eq!(scene.app.count(), before + 4);
}

#[tokio::test]
async fn every_page_and_link_of_the_gateway_has_the_prefix() {
    let scene = scene().await;
    let browser = scene.browser();
    let refused = browser.fetch(&url("/api")).await;
    assert_eq!(refused.json()["login_url"], url("/_gw/sign_in"));
    let page = browser.open(&url("/page")).await;
    let asked = parameters(page.location().unwrap().query().unwrap());
    assert_eq!(asked["redirect_uri"], url("/_gw/callback"));
    scene
        .provider
        .next(Endpoint::Token, Answer::with(503, &[], ""));
    let failed = browser.visit(&url("/page")).await;
    assert!(
        failed.text().contains("\"/_gw/sign_in?"),
        "{}",
        failed.text()
    );
    assert_eq!(browser.visit(&url("/page")).await.text(), "seen");
    let forbidden = browser.open(&url("/admin")).await;
    assert_eq!(forbidden.status, 403);
    assert!(
        forbidden
            .text()
            .contains("\"/_gw/sign_out?another_account=1&amp;"),
        "{}",
        forbidden.text()
    );
    let confirm = browser.open(&url("/_gw/sign_out")).await;
    assert!(
        confirm.text().contains("\"/_gw/sign_out\""),
        "{}",
        confirm.text()
    );
    let no_parameters: [(&str, &str); 0] = [];
    let sign_out = BrowserRequest::navigation(&url("/_gw/sign_out")).form(&no_parameters);
    let signed_out = browser.send(sign_out.from(ORIGIN)).await;
    assert_eq!(signed_out.field("location"), Some(&*url("/_gw/signed_out")));
    let page = browser.follow(&signed_out).await;
    assert!(
        page.text().contains("\"/_gw/sign_in?prompt=login\""),
        "{}",
        page.text()
    );
    assert_eq!(browser.fetch(&url("/api")).await.status, 401);
}

#[tokio::test]
async fn a_36_a_login_returns_to_no_page_of_the_gateway() {
    let scene = scene().await;
    for (from, to) in [
        ("/_gw/signed_out", "/"),
        ("/_GW/x", "/"),
        ("/oauth2/signed_out", "/oauth2/signed_out"),
    ] {
        let browser = scene.browser();
        let link = BrowserRequest::navigation(&url("/_gw/sign_in"))
            .from(&url(from))
            .field("referer", &url(from));
        let page = browser.send(link).await;
        let page = browser.follow_all(page).await;
        assert_eq!(page.url.as_str(), url(to), "{from}");
    }
}
