//! Where a client is, and what the upstream is told about it.
//!
//! A [`Client`] is read from the request as it came, before [`super::inbound`] strips the
//! forwarding fields, and written after it. Read too late it sees no fields and falls back to the
//! socket's peer: the wrong order loses knowledge, never safety.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The networks of proxies whose forwarding fields are believed. Nobody's, by default.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct TrustedPeers(Vec<IpNet>);

impl TrustedPeers {
    /// Trusts these networks. One of IPv4 addresses that are mapped into IPv6 counts as what it is.
    pub(crate) fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self(networks.into_iter().map(unmapped).collect())
    }

    /// Whether nobody is trusted.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether forwarding fields from `address` are believed. An IPv4 address that is mapped into
    /// IPv6 counts as what it is.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// The network of IPv4 addresses that one of mapped addresses means.
fn unmapped(network: IpNet) -> IpNet {
    /// Bits before the IPv4 address in a mapped one (RFC 4291 section 2.5.5.2).
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

/// The scheme by which a client speaks to the site.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The scheme's name in a URI.
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

/// The other end of one connection, prepared once for all its requests.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    address: IpAddr,
    value: HeaderValue,
}

impl Peer {
    /// The socket's peer. A peer without an address (a unix socket) is the loopback address.
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

/// The client of one request, after the rule of trust.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    address: IpAddr,
    scheme: Scheme,
    chain: HeaderValue,
}

impl Client {
    /// Finds out where a request comes from that its peer sent by `scheme`. Call it before
    /// [`super::inbound`].
    ///
    /// From a peer that is not in `trusted` no field is looked at. Otherwise the client is the
    /// right-most address in `X-Forwarded-For` that is not trusted itself (the left-most of all
    /// if all are), and the scheme is the last value of `X-Forwarded-Proto`, the one that the
    /// peer itself has written. A list with anything but addresses in the part that is read says
    /// nothing: the client is the peer then.
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
        if let Some(known) = known_chain(headers, trusted) {
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

    /// The scheme by which the client speaks to the site.
    #[cfg(test)]
    pub(crate) const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Writes `X-Forwarded-For`, `-Proto` and `-Host` of the forwarded request, one line each. Call
    /// it after [`super::inbound`]; `host` is the canonical authority of the request's target.
    ///
    /// The first address of `X-Forwarded-For` is always [`Client::address`]: what stands left of
    /// it came from the client and is not passed on. The peer comes last.
    pub(crate) fn write(&self, headers: &mut HeaderMap, host: &HeaderValue) {
        headers.insert(X_FORWARDED_FOR, self.chain.clone());
        headers.insert(
            X_FORWARDED_PROTO,
            HeaderValue::from_static(self.scheme.as_str()),
        );
        headers.insert(X_FORWARDED_HOST, host.clone());
    }
}

/// The addresses from the client's to the one next to the peer; `None` when the fields say
/// nothing or something that is no address.
fn known_chain(headers: &HeaderMap, trusted: &TrustedPeers) -> Option<Vec<IpAddr>> {
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

/// An address, perhaps in brackets and perhaps with a port, as proxies write it.
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if text.contains('%') {
        // A zone means something on the machine that wrote it, and nothing here.
        return None;
    }
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address: IpAddr = text.parse().ok().or_else(in_brackets).or_else(with_port)?;
    Some(address.to_canonical())
}

fn address_value(text: &str) -> HeaderValue {
    // Digits, letters, dots, colons and commas are always a field value.
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"))
}
