//! The end of a login: the exchange of the code, and the new session.

use std::sync::Arc;

use http::HeaderValue;

use super::authorization::VerifiedResponse;
use super::pending::{LoginDetails, ReturnedState};
use super::simultaneous::RunningLogin;
use super::{Callback, Completion, Error, FailedLogin, Login, PreviousSession, browser};
use crate::clock::Timestamp;
use crate::provider::{CodeTurn, ExchangeError, Grant, Redemption, Sent};
use crate::session::{Device, MarkKind, NewSession, SessionId, SessionKey, cookie};
use crate::telemetry::TokenCall;

impl Login {
    /// Exchanges the code, opens the session, and returns the answer for the browser.
    pub(super) async fn redeem(
        self: &Arc<Self>,
        (verified, running): ((VerifiedResponse, CodeTurn), RunningLogin<'_>),
        returned: &ReturnedState,
        callback: Callback<'_>,
    ) -> Completion {
        let details = returned.details();
        let redirection = self.redirection();
        let redirect_uri = redirection.redirect_uri(callback.public_url, &details.provider);
        let login = Arc::clone(self);
        let exchange = async move { login.exchange(verified, &redirect_uri).await };
        let public_url = callback.public_url;
        let opened = match self.process.on_control_plane(exchange).await {
            Ok(grant) => {
                let refreshable = grant.tokens.refresh_token().is_some();
                let user = (Box::new(grant.identity.clone()), refreshable);
                let (login, name) = (Arc::clone(self), details.provider.clone());
                let begun_at = details.issued_at;
                let device = callback.device();
                let waiting = details.waiting.as_ref();
                let at_host = waiting.and_then(|waiting| waiting.session);
                let previous = (callback.previous_session, [at_host, running.replaced()]);
                // After the exchange of the code, a task of the control plane creates the session.
                // If the browser closes the connection during the exchange, this future is dropped,
                // and no session is created.
                let open =
                    async move { login.open((&name, begun_at, device), grant, previous).await };
                let opened = self.process.on_control_plane(open).await;
                opened.map(|id| (id, user))
            }
            Err(error) => Err(error),
        };
        let forget = cookie::clear(&returned.tab().cookie());
        match opened {
            Ok((id, (identity, refreshable))) => {
                let opened = self.share((details, &id), running);
                let known = self.remember_user((&details.provider, &*identity), public_url);
                Completion::SignedIn {
                    location: self.destination(details, opened.session, callback.public_url),
                    cookies: self.signed_in_cookies(details, [opened.cookie, forget], known),
                    provider: opened.provider,
                    session: id.key(),
                    identity,
                    refreshable,
                }
            }
            Err(error) => {
                let mut failure = FailedLogin::new(error, Some(returned));
                let class = failure.error.class();
                if class.is_some_and(|class| class.sent != Sent::Possibly) {
                    // The provider cannot have used the code, so the browser may send the same
                    // authorization response again.
                    let unmarked = self
                        .process
                        .sessions
                        .unmark((MarkKind::State, returned.fingerprint()));
                    // If the store fails, the state stays marked as used, and the user must begin a
                    // new login.
                    drop(unmarked.await);
                    failure.cookies.clear();
                }
                Completion::Failed(failure)
            }
        }
    }

    /// Returns the `Set-Cookie` values for a browser whose user has signed in. `session` is the
    /// cookie of the session, `forget` deletes the cookie of the pending login, and `known` is the
    /// cookie of a known user.
    fn signed_in_cookies(
        &self,
        details: &LoginDetails,
        [session, forget]: [HeaderValue; 2],
        known: Option<HeaderValue>,
    ) -> Vec<HeaderValue> {
        let cookies = [
            session,
            browser::remember_rounds(details.round.saturating_add(1)),
            forget,
        ];
        cookies
            .into_iter()
            .chain(known)
            .chain(self.allow_silent_sign_in())
            .collect()
    }

    /// Exchanges the code of a verified authorization response. The caller must make sure that each
    /// code is exchanged only one time.
    async fn exchange(
        &self,
        (verified, turn): (VerifiedResponse, CodeTurn),
        redirect_uri: &str,
    ) -> Result<Grant, Error> {
        let VerifiedResponse { code, pending, .. } = verified;
        let name = &pending.details().provider;
        let provider = self.providers.get(name).ok_or(Error::UnknownProvider)?;
        let started = self.process.clock.instant();
        let redemption = Redemption {
            code,
            code_verifier: pending.code_verifier(),
            nonce: &pending.nonce(),
            redirect_uri,
            begun_at: pending.details().issued_at,
            max_age: pending.details().prompt.max_age(),
            replicas: self.process.sessions.replicas(),
            turn,
        };
        let redeemed = provider.redeem(redemption, &self.process.clock).await;
        let duration = self
            .process
            .clock
            .instant()
            .saturating_duration_since(started);
        let result = redeemed
            .as_ref()
            .map_or_else(ExchangeError::reason, |_| "ok");
        self.process
            .metrics
            .token_call(name, TokenCall::Code, result, duration);
        Ok(redeemed?)
    }

    /// Creates the session and ends the previous session of the browser. Each login gets a new
    /// session id, so that an attacker cannot choose the session id of a user (session fixation). A
    /// login never continues the session of another user.
    async fn open(
        &self,
        (provider, begun_at, device): (&str, Timestamp, Device),
        grant: Grant,
        (previous, others): (PreviousSession, [Option<SessionKey>; 2]),
    ) -> Result<SessionId, Error> {
        let Grant {
            identity,
            tokens,
            sid,
        } = grant;
        let previous = match previous {
            PreviousSession::Live(session) => Some(*session.key()),
            PreviousSession::Stale(key) => Some(key),
            PreviousSession::Nothing => None,
        };
        let registered = self.providers.get(provider).ok_or(Error::UnknownProvider)?;
        let new = NewSession {
            provider,
            registration: registered.fingerprint(),
            identity,
            tokens,
            replaces: previous
                .into_iter()
                .chain(others.into_iter().flatten())
                .collect(),
            sid,
            device: Some(device),
            begun_at,
        };
        Ok(self
            .process
            .sessions
            .open(new, self.process.clock.now())
            .await?)
    }
}
