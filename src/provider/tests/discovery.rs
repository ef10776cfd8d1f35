//! Tests how the metadata and the keys of a provider are kept up to date.

use serde_json::{Value, json as value};
use tokio::task::JoinSet;

use super::signing::*;
use super::*;
use crate::provider::key_cache::KeyCache;
use crate::provider::key_cache::TokenOrigin;
use crate::provider::settings::GrantType;
use crate::provider::token::TokenRequest;

fn metadata(issuer: &str, changes: Value) -> String {
    let mut metadata = value!({
        "issuer": issuer,
        "authorization_endpoint": "https://id.example/authorize",
        "token_endpoint": "https://id.example/token",
        "jwks_uri": format!("{issuer}/jwks"),
        "authorization_response_iss_parameter_supported": true,
    });
    let Value::Object(changes) = changes else {
        panic!("not an object");
    };
    metadata.as_object_mut().unwrap().extend(changes);
    answer("200 OK", "application/json", &metadata.to_string())
}

fn keys(entries: &[Value]) -> String {
    let set = value!({ "keys": entries });
    answer("200 OK", "application/json", &set.to_string())
}

fn good_keys() -> String {
    keys(&[RSA.jwk_with(value!({ "kid": "one" }))])
}

/// Returns a provider whose metadata and keys come from `server`.
fn provider(files: &Files, server: &Server) -> Provider {
    provider_with(files, server, "")
}

/// Returns a provider that reads its metadata and keys from `server`. The argument `further`
/// contains more settings of the provider, as TOML.
fn provider_with(files: &Files, server: &Server, further: &str) -> Provider {
    let text = format!(
        "issuer = \"{}\"\nclient_id = \"3\"\nclient_secret_file = \"{}/secret\"\n{further}",
        server.url,
        files.0.path().display()
    );
    Provider::new("op", &settings("oidc", &text), &Environment::default()).unwrap()
}

fn asked(provider: &Provider) -> Result<String, NotReady> {
    provider.authorization_url(&AuthorizationRequest {
        redirect_uri: REDIRECT_URI,
        state: "state",
        code_challenge: "challenge",
        nonce: "nonce",
        passed: &[],
        prompt: Prompt::AsNeeded,
    })
}

/// After the reload, the server does not respond to any request.
#[tokio::test]
async fn a_reload_keeps_the_metadata_and_keys_if_their_urls_are_the_same() {
    let answers = |url: &str| vec![metadata(url, value!({})), good_keys()];
    let server = Server::start_by(answers).await;
    let (files, clock) = (Files::new(), Clock::manual(NOW));
    let before = provider(&files, &server);
    before.ready(&clock).await.unwrap();
    let before = Arc::new(before);
    let renamed = provider_with(&files, &server, "display_name = \"A\"\n");
    let renamed = renamed.replacing(&before);
    assert!(asked(&renamed).is_ok());
    let info = renamed.info().unwrap();
    renamed
        .grant_verifier
        .first_keys(&info, &clock)
        .await
        .unwrap();
    // Metadata at another URL may have other contents, so the new provider does not take over the
    // old metadata.
    let elsewhere = "metadata_url = \"http://127.0.0.1:1/metadata\"\n";
    let elsewhere = provider_with(&files, &server, elsewhere).replacing(&before);
    assert_eq!(asked(&elsewhere).unwrap_err().reason(), "metadata_missing");
}

#[tokio::test]
async fn no_browser_is_redirected_before_metadata_and_keys_were_read() {
    let answers = |url: &str| vec![metadata(url, value!({})), good_keys()];
    let mut server = Server::start_by(answers).await;
    let (files, clock) = (Files::new(), Clock::manual(NOW));
    let provider = provider(&files, &server);
    assert!(provider.recent_readiness(NOW).is_none());
    assert_eq!(asked(&provider).unwrap_err().reason(), "metadata_missing");
    let early = provider.check_response_issuer(None).unwrap_err();
    assert_eq!(early.reason(), "metadata_missing");
    provider.ready(&clock).await.unwrap();
    let line = server.next().line().to_owned();
    assert!(line.starts_with("GET /.well-known/openid-configuration "));
    assert!(server.next().line().starts_with("GET /jwks "));
    let url = asked(&provider).unwrap();
    assert!(url.starts_with("https://id.example/authorize?"), "{url}");
    // A second check shortly after the first check sends no request.
    assert!(matches!(provider.recent_readiness(NOW), Some(Ok(()))));
    provider.ready(&clock).await.unwrap();
    assert!(server.has_no_more());
}

#[tokio::test]
async fn no_browser_is_redirected_without_usable_keys() {
    let answers = |url: &str| vec![metadata(url, value!({})), keys(&[])];
    let server = Server::start_by(answers).await;
    let (files, clock) = (Files::new(), Clock::manual(NOW));
    let provider = provider(&files, &server);
    let error = provider.ready(&clock).await.unwrap_err();
    assert_eq!(error.reason(), "keys_unusable");
    assert!(!error.class().passes);
    let again = provider.recent_readiness(NOW).unwrap().unwrap_err();
    assert_eq!(again.reason(), "keys_unusable");
}

#[tokio::test]
async fn a_21_a_22_a_promised_iss_parameter_is_required() {
    let answers = |url: &str| vec![metadata(url, value!({})), good_keys()];
    let server = Server::start_by(answers).await;
    let (files, clock) = (Files::new(), Clock::manual(NOW));
    let provider = provider(&files, &server);
    // The gateway can check the `iss` of a response before the gateway has read any metadata.
    assert!(provider.check_response_issuer(Some(&server.url)).is_ok());
    provider.ready(&clock).await.unwrap();
    assert!(provider.check_response_issuer(Some(&server.url)).is_ok());
    let (slash, upper) = (format!("{}/", server.url), server.url.to_uppercase());
    for other in [
        None,
        Some(""),
        Some(&*slash),
        Some(&*upper),
        Some("https://evil.example"),
    ] {
        let error = provider.check_response_issuer(other).unwrap_err();
        assert_eq!(error.reason(), "response_issuer", "{other:?}");
    }
}

#[tokio::test]
async fn a_25_invalid_metadata_changes_nothing() {
    let refused = |url: &str| {
        [
            (
                metadata(url, value!({ "issuer": "https://evil.example" })),
                "metadata_issuer",
            ),
            (
                metadata(url, value!({ "token_endpoint": "http://id.example/token" })),
                "metadata_endpoint",
            ),
            (
                metadata(url, value!({ "token_endpoint": null })),
                "provider_settings",
            ),
            (
                answer("503 Service Unavailable", "text/html", "later"),
                "metadata_status",
            ),
            (
                answer("200 OK", "text/html", "<html>"),
                "metadata_malformed",
            ),
        ]
    };
    let answers = |url: &str| {
        let good = [metadata(url, value!({})), good_keys()];
        let bad = refused(url).map(|(answer, _reason)| answer);
        let moved = value!({ "authorization_endpoint": "https://login.example/a" });
        let moved = [metadata(url, moved)];
        good.into_iter().chain(bad).chain(moved).collect()
    };
    let server = Server::start_by(answers).await;
    let (files, clock) = (Files::new(), Clock::manual(NOW));
    let provider = provider(&files, &server);
    provider.ready(&clock).await.unwrap();
    let before = asked(&provider).unwrap();
    for (_answer, reason) in refused(&server.url) {
        let error = provider.discover().await.unwrap_err();
        let text = chain(&error);
        assert_eq!(error.reason(), reason, "{text}");
        let url = format!("{}/.well-known/openid-configuration", server.url);
        let named = reason.starts_with("metadata");
        assert_eq!(text.contains(&url), named, "{text}");
        assert_eq!(asked(&provider).unwrap(), before);
    }
    provider.discover().await.unwrap();
    let after = asked(&provider).unwrap();
    assert!(after.starts_with("https://login.example/a?"), "{after}");
}

#[tokio::test]
async fn a_secret_that_changes_is_read_again() {
    let files = Files::new();
    let provider = Arc::new(files.provider("oauth2", "https://id.example", ENDPOINTS));
    let sent = || {
        let info = provider.info().unwrap();
        let request = TokenRequest::new("authorization_code", &info.client_auth, NOW);
        request.unwrap().authorization.unwrap()
    };
    let before = sent();
    tokio::time::pause();
    let clock = Clock::manual(NOW);
    let changed = async {
        files.write("secret", "\n");
        tokio::time::sleep(Duration::from_secs(35)).await;
        // The gateway ignores an empty file, because another program may still be writing the file.
        assert_eq!(sent(), before);
        files.write("secret", "another-secret\n");
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if sent() != before {
                return;
            }
        }
        panic!("the new secret is not used");
    };
    tokio::select! {
        () = provider.maintain(clock) => panic!("the maintenance has ended"),
        () = changed => {}
    }
}

#[tokio::test]
async fn changed_certificate_authorities_are_used_without_a_restart() {
    let files = Files::new();
    let [one, other] = ["a", "b"].map(|name| {
        let folder = files.0.path().join(name);
        let written = crate::tls::development_certificates(&folder, &[], NOW);
        fs::read_to_string(written.unwrap().authority).unwrap()
    });
    let ca = files.write("ca.pem", &one);
    let further = format!("ca_file = \"{}\"\n{ENDPOINTS}", ca.display());
    let provider = Arc::new(files.provider("oauth2", "https://id.example", &further));
    let trusted = || {
        provider
            .call_settings
            .trust
            .as_ref()
            .unwrap()
            .client_config()
    };
    let before = trusted();
    tokio::time::pause();
    let changed = async {
        files.write("ca.pem", other.split_at(other.len() / 2).0);
        tokio::time::sleep(Duration::from_secs(35)).await;
        assert!(Arc::ptr_eq(&before, &trusted()), "the file is incomplete");
        files.write("ca.pem", &other);
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if !Arc::ptr_eq(&before, &trusted()) {
                return;
            }
        }
        panic!("the new authorities are not used");
    };
    tokio::select! {
        () = provider.maintain(Clock::manual(NOW)) => panic!("the maintenance has ended"),
        () = changed => {}
    }
}

#[tokio::test(start_paused = true)]
async fn the_maintenance_ends_when_the_provider_is_dropped() {
    let files = Files::new();
    let provider = Arc::new(files.provider("oauth2", "https://id.example", ENDPOINTS));
    let maintained = tokio::spawn(provider.maintain(Clock::manual(NOW)));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!maintained.is_finished());
    let watched = Arc::downgrade(&provider);
    drop(provider);
    let ended = tokio::time::timeout(Duration::from_mins(1), maintained);
    ended.await.unwrap().unwrap();
    assert_eq!(watched.strong_count(), 0);
}

const ENDPOINTS: &str =
    "authorization_endpoint = \"/authorize\"\ntoken_endpoint = \"http://127.0.0.1:1/token\"";

/// Returns the endpoint at which `server` publishes its keys.
fn jwks_endpoint(server: &Server) -> Endpoint {
    let url = endpoint("jwks_uri", Some(&server.url), "/jwks").unwrap();
    plain_endpoint("jwks_uri", &url)
}

#[tokio::test]
async fn d_24_tokens_with_unknown_keys_cause_one_fetch_a_minute() {
    let server = &mut Server::start([(); 4].map(|()| good_keys())).await;
    let (endpoint, clock) = (jwks_endpoint(server), Clock::manual(NOW));
    let published = KeyCache::default();
    let first = published.first(&endpoint, &clock).await.unwrap();
    server.next();
    // The test makes the first fetch of the keys without a token. The limit applies only to a fetch
    // that a token with an unknown key causes. The first token with an unknown key may therefore
    // cause a second fetch immediately.
    let second = published
        .newer((&first, TokenOrigin::TokenResponse), &endpoint, &clock)
        .await;
    let second = second.unwrap();
    server.next();
    for (wait, left) in [(0, 60), (1, 59), (30, 29), (28, 1)] {
        clock.advance(Duration::from_secs(wait));
        let newer = published
            .newer((&second, TokenOrigin::TokenResponse), &endpoint, &clock)
            .await;
        let Err(KeysError::FetchedRecently { retry_after }) = newer else {
            panic!("{newer:?} after {wait} s");
        };
        assert_eq!(retry_after, Duration::from_secs(left));
    }
    assert!(server.has_no_more());
    // A caller with the older key set gets the newer key set from the cache, without a fetch.
    let given = published
        .newer((&first, TokenOrigin::TokenResponse), &endpoint, &clock)
        .await;
    assert!(Arc::ptr_eq(&given.unwrap(), &second));
    clock.advance(Duration::from_secs(1));
    let third = published
        .newer((&second, TokenOrigin::TokenResponse), &endpoint, &clock)
        .await;
    assert!(!Arc::ptr_eq(&third.unwrap(), &second));
    server.next();
}

#[tokio::test]
async fn g_13_concurrent_first_requests_for_keys_share_one_fetch() {
    let server = &mut Server::start([good_keys()]).await;
    let (endpoint, published) = (
        Arc::new(jwks_endpoint(server)),
        Arc::new(KeyCache::default()),
    );
    let mut all = JoinSet::new();
    for _ in 0..20 {
        let (endpoint, published) = (Arc::clone(&endpoint), Arc::clone(&published));
        all.spawn(async move {
            published
                .first(&endpoint, &Clock::manual(NOW))
                .await
                .map(drop)
        });
    }
    for fetched in all.join_all().await {
        fetched.unwrap();
    }
    // The periodic fetch does nothing if the keys were fetched a short time before.
    published
        .refetch(&endpoint, &Clock::manual(NOW))
        .await
        .unwrap();
    server.next();
    assert!(server.has_no_more());
}

#[tokio::test]
async fn j_79_an_unusable_key_set_does_not_replace_the_last_valid_one() {
    let bad = [
        (keys(&[]), "keys_unusable"),
        (
            answer("200 OK", "application/json", "<html>"),
            "keys_malformed",
        ),
        (
            answer("301 Moved Permanently", "text/html", ""),
            "keys_unavailable",
        ),
        (
            answer("500 Oops", "application/json", "{}"),
            "keys_unavailable",
        ),
    ];
    let answers = bad.iter().map(|(answer, _reason)| answer.clone());
    let server = Server::start([good_keys()].into_iter().chain(answers)).await;
    let (endpoint, clock) = (jwks_endpoint(&server), Clock::manual(NOW));
    let published = KeyCache::default();
    let before = published.first(&endpoint, &clock).await.unwrap();
    for (_answer, reason) in &bad {
        clock.advance(Duration::from_mins(1));
        let renewed = published.refetch(&endpoint, &clock).await;
        assert_eq!(renewed.unwrap_err().reason(), *reason);
        let still = published.first(&endpoint, &clock).await.unwrap();
        assert!(Arc::ptr_eq(&still, &before));
    }
}

#[tokio::test]
async fn d_24_a_fetch_that_failed_is_not_repeated_for_every_token() {
    let bad = || answer("500 Oops", "text/plain", "");
    let server = &mut Server::start([good_keys(), bad(), bad(), bad()]).await;
    let (endpoint, clock) = (jwks_endpoint(server), Clock::manual(NOW));
    let published = KeyCache::default();
    let first = published.first(&endpoint, &clock).await.unwrap();
    for _ in 0..20 {
        // The token is neither accepted nor refused, because the gateway does not know whether
        // there is a newer key set.
        let newer = published
            .newer((&first, TokenOrigin::TokenResponse), &endpoint, &clock)
            .await;
        assert_eq!(newer.unwrap_err().reason(), "keys_unavailable");
        clock.advance(Duration::from_secs(2));
    }
    server.next();
    server.next();
    assert!(server.has_no_more());
}

#[tokio::test]
async fn keys_at_a_new_url_are_fetched_at_once() {
    let (one, two) = (
        Server::start([good_keys()]).await,
        Server::start([good_keys()]).await,
    );
    let clock = Clock::manual(NOW);
    let published = KeyCache::default();
    let first = published.first(&jwks_endpoint(&one), &clock).await.unwrap();
    published
        .refetch(&jwks_endpoint(&two), &clock)
        .await
        .unwrap();
    let second = published.first(&jwks_endpoint(&two), &clock).await.unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
}

#[tokio::test(start_paused = true)]
async fn d_25_a_call_that_waits_too_long_for_a_slot_fails_temporarily() {
    let files = Files::new();
    let text = format!("concurrent_calls = 2\ndeadline_secs = 3\n{ENDPOINTS}");
    let provider = files.provider("oauth2", "https://id.example", &text);
    let (one, _two) = (
        provider
            .call_slot(GrantType::AuthorizationCode, NonZeroU32::MIN)
            .await
            .unwrap(),
        provider
            .call_slot(GrantType::AuthorizationCode, NonZeroU32::MIN)
            .await,
    );
    let error = provider
        .call_slot(GrantType::AuthorizationCode, NonZeroU32::MIN)
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(error.reason(), "provider_busy");
    let class = error.class();
    assert!(class.passes && class.sent == Sent::Nothing);
    drop(one);
    assert!(
        provider
            .call_slot(GrantType::AuthorizationCode, NonZeroU32::MIN)
            .await
            .is_ok()
    );
}
