//! The log events about the connection to the shared store: one event when a problem begins, and one
//! event when it ends.

use std::sync::atomic::{AtomicBool, Ordering};

use super::error::RedisConnectError;
use crate::telemetry::chain;

/// The problems that the log has reported.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    is_down: AtomicBool,
    is_refused: AtomicBool,
}

impl Alarm {
    /// Reports that the server cannot be used.
    pub(super) fn down(&self, error: &RedisConnectError) {
        if !self.is_down.swap(true, Ordering::Relaxed) {
            let (reason, error) = ("session_store_unavailable", chain(error));
            tracing::error!(
                reason,
                error,
                "The session store does not answer; cached sessions continue for a limited time"
            );
        }
    }

    /// Reports that the server can be used.
    pub(super) fn up(&self, server: &str) {
        self.is_down.store(false, Ordering::Relaxed);
        tracing::info!(store.server = server, "The session store answers");
    }

    /// Reports that the server refuses changes.
    pub(super) fn refused(&self, error: &str) {
        if !self.is_refused.swap(true, Ordering::Relaxed) {
            let reason = "session_store_refused";
            tracing::error!(
                reason,
                error,
                "The session store refuses changes; users cannot sign in"
            );
        }
    }

    /// Notes that the server accepts changes again.
    pub(super) fn accepted(&self) {
        if self.is_refused.swap(false, Ordering::Relaxed) {
            tracing::info!("The session store accepts changes again");
        }
    }

    /// Returns true if the server refuses changes.
    pub(super) fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed)
    }
}
