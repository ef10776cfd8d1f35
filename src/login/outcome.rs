//! What becomes of a login: values that somebody else answers a browser with.

use http::HeaderValue;

use super::pending::{ReturnedState, StateError};
use super::{Callback, Error, PreviousSession, PublicUrl, ReturnTo};
use crate::session::{SessionKey, cookie};

/// A browser on its way to the provider.
#[derive(Debug)]
pub struct Started {
    /// The authorization request.
    pub location: String,
    /// `Set-Cookie` values.
    pub(crate) cookies: Vec<HeaderValue>,
}

/// What became of an answer.
#[derive(Debug)]
#[must_use]
pub enum Completion {
    /// Somebody signed in: set the cookies, go to the location.
    SignedIn {
        /// Where the visitor wanted to go, absolute.
        location: String,
        /// `Set-Cookie` values.
        cookies: Vec<HeaderValue>,
        /// The provider's configured name.
        provider: Box<str>,
        /// The new session's key, for the log.
        session: SessionKey,
    },
    /// The browser has a live session already: just go on.
    AlreadySignedIn {
        /// Where the visitor wanted to go, absolute.
        location: String,
        /// `Set-Cookie` values.
        cookies: Vec<HeaderValue>,
    },
    /// No session was opened.
    Failed(FailedLogin),
}

/// A login that failed, with what its page needs.
#[derive(Debug)]
pub struct FailedLogin {
    /// Why.
    pub(crate) error: Error,
    /// Where to start again: visiting it begins a new login.
    pub(crate) retry: ReturnTo,
    /// The provider's configured name, when the state could be read.
    pub(crate) provider: Option<Box<str>>,
    /// Whether the person had asked to sign in anew.
    pub(crate) reauthenticate: bool,
    /// `Set-Cookie` values.
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

    /// Makes the browser forget the login, unless its answer may still come: this one was changed
    /// on its way, or belongs to another browser.
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

/// A state that does not verify is no news to a browser that is signed in at the same provider: the
/// answer came twice, or from a tab that was restored. Whoever asked to sign in anew is told.
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
