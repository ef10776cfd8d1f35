//! Calling the token endpoint with a code or a refresh token.

use std::time::Duration;

use super::NotReady;
use crate::origin;
use crate::provider::error_response::Refusal;
use crate::provider::jwt::signer::SigningError;
use crate::provider::token::ResponseFormatError;

/// Why the token endpoint gave no tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokenCallError {
    /// The answer has status 200 and is no token response (RFC 6749 section 5.1).
    #[error("the token response is not understood")]
    MalformedResponse(#[source] ResponseFormatError),
    /// The JWT by which we say who we are could not be made.
    #[error("the client assertion could not be made")]
    Assertion(#[source] SigningError),
    /// As many calls of the server are under way as may be: it is slow, or `concurrent_calls` is too
    /// low.
    #[error("too many calls of the authorization server are under way")]
    Busy,
    /// The server could not be reached, did not answer in time, or answered more than is taken.
    #[error("the call to the authorization server failed")]
    Call(#[source] origin::Error),
    /// The code is no good. A new login helps.
    #[error("the authorization server refuses the code")]
    CodeRefused(#[source] Refusal),
    /// The server has failed several refreshes in a row, or asked for it, and is left alone for a
    /// while.
    #[error("the authorization server is left alone for another {} ms", retry_after.as_millis())]
    BreakerOpen {
        /// When it is tried again.
        retry_after: Duration,
    },
    /// The server refuses us, not the user: wrong secret, wrong redirection URI, a request that it
    /// does not understand. Compare our settings with the registration there.
    #[error("the authorization server refuses this client")]
    Misconfigured(#[source] Refusal),
    /// There is no refresh token.
    #[error("there is no refresh token")]
    NoRefreshToken,
    /// It is not known yet where the token endpoint is.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// We would call the token endpoint more often than is allowed.
    #[error("the token endpoint may not be called for another {} ms", retry_after.as_millis())]
    RateLimited {
        /// When the next call may be made.
        retry_after: Duration,
    },
    /// The token endpoint answered with a redirect, which is never followed: the code and the
    /// client secret would go along. The endpoint's address is wrong.
    #[error("the token endpoint answered with a redirect ({status})")]
    Redirected {
        /// The status.
        status: u16,
    },
    /// The refresh token is no good any more: used up, expired, revoked, or the person may not sign
    /// in now. A new login helps.
    #[error("the authorization server refuses the refresh token")]
    RefreshRefused(#[source] Refusal),
    /// The server throttles us (429): `token_calls_per_minute` is too high, or others share our
    /// address.
    #[error("the authorization server asks for fewer calls")]
    Throttled {
        /// When to come back, when it said so.
        retry_after: Option<Duration>,
    },
    /// The server is out of order (408, 425, 5xx).
    #[error("the authorization server is out of order")]
    Unavailable {
        /// When to come back, when it said so.
        retry_after: Option<Duration>,
        /// What it answered.
        #[source]
        refusal: Refusal,
    },
}

impl TokenCallError {
    /// A stable code for logs, counters and pages.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::MalformedResponse(_) => "token_response_malformed",
            Self::Assertion(_) => "client_assertion",
            Self::Busy => "provider_busy",
            Self::Call(error) if error.may_have_been_processed() => "provider_call_failed",
            Self::Call(_) => "provider_unreachable",
            Self::CodeRefused(_) => "code_refused",
            Self::BreakerOpen { .. } => "provider_left_alone",
            Self::Misconfigured(_) => "client_refused",
            Self::NoRefreshToken => "no_refresh_token",
            Self::NotReady(error) => error.reason(),
            Self::RateLimited { .. } => "token_calls_limited",
            Self::Redirected { .. } => "token_endpoint_redirected",
            Self::RefreshRefused(_) => "refresh_refused",
            Self::Throttled { .. } => "provider_throttled",
            Self::Unavailable { .. } => "provider_unavailable",
        }
    }
}
