//! A refresh is a call that exchanges a refresh token for new tokens (RFC 6749 section 6).
//!
//! A refresh makes one call to the token endpoint, and never repeats the call. If the connection
//! breaks, the provider may already have exchanged the refresh token, and may treat a second use of
//! the refresh token as theft. This module decides whether a response ends the session. The
//! decision about the session depends on the status, a well-formed `error` and the error patterns
//! of the profile. Only a clear refusal by the provider ends a session.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::Attempt;
use super::grant::ResponseContext;
use super::info::ProviderInfo;
use super::schedule;
use super::settings::GrantType;
use super::token::TokenResponse;
use super::{Actor, Classification, ExchangeError, GrantError, Provider, TokenCallError};
use crate::clock::{Clock, Timestamp};
use crate::identity::Identity;
use crate::secret::Secret;
use crate::token::TokenSet;

/// The session data that a refresh needs.
#[derive(Clone, Copy, Debug)]
pub struct RefreshRequest<'a> {
    /// The current tokens of the session.
    pub tokens: &'a TokenSet,
    /// The identity of the session.
    pub identity: &'a Identity,
    /// The latest time to send the request. After this time, another process may have the right to
    /// refresh the session.
    pub latest: Instant,
    /// The number of processes that divide the limits of calls to the provider.
    pub replicas: NonZeroU32,
}

/// The result of a successful refresh.
#[derive(Debug)]
#[must_use = "the tokens that were before may be dead"]
pub struct Refreshed {
    /// The new tokens. If the response contains no new refresh token, `tokens` contains the old
    /// refresh token.
    pub tokens: TokenSet,
    /// The updated identity of the same user. `None` if the session keeps its identity.
    pub identity: Option<Identity>,
}

/// The error of a failed refresh, and its consequence for the session.
#[derive(Debug, thiserror::Error)]
#[error("the tokens were not refreshed")]
#[must_use = "it may end the session"]
pub struct RefreshError {
    /// The error.
    #[source]
    pub error: ExchangeError,
    /// The consequence of the failure for the session.
    pub verdict: Verdict,
    /// A token set that contains the old access token and the new refresh token. `tokens_to_store`
    /// is present if the response contains a new refresh token, but the other tokens of the
    /// response cannot be used. The caller has to store `tokens_to_store`, because the old refresh
    /// token is no longer valid.
    pub tokens_to_store: Option<Box<TokenSet>>,
}

/// States what a failed refresh means for the session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Verdict {
    /// The grant has ended. The session ends, and the user has to sign in again.
    GrantEnded,
    /// The provider refuses the gateway, or the response of the provider is not valid. An operator
    /// has to act. The session stays.
    OperatorMustAct,
    /// The failure is temporary. The session stays, and a later refresh uses the same refresh
    /// token.
    Temporary,
}

impl Verdict {
    pub(super) fn of(class: Classification) -> Self {
        match (class.actor, class.passes) {
            (Actor::Client, _) => Self::GrantEnded,
            (Actor::Operator | Actor::Provider, true) => Self::Temporary,
            (Actor::Operator | Actor::Provider, false) => Self::OperatorMustAct,
        }
    }
}

impl From<TokenCallError> for RefreshError {
    /// Creates the error without `tokens_to_store`, because the provider sent no new refresh token.
    fn from(error: TokenCallError) -> Self {
        Self {
            verdict: Verdict::of(error.class()),
            error: error.into(),
            tokens_to_store: None,
        }
    }
}

impl RefreshError {
    /// Creates the error for a response that has tokens, but cannot be used.
    fn after_response(
        error: GrantError,
        response: &ResponseContext<'_>,
        before: &TokenSet,
    ) -> Self {
        let verdict = Verdict::of(error.class());
        // If the response contains tokens, `GrantEnded` means that the tokens belong to another
        // user, so the gateway must not keep the tokens.
        let kept = (verdict != Verdict::GrantEnded).then(|| {
            let new = response.answer.refresh_token.as_ref()?;
            before.with_refresh_token(new.expose()).ok()
        });
        let requested_at = response.requested_at;
        // The provider would probably send the same response again, so the next refresh has to
        // wait.
        let floor = requested_at.plus(schedule::MIN_REFRESH_INTERVAL);
        let tokens_to_store = kept
            .flatten()
            .map(|kept| kept.not_before(floor, requested_at));
        Self {
            verdict,
            error: error.into(),
            tokens_to_store: tokens_to_store.map(Box::new),
        }
    }
}

impl Provider {
    /// Returns the longest time between the request of a refresh and its answer.
    pub(crate) fn refresh_deadline(&self) -> Duration {
        Duration::from_secs(self.settings.refresh.deadline_secs.get().into())
    }

    /// Exchanges the refresh token of a session for new tokens. A refresh makes one call to the
    /// token endpoint. A refresh also fetches keys if the verification of an ID token in the
    /// response needs new keys. The gateway sends no request if the breaker is open, if the
    /// provider has asked for a pause, or if all remaining calls are reserved for logins.
    ///
    /// If the response is lost, the gateway cannot know whether the provider has used up the
    /// refresh token. A lost response is a temporary failure, and the next refresh uses the same
    /// refresh token. A provider with a grace period accepts a used refresh token again for a short
    /// time. If a used refresh token arrives again, a provider without a grace period responds that
    /// the grant has ended.
    ///
    /// # Errors
    ///
    /// [`RefreshError`] contains the verdict for the session and the cause. If the verdict is
    /// [`Verdict::Temporary`], the [`Classification`] of the cause may contain the time until the
    /// next attempt.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe. If the future is dropped, the provider may have used up the refresh token,
    /// and the new refresh token is lost. The caller should run the future in a task that can
    /// outlive every request.
    pub async fn refresh(
        &self,
        request: &RefreshRequest<'_>,
        clock: &Clock,
    ) -> Result<Refreshed, RefreshError> {
        let refresh_token = request.tokens.refresh_token();
        let refresh_token = refresh_token.ok_or(TokenCallError::NoRefreshToken)?;
        let info = self.info().map_err(TokenCallError::from)?;
        let answered = self.exchange(&info, refresh_token, request, clock).await?;
        let response = ResponseContext {
            info: &info,
            answer: &answered.answer,
            requested_at: answered.requested_at,
        };
        let verified = self
            .grant_verifier
            .refreshed(&response, request, clock)
            .await;
        verified.map_err(|error| RefreshError::after_response(error, &response, request.tokens))
    }

    /// Calls the token endpoint with a refresh token, if the breaker and the limiter allow the
    /// call.
    async fn exchange(
        &self,
        info: &ProviderInfo,
        refresh_token: &Secret<String>,
        request: &RefreshRequest<'_>,
        clock: &Clock,
    ) -> Result<Answered, TokenCallError> {
        let breaker_open = |retry_after| TokenCallError::BreakerOpen { retry_after };
        // If the breaker is open, the function returns an error and does not wait for a slot. The
        // breaker may also open during the wait for a slot, so `admit` checks the breaker again.
        self.breaker.check(clock.now()).map_err(breaker_open)?;
        let _slot = self
            .call_slot(GrantType::RefreshToken, request.replicas)
            .await?;
        // The process may also have been stopped for a while.
        if clock.instant() > request.latest {
            return Err(TokenCallError::Busy);
        }
        let requested_at = clock.now();
        self.check_rate((GrantType::RefreshToken, request.replicas), requested_at)?;
        let (uri, client_auth) = (info.token.uri(), &info.client_auth);
        let request = self
            .format
            .refresh(uri, client_auth, refresh_token, requested_at)?;
        // `admit` must be the last check before the call. If `admit` allows a probe, the breaker
        // waits for the result of the probe. If a later check prevented the call, the breaker would
        // get no result for the probe.
        let attempt = self.breaker.admit(requested_at).map_err(breaker_open)?;
        let answer = self
            .call_token_endpoint(info, GrantType::RefreshToken, request, clock)
            .await;
        let answer =
            answer.inspect_err(|error| self.record_error(attempt, error.class(), clock))?;
        Ok(Answered {
            answer,
            requested_at,
        })
    }

    /// Reports a failed call to the breaker. The breaker counts a refusal as a success, because a
    /// refusal shows that the provider works.
    fn record_error(&self, attempt: Attempt, class: Classification, clock: &Clock) {
        if class.passes {
            let (now, fraction) = (clock.now(), schedule::random_fraction());
            self.breaker
                .failed(attempt, now, class.retry_after, fraction);
        } else {
            self.breaker.succeeded();
        }
    }
}

/// A token response, and the time when its request was sent.
struct Answered {
    answer: TokenResponse,
    requested_at: Timestamp,
}
