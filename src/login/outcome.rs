//! The results of a login. The module `gateway` makes HTTP responses from the results of a login.

use http::HeaderValue;

use super::pending::{LoginDetails, ReturnedState, StateError};
use super::ticket::{Ticket, TicketRequest};
use super::{Callback, Error, PreviousSession, PublicUrl, ReturnTo};
use crate::identity::Identity;
use crate::provider::Prompt;
use crate::session::{SessionKey, SessionRef, cookie};

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
    /// The user is signed in. The caller sets the cookies and redirects the browser to `location`.
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
    /// The browser already has a live session. The caller redirects the browser to `location`.
    AlreadySignedIn {
        /// The page that the user asked for, as an absolute URL.
        location: String,
        /// The `Set-Cookie` values of the response.
        cookies: Vec<HeaderValue>,
    },
    /// No session was created.
    Failed(FailedLogin),
}

/// A failed login, with the data for its error page.
#[derive(Debug)]
pub struct FailedLogin {
    /// The error that made the login fail.
    pub(crate) error: Error,
    /// The page that the user asked for, or `/` if the gateway could not read the state. If the
    /// browser requests the page `retry` again, a new login begins.
    pub(crate) retry: ReturnTo,
    /// The host of the page `retry`, if this host is not the host of the failed request.
    pub(crate) host: Option<PublicUrl>,
    /// The configured name of the provider, if the gateway could read the state.
    pub(crate) provider: Option<Box<str>>,
    /// States whether the user asked to sign in again or to choose an account, although the browser
    /// had a session.
    pub(crate) prompt: Prompt,
    /// Whether the user wants the browser to keep the session cookie.
    pub(crate) remember: bool,
    /// The session of the ticket, if the failed request contained a ticket.
    pub(crate) ticket_session: Option<SessionRef>,
    /// The `Set-Cookie` values of the response.
    pub(crate) cookies: Vec<HeaderValue>,
}

impl FailedLogin {
    pub(super) fn new(error: Error, state: Option<&ReturnedState>) -> Self {
        let details = state.map(ReturnedState::details);
        Self {
            error,
            retry: details.map_or_else(ReturnTo::root, |details| details.return_to.clone()),
            host: details
                .and_then(|details| details.waiting.as_ref())
                .map(|waiting| waiting.host.clone()),
            provider: details.map(|details| details.provider.clone()),
            prompt: details.map_or(Prompt::AsNeeded, |details| details.prompt),
            remember: details.is_some_and(|details| details.remember),
            ticket_session: None,
            cookies: Vec::new(),
        }
        .forgetting(state)
    }

    /// Creates the failure of a request with a ticket. The cookie of the tab is kept if the same
    /// ticket or another ticket of the tab can still arrive.
    pub(crate) fn of_ticket(error: Error, ticket: Ticket) -> Self {
        let forgets = !matches!(
            error,
            Error::SessionUnreachable
                | Error::Ticket(StateError::NoCookie | StateError::OtherBrowser)
        );
        let forgotten = forgets.then(|| cookie::clear(&ticket.waiting.tab.cookie()));
        Self {
            retry: ticket.return_to,
            ticket_session: Some(ticket.session),
            cookies: forgotten.into_iter().collect(),
            ..Self::new(error, None)
        }
    }

    /// Creates the failure of a ticket request.
    pub(crate) fn of_ticket_request(error: Error, request: &TicketRequest) -> Self {
        Self {
            retry: request.return_to.clone(),
            host: Some(request.host().clone()),
            provider: request.only_provider().map(Box::from),
            prompt: request.prompt,
            remember: request.remember,
            ..Self::new(error, None)
        }
    }

    /// Returns the URL of the page `retry`. `public_url` is the host of the failed request.
    pub(crate) fn retry_url(&self, public_url: &PublicUrl) -> String {
        let host = self.host.as_ref().unwrap_or(public_url);
        self.retry.absolute(host.origin())
    }

    /// Returns a link to the page `retry`. A link to a page of the same host is only a path.
    pub(crate) fn retry_link(&self) -> String {
        match &self.host {
            Some(host) => self.retry.absolute(host.origin()),
            None => self.retry.as_str().to_owned(),
        }
    }

    /// Deletes the cookie of the pending login, except after a manipulated response or a response
    /// for another browser. The valid response can still arrive after a manipulated response.
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

/// Returns the result for an authorization response whose state is not valid. The user continues
/// with an existing session of the same provider, because the authorization response is probably a
/// duplicate or comes from a restored tab. If the user had asked to sign in again or to choose an
/// account, the user gets the error page.
pub(super) fn stale_answer(failure: FailedLogin, callback: &Callback<'_>) -> Completion {
    match &callback.previous_session {
        PreviousSession::Live(session)
            if session.provider() == callback.provider && failure.prompt.accepts_session() =>
        {
            already_signed_in(&failure, callback.public_url)
        }
        PreviousSession::Live(_) | PreviousSession::Nothing | PreviousSession::Stale(_) => {
            Completion::Failed(failure)
        }
    }
}

pub(super) fn already_signed_in(failure: &FailedLogin, public_url: &PublicUrl) -> Completion {
    Completion::AlreadySignedIn {
        location: failure.retry_url(public_url),
        cookies: failure.cookies.clone(),
    }
}

/// Returns true if the user has signed in at the same provider in another tab since this login
/// began. If the user already has a session from another tab, the gateway does not exchange the
/// code of this login.
pub(super) fn signed_in_meanwhile(details: &LoginDetails, previous: &PreviousSession) -> bool {
    match previous {
        PreviousSession::Live(session) => {
            details.prompt.accepts_session()
                && *session.provider() == *details.provider
                && session.opened_at() >= details.issued_at
        }
        PreviousSession::Nothing | PreviousSession::Stale(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Timestamp;
    use crate::identity::Identity;
    use crate::login::OwnPaths;
    use crate::provider::Prompt;
    use crate::session::Session;

    const BEGUN: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn login(prompt: Prompt) -> LoginDetails {
        let own = OwnPaths::try_from("/oauth2/".to_owned()).unwrap();
        LoginDetails {
            provider: "main".into(),
            registration: None,
            return_to: ReturnTo::parse("/", &own).unwrap(),
            issued_at: BEGUN,
            round: 0,
            prompt,
            remember: false,
            waiting: None,
        }
    }

    fn session(provider: &str, opened_at: u64) -> PreviousSession {
        let opened_at = Timestamp::from_millis(opened_at);
        let session = Session::imagined(provider, Identity::default(), opened_at);
        PreviousSession::Live(Arc::new(session.unwrap()))
    }

    #[test]
    fn only_a_session_since_the_start_of_the_login_replaces_the_login() {
        let begun = BEGUN.as_millis();
        for (prompt, session, expected) in [
            (Prompt::AsNeeded, session("main", begun - 1), false),
            (Prompt::AsNeeded, session("main", begun), true),
            (Prompt::AsNeeded, session("main", begun + 1), true),
            (Prompt::AsNeeded, session("other", begun + 1), false),
            (Prompt::SelectAccount, session("main", begun + 1), false),
            (Prompt::AsNeeded, PreviousSession::Nothing, false),
        ] {
            let found = signed_in_meanwhile(&login(prompt), &session);
            assert_eq!(found, expected, "{prompt:?} {session:?}");
        }
    }
}
