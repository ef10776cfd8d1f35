//! A request that is in progress, and its HTTP/2 stream.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::body::{Afterwards, BodyWatch};
use super::control::{AnswerControl, Informed, SlowReader};
use super::deadline::ConnectionState;
use super::reading::{LowestRate, ReadFailure, ReadMeter};

/// The maximum number of bytes of an answer that the connection gets in one piece. The connection
/// asks for the next piece when the client's flow control allows more bytes. The pieces are small,
/// so that the gateway can measure how fast a slow client takes an answer.
const PIECE: usize = 16 * 1024;

/// One stream of an HTTP/2 connection.
#[derive(Debug, Default)]
pub(super) struct Stream {
    task: OnceCell<AbortHandle>,
    /// The time when the connection received the latest piece of the response. `None` if the client
    /// has accepted the latest piece.
    blocked: Cell<Option<Instant>>,
    /// The rest of the latest frame of the response: the bytes that the connection has not received
    /// yet.
    rest: RefCell<Bytes>,
    /// The number of bytes of the response that the client has accepted.
    taken: Cell<u64>,
    /// The length in bytes of the latest piece of the response.
    piece: Cell<u64>,
    meter: ReadMeter,
    /// The reason why the gateway ended the stream, if the client took the response too slowly.
    failure: Cell<Option<ReadFailure>>,
    informed: Informed,
    /// The body of the request, if the request has a body.
    upload: OnceCell<BodyWatch>,
    /// Whether the whole answer was passed to the connection.
    has_ended: Cell<bool>,
}

impl Stream {
    /// Stores a handle that can abort the task of the HTTP/2 stream.
    pub(super) fn spawned(&self, task: AbortHandle) {
        // The server spawns only one task for each HTTP/2 stream, so `self.task` is empty here.
        self.task.set(task).unwrap_or_default();
    }

    /// Records that the connection asks for the next piece of the response. Returns the next piece
    /// of the latest frame, if bytes of the frame are left.
    pub(super) fn next_piece(&self, now: Instant) -> Option<Frame<Bytes>> {
        self.blocked.set(None);
        let taken = self.taken.get();
        self.taken.set(taken.saturating_add(self.piece.take()));
        let rest = self.rest.take();
        (!rest.is_empty()).then(|| self.hand_over(Frame::data(rest), now))
    }

    /// Records that the connection receives a part of the response. If the frame is larger than one
    /// piece, the stream keeps the remaining bytes for the next piece.
    pub(super) fn hand_over(&self, frame: Frame<Bytes>, now: Instant) -> Frame<Bytes> {
        self.blocked.set(Some(now));
        frame.map_data(|mut piece| {
            if piece.len() > PIECE {
                self.rest.replace(piece.split_off(PIECE));
            }
            self.piece
                .set(u64::try_from(piece.len()).unwrap_or(u64::MAX));
            piece
        })
    }

    /// Whether the stream still keeps bytes of the latest frame of the answer.
    pub(super) fn has_rest(&self) -> bool {
        !self.rest.borrow().is_empty()
    }

    /// Returns the reason to end the stream, if the client's flow control has blocked the stream
    /// for too long. `last_stalled` is the latest time at which the socket accepted no bytes. Until
    /// the time `last_stalled`, the stream waited for the socket and not for the client's flow
    /// control. The measurement therefore begins at `last_stalled` or later.
    pub(super) fn read_failure(
        &self,
        now: Instant,
        last_stalled: Option<Instant>,
        (write, lowest): (Duration, LowestRate),
    ) -> Option<ReadFailure> {
        let blocked = self.blocked.get()?;
        let since = last_stalled.map_or(blocked, |stalled| stalled.max(blocked));
        if now.saturating_duration_since(since) >= write {
            return Some(ReadFailure::Stalled);
        }
        self.meter.look(now, since, self.taken.get(), lowest.least);
        let too_slow = self.meter.is_too_slow(lowest);
        too_slow.then_some(ReadFailure::TooSlow)
    }

    /// The time when the connection received the latest piece of the response. `None` if the client
    /// has accepted the latest piece.
    pub(super) fn blocked_since(&self) -> Option<Instant> {
        self.blocked.get()
    }

    /// The answer that is being sent on the stream.
    pub(super) fn informed(&self) -> &Informed {
        &self.informed
    }

    /// Ends the stream, because the client does not take the response fast enough.
    pub(super) fn fail(&self, failure: ReadFailure) {
        self.failure.set(Some(failure));
        self.abort();
    }

    /// Ends the stream. Shortly after this call, the runtime drops the task of the stream, and the
    /// client gets a reset of the stream.
    pub(super) fn abort(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }

    pub(super) fn failure(&self) -> Option<ReadFailure> {
        self.failure.get()
    }

    /// Stores the body of the request. The rest of the body is read after the answer has ended.
    pub(super) fn set_upload(&self, upload: BodyWatch) {
        // A stream has one request, so `self.upload` is empty here.
        self.upload.set(upload).unwrap_or_default();
    }

    /// Records that the connection has received the end of the answer.
    pub(super) fn answer_ends(&self) {
        self.has_ended.set(true);
    }
}

/// A request in flight. At first, the handler's future owns this guard. When the handler has
/// returned the response, the response body owns this guard.
#[derive(Debug)]
pub(super) struct InFlight {
    state: Rc<ConnectionState>,
    /// `None` over HTTP/1.1.
    stream: Option<Rc<Stream>>,
}

impl InFlight {
    pub(super) fn new(state: &Rc<ConnectionState>, stream: Option<Rc<Stream>>) -> Self {
        Self {
            state: Rc::clone(state),
            stream,
        }
    }

    /// Returns the HTTP/2 stream of the request, and the time at which the worker last checked all
    /// connections. Returns `None` over HTTP/1.1.
    pub(super) fn stream(&self) -> Option<(&Stream, Instant)> {
        let stream = self.stream.as_ref()?;
        Some((stream, self.state.coarse_now()))
    }

    /// Returns the [`AnswerControl`] with which the handler can end the answer to this request.
    pub(super) fn control(&self) -> AnswerControl {
        AnswerControl::new(&self.state, self.stream.as_ref())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state.end(self.stream.as_ref());
        let Some(stream) = &self.stream else { return };
        let Some(upload) = stream.upload.get() else {
            return;
        };
        if !stream.has_ended.get() {
            // The stream is reset at once, because its answer was ended early.
            drop(upload.answered(Afterwards::Refused));
        } else if let Some(body) = upload.answered(Afterwards::Discarded) {
            self.state.lingers(body);
        }
    }
}

impl ConnectionState {
    /// Returns the answers whose clients do not immediately accept all bytes. Over HTTP/1.1, the
    /// socket of a slow client currently accepts no more bytes. Over HTTP/2, the flow control of a
    /// slow client has not yet allowed the gateway to send all bytes of the latest piece of the
    /// answer. This function returns each answer only one time.
    pub(super) fn slow_readers(&self) -> impl Iterator<Item = Rc<dyn SlowReader>> {
        let mut slow = Vec::new();
        if self.is_stalled() {
            slow.extend(self.informed().take());
        }
        for stream in self.streams().borrow().iter() {
            if stream.blocked_since().is_some() {
                slow.extend(stream.informed().take());
            }
        }
        slow.into_iter()
    }

    /// Ends each HTTP/2 stream that the client blocks: the socket accepts bytes, but the client's
    /// flow control allows too few bytes. If the network is slow, all streams wait for the socket,
    /// so this function ends no stream. Returns the number of ended streams.
    pub(super) fn end_blocked_streams(
        &self,
        now: Instant,
        limits: (Duration, LowestRate),
    ) -> usize {
        let mut ended = 0_usize;
        for stream in self.streams().borrow().iter() {
            if let Some(failure) = stream.read_failure(now, self.last_stalled(), limits) {
                stream.fail(failure);
                ended = ended.saturating_add(1);
            }
        }
        ended
    }
}
