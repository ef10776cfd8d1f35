//! What each error means: the one table from which everything else is derived.
//!
//! Nobody matches on a variant to decide what to do. The wording of pages, status codes,
//! `Retry-After`, alarms, the breaker and the end of a session all follow from a [`Classification`].
//!
//! A refresh ends its session only by an error of [`Actor::Client`]. A refresh can fail so in two
//! ways: the server refuses the refresh token in a well-formed answer, or its answer is proven to be
//! about another person.

use std::time::Duration;

use super::{
    Error, ExchangeError, GrantError, KeysError, NotReady, ReachError, ResponseError, SetupError,
    TokenCallError, Unreachable,
};
use crate::provider::metadata::MetadataError;
use crate::provider::userinfo::UserinfoError;

/// Who has to act before the same attempt can succeed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Actor {
    /// The person, who has to sign in again: the server does not accept the code or the refresh
    /// token. A session whose refresh fails so has ended.
    Client,
    /// Whoever runs the gateway: its settings, its registration at the server, or a limit of its
    /// own.
    Operator,
    /// The authorization server, or whoever runs it.
    Provider,
}

/// How much the server may have seen of a code or a token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sent {
    /// No call was begun.
    Nothing,
    /// A call was begun, but no connection was made, so the server has seen nothing.
    Undelivered,
    /// The server may have acted on the call, and may have used up the code or the refresh token.
    Possibly,
}

/// What an error means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Classification {
    /// Who has to act.
    pub actor: Actor,
    /// Whether it passes by itself, so that the same attempt makes sense later.
    pub passes: bool,
    /// What the server may have seen.
    pub sent: Sent,
    /// After what time the same attempt makes sense, where that is known.
    pub retry_after: Option<Duration>,
}

/// Something that passes by itself.
const fn passing(actor: Actor, sent: Sent) -> Classification {
    Classification {
        actor,
        passes: true,
        sent,
        retry_after: None,
    }
}

/// Something that stays until somebody has acted.
const fn lasting(actor: Actor, sent: Sent) -> Classification {
    Classification {
        passes: false,
        ..passing(actor, sent)
    }
}

impl Classification {
    const fn again_after(self, retry_after: Option<Duration>) -> Self {
        Self {
            retry_after,
            ..self
        }
    }

    const fn with_sent(self, sent: Sent) -> Self {
        Self { sent, ..self }
    }
}

impl Error {
    /// What it means.
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
    /// What it means.
    pub fn class(&self) -> Classification {
        match self {
            Self::Call(error) => error.class(),
            Self::Grant(error) => error.class(),
        }
    }
}

impl SetupError {
    /// What it means.
    pub fn class(&self) -> Classification {
        match self {
            Self::EmptyFile { .. }
            | Self::KeySet { .. }
            | Self::PrivateKey { .. }
            | Self::PublicKey { .. }
            | Self::Read { .. }
            | Self::Setting { .. }
            | Self::Trust(_) => lasting(Actor::Operator, Sent::Nothing),
        }
    }
}

impl NotReady {
    /// What it means.
    pub fn class(self) -> Classification {
        passing(Actor::Provider, Sent::Nothing)
    }
}

impl KeysError {
    /// What it means. Nothing but the keys was asked for.
    pub fn class(&self) -> Classification {
        match self {
            Self::Call(_) | Self::JustFetched => passing(Actor::Provider, Sent::Nothing),
            Self::Status(status) => by_status(*status),
            // A server that publishes the wrong thing goes on until somebody changes it.
            Self::Unusable(_) => lasting(Actor::Provider, Sent::Nothing),
        }
    }
}

impl ReachError {
    /// What it means.
    pub fn class(&self) -> Classification {
        match self {
            Self::Connect(_) => passing(Actor::Provider, Sent::Nothing),
            Self::Keys(error) => error.class(),
            Self::Metadata { source, .. } => metadata(source),
            Self::NotReady(error) => error.class(),
            Self::Setup(error) => error.class(),
        }
    }
}

impl Unreachable {
    /// What it means: what its cause does.
    pub fn class(&self) -> Classification {
        let silent = passing(Actor::Provider, Sent::Nothing);
        let cause = self.cause.as_deref();
        let class = cause.map_or(silent, ReachError::class);
        class.again_after(Some(self.retry_after))
    }
}

impl ResponseError {
    /// What it means.
    pub fn class(&self) -> Classification {
        match self {
            Self::Issuer => lasting(Actor::Provider, Sent::Nothing),
            Self::NotReady(error) => error.class(),
        }
    }
}

impl TokenCallError {
    /// What it means.
    pub fn class(&self) -> Classification {
        match self {
            // A page of a proxy, an answer that was cut short, a server that is half up: nothing
            // says that our settings are wrong. It has to count as a failure of the server, so that
            // the breaker spares refresh tokens: each such answer may have used one up.
            Self::MalformedResponse(_) => passing(Actor::Provider, Sent::Possibly),
            Self::Assertion(_) | Self::NoRefreshToken => lasting(Actor::Operator, Sent::Nothing),
            Self::Busy => passing(Actor::Provider, Sent::Nothing),
            Self::Call(error) if error.may_have_been_processed() => {
                passing(Actor::Provider, Sent::Possibly)
            }
            Self::Call(_) => passing(Actor::Provider, Sent::Undelivered),
            // The server's own, well-formed word about this very code or token.
            Self::CodeRefused(_) | Self::RefreshRefused(_) => {
                lasting(Actor::Client, Sent::Possibly)
            }
            Self::BreakerOpen { retry_after } => {
                passing(Actor::Provider, Sent::Nothing).again_after(Some(*retry_after))
            }
            Self::Misconfigured(_) | Self::Redirected { .. } => {
                lasting(Actor::Operator, Sent::Possibly)
            }
            Self::NotReady(error) => error.class(),
            Self::RateLimited { retry_after } => {
                passing(Actor::Operator, Sent::Nothing).again_after(Some(*retry_after))
            }
            Self::Throttled { retry_after } | Self::Unavailable { retry_after, .. } => {
                passing(Actor::Provider, Sent::Possibly).again_after(*retry_after)
            }
        }
    }
}

impl GrantError {
    /// What it means. The code or refresh token of a response that is judged was sent.
    pub fn class(&self) -> Classification {
        let class = match self {
            // A server that gives a well-formed answer which we cannot believe or use gives it
            // again, in a login as in a refresh: a token that is too long for an HTTP field is no
            // outage.
            Self::AccessToken(_)
            | Self::IdToken(_)
            | Self::NoIdToken
            | Self::NoSubject
            | Self::OtherSubject
            | Self::SignedUserinfo(_)
            | Self::Token(_) => lasting(Actor::Provider, Sent::Possibly),
            Self::Keys(error) => error.class(),
            Self::NotReady(error) => error.class(),
            // The session's refresh token speaks for somebody else now: it must not go on.
            Self::OtherPerson => lasting(Actor::Client, Sent::Possibly),
            Self::Userinfo(error) => userinfo(error),
        };
        class.with_sent(Sent::Possibly)
    }
}

/// A server that is being mended answers with pages for people; one that is well and says the wrong
/// thing goes on saying it.
fn metadata(error: &MetadataError) -> Classification {
    match error {
        MetadataError::Call(_) | MetadataError::Json(_) | MetadataError::MediaType(_) => {
            passing(Actor::Provider, Sent::Nothing)
        }
        MetadataError::Status(status) => by_status(*status),
        MetadataError::Endpoint { .. }
        | MetadataError::Issuer { .. }
        | MetadataError::Member(_) => lasting(Actor::Provider, Sent::Nothing),
    }
}

fn userinfo(error: &UserinfoError) -> Classification {
    match error {
        UserinfoError::Call(_) => passing(Actor::Provider, Sent::Possibly),
        UserinfoError::Status(status) => by_status(*status),
        UserinfoError::Json(_)
        | UserinfoError::MediaType(_)
        | UserinfoError::Signed
        | UserinfoError::Text => lasting(Actor::Provider, Sent::Possibly),
    }
}

/// Another status than the 200 that is wanted, of something that is only read.
fn by_status(status: u16) -> Classification {
    if matches!(status, 408 | 425 | 429 | 500..) {
        passing(Actor::Provider, Sent::Nothing)
    } else {
        lasting(Actor::Provider, Sent::Nothing)
    }
}
