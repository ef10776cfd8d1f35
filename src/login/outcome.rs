//! The results of a login, as values. The module `gateway` turns the values into HTTP responses.

use http::HeaderValue;

use super::pending::{LoginDetails, ReturnedState, StateError};
use super::{Callback, Error, PreviousSession, PublicUrl, ReturnTo};
use crate::identity::Identity;
use crate::session::{SessionKey, cookie};

/// The start of a login: a redirect to the provider.
#[derive(Debug)]
pub struct Started {
    /// The URL of the authorization request.
    pub location: String,
    /// The `Set-Cookie` values of the response.
    pub(crate) cookies: Vec<HeaderValue>,
}

/// The result of an authorization response.
#[derive(Debug)]
#[must_use]
pub enum Completion {
    /// The user is signed in: set the cookies and redirect to `location`.
    SignedIn {
        /// The page that the user asked for, as an absolute URL.
        location: String,
        /// The `Set-Cookie` values of the response.
        cookies: Vec<HeaderValue>,
        /// The configured name of the provider.
        provider: Box<str>,
        /// The key of the new session, for the log.
        session: SessionKey,
        /// The user, for the log.
        identity: Box<Identity>,
        /// True if the provider gave a refresh token.
        refreshable: bool,
    },
    /// The browser already has a live session: redirect to `location`.
    AlreadySignedIn {
        /// The page that the user asked for, as an absolute URL.
        location: String,
        /// The `Set-Cookie` values of the response.
        cookies: Vec<HeaderValue>,
    },
    /// No session was opened.
    Failed(FailedLogin),
}

/// A failed login, with the data for its error page.
#[derive(Debug)]
pub struct FailedLogin {
    /// The reason for the failure.
    pub(crate) error: Error,
    /// The page that the user asked for, or `/` when the state could not be read. When the browser
    /// requests the page `retry`, a new login begins.
    pub(crate) retry: ReturnTo,
    /// The configured name of the provider, when the state could be read.
    pub(crate) provider: Option<Box<str>>,
    /// True when the user had asked to sign in again although a session existed.
    pub(crate) reauthenticate: bool,
    /// The `Set-Cookie` values of the response.
    pub(crate) cookies: Vec<HeaderValue>,
}

impl FailedLogin {
    pub(super) fn new(error: Error, state: Option<&ReturnedState>) -> Self {
        let details = state.map(ReturnedState::details);
        Self {
            error,
            retry: details.map_or_else(ReturnTo::root, |details| details.return_to.clone()),
            provider: details.map(|details| details.provider.clone()),
            reauthenticate: details.is_some_and(|details| details.reauthenticate),
            cookies: Vec::new(),
        }
        .forgetting(state)
    }

    /// Deletes the cookie of the pending login, unless a valid authorization response can still
    /// arrive. A valid response can still arrive if the received response was manipulated or
    /// belongs to another browser.
    fn forgetting(mut self, state: Option<&ReturnedState>) -> Self {
        if !matches!(
            self.error,
            Error::State(StateError::NoCookie | StateError::OtherBrowser)
        ) {
            self.cookies
                .extend(state.map(|state| cookie::clear(&state.tab().cookie())));
        }
        self
    }
}

/// Returns the result for an authorization response whose state is not valid. If the browser
/// already has a session of the same provider, the user continues with this session, because the
/// response is a duplicate or comes from a restored tab. A user who had asked to sign in again gets
/// the error page.
pub(super) fn stale_answer(failure: FailedLogin, callback: &Callback<'_>) -> Completion {
    match &callback.previous_session {
        PreviousSession::Live(_, session)
            if session.provider() == callback.provider && !failure.reauthenticate =>
        {
            already_signed_in(&failure, callback.public_url)
        }
        PreviousSession::Live(..) | PreviousSession::Nothing | PreviousSession::Stale(_) => {
            Completion::Failed(failure)
        }
    }
}

pub(super) fn already_signed_in(failure: &FailedLogin, public_url: &PublicUrl) -> Completion {
    Completion::AlreadySignedIn {
        location: failure.retry.absolute(public_url.origin()),
        cookies: failure.cookies.clone(),
    }
}

/// Returns true if another tab of the browser has signed in at the same provider since this login
/// began. If the gateway exchanged the code of this login, the new session would replace the
/// session of the other tab, without a benefit for the user.
pub(super) fn signed_in_meanwhile(details: &LoginDetails, previous: &PreviousSession) -> bool {
    match previous {
        PreviousSession::Live(_, session) => {
            !details.reauthenticate
                && *session.provider() == *details.provider
                && session.opened_at() >= details.issued_at
        }
        PreviousSession::Nothing | PreviousSession::Stale(_) => false,
    }
}
