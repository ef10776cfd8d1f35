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
use super::http2::{self, KeepAlive};
use super::idle::{Granted, IdleConnections};
use super::limit::Limit;
use super::message::origin_form;
use super::outgoing::Outgoing;
use super::owner::{Owner, Requester};
use super::protocol::Protocol;
use super::response::ResponseBody;
use super::usage::Resource;
use crate::clock::Clock;
use crate::upload::Upload;

/// The time limits for the requests and connections to an origin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Times {
    /// The time limit for the complete response head, measured from the moment at which the origin
    /// last accepted bytes of the request.
    pub(crate) head: Duration,
    /// The longest pause inside a response body. `None` means no limit.
    pub(crate) stall: Option<Duration>,
    /// The maximum idle time of a connection. If a connection has been idle for longer than this
    /// time, the connection is not used again. With an idle time of zero, each request gets a new
    /// connection.
    pub(crate) idle: Duration,
    /// The settings of the pings that detect a dead HTTP/2 connection.
    pub(crate) keep_alive: KeepAlive,
}

/// A future whose result is the response of the origin. The future is ready when the response head
/// has arrived.
pub(crate) type ResponseFuture =
    Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Error>>>>;

/// The connections of one worker to one origin. Clones share the connections. A pool needs a
/// runtime that can spawn local tasks.
///
/// A pool uses an HTTP/1.1 connection again only under four conditions. The request and the
/// response have ended cleanly. The response has the version HTTP/1.1. The response states its
/// length exactly one time. No byte has arrived after the end of the response.
#[derive(Clone)]
pub(crate) struct Pool(pub(super) Connections);

/// The connections of a pool. All connections use the version of HTTP that the origin speaks.
#[derive(Clone)]
pub(super) enum Connections {
    Http1(Rc<Shared>),
    Http2(Rc<http2::Connections>),
}

pub(super) struct Shared {
    pub(super) connector: Arc<Connector>,
    pub(super) times: Times,
    pub(super) clock: Clock,
    pub(super) idle: Rc<IdleConnections>,
}

impl Pool {
    /// Creates an empty pool. Panics if the caller is not in a runtime that can spawn local tasks.
    pub(crate) fn new(
        connector: Arc<Connector>,
        limit: Arc<Limit>,
        times: Times,
        clock: Clock,
    ) -> Self {
        Self(match connector.protocol() {
            Protocol::Http1 => Connections::Http1(Rc::new(Shared {
                connector,
                times,
                idle: IdleConnections::new(limit, times.idle, clock.clone()),
                clock,
            })),
            Protocol::Http2 => {
                Connections::Http2(http2::Connections::new(connector, limit, times, clock))
            }
        })
    }

    /// Sends `request` in origin form (RFC 9112 section 3.2.1), and returns when the response head
    /// has arrived. `request` must have a `Host` field and no connection-specific fields.
    ///
    /// The pool sends a failed request one more time, on another connection, only in three cases.
    ///
    /// 1. No byte of the request was sent.
    ///
    /// 2. The connection was stale, the method is safe, and the request has no content. A used
    ///    connection is stale if the origin closes the connection before the first byte of the next
    ///    answer.
    ///
    /// 3. An HTTP/2 origin states that the origin has not processed the request (RFC 9113 section
    ///    8.7), and the request has no content.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Evicted`]. Before the connection is open, the errors are
    /// [`Error::Resolve`], [`Error::Connect`], [`Error::Tls`], [`Error::NoHttp2`] and
    /// [`Error::ConnectTimeout`]. After the connection is open, the errors are
    /// [`Error::RequestBody`], [`Error::HeadTimeout`], [`Error::Broken`], [`Error::Http2`],
    /// [`Error::Framing`] and [`Error::UnrequestedUpgrade`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the HTTP/1.1 connection, or resets the HTTP/2 stream. The origin
    /// may already have processed the request. If the pool has an idle HTTP/1.1 connection, the
    /// request is passed to the connection immediately, before the future is polled.
    pub(crate) fn send_for(
        &self,
        requester: Requester,
        request: Request<Upload>,
    ) -> ResponseFuture {
        let shared = match &self.0 {
            Connections::Http1(shared) => Rc::clone(shared),
            Connections::Http2(connections) => {
                return Box::pin(Rc::clone(connections).send(requester, request));
            }
        };
        let request = shared.prepare(request);
        let progress = request.body().progress();
        // A future that contains a request is large and expensive to move. The future contains the
        // request only if the request has to wait for a connection.
        match shared.idle.take(requester.owner) {
            Some(connection) => {
                let attempt = Attempt::begin(connection, request, progress, requester);
                shared.respond(attempt, requester)
            }
            None => Box::pin(async move {
                let connection = shared.open_or_wait(requester.owner).await?;
                let attempt = Attempt::begin(connection, request, progress, requester);
                shared.respond(attempt, requester).await
            }),
        }
    }

    /// The number of idle connections of this pool.
    pub(crate) fn idle(&self) -> usize {
        match &self.0 {
            Connections::Http1(shared) => shared.idle.count(),
            Connections::Http2(connections) => connections.idle(),
        }
    }
}

#[cfg(test)]
impl Pool {
    /// The number of HTTP/2 connections that accept requests.
    pub(super) fn usable(&self) -> usize {
        match &self.0 {
            Connections::Http1(_) => 0,
            Connections::Http2(connections) => connections.usable(),
        }
    }
}

impl Shared {
    /// Converts a request to the form that hyper writes to a connection.
    pub(super) fn prepare(&self, request: Request<Upload>) -> Request<Outgoing> {
        let (mut parts, upload) = request.into_parts();
        parts.version = Version::HTTP_11;
        parts.uri = origin_form(parts.uri);
        // The gateway removes all extensions of the request, because some extensions change how
        // hyper writes a request.
        parts.extensions.clear();
        let body = Outgoing::http1(&mut parts, upload, &self.clock, &self.connector);
        Request::from_parts(parts, body)
    }

    /// Waits for a free connection, or opens a new connection for this request.
    async fn open_or_wait(&self, owner: Owner) -> Result<Box<Connection>, Error> {
        match self.idle.wait(owner).await? {
            Granted::Connection(connection) => Ok(connection),
            Granted::Permit(permit) => {
                let usage = |task| self.idle.add_usage(Resource::Connection(task));
                let times = (&self.clock, self.times.head);
                Connection::open(&self.connector, permit, times, None, usage).await
            }
        }
    }

    /// Waits for the response. If the request fails and may be sent again, sends the request one
    /// more time.
    fn respond(self: Rc<Self>, mut attempt: Attempt, requester: Requester) -> ResponseFuture {
        Box::pin(async move {
            let answer = attempt.answer().await;
            let now = self.clock.instant();
            match attempt.into_response(answer, now, Some(&self.idle), self.times.stall) {
                Ok(response) => Ok(response),
                Err(failed) => Box::pin(self.send_again(failed, requester)).await,
            }
        })
    }

    /// Sends a failed request one more time, on another connection.
    async fn send_again(
        &self,
        failed: Failed,
        requester: Requester,
    ) -> Result<Response<ResponseBody>, Error> {
        let request = failed.retry.ok_or(failed.error)?;
        tracing::debug!("A connection was stale, so its request is sent on another connection");
        let connection = self.open_or_wait(requester.owner).await?;
        let mut again = Attempt::begin(connection, *request, failed.progress, requester);
        let answer = again.answer().await;
        let now = self.clock.instant();
        again
            .into_response(answer, now, Some(&self.idle), self.times.stall)
            // No request is sent a third time.
            .map_err(|failed| failed.error)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("idle", &self.idle())
            .finish_non_exhaustive()
    }
}
