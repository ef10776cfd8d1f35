//! Tests of groups of sessions: their ends, their lists, and the logins that began before an end.

use tokio::sync::oneshot;

use super::*;
use crate::session::backend::Backend;
use crate::session::command::{Batch, Command};
use crate::session::disk::Disk;
use crate::session::disk::tests::fill;
use crate::session::fixture::{Fixture, NOW, found, live, login, open, session};
use crate::session::keeper::Keeper;
use crate::session::{Lookup, NewSession, OpenError, SessionId, SessionState};

fn after(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

fn notice(number: u8) -> LogoutNotice {
    LogoutNotice {
        mark: [number; 32],
        until: after(3600),
    }
}

const PROVIDER_SESSION: SessionsOf<'static> = SessionsOf::ProviderSession {
    issuer: "op",
    sid: "sid-1",
    subject: None,
};

const ALICE: SessionsOf<'static> = SessionsOf::User {
    issuer: "op",
    subject: "alice",
};

async fn open_with(sessions: &Sessions, subject: &str, sid: &str) -> SessionId {
    let new = NewSession {
        sid: Some(sid.into()),
        ..login(subject)
    };
    sessions.open(new, NOW).await.unwrap()
}

/// Ends a group because of a notice, and returns the number of ended sessions. Returns `None` if
/// the notice was repeated.
async fn end(sessions: &Sessions, of: SessionsOf<'_>, notice: LogoutNotice) -> Option<usize> {
    let why = EndReason::SignedOutAtProvider;
    let ended = sessions.end_all(of, why, (Some(notice), after(1))).await;
    match ended.unwrap() {
        EndedAll::Ended(keys) => Some(keys.len()),
        EndedAll::Repeated => None,
    }
}

#[tokio::test]
async fn b_02_one_call_ends_a_thousand_sessions_of_a_person_and_no_other() {
    for mut fixture in Fixture::every() {
        fixture.settings.per_person = 2000;
        let sessions = fixture.start(NOW);
        let bystander = open(&sessions, "bob", NOW).await;
        let mut ids = Vec::new();
        for _ in 0..1000 {
            ids.push(open(&sessions, "alice", NOW).await);
        }
        let held = session(&sessions, &ids[999]).await;
        assert_eq!(sessions.keys_of(ALICE).await.unwrap().len(), 1000);
        assert_eq!(end(&sessions, ALICE, notice(1)).await, Some(1000));
        assert_ne!(held.state(), SessionState::Live);
        for id in &ids {
            assert!(!live(&sessions, id, NOW).await);
        }
        assert!(live(&sessions, &bystander, NOW).await);
        assert_eq!(sessions.count(), 1);
        assert!(sessions.keys_of(ALICE).await.unwrap().is_empty());
        if fixture.is_durable() {
            sessions.close().await.unwrap();
            assert_eq!(fixture.start(NOW).count(), 1);
        }
    }
}

#[tokio::test]
async fn b_01_a_session_of_the_provider_ends_with_all_its_sessions_here() {
    for fixture in Fixture::every() {
        let mut sessions = fixture.start(NOW);
        let first = open_with(&sessions, "alice", "sid-1").await;
        let second = open_with(&sessions, "alice", "sid-1").await;
        let other = open_with(&sessions, "alice", "sid-2").await;
        let mut elsewhere = login("alice");
        elsewhere.identity.issuer = "another".into();
        elsewhere.sid = Some("sid-1".into());
        let elsewhere = sessions.open(elsewhere, NOW).await.unwrap();
        let without = open(&sessions, "bob", NOW).await;
        if fixture.is_durable() {
            // The index is restored from the file.
            sessions.close().await.unwrap();
            sessions = fixture.start(NOW);
        }
        let listed = sessions.list(PROVIDER_SESSION).await.unwrap();
        assert_eq!(listed.len(), 2);
        assert!(listed.iter().all(|session| session.sid() == Some("sid-1")));
        assert_eq!(end(&sessions, PROVIDER_SESSION, notice(1)).await, Some(2));
        for id in [&first, &second] {
            assert!(!live(&sessions, id, NOW).await);
        }
        for id in [&other, &elsewhere, &without] {
            assert!(live(&sessions, id, NOW).await);
        }
        assert_eq!(end(&sessions, PROVIDER_SESSION, notice(2)).await, Some(0));
    }
}

#[tokio::test]
async fn b_01_the_sessions_of_the_user_without_a_sid_also_end() {
    for fixture in Fixture::every() {
        let mut sessions = fixture.start(NOW);
        let named = open_with(&sessions, "alice", "sid-1").await;
        let other = open_with(&sessions, "alice", "sid-2").await;
        // An older version of the gateway wrote records without a `sid`.
        let without = open(&sessions, "alice", NOW).await;
        let bystander = open(&sessions, "bob", NOW).await;
        if fixture.is_durable() {
            sessions.close().await.unwrap();
            sessions = fixture.start(NOW);
        }
        let of = SessionsOf::ProviderSession {
            issuer: "op",
            sid: "sid-1",
            subject: Some("alice"),
        };
        assert_eq!(sessions.keys_of(of).await.unwrap().len(), 2);
        assert_eq!(end(&sessions, of, notice(1)).await, Some(2));
        for id in [&named, &without] {
            assert!(!live(&sessions, id, NOW).await);
        }
        for id in [&other, &bystander] {
            assert!(live(&sessions, id, NOW).await);
        }
        let late = sessions.open(login("alice"), after(2)).await;
        assert!(matches!(late, Err(OpenError::EndedMeanwhile)));
        open(&sessions, "bob", NOW).await;
        open_with(&sessions, "alice", "sid-3").await;
    }
}

#[tokio::test]
async fn b_11_a_notice_has_an_effect_one_time() {
    for fixture in Fixture::every() {
        let sessions = fixture.start(NOW);
        open(&sessions, "alice", NOW).await;
        assert_eq!(end(&sessions, ALICE, notice(1)).await, Some(1));
        let new = NewSession {
            begun_at: after(2),
            ..login("alice")
        };
        let id = sessions.open(new, after(2)).await.unwrap();
        assert_eq!(end(&sessions, ALICE, notice(1)).await, None);
        assert!(live(&sessions, &id, after(2)).await);
        assert_eq!(end(&sessions, ALICE, notice(2)).await, Some(1));
    }
}

#[tokio::test]
async fn a_login_that_began_before_the_end_of_its_group_opens_no_session() {
    for fixture in Fixture::every() {
        let sessions = fixture.start(NOW);
        let new = |subject, sid: &str, begun_at| NewSession {
            sid: Some(sid.into()),
            begun_at,
            ..login(subject)
        };
        // Nobody was signed in.
        assert_eq!(end(&sessions, PROVIDER_SESSION, notice(1)).await, Some(0));
        let late = sessions.open(new("alice", "sid-1", NOW), after(2)).await;
        assert!(matches!(late, Err(OpenError::EndedMeanwhile)));
        // A provider may use the same `sid` again.
        let login_after = sessions.open(new("alice", "sid-1", after(1)), after(2));
        login_after.await.unwrap();
        let other = sessions.open(new("alice", "sid-2", NOW), after(2));
        other.await.unwrap();
        assert_eq!(end(&sessions, ALICE, notice(2)).await, Some(2));
        let late = sessions.open(new("alice", "sid-3", NOW), after(2)).await;
        assert!(matches!(late, Err(OpenError::EndedMeanwhile)));
        sessions
            .open(new("bob", "sid-3", NOW), after(2))
            .await
            .unwrap();
        let why = EndReason::Revoked;
        let all = sessions.end_all(SessionsOf::Everyone, why, (None, after(1)));
        assert!(matches!(all.await, Ok(EndedAll::Ended(keys)) if keys.len() == 1));
        let late = sessions.open(new("carol", "sid-4", NOW), after(2)).await;
        assert!(matches!(late, Err(OpenError::EndedMeanwhile)));
    }
}

#[tokio::test]
async fn a_list_of_keys_ends_without_an_effect_on_logins() {
    for fixture in Fixture::every() {
        let sessions = fixture.start(NOW);
        let (alice, bob) = (
            open(&sessions, "alice", NOW).await,
            open(&sessions, "bob", NOW).await,
        );
        let never = SessionId::random(alice.store_tag()).unwrap().key();
        let keys = [alice.key(), never, alice.key()];
        let why = EndReason::Revoked;
        let ended = sessions.end_all(SessionsOf::Keys(&keys), why, (None, after(1)));
        assert_eq!(ended.await.unwrap(), EndedAll::Ended(vec![alice.key()]));
        assert!(matches!(
            found(&sessions, &alice, NOW).await,
            Lookup::Unknown
        ));
        assert!(live(&sessions, &bob, NOW).await);
        open(&sessions, "alice", NOW).await;
        let people = sessions.list(SessionsOf::Everyone).await.unwrap();
        assert_eq!(people.len(), 2);
    }
}

#[tokio::test]
async fn a_list_does_not_count_as_a_use() {
    for fixture in Fixture::every() {
        let sessions = fixture.start(NOW);
        let id = open(&sessions, "alice", NOW).await;
        let listed = sessions.list(ALICE).await.unwrap();
        assert_eq!(*listed[0].key(), id.key());
        assert!(matches!(
            found(&sessions, &id, after(60)).await,
            Lookup::Expired
        ));
    }
}

/// Executes commands in one batch, and returns the first command that has to wait.
fn settle(keeper: &mut Keeper, commands: Vec<Command>) -> Option<Command> {
    let mut batch = Batch::default();
    let mut left = None;
    for command in commands {
        assert!(left.is_none(), "two commands have to wait");
        left = keeper.gather(command, &mut batch);
    }
    keeper.settle(batch);
    left
}

fn order(number: u8) -> (Command, oneshot::Receiver<Result<EndedAll, StoreError>>) {
    let (answer, answered) = oneshot::channel();
    let order = EndAll {
        groups: PROVIDER_SESSION.groups(),
        why: EndReason::SignedOutAtProvider,
        now: after(1),
        notice: Some(notice(number)),
        uses_notice: true,
    };
    (Command::EndAll { order, answer }, answered)
}

#[tokio::test]
async fn b_18_many_notices_are_committed_together_and_each_has_one_effect() {
    let (mut keeper, _handle) = Keeper::new(Backend::Memory, Fixture::memory().keeper_settings());
    let mut answers = Vec::new();
    let mut commands = Vec::new();
    for number in 0..200 {
        let (command, answered) = order(number);
        commands.push(command);
        answers.push(answered);
    }
    assert!(settle(&mut keeper, commands).is_none());
    for mut answered in answers {
        let ended = answered.try_recv().unwrap().unwrap();
        assert_eq!(ended, EndedAll::Ended(Vec::new()));
    }
    // The same notice twice: the second order waits for the commit of the first order.
    let ((first, _first), (second, mut second_answer)) = (order(250), order(250));
    let left = settle(&mut keeper, vec![first, second]).unwrap();
    assert!(settle(&mut keeper, vec![left]).is_none());
    let repeated = second_answer.try_recv().unwrap().unwrap();
    assert_eq!(repeated, EndedAll::Repeated);
}

#[tokio::test]
async fn b_19_after_a_failed_commit_the_same_notice_still_has_its_effect() {
    let fixture = Fixture::disk();
    let sessions = fixture.start(NOW);
    let id = open_with(&sessions, "alice", "sid-1").await;
    sessions.close().await.unwrap();
    let disk = Disk::open(&fixture.file(), fixture.ring().into()).unwrap();
    let settings = fixture.keeper_settings();
    let (mut keeper, _handle) = Keeper::new(Backend::Disk(Box::new(disk)), settings);
    keeper.restore(NOW).unwrap();
    let Backend::Disk(disk) = &mut keeper.backend else {
        panic!("the store has no file")
    };
    fill(disk);
    let (command, mut answered) = order(1);
    assert!(settle(&mut keeper, vec![command]).is_none());
    let failed = answered.try_recv().unwrap();
    assert!(matches!(failed, Err(StoreError::NotCommitted(_))));
    assert_eq!(keeper.keys_of(&PROVIDER_SESSION.groups()[0]), [id.key()]);
    let Backend::Disk(disk) = &mut keeper.backend else {
        panic!("the store has no file")
    };
    disk.end_pauses();
    let (command, mut answered) = order(1);
    assert!(settle(&mut keeper, vec![command]).is_none());
    let ended = answered.try_recv().unwrap().unwrap();
    assert_eq!(ended, EndedAll::Ended(vec![id.key()]));
}

#[test]
fn the_memory_of_ended_groups_is_limited_in_time_and_number() {
    let mut ended = EndedGroups::default();
    let group = |number: usize| {
        let sid = number.to_string();
        SessionsOf::ProviderSession {
            issuer: "op",
            sid: &sid,
            subject: None,
        }
        .groups()
        .remove(0)
    };
    let order = |group, now| EndAll {
        groups: vec![group],
        why: EndReason::SignedOutAtProvider,
        now,
        notice: None,
        uses_notice: true,
    };
    for number in 0..MAX_REMEMBERED + 5 {
        ended.note(order(group(number), NOW));
    }
    assert_eq!(ended.ended_at.len(), MAX_REMEMBERED);
    assert!(!ended.ended_at.contains_key(&group(4)));
    assert!(ended.ended_at.contains_key(&group(5)));
    // The second end of a group replaces the time of the first end.
    ended.note(order(group(5), after(1)));
    ended.note(order(group(6), NOW.plus(REMEMBERED)));
    assert_eq!(ended.ended_at.len(), 2);
    assert_eq!(ended.ended_at.get(&group(5)), Some(&after(1)));
}
