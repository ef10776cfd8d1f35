//! The error of a failed login. Each cause of a failure has one variant and one stable code.

use super::authorization::{Denial, ErrorCode, MalformedResponse};
use super::pending::StateError;
use crate::provider::{self, Classification};
use crate::secret::NoRandomness;
use crate::session::{OpenError, StoreError};

/// A failed login or sign-out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The authorization server answered with an error. Responsible: the provider, or the user if
    /// the user refused the sign-in.
    #[error("the authorization server refused the sign-in")]
    Denied(#[source] Denial),
    /// The browser has completed three logins in a row and still has no usable session. A login
    /// loop can have many causes, so the gateway does not know who is responsible.
    #[error("repeated sign-ins did not lead to a session")]
    Loop,
    /// The authorization response is malformed. Responsible: the client or the provider.
    #[error("the answer of the authorization server is malformed")]
    Malformed(#[from] MalformedResponse),
    /// The operating system returned no random bytes. Responsible: the gateway.
    #[error("nothing can be sealed without random bytes")]
    NoRandomness(#[from] NoRandomness),
    /// The session store could not store that a session was created or has ended. Responsible: the
    /// gateway.
    #[error("the change of the session could not be stored")]
    NotStored(#[from] StoreError),
    /// The task that exchanges the code panicked, because the gateway has a bug. Responsible: the
    /// gateway.
    #[error("the exchange stopped because of a bug")]
    Panicked,
    /// The provider was not reachable, or the exchange of the code failed. Responsible: in most
    /// cases the provider.
    #[error("signing in at the provider failed")]
    Provider(#[from] provider::Error),
    /// The state is not valid. Responsible: the client.
    #[error("the state of the answer is not valid")]
    State(#[from] StateError),
    /// The control plane stopped before the exchange of the code ended. Responsible: the gateway.
    #[error("the gateway is stopping")]
    Stopped,
    /// The provider has refused too many codes from this client. Responsible: the client.
    #[error("the provider has refused too many codes from this client")]
    TooManyRefused,
    /// The provider in the state is no longer configured, or its name now means another server or
    /// client. Responsible: the gateway.
    #[error("the provider of this sign-in is not configured")]
    UnknownProvider,
    /// An earlier authorization response has already used the state. Responsible: the client.
    #[error("the answer was already used")]
    Used,
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NoRandomness(error) => Self::NoRandomness(error),
            OpenError::Store(error) => Self::NotStored(error),
            OpenError::UnknownProvider => Self::UnknownProvider,
        }
    }
}

impl From<provider::ExchangeError> for Error {
    fn from(error: provider::ExchangeError) -> Self {
        Self::Provider(error.into())
    }
}

impl From<provider::NotReady> for Error {
    fn from(error: provider::NotReady) -> Self {
        Self::Provider(error.into())
    }
}

impl From<provider::Unreachable> for Error {
    fn from(error: provider::Unreachable) -> Self {
        Self::Provider(error.into())
    }
}

impl From<provider::ResponseError> for Error {
    fn from(error: provider::ResponseError) -> Self {
        Self::Provider(error.into())
    }
}

impl Error {
    /// Returns the class of an error of the provider, or `None` for any other error.
    pub(crate) fn class(&self) -> Option<Classification> {
        match self {
            Self::Provider(error) => Some(error.class()),
            Self::Denied(_)
            | Self::Loop
            | Self::Malformed(_)
            | Self::NoRandomness(_)
            | Self::NotStored(_)
            | Self::Panicked
            | Self::State(_)
            | Self::Stopped
            | Self::TooManyRefused
            | Self::UnknownProvider
            | Self::Used => None,
        }
    }

    /// A stable code for logs and metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Denied(denial) => match denial.code {
                ErrorCode::AccessDenied => "access_denied",
                ErrorCode::ConsentRequired => "consent_required",
                ErrorCode::InteractionRequired => "interaction_required",
                ErrorCode::InvalidRequest => "invalid_request",
                ErrorCode::InvalidScope => "invalid_scope",
                ErrorCode::ServerError => "server_error",
                ErrorCode::TemporarilyUnavailable => "temporarily_unavailable",
                ErrorCode::UnauthorizedClient => "unauthorized_client",
                ErrorCode::UnsupportedResponseType => "unsupported_response_type",
                ErrorCode::Unrecognized => "unrecognized_error",
            },
            Self::Loop => "login_loop",
            Self::Malformed(_) => "malformed_response",
            Self::NoRandomness(_) => "no_randomness",
            Self::NotStored(error) => error.reason(),
            Self::Panicked => "exchange_panicked",
            Self::Provider(error) => error.reason(),
            Self::State(StateError::Expired) => "state_expired",
            Self::State(StateError::Foreign) => "state_foreign",
            Self::State(StateError::Missing) => "state_missing",
            Self::State(StateError::NoCookie) => "state_without_cookie",
            Self::State(StateError::OtherBrowser) => "state_of_other_browser",
            Self::Stopped => "stopping",
            Self::TooManyRefused => "too_many_refused_codes",
            Self::UnknownProvider => "unknown_provider",
            Self::Used => "state_used",
        }
    }
}
