//! Routes, and the table that finds the route of a request.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};

use super::index::Index;
use super::rule::Rule;
use super::stream::StreamSettings;
use crate::identity::Claim;
use crate::target::{Prefix, Target};
use crate::upstream::Upstream;

/// The settings of one route.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSettings {
    /// The name of the route in logs and metrics. The default is the prefix.
    pub name: Option<Box<str>>,
    /// The authorities (host, and port unless it is the default) of the route. An empty list means
    /// all.
    #[serde(default)]
    pub(crate) hosts: Vec<Box<str>>,
    /// The route is for this path and all paths below it.
    #[serde(default)]
    pub prefix: Prefix,
    /// The rule of the route.
    #[serde(default = "signed_in")]
    pub(crate) access: Rule,
    /// The name of the upstream. It may be omitted if there is only one.
    pub(crate) upstream: Option<Box<str>>,
    /// The providers whose sessions are accepted. The default is all.
    pub(crate) provider: Option<ProviderNames>,
    /// Whether CORS preflights pass without a session. Browsers send them without cookies.
    #[serde(default)]
    pub(crate) allow_preflight: bool,
    /// What to do when the app refuses a token that the gateway considers valid.
    #[serde(default)]
    pub(crate) on_upstream_401: OnRefusal,
    /// Connections on which the app has switched to another protocol.
    #[serde(default)]
    pub(crate) streams: StreamSettings,
}

/// What the gateway does when an app refuses the user's access token.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnRefusal {
    /// The answer is forwarded.
    #[default]
    Pass,
    /// The token is refreshed, and the request is sent again if possible.
    RefreshAndRetry,
    /// The session ends, and the user signs in again.
    Relogin,
}

/// One provider, or several from which the user can choose.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ProviderNames(Vec<Box<str>>);

impl<'de> Deserialize<'de> for ProviderNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Vec<Box<str>>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a provider, or a list of names")
            }

            fn visit_str<E>(self, name: &str) -> Result<Vec<Box<str>>, E> {
                Ok(vec![name.into()])
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Box<str>>, A::Error> {
                let mut names: Vec<Box<str>> = Vec::new();
                while let Some(name) = list.next_element::<Box<str>>()? {
                    if names.contains(&name) {
                        return Err(A::Error::custom(format!("names `{name}` twice")));
                    }
                    names.push(name);
                }
                if names.is_empty() {
                    let why = "the list is empty; omit it to accept every provider";
                    return Err(A::Error::custom(why));
                }
                Ok(names)
            }
        }
        deserializer.deserialize_any(Names).map(Self)
    }
}

fn signed_in() -> Rule {
    Rule::SignedIn
}

impl Default for RouteSettings {
    fn default() -> Self {
        Self {
            name: None,
            hosts: Vec::new(),
            prefix: Prefix::default(),
            access: Rule::SignedIn,
            upstream: None,
            provider: None,
            allow_preflight: false,
            on_upstream_401: OnRefusal::Pass,
            streams: StreamSettings::default(),
        }
    }
}

/// A route of the table. Each worker has its own copy.
#[derive(Clone, Debug)]
pub struct Route {
    index: usize,
    name: Box<str>,
    hosts: Vec<Box<str>>,
    prefix: Prefix,
    pub(super) rule: Rule,
    /// Stored as claims, so that they can be written into an assertion field.
    providers: Vec<Claim>,
    pub(super) allow_preflight: bool,
    pub(super) on_refusal: OnRefusal,
    streams: StreamSettings,
    // Private to the room, so that only a `Permit` gives access to it.
    pub(super) upstream: Arc<Upstream>,
}

impl Route {
    /// The position in the settings, from 0.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The name of the route.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The providers whose sessions are accepted, in the order in which users see them.
    pub fn providers(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.providers.iter().map(Claim::as_str)
    }

    /// The name of an accepted provider, as a claim. `None` if the route does not accept this
    /// provider.
    pub(super) fn provider(&self, name: &str) -> Option<&Claim> {
        self.providers
            .iter()
            .find(|provider| provider.as_value().as_bytes() == name.as_bytes())
    }

    /// Whether every user with an account at the provider may use the route.
    pub(crate) fn admits_every_user(&self) -> bool {
        self.rule == Rule::SignedIn
    }

    /// The settings of the route's streams.
    pub(crate) fn streams(&self) -> &StreamSettings {
        &self.streams
    }

    /// The path prefix of the route.
    pub fn prefix(&self) -> &str {
        self.prefix.as_str()
    }

    /// The authorities of the route. None means all.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(AsRef::as_ref)
    }

    /// Whether the route is open to everybody.
    pub fn is_public(&self) -> bool {
        self.rule == Rule::Public
    }

    /// The upstream's name, for logs.
    pub(crate) fn upstream_name(&self) -> &str {
        self.upstream.name()
    }

    /// A public route matches only the exact prefix. A protected route also matches other spellings
    /// of its prefix, because the app may ignore case.
    pub(super) fn matches(&self, target: &Target) -> bool {
        let host =
            self.hosts.is_empty() || self.hosts.iter().any(|host| **host == *target.authority());
        host && match self.rule {
            Rule::Public => self.prefix.matches(target.path()),
            Rule::SignedIn | Rule::AnyOf(_) => self.prefix.covers(target.path()),
        }
    }
}

/// The reason why a route cannot be added to the table. Each error is returned with the route's
/// position in the settings.
///
/// Responsible: the operator.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RouteError {
    /// There are several upstreams, and the route names none.
    #[error("there are several upstreams; the route has to name one")]
    AmbiguousUpstream,
    /// The rule lists groups, several providers are accepted, and the settings do not say that
    /// their groups mean the same.
    #[error(
        "several providers are accepted, and a group may mean something else at each of them; \
         write `provider` in the route: the provider of these groups, or a list of the providers \
         where they mean the same"
    )]
    AmbiguousGroups,
    /// The rule lists subjects and several providers are accepted. The same subject at two
    /// providers is two users.
    #[error(
        "several providers are accepted, and the same subject at another provider is another user; \
         write the provider of these subjects as `provider` in the route"
    )]
    AmbiguousSubjects,
    /// Two routes match the same requests.
    #[error("it has the same host and prefix as the route `{0}`")]
    Duplicate(Box<str>),
    /// The provider does not exist.
    #[error("there is no provider `{0}`")]
    UnknownProvider(Box<str>),
    /// The upstream does not exist.
    #[error("there is no upstream `{0}`")]
    UnknownUpstream(Box<str>),
}

/// All routes of a site. Each worker creates its [`super::Access`] from it.
#[derive(Debug)]
pub struct RouteTable {
    routes: Vec<Route>,
    index: Arc<Index>,
}

impl RouteTable {
    /// Builds the table from routes with their positions in the settings. Longer prefixes come
    /// first. Among equal prefixes, routes that name a host come first.
    ///
    /// # Errors
    ///
    /// All routes that cannot be added, with their positions.
    pub fn new(
        settings: Vec<(usize, RouteSettings)>,
        upstreams: &BTreeMap<Box<str>, Arc<Upstream>>,
        providers: &[&str],
    ) -> Result<Self, Vec<(usize, RouteError)>> {
        let mut routes: Vec<Route> = Vec::with_capacity(settings.len());
        let mut errors = Vec::new();
        for (index, settings) in settings {
            let chosen = settings.provider.is_some();
            let counted = accepted_providers(settings.provider, providers).and_then(|counted| {
                check_lists(&settings.access, &counted, chosen).map(|()| counted)
            });
            let providers = match counted {
                Ok(providers) => providers,
                Err(error) => {
                    errors.push((index, error));
                    continue;
                }
            };
            let upstream = match upstream(settings.upstream, upstreams) {
                Ok(upstream) => upstream,
                Err(error) => {
                    errors.push((index, error));
                    continue;
                }
            };
            let route = Route {
                index,
                name: settings
                    .name
                    .unwrap_or_else(|| settings.prefix.as_str().into()),
                hosts: settings
                    .hosts
                    .iter()
                    .map(|host| host.to_ascii_lowercase().into())
                    .collect(),
                prefix: settings.prefix,
                rule: settings.access,
                providers,
                allow_preflight: settings.allow_preflight,
                on_refusal: settings.on_upstream_401,
                streams: settings.streams,
                upstream,
            };
            match routes.iter().find(|other| other.shadows(&route)) {
                Some(other) => errors.push((index, RouteError::Duplicate(other.name.clone()))),
                None => routes.push(route),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        // The first route that matches is used.
        routes.sort_by_key(|route| (Reverse(route.prefix.as_str().len()), route.hosts.is_empty()));
        let index = Arc::new(Index::new(&routes));
        Ok(Self { routes, index })
    }

    /// A copy for one worker. Its reference counts are not atomic, and no other worker writes to
    /// its memory.
    pub(super) fn for_worker(&self) -> WorkerRoutes {
        WorkerRoutes {
            routes: self.routes.iter().cloned().map(Rc::new).collect(),
            index: Arc::clone(&self.index),
        }
    }

    /// All routes. The most specific one is the first.
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
    /// The route of a request.
    pub(super) fn find(&self, target: &Target) -> Option<&Rc<Route>> {
        let at = |position: usize| self.routes.get(position);
        let matches = |position| at(position).is_some_and(|route| route.matches(target));
        at(self.index.first(target, matches)?)
    }

    /// All routes. The most specific one is the first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<Route>> {
        self.routes.iter()
    }
}

impl Route {
    /// Whether both routes have the same prefix, in any case, and a common host.
    fn shadows(&self, other: &Self) -> bool {
        let prefix = self
            .prefix
            .as_str()
            .eq_ignore_ascii_case(other.prefix.as_str());
        let both_any = self.hosts.is_empty() && other.hosts.is_empty();
        prefix && (both_any || self.hosts.iter().any(|host| other.hosts.contains(host)))
    }
}

/// The providers whose sessions a route accepts, if its settings name these.
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

/// Checks that the rule's lists have one meaning at all accepted providers. A subject identifies a
/// user at one provider only. A group may mean the same at several providers if the settings say
/// so.
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

fn upstream(
    named: Option<Box<str>>,
    upstreams: &BTreeMap<Box<str>, Arc<Upstream>>,
) -> Result<Arc<Upstream>, RouteError> {
    let mut all = upstreams.values();
    let found = match (named, all.next(), all.next()) {
        (Some(name), _, _) => upstreams
            .get(&name)
            .ok_or_else(|| RouteError::UnknownUpstream(name.clone()))?,
        (None, Some(only), None) => only,
        (None, _, _) => return Err(RouteError::AmbiguousUpstream),
    };
    Ok(Arc::clone(found))
}
