//! Tests of the queue: the choice of the exchanges that are evicted, and the shares of the clients.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::unchecked_time_subtraction,
    reason = "the times of the tests are far from the smallest and the largest time"
)]

use super::*;
use crate::clock::Clock;

const SLOW: Duration = Duration::from_secs(5);
const TERMS: ShareSettings = ShareSettings {
    most: 4,
    slow_client: SLOW,
};

fn client(number: u8) -> Owner {
    Owner::Session([number; 16])
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Returns an exchange that has waited for its client for the time `waited`. The argument `of` is
/// the number of the client.
fn waiting(number: u64, of: u8, waited: Duration) -> Held {
    Held {
        key: (number, 1),
        owner: client(of),
        kind: Kind::Exchange { waited },
    }
}

fn stream(number: u64, of: u8, since: Option<Instant>) -> Held {
    Held {
        key: (number, 1),
        owner: client(of),
        kind: Kind::Stream { since },
    }
}

/// Returns a queue that contains one request for each client in `clients`. Each request has waited
/// long enough to evict an exchange.
fn queue(clients: &[u8]) -> (Queue<u8>, Instant) {
    let now = Clock::system().instant() + Duration::from_hours(1);
    (queue_at(now, clients), now)
}

fn queue_at(now: Instant, clients: &[u8]) -> Queue<u8> {
    let (mut queue, start) = (Queue::new(TERMS), now - EVICTION_DELAY);
    for of in clients {
        queue.push(client(*of), start, *of);
    }
    queue
}

/// The exchanges that must give up their connections, so that the waiting requests of `clients` get
/// these connections.
fn exchanges_to_evict(clients: &[u8], held: &[Held]) -> Vec<(u64, Eviction)> {
    let (_, now) = queue(&[]);
    victims_at(now, clients, held)
}

fn victims_at(now: Instant, clients: &[u8], held: &[Held]) -> Vec<(u64, Eviction)> {
    let mut queue = queue_at(now, clients);
    queue.count_held(held.iter(), now);
    let verdicts = queue.exchanges_to_evict(held, now);
    let verdicts = verdicts.into_iter();
    verdicts
        .map(|(_at, verdict)| (verdict.key.0, verdict.eviction))
        .collect()
}

#[test]
fn the_exchange_that_has_waited_longest_for_its_client_is_evicted() {
    let held = [
        waiting(1, 1, SLOW + millis(1)),
        waiting(2, 2, SLOW + millis(3)),
        waiting(3, 3, SLOW + millis(2)),
        waiting(4, 4, SLOW),
        waiting(5, 5, Duration::ZERO),
    ];
    let slow = |number| (number, Eviction::SlowClient);
    assert_eq!(exchanges_to_evict(&[9], &held), [slow(2)]);
    // Each waiting request evicts one exchange, and the exchanges that have waited longest come
    // first.
    assert_eq!(exchanges_to_evict(&[9, 8], &held), [slow(2), slow(3)]);
    assert_eq!(
        exchanges_to_evict(&[9, 8, 7, 6], &held),
        [slow(2), slow(3), slow(1)]
    );
    assert_eq!(exchanges_to_evict(&[], &held), []);
    // The waiting request and the evicted exchange can belong to the same client.
    assert_eq!(exchanges_to_evict(&[2], &held), [slow(2)]);
}

#[test]
fn a_request_causes_one_eviction_and_only_after_a_short_wait() {
    let held = [waiting(1, 1, SLOW * 2), waiting(2, 2, SLOW * 3)];
    let (mut queue, now) = queue(&[9]);
    queue.count_held(held.iter(), now);
    assert_eq!(queue.exchanges_to_evict(&held, now - millis(1)).len(), 0);
    assert_eq!(queue.exchanges_to_evict(&held, now).len(), 1);
    assert_eq!(queue.exchanges_to_evict(&held, now).len(), 0);
    // The chosen exchange has ended without an eviction.
    queue.eviction_failed();
    assert_eq!(queue.exchanges_to_evict(&held, now).len(), 1);
    queue.push(client(8), now, 8);
    assert_eq!(
        queue.exchanges_to_evict(&held, now + EVICTION_DELAY).len(),
        1
    );
}

#[test]
fn exchanges_above_the_share_are_evicted_after_a_shorter_wait() {
    let of_hog = |number| waiting(number, 1, BRIEF_WAIT + millis(number));
    let over = |number| (number, Eviction::OverShare);
    let mut held: Vec<_> = (0..6).map(of_hog).collect();
    assert_eq!(exchanges_to_evict(&[9], &held), [over(5)]);
    // The client has six exchanges, and its share is four connections.
    assert_eq!(exchanges_to_evict(&[9, 8, 7], &held), [over(5), over(4)]);
    // No other client waits.
    assert_eq!(exchanges_to_evict(&[1, 1], &held), []);
    // An exchange that has waited for its client for less than `BRIEF_WAIT` is not evicted.
    held[5] = waiting(5, 1, BRIEF_WAIT - millis(1));
    assert_eq!(exchanges_to_evict(&[9], &held), [over(4)]);
    // If a client has more than its share, its exchanges are evicted before a slow exchange of
    // another client.
    held.push(waiting(6, 2, SLOW * 2));
    assert_eq!(
        exchanges_to_evict(&[9, 8, 7], &held),
        [over(4), over(3), (6, Eviction::SlowClient)]
    );
}

#[test]
fn a_request_waits_only_briefly_if_no_exchange_has_ended() {
    let start = Clock::system().instant() + Duration::from_hours(1);
    let hog: Vec<_> = (0..6)
        .map(|number| waiting(number, 1, BRIEF_WAIT))
        .collect();
    let slow = [waiting(6, 2, SLOW * 2)];
    let evictions = |held: &[Held], end: Option<Duration>, waited| {
        let mut queue = Queue::new(TERMS);
        queue.push(client(9), start, 9);
        if let Some(end) = end {
            queue.ended(client(3), false, start + end);
        }
        queue.count_held(held.iter(), start + waited);
        queue.exchanges_to_evict(held, start + waited).len()
    };
    assert_eq!(evictions(&hog, None, BLOCKED_DELAY - millis(1)), 0);
    assert_eq!(evictions(&hog, None, BLOCKED_DELAY), 1);
    // An exchange has ended while the request waited, so connections become free.
    assert_eq!(evictions(&hog, Some(millis(5)), BLOCKED_DELAY), 0);
    assert_eq!(evictions(&hog, Some(millis(5)), EVICTION_DELAY), 1);
    // The short delay does not apply to a client that has at most its share.
    assert_eq!(evictions(&slow, None, EVICTION_DELAY - millis(1)), 0);
    assert_eq!(evictions(&slow, None, EVICTION_DELAY), 1);
}

#[test]
fn streams_count_but_only_the_newest_streams_above_the_share_are_evicted() {
    let (_, now) = queue(&[]);
    let begun = |number, ago| stream(number, 1, now.checked_sub(ago));
    let over = |number| (number, Eviction::OverShare);
    let mut held = Vec::new();
    for number in 1..=4 {
        held.push(begun(number, SLOW * 10 - millis(number)));
    }
    assert_eq!(victims_at(now, &[9], &held), []);
    held.push(begun(5, SLOW));
    assert_eq!(victims_at(now, &[9], &held), [over(5)]);
    // The queue first evicts the exchanges that wait for their clients, and evicts streams only
    // afterwards.
    held.push(waiting(6, 1, BRIEF_WAIT));
    assert_eq!(victims_at(now, &[9, 8, 7], &held), [over(6), over(5)]);
    // The newest stream has just begun, so no stream is evicted yet.
    held.pop();
    held[4] = begun(5, BRIEF_WAIT - millis(1));
    assert_eq!(victims_at(now, &[9], &held), []);
    // The newest stream cannot be ended, so the queue evicts an older stream.
    held[4] = stream(5, 1, None);
    assert_eq!(victims_at(now, &[9], &held), [over(4)]);
    // Switched connections count toward the share of their client, but are never evicted.
    for held in &mut held {
        held.kind = Kind::Tunnel;
    }
    assert_eq!(victims_at(now, &[9], &held), []);
    held.push(waiting(7, 1, BRIEF_WAIT));
    assert_eq!(victims_at(now, &[9], &held), [over(7)]);
}

#[test]
fn a_client_with_its_whole_share_waits_until_no_other_client_has_waited_for_some_time() {
    let (mut queue, now) = queue(&[1, 1, 9]);
    let held = [0, 1, 2, 3].map(|number| waiting(number, 1, Duration::ZERO));
    queue.count_held(held.iter(), now);
    assert_eq!(queue.held_back(), 2);
    assert!(queue.has_next() && queue.holds_back(client(1), now));
    assert_eq!(queue.pop(), Some(9));
    assert!(!queue.has_next() && queue.pop().is_none());
    // Until `SHARE_PERIOD` has passed, the other client may send a further request, so the limit on
    // one client's share still applies.
    queue.count_held(held.iter(), now + SHARE_PERIOD - millis(1));
    assert_eq!(queue.held_back(), 2);
    queue.count_held(held.iter(), now + SHARE_PERIOD);
    assert_eq!((queue.held_back(), queue.pop()), (0, Some(1)));
}

#[test]
fn a_client_below_its_share_is_served_in_its_turn() {
    let (mut queue, now) = queue(&[1, 1, 9, 1]);
    let held = [0, 1, 2].map(|number| waiting(number, 1, Duration::ZERO));
    queue.count_held(held.iter(), now);
    assert_eq!(queue.held_back(), 0);
    // With the first request, the client reaches its share of the connections, so later requests of
    // the client wait.
    let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
    assert_eq!(order, [1, 9]);
    assert_eq!(queue.len(), 2);
    // The pool now reports one exchange less for the client, so the client gets another connection.
    queue.count_held(held.iter(), now);
    assert_eq!(queue.pop(), Some(1));
    queue.ended(client(1), false, now);
    queue.granted(client(9));
    queue.update(now);
    assert_eq!(queue.pop(), Some(1));
}

#[test]
fn a_client_alone_gets_every_connection() {
    let (mut queue, now) = queue(&[1, 1]);
    let held: Vec<_> = (0..8).map(|n| waiting(n, 1, Duration::ZERO)).collect();
    queue.count_held(held.iter(), now);
    assert_eq!(
        (queue.held_back(), queue.pop(), queue.pop()),
        (0, Some(1), Some(1))
    );
}

#[test]
fn a_full_queue_removes_the_newest_request_of_a_client_with_too_many_places() {
    let (mut queue, now) = queue(&[1, 1, 1, 2]);
    assert_eq!(queue.waiter_to_replace(client(9), 3), None);
    assert_eq!(queue.waiter_to_replace(client(1), 2), None);
    assert_eq!(queue.waiter_to_replace(client(9), 2), Some(1));
    assert_eq!(queue.waiter_to_replace(client(9), 2), None);
    let id = queue.push(client(9), now, 9);
    let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
    assert_eq!(order, [1, 1, 2, 9]);
    assert_eq!(queue.remove(id), None);
}
