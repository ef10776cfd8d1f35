//! The section `server`: listening address, TLS, deadlines and limits.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use super::section::Reader;
use crate::clock::Clock;
use crate::fields::forwarded::TrustedPeers;
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
    pub(super) trusted_proxies: Vec<Network>,
    proxy_protocol: Vec<Network>,
    workers: Bounded<0, 1024>,
    connections: Bounded<1, 1_000_000>,
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

/// An IP network of trusted proxies. A single address is a network that contains only this address.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Network(pub(super) IpNet);

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let network = text
            .parse()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(Self).map_err(|_invalid| {
            format!("`{text}` is not an IP address or a network such as 10.0.0.0/8")
        })
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
    /// The proxies whose forwarding fields are trusted.
    pub(super) fn trusted_peers(&self) -> TrustedPeers {
        TrustedPeers::new(self.trusted_proxies.iter().map(|network| network.0))
    }

    /// The networks whose connections begin with a PROXY header.
    pub(super) fn proxy_networks(&self) -> ProxyNetworks {
        let networks = self.proxy_protocol.iter().map(|network| network.0);
        ProxyNetworks::new(TrustedPeers::new(networks))
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
                body_rate: self.body_rate,
                answer_rate: self.answer_rate,
                ..Limits::default()
            },
            title_case_fields: self.title_case_fields,
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
