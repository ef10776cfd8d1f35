//! The result of refreshing or fetching a session, for the requests that wait for the session.

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
    /// The refresh failed. The session continues with its current tokens.
    Failed(SessionFailure),
}

/// The result of one attempt to refresh a session.
pub(super) enum Attempt {
    /// The outcome of the refresh is known, so no further attempt is needed.
    Done(Outcome),
    /// The attempt failed. The refresh of this session may be attempted again after a pause.
    Failed(Arc<Session>),
}

/// The reason why a pause between two attempts ended.
pub(super) enum PauseEnd {
    /// The pause is over, and the next attempt can start.
    Over,
    /// No request waits for the refresh, and the store contains the results of all earlier
    /// attempts.
    NoWaiters(SessionFailure),
    /// The process is about to end.
    Draining(SessionFailure),
}

/// The pause before the next attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryPause {
    pub(super) until: Timestamp,
    pub(super) reason: Reason,
}

/// The result of a fetch of a session from the store.
#[derive(Clone, Debug)]
pub(super) enum Fetched {
    /// The current version of the session.
    Found(Arc<Session>),
    /// The store has no session with this key.
    Unknown,
    /// The store did not answer, or its answer is unusable.
    Failed(SessionFailure),
}

/// The type of a shared task's result. If the shared task is aborted or the request stops waiting,
/// the function `failed` creates the result for the request.
pub(super) trait FlightResult: Clone {
    /// The reason code that a request gets if the request stops waiting before the shared task has
    /// a result.
    const SLOW: Reason;
    /// The reason code that a request gets if the shared task is aborted.
    const LOST: Reason;

    /// Converts a failure to the result that the waiting requests get.
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
