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
    /// Gives the lease back and begins again, because the session has changed.
    BeginAgain,
}

/// What a process knows about a session whose lease it has got.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The state of the value that the process has read before it asked for the lease.
    pub(super) state: SessionState,
    /// No report of a change can be lost since the process has read this value.
    pub(super) is_confirmed: bool,
    /// Another process had the lease before.
    pub(super) has_waited: bool,
}

/// Decides what a process does with the lease of a session.
pub(super) fn lease_use(known: Known) -> LeaseUse {
    match known.state {
        // The previous holder has replaced the session, so the refresh token may be used up.
        SessionState::Superseded | SessionState::Ended => LeaseUse::BeginAgain,
        // The previous holder may have stored its result although this process has not learned of it.
        SessionState::Live if known.has_waited || !known.is_confirmed => LeaseUse::AskStore,
        SessionState::Live => LeaseUse::Call,
    }
}
