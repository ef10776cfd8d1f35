//! Pauses after failures: a failed operation is tried again only after a pause.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// The error with which an operation failed.
pub(super) type Cause = Arc<dyn StdError + Send + Sync>;

/// The pause after the first failure. Each further failure doubles the pause.
const FIRST: Duration = Duration::from_millis(500);

/// The longest pause, except after a very slow operation (see `FACTOR`).
const LONGEST: Duration = Duration::from_secs(5);

/// The pause is at least `FACTOR` times as long as the failed operation, so that the thread of the
/// store spends only a small part of its time on operations that fail.
const FACTOR: u32 = 4;

/// The current pause of one operation, or `None` if the last attempt succeeded.
#[derive(Debug, Default)]
pub(super) struct Pause(Option<Failed>);

#[derive(Debug)]
struct Failed {
    until: Option<Instant>,
    pause: Duration,
    cause: Cause,
}

impl Pause {
    /// Records that the operation started at `began` and failed at `now`.
    pub(super) fn note_failure(&mut self, began: Instant, now: Instant, cause: &Cause) {
        let doubled = |failed: &Failed| failed.pause.saturating_mul(2).min(LONGEST);
        let pause = self.0.as_ref().map_or(FIRST, doubled);
        let took = now.saturating_duration_since(began);
        self.0 = Some(Failed {
            until: now.checked_add(took.saturating_mul(FACTOR).max(pause)),
            pause,
            cause: Arc::clone(cause),
        });
    }

    /// Records that the operation succeeded, and ends the pause.
    pub(super) fn end(&mut self) {
        self.0 = None;
    }

    /// Extends a pause by one hour, so that the pause does not end during a test on a slow machine.
    #[cfg(test)]
    pub(super) fn prolong(&mut self) {
        if let Some(failed) = &mut self.0 {
            let until = failed.until.unwrap();
            failed.until = until.checked_add(Duration::from_hours(1));
        }
    }

    /// Returns an error if the pause is not over.
    ///
    /// # Errors
    ///
    /// Returns the cause of the last failure if the pause is not over.
    pub(super) fn check(&self, now: Instant) -> Result<(), Cause> {
        match &self.0 {
            Some(failed) if failed.until.is_some_and(|until| now < until) => {
                Err(Arc::clone(&failed.cause))
            }
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn pauses_double_up_to_the_longest_and_grow_with_the_time_that_a_failure_takes() {
        let began = Clock::system().instant();
        let after = |millis| began.checked_add(Duration::from_millis(millis)).unwrap();
        let cause: Cause = Arc::new(redb::Error::DatabaseClosed);
        let mut pause = Pause::default();
        assert!(pause.check(began).is_ok());
        let rounds = [
            (0, 500),
            (0, 1000),
            (0, 2000),
            (0, 4000),
            (0, 5000),
            (1000, 6000),
            (10_000, 50_000),
        ];
        for (took, over) in rounds {
            pause.note_failure(began, after(took), &cause);
            assert!(pause.check(after(over - 1)).is_err(), "{over}");
            assert!(pause.check(after(over)).is_ok(), "{over}");
        }
        pause.end();
        pause.note_failure(began, began, &cause);
        assert!(pause.check(after(500)).is_ok());
    }
}
