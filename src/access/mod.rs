//! Decides whether a request may be forwarded.
//!
//! Only [`Access::decide`] makes decisions, and no request reaches an upstream without a
//! [`Permit`]. The module `access` uses routes, sessions and rules, and keeps access tokens fresh
//! ([`Refresher`]). The module `access` does not use pages, redirects or the login.
//!
//! If the access token of a request is fresh, the check of the token's age costs one relaxed atomic
//! load and a comparison. A request whose token expires soon starts a refresh and is permitted
//! without a wait. For a request whose token has expired, the decision is [`Decision::Wait`].
//!
//! An [`Access`] belongs to one worker and to one site. The values that [`Access::decide`] returns
//! own their data, so a reload does not change the site of a running request. Each worker has its
//! own copy of the routes, so workers do not write to the same reference counts.
//!
//! Other modules cannot forward a request without a decision, because they cannot create a
//! [`Permit`]: its fields are private to the module `access`. Permits are created by
//! [`Access::decide`], and by the code that decides again after a wait or after an app has refused
//! a token. No other code can create a permit.
//!
//! ```
//! use sidegate::access::Permit;
//!
//! fn only_looks_at(permit: &Permit) -> &str {
//!     permit.route().name()
//! }
//! ```
//!
//! The next function reads the private field `route`, so the function does not compile (E0616):
//!
//! ```compile_fail,E0616
//! use sidegate::access::Permit;
//!
//! fn only_looks_at(permit: &Permit) -> &str {
//!     permit.route.name()
//! }
//! ```
//!
//! Code outside the module cannot even copy the fields of a permit into a new permit (E0451):
//!
//! ```compile_fail,E0451
//! use sidegate::access::Permit;
//!
//! fn let_pass(permit: Permit) -> Permit {
//!     Permit { ..permit }
//! }
//! ```

mod addresses;
mod app_sign_out;
mod attempt;
mod backoff;
mod buffering;
mod bypass;
mod cross_site;
mod decision;
mod destination;
mod find_session;
mod flight;
mod freshness;
mod imagined;
mod index;
mod kept_forms;
#[cfg(test)]
mod lease_model;
mod lease_use;
mod outcome;
mod permit;
mod recent;
mod recovery;
mod refresh;
mod report;
mod rewrite;
mod route;
#[cfg(test)]
mod route_fixture;
mod route_settings;
mod route_table;
mod rule;
mod rule_text;
mod signed;
mod spelled;
mod static_answer;
mod stream;
mod unstored;
mod unusual;
mod wait;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, header};
use tokio::time::Instant;

pub(crate) use self::backoff::FailureLocation;
use self::backoff::SessionFailure;
pub(crate) use self::buffering::BufferSettings;
pub(crate) use self::bypass::Bypass;
pub(crate) use self::decision::{
    Cause, Challenge, Decision, Forbid, PermittedAnswer, REFUSED_BY_RULE, SignInFirst,
};
use self::destination::Destination;
use self::find_session::session_cookie;
use self::permit::Cookies;
pub use self::permit::Permit;
pub(crate) use self::permit::{Exchanging, RequestClient};
pub(crate) use self::recent::Recent;
pub(crate) use self::recovery::{Content, Recovery, Replayable, SentRequest, TokenRefusal};
pub(crate) use self::refresh::Refresher;
pub(crate) use self::rewrite::RewriteSettings;
pub use self::route::Route;
pub use self::route_settings::RouteSettings;
pub(crate) use self::route_settings::{CacheSetting, OnRefusal};
use self::route_table::WorkerRoutes;
pub use self::route_table::{RouteError, RouteTable};
use self::rule::Verdict;
pub(crate) use self::rule::{KnownClaims, email_domain};
use self::signed::SignedAssertions;
pub use self::static_answer::AnswerError;
#[cfg(test)]
pub(crate) use self::static_answer::AnswerSettings;
pub(crate) use self::static_answer::{AnswerContent, StaticAnswer};
pub(crate) use self::stream::{Continues, StreamKind, StreamPermit, StreamSettings};
pub(crate) use self::wait::{Unavailable, Wait};
use crate::clock::Timestamp;
use crate::fields::View;
use crate::fields::cookie as cookies;
use crate::provider::{Provider, Providers};
use crate::session::{Lookup, Session, SessionIds, Sessions};
use crate::target::{Forms, Target};

/// One worker's copy of a site's routes, with access to sessions. The worker takes no lock to make
/// a decision.
#[derive(Debug)]
pub(crate) struct Access {
    routes: WorkerRoutes,
    /// Whether at least one route lets the gateway refresh a token that an app has refused. After
    /// an app has refused a token, the gateway starts the refresh even if the token does not expire
    /// soon.
    refreshes_on_refusal: bool,
    /// Whether at least one route keeps forms that arrive after the session has ended.
    keeps_forms: bool,
    /// The unusual forms of a path that at least one route allows.
    allowed_forms: Forms,
    /// The providers of this site.
    providers: Arc<Providers>,
    /// The longest time that a request waits for its session.
    max_wait: Duration,
    sessions: Arc<Sessions>,
    /// Reads the session cookies of requests.
    session_ids: Arc<SessionIds>,
    refresher: Arc<Refresher>,
    signed: SignedAssertions,
}

/// The settings of an [`Access`].
#[derive(Debug)]
pub struct Settings<'a> {
    /// The routes.
    pub routes: &'a RouteTable,
    /// The providers, each with its configured name.
    pub providers: &'a Arc<Providers>,
    /// The longest time that a request waits until its session is refreshed or fetched.
    pub(crate) max_wait: Duration,
    /// Reads the session cookies of requests.
    pub(crate) session_ids: &'a Arc<SessionIds>,
}

impl Access {
    /// Creates the [`Access`] of one worker from the settings of a site.
    pub(crate) fn new(
        settings: &Settings<'_>,
        sessions: Arc<Sessions>,
        refresher: Arc<Refresher>,
    ) -> Rc<Self> {
        let mut on_refusal = settings.routes.iter().map(|route| route.on_refusal);
        Rc::new(Self {
            refreshes_on_refusal: on_refusal.any(|what| what == OnRefusal::RefreshAndRetry),
            keeps_forms: settings.routes.iter().any(Route::keeps_forms),
            allowed_forms: settings.routes.allowed_forms(),
            routes: settings.routes.for_worker(),
            providers: Arc::clone(settings.providers),
            max_wait: settings.max_wait,
            session_ids: Arc::clone(settings.session_ids),
            sessions,
            refresher,
            signed: SignedAssertions::default(),
        })
    }

    /// Returns all routes. The routes are sorted: the most specific route comes first.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().map(|route| &**route)
    }

    /// Returns the time at which a request that arrives now must stop waiting.
    fn deadline(&self) -> Instant {
        let now = self.refresher.clock().instant();
        now.checked_add(self.max_wait).unwrap_or(now)
    }

    /// Returns the provider at which the user of the session signed in.
    fn provider(&self, session: &Session) -> Option<&Arc<Provider>> {
        self.providers.get(session.provider())
    }

    /// Decides about one request. The decision depends on the method, the fields, the canonical
    /// target and the time of the request. `recent` contains the session that the previous request
    /// of the connection used.
    ///
    /// A public route needs no session. If the request has a session, the permit contains the
    /// session.
    pub(crate) fn decide(
        self: &Rc<Self>,
        (method, fields): (&Method, &(impl View + ?Sized)),
        target: &Target,
        recent: &Recent,
        now: Timestamp,
    ) -> Decision {
        self.on_route((method, fields), target, |route| {
            self.decide_by_cookie(route, fields, (target, recent), now)
        })
    }

    /// Finds the route of a request. If the decision depends on the session of the request, `then`
    /// makes the decision.
    #[inline]
    fn on_route(
        self: &Rc<Self>,
        (method, fields): (&Method, &(impl View + ?Sized)),
        target: &Target,
        then: impl FnOnce(&Rc<Route>) -> Decision,
    ) -> Decision {
        let Some(route) = self.routes.find(target) else {
            return Decision::NoRoute;
        };
        // A browser sends a preflight without cookies, so there is no session to check.
        if route.allow_preflight && is_preflight(method, fields) {
            return self.permit(route, None);
        }
        then(route)
    }

    /// Decides about a request with the session that the cookie of the request names.
    #[inline]
    fn decide_by_cookie(
        self: &Rc<Self>,
        route: &Rc<Route>,
        fields: &(impl View + ?Sized),
        (target, recent): (&Target, &Recent),
        now: Timestamp,
    ) -> Decision {
        let line = cookies::only_line(fields);
        let host = self.session_ids.are_shared().then(|| target.authority());
        // If the previous request of the connection had the same `Cookie` line, the line is not
        // parsed again.
        if let Some(known) = line.and_then(|line| recent.by_line((line, host), &self.sessions, now))
        {
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
        if let Some(session) = recent.by_cookie((cookie, host), &self.sessions, now) {
            return self.decide_for_session(route, session, now, None);
        }
        let Some(named) = self.session_ids.read(cookie, target.authority()) else {
            return self.without_session(route, Cause::Malformed, None);
        };
        match self.sessions.find(named, now) {
            Lookup::Live(session) => {
                recent.note((cookie, line, host), &session, now);
                self.decide_for_session(route, session, now, None)
            }
            Lookup::Away => Wait::for_session(self, route, named),
            Lookup::Expired => self.without_session(route, Cause::Expired, None),
            Lookup::OtherInstance => self.without_session(route, Cause::OtherInstance, None),
            Lookup::Unknown => self.without_session(route, Cause::Unknown, None),
        }
    }

    /// Decides about a request that has a session. The token of the session can be fresh, due for a
    /// refresh, or expired. All waits of one request have the same deadline. `deadline` is the
    /// deadline of the request's first wait, or `None` if the request has not waited yet.
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
        if let Some(limits) = &route.freshness
            && let Some(cause) = limits.exceeded(&session, now)
        {
            return self.without_session(route, cause, None);
        }
        if !session.is_due(now) {
            return self.apply_rule(route, session);
        }
        if !session.tokens().is_expired(now) {
            // The token is still valid, so this request does not wait for the refresh.
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

    /// Permits the request of the user of `session`, or a request without a user.
    fn permit(self: &Rc<Self>, route: &Rc<Route>, session: Option<Arc<Session>>) -> Decision {
        let route = Rc::clone(route);
        match &route.destination {
            Destination::App(_) | Destination::AskingProxy => Decision::Permit(Permit {
                access: Rc::clone(self),
                route,
                session,
                cookies: Cookies::Unread,
            }),
            Destination::Answer(answer) => Decision::Answer(PermittedAnswer {
                answer: Arc::clone(answer),
                route,
                session,
            }),
        }
    }

    /// Decides whether the user of a session may use the route.
    fn apply_rule(self: &Rc<Self>, route: &Rc<Route>, session: Arc<Session>) -> Decision {
        if route.would_refuse(&session) {
            self.refresher.report_unenforced(route, &session);
        }
        self.judge(route, session)
    }

    /// Makes the decision of the rule of the route, but reports nothing.
    fn judge(self: &Rc<Self>, route: &Rc<Route>, session: Arc<Session>) -> Decision {
        match route.rule.check(session.identity()) {
            Verdict::Allowed => self.permit(route, Some(session)),
            Verdict::Refused => {
                let route = Rc::clone(route);
                Decision::Forbid(Forbid { route, session })
            }
        }
    }

    /// Decides about a request that has no session, or whose session the route does not accept.
    fn without_session(
        self: &Rc<Self>,
        route: &Rc<Route>,
        cause: Cause,
        other: Option<Arc<Session>>,
    ) -> Decision {
        if route.is_public() {
            let signs_in = route.signs_in_silently() && cause.allows_silent_sign_in();
            if signs_in && let Decision::Permit(permit) = self.permit(route, None) {
                return Decision::SignInFirst(SignInFirst { permit, cause });
            }
            return self.permit(route, None);
        }
        Decision::Challenge(Challenge {
            route: Rc::clone(route),
            cause,
            other,
        })
    }

    /// Decides about a request whose session cannot be used now, for example during an outage. On a
    /// public route, the request is permitted without a user.
    fn unavailable(self: &Rc<Self>, route: &Rc<Route>, failure: SessionFailure) -> Decision {
        if route.is_public() {
            return self.permit(route, None);
        }
        Decision::Unavailable(Unavailable {
            route: Rc::clone(route),
            reason: failure.reason.code,
            location: failure.reason.location,
            retry_after: failure.retry_after,
        })
    }
}

/// Whether a request is a CORS preflight, as defined by the Fetch standard.
fn is_preflight(method: &Method, fields: &(impl View + ?Sized)) -> bool {
    method == Method::OPTIONS
        && fields.has(&header::ORIGIN)
        && fields.has(&header::ACCESS_CONTROL_REQUEST_METHOD)
}

#[cfg(test)]
mod tests;
