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
mod used;

use std::collections::BTreeMap;
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
use self::used::{Use, UsedStates};
use crate::clock::{Clock, Timestamp};
use crate::fields::cookie::{self as cookies, Found};
use crate::provider::{self, AuthorizationRequest, Prompt, Provider};
use crate::session::{SessionId, SessionKey, Sessions, cookie};
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
    /// The answer was stale or repeated, and the browser has a live session: just go on.
    AlreadySignedIn {
        /// Where the visitor wanted to go, absolute.
        location: String,
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

/// What the browser brought to the redirection endpoint.
#[derive(Debug)]
pub struct Callback<'a> {
    /// The query, without `?`.
    pub query: &'a str,
    /// The request's fields, for its cookies.
    pub headers: &'a HeaderMap,
    /// The origin that was asked.
    pub public_url: &'a PublicUrl,
    /// Whether the browser has a live session.
    pub signed_in: SignedIn,
}

/// Whether a browser has a live session.
#[derive(Debug)]
pub enum SignedIn {
    /// It has this one.
    As(SessionId),
    /// It has none.
    No,
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
        }
    }

    /// The path of the redirection endpoint.
    pub fn callback_path(&self) -> &str {
        &self.settings.callback_path
    }

    /// Sends a browser to `provider`, to come back to `return_to`.
    ///
    /// # Errors
    ///
    /// [`Error::Loop`] when this browser has just completed three logins in vain;
    /// [`Error::UnknownProvider`]; [`Error::NoRandomness`].
    pub fn begin(
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
        };
        let pending = PendingLogin::new(hint)?;
        let sent = pending.send(&self.keys, public_url.origin())?;
        let location = client.authorization_url(&AuthorizationRequest {
            redirect_uri: &self.redirect_uri(public_url),
            state: &sent.state,
            code_challenge: &pending.code_challenge(),
            prompt,
        });
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
    /// Dropping the future does not stop an exchange that has begun; its session is opened and
    /// ends by its idle deadline.
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
            Ok(returned) => returned,
            Err(error) => return stale(Failure::new(error.into(), None), &callback),
        };
        let name = returned.tab().cookie();
        let browser_secret = match cookies::find(callback.headers, name.as_bytes()) {
            Found::One(value) => Some(value),
            Found::Absent | Found::Conflicting => None,
        };
        let time = (self.clock.now(), self.settings.timeout);
        let verified = granted
            .verify(&returned, &self.keys, browser_secret, time)
            .map_err(Error::from)
            .and_then(|verified| match self.remember(&returned, time.0) {
                Use::First => Ok(verified),
                Use::Repeated => Err(Error::Used),
            });
        match verified {
            Err(error) => stale(Failure::new(error, Some(&returned)), &callback),
            Ok(verified) => self.redeem(verified, &returned, callback).await,
        }
    }

    async fn redeem(
        self: &Arc<Self>,
        verified: VerifiedResponse,
        returned: &ReturnedState,
        callback: Callback<'_>,
    ) -> Completion {
        let redirect_uri = self.redirect_uri(callback.public_url);
        let login = Arc::clone(self);
        let task = async move {
            login
                .exchange(verified, &redirect_uri, callback.signed_in)
                .await
        };
        let opened = match self.control.spawn(task).await {
            Ok(opened) => opened,
            Err(_stopped) => Err(Error::Stopped),
        };
        let forget = cookie::clear(&returned.tab().cookie());
        match opened {
            Ok(id) => {
                let hint = returned.hint();
                Completion::SignedIn {
                    location: hint.return_to.absolute(callback.public_url.origin()),
                    cookies: vec![
                        cookie::session(&id, self.sessions.cookie_lifetime()),
                        browser::remember_rounds(hint.round.saturating_add(1)),
                        forget,
                    ],
                    provider: hint.provider.clone(),
                    session: id.key(),
                }
            }
            Err(error) => {
                let mut failure = Failure::new(error, Some(returned));
                failure.cookies.push(forget);
                Completion::Failed(failure)
            }
        }
    }

    /// The one exchange of a verified answer. The session that the browser had before ends: a new
    /// login gives a new id, and two people never share a browser's session.
    async fn exchange(
        &self,
        verified: VerifiedResponse,
        redirect_uri: &str,
        before: SignedIn,
    ) -> Result<SessionId, Error> {
        let VerifiedResponse { code, pending } = verified;
        let name = &pending.hint().provider;
        let provider = self.providers.get(name).ok_or(Error::UnknownProvider)?;
        let code_verifier = pending.code_verifier();
        let asked = self.clock.instant();
        let redeemed = provider
            .redeem(code, code_verifier, redirect_uri, &self.clock)
            .await;
        let took = self.clock.instant().saturating_duration_since(asked);
        let result = redeemed
            .as_ref()
            .map_or_else(provider::Error::reason, |_| "ok");
        self.metrics.token_call(name, result, took);
        let grant = redeemed?;
        let id = self
            .sessions
            .open(name, grant.identity, grant.tokens, self.clock.now())?;
        if let SignedIn::As(before) = before {
            self.sessions.end(&before);
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

    fn redirect_uri(&self, public_url: &PublicUrl) -> String {
        format!("{}{}", public_url.origin(), self.settings.callback_path)
    }

    fn remember(&self, returned: &ReturnedState, now: Timestamp) -> Use {
        let mut used = self
            .used
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        used.remember(returned.fingerprint(), now, self.settings.timeout)
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
    }
}

/// A state that does not verify is no news to a browser that is signed in: the answer came twice,
/// or from a tab that was restored.
fn stale(failure: Failure, callback: &Callback<'_>) -> Completion {
    match callback.signed_in {
        SignedIn::No => Completion::Failed(failure),
        SignedIn::As(_) => Completion::AlreadySignedIn {
            location: failure.retry.absolute(callback.public_url.origin()),
        },
    }
}
