//! The tasks that run until the process ends: removal of expired sessions, and reload of
//! certificate files.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::config::Upstreams;
use crate::gateway;
use crate::session::{Maintained, StoreError};
use crate::telemetry::{EventLimiter, chain};
use crate::tls::{Acceptor, Refreshed};

/// The pause between two full batches of expired sessions, during which workers can use the cache.
const BETWEEN_BATCHES: Duration = Duration::from_millis(10);

/// The interval between two checks of the certificate files.
const FILES: Duration = Duration::from_secs(10);

/// The pause between two warnings that sessions have ended because the memory was full.
const WARNING_PAUSE: Duration = Duration::from_mins(1);

/// Creates a timer. If a tick is late, the timer does not repeat the missed ticks.
pub(super) fn ticks_every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Removes expired sessions in batches, and updates the metrics. If the thread of the session store
/// has stopped, no user can sign in or out until the process is restarted. When the thread of the
/// session store has stopped, this task logs an error and marks the process as broken.
pub(super) async fn maintain_sessions(process: gateway::ProcessState) {
    let gateway::ProcessState {
        sessions,
        metrics,
        readiness,
        clock,
        ..
    } = process;
    let mut ticks = ticks_every(Duration::from_secs(1));
    let mut capacity = CapacityWarning::default();
    loop {
        ticks.tick().await;
        // The store itself reports write errors. After a write error, the next tick tries to remove
        // the expired sessions again.
        let maintained = loop {
            match sessions.maintain(clock.now()).await {
                Ok(Maintained::More) => sleep(BETWEEN_BATCHES).await,
                end @ (Ok(Maintained::Done) | Err(_)) => break end,
            }
        };
        // A drain closes the session store as its last step. If the store is closed without a
        // drain, the thread of the store has stopped.
        if matches!(maintained, Err(StoreError::Closed)) && readiness.mark_broken() {
            let reason = "sessions_lost";
            tracing::error!(
                reason,
                "Sessions can no longer be changed; only a restart helps"
            );
        }
        metrics.sessions(sessions.count(), sessions.pushed_out());
        capacity.report(sessions.ended_by_capacity(), clock.since_epoch());
        metrics.unreadable_sessions(sessions.unreadable());
        metrics.session_store(sessions.ready().is_ok(), sessions.replicas());
    }
}

/// The warning that sessions have ended because the memory for sessions was full.
#[derive(Debug)]
struct CapacityWarning {
    limiter: EventLimiter,
    /// The number of ended sessions that the log has already reported.
    reported: u64,
}

impl Default for CapacityWarning {
    fn default() -> Self {
        Self {
            limiter: EventLimiter::new(WARNING_PAUSE),
            reported: 0,
        }
    }
}

impl CapacityWarning {
    /// Warns at most once a minute. `ended` is the number of sessions that have ended since the start
    /// of the process. `now` is the time since the Unix epoch.
    fn report(&mut self, ended: u64, now: Duration) {
        if let Some(sessions) = self.due(ended, now) {
            tracing::warn!(
                reason = "session_pushed_out",
                setting = "session.capacity_mib",
                sessions,
                "Sessions have ended, because session.capacity_mib is too small for all sessions. This \
                 warning is logged once a minute"
            );
        }
    }

    /// Returns the number of sessions that have ended since the last warning, if a warning is due.
    fn due(&mut self, ended: u64, now: Duration) -> Option<u64> {
        let sessions = ended.saturating_sub(self.reported);
        if sessions == 0 || !self.limiter.is_due("session.capacity_mib", now) {
            return None;
        }
        self.reported = ended;
        Some(sessions)
    }
}

/// Reloads the gateway's certificate and the certificate authorities of apps when their files
/// change. If a file is invalid, an event reports the problem, and the previous content stays in
/// use.
pub(super) async fn watch_certificates(
    acceptor: Option<Acceptor>,
    upstreams: watch::Receiver<Upstreams>,
) {
    let mut ticks = ticks_every(FILES);
    loop {
        ticks.tick().await;
        let (acceptor, upstreams) = (acceptor.clone(), upstreams.borrow().clone());
        let looked = tokio::task::spawn_blocking(move || {
            if let Some(acceptor) = acceptor {
                refresh_certificate(&acceptor);
            }
            refresh_trust(&upstreams);
        });
        // `looked.await` returns an error if the blocking task has panicked or if the runtime is
        // shutting down.
        if looked.await.is_err() {
            return;
        }
    }
}

fn refresh_certificate(acceptor: &Acceptor) {
    match acceptor.refresh() {
        Ok(Refreshed::Replaced) => tracing::info!("Certificate replaced"),
        Ok(Refreshed::Unchanged) => {}
        Err(error) => {
            let error = chain(&error);
            tracing::error!(
                error,
                "Certificate not replaced; the previous one stays in use"
            );
        }
    }
}

fn refresh_trust(upstreams: &Upstreams) {
    for (name, upstream) in upstreams {
        let upstream_name = &**name;
        match upstream.refresh_trust() {
            Ok(Refreshed::Replaced) => {
                tracing::info!(upstream = upstream_name, "Certificate authorities replaced");
            }
            Ok(Refreshed::Unchanged) => {}
            Err(error) => {
                let error = chain(&error);
                tracing::error!(
                    upstream = upstream_name,
                    error,
                    "Certificate authorities not replaced; the previous ones stay in use"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::runtime::Handle;

    use super::*;
    use crate::access::Refresher;
    use crate::clock::{Clock, Timestamp};
    use crate::seal::{Keys, Purpose};
    use crate::server::Readiness;
    use crate::session::{Registrations, Sessions, Settings, StoreSettings};
    use crate::telemetry::Metrics;

    #[test]
    fn the_warning_about_a_full_memory_comes_once_a_minute_and_counts_every_session() {
        let mut warning = CapacityWarning::default();
        let at = Duration::from_secs;
        assert_eq!(warning.due(0, at(60)), None);
        assert_eq!(warning.due(2, at(61)), Some(2));
        assert_eq!(warning.due(5, at(119)), None);
        assert_eq!(warning.due(5, at(120)), Some(3));
        assert_eq!(warning.due(5, at(180)), None);
    }

    #[tokio::test]
    async fn a_process_without_its_session_thread_is_reported_as_broken() {
        let settings = Settings {
            idle: Duration::from_hours(1),
            absolute: Duration::from_hours(8),
            capacity: 1024 * 1024,
            per_person: 10,
            of_providers: std::collections::BTreeMap::new(),
            refresh_wait: Duration::from_secs(10),
            store: StoreSettings::Memory,
        };
        let keys = Keys::random().unwrap().ring(Purpose::Sessions).unwrap();
        let clock = Clock::manual(Timestamp::from_millis(1_800_000_000_000));
        let sessions =
            Arc::new(Sessions::start(settings, keys, &Registrations::new(), &clock).unwrap());
        // `close` stops the thread of the session store, so the test sees the same effect as after
        // a panic of this thread.
        sessions.close().await.unwrap();
        let readiness = Readiness::default();
        readiness.mark_ready();
        let metrics = Arc::new(Metrics::default());
        let process = gateway::ProcessState {
            refresher: Arc::new(Refresher::new(
                Arc::default(),
                Arc::clone(&sessions),
                Arc::clone(&metrics),
                clock.clone(),
                Handle::current(),
            )),
            sessions,
            buffers: gateway::Budgets::new(&metrics),
            readiness: readiness.clone(),
            metrics,
            stream_counts: gateway::StreamCounts::default(),
            event_counts: gateway::StreamCounts::default(),
            refusal_warnings: gateway::RefusalWarnings::default(),
            clock,
        };
        let keeping = tokio::spawn(maintain_sessions(process));
        while readiness.is_ready() {
            tokio::task::yield_now().await;
        }
        assert!(!readiness.mark_broken(), "it was said");
        assert!(!keeping.is_finished());
    }
}
