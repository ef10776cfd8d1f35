//! The address and scheme of a client, and the forwarding fields that the app gets.
//!
//! A [`Client`] is read before [`super::inbound`] removes the forwarding fields, and written after
//! it. If it is read too late, it finds no fields and uses the peer of the socket. So the wrong
//! order loses information, but it is never unsafe.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The networks of proxies whose forwarding fields are trusted. By default there are none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct TrustedPeers(Vec<IpNet>);

impl TrustedPeers {
    /// Trusts these networks. A network of IPv4-mapped IPv6 addresses counts as the IPv4 network.
    pub(crate) fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self(networks.into_iter().map(ipv4_network).collect())
    }

    /// Whether the list has no network.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether forwarding fields from `address` are trusted. An IPv4-mapped IPv6 address counts as
    /// the IPv4 address.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// The IPv4 network that a network of IPv4-mapped IPv6 addresses represents. Other networks are
/// returned unchanged.
fn ipv4_network(network: IpNet) -> IpNet {
    /// Bits before the IPv4 address in an IPv4-mapped address (RFC 4291 section 2.5.5.2).
    const BEFORE: u8 = 96;
    let mapped = |network: Ipv6Net| {
        let address = network.addr().to_ipv4_mapped()?;
        let length = network.prefix_len().checked_sub(BEFORE)?;
        Ipv4Net::new(address, length).ok().map(IpNet::V4)
    };
    match network {
        IpNet::V4(_) => network,
        IpNet::V6(wide) => mapped(wide).unwrap_or(network),
    }
}

/// The scheme that a client uses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The scheme's name, as in a URI.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let all = [Self::Http, Self::Https];
        all.into_iter()
            .find(|scheme| text.eq_ignore_ascii_case(scheme.as_str().as_bytes()))
    }
}

/// The other end of a connection. It is created once for all requests of the connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    address: IpAddr,
    value: HeaderValue,
}

impl Peer {
    /// A peer with this address. A peer without an address, as on a Unix socket, counts as
    /// loopback.
    pub(crate) fn new(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self {
            address,
            value: address_value(&address.to_string()),
        }
    }

    /// The peer's address.
    pub(crate) const fn address(&self) -> IpAddr {
        self.address
    }
}

/// The client of one request, after the check of which peers are trusted.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    address: IpAddr,
    scheme: Scheme,
    chain: HeaderValue,
}

impl Client {
    /// Finds the client of a request. Its peer sent the request by `scheme`. Call this function
    /// before [`super::inbound`].
    ///
    /// If the peer is not in `trusted`, no field is read. Otherwise the client is the right-most
    /// address in `X-Forwarded-For` that is not itself trusted, or the left-most address if all are
    /// trusted. The scheme is the last value of `X-Forwarded-Proto`, because the peer itself has
    /// written that value. If the part of the list that is read contains anything but addresses,
    /// the client is the peer.
    pub(crate) fn read(
        peer: &Peer,
        scheme: Scheme,
        headers: &HeaderMap,
        trusted: &TrustedPeers,
    ) -> Self {
        let mut client = Self {
            address: peer.address,
            scheme,
            chain: peer.value.clone(),
        };
        if !trusted.contains(peer.address) {
            return client;
        }
        if let Some(written) = headers.get_all(&X_FORWARDED_PROTO).iter().next_back() {
            let last = written
                .as_bytes()
                .rsplit(|byte| *byte == b',')
                .next()
                .unwrap_or_default();
            client.scheme = Scheme::parse(last.trim_ascii()).unwrap_or(scheme);
        }
        if let Some(known) = forwarded_chain(headers, trusted) {
            client.address = known.first().copied().unwrap_or(peer.address);
            let addresses = known.iter().chain([&peer.address]).map(IpAddr::to_string);
            client.chain = address_value(&addresses.collect::<Vec<_>>().join(", "));
        }
        client
    }

    /// The client's address.
    pub(crate) const fn address(&self) -> IpAddr {
        self.address
    }

    /// The scheme that the client uses.
    #[cfg(test)]
    pub(crate) const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Writes `X-Forwarded-For`, `-Proto` and `-Host` into the forwarded request, one line each.
    /// Call this function after [`super::inbound`]. `host` is the canonical authority of the
    /// request's target.
    ///
    /// The first address of `X-Forwarded-For` is always [`Client::address`]. The addresses to the
    /// left of it came from the client and are dropped. The peer is the last address.
    pub(crate) fn write(&self, headers: &mut HeaderMap, host: &HeaderValue) {
        headers.insert(X_FORWARDED_FOR, self.chain.clone());
        headers.insert(
            X_FORWARDED_PROTO,
            HeaderValue::from_static(self.scheme.as_str()),
        );
        headers.insert(X_FORWARDED_HOST, host.clone());
    }
}

/// The addresses from the client up to the one next to the peer. `None` if the field is missing or
/// contains something that is not an address.
fn forwarded_chain(headers: &HeaderMap, trusted: &TrustedPeers) -> Option<Vec<IpAddr>> {
    // From right to left, because each proxy appends the address of its own peer. Only the right
    // part comes from proxies that are trusted.
    let lines = headers.get_all(&X_FORWARDED_FOR).iter().rev();
    let members = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let mut known = Vec::new();
    for member in members {
        let address = parse_address(member.trim_ascii())?;
        known.push(address);
        if !trusted.contains(address) {
            break;
        }
    }
    known.reverse();
    (!known.is_empty()).then_some(known)
}

/// Reads an address as proxies write it: possibly with brackets or a port.
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if text.contains('%') {
        // A zone has a meaning only on the machine that wrote it.
        return None;
    }
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address: IpAddr = text.parse().ok().or_else(in_brackets).or_else(with_port)?;
    Some(address.to_canonical())
}

fn address_value(text: &str) -> HeaderValue {
    // The text has only digits, letters, dots, colons and commas, so it is a valid field value.
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"))
}
