//! Streams: switched connections, and requests and answers that take long.
//!
//! A decision is made at the start of a request. A stream lasts longer than this decision, so the
//! gateway checks the stream again when its session or the settings change. Most requests and
//! answers are complete within a moment. A request or an answer becomes a stream only if it takes
//! longer. Therefore all other requests cost only a few instructions more ([`SlowList`]).

mod answer;
mod counts;
mod guard;
mod record;
mod slow;

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

pub(super) use self::answer::{AnswerFormat, AnswerOwner, LongAnswer, LongAnswerSetup};
pub(crate) use self::counts::StreamCounts;
pub(super) use self::counts::{StreamOwner, StreamSlot};
pub use self::guard::Cut;
pub(super) use self::guard::{CutCause, StreamGuard};
pub(super) use self::record::{ObservedStream, StreamBytes, StreamRecord};
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
    /// The registry reports the end of sessions to streams. The first stream creates the registry.
    ends: OnceCell<EndRegistry>,
    slow: Rc<SlowList>,
}

impl Streams {
    pub(super) fn new(site: &Rc<CurrentSite>) -> Rc<Self> {
        Rc::new(Self {
            site: Rc::clone(site),
            ends: OnceCell::new(),
            slow: Rc::default(),
        })
    }

    /// Creates the guard of a stream. `target` is the target of its request.
    pub(super) fn guard(
        &self,
        stream: StreamPermit,
        target: Target,
        kind: StreamKind,
    ) -> StreamGuard {
        let site = self.site.get();
        let start = || EndRegistry::start(Arc::clone(site.sessions()), site.clock().clone());
        let ends = self.ends.get_or_init(start).clone();
        StreamGuard::new((stream, target, kind), &self.site, ends)
    }

    /// Returns a timer for a request. The timer reports when the request has taken long.
    pub(super) fn slow_timer(&self) -> SlowTimer<'_> {
        SlowTimer::new(&self.slow)
    }
}
