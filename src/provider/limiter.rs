//! How often one provider is called.
//!
//! Authorization servers throttle by address, and a gateway is one address for all its users: the
//! calls that it must not make are held back here, with a time to come back, instead of spending
//! them on refusals. Logins come first: refreshes leave them a part of what may come at once.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::settings::GrantType;
use crate::clock::Timestamp;

const MINUTE: u64 = 60_000_000;

/// What refreshes leave in the bucket for logins: a fifth of it.
const RESERVE: u64 = MINUTE / 5;

/// The longest time that a server's `Retry-After` holds all calls back: a mistaken date must not
/// lock everybody out for a day.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// A token bucket: as many calls as the rate says at once, then one each as the bucket refills.
///
/// It is kept as one number, the time at which the bucket is full again (the generic cell rate
/// algorithm), so it needs no lock.
#[derive(Debug)]
pub(super) struct Limiter {
    /// Microseconds that one call costs.
    cost: u64,
    /// When the bucket is full, in microseconds since the epoch.
    full_at: AtomicU64,
    /// Until when the server asked for no calls, in microseconds since the epoch.
    paused_until: AtomicU64,
}

impl Limiter {
    pub(super) fn per_minute(calls: NonZeroU32) -> Self {
        // The divisor is not zero, so the fallback is never used.
        let cost = MINUTE.checked_div(calls.get().into());
        Self {
            cost: cost.unwrap_or(MINUTE),
            full_at: AtomicU64::new(0),
            paused_until: AtomicU64::new(0),
        }
    }

    /// Takes one call out of the bucket, or says after what time there will be one.
    pub(super) fn take(&self, grant: GrantType, now: Timestamp) -> Result<(), Duration> {
        let now = micros(now);
        let bucket = match grant {
            GrantType::AuthorizationCode => MINUTE,
            // Where the bucket is so small that nothing else would be left, there is no reserve.
            GrantType::RefreshToken => MINUTE.saturating_sub(RESERVE).max(self.cost),
        };
        let pause = self
            .paused_until
            .load(Ordering::Relaxed)
            .saturating_sub(now);
        // A longer pause than any that is set: the clock was set back. It must not turn minutes
        // into years.
        let pause = Duration::from_micros(pause);
        if !pause.is_zero() && pause <= LONGEST_PAUSE {
            return Err(pause);
        }
        // An empty bucket is full in a minute. What is far beyond is left of a clock that was set
        // back: the bucket begins anew, or nobody would get through until that time comes again.
        let latest = now.saturating_add(MINUTE.saturating_mul(2));
        let mut wait = 0;
        let taken = self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                let full_at = if full_at > latest {
                    now
                } else {
                    full_at.max(now)
                };
                let next = full_at.saturating_add(self.cost);
                wait = next.saturating_sub(now).saturating_sub(bucket);
                (wait == 0).then_some(next)
            });
        match taken {
            Ok(_before) => Ok(()),
            Err(_unchanged) => Err(Duration::from_micros(wait)),
        }
    }

    /// Lets nobody through for `time`, as the server asked.
    pub(super) fn pause(&self, now: Timestamp, time: Duration) {
        let until = micros(now.plus(time.min(LONGEST_PAUSE)));
        let longest = micros(now.plus(LONGEST_PAUSE));
        // A longer pause than any is left of a clock that was set back, and is over.
        let later = |before: u64| {
            if before > longest {
                until
            } else {
                before.max(until)
            }
        };
        let order = Ordering::Relaxed;
        let update = |before| Some(later(before));
        let _before: Result<u64, u64> = self.paused_until.fetch_update(order, order, update);
    }
}

fn micros(time: Timestamp) -> u64 {
    time.as_millis().saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const LOGIN: GrantType = GrantType::AuthorizationCode;
    const REFRESH: GrantType = GrantType::RefreshToken;

    fn limiter(calls: u32) -> (Limiter, Clock) {
        let clock = Clock::manual(Timestamp::from_millis(1_800_000_000_000));
        (Limiter::per_minute(NonZeroU32::new(calls).unwrap()), clock)
    }

    #[test]
    fn a_minutes_worth_may_come_at_once_and_then_one_by_one() {
        let (limiter, clock) = limiter(50);
        for _ in 0..50 {
            assert!(limiter.take(LOGIN, clock.now()).is_ok());
        }
        assert_eq!(
            limiter.take(LOGIN, clock.now()),
            Err(Duration::from_millis(1200))
        );
        clock.advance(Duration::from_millis(1199));
        assert_eq!(
            limiter.take(LOGIN, clock.now()),
            Err(Duration::from_millis(1))
        );
        clock.advance(Duration::from_millis(1));
        assert!(limiter.take(LOGIN, clock.now()).is_ok());
        assert!(limiter.take(LOGIN, clock.now()).is_err());
        clock.advance(Duration::from_hours(1));
        let many = (0..100).filter(|_| limiter.take(LOGIN, clock.now()).is_ok());
        assert_eq!(many.count(), 50);
    }

    #[test]
    fn d_26_refreshes_leave_a_fifth_for_logins() {
        for (calls, refreshes) in [(1, 1), (2, 1), (5, 4), (50, 40), (600, 480)] {
            let (limiter, clock) = limiter(calls);
            let taken = |grant| {
                let calls = 0..calls;
                calls
                    .filter(|_| limiter.take(grant, clock.now()).is_ok())
                    .count()
            };
            assert_eq!(taken(REFRESH), refreshes, "{calls}");
            let logins = usize::try_from(calls).unwrap() - refreshes;
            assert_eq!(taken(LOGIN), logins, "{calls}");
        }
        // What comes back fills the reserve first.
        let (limiter, clock) = limiter(60);
        while limiter.take(LOGIN, clock.now()).is_ok() {}
        assert_eq!(
            limiter.take(REFRESH, clock.now()),
            Err(Duration::from_secs(13))
        );
        clock.advance(Duration::from_secs(12));
        assert_eq!(
            limiter.take(REFRESH, clock.now()),
            Err(Duration::from_secs(1))
        );
        assert!(limiter.take(LOGIN, clock.now()).is_ok());
    }

    #[test]
    fn a_pause_holds_everybody_but_not_for_ever() {
        let (limiter, clock) = limiter(600);
        limiter.pause(clock.now(), Duration::from_secs(37));
        assert_eq!(
            limiter.take(LOGIN, clock.now()),
            Err(Duration::from_secs(37))
        );
        clock.advance(Duration::from_secs(37));
        assert!(limiter.take(LOGIN, clock.now()).is_ok());
        limiter.pause(clock.now(), Duration::from_hours(24));
        assert_eq!(limiter.take(LOGIN, clock.now()), Err(LONGEST_PAUSE));
    }

    #[test]
    fn f_18_a_clock_that_is_set_back_costs_a_minute_at_most() {
        for (back, at_once) in [(1, false), (60, false), (61, true), (86_400, true)] {
            let (limiter, clock) = limiter(50);
            let before = clock.now();
            while limiter.take(LOGIN, before).is_ok() {}
            clock.set(Timestamp::from_millis(before.as_millis() - back * 1000));
            let taken = limiter.take(LOGIN, clock.now());
            assert_eq!(taken.is_ok(), at_once, "{back}: {taken:?}");
            let more = Duration::from_secs(back.min(60)) + Duration::from_millis(1200);
            clock.advance(more);
            let taken = limiter.take(LOGIN, clock.now());
            assert_eq!(taken, Ok(()), "{back}");
            // And then the rate is what it was.
            let many = (0..100).filter(|_| limiter.take(LOGIN, clock.now()).is_ok());
            assert!(many.count() <= 50, "{back}");
        }
        // A pause that the server asked for is over.
        let (limiter, clock) = limiter(50);
        limiter.pause(clock.now(), LONGEST_PAUSE);
        clock.set(Timestamp::from_millis(1_700_000_000_000));
        assert_eq!(limiter.take(LOGIN, clock.now()), Ok(()));
    }

    #[test]
    fn f_18_a_pause_counts_after_the_clock_was_set_back() {
        let (limiter, clock) = limiter(600);
        limiter.pause(clock.now(), LONGEST_PAUSE);
        clock.set(Timestamp::from_millis(1_700_000_000_000));
        let half_a_minute = Duration::from_secs(30);
        limiter.pause(clock.now(), half_a_minute);
        assert_eq!(limiter.take(LOGIN, clock.now()), Err(half_a_minute));
        // A shorter one takes nothing away.
        limiter.pause(clock.now(), Duration::from_secs(1));
        assert_eq!(limiter.take(LOGIN, clock.now()), Err(half_a_minute));
    }
}
