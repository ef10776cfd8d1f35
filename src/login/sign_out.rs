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
use url::form_urlencoded::byte_serialize;

use super::hosts::parameter;
use super::pending::associated_data;
use super::process::Revocation;
use super::sign_in_link::SignInLink;
use super::sign_out_cookie::{AfterSignOut, END_SESSION, EndedSession, SignOutData};
use super::{Error, Login, PublicUrl, ReturnTo, browser};
use crate::clock::Timestamp;
use crate::fields::cookie::{self as cookies, Found};
use crate::provider::{EndSession, Prompt};
use crate::secret::Secret;
use crate::session::{EndReason, Ended, Session, SessionKey, Sessions, cookie};
use crate::telemetry::chain;

/// The maximum number of sessions that one request signs out. In most cases, a browser sends one
/// session cookie. If a browser has stored session cookies for different paths, it can send several
/// session cookies in one request. `MAX_SIGNED_OUT` protects the store from a request with hundreds
/// of session cookies.
pub(super) const MAX_SIGNED_OUT: usize = 8;

/// The longest ID token in a URL, in bytes. Most servers refuse a much longer URL. A longer ID token
/// is left out.
const MAX_ID_TOKEN: usize = 3000;

/// The time in which the provider has to send the browser back.
const STATE_LIFETIME: Duration = Duration::from_mins(10);

/// The longest accepted `state` of a sign-out, in bytes. The state contains the encrypted time, the
/// name of a provider, an origin and a return path.
const MAX_STATE: usize = 2048;

/// A completed sign-out.
#[derive(Debug)]
pub(crate) struct SignedOut {
    /// The `Set-Cookie` values for the browser.
    pub(crate) cookies: Vec<HeaderValue>,
    pub(crate) at_provider: AtProvider,
    /// True if other replicas can still use the session for a limited time, because the shared
    /// session store does not answer.
    pub(crate) only_here: bool,
}

/// What happens to the session of the user at the provider. Each name is the configured name of a
/// provider.
#[derive(Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum AtProvider {
    /// The browser has to open [`OwnPaths::end_session`](super::OwnPaths::end_session), which asks
    /// the login host for the session of the browser.
    AskLoginHost,
    /// The request belonged to no session, or the provider has no end-session endpoint. The value is
    /// the provider of the ended session.
    Continues(Option<Box<str>>),
    /// The browser has to open [`OwnPaths::end_session`](super::OwnPaths::end_session).
    Ends(Box<str>),
    /// The session at the provider continues, and the user wants to use another account. The browser
    /// has to open this link to the sign-in endpoint.
    SignsIn(String),
    /// The provider could not be reached recently, so its session may continue.
    Unreachable(Box<str>),
}

/// The provider at which a user has signed out.
#[derive(Debug)]
pub(crate) struct SignedOutAt<'a> {
    /// The configured name of the provider.
    pub(crate) provider: &'a str,
    /// The URL of the page after the sign-out, if the user has signed out at another host.
    pub(crate) other_host: Option<String>,
    /// The page that the browser opens after the sign-out.
    pub(crate) return_to: Option<ReturnTo>,
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
        after: AfterSignOut,
    ) -> Result<SignedOut, Error> {
        let named = cookies::matching(headers, |name| name == cookie::SESSION.as_bytes());
        let named = named.filter_map(|(_, value)| self.session_to_end(value, public_url));
        let keys = named.map(|session| *session.key());
        let keys: Vec<_> = keys.take(MAX_SIGNED_OUT).collect();
        // The cookies are deleted only after the store has committed the end of the sessions. If
        // the cookies were deleted first and the store then failed, the session would continue, but
        // the user would have no cookie.
        let ended = self.end_sessions(keys.clone()).await?;
        let at_provider = if self.redeems_tickets(public_url) {
            AtProvider::AskLoginHost
        } else {
            self.at_provider(&ended, &after, public_url)
        };
        let mut cookies = self.signed_out_cookies();
        if let AtProvider::AskLoginHost | AtProvider::Ends(_) = at_provider {
            let ended = self.ended_session(&ended);
            cookies.extend(self.sign_out_cookie(&SignOutData { ended, after }, public_url));
        }
        let sessions = &self.process.sessions;
        let only_here = keys.iter().any(|key| sessions.ends_only_here(key));
        Ok(SignedOut {
            cookies,
            at_provider,
            only_here,
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
        // A drain must wait for the revocations, which begin only after the sessions have ended.
        let running = Revocation::begin(&self.process);
        let end = async move {
            let _running = running;
            let mut ended = Vec::new();
            for key in keys {
                let session = end(&login.process.sessions, key).await?;
                ended.extend(session.inspect(|session| login.revoke(session)));
            }
            Ok(ended)
        };
        self.process.on_control_plane(end).await
    }

    /// Ends a session after its user has signed out at the app. Returns the `Set-Cookie` values for
    /// the browser. A task of the control plane revokes the refresh token.
    ///
    /// # Errors
    ///
    /// After [`Error::NotStored`], [`Error::Stopped`] or [`Error::Panicked`], the session may
    /// continue.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the session ends, and the refresh token is revoked.
    pub(crate) async fn end_after_app(
        self: &Arc<Self>,
        session: SessionKey,
    ) -> Result<Vec<HeaderValue>, Error> {
        let _ended = self.end_sessions(vec![session]).await?;
        Ok(self.signed_out_cookies())
    }

    /// Returns the `Set-Cookie` values for a browser whose user has signed out.
    fn signed_out_cookies(&self) -> Vec<HeaderValue> {
        let cookies = [cookie::clear(cookie::SESSION), browser::forget_rounds()];
        cookies.into_iter().chain(self.note_sign_out()).collect()
    }

    /// Ends other sessions of a user. Tasks of the control plane revoke the refresh tokens. The
    /// caller must make sure that the sessions belong to the user.
    ///
    /// # Errors
    ///
    /// After [`Error::NotStored`], [`Error::Stopped`] or [`Error::Panicked`], some of the sessions
    /// may continue.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the sessions end, and the refresh tokens are revoked.
    pub(crate) async fn end_own_sessions(
        self: &Arc<Self>,
        sessions: Vec<SessionKey>,
    ) -> Result<(), Error> {
        self.end_sessions(sessions).await.map(drop)
    }

    /// Returns what happens at the providers of the ended sessions.
    fn at_provider(
        &self,
        ended: &[Arc<Session>],
        after: &AfterSignOut,
        public_url: &PublicUrl,
    ) -> AtProvider {
        let session = match self.to_end_at_provider(ended) {
            Ok(session) => session,
            Err(provider) => return AtProvider::Unreachable(provider.into()),
        };
        let first = session.or_else(|| ended.first().map(Arc::as_ref));
        let provider = first.map(Session::provider);
        if let Some(link) = self.other_account_link(provider, after, public_url) {
            return AtProvider::SignsIn(link);
        }
        match session {
            Some(session) => AtProvider::Ends(session.provider().into()),
            None => AtProvider::Continues(provider.map(Into::into)),
        }
    }

    /// Returns the link to a login with another account. `provider` is the configured name of the
    /// provider of the ended session. Returns `None` if the user does not want to use another
    /// account, or if the end-session endpoint ends the session at the provider.
    pub(super) fn other_account_link(
        &self,
        provider: Option<&str>,
        after: &AfterSignOut,
        public_url: &PublicUrl,
    ) -> Option<String> {
        if !after.another_account {
            return None;
        }
        let known = provider.and_then(|name| self.providers.get(name));
        let prompt = match known {
            Some(provider) => provider.prompt_for_another_account()?,
            None => Prompt::Login,
        };
        let link = SignInLink {
            provider: provider.filter(|_name| known.is_some()),
            prompt,
            remember: false,
            passed: &[],
            return_to: &after.return_to.clone().unwrap_or_else(ReturnTo::root),
        };
        Some(self.sign_in_link(&link, public_url))
    }

    /// Returns the values of the session that its provider has to end, too. If there is no such
    /// session, returns the values of the first session. The result is `None` if no session has
    /// ended, or if the provider could not be reached recently.
    pub(super) fn ended_session(&self, ended: &[Arc<Session>]) -> Option<EndedSession> {
        let to_end = self.to_end_at_provider(ended).ok()?;
        let session = to_end.or_else(|| ended.first().map(Arc::as_ref))?;
        let provider = self.providers.get(session.provider());
        Some(EndedSession::of(session, provider.map(Arc::as_ref)))
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
        let (_, data) = self.read_sign_out(value, public_url)?;
        let hosts = (public_url, public_url);
        let url = self.end_session_url(&data.ended?, &data.after, hosts)?;
        Some((url, cookie::clear(END_SESSION)))
    }

    /// Returns the URL that the browser opens after the last step of the sign-out at `public_url`.
    /// `provider` is the configured name of the provider whose session continues. The page after the
    /// sign-out gets the name if several providers are configured.
    pub(crate) fn location_after(
        &self,
        after: &AfterSignOut,
        public_url: &PublicUrl,
        provider: Option<&str>,
    ) -> String {
        let mut location = after.location(public_url, self.own());
        let provider = provider.filter(|_name| self.providers.len() > 1);
        if let (None, Some(provider)) = (&after.return_to, provider) {
            location.push_str("?provider=");
            location.extend(byte_serialize(provider.as_bytes()));
        }
        location
    }

    /// Returns the configured name of the provider that [`Login::location_after`] has named in
    /// `query`, or the name of the only provider.
    pub(crate) fn provider_of_sign_out(&self, query: &str) -> Option<&str> {
        let named = parameter(query, "provider");
        let only = self.providers.keys().next();
        let only = only.filter(|_name| self.providers.len() == 1);
        let named = self.providers.get_key_value(&*named);
        named.map(|(name, _)| name).or(only).map(AsRef::as_ref)
    }

    /// Returns a link for each provider with an end-session endpoint or its own page for a sign-out:
    /// the configured name of the provider, and the URL at which the provider ends the session of the
    /// user. The URL contains no ID token, so the provider asks the user for a confirmation.
    pub(crate) fn end_session_links(&self, public_url: &PublicUrl) -> Vec<(&str, Url)> {
        let providers = self.providers.iter();
        let host = self.login_host_for(public_url);
        let host = host.map_or(public_url, |host| &host.url);
        let links = providers.filter_map(|(name, provider)| {
            if let Some(page) = provider.sign_out_page() {
                return Some((name.as_ref(), page));
            }
            let unknown = EndedSession {
                provider: name.to_string(),
                logout_hint: None,
                id_token: None,
            };
            let hosts = (public_url, host);
            let url = self.end_session_url(&unknown, &AfterSignOut::default(), hosts)?;
            Some((name.as_ref(), url))
        });
        links.collect()
    }

    /// Returns the URL at which the provider of `ended` ends its session of the user. The user has
    /// signed out at `public_url`, and the provider sends the browser back to `host`. Returns `None`
    /// if the provider has no end-session endpoint.
    pub(super) fn end_session_url(
        &self,
        ended: &EndedSession,
        after: &AfterSignOut,
        (public_url, host): (&PublicUrl, &PublicUrl),
    ) -> Option<Url> {
        let provider = self.providers.get(&*ended.provider)?;
        let return_to = after.return_to.as_ref();
        let state = self.signed_out_state(&ended.provider, return_to, (public_url, host))?;
        let id_token = ended.id_token.as_ref();
        provider.end_session_url(EndSession {
            id_token: id_token.filter(|token| (1..=MAX_ID_TOKEN).contains(&token.expose().len())),
            logout_hint: ended.logout_hint.as_deref(),
            return_to: &[host.origin(), self.own().signed_out()].concat(),
            state: &state,
        })
    }

    /// Returns the `state` with which the browser opens the page after the sign-out at `host`. The
    /// user has signed out at `public_url`.
    fn signed_out_state(
        &self,
        provider: &str,
        return_to: Option<&ReturnTo>,
        (public_url, host): (&PublicUrl, &PublicUrl),
    ) -> Option<String> {
        let return_to = return_to.map_or("", ReturnTo::as_str);
        let text = format!("{provider} {} {return_to}", public_url.origin());
        self.seal_now(&context(b"signed_out", host), &text)
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
        let mut parts = text.expose().splitn(3, ' ');
        let (name, origin) = (parts.next()?, parts.next()?);
        let page = parts.next().unwrap_or_default();
        let return_to = ReturnTo::from_sealed(page, self.own());
        let (provider, _) = self.providers.get_key_value(name)?;
        let host = (origin != public_url.origin()).then(|| self.served_host(origin));
        let other_host = host.flatten().and_then(|host| {
            let state = self.signed_out_state(name, return_to.as_ref(), (&host, &host))?;
            Some(format!("{origin}{}?state={state}", self.own().signed_out()))
        });
        Some(SignedOutAt {
            provider,
            other_host,
            return_to,
        })
    }

    /// Whether a GET request of the app's own pages ends the session.
    pub(crate) fn signs_out_by_get(&self) -> bool {
        self.settings.sign_out_by_get
    }

    /// Returns the value of `Clear-Site-Data` in the answer to a sign-out.
    pub(crate) fn clear_site_data(&self) -> Option<&HeaderValue> {
        self.settings.clear_site_data.as_ref()
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

    /// Starts a task of the control plane that revokes the refresh token of an ended session, or the
    /// access token if the settings say so.
    fn revoke(&self, session: &Session) {
        let Some(provider) = self.providers.get(session.provider()) else {
            return;
        };
        let Some(token) = provider.token_to_revoke(session.tokens()) else {
            return;
        };
        let provider = Arc::clone(provider);
        let (clock, key) = (self.process.clock.clone(), session.key().log_prefix());
        self.process
            .revoke(async move { provider.revoke(&token, &clock, &key).await });
    }
}

/// Ends a session. Returns the ended session. The result is `None` if there was no session, or if
/// the session could not be read before its end. A session that cannot be read still ends.
async fn end(sessions: &Sessions, key: SessionKey) -> Result<Option<Arc<Session>>, Error> {
    let session = sessions.current(&key).await.unwrap_or_else(|error| {
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
