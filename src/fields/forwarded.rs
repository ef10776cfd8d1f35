//! The address and scheme of a client, and the forwarding fields that the app gets.
//!
//! [`Client::read`] must run before [`super::inbound`] removes the forwarding fields, and
//! [`Client::write`] must run after [`super::inbound`]. If [`Client::read`] runs after
//! [`super::inbound`], [`Client::read`] finds no forwarding fields and uses the address of the
//! peer. If [`Client::read`] runs too late, the gateway loses information, but never trusts a
//! forged address.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The fields that a proxy adds to the requests of its clients.
const PROXY_FIELDS: [HeaderName; 5] = [
    HeaderName::from_static("forwarded"),
    HeaderName::from_static("via"),
    X_FORWARDED_FOR,
    X_FORWARDED_HOST,
    HeaderName::from_static("x-real-ip"),
];

/// The networks of the proxies whose forwarding fields are trusted. By default no network is
/// trusted.
///
/// Some networks contain almost every address ([`TrustedPeers::widest`]). The operator lists them if
/// only the proxies can connect to the gateway. They show that the peer is a proxy, but they do not
/// show which addresses in `X-Forwarded-For` are proxies.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct TrustedPeers {
    networks: Vec<IpNet>,
    is_wide: bool,
}

impl TrustedPeers {
    /// Creates the list of trusted networks. A network of IPv4-mapped IPv6 addresses is handled as
    /// the IPv4 network.
    pub(crate) fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        let mut peers = Self {
            networks: networks.into_iter().map(ipv4_network).collect(),
            is_wide: false,
        };
        peers.is_wide = peers.widest().is_some();
        peers
    }

    /// Returns a network that is inside these networks and is wider than every private network
    /// (`10.0.0.0/8` and `fc00::/7`), if there is one. Such a network contains many clients that
    /// nobody knows.
    pub(crate) fn widest(&self) -> Option<IpNet> {
        let is_wide = |network: &IpNet| match network {
            IpNet::V4(network) => network.prefix_len() < 8,
            IpNet::V6(network) => network.prefix_len() < 7,
        };
        // Two halves of a network are the whole network.
        IpNet::aggregate(&self.networks).into_iter().find(is_wide)
    }

    /// Returns true if no network is trusted.
    pub(crate) fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// Returns the first network that is not inside a network of `other`.
    pub(crate) fn first_outside(&self, other: &Self) -> Option<IpNet> {
        let is_inside = |inner: &IpNet| other.networks.iter().any(|outer| outer.contains(inner));
        let mut networks = self.networks.iter();
        networks.find(|network| !is_inside(network)).copied()
    }

    /// Returns true if forwarding fields from `address` are trusted. An IPv4-mapped IPv6 address is
    /// handled as the IPv4 address.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let mut networks = self.networks.iter();
        networks.any(|network| network.contains(&address))
    }

    /// Returns true if an address in `X-Forwarded-For` is certainly the address of a proxy.
    fn knows_proxy(&self, address: IpAddr) -> bool {
        !self.is_wide && self.contains(address)
    }
}

/// Parses a network, or an address, which stands for the network that contains only this address.
pub(crate) fn parse_network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_not_a_network| address()).ok()
}

/// Returns the IPv4 network that a network of IPv4-mapped IPv6 addresses represents. Returns other
/// networks unchanged.
fn ipv4_network(network: IpNet) -> IpNet {
    /// The number of bits before the IPv4 address in an IPv4-mapped address (RFC 4291 section
    /// 2.5.5.2).
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
    /// HTTP without TLS.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// Returns the scheme's name, as in a URI.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Returns the scheme's name as a field value.
    fn value(self) -> HeaderValue {
        // Constants, because `from_static` would otherwise check the text at each call.
        const HTTP: HeaderValue = HeaderValue::from_static(Scheme::Http.as_str());
        const HTTPS: HeaderValue = HeaderValue::from_static(Scheme::Https.as_str());
        match self {
            Self::Http => HTTP,
            Self::Https => HTTPS,
        }
    }

    /// Parses the name of a scheme, in upper or lower case.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let all = [Self::Http, Self::Https];
        all.into_iter()
            .find(|scheme| text.eq_ignore_ascii_case(scheme.as_str().as_bytes()))
    }
}

/// The host at the other end of a connection. All requests of a connection share one `Peer`.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    address: IpAddr,
    value: HeaderValue,
}

impl Peer {
    /// Creates a peer with the given address. For a peer on a Unix socket, which has no address,
    /// the caller passes a loopback address.
    pub(crate) fn new(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self {
            address,
            value: address_value(&address.to_string()),
        }
    }

    /// Returns the peer's address.
    pub(crate) const fn address(&self) -> IpAddr {
        self.address
    }
}

/// The client of one request: the peer itself, or the client that trusted proxies report.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    address: IpAddr,
    scheme: Scheme,
    chain: HeaderValue,
    /// Whether the nearest proxy has stated another scheme.
    other_scheme: bool,
}

impl Client {
    /// Finds the client of a request. `scheme` is the scheme of the public URL. Call this function
    /// before [`super::inbound`].
    ///
    /// If the peer is not in `trusted`, no forwarding field is read. If the peer is in `trusted`,
    /// the client is the right-most address in `X-Forwarded-For` that is not in `trusted`. If all
    /// addresses are in `trusted`, the client is the left-most address. If `trusted` contains almost
    /// every address, the client is the right-most address, because only this address certainly comes
    /// from a proxy. If a member of `X-Forwarded-For` is not an address, the peer's address is used as
    /// the client address.
    ///
    /// Browsers reach the gateway only at its public URLs, so the public URL decides about the
    /// scheme. A proxy that states another scheme in the last value of `X-Forwarded-Proto` probably
    /// has a wrong setting ([`Client::has_other_scheme`]).
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
            other_scheme: false,
        };
        if !trusted.contains(peer.address) {
            return client;
        }
        client.other_scheme = stated_scheme(headers).is_some_and(|stated| stated != scheme);
        if let Some(known) = forwarded_chain(headers, trusted) {
            client.address = known.first().copied().unwrap_or(peer.address);
            let addresses = known.iter().chain([&peer.address]).map(IpAddr::to_string);
            client.chain = address_value(&addresses.collect::<Vec<_>>().join(", "));
        }
        client
    }

    /// Returns the client's address.
    pub(crate) const fn address(&self) -> IpAddr {
        self.address
    }

    /// Returns true if the nearest proxy states another scheme than the public URL.
    pub(crate) const fn has_other_scheme(&self) -> bool {
        self.other_scheme
    }

    /// Writes `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host` into the forwarded
    /// request, one line each. Call this function after [`super::inbound`]. `host` is the canonical
    /// authority of the request's target.
    ///
    /// The first address of `X-Forwarded-For` is always [`Client::address`]. The addresses to the
    /// left of the client's address are dropped, because the client may have invented them. The
    /// last address in `X-Forwarded-For` is the address of the peer.
    pub(crate) fn write(&self, headers: &mut HeaderMap, host: &HeaderValue) {
        headers.insert(X_FORWARDED_FOR, self.chain.clone());
        headers.insert(X_FORWARDED_PROTO, self.scheme.value());
        headers.insert(X_FORWARDED_HOST, host.clone());
    }
}

/// Returns true if the fields of a request show that a proxy has passed on the request of a client
/// that may use TLS. Every client can send such fields, so nothing is trusted because of them.
pub(crate) fn may_come_from_tls_proxy(headers: &HeaderMap) -> bool {
    match stated_scheme(headers) {
        Some(stated) => stated == Scheme::Https,
        None => PROXY_FIELDS.iter().any(|name| headers.contains_key(name)),
    }
}

/// Returns the scheme that the nearest proxy states in `X-Forwarded-Proto`.
fn stated_scheme(headers: &HeaderMap) -> Option<Scheme> {
    let written = headers.get_all(&X_FORWARDED_PROTO).iter().next_back()?;
    let last = written.as_bytes().rsplit(|byte| *byte == b',').next()?;
    Scheme::parse(last.trim_ascii())
}

/// Returns the addresses in `X-Forwarded-For`, from the address of the client to the address of the
/// last proxy before the peer. Returns `None` if the field is missing or contains something that is
/// not an address.
fn forwarded_chain(headers: &HeaderMap, trusted: &TrustedPeers) -> Option<Vec<IpAddr>> {
    // The list is read from right to left, because each proxy appends the address of its own peer.
    // Only the addresses at the right end of the list come from trusted proxies.
    let lines = headers.get_all(&X_FORWARDED_FOR).iter().rev();
    let members = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let mut known = Vec::new();
    for member in members {
        let address = parse_address(member.trim_ascii())?;
        known.push(address);
        // If the sender at `address` is not trusted, the sender may have invented all addresses to
        // the left of `address`.
        if !trusted.knows_proxy(address) {
            break;
        }
    }
    known.reverse();
    (!known.is_empty()).then_some(known)
}

/// Parses an IP address as proxies write it. The address may have brackets or a port.
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if text.contains('%') {
        // An IPv6 zone has a meaning only on the machine that wrote the address, so an address with
        // a zone is refused.
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
