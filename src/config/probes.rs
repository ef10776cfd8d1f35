//! The paths of health checks at the public listener.

use super::listening::ServerSection;
use super::section::Reader;
use crate::fields::forwarded::TrustedPeers;
use crate::gateway::{AskingProxies, Probes};
use crate::login;
use crate::target::Prefix;

/// Returns the paths of the health checks, or `None` if the settings contain no path. Refuses a path
/// that would hide an endpoint of the gateway.
pub(super) fn probes(
    server: Option<&ServerSection>,
    (login, asking_proxies): (
        Option<&login::Settings>,
        Option<&(AskingProxies, TrustedPeers)>,
    ),
    reader: &mut Reader<'_>,
) -> Option<Box<Probes>> {
    let server = server?;
    let (ping, ready) = (server.ping_path.as_ref(), server.ready_path.as_ref());
    for (name, path) in [("ping_path", ping), ("ready_path", ready)] {
        let Some(path) = path.map(Prefix::as_str) else {
            continue;
        };
        let is_own =
            |login: &login::Settings| login.own.cover(path) || login.redirection.is_own_path(path);
        // If the answer to an auth check were the answer to a health check, every request would be
        // permitted.
        let is_check =
            |(proxies, _): &(AskingProxies, TrustedPeers)| path.starts_with(proxies.path());
        let problem = if path.ends_with('/') {
            "ends with `/`, so it would hide a page of the app; write a path such as \"/ping\""
        } else if login.is_some_and(is_own) {
            "is a path of Sidegate's own endpoints; write another path"
        } else if asking_proxies.is_some_and(is_check) {
            "is the path of the auth check; write another path"
        } else if name == "ready_path" && Some(path) == ping.map(Prefix::as_str) {
            "is also ping_path; write two different paths, or only one of the keys"
        } else {
            continue;
        };
        reader.note(&format!("server.{name}"), format!("`{path}` {problem}"));
    }
    let text = |path: Option<&Prefix>| path.map(|path| path.as_str().into());
    (ping.is_some() || ready.is_some()).then(|| {
        Box::new(Probes {
            ping: text(ping),
            ready: text(ready),
        })
    })
}
