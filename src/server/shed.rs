//! Closes waiting connections, so that there is room for new connections.
//!
//! A connection waits if it has no request in progress: the gateway waits for the first byte, the
//! TLS handshake, the head of a request, or the next request. A connection with a request in
//! progress is never closed to make room.
//!
//! The connections of a client with more than its share are closed first. Otherwise, the connection
//! that has used the largest part of its deadline is closed first. The deadline for the first byte
//! is shorter than the deadline of an idle connection, so a silent connection is closed earlier
//! than an idle connection of the same age, and a new connection is closed last.
//!
//! A worker closes its own connections. If it has none to close, it asks the other workers.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::clients::{ClientCount, ClientId};
use super::deadline::{ConnectionState, Phase};
use super::demand::{Answers, Need};
use super::report::ShedReason;
use super::slots::Slot;
use super::worker::Registry;

/// A new connection closes this fraction of the waiting connections of a worker. One search
/// therefore makes room for several new connections.
const FRACTION: usize = 64;
/// While a worker waits for a slot, each sweep closes this fraction of the waiting connections.
const FRACTION_OF_SWEEP: usize = 8;
/// The longest time for which a worker waits until the other workers have looked at its demand, and
/// until the task of a closed connection has freed its slot. Both take only as long as the tasks of a
/// worker run.
const PATIENCE: Duration = Duration::from_millis(500);
/// The time for which a client at its limit waits until one of its connections ends by itself.
const ENDING: Duration = Duration::from_millis(20);
/// The number of searches between two sweeps for clients that have reached their limit. After these
/// searches, the new connections of such clients are closed without a search.
const SEARCHES: usize = 64;

/// Whether a client may have one more connection.
#[derive(Debug)]
pub(super) enum Admission {
    /// The connection counts for no client.
    Exempt,
    /// The client may have the connection.
    Counted(ClientCount),
    /// The client has reached its limit. Another worker may have a waiting connection of the client.
    Pending(ClientCount),
    /// The client has reached its limit.
    Refused,
}

/// The order in which connections are closed. The connection with the highest rank is closed first.
#[derive(Eq, Ord, PartialEq, PartialOrd)]
struct Rank {
    /// The number of connections of a client with more than its share. Zero for other clients.
    over_share: usize,
    /// The used part of the deadline, in thousandths.
    used: u128,
    /// False for an idle connection, which waits for its next request.
    is_silent: bool,
    age: Reverse<u64>,
}

impl Registry {
    /// Returns a slot for a new connection. If all slots are in use, closes connections that wait.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn slot(&self) -> Option<Slot> {
        if let Some(slot) = self.slots.try_take() {
            return Some(slot);
        }
        if self.slots.clients.is_one_over_share() && !self.asked_in_vain.get() {
            if let Some(slot) = self.slot_of_over_share().await {
                return Some(slot);
            }
            self.asked_in_vain.set(true);
        }
        if self.shed(Need::Slot, FRACTION) == 0 {
            drop(self.ask_others(Need::Slot));
        }
        let _waiting = self.slots.want();
        self.slots.take().await
    }

    /// Closes a connection of a client that has more connections than its share, and returns its slot.
    /// Returns `None` if all connections of such clients have requests in progress.
    async fn slot_of_over_share(&self) -> Option<Slot> {
        let need = Need::SlotOfOverShare;
        let freeing =
            async { self.shed(need, FRACTION) > 0 || self.ask_others(need).is_met().await };
        let slot = async {
            let mut slot = pin!(self.slots.take());
            // The worker first joins the queue for slots, so that no other worker gets the slot that
            // becomes free.
            tokio::select! {
                biased;
                slot = &mut slot => return slot,
                is_freed = freeing => if !is_freed {
                    return None;
                },
            }
            slot.await
        };
        timeout(PATIENCE, slot).await.ok().flatten()
    }

    /// Returns a slot for a connection of a client that has reached its limit. Refuses the connection
    /// if no slot is free.
    pub(super) fn free_slot(&self, peer: SocketAddr) -> Option<Slot> {
        let slot = self.slots.try_take();
        if slot.is_none() {
            self.report(ShedReason::ClientRefused, peer.ip());
        }
        slot
    }

    /// Closes connections, because the operating system has refused a descriptor. Returns true if
    /// a descriptor is free soon.
    pub(super) fn free_descriptors(&self) -> bool {
        let shed = self.shed(Need::Descriptor, FRACTION);
        if shed == 0 {
            drop(self.ask_others(Need::Descriptor));
        }
        shed > 0
    }

    /// Counts a new connection of `client`. If the client has reached its limit, closes one of its
    /// waiting connections.
    pub(super) fn admit(&self, client: IpAddr) -> Admission {
        let count = self.slots.clients.enter(client);
        if self.has_room(count.client()) {
            return Admission::Counted(count);
        }
        let searches = self.searches.get();
        self.searches.set(searches.saturating_add(1));
        if searches >= SEARCHES {
            self.report(ShedReason::ClientRefused, client);
            return Admission::Refused;
        }
        self.shed(Need::RoomOfClient(count.client()), FRACTION);
        if self.has_room(count.client()) {
            Admission::Counted(count)
        } else {
            Admission::Pending(count)
        }
    }

    /// Returns true if the connection with this `state` may continue. If its client has reached its
    /// limit, waits for a short time until another worker has closed a connection of the client.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn settle(&self, state: &ConnectionState, admission: Admission) -> bool {
        let count = match admission {
            Admission::Exempt => return true,
            Admission::Refused => return false,
            Admission::Counted(count) => count,
            Admission::Pending(count) => {
                if !Box::pin(self.room_made_by_others(count.client())).await {
                    self.report(ShedReason::ClientRefused, state.client().ip());
                    return false;
                }
                count
            }
        };
        state.place.belongs_to(count);
        true
    }

    async fn room_made_by_others(&self, client: ClientId) -> bool {
        let mut answers = self.ask_others(Need::RoomOfClient(client));
        let room = async { while answers.is_met().await && !self.has_room(client) {} };
        timeout(PATIENCE, room).await.unwrap_or_default();
        if !self.has_room(client) {
            sleep(ENDING).await;
        }
        self.has_room(client)
    }

    fn has_room(&self, client: ClientId) -> bool {
        self.slots.clients.connections(client) <= self.slots.most
    }

    /// Closes connections, if a worker still waits for a slot. The sweep calls this function.
    pub(super) fn shed_in_sweep(&self) {
        self.searches.set(0);
        self.asked_in_vain.set(false);
        if self.slots.is_wanted() && self.slots.is_full() && !self.frees_a_slot() {
            self.shed(Need::Slot, FRACTION_OF_SWEEP);
        }
    }

    /// Returns true if a connection that this worker has closed is about to end.
    fn frees_a_slot(&self) -> bool {
        let connections = self.connections.borrow();
        connections
            .values()
            .any(|state| state.place.is_shed() && state.phase() != Phase::Busy)
    }

    /// Closes connections whenever another worker asks.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn shed_for_others(&self) {
        let mut demands = self.slots.demands.receiver();
        while let Some(demand) = demands.next().await {
            let is_needed = match demand.need {
                Need::Slot | Need::SlotOfOverShare => self.slots.is_full(),
                Need::Descriptor => true,
                Need::RoomOfClient(client) => !self.has_room(client),
            };
            let is_own = demand.worker == Some(self.index);
            if !is_own && is_needed && self.shed(demand.need, FRACTION) > 0 {
                demand.is_met();
            }
        }
    }

    fn ask_others(&self, need: Need) -> Answers {
        self.slots.demands.ask(Some(self.index), need)
    }

    /// Closes a fraction of the waiting connections, and at least one. If a client needs room, closes
    /// only as many connections as necessary. Returns the number of closed connections.
    fn shed(&self, need: Need, fraction: usize) -> usize {
        let concerns = |state: &ConnectionState| match need {
            Need::Slot | Need::Descriptor => true,
            Need::SlotOfOverShare => state.place.over_share().is_some(),
            Need::RoomOfClient(client) => state.place.is_of_client(client),
        };
        let connections = self.connections.borrow();
        let mut waiting = self.waiting(&connections, concerns);
        let count = match need {
            Need::RoomOfClient(client) => {
                let of_client = self.slots.clients.connections(client);
                waiting.len().min(of_client.saturating_sub(self.slots.most))
            }
            Need::Slot | Need::SlotOfOverShare | Need::Descriptor => {
                waiting.len().div_ceil(fraction)
            }
        };
        if let Some(last) = count.checked_sub(1) {
            waiting.select_nth_unstable_by(last, |(one, _), (other, _)| other.cmp(one));
        }
        waiting.truncate(count);
        for (rank, state) in waiting {
            let reason = match need {
                Need::RoomOfClient(_) => ShedReason::ClientLimit,
                Need::Descriptor => ShedReason::Descriptors,
                Need::Slot | Need::SlotOfOverShare if rank.over_share > 0 => {
                    ShedReason::ClientShare
                }
                Need::Slot | Need::SlotOfOverShare => ShedReason::Connections,
            };
            self.close(state, reason);
        }
        count
    }

    /// Returns the waiting connections with their ranks, in any order.
    fn waiting<'a>(
        &self,
        connections: &'a HashMap<u64, Rc<ConnectionState>>,
        concerns: impl Fn(&ConnectionState) -> bool,
    ) -> Vec<(Rank, &'a Rc<ConnectionState>)> {
        let now = self.coarse_clock.clock().instant();
        let concerned = connections.iter().filter(|(_key, state)| concerns(state));
        let ranked =
            concerned.filter_map(|(key, state)| Some((self.rank(*key, state, now)?, state)));
        ranked.collect()
    }

    /// Returns `None` if the connection has a request in progress, or is closing.
    fn rank(&self, key: u64, state: &ConnectionState, now: Instant) -> Option<Rank> {
        let used = state.used(now, &self.settings.deadlines)?;
        if state.is_closing() || state.place.is_shed() {
            return None;
        }
        Some(Rank {
            over_share: state.place.over_share().unwrap_or_default(),
            used,
            is_silent: state.phase() != Phase::Idle,
            age: Reverse(key),
        })
    }

    fn close(&self, state: &ConnectionState, reason: ShedReason) {
        let client = state.client();
        tracing::debug!(client.address = %client, reason = reason.name(), "Connection is closed");
        self.report(reason, client.ip());
        state.place.shed();
        // An idle HTTP/1.1 connection can close gracefully: it serves at most the request that has
        // already arrived. After a graceful close of HTTP/2, a client could begin further requests
        // for as long as it likes. The other connections would stay open until their deadline.
        let is_graceful = matches!(reason, ShedReason::Connections | ShedReason::ClientLimit);
        let is_idle = state.phase() == Phase::Idle && state.has_served();
        if is_graceful && is_idle && !state.speaks_http2() {
            state.close();
        } else {
            state.abort();
        }
    }

    fn report(&self, reason: ShedReason, client: IpAddr) {
        let now = self.coarse_clock.clock().since_epoch();
        self.slots.reports.shed(reason, client, now);
    }
}
