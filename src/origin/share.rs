//! The queue of the requests that wait for a connection, and the exchanges that lose their
//! connection for a waiting request.
//!
//! An app has few connections, and a slow client can use a connection for a long time. This module
//! protects the other clients from a slow client, but only while a request waits for a connection.
//!
//! If an exchange has waited for its own client for longer than [`ShareSettings::slow_client`], the
//! queue may evict the exchange. The exchange that has waited longest is evicted first.
//!
//! While requests of other clients wait, one client can have only a limited number of the
//! connections (the share of the client). If a client already holds its share, the queue serves the
//! requests of other clients first. If a client has more than its share, the queue may evict an
//! exchange that has waited for this client for only one second.
//!
//! The gateway declares some exchanges to be streams. A stream counts as a part of its client's
//! share. The client of a stream is often silent, so the queue evicts a stream only if the client
//! of this stream has more than its share.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::owner::Owner;
use super::usage::Eviction;

/// The time that a request waits before an exchange is evicted for the request. In most cases, a
/// connection becomes free before a request has waited for `EVICTION_DELAY`, so no exchange is
/// evicted.
const EVICTION_DELAY: Duration = Duration::from_millis(100);

/// The time that a request waits before an exchange of a client with more than its share is evicted
/// for the request. This shorter time applies only if no exchange has ended since the request began
/// to wait, because then the clients with slow exchanges probably hold all connections.
const BLOCKED_DELAY: Duration = Duration::from_millis(10);

/// The shortest time after which the queue can evict an exchange of a client that has more than its
/// share of the connections. Only the time during which the exchange waits for its client counts.
/// If the client has an ordinary network connection, the exchange waits for the client for less
/// than `BRIEF_WAIT`.
const BRIEF_WAIT: Duration = Duration::from_secs(1);

/// The limit on one client's share applies while a request of another client waits. When no request
/// of another client waits any more, the limit on one client's share still applies for the time
/// `SHARE_PERIOD`. Without `SHARE_PERIOD`, a client with many waiting requests would take all free
/// connections whenever no other client has a waiting request.
const SHARE_PERIOD: Duration = Duration::from_secs(5);

/// The settings of the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShareSettings {
    /// The largest number of connections that one client holds while requests of other clients
    /// wait.
    pub(super) most: usize,
    /// The longest time for which an exchange may wait for its own client while other requests
    /// wait.
    pub(super) slow_client: Duration,
}

/// One exchange that uses a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// Identifies the exchange by two numbers: the number of the connection in its pool, and the
    /// number of the exchange on the connection.
    pub(super) key: (u64, u64),
    pub(super) owner: Owner,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// An ordinary exchange. `waited` is the time for which the exchange has waited for its client.
    Exchange { waited: Duration },
    /// An exchange that was declared to be a stream, with the time at which the exchange began.
    /// `since` is `None` if the gateway must not evict the stream yet.
    Stream { since: Option<Instant> },
    /// A connection that has switched, or can still switch, to another protocol. The connection
    /// counts as a part of its client's share, but the gateway never evicts the connection for a
    /// waiting request.
    Tunnel,
}

/// The decision to evict an exchange.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdict {
    pub(super) key: (u64, u64),
    pub(super) eviction: Eviction,
    /// The exchange can be evicted only if the exchange has waited for its client for at least the
    /// time `least`.
    least: Duration,
}

impl Verdict {
    /// Returns true if `held`, the present state of the exchange, still allows the eviction.
    pub(super) fn still_applies(&self, held: &Held) -> bool {
        let long = match held.kind {
            Kind::Exchange { waited } => waited >= self.least,
            Kind::Stream { .. } => true,
            Kind::Tunnel => false,
        };
        held.key == self.key && long
    }
}

/// The waiting requests in the order of their arrival. Each waiting request has a value of type
/// `T`, through which the request gets a connection.
pub(super) struct Queue<T> {
    terms: ShareSettings,
    next: u64,
    waiters: VecDeque<Waiter<T>>,
    /// For each client, the number of its exchanges.
    counts: HashMap<Owner, usize>,
    /// Whether at least one client has all connections that its share allows. If no client has its
    /// whole share, the queue serves all requests in their order and needs less work.
    any_whole_share: bool,
    /// The two clients whose requests waited most recently, each with the time at which its request
    /// last waited. While a client has its whole share of the connections, the queue does not
    /// record the requests of this client in `recent`. The two entries belong to two different
    /// clients. For each client, at least one entry therefore shows whether a different client has
    /// waited.
    recent: [Option<(Owner, Instant)>; 2],
    /// The time at which the queue was last updated or a request was last added.
    now: Option<Instant>,
    /// The time at which an exchange last ended without an eviction while a request was waiting.
    /// Exchanges of a client with its whole share do not count.
    last_end: Option<Instant>,
}

struct Waiter<T> {
    id: u64,
    owner: Owner,
    since: Instant,
    /// Whether an exchange was evicted for this request.
    spent: bool,
    /// Whether requests of other clients go before this request.
    held_back: bool,
    grant: T,
}

impl<T> Queue<T> {
    pub(super) fn new(terms: ShareSettings) -> Self {
        Self {
            terms,
            next: 0,
            waiters: VecDeque::new(),
            counts: HashMap::new(),
            any_whole_share: false,
            recent: [None; 2],
            now: None,
            last_end: None,
        }
    }

    /// Adds a request. Returns its number.
    pub(super) fn push(&mut self, owner: Owner, now: Instant, grant: T) -> u64 {
        let id = self.next;
        self.next = id.wrapping_add(1);
        self.waiters.push_back(Waiter {
            id,
            owner,
            since: now,
            spent: false,
            held_back: false,
            grant,
        });
        if self.any_whole_share {
            self.update(now);
        } else {
            self.now = Some(now);
            remember(&mut self.recent, owner, now);
        }
        id
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Returns the number of waiting requests that currently let requests of other clients go
    /// first.
    pub(super) fn held_back(&self) -> usize {
        let held_back = self.waiters.iter().filter(|waiter| waiter.held_back);
        held_back.count()
    }

    /// Whether a new request of this client has to let requests of other clients go first.
    pub(super) fn holds_back(&self, owner: Owner, now: Instant) -> bool {
        let others = self.recent.iter().flatten().any(|(other, at)| {
            *other != owner && now.saturating_duration_since(*at) < SHARE_PERIOD
        });
        others && self.has_whole_share(owner)
    }

    /// Whether the request is in the queue, and does not have to wait for requests of other
    /// clients.
    pub(super) fn may_be_next(&self, id: u64) -> bool {
        let at = self.waiters.binary_search_by_key(&id, |waiter| waiter.id);
        let waiter = at.ok().and_then(|at| self.waiters.get(at));
        waiter.is_some_and(|waiter| !waiter.held_back)
    }

    /// Removes a request, if it is in the queue.
    pub(super) fn remove(&mut self, id: u64) -> Option<T> {
        let at = self.waiters.binary_search_by_key(&id, |waiter| waiter.id);
        let waiter = self.waiters.remove(at.ok()?)?;
        Some(waiter.grant)
    }

    /// Removes each request for which `wanted` returns false. This function calls `wanted` with the
    /// field `grant` of each request.
    pub(super) fn retain(&mut self, wanted: impl Fn(&T) -> bool) {
        self.waiters.retain(|waiter| wanted(&waiter.grant));
    }

    /// Removes all requests.
    pub(super) fn take(&mut self) -> impl Iterator<Item = T> + use<T> {
        let waiters = std::mem::take(&mut self.waiters);
        waiters.into_iter().map(|waiter| waiter.grant)
    }

    /// Returns true if a request in the queue is allowed to take the next free connection.
    pub(super) fn has_next(&self) -> bool {
        self.waiters.iter().any(|waiter| !waiter.held_back)
    }

    /// Removes the next request that gets a connection, counts this connection for the client that
    /// sent the request, and returns the request.
    pub(super) fn pop(&mut self) -> Option<T> {
        let at = self.waiters.iter().position(|waiter| !waiter.held_back)?;
        let Waiter { owner, grant, .. } = self.waiters.remove(at)?;
        self.granted(owner);
        Some(grant)
    }

    /// Removes the newest request of a client that has more than `most` requests in the queue, so
    /// that a request of `owner` can take the place of the removed request. Returns `None` if no
    /// client has more than `most` requests in the queue, or if `owner` already has at least `most`
    /// requests in the queue.
    pub(super) fn waiter_to_replace(&mut self, owner: Owner, most: usize) -> Option<T> {
        let places = |of: Owner| {
            self.waiters
                .iter()
                .filter(|waiter| waiter.owner == of)
                .count()
        };
        if places(owner) >= most {
            return None;
        }
        let newest = |waiter: &Waiter<T>| places(waiter.owner) > most;
        let at = self.waiters.iter().rposition(newest)?;
        Some(self.waiters.remove(at)?.grant)
    }

    /// Records that an exchange of a client has ended. The client can have less than its whole
    /// share now, so waiting requests of the client can get a connection again.
    pub(super) fn ended(&mut self, owner: Owner, is_evicted: bool, now: Instant) {
        // Neither an evicted exchange nor an exchange of a client with its whole share shows that
        // connections become free without evictions.
        if !is_evicted && !self.has_whole_share(owner) {
            self.last_end = Some(now);
        }
        if let Some(count) = self.counts.get_mut(&owner) {
            *count = count.saturating_sub(1);
        }
        if self.any_whole_share {
            self.update(now);
        }
    }

    /// Records that a waiting request of this client has got a connection.
    pub(super) fn granted(&mut self, owner: Owner) {
        self.count(owner);
        if let Some(now) = self.now.filter(|_now| self.any_whole_share) {
            self.update(now);
        }
    }

    fn count(&mut self, owner: Owner) {
        let count = self.counts.entry(owner).or_default();
        *count = count.saturating_add(1);
        self.any_whole_share |= *count >= self.terms.most;
    }

    /// Sets the number of connections that one client may hold.
    pub(super) fn set_most(&mut self, most: usize) {
        self.terms.most = most;
    }

    /// Counts the exchanges of each client again.
    pub(super) fn count_held<'a>(&mut self, held: impl Iterator<Item = &'a Held>, now: Instant) {
        self.counts.clear();
        self.any_whole_share = false;
        for held in held {
            self.count(held.owner);
        }
        self.update(now);
    }

    fn has_whole_share(&self, owner: Owner) -> bool {
        let count = self.counts.get(&owner).copied().unwrap_or_default();
        count >= self.terms.most
    }

    /// Determines for each waiting request whether requests of other clients go first.
    pub(super) fn update(&mut self, now: Instant) {
        self.now = Some(now);
        for at in 0..self.waiters.len() {
            let owner = self.waiters.get(at).map(|waiter| waiter.owner);
            if let Some(owner) = owner.filter(|owner| !self.has_whole_share(*owner)) {
                remember(&mut self.recent, owner, now);
            }
        }
        for at in 0..self.waiters.len() {
            let owner = self.waiters.get(at).map(|waiter| waiter.owner);
            let held_back = owner.is_some_and(|owner| self.holds_back(owner, now));
            if let Some(waiter) = self.waiters.get_mut(at) {
                waiter.held_back = held_back;
            }
        }
    }

    /// Chooses the exchanges that lose their connection, at most one for each waiting request. Call
    /// [`Queue::count_held`] first. For each chosen exchange, this function returns the position of
    /// the exchange in `held` and a `Verdict`.
    pub(super) fn exchanges_to_evict(
        &mut self,
        held: &[Held],
        now: Instant,
    ) -> Vec<(usize, Verdict)> {
        let mut candidates: Vec<_> = held.iter().enumerate().collect();
        let mut counts = self.counts.clone();
        let mut verdicts = Vec::new();
        for waiter in &mut self.waiters {
            let waited = now.saturating_duration_since(waiter.since);
            if waiter.spent || waiter.held_back || waited < BLOCKED_DELAY {
                continue;
            }
            let blocked = self.last_end.is_none_or(|end| end < waiter.since);
            let rank = |held: &Held| {
                let count = counts.get(&held.owner).copied().unwrap_or_default();
                let over = held.owner != waiter.owner && count > self.terms.most;
                self.terms.rank(held.kind, over, now)
            };
            let ranked = candidates.iter().enumerate();
            let ranked = ranked.filter_map(|(at, (_, held))| Some((rank(held)?, at)));
            let Some((rank, at)) = ranked.max_by_key(|(rank, _)| rank.order) else {
                continue;
            };
            let eviction = rank.eviction;
            let delay = match eviction {
                Eviction::OverShare if blocked => BLOCKED_DELAY,
                Eviction::OverShare | Eviction::SlowClient => EVICTION_DELAY,
            };
            if rank.is_too_young || waited < delay {
                continue;
            }
            let (position, victim) = candidates.swap_remove(at);
            if let Some(count) = counts.get_mut(&victim.owner) {
                *count = count.saturating_sub(1);
            }
            waiter.spent = true;
            let verdict = Verdict {
                key: victim.key,
                eviction,
                least: match eviction {
                    Eviction::SlowClient => self.terms.slow_client,
                    Eviction::OverShare => BRIEF_WAIT,
                },
            };
            verdicts.push((position, verdict));
        }
        verdicts
    }

    /// Whether a request has waited for at least `time`. This function ignores requests that let
    /// other requests go first.
    pub(super) fn has_waited(&self, time: Duration, now: Instant) -> bool {
        let mut waiters = self.waiters.iter().filter(|waiter| !waiter.held_back);
        waiters.any(|waiter| now.saturating_duration_since(waiter.since) >= time)
    }

    /// Allows one more eviction. Call this function if a chosen exchange was not evicted, because
    /// the exchange had ended or had made progress.
    pub(super) fn eviction_failed(&mut self) {
        let mut waiters = self.waiters.iter_mut();
        if let Some(waiter) = waiters.find(|waiter| waiter.spent) {
            waiter.spent = false;
        }
    }
}

/// The position of an exchange in the order of eviction. The exchange with the largest `order` is
/// evicted first.
struct Rank {
    eviction: Eviction,
    order: (u8, Duration),
    /// True if the exchange has begun only recently. The queue does not evict the exchange yet.
    is_too_young: bool,
}

impl ShareSettings {
    /// Returns `None` if the exchange keeps its connection. The argument `over` is true if the
    /// client of the exchange has more than its share.
    fn rank(&self, kind: Kind, over: bool, now: Instant) -> Option<Rank> {
        let mut is_too_young = false;
        let (eviction, order) = match kind {
            Kind::Exchange { waited } if over && waited >= BRIEF_WAIT => {
                (Eviction::OverShare, (2, waited))
            }
            Kind::Exchange { waited } if waited > self.slow_client => {
                (Eviction::SlowClient, (1, waited))
            }
            // The newest stream is evicted before older streams, because only the newest streams
            // exceed the share.
            Kind::Stream { since: Some(since) } if over => {
                let age = now.saturating_duration_since(since);
                is_too_young = age < BRIEF_WAIT;
                (Eviction::OverShare, (0, Duration::MAX.saturating_sub(age)))
            }
            Kind::Exchange { .. } | Kind::Stream { .. } | Kind::Tunnel => return None,
        };
        Some(Rank {
            eviction,
            order,
            is_too_young,
        })
    }
}

fn remember(recent: &mut [Option<(Owner, Instant)>; 2], owner: Owner, now: Instant) {
    let known = |entry: &&mut Option<(Owner, Instant)>| entry.is_some_and(|(of, _)| of == owner);
    if let Some(entry) = recent.iter_mut().find(known) {
        *entry = Some((owner, now));
        return;
    }
    let oldest = recent
        .iter_mut()
        .min_by_key(|entry| entry.map(|(_, at)| at));
    if let Some(oldest) = oldest {
        *oldest = Some((owner, now));
    }
}

#[cfg(test)]
#[path = "share_tests.rs"]
mod tests;
