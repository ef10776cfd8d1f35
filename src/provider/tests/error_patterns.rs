//! Tests the effect of error responses to a refresh.

use http::Response;

use super::*;

const ROWS: &str = include_str!("../../../tests/data/refresh_answers.txt");

/// One row of the test data.
struct Row<'a> {
    line: &'a str,
    expected: (&'a str, &'a str),
    profile: &'a str,
    status: u16,
    fields: Vec<(&'a str, &'a str)>,
    body: &'a str,
}

impl<'a> Row<'a> {
    fn parse(line: &'a str) -> Self {
        let parts: Vec<&str> = line.split('\t').collect();
        let [verdict, reason, profile, status, fields, body] = parts[..] else {
            panic!("not six fields: {line}");
        };
        let none = |text: &'a str| if text == "-" { "" } else { text };
        let fields = none(fields).split("; ");
        // The fields of a row are separated by "; ". A split at "; " also cuts off the parameters
        // of a media type, but the parser ignores these parameters.
        let fields = fields.filter_map(|field| field.split_once(": "));
        Self {
            line,
            expected: (verdict, reason),
            profile,
            status: status.parse().unwrap(),
            fields: fields.collect(),
            body: none(body),
        }
    }

    fn read(&self, grant: GrantType, patterns: &[ErrorPattern]) -> TokenCallError {
        let mut response = Response::builder().status(self.status);
        for (name, value) in &self.fields {
            response = response.header(*name, *value);
        }
        let body = Bytes::copy_from_slice(self.body.as_bytes());
        let read = token::read(response.body(body).unwrap(), grant, patterns, NOW);
        read.expect_err(self.line)
    }
}

fn rows() -> impl Iterator<Item = Row<'static>> {
    let lines = ROWS.lines().filter(|line| !line.starts_with('#'));
    lines.map(Row::parse)
}

fn patterns(profile: &str, further: &str) -> Vec<ErrorPattern> {
    let minimal = "url = \"http://localhost\"\nclient_id = \"3\"\nauthorization_endpoint = \"/\"\n\
                   token_endpoint = \"/\"\n";
    settings(profile, &format!("{minimal}{further}")).errors
}

fn verdict(error: TokenCallError) -> (&'static str, &'static str) {
    let reason = error.reason();
    match RefreshError::from(error).verdict {
        Verdict::GrantEnded => ("fatal", reason),
        Verdict::OperatorMustAct => ("ours", reason),
        Verdict::Temporary => ("passing", reason),
    }
}

#[test]
fn g_07_g_08_f_29_error_responses_of_real_servers_are_classified() {
    let mut seen = BTreeMap::new();
    for row in rows() {
        let error = row.read(GrantType::RefreshToken, &patterns(row.profile, ""));
        assert_eq!(verdict(error), row.expected, "{}", row.line);
        *seen.entry(row.expected.0).or_insert(0) += 1;
    }
    assert!(
        seen.len() == 3 && seen.values().all(|rows| *rows >= 15),
        "{seen:?}"
    );
}

#[test]
fn a_failing_provider_ends_no_session_whatever_its_body_says() {
    for row in rows().filter(|row| row.expected.0 == "fatal") {
        // Each of the following status codes means a temporary failure. The test combines the body
        // of each row with each of the following status codes.
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            let error = Row {
                status,
                ..Row::parse(row.line)
            }
            .read(GrantType::RefreshToken, &patterns(row.profile, ""));
            assert_eq!(verdict(error).0, "passing", "{status} {}", row.line);
        }
    }
}

#[test]
fn an_empty_error_response_does_not_refuse_a_code() {
    let empty = rows().filter(|row| row.body.is_empty() && row.expected.0 == "fatal");
    for row in empty {
        let error = row.read(GrantType::AuthorizationCode, &patterns(row.profile, ""));
        assert_eq!(error.reason(), "client_refused", "{}", row.line);
    }
}

#[test]
fn a_pattern_can_classify_invalid_request_as_a_refused_refresh_token() {
    let taught = patterns(
        "oidc",
        "[[errors]]\ngrant = \"refresh_token\"\nstatus = 400\nerror = \"invalid_request\"\n\
         meaning = \"fatal\"",
    );
    let row = Row::parse(
        "fatal\trefresh_refused\toidc\t400\tcontent-type: application/json\t{\"error\":\"invalid_request\"}",
    );
    assert_eq!(
        verdict(row.read(GrantType::RefreshToken, &taught)),
        row.expected
    );
    let error = row.read(GrantType::AuthorizationCode, &taught);
    assert_eq!(error.reason(), "client_refused");
}

#[test]
fn a_pattern_without_conditions_is_refused() {
    let refused = |row: &str| {
        let text = format!(
            "url = \"https://id.example\"\nclient_id = \"3\"\nclient_authentication = \"none\"\n\
             authorization_endpoint = \"/a\"\ntoken_endpoint = \"/t\"\n[[errors]]\n{row}\n\
             meaning = \"fatal\""
        );
        Provider::new("op", &settings("oauth2", &text), &Environment::default()).is_err()
    };
    assert!(refused("grant = \"refresh_token\""));
    assert!(refused("empty = false"));
    assert!(!refused("empty = true"));
    assert!(!refused("status = 400"));
}
