//! The log events about the connection to the shared store: one event when a problem begins, and one
//! event when it ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::RedisError;

use super::error::RedisConnectError;
use crate::session::SessionKey;
use crate::telemetry::{EventLimiter, chain};

/// The problems that the log has reported.
#[derive(Debug)]
pub(super) struct Alarm {
    is_down: AtomicBool,
    is_refused: AtomicBool,
    has_no_count: AtomicBool,
    has_no_name: AtomicBool,
    evicts: AtomicBool,
    clock_differs: EventLimiter,
    unreadable: EventLimiter,
    refused_commands: EventLimiter,
}

impl Default for Alarm {
    fn default() -> Self {
        Self {
            is_down: AtomicBool::new(false),
            is_refused: AtomicBool::new(false),
            has_no_count: AtomicBool::new(false),
            has_no_name: AtomicBool::new(false),
            evicts: AtomicBool::new(false),
            clock_differs: EventLimiter::new(Duration::from_mins(1)),
            unreadable: EventLimiter::new(Duration::from_mins(1)),
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

    /// Reports that the server does not count the replicas. The log contains this event once.
    pub(super) fn replicas_unknown(&self, error: &RedisError) {
        if !self.has_no_count.swap(true, Ordering::Relaxed) {
            let (reason, error) = ("replicas_unknown", chain(error));
            tracing::warn!(
                reason,
                error,
                "The session store does not count the replicas; this replica makes calls to \
                 providers as if it were the only one"
            );
        }
    }

    /// Reports that the server does not say who it is. The log contains this event once.
    pub(super) fn server_unknown(&self) {
        if !self.has_no_name.swap(true, Ordering::Relaxed) {
            let reason = "store_server_unknown";
            tracing::warn!(
                reason,
                "The user of the session store may not use INFO; after a failover, a refresh token can be \
                 used twice"
            );
        }
    }

    /// Reports that a full server removes sessions. `policy` is the memory policy of such a server. The log contains
    /// this event again only after a connection to a server that removes nothing.
    pub(super) fn eviction(&self, policy: Option<&str>) {
        let was_known = self.evicts.swap(policy.is_some(), Ordering::Relaxed);
        if let Some(policy) = policy
            && !was_known
        {
            let reason = "session_store_evicts";
            tracing::warn!(
                reason,
                policy,
                "A full session store removes sessions and marks; set its maxmemory-policy to noeviction"
            );
        }
    }

    /// Reports that the clock of the server differs from the gateway's clock. The log contains at most
    /// one such event in a minute. `ahead` is the time by which the server is ahead, in milliseconds.
    pub(super) fn clock_differs(&self, ahead: i64, now: Duration) {
        let (reason, seconds) = ("clock_differs", ahead / 1000);
        if self.clock_differs.is_due(reason, now) {
            tracing::error!(
                reason,
                seconds,
                "The clock of the session store differs from the clock of this machine; this replica \
                 ends no idle sessions in the store"
            );
        }
    }

    /// Reports a session that cannot be read. For each reason, the log contains at most one such event
    /// in a minute.
    pub(super) fn unreadable(&self, reason: &'static str, key: &SessionKey, now: Duration) {
        if self.unreadable.is_due(reason, now) {
            let key = key.log_prefix();
            tracing::error!(
                reason,
                session.key = key,
                "A session in the store cannot be read"
            );
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

/// Reports that the process ends before the server has accepted all sign-outs.
pub(super) fn report_lost_ends(ends: usize) {
    if ends > 0 {
        let reason = "sign_outs_lost";
        tracing::error!(
            reason,
            ends,
            "The session store has not accepted all sign-outs; these sessions continue at other replicas"
        );
    }
}
