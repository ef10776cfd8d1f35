//! The keys that seal pending logins.

use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::secret::{self, NoRandomness};

const KEY: usize = 32;
const KEY_NAME: usize = 4;

/// Why a key file was not taken.
///
/// Side: gateway. The operator mends the file; the error never shows its contents.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file has no key in it.
    #[error("{} holds no key; write one line of 32 random bytes in base64", .0.display())]
    Empty(PathBuf),
    /// A line is not a key.
    #[error("line {line} of {} is not 32 bytes in base64", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The file cannot be read.
    #[error("{} cannot be read", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The same key stands in the file twice.
    #[error("line {line} of {} repeats a key", .path.display())]
    Repeated {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

/// Keys of AES-256-GCM-SIV: the first seals, all of them open. GCM-SIV keeps its promise even if
/// two of the random 96-bit nonces should ever meet, which anonymous visitors can provoke by the
/// billion.
#[derive(Debug)]
pub struct KeyRing(Vec<Key>);

#[derive(Debug)]
struct Key {
    name: [u8; KEY_NAME],
    key: RandomizedNonceKey,
}

impl KeyRing {
    /// One random key, forgotten when the process ends: logins under way then start again.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] when the operating system gives no random bytes.
    pub fn random() -> Result<Self, NoRandomness> {
        let key = Zeroizing::new(secret::random::<KEY>()?);
        Key::new(&key)
            .map(|key| Self(vec![key]))
            .ok_or(NoRandomness)
    }

    /// Reads a file with one key a line (32 bytes in base64), newest first. Empty lines and lines
    /// that begin with `#` are skipped.
    ///
    /// # Errors
    ///
    /// [`KeyFileError`], naming file and line, never the contents.
    pub fn from_file(path: &Path) -> Result<Self, KeyFileError> {
        let text = std::fs::read_to_string(path)
            .map(Zeroizing::new)
            .map_err(|source| KeyFileError::Read {
                path: path.to_owned(),
                source,
            })?;
        let mut keys: Vec<Key> = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let bytes = Zeroizing::new(STANDARD.decode(text).unwrap_or_default());
            let key = bytes.as_slice().try_into().ok().and_then(Key::new);
            let key = key.ok_or_else(|| KeyFileError::Line {
                path: path.to_owned(),
                line,
            })?;
            if keys.iter().any(|other| other.name == key.name) {
                return Err(KeyFileError::Repeated {
                    path: path.to_owned(),
                    line,
                });
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(KeyFileError::Empty(path.to_owned()));
        }
        Ok(Self(keys))
    }

    /// Seals `plain` with the newest key: key name, nonce, cipher text, tag. `context` must be
    /// given again to open it.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] when no nonce could be drawn.
    pub(super) fn seal(&self, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, NoRandomness> {
        let key = self.0.first().ok_or(NoRandomness)?;
        let mut body = plain.to_vec();
        let nonce = key
            .key
            .seal_in_place_append_tag(Aad::from(context), &mut body)
            .map_err(|_unspecified| NoRandomness)?;
        Ok([&key.name[..], nonce.as_ref(), &body].concat())
    }

    /// Opens what [`KeyRing::seal`] made with the same context, under any key of the ring.
    pub(super) fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (name, rest) = sealed.split_at_checked(KEY_NAME)?;
        let (nonce, body) = rest.split_at_checked(NONCE_LEN)?;
        let key = self.0.iter().find(|key| key.name == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut body = Zeroizing::new(body.to_vec());
        let length = key
            .key
            .open_in_place(nonce, Aad::from(context), &mut body)
            .ok()?
            .len();
        body.truncate(length);
        Some(body)
    }
}

impl Key {
    fn new(bytes: &[u8; KEY]) -> Option<Self> {
        let mut name = [0; KEY_NAME];
        let hash = digest(&SHA256, bytes);
        name.copy_from_slice(hash.as_ref().first_chunk::<KEY_NAME>()?);
        let key = RandomizedNonceKey::new(&AES_256_GCM_SIV, bytes).ok()?;
        Some(Self { name, key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn key(byte: u8) -> String {
        STANDARD.encode([byte; KEY])
    }

    #[test]
    fn what_is_sealed_opens_only_unchanged_and_in_its_context() {
        let ring = KeyRing::random().unwrap();
        let sealed = ring.seal(b"here", b"plain").unwrap();
        assert_eq!(ring.open(b"here", &sealed).unwrap().as_slice(), b"plain");
        assert!(ring.open(b"there", &sealed).is_none());
        for position in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[position] ^= 1;
            assert!(ring.open(b"here", &changed).is_none(), "byte {position}");
            assert!(ring.open(b"here", &sealed[..position]).is_none());
        }
        assert!(KeyRing::random().unwrap().open(b"here", &sealed).is_none());
    }

    #[test]
    fn adv_cve_2021_32791_sealing_twice_never_repeats_a_nonce() {
        let ring = KeyRing::random().unwrap();
        let nonces: std::collections::HashSet<_> = (0..1000)
            .map(|_| ring.seal(b"", b"x").unwrap()[4..16].to_vec())
            .collect();
        assert_eq!(nonces.len(), 1000);
    }

    #[test]
    fn c_08_an_old_key_still_opens_after_a_new_one_is_put_first() {
        let (old, both) = (
            file(&key(1)),
            file(&format!("# new\n{}\n\n{}\n", key(2), key(1))),
        );
        let sealed = KeyRing::from_file(old.path())
            .unwrap()
            .seal(b"", b"x")
            .unwrap();
        let ring = KeyRing::from_file(both.path()).unwrap();
        assert!(ring.open(b"", &sealed).is_some());
        let sealed = ring.seal(b"", b"x").unwrap();
        assert!(
            KeyRing::from_file(old.path())
                .unwrap()
                .open(b"", &sealed)
                .is_none()
        );
    }

    #[test]
    fn f_30_a_bad_key_file_is_refused_by_line_without_its_contents() {
        let short = STANDARD.encode([7; 31]);
        let error = KeyRing::from_file(file(&format!("{}\n{short}", key(1))).path()).unwrap_err();
        assert!(error.to_string().contains("line 2") && !error.to_string().contains(&short));
        let repeated = file(&format!("{}\n{}", key(1), key(1)));
        let error = KeyRing::from_file(repeated.path()).unwrap_err();
        assert!(matches!(error, KeyFileError::Repeated { line: 2, .. }));
        assert!(matches!(
            KeyRing::from_file(file("#\n").path()),
            Err(KeyFileError::Empty(_))
        ));
        let absent = KeyRing::from_file(Path::new("/nowhere/keys"));
        assert!(matches!(absent, Err(KeyFileError::Read { .. })));
    }
}
