//! Tests the classification of responses of the token endpoint.

use http::Response;
use serde_json::{Value, json as value};

use super::*;

const JSON: &str = "application/json";

fn read(
    profile: &str,
    status: u64,
    fields: &[(&str, &str)],
    body: &str,
) -> Result<TokenResponse, TokenCallError> {
    let asked = (GrantType::AuthorizationCode, profile);
    read_with(asked, status, fields, body)
}

fn read_with(
    (grant, profile): (GrantType, &str),
    status: u64,
    fields: &[(&str, &str)],
    body: &str,
) -> Result<TokenResponse, TokenCallError> {
    let mut response = Response::builder().status(u16::try_from(status).unwrap());
    for (name, text) in fields {
        response = response.header(*name, *text);
    }
    let body = response.body(Bytes::copy_from_slice(body.as_bytes()));
    let minimal = "url = \"http://localhost\"\nclient_id = \"3\"\nauthorization_endpoint = \"/\"\n\
                   token_endpoint = \"/\"";
    let patterns = settings(profile, minimal).errors;
    token::read(body.unwrap(), grant, &patterns, NOW)
}

fn ok(body: &str) -> Result<TokenResponse, TokenCallError> {
    read("oauth2", 200, &[("content-type", JSON)], body)
}

fn meaning(read: &Result<TokenResponse, TokenCallError>) -> &'static str {
    match read {
        Ok(_) => "granted",
        Err(TokenCallError::RefreshRefused(_) | TokenCallError::CodeRefused(_)) => "fatal",
        Err(
            TokenCallError::Misconfigured(_)
            | TokenCallError::Redirected { .. }
            | TokenCallError::UnlistedRefusal(_),
        ) => "ours",
        Err(TokenCallError::Throttled { .. } | TokenCallError::Unavailable { .. }) => "later",
        Err(_) => "not understood",
    }
}

fn fields(answer: &Value) -> Vec<(&str, &str)> {
    let fields = answer["fields"].as_object().unwrap().iter();
    fields
        .map(|(name, text)| (&**name, text.as_str().unwrap()))
        .collect()
}

#[test]
fn every_passport_response_is_classified() {
    let rows = json(&data("token-endpoint.json"));
    let mut seen = 0;
    for row in rows.as_array().unwrap() {
        for generation in ["12", "13"] {
            let answer = &row[generation];
            let profile = format!("laravel-passport-{generation}");
            let body = answer["body"]
                .to_string()
                .replace("\"{seconds}\"", "63158400");
            let status = answer["status"].as_u64().unwrap();
            let refresh = row["case"].as_str().unwrap().contains("refresh");
            let grant = if refresh {
                GrantType::RefreshToken
            } else {
                GrantType::AuthorizationCode
            };
            let read = read_with((grant, &profile), status, &fields(answer), &body);
            let expected = answer["meaning"].as_str().unwrap();
            assert_eq!(meaning(&read), expected, "{} of {generation}", row["case"]);
            seen += 1;
        }
    }
    assert!(seen >= 40, "{seen} rows");
}

#[test]
fn responses_of_other_servers_are_temporary_or_operator_errors() {
    let rows = json(&data("other-answers.json"));
    for row in rows.as_array().unwrap() {
        for profile in profile::names() {
            let status = row["status"].as_u64().unwrap();
            let read = read(profile, status, &fields(row), row["text"].as_str().unwrap());
            let expected = row["meaning"].as_str().unwrap();
            assert_eq!(meaning(&read), expected, "{} with {profile}", row["case"]);
        }
    }
    assert!(rows.as_array().unwrap().len() >= 15);
}

#[test]
fn retry_after_of_a_throttle_is_read() {
    let rows = json(&data("other-answers.json"));
    let row = |case: &str| {
        let mut rows = rows.as_array().unwrap().iter();
        let row = rows.find(|row| row["case"] == case).unwrap();
        let status = row["status"].as_u64().unwrap();
        let error = read(
            "oauth2",
            status,
            &fields(row),
            row["text"].as_str().unwrap(),
        );
        error
            .unwrap_err()
            .class()
            .retry_after
            .map(|wait| wait.as_secs())
    };
    assert_eq!(row("throttled_json"), Some(37));
    assert_eq!(row("throttled_html"), Some(37));
    // The date in the response is in the past.
    assert_eq!(row("throttled_until_a_date"), Some(0));
    assert_eq!(row("throttled_without_a_time"), None);
    assert_eq!(row("maintenance"), Some(60));
}

#[test]
fn the_reference_response_is_understood() {
    let body = data("reference-response.json");
    let answer = ok(&body).unwrap();
    assert_eq!(answer.expires_in, Some(Duration::from_hours(731 * 24)));
    let said = json(&body);
    assert_eq!(
        answer.access_token.expose(),
        said["access_token"].as_str().unwrap()
    );
    let refresh_token = answer.refresh_token.unwrap();
    assert_eq!(
        refresh_token.expose(),
        said["refresh_token"].as_str().unwrap()
    );
}

#[test]
fn nonstandard_error_codes_are_classified() {
    let read =
        |status, body: &str| meaning(&read("oauth2", status, &[("content-type", JSON)], body));
    assert_eq!(read(403, r#"{"error":"invalid_code"}"#), "fatal");
    assert_eq!(read(403, r#"{"error":"unauthorized_client"}"#), "ours");
    assert_eq!(read(400, r#"{"error":"temporarily_unavailable"}"#), "later");
    // The comparison of error codes is case-sensitive, so this error code is unknown.
    assert_eq!(read(400, r#"{"error":"INVALID_CLIENT"}"#), "fatal");
    // The body is not a valid error response, so the body does not show that the provider refused
    // the code.
    assert_eq!(
        read(400, r#"{"error":"invalid_grant","error":"x"}"#),
        "ours"
    );
    assert_eq!(read(400, r#"["invalid_grant"]"#), "ours");
    assert_eq!(read(400, r#"{"error":5}"#), "ours");
    // A response with the status 500 never refuses the code, even if the body is an error response.
    assert_eq!(read(500, r#"{"error":"invalid_grant"}"#), "later");
}

#[test]
fn an_id_token_has_to_be_a_string() {
    let id_token = |value: Value| {
        let read = ok(&with(|members| {
            members.insert("id_token".to_owned(), value);
        }));
        read.map(|answer| answer.id_token.map(|token| token.expose().clone()))
    };
    assert_eq!(id_token(value!("e30.e30.")).unwrap().unwrap(), "e30.e30.");
    for none in [value!(null), value!("")] {
        assert_eq!(id_token(none).unwrap(), None);
    }
    for bad in [value!(5), value!(["e30.e30."]), value!({}), value!(false)] {
        let error = id_token(bad).unwrap_err();
        assert_eq!(error.reason(), "token_response_malformed");
        assert!(chain(&error).contains("`id_token`"));
    }
}

#[test]
fn a_refusal_shows_the_error_of_the_provider() {
    let body =
        r#"{"error":"invalid_request","error_description":"No.","hint":"Invalid redirect URI"}"#;
    let error = read("laravel-passport-13", 400, &[], body).unwrap_err();
    assert_eq!(
        chain(&error),
        "the provider refuses this client: \
         status 400 invalid_request: No. (Invalid redirect URI)"
    );
    assert_eq!(
        (error.reason(), error.class().actor),
        ("client_refused", Actor::Operator)
    );
}

/// The error text names the setting in which the operator can state the meaning of an unlisted
/// error code.
#[test]
fn a_refresh_that_is_refused_with_an_unlisted_error_names_the_setting() {
    for (error, is_named) in [
        ("invalid_request", true),
        ("token_is_dead", true),
        ("unauthorized_client", false),
    ] {
        let body = value!({ "error": error }).to_string();
        let asked = (GrantType::RefreshToken, "oauth2");
        let error = read_with(asked, 400, &[("content-type", JSON)], &body).unwrap_err();
        assert_eq!(error.reason(), "client_refused");
        assert_eq!(
            chain(&error).contains("`[[providers.NAME.errors]]`"),
            is_named,
            "{}",
            chain(&error)
        );
    }
}

#[test]
fn a_refusal_does_not_repeat_a_code() {
    let code = "def50200".repeat(80);
    let body =
        value!({ "error": code, "error_description": format!("no {code}\r\nfake log line") });
    let error = read("oauth2", 400, &[], &body.to_string()).unwrap_err();
    let shown = format!("{error:?} {}", chain(&error));
    assert!(
        !shown.contains("def50200") && !shown.contains(['\r', '\n']),
        "{shown}"
    );
}

fn with(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> String {
    let mut members = value!({ "access_token": "abc", "token_type": "Bearer", "expires_in": 3600 });
    change(members.as_object_mut().unwrap());
    members.to_string()
}

#[test]
fn a_27_malformed_token_responses_are_refused() {
    let cases = [
        ("no access_token", with(|m| drop(m.remove("access_token")))),
        ("null", with(|m| m["access_token"] = Value::Null)),
        ("number", with(|m| m["access_token"] = value!(5))),
        ("token_type mac", with(|m| m["token_type"] = value!("mac"))),
        ("no token_type", with(|m| drop(m.remove("token_type")))),
        (
            "refresh_token 5",
            with(|m| drop(m.insert("refresh_token".into(), value!(5)))),
        ),
        (
            "duplicate",
            r#"{"access_token":"a","access_token":"b","token_type":"Bearer"}"#.into(),
        ),
        ("trailing", with(|_| ()) + "x"),
        ("array", "[]".into()),
        ("form", "access_token=abc&token_type=bearer".into()),
        ("empty", String::new()),
    ];
    for (case, body) in cases {
        let error = ok(&body).unwrap_err();
        assert_eq!(error.reason(), "token_response_malformed", "{case}");
        assert_eq!(error.class().actor, Actor::Provider, "{case}");
    }
    let html = read(
        "oauth2",
        200,
        &[("content-type", "text/html")],
        &with(|_| ()),
    );
    assert!(matches!(
        html,
        Err(TokenCallError::MalformedResponse(
            ResponseFormatError::MediaType
        ))
    ));
    assert!(matches!(
        read("oauth2", 200, &[], &with(|_| ())),
        Err(TokenCallError::MalformedResponse(
            ResponseFormatError::MediaType
        ))
    ));
}

#[test]
fn a_27_an_error_with_status_200_is_an_error() {
    let both = with(|m| drop(m.insert("error".into(), value!("invalid_grant"))));
    assert_eq!(meaning(&ok(&both)), "fatal");
    assert_eq!(meaning(&ok(r#"{"error":"invalid_client"}"#)), "ours");
    let null = with(|m| drop(m.insert("error".into(), Value::Null)));
    assert_eq!(meaning(&ok(&null)), "granted");
}

#[test]
fn a_27_variants_that_providers_use_are_accepted() {
    let typed = ok(&with(|m| m["token_type"] = value!("BeArEr")));
    assert!(typed.is_ok());
    let unknown = ok(&with(|m| {
        drop(m.insert("scope".into(), value!(["a", { "b": null }])));
    }));
    assert!(unknown.is_ok());
    for empty in [Value::Null, value!("")] {
        let answer = ok(&with(|m| drop(m.insert("refresh_token".into(), empty)))).unwrap();
        assert!(answer.refresh_token.is_none());
    }
    let vendor = [
        ("content-type", "application/vnd.x+json;charset=utf-8"),
        ("content-encoding", "identity"),
    ];
    assert!(read("oauth2", 200, &vendor, &with(|_| ())).is_ok());
}

#[test]
fn a_27_expires_in_may_be_a_number_or_a_quoted_number() {
    let said = |life: Value| ok(&with(|m| m["expires_in"] = life)).map(|answer| answer.expires_in);
    for (life, millis) in [
        (value!(3600), 3_600_000),
        (value!(3599.5), 3_599_500),
        (value!("3600"), 3_600_000),
        (value!("0.5"), 500),
        (value!(63_158_400), 63_158_400_000),
    ] {
        assert_eq!(
            said(life.clone()).unwrap(),
            Some(Duration::from_millis(millis)),
            "{life}"
        );
    }
    for life in [
        value!(-1),
        value!(0),
        value!(1e20),
        value!(u64::MAX),
        value!(null),
        value!(true),
        value!([3600]),
        value!("-1"),
        value!("1e3"),
        value!("inf"),
        value!(""),
    ] {
        let refused = matches!(
            said(life.clone()),
            Err(TokenCallError::MalformedResponse(
                ResponseFormatError::ExpiresIn
            ))
        );
        assert!(refused, "{life}");
    }
    assert!(ok(r#"{"access_token":"a","token_type":"bearer","expires_in":1e400}"#).is_err());
    let missing = ok(&with(|m| drop(m.remove("expires_in")))).unwrap();
    assert_eq!(missing.expires_in, None);
}

#[test]
fn d_30_a_compressed_response_is_not_decompressed() {
    for coding in ["gzip", "br", "zstd", "deflate", "identity, gzip"] {
        let fields = [("content-type", JSON), ("content-encoding", coding)];
        let read = read("oauth2", 200, &fields, &with(|_| ()));
        assert!(
            matches!(
                read,
                Err(TokenCallError::MalformedResponse(
                    ResponseFormatError::Compressed
                ))
            ),
            "{coding}"
        );
    }
}
