//! The authorization-code flow on the client side (RFC 6749 section 4.1, RFC 7636, RFC 9700).
//!
//! [`Login::begin`] sends a browser to a provider. [`Login::complete`] receives the answer of the
//! provider and creates a session. [`Login::sign_out`] ends the session. The login module returns
//! cookies and redirect targets as values, or a [`FailedLogin`]. The module `gateway` creates the
//! pages from the values of the login module.
//!
//! The gateway stores nothing for a user who has not signed in, because the `state` parameter
//! contains the pending login. The exchange of the code runs as a task of the control plane, so the
//! exchange finishes even if the browser closes the connection.

mod authorization;
mod back_channel;
mod begin;
mod browser;
mod cookie_limits;
mod error;
mod form_owner;
mod front_channel;
mod hosts;
mod kept_form;
mod known_user;
mod outcome;
mod own_paths;
mod pending;
mod posted_answer;
mod process;
mod public_url;
mod public_urls;
mod redemption;
mod redirection;
mod remember;
mod request;
mod return_to;
mod returning_code;
mod revocation;
mod same_origin;
mod saved_page;
mod sign_in_link;
mod sign_out;
mod sign_out_cookie;
mod sign_out_hosts;
mod silent;
mod simultaneous;
mod throttle;
mod ticket;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use self::authorization::{AuthorizationResponse, Granted, VerifiedResponse};
pub use self::authorization::{Denial, ErrorCode, MalformedResponse};
pub(crate) use self::back_channel::LogoutRefusal;
pub(crate) use self::browser::forget_rounds;
pub(crate) use self::cookie_limits::CookieLimits;
pub use self::error::{Error, LostSession};
pub(crate) use self::front_channel::FrontChannelLogout;
pub(crate) use self::hosts::{LoginHost, Redeemed, parameter};
pub(crate) use self::kept_form::{FormRefusal, KeptForm, LARGEST_FORM, LARGEST_SEALED, TabForm};
pub use self::outcome::{Completion, FailedLogin, Started};
pub(crate) use self::own_paths::OwnPaths;
pub use self::pending::StateError;
use self::pending::{LoginDetails, ReturnedState, registration_tag};
pub use self::process::ProcessState;
pub use self::public_url::PublicUrl;
pub(crate) use self::public_urls::PublicUrls;
pub(crate) use self::redirection::RedirectionEndpoints;
pub(crate) use self::remember::RememberMe;
pub use self::request::{Callback, PreviousSession, Start};
pub(crate) use self::return_to::NoReturn;
pub use self::return_to::ReturnTo;
pub(crate) use self::revocation::RevocationRequest;
pub(crate) use self::same_origin::{SameOrigin, same_origin, same_origin_get};
pub(crate) use self::saved_page::TabPage;
pub(crate) use self::sign_in_link::SignInLink;
pub(crate) use self::sign_out::{AtProvider, SignedOut, SignedOutAt};
pub(crate) use self::sign_out_cookie::AfterSignOut;
pub(crate) use self::sign_out_hosts::SignOutStep;
pub(crate) use self::ticket::TicketRequest;
use crate::fields::cookie::{self as cookies, Found};
use crate::identity::ListedClaim;
use crate::provider::{CodeTurn, Providers, ResponseMode};
use crate::seal::KeyRing;
use crate::session::{MarkKind, Once, SessionIds};

/// The time for which the gateway remembers that a `state` has been used. `USED_FOR` is the largest
/// value that the setting `login.timeout_secs` accepts. If used states were remembered only for the
/// current value of `login.timeout_secs`, a used state could become usable again after a reload
/// that increases the value.
const USED_FOR: Duration = Duration::from_hours(1);

/// The settings of the login flow.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The paths of the gateway's own endpoints.
    pub(crate) own: OwnPaths,
    /// The redirection endpoints, where providers send their answers.
    pub(crate) redirection: RedirectionEndpoints,
    /// The longest time between the start of a login and its callback.
    pub(crate) timeout: Duration,
    /// The login host, or `None` if each host has its own sessions.
    pub(crate) host: Option<LoginHost>,
    /// The limits for the cookies of logins.
    pub(crate) cookie_limits: CookieLimits,
    /// Whether a GET request of the app's own pages ends the session.
    pub(crate) sign_out_by_get: bool,
    /// The value of `Clear-Site-Data` in the answer to a sign-out.
    pub(crate) clear_site_data: Option<HeaderValue>,
    /// The claims that the userinfo endpoint returns.
    pub(crate) userinfo_claims: Vec<ListedClaim>,
    /// Whether at least one route signs users in silently.
    pub(crate) silent_sign_in: bool,
    /// Whether a browser keeps the session cookie after the user has closed the browser.
    pub(crate) remember_me: RememberMe,
}

/// The login flow with the providers of one site. All workers share one [`Login`].
#[derive(Debug)]
pub struct Login {
    settings: Settings,
    keys: Arc<KeyRing>,
    providers: Arc<Providers>,
    process: Arc<ProcessState>,
    session_ids: Arc<SessionIds>,
}

impl Login {
    /// Creates a login flow with `providers`. The values that the browser stores and returns are
    /// encrypted with `keys`.
    pub fn new(
        settings: Settings,
        keys: Arc<KeyRing>,
        providers: Arc<Providers>,
        process: Arc<ProcessState>,
    ) -> Self {
        let session_ids = settings
            .host
            .as_ref()
            .map(|host| SessionIds::shared(host.url.authority(), Arc::clone(&keys)));
        Self {
            session_ids: Arc::new(session_ids.unwrap_or_default()),
            settings,
            keys,
            providers,
            process,
        }
    }

    /// The redirection endpoints, where providers send their answers.
    pub(crate) fn redirection(&self) -> &RedirectionEndpoints {
        &self.settings.redirection
    }

    /// The claims that the userinfo endpoint returns.
    pub(crate) fn userinfo_claims(&self) -> &[ListedClaim] {
        &self.settings.userinfo_claims
    }

    /// The configured names of all providers, sorted.
    pub fn providers(&self) -> impl Iterator<Item = &str> {
        self.providers.keys().map(AsRef::as_ref)
    }

    /// The display name of a provider, for pages.
    pub(crate) fn display_name<'a>(&'a self, provider: &'a str) -> &'a str {
        let configured = self.providers.get(provider);
        configured.map_or(provider, |configured| configured.display_name())
    }

    /// The response mode of a provider: query or form post.
    pub(crate) fn response_mode(&self, provider: &str) -> ResponseMode {
        let configured = self.providers.get(provider);
        configured.map_or(ResponseMode::Query, |configured| configured.response_mode())
    }

    /// Encrypts a return path for a link of the gateway at `public_url`.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NoRandomness`] if the operating system returns no random bytes.
    pub(crate) fn seal(
        &self,
        return_to: &ReturnTo,
        public_url: &PublicUrl,
    ) -> Result<String, Error> {
        Ok(return_to.seal(&self.keys, public_url.origin())?)
    }

    /// Decrypts a return path that [`Login::seal`] encrypted. Returns `None` if `text` is not a
    /// return path that [`Login::seal`] encrypted for `public_url`.
    pub(crate) fn unseal(&self, text: &str, public_url: &PublicUrl) -> Option<ReturnTo> {
        ReturnTo::unseal(text, (&self.keys, self.own()), public_url.origin())
    }

    /// Handles the answer of the authorization server: verifies the state, exchanges the code and
    /// creates the session.
    ///
    /// # Cancel safety
    ///
    /// If the caller drops the future during the exchange of the code, the exchange continues, but
    /// the gateway creates no session and ends no session. The browser keeps its previous session,
    /// because the browser has received no new cookie.
    pub async fn complete(self: &Arc<Self>, callback: Callback<'_>) -> Completion {
        let origin = callback.public_url.origin();
        let opening = (&*self.keys, self.own());
        let response = match AuthorizationResponse::parse(callback.parameters) {
            Ok(response) => response,
            Err(error) => return Completion::Failed(FailedLogin::new(error.into(), None)),
        };
        let granted = match response {
            // In the response mode `form_post`, a server may send an error by a redirect, but must
            // not send a code by a redirect.
            AuthorizationResponse::Granted(_)
                if callback.mode != self.response_mode(callback.provider) =>
            {
                let error = MalformedResponse::NotPosted.into();
                return Completion::Failed(FailedLogin::new(error, None));
            }
            AuthorizationResponse::Granted(granted) => granted,
            AuthorizationResponse::Refused { denial, state, iss } => {
                let state = state.and_then(|text| ReturnedState::open(&text, opening, origin).ok());
                let state =
                    state.filter(|state| self.was_sent_to(state.details(), callback.provider));
                // An error without `iss` is accepted, because some servers send no `iss` with
                // errors. The gateway refuses an error response whose `iss` is wrong.
                let checked = match iss.as_deref() {
                    Some(iss) => self.check_issuer(callback.provider, Some(iss)),
                    None => Ok(()),
                };
                let error = checked.err().unwrap_or(Error::Denied(denial));
                return Completion::Failed(FailedLogin::new(error, state.as_ref()));
            }
        };
        let returned = match granted.returned_state(opening, origin) {
            Ok(returned) if self.was_sent_to(returned.details(), callback.provider) => returned,
            // The state belongs to another provider. A code must never be sent to a server that did
            // not issue the code (mix-up attack, RFC 9700 section 4.4).
            Ok(_) => {
                let error = Error::State(StateError::Foreign);
                return outcome::stale_answer(FailedLogin::new(error, None), &callback);
            }
            Err(error) => {
                return outcome::stale_answer(FailedLogin::new(error.into(), None), &callback);
            }
        };
        match self.verified(granted, &returned, &callback).await {
            Ok(verified) => self.redeem_or_join(verified, &returned, callback).await,
            Err(completion) => *completion,
        }
    }

    /// Returns true if the name `provider` still belongs to the server and the client with which
    /// the login began, and if the gateway still serves the host that waits for the login. After a
    /// reload, the name of the provider may belong to another server or another client.
    fn was_sent_to(&self, details: &LoginDetails, provider: &str) -> bool {
        let is_same = |tag| {
            let now = self.providers.get(provider);
            now.is_some_and(|now| registration_tag(&now.fingerprint()) == tag)
        };
        // A state from an older version of the gateway contains no tag, so only the name of the
        // provider is compared.
        *details.provider == *provider
            && details.registration.is_none_or(is_same)
            && details.waiting.as_ref().is_none_or(|tab| self.serves(tab))
    }

    /// Performs all checks that must succeed before the gateway sends the code to the provider.
    async fn verified(
        &self,
        granted: Granted,
        returned: &ReturnedState,
        callback: &Callback<'_>,
    ) -> Result<(VerifiedResponse, CodeTurn), Box<Completion>> {
        let failed = |error: Error| FailedLogin::new(error, Some(returned));
        let name = returned.tab().cookie();
        let browser_secret = match cookies::find(callback.headers, name.as_bytes()) {
            Found::One(value) => Some(value),
            Found::Absent | Found::Conflicting => None,
        };
        let now = self.process.clock.now();
        let time = (now, self.settings.timeout);
        let verified = granted
            .verify(returned, &self.keys, browser_secret, time)
            .map_err(|error| Box::new(outcome::stale_answer(failed(error.into()), callback)))?;
        if outcome::signed_in_meanwhile(returned.details(), &callback.previous_session) {
            let answered = outcome::already_signed_in(&failed(Error::Used), callback.public_url);
            return Err(Box::new(answered));
        }
        self.ready(callback.provider).await.map_err(|error| {
            // The code is still valid, because the gateway has not sent the code to the provider.
            // The cookie of the pending login is kept, so that the browser can send the same
            // authorization response again.
            let mut failure = failed(error);
            failure.cookies.clear();
            Box::new(Completion::Failed(failure))
        })?;
        // `ready` has already fetched the metadata that `check_issuer` may need.
        self.check_issuer(callback.provider, verified.iss.as_deref())
            .map_err(|error| Box::new(Completion::Failed(failed(error))))?;
        // The state is marked as used after all other checks, because a state must stay usable
        // after a failed check.
        match self.admit(returned, callback).await {
            Ok(turn) => Ok((verified, turn)),
            Err(Error::Used) => Err(Box::new(outcome::stale_answer(
                failed(Error::Used),
                callback,
            ))),
            Err(error) => {
                let mut failure = failed(error);
                // The cookie of the pending login is kept, so that the browser can send the code
                // again.
                if failure.error.code_can_be_sent_again() {
                    let waited = self.remember_waiting(returned, callback.public_url);
                    failure.cookies = waited.into_iter().collect();
                }
                Err(Box::new(Completion::Failed(failure)))
            }
        }
    }

    /// Checks the `iss` of an answer at the redirection endpoint of `provider` (RFC 9207).
    fn check_issuer(&self, provider: &str, iss: Option<&str>) -> Result<(), Error> {
        let provider = self.providers.get(provider).ok_or(Error::UnknownProvider)?;
        Ok(provider.check_response_issuer(iss)?)
    }

    /// Waits until the code of a verified authorization response may be exchanged. Each state is
    /// accepted only one time.
    async fn admit(
        &self,
        returned: &ReturnedState,
        callback: &Callback<'_>,
    ) -> Result<CodeTurn, Error> {
        let name = callback.provider;
        let provider = self.providers.get(name).ok_or(Error::UnknownProvider)?;
        let sessions = &self.process.sessions;
        let code = self.queued_code(returned, callback);
        // The state is marked as used after the wait, so that a browser that does not wait can send
        // the code again. A code that gets no turn also causes no work for the store.
        let waiting = self.process.metrics.waiting_code();
        let turn = provider
            .code_turn(code, sessions.replicas(), &self.process.clock)
            .await
            .inspect_err(|_too_many| self.warn_of_many_codes(name))?;
        drop(waiting);
        let now = self.process.clock.now();
        match sessions
            .once((MarkKind::State, code.state), now, now.plus(USED_FOR))
            .await?
        {
            Once::First => Ok(turn),
            Once::Repeated => Err(Error::Used),
        }
    }

    /// Writes a warning, at most one per minute, that a code did not get its turn.
    fn warn_of_many_codes(&self, provider: &str) {
        let now = Duration::from_millis(self.process.clock.now().as_millis());
        if self.process.many_codes.is_due(provider, now) {
            tracing::warn!(
                provider,
                setting = format_args!("providers.{provider}.token_calls_per_minute"),
                "Logins have to wait, because the provider has refused many codes, or because the \
                 calls per minute are used up; somebody may be sending invented codes"
            );
        }
    }
}

#[cfg(test)]
mod sign_out_tests;
#[cfg(test)]
mod uniqueness_tests;
