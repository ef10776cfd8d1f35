//! The access-log event at the end of a stream.

use std::net::IpAddr;

use http::uri::PathAndQuery;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::telemetry::{OpenStream, StreamEnd};

/// The numbers of bytes that a stream has carried in each direction.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::gateway) struct StreamBytes {
    pub(in crate::gateway) from_client: u64,
    pub(in crate::gateway) from_app: u64,
}

impl StreamBytes {
    /// The number of bytes in both directions.
    pub(super) fn sum(self) -> u64 {
        self.from_client.saturating_add(self.from_app)
    }
}

/// The state of a running stream.
pub(in crate::gateway) trait ObservedStream {
    /// The bytes that the stream has carried.
    fn bytes(&self) -> StreamBytes;

    /// Whether the stream was ended because the client did not accept bytes in time.
    fn client_stalled(&self) -> bool;
}

/// The data of the access-log event at the end of a stream. The event is written when this value is
/// dropped, so every end of a stream is logged.
pub(in crate::gateway) struct StreamRecord {
    pub(in crate::gateway) open: OpenStream,
    pub(in crate::gateway) protocol: Box<str>,
    pub(in crate::gateway) client: IpAddr,
    pub(in crate::gateway) target: PathAndQuery,
    pub(in crate::gateway) started: Instant,
    pub(in crate::gateway) clock: Clock,
    pub(in crate::gateway) observed: Box<dyn ObservedStream>,
    /// The reason of the end. `None` if the client's connection has ended the stream.
    pub(in crate::gateway) reason: Option<&'static str>,
}

impl Drop for StreamRecord {
    fn drop(&mut self) {
        let bytes = self.observed.bytes();
        let client_ended = || {
            if self.observed.client_stalled() {
                "client_stalled"
            } else {
                "client_gone"
            }
        };
        let now = self.clock.instant();
        self.open.end(&StreamEnd {
            protocol: &self.protocol,
            path: self.target.path(),
            client: self.client,
            from_client: bytes.from_client,
            from_app: bytes.from_app,
            duration: now.saturating_duration_since(self.started),
            reason: self.reason.unwrap_or_else(client_ended),
        });
    }
}
