//! Requests whose session has to be refreshed or fetched first.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::flight::{Progress, Seat};
use super::refresh::{Fetched, Outcome, Rest};
use super::trouble::{FIRST_PAUSE, Failure};
use super::{Access, Cause, Decision, Route, absent, judge, unavailable};
use crate::session::{Lookup, SessionId};

/// A request that is decided once something else is: its session is not in memory, or its token
/// has expired.
#[derive(Debug)]
#[must_use]
pub struct Wait<'a> {
    access: &'a Access,
    route: &'a Route,
    need: Need,
    deadline: Instant,
}

/// What was fetched was pushed out again at once: there is more to do than memory for it.
const PUSHED_OUT: Failure = Failure {
    reason: "session_pushed_out",
    retry_after: Duration::from_secs(1),
};

/// What it needs first.
#[derive(Debug)]
enum Need {
    Refresh(Seat<Rest, Outcome>),
    Session(SessionId, Seat<Rest, Fetched>),
}

/// A request whose session is there, but cannot be used now.
#[derive(Debug)]
pub struct Unavailable<'a> {
    /// The route it wants.
    pub route: &'a Route,
    /// Why, as a stable code.
    pub reason: &'static str,
    /// When it makes sense to ask again.
    pub retry_after: Duration,
}

impl<'a> Wait<'a> {
    pub(super) fn for_refresh(
        (access, route): (&'a Access, &'a Route),
        seat: Seat<Rest, Outcome>,
        deadline: Instant,
    ) -> Decision<'a> {
        Decision::Wait(Self {
            access,
            route,
            need: Need::Refresh(seat),
            deadline,
        })
    }

    pub(super) fn for_session(
        (access, route): (&'a Access, &'a Route),
        id: SessionId,
    ) -> Decision<'a> {
        let seat = access.refresher.fetch(id.key());
        Decision::Wait(Self {
            access,
            route,
            need: Need::Session(id, seat),
            deadline: access.refresher.deadline(),
        })
    }

    /// The route it wants.
    pub fn route(&self) -> &'a Route {
        self.route
    }

    /// Waits, and decides. What was fetched may have to be refreshed, so it may be
    /// [`Decision::Wait`] once more; all waits of a request end at the same time.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what is waited for goes on, and its result is kept.
    pub async fn settled(self) -> Decision<'a> {
        let Self {
            access,
            route,
            need,
            deadline,
        } = self;
        match need {
            Need::Refresh(seat) => match seated(seat, deadline).await {
                // The newest token that can be had is used, be its life ever so short.
                Ok(Outcome::Renewed(session)) => judge(route, session),
                Ok(Outcome::Ended) => absent(route, Cause::GrantEnded, None),
                Ok(Outcome::Failed(failure)) | Err(failure) => unavailable(route, failure),
            },
            Need::Session(id, seat) => match seated(seat, deadline).await {
                Ok(Ok(Some(_in_memory))) => {
                    let now = access.refresher.clock().now();
                    match access.sessions.find(&id, now) {
                        Lookup::Live(session) => access.weigh(route, session, now, Some(deadline)),
                        Lookup::Expired => absent(route, Cause::Expired, None),
                        Lookup::Away => unavailable(route, PUSHED_OUT),
                        Lookup::OtherInstance | Lookup::Unknown => {
                            absent(route, Cause::Unknown, None)
                        }
                    }
                }
                Ok(Ok(None)) => absent(route, Cause::Unknown, None),
                Ok(Err(failure)) | Err(failure) => unavailable(route, failure),
            },
        }
    }
}

/// Waits in a seat until `deadline`, or for as long as it makes sense.
///
/// # Cancel safety
///
/// Cancel safe: what is waited for goes on.
pub(super) async fn seated<T: Clone>(
    mut seat: Seat<Rest, T>,
    deadline: Instant,
) -> Result<T, Failure> {
    let mut news = timeout_at(deadline, seat.news()).await;
    loop {
        match news {
            Ok(Progress::Landed(end)) => return Ok(end),
            Ok(Progress::Resting(rest)) if rest.until > deadline => {
                return Err(Failure {
                    reason: rest.reason,
                    retry_after: rest.until.saturating_duration_since(Instant::now()),
                });
            }
            Ok(Progress::Resting(_) | Progress::UnderWay) => {
                news = timeout_at(deadline, seat.other_news()).await;
            }
            Ok(Progress::Lost) => {
                return Err(Failure {
                    reason: "refresh_lost",
                    retry_after: FIRST_PAUSE,
                });
            }
            Err(_elapsed) => {
                return Err(Failure {
                    reason: "refresh_slow",
                    retry_after: FIRST_PAUSE,
                });
            }
        }
    }
}
