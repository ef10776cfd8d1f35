//! The sign-out: ends the sessions of a browser, here and at the provider.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue};
use tokio::time::sleep;
use url::Url;

use super::pending::associated_data;
use super::{Error, Login, PublicUrl, browser};
use crate::clock::Clock;
use crate::fields::cookie as cookies;
use crate::provider::{EndSession, Provider};
use crate::secret::Secret;
use crate::session::{EndReason, Ended, Session, SessionId, cookie};
use crate::telemetry::chain;

/// The maximum number of sessions that one request signs out. In most cases, a browser sends one
/// session cookie. If a browser has stored session cookies for different paths, it can send several
/// session cookies in one request. `MAX_SIGNED_OUT` protects the store from a request with hundreds
/// of session cookies.
pub(super) const MAX_SIGNED_OUT: usize = 8;

/// The pauses before the second and each later attempt to revoke a refresh token.
const PAUSES: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_mins(1),
];

/// The longest accepted `state` of a sign-out, in bytes. The state contains the encrypted name of a
/// provider.
const MAX_STATE: usize = 1024;

/// A completed sign-out.
#[derive(Debug)]
pub(crate) struct SignedOut {
    /// The `Set-Cookie` values that delete the session cookie and the counter of logins in a row.
    pub(crate) cookies: [HeaderValue; 2],
    pub(crate) at_provider: AtProvider,
}

/// What happens to the session of the user at the provider.
#[derive(Debug)]
#[must_use]
pub(crate) enum AtProvider {
    /// The request belonged to no session, or the provider has no end-session endpoint.
    Continues,
    /// The browser has to open this URL. The provider then ends the session there.
    Ends {
        /// The configured name of the provider.
        provider: Box<str>,
        /// The URL of the end-session endpoint, with the ID token of the session.
        url: Secret<String>,
    },
    /// The provider could not be reached recently, so its session may continue.
    Unreachable {
        /// The configured name of the provider.
        provider: Box<str>,
        /// The URL of the end-session endpoint, without an ID token.
        url: Url,
    },
}

impl Login {
    /// Ends the sessions whose cookies the browser sent, but at most [`MAX_SIGNED_OUT`] sessions.
    /// The refresh tokens of the ended sessions are revoked by tasks of the control plane, after
    /// this function has returned.
    ///
    /// # Errors
    ///
    /// After [`Error::NotStored`], [`Error::Stopped`] or [`Error::Panicked`], the user may still be
    /// signed in.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the sign-out continues.
    pub(crate) async fn sign_out(
        &self,
        headers: &HeaderMap,
        public_url: &PublicUrl,
    ) -> Result<SignedOut, Error> {
        let named = cookies::matching(headers, |name| name == cookie::SESSION.as_bytes());
        let ids = named.filter_map(|(_, value)| SessionId::parse(value));
        let keys: Vec<_> = ids.map(|id| id.key()).take(MAX_SIGNED_OUT).collect();
        let sessions = Arc::clone(&self.process.sessions);
        let end = async move {
            let mut ended = Vec::new();
            for key in keys {
                let session = sessions.fetch(&key).await?;
                if sessions.end(&key, EndReason::SignedOut).await? == Ended::Session {
                    tracing::info!(session.key = key.log_prefix(), "Signed out");
                    ended.extend(session);
                }
            }
            Ok(ended)
        };
        // The cookies are deleted only after the store has committed the end of the sessions. If
        // the cookies were deleted first and the store then failed, the session would continue, but
        // the user would have no cookie.
        let ended = self.process.on_control_plane(end).await?;
        for session in &ended {
            self.revoke(session);
        }
        let mut at_provider = ended
            .iter()
            .map(|session| self.at_provider(session, public_url));
        let ends = |at_provider: &AtProvider| !matches!(at_provider, AtProvider::Continues);
        Ok(SignedOut {
            cookies: [cookie::clear(cookie::SESSION), browser::forget_rounds()],
            // The browser can open the end-session endpoint of one provider only.
            at_provider: at_provider.find(ends).unwrap_or(AtProvider::Continues),
        })
    }

    /// Returns the name of the provider at which the user has signed out. `state` is the value with
    /// which the provider sent the browser back. Returns `None` if the gateway did not make `state`
    /// for `public_url`.
    pub(crate) fn signed_out_at(&self, state: &str, public_url: &PublicUrl) -> Option<&str> {
        let sealed = (state.len() <= MAX_STATE).then(|| URL_SAFE_NO_PAD.decode(state).ok())??;
        let name = self.keys.open(&sealed_for(public_url), &sealed)?;
        let (known, _) = self
            .providers
            .get_key_value(std::str::from_utf8(&name).ok()?)?;
        Some(known)
    }

    fn at_provider(&self, session: &Session, public_url: &PublicUrl) -> AtProvider {
        let Some(provider) = self.providers.get(session.provider()) else {
            return AtProvider::Continues;
        };
        let name: Box<str> = session.provider().into();
        let Ok(state) = self.keys.seal(&sealed_for(public_url), name.as_bytes()) else {
            return AtProvider::Continues;
        };
        let recent = provider.recent_readiness(self.process.clock.now());
        let is_unreachable = matches!(recent, Some(Err(_)));
        let id_token = session.tokens().id_token();
        let url = provider.end_session_url(EndSession {
            id_token: id_token.filter(|_token| !is_unreachable),
            return_to: &[public_url.origin(), self.own().signed_out()].concat(),
            state: &URL_SAFE_NO_PAD.encode(state),
        });
        match url {
            None => AtProvider::Continues,
            Some(url) if is_unreachable => AtProvider::Unreachable {
                provider: name,
                url,
            },
            Some(url) => AtProvider::Ends {
                provider: name,
                url: Secret::new(url.into()),
            },
        }
    }

    /// Starts a task of the control plane that revokes the refresh token of an ended session.
    fn revoke(&self, session: &Session) {
        let provider = self.providers.get(session.provider());
        let provider = provider.filter(|provider| provider.revokes());
        let (Some(provider), Some(token)) = (provider, session.tokens().refresh_token()) else {
            return;
        };
        let key = session.key().log_prefix();
        let (provider, token) = (Arc::clone(provider), token.clone());
        let clock = self.process.clock.clone();
        self.process.spawn(async move {
            revoke(&provider, &token, &clock, &key).await;
        });
    }
}

/// Revokes a refresh token. After a temporary failure, the function pauses and tries again. The
/// last failure is logged. If the gateway stops meanwhile, the token is not revoked.
async fn revoke(provider: &Provider, token: &Secret<String>, clock: &Clock, key: &str) {
    let mut pauses = PAUSES.into_iter();
    loop {
        let Err(error) = provider.revoke(token, clock).await else {
            tracing::info!(
                session.key = key,
                provider = provider.name(),
                "Refresh token revoked"
            );
            return;
        };
        let pause = error.retry_after().zip(pauses.next());
        let Some((asked, pause)) = pause else {
            tracing::warn!(
                session.key = key,
                provider = provider.name(),
                error = chain(&error),
                "Refresh token not revoked"
            );
            return;
        };
        sleep(pause.max(asked)).await;
    }
}

fn sealed_for(public_url: &PublicUrl) -> Vec<u8> {
    associated_data(b"signed_out", &[public_url.origin().as_bytes()])
}
