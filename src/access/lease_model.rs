//! A model of two replicas that refresh one session, and a check of every order of their steps.
//!
//! The model has a store with a session and its lease, a provider that rotates refresh tokens, and
//! two replicas. In each state, the check tries every possible next step: a step of a replica or of
//! the provider, a step of the clock, and a fault. A replica that is paused is a replica whose steps
//! come late. The number of faults is limited. The time is not limited, but a state contains only the
//! times since the last steps and until the next ends, so the number of states is limited.
//!
//! The model makes two assumptions. A request that a replica has written reaches the provider
//! within the deadline of the call, or never. A replica looks at the time that is left of its lease
//! and writes its request without a pause in between. No program can do without the second
//! assumption.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::lease_use::{Known, LeaseUse, TIME_TO_SEND, lease_duration, lease_use};
use crate::session::SessionState;

/// The deadline of a call to the provider, in steps of the clock. A step is one second.
const DEADLINE: u8 = 1;

/// The duration of a lease, in steps of the clock.
fn lease() -> u8 {
    let duration = lease_duration(Duration::from_secs(DEADLINE.into()));
    duration.as_secs().try_into().unwrap()
}

/// What a replica does next.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Phase {
    /// Reads the session from the store.
    Reads,
    /// Has sent a request for the lease, so long ago.
    AsksForLease { age: u8 },
    /// Another holder has the lease, for so long.
    Waits { left: u8 },
    /// Has asked for the lease so long ago and has got it, and decides what to do with it.
    Decides { age: u8 },
    /// Has the lease, and the session has not changed.
    Sends { age: u8 },
    /// Waits for the answer of the provider.
    Calls { age: u8 },
    /// Has tokens of this generation that are not in the store.
    Stores { generation: u8 },
    /// The provider has refused the refresh token, so the replica ends the session.
    Ends,
    /// Every request of the replica has an answer.
    Finished,
    /// The process was killed.
    Dead,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Replica {
    phase: Phase,
    /// The version of the session that the replica has read.
    version: u8,
    has_waited: bool,
    /// Whether the replica has got a lease and has not given it back.
    has_lease: bool,
}

/// A call to the provider. All calls use the refresh token of generation 0.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Call {
    from: usize,
    /// Whether the replica still waits for the answer.
    is_awaited: bool,
    age: u8,
    answer: Answer,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Answer {
    /// The request is still on its way.
    None,
    /// Tokens of this generation.
    Tokens(u8),
    Refused,
}

/// The session in the store: the version, and the generation of its tokens.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Stored {
    version: u8,
    generation: u8,
}

/// A write: the version that it replaces, and the generation of the new tokens.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Write {
    replaces: u8,
    generation: u8,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct State {
    replicas: [Replica; 2],
    calls: Vec<Call>,
    /// `None` after the end of the session.
    stored: Option<Stored>,
    /// The holder of the lease, and the time until the lease ends.
    lease: Option<(usize, u8)>,
    /// A write that its sender has given up, but that can still reach the store.
    late_write: Option<Write>,
    /// The newest generation of tokens.
    issued: u8,
    grant_ended: bool,
    /// The replica that has the newest tokens, if the tokens are not in the store, and the time until
    /// its lease ends.
    newest_at: Option<(usize, u8)>,
    /// The newest tokens may be lost, so that no program could keep the session.
    lost: bool,
    faults: u8,
    kills: u8,
    wrong: Option<&'static str>,
}

/// The behaviour of the provider when an old refresh token is used again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reuse {
    /// The provider ends the grant (RFC 9700 section 4.14.2).
    EndsGrant,
    /// The provider accepts the token again.
    IsAccepted,
}

/// A protection that a test takes out, to show that the check notices.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Without {
    Nothing,
    /// The store replaces any version of the session.
    Fence,
    /// The store grants every lease.
    Lease,
    /// The holder does not look at the time that is left of its lease.
    LookAtTime,
    /// The holder does not ask the store whether the session has changed.
    SecondRead,
    /// The holder gives the lease back although its tokens are not stored.
    KeptLease,
}

#[derive(Clone, Copy, Debug)]
struct Model {
    reuse: Reuse,
    without: Without,
    /// The numbers of lost messages and of killed replicas.
    faults: u8,
    kills: u8,
    /// Whether replicas and the provider can be paused. If not, time passes only while nothing else
    /// can happen.
    pauses: bool,
}

/// A step: its name, which begins with `fault: ` if the step is a fault, and the state after the
/// step.
type Step = (&'static str, State);

impl State {
    fn start(model: Model) -> Self {
        let replica = Replica {
            phase: Phase::Reads,
            version: 0,
            has_waited: false,
            has_lease: false,
        };
        Self {
            replicas: [replica; 2],
            calls: Vec::new(),
            stored: Some(Stored {
                version: 0,
                generation: 0,
            }),
            lease: None,
            late_write: None,
            issued: 0,
            grant_ended: false,
            newest_at: None,
            lost: false,
            faults: model.faults,
            kills: model.kills,
            wrong: None,
        }
    }

    /// Makes a change to a copy of this state.
    fn after(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut next = self.clone();
        change(&mut next);
        next
    }

    fn enter(&mut self, place: usize, phase: Phase) {
        self.replicas[place].phase = phase;
    }

    /// The replica gives its lease back, as the script `release` does.
    fn release(&mut self, place: usize) {
        let has_lease = std::mem::take(&mut self.replicas[place].has_lease);
        if has_lease && self.lease.is_some_and(|(holder, _left)| holder == place) {
            self.lease = None;
        }
    }

    fn finish(&mut self, place: usize, phase: Phase) {
        self.release(place);
        self.enter(place, phase);
    }

    /// The replica writes a request to the provider.
    fn call(&mut self, place: usize) {
        self.calls.push(Call {
            from: place,
            is_awaited: true,
            age: 0,
            answer: Answer::None,
        });
        self.enter(place, Phase::Calls { age: 0 });
    }

    /// One step of the clock.
    fn time_passes(&mut self) {
        for replica in &mut self.replicas {
            match &mut replica.phase {
                Phase::AsksForLease { age } | Phase::Decides { age } | Phase::Sends { age } => {
                    *age = lease().min(*age + 1);
                }
                Phase::Calls { age } => *age = DEADLINE.min(*age + 1),
                Phase::Waits { left } => *left = left.saturating_sub(1),
                Phase::Reads
                | Phase::Stores { .. }
                | Phase::Ends
                | Phase::Finished
                | Phase::Dead => {}
            }
        }
        for call in &mut self.calls {
            call.age = DEADLINE.min(call.age + 1);
        }
        if let Some((_holder, left)) = &mut self.lease {
            *left -= 1;
        }
        self.lease = self.lease.filter(|(_holder, left)| *left > 0);
        if let Some((_holder, left)) = &mut self.newest_at {
            *left = left.saturating_sub(1);
        }
    }

    /// The store applies a write, as the script `replace` does.
    fn write(&mut self, write: Write, model: Model) {
        let Some(stored) = self.stored else {
            return;
        };
        if stored.version != write.replaces && model.without != Without::Fence {
            return;
        }
        if write.generation < stored.generation {
            self.wrong = Some("an older token set has replaced a newer one");
        }
        self.stored = Some(Stored {
            version: stored.version + 1,
            generation: write.generation,
        });
        if write.generation == self.issued
            && let Some((_holder, left)) = self.newest_at.take()
        {
            // The next holder may already have read the old session.
            self.lost |= left == 0;
        }
    }

    /// Nobody can get the newest tokens any more, if this replica had them.
    fn loses_newest(&mut self, place: usize) {
        if self.newest_at.is_some_and(|(holder, _)| holder == place) {
            self.newest_at = None;
            self.lost = true;
        }
    }

    fn is_over(&self) -> bool {
        let over = |replica: &Replica| matches!(replica.phase, Phase::Finished | Phase::Dead);
        self.replicas.iter().all(over)
    }
}

impl Model {
    fn steps(self, state: &State) -> Vec<Step> {
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
                        next.replicas[place].has_lease = false;
                        next.calls.retain_mut(|call| {
                            call.is_awaited &= call.from != place;
                            call.is_awaited || call.answer == Answer::None
                        });
                    }),
                ));
            }
        }
        self.provider_steps(state, &mut steps);
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
                next.enter(place, Phase::AsksForLease { age: 0 });
            }
            Some(_) | None => next.enter(place, Phase::Finished),
        });
        steps.push(("a replica reads the session", read));
    }

    fn asks(self, state: &State, (place, age): (usize, u8), steps: &mut Vec<Step>) {
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
        let heard = (changed.unwrap_or(SessionState::Live), true);
        for (session, is_confirmed) in [heard, (SessionState::Live, false)] {
            let known = Known {
                state: session,
                is_confirmed,
                has_waited: replica.has_waited,
            };
            let asks_store = self.without != Without::SecondRead && changed.is_some();
            let phase = match lease_use(known) {
                LeaseUse::BeginAgain => Phase::Reads,
                LeaseUse::AskStore if asks_store => Phase::Reads,
                LeaseUse::AskStore | LeaseUse::Call => Phase::Sends { age },
            };
            let next = match phase {
                Phase::Reads => state.after(|next| next.finish(place, Phase::Reads)),
                _ => state.after(|next| next.enter(place, phase)),
            };
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

/// The result of a check.
#[derive(Debug)]
struct Checked {
    states: usize,
    /// The states in which the session has ended.
    sign_outs: usize,
    /// The steps that lead to the first wrong state, and what is wrong.
    wrong: Option<(Vec<&'static str>, &'static str)>,
}

/// Tries all steps in all states, and checks that from each state the replicas can finish.
fn check(model: Model) -> Checked {
    let start = State::start(model);
    let mut numbers = HashMap::from([(start.clone(), 0)]);
    let mut came_from: Vec<(usize, &'static str)> = vec![(0, "start")];
    let mut leads_to: Vec<Vec<usize>> = Vec::new();
    let mut open = VecDeque::from([start]);
    let mut over = Vec::new();
    let mut sign_outs = 0;
    while let Some(state) = open.pop_front() {
        let number = leads_to.len();
        if let Some(wrong) = state.wrong {
            let wrong = Some((trace(&came_from, number), wrong));
            let states = numbers.len();
            return Checked {
                states,
                sign_outs,
                wrong,
            };
        }
        sign_outs += usize::from(state.stored.is_none());
        if state.is_over() {
            over.push(number);
        }
        let mut next_numbers = Vec::new();
        for (name, next) in model.steps(&state) {
            let fresh = numbers.len();
            let known = *numbers.entry(next.clone()).or_insert(fresh);
            if known == fresh {
                came_from.push((number, name));
                open.push_back(next);
            }
            next_numbers.push(known);
        }
        leads_to.push(next_numbers);
    }
    let stuck = first_stuck(&leads_to, over);
    Checked {
        states: leads_to.len(),
        sign_outs,
        wrong: stuck.map(|number| (trace(&came_from, number), "a waiter never ends")),
    }
}

/// The steps from the start to a state.
fn trace(came_from: &[(usize, &'static str)], mut number: usize) -> Vec<&'static str> {
    let mut steps = Vec::new();
    while number != 0 {
        let (before, name) = came_from[number];
        steps.push(name);
        number = before;
    }
    steps.reverse();
    steps
}

/// The first state from which no state in `over` can be reached.
fn first_stuck(leads_to: &[Vec<usize>], over: Vec<usize>) -> Option<usize> {
    let mut comes_from = vec![Vec::new(); leads_to.len()];
    for (number, next) in leads_to.iter().enumerate() {
        for next in next {
            comes_from[*next].push(number);
        }
    }
    let mut ends = vec![false; leads_to.len()];
    let mut open = over;
    while let Some(number) = open.pop() {
        if !std::mem::replace(&mut ends[number], true) {
            open.extend(&comes_from[number]);
        }
    }
    ends.iter().position(|ends| !ends)
}

fn model(reuse: Reuse, without: Without) -> Model {
    Model {
        reuse,
        without,
        faults: 2,
        kills: 1,
        pauses: true,
    }
}

#[test]
fn g_02_no_order_of_steps_of_two_replicas_loses_a_session_that_could_continue() {
    for reuse in [Reuse::EndsGrant, Reuse::IsAccepted] {
        let checked = check(model(reuse, Without::Nothing));
        assert_eq!(checked.wrong, None, "{reuse:?}");
        assert!(checked.states > 10_000, "{reuse:?}: {}", checked.states);
        // A session ends only if the answer of the provider was lost.
        assert_eq!(checked.sign_outs > 0, reuse == Reuse::EndsGrant);
        println!("{reuse:?}: {} states", checked.states);
    }
}

#[test]
fn g_02_without_a_lost_answer_no_session_ends() {
    let undisturbed = Model {
        faults: 0,
        kills: 0,
        pauses: false,
        ..model(Reuse::EndsGrant, Without::Nothing)
    };
    let checked = check(undisturbed);
    assert_eq!((checked.wrong, checked.sign_outs), (None, 0));
}

#[test]
fn g_02_the_check_notices_each_protection_that_is_missing() {
    let (older, again) = (
        "an older token set has replaced a newer one",
        "a used refresh token was used again",
    );
    for (without, reuse, wrong) in [
        (Without::Fence, Reuse::IsAccepted, older),
        (Without::Lease, Reuse::EndsGrant, again),
        (Without::LookAtTime, Reuse::EndsGrant, again),
        (Without::SecondRead, Reuse::EndsGrant, again),
        (Without::KeptLease, Reuse::EndsGrant, again),
    ] {
        let checked = check(model(reuse, without));
        let (steps, found) = checked
            .wrong
            .unwrap_or_else(|| panic!("{without:?}: nothing"));
        assert_eq!(found, wrong, "{without:?}: {steps:?}");
        println!("{without:?}: {steps:#?}");
    }
}
