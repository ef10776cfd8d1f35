//! The authorization-code flow as the client sees it (RFC 6749 section 4.1, RFC 7636, RFC 9700).
//!
//! [`Login::begin`] sends a browser to its provider; [`Login::complete`] takes the answer and
//! opens a session; [`Login::sign_out`] ends it. The room knows cookies and redirects as values
//! and nothing of pages: it gives back what to set and where to go, or a [`FailedLogin`] that somebody
//! else explains.
//!
//! Nothing is stored for a visitor who has not signed in: the pending login travels in `state`.
//! What the exchange does runs as a task of the control plane, so it finishes and is kept even if
//! the browser goes away.

mod authorization;
mod browser;
mod error;
mod outcome;
mod pending;
mod process;
mod public_url;
mod redirection;
mod request;
mod return_to;
mod same_origin;
mod throttle;
mod used;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tokio::time::timeout;

use self::authorization::{AuthorizationResponse, Granted, VerifiedResponse};
pub use self::authorization::{ErrorCode, MalformedResponse};
pub use self::error::Error;
pub use self::outcome::{Completion, FailedLogin, Started};
pub use self::pending::StateError;
use self::pending::{LoginDetails, PendingLogin, ReturnedState, registration_tag};
pub use self::process::ProcessState;
pub use self::public_url::PublicUrl;
pub(crate) use self::public_url::PublicUrls;
pub(crate) use self::redirection::RedirectionEndpoints;
pub use self::request::{Callback, PreviousSession, Start};
pub use self::return_to::ReturnTo;
pub(crate) use self::same_origin::{SameOrigin, same_origin};
use self::throttle::ThrottleDecision;
use self::used::Use;
use crate::clock::Timestamp;
use crate::fields::cookie::{self as cookies, Found};
use crate::provider::{
    Actor, AuthorizationRequest, ExchangeError, Grant, Prompt, Provider, Providers, Redemption,
    ResponseMode, Sent, Unreachable,
};
use crate::seal::KeyRing;
use crate::session::{EndReason, Ended, NewSession, SessionId, SessionKey, cookie};
use crate::telemetry::TokenCall;

/// Where all of our own endpoints lie, but for a callback path that was configured elsewhere.
pub(crate) const OWN_PREFIX: &str = "/oauth2/";

/// How long a person waits for a provider that says nothing at all.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(5);

/// How many sessions one request signs out at most. A browser brings one, or a few while cookies of
/// several paths are about; whoever writes its own fields could bring hundreds.
const MAX_SIGNED_OUT: usize = 8;

/// What the flow needs from the operator.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the answers of providers come to.
    pub(crate) redirection: RedirectionEndpoints,
    /// How long a login may take.
    pub(crate) timeout: Duration,
}

/// The flow at the providers of one site. Shared by all workers.
#[derive(Debug)]
pub struct Login {
    settings: Settings,
    keys: Arc<KeyRing>,
    providers: Arc<Providers>,
    process: Arc<ProcessState>,
}

impl Login {
    /// The flow at `providers`. `keys` seal what travels through the browser.
    pub fn new(
        settings: Settings,
        keys: Arc<KeyRing>,
        providers: Arc<Providers>,
        process: Arc<ProcessState>,
    ) -> Self {
        Self {
            settings,
            keys,
            providers,
            process,
        }
    }

    /// Where the answers of providers come to.
    pub(crate) fn redirection(&self) -> &RedirectionEndpoints {
        &self.settings.redirection
    }

    /// The configured names of all providers, in alphabetical order.
    pub fn providers(&self) -> impl Iterator<Item = &str> {
        self.providers.keys().map(AsRef::as_ref)
    }

    /// What people call a provider.
    pub(crate) fn display_name<'a>(&'a self, provider: &'a str) -> &'a str {
        let known = self.providers.get(provider);
        known.map_or(provider, |known| known.display_name())
    }

    /// How the answers of a provider come.
    pub(crate) fn response_mode(&self, provider: &str) -> ResponseMode {
        let known = self.providers.get(provider);
        known.map_or(ResponseMode::Query, |known| known.response_mode())
    }

    /// Seals an address to come back to, for a link of our own at `public_url`.
    ///
    /// # Errors
    ///
    /// [`Error::NoRandomness`].
    pub(crate) fn seal(
        &self,
        return_to: &ReturnTo,
        public_url: &PublicUrl,
    ) -> Result<String, Error> {
        Ok(return_to.seal(&self.keys, public_url.origin())?)
    }

    /// Opens what [`Login::seal`] gave, if it did.
    pub(crate) fn unseal(&self, text: &str, public_url: &PublicUrl) -> Option<ReturnTo> {
        ReturnTo::unseal(text, &self.keys, public_url.origin())
    }

    /// Sends a browser to its provider.
    ///
    /// # Errors
    ///
    /// [`Error::Loop`] when this browser has just completed three logins in vain;
    /// [`Error::UnknownProvider`]; [`Error::NoRandomness`]; [`Error::Provider`] when it is not known
    /// where to send the browser.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is kept.
    pub async fn begin(&self, start: Start<'_>) -> Result<Started, Error> {
        let round = browser::rounds(start.headers);
        if round >= browser::MAX_ROUNDS {
            return Err(Error::Loop);
        }
        let client = self.ready(start.provider).await?;
        let mode = client.response_mode();
        let previous_session = match mode {
            // The answer of another site's form comes without the session's cookie.
            ResponseMode::FormPost => browser::session_key(start.headers),
            ResponseMode::Query => None,
        };
        let details = LoginDetails {
            provider: start.provider.into(),
            registration: Some(registration_tag(&client.fingerprint())),
            return_to: start.return_to,
            issued_at: self.process.clock.now(),
            round,
            reauthenticate: start.prompt == Prompt::Login,
            previous_session,
        };
        let pending = PendingLogin::new(details)?;
        let sealed = pending.seal(&self.keys, start.public_url.origin())?;
        let request = AuthorizationRequest {
            redirect_uri: &self
                .redirection()
                .redirect_uri(start.public_url, start.provider),
            state: &sealed.state,
            code_challenge: &pending.code_challenge(),
            nonce: &pending.nonce(),
            login_hint: start.login_hint,
            prompt: start.prompt,
        };
        let location = client.authorization_url(&request)?;
        let (name, secret) = (sealed.tab.cookie(), sealed.browser_secret.expose());
        let own = match mode {
            ResponseMode::FormPost => {
                cookie::set_across_sites(&name, secret, self.settings.timeout)
            }
            ResponseMode::Query => cookie::set(&name, secret, self.settings.timeout),
        };
        let surplus = browser::surplus_tabs(start.headers).map(|tab| cookie::clear(&tab.cookie()));
        Ok(Started {
            location,
            cookies: std::iter::once(own).chain(surplus).collect(),
        })
    }

    /// Takes the answer of an authorization server: verifies the state, exchanges the code, opens
    /// the session.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future while the provider is asked does not stop the exchange, but opens and
    /// ends no session: a browser that does not wait for its cookie keeps the session that it has.
    pub async fn complete(self: &Arc<Self>, callback: Callback<'_>) -> Completion {
        let origin = callback.public_url.origin();
        let response = match AuthorizationResponse::parse(callback.parameters) {
            Ok(response) => response,
            Err(error) => return Completion::Failed(FailedLogin::new(error.into(), None)),
        };
        let granted = match response {
            // Servers that post answers may still send errors by a redirect, but no codes.
            AuthorizationResponse::Granted(_)
                if callback.mode != self.response_mode(callback.provider) =>
            {
                let error = MalformedResponse::NotPosted.into();
                return Completion::Failed(FailedLogin::new(error, None));
            }
            AuthorizationResponse::Granted(granted) => granted,
            AuthorizationResponse::Refused { error, state, iss } => {
                let state =
                    state.and_then(|text| ReturnedState::open(&text, &self.keys, origin).ok());
                let state =
                    state.filter(|state| self.was_sent_to(state.details(), callback.provider));
                // Some servers leave their issuer out of errors; a wrong one is wrong here, too.
                let checked = match iss.as_deref() {
                    Some(iss) => self.check_issuer(callback.provider, Some(iss)),
                    None => Ok(()),
                };
                let error = checked.err().unwrap_or(Error::Denied(error));
                return Completion::Failed(FailedLogin::new(error, state.as_ref()));
            }
        };
        let returned = match granted.returned_state(&self.keys, origin) {
            Ok(returned) if self.was_sent_to(returned.details(), callback.provider) => returned,
            // Another provider's answer: a code must never go to a server that did not make it.
            Ok(_) => {
                let error = Error::State(StateError::Foreign);
                return outcome::stale_answer(FailedLogin::new(error, None), &callback);
            }
            Err(error) => {
                return outcome::stale_answer(FailedLogin::new(error.into(), None), &callback);
            }
        };
        match self.verified(granted, &returned, &callback).await {
            Ok(verified) => self.redeem(verified, &returned, callback).await,
            Err(unfit) => *unfit,
        }
    }

    /// Whether a login was sent to the server and client that `provider` means now. A reload may have
    /// given the name to another one.
    fn was_sent_to(&self, details: &LoginDetails, provider: &str) -> bool {
        let is_same = |tag| {
            let now = self.providers.get(provider);
            now.is_some_and(|now| registration_tag(&now.fingerprint()) == tag)
        };
        *details.provider == *provider && details.registration.is_none_or(is_same)
    }

    /// Verifies an answer and all that has to hold before its code is sent anywhere.
    async fn verified(
        &self,
        granted: Granted,
        returned: &ReturnedState,
        callback: &Callback<'_>,
    ) -> Result<VerifiedResponse, Box<Completion>> {
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
        if signed_in_meanwhile(returned.details(), &callback.previous_session) {
            let answered = outcome::already_signed_in(&failed(Error::Used), callback.public_url);
            return Err(Box::new(answered));
        }
        self.ready(callback.provider).await.map_err(|error| {
            // What was not sent does not use up the code: the same answer may come again.
            let mut failure = failed(error);
            failure.cookies.clear();
            Box::new(Completion::Failed(failure))
        })?;
        self.check_issuer(callback.provider, verified.iss.as_deref())
            .map_err(|error| Box::new(Completion::Failed(failed(error))))?;
        match self.admit(returned, callback.client, now) {
            Ok(()) => Ok(verified),
            Err(Error::Used) => Err(Box::new(outcome::stale_answer(
                failed(Error::Used),
                callback,
            ))),
            Err(error) => Err(Box::new(Completion::Failed(failed(error)))),
        }
    }

    /// Checks who an answer at the redirection endpoint of `provider` says it is from.
    fn check_issuer(&self, provider: &str, iss: Option<&str>) -> Result<(), Error> {
        let provider = self.providers.get(provider).ok_or(Error::UnknownProvider)?;
        Ok(provider.check_response_issuer(iss)?)
    }

    /// Whether a verified answer may be redeemed: once, and not by a client whose codes the
    /// provider keeps refusing.
    fn admit(&self, returned: &ReturnedState, client: IpAddr, now: Timestamp) -> Result<(), Error> {
        if self.process.throttle.check(client, now) == ThrottleDecision::TooManyRefused {
            return Err(Error::TooManyRefused);
        }
        match self
            .process
            .used(|used| used.remember(returned.fingerprint(), now))
        {
            Use::First => Ok(()),
            Use::Repeated => Err(Error::Used),
        }
    }

    async fn redeem(
        self: &Arc<Self>,
        verified: VerifiedResponse,
        returned: &ReturnedState,
        callback: Callback<'_>,
    ) -> Completion {
        let details = returned.details();
        let redirection = self.redirection();
        let redirect_uri = redirection.redirect_uri(callback.public_url, &details.provider);
        let login = Arc::clone(self);
        let exchange = async move { login.exchange(verified, &redirect_uri).await };
        let opened = match self.process.on_control_plane(exchange).await {
            Ok(grant) => {
                let (login, name) = (Arc::clone(self), details.provider.clone());
                let previous = (callback.previous_session, details.previous_session);
                let open = async move { login.open(&name, grant, previous).await };
                self.process.on_control_plane(open).await
            }
            Err(error) => Err(error),
        };
        let forget = cookie::clear(&returned.tab().cookie());
        match opened {
            Ok(id) => Completion::SignedIn {
                location: details.return_to.absolute(callback.public_url.origin()),
                cookies: vec![
                    cookie::session(&id, self.process.sessions.cookie_lifetime()),
                    browser::remember_rounds(details.round.saturating_add(1)),
                    forget,
                ],
                provider: details.provider.clone(),
                session: id.key(),
            },
            Err(error) => {
                let now = self.process.clock.now();
                let mut failure = FailedLogin::new(error, Some(returned));
                let class = failure.error.class();
                if class.is_some_and(|class| class.actor == Actor::Client) {
                    self.process.throttle.note_refused(callback.client, now);
                }
                if class.is_some_and(|class| class.sent != Sent::Possibly) {
                    // The code was not used up, so the same answer may come again.
                    self.process
                        .used(|used| used.forget(&returned.fingerprint()));
                    failure.cookies.clear();
                }
                Completion::Failed(failure)
            }
        }
    }

    /// The provider called `name`, once it can be asked. What was found out a moment ago counts;
    /// whoever has to wait does not do so for ever.
    async fn ready(&self, name: &str) -> Result<Arc<Provider>, Error> {
        let provider = self.providers.get(name).ok_or(Error::UnknownProvider)?;
        if let Some(lately) = provider.recent_readiness(self.process.clock.now()) {
            return Ok(lately.map(|()| Arc::clone(provider))?);
        }
        let (asked, clock) = (Arc::clone(provider), self.process.clock.clone());
        let asking = self
            .process
            .on_control_plane(async move { Ok(asked.ready(&clock).await?) });
        match timeout(PROVIDER_TIMEOUT, asking).await {
            Ok(ready) => ready.map(|()| Arc::clone(provider)),
            Err(_elapsed) => Err(Unreachable::silent(PROVIDER_TIMEOUT).into()),
        }
    }

    /// The one exchange of a verified answer.
    async fn exchange(
        &self,
        verified: VerifiedResponse,
        redirect_uri: &str,
    ) -> Result<Grant, Error> {
        let VerifiedResponse { code, pending, .. } = verified;
        let name = &pending.details().provider;
        let provider = self.providers.get(name).ok_or(Error::UnknownProvider)?;
        let asked = self.process.clock.instant();
        let redemption = Redemption {
            code,
            code_verifier: pending.code_verifier(),
            nonce: &pending.nonce(),
            redirect_uri,
            begun_at: pending.details().issued_at,
        };
        let redeemed = provider.redeem(redemption, &self.process.clock).await;
        let took = self
            .process
            .clock
            .instant()
            .saturating_duration_since(asked);
        let result = redeemed
            .as_ref()
            .map_or_else(ExchangeError::reason, |_| "ok");
        self.process
            .metrics
            .token_call(name, TokenCall::Code, result, took);
        Ok(redeemed?)
    }

    /// Opens the session. The one that the browser had before ends: a new login gives a new id, and
    /// two people never share a browser's session.
    async fn open(
        &self,
        provider: &str,
        grant: Grant,
        (previous, remembered): (PreviousSession, Option<SessionKey>),
    ) -> Result<SessionId, Error> {
        let Grant { identity, tokens } = grant;
        let previous = match previous {
            PreviousSession::Live(id, _) | PreviousSession::Stale(id) => Some(id.key()),
            PreviousSession::Nothing => None,
        };
        let registered = self.providers.get(provider).ok_or(Error::UnknownProvider)?;
        let new = NewSession {
            provider,
            registration: registered.fingerprint(),
            identity,
            tokens,
            replaces: previous.into_iter().chain(remembered).collect(),
        };
        Ok(self
            .process
            .sessions
            .open(new, self.process.clock.now())
            .await?)
    }

    /// Ends the session of a browser, and the few more that it may bring, and gives the `Set-Cookie` values that make it forget.
    ///
    /// # Errors
    ///
    /// [`Error::NotStored`], [`Error::Stopped`] or [`Error::Panicked`]: the person is signed in
    /// still.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the signing out.
    pub(crate) async fn sign_out(&self, headers: &HeaderMap) -> Result<[HeaderValue; 2], Error> {
        let named = cookies::matching(headers, |name| name == cookie::SESSION.as_bytes());
        let ids = named.filter_map(|(_, value)| SessionId::parse(value));
        let keys: Vec<_> = ids.map(|id| id.key()).take(MAX_SIGNED_OUT).collect();
        let sessions = Arc::clone(&self.process.sessions);
        let end = async move {
            for key in keys {
                if sessions.end(&key, EndReason::SignedOut).await? == Ended::Session {
                    tracing::info!(session.key = key.log_prefix(), "Signed out");
                }
            }
            Ok(())
        };
        self.process.on_control_plane(end).await?;
        Ok([cookie::clear(cookie::SESSION), browser::forget_rounds()])
    }

    /// The `Set-Cookie` value that lets a browser try again after [`Error::Loop`].
    pub(crate) fn forget_rounds() -> HeaderValue {
        browser::forget_rounds()
    }
}

/// Whether the browser was signed in while this login was under way, by another tab: another
/// exchange would only push that session out.
fn signed_in_meanwhile(details: &LoginDetails, previous: &PreviousSession) -> bool {
    match previous {
        PreviousSession::Live(_, session) => {
            !details.reauthenticate
                && *session.provider() == *details.provider
                && session.opened_at() >= details.issued_at
        }
        PreviousSession::Nothing | PreviousSession::Stale(_) => false,
    }
}

#[cfg(test)]
mod sign_out_tests;
#[cfg(test)]
mod uniqueness_tests;
