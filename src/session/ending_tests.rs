//! Tests that a registry gets exactly one message, with the reason, for each session that ends, and
//! no other message.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::task::LocalSet;

use super::*;
use crate::session::backend::Backend;
use crate::session::disk::tests::fill;
use crate::session::fixture::{Fixture, NOW, found, live, login, open, session, tokens};
use crate::session::keeper::Keeper;
use crate::session::{Lookup, NewSession, Replaced, SessionId};

/// An [`EndRegistry`] whose task is not started. The test does the work of the task: the test
/// receives the messages and starts the sweeps.
struct Worker {
    registry: EndRegistry,
    ends: mpsc::UnboundedReceiver<End>,
}

impl Worker {
    fn of(sessions: &Arc<Sessions>) -> Self {
        let (registry, ends) = EndRegistry::new(Arc::clone(sessions));
        Self { registry, ends }
    }

    fn watch(&self, session: &Session) -> EndWatch {
        self.registry.watch(session).unwrap()
    }

    /// Receives all messages about ended sessions, passes the messages to the registry, and returns
    /// the number of messages.
    fn take_ends(&mut self) -> usize {
        let mut count = 0;
        while let Ok((key, why)) = self.ends.try_recv() {
            self.registry.0.end(&key, why);
            count = usize::saturating_add(count, 1);
        }
        count
    }

    async fn sweep(&self, now: Timestamp) {
        self.registry.0.sweep(now).await;
    }

    fn count(&self) -> usize {
        self.registry.0.entries.borrow().len()
    }

    /// Returns true if the registry has the current value of a session. The next sweep does not
    /// look up a session whose current value is in the registry.
    fn has_current(&self, sessions: &Sessions, id: &SessionId) -> bool {
        let current = sessions.cache.get(&id.key()).unwrap();
        let entries = self.registry.0.entries.borrow();
        Arc::ptr_eq(&entries[&id.key()].stored, &current)
    }
}

/// Returns the reason for the end of the session, or `None` if the session has not ended.
fn reason(watch: &EndWatch) -> Option<EndReason> {
    match pin!(watch.ended()).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(why) => Some(why),
        Poll::Pending => None,
    }
}

fn after(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

#[tokio::test]
async fn every_worker_is_told_of_every_end_with_its_reason() {
    for mut fixture in Fixture::every() {
        fixture.settings.per_person = 1;
        let sessions = Arc::new(fixture.start(NOW));
        let mut workers = [Worker::of(&sessions), Worker::of(&sessions)];
        let mut ids = Vec::new();
        let mut watches = Vec::new();
        for user in ["out", "grant", "app", "again", "cap", "idle", "stays"] {
            let id = open(&sessions, user, NOW).await;
            let held = session(&sessions, &id).await;
            watches.push((
                workers.each_ref().map(|worker| worker.watch(&held)),
                workers[0].watch(&held),
            ));
            ids.push(id);
        }
        assert_eq!(workers.each_ref().map(Worker::count), [7, 7]);
        let out = sessions.end(&ids[0].key(), EndReason::SignedOut).await;
        out.unwrap();
        for (id, why) in [
            (&ids[1], EndReason::GrantEnded),
            (&ids[2], EndReason::RefusedByApp),
        ] {
            let held = session(&sessions, id).await;
            drop(sessions.end_version(&held, why).await.unwrap());
        }
        // The list `replaces` contains the key `again` two times, but the store reports only one
        // time that this session has ended.
        let (again, between) = (ids[3].key(), open(&sessions, "between", NOW).await);
        let new = NewSession {
            replaces: vec![again, between.key(), again],
            ..login("somebody")
        };
        sessions.open(new, NOW).await.unwrap();
        open(&sessions, "cap", NOW).await;
        assert!(live(&sessions, &ids[6], after(59)).await);
        while sessions.maintain(after(60)).await.unwrap() == crate::session::Maintained::More {}
        let expected = [
            Some(EndReason::SignedOut),
            Some(EndReason::GrantEnded),
            Some(EndReason::RefusedByApp),
            Some(EndReason::Replaced),
            Some(EndReason::Evicted),
            Some(EndReason::Idle),
            None,
        ];
        assert!(watches.iter().all(|(_, other)| reason(other).is_none()));
        // Nine sessions have ended, and the test watches six of them.
        assert_eq!(workers.each_mut().map(Worker::take_ends), [9, 9]);
        for ((every, other), expected) in watches.iter().zip(expected) {
            for watch in every.iter().chain([other]) {
                assert_eq!(reason(watch), expected);
            }
        }
        assert_eq!(workers.each_ref().map(Worker::count), [1, 1]);
        // A caller can read the reason for the end of a session more than one time.
        assert_eq!(reason(&watches[0].1), Some(EndReason::SignedOut));
        // The last session ends because its provider changes.
        fixture.providers.insert("op".into(), [1; 32]);
        let new = fixture.reconfiguration();
        sessions.reconfigure(new, after(60)).await.unwrap();
        assert_eq!(workers.each_mut().map(Worker::take_ends), [1, 1]);
        assert_eq!(reason(&watches[6].1), Some(EndReason::ProviderRemoved));
    }
}

#[tokio::test]
async fn new_tokens_are_no_end_and_the_idle_deadline_counts_from_the_last_use() {
    for fixture in Fixture::every() {
        let sessions = Arc::new(fixture.start(NOW));
        let mut worker = Worker::of(&sessions);
        let id = open(&sessions, "alice", NOW).await;
        let held = session(&sessions, &id).await;
        let watch = worker.watch(&held);
        let replaced = sessions.replace(&held, tokens("token-1"), None).await;
        assert!(matches!(replaced, Ok(Replaced::Stored(_))));
        assert!(live(&sessions, &id, after(50)).await);
        worker.take_ends();
        worker.sweep(after(55)).await;
        assert!(worker.has_current(&sessions, &id));
        worker.sweep(after(109)).await;
        assert_eq!(reason(&watch), None);
        worker.sweep(after(110)).await;
        assert_eq!(reason(&watch), Some(EndReason::Idle));
        assert_eq!(worker.count(), 0);
    }
}

#[tokio::test]
async fn the_end_at_a_deadline_is_told_before_the_session_is_removed() {
    for mut fixture in Fixture::every() {
        let sessions = Arc::new(fixture.start(NOW));
        let worker = Worker::of(&sessions);
        let id = open(&sessions, "alice", NOW).await;
        let held = session(&sessions, &id).await;
        let watch = worker.watch(&held);
        for second in (0..600).step_by(50) {
            assert!(live(&sessions, &id, after(second)).await);
            worker.sweep(after(second)).await;
            assert_eq!(reason(&watch), None);
        }
        worker.sweep(after(599)).await;
        assert_eq!(reason(&watch), None);
        worker.sweep(after(600)).await;
        assert_eq!(reason(&watch), Some(EndReason::Absolute));

        // A reload reduces the maximum idle time of a session.
        let id = open(&sessions, "bob", after(600)).await;
        let Lookup::Live(held) = found(&sessions, &id, after(600)).await else {
            panic!("it was opened")
        };
        let watch = worker.watch(&held);
        fixture.settings.idle = Duration::from_secs(10);
        let new = fixture.reconfiguration();
        sessions.reconfigure(new, after(600)).await.unwrap();
        worker.sweep(after(609)).await;
        assert_eq!(reason(&watch), None);
        worker.sweep(after(610)).await;
        assert_eq!(reason(&watch), Some(EndReason::Idle));
    }
}

/// Creates so many sessions that the cache evicts all sessions that were in the cache before.
async fn crowd(sessions: &Sessions, now: Timestamp) {
    for number in 0..50 {
        open(sessions, &format!("{number} at {now:?}"), now).await;
        sessions.maintain(now).await.unwrap();
    }
}

#[tokio::test]
async fn an_evicted_session_ends_unless_it_is_in_a_file() {
    for mut fixture in Fixture::every() {
        fixture.settings.capacity = 10 * 1024;
        let sessions = Arc::new(fixture.start(NOW));
        let mut worker = Worker::of(&sessions);
        let id = open(&sessions, "alice", NOW).await;
        let watch = worker.watch(&*session(&sessions, &id).await);
        crowd(&sessions, NOW).await;
        worker.take_ends();
        worker.sweep(NOW).await;
        if !fixture.is_durable() {
            assert_eq!(reason(&watch), Some(EndReason::Evicted));
            continue;
        }
        assert_eq!(reason(&watch), None);
        assert!(worker.has_current(&sessions, &id));
        // The session is evicted from the cache, read from the file, used, and evicted from the
        // cache again. The registry still has the old value of the session, which does not contain
        // the time of the last use.
        crowd(&sessions, NOW).await;
        assert!(matches!(sessions.find(&id, NOW), Lookup::Away));
        assert!(live(&sessions, &id, after(40)).await);
        crowd(&sessions, after(40)).await;
        assert!(matches!(sessions.find(&id, after(40)), Lookup::Away));
        worker.sweep(after(99)).await;
        assert_eq!(reason(&watch), None);
        assert!(worker.has_current(&sessions, &id));
        crowd(&sessions, after(99)).await;
        worker.sweep(after(99)).await;
        assert_eq!(reason(&watch), None);
        worker.sweep(after(100)).await;
        assert_eq!(reason(&watch), Some(EndReason::Idle));
    }
}

/// Returns the [`SessionEvent`] that the watch can report without a wait, or `None` if the watch
/// has nothing to report.
fn event(watch: &EndWatch) -> Option<SessionEvent> {
    match pin!(watch.next()).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(event) => Some(event),
        Poll::Pending => None,
    }
}

#[tokio::test]
async fn a_new_version_that_memory_has_no_room_for_is_told() {
    let mut fixture = Fixture::disk();
    fixture.settings.capacity = 10 * 1024;
    let sessions = Arc::new(fixture.start(NOW));
    let mut worker = Worker::of(&sessions);
    let id = open(&sessions, "alice", NOW).await;
    let held = session(&sessions, &id).await;
    let watch = worker.watch(&held);
    let replaced = sessions.replace(&held, tokens("token-1"), None).await;
    assert!(matches!(replaced, Ok(Replaced::Stored(_))));
    crowd(&sessions, NOW).await;
    assert!(matches!(sessions.find(&id, NOW), Lookup::Away));
    worker.take_ends();
    worker.sweep(after(1)).await;
    match event(&watch) {
        Some(SessionEvent::Renewed(newest)) => assert_eq!(newest.version(), 1),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_use_counts_although_memory_has_no_room_for_the_session() {
    let mut fixture = Fixture::disk();
    fixture.settings.capacity = 10 * 1024;
    let sessions = Arc::new(fixture.start(NOW));
    let id = open(&sessions, "alice", NOW).await;
    let held = session(&sessions, &id).await;
    crowd(&sessions, NOW).await;
    assert!(matches!(sessions.find(&id, NOW), Lookup::Away));
    for second in [50, 100, 150] {
        sessions.mark_used(&held, after(second));
        sessions.maintain(after(second)).await.unwrap();
    }
    assert!(live(&sessions, &id, after(200)).await);
    // `mark_used` has no effect on a session that has ended.
    sessions.end(&id.key(), EndReason::SignedOut).await.unwrap();
    sessions.mark_used(&held, after(201));
    sessions.maintain(after(201)).await.unwrap();
    assert!(!live(&sessions, &id, after(201)).await);
}

#[tokio::test]
async fn the_end_of_a_session_that_is_only_in_the_file_is_told() {
    let mut fixture = Fixture::disk();
    fixture.settings.capacity = 10 * 1024;
    let sessions = Arc::new(fixture.start(NOW));
    let mut worker = Worker::of(&sessions);
    let id = open(&sessions, "alice", NOW).await;
    let watch = worker.watch(&*session(&sessions, &id).await);
    crowd(&sessions, NOW).await;
    assert!(matches!(sessions.find(&id, NOW), Lookup::Away));
    let ended = sessions.end(&id.key(), EndReason::SignedOut).await;
    ended.unwrap();
    // The sweep runs before the registry receives the message that the session has ended. Although
    // the session has been idle for too long, the sweep must not report the reason `Idle`.
    worker.sweep(after(60)).await;
    assert_eq!(reason(&watch), None);
    worker.take_ends();
    assert_eq!(reason(&watch), Some(EndReason::SignedOut));
}

#[tokio::test]
async fn a_value_that_is_not_current_cannot_be_watched() {
    let fixture = Fixture::memory();
    let sessions = Arc::new(fixture.start(NOW));
    let worker = Worker::of(&sessions);
    let id = open(&sessions, "alice", NOW).await;
    let old = session(&sessions, &id).await;
    let replaced = sessions.replace(&old, tokens("token-1"), None).await;
    assert!(matches!(replaced, Ok(Replaced::Stored(_))));
    assert!(worker.registry.watch(&old).is_none());
    let new = session(&sessions, &id).await;
    drop(worker.watch(&new));
    sessions.end(&id.key(), EndReason::SignedOut).await.unwrap();
    assert!(worker.registry.watch(&new).is_none());
    assert_eq!(worker.count(), 0);
}

#[tokio::test]
async fn a_dropped_watch_leaves_the_registry() {
    let fixture = Fixture::memory();
    let sessions = Arc::new(fixture.start(NOW));
    let mut worker = Worker::of(&sessions);
    let id = open(&sessions, "alice", NOW).await;
    let held = session(&sessions, &id).await;
    let (first, second) = (worker.watch(&held), worker.watch(&held));
    // `first` and `second` watch the same session for its end. The test drops `first`, and `second`
    // still reports the end.
    assert_eq!(reason(&first), None);
    drop(first);
    assert_eq!(worker.count(), 1);
    sessions.end(&id.key(), EndReason::SignedOut).await.unwrap();
    worker.take_ends();
    assert_eq!(reason(&second), Some(EndReason::SignedOut));
    let id = open(&sessions, "bob", NOW).await;
    drop(worker.watch(&*session(&sessions, &id).await));
    assert_eq!(worker.count(), 0);
}

#[tokio::test]
async fn an_end_that_cannot_be_committed_is_not_told() {
    let fixture = Fixture::disk();
    let sessions = fixture.start(NOW);
    open(&sessions, "alice", NOW).await;
    sessions.close().await.unwrap();
    let disk = fixture.open_disk();
    let (mut keeper, handle) =
        Keeper::new(Backend::Disk(Box::new(disk)), fixture.keeper_settings());
    keeper.restore(NOW).unwrap();
    let mut ends = handle.cache.listeners().listen();
    let Backend::Disk(disk) = &mut keeper.backend else {
        panic!("another store")
    };
    fill(disk);
    keeper.sweep(after(60)).unwrap_err();
    assert!(ends.try_recv().is_err());
    let Backend::Disk(disk) = &mut keeper.backend else {
        panic!("another store")
    };
    disk.end_pauses();
    keeper.sweep(after(60)).unwrap();
    assert!(matches!(ends.try_recv(), Ok((_, EndReason::Idle))));
}

#[tokio::test(start_paused = true)]
async fn the_task_of_a_worker_takes_ends_and_sweeps_by_the_clock() {
    let fixture = Fixture::memory();
    let clock = Clock::manual(NOW);
    let sessions = Arc::new(fixture.start(NOW));
    LocalSet::new()
        .run_until(async {
            let registry = EndRegistry::start(Arc::clone(&sessions), clock.clone());
            let ids = [
                open(&sessions, "a", NOW).await,
                open(&sessions, "b", NOW).await,
            ];
            let [first, second] = [
                session(&sessions, &ids[0]).await,
                session(&sessions, &ids[1]).await,
            ];
            let (first, second) = (
                registry.watch(&first).unwrap(),
                registry.watch(&second).unwrap(),
            );
            sessions
                .end(&ids[0].key(), EndReason::SignedOut)
                .await
                .unwrap();
            assert_eq!(first.ended().await, EndReason::SignedOut);
            clock.advance(fixture.settings.idle);
            assert_eq!(second.ended().await, EndReason::Idle);
            // After the last handle of the registry is dropped, the task of the registry ends and
            // drops its receiver.
            let alive = Rc::downgrade(&registry.0);
            drop((registry, first, second));
            assert!(alive.upgrade().is_none());
            while sessions.store.cache().listeners().count() > 0 {
                tokio::time::advance(BETWEEN_SWEEPS).await;
                let gone = open(&sessions, "c", NOW).await;
                sessions
                    .end(&gone.key(), EndReason::SignedOut)
                    .await
                    .unwrap();
            }
        })
        .await;
}

#[test]
fn silence_and_the_next_search_together_take_no_longer_than_the_bound() {
    for seconds in 1..=60 {
        let bound = Duration::from_secs(seconds);
        let silence = bound / 4 * 3;
        assert!(silence + between_sweeps(Some(bound)) <= bound, "{bound:?}");
    }
    // Deadlines are noticed within a second, whatever the bound is.
    for bound in [None, Some(Duration::from_mins(1))] {
        assert_eq!(between_sweeps(bound), BETWEEN_SWEEPS);
    }
}
