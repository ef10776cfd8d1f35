//! The kinds of deadlines.

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
