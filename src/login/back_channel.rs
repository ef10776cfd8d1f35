//! Ends the sessions that a provider or an app names: back-channel logout (OpenID Connect
//! Back-Channel Logout 1.0).
//!
//! The caller is another program, so the caller has no session and no cookie. A logout token
//! contains the proof of its origin. The gateway does not revoke the tokens of the ended sessions at
//! the provider, because the provider itself has ended its session (section 2.7 of the
//! specification).

use std::net::IpAddr;
use std::sync::Arc;

use super::revocation::WebhookError;
use super::throttle::ThrottleDecision;
use super::{Error, Login, USED_FOR};
use crate::provider::{LogoutClaims, LogoutTokenError, Provider, unverified_issuer};
use crate::session::{EndReason, EndedAll, LogoutNotice, SessionsOf};

/// The reason why a request to end sessions had no effect.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogoutRefusal {
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
            Self::Invalid(error) | Self::Unverified(error) => error.reason(),
            Self::OtherIssuer => "logout_token_issuer",
            Self::Repeated => "repeated",
            Self::TooMany => "too_many_logouts_refused",
            Self::Failed(error) => error.reason(),
            Self::Webhook(error) => error.reason(),
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
        self.limited(client, async move {
            // The future is boxed, because the fetch of the keys makes it large.
            let (provider, claims) = Box::pin(login.verified_logout(&token)).await?;
            login.end_named(&provider, &claims).await
        })
        .await
    }

    /// Runs a request to end sessions as a task of the control plane. A client that has sent too
    /// many invalid requests has to wait.
    pub(super) async fn limited(
        &self,
        client: IpAddr,
        work: impl Future<Output = Result<(), LogoutRefusal>> + Send + 'static,
    ) -> Result<(), LogoutRefusal> {
        let (throttle, now) = (&self.process.refused_ends, self.process.clock.now());
        if throttle.check(client, now) == ThrottleDecision::TooManyRefused {
            return Err(LogoutRefusal::TooMany);
        }
        let done = self.process.on_control_plane(async move { Ok(work.await) });
        let done = done.await.map_err(LogoutRefusal::Failed)?;
        if let Err(
            LogoutRefusal::Invalid(_) | LogoutRefusal::OtherIssuer | LogoutRefusal::Webhook(_),
        ) = &done
        {
            throttle.note_refused(client, now);
        }
        done
    }

    /// Verifies a logout token with the keys of its provider. Several providers of the settings can
    /// be clients of the same issuer, and only the provider with the audience of the token accepts
    /// the token.
    async fn verified_logout(
        &self,
        token: &str,
    ) -> Result<(Arc<Provider>, LogoutClaims), LogoutRefusal> {
        let issuer = unverified_issuer(token).unwrap_or_default();
        let mut refusal = LogoutRefusal::OtherIssuer;
        for provider in self.providers.values() {
            if !provider.may_send_logout_tokens_as(&issuer) {
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

    async fn end_named(
        &self,
        provider: &Provider,
        claims: &LogoutClaims,
    ) -> Result<(), LogoutRefusal> {
        let issuer = &claims.issuer;
        let of = match (&claims.sid, &claims.subject) {
            // A `sid` is more exact than a `sub`: the other sessions of the user continue.
            (Some(sid), _) => SessionsOf::ProviderSession { issuer, sid },
            (None, subject) => SessionsOf::User {
                issuer,
                subject: subject.as_deref().unwrap_or_default(),
            },
        };
        let why = EndReason::SignedOutAtProvider;
        // The provider gets the same answer to a repeated token.
        let ended = self.end_once(provider, (of, claims.id), why).await?;
        let (EndedAll::Ended(_) | EndedAll::Repeated) = ended;
        Ok(())
    }

    /// Ends a group of sessions, unless the notice with the hash `id` has already had its effect.
    pub(super) async fn end_once(
        &self,
        provider: &Provider,
        (of, id): (SessionsOf<'_>, [u8; 32]),
        why: EndReason,
    ) -> Result<EndedAll, LogoutRefusal> {
        let now = self.process.clock.now();
        let notice = LogoutNotice {
            mark: id,
            until: now.plus(USED_FOR),
        };
        let ended = self.process.sessions.end_all(of, why, (Some(notice), now));
        let ended = ended.await.map_err(Error::from);
        let provider = provider.name();
        let ended = ended.map_err(LogoutRefusal::Failed)?;
        match &ended {
            EndedAll::Ended(keys) => {
                let (sessions, reason) = (keys.len(), why.reason());
                tracing::info!(provider, sessions, reason, "Sessions ended by request");
            }
            EndedAll::Repeated => tracing::info!(provider, "Repeated request to end sessions"),
        }
        Ok(ended)
    }
}
