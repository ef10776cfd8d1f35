//! One piece of work for everybody who wants the same.
//!
//! The first who asks starts it as a task of the control plane; whoever asks while it is under way
//! waits for the same end. It belongs to nobody who waits: it goes on when all of them have gone,
//! and when it panics or is cancelled its place is free again and those who wait are told.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::watch;

/// How a flight goes.
#[derive(Clone, Debug)]
pub(super) enum Progress<R, T> {
    /// It is on its way.
    UnderWay,
    /// It pauses for a reason, which those who wait may find too long.
    Resting(R),
    /// It has come to its end.
    Landed(T),
    /// It panicked, or the control plane stopped.
    Lost,
}

type Sender<R, T> = Arc<watch::Sender<Progress<R, T>>>;

/// All flights under way, one for each key.
pub(super) struct Flights<K, R, T> {
    control: Handle,
    // Taken when a flight starts, is joined or ends; never for a request that needs none.
    #[expect(clippy::disallowed_types, reason = "held for one look-up")]
    under_way: std::sync::Mutex<HashMap<K, Sender<R, T>>>,
    count: watch::Sender<usize>,
}

/// A place among those who wait for a flight. Dropping it ends nothing.
#[derive(Debug)]
pub(super) struct Seat<R, T>(watch::Receiver<Progress<R, T>>);

/// Whoever carries out a flight. Dropping it ends the flight.
pub(super) struct Pilot<K: Copy + Eq + Hash, R, T> {
    flights: Arc<Flights<K, R, T>>,
    key: K,
    sender: Sender<R, T>,
    landed: bool,
}

/// Whether a flight that was to end because nobody waited for it has ended.
#[must_use]
pub(super) enum Deserted<P> {
    /// It has.
    Yes,
    /// Somebody has joined it meanwhile, so it goes on.
    No(P),
}

impl<K, R, T> Flights<K, R, T>
where
    K: Copy + Eq + Hash + Send + Sync + 'static,
    R: Clone + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// None yet; they will be tasks of `control`.
    pub(super) fn new(control: Handle) -> Arc<Self> {
        #[expect(clippy::disallowed_types, reason = "see the field")]
        let under_way = std::sync::Mutex::default();
        Arc::new(Self {
            control,
            under_way,
            count: watch::Sender::new(0),
        })
    }

    /// A seat in the flight for `key`. When there is none `work` starts one; what it is given has to
    /// be told how the flight ends.
    pub(super) fn join<F>(
        self: &Arc<Self>,
        key: K,
        work: impl FnOnce(Pilot<K, R, T>) -> F,
    ) -> Seat<R, T>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut under_way = self.under_way();
        if let Some(sender) = under_way.get(&key) {
            return Seat(sender.subscribe());
        }
        let (sender, receiver) = watch::channel(Progress::UnderWay);
        let sender = Arc::new(sender);
        under_way.insert(key, Arc::clone(&sender));
        drop(under_way);
        self.count
            .send_modify(|count| *count = count.saturating_add(1));
        let pilot = Pilot {
            flights: Arc::clone(self),
            key,
            sender,
            landed: false,
        };
        // Detached: nobody's leaving ends it.
        drop(self.control.spawn(work(pilot)));
        Seat(receiver)
    }

    /// A seat in the flight for `key`, if there is one.
    pub(super) fn seat(&self, key: &K) -> Option<Seat<R, T>> {
        let under_way = self.under_way();
        under_way.get(key).map(|sender| Seat(sender.subscribe()))
    }

    /// Waits until nothing is under way.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn none(&self) {
        let mut count = self.count.subscribe();
        // It fails only when the sender is gone, and that is ours.
        drop(count.wait_for(|count| *count == 0).await);
    }
}

impl<K, R, T> Flights<K, R, T> {
    fn under_way(&self) -> MutexGuard<'_, HashMap<K, Sender<R, T>>> {
        let under_way = self.under_way.lock();
        under_way.unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Clone, T: Clone> Seat<R, T> {
    /// Waits until the flight has come to its end or rests: [`Progress::UnderWay`] is never given.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn news(&mut self) -> Progress<R, T> {
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

    /// Waits for other news than those that were given.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn other_news(&mut self) -> Progress<R, T> {
        match self.0.changed().await {
            Ok(()) => self.news().await,
            Err(_gone) => Progress::Lost,
        }
    }
}

impl<K: Copy + Eq + Hash, R, T> Pilot<K, R, T> {
    /// Says that the flight pauses.
    pub(super) fn rest(&self, why: R) {
        self.sender.send_replace(Progress::Resting(why));
    }

    /// Says that the flight goes on.
    pub(super) fn go_on(&self) {
        self.sender.send_replace(Progress::UnderWay);
    }

    /// Waits until nobody waits for the flight any more.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn deserted(&self) {
        self.sender.closed().await;
    }

    /// Ends the flight if nobody waits for it. Whoever joins at this very moment keeps it going, or
    /// starts another.
    pub(super) fn land_deserted(mut self, end: T) -> Deserted<Self> {
        let flights = Arc::clone(&self.flights);
        let mut under_way = flights.under_way();
        // Whoever joins holds the same lock.
        if self.sender.receiver_count() > 0 {
            drop(under_way);
            return Deserted::No(self);
        }
        under_way.remove(&self.key);
        drop(under_way);
        self.landed = true;
        self.count_down();
        self.sender.send_replace(Progress::Landed(end));
        Deserted::Yes
    }

    /// Ends the flight. Whoever asks from now on starts another; what this one did is done.
    pub(super) fn land(mut self, end: T) {
        self.landed = true;
        self.clear();
        self.sender.send_replace(Progress::Landed(end));
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

impl<K: Copy + Eq + Hash, R, T> Drop for Pilot<K, R, T> {
    fn drop(&mut self) {
        if !self.landed {
            self.clear();
            self.sender.send_replace(Progress::Lost);
        }
    }
}

impl<K, R, T> fmt::Debug for Flights<K, R, T> {
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

    fn landed(progress: &Progress<&'static str, usize>) -> usize {
        match progress {
            Progress::Landed(end) => *end,
            Progress::UnderWay | Progress::Resting(_) | Progress::Lost => panic!("it did not land"),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_thousand_who_ask_from_several_threads_start_one_flight() {
        let (flights, started) = (flights(), Arc::new(AtomicUsize::new(0)));
        let (gate, asked) = (Arc::new(Notify::new()), watch::Sender::new(0));
        let asked = Arc::new(asked);
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let (flights, started) = (Arc::clone(&flights), Arc::clone(&started));
            let (gate, asked) = (Arc::clone(&gate), Arc::clone(&asked));
            asking.spawn(async move {
                let mut seat = flights.join(7, |pilot| async move {
                    started.fetch_add(1, Ordering::Relaxed);
                    gate.notified().await;
                    pilot.land(42);
                });
                asked.send_modify(|asked| *asked += 1);
                seat.news().await
            });
        }
        let mut all = asked.subscribe();
        drop(all.wait_for(|asked| *asked == 1000).await.unwrap());
        gate.notify_one();
        while let Some(end) = asking.join_next().await {
            assert_eq!(landed(&end.unwrap()), 42);
        }
        assert_eq!(started.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn whoever_comes_while_it_is_under_way_gets_the_same_end() {
        let (flights, gate) = (flights(), Arc::new(Notify::new()));
        let held = Arc::clone(&gate);
        let mut first = flights.join(7, |pilot| async move {
            held.notified().await;
            pilot.land(1);
        });
        let mut others: Vec<_> = (0..100)
            .map(|_| flights.join(7, |_pilot| async { panic!("a second flight") }))
            .collect();
        let mut elsewhere = flights.join(8, |pilot| async move { pilot.land(2) });
        assert_eq!(landed(&elsewhere.news().await), 2);
        gate.notify_one();
        assert_eq!(landed(&first.news().await), 1);
        for other in &mut others {
            assert_eq!(landed(&other.news().await), 1);
        }
        assert!(flights.seat(&7).is_none());
    }

    #[tokio::test]
    async fn g_03_a_flight_goes_on_when_everybody_has_gone() {
        let (flights, gate) = (flights(), Arc::new(Notify::new()));
        let (held, done) = (Arc::clone(&gate), Arc::new(AtomicUsize::new(0)));
        let doing = Arc::clone(&done);
        let seat = flights.join(7, |pilot| async move {
            held.notified().await;
            doing.store(1, Ordering::Relaxed);
            pilot.land(1);
        });
        drop(seat);
        gate.notify_one();
        flights.none().await;
        assert_eq!(done.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn g_14_a_flight_that_panics_frees_its_place_and_tells_everybody() {
        let flights = flights();
        let mut seat = flights.join(7, |pilot| async move {
            let _pilot = pilot;
            tokio::task::yield_now().await;
            panic!("on purpose");
        });
        let mut other = flights.seat(&7).unwrap();
        assert!(matches!(seat.news().await, Progress::Lost));
        assert!(matches!(other.news().await, Progress::Lost));
        flights.none().await;
        let mut again = flights.join(7, |pilot| async move { pilot.land(3) });
        assert_eq!(landed(&again.news().await), 3);
    }

    #[tokio::test]
    async fn g_15_a_flight_cut_off_at_any_await_frees_its_place() {
        for polls in 0..6 {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            let flights: Arc<Numbers> = Flights::new(runtime.handle().clone());
            let mut seat = flights.join(7, |pilot| async move {
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
                pilot.land(1);
            });
            // The runtime stops after the task was polled so often.
            let stop = std::thread::spawn(move || {
                runtime.block_on(async {
                    for _ in 0..polls {
                        tokio::task::yield_now().await;
                    }
                });
                drop(runtime);
            });
            stop.join().unwrap();
            let end = seat.news().await;
            assert!(
                matches!(end, Progress::Lost | Progress::Landed(1)),
                "{polls}: {end:?}"
            );
            assert!(flights.seat(&7).is_none(), "{polls}");
            flights.none().await;
        }
    }

    #[tokio::test]
    async fn g_15_waiting_can_be_given_up_at_any_time() {
        let (flights, gate) = (flights(), Arc::new(Notify::new()));
        let held = Arc::clone(&gate);
        let mut seat = flights.join(7, |pilot| async move {
            held.notified().await;
            pilot.rest("a while");
            held.notified().await;
            pilot.land(1);
        });
        for _ in 0..3 {
            let none = tokio::time::timeout(std::time::Duration::ZERO, seat.news()).await;
            assert!(none.is_err());
        }
        gate.notify_one();
        assert!(matches!(seat.news().await, Progress::Resting("a while")));
        let none = tokio::time::timeout(std::time::Duration::ZERO, seat.other_news()).await;
        assert!(none.is_err());
        gate.notify_one();
        assert_eq!(landed(&seat.other_news().await), 1);
    }

    #[tokio::test]
    async fn a_flight_learns_that_nobody_waits() {
        let flights = flights();
        let seat = flights.join(7, |pilot| async move {
            pilot.deserted().await;
            pilot.land(1);
        });
        tokio::task::yield_now().await;
        assert!(flights.seat(&7).is_some());
        drop(seat);
        flights.none().await;
    }

    #[tokio::test]
    async fn whoever_joins_a_flight_that_is_about_to_be_given_up_keeps_it_going() {
        let flights = flights();
        let (gate, joined) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (decided, may_end) = (Arc::clone(&gate), Arc::clone(&joined));
        let seat = flights.join(7, |pilot| async move {
            pilot.deserted().await;
            decided.notify_one();
            may_end.notified().await;
            match pilot.land_deserted(0) {
                Deserted::Yes => {}
                Deserted::No(pilot) => pilot.land(1),
            }
        });
        drop(seat);
        gate.notified().await;
        let mut late = flights.join(7, |_pilot| async { panic!("a second flight") });
        joined.notify_one();
        assert_eq!(landed(&late.news().await), 1);
        drop(late);
        // With nobody there it ends, and its place is free.
        let seat = flights.join(7, |pilot| async move {
            pilot.deserted().await;
            assert!(matches!(pilot.land_deserted(2), Deserted::Yes));
        });
        drop(seat);
        flights.none().await;
        assert!(flights.seat(&7).is_none());
    }
}
