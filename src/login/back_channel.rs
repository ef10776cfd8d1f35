//! Ends the sessions that a provider or an app names: back-channel logout (OpenID Connect
//! Back-Channel Logout 1.0).
//!
//! The caller is another program, so the caller has no session and no cookie. A logout token
//! contains the proof of its origin. The gateway does not revoke the tokens of the ended sessions at
//! the provider, because the provider itself has ended its session (section 2.7 of the
//! specification).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::revocation::WebhookError;
use super::throttle::{Throttle, ThrottleDecision};
use super::{Error, Login, USED_FOR};
use crate::clock::Timestamp;
use crate::provider::{LogoutClaims, LogoutTokenError, Provider, UnverifiedClaims};
use crate::session::{EndReason, EndedAll, LogoutNotice, SessionsOf, StoreError};

/// The pause after which the caller should try again, unless the gateway knows a better time.
const RETRY: Duration = Duration::from_secs(5);

/// The pause after which a client that has sent too many refused requests is no longer limited.
const TOO_MANY_RETRY: Duration = Duration::from_mins(1);

/// The reason why a request to end sessions had no effect.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogoutRefusal {
    /// The gateway already executes as many requests of this kind as it may. The caller should try
    /// again.
    #[error("the gateway executes too many requests to end sessions")]
    Busy,
    /// The request is not valid. The caller is responsible for this error.
    #[error("the logout token is not valid")]
    Invalid(#[source] LogoutTokenError),
    /// No provider of the settings has sent the token. The caller or the operator is responsible
    /// for this error.
    #[error("no provider of the settings has the issuer of the logout token")]
    OtherIssuer,
    /// The same request has already had its effect. The caller is responsible for this error.
    #[error("the same request has already had its effect")]
    Repeated,
    /// The client has sent too many invalid requests.
    #[error("the client has sent too many invalid requests")]
    TooMany,
    /// The store or the keys of the provider cannot be reached. The caller should try again.
    #[error("the sessions could not be ended")]
    Failed(#[source] Error),
    /// The keys of the provider cannot be reached. The caller should try again.
    #[error("the logout token could not be verified")]
    Unverified(#[source] LogoutTokenError),
    /// The request to the webhook is not valid. The caller is responsible for this error.
    #[error("the request is not valid")]
    Webhook(#[from] WebhookError),
}

impl LogoutRefusal {
    /// Returns the stable code of the error for logs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Busy => "logouts_busy",
            Self::Invalid(error) | Self::Unverified(error) => error.reason(),
            Self::OtherIssuer => "logout_token_issuer",
            Self::Repeated => "repeated",
            Self::TooMany => "too_many_logouts_refused",
            Self::Failed(error) => error.reason(),
            Self::Webhook(error) => error.reason(),
        }
    }

    /// Returns the time after which the caller should send the same request again. Returns `None`
    /// if the same request can have no effect later.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy | Self::Failed(_) => Some(RETRY),
            Self::Unverified(error) => Some(error.retry_after().unwrap_or(RETRY)),
            Self::TooMany => Some(TOO_MANY_RETRY),
            Self::Invalid(_) | Self::OtherIssuer | Self::Repeated | Self::Webhook(_) => None,
        }
    }

    /// Returns true if the request was not valid, or if the gateway could not verify it.
    fn is_suspicious(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::OtherIssuer | Self::Unverified(_) | Self::Webhook(_) => true,
            Self::Busy | Self::Failed(_) | Self::Repeated | Self::TooMany => false,
        }
    }
}

impl From<LogoutTokenError> for LogoutRefusal {
    fn from(error: LogoutTokenError) -> Self {
        if error.passes() {
            Self::Unverified(error)
        } else {
            Self::Invalid(error)
        }
    }
}

impl Login {
    /// Ends the sessions that a logout token names. If the same token has already had its effect,
    /// or if nobody has such a session, the function changes nothing and returns no error.
    /// `client` is the address of the caller.
    ///
    /// # Errors
    ///
    /// [`LogoutRefusal`]: no session has ended.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the logout continues.
    pub(crate) async fn back_channel_logout(
        self: &Arc<Self>,
        token: String,
        client: IpAddr,
    ) -> Result<(), LogoutRefusal> {
        let login = Arc::clone(self);
        let throttle = &self.process.refused_tokens;
        self.counted((throttle, client), |is_limited| async move {
            let turn = is_limited.then(|| login.limited_turn(&token)).transpose()?;
            // The future is boxed, because the fetch of the keys makes it large.
            let (provider, claims) = Box::pin(login.verified_logout(&token)).await?;
            drop(turn);
            login.end_of_token(&provider, &claims).await
        })
        .await
    }

    /// Runs a request to end sessions as a task of the control plane, and counts a refusal. `work`
    /// gets true if the client has sent too many refused requests. A valid request of such a client
    /// still has its effect, because other programs can share the address of the client.
    pub(super) async fn counted<W>(
        &self,
        (throttle, client): (&Throttle, IpAddr),
        work: impl FnOnce(bool) -> W,
    ) -> Result<(), LogoutRefusal>
    where
        W: Future<Output = Result<(), LogoutRefusal>> + Send + 'static,
    {
        let now = self.process.clock.now();
        let is_limited = throttle.check(client, now) == ThrottleDecision::TooManyRefused;
        let work = work(is_limited);
        let done = self.process.on_control_plane(async move { Ok(work.await) });
        let refusal = match done.await.map_err(LogoutRefusal::Failed)? {
            Err(refusal) if refusal.is_suspicious() => refusal,
            done => return done,
        };
        throttle.note_refused(client, now);
        // The same request can be valid later if the refusal has a time for the next attempt.
        if is_limited && refusal.retry_after().is_none() {
            return Err(LogoutRefusal::TooMany);
        }
        Err(refusal)
    }

    /// Decides whether the gateway verifies a logout token of a client that has sent too many
    /// refused tokens. The gateway verifies only few such tokens at the same time, and only tokens
    /// whose issuer and audience are in the settings.
    fn limited_turn(&self, token: &str) -> Result<OwnedSemaphorePermit, LogoutRefusal> {
        let claims = UnverifiedClaims::of(token).ok_or(LogoutRefusal::TooMany)?;
        let mut providers = self.providers.values();
        if !providers.any(|provider| provider.may_have_sent(&claims)) {
            return Err(LogoutRefusal::TooMany);
        }
        let turns = Arc::clone(&self.process.slow_verifications);
        turns
            .try_acquire_owned()
            .map_err(|_full| LogoutRefusal::Busy)
    }

    /// Verifies a logout token with the keys of its provider. Several providers of the settings can
    /// be clients of the same issuer, and only the provider with the audience of the token accepts
    /// the token.
    async fn verified_logout(
        &self,
        token: &str,
    ) -> Result<(Arc<Provider>, LogoutClaims), LogoutRefusal> {
        let claims = UnverifiedClaims::of(token);
        let issuer = claims.as_ref().and_then(UnverifiedClaims::issuer);
        let issuer = issuer.unwrap_or_default();
        let mut refusal = LogoutRefusal::OtherIssuer;
        for provider in self.providers.values() {
            if !provider.may_send_logout_tokens_as(issuer) {
                continue;
            }
            match provider.logout_claims(token, &self.process.clock).await {
                Ok(claims) => return Ok((Arc::clone(provider), claims)),
                // One of the providers cannot be reached, so the same token may be valid later.
                Err(_) if matches!(refusal, LogoutRefusal::Unverified(_)) => {}
                Err(error) => refusal = error.into(),
            }
        }
        Err(refusal)
    }

    /// Ends the sessions that a verified logout token names.
    async fn end_of_token(
        &self,
        provider: &Provider,
        claims: &LogoutClaims,
    ) -> Result<(), LogoutRefusal> {
        let (issuer, subject) = (&claims.issuer, claims.subject.as_deref());
        let of = match &claims.sid {
            // A `sid` is more exact than a `sub`: the sessions of the user that belong to another
            // `sid` continue.
            Some(sid) => SessionsOf::ProviderSession {
                issuer,
                sid,
                subject,
            },
            None => SessionsOf::User {
                issuer,
                subject: subject.unwrap_or_default(),
            },
        };
        let (why, now) = (EndReason::SignedOutAtProvider, self.process.clock.now());
        let notice = (Some(notice(claims.id, now)), now);
        let ended = self.process.sessions.end_all(of, why, notice).await;
        // The provider gets the same answer to a repeated token.
        let (EndedAll::Ended(_) | EndedAll::Repeated) = logged(provider, why, ended)?;
        Ok(())
    }
}

/// Returns the notice with the hash `mark`. The store recognizes the same notice for one hour.
pub(super) fn notice(mark: [u8; 32], now: Timestamp) -> LogoutNotice {
    LogoutNotice {
        mark,
        until: now.plus(USED_FOR),
    }
}

/// Logs the effect of a request to end sessions.
pub(super) fn logged(
    provider: &Provider,
    why: EndReason,
    ended: Result<EndedAll, StoreError>,
) -> Result<EndedAll, LogoutRefusal> {
    let ended = ended.map_err(|error| LogoutRefusal::Failed(error.into()))?;
    let provider = provider.name();
    match &ended {
        EndedAll::Ended(keys) => {
            let (sessions, reason) = (keys.len(), why.reason());
            tracing::info!(provider, sessions, reason, "Sessions ended by request");
        }
        EndedAll::Repeated => tracing::info!(provider, "Repeated request to end sessions"),
    }
    Ok(ended)
}
