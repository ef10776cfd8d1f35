//! Opens connections: name look-up, TCP and TLS.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::AlertDescription;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::Error;
use super::name::Origin;
use super::protocol::Protocol;
use super::trailers::DroppedTrailers;
use crate::relay::{self, Duplex};
use crate::tls::Trust;

/// The delay between the start of one connection attempt and the start of the next, parallel
/// attempt (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Opens connections to one origin.
pub(crate) struct Connector {
    origin: Origin,
    tls: Option<(Trust, ServerName<'static>)>,
    deadline: Duration,
    protocol: Protocol,
    dropped_trailers: Arc<DroppedTrailers>,
}

impl Connector {
    /// Creates a connector for `origin`. If `origin` is `https`, the connector trusts the
    /// authorities in `trust`. `deadline` limits the total time of name look-up, TCP connection and
    /// TLS handshake. Each new connection uses the current authorities in `trust`.
    ///
    /// # Errors
    ///
    /// [`Error::Unconfigured`] if the origin is `https` and `trust` is `None`.
    pub(crate) fn new(
        origin: Origin,
        trust: Option<Trust>,
        deadline: Duration,
    ) -> Result<Self, Error> {
        let tls = if origin.is_encrypted() {
            let trust = trust.ok_or(Error::Unconfigured)?;
            let name = origin.server_name().ok_or(Error::Unconfigured)?;
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
            dropped_trailers,
        })
    }

    /// Sets the version of HTTP of the connections. The default is HTTP/1.1.
    pub(crate) fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// The version of HTTP of the connections.
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

    /// Returns the value that logs when trailers to or from this origin are dropped.
    pub(super) fn dropped_trailers(&self) -> &Arc<DroppedTrailers> {
        &self.dropped_trailers
    }

    /// Opens a connection. The name is looked up for each connection, because the origin may get
    /// another address.
    ///
    /// # Errors
    ///
    /// [`Error::Resolve`], [`Error::Connect`], [`Error::Tls`], [`Error::NoHttp2`],
    /// [`Error::ConnectTimeout`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes all sockets that the future has opened.
    pub(crate) async fn connect(&self) -> Result<Stream, Error> {
        timeout(self.deadline, self.open())
            .await
            .map_err(|_elapsed| Error::ConnectTimeout)?
    }

    async fn open(&self) -> Result<Stream, Error> {
        let addresses: Vec<SocketAddr> = lookup_host((self.origin.host(), self.origin.port()))
            .await
            .map_err(Error::Resolve)?
            .collect();
        let stream = race(addresses).await.map_err(Error::Connect)?;
        // Without this option, the kernel could delay a request until the origin has acknowledged
        // earlier bytes (Nagle's algorithm).
        stream.set_nodelay(true).map_err(Error::Connect)?;
        let Some((trust, name)) = &self.tls else {
            return Ok(Stream::Plain(stream));
        };
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
        _ => Error::Tls(error),
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

/// Connects to several addresses in parallel, and returns the first connection that opens. Each
/// address is tried [`STAGGER`] after the previous address, or immediately after a failure.
async fn race(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = interleaved(addresses).into_iter();
    let mut attempts = JoinSet::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    while let Some(address) = waiting.next() {
        // If only one address is left and no attempt is running, no second task is needed.
        if waiting.as_slice().is_empty() && attempts.is_empty() {
            return TcpStream::connect(address).await;
        }
        attempts.spawn(TcpStream::connect(address));
        // If the attempt has no result after `STAGGER`, the attempt continues, and the gateway also
        // tries the next address.
        if let Ok(Some(outcome)) = timeout(STAGGER, attempts.join_next()).await {
            match outcome.unwrap_or_else(|aborted| Err(io::Error::other(aborted))) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
    }
    while let Some(outcome) = attempts.join_next().await {
        match outcome.unwrap_or_else(|aborted| Err(io::Error::other(aborted))) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Returns the addresses in the resolver's order, except that IPv6 and IPv4 addresses alternate
/// (RFC 8305 section 4).
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (same, other): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let mut other = other.into_iter();
    let mut order = Vec::new();
    for address in same {
        order.push(address);
        order.extend(other.next());
    }
    order.extend(other);
    order
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
        // If the operating system refuses the socket option, the socket is closed without a reset.
        socket.set_linger(Some(Duration::ZERO)).unwrap_or_default();
    }

    fn limit_unsent(&self, bytes: usize) {
        relay::limit_unsent(SockRef::from(self.socket()), bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_families_alternate() {
        let addresses = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "1.1.1.2:1"];
        let addresses = addresses.map(|address| address.parse().unwrap()).to_vec();
        let order = ["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "[::3]:1"];
        let order = order.map(|address| address.parse::<SocketAddr>().unwrap());
        assert_eq!(interleaved(addresses), order);
    }

    #[tokio::test]
    async fn after_a_refused_address_the_next_one_is_tried() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let refusing = SocketAddr::from(([127, 0, 0, 2], open.port()));
        let stream = race(vec![refusing, open]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        assert!(race(vec![refusing]).await.is_err());
        assert!(race(Vec::new()).await.is_err());
    }
}
