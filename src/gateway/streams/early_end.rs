//! How an answer of an app is reported that ends before it is complete.

use http::{HeaderMap, HeaderValue};

use super::CutCause;
use crate::origin;

/// Returns the end code for an answer whose body has failed with `error`. Returns `None` if the
/// client has not sent its whole request body.
pub(in crate::gateway) fn broken_end(error: &origin::Error) -> Option<&'static str> {
    match error {
        // The client has not sent its whole request body.
        origin::Error::RequestBody(_) => None,
        origin::Error::BodyTimeout => Some("upstream_body_timeout"),
        origin::Error::Evicted(eviction) => Some(eviction.reason()),
        origin::Error::BadSwitch
        | origin::Error::Broken(_)
        | origin::Error::Busy
        | origin::Error::CallTimeout
        | origin::Error::Connect(_)
        | origin::Error::ConnectTimeout
        | origin::Error::Framing
        | origin::Error::HeadTimeout
        | origin::Error::HeadTooLarge(_)
        | origin::Error::Http2(_)
        | origin::Error::NoHttp2(_)
        | origin::Error::Proxy { .. }
        | origin::Error::Resolve(_)
        | origin::Error::Tls(_)
        | origin::Error::TooLarge
        | origin::Error::TooManyFields(_)
        | origin::Error::Unconfigured
        | origin::Error::UnrequestedUpgrade => Some("upstream_broken"),
    }
}

/// Returns the trailers for a gRPC answer that the gateway ends early.
pub(super) fn grpc_status(cause: CutCause) -> HeaderMap {
    let (status, message) = match cause {
        CutCause::Limit => ("14", "the stream has ended"),
        CutCause::Rule => ("7", "the user may not use this service"),
        CutCause::Session => ("16", "the session has ended"),
    };
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    trailers
}
