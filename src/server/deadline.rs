//! The state of each connection, and the deadlines.
//!
//! hyper never closes a connection on which no bytes arrive, so this module implements the
//! deadlines of connections. Each connection has one [`ConnectionState`]. The socket, the request
//! service and the response body record their activity in the cells of the [`ConnectionState`].
//! Each worker reads the cells of all its connections in a sweep, at least four times per second. A
//! request does not set its own timer.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::arrivals::Arrivals;
use super::coarse_clock::CoarseClock;
use super::control::{Informed, StreamStop};
use super::dormant::Dormancy;
use super::half_closed::HalfClosed;
pub(super) use super::phase::{Phase, Protocol};
use super::place::Place;
use super::reading::{LowestRate, ReadFailure, ReadMeter, acknowledged};
use super::stream::{InFlight, Stream};
use super::unread::Lingering;
use crate::clock::Clock;

/// The longest time for which the gateway continues to read after the last response. If a socket
/// with unread input is closed, the kernel sends a reset. A reset can destroy a response that the
/// client has not received yet.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// The state of one connection. Only the worker that serves the connection accesses the
/// `ConnectionState`.
#[derive(Debug)]
pub(super) struct ConnectionState {
    /// The other end of the socket. [`ConnectionState::client`] is the address of the client.
    pub(super) peer: SocketAddr,
    pub(super) place: Place,
    /// The socket of the connection. `None` before the connection is served and after the end of
    /// the connection.
    socket: RefCell<Option<TcpStream>>,
    coarse_clock: Rc<CoarseClock>,
    phase: Cell<Phase>,
    pub(super) since: Cell<Instant>,
    /// The time when the socket last sent or received bytes.
    pub(super) last_transfer: Cell<Instant>,
    /// The time at which the socket stopped accepting bytes. `None` if the socket accepted the
    /// latest write.
    pub(super) stalled: Cell<Option<Instant>>,
    /// The time of the latest write that the socket did not accept because its send buffer was
    /// full.
    last_stalled: Cell<Option<Instant>>,
    pub(super) meter: ReadMeter,
    in_flight: Cell<usize>,
    /// Whether the handler has received at least one request of this connection.
    served: Cell<bool>,
    /// Whether a request body was dropped before its end, so that the socket may contain unread
    /// input.
    unread: Cell<bool>,
    /// Whether the last read found no bytes. If this is false, TLS or the kernel can still have
    /// bytes of the client.
    input_is_empty: Cell<bool>,
    /// The time when the gateway asked the connection to close.
    pub(super) closing: Cell<Option<Instant>>,
    waker: RefCell<Option<Waker>>,
    /// Whether a request asked for another protocol. After a request for another protocol, hyper
    /// leaves the connection open, so our code has to close the connection.
    upgrade_requested: Cell<bool>,
    pub(super) stop: StreamStop,
    /// Whether the client has sent the HTTP/2 connection preface.
    http2: Cell<bool>,
    pub(super) half_closed: HalfClosed,
    pub(super) lingering: Lingering,
    /// The reason why the connection was ended, if the client did not take bytes fast enough.
    failure: Cell<Option<ReadFailure>>,
    /// Whether the latest request is an HTTP/1.0 request.
    is_http10: Cell<bool>,
    /// Whether the socket has to be closed with a reset.
    has_broken_answer: Cell<bool>,
    dormancy: Dormancy,
    arrivals: Arrivals,
    /// Whether the server no longer waits until the client closes the connection.
    linger_over: Cell<bool>,
    task: OnceCell<AbortHandle>,
    /// The answer that is being sent over HTTP/1.1.
    informed: Informed,
    /// The newest HTTP/2 stream. The value is `None` if the task of the newest HTTP/2 stream was
    /// already spawned.
    unspawned: RefCell<Option<Rc<Stream>>>,
    streams: RefCell<Vec<Rc<Stream>>>,
}

impl ConnectionState {
    pub(super) fn new(peer: SocketAddr, coarse_clock: &Rc<CoarseClock>) -> Rc<Self> {
        let now = coarse_clock.now();
        Rc::new(Self {
            peer,
            place: Place::default(),
            socket: RefCell::new(None),
            coarse_clock: Rc::clone(coarse_clock),
            phase: Cell::new(Phase::FirstByte),
            since: Cell::new(now),
            last_transfer: Cell::new(now),
            stalled: Cell::new(None),
            last_stalled: Cell::new(None),
            meter: ReadMeter::default(),
            in_flight: Cell::new(0),
            served: Cell::new(false),
            unread: Cell::new(false),
            input_is_empty: Cell::new(true),
            closing: Cell::new(None),
            waker: RefCell::new(None),
            upgrade_requested: Cell::new(false),
            stop: StreamStop::default(),
            http2: Cell::new(false),
            half_closed: HalfClosed::default(),
            lingering: Lingering::default(),
            failure: Cell::new(None),
            is_http10: Cell::new(false),
            has_broken_answer: Cell::new(false),
            dormancy: Dormancy::default(),
            arrivals: Arrivals::default(),
            linger_over: Cell::new(false),
            task: OnceCell::new(),
            informed: Informed::default(),
            unspawned: RefCell::new(None),
            streams: RefCell::new(Vec::new()),
        })
    }

    /// Returns the exact clock, for durations that must be more precise than the time between two
    /// sweeps.
    pub(super) fn clock(&self) -> &Clock {
        self.coarse_clock.clock()
    }

    /// Returns the time of the last sweep.
    pub(super) fn coarse_now(&self) -> Instant {
        self.coarse_clock.now()
    }

    /// Whether the worker of this connection had more than [`super::dormant::CROWD`] connections at
    /// the last sweep.
    pub(super) fn is_crowded(&self) -> bool {
        self.coarse_clock.is_crowded()
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(self.coarse_clock.now());
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Records that the socket has received `bytes` of any kind.
    pub(super) fn received(&self, bytes: &[u8]) {
        self.last_transfer.set(self.coarse_clock.now());
        if self.phase.get() == Phase::FirstByte {
            self.arrivals.begin(bytes);
            self.enter(Phase::Handshake);
        }
    }

    /// Records that a request head begins. Does nothing if the received bytes belong to a head that
    /// has already begun, to a request body or to a pipelined request.
    pub(super) fn head_begins(&self) {
        if matches!(
            self.phase.get(),
            Phase::FirstByte | Phase::Handshake | Phase::Idle
        ) {
            self.enter(Phase::Head);
        }
    }

    /// Records that the HTTP/2 connection preface is complete. After the preface, the connection
    /// enters the phase `Idle`, because the next frame does not always begin a request.
    pub(super) fn preface_complete(&self) {
        self.http2.set(true);
        if self.phase.get() == Phase::Head {
            self.enter(Phase::Idle);
        }
    }

    pub(super) fn speaks_http2(&self) -> bool {
        self.http2.get()
    }

    /// Records that the socket has accepted bytes.
    pub(super) fn sent(&self) {
        self.last_transfer.set(self.coarse_clock.now());
        let was_stalled = self.stalled.take().is_some();
        // While the last bytes of an answer waited, hyper did not learn the end of the input.
        if was_stalled && self.is_half_closed() && self.phase.get() == Phase::Idle {
            self.wake();
        }
    }

    /// Records that the socket currently accepts no more bytes.
    pub(super) fn send_waits(&self) {
        self.last_stalled.set(Some(self.coarse_clock.now()));
        if self.stalled.get().is_none() {
            self.stalled.set(Some(self.coarse_clock.now()));
        }
    }

    pub(super) fn body_left_unread(&self) {
        self.unread.set(true);
    }

    /// Records that the rest of a body that was left unread was read.
    pub(super) fn body_is_read(&self) {
        self.unread.set(false);
    }

    pub(super) fn upgrade_requested(&self) {
        self.upgrade_requested.set(true);
    }

    /// Whether a request on this connection has asked for another protocol.
    pub(super) fn is_upgrade_requested(&self) -> bool {
        self.upgrade_requested.get()
    }

    /// Ends the connection, because the client does not take bytes fast enough.
    pub(super) fn fail(&self, failure: ReadFailure) {
        self.failure.set(Some(failure));
        self.abort();
    }

    pub(super) fn failure(&self) -> Option<ReadFailure> {
        self.failure.get()
    }

    pub(super) fn socket(&self) -> &RefCell<Option<TcpStream>> {
        &self.socket
    }

    /// Whether the client may still send bytes of a request when the gateway closes the connection.
    pub(super) fn has_unread_input(&self) -> bool {
        self.unread.get() || self.phase.get() == Phase::Head
    }

    /// Records whether a read found no bytes.
    pub(super) fn set_input_is_empty(&self, is_empty: bool) {
        self.input_is_empty.set(is_empty);
    }

    /// Whether the last read found no bytes.
    pub(super) fn input_is_empty(&self) -> bool {
        self.input_is_empty.get()
    }

    /// Begins a request. The request is in flight until the returned guard is dropped.
    pub(super) fn begin(self: &Rc<Self>, protocol: Protocol) -> InFlight {
        self.in_flight.set(self.in_flight.get().saturating_add(1));
        // hyper reads the complete body of a request before the next request, so the socket
        // contains no unread part of an earlier body.
        self.unread.set(false);
        self.served.set(true);
        self.enter(Phase::Busy);
        let stream = match protocol {
            Protocol::Http1 => None,
            Protocol::Http2 => {
                self.arrivals.request_begins();
                let stream = Rc::new(Stream::default());
                self.streams.borrow_mut().push(Rc::clone(&stream));
                self.unspawned.replace(Some(Rc::clone(&stream)));
                Some(stream)
            }
        };
        InFlight::new(self, stream)
    }

    /// Stores the task of the newest stream, so that the gateway can end this stream and keep the
    /// connection.
    pub(super) fn stream_spawned(&self, task: AbortHandle) {
        if let Some(stream) = self.unspawned.take() {
            stream.spawned(task);
        }
    }

    /// Ends a request.
    pub(super) fn end(&self, stream: Option<&Rc<Stream>>) {
        if let Some(stream) = stream {
            self.streams
                .borrow_mut()
                .retain(|other| !Rc::ptr_eq(other, stream));
        }
        let left = self.in_flight.get().saturating_sub(1);
        self.in_flight.set(left);
        if left == 0 {
            self.enter(Phase::Idle);
            if self.is_half_closed() {
                // hyper now has to find the end of the input, which was hidden during the answer.
                self.wake();
            }
        }
    }

    pub(super) fn has_served(&self) -> bool {
        self.served.get()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Stores the task of the connection, so that the sweep can end the connection.
    pub(super) fn spawned(&self, task: AbortHandle) {
        // The server spawns only one task for each connection, so `self.task` is empty here.
        self.task.set(task).unwrap_or_default();
    }

    /// Ends the connection. The runtime drops the task of the connection soon afterwards.
    pub(super) fn abort(&self) {
        if self.in_flight.get() > 0 {
            self.break_answer();
        }
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }

    /// Records whether the latest request is an HTTP/1.0 request.
    pub(super) fn set_http10(&self, is_http10: bool) {
        self.is_http10.set(is_http10);
    }

    /// Makes the socket close with a reset, if the latest request is an HTTP/1.0 request. In
    /// HTTP/1.0, the server can mark the end of an answer by closing the connection. Without a
    /// reset, the client would mistake a broken answer for a complete answer.
    pub(super) fn break_answer(&self) {
        if self.is_http10.get() {
            self.has_broken_answer.set(true);
        }
    }

    /// Whether the socket has to be closed with a reset.
    pub(super) fn has_broken_answer(&self) -> bool {
        self.has_broken_answer.get()
    }

    /// Asks the connection to finish the requests in flight, and then to close.
    pub(super) fn close(&self) {
        if self.closing.get().is_none() {
            self.closing.set(Some(self.coarse_clock.now()));
            // The task of the connection may be waiting for the next request of the client.
            self.wake();
        }
    }

    /// Wakes the task of the connection.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.get().is_some()
    }

    /// Stores the waker with which the sweep and [`ConnectionState::close`] wake the task.
    pub(super) fn set_waker(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
    }

    /// Returns the time at which the connection became idle. Returns `None` if the connection is
    /// not idle or has bytes to send.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let idle = self.phase.get() == Phase::Idle && self.stalled.get().is_none();
        idle.then(|| self.since.get())
    }

    pub(super) fn dormancy(&self) -> &Dormancy {
        &self.dormancy
    }

    pub(super) fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    /// Ends the wait until the client closes the connection. The task of the connection continues,
    /// so that it can report why the connection ended.
    pub(super) fn end_linger(&self) {
        self.linger_over.set(true);
        self.wake();
    }

    pub(super) fn is_linger_over(&self) -> bool {
        self.linger_over.get()
    }

    /// The answer that is being sent over HTTP/1.1.
    pub(super) fn informed(&self) -> &Informed {
        &self.informed
    }

    /// The open HTTP/2 streams.
    pub(super) fn streams(&self) -> &RefCell<Vec<Rc<Stream>>> {
        &self.streams
    }

    /// Whether the socket did not accept the latest write.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.get().is_some()
    }

    /// The time of the latest write that the socket did not accept.
    pub(super) fn last_stalled(&self) -> Option<Instant> {
        self.last_stalled.get()
    }

    /// If the socket accepts no bytes, asks the kernel how many bytes the client has acknowledged.
    /// Returns true if the client takes the bytes of the answer more slowly than the rate `lowest`.
    pub(super) fn is_too_slow(&self, now: Instant, lowest: LowestRate) -> bool {
        let Some(stalled) = self.stalled.get() else {
            return false;
        };
        let socket = self.socket.borrow();
        let taken = socket.as_ref().and_then(acknowledged).unwrap_or_default();
        self.meter.look(now, stalled, taken, lowest.least);
        self.meter.is_too_slow(lowest)
    }
}

#[cfg(test)]
#[path = "deadline_tests.rs"]
mod tests;
