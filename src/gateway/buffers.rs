//! The memory for the buffers of slow clients.
//!
//! The gateway buffers the first part of a request body before the request gets a connection to the
//! app. The gateway also buffers an answer if the client reads the answer slowly. All these buffers
//! of the process share one budget. When most of the budget is in use, each buffer gets less
//! memory. When the budget is used up, the gateway forwards bodies without a buffer. The gateway
//! never refuses a request because the budget is used up.

use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::Metrics;

/// The memory that a buffer needs for each piece of a body, in addition to the bytes of the piece.
const PIECE: usize = 64;

/// A buffer may use at most the free budget divided by `SHARE`, so that one large buffer leaves
/// memory for new buffers.
const SHARE: usize = 4;

/// The part of the budget that one buffer uses. Dropping the reservation frees its part of the
/// budget.
#[derive(Debug)]
pub(super) struct Reservation {
    used: Gauge,
    max: usize,
    bytes: usize,
}

/// Whether a buffer may store another piece.
#[must_use]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Growth {
    Allowed,
    /// The buffer has reached its limit, or the budget is used up.
    Full,
}

impl Reservation {
    /// Creates a reservation that uses no bytes of the budget yet. `metrics` counts the used bytes
    /// of the whole process. `max` is the budget of the process in bytes.
    pub(super) fn new(metrics: &Metrics, max: usize) -> Self {
        Self {
            used: metrics.buffered().clone(),
            max,
            bytes: 0,
        }
    }

    /// Returns whether the buffer may store another piece. `limit` is the limit of this buffer in
    /// bytes.
    pub(super) fn growth(&self, limit: usize) -> Growth {
        let used = usize::try_from(self.used.get()).unwrap_or_default();
        let free = self.max.saturating_sub(used);
        let share = free.saturating_add(self.bytes) / SHARE;
        if self.bytes < limit.min(share) {
            Growth::Allowed
        } else {
            Growth::Full
        }
    }

    /// Adds a piece of `length` bytes.
    pub(super) fn add(&mut self, length: usize) {
        let bytes = length.saturating_add(PIECE);
        self.bytes = self.bytes.saturating_add(bytes);
        self.used.inc_by(signed(bytes));
    }

    /// Removes a piece of `length` bytes.
    pub(super) fn remove(&mut self, length: usize) {
        self.free(length.saturating_add(PIECE));
    }

    fn free(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.used.dec_by(signed(bytes));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.free(self.bytes);
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(metrics: &Metrics, max: usize, limit: usize, piece: usize) -> Reservation {
        let mut reservation = Reservation::new(metrics, max);
        while reservation.growth(limit) == Growth::Allowed {
            reservation.add(piece);
        }
        reservation
    }

    #[test]
    fn a_buffer_grows_up_to_its_limit() {
        let reservation = grown(&Metrics::default(), 1024 * 1024, 10_000, 1000);
        assert_eq!(reservation.bytes, 10 * (1000 + PIECE));
    }

    #[test]
    fn buffers_get_less_memory_when_the_budget_is_nearly_used_up() {
        let (metrics, max) = (Metrics::default(), 64 * 1024);
        let open: Vec<_> = (0..20)
            .map(|_| grown(&metrics, max, 16 * 1024, 100))
            .collect();
        let sizes: Vec<_> = open.iter().map(|reservation| reservation.bytes).collect();
        assert!(sizes.is_sorted_by(|one, next| one >= next), "{sizes:?}");
        assert!(sizes[0] >= 16 * 1024 && sizes[19] < 1024, "{sizes:?}");
        let sum = sizes.iter().sum::<usize>();
        // Only the last piece of a buffer may exceed the limit.
        assert!(sum <= max + 100 + PIECE, "{sum}");
        assert_eq!(metrics.buffered().get(), i64::try_from(sum).unwrap());
        drop(open);
        assert_eq!(metrics.buffered().get(), 0);
    }

    #[test]
    fn a_budget_of_zero_allows_no_buffer() {
        let reservation = Reservation::new(&Metrics::default(), 0);
        assert_eq!(reservation.growth(1024), Growth::Full);
    }

    #[test]
    fn a_removed_piece_frees_its_memory() {
        let metrics = Metrics::default();
        let mut reservation = Reservation::new(&metrics, 1024 * 1024);
        reservation.add(500);
        reservation.add(700);
        reservation.remove(500);
        assert_eq!(reservation.bytes, 700 + PIECE);
        assert_eq!(metrics.buffered().get(), 764);
    }
}
