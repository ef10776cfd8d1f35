//! The explanation of a decision: what the gateway would do with a request, and why.
//!
//! [`explain_request`] performs steps 2 to 7 of the list in the crate documentation for a request
//! that nobody has sent. The code of these steps is the code that handles real requests. The
//! explanation opens no session, sends nothing and writes no event. The explanation contains no
//! token and no secret.

mod parts;
mod question;
mod text;

use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use tracing::dispatcher::{Dispatch, with_default};

use self::parts::{AppRequest, ExplainedReading, ExplainedRoute, ExplainedTarget, ExplainedUser};
use self::question::ImaginedRequest;
pub use self::question::{Question, QuestionError};
use super::forward::{own_answer, prepare};
use super::site::{Site, WorkerSite};
use super::static_answer::respond;
use super::{Body, Error, RequestContext};
use crate::access::{Cause, Challenge, Decision, Permit, PermittedAnswer, REFUSED_BY_RULE, Route};
use crate::fields::forwarded::{Client, Peer};
use crate::fields::request_id::X_REQUEST_ID;
use crate::fields::{self, TrailerSupport};
use crate::identity::Identity;
use crate::session::Session;
use crate::target::{Forms, RecentHost, Target};
use crate::telemetry::{DecisionLabel, chain};

/// What the gateway would do with a request, and why.
#[derive(Debug, Serialize)]
pub struct Explanation {
    method: String,
    url: String,
    /// The user. `None` for a request without a session.
    user: Option<ExplainedUser>,
    /// The canonical target. `None` if the gateway refuses the target.
    target: Option<ExplainedTarget>,
    /// All ways in which an app may read the path.
    readings: Vec<ExplainedReading>,
    /// The route that decides.
    route: Option<ExplainedRoute>,
    /// The decision, as in the access log.
    decision: &'static str,
    /// The status code, if the gateway itself answers the request.
    status: Option<u16>,
    /// The reason code of an answer of the gateway.
    reason: Option<&'static str>,
    /// The cause of the decision, for people.
    why: String,
    /// The request that the app gets, if the gateway permits the request.
    app_request: Option<AppRequest>,
}

/// Explains what the gateway would do with a request.
///
/// # Errors
///
/// [`QuestionError`].
pub(crate) fn explain_request(
    site: &Arc<Site>,
    question: &Question<'_>,
) -> Result<Explanation, QuestionError> {
    let site = WorkerSite::new(Arc::clone(site), &Rc::default());
    // The log must not contain events about a request that nobody has sent. `Dispatch::none` does not
    // change the filters of the process, so later requests do not become slower.
    with_default(&Dispatch::none(), || {
        let request = question.imagine(&site)?;
        Ok(site.explain(question, request))
    })
}

impl Explanation {
    /// Returns true if the request reaches the app, or gets the answer that its user wants.
    pub fn is_permitted(&self) -> bool {
        self.status.is_none_or(|status| status < 400)
    }

    /// Whether a reading of the path belongs to a route.
    fn has_routes(&self) -> bool {
        let mut readings = self.readings.iter();
        readings.any(|reading| !reading.routes.is_empty())
    }

    fn decide(&mut self, decision: DecisionLabel, why: impl Into<String>) {
        self.decision = decision.as_str();
        self.why = why.into();
    }

    fn refuse(&mut self, decision: DecisionLabel, error: &Error) {
        self.decide(decision, chain(error));
        self.answer(error.status(), Some(error.reason()));
    }

    fn answer(&mut self, status: StatusCode, reason: Option<&'static str>) {
        self.status = Some(status.as_u16());
        self.reason = reason;
    }
}

impl WorkerSite {
    fn explain(self: &Rc<Self>, question: &Question<'_>, request: ImaginedRequest) -> Explanation {
        let session = request.session.clone();
        let mut explanation = Explanation {
            method: question.method.to_owned(),
            url: question.url.to_owned(),
            user: session.as_deref().map(ExplainedUser::new),
            target: None,
            readings: self.explained_readings(&request.parts),
            route: None,
            decision: DecisionLabel::Refuse.as_str(),
            status: None,
            reason: None,
            why: String::new(),
            app_request: None,
        };
        if self.answer_probe(&request.parts).is_some() {
            let why = "Sidegate itself answers this health check: server.ping_path and ready_path";
            explanation.decide(DecisionLabel::Own, why);
            return explanation;
        }
        match self.receive_imagined(request) {
            Ok(context) => {
                explanation.target = Some(ExplainedTarget::new(&context.target));
                self.explain_decision(context, session, &mut explanation);
            }
            Err(error) => explanation.refuse(DecisionLabel::Refuse, &error),
        }
        explanation
    }

    /// Returns the readings of the path, also if no route allows the unusual forms of the path.
    fn explained_readings(&self, parts: &Parts) -> Vec<ExplainedReading> {
        let usual = Target::from_request(parts).ok().map(|target| {
            let readings = target.readings();
            (target, readings)
        });
        let found = usual.or_else(|| Target::with_unusual_path(parts, Forms::ALL));
        let Some((target, readings)) = found else {
            return Vec::new();
        };
        let explained = readings.iter().map(|reading| {
            let routes = self.access.routes_of(&target, reading);
            ExplainedReading::new(reading, target.forms(), &routes)
        });
        explained.collect()
    }

    /// Performs steps 2 and 3 of the list in the crate documentation.
    fn receive_imagined(&self, request: ImaginedRequest) -> Result<RequestContext, Error> {
        let ImaginedRequest {
            mut parts,
            connection,
            ..
        } = request;
        // An explanation must not use up the daily warning about a refused path.
        let target = self.target_without_warning(&parts, &RecentHost::default())?;
        let public_url = self.public_url(target.authority());
        let public_url = public_url.ok_or(Error::UnknownHost)?;
        let scheme = self.scheme(connection, &public_url)?;
        let (peer, trusted) = (Peer::new(connection.peer.ip()), &self.settings().trusted);
        let client = Client::read(&peer, scheme, &parts.headers, trusted);
        fields::inbound(&mut parts.headers, self.owned(), false);
        let id = HeaderValue::from_static("explanation");
        parts.headers.insert(X_REQUEST_ID, id);
        Ok(RequestContext {
            parts,
            target,
            public_url,
            client,
            trailers: TrailerSupport::None,
            upgrade: None,
            auth_check: None,
        })
    }

    /// Performs steps 4 to 6 of the list in the crate documentation.
    fn explain_decision(
        &self,
        context: RequestContext,
        session: Option<Arc<Session>>,
        explanation: &mut Explanation,
    ) {
        if self.is_own(context.target.path()) {
            explanation.decide(
                DecisionLabel::Own,
                format!(
                    "Sidegate itself answers {} and all paths below {}",
                    self.login().redirection().path(),
                    self.own().prefix()
                ),
            );
            return;
        }
        let head = (&context.parts.method, &context.parts.headers);
        let target = &context.target;
        let decision = self.access.decide_as(head, target, session);
        let route = self.access.route_of(target);
        explanation.route = route.map(|route| ExplainedRoute::new(route, target.path()));
        match decision {
            Decision::Permit(permit) => self.explain_permit(context, permit, explanation),
            Decision::SignInFirst(first) => {
                self.explain_permit(context, first.permit, explanation);
            }
            Decision::Answer(answer) => explain_answer(&context, &answer, explanation),
            Decision::Challenge(challenge) => explain_challenge(&challenge, explanation),
            Decision::Forbid(_) => {
                explanation.decide(DecisionLabel::Forbid, "no entry of the rule names the user");
                explanation.answer(StatusCode::FORBIDDEN, Some(REFUSED_BY_RULE));
            }
            Decision::NoRoute => {
                explanation.refuse(DecisionLabel::NoRoute, &Error::NoRoute);
                if explanation.has_routes() {
                    let why = "apps may read the path as a path of several routes, and no rule of \
                               these routes is as strict as all others";
                    explanation.decide(DecisionLabel::NoRoute, why);
                }
            }
            // The tokens of an imagined session never expire.
            Decision::Unavailable(_) | Decision::Wait(_) => {
                explanation.decide(DecisionLabel::Unavailable, "the session cannot be used");
                explanation.answer(StatusCode::SERVICE_UNAVAILABLE, None);
            }
        }
    }

    /// Performs step 7 of the list in the crate documentation, but sends nothing.
    fn explain_permit(
        &self,
        mut context: RequestContext,
        mut permit: Permit,
        explanation: &mut Explanation,
    ) {
        let route = Rc::clone(permit.route());
        let why = permission(&route, permit.identity());
        explanation.decide(permit.label(), why);
        if route.is_for_auth_checks() {
            explanation.why.push_str(
                "; only an auth check gets this permission, and any other request gets 404",
            );
            // The answer to an auth check contains only the fields of the permit.
            context.parts.headers.clear();
        } else {
            if let Some(answer) = own_answer(&mut context, &route) {
                explain_own_answer(&answer, explanation);
                return;
            }
            if let Err(error) = prepare(&mut context, &route) {
                explanation.refuse(DecisionLabel::Refuse, &error);
                return;
            }
        }
        permit.write(&mut context.parts.headers);
        let removed = self.owned().removed_names();
        explanation.app_request = Some(AppRequest::new(&context.parts, &permit, removed));
    }
}

/// Returns the cause of a permission.
fn permission(route: &Route, identity: Option<&Identity>) -> String {
    if route.is_public() {
        return "the route is open to everybody".to_owned();
    }
    let Some(identity) = identity else {
        return "the route forwards CORS preflights without a session".to_owned();
    };
    match route.entry_of(identity) {
        Some(entry) => format!("{entry} of the rule names the user"),
        None if route.is_enforced() => "the route admits every user who is signed in".to_owned(),
        None => "no entry of the rule names the user, but enforce = false".to_owned(),
    }
}

fn explain_challenge(challenge: &Challenge, explanation: &mut Explanation) {
    let cause = match challenge.cause {
        Cause::OtherProvider => "the route does not accept sessions of the provider of the user",
        Cause::Conflicting
        | Cause::Expired
        | Cause::GrantEnded
        | Cause::Malformed
        | Cause::NoCookie
        | Cause::OtherInstance
        | Cause::Paused
        | Cause::RefusedByApp
        | Cause::SignInTooOld
        | Cause::TokenExpired
        | Cause::Unreachable
        | Cause::Unknown => "the route needs a session, and the request has no session",
    };
    let why = format!("{cause}; a browser that opens a page is redirected to the sign-in");
    explanation.decide(DecisionLabel::Challenge, why);
    explanation.answer(StatusCode::UNAUTHORIZED, Some(challenge.cause.reason()));
}

/// Explains the answer of a route with an answer.
fn explain_answer(
    context: &RequestContext,
    permitted: &PermittedAnswer,
    explanation: &mut Explanation,
) {
    let identity = permitted.session.as_deref().map(Session::identity);
    let why = permission(&permitted.route, identity);
    explanation.decide(permitted.label(), format!("{why}; the route has an answer"));
    match respond(context, &permitted.answer) {
        Ok(answer) => explanation.answer(answer.status(), None),
        Err(error) => explanation.answer(error.status(), Some(error.reason())),
    }
}

/// Explains an answer of the gateway to a permitted request.
fn explain_own_answer(answer: &Response<Body>, explanation: &mut Explanation) {
    explanation.answer(answer.status(), None);
    let location = answer.headers().get(header::LOCATION);
    if let Some(location) = location.and_then(|location| location.to_str().ok()) {
        explanation.why.push_str("; Sidegate redirects to ");
        explanation.why.push_str(location);
    }
}
