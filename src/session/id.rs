//! Session ids and session keys. Only browsers keep session ids. The store contains session keys,
//! but no session ids.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::secret::{NoRandomness, Secret, random};

const TAG: usize = 4;
const RANDOM: usize = 32;
const LENGTH: usize = TAG + RANDOM;
const TEXT: usize = LENGTH / 3 * 4;

/// The tag of the store in which a session was created: four random bytes. A store in memory
/// generates its tag when the process starts. A session file contains the tag of its store.
///
/// The tag proves nothing, because a client can send any tag. The tag shows which store created a
/// session: the store of this process, the store of another replica, or an earlier store of this
/// replica. Log lines and error pages use the tag to report where the session was created.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct StoreTag([u8; TAG]);

impl StoreTag {
    /// Generates a new tag.
    ///
    /// # Errors
    ///
    /// Returns [`NoRandomness`] if the operating system does not return random bytes.
    pub(crate) fn random() -> Result<Self, NoRandomness> {
        random().map(Self)
    }

    pub(super) fn from_bytes(bytes: [u8; TAG]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; TAG] {
        &self.0
    }
}

/// The secret in the session cookie: a store tag and 256 random bits.
///
/// The gateway never stores a session id. The cache and the store contain only the [`SessionKey`],
/// a hash of the id.
#[derive(Debug)]
pub struct SessionId(Secret<[u8; LENGTH]>);

impl SessionId {
    /// Generates a new session id. `store_tag` is the tag of the store that keeps the session.
    ///
    /// # Errors
    ///
    /// Returns [`NoRandomness`] if the operating system does not return random bytes.
    pub(crate) fn random(store_tag: StoreTag) -> Result<Self, NoRandomness> {
        let mut bytes = [0; LENGTH];
        let (tag, rest) = bytes.split_at_mut(TAG);
        tag.copy_from_slice(&store_tag.0);
        rest.copy_from_slice(&random::<RANDOM>()?);
        Ok(Self(Secret::new(bytes)))
    }

    /// Parses the value of a cookie. Only the canonical form of an id is valid: exactly 48
    /// characters of base64url without padding.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != TEXT {
            return None;
        }
        let mut bytes = [0; LENGTH];
        let written = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        (written == LENGTH).then(|| Self(Secret::new(bytes)))
    }

    /// Returns the id as the value of the session cookie.
    pub fn to_text(&self) -> Secret<String> {
        Secret::new(URL_SAFE_NO_PAD.encode(self.0.expose()))
    }

    /// Returns the key under which the session is stored.
    pub fn key(&self) -> SessionKey {
        let digest = digest(&SHA256, self.0.expose());
        let first = digest.as_ref().first_chunk();
        // The first half of the digest always exists, because a SHA-256 digest has 32 bytes.
        SessionKey(first.copied().unwrap_or_default())
    }

    /// Returns the tag of the store in which the session was created.
    pub(crate) fn store_tag(&self) -> StoreTag {
        let mut tag = [0; TAG];
        tag.copy_from_slice(self.0.expose().first_chunk::<TAG>().unwrap_or(&[0; TAG]));
        StoreTag(tag)
    }
}

/// The first half of the SHA-256 digest of a session id. Nobody can compute a session id from its
/// session key, so an attacker with a copy of all session keys cannot use a session.
///
/// Half of the digest is long enough to be secure. An attacker who wants to use the session of
/// another user must find an id whose hash is the session key. Finding an id for a given key takes
/// about 2^128 attempts. An attacker who finds two ids with the same key gains nothing, because
/// only the gateway generates ids. A collision by chance is unlikely if there are fewer than about
/// 2^64 sessions.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionKey([u8; Self::LENGTH]);

impl SessionKey {
    /// The number of bytes in a session key.
    pub(crate) const LENGTH: usize = 16;
    /// The lowest possible key.
    pub(super) const FIRST: Self = Self([0; Self::LENGTH]);
    /// The highest possible key.
    pub(super) const LAST: Self = Self([u8::MAX; Self::LENGTH]);

    /// Creates a key from the bytes that [`SessionKey::as_bytes`] returned.
    pub(crate) fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes of the key.
    pub(crate) fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// Returns eight hexadecimal characters that identify the session in log lines.
    pub(crate) fn log_prefix(&self) -> String {
        self.0
            .iter()
            .take(4)
            .fold(String::with_capacity(8), |mut text, byte| {
                for nibble in [byte >> 4, byte & 0xf] {
                    text.extend(char::from_digit(nibble.into(), 16));
                }
                text
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> SessionId {
        SessionId::random(StoreTag::random().unwrap()).unwrap()
    }

    #[test]
    fn an_id_survives_the_cookie() {
        let id = id();
        let again = SessionId::parse(id.to_text().expose().as_bytes()).unwrap();
        assert_eq!(id.key(), again.key());
        assert_eq!(id.store_tag(), again.store_tag());
    }

    #[test]
    fn c_06_a_changed_cut_or_padded_id_is_another_id_or_none() {
        let id = id();
        let text = id.to_text().expose().clone().into_bytes();
        for position in 0..text.len() {
            let mut flipped = text.clone();
            flipped[position] ^= 1;
            let other = SessionId::parse(&flipped);
            assert!(other.is_none_or(|other| other.key() != id.key()));
            assert!(SessionId::parse(&text[..position]).is_none());
        }
        assert!(SessionId::parse(&[&text[..], b"="].concat()).is_none());
        assert!(SessionId::parse(&[&text[..], b"A"].concat()).is_none());
    }

    #[test]
    fn c_11_an_id_has_256_random_bits_and_does_not_print() {
        let (a, b) = (id(), id());
        assert_ne!(a.0.expose()[TAG..], b.0.expose()[TAG..]);
        assert_eq!(a.0.expose()[TAG..].len() * 8, 256);
        assert!(!format!("{a:?}").contains(a.to_text().expose().as_str()));
    }

    #[test]
    fn the_log_prefix_is_eight_hexadecimal_characters() {
        let prefix = id().key().log_prefix();
        assert_eq!(prefix.len(), 8);
        assert!(prefix.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
