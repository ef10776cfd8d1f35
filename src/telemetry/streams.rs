//! Metrics and events of streams.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::metrics::{GaugeGuard, Labels};
use super::{ACCESS, millis};

/// An open stream. The metrics count the stream as open until this value is dropped.
pub(crate) struct OpenStream {
    route: Box<str>,
    _open: GaugeGuard,
    ended: Family<Labels, Counter>,
}

/// The content of the access-log event at the end of a stream.
#[derive(Debug)]
pub(crate) struct StreamEnd<'a> {
    /// The protocol that the client asked for.
    pub(crate) protocol: &'a str,
    /// The canonical path of the handshake, without the query.
    pub(crate) path: &'a str,
    /// The client's address, which a trusted proxy may have reported.
    pub(crate) client: IpAddr,
    /// The number of bytes that the client has sent.
    pub(crate) from_client: u64,
    /// The number of bytes that the app has sent.
    pub(crate) from_app: u64,
    /// The time from the handshake to the end of the stream.
    pub(crate) duration: Duration,
    /// The stable code for the reason of the end.
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

    /// Counts the end of the stream, and writes the access-log event.
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
