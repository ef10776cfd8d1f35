//! The sign-out at the provider: the end of the user's session there (OpenID Connect RP-Initiated
//! Logout 1.0), and the revocation of the refresh token (RFC 7009).

use std::time::Duration;

use http::{StatusCode, header};
use url::Url;

use super::settings::{Discovery, GrantType, Settings};
use super::token::TokenRequest;
use super::{NotReady, Provider, SetupError, TokenCallError};
use crate::clock::Clock;
use crate::origin;
use crate::secret::Secret;

/// The longest wait that the gateway accepts from a provider that asks for a later revocation.
const MAX_WAIT: Duration = Duration::from_mins(1);

/// The parameters of a request to the end-session endpoint that differ between sign-outs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndSession<'a> {
    /// The last ID token of the session. The provider accepts an expired ID token.
    pub(crate) id_token: Option<&'a Secret<String>>,
    /// The absolute URL to which the provider sends the browser after the sign-out.
    pub(crate) return_to: &'a str,
    /// The opaque value that the provider sends back.
    pub(crate) state: &'a str,
}

/// The reason why a refresh token was not revoked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RevocationError {
    /// The revocation endpoint could not be called.
    #[error("the call failed")]
    Call(#[source] origin::Error),
    /// The provider asks for a later attempt.
    #[error("the provider asks for a later attempt")]
    Later(Duration),
    /// The metadata has not been read yet.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// The provider refused the request.
    #[error("the provider answered with status {0}")]
    Refused(StatusCode),
    /// The request could not be created, or all slots for calls are in use.
    #[error(transparent)]
    Request(#[from] TokenCallError),
}

impl RevocationError {
    /// Returns the pause before the next attempt. `None` means that a further attempt would fail,
    /// too.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Call(_) | Self::NotReady(_) => Some(Duration::ZERO),
            Self::Later(wait) => Some(*wait),
            Self::Request(TokenCallError::Busy) => Some(Duration::ZERO),
            Self::Refused(_) | Self::Request(_) => None,
        }
    }
}

/// Refuses a sign-out setting that can never have an effect.
pub(super) fn check(settings: &Settings) -> Result<(), SetupError> {
    let from_metadata = settings.discovery != Discovery::None;
    let sign_out = settings.sign_out;
    for (key, wanted, endpoint_key, endpoint) in [
        (
            "sign_out.end_session",
            sign_out.end_session,
            "end_session_endpoint",
            &settings.end_session_endpoint,
        ),
        (
            "sign_out.revoke",
            sign_out.revoke,
            "revocation_endpoint",
            &settings.revocation_endpoint,
        ),
    ] {
        let refuse = |key, problem| Err(SetupError::Setting { key, problem });
        match (wanted, endpoint) {
            (Some(true), None) if !from_metadata => {
                return refuse(
                    key,
                    "is true, but neither the settings nor metadata name the endpoint; write \
                     end_session_endpoint or revocation_endpoint",
                );
            }
            (Some(false), Some(_)) => {
                return refuse(
                    endpoint_key,
                    "has no effect, because sign_out switches its use off",
                );
            }
            (None | Some(_), _) => {}
        }
    }
    Ok(())
}

impl Provider {
    /// Returns the URL at which the provider ends the session of the user (OpenID Connect
    /// RP-Initiated Logout 1.0 section 2). Returns `None` if the provider has no end-session
    /// endpoint, if the settings switch its use off, or if the metadata has not been read yet.
    pub(crate) fn end_session_url(&self, request: EndSession<'_>) -> Option<Url> {
        let mut url = self.info().ok()?.end_session.clone()?;
        let mut query = url.query_pairs_mut();
        if let Some(id_token) = request.id_token {
            query.append_pair("id_token_hint", id_token.expose());
        }
        query
            .append_pair("client_id", &self.settings.client_id)
            .append_pair("post_logout_redirect_uri", request.return_to)
            .append_pair("state", request.state);
        drop(query);
        Some(url)
    }

    /// Returns true if a sign-out revokes the refresh token at this provider.
    pub(crate) fn revokes(&self) -> bool {
        self.info().is_ok_and(|info| info.revocation.is_some())
    }

    /// Revokes a refresh token with one call to the revocation endpoint (RFC 7009 section 2). Does
    /// nothing if the provider has no revocation endpoint, or if the settings switch its use off.
    ///
    /// # Errors
    ///
    /// [`RevocationError`]. The refresh token may still be valid.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the caller does not know whether the token was revoked. The caller
    /// may revoke the token again.
    pub(crate) async fn revoke(
        &self,
        refresh_token: &Secret<String>,
        clock: &Clock,
    ) -> Result<(), RevocationError> {
        let info = self.info()?;
        let Some(endpoint) = &info.revocation else {
            return Ok(());
        };
        let _slot = self.call_slot(GrantType::RefreshToken).await?;
        let (uri, client_auth) = (endpoint.uri(), &info.client_auth);
        let request = TokenRequest::revocation(uri, client_auth, refresh_token, clock.now())?;
        let response = endpoint.call(request).await;
        let response = response.map_err(RevocationError::Call)?;
        match response.status() {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                let wait = response.headers().get(header::RETRY_AFTER);
                let wait = wait.and_then(|wait| wait.to_str().ok()?.parse().ok());
                let wait = Duration::from_secs(wait.unwrap_or_default());
                Err(RevocationError::Later(wait.min(MAX_WAIT)))
            }
            status => Err(RevocationError::Refused(status)),
        }
    }
}
