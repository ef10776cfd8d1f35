//! Errors of the provider module.
//!
//! Each operation has its own error type, so that the signature of a function shows what can fail.
//! The types are [`SetupError`], [`ReachError`], [`KeysError`], [`ResponseError`],
//! [`TokenCallError`] and [`GrantError`]. No variant contains a secret, a code or a token. One
//! table, [`Classification`], decides what an error means for users, operators and sessions.

mod class;
mod grant;
mod reach;
mod setup;
mod token_call;

#[cfg(test)]
mod class_tests;

pub use class::{Actor, Classification, Sent};
pub use grant::GrantError;
pub use reach::{KeysError, ReachError, Unreachable};
pub use setup::SetupError;
pub use token_call::TokenCallError;

/// The metadata is needed, but has not been read yet.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the metadata of the provider has not been read yet")]
pub struct NotReady;

impl NotReady {
    /// Returns a stable code for this error, for logs, metrics and pages.
    pub fn reason(self) -> &'static str {
        "metadata_missing"
    }
}

/// The reason why an authorization response is refused.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    /// The authorization response names another issuer, or names no issuer although the metadata
    /// promises `iss` (RFC 9207 section 2.4). The provider made a mistake, or an attacker attempts
    /// a mix-up attack with a second provider.
    #[error("the authorization response is not from the configured issuer")]
    Issuer,
    /// The metadata has not been read yet, so the gateway does not know whether the response must
    /// contain `iss`.
    #[error(transparent)]
    NotReady(#[from] NotReady),
}

impl ResponseError {
    /// Returns a stable code for this error, for logs, metrics and pages.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Issuer => "response_issuer",
            Self::NotReady(error) => error.reason(),
        }
    }
}

/// The reason why a code or a refresh token was not exchanged for valid tokens.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The token endpoint returned no tokens.
    #[error(transparent)]
    Call(#[from] TokenCallError),
    /// The returned tokens are not valid.
    #[error(transparent)]
    Grant(#[from] GrantError),
}

impl From<NotReady> for ExchangeError {
    fn from(error: NotReady) -> Self {
        Self::Call(error.into())
    }
}

impl ExchangeError {
    /// Returns a stable code for this error, for logs, metrics and pages.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Call(error) => error.reason(),
            Self::Grant(error) => error.reason(),
        }
    }
}

/// The reason why a login at a provider failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The code was not exchanged for valid tokens.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The location of the authorization endpoint is not known yet.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// The provider cannot be used now.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The authorization response is refused.
    #[error(transparent)]
    Response(#[from] ResponseError),
}

impl Error {
    /// Returns a stable code for this error, for logs, metrics and pages.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Exchange(error) => error.reason(),
            Self::NotReady(error) => error.reason(),
            Self::Unreachable(error) => error.reason(),
            Self::Response(error) => error.reason(),
        }
    }

    /// Returns true if the code did not get its turn, so that the browser should send the same
    /// authorization response again.
    pub(crate) fn code_can_be_sent_again(&self) -> bool {
        matches!(
            self,
            Self::Exchange(ExchangeError::Call(TokenCallError::TooManyCodes))
        )
    }
}
