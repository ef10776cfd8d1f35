//! The clock of the gateway, and the type for points in time.
//!
//! Deadlines of sessions and tokens are [`Timestamp`]s, which count the milliseconds since the Unix
//! epoch. Deadlines of connections are [`Instant`]s. Code that needs the time receives a [`Clock`]
//! as an argument. Only `Clock` reads the time. Tests use a manual clock.

use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// A point in time, in milliseconds since the Unix epoch. A calculation that would overflow returns
/// the smallest or the largest timestamp.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The latest timestamp: a deadline that never passes.
    pub(crate) const MAX: Self = Self(u64::MAX);

    /// Creates a timestamp from whole milliseconds since the Unix epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Creates a timestamp from seconds since the Unix epoch, for example from the `NumericDate` of
    /// a JWT (RFC 7519 section 2). The number `seconds` can have a fraction. A negative number and
    /// NaN become the epoch. A number that is too large becomes [`Timestamp::MAX`].
    pub(crate) fn from_seconds(seconds: f64) -> Self {
        // In Rust, a cast from a float to an integer saturates and maps NaN to zero.
        #[expect(
            clippy::as_conversions,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the saturating cast is the wanted behaviour"
        )]
        Self((seconds * 1000.0) as u64)
    }

    /// Returns the milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Returns the whole seconds since the Unix epoch.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// Returns the time that is `duration` later than `self`.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// Returns the duration from `earlier` to this time, or zero if `earlier` is later than this
    /// time.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// The source of the time: the system clock, or a manual clock for tests.
#[derive(Clone, Debug)]
pub struct Clock(Source);

/// The start of a measurement with [`Clock::stopwatch`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Started);

#[derive(Clone, Copy, Debug)]
enum Started {
    System(Instant),
    Manual(Timestamp),
}

#[derive(Clone, Debug)]
enum Source {
    System,
    /// The time that the manual clock shows.
    Manual(watch::Sender<Timestamp>),
}

impl Clock {
    /// Returns the system clock.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// Returns a clock that shows `start` until [`Clock::advance`] or [`Clock::set`] changes its
    /// time. All clones of a manual clock show the same time.
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(watch::Sender::new(start)))
    }

    /// Returns true if only [`Clock::advance`] and [`Clock::set`] change the time.
    pub(crate) fn is_manual(&self) -> bool {
        matches!(self.0, Source::Manual(_))
    }

    /// Returns the current time. If the system clock shows a time before 1970, the result is the
    /// epoch.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp::default().plus(self.since_epoch()),
            Source::Manual(shown) => *shown.borrow(),
        }
    }

    /// Returns the time since the Unix epoch. The time of the system clock is exact, and the time
    /// of a manual clock has whole milliseconds.
    pub(crate) fn since_epoch(&self) -> Duration {
        match &self.0 {
            Source::System => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the only place that reads the time"
                )]
                let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                since_epoch.unwrap_or_default()
            }
            Source::Manual(shown) => Duration::from_millis(shown.borrow().as_millis()),
        }
    }

    /// Returns a monotonic time. The monotonic time is for the measurement of durations and for the
    /// deadlines of the runtime's timers. A manual clock also returns the runtime's time, because a
    /// manual clock cannot advance timers in other code.
    pub fn instant(&self) -> Instant {
        #[expect(
            clippy::disallowed_methods,
            reason = "the only place that reads the time"
        )]
        Instant::now()
    }

    /// Starts a measurement of a duration. A change of the system's time does not affect the
    /// measurement. A manual clock measures the time that it shows.
    pub(crate) fn stopwatch(&self) -> Stopwatch {
        Stopwatch(match &self.0 {
            Source::System => Started::System(self.instant()),
            Source::Manual(_) => Started::Manual(self.now()),
        })
    }

    /// Returns the time since the start of the measurement `stopwatch` of this clock.
    pub(crate) fn elapsed(&self, stopwatch: &Stopwatch) -> Duration {
        match stopwatch.0 {
            Started::System(started) => self.instant().saturating_duration_since(started),
            Started::Manual(started) => self.now().since(started),
        }
    }

    /// Waits for `duration`. If the clock is a manual clock, the wait also ends when a test has
    /// advanced the clock by `duration`.
    ///
    /// # Cancel safety
    ///
    /// [`Clock::sleep`] is cancel safe.
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

    /// Advances a manual clock. `advance` has no effect on a system clock.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(shown) = &self.0 {
            shown.send_modify(|now| *now = now.plus(by));
        }
    }

    /// Sets a manual clock to the time in the argument `to`. This time may be earlier than the
    /// current time. `set` has no effect on a system clock.
    pub fn set(&self, to: Timestamp) {
        if let Source::Manual(shown) = &self.0 {
            shown.send_replace(to);
        }
    }
}

/// Returns a duration in words, with the largest unit that fits: `3 minutes`.
pub(crate) fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "day"), (3600, "hour"), (60, "minute")];
    let fits = units.into_iter().find(|(length, _)| seconds >= *length);
    let (length, unit) = fits.unwrap_or((1, "second"));
    match seconds.checked_div(length).unwrap_or_default() {
        1 => format!("1 {unit}"),
        number => format!("{number} {unit}s"),
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
    fn a_stopwatch_measures_the_time_of_its_clock() {
        let clock = Clock::manual(Timestamp::from_millis(10));
        let stopwatch = clock.stopwatch();
        clock.advance(Duration::from_secs(2));
        assert_eq!(clock.elapsed(&stopwatch), Duration::from_secs(2));
        clock.set(Timestamp::default());
        assert_eq!(clock.elapsed(&stopwatch), Duration::ZERO);
        let system = Clock::system();
        let stopwatch = system.stopwatch();
        assert!(system.elapsed(&stopwatch) < Duration::from_hours(1));
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
