//! Records which exchanges use the connections. Among the recorded exchanges, the queue of waiting
//! requests chooses the exchanges to evict.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::client_wait::ClientWait;
use super::limit::Limit;
use super::owner::Requester;
use super::progress::UploadProgress;
use super::share::{Held, Kind, Verdict};
use crate::clock::Clock;

/// The reason why an exchange loses its connection while other requests wait for a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Eviction {
    /// The exchange has waited for its own client for too long.
    SlowClient,
    /// The client uses more than its share of the connections.
    OverShare,
}

impl Eviction {
    /// Returns the reason code of the eviction for logs and metrics.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::SlowClient => "slow_client",
            Self::OverShare => "client_over_share",
        }
    }
}

/// Records how exchanges use one HTTP/1.1 connection or one HTTP/2 stream. A connection uses one
/// record for all its exchanges, so a further exchange allocates no memory.
pub(super) struct Usage {
    clock: Clock,
    /// The limit that counts the exchanges of each client. `None` for an HTTP/2 stream.
    limit: Option<Arc<Limit>>,
    id: u64,
    /// How many exchanges have begun.
    turn: Cell<u64>,
    /// The data about the client that sent the current request. `None` if no exchange uses the
    /// connection.
    requester: Cell<Option<Requester>>,
    since: Cell<Option<Instant>>,
    /// Whether the answer has begun.
    answering: Cell<bool>,
    /// The time for which the exchange has waited for the client to accept the answer. The field
    /// `part` contains the number of bytes in the last part of the answer.
    download: ClientWait,
    part: Cell<usize>,
    upload: RefCell<Option<Rc<UploadProgress>>>,
    eviction: Cell<Option<Eviction>>,
    /// The task that ends the exchange after its eviction.
    waker: RefCell<Option<Waker>>,
    resource: Resource,
}

/// What an exchange uses.
pub(super) enum Resource {
    /// An HTTP/1.1 connection. The connection is closed when this task is aborted.
    Connection(AbortHandle),
    /// A stream of an HTTP/2 connection.
    Stream,
    /// A connection that may switch to another protocol. The number of connections with a switched
    /// protocol has its own limit, so the gateway never closes such a connection for a waiting
    /// request.
    Tunnel,
}

impl Usage {
    /// Records that an exchange began at the time `since`.
    pub(super) fn begin(
        &self,
        requester: Requester,
        since: Instant,
        upload: Option<&Rc<UploadProgress>>,
    ) {
        self.turn.set(self.turn.get().wrapping_add(1));
        self.since.set(Some(since));
        self.requester.set(Some(requester));
        if let Some(upload) = upload {
            *self.upload.borrow_mut() = Some(Rc::clone(upload));
        }
    }

    /// Ends the current exchange.
    pub(super) fn end(&self) {
        let ended = self.requester.take();
        if let (Some(requester), Some(limit)) = (ended, &self.limit) {
            let is_evicted = self.eviction.get().is_some();
            limit.ended(requester.owner, is_evicted, || self.clock.instant());
        }
        self.answering.set(false);
        self.download.clear();
        self.eviction.set(None);
        if self.upload.borrow().is_some() {
            self.upload.take();
        }
        if self.waker.borrow().is_some() {
            self.waker.take();
        }
    }

    /// Records that the answer has begun.
    pub(super) fn answer(&self) {
        self.answering.set(true);
    }

    /// Declares the exchange to be a stream. See [`Requester::stream`].
    pub(super) fn declare_stream(&self) {
        let requester = self.requester.get();
        let stream = requester.map(|Requester { owner, .. }| Requester {
            owner,
            stream: true,
        });
        self.requester.set(stream);
    }

    /// Records that a part of the answer, with `length` bytes, was passed to the client's
    /// connection.
    pub(super) fn part_handed_over(&self, length: usize) {
        self.part.set(length);
        self.download.begin(self.clock.instant());
    }

    /// Records that the client has accepted the last part of the answer.
    pub(super) fn next_requested(&self) {
        if self.download.is_waiting() {
            self.download.end(self.clock.instant(), self.part.get());
        }
    }

    /// Returns the `Eviction` of the current exchange, or `None` if the exchange was not evicted.
    pub(super) fn eviction(&self) -> Option<Eviction> {
        self.eviction.get()
    }

    /// Whether the current exchange can be evicted before its answer begins.
    pub(super) fn is_evictable_unanswered(&self) -> bool {
        self.upload.borrow().is_some()
    }

    /// Returns `Ready` when the current exchange was evicted.
    pub(super) fn poll_evicted(&self, cx: &Context<'_>) -> Poll<Eviction> {
        if let Some(eviction) = self.eviction.get() {
            return Poll::Ready(eviction);
        }
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Returns the current exchange, in the form in which the queue compares exchanges. Returns
    /// `None` if no exchange uses the connection, or if the exchange was evicted.
    fn held(&self, now: Instant) -> Option<Held> {
        let requester = self.requester.get()?;
        if self.eviction.get().is_some() {
            return None;
        }
        let kind = match self.resource {
            Resource::Tunnel => Kind::Tunnel,
            Resource::Connection(_) | Resource::Stream if requester.stream => {
                let endable = self.answering.get() || self.is_evictable_unanswered();
                Kind::Stream {
                    since: self.since.get().filter(|_since| endable),
                }
            }
            Resource::Connection(_) | Resource::Stream => Kind::Exchange {
                waited: self.waited(now),
            },
        };
        Some(Held {
            key: (self.id, self.turn.get()),
            owner: requester.owner,
            kind,
        })
    }

    /// The time for which the exchange has waited for its client. The time is zero if the exchange
    /// does not wait for its client now.
    fn waited(&self, now: Instant) -> Duration {
        let upload = self.upload.borrow();
        let upload = upload.as_ref().and_then(|upload| upload.waited(now));
        self.download.waited(now).max(upload).unwrap_or_default()
    }

    fn evict(&self, eviction: Eviction) {
        self.eviction.set(Some(eviction));
        if let Resource::Connection(task) = &self.resource {
            task.abort();
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The [`Usage`] of an open connection. Dropping this value ends the current exchange.
pub(super) struct OpenUsage(Rc<Usage>);

impl OpenUsage {
    /// Returns an [`EvictionWatch`], which reports when the current exchange is evicted.
    pub(super) fn watch(&self) -> EvictionWatch {
        EvictionWatch {
            usage: Rc::clone(&self.0),
            turn: self.0.turn.get(),
        }
    }
}

impl Deref for OpenUsage {
    type Target = Usage;

    fn deref(&self) -> &Usage {
        &self.0
    }
}

impl Drop for OpenUsage {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Reports the eviction of one exchange.
pub(crate) struct EvictionWatch {
    usage: Rc<Usage>,
    turn: u64,
}

impl EvictionWatch {
    /// Waits until the exchange is evicted. If the exchange ends without an eviction, the future
    /// never completes.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn evicted(&self) -> Eviction {
        poll_fn(|cx| {
            if self.usage.turn.get() == self.turn {
                self.usage.poll_evicted(cx)
            } else {
                Poll::Pending
            }
        })
        .await
    }
}

impl fmt::Debug for EvictionWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvictionWatch").finish_non_exhaustive()
    }
}

/// The records of a pool's open connections, or of its open HTTP/2 streams.
pub(super) struct Usages {
    clock: Clock,
    limit: Option<Arc<Limit>>,
    next: Cell<u64>,
    list: RefCell<Vec<Weak<Usage>>>,
}

impl Usages {
    pub(super) fn new(clock: Clock, limit: Option<Arc<Limit>>) -> Self {
        Self {
            clock,
            limit,
            next: Cell::new(0),
            list: RefCell::default(),
        }
    }

    /// Adds a record for a new connection or HTTP/2 stream, which no exchange uses yet.
    pub(super) fn add(&self, resource: Resource) -> OpenUsage {
        let id = self.next.get();
        self.next.set(id.wrapping_add(1));
        let usage = Rc::new(Usage {
            clock: self.clock.clone(),
            limit: self.limit.clone(),
            id,
            turn: Cell::new(0),
            requester: Cell::new(None),
            since: Cell::new(None),
            answering: Cell::new(false),
            download: ClientWait::default(),
            part: Cell::new(0),
            upload: RefCell::default(),
            eviction: Cell::new(None),
            waker: RefCell::default(),
            resource,
        });
        let mut list = self.list.borrow_mut();
        // Closed connections are removed only when the list would grow, so an addition costs little
        // on average.
        if list.len() == list.capacity() {
            list.retain(|usage| usage.strong_count() > 0);
        }
        list.push(Rc::downgrade(&usage));
        OpenUsage(usage)
    }

    /// Returns all exchanges that use a connection at the time `now`.
    pub(super) fn held(&self, now: Instant) -> Vec<Held> {
        let list = self.list.borrow();
        let used = list.iter().filter_map(|usage| usage.upgrade()?.held(now));
        used.collect()
    }

    /// Evicts an exchange. Returns false if the exchange has already ended. Also returns false if
    /// the client of the exchange has sent or accepted bytes after the queue decided to evict the
    /// exchange.
    pub(super) fn evict(&self, verdict: Verdict, now: Instant) -> bool {
        let list = self.list.borrow();
        let mut usages = list.iter().filter_map(Weak::upgrade);
        let usage = usages.find(|usage| usage.id == verdict.key.0);
        let held = usage.and_then(|usage| Some((usage.held(now)?, usage)));
        let Some((_, usage)) = held.filter(|(held, _)| verdict.still_applies(held)) else {
            return false;
        };
        usage.evict(verdict.eviction);
        true
    }
}
