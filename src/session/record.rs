//! Encodes the contents of a session as bytes, for memory and for the stores.
//!
//! The values that every session has come first ([`Encoded`]). Optional values follow:
//!
//! | value | what it is for |
//! | --- | --- |
//! | ID token | the sign-out at the provider, which needs the ID token as a hint |
//! | claims | rules and fields of apps that need other claims than the identity has |
//! | `sid` | the logout at the provider, which names its own session |
//! | device | the page on which users see and end their own sessions |
//! | store | the shared store to which the session belongs, so that a copy in another store is refused ([`bound_to`]) |
//!
//! The version of a session is one of the first values. A version shows whether a session has
//! changed since it was read. No value states whether the browser keeps the cookie after it was
//! closed: the gateway decides this when it sets the cookie, and sets the cookie one time.
//!
//! A newer version of the gateway may encode more values at the end, each with its number, its
//! length and its bytes. This version keeps these bytes and writes them again with each change of
//! the session ([`Contents::newer`]). The store is the first of these values, so that a version that
//! does not know it keeps it.

use postcard::ser_flavors::Size;
use serde::ser::{SerializeTuple as _, Serializer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::device::Device;
use super::packed::{pack, unpack};
use crate::clock::Timestamp;
use crate::identity::{Claim, Email, Identity};
use crate::token::{Authentication, Lifetime, TokenSet};

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
    /// The encoded values at the end, each with its number: the store, and values that only a newer
    /// version of the gateway knows.
    pub(super) newer: Box<[u8]>,
}

/// Identifies a shared store. Only the replicas of one store have the same identity.
pub(super) type StoreIdentity = [u8; 16];

/// The number of the value that contains the identity of the store.
const STORE: u32 = 1;

impl Contents {
    /// Returns true if the session belongs to this store. Versions of the gateway that did not know
    /// the identity wrote sessions without it, and such a session belongs to the store in which it
    /// is.
    pub(super) fn is_of(&self, store: &StoreIdentity) -> bool {
        let mut values = numbered(&self.newer);
        values.all(|(number, value)| number != STORE || value == store)
    }
}

/// Returns the values at the end, each with its number.
fn numbered(mut bytes: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    std::iter::from_fn(move || {
        let (value, rest) = postcard::take_from_bytes::<(u32, &[u8])>(bytes).ok()?;
        bytes = rest;
        Some(value)
    })
}

/// Returns the encoded contents of a session with the identity of the store to which the session
/// belongs. Returns `None` if [`encode`] did not create `contents`.
pub(super) fn bound_to(store: &StoreIdentity, contents: &[u8]) -> Option<Zeroizing<Box<[u8]>>> {
    let mut contents = decode(contents)?;
    let own = [(STORE, store.as_slice())];
    let others = numbered(&contents.newer).filter(|(number, _)| *number != STORE);
    let values = own.into_iter().chain(others);
    let encoded = values.map(|value| to_bytes(&value));
    let encoded: Vec<Vec<u8>> = encoded.collect::<Option<_>>()?;
    contents.newer = encoded.concat().into();
    Some(encode(&contents))
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
/// Older versions of the gateway ignore the device, and wrote no device. Both texts are empty if
/// only newer values follow.
#[derive(Default, Deserialize, Serialize)]
struct EncodedDevice<'a> {
    name: &'a str,
    network: &'a str,
}

/// The encoded values of a newer version of the gateway, which are already encoded.
struct Newer<'a>(&'a [u8]);

impl Serialize for Newer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A tuple has no length of its own, so that the bytes stay as they are.
        let mut bytes = serializer.serialize_tuple(self.0.len())?;
        self.0
            .iter()
            .try_for_each(|byte| bytes.serialize_element(byte))?;
        bytes.end()
    }
}

/// The values that are encoded after [`Additional`].
#[derive(Default)]
struct Later {
    sid: Option<Box<str>>,
    device: Option<Device>,
    newer: Box<[u8]>,
}

impl Later {
    /// Decodes the bytes after [`Additional`].
    fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let (ProviderSession { sid }, rest) = postcard::take_from_bytes(bytes).ok()?;
        // Without a device, the session still works, so a damaged device counts as absent.
        let device = postcard::take_from_bytes::<EncodedDevice<'_>>(rest).ok();
        let (device, newer) = device.unwrap_or_default();
        let sid = Some(sid).filter(|sid| !sid.is_empty());
        Some(Self {
            sid: sid.map(Into::into),
            device: Device::stored(device.name, device.network),
            newer: newer.into(),
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
    with_later_values(plain, additional, contents)
}

/// Encodes the values of a session, without values at the end that the session does not have.
fn with_later_values(
    plain: Encoded<'_>,
    additional: Additional<'_>,
    contents: &Contents,
) -> Option<Vec<u8>> {
    let sid = contents.sid.as_deref();
    let provider_session = ProviderSession {
        sid: sid.unwrap_or_default(),
    };
    let device = contents.device.as_ref();
    let device = device.map(|Device { name, network }| EncodedDevice { name, network });
    if !contents.newer.is_empty() {
        let device = device.unwrap_or_default();
        let newer = Newer(&contents.newer);
        to_bytes(&(plain, additional, provider_session, device, newer))
    } else if let Some(device) = device {
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
        newer: later.newer,
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
