//! Tests of refreshes over real connections.

mod identity;
mod limits;

use serde_json::{Value, json as value};

use super::*;
use crate::identity::Claim;

const JSON: &str = "application/json";
const OLD: &str = "old-access-token";
const REFRESH_TOKEN: &str = "old-refresh-token";

fn lifetime() -> Lifetime {
    Lifetime {
        obtained_at: NOW,
        expires_at: Some(NOW.plus(Duration::from_mins(1))),
        refresh_at: Some(NOW.plus(Duration::from_secs(50))),
        not_before: NOW.plus(Duration::from_secs(10)),
    }
}

fn before() -> TokenSet {
    TokenSet::new(OLD, Some(REFRESH_TOKEN), lifetime()).unwrap()
}

fn person(issuer: &str, subject: &str) -> Identity {
    Identity {
        subject: Claim::new(subject),
        ..Identity::nameless(issuer)
    }
}

/// Returns a request that may be sent in the next minute.
fn request<'a>(tokens: &'a TokenSet, identity: &'a Identity, clock: &Clock) -> RefreshRequest<'a> {
    let latest = clock.instant().checked_add(Duration::from_mins(1)).unwrap();
    RefreshRequest {
        tokens,
        identity,
        latest,
        replicas: NonZeroU32::MIN,
    }
}

async fn refresh_of(
    provider: &Provider,
    tokens: &TokenSet,
    identity: &Identity,
    clock: &Clock,
) -> Result<Refreshed, RefreshError> {
    provider
        .refresh(&request(tokens, identity, clock), clock)
        .await
}

/// Performs a refresh of a session whose user is unknown, because the provider sends no identities.
async fn refresh(provider: &Provider, clock: &Clock) -> Result<Refreshed, RefreshError> {
    refresh_of(provider, &before(), &Identity::nameless("op"), clock).await
}

/// Returns a provider without ID tokens.
fn plain(url: &str, further: &str) -> Provider {
    let text = format!(
        "url = \"{url}\"\nclient_id = \"3\"\nclient_authentication = \"none\"\n\
         authorization_endpoint = \"/a\"\ntoken_endpoint = \"/t\"\n{further}"
    );
    Provider::new("op", &settings("oauth2", &text), &Environment::default()).unwrap()
}

fn granted(members: &Value) -> String {
    let mut body = value!({ "access_token": "new", "token_type": "Bearer", "expires_in": 300 });
    let members = members.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(members);
    answer("200 OK", JSON, &body.to_string())
}

fn failed(status: &str) -> String {
    answer(status, "text/html", "<html>invalid_grant</html>")
}

fn refused(error: &str) -> String {
    let body = value!({ "error": error }).to_string();
    answer("400 Bad Request", JSON, &body)
}

fn seen(unrefreshed: &RefreshError) -> (Verdict, &'static str) {
    (unrefreshed.verdict, unrefreshed.error.reason())
}

#[tokio::test]
async fn the_refresh_request_follows_the_standard() {
    let mut server = Server::start([granted(&value!({})), granted(&value!({}))]).await;
    let clock = Clock::manual(NOW);
    let further = "authorization_request.resource = [\"https://a.example\"]\n\
                   token_request.parameters = { audience = \"b\" }";
    let provider = plain(&server.url, further);
    assert!(refresh(&provider, &clock).await.is_ok());
    let request = server.next();
    assert_eq!(request.line(), "POST /t HTTP/1.1");
    assert_eq!(
        request.body,
        "grant_type=refresh_token&client_id=3&refresh_token=old-refresh-token&audience=b\
         &resource=https%3A%2F%2Fa.example"
    );
    // Passport accepts credentials in a JSON body.
    let files = Files::new();
    let provider = files.provider("laravel-passport-13", &server.url, "");
    let unrefreshed = refresh(&provider, &clock).await.unwrap_err();
    assert_eq!(
        seen(&unrefreshed),
        (Verdict::OperatorMustAct, "access_token_malformed")
    );
    let body = json(&server.next().body);
    assert_eq!(body["grant_type"], "refresh_token");
    assert_eq!(body["refresh_token"], REFRESH_TOKEN);
    assert!(body["client_secret"].is_string());
    assert!(server.has_no_more());
}

#[tokio::test]
async fn g_05_an_answer_without_a_refresh_token_keeps_the_old_one() {
    for (members, refresh_token) in [
        (value!({}), REFRESH_TOKEN),
        (value!({ "refresh_token": null }), REFRESH_TOKEN),
        (value!({ "refresh_token": "" }), REFRESH_TOKEN),
        (value!({ "refresh_token": "next" }), "next"),
    ] {
        let server = Server::start([granted(&members)]).await;
        let clock = Clock::manual(NOW.plus(Duration::from_secs(55)));
        let provider = plain(&server.url, "");
        let refreshed = refresh(&provider, &clock).await.unwrap();
        let tokens = refreshed.tokens;
        assert_eq!(tokens.access_token(), "new");
        assert_eq!(tokens.refresh_token().unwrap().expose(), refresh_token);
        assert!(refreshed.identity.is_none());
        let life = tokens.lifetime();
        assert_eq!(life.obtained_at, clock.now());
        assert_eq!(
            life.expires_at,
            Some(clock.now().plus(Duration::from_mins(5)))
        );
        assert!(life.refresh_at.is_some_and(|at| at > life.not_before));
    }
}

#[tokio::test]
async fn tokens_are_refreshed_late_only_if_that_revokes_the_old_ones() {
    for (further, latest) in [
        ("", Duration::from_secs(2)),
        (
            "refresh.revokes_access_token = false",
            Duration::from_mins(1),
        ),
    ] {
        let server = Server::start([granted(&value!({ "refresh_token": "next" }))]).await;
        let grant = redeem(&plain(&server.url, further)).await.unwrap();
        let life = grant.tokens.lifetime();
        let ahead = life.expires_at.unwrap().since(life.refresh_at.unwrap());
        assert!(ahead <= latest && ahead * 4 >= latest, "{ahead:?}");
    }
}

#[tokio::test]
async fn f_37_lifetimes_of_a_second_and_of_ten_years_are_accepted() {
    let year = 365 * 86_400_u64;
    for seconds in [1, 10 * year] {
        let members = value!({ "expires_in": seconds, "refresh_token": "next" });
        let server = Server::start([granted(&members)]).await;
        let clock = Clock::manual(NOW);
        let refreshed = refresh(&plain(&server.url, ""), &clock).await.unwrap();
        let life = *refreshed.tokens.lifetime();
        let end = NOW.plus(Duration::from_secs(seconds));
        assert_eq!(life.expires_at, Some(end));
        assert!(life.refresh_at < Some(end));
        let floor = Duration::from_secs(seconds).div_f64(2.0);
        assert_eq!(
            life.not_before.since(NOW),
            floor.min(Duration::from_secs(10))
        );
    }
}

#[tokio::test]
async fn g_07_a_failed_refresh_is_not_repeated_and_is_temporary() {
    let broken = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"access".to_owned();
    for (answered, reason) in [
        (failed("500 Internal Server Error"), "provider_unavailable"),
        (failed("503 Service Unavailable"), "provider_unavailable"),
        (failed("429 Too Many Requests"), "provider_throttled"),
        (failed("200 OK"), "token_response_malformed"),
        (
            granted(&value!({ "expires_in": null })),
            "token_response_malformed",
        ),
        (broken, "provider_call_failed"),
        (
            "<html>no status line</html>".to_owned(),
            "provider_call_failed",
        ),
        (String::new(), "provider_call_failed"),
    ] {
        let mut server = Server::start([answered.clone(), granted(&value!({}))]).await;
        let provider = plain(&server.url, "");
        let unrefreshed = refresh(&provider, &Clock::manual(NOW)).await.unwrap_err();
        assert_eq!(
            seen(&unrefreshed),
            (Verdict::Temporary, reason),
            "{answered}"
        );
        server.next();
        assert!(server.has_no_more(), "sent twice: {answered}");
    }
}

#[tokio::test]
async fn an_access_token_that_no_field_can_carry_needs_the_operator() {
    let long = "a".repeat(crate::token::MAX_TOKEN + 1);
    for bad in ["a b", &long] {
        let answered = granted(&value!({ "access_token": bad }));
        let mut server = Server::start([answered, granted(&value!({}))]).await;
        let provider = plain(&server.url, "");
        let unrefreshed = refresh(&provider, &Clock::manual(NOW)).await.unwrap_err();
        assert_eq!(
            seen(&unrefreshed),
            (Verdict::OperatorMustAct, "token_unusable")
        );
        server.next();
        assert!(server.has_no_more(), "sent twice");
    }
}

#[tokio::test]
async fn an_absent_provider_ends_no_session() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let unrefreshed = refresh(&plain(&url, ""), &Clock::manual(NOW)).await;
    let expected = (Verdict::Temporary, "provider_unreachable");
    assert_eq!(seen(&unrefreshed.unwrap_err()), expected);
}

#[tokio::test]
async fn g_08_f_29_a_refused_grant_ends_the_session_and_a_refused_client_does_not() {
    for (error, expected) in [
        ("invalid_grant", (Verdict::GrantEnded, "refresh_refused")),
        (
            "invalid_client",
            (Verdict::OperatorMustAct, "client_refused"),
        ),
        (
            "unauthorized_client",
            (Verdict::OperatorMustAct, "client_refused"),
        ),
    ] {
        let mut server = Server::start([refused(error)]).await;
        let provider = plain(&server.url, "");
        let unrefreshed = refresh(&provider, &Clock::manual(NOW)).await.unwrap_err();
        assert_eq!(seen(&unrefreshed), expected);
        let named = chain(&unrefreshed).contains("authenticates with none");
        assert_eq!(named, error == "invalid_client", "{}", chain(&unrefreshed));
        assert!(unrefreshed.tokens_to_store.is_none());
        server.next();
        assert!(server.has_no_more());
    }
}

#[tokio::test]
async fn g_06_f_38_after_a_lost_response_the_next_attempt_decides() {
    let next = value!({ "refresh_token": "next" });
    for (second, fatal) in [(granted(&next), false), (refused("invalid_grant"), true)] {
        let mut server = Server::start([String::new(), second]).await;
        let provider = plain(&server.url, "");
        let clock = Clock::manual(NOW);
        let lost = refresh(&provider, &clock).await.unwrap_err();
        assert_eq!(seen(&lost), (Verdict::Temporary, "provider_call_failed"));
        // The next refresh sends the same refresh token.
        let told = refresh(&provider, &clock).await;
        assert_eq!(server.next().body, server.next().body);
        match told {
            Ok(refreshed) => {
                assert!(!fatal);
                let refresh_token = refreshed.tokens.refresh_token().unwrap();
                assert_eq!(refresh_token.expose(), "next");
            }
            Err(unrefreshed) => {
                assert!(fatal);
                assert_eq!(unrefreshed.verdict, Verdict::GrantEnded);
            }
        }
        assert!(server.has_no_more());
    }
}

#[tokio::test]
async fn g_06_a_refresh_has_a_longer_deadline_than_a_login() {
    let (sender, release) = tokio::sync::oneshot::channel::<()>();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        // A login makes the first call to the server, and the deadline of this login passes. The
        // refresh makes the second call to the server.
        let (mut login, _peer) = listener.accept().await.unwrap();
        receive(&mut login).await.unwrap();
        let (mut stream, _peer) = listener.accept().await.unwrap();
        receive(&mut stream).await.unwrap();
        release.await.unwrap();
        let granted = granted(&value!({}));
        stream.write_all(granted.as_bytes()).await.unwrap();
    });
    let provider = plain(&url, "deadline_secs = 1");
    let clock = Clock::manual(NOW);
    let login = redeem_at(&provider, &clock);
    // The refresh begins while the login waits, so the refresh is in progress when the login
    // reaches its deadline.
    let (login, refreshed) = tokio::join!(
        async {
            let login = login.await;
            sender.send(()).unwrap();
            login
        },
        refresh(&provider, &clock)
    );
    let timeout = matches!(
        login,
        Err(ExchangeError::Call(TokenCallError::Call(
            crate::origin::Error::CallTimeout
        )))
    );
    assert!(timeout, "{login:?}");
    assert!(refreshed.is_ok(), "{refreshed:?}");
}

#[tokio::test]
async fn g_06_a_refresh_without_a_response_ends_at_its_own_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let provider = plain(&url, "refresh.deadline_secs = 1");
    let unrefreshed = refresh(&provider, &Clock::manual(NOW)).await.unwrap_err();
    assert_eq!(unrefreshed.verdict, Verdict::Temporary);
    let timeout = TokenCallError::Call(crate::origin::Error::CallTimeout);
    let timeout = ExchangeError::from(timeout);
    assert_eq!(format!("{:?}", unrefreshed.error), format!("{timeout:?}"));
}

#[tokio::test]
async fn without_a_refresh_token_nothing_is_sent() {
    let mut server = Server::start([granted(&value!({}))]).await;
    let tokens = TokenSet::new(OLD, None, lifetime()).unwrap();
    let nobody = Identity::nameless("op");
    let provider = plain(&server.url, "");
    let refreshed = refresh_of(&provider, &tokens, &nobody, &Clock::manual(NOW)).await;
    let expected = (Verdict::OperatorMustAct, "no_refresh_token");
    assert_eq!(seen(&refreshed.unwrap_err()), expected);
    assert!(server.has_no_more());
}

#[tokio::test]
async fn a_new_refresh_token_is_kept_when_the_new_access_token_cannot_be_used() {
    let mut payload = reference_payload();
    payload["aud"] = value!("another client");
    let server = Server::start([tokens(&payload), tokens(&payload)]).await;
    let alice = person("op", payload["sub"].as_str().unwrap());
    let clock = Clock::manual(NOW.plus(Duration::from_secs(30)));
    // Keys are configured, so the access token is checked, even if the identity comes from another
    // source.
    for further in ["", "identity.source = \"none\""] {
        let provider = Files::new().provider("laravel-passport-13", &server.url, further);
        let unrefreshed = refresh_of(&provider, &before(), &alice, &clock)
            .await
            .unwrap_err();
        assert_eq!(
            seen(&unrefreshed),
            (Verdict::OperatorMustAct, "access_token_audience")
        );
        let tokens_to_store = unrefreshed.tokens_to_store.unwrap();
        assert_eq!(tokens_to_store.access_token(), OLD);
        assert_eq!(
            tokens_to_store.refresh_token().unwrap().expose(),
            "def50200cdd739b4"
        );
        // The gateway must not send the next refresh before the time `not_before`.
        let floor = Lifetime {
            obtained_at: clock.now(),
            not_before: NOW.plus(Duration::from_secs(40)),
            ..lifetime()
        };
        assert_eq!(*tokens_to_store.lifetime(), floor);
        // If the clock is set back, the time until the next refresh does not become longer.
        assert_eq!(
            floor.wait_before_refresh(clock.now()),
            Duration::from_secs(10)
        );
        assert_eq!(floor.wait_before_refresh(NOW), Duration::ZERO);
    }
    let broken = value!({ "access_token": "a b", "refresh_token": "next" });
    let server = Server::start([granted(&broken)]).await;
    let unrefreshed = refresh(&plain(&server.url, ""), &clock).await.unwrap_err();
    let tokens_to_store = unrefreshed.tokens_to_store.unwrap();
    assert_eq!(tokens_to_store.refresh_token().unwrap().expose(), "next");
}

#[tokio::test]
async fn a_failed_refresh_shows_no_secret() {
    let mut payload = reference_payload();
    payload["aud"] = value!("another client");
    let server = Server::start([
        tokens(&payload),
        refused(REFRESH_TOKEN),
        refused("def50200cdd739b4def50200cdd739b4"),
    ])
    .await;
    let provider = Files::new().provider("laravel-passport-13", &server.url, "");
    for _ in 0..2 {
        let unrefreshed = refresh(&provider, &Clock::manual(NOW)).await.unwrap_err();
        let shown = format!("{unrefreshed:?} {}", chain(&unrefreshed));
        for secret in [OLD, "def50200"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
