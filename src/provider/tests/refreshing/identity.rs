//! Tests how the response to a refresh changes the identity.

use super::*;
use crate::token::Authentication;

#[tokio::test]
async fn the_identity_follows_the_new_access_token() {
    let payload = reference_payload();
    let subject = payload["sub"].as_str().unwrap().to_owned();
    let server = Server::start([tokens(&payload), tokens(&payload)]).await;
    let provider = Files::new().provider("laravel-passport-13", &server.url, "");
    let clock = Clock::manual(NOW);
    let mut alice = person("op", &subject);
    alice.name = Claim::new("Alice");
    let refreshed = refresh_of(&provider, &before(), &alice, &clock)
        .await
        .unwrap();
    assert_eq!(refreshed.identity, Some(person("op", &subject)));
    // The session does not store tokens of another user.
    let mallory = person("op", "mallory");
    let unrefreshed = refresh_of(&provider, &before(), &mallory, &clock)
        .await
        .unwrap_err();
    assert_eq!(
        seen(&unrefreshed),
        (Verdict::GrantEnded, "refresh_of_other_person")
    );
    assert!(unrefreshed.tokens_to_store.is_none());
}

const ISSUER: &str = "https://id.example";

/// Returns a provider whose identities come from ID tokens.
fn openid(url: &str, further: &str) -> Provider {
    let files = Files::new();
    let folder = files.0.path().display();
    let text = format!(
        "issuer = \"{ISSUER}\"\ndiscovery = \"none\"\nclient_id = \"3\"\n\
         client_authentication = \"none\"\nauthorization_endpoint = \"{url}/a\"\n\
         token_endpoint = \"{url}/t\"\nid_token.public_key_files = [\"{folder}/public.pem\"]\n\
         {further}"
    );
    Provider::new("op", &settings("oidc", &text), &Environment::default()).unwrap()
}

/// Returns a token response with an ID token in which some claims are replaced.
fn with_id_token(changed: &Value) -> String {
    let seconds = NOW.as_secs();
    let mut claims = value!({
        "iss": ISSUER, "aud": "3", "sub": "alice", "iat": seconds, "exp": seconds.saturating_add(300),
        "groups": ["new"],
    });
    let changed = changed.as_object().unwrap().clone();
    claims.as_object_mut().unwrap().extend(changed);
    let token = signed(&claims.to_string());
    granted(&value!({ "refresh_token": "next", "id_token": token }))
}

/// Returns the tokens and the identity of Alice after her login.
fn of_alice() -> (TokenSet, Identity) {
    let authentication = Authentication {
        nonce: "n".into(),
        auth_time: Some(NOW),
    };
    let tokens = before().with_authentication(Some(authentication));
    let alice = person(ISSUER, "alice").with_groups(Claim::new("old"));
    (tokens, alice)
}

#[tokio::test]
async fn the_identity_follows_the_id_token_of_a_refresh() {
    let seconds = NOW.as_secs();
    let (tokens, alice) = of_alice();
    for changed in [
        value!({}),
        value!({ "nonce": "n" }),
        value!({ "auth_time": seconds }),
        // Alice has authenticated again at the provider after her login.
        value!({ "auth_time": seconds + 5 }),
        value!({ "azp": "3" }),
    ] {
        let server = Server::start([with_id_token(&changed)]).await;
        let provider = openid(&server.url, "");
        let clock = Clock::manual(NOW);
        let refreshed = refresh_of(&provider, &tokens, &alice, &clock)
            .await
            .unwrap();
        let identity = refreshed.identity.expect("her claims");
        let groups: Vec<_> = identity.groups.iter().map(Claim::as_str).collect();
        assert_eq!(groups, ["new"], "{changed}");
        assert_eq!(refreshed.tokens.authentication(), tokens.authentication());
    }
}

#[tokio::test]
async fn j_80_an_invalid_id_token_of_a_refresh_keeps_the_old_identity() {
    let seconds = NOW.as_secs();
    let (tokens, alice) = of_alice();
    let mut answers: Vec<String> = [
        value!({ "aud": "other" }),
        value!({ "aud": ["3", "other"] }),
        value!({ "azp": "other" }),
        value!({ "exp": seconds - 60 }),
        value!({ "exp": "soon" }),
        value!({ "iat": seconds - 7200 }),
        value!({ "iat": null }),
        value!({ "nonce": "other" }),
        value!({ "nonce": 5 }),
        value!({ "auth_time": seconds - 1 }),
        value!({ "auth_time": seconds + 3600 }),
        value!({ "at_hash": "77QmUPtjPfzWtF2AnpK9RQ" }),
        value!({ "events": {} }),
        value!({ "sub": null }),
        value!({ "iss": null }),
    ]
    .iter()
    .map(with_id_token)
    .collect();
    // If the signature of an ID token is invalid, its claims prove nothing.
    let mallory = value!({ "iss": ISSUER, "aud": "3", "sub": "mallory" }).to_string();
    let forged = signed_by(&OTHER_KEY, &RSA_PKCS1_SHA256, HEADER, mallory.as_bytes());
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let unsigned = format!("{}.{}.", encode("{\"alg\":\"none\"}"), encode(&mallory));
    for id_token in [forged, unsigned, "nonsense".to_owned()] {
        let members = value!({ "refresh_token": "next", "id_token": id_token });
        answers.push(granted(&members));
    }
    for answered in answers {
        let server = Server::start([answered.clone()]).await;
        let provider = openid(&server.url, "");
        let clock = Clock::manual(NOW);
        let refreshed = refresh_of(&provider, &tokens, &alice, &clock).await;
        let refreshed = refreshed.expect(&answered);
        assert_eq!(refreshed.tokens.access_token(), "new");
        assert_eq!(refreshed.identity, None, "{answered}");
    }
}

#[tokio::test]
async fn a_requested_authentication_context_is_checked_at_a_refresh() {
    let (tokens, alice) = of_alice();
    for (changed, believed) in [
        (value!({ "acr": "urn:mfa" }), true),
        (value!({}), true),
        (value!({ "acr": "urn:password" }), false),
        (value!({ "acr": ["urn:mfa"] }), false),
    ] {
        let server = Server::start([with_id_token(&changed)]).await;
        let further = "authorization_request.acr_values = [\"urn:mfa\"]";
        let provider = openid(&server.url, further);
        let refreshed = refresh_of(&provider, &tokens, &alice, &Clock::manual(NOW)).await;
        let identity = refreshed.unwrap().identity;
        assert_eq!(identity.is_some(), believed, "{changed}");
    }
}

#[tokio::test]
async fn j_80_a_response_about_another_person_gives_no_tokens() {
    let (tokens, alice) = of_alice();
    for (changed, further) in [
        (value!({ "sub": "mallory" }), ""),
        (value!({ "sub": "Alice" }), ""),
        (value!({ "iss": "https://other.example" }), ""),
        (value!({ "iss": "https://id.example/" }), ""),
        // If other claims of the ID token, such as `aud`, are also wrong, the error still states
        // that the ID token is about a different user.
        (value!({ "sub": "mallory", "aud": "other", "exp": 1 }), ""),
        (
            value!({ "sub": "mallory" }),
            "userinfo_endpoint = \"http://localhost:9/\"",
        ),
    ] {
        let mut server = Server::start([with_id_token(&changed)]).await;
        let provider = openid(&server.url, further);
        let clock = Clock::manual(NOW);
        let refreshed = refresh_of(&provider, &tokens, &alice, &clock).await;
        let unrefreshed = refreshed.expect_err(&changed.to_string());
        let expected = (Verdict::GrantEnded, "refresh_of_other_person");
        assert_eq!(seen(&unrefreshed), expected, "{changed}");
        assert!(unrefreshed.tokens_to_store.is_none());
        server.next();
        assert!(server.has_no_more());
    }
}

#[tokio::test]
async fn a_refresh_keeps_the_userinfo_claims_without_another_call() {
    let (tokens, alice) = of_alice();
    let mut server = Server::start([with_id_token(&value!({}))]).await;
    let further = format!("userinfo_endpoint = \"{}/u\"", server.url);
    let provider = openid(&server.url, &further);
    let refreshed = refresh_of(&provider, &tokens, &alice, &Clock::manual(NOW)).await;
    assert_eq!(refreshed.unwrap().identity, None);
    server.next();
    assert!(server.has_no_more());
    // If a login does not read the userinfo, the ID token contains the complete identity.
    let server = Server::start([with_id_token(&value!({}))]).await;
    let provider = openid(
        &server.url,
        &format!("{further}\nidentity.userinfo = false"),
    );
    let refreshed = refresh_of(&provider, &tokens, &alice, &Clock::manual(NOW)).await;
    assert!(refreshed.unwrap().identity.is_some());
}

#[tokio::test]
async fn a_response_without_an_id_token_keeps_the_identity() {
    let (tokens, alice) = of_alice();
    let server = Server::start([granted(&value!({ "refresh_token": "next" }))]).await;
    let provider = openid(&server.url, "");
    let refreshed = refresh_of(&provider, &tokens, &alice, &Clock::manual(NOW)).await;
    let refreshed = refreshed.unwrap();
    assert_eq!(refreshed.identity, None);
    assert_eq!(refreshed.tokens.authentication(), tokens.authentication());
}

#[tokio::test]
async fn the_login_stores_the_nonce_and_the_authentication_time() {
    let said = value!({ "nonce": "nonce", "auth_time": NOW.as_secs() - 60 });
    // An invalid authentication time is ignored, because one provider states 1970 for every user.
    let odd = value!({ "nonce": "nonce", "auth_time": 0 });
    let server = Server::start([with_id_token(&said), with_id_token(&odd)]).await;
    let provider = openid(&server.url, "");
    let minute = Duration::from_mins(1);
    for auth_time in [Some(NOW), None] {
        let grant = redeem(&provider).await.unwrap();
        let authentication = grant.tokens.authentication().unwrap();
        assert_eq!(&*authentication.nonce, "nonce");
        assert_eq!(
            authentication.auth_time.map(|at| at.plus(minute)),
            auth_time
        );
    }
}
