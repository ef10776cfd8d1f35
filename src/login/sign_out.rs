//! The sign-out: ends the sessions of a browser, here and at the provider.
//!
//! The browser has to open the end-session endpoint of the provider with the ID token of the
//! session. A script in a page of the app must not be able to read the ID token, so no page and no
//! data of the gateway contain it. The answer to the sign-out stores the encrypted ID token in a
//! cookie, and the page of this answer opens an endpoint of the gateway. This endpoint redirects the
//! browser to the provider.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue};
use url::Url;

use super::pending::associated_data;
use super::{Error, Login, PublicUrl, browser};
use crate::clock::Timestamp;
use crate::fields::cookie::{self as cookies, Found};
use crate::provider::{EndSession, Provider};
use crate::secret::Secret;
use crate::session::{EndReason, Ended, Session, SessionKey, Sessions, cookie};
use crate::telemetry::chain;

/// The maximum number of sessions that one request signs out. In most cases, a browser sends one
/// session cookie. If a browser has stored session cookies for different paths, it can send several
/// session cookies in one request. `MAX_SIGNED_OUT` protects the store from a request with hundreds
/// of session cookies.
pub(super) const MAX_SIGNED_OUT: usize = 8;

/// The cookie with the provider and the ID token of an ended session.
pub(super) const END_SESSION: &str = "__Host-sidegate-end";

/// The time in which the browser has to open the endpoint that redirects to the provider.
pub(super) const END_SESSION_LIFETIME: Duration = Duration::from_mins(2);

/// The longest value of the cookie [`END_SESSION`]. Browsers refuse a longer cookie. An ID token that
/// does not fit is left out. The provider then asks the user for a confirmation.
const MAX_COOKIE: usize = 4000;

/// The longest ID token in a URL. Most servers refuse a much longer URL. A longer ID token is left
/// out.
const MAX_ID_TOKEN: usize = MAX_COOKIE / 4 * 3;

/// The time in which the provider has to send the browser back.
const STATE_LIFETIME: Duration = Duration::from_mins(10);

/// The longest accepted `state` of a sign-out, in bytes. The state contains the encrypted time and
/// name of a provider.
const MAX_STATE: usize = 1024;

/// A completed sign-out.
#[derive(Debug)]
pub(crate) struct SignedOut {
    /// The `Set-Cookie` values for the browser.
    pub(crate) cookies: Vec<HeaderValue>,
    pub(crate) at_provider: AtProvider,
}

/// What happens to the session of the user at the provider. Each name is the configured name of a
/// provider.
#[derive(Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum AtProvider {
    /// The browser has to open [`OwnPaths::end_session`](super::OwnPaths::end_session), which asks
    /// the login host for the session of the browser.
    AskLoginHost,
    /// The request belonged to no session, or the provider has no end-session endpoint.
    Continues,
    /// The browser has to open [`OwnPaths::end_session`](super::OwnPaths::end_session).
    Ends(Box<str>),
    /// The provider could not be reached recently, so its session may continue.
    Unreachable(Box<str>),
}

/// The provider of an ended session, and the ID token of this session. The ID token is empty if the
/// session had none.
pub(super) struct AtEnded {
    pub(super) provider: String,
    pub(super) id_token: Secret<String>,
}

/// The provider at which a user has signed out.
#[derive(Debug)]
pub(crate) struct SignedOutAt<'a> {
    /// The configured name of the provider.
    pub(crate) provider: &'a str,
    /// The URL of the page after the sign-out, if the user has signed out at another host.
    pub(crate) other_host: Option<String>,
}

impl Login {
    /// Ends the sessions whose cookies the browser sent, but at most [`MAX_SIGNED_OUT`] sessions.
    /// Tasks of the control plane revoke the refresh tokens of the ended sessions.
    ///
    /// # Errors
    ///
    /// After [`Error::NotStored`], [`Error::Stopped`] or [`Error::Panicked`], the user may still be
    /// signed in.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the sign-out continues, and the refresh tokens are revoked.
    pub(crate) async fn sign_out(
        self: &Arc<Self>,
        headers: &HeaderMap,
        public_url: &PublicUrl,
    ) -> Result<SignedOut, Error> {
        let named = cookies::matching(headers, |name| name == cookie::SESSION.as_bytes());
        let named = named.filter_map(|(_, value)| self.session_to_end(value, public_url));
        let keys = named.map(|session| *session.key());
        // The cookies are deleted only after the store has committed the end of the sessions. If
        // the cookies were deleted first and the store then failed, the session would continue, but
        // the user would have no cookie.
        let ended = self
            .end_sessions(keys.take(MAX_SIGNED_OUT).collect())
            .await?;
        let (mut at_provider, mut cookie) = self.at_provider(&ended, public_url);
        if self.redeems_tickets(public_url) {
            at_provider = AtProvider::AskLoginHost;
            cookie = cookie.or_else(|| self.end_session_cookie(("", None), public_url));
        }
        let mut cookies = vec![cookie::clear(cookie::SESSION), browser::forget_rounds()];
        cookies.extend(cookie);
        Ok(SignedOut {
            cookies,
            at_provider,
        })
    }

    /// Ends sessions. Returns the ended sessions. Tasks of the control plane revoke the refresh
    /// tokens of the ended sessions.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the sessions end, and the refresh tokens are revoked.
    pub(super) async fn end_sessions(
        self: &Arc<Self>,
        keys: Vec<SessionKey>,
    ) -> Result<Vec<Arc<Session>>, Error> {
        let login = Arc::clone(self);
        let end = async move {
            let mut ended = Vec::new();
            for key in keys {
                let session = end(&login.process.sessions, key).await?;
                ended.extend(session.inspect(|session| login.revoke(session)));
            }
            Ok(ended)
        };
        self.process.on_control_plane(end).await
    }

    /// Returns what happens at the providers of the ended sessions, and the cookie for the endpoint
    /// that redirects to the provider.
    fn at_provider(
        &self,
        ended: &[Arc<Session>],
        public_url: &PublicUrl,
    ) -> (AtProvider, Option<HeaderValue>) {
        let session = match self.to_end_at_provider(ended) {
            Ok(session) => session,
            Err(provider) => return (AtProvider::Unreachable(provider.into()), None),
        };
        let known = session.and_then(|session| {
            let ended = (session.provider(), session.tokens().id_token());
            let cookie = self.end_session_cookie(ended, public_url)?;
            Some((AtProvider::Ends(session.provider().into()), Some(cookie)))
        });
        known.unwrap_or((AtProvider::Continues, None))
    }

    /// Returns the session that its provider has to end, too. The browser can open the end-session
    /// endpoint of one provider only, so the function prefers a provider that can be reached.
    ///
    /// # Errors
    ///
    /// The name of the provider, if no such provider could be reached recently.
    pub(super) fn to_end_at_provider<'a>(
        &self,
        ended: &'a [Arc<Session>],
    ) -> Result<Option<&'a Session>, &'a str> {
        let mut unreachable = None;
        for session in ended {
            let provider = self.providers.get(session.provider());
            let Some(provider) = provider.filter(|provider| provider.ends_sessions()) else {
                continue;
            };
            match provider.recent_readiness(self.process.clock.now()) {
                Some(Err(_)) => unreachable = Some(session.provider()),
                _ => return Ok(Some(session)),
            }
        }
        unreachable.map_or(Ok(None), Err)
    }

    /// Returns the cookie with the provider and the ID token of an ended session. The name of the
    /// provider is empty if no session has ended.
    fn end_session_cookie(
        &self,
        (name, id_token): (&str, Option<&Secret<String>>),
        public_url: &PublicUrl,
    ) -> Option<HeaderValue> {
        let sealed = |id_token: Option<&Secret<String>>| {
            let id_token = id_token.map_or("", |token| token.expose().as_str());
            let text = Secret::new(format!("{name} {id_token}"));
            self.seal_now(&context(b"end_session", public_url), text.expose())
        };
        let whole = sealed(id_token).filter(|value| value.len() <= MAX_COOKIE);
        let value = whole.or_else(|| sealed(None))?;
        Some(cookie::set(END_SESSION, &value, END_SESSION_LIFETIME))
    }

    /// Returns the URL at which the provider ends the session of the user, and the `Set-Cookie` value
    /// that deletes the cookie of the sign-out. Returns `None` if the browser has not signed out
    /// recently.
    pub(crate) fn end_session(
        &self,
        headers: &HeaderMap,
        public_url: &PublicUrl,
    ) -> Option<(Url, HeaderValue)> {
        let Found::One(value) = cookies::find(headers, END_SESSION.as_bytes()) else {
            return None;
        };
        let (_, ended) = self.read_sign_out(value, public_url)?;
        let ended = ended?;
        let provider = self.providers.get(&*ended.provider)?;
        let url =
            self.end_session_url(provider, Some(&ended.id_token), (public_url, public_url))?;
        Some((url, cookie::clear(END_SESSION)))
    }

    /// Reads the value of the cookie [`END_SESSION`]. Returns the time of the sign-out, and the
    /// provider and the ID token of the ended session. The provider is `None` if no session has
    /// ended. The result is `None` if the user has not signed out recently.
    pub(super) fn read_sign_out(
        &self,
        cookie: &[u8],
        public_url: &PublicUrl,
    ) -> Option<(Timestamp, Option<AtEnded>)> {
        let context = context(b"end_session", public_url);
        let (signed_out_at, text) = self.unseal_recent(&context, cookie, END_SESSION_LIFETIME)?;
        let (provider, id_token) = text.expose().split_once(' ')?;
        let ended = (!provider.is_empty()).then(|| AtEnded {
            provider: provider.to_owned(),
            id_token: Secret::new(id_token.to_owned()),
        });
        Some((signed_out_at, ended))
    }

    /// Returns a link for each provider with an end-session endpoint: the configured name of the
    /// provider, and the URL at which the provider ends the session of the user. The URL contains no
    /// ID token, so the provider asks the user for a confirmation.
    pub(crate) fn end_session_links(&self, public_url: &PublicUrl) -> Vec<(&str, Url)> {
        let providers = self.providers.iter();
        let host = self.login_host_for(public_url);
        let host = host.map_or(public_url, |host| &host.url);
        let links = providers.filter_map(|(name, provider)| {
            let url = self.end_session_url(provider, None, (public_url, host))?;
            Some((name.as_ref(), url))
        });
        links.collect()
    }

    /// Returns the URL at which `provider` ends the session of the user. The user has signed out at
    /// `public_url`, and the provider sends the browser back to `host`.
    pub(super) fn end_session_url(
        &self,
        provider: &Provider,
        id_token: Option<&Secret<String>>,
        (public_url, host): (&PublicUrl, &PublicUrl),
    ) -> Option<Url> {
        let text = format!("{} {}", provider.name(), public_url.origin());
        let state = self.seal_now(&context(b"signed_out", host), &text)?;
        provider.end_session_url(EndSession {
            id_token: id_token.filter(|token| (1..=MAX_ID_TOKEN).contains(&token.expose().len())),
            return_to: &[host.origin(), self.own().signed_out()].concat(),
            state: &state,
        })
    }

    /// Returns the provider at which the user has signed out. `state` is the value with which the
    /// provider sent the browser back. Returns `None` if the gateway did not make `state` for
    /// `public_url` within the last ten minutes.
    pub(crate) fn signed_out_at(
        &self,
        state: &str,
        public_url: &PublicUrl,
    ) -> Option<SignedOutAt<'_>> {
        if state.len() > MAX_STATE {
            return None;
        }
        let (_, text) = self.unseal_recent(
            &context(b"signed_out", public_url),
            state.as_bytes(),
            STATE_LIFETIME,
        )?;
        let (name, origin) = text.expose().split_once(' ')?;
        let (provider, _) = self.providers.get_key_value(name)?;
        let host = (origin != public_url.origin()).then(|| self.served_host(origin));
        let other_host = host.flatten().and_then(|host| {
            let text = format!("{name} {origin}");
            let state = self.seal_now(&context(b"signed_out", &host), &text)?;
            Some(format!("{origin}{}?state={state}", self.own().signed_out()))
        });
        Some(SignedOutAt {
            provider,
            other_host,
        })
    }

    /// Decrypts a text that begins with the time of its encryption. Returns this time and the rest
    /// of the text. Returns `None` if the text is older than `lifetime`. A time in the future is
    /// accepted, because the clock of the machine may have been set back.
    pub(super) fn unseal_recent(
        &self,
        context: &[u8],
        sealed: &[u8],
        lifetime: Duration,
    ) -> Option<(Timestamp, Secret<String>)> {
        let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let plain = self.keys.open(context, &sealed)?;
        let (made_at, rest) = std::str::from_utf8(&plain).ok()?.split_once(' ')?;
        let made_at = Timestamp::from_millis(made_at.parse().ok()?);
        let is_recent = self.process.clock.now().since(made_at) <= lifetime;
        is_recent.then(|| (made_at, Secret::new(rest.to_owned())))
    }

    /// Encrypts a text together with the current time.
    pub(super) fn seal_now(&self, context: &[u8], text: &str) -> Option<String> {
        let now = self.process.clock.now().as_millis();
        let text = Secret::new(format!("{now} {text}"));
        let sealed = self.keys.seal(context, text.expose().as_bytes()).ok()?;
        Some(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// Starts a task of the control plane that revokes the refresh token of an ended session.
    fn revoke(&self, session: &Session) {
        let provider = self.providers.get(session.provider());
        let (Some(provider), Some(token)) = (provider, session.tokens().refresh_token()) else {
            return;
        };
        let (provider, token) = (Arc::clone(provider), token.clone());
        let (clock, key) = (self.process.clock.clone(), session.key().log_prefix());
        self.process
            .spawn(async move { provider.revoke(&token, &clock, &key).await });
    }
}

/// Ends a session. Returns the ended session. The result is `None` if there was no session, or if
/// the session could not be read before its end. A session that cannot be read still ends.
async fn end(sessions: &Sessions, key: SessionKey) -> Result<Option<Arc<Session>>, Error> {
    let session = sessions.fetch(&key).await.unwrap_or_else(|error| {
        let key = key.log_prefix();
        let error = chain(&error);
        tracing::warn!(
            session.key = key,
            error,
            "Session ends without a sign-out at its provider, because it cannot be read"
        );
        None
    });
    if sessions.end(&key, EndReason::SignedOut).await? == Ended::Nothing {
        return Ok(None);
    }
    tracing::info!(session.key = key.log_prefix(), "Signed out");
    Ok(session)
}

pub(super) fn context(purpose: &[u8], public_url: &PublicUrl) -> Vec<u8> {
    associated_data(purpose, &[public_url.origin().as_bytes()])
}
