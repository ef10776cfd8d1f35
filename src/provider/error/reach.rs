//! Reaching a server, and reading what it publishes about itself.

use std::sync::Arc;
use std::time::Duration;

use super::{NotReady, SetupError};
use crate::origin;
use crate::provider::keys::KeySetError;
use crate::provider::metadata::MetadataError;

/// Why there are no keys to verify a signature with.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// They could not be fetched.
    #[error("the call for the keys failed")]
    Call(#[source] origin::Error),
    /// They were fetched a moment ago, or were not to be had then.
    #[error("the keys were asked for a moment ago")]
    JustFetched,
    /// Another status than 200 where the keys should be.
    #[error("the server answered with status {0} instead of keys")]
    Status(u16),
    /// What the server publishes cannot be used.
    #[error("the published keys cannot be used")]
    Unusable(#[source] KeySetError),
}

impl KeysError {
    /// A stable code for logs, counters and pages.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Call(_) | Self::JustFetched | Self::Status(_) => "keys_unavailable",
            Self::Unusable(error) => error.reason(),
        }
    }
}

/// Why a server could not be reached, or what it publishes could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// No connection to its token endpoint could be made.
    #[error("the call to the authorization server failed")]
    Connect(#[source] origin::Error),
    /// Its keys could not be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Its metadata cannot be used; often the issuer is configured wrongly.
    #[error("the metadata at {place} cannot be used")]
    Metadata {
        /// Where it was asked for.
        place: Box<str>,
        /// What is wrong with it.
        #[source]
        source: MetadataError,
    },
    /// Its metadata has not been read.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// What it publishes and our settings do not fit together.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

impl ReachError {
    /// A stable code for logs, counters and pages.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Connect(error) if error.may_have_been_processed() => "provider_call_failed",
            Self::Connect(_) => "provider_unreachable",
            Self::Keys(error) => error.reason(),
            Self::Metadata { source, .. } => source.reason(),
            Self::NotReady(error) => error.reason(),
            Self::Setup(error) => error.reason(),
        }
    }
}

/// People cannot be sent to the server: it could not be reached a moment ago, what it publishes
/// cannot be used, or it says nothing.
#[derive(Debug, thiserror::Error)]
#[error("the authorization server cannot be used now")]
pub struct Unreachable {
    /// When it is tried again.
    pub retry_after: Duration,
    /// Why, unless it said nothing at all.
    #[source]
    pub cause: Option<Arc<ReachError>>,
}

impl Unreachable {
    /// A server that has said nothing for as long as anybody waits; it may be asked again after the
    /// same time.
    pub fn silent(waited: Duration) -> Self {
        Self {
            retry_after: waited,
            cause: None,
        }
    }

    /// A stable code for logs, counters and pages.
    pub fn reason(&self) -> &'static str {
        let cause = self.cause.as_deref();
        cause.map_or("provider_unreachable", ReachError::reason)
    }
}
