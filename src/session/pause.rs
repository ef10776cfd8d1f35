//! What has just failed is left alone for a while.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// Why something failed.
pub(super) type Why = Arc<dyn StdError + Send + Sync>;

/// How long after the first failure; each further one doubles it.
const FIRST: Duration = Duration::from_millis(500);

/// How long at most, unless failing takes so long.
const MOST: Duration = Duration::from_secs(5);

/// How much longer than failing took, so that most of the time is for something else.
const SHARE: u32 = 4;

/// Nothing while all goes well.
#[derive(Debug, Default)]
pub(super) struct Pause(Option<Failed>);

#[derive(Debug)]
struct Failed {
    until: Option<Instant>,
    pause: Duration,
    why: Why,
}

impl Pause {
    /// Something took from `began` to `now` and failed.
    pub(super) fn note_failure(&mut self, began: Instant, now: Instant, why: &Why) {
        let doubled = |failed: &Failed| failed.pause.saturating_mul(2).min(MOST);
        let pause = self.0.as_ref().map_or(FIRST, doubled);
        let took = now.saturating_duration_since(began);
        self.0 = Some(Failed {
            until: now.checked_add(took.saturating_mul(SHARE).max(pause)),
            pause,
            why: Arc::clone(why),
        });
    }

    /// It went well.
    pub(super) fn end(&mut self) {
        self.0 = None;
    }

    /// Makes a pause that goes on last for an hour, whatever the machine of a test is busy with.
    #[cfg(test)]
    pub(super) fn prolong(&mut self) {
        if let Some(failed) = &mut self.0 {
            let until = failed.until.unwrap();
            failed.until = until.checked_add(Duration::from_hours(1));
        }
    }

    /// Whether it may be tried again.
    ///
    /// # Errors
    ///
    /// Why it failed last, while it may not.
    pub(super) fn is_over(&self, now: Instant) -> Result<(), Why> {
        match &self.0 {
            Some(failed) if failed.until.is_some_and(|until| now < until) => {
                Err(Arc::clone(&failed.why))
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
    fn what_keeps_failing_is_tried_ever_less_and_once_a_look_takes_long_less_than_that() {
        let began = Clock::system().instant();
        let after = |millis| began.checked_add(Duration::from_millis(millis)).unwrap();
        let why: Why = Arc::new(redb::Error::DatabaseClosed);
        let mut pause = Pause::default();
        assert!(pause.is_over(began).is_ok());
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
            pause.note_failure(began, after(took), &why);
            assert!(pause.is_over(after(over - 1)).is_err(), "{over}");
            assert!(pause.is_over(after(over)).is_ok(), "{over}");
        }
        pause.end();
        pause.note_failure(began, began, &why);
        assert!(pause.is_over(after(500)).is_ok());
    }
}
