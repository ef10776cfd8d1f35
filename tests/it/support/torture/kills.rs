//! The effect of a kill of a gateway process on the record of tokens.
//!
//! Each gateway process has its own client secret, so the server knows which process made a call. A
//! process that is killed loses the answers that it has not stored yet.

use sidegate::clock::Timestamp;

use super::ledger::{Ledger, PairId, RefreshCall};

impl Ledger {
    /// Records that a gateway process was killed. The process has lost the answers of its calls in
    /// progress. The process may also have lost the newest pair of a family, if nobody has used the
    /// pair.
    pub(crate) fn process_killed(&mut self, process: usize, now: Timestamp) {
        self.killed.push((process, now));
        for family in &mut self.families {
            let lost = |(_, _, from): &(usize, usize, Option<usize>)| *from == Some(process);
            for (pair, call, _process) in family.under_way.extract_if(.., |call| lost(call)) {
                family.pairs[pair].abandoned.insert(call);
            }
            if let [.., asked, newest] = family.pairs.as_mut_slice()
                && newest.issued_to == Some(process)
                && !newest.reached_app
                && !newest.lost
            {
                newest.lost = true;
                asked.abandoned.insert(newest.issued_by);
            }
        }
    }

    /// Whether the process that made a call was killed after the beginning of the call.
    pub(super) fn has_nobody_waiting(&self, call: &RefreshCall) -> bool {
        let killed_since = |(process, at): &(usize, Timestamp)| {
            Some(*process) == call.process && *at >= call.begun_at
        };
        self.killed.iter().any(killed_since)
    }

    /// Records that a request with the access token of this pair reached the app, so a gateway
    /// process has stored the pair.
    pub(super) fn reached_app(&mut self, pair_id: PairId) {
        let pair = self.pair(pair_id);
        pair.reached_app = true;
        pair.lost = false;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ledger::{End, ProviderBehavior};
    use super::*;

    const LIFE: Duration = Duration::from_secs(4);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + seconds * 1000)
    }

    fn opened() -> (Ledger, PairId) {
        let behavior = ProviderBehavior {
            server: "server",
            kills_access_tokens: false,
            grace: Duration::ZERO,
        };
        let mut ledger = Ledger::default();
        let first = ledger.open("alice", behavior, LIFE, at(0));
        (ledger, first)
    }

    fn call(ledger: &mut Ledger, pair_id: PairId, process: usize, seconds: u64) -> RefreshCall {
        let token = Ledger::refresh_token(pair_id);
        let call = ledger.begin_call(&token, Some(process), at(seconds));
        call.unwrap()
    }

    #[test]
    fn a_pair_that_only_a_killed_process_had_is_lost() {
        let (mut ledger, first) = opened();
        let asked = call(&mut ledger, first, 1, 3);
        ledger.end_call(asked.pair_id);
        let next = ledger.refresh(first, LIFE, Duration::ZERO, at(3)).unwrap();
        ledger.pair(next).issued_to = Some(1);
        ledger.process_killed(0, at(4));
        assert!(!ledger.families()[0].is_unrecoverable());
        ledger.process_killed(1, at(4));
        assert!(ledger.families()[0].is_unrecoverable());
        call(&mut ledger, first, 0, 9);
        assert!(ledger.refresh(first, LIFE, Duration::ZERO, at(9)).is_err());
        let family = &ledger.families()[0];
        assert_eq!(family.ended, Some(End::LostAnswer));
        assert_eq!((family.overlaps, family.pairs[0].normal_calls()), (0, 1));
    }

    #[test]
    fn a_pair_that_has_reached_the_app_is_not_lost() {
        for used_first in [true, false] {
            let (mut ledger, first) = opened();
            let asked = call(&mut ledger, first, 1, 3);
            ledger.end_call(asked.pair_id);
            let next = ledger.refresh(first, LIFE, Duration::ZERO, at(3)).unwrap();
            ledger.pair(next).issued_to = Some(1);
            if used_first {
                ledger.reached_app(next);
            }
            ledger.process_killed(1, at(4));
            ledger.reached_app(next);
            assert!(!ledger.families()[0].is_unrecoverable());
        }
    }

    #[test]
    fn a_killed_process_gets_no_answer() {
        let (mut ledger, first) = opened();
        let asked = call(&mut ledger, first, 1, 3);
        assert!(!ledger.has_nobody_waiting(&asked));
        ledger.process_killed(0, at(4));
        assert!(!ledger.has_nobody_waiting(&asked));
        ledger.process_killed(1, at(4));
        assert!(ledger.has_nobody_waiting(&asked));
        // The next call of another process does not overlap with the lost call.
        let next = call(&mut ledger, first, 0, 5);
        assert!(!ledger.has_nobody_waiting(&next));
        let family = &ledger.families()[0];
        assert_eq!((family.overlaps, family.pairs[0].normal_calls()), (0, 1));
    }
}
