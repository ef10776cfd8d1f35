//! The sign-out at the provider: the end-session endpoint and the revocation of the refresh token.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sidegate::clock::Clock;
use tokio::time::timeout;

use crate::durable::stored_at;
use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::Process;
use crate::support::killed::StoreFolder;
use crate::support::limits::limit_file_size;
use crate::support::openid::{OpenIdScene, settings};
use crate::support::provider::{CLIENT, Endpoint, StandIn};
use crate::support::scene::{ORIGIN, SESSION, refusal, url};
use crate::support::two_providers::{SEPARATE_ROUTES, TwoProviders};
use crate::support::upstream::{Answer, RecordingUpstream};
use crate::support::wire::TEST_TIMEOUT;

/// The subject in an ID token.
pub(crate) fn subject_of(id_token: &str) -> String {
    let claims = id_token.split('.').nth(1).unwrap();
    let claims = URL_SAFE_NO_PAD.decode(claims).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    claims["sub"].as_str().unwrap().to_owned()
}

/// Publishes both endpoints of a sign-out.
pub(crate) fn publish(provider: &StandIn) {
    let at = |path: &str| format!("{}{path}", provider.url());
    let (end_session, revoke) = (at("/end_session"), at("/revoke"));
    provider.give_refresh_tokens();
    provider.metadata(move |metadata| {
        metadata["end_session_endpoint"] = json!(end_session);
        metadata["revocation_endpoint"] = json!(revoke);
    });
}

/// A scene whose provider has both endpoints of a sign-out.
pub(crate) async fn scene(keys: &[(&str, &str)]) -> OpenIdScene {
    OpenIdScene::prepared(keys, publish).await
}

/// Signs out with the button of the confirmation page.
pub(crate) async fn sign_out(browser: &Browser) -> Page {
    let none: [(&str, &str); 0] = [];
    let visit = BrowserRequest::navigation(&url("/oauth2/sign_out")).form(&none);
    browser.send(visit.from(ORIGIN)).await
}

#[tokio::test]
async fn c_20_a_sign_out_ends_the_session_at_the_provider_and_revokes_the_refresh_token() {
    let scene = scene(&[]).await;
    let browser = scene.signed_in("alice").await;
    let page = sign_out(&browser).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    assert!(page.field("cache-control").unwrap().contains("no-store"));
    assert_eq!(browser.cookie(ORIGIN, SESSION), None);
    // No script in a page of the app can read the ID token.
    assert!(!page.text().contains("id_token_hint"), "{}", page.text());
    let own = page.refresh_target();
    assert_eq!(own, "/oauth2/end_session");

    let signed_out = browser.visit(&url(&own)).await;
    let asked = scene.provider.requests(Endpoint::EndSession).pop().unwrap();
    let asked = url::Url::parse(&format!("http://op.test{}", asked.target())).unwrap();
    let parameter = |wanted: &str| {
        let mut pairs = asked.query_pairs().filter(|(name, _)| name == wanted);
        let first = pairs.next().map(|(_, value)| value.into_owned());
        assert_eq!(pairs.next(), None, "{wanted} is repeated");
        first.unwrap_or_default()
    };
    assert_eq!(parameter("client_id"), CLIENT);
    assert_eq!(
        parameter("post_logout_redirect_uri"),
        url("/oauth2/signed_out")
    );
    assert_eq!(subject_of(&parameter("id_token_hint")), "alice");
    assert_eq!(signed_out.status, 200, "{}", signed_out.describe());
    let text = signed_out.text();
    assert!(
        text.contains("Your session at main has ended, too."),
        "{text}"
    );
    // The redirect to the provider works one time.
    let again = browser.open(&url(&own)).await;
    assert_eq!(again.location().unwrap().path(), "/oauth2/signed_out");

    scene.provider.wait_for(Endpoint::Revocation, 1).await;
    let posted = scene.provider.posted(Endpoint::Revocation);
    assert_eq!(posted["token_type_hint"], "refresh_token");
    assert!(posted["token"].starts_with("refresh"), "{posted:?}");
    let revocation = scene.provider.requests(Endpoint::Revocation).pop().unwrap();
    let authorization = revocation.head.value("authorization").unwrap();
    assert!(authorization.starts_with("Basic "));
}

#[tokio::test]
async fn a_program_gets_the_end_session_url_as_data() {
    let scene = scene(&[]).await;
    let browser = scene.signed_in("alice").await;
    let visit = BrowserRequest::fetch(&url("/oauth2/sign_out"));
    let none: [(&str, &str); 0] = [];
    let page = browser.send(visit.form(&none).from(ORIGIN)).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    assert_eq!(page.json()["end_session_url"], url("/oauth2/end_session"));
}

#[tokio::test]
async fn b_21_a_forged_state_does_not_claim_that_the_session_at_the_provider_has_ended() {
    let scene = scene(&[]).await;
    let browser = scene.browser();
    for state in ["", "state=", "state=main", "state=bWFpbg"] {
        let page = browser
            .open(&url(&format!("/oauth2/signed_out?{state}")))
            .await;
        assert_eq!(page.status, 200, "{}", page.describe());
        assert!(
            page.text().contains("You may still be signed in"),
            "{state}"
        );
    }
}

#[tokio::test]
async fn the_settings_switch_both_calls_off() {
    let keys = [("sign_out", "{ end_session = false, revoke = false }")];
    let scene = scene(&keys).await;
    let browser = scene.signed_in("alice").await;
    let page = sign_out(&browser).await;
    assert_eq!(page.status, 303, "{}", page.describe());
    let page = browser.follow(&page).await;
    assert!(page.text().contains("You may still be signed in"));
    scene.gateway.drain().await;
    assert_eq!(scene.provider.calls(Endpoint::Revocation), 0);
}

#[tokio::test]
async fn c_20_a_refused_revocation_is_logged_and_the_log_contains_no_token() {
    let provider = StandIn::start().await;
    publish(&provider);
    let refusal = r#"{"error":"unsupported_token_type"}"#;
    let json = [("Content-Type", "application/json")];
    provider.next(Endpoint::Revocation, Answer::with(400, &json, refusal));
    let app = RecordingUpstream::start().await;
    let gateway = Process::start(settings(&provider.url(), &app.url(), &[])).await;
    let browser = Browser::new().leading(ORIGIN, gateway.address());
    let callback = browser.follow(&browser.open(&url("/")).await).await;
    let page = browser.follow_all(callback).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    let page = sign_out(&browser).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    let refused = |log: &str| log.contains("Refresh token not revoked");
    gateway.wait_for_log(refused).await;
    assert_eq!(provider.calls(Endpoint::Revocation), 1);
    browser.visit(&url("/oauth2/end_session")).await;
    let asked = provider.requests(Endpoint::EndSession).pop().unwrap();
    let log = gateway.log();
    let target = asked.target();
    let (_, rest) = target.split_once("id_token_hint=").unwrap();
    let (id_token, _) = rest.split_once('&').unwrap();
    let refresh_token = &provider.posted(Endpoint::Revocation)["token"];
    assert!(
        !log.contains(id_token) && !log.contains(refresh_token),
        "{log}"
    );
}

#[tokio::test]
async fn b_21_a_state_is_valid_for_some_minutes_and_not_for_a_signed_in_user() {
    let scene = scene(&[]).await;
    let browser = scene.signed_in("alice").await;
    let page = sign_out(&browser).await;
    let redirected = browser.open(&url(&page.refresh_target())).await;
    let back = browser.open(redirected.location().unwrap().as_str()).await;
    let back = back.location().unwrap();
    let claims = |page: &Page| page.text().contains("has ended, too");
    assert!(claims(&scene.browser().open(back.as_str()).await));
    // The link of an attacker does not deceive a user who is signed in.
    let victim = scene.signed_in("bob").await;
    let page = victim.open(back.as_str()).await;
    assert!(page.text().contains("You are signed in"), "{}", page.text());
    scene.gateway.advance(Duration::from_mins(11));
    assert!(!claims(&scene.browser().open(back.as_str()).await));
}

#[tokio::test]
async fn a_provider_may_append_the_state_twice() {
    let scene = scene(&[]).await;
    let browser = scene.signed_in("alice").await;
    let page = sign_out(&browser).await;
    let redirected = browser.open(&url(&page.refresh_target())).await;
    let back = browser.open(redirected.location().unwrap().as_str()).await;
    let back = back.location().unwrap();
    // LemonLDAP::NG sends the browser to `...?state=STATE?state=STATE`.
    let twice = format!("{back}?{}", back.query().unwrap());
    let page = browser.open(&twice).await;
    let text = page.text();
    assert!(text.contains("at main has ended, too"), "{twice}: {text}");
}

#[tokio::test]
async fn a_second_sign_out_offers_the_sign_out_at_the_provider() {
    let scene = scene(&[]).await;
    let browser = scene.signed_in("alice").await;
    // The browser has dropped the first answer.
    let copy = browser.cookie(ORIGIN, SESSION).unwrap();
    sign_out(&browser).await;
    browser.plant(ORIGIN, &format!("{SESSION}={copy}; Path=/; Secure"));
    browser.forget("__Host-sidegate-end");
    let page = sign_out(&browser).await;
    let page = browser.follow(&page).await;
    let text = page.text();
    let link = format!("href=\"{}/end_session?client_id=", scene.provider.url());
    assert!(
        text.contains("Sign out at main") && text.contains(&link),
        "{text}"
    );
    assert!(!text.contains("id_token_hint"), "{text}");
}

#[tokio::test]
async fn an_identity_from_the_userinfo_gives_no_hint() {
    let keys = [
        ("identity.source", "\"userinfo\""),
        ("identity.userinfo", ""),
    ];
    let scene = scene(&keys).await;
    let browser = scene.signed_in("alice").await;
    let page = sign_out(&browser).await;
    let page = browser.visit(&url(&page.refresh_target())).await;
    assert!(page.text().contains("has ended, too"), "{}", page.text());
    let asked = scene.provider.requests(Endpoint::EndSession).pop().unwrap();
    assert!(!asked.target().contains("id_token_hint"));
}

#[tokio::test]
async fn a_temporary_failure_of_a_revocation_is_tried_again() {
    let scene = scene(&[]).await;
    scene
        .provider
        .next(Endpoint::Revocation, Answer::with(503, &[], ""));
    let browser = scene.signed_in("alice").await;
    sign_out(&browser).await;
    scene.provider.wait_for(Endpoint::Revocation, 2).await;
}

#[tokio::test]
async fn the_own_request_of_a_provider_revokes_the_access_token() {
    let api = RecordingUpstream::start().await;
    let place = format!("{}/apps/{{client_id}}/token", api.url());
    for (method, body, url_of_api) in [("DELETE", "json", &place), ("POST", "form", &place)] {
        let request = format!(
            "{{ method = \"{method}\", url = \"{url_of_api}\", body = \"{body}\", \
             token = \"access_token\" }}"
        );
        let scene = scene(&[("sign_out.revocation_request", &request)]).await;
        let browser = scene.signed_in("alice").await;
        assert_eq!(browser.fetch(&url("/api")).await.status, 200);
        let bearer = scene.app.last().head.value("authorization").unwrap();
        let token = bearer.strip_prefix("Bearer ").unwrap();
        // After a temporary failure, the request is sent again.
        api.next(Answer::with(503, &[], ""));
        api.next(Answer::with(204, &[], ""));
        let before = api.count();
        sign_out(&browser).await;
        api.wait_until(|requests| requests.len() == before + 2)
            .await;
        scene.gateway.drain().await;
        assert_eq!(api.count(), before + 2, "{method}");
        let sent = api.last();
        assert_eq!(sent.method(), method);
        assert_eq!(sent.target(), format!("/apps/{CLIENT}/token"));
        let authorization = sent.head.value("authorization").unwrap();
        assert!(authorization.starts_with("Basic "), "{authorization}");
        let expected = match body {
            "json" => json!({ "access_token": token }).to_string(),
            _ => format!("access_token={token}"),
        };
        assert_eq!(String::from_utf8_lossy(&sent.body), expected);
        // The request replaces the revocation endpoint in the metadata.
        assert_eq!(scene.provider.calls(Endpoint::Revocation), 0);
    }
}

#[tokio::test]
async fn a_refused_own_request_is_logged_without_the_token() {
    let provider = StandIn::start().await;
    let api = RecordingUpstream::start().await;
    // The path of the setting may be wrong.
    api.next(Answer::with(404, &[], ""));
    let request = format!(
        "{{ method = \"DELETE\", url = \"{}/token\", body = \"json\", token = \"access_token\" }}",
        api.url()
    );
    let app = RecordingUpstream::start().await;
    let keys = [("sign_out.revocation_request", &*request)];
    let gateway = Process::start(settings(&provider.url(), &app.url(), &keys)).await;
    let browser = Browser::new().leading(ORIGIN, gateway.address());
    assert_eq!(browser.visit(&url("/")).await.status, 200);
    sign_out(&browser).await;
    let refused = |log: &str| log.contains("Access token not revoked");
    gateway.wait_for_log(refused).await;
    assert_eq!(api.count(), 1);
    let body: serde_json::Value = serde_json::from_slice(&api.last().body).unwrap();
    let token = body["access_token"].as_str().unwrap();
    assert!(!gateway.log().contains(token), "{}", gateway.log());
}

#[tokio::test]
async fn a_provider_without_an_end_session_endpoint_can_name_its_own_page() {
    let keys = [
        ("display_name", "\"Acme\""),
        ("sign_out.end_session", "false"),
        ("sign_out.page", "\"https://id.example.com/bye?a=b\""),
    ];
    let scene = scene(&keys).await;
    let browser = scene.signed_in("alice").await;
    let page = browser.follow(&sign_out(&browser).await).await;
    let text = page.text();
    assert!(
        text.contains("You may still be signed in at Acme."),
        "{text}"
    );
    assert!(
        text.contains("href=\"https://id.example.com/bye?a=b\"")
            && text.contains("Sign out at Acme"),
        "{text}"
    );
}

#[tokio::test]
async fn of_several_providers_the_page_names_that_of_the_ended_session() {
    let scene = TwoProviders::start(SEPARATE_ROUTES).await;
    let browser = scene.browser();
    assert_eq!(browser.visit(&url("/other")).await.text(), "seen");
    let page = browser.follow(&sign_out(&browser).await).await;
    let text = page.text();
    assert!(
        text.contains("signed in at Other &amp; &lt;Sons&gt;."),
        "{text}"
    );
    // Any site can link to the page.
    for query in ["", "?provider=", "?provider=evil"] {
        let page = browser
            .open(&url(&format!("/oauth2/signed_out{query}")))
            .await;
        let text = page.text();
        assert!(text.contains("at the sign-in server itself."), "{text}");
    }
}

#[tokio::test]
async fn a_provider_that_is_down_does_not_prevent_the_sign_out() {
    let clock = Clock::manual(Clock::system().now());
    let provider = StandIn::at_time_of(&clock).await;
    publish(&provider);
    let mut scene = OpenIdScene::between(provider, &[], clock).await;
    let browser = scene.signed_in("alice").await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let other = scene.signed_in("alice").await;
        ids.push(other.cookie(ORIGIN, SESSION).unwrap());
    }
    scene.provider.down().await;
    scene.gateway.advance(Duration::from_secs(11));
    // A login of another browser notices that the provider is down.
    let attempt = scene.browser().open(&url("/")).await;
    assert_eq!(attempt.status, 503, "{}", attempt.describe());
    let page = sign_out(&browser).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    assert_eq!(browser.cookie(ORIGIN, SESSION), None);
    let text = page.text();
    assert!(
        text.contains("main cannot be reached at the moment"),
        "{text}"
    );
    assert!(text.contains("Sign out at main") && !text.contains("id_token_hint"));
    assert!(!text.contains("http-equiv"), "{text}");
    // The page leads to the next step of the user.
    for (query, wanted) in [
        ("return_to=%2Fpublic%2Fbye", "href=\"/public/bye\""),
        ("another_account=1", "Sign in with another account"),
    ] {
        let browser = scene.browser();
        browser.plant(
            ORIGIN,
            &format!("{SESSION}={}; Path=/; Secure", ids.pop().unwrap()),
        );
        let visit = BrowserRequest::navigation(&url(&format!("/oauth2/sign_out?{query}")));
        let none: [(&str, &str); 0] = [];
        let page = browser.send(visit.form(&none).from(ORIGIN)).await;
        assert!(page.text().contains(wanted), "{}", page.text());
    }
}

#[tokio::test]
async fn while_the_store_is_full_a_sign_out_says_that_the_user_is_still_signed_in() {
    let folder = tempfile::tempdir().unwrap();
    let stored = stored_at(&StoreFolder::new(folder.path()), folder.path());
    let provider = StandIn::start().await;
    publish(&provider);
    let app = RecordingUpstream::start().await;
    let settings = settings(&provider.url(), &app.url(), &[]).with(&stored);
    let gateway = Process::start(settings).await;
    let browser = Browser::new().leading(ORIGIN, gateway.address());
    let page = browser.visit(&url("/")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    limit_file_size(gateway.id(), "1");
    let page = sign_out(&browser).await;
    assert_eq!(refusal(&page), "503 session_not_stored");
    assert!(page.text().contains("You are still signed in"));
    assert!(browser.cookie(ORIGIN, SESSION).is_some());
    assert_eq!(browser.fetch(&url("/")).await.status, 200);
    limit_file_size(gateway.id(), "unlimited");
    // After a failure, the store pauses before its next attempt.
    let again = async { while sign_out(&browser).await.status != 200 {} };
    timeout(TEST_TIMEOUT, again).await.unwrap();
    assert_eq!(browser.cookie(ORIGIN, SESSION), None);
    // Only the sign-out that ended the session has revoked the refresh token.
    provider.wait_for(Endpoint::Revocation, 1).await;
}
