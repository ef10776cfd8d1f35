//! The results of refreshes that the gateway could not store yet.
//!
//! A refresh uses up the old refresh token, so the gateway must not send the old refresh token a
//! second time. The gateway keeps the result of a refresh in memory until the result is stored or
//! the session has ended. The gateway also keeps the lease of the session until then, so that no
//! other process uses the old refresh token as long as the lease lasts.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};

use super::Refresher;
use super::report::log_tokens_lost;
use crate::provider::Refreshed;
use crate::secret::Secret;
use crate::session::{Lease, Session};
use crate::token::TokenSet;

/// The maximum number of results that [`Unstored`] keeps. `MOST` results contain about ten
/// megabytes of tokens.
const MOST: usize = 10_000;

/// The result of a refresh.
#[derive(Debug)]
pub(super) enum RefreshResult {
    /// New tokens.
    New(Box<Refreshed>),
    /// The provider's answer contained a new refresh token, but the other parts of the answer are
    /// unusable. The [`TokenSet`] contains the old access token and the new refresh token.
    RefreshTokenOnly(TokenSet),
}

/// A result that could not be stored, and the lease of its session.
type Entry = (RefreshResult, Option<Lease>);

/// The results of refreshes that could not be stored. The key is a hash of the used refresh token.
#[derive(Debug, Default)]
pub(super) struct Unstored(
    // The lock is taken only when a session is refreshed, never for a request with a fresh token.
    #[expect(clippy::disallowed_types, reason = "held for one look-up")]
    std::sync::Mutex<HashMap<[u8; 32], Entry>>,
);

/// The result of [`Unstored::keep`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use = "a result that is not stored is lost"]
pub(super) enum Kept {
    /// The result is kept until the method `take` removes the result.
    Yes,
    /// The result is not kept, because the number of kept results has reached its maximum.
    No,
}

impl Unstored {
    /// Removes and returns the kept result of a refresh, with the lease of the session. The argument
    /// `used` is the refresh token that the gateway sent for this refresh.
    pub(super) fn take(&self, used: &Secret<String>) -> Option<Entry> {
        self.all().remove(&fingerprint(used))
    }

    /// Adds the result of a refresh to the map. The argument `used` is the refresh token that the
    /// gateway sent for this refresh.
    pub(super) fn keep(&self, used: &Secret<String>, result: RefreshResult) -> Kept {
        let mut all = self.all();
        // If the store fails for a long time, `MOST` limits the memory that the kept results use.
        if all.len() >= MOST {
            return Kept::No;
        }
        all.insert(fingerprint(used), (result, None));
        Kept::Yes
    }

    /// Keeps the lease of a session whose result could not be stored. If there is no such result,
    /// this function releases the lease.
    fn keep_lease(&self, used: &Secret<String>, lease: Option<Lease>) {
        if let Some((_result, kept)) = self.all().get_mut(&fingerprint(used)) {
            *kept = lease;
        }
    }

    /// Whether the map contains the result of a refresh. The argument `used` is the refresh token
    /// that the gateway sent for the refresh.
    pub(super) fn holds(&self, used: &Secret<String>) -> bool {
        self.all().contains_key(&fingerprint(used))
    }

    fn all(&self) -> MutexGuard<'_, HashMap<[u8; 32], Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RefreshResult {
    /// Returns a copy of the result, because the caller passes the original to the store. Returns
    /// `None` if the tokens cannot be copied.
    pub(super) fn copy(&self) -> Option<Self> {
        match self {
            Self::New(refreshed) => {
                let (tokens, identity) = (copy(&refreshed.tokens)?, refreshed.identity.clone());
                Some(Self::New(Box::new(Refreshed { tokens, identity })))
            }
            Self::RefreshTokenOnly(tokens) => copy(tokens).map(Self::RefreshTokenOnly),
        }
    }
}

impl From<RefreshResult> for Refreshed {
    /// If only the refresh token in the provider's answer is usable, the gateway does not trust the
    /// identity in the answer.
    fn from(result: RefreshResult) -> Self {
        match result {
            RefreshResult::New(refreshed) => *refreshed,
            RefreshResult::RefreshTokenOnly(tokens) => Self {
                tokens,
                identity: None,
            },
        }
    }
}

fn copy(tokens: &TokenSet) -> Option<TokenSet> {
    let refresh_token = tokens.refresh_token().map(|token| token.expose().as_str());
    let copy = TokenSet::new(tokens.access_token(), refresh_token, *tokens.lifetime()).ok()?;
    Some(copy.with_authentication(tokens.authentication().cloned()))
}

fn fingerprint(refresh_token: &Secret<String>) -> [u8; 32] {
    let mut hash = [0; 32];
    // The key is a hash, so that the map contains no used refresh token.
    let digest = digest(&SHA256, refresh_token.expose().as_bytes());
    hash.copy_from_slice(digest.as_ref());
    hash
}

impl Refresher {
    /// Returns true if the result of a refresh of the session is not stored yet.
    pub(super) fn is_unstored(&self, session: &Session) -> bool {
        let used = session.tokens().refresh_token();
        used.is_some_and(|used| self.unstored.holds(used))
    }

    /// Releases the lease of a session if the result of its refresh is stored. Otherwise, the lease
    /// is kept together with the result.
    pub(super) fn hold_until_stored(&self, session: &Session, lease: Option<Lease>) {
        if let Some(used) = session.tokens().refresh_token() {
            self.unstored.keep_lease(used, lease);
        }
    }

    /// If the store has failed to store the result of a refresh, this function keeps the result
    /// until the next attempt to store the result.
    pub(super) fn keep_for_retry(&self, session: &Session, copy: Option<RefreshResult>) {
        let used = session.tokens().refresh_token();
        let kept = used
            .zip(copy)
            .map(|(used, copy)| self.unstored.keep(used, copy));
        if kept != Some(Kept::Yes) {
            log_tokens_lost(session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Lifetime;

    fn secret(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    fn result(access_token: &str) -> RefreshResult {
        let tokens = TokenSet::new(access_token, Some("new"), Lifetime::default()).unwrap();
        RefreshResult::New(Box::new(Refreshed {
            tokens,
            identity: None,
        }))
    }

    #[test]
    fn g_06_a_result_is_found_once_by_its_used_refresh_token() {
        let unstored = Unstored::default();
        let copied = result("a").copy().unwrap();
        assert_eq!(unstored.keep(&secret("old"), copied), Kept::Yes);
        assert!(!unstored.holds(&secret("other")) && unstored.take(&secret("other")).is_none());
        assert!(unstored.holds(&secret("old")));
        let Some((RefreshResult::New(found), None)) = unstored.take(&secret("old")) else {
            panic!("the result was not found");
        };
        assert_eq!(found.tokens.access_token(), "a");
        assert_eq!(found.tokens.refresh_token().unwrap().expose(), "new");
        assert!(!unstored.holds(&secret("old")) && unstored.take(&secret("old")).is_none());
    }

    #[test]
    fn d_26_the_number_of_kept_results_is_limited() {
        let unstored = Unstored::default();
        for number in 0..MOST {
            let used = secret(&number.to_string());
            assert_eq!(unstored.keep(&used, result("a")), Kept::Yes);
        }
        assert_eq!(unstored.keep(&secret("late"), result("a")), Kept::No);
        assert!(!unstored.holds(&secret("late")) && unstored.holds(&secret("0")));
    }
}
