//! The reasons why the server cannot read what a client sends.

use std::error::Error as _;

use super::arrivals::{Arrivals, Opening};

/// The reason why the server closes a connection, or refuses a request, before the handler gets the
/// request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// An HTTP/2 client sends too many frames of a kind that only costs, such as resets of streams.
    /// Responsible: the client.
    Flood,
    /// The TLS handshake failed. Responsible: in most cases the client, which does not trust the
    /// certificate or does not use TLS.
    Handshake,
    /// A request head is above the limits. Responsible: the client, or the operator, who sets the
    /// limits.
    HeadTooLarge,
    /// The bytes are not valid HTTP. Responsible: the client.
    Malformed,
    /// The connection begins with a PROXY header, but the settings announce no header from this
    /// peer. Responsible: the operator, if the peer is a load balancer of the operator.
    ProxyHeader,
    /// The client uses TLS, but the listener does not. Responsible: the operator, or the client.
    TlsOnPlain,
}

impl Refusal {
    /// A stable code for logs and metrics.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Flood => "http2_flood",
            Self::Handshake => "tls_handshake",
            Self::HeadTooLarge => "head_too_large",
            Self::Malformed => "malformed",
            Self::ProxyHeader => "proxy_header",
            Self::TlsOnPlain => "tls_on_plain_port",
        }
    }

    /// The reason for the end of an HTTP/1.1 connection. `opening` are the first bytes of the
    /// connection, if they belong to its first request. Returns `None` if the client has sent
    /// nothing that is wrong.
    pub(super) fn of_http1(error: &hyper::Error, opening: Opening) -> Option<Self> {
        if !error.is_parse() {
            return None;
        }
        Some(match opening {
            Opening::ProxyHeader => Self::ProxyHeader,
            Opening::Tls => Self::TlsOnPlain,
            Opening::Other if error.is_parse_too_large() => Self::HeadTooLarge,
            Opening::Other => Self::Malformed,
        })
    }

    /// The reason for the end of an HTTP/2 connection. Returns `None` if the client has ended the
    /// connection, or has sent nothing that is wrong.
    pub(super) fn of_http2(error: &hyper::Error, arrivals: &Arrivals) -> Option<Self> {
        if arrivals.is_flood() {
            return Some(Self::Flood);
        }
        let error: &h2::Error = error.source()?.downcast_ref()?;
        if error.is_remote() || error.is_io() {
            return None;
        }
        match error.reason()? {
            h2::Reason::NO_ERROR => None,
            h2::Reason::ENHANCE_YOUR_CALM => Some(Self::Flood),
            _ => Some(Self::Malformed),
        }
    }

    /// The reason for the end of a TLS handshake.
    pub(super) fn of_handshake(opening: Opening) -> Self {
        match opening {
            Opening::ProxyHeader => Self::ProxyHeader,
            Opening::Other | Opening::Tls => Self::Handshake,
        }
    }
}
