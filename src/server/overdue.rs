//! The deadlines of a connection.

use std::time::Duration;

use tokio::time::Instant;

use super::Deadlines;
use super::deadline::{ConnectionState, LINGER};
use super::phase::Phase;

/// The maximum time for which a connection without activity stays open after the gateway has asked
/// the connection to close.
const CLOSING_GRACE: Duration = Duration::from_secs(1);

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

impl ConnectionState {
    /// Returns the deadline of the current phase. Returns `None` if the client waits for the answer
    /// to a request, or for the rest of an answer.
    fn limit(&self, deadlines: &Deadlines) -> Option<(Duration, Overdue)> {
        match self.phase() {
            Phase::Busy => None,
            // Until the socket has accepted the last response, only the write deadline applies.
            Phase::Idle if self.is_stalled() => None,
            Phase::FirstByte => Some((deadlines.first_byte, Overdue::FirstByte)),
            Phase::Handshake => Some((deadlines.handshake, Overdue::Handshake)),
            Phase::Head => Some((deadlines.head, Overdue::Head)),
            Phase::Idle => Some((deadlines.idle, Overdue::Idle)),
            Phase::Linger => Some((LINGER.min(deadlines.write), Overdue::Linger)),
        }
    }

    /// Returns how much of its deadline a connection that waits for its client has used at `now`, in
    /// thousandths. Returns `None` if the connection does not wait. A connection whose app still
    /// reads a request body after a complete answer does not wait.
    pub(super) fn used(&self, now: Instant, deadlines: &Deadlines) -> Option<u128> {
        if self.dormancy().has_open_body() {
            return None;
        }
        let (limit, overdue) = self.limit(deadlines)?;
        // `since` can be up to one sweep too early.
        let waited = now.saturating_duration_since(self.since.get());
        let waited = waited.saturating_sub(deadlines.sweep()).as_millis();
        let used = waited.saturating_mul(1000).checked_div(limit.as_millis());
        (overdue != Overdue::Linger).then_some(used.unwrap_or(u128::MAX))
    }

    /// Returns a deadline that has passed at `now`, if there is one.
    pub(super) fn overdue(&self, now: Instant, deadlines: &Deadlines) -> Option<Overdue> {
        let passed = |since: Instant, limit: Duration| now.duration_since(since) >= limit;
        let stalled = self.stalled.get();
        let no_progress = stalled.map(|since| self.meter.without_progress_since(since));
        if no_progress.is_some_and(|since| passed(since, deadlines.write)) {
            return Some(Overdue::Write);
        }
        if matches!(self.phase(), Phase::Busy) {
            let last_sent = self.last_transfer.get();
            let vanished = self.has_vanished(now, last_sent, deadlines.half_closed);
            return vanished.then_some(Overdue::HalfClosed);
        }
        let (limit, overdue) = self.limit(deadlines)?;
        let since = self.since.get();
        let is_waiting = matches!(self.phase(), Phase::FirstByte | Phase::Idle);
        match self.closing.get() {
            // After the gateway has asked a connection to close, the connection may send its last
            // bytes for a short time, such as a GOAWAY frame.
            Some(asked) if is_waiting => {
                let asked = asked.max(since);
                let done = passed(asked.max(self.last_transfer.get()), CLOSING_GRACE);
                let longest = deadlines.write.min(self.place.closing_time());
                (done || passed(asked, longest)).then_some(Overdue::Closing)
            }
            Some(_) | None => passed(since, limit).then_some(overdue),
        }
    }
}
