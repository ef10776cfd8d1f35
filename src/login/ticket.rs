//! Ticket requests and tickets, with which several hosts share one sign-in.
//!
//! A host without a session sends the browser to the login host with a ticket request. The login
//! host answers with a ticket. Both are encrypted parts of a URL. A ticket is valid for a short
//! time, for one use, at one host, and only in the browser tab that asked for the ticket. The
//! cookie of the tab contains a secret. The ticket request and the ticket contain only a hash of
//! the secret, so nobody can use a ticket without the cookie.

use std::borrow::Cow;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::pending::{StateError, Tab, associated_data};
use super::{OwnPaths, PublicUrl, PublicUrls, ReturnTo};
use crate::clock::Timestamp;
use crate::provider::Prompt;
use crate::seal::KeyRing;
use crate::secret::{self, NoRandomness, Secret};
use crate::session::{Session, SessionKey, SessionRef};

/// The time for which a ticket is valid. A browser follows a redirect at once.
pub(super) const TICKET_LIFETIME: Duration = Duration::from_mins(1);

/// The longest accepted ticket or ticket request, in bytes. The text can contain a return path of 1
/// KB and the parameters for the provider.
const MAX_TEXT: usize = 8192;

/// A browser tab at a host other than the login host. The tab waits for a ticket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct WaitingTab {
    /// The origin at which the user opened a page.
    pub(super) host: PublicUrl,
    pub(super) tab: Tab,
    secret_hash: [u8; 32],
    /// The number of logins in a row that this browser has completed at the host.
    pub(super) round: u8,
    /// The session that the browser had at the host. A login of this tab replaces the session.
    pub(super) session: Option<SessionKey>,
}

/// The serialized form of a [`WaitingTab`]. The names of the fields are short, because URLs contain
/// a waiting tab.
#[derive(Deserialize, Serialize)]
pub(super) struct RawTab<'a> {
    #[serde(borrow)]
    o: Cow<'a, str>,
    #[serde(borrow)]
    b: Cow<'a, str>,
    h: String,
    n: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    s: Option<String>,
}

/// A request of a host to the login host: the page that the user asked for, and the tab that waits
/// for a ticket.
#[derive(Debug)]
pub(crate) struct TicketRequest {
    pub(super) waiting: WaitingTab,
    /// The page that the user asked for.
    pub(crate) return_to: ReturnTo,
    /// The configured names of the providers that the page accepts. There is at least one provider.
    pub(crate) providers: Vec<Box<str>>,
    /// States whether the provider must ask the user to sign in again.
    pub(crate) prompt: Prompt,
    /// Whether the user wants the browser to keep the session cookie of the login host.
    pub(crate) remember: bool,
    /// The parameters for the provider.
    pub(crate) passed: Vec<(String, String)>,
    pub(super) issued_at: Timestamp,
}

#[derive(Deserialize, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a separate key")]
struct RawRequest<'a> {
    #[serde(borrow)]
    w: RawTab<'a>,
    #[serde(borrow)]
    r: Cow<'a, str>,
    p: Vec<Box<str>>,
    a: bool,
    #[serde(default)]
    c: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    q: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    m: Option<u32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    k: bool,
    x: Vec<(String, String)>,
    t: u64,
}

/// The permission for one browser tab to use a session at one host.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(super) waiting: WaitingTab,
    /// The session of the login host.
    pub(crate) session: SessionRef,
    /// The page that the user asked for.
    pub(super) return_to: ReturnTo,
    pub(super) issued_at: Timestamp,
    /// A hash of the ticket, which the store keeps so that the ticket cannot be used again.
    pub(super) fingerprint: [u8; 32],
}

#[derive(Deserialize, Serialize)]
struct RawTicket<'a> {
    #[serde(borrow)]
    w: RawTab<'a>,
    #[serde(borrow)]
    r: Cow<'a, str>,
    s: String,
    t: u64,
}

/// The data with which a text from a URL is decrypted and checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening<'a> {
    pub(super) keys: &'a KeyRing,
    pub(super) own: &'a OwnPaths,
    pub(super) served: &'a PublicUrls,
    /// The origin of the gateway to which the browser sent the text.
    pub(super) public_url: &'a PublicUrl,
}

impl Opening<'_> {
    fn waiting_tab(&self, raw: &RawTab<'_>) -> Option<WaitingTab> {
        WaitingTab::from_raw(raw).filter(|waiting| waiting.is_served(self.served))
    }
}

impl WaitingTab {
    /// Creates a tab with a new secret. The secret is the value of the cookie of the tab.
    pub(super) fn new(
        host: &PublicUrl,
        (round, session): (u8, Option<SessionKey>),
        now: Timestamp,
    ) -> Result<(Self, Secret<String>), NoRandomness> {
        let secret = URL_SAFE_NO_PAD.encode(secret::random::<16>()?);
        let waiting = Self {
            host: host.clone(),
            tab: Tab::random(now)?,
            secret_hash: sha256(secret.as_bytes()),
            round,
            session,
        };
        Ok((waiting, Secret::new(secret)))
    }

    pub(super) fn to_raw(&self) -> RawTab<'_> {
        RawTab {
            o: self.host.origin().into(),
            b: self.tab.as_str().into(),
            h: URL_SAFE_NO_PAD.encode(self.secret_hash),
            n: self.round,
            s: self
                .session
                .map(|key| URL_SAFE_NO_PAD.encode(key.as_bytes())),
        }
    }

    pub(super) fn from_raw(raw: &RawTab<'_>) -> Option<Self> {
        let secret_hash = URL_SAFE_NO_PAD.decode(&raw.h).ok()?;
        let session = match &raw.s {
            Some(text) => {
                let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
                Some(SessionKey::from_bytes(bytes.try_into().ok()?))
            }
            None => None,
        };
        Some(Self {
            host: PublicUrl::try_from(raw.o.to_string()).ok()?,
            tab: Tab::parse(&raw.b)?,
            secret_hash: secret_hash.try_into().ok()?,
            round: raw.n,
            session,
        })
    }

    /// Returns true if the gateway still serves the host of the tab. A reload may have removed the
    /// host.
    pub(super) fn is_served(&self, served: &PublicUrls) -> bool {
        served.find(self.host.authority()).as_ref() == Some(&self.host)
    }
}

impl TicketRequest {
    /// Encrypts the request for the login host.
    pub(super) fn seal(
        &self,
        keys: &KeyRing,
        login_host: &PublicUrl,
    ) -> Result<String, NoRandomness> {
        let raw = RawRequest {
            w: self.waiting.to_raw(),
            r: self.return_to.as_str().into(),
            p: self.providers.clone(),
            a: self.prompt.value() == Prompt::Login.value(),
            c: self.prompt == Prompt::SelectAccount,
            q: self.prompt == Prompt::Silent,
            m: self.prompt.max_age_secs(),
            k: self.remember,
            x: self.passed.clone(),
            t: self.issued_at.as_millis(),
        };
        seal(&raw, keys, &request_context(login_host))
    }

    /// Decrypts a request that another host has sealed for the login host. The request may be too
    /// old ([`TicketRequest::check_age`]).
    ///
    /// # Errors
    ///
    /// [`StateError::Missing`] or [`StateError::Foreign`].
    pub(super) fn open(text: &str, opening: Opening<'_>) -> Result<Self, StateError> {
        let context = request_context(opening.public_url);
        let plain = open(text, opening.keys, &context)?;
        Self::decode(&plain, opening).ok_or(StateError::Foreign)
    }

    /// Checks that the request is younger than `timeout`.
    ///
    /// # Errors
    ///
    /// [`StateError::Expired`].
    pub(super) fn check_age(&self, now: Timestamp, timeout: Duration) -> Result<(), StateError> {
        if self.issued_at.plus(timeout) <= now {
            return Err(StateError::Expired);
        }
        Ok(())
    }

    fn decode(plain: &[u8], opening: Opening<'_>) -> Option<Self> {
        let raw: RawRequest<'_> = serde_json::from_slice(plain).ok()?;
        Some(Self {
            waiting: opening.waiting_tab(&raw.w)?,
            return_to: ReturnTo::from_sealed(&raw.r, opening.own)?,
            providers: raw.p,
            prompt: match (raw.a, raw.c, raw.q) {
                (true, _, _) => Prompt::Login,
                (false, true, _) => Prompt::SelectAccount,
                (false, false, true) => Prompt::Silent,
                (false, false, false) => Prompt::AsNeeded,
            }
            .with_max_age(raw.m),
            remember: raw.k,
            passed: raw.x,
            issued_at: Timestamp::from_millis(raw.t),
        })
    }

    /// Returns true if the user of `session` needs no new login for this request.
    pub(crate) fn accepts(&self, session: &Session, now: Timestamp) -> bool {
        let mut providers = self.providers.iter();
        let max_age = self.prompt.max_age();
        self.prompt.accepts_session()
            && max_age.is_none_or(|max_age| session.is_authenticated_within(max_age, now))
            && providers.any(|name| **name == *session.provider())
    }

    /// Returns the provider, if the page accepts only one provider.
    pub(crate) fn only_provider(&self) -> Option<&str> {
        match &*self.providers {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Returns the same request with only one provider.
    pub(super) fn at(&self, provider: &str) -> Self {
        Self {
            waiting: self.waiting.clone(),
            return_to: self.return_to.clone(),
            providers: vec![provider.into()],
            prompt: self.prompt,
            remember: self.remember,
            passed: self.passed.clone(),
            issued_at: self.issued_at,
        }
    }

    /// Returns the host that has sent the request.
    pub(crate) fn host(&self) -> &PublicUrl {
        &self.waiting.host
    }
}

impl Ticket {
    /// Encrypts a ticket for the host of `waiting`.
    pub(super) fn seal(
        (waiting, return_to): (&WaitingTab, &ReturnTo),
        session: SessionRef,
        keys: &KeyRing,
        now: Timestamp,
    ) -> Result<String, NoRandomness> {
        let raw = RawTicket {
            w: waiting.to_raw(),
            r: return_to.as_str().into(),
            s: URL_SAFE_NO_PAD.encode(session.to_bytes()),
            t: now.as_millis(),
        };
        seal(&raw, keys, &ticket_context(&waiting.host))
    }

    /// Decrypts a ticket for the host that has received the ticket. The caller must call
    /// [`Ticket::verify`] before the caller uses the session of the ticket.
    ///
    /// # Errors
    ///
    /// [`StateError::Missing`] or [`StateError::Foreign`].
    pub(super) fn open(text: &str, opening: Opening<'_>) -> Result<Self, StateError> {
        let plain = open(text, opening.keys, &ticket_context(opening.public_url))?;
        Self::decode(&plain, text, opening).ok_or(StateError::Foreign)
    }

    fn decode(plain: &[u8], text: &str, opening: Opening<'_>) -> Option<Self> {
        let raw: RawTicket<'_> = serde_json::from_slice(plain).ok()?;
        Some(Self {
            waiting: opening.waiting_tab(&raw.w)?,
            session: SessionRef::from_bytes(&URL_SAFE_NO_PAD.decode(raw.s).ok()?)?,
            return_to: ReturnTo::from_sealed(&raw.r, opening.own)?,
            issued_at: Timestamp::from_millis(raw.t),
            fingerprint: sha256(text.as_bytes()),
        })
    }

    /// Checks the age of the ticket, and the secret in the cookie of the tab.
    ///
    /// # Errors
    ///
    /// [`StateError::Expired`], [`StateError::NoCookie`] or [`StateError::OtherBrowser`].
    pub(super) fn verify(&self, secret: Option<&[u8]>, now: Timestamp) -> Result<(), StateError> {
        if self.issued_at.plus(TICKET_LIFETIME) <= now {
            return Err(StateError::Expired);
        }
        let hash = sha256(secret.ok_or(StateError::NoCookie)?);
        verify_slices_are_equal(&hash, &self.waiting.secret_hash)
            .map_err(|_different| StateError::OtherBrowser)
    }
}

fn seal(value: &impl Serialize, keys: &KeyRing, context: &[u8]) -> Result<String, NoRandomness> {
    // Serialization does not fail, because all fields are strings, numbers and booleans.
    let plain = serde_json::to_vec(value).unwrap_or_default();
    Ok(URL_SAFE_NO_PAD.encode(keys.seal(context, &plain)?))
}

fn open(text: &str, keys: &KeyRing, context: &[u8]) -> Result<Zeroizing<Vec<u8>>, StateError> {
    if text.is_empty() {
        return Err(StateError::Missing);
    }
    let sealed = (text.len() <= MAX_TEXT).then(|| URL_SAFE_NO_PAD.decode(text).ok());
    let plain = sealed
        .flatten()
        .and_then(|sealed| keys.open(context, &sealed));
    plain.ok_or(StateError::Foreign)
}

fn request_context(login_host: &PublicUrl) -> Vec<u8> {
    associated_data(b"ticket request", &[login_host.origin().as_bytes()])
}

fn ticket_context(host: &PublicUrl) -> Vec<u8> {
    associated_data(b"ticket", &[host.origin().as_bytes()])
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
#[path = "ticket_tests.rs"]
mod tests;
