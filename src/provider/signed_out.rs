//! The responses by which an app refuses an access token.

use http::header::{LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};

use super::Provider;
use super::settings::SignedOutPattern;

/// The authentication schemes of apps with their own passwords. A challenge that asks for a
/// password does not show whether the app accepts the access token.
const PASSWORD_SCHEMES: [&str; 4] = ["basic", "digest", "negotiate", "ntlm"];

impl Provider {
    /// Returns true if a response of an app refuses the access token. The status 401 refuses the
    /// access token, unless all challenges in the response ask for a password. In the settings,
    /// patterns can describe further responses that refuse the access token.
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
        let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let location: Option<Uri> = location.and_then(|text| text.parse().ok());
        self.status == status.as_u16() && location.is_some_and(|uri| uri.path() == self.location)
    }
}

#[cfg(test)]
mod tests {
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
            location: "/login".to_owned(),
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
}
