//! Tests the exchange of codes over real connections.

use serde_json::json as value;

use super::*;

#[tokio::test]
async fn a_code_becomes_tokens_and_an_identity() {
    let mut server = Server::start([tokens(&reference_payload())]).await;
    let provider = Files::new().provider("laravel-passport-12", &server.url, "");
    provider.ready(&Clock::manual(NOW)).await.unwrap();
    let grant = redeem(&provider).await.unwrap();
    let subject = grant.identity.subject.unwrap();
    assert_eq!(subject.as_str(), "612e7ed8-da26-4c9f-8247-5559b82de328");
    assert_eq!(&*grant.identity.issuer, "op");
    assert_eq!(
        grant.tokens.refresh_token().unwrap().expose(),
        "def50200cdd739b4"
    );
    // The access token states an expiry that is a little earlier than the expiry in the response.
    let expires_at = grant.tokens.expires_at().unwrap();
    assert_eq!(expires_at.as_millis(), 1_752_871_693_216);
    assert_eq!(server.next().line(), "POST /oauth/token HTTP/1.1");
    assert!(server.has_no_more());
}

#[tokio::test]
async fn an_opaque_token_expires_as_the_response_or_the_settings_say() {
    let bearer = |life: &str| {
        let body = format!(r#"{{"access_token":"abc","token_type":"bearer"{life}}}"#);
        answer("200 OK", "application/json", &body)
    };
    for (life, further, seconds) in [
        (
            r#","expires_in":60"#,
            "default_expires_in_secs = 5",
            Some(60),
        ),
        ("", "default_expires_in_secs = 5", Some(5)),
        ("", "", None),
    ] {
        let server = Server::start([bearer(life)]).await;
        let text = format!(
            "{further}\nurl = \"{}\"\nclient_id = \"3\"\nclient_authentication = \"none\"\n\
             authorization_endpoint = \"/a\"\ntoken_endpoint = \"/t\"",
            server.url
        );
        let provider =
            Provider::new("op", &settings("oauth2", &text), &Environment::default()).unwrap();
        let grant = redeem(&provider).await.unwrap();
        assert_eq!(grant.identity, Identity::nameless("op"));
        let life = grant
            .tokens
            .expires_at()
            .map(|end| end.since(NOW).as_secs());
        assert_eq!(life, seconds, "{further}");
    }
}

const USERINFO: &str = "userinfo_endpoint = \"/api/user\"\nidentity.source = \"userinfo\"\n\
                        identity.emails_verified = \"timestamp\"\nidentity.claims.subject = \"id\"\n\
                        identity.claims.email_verified = \"email_verified_at\"";

#[tokio::test]
async fn laravels_user_is_fetched_with_the_access_token() {
    let user = value!({
        "id": 17, "name": "Alice", "email": "alice@example.com", "email_verified_at": "2024-01-01",
    });
    let user = answer("200 OK", "application/json", &user.to_string());
    let mut server = Server::start([tokens(&reference_payload()), user]).await;
    let provider = Files::new().provider("laravel-passport-13", &server.url, USERINFO);
    let grant = redeem(&provider).await.unwrap();
    assert_eq!(grant.identity.subject.as_ref().unwrap().as_str(), "17");
    assert!(grant.identity.email.unwrap().verified);
    assert!(server.next().line().starts_with("POST "));
    let request = server.next();
    assert_eq!(request.line(), "GET /api/user HTTP/1.1");
    assert_eq!(
        request.field("accept"),
        ["application/json, application/jwt"]
    );
    let name = concat!("sidegate/", env!("CARGO_PKG_VERSION"));
    assert_eq!(request.field("user-agent"), [name]);
    let bearer = format!("Bearer {}", grant.tokens.access_token());
    assert_eq!(request.field("authorization"), [bearer]);
}

#[tokio::test]
async fn j_77_without_userinfo_the_login_fails() {
    let refused = value!({ "message": "Unauthenticated." }).to_string();
    for (answered, reason) in [
        (
            answer("401 Unauthorized", "application/json", &refused),
            "userinfo_failed",
        ),
        (
            answer("302 Found\r\nlocation: /login", "text/html", ""),
            "userinfo_failed",
        ),
        (
            answer("200 OK", "application/json", "{\"name\":\"Alice\"}"),
            "no_subject",
        ),
        (
            answer("200 OK", "application/json", "{\"id\":null}"),
            "no_subject",
        ),
        ("nonsense".to_owned(), "userinfo_failed"),
    ] {
        let server = Server::start([tokens(&reference_payload()), answered.clone()]).await;
        let provider = Files::new().provider("laravel-passport-13", &server.url, USERINFO);
        let error = redeem(&provider).await.unwrap_err();
        assert_eq!(
            (error.reason(), error.class().actor),
            (reason, Actor::Provider),
            "{answered}"
        );
    }
}

#[tokio::test]
async fn an_invalid_access_token_fails_the_login() {
    let mut payload = reference_payload();
    payload["aud"] = value!("another client");
    // Keys are configured, so the gateway checks the access token for each value of
    // `identity.source`.
    for further in ["", "identity.source = \"none\"", USERINFO] {
        let mut server = Server::start([tokens(&payload)]).await;
        let provider = Files::new().provider("laravel-passport-13", &server.url, further);
        let error = redeem(&provider).await.unwrap_err();
        assert_eq!(error.reason(), "access_token_audience");
        server.next();
        assert!(
            server.has_no_more(),
            "the token was sent to the userinfo endpoint"
        );
    }
}

#[tokio::test]
async fn a_26_redirects_are_not_followed() {
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let mut other = Server::start([tokens(&reference_payload())]).await;
        let status = format!("{status}\r\nlocation: {}/oauth/token", other.url);
        let mut server = Server::start([answer(&status, "text/html", "")]).await;
        let provider = Files::new().provider("laravel-passport-13", &server.url, "");
        let error = redeem(&provider).await.unwrap_err();
        assert!(
            matches!(
                error,
                ExchangeError::Call(TokenCallError::Redirected { .. })
            ),
            "{error:?}"
        );
        assert_eq!(error.reason(), "token_endpoint_redirected");
        server.next();
        assert!(server.has_no_more() && other.has_no_more());
    }
}

#[tokio::test]
async fn a_28_tokens_that_would_break_a_field_are_refused() {
    let long = "a".repeat(crate::token::MAX_TOKEN + 1);
    for bad in [
        "a\r\nX-User: root",
        "a b",
        "a\0",
        "a,b",
        "\u{e4}",
        "",
        &long,
        &"a".repeat(65_536),
    ] {
        for member in ["access_token", "refresh_token"] {
            if member == "refresh_token" && (bad.is_empty() || matches!(bad, "a b" | "a,b")) {
                continue;
            }
            let mut body = value!({ "token_type": "bearer", "access_token": "a" });
            body[member] = value!(bad);
            let answered = answer("200 OK", "application/json", &body.to_string());
            let server = Server::start([answered]).await;
            let text = format!(
                "url = \"{}\"\nclient_id = \"3\"\nclient_authentication = \"none\"\n\
                 authorization_endpoint = \"/a\"\ntoken_endpoint = \"/t\"",
                server.url
            );
            let provider =
                Provider::new("op", &settings("oauth2", &text), &Environment::default()).unwrap();
            let error = redeem(&provider).await.unwrap_err();
            assert_eq!(error.reason(), "token_unusable", "{member} {bad:.20}");
        }
    }
}

#[tokio::test]
async fn d_31_an_endless_response_is_cut_off() {
    let endless = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{{\"a\":\"{}",
        "x".repeat(3 * 1024 * 1024)
    );
    let announced = "HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n{".to_owned();
    let heads = format!("HTTP/1.1 200 OK\r\n{}\r\n{{}}", "x-a: b\r\n".repeat(1000));
    let broken = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"access".to_owned();
    let old = "<html>no status line</html>".to_owned();
    for (answered, too_large) in [
        (endless, true),
        (announced, true),
        (heads, true),
        (broken, false),
        (old, false),
    ] {
        let mut server = Server::start([answered]).await;
        let provider = Files::new().provider("laravel-passport-13", &server.url, "");
        let error = redeem(&provider).await.unwrap_err();
        assert_eq!(error.reason(), "provider_call_failed");
        let cut = matches!(
            error,
            ExchangeError::Call(TokenCallError::Call(crate::origin::Error::TooLarge))
        );
        assert_eq!(cut, too_large, "{error:?}");
        server.next();
        assert!(server.has_no_more(), "sent twice");
    }
}

#[tokio::test]
async fn an_absent_provider_is_unreachable_and_is_called_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let provider = Files::new().provider("laravel-passport-13", &url, "");
    assert_eq!(
        provider
            .ready(&Clock::manual(NOW))
            .await
            .unwrap_err()
            .reason(),
        "provider_unreachable"
    );
    let error = redeem(&provider).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.class().actor),
        ("provider_unreachable", Actor::Provider)
    );
}

#[tokio::test]
async fn d_31_informational_responses_do_not_extend_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let storm = tokio::spawn(async move {
        let (mut stream, _peer) = listener.accept().await.unwrap();
        let mut sent = 0_u32;
        // The loop ends when the client closes the connection.
        while stream
            .write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            .await
            .is_ok()
        {
            sent = sent.saturating_add(1);
            tokio::task::yield_now().await;
        }
        sent
    });
    let provider = Files::new().provider("laravel-passport-13", &url, "deadline_secs = 1");
    let error = redeem(&provider).await.unwrap_err();
    assert_eq!(error.reason(), "provider_call_failed");
    assert!(storm.await.unwrap() > 1);
}

/// Runs another test of this file in a new process, because environment variables apply to a whole
/// process.
#[test]
fn x_03_only_the_settings_read_proxy_variables() {
    let own = std::env::current_exe().unwrap();
    let mut child = std::process::Command::new(own);
    child.args([
        "--exact",
        "provider::tests::redeeming::a_code_becomes_tokens_and_an_identity",
    ]);
    for variable in [
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ] {
        // On the discard port, no program accepts connections.
        child.env(variable, "http://127.0.0.1:9");
    }
    let output = child.output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && shown.contains("1 passed"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_missing_response_ends_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let provider = Files::new().provider("laravel-passport-13", &url, "deadline_secs = 1");
    // The kernel accepts the connection, but no program reads from the connection.
    let error = redeem(&provider).await.unwrap_err();
    assert!(
        matches!(
            error,
            ExchangeError::Call(TokenCallError::Call(crate::origin::Error::CallTimeout))
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn calls_above_the_rate_are_not_sent() {
    let answers = (0..2).map(|_| tokens(&reference_payload()));
    let mut server = Server::start(answers).await;
    let provider = Files::new().provider(
        "laravel-passport-13",
        &server.url,
        "token_calls_per_minute = 2",
    );
    let clock = Clock::manual(NOW);
    for _ in 0..2 {
        assert!(redeem_at(&provider, &clock).await.is_ok());
        server.next();
    }
    // The code waits in the queue until a call is allowed again, or until it has waited too long.
    tokio::time::pause();
    let error = redeem_at(&provider, &clock).await.unwrap_err();
    assert_eq!(error.reason(), "too_many_codes");
    assert_eq!(error.class().retry_after, Some(Duration::from_secs(1)));
    assert!(server.has_no_more());
}

#[tokio::test]
async fn after_a_429_no_call_is_sent_before_retry_after() {
    let throttled = answer(
        "429 Too Many Requests\r\nretry-after: 37",
        "text/html",
        "<html>",
    );
    let mut server = Server::start([throttled, tokens(&reference_payload())]).await;
    let provider = Files::new().provider("laravel-passport-13", &server.url, "");
    let clock = Clock::manual(NOW);
    let error = redeem_at(&provider, &clock).await.unwrap_err();
    assert_eq!(error.reason(), "provider_throttled");
    assert_eq!(error.class().retry_after, Some(Duration::from_secs(37)));
    server.next();
    let error = redeem_at(&provider, &clock).await.unwrap_err();
    assert_eq!(error.reason(), "token_calls_limited");
    assert!(server.has_no_more());
    clock.advance(Duration::from_secs(37));
    assert!(redeem_at(&provider, &clock).await.is_ok());
}

#[tokio::test]
async fn nothing_secret_is_in_an_error() {
    for answered in [
        answer(
            "400 Bad Request",
            "application/json",
            &value!({ "error": CODE, "hint": VERIFIER }).to_string(),
        ),
        answer(
            "200 OK",
            "application/json",
            &value!({ "token_type": "mac", "access_token": CODE }).to_string(),
        ),
        answer(
            "200 OK",
            "application/json",
            &value!({ "token_type": "bearer", "access_token": VERIFIER }).to_string(),
        ),
    ] {
        let server = Server::start([answered]).await;
        let provider = Files::new().provider("laravel-passport-13", &server.url, "");
        let error = redeem(&provider).await.unwrap_err();
        let shown = format!("{error:?} {} {provider:?}", chain(&error));
        for secret in [CODE, VERIFIER, "i0p6Sah1joLy8P1gwkP6ldBQiQZKbcewi9nPEUMp"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
