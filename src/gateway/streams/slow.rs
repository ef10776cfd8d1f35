//! Finds the requests and answers that take longer than about a second. Each worker needs only one
//! timer for all requests and answers.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::sleep;

use super::LongAnswer;

/// The time between two calls of [`SlowList::tick`]. An entry becomes slow at its second tick, 500
/// to 1,000 milliseconds after its start.
const TICK: Duration = Duration::from_millis(500);

/// The requests and answers of a worker that have begun and are not complete.
///
/// Nearly all requests and answers are complete before the next call of [`SlowList::tick`], so
/// adding and removing an entry must take only a few instructions. The task that calls
/// [`SlowList::tick`] runs only while the list has recent entries.
#[derive(Default)]
pub(super) struct SlowList {
    entries: RefCell<Entries>,
    ticking: Cell<bool>,
}

#[derive(Default)]
struct Entries {
    entries: Vec<Entry>,
    /// The first free entry. Each free entry contains the index of the next free entry.
    free: Option<usize>,
}

enum Entry {
    Free(Option<usize>),
    /// The entry was added less than two ticks ago.
    Recent {
        waiter: Waiter,
        ticked: bool,
    },
    /// The entry was added at least two ticks ago, and the list has informed the request or the
    /// answer of the entry.
    Slow,
}

/// The request or the answer for which an entry was added. When the entry becomes slow, the list
/// informs the request or the answer of the entry.
pub(super) enum Waiter {
    /// The waker of the task that handles a request.
    Request(Waker),
    /// An answer. The reference is weak, so that the list does not keep the answer in memory after
    /// the client has disconnected.
    Answer(Weak<LongAnswer>),
}

impl SlowList {
    /// Adds an entry. Panics if no local task can be started.
    pub(super) fn enter(self: &Rc<Self>, waiter: Waiter) -> SlowEntry {
        let recent = Entry::Recent {
            waiter,
            ticked: false,
        };
        let index = self.entries.borrow_mut().add(recent);
        if !self.ticking.replace(true) {
            drop(spawn_local(tick_while_needed(Rc::downgrade(self))));
        }
        SlowEntry {
            list: Rc::clone(self),
            index,
        }
    }

    /// Informs the waiters of all requests and answers that have become slow since the last tick.
    /// Returns true if the list still has entries of the kind [`Entry::Recent`].
    fn tick(&self) -> bool {
        let (due, recent_left) = self.entries.borrow_mut().tick();
        // A waiter may change the list, so `entries` must not be borrowed when the list informs a
        // waiter.
        for waiter in due {
            match waiter {
                Waiter::Request(waker) => waker.wake(),
                Waiter::Answer(answer) => {
                    if let Some(answer) = answer.upgrade() {
                        answer.watch();
                    }
                }
            }
        }
        recent_left
    }
}

impl fmt::Debug for SlowList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlowList")
            .field("entries", &self.entries.borrow().entries.len())
            .finish_non_exhaustive()
    }
}

impl Entries {
    fn add(&mut self, entry: Entry) -> usize {
        let free = self.free.take();
        let reused = free.and_then(|index| Some((index, self.entries.get_mut(index)?)));
        if let Some((index, free)) = reused {
            if let Entry::Free(next) = std::mem::replace(free, entry) {
                self.free = next;
            }
            return index;
        }
        self.entries.push(entry);
        self.entries.len().saturating_sub(1)
    }

    fn tick(&mut self) -> (Vec<Waiter>, bool) {
        let (mut due, mut recent_left) = (Vec::new(), false);
        for entry in &mut self.entries {
            match entry {
                Entry::Recent { ticked: true, .. } => {
                    if let Entry::Recent { waiter, .. } = std::mem::replace(entry, Entry::Slow) {
                        due.push(waiter);
                    }
                }
                Entry::Recent { ticked, .. } => {
                    *ticked = true;
                    recent_left = true;
                }
                Entry::Free(_) | Entry::Slow => {}
            }
        }
        (due, recent_left)
    }

    fn remove(&mut self, index: usize) {
        if let Some(entry) = self.entries.get_mut(index) {
            *entry = Entry::Free(self.free.replace(index));
        }
    }
}

async fn tick_while_needed(list: Weak<SlowList>) {
    loop {
        sleep(TICK).await;
        let Some(list) = list.upgrade() else {
            return;
        };
        if !list.tick() {
            list.ticking.set(false);
            return;
        }
    }
}

/// One entry of a [`SlowList`]. Dropping this value removes the entry.
#[derive(Debug)]
pub(super) struct SlowEntry {
    list: Rc<SlowList>,
    index: usize,
}

impl SlowEntry {
    /// Returns [`Poll::Ready`] when the entry has become slow.
    fn poll_slow(&self, cx: &Context<'_>) -> Poll<()> {
        let mut entries = self.list.entries.borrow_mut();
        match entries.entries.get_mut(self.index) {
            Some(Entry::Recent {
                waiter: Waiter::Request(waker),
                ..
            }) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            Some(Entry::Free(_) | Entry::Recent { .. } | Entry::Slow) | None => Poll::Ready(()),
        }
    }
}

impl Drop for SlowEntry {
    fn drop(&mut self) {
        self.list.entries.borrow_mut().remove(self.index);
    }
}

/// Reports that a request takes longer than about a second. The first call of [`SlowTimer::poll`]
/// adds the request to the [`SlowList`].
#[derive(Debug)]
pub(in crate::gateway) struct SlowTimer<'a> {
    list: &'a Rc<SlowList>,
    entry: Option<SlowEntry>,
}

impl<'a> SlowTimer<'a> {
    pub(super) fn new(list: &'a Rc<SlowList>) -> Self {
        Self { list, entry: None }
    }

    /// Returns `Ready` when the request has taken longer than about a second.
    pub(in crate::gateway) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if let Some(entry) = &self.entry {
            return entry.poll_slow(cx);
        }
        let waiter = Waiter::Request(cx.waker().clone());
        self.entry = Some(self.list.enter(waiter));
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::task::LocalSet;
    use tokio::time::timeout;

    use super::*;

    fn recent() -> Entry {
        Entry::Recent {
            waiter: Waiter::Request(Waker::noop().clone()),
            ticked: false,
        }
    }

    #[test]
    fn free_entries_are_used_again() {
        let mut entries = Entries::default();
        assert_eq!([(); 3].map(|()| entries.add(recent())), [0, 1, 2]);
        entries.remove(0);
        entries.remove(2);
        assert_eq!([(); 3].map(|()| entries.add(recent())), [2, 0, 3]);
    }

    #[test]
    fn an_entry_is_slow_after_two_ticks() {
        let mut entries = Entries::default();
        entries.add(recent());
        let (due, recent_left) = entries.tick();
        assert_eq!((due.len(), recent_left), (0, true));
        entries.add(recent());
        let (due, recent_left) = entries.tick();
        assert_eq!((due.len(), recent_left), (1, true));
        let (due, recent_left) = entries.tick();
        assert_eq!((due.len(), recent_left), (1, false));
        assert_eq!(entries.tick().0.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_request_is_woken_and_an_idle_list_has_no_task() {
        let test = async {
            let list = Rc::<SlowList>::default();
            for _ in 0..2 {
                let mut timer = SlowTimer::new(&list);
                let slow = poll_fn(|cx| timer.poll(cx));
                assert!(timeout(TICK * 3, slow).await.is_ok());
                // The task that calls `tick` ends when the list has no recent entry. When the next
                // entry is added to the list, a new task for the ticks starts.
                assert!(!list.ticking.get());
            }
            let mut timer = SlowTimer::new(&list);
            assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
            assert!(list.ticking.get());
            drop(timer);
            sleep(TICK * 2).await;
            assert!(!list.ticking.get());
        };
        LocalSet::new().run_until(test).await;
    }
}
