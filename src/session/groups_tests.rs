//! Tests of groups of sessions: their ends, their lists, and the logins that began before an end.

use tokio::sync::oneshot;

use super::*;
use crate::session::backend::Backend;
use crate::session::command::{Batch, Command};
use crate::session::disk::Disk;
use crate::session::disk::tests::fill;
use crate::session::fixture::{Fixture, NOW, found, live, login, open, session, tokens, user};
use crate::session::index::Rank;
use crate::session::keeper::{FIRST_REPLICA, Keeper};
use crate::session::store::{Opened, Replacement};
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
    let (mut keeper, key, _fixture) = keeper_with_full_disk().await;
    let (command, mut answered) = order(1);
    assert!(settle(&mut keeper, vec![command]).is_none());
    let failed = answered.try_recv().unwrap();
    assert!(matches!(failed, Err(StoreError::NotCommitted(_))));
    assert_eq!(keeper.keys_of(&PROVIDER_SESSION.groups()[0]), [key]);
    disk_of(&mut keeper).end_pauses();
    let (command, mut answered) = order(1);
    assert!(settle(&mut keeper, vec![command]).is_none());
    let ended = answered.try_recv().unwrap().unwrap();
    assert_eq!(ended, EndedAll::Ended(vec![key]));
}

type OpenAnswer = oneshot::Receiver<Result<Opened, StoreError>>;

/// The login of a user whose session at the provider is `sid`. The login began at [`NOW`].
fn login_with(number: u8, sid: &str) -> (Command, OpenAnswer) {
    let identity = user(&number.to_string());
    let rank = Rank {
        user: UserHash::of(&identity),
        ends_at: after(600),
        key: SessionKey::from_bytes([number; SessionKey::LENGTH]),
    };
    let contents = Contents {
        version: 0,
        provider: "op".into(),
        identity,
        tokens: tokens("token"),
        opened_at: NOW,
        sid: Some(sid.into()),
        device: None,
        newer: Box::default(),
    };
    let (answer, answered) = oneshot::channel();
    let open = Command::Open {
        session: Arc::new(Stored::new(rank, NOW, &contents)),
        opening: Opening {
            registration: [0; 32],
            replaces: Vec::new(),
            per_person: 3,
            provider_session: ProviderSessionHash::of_contents(&contents),
            named: Vec::new(),
            begun_at: NOW,
        },
        replica: FIRST_REPLICA,
        answer,
    };
    (open, answered)
}

#[tokio::test]
async fn logouts_and_logins_of_different_groups_are_committed_together() {
    let (mut keeper, _handle) = Keeper::new(Backend::Memory, Fixture::memory().keeper_settings());
    let (mut commands, mut opened, mut ended) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..50 {
        let (command, answered) = login_with(number, "sid-2");
        commands.push(command);
        opened.push(answered);
        let (command, answered) = order(number);
        commands.push(command);
        ended.push(answered);
    }
    assert!(settle(&mut keeper, commands).is_none());
    for mut answered in opened {
        assert!(matches!(answered.try_recv(), Ok(Ok(Opened::Stored))));
    }
    for mut answered in ended {
        let ended = answered.try_recv().unwrap().unwrap();
        assert_eq!(ended, EndedAll::Ended(Vec::new()));
    }
}

#[tokio::test]
async fn a_logout_and_a_login_of_the_same_group_are_not_committed_together() {
    let settings = || Fixture::memory().keeper_settings();
    // The session that opens first also ends.
    let (mut keeper, _handle) = Keeper::new(Backend::Memory, settings());
    let ((login, mut opened), (logout, mut ended)) = (login_with(1, "sid-1"), order(1));
    let left = settle(&mut keeper, vec![login, logout]).unwrap();
    assert!(matches!(opened.try_recv(), Ok(Ok(Opened::Stored))));
    assert!(settle(&mut keeper, vec![left]).is_none());
    let ended = ended.try_recv().unwrap().unwrap();
    assert!(matches!(ended, EndedAll::Ended(keys) if keys.len() == 1));
    // After the logout, a login that began before opens no session.
    let (mut keeper, _handle) = Keeper::new(Backend::Memory, settings());
    let ((logout, _ended), (login, mut opened)) = (order(1), login_with(1, "sid-1"));
    let left = settle(&mut keeper, vec![logout, login]).unwrap();
    assert!(settle(&mut keeper, vec![left]).is_none());
    assert!(matches!(opened.try_recv(), Ok(Ok(Opened::EndedMeanwhile))));
}

#[tokio::test]
async fn a_session_that_is_refreshed_in_the_same_moment_ends_with_its_group() {
    let (mut keeper, _handle) = Keeper::new(Backend::Memory, Fixture::memory().keeper_settings());
    let (login, _opened) = login_with(1, "sid-1");
    let Command::Open { session, .. } = &login else {
        panic!("the command is no login")
    };
    let (answer, mut replaced) = oneshot::channel();
    let refresh = Command::Replace {
        version: 0,
        next: Arc::new(session.copy()),
        replica: FIRST_REPLICA,
        answer,
    };
    assert!(settle(&mut keeper, vec![login]).is_none());
    let (logout, mut ended) = order(1);
    let left = settle(&mut keeper, vec![refresh, logout]).unwrap();
    assert!(matches!(replaced.try_recv(), Ok(Ok(Replacement::Stored))));
    assert!(settle(&mut keeper, vec![left]).is_none());
    let ended = ended.try_recv().unwrap().unwrap();
    assert!(matches!(ended, EndedAll::Ended(keys) if keys.len() == 1));
}

/// A keeper whose file contains one session of the provider's session `sid-1`, and the key of the
/// session. The next commit fails.
async fn keeper_with_full_disk() -> (Keeper, SessionKey, Fixture) {
    let fixture = Fixture::disk();
    let sessions = fixture.start(NOW);
    let id = open_with(&sessions, "alice", "sid-1").await;
    sessions.close().await.unwrap();
    let disk = fixture.open_disk();
    let settings = fixture.keeper_settings();
    let (mut keeper, _handle) = Keeper::new(Backend::Disk(Box::new(disk)), settings);
    keeper.restore(NOW).unwrap();
    fill(disk_of(&mut keeper));
    (keeper, id.key(), fixture)
}

fn disk_of(keeper: &mut Keeper) -> &mut Disk {
    let Backend::Disk(disk) = &mut keeper.backend else {
        panic!("the store has no file")
    };
    disk
}

#[tokio::test]
async fn b_19_a_full_disk_that_refuses_a_login_still_ends_sessions_in_the_same_moment() {
    let (mut keeper, key, _fixture) = keeper_with_full_disk().await;
    let ((login, mut opened), (logout, mut ended)) = (login_with(1, "sid-2"), order(1));
    assert!(settle(&mut keeper, vec![login, logout]).is_none());
    let failed = opened.try_recv().unwrap();
    assert!(matches!(failed, Err(StoreError::NotCommitted(_))));
    let ended = ended.try_recv().unwrap().unwrap();
    assert_eq!(ended, EndedAll::Ended(vec![key]));
    assert_eq!(keeper.keys_of(&Group::All), []);
    assert!(keeper.backend.load(&key).unwrap().is_none());
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
