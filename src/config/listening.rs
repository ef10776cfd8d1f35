//! The section `server`: listening address, TLS, deadlines and limits.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;

use super::section::Reader;
use crate::clock::Clock;
use crate::fields::ClientNetworks;
use crate::fields::forwarded::{TrustedPeers, parse_network};
use crate::server::{self, Deadlines, Limits, ProxyNetworks};
use crate::target::Prefix;
use crate::telemetry::chain;
use crate::tls::{Acceptor, ServerIdentity};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerSection {
    pub(super) listen: ListenAddress,
    certificate_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    pub(super) ping_path: Option<Prefix>,
    pub(super) ready_path: Option<Prefix>,
    pub(super) trusted_proxies: Networks,
    proxy_protocol: Networks,
    workers: Bounded<0, 1024>,
    connections: Bounded<1, 1_000_000>,
    connections_per_client: Option<Bounded<1, 1_000_000>>,
    client_ipv4_bits: Bounded<1, 32>,
    client_ipv6_bits: Bounded<1, 128>,
    head_kib: Bounded<4, 1024>,
    fields: Bounded<10, 1000>,
    title_case_fields: bool,
    body_mib: u64,
    buffer_mib: Bounded<0, 65_536>,
    pub(super) spill_dir: Option<PathBuf>,
    pub(super) spill_mib: Option<Bounded<1, 1_048_576>>,
    body_rate: u64,
    body_window_secs: Seconds,
    answer_rate: u64,
    answer_window_secs: Seconds,
    first_byte_secs: Seconds,
    handshake_secs: Seconds,
    head_secs: Seconds,
    idle_secs: Seconds,
    write_secs: Seconds,
    half_closed_secs: Bounded<0, { 7 * 24 * 3600 }>,
    drain_secs: Seconds,
    core_dumps: bool,
}

/// Whether the process may leave a core dump, which contains tokens and secrets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CoreDumps {
    /// The operator looks for the cause of a crash.
    Allowed,
    /// The default.
    Forbidden,
}

impl CoreDumps {
    pub(super) fn warning(self) -> Option<String> {
        let text = "server.core_dumps: core dumps are allowed, and a core dump contains tokens of \
                    users and the secrets of the gateway";
        (self == Self::Allowed).then(|| text.to_owned())
    }
}

/// An IP address with a port. A host name is refused, because a host name can have several
/// addresses.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct ListenAddress(pub(super) SocketAddr);

impl TryFrom<String> for ListenAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self(address));
        }
        let is_port = |text: &str| text.parse::<u16>().is_ok();
        let port = text.rsplit([':', '/']).find(|part| is_port(part));
        let port = port.unwrap_or("4180");
        let bare = text.strip_prefix(':').unwrap_or(&text);
        let advice = if text.starts_with("unix:") || text.starts_with('/') {
            "Sidegate listens only on TCP; write \"127.0.0.1:4180\"".to_owned()
        } else if is_port(bare) {
            format!(
                "write \"127.0.0.1:{port}\" to listen for this machine, or \"[::]:{port}\" to listen \
                 for all machines"
            )
        } else {
            format!("write an IP address and a port, such as \"127.0.0.1:{port}\"")
        };
        Err(format!("`{text}` is not an address to listen on; {advice}"))
    }
}

/// A whole number with a minimum and a maximum. `MIN` and `MAX` prevent overflows and huge
/// allocations in later calculations.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "u64")]
pub(super) struct Bounded<const MIN: u64, const MAX: u64>(u64);

/// A number of seconds, from one second to one week.
pub(super) type Seconds = Bounded<1, { 7 * 24 * 3600 }>;

impl<const MIN: u64, const MAX: u64> TryFrom<u64> for Bounded<MIN, MAX> {
    type Error = String;

    fn try_from(number: u64) -> Result<Self, String> {
        if (MIN..=MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(format!("{number} is not between {MIN} and {MAX}"))
        }
    }
}

impl<const MIN: u64, const MAX: u64> Bounded<MIN, MAX> {
    fn count(self) -> usize {
        // Every `MAX` in the settings fits into 32 bits, so the conversion never fails.
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Returns the number as a duration in seconds.
    pub(super) fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

/// An entry of [`Networks`].
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
enum Network {
    /// The word [`EVERYBODY`].
    Everybody,
    /// A network. A single address is a network that contains only this address.
    Listed(IpNet),
}

/// The word for all networks. The word shows that the operator means this.
const EVERYBODY: &str = "everybody";

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == EVERYBODY {
            return Ok(Self::Everybody);
        }
        parse_network(&text)
            .map(Self::Listed)
            .ok_or_else(|| format!("`{text}` is not an IP address or a network such as 10.0.0.0/8"))
    }
}

/// The networks of trusted proxies. A list that contains almost every address is refused, unless the
/// list is the word [`EVERYBODY`].
#[derive(Clone, Default, Deserialize)]
#[serde(try_from = "Vec<Network>")]
pub(super) struct Networks(Vec<IpNet>);

impl TryFrom<Vec<Network>> for Networks {
    type Error = String;

    fn try_from(list: Vec<Network>) -> Result<Self, String> {
        if let [Network::Everybody] = *list {
            return Ok(Self(vec![
                Ipv4Net::default().into(),
                Ipv6Net::default().into(),
            ]));
        }
        let listed = list.into_iter().map(|network| match network {
            Network::Everybody => None,
            Network::Listed(network) => Some(network),
        });
        let Some(networks) = listed.collect::<Option<Vec<IpNet>>>() else {
            return Err(format!(
                "`{EVERYBODY}` already contains the other networks; write [\"{EVERYBODY}\"]"
            ));
        };
        match TrustedPeers::new(networks.iter().copied()).widest() {
            Some(wide) => Err(format!(
                "contains all addresses of `{wide}`, so any client could connect as a trusted proxy; \
                 list only the networks of your proxies, or write [\"{EVERYBODY}\"] if nobody else \
                 can connect"
            )),
            None => Ok(Self(networks)),
        }
    }
}

impl Networks {
    /// Returns true if the list is empty.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if at least one address belongs to networks of both lists.
    pub(super) fn overlap(&self, others: &Self) -> bool {
        self.0.iter().any(|network| {
            let mut others = others.0.iter();
            others.any(|other| {
                network.contains(&other.network()) || other.contains(&network.network())
            })
        })
    }

    /// Returns the networks as peers.
    pub(super) fn peers(&self) -> TrustedPeers {
        TrustedPeers::new(self.0.iter().copied())
    }
}

/// Reads the certificate and the key. Returns `None` if no certificate is configured. If the
/// certificate or the key has a problem, reports the problem and returns `None`.
pub(super) fn acceptor(
    server: &ServerSection,
    reader: &mut Reader<'_>,
    clock: &Clock,
) -> Option<Acceptor> {
    let (certificate, key) = match (&server.certificate_file, &server.key_file) {
        (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
        (None, None) => return None,
        (Some(_), None) => {
            reader.note(
                "server.key_file",
                "is required when certificate_file is set",
            );
            return None;
        }
        (None, Some(_)) => {
            reader.note(
                "server.certificate_file",
                "is required when key_file is set",
            );
            return None;
        }
    };
    match Acceptor::load(&ServerIdentity { certificate, key }, clock.clone()) {
        Ok(acceptor) => Some(acceptor),
        Err(error) => {
            let key = match error.file() {
                Some(file) if Some(file) == server.key_file.as_deref() => "server.key_file",
                Some(_) | None => "server.certificate_file",
            };
            reader.note(key, chain(&error));
            None
        }
    }
}

/// Refuses plain HTTP on an address that other machines can reach. Plain HTTP would send session
/// cookies over the network in clear text.
pub(super) fn check_transport(server: &ServerSection, reader: &mut Reader<'_>) {
    // If only the certificate file or only the key file is set, `acceptor` reports the problem.
    let plain = server.certificate_file.is_none() && server.key_file.is_none();
    let open = !server.listen.0.ip().is_loopback();
    // If the list of trusted proxies has a problem, the problem was already reported, and the list
    // counts as empty.
    let proxies = !server.trusted_proxies.is_empty() || !reader.is_clean("server.trusted_proxies");
    if plain && open && !proxies {
        reader.note(
            "server.listen",
            format!(
                "{} would accept plain HTTP from any machine; set certificate_file and key_file, or, \
                 when a proxy terminates TLS, list its networks in trusted_proxies",
                server.listen.0
            ),
        );
    }
}

impl ServerSection {
    pub(super) fn core_dumps(&self) -> CoreDumps {
        if self.core_dumps {
            CoreDumps::Allowed
        } else {
            CoreDumps::Forbidden
        }
    }

    /// The proxies whose forwarding fields are trusted.
    pub(super) fn trusted_peers(&self) -> TrustedPeers {
        self.trusted_proxies.peers()
    }

    /// The networks whose connections begin with a PROXY header.
    pub(super) fn proxy_networks(&self) -> ProxyNetworks {
        ProxyNetworks::new(self.proxy_protocol.peers())
    }

    /// The maximum size of a request's body in bytes. The setting `body_mib = 0` means no limit.
    pub(super) fn body_bytes(&self) -> u64 {
        match self.body_mib {
            0 => u64::MAX,
            mib => mib.saturating_mul(1024 * 1024),
        }
    }

    /// The budget of all buffers for slow clients, in bytes.
    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer_mib.count().saturating_mul(1024 * 1024)
    }

    /// The budget of all files with buffered bodies, in bytes.
    pub(super) fn spill_bytes(&self) -> usize {
        let mib = self.spill_mib.map_or(1024, Bounded::count);
        mib.saturating_mul(1024 * 1024)
    }

    /// Refuses a time window if the minimum rate for this window is 0, because the window then has
    /// no effect.
    pub(super) fn check_windows(&self, reader: &mut Reader<'_>) {
        for (name, rate) in [("body", self.body_rate), ("answer", self.answer_rate)] {
            let key = format!("server.{name}_window_secs");
            if rate == 0 && reader.changes_number(&key) {
                let rate = format!("{name}_rate");
                let problem =
                    format!("has no effect, because {rate} is 0; set {rate}, or leave it out");
                reader.note(&key, problem);
            }
        }
    }

    /// The deadlines and limits of connections.
    pub(super) fn connections(&self) -> server::Settings {
        server::Settings {
            deadlines: Deadlines {
                first_byte: self.first_byte_secs.duration(),
                handshake: self.handshake_secs.duration(),
                head: self.head_secs.duration(),
                idle: self.idle_secs.duration(),
                write: self.write_secs.duration(),
                half_closed: self.half_closed_secs.duration(),
                answer_window: self.answer_window_secs.duration(),
                body_window: self.body_window_secs.duration(),
                drain: self.drain_secs.duration(),
            },
            limits: Limits {
                head_bytes: self.head_kib.count().saturating_mul(1024),
                fields: self.fields.count(),
                connections: self.connections.count(),
                connections_per_client: self.connections_per_client.map(Bounded::count),
                client_networks: self.client_networks(),
                body_rate: self.body_rate,
                answer_rate: self.answer_rate,
                ..Limits::default()
            },
            title_case_fields: self.title_case_fields,
        }
    }

    fn client_networks(&self) -> ClientNetworks {
        // The largest values are 32 and 128, so the conversions never fail.
        let bits = |count: usize| u32::try_from(count).unwrap_or_default();
        ClientNetworks {
            ipv4: bits(self.client_ipv4_bits.count()),
            ipv6: bits(self.client_ipv6_bits.count()),
        }
    }

    /// Refuses a limit for each client that is larger than the limit for all clients, because the
    /// limit for each client then has no effect.
    pub(super) fn check_connections(&self, reader: &mut Reader<'_>) {
        let all = self.connections.count();
        let limit = self.connections_per_client.map(Bounded::count);
        if let Some(limit) = limit.filter(|limit| *limit > all) {
            let problem =
                format!("{limit} is larger than connections ({all}), so it has no effect");
            reader.note("server.connections_per_client", problem);
        }
    }

    /// Returns the number of threads that serve requests, by default one per core.
    pub(super) fn workers(&self) -> NonZeroUsize {
        // The setting `workers = 0` means one thread per core. If the number of cores is unknown,
        // the result is one thread.
        NonZeroUsize::new(self.workers.count())
            .or_else(|| std::thread::available_parallelism().ok())
            .unwrap_or(NonZeroUsize::MIN)
    }
}
