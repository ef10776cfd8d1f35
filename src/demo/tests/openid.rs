//! Tests of the OpenID Provider: metadata, keys, tokens and userinfo.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::*;
use crate::demo::{App, AppSettings};

/// The time at which the fixture's clock starts, in seconds since the epoch.
const START: u64 = 1_795_384_938;

pub(super) async fn provider() -> Fixture {
    Fixture::start(ProviderKind::OpenId).await
}

impl Fixture {
    async fn document(&self, path: &str) -> Value {
        let answer = self.send("GET", path, &[], "").await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.headers()["content-type"], "application/json");
        json(&answer)
    }

    /// Signs in as alice with the scopes in `scope` and a nonce. Returns the token response.
    async fn openid(&self, scope: &str) -> Value {
        let asked = [("scope", scope), ("nonce", "n-0S6_WzA2Mj")];
        let answer = self.redeem(&self.code("3", &asked).await).await;
        assert_eq!(answer.status(), 200, "{:?}", answer.body());
        json(&answer)
    }

    /// Verifies the signature of `token` with the published key that the token header names.
    /// Returns the header and the claims of the token.
    async fn verified(&self, token: &str) -> (Value, Value) {
        let part = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let header: Value = serde_json::from_slice(&part(header)).unwrap();
        let published = self.document("/oauth/jwks").await;
        let keys = published["keys"].as_array().unwrap();
        let key = keys.iter().find(|key| key["kid"] == header["kid"]).unwrap();
        let text = |name: &str| part(key[name].as_str().unwrap());
        let key = RsaPublicKeyComponents {
            n: text("n"),
            e: text("e"),
        };
        let (message, signature) = (signed.as_bytes(), part(signature));
        key.verify(&RSA_PKCS1_2048_8192_SHA256, message, &signature)
            .unwrap();
        (header, serde_json::from_slice(&part(claims)).unwrap())
    }

    async fn userinfo(&self, access_token: &Value) -> Response<Bytes> {
        let bearer = format!("Bearer {}", access_token.as_str().unwrap());
        let fields = [("authorization", bearer.as_str())];
        self.send("GET", "/oauth/userinfo", &fields, "").await
    }
}

fn text<'a>(answer: &'a Value, name: &str) -> &'a str {
    let text = answer[name].as_str();
    text.unwrap_or_else(|| panic!("{name} of {answer}"))
}

#[tokio::test]
async fn the_metadata_names_the_issuer_and_the_endpoints() {
    let fixture = provider().await;
    let issuer = fixture.server.base_url();
    let path = "/.well-known/openid-configuration";
    let metadata = fixture.document(path).await;
    assert_eq!(
        metadata,
        json!({
            "issuer": issuer,
            "authorization_endpoint": fixture.server.authorization_endpoint(),
            "token_endpoint": fixture.server.token_endpoint(),
            "userinfo_endpoint": fixture.server.userinfo_endpoint(),
            "jwks_uri": format!("{issuer}/oauth/jwks"),
            "end_session_endpoint": format!("{issuer}/oauth/end_session"),
            "revocation_endpoint": format!("{issuer}/oauth/revoke"),
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "code_challenge_methods_supported": ["S256"],
            "scopes_supported": ["openid", "profile", "email", "read", "write"],
            "claims_supported": [
                "sub", "iss", "aud", "exp", "iat", "auth_time", "nonce", "at_hash", "sid", "name",
                "preferred_username", "groups", "email", "email_verified",
            ],
            "request_uri_parameter_supported": false,
            "authorization_response_iss_parameter_supported": true,
            "backchannel_logout_supported": true,
            "backchannel_logout_session_supported": true,
        })
    );
    assert!(
        metadata["userinfo_endpoint"]
            .as_str()
            .unwrap()
            .ends_with("/oauth/userinfo")
    );
    assert_eq!(fixture.send("POST", path, &[], "").await.status(), 405);
}

#[tokio::test]
async fn the_key_set_contains_the_public_key_with_its_thumbprint() {
    let fixture = provider().await;
    let published = fixture.document("/oauth/jwks").await;
    let [key] = published["keys"].as_array().unwrap().as_slice() else {
        panic!("{published}")
    };
    let mut members: Vec<&str> = key
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    members.sort_unstable();
    assert_eq!(members, ["alg", "e", "kid", "kty", "n", "use"]);
    assert_eq!((&key["kty"], &key["alg"]), (&json!("RSA"), &json!("RS256")));
    // RFC 7638 section 3: the thumbprint uses only the required members, in the order `e`, `kty`,
    // `n`.
    let (e, n) = (text(key, "e"), text(key, "n"));
    let required = format!("{{\"e\":\"{e}\",\"kty\":\"RSA\",\"n\":\"{n}\"}}");
    let thumbprint = URL_SAFE_NO_PAD.encode(digest(&SHA256, required.as_bytes()));
    assert_eq!(text(key, "kid"), thumbprint);
    assert_eq!(URL_SAFE_NO_PAD.decode(n).unwrap().len(), 256);
    let other = provider().await.document("/oauth/jwks").await;
    assert_ne!(other, published);
}

#[tokio::test]
async fn the_id_token_contains_the_user_the_time_and_the_client() {
    let fixture = provider().await;
    fixture.clock.advance(Duration::from_secs(7));
    let answer = fixture.openid("openid profile email").await;
    assert_eq!(
        (&answer["token_type"], &answer["expires_in"]),
        (&json!("Bearer"), &json!(3600))
    );
    let (header, claims) = fixture.verified(text(&answer, "id_token")).await;
    assert_eq!(
        (&header["alg"], &header["typ"]),
        (&json!("RS256"), &json!("JWT"))
    );
    let hash = digest(&SHA256, text(&answer, "access_token").as_bytes());
    let sid = text(&claims, "sid");
    assert_eq!(sid.len(), 80);
    assert_eq!(
        claims,
        json!({
            "iss": fixture.server.base_url(),
            "sub": "17",
            "aud": "3",
            "iat": START + 7,
            "exp": START + 7 + 600,
            "auth_time": START + 7,
            "nonce": "n-0S6_WzA2Mj",
            "at_hash": URL_SAFE_NO_PAD.encode(&hash.as_ref()[..16]),
            "sid": sid,
        })
    );
}

#[tokio::test]
async fn nonce_and_id_token_are_returned_only_when_requested() {
    let fixture = provider().await;
    let code = fixture.code("3", &[("scope", "openid")]).await;
    let answer = json(&fixture.redeem(&code).await);
    let (_header, claims) = fixture.verified(text(&answer, "id_token")).await;
    assert!(claims.get("nonce").is_none(), "{claims}");
    for scope in ["read", ""] {
        let answer = fixture.openid(scope).await;
        assert!(answer.get("id_token").is_none(), "{answer}");
    }
}

#[tokio::test]
async fn the_sid_identifies_the_login_session_and_is_not_its_cookie() {
    let fixture = provider().await;
    let target = Fixture::target("3", &[("scope", "openid")]);
    let first = fixture.sign_in(&target).await;
    let session = cookie(&first);
    let fields = [("cookie", session.as_str())];
    let second = fixture.send("GET", &target, &fields, "").await;
    let other = fixture.sign_in(&target).await;
    let mut sids = Vec::new();
    for answer in [first, second, other] {
        let answer = json(&fixture.redeem(&query(&answer)["code"]).await);
        let (_header, claims) = fixture.verified(text(&answer, "id_token")).await;
        sids.push(text(&claims, "sid").to_owned());
    }
    assert_eq!(sids[0], sids[1]);
    assert_ne!(sids[0], sids[2]);
    assert!(!session.contains(&sids[0]));
}

#[tokio::test]
async fn the_access_token_is_not_an_id_token_and_the_app_accepts_it() {
    let fixture = provider().await;
    let answer = fixture.openid("openid read").await;
    let access = text(&answer, "access_token");
    let (header, claims) = fixture.verified(access).await;
    assert_eq!(header["typ"], "at+jwt");
    assert_eq!(claims["iss"], fixture.server.base_url());
    assert_eq!(
        (&claims["aud"], &claims["client_id"]),
        (&json!("3"), &json!("3"))
    );
    assert_eq!(claims["scope"], "openid read");
    let app = App::start(AppSettings {
        clock: fixture.clock.clone(),
        ..AppSettings::new(fixture.server.public_key_pem(), "3")
    });
    let app = app.await.unwrap();
    let bearer = format!("Bearer {access}");
    let fields = [
        ("authorization", bearer.as_str()),
        ("x-forwarded-preferred-username", "alice"),
    ];
    let seen = json(&send(app.address(), "GET", "/whoami", &fields, "").await);
    assert_eq!(
        (&seen["subject"], &seen["token"]),
        (&json!("17"), &json!("signature checked"))
    );
    let page = send(app.address(), "GET", "/", &fields, "").await;
    assert!(String::from_utf8_lossy(page.body()).contains("Hello, alice"));
}

#[tokio::test]
async fn a_refresh_rotates_the_token_and_its_id_token_has_the_same_login_and_no_nonce() {
    let fixture = provider().await;
    let first = fixture.openid("openid email").await;
    let (_header, before) = fixture.verified(text(&first, "id_token")).await;
    fixture.clock.advance(Duration::from_secs(100));
    let second = json(&fixture.refresh(text(&first, "refresh_token")).await);
    let (_header, after) = fixture.verified(text(&second, "id_token")).await;
    assert!(after.get("nonce").is_none(), "{after}");
    for name in ["iss", "sub", "aud", "auth_time", "sid"] {
        assert_eq!(before[name], after[name], "{name}");
    }
    assert_eq!(after["iat"], START + 100);
    assert_ne!(before["at_hash"], after["at_hash"]);
    let replayed = fixture.refresh(text(&first, "refresh_token")).await;
    assert_eq!(replayed.status(), 400);
    assert_eq!(json(&replayed)["error"], "invalid_grant");
    let third = json(&fixture.refresh(text(&second, "refresh_token")).await);
    assert_eq!(fixture.userinfo(&third["access_token"]).await.status(), 200);
}

#[tokio::test]
async fn userinfo_returns_the_claims_of_the_granted_scopes() {
    let fixture = provider().await;
    let profile = json!({
        "sub": "17",
        "name": "Alice Liddell",
        "preferred_username": "alice",
        "groups": ["staff", "admins"],
    });
    let email = json!({ "sub": "17", "email": "alice@example.com", "email_verified": true });
    let mut both = profile.clone();
    both["email"] = email["email"].clone();
    both["email_verified"] = true.into();
    for (scope, claims) in [
        ("openid", json!({ "sub": "17" })),
        ("openid profile", profile),
        ("openid email", email),
        ("openid profile email", both),
    ] {
        let access = fixture.openid(scope).await["access_token"].clone();
        let answer = fixture.userinfo(&access).await;
        assert_eq!(json(&answer), claims, "{scope}");
        assert_eq!(answer.headers()["cache-control"], "no-store");
    }
    let target = Fixture::target("3", &[("scope", "openid email")]);
    let bob = [("user", "bob"), ("password", "password")];
    let code = query(&fixture.submit(&target, &bob).await)["code"].clone();
    let bob = json(&fixture.redeem(&code).await);
    let bob = json(&fixture.userinfo(&bob["access_token"]).await);
    assert_eq!(
        bob,
        json!({ "sub": "18", "email": "bob@example.com", "email_verified": false })
    );
}

#[tokio::test]
async fn userinfo_accepts_the_token_in_the_field_or_in_a_form_and_refuses_invalid_tokens() {
    let fixture = provider().await;
    let answer = fixture.openid("openid").await;
    let access = text(&answer, "access_token");
    let bearer = format!("Bearer {access}");
    let form = ("content-type", "application/x-www-form-urlencoded");
    let body = format!("access_token={access}");
    let path = "/oauth/userinfo";
    let field = [("authorization", bearer.as_str())];
    assert_eq!(fixture.send("POST", path, &field, "").await.status(), 200);
    assert_eq!(
        fixture.send("POST", path, &[form], &body).await.status(),
        200
    );
    assert_eq!(fixture.send("PUT", path, &field, "").await.status(), 405);
    let forged = format!("Bearer {}", tampered(access));
    let id_token = format!("Bearer {}", text(&answer, "id_token"));
    for fields in [
        &[][..],
        &[("authorization", forged.as_str())],
        &[("authorization", id_token.as_str())],
    ] {
        let refused = fixture.send("GET", path, fields, "").await;
        assert_eq!(refused.status(), 401, "{fields:?}");
        let challenge = "Bearer error=\"invalid_token\"";
        assert_eq!(refused.headers()["www-authenticate"], challenge);
        assert_eq!(json(&refused)["error"], "invalid_token");
    }
    let plain = fixture.openid("read").await;
    let refused = fixture.userinfo(&plain["access_token"]).await;
    assert_eq!(refused.status(), 403);
    assert_eq!(json(&refused)["error"], "insufficient_scope");
    fixture.server.revoke_all().await;
    assert_eq!(
        fixture.userinfo(&answer["access_token"]).await.status(),
        401
    );
}

#[tokio::test]
async fn a_sign_in_older_than_max_age_asks_for_the_password_again() {
    let fixture = provider().await;
    let session = cookie(&fixture.sign_in(&Fixture::target("3", &[])).await);
    let fields = [("cookie", session.as_str())];
    fixture.clock.advance(Duration::from_secs(100));
    let ask = async |parameters: &[(&str, &str)]| {
        let target = Fixture::target("3", parameters);
        fixture.send("GET", &target, &fields, "").await
    };
    assert_eq!(ask(&[("max_age", "100")]).await.status(), 302);
    assert_eq!(ask(&[("max_age", "99")]).await.status(), 200);
    let silent = ask(&[("max_age", "99"), ("prompt", "none")]).await;
    assert_eq!(query(&silent)["error"], "login_required");
    assert_eq!(ask(&[("prompt", "login consent")]).await.status(), 200);
    let silent = ask(&[("prompt", "none")]).await;
    assert!(query(&silent).contains_key("code"));
    // A new sign-in sets a new `auth_time`.
    let again = Fixture::target("3", &[("scope", "openid"), ("prompt", "login")]);
    let code = query(&fixture.sign_in(&again).await)["code"].clone();
    let answer = json(&fixture.redeem(&code).await);
    let (_header, claims) = fixture.verified(text(&answer, "id_token")).await;
    assert_eq!(claims["auth_time"], START + 100);
}

#[tokio::test]
async fn an_openid_provider_and_a_passport_server_have_different_endpoints() {
    let fixture = provider().await;
    assert_eq!(
        fixture.send("GET", "/api/user", &[], "").await.status(),
        404
    );
    let passport = Fixture::start(ProviderKind::Passport13).await;
    for path in [
        "/.well-known/openid-configuration",
        "/oauth/jwks",
        "/oauth/userinfo",
    ] {
        assert_eq!(
            passport.send("GET", path, &[], "").await.status(),
            404,
            "{path}"
        );
    }
    let target = Fixture::target("3", &[("scope", "openid")]);
    let refused = passport.send("GET", &target, &[], "").await;
    assert_eq!(query(&refused)["error"], "invalid_scope");
    let code = query(
        &passport
            .sign_in(&Fixture::target("3", &[("nonce", "n")]))
            .await,
    );
    assert!(!code.contains_key("iss"), "{code:?}");
    let answer = json(&passport.redeem(&code["code"]).await);
    assert!(answer.get("id_token").is_none(), "{answer}");
}
