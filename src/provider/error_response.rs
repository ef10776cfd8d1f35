//! Error responses of the token endpoint (RFC 6749 section 5.2) and their classification.
//!
//! If an authorization code is invalid, most providers return the error `invalid_grant`. Some
//! providers return `invalid_request`, or an error code that RFC 6749 does not define. A rate
//! limiter or a proxy in front of a provider sends responses that are not defined by OAuth. The
//! gateway first checks the status, then the error patterns of the profile, and then the JSON
//! member `error`. Only a well-formed error response means that the provider has refused the code
//! or the token.

use std::fmt;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};
use serde_json::Value;

use super::TokenCallError;
use super::json::Object;
use super::settings::{ErrorMeaning, ErrorPattern, GrantType};
use crate::clock::Timestamp;

/// The maximum length of a stored text from the provider, in characters.
const MAX_TEXT: usize = 1000;
/// The maximum length of a word in a stored text from the provider, in characters. A word that is
/// longer than `MAX_WORD` is omitted, because a long word may be a code or a token from the
/// request.
const MAX_WORD: usize = 24;
/// The longest `Retry-After` that the gateway applies.
const MAX_WAIT: Duration = Duration::from_hours(24);

/// The error codes of a token endpoint (RFC 6749 section 5.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ErrorCode {
    /// The secret is wrong, the client is unknown, or the authentication method is not accepted.
    InvalidClient,
    /// The code or the refresh token is invalid, expired, revoked, or belongs to another client.
    InvalidGrant,
    /// A parameter is missing, wrong or repeated.
    InvalidRequest,
    /// The scope is unknown or exceeds the granted scope.
    InvalidScope,
    /// The client may not use this grant type.
    UnauthorizedClient,
    /// The provider does not support this grant type.
    UnsupportedGrantType,
    /// An unknown error code, shortened to 1000 printable characters.
    Unrecognized(Box<str>),
}

impl ErrorCode {
    fn parse(text: &str) -> Self {
        match text {
            "invalid_client" => Self::InvalidClient,
            "invalid_grant" => Self::InvalidGrant,
            "invalid_request" => Self::InvalidRequest,
            "invalid_scope" => Self::InvalidScope,
            "unauthorized_client" => Self::UnauthorizedClient,
            "unsupported_grant_type" => Self::UnsupportedGrantType,
            other => Self::Unrecognized(printable(other)),
        }
    }

    fn meaning(&self, grant: GrantType) -> ErrorMeaning {
        match self {
            Self::InvalidClient
            | Self::InvalidRequest
            | Self::InvalidScope
            | Self::UnauthorizedClient
            | Self::UnsupportedGrantType => ErrorMeaning::Misconfigured,
            // Some token endpoints return `server_error` and `temporarily_unavailable`, which are
            // codes of the authorization endpoint (RFC 6749 section 4.1.2.1).
            Self::Unrecognized(name)
                if matches!(&**name, "server_error" | "temporarily_unavailable") =>
            {
                ErrorMeaning::Temporary
            }
            Self::InvalidGrant => ErrorMeaning::GrantRefused,
            Self::Unrecognized(_) => match grant {
                // At a login, the gateway can treat an unknown error code as a refusal of the
                // authorization code, because a mistake affects only one login.
                GrantType::AuthorizationCode => ErrorMeaning::GrantRefused,
                // At a refresh, an unknown error code does not end the session. The configured URL
                // may be wrong, and another service may answer every refresh with an unknown error
                // code. Error patterns in profiles list the additional codes that end a session.
                GrantType::RefreshToken => ErrorMeaning::Misconfigured,
            },
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant => "invalid_grant",
            Self::InvalidRequest => "invalid_request",
            Self::InvalidScope => "invalid_scope",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::Unrecognized(name) => name,
        })
    }
}

/// An error response of the token endpoint. All texts in a `Refusal` are short and printable, so
/// the log may show the texts. Long words are omitted, because a long word could be a code or a
/// token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// The status code.
    pub status: u16,
    /// The member `error`, if the body is a JSON object with this member.
    pub code: Option<ErrorCode>,
    /// The member `error_description`.
    pub description: Option<Box<str>>,
    /// The member `hint`, which the library league/oauth2-server sends.
    pub hint: Option<Box<str>>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status)?;
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        }
        if let Some(description) = &self.description {
            write!(f, ": {description}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// An error response (RFC 6749 section 5.2), or any other response without tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct ErrorResponse<'a> {
    /// The grant type of the request.
    pub(super) grant: GrantType,
    pub(super) status: StatusCode,
    pub(super) headers: &'a HeaderMap,
    /// The body, if the body is a JSON object.
    pub(super) members: Option<&'a Object>,
    /// True if the response has no body.
    pub(super) empty: bool,
}

impl<'a> ErrorResponse<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        self.members?.get(name)?.as_str()
    }
}

/// Classifies a response of the token endpoint that contains no tokens.
pub(super) fn classify(
    response: &ErrorResponse<'_>,
    patterns: &[ErrorPattern],
    now: Timestamp,
) -> TokenCallError {
    let (status, headers) = (response.status, response.headers);
    if status.is_redirection() {
        let status = status.as_u16();
        return TokenCallError::Redirected { status };
    }
    let retry_after = retry_after(headers, now);
    if status == StatusCode::TOO_MANY_REQUESTS {
        return TokenCallError::Throttled { retry_after };
    }
    let text = |name| response.text(name);
    let refusal = Refusal {
        status: status.as_u16(),
        code: text("error").map(ErrorCode::parse),
        description: text("error_description").map(printable),
        hint: text("hint").map(printable),
    };
    // A failure of the provider never ends a session, even if the body is an error response.
    let passing = status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY);
    let meaning = if passing {
        ErrorMeaning::Temporary
    } else if let Some(pattern) = patterns.iter().find(|pattern| pattern.matches(response)) {
        pattern.meaning
    } else {
        // A body without an error code does not come from the token endpoint, and does not show
        // whether the grant is still valid.
        refusal
            .code
            .as_ref()
            .map_or(ErrorMeaning::Misconfigured, |code| {
                code.meaning(response.grant)
            })
    };
    match meaning {
        ErrorMeaning::GrantRefused => match response.grant {
            GrantType::AuthorizationCode => TokenCallError::CodeRefused(refusal),
            GrantType::RefreshToken => TokenCallError::RefreshRefused(refusal),
        },
        ErrorMeaning::Temporary => TokenCallError::Unavailable {
            retry_after,
            refusal,
        },
        ErrorMeaning::Misconfigured => match (response.grant, &refusal.code) {
            (
                GrantType::RefreshToken,
                Some(ErrorCode::InvalidRequest | ErrorCode::Unrecognized(_)),
            ) => TokenCallError::UnlistedRefusal(refusal),
            _ => TokenCallError::Misconfigured(refusal),
        },
    }
}

impl ErrorPattern {
    /// Returns true if the pattern has no condition and would therefore match every response.
    pub(super) fn matches_everything(&self) -> bool {
        let texts = [&self.error, &self.description, &self.hint];
        self.status.is_none() && !self.empty && texts.into_iter().all(Option::is_none)
    }

    fn matches(&self, response: &ErrorResponse<'_>) -> bool {
        let equal = |expected: &Option<String>, name| {
            expected
                .as_deref()
                .is_none_or(|expected| response.text(name) == Some(expected))
        };
        self.grant.is_none_or(|expected| expected == response.grant)
            && self
                .status
                .is_none_or(|expected| expected == response.status.as_u16())
            && (response.empty || !self.empty)
            && equal(&self.error, "error")
            && equal(&self.description, "error_description")
            && equal(&self.hint, "hint")
    }
}

/// Reads `Retry-After` in seconds or as a date (RFC 9110 section 10.2.3). Returns zero for a date
/// in the past.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // The text of `Retry-After` contains only digits here, so parsing fails only if the number
        // is too large. If the number in `Retry-After` is too large, the gateway uses `MAX_WAIT`.
        text.parse().map_or(MAX_WAIT, Duration::from_secs)
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        let since_epoch = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Timestamp::default().plus(since_epoch).since(now)
    };
    Some(wait.min(MAX_WAIT))
}

/// Converts a text from the provider to a form that is safe in pages and logs. The converted text
/// has a limited length, no control characters, and no words that are long enough to be a code or a
/// token.
pub(crate) fn printable(text: &str) -> Box<str> {
    let mut shown = String::new();
    for word in text.split_whitespace().take(MAX_TEXT) {
        if !shown.is_empty() {
            shown.push(' ');
        }
        if word.chars().count() > MAX_WORD {
            shown.push_str("[left out]");
        } else {
            shown.extend(word.chars().map(|c| if c.is_control() { '?' } else { c }));
        }
    }
    shown.chars().take(MAX_TEXT).collect::<String>().into()
}

/// Returns true if a JSON object is an error response. The function does not check the status of
/// the response.
pub(super) fn is_error(members: &Object) -> bool {
    members
        .get("error")
        .is_some_and(|error| !matches!(error, Value::Null))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(text: &str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, text.parse().unwrap());
        let now = Timestamp::from_seconds(1_445_412_400.0);
        retry_after(&headers, now).map(|wait| wait.as_secs())
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(wait("37"), Some(37));
        assert_eq!(wait("0"), Some(0));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(80));
        assert_eq!(wait("Fri, 21 Oct 2005 07:28:00 GMT"), Some(0));
        assert_eq!(wait("99999999999999999999999"), Some(86_400));
        for bad in ["-1", "soon", "", "1.5", "Wed, 99 Oct 2015 07:28:00 GMT"] {
            assert_eq!(wait(bad), None, "{bad}");
        }
    }

    #[test]
    fn texts_of_a_server_are_made_printable() {
        assert_eq!(&*printable("a\r\nb\u{1b}[2J c"), "a b?[2J c");
        let code = "def50200".repeat(20);
        let shown = printable(&format!("the code {code} is invalid"));
        assert_eq!(&*shown, "the code [left out] is invalid");
        assert_eq!(printable(&"ab ".repeat(100_000)).chars().count(), 1000);
    }
}
