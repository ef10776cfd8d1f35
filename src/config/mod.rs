//! The settings, from four layers: defaults, file, environment variables, flags.
//!
//! [`Config::load`] is the entry point. `Config::load` reads the layers, checks each section and
//! the rules that concern several sections, and reads all files whose paths are in the settings
//! (secrets, keys, certificates). `Config::load` reports all problems together, and does not stop
//! at the first problem. A [`Config`] value exists only if the settings have no problem. Each
//! module of a lower layer defines and validates its own settings, without any code of the module
//! `config`.

mod app_fields;
mod auth_check;
mod buffering;
mod changes;
mod deadlines;
mod descriptors;
mod habits;
mod kept_forms;
mod keys;
mod layers;
mod listening;
mod login_host;
mod login_section;
mod names;
mod online;
mod open_files;
mod paths;
mod probes;
mod problem;
mod providers;
mod reach;
mod restart_only;
mod rewriting;
mod routing;
mod section;
mod signing;
mod silent;
mod site_data;
mod static_answers;
mod watch;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Value};
use http::HeaderName;
use serde::Deserialize;

use self::buffering::{check_buffers, spill};
pub(crate) use self::changes::registrations;
use self::deadlines::with_limits;
use self::kept_forms::check_kept_forms;
use self::keys::keys;
pub(crate) use self::keys::{Digest, KeyFile, content_digest};
pub use self::layers::{FileContent, Flags, Source, Variables};
pub use self::listening::CoreDumps;
use self::listening::{ListenAddress, ServerSection, acceptor, check_transport};
use self::login_section::{LoginSection, login_settings};
use self::names::check_names;
use self::probes::probes;
pub use self::problem::{Problem, Problems};
use self::providers::{ParsedProviders, providers};
use self::reach::check_app_sign_out_reach;
pub(crate) use self::restart_only::RestartOnly;
use self::rewriting::{check_bypasses, check_rewriting};
pub(crate) use self::routing::Upstreams;
use self::routing::{
    ParsedUpstreams, check_routes, routes, unenforced_rules, unnamed_providers, upstreams,
};
use self::section::Reader;
use self::signing::{Signing, signing};
use self::silent::check_silent_sign_ins;
use self::static_answers::{check_redirects, check_static_answers};
pub(crate) use self::watch::{FileChange, FileVersion, Watch};
use crate::access::{Route, RouteTable};
use crate::admin::MAX_PATH;
use crate::clock::Clock;
use crate::fields::forwarded::TrustedPeers;
use crate::gateway::{AskingProxies, Probes, SpillSettings};
use crate::login::{self, PublicUrls};
use crate::provider::Providers;
use crate::seal::KeyRing;
use crate::secret::Environment;
use crate::server::{ProxyNetworks, descriptor_limit};
use crate::telemetry;
use crate::tls::Acceptor;
use crate::upstream::AssertionNames;
use crate::{gateway, server, session};

/// The checked settings of one gateway, with the contents of the files that the settings name, such
/// as key files.
#[derive(Debug)]
pub struct Config {
    /// The settings of the event log and the access log.
    pub log: telemetry::Settings,
    /// The address to listen on.
    pub(crate) listen: SocketAddr,
    /// The certificate, if the gateway itself terminates TLS.
    pub(crate) tls: Option<Acceptor>,
    /// The networks whose connections begin with a PROXY header.
    pub(crate) proxies: ProxyNetworks,
    /// The deadlines and limits of connections.
    pub(crate) server: server::Settings,
    /// The number of threads that serve requests.
    pub(crate) workers: NonZeroUsize,
    /// Whether the process may leave a core dump.
    pub core_dumps: CoreDumps,
    /// The address of the operations listener, or `None` without an operations listener.
    pub(crate) operations: Option<SocketAddr>,
    /// The path of the admin socket, or `None` without an admin socket.
    pub admin_socket: Option<PathBuf>,
    /// The session settings, and the keys that encrypt sessions on disk.
    pub(crate) session: (session::Settings, Arc<KeyRing>),
    /// The settings that need a restart.
    pub(crate) restart_only: RestartOnly,
    /// True if the gateway watches the settings file and reloads when the file is replaced.
    pub(crate) watch: bool,
    /// The file with the keys of pending logins and of sessions on disk.
    pub(crate) key_file: Option<KeyFile>,
    /// True if the settings name no keys for pending logins and sessions on disk, so that the keys
    /// are random.
    has_random_keys: bool,
    /// The sources from which the settings were read, with the content of the settings file.
    pub(crate) source: Source,
    /// The settings that a reload replaces.
    pub site: SiteConfig,
    /// Warnings about settings that are allowed but are probably a mistake.
    pub warnings: Vec<String>,
}

/// The settings from which a [`gateway::Site`] is built. A reload replaces all settings in
/// `SiteConfig`.
#[derive(Debug)]
pub struct SiteConfig {
    /// Public URLs, trusted proxies, assertion fields and the body limit.
    pub(crate) gateway: gateway::Settings,
    /// The login settings, and the keys that encrypt pending logins.
    pub login: (login::Settings, Arc<KeyRing>),
    /// The routes with their upstreams.
    pub routes: RouteTable,
    /// The providers by name.
    pub providers: Arc<Providers>,
    /// The upstreams by name.
    pub(crate) upstreams: Upstreams,
    /// The longest time that a request waits until its session is refreshed, or until the store
    /// returns its session.
    pub(crate) max_wait: Duration,
}

/// The providers, apps and keys of a running gateway. A reload uses a provider, an app or a key
/// again if its settings have not changed.
#[derive(Clone, Debug, Default)]
pub struct Reusable {
    /// The providers by name.
    pub providers: Arc<Providers>,
    /// The upstreams by name.
    pub(crate) upstreams: Upstreams,
    /// The random keys that encrypt pending logins, if the settings name neither a key file nor an
    /// environment variable with the keys.
    pub(crate) random_keys: Option<Arc<KeyRing>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperationsSection {
    listen: Option<ListenAddress>,
    admin_socket_file: Option<PathBuf>,
}

impl Config {
    /// Reads the settings and all files whose paths are in the settings. If the settings of a
    /// provider, an app or a key have not changed, the function takes this provider, app or key
    /// from `reusable`. At the start of the process, the argument `reusable` is empty.
    ///
    /// # Errors
    ///
    /// Returns [`Problems`] with the key, the source and the explanation of every problem.
    pub fn load(source: &Source, reusable: &Reusable, clock: &Clock) -> Result<Self, Problems> {
        let (path, read) = (&source.path, source.read()?);
        // The TOML syntax is checked before the layers are read, because figment's own syntax error
        // would not name the file.
        if let Err(error) = Figment::from(Toml::string(&read.text)).extract::<Dict>() {
            let reason = problem::syntax(&read.text, &error);
            return Err(Problems::single(path, reason));
        }
        let settings = source.layers(&read.text);
        let mut reader = Reader::new(&settings, layers::defaults());
        let source = Source {
            content: Some(read),
            ..source.clone()
        };
        check_names(&settings, &mut reader);
        let config = build((source, &settings), reusable, &mut reader, clock);
        match config {
            Some(config) if reader.problems.is_empty() => Ok(config.fitted(descriptor_limit())),
            _ => Err(Problems(reader.problems)),
        }
    }
}

impl Config {
    /// The version of the settings file that was read.
    pub(crate) fn file_version(&self) -> Option<FileVersion> {
        self.source.content.as_ref().and_then(|read| read.version)
    }

    /// The providers, apps and keys that a later reload may use again.
    pub(crate) fn reusable(&self) -> Reusable {
        Reusable {
            providers: Arc::clone(&self.site.providers),
            upstreams: self.site.upstreams.clone(),
            random_keys: self.has_random_keys.then(|| Arc::clone(&self.site.login.1)),
        }
    }
}

impl Problems {
    pub(super) fn single(path: &Path, reason: String) -> Self {
        let source = path.display().to_string();
        Self(vec![Problem {
            key: String::new(),
            source,
            reason,
        }])
    }
}

/// Returns the settings for requests.
fn gateway_settings(
    (public_urls, asking_proxies, oauth2_proxies): (PublicUrls, AskingProxies, TrustedPeers),
    (written_fields, signing): (Vec<HeaderName>, Option<Signing>),
    (server, spill, probes): (&ServerSection, Option<SpillSettings>, Option<Box<Probes>>),
    log: &telemetry::Settings,
) -> gateway::Settings {
    gateway::Settings {
        public_urls,
        trusted: server.trusted_peers(),
        asking_proxies,
        oauth2_proxies,
        probes,
        written_fields,
        key_set: signing.as_ref().map(Signing::key_set),
        body_bytes: server.body_bytes(),
        buffer_bytes: server.buffer_bytes(),
        spill,
        log_user: log.user(),
    }
}

fn build(
    (source, settings): (Source, &Figment),
    reusable: &Reusable,
    reader: &mut Reader<'_>,
    clock: &Clock,
) -> Option<Config> {
    let public_urls = public_urls(settings, reader);
    let server: Option<ServerSection> = reader.read("server");
    let operations: Option<OperationsSection> = reader.read("operations");
    let session: Option<session::Settings> = reader.read("session");
    let login: Option<LoginSection> = reader.read("login");
    let environment = source.environment();
    let sections = (login.as_ref(), session.as_ref());
    let keys = keys(sections, (reusable, &environment), reader);
    let names: Option<AssertionNames> = reader.read("assertions");
    let log: Option<telemetry::Settings> = reader.read("log");
    let watch: Option<bool> = reader.read("watch");
    let providers = providers(settings, (&reusable.providers, &environment), reader);
    let upstreams = upstreams(settings, &reusable.upstreams, reader);
    let signing = signing(public_urls.as_ref(), names.as_ref(), reader);
    let parsed = (&upstreams, &providers, names.as_ref());
    let others = (server.as_ref(), signing.as_ref(), &environment);
    let routes = route_table(settings, parsed, others, reader);
    let spill = server.as_ref().and_then(|server| spill(server, reader));
    let asking_proxies = auth_check::asking_proxies(routes.as_ref(), reader);
    let tls = tls(server.as_ref(), operations.as_ref(), reader, clock);
    let parts = (public_urls.as_ref(), routes.as_ref(), &*providers.names);
    let login = login.map(|section| login_settings(&section, parts, reader));
    let paths = (login.as_ref(), asking_proxies.as_ref());
    let probes = probes(server.as_ref(), paths, reader);
    // All sections are read before the first `?` operator, so that `load` reports the problems of
    // all sections.
    let (login, keys, server, routes) = (login?, keys?, server?, routes?);
    let (names, log, operations, asking) = (names?, log?, operations?, asking_proxies?);
    let session = with_limits(session?, (providers.limits, &routes, &asking.1), reader);
    let warnings = warnings((&source, settings), (&routes, &server, &login), &asking.0);
    let site = SiteConfig {
        gateway: gateway_settings(
            (public_urls?, asking.0, asking.1),
            (app_fields::names(&routes, &upstreams, &names), signing),
            (&server, spill, probes),
            &log,
        ),
        login: (login, keys.logins),
        routes,
        providers: Arc::new(providers.opened),
        upstreams: routing::valid_upstreams(upstreams),
        max_wait: session.refresh_wait,
    };
    Some(Config {
        log,
        listen: server.listen.0,
        tls,
        proxies: server.proxy_networks(),
        server: server.connections(),
        workers: server.workers(),
        core_dumps: server.core_dumps(),
        operations: operations.listen.map(|address| address.0),
        admin_socket: operations.admin_socket_file,
        restart_only: RestartOnly::of(settings),
        watch: watch?,
        key_file: keys.file,
        has_random_keys: keys.random,
        source,
        site,
        session: (session, Arc::new(keys.sessions)),
        warnings,
    })
}

/// Reads the routes, with the fields that the gateway writes for the app of each route. `names` are
/// the names in the section `assertions`.
fn route_table(
    settings: &Figment,
    (upstreams, providers, names): (&ParsedUpstreams, &ParsedProviders, Option<&AssertionNames>),
    (server, signing, environment): (Option<&ServerSection>, Option<&Signing>, &Environment),
    reader: &mut Reader<'_>,
) -> Option<RouteTable> {
    let table = routes(settings, reader, upstreams, &providers.names)?;
    let names = names.cloned().unwrap_or_default();
    let table = app_fields::write(table, (upstreams, &names), (signing, environment), reader);
    signing::check(signing, &table, reader);
    check_routes(&table, providers, reader);
    check_silent_sign_ins(&table, &providers.known, reader);
    check_buffers(&table, server, reader);
    check_kept_forms(&table, server, reader);
    check_static_answers(&table, reader);
    check_rewriting(&table, reader);
    app_fields::check(&table, upstreams, &providers.known, reader);
    app_fields::check_claims(&table, (upstreams, &names), &providers.known, reader);
    Some(table)
}

/// Refuses the sign-outs of apps that no request reaches, redirects that never end, and routes that
/// lead to protected paths of an app. Checks nothing if a part of the settings has a problem.
fn check_paths(
    urls: &PublicUrls,
    login: &login::Settings,
    routes: &RouteTable,
    reader: &mut Reader<'_>,
) {
    // A wildcard stands for all hosts that no route names.
    let authorities: Vec<String> = urls.authorities().collect();
    let listed = authorities.iter().map(String::as_str);
    let hosts: BTreeSet<&str> = listed.chain(routes.iter().flat_map(Route::hosts)).collect();
    let hosts: Vec<&str> = hosts.into_iter().collect();
    check_app_sign_out_reach(&hosts, login, routes, reader);
    check_redirects(routes, &hosts, reader);
    check_bypasses(routes, &hosts, reader);
}

/// Reads the certificate of the gateway, if a certificate is configured, and reports problems with
/// the listening addresses.
fn tls(
    server: Option<&ServerSection>,
    operations: Option<&OperationsSection>,
    reader: &mut Reader<'_>,
    clock: &Clock,
) -> Option<Acceptor> {
    let server = server?;
    let acceptor = acceptor(server, reader, clock);
    check_transport(server, reader);
    server.check_windows(reader);
    server.check_connections(reader);
    check_admin_socket(operations, reader);
    let operations = operations.and_then(|section| section.listen);
    if operations.is_some_and(|operations| overlap(operations.0, server.listen.0)) {
        let reason = "conflicts with server.listen: both use the same port";
        reader.note("operations.listen", reason);
    }
    acceptor
}

/// Refuses a path of the admin socket that the operating system does not accept.
fn check_admin_socket(operations: Option<&OperationsSection>, reader: &mut Reader<'_>) {
    let path = operations.and_then(|section| section.admin_socket_file.as_ref());
    let reason = match path.map_or(1, |path| path.as_os_str().len()) {
        0 => "is empty; leave it out, so that there is no admin socket".to_owned(),
        1..=MAX_PATH => return,
        _ => format!("is longer than {MAX_PATH} bytes, which is the limit for a socket"),
    };
    reader.note("operations.admin_socket_file", reason);
}

/// Returns true if the two addresses conflict, so that one process cannot listen on both.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    // If both addresses have port 0, the operating system chooses two different ports.
    let anywhere = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (anywhere || one.ip() == other.ip())
}

fn public_urls(settings: &Figment, reader: &mut Reader<'_>) -> Option<PublicUrls> {
    match settings.find_value("public_url") {
        Ok(value) => reader.read_value("public_url", value),
        Err(_missing) => {
            let why = "is missing: set the origin that browsers use for this gateway, such as \
                       \"https://app.example.com\"";
            reader.note("public_url", why);
            None
        }
    }
}

/// Returns the entries of the table `key`, such as `providers`. `required` states what an entry is.
/// If the table `key` is missing or empty, the function reports a problem, unless `required` is
/// `None`.
fn entries(settings: &Figment, reader: &mut Reader<'_>, key: &str, required: Option<&str>) -> Dict {
    let entries = match settings.find_value(key) {
        Ok(Value::Dict(_, entries)) => entries,
        Ok(_) => {
            reader.note(key, format!("expected tables such as [{key}.main]"));
            return Dict::new();
        }
        Err(_missing) => Dict::new(),
    };
    if let Some(what) = required.filter(|_| entries.is_empty()) {
        reader.note(
            key,
            format!("no {what} is configured; add a table such as [{key}.main]"),
        );
    }
    entries
}

/// Returns the warnings about settings that are valid, but that are mistakes in most cases.
fn warnings(
    (source, settings): (&Source, &Figment),
    (routes, server, login): (&RouteTable, &ServerSection, &login::Settings),
    asking_proxies: &AskingProxies,
) -> Vec<String> {
    let mut warnings = layers::misspelled_variables(settings);
    warnings.extend(unnamed_providers(routes));
    warnings.extend(unenforced_rules(routes));
    warnings.extend(reach::weaker_without_hosts(routes));
    warnings.extend(auth_check::warning(asking_proxies, login.own.prefix()));
    let trusted = server.trusted_peers();
    warnings.extend(auth_check::untrusted(asking_proxies, &trusted));
    warnings.extend(server.core_dumps().warning());
    warnings.extend(open_files::warnings(
        &source.path,
        settings,
        &source.environment(),
    ));
    warnings
}

#[cfg(test)]
mod misuse_tests;
#[cfg(test)]
mod profile_tests;
#[cfg(test)]
mod provider_tests;
#[cfg(test)]
mod tests;
