//! The sign-out at the provider: the end of the user's session there (OpenID Connect RP-Initiated
//! Logout 1.0), and the revocation of a token (RFC 7009, or the provider's own request).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{StatusCode, header};
use tokio::time::sleep;
use url::Url;

use super::authorization::Prompt;
use super::json;
use super::settings::{AnotherAccount, Discovery, IdentitySource, RevokedToken, Settings};
use super::token::TokenRequest;
use super::{NotReady, Provider, SetupError, TokenCallError, profile};
use crate::clock::Clock;
use crate::origin;
use crate::secret::Secret;
use crate::telemetry::chain;
use crate::token::TokenSet;

/// The largest number of concurrent revocations at one provider. Revocations do not use the slots of
/// token requests, so a slow revocation endpoint delays no login and no refresh.
pub(super) const MAX_REVOCATIONS: usize = 4;

/// The time limit of one revocation.
const DEADLINE: Duration = Duration::from_secs(5);

/// The pauses before the second and each later attempt to revoke a refresh token.
const PAUSES: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_mins(1),
];

/// The longest wait that the gateway accepts from a provider that asks for a later revocation.
const MAX_WAIT: Duration = Duration::from_mins(1);

/// The longest `logout_hint`, in bytes. A longer claim is not sent, because the URL would become too
/// long.
const MAX_LOGOUT_HINT: usize = 256;

/// The parameters of a request to the end-session endpoint that differ between sign-outs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndSession<'a> {
    /// The last ID token of the session. The provider accepts an expired ID token.
    pub(crate) id_token: Option<&'a Secret<String>>,
    /// The claim that tells the provider which user signs out ([`Provider::logout_hint`]).
    pub(crate) logout_hint: Option<&'a str>,
    /// The absolute URL to which the provider sends the browser after the sign-out.
    pub(crate) return_to: &'a str,
    /// The opaque value that the provider sends back.
    pub(crate) state: &'a str,
}

/// The reason why a token was not revoked.
#[derive(Debug, thiserror::Error)]
enum RevocationError {
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
    /// The request could not be created.
    #[error(transparent)]
    Request(#[from] TokenCallError),
}

impl RevocationError {
    /// Returns the pause before the next attempt. `None` means that a further attempt would fail,
    /// too.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Call(_) | Self::NotReady(_) => Some(Duration::ZERO),
            Self::Later(wait) => Some(*wait),
            Self::Refused(_) | Self::Request(_) => None,
        }
    }
}

/// Refuses a sign-out setting that can never have an effect.
pub(super) fn check(settings: &Settings) -> Result<(), SetupError> {
    let from_metadata = settings.discovery != Discovery::None;
    let sign_out = &settings.sign_out;
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
        if key == "sign_out.revoke" && sign_out.revocation_request.is_some() {
            check_own_revocation(settings)?;
            continue;
        }
        match (wanted, endpoint) {
            (Some(true), None) if !from_metadata => {
                return refuse(
                    key,
                    "is true, but neither the settings nor metadata name the endpoint; write \
                     end_session_endpoint or revocation_endpoint",
                );
            }
            (Some(false), None) if !from_metadata => {
                let problem = "has no effect, because neither the settings nor metadata name the \
                               endpoint";
                return refuse(key, problem);
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
    check_end_session(settings)
}

/// Refuses settings that contradict the provider's own request for a revocation.
fn check_own_revocation(settings: &Settings) -> Result<(), SetupError> {
    let refuse = |key, problem| Err(SetupError::Setting { key, problem });
    if settings.revocation_endpoint.is_some() {
        let problem = "has no effect, because sign_out.revocation_request replaces it";
        return refuse("revocation_endpoint", problem);
    }
    // An operator can switch off the request of a profile, but cannot remove it.
    let profile = settings.profile.as_deref().and_then(profile::find);
    let is_of_profile = profile.is_some_and(|text| text.contains("revocation_request"));
    if settings.sign_out.revoke == Some(false) && !is_of_profile {
        let problem = "has no effect, because sign_out.revoke is false";
        return refuse("sign_out.revocation_request", problem);
    }
    Ok(())
}

/// Refuses settings of the end-session endpoint that can never have an effect.
fn check_end_session(settings: &Settings) -> Result<(), SetupError> {
    let sign_out = &settings.sign_out;
    let known = settings.discovery != Discovery::None || settings.end_session_endpoint.is_some();
    let is_used = known && sign_out.end_session != Some(false);
    let refuse = |key, problem| Err(SetupError::Setting { key, problem });
    if sign_out.another_account == Some(AnotherAccount::EndSession) && !is_used {
        let problem = "is \"end_session\", but a sign-out uses no end-session endpoint";
        return refuse("sign_out.another_account", problem);
    }
    if sign_out.page.is_some() && is_used {
        let problem = "has no effect, because a sign-out uses the end-session endpoint; without this \
                       endpoint, write sign_out.end_session = false";
        return refuse("sign_out.page", problem);
    }
    if sign_out.logout_hint.is_none() {
        return Ok(());
    }
    let key = "sign_out.logout_hint";
    if sign_out.logout_hint.as_deref() == Some("") {
        return refuse(key, "is empty; write the name of a claim of the ID token");
    }
    if !is_used {
        let problem = "has no effect, because a sign-out uses no end-session endpoint";
        return refuse(key, problem);
    }
    if settings.identity.source != IdentitySource::IdToken {
        let problem = "has no effect, because identity.source is not \"id_token\", so sessions keep \
                       no ID token";
        return refuse(key, problem);
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
        if let Some(logout_hint) = request.logout_hint {
            query.append_pair("logout_hint", logout_hint);
        }
        query
            .append_pair("client_id", &self.settings.client_id)
            .append_pair("post_logout_redirect_uri", request.return_to)
            .append_pair("state", request.state);
        drop(query);
        Some(url)
    }

    /// Returns true if the provider has an end-session endpoint, and the settings do not switch its
    /// use off. Before the metadata has been read, the function assumes that the metadata contains
    /// the endpoint.
    pub(crate) fn ends_sessions(&self) -> bool {
        let is_wanted = self.settings.sign_out.end_session != Some(false);
        self.info()
            .map_or(is_wanted, |info| info.end_session.is_some())
    }

    /// Returns the value of the parameter `logout_hint` for the user of an ID token. Returns `None`
    /// if the settings name no claim, or if the ID token does not contain the claim as a text.
    pub(crate) fn logout_hint(&self, id_token: Option<&Secret<String>>) -> Option<String> {
        let claim = self.settings.sign_out.logout_hint.as_deref()?;
        // The login has verified the ID token.
        let payload = id_token?.expose().split('.').nth(1)?;
        let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
        let claims = json::object(&payload).ok()?;
        let hint = claims.get(claim)?.as_str()?;
        (1..=MAX_LOGOUT_HINT)
            .contains(&hint.len())
            .then(|| hint.to_owned())
    }

    /// Returns the `prompt` of the next login of a user who wants to use another account. Returns
    /// `None` if the provider ends its session instead.
    pub(crate) fn prompt_for_another_account(&self) -> Option<Prompt> {
        match self.settings.sign_out.another_account {
            Some(AnotherAccount::Login) => Some(Prompt::Login),
            Some(AnotherAccount::SelectAccount) => Some(Prompt::SelectAccount),
            None | Some(AnotherAccount::EndSession) => {
                (!self.ends_sessions()).then_some(Prompt::Login)
            }
        }
    }

    /// Returns the page at which a user signs out at the provider, if a sign-out uses no end-session
    /// endpoint.
    pub(crate) fn sign_out_page(&self) -> Option<Url> {
        self.info().ok()?.sign_out_page.clone()
    }

    /// Returns the token of an ended session that [`Provider::revoke`] revokes.
    pub(crate) fn token_to_revoke(&self, tokens: &TokenSet) -> Option<Secret<String>> {
        match self.revoked_token() {
            RevokedToken::AccessToken => Some(Secret::new(tokens.access_token().to_owned())),
            RevokedToken::RefreshToken => tokens.refresh_token().cloned(),
        }
    }

    fn revoked_token(&self) -> RevokedToken {
        let own = self.settings.sign_out.own_revocation();
        own.map_or(RevokedToken::RefreshToken, |own| own.token)
    }

    /// Returns true if a sign-out revokes a token at this provider. Before the metadata has
    /// been read, the function assumes that the metadata contains the endpoint.
    fn revokes(&self) -> bool {
        let is_wanted = self.settings.sign_out.revoke != Some(false);
        self.info()
            .map_or(is_wanted, |info| info.revocation.is_some())
    }

    /// Revokes a token with the provider's own request, or as RFC 7009 section 2 describes. Does
    /// nothing if the provider has neither of the two, or if the settings switch revocations off.
    /// After a temporary failure, the function pauses and tries again, up to three times. The last
    /// failure is logged. `session` is the part of the session key that the log contains.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the token may still be valid.
    pub(crate) async fn revoke(&self, token: &Secret<String>, clock: &Clock, session: &str) {
        if !self.revokes() {
            return;
        }
        let mut pauses = PAUSES.into_iter();
        loop {
            let provider = self.name();
            let is_access_token = self.revoked_token() == RevokedToken::AccessToken;
            let Err(error) = self.call_revocation(token, clock).await else {
                if is_access_token {
                    tracing::info!(session.key = session, provider, "Access token revoked");
                } else {
                    tracing::info!(session.key = session, provider, "Refresh token revoked");
                }
                return;
            };
            let Some((asked, pause)) = error.retry_after().zip(pauses.next()) else {
                let (key, error) = (session, chain(&error));
                if is_access_token {
                    tracing::warn!(
                        session.key = key,
                        provider,
                        error,
                        "Access token not revoked"
                    );
                } else {
                    tracing::warn!(
                        session.key = key,
                        provider,
                        error,
                        "Refresh token not revoked"
                    );
                }
                return;
            };
            sleep(pause.max(asked)).await;
        }
    }

    async fn call_revocation(
        &self,
        token: &Secret<String>,
        clock: &Clock,
    ) -> Result<(), RevocationError> {
        let info = self.info()?;
        let Some(revocation) = &info.revocation else {
            return Ok(());
        };
        // The semaphore is never closed.
        let _slot = self.revocations.acquire().await;
        let endpoint = &revocation.endpoint;
        let (uri, client_auth) = (endpoint.uri(), &info.client_auth);
        let own = self.settings.sign_out.own_revocation();
        let own = own.zip(revocation.own_authorization.as_ref());
        let request = match own {
            Some((own, authorization)) => {
                TokenRequest::own_revocation(uri, own, authorization, token)
            }
            None => TokenRequest::revocation(uri, client_auth, token, clock.now())?,
        };
        let response = endpoint.call_within(DEADLINE, request).await;
        let response = response.map_err(RevocationError::Call)?;
        match response.status() {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            status if own.is_some() && status.is_success() => Ok(()),
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
