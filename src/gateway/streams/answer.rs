//! Answers that take a long time, such as server-sent events and large downloads.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::future::{pending, poll_fn};
use std::io;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use super::early_end::{broken_end, grpc_status};
use super::read_ahead::{AnswerSource, ReadAhead};
use super::slow::{SlowEntry, Waiter};
use super::{Cut, CutCause, ObservedStream, StreamBytes, StreamGuard, Streams};
use crate::access::{StreamKind, StreamPermit};
use crate::gateway::body::{BodyError, UpstreamBody};
use crate::gateway::body_buffer::BufferSizes;
use crate::gateway::error::FILE_LOST;
use crate::gateway::request_log::{COMPLETE, RequestLog, interruption};
use crate::server::{AnswerControl, BodyWatch, SlowReader};
use crate::target::Target;
use crate::telemetry::chain;
use crate::upstream::{Eviction, EvictionWatch};

/// If the gateway ends a gRPC answer early, the client must accept the trailers within this time.
const TRAILERS_TIMEOUT: Duration = Duration::from_millis(500);

/// The guard of an answer, or the values from which the guard is created.
pub(in crate::gateway) enum AnswerOwner {
    /// The answer began more than about a second after the request, so a guard for the request
    /// already exists.
    Guarded(Box<StreamGuard>),
    /// The answer began within about a second after the request, so the answer has no guard yet.
    Unguarded(StreamPermit, Target),
}

impl AnswerOwner {
    /// Returns the [`StreamPermit`] of this answer.
    pub(in crate::gateway) fn stream(&self) -> &StreamPermit {
        match self {
            Self::Guarded(guard) => guard.stream(),
            Self::Unguarded(stream, _target) => stream,
        }
    }
}

/// The values from which a [`LongAnswer`] is built.
pub(in crate::gateway) struct LongAnswerSetup {
    pub(in crate::gateway) body: UpstreamBody,
    pub(in crate::gateway) owner: AnswerOwner,
    /// Counts the bytes of the request body.
    pub(in crate::gateway) uploaded: BodyWatch,
    pub(in crate::gateway) format: AnswerFormat,
    /// The sizes of the buffer that is used if the client is slow. If the size of the memory is
    /// zero, there is no buffer.
    pub(in crate::gateway) buffer: BufferSizes,
    /// The time at which the head of the answer arrived.
    pub(in crate::gateway) started: Instant,
}

/// The format of an answer, such as gRPC. The format of an answer determines how the gateway ends
/// the answer early.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::gateway) enum AnswerFormat {
    /// gRPC over HTTP/2. A cut answer ends with trailers that contain a gRPC status.
    Grpc,
    /// Any other format. The gateway breaks off the answer, so that the client does not regard the
    /// answer as complete.
    Other,
}

/// An answer that was not complete when its head arrived. The client's connection, and the task
/// that watches the answer, share this value. If the client does not read, its connection does not
/// poll the body. The task that watches the answer can close the connection to the app without a
/// poll of the body.
pub(in crate::gateway) struct LongAnswer {
    streams: Rc<Streams>,
    source: RefCell<AnswerSource>,
    /// The sizes of the buffer that is used if the client is slow. If the size of the memory is
    /// zero, there is no buffer.
    buffer: BufferSizes,
    /// `None` if a task already watches the answer, or if the answer is no longer sent.
    owner: RefCell<Option<AnswerOwner>>,
    /// The entry for this answer in the list that finds slow answers.
    entry: OnceCell<SlowEntry>,
    control: OnceCell<AnswerControl>,
    uploaded: BodyWatch,
    sent: Cell<u64>,
    format: AnswerFormat,
    started: Instant,
    stage: Cell<Stage>,
    /// The reason why the gateway has ended the answer early. `None` if the gateway has not ended
    /// the answer early.
    cut: Cell<Option<&'static str>>,
    /// Whether the answer continues after the end of its session.
    outlives_session: Cell<bool>,
    /// The access-log event of the request. `None` if the access log is off, or if the gateway has
    /// already written the event.
    log: RefCell<Option<Box<RequestLog>>>,
    /// Wakes waiting tasks when `stage` becomes [`Stage::Ended`].
    ended: Notify,
    /// The waker of the task that sends the answer.
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy)]
enum Stage {
    /// The gateway has ended the answer early, and the body reports an error.
    Cut,
    /// The answer has ended. `Ended` contains the end code for the log.
    Ended(&'static str),
    Sending,
    /// The gateway has cut the answer, and the body yields trailers that contain a gRPC status.
    Trailers(CutCause),
}

impl LongAnswer {
    /// Prepares the answer. A task watches the answer as soon as the answer takes longer than about
    /// a second.
    pub(in crate::gateway) fn new(setup: LongAnswerSetup, streams: &Rc<Streams>) -> Rc<Self> {
        let guarded = matches!(setup.owner, AnswerOwner::Guarded(_));
        let answer = Rc::new(Self {
            streams: Rc::clone(streams),
            source: RefCell::new(AnswerSource::Direct(setup.body)),
            buffer: setup.buffer,
            owner: RefCell::new(Some(setup.owner)),
            entry: OnceCell::new(),
            control: OnceCell::new(),
            uploaded: setup.uploaded,
            sent: Cell::new(0),
            format: setup.format,
            started: setup.started,
            stage: Cell::new(Stage::Sending),
            cut: Cell::new(None),
            outlives_session: Cell::new(false),
            log: RefCell::new(None),
            ended: Notify::new(),
            waker: RefCell::new(None),
        });
        if guarded {
            answer.watch();
        } else {
            let waiter = Waiter::Answer(Rc::downgrade(&answer));
            answer.entry.get_or_init(|| streams.slow.enter(waiter));
        }
        answer
    }

    /// Starts the task that watches the answer until its end. Does nothing if a task already
    /// watches the answer.
    pub(super) fn watch(self: &Rc<Self>) {
        if let Some(owner) = self.owner.take() {
            drop(spawn_local(Rc::clone(self).run(owner)));
        }
    }

    async fn run(self: Rc<Self>, owner: AnswerOwner) {
        let mut guard = match owner {
            AnswerOwner::Guarded(guard) => *guard,
            AnswerOwner::Unguarded(stream, target) => {
                self.streams.guard(stream, target, StreamKind::Answer)
            }
        };
        guard.apply_limits(self.started);
        let site = self.streams.site.get();
        let route = guard.stream().route_name();
        let open = site.metrics().stream(route, "response");
        // The task drops its reference to the site, because a reload may replace the site while the
        // client receives the answer.
        drop(site);
        if let Some(log) = &*self.log.borrow() {
            log.event.log_stream();
        }
        let eviction = self.source.borrow().eviction();
        let end = tokio::select! {
            biased;
            end = self.ended() => end,
            cut = self.guarded(&mut guard) => {
                self.cut(cut).await;
                cut.reason
            }
            cut = evicted(eviction) => {
                self.cut(cut).await;
                cut.reason
            }
        };
        open.count_end(end);
        self.count_broken(open.route(), end);
        self.count_eviction(open.route(), end);
    }

    /// Waits until the guard ends the answer. If the answer outlives its session, the end of the
    /// session does not end the answer.
    async fn guarded(&self, guard: &mut StreamGuard) -> Cut {
        let cut = guard.ended(self).await;
        if cut.cause == CutCause::Session && self.outlives_session.get() {
            return pending().await;
        }
        cut
    }

    /// Lets the answer continue after the end of its session.
    pub(in crate::gateway) fn outlive_session(&self) {
        self.outlives_session.set(true);
    }

    /// Counts the answer in the metrics, if the gateway ended the answer because another request
    /// was waiting for the connection to the app.
    fn count_eviction(&self, route: &str, end: &'static str) {
        let mut reasons = [Eviction::SlowClient, Eviction::OverShare]
            .map(Eviction::reason)
            .into_iter();
        if reasons.any(|reason| reason == end) {
            let site = self.streams.site.get();
            site.metrics().evicted(route, "response", end);
        }
    }

    /// Counts the answer in the metrics, if the answer has ended before it was complete.
    fn count_broken(&self, route: &str, end: &'static str) {
        if end != COMPLETE {
            self.streams.site.get().metrics().broken_answer(route, end);
        }
    }

    /// Stores the access-log event, which is written at the end of the answer.
    pub(in crate::gateway) fn log_at_end(&self, log: Box<RequestLog>) {
        self.log.replace(Some(log));
    }

    /// Returns the access-log event, which the answer then no longer writes.
    pub(in crate::gateway) fn take_log(&self) -> Option<Box<RequestLog>> {
        self.log.take()
    }

    /// Ends the answer. The gateway immediately stops reading from the app, so the app's connection
    /// or HTTP/2 stream is closed.
    async fn cut(&self, cut: Cut) {
        self.source.replace(AnswerSource::Released);
        self.cut.set(Some(cut.reason));
        match self.format {
            AnswerFormat::Grpc => {
                self.stage.set(Stage::Trailers(cut.cause));
                if let Some(waker) = self.waker.take() {
                    waker.wake();
                }
                // Sending the trailers needs a time limit: if the client does not read, the
                // connection never polls the body of the answer.
                if timeout(TRAILERS_TIMEOUT, self.ended()).await.is_ok() {
                    return;
                }
            }
            AnswerFormat::Other => self.stage.set(Stage::Cut),
        }
        if let Some(control) = self.control.get() {
            control.abort();
        }
    }

    /// Waits until the answer has ended, and returns the end code.
    async fn ended(&self) -> &'static str {
        loop {
            let ended = self.ended.notified();
            if let Stage::Ended(end) = self.stage.get() {
                return end;
            }
            ended.await;
        }
    }

    fn end(&self, end: &'static str) {
        self.stage.set(Stage::Ended(end));
        self.ended.notify_waiters();
    }

    /// Returns the end code for an answer that ended before it was complete, although the app did
    /// not fail.
    fn interruption(&self) -> &'static str {
        let cut = self.cut.get();
        cut.unwrap_or_else(|| interruption(self.control.get()))
    }

    /// Stores the [`AnswerControl`] of the answer.
    pub(in crate::gateway) fn begin(self: &Rc<Self>, control: AnswerControl) {
        if self.buffer.memory > 0 {
            let answer: Weak<Self> = Rc::downgrade(self);
            control.when_slow(answer);
        }
        // The server calls this function one time for each answer, so the cell `control` is empty
        // here.
        self.control.set(control).unwrap_or_default();
    }

    /// Yields the next frame for the client.
    pub(in crate::gateway) fn poll_frame(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.stage.get() {
            Stage::Sending => {}
            Stage::Cut => return Poll::Ready(Some(Err(BodyError::Cut))),
            Stage::Ended(_) => return Poll::Ready(None),
            Stage::Trailers(cause) => {
                self.end(self.interruption());
                return Poll::Ready(Some(Ok(Frame::trailers(grpc_status(cause)))));
            }
        }
        let mut source = self.source.borrow_mut();
        let polled = source.poll_frame(cx);
        match &polled {
            Poll::Pending => {
                let mut waker = self.waker.borrow_mut();
                match &mut *waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
            }
            Poll::Ready(None) => self.end(COMPLETE),
            Poll::Ready(Some(Err(error))) => {
                let end = match error {
                    BodyError::Cut => None,
                    BodyError::File(error) => Some(self.file_lost(error)),
                    BodyError::Upstream(error) => broken_end(error),
                };
                self.end(end.unwrap_or_else(|| self.interruption()));
            }
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                let length = u64::try_from(length).unwrap_or(u64::MAX);
                self.sent.set(self.sent.get().saturating_add(length));
                if source.is_end_stream() {
                    self.end(COMPLETE);
                }
            }
        }
        polled
    }

    /// Logs that the file with the answer cannot be read. Returns the end code for the log, which
    /// states why the answer ended.
    fn file_lost(&self, error: &io::Error) -> &'static str {
        let log = self.log.borrow();
        let id = log
            .as_ref()
            .and_then(|log| log.event.request_id.to_str().ok());
        let error = chain(error);
        tracing::warn!(
            request.id = id,
            reason = FILE_LOST,
            error,
            "Answer broken off"
        );
        FILE_LOST
    }

    pub(in crate::gateway) fn is_end_stream(&self) -> bool {
        match self.stage.get() {
            Stage::Cut | Stage::Trailers(_) => false,
            Stage::Ended(_) => true,
            Stage::Sending => self.source.borrow().is_end_stream(),
        }
    }

    pub(in crate::gateway) fn size_hint(&self) -> SizeHint {
        match &*self.source.borrow() {
            AnswerSource::Direct(body) => body.size_hint(),
            AnswerSource::Buffered(_) | AnswerSource::Released => SizeHint::default(),
        }
    }

    /// Releases the app's connection. The client's connection calls this function when the
    /// connection stops sending the answer.
    pub(in crate::gateway) fn release(&self) {
        self.source.replace(AnswerSource::Released);
        let end = match self.stage.get() {
            Stage::Ended(end) => end,
            Stage::Cut | Stage::Sending | Stage::Trailers(_) => {
                let end = self.interruption();
                self.end(end);
                end
            }
        };
        // If a task watches the answer, the field `owner` is `None`, and the task counts the end of
        // the answer.
        if let Some(AnswerOwner::Unguarded(stream, _target)) = self.owner.take() {
            self.count_broken(stream.route_name(), end);
        }
        if let Some(mut log) = self.log.take() {
            log.stream_ended(end, None, self.sent.get());
        }
    }
}

impl SlowReader for LongAnswer {
    fn client_is_slow(self: Rc<Self>) {
        let mut source = self.source.borrow_mut();
        match std::mem::replace(&mut *source, AnswerSource::Released) {
            AnswerSource::Direct(rest) => {
                let buffer = self.streams.site.get().buffer(self.buffer);
                *source = AnswerSource::Buffered(ReadAhead::new(rest, buffer));
                drop(source);
                drop(spawn_local(async move {
                    poll_fn(|cx| self.poll_fill(cx)).await;
                }));
            }
            other @ (AnswerSource::Buffered(_) | AnswerSource::Released) => *source = other,
        }
    }
}

impl LongAnswer {
    /// Fills the buffer of the answer. Returns [`Poll::Ready`] when the app's answer has ended, or
    /// when the gateway no longer sends the answer.
    fn poll_fill(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut source = self.source.borrow_mut();
        let AnswerSource::Buffered(ahead) = &mut *source else {
            return Poll::Ready(());
        };
        let polled = ahead.poll_fill(cx);
        // The client's connection may already be waiting for the next frame, or for the end of the
        // answer.
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        polled
    }
}

impl ObservedStream for LongAnswer {
    fn bytes(&self) -> StreamBytes {
        StreamBytes {
            from_client: self.uploaded.bytes(),
            from_app: self.sent.get(),
        }
    }
}

impl fmt::Debug for LongAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LongAnswer")
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}

/// Waits until the gateway ends the answer because another request is waiting for the connection to
/// the app.
async fn evicted(watch: Option<EvictionWatch>) -> Cut {
    let Some(watch) = watch else {
        return pending().await;
    };
    let (cause, reason) = (CutCause::Limit, watch.evicted().await.reason());
    Cut { cause, reason }
}
