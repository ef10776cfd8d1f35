//! Why there is no answer, or why an answer broke off.

use std::io;

use crate::upload::BoxError;

/// Why there is no answer, or why an answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The origin switched protocols, but not to the one that was asked for, or without the proof that
    /// RFC 6455 section 4.1 demands. Side: upstream.
    #[error("the switch of protocols is not the one that was asked for")]
    BadSwitch,
    /// The origin stopped sending in the middle of a body. Side: upstream or provider.
    #[error("the body stalled")]
    BodyTimeout,
    /// The connection broke, or what came is not HTTP/1.1. Side: upstream or provider.
    #[error("the connection broke or did not speak HTTP")]
    Broken(#[source] hyper::Error),
    /// Every connection is in use and the queue is full, or waiting in it took too long. Side:
    /// upstream, which is slower than its visitors.
    #[error("all connections are in use")]
    Busy,
    /// The call as a whole took too long. Side: provider.
    #[error("the call took too long")]
    CallTimeout,
    /// No address took the connection. Side: upstream or provider; F-28's lack of local ports
    /// looks like this too.
    #[error("the connection was not taken")]
    Connect(#[source] io::Error),
    /// No connection in time, name look-up and handshake included. Side: upstream or provider.
    #[error("connecting took too long")]
    ConnectTimeout,
    /// The response's framing can be read in more than one way. Side: upstream or provider.
    #[error("the response is framed ambiguously")]
    Framing,
    /// No whole response head in time. Side: upstream or provider.
    #[error("the response head took too long")]
    HeadTimeout,
    /// The request's own body broke off. Side: client; the source is the body's error.
    #[error("the request body broke off")]
    RequestBody(#[source] BoxError),
    /// The name has no address. Side: upstream or provider, or the resolver.
    #[error("the name was not resolved")]
    Resolve(#[source] io::Error),
    /// The handshake failed, most often because the certificate is not trusted. Nothing of the
    /// request was sent. Side: upstream or provider.
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The answer is longer than the caller takes. Side: provider.
    #[error("the answer is too large")]
    TooLarge,
    /// A switch of protocols that nobody asked for (RFC 9110 section 15.2.2). Side: upstream.
    #[error("protocols were switched unasked")]
    UnrequestedUpgrade,
    /// An `https` origin without a TLS configuration. Side: gateway; never sent in clear.
    #[error("an https origin has no TLS configuration")]
    Unconfigured,
}

impl Error {
    /// Whether the origin may have acted on the request. `false` is certain: nothing of the
    /// request was sent.
    pub(crate) fn may_have_been_processed(&self) -> bool {
        match self {
            Self::Busy
            | Self::Connect(_)
            | Self::ConnectTimeout
            | Self::Resolve(_)
            | Self::Tls(_)
            | Self::Unconfigured => false,
            Self::BadSwitch
            | Self::BodyTimeout
            | Self::Broken(_)
            | Self::CallTimeout
            | Self::Framing
            | Self::HeadTimeout
            | Self::RequestBody(_)
            | Self::TooLarge
            | Self::UnrequestedUpgrade => true,
        }
    }
}
