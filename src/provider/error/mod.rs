//! Why a provider could not be set up, or did not let somebody in.
//!
//! Each thing that is attempted has an error type of its own, so that a signature says what can go
//! wrong: [`SetupError`], [`ReachError`] and [`KeysError`], [`ResponseError`], [`TokenCallError`],
//! [`GrantError`]. No variant carries a secret, a code or a token. What an error means for people,
//! operators and sessions is decided in one table, [`Classification`].

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

/// The metadata has not been read yet, and it has to be.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the metadata of the authorization server has not been read yet")]
pub struct NotReady;

impl NotReady {
    /// A stable code for logs, counters and pages.
    pub fn reason(self) -> &'static str {
        "metadata_missing"
    }
}

/// Why an answer of the authorization endpoint is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    /// The response names another issuer, or names none although the server promises to (RFC 9207
    /// section 2.4). The provider is wrong, or an attacker mixes up two servers.
    #[error("the answer of the authorization endpoint is not from this issuer")]
    Issuer,
    /// Nobody knows yet whether the server promises to say who it is.
    #[error(transparent)]
    NotReady(#[from] NotReady),
}

impl ResponseError {
    /// A stable code for logs, counters and pages.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Issuer => "response_issuer",
            Self::NotReady(error) => error.reason(),
        }
    }
}

/// Why a code or a refresh token brought no tokens that are believed.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The token endpoint gave none.
    #[error(transparent)]
    Call(#[from] TokenCallError),
    /// What it gave is not believed.
    #[error(transparent)]
    Grant(#[from] GrantError),
}

impl From<NotReady> for ExchangeError {
    fn from(error: NotReady) -> Self {
        Self::Call(error.into())
    }
}

impl ExchangeError {
    /// A stable code for logs, counters and pages.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Call(error) => error.reason(),
            Self::Grant(error) => error.reason(),
        }
    }
}

/// Why somebody could not sign in at a provider.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The code was not exchanged for tokens that are believed.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// It is not known yet where to send people.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// People cannot be sent to the server now.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The answer that the browser brought is not taken.
    #[error(transparent)]
    Response(#[from] ResponseError),
}

impl Error {
    /// A stable code for logs, counters and pages.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Exchange(error) => error.reason(),
            Self::NotReady(error) => error.reason(),
            Self::Unreachable(error) => error.reason(),
            Self::Response(error) => error.reason(),
        }
    }
}
