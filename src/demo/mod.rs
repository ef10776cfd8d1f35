//! For demonstrations and tests: an embedded authorization server, a small legacy app, and a check
//! that tests a complete login.
//!
//! - [`AuthorizationServer`] behaves like a Laravel Passport server, version 12 or 13, with the
//!   same error bodies, or like an OpenID Provider ([`ProviderKind`]). Tests can make the server
//!   fail.
//!
//! - [`App`] is the legacy web app behind the gateway. The app does not use OAuth. The app shows
//!   the request that it has received, and verifies the access token with code that the gateway
//!   does not use.
//!
//! - [`Check`] acts like a browser: `Check` signs in, checks each step and names the step that
//!   failed. [`Demo`] can break any step on purpose, to show that the check can fail.
//!
//! The authorization server, the app and the check do not know how the gateway works inside; only
//! [`Demo`] starts a gateway. All parts of the demo listen on loopback only and are **not for
//! production**: the passwords are short, the keys exist only while the process runs, and nothing
//! is stored.

mod app;
mod authorization_server;
mod authorize;
mod breakage;
mod browser;
mod check;
mod complete_demo;
mod end_session;
mod grants;
mod live;
mod logout;
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
pub use logout::LogoutEndpoints;
pub use provider_kind::ProviderKind;

use crate::config::Problems;
use crate::instance;
use crate::secret::NoRandomness;

/// An error that prevents the start of a part of the demo.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program cannot listen on the address. The operator can choose another port. With port 0,
    /// the operating system chooses a free port.
    #[error("cannot listen on {address}")]
    Bind {
        /// The requested address.
        address: SocketAddr,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The settings that the demo has written cannot be loaded. Responsible: the gateway.
    #[error("the settings of the demo have problems")]
    Config(#[from] Problems),
    /// The demo cannot write its files. Responsible: the gateway.
    #[error("cannot write the files of the demo")]
    Files(#[from] io::Error),
    /// The gateway did not start. Responsible: the gateway.
    #[error("the gateway did not start")]
    Instance(#[from] instance::Error),
    /// The demo cannot generate a key pair. Responsible: the gateway.
    #[error("cannot generate a key pair")]
    Key,
    /// The address is not a loopback address, but the demo must not be reachable from other
    /// machines. Responsible: the operator.
    #[error("{address} is not a loopback address")]
    NotLoopback {
        /// The requested address.
        address: SocketAddr,
    },
    /// The public key is not in PEM format. Responsible: the gateway.
    #[error("the public key is not in PEM format")]
    PublicKey,
    /// The operating system returned no random bytes. Responsible: the gateway.
    #[error("cannot generate keys")]
    Randomness(#[from] NoRandomness),
}
