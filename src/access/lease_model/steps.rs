//! The steps of the replicas, of the provider and of the clock.

use std::time::Duration;

use super::{
    Answer, Call, DEADLINE, Model, Phase, Reuse, State, Step, Stored, Without, Write, lease,
};
use crate::access::lease_use::{Known, LeaseUse, Reports, TIME_TO_SEND, lease_use};
use crate::session::SessionState;

impl Model {
    pub(super) fn steps(self, state: &State) -> Vec<Step> {
        let mut steps = Vec::new();
        for place in 0..2 {
            self.replica_steps(state, place, &mut steps);
            let phase = state.replicas[place].phase;
            if state.kills > 0 && !matches!(phase, Phase::Finished | Phase::Dead) {
                steps.push((
                    "fault: a replica is killed",
                    state.after(|next| {
                        next.kills -= 1;
                        next.loses_newest(place);
                        next.enter(place, Phase::Dead);
                        next.release_by_death(place);
                        next.calls.retain_mut(|call| {
                            call.is_awaited &= call.from != place;
                            call.is_awaited || call.answer == Answer::None
                        });
                    }),
                ));
            }
        }
        self.provider_steps(state, &mut steps);
        self.failover_steps(state, &mut steps);
        if let Some(write) = state.late_write {
            steps.push((
                "a late write reaches the store",
                state.after(|next| {
                    next.late_write = None;
                    next.write(write, self);
                }),
            ));
        }
        let fault = |(name, _state): &Step| name.starts_with("fault: ");
        let is_prompt = !self.pauses && !steps.iter().all(fault);
        // A request arrives within the deadline, or never.
        let is_late = |call: &Call| call.answer == Answer::None && call.age == DEADLINE;
        if !is_prompt && !state.calls.iter().any(is_late) {
            steps.push(("time passes", state.after(State::time_passes)));
        }
        steps
    }

    fn replica_steps(self, state: &State, place: usize, steps: &mut Vec<Step>) {
        let replica = state.replicas[place];
        match replica.phase {
            Phase::Reads => Self::reads(state, place, steps),
            Phase::AsksForLease { age } => self.asks(state, (place, age), steps),
            Phase::Waits { left } => {
                let changed = state.stored.map(|stored| stored.version) != Some(replica.version);
                if changed || state.lease.is_none() || left == 0 {
                    let next = state.after(|next| {
                        next.replicas[place].has_waited = true;
                        next.enter(place, Phase::Reads);
                    });
                    steps.push(("a wait is over", next));
                }
            }
            Phase::Decides { age } => self.decides(state, place, age, steps),
            Phase::Sends { age } => self.sends(state, place, age, steps),
            Phase::Calls { age } => Self::calls(state, place, age, steps),
            Phase::Stores { generation } => self.stores(state, place, generation, steps),
            Phase::Ends => Self::ends(state, place, steps),
            Phase::Finished | Phase::Dead => {}
        }
    }

    fn reads(state: &State, place: usize, steps: &mut Vec<Step>) {
        let read = state.after(|next| match next.stored {
            Some(Stored {
                version,
                generation: 0,
            }) => {
                next.replicas[place].version = version;
                next.replicas[place].has_reconnected = false;
                next.enter(place, Phase::AsksForLease { age: 0 });
            }
            Some(_) | None => next.enter(place, Phase::Finished),
        });
        steps.push(("a replica reads the session", read));
    }

    fn asks(self, state: &State, (place, age): (usize, u8), steps: &mut Vec<Step>) {
        if state.brings_back {
            let next = state.after(|next| next.enter(place, Phase::Waits { left: 1 }));
            steps.push(("the store gives no lease after a failover", next));
            return;
        }
        if let Some((_holder, left)) = state.lease
            && self.without != Without::Lease
        {
            let next = state.after(|next| next.enter(place, Phase::Waits { left }));
            steps.push(("another replica has the lease", next));
            return;
        }
        let granted = state.after(|next| next.lease = Some((place, lease())));
        steps.push((
            "a replica gets the lease",
            granted.after(|next| {
                next.replicas[place].has_lease = true;
                next.enter(place, Phase::Decides { age });
            }),
        ));
        if state.faults > 0 {
            steps.push((
                "fault: the answer with the lease is lost",
                granted.after(|next| {
                    next.faults -= 1;
                    next.enter(place, Phase::Reads);
                }),
            ));
        }
    }

    fn decides(self, state: &State, place: usize, age: u8, steps: &mut Vec<Step>) {
        let replica = state.replicas[place];
        let changed = match state.stored {
            Some(stored) if stored.version == replica.version => None,
            Some(_) => Some(SessionState::Superseded),
            None => Some(SessionState::Ended),
        };
        // The report of a change came before the answer with the lease, or its connection was lost.
        let heard = (changed.unwrap_or(SessionState::Live), Reports::Complete);
        for (session, reports) in [heard, (SessionState::Live, Reports::Uncertain)] {
            let known = Known {
                state: session,
                reports: if replica.has_reconnected && self.without != Without::SameConnection {
                    Reports::OfOtherConnection
                } else {
                    reports
                },
                has_waited: replica.has_waited,
            };
            let asks_store = self.without != Without::SecondRead && changed.is_some();
            let begins_again = match lease_use(known) {
                LeaseUse::BeginAgain => true,
                LeaseUse::AskStore => asks_store,
                LeaseUse::Call => false,
            };
            let next = state.after(|next| {
                if begins_again {
                    next.finish(place, Phase::Reads);
                } else {
                    next.enter(place, Phase::Sends { age });
                }
            });
            steps.push(("the holder decides what to do with its lease", next));
        }
    }

    fn sends(self, state: &State, place: usize, age: u8, steps: &mut Vec<Step>) {
        let is_late = Duration::from_secs(age.into()) > TIME_TO_SEND;
        let next = if is_late && self.without != Without::LookAtTime {
            state.after(|next| next.finish(place, Phase::Reads))
        } else {
            state.after(|next| next.call(place))
        };
        steps.push(("the holder looks at the time and sends", next));
    }

    fn calls(state: &State, place: usize, age: u8, steps: &mut Vec<Step>) {
        let mine = |call: &Call| call.from == place && call.is_awaited;
        let at = state.calls.iter().position(mine);
        let answer = at.map_or(Answer::None, |at| state.calls[at].answer);
        let answered = state.after(|next| {
            next.calls.retain(|call| !mine(call));
        });
        match answer {
            Answer::None => {}
            Answer::Tokens(generation) => {
                let phase = Phase::Stores { generation };
                steps.push((
                    "the tokens arrive",
                    answered.after(|next| next.enter(place, phase)),
                ));
            }
            Answer::Refused => {
                let next = answered.after(|next| next.enter(place, Phase::Ends));
                steps.push(("the refusal arrives", next));
            }
        }
        if state.faults > 0 && answer != Answer::None {
            steps.push((
                "fault: the answer of the provider is lost",
                answered.after(|next| {
                    next.faults -= 1;
                    next.loses_newest(place);
                    next.finish(place, Phase::Reads);
                }),
            ));
        }
        if state.faults > 0 && age == DEADLINE {
            steps.push((
                "fault: the deadline of the call is over",
                state.after(|next| {
                    // Without an answer, the replica does not know whether its token was used.
                    next.faults -= 1;
                    next.lost = true;
                    next.loses_newest(place);
                    for call in next.calls.iter_mut().filter(|call| mine(call)) {
                        call.is_awaited = false;
                    }
                    next.calls
                        .retain(|call| call.is_awaited || call.answer == Answer::None);
                    next.finish(place, Phase::Reads);
                }),
            ));
        }
    }

    fn stores(self, state: &State, place: usize, generation: u8, steps: &mut Vec<Step>) {
        let write = Write {
            from: place,
            replaces: state.replicas[place].version,
            generation,
        };
        let written = state.after(|next| next.write(write, self));
        // If the store has another version, the replica uses this version.
        let done = written.after(|next| next.finish(place, Phase::Finished));
        steps.push(("the tokens are stored, or are outdated", done));
        if state.faults == 0 {
            return;
        }
        let fails = |next: &mut State| {
            next.faults -= 1;
            if self.without == Without::KeptLease {
                next.release(place);
            }
        };
        steps.push(("fault: the write is lost", state.after(fails)));
        steps.push((
            "fault: the answer to the write is lost",
            written.after(fails),
        ));
        let late = state.after(|next| {
            fails(next);
            next.late_write = Some(write);
        });
        steps.push(("fault: the write is late", late));
    }

    fn ends(state: &State, place: usize, steps: &mut Vec<Step>) {
        let ended = state.after(|next| {
            let version = next.stored.map(|stored| stored.version);
            if version == Some(next.replicas[place].version) {
                next.stored = None;
                if !next.lost {
                    next.wrong = Some("a user was signed out whose session could have continued");
                }
            }
            next.finish(place, Phase::Finished);
        });
        steps.push(("the session ends, unless it is newer", ended));
    }

    fn provider_steps(self, state: &State, steps: &mut Vec<Step>) {
        for (index, call) in state.calls.iter().enumerate() {
            if call.answer != Answer::None {
                continue;
            }
            let processed = state.after(|next| self.process(next, index));
            steps.push(("the provider processes a call", processed));
            if state.faults > 0 {
                steps.push((
                    "fault: a request to the provider is lost",
                    state.after(|next| {
                        next.faults -= 1;
                        next.calls.remove(index);
                        if call.is_awaited {
                            next.finish(call.from, Phase::Reads);
                        }
                    }),
                ));
            }
        }
    }

    /// The provider carries out a call.
    fn process(self, state: &mut State, index: usize) {
        let Call {
            from, is_awaited, ..
        } = state.calls[index];
        if state.issued > 0 && !state.grant_ended {
            // The tokens that replaced this refresh token are with a replica that is alive and has
            // its lease, or in the store.
            let is_safe = match state.newest_at {
                Some((_holder, left)) => left > 0,
                None => true,
            };
            if is_safe && !state.lost {
                state.wrong = Some("a used refresh token was used again");
            }
            state.lost = true;
            state.grant_ended = self.reuse == Reuse::EndsGrant;
        }
        let answer = if state.grant_ended {
            Answer::Refused
        } else {
            state.issued += 1;
            let of_caller = |(holder, _left): &(usize, u8)| *holder == from;
            let left = state
                .lease
                .filter(of_caller)
                .map_or(0, |(_holder, left)| left);
            state.newest_at = is_awaited.then_some((from, left));
            state.lost |= !is_awaited;
            Answer::Tokens(state.issued)
        };
        if is_awaited {
            state.calls[index].answer = answer;
        } else {
            state.calls.remove(index);
        }
    }
}
