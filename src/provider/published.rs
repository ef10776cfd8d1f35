//! The keys that a server publishes, and when they are fetched.
//!
//! They are fetched before the first token comes, and again from time to time. A token whose key is
//! not among them is a reason to fetch them once more: servers change keys just before they sign
//! with them. Tokens are made by whoever can reach us, so that happens once a minute at most, one
//! fetch at a time, and while it fails the last good set stays.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;

use super::Error;
use super::endpoint::Endpoint;
use super::keys::KeySet;
use crate::clock::Timestamp;

/// Between two fetches that tokens gave reason for.
const BETWEEN: Duration = Duration::from_mins(1);

/// Between two fetches while there is no set at all.
const BETWEEN_FIRST: Duration = Duration::from_secs(5);

/// The newest good key set of one server.
#[derive(Debug, Default)]
pub(super) struct Published {
    newest: ArcSwapOption<KeySet>,
    /// When a token last gave reason for a fetch.
    asked: Mutex<Option<Timestamp>>,
}

impl Published {
    /// The set that there is.
    pub(super) fn newest(&self) -> Option<Arc<KeySet>> {
        self.newest.load_full()
    }

    /// Fetches the set because it is time to.
    pub(super) async fn renew(&self, endpoint: &Endpoint) -> Result<(), Error> {
        let set = fetch(endpoint).await?;
        self.newest.store(Some(Arc::new(set)));
        Ok(())
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
        let mut asked = self.asked.lock().await;
        let newest = self.newest();
        if let Some(newest) = &newest
            && !seen.is_some_and(|seen| Arc::ptr_eq(seen, newest))
        {
            return Ok(Arc::clone(newest));
        }
        let between = if newest.is_some() { BETWEEN } else { BETWEEN_FIRST };
        // A clock that was set back holds nobody up.
        if asked.is_some_and(|at| at <= now && now.since(at) < between) {
            return Err(Error::KeysJustFetched);
        }
        *asked = Some(now);
        let set = Arc::new(fetch(endpoint).await?);
        self.newest.store(Some(Arc::clone(&set)));
        Ok(set)
    }
}

async fn fetch(endpoint: &Endpoint) -> Result<KeySet, Error> {
    let response = endpoint.get("application/jwk-set+json, application/json").await;
    let response = response.map_err(Error::KeysCall)?;
    let status = response.status();
    if status != http::StatusCode::OK {
        return Err(Error::KeysStatus(status.as_u16()));
    }
    KeySet::from_jwks(response.body()).map_err(Error::Keys)
}
