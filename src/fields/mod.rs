//! HTTP fields: the fields that are removed from requests and responses, the cookies, and the
//! client's address.
//!
//! The fields of a request are processed in the order **read, strip, write**:
//!
//! 1. [`check_framing`] rejects framing that the parser accepts but that is not safe to forward.
//!
//! 2. [`forwarded::Client::read`] reads the forwarding fields, if the peer is a trusted proxy.
//!    [`request_id::from_proxy`] reads the id of the request, if the peer is a trusted proxy.
//!
//! 3. [`inbound`] removes the fields that `strip::Strip` lists: hop-by-hop fields, and every field
//!    that only the gateway may write, in every spelling. The permit of the request decides about
//!    the client's `Authorization`.
//!
//! 4. Before the gateway forwards the request, [`cookie::others`], [`forwarded::Client::write`] and
//!    [`append_via`] write their fields. The gateway also writes the identity of the user, the
//!    access token and the [`request_id`]. The gateway first removes the client's fields that only
//!    the gateway may write, and then writes its own fields. Neither `Connection` nor an unusual
//!    spelling of a name lets a client keep a forged field or remove a field of the gateway.
//!
//! Code that decides about a request reads fields through [`View`], which is implemented by a map
//! and by the buffer of a parser. [`outbound`] removes fields from responses,
//! and keeps answers to one user out of shared caches. The module implements
//! parts of RFC 9110 sections 5 to 10. The module does not know sessions, routes or upstreams.

mod caching;
mod client_networks;
pub mod cookie;
pub(crate) mod forwarded;
mod framing;
mod owned;
pub(crate) mod request_id;
mod response;
mod strip;
#[cfg(test)]
mod tests;
mod trailers;
mod upgrade;
mod view;

use http::header::{MAX_FORWARDS, VIA};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

pub(crate) use caching::SharedCaching;
pub(crate) use client_networks::ClientNetworks;
pub use framing::FramingError;
pub(crate) use framing::check as check_framing;
pub use owned::OwnedFields;
pub(crate) use owned::{DESCRIBING, REPLACING, fold};
pub(crate) use response::outbound;
#[cfg(test)]
pub(crate) use strip::Strip;
pub use strip::inbound;
pub use trailers::TrailerSupport;
pub(crate) use trailers::{inbound_trailers, outbound_trailers};
pub(crate) use upgrade::{UpgradeRequest, websocket_accept};
pub use view::{OnlyValue, View};

/// The field in which a browser states whether the page that caused a request belongs to the same
/// origin, to the same site or to another site (Fetch Metadata).
pub(crate) const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The field in which a browser states for what the page uses the answer, such as `image`.
pub(crate) const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// The name of this gateway in `Via`.
const PSEUDONYM: &str = "sidegate";

/// The maximum number of entries for this gateway in `Via`. Several entries in `Via` are allowed,
/// because a request may pass several gateways named `sidegate`, such as a gateway and a sidecar.
/// If a request would get more than `MAX_PASSES` entries for this gateway, the request is in a
/// loop.
const MAX_PASSES: usize = 5;

/// The result of a check of `Max-Forwards`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum Hops {
    /// `Max-Forwards` is 0, so the gateway itself answers the request.
    Answer,
    /// The gateway can forward the request to the next hop.
    Forward,
}

/// Decrements `Max-Forwards` (RFC 9110 section 7.6.2) of an OPTIONS request. TRACE requests need no
/// change, because the gateway rejects them. For methods other than OPTIONS and TRACE,
/// `Max-Forwards` has no meaning. A `Max-Forwards` value that is not a number is ignored.
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

/// The request has passed gateways named `sidegate` too often.
///
/// Responsible: the gateway. The upstream of a route leads back to this gateway, so the operator
/// has to check the routes. The gateway answers the request with the status code 508.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the request has passed this gateway too often")]
pub struct Loop;

impl Loop {
    /// Returns the status code of the answer.
    #[expect(
        clippy::unused_self,
        reason = "all errors of a request have the same methods"
    )]
    pub(crate) const fn status(self) -> StatusCode {
        StatusCode::LOOP_DETECTED
    }

    /// Returns a stable code for logs and metrics.
    #[expect(
        clippy::unused_self,
        reason = "all errors of a request have the same methods"
    )]
    pub(crate) const fn reason(self) -> &'static str {
        "forwarding_loop"
    }
}

/// Appends this gateway to the `Via` field of a request that arrived with `version` (RFC 9110
/// section 7.6.3).
///
/// # Errors
///
/// Returns [`Loop`] if `Via` already contains this gateway five times.
pub(crate) fn append_via(headers: &mut HeaderMap, version: Version) -> Result<(), Loop> {
    // `append` returns false if the request had no `Via`. A request without `Via` cannot be in a
    // loop.
    if !headers.append(VIA, via_line(version)) {
        return Ok(());
    }
    let lines = headers.get_all(VIA).iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    // The syntax of a member of `Via` is: received-protocol RWS received-by [ RWS comment ]
    let received_by = members.filter_map(|member| {
        let mut words = member
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        words.nth(1)
    });
    let ours = received_by.filter(|name| name.eq_ignore_ascii_case(PSEUDONYM.as_bytes()));
    // The iterator `ours` also contains the `Via` entry that the gateway has just appended.
    if ours.count() > MAX_PASSES {
        return Err(Loop);
    }
    Ok(())
}

fn via_line(version: Version) -> HeaderValue {
    // Constants, because `from_static` would otherwise check the text at each call.
    const HTTP_1_0: HeaderValue = HeaderValue::from_static("1.0 sidegate");
    const HTTP_1_1: HeaderValue = HeaderValue::from_static("1.1 sidegate");
    const HTTP_2: HeaderValue = HeaderValue::from_static("2 sidegate");
    match version {
        Version::HTTP_2 => HTTP_2,
        Version::HTTP_10 => HTTP_1_0,
        _ => HTTP_1_1,
    }
}
