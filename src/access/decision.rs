//! The decisions about requests.

use std::rc::Rc;
use std::sync::Arc;

use super::permit::label;
use super::static_answer::StaticAnswer;
use super::{Permit, Route, Unavailable, Wait};
use crate::session::Session;
use crate::telemetry::DecisionLabel;

/// The decision about a request, with the data that is needed to answer the request.
#[derive(Debug)]
#[must_use]
pub(crate) enum Decision {
    /// The client may get the answer of a route without an app.
    Answer(PermittedAnswer),
    /// The gateway is allowed to forward the request to the app.
    Permit(Permit),
    /// The route needs a session, and the request has no session that the route accepts.
    Challenge(Challenge),
    /// The user is signed in but may not use the route.
    Forbid(Forbid),
    /// No route matches the request.
    NoRoute,
    /// The gateway is allowed to forward the request of a public route to the app without a user.
    /// The route wants the gateway to sign the user of a page load in silently first.
    SignInFirst(SignInFirst),
    /// The session exists but cannot be used now.
    Unavailable(Unavailable),
    /// The decision is possible only after the session is refreshed, or fetched from the store.
    Wait(Wait),
}

/// A permitted request of a route without an app.
#[derive(Debug)]
pub(crate) struct PermittedAnswer {
    /// The route of the request.
    pub(crate) route: Rc<Route>,
    /// The answer of the route.
    pub(crate) answer: Arc<StaticAnswer>,
    /// The session of the user, if the request belongs to a session.
    pub(crate) session: Option<Arc<Session>>,
}

impl PermittedAnswer {
    /// The decision about the request, as a label of metrics and events.
    pub(crate) fn label(&self) -> DecisionLabel {
        label(&self.route, self.session.as_deref())
    }
}

/// A request whose user must sign in.
#[derive(Debug)]
pub(crate) struct Challenge {
    /// The route of the request.
    pub route: Rc<Route>,
    /// The reason why the request has no session that the route accepts.
    pub(crate) cause: Cause,
    /// The live session of the request, if the route does not accept the provider of the session.
    pub(crate) other: Option<Arc<Session>>,
}

/// A request of a public route that has no session.
#[derive(Debug)]
pub(crate) struct SignInFirst {
    /// The permit for the request without a user.
    pub(crate) permit: Permit,
    /// The reason why the request has no session that the route accepts.
    pub(crate) cause: Cause,
}

/// The reason code for a user whom the rule of a route refuses.
pub(crate) const REFUSED_BY_RULE: &str = "rule";

/// A request of a user who may not use the route.
#[derive(Debug)]
pub(crate) struct Forbid {
    /// The route of the request.
    pub route: Rc<Route>,
    /// The session of the user.
    pub(crate) session: Arc<Session>,
}

/// The reason why a request has no session that the route accepts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Cause {
    /// The request has two session cookies with different values. The gateway does not know which
    /// of the two session cookies the gateway wrote.
    Conflicting,
    /// The session has passed its idle or absolute deadline.
    Expired,
    /// The provider reports that the grant has ended, or the user has just signed out.
    GrantEnded,
    /// The cookie's value is not an id of a session at this host.
    Malformed,
    /// The request has no session cookie.
    NoCookie,
    /// Another process created the session, or this process created the session before a restart.
    OtherInstance,
    /// The session belongs to a provider that the route does not accept.
    OtherProvider,
    /// No request has used the session for longer than the route allows.
    Paused,
    /// The app refused the session's access token.
    RefusedByApp,
    /// The user has authenticated at the provider longer ago than the route allows.
    SignInTooOld,
    /// The access token has expired, and there is no refresh token.
    TokenExpired,
    /// The store has not returned the session in time, so nobody knows whether the session is live.
    Unreachable,
    /// No session has this id: the session has ended, was evicted, or never existed.
    Unknown,
}

impl Cause {
    /// Returns true if a silent sign-in can help. A session that the gateway cannot read may still
    /// be live, and a user with a session at another provider is signed in.
    pub(crate) fn allows_silent_sign_in(self) -> bool {
        match self {
            Self::Expired
            | Self::GrantEnded
            | Self::Malformed
            | Self::NoCookie
            | Self::OtherInstance
            | Self::TokenExpired
            | Self::Unknown => true,
            Self::Conflicting
            | Self::OtherProvider
            | Self::Paused
            | Self::RefusedByApp
            | Self::SignInTooOld
            | Self::Unreachable => false,
        }
    }

    /// Returns a stable code for logs.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Conflicting => "conflicting_cookies",
            Self::Expired => "session_expired",
            Self::GrantEnded => "grant_ended",
            Self::Malformed => "malformed_cookie",
            Self::NoCookie => "no_cookie",
            Self::OtherInstance => "session_of_other_instance",
            Self::OtherProvider => "session_of_other_provider",
            Self::Paused => "session_paused",
            Self::RefusedByApp => "refused_by_app",
            Self::SignInTooOld => "sign_in_too_old",
            Self::TokenExpired => "token_expired",
            Self::Unknown => "session_unknown",
            Self::Unreachable => "session_unreachable",
        }
    }
}
