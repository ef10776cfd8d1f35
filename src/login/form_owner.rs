//! States whose form a browser may send after its session has ended.
//!
//! The store forgets a session that has ended, and the sessions of a store in memory are lost at a
//! restart. Therefore the gateway tells the browser at the login who has signed in: a cookie
//! contains the sealed hash of the user and the key of the session. When a form arrives after the
//! session has ended, the cookie states to whom the form belongs. The gateway needs no memory for
//! this statement, so every replica with the same keys can read the statement, also after a
//! restart.
//!
//! The cookie gives no rights. The gateway uses the cookie only to seal a form for a user, and only
//! a session of this user opens the form again. The cookie outlives a sign-out, because the user may
//! still have an unsent form in another tab.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue};

use super::pending::associated_data;
use super::{Login, PublicUrl};
use crate::clock::Timestamp;
use crate::fields::cookie::{self as cookies, Found};
use crate::identity::Identity;
use crate::seal::KeyRing;
use crate::session::{SessionKey, cookie};

/// The name of the cookie with the statement.
const NAME: &str = "__Host-sidegate-owner";

/// The time for which the statement is valid after the longest lifetime of the session.
const AFTER_SESSION: Duration = Duration::from_hours(24);

/// The longest value of the cookie, in bytes. A statement has 118 bytes.
const MAX_VALUE: usize = 256;

/// Identifies the user to whom a form belongs: a hash of the issuer and the subject.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FormOwner([u8; 32]);

impl FormOwner {
    /// Returns the owner with this identity. Returns `None` if the identity has no subject, because
    /// the gateway cannot distinguish users without a subject.
    pub(super) fn of(identity: &Identity) -> Option<Self> {
        let subject = identity.subject.as_ref()?;
        let fields = [identity.issuer.as_bytes(), subject.as_str().as_bytes()];
        let mut owner = [0; 32];
        owner.copy_from_slice(digest(&SHA256, &associated_data(b"owner", &fields)).as_ref());
        Some(Self(owner))
    }

    pub(super) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The statement in the cookie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Statement {
    owner: FormOwner,
    session: SessionKey,
    ends_at: Timestamp,
}

impl Statement {
    fn seal(&self, keys: &KeyRing, origin: &str) -> Option<String> {
        let ends_at = self.ends_at.as_millis().to_be_bytes();
        let plain = [&self.owner.0[..], self.session.as_bytes(), &ends_at].concat();
        let sealed = keys.seal(&context(origin), &plain).ok()?;
        Some(URL_SAFE_NO_PAD.encode(sealed))
    }

    fn open(value: &[u8], keys: &KeyRing, origin: &str) -> Option<Self> {
        if value.len() > MAX_VALUE {
            return None;
        }
        let sealed = URL_SAFE_NO_PAD.decode(value).ok()?;
        let plain = keys.open(&context(origin), &sealed)?;
        let (owner, rest) = plain.split_first_chunk::<32>()?;
        let (session, rest) = rest.split_first_chunk::<{ SessionKey::LENGTH }>()?;
        let ends_at = u64::from_be_bytes(rest.try_into().ok()?);
        Some(Self {
            owner: FormOwner(*owner),
            session: SessionKey::from_bytes(*session),
            ends_at: Timestamp::from_millis(ends_at),
        })
    }
}

fn context(origin: &str) -> Vec<u8> {
    associated_data(b"form owner", &[origin.as_bytes()])
}

impl Login {
    /// Returns the `Set-Cookie` value that states to whom the forms of the session `session` belong.
    /// If the user has no subject, the value deletes the statement about an earlier user, and no
    /// form of the session is kept.
    pub(crate) fn form_owner_cookie(
        &self,
        (session, identity): (&SessionKey, &Identity),
        public_url: &PublicUrl,
    ) -> Option<HeaderValue> {
        let lifetime = self.process.sessions.cookie_lifetime();
        let lifetime = lifetime.saturating_add(AFTER_SESSION);
        let Some(owner) = FormOwner::of(identity) else {
            return Some(cookie::clear(NAME));
        };
        let statement = Statement {
            owner,
            session: *session,
            ends_at: self.process.clock.now().plus(lifetime),
        };
        let sealed = statement.seal(&self.keys, public_url.origin())?;
        Some(cookie::set(NAME, &sealed, lifetime))
    }

    /// Returns the user to whom a form of a request belongs, if the session of the request has
    /// ended. After a sign-out, the browser has no session cookie. If the browser has a session
    /// cookie, the statement must be about the same session.
    pub(crate) fn form_owner(&self, origin: (&PublicUrl, &HeaderMap)) -> Option<FormOwner> {
        let (public_url, headers) = origin;
        let Found::One(value) = cookies::find(headers, NAME.as_bytes()) else {
            return None;
        };
        let statement = Statement::open(value, &self.keys, public_url.origin())?;
        let is_current = match cookies::find(headers, cookie::SESSION.as_bytes()) {
            Found::Absent => true,
            Found::Conflicting => false,
            Found::One(_) => self.key_to_end(origin) == Some(statement.session),
        };
        let is_valid = is_current && statement.ends_at > self.process.clock.now();
        is_valid.then_some(statement.owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Claim;

    fn identity(issuer: &str, subject: &str) -> Identity {
        Identity {
            subject: Claim::new(subject),
            ..Identity::nameless(issuer)
        }
    }

    #[test]
    fn k_01_every_user_is_another_owner() {
        let of = |issuer, subject| FormOwner::of(&identity(issuer, subject));
        let alice = of("https://op", "alice");
        assert!(alice.is_some());
        assert_eq!(alice, of("https://op", "alice"));
        assert_ne!(alice, of("https://op", "bob"));
        assert_ne!(alice, of("https://o", "palice"));
        assert_eq!(FormOwner::of(&Identity::nameless("https://op")), None);
    }

    #[test]
    fn k_11_a_statement_is_valid_only_unchanged_and_at_its_host() {
        let keys = KeyRing::random().unwrap();
        let statement = Statement {
            owner: FormOwner::of(&identity("https://op", "alice")).unwrap(),
            session: SessionKey::from_bytes([7; 16]),
            ends_at: Timestamp::from_millis(12_345),
        };
        let sealed = statement.seal(&keys, "https://a.test").unwrap();
        assert!(sealed.len() <= MAX_VALUE, "{}", sealed.len());
        let open = |text: &[u8], origin| Statement::open(text, &keys, origin);
        assert_eq!(open(sealed.as_bytes(), "https://a.test"), Some(statement));
        assert_eq!(open(sealed.as_bytes(), "https://b.test"), None);
        let other = KeyRing::random().unwrap();
        assert_eq!(
            Statement::open(sealed.as_bytes(), &other, "https://a.test"),
            None
        );
        for position in 0..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[position] = if changed[position] == b'A' {
                b'B'
            } else {
                b'A'
            };
            assert_eq!(open(&changed, "https://a.test"), None, "byte {position}");
            assert_eq!(open(&sealed.as_bytes()[..position], "https://a.test"), None);
        }
    }
}
