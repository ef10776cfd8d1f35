//! Sessions whose refresh failed for a reason that passes, and when they are tried again.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::secret::random;
use crate::session::SessionKey;

/// The first pause after a failure that passes, and the longest; each is twice the one before.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// A server may ask for a longer pause, up to this. What seems to be longer comes of a clock that
/// was set back.
pub(super) const LONGEST_ASKED: Duration = Duration::from_mins(5);

/// How many sessions are remembered before those are forgotten that nobody has tried since.
const MANY: usize = 10_000;

/// Why there are no new tokens now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Failure {
    /// A stable code.
    pub(super) reason: &'static str,
    /// When it is tried again.
    pub(super) retry_after: Duration,
}

/// Failures of one session in a row.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    failures: u32,
    until: Timestamp,
    reason: &'static str,
}

/// All sessions in trouble.
#[derive(Debug, Default)]
pub(super) struct Troubles(
    // Looked at when something is refreshed, never for a token that is fresh.
    #[expect(clippy::disallowed_types, reason = "held for one look-up")]
    std::sync::Mutex<HashMap<SessionKey, Trouble>>,
);

impl Troubles {
    /// The pause that a session is in.
    pub(super) fn find(&self, key: &SessionKey, now: Timestamp) -> Option<Failure> {
        let trouble = *self.all().get(key)?;
        let retry_after = trouble.until.since(now);
        let reason = trouble.reason;
        (!retry_after.is_zero() && retry_after <= LONGEST_ASKED).then_some(Failure {
            reason,
            retry_after,
        })
    }

    /// Notes one more failure, after which a session is not tried before `until`.
    pub(super) fn note(
        &self,
        key: &SessionKey,
        reason: &'static str,
        until: Timestamp,
        now: Timestamp,
    ) {
        self.hold(key, reason, until, now);
        if let Some(trouble) = self.all().get_mut(key) {
            trouble.failures = trouble.failures.saturating_add(1);
        }
    }

    /// Notes that a session is not tried before `until`, though it has not failed: nothing was
    /// asked. A break of the server's must not make the session's own pauses longer.
    pub(super) fn hold(
        &self,
        key: &SessionKey,
        reason: &'static str,
        until: Timestamp,
        now: Timestamp,
    ) {
        let mut all = self.all();
        if all.len() >= MANY {
            all.retain(|_, trouble| trouble.until.plus(LONGEST_ASKED) > now);
        }
        let failures = all.get(key).map_or(0, |trouble| trouble.failures);
        let trouble = Trouble {
            failures,
            until,
            reason,
        };
        all.insert(*key, trouble);
    }

    /// Forgets a session that is in order again, or gone.
    pub(super) fn forget(&self, key: &SessionKey) {
        self.all().remove(key);
    }

    /// How long the next pause of a session is where the server asks for none.
    pub(super) fn next_pause(&self, key: &SessionKey) -> Duration {
        let failures = self.all().get(key).map_or(0, |trouble| trouble.failures);
        jittered(pause(failures))
    }

    fn all(&self) -> MutexGuard<'_, HashMap<SessionKey, Trouble>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pause after so many failures before this one.
fn pause(failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE)
}

/// Between half of a pause and all of it, so that those who failed together do not try together.
fn jittered(pause: Duration) -> Duration {
    // Without random bytes all try at once, which is no worse than without this.
    let [byte] = random::<1>().unwrap_or_default();
    pause.mul_f64(0.5 + f64::from(byte) / 510.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    fn key(byte: u8) -> SessionKey {
        SessionKey::from_bytes([byte; 16])
    }

    #[test]
    fn g_07_pauses_double_and_are_spread() {
        let troubles = Troubles::default();
        for (failures, longest) in [1, 2, 4, 8, 16, 32, 60, 60, 60].into_iter().enumerate() {
            let longest = Duration::from_secs(longest);
            for _ in 0..20 {
                let pause = troubles.next_pause(&key(1));
                assert!(
                    pause >= longest / 2 && pause <= longest,
                    "{failures}: {pause:?}"
                );
            }
            troubles.note(&key(1), "x", NOW.plus(SECOND), NOW);
        }
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
        // What was not even asked is no failure.
        let held = key(3);
        for _ in 0..5 {
            troubles.hold(&held, "x", NOW.plus(SECOND), NOW);
        }
        assert!(troubles.next_pause(&held) <= FIRST_PAUSE);
        assert!(troubles.find(&held, NOW).is_some());
        // Another session has its own, and so has one that was in order meanwhile.
        assert!(troubles.next_pause(&key(2)) <= FIRST_PAUSE);
        troubles.forget(&key(1));
        assert!(troubles.next_pause(&key(1)) <= FIRST_PAUSE);
    }

    #[test]
    fn a_session_is_in_trouble_until_its_pause_is_over() {
        let troubles = Troubles::default();
        troubles.note(&key(1), "x", NOW.plus(SECOND * 3), NOW);
        let failure = |after| troubles.find(&key(1), NOW.plus(after));
        assert_eq!(
            failure(SECOND).map(|failure| failure.retry_after),
            Some(SECOND * 2)
        );
        assert_eq!(failure(SECOND * 3), None);
        assert_eq!(troubles.find(&key(2), NOW), None);
    }

    #[test]
    fn f_18_a_clock_that_is_set_back_keeps_nobody_in_trouble() {
        let troubles = Troubles::default();
        troubles.note(&key(1), "x", NOW.plus(SECOND), NOW);
        let yesterday = Timestamp::from_millis(NOW.as_millis() - 86_400_000);
        assert_eq!(troubles.find(&key(1), yesterday), None);
    }

    #[test]
    fn d_26_sessions_that_nobody_uses_do_not_fill_memory() {
        let troubles = Troubles::default();
        for number in 0..30_000_u32 {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            let now = NOW.plus(SECOND * number);
            troubles.note(&SessionKey::from_bytes(bytes), "x", now.plus(SECOND), now);
        }
        assert!(troubles.all().len() <= MANY);
    }
}
