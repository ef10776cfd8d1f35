//! The places for exchanges, and the codes that wait for a place.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};

use tokio::sync::oneshot::{self, Receiver, Sender};
use tokio::time::Instant;

use super::{Pace, QueueClient, after};

/// The maximum number of waiting codes.
const MAX_WAITING: usize = 1024;

/// The maximum number of waiting codes of a client whose codes fail. A code that does not get its
/// turn soon should be sent again, instead of waiting among many invented codes.
const MAX_WAITING_OF_FAILING: usize = 8;

/// The number of states that the queue remembers because their codes have left the queue without a
/// turn.
const MAX_REMEMBERED: usize = 4096;

/// The fingerprint of a login's state.
type Fingerprint = [u8; 32];

/// The places and the waiting codes of one provider.
#[derive(Debug)]
pub(super) struct State {
    pace: Pace,
    /// The number of exchanges in progress. Each of them has a place.
    running: usize,
    /// The number of places that failed exchanges still occupy.
    failed: usize,
    /// The time from which the interval until the next free place counts. `None` if no failed
    /// exchange occupies a place.
    freed_at: Option<Instant>,
    lines: HashMap<QueueClient, Line>,
    turns: Turns,
    /// The states whose codes have left the queue without a turn, oldest first.
    turned_away: VecDeque<Fingerprint>,
    /// The number of codes that have entered the queue.
    entered: u64,
    /// The number of waiting codes.
    waiting: usize,
    /// Chooses codes at random, so that an attacker cannot predict the choice.
    random: RandomState,
}

/// The clients with waiting codes, in the order of their turns. Clients that have just entered the
/// queue and clients that already had a turn alternate. A single attacker therefore delays another
/// client by one turn only, and new clients cannot take all turns.
#[derive(Debug, Default)]
struct Turns {
    new: VecDeque<QueueClient>,
    served: VecDeque<QueueClient>,
    /// True if the next turn belongs to a client that already had a turn.
    served_is_next: bool,
}

/// The waiting codes of one client.
#[derive(Debug, Default)]
struct Line {
    codes: Vec<Waiting>,
    /// True if an exchange of this client has failed while codes of the client waited.
    fails: bool,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    state: Fingerprint,
    /// True if the code has waited before, and left the queue without a turn.
    returns: bool,
    turn: Sender<()>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            // The caller sets the pace before the first turn.
            pace: Pace {
                places: 0,
                interval: super::LOOK,
            },
            running: 0,
            failed: 0,
            freed_at: None,
            lines: HashMap::new(),
            turns: Turns::default(),
            turned_away: VecDeque::new(),
            entered: 0,
            waiting: 0,
            random: RandomState::new(),
        }
    }
}

impl State {
    pub(super) fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Adds a code. Returns the number of the code, and the receiver for its turn. If there are too
    /// many waiting codes, a code leaves the queue, and the receiver of this code gets an error.
    pub(super) fn enter(&mut self, client: QueueClient, state: Fingerprint) -> (u64, Receiver<()>) {
        let same = self.position(client, |code| code.state == state);
        if let Some(index) = same {
            self.turn_away(client, index);
        }
        let id = self.entered;
        self.entered = id.wrapping_add(1);
        let (turn, receiver) = oneshot::channel();
        let line = self.lines.entry(client).or_insert_with(|| {
            self.turns.new.push_back(client);
            Line::default()
        });
        line.codes.push(Waiting {
            id,
            state,
            returns: self.turned_away.contains(&state),
            turn,
        });
        self.waiting = self.waiting.saturating_add(1);
        self.keep_bounds(client);
        (id, receiver)
    }

    /// Removes a waiting code. Returns false if the code does not wait any more.
    pub(super) fn leave(&mut self, client: QueueClient, id: u64) -> bool {
        let index = self.position(client, |code| code.id == id);
        index.is_some_and(|index| self.turn_away(client, index))
    }

    fn position(&self, client: QueueClient, is_it: impl Fn(&Waiting) -> bool) -> Option<usize> {
        self.lines.get(&client)?.codes.iter().position(is_it)
    }

    /// Gives the free places to waiting codes.
    pub(super) fn serve(&mut self, now: Instant) {
        self.free_places(now);
        while self.running.saturating_add(self.failed) < self.pace.places {
            let Some(client) = self.turns.next() else {
                return;
            };
            // A code that returns has waited for a long time. An attacker has to send each invented
            // code several times before it counts as a code that returns.
            let Some(code) = self
                .pick(client, true)
                .and_then(|index| self.take(client, index))
            else {
                return;
            };
            // The receiver exists as long as the code is in its line.
            if code.turn.send(()).is_ok() {
                self.running = self.running.saturating_add(1);
            }
        }
    }

    /// Returns the time at which a place of a failed exchange becomes free.
    pub(super) fn next_turn(&self) -> Option<Instant> {
        Some(after(self.freed_at?, self.pace.interval))
    }

    /// Records the end of an exchange, and whether the exchange has failed.
    pub(super) fn finish(&mut self, (client, has_failed): (QueueClient, bool), now: Instant) {
        self.running = self.running.saturating_sub(1);
        if has_failed {
            self.failed = self.failed.saturating_add(1);
            self.freed_at.get_or_insert(now);
            if let Some(line) = self.lines.get_mut(&client) {
                line.fails = true;
                self.keep_bounds(client);
            }
        }
        self.serve(now);
    }

    /// Frees the places of failed exchanges whose time is over.
    fn free_places(&mut self, now: Instant) {
        while let Some(next) = self.next_turn().filter(|next| *next <= now) {
            self.failed = self.failed.saturating_sub(1);
            self.freed_at = (self.failed > 0).then_some(next);
        }
    }

    /// Removes codes of `client` until the client has no more waiting codes than it may have, and
    /// codes of the client with the most codes until the queue is not too long.
    fn keep_bounds(&mut self, client: QueueClient) {
        while self.lines.get(&client).is_some_and(Line::is_too_long) {
            if !self.turn_any_away(client) {
                return;
            }
        }
        while self.waiting > MAX_WAITING {
            let lengths = self.lines.iter();
            let longest = lengths.max_by_key(|(_, line)| line.codes.len());
            let Some(longest) = longest.map(|(client, _)| *client) else {
                return;
            };
            if !self.turn_any_away(longest) {
                return;
            }
        }
    }

    fn turn_any_away(&mut self, client: QueueClient) -> bool {
        let index = self.pick(client, false);
        index.is_some_and(|index| self.turn_away(client, index))
    }

    /// Removes the code of `client` at `index`, and remembers its state.
    fn turn_away(&mut self, client: QueueClient, index: usize) -> bool {
        let Some(code) = self.take(client, index) else {
            return false;
        };
        if !code.returns {
            self.turned_away.push_back(code.state);
        }
        if self.turned_away.len() > MAX_REMEMBERED {
            self.turned_away.pop_front();
        }
        true
    }

    /// Chooses a random code of `client`. If the client has codes for which `returns` is right, the
    /// function chooses one of these codes.
    fn pick(&self, client: QueueClient, returns: bool) -> Option<usize> {
        let codes = &self.lines.get(&client)?.codes;
        let wanted = codes.iter().any(|code| code.returns == returns);
        let numbered = codes.iter().enumerate();
        let choice: Vec<usize> = numbered
            .filter(|(_, code)| !wanted || code.returns == returns)
            .map(|(index, _)| index)
            .collect();
        let number = self
            .random
            .hash_one((self.entered, self.waiting, self.running));
        let nth = number.checked_rem(u64::try_from(choice.len()).ok()?)?;
        choice.get(usize::try_from(nth).ok()?).copied()
    }

    /// Removes the code of `client` at `index`.
    fn take(&mut self, client: QueueClient, index: usize) -> Option<Waiting> {
        let line = self.lines.get_mut(&client)?;
        if index >= line.codes.len() {
            return None;
        }
        let code = line.codes.swap_remove(index);
        self.waiting = self.waiting.saturating_sub(1);
        if line.codes.is_empty() {
            self.lines.remove(&client);
            self.turns.remove(client);
        }
        Some(code)
    }
}

impl Turns {
    /// Returns the client whose turn it is. The client gets its next turn after all other clients.
    fn next(&mut self) -> Option<QueueClient> {
        let (first, second) = if self.served_is_next {
            (&mut self.served, &mut self.new)
        } else {
            (&mut self.new, &mut self.served)
        };
        let first_client = first.pop_front();
        let is_served = first_client.is_some() == self.served_is_next;
        let client = first_client.or_else(|| second.pop_front())?;
        self.served_is_next = !is_served && !self.served.is_empty();
        self.served.push_back(client);
        Some(client)
    }

    fn remove(&mut self, client: QueueClient) {
        self.new.retain(|other| *other != client);
        self.served.retain(|other| *other != client);
    }
}

impl Line {
    fn is_too_long(&self) -> bool {
        self.fails && self.codes.len() > MAX_WAITING_OF_FAILING
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
        let waiting: usize = self.lines.values().map(|line| line.codes.len()).sum();
        assert_eq!(waiting, self.waiting);
        let clients: usize = [&self.turns.new, &self.turns.served]
            .map(VecDeque::len)
            .iter()
            .sum();
        assert_eq!(clients, self.lines.len());
        assert!(self.lines.values().all(|line| !line.codes.is_empty()));
        assert!(self.turned_away.len() <= MAX_REMEMBERED);
        waiting
    }
}
