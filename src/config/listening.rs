//! The section about listening: addresses, TLS, deadlines and limits.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::section::Reader;
use crate::clock::Clock;
use crate::server;
use crate::server::{Deadlines, Limits};
use crate::telemetry::chain;
use crate::tls::{Acceptor, ServerIdentity};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerSection {
    pub(super) listen: SocketAddr,
    certificate_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    pub(super) trusted_proxies: Vec<ipnet::IpNet>,
    workers: usize,
    connections: NonZeroUsize,
    head_kib: NonZeroUsize,
    fields: NonZeroUsize,
    pub(super) body_mib: u64,
    body_rate: u64,
    body_window_secs: Seconds,
    first_byte_secs: Seconds,
    handshake_secs: Seconds,
    head_secs: Seconds,
    idle_secs: Seconds,
    write_secs: Seconds,
    drain_secs: Seconds,
}

/// Whole seconds, at least one.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "u64")]
pub(super) struct Seconds(pub(super) Duration);

impl TryFrom<u64> for Seconds {
    type Error = &'static str;

    fn try_from(seconds: u64) -> Result<Self, Self::Error> {
        match seconds {
            0 => Err("must be at least 1"),
            seconds => Ok(Self(Duration::from_secs(seconds))),
        }
    }
}

/// Reads certificate and key, when TLS ends here.
pub(super) fn acceptor(
    server: &ServerSection,
    reader: &mut Reader<'_>,
    clock: &Clock,
) -> Option<Acceptor> {
    let (certificate, key) = match (&server.certificate_file, &server.key_file) {
        (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
        (None, None) => return None,
        (Some(_), None) => {
            reader.note("server.key_file", "is missing beside certificate_file");
            return None;
        }
        (None, Some(_)) => {
            reader.note("server.certificate_file", "is missing beside key_file");
            return None;
        }
    };
    match Acceptor::load(ServerIdentity { certificate, key }, clock.clone()) {
        Ok(acceptor) => Some(acceptor),
        Err(error) => {
            reader.note("server.certificate_file", chain(&error));
            None
        }
    }
}

/// Plain HTTP where anybody can listen is refused: sessions would travel in clear text.
pub(super) fn check_transport(server: &ServerSection, reader: &mut Reader<'_>) {
    let plain = server.certificate_file.is_none() && server.key_file.is_none();
    if plain && !server.listen.ip().is_loopback() && server.trusted_proxies.is_empty() {
        reader.note(
            "server.listen",
            format!(
                "{} would take plain HTTP from anybody; set certificate_file and key_file, or list \
                 the networks of the proxy that ends TLS in trusted_proxies",
                server.listen
            ),
        );
    }
}

impl ServerSection {
    /// Deadlines and limits of connections.
    pub(super) fn connections(&self) -> server::Settings {
        server::Settings {
            deadlines: Deadlines {
                first_byte: self.first_byte_secs.0,
                handshake: self.handshake_secs.0,
                head: self.head_secs.0,
                idle: self.idle_secs.0,
                write: self.write_secs.0,
                body_window: self.body_window_secs.0,
                drain: self.drain_secs.0,
            },
            limits: Limits {
                head_bytes: self.head_kib.get().saturating_mul(1024),
                fields: self.fields.get(),
                connections: self.connections.get(),
                body_rate: self.body_rate,
                ..Limits::default()
            },
        }
    }

    /// Threads that serve requests; by default one per core.
    pub(super) fn workers(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.workers)
            .or_else(|| std::thread::available_parallelism().ok())
            .unwrap_or(NonZeroUsize::MIN)
    }
}
