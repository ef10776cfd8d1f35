//! The places for exchanges, and the codes that wait for a place.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tokio::sync::oneshot::{self, Receiver};
use tokio::time::Instant;

use super::share::{Share, Waiting};
use super::{Pace, QueueClient, QueuedCode, after};

/// The maximum number of waiting codes of a class.
const MAX_WAITING: usize = 1024;

/// The maximum number of waiting codes of a network whose codes fail. A code that does not get its
/// turn soon should be sent again, instead of waiting among many invented codes.
const MAX_WAITING_OF_FAILING: usize = 8;

/// The maximum number of waiting codes of such a network that come for the first time. Codes of
/// users soon become codes that return, and these wait without being replaced by new codes.
const MAX_NEW_OF_FAILING: usize = 2;

/// The time for which the queue remembers a failed exchange.
const MEMORY: Duration = Duration::from_mins(10);

/// The number of failed exchanges that the queue remembers. Each of them has cost a call to the
/// provider, so an attacker cannot push out a failure without calls to the provider.
const MAX_FAILURES: usize = 4096;

/// The period in which the limiter counts calls.
const MINUTE: Duration = Duration::from_mins(1);

/// A class of clients. Each class always has a place that the others cannot occupy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Class {
    /// Users who have signed in before with the same browser.
    Users,
    /// Networks without a recent failed exchange.
    Networks,
    /// Networks with a recent failed exchange.
    FailingNetworks,
}

impl Class {
    const ALL: [Self; 3] = [Self::Users, Self::Networks, Self::FailingNetworks];
}

/// The shares of the classes.
#[derive(Debug, Default)]
struct Shares {
    users: Share,
    networks: Share,
    failing_networks: Share,
}

/// A failed exchange.
#[derive(Clone, Copy, Debug)]
struct Failure {
    at: Instant,
    client: QueueClient,
    number: u64,
}

/// The places and the waiting codes of one provider.
#[derive(Debug)]
pub(super) struct State {
    pace: Pace,
    /// The number of exchanges in progress. Each of them has a place.
    running: usize,
    /// The places that failed exchanges still occupy, oldest first.
    failed_places: VecDeque<(Class, QueueClient)>,
    /// The time from which the interval until the next free place counts. `None` if no failed
    /// exchange occupies a place.
    freed_at: Option<Instant>,
    shares: Shares,
    /// The failed exchanges that the queue remembers, oldest first.
    failures: VecDeque<Failure>,
    /// The number of exchanges that have failed.
    failed: u64,
    /// The number of codes that have entered the queue.
    entered: u64,
    /// The number of turns.
    turns: u64,
    /// Chooses codes at random, so that an attacker cannot predict the choice.
    random: RandomState,
}

impl Default for State {
    fn default() -> Self {
        Self {
            // The caller sets the pace before the first turn.
            pace: Pace {
                places: 0,
                interval: super::LOOK,
                exchanges: 0,
                calls: 0,
            },
            running: 0,
            failed_places: VecDeque::new(),
            freed_at: None,
            shares: Shares::default(),
            failures: VecDeque::new(),
            failed: 0,
            entered: 0,
            turns: 0,
            random: RandomState::new(),
        }
    }
}

impl Shares {
    fn of(&self, class: Class) -> &Share {
        match class {
            Class::Users => &self.users,
            Class::Networks => &self.networks,
            Class::FailingNetworks => &self.failing_networks,
        }
    }

    fn of_mut(&mut self, class: Class) -> &mut Share {
        match class {
            Class::Users => &mut self.users,
            Class::Networks => &mut self.networks,
            Class::FailingNetworks => &mut self.failing_networks,
        }
    }

    /// Returns the class in which the codes of a client wait.
    fn class_of(&self, client: QueueClient) -> Class {
        match client {
            QueueClient::User(_) => Class::Users,
            QueueClient::Network(_) => match self.failing_networks.of(client) {
                Some(share) if share.failed > 0 => Class::FailingNetworks,
                Some(_) | None => Class::Networks,
            },
        }
    }

    fn waiting(&self, client: QueueClient) -> &[Waiting] {
        self.of(self.class_of(client)).codes(client)
    }

    fn take(&mut self, client: QueueClient, index: usize) -> Option<Waiting> {
        self.of_mut(self.class_of(client)).take(client, index)
    }

    /// Moves the waiting codes of a client that has left `class`.
    fn move_from(&mut self, class: Class, client: QueueClient) {
        let now_in = self.class_of(client);
        while now_in != class
            && let Some(code) = self.of_mut(class).take(client, 0)
        {
            self.of_mut(now_in).add(client, code);
        }
    }
}

impl State {
    /// Sets the pace. The calls for the exchanges in progress are not left.
    pub(super) fn set_pace(&mut self, pace: Pace) {
        let calls = pace.calls.saturating_sub(self.running);
        self.pace = Pace { calls, ..pace };
    }

    /// Returns the number of exchanges that have failed in the last minute.
    pub(super) fn failed_in_last_minute(&self, now: Instant) -> usize {
        let latest = self.failures.iter().rev();
        let recent = latest.take_while(|failure| after(failure.at, MINUTE) > now);
        recent.count()
    }

    /// Adds a code. Returns the number of the code, and the receiver for its turn. If there are too
    /// many waiting codes, a code leaves the queue, and the receiver of this code gets an error.
    pub(super) fn enter(&mut self, code: QueuedCode) -> (u64, Receiver<Class>) {
        let QueuedCode { client, state, .. } = code;
        let same = |waiting: &Waiting| waiting.state == state;
        let same = self.shares.waiting(client).iter().position(same);
        let replaced = same.and_then(|index| self.shares.take(client, index));
        let id = self.entered;
        self.entered = id.wrapping_add(1);
        let (turn, receiver) = oneshot::channel();
        let code = Waiting {
            id,
            state,
            returns: code.returns || replaced.is_some_and(|replaced| replaced.returns),
            turn,
        };
        let class = self.shares.class_of(client);
        self.shares.of_mut(class).add(client, code);
        self.keep_bounds(class, client);
        (id, receiver)
    }

    /// Removes a waiting code. Returns false if the code does not wait any more.
    pub(super) fn leave(&mut self, client: QueueClient, id: u64) -> bool {
        let is_it = |code: &Waiting| code.id == id;
        let index = self.shares.waiting(client).iter().position(is_it);
        let code = index.and_then(|index| self.shares.take(client, index));
        code.is_some()
    }

    /// Gives the free places to waiting codes.
    pub(super) fn serve(&mut self, now: Instant) {
        self.forget_failures(now);
        self.free_places(now);
        while let Some((class, client)) = self.next_client() {
            // A code that returns has waited for a long time.
            let index = self.pick(class, client, true);
            let share = self.shares.of_mut(class);
            let Some(code) = index.and_then(|index| share.take(client, index)) else {
                return;
            };
            self.turns = self.turns.wrapping_add(1);
            // The receiver exists as long as the code waits.
            if code.turn.send(class).is_ok() {
                share.change(&client.path(), &|share| {
                    share.running = share.running.saturating_add(1);
                    share.places = share.places.saturating_add(1);
                });
                self.running = self.running.saturating_add(1);
                self.pace.calls = self.pace.calls.saturating_sub(1);
            }
        }
    }

    /// Returns the client whose turn it is, if a place is free. The turn belongs to the class with the
    /// fewest exchanges in progress, and among these to the class whose last failed exchange is the
    /// oldest. Within the class, it belongs to the networks or users that occupy the fewest places,
    /// and among these to those whose last failed exchange is the oldest.
    fn next_client(&self) -> Option<(Class, QueueClient)> {
        if self.pace.calls == 0 || self.running >= self.pace.exchanges {
            return None;
        }
        let free = Class::ALL.into_iter().filter(|class| {
            let waiting = self.shares.of(*class).waiting;
            waiting > 0 && self.has_place(*class)
        });
        let class = free.min_by_key(|class| {
            let share = self.shares.of(*class);
            (share.running, share.failed)
        })?;
        let client = self.shares.of(class).choose(|client, share| {
            let has_returning = Reverse(share.returning > 0);
            let chance = self.random.hash_one((self.turns, client));
            (share.places, share.failed, has_returning, chance)
        })?;
        Some((class, client))
    }

    /// Returns true if a code of `class` may occupy one more place. Each class can always occupy one place, because the
    /// other classes never occupy the last place that it needs.
    fn has_place(&self, class: Class) -> bool {
        let taken = |class: Class| self.shares.of(class).places.max(1);
        let all = Class::ALL
            .into_iter()
            .map(taken)
            .fold(0, usize::saturating_add);
        let most = self.pace.places.saturating_add(Pace::KEPT);
        self.shares.of(class).places == 0 || all < most
    }

    /// Returns the time at which a place of a failed exchange becomes free.
    pub(super) fn next_turn(&self) -> Option<Instant> {
        Some(after(self.freed_at?, self.pace.interval))
    }

    /// Records the end of an exchange, and whether the exchange has failed.
    pub(super) fn finish(
        &mut self,
        (class, client): (Class, QueueClient),
        has_failed: bool,
        now: Instant,
    ) {
        self.running = self.running.saturating_sub(1);
        let share = self.shares.of_mut(class);
        share.change(&client.path(), &|share| {
            share.running = share.running.saturating_sub(1);
        });
        if has_failed {
            self.failed_places.push_back((class, client));
            self.freed_at.get_or_insert(now);
            self.remember_failure((class, client), now);
        } else {
            self.free_place(class, client);
        }
        self.serve(now);
    }

    fn free_place(&mut self, class: Class, client: QueueClient) {
        self.shares.of_mut(class).change(&client.path(), &|share| {
            share.places = share.places.saturating_sub(1);
        });
    }

    /// Frees the places of failed exchanges whose time is over. A place of a class with waiting
    /// codes becomes free first.
    fn free_places(&mut self, now: Instant) {
        while let Some(next) = self.next_turn().filter(|next| *next <= now) {
            let waits = |(class, _): &(Class, _)| self.shares.of(*class).waiting > 0;
            let first = self.failed_places.iter().position(waits);
            let freed = self.failed_places.remove(first.unwrap_or_default());
            if let Some((class, client)) = freed {
                self.free_place(class, client);
            }
            self.freed_at = (!self.failed_places.is_empty()).then_some(next);
        }
    }

    /// Records a failed exchange for the client and for its networks. The codes of a network whose
    /// exchange has failed wait in the class of failing networks from now on.
    fn remember_failure(&mut self, (class, client): (Class, QueueClient), now: Instant) {
        let path = client.path();
        let number = self.failed.saturating_add(1);
        self.failed = number;
        let share = self.shares.of_mut(class);
        share.change(&path, &|share| share.failed = number);
        if class == Class::Networks {
            // The failure gives the networks no advantage in the other class, and no disadvantage.
            let failing = &mut self.shares.failing_networks;
            failing.change(&path, &|share| {
                if share.failed == 0 {
                    share.failed = number;
                }
            });
            self.shares.move_from(class, client);
        }
        self.failures.push_back(Failure {
            at: now,
            client,
            number,
        });
        self.keep_bounds(self.shares.class_of(client), client);
    }

    /// Forgets failed exchanges that are too old or too many.
    fn forget_failures(&mut self, now: Instant) {
        let (is_old, most) = (|at| after(at, MEMORY) <= now, MAX_FAILURES);
        while let Some(oldest) = self.failures.front().copied()
            && (is_old(oldest.at) || self.failures.len() > most)
        {
            self.failures.pop_front();
            for class in Class::ALL {
                let share = self.shares.of_mut(class);
                share.change(&oldest.client.path(), &|share| {
                    if share.failed == oldest.number {
                        share.failed = 0;
                    }
                });
            }
            let class = Class::FailingNetworks;
            self.shares.move_from(class, oldest.client);
        }
    }

    /// Removes codes of `client` until the client has no more waiting codes than it may have, and
    /// codes of `class` until not too many codes of the class wait. The largest networks and users
    /// lose codes first.
    fn keep_bounds(&mut self, class: Class, client: QueueClient) {
        while self.waits_too_often(class, client) {
            if !self.turn_away(class, client) {
                return;
            }
        }
        while self.shares.of(class).waiting > MAX_WAITING {
            let largest = self.shares.of(class).choose(|client, share| {
                let chance = self.random.hash_one((self.entered, client));
                (Reverse(share.waiting), share.returning, chance)
            });
            if !largest.is_some_and(|largest| self.turn_away(class, largest)) {
                return;
            }
        }
    }

    /// Whether a client has too many waiting codes. A network whose codes fail may have many
    /// waiting codes while no failed exchange occupies a place: its codes then get their turns soon.
    fn waits_too_often(&self, class: Class, client: QueueClient) -> bool {
        if class != Class::FailingNetworks || self.failed_places.is_empty() {
            return false;
        }
        let codes = self.shares.of(class).codes(client);
        let new = codes.iter().filter(|code| !code.returns).count();
        codes.len() > MAX_WAITING_OF_FAILING || new > MAX_NEW_OF_FAILING
    }

    /// Removes a random code of `client`.
    fn turn_away(&mut self, class: Class, client: QueueClient) -> bool {
        let index = self.pick(class, client, false);
        let share = self.shares.of_mut(class);
        let code = index.and_then(|index| share.take(client, index));
        code.is_some()
    }

    /// Chooses a random code of `client`. If the client has codes for which `returns` is right, the
    /// function chooses one of these codes.
    fn pick(&self, class: Class, client: QueueClient, returns: bool) -> Option<usize> {
        let codes = self.shares.of(class).codes(client);
        let wanted = codes.iter().any(|code| code.returns == returns);
        let numbered = codes.iter().enumerate();
        let choice: Vec<usize> = numbered
            .filter(|(_, code)| !wanted || code.returns == returns)
            .map(|(index, _)| index)
            .collect();
        let number = self
            .random
            .hash_one((self.entered, self.turns, codes.len()));
        let nth = number.checked_rem(u64::try_from(choice.len()).ok()?)?;
        choice.get(usize::try_from(nth).ok()?).copied()
    }
}

#[cfg(test)]
impl State {
    /// The number of codes that have entered the queue.
    pub(super) fn entered(&self) -> u64 {
        self.entered
    }

    /// The number of waiting codes, after a check that the counts of the queue agree.
    pub(super) fn waiting(&self) -> usize {
        let shares = Class::ALL.map(|class| self.shares.of(class));
        let places: usize = shares.iter().map(|share| share.places).sum();
        assert_eq!(
            places,
            self.running.saturating_add(self.failed_places.len())
        );
        assert!(self.failures.len() <= MAX_FAILURES.saturating_add(1));
        shares.iter().map(|share| share.checked()).sum()
    }

    /// The number of shares, with one for each class.
    pub(super) fn size(&self) -> usize {
        let sizes = Class::ALL.map(|class| self.shares.of(class).size());
        sizes.into_iter().sum()
    }
}
