//! May this request pass?
//!
//! [`Access::decide`] is the one place that answers, and a [`Permit`] is the only way to an
//! upstream. The room knows routes, sessions and rules; it knows nothing of pages, redirects or
//! how somebody signs in.
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

mod route;
mod rule;

use std::sync::Arc;

use http::{HeaderMap, Method, Request, Response, header};
use http_body::Body;

pub use self::route::{ProviderNames, Route, RouteError, RouteSettings, RouteTable};
use self::rule::Verdict;
pub use self::rule::{AnyOf, Rule};
use crate::clock::Timestamp;
use crate::fields::cookie::{self as cookies, Found};
use crate::session::{Lookup, Session, SessionId, Sessions, cookie};
use crate::target::Target;
use crate::upstream::{self, AssertionNames, Pools, ResponseBody, assert_identity};

/// Routes, and who is signed in. Shared by all workers; deciding takes no lock.
#[derive(Debug)]
pub struct Access {
    routes: RouteTable,
    sessions: Arc<Sessions>,
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
}

/// The right to send one request to one upstream, as one person or as nobody. Only
/// [`Access::decide`] makes one.
#[derive(Debug)]
#[must_use]
pub struct Permit<'a> {
    route: &'a Route,
    session: Option<Arc<Session>>,
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
    /// The cookie's value is not a session id.
    Malformed,
    /// No session cookie came.
    NoCookie,
    /// The session was opened by another process, or by this one before a restart.
    OtherInstance,
    /// The session is one of another provider.
    OtherProvider,
    /// The access token has expired.
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
            Self::Malformed => "malformed_cookie",
            Self::NoCookie => "no_cookie",
            Self::OtherInstance => "session_of_other_instance",
            Self::OtherProvider => "session_of_other_provider",
            Self::TokenExpired => "token_expired",
            Self::Unknown => "session_unknown",
        }
    }
}

impl Access {
    /// Brings the parts together.
    pub fn new(routes: RouteTable, sessions: Arc<Sessions>) -> Self {
        Self { routes, sessions }
    }

    /// The routes.
    pub fn routes(&self) -> &RouteTable {
        &self.routes
    }

    /// Decides about one request by its canonical target, its cookies and the time.
    ///
    /// On a public route a session counts when there is one, and its absence does not matter.
    pub fn decide(
        &self,
        method: &Method,
        headers: &HeaderMap,
        target: &Target,
        now: Timestamp,
    ) -> Decision<'_> {
        let Some(route) = self.routes.find(target) else {
            return Decision::NoRoute;
        };
        if route.allow_preflight && is_preflight(method, headers) {
            return Decision::Permit(Permit {
                route,
                session: None,
            });
        }
        let found = match self.live(headers, now) {
            Ok(session) if route.providers().any(|name| name == session.provider()) => Ok(session),
            Ok(session) => Err((Cause::OtherProvider, Some(session))),
            Err(cause) => Err((cause, None)),
        };
        match found {
            Err(_absent) if route.is_public() => Decision::Permit(Permit {
                route,
                session: None,
            }),
            Err((cause, other)) => Decision::Challenge(Challenge {
                route,
                cause,
                other,
            }),
            Ok(session) => match route.rule.judge(session.identity()) {
                Verdict::Allowed => Decision::Permit(Permit {
                    route,
                    session: Some(session),
                }),
                Verdict::Refused => Decision::Forbid(Forbid { route, session }),
            },
        }
    }

    /// The session id that a browser brings, and its session if that is live, whatever it may be
    /// used for.
    pub fn session_of(
        &self,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Option<(SessionId, Option<Arc<Session>>)> {
        let id = session_id(headers).ok()?;
        let session = match self.sessions.find(&id, now) {
            Lookup::Live(session) if !session.tokens().is_expired(now) => Some(session),
            Lookup::Live(_)
            | Lookup::Away
            | Lookup::Expired
            | Lookup::OtherInstance
            | Lookup::Unknown => None,
        };
        Some((id, session))
    }

    /// The live session that a browser brings, of whatever provider.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn live(&self, headers: &HeaderMap, now: Timestamp) -> Result<Arc<Session>, Cause> {
        match self.sessions.find(&session_id(headers)?, now) {
            Lookup::Expired => Err(Cause::Expired),
            Lookup::OtherInstance => Err(Cause::OtherInstance),
            Lookup::Away | Lookup::Unknown => Err(Cause::Unknown),
            Lookup::Live(session) if session.tokens().is_expired(now) => Err(Cause::TokenExpired),
            Lookup::Live(session) => Ok(session),
        }
    }
}

impl<'a> Permit<'a> {
    /// The route it is for.
    pub fn route(&self) -> &'a Route {
        self.route
    }

    /// Uses up the permit: writes who is signed in and the bearer token into the request, whose
    /// fields were stripped before, removes our cookies, and sends it on.
    ///
    /// # Errors
    ///
    /// [`upstream::Error`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the upstream connection.
    pub async fn forward<B>(
        self,
        mut request: Request<B>,
        pools: &Pools<B>,
        names: &AssertionNames,
    ) -> Result<Response<ResponseBody<B>>, upstream::Error>
    where
        B: Body<Data = bytes::Bytes> + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let headers = request.headers_mut();
        cookies::remove(headers, cookie::is_own);
        let session = self.session.as_ref();
        let identity = session.map(|session| session.identity());
        let bearer = session.map(|session| session.tokens().bearer());
        // Looked for only where an app is told.
        let told = session.filter(|_session| names.provider.is_some());
        let provider = told.and_then(|session| self.route.provider(session.provider()));
        assert_identity(headers, names, (identity, provider), bearer);
        pools.send(&self.route.upstream, request).await
    }
}

/// The one session id that a request brings.
fn session_id(headers: &HeaderMap) -> Result<SessionId, Cause> {
    match cookies::find(headers, cookie::SESSION.as_bytes()) {
        Found::Absent => Err(Cause::NoCookie),
        Found::Conflicting => Err(Cause::Conflicting),
        Found::One(value) => SessionId::parse(value).ok_or(Cause::Malformed),
    }
}

/// A CORS preflight as the Fetch standard defines it.
fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}
