//! Routes, and the table that finds the route of a request.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::buffering::BufferSettings;
use super::cross_site::CrossSite;
use super::destination::{Destination, destination};
use super::index::Index;
use super::rewrite::{Rewrite, RewriteSettings};
use super::route_settings::{Fragment, OnRefusal, ProviderNames, RouteSettings};
use super::rule::Rule;
use super::static_answer::{AnswerError, StaticAnswer};
use super::stream::StreamSettings;
use crate::identity::Claim;
use crate::target::{Forms, Prefix, Target};
use crate::upstream::{AppFields, AssertionNames, CredentialSettings, Protocol, Upstream};

/// One route of the table. Each worker has its own copy of the route.
#[derive(Clone, Debug)]
pub struct Route {
    index: usize,
    name: Box<str>,
    hosts: Vec<Box<str>>,
    pub(super) prefix: Prefix,
    pub(super) allow_in_path: Forms,
    pub(super) rule: Rule,
    effect: Effect,
    /// The names of the accepted providers, each as the value of an assertion field.
    providers: Vec<Claim>,
    pub(super) allow_preflight: bool,
    /// What a login does with the fragment of the requested address.
    fragment: Fragment,
    /// The sites whose pages may send unsafe requests with a user's session.
    pub(super) cross_site: CrossSite,
    pub(super) on_refusal: OnRefusal,
    pub(super) is_stream: bool,
    streams: StreamSettings,
    buffers: BufferSettings,
    /// The credential settings in the table of the route.
    credentials: CredentialSettings,
    /// The fields that the gateway writes into the requests of the route.
    pub(super) fields: AppFields,
    rewrite_settings: RewriteSettings,
    pub(super) rewrite: Option<Box<Rewrite>>,
    // This member is private to the module, so that code outside the module can reach the upstream
    // only through a `Permit`.
    pub(super) destination: Destination,
}

/// The effect of a route on its paths.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Effect {
    /// Everybody may use the paths.
    Opens,
    /// The rule or the answer of the route keeps users away from the paths.
    Protects,
}

impl Route {
    /// Creates a route with the default names of the assertion fields.
    fn new(
        index: usize,
        mut settings: RouteSettings,
        providers: Vec<Claim>,
        destination: Destination,
    ) -> Self {
        // The authority of a target is in lower case.
        let hosts = settings.hosts.iter();
        let hosts: Vec<Box<str>> = hosts.map(|host| host.to_ascii_lowercase().into()).collect();
        let credentials = settings.take_credentials();
        let names = AssertionNames::default();
        let is_public = settings.access == Rule::Public;
        let (rewrite, denies) = match &destination {
            Destination::App(app) => {
                let rewrite = Rewrite::new(&settings.prefix, &settings.rewrite, app);
                (rewrite, false)
            }
            Destination::Answer(answer) => (None, answer.denies()),
        };
        Self {
            index,
            name: settings.name.unwrap_or_else(|| {
                let host = hosts.first().map_or("", AsRef::as_ref);
                format!("{host}{}", settings.prefix.as_str()).into()
            }),
            hosts,
            prefix: settings.prefix,
            allow_in_path: settings.allow_in_path,
            rule: settings.access,
            effect: if denies || !is_public {
                Effect::Protects
            } else {
                Effect::Opens
            },
            providers,
            allow_preflight: settings.allow_preflight,
            fragment: settings.keep_fragment,
            cross_site: settings.cross_site,
            on_refusal: settings.on_upstream_401,
            is_stream: settings.stream,
            streams: settings.streams,
            buffers: settings.buffers,
            fields: AppFields::new(names, &credentials, None, is_public),
            credentials,
            rewrite_settings: settings.rewrite,
            rewrite: rewrite.map(Box::new),
            destination,
        }
    }

    /// The position of the route in the settings, counted from 0.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The name of the route.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The providers whose sessions the route accepts. The sign-in page shows the buttons of the
    /// providers in the order of the returned names.
    pub fn providers(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.providers.iter().map(Claim::as_str)
    }

    /// Returns the name of an accepted provider, as the value of an assertion field. Returns `None`
    /// if the route does not accept this provider.
    pub(super) fn provider(&self, name: &str) -> Option<&Claim> {
        self.providers
            .iter()
            .find(|provider| provider.as_value().as_bytes() == name.as_bytes())
    }

    /// Returns true if the rule of the route allows every signed-in user, or every user with a
    /// verified email address.
    pub(crate) fn admits_every_user(&self) -> bool {
        self.rule == Rule::SignedIn || self.rule.admits_every_address()
    }

    /// Whether the rule of the route lists groups of this provider.
    pub(crate) fn lists_groups_of(&self, provider: &str) -> bool {
        self.rule.lists_groups() && self.provider(provider).is_some()
    }

    /// The rule of the route.
    pub(crate) fn rule(&self) -> &Rule {
        &self.rule
    }

    /// The settings for the streams of the route.
    pub(crate) fn streams(&self) -> &StreamSettings {
        &self.streams
    }

    /// Whether the settings declare that the requests of the route are streams.
    pub(crate) fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// The sizes of the buffers for slow clients.
    pub(crate) fn buffers(&self) -> BufferSettings {
        self.buffers
    }

    /// The path prefix of the route.
    pub fn prefix(&self) -> &str {
        self.prefix.as_str()
    }

    /// The path prefix of the route.
    pub(crate) fn public_prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// Returns the hosts (with optional ports) to which the route applies. If the route applies to
    /// all hosts, the iterator is empty.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(AsRef::as_ref)
    }

    /// Whether the route is open to everybody.
    pub fn is_public(&self) -> bool {
        self.rule == Rule::Public
    }

    /// The app of the route. `None` if the gateway itself answers the requests of the route.
    pub(super) fn upstream(&self) -> Option<&Arc<Upstream>> {
        match &self.destination {
            Destination::App(app) => Some(app),
            Destination::Answer(_) => None,
        }
    }

    /// The upstream's name, for logs. `None` if the route has no app.
    pub(crate) fn upstream_name(&self) -> Option<&str> {
        self.upstream().map(|app| app.name())
    }

    /// The answer of the gateway, if the route has no app.
    pub(crate) fn answer(&self) -> Option<&StaticAnswer> {
        match &self.destination {
            Destination::App(_) => None,
            Destination::Answer(answer) => Some(answer),
        }
    }

    /// The settings of the addresses that the gateway replaces.
    pub(crate) fn rewrite_settings(&self) -> &RewriteSettings {
        &self.rewrite_settings
    }

    /// Whether the gateway forwards CORS preflights without a session.
    pub(crate) fn allows_preflight(&self) -> bool {
        self.allow_preflight
    }

    /// Whether a login keeps the fragment of the requested address.
    pub(crate) fn keeps_fragment(&self) -> bool {
        self.fragment == Fragment::Kept
    }

    /// Returns the credential settings in the table of the route.
    pub(crate) fn credentials(&self) -> &CredentialSettings {
        &self.credentials
    }

    /// The fields that the gateway writes into the requests of the route.
    pub(crate) fn fields(&self) -> &AppFields {
        &self.fields
    }

    /// The gateway's action after an app has refused a token.
    pub(crate) fn on_refusal(&self) -> OnRefusal {
        self.on_refusal
    }

    /// Whether the app of the route speaks HTTP/2. An HTTP/2 app never switches to another
    /// protocol.
    pub(crate) fn speaks_http2(&self) -> bool {
        let upstream = self.upstream();
        upstream.is_some_and(|app| app.settings().protocol == Protocol::Http2)
    }

    /// Returns true if the route serves requests with this authority and this path. A route that
    /// gives access to everybody matches only paths with the exact spelling of its prefix. A route
    /// that keeps users away from its paths also matches other spellings of its prefix, because the
    /// app may treat upper and lower case as equal.
    pub(super) fn matches(&self, authority: &str, path: &str) -> bool {
        self.is_for_host(authority)
            && match self.effect {
                Effect::Opens => self.prefix.matches(path),
                Effect::Protects => self.prefix.covers(path),
            }
    }

    /// Whether the rule or the answer of the route keeps users away from its paths.
    pub(super) fn protects(&self) -> bool {
        self.effect == Effect::Protects
    }

    pub(super) fn is_for_host(&self, authority: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|host| **host == *authority)
    }
}

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
    /// Another route is tried first and matches all requests that this route could match.
    #[error("it never matches, because the route `{0}` takes all its requests; remove one of them")]
    Behind(Box<str>),
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
    /// Builds the table from the routes and their positions in the settings. Routes with longer
    /// prefixes are tried first. Among routes with equal prefixes, the routes that name a host are
    /// tried first.
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
            let counted =
                accepted_providers(settings.provider.take(), providers).and_then(|counted| {
                    check_lists(&settings.access, &counted, chosen).map(|()| counted)
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
                Some(other) => errors.push((index, RouteError::Duplicate(other.name.clone()))),
                None => routes.push(route),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        // The order of the routes matters, because the first route that matches is used.
        routes.sort_by_key(|route| (Reverse(route.prefix.as_str().len()), route.hosts.is_empty()));
        let hidden = hidden(&routes);
        if !hidden.is_empty() {
            return Err(hidden);
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
    pub(super) fn for_worker(&self) -> WorkerRoutes {
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
pub(super) struct WorkerRoutes {
    routes: Vec<Rc<Route>>,
    index: Arc<Index>,
}

impl WorkerRoutes {
    /// Finds the route for a request with this target.
    pub(super) fn find(&self, target: &Target) -> Option<&Rc<Route>> {
        if !target.forms().is_empty() {
            return self.find_unusual(target);
        }
        self.get(self.position(target.authority(), target.path())?)
    }

    /// Finds the position of the route for requests with this authority and this usual path.
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

impl Route {
    /// Returns true if `self` matches all requests that `other` could match. The gateway tries
    /// `self` before `other`, so the prefix of `self` is at least as long as the prefix of `other`.
    /// `self` hides `other` only if both prefixes are spellings of one path, such as `/a/` and
    /// `/a`.
    fn hides(&self, other: &Self) -> bool {
        let every_host = self.hosts.is_empty();
        let hosts = every_host
            || (!other.hosts.is_empty()
                && other.hosts.iter().all(|host| self.hosts.contains(host)));
        hosts && self.protects() && self.prefix.covers(other.prefix.as_str())
    }

    /// Returns true if a request can match both routes: both routes serve the same host, and their
    /// prefixes differ at most in case.
    fn shadows(&self, other: &Self) -> bool {
        let prefix = self
            .prefix
            .as_str()
            .eq_ignore_ascii_case(other.prefix.as_str());
        let both_any = self.hosts.is_empty() && other.hosts.is_empty();
        prefix && (both_any || self.hosts.iter().any(|host| other.hosts.contains(host)))
    }
}

/// Returns an error for each route that can never match a request, because an earlier route matches
/// the same requests. The gateway tries the routes in the order of this list.
fn hidden(routes: &[Route]) -> Vec<(usize, RouteError)> {
    let routes = routes.iter().enumerate();
    let hidden = routes.clone().filter_map(|(position, route)| {
        let mut before = routes.clone().take(position);
        let (_, first) = before.find(|(_, first)| first.hides(route))?;
        Some((route.index, RouteError::Behind(first.name.clone())))
    });
    hidden.collect()
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
