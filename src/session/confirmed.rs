//! The sessions that a shared store has confirmed, and the state of the store.

use std::sync::Arc;

use super::store::Replacement;
use super::stored::Stored;
use super::{Session, SessionKey, Sessions, StoreError};

impl Sessions {
    /// Returns the cached value of a session, if the value is current and the cache can be used now
    /// without asking the store.
    pub(super) fn covered(&self, key: &SessionKey) -> Option<Arc<Stored>> {
        let cached = self.store.cache().live(key)?;
        let covered = self.coherence.covers(&cached, self.clock.now());
        covered.then_some(cached)
    }

    /// Returns true if the store does not have to confirm this value of a session.
    pub(crate) fn is_confirmed(&self, session: &Session) -> bool {
        self.coherence.covers(session.stored(), self.clock.now())
    }

    /// Returns a number that changes with each new connection to a shared store.
    pub(crate) fn connection(&self) -> u32 {
        self.coherence.generation()
    }

    /// Returns the current value of a session. The function reads the store only if the cache does
    /// not contain the session or may be out of date.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn current(
        &self,
        key: &SessionKey,
    ) -> Result<Option<Arc<Session>>, StoreError> {
        match self.covered(key).and_then(Session::of) {
            Some(session) => Ok(Some(Arc::new(session))),
            None => self.fetch(key).await,
        }
    }

    /// Stores a version of a session again that a shared store has lost, for example in a failover. The store
    /// has the version `version`, whose refresh token may be used up. If the store refuses changes, for example
    /// because it is full, the function returns the version, as long as its tokens are valid.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub(super) async fn bring_back(
        &self,
        newer: Arc<Stored>,
        version: u64,
    ) -> Result<Option<Session>, StoreError> {
        let copy = Arc::new(newer.copy());
        match self.store.replace(version, copy).await {
            // The next read shows whether another replica was faster.
            Ok(Replacement::Stored | Replacement::Outdated | Replacement::Ended) => Ok(None),
            // The cache has not confirmed the session, so the next request tries again.
            Err(error @ StoreError::Refused(_)) => {
                let now = self.clock.now();
                let session = self.session_of(newer);
                let valid = session.filter(|session| !session.tokens().is_expired(now));
                valid.map(Some).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns an error if the store cannot create a session at the moment.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub(crate) fn ready(&self) -> Result<(), StoreError> {
        self.store.ready()
    }

    /// Returns true if a session has ended at this replica, but other replicas can still use the
    /// session for a limited time.
    pub(crate) fn ends_only_here(&self, key: &SessionKey) -> bool {
        self.store.is_pending(key)
    }
}
