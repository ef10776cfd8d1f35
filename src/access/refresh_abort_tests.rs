//! Tests of refreshes whose task is aborted or panics.

use std::fmt::{Debug, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Builder;
use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Metadata, Subscriber};

use super::*;
use crate::access::unstored::Kept;

#[test]
fn g_14_g_15_an_aborted_refresh_is_reported_to_its_waiters_and_counted() {
    let control = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let fixture = Fixture::new(control.handle().clone());
    let waiter = control.block_on(async {
        let session = fixture.expired().await;
        let mut waiter = fixture.refresher.join(&session, NOW, MAX_WAIT).unwrap();
        // `waiter` still waits for the paused shared refresh, so the shared refresh does not end.
        assert!(matches!(waiter.progress().await, Progress::Paused(_)));
        waiter
    });
    control.shutdown_background();
    let waiting = Builder::new_current_thread().enable_all().build().unwrap();
    let end = waiting.block_on(fixture.wait_for(waiter));
    assert_eq!(failed(&end), "refresh_lost");
    let lost = "result=\"lost\",reason=\"refresh_lost\"} 1";
    assert!(fixture.metrics.encode().contains(lost));
}

/// A subscriber that collects events, but panics at the first event with a certain message. The
/// panic happens while the tested code writes this event to the log.
struct PanicOnMessage {
    message: &'static str,
    panicked: AtomicBool,
    events: mpsc::UnboundedSender<String>,
}

impl Subscriber for PanicOnMessage {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = event.metadata().level().to_string();
        event.record(&mut |field: &Field, value: &dyn Debug| {
            write!(text, " {field}={value:?}").unwrap();
        });
        let is_it = text.contains(self.message);
        assert!(
            !is_it || self.panicked.swap(true, Ordering::Relaxed),
            "on purpose"
        );
        self.events.send(text).unwrap_or_default();
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn g_14_a_refresh_that_panics_releases_all_waiters() {
    let (events, mut written) = mpsc::unbounded_channel();
    let trap = |message| {
        let (panicked, events) = (AtomicBool::new(false), events.clone());
        Dispatch::new(PanicOnMessage {
            message,
            panicked,
            events,
        })
    };
    // If only one subscriber exists, `tracing` asks only the first thread which events are needed.
    // The first thread may run a test without a subscriber, so `tracing` would disable the events
    // for this test. If two subscribers exist, `tracing` asks all subscribers which events are
    // needed. This test creates a second subscriber, so that `tracing` asks all subscribers.
    let _second = trap("never said");
    let _set = tracing::dispatcher::set_default(&trap("Session refreshed"));
    let fixture = Fixture::new(Handle::current());
    let (session, other) = (fixture.expired().await, fixture.expired().await);
    for session in [&session, &other] {
        // The refresher already holds an unstored result, so it uses this result and calls no
        // provider.
        let used = session.tokens().refresh_token().unwrap();
        assert_eq!(
            fixture.refresher.unstored.keep(used, refreshed()),
            Kept::Yes
        );
        let waiters = [(); 20].map(|()| fixture.refresher.join(session, NOW, MAX_WAIT).unwrap());
        for waiter in waiters {
            let end = fixture.wait_for(waiter).await;
            if Arc::ptr_eq(session, &other) {
                assert!(matches!(end, Outcome::Renewed(_)), "{end:?}");
            } else {
                assert_eq!(failed(&end), "refresh_lost");
            }
        }
        assert!(fixture.refresher.under_way(session.key()).is_none());
    }
    // The panic does not delay the end of the process.
    fixture.refresher.drained().await;
    // The next attempt finds the tokens that the panicked refresh has already stored.
    let found = fixture.refresher.attempt(Arc::clone(&session)).await;
    assert!(matches!(found, Attempt::Done(Outcome::Renewed(_))));
    let lost = "result=\"lost\",reason=\"refresh_lost\"} 1";
    assert!(fixture.metrics.encode().contains(lost));
    let written = std::iter::from_fn(|| written.try_recv().ok());
    let aborted: Vec<_> = written.filter(|event| event.contains("aborted")).collect();
    let [event] = &aborted[..] else {
        panic!("{aborted:?}");
    };
    assert!(
        event.starts_with("ERROR") && event.contains("refresh_lost"),
        "{event}"
    );
}
