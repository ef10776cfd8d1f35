//! The counts of a row. `tests/run faults` adds the counts of all rows.

use std::time::Duration;

use sidegate::clock::Clock;
use tokio::time::Instant;

use crate::support::program::record;

/// The file with one line for each row: `NAME`, a tab, and the counts.
const FILE: &str = "faults.txt";

/// The time now.
pub(super) fn now() -> Instant {
    Clock::system().instant()
}

/// The counts and the failures of one bystander.
#[derive(Default)]
pub(super) struct Seen {
    /// The time at which each request began, and the time until its answer was complete.
    pub(super) times: Vec<(Instant, Duration)>,
    pub(super) requests: usize,
    pub(super) failed: Vec<String>,
    pub(super) forced_logins: Vec<String>,
    pub(super) crossed: Vec<String>,
    /// Requests without an answer in time.
    pub(super) stuck: Vec<String>,
}

/// Two periods of a row. During the flood, the bystanders must be almost as fast as before the
/// flood.
#[derive(Clone, Copy, Debug)]
pub(super) struct Comparison {
    pub(super) flood: &'static str,
    /// The start of the quiet period, the start of the flood, and the end
    /// of the flood.
    pub(super) periods: [Instant; 3],
}

impl Comparison {
    /// If the 99th percentile during a flood is shorter than this time, the bystanders have not
    /// noticed the flood. On a busy machine, other programs can delay single requests by some tens of
    /// milliseconds, even in only one period. A gateway without optimization needs about ten
    /// times as long for each frame.
    const UNNOTICED: Duration = if cfg!(debug_assertions) {
        Duration::from_millis(500)
    } else {
        Duration::from_millis(50)
    };

    /// Returns a text that states both 99th percentiles, and whether the flood has delayed the
    /// bystanders: the 99th percentile during the flood is longer than [`Self::UNNOTICED`], and longer
    /// than twice the 99th percentile before the flood.
    fn result(&self, times: &[(Instant, Duration)]) -> (String, bool) {
        let [quiet, flood, end] = self.periods;
        let (before, count) = percentile(times, quiet, flood);
        let (during, flooded) = percentile(times, flood, end);
        let text = format!(
            "{}: p99 {before:?} of {count} requests, during the flood {during:?} of {flooded}",
            self.flood
        );
        let slow = during > Self::UNNOTICED && during > before * 2;
        (text, slow || count < 50 || flooded < 10)
    }
}

/// The 99th percentile of the requests that began in a period, and their number.
fn percentile(times: &[(Instant, Duration)], from: Instant, to: Instant) -> (Duration, usize) {
    let began = times.iter().filter(|(began, _)| (from..to).contains(began));
    let mut lasted: Vec<_> = began.map(|(_, lasted)| *lasted).collect();
    lasted.sort_unstable();
    let last = lasted.len().saturating_sub(1);
    let at = (lasted.len() * 99 / 100).min(last);
    (lasted.get(at).copied().unwrap_or_default(), lasted.len())
}

/// The counts of a row.
#[derive(Default)]
pub(super) struct Outcome {
    /// The floods of the row.
    pub(super) comparisons: Vec<Comparison>,
    /// The number of further rows in the same test.
    pub(super) more_rows: usize,
    seen: Seen,
    pub(super) leaked_descriptors: usize,
    /// The number of gateways that have ended, although nobody has stopped them.
    pub(super) crashes: usize,
    /// Whatever the gateway still counts as unfinished at the end, and rows that did not end in
    /// time.
    pub(super) stuck: usize,
}

impl Outcome {
    pub(super) fn add(&mut self, seen: Seen) {
        self.seen.requests += seen.requests;
        self.seen.times.extend(seen.times);
        self.seen.failed.extend(seen.failed);
        self.seen.forced_logins.extend(seen.forced_logins);
        self.seen.crossed.extend(seen.crossed);
        self.seen.stuck.extend(seen.stuck);
    }

    /// Records the counts.
    ///
    /// # Panics
    ///
    /// If anything went wrong.
    pub(super) fn finish(self, name: &str) {
        let seen = &self.seen;
        let counts = format!(
            "rows={} bystander_requests={} failed_requests={} forced_logins={} crossed={} \
             leaked_descriptors={} stuck={} crashes={} failed_rows=0",
            self.more_rows + 1,
            seen.requests,
            seen.failed.len(),
            seen.forced_logins.len(),
            seen.crossed.len(),
            self.leaked_descriptors,
            self.stuck + seen.stuck.len(),
            self.crashes,
        );
        record(FILE, &[name, &counts]);
        let wrong = [
            &seen.failed,
            &seen.forced_logins,
            &seen.crossed,
            &seen.stuck,
        ];
        let wrong = wrong.map(|list| list.join("\n"));
        let results = self.comparisons.iter().map(|row| row.result(&seen.times));
        let (texts, slow): (Vec<_>, Vec<_>) = results.unzip();
        assert!(!slow.contains(&true), "{name}: {}", texts.join("\n"));
        assert!(seen.requests > 0, "no bystander has sent a request");
        assert_eq!(wrong, [""; 4], "{name}: {counts}");
        let left = (self.leaked_descriptors, self.stuck, self.crashes);
        assert_eq!(left, (0, 0, 0), "{name}");
    }
}

/// Records that a gateway has ended, although nobody has stopped it.
pub(super) fn record_crash() {
    record(FILE, &["a crash", "crashes=1"]);
}

/// Records a row as failed when the row panics.
pub(super) struct UnfinishedRow(pub(super) &'static str);

impl Drop for UnfinishedRow {
    fn drop(&mut self) {
        if std::thread::panicking() {
            record(FILE, &[self.0, "rows=1 failed_rows=1"]);
        }
    }
}
