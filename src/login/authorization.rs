//! The authorization response (RFC 6749 section 4.1.2), as the redirection endpoint receives it.
//!
//! An `error` is accepted without a `state`, because some servers send an error without a `state`.
//! No method of this module returns the authorization code before the state is verified.

use std::fmt;

use url::form_urlencoded;

use super::OwnPaths;
use super::pending::{PendingLogin, ReturnedState, StateError};
use crate::clock::Timestamp;
use crate::provider::printable;
use crate::seal::KeyRing;
use crate::secret::Secret;

/// The longest accepted code, in bytes.
const MAX_CODE: usize = 8192;

/// An authorization response: a code or an error. Other modules can read the authorization code
/// only after the state is verified.
#[derive(Debug)]
pub(super) enum AuthorizationResponse {
    /// The authorization server sent a code.
    Granted(Granted),
    /// The authorization server sent an error.
    Refused {
        /// The error.
        denial: Denial,
        /// The `state`, if the server returned a `state`.
        state: Option<String>,
        /// The `iss` of the authorization response, if present (RFC 9207 section 2).
        iss: Option<String>,
    },
}

/// A code and a state that have not been verified.
#[derive(Debug)]
pub(super) struct Granted {
    code: Secret<String>,
    state: String,
    iss: Option<String>,
}

/// A code whose state is verified. A verified state was made by this gateway for this browser and
/// has not expired.
#[derive(Debug)]
#[must_use]
pub(super) struct VerifiedResponse {
    /// The authorization code, which can be exchanged only one time.
    pub(super) code: Secret<String>,
    /// The `iss` of the authorization response, if present (RFC 9207 section 2).
    pub(super) iss: Option<String>,
    /// The pending login to which the authorization response belongs.
    pub(super) pending: PendingLogin,
}

/// An authorization response that the gateway cannot accept.
///
/// The client or the provider is responsible for this error.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MalformedResponse {
    /// The authorization response has a code and an error.
    #[error("the answer has a code and an error")]
    Both,
    /// The authorization code is empty or too long, or contains a character that is not allowed.
    #[error("the code of the answer is malformed")]
    Code,
    /// The authorization response has no code and no error.
    #[error("the answer has no code and no error")]
    Neither,
    /// The answer that a page has posted is too long for the URL of the second request.
    #[error("the posted answer is too long")]
    TooLong,
    /// The code arrived in the query of a redirect, but the gateway had requested a form post.
    #[error("the code arrived in a URL although a form post was requested")]
    NotPosted,
    /// The authorization response has a parameter more than once.
    #[error("the answer has the parameter `{0}` more than once")]
    Repeated(&'static str),
}

impl AuthorizationResponse {
    /// Returns true if [`AuthorizationResponse::parse`] reads the parameter `name`.
    pub(super) fn reads(name: &str) -> bool {
        matches!(
            name,
            "code" | "state" | "error" | "iss" | "error_description"
        )
    }

    /// Parses the query of a request to the redirection endpoint, or the form that a page has posted
    /// to the redirection endpoint.
    ///
    /// Parameter names are percent-decoded one time and then compared exactly. Unknown parameters
    /// are ignored, including tokens: the gateway never accepts a token from a URL.
    ///
    /// # Errors
    ///
    /// [`MalformedResponse`].
    pub(super) fn parse(parameters: &[u8]) -> Result<Self, MalformedResponse> {
        let [mut code, mut state, mut error, mut iss] = [const { None }; 4];
        let mut description = None;
        for (name, value) in form_urlencoded::parse(parameters) {
            let (name, slot) = match &*name {
                "code" => ("code", &mut code),
                "state" => ("state", &mut state),
                "error" => ("error", &mut error),
                "iss" => ("iss", &mut iss),
                // `error_description` may occur more than one time, because the gateway only logs
                // this parameter. If there are several descriptions, the gateway logs the last
                // description.
                "error_description" => {
                    description = Some(value);
                    continue;
                }
                _ => continue,
            };
            if slot.replace(value.into_owned()).is_some() {
                return Err(MalformedResponse::Repeated(name));
            }
        }
        match (code, error) {
            (Some(_), Some(_)) => Err(MalformedResponse::Both),
            (None, None) => Err(MalformedResponse::Neither),
            (None, Some(error)) => Ok(Self::Refused {
                denial: Denial::new(&error, description.as_deref()),
                state,
                iss,
            }),
            (Some(code), None) => {
                // A code consists of visible ASCII characters and spaces (RFC 6749 appendix A.11).
                let visible = code.bytes().all(|byte| matches!(byte, 0x20..=0x7e));
                if code.is_empty() || code.len() > MAX_CODE || !visible {
                    return Err(MalformedResponse::Code);
                }
                // `ReturnedState::open` reports an empty state as missing.
                let (code, state) = (Secret::new(code), state.unwrap_or_default());
                Ok(Self::Granted(Granted { code, state, iss }))
            }
        }
    }
}

impl Granted {
    /// Decrypts the first part of the state. The first part of the state can be decrypted with the
    /// gateway's key alone, without the browser secret.
    ///
    /// # Errors
    ///
    /// [`StateError::Missing`] or [`StateError::Foreign`].
    pub(super) fn returned_state(
        &self,
        (keys, own): (&KeyRing, &OwnPaths),
        origin: &str,
    ) -> Result<ReturnedState, StateError> {
        ReturnedState::open(&self.state, (keys, own), origin)
    }

    /// Verifies the state with the browser secret from the login cookie. Returns the authorization
    /// code only if the state is valid.
    ///
    /// # Errors
    ///
    /// [`StateError`].
    pub(super) fn verify(
        self,
        returned: &ReturnedState,
        keys: &KeyRing,
        browser_secret: Option<&[u8]>,
        (now, timeout): (Timestamp, std::time::Duration),
    ) -> Result<VerifiedResponse, StateError> {
        let pending = returned.verify(keys, browser_secret, now, timeout)?;
        Ok(VerifiedResponse {
            code: self.code,
            iss: self.iss,
            pending,
        })
    }
}

/// An error from the authorization endpoint (RFC 6749 section 4.1.2.1).
///
/// The texts of a `Denial` are only for the log. The texts of a `Denial` contain only printable
/// characters. Long words are removed from the texts of a `Denial`, because a long word may be a
/// code or a token. Pages never show the texts of a `Denial`, because anybody can write such texts
/// into a URL.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Denial {
    /// The meaning of `error`.
    pub code: ErrorCode,
    error: Box<str>,
    description: Option<Box<str>>,
}

impl Denial {
    fn new(error: &str, description: Option<&str>) -> Self {
        Self {
            code: ErrorCode::parse(error),
            error: printable(error),
            description: description.map(printable),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)?;
        match &self.description {
            Some(description) => write!(f, ": {description}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Denial {}

/// The `error` of an authorization response (RFC 6749 section 4.1.2.1). OpenID Connect Core section
/// 3.1.2.6 defines additional errors for requests with `prompt`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrorCode {
    /// `access_denied`: the user or the server refused the request.
    AccessDenied,
    /// `consent_required`: the user has not yet allowed this gateway to use the account, and the
    /// server did not ask the user.
    ConsentRequired,
    /// `interaction_required`, `login_required` or `account_selection_required`: the server needs
    /// an action of the user, but the gateway did not allow the server to show a page. Some servers
    /// send `login_required` and similar errors even without `prompt=none`.
    InteractionRequired,
    /// `invalid_request`.
    InvalidRequest,
    /// `invalid_scope`.
    InvalidScope,
    /// `server_error`.
    ServerError,
    /// `temporarily_unavailable`.
    TemporarilyUnavailable,
    /// `unauthorized_client`.
    UnauthorizedClient,
    /// `unsupported_response_type`.
    UnsupportedResponseType,
    /// An unknown error code.
    Unrecognized,
}

impl ErrorCode {
    fn parse(text: &str) -> Self {
        match text {
            "access_denied" => Self::AccessDenied,
            "account_selection_required" | "interaction_required" | "login_required" => {
                Self::InteractionRequired
            }
            "consent_required" => Self::ConsentRequired,
            "invalid_request" => Self::InvalidRequest,
            "invalid_scope" => Self::InvalidScope,
            "server_error" => Self::ServerError,
            "temporarily_unavailable" => Self::TemporarilyUnavailable,
            "unauthorized_client" => Self::UnauthorizedClient,
            "unsupported_response_type" => Self::UnsupportedResponseType,
            _ => Self::Unrecognized,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(query: &str) -> Granted {
        match AuthorizationResponse::parse(query.as_bytes()).unwrap() {
            AuthorizationResponse::Granted(granted) => granted,
            AuthorizationResponse::Refused { .. } => panic!("{query} was read as an error"),
        }
    }

    #[test]
    fn a_16_an_error_is_read_without_a_state() {
        let parsed = AuthorizationResponse::parse(b"error=invalid_scope&hint=x&message=y").unwrap();
        let AuthorizationResponse::Refused { denial, state, .. } = parsed else {
            panic!("granted")
        };
        assert_eq!((denial.code, state), (ErrorCode::InvalidScope, None));
    }

    #[test]
    fn a_16_the_texts_of_an_error_are_cut_and_cleaned_for_the_log() {
        let word = "x+".repeat(10_000);
        let query = format!(
            "error=bad%0a%1b&error_description=Code+{}+{word}",
            "y".repeat(25)
        );
        let parsed = AuthorizationResponse::parse(query.as_bytes()).unwrap();
        let AuthorizationResponse::Refused { denial, .. } = parsed else {
            panic!("granted")
        };
        assert_eq!(denial.code, ErrorCode::Unrecognized);
        let text = denial.to_string();
        assert!(text.starts_with("bad ?: Code [left out] x x"), "{text}");
        assert!(text.chars().count() < 1020, "{text}");
    }

    #[test]
    fn a_16_a_code_beside_an_error_is_refused() {
        let parsed = AuthorizationResponse::parse(b"code=a&error=access_denied&state=s");
        assert_eq!(parsed.unwrap_err(), MalformedResponse::Both);
    }

    #[test]
    fn a_20_the_issuer_of_an_answer_is_kept_unchanged() {
        let code = granted("code=a&state=s&iss=https%3A%2F%2Fid.test%2F");
        assert_eq!(code.iss.as_deref(), Some("https://id.test/"));
        let error = AuthorizationResponse::parse(b"error=x&iss=https://id.test:443");
        let AuthorizationResponse::Refused { iss, .. } = error.unwrap() else {
            panic!("granted")
        };
        assert_eq!(iss.as_deref(), Some("https://id.test:443"));
    }

    #[test]
    fn a_17_a_repeated_parameter_is_refused() {
        for name in ["code", "state", "iss", "error"] {
            let query = format!("{name}=a&x=1&{name}=a");
            let parsed = AuthorizationResponse::parse(query.as_bytes());
            assert_eq!(parsed.unwrap_err(), MalformedResponse::Repeated(name));
        }
    }

    #[test]
    fn a_18_names_count_only_when_exact_after_one_decoding() {
        assert_eq!(granted("%63ode=a&%73tate=s").state, "s");
        for query in [
            "CODE=a",
            "code%00=a",
            "code[]=a",
            "%2563ode=a",
            "",
            "state=s",
        ] {
            let parsed = AuthorizationResponse::parse(query.as_bytes());
            assert_eq!(parsed.unwrap_err(), MalformedResponse::Neither, "{query}");
        }
        for query in ["code=a&STATE=s", "code=a&state%00=s", "code=a&state[]=s"] {
            assert_eq!(granted(query).state, "", "{query}");
        }
    }

    #[test]
    fn a_14_tokens_in_the_url_are_ignored() {
        let parsed = AuthorizationResponse::parse(b"access_token=x&token_type=bearer");
        assert_eq!(parsed.unwrap_err(), MalformedResponse::Neither);
    }

    #[test]
    fn a_code_that_could_break_the_exchange_is_refused() {
        let long = format!("code={}", "a".repeat(MAX_CODE + 1));
        for query in ["code=", "code=a%0ab", "code=%00", "code=%C3%A4", &long] {
            let parsed = AuthorizationResponse::parse(query.as_bytes());
            assert_eq!(parsed.unwrap_err(), MalformedResponse::Code);
        }
    }

    #[test]
    fn a_code_does_not_print() {
        assert!(!format!("{:?}", granted("code=canary&state=s")).contains("canary"));
    }
}
