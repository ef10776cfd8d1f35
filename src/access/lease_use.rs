//! The decisions of a process that asks for the lease of a session. The tests in `lease_model`
//! check these decisions in every order of the steps of two processes.

use std::time::Duration;

use crate::session::SessionState;

/// The longest time between the request for a lease and the request to the provider. If the process
/// was stopped for a longer time, another process may have the lease.
pub(super) const TIME_TO_SEND: Duration = Duration::from_secs(3);

/// The time after the longest call to the provider that remains to store the answer.
const TIME_TO_STORE: Duration = Duration::from_secs(2);

/// Returns the duration of a lease, if a call to the provider can take the time `call`. Nobody
/// extends a lease.
pub(super) fn lease_duration(call: Duration) -> Duration {
    let around = TIME_TO_SEND.saturating_add(TIME_TO_STORE);
    call.saturating_add(around)
}

/// What a process does next, after the store has given it the lease of a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(super) enum LeaseUse {
    /// Calls the provider.
    Call,
    /// Asks the store whether the session has changed.
    AskStore,
    /// Gives the lease back and begins again, because the session has changed, or because another server may
    /// answer.
    BeginAgain,
}

/// Whether a process has got all reports of changes from the store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reports {
    /// No report can be lost.
    Complete,
    /// A report may be lost.
    Uncertain,
    /// The store has given the lease on another connection than the current one. A server may answer now that lacks
    /// the latest changes and the lease.
    OfOtherConnection,
}

/// What a process knows about a session whose lease it has got.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The state of the value that the process has read before it asked for the lease.
    pub(super) state: SessionState,
    /// The reports of changes since the process has read this value.
    pub(super) reports: Reports,
    /// Another process had the lease before.
    pub(super) has_waited: bool,
}

/// Decides what a process does with the lease of a session.
pub(super) fn lease_use(known: Known) -> LeaseUse {
    match (known.state, known.reports) {
        // The previous holder has replaced the session, so the refresh token may be used up.
        (SessionState::Superseded | SessionState::Ended, _)
        | (SessionState::Live, Reports::OfOtherConnection) => LeaseUse::BeginAgain,
        // The previous holder may have stored its result although this process has not learned of it.
        (SessionState::Live, Reports::Uncertain) => LeaseUse::AskStore,
        (SessionState::Live, Reports::Complete) if known.has_waited => LeaseUse::AskStore,
        (SessionState::Live, Reports::Complete) => LeaseUse::Call,
    }
}
