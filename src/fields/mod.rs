//! HTTP fields: what is removed on the way in and out, cookies, and where a client is.
//!
//! The order on a request's way in is **read, strip, write**:
//!
//! 1. [`check_framing`] refuses what was framed but should not have been;
//! 2. [`forwarded::Client::read`] looks at the forwarding fields, if the peer may set them;
//! 3. [`inbound`] removes hop-by-hop fields, then every field that we assert ourselves in every
//!    spelling, and moves the client's own credentials aside;
//! 4. [`cookie::remove`], [`forwarded::Client::write`], [`append_via`] and whoever asserts the
//!    identity write last, so nothing that a client nominates or spells oddly survives or hides
//!    what we say.
//!
//! [`outbound`] is for the way back. The room knows RFC 9110 sections 5 to 10; it does not know
//! sessions, routes or upstreams.

pub mod cookie;
pub mod forwarded;
mod framing;
mod owned;
mod response;
#[cfg(test)]
mod tests;

use http::header::{AUTHORIZATION, CONNECTION, EXPECT, MAX_FORWARDS, VIA};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

pub use framing::{FramingError, check as check_framing};
pub use owned::Owned;
pub use response::outbound;

/// Our pseudonym in `Via`.
const PSEUDONYM: &str = "sidegate";

/// How often a request may have passed a gateway of this name. A gateway before a sidecar is two;
/// more than a few is a loop.
const MAX_PASSES: usize = 5;

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

/// What [`inbound`] moved aside.
#[derive(Clone, Debug, Default)]
pub struct Inbound {
    authorization: Vec<HeaderValue>,
}

impl Inbound {
    /// The values of the client's `Authorization` fields, marked sensitive. They are credentials
    /// to be judged, never passed on as they came; more than one is ambiguous.
    pub fn authorization(&self) -> &[HeaderValue] {
        &self.authorization
    }
}

/// Cleans the fields of a request from a client (RFC 9110 section 7.6.1).
///
/// Removed, in this order: `Connection` and the fields it nominates (those that frame or identify
/// a message are ignored there); the other hop-by-hop fields; every field of `owned` in every
/// spelling; `Expect`, which the HTTP/1 server answers by itself when the body is first read. The
/// client's `Authorization` moves into the result.
///
/// Whoever wants the forwarding fields reads them before, with [`forwarded::Client::read`].
///
/// Nothing is allocated for a request that has none of these but `Connection: keep-alive`.
#[must_use]
pub fn inbound(headers: &mut HeaderMap, owned: &Owned) -> Inbound {
    let doomed = |name: &HeaderName| {
        owned.suspects(name) && (is_hop_by_hop(name) || *name == EXPECT || owned.contains(name))
    };
    // One pass instead of a look-up for each: most requests have none of these.
    if !headers.keys().any(doomed) {
        return Inbound::default();
    }
    let mut authorization: Vec<HeaderValue> =
        headers.get_all(AUTHORIZATION).iter().cloned().collect();
    for value in &mut authorization {
        value.set_sensitive(true);
    }
    remove_nominated(headers);
    remove_where(headers, doomed);
    Inbound { authorization }
}

/// Whether a request may go one hop further.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Hops {
    /// This is the last hop: the gateway answers the request itself.
    Answer,
    /// The request may be forwarded.
    Forward,
}

/// Counts `Max-Forwards` down (RFC 9110 section 7.6.2). It is for OPTIONS alone: TRACE is refused
/// elsewhere, and for other methods the field means nothing. A value that is no number is ignored.
pub fn count_hop(method: &Method, headers: &mut HeaderMap) -> Hops {
    if *method != Method::OPTIONS {
        return Hops::Forward;
    }
    let left = headers
        .get(MAX_FORWARDS)
        .and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    match left.map(|left| left.checked_sub(1)) {
        None => Hops::Forward,
        Some(None) => Hops::Answer,
        Some(Some(left)) => {
            headers.insert(MAX_FORWARDS, HeaderValue::from(left));
            Hops::Forward
        }
    }
}

/// The request has passed this gateway too often.
///
/// Side: gateway. An upstream of a route leads back to this gateway; the operator looks at the
/// routes. The answer is 508.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the request has passed this gateway too often")]
pub struct Loop;

impl Loop {
    /// The status code of the answer.
    pub const fn status(self) -> StatusCode {
        StatusCode::LOOP_DETECTED
    }

    /// A stable code for logs and metrics.
    pub const fn reason(self) -> &'static str {
        "forwarding_loop"
    }
}

/// Appends our line to the `Via` of a request that came in by `version` (RFC 9110 section 7.6.3).
///
/// # Errors
///
/// [`Loop`] when `Via` names this gateway five times already.
pub fn append_via(headers: &mut HeaderMap, version: Version) -> Result<(), Loop> {
    if !headers.append(VIA, HeaderValue::from_static(via_line(version))) {
        return Ok(());
    }
    let lines = headers.get_all(VIA).iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    // received-protocol RWS received-by [ RWS comment ]
    let received_by = members.filter_map(|member| {
        let mut words = member
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        words.nth(1)
    });
    let ours = received_by.filter(|name| name.eq_ignore_ascii_case(PSEUDONYM.as_bytes()));
    if ours.count() > MAX_PASSES {
        return Err(Loop);
    }
    Ok(())
}

const fn via_line(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2 sidegate",
        Version::HTTP_10 => "1.0 sidegate",
        _ => "1.1 sidegate",
    }
}

/// The fields of RFC 9110 section 7.6.1, in both directions.
const HOP_BY_HOP: [&str; 11] = [
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

fn is_hop_by_hop(name: &HeaderName) -> bool {
    let name = name.as_str();
    // The first letter decides for most fields.
    let begins = name.bytes().next();
    matches!(begins, Some(b'c' | b'h' | b'k' | b'p' | b't' | b'u')) && HOP_BY_HOP.contains(&name)
}

fn remove_nominated(headers: &mut HeaderMap) {
    let lines = headers.get_all(CONNECTION);
    let nominates = |value: &HeaderValue| {
        let value = value.as_bytes();
        !value.eq_ignore_ascii_case(b"keep-alive") && !value.eq_ignore_ascii_case(b"close")
    };
    if lines.iter().any(nominates) {
        let lines: Vec<HeaderValue> = lines.iter().cloned().collect();
        let tokens = lines
            .iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        for token in tokens {
            // What is no token names no field.
            let Ok(name) = HeaderName::from_bytes(token.trim_ascii()) else {
                continue;
            };
            if !NOT_NOMINABLE.contains(&name.as_str()) {
                headers.remove(name);
            }
        }
    }
    // Not left to the rest of the strip, which keeps a list: nearly every request has this one.
    headers.remove(CONNECTION);
}

/// Removes the fields that `doomed` picks, with all their values.
fn remove_where(headers: &mut HeaderMap, doomed: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| doomed(name))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}
