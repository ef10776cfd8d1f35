//! Finds the route of a request whose path has unusual forms.
//!
//! An app may read such a path in several ways, and the readings may belong to different routes.
//! The request is accepted only if each of these routes allows the forms of the path. The route
//! with the strictest rule decides about the request. If no rule is as strict as all
//! others, the request is refused.

use std::rc::Rc;

use super::Access;
use super::destination::Destination;
use super::route::Route;
use super::route_settings::CacheSetting;
use super::route_table::{RouteTable, WorkerRoutes};
use crate::target::{Forms, Reading, Target};

impl Access {
    /// Returns the unusual forms that at least one route allows.
    pub(crate) fn allowed_forms(&self) -> Forms {
        self.allowed_forms
    }

    /// Returns true if a route decides about a target with unusual forms. `readings` are the
    /// readings of the path.
    pub(crate) fn accepts_unusual(&self, target: &Target, readings: &[Reading]) -> bool {
        self.routes.decisive(target, readings).is_some()
    }

    /// Returns the routes to which a reading of the target may belong. Each of these routes must
    /// allow the forms of the target.
    pub(crate) fn routes_of(&self, target: &Target, reading: &Reading) -> Vec<&Route> {
        let mut positions = Vec::new();
        let authority = target.authority();
        let belongs = self.routes.add_routes(authority, reading, &mut positions);
        let routes = positions
            .iter()
            .filter_map(|position| self.routes.get(*position));
        belongs.map_or_else(Vec::new, |()| routes.map(|route| &**route).collect())
    }
}

impl WorkerRoutes {
    /// Finds the route that decides about a request with unusual forms.
    #[cold]
    pub(super) fn find_unusual(&self, target: &Target) -> Option<&Rc<Route>> {
        self.decisive(target, &target.readings())
    }

    /// Returns the strictest of the routes to which the readings belong. Among routes that are
    /// equally strict, the most specific route decides.
    fn decisive(&self, target: &Target, readings: &[Reading]) -> Option<&Rc<Route>> {
        let mut positions = Vec::new();
        for reading in readings {
            self.add_routes(target.authority(), reading, &mut positions)?;
        }
        positions.sort_unstable();
        positions.dedup();
        let routes = positions.iter().map(|position| self.get(*position));
        let routes: Vec<&Rc<Route>> = routes.collect::<Option<_>>()?;
        let allows = |route: &&Rc<Route>| route.allowed_forms().include(target.forms());
        if !routes.iter().all(allows) {
            return None;
        }
        let [only] = &*routes else {
            // With a replaced prefix, the app gets other paths than those that the routes judge.
            if routes.iter().any(|route| route.rewrite().is_some()) {
                return None;
            }
            let strictest = |route: &&Rc<Route>| routes.iter().all(|other| route.is_within(other));
            return routes.iter().copied().find(strictest);
        };
        Some(only)
    }

    /// Adds the position of each route to which the reading may belong: the routes whose prefix
    /// covers the reading, up to the route whose prefix the reading begins with. Returns `None` if
    /// the reading certainly belongs to none of these routes.
    pub(super) fn add_routes(
        &self,
        authority: &str,
        reading: &Reading,
        positions: &mut Vec<usize>,
    ) -> Option<()> {
        let path = reading.path();
        let mut belongs = None;
        for (position, route) in self.iter().enumerate() {
            let is_certain = route.matches(authority, path);
            if is_certain || route.may_match(authority, reading) {
                positions.push(position);
            }
            if is_certain {
                belongs = Some(());
            }
            // For an app that reads the path exactly, the less specific routes below do not count.
            if route.is_written(authority, path) {
                break;
            }
        }
        belongs
    }
}

impl RouteTable {
    /// Returns the unusual forms that at least one route allows.
    pub(super) fn allowed_forms(&self) -> Forms {
        let forms = self.iter().map(Route::allowed_forms);
        forms.fold(Forms::default(), Forms::and)
    }

    /// Returns each route that allows unusual forms of a path, with the names of the forms.
    pub fn unusual_paths(&self) -> impl Iterator<Item = (&Route, String)> {
        let routes = self
            .iter()
            .filter(|route| !route.allowed_forms().is_empty());
        routes.map(|route| (route, route.allowed_forms().to_string()))
    }
}

impl Route {
    /// The unusual forms of a path that the route allows.
    pub(crate) fn allowed_forms(&self) -> Forms {
        self.allow_in_path
    }

    /// Returns true if an app may read the path as a path of this route. A route that gives access
    /// to everybody has to match exactly.
    fn may_match(&self, authority: &str, reading: &Reading) -> bool {
        self.is_for_host(authority) && self.protects() && reading.may_be_below(&self.prefix)
    }

    /// Returns true if every request that this route permits would also be permitted by `other`,
    /// and if both routes have the same app and the same credentials for this app.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        let providers = |name| other.providers().any(|accepted| accepted == name);
        self.has_app_of(other)
            && self.rule.is_as_strict_as(&other.rule)
            && self.credentials() == other.credentials()
            && (other.is_public() || self.providers().all(providers))
            && self.has_guards_of(other)
    }

    /// Returns true if both routes have the same app. Another proxy chooses the app of a route for
    /// auth checks, so the app can be the app of any such route. Therefore the apps of such routes
    /// must get the same fields: the same names, and signed assertions for the same audience.
    pub(super) fn has_app_of(&self, other: &Self) -> bool {
        let audience = |route: &Self| {
            let signed = route.fields().signed.as_ref();
            signed.map(|signed| signed.audience().to_owned())
        };
        match (&self.destination, &other.destination) {
            (Destination::App(own), Destination::App(others)) => own.name() == others.name(),
            (Destination::AskingProxy, Destination::AskingProxy) => {
                audience(self) == audience(other)
            }
            (
                Destination::App(_) | Destination::Answer(_) | Destination::AskingProxy,
                Destination::App(_) | Destination::Answer(_) | Destination::AskingProxy,
            ) => false,
        }
    }

    /// Returns true if this route refuses all requests of other sites, all preflights and all
    /// switches of protocols that `other` refuses, wants a sign-in as fresh as `other` wants, and
    /// keeps answers out of shared caches if `other` does.
    pub(super) fn has_guards_of(&self, other: &Self) -> bool {
        let (cache, others_cache) = (self.cache, other.cache);
        let (streams, others) = (self.streams(), other.streams());
        let mut origins = streams.origins.iter();
        self.cross_site.refuses_all_of(&other.cross_site)
            && (other.is_public() || other.allow_preflight || !self.allow_preflight)
            && (others.upgrades || !streams.upgrades)
            && origins.all(|origin| others.origins.contains(origin))
            && (other.is_public() || self.is_as_fresh_as(other))
            && (cache == CacheSetting::Private || others_cache == CacheSetting::Pass)
    }

    /// Returns true if this route wants a sign-in and a last use that are as recent as those that
    /// `other` wants.
    fn is_as_fresh_as(&self, other: &Self) -> bool {
        let limits = |route: &Self| route.freshness().copied().unwrap_or_default();
        let (own, others) = (limits(self), limits(other));
        let at_most = |own: Option<u32>, others: Option<u32>| {
            others.is_none_or(|others| own.is_some_and(|own| own <= others))
        };
        at_most(own.max_age_secs, others.max_age_secs) && at_most(own.idle_secs, others.idle_secs)
    }
}

#[cfg(test)]
#[path = "unusual_tests.rs"]
mod tests;
