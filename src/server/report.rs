//! The figure and the warnings about connections that are closed to make room for others.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::telemetry::{EventLimiter, Metrics};

/// The pause between two warnings with the same reason.
const WARNING_PAUSE: Duration = Duration::from_mins(1);

/// The reason why a connection is closed, although it has missed no deadline.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum ShedReason {
    /// A new connection of the same client needed its place, because the client has reached its
    /// limit.
    ClientLimit,
    /// The client has reached its limit. All its connections have requests in progress, so its new
    /// connection is closed.
    ClientRefused,
    /// All connections are in use, and this client has more than its share.
    ClientShare,
    /// All connections are in use.
    Connections,
    /// The process has no free descriptor.
    Descriptors,
}

impl ShedReason {
    /// The value of the label `reason`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ClientLimit => "client_limit",
            Self::ClientRefused => "client_refused",
            Self::ClientShare => "client_share",
            Self::Connections => "connections",
            Self::Descriptors => "descriptors",
        }
    }

    /// The settings that help.
    fn keys(self) -> &'static str {
        match self {
            Self::ClientLimit | Self::ClientRefused => {
                "server.connections_per_client; if the address is a proxy, server.trusted_proxies or \
                 server.proxy_protocol"
            }
            Self::ClientShare => {
                "server.connections; if the address is a proxy, server.trusted_proxies or \
                 server.proxy_protocol"
            }
            Self::Connections => "server.connections",
            Self::Descriptors => {
                "the limit of descriptors of the process (LimitNOFILE, ulimit -n), or \
                 server.connections"
            }
        }
    }
}

/// Counts the closed connections, and logs at most one warning a minute for each reason.
#[derive(Debug)]
pub(super) struct Reports {
    metrics: Option<Arc<Metrics>>,
    warnings: EventLimiter,
}

impl Reports {
    /// Creates the reports. If `metrics` is `None`, nothing is counted or logged.
    pub(super) fn new(metrics: Option<Arc<Metrics>>) -> Self {
        Self {
            metrics,
            warnings: EventLimiter::new(WARNING_PAUSE),
        }
    }

    /// Reports that a connection of `client` is closed. `now` is the time since the
    /// Unix epoch.
    pub(super) fn shed(&self, reason: ShedReason, client: IpAddr, now: Duration) {
        let Some(metrics) = &self.metrics else {
            return;
        };
        metrics.shed_connection(reason.name());
        if self.warnings.is_due(reason, now) {
            tracing::warn!(
                client.address = %client,
                reason = reason.name(),
                keys = reason.keys(),
                "Connections are closed to make room for others. This warning is logged once a minute"
            );
        }
    }
}
