//! The session of a signed-in browser, as requests use it.

use std::sync::Arc;

use super::index::Rank;
use super::record::{self, Contents};
use super::stored::Stored;
use super::{SessionKey, SessionState};
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::token::TokenSet;

/// The session of a signed-in browser: an immutable value that a refresh replaces as a whole.
///
/// A holder that uses the value later asks [`Session::state`] whether it is still current. A look-up
/// decodes the value from the cached record, and shares with it the fields that change.
#[derive(Debug)]
pub struct Session {
    stored: Arc<Stored>,
    contents: Contents,
}

impl Session {
    pub(super) fn new(rank: Rank, last_used: Timestamp, contents: Contents) -> Self {
        let stored = Arc::new(Stored::new(rank, last_used, &contents));
        Self { stored, contents }
    }

    /// Decodes a session from its cached record; `None` if the record has no contents.
    pub(super) fn of(stored: Arc<Stored>) -> Option<Self> {
        let contents = record::decode(stored.contents())?;
        Some(Self { stored, contents })
    }

    /// The next version: other tokens, and another identity if one is given. The person for the bound of
    /// sessions stays the one who signed in.
    pub(super) fn next(&self, tokens: TokenSet, identity: Option<Identity>) -> Self {
        let contents = Contents {
            version: self.contents.version.saturating_add(1),
            provider: self.contents.provider.clone(),
            identity: identity.unwrap_or_else(|| self.contents.identity.clone()),
            tokens,
            opened_at: self.contents.opened_at,
        };
        Self::new(*self.stored.rank(), self.stored.last_used(), contents)
    }

    /// The cached record.
    pub(super) fn stored(&self) -> &Arc<Stored> {
        &self.stored
    }

    /// The key under which the session is stored.
    pub(crate) fn key(&self) -> &SessionKey {
        self.stored.key()
    }

    /// The number of times that the session was replaced; 0 at the login.
    pub fn version(&self) -> u64 {
        self.contents.version
    }

    /// Whether this value is still current.
    pub(crate) fn state(&self) -> SessionState {
        self.stored.state()
    }

    /// The configured name of the provider that signed this person in.
    pub(crate) fn provider(&self) -> &str {
        &self.contents.provider
    }

    /// Who is signed in.
    pub fn identity(&self) -> &Identity {
        &self.contents.identity
    }

    /// The tokens of the grant.
    pub fn tokens(&self) -> &TokenSet {
        &self.contents.tokens
    }

    /// The time of the login.
    pub(crate) fn opened_at(&self) -> Timestamp {
        self.contents.opened_at
    }

    /// Whether the tokens need attention: a refresh is due, or they have expired. This is one load and a
    /// comparison.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.stored.is_due(now)
    }

    /// Claims the refresh that is due. Only one caller gets true, and no other caller can claim the
    /// refresh before `until`.
    #[must_use]
    pub(crate) fn claim_refresh(&self, now: Timestamp, until: Timestamp) -> bool {
        self.stored.claim_refresh(now, self.until(until))
    }

    /// Makes the next refresh due at `until`, or when the access token expires if that is earlier.
    pub(crate) fn postpone_refresh(&self, until: Timestamp) {
        self.stored.postpone_refresh(self.until(until));
    }

    /// Limits a time to the expiry of the access token, which needs attention in any case.
    fn until(&self, until: Timestamp) -> Timestamp {
        until.min(self.tokens().expires_at().unwrap_or(Timestamp::MAX))
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
