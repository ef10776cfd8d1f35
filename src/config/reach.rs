//! Checks that each route, and the path of each app's own sign-out, gets requests.

use super::section::Reader;
use crate::access::{Route, RouteTable};
use crate::login::{self, PublicUrls};

/// Refuses three kinds of routes that can never match: a route for a host that the gateway does not
/// serve, a route below the gateway's own paths, and a route if other routes with the same prefix
/// name each of its hosts. Checks nothing if a part of the settings has a problem.
pub(super) fn check_reach(
    urls: &PublicUrls,
    login: &login::Settings,
    routes: &RouteTable,
    reader: &mut Reader<'_>,
) {
    if !reader.is_clean("login") {
        return;
    }
    for route in routes.iter() {
        let key = format!("routes.{}", route.index());
        for host in route.hosts().filter(|host| urls.find(host).is_none()) {
            let served: Vec<String> = urls.authorities().collect();
            let advice = if host.contains('*') {
                "; `*` has no meaning here: write each host"
            } else if host.contains('/') {
                "; write only the host"
            } else {
                ""
            };
            reader.note(
                &format!("{key}.hosts"),
                format!(
                    "`{host}` is not one of the hosts in public_url ({}){advice}",
                    served.join(", ")
                ),
            );
        }
        let prefix = route.prefix();
        if login.own.cover(prefix) || login.redirection.is_own_path(prefix) {
            let reason = format!(
                "it never matches, because Sidegate itself answers {} and all paths below \
                 {}; remove the route",
                login.redirection.path(),
                login.own.prefix()
            );
            reader.note(&format!("{key}.prefix"), reason);
        }
        if is_taken(routes, route, urls) {
            let hosts = match route.hosts().next() {
                Some(_) => "each of its hosts",
                None => "every host in public_url",
            };
            let reason = format!(
                "it never matches, because other routes with this prefix name {hosts}; remove it, \
                 or the `hosts` of another route"
            );
            reader.note(&format!("{key}.prefix"), reason);
        }
    }
}

/// Refuses the path of an app's own sign-out for which the app never gets a request, because the
/// gateway itself or another route answers this path at each host of the route.
pub(super) fn check_app_sign_out_reach(
    hosts: &[&str],
    login: &login::Settings,
    routes: &RouteTable,
    reader: &mut Reader<'_>,
) {
    // The routes of a worker find the route of a path as for a request.
    let served = routes.for_worker();
    for route in routes.iter() {
        let Some(path) = route.app_sign_out() else {
            continue;
        };
        let key = format!("routes.{}.app_sign_out", route.index());
        if !reader.is_clean(&key) {
            continue;
        }
        let is_own = login.own.cover(path) || login.redirection.is_own_path(path);
        let serving: Vec<_> = (hosts.iter())
            .filter_map(|host| served.serving(host, path))
            .collect();
        let is_reached = serving.iter().any(|other| other.index() == route.index());
        let problem = match serving.first() {
            _ if is_own => "has no effect, because Sidegate itself answers this path".to_owned(),
            Some(other) if !is_reached => format!(
                "has no effect, because the route `{}` takes the requests for this path; write the \
                 key into that route",
                other.name()
            ),
            None if hosts.iter().any(|host| route.is_for_host(host)) => {
                "has no effect, because apps may read this path as a path of several routes, and no \
                 route takes its requests; begin the path exactly as the prefix of the route".into()
            }
            Some(_) | None => continue,
        };
        reader.note(&key, format!("`{path}` {problem}"));
    }
}

/// Returns a warning for each route without `hosts` that decides about a part of a host, and admits more users than the
/// route of this host. The route whose prefix has the most segments decides, even if it has no `hosts`.
pub(super) fn weaker_without_hosts(routes: &RouteTable) -> Vec<String> {
    let served = routes.for_worker();
    let everywhere = routes.iter().filter(|route| route.hosts().next().is_none());
    let warning = |route: &Route| {
        let decides = |host: &str| {
            let serving = served.serving(host, route.prefix());
            serving.is_some_and(|serving| serving.index() == route.index())
        };
        // The comparison of two prefixes is the most expensive step, so it comes last.
        routes.iter().find_map(|own| {
            let host = own.hosts().find(|host| admits_more(route, own) && decides(host))?;
            own.public_prefix().covers(route.prefix()).then(|| {
                format!(
                    "routes.{}.hosts: the route `{}` also decides at {host}, and admits more users than the route \
                     `{}` of this host; if this is not meant, list the hosts of the route",
                    route.index(),
                    route.name(),
                    own.name(),
                )
            })
        })
    };
    everywhere.filter_map(warning).collect()
}

/// Returns true if a route certainly admits more users than another route.
fn admits_more(route: &Route, other: &Route) -> bool {
    if other.is_public() {
        return false;
    }
    route.is_public() || route.admits_every_user() && !other.admits_every_user()
}

/// Returns true if, at each host of the route, an earlier route takes all its paths.
fn is_taken(routes: &RouteTable, route: &Route, urls: &PublicUrls) -> bool {
    let before = routes
        .iter()
        .take_while(|other| other.index() != route.index());
    let taking: Vec<&Route> = before.filter(|other| other.takes_paths_of(route)).collect();
    let is_taken = |host: &str| taking.iter().any(|other| other.is_for_host(host));
    if route.hosts().next().is_some() {
        route.hosts().all(is_taken)
    } else {
        !urls.have_wildcard() && urls.listed().all(|url| is_taken(url.authority()))
    }
}
