//! Trailers: the fields after the content of a message (RFC 9110 section 6.5).
//!
//! The checks of a head do not apply to trailers, and some apps treat trailers like fields of the
//! head. Therefore the gateway forwards no trailer that frames the message, routes the request,
//! changes the request, or identifies its sender.

use http::header::{self, CONNECTION, TE, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::OwnedFields;
use super::response::acts_for_origin_or_proxy;
use super::strip::is_hop_by_hop;

/// States which trailers of a response the client gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TrailerSupport {
    /// The client gets all trailers, because the client uses HTTP/2.
    All,
    /// The client gets the trailers that the response announces in its field `Trailer`. The client
    /// uses HTTP/1.1 and has sent `TE: trailers` (RFC 9110 section 10.1.4).
    Announced,
    /// No trailers.
    None,
}

/// Fields that must not be trailers, as RFC 9110 section 6.5.1 lists them: they frame the content,
/// route or change a request, identify a user, or control how a response is used.
static FORBIDDEN: [HeaderName; 37] = [
    header::ACCEPT_RANGES,
    header::AGE,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_DISPOSITION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::CONTENT_SECURITY_POLICY,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::DATE,
    header::EXPECT,
    header::EXPIRES,
    header::FORWARDED,
    header::HOST,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::LOCATION,
    header::MAX_FORWARDS,
    header::ORIGIN,
    header::PRAGMA,
    header::RANGE,
    header::REFERER,
    header::REFRESH,
    header::RETRY_AFTER,
    header::SET_COOKIE,
    header::STRICT_TRANSPORT_SECURITY,
    header::VARY,
    header::VIA,
    header::WARNING,
    header::WWW_AUTHENTICATE,
    header::X_FRAME_OPTIONS,
];

/// Removes the trailers of a request that the gateway must not forward.
pub(crate) fn inbound_trailers(trailers: &mut HeaderMap, owned: &OwnedFields) {
    remove(trailers, |name| is_forbidden_in_request(name, owned));
}

/// Removes the trailers of a response that the gateway must not forward.
pub(crate) fn outbound_trailers(trailers: &mut HeaderMap) {
    remove(trailers, is_forbidden_in_response);
}

pub(super) fn is_forbidden_in_request(name: &HeaderName, owned: &OwnedFields) -> bool {
    is_forbidden(name) || owned.contains(name.as_str())
}

pub(super) fn is_forbidden_in_response(name: &HeaderName) -> bool {
    is_forbidden(name) || acts_for_origin_or_proxy(name)
}

fn is_forbidden(name: &HeaderName) -> bool {
    is_hop_by_hop(name.as_str()) || FORBIDDEN.contains(name)
}

fn remove(trailers: &mut HeaderMap, is_forbidden: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| is_forbidden(name))
        .cloned()
        .collect();
    for name in names {
        trailers.remove(name);
    }
}

/// Returns the value of the field `Trailer` without the forbidden names. Returns `None` if all
/// names in `Trailer` are forbidden.
pub(super) fn announced(
    headers: &HeaderMap,
    is_forbidden: impl Fn(&HeaderName) -> bool,
) -> Option<HeaderValue> {
    let mut names = Vec::new();
    for line in headers.get_all(TRAILER) {
        for token in line.as_bytes().split(|byte| *byte == b',') {
            // A member of `Trailer` that is not a valid field name announces no trailer.
            match HeaderName::from_bytes(token.trim_ascii()) {
                Ok(name) if !is_forbidden(&name) => names.push(name),
                Ok(_) | Err(_) => {}
            }
        }
    }
    if names.is_empty() {
        return None;
    }
    let names: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
    HeaderValue::from_str(&names.join(", ")).ok()
}

/// Returns true if `TE` contains the member `trailers` (RFC 9110 section 10.1.4).
pub(super) fn are_accepted(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(TE).iter();
    let mut members = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    members.any(|member| member.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Writes `TE: trailers` to a request whose client accepts trailers.
pub(super) fn write_acceptance(headers: &mut HeaderMap) {
    headers.insert(TE, HeaderValue::from_static("trailers"));
    // `TE` applies only to one connection, so `Connection` must nominate `TE`. HTTP/2 has no
    // `Connection` field.
    headers.insert(CONNECTION, HeaderValue::from_static("te"));
}

#[cfg(test)]
#[path = "trailers_tests.rs"]
mod tests;
