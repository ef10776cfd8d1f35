//! An HTTP client for one origin, with and without TLS.
//!
//! In this module, "origin" also means the server at the address in an [`Origin`]. The module
//! connects to the origin, limits the number of open connections ([`Limit`]), uses connections for
//! several requests ([`Pool`]), and enforces deadlines. The module adds no credentials, follows no
//! redirects, and ignores the proxy variables of the environment.
//!
//! The entry points of this module are [`Client::call`] and [`Pool::send_for`]. [`Client::call`] is
//! for small calls whose complete answer is collected in memory. Each call opens a new connection,
//! so the exchange of an authorization code never fails because of a stale connection.
//! [`Pool::send_for`] is for the requests that a worker forwards. [`Pool::send_for`] streams the
//! bodies of requests and responses.

mod answer_head;
mod attempt;
mod client;
mod client_wait;
mod connection;
mod connector;
mod error;
mod expect;
mod head_timer;
mod http2;
mod idle;
mod limit;
mod message;
mod name;
mod outgoing;
mod owner;
mod pool;
mod probe;
mod progress;
mod protocol;
mod proxy;
mod race;
mod received;
mod resolver;
mod response;
mod saved_head;
mod share;
mod switch;
#[cfg(test)]
mod tests;
mod traffic;
mod trailers;
mod usage;
mod wake;

pub(crate) use answer_head::AnswerLimits;
pub(crate) use attempt::Informational;
pub(crate) use client::{CallLimits, Client};
pub(crate) use connector::Connector;
pub use error::Error;
pub(crate) use http2::KeepAlive;
pub(crate) use limit::{Limit, Shares};
pub(crate) use name::{Origin, ParseOriginError};
pub(crate) use owner::{Owner, Requester};
pub(crate) use pool::{Pool, ResponseFuture, Times};
pub use probe::{Finding, Grade};
pub(crate) use probe::{Findings, Reached};
pub(crate) use progress::StreamingCall;
pub(crate) use protocol::Protocol;
pub(crate) use proxy::{Proxies, Proxy};
pub(crate) use response::ResponseBody;
pub(crate) use saved_head::SavedHead;
pub(crate) use switch::{Exchange, UpgradedOrigin};
pub use usage::Eviction;
pub(crate) use usage::EvictionWatch;
