//! Counts the refused requests to end sessions per client. If a client has sent many refused logout
//! tokens, the gateway verifies only few further logout tokens of the client at the same time.
//!
//! The verification of a forged logout token costs time of the processor. Refused logout tokens and
//! refused requests to the webhook have separate counters.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Timestamp;
use crate::fields::ClientNetworks;

/// If the gateway has refused this many requests of one client within one minute, the client is
/// limited.
const MAX_REFUSED: u64 = 10;

/// The number of counters. Two clients rarely share a counter, because there are 4096 counters. The
/// number of counters is fixed, so the memory for the counters cannot grow.
const COUNTERS: usize = 4096;

/// Counts the refused requests of each network. Each counter stores the minute and the count in one
/// 64-bit value.
#[derive(Debug)]
pub(super) struct Throttle {
    counters: Box<[AtomicU64]>,
    seed: RandomState,
}

/// States whether a client has sent too many refused requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(super) enum ThrottleDecision {
    Allowed,
    TooManyRefused,
}

impl Throttle {
    pub(super) fn new() -> Self {
        let counters = std::iter::repeat_with(AtomicU64::default).take(COUNTERS);
        Self {
            counters: counters.collect(),
            // The seed is random, so an attacker cannot compute which addresses share the counter
            // of another client.
            seed: RandomState::new(),
        }
    }

    /// Decides whether `client` is limited now.
    pub(super) fn check(&self, client: IpAddr, now: Timestamp) -> ThrottleDecision {
        let Some(counter) = self.counter(client) else {
            return ThrottleDecision::Allowed;
        };
        match unpack(counter.load(Ordering::Relaxed)) {
            (minute, refused) if minute == minute_of(now) && refused >= MAX_REFUSED => {
                ThrottleDecision::TooManyRefused
            }
            _ => ThrottleDecision::Allowed,
        }
    }

    /// Counts a refused request of `client`.
    pub(super) fn note_refused(&self, client: IpAddr, now: Timestamp) {
        let Some(counter) = self.counter(client) else {
            return;
        };
        let minute = minute_of(now);
        // If two threads count a refused request at the same time, the counter may increase by only
        // one. The limit need not be exact, so no lock is needed.
        let refused = match unpack(counter.load(Ordering::Relaxed)) {
            (then, refused) if then == minute => refused.saturating_add(1),
            _ => 1,
        };
        counter.store(minute << 16 | refused.min(0xffff), Ordering::Relaxed);
    }

    fn counter(&self, client: IpAddr) -> Option<&AtomicU64> {
        let place = self.seed.hash_one(ClientNetworks::default().of(client));
        let place = usize::try_from(place).unwrap_or_default();
        self.counters.get(place.checked_rem(self.counters.len())?)
    }
}

fn minute_of(now: Timestamp) -> u64 {
    now.as_secs() / 60
}

fn unpack(word: u64) -> (u64, u64) {
    (word >> 16, word & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b_18_refused_requests_limit_one_client_for_a_minute() {
        let (throttle, now) = (Throttle::new(), Timestamp::from_millis(6_000_000));
        let client: IpAddr = "203.0.113.9".parse().unwrap();
        for _ in 0..MAX_REFUSED {
            assert_eq!(throttle.check(client, now), ThrottleDecision::Allowed);
            throttle.note_refused(client, now);
        }
        assert_eq!(
            throttle.check(client, now),
            ThrottleDecision::TooManyRefused
        );
        let mapped = "::ffff:203.0.113.9".parse().unwrap();
        assert_eq!(
            throttle.check(mapped, now),
            ThrottleDecision::TooManyRefused
        );
        let others = (0..100).map(|last| IpAddr::from([198, 51, 100, last]));
        let slowed =
            others.filter(|other| throttle.check(*other, now) == ThrottleDecision::TooManyRefused);
        assert!(slowed.count() < 3);
        let later = Timestamp::from_millis(6_060_000);
        assert_eq!(throttle.check(client, later), ThrottleDecision::Allowed);
    }

    #[test]
    fn a_whole_ipv6_network_is_one_client() {
        let (throttle, now) = (Throttle::new(), Timestamp::from_millis(6_000_000));
        for last in 0..MAX_REFUSED {
            let address = format!("2001:db8::{last:x}").parse().unwrap();
            throttle.note_refused(address, now);
        }
        let other = "2001:db8::ffff".parse().unwrap();
        assert_eq!(throttle.check(other, now), ThrottleDecision::TooManyRefused);
    }
}
