//! The start of a login.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tokio::time::timeout;

use super::pending::{LoginDetails, PendingLogin, registration_tag};
use super::{Error, Login, PublicUrl, Start, Started, browser};
use crate::provider::{AuthorizationRequest, Prompt, Provider, Unreachable};
use crate::session::cookie;

/// The longest time that a user waits for a provider that does not answer.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(5);

impl Login {
    /// Starts a login: returns the redirect that sends the browser to the provider. At a host that
    /// gets its sessions from the login host, the redirect leads to the login host.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Loop`] if this browser has just completed three logins and still has no
    /// session. Returns [`Error::Provider`] if the authorization endpoint is not known. Returns
    /// [`Error::NotStored`] if the session store does not answer. [`Error::PageNotKept`].
    /// [`Error::UnknownProvider`]. [`Error::NoRandomness`].
    ///
    /// # Cancel safety
    ///
    /// A caller can drop the future at any time, because this method stores nothing.
    pub async fn begin(&self, mut start: Start<'_>) -> Result<Started, Error> {
        let round = browser::rounds(start.headers);
        if round >= browser::MAX_ROUNDS {
            return Err(Error::Loop);
        }
        // The user must not type a password for a session that cannot be stored.
        self.process.sessions.ready()?;
        let origin = (start.public_url, start.headers);
        let (return_to, saved) = self.save_page(start.return_to, origin)?;
        start.return_to = return_to;
        let attempt = (start.prompt == Prompt::Silent).then(Self::note_silent_attempt);
        let mut started = match self.login_host_for(start.public_url) {
            Some(host) => self.request_ticket(start, host, round)?,
            None => self.request_authorization(start, round).await?,
        };
        started.cookies.extend(saved);
        started.cookies.extend(attempt);
        Ok(started)
    }

    /// Begins a login at the provider: returns the redirect to the authorization endpoint.
    async fn request_authorization(&self, start: Start<'_>, round: u8) -> Result<Started, Error> {
        let client = self.ready(start.provider).await?;
        let details = LoginDetails {
            provider: start.provider.into(),
            registration: Some(registration_tag(&client.fingerprint())),
            return_to: start.return_to,
            issued_at: self.process.clock.now(),
            round,
            prompt: start.prompt,
            remember: start.remember,
            waiting: start.waiting,
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
            passed: start.passed,
            prompt: start.prompt,
        };
        let location = client.authorization_url(&request)?;
        let (name, secret) = (sealed.tab.cookie(), sealed.browser_secret.expose());
        let own = cookie::set(&name, secret, self.settings.timeout);
        Ok(Started {
            location,
            cookies: self.login_cookies(own, (start.public_url, start.headers)),
        })
    }

    /// Returns `own`, the `Set-Cookie` value of a new pending login, and the values that delete the
    /// cookies of old pending logins.
    pub(super) fn login_cookies(
        &self,
        own: HeaderValue,
        (public_url, headers): (&PublicUrl, &HeaderMap),
    ) -> Vec<HeaderValue> {
        let most = self.settings.cookie_limits.tabs(public_url);
        browser::with_surplus_cleared(own, headers, most)
    }

    /// Waits until the provider `name` is ready for requests, but not longer than
    /// [`PROVIDER_TIMEOUT`]. This method does not wait if the gateway has checked recently whether
    /// the provider is ready.
    pub(super) async fn ready(&self, name: &str) -> Result<Arc<Provider>, Error> {
        let provider = self.providers.get(name).ok_or(Error::UnknownProvider)?;
        if let Some(readiness) = provider.recent_readiness(self.process.clock.now()) {
            return Ok(readiness.map(|()| Arc::clone(provider))?);
        }
        let (shared, clock) = (Arc::clone(provider), self.process.clock.clone());
        let asking = self
            .process
            .on_control_plane(async move { Ok(shared.ready(&clock).await?) });
        match timeout(PROVIDER_TIMEOUT, asking).await {
            Ok(ready) => ready.map(|()| Arc::clone(provider)),
            Err(_elapsed) => Err(Unreachable::silent(PROVIDER_TIMEOUT).into()),
        }
    }
}
