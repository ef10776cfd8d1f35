//! A connection on which the app has switched to another protocol, such as WebSocket.
//!
//! It lasts as long as the session and the settings allow it. What happens to the session is reported
//! by a [`SessionEvent`]; a reload is reported by [`CurrentSite`].

use std::future::pending;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use http::{Response, Version, header};
use tokio::time::{Instant, timeout};

use super::site::CurrentSite;
use super::{Body, Error, RequestContext, Worker};
use crate::access::{Continues, Permit, StreamPermit};
use crate::clock::Timestamp;
use crate::fields::{self, UpgradeRequest};
use crate::relay::{ByteCounts, Close, Ended, FrameTracker, Relay};
use crate::server::UpgradedClient;
use crate::session::{EndRegistry, SessionEvent, cookie};
use crate::target::Target;
use crate::telemetry::{OpenStream, StreamEnd};
use crate::upstream;

/// How often a session is marked as used while its client sends something.
const USE_INTERVAL: Duration = Duration::from_mins(1);

/// The longest time between two looks at a tunnel's deadlines.
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(15);

/// The time that the client has to take the close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What is remembered of a request to switch protocols until the app has answered.
#[derive(Debug)]
pub(super) struct Handshake {
    stream: StreamPermit,
    target: Target,
    client: IpAddr,
}

impl Worker {
    /// Checks a permitted request to switch protocols.
    ///
    /// # Errors
    ///
    /// [`Error::UpgradeForbidden`] where the route's apps may not switch protocols,
    /// [`Error::ForeignOrigin`] where a page of another site asks.
    pub(super) fn handshake(
        context: &RequestContext,
        permit: &Permit,
        upgrade: &UpgradeRequest,
    ) -> Result<Box<Handshake>, Error> {
        let stream = permit.stream();
        if !stream.settings().upgrades {
            return Err(Error::UpgradeForbidden);
        }
        // Browsers send cookies with a WebSocket to any site, whichever page opens it. Other
        // protocols cannot be asked for by a page, so no `Origin` is expected there.
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
        if permit.has_session() && !expected {
            return Err(Error::ForeignOrigin);
        }
        Ok(Box::new(Handshake {
            stream,
            target: context.target.clone(),
            client: context.client.address(),
        }))
    }

    /// The answer to a client whose app has switched protocols.
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
                // The app's connection is closed by now.
                drop(slot);
            });
            run
        };
        let mut response = Response::from_parts(head, Body::tunnel(Box::new(run)));
        fields::outbound(response.headers_mut(), cookie::is_own);
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

/// A tunnel that runs.
struct Tunnel {
    relay: Relay,
    stream: StreamPermit,
    target: Target,
    record: StreamRecord,
    /// The number of the client's bytes when its session was marked as used last.
    used_at: u64,
}

/// Why a tunnel ends.
enum TunnelEnd {
    /// By itself.
    Ended(Ended),
    /// It is cut.
    Cut(&'static str, Close),
}

impl Tunnel {
    /// Runs the tunnel until it ends by itself, until its session or the settings do not allow it any
    /// more, or until `stop`.
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
                // A client that does not take the close frame loses the connection.
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
            Err(why) => return TunnelEnd::Cut(why.reason(), Close::Policy),
        };
        let site = Rc::clone(&self.record.site);
        let clock = site.get().clock().clone();
        let mut reloads = site.reloads();
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
                    if let Some(reason) = self.check_deadlines(&mut activity, clock.instant(), clock.now()) {
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

    /// How long until the deadlines are checked.
    fn check_interval(&self) -> Duration {
        let settings = self.stream.settings();
        let limits = [settings.idle, settings.total].into_iter().flatten();
        // A quarter of the shortest limit, so that a deadline passes at most so much late.
        let quarters = limits.filter_map(|limit| limit.checked_div(4));
        quarters.fold(MAX_CHECK_INTERVAL, Duration::min)
    }

    /// Looks at the deadlines, and marks the session as used. Returns why the tunnel has to end.
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

/// What was seen at the last look at a tunnel.
struct Activity {
    /// The bytes that had passed, in both directions.
    bytes: u64,
    /// When bytes were seen to pass last.
    moved: Instant,
    /// When the session was marked as used last.
    used: Timestamp,
}

/// What the access log says of a stream when it ends, however that comes about.
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
