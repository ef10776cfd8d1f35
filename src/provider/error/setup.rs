//! Errors that occur when the gateway sets up a provider from the settings and the files that the
//! settings name.

use std::io;
use std::path::PathBuf;

use crate::provider::jwt::KeyProblem;
use crate::provider::jwt::signer::SigningKeyProblem;
use crate::provider::keys::KeySetError;
use crate::tls;

/// The reason why a provider cannot be set up from its settings. The operator has to act. Each
/// variant names the setting, and also the file if a file is wrong.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file with a secret or a key is empty.
    #[error("{} (setting `{key}`) is empty", path.display())]
    EmptyFile {
        /// The setting that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A file with a key set cannot be used.
    #[error("the key set in {} (setting `{key}`) cannot be used", path.display())]
    KeySet {
        /// The setting that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The problem with the key set.
        #[source]
        source: KeySetError,
    },
    /// The private key of the gateway cannot be used.
    #[error("the key in {place} (setting `{key}`) cannot be used")]
    PrivateKey {
        /// The setting that names the file or the environment variable with the private key.
        key: &'static str,
        /// The file or the variable that contains the private key.
        place: Box<str>,
        /// The reason why the key cannot be used.
        #[source]
        source: SigningKeyProblem,
    },
    /// A public key cannot be used.
    #[error("the key in {} (setting `{key}`) cannot be used", path.display())]
    PublicKey {
        /// The setting that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason why the key cannot be used.
        #[source]
        source: KeyProblem,
    },
    /// A file could not be read as text.
    #[error("{} (setting `{key}`) could not be read", path.display())]
    Read {
        /// The setting that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The error that the operating system returned.
        #[source]
        source: io::Error,
    },
    /// A setting is missing, is wrong, or contradicts another setting or the metadata of the
    /// provider.
    #[error("setting `{key}` {problem}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// The problem with the setting.
        problem: &'static str,
    },
    /// The certificate authorities for this provider cannot be used.
    #[error("the certificate authorities (setting `ca_file`) cannot be used")]
    Trust(#[source] tls::Error),
    /// An environment variable that the settings name cannot be used.
    #[error("the variable {name} (setting `{key}`) {problem}")]
    Variable {
        /// The setting that names the variable.
        key: &'static str,
        /// The name of the environment variable.
        name: Box<str>,
        /// The problem with the environment variable. The text of the problem never contains the
        /// value of the variable.
        problem: &'static str,
    },
}

impl SetupError {
    /// Returns the name of the setting with the problem. The name of the setting is relative to the
    /// provider's table in the settings.
    pub fn key(&self) -> &'static str {
        match self {
            Self::EmptyFile { key, .. }
            | Self::KeySet { key, .. }
            | Self::PrivateKey { key, .. }
            | Self::PublicKey { key, .. }
            | Self::Read { key, .. }
            | Self::Setting { key, .. }
            | Self::Variable { key, .. } => key,
            Self::Trust(_) => "ca_file",
        }
    }

    /// Returns a description of the problem. The description does not contain the name of the
    /// setting. Returns `None` if the problem is in a file or in an environment variable.
    pub fn problem(&self) -> Option<&'static str> {
        match self {
            Self::Setting { problem, .. } => Some(problem),
            Self::EmptyFile { .. }
            | Self::KeySet { .. }
            | Self::PrivateKey { .. }
            | Self::PublicKey { .. }
            | Self::Read { .. }
            | Self::Trust(_)
            | Self::Variable { .. } => None,
        }
    }

    /// Returns the reason code of this error: a stable code for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::EmptyFile { .. }
            | Self::KeySet { .. }
            | Self::PrivateKey { .. }
            | Self::PublicKey { .. }
            | Self::Read { .. }
            | Self::Setting { .. }
            | Self::Trust(_)
            | Self::Variable { .. } => "provider_settings",
        }
    }
}
