//! Encrypts data before the data leaves the process. To decrypt the data, the gateway needs the
//! same key and the same context with which the data was encrypted.
//!
//! The operator's key file contains [`Keys`]. No data is encrypted with the operator's keys. Each
//! [`Purpose`] has a [`KeyRing`] with keys that are derived from the operator's keys. Data that is
//! encrypted for one purpose cannot be decrypted for another purpose.

use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize as _, Zeroizing};

use crate::secret::{self, NoRandomness, Secret};

const KEY: usize = 32;
const KEY_NAME: usize = 4;
/// The length of the authentication tag of AES-GCM-SIV (RFC 8452 section 4), in bytes.
const TAG: usize = 16;

/// The reason why the keys in a file or in an environment variable are refused. The operator must
/// correct the file or the variable. The error never shows the keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file contains no key.
    #[error("{0} contains no key; write one line with 32 random bytes in base64")]
    Empty(Box<str>),
    /// A line is not a valid key.
    #[error(
        "line {line} of {place} is not 32 bytes in base64; `openssl rand -base64 32` makes such a line"
    )]
    Line {
        /// The name of the file or of the environment variable.
        place: Box<str>,
        /// The line number, counted from 1.
        line: usize,
    },
    /// The file cannot be read.
    #[error("{} cannot be read", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The file contains the same key twice.
    #[error("line {line} of {place} repeats a key")]
    Repeated {
        /// The name of the file or of the environment variable.
        place: Box<str>,
        /// The line number, counted from 1.
        line: usize,
    },
}

/// The purpose of a key ring.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// Pending logins. The `state` parameter of a login contains the encrypted pending login.
    Logins,
    /// Sessions on disk.
    Sessions,
}

impl Purpose {
    /// Returns the `info` value of the key derivation (RFC 5869 section 3.2). Each purpose has a
    /// different `info` value and therefore different keys.
    fn info(self) -> &'static [u8] {
        match self {
            Self::Logins => b"sidegate logins 1",
            Self::Sessions => b"sidegate sessions 1",
        }
    }
}

/// The operator's keys. The first key is the newest key.
#[derive(Debug)]
pub struct Keys(Vec<Secret<[u8; KEY]>>);

impl Keys {
    /// Creates one random key, which is lost when the process ends.
    ///
    /// # Errors
    ///
    /// Returns [`NoRandomness`] if the operating system returns no random bytes.
    pub fn random() -> Result<Self, NoRandomness> {
        Ok(Self(vec![Secret::new(secret::random::<KEY>()?)]))
    }

    /// Reads a file with one key per line (32 bytes in base64). The newest key is on the first
    /// line. Empty lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    ///
    /// Returns [`KeyFileError`], which names the file and the line but never shows the contents.
    pub fn from_file(path: &Path) -> Result<Self, KeyFileError> {
        let text = std::fs::read_to_string(path)
            .map(Zeroizing::new)
            .map_err(|source| KeyFileError::Read {
                path: path.to_owned(),
                source,
            })?;
        Self::from_text(&path.display().to_string(), &text)
    }

    /// Reads keys from the text of a key file. In errors, `place` is the name of the file or the
    /// variable that contains the text.
    ///
    /// # Errors
    ///
    /// Returns [`KeyFileError`]. The error contains `place` and the number of a wrong line, but
    /// never a key.
    pub(crate) fn from_text(place: &str, text: &str) -> Result<Self, KeyFileError> {
        let mut keys: Vec<Secret<[u8; KEY]>> = Vec::new();
        // Some editors write a byte order mark at the start of a file.
        let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines();
        for (line, text) in (1..).zip(lines) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let bytes = Zeroizing::new(STANDARD.decode(text).unwrap_or_default());
            let Ok(key) = bytes.as_slice().try_into() else {
                return Err(KeyFileError::Line {
                    place: place.into(),
                    line,
                });
            };
            // If the file contains the same key twice, the operator has probably made a mistake.
            if keys.iter().any(|other| other.matches(&bytes)) {
                return Err(KeyFileError::Repeated {
                    place: place.into(),
                    line,
                });
            }
            keys.push(Secret::new(key));
        }
        if keys.is_empty() {
            return Err(KeyFileError::Empty(place.into()));
        }
        Ok(Self(keys))
    }

    /// Derives the key ring for one purpose.
    ///
    /// # Errors
    ///
    /// Returns [`NoRandomness`] if the cryptographic library cannot derive a key.
    pub fn ring(&self, purpose: Purpose) -> Result<KeyRing, NoRandomness> {
        let keys = self.0.iter().map(|key| Key::derive(key, purpose));
        let keys: Option<Vec<_>> = keys.collect();
        keys.map(KeyRing).ok_or(NoRandomness)
    }
}

/// Keys of AES-256-GCM-SIV. The first key encrypts data, and every key of the ring can decrypt
/// data. Clients without a session can make the gateway encrypt data billions of times, so two
/// random 96-bit nonces can be equal. GCM-SIV is secure even if a nonce is repeated.
#[derive(Debug)]
pub struct KeyRing(Vec<Key>);

#[derive(Debug)]
struct Key {
    name: [u8; KEY_NAME],
    key: RandomizedNonceKey,
}

impl KeyRing {
    /// Creates a random key ring for a test.
    #[cfg(test)]
    pub(crate) fn random() -> Result<Self, NoRandomness> {
        Keys::random()?.ring(Purpose::Logins)
    }

    /// Encrypts `plain` with the newest key. The returned bytes consist of the key name, the nonce,
    /// the cipher text and the tag. [`KeyRing::open`] can decrypt the result only with the same
    /// `context`.
    ///
    /// # Errors
    ///
    /// Returns [`NoRandomness`] if no nonce could be created.
    pub(crate) fn seal(&self, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, NoRandomness> {
        let key = self.0.first().ok_or(NoRandomness)?;
        // No copy of the plain text stays in memory, because the plain text is encrypted in place
        // and the buffer never grows.
        let overhead = KEY_NAME.saturating_add(NONCE_LEN).saturating_add(TAG);
        let mut sealed = Vec::with_capacity(plain.len().saturating_add(overhead));
        sealed.extend_from_slice(plain);
        let sealing = key
            .key
            .seal_in_place_append_tag(Aad::from(context), &mut sealed);
        let Ok(nonce) = sealing else {
            sealed.zeroize();
            return Err(NoRandomness);
        };
        let head = key.name.iter().chain(nonce.as_ref()).copied();
        sealed.splice(..0, head);
        Ok(sealed)
    }

    /// Returns true if this ring has every key of `other`. A ring with every key of `other` can
    /// decrypt all data that `other` has encrypted.
    pub(crate) fn contains_keys_of(&self, other: &Self) -> bool {
        other
            .names()
            .all(|name| self.names().any(|ours| ours == name))
    }

    fn names(&self) -> impl Iterator<Item = [u8; KEY_NAME]> {
        self.0.iter().map(|key| key.name)
    }

    /// Returns true if this ring has the key with which `sealed` was encrypted. This function does
    /// not check whether `sealed` was changed.
    pub(crate) fn knows(&self, sealed: &[u8]) -> bool {
        let name = sealed.first_chunk::<KEY_NAME>();
        name.is_some_and(|name| self.0.iter().any(|key| key.name == *name))
    }

    /// Decrypts data that [`KeyRing::seal`] encrypted with the same context and any key of this
    /// ring.
    pub(crate) fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
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
    /// Derives the key for a purpose (RFC 5869). The key name is a hash of the derived key, so the
    /// key name reveals nothing about the operator's key.
    fn derive(master: &Secret<[u8; KEY]>, purpose: Purpose) -> Option<Self> {
        let pseudorandom = Salt::new(HKDF_SHA256, &[]).extract(master.expose());
        let info = [purpose.info()];
        let derived = pseudorandom.expand(&info, Length).ok()?;
        let mut bytes = Zeroizing::new([0; KEY]);
        derived.fill(bytes.as_mut_slice()).ok()?;
        let mut name = [0; KEY_NAME];
        let hash = digest(&SHA256, bytes.as_slice());
        name.copy_from_slice(hash.as_ref().first_chunk::<KEY_NAME>()?);
        let key = RandomizedNonceKey::new(&AES_256_GCM_SIV, bytes.as_slice()).ok()?;
        Some(Self { name, key })
    }
}

/// The length of a derived key, as a type that `aws_lc_rs::hkdf` requires.
struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        KEY
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

    fn random() -> KeyRing {
        Keys::random().unwrap().ring(Purpose::Logins).unwrap()
    }

    fn from_file(path: &Path) -> KeyRing {
        let keys = Keys::from_file(path).unwrap();
        keys.ring(Purpose::Logins).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_only_unchanged_and_in_its_context() {
        let ring = random();
        let sealed = ring.seal(b"here", b"plain").unwrap();
        assert_eq!(ring.open(b"here", &sealed).unwrap().as_slice(), b"plain");
        assert!(ring.open(b"there", &sealed).is_none());
        for position in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[position] ^= 1;
            assert!(ring.open(b"here", &changed).is_none(), "byte {position}");
            assert!(ring.open(b"here", &sealed[..position]).is_none());
        }
        assert!(random().open(b"here", &sealed).is_none());
    }

    #[test]
    fn adv_cve_2021_32791_sealing_twice_never_repeats_a_nonce() {
        let ring = random();
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
        let sealed = from_file(old.path()).seal(b"", b"x").unwrap();
        let ring = from_file(both.path());
        assert!(ring.knows(&sealed));
        assert!(ring.open(b"", &sealed).is_some());
        let sealed = ring.seal(b"", b"x").unwrap();
        assert!(from_file(old.path()).open(b"", &sealed).is_none());
        assert!(!from_file(old.path()).knows(&sealed));
    }

    #[test]
    fn what_is_sealed_for_one_purpose_never_opens_for_another() {
        let keys = Keys::random().unwrap();
        let [logins, sessions] =
            [Purpose::Logins, Purpose::Sessions].map(|purpose| keys.ring(purpose).unwrap());
        let sealed = logins.seal(b"", b"plain").unwrap();
        assert!(sessions.open(b"", &sealed).is_none() && !sessions.knows(&sealed));
        let again = keys.ring(Purpose::Logins).unwrap();
        assert_eq!(again.open(b"", &sealed).unwrap().as_slice(), b"plain");
    }

    #[test]
    fn f_30_a_bad_key_file_is_refused_by_line_without_its_contents() {
        let short = STANDARD.encode([7; 31]);
        let error = Keys::from_file(file(&format!("{}\n{short}", key(1))).path()).unwrap_err();
        assert!(error.to_string().contains("line 2") && !error.to_string().contains(&short));
        let repeated = file(&format!("{}\n{}", key(1), key(1)));
        let error = Keys::from_file(repeated.path()).unwrap_err();
        assert!(matches!(error, KeyFileError::Repeated { line: 2, .. }));
        assert!(matches!(
            Keys::from_file(file("#\n").path()),
            Err(KeyFileError::Empty(_))
        ));
        let absent = Keys::from_file(Path::new("/nowhere/keys"));
        assert!(matches!(absent, Err(KeyFileError::Read { .. })));
    }
}
