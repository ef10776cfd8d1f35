//! Pending logins. The `state` parameter contains the pending login. This module checks the `state`
//! that the browser returns.
//!
//! The browser stores the pending login, so the gateway needs no memory for a user who has not
//! signed in. The state has two encrypted parts. The gateway needs only its key to decrypt the
//! first part of the state: provider, return path, start time and number of previous logins. An
//! error page can therefore read the first part and offer a new login, even if the browser sends no
//! login cookie. The gateway needs its key and the 128-bit secret in the tab's login cookie to
//! decrypt the second part of the state: the seed of the code verifier. The gateway therefore
//! refuses a callback URL that a user has pasted into another browser.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::ticket::{RawTab, WaitingTab};
use super::{OwnPaths, ReturnTo};
use crate::clock::Timestamp;
use crate::provider::Prompt;
use crate::seal::KeyRing;
use crate::secret::{self, NoRandomness, Secret};
use crate::session::cookie;

/// The longest accepted `state`, in bytes. A `state` of this length can contain both encrypted
/// parts with a return path of 1 KB.
const MAX_STATE: usize = 4096;

/// A pending login: all data that the callback needs.
#[derive(Debug)]
pub(super) struct PendingLogin {
    details: LoginDetails,
    seed: Secret<[u8; 32]>,
}

/// The part of a pending login that the gateway can decrypt without the browser secret.
/// `LoginDetails` do not prove that the login began in this browser.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct LoginDetails {
    /// The configured name of the provider.
    pub(super) provider: Box<str>,
    /// A tag that identifies the server of the provider and the gateway's client identifier at this
    /// server. If the tag differs from the tag of the current provider, a reload has given the
    /// provider's name to a different server or client. A state from an older version of the
    /// gateway has no tag.
    pub(super) registration: Option<RegistrationTag>,
    /// The page that the user asked for.
    pub(super) return_to: ReturnTo,
    /// The time at which the login began.
    pub(super) issued_at: Timestamp,
    /// The number of logins in a row that this browser has completed before this login.
    pub(super) round: u8,
    /// States whether the user asked to sign in again or to choose an account, although the browser
    /// may have a valid session, or whether the sign-in is silent.
    pub(super) prompt: Prompt,
    /// Whether the user wants the browser to keep the session cookie.
    pub(super) remember: bool,
    /// The tab at another host that waits for a ticket. Only a login at the login host can have a
    /// waiting tab.
    pub(super) waiting: Option<WaitingTab>,
}

/// The first 16 bytes of the fingerprint of a provider.
pub(super) type RegistrationTag = [u8; 16];

/// Returns the first 16 bytes of `fingerprint`.
pub(super) fn registration_tag(fingerprint: &[u8; 32]) -> RegistrationTag {
    // `split_first_chunk` never fails, because a fingerprint has 32 bytes.
    let (beginning, _rest) = fingerprint.split_first_chunk().unwrap_or((&[0; 16], &[]));
    *beginning
}

#[derive(serde::Serialize, serde::Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a separate key")]
struct RawDetails<'a> {
    // The names of the fields of `RawDetails` are short, because URLs contain the state.
    p: &'a str,
    r: &'a str,
    t: u64,
    n: u8,
    a: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    c: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    q: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    m: Option<u32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    k: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    g: Option<String>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    w: Option<RawTab<'a>>,
}

/// An encrypted pending login: the `state`, and the login cookie with the secret for the second
/// part of the state.
#[derive(Debug)]
pub(super) struct SealedLogin {
    /// The value of `state`.
    pub(super) state: String,
    /// The name of the pending login, which is part of the cookie name. The name of a pending login
    /// begins with the time at which the login began, so the names can be sorted by this time.
    pub(super) tab: Tab,
    /// The value of the pending-login cookie.
    pub(super) browser_secret: Secret<String>,
}

/// A refused `state`.
///
/// The client is responsible for this error. The gateway cannot distinguish an attack from an old
/// tab or a blocked cookie.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StateError {
    /// The state is older than the timeout of a login.
    #[error("the sign-in took too long")]
    Expired,
    /// The state was not encrypted by this gateway for this origin, or the state was changed.
    #[error("this gateway did not make the state")]
    Foreign,
    /// The authorization response has no state.
    #[error("the answer has no state")]
    Missing,
    /// The browser did not send the cookie of this pending login.
    #[error("the browser sent no cookie for this sign-in")]
    NoCookie,
    /// The secret in the login cookie does not belong to this state.
    #[error("the sign-in was started in another browser")]
    OtherBrowser,
}

/// The name of one pending login: eight hexadecimal digits of the time, then eight random
/// hexadecimal digits.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Tab(Box<str>);

const TAB: usize = 16;

impl Tab {
    pub(super) fn random(now: Timestamp) -> Result<Self, NoRandomness> {
        let seconds = short_seconds(now);
        let noise = u32::from_be_bytes(secret::random()?);
        Ok(Self(format!("{seconds:08x}{noise:08x}").into()))
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let valid = text.len() == TAB && text.bytes().all(hexadecimal);
        valid.then(|| Self(text.into()))
    }

    /// Returns the name as text.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the time since the name was made, or zero if the name comes from the future: the
    /// clock of the gateway may have been set back.
    pub(super) fn age(&self, now: Timestamp) -> Duration {
        let made = self.0.get(..8).unwrap_or_default();
        let made = u32::from_str_radix(made, 16).unwrap_or_default();
        let age = short_seconds(now).wrapping_sub(made);
        // The number of seconds begins again at zero after 136 years, so half of the numbers stand
        // for the future.
        let is_past = age <= u32::MAX / 2;
        Duration::from_secs(if is_past { age.into() } else { 0 })
    }

    /// Returns the name of the cookie of this pending login.
    pub(super) fn cookie(&self) -> String {
        format!("{}{}", cookie::OTHERS, self.0)
    }

    /// Returns the name of the pending login whose cookie has the name `name`.
    pub(super) fn of_cookie(name: &[u8]) -> Option<Self> {
        let text = name.strip_prefix(cookie::OTHERS.as_bytes())?;
        std::str::from_utf8(text).ok().and_then(Self::parse)
    }
}

/// Returns the last 32 bits of the number of seconds, which fit into eight hexadecimal digits.
fn short_seconds(now: Timestamp) -> u32 {
    u32::try_from(now.as_secs() & 0xffff_ffff).unwrap_or_default()
}

impl PendingLogin {
    /// Creates a pending login.
    ///
    /// # Errors
    ///
    /// Returns [`NoRandomness`] if the operating system returns no random bytes.
    pub(super) fn new(details: LoginDetails) -> Result<Self, NoRandomness> {
        Ok(Self {
            details,
            seed: Secret::new(secret::random()?),
        })
    }

    /// Returns the [`LoginDetails`] of this pending login.
    pub(super) fn details(&self) -> &LoginDetails {
        &self.details
    }

    /// The code verifier: 43 characters (RFC 7636 section 4.1).
    pub(super) fn code_verifier(&self) -> Secret<String> {
        Secret::new(self.derived(b"code_verifier"))
    }

    /// The nonce, which the ID token must contain: 43 characters.
    pub(super) fn nonce(&self) -> String {
        self.derived(b"nonce")
    }

    /// Computes a value from the seed and `purpose`. For different purposes, the values are
    /// different.
    fn derived(&self, purpose: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.seed.expose());
        URL_SAFE_NO_PAD.encode(hmac::sign(&key, purpose))
    }

    /// The `S256` code challenge (RFC 7636 section 4.2).
    pub(super) fn code_challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, self.code_verifier().expose().as_bytes()))
    }

    /// Encrypts this login as a `state` for `origin`.
    ///
    /// # Errors
    ///
    /// Returns [`NoRandomness`] if the operating system returns no random bytes.
    pub(super) fn seal(&self, keys: &KeyRing, origin: &str) -> Result<SealedLogin, NoRandomness> {
        let tab = Tab::random(self.details.issued_at)?;
        let raw = RawDetails {
            p: &self.details.provider,
            r: self.details.return_to.as_str(),
            t: self.details.issued_at.as_millis(),
            n: self.details.round,
            a: !self.details.prompt.accepts_session(),
            c: self.details.prompt == Prompt::SelectAccount,
            q: self.details.prompt == Prompt::Silent,
            m: self.details.prompt.max_age_secs(),
            k: self.details.remember,
            g: self
                .details
                .registration
                .map(|tag| URL_SAFE_NO_PAD.encode(tag)),
            w: self.details.waiting.as_ref().map(WaitingTab::to_raw),
        };
        // Serialization does not fail, because all fields are strings, numbers and booleans.
        let plain = serde_json::to_vec(&raw).unwrap_or_default();
        let details = keys.seal(
            &associated_data(b"hint", &[tab.0.as_bytes(), origin.as_bytes()]),
            &plain,
        )?;
        let browser_secret = URL_SAFE_NO_PAD.encode(secret::random::<16>()?);
        // The second part of a state can be decrypted only together with the first part of the same
        // state, so an attacker cannot combine parts of two states.
        let seed_data = associated_data(b"seed", &[browser_secret.as_bytes(), &details]);
        let seed = keys.seal(&seed_data, self.seed.expose())?;
        let [details, seed] = [details, seed].map(|part| URL_SAFE_NO_PAD.encode(part));
        let state = format!("{}.{details}.{seed}", tab.0);
        Ok(SealedLogin {
            state,
            tab,
            browser_secret: Secret::new(browser_secret),
        })
    }
}

/// A returned `state` whose first part is decrypted. The second part of the `state` parameter is
/// not verified yet.
#[derive(Debug)]
pub(super) struct ReturnedState {
    tab: Tab,
    details: LoginDetails,
    sealed_details: Vec<u8>,
    sealed_seed: Vec<u8>,
}

impl ReturnedState {
    /// Decrypts the first part of a `state` for `origin`.
    ///
    /// # Errors
    ///
    /// [`StateError::Missing`] or [`StateError::Foreign`].
    pub(super) fn open(
        state: &str,
        opening: (&KeyRing, &OwnPaths),
        origin: &str,
    ) -> Result<Self, StateError> {
        if state.is_empty() {
            return Err(StateError::Missing);
        }
        Self::open_details(state, opening, origin).ok_or(StateError::Foreign)
    }

    fn open_details(state: &str, (keys, own): (&KeyRing, &OwnPaths), origin: &str) -> Option<Self> {
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
        let registration = match raw.g {
            Some(text) => Some(URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?),
            None => None,
        };
        let waiting = match &raw.w {
            Some(raw) => Some(WaitingTab::from_raw(raw)?),
            None => None,
        };
        let details = LoginDetails {
            provider: raw.p.into(),
            registration,
            // The return path is checked again, because another version of the gateway may have
            // accepted the path with other rules.
            return_to: ReturnTo::from_sealed(raw.r, own)?,
            issued_at: Timestamp::from_millis(raw.t),
            round: raw.n,
            prompt: match (raw.a, raw.c, raw.q) {
                (false, _, false) => Prompt::AsNeeded,
                (false, _, true) => Prompt::Silent,
                (true, false, _) => Prompt::Login,
                (true, true, _) => Prompt::SelectAccount,
            }
            .with_max_age(raw.m),
            remember: raw.k,
            waiting,
        };
        Some(Self {
            tab,
            details,
            sealed_details,
            sealed_seed,
        })
    }

    /// Returns the [`LoginDetails`] of the returned state.
    pub(super) fn details(&self) -> &LoginDetails {
        &self.details
    }

    /// Returns the name of the pending login whose cookie contains the browser secret.
    pub(super) fn tab(&self) -> &Tab {
        &self.tab
    }

    /// Returns a hash of this state. The store keeps the hash of a used state, so that the state
    /// cannot be used again.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let mut fingerprint = [0; 32];
        // The hash of the encrypted seed is sufficient, because each login has a different
        // encrypted seed.
        fingerprint.copy_from_slice(digest(&SHA256, &self.sealed_seed).as_ref());
        fingerprint
    }

    /// Decrypts the second part of the state. The decryption of the second part also needs the
    /// secret from the login cookie. The cipher compares the authentication tag in constant time.
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
        // A start time in the future is accepted, because the clock of the gateway may have been
        // set back.
        if self.details.issued_at.plus(timeout) <= now {
            return Err(StateError::Expired);
        }
        let browser_secret = browser_secret.ok_or(StateError::NoCookie)?;
        let seed_data = associated_data(b"seed", &[browser_secret, &self.sealed_details]);
        let seed = keys
            .open(&seed_data, &self.sealed_seed)
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

/// Encodes `purpose` and `fields` as associated data. The encoding contains the length of each part
/// before the part, so two different lists never have the same encoding.
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
