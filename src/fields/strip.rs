//! The fields of a request that are not forwarded.

use http::header::{CONNECTION, EXPECT, TE, TRAILER};
use http::{HeaderMap, HeaderName};

use super::trailers::{self, TrailerSupport, is_forbidden_in_request};
use super::{OwnedFields, View};

/// The hop-by-hop fields of RFC 9110 section 7.6.1, for requests and responses.
pub(super) const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Fields that are not removed even if `Connection` nominates these fields. The fields in this list
/// frame the message, identify the sender of the message, or protect the browser.
const NOT_NOMINABLE: [&str; 11] = [
    "cache-control",
    "content-length",
    "content-security-policy",
    "content-type",
    "cookie",
    "host",
    "set-cookie",
    "strict-transport-security",
    "via",
    "x-content-type-options",
    "x-frame-options",
];

/// The fields that the gateway has to remove from one request (RFC 9110 section 7.6.1).
///
/// - `Connection` and the fields that it nominates, except those that frame or identify a message;
/// - the other hop-by-hop fields;
/// - every field of [`OwnedFields`] in every spelling;
/// - `Expect`, which [`inbound`] keeps if the request has content.
#[derive(Debug)]
pub(crate) struct Strip<'a> {
    owned: &'a OwnedFields,
    nominated: Vec<HeaderName>,
}

impl<'a> Strip<'a> {
    /// Returns the list of the fields that must be removed from a request. The argument `fields`
    /// contains all fields of the request. Allocates memory only if `Connection` nominates fields.
    pub(crate) fn of(fields: &(impl View + ?Sized), owned: &'a OwnedFields) -> Self {
        Self {
            owned,
            nominated: nominated(fields),
        }
    }

    /// Returns true if fields with this name are removed.
    pub(crate) fn removes(&self, name: &str) -> bool {
        is_always_removed(self.owned, name) || is_among(name, &self.nominated)
    }
}

/// Returns true if fields with this name are removed from every request, even from a request
/// without `Connection`.
#[inline]
fn is_always_removed(owned: &OwnedFields, name: &str) -> bool {
    // For nearly every field that is kept, `may_remove` returns false, so no name has to be
    // compared.
    owned.may_remove(name) && is_listed(owned, name)
}

fn is_listed(owned: &OwnedFields, name: &str) -> bool {
    is_hop_by_hop(name) || name.eq_ignore_ascii_case(EXPECT.as_str()) || owned.contains(name)
}

/// Removes from a request the fields that [`Strip`] lists.
///
/// Call [`super::forwarded::Client::read`] before this function, because `read` needs the
/// forwarding fields, which this function removes.
///
/// If the client accepts trailers, the request keeps `TE: trailers`. A request with content also
/// keeps `Expect` and, in `Trailer`, the names of the trailers that the gateway may forward. A
/// request without content has no trailers, and must not have `Expect` (RFC 9110 section 10.1.1).
/// The return value states which trailers of the response the gateway forwards to an HTTP/1.1
/// client.
///
/// If the request has no field to remove except `Connection: keep-alive`, this function allocates
/// nothing.
pub fn inbound(headers: &mut HeaderMap, owned: &OwnedFields, has_content: bool) -> TrailerSupport {
    // One pass over the fields is faster than a look-up for each name. Most requests have no field
    // to remove.
    if !headers
        .keys()
        .any(|name| is_always_removed(owned, name.as_str()))
    {
        return TrailerSupport::None;
    }
    let strip = Strip::of(headers, owned);
    let removed = removed_names(headers, |name| strip.removes(name.as_str()));
    let accepted = removed.contains(&TE) && trailers::are_accepted(headers);
    let mut kept = Vec::new();
    if removed.contains(&TRAILER) && has_content {
        let names = trailers::announced(headers, |name| is_forbidden_in_request(name, owned));
        kept.push((TRAILER, names));
    }
    if removed.contains(&EXPECT) && has_content {
        kept.push((EXPECT, headers.get(EXPECT).cloned()));
    }
    remove(headers, removed);
    for (name, value) in kept {
        headers.extend(value.map(|value| (name, value)));
    }
    if !accepted {
        return TrailerSupport::None;
    }
    trailers::write_acceptance(headers);
    TrailerSupport::Announced
}

pub(super) fn is_hop_by_hop(name: &str) -> bool {
    // The lengths are compared first, because most field names have a length that no hop-by-hop
    // field has.
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
    HOP_BY_HOP_LENGTHS & 1_u64.wrapping_shl(length) != 0
        && HOP_BY_HOP.iter().any(|hop| hop.eq_ignore_ascii_case(name))
}

/// The lengths of the names in [`HOP_BY_HOP`], as a bit set.
const HOP_BY_HOP_LENGTHS: u64 = {
    let (mut lengths, mut names): (u64, &[&str]) = (0, &HOP_BY_HOP);
    while let [name, rest @ ..] = names {
        lengths |= 1 << name.len();
        names = rest;
    }
    lengths
};

pub(super) fn is_among(name: &str, names: &[HeaderName]) -> bool {
    names
        .iter()
        .any(|other| other.as_str().eq_ignore_ascii_case(name))
}

/// Returns the fields that `Connection` nominates, except the fields in [`NOT_NOMINABLE`].
pub(super) fn nominated(fields: &(impl View + ?Sized)) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for line in fields.values(&CONNECTION) {
        // The common values `keep-alive` and `close` nominate no field.
        if line.eq_ignore_ascii_case(b"keep-alive") || line.eq_ignore_ascii_case(b"close") {
            continue;
        }
        for token in line.split(|byte| *byte == b',') {
            // A member of `Connection` that is not a valid field name nominates no field.
            let Ok(name) = HeaderName::from_bytes(token.trim_ascii()) else {
                continue;
            };
            if !NOT_NOMINABLE.contains(&name.as_str()) {
                names.push(name);
            }
        }
    }
    names
}

/// Removes `Connection`, and returns the names of the other fields that satisfy `is_removed`.
pub(super) fn removed_names(
    headers: &mut HeaderMap,
    is_removed: impl Fn(&HeaderName) -> bool,
) -> Vec<HeaderName> {
    // `Connection` is removed separately, because nearly every message has `Connection`, and most
    // messages have no other hop-by-hop field.
    headers.remove(CONNECTION);
    let names = headers.keys().filter(|name| is_removed(name));
    names.cloned().collect()
}

/// Removes the fields with these names, with all their values.
pub(super) fn remove(headers: &mut HeaderMap, names: Vec<HeaderName>) {
    for name in names {
        headers.remove(name);
    }
}
