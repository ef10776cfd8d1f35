//! Errors of the shared store, and what each error of the server means.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::session::StoreError;
use crate::tls;

/// The reason why no connection to the shared store could be made.
#[derive(Debug, thiserror::Error)]
pub enum RedisConnectError {
    /// The server refused the user name or the password. The operator is responsible for this error.
    #[error(
        "{server} refused the user name or the password; look at username_file and password_file of \
         session.store.redis"
    )]
    Login {
        /// The address of the server.
        server: Box<str>,
        /// The answer of the server.
        #[source]
        source: Arc<RedisError>,
    },
    /// The server is a node of a Redis Cluster. The operator is responsible for this error.
    #[error(
        "{0} is a node of a Redis Cluster; session.store.redis needs a single server or Sentinels"
    )]
    Cluster(Box<str>),
    /// A file with a user name or a password cannot be read. The operator is responsible for this
    /// error.
    #[error("{} cannot be read", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A file with a user name or a password is empty, or has several lines, or white space around the text. The
    /// operator is responsible for this error.
    #[error("{} is empty, or has several lines, or white space around the text; write only the text", .0.display())]
    FileText(PathBuf),
    /// The server has no database with the number in the settings. The operator is responsible for this error.
    #[error(
        "{server} refuses the database of session.store.redis; set a lower number in `database`"
    )]
    Database {
        /// The address of the server.
        server: Box<str>,
        /// The answer of the server.
        #[source]
        source: Arc<RedisError>,
    },
    /// The server is not a Sentinel. The operator is responsible for this error.
    #[error(
        "{0} is not a Sentinel; with sentinel_master, urls lists the Sentinels, and without it, urls names the \
         server itself"
    )]
    NotSentinel(Box<str>),
    /// No Sentinel knows the address of the master.
    #[error("no Sentinel knows a master with the name `{0}`")]
    NoMaster(Box<str>),
    /// The server is a replica, which accepts no writes.
    #[error("{0} is a replica of another server and accepts no writes")]
    NotMaster(Box<str>),
    /// The server did not answer in time.
    #[error("{0} does not answer in time")]
    Silent(Box<str>),
    /// The server accepted the connection, but did not complete the TLS handshake in time.
    #[error(
        "{0} does not answer the TLS handshake in time; write redis:// instead of rediss:// if the port has no TLS"
    )]
    SilentTls(Box<str>),
    /// The connection failed, or the server answered with an error.
    #[error("{server} cannot be used")]
    Server {
        /// The address of the server.
        server: Box<str>,
        /// The cause.
        #[source]
        source: Arc<RedisError>,
    },
    /// The connection could not be opened.
    #[error("{server} cannot be reached")]
    Socket {
        /// The address of the server.
        server: Box<str>,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Neither more than half of the Sentinels nor a replica in sync confirm that the server is the master, so the
    /// server may have a successor.
    #[error(
        "{0} may not be the master any more: at most half of the Sentinels in urls answer, and the server \
         has no replica in sync"
    )]
    Unconfirmed(Box<str>),
    /// The files for TLS cannot be used. The operator is responsible for this error.
    #[error("the TLS files of session.store.redis cannot be used")]
    Tls(#[from] tls::Error),
}

impl RedisConnectError {
    /// Returns true if only an operator can remove the cause, so that a start with these settings
    /// fails. A server that cannot be reached can come back by itself.
    pub(super) fn is_mistake(&self) -> bool {
        match self {
            Self::Cluster(_)
            | Self::Database { .. }
            | Self::File { .. }
            | Self::FileText(_)
            | Self::Login { .. }
            | Self::NotSentinel(_)
            | Self::Tls(_) => true,
            Self::NoMaster(_)
            | Self::NotMaster(_)
            | Self::Server { .. }
            | Self::Silent(_)
            | Self::SilentTls(_)
            | Self::Socket { .. }
            | Self::Unconfirmed(_) => false,
        }
    }
}

/// What an error of a command means for the store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Meaning {
    /// The server or the connection cannot be used. The store must connect again, possibly to
    /// another server.
    Reconnect,
    /// The server is busy for a while. The store keeps the connection.
    Busy,
    /// The server has refused the command, and has changed nothing.
    Refused,
}

/// The codes with which a server refuses commands because it is not the right server any more.
const OTHER_SERVER: [&str; 6] = [
    "READONLY",
    "MASTERDOWN",
    "NOREPLICAS",
    "MOVED",
    "CLUSTERDOWN",
    "NOAUTH",
];

/// Returns what an error means.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library has many errors, and the enum is non-exhaustive"
)]
pub(super) fn meaning(error: &RedisError) -> Meaning {
    // The server reports an error inside a script with the code of the error, or (Redis 6) with the
    // code in the text.
    let text = error.to_string();
    let names = |code: &&str| error.code() == Some(*code) || text.contains(*code);
    if OTHER_SERVER.iter().any(names) {
        return Meaning::Reconnect;
    }
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::TryAgain) => {
            Meaning::Busy
        }
        ErrorKind::Server(
            ServerErrorKind::Ask
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::Moved
            | ServerErrorKind::ReadOnly,
        )
        | ErrorKind::AuthenticationFailed
        | ErrorKind::Io
        | ErrorKind::Parse => Meaning::Reconnect,
        ErrorKind::Extension if matches!(error.code(), Some("BUSY" | "LOADING")) => Meaning::Busy,
        _ => Meaning::Refused,
    }
}

/// Returns the error of the store for an error of a command.
pub(super) fn store_error(error: RedisError) -> StoreError {
    match meaning(&error) {
        Meaning::Reconnect | Meaning::Busy => StoreError::Unavailable(Arc::new(error)),
        Meaning::Refused => StoreError::Refused(Arc::new(error)),
    }
}
