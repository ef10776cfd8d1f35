//! Measures whether and how fast a client reads the bytes that the gateway sends.
//!
//! Even while a socket accepts no more bytes from the gateway, the client can be reading. The
//! kernel can hold more than [`crate::relay::MAX_UNSENT`] bytes. The kernel accepts new bytes only
//! after the kernel has sent a large part of the bytes that it holds. If a socket accepts no bytes,
//! the worker's sweep asks the kernel how many bytes the client has acknowledged.

use std::cell::Cell;
use std::time::Duration;

use nix::sys::socket::GetSockOpt as _;
use nix::{getsockopt_impl, libc, sockopt_impl};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// The reason why the gateway has ended an answer or a tunnel before its end. Responsible: the
/// client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ReadFailure {
    /// The client has taken no byte for the time [`super::Deadlines::write`].
    Stalled,
    /// The client takes fewer bytes per second than [`super::Limits::answer_rate`].
    TooSlow,
}

impl ReadFailure {
    /// Returns the code of this failure for the log and the metrics.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Stalled => "client_stalled",
            Self::TooSlow => "client_too_slow",
        }
    }
}

/// The lowest allowed rate: in each period of the length `window`, the client has to take at least
/// `least` bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct LowestRate {
    pub(super) window: Duration,
    /// The number of bytes that the client must take in each window. Zero allows every rate.
    pub(super) least: u64,
}

impl LowestRate {
    /// Computes the number of bytes that the client must take in each window. The number is rounded
    /// up, so the number is zero only if `rate` is zero.
    pub(super) fn new(rate: u64, window: Duration) -> Self {
        let least = u128::from(rate)
            .saturating_mul(window.as_millis())
            .div_ceil(1000);
        Self {
            window,
            least: u64::try_from(least).unwrap_or(u64::MAX),
        }
    }
}

/// Measures how fast a client takes bytes. The meter counts only the time during which the gateway
/// waits for the client.
#[derive(Debug, Default)]
pub(super) struct ReadMeter {
    /// The number of bytes that the client had taken at the latest measurement.
    taken: Cell<u64>,
    /// The time of the latest measurement that showed that the client had taken further bytes.
    progress: Cell<Option<Instant>>,
    /// The number of bytes that the client had taken when the current window of `LowestRate` began.
    taken_at_start: Cell<u64>,
    /// The time for which the gateway has waited for the client in the current window.
    waited: Cell<Duration>,
    looked: Cell<Option<Instant>>,
}

impl ReadMeter {
    /// Updates the measurement. `waiting_since` is the time at which the gateway began to wait for
    /// the client. `taken` is the number of bytes that the client has taken so far.
    pub(super) fn look(&self, now: Instant, waiting_since: Instant, taken: u64, least: u64) {
        let looked = self.looked.replace(Some(now));
        if taken > self.taken.replace(taken) && looked.is_some() {
            self.progress.set(Some(now));
        }
        if looked.is_none() || taken.saturating_sub(self.taken_at_start.get()) >= least {
            // The client has taken enough bytes in this window, so the next window begins.
            self.taken_at_start.set(taken);
            self.waited.set(Duration::ZERO);
            return;
        }
        let since = looked.map_or(waiting_since, |looked| looked.max(waiting_since));
        let waited = self.waited.get();
        self.waited
            .set(waited.saturating_add(now.saturating_duration_since(since)));
    }

    /// Whether the client has taken fewer bytes in a complete window than the lowest rate requires.
    pub(super) fn is_too_slow(&self, lowest: LowestRate) -> bool {
        lowest.least > 0 && self.waited.get() >= lowest.window
    }

    /// Returns the time at which the client last took bytes, or `waiting_since` if `waiting_since`
    /// is later. The gateway began to wait for the client at `waiting_since`.
    pub(super) fn without_progress_since(&self, waiting_since: Instant) -> Instant {
        waiting_since.max(self.progress.get().unwrap_or(waiting_since))
    }
}

mod option {
    use super::{getsockopt_impl, libc, sockopt_impl};

    /// The first part of the kernel's `struct tcp_info`, up to the field `tcpi_bytes_acked`. Linux
    /// has the field `tcpi_bytes_acked` since version 4.1. The kernel writes only as many bytes of
    /// `struct tcp_info` as the caller requests.
    #[derive(Clone, Copy, Debug)]
    #[repr(C)]
    #[expect(
        unreachable_pub,
        reason = "the type is in the public interface that the macro generates"
    )]
    pub struct TcpInfo {
        flags: [u8; 8],
        numbers: [u32; 24],
        pacing_rates: [u64; 2],
        /// The number of bytes that the peer has acknowledged since the connection was opened.
        pub(super) bytes_acked: u64,
    }

    sockopt_impl!(
        /// The socket option `TCP_INFO`.
        Info,
        GetOnly,
        libc::IPPROTO_TCP,
        libc::TCP_INFO,
        TcpInfo
    );
}

/// Returns the number of bytes that the peer of a connection has acknowledged. Returns `None` if
/// the system does not report this number.
pub(super) fn acknowledged(stream: &TcpStream) -> Option<u64> {
    option::Info.get(stream).ok().map(|info| info.bytes_acked)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    const SECOND: Duration = Duration::from_secs(1);

    /// Measures once per second. Returns whether at least one measurement found that the client was
    /// too slow.
    fn too_slow(meter: &ReadMeter, start: Instant, taken: impl Iterator<Item = u64>) -> bool {
        let lowest = LowestRate::new(100, SECOND.saturating_mul(10));
        let mut now = start;
        taken.into_iter().any(|taken| {
            meter.look(now, start, taken, lowest.least);
            now = now.checked_add(SECOND).unwrap();
            meter.is_too_slow(lowest)
        })
    }

    #[test]
    fn a_client_at_the_lowest_rate_is_never_too_slow_and_a_slower_client_is() {
        let start = Clock::system().instant();
        let steady = (0..100).map(|second| second * 100);
        assert!(!too_slow(&ReadMeter::default(), start, steady));
        let slower = (0..100).map(|second| second * 99);
        assert!(too_slow(&ReadMeter::default(), start, slower));
    }

    #[test]
    fn time_in_which_the_gateway_does_not_wait_for_the_client_does_not_count() {
        let lowest = LowestRate::new(100, SECOND.saturating_mul(10));
        let meter = ReadMeter::default();
        let start = Clock::system().instant();
        let later = |seconds: u64| start.checked_add(Duration::from_secs(seconds)).unwrap();
        meter.look(start, start, 0, lowest.least);
        meter.look(later(9), start, 1, lowest.least);
        // The socket accepted bytes for an hour, and then accepted no bytes for half a second.
        let waiting_since = later(3600);
        let now = waiting_since.checked_add(SECOND / 2).unwrap();
        meter.look(now, waiting_since, 2, lowest.least);
        assert!(!meter.is_too_slow(lowest));
        meter.look(later(3601), waiting_since, 3, lowest.least);
        assert!(meter.is_too_slow(lowest));
    }

    #[test]
    fn only_new_bytes_are_progress() {
        let meter = ReadMeter::default();
        let start = Clock::system().instant();
        let later = |seconds: u64| start.checked_add(Duration::from_secs(seconds)).unwrap();
        meter.look(start, start, 5, 0);
        assert_eq!(meter.without_progress_since(start), start);
        meter.look(later(1), start, 6, 0);
        meter.look(later(2), start, 6, 0);
        assert_eq!(meter.without_progress_since(start), later(1));
    }
}
