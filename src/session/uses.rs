//! Collects the sessions that were used since the last report to the store.

#![expect(
    clippy::disallowed_types,
    reason = "a lock for the one task that tells the store; a request only sends"
)]

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::SessionKey;
use super::stored::Stored;
use crate::clock::Timestamp;

/// The sessions that were used since the last report to the store.
#[derive(Debug)]
pub(super) struct Uses {
    sender: mpsc::UnboundedSender<Arc<Stored>>,
    receiver: Mutex<mpsc::UnboundedReceiver<Arc<Stored>>>,
    /// The uses whose report has failed.
    unreported: Mutex<HashMap<SessionKey, Timestamp>>,
}

impl Default for Uses {
    fn default() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let receiver = Mutex::new(receiver);
        Self {
            sender,
            receiver,
            unreported: Mutex::default(),
        }
    }
}

impl Uses {
    /// Notes that a session was used.
    pub(super) fn note(&self, session: &Arc<Stored>) {
        // `send` never fails, because the same struct owns the sender and the receiver.
        self.sender.send(Arc::clone(session)).unwrap_or_default();
    }

    /// Removes and returns all sessions whose use was noted, each with the time of its last use.
    pub(super) fn take(&self) -> Vec<(SessionKey, Timestamp)> {
        let mut receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        let mut uses = mem::take(&mut *self.unreported());
        while let Ok(session) = receiver.try_recv() {
            let last = uses.entry(*session.key()).or_default();
            *last = session.last_used().max(*last);
        }
        drop(receiver);
        uses.into_iter().collect()
    }

    /// Keeps uses whose report has failed for the next call of [`Uses::take`].
    pub(super) fn put_back(&self, uses: Vec<(SessionKey, Timestamp)>) {
        self.unreported().extend(uses);
    }

    fn unreported(&self) -> MutexGuard<'_, HashMap<SessionKey, Timestamp>> {
        self.unreported
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
