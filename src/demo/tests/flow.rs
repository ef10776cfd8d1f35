//! Tests of logins and tokens, and of the faults that a test can request from the authorization
//! server. The tests in this module use no recorded answers of real servers.

use http::{HeaderMap, HeaderValue, StatusCode};

use super::*;
use crate::demo::{Error, Fault};

async fn newer() -> Fixture {
    Fixture::start(ProviderKind::Passport13).await
}

#[tokio::test]
async fn a_second_authorization_needs_no_password_unless_the_client_sends_prompt_login() {
    let fixture = newer().await;
    let target = Fixture::target("3", &[]);
    let first = fixture.sign_in(&target).await;
    assert_eq!(first.status(), 302);
    assert_eq!(query(&first)["state"], "xyz");
    let session = cookie(&first);
    let fields = [("cookie", session.as_str())];
    let second = fixture.send("GET", &target, &fields, "").await;
    assert_eq!(second.status(), 302);
    assert_ne!(query(&first)["code"], query(&second)["code"]);
    let insisting = Fixture::target("3", &[("prompt", "login")]);
    let third = fixture.send("GET", &insisting, &fields, "").await;
    assert_eq!(third.status(), 200);
    fixture.server.forget_logins().await;
    let fourth = fixture.send("GET", &target, &fields, "").await;
    assert_eq!(fourth.status(), 200);
}

#[tokio::test]
async fn signing_out_of_the_provider_ends_its_session() {
    let fixture = newer().await;
    let session = cookie(&fixture.sign_in(&Fixture::target("3", &[])).await);
    let fields = [("cookie", session.as_str())];
    let home = fixture.send("GET", "/", &fields, "").await;
    let home = String::from_utf8(home.into_body().to_vec()).unwrap();
    assert!(home.contains("Hello, Alice Liddell"), "{home}");
    let token = home.split_once("name=\"_token\" value=\"").unwrap().1;
    let body = format!("_token={}", token.split_once('"').unwrap().0);
    assert_eq!(
        fixture.send("POST", "/logout", &[], &body).await.status(),
        419
    );
    assert_eq!(
        fixture
            .send("POST", "/logout", &fields, &body)
            .await
            .status(),
        303
    );
    let home = fixture.send("GET", "/", &fields, "").await;
    assert!(String::from_utf8_lossy(home.body()).contains("Nobody is signed in"));
}

#[tokio::test]
async fn a_forged_form_or_a_wrong_password_does_not_sign_in() {
    let fixture = newer().await;
    let target = Fixture::target("3", &[]);
    let body = "user=alice&password=password&_token=";
    let planted = [("cookie", "provider_session=planted")];
    for fields in [&[][..], &planted] {
        let answer = fixture.send("POST", &target, fields, body).await;
        assert_eq!(answer.status(), 419);
    }
    for (user, password) in [("alice", "wrong"), ("alice", ""), ("nobody", "password")] {
        let fields = [("user", user), ("password", password)];
        let answer = fixture.submit(&target, &fields).await;
        assert_eq!(answer.status(), 422, "{user} {password}");
        assert!(answer.headers().get("set-cookie").is_none());
    }
    let markup = [("user", "\"><script>"), ("password", "")];
    let answer = fixture.submit(&target, &markup).await;
    assert!(!String::from_utf8_lossy(answer.body()).contains("<script>"));
}

#[tokio::test]
async fn a_login_changes_the_session_id() {
    let fixture = newer().await;
    let target = Fixture::target("3", &[]);
    let form = fixture.send("GET", &target, &[], "").await;
    let signed_in = fixture.sign_in(&target).await;
    assert_ne!(cookie(&form), cookie(&signed_in));
    let before = cookie(&form);
    let fields = [("cookie", before.as_str())];
    assert_eq!(
        fixture.send("GET", &target, &fields, "").await.status(),
        200
    );
}

#[tokio::test]
async fn only_one_of_two_simultaneous_exchanges_of_a_code_succeeds() {
    let fixture = newer().await;
    let code = fixture.code("3", &[]).await;
    let both = tokio::join!(fixture.redeem(&code), fixture.redeem(&code));
    let mut statuses = [both.0.status().as_u16(), both.1.status().as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400]);
    assert_eq!(fixture.server.exchanges(), 2);
}

#[tokio::test]
async fn a_code_expires_after_ten_minutes() {
    let fixture = newer().await;
    let early = fixture.code("3", &[]).await;
    let late = fixture.code("3", &[]).await;
    fixture.clock.advance(Duration::from_mins(10));
    assert_eq!(fixture.redeem(&early).await.status(), 200);
    fixture.clock.advance(Duration::from_secs(1));
    let answer = fixture.redeem(&late).await;
    assert_eq!(answer.status(), 400);
    assert_eq!(json(&answer)["hint"], "Authorization code has expired");
}

#[tokio::test]
async fn a_refresh_revokes_the_old_pair_and_a_replay_does_not_revoke_the_new_pair() {
    let fixture = newer().await;
    let code = fixture.code("3", &[("scope", "read write")]).await;
    let (old_access, old_refresh) = tokens(&fixture.redeem(&code).await);
    assert_eq!(fixture.redeem(&code).await.status(), 400);
    assert_eq!(fixture.user(&old_access).await.status(), 200);
    let (access, refresh) = tokens(&fixture.refresh(&old_refresh).await);
    assert_eq!(fixture.user(&old_access).await.status(), 401);
    assert_eq!(fixture.refresh(&old_refresh).await.status(), 400);
    assert_eq!(fixture.user(&access).await.status(), 200);
    assert_eq!(fixture.refresh(&refresh).await.status(), 200);
    assert_eq!(fixture.server.refreshes(), 3);
}

#[tokio::test]
async fn the_user_is_a_laravel_record_and_revoking_all_ends_every_token() {
    let fixture = newer().await;
    let (access, refresh) = fixture.grant().await;
    let answer = fixture.user(&access).await;
    let user = json(&answer);
    assert_eq!(user["id"], 17);
    assert_eq!(user["name"], "Alice Liddell");
    assert_eq!(user["email"], "alice@example.com");
    assert_eq!(user["email_verified_at"], "2024-05-04T09:30:00.000000Z");
    fixture.server.revoke_all().await;
    assert_eq!(fixture.user(&access).await.status(), 401);
    assert_eq!(fixture.refresh(&refresh).await.status(), 400);
}

#[tokio::test]
async fn a_public_client_uses_pkce_and_its_default_method_is_plain() {
    let fixture = newer().await;
    let redeem = async |code: &str, verifier: &str| {
        let parameters = [
            ("grant_type", "authorization_code"),
            ("client_id", "4"),
            ("redirect_uri", REDIRECT_URI),
            ("code", code),
            ("code_verifier", verifier),
        ];
        fixture.token(&parameters).await
    };
    let hashed = [
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ];
    let code = fixture.code("4", &hashed).await;
    assert_eq!(redeem(&code, CHALLENGE).await.status(), 400);
    assert_eq!(redeem(&code, VERIFIER).await.status(), 200);
    let plain = fixture.code("4", &[("code_challenge", VERIFIER)]).await;
    assert_eq!(redeem(&plain, VERIFIER).await.status(), 200);
    let short = fixture.code("4", &hashed).await;
    assert_eq!(redeem(&short, "short").await.status(), 400);
    for bad in [
        [
            ("code_challenge", "short"),
            ("code_challenge_method", "S256"),
        ],
        [
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S512"),
        ],
    ] {
        let target = Fixture::target("4", &bad);
        assert_eq!(fixture.send("GET", &target, &[], "").await.status(), 400);
    }
}

#[tokio::test]
async fn a_code_of_another_client_is_refused() {
    let fixture = newer().await;
    let challenge = [("code_challenge", VERIFIER)];
    let code = fixture.code("4", &challenge).await;
    let answer = fixture.redeem(&code).await;
    assert_eq!(answer.status(), 400);
    let hint = "Authorization code was not issued to this client";
    assert_eq!(json(&answer)["hint"], hint);
}

#[tokio::test]
async fn json_values_are_read_as_each_passport_version_reads_them() {
    let json_type = [("content-type", "application/json; charset=utf-8")];
    for (kind, number_as_code) in [
        (ProviderKind::Passport12, "Check the `code` parameter"),
        (
            ProviderKind::Passport13,
            "Cannot validate the provided authorization code",
        ),
    ] {
        let fixture = Fixture::start(kind).await;
        let code = fixture.code("3", &[]).await;
        let body = |code: Value| {
            serde_json::json!({
                "grant_type": "authorization_code",
                "client_id": 3,
                "client_secret": SECRET,
                "redirect_uri": REDIRECT_URI,
                "code": code,
            })
            .to_string()
        };
        let send = async |body: &str| fixture.send("POST", "/oauth/token", &json_type, body).await;
        let list = send(&body(serde_json::json!([code]))).await;
        assert_eq!(json(&list)["hint"], "Check the `code` parameter");
        let number = send(&body(Value::from(5))).await;
        assert_eq!(json(&number)["hint"], number_as_code);
        assert_eq!(send(&body(code.into())).await.status(), 200);
        let broken = send("{\"grant_type\":").await;
        assert_eq!(json(&broken)["error"], "unsupported_grant_type");
    }
}

#[tokio::test]
async fn parameters_in_the_query_are_ignored() {
    let fixture = newer().await;
    let code = fixture.code("3", &[]).await;
    let target = format!("/oauth/token?grant_type=authorization_code&client_id=3&code={code}");
    let answer = fixture.send("POST", &target, &[], "").await;
    assert_eq!(json(&answer)["error"], "unsupported_grant_type");
    assert_eq!(fixture.send("GET", &target, &[], "").await.status(), 405);
}

#[tokio::test]
async fn prompt_none_without_a_signed_in_user_is_an_error_in_each_passport_version() {
    for (kind, error) in [
        (ProviderKind::Passport12, "access_denied"),
        (ProviderKind::Passport13, "login_required"),
    ] {
        let fixture = Fixture::start(kind).await;
        let target = Fixture::target("3", &[("prompt", "none")]);
        let answer = fixture.send("GET", &target, &[], "").await;
        assert_eq!(query(&answer)["error"], error);
        assert_eq!(query(&answer)["state"], "xyz");
    }
}

#[tokio::test]
async fn each_fault_affects_one_request_to_the_token_endpoint() {
    let fixture = newer().await;
    let server = &fixture.server;
    let code = fixture.code("3", &[]).await;
    let mut fields = HeaderMap::new();
    fields.insert("retry-after", HeaderValue::from_static("7"));
    server
        .fail_next(Fault::Answer {
            status: StatusCode::TOO_MANY_REQUESTS,
            fields,
            body: Bytes::from_static(b"<h1>Too Many Attempts.</h1>"),
        })
        .await;
    let elsewhere = HeaderValue::from_static("http://evil.example/");
    server.fail_next(Fault::Redirect(elsewhere)).await;
    server.fail_next(Fault::Drop).await;
    server
        .fail_next(Fault::Delay(Duration::from_millis(1)))
        .await;
    let busy = fixture.redeem(&code).await;
    assert_eq!(
        (busy.status().as_u16(), &busy.headers()["retry-after"]),
        (429, &HeaderValue::from_static("7"))
    );
    let moved = fixture.redeem(&code).await;
    assert_eq!(moved.status(), 307);
    let request = || {
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs([
                ("grant_type", "authorization_code"),
                ("client_id", "3"),
                ("client_secret", SECRET),
                ("redirect_uri", REDIRECT_URI),
                ("code", &code),
            ])
            .finish();
        Request::post("/oauth/token")
            .header("host", "127.0.0.1")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::from(body))
            .unwrap()
    };
    assert!(exchange(server.address(), request()).await.is_err());
    assert_eq!(server.exchanges(), 0);
    assert_eq!(fixture.redeem(&code).await.status(), 200);
    // The server exchanges the code, but the answer is lost. A second exchange must fail, because
    // the code is used up.
    let lost = fixture.code("3", &[]).await;
    server.fail_next(Fault::LoseAnswer).await;
    let body = format!(
        "grant_type=authorization_code&client_id=3&client_secret={SECRET}&redirect_uri={REDIRECT_URI}&code={lost}"
    );
    let mut request = request();
    *request.body_mut() = Full::from(body);
    assert!(exchange(server.address(), request).await.is_err());
    let again = fixture.redeem(&lost).await;
    assert_eq!(json(&again)["hint"], "Authorization code has been revoked");
}

#[tokio::test]
async fn a_dropped_server_accepts_no_more_connections() {
    let fixture = newer().await;
    let address = fixture.server.address();
    assert_eq!(fixture.send("GET", "/", &[], "").await.status(), 200);
    drop(fixture);
    // When a test stops the server, the operating system still accepts connections until the
    // runtime has run the server's task again.
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_address_that_other_machines_can_reach_is_refused() {
    let settings = AuthorizationServerSettings {
        address: SocketAddr::from(([0, 0, 0, 0], 0)),
        ..AuthorizationServerSettings::default()
    };
    let refused = AuthorizationServer::start(settings).await.unwrap_err();
    assert!(matches!(refused, Error::NotLoopback { .. }), "{refused}");
}
