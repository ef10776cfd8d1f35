//! New tokens for a refresh token (RFC 6749 section 6).
//!
//! One call, never repeated: a server may have exchanged the refresh token before the connection
//! broke, and takes its second use for a thief's. What an answer means for the session is decided
//! here, from the status, the well-formed `error` and the profile's rows, and is never more than
//! what the server has said: that something failed ends nobody's session.

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

/// What a session has.
#[derive(Clone, Copy, Debug)]
pub struct RefreshRequest<'a> {
    /// Its tokens.
    pub tokens: &'a TokenSet,
    /// Whose it is.
    pub identity: &'a Identity,
}

/// What a refresh brought.
#[derive(Debug)]
#[must_use = "the tokens that were before may be dead"]
pub struct Refreshed {
    /// The new tokens; the refresh token is the old one where the answer has none.
    pub tokens: TokenSet,
    /// What is said of the same person now; `None` when what was known stays.
    pub identity: Option<Identity>,
}

/// Why a refresh brought no tokens, and what follows for the session.
#[derive(Debug, thiserror::Error)]
#[error("the tokens were not refreshed")]
#[must_use = "it may end the session"]
pub struct RefreshError {
    /// What happened.
    #[source]
    pub error: ExchangeError,
    /// What follows.
    pub verdict: Verdict,
    /// The old access token with a new refresh token, where the server has exchanged the refresh
    /// token and only what else it sent cannot be used. It has to be kept: the old refresh token
    /// is dead.
    pub salvaged: Option<Box<TokenSet>>,
}

/// What a refresh that failed means for the session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Verdict {
    /// The grant is gone: the session ends, and a new login helps.
    GrantEnded,
    /// The gateway itself is refused, or cannot believe what comes: an operator has to act. The
    /// session stays.
    OperatorMustAct,
    /// It passes: the session stays, and its refresh is tried again later, with the same refresh
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
    /// No answer came that anything could be salvaged of.
    fn from(error: TokenCallError) -> Self {
        Self {
            verdict: Verdict::of(error.class()),
            error: error.into(),
            salvaged: None,
        }
    }
}

impl RefreshError {
    /// The answer came, and something in it cannot be used.
    fn by(error: GrantError, response: &ResponseContext<'_>, before: &TokenSet) -> Self {
        let verdict = Verdict::of(error.class());
        // Of somebody else's tokens nothing is kept.
        let kept = (verdict != Verdict::GrantEnded).then(|| {
            let new = response.answer.refresh_token.as_ref()?;
            before.with_refresh_token(new.expose()).ok()
        });
        let requested_at = response.requested_at;
        let floor = requested_at.plus(schedule::MIN_REFRESH_INTERVAL);
        let salvaged = kept
            .flatten()
            .map(|kept| kept.not_before(floor, requested_at));
        Self {
            verdict,
            error: error.into(),
            salvaged: salvaged.map(Box::new),
        }
    }
}

impl Provider {
    /// Exchanges the refresh token of a session for new tokens: one call to the token endpoint, and
    /// where the answer has an ID token what it takes to believe it. Nothing is sent while the
    /// server is left alone, asks for fewer calls, or the calls that logins need would be used up.
    ///
    /// An answer that was lost may have used up the refresh token, and nobody can know: it passes,
    /// and the next try, with the same refresh token, tells. A server with a grace period answers it;
    /// any other says that the grant is gone.
    ///
    /// # Errors
    ///
    /// [`RefreshError`]: what follows for the session, and why. With [`Verdict::Temporary`] the
    /// [`Classification`] of its error says when to come back, where that is known.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: when the future is dropped the refresh token may be used up and the new one
    /// lost. Run it as a task that outlives every request.
    pub async fn refresh(
        &self,
        asked: &RefreshRequest<'_>,
        clock: &Clock,
    ) -> Result<Refreshed, RefreshError> {
        let refresh_token = asked.tokens.refresh_token();
        let refresh_token = refresh_token.ok_or(TokenCallError::NoRefreshToken)?;
        let info = self.info().map_err(TokenCallError::from)?;
        let answered = self.exchange(&info, refresh_token, clock).await?;
        let response = ResponseContext {
            info: &info,
            answer: &answered.answer,
            requested_at: answered.requested_at,
        };
        let judged = self.grant_verifier.refreshed(&response, asked, clock).await;
        judged.map_err(|error| RefreshError::by(error, &response, asked.tokens))
    }

    /// Calls the token endpoint with a refresh token, if the server may be called at all.
    async fn exchange(
        &self,
        info: &ProviderInfo,
        refresh_token: &Secret<String>,
        clock: &Clock,
    ) -> Result<Answered, TokenCallError> {
        let breaker_open = |retry_after| TokenCallError::BreakerOpen { retry_after };
        self.breaker.check(clock.now()).map_err(breaker_open)?;
        let _slot = self.call_slot(GrantType::RefreshToken).await?;
        let requested_at = clock.now();
        let attempt = self.breaker.admit(requested_at).map_err(breaker_open)?;
        self.admit(GrantType::RefreshToken, requested_at)?;
        let (uri, client_auth) = (info.token.uri(), &info.client_auth);
        let request = self
            .format
            .refresh(uri, client_auth, refresh_token, requested_at)?;
        let answer = self
            .ask(info, GrantType::RefreshToken, request, clock)
            .await;
        let answer = answer.inspect_err(|error| self.count(attempt, error.class(), clock))?;
        Ok(Answered {
            answer,
            requested_at,
        })
    }

    /// A refusal is an answer as good as any; what passes is none.
    fn count(&self, attempt: Attempt, class: Classification, clock: &Clock) {
        if class.passes {
            let (now, fraction) = (clock.now(), schedule::random_fraction());
            self.breaker
                .failed(attempt, now, class.retry_after, fraction);
        } else {
            self.breaker.succeeded();
        }
    }
}

/// An answer of the token endpoint, and when it was asked for.
struct Answered {
    answer: TokenResponse,
    requested_at: Timestamp,
}
