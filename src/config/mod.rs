//! Settings: defaults, then a file, then variables, then flags, and every problem at once.
//!
//! [`Config::load`] reads the layers, checks each section and what holds across them, and opens
//! what the settings name (secrets, keys, certificates), so that a [`Config`] that exists can be
//! run. No room below knows this one; each exports its own validated settings.

mod listening;
mod problem;
mod section;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use figment::providers::{Env, Format as _, Serialized, Toml};
use figment::value::Map;
use figment::value::{Dict, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::Deserialize;

use self::listening::{Bounded, ServerSection, acceptor, check_transport};
pub use self::problem::{Problem, Problems};
use self::section::Reader;
use crate::access::{RouteError, RouteSettings, RouteTable};
use crate::clock::Clock;
use crate::fields::forwarded::TrustedPeers;
use crate::login::{self, KeyRing, PublicUrl, PublicUrls};
use crate::provider::{self, profile};
use crate::telemetry::{self, chain};
use crate::tls::Acceptor;
use crate::upstream::{self, AssertionNames, Upstream};
use crate::{gateway, server, session, target};

/// What the names of our variables begin with. Two underscores: an orchestrator that injects
/// `SIDEGATE_PORT` for a service of this name means something else.
const VARIABLES: &str = "SIDEGATE__";

/// The reference file is the layer of defaults: what it documents is what holds.
const DEFAULTS: &str = include_str!("../../config/sidegate.toml");

/// The settings of one gateway, checked, with everything opened that they name.
#[derive(Debug)]
pub struct Config {
    /// Events and the access log.
    pub log: telemetry::Settings,
    /// Where to listen.
    pub listen: SocketAddr,
    /// The certificate, when TLS ends here.
    pub tls: Option<Acceptor>,
    /// Deadlines and limits of connections.
    pub server: server::Settings,
    /// Threads that serve requests.
    pub workers: NonZeroUsize,
    /// Where the operations listener is, if anywhere.
    pub operations: Option<SocketAddr>,
    /// Sessions.
    pub session: session::Settings,
    /// The walk.
    pub gateway: gateway::Settings,
    /// The login flow, and the keys that seal it.
    pub login: (login::Settings, KeyRing),
    /// Whether the keys are random ones that end with this process.
    pub random_keys: bool,
    /// The routes, with the upstreams they lead to.
    pub routes: RouteTable,
    /// Providers by name.
    pub providers: BTreeMap<Box<str>, Arc<provider::Provider>>,
    /// What is odd but not wrong.
    pub warnings: Vec<String>,
}

/// Whether the process's variables are a layer of the settings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Variables {
    /// They are.
    Read,
    /// They are not: the file is somebody else's.
    Ignore,
}

/// What the command line sets; each wins over file and variables.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `server.listen`.
    pub listen: Option<String>,
    /// `log.level`.
    pub log_level: Option<String>,
    /// `log.format`.
    pub log_format: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperationsSection {
    listen: Option<SocketAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoginSection {
    callback_path: target::Prefix,
    timeout_secs: Bounded<10, 3600>,
    state_key_file: Option<PathBuf>,
}

/// The names that may stand at the top of a settings file.
const SECTIONS: [&str; 10] = [
    "public_url",
    "server",
    "operations",
    "session",
    "login",
    "assertions",
    "log",
    "providers",
    "upstreams",
    "routes",
];

impl Config {
    /// Reads the settings at `path`, the process's variables if wanted, and `flags`.
    ///
    /// # Errors
    ///
    /// [`Problems`]: all that are found, each with its key and source.
    pub fn load(
        path: &Path,
        variables: Variables,
        flags: &Flags,
        clock: &Clock,
    ) -> Result<Self, Problems> {
        let file = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return Err(Problems::one(path, format!("cannot be read: {error}"))),
        };
        // Figment reports syntax without the file's name when it is given the text alone.
        if let Err(error) = Figment::from(Toml::string(&file)).extract::<Dict>() {
            return Err(Problems::one(path, error.to_string()));
        }
        let settings = Figment::from(Toml::string(DEFAULTS)).merge(Toml::file_exact(path));
        let settings = match variables {
            Variables::Read => settings.merge(Env::prefixed(VARIABLES).split("__")),
            Variables::Ignore => settings,
        };
        let settings = with_profiles(settings.merge(flags.layer()));
        let mut reader = Reader::new(&settings, defaults());
        let config = build(&settings, &mut reader, clock);
        match config {
            Some(config) if reader.problems.is_empty() => Ok(config),
            _ => Err(Problems(reader.problems)),
        }
    }
}

impl Problems {
    fn one(path: &Path, reason: String) -> Self {
        let source = path.display().to_string();
        Self(vec![Problem {
            key: String::new(),
            source,
            reason,
        }])
    }
}

impl Flags {
    fn layer(&self) -> Layer {
        let set = [
            ("server.listen", &self.listen),
            ("log.level", &self.log_level),
            ("log.format", &self.log_format),
        ];
        let set = set
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.clone()?)));
        let merged = set.fold(Figment::new(), |merged, (key, value)| {
            merged.merge(Serialized::default(key, value))
        });
        Layer {
            name: "command line".to_owned(),
            values: merged.extract().unwrap_or_default(),
        }
    }
}

/// Values with the name of where they come from, for whoever has to mend them.
struct Layer {
    name: String,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

fn defaults() -> Dict {
    // The reference file is compiled in and a test reads it.
    Figment::from(Toml::string(DEFAULTS))
        .extract()
        .unwrap_or_default()
}

/// Puts each provider's profile below what the operator wrote.
fn with_profiles(settings: Figment) -> Figment {
    let Ok(providers) = settings.extract_inner::<BTreeMap<String, Value>>("providers") else {
        return settings;
    };
    providers
        .into_iter()
        .fold(settings, |settings, (name, provider)| {
            let named = provider.find_ref("profile").and_then(Value::as_str);
            let text = named.and_then(profile::find);
            let Some(text) = text else { return settings };
            let values: Dict = Figment::from(Toml::string(text))
                .extract()
                .unwrap_or_default();
            let below = Dict::from([(name, Value::from(values))]);
            settings.join(Layer {
                name: "its profile".to_owned(),
                values: Dict::from([("providers".to_owned(), Value::from(below))]),
            })
        })
}

fn build(settings: &Figment, reader: &mut Reader<'_>, clock: &Clock) -> Option<Config> {
    check_names(settings, reader);
    let public_urls = public_urls(settings, reader);
    let server: Option<ServerSection> = reader.read("server");
    let operations: Option<OperationsSection> = reader.read("operations");
    let session = reader.read("session");
    let login: Option<LoginSection> = reader.read("login");
    let assertions: Option<AssertionNames> = reader.read("assertions");
    let log = reader.read("log");
    let (providers, provider_names) = providers(settings, reader);
    let upstreams = upstreams(settings, reader);
    let routes = routes(settings, reader, &upstreams, &provider_names);

    let tls = server
        .as_ref()
        .and_then(|server| acceptor(server, reader, clock));
    if let Some(server) = &server {
        check_transport(server, reader);
        let operations = operations.as_ref().and_then(|section| section.listen);
        if operations.is_some_and(|operations| overlap(operations, server.listen)) {
            let reason = "is the public address (server.listen), or takes all of its port";
            reader.note("operations.listen", reason);
        }
    }
    if let (Some(urls), Some(routes)) = (&public_urls, &routes) {
        check_hosts(urls, routes, reader);
    }
    let (login, random_keys) = login_settings(login.as_ref()?, reader)?;
    let server = server?;
    let gateway = gateway::Settings {
        public_urls: public_urls?,
        trusted: TrustedPeers::new(server.trusted_proxies.iter().map(|network| network.0)),
        assertions: assertions?,
        body_bytes: server.body_mib.saturating_mul(1024 * 1024),
    };
    Some(Config {
        log: log?,
        listen: server.listen,
        tls,
        server: server.connections(),
        workers: server.workers(),
        operations: operations?.listen,
        session: session?,
        gateway,
        login,
        random_keys,
        routes: routes?,
        providers,
        warnings: odd_variables(settings),
    })
}

/// Whether both addresses cannot be listened on at once.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let anywhere = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (anywhere || one.ip() == other.ip())
}

/// Refuses top-level names that nobody knows.
fn check_names(settings: &Figment, reader: &mut Reader<'_>) {
    let names: Dict = settings.extract().unwrap_or_default();
    for name in names
        .keys()
        .filter(|name| !SECTIONS.contains(&name.as_str()))
    {
        reader.note(name, problem::unknown(name, SECTIONS.into_iter()));
    }
}

fn public_urls(settings: &Figment, reader: &mut Reader<'_>) -> Option<PublicUrls> {
    match settings.find_value("public_url") {
        Ok(value) => reader.read_value("public_url", value),
        Err(_missing) => {
            let why = "is missing: the origin by which browsers reach this gateway, such as \
                       \"https://app.example.com\"";
            reader.note("public_url", why);
            None
        }
    }
}

/// The entries of a table of tables, such as `providers`.
fn entries(settings: &Figment, reader: &mut Reader<'_>, key: &str, what: &str) -> Dict {
    let entries = match settings.find_value(key) {
        Ok(Value::Dict(_, entries)) => entries,
        Ok(_) => {
            reader.note(key, format!("expected tables such as [{key}.main]"));
            return Dict::new();
        }
        Err(_missing) => Dict::new(),
    };
    if entries.is_empty() {
        reader.note(
            key,
            format!("no {what} is configured; add a table such as [{key}.main]"),
        );
    }
    entries
}

type Providers = BTreeMap<Box<str>, Arc<provider::Provider>>;

/// Opens the providers; gives all names that were written, too, so that routes are checked against
/// what the operator meant.
fn providers(settings: &Figment, reader: &mut Reader<'_>) -> (Providers, Vec<String>) {
    let entries = entries(settings, reader, "providers", "provider");
    let names = entries.keys().cloned().collect();
    let mut providers = Providers::new();
    for (name, value) in entries {
        let key = format!("providers.{name}");
        let profile = value
            .find_ref("profile")
            .and_then(Value::as_str)
            .map(str::to_owned);
        match profile.as_deref() {
            None => {
                reader.note(
                    &key,
                    format!("`profile` is missing; one of {}", known_profiles()),
                );
                continue;
            }
            Some(profile) if profile::find(profile).is_none() => {
                let reason = format!("`{profile}` is not a profile; one of {}", known_profiles());
                reader.note(&format!("{key}.profile"), reason);
                continue;
            }
            Some(_) => {}
        }
        if !name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        {
            reader.note(
                &key,
                "a provider's name has letters, digits, `-` and `_` only",
            );
            continue;
        }
        let Some(settings) = reader.read_value::<provider::Settings>(&key, value) else {
            continue;
        };
        if !files_are_there(&settings, &key, reader) {
            continue;
        }
        match provider::Provider::new(&name, &settings) {
            Ok(provider) => {
                providers.insert(name.into(), Arc::new(provider));
            }
            Err(error) => reader.note(&key, chain(&error)),
        }
    }
    (providers, names)
}

/// Whether every file that a provider names can be read. All that cannot are noted.
fn files_are_there(settings: &provider::Settings, key: &str, reader: &mut Reader<'_>) -> bool {
    let single = [
        ("client_secret_file", settings.client_secret_file.as_ref()),
        ("ca_file", settings.ca_file.as_ref()),
    ];
    let single = single
        .into_iter()
        .filter_map(|(below, path)| Some((below, path?)));
    let keys = settings.access_token.public_key_files.iter();
    let keys = keys.map(|path| ("access_token.public_key_files", path));
    let mut all = true;
    for (below, path) in single.chain(keys) {
        if let Err(error) = std::fs::File::open(path) {
            let reason = format!("{} cannot be read: {error}", path.display());
            reader.note(&format!("{key}.{below}"), reason);
            all = false;
        }
    }
    all
}

fn known_profiles() -> String {
    profile::names().collect::<Vec<_>>().join(", ")
}

type Upstreams = BTreeMap<Box<str>, Option<Arc<Upstream>>>;

/// Opens the upstreams; `None` for those that have a problem of their own.
fn upstreams(settings: &Figment, reader: &mut Reader<'_>) -> Upstreams {
    let entries = entries(settings, reader, "upstreams", "upstream");
    let mut upstreams = Upstreams::new();
    for (name, value) in entries {
        let key = format!("upstreams.{name}");
        let opened = reader
            .read_value::<upstream::Settings>(&key, value)
            .and_then(|settings| match Upstream::new(&name, &settings) {
                Ok(upstream) => Some(Arc::new(upstream)),
                Err(error) => {
                    reader.note(&format!("{key}.ca_file"), chain(&error));
                    None
                }
            });
        upstreams.insert(name.into(), opened);
    }
    upstreams
}

/// The route table. Without routes everything is for signed-in people.
fn routes(
    settings: &Figment,
    reader: &mut Reader<'_>,
    upstreams: &Upstreams,
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
    let opened: BTreeMap<Box<str>, Arc<Upstream>> = upstreams
        .iter()
        .filter_map(|(name, upstream)| Some((name.clone(), Arc::clone(upstream.as_ref()?))))
        .collect();
    let names: Vec<&str> = providers.iter().map(String::as_str).collect();
    match RouteTable::new(routes, &opened, &names) {
        Ok(table) => complete.then_some(table),
        Err(errors) => {
            for (index, error) in errors {
                note_route(reader, index, &error, upstreams, providers);
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
    upstreams: &Upstreams,
    providers: &[String],
) {
    let key = match error {
        RouteError::UnknownUpstream(name) if upstreams.contains_key(name) => return,
        RouteError::AmbiguousUpstream if upstreams.len() < 2 => return,
        RouteError::AmbiguousProvider if providers.is_empty() => return,
        RouteError::UnknownUpstream(_) | RouteError::AmbiguousUpstream => "upstream",
        RouteError::UnknownProvider(_) | RouteError::AmbiguousProvider => "provider",
        RouteError::Duplicate(_) => "prefix",
    };
    reader.note(&format!("routes.{index}.{key}"), error.to_string());
}

/// A route for a host that is not served would never be taken.
fn check_hosts(urls: &PublicUrls, routes: &RouteTable, reader: &mut Reader<'_>) {
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

fn login_settings(
    section: &LoginSection,
    reader: &mut Reader<'_>,
) -> Option<((login::Settings, KeyRing), bool)> {
    let callback = section.callback_path.as_str();
    if callback == "/" || callback.ends_with('/') || gateway::is_endpoint(callback) {
        let reason = format!("`{callback}` is taken; write a path such as /auth/callback");
        reader.note("login.callback_path", reason);
    }
    let settings = login::Settings {
        callback_path: callback.into(),
        timeout: section.timeout_secs.duration(),
    };
    let keys = match &section.state_key_file {
        Some(path) => KeyRing::from_file(path).map_err(|error| chain(&error)),
        None => KeyRing::random().map_err(|error| chain(&error)),
    };
    match keys {
        Ok(keys) => Some(((settings, keys), section.state_key_file.is_none())),
        Err(reason) => {
            reader.note("login.state_key_file", reason);
            None
        }
    }
}

/// Variables with one underscore that look like a key of ours: somebody meant to set it.
fn odd_variables(settings: &Figment) -> Vec<String> {
    let plain = |text: &str| text.replace(['_', '.'], "").to_ascii_lowercase();
    let mut keys = BTreeMap::new();
    let tree: Dict = settings.extract().unwrap_or_default();
    for (section, value) in &tree {
        keys.insert(plain(section), section.clone());
        for key in value.as_dict().into_iter().flat_map(Dict::keys) {
            let key = format!("{section}.{key}");
            keys.insert(plain(&key), key);
        }
    }
    let single = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    single
        .filter(|name| name.starts_with("SIDEGATE_") && !name.starts_with(VARIABLES))
        .filter_map(|name| {
            let key = keys.get(&plain(name.trim_start_matches("SIDEGATE_")))?;
            let right = problem::variable(key);
            Some(format!(
                "the variable {name} is ignored; did you mean {right}?"
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests;
