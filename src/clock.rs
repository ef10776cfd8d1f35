//! Time as an argument.
//!
//! Deadlines of sessions and tokens are [`Timestamp`]s: milliseconds of Unix time with saturating
//! arithmetic. Deadlines of connections are [`Instant`]s. Code that needs the time receives a
//! [`Clock`] as an argument. Only `Clock` reads the time. Tests use a manual clock.

use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// A point in time, in milliseconds since the Unix epoch. Arithmetic saturates.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The latest timestamp: a deadline that never passes.
    pub(crate) const MAX: Self = Self(u64::MAX);

    /// From whole milliseconds since the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// From seconds since the epoch with a fraction, as in a JWT `NumericDate` (RFC 7519 section
    /// 2). Negative values and NaN become the epoch. Too large values become [`Timestamp::MAX`].
    pub(crate) fn from_seconds(seconds: f64) -> Self {
        // A cast from a float to an integer saturates and maps NaN to zero, as documented above.
        #[expect(
            clippy::as_conversions,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the saturating cast is the wanted behaviour"
        )]
        Self((seconds * 1000.0) as u64)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// This time plus `duration`.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// The duration from `earlier` to this time, or zero if this time is not later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// The source of the time: the system clock, or a manual clock for tests.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    /// The time that the clock shows.
    Manual(watch::Sender<Timestamp>),
}

impl Clock {
    /// The clock of the system.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that shows `start` until [`Clock::advance`] or [`Clock::set`] changes it. Clones
    /// share the time.
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(watch::Sender::new(start)))
    }

    /// The current time. A system clock before 1970 returns the epoch.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the only place that reads the time"
                )]
                let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                Timestamp::default().plus(since_epoch.unwrap_or_default())
            }
            Source::Manual(shown) => *shown.borrow(),
        }
    }

    /// A monotonic reading, to measure durations and to set deadlines of the runtime's timers. A
    /// manual clock returns the runtime's reading too, because it cannot advance timers that other
    /// code has set.
    pub fn instant(&self) -> Instant {
        #[expect(
            clippy::disallowed_methods,
            reason = "the only place that reads the time"
        )]
        Instant::now()
    }

    /// Waits for `duration`. With a manual clock the wait also ends when the clock is advanced by
    /// `duration`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn sleep(&self, duration: Duration) {
        match &self.0 {
            Source::System => sleep(duration).await,
            Source::Manual(shown) => {
                let due = self.now().plus(duration);
                let mut shown = shown.subscribe();
                tokio::select! {
                    _turned = shown.wait_for(|now| *now >= due) => {}
                    () = sleep(duration) => {}
                }
            }
        }
    }

    /// Advances a manual clock. A system clock does not change.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(shown) = &self.0 {
            shown.send_modify(|now| *now = now.plus(by));
        }
    }

    /// Sets a manual clock, forward or back. A system clock does not change.
    pub fn set(&self, to: Timestamp) {
        if let Source::Manual(shown) = &self.0 {
            shown.send_replace(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Timestamp::MAX.plus(Duration::from_secs(1)), Timestamp::MAX);
        assert_eq!(
            Timestamp::from_millis(1).since(Timestamp::from_millis(5)),
            Duration::ZERO
        );
        assert_eq!(Timestamp::from_seconds(1e300), Timestamp::MAX);
        assert_eq!(Timestamp::from_seconds(-1.0), Timestamp::default());
        assert_eq!(Timestamp::from_seconds(f64::NAN), Timestamp::default());
    }

    #[test]
    fn fractions_of_a_numeric_date_are_kept() {
        let exp = Timestamp::from_seconds(1_752_871_693.216_132);
        assert_eq!(exp.as_millis(), 1_752_871_693_216);
        assert_eq!(exp.as_secs(), 1_752_871_693);
    }

    #[test]
    fn clones_of_a_manual_clock_turn_together() {
        let clock = Clock::manual(Timestamp::from_millis(10));
        let other = clock.clone();
        clock.advance(Duration::from_millis(5));
        assert_eq!(other.now(), Timestamp::from_millis(15));
        other.set(Timestamp::from_millis(3));
        assert_eq!(clock.now(), Timestamp::from_millis(3));
    }

    #[tokio::test]
    async fn advancing_a_manual_clock_ends_the_sleeps_that_are_due() {
        let clock = Clock::manual(Timestamp::from_millis(10));
        let other = clock.clone();
        let hour = Duration::from_hours(1);
        let mut slept = std::pin::pin!(clock.sleep(hour));
        let mut turn = async |by| {
            other.advance(by);
            tokio::time::timeout(Duration::from_millis(1), &mut slept).await
        };
        assert!(turn(Duration::ZERO).await.is_err());
        assert!(
            turn(hour.saturating_sub(Duration::from_millis(1)))
                .await
                .is_err()
        );
        assert!(turn(Duration::from_millis(1)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_by_itself_with_any_clock() {
        for clock in [Clock::system(), Clock::manual(Timestamp::default())] {
            let before = clock.instant();
            clock.sleep(Duration::from_hours(1)).await;
            let waited = clock.instant().duration_since(before);
            assert!(waited >= Duration::from_hours(1), "{waited:?}");
        }
    }
}
