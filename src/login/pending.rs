//! A login that was sent out, and what comes back for it.
//!
//! The pending login travels inside `state`, so an unauthenticated visitor costs no memory. It has
//! two sealed parts. The first (provider, return-to, time, round) opens with our key alone: when
//! the browser's cookie is missing, the page that says so still knows where to start again. The
//! second (the seed of the code verifier) opens only together with the 128-bit secret that the
//! browser holds in a cookie of this one tab: an answer pasted into another browser is refused.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{OWN_PREFIX, ReturnTo};
use crate::clock::Timestamp;
use crate::seal::KeyRing;
use crate::secret::{self, NoRandomness, Secret};
use crate::session::{SessionKey, cookie};

/// The longest `state` that is looked at: two sealed parts with a return-to of 1 KB, and room.
const MAX_STATE: usize = 4096;

/// A login that was sent out: everything that its answer needs.
#[derive(Debug)]
pub(super) struct PendingLogin {
    details: LoginDetails,
    seed: Secret<[u8; 32]>,
}

/// The part of a pending login that opens without the browser's secret. It authenticates nobody.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct LoginDetails {
    /// The configured name of the provider that was asked.
    pub(super) provider: Box<str>,
    /// Which server and client that was: the name may mean another one when the answer comes. A
    /// state of an older version does not say.
    pub(super) registration: Option<RegistrationTag>,
    /// Where the visitor wanted to go.
    pub(super) return_to: ReturnTo,
    /// When the login was sent out.
    pub(super) issued_at: Timestamp,
    /// How many logins this browser has completed in vain just before.
    pub(super) round: u8,
    /// The person asked to sign in anew, whoever is signed in.
    pub(super) reauthenticate: bool,
    /// The session that the browser had, when its answer comes without that session's cookie.
    pub(super) previous_session: Option<SessionKey>,
}

/// The beginning of a provider's fingerprint.
pub(super) type RegistrationTag = [u8; 16];

/// The beginning of `fingerprint`.
pub(super) fn registration_tag(fingerprint: &[u8; 32]) -> RegistrationTag {
    let (beginning, _rest) = fingerprint.split_first_chunk().unwrap_or((&[0; 16], &[]));
    *beginning
}

#[derive(serde::Serialize, serde::Deserialize)]
struct RawDetails<'a> {
    p: &'a str,
    r: &'a str,
    t: u64,
    n: u8,
    a: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    g: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    s: Option<String>,
}

/// What a login needs to be sent out.
#[derive(Debug)]
pub(super) struct SealedLogin {
    /// The value of `state`.
    pub(super) state: String,
    /// Names this login's cookie; sorts by time.
    pub(super) tab: Tab,
    /// The cookie's value.
    pub(super) browser_secret: Secret<String>,
}

/// Why a `state` was refused.
///
/// Side: client, or nobody's: stale tabs and blocked cookies look the same as an attack.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StateError {
    /// It is older than a login may take.
    #[error("the sign-in took too long")]
    Expired,
    /// It was not sealed by us, not for this origin, or was changed.
    #[error("the state is not one that this gateway made")]
    Foreign,
    /// The answer carries none.
    #[error("the answer has no state")]
    Missing,
    /// The browser did not send this tab's cookie.
    #[error("the browser sent no cookie for this sign-in")]
    NoCookie,
    /// The browser sent another secret than the one this login was sent out with.
    #[error("the sign-in was started in another browser")]
    OtherBrowser,
}

/// The name of one tab's login: eight hexadecimal characters of time, eight random ones.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Tab(Box<str>);

const TAB: usize = 16;

impl Tab {
    fn random(now: Timestamp) -> Result<Self, NoRandomness> {
        let seconds = now.as_secs() & 0xffff_ffff;
        let noise = u32::from_be_bytes(secret::random()?);
        Ok(Self(format!("{seconds:08x}{noise:08x}").into()))
    }

    fn parse(text: &str) -> Option<Self> {
        let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let valid = text.len() == TAB && text.bytes().all(hexadecimal);
        valid.then(|| Self(text.into()))
    }

    /// The name of this tab's cookie.
    pub(super) fn cookie(&self) -> String {
        format!("{}{}", cookie::OTHERS, self.0)
    }

    /// The tab whose cookie has this name.
    pub(super) fn of_cookie(name: &[u8]) -> Option<Self> {
        let text = name.strip_prefix(cookie::OTHERS.as_bytes())?;
        std::str::from_utf8(text).ok().and_then(Self::parse)
    }
}

impl PendingLogin {
    /// A new login at `details.provider`.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] when the operating system gives no random bytes.
    pub(super) fn new(details: LoginDetails) -> Result<Self, NoRandomness> {
        Ok(Self {
            details,
            seed: Secret::new(secret::random()?),
        })
    }

    /// What it was sent out for.
    pub(super) fn details(&self) -> &LoginDetails {
        &self.details
    }

    /// The code verifier: 43 characters (RFC 7636 section 4.1).
    pub(super) fn code_verifier(&self) -> Secret<String> {
        Secret::new(self.derived(b"code_verifier"))
    }

    /// The nonce, which an ID token has to repeat: 43 characters.
    pub(super) fn nonce(&self) -> String {
        self.derived(b"nonce")
    }

    /// A value of its own for each purpose.
    fn derived(&self, purpose: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.seed.expose());
        URL_SAFE_NO_PAD.encode(hmac::sign(&key, purpose))
    }

    /// The `S256` code challenge (RFC 7636 section 4.2).
    pub(super) fn code_challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, self.code_verifier().expose().as_bytes()))
    }

    /// Seals this login into a `state` for the origin `origin`.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] when the operating system gives no random bytes.
    pub(super) fn seal(&self, keys: &KeyRing, origin: &str) -> Result<SealedLogin, NoRandomness> {
        let tab = Tab::random(self.details.issued_at)?;
        let raw = RawDetails {
            p: &self.details.provider,
            r: self.details.return_to.as_str(),
            t: self.details.issued_at.as_millis(),
            n: self.details.round,
            a: self.details.reauthenticate,
            g: self
                .details
                .registration
                .map(|tag| URL_SAFE_NO_PAD.encode(tag)),
            s: self
                .details
                .previous_session
                .map(|key| URL_SAFE_NO_PAD.encode(key.as_bytes())),
        };
        let plain = serde_json::to_vec(&raw).unwrap_or_default();
        let details = keys.seal(
            &associated_data(b"hint", &[tab.0.as_bytes(), origin.as_bytes()]),
            &plain,
        )?;
        let browser_secret = URL_SAFE_NO_PAD.encode(secret::random::<16>()?);
        let bound = associated_data(b"seed", &[browser_secret.as_bytes(), &details]);
        let seed = keys.seal(&bound, self.seed.expose())?;
        let [details, seed] = [details, seed].map(|part| URL_SAFE_NO_PAD.encode(part));
        let state = format!("{}.{details}.{seed}", tab.0);
        Ok(SealedLogin {
            state,
            tab,
            browser_secret: Secret::new(browser_secret),
        })
    }
}

/// A `state` whose first part is ours: it knows where the visitor wanted to go, and no more.
#[derive(Debug)]
pub(super) struct ReturnedState {
    tab: Tab,
    details: LoginDetails,
    sealed_details: Vec<u8>,
    sealed_seed: Vec<u8>,
}

impl ReturnedState {
    /// Opens the first part of a `state` that was made for `origin`.
    ///
    /// # Errors
    ///
    /// [`StateError::Missing`] or [`StateError::Foreign`].
    pub(super) fn open(state: &str, keys: &KeyRing, origin: &str) -> Result<Self, StateError> {
        if state.is_empty() {
            return Err(StateError::Missing);
        }
        Self::open_details(state, keys, origin).ok_or(StateError::Foreign)
    }

    fn open_details(state: &str, keys: &KeyRing, origin: &str) -> Option<Self> {
        let mut parts = (state.len() <= MAX_STATE).then(|| state.split('.'))?;
        let tab = Tab::parse(parts.next()?)?;
        let sealed_details = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?;
        let sealed_seed = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?;
        if parts.next().is_some() {
            return None;
        }
        let named = associated_data(b"hint", &[tab.0.as_bytes(), origin.as_bytes()]);
        let plain = keys.open(&named, &sealed_details)?;
        let raw: RawDetails<'_> = serde_json::from_slice(&plain).ok()?;
        let previous_session = raw.s.map(|text| session_key(&text));
        let registration = match raw.g {
            Some(text) => Some(URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?),
            None => None,
        };
        let details = LoginDetails {
            provider: raw.p.into(),
            registration,
            return_to: ReturnTo::parse(raw.r, OWN_PREFIX)?,
            issued_at: Timestamp::from_millis(raw.t),
            round: raw.n,
            reauthenticate: raw.a,
            previous_session: previous_session.flatten(),
        };
        Some(Self {
            tab,
            details,
            sealed_details,
            sealed_seed,
        })
    }

    /// What the login was sent out for.
    pub(super) fn details(&self) -> &LoginDetails {
        &self.details
    }

    /// The tab whose cookie holds the browser's secret.
    pub(super) fn tab(&self) -> &Tab {
        &self.tab
    }

    /// A hash by which this state can be remembered as used.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest(&SHA256, &self.sealed_seed).as_ref());
        fingerprint
    }

    /// Opens the second part with the secret from this tab's cookie. The comparison is the
    /// cipher's own tag check, in constant time.
    ///
    /// # Errors
    ///
    /// [`StateError::Expired`], [`StateError::NoCookie`] or [`StateError::OtherBrowser`].
    pub(super) fn verify(
        &self,
        keys: &KeyRing,
        browser_secret: Option<&[u8]>,
        now: Timestamp,
        timeout: Duration,
    ) -> Result<PendingLogin, StateError> {
        // A state from the future has lost its clock, not its age.
        if self.details.issued_at.plus(timeout) <= now {
            return Err(StateError::Expired);
        }
        let browser_secret = browser_secret.ok_or(StateError::NoCookie)?;
        let bound = associated_data(b"seed", &[browser_secret, &self.sealed_details]);
        let seed = keys
            .open(&bound, &self.sealed_seed)
            .ok_or(StateError::OtherBrowser)?;
        let seed = seed
            .as_slice()
            .try_into()
            .map_err(|_length| StateError::OtherBrowser)?;
        Ok(PendingLogin {
            details: self.details.clone(),
            seed: Secret::new(seed),
        })
    }
}

fn session_key(text: &str) -> Option<SessionKey> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    Some(SessionKey::from_bytes(bytes.try_into().ok()?))
}

/// Associated data in which no two lists of fields look alike: each is preceded by its length.
pub(super) fn associated_data(purpose: &[u8], fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in [purpose].iter().chain(fields) {
        bytes.extend_from_slice(&u64::try_from(field.len()).unwrap_or(u64::MAX).to_be_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}

#[cfg(test)]
#[path = "pending_tests.rs"]
mod tests;
