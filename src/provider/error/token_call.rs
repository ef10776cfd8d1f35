//! Errors that occur when the gateway sends a code or a refresh token to the token endpoint.

use std::time::Duration;

use super::NotReady;
use crate::origin;
use crate::provider::error_response::Refusal;
use crate::provider::jwt::signer::SigningError;
use crate::provider::token::ResponseFormatError;

/// The reason why the token endpoint returned no tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokenCallError {
    /// The response has status 200, but is not a valid token response (RFC 6749 section 5.1).
    #[error("the token response is malformed")]
    MalformedResponse(#[source] ResponseFormatError),
    /// The client assertion could not be created.
    #[error("the client assertion could not be made")]
    Assertion(#[source] SigningError),
    /// All slots for concurrent calls are in use. The provider is slow, or `concurrent_calls` is
    /// too low.
    #[error("all slots for calls to the provider are taken (setting `concurrent_calls`)")]
    Busy,
    /// The provider could not be reached, did not respond in time, or sent a response that is too
    /// large.
    #[error("the call to the provider failed")]
    Call(#[source] origin::Error),
    /// The provider refuses the client authentication. The client secret or the authentication
    /// method is wrong.
    #[error("the provider refuses this client, which authenticates with {authentication}")]
    ClientRefused {
        /// The authentication method that the gateway used, and the methods that the metadata
        /// lists.
        authentication: Box<str>,
        /// The response.
        #[source]
        refusal: Refusal,
    },
    /// The code is invalid. The user has to sign in again.
    #[error("the provider refuses the code")]
    CodeRefused(#[source] Refusal),
    /// The breaker is open: several refreshes in a row have failed, or the provider asked for a
    /// pause.
    #[error(
        "the provider has failed repeatedly; no call is sent for another {} ms",
        retry_after.as_millis()
    )]
    BreakerOpen {
        /// The time after which the gateway may send a refresh to the provider again.
        retry_after: Duration,
    },
    /// The provider refuses every token request of the gateway. The client secret or the
    /// redirection URI is wrong, or the provider does not understand the request. The operator
    /// should compare the settings with the gateway's client settings at the provider.
    #[error("the provider refuses this client")]
    Misconfigured(#[source] Refusal),
    /// The session has no refresh token.
    #[error("the session has no refresh token")]
    NoRefreshToken,
    /// The location of the token endpoint is not known yet.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// The gateway has reached its limit of calls per minute.
    #[error(
        "the limit of token requests is reached; no call is sent for another {} ms",
        retry_after.as_millis()
    )]
    RateLimited {
        /// The time until the next call is allowed.
        retry_after: Duration,
    },
    /// The token endpoint answered with a redirect. The gateway never follows a redirect, because
    /// the code and the client secret would be sent to the new location. A redirect means that the
    /// configured URL of the endpoint is wrong.
    #[error("the token endpoint answered with a redirect ({status})")]
    Redirected {
        /// The status code.
        status: u16,
    },
    /// The refresh token is no longer valid. The refresh token was used, has expired or was
    /// revoked, or the user may not sign in now. The user has to sign in again.
    #[error("the provider refuses the refresh token")]
    RefreshRefused(#[source] Refusal),
    /// The provider limits the rate of the gateway's calls (status 429). `token_calls_per_minute`
    /// is too high, or other clients share the gateway's address.
    #[error("the provider asks for fewer calls")]
    Throttled {
        /// The time in the `Retry-After` field of the response, if the field is present.
        retry_after: Option<Duration>,
    },
    /// The code did not get its turn, because too many other codes wait for their exchange. The code
    /// was not sent and can be sent again.
    #[error("the code did not get its turn, because too many codes wait for their exchange")]
    TooManyCodes,
    /// The provider refuses a refresh with an error code that does not show whether the grant has
    /// ended. The session stays.
    #[error(
        "the provider refuses the refresh, but its error does not show whether the grant has \
         ended; if the grant has ended, add the error to `[[providers.NAME.errors]]`"
    )]
    UnlistedRefusal(#[source] Refusal),
    /// The provider has failed with the status 408, 425 or 5xx.
    #[error("the provider has failed")]
    Unavailable {
        /// The time in the `Retry-After` field of the response, if the field is present.
        retry_after: Option<Duration>,
        /// The response.
        #[source]
        refusal: Refusal,
    },
}

impl TokenCallError {
    /// Returns the reason code of this error: a stable code for logs, metrics and pages.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::MalformedResponse(_) => "token_response_malformed",
            Self::Assertion(_) => "client_assertion",
            Self::Busy => "provider_busy",
            Self::Call(error) if error.may_have_been_processed() => "provider_call_failed",
            Self::Call(_) => "provider_unreachable",
            Self::CodeRefused(_) => "code_refused",
            Self::BreakerOpen { .. } => "provider_left_alone",
            Self::ClientRefused { .. } | Self::Misconfigured(_) | Self::UnlistedRefusal(_) => {
                "client_refused"
            }
            Self::NoRefreshToken => "no_refresh_token",
            Self::NotReady(error) => error.reason(),
            Self::RateLimited { .. } => "token_calls_limited",
            Self::Redirected { .. } => "token_endpoint_redirected",
            Self::RefreshRefused(_) => "refresh_refused",
            Self::Throttled { .. } => "provider_throttled",
            Self::TooManyCodes => "too_many_codes",
            Self::Unavailable { .. } => "provider_unavailable",
        }
    }
}
