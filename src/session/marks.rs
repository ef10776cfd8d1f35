//! Marks: records of values that may be used only one time: the `state` of a login, and a ticket.
//!
//! A store of one process keeps its marks in memory, even if its sessions are in a file. If the
//! marks were in the session file, a client could call the callback with invented codes, and each
//! call could cause a write to the disk. Marks in memory are lost at a restart. After a restart, an
//! attacker who has the login cookie of a browser tab can use the state or the ticket of this tab a
//! second time. An attacker gains little from a second use of the state, because the provider
//! accepts each authorization code only one time. A ticket is valid for only 60 seconds. After a
//! restart, a user can also confirm a kept form a second time, within one hour.
//!
//! States, tickets and kept forms have separate marks. A client can create tickets without a login,
//! because a signed-in client gets a ticket for each ticket request. The marks of tickets and of
//! kept forms therefore must not remove the marks of states.

use std::collections::{HashSet, VecDeque};

use super::Sessions;
use super::store::StoreError;
use crate::clock::Timestamp;

/// The hash of a value that may be used only one time, such as the `state` of a login.
pub(crate) type Mark = [u8; 32];

/// The kind of a value that may be used only one time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MarkKind {
    /// A form that the browser has kept during a login.
    Form,
    /// The `state` of a login.
    State,
    /// A ticket, with which a host gets an id of a session.
    Ticket,
}

/// The maximum number of marks of one kind that the store keeps. The gateway creates a mark only for
/// a value that the gateway has sealed, or for a notice whose signature the gateway has verified.
/// If there are too many marks, the gateway removes the oldest mark. Without the mark of a state,
/// the provider still accepts the code only one time. Without the mark of a ticket, the ticket is
/// still valid only in its tab, and only for 60 seconds.
const MAX_MARKS: usize = 100_000;

/// The marks of all kinds.
#[derive(Debug, Default)]
pub(super) struct AllMarks {
    forms: Marks,
    states: Marks,
    tickets: Marks,
}

impl AllMarks {
    /// Returns the marks of one kind.
    pub(super) fn of(&mut self, kind: MarkKind) -> &mut Marks {
        match kind {
            MarkKind::Form => &mut self.forms,
            MarkKind::State => &mut self.states,
            MarkKind::Ticket => &mut self.tickets,
        }
    }
}

/// The marks of values that have been used. The number and the lifetime of the marks are limited.
#[derive(Debug, Default)]
pub(super) struct Marks {
    known: HashSet<Mark>,
    /// The marks in the order of their creation, each with the time at which the mark ends.
    order: VecDeque<(Timestamp, Mark)>,
}

/// States whether a value is used for the first time or was used before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum Once {
    First,
    Repeated,
}

impl Marks {
    /// Adds `mark`, which ends at the time in the argument `until`. Returns `Once::Repeated` if the
    /// marks already contain `mark`.
    pub(super) fn once(&mut self, mark: Mark, now: Timestamp, until: Timestamp) -> Once {
        self.make_room(now);
        if !self.known.insert(mark) {
            return Once::Repeated;
        }
        self.order.push_back((until, mark));
        Once::First
    }

    /// Returns true if the marks contain `mark`.
    pub(super) fn is_marked(&mut self, mark: &Mark, now: Timestamp) -> bool {
        self.make_room(now);
        self.known.contains(mark)
    }

    /// Removes the marks that have ended. If there are too many marks, the function also removes
    /// the oldest marks.
    fn make_room(&mut self, now: Timestamp) {
        while let Some((end, oldest)) = self.order.front() {
            if self.order.len() < MAX_MARKS && *end > now {
                break;
            }
            self.known.remove(oldest);
            self.order.pop_front();
        }
    }

    /// Removes the mark of a value, so that the value can be used again.
    pub(super) fn unmark(&mut self, mark: &Mark) {
        if self.known.remove(mark) {
            self.order.retain(|(_, other)| other != mark);
        }
    }
}

impl Sessions {
    /// Marks a value as used until the time `until`.
    ///
    /// # Errors
    ///
    /// After a [`StoreError`], the caller does not know whether the value was already marked as
    /// used.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the caller does not know whether the value is marked as used.
    pub(crate) async fn once(
        &self,
        mark: (MarkKind, Mark),
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Once, StoreError> {
        self.store.once(mark, now, until).await
    }

    /// Removes the mark of a value, so that the value can be used again.
    ///
    /// # Errors
    ///
    /// If this function returns a [`StoreError`], the value is still marked as used.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the caller does not know whether the mark is removed.
    pub(crate) async fn unmark(&self, mark: (MarkKind, Mark)) -> Result<(), StoreError> {
        self.store.unmark(mark).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(0);
    const HOUR: Duration = Duration::from_hours(1);

    fn mark(number: usize) -> Mark {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        bytes
    }

    fn once(marks: &mut Marks, number: usize, now: Timestamp) -> Once {
        marks.once(mark(number), now, now.plus(HOUR))
    }

    #[test]
    fn a_04_a_state_is_good_for_one_use() {
        let mut marks = Marks::default();
        assert_eq!(once(&mut marks, 1, NOW), Once::First);
        assert_eq!(once(&mut marks, 1, NOW), Once::Repeated);
        assert_eq!(once(&mut marks, 2, NOW), Once::First);
        marks.unmark(&mark(1));
        assert_eq!(once(&mut marks, 1, NOW), Once::First);
    }

    #[test]
    fn a_43_the_marks_of_tickets_do_not_remove_the_mark_of_a_state() {
        let mut marks = AllMarks::default();
        let mut use_up = |kind, number| once(marks.of(kind), number, NOW);
        assert_eq!(use_up(MarkKind::State, 1), Once::First);
        for number in 0..=MAX_MARKS {
            assert_eq!(use_up(MarkKind::Ticket, number), Once::First);
        }
        assert_eq!(use_up(MarkKind::State, 1), Once::Repeated);
    }

    #[test]
    fn the_marks_are_bounded_in_time_and_number() {
        let mut marks = Marks::default();
        for number in 0..MAX_MARKS + 5 {
            assert_eq!(once(&mut marks, number, NOW), Once::First);
        }
        assert!(marks.known.len() <= MAX_MARKS && marks.order.len() == marks.known.len());
        assert_eq!(once(&mut marks, MAX_MARKS, NOW), Once::Repeated);
        assert_eq!(once(&mut marks, MAX_MARKS, NOW.plus(HOUR)), Once::First);
        assert_eq!(marks.known.len(), 1);
    }
}
