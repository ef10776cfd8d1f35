//! The HTTP server: listening addresses, connections, framing and deadlines. The server passes each
//! request to a [`Handler`].
//!
//! The module accepts TCP connections and performs TLS handshakes with the configuration of a
//! [`crate::tls::Acceptor`]. The library hyper performs the framing of HTTP/1.1 and HTTP/2. The
//! module adds the drain, and the deadlines and limits that hyper does not have. This module does
//! not use sessions, routes or apps. The entry point is [`Workers::start`].
//!
//! Important decisions:
//!
//! - Each worker is one thread with one current-thread runtime. Each listening address has one
//!   socket, and no other process can listen on the same address. Each worker polls a duplicate of
//!   the socket's descriptor, so all workers share one queue of connections, and a drain loses no
//!   queued connection.
//!
//! - Over TLS, only ALPN selects the protocol. Without TLS, a connection uses HTTP/1.1. Only if the
//!   handler allows it for the peer, the first bytes select the protocol. The deadlines for the first
//!   byte and for the head also apply to these bytes.
//! - An HTTP/1.1 connection that has been idle for a second keeps no object of hyper, so an idle
//!   connection needs little memory.
//! - Each worker checks the deadlines of all its connections in one sweep. A single request needs a
//!   timer only while the gateway waits for the body of the request.
//!
//! - At a limit of connections, a new connection closes a connection without a request in progress.
//!   The clients with the most connections lose their connections first.
//!
//! - Over HTTP/2, the responses that one poll of a connection writes are sent together as one TLS
//!   record. Copying small pieces into one buffer is cheaper than a TLS record and a system call
//!   for each piece. The header compression table gets only fields whose values are likely to occur
//!   again.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body::Body;
use http_body_util::Full;

use self::reading::LowestRate;
use crate::clock::Clock;
use crate::fields::ClientNetworks;
use crate::relay::Peer;
use crate::telemetry::Metrics;
use crate::tls::Acceptor;

mod arrivals;
mod body;
mod clients;
mod coarse_clock;
mod connection;
mod control;
mod deadline;
mod demand;
mod descriptor_limit;
mod dormant;
mod frames;
mod gather;
mod half_closed;
mod head_limits;
mod heartbeat;
mod hpack;
mod http1;
mod http2_input;
mod listener;
mod opening;
mod overdue;
mod phase;
mod place;
mod proxy_protocol;
mod rate_meter;
mod readiness;
mod reading;
mod refusal;
mod report;
mod shed;
mod slots;
mod socket;
mod stream;
mod switch;
mod unread;
mod worker;

pub use body::BodyFailure;
pub(crate) use body::{BodyWatch, RequestBody};
pub(crate) use control::{AnswerControl, SlowReader, TunnelStop};
pub(crate) use descriptor_limit::{descriptor_limit, raise_descriptor_limit};
pub(crate) use heartbeat::Watch;
pub(crate) use listener::Listener;
pub(crate) use proxy_protocol::ProxyNetworks;
pub(crate) use readiness::Readiness;
pub(crate) use reading::ReadFailure;
pub(crate) use refusal::Refusal;
pub(crate) use worker::Workers;

/// The maximum number of connections of the operations listener.
pub(crate) const OPERATIONS_CONNECTIONS: usize = 64;

/// The deadlines and limits of connections.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// The longest durations.
    pub(crate) deadlines: Deadlines,
    /// The allowed sizes, numbers and rates, such as the maximum size of a request head.
    pub(crate) limits: Limits,
    /// True if the names of the fields of an HTTP/1.1 answer begin each word with a capital letter.
    pub(crate) title_case_fields: bool,
}

/// The longest durations that the server allows. The server closes a connection at most a quarter
/// of a second after the connection has missed a deadline.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Deadlines {
    /// The time from the acceptance of a connection to the arrival of the first byte.
    pub(crate) first_byte: Duration,
    /// The time from the first byte of a connection to the end of the TLS handshake.
    pub(crate) handshake: Duration,
    /// The time from the first byte to the last byte of a request head. Over HTTP/2, the deadline
    /// of a request head applies to the connection preface.
    pub(crate) head: Duration,
    /// The longest time between two requests on one connection. HTTP/2 frames that belong to no
    /// request do not extend the idle time.
    pub(crate) idle: Duration,
    /// The longest time during which the gateway has bytes to send and the client takes no byte. If
    /// the client takes no byte for this time, the gateway closes the connection or resets the
    /// HTTP/2 stream. A byte that the client has acknowledged counts as taken.
    pub(crate) write: Duration,
    /// The longest time for which the gateway sends no byte to a client that has closed its sending
    /// direction and waits for its answer.
    pub(crate) half_closed: Duration,
    /// The time over which the rate of an answer ([`Limits::answer_rate`]) is measured. The
    /// measurement includes only the time during which the gateway waits for the client.
    pub(crate) answer_window: Duration,
    /// The time over which the rate of a request body ([`Limits::body_rate`]) is measured. The
    /// measurement includes only the time during which the gateway waits for the client.
    pub(crate) body_window: Duration,
    /// The time from the start of a drain until the remaining requests are ended.
    pub(crate) drain: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            write: Duration::from_mins(2),
            half_closed: Duration::from_secs(5),
            answer_window: Duration::from_mins(1),
            body_window: Duration::from_secs(20),
            drain: Duration::from_secs(30),
        }
    }
}

impl Settings {
    /// Returns the lowest allowed rate at which a client receives an answer.
    fn lowest_answer_rate(&self) -> LowestRate {
        LowestRate::new(self.limits.answer_rate, self.deadlines.answer_window)
    }
}

impl Deadlines {
    /// The time between two checks of all connections.
    fn sweep(&self) -> Duration {
        let shortest = [
            self.first_byte,
            self.handshake,
            self.head,
            self.idle,
            self.write,
            self.half_closed,
            self.answer_window,
        ]
        .into_iter()
        .filter(|deadline| !deadline.is_zero())
        .fold(Duration::from_secs(1), Duration::min);
        shortest
            .checked_div(4)
            .unwrap_or(shortest)
            // tokio would panic if the time between two checks were zero.
            .max(Duration::from_millis(1))
    }
}

/// The allowed sizes, numbers and rates, such as the maximum size of a request head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Limits {
    /// The largest request head, in bytes. A larger head is answered by [`Handler::refuse_head`],
    /// or by hyper if the head is also above [`Limits::library_head_bytes`].
    pub(crate) head_bytes: usize,
    /// The maximum number of fields in a request head. A head with more fields is answered by
    /// [`Handler::refuse_head`], or by hyper if an HTTP/1.1 head has a thousand fields more. All
    /// `Cookie` fields of an HTTP/2 request count as one field.
    pub(crate) fields: usize,
    /// The maximum number of concurrent requests on one HTTP/2 connection.
    pub(crate) streams: u32,
    /// The maximum number of connections of all listeners and workers together. If the server has
    /// this many connections, a new connection closes a connection that has no request in progress.
    pub(crate) connections: usize,
    /// The maximum number of descriptors for the connections of clients, and for the connections to
    /// apps after a switch of protocols.
    pub(crate) descriptors: usize,
    /// The maximum number of connections of one client. The default is seven eighths of
    /// `connections`.
    pub(crate) connections_per_client: Option<usize>,
    /// The networks that count as one client.
    pub(crate) client_networks: ClientNetworks,
    /// The lowest allowed rate of a request body, in bytes per second.
    pub(crate) body_rate: u64,
    /// The lowest allowed rate at which a client takes an answer, in bytes per second. Zero allows
    /// every rate.
    pub(crate) answer_rate: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 32 * 1024,
            fields: 100,
            streams: 100,
            connections: 10_000,
            descriptors: usize::MAX,
            connections_per_client: None,
            client_networks: ClientNetworks::default(),
            body_rate: 500,
            answer_rate: 0,
        }
    }
}

/// The properties of the connection on which a request has arrived.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Connection {
    /// The address from which the requests come: the client, or a proxy in front of the gateway. A
    /// load balancer can state this address in a PROXY header.
    pub(crate) peer: SocketAddr,
    /// The address of the other end of the socket.
    pub(crate) socket_peer: SocketAddr,
    /// Whether the client uses TLS.
    pub(crate) security: Security,
}

/// States whether a connection is encrypted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Security {
    /// Plain HTTP.
    Plain,
    /// HTTP over TLS.
    Tls,
}

/// Answers requests. Each worker's thread has its own handler. A handler never moves to another
/// thread, so a handler may contain `Rc` and connection pools.
pub(crate) trait Handler: 'static {
    /// The body of the handler's responses.
    type Body: Content;

    /// The data that the handler stores for each connection. All requests of the connection share
    /// this data.
    type PerConnection: 'static;

    /// Returns the address of the client to which a new connection from `peer` counts. Returns
    /// `None` if the connection counts for no client, because a proxy sends the requests of many
    /// clients on it.
    fn client(&self, peer: SocketAddr) -> Option<IpAddr> {
        Some(peer.ip())
    }

    /// Creates the data that the handler stores for a new connection.
    fn connection_opened(&self, connection: Connection) -> Self::PerConnection;

    /// Returns true if the peer of a connection without TLS may begin with the HTTP/2 connection
    /// preface (RFC 9113 section 3.3). By default, a connection without TLS uses HTTP/1.1.
    fn accepts_http2(&self, _per_connection: &Self::PerConnection) -> bool {
        false
    }

    /// Reserves memory for the receive window of an HTTP/2 connection, until `per_connection` is
    /// dropped. The server calls this function once, when the connection begins. Returns the number
    /// of reserved bytes: at most `wanted`. By default, a connection has the smallest window.
    fn reserve_window(&self, _per_connection: &Self::PerConnection, _wanted: u32) -> u32 {
        0
    }

    /// Answers one request. Over HTTP/2, several requests of one connection are answered
    /// concurrently.
    ///
    /// # Cancel safety
    ///
    /// The server may drop the future at any await: when the client disconnects, when a deadline of
    /// the connection passes, or at the end of a drain. If some work must always be finished, the
    /// handler has to start a separate task for this work.
    fn handle(
        &self,
        per_connection: &Self::PerConnection,
        head: Parts,
        body: RequestBody,
    ) -> impl Future<Output = Response<Self::Body>>;

    /// Answers a request whose head is above the limits.
    fn refuse_head(
        &self,
        per_connection: &Self::PerConnection,
        head: Parts,
        body: RequestBody,
    ) -> Response<Self::Body>;

    /// The server calls this function when it closes a connection because of the bytes that the
    /// client has sent, or when the HTTP library refuses the head of a request or resets a stream. No
    /// handler gets these bytes. `head` is the start of the head, if it is known.
    fn connection_refused(
        &self,
        _per_connection: &Self::PerConnection,
        _refusal: Refusal,
        _error: &dyn std::error::Error,
        _head: Option<&Parts>,
    ) {
    }

    /// The server calls this function when the drain begins. A request in progress may continue
    /// until [`Handler::drain_ends`].
    fn drain_begins(&self) {}

    /// The server calls this function when the drain time is almost over. Soon afterwards, the
    /// server drops all requests that are not finished.
    fn drain_ends(&self) {}
}

/// A response body. The body of a 101 response contains the tunnel that follows the response. The
/// body of any other response can get the [`AnswerControl`] of this response.
pub(crate) trait Content:
    Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + 'static
{
    /// Removes and returns the tunnel, if this is the body of a 101 response.
    fn take_tunnel(&mut self) -> Option<TunnelFn> {
        None
    }

    /// The server calls this function when the server passes the response to the connection. A body
    /// that may have to end early calls `control` to get its [`AnswerControl`].
    fn begin(&mut self, _control: impl FnOnce() -> AnswerControl) {}
}

impl Content for Full<Bytes> {}

/// A function that runs a tunnel after a 101 response. The argument of a [`TunnelFn`] is the
/// client's connection. When the returned future ends, the server closes the connection.
///
/// # Cancel safety
///
/// The server may drop the future at any await if the client accepts no bytes for too long, or at
/// the end of a drain.
pub(crate) type TunnelFn = Box<dyn FnOnce(UpgradedClient) -> Pin<Box<dyn Future<Output = ()>>>>;

/// A client's connection after a 101 response.
pub(crate) struct UpgradedClient {
    /// The connection.
    pub(crate) client: Peer,
    /// Tells the tunnel to end when the process stops.
    pub(crate) stop: TunnelStop,
}

/// The arguments of [`Workers::start`].
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    /// The prefix of the thread names: `name-0`, `name-1`, ...
    pub(crate) name: &'a str,
    /// The number of threads.
    pub(crate) workers: NonZeroUsize,
    /// The addresses on which each thread listens.
    pub(crate) endpoints: Vec<Endpoint>,
    /// The deadlines and limits.
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    /// The metrics that count the connections that the server closes to make room for others. If
    /// `metrics` is `None`, the server neither counts nor logs these connections.
    pub(crate) metrics: Option<Arc<Metrics>>,
}

/// The result of a drain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Drained {
    /// The number of unfinished requests that were stopped when the drain time was over.
    pub cut: usize,
    /// The number of workers that had already ended because of a panic in the gateway's code.
    pub lost: usize,
}

/// A listening address and its protocols.
#[derive(Debug)]
pub(crate) struct Endpoint {
    listener: Listener,
    protocols: Protocols,
}

/// The protocols below HTTP on the connections of an address.
#[derive(Clone, Debug, Default)]
struct Protocols {
    tls: Option<Acceptor>,
    proxies: ProxyNetworks,
}

impl Endpoint {
    /// Plain HTTP/1.1.
    pub(crate) fn plain(listener: Listener) -> Self {
        Self {
            listener,
            protocols: Protocols::default(),
        }
    }

    /// HTTP/2 or HTTP/1.1 over TLS. ALPN selects the protocol. Without ALPN, the protocol is
    /// HTTP/1.1.
    pub(crate) fn tls(listener: Listener, acceptor: Acceptor) -> Self {
        Self {
            listener,
            protocols: Protocols {
                tls: Some(acceptor),
                proxies: ProxyNetworks::default(),
            },
        }
    }

    /// Sets the networks whose connections begin with a PROXY header.
    pub(crate) fn behind(mut self, proxies: ProxyNetworks) -> Self {
        self.protocols.proxies = proxies;
        self
    }
}

/// The reason why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The gateway cannot listen on the address: another process uses the address, the address does
    /// not belong to this machine, or the port needs a capability. Responsible: the operator.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// A listening socket cannot be shared with a worker, because the process has no free
    /// descriptor. Responsible: the operator.
    #[error("cannot share a listening socket")]
    Share(#[source] io::Error),
    /// A worker's thread or runtime cannot be created, because the process has no free thread or
    /// descriptor. Responsible: the operator.
    #[error("cannot start a worker")]
    Spawn(#[source] io::Error),
    /// A worker ended before it was ready, because its handler could not be created. Responsible:
    /// the operator.
    #[error("a worker ended before it was ready")]
    WorkerLost,
}

#[cfg(test)]
mod tests;
