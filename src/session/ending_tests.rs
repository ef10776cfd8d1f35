//! Sessions that end are told with the reason, once each, and nothing else is.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::task::LocalSet;

use super::*;
use crate::session::backend::Backend;
use crate::session::disk::Disk;
use crate::session::disk::tests::fill;
use crate::session::keeper::Keeper;
use crate::session::kit::{Kit, NOW, found, live, login, open, session, tokens};
use crate::session::{Lookup, NewSession, Replaced, SessionId};

/// A registry whose task is the test itself.
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

    /// Hears all that the keeper has told, and says how much that is.
    fn hear(&mut self) -> usize {
        let mut heard = 0;
        while let Ok((key, why)) = self.ends.try_recv() {
            self.registry.0.end(&key, why);
            heard = usize::saturating_add(heard, 1);
        }
        heard
    }

    async fn sweep(&self, now: Timestamp) {
        self.registry.0.sweep(now).await;
    }

    fn count(&self) -> usize {
        self.registry.0.entries.borrow().len()
    }

    /// Whether the registry holds the value of a session that stands, so that the next sweep need not
    /// ask for it.
    fn holds_standing(&self, sessions: &Sessions, id: &SessionId) -> bool {
        let standing = sessions.cache.get(&id.key()).unwrap();
        let entries = self.registry.0.entries.borrow();
        Arc::ptr_eq(&entries[&id.key()].stored, &standing)
    }
}

/// Why it has ended, if that was told.
fn told(watch: &EndWatch) -> Option<EndReason> {
    match pin!(watch.ended()).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(why) => Some(why),
        Poll::Pending => None,
    }
}

fn after(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

#[tokio::test]
async fn whatever_ends_a_session_is_told_to_every_worker_with_its_reason() {
    for mut kit in Kit::every() {
        kit.settings.per_person = 1;
        let sessions = Arc::new(kit.start(NOW));
        let mut workers = [Worker::of(&sessions), Worker::of(&sessions)];
        let mut ids = Vec::new();
        let mut watches = Vec::new();
        for person in ["out", "grant", "app", "again", "cap", "idle", "stays"] {
            let id = open(&sessions, person, NOW).await;
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
        // Named twice, with another between: it is told once.
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
            Some(EndReason::PushedOut),
            Some(EndReason::Idle),
            None,
        ];
        assert!(watches.iter().all(|(_, other)| told(other).is_none()));
        // Three who were not watched have ended, too.
        assert_eq!(workers.each_mut().map(Worker::hear), [9, 9]);
        for ((every, other), expected) in watches.iter().zip(expected) {
            for watch in every.iter().chain([other]) {
                assert_eq!(told(watch), expected);
            }
        }
        assert_eq!(workers.each_ref().map(Worker::count), [1, 1]);
        // It stays so, however often somebody asks.
        assert_eq!(told(&watches[0].1), Some(EndReason::SignedOut));
        // And the rest by another way.
        kit.providers.insert("op".into(), [1; 32]);
        let new = kit.reconfiguration();
        sessions.reconfigure(new, after(60)).await.unwrap();
        assert_eq!(workers.each_mut().map(Worker::hear), [1, 1]);
        assert_eq!(told(&watches[6].1), Some(EndReason::ProviderRemoved));
    }
}

#[tokio::test]
async fn new_tokens_are_no_end_and_the_deadline_is_that_of_the_last_use() {
    for kit in Kit::every() {
        let sessions = Arc::new(kit.start(NOW));
        let mut worker = Worker::of(&sessions);
        let id = open(&sessions, "alice", NOW).await;
        let held = session(&sessions, &id).await;
        let watch = worker.watch(&held);
        let replaced = sessions.replace(&held, tokens("token-1"), None).await;
        assert!(matches!(replaced, Ok(Replaced::Stored(_))));
        assert!(live(&sessions, &id, after(50)).await);
        worker.hear();
        worker.sweep(after(55)).await;
        assert!(worker.holds_standing(&sessions, &id));
        worker.sweep(after(109)).await;
        assert_eq!(told(&watch), None);
        worker.sweep(after(110)).await;
        assert_eq!(told(&watch), Some(EndReason::Idle));
        assert_eq!(worker.count(), 0);
    }
}

#[tokio::test]
async fn deadlines_are_told_when_they_pass_whoever_frees_the_session() {
    for mut kit in Kit::every() {
        let sessions = Arc::new(kit.start(NOW));
        let worker = Worker::of(&sessions);
        let id = open(&sessions, "alice", NOW).await;
        let held = session(&sessions, &id).await;
        let watch = worker.watch(&held);
        for second in (0..600).step_by(50) {
            assert!(live(&sessions, &id, after(second)).await);
            worker.sweep(after(second)).await;
            assert_eq!(told(&watch), None);
        }
        worker.sweep(after(599)).await;
        assert_eq!(told(&watch), None);
        worker.sweep(after(600)).await;
        assert_eq!(told(&watch), Some(EndReason::Absolute));

        // A reload makes them shorter.
        let id = open(&sessions, "bob", after(600)).await;
        let Lookup::Live(held) = found(&sessions, &id, after(600)).await else {
            panic!("it was opened")
        };
        let watch = worker.watch(&held);
        kit.settings.idle = Duration::from_secs(10);
        let new = kit.reconfiguration();
        sessions.reconfigure(new, after(600)).await.unwrap();
        worker.sweep(after(609)).await;
        assert_eq!(told(&watch), None);
        worker.sweep(after(610)).await;
        assert_eq!(told(&watch), Some(EndReason::Idle));
    }
}

/// Opens sessions until memory has no room for others.
async fn crowd(sessions: &Sessions, now: Timestamp) {
    for number in 0..50 {
        open(sessions, &format!("{number} at {now:?}"), now).await;
        sessions.maintain(now).await.unwrap();
    }
}

#[tokio::test]
async fn what_memory_has_no_room_for_ends_unless_it_is_in_the_file() {
    for mut kit in Kit::every() {
        kit.settings.capacity = 10 * 1024;
        let sessions = Arc::new(kit.start(NOW));
        let mut worker = Worker::of(&sessions);
        let id = open(&sessions, "alice", NOW).await;
        let watch = worker.watch(&*session(&sessions, &id).await);
        crowd(&sessions, NOW).await;
        worker.hear();
        worker.sweep(NOW).await;
        if !kit.is_durable() {
            assert_eq!(told(&watch), Some(EndReason::PushedOut));
            continue;
        }
        assert_eq!(told(&watch), None);
        // It comes back, is used, and goes again: what is held of it has no part in that.
        assert!(matches!(sessions.find(&id, NOW), Lookup::Away));
        assert!(live(&sessions, &id, after(40)).await);
        crowd(&sessions, after(40)).await;
        assert!(matches!(sessions.find(&id, after(40)), Lookup::Away));
        worker.sweep(after(99)).await;
        assert_eq!(told(&watch), None);
        assert!(worker.holds_standing(&sessions, &id));
        crowd(&sessions, after(99)).await;
        worker.sweep(after(99)).await;
        assert_eq!(told(&watch), None);
        worker.sweep(after(100)).await;
        assert_eq!(told(&watch), Some(EndReason::Idle));
    }
}

#[tokio::test]
async fn a_session_that_is_in_the_file_alone_ends_as_others_do() {
    let mut kit = Kit::disk();
    kit.settings.capacity = 10 * 1024;
    let sessions = Arc::new(kit.start(NOW));
    let mut worker = Worker::of(&sessions);
    let id = open(&sessions, "alice", NOW).await;
    let watch = worker.watch(&*session(&sessions, &id).await);
    crowd(&sessions, NOW).await;
    assert!(matches!(sessions.find(&id, NOW), Lookup::Away));
    let ended = sessions.end(&id.key(), EndReason::SignedOut).await;
    ended.unwrap();
    // The sweep comes first, and leaves the reason to the keeper.
    worker.sweep(after(60)).await;
    assert_eq!(told(&watch), None);
    worker.hear();
    assert_eq!(told(&watch), Some(EndReason::SignedOut));
}

#[tokio::test]
async fn what_does_not_stand_any_more_has_to_be_looked_up_again() {
    let kit = Kit::memory();
    let sessions = Arc::new(kit.start(NOW));
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
async fn who_waits_no_longer_is_not_in_the_registry_any_more() {
    let kit = Kit::memory();
    let sessions = Arc::new(kit.start(NOW));
    let mut worker = Worker::of(&sessions);
    let id = open(&sessions, "alice", NOW).await;
    let held = session(&sessions, &id).await;
    let (first, second) = (worker.watch(&held), worker.watch(&held));
    // Waiting is given up, and begun again.
    assert_eq!(told(&first), None);
    drop(first);
    assert_eq!(worker.count(), 1);
    sessions.end(&id.key(), EndReason::SignedOut).await.unwrap();
    worker.hear();
    assert_eq!(told(&second), Some(EndReason::SignedOut));
    let id = open(&sessions, "bob", NOW).await;
    drop(worker.watch(&*session(&sessions, &id).await));
    assert_eq!(worker.count(), 0);
}

#[tokio::test]
async fn what_cannot_be_committed_is_no_end() {
    let kit = Kit::disk();
    let sessions = kit.start(NOW);
    open(&sessions, "alice", NOW).await;
    sessions.close().await.unwrap();
    let disk = Disk::open(&kit.file(), kit.ring().into()).unwrap();
    let (mut keeper, handle) = Keeper::new(Backend::Disk(Box::new(disk)), kit.keeper_settings());
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
async fn a_workers_task_hears_of_ends_and_sweeps_by_the_clock() {
    let kit = Kit::memory();
    let clock = Clock::manual(NOW);
    let sessions = Arc::new(kit.start(NOW));
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
            clock.advance(kit.settings.idle);
            assert_eq!(second.ended().await, EndReason::Idle);
            // With the last of it the task goes, and is told nothing more.
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
