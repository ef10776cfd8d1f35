//! One attempt to send a request and to get its response, on one connection.

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::Instant;

use super::connection::Connection;
use super::error::Error;
use super::idle::{BorrowedConnection, IdleConnections};
use super::message::{Framing, normalize_framing};
use super::outgoing::Outgoing;
use super::owner::Requester;
use super::progress::UploadProgress;
use super::received::Received;
use super::response::ResponseBody;

/// A request that was passed to a connection, and the future of its response.
pub(super) struct Attempt {
    connection: Box<Connection>,
    pending: PendingAnswer,
    progress: Option<Rc<UploadProgress>>,
}

/// The result from hyper. If hyper has sent no byte of a request, the error from hyper contains the
/// request.
pub(super) type Answer = Result<Response<Incoming>, TrySendError<Request<Outgoing>>>;
type PendingAnswer = Pin<Box<dyn Future<Output = Answer>>>;

/// A request that failed before a response arrived.
pub(super) struct Failed {
    pub(super) error: Error,
    /// The failed request, if the gateway may send the request again.
    pub(super) retry: Option<Box<Request<Outgoing>>>,
    pub(super) progress: Option<Rc<UploadProgress>>,
}

/// An extension of a response: the status of the informational (1xx) response that came before this
/// response. The gateway forwards no informational response except `100 Continue`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Informational(pub(crate) StatusCode);

impl Attempt {
    pub(super) fn begin(
        mut connection: Box<Connection>,
        request: Request<Outgoing>,
        progress: Option<Rc<UploadProgress>>,
        requester: Requester,
    ) -> Self {
        let since = connection.since;
        connection.usage.begin(requester, since, progress.as_ref());
        // The head of a request is recorded only if the connection had been used before, because a
        // new connection is never stale. The origin may receive the repeated request two times, so
        // the gateway repeats only a request with a safe method and without content (RFC 9110
        // section 9.2.2).
        let replayable = connection.used && progress.is_none() && request.method().is_safe();
        connection.traffic.begin(replayable);
        connection.traffic.awaited().begin(since, progress.as_ref());
        let pending = Box::pin(connection.sender.try_send_request(request));
        Self {
            connection,
            pending,
            progress,
        }
    }

    /// Waits for hyper's result.
    pub(super) async fn answer(&mut self) -> Answer {
        self.pending.as_mut().await
    }

    /// Converts hyper's result into a response. When the body has ended without an error, the
    /// connection is added to the idle connections in `idle`. If `idle` is `None`, the connection
    /// is closed after the response. `now` is the current time.
    pub(super) fn into_response(
        mut self,
        answer: Answer,
        now: Instant,
        idle: Option<&Rc<IdleConnections>>,
        stall: Option<Duration>,
    ) -> Result<Response<ResponseBody>, Failed> {
        let awaited = self.connection.traffic.awaited();
        awaited.arrived();
        let (mut parts, incoming) = match answer {
            _ if awaited.is_late() => return Err(self.fail(Error::HeadTimeout)),
            Ok(response) => response.into_parts(),
            Err(refused) => return Err(self.refused(refused)),
        };
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.fail(Error::UnrequestedUpgrade));
        }
        let Connection {
            traffic, limits, ..
        } = &*self.connection;
        // Most answers are smaller than the limit with their first bytes of content.
        if traffic.received() > limits.head_bytes
            && let Err(error) = limits.check(&parts)
        {
            return Err(self.fail(error));
        }
        let framing = match normalize_framing(&mut parts.headers, parts.status, &incoming) {
            Ok(framing) => framing,
            Err(error) => return Err(self.fail(error)),
        };
        // If the length of the response is ambiguous, the gateway cannot know where the next
        // response begins. An HTTP/1.0 server closes the connection after its response.
        let reusable = framing == Framing::Unambiguous && parts.version == Version::HTTP_11;
        // The origin's answer may have the version HTTP/1.0, and hyper would also use this version
        // for the answer to the client.
        parts.version = Version::HTTP_11;
        if let Some(status) = self.connection.traffic.informational() {
            parts.extensions.insert(Informational(status));
        }
        self.connection.used = true;
        let borrowed = match idle {
            Some(idle) if reusable => {
                BorrowedConnection::reusable(self.connection, Rc::clone(idle))
            }
            Some(_) | None => BorrowedConnection::single_use(self.connection),
        };
        let body = ResponseBody::new(
            (Received::Http1(incoming), now),
            Some(borrowed),
            self.progress,
            stall,
        );
        Ok(Response::from_parts(parts, body))
    }

    fn refused(self, mut refused: TrySendError<Request<Outgoing>>) -> Failed {
        let unsent = refused.take_message();
        let retry = unsent.or_else(|| {
            let parts = self.connection.traffic.unanswered_head()?;
            Some(Request::from_parts(parts, Outgoing::empty()))
        });
        let received = self.connection.traffic.received();
        let error = self
            .connection
            .limits
            .explain(refused.into_error(), received);
        let error = match self.connection.usage.eviction() {
            Some(eviction) => Error::Evicted(eviction),
            None => UploadProgress::explain(self.progress.as_ref(), error),
        };
        Failed {
            retry: retry.map(Box::new),
            ..self.fail(error)
        }
    }

    fn fail(self, error: Error) -> Failed {
        Failed {
            error,
            retry: None,
            progress: self.progress,
        }
    }
}
