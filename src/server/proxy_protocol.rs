//! The header of the PROXY protocol (versions 1 and 2), in which a load balancer in front of the
//! gateway states the address of the client. The header comes before TLS.
//!
//! The specification is `proxy-protocol.txt` of `HAProxy`. The gateway reads only the addresses. The
//! reader consumes exactly the bytes of the header, because the next bytes belong to TLS or HTTP.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::deadline::ConnectionState;
use crate::fields::forwarded::TrustedPeers;
use crate::telemetry::EventLimiter;

/// The first bytes of a version 2 header.
pub(super) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The maximum length of a version 1 header, with its line break.
const LONGEST_LINE: usize = 107;
/// The maximum length of the part of a version 2 header after its first 16 bytes. This part contains
/// the addresses, and additional values that the gateway ignores.
const LONGEST_CONTENT: usize = 4096;
/// The pause between two warnings about one network peer.
const WARNING_PAUSE: Duration = Duration::from_mins(1);

/// The networks whose connections begin with a PROXY header.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProxyNetworks(Option<Arc<Announcers>>);

#[derive(Debug)]
struct Announcers {
    networks: TrustedPeers,
    warnings: EventLimiter,
}

impl ProxyNetworks {
    /// Creates the list. On connections from other networks, a PROXY header is not accepted.
    pub(crate) fn new(networks: TrustedPeers) -> Self {
        let announcers = Announcers {
            networks,
            warnings: EventLimiter::new(WARNING_PAUSE),
        };
        Self((!announcers.networks.is_empty()).then(|| Arc::new(announcers)))
    }

    /// Whether a connection from `peer` begins with a PROXY header.
    pub(super) fn contain(&self, peer: SocketAddr) -> bool {
        let announcers = self.0.as_ref();
        announcers.is_some_and(|announcers| announcers.networks.contains(peer.ip()))
    }

    /// Logs that the connection from `peer` has no valid header. The log contains at most one
    /// warning per minute for one address.
    fn warn(&self, peer: SocketAddr, error: &HeaderError, now: Duration) {
        if let Some(announcers) = &self.0
            && announcers.warnings.is_due(peer.ip(), now)
        {
            tracing::warn!(
                client.address = %peer.ip(),
                %error,
                "Connection from a network of server.proxy_protocol has no valid PROXY header"
            );
        }
    }
}

/// The reason why the gateway closes a connection that must begin with a PROXY header.
///
/// Responsible: the load balancer, or the operator who has listed its network.
#[derive(Debug, thiserror::Error)]
enum HeaderError {
    /// The first bytes do not belong to a PROXY header.
    #[error("the connection does not begin with a PROXY header")]
    Absent,
    /// The load balancer has closed the connection, or the connection is broken.
    #[error("the connection ended before the PROXY header was complete")]
    Ended(#[source] io::Error),
    /// The header violates the specification, or names another kind of address.
    #[error("the PROXY header is invalid")]
    Invalid,
    /// The header is longer than the gateway accepts.
    #[error("the PROXY header is too long")]
    TooLong,
}

/// Reads the header at the start of a connection. Returns the connection, and the address that the
/// header states. Returns `None` if there is no valid header, or if the connection has to close
/// before the header is complete.
///
/// # Cancel safety
///
/// Dropping the future closes the connection. The sweep drops the future if the header is not
/// complete at the deadline for the first byte.
pub(super) async fn read_header(
    state: &ConnectionState,
    mut stream: TcpStream,
    proxies: &ProxyNetworks,
) -> Option<(TcpStream, Option<SocketAddr>)> {
    let read = {
        let mut reading = pin!(read(&mut stream));
        poll_fn(|cx| {
            // The header is read first, so that a client whose bytes have already arrived gets an
            // answer during a drain.
            if let Poll::Ready(read) = reading.as_mut().poll(cx) {
                return Poll::Ready(Some(read));
            }
            state.set_waker(cx.waker());
            if state.is_closing() {
                Poll::Ready(None)
            } else {
                Poll::Pending
            }
        })
        .await?
    };
    match read {
        Ok(stated) => Some((stream, stated)),
        Err(error) => {
            proxies.warn(state.peer, &error, state.clock().since_epoch());
            None
        }
    }
}

/// Reads the header. Returns the address of the client. Returns `None` if the header states no
/// address, for example because the load balancer itself checks whether the gateway is alive.
async fn read(stream: &mut TcpStream) -> Result<Option<SocketAddr>, HeaderError> {
    // The shortest header has 15 bytes, so the first 12 bytes always belong to the header.
    let mut first = [0; SIGNATURE.len()];
    let read = stream.read_exact(&mut first).await;
    read.map_err(HeaderError::Ended)?;
    if first == SIGNATURE {
        read_binary(stream).await
    } else if first.starts_with(b"PROXY ") {
        read_line(stream, &first).await
    } else {
        Err(HeaderError::Absent)
    }
}

/// Reads the rest of a version 2 header.
async fn read_binary(stream: &mut TcpStream) -> Result<Option<SocketAddr>, HeaderError> {
    let mut head = [0; 4];
    let read = stream.read_exact(&mut head).await;
    read.map_err(HeaderError::Ended)?;
    let [command, family, high, low] = head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST_CONTENT {
        return Err(HeaderError::TooLong);
    }
    let mut content = vec![0; length];
    let read = stream.read_exact(&mut content).await;
    read.map_err(HeaderError::Ended)?;
    match (command, family) {
        // The command LOCAL (the load balancer itself opened the connection), or an unknown kind of
        // address.
        (0x20, _) | (0x21, 0x00) => Ok(None),
        (0x21, 0x11) => {
            let address = source::<4>(&content, 8);
            address.map(Some).ok_or(HeaderError::Invalid)
        }
        (0x21, 0x21) => {
            let address = source::<16>(&content, 32);
            address.map(Some).ok_or(HeaderError::Invalid)
        }
        _ => Err(HeaderError::Invalid),
    }
}

/// Returns the source address of a version 2 header, whose addresses have `SIZE` bytes each. The
/// source port is at `port_at`. The destination port follows the source port.
fn source<const SIZE: usize>(content: &[u8], port_at: usize) -> Option<SocketAddr>
where
    IpAddr: From<[u8; SIZE]>,
{
    let address = *content.first_chunk::<SIZE>()?;
    let ports = content.get(port_at..)?.first_chunk::<4>()?;
    let [high, low, ..] = *ports;
    let port = u16::from_be_bytes([high, low]);
    Some(SocketAddr::new(IpAddr::from(address), port))
}

/// Reads the rest of a version 1 header, whose first bytes are in `first`.
async fn read_line(
    stream: &mut TcpStream,
    first: &[u8],
) -> Result<Option<SocketAddr>, HeaderError> {
    let mut line = first.to_vec();
    loop {
        let room = LONGEST_LINE.saturating_sub(line.len());
        if room == 0 {
            return Err(HeaderError::TooLong);
        }
        // `peek` shows the bytes that have arrived. The bytes after the line break must stay in the
        // socket.
        let mut arrived = [0; LONGEST_LINE];
        let arrived = arrived.get_mut(..room).unwrap_or_default();
        let count = stream.peek(arrived).await.map_err(HeaderError::Ended)?;
        let arrived = arrived.get(..count).unwrap_or_default();
        if arrived.is_empty() {
            let ended = io::ErrorKind::UnexpectedEof.into();
            return Err(HeaderError::Ended(ended));
        }
        let end = arrived.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(count, |end| end.saturating_add(1));
        let mut part = vec![0; taken];
        let read = stream.read_exact(&mut part).await;
        read.map_err(HeaderError::Ended)?;
        line.extend_from_slice(&part);
        if end.is_some() {
            return parse_line(&line);
        }
    }
}

/// Parses a version 1 header, such as `PROXY TCP4 192.0.2.1 192.0.2.2 40000 443`.
fn parse_line(line: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    let text = line.strip_suffix(b"\r\n").ok_or(HeaderError::Invalid)?;
    let text = std::str::from_utf8(text).map_err(|_error| HeaderError::Invalid)?;
    let mut words = text.split(' ').skip(1);
    let is_known = match words.next() {
        Some("UNKNOWN") => return Ok(None),
        Some("TCP4") => IpAddr::is_ipv4,
        Some("TCP6") => IpAddr::is_ipv6,
        Some(_) | None => return Err(HeaderError::Invalid),
    };
    let mut address = || {
        let address: IpAddr = words.next()?.parse().ok()?;
        is_known(&address).then_some(address)
    };
    let addresses = (address(), address());
    let mut port = || {
        let text = words.next()?;
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let has_zero = text.len() > 1 && text.starts_with('0');
        let port: u16 = text.parse().ok()?;
        (is_number && !has_zero).then_some(port)
    };
    match (addresses, port(), port(), words.next()) {
        ((Some(source), Some(_)), Some(port), Some(_), None) => {
            Ok(Some(SocketAddr::new(source, port)))
        }
        _ => Err(HeaderError::Invalid),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// The result of the reader for these bytes, and the bytes that the reader left in the socket.
    /// The client sends the bytes in these pieces, and then closes the connection.
    async fn read_pieces(pieces: &[&[u8]]) -> (Result<Option<SocketAddr>, String>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        client.set_nodelay(true).unwrap();
        let (mut stream, _peer) = listener.accept().await.unwrap();
        let sending = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
        };
        let (result, ()) = tokio::join!(super::read(&mut stream), sending);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        (result.map_err(|error| error.to_string()), rest)
    }

    async fn read(bytes: &[u8]) -> Result<Option<SocketAddr>, String> {
        read_pieces(&[bytes]).await.0
    }

    fn binary(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, content].concat()
    }

    const IPV4: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0x9c, 0x40, 1, 187];

    fn ipv6() -> Vec<u8> {
        let address = |last| [[0x20, 1, 0xd, 0xb8].as_slice(), &[0; 11], &[last]].concat();
        [address(1), address(2), vec![0x9c, 0x40, 1, 187]].concat()
    }

    #[tokio::test]
    async fn a_header_states_the_address_of_the_client() {
        let ipv4_with_more = [&IPV4[..], &[0x04, 0, 2, 1, 2]].concat();
        for (bytes, address) in [
            (
                b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n".to_vec(),
                Some("192.0.2.1:40000"),
            ),
            (
                b"PROXY TCP6 2001:db8::1 2001:db8::2 40000 443\r\n".to_vec(),
                Some("[2001:db8::1]:40000"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN 1 2 3 anything\r\n".to_vec(), None),
            (binary(0x21, 0x11, &IPV4), Some("192.0.2.1:40000")),
            (binary(0x21, 0x11, &ipv4_with_more), Some("192.0.2.1:40000")),
            (binary(0x21, 0x21, &ipv6()), Some("[2001:db8::1]:40000")),
            (binary(0x20, 0x00, &[]), None),
            (binary(0x20, 0x11, &IPV4), None),
            (binary(0x21, 0x00, &[7; 40]), None),
            (binary(0x20, 0x00, &[7; LONGEST_CONTENT]), None),
        ] {
            let address = address.map(|address| address.parse().unwrap());
            let shown = String::from_utf8_lossy(&bytes);
            assert_eq!(read(&bytes).await, Ok(address), "{shown}");
        }
    }

    #[tokio::test]
    async fn x_21_a_header_in_pieces_leaves_the_bytes_after_it() {
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n";
        let binary = binary(0x21, 0x11, &IPV4);
        let expected = Ok(Some("192.0.2.1:40000".parse().unwrap()));
        for header in [&line[..], &binary] {
            let all = [header, b"GET / HTTP/1.1\r\n"].concat();
            for cut in 0..all.len() {
                let (before, after) = all.split_at(cut);
                let (address, rest) = read_pieces(&[before, after]).await;
                assert_eq!(address, expected, "{cut}");
                assert_eq!(rest, b"GET / HTTP/1.1\r\n", "{cut}");
            }
            let single: Vec<&[u8]> = all.chunks(1).collect();
            let (address, rest) = read_pieces(&single).await;
            assert_eq!(
                (address, &*rest),
                (expected.clone(), &b"GET / HTTP/1.1\r\n"[..])
            );
        }
    }

    #[tokio::test]
    async fn x_22_an_invalid_header_is_refused() {
        let invalid = HeaderError::Invalid.to_string();
        for text in [
            "PROXY TCP4 192.0.2.1 192.0.2.2 40000\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 40000 443 5\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 40000 443 \r\n",
            "PROXY  TCP4 192.0.2.1 192.0.2.2 40000 443\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 40000 443\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 40000 443\r\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 40000 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +4000 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 040000 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 70000 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\n",
            "PROXY TCP6 fe80::1%eth0 2001:db8::2 40000 443\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 40000 443\r\n",
            "PROXY tcp4 192.0.2.1 192.0.2.2 40000 443\r\n",
            "PROXY TCP4 \u{661}92.0.2.1 192.0.2.2 4 443\r\n",
        ] {
            assert_eq!(read(text.as_bytes()).await, Err(invalid.clone()), "{text}");
        }
        for bytes in [
            binary(0x21, 0x11, &IPV4[..11]),
            binary(0x21, 0x21, &IPV4),
            // Another version, another command, a datagram, a Unix socket.
            binary(0x11, 0x11, &IPV4),
            binary(0x22, 0x11, &IPV4),
            binary(0x21, 0x12, &IPV4),
            binary(0x21, 0x31, &[0; 216]),
        ] {
            assert_eq!(read(&bytes).await, Err(invalid.clone()), "{bytes:?}");
        }
        for (bytes, error) in [
            (
                b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
                HeaderError::Absent,
            ),
            (b"PROXYTCP4 192.0.2.1 \r\n".to_vec(), HeaderError::Absent),
            (
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00".to_vec(),
                HeaderError::Absent,
            ),
            (
                [&b"PROXY UNKNOWN "[..], &[b'x'; 100]].concat(),
                HeaderError::TooLong,
            ),
            (
                binary(0x20, 0, &[0; LONGEST_CONTENT + 1]),
                HeaderError::TooLong,
            ),
        ] {
            assert_eq!(read(&bytes).await, Err(error.to_string()), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn x_22_a_header_that_is_cut_is_refused() {
        let ended = HeaderError::Ended(io::ErrorKind::UnexpectedEof.into()).to_string();
        let cut = binary(0x21, 0x11, &IPV4);
        for bytes in [
            &b""[..],
            b"PROXY",
            b"PROXY TCP4 192.0.2.1",
            &cut[..14],
            &cut[..20],
        ] {
            assert_eq!(read(bytes).await, Err(ended.clone()), "{bytes:?}");
        }
    }
}
