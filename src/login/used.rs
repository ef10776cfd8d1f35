//! States that have been verified: each is good for one exchange.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use crate::clock::Timestamp;

/// How many are remembered. A state gets here once, with the cookie that belongs to it, and when
/// the oldest goes early the provider still takes each code only once.
const MOST: usize = 100_000;

/// How long a state is remembered: the longest time that the settings allow a login to take. A reload
/// may raise that time, and a state that was forgotten would then be good again.
const REMEMBERED: Duration = Duration::from_hours(1);

/// A bounded memory of the states that were verified. One that is older than a login may take is
/// refused for its age.
#[derive(Debug, Default)]
pub(super) struct UsedStates {
    known: HashSet<[u8; 32]>,
    order: VecDeque<(Timestamp, [u8; 32])>,
}

/// Whether a state has come for the first time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(super) enum Use {
    First,
    Repeated,
}

impl UsedStates {
    /// Remembers a state.
    pub(super) fn remember(&mut self, fingerprint: [u8; 32], now: Timestamp) -> Use {
        while let Some((at, oldest)) = self.order.front() {
            if self.order.len() < MOST && at.plus(REMEMBERED) > now {
                break;
            }
            self.known.remove(oldest);
            self.order.pop_front();
        }
        if !self.known.insert(fingerprint) {
            return Use::Repeated;
        }
        self.order.push_back((now, fingerprint));
        Use::First
    }

    /// Forgets a state whose answer was not sent to the provider after all.
    pub(super) fn forget(&mut self, fingerprint: &[u8; 32]) {
        if self.known.remove(fingerprint) {
            self.order.retain(|(_, other)| other != fingerprint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = REMEMBERED;

    fn fingerprint(number: usize) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        bytes
    }

    #[test]
    fn a_04_a_state_is_good_for_one_use() {
        let (mut used, now) = (UsedStates::default(), Timestamp::from_millis(0));
        assert_eq!(used.remember(fingerprint(1), now), Use::First);
        assert_eq!(used.remember(fingerprint(1), now), Use::Repeated);
        assert_eq!(used.remember(fingerprint(2), now), Use::First);
    }

    #[test]
    fn the_memory_is_bounded_in_time_and_number() {
        let (mut used, now) = (UsedStates::default(), Timestamp::from_millis(0));
        for number in 0..MOST + 5 {
            assert_eq!(used.remember(fingerprint(number), now), Use::First);
        }
        assert!(used.known.len() <= MOST && used.order.len() == used.known.len());
        assert_eq!(used.remember(fingerprint(MOST), now), Use::Repeated);
        assert_eq!(
            used.remember(fingerprint(MOST), now.plus(TIMEOUT)),
            Use::First
        );
        assert_eq!(used.known.len(), 1);
    }
}
