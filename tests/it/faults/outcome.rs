//! The counts of a row. `tests/run faults` adds the counts of all rows.

use crate::support::program::record;

/// The file with one line for each row: `NAME`, a tab, and the counts.
const FILE: &str = "faults.txt";

/// The counts and the failures of one bystander.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) requests: usize,
    pub(super) failed: Vec<String>,
    pub(super) forced_logins: Vec<String>,
    pub(super) crossed: Vec<String>,
    /// Requests without an answer in time.
    pub(super) stuck: Vec<String>,
}

/// The counts of a row.
#[derive(Default)]
pub(super) struct Outcome {
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
