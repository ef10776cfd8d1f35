//! The keys that a server publishes, and when they are fetched.
//!
//! They are fetched before the first token comes, and again from time to time. A token whose key is
//! not among them is a reason to fetch them once more: servers change keys just before they sign
//! with them. Tokens are made by whoever can reach us, so that happens once a minute at most, one
//! fetch at a time, and while it fails the last good set stays.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::StatusCode;
use tokio::sync::Mutex;

use super::Error;
use super::endpoint::Endpoint;
use super::keys::KeySet;
use crate::clock::Timestamp;

/// The media types of a key set (RFC 7517 section 8.5).
const ACCEPTED: &str = "application/jwk-set+json, application/json";

/// Between two fetches that tokens gave reason for.
const BETWEEN: Duration = Duration::from_mins(1);

/// Between two fetches while there is no set at all, and how old a set is new enough not to be
/// fetched again without a reason.
const LITTLE: Duration = Duration::from_secs(5);

/// The newest good key set of one server.
#[derive(Debug, Default)]
pub(super) struct Published {
    newest: ArcSwapOption<KeySet>,
    fetches: Mutex<Fetches>,
}

#[derive(Debug, Default)]
struct Fetches {
    /// When a token last gave reason for one.
    asked: Option<Timestamp>,
    /// When one last succeeded.
    done: Option<Timestamp>,
}

impl Published {
    /// The set that there is.
    pub(super) fn newest(&self) -> Option<Arc<KeySet>> {
        self.newest.load_full()
    }

    /// Fetches the set because it is time to.
    ///
    /// # Errors
    ///
    /// [`Error::Keys`], [`Error::KeysCall`] and [`Error::KeysStatus`]; the set that there is stays.
    pub(super) async fn renew(&self, endpoint: &Endpoint, now: Timestamp) -> Result<(), Error> {
        let mut fetches = self.fetches.lock().await;
        if lately(fetches.done, now, LITTLE) {
            return Ok(());
        }
        self.fetch(&mut fetches, endpoint, now).await.map(drop)
    }

    /// A set that is not `seen`: fetched now, or by somebody else in the meantime.
    ///
    /// # Errors
    ///
    /// [`Error::KeysJustFetched`], and what a fetch can fail with.
    pub(super) async fn newer(
        &self,
        seen: Option<&Arc<KeySet>>,
        endpoint: &Endpoint,
        now: Timestamp,
    ) -> Result<Arc<KeySet>, Error> {
        let mut fetches = self.fetches.lock().await;
        let newest = self.newest();
        if let Some(newest) = &newest
            && !seen.is_some_and(|seen| Arc::ptr_eq(seen, newest))
        {
            return Ok(Arc::clone(newest));
        }
        let between = if newest.is_some() { BETWEEN } else { LITTLE };
        if lately(fetches.asked, now, between) {
            return Err(Error::KeysJustFetched);
        }
        fetches.asked = Some(now);
        self.fetch(&mut fetches, endpoint, now).await
    }

    async fn fetch(
        &self,
        fetches: &mut Fetches,
        endpoint: &Endpoint,
        now: Timestamp,
    ) -> Result<Arc<KeySet>, Error> {
        let response = endpoint
            .get(ACCEPTED, None)
            .await
            .map_err(Error::KeysCall)?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(Error::KeysStatus(status.as_u16()));
        }
        // The media type is not looked at: key sets come as anything from JSON to plain text.
        let set = Arc::new(KeySet::from_jwks(response.body()).map_err(Error::Keys)?);
        if !set.passed_over().is_empty() {
            let passed_over = set.passed_over().to_string();
            let url = tracing::field::display(endpoint.uri());
            tracing::info!(
                url,
                passed_over,
                "Some of the published keys are not for us"
            );
        }
        fetches.done = Some(now);
        self.newest.store(Some(Arc::clone(&set)));
        Ok(set)
    }
}

/// Whether something was less than `time` ago. A clock that was set back holds nobody up.
fn lately(at: Option<Timestamp>, now: Timestamp, time: Duration) -> bool {
    at.is_some_and(|at| at <= now && now.since(at) < time)
}
