//! A session's contents as bytes, in memory and in the file.
//!
//! In the file they are sealed behind the session's end. That lies open, so that a session can be
//! told to be over by whoever has not got its key; it and the session's key are bound to what is
//! sealed, so an entry that was put in another session's place does not open. An earlier entry of the
//! same session does: whoever can write the file can put back what it held before.

use postcard::ser_flavors::Size;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::SessionKey;
use super::packed::{pack, unpack};
use super::stored::Stored;
use crate::clock::Timestamp;
use crate::identity::{Claim, Email, Identity};
use crate::seal::KeyRing;
use crate::token::{Authentication, Lifetime, TokenSet};

/// The end, a little-endian number of 64 bits.
const OPEN: usize = 8;

/// What a session holds: all of it that never changes within one version.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) version: u64,
    pub(super) provider: Box<str>,
    pub(super) identity: Identity,
    pub(super) tokens: TokenSet,
    pub(super) opened_at: Timestamp,
}

/// What is encoded. A change of its shape is a new format of the file.
#[derive(Deserialize, Serialize)]
struct Plain<'a> {
    version: u64,
    provider: &'a str,
    issuer: &'a str,
    subject: Option<&'a str>,
    email: Option<(&'a str, bool)>,
    preferred_username: Option<&'a str>,
    name: Option<&'a str>,
    #[serde(borrow)]
    groups: Vec<&'a str>,
    /// Both tokens as [`pack`] has them.
    access_token: &'a [u8],
    refresh_token: Option<&'a [u8]>,
    obtained_at: u64,
    expires_at: Option<u64>,
    refresh_at: Option<u64>,
    not_before: u64,
    /// The nonce, and when the person gave their credentials.
    authentication: Option<(&'a str, Option<u64>)>,
    opened_at: u64,
}

/// Something in an entry is not what was written there.
#[derive(Debug)]
struct Wrong;

/// A claim that was taken once is taken again.
fn claim(text: &str) -> Result<Claim, Wrong> {
    Claim::new(text).ok_or(Wrong)
}

impl Plain<'_> {
    fn identity(&self) -> Result<Identity, Wrong> {
        let email = self.email.map(|(address, verified)| {
            let address = claim(address)?;
            Ok(Email { address, verified })
        });
        let email = email.transpose()?;
        let groups: Result<Vec<_>, _> = self.groups.iter().map(|group| claim(group)).collect();
        let identity = Identity {
            subject: self.subject.map(claim).transpose()?,
            email,
            preferred_username: self.preferred_username.map(claim).transpose()?,
            name: self.name.map(claim).transpose()?,
            ..Identity::nameless(self.issuer)
        };
        Ok(identity.with_groups(groups?))
    }

    fn tokens(&self) -> Option<TokenSet> {
        let life = Lifetime {
            obtained_at: Timestamp::from_millis(self.obtained_at),
            expires_at: self.expires_at.map(Timestamp::from_millis),
            refresh_at: self.refresh_at.map(Timestamp::from_millis),
            not_before: Timestamp::from_millis(self.not_before),
        };
        let authentication = self
            .authentication
            .map(|(nonce, auth_time)| Authentication {
                nonce: nonce.into(),
                auth_time: auth_time.map(Timestamp::from_millis),
            });
        let access_token = unpack(self.access_token)?;
        let refresh_token = match self.refresh_token {
            Some(packed) => Some(unpack(packed)?),
            None => None,
        };
        let refresh_token = refresh_token.as_ref().map(|token| token.as_str());
        let tokens = TokenSet::new(&access_token, refresh_token, life).ok()?;
        Some(tokens.with_authentication(authentication))
    }
}

/// Contents as bytes, of which no copy stays behind.
pub(super) fn encode(contents: &Contents) -> Zeroizing<Box<[u8]>> {
    // Text and numbers always have an encoding, and no token that was taken is too long.
    Zeroizing::new(encoded(contents).unwrap_or_default().into_boxed_slice())
}

fn encoded(contents: &Contents) -> Option<Vec<u8>> {
    let (identity, tokens) = (&contents.identity, &contents.tokens);
    let (life, authentication) = (tokens.lifetime(), tokens.authentication());
    let access_token = pack(tokens.access_token())?;
    let refresh_token = match tokens.refresh_token() {
        Some(token) => Some(pack(token.expose())?),
        None => None,
    };
    let plain = Plain {
        version: contents.version,
        provider: &contents.provider,
        issuer: &identity.issuer,
        subject: identity.subject.as_ref().map(Claim::as_str),
        email: identity
            .email
            .as_ref()
            .map(|email| (email.address.as_str(), email.verified)),
        preferred_username: identity.preferred_username.as_ref().map(Claim::as_str),
        name: identity.name.as_ref().map(Claim::as_str),
        groups: identity.groups.iter().map(Claim::as_str).collect(),
        access_token: &access_token,
        refresh_token: refresh_token.as_ref().map(|packed| packed.as_slice()),
        obtained_at: life.obtained_at.as_millis(),
        expires_at: life.expires_at.map(Timestamp::as_millis),
        refresh_at: life.refresh_at.map(Timestamp::as_millis),
        not_before: life.not_before.as_millis(),
        authentication: authentication.map(|authentication| {
            let auth_time = authentication.auth_time.map(Timestamp::as_millis);
            (&*authentication.nonce, auth_time)
        }),
        opened_at: contents.opened_at.as_millis(),
    };
    // Measured first: a buffer that grows or shrinks leaves copies of the tokens behind.
    let length = postcard::serialize_with_flavor(&plain, Size::default()).ok()?;
    let mut bytes = vec![0; length];
    postcard::to_slice(&plain, &mut bytes).ok()?;
    Some(bytes)
}

/// Contents again; `None` when the bytes are not what [`encode`] gave.
pub(super) fn decode(bytes: &[u8]) -> Option<Contents> {
    let plain: Plain<'_> = postcard::from_bytes(bytes).ok()?;
    Some(Contents {
        version: plain.version,
        identity: plain.identity().ok()?,
        tokens: plain.tokens()?,
        provider: plain.provider.into(),
        opened_at: Timestamp::from_millis(plain.opened_at),
    })
}

/// The provider in what [`encode`] gave. The rest is left alone.
pub(super) fn provider(bytes: &[u8]) -> Option<&str> {
    let ((_version, provider), _rest) = postcard::take_from_bytes::<(u64, &str)>(bytes).ok()?;
    Some(provider)
}

/// The version in what [`encode`] gave. The rest is left alone.
pub(super) fn version(bytes: &[u8]) -> Option<u64> {
    let (version, _rest) = postcard::take_from_bytes::<u64>(bytes).ok()?;
    Some(version)
}

/// Seals a session. `None` when no nonce could be drawn.
pub(super) fn seal(session: &Stored, keys: &KeyRing) -> Option<Vec<u8>> {
    let open = session.ends_at().as_millis().to_le_bytes();
    let sealed = keys.seal(&context(session.key(), open), session.contents());
    Some([&open, sealed.ok()?.as_slice()].concat())
}

/// What can be told of an entry without its key.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) ends_at: Timestamp,
    open: [u8; OPEN],
    sealed: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads the open part.
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        let (open, sealed) = bytes.split_first_chunk::<OPEN>()?;
        Some(Self {
            ends_at: Timestamp::from_millis(u64::from_le_bytes(*open)),
            open: *open,
            sealed,
        })
    }

    /// Whether it was sealed with one of these keys.
    pub(super) fn is_known_to(&self, keys: &KeyRing) -> bool {
        keys.knows(self.sealed)
    }

    /// Opens it: what [`encode`] gave.
    pub(super) fn unseal(&self, key: &SessionKey, keys: &KeyRing) -> Option<Zeroizing<Vec<u8>>> {
        keys.open(&context(key, self.open), self.sealed)
    }

    /// Opens it and reads all of it.
    pub(super) fn open(&self, key: &SessionKey, keys: &KeyRing) -> Option<Contents> {
        decode(&self.unseal(key, keys)?)
    }
}

/// What an entry is bound to.
fn context(key: &SessionKey, open: [u8; OPEN]) -> [u8; SessionKey::LENGTH + OPEN] {
    let mut context = [0; SessionKey::LENGTH + OPEN];
    let (first, second) = context.split_at_mut(SessionKey::LENGTH);
    first.copy_from_slice(key.as_bytes());
    second.copy_from_slice(&open);
    context
}
