//! The way back: fields of an upstream's response.

use http::header::{SET_COOKIE, STRICT_TRANSPORT_SECURITY};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::cookie;
use super::strip::{is_among, is_hop_by_hop, nominated, remove_where};

/// Cleans the fields of an upstream's response.
///
/// Removed: `Connection` and what it nominates (not what protects the browser), the other
/// hop-by-hop fields; `Set-Cookie` for a name of our own as a browser would read it;
/// `Strict-Transport-Security` that switches the protection off; and the fields by which one app
/// would speak for the whole origin or to a proxy: `Clear-Site-Data`, `Alt-Svc`,
/// `Public-Key-Pins`, `X-Accel-*`.
///
/// `is_own_cookie` is asked with the exact bytes of a name; browsers take the prefixes `__Host-`
/// and `__Secure-` in any case, so for such names it is asked with the usual spelling as well.
pub(crate) fn outbound(headers: &mut HeaderMap, is_own_cookie: impl Fn(&[u8]) -> bool) {
    let doomed = |name: &HeaderName| is_hop_by_hop(name.as_str()) || speaks_for_others(name);
    let judged = |name: &HeaderName| *name == SET_COOKIE || *name == STRICT_TRANSPORT_SECURITY;
    // One pass instead of a look-up for each: most responses have none of these.
    if !headers.keys().any(|name| doomed(name) || judged(name)) {
        return;
    }
    let nominated = nominated(headers);
    remove_where(headers, |name| {
        doomed(name) || is_among(name.as_str(), &nominated)
    });
    keep_values(headers, &SET_COOKIE, |value| {
        let name = cookie::name_set_by(value.as_bytes());
        !is_own_cookie(name) && !respelled(name).is_some_and(|name| is_own_cookie(&name))
    });
    keep_values(headers, &STRICT_TRANSPORT_SECURITY, |value| {
        !switches_off(value.as_bytes())
    });
}

fn speaks_for_others(name: &HeaderName) -> bool {
    let name = name.as_str();
    match name.bytes().next() {
        Some(b'a') => name == "alt-svc",
        Some(b'c') => name == "clear-site-data",
        Some(b'p') => matches!(name, "public-key-pins" | "public-key-pins-report-only"),
        Some(b'x') => name.starts_with("x-accel-"),
        _ => false,
    }
}

/// The usual spelling of a name whose prefix is spelled otherwise.
fn respelled(name: &[u8]) -> Option<Vec<u8>> {
    ["__Host-", "__Secure-"].iter().find_map(|prefix| {
        let (start, rest) = name.split_at_checked(prefix.len())?;
        let other = start.eq_ignore_ascii_case(prefix.as_bytes()) && start != prefix.as_bytes();
        other.then(|| [prefix.as_bytes(), rest].concat())
    })
}

/// `max-age=0` in whatever writing (RFC 6797 section 6.1.1).
fn switches_off(policy: &[u8]) -> bool {
    policy.split(|byte| *byte == b';').any(|directive| {
        let mut halves = directive.splitn(2, |byte| *byte == b'=');
        let name = halves.next().unwrap_or_default().trim_ascii();
        let value = halves.next().unwrap_or_default().trim_ascii();
        let digits = value
            .strip_prefix(b"\"")
            .and_then(|value| value.strip_suffix(b"\""));
        let digits = digits.unwrap_or(value).trim_ascii();
        name.eq_ignore_ascii_case(b"max-age")
            && !digits.is_empty()
            && digits.iter().all(|digit| *digit == b'0')
    })
}

/// Keeps the lines of one field that `keep` picks, in their order; copies nothing if it is all.
fn keep_values(headers: &mut HeaderMap, name: &HeaderName, keep: impl Fn(&HeaderValue) -> bool) {
    let values = headers.get_all(name);
    if values.iter().all(&keep) {
        return;
    }
    let kept: Vec<HeaderValue> = values.iter().filter(|value| keep(value)).cloned().collect();
    headers.remove(name);
    for value in kept {
        headers.append(name, value);
    }
}
