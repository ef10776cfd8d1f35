//! Tests of the keeper without its thread: the sessions that it keeps in memory, and the commands
//! of a batch.

use tokio::sync::oneshot;

use super::*;
use crate::session::disk::Disk;
use crate::session::kit::{Kit, NOW, open};
use crate::session::store::Which;

#[tokio::test]
async fn a_start_keeps_no_more_sessions_in_memory_than_the_cache_has_room_for() {
    let kit = Kit::disk();
    let sessions = kit.start(NOW);
    for number in 0..1000 {
        open(&sessions, &number.to_string(), NOW).await;
    }
    sessions.close().await.unwrap();
    let disk = Disk::open(&kit.file(), kit.ring().into()).unwrap();
    let settings = KeeperSettings {
        capacity: 20 * 1024,
        ..kit.keeper_settings()
    };
    let (mut keeper, _handle) = Keeper::new(Backend::Disk(Box::new(disk)), settings);
    keeper.restore(NOW).unwrap();
    assert_eq!(keeper.index.len(), 1000);
    keeper.hear_of_evictions();
    let (held, _) = keeper
        .index
        .walk(1000, |stored| (!stored.contents().is_empty()).then_some(()));
    assert!((1..50).contains(&held.len()), "{}", held.len());
}

#[tokio::test]
async fn a_stream_of_reads_does_not_delay_a_commit() {
    let (mut keeper, handle) = Keeper::new(Backend::Memory, Kit::memory().keeper_settings());
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
