//! Whether the server could be reached lately.
//!
//! A login that cannot be completed is better not begun: before a browser is sent away, the server
//! is connected to, unless that was done a moment ago. However many logins begin at once, one of
//! them asks and the others wait for its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;

use super::{ReachError, Unreachable};
use crate::clock::{Clock, Timestamp};

/// For how long a server that answered is taken to be there.
const SUCCESS_LIFETIME: Duration = Duration::from_secs(10);

/// How long a server that did not answer is left alone.
const FAILURE_LIFETIME: Duration = Duration::from_secs(5);

/// What is known of the server's being there.
#[derive(Debug, Default)]
pub(super) struct Reachability {
    /// When it last answered, in milliseconds; 0 for never, or not any more.
    answered: AtomicU64,
    failed: ArcSwapOption<Failed>,
    asking: Mutex<()>,
}

#[derive(Debug)]
struct Failed {
    at: Timestamp,
    cause: Arc<ReachError>,
}

impl Reachability {
    /// What was found out a moment ago, if anything was. Waits for nothing.
    ///
    /// # Errors
    ///
    /// [`Unreachable`] when it failed.
    pub(super) fn recent(&self, now: Timestamp) -> Option<Result<(), Unreachable>> {
        // A clock that was set back makes neither of them last.
        let within = |at: Timestamp, time| at <= now && now.since(at) < time;
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

    /// Reaches the server with `reach`, unless that was done a moment ago.
    ///
    /// # Errors
    ///
    /// [`Unreachable`] when it fails, or has failed a moment ago.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the next one reaches again.
    pub(super) async fn ensure(
        &self,
        clock: &Clock,
        reach: impl Future<Output = Result<(), ReachError>>,
    ) -> Result<(), Unreachable> {
        let _one = self.asking.lock().await;
        if let Some(recent) = self.recent(clock.now()) {
            return recent;
        }
        let reached = reach.await;
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

    /// Forgets that the server answered: a call of it has failed since.
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
