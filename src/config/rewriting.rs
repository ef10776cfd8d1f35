//! Checks the settings of replaced prefixes and addresses.

use std::collections::BTreeSet;

use super::section::Reader;
use crate::access::{Bypass, Route, RouteTable};

/// Refuses replaced addresses that have no effect.
pub(super) fn check_rewriting(routes: &RouteTable, reader: &mut Reader<'_>) {
    for route in routes.iter().filter(|route| route.has_app()) {
        check_addresses(route, reader);
    }
}

/// Refuses settings of `rewrite` that have no effect.
fn check_addresses(route: &Route, reader: &mut Reader<'_>) {
    let settings = route.rewrite_settings();
    let mut refuse = |key: &str, reason: &str| {
        reader.note(&format!("routes.{}.rewrite.{key}", route.index()), reason);
    };
    if settings.app_prefix.as_ref() == Some(route.public_prefix()) {
        let reason = "has no effect, because it is the prefix of the route; leave `app_prefix` out, \
                      or write app_prefix = \"/\" to remove the prefix";
        refuse("app_prefix", reason);
    }
    if !settings.prefix_fields.is_empty() {
        if route.removed_prefix().is_none() {
            let reason = "has no effect, because no prefix is removed here; leave `prefix_fields` \
                          out, or write app_prefix = \"/\"";
            refuse("prefix_fields", reason);
        }
        for (key, is_set) in [
            ("locations", settings.locations),
            ("cookies", settings.cookies),
        ] {
            if is_set {
                let reason = "the app gets its public prefix in `prefix_fields`, so its answers \
                              contain public addresses, which must not be replaced; leave one of the \
                              two out";
                refuse(key, reason);
            }
        }
    }
    if !settings.app_origins.is_empty() && !settings.locations && !settings.cookies {
        let reason = "has no effect without locations = true or cookies = true";
        refuse("app_origins", reason);
    }
    if settings.cookies && route.prefix().contains(';') {
        let reason =
            "the path of a cookie cannot contain the `;` of this prefix; leave `cookies` out";
        refuse("cookies", reason);
    }
}

/// Refuses a route that leads to paths of an app that another route protects, because a prefix is
/// replaced, unless `bypasses` names the other route. `hosts` are the public hosts of the gateway,
/// with their ports.
pub(super) fn check_bypasses(routes: &RouteTable, hosts: &[&str], reader: &mut Reader<'_>) {
    let mut needed = BTreeSet::new();
    for bypass in routes.bypasses(hosts) {
        let (open, protected) = (bypass.open, bypass.protected.name());
        needed.insert((open.index(), protected.to_owned()));
        if open
            .rewrite_settings()
            .bypasses
            .iter()
            .any(|name| **name == *protected)
        {
            continue;
        }
        let (path, app_path) = (&bypass.public_path, bypass.app_path.as_str());
        reader.note(
            &format!("routes.{}.rewrite.bypasses", open.index()),
            format!(
                "the path {path} of the route `{}` leads to {app_path} of the app, which the route \
                 `{protected}` protects with {}; protect {path} with a route of its own, \
                 or write bypasses = [\"{protected}\"] in `rewrite` if everyone who may use the route \
                 `{}` may use this part of the app",
                open.name(),
                protection(&bypass),
                open.name(),
            ),
        );
    }
    let names: Vec<&str> = routes.iter().map(Route::name).collect();
    for route in routes.iter() {
        for name in &route.rewrite_settings().bypasses {
            let reason = if names.iter().filter(|other| ***other == **name).count() > 1 {
                format!("`{name}` is the name of several routes; give each route its own `name`")
            } else if !needed.contains(&(route.index(), name.to_string())) {
                format!(
                    "has no effect, because this route leads to no path that the route `{name}` \
                     protects with stricter settings or an answer; remove the name"
                )
            } else {
                continue;
            };
            reader.note(
                &format!("routes.{}.rewrite.bypasses", route.index()),
                reason,
            );
        }
    }
}

/// Returns the way in which the protected route of a bypass protects its paths.
fn protection(bypass: &Bypass<'_>) -> &'static str {
    if bypass.protected.answer().is_some() {
        "its answer"
    } else if bypass.open.admits_only_users_of(bypass.protected) {
        "stricter values of `cross_site`, `allow_preflight` or `streams`"
    } else {
        "a stricter rule"
    }
}
