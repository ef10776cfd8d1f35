//! One attempt to refresh a session.
//!
//! If several processes share a store, only the process that has the lease of a session refreshes
//! the session. If only one process uses the store, this process always gets the lease immediately,
//! because a process runs at most one refresh of a session at a time.

use std::sync::Arc;

use tokio::time::Instant;

use super::backoff::Reason;
use super::lease_use::{Known, LeaseUse, Reports, TIME_TO_SEND, lease_duration, lease_use};
use super::outcome::{Attempt, Outcome};
use super::refresh::{ALARM_PAUSE, DRAIN_WAIT, Refresher};
use crate::session::{Lease, Leased, Session, SessionState, StoreError};

/// Whether a session needs a refresh.
enum Need {
    Refresh(Arc<Session>),
    Nothing(Attempt),
}

/// The result of waiting for a lease.
enum LeaseResult {
    /// This process has the lease, so this process may refresh the session. The request to the
    /// provider must be sent until this time.
    Granted(Lease, Instant),
    /// The session has changed since the caller read it, so the caller must read the session again.
    Changed,
    /// Another process has the lease, but this process is about to end and does not wait for the
    /// lease.
    Draining,
}

impl Refresher {
    /// Makes one attempt to refresh the session. Does not call the provider if another process has
    /// already stored newer tokens that are valid.
    pub(super) async fn attempt(&self, mut session: Arc<Session>) -> Attempt {
        loop {
            session = match self.need(session).await {
                Need::Refresh(current) => current,
                Need::Nothing(attempt) => return attempt,
            };
            let Some(refresh_token) = session.tokens().refresh_token() else {
                let reason = Reason::at_provider("no_refresh_token");
                self.note_failure(&session, reason, ALARM_PAUSE);
                return Attempt::Failed(session);
            };
            // An earlier attempt received the provider's answer but could not store the answer, so
            // this attempt needs neither a lease nor a call to the provider.
            if let Some((result, lease)) = self.unstored.take(refresh_token) {
                let attempt = self.store(Arc::clone(&session), result).await;
                self.hold_until_stored(&session, lease);
                return attempt;
            }
            match self.lease(&session).await {
                Ok(LeaseResult::Granted(lease, latest)) => {
                    let attempt = self.call_provider(Arc::clone(&session), latest).await;
                    self.hold_until_stored(&session, Some(lease));
                    return attempt;
                }
                Ok(LeaseResult::Changed) => {}
                Ok(LeaseResult::Draining) => return Attempt::Failed(session),
                Err(error) => return self.not_stored(session, &error, "leased"),
            }
        }
    }

    async fn need(&self, mut session: Arc<Session>) -> Need {
        let now = self.clock().now();
        let done = |outcome| Need::Nothing(Attempt::Done(outcome));
        match session.state() {
            SessionState::Live if self.sessions.is_confirmed(&session) => {}
            SessionState::Ended => return done(Outcome::Ended),
            SessionState::Live | SessionState::Superseded => {
                match self.sessions.fetch(session.key()).await {
                    Ok(Some(newest)) => {
                        let replaced = newest.version() != session.version();
                        // Another process may have stored a newer token. If the newest stored token has
                        // also expired, this attempt refreshes the newest version of the session.
                        if replaced && !newest.tokens().is_expired(now) {
                            return done(Outcome::Renewed(newest));
                        }
                        session = newest;
                    }
                    Ok(None) => return done(Outcome::Ended),
                    Err(error) => {
                        return Need::Nothing(self.not_stored(session, &error, "fetched"));
                    }
                }
            }
        }
        // A token that was issued a moment ago is never refreshed.
        let young = session.tokens().lifetime().wait_before_refresh(now);
        if young.is_zero() {
            return Need::Refresh(session);
        }
        if !session.tokens().is_expired(now) {
            return done(Outcome::Renewed(session));
        }
        self.postpone(&session, Reason::at_provider("refreshed_just_now"), young);
        Need::Nothing(Attempt::Failed(session))
    }

    /// Acquires the lease of a session. If another process has the lease, this function waits until
    /// the other process releases the lease, or until the lease expires.
    async fn lease(&self, session: &Session) -> Result<LeaseResult, StoreError> {
        let mut draining = self.draining.subscribe();
        let mut has_waited = false;
        let provider = self.provider(session);
        let call = provider.map_or(DRAIN_WAIT, |provider| provider.refresh_deadline());
        loop {
            // The store gives the lease after this time, so the lease does not end before the call
            // has ended.
            let latest = self.clock().instant().checked_add(TIME_TO_SEND);
            let now = self.clock().now();
            let until = now.plus(lease_duration(call));
            let connection = self.sessions.connection();
            let is_connected = || self.sessions.connection() == connection;
            let leased = self.sessions.lease(session.key(), now, until).await?;
            let known = Known {
                state: session.state(),
                reports: if !is_connected() {
                    Reports::OfOtherConnection
                } else if self.sessions.is_confirmed(session) {
                    Reports::Complete
                } else {
                    Reports::Uncertain
                },
                has_waited,
            };
            let held = match (lease_use(known), leased) {
                (LeaseUse::BeginAgain, _) => return Ok(LeaseResult::Changed),
                (LeaseUse::AskStore, Leased::Granted(_))
                    if self.has_changed(session).await? || !is_connected() =>
                {
                    return Ok(LeaseResult::Changed);
                }
                (LeaseUse::AskStore | LeaseUse::Call, Leased::Granted(lease)) => {
                    let latest = latest.unwrap_or_else(|| self.clock().instant());
                    return Ok(LeaseResult::Granted(lease, latest));
                }
                (LeaseUse::AskStore | LeaseUse::Call, Leased::Held(held)) => held,
            };
            has_waited = true;
            let left = held.until().since(now);
            tokio::select! {
                () = held.over() => {}
                // A process that has crashed cannot release its lease, so this function also stops
                // waiting when the lease expires.
                () = self.clock().sleep(left) => {}
                _draining = draining.wait_for(|draining| *draining) => {
                    return Ok(LeaseResult::Draining);
                }
            }
        }
    }
}

impl Refresher {
    /// Reads the session from the store. Returns true if the store has another version, or if the
    /// session has ended.
    async fn has_changed(&self, session: &Session) -> Result<bool, StoreError> {
        let newest = self.sessions.fetch(session.key()).await?;
        Ok(newest.is_none_or(|newest| newest.version() != session.version()))
    }
}

#[cfg(test)]
#[path = "attempt_tests.rs"]
mod tests;
