//! Tasks that go on as long as the process: expired sessions, files with certificates.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::admin::Readiness;
use crate::config::Upstreams;
use crate::gateway;
use crate::session::{Maintained, StoreError};
use crate::telemetry::chain;
use crate::tls::{Acceptor, Refreshed};

/// Between two full batches of expired sessions: workers get the cache in between.
const BETWEEN_BATCHES: Duration = Duration::from_millis(10);

/// How often files are looked at.
const FILES: Duration = Duration::from_secs(10);

/// Ticks that do not catch up when they come late.
pub(super) fn ticks_every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Frees expired sessions a batch at a time, and brings the figures up to date. Notices when the
/// thread that keeps sessions is gone: nobody can sign in or out any more, and only a restart helps.
pub(super) async fn maintain_sessions(process: gateway::ProcessState, readiness: Readiness) {
    let gateway::ProcessState {
        sessions,
        metrics,
        clock,
        ..
    } = process;
    let mut ticks = ticks_every(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        // What could not be written was reported, and the next tick tries again.
        let maintained = loop {
            match sessions.maintain(clock.now()).await {
                Ok(Maintained::More) => sleep(BETWEEN_BATCHES).await,
                end @ (Ok(Maintained::Done) | Err(_)) => break end,
            }
        };
        // The store is closed at the end of a drain and at no other time.
        if matches!(maintained, Err(StoreError::Closed)) && readiness.broken() {
            let reason = "sessions_lost";
            tracing::error!(
                reason,
                "Sessions can no longer be changed; only a restart helps"
            );
        }
        metrics.sessions(sessions.count(), sessions.pushed_out());
    }
}

/// Reads our certificate and the authorities of apps again when the files change. A bad file is
/// reported, and what was in use stays in use.
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
            tracing::error!(error, "Certificate not replaced, the old one stays");
        }
    }
}

fn refresh_trust(upstreams: &Upstreams) {
    for (name, upstream) in upstreams {
        let upstream_name = &**name;
        match upstream.refresh_trust() {
            Ok(Refreshed::Replaced) => {
                tracing::info!(upstream = upstream_name, "Authorities replaced");
            }
            Ok(Refreshed::Unchanged) => {}
            Err(error) => {
                let error = chain(&error);
                tracing::error!(
                    upstream = upstream_name,
                    error,
                    "Authorities not replaced, the old ones stay"
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
    use crate::session::{Registrations, Sessions, Settings, StoreSettings};
    use crate::telemetry::Metrics;

    #[tokio::test]
    async fn a_process_without_its_session_thread_is_reported_as_broken() {
        let settings = Settings {
            idle: Duration::from_hours(1),
            absolute: Duration::from_hours(8),
            capacity: 1024 * 1024,
            per_person: 10,
            refresh_wait: Duration::from_secs(10),
            store: StoreSettings::Memory,
        };
        let keys = Keys::random().unwrap().ring(Purpose::Sessions).unwrap();
        let clock = Clock::manual(Timestamp::from_millis(1_800_000_000_000));
        let sessions =
            Arc::new(Sessions::start(settings, keys, &Registrations::new(), clock.now()).unwrap());
        // As after a panic of the thread: nobody receives commands.
        sessions.close().await.unwrap();
        let readiness = Readiness::default();
        readiness.ready();
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
            metrics,
            clock,
        };
        let keeping = tokio::spawn(maintain_sessions(process, readiness.clone()));
        while readiness.is_ready() {
            tokio::task::yield_now().await;
        }
        assert!(!readiness.broken(), "it was said");
        assert!(!keeping.is_finished());
    }
}
