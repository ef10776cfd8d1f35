//! Errors that occur when the gateway connects to a provider, or reads its metadata or keys.

use std::sync::Arc;
use std::time::Duration;

use super::{NotReady, SetupError};
use crate::origin;
use crate::provider::keys::KeySetError;
use crate::provider::metadata::MetadataError;

/// The reason why no keys are available to verify a signature.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The keys could not be fetched.
    #[error("the request for the keys failed")]
    Call(#[source] origin::Error),
    /// The token is signed with an unknown key. The gateway has to wait before it fetches the keys
    /// again.
    #[error(
        "the token is signed with an unknown key, and the keys are not fetched again for {} s",
        retry_after.as_secs()
    )]
    FetchedRecently {
        /// The time until the gateway may fetch the keys again.
        retry_after: Duration,
    },
    /// A fetch of the keys has failed recently, and the gateway may not fetch the keys again yet.
    #[error("the keys could not be fetched a moment ago")]
    FetchFailedRecently,
    /// The response has a status other than 200.
    #[error("the provider answered the request for its keys with status {0}")]
    Status(u16),
    /// The published keys cannot be used.
    #[error("the published keys cannot be used")]
    Unusable(#[source] KeySetError),
}

impl KeysError {
    /// Returns the reason code of this error: a stable code for logs, metrics and pages.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Call(_)
            | Self::FetchedRecently { .. }
            | Self::FetchFailedRecently
            | Self::Status(_) => "keys_unavailable",
            Self::Unusable(error) => error.reason(),
        }
    }
}

/// The reason why a provider could not be reached, or why its metadata or keys could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// No connection to the token endpoint could be made.
    #[error("the call to the provider failed")]
    Connect(#[source] origin::Error),
    /// The keys could not be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The metadata cannot be used. In many cases, the configured issuer is wrong.
    #[error("the metadata at {url} cannot be used")]
    Metadata {
        /// The URL of the metadata.
        url: Box<str>,
        /// The problem with the metadata.
        #[source]
        source: MetadataError,
    },
    /// The metadata has not been read.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// The metadata and the settings contradict each other.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

impl ReachError {
    /// Returns the reason code of this error: a stable code for logs, metrics and pages.
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

/// No login can begin now. The provider does not respond, a recent attempt to reach the provider
/// failed, or the gateway cannot use the provider's metadata or keys.
#[derive(Debug, thiserror::Error)]
#[error("the provider cannot be used now")]
pub struct Unreachable {
    /// The time until the next attempt to reach the provider.
    pub retry_after: Duration,
    /// The cause. The cause is `None` if the provider did not respond.
    #[source]
    pub cause: Option<Arc<ReachError>>,
}

impl Unreachable {
    /// Creates an error for a provider that has not responded within `waited`. The argument
    /// `waited` also becomes the field `retry_after` of the error.
    pub fn silent(waited: Duration) -> Self {
        Self {
            retry_after: waited,
            cause: None,
        }
    }

    /// Returns the reason code of this error: a stable code for logs, metrics and pages.
    pub fn reason(&self) -> &'static str {
        let cause = self.cause.as_deref();
        cause.map_or("provider_unreachable", ReachError::reason)
    }
}
