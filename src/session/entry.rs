//! The encrypted entries of a session file.
//!
//! An entry starts with a head in plaintext: the time at which the session ends (8 bytes,
//! little-endian) and the hash of its provider ([`provider_hash`], 16 bytes). The encrypted contents
//! follow. With the time, the gateway can find an expired session even if it cannot decrypt the
//! entry. The id of the file, the session key and the head are associated data of the encryption:
//!
//! - An entry that somebody copies to another session or to another file cannot be decrypted.
//! - An entry that somebody puts back ends its session if the name of its provider now belongs to
//!   another server or client.
//! - Somebody who can write to the file can restore an older entry of the same session, as long as
//!   the file and the provider are the same.
//!
//! In format 1, the head is only the time, and the associated data are the session key and the
//! head. [`super::first_format`] seals the entries of such a file anew.

use zeroize::Zeroizing;

use super::SessionKey;
use super::record::{self, Contents};
use super::registration::{self, ProviderHash, Registrations, provider_hash};
use super::stored::Stored;
use crate::clock::Timestamp;
use crate::seal::KeyRing;
use crate::secret::{NoRandomness, random};

/// The length of the time in the head of an entry, in bytes.
const TIME: usize = 8;
/// The length of the head of an entry, in bytes.
const HEAD: usize = TIME + size_of::<ProviderHash>();

/// The random id of a session file. Two files never have the same id, unless somebody has copied
/// the whole file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct FileId(u64);

impl FileId {
    /// Creates the id of a new file.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`].
    pub(super) fn random() -> Result<Self, NoRandomness> {
        random().map(u64::from_le_bytes).map(Self)
    }

    /// Creates an id from the number that [`FileId::number`] returned.
    pub(super) fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// Returns the id as the number that the file contains.
    pub(super) fn number(self) -> u64 {
        self.0
    }
}

/// The format of the entries of a file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Format<'a> {
    /// Format 1. The file contains the fingerprints of the providers.
    First(&'a Registrations),
    /// Format 2. Each entry contains the hash of its provider.
    Second(FileId),
}

/// Encrypts the entries of one file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sealing<'a> {
    pub(super) file: FileId,
    pub(super) providers: &'a Registrations,
    pub(super) keys: &'a KeyRing,
}

impl Sealing<'_> {
    /// Encrypts a session. Returns `None` if no nonce could be generated.
    pub(super) fn seal(&self, session: &Stored) -> Option<Vec<u8>> {
        self.seal_contents(session.key(), session.ends_at(), session.contents())
    }

    /// Encrypts the encoded contents of a session. Returns `None` if no nonce could be generated.
    pub(super) fn seal_contents(
        &self,
        key: &SessionKey,
        ends_at: Timestamp,
        contents: &[u8],
    ) -> Option<Vec<u8>> {
        let name = record::provider(contents);
        let known = name.and_then(|name| Some(provider_hash(name, self.providers.get(name)?)));
        // No provider has the hash zero, so a session without a configured provider ends.
        let provider = known.unwrap_or_default();
        let head = [ends_at.as_millis().to_le_bytes().as_slice(), &provider].concat();
        let sealed = self.keys.seal(&context(self.file, key, &head), contents);
        Some([head, sealed.ok()?].concat())
    }
}

/// An encrypted entry of a file.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) ends_at: Timestamp,
    format: Format<'a>,
    head: &'a [u8],
    sealed: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads the plaintext part of an entry. Returns `None` if the entry is too short.
    pub(super) fn new(bytes: &'a [u8], format: Format<'a>) -> Option<Self> {
        let length = match format {
            Format::First(_) => TIME,
            Format::Second(_) => HEAD,
        };
        let (head, sealed) = bytes.split_at_checked(length)?;
        let time = head.first_chunk::<TIME>()?;
        Some(Self {
            ends_at: Timestamp::from_millis(u64::from_le_bytes(*time)),
            format,
            head,
            sealed,
        })
    }

    /// Returns true if the entry was encrypted with one of these keys.
    pub(super) fn is_known_to(&self, keys: &KeyRing) -> bool {
        keys.knows(self.sealed)
    }

    /// Returns true if the provider with this name is still the provider of the session. The caller
    /// must have decrypted the entry, because the decryption also verifies the head.
    pub(super) fn is_of(&self, provider: &str, providers: &Registrations) -> bool {
        match self.format {
            Format::First(before) => registration::is_same(provider, before, providers),
            Format::Second(_) => {
                let registration = providers.get(provider);
                let hash = registration.map(|known| provider_hash(provider, known));
                hash.is_some_and(|hash| self.head.ends_with(&hash))
            }
        }
    }

    /// Decrypts the entry and returns the encoded contents.
    pub(super) fn unseal(&self, key: &SessionKey, keys: &KeyRing) -> Option<Zeroizing<Vec<u8>>> {
        let context = match self.format {
            Format::First(_) => [key.as_bytes(), self.head].concat(),
            Format::Second(file) => context(file, key, self.head),
        };
        keys.open(&context, self.sealed)
    }

    /// Decrypts the entry and decodes the contents. Returns `None` if the entry is damaged or
    /// belongs to another provider.
    pub(super) fn open(
        &self,
        key: &SessionKey,
        keys: &KeyRing,
        providers: &Registrations,
    ) -> Option<Contents> {
        let contents = record::decode(&self.unseal(key, keys)?)?;
        self.is_of(&contents.provider, providers)
            .then_some(contents)
    }
}

/// Returns the associated data of an encrypted entry.
fn context(file: FileId, key: &SessionKey, head: &[u8]) -> Vec<u8> {
    let file = file.number().to_le_bytes();
    [b"session ", file.as_slice(), key.as_bytes(), head].concat()
}

#[cfg(test)]
mod tests {
    use redb::{Database, ReadableDatabase as _, ReadableTable as _};

    use super::*;
    use crate::session::file::SESSIONS;
    use crate::session::fixture::{Fixture, NOW, live, open};
    use crate::session::{FileError, StartError};

    type Bytes = Vec<u8>;

    /// Returns the only entry of a session file.
    fn entry_of(fixture: &Fixture) -> ([u8; SessionKey::LENGTH], Bytes) {
        let database = Database::open(fixture.file()).unwrap();
        let table = database.begin_read().unwrap().open_table(SESSIONS).unwrap();
        let (key, value) = table.first().unwrap().unwrap();
        (*key.value(), value.value().to_vec())
    }

    /// Writes an entry to a session file that no process uses.
    fn put(fixture: &Fixture, (key, value): &([u8; SessionKey::LENGTH], Bytes)) {
        let database = Database::open(fixture.file()).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut table = transaction.open_table(SESSIONS).unwrap();
        table.insert(key, value.as_slice()).unwrap();
        drop(table);
        transaction.commit().unwrap();
    }

    /// Two gateways have the same keys and the same client id, as after a copy of the settings.
    #[tokio::test]
    async fn c_26_an_entry_of_another_file_with_the_same_keys_does_not_count() {
        let (one, other) = (Fixture::disk(), Fixture::disk());
        for fixture in [&one, &other] {
            let sessions = fixture.start(NOW);
            open(&sessions, "alice", NOW).await;
            sessions.close().await.unwrap();
        }
        // An entry that returns to its own file is still valid.
        put(&one, &entry_of(&one));
        one.start(NOW).close().await.unwrap();
        put(&other, &entry_of(&one));
        let refused = other.try_start(NOW).map(|_| ()).unwrap_err();
        assert!(
            matches!(refused, StartError::File(FileError::Damaged { .. })),
            "{refused:?}"
        );
    }

    #[tokio::test]
    async fn c_27_an_entry_that_returns_after_the_client_id_has_changed_ends() {
        let mut fixture = Fixture::disk();
        let sessions = fixture.start(NOW);
        let alice = open(&sessions, "alice", NOW).await;
        sessions.close().await.unwrap();
        let entry = entry_of(&fixture);
        // The provider has the same name, and another client id or issuer.
        fixture.providers.insert("op".into(), [1; 32]);
        for _ in 0..2 {
            let sessions = fixture.start(NOW);
            assert_eq!(sessions.count(), 0);
            assert!(!live(&sessions, &alice, NOW).await);
            sessions.close().await.unwrap();
            put(&fixture, &entry);
        }
        // With the old client id, the same entry is valid.
        fixture.providers.insert("op".into(), [0; 32]);
        let sessions = fixture.start(NOW);
        assert!(live(&sessions, &alice, NOW).await);
    }
}
