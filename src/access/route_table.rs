//! The table that finds the route of a request.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::destination::destination;
use super::index::Index;
use super::route::Route;
use super::route_settings::{Enforcement, ProviderNames, RouteSettings};
use super::rule::Rule;
use super::static_answer::AnswerError;
use crate::identity::Claim;
use crate::target::Target;
use crate::upstream::{AppFields, Upstream};

/// The reason why a route cannot be added to the table. Each error is returned with the position of
/// the route in the settings.
///
/// Responsible: the operator.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RouteError {
    /// The settings define several upstreams, and the route names none of them.
    #[error("there are several upstreams; the route has to name one")]
    AmbiguousUpstream,
    /// The rule lists groups, and the route accepts several providers, but the settings do not
    /// state that a group means the same at each of these providers.
    #[error(
        "several providers are accepted, and a group may mean something else at each of them; \
         write `provider` in the route: the provider of these groups, or a list of the providers \
         where they mean the same"
    )]
    AmbiguousGroups,
    /// The rule lists subjects, and the route accepts several providers. The same subject at two
    /// providers identifies two different users.
    #[error(
        "several providers are accepted, and the same subject at another provider is another user; \
         write the provider of these subjects as `provider` in the route"
    )]
    AmbiguousSubjects,
    /// The answer of a route without an app cannot be used.
    #[error(transparent)]
    Answer(AnswerError),
    /// Two routes match the same requests.
    #[error("it has the same host and prefix as the route `{0}`; remove one of them")]
    Duplicate(Box<str>),
    /// The prefixes of two routes are spellings of one path.
    #[error("some apps read its prefix and `{0}` as one path; remove one of the two routes")]
    DuplicateSpelling(Box<str>),
    /// The prefix begins with the prefix of another route in another spelling, and an app may read
    /// both as one path, but the rule of the other route is stricter. The last value is the prefix in
    /// the spelling of the other route.
    #[error(
        "some apps read its paths as paths of the route `{0}`, which refuses more requests; write \
         the beginning of the prefix as that route does: `{1}`"
    )]
    AnotherSpelling(Box<str>, Box<str>),
    /// Another route is tried first and matches all requests that this route could match.
    #[error("it never matches, because the route `{0}` takes all its requests; remove one of them")]
    Behind(Box<str>),
    /// The route does not enforce its rule, but the rule refuses no user who is signed in.
    #[error(
        "has no effect, because `access` refuses no user who is signed in; leave `enforce` out"
    )]
    NothingToEnforce,
    /// The settings define no provider with this name.
    #[error("there is no provider `{0}`; write the NAME of a table [providers.NAME]")]
    UnknownProvider(Box<str>),
    /// The route names an upstream, but the gateway itself answers the requests of the route.
    #[error("has no effect on a route with `answer`, because no app gets a request")]
    UnusedUpstream,
    /// The settings define no upstream with this name.
    #[error("there is no upstream `{0}`; write the NAME of a table [upstreams.NAME]")]
    UnknownUpstream(Box<str>),
}

/// All routes of a site. Each worker creates its [`super::Access`] from the `RouteTable`.
#[derive(Debug)]
pub struct RouteTable {
    routes: Vec<Route>,
    index: Arc<Index>,
}

impl RouteTable {
    /// Builds the table from the routes and their positions in the settings. Routes with more specific
    /// prefixes ([`crate::target::Prefix::specificity`]) are tried first. Among equally specific prefixes, the routes
    /// that name a host are tried first.
    ///
    /// No spelling of a prefix opens a path that another route protects: a prefix that begins with the
    /// prefix of a stricter route only in another spelling is refused.
    ///
    /// # Errors
    ///
    /// Returns the position of each route that cannot be added, with the reason.
    pub fn new(
        settings: Vec<(usize, RouteSettings)>,
        upstreams: &BTreeMap<Box<str>, Arc<Upstream>>,
        providers: &[&str],
    ) -> Result<Self, Vec<(usize, RouteError)>> {
        let mut routes: Vec<Route> = Vec::with_capacity(settings.len());
        // All errors are collected, so that the operator can correct all errors together.
        let mut errors = Vec::new();
        for (index, mut settings) in settings {
            let chosen = settings.provider.is_some();
            let named = settings.provider.take();
            let counted = accepted_providers(named, providers).and_then(|counted| {
                check_lists(&settings.access, &counted, chosen)?;
                check_enforced(&settings)?;
                Ok(counted)
            });
            let providers = match counted {
                Ok(providers) => providers,
                Err(error) => {
                    errors.push((index, error));
                    continue;
                }
            };
            let destination = match destination(&mut settings, upstreams) {
                Ok(destination) => destination,
                Err(error) => {
                    errors.push((index, error));
                    continue;
                }
            };
            let route = Route::new(index, settings, providers, destination);
            match routes.iter().find(|other| other.shadows(&route)) {
                Some(other) => errors.push((index, same_prefix(&route, other))),
                None => routes.push(route),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        // The order of the routes matters, because the first route that matches is used.
        routes.sort_by_key(|route| {
            (
                Reverse(route.prefix.specificity()),
                route.hosts().next().is_none(),
            )
        });
        let refused = refused(&routes);
        if !refused.is_empty() {
            return Err(refused);
        }
        let index = Arc::new(Index::new(&routes));
        Ok(Self { routes, index })
    }

    /// Sets the fields that the gateway writes into the requests of each route. Without a call of
    /// this function, each route has the assertion fields with their default names.
    #[must_use]
    pub(crate) fn with_fields(mut self, mut fields: impl FnMut(&Route) -> AppFields) -> Self {
        for route in &mut self.routes {
            route.fields = fields(route);
        }
        self
    }

    /// Creates a copy of the table for one worker. Only one worker uses the copy, so the reference
    /// counts of the copy are not atomic.
    pub(crate) fn for_worker(&self) -> WorkerRoutes {
        WorkerRoutes {
            routes: self.routes.iter().cloned().map(Rc::new).collect(),
            index: Arc::clone(&self.index),
        }
    }

    /// Returns all routes. The routes are sorted: the most specific route comes first.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }
}

/// One worker's copy of a [`RouteTable`].
#[derive(Debug)]
pub(crate) struct WorkerRoutes {
    routes: Vec<Rc<Route>>,
    index: Arc<Index>,
}

impl WorkerRoutes {
    /// Finds the route for a request with this target.
    pub(super) fn find(&self, target: &Target) -> Option<&Rc<Route>> {
        if !target.forms().is_empty() {
            return self.find_unusual(target);
        }
        self.serving(target.authority(), target.path())
    }

    /// Whether the first route serves all requests.
    pub(super) fn is_trivial(&self) -> bool {
        self.index.is_trivial()
    }

    /// Finds the position of the first route that matches this authority and this usual path.
    pub(super) fn position(&self, authority: &str, path: &str) -> Option<usize> {
        let at = |position| self.get(position);
        let matches = |position| at(position).is_some_and(|route| route.matches(authority, path));
        self.index.first((authority, path), matches)
    }

    /// Returns the route at a position of the table.
    pub(super) fn get(&self, position: usize) -> Option<&Rc<Route>> {
        self.routes.get(position)
    }

    /// Returns all routes. The routes are sorted: the most specific route comes first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<Route>> {
        self.routes.iter()
    }
}

/// Returns the error for a route that has the host of `other`, and a prefix that some apps read as the
/// prefix of `other`.
fn same_prefix(route: &Route, other: &Route) -> RouteError {
    let text = other.prefix();
    if route.prefix() == text {
        RouteError::Duplicate(other.name().into())
    } else {
        RouteError::DuplicateSpelling(text.into())
    }
}

/// Returns an error for each route that can never match a request, because an earlier route matches
/// the same requests, and for each route that would open paths of a later route by another spelling.
/// The gateway tries the routes in the order of this list.
fn refused(routes: &[Route]) -> Vec<(usize, RouteError)> {
    let routes = routes.iter().enumerate();
    let refused = routes.clone().filter_map(|(position, route)| {
        let mut before = routes.clone().take(position);
        let mut after = routes.clone().skip(position);
        let error = if let Some((_, first)) = before.find(|(_, first)| first.hides(route)) {
            RouteError::Behind(first.name().into())
        } else {
            let (_, stricter) = after.find(|(_, stricter)| route.opens_by_spelling(stricter))?;
            let (of, own) = (&stricter.prefix, route.prefix());
            RouteError::AnotherSpelling(stricter.name().into(), of.join(of.rest(own)).into())
        };
        Some((route.index(), error))
    });
    refused.collect()
}

/// Returns the accepted providers of a route: the providers in its settings, or all providers.
fn accepted_providers(
    written: Option<ProviderNames>,
    providers: &[&str],
) -> Result<Vec<Claim>, RouteError> {
    let names = match written {
        Some(ProviderNames(names)) => names,
        None => providers.iter().map(|name| (*name).into()).collect(),
    };
    names
        .into_iter()
        .map(|name| {
            let claim = Claim::new(&name).filter(|_claim| providers.contains(&&*name));
            claim.ok_or(RouteError::UnknownProvider(name))
        })
        .collect()
}

/// Refuses `enforce = false` if the rule refuses no user who is signed in.
fn check_enforced(settings: &RouteSettings) -> Result<(), RouteError> {
    match (settings.enforce, &settings.access) {
        (Enforcement::Report, Rule::Public | Rule::SignedIn) => Err(RouteError::NothingToEnforce),
        (Enforcement::Report, Rule::AnyOf(_)) | (Enforcement::Refuse, _) => Ok(()),
    }
}

/// Checks that each group and subject in the rule has the same meaning at all accepted providers. A
/// subject identifies a user at one provider only. If the settings of the route name several
/// providers, a group is treated as the same group at all of these providers.
fn check_lists(rule: &Rule, providers: &[Claim], chosen: bool) -> Result<(), RouteError> {
    let several = providers.len() > 1;
    if several && rule.lists_subjects() {
        Err(RouteError::AmbiguousSubjects)
    } else if several && !chosen && rule.lists_groups() {
        Err(RouteError::AmbiguousGroups)
    } else {
        Ok(())
    }
}

#[cfg(test)]
#[path = "route_table_tests.rs"]
mod tests;
