//! Requests that ask the origin to switch to another protocol (RFC 9110 section 7.8).

use std::fmt;
use std::future::ready;
use std::pin::Pin;
use std::rc::Rc;

use http::response::Parts;
use http::{Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::attempt::Attempt;
use super::connection::Connection;
use super::error::Error;
use super::limit::Permit;
use super::outgoing::Outgoing;
use super::owner::Requester;
use super::pool::{Connections, Pool, Shared};
use super::response::ResponseBody;
use super::usage::{OpenUsage, Resource};
use crate::fields::UpgradeRequest;
use crate::relay::Peer;
use crate::upload::Upload;

/// The connection to an origin that has answered with a valid 101 response.
pub(crate) struct UpgradedOrigin {
    /// The head of the 101 response.
    pub(crate) head: Parts,
    /// The connection.
    pub(crate) origin: Peer,
    /// The protocol to which the origin has switched.
    pub(crate) upgrade: Box<UpgradeRequest>,
    /// The slot that this switched connection occupies. The number of slots is the maximum number
    /// of switched connections. Dropping this value frees the slot.
    pub(crate) slot: TunnelSlot,
}

/// While a `TunnelSlot` exists, its switched connection counts as a connection of the client.
pub(crate) struct TunnelSlot {
    _permit: Permit,
    _usage: OpenUsage,
}

impl fmt::Debug for UpgradedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradedOrigin").finish_non_exhaustive()
    }
}

/// The result of a request that asks for another protocol.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every exchange is a response, and a box would be an allocation for each"
)]
pub(crate) enum Exchange {
    /// The origin has not switched protocols, but has sent a response with a body.
    Response(Response<ResponseBody>),
    /// The origin has switched to the requested protocol.
    Tunnel(Box<UpgradedOrigin>),
}

/// The future that [`Pool::switch`] returns.
pub(crate) type ExchangeFuture = Pin<Box<dyn Future<Output = Result<Exchange, Error>>>>;

impl Pool {
    /// Sends a request whose fields ask for `upgrade`. The request has no content. The request gets
    /// a new connection, on which no other request is sent. The connection holds the permit `slot`
    /// until the socket of the connection is closed.
    ///
    /// # Errors
    ///
    /// Returns [`Error::BadSwitch`], or any error of [`Pool::send_for`] except [`Error::Busy`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection. The origin may already have processed the
    /// request.
    pub(crate) fn switch(
        &self,
        requester: Requester,
        request: Request<Upload>,
        upgrade: Box<UpgradeRequest>,
        slot: OwnedSemaphorePermit,
    ) -> ExchangeFuture {
        match &self.0 {
            Connections::Http1(shared) => {
                let request = shared.prepare(request);
                let slot = Permit::without_queue(slot);
                Box::pin(Rc::clone(shared).switch(requester, request, upgrade, slot))
            }
            // An HTTP/2 connection never switches to another protocol (RFC 9113 section 8.6).
            Connections::Http2(_) => Box::pin(ready(Err(Error::BadSwitch))),
        }
    }
}

impl Shared {
    async fn switch(
        self: Rc<Self>,
        requester: Requester,
        request: Request<Outgoing>,
        upgrade: Box<UpgradeRequest>,
        slot: Permit,
    ) -> Result<Exchange, Error> {
        let (sender, switched) = oneshot::channel();
        let times = (&self.clock, self.times.head);
        let usage = |_task| self.idle.add_usage(Resource::Tunnel);
        let connection =
            Connection::open(&self.connector, slot, times, Some(sender), usage).await?;
        let progress = request.body().progress();
        let mut attempt = Attempt::begin(connection, request, progress, requester);
        let answer = attempt.answer().await;
        let response = match answer {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => response,
            other => {
                // The connection does not return to the pool, because it counts towards the limit
                // of switched connections, and not towards the limit of the pool.
                let settled =
                    attempt.into_response(other, self.clock.instant(), None, self.times.stall);
                return settled
                    .map(Exchange::Response)
                    .map_err(|failed| failed.error);
            }
        };
        if !upgrade.is_granted_by(response.headers()) {
            return Err(Error::BadSwitch);
        }
        let (head, _no_content) = response.into_parts();
        // When HTTP has ended on the connection, the task of the connection sends the socket to
        // `switched`.
        let socket = switched.await.map_err(|_lost| Error::BadSwitch)?;
        let usage = self.idle.add_usage(Resource::Tunnel);
        usage.begin(requester, self.clock.instant(), None);
        Ok(Exchange::Tunnel(Box::new(UpgradedOrigin {
            head,
            origin: Peer {
                io: Box::new(socket.stream),
                early: socket.early,
            },
            upgrade,
            slot: TunnelSlot {
                _permit: socket.permit,
                _usage: usage,
            },
        })))
    }
}
