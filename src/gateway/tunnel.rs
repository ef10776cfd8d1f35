//! Tunnels: connections on which client and app have switched to another protocol, such as
//! WebSocket.
//!
//! The [`StreamGuard`] of a tunnel decides whether the tunnel may stay open.

use std::pin::Pin;
use std::time::Duration;

use http::{Response, Version, header};
use tokio::time::timeout;

use super::request_log::{CLIENT_GONE, RequestLog};
use super::streams::{
    CutCause, ObservedStream, StreamBytes, StreamCounts, StreamGuard, StreamSlot,
};
use super::{Body, Error, RequestContext, Worker};
use crate::access::{Permit, StreamKind, StreamPermit};
use crate::fields::{self, OnlyValue, SharedCaching, UpgradeRequest, View as _};
use crate::relay::{ByteCounts, Close, Ended, FrameTracker, Relay};
use crate::server::{ReadFailure, TunnelStop, UpgradedClient};
use crate::session::cookie;
use crate::target::Target;
use crate::telemetry::OpenStream;
use crate::upstream;

/// The client has to accept the close frame and to close the connection within this time.
/// `CLOSE_TIMEOUT` is shorter than the last part of a drain, so a tunnel that ends within
/// `CLOSE_TIMEOUT` does not count as an aborted request.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Checks whether a permitted request may ask for a switch to another protocol.
///
/// # Errors
///
/// Returns [`Error::UpgradeForbidden`] if the route does not allow other protocols. Returns
/// [`Error::ForeignOrigin`] if the handshake comes from a page of an origin that the settings do not
/// allow.
pub(super) fn check_switch(
    context: &RequestContext,
    permit: &Permit,
    is_websocket: bool,
) -> Result<StreamPermit, Error> {
    let stream = permit.stream();
    if !stream.may_switch() {
        return Err(Error::UpgradeForbidden);
    }
    // A page of any origin can open a WebSocket to the gateway. The browser adds the gateway's
    // cookies to the handshake of the WebSocket. A page cannot ask for a protocol other than
    // WebSocket, so a handshake for another protocol needs no `Origin`.
    let expected = match context.parts.headers.only_value(&header::ORIGIN) {
        OnlyValue::Absent => !is_websocket,
        OnlyValue::One(origin) => {
            let mut others = stream.settings().origins.iter();
            origin == context.public_url.origin().as_bytes() || others.any(|other| other.is(origin))
        }
        OnlyValue::Several => false,
    };
    // Without a session, the handshake is not sent for a signed-in user, so the gateway accepts the
    // handshake even from a page of another origin.
    if permit.has_session() && !expected {
        return Err(Error::ForeignOrigin);
    }
    Ok(stream)
}

/// The data that the gateway needs when the app has answered a handshake.
#[derive(Debug)]
pub(super) struct Handshake {
    stream: StreamPermit,
    target: Target,
    /// The slot of the tunnel: each client has a limited number of slots.
    client_slot: StreamSlot,
}

impl Worker {
    /// Checks whether a permitted request may switch protocols.
    ///
    /// # Errors
    ///
    /// Returns [`Error::UpgradeOverHttp2`] if the app speaks HTTP/2. Returns the errors of
    /// [`check_switch`]. Returns
    /// [`Error::TooManyStreams`] if the client has as many open tunnels as the route allows.
    pub(super) fn handshake(
        context: &RequestContext,
        permit: &Permit,
        upgrade: &UpgradeRequest,
        counts: &StreamCounts,
    ) -> Result<Box<Handshake>, Error> {
        if permit.route().speaks_http2() {
            return Err(Error::UpgradeOverHttp2);
        }
        let stream = check_switch(context, permit, upgrade.is_websocket())?;
        let client = context.client.address();
        let client_slot = counts.open(stream.owner(client), stream.settings().per_client.get());
        let client_slot = client_slot.ok_or(Error::TooManyStreams)?;
        Ok(Box::new(Handshake {
            stream,
            target: context.target.clone(),
            client_slot,
        }))
    }

    /// Creates the response to a client whose app has switched protocols.
    pub(super) fn switched(
        &self,
        handshake: Handshake,
        tunnel: upstream::UpgradedOrigin,
    ) -> Response<Body> {
        let upstream::UpgradedOrigin {
            head,
            origin,
            upgrade,
            slot,
        } = tunnel;
        let site = self.site.get();
        let (frames, kind) = if upgrade.is_websocket() {
            (FrameTracker::websocket(), "websocket")
        } else {
            (FrameTracker::unknown(), "other")
        };
        let Handshake {
            stream,
            target,
            client_slot,
        } = handshake;
        let open = site.metrics().stream(stream.route_name(), kind);
        let protocol = upgrade.protocol().into();
        let max_lag = stream.settings().max_lag;
        let mut guard = self.streams.guard(stream, target, StreamKind::Tunnel);
        guard.apply_limits(site.clock().instant());
        let run = move |switched: UpgradedClient, mut log: Option<Box<RequestLog>>| {
            let UpgradedClient { client: peer, stop } = switched;
            let relay = Relay::new(peer, origin, frames, max_lag);
            if let Some(log) = &mut log {
                log.event.upgrade = Some(protocol);
                log.event.log_stream();
            }
            let record = TunnelRecord {
                open,
                log,
                observed: ObservedTunnel::new(&relay, &stop),
                end: None,
            };
            let tunnel = Tunnel {
                relay,
                guard,
                record,
            };
            let run: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
                tunnel.run(&stop).await;
                // The slots of this tunnel become free only after the connection to the app is
                // closed.
                drop((slot, client_slot));
            });
            run
        };
        let mut response = Response::from_parts(head, Body::tunnel(Box::new(run)));
        // No cache stores a response that switches protocols.
        let caching = SharedCaching::AsWritten;
        fields::outbound(response.headers_mut(), caching, cookie::is_own);
        // `outbound` removes the hop-by-hop fields, so `Connection` and `Upgrade` are written after
        // the call of `outbound`.
        upgrade.write_response(response.headers_mut());
        *response.status_mut() = upgrade.success();
        *response.version_mut() = Version::HTTP_11;
        response
    }
}

/// A running tunnel.
struct Tunnel {
    relay: Relay,
    guard: StreamGuard,
    record: TunnelRecord,
}

/// The data of a tunnel for the metrics and the access log. When this value is dropped, the end of
/// the tunnel is counted, and the access-log event of the request is written.
struct TunnelRecord {
    open: OpenStream,
    log: Option<Box<RequestLog>>,
    observed: ObservedTunnel,
    /// The code that states in the log why the tunnel ended. `None` if the client's connection has
    /// ended the tunnel.
    end: Option<&'static str>,
}

impl Drop for TunnelRecord {
    fn drop(&mut self) {
        let end = self.end.unwrap_or_else(|| {
            let failure = self.observed.stop.read_failure();
            failure.map_or(CLIENT_GONE, ReadFailure::code)
        });
        self.open.count_end(end);
        if let Some(mut log) = self.log.take() {
            let StreamBytes {
                from_client,
                from_app,
            } = self.observed.bytes();
            log.stream_ended(end, Some(from_client), from_app);
        }
    }
}

/// The reason why a tunnel ends.
enum TunnelEnd {
    /// The client, the app, or both have closed their connection.
    Ended(Ended),
    /// The gateway ends the tunnel. The string in this variant is the reason code for the log.
    Cut(&'static str, Close),
}

impl Tunnel {
    /// Runs the tunnel until one side closes the tunnel, until the session or the settings forbid
    /// the tunnel, or until the drain is almost over.
    async fn run(mut self, stop: &TunnelStop) {
        let observed = ObservedTunnel::new(&self.relay, stop);
        let end = tokio::select! {
            ended = self.relay.run() => TunnelEnd::Ended(ended),
            cut = self.guard.ended(&observed) => {
                let close = match cut.cause {
                    CutCause::Rule | CutCause::Session => Close::Policy,
                    CutCause::Limit => Close::GoingAway,
                };
                TunnelEnd::Cut(cut.reason, close)
            }
            () = stop.requested() => TunnelEnd::Cut("drain", Close::GoingAway),
        };
        let Self {
            relay, mut record, ..
        } = self;
        match end {
            TunnelEnd::Ended(ended) => {
                record.end = match ended {
                    Ended::Closed => Some("closed"),
                    Ended::ClientBroke => None,
                    Ended::AppBroke => Some("upstream_broken"),
                };
            }
            TunnelEnd::Cut(reason, close) => {
                record.end = Some(reason);
                let closing = relay.close(close);
                // If the client does not accept the close frame in time, the connection is closed
                // without the frame.
                timeout(CLOSE_TIMEOUT, closing).await.unwrap_or_default();
            }
        }
    }
}

/// The state of a tunnel. The guard of the tunnel and the [`TunnelRecord`] get the state of the
/// tunnel from this value.
struct ObservedTunnel {
    byte_counts: ByteCounts,
    stop: TunnelStop,
}

impl ObservedTunnel {
    fn new(relay: &Relay, stop: &TunnelStop) -> Self {
        Self {
            byte_counts: relay.byte_counts(),
            stop: stop.clone(),
        }
    }
}

impl ObservedStream for ObservedTunnel {
    fn bytes(&self) -> StreamBytes {
        StreamBytes {
            from_client: self.byte_counts.client_bytes(),
            from_app: self.byte_counts.app_bytes(),
        }
    }
}
