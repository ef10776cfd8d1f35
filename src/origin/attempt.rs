//! One attempt to send a request and to get its response, on one connection.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::connection::Connection;
use super::error::Error;
use super::idle::{Idle, Lease};
use super::message::{Framing, settle_framing};
use super::outgoing::Outgoing;
use super::pulse::Pulse;
use super::response::ResponseBody;

/// A request that a connection was given, and the way to its response.
pub(super) struct Attempt {
    connection: Box<Connection>,
    sent: Sent,
    pulse: Option<Rc<Pulse>>,
}

/// hyper gives back a request of which nothing was sent.
pub(super) type Answer = Result<Response<Incoming>, TrySendError<Request<Outgoing>>>;
type Sent = Pin<Box<dyn Future<Output = Answer>>>;

/// An exchange without a response.
pub(super) struct Failed {
    pub(super) error: Error,
    /// The request, when it may be sent once more.
    pub(super) again: Option<Box<Request<Outgoing>>>,
    pub(super) pulse: Option<Rc<Pulse>>,
}

impl Attempt {
    pub(super) fn begin(
        mut connection: Box<Connection>,
        request: Request<Outgoing>,
        pulse: Option<Rc<Pulse>>,
    ) -> Self {
        // Whether the origin may get it twice.
        let replayable = connection.used && pulse.is_none() && request.method().is_safe();
        connection.wire.begin(replayable);
        let sent = Box::pin(connection.sender.try_send_request(request));
        Self {
            connection,
            sent,
            pulse,
        }
    }

    /// What hyper says, or nothing within `limit`.
    pub(super) async fn answer(&mut self, limit: Duration) -> Option<Answer> {
        let Connection {
            patience, since, ..
        } = &mut *self.connection;
        let mut late = pin!(patience.end(*since, limit, self.pulse.as_ref()));
        poll_fn(|cx| match self.sent.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => late.as_mut().poll(cx).map(|()| None),
        })
        .await
    }

    /// Makes the response from hyper's answer. Its connection goes back to `idle`, if that is given,
    /// when the body has ended cleanly.
    pub(super) fn settle(
        mut self,
        answer: Option<Answer>,
        idle: Option<&Rc<Idle>>,
        stall: Option<Duration>,
    ) -> Result<Response<ResponseBody>, Failed> {
        let (mut parts, incoming) = match answer {
            Some(Ok(response)) => response.into_parts(),
            Some(Err(refused)) => return Err(self.refused(refused)),
            None => return Err(self.fail(Error::HeadTimeout)),
        };
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.fail(Error::UnaskedUpgrade));
        }
        let framing = match settle_framing(&mut parts.headers, parts.status, &incoming) {
            Ok(framing) => framing,
            Err(error) => return Err(self.fail(error)),
        };
        let reusable = framing == Framing::Plain && parts.version == Version::HTTP_11;
        parts.version = Version::HTTP_11;
        self.connection.used = true;
        let lease = match idle {
            Some(idle) if reusable => Lease::reusable(self.connection, Rc::clone(idle)),
            Some(_) | None => Lease::last(self.connection),
        };
        let body = ResponseBody::new(incoming, lease, self.pulse, stall);
        Ok(Response::from_parts(parts, body))
    }

    fn refused(self, mut refused: TrySendError<Request<Outgoing>>) -> Failed {
        let unsent = refused.take_message();
        let again = unsent.or_else(|| {
            let parts = self.connection.wire.unanswered()?;
            Some(Request::from_parts(parts, Outgoing::empty()))
        });
        let error = Pulse::explain(self.pulse.as_ref(), refused.into_error());
        Failed {
            again: again.map(Box::new),
            ..self.fail(error)
        }
    }

    fn fail(self, error: Error) -> Failed {
        Failed {
            error,
            again: None,
            pulse: self.pulse,
        }
    }
}
