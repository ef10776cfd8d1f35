//! Log events about refreshes and sessions.

use std::time::Duration;

use super::backoff::{FIRST_PAUSE, Reason, SessionFailure};
use super::{REFUSED_BY_RULE, Refresher, Route};
use crate::identity::Claim;
use crate::provider::{ExchangeError, Sent};
use crate::session::{Session, SessionKey, StoreError};
use crate::telemetry::{Metrics, chain};

/// Logs an event if a shared refresh was aborted. A `FlightLog` logs the event when the `FlightLog`
/// is dropped.
pub(super) struct FlightLog<'a> {
    pub(super) metrics: &'a Metrics,
    pub(super) provider: Box<str>,
    pub(super) key: SessionKey,
    pub(super) finished: bool,
}

impl Drop for FlightLog<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let (provider, reason) = (&*self.provider, "refresh_lost");
            self.metrics.refresh(provider, "lost", reason);
            let key = self.key.log_prefix();
            tracing::error!(provider, session.key = key, reason, "A refresh was aborted");
        }
    }
}

/// Logs that a session could not be fetched, stored or ended. Returns a `SessionFailure`, which
/// contains the reason and the pause before the next attempt.
pub(super) fn store_failure(error: &StoreError, what: &'static str) -> SessionFailure {
    let reason = error.reason();
    // The store itself reports once that it does not answer.
    if let StoreError::Unavailable(_) = error {
        let error = chain(error);
        tracing::debug!(reason, error, "A session could not be {what}");
    } else {
        let error = chain(error);
        tracing::error!(reason, error, "A session could not be {what}");
    }
    SessionFailure {
        reason: Reason::at_store(reason),
        retry_after: FIRST_PAUSE,
    }
}

/// Logs a failure that only an operator can fix.
pub(super) fn log_operator_must_act(session: &Session, error: &ExchangeError) {
    tracing::error!(
        provider = session.provider(),
        session.key = session.key().log_prefix(),
        reason = error.reason(),
        error = chain(error),
        "Session not refreshed until the cause is fixed; it stays open"
    );
}

/// Logs a temporary failure. If the gateway sent no request to the provider, an earlier event has
/// already reported the cause, so this event has only the debug level.
pub(super) fn log_temporary_failure(session: &Session, error: &ExchangeError) {
    let (provider, reason) = (session.provider(), error.reason());
    let (key, cause) = (session.key().log_prefix(), chain(error));
    if error.class().sent == Sent::Nothing {
        tracing::debug!(
            provider,
            session.key = key,
            reason,
            error = cause,
            "Session not refreshed yet"
        );
    } else {
        tracing::warn!(
            provider,
            session.key = key,
            reason,
            error = cause,
            "Session not refreshed yet"
        );
    }
}

/// Logs that a session has new tokens.
pub(super) fn log_refreshed(newest: &Session) {
    tracing::debug!(
        provider = newest.provider(),
        session.key = newest.key().log_prefix(),
        session.version = newest.version(),
        "Session refreshed"
    );
}

/// Logs that new tokens could neither be stored nor kept in memory.
pub(super) fn log_tokens_lost(session: &Session) {
    tracing::error!(
        provider = session.provider(),
        session.key = session.key().log_prefix(),
        reason = "refresh_unstored",
        "New tokens are lost: too many results wait to be stored"
    );
}

/// Logs that the provider has ended the grant of a session.
pub(super) fn log_ended(session: &Session, error: &ExchangeError) {
    tracing::info!(
        provider = session.provider(),
        session.key = session.key().log_prefix(),
        reason = error.reason(),
        error = chain(error),
        "Session ended by its provider"
    );
}

impl Refresher {
    /// Reports that the groups field or a signed assertion is too short for all groups of a user.
    pub(super) fn report_groups(&self, session: &Session, left_out: usize) {
        self.metrics().groups_left_out(session.provider(), left_out);
        let identity = session.identity();
        let subject = identity.subject.as_ref().map(Claim::as_str);
        let now = Duration::from_millis(self.clock().now().as_millis());
        if self
            .groups_reported
            .is_due((&identity.issuer, subject), now)
        {
            tracing::warn!(
                provider = session.provider(),
                session.key = session.key().log_prefix(),
                groups = identity.groups.iter().len(),
                left_out,
                setting = "assertions.groups_format, assertions.groups_bytes",
                "The field to the app cannot carry all groups of a user"
            );
        }
    }

    /// Reports that the rule of a route would refuse a user, but that the gateway does not enforce
    /// the rule. The log contains at most one event per session, route and hour.
    #[cold]
    pub(super) fn report_unenforced(&self, route: &Route, session: &Session) {
        let (name, key) = (route.name(), session.key().log_prefix());
        let now = Duration::from_millis(self.clock().now().as_millis());
        if self.unenforced_reported.is_due((name, &key), now) {
            tracing::info!(
                route = name,
                provider = session.provider(),
                session.key = key,
                reason = REFUSED_BY_RULE,
                "The rule would refuse the user, but enforce = false"
            );
        }
    }
}
