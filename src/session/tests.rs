use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::clock::Clock;
use crate::identity::Claim;
use crate::token::Life;

fn settings() -> Settings {
    Settings {
        idle: Duration::from_mins(1),
        absolute: Duration::from_mins(10),
        capacity: 10 * 1024 * 1024,
        per_person: 3,
    }
}

fn person(subject: &str) -> Identity {
    Identity {
        subject: Claim::new(subject),
        ..Identity::nameless("op")
    }
}

fn open(sessions: &Sessions, subject: &str, now: Timestamp) -> SessionId {
    let tokens = TokenSet::new("token", None, Life::default()).unwrap();
    sessions.open("op", person(subject), tokens, now).unwrap()
}

fn live(sessions: &Sessions, id: &SessionId, now: Timestamp) -> bool {
    matches!(sessions.find(id, now), Lookup::Live(_))
}

fn clock() -> Clock {
    Clock::manual(Timestamp::from_millis(1_000_000))
}

#[test]
fn an_id_finds_its_own_session_and_no_other() {
    let (sessions, now) = (Sessions::new(settings()).unwrap(), clock().now());
    let (alice, bob) = (open(&sessions, "alice", now), open(&sessions, "bob", now));
    for (id, subject) in [(&alice, "alice"), (&bob, "bob")] {
        let Lookup::Live(session) = sessions.find(id, now) else {
            panic!("not live")
        };
        assert_eq!(
            session.identity().subject.as_ref().unwrap().as_str(),
            subject
        );
    }
}

#[test]
fn c_15_an_idle_session_ends_and_a_used_one_lives_until_its_absolute_deadline() {
    let (sessions, clock) = (Sessions::new(settings()).unwrap(), clock());
    let idle = open(&sessions, "idle", clock.now());
    let used = open(&sessions, "used", clock.now());
    for _ in 0..11 {
        clock.advance(Duration::from_secs(50));
        assert!(live(&sessions, &used, clock.now()));
    }
    assert!(matches!(sessions.find(&idle, clock.now()), Lookup::Expired));
    clock.advance(Duration::from_secs(50));
    assert!(matches!(sessions.find(&used, clock.now()), Lookup::Expired));
}

#[test]
fn expired_sessions_are_freed_in_small_batches() {
    let (sessions, clock) = (Sessions::new(settings()).unwrap(), clock());
    for number in 0..250 {
        open(&sessions, &number.to_string(), clock.now());
    }
    assert_eq!(sessions.maintain(clock.now()), Maintained::Done);
    assert_eq!(sessions.count(), 250);
    clock.advance(Duration::from_secs(61));
    assert_eq!(sessions.maintain(clock.now()), Maintained::More);
    assert_eq!(sessions.count(), 150);
    assert_eq!(sessions.maintain(clock.now()), Maintained::More);
    assert_eq!(sessions.maintain(clock.now()), Maintained::Done);
    assert_eq!(sessions.count(), 0);
    assert_eq!(sessions.index(|index| index.len()), 0);
}

#[test]
fn a_session_in_use_is_not_freed() {
    let (sessions, clock) = (Sessions::new(settings()).unwrap(), clock());
    let id = open(&sessions, "alice", clock.now());
    clock.advance(Duration::from_secs(40));
    assert!(live(&sessions, &id, clock.now()));
    clock.advance(Duration::from_secs(40));
    assert_eq!(sessions.maintain(clock.now()), Maintained::Done);
    assert!(live(&sessions, &id, clock.now()));
}

#[test]
fn an_ended_session_is_over_at_once() {
    let (sessions, now) = (Sessions::new(settings()).unwrap(), clock().now());
    let id = open(&sessions, "alice", now);
    let Lookup::Live(held) = sessions.find(&id, now) else {
        panic!("not live")
    };
    sessions.end(&id);
    assert!(matches!(sessions.find(&id, now), Lookup::Unknown));
    assert!(held.ended.load(Ordering::Acquire));
    sessions.end(&id);
}

#[test]
fn d_23_one_persons_logins_push_out_only_their_own_oldest() {
    let (sessions, now) = (Sessions::new(settings()).unwrap(), clock().now());
    let bob = open(&sessions, "bob", now);
    let alices: Vec<_> = (0..50).map(|_| open(&sessions, "alice", now)).collect();
    sessions.maintain(now);
    assert!(live(&sessions, &bob, now));
    let alive: Vec<_> = alices.iter().map(|id| live(&sessions, id, now)).collect();
    assert_eq!(alive.iter().filter(|alive| **alive).count(), 3);
    assert!(alive[47..].iter().all(|alive| *alive));
}

#[test]
fn a_full_store_pushes_out_the_least_recently_used_and_keeps_every_new_login() {
    let small = Settings {
        capacity: 100 * 1024,
        ..settings()
    };
    let (sessions, now) = (Sessions::new(small).unwrap(), clock().now());
    let mut last = Vec::new();
    for number in 0..1000 {
        last.push(open(&sessions, &number.to_string(), now));
        sessions.maintain(now);
        assert!(
            live(&sessions, last.last().unwrap(), now),
            "login {number} was lost"
        );
    }
    assert!(!live(&sessions, &last[0], now));
    assert!(sessions.pushed_out() > 500);
    let kept = usize::try_from(sessions.count()).unwrap();
    assert_eq!(sessions.index(|index| index.len()), kept);
}

#[test]
fn a_session_of_another_process_can_be_told() {
    let now = clock().now();
    let (here, there) = (
        Sessions::new(settings()).unwrap(),
        Sessions::new(settings()).unwrap(),
    );
    let id = open(&there, "alice", now);
    assert!(matches!(here.find(&id, now), Lookup::OtherInstance));
    let never = SessionId::random(here.instance).unwrap();
    assert!(matches!(here.find(&never, now), Lookup::Unknown));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let seconds = |seconds| NonZeroU64::new(seconds).unwrap();
    let raw = |idle, absolute| RawSettings {
        idle_secs: seconds(idle),
        absolute_secs: seconds(absolute),
        capacity_mib: NonZeroU64::MIN,
        per_person: NonZeroUsize::MIN,
    };
    let error = Settings::try_from(raw(9, 2)).unwrap_err();
    assert_eq!(error, "idle_secs (9) exceeds absolute_secs (2)");
    assert!(
        Settings::try_from(raw(9, 40_000_000))
            .unwrap_err()
            .contains("400 days")
    );
}

#[test]
fn x_16_a_session_lasts_as_long_as_it_may_whatever_year_it_is() {
    for seconds in [
        0,
        (1 << 31) - 10,
        1 << 31,
        (1 << 32) - 10,
        1 << 32,
        1 << 40_u64,
    ] {
        let sessions = Sessions::new(settings()).unwrap();
        let clock = Clock::manual(Timestamp::from_millis(seconds * 1000));
        let id = open(&sessions, "alice", clock.now());
        clock.advance(Duration::from_secs(59));
        assert!(live(&sessions, &id, clock.now()), "{seconds}");
        assert_eq!(sessions.maintain(clock.now()), Maintained::Done);
        clock.advance(Duration::from_mins(1));
        assert!(
            matches!(sessions.find(&id, clock.now()), Lookup::Expired),
            "{seconds}"
        );
        sessions.maintain(clock.now());
        assert!(
            matches!(sessions.find(&id, clock.now()), Lookup::Unknown),
            "{seconds}"
        );
    }
}

#[test]
fn x_16_a_clock_that_is_set_ends_sessions_rather_than_making_them_last() {
    let (year_2026, sessions) = (
        Timestamp::from_millis(1_767_225_600_000),
        Sessions::new(settings()),
    );
    let sessions = sessions.unwrap();
    // A machine without a battery begins in 1970 and then learns the time.
    let early = open(&sessions, "early", Timestamp::default());
    assert!(matches!(sessions.find(&early, year_2026), Lookup::Expired));
    // One that is set back: the deadlines are where they were.
    let late = open(&sessions, "late", year_2026);
    assert!(live(&sessions, &late, Timestamp::default()));
    assert!(!live(
        &sessions,
        &late,
        year_2026.plus(Duration::from_mins(1))
    ));
    let never = open(&sessions, "never", Timestamp::MAX);
    assert!(!live(&sessions, &never, Timestamp::MAX));
}

/// The parts of a person's key, short and of few characters, so that many are near each other.
fn near() -> impl Strategy<Value = String> {
    let characters = prop::sample::select(vec!['a', 'b', '/', ':', '|', ',', '.', ' ']);
    prop::collection::vec(characters, 1..5).prop_map(String::from_iter)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn g_11_no_two_people_share_a_place_in_the_index(
        people in prop::collection::vec((near(), near()), 1000)
    ) {
        let tokens = || TokenSet::new("token", None, Life::default()).unwrap();
        let mut index = Index::default();
        let (mut known, mut keys) = (HashMap::new(), HashSet::new());
        for (issuer, subject) in people {
            let identity = Identity { subject: Claim::new(&subject), ..Identity::nameless(&issuer) };
            let Some(told_apart) = identity.subject.as_ref().map(|claim| claim.as_str().to_owned()) else {
                continue;
            };
            let id = SessionId::random(Instance::random().unwrap()).unwrap();
            prop_assert!(keys.insert(id.key()), "a key came twice");
            let session = Arc::new(Session {
                provider: "op".into(),
                identity,
                tokens: tokens(),
                opened_at: Timestamp::default(),
                ends_at: Timestamp::MAX,
                last_used: AtomicU64::new(0),
                ended: AtomicBool::new(false),
            });
            // With a place for one, everybody pushes out themselves alone.
            let pushed = index.insert(id.key(), &session, Timestamp::MAX, 1);
            let before = known.insert((issuer, told_apart), id.key());
            prop_assert_eq!(pushed, Vec::from_iter(before));
        }
    }
}
