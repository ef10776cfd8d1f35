//! The time for which an exchange has waited for its own client.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// When the client sends or accepts this number of bytes, the counted waiting time becomes one
/// second shorter. A client that sends or accepts at least this many bytes in each second never
/// counts as slow.
const PACE: u64 = 16 * 1024;

/// The time for which an exchange has waited for its own client. When the client sends or accepts
/// [`PACE`] bytes, one second is subtracted from the counted time. If a client sends or accepts
/// only one byte in each second, the waiting time that the gateway counts for the exchange
/// continues to grow. If the network connection of the client is not slow, the counted time stays
/// short.
#[derive(Debug, Default)]
pub(super) struct ClientWait {
    /// The total time of the earlier waits for the client, minus one second for every [`PACE`]
    /// bytes that the client has sent or accepted.
    waited: Cell<Duration>,
    /// The time at which the exchange began to wait for its client. `None` if the exchange does not
    /// wait for its client now.
    since: Cell<Option<Instant>>,
}

impl ClientWait {
    /// Returns true if the exchange waits for its client now.
    pub(super) fn is_waiting(&self) -> bool {
        self.since.get().is_some()
    }

    /// Records that the exchange waits for its client from `now` on. If the exchange already waits
    /// for its client, this function changes nothing.
    pub(super) fn begin(&self, now: Instant) {
        if !self.is_waiting() {
            self.since.set(Some(now));
        }
    }

    /// Records that the client has sent or accepted `bytes` bytes, and that the exchange no longer
    /// waits for its client.
    pub(super) fn end(&self, now: Instant, bytes: usize) {
        if self.is_waiting() {
            self.waited.set(self.waited_until(now));
            self.since.set(None);
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let paid = Duration::from_millis(bytes.saturating_mul(1000) / PACE);
        self.waited.set(self.waited.get().saturating_sub(paid));
    }

    /// Forgets all waits.
    pub(super) fn clear(&self) {
        self.waited.set(Duration::ZERO);
        self.since.set(None);
    }

    /// The time for which the exchange has waited for its client. `None` if the exchange does not
    /// wait for its client now.
    pub(super) fn waited(&self, now: Instant) -> Option<Duration> {
        self.is_waiting().then(|| self.waited_until(now))
    }

    fn waited_until(&self, now: Instant) -> Duration {
        let current = self.since.get();
        let current = current.map(|since| now.saturating_duration_since(since));
        self.waited
            .get()
            .saturating_add(current.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const SECOND: Duration = Duration::from_secs(1);

    /// Simulates an exchange for ten seconds, and returns the waiting time of the exchange. In each
    /// second, the client sends or accepts `bytes` bytes.
    fn waited_at(bytes: usize) -> Option<Duration> {
        let wait = ClientWait::default();
        let mut now = Clock::system().instant();
        wait.begin(now);
        for _ in 0..10 {
            now = now.checked_add(SECOND).unwrap();
            wait.end(now, bytes);
            assert_eq!(wait.waited(now), None);
            wait.begin(now);
        }
        wait.waited(now)
    }

    #[test]
    fn single_bytes_do_not_end_a_wait_and_an_ordinary_network_causes_none() {
        assert_eq!(waited_at(1), Some(SECOND * 10));
        assert_eq!(waited_at(8 * 1024), Some(SECOND * 5));
        assert_eq!(waited_at(16 * 1024), Some(Duration::ZERO));
        assert_eq!(waited_at(1024 * 1024), Some(Duration::ZERO));
    }

    #[test]
    fn only_the_time_of_waits_counts_and_bytes_pay_for_no_later_wait() {
        let (wait, start) = (ClientWait::default(), Clock::system().instant());
        wait.begin(start);
        wait.end(start + SECOND, 1024 * 1024);
        // During the next hour, the exchange waits for the app.
        let later = start + Duration::from_hours(1);
        wait.begin(later);
        wait.begin(later + SECOND);
        assert_eq!(wait.waited(later + SECOND * 3), Some(SECOND * 3));
        wait.clear();
        assert_eq!(wait.waited(later), None);
    }
}
