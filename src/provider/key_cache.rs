//! The keys that a server publishes, and when they are fetched.
//!
//! They are fetched before the first token comes, and again from time to time. A token whose key is
//! not among them is a reason to fetch them once more: servers change keys just before they sign
//! with them. Tokens are made by whoever can reach us, so that happens once a minute at most, one
//! fetch at a time, and while it fails the last good set stays.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{StatusCode, Uri};
use tokio::sync::Mutex;

use super::KeysError;
use super::endpoint::Endpoint;
use super::keys::KeySet;
use crate::clock::{Clock, Timestamp};

/// The media types of a key set (RFC 7517 section 8.5). What the answer calls itself is not looked
/// at: key sets come as anything from JSON to plain text.
const ACCEPTED: &str = "application/jwk-set+json, application/json";

/// Between two fetches that tokens gave reason for.
const MIN_INTERVAL_FOR_TOKENS: Duration = Duration::from_mins(1);

/// How long a server is left alone after a fetch that failed, and how old a set is new enough not
/// to be fetched again without a reason.
const MIN_INTERVAL: Duration = Duration::from_secs(5);

/// The newest good key set of one server.
#[derive(Debug, Default)]
pub(super) struct KeyCache {
    newest: ArcSwapOption<FetchedKeySet>,
    history: Mutex<History>,
}

/// A key set, and where it comes from.
#[derive(Debug)]
pub(super) struct FetchedKeySet {
    pub(super) keys: KeySet,
    from: Uri,
}

#[derive(Debug, Default)]
struct History {
    /// When a token last gave reason for one, by the end of that fetch.
    for_token_at: Option<Timestamp>,
    /// When one last succeeded.
    succeeded_at: Option<Timestamp>,
    /// When one last failed; nothing once another succeeded.
    failed_at: Option<Timestamp>,
}

impl KeyCache {
    /// The set that there is, or the first one, fetched now or by somebody else in the meantime.
    ///
    /// # Errors
    ///
    /// [`KeysError`].
    pub(super) async fn first(
        &self,
        endpoint: &Endpoint,
        clock: &Clock,
    ) -> Result<Arc<FetchedKeySet>, KeysError> {
        if let Some(newest) = self.newest.load_full() {
            return Ok(newest);
        }
        let mut history = self.history.lock().await;
        if let Some(newest) = self.newest.load_full() {
            return Ok(newest);
        }
        if is_recent(history.failed_at, clock.now(), MIN_INTERVAL) {
            return Err(KeysError::JustFetched);
        }
        self.fetch(&mut history, endpoint, clock).await
    }

    /// Fetches the set because it is time to.
    ///
    /// # Errors
    ///
    /// All of [`KeysError`] but [`KeysError::JustFetched`]; the set that there is stays.
    pub(super) async fn refetch(
        &self,
        endpoint: &Endpoint,
        clock: &Clock,
    ) -> Result<(), KeysError> {
        let mut history = self.history.lock().await;
        let newest = self.newest.load();
        let moved = newest
            .as_ref()
            .is_none_or(|newest| newest.from != *endpoint.uri());
        if !moved && is_recent(history.succeeded_at, clock.now(), MIN_INTERVAL) {
            return Ok(());
        }
        self.fetch(&mut history, endpoint, clock).await.map(drop)
    }

    /// A set that is not `seen`, because that has no key for some token: fetched now, or by
    /// somebody else in the meantime. `None` when it was looked for a short time ago, and there was
    /// none.
    ///
    /// # Errors
    ///
    /// [`KeysError::JustFetched`] when looking for it has failed a short time ago; else what it
    /// fails with now.
    pub(super) async fn newer(
        &self,
        seen: &Arc<FetchedKeySet>,
        endpoint: &Endpoint,
        clock: &Clock,
    ) -> Result<Option<Arc<FetchedKeySet>>, KeysError> {
        let mut history = self.history.lock().await;
        if let Some(newest) = self.newest.load_full()
            && !Arc::ptr_eq(seen, &newest)
        {
            return Ok(Some(newest));
        }
        if is_recent(history.for_token_at, clock.now(), MIN_INTERVAL_FOR_TOKENS) {
            let failed = history.failed_at.is_some();
            return if failed {
                Err(KeysError::JustFetched)
            } else {
                Ok(None)
            };
        }
        let fetched = self.fetch(&mut history, endpoint, clock).await;
        history.for_token_at = Some(clock.now());
        fetched.map(Some)
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
                (history.succeeded_at, history.failed_at) = (Some(clock.now()), None);
                self.newest.store(Some(Arc::clone(&fetched)));
                Ok(fetched)
            }
            Err(error) => {
                history.failed_at = Some(clock.now());
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
        tracing::debug!(url, skipped, "Some of the published keys are not for us");
    }
    Ok(FetchedKeySet {
        keys,
        from: endpoint.uri().clone(),
    })
}

/// Whether something was less than `time` ago. A clock that was set back holds nobody up.
fn is_recent(at: Option<Timestamp>, now: Timestamp, time: Duration) -> bool {
    at.is_some_and(|at| at <= now && now.since(at) < time)
}
