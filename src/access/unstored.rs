//! Results of refreshes that could not be stored.
//!
//! Their refresh tokens are used up, so the server must not be asked again; they are stored as soon
//! as that is possible.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use crate::clock::Timestamp;
use crate::provider::Refreshed;
use crate::secret::Secret;
use crate::token::TokenSet;

/// For how long a result is kept, and how many are.
const KEPT: Duration = Duration::from_secs(30);
const MOST: usize = 10_000;

/// What could not be stored, by the refresh token that was used up.
#[derive(Debug, Default)]
pub(super) struct Unstored(
    // Looked at when something is refreshed, never for a token that is fresh.
    #[expect(clippy::disallowed_types, reason = "held for one look-up")]
    std::sync::Mutex<HashMap<[u8; 32], (Refreshed, Timestamp)>>,
);

impl Unstored {
    /// Takes the result that using this refresh token had.
    pub(super) fn take(&self, used: &Secret<String>, now: Timestamp) -> Option<Refreshed> {
        let (refreshed, until) = self.all().remove(&fingerprint(used))?;
        (until > now).then_some(refreshed)
    }

    /// Keeps the result that using this refresh token had.
    pub(super) fn keep(&self, used: &Secret<String>, refreshed: Refreshed, now: Timestamp) {
        let mut all = self.all();
        all.retain(|_, (_, until)| *until > now);
        if all.len() < MOST {
            all.insert(fingerprint(used), (refreshed, now.plus(KEPT)));
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<[u8; 32], (Refreshed, Timestamp)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same result once more.
pub(super) fn copy(refreshed: &Refreshed) -> Option<Refreshed> {
    let tokens = &refreshed.tokens;
    let refresh_token = tokens.refresh_token().map(|token| token.expose().as_str());
    let copy = TokenSet::new(tokens.access_token(), refresh_token, *tokens.life()).ok()?;
    Some(Refreshed {
        tokens: copy.with_authentication(tokens.authentication().cloned()),
        identity: refreshed.identity.clone(),
    })
}

fn fingerprint(refresh_token: &Secret<String>) -> [u8; 32] {
    let mut hash = [0; 32];
    let digest = digest(&SHA256, refresh_token.expose().as_bytes());
    hash.copy_from_slice(digest.as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Life;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn secret(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    fn refreshed(access_token: &str) -> Refreshed {
        let tokens = TokenSet::new(access_token, Some("new"), Life::default()).unwrap();
        Refreshed {
            tokens,
            identity: None,
        }
    }

    #[test]
    fn g_06_a_result_is_found_once_by_the_token_that_it_used_up() {
        let unstored = Unstored::default();
        let result = refreshed("a");
        unstored.keep(&secret("old"), copy(&result).unwrap(), NOW);
        assert!(unstored.take(&secret("other"), NOW).is_none());
        let found = unstored.take(&secret("old"), NOW).unwrap();
        assert_eq!(found.tokens.access_token(), "a");
        assert_eq!(found.tokens.refresh_token().unwrap().expose(), "new");
        assert!(unstored.take(&secret("old"), NOW).is_none());
    }

    #[test]
    fn results_are_kept_for_a_while_and_not_without_bound() {
        let unstored = Unstored::default();
        unstored.keep(&secret("old"), refreshed("a"), NOW);
        assert!(unstored.take(&secret("old"), NOW.plus(KEPT)).is_none());
        for number in 0..MOST + 5 {
            unstored.keep(&secret(&number.to_string()), refreshed("a"), NOW);
        }
        assert_eq!(unstored.all().len(), MOST);
        unstored.keep(&secret("late"), refreshed("a"), NOW.plus(KEPT));
        assert_eq!(unstored.all().len(), 1);
    }
}
