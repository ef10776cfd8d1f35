//! Sessions and their cookies.

use std::collections::BTreeSet;
use std::time::Duration;

use sidegate::clock::{Clock, Timestamp};

use crate::support::browser::Browser;
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::{Gateway, Settings};
use crate::support::jar::SameSite;
use crate::support::process::Process;
use crate::support::provider::StandIn;
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, ROUTES, SESSION, Scene, assert_nothing_opened, figure, url};
use crate::support::upstream::RecordingUpstream;

async fn status_with(scene: &Scene, cookie: &str) -> u16 {
    let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n");
    status_of(scene, request.as_bytes()).await
}

async fn status_of(scene: &Scene, request: &[u8]) -> u16 {
    exchange(scene.gateway.address(), request, 1)
        .await
        .responses[0]
        .status()
}

#[tokio::test]
async fn c_01_our_cookies_have_every_attribute() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let start = browser.open(&url("/")).await;
    let callback = browser.follow(&start).await;
    let answer = browser.follow(&callback).await;
    for text in start.set_cookies().iter().chain(&answer.set_cookies()) {
        // The cookie of a known browser belongs only to the redirection endpoint.
        let known = text.starts_with("__Secure-sidegate-known=")
            && text.contains("; Path=/oauth2/callback;");
        assert!(text.starts_with("__Host-sidegate") || known, "{text}");
        assert!(
            text.len() < 1024 && !text.to_lowercase().contains("domain"),
            "{text}"
        );
    }
    let session = browser
        .cookies(ORIGIN)
        .into_iter()
        .find(|c| c.name == SESSION)
        .unwrap();
    assert!(session.secure && session.http_only, "{session:?}");
    assert_eq!(
        (session.same_site, session.path.as_str()),
        (SameSite::Lax, "/")
    );
    // 256 bits need at least 43 characters.
    assert!(session.value.len() >= 43, "{session:?}");
    assert!(
        session
            .value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    );
    assert!(answer.field("cache-control").unwrap().contains("no-store"));
}

#[tokio::test]
async fn c_02_two_different_session_cookies_count_as_none() {
    let scene = Scene::new().await;
    let (alice, bob) = (scene.cookie("alice").await, scene.cookie("bob").await);
    assert_eq!(status_with(&scene, &alice).await, 200);
    for cookie in [
        format!("{alice}; {bob}"),
        format!("{bob}; {alice}"),
        format!("{SESSION}=evil; {alice}"),
        format!("{alice}; {SESSION}=evil"),
        format!("{alice}; {alice}; {SESSION}="),
    ] {
        assert_eq!(status_with(&scene, &cookie).await, 401, "{cookie}");
    }
    assert_eq!(status_with(&scene, &format!("{alice}; {alice}")).await, 200);
}

#[tokio::test]
async fn c_03_unusual_cookies_neither_count_as_ours_nor_hide_ours() {
    let scene = Scene::new().await;
    let alice = scene.cookie("alice").await;
    let value = alice.split_once('=').unwrap().1;
    let send = |before: &[u8], after: &[u8]| {
        let mut request = b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: ".to_vec();
        request.extend_from_slice(before);
        request.extend_from_slice(after);
        request.extend_from_slice(b"\r\n\r\n");
        request
    };
    // A cookie with another spelling of the name is not the gateway's cookie.
    let names: [&[u8]; 8] = [
        b"\xe2\x80\x80__Host-sidegate",
        b"\xc2\xa0__Host-sidegate",
        b"\xc2\x85__Host-sidegate",
        b"__HOST-sidegate",
        b"__host-sidegate",
        b"=__Host-sidegate",
        b"$Version=1,__Host-sidegate",
        b"x, __Host-sidegate",
    ];
    for name in names {
        let request = send(name, format!("={value}").as_bytes());
        assert_eq!(
            status_of(&scene, &request).await,
            401,
            "{}",
            name.escape_ascii()
        );
    }
    let quoted = send(b"", format!("{SESSION}=\"{value}\"").as_bytes());
    assert_eq!(status_of(&scene, &quoted).await, 401);
    // No cookie with another spelling hides the valid cookie.
    let beside: [&[u8]; 7] = [
        b"\xff\xfe; ",
        b";;;=; ",
        b"\xe2\x80\x80__Host-sidegate=evil; ",
        b"__host-sidegate=evil; ",
        b"x=\"; ",
        b"$Version=1; $Path=/; ",
        b"novalue; ",
    ];
    for before in beside {
        let request = send(before, alice.as_bytes());
        assert_eq!(
            status_of(&scene, &request).await,
            200,
            "{}",
            before.escape_ascii()
        );
    }
}

#[tokio::test]
async fn c_04_two_cookie_lines_are_read_as_one() {
    let scene = Scene::new().await;
    let alice = scene.cookie("alice").await;
    let request =
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nCookie: a=1\r\nCookie: {alice}\r\n\r\n");
    assert_eq!(status_of(&scene, request.as_bytes()).await, 200);
    assert_eq!(
        scene.app.last().head.value("cookie").as_deref(),
        Some("a=1")
    );
    let request = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {SESSION}=x\r\nCookie: {alice}\r\n\r\n"
    );
    assert_eq!(status_of(&scene, request.as_bytes()).await, 401);
}

#[tokio::test]
async fn c_05_huge_cookies_are_refused_or_no_session() {
    let scene = Scene::new().await;
    for cookie in [
        "x".repeat(8000),
        format!("{SESSION}={}", "x".repeat(8000)),
        ";".repeat(10_000),
        "a=b; ".repeat(3000),
        format!("{SESSION}=n:99999999"),
    ] {
        assert_eq!(
            status_with(&scene, &cookie).await,
            401,
            "{} bytes",
            cookie.len()
        );
    }
    for length in [65_536, 1_000_000] {
        assert_eq!(
            status_with(&scene, &"x".repeat(length)).await,
            431,
            "{length} bytes"
        );
    }
}

#[tokio::test]
async fn c_06_a_changed_session_id_is_no_session() {
    let scene = Scene::new().await;
    let alice = scene.cookie("alice").await;
    let bob = scene.cookie("bob").await;
    let value = alice.split_once('=').unwrap().1;
    let other = bob.split_once('=').unwrap().1;
    let before = scene.app.count();
    let mut attempts = vec![
        format!("{value}A"),
        format!("{value}="),
        value.to_uppercase(),
    ];
    attempts.extend(
        (0..value.len())
            .step_by(3)
            .map(|length| value[..length].to_owned()),
    );
    attempts.push(format!("{}{}", &value[..20], &other[20..]));
    for at in (0..value.len()).step_by(3) {
        let mut bytes = value.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'Q' } else { b'A' };
        attempts.push(String::from_utf8(bytes).unwrap());
    }
    for attempt in attempts {
        assert_eq!(
            status_with(&scene, &format!("{SESSION}={attempt}")).await,
            401,
            "{attempt}"
        );
    }
    assert_eq!(scene.app.count(), before);
}

#[tokio::test]
async fn c_09_losing_the_cookie_only_means_a_new_login() {
    let scene = Scene::new().await;
    let browser = scene.signed_in("alice").await;
    browser.forget(SESSION);
    browser.plant(ORIGIN, "sidegate=x; Path=/");
    assert_eq!(browser.fetch(&url("/")).await.status, 401);
    assert_eq!(browser.visit(&url("/")).await.text(), "seen");
}

#[tokio::test]
async fn c_11_session_ids_do_not_repeat() {
    let scene = Scene::new().await;
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        assert!(seen.insert(scene.cookie("alice").await));
    }
}

#[tokio::test]
async fn c_14_a_planted_session_id_never_counts() {
    let scene = Scene::new().await;
    let attacker = scene.cookie("mallory").await;
    let planted = attacker.split_once('=').unwrap().1.to_owned();
    let victim = scene.browser_of("alice");
    let never = "A".repeat(planted.len());
    victim.plant(ORIGIN, &format!("{SESSION}={never}; Path=/; Secure"));
    assert_eq!(victim.visit(&url("/")).await.text(), "seen");
    assert_ne!(victim.cookie(ORIGIN, SESSION).unwrap(), never);
    assert_eq!(
        status_with(&scene, &format!("{SESSION}={never}")).await,
        401
    );
    // A login in a browser with the attacker's live session ends the attacker's session.
    let victim = scene.browser_of("alice");
    victim.plant(ORIGIN, &format!("{SESSION}={planted}; Path=/; Secure"));
    let page = victim.visit(&url("/oauth2/sign_in?prompt=login")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_ne!(victim.cookie(ORIGIN, SESSION).unwrap(), planted);
    assert_eq!(status_with(&scene, &attacker).await, 401);
}

#[tokio::test]
async fn c_15_a_session_ends_by_its_deadlines() {
    let scene =
        Scene::with(|settings| settings.with("[session]\nidle_secs = 600\nabsolute_secs = 3600\n"))
            .await;
    let idle = scene.cookie("alice").await;
    scene.gateway.advance(Duration::from_secs(599));
    assert_eq!(status_with(&scene, &idle).await, 200);
    scene.gateway.advance(Duration::from_secs(601));
    assert_eq!(status_with(&scene, &idle).await, 401);
    let busy = scene.cookie("alice").await;
    for _ in 0..7 {
        scene.gateway.advance(Duration::from_secs(500));
        assert_eq!(status_with(&scene, &busy).await, 200);
    }
    scene.gateway.advance(Duration::from_secs(101));
    assert_eq!(status_with(&scene, &busy).await, 401);
}

#[tokio::test]
async fn a_06_a_login_that_took_too_long_is_refused_and_can_be_started_again() {
    let scene = Scene::new().await;
    let browser = scene.browser();
    let callback = scene.until_callback(&browser, "/page").await;
    scene.gateway.advance(Duration::from_secs(601));
    let page = browser.follow(&callback).await;
    assert_nothing_opened(&browser, &page, "400 state_expired", "late");
    assert!(page.text().contains("href=\"/page\""), "{}", page.text());
    assert_eq!(scene.provider.exchanges().len(), 0);
}

#[tokio::test]
async fn x_16_people_sign_in_whatever_year_it_is() {
    // The times are before, at and after the limits of 31 and 32 bits of seconds. One of the times
    // is zero, as on a machine whose clock starts at zero.
    let years = [0, (1 << 31) - 10, 1 << 31, (1 << 32) - 10, 1 << 32, 1 << 40];
    for start in years.map(|seconds: u64| Timestamp::from_millis(seconds * 1000)) {
        let provider = StandIn::start().await;
        let app = RecordingUpstream::start().await;
        let settings = Settings::new(ORIGIN, &provider.url(), &app.url()).with(ROUTES);
        let settings = settings.with("[session]\nidle_secs = 600\nabsolute_secs = 3600\n");
        let scene = Scene {
            gateway: Gateway::with_clock(settings, Clock::manual(start)),
            provider,
            app,
        };
        let browser = scene.browser();
        let callback = scene.until_callback(&browser, "/page").await;
        // The limit of 31 or 32 bits passes during the login.
        scene.gateway.advance(Duration::from_secs(20));
        let page = browser.follow_all(callback).await;
        assert_eq!(page.text(), "seen", "{start:?}: {}", page.describe());
        let session = browser.cookies(ORIGIN).into_iter();
        let session = session.into_iter().find(|c| c.name == SESSION).unwrap();
        assert_eq!(session.max_age, Some(3600), "{start:?}");
        let cookie = format!("{SESSION}={}", session.value);
        scene.gateway.advance(Duration::from_secs(590));
        assert_eq!(status_with(&scene, &cookie).await, 200, "{start:?}");
        scene.gateway.advance(Duration::from_secs(601));
        assert_eq!(status_with(&scene, &cookie).await, 401, "{start:?}");
        // The deadline of a login works in every year.
        let late = scene.browser();
        let callback = scene.until_callback(&late, "/page").await;
        scene.gateway.advance(Duration::from_secs(601));
        let page = late.follow(&callback).await;
        assert_nothing_opened(&late, &page, "400 state_expired", "late");
    }
}

#[tokio::test]
async fn c_20_signing_out_ends_the_session_everywhere() {
    let scene = Scene::new().await;
    let browser = scene.signed_in("alice").await;
    let session = browser.cookie(ORIGIN, SESSION).unwrap();
    let form: [(&str, &str); 0] = [];
    let sign_out = BrowserRequest::navigation(&url("/oauth2/sign_out"))
        .form(&form)
        .from(ORIGIN);
    let page = browser.send(sign_out).await;
    assert_eq!(page.status, 303, "{}", page.describe());
    assert!(page.field("cache-control").unwrap().contains("no-store"));
    let page = browser.follow(&page).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    assert!(
        browser.cookies(ORIGIN).is_empty(),
        "{:?}",
        browser.cookies(ORIGIN)
    );
    assert_eq!(
        status_with(&scene, &format!("{SESSION}={session}")).await,
        401
    );
}

#[tokio::test]
async fn c_21_other_sites_cannot_sign_anybody_out() {
    let scene = Scene::new().await;
    let browser = scene.signed_in("alice").await;
    let form: [(&str, &str); 0] = [];
    let target = url("/oauth2/sign_out");
    for visit in [
        BrowserRequest::navigation(&target)
            .form(&form)
            .from("https://evil.test"),
        BrowserRequest::navigation(&target).from("https://evil.test"),
        BrowserRequest::image(&target).from("https://evil.test"),
        BrowserRequest::fetch(&target)
            .method("POST")
            .from("https://evil.test")
            .field("origin", "null"),
        BrowserRequest::navigation(&target),
    ] {
        let page = browser.send(visit).await;
        assert!(page.set_cookies().is_empty(), "{}", page.describe());
    }
    // The request has no fetch metadata and no origin.
    let cookie = format!("{SESSION}={}", browser.cookie(ORIGIN, SESSION).unwrap());
    let bare = format!(
        "POST /oauth2/sign_out HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\nContent-Length: 0\r\n\r\n"
    );
    assert_eq!(status_of(&scene, bare.as_bytes()).await, 403);
    assert_eq!(browser.fetch(&url("/")).await.status, 200);
}

#[tokio::test]
async fn g_10_many_people_at_once_get_their_own_sessions() {
    let scene = Scene::new().await;
    scene.app.answer_by(|request| {
        let user = request.head.value("x-forwarded-user").unwrap_or_default();
        let bearer = request.head.value("authorization").unwrap_or_default();
        crate::support::upstream::Answer::ok(&format!("{user} {bearer}"))
    });
    let mut people = tokio::task::JoinSet::new();
    for number in 0..60 {
        let name = format!("user{number}");
        let browser = scene.browser_of(&name);
        people.spawn(async move {
            for _ in 0..3 {
                let text = browser.visit(&url("/")).await.text();
                assert!(
                    text.starts_with(&format!("{name} Bearer {name}.")),
                    "{name} got {text}"
                );
            }
        });
    }
    people.join_all().await;
    assert_eq!(scene.provider.exchanges().len(), 60);
}

#[tokio::test]
async fn a_store_in_memory_that_is_too_small_leaves_a_warning_that_names_its_setting() {
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url())
        .with(ROUTES)
        .with("[session]\ncapacity_mib = 1\n");
    let process = Process::start(settings).await;
    let sign_in = async |number: usize| {
        let browser = Browser::new().leading(ORIGIN, process.address());
        browser.plant(&provider.url(), &format!("user=user{number}; Path=/"));
        assert_eq!(browser.visit(&url("/")).await.text(), "seen");
    };
    let warning = "session.capacity_mib is too small";
    // The memory has room for at least 100 sessions of usual size.
    for number in 0..100 {
        sign_in(number).await;
    }
    let pushed_out = figure(process.operations(), "sidegate_sessions_pushed_out_total");
    assert_eq!(pushed_out.await, Some(0));
    // The memory has room for about 60 sessions with a long token.
    let token = serde_json::json!({ "refresh_token": "~".repeat(16_000) });
    provider.token_members(token);
    for number in 100..200 {
        sign_in(number).await;
    }
    process.wait_for_log(|log| log.contains(warning)).await;
    let log = process.log();
    assert!(
        log.contains("\"setting\":\"session.capacity_mib\""),
        "{log}"
    );
}
