//! Opens connections: name look-up, TCP and TLS.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::AlertDescription;
use rustls::pki_types::{CertificateDer, ServerName};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::answer_head::AnswerLimits;
use super::error::Error;
use super::name::Origin;
use super::protocol::Protocol;
use super::proxy::Proxy;
use super::race::race;
use super::resolver::Resolver;
use super::trailers::DroppedTrailers;
use crate::relay::{self, Duplex};
use crate::tls::{self, Trust};

/// Opens connections to one origin.
pub(crate) struct Connector {
    origin: Origin,
    tls: Option<(Trust, ServerName<'static>)>,
    deadline: Duration,
    protocol: Protocol,
    title_case: bool,
    answer_limits: AnswerLimits,
    proxy: Option<Proxy>,
    resolver: Resolver,
    dropped_trailers: Arc<DroppedTrailers>,
}

impl Connector {
    /// Creates a connector for `origin`. If `origin` is `https`, the connector trusts the
    /// certificates in `trust`. `deadline` limits name look-up, connection and TLS handshake
    /// together. The connector reads `trust` again for each new connection, so a change of the
    /// certificate authorities applies to all later connections.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Unconfigured`] if the origin is `https` and `trust` is `None`.
    pub(crate) fn new(
        origin: Origin,
        trust: Option<Trust>,
        deadline: Duration,
    ) -> Result<Self, Error> {
        let tls = if origin.is_encrypted() {
            let trust = trust.ok_or(Error::Unconfigured)?;
            let name = trust.server_name().cloned();
            let name = name.or_else(|| origin.server_name());
            let name = name.ok_or(Error::Unconfigured)?;
            Some((trust, name))
        } else {
            None
        };
        let dropped_trailers = Arc::new(DroppedTrailers::new(origin.clone()));
        Ok(Self {
            origin,
            tls,
            deadline,
            protocol: Protocol::Http1,
            title_case: false,
            answer_limits: AnswerLimits::default(),
            proxy: None,
            resolver: Resolver::default(),
            dropped_trailers,
        })
    }

    /// Sets the HTTP version that the connections use. The default is HTTP/1.1.
    pub(crate) fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Sets whether the field names of HTTP/1.1 requests begin each word with a capital letter. By
    /// default, field names are in lower case.
    pub(crate) fn with_title_case(mut self, title_case: bool) -> Self {
        self.title_case = title_case;
        self
    }

    /// Whether the field names of HTTP/1.1 requests begin each word with a capital letter.
    pub(super) fn uses_title_case(&self) -> bool {
        self.title_case
    }

    /// Sets the limits for the heads of the answers.
    pub(crate) fn with_answer_limits(mut self, limits: AnswerLimits) -> Self {
        self.answer_limits = limits;
        self
    }

    /// The limits for the heads of the answers.
    pub(super) fn answer_limits(&self) -> AnswerLimits {
        self.answer_limits
    }

    /// Sets the proxy through which connections are opened. By default, connections use no proxy.
    pub(crate) fn with_proxy(mut self, proxy: Option<Proxy>) -> Self {
        self.proxy = proxy;
        self
    }

    /// Replaces the default resolver, which is the resolver of the operating system.
    #[cfg(test)]
    pub(super) fn with_resolver(mut self, resolver: Resolver) -> Self {
        self.resolver = resolver;
        self
    }

    /// Returns the proxy that receives the requests for an unencrypted origin. Returns `None` for
    /// an encrypted origin, because the proxy only opens a tunnel to this origin.
    pub(super) fn forwarding_proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| self.tls.is_none())
    }

    /// Whether connections are opened through a proxy.
    pub(super) fn has_proxy(&self) -> bool {
        self.proxy.is_some()
    }

    /// If the connector has a proxy, and `error` states that the gateway could not connect to the
    /// proxy, adds the name of the proxy to `error`.
    pub(super) fn explain(&self, error: Error) -> Error {
        match &self.proxy {
            Some(proxy) => proxy.explain(error),
            None => error,
        }
    }

    /// The HTTP version that the connections use.
    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The limit on the total time of name look-up, TCP connection and TLS handshake.
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// The origin to which this connector connects.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Returns the value that logs a warning when the gateway drops trailers of a request to this
    /// origin or of a response from this origin.
    pub(super) fn dropped_trailers(&self) -> &Arc<DroppedTrailers> {
        &self.dropped_trailers
    }

    /// Opens a connection. The name is looked up for each connection, because the origin may get
    /// another address.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Resolve`], [`Error::Connect`], [`Error::Tls`], [`Error::NoHttp2`] or
    /// [`Error::ConnectTimeout`]. If the connector has a proxy, this function can also return
    /// [`Error::Proxy`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes all sockets that the future has opened.
    pub(crate) async fn connect(&self) -> Result<Stream, Error> {
        let opened = timeout(self.deadline, self.open()).await;
        let opened = opened.unwrap_or(Err(Error::ConnectTimeout));
        opened.map_err(|error| self.explain(error))
    }

    async fn open(&self) -> Result<Stream, Error> {
        let hop = self.proxy.as_ref().map_or(&self.origin, Proxy::origin);
        let addresses = self.resolver.look_up(hop.host(), hop.port()).await;
        let addresses = addresses.map_err(Error::Resolve)?;
        let mut stream = race(addresses, TcpStream::connect)
            .await
            .map_err(Error::Connect)?;
        // Without `TCP_NODELAY`, a request could wait until earlier bytes are acknowledged (Nagle's
        // algorithm).
        stream.set_nodelay(true).map_err(Error::Connect)?;
        let Some((trust, name)) = &self.tls else {
            return Ok(Stream::Plain(stream));
        };
        if let Some(proxy) = &self.proxy {
            proxy.open_tunnel(&mut stream, &self.origin).await?;
        }
        let connector = TlsConnector::from(trust.client_config());
        let stream = match self.protocol {
            Protocol::Http1 => connector.connect(name.clone(), stream).await,
            Protocol::Http2 => {
                let connector = connector.with_alpn(vec![HTTP2.to_vec()]);
                connector.connect(name.clone(), stream).await
            }
        };
        let stream = stream.map_err(tls_error)?;
        let chosen = stream.get_ref().1.alpn_protocol();
        if self.protocol == Protocol::Http2 && chosen != Some(HTTP2) {
            return Err(Error::NoHttp2(
                "the ALPN protocol `h2` was not chosen".into(),
            ));
        }
        Ok(Stream::Tls(Box::new(stream)))
    }
}

/// The name of HTTP/2 over TLS in ALPN (RFC 9113 section 3.1).
const HTTP2: &[u8] = b"h2";

/// Classifies an error of a TLS handshake. A server that supports no protocol in the client's ALPN
/// list must send the alert `no_application_protocol` (RFC 7301 section 3.2).
fn tls_error(error: io::Error) -> Error {
    let source = error.get_ref().and_then(|source| source.downcast_ref());
    match source {
        Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            Error::NoHttp2(error.into())
        }
        Some(refused) => Error::Tls(match tls::AdvisedError::of(refused) {
            Some(advised) => io::Error::new(error.kind(), advised),
            None => error,
        }),
        None => Error::Tls(error),
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector")
            .field("origin", &self.origin)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// A connection to an origin.
#[derive(Debug)]
pub(crate) enum Stream {
    /// An unencrypted connection to an `http` origin.
    Plain(TcpStream),
    /// A TLS connection to an `https` origin. The certificate was verified.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Returns the certificate that the server has sent. Returns `None` if the connection does not
    /// use TLS.
    pub(super) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.peer_certificates()?.first(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl Duplex for Stream {
    fn reset_on_close(&self) {
        let socket = SockRef::from(self.socket());
        // If the operating system refuses the option `SO_LINGER`, the socket is closed without a
        // reset.
        socket.set_linger(Some(Duration::ZERO)).unwrap_or_default();
    }

    fn limit_unsent(&self, bytes: usize) {
        relay::limit_unsent(&SockRef::from(self.socket()), bytes);
    }
}
