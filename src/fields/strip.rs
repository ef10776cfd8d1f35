//! What of a request's fields goes no further.

use http::header::{CONNECTION, EXPECT};
use http::{HeaderMap, HeaderName};

use super::{Owned, View};

/// The fields of RFC 9110 section 7.6.1, in both directions.
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

/// Fields that a peer may not have removed by naming them in `Connection`: they frame the message,
/// say whose it is, or protect the browser that reads it.
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

/// Says which fields of one request are removed (RFC 9110 section 7.6.1).
///
/// These are `Connection` and the fields it nominates (those that frame or identify a message are
/// ignored there); the other hop-by-hop fields; every field of an [`Owned`] in every spelling, the
/// client's `Authorization` among them; and `Expect`, which the HTTP/1 server answers by itself when
/// the body is first read.
#[derive(Debug)]
pub(crate) struct Strip<'a> {
    owned: &'a Owned,
    nominated: Vec<HeaderName>,
}

impl<'a> Strip<'a> {
    /// Of a request with these fields. Nothing is allocated unless some are nominated.
    pub(crate) fn of(fields: &(impl View + ?Sized), owned: &'a Owned) -> Self {
        Self {
            owned,
            nominated: nominated(fields),
        }
    }

    /// Whether all fields of this name go.
    pub(crate) fn takes(&self, name: &str) -> bool {
        always(self.owned, name) || is_among(name, &self.nominated)
    }
}

/// Whether all fields of this name go, whatever is nominated.
#[inline]
fn always(owned: &Owned, name: &str) -> bool {
    // For nearly every field the first word is the last.
    owned.suspects(name) && is_removed(owned, name)
}

fn is_removed(owned: &Owned, name: &str) -> bool {
    is_hop_by_hop(name) || name.eq_ignore_ascii_case(EXPECT.as_str()) || owned.contains(name)
}

/// Removes what [`Strip`] takes from the fields of a request.
///
/// Whoever wants the forwarding fields reads them before, with [`super::forwarded::Client::read`].
///
/// Nothing is allocated for a request that has none of these but `Connection: keep-alive`.
pub fn inbound(headers: &mut HeaderMap, owned: &Owned) {
    // One pass instead of a look-up for each: most requests have none of these.
    if !headers.keys().any(|name| always(owned, name.as_str())) {
        return;
    }
    let strip = Strip::of(headers, owned);
    remove_where(headers, |name| strip.takes(name.as_str()));
}

pub(super) fn is_hop_by_hop(name: &str) -> bool {
    // Few names are as long as one of these.
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
    HOP_BY_HOP_LENGTHS & 1_u64.wrapping_shl(length) != 0
        && HOP_BY_HOP.iter().any(|hop| hop.eq_ignore_ascii_case(name))
}

/// The lengths of the names in [`HOP_BY_HOP`], as bits.
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

/// The fields that a message's `Connection` nominates, of those that it may.
pub(super) fn nominated(fields: &(impl View + ?Sized)) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for line in fields.values(&CONNECTION) {
        if line.eq_ignore_ascii_case(b"keep-alive") || line.eq_ignore_ascii_case(b"close") {
            continue;
        }
        for token in line.split(|byte| *byte == b',') {
            // What is no token names no field.
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

/// Removes the fields that `doomed` picks, with all their values, and `Connection`.
pub(super) fn remove_where(headers: &mut HeaderMap, doomed: impl Fn(&HeaderName) -> bool) {
    // Not left to the list: nearly every message has this one, and often no other.
    headers.remove(CONNECTION);
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| doomed(name))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}
