//! The versions of HTTP that an origin can speak.

use serde::Deserialize;

/// The version of HTTP that an origin speaks.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    /// HTTP/1.1, with one request at a time on each connection.
    #[default]
    Http1,
    /// HTTP/2, with many requests at a time on each connection. An `https` origin has to choose
    /// `h2` by ALPN (RFC 7301). An `http` origin has to accept HTTP/2 without a negotiation (RFC
    /// 9113 section 3.3).
    Http2,
}
