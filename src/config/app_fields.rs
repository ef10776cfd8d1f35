//! Reads and checks the settings of the fields that an app gets: assertion fields and credentials.

use std::collections::{BTreeMap, BTreeSet};

use figment::Figment;
use figment::value::{Dict, Value};
use http::HeaderName;

use super::routing::{ParsedUpstream, ParsedUpstreams};
use super::section::Reader;
use super::signing::Signing;
use crate::access::{KnownClaims, OnRefusal, Route, RouteTable};
use crate::provider::settings::KeptValues;
use crate::provider::{SetupError, secret_file, secret_variable};
use crate::secret::Environment;
use crate::telemetry::chain;
use crate::upstream::{
    AppFields, AssertionNames, BasicPassword, BasicSettings, Bearer, CredentialSettings, FieldName,
    additional_claim,
};

/// Adds the keys of the section `assertions` to the table `assertions` of an upstream. A key that
/// the table of the upstream already contains keeps its value. The keys of the table `signed` are
/// added in the same way.
pub(super) fn inherit_assertions(upstream: &mut Value, common: Option<&Value>) {
    if let Value::Dict(_, upstream) = upstream
        && let Some(Value::Dict(_, own)) = upstream.get_mut("assertions")
        && let Some(Value::Dict(_, common)) = common
    {
        if let Some(Value::Dict(_, own)) = own.get_mut("signed")
            && let Some(Value::Dict(_, common)) = common.get("signed")
            // An empty field name turns the signed assertion off, so the other keys of the table
            // `signed` would have no effect.
            && !has_empty_field(own)
            && !has_empty_field(common)
        {
            inherit(own, common);
        }
        inherit(own, common);
    }
}

/// Adds the keys of `common` that `own` does not contain.
fn inherit(own: &mut Dict, common: &Dict) {
    for (key, value) in common {
        own.entry(key.clone()).or_insert_with(|| value.clone());
    }
}

fn has_empty_field(signed: &Dict) -> bool {
    signed.get("field").and_then(Value::as_str) == Some("")
}

/// Returns the values that sessions have to keep, because the settings of an app name these values.
/// This function reads the settings before they are checked, so it ignores unexpected values.
pub(super) fn kept_values(settings: &Figment) -> KeptValues {
    let mut claims = BTreeSet::new();
    let mut kept = KeptValues::default();
    for section in ["assertions", "upstreams", "routes"] {
        if let Ok(value) = settings.find_value(section) {
            collect(&value, &mut claims, &mut kept.id_token);
        }
    }
    kept.claims = claims.into_iter().collect();
    kept
}

fn collect(value: &Value, claims: &mut BTreeSet<Box<str>>, id_token: &mut bool) {
    match value {
        Value::Dict(_, table) => {
            for (key, value) in table {
                match (&**key, value.as_str()) {
                    ("claim", Some(name)) => claims.extend(additional_claim(name)),
                    ("bearer", Some("id_token")) => *id_token = true,
                    _ => collect(value, claims, id_token),
                }
            }
        }
        Value::Array(_, list) => {
            for value in list {
                collect(value, claims, id_token);
            }
        }
        Value::String(..)
        | Value::Char(..)
        | Value::Bool(..)
        | Value::Num(..)
        | Value::Empty(..) => {}
    }
}

/// The credentials of a route, and the key of the settings table that contains these credentials.
struct Written<'a> {
    credentials: &'a CredentialSettings,
    key: String,
}

impl<'a> Written<'a> {
    /// If the settings of the route name a credential, the credentials of the upstream do not
    /// apply.
    fn of(route: &'a Route, upstream: Option<&'a ParsedUpstream>) -> Self {
        let own = route.credentials();
        match upstream {
            Some(upstream) if own.keys().next().is_none() && !route.is_public() => Self {
                credentials: &upstream.credentials,
                key: format!("upstreams.{}", upstream.upstream.name()),
            },
            Some(_) | None => Self {
                credentials: own,
                key: format!("routes.{}", route.index()),
            },
        }
    }
}

/// Sets the fields that the gateway writes into the requests of each route.
pub(super) fn write(
    routes: RouteTable,
    (upstreams, names): (&ParsedUpstreams, &AssertionNames),
    (signing, environment): (Option<&Signing>, &Environment),
    reader: &mut Reader<'_>,
) -> RouteTable {
    // Routes with the same credentials and the same app share their computed fields, so that a
    // session computes the values once for all these routes.
    let mut shared = BTreeMap::<(String, String, bool), AppFields>::new();
    routes.with_fields(|route| {
        let upstream = upstream_of(route, upstreams);
        let written = Written::of(route, upstream);
        let app = route.upstream_name().unwrap_or_default().to_owned();
        let place = (app, written.key.clone(), route.is_public());
        let make = || {
            let own = upstream.and_then(|upstream| upstream.assertions.as_ref());
            let names = own.unwrap_or(names).clone();
            let is_usable = check_credentials(&written, &names, reader);
            let basic = written.credentials.basic.as_ref().filter(|_| is_usable);
            let password =
                basic.and_then(|basic| password(basic, &written.key, environment, reader));
            let gets_fields = route.answer().is_none();
            let signed = signing
                .filter(|_| gets_fields)
                .and_then(|signing| signing.assertion(&names, app_name(route)));
            AppFields::new(names, written.credentials, password, route.is_public())
                .with_signed(signed)
        };
        shared.entry(place).or_insert_with(make).clone()
    })
}

/// Returns the name of the app of a route. If the gateway does not know the app, the name of the
/// route is the name of the app.
fn app_name(route: &Route) -> &str {
    route.upstream_name().unwrap_or_else(|| route.name())
}

fn upstream_of<'a>(route: &Route, upstreams: &'a ParsedUpstreams) -> Option<&'a ParsedUpstream> {
    upstreams.get(route.upstream_name()?)?.as_ref()
}

/// Refuses credentials that contradict each other. Returns true if the credentials can be used.
fn check_credentials(
    written: &Written<'_>,
    names: &AssertionNames,
    reader: &mut Reader<'_>,
) -> bool {
    let (key, credentials) = (&written.key, written.credentials);
    if let Err(error) = credentials.check() {
        reader.note(&format!("{key}.{}", error.key()), error.to_string());
        return false;
    }
    if let Some(field) = &credentials.token_field
        && names.has(field)
    {
        let reason = "is also the name of an assertion field; choose another name";
        reader.note(&format!("{key}.token_field"), reason);
    }
    true
}

/// Reads the password for the `Authorization` field.
fn password(
    basic: &BasicSettings,
    key: &str,
    environment: &Environment,
    reader: &mut Reader<'_>,
) -> Option<BasicPassword> {
    let sources = (&basic.password_file, &basic.password_env);
    let (below, read) = match sources {
        (Some(_), Some(_)) => (
            "password_env",
            Err("is written together with password_file; write only one of the two".to_owned()),
        ),
        (None, None) => (
            "password_file",
            Err(
                "is missing: name a file with password_file, or a variable with password_env"
                    .to_owned(),
            ),
        ),
        (Some(path), None) => {
            let read = secret_file("basic.password_file", path);
            ("password_file", read.map_err(|error| problem(&error)))
        }
        (None, Some(name)) => {
            let read = secret_variable("basic.password_env", name, environment);
            ("password_env", read.map_err(|error| problem(&error)))
        }
    };
    match read {
        Ok(password) => Some(BasicPassword {
            password,
            user_key: format!("{key}.basic.user").into(),
        }),
        Err(reason) => {
            reader.note(&format!("{key}.basic.{below}"), reason);
            None
        }
    }
}

fn problem(error: &SetupError) -> String {
    error.problem().map_or_else(|| chain(error), str::to_owned)
}

/// Finds the routes and the apps for which no provider states who the user is.
struct Nameless<'a> {
    routes: &'a RouteTable,
    known: &'a BTreeMap<String, KnownClaims>,
    /// True if no provider has an identity source.
    always: bool,
}

impl<'a> Nameless<'a> {
    fn new(routes: &'a RouteTable, known: &'a BTreeMap<String, KnownClaims>) -> Self {
        let always = !known.is_empty() && !known.values().any(|known| known.subject);
        Self {
            routes,
            known,
            always,
        }
    }

    fn is_route(&self, route: &Route) -> bool {
        let mut providers = route.providers().peekable();
        let without = |name: &str| self.known.get(name).is_some_and(|known| !known.subject);
        self.always || (providers.peek().is_some() && providers.all(without))
    }

    /// Returns true if all routes to the app `upstream` are such routes.
    fn is_app(&self, upstream: &str) -> bool {
        let is_of_app = |route: &&Route| route.upstream_name() == Some(upstream);
        let mut routes = self.routes.iter().filter(is_of_app).peekable();
        self.always || (routes.peek().is_some() && routes.all(|route| self.is_route(route)))
    }

    fn reason(&self) -> &'static str {
        if self.always {
            "has no effect, because identity.source of every provider is \"none\""
        } else {
            "has no effect, because the routes accept only providers whose identity.source is \
             \"none\""
        }
    }
}

/// Refuses a claim as the value of a field or as the user name of a Basic credential, and a signed
/// assertion, if none of the providers that the routes accept has an identity source. `names` are the
/// names in the section `assertions`.
pub(super) fn check_claims(
    routes: &RouteTable,
    (upstreams, names): (&ParsedUpstreams, &AssertionNames),
    known: &BTreeMap<String, KnownClaims>,
    reader: &mut Reader<'_>,
) {
    let nameless = Nameless::new(routes, known);
    let fields = |key: &str, names: &AssertionNames| {
        let claims = names.fields.iter().filter(|(_, value)| value.is_claim());
        let key = |(name, _): &(HeaderName, _)| format!("{key}.fields.{name}.claim");
        claims.map(key).collect::<Vec<_>>()
    };
    let user = |key: String, credentials: &CredentialSettings| {
        let basic = credentials.basic.as_ref();
        let is_claim = basic.is_some_and(|basic| basic.user.is_claim());
        is_claim.then(|| format!("{key}.basic.user"))
    };
    let signed = |key: &str, names: &AssertionNames| {
        let is_signed = names.signed.is_some();
        is_signed.then(|| format!("{key}.signed"))
    };
    let mut keys = Vec::new();
    if nameless.always {
        keys.extend(fields("assertions", names));
        keys.extend(signed("assertions", names));
    }
    for (name, upstream) in upstreams {
        let Some(upstream) = upstream.as_ref().filter(|_| nameless.is_app(name)) else {
            continue;
        };
        // An upstream can inherit all fields of the section `assertions`. The list `keys` already
        // contains the keys of these fields.
        let assertions = upstream.assertions.as_ref();
        let own = assertions.filter(|own| own.signed != names.signed);
        keys.extend(own.and_then(|own| signed(&format!("upstreams.{name}.assertions"), own)));
        let own = assertions.filter(|own| own.fields != names.fields);
        keys.extend(
            own.map(|own| fields(&format!("upstreams.{name}.assertions"), own))
                .into_iter()
                .flatten(),
        );
        keys.extend(user(format!("upstreams.{name}"), &upstream.credentials));
    }
    for route in routes.iter().filter(|route| nameless.is_route(route)) {
        keys.extend(user(
            format!("routes.{}", route.index()),
            route.credentials(),
        ));
    }
    for key in keys {
        reader.note(&key, nameless.reason());
    }
}

/// Refuses settings of the fields that can never have an effect.
pub(super) fn check(
    routes: &RouteTable,
    upstreams: &ParsedUpstreams,
    known: &BTreeMap<String, KnownClaims>,
    reader: &mut Reader<'_>,
) {
    let mut reported = BTreeSet::new();
    let mut used = BTreeSet::new();
    for route in routes.iter().filter(|route| route.answer().is_none()) {
        let written = Written::of(route, upstream_of(route, upstreams));
        used.insert(written.key.clone());
        check_id_token(route, &written, known, &mut reported, reader);
        if route.on_refusal() != OnRefusal::Pass && !route.fields().sends_token() {
            let reason = "has no effect, because the app gets no token here; leave \
                          `on_upstream_401` out, or write bearer = \"access_token\" in the route";
            reader.note(&format!("routes.{}.on_upstream_401", route.index()), reason);
        } else if route.on_refusal() == OnRefusal::Relogin && route.is_public() {
            let reason = "\"relogin\" has no effect, because a public route never requires a \
                          sign-in; write \"refresh_and_retry\", or leave `on_upstream_401` out";
            reader.note(&format!("routes.{}.on_upstream_401", route.index()), reason);
        }
    }
    for (name, upstream) in upstreams {
        let key = format!("upstreams.{name}");
        let Some(upstream) = upstream.as_ref().filter(|_| !used.contains(&key)) else {
            continue;
        };
        for below in upstream.credentials.keys() {
            let reason = "has no effect, because every route to this app is public or names its \
                          own credentials; write the key in a route";
            reader.note(&format!("{key}.{below}"), reason);
        }
    }
}

/// Reports a problem if a route sends the ID token to its app and accepts a provider without ID
/// tokens.
fn check_id_token(
    route: &Route,
    written: &Written<'_>,
    known: &BTreeMap<String, KnownClaims>,
    reported: &mut BTreeSet<String>,
    reader: &mut Reader<'_>,
) {
    if written.credentials.bearer != Some(Bearer::IdToken) {
        return;
    }
    let without = |name: &&str| known.get(*name).is_some_and(|known| !known.id_token);
    let Some(provider) = route.providers().find(without) else {
        return;
    };
    let key = format!("{}.bearer", written.key);
    if reported.insert(key.clone()) {
        let reason = format!(
            "needs an ID token, but providers.{provider}.identity.source is not \"id_token\"; the \
             route `{}` accepts this provider",
            route.name()
        );
        reader.note(&key, reason);
    }
}

/// Returns the names of all fields that the gateway writes for an app. A client must never send a
/// field with one of these names, not even to another app.
pub(super) fn names(
    routes: &RouteTable,
    upstreams: &ParsedUpstreams,
    names: &AssertionNames,
) -> Vec<HeaderName> {
    let upstreams = upstreams.values().flatten();
    let assertions = upstreams
        .clone()
        .filter_map(|upstream| upstream.assertions.as_ref());
    let assertions = assertions.chain([names]).flat_map(AssertionNames::iter);
    let credentials = upstreams.map(|upstream| &upstream.credentials);
    let credentials = credentials.chain(routes.iter().map(Route::credentials));
    let tokens = credentials.filter_map(|credentials| credentials.token_field.as_ref());
    let tokens = tokens.map(FieldName::as_name);
    let all: BTreeSet<&str> = assertions.chain(tokens).map(HeaderName::as_str).collect();
    all.into_iter()
        .filter_map(|name| HeaderName::try_from(name).ok())
        .collect()
}
