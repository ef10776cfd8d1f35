//! HTTP fields: what is removed on the way in and out, cookies, and where a client is.
//!
//! The order on a request's way in is **read, strip, write**:
//!
//! 1. [`check_framing`] refuses what was framed but should not have been;
//! 2. [`forwarded::Client::read`] looks at the forwarding fields, if the peer may set them;
//! 3. [`inbound`] removes what `strip::Strip` takes: hop-by-hop fields and every field that we assert
//!    ourselves, in every spelling, the client's own credentials among them;
//! 4. [`cookie::others`], [`forwarded::Client::write`], [`append_via`] and whoever asserts the
//!    identity write last, so nothing that a client nominates or spells oddly survives or hides
//!    what we say.
//!
//! What decides reads fields by [`View`]: a map of them, or where they lie in somebody's buffer.
//! [`outbound`] is for the way back. The room knows RFC 9110 sections 5 to 10; it does not know
//! sessions, routes or upstreams.

pub mod cookie;
pub(crate) mod forwarded;
mod framing;
mod owned;
mod response;
mod strip;
#[cfg(test)]
mod tests;
mod view;

use http::header::{MAX_FORWARDS, VIA};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

pub use framing::FramingError;
pub(crate) use framing::check as check_framing;
pub use owned::Owned;
pub(crate) use response::outbound;
#[cfg(test)]
pub(crate) use strip::Strip;
pub use strip::inbound;
pub use view::View;

/// Our pseudonym in `Via`.
const PSEUDONYM: &str = "sidegate";

/// How often a request may have passed a gateway of this name. A gateway before a sidecar is two;
/// more than a few is a loop.
const MAX_PASSES: usize = 5;

/// Whether a request may go one hop further.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum Hops {
    /// This is the last hop: the gateway answers the request itself.
    Answer,
    /// The request may be forwarded.
    Forward,
}

/// Counts `Max-Forwards` down (RFC 9110 section 7.6.2). It is for OPTIONS alone: TRACE is refused
/// elsewhere, and for other methods the field means nothing. A value that is no number is ignored.
pub(crate) fn count_hop(method: &Method, headers: &mut HeaderMap) -> Hops {
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
    #[expect(clippy::unused_self, reason = "errors of the walk are asked all alike")]
    pub(crate) const fn status(self) -> StatusCode {
        StatusCode::LOOP_DETECTED
    }

    /// A stable code for logs and metrics.
    #[expect(clippy::unused_self, reason = "errors of the walk are asked all alike")]
    pub(crate) const fn reason(self) -> &'static str {
        "forwarding_loop"
    }
}

/// Appends our line to the `Via` of a request that came in by `version` (RFC 9110 section 7.6.3).
///
/// # Errors
///
/// [`Loop`] when `Via` names this gateway five times already.
pub(crate) fn append_via(headers: &mut HeaderMap, version: Version) -> Result<(), Loop> {
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
