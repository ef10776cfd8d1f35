//! Decisions about imagined requests, for the explanation of a decision.

use std::rc::Rc;
use std::sync::Arc;

use http::Method;

use super::rule::Rule;
use super::{Access, Cause, Decision, Route};
use crate::fields::View;
use crate::identity::Identity;
use crate::session::Session;
use crate::target::Target;

impl Access {
    /// Decides about a request that nobody has sent. `session` is the session of an imagined user,
    /// or `None` if the request has no session. The decision changes no metric, refreshes no token,
    /// and counts no user whom a rule with `enforce = false` would refuse.
    pub(crate) fn decide_as(
        self: &Rc<Self>,
        head: (&Method, &(impl View + ?Sized)),
        target: &Target,
        session: Option<Arc<Session>>,
    ) -> Decision {
        self.on_route(head, target, |route| match session {
            Some(session) if route.provider(session.provider()).is_none() => {
                self.without_session(route, Cause::OtherProvider, Some(session))
            }
            Some(session) => self.judge(route, session),
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
