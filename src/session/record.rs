//! Encodes the contents of a session as bytes, for memory and for the file.
//!
//! An entry of the file starts with the time at which the session ends, as plaintext. The encrypted
//! contents follow. The plaintext lets the gateway find an expired session even if the gateway
//! cannot decrypt the entry. The plaintext and the session key are associated data of the
//! encryption. If somebody copies an entry to another session, the gateway cannot decrypt the
//! copied entry. The gateway can decrypt an older entry of the same session. An attacker who can
//! write the session file can restore an older version of a session.

use postcard::ser_flavors::Size;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::SessionKey;
use super::device::Device;
use super::packed::{pack, unpack};
use super::stored::Stored;
use crate::clock::Timestamp;
use crate::identity::{Claim, Email, Identity};
use crate::seal::KeyRing;
use crate::token::{Authentication, Lifetime, TokenSet};

/// The length of the plaintext part of an entry, in bytes. The plaintext part is a little-endian
/// 64-bit number.
const PLAINTEXT: usize = 8;

/// The data of a session that does not change within one version.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) version: u64,
    pub(super) provider: Box<str>,
    pub(super) identity: Identity,
    pub(super) tokens: TokenSet,
    pub(super) opened_at: Timestamp,
    /// The id of the session at the provider (claim `sid` of the ID token).
    pub(super) sid: Option<Box<str>>,
    /// The device with which the user has signed in.
    pub(super) device: Option<Device>,
}

/// The encoded form of the contents of a session. If this structure changes, the format of the file
/// changes, too.
#[derive(Deserialize, Serialize)]
struct Encoded<'a> {
    version: u64,
    provider: &'a str,
    issuer: &'a str,
    subject: Option<&'a str>,
    email: Option<(&'a str, bool)>,
    preferred_username: Option<&'a str>,
    name: Option<&'a str>,
    #[serde(borrow)]
    groups: Vec<&'a str>,
    /// The access token and the refresh token are packed with [`pack`].
    access_token: &'a [u8],
    refresh_token: Option<&'a [u8]>,
    obtained_at: u64,
    expires_at: Option<u64>,
    refresh_at: Option<u64>,
    not_before: u64,
    /// The nonce of the login, and the time when the user authenticated at the provider.
    authentication: Option<(&'a str, Option<u64>)>,
    opened_at: u64,
}

/// The optional values of a session. Only some settings need the optional values. These values are
/// encoded after [`Encoded`], and only if there is at least one value.
#[derive(Default, Deserialize, Serialize)]
struct Additional<'a> {
    /// The ID token is packed with [`pack`].
    id_token: Option<&'a [u8]>,
    /// The additional claims of the identity, each with its path.
    #[serde(borrow)]
    claims: Vec<(&'a str, &'a str)>,
}

/// The id of the session at the provider. The id is empty if the provider has sent no id. The id is
/// encoded after [`Additional`]. Older versions of the gateway ignore the id, and wrote no id.
#[derive(Deserialize, Serialize)]
struct ProviderSession<'a> {
    sid: &'a str,
}

/// The device with which the user has signed in. The device is encoded after [`ProviderSession`].
/// Older versions of the gateway ignore the device, and wrote no device.
#[derive(Deserialize, Serialize)]
struct EncodedDevice<'a> {
    name: &'a str,
    network: &'a str,
}

/// The values that are encoded after [`Additional`].
#[derive(Default)]
struct Later {
    sid: Option<Box<str>>,
    device: Option<Device>,
}

impl Later {
    /// Decodes the bytes after [`Additional`].
    fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let (ProviderSession { sid }, rest) = postcard::take_from_bytes(bytes).ok()?;
        // Without a device, the session still works, so a damaged device counts as absent.
        let device = postcard::from_bytes(rest).ok();
        let device =
            device.and_then(|EncodedDevice { name, network }| Device::stored(name, network));
        let sid = Some(sid).filter(|sid| !sid.is_empty());
        Some(Self {
            sid: sid.map(Into::into),
            device,
        })
    }
}

/// The error for an entry of the file that cannot be decoded.
#[derive(Debug)]
struct Invalid;

/// Decodes a claim. Only valid claims are encoded, so an invalid claim shows that the bytes are
/// damaged.
fn claim(text: &str) -> Result<Claim, Invalid> {
    Claim::new(text).ok_or(Invalid)
}

impl Encoded<'_> {
    fn identity(&self) -> Result<Identity, Invalid> {
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

/// Encodes contents. After `encode`, the memory contains no other copy of the encoded bytes.
pub(super) fn encode(contents: &Contents) -> Zeroizing<Box<[u8]>> {
    // The encoding does not fail, because the contents are text and numbers, and the length of the
    // tokens was checked earlier.
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
    let plain = Encoded {
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
    let id_token = match tokens.id_token() {
        Some(token) => Some(pack(token.expose())?),
        None => None,
    };
    let claims = identity.claims.iter();
    let additional = Additional {
        id_token: id_token.as_ref().map(|packed| packed.as_slice()),
        claims: claims
            .map(|(path, claim)| (&**path, claim.as_str()))
            .collect(),
    };
    let sid = contents.sid.as_deref();
    let provider_session = ProviderSession {
        sid: sid.unwrap_or_default(),
    };
    if let Some(Device { name, network }) = &contents.device {
        let device = EncodedDevice { name, network };
        to_bytes(&(plain, additional, provider_session, device))
    } else if sid.is_some() {
        to_bytes(&(plain, additional, provider_session))
    } else if additional.id_token.is_none() && additional.claims.is_empty() {
        to_bytes(&plain)
    } else {
        to_bytes(&(plain, additional))
    }
}

/// Encodes a value. The length is computed before the encoding, because a buffer that grows or
/// shrinks leaves copies of the tokens in memory.
fn to_bytes(value: &impl Serialize) -> Option<Vec<u8>> {
    let length = postcard::serialize_with_flavor(value, Size::default()).ok()?;
    let mut bytes = vec![0; length];
    postcard::to_slice(value, &mut bytes).ok()?;
    Some(bytes)
}

/// Decodes contents. Returns `None` if [`encode`] did not create the bytes.
pub(super) fn decode(bytes: &[u8]) -> Option<Contents> {
    let (plain, rest) = postcard::take_from_bytes::<Encoded<'_>>(bytes).ok()?;
    let (mut identity, mut tokens) = (plain.identity().ok()?, plain.tokens()?);
    let mut later = Later::default();
    if !rest.is_empty() {
        let (additional, rest) = postcard::take_from_bytes::<Additional<'_>>(rest).ok()?;
        later = Later::decode(rest)?;
        let claims = additional.claims.into_iter();
        let claims = claims.map(|(path, text)| Some((path.into(), Claim::new(text)?)));
        identity = identity.with_claims(claims.collect::<Option<Vec<_>>>()?);
        let id_token = match additional.id_token {
            Some(packed) => Some(unpack(packed)?),
            None => None,
        };
        tokens = tokens.with_id_token(id_token.as_ref().map(|token| token.as_str()));
    }
    Some(Contents {
        version: plain.version,
        identity,
        tokens,
        provider: plain.provider.into(),
        opened_at: Timestamp::from_millis(plain.opened_at),
        sid: later.sid,
        device: later.device,
    })
}

/// Decodes only the provider's name from the encoded contents of a session.
pub(super) fn provider(bytes: &[u8]) -> Option<&str> {
    let ((_version, provider), _rest) = postcard::take_from_bytes::<(u64, &str)>(bytes).ok()?;
    Some(provider)
}

/// Decodes only the version of a session from the encoded contents of the session.
pub(super) fn version(bytes: &[u8]) -> Option<u64> {
    let (version, _rest) = postcard::take_from_bytes::<u64>(bytes).ok()?;
    Some(version)
}

/// Encrypts a session. Returns `None` if no nonce could be generated.
pub(super) fn seal(session: &Stored, keys: &KeyRing) -> Option<Vec<u8>> {
    let plaintext = session.ends_at().as_millis().to_le_bytes();
    let sealed = keys.seal(&context(session.key(), plaintext), session.contents());
    Some([&plaintext, sealed.ok()?.as_slice()].concat())
}

/// An encrypted entry of the file.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) ends_at: Timestamp,
    plaintext: [u8; PLAINTEXT],
    sealed: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads the plaintext part of an entry.
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        let (plaintext, sealed) = bytes.split_first_chunk::<PLAINTEXT>()?;
        Some(Self {
            ends_at: Timestamp::from_millis(u64::from_le_bytes(*plaintext)),
            plaintext: *plaintext,
            sealed,
        })
    }

    /// Returns true if the entry was encrypted with one of these keys.
    pub(super) fn is_known_to(&self, keys: &KeyRing) -> bool {
        keys.knows(self.sealed)
    }

    /// Decrypts the entry and returns the encoded contents.
    pub(super) fn unseal(&self, key: &SessionKey, keys: &KeyRing) -> Option<Zeroizing<Vec<u8>>> {
        keys.open(&context(key, self.plaintext), self.sealed)
    }

    /// Decrypts the entry and decodes the contents.
    pub(super) fn open(&self, key: &SessionKey, keys: &KeyRing) -> Option<Contents> {
        decode(&self.unseal(key, keys)?)
    }
}

/// Returns the associated data of an encrypted entry.
fn context(key: &SessionKey, plaintext: [u8; PLAINTEXT]) -> [u8; SessionKey::LENGTH + PLAINTEXT] {
    let mut context = [0; SessionKey::LENGTH + PLAINTEXT];
    let (first, second) = context.split_at_mut(SessionKey::LENGTH);
    first.copy_from_slice(key.as_bytes());
    second.copy_from_slice(&plaintext);
    context
}
