//! Settings: defaults, then a file, then variables, then flags, and every problem at once.
//!
//! [`Config::load`] reads the layers, checks each section and what holds across them, and opens
//! what the settings name (secrets, keys, certificates), so that a [`Config`] that exists can be
//! run. No room below knows this one; each exports its own validated settings.

mod layers;
mod listening;
mod problem;
mod routing;
mod section;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Value};
use serde::Deserialize;

pub use self::layers::{Flags, Variables};
use self::listening::{Bounded, ServerSection, acceptor, check_transport};
pub use self::problem::{Problem, Problems};
use self::routing::{check_hosts, check_open, routes, unnamed_providers, upstreams};
use self::section::Reader;
use crate::access::RouteTable;
use crate::clock::Clock;
use crate::fields::forwarded::TrustedPeers;
use crate::login::{self, PublicUrls, RedirectionEndpoints};
use crate::provider::{self, Provider, Providers, profile};
use crate::seal::{KeyRing, Keys, Purpose};
use crate::session::StoreSettings;
use crate::telemetry::{self, chain};
use crate::tls::Acceptor;
use crate::upstream::AssertionNames;
use crate::{gateway, server, session, target};

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
    /// Sessions, and the keys that seal those on disk.
    pub session: (session::Settings, KeyRing),
    /// Whether the keys are random ones that end with this process.
    pub random_keys: bool,
    /// What a reload replaces.
    pub site: SiteConfig,
    /// What is odd but not wrong.
    pub warnings: Vec<String>,
}

/// The part of the settings that decides about requests. A reload replaces it as a whole.
#[derive(Debug)]
pub struct SiteConfig {
    /// The walk.
    pub gateway: gateway::Settings,
    /// The login flow, and the keys that seal it.
    pub login: (login::Settings, Arc<KeyRing>),
    /// The routes, with the upstreams they lead to.
    pub routes: RouteTable,
    /// Providers by name.
    pub providers: Arc<Providers>,
    /// How long a request waits for a session that has to be refreshed or fetched first.
    pub patience: Duration,
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
        let settings = layers::merged(path, variables, flags);
        let mut reader = Reader::new(&settings, layers::defaults());
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

fn build(settings: &Figment, reader: &mut Reader<'_>, clock: &Clock) -> Option<Config> {
    check_names(settings, reader);
    let public_urls = public_urls(settings, reader);
    let server: Option<ServerSection> = reader.read("server");
    let operations: Option<OperationsSection> = reader.read("operations");
    let session: Option<session::Settings> = reader.read("session");
    let login: Option<LoginSection> = reader.read("login");
    let keys = keys(login.as_ref(), session.as_ref(), reader);
    let assertions: Option<AssertionNames> = reader.read("assertions");
    let log = reader.read("log");
    let Written {
        providers,
        names,
        open,
    } = providers(settings, reader);
    let upstreams = upstreams(settings, reader);
    let routes = routes(settings, reader, &upstreams, &names);
    if let Some(routes) = &routes {
        check_open(routes, &open, reader);
    }

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
    let (login, (login_keys, session_keys)) = (login?, keys?);
    let login_settings = login_settings(&login, &names, reader);
    let (server, session, routes) = (server?, session?, routes?);
    let assertions = assertions?;
    let mut warnings = layers::odd_variables(settings);
    warnings.extend(unnamed_providers(&routes, &assertions));
    let gateway = gateway::Settings {
        public_urls: public_urls?,
        trusted: TrustedPeers::new(server.trusted_proxies.iter().map(|network| network.0)),
        assertions,
        body_bytes: server.body_mib.saturating_mul(1024 * 1024),
    };
    Some(Config {
        log: log?,
        listen: server.listen,
        tls,
        server: server.connections(),
        workers: server.workers(),
        operations: operations?.listen,
        random_keys: login.state_key_file.is_none(),
        site: SiteConfig {
            gateway,
            login: (login_settings, Arc::new(login_keys)),
            routes,
            providers: Arc::new(providers),
            patience: session.refresh_wait,
        },
        session: (session, session_keys),
        warnings,
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

/// The providers that were written.
struct Written {
    /// Those that could be opened.
    providers: Providers,
    /// All names, so that routes are checked against what the operator meant.
    names: Vec<String>,
    /// Those that anybody can get an account at, though nobody wrote that anybody may pass.
    open: Vec<String>,
}

/// Opens the providers.
fn providers(settings: &Figment, reader: &mut Reader<'_>) -> Written {
    let entries = entries(settings, reader, "providers", "provider");
    let names = entries.keys().cloned().collect();
    let (mut providers, mut open) = (Providers::new(), Vec::new());
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
        let noted = reader.problems.len();
        let Some(settings) = reader.read_value::<provider::Settings>(&key, value) else {
            continue;
        };
        if settings.open_registration && !settings.anyone {
            open.push(name.clone());
        }
        note_absent_files(&settings, &key, reader);
        // What follows from a problem that is noted already would lead astray.
        if reader.problems.len() > noted {
            continue;
        }
        match Provider::new(&name, &settings) {
            Ok(provider) => {
                providers.insert(name.into(), Arc::new(provider));
            }
            Err(error) => reader.note(&key, chain(&error)),
        }
    }
    Written {
        providers,
        names,
        open,
    }
}

/// Notes every file that a provider names and that cannot be read.
fn note_absent_files(settings: &provider::Settings, key: &str, reader: &mut Reader<'_>) {
    let single = [
        ("client_secret_file", settings.client_secret_file.as_ref()),
        ("ca_file", settings.ca_file.as_ref()),
        (
            "client_assertion.private_key_file",
            settings.client_assertion.private_key_file.as_ref(),
        ),
        ("id_token.jwks_file", settings.id_token.jwks_file.as_ref()),
    ];
    let single = single
        .into_iter()
        .filter_map(|(below, path)| Some((below, path?)));
    let keys = settings.access_token.public_key_files.iter();
    let keys = keys.map(|path| ("access_token.public_key_files", path));
    let more = settings.id_token.public_key_files.iter();
    let more = more.map(|path| ("id_token.public_key_files", path));
    for (below, path) in single.chain(keys).chain(more) {
        if let Err(error) = std::fs::File::open(path) {
            let reason = format!("{} cannot be read: {error}", path.display());
            reader.note(&format!("{key}.{below}"), reason);
        }
    }
}

fn known_profiles() -> String {
    profile::names().collect::<Vec<_>>().join(", ")
}

fn login_settings(
    section: &LoginSection,
    providers: &[String],
    reader: &mut Reader<'_>,
) -> login::Settings {
    let callback = section.callback_path.as_str();
    if callback == "/" || callback.ends_with('/') || gateway::hides_endpoint(callback) {
        let reason = format!("`{callback}` is taken; write a path such as /auth/callback");
        reader.note("login.callback_path", reason);
    }
    login::Settings {
        redirection: RedirectionEndpoints::new(callback, providers.iter().map(String::as_str)),
        timeout: section.timeout_secs.duration(),
    }
}

/// The keys that seal logins under way, and those that seal sessions.
fn keys(
    section: Option<&LoginSection>,
    session: Option<&session::Settings>,
    reader: &mut Reader<'_>,
) -> Option<(KeyRing, KeyRing)> {
    let section = section?;
    if let Some(session) = session {
        check_store(session, section, reader);
    }
    let keys = match &section.state_key_file {
        Some(path) => Keys::from_file(path).map_err(|error| chain(&error)),
        None => Keys::random().map_err(|error| chain(&error)),
    };
    let rings = keys.and_then(|keys| {
        let rings = (keys.ring(Purpose::Logins), keys.ring(Purpose::Sessions));
        Ok((
            rings.0.map_err(|error| chain(&error))?,
            rings.1.map_err(|error| chain(&error))?,
        ))
    });
    rings
        .map_err(|reason| reader.note("login.state_key_file", reason))
        .ok()
}

/// Whether durable sessions can be kept where they shall be.
fn check_store(session: &session::Settings, login: &LoginSection, reader: &mut Reader<'_>) {
    let StoreSettings::Disk(disk) = &session.store else {
        return;
    };
    if login.state_key_file.is_none() {
        let reason = "is needed: sessions on disk are sealed with its keys (session.store)";
        reader.note("login.state_key_file", reason);
    }
    if let Err(error) = session::inspect(&disk.file) {
        reader.note("session.store.disk.file", chain(&error));
    }
}

#[cfg(test)]
mod misuse_tests;
#[cfg(test)]
mod provider_tests;
#[cfg(test)]
mod tests;
