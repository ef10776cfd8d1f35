//! What may come of refreshing or fetching a session, for whoever waits for it.

use std::sync::Arc;

use super::backoff::{Reason, SessionFailure};
use crate::clock::Timestamp;
use crate::session::Session;

/// What came of a refresh.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The session with the newest tokens that can be had.
    Renewed(Arc<Session>),
    /// The session has ended: the server said that the grant has, or somebody signed out.
    Ended,
    /// There are no new tokens now. The session stays.
    Failed(SessionFailure),
}

/// A pause before the next try.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryPause {
    pub(super) until: Timestamp,
    pub(super) reason: Reason,
}

/// What came of fetching a session from the store.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fetched {
    /// It is in memory now.
    InMemory,
    /// The store has no such session.
    Unknown,
    /// The store cannot say now.
    Failed(SessionFailure),
}

/// What a waiter is taken for, and what may become of the waiting.
pub(super) trait FlightResult: Clone {
    /// It takes longer than a request waits.
    const SLOW: Reason;
    /// It broke off.
    const LOST: Reason;

    /// Nothing came of it for now.
    fn failed(failure: SessionFailure) -> Self;
}

impl FlightResult for Outcome {
    const SLOW: Reason = Reason::at_provider("refresh_slow");
    const LOST: Reason = Reason::at_provider("refresh_lost");

    fn failed(failure: SessionFailure) -> Self {
        Self::Failed(failure)
    }
}

impl FlightResult for Fetched {
    const SLOW: Reason = Reason::at_store("session_read_slow");
    const LOST: Reason = Reason::at_store("session_read_lost");

    fn failed(failure: SessionFailure) -> Self {
        Self::Failed(failure)
    }
}
