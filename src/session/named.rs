//! The sessions that an app names in a request to the webhook: by email address, by subject, or by
//! the `sid` of the session at the provider.
//!
//! [`Sessions::end_named`] first makes sure that no earlier login can open such a session, and then
//! searches for the sessions. A login that is under way during the search therefore opens no
//! session that the search could miss.

use serde::Deserialize;

use super::groups::{EndAll, EndedAll, Group, LogoutNotice, SessionsOf, digest_of};
use super::live::Session;
use super::record::Contents;
use super::{EndReason, SessionKey, Sessions, StoreError};
use crate::clock::Timestamp;
use crate::identity::Claim;

/// The name of a group of sessions. The JSON is an object with exactly one of these members.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Named {
    /// The sessions of the users with this email address. The case of ASCII letters makes no
    /// difference.
    Email(String),
    /// The sessions that belong to this session at the provider.
    Sid(String),
    /// The sessions of the user with this subject.
    Subject(String),
}

/// The sessions of one provider that an app names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NamedSessions<'a> {
    /// The configured name of the provider.
    pub(crate) provider: &'a str,
    /// The issuer of the identities from the provider.
    pub(crate) issuer: &'a str,
    pub(crate) named: &'a Named,
}

/// Identifies a group of sessions that an app can name. The hash is the first half of a SHA-256
/// digest.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct NamedHash([u8; 16]);

impl NamedHash {
    fn new(provider: &str, (member, value): (&str, &str)) -> Self {
        let digest = digest_of(provider, &[member, " ", value].concat());
        let mut hash = [0; 16];
        for (byte, of_digest) in hash.iter_mut().zip(digest.as_ref()) {
            *byte = *of_digest;
        }
        Self(hash)
    }

    /// Returns the bytes of the hash.
    pub(super) fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    fn of_email(provider: &str, address: &str) -> Self {
        Self::new(provider, ("email", &address.to_ascii_lowercase()))
    }

    fn of_sid(provider: &str, sid: &str) -> Self {
        Self::new(provider, ("sid", sid))
    }

    fn of_subject(provider: &str, subject: &str) -> Self {
        Self::new(provider, ("subject", subject))
    }
}

/// Returns the hash of each name by which an app can name a session with these contents.
pub(super) fn hashes_of(contents: &Contents) -> Vec<NamedHash> {
    let (provider, identity) = (&contents.provider, &contents.identity);
    let email = identity.email.as_ref();
    let email = email.map(|email| NamedHash::of_email(provider, email.address.as_str()));
    let subject = identity.subject.as_ref().map(Claim::as_str);
    let subject = subject.map(|subject| NamedHash::of_subject(provider, subject));
    let sid = contents.sid.as_ref();
    let sid = sid.map(|sid| NamedHash::of_sid(provider, sid));
    [email, subject, sid].into_iter().flatten().collect()
}

impl NamedSessions<'_> {
    fn hash(&self) -> NamedHash {
        match self.named {
            Named::Email(email) => NamedHash::of_email(self.provider, email),
            Named::Sid(sid) => NamedHash::of_sid(self.provider, sid),
            Named::Subject(subject) => NamedHash::of_subject(self.provider, subject),
        }
    }

    /// Returns a group of the store that contains all these sessions. The group can also contain
    /// other sessions.
    fn candidates(&self) -> SessionsOf<'_> {
        let issuer = self.issuer;
        match self.named {
            Named::Email(_) => SessionsOf::Everyone,
            Named::Sid(sid) => SessionsOf::ProviderSession {
                issuer,
                sid,
                subject: None,
            },
            Named::Subject(subject) => SessionsOf::User { issuer, subject },
        }
    }

    fn contain(&self, session: &Session) -> bool {
        let is_named = match self.named {
            Named::Email(email) => {
                let known = session.identity().email.as_ref();
                known.is_some_and(|known| known.address.as_str().eq_ignore_ascii_case(email))
            }
            // The store has found the session by this name.
            Named::Sid(_) | Named::Subject(_) => true,
        };
        is_named && session.provider() == self.provider
    }
}

impl Sessions {
    /// Ends all sessions that an app names. The last commit marks `notice` as used. A login that
    /// began before `now` cannot open a session with this name. For [`Named::Email`], the function
    /// reads all sessions of the store.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: no session has ended, and the notice is not marked as used.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the caller does not know whether the sessions have ended.
    pub(crate) async fn end_named(
        &self,
        of: NamedSessions<'_>,
        why: EndReason,
        (notice, now): (LogoutNotice, Timestamp),
    ) -> Result<EndedAll, StoreError> {
        let order = |group, uses_notice| EndAll {
            groups: vec![group],
            why,
            now,
            notice: Some(notice),
            uses_notice,
        };
        let noted = self.store.end_all(order(Group::Named(of.hash()), false));
        if let EndedAll::Repeated = noted.await? {
            return Ok(EndedAll::Repeated);
        }
        let keys = Group::Keys(self.named_keys(of).await?);
        self.store.end_all(order(keys, true)).await
    }

    async fn named_keys(&self, of: NamedSessions<'_>) -> Result<Vec<SessionKey>, StoreError> {
        let mut keys = Vec::new();
        for key in self.keys_of(of.candidates()).await? {
            let is_named = match self.peek(key).await {
                Ok(session) => session.is_some_and(|session| of.contain(&session)),
                // A damaged session has no readable email address.
                Err(StoreError::Damaged) => !matches!(of.named, Named::Email(_)),
                Err(error) => return Err(error),
            };
            if is_named {
                keys.push(key);
            }
        }
        Ok(keys)
    }
}

#[cfg(test)]
#[path = "named_tests.rs"]
mod tests;
