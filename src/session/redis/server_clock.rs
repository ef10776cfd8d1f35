//! The clock of the server, and its difference from the gateway's clock.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::RedisError;

use super::Shared;
use super::commands::Commands;
use super::link::half;
use crate::clock::Timestamp;

/// The number of heartbeats between two looks at the clock of the server.
const BETWEEN_LOOKS: u64 = 20;
/// The maximum number of questions for the time of the server, and the time within which an answer is
/// fast.
const LOOKS_AT_CLOCK: usize = 5;
const FAST_LOOK: Duration = Duration::from_millis(100);
/// The largest accepted difference between the clock of the server and the gateway's clock.
const LARGEST_DIFFERENCE: Duration = Duration::from_secs(10);

impl Shared {
    /// Reads the clock of the server. A slow answer does not show when the server has read its clock,
    /// so the function asks again a few times, and then uses the answer with the shortest time.
    pub(super) async fn look_at_clock(&self, commands: &mut Commands) -> Result<(), RedisError> {
        let mut shortest = None;
        for _ in 0..LOOKS_AT_CLOCK {
            let (before, begun) = (self.clock.now(), self.clock.instant());
            let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(commands).await?;
            // In a suspended machine, only one of the two clocks goes on.
            let took = self.clock.instant().saturating_duration_since(begun);
            let took = took.max(self.clock.now().since(before));
            let server = seconds.saturating_mul(1000).saturating_add(micros / 1000);
            if shortest.is_none_or(|(_, shortest)| took < shortest) {
                shortest = Some((ahead_of(before, server, took), took));
            }
            if took <= FAST_LOOK {
                break;
            }
        }
        if let Some((ahead, _)) = shortest {
            self.server_ahead.store(ahead, Ordering::Relaxed);
            if self.clock_differs() {
                self.alarm.clock_differs(ahead, self.clock.since_epoch());
            }
        }
        Ok(())
    }

    /// Returns true if the clock of the server differs so much from the gateway's clock that one of the
    /// two is wrong.
    pub(super) fn clock_differs(&self) -> bool {
        let ahead = self.server_ahead.load(Ordering::Relaxed);
        !self.clock.is_manual() && differs(ahead)
    }

    /// Reads the clock of the server again after every [`BETWEEN_LOOKS`] heartbeats.
    pub(super) fn watch_clock(self: &Arc<Self>, number: u64, mut commands: Commands) {
        if number.is_multiple_of(BETWEEN_LOOKS) {
            let shared = Arc::clone(self);
            // An error is ignored, because the heartbeats show whether the server answers.
            tokio::spawn(async move { shared.look_at_clock(&mut commands).await.map_err(drop) });
        }
    }
}

/// Returns the time by which the clock of the server is ahead, in milliseconds. The gateway has asked at
/// the time `asked`, and has waited for `took` until the answer `server` arrived. Half of this time
/// belongs to the way of the question.
fn ahead_of(asked: Timestamp, server: u64, took: Duration) -> i64 {
    let middle = asked.plus(half(took));
    let ahead = i128::from(server).saturating_sub(i128::from(middle.as_millis()));
    i64::try_from(ahead).unwrap_or_default()
}

/// Returns true if the difference between two clocks is larger than [`LARGEST_DIFFERENCE`]. `ahead`
/// is the difference in milliseconds, and can be negative.
pub(super) fn differs(ahead: i64) -> bool {
    Duration::from_millis(ahead.unsigned_abs()) > LARGEST_DIFFERENCE
}
