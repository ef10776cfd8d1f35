//! Reads and checks the upstreams and the routes.

use std::collections::BTreeMap;
use std::sync::Arc;

use figment::Figment;
use figment::value::Value;

use super::providers::ParsedProviders;
use super::section::Reader;
use super::{app_fields, entries};
use crate::access::{KnownClaims, Route, RouteError, RouteSettings, RouteTable, StreamSettings};
use crate::target::readings_of;
use crate::telemetry::chain;
use crate::upstream::{self, AssertionNames, CredentialSettings, Upstream};

/// The upstreams by name.
pub(crate) type Upstreams = BTreeMap<Box<str>, Arc<Upstream>>;

/// All configured upstreams by name. The value is `None` if the settings of the upstream have a
/// problem.
pub(super) type ParsedUpstreams = BTreeMap<Box<str>, Option<ParsedUpstream>>;

/// An upstream, and the settings of the fields that the app gets.
#[derive(Clone, Debug)]
pub(super) struct ParsedUpstream {
    pub(super) upstream: Arc<Upstream>,
    /// `None` if the section `assertions` applies.
    pub(super) assertions: Option<AssertionNames>,
    pub(super) credentials: CredentialSettings,
}

/// Creates the upstreams. If the settings of an upstream have not changed, the gateway uses the
/// upstream in `before` again, with its open connections.
pub(super) fn upstreams(
    settings: &Figment,
    before: &Upstreams,
    reader: &mut Reader<'_>,
) -> ParsedUpstreams {
    let required = needs_upstream(settings, reader).then_some("upstream");
    let entries = entries(settings, reader, "upstreams", required);
    let mut upstreams = ParsedUpstreams::new();
    let common = settings.find_value("assertions").ok();
    let common = common.filter(|_common| reader.is_clean("assertions"));
    for (name, mut value) in entries {
        let key = format!("upstreams.{name}");
        app_fields::inherit_assertions(&mut value, common.as_ref());
        // This loop always creates a new upstream, because the creation reports problems with the
        // files of the upstream. If the settings have not changed, the gateway continues to use the
        // previous upstream.
        let read = reader.read_value::<upstream::Settings>(&key, value);
        let opened = read.and_then(|mut settings| {
            let (assertions, credentials) = settings.take_fields();
            let upstream = match Upstream::new(&name, &settings) {
                Ok(upstream) => match before.get(&*name) {
                    Some(before) if before.settings() == &settings => Arc::clone(before),
                    Some(_) | None => Arc::new(upstream),
                },
                Err(error) => {
                    reader.note(&format!("{key}.{}", error.key()), chain(&error));
                    return None;
                }
            };
            check_http1(&upstream, reader);
            check_queue(&upstream, reader);
            Some(ParsedUpstream {
                upstream,
                assertions,
                credentials,
            })
        });
        upstreams.insert(name.into(), opened);
    }
    upstreams
}

/// Returns true if a route needs an app. Without a configured route, the gateway sends all requests
/// to the only app. No route needs an app if another proxy asks for auth checks.
fn needs_upstream(settings: &Figment, reader: &Reader<'_>) -> bool {
    if !reader.is_absent("auth_check.proxies") {
        return false;
    }
    match settings.find_value("routes") {
        Ok(Value::Array(_, routes)) => {
            let mut routes_to_apps = routes.iter().filter(|route| {
                let upstream = route.find_ref("upstream").and_then(Value::as_str);
                route.find_ref("answer").is_none() && upstream != Some("")
            });
            routes.is_empty() || routes_to_apps.next().is_some()
        }
        Ok(_) | Err(_) => true,
    }
}

/// Refuses keys for HTTP/1.1 if the app speaks HTTP/2. An app that speaks HTTP/2 never switches the
/// protocol, and field names in HTTP/2 are always in lower case.
fn check_http1(upstream: &Upstream, reader: &mut Reader<'_>) {
    let settings = upstream.settings();
    if settings.protocol == upstream::Protocol::Http2 && settings.tunnels.is_some() {
        reader.note(
            &format!("upstreams.{}.tunnels", upstream.name()),
            "there are no tunnels here, because an app with protocol = \"http2\" does not switch \
             the protocol; leave `tunnels` out",
        );
    }
    if settings.protocol == upstream::Protocol::Http2 && settings.title_case_fields {
        reader.note(
            &format!("upstreams.{}.title_case_fields", upstream.name()),
            "has no effect, because field names are always in lower case with protocol = \"http2\"; \
             leave `title_case_fields` out",
        );
    }
}

/// Refuses keys about waiting requests if no request can wait for a connection.
fn check_queue(upstream: &Upstream, reader: &mut Reader<'_>) {
    if upstream.settings().queue > 0 {
        return;
    }
    for name in ["queue_wait_secs", "slow_client_secs", "max_share"] {
        let key = format!("upstreams.{}.{name}", upstream.name());
        if !reader.is_absent(&key) {
            let reason =
                "has no effect, because queue = 0 means that no request waits for a connection";
            reader.note(&key, format!("{reason}; leave `{name}` out"));
        }
    }
}

/// Returns the upstreams that have no problem.
pub(super) fn valid_upstreams(upstreams: ParsedUpstreams) -> Upstreams {
    let opened = upstreams.into_iter();
    opened
        .filter_map(|(name, parsed)| Some((name, parsed?.upstream)))
        .collect()
}

/// Reads the route table. Without a configured route, the table has one route for all requests,
/// which requires a signed-in user and uses the only upstream, if there is an upstream.
pub(super) fn routes(
    settings: &Figment,
    reader: &mut Reader<'_>,
    upstreams: &ParsedUpstreams,
    providers: &[String],
) -> Option<RouteTable> {
    let written = match settings.find_value("routes") {
        Ok(Value::Array(_, routes)) => routes,
        Ok(_) => {
            let reason = "expected a list; write each route as [[routes]], or in variables as \
                          SIDEGATE__ROUTES__0__PREFIX, counted from 0 without gaps";
            reader.note("routes", reason);
            return None;
        }
        Err(_missing) => Vec::new(),
    };
    let count = written.len();
    let mut routes: Vec<(usize, RouteSettings)> = Vec::new();
    for (index, value) in written.into_iter().enumerate() {
        let key = format!("routes.{index}");
        let route = reader.read_value(&key, value);
        // If a value of a route is wrong, the `Reader` has replaced the wrong value by the default.
        // A route with a wrong value is left out of the table, because a route with the default
        // value could contradict another route.
        let route = route.filter(|_route| reader.is_clean(&key));
        routes.extend(route.map(|route| (index, route)));
    }
    // The table is built even if a route has a problem, so that problems of the other routes are
    // also reported.
    let complete = routes.len() == count;
    if count == 0 {
        routes.push((0, RouteSettings::default()));
    }
    let opened = valid_upstreams(upstreams.clone());
    // If no upstream is usable, the routes would have no app. The problems of the upstreams were
    // already reported.
    let complete = complete && (upstreams.is_empty() || !opened.is_empty());
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

/// Reports a problem of a route, unless the cause is a provider or an upstream whose problem was
/// already reported.
fn note_route(
    reader: &mut Reader<'_>,
    index: usize,
    error: &RouteError,
    (upstreams, providers): (&ParsedUpstreams, &[&str]),
) {
    let key = match error {
        // The route names an upstream whose problem was already reported.
        RouteError::UnknownUpstream(name) if upstreams.contains_key(name) => return,
        // The route names a provider whose problem was already reported.
        RouteError::UnknownProvider(name) if providers.contains(&&**name) => return,
        RouteError::AmbiguousGroups | RouteError::AmbiguousSubjects => "access",
        RouteError::AmbiguousUpstream
        | RouteError::UnknownUpstream(_)
        | RouteError::UnusedUpstream => "upstream",
        RouteError::UnknownProvider(_) => "provider",
        RouteError::AnotherSpelling(..)
        | RouteError::Behind(_)
        | RouteError::Duplicate(_)
        | RouteError::DuplicateSpelling(_) => "prefix",
        RouteError::NothingToEnforce => "enforce",
        RouteError::Answer(error) => &format!("answer.{}", error.key()),
    };
    reader.note(&format!("routes.{index}.{key}"), error.to_string());
}

/// Refuses routes that admit too many users or nobody, and settings without an effect.
pub(super) fn check_routes(
    routes: &RouteTable,
    providers: &ParsedProviders,
    reader: &mut Reader<'_>,
) {
    check_open_registration(routes, &providers.open, reader);
    check_streams(routes, reader);
    check_app_sign_outs(routes, reader);
    check_fragments(routes, reader);
    check_rules(routes, &providers.known, reader);
}

/// Refuses a route that admits every signed-in user when anyone can create an account at its
/// provider. With `anyone = true`, the operator permits every account at the provider to use the
/// route.
fn check_open_registration(routes: &RouteTable, open: &[String], reader: &mut Reader<'_>) {
    // The default route is not written in the settings, so a problem with the default route is
    // reported at the provider's settings key.
    let written = !reader.is_absent("routes");
    let mut all: Vec<&Route> = routes.iter().collect();
    // The problems are reported in the order of the settings.
    all.sort_by_key(|route| route.index());
    for route in all.into_iter().filter(|route| route.admits_every_user()) {
        for name in route
            .providers()
            .filter(|name| open.iter().any(|open| open == name))
        {
            let (key, advice) = if !route.is_enforced() {
                (
                    format!("routes.{}.enforce", route.index()),
                    "write enforce = true",
                )
            } else if written {
                (format!("routes.{}.access", route.index()), WRITE_A_RULE)
            } else {
                (format!("providers.{name}.anyone"), WRITE_A_RULE)
            };
            reader.note(
                &key,
                format!(
                    "anyone can create an account at `{name}`, so the route admits everyone; \
                     {advice}, or providers.{name}.anyone = true if everyone may use the route"
                ),
            );
        }
    }
}

/// The advice for a route that admits everyone.
const WRITE_A_RULE: &str =
    "write access = { any_of = { email_domains = [\"example.com\"] } } in the route";

/// Returns a warning for each route whose rule is not enforced.
pub(super) fn unenforced_rules(routes: &RouteTable) -> impl Iterator<Item = String> {
    let mut unenforced: Vec<&Route> = routes.iter().filter(|route| !route.is_enforced()).collect();
    unenforced.sort_by_key(|route| route.index());
    unenforced.into_iter().map(|route| {
        format!(
            "routes.{}.enforce: the rule of the route `{}` refuses nobody, so every user who is \
             signed in may use the route",
            route.index(),
            route.name()
        )
    })
}

/// Returns a warning if a route accepts several providers but no assertion field tells the app
/// which provider signed the user in.
pub(super) fn unnamed_providers(routes: &RouteTable) -> Option<String> {
    let unnamed = |route: &&Route| route.fields().names.provider.is_none();
    let to_app = routes.iter().filter(|route| route.answer().is_none());
    let several = to_app.filter(|route| route.providers().len() > 1);
    let several = several.filter(unnamed);
    let several: Vec<String> = several.map(|route| format!("`{}`", route.name())).collect();
    (!several.is_empty()).then(|| {
        format!(
            "the app cannot tell which provider a user comes from, and several providers are \
             accepted in the route {}: two users with the same subject, user name or email \
             address at different providers look like one user to the app; set \
             assertions.provider = \"X-Forwarded-Provider\", or write one `provider` in each route",
            several.join(", ")
        )
    })
}

/// Refuses a setting of `streams` that can never have an effect.
fn check_streams(routes: &RouteTable, reader: &mut Reader<'_>) {
    for route in routes.iter().filter(|route| route.answer().is_none()) {
        let streams = route.streams();
        let reason = if !streams.upgrades {
            "upgrades = false".to_owned()
        } else if route.speaks_http2() {
            format!(
                "the app `{}` speaks HTTP/2",
                route.upstream_name().unwrap_or_default()
            )
        } else {
            continue;
        };
        let default = StreamSettings::default();
        // The settings `origins`, `per_client` and `max_lag_kib` apply only to switched
        // connections, and this route has no switched connections.
        for (key, is_set) in [
            ("origins", streams.origins != default.origins),
            ("per_client", streams.per_client != default.per_client),
            ("max_lag_kib", streams.max_lag != default.max_lag),
        ] {
            if is_set {
                reader.note(
                    &format!("routes.{}.streams.{key}", route.index()),
                    format!(
                        "no app can switch protocols here, because {reason}; leave `{key}` out"
                    ),
                );
            }
        }
    }
}

/// Refuses the path of an app's own sign-out that is not a path below the prefix of the route.
fn check_app_sign_outs(routes: &RouteTable, reader: &mut Reader<'_>) {
    for route in routes.iter() {
        let Some(path) = route.app_sign_out() else {
            continue;
        };
        let canonical = readings_of(path).is_some_and(|(canonical, _)| canonical == path);
        let problem = if !canonical || path.contains(['?', '#']) {
            "is not a path; write the path as browsers request it, such as \"/logout\""
        } else if !route.public_prefix().matches(path) {
            "is not below the prefix of the route; write the path as browsers request it"
        } else {
            continue;
        };
        let key = format!("routes.{}.app_sign_out", route.index());
        reader.note(&key, format!("`{path}` {problem}"));
    }
}

/// Refuses `keep_fragment` on a route that never requires a sign-in.
fn check_fragments(routes: &RouteTable, reader: &mut Reader<'_>) {
    for route in routes.iter() {
        if route.keeps_fragment() && route.is_public() {
            let reason = "has no effect, because a public route never requires a sign-in; leave \
                          `keep_fragment` out";
            reader.note(&format!("routes.{}.keep_fragment", route.index()), reason);
        }
    }
}

/// Refuses a rule that no user can meet, because no accepted provider gives the claims that the
/// rule compares.
fn check_rules(
    routes: &RouteTable,
    known: &BTreeMap<String, KnownClaims>,
    reader: &mut Reader<'_>,
) {
    for route in routes.iter() {
        let providers: Option<Vec<_>> = route.providers().map(|name| known.get(name)).collect();
        // If a provider is missing or has a problem, another check has already reported the
        // problem.
        let Some(providers) = providers.filter(|providers| !providers.is_empty()) else {
            continue;
        };
        if !providers
            .iter()
            .any(|known| route.written_rule().can_be_met(**known))
        {
            let reason = "nobody can meet this rule, because the provider's settings give no claim \
                          that it compares; see identity.source, identity.claims and \
                          identity.emails_verified of the provider";
            reader.note(&format!("routes.{}.access", route.index()), reason);
        }
    }
}
