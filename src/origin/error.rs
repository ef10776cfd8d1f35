//! The reasons why a request gets no response, or why a response breaks off.

use std::io;

use super::usage::Eviction;
use crate::upload::BoxError;

/// The reason why a request gets no response, or why a response breaks off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The origin switched to a protocol that was not requested, or its 101 response has no valid
    /// `Sec-WebSocket-Accept` (RFC 6455 section 4.1). The upstream is responsible for this error.
    #[error("the origin did not switch to the requested protocol")]
    BadSwitch,
    /// The origin stopped sending in the middle of a body. The upstream or the provider is
    /// responsible for this error.
    #[error("the body stopped for too long")]
    BodyTimeout,
    /// The connection broke, or the answer is not HTTP/1.1. The upstream or the provider is
    /// responsible for this error.
    #[error("the connection broke, or the answer is not HTTP/1.1")]
    Broken(#[source] hyper::Error),
    /// All connections are in use. The queue is full, or the request has waited too long in the
    /// queue. The upstream is responsible for this error, because the upstream answers too slowly.
    #[error("all connections are in use")]
    Busy,
    /// A call to the provider took too long in total. The provider is responsible for this error.
    #[error("the call took too long")]
    CallTimeout,
    /// No address accepted the connection. The upstream or the provider is responsible for this
    /// error. The gateway also reports this error when it has no free local port (F-28).
    #[error("no address accepted the connection")]
    Connect(#[source] io::Error),
    /// The connection was not opened before the time limit. The time limit for a connection
    /// includes name look-up and TLS handshake. The upstream or the provider is responsible for
    /// this error.
    #[error("connecting took too long")]
    ConnectTimeout,
    /// The gateway ended the exchange, because another request waited for the connection or the
    /// HTTP/2 stream of the exchange. The client is responsible for this error, because the client
    /// is slow or uses more than its share of the connections.
    #[error("the exchange was ended, because other requests waited for its connection")]
    Evicted(Eviction),
    /// A stream or a connection of HTTP/2 broke. The upstream is responsible for this error.
    #[error("the HTTP/2 stream or its connection broke")]
    Http2(#[source] h2::Error),
    /// The response has a transfer coding other than `chunked`, so its length is not clear. The
    /// upstream or the provider is responsible for this error.
    #[error("the length of the response is ambiguous")]
    Framing,
    /// The response head is larger than this number of bytes. The upstream is responsible for this
    /// error. The operator can increase `answer_head_kib` of the upstream.
    #[error("the head of the answer is larger than {0} bytes (answer_head_kib of the upstream)")]
    HeadTooLarge(usize),
    /// The response head was not complete in time. The upstream or the provider is responsible for
    /// this error.
    #[error("the response head took too long")]
    HeadTimeout,
    /// The settings state HTTP/2, but the origin did not choose `h2` by ALPN (RFC 7301), or did not
    /// begin the connection as RFC 9113 section 3.4 demands. No byte of the request was sent. The
    /// operator, who set the protocol of the upstream, is responsible for this error.
    #[error("the origin does not speak HTTP/2")]
    NoHttp2(#[source] BoxError),
    /// The proxy between the gateway and the origin cannot be used. No byte of the request was sent
    /// to the origin. The operator is responsible for this error, and has to correct the settings
    /// of the proxy.
    #[error("the proxy {proxy} cannot be used")]
    Proxy {
        /// The URL of the proxy, without its password.
        proxy: Box<str>,
        /// The problem with the proxy.
        #[source]
        problem: BoxError,
    },
    /// The body of the request broke off. The method `source` returns the error of the request
    /// body. The client is responsible for this error.
    #[error("the request body broke off")]
    RequestBody(#[source] BoxError),
    /// The host name has no address. The upstream, the provider or the operator of the DNS resolver
    /// is responsible for this error.
    #[error("the host name could not be resolved")]
    Resolve(#[source] io::Error),
    /// The TLS handshake failed, in most cases because the certificate is not trusted. No byte of
    /// the request was sent. The upstream or the provider is responsible for this error.
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The answer is longer than the caller accepts. The provider is responsible for this error.
    #[error("the answer is too large")]
    TooLarge,
    /// The response head has more than this number of fields. The upstream is responsible for this
    /// error. The operator can increase `answer_fields` of the upstream.
    #[error("the answer has more than {0} fields (answer_fields of the upstream)")]
    TooManyFields(usize),
    /// The origin switched to another protocol, but the request did not ask for a switch (RFC 9110
    /// section 15.2.2). The upstream is responsible for this error.
    #[error("the origin switched to another protocol although it was not asked to")]
    UnrequestedUpgrade,
    /// The origin is `https`, but there is no TLS configuration. The request is never sent
    /// unencrypted. The operator is responsible for this error.
    #[error("an https origin has no TLS configuration")]
    Unconfigured,
}

impl Error {
    /// Returns `false` if the gateway has sent no byte of the request to the origin.
    pub(crate) fn may_have_been_processed(&self) -> bool {
        match self {
            Self::Busy
            | Self::Connect(_)
            | Self::ConnectTimeout
            | Self::NoHttp2(_)
            | Self::Proxy { .. }
            | Self::Resolve(_)
            | Self::Tls(_)
            | Self::Unconfigured => false,
            Self::BadSwitch
            | Self::BodyTimeout
            | Self::Broken(_)
            | Self::CallTimeout
            | Self::Evicted(_)
            | Self::Framing
            | Self::HeadTimeout
            | Self::HeadTooLarge(_)
            | Self::Http2(_)
            | Self::RequestBody(_)
            | Self::TooLarge
            | Self::TooManyFields(_)
            | Self::UnrequestedUpgrade => true,
        }
    }

    /// Copies the error of a connection that could not be opened, for another request that waits
    /// for the same connection.
    pub(super) fn of_connecting(&self) -> Self {
        let copy = |source: &io::Error| io::Error::new(source.kind(), source.to_string());
        match self {
            Self::Connect(source) => Self::Connect(copy(source)),
            Self::NoHttp2(source) => Self::NoHttp2(source.to_string().into()),
            Self::Resolve(source) => Self::Resolve(copy(source)),
            Self::Tls(source) => Self::Tls(copy(source)),
            Self::Unconfigured => Self::Unconfigured,
            Self::BadSwitch
            | Self::BodyTimeout
            | Self::Broken(_)
            | Self::Busy
            | Self::CallTimeout
            | Self::ConnectTimeout
            | Self::Evicted(_)
            | Self::Framing
            | Self::HeadTimeout
            | Self::HeadTooLarge(_)
            | Self::Http2(_)
            | Self::Proxy { .. }
            | Self::RequestBody(_)
            | Self::TooLarge
            | Self::TooManyFields(_)
            | Self::UnrequestedUpgrade => Self::ConnectTimeout,
        }
    }
}
