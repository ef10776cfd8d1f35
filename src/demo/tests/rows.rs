//! Compares the server with recorded answers of real servers, because tests with our own client
//! cannot detect a mistake that client and server share.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::*;

const TOKEN_ENDPOINT: &str = include_str!("../../../tests/data/passport/token-endpoint.json");
const AUTHORIZATION_ENDPOINT: &str =
    include_str!("../../../tests/data/passport/authorization-endpoint.json");
const API: &str = include_str!("../../../tests/data/passport/api.json");
const REFERENCE: &str = include_str!("../../../tests/data/passport/reference-request.json");

const GENERATIONS: [ProviderKind; 2] = [ProviderKind::Passport12, ProviderKind::Passport13];

/// The order that the members of every JSON body must have.
const ORDER: [&str; 8] = [
    "token_type",
    "expires_in",
    "access_token",
    "refresh_token",
    "error",
    "error_description",
    "hint",
    "message",
];

#[derive(Deserialize)]
struct Row {
    case: String,
    #[serde(default)]
    parameters: BTreeMap<String, String>,
    authorization: Option<String>,
    #[serde(default)]
    given: Option<String>,
    #[serde(rename = "12")]
    older: Expected,
    #[serde(rename = "13")]
    newer: Expected,
}

#[derive(Deserialize)]
struct Expected {
    status: u16,
    #[serde(default)]
    fields: BTreeMap<String, String>,
    body: Option<BTreeMap<String, String>>,
    location: Option<String>,
    query: Option<BTreeMap<String, String>>,
}

fn rows(text: &str) -> Vec<Row> {
    let rows: Vec<Row> = serde_json::from_str(text).unwrap();
    assert!(!rows.is_empty());
    rows
}

impl Row {
    fn expected(&self, kind: ProviderKind) -> &Expected {
        match kind {
            ProviderKind::Passport12 => &self.older,
            ProviderKind::Passport13 => &self.newer,
            ProviderKind::OpenId => panic!("the rows are for Passport servers"),
        }
    }
}

/// Replaces the placeholders in `text` with values that the test creates for the current row.
async fn filled(fixture: &Fixture, text: &str) -> String {
    let Some((before, rest)) = text.split_once('{') else {
        return text.to_owned();
    };
    let (name, after) = rest.split_once('}').unwrap();
    let value = match name {
        "client_id" => "3".to_owned(),
        "public_client_id" => "4".to_owned(),
        "unknown_client_id" => "99".to_owned(),
        "client_secret" => SECRET.to_owned(),
        "wrong_secret" => "wrong".to_owned(),
        "redirect_uri" => REDIRECT_URI.to_owned(),
        "other_redirect_uri" => "https://evil.example/cb".to_owned(),
        "state" => "xyz".to_owned(),
        "garbage" => "def50200garbage".to_owned(),
        "code_verifier" => VERIFIER.to_owned(),
        "other_code_verifier" => VERIFIER.chars().rev().collect(),
        "code" => fixture.code("3", &[("scope", "read")]).await,
        "pkce_code" => {
            let challenge = [
                ("code_challenge", CHALLENGE),
                ("code_challenge_method", "S256"),
            ];
            fixture.code("3", &challenge).await
        }
        "tampered_code" => tampered(&fixture.code("3", &[]).await),
        "used_code" => {
            let code = fixture.code("3", &[]).await;
            assert_eq!(fixture.redeem(&code).await.status(), 200);
            code
        }
        "refresh_token" => fixture.grant().await.1,
        "used_refresh_token" => {
            let (_access, refresh) = fixture.grant().await;
            assert_eq!(fixture.refresh(&refresh).await.status(), 200);
            refresh
        }
        "expired_refresh_token" => {
            let (_access, refresh) = fixture.grant().await;
            fixture.clock.advance(OVER_TWO_HOURS);
            refresh
        }
        "revoked_access_token" => {
            let (access, refresh) = fixture.grant().await;
            assert_eq!(fixture.refresh(&refresh).await.status(), 200);
            access
        }
        "expired_access_token" => {
            let (access, _refresh) = fixture.grant().await;
            fixture.clock.advance(OVER_AN_HOUR);
            access
        }
        "tampered_access_token" => tampered(&fixture.grant().await.0),
        unknown => panic!("unknown placeholder {unknown}"),
    };
    let rest = Box::pin(filled(fixture, after)).await;
    format!("{before}{value}{rest}")
}

fn compare(title: &str, expected: &Expected, answer: &Response<Bytes>) {
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    assert_eq!(answer.status(), expected.status, "{title}: {text}");
    for (name, value) in &expected.fields {
        let actual = answer.headers().get(name).unwrap_or_else(|| {
            panic!("{title}: no field {name}");
        });
        assert_eq!(actual, value, "{title}: {name}");
    }
    // The real server sends no caching field with an error, and sends `WWW-Authenticate` only if
    // the row contains `WWW-Authenticate`.
    for name in ["cache-control", "www-authenticate"] {
        let wanted = expected.fields.contains_key(name);
        assert_eq!(
            answer.headers().contains_key(name),
            wanted,
            "{title}: {name}"
        );
    }
    let Some(body) = &expected.body else {
        return;
    };
    let actual = json(answer);
    let actual = actual.as_object().unwrap();
    assert_eq!(
        actual.keys().collect::<Vec<_>>(),
        body.keys().collect::<Vec<_>>(),
        "{title}"
    );
    for (name, value) in body {
        let member = &actual[name];
        let good = match value.as_str() {
            "{seconds}" => member.is_u64(),
            "{jwt}" => member.as_str().unwrap().split('.').count() == 3,
            "{hex}" => member.as_str().unwrap().starts_with("def50200"),
            text => member == text,
        };
        assert!(good, "{title}: {name} is {member}");
    }
    let places = ORDER
        .iter()
        .filter_map(|name| text.find(&format!("\"{name}\":")));
    assert!(places.is_sorted(), "{title}: {text}");
}

#[tokio::test]
async fn the_token_endpoint_answers_every_row_as_form_and_as_json() {
    for kind in GENERATIONS {
        let fixture = Fixture::start(kind).await;
        for row in rows(TOKEN_ENDPOINT) {
            for content_type in ["application/x-www-form-urlencoded", "application/json"] {
                let mut parameters = BTreeMap::new();
                for (name, value) in &row.parameters {
                    parameters.insert(name.clone(), filled(&fixture, value).await);
                }
                let body = if content_type == "application/json" {
                    serde_json::to_string(&parameters).unwrap()
                } else {
                    url::form_urlencoded::Serializer::new(String::new())
                        .extend_pairs(&parameters)
                        .finish()
                };
                let mut basic = None;
                if let Some(authorization) = &row.authorization {
                    let credentials = filled(&fixture, authorization).await;
                    let credentials = credentials.strip_prefix("Basic ").unwrap();
                    basic = Some(format!("Basic {}", STANDARD.encode(credentials)));
                }
                let mut fields = vec![("content-type", content_type)];
                fields.extend(basic.as_deref().map(|basic| ("authorization", basic)));
                let answer = fixture.send("POST", "/oauth/token", &fields, &body).await;
                let title = format!("{} {kind:?} {content_type}", row.case);
                compare(&title, row.expected(kind), &answer);
            }
        }
    }
}

#[tokio::test]
async fn the_authorization_endpoint_answers_every_row() {
    for kind in GENERATIONS {
        let fixture = Fixture::start(kind).await;
        for row in rows(AUTHORIZATION_ENDPOINT) {
            let mut query_string = url::form_urlencoded::Serializer::new(String::new());
            for (name, value) in &row.parameters {
                query_string.append_pair(name, &filled(&fixture, value).await);
            }
            let target = format!("/oauth/authorize?{}", query_string.finish());
            let answer = match row.given.as_deref() {
                None => fixture.send("GET", &target, &[], "").await,
                Some("the user refuses") => fixture.submit(&target, &[("action", "deny")]).await,
                Some(unknown) => panic!("{unknown}"),
            };
            let title = format!("{} {kind:?}", row.case);
            let expected = row.expected(kind);
            compare(&title, expected, &answer);
            if let (Some(location), Some(expected)) = (&expected.location, &expected.query) {
                let actual = answer.headers()["location"].to_str().unwrap();
                let base = filled(&fixture, location).await;
                assert!(actual.starts_with(&format!("{base}?")), "{title}: {actual}");
                let mut wanted = BTreeMap::new();
                for (name, value) in expected {
                    wanted.insert(name.clone(), filled(&fixture, value).await);
                }
                assert_eq!(query(&answer), wanted, "{title}");
            }
        }
    }
}

#[tokio::test]
async fn the_api_answers_every_row() {
    for kind in GENERATIONS {
        let fixture = Fixture::start(kind).await;
        for row in rows(API) {
            let mut bearer = None;
            if let Some(authorization) = &row.authorization {
                bearer = Some(filled(&fixture, authorization).await);
            }
            let fields: Vec<_> = bearer
                .iter()
                .map(|value| ("authorization", value.as_str()))
                .collect();
            let answer = fixture.send("GET", "/api/user", &fields, "").await;
            let title = format!("{} {kind:?}", row.case);
            compare(&title, row.expected(kind), &answer);
        }
    }
}

#[tokio::test]
async fn the_reference_request_is_answered_with_a_token_like_the_reference_token() {
    let reference: Value = serde_json::from_str(REFERENCE).unwrap();
    let request = &reference["request"];
    let parameter = |name: &str| request["parameters"][name].as_str().unwrap().to_owned();
    let fixture = Fixture::start(ProviderKind::Passport12).await;
    let registered = Client {
        id: parameter("client_id"),
        secret: Some(Secret::new(parameter("client_secret"))),
        redirect_uris: vec![parameter("redirect_uri")],
        post_logout_redirect_uris: Vec::new(),
        logout: None,
    };
    fixture.server.register(registered).await;
    let mut authorization = url::form_urlencoded::Serializer::new(String::new());
    authorization.append_pair("response_type", "code");
    for name in ["client_id", "redirect_uri"] {
        authorization.append_pair(name, &parameter(name));
    }
    let target = format!("/oauth/authorize?{}", authorization.finish());
    let code = query(&fixture.sign_in(&target).await)["code"].clone();
    assert!((700..1000).contains(&code.len()), "{}", code.len());
    assert!(parameter("code").starts_with("def50200") && code.starts_with("def50200"));
    let mut parameters = request["parameters"].clone();
    parameters["code"] = code.into();
    let fields: Vec<(&str, &str)> = request["fields"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
        .collect();
    let method = request["method"].as_str().unwrap();
    let path = request["path"].as_str().unwrap();
    let answer = fixture
        .send(method, path, &fields, &parameters.to_string())
        .await;
    is_like_the_reference(&fixture, &tokens(&answer).0, &reference["access_token"]);
    // `last_token_request` returns the request unchanged, for tests of clients.
    let seen = fixture.server.last_token_request().await.unwrap();
    assert_eq!(seen.method, "POST");
    assert_eq!(seen.target.path(), "/oauth/token");
    assert_eq!(serde_json::to_value(&seen.parameters).unwrap(), parameters);
    assert_eq!(seen.headers["accept"], "application/json");
    assert!(!format!("{seen:?}").contains(&parameter("client_secret")));
}

/// Checks that a token has the same header, the same members and the same types as the reference.
fn is_like_the_reference(fixture: &Fixture, access: &str, reference: &Value) {
    let checker =
        crate::demo::token_checker::TokenChecker::from_pem(fixture.server.public_key_pem())
            .unwrap();
    let token = checker.read(access).unwrap();
    assert!(token.signed);
    assert_eq!(Value::from(token.header), reference["header"]);
    let expected = reference["payload"].as_object().unwrap();
    assert!(
        token.claims.keys().eq(expected.keys()),
        "{:?}",
        token.claims
    );
    for (name, value) in expected {
        let actual = &token.claims[name];
        let same = actual.is_f64() == value.is_f64() && actual.is_string() == value.is_string();
        assert!(
            same && actual.is_array() == value.is_array(),
            "{name}: {actual}"
        );
    }
    assert_eq!(token.claims["aud"], expected["aud"]);
    assert_eq!(token.claims["jti"].as_str().unwrap().len(), 80);
}
