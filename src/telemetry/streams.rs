//! Streams: connections that last longer than a request.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::metrics::{GaugeGuard, Labels};
use super::{ACCESS, millis};

/// A stream that is open. It is counted until it is dropped.
pub(crate) struct OpenStream {
    route: Box<str>,
    _open: GaugeGuard,
    ended: Family<Labels, Counter>,
}

/// The end of a stream, as its access-log event tells it.
#[derive(Debug)]
pub(crate) struct StreamEnd<'a> {
    /// The protocol, as the client asked for it.
    pub(crate) protocol: &'a str,
    /// The canonical path of the handshake; never the query.
    pub(crate) path: &'a str,
    /// The client's address after the trust rule.
    pub(crate) client: IpAddr,
    /// The bytes that the client has sent.
    pub(crate) from_client: u64,
    /// The bytes that the app has sent.
    pub(crate) from_app: u64,
    /// From the handshake to the end.
    pub(crate) duration: Duration,
    /// Why it ended, as a stable code.
    pub(crate) reason: &'static str,
}

impl OpenStream {
    pub(super) fn new(route: &str, open: GaugeGuard, ended: Family<Labels, Counter>) -> Self {
        Self {
            route: route.into(),
            _open: open,
            ended,
        }
    }

    /// Counts the end, and writes the event.
    pub(crate) fn end(&self, end: &StreamEnd<'_>) {
        let labels = vec![
            ("route", self.route.to_string().into()),
            ("reason", end.reason.into()),
        ];
        self.ended.get_or_create_owned(&labels).inc();
        tracing::event!(
            target: ACCESS,
            tracing::Level::INFO,
            url.path = end.path,
            network.protocol.name = end.protocol,
            client.address = %end.client,
            route = &*self.route,
            reason = end.reason,
            duration_ms = millis(end.duration),
            client_bytes = end.from_client,
            upstream_bytes = end.from_app,
            "Stream ended"
        );
    }
}

impl fmt::Debug for OpenStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStream")
            .field("route", &self.route)
            .finish_non_exhaustive()
    }
}
