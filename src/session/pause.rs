//! What has just failed is left alone for a while.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why something failed.
pub(super) type Why = Arc<dyn StdError + Send + Sync>;

/// How long at least.
const LEAST: Duration = Duration::from_secs(5);

/// How much longer than the failure took, so that most of the time is for something else.
const SHARE: u32 = 4;

/// Nothing at first.
#[derive(Debug, Default)]
pub(super) struct Pause(Option<(Instant, Why)>);

impl Pause {
    /// After something that took from `began` to `now` and failed.
    pub(super) fn after(began: Instant, now: Instant, why: &Why) -> Self {
        let took = now.saturating_duration_since(began);
        let until = now.checked_add(took.saturating_mul(SHARE).max(LEAST));
        Self(until.map(|until| (until, Arc::clone(why))))
    }

    /// Whether it may be tried again.
    ///
    /// # Errors
    ///
    /// Why it failed last, while it may not.
    pub(super) fn is_over(&self, now: Instant) -> Result<(), Why> {
        match &self.0 {
            Some((until, why)) if now < *until => Err(Arc::clone(why)),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn what_failed_is_tried_again_after_five_seconds_or_four_times_as_long_as_it_took() {
        let began = Clock::system().instant();
        let after = |seconds| began.checked_add(Duration::from_secs(seconds)).unwrap();
        let why: Why = Arc::new(redb::Error::DatabaseClosed);
        assert!(Pause::default().is_over(began).is_ok());
        for (took, over) in [(0, 5), (1, 6), (10, 50)] {
            let pause = Pause::after(began, after(took), &why);
            assert!(pause.is_over(after(over - 1)).is_err(), "{took}");
            assert!(pause.is_over(after(over)).is_ok(), "{took}");
        }
    }
}
