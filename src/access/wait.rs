//! Requests that wait for the refresh or fetch of their session.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::backoff::{FIRST_PAUSE, FailureLocation, SessionFailure};
use super::flight::{Progress, Waiter};
use super::outcome::{Fetched, FlightResult, Outcome, RetryPause};
use super::{Access, Cause, Decision, Route};
use crate::clock::{Clock, Timestamp};
use crate::session::{Lookup, Session, SessionRef};

/// Whether the access token of a session has expired, and a refresh can replace it.
fn is_expired(session: &Session, now: Timestamp) -> bool {
    session.tokens().can_replace_expired(now)
}

/// The maximum number of further refreshes for which a request waits if each new token is too old.
const FURTHER_REFRESHES: usize = 2;

/// A request for which no decision is possible yet. The session of the request is not in memory, or
/// the access token of the session has expired.
#[derive(Debug)]
#[must_use]
pub(crate) struct Wait {
    access: Rc<Access>,
    route: Rc<Route>,
    need: Need,
    deadline: Instant,
}

/// The shared task for which the request waits: a refresh or a fetch of its session.
#[derive(Debug)]
enum Need {
    Refresh(Waiter<RetryPause, Outcome>),
    Session(Waiter<RetryPause, Fetched>),
}

/// A request whose session exists but cannot be used now.
#[derive(Debug)]
pub(crate) struct Unavailable {
    /// The route of the request.
    pub route: Rc<Route>,
    /// The reason why the session cannot be used now, as a stable code.
    pub(crate) reason: &'static str,
    /// The component that failed: the provider or the store.
    pub(crate) location: FailureLocation,
    /// The time after which a retry is useful.
    pub(crate) retry_after: Duration,
}

impl Wait {
    pub(super) fn for_refresh(
        access: &Rc<Access>,
        route: &Rc<Route>,
        waiter: Waiter<RetryPause, Outcome>,
        deadline: Instant,
    ) -> Decision {
        Decision::Wait(Self {
            access: Rc::clone(access),
            route: Rc::clone(route),
            need: Need::Refresh(waiter),
            deadline,
        })
    }

    pub(super) fn for_session(
        access: &Rc<Access>,
        route: &Rc<Route>,
        named: SessionRef,
    ) -> Decision {
        let waiter = access.refresher.fetch(*named.key());
        Decision::Wait(Self {
            deadline: access.deadline(),
            access: Rc::clone(access),
            route: Rc::clone(route),
            need: Need::Session(waiter),
        })
    }

    /// The route of the request.
    pub(crate) fn route(&self) -> &Rc<Route> {
        &self.route
    }

    /// Waits for the session, and then decides about the request. A fetched session may need a
    /// refresh, so the result may be another [`Decision::Wait`]. All waits of a request have the
    /// same deadline.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the refresh or fetch continues, and its result is kept.
    pub(crate) async fn decide(self) -> Decision {
        let Self {
            access,
            route,
            need,
            deadline,
        } = self;
        match need {
            Need::Refresh(waiter) => {
                match access.wait_for_refresh(waiter, deadline, is_expired).await {
                    Outcome::Renewed(session) => access.apply_rule(&route, session),
                    Outcome::Ended => access.without_session(&route, Cause::GrantEnded, None),
                    Outcome::Failed(failure) => access.unavailable(&route, failure),
                }
            }
            Need::Session(waiter) => {
                match wait_for(waiter, deadline, access.refresher.clock()).await {
                    Fetched::Found(session) => {
                        let now = access.refresher.clock().now();
                        match access.sessions.find_fetched(session, now) {
                            Lookup::Live(session) => {
                                access.decide_for_session(&route, session, now, Some(deadline))
                            }
                            Lookup::Expired => access.without_session(&route, Cause::Expired, None),
                            Lookup::Away | Lookup::OtherInstance | Lookup::Unknown => {
                                access.without_session(&route, Cause::Unknown, None)
                            }
                        }
                    }
                    Fetched::Unknown => access.without_session(&route, Cause::Unknown, None),
                    Fetched::Failed(failure) => access.unavailable(&route, failure),
                }
            }
        }
    }
}

impl Access {
    /// Waits for the result of a refresh until `deadline`. If the provider or the store has answered
    /// late, the new token may be `too_old` already, so this function then waits for further
    /// refreshes. After the last refresh, or if a further refresh fails, the request gets the newest
    /// token. The app may still accept it, because some providers state a lifetime that is too short.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the refresh continues.
    pub(super) async fn wait_for_refresh(
        &self,
        waiter: Waiter<RetryPause, Outcome>,
        deadline: Instant,
        too_old: impl Fn(&Session, Timestamp) -> bool,
    ) -> Outcome {
        let clock = self.refresher.clock();
        let mut outcome = wait_for(waiter, deadline, clock).await;
        for _ in 0..FURTHER_REFRESHES {
            let now = clock.now();
            let Outcome::Renewed(session) = &outcome else {
                break;
            };
            if session.tokens().refresh_token().is_none() || !too_old(session, now) {
                break;
            }
            let Ok(waiter) = self.refresher.join(session, now, self.max_wait) else {
                break;
            };
            match wait_for(waiter, deadline, clock).await {
                Outcome::Failed(_) => break,
                newer @ (Outcome::Renewed(_) | Outcome::Ended) => outcome = newer,
            }
        }
        outcome
    }
}

/// Waits for the result of a shared task until `deadline`. The function does not wait for an
/// attempt that starts after `deadline`.
///
/// # Cancel safety
///
/// If the future is dropped, the shared task continues.
pub(super) async fn wait_for<T: FlightResult>(
    mut waiter: Waiter<RetryPause, T>,
    deadline: Instant,
    clock: &Clock,
) -> T {
    let mut progress = timeout_at(deadline, waiter.progress()).await;
    let (reason, retry_after) = loop {
        match progress {
            Ok(Progress::Finished(end)) => return end,
            Ok(Progress::Paused(pause)) => {
                let rest = pause.until.since(clock.now());
                // The pause of the shared task ends after the deadline of this request, so this
                // request stops waiting now.
                if rest > deadline.saturating_duration_since(clock.instant()) {
                    break (pause.reason, rest);
                }
                progress = timeout_at(deadline, waiter.next_progress()).await;
            }
            Ok(Progress::UnderWay) => progress = timeout_at(deadline, waiter.next_progress()).await,
            Ok(Progress::Lost) => break (T::LOST, FIRST_PAUSE),
            Err(_elapsed) => break (T::SLOW, FIRST_PAUSE),
        }
    };
    T::failed(SessionFailure {
        reason,
        retry_after,
    })
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::Arc;

    use tokio::runtime::Handle;

    use super::*;
    use crate::access::flight::Flights;
    use crate::access::report::store_failure;
    use crate::session::{SessionId, SessionKey, StoreError, StoreTag};

    #[tokio::test]
    async fn store_failures_and_provider_failures_are_distinguished() {
        let full = || Arc::new(fmt::Error);
        for error in [
            StoreError::Closed,
            StoreError::Damaged,
            StoreError::Newer,
            StoreError::NotCommitted(full()),
            StoreError::Refused(full()),
            StoreError::Unavailable(full()),
            StoreError::UnknownKey,
            StoreError::Unreadable(full()),
        ] {
            let reason = store_failure(&error, "stored").reason;
            assert_eq!(reason.location, FailureLocation::Store, "{reason:?}");
        }
        for reason in [Fetched::SLOW, Fetched::LOST] {
            assert_eq!(reason.location, FailureLocation::Store, "{reason:?}");
        }
        for reason in [Outcome::SLOW, Outcome::LOST] {
            assert_eq!(reason.location, FailureLocation::Provider, "{reason:?}");
        }
    }

    #[tokio::test]
    async fn waiting_for_a_session_and_for_a_refresh_have_different_reasons() {
        async fn reasons<T: FlightResult + Send + Sync + 'static>(
            failure: fn(T) -> Option<SessionFailure>,
        ) -> [&'static str; 2] {
            let clock = &Clock::system();
            let flights = Flights::<SessionKey, RetryPause, T>::new(Handle::current());
            let key = SessionId::random(StoreTag::random().unwrap())
                .unwrap()
                .key();
            let waiter = flights.join(key, |leader| async move {
                leader.no_waiters().await;
            });
            let now = clock.instant();
            let slow = wait_for(waiter, now, clock).await;
            flights.none().await;
            let waiter = flights.join(key, |leader| async { drop(leader) });
            let deadline = now + Duration::from_mins(1);
            let lost = wait_for(waiter, deadline, clock).await;
            [slow, lost].map(|end| failure(end).expect("a failure").reason.code)
        }
        let refresh = reasons(|end| match end {
            Outcome::Failed(failure) => Some(failure),
            Outcome::Ended | Outcome::Renewed(_) => None,
        })
        .await;
        assert_eq!(refresh, ["refresh_slow", "refresh_lost"]);
        let fetch = reasons(|end| match end {
            Fetched::Failed(failure) => Some(failure),
            Fetched::Found(_) | Fetched::Unknown => None,
        })
        .await;
        assert_eq!(fetch, ["session_read_slow", "session_read_lost"]);
    }
}
