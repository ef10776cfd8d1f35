//! Back-channel logout: a provider ends sessions with a logout token (OpenID Connect Back-Channel
//! Logout 1.0).

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use sidegate::clock::{Clock, Timestamp};

use crate::durable::stored_at;
use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::{Gateway, Process, Settings};
use crate::support::killed::StoreFolder;
use crate::support::limits::limit_file_size;
use crate::support::openid::{OpenIdScene, settings};
use crate::support::provider::{CLIENT, Draft, Endpoint, StandIn};
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, SESSION, url};
use crate::support::upstream::RecordingUpstream;
use crate::support::wire::TEST_TIMEOUT;

pub(crate) const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// A scene whose provider names its session of a user in ID tokens: `sid-of-` and the user.
pub(crate) async fn scene() -> OpenIdScene {
    OpenIdScene::prepared(&[], name_sessions).await
}

/// Makes the provider name its session of a user in ID tokens.
pub(crate) fn name_sessions(provider: &StandIn) {
    provider.tamper_claims(|claims| {
        claims["sid"] = format!("sid-of-{}", claims["sub"].as_str().unwrap()).into();
    });
}

/// A logout token for the session of `user` at the provider, as the standard describes it.
pub(crate) fn draft(scene: &OpenIdScene, user: &str) -> Draft {
    draft_of(&scene.provider, scene.gateway.clock().now(), user)
}

pub(crate) fn draft_of(provider: &StandIn, now: Timestamp, user: &str) -> Draft {
    let (keys, now) = (provider.keys(), now.as_secs());
    Draft {
        header: json!({ "alg": "RS256", "kid": keys.kid("RS256"), "typ": "logout+jwt" }),
        claims: json!({
            "iss": provider.url(), "aud": CLIENT, "iat": now, "exp": now + 120,
            "jti": uuid(), "events": { EVENT: {} }, "sub": user, "sid": format!("sid-of-{user}"),
        }),
        keys,
        access_token: String::new(),
        code: String::new(),
    }
}

/// A new `jti` for each call.
fn uuid() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("jti-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Sends a logout token to the gateway, as a provider does.
pub(crate) async fn send(scene: &OpenIdScene, token: &str) -> Page {
    send_form(scene.gateway.address(), &[("logout_token", token)]).await
}

pub(crate) async fn send_form(gateway: SocketAddr, form: &[(&str, &str)]) -> Page {
    let visit = BrowserRequest::fetch(&url("/oauth2/backchannel_logout")).form(form);
    Browser::new().leading(ORIGIN, gateway).send(visit).await
}

/// Fails unless the gateway has accepted the token.
#[track_caller]
pub(crate) fn assert_accepted(page: &Page) {
    assert_eq!(page.status, 200, "{}", page.describe());
    assert_eq!(page.field("cache-control"), Some("no-store"));
    assert!(page.body.is_empty(), "{}", page.describe());
}

pub(crate) async fn is_signed_in(browser: &Browser) -> bool {
    let page = browser.fetch(&url("/api")).await;
    assert!(
        [200, 401].contains(&page.status.as_u16()),
        "{}",
        page.describe()
    );
    page.status == 200
}

/// Fails unless the gateway refuses the logout token after `change`, and accepts the token without
/// the change.
pub(crate) async fn assert_refused(what: &str, change: impl FnOnce(&mut Draft) -> Option<String>) {
    let scene = scene().await;
    let browser = scene.signed_in("alice").await;
    let mut changed = draft(&scene, "alice");
    let token = change(&mut changed).unwrap_or_else(|| changed.signed());
    let page = send(&scene, &token).await;
    assert_eq!(page.status, 400, "{what}: {}", page.describe());
    assert_eq!(page.field("cache-control"), Some("no-store"));
    assert_eq!(page.json()["error"], "invalid_request", "{what}");
    assert!(is_signed_in(&browser).await, "{what}");
    assert_accepted(&send(&scene, &draft(&scene, "alice").signed()).await);
    assert!(!is_signed_in(&browser).await, "{what}");
}

#[tokio::test]
async fn b_01_a_logout_token_ends_the_sessions_of_one_session_at_the_provider() {
    let scene = scene().await;
    let browsers = [
        scene.signed_in("alice").await,
        scene.signed_in("alice").await,
    ];
    let bystander = scene.signed_in("bob").await;
    assert_accepted(&send(&scene, &draft(&scene, "alice").signed()).await);
    for browser in &browsers {
        assert!(!is_signed_in(browser).await);
        // The next page load asks for a login.
        let page = browser.open(&url("/page")).await;
        let asked = page.location().unwrap().to_string();
        assert!(asked.starts_with(&scene.provider.url()), "{asked}");
    }
    assert!(is_signed_in(&bystander).await);
}

#[tokio::test]
async fn b_02_a_logout_token_without_sid_ends_all_sessions_of_the_user() {
    let scene = scene().await;
    let first = scene.signed_in("alice").await;
    scene.provider.behave();
    let without_sid = scene.signed_in("alice").await;
    let bystander = scene.signed_in("bob").await;
    let mut of_user = draft(&scene, "alice");
    of_user.claims.as_object_mut().unwrap().remove("sid");
    assert_accepted(&send(&scene, &of_user.signed()).await);
    assert!(!is_signed_in(&first).await && !is_signed_in(&without_sid).await);
    assert!(is_signed_in(&bystander).await);
}

#[tokio::test]
async fn b_15_only_a_form_with_one_logout_token_is_read() {
    let scene = scene().await;
    let browser = scene.signed_in("alice").await;
    let token = draft(&scene, "alice").signed();
    for (form, what) in [
        (&[][..], "no token"),
        (&[("LOGOUT_TOKEN", &*token)], "another name"),
        (
            &[("logout_token", &*token), ("logout_token", &*token)],
            "two",
        ),
        (&[("logout_token", "")], "an empty token"),
        (&[("logout_token", "a.b.c")], "no JWT"),
    ] {
        let page = send_form(scene.gateway.address(), form).await;
        assert_eq!(page.status, 400, "{what}: {}", page.describe());
    }
    let path = "/oauth2/backchannel_logout";
    let get = browser
        .open(&url(&format!("{path}?logout_token={token}")))
        .await;
    assert_eq!(get.status, 405, "{}", get.describe());
    assert_eq!(get.field("allow"), Some("POST"));
    let huge = "x".repeat(1_000_000);
    let page = send_form(scene.gateway.address(), &[("logout_token", &huge)]).await;
    assert_eq!(page.status, 413, "{}", page.describe());
    let visit = BrowserRequest::fetch(&url(path)).method("POST");
    let json = json!({ "logout_token": token }).to_string();
    let page = browser
        .send(visit.body("application/json", json.as_bytes()))
        .await;
    assert_eq!(page.status, 415, "{}", page.describe());
    assert!(is_signed_in(&browser).await);
    // Other parameters are ignored.
    let page = send_form(
        scene.gateway.address(),
        &[("x", "y"), ("logout_token", &token)],
    )
    .await;
    assert_accepted(&page);
    assert!(!is_signed_in(&browser).await);
}

#[tokio::test]
async fn b_16_a_session_that_nobody_has_is_no_error() {
    let scene = scene().await;
    let bystander = scene.signed_in("bob").await;
    assert_accepted(&send(&scene, &draft(&scene, "carol").signed()).await);
    assert!(is_signed_in(&bystander).await);
}

#[tokio::test]
async fn b_17_a_form_of_another_site_needs_a_logout_token_like_any_other_request() {
    let scene = scene().await;
    let browser = scene.signed_in("alice").await;
    let path = url("/oauth2/backchannel_logout");
    let form = BrowserRequest::navigation(&path).form(&[("logout_token", "x")]);
    let page = browser.send(form.from("https://evil.example")).await;
    assert_eq!(page.status, 400, "{}", page.describe());
    assert!(is_signed_in(&browser).await);
}

#[tokio::test]
async fn b_01_a_session_without_a_sid_ends_with_a_session_of_its_user() {
    let scene = scene().await;
    let named = scene.signed_in("alice").await;
    scene.provider.behave();
    let without_sid = scene.signed_in("alice").await;
    let bystander = scene.signed_in("bob").await;
    name_sessions(&scene.provider);
    assert_accepted(&send(&scene, &draft(&scene, "alice").signed()).await);
    assert!(!is_signed_in(&named).await && !is_signed_in(&without_sid).await);
    assert!(is_signed_in(&bystander).await);
}

/// Sends the token 30 times, and returns the status of each answer.
async fn flood(scene: &OpenIdScene, token: &str) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..30 {
        statuses.push(send(scene, token).await.status.as_u16());
    }
    statuses
}

#[tokio::test]
async fn b_18_a_flood_of_forged_tokens_does_not_delay_a_valid_token() {
    let scene = scene().await;
    let browser = scene.signed_in("alice").await;
    let mut for_another = draft(&scene, "alice");
    for_another.claims["aud"] = "another-client".into();
    let wrong_key = draft(&scene, "alice");
    let wrong_key = wrong_key.signed_by(wrong_key.keys.of_an_attacker(), "RS256");
    let floods = [for_another.signed(), "a.b.c".to_owned(), wrong_key];
    for (number, token) in floods.iter().enumerate() {
        let statuses = flood(&scene, token).await;
        let refused = if number == 0 { 10 } else { 0 };
        assert!(statuses[..refused].iter().all(|status| *status == 400));
        assert!(statuses[refused..].iter().all(|status| *status == 429));
    }
    let page = send(&scene, &floods[0]).await;
    assert_eq!(page.field("retry-after"), Some("60"));
    // The requests of the signed-in user go on.
    assert!(is_signed_in(&browser).await);
    assert_accepted(&send(&scene, &draft(&scene, "alice").signed()).await);
    assert!(!is_signed_in(&browser).await);
}

#[tokio::test]
async fn b_18_tokens_with_an_unknown_key_cause_one_fetch_and_may_come_again() {
    let scene = scene().await;
    let browser = scene.signed_in("alice").await;
    let fetches = scene.provider.calls(Endpoint::Jwks);
    let mut forged = draft(&scene, "alice");
    forged.header["kid"] = "another".into();
    let forged = forged.signed_by(forged.keys.of_an_attacker(), "RS256");
    let statuses = flood(&scene, &forged).await;
    assert_eq!(&statuses[..1], [400]);
    assert_eq!(&statuses[1..], [503; 29]);
    assert_eq!(scene.provider.calls(Endpoint::Jwks), fetches + 1);
    // The provider changes its keys after the fetch.
    scene.provider.rotate_keys();
    let valid = draft(&scene, "alice").signed();
    let page = send(&scene, &valid).await;
    assert_eq!(page.status, 503, "{}", page.describe());
    let pause: u64 = page.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&pause), "{pause}");
    scene.gateway.advance(Duration::from_secs(pause));
    assert_accepted(&send(&scene, &valid).await);
    assert!(!is_signed_in(&browser).await);
}

#[tokio::test]
async fn b_18_forged_tokens_do_not_delay_a_login_after_a_rotation_of_keys() {
    let scene = scene().await;
    // The login makes sure that the gateway has read the metadata.
    scene.signed_in("bob").await;
    let mut forged = draft(&scene, "alice");
    forged.header["kid"] = "another".into();
    let forged = forged.signed_by(forged.keys.of_an_attacker(), "RS256");
    assert_eq!(send(&scene, &forged).await.status, 400);
    scene.provider.rotate_keys();
    scene.signed_in("alice").await;
}

#[tokio::test]
async fn a_logout_token_with_a_new_key_is_accepted() {
    let scene = scene().await;
    let browser = scene.signed_in("alice").await;
    scene.provider.rotate_keys();
    assert_accepted(&send(&scene, &draft(&scene, "alice").signed()).await);
    assert!(!is_signed_in(&browser).await);
}

#[tokio::test]
async fn while_the_keys_cannot_be_fetched_the_provider_should_try_again() {
    let mut scene = scene().await;
    let browser = scene.signed_in("alice").await;
    scene.provider.rotate_keys();
    let token = draft(&scene, "alice").signed();
    scene.provider.down().await;
    let page = send(&scene, &token).await;
    assert_eq!(page.status, 503, "{}", page.describe());
    assert!(page.field("retry-after").is_some());
    assert!(is_signed_in(&browser).await);
    scene.provider.up().await;
    scene.gateway.advance(Duration::from_secs(61));
    assert_accepted(&send(&scene, &token).await);
    assert!(!is_signed_in(&browser).await);
}

#[tokio::test]
async fn a_login_under_way_opens_no_session_after_its_own_logout() {
    let scene = scene().await;
    let browser = scene.browser_of("alice");
    let start = browser.open(&url("/page")).await;
    let callback = browser.follow(&start).await;
    scene.gateway.advance(Duration::from_secs(1));
    assert_accepted(&send(&scene, &draft(&scene, "alice").signed()).await);
    let page = browser.follow(&callback).await;
    assert_eq!(page.status, 400, "{}", page.describe());
    assert!(
        page.text().contains("You were signed out"),
        "{}",
        page.describe()
    );
    assert_eq!(browser.cookie(ORIGIN, SESSION), None);
    // A new login works, even if the provider uses the same `sid` again.
    scene.signed_in("alice").await;
}

#[tokio::test]
async fn of_two_clients_of_one_issuer_the_audience_decides() {
    let provider = StandIn::start().await;
    name_sessions(&provider);
    let app = RecordingUpstream::start().await;
    let settings = settings(&provider.url(), &app.url(), &[]);
    let (issuer, secret) = (provider.url(), settings.file("other_secret", "secret"));
    let gateway = Gateway::start(settings.with(&format!(
        "[providers.another]\nprofile = \"oidc\"\nissuer = \"{issuer}\"\n\
         client_id = \"other\"\nclient_secret_file = \"{secret}\"\n"
    )));
    for (audience, status) in [(CLIENT, 200), ("other", 200), ("third", 400)] {
        let mut draft = draft_of(&provider, gateway.clock().now(), "alice");
        draft.claims["aud"] = audience.into();
        let token = draft.signed();
        let form = [("logout_token", &*token)];
        // The answer is 503 until the gateway has read the metadata.
        let answered = async {
            loop {
                let page = send_form(gateway.address(), &form).await;
                if page.status != 503 {
                    return page;
                }
            }
        };
        let page = tokio::time::timeout(TEST_TIMEOUT, answered).await.unwrap();
        assert_eq!(page.status, status, "{audience}: {}", page.describe());
    }
}

#[tokio::test]
async fn a_provider_without_id_tokens_has_no_back_channel() {
    let provider = StandIn::start().await;
    let app = RecordingUpstream::start().await;
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url());
    let gateway = Gateway::start(settings.with(crate::support::scene::ROUTES));
    let request = "POST /oauth2/backchannel_logout HTTP/1.1\r\nHost: localhost\r\n\
                   Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 18\r\n\r\n\
                   logout_token=a.b.c";
    let outcome = exchange(gateway.address(), request.as_bytes(), 1).await;
    assert_eq!(outcome.statuses(), [400]);
}

#[tokio::test]
async fn the_log_names_the_number_of_ended_sessions_and_contains_no_token() {
    let provider = StandIn::start().await;
    name_sessions(&provider);
    let app = RecordingUpstream::start().await;
    let gateway = Process::start(settings(&provider.url(), &app.url(), &[])).await;
    signed_in(&gateway).await;
    let mut draft = draft_of(&provider, Clock::system().now(), "alice");
    draft.claims["jti"] = "canary-jti".into();
    let token = draft.signed();
    let page = send_form(gateway.address(), &[("logout_token", &token)]).await;
    assert_accepted(&page);
    let ended = |log: &str| log.contains("Sessions ended by request");
    gateway.wait_for_log(ended).await;
    let log = gateway.log();
    let (signed, _) = token.rsplit_once('.').unwrap();
    assert!(log.contains("signed_out_at_provider"), "{log}");
    assert!(
        !log.contains(signed) && !log.contains("canary-jti"),
        "{log}"
    );
}

#[tokio::test]
async fn b_19_while_the_store_fails_the_provider_should_try_again() {
    let provider = StandIn::start().await;
    name_sessions(&provider);
    let app = RecordingUpstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let stored = stored_at(&StoreFolder::new(folder.path()), folder.path());
    let settings = settings(&provider.url(), &app.url(), &[]).with(&stored);
    let gateway = Process::start(settings).await;
    let browser = signed_in(&gateway).await;
    limit_file_size(gateway.id(), "1");
    let token = draft_of(&provider, Clock::system().now(), "alice").signed();
    let form = [("logout_token", &*token)];
    let page = send_form(gateway.address(), &form).await;
    assert_eq!(page.status, 503, "{}", page.describe());
    assert_eq!(page.field("cache-control"), Some("no-store"));
    assert!(is_signed_in(&browser).await);
    limit_file_size(gateway.id(), "unlimited");
    // The store pauses after a failed write. The provider then sends the same token again.
    let accepted = async { while send_form(gateway.address(), &form).await.status != 200 {} };
    tokio::time::timeout(TEST_TIMEOUT, accepted).await.unwrap();
    assert!(!is_signed_in(&browser).await);
}

/// A browser in which Alice is signed in.
async fn signed_in(gateway: &Process) -> Browser {
    let browser = Browser::new().leading(ORIGIN, gateway.address());
    let callback = browser.follow(&browser.open(&url("/")).await).await;
    let page = browser.follow_all(callback).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    browser
}
