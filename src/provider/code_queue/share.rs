//! The waiting codes of one class, as a tree: networks contain smaller networks, and the smallest
//! networks and the users contain codes.

use std::collections::HashMap;

use tokio::sync::oneshot::Sender;

use super::QueueClient;
use super::state::Class;

/// A code that waits for its turn.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: u64,
    pub(super) state: [u8; 32],
    /// True if the code has left a queue without a turn before.
    pub(super) returns: bool,
    /// Gets the class in which the code has its turn.
    pub(super) turn: Sender<Class>,
}

/// A class, a network, or a user. The counts of a network include all its smaller networks.
#[derive(Debug, Default)]
pub(super) struct Share {
    parts: HashMap<QueueClient, Self>,
    codes: Vec<Waiting>,
    /// The number of waiting codes.
    pub(super) waiting: usize,
    /// The number of waiting codes that have left a queue without a turn before.
    pub(super) returning: usize,
    /// The number of exchanges in progress.
    pub(super) running: usize,
    /// The number of places that exchanges in progress and failed exchanges occupy.
    pub(super) places: usize,
    /// The number of the last failed exchange that the queue remembers, or zero.
    pub(super) failed: u64,
}

impl Share {
    /// Changes the share itself, and its parts along `path`. Parts are created if they do not exist,
    /// and removed if they are empty after the change.
    pub(super) fn change(&mut self, path: &[QueueClient], change: &impl Fn(&mut Self)) {
        change(self);
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        let part = self.parts.entry(*first).or_default();
        part.change(rest, change);
        if part.is_empty() {
            self.parts.remove(first);
        }
    }

    fn is_empty(&self) -> bool {
        self.waiting == 0 && self.places == 0 && self.failed == 0
    }

    /// Returns the share of a client.
    pub(super) fn of(&self, client: QueueClient) -> Option<&Self> {
        let path = client.path();
        path.iter()
            .try_fold(self, |share, part| share.parts.get(part))
    }

    /// Returns the waiting codes of a client.
    pub(super) fn codes(&self, client: QueueClient) -> &[Waiting] {
        self.of(client).map_or(&[], |share| &share.codes)
    }

    fn codes_mut(&mut self, path: &[QueueClient]) -> Option<&mut Vec<Waiting>> {
        let mut share = self;
        for part in path {
            share = share.parts.get_mut(part)?;
        }
        Some(&mut share.codes)
    }

    /// Adds a code of `client`.
    pub(super) fn add(&mut self, client: QueueClient, code: Waiting) {
        let (path, returning) = (client.path(), usize::from(code.returns));
        self.change(&path, &|share| {
            share.waiting = share.waiting.saturating_add(1);
            share.returning = share.returning.saturating_add(returning);
        });
        if let Some(codes) = self.codes_mut(&path) {
            codes.push(code);
        }
    }

    /// Removes the code of `client` at `index`.
    pub(super) fn take(&mut self, client: QueueClient, index: usize) -> Option<Waiting> {
        let path = client.path();
        let codes = self.codes_mut(&path)?;
        let code = (index < codes.len()).then(|| codes.swap_remove(index))?;
        let returning = usize::from(code.returns);
        self.change(&path, &|share| {
            share.waiting = share.waiting.saturating_sub(1);
            share.returning = share.returning.saturating_sub(returning);
        });
        Some(code)
    }

    /// Chooses a client with waiting codes: at each level of the tree, the part with the lowest rank.
    pub(super) fn choose<R: Ord>(
        &self,
        rank: impl Fn(&QueueClient, &Self) -> R,
    ) -> Option<QueueClient> {
        let (mut share, mut chosen) = (self, None);
        loop {
            let waiting = share.parts.iter().filter(|(_, part)| part.waiting > 0);
            let Some((client, part)) = waiting.min_by_key(|(client, part)| rank(client, part))
            else {
                return chosen;
            };
            (share, chosen) = (part, Some(*client));
        }
    }

    /// The number of waiting codes, after a check that the counts of all parts agree.
    #[cfg(test)]
    pub(super) fn checked(&self) -> usize {
        let parts: usize = self.parts.values().map(Self::checked).sum();
        assert_eq!(self.waiting, parts.saturating_add(self.codes.len()));
        let returning = self.codes.iter().filter(|code| code.returns).count();
        let of_parts: usize = self.parts.values().map(|part| part.returning).sum();
        assert_eq!(self.returning, of_parts.saturating_add(returning));
        assert!(self.parts.values().all(|part| !part.is_empty()));
        self.waiting
    }

    /// The number of shares in the tree.
    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        let parts = self.parts.values().map(Self::size);
        parts.sum::<usize>().saturating_add(1)
    }
}
