//! The guard of a stream watches the session, the settings and the time limits of the stream, and
//! reports when the stream has to end.

use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::{ObservedStream, StreamBytes};
use crate::access::{Continues, REFUSED_BY_RULE, StreamKind, StreamPermit};
use crate::clock::{Clock, Timestamp};
use crate::gateway::site::{CurrentSite, Reloads};
use crate::session::{EndReason, EndRegistry, EndWatch, SessionEvent, WatchError};
use crate::target::Target;

/// The minimum time between two updates of the last use of a session. While the client sends bytes,
/// the stream updates the time of its session's last use.
const USE_INTERVAL: Duration = Duration::from_mins(1);

/// The longest time between two checks of a stream's deadlines.
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(15);

/// The reason why a stream has to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cut {
    /// The category of the reason.
    pub(in crate::gateway) cause: CutCause,
    /// The stable code of the reason, for logs and metrics.
    pub(in crate::gateway) reason: &'static str,
}

/// The category of a reason to end a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::gateway) enum CutCause {
    /// A time limit has passed, or the gateway cannot read the session at the moment. If the client
    /// sends its request again, the new request can succeed.
    Limit,
    /// The rule of the route refuses the user, or the route no longer exists.
    Rule,
    /// The session has ended.
    Session,
}

const RULE: Cut = Cut {
    cause: CutCause::Rule,
    reason: REFUSED_BY_RULE,
};

/// The guard of one stream.
pub(in crate::gateway) struct StreamGuard {
    stream: StreamPermit,
    target: Target,
    kind: StreamKind,
    site: Rc<CurrentSite>,
    clock: Clock,
    ends: EndRegistry,
    following: Following,
    reloads: Reloads,
    activity: Activity,
    /// The time at which the time limits of the route begin. While `limits_since` is `None`, the
    /// time limits do not apply.
    limits_since: Option<Instant>,
    /// If the session of the stream has ended, this field states how long the stream may still
    /// continue.
    grace: Option<Grace>,
}

/// States whether the guard watches for the end of the stream's session.
enum Following {
    /// The guard has not begun to follow the session of the stream.
    NotYet,
    /// The stream has no session, or its session has ended.
    Nothing,
    Session(EndWatch),
}

/// The time for which a stream may continue after the end of its session.
#[derive(Clone, Copy)]
struct Grace {
    until: Timestamp,
    /// The stable code for the end of the session.
    reason: &'static str,
}

/// The data that the guard recorded when it last checked the activity of the stream.
struct Activity {
    /// The number of bytes in both directions that the stream had transferred at the time of the
    /// last check.
    bytes: u64,
    /// The time at which the guard last found that the stream had transferred new bytes.
    moved: Instant,
    /// The number of bytes that the client had sent when the stream last reported a use of the
    /// session.
    used_at: u64,
    /// The time at which the stream last reported a use of the session.
    used: Timestamp,
}

impl StreamGuard {
    pub(super) fn new(
        (stream, target, kind): (StreamPermit, Target, StreamKind),
        site: &Rc<CurrentSite>,
        ends: EndRegistry,
    ) -> Self {
        let clock = site.get().clock().clone();
        Self {
            stream,
            target,
            kind,
            site: Rc::clone(site),
            ends,
            following: Following::NotYet,
            reloads: site.reloads(),
            activity: Activity {
                bytes: 0,
                moved: clock.instant(),
                used_at: 0,
                used: clock.now(),
            },
            clock,
            limits_since: None,
            grace: None,
        }
    }

    pub(in crate::gateway) fn stream(&self) -> &StreamPermit {
        &self.stream
    }

    /// Applies the time limits of the route to a stream that began at `started`.
    pub(in crate::gateway) fn apply_limits(&mut self, started: Instant) {
        self.limits_since = Some(started);
        self.activity.moved = self.clock.instant();
    }

    /// Waits until the session, the settings or a time limit end the stream.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(in crate::gateway) async fn ended(&mut self, observed: &dyn ObservedStream) -> Cut {
        if let Err(cut) = self.follow().await {
            return cut;
        }
        loop {
            let interval = self.check_interval();
            let event = async {
                match &self.following {
                    Following::Session(watch) => watch.next().await,
                    Following::Nothing | Following::NotYet => pending().await,
                }
            };
            let continues = tokio::select! {
                event = event => match event {
                    SessionEvent::Ended(why) => self.session_ended(why),
                    SessionEvent::Renewed(session) => allowed(self.stream.renewed(session)),
                },
                () = self.reloads.changed() => self.check_rule(),
                () = self.clock.sleep(interval) => self.check_deadlines(observed.bytes()),
            };
            if let Err(cut) = continues {
                return cut;
            }
        }
    }

    /// Begins to follow the session of the stream. After `follow` has succeeded, further calls of
    /// `follow` do nothing.
    async fn follow(&mut self) -> Result<(), Cut> {
        let Following::NotYet = self.following else {
            return Ok(());
        };
        let watch = self.stream.watch(&self.ends).await.map_err(|error| {
            let (cause, reason) = match error {
                WatchError::Ended => (CutCause::Session, "session_unknown"),
                WatchError::Unavailable(reason) => (CutCause::Limit, reason),
            };
            Cut { cause, reason }
        })?;
        self.following = watch.map_or(Following::Nothing, Following::Session);
        // A reload may have changed the rules after the gateway decided about the request.
        self.check_rule()
    }

    fn check_rule(&mut self) -> Result<(), Cut> {
        let site = self.site.get();
        // A reload may have removed the host of the stream.
        if site.public_url(self.target.authority()).is_none() {
            return Err(RULE);
        }
        allowed(self.stream.reloaded(&site.access, &self.target, self.kind))
    }

    fn session_ended(&mut self, why: EndReason) -> Result<(), Cut> {
        let reason = why.reason();
        let Some(grace) = grace(why, self.stream.settings().grace) else {
            let cause = CutCause::Session;
            return Err(Cut { cause, reason });
        };
        self.following = Following::Nothing;
        let until = self.clock.now().plus(grace);
        self.grace = Some(Grace { until, reason });
        Ok(())
    }

    /// The time until the next check of the deadlines.
    fn check_interval(&self) -> Duration {
        let settings = self.stream.settings();
        let limits = [settings.idle, settings.total].into_iter().flatten();
        // The interval between two checks is at most a quarter of the shortest time limit. A stream
        // can run longer than its limit, but only by at most a quarter of the shortest limit.
        let quarters = limits.filter_map(|limit| limit.checked_div(4));
        let interval = quarters.fold(MAX_CHECK_INTERVAL, Duration::min);
        let grace = self.grace.map(|grace| grace.until.since(self.clock.now()));
        grace.map_or(interval, |left| left.min(interval))
    }

    /// Checks the deadlines of the stream, and updates the time at which the session was last used.
    fn check_deadlines(&mut self, bytes: StreamBytes) -> Result<(), Cut> {
        let (now, time) = (self.clock.instant(), self.clock.now());
        let activity = &mut self.activity;
        if bytes.sum() != activity.bytes {
            (activity.bytes, activity.moved) = (bytes.sum(), now);
        }
        if bytes.from_client != activity.used_at && time.since(activity.used) >= USE_INTERVAL {
            (activity.used_at, activity.used) = (bytes.from_client, time);
            self.stream.mark_used(time);
        }
        if let Some(grace) = self.grace.filter(|grace| time >= grace.until) {
            let (cause, reason) = (CutCause::Session, grace.reason);
            return Err(Cut { cause, reason });
        }
        let Some(started) = self.limits_since else {
            return Ok(());
        };
        let settings = self.stream.settings();
        let passed = |since: Instant, limit: Option<Duration>| {
            limit.is_some_and(|limit| now.saturating_duration_since(since) >= limit)
        };
        let cause = CutCause::Limit;
        if passed(started, settings.total) {
            let reason = "stream_too_long";
            Err(Cut { cause, reason })
        } else if passed(self.activity.moved, settings.idle) {
            let reason = "stream_idle";
            Err(Cut { cause, reason })
        } else {
            Ok(())
        }
    }
}

/// Returns the time for which a stream may continue after its session has ended for the reason
/// `why`. `of_route` is the setting `grace_secs` of the route.
fn grace(why: EndReason, of_route: Option<Duration>) -> Option<Duration> {
    match why {
        EndReason::Absolute | EndReason::Idle => of_route,
        // If a session ends for any reason other than a deadline, its streams end immediately.
        EndReason::Elsewhere
        | EndReason::GrantEnded
        | EndReason::ProviderRemoved
        | EndReason::Evicted
        | EndReason::RefusedByApp
        | EndReason::Replaced
        | EndReason::Revoked
        | EndReason::SignedOut
        | EndReason::SignedOutAtProvider
        | EndReason::Unconfirmed => None,
    }
}

fn allowed(continues: Continues) -> Result<(), Cut> {
    match continues {
        Continues::Yes => Ok(()),
        Continues::No => Err(RULE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_deadline_gives_the_grace_of_the_route() {
        let of_route = Some(Duration::from_secs(90));
        for why in [EndReason::Absolute, EndReason::Idle] {
            assert_eq!(grace(why, of_route), of_route, "{why:?}");
            assert_eq!(grace(why, None), None, "{why:?}");
        }
        for why in [
            EndReason::Elsewhere,
            EndReason::GrantEnded,
            EndReason::ProviderRemoved,
            EndReason::Evicted,
            EndReason::RefusedByApp,
            EndReason::Replaced,
            EndReason::Revoked,
            EndReason::SignedOut,
            EndReason::SignedOutAtProvider,
            EndReason::Unconfirmed,
        ] {
            assert_eq!(grace(why, of_route), None, "{why:?}");
        }
    }
}
