//! Tests of the OpenID Provider: client authentication and error responses.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::openid::provider;
use super::*;

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

fn form(parameters: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(parameters)
        .finish()
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", STANDARD.encode(credentials))
}

/// Asserts that `answer` has the status `status`, the error name `error` and only standard members.
fn is_refused(answer: &Response<Bytes>, status: u16, error: &str, case: &str) {
    let body = json(answer);
    assert_eq!(answer.status(), status, "{case}: {body}");
    assert_eq!(body["error"], error, "{case}");
    let members: Vec<_> = body.as_object().unwrap().keys().collect();
    assert_eq!(members, ["error", "error_description"], "{case}");
}

#[tokio::test]
async fn basic_credentials_are_form_decoded() {
    let fixture = provider().await;
    let (id, secret) = ("app:1 é", "s+c r%e:t&");
    let client = Client {
        id: id.into(),
        secret: Some(Secret::new(secret.into())),
        redirect_uris: vec![REDIRECT_URI.into()],
        post_logout_redirect_uris: Vec::new(),
        logout: None,
    };
    fixture.server.register(client).await;
    let redeem = async |authorization: Option<&str>, more: &[(&str, &str)]| {
        let code = fixture.code(id, &[("scope", "openid")]).await;
        let mut parameters = vec![
            ("grant_type", "authorization_code"),
            ("redirect_uri", REDIRECT_URI),
            ("code", &code),
        ];
        parameters.extend(more);
        let mut fields = vec![FORM];
        fields.extend(authorization.map(|value| ("authorization", value)));
        let body = form(&parameters);
        fixture.send("POST", "/oauth/token", &fields, &body).await
    };
    // RFC 6749 section 2.3.1: the client id and the secret are each form-encoded.
    let encoded = basic("app%3A1+%C3%A9:s%2Bc+r%25e%3At%26");
    let good = redeem(Some(&encoded), &[]).await;
    assert_eq!(good.status(), 200, "{:?}", good.body());
    let posted = [("client_id", id), ("client_secret", secret)];
    assert_eq!(redeem(None, &posted).await.status(), 200);
    for wrong in [
        basic(&format!("{id}:{secret}")),
        basic("app%3A1+%C3%A9:wrong"),
        basic("nobody:wrong"),
    ] {
        let refused = redeem(Some(&wrong), &[]).await;
        let challenge = refused.headers()["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with("Basic "), "{challenge}");
        is_refused(&refused, 401, "invalid_client", &wrong);
    }
    let refused = redeem(Some(&encoded), &posted).await;
    is_refused(&refused, 400, "invalid_request", "two ways at once");
    // If a request uses Basic authentication, a `client_id` in its body is not a second
    // authentication method.
    let named = redeem(Some(&encoded), &[("client_id", id)]).await;
    assert_eq!(named.status(), 200);
}

#[tokio::test]
async fn a_client_without_valid_credentials_gets_a_challenge() {
    let fixture = provider().await;
    let code = fixture.code("3", &[]).await;
    for credentials in [
        &[("client_id", "3"), ("client_secret", "wrong")][..],
        &[("client_id", "99"), ("client_secret", SECRET)],
        &[("client_id", "3")],
        &[],
    ] {
        let mut parameters = vec![("grant_type", "authorization_code"), ("code", &code)];
        parameters.extend(credentials);
        let refused = fixture.token(&parameters).await;
        assert!(refused.headers().contains_key("www-authenticate"));
        is_refused(&refused, 401, "invalid_client", &format!("{credentials:?}"));
    }
}

#[tokio::test]
async fn a_code_that_does_not_match_is_an_invalid_grant() {
    let fixture = provider().await;
    let challenge = [
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ];
    let used = fixture.code("3", &[]).await;
    assert_eq!(fixture.redeem(&used).await.status(), 200);
    let fresh = fixture.code("3", &[]).await;
    let reversed: String = VERIFIER.chars().rev().collect();
    let elsewhere = "https://evil.example/cb";
    let rows = [
        ("used", used, REDIRECT_URI, None),
        ("garbage", "def50200".to_owned(), REDIRECT_URI, None),
        ("tampered", tampered(&fresh), REDIRECT_URI, None),
        ("other redirection URI", fresh.clone(), elsewhere, None),
        ("no challenge", fresh, REDIRECT_URI, Some(VERIFIER)),
        (
            "wrong verifier",
            fixture.code("3", &challenge).await,
            REDIRECT_URI,
            Some(reversed.as_str()),
        ),
        (
            "another client's",
            fixture.code("4", &challenge).await,
            REDIRECT_URI,
            Some(VERIFIER),
        ),
    ];
    for (case, code, redirect_uri, verifier) in &rows {
        let mut parameters = vec![
            ("grant_type", "authorization_code"),
            ("client_id", "3"),
            ("client_secret", SECRET),
            ("redirect_uri", redirect_uri),
            ("code", code),
        ];
        parameters.extend(verifier.map(|verifier| ("code_verifier", verifier)));
        let refused = fixture.token(&parameters).await;
        is_refused(&refused, 400, "invalid_grant", case);
    }
    let other = fixture.token(&[("grant_type", "password")]).await;
    is_refused(&other, 400, "unsupported_grant_type", "password");
    let garbage = fixture.refresh("def50200").await;
    is_refused(&garbage, 400, "invalid_grant", "a refresh token");
}

#[tokio::test]
async fn every_answer_at_the_redirection_uri_says_who_it_is_from() {
    let fixture = provider().await;
    let issuer = fixture.server.base_url();
    let rows = [
        ("3", "login_required", vec![("prompt", "none")]),
        ("3", "invalid_scope", vec![("scope", "openid phone")]),
        ("3", "invalid_request", vec![("code_challenge", VERIFIER)]),
        ("4", "invalid_request", Vec::new()),
    ];
    let mut answers = Vec::new();
    for (client, error, parameters) in rows {
        let target = Fixture::target(client, &parameters);
        answers.push((error, fixture.send("GET", &target, &[], "").await));
    }
    let token = Fixture::target("3", &[]).replace("response_type=code", "response_type=token");
    let refused = fixture.send("GET", &token, &[], "").await;
    answers.push(("unsupported_response_type", refused));
    let target = Fixture::target("3", &[]);
    let denied = fixture.submit(&target, &[("action", "deny")]).await;
    answers.push(("access_denied", denied));
    for (error, answer) in &answers {
        assert_eq!(answer.status(), 302, "{error}: {:?}", answer.body());
        let query = query(answer);
        assert_eq!((&*query["error"], &*query["state"]), (*error, "xyz"));
        assert_eq!(query["iss"], issuer, "{error}");
        let members: Vec<_> = query.keys().collect();
        assert_eq!(members, ["error", "error_description", "iss", "state"]);
    }
    let good = query(&fixture.sign_in(&target).await);
    assert_eq!(good["iss"], issuer);
    assert_eq!(good.keys().collect::<Vec<_>>(), ["code", "iss", "state"]);
}

#[tokio::test]
async fn nothing_is_sent_to_a_redirection_uri_that_is_not_registered() {
    let fixture = provider().await;
    let strange = Fixture::target("3", &[]).replace("app.example", "evil.example");
    let unknown = Fixture::target("99", &[]);
    let nobody = Fixture::target("", &[]);
    for target in [strange, unknown, nobody] {
        let refused = fixture.send("GET", &target, &[], "").await;
        is_refused(&refused, 400, "invalid_request", &target);
        assert!(!refused.headers().contains_key("location"));
    }
}
