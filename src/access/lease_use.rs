//! The decisions of the holder of a lease. `lease_model.rs` checks these decisions in every order
//! of the steps of two replicas.

use std::time::Duration;

use crate::session::SessionState;

/// What the holder of a lease does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(super) enum LeaseUse {
    /// Calls the provider.
    Call,
    /// Reads the session again, because another replica has changed the session.
    ReadAgain,
    /// Gives the lease back and begins again, because the lease could end before the call.
    TooLate,
}

/// Decides whether the holder of a lease may call the provider. `left` is the time until the lease
/// ends, and `needed` is the longest time that a call can take.
pub(super) fn lease_use(state: SessionState, left: Duration, needed: Duration) -> LeaseUse {
    match state {
        SessionState::Superseded | SessionState::Ended => LeaseUse::ReadAgain,
        SessionState::Live if left < needed => LeaseUse::TooLate,
        SessionState::Live => LeaseUse::Call,
    }
}
