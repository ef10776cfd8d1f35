//! Listening addresses, connections, framing and deadlines: everything between the network and a
//! request, for any [`Handler`].
//!
//! This room knows TCP, TLS handshakes (with the configuration of a [`crate::tls::Acceptor`]),
//! HTTP/1.1 and HTTP/2 framing (done by hyper), the deadlines and limits that hyper does not have,
//! and how to stop without losing a request. It refuses to know who is signed in, what a path
//! means, and what is behind. [`Workers::start`] is the way in.
//!
//! Decisions that cost an argument:
//!
//! - Each worker is one thread with one current-thread runtime; a listening address is bound once,
//!   exclusively, and each worker polls a duplicate of that descriptor, so that draining loses no
//!   queued connection.
//! - ALPN alone decides the protocol over TLS, and a plain listener speaks HTTP/1.1 only: waiting
//!   for enough bytes to tell the protocols apart is how a silent client stays for ever.
//! - Deadlines are cells that one sweep per worker reads. A request arms no timer.
//! - Over HTTP/2, what one turn of a connection answers leaves as one TLS record: small pieces are
//!   copied together for it, which costs less than a record and a system call for each. Of the fields
//!   only those that repeat enter the table of compressed ones.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body::Body;
use http_body_util::Full;

use crate::clock::Clock;
use crate::relay::Peer;
use crate::tls::Acceptor;

mod body;
mod connection;
mod deadline;
mod gather;
mod hpack;
mod listener;
mod socket;
mod switch;
mod worker;

pub use body::BodyFailure;
pub(crate) use body::{BodyWatch, RequestBody};
pub(crate) use deadline::TunnelStop;
pub(crate) use listener::Listener;
pub use worker::Drained;
pub(crate) use worker::Workers;

/// How connections are treated.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// What may take how long.
    pub(crate) deadlines: Deadlines,
    /// What may be how large.
    pub(crate) limits: Limits,
}

/// What may take how long. A connection that is late is closed within a quarter second.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Deadlines {
    /// From the accept to the first byte.
    pub(crate) first_byte: Duration,
    /// From the first byte to the end of the TLS handshake.
    pub(crate) handshake: Duration,
    /// From the first byte of a request head to its end; over HTTP/2 for the connection preface.
    pub(crate) head: Duration,
    /// Between requests. HTTP/2 frames that belong to no request do not prolong it.
    pub(crate) idle: Duration,
    /// Without the client taking anything of what we have for it.
    pub(crate) write: Duration,
    /// The span over which [`Limits::body_rate`] is measured while somebody waits for the body.
    pub(crate) body_window: Duration,
    /// From the start of a drain until what is left is cut.
    pub(crate) drain: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            write: Duration::from_secs(30),
            body_window: Duration::from_secs(20),
            drain: Duration::from_secs(30),
        }
    }
}

impl Deadlines {
    /// How often connections are looked at.
    fn sweep(&self) -> Duration {
        let shortest = [
            self.first_byte,
            self.handshake,
            self.head,
            self.idle,
            self.write,
        ]
        .into_iter()
        .fold(Duration::from_secs(1), Duration::min);
        shortest
            .checked_div(4)
            .unwrap_or(shortest)
            .max(Duration::from_millis(1))
    }
}

/// What may be how large.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Limits {
    /// Bytes of a request head; more is answered with 431.
    pub(crate) head_bytes: usize,
    /// Fields of a request head; more are answered with 431. The pieces in which HTTP/2 sends
    /// cookies count as one.
    pub(crate) fields: usize,
    /// Requests at once on one HTTP/2 connection.
    pub(crate) streams: u32,
    /// Connections of all listeners and workers together; beyond it accepting pauses and the
    /// connections that have been idle for longest are closed.
    pub(crate) connections: usize,
    /// The slowest a request body may come, in bytes per second.
    pub(crate) body_rate: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 32 * 1024,
            fields: 100,
            streams: 100,
            connections: 10_000,
            body_rate: 500,
        }
    }
}

/// The connection a request came on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Connection {
    /// The other end of the socket: the client, or a proxy in front of us.
    pub(crate) peer: SocketAddr,
    /// Whether the bytes were protected on their way to us.
    pub(crate) security: Security,
}

/// Whether a connection is encrypted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Security {
    /// Plain HTTP.
    Plain,
    /// TLS that ended here.
    Tls,
}

/// Answers requests. One handler lives on each worker's thread and never leaves it, so it may hold
/// `Rc` and pools of its own.
pub(crate) trait Handler: 'static {
    /// The body of its responses.
    type Body: Content;

    /// What is kept of a connection from one request to the next.
    type PerConnection: 'static;

    /// A connection is there.
    fn connection_opened(&self, connection: Connection) -> Self::PerConnection;

    /// Answers one request; over HTTP/2 beside others of the same connection.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped at any await when the client goes away, when a deadline of the
    /// connection passes, and at the end of a drain. What must be finished belongs in a task.
    fn handle(
        &self,
        per_connection: &Self::PerConnection,
        head: Parts,
        body: RequestBody,
    ) -> impl Future<Output = Response<Self::Body>>;
}

/// A response body. The body of a 101 holds the [`Tunnel`] that follows the response.
pub(crate) trait Content:
    Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + 'static
{
    /// Takes the tunnel, if this is the body of a 101.
    fn take_tunnel(&mut self) -> Option<TunnelFn> {
        None
    }
}

impl Content for Full<Bytes> {}

/// What runs on a connection after a 101: it gets the connection, and its future ends with it.
///
/// # Cancel safety
///
/// The future is dropped at any await when the client takes nothing for too long, and at the end of
/// a drain.
pub(crate) type TunnelFn = Box<dyn FnOnce(UpgradedClient) -> Pin<Box<dyn Future<Output = ()>>>>;

/// A client's connection after a 101.
pub(crate) struct UpgradedClient {
    /// The connection.
    pub(crate) client: Peer,
    /// Says when the tunnel has to end, because the process is about to stop.
    pub(crate) stop: TunnelStop,
}

/// What [`Workers`] serve, and how.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    /// The threads are called `name-0`, `name-1`, ...
    pub(crate) name: &'a str,
    /// How many threads there are.
    pub(crate) workers: NonZeroUsize,
    /// What each of them listens on.
    pub(crate) endpoints: Vec<Endpoint>,
    /// How connections are treated.
    pub(crate) settings: Settings,
    /// The time.
    pub(crate) clock: Clock,
}

/// A listening address and what is spoken on it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    listener: Listener,
    tls: Option<Acceptor>,
}

impl Endpoint {
    /// Plain HTTP/1.1.
    pub(crate) fn plain(listener: Listener) -> Self {
        Self {
            listener,
            tls: None,
        }
    }

    /// HTTP/2 or HTTP/1.1 over TLS, as ALPN says (HTTP/1.1 when the client does not use ALPN).
    pub(crate) fn tls(listener: Listener, acceptor: Acceptor) -> Self {
        Self {
            listener,
            tls: Some(acceptor),
        }
    }
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on. Side: gateway; another process has it, it is not an
    /// address of this machine, or the port needs a capability.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// A listening socket cannot be shared with a worker. Side: gateway; out of descriptors.
    #[error("cannot share a listening socket")]
    Share(#[source] io::Error),
    /// A worker's thread or runtime cannot be made. Side: gateway; out of threads or descriptors.
    #[error("cannot start a worker")]
    Spawn(#[source] io::Error),
    /// A worker ended before it served. Side: gateway; its handler could not be made.
    #[error("a worker ended while it was starting")]
    WorkerLost,
}

#[cfg(test)]
mod tests;
