//! What is known of a server, and how it is kept up to date.

use serde_json::{Value, json as value};
use tokio::task::JoinSet;

use super::signing::*;
use super::*;
use crate::provider::published::Published;

const ISSUER: &str = "https://id.example";

fn metadata(changes: Value) -> String {
    let mut metadata = value!({
        "issuer": ISSUER,
        "authorization_endpoint": "https://id.example/authorize",
        "token_endpoint": "https://id.example/token",
        "jwks_uri": "https://id.example/jwks",
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

/// A provider whose metadata is at `server`.
fn provider(files: &Files, server: &Server) -> Provider {
    let text = format!(
        "issuer = \"{ISSUER}\"\nmetadata_url = \"{}/metadata\"\nclient_id = \"3\"\n\
         client_secret_file = \"{}/secret\"\n",
        server.url,
        files.0.path().display()
    );
    Provider::new("op", &settings("oidc", &text)).unwrap()
}

fn asked(provider: &Provider) -> Result<String, Error> {
    provider.authorization_url(&AuthorizationRequest {
        redirect_uri: REDIRECT_URI,
        state: "state",
        code_challenge: "challenge",
        nonce: "nonce",
        login_hint: None,
        prompt: Prompt::AsNeeded,
    })
}

#[tokio::test]
async fn nobody_is_sent_away_before_the_metadata_was_read() {
    let mut server = Server::start([metadata(value!({}))]).await;
    let (files, clock) = (Files::new(), Clock::manual(NOW));
    let provider = provider(&files, &server);
    assert_eq!(asked(&provider).unwrap_err().reason(), "metadata_missing");
    let early = provider.check_response_issuer(Some(ISSUER)).unwrap_err();
    assert_eq!(early.reason(), "metadata_missing");
    provider.ready(&clock).await.unwrap();
    assert!(server.next().line().starts_with("GET /metadata "));
    let url = asked(&provider).unwrap();
    assert!(url.starts_with("https://id.example/authorize?"), "{url}");
    // A moment later nobody asks again.
    provider.ready(&clock).await.unwrap();
    assert!(server.has_no_more());
}

#[tokio::test]
async fn a_21_a_22_who_promises_to_say_who_answers_has_to() {
    let server = Server::start([metadata(value!({}))]).await;
    let (files, clock) = (Files::new(), Clock::manual(NOW));
    let provider = provider(&files, &server);
    provider.ready(&clock).await.unwrap();
    assert!(provider.check_response_issuer(Some(ISSUER)).is_ok());
    for other in [
        None,
        Some(""),
        Some("https://id.example/"),
        Some("https://ID.example"),
        Some("https://id.example:443"),
        Some("https%3A//id.example"),
        Some("https://evil.example"),
    ] {
        let error = provider.check_response_issuer(other).unwrap_err();
        assert_eq!(error.reason(), "response_issuer", "{other:?}");
    }
}

#[tokio::test]
async fn a_25_metadata_that_is_not_believed_changes_nothing() {
    let refused = [
        (
            metadata(value!({ "issuer": "https://evil.example" })),
            "metadata_issuer",
        ),
        (
            metadata(value!({ "token_endpoint": "http://id.example/token" })),
            "metadata_endpoint",
        ),
        (
            metadata(value!({ "token_endpoint": null })),
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
    ];
    let answers = refused.iter().map(|(answer, _reason)| answer.clone());
    let moved = metadata(value!({ "authorization_endpoint": "https://login.example/a" }));
    let answers = [metadata(value!({}))].into_iter().chain(answers);
    let server = Server::start(answers.chain([moved])).await;
    let (files, clock) = (Files::new(), Clock::manual(NOW));
    let provider = provider(&files, &server);
    provider.ready(&clock).await.unwrap();
    let before = asked(&provider).unwrap();
    for (_answer, reason) in &refused {
        let error = provider.discover().await.unwrap_err();
        assert_eq!(error.reason(), *reason, "{}", chain(&error));
        assert_eq!(asked(&provider).unwrap(), before);
    }
    provider.discover().await.unwrap();
    let after = asked(&provider).unwrap();
    assert!(after.starts_with("https://login.example/a?"), "{after}");
}

#[tokio::test]
async fn a_secret_that_changes_is_read_again() {
    let files = Files::new();
    let provider = files.provider("oauth2", "https://id.example", ENDPOINTS);
    let sent = || {
        let known = provider.known().unwrap();
        known.client_auth.field().unwrap().clone()
    };
    let before = sent();
    tokio::time::pause();
    let clock = Clock::manual(NOW);
    let changed = async {
        files.write("secret", "\n");
        tokio::time::sleep(Duration::from_secs(35)).await;
        // A file that holds nothing is somebody's mistake, or is just being written.
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
        () = provider.maintain(&clock) => panic!("nobody looks any more"),
        () = changed => {}
    }
}

const ENDPOINTS: &str =
    "authorization_endpoint = \"/authorize\"\ntoken_endpoint = \"http://127.0.0.1:1/token\"";

/// The way to the keys at `server`.
fn place(server: &Server) -> Endpoint {
    let url = endpoint("jwks_uri", Some(&server.url), "/jwks").unwrap();
    Endpoint::new("jwks_uri", &url, None, Duration::from_secs(5)).unwrap()
}

#[tokio::test]
async fn d_24_tokens_of_unknown_keys_cause_one_fetch_a_minute() {
    let set = || keys(&[RSA.jwk_with(value!({ "kid": "one" }))]);
    let server = &mut Server::start([set(), set(), set(), set()]).await;
    let (place, clock) = (place(server), Clock::manual(NOW));
    let published = Published::default();
    published.renew(&place, clock.now()).await.unwrap();
    server.next();
    let first = published.newest().unwrap();
    // The first fetch had no token as its reason.
    let second = published.newer(Some(&first), &place, clock.now()).await;
    let second = second.unwrap();
    server.next();
    for wait in [0, 1, 30, 28] {
        clock.advance(Duration::from_secs(wait));
        let refused = published.newer(Some(&second), &place, clock.now()).await;
        assert!(matches!(refused, Err(Error::KeysJustFetched)), "{wait}");
    }
    assert!(server.has_no_more());
    // Whoever has seen only the older set is given the newer one.
    let given = published.newer(Some(&first), &place, clock.now()).await;
    assert!(Arc::ptr_eq(&given.unwrap(), &second));
    clock.advance(Duration::from_secs(1));
    published
        .newer(Some(&second), &place, clock.now())
        .await
        .unwrap();
    server.next();
}

#[tokio::test]
async fn g_13_all_who_need_the_first_keys_wait_for_one_fetch() {
    let set = keys(&[RSA.jwk_with(value!({ "kid": "one" }))]);
    let server = &mut Server::start([set]).await;
    let (place, published) = (Arc::new(place(server)), Arc::new(Published::default()));
    let mut all = JoinSet::new();
    for _ in 0..20 {
        let (place, published) = (Arc::clone(&place), Arc::clone(&published));
        all.spawn(async move { published.newer(None, &place, NOW).await.map(drop) });
    }
    for fetched in all.join_all().await {
        fetched.unwrap();
    }
    // The one who looks after the keys has nothing to do then.
    published.renew(&place, NOW).await.unwrap();
    server.next();
    assert!(server.has_no_more());
}

#[tokio::test]
async fn j_79_a_set_that_cannot_be_used_leaves_the_last_good_one() {
    let good = keys(&[RSA.jwk_with(value!({ "kid": "one" }))]);
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
    let server = Server::start([good].into_iter().chain(answers)).await;
    let (place, clock) = (place(&server), Clock::manual(NOW));
    let published = Published::default();
    published.renew(&place, clock.now()).await.unwrap();
    let before = published.newest().unwrap();
    for (_answer, reason) in &bad {
        clock.advance(Duration::from_mins(1));
        let renewed = published.renew(&place, clock.now()).await;
        assert_eq!(renewed.unwrap_err().reason(), *reason);
        assert!(Arc::ptr_eq(&published.newest().unwrap(), &before));
    }
}
