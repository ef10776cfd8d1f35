//! Setting a provider up: its settings and the files that they name.

use std::io;
use std::path::PathBuf;

use crate::provider::jwt::KeyProblem;
use crate::provider::jwt::signer::SigningKeyProblem;
use crate::provider::keys::KeySetError;
use crate::tls;

/// Why a provider cannot be set up from its settings. The operator of the gateway has to act; each
/// variant names the setting and, if there is one, the file.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file with a secret or a key holds nothing.
    #[error("{} (setting `{key}`) is empty", path.display())]
    EmptyFile {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A file with a key set cannot be used.
    #[error("the key set in {} (setting `{key}`) cannot be used", path.display())]
    KeySet {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeySetError,
    },
    /// Our private key cannot be used.
    #[error("the key in {} (setting `client_assertion.private_key_file`) cannot be used", path.display())]
    PrivateKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: SigningKeyProblem,
    },
    /// A public key cannot be used.
    #[error("the key in {} (setting `{key}`) cannot be used", path.display())]
    PublicKey {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeyProblem,
    },
    /// A file could not be read as text.
    #[error("{} (setting `{key}`) could not be read", path.display())]
    Read {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// A setting is missing, wrong or at odds with another, or with what the server publishes.
    #[error("setting `{key}` {problem}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The authorities for this server cannot be used.
    #[error("the certificate authorities (setting `ca_file`) cannot be used")]
    Trust(#[source] tls::Error),
}

impl SetupError {
    /// A stable code for logs and counters.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::EmptyFile { .. }
            | Self::KeySet { .. }
            | Self::PrivateKey { .. }
            | Self::PublicKey { .. }
            | Self::Read { .. }
            | Self::Setting { .. }
            | Self::Trust(_) => "provider_settings",
        }
    }
}
