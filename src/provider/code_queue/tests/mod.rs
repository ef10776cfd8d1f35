#![expect(
    clippy::arithmetic_side_effects,
    reason = "the numbers of this file are small"
)]

mod simulation;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Four places for each class. A place of a failed exchange becomes free after a second.
const PACE: Pace = Pace {
    places: 4,
    interval: SECOND,
    exchanges: 6,
    calls: 1000,
};

/// The simulated time.
fn now() -> Instant {
    Clock::system().instant()
}

fn since(begun: Instant) -> Duration {
    now().duration_since(begun)
}

/// A network of IPv4 that shares no larger network with the others.
fn network(number: u8) -> QueueClient {
    of_address([number, 0, 113, 7])
}

fn of_address(address: impl Into<IpAddr>) -> QueueClient {
    QueueClient::Network(ClientNetworks::default().of(address.into()))
}

/// A /64 of IPv6: the first number is its /32, the second its /48, and the third its /64.
fn network_6(slash_32: u16, slash_48: u16, slash_64: u16) -> QueueClient {
    of_address(Ipv6Addr::new(
        0x2001, slash_32, slash_48, slash_64, 0, 0, 0, 1,
    ))
}

const USER: QueueClient = QueueClient::User([1; 32]);

/// The fingerprint of a state that no other call of this function returns.
fn new_state() -> [u8; 32] {
    static STATES: AtomicU64 = AtomicU64::new(0);
    let mut state = [0; 32];
    let number = STATES.fetch_add(1, Ordering::Relaxed);
    state[..8].copy_from_slice(&number.to_be_bytes());
    state
}

/// A new code of `client`.
fn code(client: QueueClient) -> QueuedCode {
    QueuedCode {
        client,
        state: new_state(),
        returns: false,
    }
}

/// A code of `client` that is sent again.
fn returning(client: QueueClient) -> QueuedCode {
    QueuedCode {
        returns: true,
        ..code(client)
    }
}

async fn turn_of(queue: &Arc<CodeQueue>, code: QueuedCode) -> Option<CodeTurn> {
    queue.turn(code, |_failed| PACE, &Clock::system()).await
}

async fn turn(queue: &Arc<CodeQueue>, client: QueueClient) -> Option<CodeTurn> {
    turn_of(queue, code(client)).await
}

/// A turn that must come at once.
async fn turn_now(queue: &Arc<CodeQueue>, client: QueueClient) -> CodeTurn {
    let turn = timeout(Duration::from_millis(1), turn(queue, client)).await;
    turn.expect("the turn has not come").unwrap()
}

/// Starts to wait for a turn whose exchange fails. The code is in the queue when the function
/// returns.
async fn waiting(queue: &Arc<CodeQueue>, client: QueueClient) -> Turn {
    waiting_code(queue, code(client)).await
}

async fn waiting_code(queue: &Arc<CodeQueue>, code: QueuedCode) -> Turn {
    let before = queue.lock().entered();
    let shared = Arc::clone(queue);
    let turn = tokio::spawn(async move {
        if let Some(mut turn) = turn_of(&shared, code).await {
            turn.note_failed();
        }
    });
    while queue.lock().entered() == before {
        tokio::task::yield_now().await;
    }
    turn
}

type Turn = tokio::task::JoinHandle<()>;

/// Occupies all places for networks with failed exchanges of `client`. After the first failure,
/// `client` is in the other class of networks.
async fn fail_everywhere(queue: &Arc<CodeQueue>, client: QueueClient) {
    for _ in 0..=PACE.places {
        turn_now(queue, client).await.note_failed();
    }
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
    for _ in 0..PACE.places {
        turn_now(&queue, network(1)).await.note_failed();
    }
    assert!(timeout(SECOND / 2, turn(&queue, network(1))).await.is_err());
}

/// The number of codes that have had their turn.
fn finished(codes: &[Turn]) -> usize {
    codes.iter().filter(|code| code.is_finished()).count()
}

#[tokio::test(start_paused = true)]
async fn d_21_the_networks_of_waiting_codes_take_turns() {
    let queue = Arc::default();
    let mut codes = Vec::new();
    // Both networks have failed exchanges, and the second network has the last one.
    fail_everywhere(&queue, network(1)).await;
    turn(&queue, network(2)).await.unwrap().note_failed();
    for number in [1, 1, 1, 1, 2, 2, 2, 2] {
        codes.push(waiting_code(&queue, returning(network(number))).await);
    }
    sleep(SECOND / 2).await;
    for second in 1..=8 {
        sleep(SECOND).await;
        let [first, other] = [&codes[..4], &codes[4..]].map(finished);
        assert_eq!(first + other, second);
        assert!(first.abs_diff(other) <= 2, "{first} {other}");
    }
    assert_eq!(finished(&codes[..4]), 4);
}

#[tokio::test(start_paused = true)]
async fn d_21_networks_without_a_failure_and_failing_networks_alternate() {
    let queue = Arc::default();
    fail_everywhere(&queue, network(1)).await;
    let mut codes = Vec::new();
    for _ in 0..4 {
        codes.push(waiting_code(&queue, returning(network(1))).await);
    }
    // New networks get every second turn, and not all turns.
    let mut others = Vec::new();
    for number in 2..=60 {
        others.push(waiting(&queue, network(number)).await);
    }
    sleep(SECOND * 17 / 2).await;
    assert_eq!((finished(&codes), finished(&others)), (4, 4));
}

#[tokio::test(start_paused = true)]
async fn d_21_a_network_has_one_share_however_many_smaller_networks_it_has() {
    let queue = Arc::default();
    fail_everywhere(&queue, network(1)).await;
    let mut many = Vec::new();
    for number in 0..100 {
        many.push(waiting(&queue, network_6(1, 1, number * 0x100)).await);
    }
    sleep(SECOND * 3 / 2).await;
    assert_eq!(finished(&many), 1);
    // Another /56 of the same /48, another /48 of the same /32, and another /32.
    let [near, far, farthest] = [
        waiting(&queue, network_6(1, 1, 0xff00)).await,
        waiting(&queue, network_6(1, 2, 1)).await,
        waiting(&queue, network_6(2, 1, 1)).await,
    ];
    sleep(SECOND).await;
    assert!(farthest.is_finished() && !far.is_finished());
    sleep(SECOND).await;
    assert!(far.is_finished() && finished(&many) == 1);
    drop(near);
}

#[tokio::test(start_paused = true)]
async fn d_21_each_class_keeps_a_place_from_the_others() {
    let queue = Arc::default();
    fail_everywhere(&queue, network(1)).await;
    let mut codes = Vec::new();
    for number in 1..=60 {
        codes.push(waiting(&queue, network(number)).await);
    }
    // Known users do not notice an attack from networks.
    for _ in 0..100 {
        drop(turn_now(&queue, USER).await);
    }
    assert_eq!(finished(&codes), 0);
    // An attacker with an account delays other users by a pause for each class.
    turn_now(&queue, USER).await.note_failed();
    let begun = now();
    drop(turn(&queue, QueueClient::User([2; 32])).await.unwrap());
    assert!(since(begun) <= SECOND * 3, "{:?}", since(begun));
}

#[tokio::test(start_paused = true)]
async fn d_21_a_known_user_whose_codes_fail_yields_to_the_others() {
    let queue = Arc::default();
    fail_everywhere(&queue, network(1)).await;
    turn_now(&queue, USER).await.note_failed();
    let mut codes = Vec::new();
    for _ in 0..20 {
        codes.push(waiting(&queue, USER).await);
    }
    for number in 2..10 {
        let begun = now();
        drop(turn(&queue, QueueClient::User([number; 32])).await.unwrap());
        assert!(since(begun) <= SECOND, "{:?}", since(begun));
    }
}

#[tokio::test(start_paused = true)]
async fn d_21_an_exchange_that_succeeds_is_no_turn() {
    let queue = Arc::default();
    fail_everywhere(&queue, network(1)).await;
    let _attack = waiting(&queue, network(1)).await;
    let mut running = JoinSet::new();
    // A hundred users wait for one pause together, and not for a hundred pauses.
    let begun = now();
    for number in 0..100 {
        let queue = Arc::clone(&queue);
        running.spawn(async move {
            for _ in 0..2 {
                let turn = turn(&queue, network_6(7, number, 1)).await.unwrap();
                assert_eq!(turn.class, Class::Networks);
            }
        });
    }
    running.join_all().await;
    assert!(since(begun) <= SECOND * 2, "{:?}", since(begun));
}

#[tokio::test(start_paused = true)]
async fn d_21_no_code_has_its_turn_while_no_call_is_left() {
    let (queue, clock) = (Arc::<CodeQueue>::default(), Clock::system());
    let left = AtomicU64::new(2);
    let pace = |_failed| Pace {
        calls: left.load(Ordering::Relaxed).try_into().unwrap(),
        ..PACE
    };
    for _ in 0..2 {
        drop(queue.turn(code(USER), pace, &clock).await.unwrap());
        left.fetch_sub(1, Ordering::Relaxed);
    }
    let begun = now();
    assert!(queue.turn(code(USER), pace, &clock).await.is_none());
    assert_eq!(since(begun), MAX_WAIT);
    let later = queue.turn(code(USER), pace, &clock);
    let (later, ()) = tokio::join!(later, async {
        sleep(SECOND * 3).await;
        left.store(1, Ordering::Relaxed);
    });
    assert!(later.is_some());
    assert!(since(begun) <= MAX_WAIT + SECOND * 4);
}

#[tokio::test(start_paused = true)]
async fn d_21_a_code_that_is_sent_again_has_priority() {
    let queue = Arc::default();
    fail_everywhere(&queue, network(1)).await;
    let mut codes = Vec::new();
    for _ in 0..20 {
        codes.push(waiting(&queue, network(1)).await);
    }
    let begun = now();
    let mut again = turn_of(&queue, returning(network(1))).await.unwrap();
    assert!(since(begun) <= SECOND);
    again.note_failed();
    drop(again);
    // A code that returns keeps its place, whatever arrives after it.
    let (_, mut turn) = queue.lock().enter(returning(network(1)));
    for _ in 0..1000 {
        drop(queue.lock().enter(code(network(1))));
    }
    assert_eq!(queue.lock().waiting(), 3);
    queue.lock().serve(now() + SECOND);
    assert!(turn.try_recv().is_ok());
}

#[tokio::test(start_paused = true)]
async fn d_21_an_attacker_cannot_choose_which_code_is_next() {
    let mut chosen = BTreeSet::new();
    for _ in 0..100 {
        let queue = Arc::default();
        fail_everywhere(&queue, network(1)).await;
        let mut codes = Vec::new();
        for _ in 0..4 {
            codes.push(waiting_code(&queue, returning(network(1))).await);
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
    for number in 2..=4 {
        turn_now(&queue, network(number)).await.note_failed();
    }
    // As long as no code of the network has failed, many users may wait for a slow provider.
    let mut codes = Vec::new();
    for _ in 0..100 {
        codes.push(waiting(&queue, network(1)).await);
    }
    assert_eq!(queue.lock().waiting(), 100);
    running.note_failed();
    drop(running);
    // One of two codes has its turn in the class of failing networks.
    assert_eq!(queue.lock().waiting(), 1);
    for _ in 0..20 {
        drop(queue.lock().enter(returning(network(1))));
    }
    assert_eq!(queue.lock().waiting(), 8);
    // Codes of many networks also have a bound.
    for address in 0..2000_u32 {
        let client = of_address(Ipv4Addr::from(address << 16));
        drop(queue.lock().enter(code(client)));
    }
    assert_eq!(queue.lock().waiting(), 1024 + 8);
}

#[tokio::test(start_paused = true)]
async fn d_21_invented_codes_push_out_no_code_of_a_known_user_or_of_another_network() {
    let queue = Arc::default();
    fail_everywhere(&queue, network(1)).await;
    turn_now(&queue, USER).await.note_failed();
    let mut state = queue.lock();
    // As many codes of known users as of networks may wait.
    let mut turns = Vec::new();
    for number in 0..1000_u16 {
        let mut user = [0; 32];
        user[..2].copy_from_slice(&number.to_be_bytes());
        turns.push(state.enter(code(QueueClient::User(user))).1);
    }
    turns.push(state.enter(code(network(2))).1);
    turns.push(state.enter(code(network_6(1, 2, 1))).1);
    for number in 0..5000 {
        drop(state.enter(code(network_6(1, 1, number))));
    }
    assert_eq!(state.waiting(), 1000 + 1024);
    let replaced = |turn: &mut Receiver<Class>| {
        matches!(
            turn.try_recv(),
            Err(tokio::sync::oneshot::error::TryRecvError::Closed)
        )
    };
    assert!(!turns.iter_mut().any(replaced));
}

#[tokio::test(start_paused = true)]
async fn d_21_the_memory_of_failed_exchanges_is_bounded_and_ends() {
    let mut state = State::default();
    let (begun, between) = (now(), Duration::from_millis(50));
    for number in 0..6000_u32 {
        let at = begun + between * number;
        state.set_pace(Pace {
            interval: between,
            ..PACE
        });
        let client = of_address(Ipv4Addr::from(number << 8));
        let (_, mut turn) = state.enter(code(client));
        state.serve(at);
        let class = turn.try_recv().unwrap();
        assert_eq!(class, Class::Networks);
        state.finish((class, client), true, at);
    }
    assert_eq!(state.waiting(), 0);
    // Each failed exchange is remembered for the address and its larger networks, in two classes.
    assert!(state.size() <= 4097 * 2 * 4, "{}", state.size());
    state.serve(begun + Duration::from_mins(16));
    assert_eq!(state.size(), 3);
}

#[tokio::test(start_paused = true)]
async fn d_21_a_state_has_one_place_in_the_queue() {
    let queue = Arc::default();
    fail_everywhere(&queue, network(1)).await;
    let code = code(network(1));
    let mut codes = Vec::new();
    for _ in 0..3 {
        let queue = Arc::clone(&queue);
        codes.push(tokio::spawn(async move {
            turn_of(&queue, code).await.is_some()
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
