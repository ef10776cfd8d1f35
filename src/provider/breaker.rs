//! Whether refreshes are sent at all.
//!
//! A server that fails one refresh after the other is left alone for a while: each call that fails
//! may have cost a refresh token, and a server that comes back is not helped by everybody's asking
//! at once. Then one refresh tries, and the others follow when it succeeds.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;

/// How many calls in a row have to fail. A few fail at any server.
const PATIENCE: u32 = 10;

/// The longest that the first break may be; each after that may be twice as long.
const FIRST: Duration = Duration::from_secs(2);

/// The longest break.
const LONGEST: Duration = Duration::from_mins(1);

/// For how long nobody else tries while one does. It is not asked for again, so a try of which
/// nothing is heard holds nobody up for longer.
const TRYING: Duration = Duration::from_secs(5);

/// When the others come back then: mostly it has succeeded by that time.
const WHILE_TRYING: Duration = Duration::from_secs(1);

/// A circuit breaker.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    #[expect(
        clippy::disallowed_types,
        reason = "held for a few instructions, on the control plane"
    )]
    state: std::sync::Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Calls that failed since one succeeded.
    failures: u32,
    /// Breaks since then.
    breaks: u32,
    /// The end of the break, or of the time that one has for trying.
    until: Option<Timestamp>,
    /// Whether one tries.
    trying: bool,
}

/// A call that may be made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(super) enum Attempt {
    /// Like any other.
    Usual,
    /// The one that finds out whether the server is back.
    Trying,
}

impl Breaker {
    /// Whether nothing is sent now.
    ///
    /// # Errors
    ///
    /// After what time to come back.
    pub(super) fn check(&self, now: Timestamp) -> Result<(), Duration> {
        self.state().wait(now).map_or(Ok(()), Err)
    }

    /// Lets a call through; after a break the first one alone.
    ///
    /// # Errors
    ///
    /// After what time to come back.
    pub(super) fn admit(&self, now: Timestamp) -> Result<Attempt, Duration> {
        let mut state = self.state();
        if let Some(wait) = state.wait(now) {
            return Err(wait);
        }
        if state.until.is_none() {
            return Ok(Attempt::Usual);
        }
        state.until = Some(now.plus(TRYING));
        state.trying = true;
        Ok(Attempt::Trying)
    }

    /// The server has answered as a server does, whatever it said.
    pub(super) fn succeeded(&self) {
        *self.state() = State::default();
    }

    /// A call has failed. A server that says when to come back is left alone at once. `fraction`,
    /// from 0 to 1, keeps those who count alike from coming back together.
    pub(super) fn failed(
        &self,
        attempt: Attempt,
        now: Timestamp,
        retry_after: Option<Duration>,
        fraction: f64,
    ) {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        let open = state.until.is_some();
        let opens = match attempt {
            Attempt::Trying => true,
            // Calls that were under way when the break began are no reason for a longer one.
            Attempt::Usual => !open && state.failures >= PATIENCE,
        };
        let wait = if opens {
            let doubled = FIRST.saturating_mul(2_u32.saturating_pow(state.breaks));
            state.breaks = state.breaks.saturating_add(1);
            doubled.min(LONGEST).mul_f64(0.5 + fraction * 0.5)
        } else {
            Duration::ZERO
        };
        let wait = wait.max(retry_after.unwrap_or_default().min(LONGEST));
        let until = (!wait.is_zero()).then(|| now.plus(wait));
        state.until = match attempt {
            // The time that it had for trying is over.
            Attempt::Trying => {
                state.trying = false;
                until
            }
            Attempt::Usual => state.until.max(until),
        };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&self, now: Timestamp) -> Option<Duration> {
        let wait = self.until?.since(now);
        // A break that is longer than any: the clock was set back.
        let counts = !wait.is_zero() && wait <= LONGEST;
        let longest = if self.trying { WHILE_TRYING } else { LONGEST };
        counts.then_some(wait.min(longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn clock() -> Clock {
        Clock::manual(Timestamp::from_millis(1_800_000_000_000))
    }

    /// A breaker of a server that has just failed often enough.
    fn broken(clock: &Clock) -> Breaker {
        let breaker = Breaker::default();
        for _ in 0..PATIENCE {
            let attempt = breaker.admit(clock.now()).unwrap();
            breaker.failed(attempt, clock.now(), None, 1.0);
        }
        breaker
    }

    #[test]
    fn g_07_breaks_grow_until_the_server_is_back() {
        let clock = clock();
        let breaker = broken(&clock);
        for seconds in [2, 4, 8, 16, 32, 60, 60] {
            let wait = Duration::from_secs(seconds);
            assert_eq!(breaker.admit(clock.now()), Err(wait));
            assert_eq!(breaker.check(clock.now()), Err(wait));
            clock.advance(wait);
            assert_eq!(breaker.admit(clock.now()), Ok(Attempt::Trying));
            breaker.failed(Attempt::Trying, clock.now(), None, 1.0);
        }
        clock.advance(LONGEST);
        assert_eq!(breaker.admit(clock.now()), Ok(Attempt::Trying));
        breaker.succeeded();
        assert_eq!(breaker.admit(clock.now()), Ok(Attempt::Usual));
        breaker.failed(Attempt::Usual, clock.now(), None, 1.0);
        assert_eq!(breaker.admit(clock.now()), Ok(Attempt::Usual));
    }

    #[test]
    fn one_tries_and_the_others_wait_for_it() {
        let clock = clock();
        let breaker = broken(&clock);
        clock.advance(FIRST);
        assert_eq!(breaker.admit(clock.now()), Ok(Attempt::Trying));
        for _ in 0..100 {
            assert_eq!(breaker.admit(clock.now()), Err(WHILE_TRYING));
        }
        // Nothing is heard of it.
        clock.advance(TRYING);
        assert_eq!(breaker.admit(clock.now()), Ok(Attempt::Trying));
    }

    #[test]
    fn failures_of_one_moment_are_one_reason() {
        let clock = clock();
        let breaker = broken(&clock);
        for _ in 0..100 {
            breaker.failed(Attempt::Usual, clock.now(), None, 1.0);
        }
        assert_eq!(breaker.check(clock.now()), Err(FIRST));
    }

    #[test]
    fn single_failures_are_no_reason() {
        let clock = clock();
        let breaker = Breaker::default();
        for _ in 0..1000 {
            for _ in 1..PATIENCE {
                breaker.failed(Attempt::Usual, clock.now(), None, 1.0);
            }
            breaker.succeeded();
        }
        assert_eq!(breaker.check(clock.now()), Ok(()));
    }

    #[test]
    fn what_the_server_asks_for_is_done_at_once_but_not_for_ever() {
        let clock = clock();
        let breaker = Breaker::default();
        let hour = Some(Duration::from_hours(1));
        breaker.failed(Attempt::Usual, clock.now(), hour, 0.0);
        assert_eq!(breaker.check(clock.now()), Err(LONGEST));
        clock.advance(LONGEST);
        assert_eq!(breaker.admit(clock.now()), Ok(Attempt::Trying));
    }

    #[test]
    fn f_18_a_clock_that_is_set_back_holds_nobody_up() {
        let breaker = broken(&clock());
        let back = Timestamp::from_millis(1_700_000_000_000);
        assert_eq!(breaker.check(back), Ok(()));
        assert_eq!(breaker.admit(back), Ok(Attempt::Trying));
        breaker.failed(Attempt::Trying, back, None, 0.0);
        assert!(breaker.check(back).is_err());
    }
}
