//! The progress of a request body.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::time::Instant;

use super::error::Error;
use crate::clock::Clock;
use crate::upload::BoxError;

/// Whether the client or the origin causes a wait while a request body is sent, and why the body
/// broke off.
///
/// The deadlines of the origin must not run while the client is slow. The listener has deadlines of
/// its own for slow clients.
pub(super) struct UploadProgress {
    clock: Clock,
    waiting_for: Cell<WaitingFor>,
    failure: RefCell<Option<BoxError>>,
}

#[derive(Clone, Copy)]
enum WaitingFor {
    /// The origin takes all bytes. The client has to send more.
    Client,
    /// Since this time the origin has to take bytes or to answer.
    Origin(Instant),
}

impl UploadProgress {
    pub(super) fn new(clock: &Clock) -> Rc<Self> {
        Rc::new(Self {
            clock: clock.clone(),
            waiting_for: Cell::new(WaitingFor::Origin(clock.instant())),
            failure: RefCell::new(None),
        })
    }

    pub(super) fn wait_for_client(&self) {
        self.waiting_for.set(WaitingFor::Client);
    }

    pub(super) fn wait_for_origin(&self) {
        self.waiting_for
            .set(WaitingFor::Origin(self.clock.instant()));
    }

    /// Since when we wait for the origin. If we wait for the client, this is the present time.
    pub(super) fn waiting_since(&self) -> Instant {
        match self.waiting_for.get() {
            WaitingFor::Client => self.clock.instant(),
            WaitingFor::Origin(since) => since,
        }
    }

    /// Records why the request body broke off.
    pub(super) fn fail(&self, cause: BoxError) {
        *self.failure.borrow_mut() = Some(cause);
    }

    /// The real cause of an error of the connection. If the request body broke off first, that is
    /// the cause.
    pub(super) fn explain(progress: Option<&Rc<Self>>, error: hyper::Error) -> Error {
        let failure = progress.and_then(|progress| progress.failure.borrow_mut().take());
        failure.map_or(Error::Broken(error), Error::RequestBody)
    }
}
