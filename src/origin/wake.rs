//! The waker of a connection's task. The waker can ignore wakes for which the task would have
//! nothing to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

/// Makes a connection's task ignore wakes while the gateway takes a part of a response.
///
/// hyper wakes the task of a connection each time the gateway takes a part of the response. If
/// hyper wakes the task after the task has received the complete response, the task runs without
/// any effect.
#[derive(Clone, Debug, Default)]
pub(super) struct WakeSwitch(Arc<AtomicBool>);

impl WakeSwitch {
    /// Returns a waker for the connection's task. `task` is the waker that the runtime has created
    /// for the task. The returned waker ignores all wakes while [`WakeSwitch::ignore_wakes`] runs.
    pub(super) fn waker(&self, task: &Waker) -> Waker {
        Waker::from(Arc::new(SwitchedWaker {
            task: task.clone(),
            is_off: Arc::clone(&self.0),
        }))
    }

    /// Calls `take`, and ignores each wake of the connection's task while `take` runs. The caller
    /// must ensure that the task needs none of the wakes that `take` causes. `take` runs on the
    /// thread of the connection's task, so no other event can wake the task while `take` runs.
    pub(super) fn ignore_wakes<T>(&self, take: impl FnOnce() -> T) -> T {
        self.0.store(true, Ordering::Relaxed);
        let taken = take();
        self.0.store(false, Ordering::Relaxed);
        taken
    }
}

/// A waker that wakes the connection's task only while `is_off` is false.
struct SwitchedWaker {
    task: Waker,
    is_off: Arc<AtomicBool>,
}

impl Wake for SwitchedWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_off.load(Ordering::Relaxed) {
            self.task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_wake_is_ignored_only_during_the_call() {
        let (count, switch) = (Arc::new(Count::default()), WakeSwitch::default());
        let waker = switch.waker(&Waker::from(Arc::clone(&count)));
        waker.wake_by_ref();
        let taken = switch.ignore_wakes(|| {
            waker.wake_by_ref();
            7
        });
        assert_eq!((taken, count.0.load(Ordering::Relaxed)), (7, 1));
        waker.wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }
}
