//! The circuit breaker for refreshes.
//!
//! After several failed refreshes in a row, the breaker opens for some time (the open time). While
//! the breaker is open, the gateway sends no refresh. Each failed refresh may have made a refresh
//! token invalid. Many calls at the same time can overload a provider that is starting again. At
//! the end of the open time, the gateway sends one refresh as a probe. If the probe succeeds, the
//! breaker allows all refreshes.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;

/// The number of consecutive failures that open the breaker. A smaller number would open the
/// breaker too often, because a few failures are normal at every provider.
const FAILURES_TO_OPEN: u32 = 10;

/// The longest time for which the breaker stays open when it opens for the first time since the
/// last successful call. Each time the breaker opens again without a success, the maximum open time
/// is doubled, up to [`MAX_OPEN_TIME`].
const FIRST_OPEN_TIME: Duration = Duration::from_secs(2);

/// The longest open time.
const MAX_OPEN_TIME: Duration = Duration::from_mins(1);

/// The time limit of a probe. If a probe has no result when the time limit has passed, another
/// refresh becomes the probe. Without the time limit, one probe without a result would block all
/// refreshes forever.
const PROBE_TIME: Duration = Duration::from_secs(5);

/// If the breaker refuses a refresh during a probe, the refresh waits for this time before its next
/// attempt. Most probes take less than a second.
const RETRY_DURING_PROBE: Duration = Duration::from_secs(1);

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
    /// The number of failed calls since the last successful call.
    failures: u32,
    /// The number of times that the breaker has opened since the last successful call.
    times_opened: u32,
    /// While the breaker is open, `until` is the time until which the breaker refuses all calls.
    /// While a probe is in progress, `until` is the time limit of the probe.
    until: Option<Timestamp>,
    /// True if a probe is in progress.
    probing: bool,
}

/// States whether an allowed call is a normal call or a probe.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(super) enum Attempt {
    /// A normal call.
    Normal,
    /// The call that checks whether the provider works again.
    Probe,
}

impl Breaker {
    /// Checks whether the breaker allows calls now.
    ///
    /// # Errors
    ///
    /// Returns the time to wait before the next attempt if the breaker refuses calls now.
    pub(super) fn check(&self, now: Timestamp) -> Result<(), Duration> {
        self.state().wait(now).map_or(Ok(()), Err)
    }

    /// Allows a call unless the breaker is open. An open breaker refuses all calls for some time,
    /// and then allows only one call, as a probe.
    ///
    /// # Errors
    ///
    /// Returns the time to wait before the next attempt if the breaker refuses calls now.
    pub(super) fn admit(&self, now: Timestamp) -> Result<Attempt, Duration> {
        let mut state = self.state();
        if let Some(wait) = state.wait(now) {
            return Err(wait);
        }
        if state.until.is_none() {
            return Ok(Attempt::Normal);
        }
        // The breaker refuses all refreshes until the probe has a result, or until the time limit
        // of the probe has passed.
        state.until = Some(now.plus(PROBE_TIME));
        state.probing = true;
        Ok(Attempt::Probe)
    }

    /// Records that the provider has responded. A refusal also counts as a response, because a
    /// refusal shows that the provider works.
    pub(super) fn succeeded(&self) {
        *self.state() = State::default();
    }

    /// Records a failed call. A `Retry-After` field in the response opens the breaker immediately.
    /// The random number `fraction`, from 0 to 1, varies how long the breaker stays open, so that
    /// several gateways do not retry at the same moment.
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
        let open_now = match attempt {
            Attempt::Probe => true,
            // If a call began before the breaker opened, the failure of this call must not extend
            // the time for which the breaker is open.
            Attempt::Normal => !open && state.failures >= FAILURES_TO_OPEN,
        };
        let wait = if open_now {
            let doubled = FIRST_OPEN_TIME.saturating_mul(2_u32.saturating_pow(state.times_opened));
            state.times_opened = state.times_opened.saturating_add(1);
            // The breaker stays open for a random time between 50% and 100% of the maximum open
            // time.
            doubled.min(MAX_OPEN_TIME).mul_f64(0.5 + fraction * 0.5)
        } else {
            Duration::ZERO
        };
        let wait = wait.max(retry_after.unwrap_or_default().min(MAX_OPEN_TIME));
        let until = (!wait.is_zero()).then(|| now.plus(wait));
        state.until = match attempt {
            // The probe has failed, so the breaker opens again.
            Attempt::Probe => {
                state.probing = false;
                until
            }
            Attempt::Normal => state.until.max(until),
        };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&self, now: Timestamp) -> Option<Duration> {
        let wait = self.until?.since(now);
        // If the remaining time is longer than `MAX_OPEN_TIME`, the clock was set back, so the
        // breaker allows calls.
        let counts = !wait.is_zero() && wait <= MAX_OPEN_TIME;
        let longest = if self.probing {
            RETRY_DURING_PROBE
        } else {
            MAX_OPEN_TIME
        };
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

    /// Returns a breaker that has just opened.
    fn open_breaker(clock: &Clock) -> Breaker {
        let breaker = Breaker::default();
        for _ in 0..FAILURES_TO_OPEN {
            let attempt = breaker.admit(clock.now()).unwrap();
            breaker.failed(attempt, clock.now(), None, 1.0);
        }
        breaker
    }

    #[test]
    fn g_07_the_open_time_grows_until_the_provider_recovers() {
        let clock = clock();
        let breaker = open_breaker(&clock);
        for seconds in [2, 4, 8, 16, 32, 60, 60] {
            let wait = Duration::from_secs(seconds);
            assert_eq!(breaker.admit(clock.now()), Err(wait));
            assert_eq!(breaker.check(clock.now()), Err(wait));
            clock.advance(wait);
            assert_eq!(breaker.admit(clock.now()), Ok(Attempt::Probe));
            breaker.failed(Attempt::Probe, clock.now(), None, 1.0);
        }
        clock.advance(MAX_OPEN_TIME);
        assert_eq!(breaker.admit(clock.now()), Ok(Attempt::Probe));
        breaker.succeeded();
        assert_eq!(breaker.admit(clock.now()), Ok(Attempt::Normal));
        breaker.failed(Attempt::Normal, clock.now(), None, 1.0);
        assert_eq!(breaker.admit(clock.now()), Ok(Attempt::Normal));
    }

    #[test]
    fn only_one_probe_is_sent_at_a_time() {
        let clock = clock();
        let breaker = open_breaker(&clock);
        clock.advance(FIRST_OPEN_TIME);
        assert_eq!(breaker.admit(clock.now()), Ok(Attempt::Probe));
        for _ in 0..100 {
            assert_eq!(breaker.admit(clock.now()), Err(RETRY_DURING_PROBE));
        }
        // The result of the first probe never arrives.
        clock.advance(PROBE_TIME);
        assert_eq!(breaker.admit(clock.now()), Ok(Attempt::Probe));
    }

    #[test]
    fn failures_while_the_breaker_is_open_do_not_extend_it() {
        let clock = clock();
        let breaker = open_breaker(&clock);
        for _ in 0..100 {
            breaker.failed(Attempt::Normal, clock.now(), None, 1.0);
        }
        assert_eq!(breaker.check(clock.now()), Err(FIRST_OPEN_TIME));
    }

    #[test]
    fn few_failures_do_not_open_the_breaker() {
        let clock = clock();
        let breaker = Breaker::default();
        for _ in 0..1000 {
            for _ in 1..FAILURES_TO_OPEN {
                breaker.failed(Attempt::Normal, clock.now(), None, 1.0);
            }
            breaker.succeeded();
        }
        assert_eq!(breaker.check(clock.now()), Ok(()));
    }

    #[test]
    fn retry_after_opens_the_breaker_at_once_and_is_bounded() {
        let clock = clock();
        let breaker = Breaker::default();
        let hour = Some(Duration::from_hours(1));
        breaker.failed(Attempt::Normal, clock.now(), hour, 0.0);
        assert_eq!(breaker.check(clock.now()), Err(MAX_OPEN_TIME));
        clock.advance(MAX_OPEN_TIME);
        assert_eq!(breaker.admit(clock.now()), Ok(Attempt::Probe));
    }

    #[test]
    fn f_18_a_clock_that_is_set_back_closes_the_breaker() {
        let breaker = open_breaker(&clock());
        let back = Timestamp::from_millis(1_700_000_000_000);
        assert_eq!(breaker.check(back), Ok(()));
        assert_eq!(breaker.admit(back), Ok(Attempt::Probe));
        breaker.failed(Attempt::Probe, back, None, 0.0);
        assert!(breaker.check(back).is_err());
    }
}
