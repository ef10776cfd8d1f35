//! These tests use two replicas of one store. A change at one replica must also take effect at the
//! other replica. A replica is a `Sessions` value, which caches the sessions of a store.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::session::cache::{Event, SessionCache};
use crate::session::ending::End;
use crate::session::fixture::{Fixture, NOW, clock, live, open, session, tokens};
use crate::session::groups::{EndAll, EndedAll, Group};
use crate::session::lease::StoreLease;
use crate::session::marks::{Mark, MarkKind};
use crate::session::store::StoreFuture;
use crate::session::*;

/// Waits until all replicas have applied all changes. A store in this process applies a change to
/// the caches of all replicas before it answers. The replicas of a Redis server get messages.
async fn settle(replicas: &[&Sessions]) {
    for replica in replicas {
        replica.store.settle().await.unwrap();
    }
}

fn after(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

#[tokio::test]
async fn a_session_that_one_replica_replaced_is_found_in_the_other() {
    for fixture in Fixture::shared() {
        let [first, second] = fixture.start_two(NOW);
        let id = open(&first, "alice", NOW).await;
        let held = session(&second, &id).await;
        let both = [&first, &second];
        for (number, by) in [(1, 0), (2, 1), (3, 0)] {
            let (by, other) = (both[by], both[1 - by]);
            let old = session(by, &id).await;
            let replaced = by.replace(&old, tokens(&format!("token-{number}")), None);
            assert!(matches!(replaced.await, Ok(Replaced::Stored(_))));
            settle(&both).await;
            assert_eq!(held.state(), SessionState::Superseded);
            let new = session(other, &id).await;
            assert_eq!(new.version(), number);
            assert_eq!(new.tokens().access_token(), format!("token-{number}"));
            assert_eq!((new.state(), first.count()), (SessionState::Live, 1));
            // `held` is now an old version of the session, so `replace` returns the newer version.
            let stale = other.replace(&held, tokens("stale"), None).await;
            assert!(matches!(stale, Ok(Replaced::Newer(newer)) if newer.version() == number));
        }
    }
}

#[tokio::test]
async fn a_session_that_one_replica_ended_is_not_found_in_the_other_and_held_values_are_marked() {
    for fixture in Fixture::shared() {
        let [first, second] = fixture.start_two(NOW);
        for (by, other) in [(&first, &second), (&second, &first)] {
            let mut ends = [by, other].map(|replica| replica.store.cache().listeners().listen());
            let id = open(by, "alice", NOW).await;
            let held = [session(by, &id).await, session(other, &id).await];
            let ended = other.end(&id.key(), EndReason::SignedOut).await;
            assert_eq!(ended.unwrap(), Ended::Session);
            settle(&[by, other]).await;
            for (replica, held) in [by, other].into_iter().zip(&held) {
                assert_eq!(held.state(), SessionState::Ended);
                assert!(!replica.still(held, NOW, NOW));
                assert!(!live(replica, &id, NOW).await);
                let replaced = replica.replace(held, tokens("token-1"), None).await;
                assert!(matches!(replaced, Ok(Replaced::Ended)));
            }
            for ends in &mut ends {
                assert_eq!(ends.try_recv(), Ok((id.key(), EndReason::SignedOut)));
                assert!(ends.try_recv().is_err());
            }
            assert_eq!(by.count(), 0);
        }
    }
}

#[tokio::test]
async fn what_one_replica_evicts_stays_in_the_other() {
    let fixture = Fixture::crowded();
    let (stores, limits) = fixture.local_stores(NOW).unwrap();
    let [first, _] = stores;
    let roomy = first.attach(10 * 1024 * 1024);
    let [first, roomy] =
        [first, roomy].map(|store| Sessions::on(Arc::new(store), Arc::clone(&limits), clock()));
    let id = open(&first, "alice", NOW).await;
    let held = session(&roomy, &id).await;
    for number in 0..50 {
        open(&first, &number.to_string(), NOW).await;
        first.maintain(NOW).await.unwrap();
    }
    assert!(matches!(first.find(&id, NOW), Lookup::Away));
    assert!(matches!(roomy.find(&id, NOW), Lookup::Live(_)));
    assert!(roomy.still(&held, NOW, NOW));
    assert_eq!(first.count(), 51);
    // The replica `first` can also replace and end the session.
    assert!(live(&first, &id, NOW).await);
    let old = session(&first, &id).await;
    let replaced = first.replace(&old, tokens("token-1"), None).await;
    assert!(matches!(replaced, Ok(Replaced::Stored(_))));
    assert_eq!(held.state(), SessionState::Superseded);
    let held = session(&roomy, &id).await;
    assert_eq!(held.version(), 1);
    let ended = first.end(&id.key(), EndReason::SignedOut).await;
    assert_eq!(ended.unwrap(), Ended::Session);
    assert_eq!(held.state(), SessionState::Ended);
}

#[tokio::test]
async fn a_use_in_one_replica_keeps_the_other_from_expiring_the_session() {
    for fixture in Fixture::shared() {
        let [first, second] = fixture.start_two(NOW);
        for (using, idle) in [(&first, &second), (&second, &first)] {
            let id = open(&first, "alice", NOW).await;
            for replica in [using, idle] {
                assert!(live(replica, &id, NOW).await);
            }
            assert!(live(using, &id, after(50)).await);
            if let StoreSettings::Redis(_) = fixture.settings.store {
                // A process behind a network learns only the uses that another process has reported.
                using.maintain(after(50)).await.unwrap();
            }
            // The replica in the variable `using` has used the session, and has not yet reported this
            // use to the local store.
            settle(&[idle]).await;
            idle.maintain(after(70)).await.unwrap();
            assert_eq!(first.count(), 1);
            using.maintain(after(70)).await.unwrap();
            settle(&[idle]).await;
            assert!(live(idle, &id, after(100)).await);
            idle.maintain(after(101)).await.unwrap();
            settle(&[using]).await;
            for replica in [using, idle] {
                replica.maintain(after(120)).await.unwrap();
                assert!(live(replica, &id, after(120)).await);
            }
            for replica in [using, idle] {
                replica.maintain(after(120)).await.unwrap();
                settle(&[using, idle]).await;
            }
            while using.maintain(after(200)).await.unwrap() == Maintained::More {}
            // The count of a replica is the count at its last call.
            first.maintain(after(200)).await.unwrap();
            settle(&[idle]).await;
            assert_eq!(first.count(), 0);
            assert!(!live(idle, &id, after(200)).await);
        }
    }
}

#[tokio::test]
async fn d_23_the_bound_of_a_person_counts_the_logins_at_both_replicas() {
    for fixture in Fixture::shared() {
        let [first, second] = fixture.start_two(NOW);
        let mut ids = Vec::new();
        for number in 0..10 {
            let replica = if number % 2 == 0 { &first } else { &second };
            ids.push(open(replica, "alice", after(number)).await);
        }
        settle(&[&first, &second]).await;
        for replica in [&first, &second] {
            let mut alive = Vec::new();
            for id in &ids {
                alive.push(live(replica, id, after(10)).await);
            }
            assert_eq!(alive.iter().filter(|alive| **alive).count(), 3);
            assert!(alive[7..].iter().all(|alive| *alive));
        }
    }
}

#[tokio::test]
async fn a_04_a_state_that_one_replica_has_marked_is_used_up_in_the_other() {
    for fixture in Fixture::shared() {
        let [first, second] = fixture.start_two(NOW);
        let mark = (MarkKind::State, [1; 32]);
        let once = first.once(mark, NOW, after(60)).await;
        assert_eq!(once.unwrap(), Once::First);
        let once = second.once(mark, NOW, after(60)).await;
        assert_eq!(once.unwrap(), Once::Repeated);
        second.unmark(mark).await.unwrap();
        let once = first.once(mark, NOW, after(60)).await;
        assert_eq!(once.unwrap(), Once::First);
    }
}

/// A store that can delay its answers to reads, like a store behind a network. Each answer waits
/// until the test sets `gate` to true.
#[derive(Debug)]
struct Slow {
    store: Arc<dyn Store>,
    gate: watch::Receiver<bool>,
    reads: mpsc::UnboundedSender<()>,
}

impl Store for Slow {
    fn cache(&self) -> &Arc<SessionCache> {
        self.store.cache()
    }

    fn store_tag(&self) -> StoreTag {
        self.store.store_tag()
    }

    fn outlives_cache(&self) -> bool {
        self.store.outlives_cache()
    }

    fn count(&self) -> u64 {
        self.store.count()
    }

    fn get(&self, key: SessionKey) -> StoreFuture<'_, Option<Arc<Stored>>> {
        Box::pin(async move {
            let read = self.store.get(key).await;
            self.reads.send(()).unwrap();
            let mut gate = self.gate.clone();
            gate.wait_for(|is_open| *is_open).await.unwrap();
            read
        })
    }

    fn open(&self, session: Arc<Stored>, opening: Opening) -> StoreFuture<'_, Opened> {
        self.store.open(session, opening)
    }

    fn replace(&self, version: u64, next: Arc<Stored>) -> StoreFuture<'_, Replacement> {
        self.store.replace(version, next)
    }

    fn end(&self, which: Which, why: EndReason) -> StoreFuture<'_, Vec<End>> {
        self.store.end(which, why)
    }

    fn end_all(&self, order: EndAll) -> StoreFuture<'_, EndedAll> {
        self.store.end_all(order)
    }

    fn list(&self, group: Group) -> StoreFuture<'_, Vec<SessionKey>> {
        self.store.list(group)
    }

    fn touch(&self, uses: Vec<(SessionKey, Timestamp)>) -> StoreFuture<'_, ()> {
        self.store.touch(uses)
    }

    fn once(
        &self,
        mark: (MarkKind, Mark),
        now: Timestamp,
        until: Timestamp,
    ) -> StoreFuture<'_, Once> {
        self.store.once(mark, now, until)
    }

    fn unmark(&self, mark: (MarkKind, Mark)) -> StoreFuture<'_, ()> {
        self.store.unmark(mark)
    }

    fn lease(
        &self,
        key: SessionKey,
        now: Timestamp,
        until: Timestamp,
    ) -> StoreFuture<'_, StoreLease> {
        self.store.lease(key, now, until)
    }

    fn sweep(&self, now: Timestamp) -> StoreFuture<'_, Maintained> {
        self.store.sweep(now)
    }

    fn reconfigure(
        &self,
        new: Reconfiguration,
        now: Timestamp,
    ) -> StoreFuture<'_, Reconfigured, ReconfigureError> {
        self.store.reconfigure(new, now)
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        self.store.close()
    }

    fn settle(&self) -> StoreFuture<'_, ()> {
        self.store.settle()
    }
}

/// Two replicas of one store. A test can delay the reads of the replica `slow` and change a session
/// in the replica `first` during a read.
struct Race {
    first: Sessions,
    slow: Arc<Sessions>,
    gate: watch::Sender<bool>,
    reads: mpsc::UnboundedReceiver<()>,
}

impl Race {
    fn new(fixture: &Fixture) -> Self {
        let ([first, second], limits) = fixture.stores(NOW).unwrap();
        let (gate, is_open) = watch::channel(false);
        let (told, reads) = mpsc::unbounded_channel();
        let slow = Slow {
            store: second,
            gate: is_open,
            reads: told,
        };
        Self {
            first: Sessions::on(first, Arc::clone(&limits), clock()),
            slow: Arc::new(Sessions::on(Arc::new(slow), limits, clock())),
            gate,
            reads,
        }
    }

    /// Reads a session in the slow replica. Runs `change` after the store has answered, but before
    /// the replica gets the answer.
    async fn fetch_while(
        &mut self,
        key: SessionKey,
        change: impl AsyncFnOnce(&Self),
    ) -> Option<Arc<Session>> {
        let slow = Arc::clone(&self.slow);
        let fetching = tokio::spawn(async move { slow.fetch(&key).await.unwrap() });
        self.reads.recv().await.unwrap();
        change(self).await;
        self.gate.send_replace(true);
        let fetched = fetching.await.unwrap();
        self.gate.send_replace(false);
        fetched
    }
}

#[tokio::test]
async fn g_12_a_read_that_races_a_sign_out_brings_nothing_back() {
    for fixture in Fixture::shared() {
        let mut race = Race::new(&fixture);
        let id = open(&race.first, "alice", NOW).await;
        let key = id.key();
        let fetched = race.fetch_while(key, async |race| {
            race.first.end(&key, EndReason::SignedOut).await.unwrap();
            settle(&[&*race.slow]).await;
        });
        assert!(fetched.await.is_none());
        assert!(race.slow.cache.get(&key).is_none());
        assert!(matches!(race.slow.find(&id, NOW), Lookup::Away));
    }
}

#[tokio::test]
async fn a_read_that_races_a_refresh_returns_the_new_version() {
    let fixture = Fixture::disk();
    let mut race = Race::new(&fixture);
    let id = open(&race.first, "alice", NOW).await;
    let old = session(&race.first, &id).await;
    let fetched = race.fetch_while(id.key(), async |race| {
        let replaced = race.first.replace(&old, tokens("token-1"), None).await;
        assert!(matches!(replaced, Ok(Replaced::Stored(_))));
    });
    assert_eq!(fetched.await.unwrap().version(), 1);
    let Lookup::Live(found) = race.slow.find(&id, NOW) else {
        panic!("it was read")
    };
    assert_eq!(found.tokens().access_token(), "token-1");
    // If another session changes while the replica reads a session from the store, the replica does
    // not repeat the read.
    let bob = open(&race.first, "bob", NOW).await;
    race.slow.store.cache().apply(Event::Lost);
    while race.reads.try_recv().is_ok() {}
    let fetched = race.fetch_while(id.key(), async |race| {
        let ended = race.first.end(&bob.key(), EndReason::SignedOut).await;
        ended.unwrap();
    });
    assert_eq!(fetched.await.unwrap().version(), 1);
    assert!(race.reads.try_recv().is_err(), "it was read again");
}

#[tokio::test]
async fn a_replica_that_lost_events_reads_every_session_again() {
    let fixture = Fixture::disk();
    let [first, second] = fixture.start_two(NOW);
    let (alice, bob) = (
        open(&first, "alice", NOW).await,
        open(&second, "bob", NOW).await,
    );
    let held = [
        session(&second, &alice).await,
        session(&second, &bob).await,
        session(&first, &bob).await,
    ];
    second.store.cache().apply(Event::Lost);
    // The sessions continue, but a request of the second replica must ask the store.
    for held in &held {
        assert_eq!(held.state(), SessionState::Live);
    }
    assert!(!second.still(&held[0], NOW, NOW) && !second.still(&held[1], NOW, NOW));
    assert!(first.still(&held[2], NOW, NOW));
    for id in [&alice, &bob] {
        assert!(matches!(second.find(id, NOW), Lookup::Away));
        assert!(live(&second, id, NOW).await && live(&first, id, NOW).await);
    }
    assert_eq!(second.count(), 2);
    let replaced = second.replace(&held[1], tokens("token-1"), None).await;
    assert!(matches!(replaced, Ok(Replaced::Stored(_))));
    // If the store reports that it has lost events, the replica repeats a read in progress.
    let mut race = Race::new(&Fixture::disk());
    let id = open(&race.first, "alice", NOW).await;
    let fetched = race.fetch_while(id.key(), async |race| {
        race.slow.store.cache().apply(Event::Lost);
    });
    assert!(fetched.await.is_some());
    assert!(race.reads.recv().await.is_some(), "it was not read again");
}
