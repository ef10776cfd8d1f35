//! The log events about the connection to the shared store: one event when a problem begins, and one
//! event when it ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::RedisError;

use super::error::RedisConnectError;
use crate::telemetry::{EventLimiter, chain};

/// The problems that the log has reported.
#[derive(Debug)]
pub(super) struct Alarm {
    is_down: AtomicBool,
    is_refused: AtomicBool,
    refused_commands: EventLimiter,
}

impl Default for Alarm {
    fn default() -> Self {
        Self {
            is_down: AtomicBool::new(false),
            is_refused: AtomicBool::new(false),
            refused_commands: EventLimiter::new(Duration::from_mins(1)),
        }
    }
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

    /// Reports that the server has refused one command, for example because the user of the store has
    /// no right to run the command. The log contains at most one such event in a minute.
    pub(super) fn refused_command(&self, error: &RedisError, now: Duration) {
        let reason = "session_store_refused";
        if self.refused_commands.is_due(reason, now) {
            let error = chain(error);
            tracing::error!(reason, error, "The session store refused a command");
        }
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
