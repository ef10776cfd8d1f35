//! Converts the options of the listeners, of the proxy in front, and of the sessions.

use std::net::SocketAddr;

use url::Url;

use super::Grade;
use super::convert::{Import, seconds};
use super::document::Value;
use crate::fields::forwarded::{TrustedPeers, parse_network};

/// The longest lifetime of a session in the settings of Sidegate: 400 days.
const LONGEST_SESSION: u64 = 400 * 24 * 3600;

pub(super) fn convert(import: &mut Import, public_url: Option<&str>) {
    let own_prefix = own_prefix(import);
    convert_public_url(import, public_url, &own_prefix);
    convert_listen(import);
    convert_operations(import);
    convert_probes(import);
    convert_session(import);
    let from = "oauth2-proxy also signs out by GET; only pages of the app can do this here";
    import.set("login.sign_out_by_get", Value::Flag(true), from);
}

/// Converts the prefix of the own endpoints, and returns the prefix.
fn own_prefix(import: &mut Import) -> String {
    let Some((text, from)) = import.text("proxy-prefix") else {
        return "/oauth2/".to_owned();
    };
    let prefix = format!("/{}/", text.trim_matches('/'));
    import.set("login.own_prefix", Value::text(&prefix), from);
    prefix
}

fn convert_public_url(import: &mut Import, public_url: Option<&str>, own_prefix: &str) {
    let redirect = import.text("redirect-url");
    let parsed = redirect
        .as_ref()
        .and_then(|(text, _)| Url::parse(text).ok());
    let path = match (&parsed, &redirect) {
        (Some(url), _) => Some(url.path().to_owned()),
        (None, Some((text, _))) => Some(text.clone()).filter(|text| text.starts_with('/')),
        (None, None) => None,
    };
    if let Some((path, (_, from))) = path.zip(redirect)
        && path != format!("{own_prefix}callback")
        && path != "/"
    {
        import.set("login.callback_path", Value::Text(path), from);
    }
    let origin = parsed.map(|mut url| {
        let is_local = url
            .host_str()
            .is_some_and(|host| host == "localhost" || host.starts_with("127.") || host == "[::1]");
        let is_plain = url.scheme() == "http" && !is_local;
        if is_plain && url.set_scheme("https").is_ok() {
            let text = "Browsers accept a session cookie only over HTTPS, so public_url begins \
                        with https://. Register the redirect URI with https:// at the provider.";
            import.remark(import.written("redirect-url"), Grade::Safe, text);
        }
        url.origin().ascii_serialization()
    });
    match (public_url, origin) {
        (Some(url), _) => import.set("public_url", Value::text(url), "--public-url"),
        (None, Some(origin)) => {
            let from = import.written("redirect-url");
            import.set("public_url", Value::Text(origin), from);
        }
        (None, None) => {
            let text = "oauth2-proxy takes the address of the app from each request, and Sidegate \
                        does not. Write the address into public_url, or repeat the import with \
                        --public-url.";
            import.remark("--redirect-url", Grade::Lost, text);
            let value = Value::text("https://app.example.com");
            import.set(
                "public_url",
                value,
                "CHANGE THIS: the address in the browser",
            );
        }
    }
}

fn convert_listen(import: &mut Import) {
    let has_certificate =
        import.text("tls-cert-file").is_some() && import.text("tls-key-file").is_some();
    let (name, default) = if has_certificate {
        ("https-address", Some(":443"))
    } else {
        ("http-address", None)
    };
    let given = import.text(name);
    let text = given.map(|(text, _)| text).filter(|text| text != "-");
    let text = text.or_else(|| default.map(str::to_owned));
    let from = import.written(name);
    let listen = text.and_then(|text| address(import, &text, &from));
    if let Some(listen) = listen {
        import.set("server.listen", Value::text(listen.to_string()), &from);
    }
    let is_open = listen.is_some_and(|listen| !listen.ip().is_loopback());
    convert_trusted_proxies(import, is_open && !has_certificate, &from);
}

/// Reads an address to listen on. A port without a host means all addresses of the machine.
fn address(import: &mut Import, text: &str, from: &str) -> Option<SocketAddr> {
    let lower = text.to_ascii_lowercase();
    let bare = lower
        .strip_prefix("http://")
        .or_else(|| lower.strip_prefix("https://"));
    let bare = bare.unwrap_or(&lower);
    let bare = match bare.split_once(':') {
        Some(("", port)) => format!("[::]:{port}"),
        Some(("localhost", port)) => format!("127.0.0.1:{port}"),
        Some(_) | None => bare.to_owned(),
    };
    let parsed = bare.parse().ok();
    if parsed.is_none() {
        let text = "Sidegate listens only on an IP address with a TCP port. Write the address into \
                    server.listen or operations.listen.";
        import.remark(from, Grade::Lost, text);
    }
    parsed
}

/// Converts the networks of the proxies in front. `needs_proxy` states that the listener accepts
/// plain HTTP from other machines, which Sidegate allows only for a trusted proxy.
fn convert_trusted_proxies(import: &mut Import, needs_proxy: bool, listen: &str) {
    let reverse_proxy = import.flag("reverse-proxy", false);
    let (networks, contains_everybody) = proxy_networks(import);
    let from = import.written("trusted-proxy-ip");
    let trusts_everybody = reverse_proxy && (contains_everybody || networks.is_empty());
    if reverse_proxy && !networks.is_empty() {
        import.set("server.trusted_proxies", Value::List(networks), &from);
    }
    if !reverse_proxy && import.setting("trusted-proxy-ip").is_some() {
        let text = "Without --reverse-proxy, oauth2-proxy does not use the list either.";
        import.remark(&from, Grade::Covered, text);
    }
    let loopback = Value::List(vec!["127.0.0.1".to_owned()]);
    if trusts_everybody {
        let from = import.written("reverse-proxy");
        let text = "oauth2-proxy trusts the forwarding fields of every client. Sidegate trusts only \
                    listed networks. Write the addresses of your proxy into server.trusted_proxies.";
        import.remark(&from, Grade::Safe, text);
        import.set_default("server.trusted_proxies", loopback, &from);
    } else if needs_proxy && !reverse_proxy {
        let text = "Sidegate accepts plain HTTP from other machines only if a listed proxy sends \
                    it. Write the addresses of your proxy into server.trusted_proxies, or set \
                    server.certificate_file and server.key_file.";
        import.remark(listen, Grade::Safe, text);
        import.set("server.trusted_proxies", loopback, listen);
    }
}

/// Returns the networks of the proxies in front, without networks that contain almost every address,
/// and true if there are such networks.
pub(super) fn proxy_networks(import: &mut Import) -> (Vec<String>, bool) {
    let is_wide = |networks: &[String]| {
        let networks = networks.iter().filter_map(|network| parse_network(network));
        TrustedPeers::new(networks).widest().is_some()
    };
    let all = import.list("trusted-proxy-ip");
    let mut networks = all.clone();
    networks.retain(|network| !is_wide(std::slice::from_ref(network)));
    // Several networks together can also contain almost every address.
    if is_wide(&networks) {
        networks.clear();
    }
    let is_shorter = networks.len() < all.len();
    (networks, is_shorter)
}

fn convert_operations(import: &mut Import) {
    if let Some((text, from)) = import
        .text("metrics-address")
        .filter(|(text, _)| text != "-")
        && let Some(listen) = address(import, &text, &from)
    {
        import.set("operations.listen", Value::text(listen.to_string()), from);
    }
}

/// Converts the paths of the health checks, which oauth2-proxy always answers.
fn convert_probes(import: &mut Import) {
    for (name, key, default) in [
        ("ping-path", "server.ping_path", "/ping"),
        ("ready-path", "server.ready_path", "/ready"),
    ] {
        let from = import.written(name);
        let given = import.text(name).map(|(text, _)| text);
        if given.is_none() && import.setting(name).is_some() {
            // The operator has turned the health check off.
            continue;
        }
        let path = given.unwrap_or_else(|| default.to_owned());
        if path.starts_with('/') && !path.ends_with('/') {
            import.set(key, Value::Text(path), from);
        } else {
            let text = format!("The value is not a path. Write the path of the probe into {key}.");
            import.remark(from, Grade::Lost, &text);
        }
    }
}

fn convert_session(import: &mut Import) {
    if let Some((text, from)) = import.text("cookie-expire") {
        if let Some(lifetime @ 1..=LONGEST_SESSION) = seconds(&text) {
            import.set("session.absolute_secs", Value::Number(lifetime), &from);
            import.set("session.idle_secs", Value::Number(lifetime), from);
        } else {
            let text = "Sidegate ends every session after session.absolute_secs, which is at most \
                        400 days. The session also ends after session.idle_secs.";
            import.remark(from, Grade::Lost, text);
        }
    }
    if let Some((text, from)) = import.text("cookie-samesite") {
        let (grade, text) = match &*text.to_ascii_lowercase() {
            "lax" => return convert_store(import),
            "none" => (
                Grade::Safe,
                "The cookie of Sidegate has SameSite=Lax, so a page of another site cannot use the \
                 session, and the app cannot be in a frame of another site.",
            ),
            _ => (
                Grade::Lost,
                "The cookie of Sidegate has SameSite=Lax, so a link from another site opens the \
                 app with the session. Sidegate refuses other requests of other sites.",
            ),
        };
        import.remark(from, grade, text);
    }
    convert_store(import);
}

fn convert_store(import: &mut Import) {
    let Some((text, from)) = import.text("session-store-type") else {
        return;
    };
    if text == "cookie" {
        let text = "Sidegate keeps the sessions in memory, and the cookie contains only a session \
                    id. With session.store.disk, the sessions survive a restart.";
        import.remark(from, Grade::Covered, text);
    } else {
        let text = "Write the table session.store.redis, so that several replicas share their \
                    sessions. Until then, Sidegate keeps the sessions in memory.";
        import.remark(from, Grade::ToDo, text);
    }
}
