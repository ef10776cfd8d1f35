//! Tests of `Keeper` without a thread: which sessions a `Keeper` has in memory, and which commands
//! a `Keeper` executes in one batch.

use std::time::Duration;

use tokio::sync::oneshot;

use super::*;
use crate::session::fixture::{Fixture, NOW, open, tokens, user};
use crate::session::index::{Rank, UserHash};
use crate::session::record::Contents;
use crate::session::store::{Opened, Opening, Which};

#[tokio::test]
async fn a_start_keeps_no_more_sessions_in_memory_than_the_cache_has_room_for() {
    let fixture = Fixture::disk();
    let sessions = fixture.start(NOW);
    for number in 0..1000 {
        open(&sessions, &number.to_string(), NOW).await;
    }
    sessions.close().await.unwrap();
    let disk = fixture.open_disk();
    let settings = KeeperSettings {
        capacity: 20 * 1024,
        ..fixture.keeper_settings()
    };
    let (mut keeper, _handle) = Keeper::new(Backend::Disk(Box::new(disk)), settings);
    keeper.restore(NOW).unwrap();
    assert_eq!(keeper.index.len(), 1000);
    keeper.process_evictions();
    let (held, _) = keeper
        .index
        .walk(1000, |stored| (!stored.contents().is_empty()).then_some(()));
    assert!((1..50).contains(&held.len()), "{}", held.len());
}

#[tokio::test]
async fn a_stream_of_reads_does_not_delay_a_commit() {
    let (mut keeper, handle) = Keeper::new(Backend::Memory, Fixture::memory().keeper_settings());
    let key = SessionKey::from_bytes([1; SessionKey::LENGTH]);
    let mut answers = Vec::new();
    for _ in 0..1000 {
        let (answer, answered) = oneshot::channel();
        answers.push(answered);
        let get = Command::Get { key, answer };
        handle.commands.try_send(get).unwrap();
    }
    let (answer, _answered) = oneshot::channel();
    let why = EndReason::SignedOut;
    let which = Which::Key(key);
    let end = Command::End { which, why, answer };
    let left = keeper.gather(end, &mut Batch::default());
    assert!(matches!(left, Some(Command::Get { .. })));
    let mut answers = answers.iter_mut();
    assert_eq!(
        answers.position(|answer| answer.try_recv().is_err()),
        Some(255)
    );
}

/// Returns a session of Alice whose lifetime ends after `seconds`.
fn of_alice(seconds: u8) -> Arc<Stored> {
    let identity = user("alice");
    let rank = Rank {
        user: UserHash::of(&identity),
        ends_at: NOW.plus(Duration::from_secs(seconds.into())),
        key: SessionKey::from_bytes([seconds; SessionKey::LENGTH]),
    };
    let contents = Contents {
        version: 0,
        provider: "op".into(),
        identity,
        tokens: tokens("token"),
        opened_at: NOW,
        sid: None,
        device: None,
        newer: Box::default(),
    };
    Arc::new(Stored::new(rank, NOW, &contents))
}

#[test]
fn a_session_that_ends_in_the_same_commit_makes_room_for_another() {
    let (mut keeper, handle) = Keeper::new(Backend::Memory, Fixture::memory().keeper_settings());
    let sessions = [1, 2, 3].map(of_alice);
    for session in &sessions[..2] {
        keeper.remember((session, None), FIRST_REPLICA);
    }
    let (answer, mut opened) = oneshot::channel();
    let open = Command::Open {
        session: Arc::clone(&sessions[2]),
        opening: Opening {
            registration: [0; 32],
            replaces: Vec::new(),
            per_person: 2,
            provider_session: None,
            named: Vec::new(),
            begun_at: NOW,
        },
        replica: FIRST_REPLICA,
        answer,
    };
    handle.commands.try_send(open).unwrap();
    let (answer, _ended) = oneshot::channel();
    let end = Command::End {
        which: Which::Key(*sessions[1].key()),
        why: EndReason::SignedOut,
        answer,
    };
    let mut batch = Batch::default();
    assert!(keeper.gather(end, &mut batch).is_none());
    keeper.settle(batch);
    assert!(matches!(opened.try_recv(), Ok(Ok(Opened::Stored))));
    let states = sessions.map(|session| session.state());
    let expected = [SessionState::Live, SessionState::Ended, SessionState::Live];
    assert_eq!(states, expected);
}
