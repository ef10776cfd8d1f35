//! A session as it lies in the file: its version, when it ends, and the rest sealed.
//!
//! Version and end lie open, so that a session can be told to be over by whoever has not got its
//! key; both and the session's key are bound to what is sealed, so an entry that was put in
//! another's place, or in place of a later version, does not open.

use aws_lc_rs::digest::SHA256_OUTPUT_LEN;
use postcard::ser_flavors::Size;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::live::Parts;
use super::{Session, SessionKey};
use crate::clock::Timestamp;
use crate::identity::{Claim, Email, Identity};
use crate::seal::KeyRing;
use crate::token::{Authentication, Life, TokenSet};

/// The version and the end, each a little-endian number of 64 bits.
const OPEN: usize = 16;

/// What is sealed. A change of its shape is a new format of the file.
#[derive(Deserialize, Serialize)]
struct Plain<'a> {
    provider: &'a str,
    issuer: &'a str,
    subject: Option<&'a str>,
    email: Option<(&'a str, bool)>,
    preferred_username: Option<&'a str>,
    name: Option<&'a str>,
    #[serde(borrow)]
    groups: Vec<&'a str>,
    access_token: &'a str,
    refresh_token: Option<&'a str>,
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
        let life = Life {
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
        let tokens = TokenSet::new(self.access_token, self.refresh_token, life).ok()?;
        Some(tokens.with_authentication(authentication))
    }
}

/// Seals a session. `None` when no nonce could be drawn.
pub(super) fn seal(session: &Session, keys: &KeyRing) -> Option<Vec<u8>> {
    let (identity, tokens) = (session.identity(), session.tokens());
    let (life, authentication) = (tokens.life(), tokens.authentication());
    let plain = Plain {
        provider: session.provider(),
        issuer: &identity.issuer,
        subject: identity.subject.as_ref().map(Claim::as_str),
        email: identity
            .email
            .as_ref()
            .map(|email| (email.address.as_str(), email.verified)),
        preferred_username: identity.preferred_username.as_ref().map(Claim::as_str),
        name: identity.name.as_ref().map(Claim::as_str),
        groups: identity.groups.iter().map(Claim::as_str).collect(),
        access_token: tokens.access_token(),
        refresh_token: tokens.refresh_token().map(|token| token.expose().as_str()),
        obtained_at: life.obtained_at.as_millis(),
        expires_at: life.expires_at.map(Timestamp::as_millis),
        refresh_at: life.refresh_at.map(Timestamp::as_millis),
        not_before: life.not_before.as_millis(),
        authentication: authentication.map(|authentication| {
            let auth_time = authentication.auth_time.map(Timestamp::as_millis);
            (&*authentication.nonce, auth_time)
        }),
        opened_at: session.opened_at().as_millis(),
    };
    // Measured first: a buffer that grows leaves copies of the tokens behind.
    let length = postcard::serialize_with_flavor(&plain, Size::default()).ok()?;
    let mut buffer = Zeroizing::new(vec![0; length]);
    postcard::to_slice(&plain, &mut buffer).ok()?;
    let open = open_part(session.version(), session.ends_at());
    let sealed = keys.seal(&context(session.key(), &open), &buffer).ok()?;
    Some([&open, sealed.as_slice()].concat())
}

/// What can be told of an entry without its key.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) ends_at: Timestamp,
    version: u64,
    open: [u8; OPEN],
    sealed: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads the open part.
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        let (open, sealed) = bytes.split_first_chunk::<OPEN>()?;
        let (version, ends_at) = open.split_first_chunk::<8>()?;
        Some(Self {
            ends_at: Timestamp::from_millis(u64::from_le_bytes(*ends_at.first_chunk()?)),
            version: u64::from_le_bytes(*version),
            open: *open,
            sealed,
        })
    }

    /// Whether it was sealed with one of these keys.
    pub(super) fn is_known_to(&self, keys: &KeyRing) -> bool {
        keys.knows(self.sealed)
    }

    /// Opens it. `used` is when the session was used last, as far as the file knows.
    pub(super) fn open(
        &self,
        key: &SessionKey,
        keys: &KeyRing,
        used: Option<Timestamp>,
    ) -> Option<Session> {
        let plain = keys.open(&context(key, &self.open), self.sealed)?;
        let plain: Plain<'_> = postcard::from_bytes(&plain).ok()?;
        let identity = plain.identity().ok()?;
        let tokens = plain.tokens()?;
        let opened_at = Timestamp::from_millis(plain.opened_at);
        Some(Session::new(Parts {
            key: *key,
            version: self.version,
            provider: plain.provider.into(),
            identity,
            tokens,
            opened_at,
            ends_at: self.ends_at,
            last_used: used.unwrap_or_default().max(opened_at),
        }))
    }
}

fn open_part(version: u64, ends_at: Timestamp) -> [u8; OPEN] {
    let mut open = [0; OPEN];
    let (first, second) = open.split_at_mut(8);
    first.copy_from_slice(&version.to_le_bytes());
    second.copy_from_slice(&ends_at.as_millis().to_le_bytes());
    open
}

/// What an entry is bound to.
fn context(key: &SessionKey, open: &[u8; OPEN]) -> [u8; SHA256_OUTPUT_LEN + OPEN] {
    let mut context = [0; SHA256_OUTPUT_LEN + OPEN];
    let (first, second) = context.split_at_mut(SHA256_OUTPUT_LEN);
    first.copy_from_slice(key.as_bytes());
    second.copy_from_slice(open);
    context
}
