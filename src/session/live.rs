//! One signed-in browser, ready for use.

use std::sync::Arc;

use super::index::Rank;
use super::record::{self, Contents};
use super::stored::Stored;
use super::{SessionKey, SessionState};
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::token::TokenSet;

/// One signed-in browser: an immutable value that is replaced whole when its tokens are renewed.
///
/// Whoever holds one while time passes asks [`Session::state`] whether it still stands. It is made
/// of what is kept when somebody looks it up, and shares the fields that change with that.
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

    /// Makes a session of what is kept of it; `None` when that has no contents.
    pub(super) fn of(stored: Arc<Stored>) -> Option<Self> {
        let contents = record::decode(stored.contents())?;
        Some(Self { stored, contents })
    }

    /// The next version: other tokens, another identity if one is given, all else as it is. Its
    /// person stays who it was.
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

    /// What is kept of it.
    pub(super) fn stored(&self) -> &Arc<Stored> {
        &self.stored
    }

    /// Under which it is kept.
    pub(crate) fn key(&self) -> &SessionKey {
        self.stored.key()
    }

    /// How often it was replaced; 0 at the login.
    pub fn version(&self) -> u64 {
        self.contents.version
    }

    /// Whether this value still stands.
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

    /// When it was opened.
    pub(crate) fn opened_at(&self) -> Timestamp {
        self.contents.opened_at
    }

    /// Whether the tokens want a look: they should be renewed ahead of their end, or it has come.
    /// One load and a comparison.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.stored.is_due(now)
    }

    /// Takes the renewal that is due for oneself: true for one caller alone, for whom nobody else
    /// takes it before `until`.
    #[must_use]
    pub(crate) fn claim_refresh(&self, now: Timestamp, until: Timestamp) -> bool {
        self.stored.claim_refresh(now, self.until(until))
    }

    /// Lets nobody renew the tokens ahead of their end before `until`.
    pub(crate) fn postpone_refresh(&self, until: Timestamp) {
        self.stored.postpone_refresh(self.until(until));
    }

    /// Not beyond the end of the access token: whatever was put off, that wants a look.
    fn until(&self, until: Timestamp) -> Timestamp {
        until.min(self.tokens().expires_at().unwrap_or(Timestamp::MAX))
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
