//! The section `auth_check`: the proxies that may ask whether they may forward a request.

use serde::Deserialize;

use super::listening::Networks;
use super::section::Reader;
use crate::access::{
    BufferSettings, CacheSetting, OnRefusal, RewriteSettings, RouteTable, StreamSettings,
};
use crate::fields::forwarded::TrustedPeers;
use crate::gateway::{AskingProxies, ProxyKind};
use crate::target::Prefix;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuthCheckSection {
    /// The path of the auth check.
    path: Prefix,
    #[serde(default)]
    proxies: Vec<AskingProxy>,
    /// The networks of the proxies that are configured for oauth2-proxy.
    #[serde(default)]
    oauth2_proxy: Networks,
}

/// The default of `auth_check.path`.
const DEFAULT_PATH: &str = "/_sidegate/auth";

/// Proxies that may ask for auth checks.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AskingProxy {
    /// The networks of the proxies.
    networks: Networks,
    /// The kind of the proxies.
    kind: ProxyKind,
}

/// Reads the section `auth_check`: the proxies of each kind, and the proxies that are configured for
/// oauth2-proxy. Checks the routes without an app. The result is `None` if the section has a problem.
pub(super) fn asking_proxies(
    routes: Option<&RouteTable>,
    reader: &mut Reader<'_>,
) -> Option<(AskingProxies, TrustedPeers)> {
    let section: AuthCheckSection = reader.read("auth_check")?;
    let path = section.path.as_str();
    if path.ends_with('/') {
        reader.note("auth_check.path", "ends with `/`; write a path without it");
    }
    for (index, proxy) in section.proxies.iter().enumerate() {
        let key = format!("auth_check.proxies.{index}.networks");
        if proxy.networks.is_empty() {
            let reason = "is empty; write the networks of the proxies that may ask";
            reader.note(&key, reason);
        }
        let mut before = section.proxies.iter().take(index);
        if before.any(|other| other.kind != proxy.kind && other.networks.overlap(&proxy.networks)) {
            let reason = "overlaps the networks of an earlier entry with another kind, so the kind \
                          of some proxies would be ambiguous";
            reader.note(&key, reason);
        }
    }
    if section.proxies.is_empty() && path != DEFAULT_PATH {
        let reason = "has no effect, because no proxy may ask; add [[auth_check.proxies]]";
        reader.note("auth_check.path", reason);
    }
    let proxies = section.proxies.iter();
    let proxies = proxies.map(|proxy| (proxy.networks.peers(), proxy.kind));
    let proxies = AskingProxies::new(path, proxies.collect());
    if let Some(routes) = routes {
        let may_ask = proxies.may_ask() || !section.oauth2_proxy.is_empty();
        check_routes(routes, may_ask, reader);
    }
    Some((proxies, section.oauth2_proxy.peers()))
}

/// Refuses a route without an app that can never have an effect, and the settings that have no
/// effect on a route without an app.
fn check_routes(routes: &RouteTable, may_ask: bool, reader: &mut Reader<'_>) {
    if !reader.is_clean("upstreams") {
        return;
    }
    for route in routes.iter().filter(|route| route.is_for_auth_checks()) {
        let key = format!("routes.{}", route.index());
        if !may_ask {
            let reason = "is \"\", so the route only answers auth checks, but no proxy may ask; name \
                          an upstream, or add [[auth_check.proxies]]";
            reader.note(&format!("{key}.upstream"), reason);
        }
        let (streams, default) = (route.streams(), StreamSettings::default());
        for (below, is_set) in [
            (
                "rewrite",
                *route.rewrite_settings() != RewriteSettings::default(),
            ),
            ("on_upstream_401", route.on_refusal() != OnRefusal::Pass),
            ("app_sign_out", route.app_sign_out().is_some()),
            ("cache", route.cache() != CacheSetting::default()),
            ("stream", route.is_stream()),
            ("buffers", route.buffers() != BufferSettings::default()),
            ("streams.idle_secs", streams.idle != default.idle),
            ("streams.total_secs", streams.total != default.total),
            (
                "streams.per_client",
                streams.per_client != default.per_client,
            ),
            ("streams.max_lag_kib", streams.max_lag != default.max_lag),
            (
                "streams.counts_as_use",
                streams.counts_as_use != default.counts_as_use,
            ),
            ("streams.grace_secs", streams.grace != default.grace),
        ] {
            if is_set {
                let reason = "has no effect on a route without an upstream, because another proxy \
                              forwards its requests";
                reader.note(&format!("{key}.{below}"), reason);
            }
        }
    }
}

/// Returns a warning if the forwarding fields of a proxy that may ask are not trusted.
pub(super) fn untrusted(proxies: &AskingProxies, trusted: &TrustedPeers) -> Option<String> {
    let network = proxies.first_untrusted(trusted)?;
    Some(format!(
        "auth_check.proxies: `{network}` is not in server.trusted_proxies, so all clients of this \
         proxy have the address of the proxy in the log and share the limits of one client"
    ))
}

/// Returns a warning if clients can probably reach the auth check. A proxy usually forwards all
/// requests below the prefix of the gateway's own endpoints. A script in a page of the app could
/// then read the access token in the answer of the auth check.
pub(super) fn warning(proxies: &AskingProxies, own_prefix: &str) -> Option<String> {
    let is_exposed = proxies.may_ask() && proxies.path().starts_with(own_prefix);
    is_exposed.then(|| {
        format!(
            "auth_check.path: `{}` is below login.own_prefix; make sure that the proxy does not \
             forward this path for clients, because the answer contains the access token",
            proxies.path()
        )
    })
}
