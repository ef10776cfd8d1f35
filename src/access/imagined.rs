//! Decisions about imagined requests, for the explanation of a decision.

use std::rc::Rc;
use std::sync::Arc;

use http::Method;

use super::rule::Rule;
use super::{Access, Cause, Decision, Route};
use crate::clock::Timestamp;
use crate::fields::View;
use crate::identity::Identity;
use crate::session::Session;
use crate::target::Target;

impl Access {
    /// Decides about a request that nobody has sent. `session` is the session of an imagined user,
    /// or `None` if the request has no session.
    pub(crate) fn decide_as(
        self: &Rc<Self>,
        head: (&Method, &(impl View + ?Sized)),
        target: &Target,
        session: Option<Arc<Session>>,
        now: Timestamp,
    ) -> Decision {
        self.on_route(head, target, |route| match session {
            Some(session) => self.decide_for_session(route, session, now, None),
            None => self.without_session(route, Cause::NoCookie, None),
        })
    }

    /// Returns the route that decides about a request with this target.
    pub(crate) fn route_of(&self, target: &Target) -> Option<&Rc<Route>> {
        self.routes.find(target)
    }
}

impl Route {
    /// Returns the entry of the rule in the settings that names the user, as text. Returns `None`
    /// if no entry names the user, or if the rule has no entries.
    pub(crate) fn entry_of(&self, identity: &Identity) -> Option<String> {
        match self.written_rule() {
            Rule::Public | Rule::SignedIn => None,
            Rule::AnyOf(lists) => Some(lists.entry_of(identity)?.to_string()),
        }
    }
}
