//! Finds the session of a request outside the decision about the request, for the gateway's own
//! endpoints.

use std::sync::Arc;

use super::Access;
use super::decision::Cause;
use super::outcome::Fetched;
use super::wait::wait_for;
use crate::clock::Timestamp;
use crate::fields::View;
use crate::fields::cookie::{self as cookies, Found};
use crate::session::{Lookup, Session, SessionKey, SessionRef, Sessions, cookie};

impl Access {
    /// Returns the key of the session that the request's cookie names, and the session if the
    /// session is live. The session can belong to any provider, because this function does not
    /// check the provider. A session with an expired token is live as long as the token can be
    /// refreshed. `authority` is the host of the request.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn session_of(
        &self,
        (fields, authority): (&(impl View + ?Sized), &str),
        now: Timestamp,
    ) -> Option<(SessionKey, Option<Arc<Session>>)> {
        let named = self.named_session(fields, authority).ok()?;
        let session = self.live_session(named, now).await.ok();
        Some((*named.key(), session))
    }

    /// Returns the live session that the request's cookie names. The session can belong to any
    /// provider, because this function does not check the provider. `authority` is the host of the
    /// request.
    ///
    /// # Errors
    ///
    /// The reason why the request has no live session.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn live_session_of(
        &self,
        (fields, authority): (&(impl View + ?Sized), &str),
        now: Timestamp,
    ) -> Result<Arc<Session>, Cause> {
        self.live_session(self.named_session(fields, authority)?, now)
            .await
    }

    /// Returns the live session that the request's cookie names, like
    /// [`Access::live_session_of`]. The look-up does not count as a use of the session.
    ///
    /// # Errors
    ///
    /// The reason why the request has no live session.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn observed_session_of(
        &self,
        (fields, authority): (&(impl View + ?Sized), &str),
        now: Timestamp,
    ) -> Result<Arc<Session>, Cause> {
        let named = self.named_session(fields, authority)?;
        let fetched = |session| Sessions::observe_fetched(session, now);
        let found = self.sessions.observe(named, now);
        self.looked_up(named, (found, fetched), now).await
    }

    /// Returns the session that the request's cookie names, if the request names exactly one
    /// session.
    fn named_session(
        &self,
        fields: &(impl View + ?Sized),
        authority: &str,
    ) -> Result<SessionRef, Cause> {
        let named = self.session_ids.read(session_cookie(fields)?, authority);
        named.ok_or(Cause::Malformed)
    }

    /// Returns a session if the session is live. A session with an expired token is live as long as
    /// the token can be refreshed.
    ///
    /// # Errors
    ///
    /// The reason why the session is not live.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn live_session(
        &self,
        named: SessionRef,
        now: Timestamp,
    ) -> Result<Arc<Session>, Cause> {
        let fetched = |session| self.sessions.find_fetched(session, now);
        let found = self.sessions.find(named, now);
        self.looked_up(named, (found, fetched), now).await
    }

    /// Returns the session `named` if it is live. `found` is the result of the look-up in memory.
    /// If the session has to be fetched, `look_up` returns the result for the fetched session.
    async fn looked_up(
        &self,
        named: SessionRef,
        (mut found, look_up): (Lookup, impl Fn(Arc<Session>) -> Lookup),
        now: Timestamp,
    ) -> Result<Arc<Session>, Cause> {
        if let Lookup::Away = found {
            let waiter = self.refresher.fetch(*named.key());
            match wait_for(waiter, self.deadline(), self.refresher.clock()).await {
                Fetched::Found(session) => found = look_up(session),
                Fetched::Unknown => found = Lookup::Unknown,
                Fetched::Failed(_) => {}
            }
        }
        let session = match found {
            Lookup::Expired => return Err(Cause::Expired),
            Lookup::OtherInstance => return Err(Cause::OtherInstance),
            Lookup::Away => return Err(Cause::Unreachable),
            Lookup::Unknown => return Err(Cause::Unknown),
            Lookup::Live(session) => session,
        };
        let tokens = session.tokens();
        if tokens.is_expired(now) && tokens.refresh_token().is_none() {
            return Err(Cause::TokenExpired);
        }
        Ok(session)
    }
}

/// Returns the value of the session cookie. Returns an error if the request has no session cookie,
/// or session cookies with different values.
pub(super) fn session_cookie(fields: &(impl View + ?Sized)) -> Result<&[u8], Cause> {
    match cookies::find(fields, cookie::SESSION.as_bytes()) {
        Found::Absent => Err(Cause::NoCookie),
        Found::Conflicting => Err(Cause::Conflicting),
        Found::One(value) => Ok(value),
    }
}
