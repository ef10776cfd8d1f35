//! For trying and for tests: an embedded authorization server, a small legacy app, and a check
//! that drives a whole login between them.
//!
//! - [`AuthorizationServer`] answers as a Laravel Passport of either generation does, down to its
//!   error bodies, or as an OpenID Provider ([`ProviderKind`]). It can be told to misbehave.
//! - [`App`] is the legacy web app behind the gateway: it knows nothing of OAuth but can show
//!   what reached it, and checks the token with code of its own, apart from the gateway's.
//! - [`Check`] is a browser without a screen: it signs in, looks at each step and names the one
//!   that failed. [`Demo`] can break any step on purpose, to see that the check can fail.
//!
//! None of the three knows how the gateway is built; whoever composes them does. Everything binds
//! loopback addresses only and is **not for production**: passwords are short, keys live as long
//! as the process, nothing is kept.

mod app;
mod authorization_server;
mod authorize;
mod breakage;
mod browser;
mod check;
mod complete_demo;
mod grants;
mod openid;
mod pages;
mod profile;
mod provider_kind;
mod records;
mod refusal;
mod serve;
mod steps;
mod token_checker;
mod tokens;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;

pub use app::{App, AppSettings};
pub use authorization_server::{
    AuthorizationServer, AuthorizationServerSettings, Client, Fault, TokenRequest, User,
};
pub use check::{Check, FailedStep, Step, StepReport, TokenCalls};
pub use complete_demo::{Demo, Purpose};
pub use provider_kind::ProviderKind;

use crate::config::Problems;
use crate::instance;
use crate::secret::NoRandomness;

/// Why a part of the demo did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address could not be bound. Side: gateway; choose another port, or 0.
    #[error("{address} could not be bound")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The settings of the demo's own making do not load. Side: gateway.
    #[error("the demo's settings are wrong")]
    Config(#[from] Problems),
    /// The demo's files could not be written. Side: gateway.
    #[error("the demo's files could not be written")]
    Files(#[from] io::Error),
    /// The gateway did not start. Side: gateway.
    #[error("the gateway did not start")]
    Instance(#[from] instance::Error),
    /// No key pair could be made. Side: gateway.
    #[error("no key pair could be made")]
    Key,
    /// The address is reachable from elsewhere. Side: gateway; the demo is for this machine only.
    #[error("{address} is not a loopback address")]
    NotLoopback {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The public key is not a PEM block. Side: gateway.
    #[error("the public key is not PEM")]
    PublicKey,
    /// There is no randomness. Side: gateway.
    #[error("keys cannot be made")]
    Randomness(#[from] NoRandomness),
}
