//! The public keys of a provider, from a JSON Web Key Set (RFC 7517) or from PEM files.
//!
//! The entries of a key set are read separately. A provider may publish keys for other purposes and
//! of unknown types. The gateway skips and counts each unusable entry, and uses the remaining keys.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde_json::Value;

use super::json::{self, JsonError};
use super::jwt::{Key, KeyProblem, Unusable};
use super::settings::{Algorithm, IdTokenSettings};
use super::{SetupError, read_text};

/// The maximum number of keys. The number of keys is limited, because the gateway may have to try
/// all keys for a token without a `kid`.
const MAX_KEYS: usize = 100;

/// The reason why a key set contains no usable key. If the provider published the key set, the
/// provider has to correct the key set. If the key set comes from a file, the operator has to
/// correct the file.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// The text is not a JSON object.
    #[error("the key set is not a JSON object")]
    Json(#[source] JsonError),
    /// There is no array `keys` (RFC 7517 section 5).
    #[error("the key set has no array `keys`")]
    Keys,
    /// The array has no entries, or every entry was skipped.
    #[error("the key set has no usable key (skipped: {0})")]
    NoUsableKey(SkippedKeys),
}

impl KeySetError {
    /// Returns the reason code of this error: a stable code for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Json(_) | Self::Keys => "keys_malformed",
            Self::NoUsableKey(_) => "keys_unusable",
        }
    }
}

/// The number of key set entries that the gateway skipped, for each reason. `Display` writes one
/// line for the log.
#[derive(Debug, Default)]
pub struct SkippedKeys(BTreeMap<Unusable, usize>);

impl SkippedKeys {
    /// Returns true if no entry was skipped.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn count(&mut self, reason: Unusable) {
        let count = self.0.entry(reason).or_default();
        *count = count.saturating_add(1);
    }
}

impl fmt::Display for SkippedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (index, (reason, count)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {reason}")?;
        }
        Ok(())
    }
}

/// A set of at least one public key.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    skipped: SkippedKeys,
}

impl KeySet {
    /// Reads a published key set, or a key set from a file.
    ///
    /// # Errors
    ///
    /// Returns [`KeySetError`]. After an error, the caller continues to use its older key set, if
    /// any.
    pub(super) fn from_jwks(bytes: &[u8]) -> Result<Self, KeySetError> {
        let members = json::object(bytes).map_err(KeySetError::Json)?;
        let Some(Value::Array(entries)) = members.get("keys") else {
            return Err(KeySetError::Keys);
        };
        let (mut keys, mut skipped) = (Vec::new(), SkippedKeys::default());
        for entry in entries {
            if keys.len() == MAX_KEYS {
                skipped.count(Unusable::TooMany);
                continue;
            }
            match Key::from_jwk(entry) {
                Ok(key) => keys.push(key),
                Err(reason) => skipped.count(reason),
            }
        }
        if keys.is_empty() {
            return Err(KeySetError::NoUsableKey(skipped));
        }
        Ok(Self { keys, skipped })
    }

    /// Reads the configured keys, which are used instead of the published keys. Returns `None` if
    /// no key file is configured. While this function reads the key files, the calling thread is
    /// blocked.
    ///
    /// # Errors
    ///
    /// Returns [`SetupError::Read`], [`SetupError::EmptyFile`], [`SetupError::PublicKey`] or
    /// [`SetupError::KeySet`]. Each error names the setting and the file.
    pub(super) fn from_files(settings: &IdTokenSettings) -> Result<Option<Self>, SetupError> {
        let (files, algorithms) = (&settings.public_key_files, &settings.algorithms);
        let pem = Self::from_pem_files("id_token.public_key_files", files, algorithms)?;
        let Some(path) = &settings.jwks_file else {
            return Ok(pem);
        };
        let key = "id_token.jwks_file";
        let set = Self::from_jwks(read_text(key, path)?.as_bytes());
        let mut set = set.map_err(|source| SetupError::KeySet {
            key,
            path: path.clone(),
            source,
        })?;
        set.keys.extend(pem.into_iter().flat_map(|pem| pem.keys));
        Ok(Some(set))
    }

    /// Reads PEM files with one key each. Each key has to support one of `algorithms`. Returns
    /// `None` if `paths` is empty. The function blocks the calling thread while it reads the files,
    /// which are small.
    ///
    /// # Errors
    ///
    /// Returns [`SetupError::Read`], [`SetupError::EmptyFile`] or [`SetupError::PublicKey`].
    pub(super) fn from_pem_files(
        key: &'static str,
        paths: &[PathBuf],
        algorithms: &[Algorithm],
    ) -> Result<Option<Self>, SetupError> {
        let mut keys = Vec::new();
        for path in paths {
            let read = Key::from_pem(&read_text(key, path)?).and_then(|read| {
                let supported = algorithms.iter().any(|algorithm| read.supports(*algorithm));
                supported.then_some(read).ok_or(KeyProblem::WrongAlgorithm)
            });
            keys.push(read.map_err(|source| SetupError::PublicKey {
                key,
                path: path.clone(),
                source,
            })?);
        }
        let skipped = SkippedKeys::default();
        Ok((!keys.is_empty()).then_some(Self { keys, skipped }))
    }

    /// Returns the skipped entries, for the log.
    pub(super) fn skipped(&self) -> &SkippedKeys {
        &self.skipped
    }

    /// Returns the keys that may have signed a token with this `kid` and this algorithm.
    pub(super) fn candidates<'a>(
        &'a self,
        id: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a Key> {
        let keys = self.keys.iter();
        keys.filter(move |key| key.matches_id(id) && key.supports(algorithm))
    }
}
