//! The progress of a request body.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::client_wait::ClientWait;
use super::error::Error;
use crate::clock::Clock;
use crate::upload::BoxError;

/// The progress of a request body: whether the gateway now waits for the client or for the origin,
/// and why the body ended too early.
///
/// [`ClientPauses`] states whether the deadlines of the origin count the time during which the
/// gateway waits for the client.
pub(super) struct UploadProgress {
    clock: Clock,
    pauses: ClientPauses,
    waiting_for: Cell<WaitingFor>,
    /// The time for which the gateway has waited for bytes from the client.
    client_wait: ClientWait,
    failure: RefCell<Option<BoxError>>,
}

/// States whether the time during which the gateway waits for the client counts towards the
/// deadlines of the origin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ClientPauses {
    /// The time during which the gateway waits for the client does not count towards the deadlines
    /// of the origin, because the listener has its own deadlines for slow clients.
    Ignored,
    /// The time during which the gateway waits for the client counts towards the deadlines of the
    /// origin, because the listener has no deadline for this request. See [`StreamingCall`].
    Counted,
}

/// If a request, such as a gRPC call, has the extension `StreamingCall`, the client may pause for
/// any time while the client sends the content. If neither the client nor the origin sends data, a
/// deadline of the origin ends the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamingCall;

#[derive(Clone, Copy)]
enum WaitingFor {
    /// The gateway waits for the client. The origin has accepted all bytes that the client has sent
    /// until now.
    Client,
    /// The gateway waits until the origin accepts bytes or answers. The variant `Origin` contains
    /// the time at which the gateway began to wait for the origin.
    Origin(Instant),
}

impl UploadProgress {
    pub(super) fn new(clock: &Clock, pauses: ClientPauses) -> Rc<Self> {
        Rc::new(Self {
            clock: clock.clone(),
            pauses,
            waiting_for: Cell::new(WaitingFor::Origin(clock.instant())),
            client_wait: ClientWait::default(),
            failure: RefCell::new(None),
        })
    }

    pub(super) fn wait_for_client(&self) {
        if !self.client_wait.is_waiting() {
            self.client_wait.begin(self.clock.instant());
        }
        // With `ClientPauses::Counted`, the deadline of the origin begins at the last part of the
        // body, so `waiting_for` stays unchanged.
        if self.pauses == ClientPauses::Ignored {
            self.waiting_for.set(WaitingFor::Client);
        }
    }

    /// Records that the client has sent `bytes` bytes, and that the gateway now waits for the
    /// origin.
    pub(super) fn wait_for_origin(&self, bytes: usize) {
        let now = self.clock.instant();
        self.client_wait.end(now, bytes);
        self.waiting_for.set(WaitingFor::Origin(now));
    }

    /// The time for which the gateway has waited for bytes from the client. `None` if the gateway
    /// does not wait for the client now.
    pub(super) fn waited(&self, now: Instant) -> Option<Duration> {
        self.client_wait.waited(now)
    }

    /// Returns the time at which the gateway began to wait for the origin. If the gateway waits for
    /// the client, this function returns the current time.
    pub(super) fn waiting_since(&self) -> Instant {
        match self.waiting_for.get() {
            WaitingFor::Client => self.clock.instant(),
            WaitingFor::Origin(since) => since,
        }
    }

    /// Records why the request body ended too early.
    pub(super) fn fail(&self, cause: BoxError) {
        *self.failure.borrow_mut() = Some(cause);
    }

    /// If the request body has failed, returns the error of the body. If the request body has not
    /// failed, returns `error`, which is the error of the connection.
    pub(super) fn explain(progress: Option<&Rc<Self>>, error: Error) -> Error {
        let failure = progress.and_then(|progress| progress.failure.borrow_mut().take());
        failure.map_or(error, Error::RequestBody)
    }
}
