use tokio::runtime::Builder;

use super::*;
use crate::access::flight::Progress;
use crate::access::wait::seated;
use crate::seal::{Keys, Purpose};
use crate::session::{Lookup, NewSession, Registrations, Settings, StoreSettings};
use crate::token::Life;

pub(in crate::access) const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// Sessions in memory, and a refresher that knows no provider.
pub(in crate::access) struct Kit {
    pub(in crate::access) sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    pub(in crate::access) refresher: Arc<Refresher>,
}

impl Kit {
    pub(in crate::access) fn new(control: Handle) -> Self {
        let settings = Settings {
            idle: Duration::from_hours(1),
            absolute: Duration::from_hours(8),
            capacity: 1024 * 1024,
            per_person: 10,
            refresh_wait: Duration::from_mins(1),
            store: StoreSettings::Memory,
        };
        let keys = Keys::random().unwrap().ring(Purpose::Sessions).unwrap();
        let sessions =
            Arc::new(Sessions::start(settings, keys, &Registrations::new(), NOW).unwrap());
        let metrics = Arc::new(Metrics::new([]));
        let refresher = Refresher::new(
            BTreeMap::new(),
            Arc::clone(&sessions),
            (Arc::clone(&metrics), Clock::manual(NOW)),
            (control, Duration::from_mins(1)),
        );
        Self {
            sessions,
            metrics,
            refresher: Arc::new(refresher),
        }
    }

    /// A session whose token has expired.
    async fn expired(&self) -> Arc<Session> {
        self.open(EXPIRED).await
    }

    /// A session whose token has this life.
    pub(in crate::access) async fn open(&self, life: Life) -> Arc<Session> {
        let new = NewSession {
            provider: "main",
            identity: Identity::nameless("op"),
            tokens: tokens("old", life),
            replaces: Vec::new(),
        };
        let id = self.sessions.open(new, NOW).await.unwrap();
        let Lookup::Live(session) = self.sessions.find(&id, NOW) else {
            panic!("it is not there");
        };
        session
    }
}

const EXPIRED: Life = Life {
    obtained_at: Timestamp::from_millis(0),
    expires_at: Some(NOW),
    refresh_at: None,
    not_before: Timestamp::from_millis(0),
};

fn tokens(refresh_token: &str, life: Life) -> TokenSet {
    TokenSet::new("a", Some(refresh_token), life).unwrap()
}

fn refreshed() -> Refreshed {
    Refreshed {
        tokens: tokens("new", EXPIRED),
        identity: None,
    }
}

#[test]
fn g_14_g_15_a_refresh_that_is_cut_off_tells_who_waits_and_is_counted() {
    let control = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let kit = Kit::new(control.handle().clone());
    let seat = control.block_on(async {
        let session = kit.expired().await;
        let mut seat = kit.refresher.join(&session, NOW).unwrap();
        // It rests, as long as somebody waits.
        assert!(matches!(seat.news().await, Progress::Resting(_)));
        seat
    });
    control.shutdown_background();
    let waiting = Builder::new_current_thread().enable_all().build().unwrap();
    let end = waiting.block_on(seated(seat, Instant::now() + Duration::from_mins(1)));
    assert_eq!(end.unwrap_err().reason, "refresh_lost");
    let lost = "result=\"lost\",reason=\"refresh_lost\"} 1";
    assert!(kit.metrics.encode().contains(lost));
}

#[tokio::test]
async fn a_refresh_that_fails_for_long_ends_when_nobody_waits() {
    let kit = Kit::new(Handle::current());
    let session = kit.expired().await;
    drop(kit.refresher.join(&session, NOW).unwrap());
    kit.refresher.refreshes.none().await;
    assert!(kit.refresher.troubles.find(session.key(), NOW).is_some());
    assert_eq!(session.state(), State::Live);
}

#[tokio::test]
async fn g_06_what_could_not_be_stored_is_stored_later_and_not_asked_for_again() {
    let kit = Kit::new(Handle::current());
    let session = kit.expired().await;
    kit.sessions.close().await.unwrap();
    let failed = kit.refresher.keep(Arc::clone(&session), refreshed()).await;
    assert!(matches!(failed, Try::Failed(_)));
    let reason = || {
        kit.refresher
            .troubles
            .find(session.key(), NOW)
            .unwrap()
            .reason
    };
    assert_eq!(reason(), "stopping");
    // Another try stores, or tries to; without the result it would ask a provider.
    let again = kit.refresher.attempt(Arc::clone(&session)).await;
    assert!(matches!(again, Try::Failed(_)));
    assert_eq!(reason(), "stopping");
    let used = session.tokens().refresh_token().unwrap();
    assert!(kit.refresher.unstored.take(used, NOW).is_some());
    kit.refresher.attempt(Arc::clone(&session)).await;
    assert_eq!(reason(), "unknown_provider");
}

#[tokio::test]
async fn whoever_comes_with_a_session_that_was_replaced_gets_the_newest() {
    let kit = Kit::new(Handle::current());
    let old = kit.expired().await;
    let life = Life {
        expires_at: Some(NOW.plus(Duration::from_mins(1))),
        ..Life::default()
    };
    let fresh = TokenSet::new("b", Some("new"), life).unwrap();
    let replaced = kit.sessions.replace(&old, fresh, None).await.unwrap();
    let Replaced::Stored(newest) = replaced else {
        panic!("{replaced:?}");
    };
    let Try::Done(Outcome::Renewed(found)) = kit.refresher.attempt(Arc::clone(&old)).await else {
        panic!("it was asked for again");
    };
    assert_eq!(found.version(), newest.version());
    kit.sessions.end(newest.key()).await.unwrap();
    let ended = kit.refresher.attempt(old).await;
    assert!(matches!(ended, Try::Done(Outcome::Ended)));
}
