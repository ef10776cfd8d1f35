//! The results of refreshing and fetching a session, as waiters get them.

use std::sync::Arc;

use super::backoff::{Reason, SessionFailure};
use crate::clock::Timestamp;
use crate::session::Session;

/// The result of a refresh.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The session with its newest tokens.
    Renewed(Arc<Session>),
    /// The session has ended: the provider ended the grant, or the user signed out.
    Ended,
    /// There are no new tokens now. The session stays.
    Failed(SessionFailure),
}

/// The result of one attempt.
pub(super) enum Attempt {
    /// The refresh has ended with this result.
    Done(Outcome),
    /// This session may be tried again after a pause.
    Failed(Arc<Session>),
}

/// The reason why the pause before an attempt ended.
pub(super) enum PauseEnd {
    /// The next attempt is due.
    Over,
    /// Nobody waits for the refresh, and there is no result to store.
    NoWaiters(SessionFailure),
    /// The process ends.
    Draining(SessionFailure),
}

/// The pause before the next attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryPause {
    pub(super) until: Timestamp,
    pub(super) reason: Reason,
}

/// The result of fetching a session from the store.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fetched {
    /// The session is in memory now.
    InMemory,
    /// The store has no such session.
    Unknown,
    /// The store cannot answer now.
    Failed(SessionFailure),
}

/// The result type of a flight. It can also represent the failures of waiting.
pub(super) trait FlightResult: Clone {
    /// The reason when a flight takes longer than a request waits.
    const SLOW: Reason;
    /// The reason when a flight is aborted.
    const LOST: Reason;

    /// Makes a result from a failure.
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
