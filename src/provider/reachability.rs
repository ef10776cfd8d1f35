//! Remembers whether the gateway could recently reach a provider.
//!
//! The gateway should not begin a login that cannot be completed. Before the gateway redirects a
//! browser to the provider, the gateway itself connects to the provider. If the gateway has
//! recently connected to the provider, the gateway makes no new connection before the redirect. If
//! several logins begin at the same time, only the first login connects, and the other logins wait
//! for the result of the first login.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;

use super::{ReachError, Unreachable};
use crate::clock::{Clock, Timestamp};

/// The time for which a successful attempt to reach the provider counts as recent.
const SUCCESS_LIFETIME: Duration = Duration::from_secs(10);

/// The time during which a failure counts as recent. After a recent failure, the gateway makes no
/// new attempt.
const FAILURE_LIFETIME: Duration = Duration::from_secs(5);

/// The results of the last attempts to reach the provider.
#[derive(Debug, Default)]
pub(super) struct Reachability {
    /// The time of the last successful attempt, in milliseconds. `answered` is 0 before the first
    /// successful attempt, and after a failed call to the provider.
    answered: AtomicU64,
    failed: ArcSwapOption<Failed>,
    /// A task holds this lock while the task tries to reach the provider, so that only one task
    /// tries at a time.
    attempt: Mutex<()>,
}

#[derive(Debug)]
struct Failed {
    at: Timestamp,
    cause: Arc<ReachError>,
}

impl Reachability {
    /// Returns the result of the last attempt to reach the provider. Returns `None` if this result
    /// is too old. The function returns immediately.
    ///
    /// # Errors
    ///
    /// Returns [`Unreachable`] if the last attempt failed and its result is not too old.
    pub(super) fn recent(&self, now: Timestamp) -> Option<Result<(), Unreachable>> {
        // If the time of a result is in the future, the clock was set back after the attempt, so
        // this function ignores this result.
        let within = |at: Timestamp, time| at <= now && now.since(at) < time;
        // `Relaxed` is sufficient, because no other data depends on `answered`.
        let answered = Timestamp::from_millis(self.answered.load(Ordering::Relaxed));
        if answered > Timestamp::default() && within(answered, SUCCESS_LIFETIME) {
            return Some(Ok(()));
        }
        let failed = self.failed.load();
        let failed = failed
            .as_ref()
            .filter(|failed| within(failed.at, FAILURE_LIFETIME))?;
        Some(Err(Unreachable {
            retry_after: FAILURE_LIFETIME.saturating_sub(now.since(failed.at)),
            cause: Some(Arc::clone(&failed.cause)),
        }))
    }

    /// Returns the result of a recent attempt to reach the provider. If there was no recent
    /// attempt, the function calls `reach` and returns the result of `reach`.
    ///
    /// # Errors
    ///
    /// Returns [`Unreachable`] if the attempt fails, or if a recent attempt has failed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. After a cancelled attempt, the next caller makes a new attempt.
    pub(super) async fn ensure(
        &self,
        clock: &Clock,
        reach: impl Future<Output = Result<(), ReachError>>,
    ) -> Result<(), Unreachable> {
        let _attempt = self.attempt.lock().await;
        // While this task waited for the lock, another task may have tried to reach the provider.
        if let Some(recent) = self.recent(clock.now()) {
            return recent;
        }
        let reached = reach.await;
        // An attempt can take seconds, so the clock is read again after the attempt.
        let at = clock.now();
        match reached {
            Ok(()) => {
                self.failed.store(None);
                self.answered.store(at.as_millis(), Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                let cause = Arc::new(error);
                let retry_after = FAILURE_LIFETIME;
                let failed = Failed {
                    at,
                    cause: Arc::clone(&cause),
                };
                self.failed.store(Some(Arc::new(failed)));
                Err(Unreachable {
                    retry_after,
                    cause: Some(cause),
                })
            }
        }
    }

    /// Forgets the last success, because a later call has failed.
    pub(super) fn forget_success(&self) {
        self.answered.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::provider::NotReady;

    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    #[tokio::test]
    async fn a_provider_is_checked_again_when_the_last_success_is_old() {
        let (reachability, clock) = (Reachability::default(), Clock::manual(START));
        let asked = Cell::new(0);
        let ask = async || {
            asked.set(asked.get() + 1);
            Ok(())
        };
        for (wait, times) in [(0, 1), (9, 1), (1, 2)] {
            clock.advance(Duration::from_secs(wait));
            reachability.ensure(&clock, ask()).await.unwrap();
            assert_eq!(asked.get(), times);
        }
        reachability.forget_success();
        reachability.ensure(&clock, ask()).await.unwrap();
        assert_eq!(asked.get(), 3);
    }

    #[tokio::test]
    async fn a_provider_that_is_down_is_not_checked_for_a_while() {
        let (reachability, clock) = (Reachability::default(), Clock::manual(START));
        assert!(
            reachability
                .ensure(&clock, async { Err(NotReady.into()) })
                .await
                .is_err()
        );
        clock.advance(Duration::from_secs(2));
        let error = reachability
            .ensure(&clock, async { Ok(()) })
            .await
            .unwrap_err();
        assert_eq!(error.retry_after, Duration::from_secs(3));
        assert_eq!(error.reason(), NotReady.reason());
        clock.advance(Duration::from_secs(3));
        assert!(reachability.ensure(&clock, async { Ok(()) }).await.is_ok());
    }
}
