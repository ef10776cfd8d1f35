//! Shared tasks. All requests with the same key get the result of one shared task.
//!
//! The first request for a key starts the shared task on the runtime of the control plane. Later
//! requests join the shared task and get the same result. A shared task does not depend on its
//! waiters: the shared task continues even if all its waiters are dropped. If the shared task
//! panics or is cancelled, its key becomes free and its waiters get [`Progress::Lost`].

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::watch;

/// The progress of a shared task.
#[derive(Clone, Debug)]
pub(super) enum Progress<P, T> {
    /// The shared task is running.
    UnderWay,
    /// The shared task pauses before its next attempt. `P` contains the reason for the pause and
    /// the time at which the pause ends, so that a waiter can decide whether to wait.
    Paused(P),
    /// The shared task has ended with a result.
    Finished(T),
    /// The shared task panicked, or the control plane stopped.
    Lost,
}

type Sender<P, T> = Arc<watch::Sender<Progress<P, T>>>;

/// All running shared tasks, at most one for each key.
pub(super) struct Flights<K, P, T> {
    control: Handle,
    // The lock is taken when a shared task starts or ends, and when a request joins a shared task.
    // Requests that need no shared task never take the lock.
    #[expect(clippy::disallowed_types, reason = "held for one look-up")]
    under_way: std::sync::Mutex<HashMap<K, Sender<P, T>>>,
    count: watch::Sender<usize>,
}

/// A request that waits for a shared task. Dropping a waiter does not stop the shared task.
#[derive(Debug)]
pub(super) struct Waiter<P, T>(watch::Receiver<Progress<P, T>>);

/// The owner of a shared task. The leader reports the progress and the result of the shared task to
/// the waiters. Dropping the leader ends the shared task with [`Progress::Lost`].
pub(super) struct Leader<K: Copy + Eq + Hash, P, T> {
    flights: Arc<Flights<K, P, T>>,
    key: K,
    sender: Sender<P, T>,
    finished: bool,
}

/// The result of [`Leader::finish_unwaited`]. `finish_unwaited` ends a shared task only if the task
/// has no waiter.
#[must_use]
pub(super) enum FinishUnwaited<L> {
    /// The shared task has ended.
    Finished,
    /// A waiter has joined in the meantime, so the shared task continues.
    Joined(L),
}

impl<K, P, T> Flights<K, P, T>
where
    K: Copy + Eq + Hash + Send + Sync + 'static,
    P: Clone + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Creates an empty set of shared tasks. The shared tasks run on the runtime `control`.
    pub(super) fn new(control: Handle) -> Arc<Self> {
        #[expect(clippy::disallowed_types, reason = "see the field")]
        let under_way = std::sync::Mutex::default();
        Arc::new(Self {
            control,
            under_way,
            count: watch::Sender::new(0),
        })
    }

    /// Joins the shared task for `key`. If no shared task is running for `key`, starts a shared
    /// task that runs `work`. The future that `work` returns must finish the [`Leader`] that `work`
    /// receives.
    pub(super) fn join<F>(
        self: &Arc<Self>,
        key: K,
        work: impl FnOnce(Leader<K, P, T>) -> F,
    ) -> Waiter<P, T>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut under_way = self.under_way();
        if let Some(sender) = under_way.get(&key) {
            return Waiter(sender.subscribe());
        }
        let (sender, receiver) = watch::channel(Progress::UnderWay);
        let sender = Arc::new(sender);
        // The entry for `key` is inserted before the lock is released and before the task starts,
        // so that no second shared task can start for `key`.
        under_way.insert(key, Arc::clone(&sender));
        drop(under_way);
        self.count
            .send_modify(|count| *count = count.saturating_add(1));
        let leader = Leader {
            flights: Arc::clone(self),
            key,
            sender,
            finished: false,
        };
        // The spawned task is detached, so a waiter cannot stop the task.
        drop(self.control.spawn(work(leader)));
        Waiter(receiver)
    }

    /// Joins the shared task for `key`, if a shared task is running for `key`.
    pub(super) fn waiter(&self, key: &K) -> Option<Waiter<P, T>> {
        let under_way = self.under_way();
        under_way.get(key).map(|sender| Waiter(sender.subscribe()))
    }

    /// Waits until no shared task is running.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn none(&self) {
        let mut count = self.count.subscribe();
        // `wait_for` fails only if the sender is dropped, and `self` owns the sender.
        drop(count.wait_for(|count| *count == 0).await);
    }
}

impl<K, P, T> Flights<K, P, T> {
    fn under_way(&self) -> MutexGuard<'_, HashMap<K, Sender<P, T>>> {
        let under_way = self.under_way.lock();
        under_way.unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Clone, T: Clone> Waiter<P, T> {
    /// Waits until the shared task has ended or is paused. Never returns [`Progress::UnderWay`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn progress(&mut self) -> Progress<P, T> {
        loop {
            let progress = self.0.borrow_and_update().clone();
            if !matches!(progress, Progress::UnderWay) {
                return progress;
            }
            if self.0.changed().await.is_err() {
                return Progress::Lost;
            }
        }
    }

    /// Waits until the progress of the shared task has changed since the previous call.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn next_progress(&mut self) -> Progress<P, T> {
        match self.0.changed().await {
            Ok(()) => self.progress().await,
            Err(_gone) => Progress::Lost,
        }
    }
}

impl<K: Copy + Eq + Hash, P, T> Leader<K, P, T> {
    /// Informs the waiters that the shared task pauses.
    pub(super) fn pause(&self, why: P) {
        self.sender.send_replace(Progress::Paused(why));
    }

    /// Informs the waiters that the shared task continues.
    pub(super) fn resume(&self) {
        self.sender.send_replace(Progress::UnderWay);
    }

    /// Waits until the shared task has no waiter.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn no_waiters(&self) {
        self.sender.closed().await;
    }

    /// Ends the shared task if it has no waiter. If a request has just joined the shared task, the
    /// shared task continues. After the shared task has ended, the next request starts a new shared
    /// task.
    pub(super) fn finish_unwaited(mut self, end: T) -> FinishUnwaited<Self> {
        let flights = Arc::clone(&self.flights);
        let mut under_way = flights.under_way();
        // A request needs the lock of `under_way` to join the shared task, so the number of waiters
        // cannot change while this method holds the lock.
        if self.sender.receiver_count() > 0 {
            drop(under_way);
            return FinishUnwaited::Joined(self);
        }
        // The key is removed before the lock is released, so that no request joins a shared task
        // that has ended.
        under_way.remove(&self.key);
        drop(under_way);
        self.finished = true;
        self.count_down();
        self.sender.send_replace(Progress::Finished(end));
        FinishUnwaited::Finished
    }

    /// Ends the shared task. Later requests for the key start a new shared task.
    pub(super) fn finish(mut self, end: T) {
        self.finished = true;
        // The key is removed before the waiters get the result, so that a waiter can immediately
        // start a new shared task.
        self.clear();
        self.sender.send_replace(Progress::Finished(end));
    }

    fn clear(&self) {
        self.flights.under_way().remove(&self.key);
        self.count_down();
    }

    fn count_down(&self) {
        let count = &self.flights.count;
        count.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl<K: Copy + Eq + Hash, P, T> Drop for Leader<K, P, T> {
    fn drop(&mut self) {
        // The task panicked or was cancelled. The key of the shared task must become free, because
        // otherwise no new shared task could start for the key.
        if !self.finished {
            self.clear();
            self.sender.send_replace(Progress::Lost);
        }
    }
}

impl<K, P, T> fmt::Debug for Flights<K, P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights")
            .field("under_way", &self.under_way().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    type Numbers = Flights<u8, &'static str, usize>;

    fn flights() -> Arc<Numbers> {
        Flights::new(Handle::current())
    }

    fn finished(progress: &Progress<&'static str, usize>) -> usize {
        match progress {
            Progress::Finished(end) => *end,
            Progress::UnderWay | Progress::Paused(_) | Progress::Lost => {
                panic!("it did not finish")
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_thousand_requests_from_several_threads_start_one_flight() {
        let (flights, started) = (flights(), Arc::new(AtomicUsize::new(0)));
        let (gate, asked) = (Arc::new(Notify::new()), watch::Sender::new(0));
        let asked = Arc::new(asked);
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let (flights, started) = (Arc::clone(&flights), Arc::clone(&started));
            let (gate, asked) = (Arc::clone(&gate), Arc::clone(&asked));
            asking.spawn(async move {
                let mut waiter = flights.join(7, |leader| async move {
                    started.fetch_add(1, Ordering::Relaxed);
                    gate.notified().await;
                    leader.finish(42);
                });
                asked.send_modify(|asked| *asked += 1);
                waiter.progress().await
            });
        }
        let mut all = asked.subscribe();
        drop(all.wait_for(|asked| *asked == 1000).await.unwrap());
        gate.notify_one();
        while let Some(end) = asking.join_next().await {
            assert_eq!(finished(&end.unwrap()), 42);
        }
        assert_eq!(started.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn later_requests_get_the_result_of_the_running_flight() {
        let (flights, gate) = (flights(), Arc::new(Notify::new()));
        let held = Arc::clone(&gate);
        let mut first = flights.join(7, |leader| async move {
            held.notified().await;
            leader.finish(1);
        });
        let mut others: Vec<_> = (0..100)
            .map(|_| flights.join(7, |_leader| async { panic!("a second flight") }))
            .collect();
        let mut elsewhere = flights.join(8, |leader| async move { leader.finish(2) });
        assert_eq!(finished(&elsewhere.progress().await), 2);
        gate.notify_one();
        assert_eq!(finished(&first.progress().await), 1);
        for other in &mut others {
            assert_eq!(finished(&other.progress().await), 1);
        }
        assert!(flights.waiter(&7).is_none());
    }

    #[tokio::test]
    async fn g_03_a_flight_continues_without_waiters() {
        let (flights, gate) = (flights(), Arc::new(Notify::new()));
        let (held, done) = (Arc::clone(&gate), Arc::new(AtomicUsize::new(0)));
        let doing = Arc::clone(&done);
        let waiter = flights.join(7, |leader| async move {
            held.notified().await;
            doing.store(1, Ordering::Relaxed);
            leader.finish(1);
        });
        drop(waiter);
        gate.notify_one();
        flights.none().await;
        assert_eq!(done.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn g_14_a_flight_that_panics_is_removed_and_all_waiters_are_told() {
        let flights = flights();
        let mut waiter = flights.join(7, |leader| async move {
            let _leader = leader;
            tokio::task::yield_now().await;
            panic!("on purpose");
        });
        let mut other = flights.waiter(&7).unwrap();
        assert!(matches!(waiter.progress().await, Progress::Lost));
        assert!(matches!(other.progress().await, Progress::Lost));
        flights.none().await;
        let mut again = flights.join(7, |leader| async move { leader.finish(3) });
        assert_eq!(finished(&again.progress().await), 3);
    }

    #[tokio::test]
    async fn g_15_a_flight_aborted_at_any_await_is_removed() {
        for polls in 0..6 {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            let flights: Arc<Numbers> = Flights::new(runtime.handle().clone());
            let mut waiter = flights.join(7, |leader| async move {
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
                leader.finish(1);
            });
            // The variable `polls` states how many times the main task of the runtime yields before
            // the runtime is dropped.
            let stop = std::thread::spawn(move || {
                runtime.block_on(async {
                    for _ in 0..polls {
                        tokio::task::yield_now().await;
                    }
                });
                drop(runtime);
            });
            stop.join().unwrap();
            let end = waiter.progress().await;
            assert!(
                matches!(end, Progress::Lost | Progress::Finished(1)),
                "{polls}: {end:?}"
            );
            assert!(flights.waiter(&7).is_none(), "{polls}");
            flights.none().await;
        }
    }

    #[tokio::test]
    async fn g_15_waiting_can_be_cancelled_at_any_time() {
        let (flights, gate) = (flights(), Arc::new(Notify::new()));
        let held = Arc::clone(&gate);
        let mut waiter = flights.join(7, |leader| async move {
            held.notified().await;
            leader.pause("a while");
            held.notified().await;
            leader.finish(1);
        });
        for _ in 0..3 {
            let none = tokio::time::timeout(std::time::Duration::ZERO, waiter.progress()).await;
            assert!(none.is_err());
        }
        gate.notify_one();
        assert!(matches!(
            waiter.progress().await,
            Progress::Paused("a while")
        ));
        let none = tokio::time::timeout(std::time::Duration::ZERO, waiter.next_progress()).await;
        assert!(none.is_err());
        gate.notify_one();
        assert_eq!(finished(&waiter.next_progress().await), 1);
    }

    #[tokio::test]
    async fn a_leader_learns_that_nobody_waits() {
        let flights = flights();
        let waiter = flights.join(7, |leader| async move {
            leader.no_waiters().await;
            leader.finish(1);
        });
        tokio::task::yield_now().await;
        assert!(flights.waiter(&7).is_some());
        drop(waiter);
        flights.none().await;
    }

    #[tokio::test]
    async fn a_late_waiter_keeps_an_abandoned_flight_running() {
        let flights = flights();
        let (gate, joined) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (decided, may_end) = (Arc::clone(&gate), Arc::clone(&joined));
        let waiter = flights.join(7, |leader| async move {
            leader.no_waiters().await;
            decided.notify_one();
            may_end.notified().await;
            match leader.finish_unwaited(0) {
                FinishUnwaited::Finished => {}
                FinishUnwaited::Joined(leader) => leader.finish(1),
            }
        });
        drop(waiter);
        gate.notified().await;
        let mut late = flights.join(7, |_leader| async { panic!("a second flight") });
        joined.notify_one();
        assert_eq!(finished(&late.progress().await), 1);
        drop(late);
        // A shared task without waiters ends, and its key becomes free.
        let waiter = flights.join(7, |leader| async move {
            leader.no_waiters().await;
            assert!(matches!(
                leader.finish_unwaited(2),
                FinishUnwaited::Finished
            ));
        });
        drop(waiter);
        flights.none().await;
        assert!(flights.waiter(&7).is_none());
    }
}
