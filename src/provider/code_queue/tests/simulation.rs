//! Attacks in simulated time: a limiter, a queue, a provider, an attacker and users.

use std::num::NonZeroU32;

use super::*;
use crate::clock::Timestamp;
use crate::provider::limiter::Limiter;
use crate::provider::settings::GrantType;

/// A provider under attack, in simulated time.
struct Attacked {
    queue: Arc<CodeQueue>,
    limiter: Limiter,
    begun: Instant,
    refused_by_limiter: AtomicU64,
}

impl Attacked {
    fn new(calls_per_minute: u32) -> Arc<Self> {
        Arc::new(Self {
            queue: Arc::default(),
            limiter: Limiter::per_minute(NonZeroU32::new(calls_per_minute).unwrap()),
            begun: now(),
            refused_by_limiter: AtomicU64::new(0),
        })
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000).plus(since(self.begun))
    }

    fn call(&self, grant: GrantType) -> bool {
        let taken = self.limiter.take(grant, NonZeroU32::MIN, self.now());
        if taken.is_err() {
            self.refused_by_limiter.fetch_add(1, Ordering::Relaxed);
        }
        taken.is_ok()
    }

    /// Sends a code. Returns true if the provider has accepted the code.
    async fn send(&self, code: QueuedCode, is_valid: bool) -> bool {
        let pace = |failed| self.limiter.pace(NonZeroU32::MIN, failed, self.now());
        let clock = Clock::system();
        let turn = self.queue.turn(code, pace, &clock);
        let Some(mut turn) = turn.await else {
            return false;
        };
        if !self.call(GrantType::AuthorizationCode) {
            return false;
        }
        sleep(Duration::from_millis(50)).await;
        if !is_valid {
            turn.note_failed();
        }
        is_valid
    }

    /// Signs in like a browser whose page tries again after a second. Returns the time until the
    /// user is signed in.
    async fn sign_in(&self, client: QueueClient) -> Duration {
        let (begun, mut code) = (now(), code(client));
        while !self.send(code, true).await {
            code.returns = true;
            sleep(SECOND).await;
        }
        since(begun)
    }
}

/// The networks of an attacker.
#[derive(Clone, Copy, Debug)]
enum From {
    /// One address.
    Address,
    /// This number of addresses, each in another /16.
    Addresses(u32),
    /// A new /64 for each code, all in the same /48.
    Slash48,
}

impl From {
    /// The network of the code with this number.
    fn network(self, code: u32) -> QueueClient {
        match self {
            Self::Address => network(1),
            Self::Addresses(count) => of_address(Ipv4Addr::from((0x1000 + code % count) << 16)),
            Self::Slash48 => network_6(1, 1, u16::try_from(code % 0x1_0000).unwrap()),
        }
    }
}

/// An attack with invented codes.
#[derive(Clone, Copy, Debug)]
struct Attack {
    calls_per_minute: u32,
    /// Invented codes per second.
    codes: u32,
    /// The networks that send the codes.
    from: From,
    /// Refreshes of all users per second.
    refreshes: u32,
    /// Whether the attacker sends a code without a turn again, like a browser.
    again: bool,
}

const ATTACK: Attack = Attack {
    calls_per_minute: 600,
    codes: 10,
    from: From::Address,
    refreshes: 0,
    again: false,
};

impl Attack {
    /// Sends invented codes without end.
    async fn send(self, provider: Arc<Attacked>) {
        let mut sent = JoinSet::new();
        for number in 0.. {
            let (provider, mut code) = (Arc::clone(&provider), code(self.from.network(number)));
            sent.spawn(async move {
                provider.send(code, false).await;
                if self.again {
                    code.returns = true;
                    sleep(SECOND).await;
                    provider.send(code, false).await;
                }
            });
            while sent.try_join_next().is_some() {}
            sleep(SECOND / self.codes).await;
        }
    }

    /// Returns the times of logins of `client` during an attack, sorted. The logins begin
    /// `from_second` seconds after the attack, or later. No call exceeds the limit of the provider.
    async fn times_of_logins(self, client: QueueClient, from_second: u32) -> Vec<Duration> {
        let provider = Attacked::new(self.calls_per_minute);
        let mut running = JoinSet::new();
        running.spawn(self.send(Arc::clone(&provider)));
        if self.refreshes > 0 {
            let provider = Arc::clone(&provider);
            running.spawn(async move {
                loop {
                    provider.call(GrantType::RefreshToken);
                    sleep(SECOND / self.refreshes).await;
                }
            });
        }
        sleep(SECOND * from_second).await;
        // The logins use only a small part of the calls.
        let between = (SECOND * 1_800 / self.calls_per_minute).min(SECOND * 100);
        let mut times = JoinSet::new();
        for _ in 0..10 {
            sleep(between).await;
            let provider = Arc::clone(&provider);
            times.spawn(async move { provider.sign_in(client).await });
        }
        let mut times = times.join_all().await;
        times.sort_unstable();
        let refused = provider.refused_by_limiter.load(Ordering::Relaxed);
        assert_eq!(refused, 0, "{self:?} {client:?}");
        let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
        println!("{self:?} {client:?}: median {median:?}, longest {longest:?}");
        times
    }

    /// Returns the longest time of a login.
    async fn longest(self, client: QueueClient, from_second: u32) -> Duration {
        let times = self.times_of_logins(client, from_second).await;
        *times.last().unwrap()
    }
}

/// Many calls, many codes, few calls, and many refreshes.
const ATTACKS: [Attack; 5] = [
    ATTACK,
    Attack {
        codes: 100,
        ..ATTACK
    },
    Attack {
        calls_per_minute: 50,
        ..ATTACK
    },
    Attack {
        calls_per_minute: 50,
        codes: 100,
        ..ATTACK
    },
    Attack {
        refreshes: 4,
        ..ATTACK
    },
];

#[tokio::test(start_paused = true)]
async fn d_21_an_attack_from_one_network_hardly_delays_others() {
    for attack in ATTACKS {
        let known = Attack {
            again: true,
            ..attack
        };
        let longest = known.longest(USER, 0).await;
        assert!(longest <= SECOND, "{known:?}: {longest:?}");
        // A new network waits at most for one pause.
        let longest = attack.longest(network(2), 0).await;
        let pause = SECOND * 200 / attack.calls_per_minute;
        assert!(longest <= pause + SECOND, "{attack:?}: {longest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn d_21_a_new_browser_in_the_network_of_the_attacker_signs_in_within_ten_seconds() {
    let few = [12, 15, 19].map(|calls_per_minute| Attack {
        calls_per_minute,
        ..ATTACK
    });
    for attack in ATTACKS.into_iter().chain(few) {
        let longest = attack.longest(network(1), 0).await;
        assert!(longest <= SECOND * 10, "{attack:?}: {longest:?}");
    }
}

/// If the provider allows very few calls, no pace lets a code fail and another succeed within ten
/// seconds. The page of the code tries again until the user is signed in.
#[tokio::test(start_paused = true)]
async fn d_21_with_very_few_calls_a_new_browser_in_the_network_of_the_attacker_signs_in_later() {
    for (calls_per_minute, longest) in [(5, 60), (10, 30)] {
        let attack = Attack {
            calls_per_minute,
            ..ATTACK
        };
        let last = attack.longest(network(1), 0).await;
        assert!(last <= SECOND * longest, "{attack:?}: {last:?}");
        let known = attack.longest(USER, 0).await;
        assert!(known <= SECOND * longest, "{attack:?}: {known:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn d_21_an_attack_from_hundreds_of_networks_delays_no_known_user() {
    for from in [From::Addresses(300), From::Addresses(5000), From::Slash48] {
        for attack in [ATTACKS[0], ATTACKS[3]] {
            let attack = Attack {
                from,
                again: true,
                ..attack
            };
            let longest = attack.longest(USER, 0).await;
            assert!(longest <= SECOND, "{attack:?}: {longest:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn d_21_an_attack_from_a_48_hardly_delays_a_new_network() {
    for attack in [ATTACKS[0], ATTACKS[3]] {
        let attack = Attack {
            from: From::Slash48,
            again: true,
            ..attack
        };
        for client in [network(2), network_6(1, 2, 1)] {
            let longest = attack.longest(client, 0).await;
            let pause = SECOND * 200 / attack.calls_per_minute;
            assert!(longest <= pause * 2 + SECOND, "{attack:?}: {longest:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn d_21_an_attack_from_hundreds_of_networks_delays_a_new_network_only_at_first() {
    let attack = Attack {
        codes: 100,
        from: From::Addresses(300),
        ..ATTACK
    };
    for (from_second, longest) in [(0, 60), (240, 1)] {
        let last = attack.longest(network(2), from_second).await;
        assert!(last <= SECOND * longest, "{attack:?}: {last:?}");
    }
}
