//! New tokens for a refresh token (RFC 6749 section 6).
//!
//! One call, never repeated: a server may have exchanged the refresh token before the connection
//! broke, and takes its second use for a thief's. What an answer means for the session is decided
//! here, from the status, the well-formed `error` and the profile's rows, and is never more than
//! what the server has said: that something failed ends nobody's session.

use super::breaker::Attempt;
use super::grant::Response;
use super::schedule;
use super::settings::GrantType;
use super::{Error, Provider};
use crate::clock::Clock;
use crate::identity::Identity;
use crate::secret::Secret;
use crate::token::TokenSet;

/// What a session has.
#[derive(Clone, Copy, Debug)]
pub struct Refreshing<'a> {
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
pub struct Unrefreshed {
    /// What happened.
    #[source]
    pub error: Error,
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
    Fatal,
    /// The gateway itself is refused, or cannot believe what comes: an operator has to act. The
    /// session stays.
    Ours,
    /// It passes: the session stays, and its refresh is tried again later, with the same refresh
    /// token.
    Passing,
}

impl Verdict {
    fn of(error: &Error) -> Self {
        match error {
            Error::OtherPerson | Error::RefreshRefused(_) => Self::Fatal,
            Error::Answer(_)
            | Error::Busy
            | Error::Call(_)
            | Error::Keys(_)
            | Error::KeysCall(_)
            | Error::KeysJustFetched
            | Error::KeysStatus(_)
            | Error::LeftAlone { .. }
            | Error::NotReady
            | Error::OutOfReach { .. }
            | Error::RateLimited { .. }
            | Error::Throttled { .. }
            | Error::Token(_)
            | Error::Unavailable { .. }
            | Error::Userinfo(_) => Self::Passing,
            Error::AccessToken(_)
            | Error::Assertion(_)
            | Error::EmptyFile { .. }
            | Error::IdToken(_)
            | Error::KeySet { .. }
            | Error::Metadata { .. }
            | Error::Misconfigured(_)
            | Error::NoIdToken
            | Error::NoRefreshToken
            | Error::NoSubject
            | Error::OtherSubject
            | Error::PrivateKey { .. }
            | Error::PublicKey { .. }
            | Error::Read { .. }
            | Error::Redirected { .. }
            | Error::Refused(_)
            | Error::ResponseIssuer
            | Error::Setting { .. }
            | Error::SignedUserinfo(_)
            | Error::Trust(_) => Self::Ours,
        }
    }
}

impl From<Error> for Unrefreshed {
    /// Nothing came that could be salvaged.
    fn from(error: Error) -> Self {
        let verdict = Verdict::of(&error);
        Self {
            error,
            verdict,
            salvaged: None,
        }
    }
}

impl Unrefreshed {
    /// The answer came, and something in it cannot be used.
    fn by(error: Error, response: &Response<'_>, before: &TokenSet) -> Self {
        let mut unrefreshed = Self::from(error);
        // Of somebody else's tokens nothing is kept.
        if unrefreshed.verdict != Verdict::Fatal {
            let new = response.answer.refresh_token.as_ref();
            let asked_at = response.asked_at;
            let floor = asked_at.plus(schedule::FLOOR);
            let keep = |new: &Secret<String>| before.with_refresh_token(new.expose()).ok();
            let salvaged = new
                .and_then(keep)
                .map(|kept| kept.not_before(floor, asked_at));
            unrefreshed.salvaged = salvaged.map(Box::new);
        }
        unrefreshed
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
    /// [`Unrefreshed`]: what follows for the session, and why. With [`Verdict::Passing`] its error
    /// says when to come back, where that is known ([`Error::retry_after`]).
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: when the future is dropped the refresh token may be used up and the new one
    /// lost. Run it as a task that outlives every request.
    pub async fn refresh(
        &self,
        asked: &Refreshing<'_>,
        clock: &Clock,
    ) -> Result<Refreshed, Unrefreshed> {
        let asked_with = asked.tokens.refresh_token();
        let refresh_token = asked_with.ok_or(Error::NoRefreshToken)?;
        let known = self.known()?;
        let left_alone = |retry_after| Error::LeftAlone { retry_after };
        self.breaker.check(clock.now()).map_err(left_alone)?;
        let _place = self.place(GrantType::RefreshToken).await?;
        let asked_at = clock.now();
        let attempt = self.breaker.admit(asked_at).map_err(left_alone)?;
        self.admit(GrantType::RefreshToken, asked_at)?;
        let (uri, client_auth) = (known.token.uri(), &known.client_auth);
        let request = self
            .format
            .refresh(uri, client_auth, refresh_token, asked_at)?;
        let answer = self
            .ask(&known, (GrantType::RefreshToken, request), clock)
            .await;
        let answer = answer.inspect_err(|error| self.count(attempt, error, clock))?;
        let response = Response {
            known: &known,
            answer: &answer,
            asked_at,
        };
        let judged = self.judge.renewed(&response, asked, clock).await;
        judged.map_err(|error| Unrefreshed::by(error, &response, asked.tokens))
    }

    /// A refusal is an answer as good as any; what passes is none.
    fn count(&self, attempt: Attempt, error: &Error, clock: &Clock) {
        if Verdict::of(error) == Verdict::Passing {
            let (now, fraction) = (clock.now(), schedule::fraction());
            self.breaker
                .failed(attempt, now, error.retry_after(), fraction);
        } else {
            self.breaker.succeeded();
        }
    }
}
