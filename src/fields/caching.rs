//! Keeps the answer to one user out of shared caches.
//!
//! A cache in front of the gateway sees a cookie, and never the `Authorization` that the gateway
//! writes. RFC 9111 section 3.5 therefore does not keep such a cache from storing the answer to a
//! signed-in user, and from sending this answer to other clients. A cache may also store an answer
//! without any field about caching (RFC 9111 section 3).

use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue};

/// Whether shared caches may store the answer to a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SharedCaching {
    /// The fields of the app decide.
    AsWritten,
    /// No shared cache may store the answer.
    Forbidden,
}

const PRIVATE: HeaderValue = HeaderValue::from_static("private");

/// Whether only shared caches read a field with this name, such as `CDN-Cache-Control` (RFC 9213)
/// or `Surrogate-Control`. These caches prefer such a field to `Cache-Control`.
pub(super) fn instructs_shared_caches(name: &str) -> bool {
    name.ends_with("-control")
        && (name.ends_with("-cache-control")
            || matches!(name, "edge-control" | "surrogate-control"))
}

/// Makes `Cache-Control` forbid shared caches to store the answer. `public`, `s-maxage` and a
/// `private` that applies only to some fields are removed. All other directives stay, because the
/// user's own browser reads them.
pub(super) fn forbid_sharing(headers: &mut HeaderMap) {
    let mut values = headers.get_all(CACHE_CONTROL).iter();
    let first = values.next().map(HeaderValue::as_bytes);
    let value = match (first, values.next()) {
        // Most apps that forbid sharing send one of these two values.
        (Some(b"private" | b"no-store"), None) => None,
        (Some(_), _) => without_sharing(headers.get_all(CACHE_CONTROL).iter()),
        (None, _) => Some(PRIVATE),
    };
    if let Some(value) = value {
        headers.insert(CACHE_CONTROL, value);
    }
}

/// Returns the value that forbids sharing, for the lines of a `Cache-Control` field. Returns `None`
/// if these lines already forbid sharing.
fn without_sharing<'a>(lines: impl Iterator<Item = &'a HeaderValue>) -> Option<HeaderValue> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let (mut is_changed, mut is_private) = (false, false);
    let (mut is_stored, mut must_understand) = (true, false);
    let mut all = Vec::new();
    for line in lines {
        is_changed |= directives(line.as_bytes(), &mut all) == Quotes::Unbalanced;
    }
    for directive in all {
        let mut halves = directive.splitn(2, |byte| *byte == b'=');
        let name = halves.next().unwrap_or_default().trim_ascii();
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        if is("public") || is("s-maxage") || (is("private") && halves.next().is_some()) {
            is_changed = true;
            continue;
        }
        is_private |= is("private");
        is_stored &= !is("no-store");
        must_understand |= is("must-understand");
        kept.push(directive);
    }
    // A cache that knows `must-understand` ignores `no-store` beside it (RFC 9111 section 5.2.2.3).
    let is_forbidden = is_private || !(is_stored || must_understand);
    if is_forbidden && !is_changed {
        return None;
    }
    if !is_forbidden {
        kept.insert(0, b"private");
    }
    // The value consists of bytes of field values, so it is always valid.
    Some(HeaderValue::from_bytes(&kept.join(&b", "[..])).unwrap_or(PRIVATE))
}

/// Whether every quotation mark of a line has a partner.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Quotes {
    Balanced,
    Unbalanced,
}

/// Adds the directives of one line to `all`. A comma between quotation marks does not separate
/// directives. If a quotation mark has no partner, every comma separates, and the parts with a
/// quotation mark are left out, so that no `no-store` stays hidden behind this mark.
fn directives<'a>(line: &'a [u8], all: &mut Vec<&'a [u8]>) -> Quotes {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = line.split(|byte| {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            _ => {}
        }
        *byte == b',' && !is_quoted
    });
    let parts: Vec<&[u8]> = parts.map(<[u8]>::trim_ascii).collect();
    let is_directive = |part: &&[u8]| !part.is_empty();
    if !is_quoted {
        all.extend(parts.into_iter().filter(is_directive));
        return Quotes::Balanced;
    }
    let parts = line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let parts = parts.filter(|part| !part.contains(&b'"'));
    all.extend(parts.filter(is_directive));
    Quotes::Unbalanced
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forbidden(lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CACHE_CONTROL, HeaderValue::from_str(line).unwrap());
        }
        forbid_sharing(&mut headers);
        let values = headers.get_all(CACHE_CONTROL).iter();
        let values: Vec<&str> = values.map(|value| value.to_str().unwrap()).collect();
        values.join(" | ")
    }

    #[test]
    fn x_25_no_cache_control_lets_a_shared_cache_store_the_answer_to_a_user() {
        let rows = include_str!("../../tests/data/cache_control.txt");
        let rows = rows.lines().filter(|row| !row.starts_with('#'));
        let rows: Vec<&str> = rows.filter(|row| !row.is_empty()).collect();
        assert!(rows.len() > 40, "{}", rows.len());
        for row in rows {
            let (lines, expected) = row.split_once(" => ").unwrap();
            let lines: Vec<&str> = match lines {
                "(absent)" => Vec::new(),
                "(empty)" => vec![""],
                lines => lines.split(" | ").collect(),
            };
            assert_eq!(forbidden(&lines), expected, "{row}");
        }
    }

    #[test]
    fn x_25_only_fields_for_shared_caches_instruct_shared_caches() {
        for name in [
            "cdn-cache-control",
            "cloudflare-cdn-cache-control",
            "akamai-cache-control",
            "x-litespeed-cache-control",
            "edge-control",
            "surrogate-control",
        ] {
            assert!(instructs_shared_caches(name), "{name}");
        }
        for name in [
            "cache-control",
            "x-dns-prefetch-control",
            "access-control-max-age",
            "content-control",
            "-control",
            "",
        ] {
            assert!(!instructs_shared_caches(name), "{name}");
        }
    }
}
