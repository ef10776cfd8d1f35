//! Prints the configuration with which another proxy asks for auth checks ([`print()`]).
//!
//! The texts are templates in the folder `config/snippets`. [`template`] fills a template with the
//! values of the settings. The page `docs/auth-check.md` shows the same texts, and the tests run
//! real proxies with these texts.

mod template;

use std::net::{Ipv4Addr, SocketAddr};

use http::HeaderName;
use http::header::{AUTHORIZATION, COOKIE};

use self::template::Values;
use crate::access::Route;
use crate::config::Config;
use crate::gateway::ProxyKind;

/// The address of the app in a snippet if no route names an app with plain HTTP.
const APP: (&str, u16) = ("127.0.0.1", 8080);

/// A text that can be printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Snippet {
    /// A `Caddyfile` with `forward_auth`.
    Caddy,
    /// A configuration of Envoy with `ext_authz` over gRPC.
    Envoy,
    /// A configuration of Envoy with `ext_authz` over HTTP.
    EnvoyHttp,
    /// A configuration of HAProxy.
    Haproxy,
    /// The Lua action that the configuration of HAProxy loads.
    HaproxyLua,
    /// Objects of Kubernetes for the ingress controller "ingress-nginx".
    IngressNginx,
    /// Objects of Istio, whose gateway asks with `ext_authz` over gRPC.
    Istio,
    /// A server block of nginx with `auth_request`.
    Nginx,
    /// A dynamic configuration of Traefik with `forwardAuth`.
    Traefik,
}

/// The reason why a snippet cannot be printed.
///
/// The operator has to change the settings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The gateway itself terminates TLS.
    #[error(
        "a snippet needs plain HTTP between the proxy and Sidegate; remove server.certificate_file"
    )]
    Tls,
    /// No proxy of the kind may ask.
    #[error(
        "auth_check.proxies has no entry with kind = \"{0}\", so Sidegate would not answer the proxy"
    )]
    NotListed(&'static str),
    /// A path, a host or a field name of the settings has a special meaning in the configuration of a
    /// proxy.
    #[error("`{0}` has characters that the configuration of the proxy cannot contain")]
    Special(String),
}

impl Snippet {
    /// All snippets.
    pub const ALL: [Self; 9] = [
        Self::Nginx,
        Self::IngressNginx,
        Self::Traefik,
        Self::Caddy,
        Self::Haproxy,
        Self::HaproxyLua,
        Self::Envoy,
        Self::EnvoyHttp,
        Self::Istio,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Caddy => "caddy",
            Self::Envoy => "envoy",
            Self::EnvoyHttp => "envoy-http",
            Self::Haproxy => "haproxy",
            Self::HaproxyLua => "haproxy-lua",
            Self::IngressNginx => "ingress-nginx",
            Self::Istio => "istio",
            Self::Nginx => "nginx",
            Self::Traefik => "traefik",
        }
    }

    /// The kind of the proxies that use the snippet.
    fn kind(self) -> ProxyKind {
        match self {
            Self::Caddy => ProxyKind::Caddy,
            Self::Envoy | Self::EnvoyHttp | Self::Istio => ProxyKind::Envoy,
            Self::Haproxy | Self::HaproxyLua => ProxyKind::Haproxy,
            Self::IngressNginx => ProxyKind::IngressNginx,
            Self::Nginx => ProxyKind::Nginx,
            Self::Traefik => ProxyKind::Traefik,
        }
    }

    fn template(self) -> &'static str {
        match self {
            Self::Caddy => include_str!("../../config/snippets/Caddyfile"),
            Self::Envoy | Self::EnvoyHttp => include_str!("../../config/snippets/envoy.yaml"),
            Self::Haproxy => include_str!("../../config/snippets/haproxy.cfg"),
            Self::HaproxyLua => include_str!("../../config/snippets/sidegate.lua"),
            Self::IngressNginx => include_str!("../../config/snippets/ingress-nginx.yaml"),
            Self::Istio => include_str!("../../config/snippets/istio.yaml"),
            Self::Nginx => include_str!("../../config/snippets/nginx.conf"),
            Self::Traefik => include_str!("../../config/snippets/traefik.yaml"),
        }
    }

    /// The lines that replace a placeholder which is alone in its line.
    fn parts(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Envoy => &[
                (
                    "service",
                    include_str!("../../config/snippets/envoy-grpc-service.yaml"),
                ),
                (
                    "protocol",
                    include_str!("../../config/snippets/envoy-grpc-protocol.yaml"),
                ),
            ],
            Self::EnvoyHttp => &[
                (
                    "service",
                    include_str!("../../config/snippets/envoy-http-service.yaml"),
                ),
                ("protocol", ""),
            ],
            Self::Caddy
            | Self::Haproxy
            | Self::HaproxyLua
            | Self::IngressNginx
            | Self::Istio
            | Self::Nginx
            | Self::Traefik => &[],
        }
    }

    /// Returns the expression that matches all `paths` and the paths that begin with one of
    /// `paths`.
    fn matcher(self, paths: &[&str]) -> String {
        let each = |before: &str, after: &str, between: &str| {
            let expressions = paths.iter().map(|path| format!("{before}{path}{after}"));
            expressions.collect::<Vec<_>>().join(between)
        };
        match (self, paths) {
            (Self::Nginx, [only]) => (*only).to_owned(),
            (Self::Nginx, _) => format!("~ ^({})", each("", "", "|").replace('.', "\\.")),
            (Self::Caddy, _) => each("", "*", " "),
            (Self::Traefik, _) => each("PathPrefix(`", "`)", " || "),
            (
                Self::Envoy
                | Self::EnvoyHttp
                | Self::Haproxy
                | Self::HaproxyLua
                | Self::IngressNginx
                | Self::Istio,
                _,
            ) => each("", "", " "),
        }
    }
}

/// Returns the text of a snippet for the settings in `config`.
///
/// # Errors
///
/// [`Error`] names the setting that prevents the snippet.
pub fn print(snippet: Snippet, config: &Config) -> Result<String, Error> {
    if config.tls.is_some() {
        return Err(Error::Tls);
    }
    let (gateway, kind) = (&config.site.gateway, snippet.kind());
    let proxies = &gateway.asking_proxies;
    if !proxies.has_kind(kind) {
        return Err(Error::NotListed(kind.name()));
    }
    let login = &config.site.login.0;
    let (prefix, callback) = (login.own.prefix(), login.redirection.path());
    let mut own = vec![prefix];
    if !login.own.cover(callback) {
        own.push(callback);
    }
    for path in own.iter().chain([&proxies.path()]) {
        check(path, "/-._~")?;
    }
    let written = [COOKIE, AUTHORIZATION];
    let fields: Vec<HeaderName> = written
        .into_iter()
        .chain(gateway.written_fields.iter().cloned())
        .collect();
    for field in &fields {
        check(field.as_str(), "-")?;
    }
    let hosts: Vec<String> = gateway.public_urls.authorities().collect();
    for host in &hosts {
        check(host, ".-*:[]")?;
    }
    let app = address_of_app(config);
    check(&app.0, ".-:")?;
    let values = Values {
        start: login.own.start(),
        hosts: &hosts,
        gateway: address_of_gateway(config.listen),
        app,
        check_path: proxies.path(),
        own_paths: &own,
        matcher: snippet.matcher(&own),
        fields: &fields,
    };
    Ok(values.fill(snippet.template(), snippet.parts()))
}

/// Refuses a text with characters other than ASCII letters, digits and `special`.
fn check(text: &str, special: &str) -> Result<(), Error> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || special.contains(c);
    if text.chars().all(is_plain) {
        Ok(())
    } else {
        Err(Error::Special(text.to_owned()))
    }
}

/// Returns the address at which a proxy on the same machine reaches the gateway.
fn address_of_gateway(listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        SocketAddr::from((Ipv4Addr::LOCALHOST, listen.port()))
    } else {
        listen
    }
}

/// Returns the host and the port of the app whose route has the shortest prefix.
fn address_of_app(config: &Config) -> (String, u16) {
    let apps = config.site.routes.iter().filter_map(|route: &Route| {
        let app = config.site.upstreams.get(route.upstream_name()?)?;
        Some((route.prefix().len(), app.origin()))
    });
    let plain = apps.filter(|(_length, origin)| !origin.is_encrypted());
    let found = plain.min_by_key(|(length, _origin)| *length);
    found.map_or_else(
        || (APP.0.to_owned(), APP.1),
        |(_length, origin)| (origin.host(), origin.port()),
    )
}
