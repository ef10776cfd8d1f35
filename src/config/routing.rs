//! Upstreams and routes: what leads where.

use std::collections::BTreeMap;
use std::sync::Arc;

use figment::Figment;
use figment::value::Value;

use super::entries;
use super::section::Reader;
use crate::access::{Route, RouteError, RouteSettings, RouteTable};
use crate::login::{PublicUrl, PublicUrls};
use crate::telemetry::chain;
use crate::upstream::{self, AssertionNames, Upstream};

/// Upstreams by name.
pub(crate) type Upstreams = BTreeMap<Box<str>, Arc<Upstream>>;

/// The upstreams that are written, by name; `None` for those that have a problem of their own.
pub(super) type ParsedUpstreams = BTreeMap<Box<str>, Option<Arc<Upstream>>>;

/// Opens the upstreams. Those among `before` whose settings are the same are taken over, with their
/// connections.
pub(super) fn upstreams(
    settings: &Figment,
    before: &Upstreams,
    reader: &mut Reader<'_>,
) -> ParsedUpstreams {
    let entries = entries(settings, reader, "upstreams", "upstream");
    let mut upstreams = ParsedUpstreams::new();
    for (name, value) in entries {
        let key = format!("upstreams.{name}");
        let opened = reader
            .read_value::<upstream::Settings>(&key, value)
            .and_then(|settings| match Upstream::new(&name, &settings) {
                Ok(upstream) => Some(match before.get(&*name) {
                    Some(before) if before.settings() == &settings => Arc::clone(before),
                    Some(_) | None => Arc::new(upstream),
                }),
                Err(error) => {
                    reader.note(&format!("{key}.ca_file"), chain(&error));
                    None
                }
            });
        upstreams.insert(name.into(), opened);
    }
    upstreams
}

/// Those that have no problem.
pub(super) fn valid_upstreams(upstreams: ParsedUpstreams) -> Upstreams {
    let opened = upstreams.into_iter();
    opened
        .filter_map(|(name, upstream)| Some((name, upstream?)))
        .collect()
}

/// The route table. Without routes everything is for signed-in people.
pub(super) fn routes(
    settings: &Figment,
    reader: &mut Reader<'_>,
    upstreams: &ParsedUpstreams,
    providers: &[String],
) -> Option<RouteTable> {
    let written = match settings.find_value("routes") {
        Ok(Value::Array(_, routes)) => routes,
        Ok(_) => {
            reader.note("routes", "expected a list; write each route as [[routes]]");
            return None;
        }
        Err(_missing) => Vec::new(),
    };
    let count = written.len();
    let mut routes: Vec<(usize, RouteSettings)> = Vec::new();
    for (index, value) in written.into_iter().enumerate() {
        let route = reader.read_value(&format!("routes.{index}"), value);
        routes.extend(route.map(|route| (index, route)));
    }
    let complete = routes.len() == count;
    if count == 0 {
        routes.push((0, RouteSettings::default()));
    }
    let opened = valid_upstreams(upstreams.clone());
    let names: Vec<&str> = providers.iter().map(String::as_str).collect();
    match RouteTable::new(routes, &opened, &names) {
        Ok(table) => complete.then_some(table),
        Err(errors) => {
            for (index, error) in errors {
                note_route(reader, index, &error, (upstreams, &names));
            }
            None
        }
    }
}

/// Notes what is wrong with a route, unless it follows from a problem that is noted already.
fn note_route(
    reader: &mut Reader<'_>,
    index: usize,
    error: &RouteError,
    (upstreams, providers): (&ParsedUpstreams, &[&str]),
) {
    let key = match error {
        RouteError::UnknownUpstream(name) if upstreams.contains_key(name) => return,
        RouteError::AmbiguousUpstream if upstreams.len() < 2 => return,
        // A name that is none is noted where it is written.
        RouteError::UnknownProvider(name) if providers.contains(&&**name) => return,
        RouteError::AmbiguousGroups | RouteError::AmbiguousSubjects => "access",
        RouteError::UnknownUpstream(_) | RouteError::AmbiguousUpstream => "upstream",
        RouteError::UnknownProvider(_) => "provider",
        RouteError::Duplicate(_) => "prefix",
    };
    reader.note(&format!("routes.{index}.{key}"), error.to_string());
}

/// Refuses routes for whoever is signed in with a provider at which anybody can get an account,
/// unless it is written that anybody may pass.
pub(super) fn check_open_registration(
    routes: &RouteTable,
    open: &[String],
    reader: &mut Reader<'_>,
) {
    // The route that is there without any being written has no place in the settings.
    let written = !reader.is_absent("routes");
    let mut all: Vec<&Route> = routes.iter().collect();
    all.sort_by_key(|route| route.index());
    for route in all.into_iter().filter(|route| route.admits_every_user()) {
        for name in route
            .providers()
            .filter(|name| open.iter().any(|open| open == name))
        {
            let key = if written {
                format!("routes.{}.access", route.index())
            } else {
                format!("providers.{name}.anyone")
            };
            reader.note(
                &key,
                format!(
                    "anybody can get an account at `{name}`, so \"signed-in\" keeps nobody out; \
                     write access = {{ any_of = {{ email_domains = [\"example.com\"] }} }} in the \
                     route, or providers.{name}.anyone = true if anybody may pass"
                ),
            );
        }
    }
}

/// What to say of routes of several providers when the app is not told which one it was.
pub(super) fn unnamed_providers(routes: &RouteTable, names: &AssertionNames) -> Option<String> {
    if names.provider.is_some() {
        return None;
    }
    let several = routes.iter().filter(|route| route.providers().len() > 1);
    let several: Vec<String> = several.map(|route| format!("`{}`", route.name())).collect();
    (!several.is_empty()).then(|| {
        format!(
            "the app is not told which provider somebody comes from, and more than one counts in \
             the route {}: two people with the same subject, user name or address at different \
             providers are one person to the app; set assertions.provider = \
             \"X-Forwarded-Provider\", or write one `provider` in each route",
            several.join(", ")
        )
    })
}

/// A route for a host that is not served would never be taken.
pub(super) fn check_hosts(urls: &PublicUrls, routes: &RouteTable, reader: &mut Reader<'_>) {
    for route in routes.iter() {
        for host in route.hosts().filter(|host| urls.find(host).is_none()) {
            let known: Vec<&str> = urls.iter().map(PublicUrl::authority).collect();
            reader.note(
                &format!("routes.{}.hosts", route.index()),
                format!(
                    "`{host}` is none of the hosts in public_url ({})",
                    known.join(", ")
                ),
            );
        }
    }
}
