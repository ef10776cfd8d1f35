//! May this request pass?
//!
//! [`Access::decide`] is the one place that answers, and a [`Permit`] is the only way to an
//! upstream. The room knows routes, sessions and rules, and keeps tokens fresh ([`Refresher`]); it
//! knows nothing of pages, redirects or how somebody signs in.
//!
//! A request with a fresh token pays one relaxed load and a comparison for that. One whose token
//! will end soon starts a refresh and passes at once; one whose token has ended is a
//! [`Decision::Wait`].
//!
//! An [`Access`] belongs to one worker and to one site: the settings that were in force when it was
//! made. What it hands out owns what it needs, so a request keeps its site to its end, and a
//! permit is cloned without a counter that several workers write to.
//!
//! Forgetting to ask does not compile: every field of a [`Permit`] is private to this room, and no
//! function but [`Access::decide`] and what continues its decision makes one.
//!
//! ```
//! use sidegate::access::Permit;
//!
//! fn only_looks_at(permit: &Permit) -> &str {
//!     permit.route().name()
//! }
//! ```
//!
//! The same function, with one word more, fails because the field is private and for no other
//! reason (E0616):
//!
//! ```compile_fail,E0616
//! use sidegate::access::Permit;
//!
//! fn only_looks_at(permit: &Permit) -> &str {
//!     permit.route.name()
//! }
//! ```
//!
//! And a permit cannot be put together from parts that somebody has, even from those of another
//! permit (E0451):
//!
//! ```compile_fail,E0451
//! use sidegate::access::Permit;
//!
//! fn let_pass(permit: Permit) -> Permit {
//!     Permit { ..permit }
//! }
//! ```

mod backoff;
mod flight;
mod index;
mod outcome;
mod permit;
mod recent;
mod recovery;
mod refresh;
mod report;
mod route;
mod rule;
mod unstored;
mod wait;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, header};
use tokio::time::Instant;

pub(crate) use self::backoff::FailureLocation;
use self::backoff::SessionFailure;
use self::outcome::Fetched;
use self::permit::Cookies;
pub use self::permit::Permit;
pub(crate) use self::recent::Recent;
pub(crate) use self::recovery::{Content, Recovery, Replayable, SentRequest, TokenRefusal};
pub(crate) use self::refresh::Refresher;
pub(crate) use self::route::OnRefusal;
use self::route::WorkerRoutes;
pub use self::route::{Route, RouteError, RouteSettings, RouteTable};
use self::rule::Verdict;
use self::wait::wait_for;
pub(crate) use self::wait::{Unavailable, Wait};
use crate::clock::Timestamp;
use crate::fields::View;
use crate::fields::cookie::{self as cookies, Found};
use crate::provider::{Provider, Providers};
use crate::session::{Lookup, Session, SessionId, Sessions, cookie};
use crate::target::Target;
use crate::upstream::AssertionNames;

/// One worker's view of one site's routes, and of who is signed in. Deciding takes no lock.
#[derive(Debug)]
pub(crate) struct Access {
    routes: WorkerRoutes,
    /// Whether some route has tokens refreshed because an app refuses them, which can happen at
    /// any time.
    refreshes_on_refusal: bool,
    /// The fields that tell an app who is signed in.
    names: AssertionNames,
    /// The providers of this site.
    providers: Arc<Providers>,
    /// How long a request waits for its session.
    max_wait: Duration,
    sessions: Arc<Sessions>,
    refresher: Arc<Refresher>,
}

/// What [`Access::new`] takes from the settings.
#[derive(Debug)]
pub struct Settings<'a> {
    /// The routes.
    pub routes: &'a RouteTable,
    /// The fields that tell an app who is signed in.
    pub(crate) names: &'a AssertionNames,
    /// The providers by their configured names.
    pub providers: &'a Arc<Providers>,
    /// How long a request waits for a session that has to be refreshed or fetched first.
    pub(crate) max_wait: Duration,
}

/// What a request may do.
#[derive(Debug)]
#[must_use]
pub(crate) enum Decision {
    /// It may pass.
    Permit(Permit),
    /// It needs a session, and has none that counts here.
    Challenge(Challenge),
    /// Its person is known and may not use the route.
    Forbid(Forbid),
    /// No route takes it.
    NoRoute,
    /// Its session is there, but cannot be used now.
    Unavailable(Unavailable),
    /// Its session has to be refreshed or fetched first.
    Wait(Wait),
}

/// A request that needs a login.
#[derive(Debug)]
pub(crate) struct Challenge {
    /// The route it wants.
    pub route: Rc<Route>,
    /// Why no session counts.
    pub(crate) cause: Cause,
    /// The live session, if it is one of a provider that does not count here.
    pub(crate) other: Option<Arc<Session>>,
}

/// A request of somebody who may not use the route.
#[derive(Debug)]
pub(crate) struct Forbid {
    /// The route it wants.
    pub route: Rc<Route>,
    /// Who is signed in.
    pub(crate) session: Arc<Session>,
}

/// Why a request has no session that counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Cause {
    /// Two session cookies with different values came: one of them is not ours, and nobody can
    /// tell which.
    Conflicting,
    /// The session has passed its idle or absolute deadline.
    Expired,
    /// The provider says that the session's grant has ended, or somebody signed out a moment ago.
    GrantEnded,
    /// The cookie's value is not a session id.
    Malformed,
    /// No session cookie came.
    NoCookie,
    /// The session was opened by another process, or by this one before a restart.
    OtherInstance,
    /// The session is one of another provider.
    OtherProvider,
    /// The app refuses the session's access token.
    RefusedByApp,
    /// The access token has expired, and there is no refresh token.
    TokenExpired,
    /// The session was ended or pushed out, or never existed.
    Unknown,
}

impl Cause {
    /// A stable code for logs.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Conflicting => "conflicting_cookies",
            Self::Expired => "session_expired",
            Self::GrantEnded => "grant_ended",
            Self::Malformed => "malformed_cookie",
            Self::NoCookie => "no_cookie",
            Self::OtherInstance => "session_of_other_instance",
            Self::OtherProvider => "session_of_other_provider",
            Self::RefusedByApp => "refused_by_app",
            Self::TokenExpired => "token_expired",
            Self::Unknown => "session_unknown",
        }
    }
}

impl Access {
    /// Makes one worker's copy of what a site has.
    pub(crate) fn new(
        settings: &Settings<'_>,
        sessions: Arc<Sessions>,
        refresher: Arc<Refresher>,
    ) -> Rc<Self> {
        let mut on_refusal = settings.routes.iter().map(|route| route.on_refusal);
        Rc::new(Self {
            refreshes_on_refusal: on_refusal.any(|what| what == OnRefusal::RefreshAndRetry),
            routes: settings.routes.for_worker(),
            names: settings.names.clone(),
            providers: Arc::clone(settings.providers),
            max_wait: settings.max_wait,
            sessions,
            refresher,
        })
    }

    /// The routes, most specific first.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().map(|route| &**route)
    }

    /// The time until which a request that comes now waits.
    fn deadline(&self) -> Instant {
        let now = self.refresher.clock().instant();
        now.checked_add(self.max_wait).unwrap_or(now)
    }

    /// The provider that signed a session's person in.
    fn provider(&self, session: &Session) -> Option<&Arc<Provider>> {
        self.providers.get(session.provider())
    }

    /// Decides about one request by its canonical target, its method and cookies, and the time.
    /// `recent` is the session that its connection used last.
    ///
    /// On a public route a session counts when there is one, and its absence does not matter.
    pub(crate) fn decide(
        self: &Rc<Self>,
        (method, fields): (&Method, &(impl View + ?Sized)),
        target: &Target,
        recent: &Recent,
        now: Timestamp,
    ) -> Decision {
        let Some(route) = self.routes.find(target) else {
            return Decision::NoRoute;
        };
        if route.allow_preflight && is_preflight(method, fields) {
            return Decision::Permit(self.permit(route, None));
        }
        let line = cookies::only_line(fields);
        if let Some(known) = line.and_then(|line| recent.by_line(line, &self.sessions, now)) {
            let (session, others) = known;
            let mut decision = self.decide_for_session(route, session, now, None);
            if let Decision::Permit(permit) = &mut decision {
                permit.cookies = Cookies::Read(others);
            }
            return decision;
        }
        let cookie = match session_cookie(fields) {
            Ok(cookie) => cookie,
            Err(cause) => return self.without_session(route, cause, None),
        };
        if let Some(session) = recent.by_cookie(cookie, &self.sessions, now) {
            return self.decide_for_session(route, session, now, None);
        }
        let Some(id) = SessionId::parse(cookie) else {
            return self.without_session(route, Cause::Malformed, None);
        };
        match self.sessions.find(&id, now) {
            Lookup::Live(session) => {
                recent.note((cookie, line), &session, now);
                self.decide_for_session(route, session, now, None)
            }
            Lookup::Away => Wait::for_session(self, route, id),
            Lookup::Expired => self.without_session(route, Cause::Expired, None),
            Lookup::OtherInstance => self.without_session(route, Cause::OtherInstance, None),
            Lookup::Unknown => self.without_session(route, Cause::Unknown, None),
        }
    }

    /// Decides about a session, whatever the age of its token. A request that has waited before
    /// goes on waiting until `deadline`.
    fn decide_for_session(
        self: &Rc<Self>,
        route: &Rc<Route>,
        session: Arc<Session>,
        now: Timestamp,
        deadline: Option<Instant>,
    ) -> Decision {
        if route.provider(session.provider()).is_none() {
            return self.without_session(route, Cause::OtherProvider, Some(session));
        }
        if !session.is_due(now) {
            return self.apply_rule(route, session);
        }
        if !session.tokens().is_expired(now) {
            self.refresher.refresh_ahead(&session, now);
            return self.apply_rule(route, session);
        }
        if session.tokens().refresh_token().is_none() {
            return self.without_session(route, Cause::TokenExpired, None);
        }
        match self.refresher.join(&session, now, self.max_wait) {
            Ok(waiter) => {
                let deadline = deadline.unwrap_or_else(|| self.deadline());
                Wait::for_refresh(self, route, waiter, deadline)
            }
            Err(failure) => self.unavailable(route, failure),
        }
    }

    /// The right to pass, as the person of `session` or as nobody.
    fn permit(self: &Rc<Self>, route: &Rc<Route>, session: Option<Arc<Session>>) -> Permit {
        Permit {
            access: Rc::clone(self),
            route: Rc::clone(route),
            session,
            cookies: Cookies::Unread,
        }
    }

    /// Decides about a person.
    fn apply_rule(self: &Rc<Self>, route: &Rc<Route>, session: Arc<Session>) -> Decision {
        match route.rule.check(session.identity()) {
            Verdict::Allowed => Decision::Permit(self.permit(route, Some(session))),
            Verdict::Refused => {
                let route = Rc::clone(route);
                Decision::Forbid(Forbid { route, session })
            }
        }
    }

    /// Decides about a request without a session that counts.
    fn without_session(
        self: &Rc<Self>,
        route: &Rc<Route>,
        cause: Cause,
        other: Option<Arc<Session>>,
    ) -> Decision {
        if route.is_public() {
            return Decision::Permit(self.permit(route, None));
        }
        Decision::Challenge(Challenge {
            route: Rc::clone(route),
            cause,
            other,
        })
    }

    /// Decides about a request whose session cannot be used now. On a public route the request
    /// passes as nobody's.
    fn unavailable(self: &Rc<Self>, route: &Rc<Route>, failure: SessionFailure) -> Decision {
        if route.is_public() {
            return Decision::Permit(self.permit(route, None));
        }
        Decision::Unavailable(Unavailable {
            route: Rc::clone(route),
            reason: failure.reason.code,
            location: failure.reason.location,
            retry_after: failure.retry_after,
        })
    }

    /// The session id that a browser brings, and its session if that is live, whatever it may be
    /// used for. One whose token has expired is live as long as it can be refreshed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn session_of(
        &self,
        fields: &(impl View + ?Sized),
        now: Timestamp,
    ) -> Option<(SessionId, Option<Arc<Session>>)> {
        let id = session_id(fields).ok()?;
        let session = self.find_session(&id, now).await.ok();
        Some((id, session))
    }

    /// The live session that a browser brings, of whatever provider. One whose token has expired is
    /// live as long as it can be refreshed.
    ///
    /// # Errors
    ///
    /// Why there is none.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn live_session(
        &self,
        fields: &(impl View + ?Sized),
        now: Timestamp,
    ) -> Result<Arc<Session>, Cause> {
        self.find_session(&session_id(fields)?, now).await
    }

    async fn find_session(&self, id: &SessionId, now: Timestamp) -> Result<Arc<Session>, Cause> {
        let mut found = self.sessions.find(id, now);
        if let Lookup::Away = found {
            let waiter = self.refresher.fetch(id.key());
            let fetched = wait_for(waiter, self.deadline(), self.refresher.clock()).await;
            if let Fetched::InMemory = fetched {
                found = self.sessions.find(id, now);
            }
        }
        let session = match found {
            Lookup::Expired => return Err(Cause::Expired),
            Lookup::OtherInstance => return Err(Cause::OtherInstance),
            // A store that does not answer has no session to show; nothing is ended by that.
            Lookup::Away | Lookup::Unknown => return Err(Cause::Unknown),
            Lookup::Live(session) => session,
        };
        let tokens = session.tokens();
        if tokens.is_expired(now) && tokens.refresh_token().is_none() {
            return Err(Cause::TokenExpired);
        }
        Ok(session)
    }
}

/// The one session id that a request brings.
fn session_id(fields: &(impl View + ?Sized)) -> Result<SessionId, Cause> {
    SessionId::parse(session_cookie(fields)?).ok_or(Cause::Malformed)
}

/// The one value that it brings for one.
fn session_cookie(fields: &(impl View + ?Sized)) -> Result<&[u8], Cause> {
    match cookies::find(fields, cookie::SESSION.as_bytes()) {
        Found::Absent => Err(Cause::NoCookie),
        Found::Conflicting => Err(Cause::Conflicting),
        Found::One(value) => Ok(value),
    }
}

/// A CORS preflight as the Fetch standard defines it.
fn is_preflight(method: &Method, fields: &(impl View + ?Sized)) -> bool {
    method == Method::OPTIONS
        && fields.has(&header::ORIGIN)
        && fields.has(&header::ACCESS_CONTROL_REQUEST_METHOD)
}

#[cfg(test)]
mod tests;
