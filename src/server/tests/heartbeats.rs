//! A worker whose thread is blocked.

use super::*;
use crate::telemetry::Metrics;

/// The time between two looks. A worker that runs has a heartbeat every 250 milliseconds.
const LOOK: Duration = Duration::from_millis(200);

#[tokio::test]
async fn f_21_a_blocked_worker_is_noticed_and_the_others_are_not_blamed() {
    let mut server = Server::with_workers(with(long()), 2);
    let (readiness, metrics) = (Readiness::default(), Arc::new(Metrics::default()));
    readiness.mark_ready();
    let heartbeats = &server.workers.heartbeats;
    let watch = heartbeats.watch(LOOK, readiness.clone(), Arc::clone(&metrics));
    let watch = watch.unwrap();
    let mut blocking = server.client().await;
    blocking
        .send("GET /block HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    server.entered("/block").await;
    let becomes = async |is_ready| {
        while readiness.is_ready() != is_ready {
            tokio::task::yield_now().await;
        }
    };
    soon(becomes(false)).await;
    assert_eq!(readiness.stalled_workers(), 1);
    let figure = "\nsidegate_stalled_workers 1\n";
    assert!(metrics.encode().contains(figure), "{}", metrics.encode());
    server.probe.release.add_permits(1);
    soon(becomes(true)).await;
    assert!(blocking.until("unblocked").await.contains("200"));
    drop(watch);
    server.workers.drained().await;
}
