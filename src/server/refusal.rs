//! The reasons why the server cannot read what a client sends.

use std::error::Error;

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
    /// The body or the trailers of an HTTP/2 request are malformed: the body has another length than
    /// announced, or the trailers contain a pseudo-field. The stream was reset. Responsible: the
    /// client.
    MalformedBody,
    /// The connection begins with a PROXY header, but the settings announce no header from this
    /// peer. Responsible: the operator, if the peer is a load balancer of the operator.
    ProxyHeader,
    /// The client uses TLS, but the listener does not. Responsible: the operator, or the client.
    TlsOnPlain,
}

/// The body or the trailers of an HTTP/2 request are malformed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the body has another length than announced, or the trailers are not valid")]
pub(super) struct MalformedBody;

impl MalformedBody {
    /// Returns true if the HTTP library has reset a stream because of the error `error` of its body.
    pub(super) fn is(error: &hyper::Error) -> bool {
        let error: Option<&h2::Error> = error.source().and_then(<dyn Error>::downcast_ref);
        error.is_some_and(|error| {
            error.is_reset()
                && error.is_library()
                && error.reason() == Some(h2::Reason::PROTOCOL_ERROR)
        })
    }
}

impl Refusal {
    /// A stable code for logs and metrics.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Flood => "http2_flood",
            Self::Handshake => "tls_handshake",
            Self::HeadTooLarge => "head_too_large",
            Self::Malformed => "malformed",
            Self::MalformedBody => "malformed_body",
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
