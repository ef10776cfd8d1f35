//! Counts the refused codes and the refused requests to end sessions per client. A client that has
//! sent many refused codes must wait. If a client has sent many refused logout tokens, the gateway
//! verifies only few further logout tokens of the client at the same time.
//!
//! An attacker can begin a login and then call the redirection endpoint with an invented code. For
//! each invented code, the gateway calls the token endpoint. Some providers allow only fifty calls
//! per minute for all users together. Only refused codes are counted, so normal logins are not
//! affected. The verification of a forged logout token costs time of the processor. Refused codes,
//! refused logout tokens and refused requests to the webhook have separate counters.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Timestamp;
use crate::fields::ClientNetworks;

/// If the provider has refused this many codes of one client within one minute, the client must
/// wait.
const MAX_REFUSED: u64 = 10;

/// The number of counters. Two clients rarely share a counter, because there are 4096 counters. The
/// number of counters is fixed, so the memory for the counters cannot grow.
const COUNTERS: usize = 4096;

/// Counts, for each client network, the authorization codes that the provider has refused. Each
/// counter stores the minute and the count in one 64-bit value.
#[derive(Debug)]
pub(super) struct Throttle {
    counters: Box<[AtomicU64]>,
    seed: RandomState,
}

/// States whether a client may send another code.
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

    /// Decides whether `client` may send a code now.
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

    /// Counts a code of `client` that the provider has refused.
    pub(super) fn note_refused(&self, client: IpAddr, now: Timestamp) {
        let Some(counter) = self.counter(client) else {
            return;
        };
        let minute = minute_of(now);
        // If two threads count a refused code at the same time, the counter may increase by only
        // one. The limit of refused codes need not be exact, so no lock is needed.
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
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Generates an address and the expected client network as text. The generator uses only a few
    /// values for the parts of an address, so that many addresses are in the same network.
    fn client() -> impl Strategy<Value = (IpAddr, String)> {
        let few = || prop::sample::select(vec![0_u16, 1, 0x0a00, 0xffff]);
        let wide = [(); 8].map(|()| few());
        wide.prop_flat_map(|wide| (Just(wide), 0..3_u8))
            .prop_map(|(wide, kind)| {
                let narrow = [wide[6], wide[7]].map(u16::to_be_bytes).concat();
                let narrow = std::net::Ipv4Addr::new(narrow[0], narrow[1], narrow[2], narrow[3]);
                let [a, b, c, d, ..] = wide;
                match kind {
                    0 => (narrow.into(), narrow.to_string()),
                    1 => (narrow.to_ipv6_mapped().into(), narrow.to_string()),
                    _ => match IpAddr::from(wide).to_canonical() {
                        IpAddr::V4(mapped) => (IpAddr::from(wide), mapped.to_string()),
                        IpAddr::V6(_) => {
                            (IpAddr::from(wide), format!("{a:x}:{b:x}:{c:x}:{d:x}::/64"))
                        }
                    },
                }
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn g_11_two_clients_never_share_a_key_of_the_throttle(
            clients in prop::collection::vec(client(), 1000)
        ) {
            let (mut by_key, mut by_client) = (HashMap::new(), HashMap::new());
            for (address, client) in clients {
                let key = ClientNetworks::default().of(address);
                let before = by_key.entry(key).or_insert_with(|| client.clone());
                prop_assert_eq!(&*before, &client);
                prop_assert_eq!(*by_client.entry(client).or_insert(key), key);
            }
        }
    }

    #[test]
    fn d_21_refused_codes_slow_down_one_client_for_a_minute() {
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
