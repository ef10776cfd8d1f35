//! The result of a run, computed from the visitors' events and from the servers' own record.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::visitor::Event;
use crate::support::torture::fault::{Fault, Schedule};
use crate::support::torture::ledger::{End, Family, Ledger, Pair};

/// The number of failures that are printed in full.
const PRINTED_FAILURES: usize = 5;

/// The result of a run.
#[derive(Default)]
pub(super) struct Report {
    seed: u64,
    rate: f64,
    kinds: Vec<Fault>,
    /// The minimum number of occurrences of each kind of fault.
    minimum: usize,
    /// The number of gateway processes.
    replicas: usize,
    sessions: usize,
    requests: usize,
    expiries: usize,
    refreshes: usize,
    again: usize,
    faults: BTreeMap<&'static str, usize>,
    outages: usize,
    /// The faults of gateway processes and of the store, by name.
    incidents: BTreeMap<&'static str, usize>,
    /// Requests that were sent again, because their process was killed or stopped.
    interrupted: usize,
    /// Requests that have to be sent again, because the store was away.
    postponed: usize,
    /// Sessions that no client could have kept, and their requests.
    unavoidable: usize,
    unavoidable_requests: usize,
    forced_logins: Vec<String>,
    failed_requests: Vec<String>,
    crossed: Vec<String>,
    /// Mistakes of the gateway that the servers have recorded.
    gateway_mistakes: Vec<String>,
    settling: Duration,
}

impl Report {
    pub(super) fn new(seed: u64, schedule: &Schedule, minimum: usize) -> Self {
        Self {
            seed,
            rate: schedule.rate(),
            kinds: schedule.faults().to_vec(),
            minimum,
            replicas: 1,
            ..Self::default()
        }
    }

    /// Adds the faults of several gateway processes and of their store.
    pub(super) fn with_incidents(
        mut self,
        replicas: usize,
        incidents: BTreeMap<&'static str, usize>,
    ) -> Self {
        self.replicas = replicas;
        self.incidents = incidents;
        self
    }

    pub(super) fn record(&mut self, event: Event) {
        self.requests += 1;
        match event {
            Event::Served => {}
            Event::Crossed(what) => self.crossed.push(what),
            Event::Failed(what) => self.failed_requests.push(what),
            Event::SignedOut(what) => self.forced_logins.push(what),
            Event::Unavoidable => self.unavoidable_requests += 1,
            // The request is counted when it is answered.
            Event::Interrupted(count) => {
                self.interrupted += count;
                self.requests -= 1;
            }
            Event::Postponed => self.postponed += 1,
        }
    }

    /// Reads the servers' record after the end of the run.
    pub(super) fn close(&mut self, ledger: &Ledger, outages: usize, settling: Duration) {
        self.outages = outages;
        self.settling = settling;
        self.faults = ledger.faults();
        for family in ledger.families() {
            self.sessions += 1;
            self.refreshes += family.refreshes();
            self.unavoidable += usize::from(family.is_unrecoverable());
            let ended_wrongly = !matches!(family.ended, None | Some(End::LostAnswer));
            if ended_wrongly || family.overlaps > 0 {
                self.gateway_mistakes.push(format!("{family:?}"));
            }
            for pair in &family.pairs {
                self.again += pair.calls.len().saturating_sub(1);
                self.expiries += usize::from(expired(family, pair));
                if pair.normal_calls() > 1 {
                    self.gateway_mistakes
                        .push(format!("asked twice: {family:?}"));
                }
            }
        }
    }

    pub(super) fn assert_no_failures(&self) {
        let of = |(what, all): (&str, &[String])| {
            let printed: Vec<_> = all
                .iter()
                .take(PRINTED_FAILURES)
                .map(String::as_str)
                .collect();
            (!all.is_empty()).then(|| format!("{} {what}:\n{}", all.len(), printed.join("\n")))
        };
        let wrong = [
            ("tokens crossed", &*self.crossed),
            ("forced logins", &self.forced_logins),
            ("failed requests", &self.failed_requests),
            ("improper refreshes", &self.gateway_mistakes),
        ];
        // All failures are printed, because the servers' record often explains the visitors'
        // failures.
        let wrong: Vec<String> = wrong.into_iter().filter_map(of).collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert_eq!(self.expiries, self.refreshes);
        assert!(self.outages >= self.minimum, "{} outages", self.outages);
        for (name, count) in &self.incidents {
            assert!(*count >= self.minimum, "{name}: {count}");
        }
        for fault in &self.kinds {
            let count = self.faults.get(fault.name()).copied().unwrap_or_default();
            assert!(count >= self.minimum, "{}: {count}", fault.name());
        }
    }
}

/// Whether the token expired while its session was in use. A refresh in the first half of a token's
/// lifetime is not caused by the expiry of the token. A token that was not refreshed has expired in
/// use if its session was used after the expiry of the token.
fn expired(family: &Family, pair: &Pair) -> bool {
    let life = pair.expires_at.since(pair.issued_at);
    match pair.used_at {
        // If a client reads the answer late, less of the token's lifetime is left for the client.
        Some(used_at) => used_at >= pair.asked_at.plus(life / 2),
        None => !pair.lost && pair.killed_at.is_none() && family.last_used_at >= pair.expires_at,
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        writeln!(f, "{:<36} {:>8} {:>6}", "fault", "rate", "times")?;
        for fault in &self.kinds {
            let count = self.faults.get(fault.name()).copied().unwrap_or_default();
            writeln!(f, "{:<36} {:>6.2} % {count:>6}", fault.name(), self.rate)?;
        }
        writeln!(
            f,
            "{:<36} {:>8} {:>6}",
            "connections refused", "", self.outages
        )?;
        for (name, count) in &self.incidents {
            writeln!(f, "{name:<36} {:>8} {count:>6}", "")?;
        }
        writeln!(
            f,
            "{} calls were repeated; {} requests failed whose session no client could have kept; \
             {:.1} s until all visitors had finished",
            self.again,
            self.unavoidable_requests,
            self.settling.as_secs_f64()
        )?;
        if self.replicas > 1 {
            writeln!(
                f,
                "{} requests had no answer, because their process was killed or stopped, and were \
                 sent to another process; {} requests got 503 with Retry-After, because the store \
                 was away",
                self.interrupted, self.postponed
            )?;
        }
        write!(f, "torture: ")?;
        if self.replicas > 1 {
            write!(f, "replicas={} ", self.replicas)?;
        }
        write!(
            f,
            "sessions={} requests={} expiries={} refreshes={} faults={} unavoidable={} \
             forced_logins={} failed_requests={} crossed={}",
            self.sessions,
            self.requests,
            self.expiries,
            self.refreshes,
            self.faults.values().sum::<usize>()
                + self.incidents.values().sum::<usize>()
                + self.outages,
            self.unavoidable,
            self.forced_logins.len(),
            self.failed_requests.len(),
            self.crossed.len(),
        )?;
        if self.replicas > 1 {
            write!(f, " double_refresh={}", self.gateway_mistakes.len())?;
        }
        Ok(())
    }
}
