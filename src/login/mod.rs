//! The authorization-code flow as the client sees it (RFC 6749 section 4.1, RFC 7636, RFC 9700).
//!
//! [`Login::begin`] sends a browser to its provider; [`Login::complete`] takes the answer and
//! opens a session; [`Login::sign_out`] ends it. The room knows cookies and redirects as values
//! and nothing of pages: it gives back what to set and where to go, or a [`Failure`] that somebody
//! else explains.
//!
//! Nothing is stored for a visitor who has not signed in: the pending login travels in `state`.
//! What the exchange does runs as a task of the control plane, so it finishes and is kept even if
//! the browser goes away.

mod authorization;
mod browser;
mod error;
mod keys;
mod pending;
mod public_url;
mod return_to;
mod same_origin;
mod throttle;
mod used;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tokio::runtime::Handle;

use self::authorization::{AuthorizationResponse, VerifiedResponse};
pub use self::authorization::{ErrorCode, MalformedResponse};
pub use self::error::Error;
pub use self::keys::{KeyFileError, KeyRing};
pub use self::pending::StateError;
use self::pending::{Hint, PendingLogin, ReturnedState};
pub use self::public_url::{PublicUrl, PublicUrls};
pub use self::return_to::ReturnTo;
pub use self::same_origin::{SameOrigin, same_origin};
use self::throttle::{Pace, Throttle};
use self::used::{Use, UsedStates};
use crate::clock::{Clock, Timestamp};
use crate::fields::cookie::{self as cookies, Found};
use crate::provider::{self, AuthorizationRequest, Grant, Prompt, Provider, Redemption};
use crate::session::{Session, SessionId, SessionKey, Sessions, cookie};
use crate::telemetry::Metrics;

/// Where all of our own endpoints lie, but for a callback path that was configured elsewhere.
pub const OWN_PREFIX: &str = "/oauth2/";

/// What the flow needs from the operator.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The path of the redirection endpoint, the same at every origin.
    pub callback_path: Box<str>,
    /// How long a login may take.
    pub timeout: Duration,
}

/// A browser on its way to the provider.
#[derive(Debug)]
pub struct Started {
    /// The authorization request.
    pub location: String,
    /// `Set-Cookie` values.
    pub cookies: Vec<HeaderValue>,
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
    Failed(Failure),
}

/// A login that failed, with what its page needs.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: Error,
    /// Where to start again: visiting it begins a new login.
    pub retry: ReturnTo,
    /// The provider's configured name, when the state could be read.
    pub provider: Option<Box<str>>,
    /// `Set-Cookie` values.
    pub cookies: Vec<HeaderValue>,
}

/// What came to the redirection endpoint of a provider.
#[derive(Debug)]
pub struct Callback<'a> {
    /// The query, without `?`.
    pub query: &'a str,
    /// The request's fields, for its cookies.
    pub headers: &'a HeaderMap,
    /// The origin that was asked.
    pub public_url: &'a PublicUrl,
    /// The provider whose endpoint was asked.
    pub provider: &'a str,
    /// Where the request comes from, after the trust rule.
    pub client: IpAddr,
    /// The session that the browser has.
    pub before: Before,
}

/// The session that a browser brings to a login.
#[derive(Debug)]
pub enum Before {
    /// A live one.
    Live(SessionId, Arc<Session>),
    /// None.
    Nothing,
    /// One that is good for nothing any more, or for nothing here.
    Stale(SessionId),
}

/// The flow. Shared by all workers.
#[derive(Debug)]
pub struct Login {
    settings: Settings,
    keys: KeyRing,
    providers: BTreeMap<Box<str>, Arc<Provider>>,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    clock: Clock,
    control: Handle,
    // Taken once in a login, never on the path of a signed-in request.
    #[expect(
        clippy::disallowed_types,
        reason = "held for one look-up, in logins only"
    )]
    used: std::sync::Mutex<UsedStates>,
    throttle: Throttle,
}

impl Login {
    /// Brings the parts together. `control` is the control plane's runtime.
    pub fn new(
        (settings, keys): (Settings, KeyRing),
        providers: BTreeMap<Box<str>, Arc<Provider>>,
        sessions: Arc<Sessions>,
        (metrics, clock): (Arc<Metrics>, Clock),
        control: Handle,
    ) -> Self {
        #[expect(clippy::disallowed_types, reason = "see the field")]
        let used = std::sync::Mutex::default();
        Self {
            settings,
            keys,
            providers,
            sessions,
            metrics,
            clock,
            control,
            used,
            throttle: Throttle::new(),
        }
    }

    /// Whether a path is that of a redirection endpoint, or would be with another provider's name.
    pub fn owns(&self, path: &str) -> bool {
        let below = path.strip_prefix(&*self.settings.callback_path);
        match below {
            Some("") => true,
            Some(below) => self.providers.len() > 1 && below.starts_with('/'),
            None => false,
        }
    }

    /// The provider whose redirection endpoint lies at a path.
    pub fn provider_at(&self, path: &str) -> Option<&str> {
        let names = self.providers.keys().map(AsRef::as_ref);
        let mut here =
            names.filter(|name| self.settings.path_of(name, self.providers.len()) == path);
        here.next()
    }

    /// Sends a browser to `provider`, to come back to `return_to`.
    ///
    /// # Errors
    ///
    /// [`Error::Loop`] when this browser has just completed three logins in vain;
    /// [`Error::UnknownProvider`]; [`Error::NoRandomness`].
    pub async fn begin(
        &self,
        (provider, prompt): (&str, Prompt),
        return_to: ReturnTo,
        public_url: &PublicUrl,
        headers: &HeaderMap,
    ) -> Result<Started, Error> {
        let round = browser::rounds(headers);
        if round >= browser::MOST_ROUNDS {
            return Err(Error::Loop);
        }
        let client = self.providers.get(provider).ok_or(Error::UnknownProvider)?;
        let issued_at = self.clock.now();
        let hint = Hint {
            provider: provider.into(),
            return_to,
            issued_at,
            round,
            anew: prompt == Prompt::Login,
        };
        let pending = PendingLogin::new(hint)?;
        let sent = pending.send(&self.keys, public_url.origin())?;
        let request = AuthorizationRequest {
            redirect_uri: &self.redirect_uri(public_url, provider),
            state: &sent.state,
            code_challenge: &pending.code_challenge(),
            nonce: &pending.nonce(),
            login_hint: None,
            prompt,
        };
        let location = client.authorization_url(&request).await?;
        let own = cookie::set(
            &sent.tab.cookie(),
            sent.browser_secret.expose(),
            self.settings.timeout,
        );
        let cookies = browser::surplus_tabs(headers).map(|tab| cookie::clear(&tab.cookie()));
        Ok(Started {
            location,
            cookies: std::iter::once(own).chain(cookies).collect(),
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
        let response = match AuthorizationResponse::parse(callback.query) {
            Ok(response) => response,
            Err(error) => return Completion::Failed(Failure::new(error.into(), None)),
        };
        let granted = match response {
            AuthorizationResponse::Granted(granted) => granted,
            AuthorizationResponse::Refused { error, state } => {
                let state =
                    state.and_then(|text| ReturnedState::open(&text, &self.keys, origin).ok());
                return Completion::Failed(Failure::new(Error::Denied(error), state.as_ref()));
            }
        };
        let returned = match granted.returned_state(&self.keys, origin) {
            Ok(returned) if *returned.hint().provider == *callback.provider => returned,
            // Another provider's answer: a code must never go to a server that did not make it.
            Ok(_) => {
                let error = Error::State(StateError::Foreign);
                return stale(Failure::new(error, None), &callback);
            }
            Err(error) => return stale(Failure::new(error.into(), None), &callback),
        };
        let name = returned.tab().cookie();
        let browser_secret = match cookies::find(callback.headers, name.as_bytes()) {
            Found::One(value) => Some(value),
            Found::Absent | Found::Conflicting => None,
        };
        let time = (self.clock.now(), self.settings.timeout);
        let verified = granted.verify(&returned, &self.keys, browser_secret, time);
        match verified {
            Err(error) => stale(Failure::new(error.into(), Some(&returned)), &callback),
            Ok(_) if is_answered(returned.hint(), &callback.before) => going_on(
                &Failure::new(Error::Used, Some(&returned)),
                callback.public_url,
            ),
            Ok(verified) => match self.admit(&returned, callback.client, time.0) {
                Ok(()) => self.redeem(verified, &returned, callback).await,
                Err(error) => stale(Failure::new(error, Some(&returned)), &callback),
            },
        }
    }

    /// Whether a verified answer may be redeemed: once, and not by a client whose codes the
    /// provider keeps refusing.
    fn admit(&self, returned: &ReturnedState, client: IpAddr, now: Timestamp) -> Result<(), Error> {
        if self.throttle.pace(client, now) == Pace::TooFast {
            return Err(Error::TooManyRefused);
        }
        let timeout = self.settings.timeout;
        match self.used(|used| used.remember(returned.fingerprint(), now, timeout)) {
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
        let hint = returned.hint();
        let redirect_uri = self.redirect_uri(callback.public_url, &hint.provider);
        let login = Arc::clone(self);
        let exchange = async move { login.exchange(verified, &redirect_uri).await };
        let opened = match self.on_control_plane(exchange).await {
            Ok(grant) => {
                let (login, name) = (Arc::clone(self), hint.provider.clone());
                let open = async move { login.open(&name, grant, callback.before) };
                self.on_control_plane(open).await
            }
            Err(error) => Err(error),
        };
        let forget = cookie::clear(&returned.tab().cookie());
        match opened {
            Ok(id) => Completion::SignedIn {
                location: hint.return_to.absolute(callback.public_url.origin()),
                cookies: vec![
                    cookie::session(&id, self.sessions.cookie_lifetime()),
                    browser::remember_rounds(hint.round.saturating_add(1)),
                    forget,
                ],
                provider: hint.provider.clone(),
                session: id.key(),
            },
            Err(error) => {
                let now = self.clock.now();
                let mut failure = Failure::new(error, Some(returned));
                if let Error::Provider(provider::Error::Refused(_)) = &failure.error {
                    self.throttle.note_refused(callback.client, now);
                }
                if let Error::Provider(provider::Error::RateLimited { .. }) = &failure.error {
                    // Nothing was sent, so the same answer may come again.
                    self.used(|used| used.forget(&returned.fingerprint()));
                    failure.cookies.clear();
                }
                Completion::Failed(failure)
            }
        }
    }

    /// Runs work that must not stop when the browser goes away.
    async fn on_control_plane<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        match self.control.spawn(work).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => Err(Error::Panicked),
            Err(_stopping) => Err(Error::Stopped),
        }
    }

    /// The one exchange of a verified answer.
    async fn exchange(
        &self,
        verified: VerifiedResponse,
        redirect_uri: &str,
    ) -> Result<Grant, Error> {
        let VerifiedResponse { code, pending } = verified;
        let name = &pending.hint().provider;
        let provider = self.providers.get(name).ok_or(Error::UnknownProvider)?;
        let asked = self.clock.instant();
        let redemption = Redemption {
            code,
            code_verifier: pending.code_verifier(),
            nonce: &pending.nonce(),
            redirect_uri,
        };
        let redeemed = provider.redeem(redemption, &self.clock).await;
        let took = self.clock.instant().saturating_duration_since(asked);
        let result = redeemed
            .as_ref()
            .map_or_else(provider::Error::reason, |_| "ok");
        self.metrics.token_call(name, result, took);
        Ok(redeemed?)
    }

    /// Opens the session. The one that the browser had before ends: a new login gives a new id, and
    /// two people never share a browser's session.
    fn open(&self, provider: &str, grant: Grant, before: Before) -> Result<SessionId, Error> {
        let Grant { identity, tokens } = grant;
        let id = self
            .sessions
            .open(provider, identity, tokens, self.clock.now())?;
        match before {
            Before::Live(before, _) | Before::Stale(before) => self.sessions.end(&before),
            Before::Nothing => {}
        }
        Ok(id)
    }

    /// Ends the session of a browser and gives the `Set-Cookie` values that make it forget.
    pub fn sign_out(&self, headers: &HeaderMap) -> [HeaderValue; 2] {
        let named = cookies::matching(headers, |name| name == cookie::SESSION.as_bytes());
        for id in named.filter_map(|(_, value)| SessionId::parse(value)) {
            tracing::info!(session.key = id.key().log_prefix(), "Signed out");
            self.sessions.end(&id);
        }
        [cookie::clear(cookie::SESSION), browser::forget_rounds()]
    }

    /// The `Set-Cookie` value that lets a browser try again after [`Error::Loop`].
    pub fn forget_rounds() -> HeaderValue {
        browser::forget_rounds()
    }

    fn redirect_uri(&self, public_url: &PublicUrl, provider: &str) -> String {
        self.settings
            .redirect_uri(public_url, provider, self.providers.len())
    }

    fn used<T>(&self, work: impl FnOnce(&mut UsedStates) -> T) -> T {
        let used = self.used.lock();
        work(&mut used.unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Settings {
    /// The redirect URI to register at a provider. With several providers each has one of its own,
    /// so that an answer of one is never taken for another's (RFC 9700 section 4.4.2.2).
    pub fn redirect_uri(&self, public_url: &PublicUrl, provider: &str, providers: usize) -> String {
        format!(
            "{}{}",
            public_url.origin(),
            self.path_of(provider, providers)
        )
    }

    fn path_of(&self, provider: &str, providers: usize) -> String {
        match providers {
            0 | 1 => self.callback_path.to_string(),
            _ => format!("{}/{provider}", self.callback_path),
        }
    }
}

impl Failure {
    fn new(error: Error, state: Option<&ReturnedState>) -> Self {
        let hint = state.map(ReturnedState::hint);
        Self {
            error,
            retry: hint.map_or_else(ReturnTo::root, |hint| hint.return_to.clone()),
            provider: hint.map(|hint| hint.provider.clone()),
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

/// Whether the browser was signed in while this login was under way, by another tab: another
/// exchange would only push that session out.
fn is_answered(hint: &Hint, before: &Before) -> bool {
    match before {
        Before::Live(_, session) => {
            !hint.anew
                && *session.provider() == *hint.provider
                && session.opened_at() >= hint.issued_at
        }
        Before::Nothing | Before::Stale(_) => false,
    }
}

/// A state that does not verify is no news to a browser that is signed in: the answer came twice,
/// or from a tab that was restored.
fn stale(failure: Failure, callback: &Callback<'_>) -> Completion {
    match callback.before {
        Before::Nothing | Before::Stale(_) => Completion::Failed(failure),
        Before::Live(..) => going_on(&failure, callback.public_url),
    }
}

fn going_on(failure: &Failure, public_url: &PublicUrl) -> Completion {
    Completion::AlreadySignedIn {
        location: failure.retry.absolute(public_url.origin()),
        cookies: failure.cookies.clone(),
    }
}
