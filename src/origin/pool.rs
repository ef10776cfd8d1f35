//! A worker's connections to one origin.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, Version};

use super::attempt::{Attempt, Failed};
use super::connection::Connection;
use super::connector::Connector;
use super::error::Error;
use super::idle::{Granted, Idle};
use super::limit::Limit;
use super::message::origin_form;
use super::outgoing::Outgoing;
use super::response::ResponseBody;
use crate::clock::Clock;
use crate::upload::Upload;

/// How long an origin may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Times {
    /// From the last progress of the request to the whole response head.
    pub(crate) head: Duration,
    /// The longest silence inside a response body; `None` allows any.
    pub(crate) stall: Option<Duration>,
    /// The longest time after which an idle connection is used again; zero never uses one again.
    pub(crate) idle: Duration,
}

/// The response to a request that was given to a [`Pool`], once its head is there.
pub(crate) type Sending = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Error>>>>;

/// One worker's connections to one origin; clones share them. Lives where local tasks are spawned.
///
/// A connection is used again only if everything about its last exchange was in order: request
/// sent and response read to their clean ends, HTTP/1.1 spoken, nothing announced twice, not one
/// byte too many.
#[derive(Clone)]
pub(crate) struct Pool(pub(super) Rc<Shared>);

pub(super) struct Shared {
    pub(super) connector: Arc<Connector>,
    pub(super) times: Times,
    pub(super) clock: Clock,
    idle: Rc<Idle>,
}

impl Pool {
    /// An empty pool. Panics where no local task can be spawned.
    pub(crate) fn new(
        connector: Arc<Connector>,
        limit: Arc<Limit>,
        times: Times,
        clock: Clock,
    ) -> Self {
        Self(Rc::new(Shared {
            connector,
            times,
            idle: Idle::new(limit, times.idle, clock.clone()),
            clock,
        }))
    }

    /// Sends `request` in origin form (RFC 9112 section 3.2.1) as HTTP/1.1 and returns once the
    /// response head is there. The request has its `Host` and no connection-specific fields.
    ///
    /// A request of a safe method without content that met a connection dying of old age (used
    /// before, not one byte of an answer) is sent once more, on another connection. A request of
    /// which nothing was sent is too. No other is ever sent twice.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`]; connecting: [`Error::Resolve`], [`Error::Connect`], [`Error::Tls`],
    /// [`Error::ConnectTimeout`]; after that [`Error::RequestBody`], [`Error::HeadTimeout`],
    /// [`Error::Broken`], [`Error::Framing`], [`Error::UnrequestedUpgrade`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection; the origin may have acted. An idle connection
    /// gets the request at once, before the future is polled.
    pub(crate) fn send(&self, request: Request<Upload>) -> Sending {
        let request = self.0.prepare(request);
        let progress = request.body().progress();
        let shared = Rc::clone(&self.0);
        // No future holds a request that need not wait: it is large, and futures are moved.
        match shared.idle.take() {
            Some(connection) => shared.respond(Attempt::begin(connection, request, progress)),
            None => Box::pin(async move {
                let connection = shared.open_or_wait().await?;
                shared
                    .respond(Attempt::begin(connection, request, progress))
                    .await
            }),
        }
    }

    /// How many connections of this pool are idle.
    pub(crate) fn idle(&self) -> usize {
        self.0.idle.count()
    }
}

impl Shared {
    /// The request as it is written on a connection.
    pub(super) fn prepare(&self, request: Request<Upload>) -> Request<Outgoing> {
        let (mut parts, upload) = request.into_parts();
        parts.version = Version::HTTP_11;
        parts.uri = origin_form(parts.uri);
        // Nothing that our own side attached may steer how the request is written.
        parts.extensions.clear();
        Request::from_parts(parts, Outgoing::new(upload, &self.clock))
    }

    /// A connection that this request alone waited for.
    async fn open_or_wait(&self) -> Result<Box<Connection>, Error> {
        match self.idle.wait().await? {
            Granted::Connection(connection) => Ok(connection),
            Granted::Permit(permit) => {
                Connection::open(&self.connector, permit, &self.clock, None).await
            }
        }
    }

    /// Waits for the response, and sends the request once more where that may be.
    fn respond(self: Rc<Self>, mut attempt: Attempt) -> Sending {
        Box::pin(async move {
            let Times { head, stall, .. } = self.times;
            let answer = attempt.answer(head).await;
            match attempt.into_response(answer, Some(&self.idle), stall) {
                Ok(response) => Ok(response),
                Err(failed) => Box::pin(self.send_again(failed)).await,
            }
        })
    }

    /// Sends a request once more, on another connection.
    async fn send_again(&self, failed: Failed) -> Result<Response<ResponseBody>, Error> {
        let request = failed.retry.ok_or(failed.error)?;
        tracing::debug!("A request met a stale connection and is sent on another");
        let connection = self.open_or_wait().await?;
        let mut again = Attempt::begin(connection, *request, failed.progress);
        let Times { head, stall, .. } = self.times;
        let answer = again.answer(head).await;
        again
            .into_response(answer, Some(&self.idle), stall)
            .map_err(|failed| failed.error)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("connector", &self.0.connector)
            .field("idle", &self.idle())
            .finish_non_exhaustive()
    }
}
