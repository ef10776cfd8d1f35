//! The deadline by which the head of a response has to arrive.

use std::cell::{Cell, RefCell};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

use super::progress::UploadProgress;

/// The timer for a response head.
///
/// An HTTP/1.1 connection uses one timer for all its requests, because creating and removing a
/// timer for each request is expensive.
#[derive(Default)]
pub(super) struct HeadTimer(Option<Pin<Box<Sleep>>>);

impl HeadTimer {
    /// Returns `Ready` if the origin has exceeded the time limit `limit`. The time is counted from
    /// `sent_at`, or from the time at which the origin last accepted bytes of the request body.
    ///
    /// If the timer is set for an earlier time, this function sets it again only after it has fired.
    /// Nearly every answer arrives before the timer fires, so the timer is rarely set again. The
    /// timer is never set for too late a time, because a deadline only moves to a later time.
    pub(super) fn poll(
        &mut self,
        sent_at: Instant,
        limit: Duration,
        progress: Option<&UploadProgress>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            let since = progress.map_or(sent_at, |progress| progress.waiting_since().max(sent_at));
            let Some(due) = since.checked_add(limit) else {
                return Poll::Pending;
            };
            let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
            // The runtime makes a task wait that has used up its budget of operations. The timer would
            // then not be set, or would not wake the task.
            ready!(pin!(unconstrained(timer.as_mut())).poll(cx));
            if timer.deadline() >= due {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    }

    /// Returns true if the timer is set and has not fired yet.
    fn is_running(&self) -> bool {
        self.0.as_ref().is_some_and(|timer| !timer.is_elapsed())
    }
}

/// The response head for which an HTTP/1.1 connection waits. The request records it, and the task of
/// the connection checks its deadline. The task always has the same waker, so it has to register this
/// waker at the timer only after it has set the timer, and not for each request.
#[derive(Default)]
pub(super) struct AwaitedHead {
    /// The time when the request was sent. `None` if the connection waits for no head.
    sent_at: Cell<Option<Instant>>,
    /// The progress of the request body, if the last request had a body.
    progress: RefCell<Option<Rc<UploadProgress>>>,
    /// Whether the deadline has passed, and the request may still get a head that has just arrived.
    is_overdue: Cell<bool>,
    is_late: Cell<bool>,
}

impl AwaitedHead {
    /// Begins to wait for the head of the response to a request.
    pub(super) fn begin(&self, sent_at: Instant, progress: Option<&Rc<UploadProgress>>) {
        self.sent_at.set(Some(sent_at));
        self.is_overdue.set(false);
        let mut recorded = self.progress.borrow_mut();
        if progress.is_some() || recorded.is_some() {
            *recorded = progress.cloned();
        }
    }

    /// Records that the head has arrived.
    pub(super) fn arrived(&self) {
        self.sent_at.set(None);
    }

    /// Whether the head has not arrived in time. The task of the connection then closes the
    /// connection.
    pub(super) fn is_late(&self) -> bool {
        self.is_late.get()
    }

    /// Returns `Ready` if the head has not arrived in time. The task calls this function after it has
    /// read from the connection. The waker of `cx` must be the same at every call.
    pub(super) fn poll_late(
        &self,
        timer: &mut HeadTimer,
        limit: Duration,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(sent_at) = self.sent_at.get() else {
            return Poll::Pending;
        };
        if timer.is_running() {
            return Poll::Pending;
        }
        let progress = self.progress.borrow();
        if timer
            .poll(sent_at, limit, progress.as_deref(), cx)
            .is_pending()
        {
            self.is_overdue.set(false);
            return Poll::Pending;
        }
        // If the task has just read the head, the task of the request runs before the next poll, and
        // calls `arrived`. After a pause of the process, the head and the end of the time limit are
        // often noticed together.
        if !self.is_overdue.replace(true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.is_late.set(true);
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use tokio::task::coop::{has_budget_remaining, poll_proceed};
    use tokio::time::advance;

    use super::*;
    use crate::clock::Clock;

    const LIMIT: Duration = Duration::from_secs(5);

    /// The waker of a connection's task. It counts the wakes.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection with a request that was sent just now.
    struct Scene {
        head: AwaitedHead,
        timer: HeadTimer,
        task: Arc<Task>,
    }

    impl Scene {
        fn new() -> Self {
            let scene = Self {
                head: AwaitedHead::default(),
                timer: HeadTimer::default(),
                task: Arc::default(),
            };
            scene.head.begin(Clock::system().instant(), None);
            scene
        }

        fn is_late(&mut self) -> bool {
            let waker = Waker::from(Arc::clone(&self.task));
            let cx = &mut Context::from_waker(&waker);
            self.head.poll_late(&mut self.timer, LIMIT, cx).is_ready()
        }

        fn wakes(&self) -> usize {
            self.task.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_late_one_poll_after_its_deadline() {
        let mut scene = Scene::new();
        assert!(!scene.is_late());
        advance(LIMIT).await;
        assert_eq!(scene.wakes(), 1);
        assert!(!scene.is_late() && !scene.head.is_late());
        assert_eq!(scene.wakes(), 2);
        assert!(scene.is_late() && scene.head.is_late());
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_arrives_together_with_the_deadline_is_not_late() {
        let mut scene = Scene::new();
        assert!(!scene.is_late());
        advance(LIMIT).await;
        assert!(!scene.is_late());
        scene.head.arrived();
        assert!(!scene.is_late() && !scene.head.is_late());
        // The next request has the whole time.
        scene.head.begin(Clock::system().instant(), None);
        advance(LIMIT * 4 / 5).await;
        assert!(!scene.is_late());
        advance(LIMIT / 5).await;
        assert!(!scene.is_late());
        assert!(scene.is_late());
    }

    /// Polls the head in a task that has used up its budget of operations.
    #[tokio::test(start_paused = true)]
    async fn a_task_without_budget_is_woken_at_the_deadline() {
        let mut scene = Scene::new();
        poll_fn(|cx| {
            while has_budget_remaining() {
                ready!(poll_proceed(cx)).made_progress();
            }
            assert!(!scene.is_late());
            Poll::Ready(())
        })
        .await;
        let wakes = scene.wakes();
        advance(LIMIT).await;
        assert_eq!(scene.wakes(), wakes + 1);
        assert!(!scene.is_late());
        assert!(scene.is_late());
    }

    #[tokio::test(start_paused = true)]
    async fn the_timer_of_one_request_serves_the_next() {
        let mut scene = Scene::new();
        assert!(!scene.is_late());
        advance(LIMIT / 2).await;
        scene.head.arrived();
        scene.head.begin(Clock::system().instant(), None);
        assert!(!scene.is_late());
        // The timer fires for the first request, and is set for the second.
        advance(LIMIT / 2).await;
        assert_eq!(scene.wakes(), 1);
        assert!(!scene.is_late());
        assert_eq!(scene.wakes(), 1);
        advance(LIMIT / 2).await;
        assert_eq!(scene.wakes(), 2);
        assert!(!scene.is_late());
        assert!(scene.is_late());
    }
}
