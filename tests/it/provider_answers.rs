//! Answers of an OpenID Provider at the end of a login: about its issuer, about the time and method
//! of the sign-in, and malicious answers.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sidegate::clock::Clock;
use tokio::sync::Notify;

use crate::support::browser::Browser;
use crate::support::gateway::Gateway;
use crate::support::openid::{OpenIdScene, settings};
use crate::support::provider::{Endpoint, StandIn};
use crate::support::scene::{ORIGIN, SESSION, url};
use crate::support::upstream::{Answer, RecordingUpstream};

const CALLED: [Endpoint; 4] = [
    Endpoint::Metadata,
    Endpoint::Jwks,
    Endpoint::Token,
    Endpoint::Userinfo,
];

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

/// Changes the correct nonce into a wrong nonce.
type Change = fn(&str) -> Value;

#[tokio::test]
async fn a_07_the_nonce_is_that_of_this_login() {
    let scene = OpenIdScene::new().await;
    scene.signed_in("alice").await;
    let earlier = scene.provider.asked()["nonce"].clone();
    let changes: [(&str, Change); 6] = [
        ("_nonce", |nonce| {
            let swap = |c: char| {
                if c.is_ascii_uppercase() {
                    c.to_ascii_lowercase()
                } else {
                    c.to_ascii_uppercase()
                }
            };
            nonce.chars().map(swap).collect::<String>().into()
        }),
        ("_nonce", |nonce| nonce[..nonce.len() - 1].into()),
        ("_nonce", |nonce| format!("{nonce}=").into()),
        ("_nonce", |_| "".into()),
        ("_claim", |nonce| json!([nonce])),
        ("_claim", |_| Value::Null),
    ];
    for (reason, change) in changes {
        scene.provider.tamper_claims(move |claims| {
            claims["nonce"] = change(claims["nonce"].as_str().unwrap());
        });
        scene.attempt().await.assert_not_believed("a nonce", reason);
    }
    scene
        .provider
        .tamper_claims(move |claims| claims["nonce"] = earlier.clone().into());
    scene
        .attempt()
        .await
        .assert_not_believed("an earlier nonce", "_nonce");
    scene.provider.tamper_claims(|claims| {
        claims.as_object_mut().unwrap().remove("nonce");
    });
    scene
        .attempt()
        .await
        .assert_not_believed("no nonce", "_claim");
}

#[tokio::test]
async fn a_20_a_21_a_22_an_answer_names_exactly_the_issuer_that_was_asked() {
    let scene = OpenIdScene::new().await;
    let issuer = scene.provider.url();
    for iss in [
        None,
        Some("https://other.example".to_owned()),
        Some(format!("{issuer}/")),
        Some(issuer.replace("http:", "HTTP:")),
        Some(issuer.replace("http:", "https:")),
        Some(issuer.replace("127.0.0.1", "localhost")),
        Some(issuer.replace("127.0.0.1", "127.0.0.001")),
        Some(issuer.replace(':', "%3A")),
        Some(format!(" {issuer}")),
        Some(format!("{issuer}:443")),
        Some(String::new()),
    ] {
        scene.provider.response_iss(iss.as_deref());
        let attempt = scene.attempt().await;
        attempt.assert_refused("502 response_issuer", &format!("{iss:?}"));
        assert_eq!(attempt.calls(Endpoint::Token), 0, "{iss:?}");
    }
    scene.provider.behave();
    scene.signed_in("alice").await;
}

#[tokio::test]
async fn a_21_iss_is_optional_without_a_promise_but_never_wrong() {
    let scene = OpenIdScene::prepared(&[], |provider| {
        provider.metadata(|metadata| {
            let members = metadata.as_object_mut().unwrap();
            members.remove("authorization_response_iss_parameter_supported");
        });
    })
    .await;
    scene.provider.response_iss(None);
    scene.signed_in("alice").await;
    scene.provider.response_iss(Some("https://other.example"));
    let attempt = scene.attempt().await;
    attempt.assert_refused("502 response_issuer", "another issuer");
    assert_eq!(attempt.calls(Endpoint::Token), 0);
    // The operator can require `iss`.
    let scene = OpenIdScene::prepared(&[("require_response_iss", "true")], |provider| {
        provider.metadata(|metadata| {
            metadata["authorization_response_iss_parameter_supported"] = false.into();
        });
    })
    .await;
    scene.provider.response_iss(None);
    scene
        .attempt()
        .await
        .assert_refused("502 response_issuer", "no issuer");
    scene.provider.behave();
    scene.signed_in("alice").await;
}

#[tokio::test]
async fn a_29_without_an_id_token_nobody_is_signed_in() {
    type Change = fn(&mut Value);
    let scene = OpenIdScene::new().await;
    let (none, odd) = ("502 no_id_token", "503 token_response_malformed");
    let changes: [(Change, &str); 4] = [
        (
            |body| drop(body.as_object_mut().unwrap().remove("id_token")),
            none,
        ),
        (|body| body["id_token"] = Value::Null, none),
        (|body| body["id_token"] = "".into(), none),
        (|body| body["id_token"] = json!({ "sub": "alice" }), odd),
    ];
    for (change, refused) in changes {
        scene.provider.tamper_token_response(change);
        let attempt = scene.attempt().await;
        attempt.assert_refused(refused, "no ID token");
        assert_eq!(attempt.calls(Endpoint::Userinfo), 0);
    }
}

#[tokio::test]
async fn a_30_userinfo_of_another_subject_is_refused() {
    let scene = OpenIdScene::new().await;
    for subject in [
        json!("mallory"),
        json!("Alice"),
        json!(["alice"]),
        Value::Null,
    ] {
        let said = subject.clone();
        scene
            .provider
            .userinfo(move |claims| claims["sub"] = said.clone());
        let attempt = scene.attempt().await;
        attempt.assert_refused("502 userinfo_subject", &subject.to_string());
        assert_eq!(attempt.calls(Endpoint::Userinfo), 1, "{subject}");
    }
}

#[tokio::test]
async fn a_33_a_sign_in_that_is_too_old_is_refused() {
    let scene = OpenIdScene::with(&[("authorization_request.max_age_secs", "300")]).await;
    scene.signed_in("alice").await;
    assert_eq!(scene.provider.asked()["max_age"], "300");
    for (ago, fine) in [
        (0, true),
        (299, true),
        (329, true),
        (332, false),
        (86_400, false),
    ] {
        scene.provider.tamper_claims(move |claims| {
            claims["auth_time"] = (claims["iat"].as_u64().unwrap() - ago).into();
        });
        let attempt = scene.attempt().await;
        if fine {
            attempt.assert_signed_in(&ago.to_string()).await;
        } else {
            attempt.assert_not_believed(&ago.to_string(), "_stale");
        }
    }
    for wrong in [Value::Null, json!("0"), json!(true), json!([0])] {
        let said = wrong.clone();
        scene
            .provider
            .tamper_claims(move |claims| claims["auth_time"] = said.clone());
        scene
            .attempt()
            .await
            .assert_not_believed(&wrong.to_string(), "_claim");
    }
    scene.provider.tamper_claims(|claims| {
        claims.as_object_mut().unwrap().remove("auth_time");
    });
    scene
        .attempt()
        .await
        .assert_not_believed("no auth_time", "_claim");
}

#[tokio::test]
async fn a_33_a_weaker_sign_in_than_was_asked_for_is_refused() {
    let levels = ("authorization_request.acr_values", "[\"silver\", \"gold\"]");
    let scene = OpenIdScene::with(&[levels]).await;
    for (acr, reason) in [
        (json!("silver"), None),
        (json!("gold"), None),
        (json!("bronze"), Some("_acr")),
        (json!("Gold"), Some("_acr")),
        (json!("silver gold"), Some("_acr")),
        (json!(["gold"]), Some("_claim")),
        (json!(2), Some("_claim")),
        (Value::Null, Some("_claim")),
    ] {
        let said = acr.clone();
        scene
            .provider
            .tamper_claims(move |claims| claims["acr"] = said.clone());
        let attempt = scene.attempt().await;
        match reason {
            None => attempt.assert_signed_in(&acr.to_string()).await,
            Some(reason) => attempt.assert_not_believed(&acr.to_string(), reason),
        }
    }
    let asked = scene.provider.asked();
    assert_eq!(asked["acr_values"], "silver gold");
    scene.provider.behave();
    scene
        .attempt()
        .await
        .assert_not_believed("no acr", "_claim");
}

/// A gzip member (RFC 1952) with one stored block.
fn gzip(body: &str) -> Vec<u8> {
    let mut crc = u32::MAX;
    for byte in body.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            let odd = crc & 1 == 1;
            crc = (crc >> 1) ^ if odd { 0xedb8_8320 } else { 0 };
        }
    }
    let length = u16::try_from(body.len()).unwrap();
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 1];
    bytes.extend(length.to_le_bytes());
    bytes.extend((!length).to_le_bytes());
    bytes.extend(body.bytes());
    bytes.extend((!crc).to_le_bytes());
    bytes.extend(u32::from(length).to_le_bytes());
    bytes
}

#[test]
fn compressed_bytes_can_be_decompressed() {
    // The test compares the CRC of this text, and the bytes between the head and the tail.
    let packed = gzip("123456789");
    assert_eq!(packed[15..24], *b"123456789");
    assert_eq!(packed[24..28], 0xcbf4_3926_u32.to_le_bytes());
}

fn encoded(coding: &str, body: &[u8]) -> Answer {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: {coding}\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    Answer::raw(&[head.as_bytes(), body].concat())
}

/// The status and reason for a login when the answer of `endpoint` is unusable.
fn unusable(endpoint: Endpoint) -> String {
    let reasons = match endpoint {
        Endpoint::Metadata => "metadata_malformed",
        Endpoint::Jwks => "keys_malformed",
        Endpoint::Token => "token_response_malformed",
        Endpoint::Userinfo => "userinfo_failed",
        Endpoint::Authorization | Endpoint::EndSession => panic!("a browser goes there"),
        Endpoint::Revocation => panic!("no login goes there"),
    };
    format!("502 {reasons} or 503 {reasons}")
}

/// The status and reason for a login when `endpoint` gives no answer.
fn unanswered(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Metadata => "503 metadata_unreachable",
        Endpoint::Jwks => "503 keys_unavailable",
        Endpoint::Token => "503 provider_call_failed",
        Endpoint::Userinfo => "503 userinfo_failed",
        Endpoint::Authorization | Endpoint::EndSession => panic!("a browser goes there"),
        Endpoint::Revocation => panic!("no login goes there"),
    }
}

#[tokio::test]
async fn d_30_compression_is_neither_requested_nor_decoded() {
    for endpoint in CALLED {
        // A valid answer, compressed. If the gateway decompressed the answer, the login would
        // succeed.
        let pack = |provider: &StandIn| {
            provider.rewrite(endpoint, |body| encoded("gzip", &gzip(body)));
        };
        let scene = OpenIdScene::prepared(&[], pack).await;
        let attempt = scene.attempt().await;
        attempt.assert_refused(&unusable(endpoint), &format!("{endpoint:?}"));
        let requests = scene.provider.requests(endpoint);
        assert!(!requests.is_empty(), "{endpoint:?} was never asked");
        for request in requests {
            let asked = request.head.value("accept-encoding");
            assert!(
                asked.is_none_or(|asked| asked == "identity"),
                "{endpoint:?}"
            );
        }
    }
}

#[tokio::test]
async fn d_31_endless_and_malformed_answers_are_cut_off() {
    let never = Arc::new(Notify::new());
    let chunk = format!("{:x}\r\n{}\r\n", 65_536, " ".repeat(65_536)).repeat(32);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let endless = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}");
    let unbounded = format!("{head}\r\n{}", " ".repeat(2_000_000));
    let fields = "X-Filler: abcdefghijklmnopqrstuvwxyz\r\n".repeat(100_000);
    let informational = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(20_000);
    let announced = format!("{head}Content-Length: 99999999999\r\n\r\n{{");
    let answers = [
        Answer::raw(endless.as_bytes()).then_await(&never),
        Answer::raw(unbounded.as_bytes()).then_await(&never),
        Answer::raw(format!("{head}{fields}").as_bytes()).then_await(&never),
        Answer::raw(informational.as_bytes()).then_await(&never),
        Answer::raw(announced.as_bytes()).then_await(&never),
        Answer::raw(b"{\"issuer\":\"HTTP/0.9\"}").then_close(),
        Answer::raw(format!("{head}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}").as_bytes()),
        Answer::silence().then_close(),
        Answer::silence().then_reset(),
    ];
    // The settings have a short deadline, because only the deadline ends some of these answers.
    let keys = [("deadline_secs", "1")];
    for endpoint in CALLED {
        for (number, answer) in answers.iter().enumerate() {
            let order = |provider: &StandIn| provider.instead(endpoint, answer.clone());
            let scene = OpenIdScene::prepared(&keys, order).await;
            let context = format!("answer {number} of {endpoint:?}");
            let attempt = scene.attempt().await;
            attempt.assert_refused(unanswered(endpoint), &context);
        }
    }
}

#[tokio::test]
async fn d_31_an_answer_that_never_comes_times_out() {
    for endpoint in CALLED {
        let scene = OpenIdScene::with(&[("deadline_secs", "1")]).await;
        let hold = scene.provider.hold(endpoint);
        let attempt = scene.attempt().await;
        attempt.assert_refused(unanswered(endpoint), &format!("{endpoint:?}"));
        hold.release();
    }
}

#[tokio::test]
async fn d_32_huge_json_is_refused_and_unusual_json_is_accepted() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let members: Vec<String> = (0..1_000_000).map(|n| format!("\"{n}\":0")).collect();
    let wide = format!("{{{}}}", members.join(","));
    let long = format!("\"{}\"", "x".repeat(10_000_000));
    let cases = [
        (deep.as_str(), true),
        (&wide, true),
        (&long, true),
        ("1e308", false),
        ("-0.000000000000000000000000000000000000001", false),
        ("[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]", false),
    ];
    for endpoint in CALLED {
        for (value, refused) in cases {
            let order = |provider: &StandIn| {
                let value = value.to_owned();
                provider.rewrite(endpoint, move |body| {
                    let member = format!("{{\"monster\":{value},");
                    Answer::with(200, &JSON, &body.replacen('{', &member, 1))
                });
            };
            let scene = OpenIdScene::prepared(&[], order).await;
            let attempt = scene.attempt().await;
            let shown: String = value.chars().take(20).collect();
            let context = format!("{shown} of {endpoint:?}");
            if refused {
                let refused = format!("{} or {}", unusable(endpoint), unanswered(endpoint));
                attempt.assert_refused(&refused, &context);
            } else {
                attempt.assert_signed_in(&context).await;
            }
        }
    }
}

#[tokio::test]
async fn f_06_garbage_from_any_endpoint_signs_nobody_in_and_nobody_out() {
    let garbage: [(u16, &str, &[u8]); 7] = [
        (200, "text/html", b"<h1>Welcome</h1>"),
        (200, "application/json", b""),
        (200, "application/json", b"null"),
        (200, "application/json", b"[{}]"),
        (200, "application/json", b"{\"keys\":[],\"access_token\":"),
        (200, "application/json", b"\xff\xfe\0{\0}"),
        (204, "application/json", b""),
    ];
    for endpoint in CALLED {
        let calm = OpenIdScene::new().await;
        let alice = calm.signed_in("alice").await;
        for (status, kind, body) in garbage {
            let context = format!("{status} {body:?} of {endpoint:?}");
            let head = format!(
                "HTTP/1.1 {status} Status\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let answer = Answer::raw(&[head.as_bytes(), body].concat());
            // In the first case, the answer is unusable from the start, for a new login.
            let order = |provider: &StandIn| provider.instead(endpoint, answer.clone());
            let scene = OpenIdScene::prepared(&[], order).await;
            let refused = format!(
                "{} or 502 client_refused or 502 keys_unavailable or 502 metadata_status",
                unusable(endpoint)
            );
            let attempt = scene.attempt().await;
            attempt.assert_refused(&refused, &context);
            // In the second case, the answer becomes unusable after users have signed in.
            calm.provider.instead(endpoint, answer);
            calm.gateway.advance(Duration::from_mins(5));
            if matches!(endpoint, Endpoint::Token | Endpoint::Userinfo) {
                calm.attempt().await.assert_refused(&refused, &context);
            }
            let page = alice.fetch(&url("/page")).await;
            assert_eq!(page.text(), "seen", "{context}: {}", page.describe());
        }
        calm.provider.behave();
        calm.signed_in("bob").await;
    }
}

#[tokio::test]
async fn g_11_two_providers_with_keys_of_the_same_name_are_kept_apart() {
    let clock = Clock::manual(Clock::system().now());
    let (main, other) = (
        StandIn::at_time_of(&clock).await,
        StandIn::at_time_of(&clock).await,
    );
    let app = RecordingUpstream::start().await;
    // The other provider has different keys with the same `kid`s.
    let keys = other.keys().of_an_attacker();
    other.jwks(move |jwks| *jwks = keys.jwks());
    other.id_token_by(move |draft| Some(draft.signed_by(keys, "RS256")));
    let first = settings(&main.url(), &app.url(), &[]);
    let secret = first.file("other_secret", crate::support::provider::CLIENT_SECRET);
    let second = format!(
        "[providers.other]\nprofile = \"oauth2\"\ndiscovery = \"openid\"\nissuer = \"{}\"\n\
         client_id = \"3\"\nclient_secret_file = \"{secret}\"\nscopes = [\"openid\"]\n\
         identity.source = \"id_token\"\n",
        other.url()
    );
    let gateway = Gateway::with_clock(first.with(&second), clock);
    let sign_in = async |name: &str| {
        let browser = Browser::new().leading(ORIGIN, gateway.address());
        let start = url(&format!("/oauth2/sign_in?provider={name}"));
        let page = browser.visit(&start).await;
        (browser.cookie(ORIGIN, SESSION).is_some(), page)
    };
    for name in ["main", "other", "main", "other"] {
        let (signed_in, page) = sign_in(name).await;
        assert!(signed_in, "{name}: {}", page.describe());
    }
    // The gateway does not accept the keys and the issuer of one provider for the other provider.
    main.id_token_by(move |draft| Some(draft.signed_by(keys, "RS256")));
    let issuer = main.url();
    other.tamper_claims(move |claims| claims["iss"] = issuer.clone().into());
    for (name, reason) in [("main", "id_token_signature"), ("other", "id_token_issuer")] {
        let (signed_in, page) = sign_in(name).await;
        assert!(!signed_in, "{name}");
        assert!(page.text().contains(reason), "{name}: {}", page.describe());
    }
}
