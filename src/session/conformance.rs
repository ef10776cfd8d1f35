//! Tests of the behavior that all stores have in common. Every test runs for each kind of store and
//! replica. A replica is a `Sessions` value, which caches the sessions of a store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use super::fixture::{Fixture, NOW, clock, found, live, login, open, session, tokens, user};
use super::*;
use crate::clock::Clock;
use crate::identity::Claim;
use crate::token::Lifetime;

#[tokio::test]
async fn an_id_finds_its_own_session_and_no_other() {
    for fixture in Fixture::every() {
        let sessions = fixture.start(NOW);
        let alice = open(&sessions, "alice", NOW).await;
        let bob = open(&sessions, "bob", NOW).await;
        for (id, subject) in [(&alice, "alice"), (&bob, "bob")] {
            let session = session(&sessions, id).await;
            let claim = session.identity().subject.as_ref().unwrap();
            assert_eq!(claim.as_str(), subject);
            assert_eq!(*session.key(), id.key());
            assert_eq!(
                (session.version(), session.state()),
                (0, SessionState::Live)
            );
        }
        let store_tag = alice.store_tag();
        let never = SessionId::random(store_tag).unwrap();
        assert!(matches!(
            found(&sessions, &never, NOW).await,
            Lookup::Unknown
        ));
        let other = SessionId::random(StoreTag::random().unwrap()).unwrap();
        match fixture.settings.store {
            // A shared store can contain sessions that were moved from another store.
            StoreSettings::Redis(_) => {
                let lookup = found(&sessions, &other, NOW).await;
                assert!(matches!(lookup, Lookup::Unknown));
            }
            StoreSettings::Memory | StoreSettings::Disk(_) => {
                assert!(matches!(sessions.find(&other, NOW), Lookup::OtherInstance));
            }
        }
    }
}

#[tokio::test]
async fn c_15_an_idle_session_ends_and_a_used_one_lives_until_its_absolute_deadline() {
    for fixture in Fixture::every() {
        let (sessions, clock) = (fixture.start(NOW), clock());
        let idle = open(&sessions, "idle", clock.now()).await;
        let used = open(&sessions, "used", clock.now()).await;
        for _ in 0..11 {
            clock.advance(Duration::from_secs(50));
            assert!(live(&sessions, &used, clock.now()).await);
        }
        assert!(matches!(sessions.find(&idle, clock.now()), Lookup::Expired));
        clock.advance(Duration::from_secs(50));
        assert!(matches!(sessions.find(&used, clock.now()), Lookup::Expired));
    }
}

#[tokio::test]
async fn expired_sessions_are_removed_in_small_batches() {
    for fixture in Fixture::every() {
        let (sessions, clock) = (fixture.start(NOW), clock());
        for number in 0..250 {
            open(&sessions, &number.to_string(), clock.now()).await;
        }
        let maintained = sessions.maintain(clock.now()).await.unwrap();
        assert_eq!((maintained, sessions.count()), (Maintained::Done, 250));
        clock.advance(Duration::from_secs(61));
        for (left, what) in [
            (150, Maintained::More),
            (50, Maintained::More),
            (0, Maintained::Done),
        ] {
            assert_eq!(sessions.maintain(clock.now()).await.unwrap(), what);
            assert_eq!(sessions.count(), left);
        }
    }
}

#[tokio::test]
async fn a_session_in_use_is_not_removed() {
    for fixture in Fixture::every() {
        let (sessions, clock) = (fixture.start(NOW), clock());
        let id = open(&sessions, "alice", clock.now()).await;
        for _ in 0..3 {
            clock.advance(Duration::from_secs(40));
            assert!(live(&sessions, &id, clock.now()).await);
            let maintained = sessions.maintain(clock.now()).await.unwrap();
            assert_eq!(maintained, Maintained::Done);
        }
    }
}

#[tokio::test]
async fn an_end_is_also_seen_at_once_in_values_that_are_held() {
    for fixture in Fixture::every() {
        let sessions = fixture.start(NOW);
        let id = open(&sessions, "alice", NOW).await;
        let held = session(&sessions, &id).await;
        sessions.end(&id.key(), EndReason::SignedOut).await.unwrap();
        assert!(!live(&sessions, &id, NOW).await);
        assert_eq!(held.state(), SessionState::Ended);
        sessions.end(&id.key(), EndReason::SignedOut).await.unwrap();
        assert_eq!(sessions.count(), 0);
    }
}

#[tokio::test]
async fn d_23_one_persons_logins_push_out_only_their_own_oldest() {
    for fixture in Fixture::every() {
        let (sessions, clock) = (fixture.start(NOW), clock());
        let bob = open(&sessions, "bob", clock.now()).await;
        let mut alices = Vec::new();
        for _ in 0..50 {
            clock.advance(Duration::from_millis(1));
            alices.push(open(&sessions, "alice", clock.now()).await);
        }
        let mut alive = Vec::new();
        for id in &alices {
            alive.push(live(&sessions, id, clock.now()).await);
        }
        assert!(live(&sessions, &bob, clock.now()).await);
        assert_eq!(alive.iter().filter(|alive| **alive).count(), 3);
        assert!(alive[47..].iter().all(|alive| *alive));
    }
}

#[tokio::test]
async fn d_23_logins_of_one_person_at_the_same_moment_do_not_exceed_the_bound() {
    for fixture in Fixture::every() {
        let sessions = Arc::new(fixture.start(NOW));
        let mut logins = JoinSet::new();
        for _ in 0..40 {
            let sessions = Arc::clone(&sessions);
            logins.spawn(async move { open(&sessions, "alice", NOW).await });
        }
        let ids = logins.join_all().await;
        let mut alive = 0;
        for id in &ids {
            alive += u32::from(live(&sessions, id, NOW).await);
        }
        assert_eq!((alive, sessions.count()), (3, 3));
    }
}

#[tokio::test]
async fn a_login_ends_the_session_that_the_browser_had() {
    for fixture in Fixture::every() {
        let sessions = fixture.start(NOW);
        let before = open(&sessions, "alice", NOW).await;
        let other = open(&sessions, "alice", NOW).await;
        let new = NewSession {
            replaces: vec![before.key(), before.key()],
            ..login("alice")
        };
        let after = sessions.open(new, NOW).await.unwrap();
        assert!(!live(&sessions, &before, NOW).await);
        assert!(live(&sessions, &other, NOW).await && live(&sessions, &after, NOW).await);
    }
}

#[tokio::test]
async fn a_replaced_session_has_other_tokens_and_is_the_same_session() {
    for fixture in Fixture::every() {
        let (sessions, clock) = (fixture.start(NOW), clock());
        let id = open(&sessions, "alice", clock.now()).await;
        let old = session(&sessions, &id).await;
        clock.advance(Duration::from_secs(40));
        assert!(live(&sessions, &id, clock.now()).await);
        let new = sessions.replace(&old, tokens("token-1"), None).await;
        let Ok(Replaced::Stored(new)) = new else {
            panic!("{new:?}")
        };
        assert_eq!(old.state(), SessionState::Superseded);
        assert_eq!((new.version(), new.state()), (1, SessionState::Live));
        assert_eq!(new.identity(), old.identity());
        assert_eq!(new.opened_at(), old.opened_at());
        assert_eq!(new.stored().ends_at(), old.stored().ends_at());
        let found = session(&sessions, &id).await;
        assert_eq!(found.tokens().access_token(), "token-1");
        // A refresh is not a use of the session, so the idle deadline does not change.
        clock.advance(Duration::from_secs(59));
        assert!(live(&sessions, &id, clock.now()).await);
        let renamed = Identity {
            name: Claim::new("Alice"),
            ..user("alice")
        };
        let again = sessions
            .replace(&new, tokens("token-2"), Some(renamed.clone()))
            .await;
        let Ok(Replaced::Stored(again)) = again else {
            panic!("{again:?}")
        };
        assert_eq!((again.version(), again.identity()), (2, &renamed));
        clock.advance(Duration::from_mins(1));
        assert!(!live(&sessions, &id, clock.now()).await);
    }
}

#[tokio::test]
async fn g_12_of_all_who_replace_one_version_one_is_first_and_the_others_learn_of_it() {
    for fixture in Fixture::every() {
        let sessions = Arc::new(fixture.start(NOW));
        let id = open(&sessions, "alice", NOW).await;
        let old = session(&sessions, &id).await;
        let mut tasks = JoinSet::new();
        for number in 0..50 {
            let (sessions, old) = (Arc::clone(&sessions), Arc::clone(&old));
            let tokens = tokens(&format!("token-{number}"));
            tasks.spawn(async move { sessions.replace(&old, tokens, None).await.unwrap() });
        }
        let (mut stored, mut newer) = (Vec::new(), Vec::new());
        for replaced in tasks.join_all().await {
            match replaced {
                Replaced::Stored(session) => stored.push(session),
                Replaced::Newer(session) => newer.push(session),
                Replaced::Ended => panic!("it did not end"),
            }
        }
        assert_eq!((stored.len(), newer.len()), (1, 49));
        let now = session(&sessions, &id).await;
        for session in newer.iter().chain([&now]) {
            assert_eq!(session.version(), 1);
            let (one, other) = (session.tokens(), stored[0].tokens());
            assert_eq!(one.access_token(), other.access_token());
        }
    }
}

#[tokio::test]
async fn g_12_who_has_signed_out_does_not_come_back_by_a_renewal() {
    for fixture in Fixture::every() {
        let sessions = fixture.start(NOW);
        let id = open(&sessions, "alice", NOW).await;
        let held = session(&sessions, &id).await;
        sessions.end(&id.key(), EndReason::SignedOut).await.unwrap();
        let replaced = sessions.replace(&held, tokens("token-1"), None).await;
        assert!(matches!(replaced, Ok(Replaced::Ended)));
        let ended = sessions.end_version(&held, EndReason::GrantEnded).await;
        assert!(matches!(ended, Ok(EndedVersion::Ended)));
        assert!(sessions.fetch(&id.key()).await.unwrap().is_none());
        assert!(!live(&sessions, &id, NOW).await);
    }
}

#[tokio::test]
async fn a_version_can_be_ended_only_while_it_is_current() {
    for fixture in Fixture::every() {
        let sessions = fixture.start(NOW);
        let id = open(&sessions, "alice", NOW).await;
        let first = session(&sessions, &id).await;
        let second = sessions.replace(&first, tokens("token-1"), None).await;
        assert!(matches!(second, Ok(Replaced::Stored(_))));
        let ended = sessions.end_version(&first, EndReason::GrantEnded).await;
        assert!(matches!(ended, Ok(EndedVersion::Newer(newer)) if newer.version() == 1));
        let second = session(&sessions, &id).await;
        let ended = sessions.end_version(&second, EndReason::GrantEnded).await;
        assert!(matches!(ended, Ok(EndedVersion::Ended)));
        assert!(!live(&sessions, &id, NOW).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn g_12_whatever_order_renewals_logins_and_sign_outs_come_in_the_sign_out_wins() {
    for fixture in Fixture::every() {
        let sessions = Arc::new(fixture.start(NOW));
        for _ in 0..100 {
            let id = open(&sessions, "alice", NOW).await;
            let held = session(&sessions, &id).await;
            let key = id.key();
            let (one, two, three) = (
                Arc::clone(&sessions),
                Arc::clone(&sessions),
                Arc::clone(&sessions),
            );
            let renewal = tokio::spawn(async move {
                let mut held = held;
                for number in 1..4 {
                    let tokens = tokens(&format!("token-{number}"));
                    match one.replace(&held, tokens, None).await.unwrap() {
                        Replaced::Stored(new) | Replaced::Newer(new) => held = new,
                        Replaced::Ended => break,
                    }
                }
                held
            });
            let sign_out =
                tokio::spawn(async move { two.end(&key, EndReason::SignedOut).await.unwrap() });
            let login = tokio::spawn(async move {
                let new = NewSession {
                    replaces: vec![key],
                    ..login("bob")
                };
                three.open(new, NOW).await.unwrap()
            });
            let (held, _ended, bob) = (
                renewal.await.unwrap(),
                sign_out.await.unwrap(),
                login.await.unwrap(),
            );
            assert!(!live(&sessions, &id, NOW).await);
            assert_eq!(held.state(), SessionState::Ended);
            assert!(live(&sessions, &bob, NOW).await);
            sessions
                .end(&bob.key(), EndReason::SignedOut)
                .await
                .unwrap();
        }
        assert_eq!(sessions.count(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn g_12_a_use_at_the_moment_of_the_sign_out_brings_nothing_back() {
    for fixture in Fixture::every() {
        let (sessions, clock) = (Arc::new(fixture.start(NOW)), clock());
        for _ in 0..50 {
            let id = open(&sessions, "alice", clock.now()).await;
            let key = id.key();
            let ended = Arc::new(AtomicBool::new(false));
            let (user, until, time) = (Arc::clone(&sessions), Arc::clone(&ended), clock.clone());
            let using = tokio::task::spawn_blocking(move || {
                let mut late = 0;
                loop {
                    let over = until.load(Ordering::Acquire);
                    time.advance(Duration::from_millis(1));
                    let lookup = user.find(&id, time.now());
                    late += u32::from(over && matches!(lookup, Lookup::Live(_)));
                    if over {
                        return (late, id);
                    }
                }
            });
            sessions.end(&key, EndReason::SignedOut).await.unwrap();
            ended.store(true, Ordering::Release);
            sessions.maintain(clock.now()).await.unwrap();
            let (late, id) = using.await.unwrap();
            assert_eq!(late, 0);
            assert!(!live(&sessions, &id, clock.now()).await);
        }
        if fixture.is_durable() {
            sessions.close().await.unwrap();
            assert_eq!(fixture.start(clock.now()).count(), 0);
        }
    }
}

#[tokio::test]
async fn g_15_what_was_asked_happens_even_if_nobody_waits_for_it() {
    for fixture in Fixture::every() {
        let sessions = fixture.start(NOW);
        let id = open(&sessions, "alice", NOW).await;
        let held = session(&sessions, &id).await;
        {
            let mut replacing = Box::pin(sessions.replace(&held, tokens("token-1"), None));
            // The test polls the future of `replace` one time and then drops the future.
            std::future::poll_fn(|context| {
                std::task::Poll::Ready(replacing.as_mut().poll(context).is_ready())
            })
            .await;
        }
        // The store executes commands in order, so the session is already replaced when this read
        // returns.
        let session = sessions.fetch(&id.key()).await.unwrap().unwrap();
        assert_eq!(session.tokens().access_token(), "token-1");
    }
}

#[tokio::test]
async fn a_refresh_that_is_due_is_claimed_by_one_caller() {
    for fixture in Fixture::every() {
        let sessions = fixture.start(NOW);
        let at = |seconds| NOW.plus(Duration::from_secs(seconds));
        let life = Lifetime {
            refresh_at: Some(at(10)),
            ..Lifetime::default()
        };
        let tokens = TokenSet::new("token", Some("refresh"), life).unwrap();
        let new = NewSession {
            tokens,
            ..login("alice")
        };
        let id = sessions.open(new, NOW).await.unwrap();
        let session = session(&sessions, &id).await;
        assert!(!session.is_due(at(9)) && !session.claim_refresh(at(9), at(30)));
        assert!(session.is_due(at(10)));
        let claims: u32 = std::thread::scope(|scope| {
            let claim = || u32::from(session.claim_refresh(at(10), at(30)));
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(claim)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(claims, 1);
        assert!(!session.is_due(at(29)) && session.is_due(at(30)));
        session.postpone_refresh(at(50));
        assert!(!session.is_due(at(49)) && session.claim_refresh(at(50), at(60)));
    }
    // A token without an expiry never needs a refresh.
    let sessions = Fixture::memory().start(NOW);
    let id = open(&sessions, "alice", NOW).await;
    assert!(
        !session(&sessions, &id)
            .await
            .is_due(Timestamp::from_millis(u64::MAX - 1))
    );
}

#[tokio::test]
async fn a_full_store_in_memory_ends_the_least_recently_used_sessions() {
    let mut fixture = Fixture::memory();
    fixture.settings.capacity = 100 * 1024;
    let sessions = fixture.start(NOW);
    let mut last = Vec::new();
    let mut first = None;
    for number in 0..1000 {
        last.push(open(&sessions, &number.to_string(), NOW).await);
        if number == 0 {
            first = Some(session(&sessions, &last[0]).await);
        }
        sessions.maintain(NOW).await.unwrap();
        assert!(
            live(&sessions, last.last().unwrap(), NOW).await,
            "login {number} was lost"
        );
    }
    assert!(!live(&sessions, &last[0], NOW).await);
    let first = first.unwrap();
    assert_eq!(first.state(), SessionState::Ended);
    let replaced = sessions.replace(&first, tokens("token-1"), None).await;
    assert!(matches!(replaced, Ok(Replaced::Ended)));
    assert!(sessions.pushed_out() > 500);
    assert_eq!(sessions.ended_by_capacity(), sessions.pushed_out());
    assert_eq!(sessions.count(), 1000 - sessions.pushed_out());
}

#[tokio::test]
async fn x_16_a_session_lasts_as_long_as_it_may_whatever_year_it_is() {
    let years = [
        0,
        (1 << 31) - 10,
        1 << 31,
        (1 << 32) - 10,
        1 << 32,
        1 << 40_u64,
    ];
    for fixture in Fixture::every() {
        for seconds in years {
            let clock = Clock::manual(Timestamp::from_millis(seconds * 1000));
            let sessions = fixture.start(clock.now());
            let id = open(&sessions, "alice", clock.now()).await;
            clock.advance(Duration::from_secs(59));
            assert!(live(&sessions, &id, clock.now()).await, "{seconds}");
            let maintained = sessions.maintain(clock.now()).await.unwrap();
            assert_eq!(maintained, Maintained::Done);
            clock.advance(Duration::from_mins(1));
            let lookup = sessions.find(&id, clock.now());
            assert!(matches!(lookup, Lookup::Expired), "{seconds}");
            sessions.maintain(clock.now()).await.unwrap();
            let lookup = found(&sessions, &id, clock.now()).await;
            assert!(matches!(lookup, Lookup::Unknown), "{seconds}");
            sessions.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn x_16_a_clock_that_is_set_ends_sessions_rather_than_making_them_last() {
    for fixture in Fixture::every() {
        let year_2026 = Timestamp::from_millis(1_767_225_600_000);
        let sessions = fixture.start(Timestamp::default());
        // On a machine without a clock battery, the clock shows the year 1970 until the machine
        // learns the current time.
        let early = open(&sessions, "early", Timestamp::default()).await;
        assert!(matches!(sessions.find(&early, year_2026), Lookup::Expired));
        // When the clock is set back, the deadlines of the session do not change.
        let late = open(&sessions, "late", year_2026).await;
        assert!(live(&sessions, &late, Timestamp::default()).await);
        let minute = Duration::from_mins(1);
        assert!(!live(&sessions, &late, year_2026.plus(minute)).await);
        let never = open(&sessions, "never", Timestamp::MAX).await;
        assert!(!live(&sessions, &never, Timestamp::MAX).await);
    }
}
