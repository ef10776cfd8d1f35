//! HTTP/1.1 and TLS to one origin.
//!
//! This room knows how to reach an [`Origin`], how many connections it may take ([`Limit`]), when
//! a connection may carry a second request ([`Pool`]) and how long to wait. It refuses to know
//! authentication: it adds no credential, follows no redirect and reads no proxy variables.
//!
//! Two doors: [`Client::call`] for small calls whose answer is wanted whole (a fresh connection
//! each, so there is never a doubt whether a stale connection swallowed a code), and
//! [`Pool::send`] for a worker's forwarded requests (bodies stream both ways).

mod attempt;
mod client;
mod connection;
mod connector;
mod error;
mod head_timer;
mod idle;
mod limit;
mod message;
mod name;
mod outgoing;
mod pool;
mod progress;
mod response;
mod saved_head;
mod switch;
#[cfg(test)]
mod tests;
mod traffic;

pub(crate) use client::{CallLimits, Client};
pub(crate) use connector::Connector;
pub use error::Error;
pub(crate) use limit::Limit;
pub(crate) use name::Origin;
pub(crate) use pool::{Pool, Sending, Times};
pub(crate) use response::ResponseBody;
pub(crate) use saved_head::SavedHead;
pub(crate) use switch::{Exchange, UpgradedOrigin};
