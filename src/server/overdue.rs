//! The kinds of deadlines, and the idle connections that make room for new connections.

use std::rc::Rc;

use super::deadline::ConnectionState;

/// When the limit of connections is reached, each sweep closes this fraction (one eighth) of the
/// idle connections. The connections that have been idle for the longest time are closed first.
const IDLE_SHARE: usize = 8;

/// States which deadline has passed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Overdue {
    FirstByte,
    Handshake,
    Head,
    Idle,
    /// The client has closed its sending direction, and the gateway has sent no byte for too long.
    HalfClosed,
    Linger,
    /// The gateway has asked the connection to close, but the connection has transferred no bytes
    /// for too long.
    Closing,
    Write,
    /// The client takes fewer bytes than the lowest allowed rate.
    TooSlow,
}

impl Overdue {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::FirstByte => "first_byte_timeout",
            Self::Handshake => "handshake_timeout",
            Self::Head => "head_timeout",
            Self::Idle => "idle_timeout",
            Self::HalfClosed => "half_closed_timeout",
            Self::Linger => "linger_timeout",
            Self::Closing => "closing_timeout",
            Self::Write => "write_timeout",
            Self::TooSlow => "client_too_slow",
        }
    }
}
/// Closes a share of the idle connections.
pub(super) fn close_longest_idle<'a>(connections: impl Iterator<Item = &'a Rc<ConnectionState>>) {
    let mut idle: Vec<_> = connections
        .filter_map(|state| state.idle_since().map(|since| (since, state)))
        .collect();
    idle.sort_unstable_by_key(|(since, _state)| *since);
    let share = idle.len().div_ceil(IDLE_SHARE);
    for (_since, state) in idle.into_iter().take(share) {
        state.close();
    }
}
