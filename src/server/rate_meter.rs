//! Measures how fast a client sends a request body.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::reading::LowestRate;
use crate::clock::Clock;

/// Measures how fast a client sends a request body. The meter counts only the time during which the
/// reader of the body waits for data. If the reader never has to wait, the timer is never set.
pub(super) struct RateMeter {
    clock: Clock,
    window: Duration,
    /// The number of bytes that must arrive in each period `window`.
    least: u64,
    bytes: u64,
    /// The total time for which the server has waited for data in this window, without the wait
    /// that is in progress.
    waited: Duration,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl RateMeter {
    pub(super) fn new(clock: &Clock, window: Duration, rate: u64) -> Self {
        Self {
            clock: clock.clone(),
            window,
            least: LowestRate::new(rate, window).least,
            bytes: 0,
            waited: Duration::ZERO,
            waiting_since: None,
            timer: None,
        }
    }

    pub(super) fn arrived(&mut self, bytes: u64) {
        if let Some(since) = self.waiting_since.take() {
            let waited = self.clock.instant().saturating_duration_since(since);
            self.waited = self.waited.saturating_add(waited);
        }
        self.bytes = self.bytes.saturating_add(bytes);
        // Enough bytes have arrived in this window, so the next window begins.
        if self.bytes >= self.least {
            self.bytes = 0;
            self.waited = Duration::ZERO;
        }
    }

    /// Returns `Ready` if the reader has waited for data for the time `window`, and fewer than
    /// `least` bytes have arrived in this time. Call this function only when no data of the body is
    /// available.
    pub(super) fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = self.clock.instant();
            let since = *self.waiting_since.get_or_insert(now);
            let waited = self.waited.saturating_add(now.duration_since(since));
            let left = self.window.saturating_sub(waited);
            let due = now.checked_add(left).filter(|_due| !left.is_zero());
            let Some(due) = due else {
                return Poll::Ready(());
            };
            // The deadline `due` can move to a later time before the timer fires. The timer is set
            // again only after the timer has fired, because most bodies end earlier.
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            ready!(timer.as_mut().poll(cx));
            timer.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::advance;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(20);

    async fn is_too_slow(rate_meter: &mut RateMeter) -> bool {
        poll_fn(|cx| Poll::Ready(rate_meter.poll_too_slow(cx).is_ready())).await
    }

    #[tokio::test(start_paused = true)]
    async fn d_04_a_window_without_enough_bytes_is_too_slow() {
        let mut rate_meter = RateMeter::new(&Clock::system(), WINDOW, 500);
        for _ in 0..19 {
            assert!(!is_too_slow(&mut rate_meter).await);
            advance(Duration::from_secs(1)).await;
            rate_meter.arrived(1);
        }
        assert!(!is_too_slow(&mut rate_meter).await);
        advance(Duration::from_secs(1)).await;
        assert!(is_too_slow(&mut rate_meter).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_at_the_lowest_rate_is_never_too_slow() {
        let mut rate_meter = RateMeter::new(&Clock::system(), WINDOW, 500);
        for _ in 0..200 {
            assert!(!is_too_slow(&mut rate_meter).await);
            advance(Duration::from_millis(1900)).await;
            rate_meter.arrived(1000);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_waits_does_not_count() {
        let mut rate_meter = RateMeter::new(&Clock::system(), WINDOW, 500);
        assert!(!is_too_slow(&mut rate_meter).await);
        rate_meter.arrived(1);
        // The upstream accepts no bytes for an hour, so the gateway reads no bytes from the client.
        advance(Duration::from_hours(1)).await;
        assert!(!is_too_slow(&mut rate_meter).await);
        advance(Duration::from_secs(19)).await;
        assert!(!is_too_slow(&mut rate_meter).await);
        advance(Duration::from_secs(1)).await;
        assert!(is_too_slow(&mut rate_meter).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_timer_wakes_the_waiting_task() {
        let mut rate_meter = RateMeter::new(&Clock::system(), WINDOW, 500);
        let start = Clock::system().instant();
        poll_fn(|cx| rate_meter.poll_too_slow(cx)).await;
        let took = Clock::system().instant().duration_since(start);
        assert_eq!(took, WINDOW);
    }
}
