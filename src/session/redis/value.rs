//! The stored form of a session.
//!
//! A value begins with a head in plaintext, which the scripts read: the format version (1 byte), the
//! version of the session (8 bytes), the end of its lifetime (8 bytes), its user (16 bytes), its
//! session at the provider (16 bytes), and its provider (16 bytes). Numbers are
//! big-endian, and a missing hash is zero. The encrypted contents follow. The head and the session
//! key are associated data of the encryption. The encrypted contents contain the identity of the store
//! ([`record::bound_to`]).
//!
//! - A value that somebody copies to another session cannot be decrypted.
//! - A value that somebody copies to another store with the same encryption keys is refused.
//! - A value that somebody puts back counts as absent if the name of its provider now belongs to
//!   another server or client, because the head contains the hash of the provider.
//! - Somebody who can write to the store can restore an older value of the same session, as long as
//!   the provider is the same.
//!
//! The identity of the store is not a new format. A version of the gateway that does not know the
//! identity reads the value, and keeps the identity when it writes the session again.
//!
//! During an update, replicas of two versions of the gateway share the store. A new format therefore
//! needs two releases: version N reads the new format and still writes the old format, and version N+1
//! writes the new format. If a version does not know the format of a value, the read fails and the
//! value stays in the store.

use crate::clock::Timestamp;
use crate::seal::KeyRing;
use crate::session::SessionKey;
use crate::session::backend::Loaded;
use crate::session::groups::ProviderSessionHash;
use crate::session::index::{Rank, UserHash};
use crate::session::record::{self, StoreIdentity};
use crate::session::registration::ProviderHash;
use crate::session::stored::Stored;

/// The version of this format. A newer version of the gateway uses a higher number.
pub(super) const FORMAT: u8 = 1;
/// The length of the head, in bytes.
const HEAD: usize = 65;
/// The length of a hash in the head, in bytes.
const HASH: usize = 16;
/// The length of the head together with the name of the key of the encryption.
pub(super) const HEAD_AND_KEY_NAME: usize = HEAD + 4;

/// The plaintext head of a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Head {
    pub(super) version: u64,
    pub(super) ends_at: Timestamp,
    pub(super) user: Option<UserHash>,
    pub(super) provider_session: Option<ProviderSessionHash>,
    pub(super) provider: ProviderHash,
}

/// The reason why a value cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unusable {
    /// The value is not the value of this session in this store, or was changed.
    Damaged,
    /// A newer version of the gateway has written the value.
    Newer,
    /// The value is encrypted with a key that this process does not have.
    UnknownKey,
}

/// Returns the bytes of a session's version, as the head contains them.
pub(super) fn version_bytes(version: u64) -> [u8; 8] {
    version.to_be_bytes()
}

impl Head {
    fn to_bytes(self) -> Vec<u8> {
        let hash = |hash: Option<[u8; HASH]>| hash.unwrap_or_default();
        let mut bytes = Vec::with_capacity(HEAD);
        bytes.push(FORMAT);
        bytes.extend(version_bytes(self.version));
        bytes.extend(self.ends_at.as_millis().to_be_bytes());
        bytes.extend(hash(self.user.map(UserHash::to_bytes)));
        bytes.extend(hash(
            self.provider_session.map(ProviderSessionHash::to_bytes),
        ));
        bytes.extend(self.provider);
        bytes
    }

    /// Reads the head of a value.
    pub(super) fn read(value: &[u8]) -> Result<Self, Unusable> {
        match value.first() {
            Some(&FORMAT) => Self::parse(value).ok_or(Unusable::Damaged),
            Some(newer) if *newer > FORMAT => Err(Unusable::Newer),
            Some(_) | None => Err(Unusable::Damaged),
        }
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let (_format, rest) = value.split_first()?;
        let (version, rest) = rest.split_first_chunk()?;
        let (ends_at, rest) = rest.split_first_chunk()?;
        let (user, rest) = rest.split_first_chunk::<HASH>()?;
        let (provider_session, rest) = rest.split_first_chunk::<HASH>()?;
        let (provider, _sealed) = rest.split_first_chunk::<HASH>()?;
        let known = *provider_session != [0; HASH];
        Some(Self {
            version: u64::from_be_bytes(*version),
            ends_at: Timestamp::from_millis(u64::from_be_bytes(*ends_at)),
            user: UserHash::from_bytes(*user),
            provider_session: known.then(|| ProviderSessionHash::from_bytes(*provider_session)),
            provider: *provider,
        })
    }
}

/// The store whose values are encrypted and decrypted.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) store: &'a StoreIdentity,
    pub(super) keys: &'a KeyRing,
}

/// Encrypts a session. Returns `None` if no nonce could be generated.
pub(super) fn seal(
    session: &Stored,
    provider_session: Option<ProviderSessionHash>,
    provider: ProviderHash,
    Place { store, keys }: Place<'_>,
) -> Option<Vec<u8>> {
    let head = Head {
        version: session.version(),
        ends_at: session.ends_at(),
        user: session.user(),
        provider_session,
        provider,
    };
    let head = head.to_bytes();
    let contents = record::bound_to(store, session.contents())?;
    let sealed = keys.seal(&context(session.key(), &head), &contents);
    Some([head, sealed.ok()?].concat())
}

/// Decrypts a value. `used` is the time of the last use.
pub(super) fn open(
    key: SessionKey,
    value: &[u8],
    used: Timestamp,
    Place { store, keys }: Place<'_>,
) -> Result<(Head, Stored), Unusable> {
    let head = Head::read(value)?;
    let (plain, sealed) = value.split_at_checked(HEAD).ok_or(Unusable::Damaged)?;
    if !keys.knows(sealed) {
        return Err(Unusable::UnknownKey);
    }
    let opened = keys.open(&context(&key, plain), sealed);
    let contents = opened.and_then(|opened| record::decode(&opened));
    let contents = contents.ok_or(Unusable::Damaged)?;
    if contents.version != head.version || !contents.is_of(store) {
        return Err(Unusable::Damaged);
    }
    let loaded = Loaded {
        ends_at: head.ends_at,
        last_used: used.max(contents.opened_at),
        contents,
    };
    let rank = Rank {
        user: head.user,
        ends_at: head.ends_at,
        key,
    };
    Ok((head, Stored::new(rank, loaded.last_used, &loaded.contents)))
}

/// Returns true if the first bytes of a value show that one of these keys has encrypted the value.
pub(super) fn is_known(start: &[u8], keys: &KeyRing) -> bool {
    let sealed = start.get(HEAD..);
    sealed.is_some_and(|sealed| keys.knows(sealed))
}

/// Returns the associated data of the encryption.
fn context(key: &SessionKey, head: &[u8]) -> Vec<u8> {
    [b"redis ", key.as_bytes().as_slice(), head].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::fixture::{Fixture, NOW};
    use crate::session::registration::provider_hash;

    /// A session and its value, which the first version with this format has written. Never change these
    /// texts: stores contain such values.
    const KEY: &str = "db9a2dfc4b2cebb39792ae2c0ed959d2";
    const VALUE: &str = "\
    0100000000000000000000000000186a0069f239f091e8c13098d9880addba5577237d122421061b\
    75e722fb045d901fdd182151b04736a669067bc217822569376171a1bc38d225afbdc55462ba1255\
    8b4db7714f035fa023a6b6e940420e244f84b462b29de0d598dfac1c85e5d7cb6d45b0f4798e93a4\
    d2d881627def7d0b794654766e26dded0a87d04cee128379009c0ed0735f6c22";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<char> = hex.chars().collect();
        let pairs = digits.chunks(2).map(|pair| pair.iter().collect::<String>());
        pairs
            .map(|pair| u8::from_str_radix(&pair, 16).unwrap())
            .collect()
    }

    #[test]
    fn f_36_a_value_of_the_first_format_stays_readable() {
        let key = SessionKey::from_bytes(bytes(KEY).try_into().unwrap());
        let value = bytes(VALUE);
        let fixture = Fixture::memory();
        let used = NOW.plus(std::time::Duration::from_secs(5));
        // The value has no identity of a store, because the first version did not know it.
        let place = Place {
            store: &[7; 16],
            keys: &fixture.ring(),
        };
        let (head, session) = open(key, &value, used, place).unwrap();
        assert_eq!(value.first(), Some(&1));
        assert_eq!((head.version, session.version()), (0, 0));
        assert_eq!(head.provider, provider_hash("op", &[0; 32]));
        assert_eq!(session.ends_at(), NOW.plus(fixture.settings.absolute));
        assert_eq!(session.last_used(), used);
        let contents = record::decode(session.contents()).unwrap();
        assert_eq!(&*contents.provider, "op");
        assert_eq!(
            contents.identity.subject.as_ref().unwrap().as_str(),
            "alice"
        );
        assert_eq!(contents.sid.as_deref(), Some("sid-1"));
        assert_eq!(
            head.provider_session,
            ProviderSessionHash::of_contents(&contents)
        );
        assert!(head.provider_session.is_some() && head.user.is_some());
        assert_eq!(contents.tokens.access_token(), "token-0");
        let refresh_token = contents.tokens.refresh_token().unwrap();
        assert_eq!(refresh_token.expose(), "refresh");
        assert_eq!(contents.opened_at, NOW);
    }
}
