//! The pauses before the next attempt, for sessions whose refresh failed for a temporary reason.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::secret::random;
use crate::session::SessionKey;

/// The first pause after a temporary failure. Each further pause is twice as long as the previous
/// pause, up to [`LONGEST_PAUSE`].
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// The longest pause that a provider may request with `Retry-After`. If the rest of a stored pause
/// is longer than this limit, the clock was set back.
pub(super) const LONGEST_ASKED: Duration = Duration::from_mins(5);

/// A sweep runs only if the table has at least `MANY` sessions. A sweep removes the sessions for
/// which no refresh was attempted recently.
const MANY: usize = 10_000;

/// The component whose failure is the reason why a session cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FailureLocation {
    /// The failure is at the provider, or on the network to the provider.
    Provider,
    /// The failure is in the session store of the gateway.
    Store,
}

/// The reason why a session cannot be used now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Reason {
    /// A stable code for logs and metrics.
    pub(super) code: &'static str,
    pub(super) location: FailureLocation,
}

impl Reason {
    pub(super) const fn at_provider(code: &'static str) -> Self {
        Self {
            code,
            location: FailureLocation::Provider,
        }
    }

    pub(super) const fn at_store(code: &'static str) -> Self {
        Self {
            code,
            location: FailureLocation::Store,
        }
    }
}

/// A session that cannot be used now, but has not ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct SessionFailure {
    pub(super) reason: Reason,
    /// The remaining time before the next attempt is allowed.
    pub(super) retry_after: Duration,
}

/// The number of consecutive failed refreshes of one session, and the pause after the last failure.
#[derive(Clone, Copy, Debug)]
struct Backoff {
    failures: u32,
    until: Timestamp,
    reason: Reason,
}

/// The sessions whose last refresh failed or was postponed.
#[derive(Debug, Default)]
pub(super) struct Backoffs(
    // The lock is taken only when a session is refreshed, never for a request with a fresh token.
    #[expect(clippy::disallowed_types, reason = "held for one look-up")] std::sync::Mutex<Table>,
);

#[derive(Debug, Default)]
struct Table {
    sessions: HashMap<SessionKey, Backoff>,
    /// The number of sessions that remained in the table after the last sweep. A sweep removes from
    /// the table each session whose last pause ended more than `LONGEST_ASKED` ago. The next sweep
    /// runs when the table has twice as many sessions as after the last sweep. During an outage of
    /// a provider, all sessions in the table have recent failures, so a sweep removes no session.
    /// Each sweep takes time, so sweeps must be rare during an outage.
    left: usize,
}

impl Table {
    /// Removes sessions without a recent attempt, if a sweep is due.
    fn sweep(&mut self, now: Timestamp) {
        if self.sessions.len() < MANY.max(self.left.saturating_mul(2)) {
            return;
        }
        self.sessions
            // The failure count stays for some time after the pause, because the length of the next
            // pause depends on the failure count.
            .retain(|_, backoff| backoff.until.plus(LONGEST_ASKED) > now);
        self.left = self.sessions.len();
    }
}

impl Backoffs {
    /// Returns the remaining pause before the next refresh of a session. Returns `None` if a
    /// refresh of the session may be attempted now.
    pub(super) fn find(&self, key: &SessionKey, now: Timestamp) -> Option<SessionFailure> {
        let backoff = *self.all().sessions.get(key)?;
        let retry_after = backoff.until.since(now);
        let reason = backoff.reason;
        // If the remaining pause is longer than `LONGEST_ASKED`, the clock was set back. A clock
        // that was set back must not block the session.
        (!retry_after.is_zero() && retry_after <= LONGEST_ASKED).then_some(SessionFailure {
            reason,
            retry_after,
        })
    }

    /// Counts a failed attempt to refresh the session. No refresh of the session is attempted
    /// before `until`.
    pub(super) fn add_failure(
        &self,
        key: &SessionKey,
        reason: Reason,
        until: Timestamp,
        now: Timestamp,
    ) {
        self.postpone(key, reason, until, now);
        if let Some(backoff) = self.all().sessions.get_mut(key) {
            backoff.failures = backoff.failures.saturating_add(1);
        }
    }

    /// Postpones the next attempt to `until` but counts no failure, because no request was sent to
    /// the provider. Only a failure that the gateway counts makes later pauses of the session
    /// longer.
    pub(super) fn postpone(
        &self,
        key: &SessionKey,
        reason: Reason,
        until: Timestamp,
        now: Timestamp,
    ) {
        let mut all = self.all();
        all.sweep(now);
        let failures = all.sessions.get(key).map_or(0, |backoff| backoff.failures);
        let backoff = Backoff {
            failures,
            until,
            reason,
        };
        all.sessions.insert(*key, backoff);
    }

    /// Removes the pause of a session that was refreshed or has ended.
    pub(super) fn forget(&self, key: &SessionKey) {
        self.all().sessions.remove(key);
    }

    /// Returns the next pause of a session, for a failure without a `Retry-After` from the
    /// provider.
    pub(super) fn next_pause(&self, key: &SessionKey) -> Duration {
        let failures = self
            .all()
            .sessions
            .get(key)
            .map_or(0, |backoff| backoff.failures);
        jittered(pause(failures))
    }

    fn all(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the pause after the given number of failures.
fn pause(failures: u32) -> Duration {
    // After 32 failures, `checked_shl` returns `None`, so the factor is `u32::MAX`. Every pause
    // after 6 failures is `LONGEST_PAUSE`.
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE)
}

/// Returns a random time between half of the pause and the whole pause. Many refreshes can fail at
/// the same time. Because the pauses are random, the next attempts start at different times.
fn jittered(pause: Duration) -> Duration {
    // If the operating system returns no random bytes, this function returns half of `pause`.
    let [byte] = random::<1>().unwrap_or_default();
    pause.mul_f64(0.5 + f64::from(byte) / 510.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);
    const X: Reason = Reason::at_provider("x");

    fn key(byte: u8) -> SessionKey {
        SessionKey::from_bytes([byte; 16])
    }

    #[test]
    fn g_07_pauses_double_and_have_jitter() {
        let backoffs = Backoffs::default();
        for (failures, longest) in [1, 2, 4, 8, 16, 32, 60, 60, 60].into_iter().enumerate() {
            let longest = Duration::from_secs(longest);
            for _ in 0..20 {
                let pause = backoffs.next_pause(&key(1));
                assert!(
                    pause >= longest / 2 && pause <= longest,
                    "{failures}: {pause:?}"
                );
            }
            backoffs.add_failure(&key(1), X, NOW.plus(SECOND), NOW);
        }
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
        // A postponed attempt is not a failure.
        let held = key(3);
        for _ in 0..5 {
            backoffs.postpone(&held, X, NOW.plus(SECOND), NOW);
        }
        assert!(backoffs.next_pause(&held) <= FIRST_PAUSE);
        assert!(backoffs.find(&held, NOW).is_some());
        // Each session has its own pauses. After a successful refresh, the next failure causes a
        // pause of at most `FIRST_PAUSE`.
        assert!(backoffs.next_pause(&key(2)) <= FIRST_PAUSE);
        backoffs.forget(&key(1));
        assert!(backoffs.next_pause(&key(1)) <= FIRST_PAUSE);
    }

    #[test]
    fn a_session_is_not_retried_before_its_pause_is_over() {
        let backoffs = Backoffs::default();
        backoffs.add_failure(&key(1), X, NOW.plus(SECOND * 3), NOW);
        let failure = |after| backoffs.find(&key(1), NOW.plus(after));
        assert_eq!(
            failure(SECOND).map(|failure| failure.retry_after),
            Some(SECOND * 2)
        );
        assert_eq!(failure(SECOND * 3), None);
        assert_eq!(backoffs.find(&key(2), NOW), None);
    }

    #[test]
    fn f_18_a_clock_that_is_set_back_blocks_no_session() {
        let backoffs = Backoffs::default();
        backoffs.add_failure(&key(1), X, NOW.plus(SECOND), NOW);
        let yesterday = Timestamp::from_millis(NOW.as_millis() - 86_400_000);
        assert_eq!(backoffs.find(&key(1), yesterday), None);
    }

    #[test]
    fn d_26_sessions_that_nobody_uses_do_not_fill_memory() {
        let backoffs = Backoffs::default();
        for number in 0..30_000_u32 {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            let now = NOW.plus(SECOND * number);
            backoffs.add_failure(&SessionKey::from_bytes(bytes), X, now.plus(SECOND), now);
        }
        assert!(backoffs.all().sessions.len() <= 2 * MANY);
    }

    #[test]
    fn d_26_an_outage_of_many_sessions_does_not_scan_all_for_each() {
        let backoffs = Backoffs::default();
        let mut looks = Vec::new();
        for number in 0..100_000_u32 {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            backoffs.add_failure(&SessionKey::from_bytes(bytes), X, NOW.plus(SECOND), NOW);
            looks.push(backoffs.all().left);
        }
        looks.dedup();
        assert_eq!(looks, [0, 10_000, 20_000, 40_000, 80_000]);
        assert_eq!(backoffs.all().sessions.len(), 100_000);
    }
}
