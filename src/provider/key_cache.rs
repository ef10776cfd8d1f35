//! The cache of the keys that a provider publishes.
//!
//! The keys are fetched when the gateway starts, and then periodically. A token with an unknown key
//! causes another fetch, because the provider may have published a new key. Forged tokens can also
//! name unknown keys, so fetches for unknown keys are limited to one per minute. For each provider,
//! only one fetch runs at a time. If a fetch fails, the last valid key set stays in use.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{StatusCode, Uri};
use tokio::sync::Mutex;

use super::KeysError;
use super::endpoint::Endpoint;
use super::keys::KeySet;
use crate::clock::{Clock, Timestamp};

/// The media types of a key set (RFC 7517 section 8.5), for the field `Accept`. The media type of
/// the response is not checked, because providers send key sets with various media types, even as
/// plain text.
const ACCEPTED: &str = "application/jwk-set+json, application/json";

/// The minimum time between two fetches that the gateway makes because a token was signed with an
/// unknown key.
const MIN_INTERVAL_FOR_TOKENS: Duration = Duration::from_mins(1);

/// The minimum time between two periodic fetches. After a failed first fetch, the gateway also
/// waits for at least this time before the second fetch.
const MIN_INTERVAL: Duration = Duration::from_secs(5);

/// The newest valid key set of one provider.
#[derive(Debug, Default)]
pub(super) struct KeyCache {
    newest: ArcSwapOption<FetchedKeySet>,
    history: Mutex<History>,
}

/// A key set, and the URL from which the gateway fetched the key set.
#[derive(Debug)]
pub(super) struct FetchedKeySet {
    pub(super) keys: KeySet,
    from: Uri,
}

#[derive(Debug, Default)]
struct History {
    /// The time of the last fetch that a logout token with an unknown key caused.
    fetched_for_logout: Option<Timestamp>,
    /// The time of the last fetch that a token of a token response caused.
    fetched_for_token: Option<Timestamp>,
    /// The time of the last successful fetch.
    last_success: Option<Timestamp>,
    /// The time of the last failed fetch. `last_failure` is `None` if a fetch has succeeded since
    /// the last failed fetch.
    last_failure: Option<Timestamp>,
}

/// The origin of a token whose key is unknown. Each origin has its own limit of fetches. Anybody can
/// send a forged logout token, and forged logout tokens must not delay the fetch for a login.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum TokenOrigin {
    LogoutRequest,
    TokenResponse,
}

impl History {
    fn fetched_for(&mut self, origin: TokenOrigin) -> &mut Option<Timestamp> {
        match origin {
            TokenOrigin::LogoutRequest => &mut self.fetched_for_logout,
            TokenOrigin::TokenResponse => &mut self.fetched_for_token,
        }
    }
}

impl KeyCache {
    /// Returns the cached key set. If no key set is cached yet, the function fetches the key set,
    /// or waits for a fetch by another task.
    ///
    /// # Errors
    ///
    /// Returns [`KeysError`].
    pub(super) async fn first(
        &self,
        endpoint: &Endpoint,
        clock: &Clock,
    ) -> Result<Arc<FetchedKeySet>, KeysError> {
        if let Some(newest) = self.newest.load_full() {
            return Ok(newest);
        }
        let mut history = self.history.lock().await;
        // While this task waited for the lock, another task may have fetched the keys.
        if let Some(newest) = self.newest.load_full() {
            return Ok(newest);
        }
        // Several logins may wait for the same fetch. If the fetch fails, all waiting logins fail,
        // and no waiting login starts another fetch.
        if is_recent(history.last_failure, clock.now(), MIN_INTERVAL) {
            return Err(KeysError::FetchFailedRecently);
        }
        self.fetch(&mut history, endpoint, clock).await
    }

    /// Fetches the key set again. The maintenance task of the provider calls this function
    /// periodically.
    ///
    /// # Errors
    ///
    /// Returns the error if the key set could not be fetched. After an error, the cached key set
    /// stays in use.
    pub(super) async fn refetch(
        &self,
        endpoint: &Endpoint,
        clock: &Clock,
    ) -> Result<(), KeysError> {
        let mut history = self.history.lock().await;
        let newest = self.newest.load();
        // A new URL may have other keys, so a recent fetch from the old URL does not prevent a
        // fetch from the new URL.
        let moved = newest
            .as_ref()
            .is_none_or(|newest| newest.from != *endpoint.uri());
        if !moved && is_recent(history.last_success, clock.now(), MIN_INTERVAL) {
            return Ok(());
        }
        self.fetch(&mut history, endpoint, clock).await.map(drop)
    }

    /// Returns a key set that is newer than `seen`, for a token whose key is not in `seen`. The
    /// function fetches the key set, unless another task has already cached a newer key set.
    ///
    /// # Errors
    ///
    /// After a fetch for an unknown key of a token from `origin`, the function makes no further fetch
    /// for this origin for one minute.
    /// Returns [`KeysError::FetchFailedRecently`] if the last fetch failed, and
    /// [`KeysError::FetchedRecently`] if the last fetch succeeded. If a fetch is allowed and fails,
    /// the function returns the error of the fetch.
    pub(super) async fn newer(
        &self,
        (seen, origin): (&Arc<FetchedKeySet>, TokenOrigin),
        endpoint: &Endpoint,
        clock: &Clock,
    ) -> Result<Arc<FetchedKeySet>, KeysError> {
        let mut history = self.history.lock().await;
        if let Some(newest) = self.newest.load_full()
            && !Arc::ptr_eq(seen, &newest)
        {
            return Ok(newest);
        }
        let now = clock.now();
        if let Some(at) = *history.fetched_for(origin)
            && is_recent(Some(at), now, MIN_INTERVAL_FOR_TOKENS)
        {
            return Err(if history.last_failure.is_some() {
                KeysError::FetchFailedRecently
            } else {
                KeysError::FetchedRecently {
                    retry_after: at.plus(MIN_INTERVAL_FOR_TOKENS).since(now),
                }
            });
        }
        let fetched = self.fetch(&mut history, endpoint, clock).await;
        // The limit also counts failed fetches, because forged tokens must not cause many failing
        // fetches.
        *history.fetched_for(origin) = Some(clock.now());
        fetched
    }

    async fn fetch(
        &self,
        history: &mut History,
        endpoint: &Endpoint,
        clock: &Clock,
    ) -> Result<Arc<FetchedKeySet>, KeysError> {
        match ask(endpoint).await {
            Ok(fetched) => {
                let fetched = Arc::new(fetched);
                (history.last_success, history.last_failure) = (Some(clock.now()), None);
                self.newest.store(Some(Arc::clone(&fetched)));
                Ok(fetched)
            }
            Err(error) => {
                history.last_failure = Some(clock.now());
                Err(error)
            }
        }
    }
}

async fn ask(endpoint: &Endpoint) -> Result<FetchedKeySet, KeysError> {
    let response = endpoint
        .get(ACCEPTED, None)
        .await
        .map_err(KeysError::Call)?;
    let status = response.status();
    if status != StatusCode::OK {
        return Err(KeysError::Status(status.as_u16()));
    }
    let keys = KeySet::from_jwks(response.body()).map_err(KeysError::Unusable)?;
    if !keys.skipped().is_empty() {
        let url = tracing::field::display(endpoint.uri());
        let skipped = tracing::field::display(keys.skipped());
        tracing::debug!(url, skipped, "Some published keys cannot be used");
    }
    Ok(FetchedKeySet {
        keys,
        from: endpoint.uri().clone(),
    })
}

/// Returns true if less than `time` has passed from `at` to `now`. If `at` is in the future, the
/// clock was set back, and the function returns false.
fn is_recent(at: Option<Timestamp>, now: Timestamp, time: Duration) -> bool {
    at.is_some_and(|at| at <= now && now.since(at) < time)
}
