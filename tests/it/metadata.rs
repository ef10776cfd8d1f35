//! The source of a provider's endpoints and keys, and the protection against harmful metadata and
//! answers.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sidegate::clock::Clock;

use crate::support::openid::OpenIdScene;
use crate::support::provider::{Endpoint, StandIn};
use crate::support::scene::url;
use crate::support::upstream::RecordingUpstream;

/// The time after which the gateway reads metadata and keys again.
const LATER: Duration = Duration::from_hours(2);

/// Removes the lifetime of access tokens from the token responses, so that sessions last longer
/// than an hour.
fn tokens_without_end(provider: &StandIn) {
    provider.tamper_token_response(|body| {
        body.as_object_mut().unwrap().remove("expires_in");
    });
}

/// Fails unless a login is refused before the user is sent to the provider.
async fn refused_at_once(scene: &OpenIdScene, context: &str) {
    let attempt = scene.attempt().await;
    let unusable = "502 metadata_endpoint or 502 metadata_issuer or 502 metadata_malformed or 503 metadata_malformed";
    attempt.assert_refused(unusable, context);
    for endpoint in [Endpoint::Authorization, Endpoint::Token, Endpoint::Jwks] {
        assert_eq!(scene.provider.calls(endpoint), 0, "{context}: {endpoint:?}");
    }
    let reason = attempt.reason().unwrap_or_default();
    assert!(reason.starts_with("metadata_"), "{context}: {reason}");
}

#[tokio::test]
async fn a_11_the_challenge_is_s256_whatever_the_metadata_says() {
    for methods in [
        Value::Null,
        json!(["plain"]),
        json!([]),
        json!(["plain", "S256"]),
    ] {
        let said = methods.clone();
        let scene = OpenIdScene::prepared(&[], |provider| {
            provider.metadata(move |metadata| {
                let members = metadata.as_object_mut().unwrap();
                members.remove("code_challenge_methods_supported");
                if !said.is_null() {
                    members.insert("code_challenge_methods_supported".to_owned(), said.clone());
                }
            });
        })
        .await;
        scene.signed_in("alice").await;
        let asked = scene.provider.asked();
        assert_eq!(asked["code_challenge_method"], "S256", "{methods}");
        assert_eq!(asked["code_challenge"].len(), 43, "{methods}");
    }
}

#[tokio::test]
async fn a_24_metadata_of_another_issuer_is_refused() {
    let changes: [fn(&str) -> Value; 8] = [
        |issuer| json!(format!("{issuer}/")),
        |issuer| json!(issuer.replace("http:", "HTTP:")),
        |issuer| json!(issuer.replace("http:", "https:")),
        |_| json!("https://other.example"),
        |issuer| json!([issuer]),
        |_| json!(""),
        |_| json!(5),
        |_| Value::Null,
    ];
    for change in changes {
        let scene = OpenIdScene::prepared(&[], |provider| {
            let issuer = change(&provider.url());
            provider.metadata(move |metadata| metadata["issuer"] = issuer.clone());
        })
        .await;
        let said = change(&scene.provider.url());
        refused_at_once(&scene, &said.to_string()).await;
        // The provider corrects its metadata.
        scene.provider.behave();
        scene.gateway.advance(Duration::from_mins(5));
        scene.signed_in("alice").await;
    }
}

#[tokio::test]
async fn a_24_x_01_metadata_with_unacceptable_endpoints_is_refused() {
    let elsewhere = RecordingUpstream::start().await;
    let other_port = elsewhere.url();
    let urls = [
        json!("file:///etc/passwd"),
        json!("javascript:alert(1)"),
        json!("ftp://127.0.0.1/x"),
        json!("http://169.254.169.254/latest/meta-data"),
        json!("http://id.example/x"),
        json!(format!("{other_port}/x")),
        json!(other_port.replace("127.0.0.1", "localhost")),
        json!(other_port.replace("http://", "http://user:password@")),
        json!(format!("{other_port}/x#fragment")),
        json!("https://169.254.169.254/x"),
        json!("https://[::1]/x"),
        json!("https://[::ffff:127.0.0.1]/x"),
        json!("https://0.0.0.0/x"),
        json!("https://localhost/x"),
        json!("/relative"),
        json!("not a URL"),
        json!(""),
        json!(5),
        json!(["https://id.example/x"]),
    ];
    let members = [
        "authorization_endpoint",
        "token_endpoint",
        "userinfo_endpoint",
        "jwks_uri",
    ];
    for member in members {
        for url in &urls {
            let said = url.clone();
            let scene = OpenIdScene::prepared(&[], |provider| {
                provider.metadata(move |metadata| metadata[member] = said.clone());
            })
            .await;
            refused_at_once(&scene, &format!("{member} {url}")).await;
        }
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn x_01_a_redirect_of_the_metadata_or_the_keys_is_not_followed() {
    use crate::support::upstream::Answer;
    let elsewhere = RecordingUpstream::start().await;
    for status in [301, 302, 303, 307, 308] {
        for (endpoint, refused) in [
            (Endpoint::Metadata, "502 metadata_status"),
            (Endpoint::Jwks, "502 keys_unavailable"),
            (Endpoint::Userinfo, "502 userinfo_failed"),
        ] {
            let location = elsewhere.url();
            let scene = OpenIdScene::prepared(&[], |provider| {
                provider.instead(
                    endpoint,
                    Answer::with(status, &[("Location", &location)], ""),
                );
            })
            .await;
            let attempt = scene.attempt().await;
            attempt.assert_refused(refused, &format!("{status} of {endpoint:?}"));
        }
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_25_metadata_that_turns_bad_does_not_replace_the_good() {
    let elsewhere = RecordingUpstream::start().await;
    let evil = format!("{}/x", elsewhere.url());
    let scene = OpenIdScene::prepared(&[], tokens_without_end).await;
    scene.signed_in("alice").await;
    for (member, value) in [
        ("issuer", "https://other.example"),
        ("token_endpoint", &evil),
        ("token_endpoint", "http://id.example/token"),
        ("authorization_endpoint", &evil),
        ("userinfo_endpoint", &evil),
        ("jwks_uri", "file:///etc/passwd"),
    ] {
        let said = value.to_owned();
        scene
            .provider
            .metadata(move |metadata| metadata[member] = said.clone().into());
        let before = scene.provider.calls(Endpoint::Metadata);
        scene.gateway.advance(LATER);
        // The first login may only cause the gateway to read the metadata again. The second login
        // uses the new metadata.
        scene.signed_in("alice").await;
        scene
            .provider
            .wait_for(Endpoint::Metadata, before + 1)
            .await;
        scene.signed_in("alice").await;
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn invalid_metadata_is_refused() {
    let (json, html) = ("application/json", "text/html");
    let (status_now, status_later) = ("502 metadata_status", "503 metadata_status");
    let (never, later) = ("502 metadata_malformed", "503 metadata_malformed");
    for (status, kind, body, refused) in [
        (404, html, "<h1>Not found</h1>", status_now),
        (500, json, "{}", status_later),
        (200, html, "<h1>Welcome</h1>", later),
        (200, json, "", later),
        (200, json, "[]", later),
        (200, json, "null", later),
        (200, json, "{}", never),
        (200, json, "{\"issuer\":", later),
    ] {
        let scene = OpenIdScene::prepared(&[], |provider| {
            provider.raw(Endpoint::Metadata, status, kind, body);
        })
        .await;
        let attempt = scene.attempt().await;
        attempt.assert_refused(refused, &format!("{status} {kind} {body}"));
        assert_eq!(attempt.calls(Endpoint::Authorization), 0, "{body}");
    }
    // A repeated member.
    let scene = OpenIdScene::prepared(&[], |provider| {
        provider.rewrite(Endpoint::Metadata, |body| {
            let body = body.replacen('{', "{\"token_endpoint\":\"https://evil.example\",", 1);
            crate::support::upstream::Answer::with(
                200,
                &[("Content-Type", "application/json")],
                &body,
            )
        });
    })
    .await;
    refused_at_once(&scene, "twice").await;
}

#[tokio::test]
async fn endpoints_are_called_as_the_metadata_writes_them() {
    let scene = OpenIdScene::prepared(&[], |provider| {
        provider.metadata(|metadata| {
            for member in [
                "authorization_endpoint",
                "token_endpoint",
                "userinfo_endpoint",
            ] {
                let text = metadata[member].as_str().unwrap();
                let (origin, path) = text.rsplit_once('/').unwrap();
                metadata[member] = format!("{origin}//{path}?tenant=a%20b").into();
            }
        });
    })
    .await;
    scene.signed_in("alice").await;
    for (endpoint, target) in [
        (Endpoint::Authorization, "//authorize?tenant=a%20b&"),
        (Endpoint::Token, "//token?tenant=a%20b"),
        (Endpoint::Userinfo, "//userinfo?tenant=a%20b"),
    ] {
        let [request] = <[_; 1]>::try_from(scene.provider.requests(endpoint)).unwrap();
        assert!(request.target().starts_with(target), "{}", request.target());
    }
}

#[tokio::test]
async fn the_client_authentication_method_comes_from_the_metadata_and_is_never_guessed() {
    for (methods, in_body) in [
        (json!(["client_secret_post"]), true),
        (json!(["client_secret_basic", "client_secret_post"]), false),
        (json!(["private_key_jwt", "client_secret_post"]), true),
        (Value::Null, false),
    ] {
        let said = methods.clone();
        let automatic = [("client_authentication", "\"auto\"")];
        let scene = OpenIdScene::prepared(&automatic, |provider| {
            provider.metadata(move |metadata| {
                let members = metadata.as_object_mut().unwrap();
                members.remove("token_endpoint_auth_methods_supported");
                if !said.is_null() {
                    let name = "token_endpoint_auth_methods_supported".to_owned();
                    members.insert(name, said.clone());
                }
            });
        })
        .await;
        scene.signed_in("alice").await;
        let [request] = <[_; 1]>::try_from(scene.provider.requests(Endpoint::Token)).unwrap();
        let sent = scene.provider.posted(Endpoint::Token);
        assert_eq!(sent.contains_key("client_secret"), in_body, "{methods}");
        let basic = request.head.value("authorization").is_some();
        assert_ne!(basic, in_body, "{methods}");
    }
}

#[tokio::test]
async fn g_13_a_hundred_browsers_at_once_make_one_call_for_metadata_and_one_for_keys() {
    let scene = Arc::new(OpenIdScene::new().await);
    let mut browsers = tokio::task::JoinSet::new();
    for number in 0..100 {
        let scene = Arc::clone(&scene);
        browsers.spawn(async move { scene.signed_in(&format!("user{number}")).await });
    }
    assert_eq!(browsers.join_all().await.len(), 100);
    assert_eq!(scene.provider.calls(Endpoint::Metadata), 1);
    assert_eq!(scene.provider.calls(Endpoint::Jwks), 1);
    assert_eq!(scene.provider.calls(Endpoint::Token), 100);
}

#[tokio::test]
async fn g_13_metadata_and_keys_that_are_due_are_read_once_while_the_old_ones_serve() {
    let scene = Arc::new(OpenIdScene::prepared(&[], tokens_without_end).await);
    scene.signed_in("alice").await;
    let hold = scene.provider.hold(Endpoint::Metadata);
    scene.gateway.advance(LATER);
    let mut browsers = tokio::task::JoinSet::new();
    for number in 0..50 {
        let scene = Arc::clone(&scene);
        browsers.spawn(async move { scene.signed_in(&format!("user{number}")).await });
    }
    // All browsers wait while the metadata is still being read.
    assert_eq!(browsers.join_all().await.len(), 50);
    scene.provider.wait_for(Endpoint::Metadata, 2).await;
    hold.release();
    scene.signed_in("bob").await;
    assert_eq!(scene.provider.calls(Endpoint::Metadata), 2);
    assert!(scene.provider.calls(Endpoint::Jwks) <= 2);
}

#[tokio::test]
async fn a_provider_that_is_down_at_the_start_is_found_when_it_is_up() {
    let clock = Clock::manual(Clock::system().now());
    let mut provider = StandIn::at_time_of(&clock).await;
    provider.down().await;
    let mut scene = OpenIdScene::between(provider, &[], clock).await;
    let browser = scene.browser();
    let page = browser.open(&url("/page?x=1")).await;
    assert_eq!(page.status, 503, "{}", page.describe());
    let after: u64 = page.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&after), "{after}");
    // The page retries by itself, and the login still leads to the same page.
    assert!(
        page.text().contains("http-equiv=\"refresh\""),
        "{}",
        page.text()
    );
    assert!(page.text().contains("/page?x=1"), "{}", page.text());
    // A script gets the same information as a page.
    let page = browser.fetch(&url("/page")).await;
    assert_eq!(page.status, 401, "{}", page.describe());
    scene.provider.up().await;
    scene.gateway.advance(Duration::from_secs(after));
    let page = browser.visit(&url("/page?x=1")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(scene.app.last().target(), "/page?x=1");
}

#[tokio::test]
async fn a_provider_that_goes_down_ends_no_session() {
    let mut scene = OpenIdScene::prepared(&[], tokens_without_end).await;
    let browser = scene.signed_in("alice").await;
    scene.provider.down().await;
    assert_eq!(browser.fetch(&url("/")).await.text(), "seen");
    scene.gateway.advance(LATER);
    for _ in 0..3 {
        assert_eq!(browser.fetch(&url("/")).await.text(), "seen");
    }
    scene.provider.up().await;
    scene.gateway.advance(Duration::from_mins(1));
    scene.signed_in("bob").await;
    assert_eq!(browser.fetch(&url("/")).await.text(), "seen");
}

#[tokio::test]
async fn the_last_good_metadata_outlives_an_outage_of_its_endpoint() {
    let scene = OpenIdScene::prepared(&[], tokens_without_end).await;
    scene.signed_in("alice").await;
    for (status, body) in [(503, ""), (404, "<h1>gone</h1>"), (200, "{}")] {
        scene
            .provider
            .raw(Endpoint::Metadata, status, "text/html", body);
        scene.gateway.advance(LATER);
        scene.signed_in("alice").await;
        scene.signed_in("bob").await;
    }
}

#[tokio::test]
async fn d_25_a_silent_endpoint_does_not_delay_users_with_a_session() {
    for endpoint in [
        Endpoint::Token,
        Endpoint::Userinfo,
        Endpoint::Jwks,
        Endpoint::Metadata,
    ] {
        let scene = Arc::new(OpenIdScene::prepared(&[], tokens_without_end).await);
        let alice = scene.signed_in("alice").await;
        let before = scene.provider.calls(endpoint);
        let hold = scene.provider.hold(endpoint);
        if endpoint == Endpoint::Jwks {
            scene.provider.rotate_keys();
        }
        scene.gateway.advance(LATER);
        let login = tokio::spawn({
            let scene = Arc::clone(&scene);
            async move { scene.signed_in("bob").await }
        });
        scene.provider.wait_for(endpoint, before + 1).await;
        for _ in 0..20 {
            assert_eq!(alice.fetch(&url("/")).await.text(), "seen", "{endpoint:?}");
        }
        hold.release();
        login.await.unwrap();
    }
}

#[tokio::test]
async fn d_25_concurrent_calls_stay_within_the_limit() {
    let scene = Arc::new(OpenIdScene::with(&[("concurrent_calls", "2")]).await);
    let alice = scene.signed_in("alice").await;
    let before = scene.provider.calls(Endpoint::Token);
    let hold = scene.provider.hold(Endpoint::Token);
    let mut logins = tokio::task::JoinSet::new();
    for number in 0..6 {
        let scene = Arc::clone(&scene);
        logins.spawn(async move { scene.signed_in(&format!("user{number}")).await });
    }
    scene.provider.wait_for(Endpoint::Token, before + 2).await;
    // While these requests run, the other logins can call the provider. A request with a session
    // does not wait for the logins.
    for _ in 0..100 {
        assert_eq!(alice.fetch(&url("/")).await.text(), "seen");
    }
    assert_eq!(scene.provider.calls(Endpoint::Token), before + 2);
    hold.release();
    assert_eq!(logins.join_all().await.len(), 6);
    assert_eq!(scene.provider.calls(Endpoint::Token), before + 6);
}
