//! Recognizes the responses by which an app refuses an access token.

use http::header::{LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};

use super::settings::{FieldPattern, SignedOutPattern};
use super::{Provider, SetupError};

/// The authentication schemes with which an app asks for a password. A challenge that asks for a
/// password does not show whether the app accepts the access token.
const PASSWORD_SCHEMES: [&str; 4] = ["basic", "digest", "negotiate", "ntlm"];

impl Provider {
    /// Returns true if a response of an app refuses the access token. The status 401 refuses the
    /// access token, unless all challenges in the response ask for a password. Patterns in the
    /// settings can describe further responses that refuse the access token.
    pub fn is_signed_out_answer(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let patterns = &self.settings.signed_out_answers;
        (status == StatusCode::UNAUTHORIZED && !asks_for_password(headers))
            || patterns
                .iter()
                .any(|pattern| pattern.matches(status, headers))
    }
}

fn asks_for_password(headers: &HeaderMap) -> bool {
    let mut challenges = headers.get_all(WWW_AUTHENTICATE).iter().peekable();
    // A 401 without a challenge also refuses the access token, because many apps send no challenge.
    challenges.peek().is_some() && challenges.all(is_of_password)
}

/// Returns true if a challenge begins with one of `PASSWORD_SCHEMES` (RFC 9110 section 11.6.1).
fn is_of_password(challenge: &HeaderValue) -> bool {
    let scheme = challenge.as_bytes().split(|byte| *byte == b' ').next();
    scheme.is_some_and(|scheme| {
        PASSWORD_SCHEMES
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known.as_bytes()))
    })
}

impl SignedOutPattern {
    fn matches(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let location = self.location.as_deref();
        let field = self.field.as_ref();
        self.status == status.as_u16()
            && location.is_none_or(|path| leads_to(headers, path))
            && field.is_none_or(|field| field.matches(headers))
    }
}

/// Returns true if the field `Location` has the path `path`.
fn leads_to(headers: &HeaderMap, path: &str) -> bool {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let location: Option<Uri> = location.and_then(|text| text.parse().ok());
    location.is_some_and(|uri| uri.path() == path)
}

impl FieldPattern {
    fn matches(&self, headers: &HeaderMap) -> bool {
        let wanted = self.contains.as_bytes();
        let mut values = headers.get_all(&self.name.0).iter();
        values.any(|value| {
            let mut parts = value.as_bytes().windows(wanted.len().max(1));
            parts.any(|part| part.eq_ignore_ascii_case(wanted))
        })
    }
}

/// Refuses a pattern that matches no response or too many responses.
pub(super) fn check(patterns: &[SignedOutPattern]) -> Result<(), SetupError> {
    let is_final = |pattern: &SignedOutPattern| (300..=599).contains(&pattern.status);
    let is_bare =
        |pattern: &SignedOutPattern| pattern.location.is_none() && pattern.field.is_none();
    let is_empty = |pattern: &SignedOutPattern| {
        let field = pattern.field.as_ref();
        field.is_some_and(|field| field.contains.is_empty())
    };
    let is_path = |pattern: &SignedOutPattern| {
        let location = pattern.location.as_deref().unwrap_or("/");
        location.starts_with('/') && !location.contains(['?', '#'])
    };
    let problem = if !patterns.iter().all(is_final) {
        "has a status that is not between 300 and 599"
    } else if patterns.iter().any(is_bare) {
        "has a row without `location` and without `field`, which would match every response with \
         this status"
    } else if !patterns.iter().all(is_path) {
        "has a `location` that is not a path; write the path of the redirect, such as /login"
    } else if patterns.iter().any(is_empty) {
        "has a field whose text `contains` is empty"
    } else {
        return Ok(());
    };
    let key = "signed_out_answers";
    Err(SetupError::Setting { key, problem })
}

#[cfg(test)]
mod tests {
    use figment::providers::Format as _;

    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn h_29_a_challenge_for_a_password_says_nothing_about_a_token() {
        for (challenges, asks) in [
            (&[][..], false),
            (&["Bearer realm=\"api\", error=\"invalid_token\""], false),
            (&["Basic realm=\"app\""], true),
            (&["NTLM", "Negotiate"], true),
            (&["Basic realm=\"app\"", "Bearer"], false),
            (&["error=invalid_request,error_description=Invalid"], false),
            (&["Basics x"], false),
        ] {
            let fields: Vec<_> = challenges
                .iter()
                .map(|challenge| ("www-authenticate", *challenge))
                .collect();
            assert_eq!(asks_for_password(&headers(&fields)), asks, "{challenges:?}");
        }
    }

    #[test]
    fn laravels_redirect_to_its_login_page_is_recognised_by_path() {
        let pattern = SignedOutPattern {
            status: 302,
            location: Some("/login".to_owned()),
            field: None,
        };
        for (location, matches) in [
            ("/login", true),
            ("https://app.example/login", true),
            ("https://app.example/login?next=%2F", true),
            ("/login/", false),
            ("/logins", false),
            ("/", false),
            ("https://app.example", false),
            ("not a url", false),
        ] {
            let headers = headers(&[("location", location)]);
            assert_eq!(
                pattern.matches(StatusCode::FOUND, &headers),
                matches,
                "{location}"
            );
            assert!(!pattern.matches(StatusCode::SEE_OTHER, &headers));
        }
        assert!(!pattern.matches(StatusCode::FOUND, &HeaderMap::new()));
    }

    fn pattern(toml: &str) -> SignedOutPattern {
        let table = figment::Figment::from(figment::providers::Toml::string(toml));
        table.extract().unwrap()
    }

    #[test]
    fn a_field_tells_a_refused_token_from_another_refusal() {
        let challenge = "status = 403\nfield = { name = \"WWW-Authenticate\", contains = \
                         \"error=\\\"invalid_token\\\"\" }";
        let kind = "status = 403\nfield = { name = \"content-type\", contains = \
                    \"application/vnd.token-error\" }";
        let both = "status = 302\nlocation = \"/start\"\nfield = { name = \"X-Auth\", \
                    contains = \"expired\" }";
        for (toml, fields, matches) in [
            (
                challenge,
                &[("www-authenticate", "Bearer Error=\"invalid_token\"")][..],
                true,
            ),
            (
                challenge,
                &[
                    ("www-authenticate", "Basic"),
                    (
                        "www-authenticate",
                        "Bearer a=b, error=\"invalid_token\", c=d",
                    ),
                ],
                true,
            ),
            (
                challenge,
                &[("www-authenticate", "Bearer error=\"insufficient_scope\"")],
                false,
            ),
            (challenge, &[("x-other", "error=\"invalid_token\"")], false),
            (challenge, &[], false),
            (
                kind,
                &[("content-type", "Application/Vnd.Token-Error+json")],
                true,
            ),
            (kind, &[("content-type", "application/json")], false),
            (kind, &[("content-type", "")], false),
            (both, &[("location", "/start"), ("x-auth", "expired")], true),
            (both, &[("location", "/start")], false),
            (both, &[("location", "/"), ("x-auth", "expired")], false),
        ] {
            let pattern = pattern(toml);
            let status = StatusCode::from_u16(pattern.status).unwrap();
            let headers = headers(fields);
            assert_eq!(pattern.matches(status, &headers), matches, "{fields:?}");
            assert!(!pattern.matches(StatusCode::OK, &headers), "{fields:?}");
        }
    }

    #[test]
    fn a_location_that_matches_no_redirect_is_refused() {
        for location in [
            "login",
            "",
            "/login?x",
            "/login#x",
            "https://app.example/login",
        ] {
            let toml = format!("status = 302\nlocation = \"{location}\"");
            let error = check(&[pattern(&toml)]).unwrap_err().to_string();
            assert!(error.contains("is not a path"), "{location}: {error}");
        }
        check(&[pattern("status = 302\nlocation = \"/login\"")]).unwrap();
    }
}
