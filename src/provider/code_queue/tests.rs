#![expect(
    clippy::arithmetic_side_effects,
    reason = "the numbers of this file are small"
)]

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::*;
use crate::clock::Timestamp;
use crate::fields::ClientNetworks;
use crate::provider::limiter::Limiter;
use crate::provider::settings::GrantType;

const SECOND: Duration = Duration::from_secs(1);

/// Four places. A place of a failed exchange becomes free after a second.
const PACE: Pace = Pace {
    places: 4,
    interval: SECOND,
};

/// The simulated time.
fn now() -> Instant {
    Clock::system().instant()
}

fn since(begun: Instant) -> Duration {
    now().duration_since(begun)
}

fn network(number: u8) -> QueueClient {
    QueueClient::Network(ClientNetworks::default().of([203, 0, 113, number].into()))
}

/// The fingerprint of a state that no other call of this function returns.
fn new_state() -> [u8; 32] {
    static STATES: AtomicU64 = AtomicU64::new(0);
    let mut state = [0; 32];
    let number = STATES.fetch_add(1, Ordering::Relaxed);
    state[..8].copy_from_slice(&number.to_be_bytes());
    state
}

async fn turn(queue: &Arc<CodeQueue>, client: QueueClient) -> Option<CodeTurn> {
    let clock = Clock::system();
    queue.turn((client, new_state()), || PACE, &clock).await
}

/// A turn that must come at once.
async fn turn_now(queue: &Arc<CodeQueue>, client: QueueClient) -> CodeTurn {
    let turn = timeout(Duration::from_millis(1), turn(queue, client)).await;
    turn.expect("the turn has not come").unwrap()
}

/// Starts to wait for a turn whose exchange fails. The code is in the queue when the function
/// returns.
async fn waiting(queue: &Arc<CodeQueue>, client: QueueClient) -> Turn {
    let before = queue.lock().entered();
    let shared = Arc::clone(queue);
    let turn = tokio::spawn(async move {
        if let Some(mut turn) = turn(&shared, client).await {
            turn.note_failed();
        }
    });
    while queue.lock().entered() == before {
        tokio::task::yield_now().await;
    }
    turn
}

type Turn = tokio::task::JoinHandle<()>;

/// Occupies all places with failed exchanges of `client`.
async fn fail_everywhere(queue: &Arc<CodeQueue>, client: QueueClient) {
    let mut turns = Vec::new();
    for _ in 0..PACE.places {
        turns.push(turn_now(queue, client).await);
    }
    turns.iter_mut().for_each(CodeTurn::note_failed);
}

#[tokio::test(start_paused = true)]
async fn d_21_codes_that_are_accepted_do_not_delay_each_other() {
    let queue = Arc::default();
    let begun = now();
    for _ in 0..1000 {
        drop(turn_now(&queue, network(1)).await);
    }
    // Four exchanges are in progress, and 96 codes wait for them.
    let mut running = JoinSet::new();
    for _ in 0..100 {
        let queue = Arc::clone(&queue);
        running.spawn(async move {
            let turn = turn(&queue, network(1)).await;
            sleep(Duration::from_millis(100)).await;
            turn.is_some()
        });
    }
    assert!(running.join_all().await.into_iter().all(|came| came));
    assert!(since(begun) < SECOND * 3, "{:?}", since(begun));
    assert_eq!(queue.lock().waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn d_21_each_failed_exchange_delays_the_next_exchange() {
    let queue = Arc::default();
    fail_everywhere(&queue, network(1)).await;
    let begun = now();
    for seconds in 1..=10 {
        let mut turn = turn(&queue, network(1)).await.unwrap();
        assert_eq!(since(begun).as_secs(), seconds);
        turn.note_failed();
    }
    // All places become free again, but not more places than there are.
    sleep(SECOND * 100).await;
    fail_everywhere(&queue, network(1)).await;
    assert!(timeout(SECOND / 2, turn(&queue, network(1))).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn d_21_the_networks_of_waiting_codes_take_turns() {
    let queue = Arc::default();
    fail_everywhere(&queue, network(1)).await;
    let mut codes = Vec::new();
    for _ in 0..8 {
        codes.push(waiting(&queue, network(1)).await);
    }
    sleep(SECOND * 5 / 2).await;
    let finished = |codes: &[Turn]| codes.iter().filter(|code| code.is_finished()).count();
    assert_eq!(finished(&codes), 2);
    // The other network has one code, and gets the next turn.
    let begun = now();
    let mut other = turn(&queue, network(2)).await.unwrap();
    assert!(since(begun) <= SECOND);
    assert_eq!(finished(&codes), 2);
    other.note_failed();
    drop(other);
    // New networks get every second turn, and not all turns.
    for second in 1..=4 {
        for number in 0..4 {
            drop(waiting(&queue, network(second * 10 + number)).await);
        }
        sleep(SECOND).await;
    }
    assert_eq!(finished(&codes), 4);
}

#[tokio::test(start_paused = true)]
async fn d_21_a_code_that_is_sent_again_has_priority() {
    let (queue, clock, state) = (Arc::default(), Clock::system(), new_state());
    fail_everywhere(&queue, network(1)).await;
    let first = queue.turn((network(1), state), || PACE, &clock);
    assert!(timeout(SECOND / 2, first).await.is_err());
    let mut codes = Vec::new();
    for _ in 0..20 {
        codes.push(waiting(&queue, network(1)).await);
    }
    let begun = now();
    let again = queue.turn((network(1), state), || PACE, &clock).await;
    assert!(again.is_some() && since(begun) <= SECOND);
    // A code that returns keeps its place, whatever arrives after it.
    let second = new_state();
    let turn = queue.turn((network(1), second), || PACE, &clock);
    assert!(timeout(Duration::from_millis(1), turn).await.is_err());
    let turn = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move {
            queue
                .turn((network(1), second), || PACE, &clock)
                .await
                .is_some()
        }
    });
    tokio::task::yield_now().await;
    let mut again = again.unwrap();
    again.note_failed();
    drop(again);
    for _ in 0..1000 {
        drop(queue.lock().enter(network(1), new_state()));
    }
    assert_eq!(queue.lock().waiting(), 8);
    assert!(turn.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn d_21_an_attacker_cannot_choose_which_code_is_next() {
    let mut chosen = BTreeSet::new();
    for _ in 0..100 {
        let queue = Arc::default();
        fail_everywhere(&queue, network(1)).await;
        let mut codes = Vec::new();
        for _ in 0..4 {
            codes.push(waiting(&queue, network(1)).await);
        }
        sleep(SECOND).await;
        tokio::task::yield_now().await;
        let next: Vec<_> = codes.iter().map(Turn::is_finished).collect();
        assert_eq!(next.iter().filter(|next| **next).count(), 1);
        chosen.insert(next);
    }
    assert_eq!(chosen.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn d_21_the_number_of_waiting_codes_is_bounded() {
    let queue = Arc::default();
    let mut running = turn_now(&queue, network(1)).await;
    for _ in 1..PACE.places {
        turn_now(&queue, network(2)).await.note_failed();
    }
    // As long as no code of the network has failed, many users may wait for a slow provider.
    let mut codes = Vec::new();
    for _ in 0..100 {
        codes.push(waiting(&queue, network(1)).await);
    }
    assert_eq!(queue.lock().waiting(), 100);
    running.note_failed();
    drop(running);
    assert_eq!(queue.lock().waiting(), 8);
    // Codes of many networks also have a bound. No network has more than the others.
    for address in 0..2000_u32 {
        let client = QueueClient::Network(
            ClientNetworks::default().of(std::net::Ipv4Addr::from(address).into()),
        );
        drop(queue.lock().enter(client, new_state()));
    }
    assert_eq!(queue.lock().waiting(), 1024);
}

#[tokio::test(start_paused = true)]
async fn d_21_a_state_has_one_place_in_the_queue() {
    let (queue, clock, state) = (Arc::default(), Clock::system(), new_state());
    fail_everywhere(&queue, network(1)).await;
    let mut codes = Vec::new();
    for _ in 0..3 {
        let (queue, clock) = (Arc::clone(&queue), clock.clone());
        codes.push(tokio::spawn(async move {
            let turn = queue.turn((network(1), state), || PACE, &clock).await;
            turn.is_some()
        }));
        tokio::task::yield_now().await;
    }
    assert_eq!(queue.lock().waiting(), 1);
    let mut came = Vec::new();
    for code in codes {
        came.push(code.await.unwrap());
    }
    assert_eq!(came, [false, false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_browser_that_does_not_wait_leaves_the_queue() {
    let queue = Arc::default();
    fail_everywhere(&queue, network(1)).await;
    let code = waiting(&queue, network(1)).await;
    code.abort();
    assert!(code.await.unwrap_err().is_cancelled());
    assert_eq!(queue.lock().waiting(), 0);
    // The turn came, but nobody took the turn.
    let code = waiting(&queue, network(1)).await;
    queue.lock().serve(now() + SECOND);
    assert_eq!(queue.lock().waiting(), 0);
    code.abort();
    assert!(code.await.unwrap_err().is_cancelled());
    let begun = now();
    drop(turn(&queue, network(1)).await.unwrap());
    assert!(since(begun) <= SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_code_does_not_wait_for_ever() {
    let queue = Arc::default();
    let mut running = Vec::new();
    for _ in 0..PACE.places {
        running.push(turn_now(&queue, network(1)).await);
    }
    let begun = now();
    assert!(turn(&queue, network(1)).await.is_none());
    assert_eq!(since(begun).as_secs(), MAX_WAIT.as_secs());
    assert_eq!(queue.lock().waiting(), 0);
}

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
    async fn send(&self, code: (QueueClient, [u8; 32]), is_valid: bool) -> bool {
        let pace = || self.limiter.pace(NonZeroU32::MIN, self.now());
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
        let (begun, state) = (now(), new_state());
        while !self.send((client, state), true).await {
            sleep(SECOND).await;
        }
        since(begun)
    }
}

/// An attack from one network.
#[derive(Clone, Copy, Debug)]
struct Attack {
    calls_per_minute: u32,
    /// Invented codes per second.
    codes: u32,
    /// Refreshes of all users per second.
    refreshes: u32,
    /// Whether the attacker sends a code without a turn again, like a browser.
    again: bool,
}

const ATTACK: Attack = Attack {
    calls_per_minute: 600,
    codes: 10,
    refreshes: 0,
    again: false,
};

impl Attack {
    /// Sends invented codes without end.
    async fn send(self, provider: Arc<Attacked>) {
        let mut sent = JoinSet::new();
        loop {
            let (provider, code) = (Arc::clone(&provider), (network(1), new_state()));
            sent.spawn(async move {
                provider.send(code, false).await;
                if self.again {
                    sleep(SECOND).await;
                    provider.send(code, false).await;
                }
            });
            sleep(SECOND / self.codes).await;
        }
    }

    /// Returns the times of logins of `client` during an attack of a few minutes, sorted. No call
    /// exceeds the limit of the provider.
    async fn times_of_logins(self, client: QueueClient) -> Vec<Duration> {
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
        // The logins use only a small part of the calls.
        let between = SECOND * 1_800 / self.calls_per_minute;
        let attack = if self.codes > 10 {
            SECOND * 120
        } else {
            SECOND * 400
        };
        let mut logins = JoinSet::new();
        while since(provider.begun) < attack {
            sleep(between).await;
            let provider = Arc::clone(&provider);
            logins.spawn(async move { provider.sign_in(client).await });
        }
        let mut times = logins.join_all().await;
        times.sort_unstable();
        let refused = provider.refused_by_limiter.load(Ordering::Relaxed);
        assert_eq!(refused, 0, "{self:?} {client:?}");
        let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
        println!("{self:?} {client:?}: median {median:?}, longest {longest:?}");
        times
    }
}

/// Many calls, many codes, few calls, and many refreshes. The last number is the longest time of a
/// login in seconds.
const ATTACKS: [(Attack, u32); 5] = [
    (ATTACK, 1),
    (
        Attack {
            codes: 100,
            ..ATTACK
        },
        1,
    ),
    (
        Attack {
            calls_per_minute: 50,
            ..ATTACK
        },
        5,
    ),
    (
        Attack {
            calls_per_minute: 50,
            codes: 100,
            ..ATTACK
        },
        5,
    ),
    (
        Attack {
            refreshes: 4,
            ..ATTACK
        },
        1,
    ),
];

#[tokio::test(start_paused = true)]
async fn d_21_an_attack_from_one_network_hardly_delays_others() {
    for (attack, longest) in ATTACKS {
        for (client, again) in [(network(2), false), (QueueClient::User([1; 32]), true)] {
            let attack = Attack { again, ..attack };
            let times = attack.times_of_logins(client).await;
            let last = *times.last().unwrap();
            assert!(last <= SECOND * longest, "{attack:?}: {last:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn d_21_a_new_browser_in_the_network_of_the_attacker_signs_in_within_ten_seconds() {
    for (attack, _) in ATTACKS {
        let times = attack.times_of_logins(network(1)).await;
        let last = *times.last().unwrap();
        assert!(last <= SECOND * 10, "{attack:?}: {last:?}");
    }
}
