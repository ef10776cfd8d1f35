//! A model of two replicas that refresh one session, and a check of every order of their steps.
//!
//! The model has a store with a session and its lease, a provider that rotates refresh tokens, and
//! two replicas. In each state, the check tries every possible next step: a step of a replica or of
//! the provider, a step of the clock, and a fault. A replica that is paused is a replica whose steps
//! come late. A fault can be a failover of the store that loses the lease and the last write. The number
//! of faults is limited. The time is not limited, but a state contains only the times since the last steps
//! and until the next ends, so the number of states is limited.
//!
//! The check is written by hand, and is a search through all states in about a hundred lines. A library
//! such as `stateright` needs the same model, and brings a web server and an actor system with it.
//! `loom` checks threads that share memory, not processes that share a store and lose messages. The model
//! calls the functions of `lease_use`, so the check covers the code that runs.
//!
//! The model makes two assumptions. A request that a replica has written reaches the provider
//! within the deadline of the call, or never. A replica looks at the time that is left of its lease
//! and writes its request without a pause in between. No program can do without the second
//! assumption.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "the numbers of a model are small, and an overflow fails the test"
)]

mod explore;
mod failover;
mod steps;

use std::time::Duration;

use self::explore::check;
use super::lease_use::lease_duration;

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
    /// Has sent a request for the lease. The value is the time since then.
    AsksForLease { age: u8 },
    /// Another holder has the lease. The value is the time until the lease ends.
    Waits { left: u8 },
    /// Has the lease, and decides what to do with it. The value is the time since the request for the
    /// lease.
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

#[expect(
    clippy::struct_excessive_bools,
    reason = "each of them is a fact of its own, and the check tries all combinations"
)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Replica {
    phase: Phase,
    /// The version of the session that the replica has read.
    version: u8,
    has_waited: bool,
    /// Whether the replica has got a lease and has not given it back.
    has_lease: bool,
    /// Whether the store has failed over since the replica has asked for its lease.
    has_reconnected: bool,
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

/// A write: the replica that makes it, the version that it replaces, and the generation of the new tokens.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Write {
    from: usize,
    replaces: u8,
    generation: u8,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each of them is a fact of its own, and the check tries all combinations"
)]
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
    /// The replica that has made the last write.
    written_by: Option<usize>,
    /// The lease and the session that the store has lost in a failover, and the replicas that know them.
    lost_lease: Option<(usize, u8)>,
    lost_write: Option<(usize, Stored)>,
    /// Whether the store gives no lease, because the replicas bring back their changes.
    brings_back: bool,
    faults: u8,
    kills: u8,
    failovers: u8,
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
    /// After a failover, the store gives leases at once.
    TimeToRepeat,
    /// After a failover, no replica takes its lease again.
    LeaseAgain,
    /// After a failover, no replica stores its tokens again.
    TokensAgain,
    /// A replica uses a lease that it has got from the server before the failover.
    SameConnection,
}

#[derive(Clone, Copy, Debug)]
struct Model {
    reuse: Reuse,
    without: Without,
    /// The numbers of lost messages, of killed replicas and of failovers that lose changes.
    faults: u8,
    kills: u8,
    failovers: u8,
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
            has_reconnected: false,
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
            written_by: None,
            lost_lease: None,
            lost_write: None,
            brings_back: false,
            faults: model.faults,
            kills: model.kills,
            failovers: model.failovers,
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
        self.lost_lease = self.lost_lease.filter(|(holder, _left)| *holder != place);
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
        if let Some((_holder, left)) = &mut self.lost_lease {
            *left -= 1;
        }
        self.lost_lease = self.lost_lease.filter(|(_holder, left)| *left > 0);
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
        self.written_by = Some(write.from);
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

fn model(reuse: Reuse, without: Without) -> Model {
    Model {
        reuse,
        without,
        faults: 2,
        kills: 1,
        failovers: 0,
        pauses: true,
    }
}

fn with_failover(reuse: Reuse, without: Without) -> Model {
    Model {
        faults: 0,
        failovers: 1,
        ..model(reuse, without)
    }
}

#[test]
fn f_12_no_order_of_steps_around_a_failover_loses_a_session_that_could_continue() {
    for reuse in [Reuse::EndsGrant, Reuse::IsAccepted] {
        let checked = check(with_failover(reuse, Without::Nothing));
        assert_eq!(checked.wrong, None, "{reuse:?}");
        assert!(checked.states > 10_000, "{reuse:?}: {}", checked.states);
        println!("{reuse:?}: {} states", checked.states);
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
        (Without::TimeToRepeat, Reuse::EndsGrant, again),
        (Without::LeaseAgain, Reuse::EndsGrant, again),
        (Without::TokensAgain, Reuse::EndsGrant, again),
        (Without::SameConnection, Reuse::EndsGrant, again),
    ] {
        let of_failover = [
            Without::TimeToRepeat,
            Without::LeaseAgain,
            Without::TokensAgain,
            Without::SameConnection,
        ];
        let checked = check(if of_failover.contains(&without) {
            with_failover(reuse, without)
        } else {
            model(reuse, without)
        });
        let (steps, found) = checked
            .wrong
            .unwrap_or_else(|| panic!("{without:?}: nothing"));
        assert_eq!(found, wrong, "{without:?}: {steps:?}");
        println!("{without:?}: {steps:#?}");
    }
}
