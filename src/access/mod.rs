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
//! Forgetting to ask does not compile, because nobody else can make a permit:
//!
//! ```compile_fail
//! use sidegate::access::{Permit, Route};
//!
//! fn let_everybody_in(route: &Route) -> Permit<'_> {
//!     Permit { route, session: None }
//! }
//! ```

mod flight;
mod index;
mod recent;
mod recovery;
mod refresh;
mod report;
mod route;
mod rule;
mod trouble;
mod unstored;
mod wait;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use http_body::Body;
use tokio::time::Instant;

pub use self::recent::Recent;
pub use self::recovery::{Content, Recovery, Refused, Replayable, Sent};
pub use self::refresh::Refresher;
pub use self::route::{OnRefusal, ProviderNames, Route, RouteError, RouteSettings, RouteTable};
use self::rule::Verdict;
pub use self::rule::{AnyOf, Rule};
use self::trouble::Failure;
use self::wait::seated;
pub use self::wait::{Unavailable, Wait, Whereabouts};
use crate::clock::Timestamp;
use crate::fields::View;
use crate::fields::cookie::{self as cookies, Found, Others};
use crate::session::{Lookup, Session, SessionId, Sessions, cookie};
use crate::target::Target;
use crate::upstream::{Answering, AssertionNames, Pools, assertions};

/// Routes, and who is signed in. Shared by all workers; deciding takes no lock.
#[derive(Debug)]
pub struct Access {
    routes: RouteTable,
    /// Whether the apps' refusals have tokens refreshed, at whatever time.
    refreshes_refused: bool,
    sessions: Arc<Sessions>,
    refresher: Arc<Refresher>,
}

/// What a request may do.
#[derive(Debug)]
#[must_use]
pub enum Decision<'a> {
    /// It may pass.
    Permit(Permit<'a>),
    /// It needs a session, and has none that counts here.
    Challenge(Challenge<'a>),
    /// Its person is known and may not use the route.
    Forbid(Forbid<'a>),
    /// No route takes it.
    NoRoute,
    /// Its session is there, but cannot be used now.
    Unavailable(Unavailable<'a>),
    /// Its session has to be refreshed or fetched first.
    Wait(Wait<'a>),
}

/// The right to send one request to one upstream, as one person or as nobody. Only
/// [`Access::decide`] makes one.
#[derive(Debug)]
#[must_use]
pub struct Permit<'a> {
    route: &'a Route,
    session: Option<Arc<Session>>,
    cookies: Cookies,
}

/// What the app gets of the cookies that came.
#[derive(Debug)]
enum Cookies {
    /// Those that are not ours; they are still to be looked for.
    Others,
    /// This line, or none.
    Known(Option<HeaderValue>),
}

/// A request that needs a login.
#[derive(Debug)]
pub struct Challenge<'a> {
    /// The route it wants.
    pub route: &'a Route,
    /// Why no session counts.
    pub cause: Cause,
    /// The live session, if it is one of a provider that does not count here.
    pub other: Option<Arc<Session>>,
}

/// A request of somebody who may not use the route.
#[derive(Debug)]
pub struct Forbid<'a> {
    /// The route it wants.
    pub route: &'a Route,
    /// Who is signed in.
    pub session: Arc<Session>,
}

/// Why a request has no session that counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
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
    pub fn reason(self) -> &'static str {
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
    /// Brings the parts together.
    pub fn new(routes: RouteTable, sessions: Arc<Sessions>, refresher: Arc<Refresher>) -> Self {
        let mut on_refusal = routes.iter().map(|route| route.on_refusal);
        let refreshes_refused = on_refusal.any(|what| what == OnRefusal::RefreshAndRetry);
        drop(on_refusal);
        Self {
            routes,
            refreshes_refused,
            sessions,
            refresher,
        }
    }

    /// The routes.
    pub fn routes(&self) -> &RouteTable {
        &self.routes
    }

    /// Decides about one request by its canonical target, its method and cookies, and the time.
    /// `recent` is the session that its connection used last.
    ///
    /// On a public route a session counts when there is one, and its absence does not matter.
    pub fn decide(
        &self,
        (method, fields): (&Method, &(impl View + ?Sized)),
        target: &Target,
        recent: &Recent,
        now: Timestamp,
    ) -> Decision<'_> {
        let Some(route) = self.routes.find(target) else {
            return Decision::NoRoute;
        };
        if route.allow_preflight && is_preflight(method, fields) {
            return Decision::Permit(Permit {
                route,
                session: None,
                cookies: Cookies::Others,
            });
        }
        let line = cookies::only_line(fields);
        if let Some(known) = line.and_then(|line| recent.line(line, &self.sessions, now)) {
            let (session, others) = known;
            let mut decision = self.weigh(route, session, now, None);
            if let Decision::Permit(permit) = &mut decision {
                permit.cookies = Cookies::Known(others);
            }
            return decision;
        }
        let cookie = match session_cookie(fields) {
            Ok(cookie) => cookie,
            Err(cause) => return absent(route, cause, None),
        };
        if let Some(session) = recent.session(cookie, &self.sessions, now) {
            return self.weigh(route, session, now, None);
        }
        let Some(id) = SessionId::parse(cookie) else {
            return absent(route, Cause::Malformed, None);
        };
        match self.sessions.find(&id, now) {
            Lookup::Live(session) => {
                recent.note((cookie, line), &session, now);
                self.weigh(route, session, now, None)
            }
            Lookup::Away => Wait::for_session((self, route), id),
            Lookup::Expired => absent(route, Cause::Expired, None),
            Lookup::OtherInstance => absent(route, Cause::OtherInstance, None),
            Lookup::Unknown => absent(route, Cause::Unknown, None),
        }
    }

    /// Decides about a session, whatever the age of its token. Who has waited already goes on
    /// waiting until `deadline`.
    fn weigh<'a>(
        &'a self,
        route: &'a Route,
        session: Arc<Session>,
        now: Timestamp,
        deadline: Option<Instant>,
    ) -> Decision<'a> {
        if route.provider(session.provider()).is_none() {
            return absent(route, Cause::OtherProvider, Some(session));
        }
        if !session.is_due(now) {
            return judge(route, session);
        }
        if !session.tokens().is_expired(now) {
            self.refresher.begin(&session, now);
            return judge(route, session);
        }
        if session.tokens().refresh_token().is_none() {
            return absent(route, Cause::TokenExpired, None);
        }
        match self.refresher.join(&session, now) {
            Ok(seat) => {
                let deadline = deadline.unwrap_or_else(|| self.refresher.deadline());
                Wait::for_refresh((self, route), seat, deadline)
            }
            Err(failure) => unavailable(route, failure),
        }
    }

    /// The session id that a browser brings, and its session if that is live, whatever it may be
    /// used for. One whose token has expired is live as long as it can be refreshed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn session_of(
        &self,
        fields: &(impl View + ?Sized),
        now: Timestamp,
    ) -> Option<(SessionId, Option<Arc<Session>>)> {
        let id = session_id(fields).ok()?;
        let session = self.find(&id, now).await.ok();
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
    pub async fn live(
        &self,
        fields: &(impl View + ?Sized),
        now: Timestamp,
    ) -> Result<Arc<Session>, Cause> {
        self.find(&session_id(fields)?, now).await
    }

    async fn find(&self, id: &SessionId, now: Timestamp) -> Result<Arc<Session>, Cause> {
        let mut found = self.sessions.find(id, now);
        if let Lookup::Away = found {
            let seat = self.refresher.fetch(id.key());
            let fetched = seated(seat, self.refresher.deadline()).await;
            if let Ok(Ok(Some(_in_memory))) = fetched {
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

impl<'a> Permit<'a> {
    /// The route it is for.
    pub fn route(&self) -> &'a Route {
        self.route
    }

    /// What to remember of a request whose answer may make it worth sending once more, or its person
    /// worth asking again; nothing where neither can be.
    pub fn sent(&self) -> Option<Sent<'a>> {
        let session = self.session.as_ref()?;
        let wanted =
            self.route.on_refusal != OnRefusal::Pass || session.tokens().refresh_token().is_some();
        wanted.then(|| Sent {
            route: self.route,
            session: Arc::clone(session),
        })
    }

    /// Uses up the permit: writes who is signed in and the bearer token into the request, whose
    /// fields were stripped before, removes our cookies, and sends it on.
    ///
    /// # Errors
    ///
    /// [`crate::upstream::Error`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the upstream connection; the app may have acted, even if it was
    /// never polled.
    pub fn forward<B>(
        self,
        mut request: Request<B>,
        pools: &Pools<B>,
        names: &AssertionNames,
    ) -> Answering<B>
    where
        B: Body<Data = bytes::Bytes> + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let upstream = &self.route.upstream;
        self.write(request.headers_mut(), names);
        pools.send(upstream, request)
    }

    fn write(self, headers: &mut HeaderMap, names: &AssertionNames) {
        let session = self.session.as_deref();
        let written = written(self.route, (session, self.cookies), headers, names);
        // Not a loop: a chain that is driven from inside is walked part by part.
        written.for_each(|(name, value)| match value {
            Some(value) => drop(headers.insert(name, value)),
            None => drop(headers.remove(name)),
        });
    }
}

/// What is written over the fields of a request that may pass: each name with its only value or,
/// where none may be left, without.
fn written<'a, V: View + ?Sized>(
    route: &'a Route,
    (session, cookies): (Option<&'a Session>, Cookies),
    fields: &V,
    names: &'a AssertionNames,
) -> impl Iterator<Item = (&'a HeaderName, Option<HeaderValue>)> + use<'a, V> {
    let others = match cookies {
        Cookies::Known(line) => Some(line),
        Cookies::Others => match cookies::others(fields, cookie::is_own) {
            Others::All => None,
            Others::Line(line) => Some(Some(line)),
            Others::Nothing => Some(None),
        },
    };
    let identity = session.map(Session::identity);
    let bearer = session.map(|session| session.tokens().bearer());
    // Looked for only where an app is told.
    let told = session.filter(|_session| names.provider.is_some());
    let provider = told.and_then(|session| route.provider(session.provider()));
    let asserted = assertions(names, (identity, provider), bearer);
    let asserted = asserted.map(|(name, value)| (name, value.cloned()));
    let others = others.map(|line| (&header::COOKIE, line));
    others.into_iter().chain(asserted)
}

/// Decides about a person.
fn judge(route: &Route, session: Arc<Session>) -> Decision<'_> {
    match route.rule.judge(session.identity()) {
        Verdict::Allowed => Decision::Permit(Permit {
            route,
            session: Some(session),
            cookies: Cookies::Others,
        }),
        Verdict::Refused => Decision::Forbid(Forbid { route, session }),
    }
}

/// Decides about a request without a session that counts.
fn absent(route: &Route, cause: Cause, other: Option<Arc<Session>>) -> Decision<'_> {
    if route.is_public() {
        return Decision::Permit(Permit {
            route,
            session: None,
            cookies: Cookies::Others,
        });
    }
    Decision::Challenge(Challenge {
        route,
        cause,
        other,
    })
}

/// Decides about a request whose session cannot be used now. An open route is open to whom nobody
/// can be made of.
fn unavailable(route: &Route, failure: Failure) -> Decision<'_> {
    if route.is_public() {
        return absent(route, Cause::TokenExpired, None);
    }
    Decision::Unavailable(Unavailable {
        route,
        reason: failure.reason,
        retry_after: failure.retry_after,
    })
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
