//! The classification of each error. One table decides how the gateway reacts to every error.
//!
//! A [`Classification`] determines the text of pages, the status code, `Retry-After`, the alarms,
//! the effect on the breaker, and whether a session ends.
//!
//! A failed refresh ends its session only if the error has [`Actor::Client`]. A refresh fails with
//! [`Actor::Client`] in two cases: the provider refuses the refresh token in a well-formed
//! response, or a verified response belongs to another user.

use std::time::Duration;

use super::{
    Error, ExchangeError, GrantError, KeysError, NotReady, ReachError, ResponseError, SetupError,
    TokenCallError, Unreachable,
};
use crate::provider::metadata::MetadataError;
use crate::provider::userinfo::UserinfoError;

/// The pause after which a code that did not get its turn should be sent again.
const CODE_RETRY: Duration = Duration::from_secs(1);

/// The party that has to act before the same attempt can succeed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Actor {
    /// The user has to sign in again, because the provider does not accept the code or the refresh
    /// token. A refresh that fails with `Actor::Client` ends its session.
    Client,
    /// The operator of the gateway has to change the settings, a limit of the gateway, or the
    /// gateway's client settings at the provider.
    Operator,
    /// The authorization server or its operator has to remove the cause of the error.
    Provider,
}

/// States whether the provider may have seen the code or the token of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sent {
    /// No call was begun.
    Nothing,
    /// A call has begun, but no connection was opened. The provider has not seen the code or the
    /// token.
    Undelivered,
    /// The provider may have processed the call, and may have used the code or the refresh token.
    Possibly,
}

/// The meaning of an error for users, operators and sessions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Classification {
    /// The party that has to act before the same attempt can succeed.
    pub actor: Actor,
    /// True if the same attempt can succeed later, even if nobody acts.
    pub passes: bool,
    /// States whether the provider may have seen the code or the token.
    pub sent: Sent,
    /// The time to wait before a new attempt, if this time is known.
    pub retry_after: Option<Duration>,
    /// True if the provider answered, but not in the expected format.
    pub unreadable: bool,
}

/// Returns the classification of a temporary problem: the problem can disappear without any action.
const fn temporary(actor: Actor, sent: Sent) -> Classification {
    Classification {
        actor,
        passes: true,
        sent,
        retry_after: None,
        unreadable: false,
    }
}

/// Returns the classification of a permanent problem, which remains until somebody acts.
const fn permanent(actor: Actor, sent: Sent) -> Classification {
    Classification {
        passes: false,
        ..temporary(actor, sent)
    }
}

impl Classification {
    const fn with_retry_after(self, retry_after: Option<Duration>) -> Self {
        Self {
            retry_after,
            ..self
        }
    }

    const fn unreadable(self) -> Self {
        Self {
            unreadable: true,
            ..self
        }
    }

    const fn with_sent(self, sent: Sent) -> Self {
        Self { sent, ..self }
    }
}

impl Error {
    /// Returns the classification of this error.
    pub fn class(&self) -> Classification {
        match self {
            Self::Exchange(error) => error.class(),
            Self::NotReady(error) => error.class(),
            Self::Unreachable(error) => error.class(),
            Self::Response(error) => error.class(),
        }
    }
}

impl ExchangeError {
    /// Returns the classification of this error.
    pub fn class(&self) -> Classification {
        match self {
            Self::Call(error) => error.class(),
            Self::Grant(error) => error.class(),
        }
    }
}

impl SetupError {
    /// Returns the classification of this error.
    pub fn class(&self) -> Classification {
        match self {
            Self::EmptyFile { .. }
            | Self::KeySet { .. }
            | Self::PrivateKey { .. }
            | Self::PublicKey { .. }
            | Self::Read { .. }
            | Self::Setting { .. }
            | Self::Trust(_)
            | Self::Variable { .. } => permanent(Actor::Operator, Sent::Nothing),
        }
    }
}

impl NotReady {
    /// Returns the classification of this error.
    pub fn class(self) -> Classification {
        temporary(Actor::Provider, Sent::Nothing)
    }
}

impl KeysError {
    /// Returns the classification of this error. A request for keys contains no code and no token.
    pub fn class(&self) -> Classification {
        match self {
            Self::Call(_) | Self::FetchFailedRecently => temporary(Actor::Provider, Sent::Nothing),
            // The gateway fetched the keys a moment ago, and the provider has changed its keys
            // again.
            Self::FetchedRecently { retry_after } => {
                temporary(Actor::Provider, Sent::Nothing).with_retry_after(Some(*retry_after))
            }
            Self::Status(status) => by_status(*status),
            // The published keys are invalid until the operator of the provider corrects the keys.
            Self::Unusable(_) => permanent(Actor::Provider, Sent::Nothing),
        }
    }
}

impl ReachError {
    /// Returns the classification of this error.
    pub fn class(&self) -> Classification {
        match self {
            Self::Connect(_) => temporary(Actor::Provider, Sent::Nothing),
            Self::Keys(error) => error.class(),
            Self::Metadata { source, .. } => metadata(source),
            Self::NotReady(error) => error.class(),
            Self::Setup(error) => error.class(),
        }
    }
}

impl Unreachable {
    /// Returns the classification of the cause of this error.
    pub fn class(&self) -> Classification {
        let silent = temporary(Actor::Provider, Sent::Nothing);
        let cause = self.cause.as_deref();
        let class = cause.map_or(silent, ReachError::class);
        class.with_retry_after(Some(self.retry_after))
    }
}

impl ResponseError {
    /// Returns the classification of this error.
    pub fn class(&self) -> Classification {
        match self {
            Self::Issuer => permanent(Actor::Provider, Sent::Nothing),
            Self::NotReady(error) => error.class(),
        }
    }
}

impl TokenCallError {
    /// Returns the classification of this error.
    pub fn class(&self) -> Classification {
        match self {
            // A malformed response is a temporary failure of the provider. A proxy, a broken
            // connection or a provider that is starting can cause a malformed response. The
            // provider may have used up the refresh token, so the breaker must count a malformed
            // response as a failure.
            Self::MalformedResponse(_) => temporary(Actor::Provider, Sent::Possibly).unreadable(),
            Self::Assertion(_) | Self::NoRefreshToken => permanent(Actor::Operator, Sent::Nothing),
            Self::Busy => temporary(Actor::Provider, Sent::Nothing),
            Self::Call(error) if error.may_have_been_processed() => {
                temporary(Actor::Provider, Sent::Possibly)
            }
            Self::Call(_) => temporary(Actor::Provider, Sent::Undelivered),
            // The provider has refused the code or the refresh token in a well-formed response.
            Self::CodeRefused(_) | Self::RefreshRefused(_) => {
                permanent(Actor::Client, Sent::Possibly)
            }
            Self::BreakerOpen { retry_after } => {
                temporary(Actor::Provider, Sent::Nothing).with_retry_after(Some(*retry_after))
            }
            Self::ClientRefused { .. }
            | Self::Misconfigured(_)
            | Self::Redirected { .. }
            | Self::UnlistedRefusal(_) => permanent(Actor::Operator, Sent::Possibly),
            Self::NotReady(error) => error.class(),
            Self::RateLimited { retry_after } => {
                temporary(Actor::Operator, Sent::Nothing).with_retry_after(Some(*retry_after))
            }
            Self::TooManyCodes => {
                temporary(Actor::Provider, Sent::Nothing).with_retry_after(Some(CODE_RETRY))
            }
            Self::Throttled { retry_after } | Self::Unavailable { retry_after, .. } => {
                temporary(Actor::Provider, Sent::Possibly).with_retry_after(*retry_after)
            }
        }
    }
}

impl GrantError {
    /// Returns the classification of this error. A `GrantError` occurs only after the gateway has
    /// sent the code or the refresh token.
    pub fn class(&self) -> Classification {
        let class = match self {
            // The response is well-formed, but the gateway cannot use the response. The provider
            // would answer the next attempt with the same response. For example, if a token is too
            // long for an HTTP field, the next token would probably also be too long.
            Self::AccessToken(_)
            | Self::IdToken(_)
            | Self::NoIdToken
            | Self::NoSubject { .. }
            | Self::OtherSubject
            | Self::SignedUserinfo(_)
            | Self::Token(_) => permanent(Actor::Provider, Sent::Possibly),
            Self::Keys(error) => error.class(),
            Self::NotReady(error) => error.class(),
            // The session must end, because the response to its refresh is about another user.
            Self::OtherUser => permanent(Actor::Client, Sent::Possibly),
            // Without the groups of the user, a rule could refuse a user who has permission. A
            // later attempt to read the groups may succeed, so a failure to read the groups is
            // always temporary.
            Self::Groups(..) => temporary(Actor::Provider, Sent::Possibly),
            Self::Userinfo { source, .. } => userinfo(source),
        };
        class.with_sent(Sent::Possibly)
    }
}

/// Classifies a metadata error. If the response is not JSON, the error is temporary, because a
/// provider under maintenance answers with HTML pages. If the JSON is valid but contains wrong
/// values, the error is permanent, because the operator of the provider has to act.
fn metadata(error: &MetadataError) -> Classification {
    match error {
        MetadataError::Call(_) => temporary(Actor::Provider, Sent::Nothing),
        MetadataError::Format(_) | MetadataError::NotJson { .. } => {
            temporary(Actor::Provider, Sent::Nothing).unreadable()
        }
        MetadataError::Redirect { status, .. } | MetadataError::Status(status) => {
            by_status(*status)
        }
        MetadataError::Endpoint { .. }
        | MetadataError::Issuer { .. }
        | MetadataError::Member(_) => permanent(Actor::Provider, Sent::Nothing),
    }
}

fn userinfo(error: &UserinfoError) -> Classification {
    match error {
        UserinfoError::Call(_) => temporary(Actor::Provider, Sent::Possibly),
        UserinfoError::Status(status) => by_status(*status),
        UserinfoError::Json(_)
        | UserinfoError::MediaType(_)
        | UserinfoError::NextPage
        | UserinfoError::Signed
        | UserinfoError::Text => permanent(Actor::Provider, Sent::Possibly),
    }
}

/// Classifies the response to a request that only reads a resource. The status of the response is
/// not 200.
fn by_status(status: u16) -> Classification {
    if matches!(status, 408 | 425 | 429 | 500..) {
        temporary(Actor::Provider, Sent::Nothing)
    } else {
        permanent(Actor::Provider, Sent::Nothing)
    }
}
