//! The OpenID Foundation's tests for relying parties, each with its own name (with `_` instead of
//! `-`): the plans Basic, Config, Form Post and Refresh Token. The file also contains the tests of
//! the general plan, the hybrid flow and dynamic registration that apply to a relying party of the
//! code flow.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::openid::OpenIdScene;
use crate::support::provider::CLIENT_SECRET;
use crate::support::provider::{Endpoint, Keys, StandIn, left_half};
use crate::support::scene::url;
use crate::support::upstream::RecordingUpstream;

/// The plan Form Post is the plan Basic with answers that the browser posts as a form. Each test
/// therefore runs in both response modes.
const MODES: [&[(&str, &str)]; 2] = [
    &[],
    &[("authorization_request.response_mode", "\"form_post\"")],
];

/// A scene for each response mode, with further keys of the provider. `prepare` changes the
/// provider.
async fn scenes(keys: &[(&str, &str)], prepare: impl Fn(&StandIn)) -> [OpenIdScene; 2] {
    let [query, form_post] = MODES.map(|mode| [mode, keys].concat());
    [
        OpenIdScene::prepared(&query, &prepare).await,
        OpenIdScene::prepared(&form_post, &prepare).await,
    ]
}

/// Fails unless logins at a provider with this change succeed.
async fn signs_in(prepare: impl Fn(&StandIn)) -> [OpenIdScene; 2] {
    signs_in_with(&[], prepare).await
}

async fn signs_in_with(keys: &[(&str, &str)], prepare: impl Fn(&StandIn)) -> [OpenIdScene; 2] {
    let scenes = scenes(keys, prepare).await;
    for scene in &scenes {
        scene.signed_in("alice").await;
    }
    scenes
}

/// Fails unless logins at a provider with this change are refused for their ID token, with a reason
/// code that ends with `reason`.
async fn is_refused(reason: &str, prepare: impl Fn(&StandIn)) {
    for scene in scenes(&[], prepare).await {
        let attempt = scene.attempt().await;
        attempt.assert_not_believed(reason, reason);
        // Without the change, the same scene works.
        scene.provider.behave();
        scene.signed_in("alice").await;
    }
}

#[test]
fn every_test_of_the_list_is_here() {
    let list = include_str!("../data/openid_rp.txt");
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    let (mut plans, mut count) = (std::collections::BTreeSet::new(), 0);
    for line in lines {
        let (plan, name) = line.split_once('\t').unwrap();
        let test = format!("#[tokio::test]\nasync fn {}() {{", name.replace('-', "_"));
        let files = [
            include_str!("openid_rp.rs"),
            include_str!("openid_logout.rs"),
        ];
        assert!(files.iter().any(|file| file.contains(&test)), "{name}");
        plans.insert(plan);
        count += 1;
    }
    assert!(
        [
            "Basic",
            "Config",
            "Form Post",
            "Refresh Token",
            "RP-Initiated Logout",
            "Back-Channel Logout",
            "Front-Channel Logout"
        ]
        .iter()
        .all(|plan| plans.contains(plan))
    );
    assert!(count >= 16 + 6 + 17 + 3 + 3 + 8 + 2, "{count}");
}

// Basic RP.

#[tokio::test]
async fn oidcc_client_test() {
    let modes = [None, Some("form_post")];
    for (scene, mode) in signs_in(|_| ()).await.into_iter().zip(modes) {
        assert_eq!(scene.asserted("x-forwarded-user").as_deref(), Some("alice"));
        let bearer = scene.asserted("authorization").unwrap();
        assert!(bearer.starts_with("Bearer alice."));
        let asked = scene.provider.asked();
        assert_eq!(asked["response_type"], "code");
        assert_eq!(asked["scope"], "openid");
        assert!(asked["nonce"].len() >= 22 && asked["state"].len() >= 22);
        assert_eq!(asked.get("response_mode").map(String::as_str), mode);
    }
}

#[tokio::test]
async fn oidcc_client_test_invalid_iss() {
    is_refused("_issuer", |provider| {
        provider.tamper_claims(|claims| claims["iss"] = "https://other.example".into());
    })
    .await;
}

#[tokio::test]
async fn oidcc_client_test_missing_sub() {
    is_refused("_claim", |provider| {
        provider.tamper_claims(|claims| {
            claims.as_object_mut().unwrap().remove("sub");
        });
    })
    .await;
}

#[tokio::test]
async fn oidcc_client_test_invalid_aud() {
    is_refused("_audience", |provider| {
        provider.tamper_claims(|claims| claims["aud"] = "another-client".into());
    })
    .await;
}

#[tokio::test]
async fn oidcc_client_test_missing_iat() {
    is_refused("_claim", |provider| {
        provider.tamper_claims(|claims| {
            claims.as_object_mut().unwrap().remove("iat");
        });
    })
    .await;
}

#[tokio::test]
async fn oidcc_client_test_kid_absent_single_jwks() {
    signs_in(|provider| {
        provider.tamper_header(|header| *header = json!({ "alg": "RS256" }));
        provider.jwks(|jwks| {
            let mut only = jwks["keys"][0].clone();
            only.as_object_mut().unwrap().remove("kid");
            *jwks = json!({ "keys": [only] });
        });
    })
    .await;
}

#[tokio::test]
async fn oidcc_client_test_kid_absent_multiple_jwks() {
    // A relying party may refuse a token without a key id, or try the keys that fit the algorithm.
    // The gateway tries these keys.
    signs_in(|provider| {
        provider.tamper_header(|header| *header = json!({ "alg": "RS256" }));
        let stranger = Keys::first().of_an_attacker().jwk("RS256");
        provider.jwks(move |jwks| {
            let keys = jwks["keys"].as_array_mut().unwrap();
            keys.insert(0, stranger.clone());
            for key in keys {
                key.as_object_mut().unwrap().remove("kid");
            }
        });
    })
    .await;
}

#[tokio::test]
async fn oidcc_client_test_idtoken_sig_rs256() {
    signs_in(|provider| provider.sign_with("RS256")).await;
}

#[tokio::test]
async fn oidcc_client_test_idtoken_sig_none() {
    // A relying party that requested unsigned tokens may accept unsigned tokens in the code flow.
    // The gateway never accepts unsigned tokens. The plan Config also contains this test.
    is_refused("_algorithm", |provider| {
        provider.id_token_by(|draft| {
            let mut draft = draft.clone();
            draft.header = json!({ "alg": "none" });
            let signed = draft.signed_by(draft.keys, "RS256");
            let end = signed.rfind('.').unwrap() + 1;
            Some(signed[..end].to_owned())
        });
    })
    .await;
}

#[tokio::test]
async fn oidcc_client_test_invalid_sig_rs256() {
    is_refused("_signature", |provider| {
        provider.id_token_by(|draft| Some(draft.signed_by(draft.keys.of_an_attacker(), "RS256")));
    })
    .await;
}

#[tokio::test]
async fn oidcc_client_test_userinfo_bearer_header() {
    for scene in signs_in(|_| ()).await {
        let [request] = <[_; 1]>::try_from(scene.provider.requests(Endpoint::Userinfo)).unwrap();
        assert_eq!(
            (request.method().as_str(), request.target().as_str()),
            ("GET", "/userinfo")
        );
        let bearer = request.head.value("authorization").unwrap();
        assert!(bearer.starts_with("Bearer alice."));
        let email = scene.asserted("x-forwarded-email");
        assert_eq!(email.as_deref(), Some("alice@example.com"));
    }
}

#[tokio::test]
async fn oidcc_client_test_userinfo_bearer_body() {
    let in_body = [("identity.userinfo_bearer", "\"body\"")];
    for scene in signs_in_with(&in_body, |_| ()).await {
        let [request] = <[_; 1]>::try_from(scene.provider.requests(Endpoint::Userinfo)).unwrap();
        assert_eq!(
            (request.method().as_str(), request.target().as_str()),
            ("POST", "/userinfo")
        );
        assert_eq!(request.head.value("authorization"), None);
        let sent = scene.provider.posted(Endpoint::Userinfo);
        assert!(sent["access_token"].starts_with("alice."));
        let email = scene.asserted("x-forwarded-email");
        assert_eq!(email.as_deref(), Some("alice@example.com"));
    }
}

#[tokio::test]
async fn oidcc_client_test_userinfo_invalid_sub() {
    let of_mallory = |provider: &StandIn| {
        provider.userinfo(|claims| claims["sub"] = "mallory".into());
    };
    for scene in scenes(&[], of_mallory).await {
        let attempt = scene.attempt().await;
        attempt.assert_refused("502 userinfo_subject", "another subject");
        assert_eq!(attempt.calls(Endpoint::Userinfo), 1);
    }
}

#[tokio::test]
async fn oidcc_client_test_nonce_invalid() {
    is_refused("_nonce", |provider| {
        provider.tamper_claims(|claims| claims["nonce"] = "another".into());
    })
    .await;
}

#[tokio::test]
async fn oidcc_client_test_scope_userinfo_claims() {
    let scopes = (
        "scopes",
        "[\"openid\", \"profile\", \"email\", \"address\", \"phone\"]",
    );
    for scene in signs_in_with(&[scopes], |_| ()).await {
        let asked = scene.provider.asked();
        assert_eq!(asked["scope"], "openid profile email address phone");
        for (field, value) in [
            ("x-forwarded-user", "alice"),
            ("x-forwarded-email", "alice@example.com"),
            ("x-forwarded-preferred-username", "alice"),
            ("x-forwarded-groups", "staff"),
        ] {
            assert_eq!(scene.asserted(field).as_deref(), Some(value), "{field}");
        }
    }
}

#[tokio::test]
async fn oidcc_client_test_client_secret_basic() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    for scene in signs_in(|_| ()).await {
        let [request] = <[_; 1]>::try_from(scene.provider.requests(Endpoint::Token)).unwrap();
        let field = request.head.value("authorization").unwrap();
        let pair = STANDARD.decode(field.strip_prefix("Basic ").unwrap());
        assert_eq!(pair.unwrap(), format!("3:{CLIENT_SECRET}").into_bytes());
        let sent = scene.provider.posted(Endpoint::Token);
        assert!(!sent.contains_key("client_secret"));
    }
}

// Config RP.

#[tokio::test]
async fn oidcc_client_test_discovery_openid_config() {
    // Only the issuer is configured, so every called endpoint came from the metadata.
    for scene in signs_in(|_| ()).await {
        let of_login = Endpoint::ALL.into_iter();
        let of_login = of_login
            .filter(|endpoint| !matches!(endpoint, Endpoint::EndSession | Endpoint::Revocation));
        for endpoint in of_login {
            assert_eq!(scene.provider.calls(endpoint), 1, "{endpoint:?}");
        }
    }
}

#[tokio::test]
async fn oidcc_client_test_discovery_jwks_uri_keys() {
    for alg in [
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
    ] {
        signs_in(|provider| provider.sign_with(alg)).await;
    }
}

#[tokio::test]
async fn oidcc_client_test_discovery_issuer_mismatch() {
    let wrong = |provider: &StandIn| {
        provider.metadata(|metadata| metadata["issuer"] = "https://other.example".into());
    };
    for scene in scenes(&[], wrong).await {
        let attempt = scene.attempt().await;
        attempt.assert_refused("502 metadata_issuer", "another issuer");
        for endpoint in [Endpoint::Authorization, Endpoint::Token, Endpoint::Jwks] {
            assert_eq!(attempt.calls(endpoint), 0, "{endpoint:?}");
        }
    }
}

#[tokio::test]
async fn oidcc_client_test_signing_key_rotation_just_before_signing() {
    let scene = OpenIdScene::new().await;
    scene.signed_in("alice").await;
    scene.provider.rotate_just_before_signing();
    scene.signed_in("bob").await;
    assert_eq!(scene.provider.calls(Endpoint::Jwks), 2);
}

#[tokio::test]
async fn oidcc_client_test_signing_key_rotation() {
    let scene = OpenIdScene::new().await;
    scene.signed_in("alice").await;
    scene.provider.rotate_keys();
    scene.signed_in("bob").await;
    scene.signed_in("carol").await;
    assert_eq!(scene.provider.calls(Endpoint::Jwks), 2);
}

// The tests that the plan Form Post adds to the plan Basic.

#[tokio::test]
async fn oidcc_client_test_form_post_error() {
    let [_, scene] = scenes(&[], |provider| {
        provider.authorization_response(|response| {
            response["code"] = Value::Null;
            response["error"] = "access_denied".into();
            response["error_description"] = "call 0800 for help".into();
        });
    })
    .await;
    let attempt = scene.attempt().await;
    attempt.assert_refused("403 access_denied", "an error");
    assert!(!attempt.page.text().contains("0800"));
    assert_eq!(attempt.calls(Endpoint::Token), 0);
}

// Refresh Token RP.

/// Alice is signed in, and her access token has expired. In the first scene, the identity comes
/// only from the ID token. In the second scene, the identity also comes from the userinfo.
async fn with_expired_tokens() -> [(OpenIdScene, Browser); 2] {
    let scenes = ["false", "true"].map(async |userinfo| {
        let keys = [
            ("identity.userinfo", userinfo),
            ("scopes", "[\"openid\", \"offline_access\"]"),
        ];
        let scene = OpenIdScene::prepared(&keys, StandIn::give_refresh_tokens).await;
        let browser = scene.signed_in("alice").await;
        assert_eq!(scene.provider.asked()["scope"], "openid offline_access");
        scene.gateway.advance(Duration::from_secs(3601));
        (scene, browser)
    });
    let [first, second] = scenes;
    [first.await, second.await]
}

#[tokio::test]
async fn oidcc_client_test_refresh_token() {
    let scenes = with_expired_tokens().await;
    for ((scene, browser), groups) in scenes.into_iter().zip(["renewed", "staff"]) {
        let before = scene.asserted("authorization").unwrap();
        scene
            .provider
            .tamper_claims(|claims| claims["groups"] = json!(["renewed"]));
        assert_eq!(browser.fetch(&url("/page")).await.text(), "seen");
        let after = scene.asserted("authorization").unwrap();
        assert!(
            after.starts_with("Bearer alice.") && after != before,
            "{after}"
        );
        assert_eq!(scene.asserted("x-forwarded-user").as_deref(), Some("alice"));
        // The claims of the new ID token are used. The gateway did not read the userinfo again.
        assert_eq!(
            scene.asserted("x-forwarded-groups").as_deref(),
            Some(groups)
        );
        // The next refresh uses the refresh token from the first refresh.
        scene.gateway.advance(Duration::from_secs(3601));
        assert_eq!(browser.fetch(&url("/page")).await.text(), "seen");
        let [first, second] = <[_; 2]>::try_from(scene.provider.refreshes()).unwrap();
        assert_ne!(first["refresh_token"], second["refresh_token"]);
        assert_eq!(scene.provider.calls(Endpoint::Authorization), 1);
    }
}

/// Fails unless a refresh with this claim in its ID token is refused: the new tokens are never
/// used, and the session ends.
async fn is_not_refreshed(claim: &'static str, value: &'static str) {
    for (scene, browser) in with_expired_tokens().await {
        let at_app = scene.app.count();
        scene
            .provider
            .tamper_claims(move |claims: &mut Value| claims[claim] = value.into());
        for reason in ["grant_ended", "session_unknown"] {
            let page = browser.fetch(&url("/page")).await;
            assert_eq!(page.status, 401, "{}", page.describe());
            assert_eq!(page.json()["reason"], reason, "{}", page.describe());
        }
        assert_eq!(scene.app.count(), at_app);
        assert_eq!(scene.provider.refreshes().len(), 1);
        // Without the claim, the same scene works.
        scene.provider.behave();
        scene.signed_in("alice").await;
    }
}

#[tokio::test]
async fn oidcc_client_test_refresh_token_invalid_issuer() {
    is_not_refreshed("iss", "https://other.example").await;
}

#[tokio::test]
async fn oidcc_client_test_refresh_token_invalid_sub() {
    is_not_refreshed("sub", "mallory").await;
}

// The general plan.

#[tokio::test]
async fn oidcc_client_test_missing_aud() {
    is_refused("_claim", |provider| {
        provider.tamper_claims(|claims| {
            claims.as_object_mut().unwrap().remove("aud");
        });
    })
    .await;
}

#[tokio::test]
async fn oidcc_client_test_invalid_sig_hs256() {
    // No algorithm with a shared secret is accepted, not even with a valid signature.
    for secret in [CLIENT_SECRET, "another secret"] {
        is_refused("_algorithm", |provider| {
            provider.id_token_by(|draft| {
                let mut draft = draft.clone();
                draft.header = json!({ "alg": "HS256" });
                Some(draft.signed_with_secret(secret.as_bytes()))
            });
        })
        .await;
    }
}

#[tokio::test]
async fn oidcc_client_test_invalid_sig_es256() {
    is_refused("_signature", |provider| {
        provider.sign_with("ES256");
        provider.id_token_by(|draft| Some(draft.signed_by(draft.keys.of_an_attacker(), "ES256")));
    })
    .await;
}

/// Claims from other issuers (OpenID Connect Core 1.0 section 5.6.2) are ignored: the login
/// succeeds, and the gateway calls no other server for such claims.
async fn claims_of_others(source: impl Fn(&str) -> Value) {
    let elsewhere = RecordingUpstream::start().await;
    let source = source(&elsewhere.url());
    let scenes = signs_in(|provider| {
        let source = source.clone();
        provider.userinfo(move |claims| {
            claims["email"] = Value::Null;
            claims["_claim_names"] = json!({ "email": "one", "groups": "one" });
            claims["_claim_sources"] = json!({ "one": source });
        });
    })
    .await;
    for scene in scenes {
        assert_eq!(scene.asserted("x-forwarded-email"), None);
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn oidcc_client_test_aggregated_claims() {
    let keys = Keys::first().of_an_attacker();
    let header = json!({ "alg": "RS256" }).to_string();
    let claims = json!({ "email": "evil@example.net", "groups": ["admins"] }).to_string();
    let message = [header, claims]
        .map(crate::support::provider::base64url)
        .join(".");
    let signature = crate::support::provider::base64url(keys.sign("RS256", message.as_bytes()));
    claims_of_others(|_| json!({ "JWT": format!("{message}.{signature}") })).await;
}

#[tokio::test]
async fn oidcc_client_test_distributed_claims() {
    claims_of_others(|elsewhere| json!({ "endpoint": elsewhere, "access_token": "x" })).await;
}

// Tests of the hybrid flow and of dynamic registration that also apply to the code flow.

#[tokio::test]
async fn oidcc_client_test_invalid_athash() {
    is_refused("_hash", |provider| {
        provider.tamper_claims(|claims| claims["at_hash"] = left_half("RS256", "other").into());
    })
    .await;
}

#[tokio::test]
async fn oidcc_client_test_missing_athash() {
    // In the code flow, the claim `at_hash` is optional (OpenID Connect Core 1.0 section 3.1.3.6).
    signs_in(|provider| {
        provider.tamper_claims(|claims| {
            claims.as_object_mut().unwrap().remove("at_hash");
        });
    })
    .await;
}

#[tokio::test]
async fn oidcc_client_test_invalid_chash() {
    is_refused("_hash", |provider| {
        provider.tamper_claims(|claims| claims["c_hash"] = left_half("RS256", "other").into());
    })
    .await;
}

#[tokio::test]
async fn oidcc_client_test_userinfo_signed() {
    for alg in ["RS256", "ES256"] {
        for scene in signs_in(|provider| provider.sign_userinfo(alg)).await {
            let email = scene.asserted("x-forwarded-email");
            assert_eq!(email.as_deref(), Some("alice@example.com"), "{alg}");
        }
    }
}
