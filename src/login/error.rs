//! The error of a failed login. Each cause of a failed login has its own variant of the error and
//! its own stable code.

use super::authorization::{Denial, ErrorCode, MalformedResponse};
use super::pending::StateError;
use crate::provider::{self, Classification};
use crate::secret::NoRandomness;
use crate::session::{OpenError, StoreError};

/// A failed login or sign-out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The authorization server answered with an error. The provider is responsible for this error,
    /// unless the user has refused the sign-in.
    #[error("the authorization server refused the sign-in")]
    Denied(#[source] Denial),
    /// The provider has ended the session of the user during the login, or all sessions of the user
    /// have ended during the login.
    #[error("the sessions of the user have ended since this sign-in began")]
    EndedMeanwhile,
    /// The browser has completed three logins in a row and still has no usable session. A login
    /// loop can have many causes, so the gateway does not know who is responsible for the loop.
    #[error("repeated sign-ins did not lead to a session")]
    Loop,
    /// The authorization response is malformed. The client or the provider is responsible for this
    /// error.
    #[error("the answer of the authorization server is malformed")]
    Malformed(#[from] MalformedResponse),
    /// The operating system returned no random bytes. The gateway is responsible for this error.
    #[error("nothing can be sealed without random bytes")]
    NoRandomness(#[from] NoRandomness),
    /// The session store could not store the start or the end of a session. The gateway is
    /// responsible for this error.
    #[error("the change of the session could not be stored")]
    NotStored(#[from] StoreError),
    /// No login may return to the page that the user asked for, or the URL of the page is too long.
    /// The client is responsible for this error.
    #[error("a sign-in cannot return to the requested page")]
    PageNotKept,
    /// The task that exchanges the code panicked, because the gateway has a bug. The gateway is
    /// responsible for this error.
    #[error("the exchange stopped because of a bug")]
    Panicked,
    /// The provider was not reachable, or the exchange of the code failed. In most cases, the
    /// provider is responsible for this error.
    #[error("signing in at the provider failed")]
    Provider(#[from] provider::Error),
    /// The store has not returned the session that a ticket or a ticket request needs. The gateway
    /// is responsible for this error.
    #[error("the store has not returned the session")]
    SessionUnreachable,
    /// The state is not valid. The client is responsible for this error.
    #[error("the state of the answer is not valid")]
    State(#[from] StateError),
    /// The control plane stopped before the exchange of the code ended. The gateway is responsible
    /// for this error.
    #[error("the gateway is stopping")]
    Stopped,
    /// The ticket or the ticket request is not valid. The client is responsible for this error.
    #[error("the ticket is not valid")]
    Ticket(#[source] StateError),
    /// The session of the ticket cannot be used. [`LostSession`] states who is responsible.
    #[error("the session of the ticket cannot be used")]
    TicketSession(#[source] LostSession),
    /// The ticket was already used. The client is responsible for this error.
    #[error("the ticket was already used")]
    TicketUsed,
    /// The provider in the state is no longer configured, or the name of the provider now belongs
    /// to another server or client. The gateway is responsible for this error.
    #[error("the provider of this sign-in is not configured")]
    UnknownProvider,
    /// An earlier authorization response has already used the state. The client is responsible for
    /// this error.
    #[error("the answer was already used")]
    Used,
}

/// The reason why the session of a ticket cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LostSession {
    /// The user has signed out, or the session has passed a deadline, or its grant has ended. The
    /// client is responsible for this error.
    #[error("the session has ended")]
    Ended,
    /// Another process created the session, or this process created the session before a restart.
    /// The operator is responsible for this error.
    #[error("the session belongs to another instance of the gateway")]
    OtherInstance,
    /// The access token of the session has expired, and there is no refresh token. The provider is
    /// responsible for this error.
    #[error("the access token of the session has expired")]
    TokenExpired,
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::EndedMeanwhile => Self::EndedMeanwhile,
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

impl From<provider::TokenCallError> for Error {
    fn from(error: provider::TokenCallError) -> Self {
        provider::ExchangeError::from(error).into()
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
            | Self::EndedMeanwhile
            | Self::Loop
            | Self::Malformed(_)
            | Self::NoRandomness(_)
            | Self::NotStored(_)
            | Self::PageNotKept
            | Self::Panicked
            | Self::SessionUnreachable
            | Self::State(_)
            | Self::Stopped
            | Self::Ticket(_)
            | Self::TicketSession(_)
            | Self::TicketUsed
            | Self::UnknownProvider
            | Self::Used => None,
        }
    }

    /// Returns true if the code did not get its turn, so that the browser should send the same
    /// authorization response again.
    pub(crate) fn code_can_be_sent_again(&self) -> bool {
        matches!(self, Self::Provider(error) if error.code_can_be_sent_again())
    }

    /// Returns the stable code of the error for logs and metrics.
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
            Self::EndedMeanwhile => "ended_during_login",
            Self::Loop => "login_loop",
            Self::Malformed(_) => "malformed_response",
            Self::NoRandomness(_) => "no_randomness",
            Self::NotStored(error) => error.reason(),
            Self::PageNotKept => "page_not_kept",
            Self::Panicked => "exchange_panicked",
            Self::Provider(error) => error.reason(),
            Self::SessionUnreachable => "session_unreachable",
            Self::State(StateError::Expired) => "state_expired",
            Self::State(StateError::Foreign) => "state_foreign",
            Self::State(StateError::Missing) => "state_missing",
            Self::State(StateError::NoCookie) => "state_without_cookie",
            Self::State(StateError::OtherBrowser) => "state_of_other_browser",
            Self::Stopped => "stopping",
            Self::Ticket(StateError::Expired) => "ticket_expired",
            Self::Ticket(StateError::Foreign) => "ticket_foreign",
            Self::Ticket(StateError::Missing) => "ticket_missing",
            Self::Ticket(StateError::NoCookie) => "ticket_without_cookie",
            Self::Ticket(StateError::OtherBrowser) => "ticket_of_other_browser",
            Self::TicketSession(LostSession::Ended) => "ticket_session_ended",
            Self::TicketSession(LostSession::OtherInstance) => "ticket_session_of_other_instance",
            Self::TicketSession(LostSession::TokenExpired) => "ticket_token_expired",
            Self::TicketUsed => "ticket_used",
            Self::UnknownProvider => "unknown_provider",
            Self::Used => "state_used",
        }
    }
}
