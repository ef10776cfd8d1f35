//! Tunnels: connections on which client and app have switched to another protocol, such as
//! WebSocket.
//!
//! A tunnel stays open as long as the session and the settings allow the tunnel. A [`SessionEvent`]
//! reports changes of the session, and [`CurrentSite`] reports a reload.

use std::future::pending;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use http::{Response, Version, header};
use tokio::time::{Instant, timeout};

use super::site::CurrentSite;
use super::stream_counts::{StreamCounts, StreamOwner, StreamSlot};
use super::{Body, Error, RequestContext, Worker};
use crate::access::{Continues, Permit, StreamPermit, WatchError};
use crate::clock::Timestamp;
use crate::fields::{self, UpgradeRequest};
use crate::relay::{ByteCounts, Close, Ended, FrameTracker, Relay};
use crate::server::UpgradedClient;
use crate::session::{EndRegistry, SessionEvent, cookie};
use crate::target::Target;
use crate::telemetry::{OpenStream, StreamEnd};
use crate::upstream;

/// The minimum time between two updates of the last use of a session. A tunnel makes these updates
/// while the client sends bytes.
const USE_INTERVAL: Duration = Duration::from_mins(1);

/// The longest time between two checks of a tunnel's deadlines.
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(15);

/// The time in which the client has to accept the close frame and to close the connection. The time
/// is shorter than the last part of a drain. A tunnel that ends within this time is therefore not
/// counted as an aborted request.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// The data of a handshake that is needed when the app has answered.
#[derive(Debug)]
pub(super) struct Handshake {
    stream: StreamPermit,
    target: Target,
    client: IpAddr,
    /// The slot of the stream: each client has a limited number of slots.
    client_slot: StreamSlot,
}

impl Worker {
    /// Checks whether a permitted request may switch protocols.
    ///
    /// # Errors
    ///
    /// [`Error::UpgradeForbidden`] if the route does not allow other protocols.
    /// [`Error::UpgradeOverHttp2`] if the app speaks HTTP/2.
    /// [`Error::ForeignOrigin`] if a page of another origin has sent the handshake, and the
    /// settings do not allow that origin. [`Error::TooManyStreams`] if the client has as many open
    /// streams as the route allows.
    pub(super) fn handshake(
        context: &RequestContext,
        permit: &Permit,
        upgrade: &UpgradeRequest,
        counts: &StreamCounts,
    ) -> Result<Box<Handshake>, Error> {
        let stream = permit.stream();
        if !stream.may_switch() {
            return Err(Error::UpgradeForbidden);
        }
        if permit.route().speaks_http2() {
            return Err(Error::UpgradeOverHttp2);
        }
        // A page of any origin can open a WebSocket to any other origin, and the browser adds the
        // cookies for that other origin to the handshake. A page cannot ask for a protocol other
        // than WebSocket, so a handshake for another protocol needs no `Origin`.
        let origin = Origin::of(context);
        let expected = match origin {
            Origin::None => !upgrade.is_websocket(),
            Origin::One(origin) => {
                let mut others = stream.settings().origins.iter();
                origin == context.public_url.origin().as_bytes()
                    || others.any(|other| other.is(origin))
            }
            Origin::Several => false,
        };
        // Without a session, the handshake is not sent in the name of a user, so even a page of
        // another origin may send it.
        if permit.has_session() && !expected {
            return Err(Error::ForeignOrigin);
        }
        let client = context.client.address();
        let owner = StreamOwner::new(stream.session_key(), client);
        let client_slot = counts.open(owner, stream.settings().per_client.get());
        let client_slot = client_slot.ok_or(Error::TooManyStreams)?;
        Ok(Box::new(Handshake {
            stream,
            target: context.target.clone(),
            client,
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
        let frames = if upgrade.is_websocket() {
            FrameTracker::websocket()
        } else {
            FrameTracker::unknown()
        };
        let Handshake {
            stream,
            target,
            client,
            client_slot,
        } = handshake;
        let kind = if upgrade.is_websocket() {
            "websocket"
        } else {
            "other"
        };
        let record = StreamRecord {
            open: site.metrics().stream(stream.route_name(), kind),
            protocol: upgrade.protocol().into(),
            client,
            target: target.clone(),
            started: site.clock().instant(),
            site: Rc::clone(&self.site),
            byte_counts: ByteCounts::default(),
            // The event contains the reason `client_gone` if the future of the tunnel is dropped.
            reason: "client_gone",
        };
        let ends = self.ends(&site);
        let run = move |switched: UpgradedClient| {
            let tunnel = Tunnel {
                relay: Relay::new(switched.client, origin, frames),
                stream,
                target,
                record,
                used_at: 0,
            };
            let stop = switched.stop;
            let run: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
                tunnel
                    .run(&ends, async move { stop.requested().await })
                    .await;
                // The slot becomes free only after the app's connection was closed.
                drop((slot, client_slot));
            });
            run
        };
        let mut response = Response::from_parts(head, Body::tunnel(Box::new(run)));
        fields::outbound(response.headers_mut(), cookie::is_own);
        // `outbound` removes the hop-by-hop fields, so `Connection` and `Upgrade` are written after
        // the call of `outbound`.
        upgrade.write_response(response.headers_mut());
        *response.status_mut() = upgrade.success();
        *response.version_mut() = Version::HTTP_11;
        response
    }
}

/// The origin of the page that sent a request.
enum Origin<'a> {
    None,
    One(&'a [u8]),
    Several,
}

impl<'a> Origin<'a> {
    fn of(context: &'a RequestContext) -> Self {
        let mut values = context.parts.headers.get_all(header::ORIGIN).iter();
        match (values.next(), values.next()) {
            (None, _) => Self::None,
            (Some(origin), None) => Self::One(origin.as_bytes()),
            (Some(_), Some(_)) => Self::Several,
        }
    }
}

/// A running tunnel.
struct Tunnel {
    relay: Relay,
    stream: StreamPermit,
    target: Target,
    record: StreamRecord,
    /// The number of bytes that the client had sent when the tunnel last reported a use of the
    /// session.
    used_at: u64,
}

/// The reason why a tunnel ends.
enum TunnelEnd {
    /// One side or both sides have closed the connection.
    Ended(Ended),
    /// The gateway ends the tunnel. The string is the reason code for the log.
    Cut(&'static str, Close),
}

impl Tunnel {
    /// Runs the tunnel until one side closes the tunnel, until the session or the settings forbid
    /// the tunnel, or until `stop` is ready.
    async fn run(mut self, ends: &EndRegistry, stop: impl Future<Output = ()>) {
        self.record.byte_counts = self.relay.byte_counts();
        let reason = self.wait_for_end(ends, stop).await;
        let Self {
            relay, mut record, ..
        } = self;
        match reason {
            TunnelEnd::Ended(ended) => {
                record.reason = match ended {
                    Ended::Closed => "closed",
                    Ended::ClientBroke => "client_gone",
                    Ended::AppBroke => "upstream_broken",
                };
            }
            TunnelEnd::Cut(reason, close) => {
                record.reason = reason;
                let closing = relay.close(close);
                // If the client does not accept the close frame in time, the connection is closed
                // without the frame.
                timeout(CLOSE_TIMEOUT, closing).await.unwrap_or_default();
            }
        }
    }

    async fn wait_for_end(
        &mut self,
        ends: &EndRegistry,
        stop: impl Future<Output = ()>,
    ) -> TunnelEnd {
        let watch = match self.stream.watch(ends).await {
            Ok(watch) => watch,
            Err(WatchError::Ended) => return TunnelEnd::Cut("session_unknown", Close::Policy),
            Err(WatchError::Unavailable(reason)) => {
                return TunnelEnd::Cut(reason, Close::GoingAway);
            }
        };
        let site = Rc::clone(&self.record.site);
        let clock = site.get().clock().clone();
        let mut reloads = site.reloads();
        // A reload may have changed the rules between the decision and the switch.
        if self.stream.reloaded(&site.get().access, &self.target) == Continues::No {
            return TunnelEnd::Cut("rule", Close::Policy);
        }
        let mut stop = pin!(stop);
        let mut activity = Activity {
            bytes: 0,
            moved: clock.instant(),
            used: clock.now(),
        };
        loop {
            let interval = self.check_interval();
            let event = async {
                match &watch {
                    Some(watch) => watch.next().await,
                    None => pending().await,
                }
            };
            let continues = tokio::select! {
                ended = self.relay.run() => return TunnelEnd::Ended(ended),
                event = event => match event {
                    SessionEvent::Ended(why) => return TunnelEnd::Cut(why.reason(), Close::Policy),
                    SessionEvent::Renewed(session) => self.stream.renewed(session),
                },
                () = reloads.changed() => {
                    self.stream.reloaded(&site.get().access, &self.target)
                }
                () = &mut stop => return TunnelEnd::Cut("drain", Close::GoingAway),
                () = clock.sleep(interval) => {
                    let (now, time) = (clock.instant(), clock.now());
                    if let Some(reason) = self.check_deadlines(&mut activity, now, time) {
                        return TunnelEnd::Cut(reason, Close::GoingAway);
                    }
                    Continues::Yes
                }
            };
            match continues {
                Continues::Yes => {}
                Continues::No => return TunnelEnd::Cut("rule", Close::Policy),
            }
        }
    }

    /// The time until the next check of the deadlines.
    fn check_interval(&self) -> Duration {
        let settings = self.stream.settings();
        let limits = [settings.idle, settings.total].into_iter().flatten();
        // The deadlines are checked at least every quarter of the shortest limit, so a tunnel ends
        // at most a quarter of this limit too late.
        let quarters = limits.filter_map(|limit| limit.checked_div(4));
        quarters.fold(MAX_CHECK_INTERVAL, Duration::min)
    }

    /// Checks the deadlines, and updates the last use of the session. Returns the reason code if a
    /// deadline of the tunnel has passed.
    fn check_deadlines(
        &mut self,
        activity: &mut Activity,
        now: Instant,
        time: Timestamp,
    ) -> Option<&'static str> {
        let (up, down) = (
            self.record.byte_counts.client_bytes(),
            self.record.byte_counts.app_bytes(),
        );
        let bytes = up.saturating_add(down);
        if bytes != activity.bytes {
            (activity.bytes, activity.moved) = (bytes, now);
        }
        if up != self.used_at && time.since(activity.used) >= USE_INTERVAL {
            (self.used_at, activity.used) = (up, time);
            self.stream.mark_used(time);
        }
        let settings = self.stream.settings();
        let passed = |since: Instant, limit: Option<Duration>| {
            limit.is_some_and(|limit| now.saturating_duration_since(since) >= limit)
        };
        if passed(self.record.started, settings.total) {
            Some("stream_too_long")
        } else if passed(activity.moved, settings.idle) {
            Some("stream_idle")
        } else {
            None
        }
    }
}

/// The activity of a tunnel at the last check.
struct Activity {
    /// The number of forwarded bytes in both directions.
    bytes: u64,
    /// The time of the last check that found new bytes.
    moved: Instant,
    /// The time at which the tunnel last reported a use of the session.
    used: Timestamp,
}

/// The data of the access-log event. The event is written when this value is dropped, so every end
/// of a stream is logged.
struct StreamRecord {
    open: OpenStream,
    protocol: Box<str>,
    client: IpAddr,
    target: Target,
    started: Instant,
    site: Rc<CurrentSite>,
    byte_counts: ByteCounts,
    reason: &'static str,
}

impl Drop for StreamRecord {
    fn drop(&mut self) {
        let now = self.site.get().clock().instant();
        self.open.end(&StreamEnd {
            protocol: &self.protocol,
            path: self.target.path(),
            client: self.client,
            from_client: self.byte_counts.client_bytes(),
            from_app: self.byte_counts.app_bytes(),
            duration: now.saturating_duration_since(self.started),
            reason: self.reason,
        });
    }
}
