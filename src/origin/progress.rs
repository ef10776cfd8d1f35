//! Who is waited for while a request body is sent.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::time::Instant;

use super::error::Error;
use crate::clock::Clock;
use crate::upload::BoxError;

/// Who is waited for while a request body is sent, and why the body broke off.
///
/// The origin's deadlines must not run while the client is slow: the listener judges a slow client.
pub(super) struct UploadProgress {
    clock: Clock,
    waiting_for: Cell<WaitingFor>,
    failure: RefCell<Option<BoxError>>,
}

#[derive(Clone, Copy)]
enum WaitingFor {
    /// The origin takes what comes; the client has to send.
    Client,
    /// Since then the origin has to take bytes, or to answer.
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

    /// Since when the origin has kept us waiting; while it is the client's turn, since now.
    pub(super) fn waiting_since(&self) -> Instant {
        match self.waiting_for.get() {
            WaitingFor::Client => self.clock.instant(),
            WaitingFor::Origin(since) => since,
        }
    }

    /// The request body broke off.
    pub(super) fn fail(&self, cause: BoxError) {
        *self.failure.borrow_mut() = Some(cause);
    }

    /// What an error of the connection really was: the request body's own, if that broke first.
    pub(super) fn explain(progress: Option<&Rc<Self>>, error: hyper::Error) -> Error {
        let failure = progress.and_then(|progress| progress.failure.borrow_mut().take());
        failure.map_or(Error::Broken(error), Error::RequestBody)
    }
}
