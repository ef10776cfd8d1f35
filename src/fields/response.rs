//! Removes unsafe fields from the response of an upstream.

use http::header::{SET_COOKIE, STRICT_TRANSPORT_SECURITY, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::caching::{SharedCaching, forbid_sharing, instructs_shared_caches};
use super::cookie;
use super::strip::{is_among, is_hop_by_hop, nominated, remove, removed_names};
use super::trailers::{self, is_forbidden_in_response};

/// Removes the fields of an upstream's response that must not reach the browser:
///
/// - `Connection` and the fields that it nominates, except those that protect the browser, and the
///   other hop-by-hop fields;
/// - `Set-Cookie` for one of the gateway's own cookies, with the name as a browser would read it;
/// - `Strict-Transport-Security` with a policy that ends the protection;
/// - fields by which one app would change the whole origin or instruct a proxy: `Clear-Site-Data`,
///   `Alt-Svc`, `Public-Key-Pins`, `X-Accel-*`.
///
/// `Trailer` keeps the names of the trailers that the gateway may forward.
///
/// With [`SharedCaching::Forbidden`], `Cache-Control` forbids shared caches to store the response,
/// and the fields that instruct only shared caches are removed.
///
/// `is_own_cookie` gets the exact bytes of a cookie name. Browsers accept the prefixes `__Host-`
/// and `__Secure-` in upper and lower case. If a cookie name has another spelling of such a prefix,
/// `is_own_cookie` is called a second time, with the usual spelling.
pub(crate) fn outbound(
    headers: &mut HeaderMap,
    caching: SharedCaching,
    is_own_cookie: impl Fn(&[u8]) -> bool,
) {
    let is_filtered = |name: &HeaderName| *name == SET_COOKIE || *name == STRICT_TRANSPORT_SECURITY;
    // One pass over the fields is faster than a look-up for each name. Most responses have no field
    // to remove.
    let acts_on = |name: &HeaderName| {
        may_act_on(name.as_str()) && (is_removed(name, caching) || is_filtered(name))
    };
    if headers.keys().any(acts_on) {
        remove_unsafe(headers, caching, is_own_cookie);
    }
    if caching == SharedCaching::Forbidden {
        forbid_sharing(headers);
    }
}

/// Returns true if all lines of a field with this name are removed.
fn is_removed(name: &HeaderName, caching: SharedCaching) -> bool {
    is_hop_by_hop(name.as_str())
        || acts_for_origin_or_proxy(name)
        || caching == SharedCaching::Forbidden && instructs_shared_caches(name.as_str())
}

/// Removes and filters the fields of [`outbound`].
fn remove_unsafe(
    headers: &mut HeaderMap,
    caching: SharedCaching,
    is_own_cookie: impl Fn(&[u8]) -> bool,
) {
    let nominated = nominated(headers);
    let removed = removed_names(headers, |name| {
        is_removed(name, caching) || is_among(name.as_str(), &nominated)
    });
    let announced = removed
        .contains(&TRAILER)
        .then(|| trailers::announced(headers, is_forbidden_in_response));
    remove(headers, removed);
    if let Some(names) = announced.flatten() {
        headers.insert(TRAILER, names);
    }
    keep_values(headers, &SET_COOKIE, |value| {
        let name = cookie::name_set_by(value.as_bytes());
        !is_own_cookie(name) && !with_usual_prefix(name).is_some_and(|name| is_own_cookie(&name))
    });
    // All apps share the origin, so one app must not switch off the `Strict-Transport-Security`
    // policy for all apps.
    keep_values(headers, &STRICT_TRANSPORT_SECURITY, |value| {
        !disables_protection(value.as_bytes())
    });
}

/// Returns false if [`outbound`] certainly keeps fields with this name unchanged. For nearly all
/// fields of an answer, this function returns false after it has compared one letter and the length.
fn may_act_on(name: &str) -> bool {
    let as_long_as = |names: [&str; 2]| names.iter().any(|other| other.len() == name.len());
    let acts = match name.as_bytes().first() {
        Some(b'a' | b'u') => as_long_as(["alt-svc", "upgrade"]),
        Some(b'c') => as_long_as(["connection", "clear-site-data"]),
        Some(b's') => as_long_as(["set-cookie", "strict-transport-security"]),
        Some(b'h' | b'k' | b'p' | b't' | b'x') => true,
        _ => false,
    };
    acts || instructs_shared_caches(name)
}

pub(super) fn acts_for_origin_or_proxy(name: &HeaderName) -> bool {
    let name = name.as_str();
    // Nearly all field names begin with a letter that this `match` does not list, so only a few
    // names are compared completely.
    match name.bytes().next() {
        Some(b'a') => name == "alt-svc",
        Some(b'c') => name == "clear-site-data",
        Some(b'p') => matches!(name, "public-key-pins" | "public-key-pins-report-only"),
        Some(b'x') => name.starts_with("x-accel-"),
        _ => false,
    }
}

/// Returns a cookie name with the prefix `__Host-` or `__Secure-` in its usual spelling, if the
/// prefix has an unusual spelling.
fn with_usual_prefix(name: &[u8]) -> Option<Vec<u8>> {
    ["__Host-", "__Secure-"].iter().find_map(|prefix| {
        let (start, rest) = name.split_at_checked(prefix.len())?;
        let other = start.eq_ignore_ascii_case(prefix.as_bytes()) && start != prefix.as_bytes();
        other.then(|| [prefix.as_bytes(), rest].concat())
    })
}

/// Returns true if the `max-age` of a `Strict-Transport-Security` policy is zero, in any notation
/// (RFC 6797 section 6.1.1).
fn disables_protection(policy: &[u8]) -> bool {
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

/// Keeps each line of the field `name` for which `keep` returns true, and removes the other lines.
/// If `keep` returns true for all lines, this function copies nothing.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::strip::HOP_BY_HOP;

    #[test]
    fn the_quick_check_lets_no_name_pass_that_is_removed_or_filtered() {
        let filtered = [SET_COOKIE, STRICT_TRANSPORT_SECURITY];
        let filtered = filtered.iter().map(HeaderName::as_str);
        let acts = [
            "alt-svc",
            "clear-site-data",
            "public-key-pins",
            "public-key-pins-report-only",
            "x-accel-redirect",
        ];
        let shared = ["cdn-cache-control", "edge-control", "surrogate-control"];
        for name in acts {
            assert!(acts_for_origin_or_proxy(&HeaderName::from_static(name)));
        }
        for name in HOP_BY_HOP
            .into_iter()
            .chain(filtered)
            .chain(acts)
            .chain(shared)
        {
            assert!(may_act_on(name), "{name}");
        }
        for name in [
            "cache-control",
            "content-type",
            "content-length",
            "date",
            "etag",
            "server",
            "vary",
        ] {
            assert!(!may_act_on(name), "{name}");
        }
    }
}
