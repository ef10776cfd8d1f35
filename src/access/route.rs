//! Which route a request takes.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};

use super::index::Index;
use super::rule::Rule;
use crate::identity::Claim;
use crate::target::{Prefix, Target};
use crate::upstream::Upstream;

/// One route as it is written in the settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSettings {
    /// Names the route in logs and metrics; the prefix when not given.
    pub name: Option<Box<str>>,
    /// Authorities (host, and port unless it is the default one) the route is for; all when empty.
    #[serde(default)]
    pub(crate) hosts: Vec<Box<str>>,
    /// The route takes this path and everything below it.
    #[serde(default)]
    pub prefix: Prefix,
    /// Who may use it.
    #[serde(default = "signed_in")]
    pub(crate) access: Rule,
    /// The upstream's name; the only one when not given.
    pub(crate) upstream: Option<Box<str>>,
    /// The providers whose sessions count; all of them when not given.
    pub(crate) provider: Option<ProviderNames>,
    /// Lets CORS preflights through without a session: browsers send them without cookies.
    #[serde(default)]
    pub(crate) allow_preflight: bool,
    /// What becomes of the app's answer that refuses a token which the gateway believes good.
    #[serde(default)]
    pub(crate) on_upstream_401: OnRefusal,
}

/// What becomes of an app's answer that refuses somebody's access token.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnRefusal {
    /// It is passed on.
    #[default]
    Pass,
    /// The token is refreshed, and the request sent once more if that can be done.
    RefreshAndRetry,
    /// The session ends, and its person signs in again.
    Relogin,
}

/// One provider, or several that a person may choose from.
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
                    let why = "names nobody: leave it out where any provider will do";
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
        }
    }
}

/// A route of the table. Each worker has a copy of its own.
#[derive(Clone, Debug)]
pub struct Route {
    index: usize,
    name: Box<str>,
    hosts: Vec<Box<str>>,
    prefix: Prefix,
    pub(super) rule: Rule,
    /// Ready to be asserted.
    providers: Vec<Claim>,
    pub(super) allow_preflight: bool,
    pub(super) on_refusal: OnRefusal,
    // Private to the room: only a `Permit` leads to it.
    pub(super) upstream: Arc<Upstream>,
}

impl Route {
    /// Its place in the settings, from 0.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The providers whose sessions count, in the order in which people are to choose.
    pub fn providers(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.providers.iter().map(Claim::as_str)
    }

    /// The name of one of its providers, ready to be asserted: `None` if that one's sessions do not
    /// count here.
    pub(super) fn provider(&self, name: &str) -> Option<&Claim> {
        self.providers
            .iter()
            .find(|provider| provider.as_value().as_bytes() == name.as_bytes())
    }

    /// Whether a session is all that it asks for: whoever has an account at the provider passes.
    pub(crate) fn admits_every_user(&self) -> bool {
        self.rule == Rule::SignedIn
    }

    /// The prefix that it takes.
    pub fn prefix(&self) -> &str {
        self.prefix.as_str()
    }

    /// The authorities it is for; none means all.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(AsRef::as_ref)
    }

    /// Whether it is open to everybody.
    pub fn is_public(&self) -> bool {
        self.rule == Rule::Public
    }

    /// The upstream's name, for logs.
    pub(crate) fn upstream_name(&self) -> &str {
        self.upstream.name()
    }

    /// An open route opens exactly what was written; a protected one protects other spellings of
    /// its prefix too, since the app behind it may not care for case.
    pub(super) fn takes(&self, target: &Target) -> bool {
        let host =
            self.hosts.is_empty() || self.hosts.iter().any(|host| **host == *target.authority());
        host && match self.rule {
            Rule::Public => self.prefix.matches(target.path()),
            Rule::SignedIn | Rule::AnyOf(_) => self.prefix.covers(target.path()),
        }
    }
}

/// Why a route cannot be taken into the table. Each names the route by its place in the settings.
///
/// Side: gateway.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RouteError {
    /// The upstream has to be named when there are several.
    #[error("there are several upstreams; the route has to name one")]
    AmbiguousUpstream,
    /// Groups of several providers count, and nobody wrote that they should.
    #[error(
        "`groups` would count whichever provider names them, and there are several; write \
         `provider` in the route: the one whose groups these are, or the list of those where they \
         mean the same"
    )]
    AmbiguousGroups,
    /// The same subject at two providers is two people.
    #[error(
        "`subjects` would count at several providers, and the same subject at another one is \
         somebody else; write the one provider whose subjects these are as `provider` in the route"
    )]
    AmbiguousSubjects,
    /// Two routes would take the same requests.
    #[error("it takes the same host and prefix as the route `{0}`")]
    Duplicate(Box<str>),
    /// There is no such provider.
    #[error("there is no provider `{0}`")]
    UnknownProvider(Box<str>),
    /// There is no such upstream.
    #[error("there is no upstream `{0}`")]
    UnknownUpstream(Box<str>),
}

/// All routes of one site. Each worker makes its [`super::Access`] from it.
#[derive(Debug)]
pub struct RouteTable {
    routes: Vec<Route>,
    index: Arc<Index>,
}

impl RouteTable {
    /// Builds the table. Each route comes with its place in the settings. Longer prefixes come
    /// first; among equal prefixes, routes that name a host come first.
    ///
    /// # Errors
    ///
    /// Every route that cannot be taken, by its place.
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
        routes.sort_by_key(|route| (Reverse(route.prefix.as_str().len()), route.hosts.is_empty()));
        let index = Arc::new(Index::new(&routes));
        Ok(Self { routes, index })
    }

    /// A copy for one worker: its routes are counted without atomics, in memory that no other
    /// worker writes to.
    pub(super) fn for_worker(&self) -> WorkerRoutes {
        WorkerRoutes {
            routes: self.routes.iter().cloned().map(Rc::new).collect(),
            index: Arc::clone(&self.index),
        }
    }

    /// All routes, most specific first.
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
        let at = |place: usize| self.routes.get(place);
        let takes = |place| at(place).is_some_and(|route| route.takes(target));
        at(self.index.first(target, takes)?)
    }

    /// All routes, most specific first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<Route>> {
        self.routes.iter()
    }
}

impl Route {
    /// Whether both name the same prefix, in any case, for a common host.
    fn shadows(&self, other: &Self) -> bool {
        let prefix = self
            .prefix
            .as_str()
            .eq_ignore_ascii_case(other.prefix.as_str());
        let both_any = self.hosts.is_empty() && other.hosts.is_empty();
        prefix && (both_any || self.hosts.iter().any(|host| other.hosts.contains(host)))
    }
}

/// The providers whose sessions count for a route that names these.
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
            let known = Claim::new(&name).filter(|_claim| providers.contains(&&*name));
            known.ok_or(RouteError::UnknownProvider(name))
        })
        .collect()
}

/// Whether what the rule lists means something at all providers that count: a subject is somebody
/// at one provider, a group may be the same at several if somebody says so.
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
