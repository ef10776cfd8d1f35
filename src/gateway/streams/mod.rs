//! Streams: connections that have switched to another protocol, and requests and answers that take
//! longer than about a second.
//!
//! The gateway makes the decision about a request when the request begins. A stream can continue
//! for hours after the decision, so the gateway checks the stream again when its session or the
//! settings change. A request or an answer becomes a stream only if it is not complete within about
//! a second. If a request is complete within a second, [`SlowList`] costs only a few instructions.

mod answer;
mod counts;
mod early_end;
mod guard;
mod observed;
mod read_ahead;
mod slow;

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;

pub(super) use self::answer::{AnswerFormat, AnswerOwner, LongAnswer, LongAnswerSetup};
pub(crate) use self::counts::StreamCounts;
pub(super) use self::counts::StreamSlot;
pub(super) use self::early_end::broken_end;
pub use self::guard::Cut;
pub(super) use self::guard::{CutCause, StreamGuard};
pub(super) use self::observed::{ObservedStream, StreamBytes};
use self::slow::SlowList;
pub(super) use self::slow::SlowTimer;
use super::site::CurrentSite;
use crate::access::{StreamKind, StreamPermit};
use crate::session::EndRegistry;
use crate::target::Target;

/// The streams of one worker.
#[derive(Debug)]
pub(super) struct Streams {
    site: Rc<CurrentSite>,
    /// The registry informs streams when their sessions end. The gateway creates the registry when
    /// the first stream begins.
    ends: OnceCell<EndRegistry>,
    slow: Rc<SlowList>,
    drain: Rc<Drain>,
}

/// Reports the beginning of the drain of a worker.
#[derive(Debug, Default)]
pub(super) struct Drain {
    has_begun: Cell<bool>,
    begun: Notify,
}

impl Drain {
    /// Waits until the drain has begun.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn begun(&self) {
        let begun = self.begun.notified();
        if !self.has_begun.get() {
            begun.await;
        }
    }
}

impl Streams {
    pub(super) fn new(site: &Rc<CurrentSite>) -> Rc<Self> {
        Rc::new(Self {
            site: Rc::clone(site),
            ends: OnceCell::new(),
            slow: Rc::default(),
            drain: Rc::default(),
        })
    }

    /// Creates the guard of a stream. `target` is the target of the stream's request.
    pub(super) fn guard(
        &self,
        stream: StreamPermit,
        target: Target,
        kind: StreamKind,
    ) -> StreamGuard {
        StreamGuard::new((stream, target, kind), &self.site, self.ends().clone())
    }

    /// Returns the registry of the worker.
    pub(super) fn ends(&self) -> &EndRegistry {
        self.ends.get_or_init(|| {
            let site = self.site.get();
            EndRegistry::start(Arc::clone(site.sessions()), site.clock().clone())
        })
    }

    /// Returns the value that reports the beginning of the drain.
    pub(super) fn drain(&self) -> &Rc<Drain> {
        &self.drain
    }

    /// Records that the drain of the worker begins.
    pub(super) fn drain_begins(&self) {
        self.drain.has_begun.set(true);
        self.drain.begun.notify_waiters();
    }

    /// Returns a timer for a request. The timer reports that the request takes longer than about a
    /// second.
    pub(super) fn slow_timer(&self) -> SlowTimer<'_> {
        SlowTimer::new(&self.slow)
    }
}
