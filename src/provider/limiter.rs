//! Limits the number of calls per minute to one provider.
//!
//! Providers limit the calls from each address, and all users of a gateway share the address of the
//! gateway. The limiter refuses calls that the provider would refuse, and returns the time until
//! the next call is allowed. A part of the allowed calls is reserved for logins.
//!
//! Replicas that share a session store divide the allowed calls among themselves.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::code_queue::Pace;
use super::settings::GrantType;
use crate::clock::Timestamp;

const MINUTE: Duration = Duration::from_mins(1);

/// The longest pause that `Retry-After` can cause. A wrong date in `Retry-After` must not stop all
/// calls for a day.
const MAX_PAUSE: Duration = Duration::from_mins(5);

/// The number of codes that can fail in a minute although they use more than half of the calls that
/// are left. A place then becomes free every five seconds, so that a code in the network of an attacker
/// gets its turn before it has waited too long.
const FEW: usize = 12;

/// Allows `calls` calls in every period of one minute. All of these calls can happen at the same
/// moment. A token bucket would be wrong, because a full bucket allows up to `2 * calls` calls in
/// one minute.
#[derive(Debug)]
pub(super) struct Limiter {
    /// The maximum number of calls per minute.
    calls: usize,
    calls_made: Arc<CallsMade>,
}

/// The recent calls to one provider. After a reload, the old and the new
/// [`Provider`](super::Provider) share a `CallsMade`, because the old `Provider` may still make
/// calls.
#[derive(Debug, Default)]
struct CallsMade(
    // Only tasks of the control plane use this lock, and only before a call over the network.
    #[expect(clippy::disallowed_types, reason = "held for one calculation")]
    std::sync::Mutex<State>,
);

#[derive(Debug, Default)]
struct State {
    /// The times of all calls in the last minute, in order.
    call_times: VecDeque<Timestamp>,
    /// The end of the pause that the provider asked for.
    paused_until: Timestamp,
}

impl State {
    /// Returns the times of the calls in the last minute.
    fn recent(&mut self, now: Timestamp) -> &mut VecDeque<Timestamp> {
        let call_times = &mut self.call_times;
        // If the time of a call is in the future, the clock was set back after the call. The real
        // age of the call is unknown, so the limiter sets the call time to the present time.
        for call in call_times.iter_mut().rev().take_while(|call| **call > now) {
            *call = now;
        }
        while call_times
            .front()
            .is_some_and(|call| call.plus(MINUTE) <= now)
        {
            call_times.pop_front();
        }
        call_times
    }
}

impl Limiter {
    pub(super) fn per_minute(calls: NonZeroU32) -> Self {
        let calls = usize::try_from(calls.get()).unwrap_or(usize::MAX);
        Self {
            calls,
            calls_made: Arc::default(),
        }
    }

    /// Makes this limiter and `predecessor` use one common count of calls. Each limiter keeps its
    /// own maximum number of calls.
    pub(super) fn share_with(&mut self, predecessor: &Self) {
        self.calls_made = Arc::clone(&predecessor.calls_made);
    }

    /// Counts one call, or returns how long the caller has to wait before the next call. `replicas`
    /// processes share the limit, and each of them may make the same part of the calls.
    pub(super) fn take(
        &self,
        grant: GrantType,
        replicas: NonZeroU32,
        now: Timestamp,
    ) -> Result<(), Duration> {
        let own = self.own(replicas);
        let calls = match grant {
            GrantType::AuthorizationCode => own,
            GrantType::RefreshToken => for_refreshes(own),
        };
        let mut state = self.state();
        let pause = state.paused_until.since(now);
        // If a remaining pause is above the maximum, the system clock was set back after the start
        // of the pause. The limiter ignores a remaining pause above the maximum, because this pause
        // could last for years.
        if !pause.is_zero() && pause <= MAX_PAUSE {
            return Err(pause);
        }
        let call_times = state.recent(now);
        // The next call is allowed when the call at index `blocking` is one minute old.
        let blocking = call_times.len().checked_sub(calls);
        if let Some(blocking) = blocking.and_then(|index| call_times.get(index)) {
            return Err(blocking.plus(MINUTE).since(now));
        }
        call_times.push_back(now);
        Ok(())
    }

    /// Returns the pace of the exchanges of codes. `failed` is the number of exchanges that have
    /// failed in the last minute.
    ///
    /// A tenth of the calls per minute can be exchanges of one class at the same moment. The calls
    /// that are left for codes that fail are the calls per minute, without the calls that are
    /// reserved for logins, without the calls that others have made in the last minute, and without
    /// one call for each place. Half of these calls can fail, or [`FEW`] if this is more. At least
    /// each place becomes free once in a minute, so that logins also continue while refreshes use
    /// all their calls.
    pub(super) fn pace(&self, replicas: NonZeroU32, failed: usize, now: Timestamp) -> Pace {
        let own = self.own(replicas);
        let places = own.checked_div(10).unwrap_or_default().max(1);
        let used = self.state().recent(now).len();
        let by_others = used.saturating_sub(failed).saturating_add(places);
        let left = for_refreshes(own).saturating_sub(by_others);
        let can_fail = left.div_euclid(2).max(left.min(FEW)).max(places);
        let can_fail = u32::try_from(can_fail).unwrap_or(u32::MAX);
        Pace {
            places,
            interval: MINUTE.checked_div(can_fail).unwrap_or(MINUTE),
            exchanges: places.saturating_add(Pace::KEPT),
            calls: own.saturating_sub(used),
        }
    }

    /// Returns the part of the calls per minute that this process may make.
    fn own(&self, replicas: NonZeroU32) -> usize {
        let replicas = usize::try_from(replicas.get()).unwrap_or(usize::MAX);
        // Without the minimum, the users of a replica could not sign in at all.
        self.calls.checked_div(replicas).unwrap_or_default().max(1)
    }

    /// Refuses all calls for the duration `time`, because the provider asked for a pause.
    pub(super) fn pause(&self, now: Timestamp, time: Duration) {
        let until = now.plus(time.min(MAX_PAUSE));
        let mut state = self.state();
        // If a stored pause is above the maximum, the clock was set back, and the new pause
        // replaces the stored pause.
        if state.paused_until > now.plus(MAX_PAUSE) {
            state.paused_until = until;
        } else {
            state.paused_until = state.paused_until.max(until);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.calls_made.0.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns how many of `own` calls per minute can be refreshes. The others are reserved for logins.
fn for_refreshes(own: usize) -> usize {
    // If only one call per minute is allowed, the call is not reserved, because refreshes also need
    // the call.
    own.saturating_sub(own.div_ceil(5)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn a_limiter_after_a_reload_makes_only_the_remaining_calls() {
        let (before, clock) = limiter(50);
        let taken = |limiter: &Limiter, most: usize| {
            let calls = 0..most;
            let made = calls.filter(|_| limiter.take(LOGIN, ALONE, clock.now()).is_ok());
            made.count()
        };
        assert_eq!(taken(&before, 40), 40);
        let (mut slower, _clock) = limiter(45);
        slower.share_with(&before);
        assert_eq!(taken(&slower, 100), 5);
        // The limiter counts the calls of the old `Provider` and the calls of the new `Provider`
        // together.
        assert_eq!(taken(&before, 100), 5);
        clock.advance(MINUTE);
        assert_eq!(taken(&slower, 100), 45);
        // A pause of the old `Provider` also applies to the new `Provider`.
        before.pause(clock.now(), MINUTE * 2);
        clock.advance(MINUTE);
        assert_eq!(slower.take(LOGIN, ALONE, clock.now()), Err(MINUTE));
    }

    /// The number of processes.
    const ALONE: NonZeroU32 = NonZeroU32::MIN;
    const LOGIN: GrantType = GrantType::AuthorizationCode;
    const REFRESH: GrantType = GrantType::RefreshToken;

    fn limiter(calls: u32) -> (Limiter, Clock) {
        let clock = Clock::manual(Timestamp::from_millis(1_800_000_000_000));
        (Limiter::per_minute(NonZeroU32::new(calls).unwrap()), clock)
    }

    #[test]
    fn all_calls_of_a_minute_may_be_made_at_once() {
        let (limiter, clock) = limiter(50);
        for _ in 0..50 {
            assert!(limiter.take(LOGIN, ALONE, clock.now()).is_ok());
        }
        assert_eq!(limiter.take(LOGIN, ALONE, clock.now()), Err(MINUTE));
        clock.advance(Duration::from_millis(59_999));
        let soon = Err(Duration::from_millis(1));
        assert_eq!(limiter.take(LOGIN, ALONE, clock.now()), soon);
        clock.advance(Duration::from_millis(1));
        let many = (0..100).filter(|_| limiter.take(LOGIN, ALONE, clock.now()).is_ok());
        assert_eq!(many.count(), 50);
    }

    #[test]
    fn no_minute_exceeds_the_rate_and_no_call_is_wasted() {
        // In each row, `every` is the time between two attempts in milliseconds. The test counts
        // the calls that the limiter allows.
        for (calls, every) in [(50, 100), (50, 1000), (7, 1), (1, 250)] {
            let (limiter, clock) = limiter(calls);
            let mut made = Vec::new();
            let begun = clock.now();
            while clock.now().since(begun) < MINUTE * 10 {
                if limiter.take(LOGIN, ALONE, clock.now()).is_ok() {
                    made.push(clock.now());
                }
                clock.advance(Duration::from_millis(every));
            }
            let calls = usize::try_from(calls).unwrap();
            for (first, beyond) in made.iter().zip(made.iter().skip(calls)) {
                assert!(beyond.since(*first) >= MINUTE, "{calls} {every}");
            }
            assert!(made.len() >= calls * 8, "{calls} {every}: {}", made.len());
            assert!(limiter.state().call_times.len() <= calls);
        }
    }

    #[test]
    fn d_26_refreshes_leave_a_fifth_for_logins() {
        for (calls, refreshes) in [(1, 1), (2, 1), (5, 4), (50, 40), (600, 480)] {
            let (limiter, clock) = limiter(calls);
            let taken = |grant| {
                let calls = 0..calls;
                calls
                    .filter(|_| limiter.take(grant, ALONE, clock.now()).is_ok())
                    .count()
            };
            assert_eq!(taken(REFRESH), refreshes, "{calls}");
            let logins = usize::try_from(calls).unwrap() - refreshes;
            assert_eq!(taken(LOGIN), logins, "{calls}");
        }
        // When the oldest calls are more than one minute old, the limiter first allows logins
        // again. Later, the limiter also allows refreshes again.
        let (limiter, clock) = limiter(60);
        for _ in 0..60 {
            assert!(limiter.take(LOGIN, ALONE, clock.now()).is_ok());
            clock.advance(Duration::from_millis(500));
        }
        let wait = |grant| limiter.take(grant, ALONE, clock.now()).unwrap_err();
        assert_eq!(wait(LOGIN), Duration::from_secs(30));
        assert_eq!(wait(REFRESH), Duration::from_secs(36));
        clock.advance(Duration::from_secs(35));
        assert!(limiter.take(LOGIN, ALONE, clock.now()).is_ok());
        // The login in the line above also counts as a call to the provider, so the next refresh
        // has to wait.
        assert_eq!(wait(REFRESH), Duration::from_millis(1500));
    }

    #[test]
    fn replicas_share_the_calls_of_a_minute() {
        for (calls, replicas, logins, refreshes) in [
            (60, 3, 20, 16),
            (50, 3, 16, 12),
            (2, 5, 1, 1),
            (600, 1, 600, 480),
        ] {
            let (limiter, clock) = limiter(calls);
            let replicas = NonZeroU32::new(replicas).unwrap();
            let taken = |grant| {
                let take = |_: &u32| limiter.take(grant, replicas, clock.now()).is_ok();
                (0..calls).filter(take).count()
            };
            assert_eq!(taken(REFRESH), refreshes, "{calls} {replicas}");
            assert_eq!(taken(LOGIN), logins - refreshes, "{calls} {replicas}");
        }
        // A replica that has started meanwhile takes its part.
        let (limiter, clock) = limiter(60);
        while limiter.take(LOGIN, ALONE, clock.now()).is_ok() {}
        let two = NonZeroU32::new(2).unwrap();
        assert_eq!(limiter.take(LOGIN, two, clock.now()), Err(MINUTE));
        clock.advance(MINUTE);
        let many = (0..100).filter(|_| limiter.take(LOGIN, two, clock.now()).is_ok());
        assert_eq!(many.count(), 30);
    }

    #[test]
    fn d_21_the_pace_of_codes_follows_the_calls_that_are_left() {
        // With few calls, twelve codes can fail in a minute, if as many calls are left.
        for (calls, replicas, places, can_fail) in [
            (600, 1, 60, 210),
            (600, 3, 20, 70),
            (50, 1, 5, 17),
            (20, 1, 2, 12),
            (19, 1, 1, 12),
            (15, 1, 1, 11),
            (12, 1, 1, 8),
            (10, 1, 1, 7),
            (5, 1, 1, 3),
            (1, 1, 1, 1),
        ] {
            let (limiter, clock) = limiter(calls);
            let replicas = NonZeroU32::new(replicas).unwrap();
            let own = usize::try_from(calls / replicas).unwrap();
            let pace = |failed| limiter.pace(replicas, failed, clock.now());
            let expected = Pace {
                places,
                interval: MINUTE / can_fail,
                exchanges: places + 2,
                calls: own,
            };
            assert_eq!(pace(0), expected);
            // The calls of codes that have failed are part of the pace already.
            let failed = usize::try_from(can_fail).unwrap();
            for _ in 0..failed {
                assert_eq!(limiter.take(LOGIN, replicas, clock.now()), Ok(()));
            }
            let calls = own - failed;
            assert_eq!(pace(failed), Pace { calls, ..expected });
            while limiter.take(LOGIN, replicas, clock.now()).is_ok() {}
            let slowest = MINUTE / u32::try_from(places).unwrap();
            assert_eq!((pace(0).interval, pace(0).calls), (slowest, 0));
            clock.advance(MINUTE);
            assert_eq!(pace(0), expected);
        }
        let (limiter, clock) = limiter(600);
        for _ in 0..240 {
            assert_eq!(limiter.take(REFRESH, ALONE, clock.now()), Ok(()));
        }
        let interval = limiter.pace(ALONE, 0, clock.now()).interval;
        assert_eq!(interval, MINUTE / 90);
    }

    #[test]
    fn a_pause_stops_all_calls_and_is_bounded() {
        let (limiter, clock) = limiter(600);
        limiter.pause(clock.now(), Duration::from_secs(37));
        assert_eq!(
            limiter.take(LOGIN, ALONE, clock.now()),
            Err(Duration::from_secs(37))
        );
        clock.advance(Duration::from_secs(37));
        assert!(limiter.take(LOGIN, ALONE, clock.now()).is_ok());
        limiter.pause(clock.now(), Duration::from_hours(24));
        assert_eq!(limiter.take(LOGIN, ALONE, clock.now()), Err(MAX_PAUSE));
    }

    #[test]
    fn f_18_a_clock_that_is_set_back_costs_a_minute_at_most() {
        for back in [1, 60, 61, 86_400] {
            let (limiter, clock) = limiter(50);
            let before = clock.now();
            while limiter.take(LOGIN, ALONE, before).is_ok() {}
            clock.set(Timestamp::from_millis(before.as_millis() - back * 1000));
            assert_eq!(
                limiter.take(LOGIN, ALONE, clock.now()),
                Err(MINUTE),
                "{back}"
            );
            clock.advance(MINUTE);
            let many = (0..100).filter(|_| limiter.take(LOGIN, ALONE, clock.now()).is_ok());
            assert_eq!(many.count(), 50, "{back}");
        }
        // If the clock is set back during a pause, the pause ends.
        let (limiter, clock) = limiter(50);
        limiter.pause(clock.now(), MAX_PAUSE);
        clock.set(Timestamp::from_millis(1_700_000_000_000));
        assert_eq!(limiter.take(LOGIN, ALONE, clock.now()), Ok(()));
    }

    #[test]
    fn f_18_a_new_pause_works_after_the_clock_was_set_back() {
        let (limiter, clock) = limiter(600);
        limiter.pause(clock.now(), MAX_PAUSE);
        clock.set(Timestamp::from_millis(1_700_000_000_000));
        let half_a_minute = Duration::from_secs(30);
        limiter.pause(clock.now(), half_a_minute);
        assert_eq!(limiter.take(LOGIN, ALONE, clock.now()), Err(half_a_minute));
        // A shorter pause does not shorten the current pause.
        limiter.pause(clock.now(), Duration::from_secs(1));
        assert_eq!(limiter.take(LOGIN, ALONE, clock.now()), Err(half_a_minute));
    }
}
