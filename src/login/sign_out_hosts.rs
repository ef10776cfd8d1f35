//! The sign-out at a host that gets its sessions from the login host.
//!
//! The browser can have a session at the login host that this host does not know. A sign-out at this
//! host must also end the session at the login host, because otherwise the next ticket would sign
//! the user in again. After this host has ended its own session, this host therefore sends the
//! browser to the login host with a sealed request. The login host answers with the sealed name of
//! the session that the browser has there, and this host ends that session.
//!
//! The request and the answer contain a hash of the cookie [`END_SESSION`]. Only the browser whose
//! user has signed out at this host has this cookie, so no other site can sign a user out.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue};

use super::hosts::{LoginHost, parameter};
use super::sign_out::context;
use super::sign_out_cookie::{END_SESSION, END_SESSION_LIFETIME, SignOutData};
use super::ticket::sha256;
use super::{Error, Login, PublicUrl};
use crate::clock::Timestamp;
use crate::fields::cookie::{self as cookies, Found};
use crate::session::{SessionKey, SessionRef, cookie};

/// A step of a sign-out: a redirect.
#[derive(Debug)]
pub(crate) struct SignOutStep {
    /// The URL to which the browser goes.
    pub(crate) location: String,
    /// The `Set-Cookie` values of the response.
    pub(crate) cookies: Vec<HeaderValue>,
}

/// The answer of the login host, together with the cookie of the sign-out.
struct Answer {
    /// The session that the login host has named.
    session: Option<SessionRef>,
    signed_out_at: Timestamp,
    /// The data of the sign-out at this host.
    data: SignOutData,
}

impl Login {
    /// Returns the next redirect of a sign-out. The result is `None` if the sign-out has no further
    /// step, or if the browser has not signed out recently. `query` is the query of the request to
    /// [`OwnPaths::end_session`](super::OwnPaths::end_session).
    ///
    /// # Errors
    ///
    /// After [`Error::NotStored`], [`Error::Stopped`] or [`Error::Panicked`], the user may still be
    /// signed in.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the sign-out continues.
    pub(crate) async fn continue_sign_out(
        self: &Arc<Self>,
        query: &str,
        (public_url, headers): (&PublicUrl, &HeaderMap),
    ) -> Result<Option<SignOutStep>, Error> {
        if let Some(host) = self.login_host_for(public_url) {
            let answer = parameter(query, "answer");
            return if answer.is_empty() {
                Ok(self.ask_login_host(headers, public_url, host))
            } else {
                self.end_named_session(&answer, headers, (public_url, host))
                    .await
            };
        }
        let request = parameter(query, "request");
        if self.is_login_host(public_url) && !request.is_empty() {
            return Ok(self.name_session(&request, headers, public_url));
        }
        let ended = self.end_session(headers, public_url);
        Ok(ended.map(|(url, cookie)| SignOutStep {
            location: url.into(),
            cookies: vec![cookie],
        }))
    }

    /// Returns the redirect that asks the login host for the session of the browser.
    fn ask_login_host(
        &self,
        headers: &HeaderMap,
        public_url: &PublicUrl,
        host: &LoginHost,
    ) -> Option<SignOutStep> {
        let cookie = sign_out_cookie(headers)?;
        let hash = URL_SAFE_NO_PAD.encode(sha256(cookie));
        let text = format!("{} {hash}", public_url.origin());
        let sealed = self.seal_now(&context(b"sign_out request", &host.url), &text)?;
        let (origin, path) = (host.url.origin(), self.own().end_session());
        Some(SignOutStep {
            location: format!("{origin}{path}?request={sealed}"),
            cookies: Vec::new(),
        })
    }

    /// Returns the redirect with which the login host answers the sealed request of another host.
    fn name_session(
        &self,
        request: &str,
        headers: &HeaderMap,
        public_url: &PublicUrl,
    ) -> Option<SignOutStep> {
        let context_of_request = context(b"sign_out request", public_url);
        let (_, text) = self.unseal_recent(
            &context_of_request,
            request.as_bytes(),
            END_SESSION_LIFETIME,
        )?;
        let (origin, hash) = text.expose().split_once(' ')?;
        let host = self.served_host(origin)?;
        let session = match cookies::find(headers, cookie::SESSION.as_bytes()) {
            Found::One(value) => self.session_to_end(value, public_url),
            Found::Absent | Found::Conflicting => None,
        };
        let session = session.map(|named| URL_SAFE_NO_PAD.encode(named.to_bytes()));
        let text = format!("{hash} {}", session.unwrap_or_default());
        let sealed = self.seal_now(&context(b"sign_out answer", &host), &text)?;
        let (origin, path) = (host.origin(), self.own().end_session());
        Some(SignOutStep {
            location: format!("{origin}{path}?answer={sealed}"),
            // The login host must not sign the user in silently for another host.
            cookies: self.note_sign_out().into_iter().collect(),
        })
    }

    /// Ends the session that the login host has named in `answer`. Returns the redirect to the
    /// provider, or to the page after the sign-out.
    async fn end_named_session(
        self: &Arc<Self>,
        answer: &str,
        headers: &HeaderMap,
        (public_url, host): (&PublicUrl, &LoginHost),
    ) -> Result<Option<SignOutStep>, Error> {
        let Some(answer) = self.read_answer(answer, headers, public_url) else {
            return Ok(None);
        };
        let named = answer.session.as_ref().map(SessionRef::key);
        let key = match named {
            Some(key) if !self.began_after(key, answer.signed_out_at).await => Some(*key),
            _ => None,
        };
        let ended = self.end_sessions(key.into_iter().collect()).await?;
        let SignOutData { ended: here, after } = answer.data;
        let known: Vec<_> = here.into_iter().chain(self.ended_session(&ended)).collect();
        let provider = known.first().map(|ended| ended.provider.clone());
        let another_account = self.other_account_link(provider.as_deref(), &after, public_url);
        let location = if let Some(link) = another_account {
            [public_url.origin(), &link].concat()
        } else {
            let hosts = (public_url, &host.url);
            let mut known = known.iter();
            let url = known.find_map(|ended| self.end_session_url(ended, &after, hosts));
            let provider = provider.as_deref();
            let no_step = || self.location_after(&after, public_url, provider);
            url.map_or_else(no_step, String::from)
        };
        Ok(Some(SignOutStep {
            location,
            cookies: vec![cookie::clear(END_SESSION)],
        }))
    }

    /// Returns true if the session `key` began after `signed_out_at`. A sign-out that was not
    /// completed must not end the session of a later login. A session that cannot be read did not
    /// begin later.
    async fn began_after(&self, key: &SessionKey, signed_out_at: Timestamp) -> bool {
        let session = self.process.sessions.fetch(key).await.ok().flatten();
        session.is_some_and(|session| session.opened_at() > signed_out_at)
    }

    /// Reads the answer of the login host and the cookie of the sign-out. Returns `None` if the
    /// browser has no cookie for this answer.
    fn read_answer(
        &self,
        answer: &str,
        headers: &HeaderMap,
        public_url: &PublicUrl,
    ) -> Option<Answer> {
        let sealed_for = context(b"sign_out answer", public_url);
        let (_, text) = self.unseal_recent(&sealed_for, answer.as_bytes(), END_SESSION_LIFETIME)?;
        let (hash, session) = text.expose().split_once(' ')?;
        let cookie = sign_out_cookie(headers)?;
        let hash = URL_SAFE_NO_PAD.decode(hash).ok()?;
        verify_slices_are_equal(&sha256(cookie), &hash).ok()?;
        let named = URL_SAFE_NO_PAD.decode(session).ok()?;
        let (signed_out_at, data) = self.read_sign_out(cookie, public_url)?;
        Some(Answer {
            session: SessionRef::from_bytes(&named),
            signed_out_at,
            data,
        })
    }
}

fn sign_out_cookie(headers: &HeaderMap) -> Option<&[u8]> {
    match cookies::find(headers, END_SESSION.as_bytes()) {
        Found::One(value) => Some(value),
        Found::Absent | Found::Conflicting => None,
    }
}
