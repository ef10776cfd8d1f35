//! What the log is told of refreshes.

use super::backoff::{FIRST_PAUSE, Reason, SessionFailure};
use crate::provider::{ExchangeError, Sent};
use crate::session::{Session, SessionKey, StoreError};
use crate::telemetry::{Metrics, chain};

/// Says so when a flight does not come to its end.
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
            tracing::error!(provider, session.key = key, reason, "A refresh broke off");
        }
    }
}

/// Says what could not be done with a session, and gives when it is tried again.
pub(super) fn store_failure(error: &StoreError, what: &'static str) -> SessionFailure {
    let reason = error.reason();
    tracing::error!(
        reason,
        error = chain(error),
        "A session could not be {what}"
    );
    SessionFailure {
        reason: Reason::at_store(reason),
        retry_after: FIRST_PAUSE,
    }
}

/// Says that an operator has to act.
pub(super) fn log_operator_must_act(session: &Session, error: &ExchangeError) {
    tracing::error!(
        provider = session.provider(),
        session.key = session.key().log_prefix(),
        reason = error.reason(),
        error = chain(error),
        "Session not refreshed until somebody mends this; it is kept"
    );
}

/// Says that a session is not refreshed yet. What was not even sent was said by the call before it.
pub(super) fn log_temporary_failure(session: &Session, error: &ExchangeError) {
    let (provider, reason) = (session.provider(), error.reason());
    let (key, cause) = (session.key().log_prefix(), chain(error));
    let said = "Session not refreshed yet";
    if error.class().sent == Sent::Nothing {
        tracing::debug!(provider, session.key = key, reason, error = cause, "{said}");
    } else {
        tracing::warn!(provider, session.key = key, reason, error = cause, "{said}");
    }
}

/// Says that a session has new tokens.
pub(super) fn log_refreshed(newest: &Session) {
    tracing::debug!(
        provider = newest.provider(),
        session.key = newest.key().log_prefix(),
        session.version = newest.version(),
        "Session refreshed"
    );
}

/// Says that new tokens could be neither stored nor kept.
pub(super) fn log_tokens_lost(session: &Session) {
    tracing::error!(
        provider = session.provider(),
        session.key = session.key().log_prefix(),
        reason = "refresh_unstored",
        "New tokens are lost: too many cannot be stored"
    );
}

/// Says that the provider has ended a session's grant.
pub(super) fn log_ended(session: &Session, error: &ExchangeError) {
    tracing::info!(
        provider = session.provider(),
        session.key = session.key().log_prefix(),
        reason = error.reason(),
        error = chain(error),
        "Session ended by its provider"
    );
}
