//! The interfaces for operators.
//!
//! [`Admin`] is the handler of the operations listener: health, readiness and metrics. The
//! operations listener serves everybody who can reach its address, so it changes nothing and names
//! no user. [`AdminSocket`] serves commands that name users or change sessions. Only the user of the
//! operating system who runs the gateway, and `root`, can use the admin socket. [`client`] is the
//! other end of the admin socket: the commands `sidegate sessions` and `sidegate explain`.

pub mod client;
mod operations;
mod protocol;
mod socket;

pub(crate) use self::operations::Admin;
pub use self::protocol::{AskedExplanation, Command, Explained, Selection};
pub use self::socket::SocketError;
pub(crate) use self::socket::{AdminSocket, MAX_PATH, Service};
