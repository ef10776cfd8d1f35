use std::rc::Rc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;
use crate::access::flight::Progress;
use crate::access::unstored::Kept;
use crate::access::wait::wait_for;
use crate::access::{self, Access, RouteTable};
use crate::identity::{Claim, Identity};
use crate::provider::GrantError;
use crate::seal::{Keys, Purpose};
use crate::session::{Lookup, NewSession, Registrations, SessionId, Settings, StoreSettings};
use crate::token::{Lifetime, TokenSet};

#[path = "refresh_abort_tests.rs"]
mod abort;

pub(in crate::access) const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// The longest time that a request waits in these tests.
const MAX_WAIT: Duration = Duration::from_mins(1);

/// Sessions in memory, and a refresher without providers.
pub(in crate::access) struct Fixture {
    clock: Clock,
    pub(in crate::access) sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    pub(in crate::access) refresher: Arc<Refresher>,
}

impl Fixture {
    pub(in crate::access) fn new(control: Handle) -> Self {
        let settings = Settings {
            idle: Duration::from_hours(1),
            absolute: Duration::from_hours(8),
            capacity: 1024 * 1024,
            per_person: 10,
            of_providers: std::collections::BTreeMap::new(),
            refresh_wait: Duration::from_mins(1),
            store: StoreSettings::Memory,
        };
        let keys = Keys::random().unwrap().ring(Purpose::Sessions).unwrap();
        let sessions = Arc::new(
            Sessions::start(
                settings,
                keys,
                &Registrations::from([("main".into(), [0; 32])]),
                &Clock::manual(NOW),
            )
            .unwrap(),
        );
        let metrics = Arc::new(Metrics::default());
        let clock = Clock::manual(NOW);
        let refresher = Refresher::new(
            Arc::default(),
            Arc::clone(&sessions),
            Arc::clone(&metrics),
            clock.clone(),
            control,
        );
        Self {
            clock,
            sessions,
            metrics,
            refresher: Arc::new(refresher),
        }
    }

    /// Creates an [`Access`] with these routes and no provider. A request waits at most one minute.
    pub(in crate::access) fn access(&self, routes: &RouteTable) -> Rc<Access> {
        let settings = access::Settings {
            routes,
            providers: &Arc::default(),
            max_wait: MAX_WAIT,
            session_ids: &Arc::default(),
        };
        let (sessions, refresher) = (Arc::clone(&self.sessions), Arc::clone(&self.refresher));
        Access::new(&settings, sessions, refresher)
    }

    /// Creates a session whose token has expired.
    async fn expired(&self) -> Arc<Session> {
        self.open(EXPIRED).await
    }

    /// Creates a session whose token has the lifetime `life`.
    pub(in crate::access) async fn open(&self, life: Lifetime) -> Arc<Session> {
        self.opened(life).await.1
    }

    /// Creates a session whose token has the lifetime `life`. Returns the session and its id.
    pub(in crate::access) async fn opened(&self, life: Lifetime) -> (SessionId, Arc<Session>) {
        let new = NewSession {
            provider: "main",
            registration: [0; 32],
            identity: Identity::nameless("op"),
            tokens: tokens("old", life),
            replaces: Vec::new(),
            sid: None,
            device: None,
            begun_at: NOW,
        };
        let id = self.sessions.open(new, NOW).await.unwrap();
        let Lookup::Live(session) = self.sessions.find(&id, NOW) else {
            panic!("the session was not found");
        };
        (id, session)
    }
}

const EXPIRED: Lifetime = Lifetime {
    obtained_at: Timestamp::from_millis(0),
    expires_at: Some(NOW),
    refresh_at: None,
    not_before: Timestamp::from_millis(0),
};

fn tokens(refresh_token: &str, life: Lifetime) -> TokenSet {
    TokenSet::new("a", Some(refresh_token), life).unwrap()
}

fn refreshed() -> RefreshResult {
    let life = Lifetime {
        expires_at: Some(NOW.plus(Duration::from_mins(1))),
        ..Lifetime::default()
    };
    RefreshResult::New(Box::new(Refreshed {
        tokens: tokens("new", life),
        identity: None,
    }))
}

/// Returns the reason code of a failed refresh.
fn failed(end: &Outcome) -> &'static str {
    match end {
        Outcome::Failed(failure) => failure.reason.code,
        Outcome::Ended | Outcome::Renewed(_) => panic!("{end:?}"),
    }
}

const MILLISECOND: Duration = Duration::from_millis(1);

/// Returns the tokens of the user `person` in the round `round` of the test. Each round of the test
/// takes one millisecond.
fn tokens_of_round(person: &str, round: u64) -> TokenSet {
    let life = Lifetime {
        expires_at: Some(NOW.plus(Duration::from_millis(round)).plus(MILLISECOND)),
        ..Lifetime::default()
    };
    let [access_token, refresh_token] = ["a", "r"].map(|kind| format!("{person}.{kind}.{round}"));
    TokenSet::new(&access_token, Some(&refresh_token), life).unwrap()
}

impl Fixture {
    async fn wait_for(&self, waiter: Waiter<RetryPause, Outcome>) -> Outcome {
        let deadline = self.clock.instant().checked_add(MAX_WAIT).unwrap();
        wait_for(waiter, deadline, &self.clock).await
    }

    /// Sends one request of a user. Returns the subject and the access token for the app.
    async fn asks(&self, id: &SessionId) -> (String, String) {
        let now = self.clock.now();
        let Lookup::Live(mut session) = self.sessions.find(id, now) else {
            panic!("the session has ended");
        };
        if session.tokens().is_expired(now) {
            let waiter = self.refresher.join(&session, now, MAX_WAIT).unwrap();
            match self.wait_for(waiter).await {
                Outcome::Renewed(newest) => session = newest,
                end @ (Outcome::Ended | Outcome::Failed(_)) => panic!("{end:?}"),
            }
        }
        let subject = session.identity().subject.as_ref().unwrap();
        let token = session.tokens().access_token();
        (subject.as_str().to_owned(), token.to_owned())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g_10_two_users_refreshed_at_the_same_time_never_mix() {
    const ROUNDS: u64 = 20_000;
    let fixture = Arc::new(Fixture::new(Handle::current()));
    let mut people = Vec::new();
    for person in ["alice", "bob"] {
        let identity = Identity {
            subject: Claim::new(person),
            ..Identity::nameless("op")
        };
        let new = NewSession {
            provider: "main",
            registration: [0; 32],
            identity,
            tokens: tokens_of_round(person, 0),
            replaces: Vec::new(),
            sid: None,
            device: None,
            begun_at: NOW,
        };
        let id = fixture.sessions.open(new, NOW).await.unwrap();
        people.push((person, Arc::new(id)));
    }
    for round in 1..=ROUNDS {
        fixture.clock.advance(MILLISECOND);
        for (person, _) in &people {
            // The refresher finds the unstored result `answer` and does not call a provider.
            let used = tokens_of_round(person, round - 1);
            let answer = RefreshResult::New(Box::new(Refreshed {
                tokens: tokens_of_round(person, round),
                identity: None,
            }));
            let used = used.refresh_token().unwrap();
            assert_eq!(fixture.refresher.unstored.keep(used, answer), Kept::Yes);
        }
        let mut asking = JoinSet::new();
        for (person, id) in people.iter().cycle().take(4) {
            let (fixture, person, id) = (Arc::clone(&fixture), *person, Arc::clone(id));
            asking.spawn(async move { (person, fixture.asks(&id).await) });
        }
        while let Some(asked) = asking.join_next().await {
            let (person, (subject, token)) = asked.unwrap();
            assert_eq!(subject, person, "round {round}");
            assert_eq!(token, format!("{person}.a.{round}"));
        }
    }
}

#[tokio::test]
async fn a_failing_refresh_ends_when_nobody_waits() {
    let fixture = Fixture::new(Handle::current());
    let session = fixture.expired().await;
    drop(fixture.refresher.join(&session, NOW, MAX_WAIT).unwrap());
    fixture.refresher.refreshes.none().await;
    assert!(
        fixture
            .refresher
            .backoffs
            .find(session.key(), NOW)
            .is_some()
    );
    assert_eq!(session.state(), crate::session::SessionState::Live);
}

#[tokio::test]
async fn g_06_an_unstored_result_is_stored_later_without_a_second_call() {
    let fixture = Fixture::new(Handle::current());
    let session = fixture.expired().await;
    fixture.sessions.close().await.unwrap();
    let failed = fixture
        .refresher
        .store(Arc::clone(&session), refreshed())
        .await;
    assert!(matches!(failed, Attempt::Failed(_)));
    let reason = || {
        fixture
            .refresher
            .backoffs
            .find(session.key(), NOW)
            .unwrap()
            .reason
            .code
    };
    assert_eq!(reason(), "stopping");
    // The second attempt only tries to store the result of the first attempt, so the second attempt
    // does not call a provider.
    let again = fixture.refresher.attempt(Arc::clone(&session)).await;
    assert!(matches!(again, Attempt::Failed(_)));
    assert_eq!(reason(), "stopping");
    let used = session.tokens().refresh_token().unwrap();
    assert!(fixture.refresher.unstored.take(used).is_some());
    fixture.refresher.attempt(Arc::clone(&session)).await;
    assert_eq!(reason(), "unknown_provider");
}

#[tokio::test(start_paused = true)]
async fn g_06_an_unstored_result_is_retried_when_nobody_waits() {
    let fixture = Fixture::new(Handle::current());
    let session = fixture.expired().await;
    let used = session.tokens().refresh_token().unwrap();
    assert_eq!(
        fixture.refresher.unstored.keep(used, refreshed()),
        Kept::Yes
    );
    fixture.sessions.close().await.unwrap();
    drop(fixture.refresher.join(&session, NOW, MAX_WAIT).unwrap());
    sleep(Duration::from_hours(1)).await;
    assert!(fixture.refresher.under_way(session.key()).is_some());
    assert!(fixture.refresher.unstored.holds(used));
    // The drain can end although the result of the refresh is not stored.
    fixture.refresher.drained().await;
    assert!(fixture.refresher.under_way(session.key()).is_none());
}

#[tokio::test]
async fn g_06_an_unstored_result_is_dropped_when_its_session_ends() {
    let fixture = Fixture::new(Handle::current());
    let session = fixture.expired().await;
    let used = session.tokens().refresh_token().unwrap();
    assert_eq!(
        fixture.refresher.unstored.keep(used, refreshed()),
        Kept::Yes
    );
    fixture
        .sessions
        .end(session.key(), EndReason::SignedOut)
        .await
        .unwrap();
    let waiter = fixture.refresher.join(&session, NOW, MAX_WAIT).unwrap();
    let end = fixture.wait_for(waiter).await;
    assert!(matches!(end, Outcome::Ended), "{end:?}");
    assert!(!fixture.refresher.unstored.holds(used));
}

#[tokio::test]
async fn g_06_a_refresh_token_from_an_unusable_answer_survives_a_store_failure() {
    let tokens_to_store = |session: &Session| RefreshError {
        error: GrantError::NoSubject {
            claim: "sub".into(),
        }
        .into(),
        verdict: Verdict::OperatorMustAct,
        tokens_to_store: Some(Box::new(
            session.tokens().with_refresh_token("saved").unwrap(),
        )),
    };
    let fixture = Fixture::new(Handle::current());
    let session = fixture.expired().await;
    fixture.sessions.close().await.unwrap();
    let answer = tokens_to_store(&session);
    let failed = fixture
        .refresher
        .handle_failure(Arc::clone(&session), answer)
        .await;
    assert!(matches!(failed, Attempt::Failed(_)));
    let used = session.tokens().refresh_token().unwrap();
    let (kept, _lease) = fixture.refresher.unstored.take(used).unwrap();
    // When the store works again, the new refresh token is stored. The session has no new access
    // token yet, so the next attempt uses the new refresh token.
    let fixture = Fixture::new(Handle::current());
    let session = fixture.expired().await;
    assert_eq!(fixture.refresher.unstored.keep(used, kept), Kept::Yes);
    let Attempt::Failed(newest) = fixture.refresher.attempt(Arc::clone(&session)).await else {
        panic!("the old access token was used");
    };
    assert_eq!(newest.version(), session.version() + 1);
    assert_eq!(newest.tokens().refresh_token().unwrap().expose(), "saved");
    assert!(!fixture.refresher.unstored.holds(used));
}

#[tokio::test]
async fn a_replaced_session_leads_to_the_newest_one() {
    let fixture = Fixture::new(Handle::current());
    let old = fixture.expired().await;
    let fresh = Refreshed::from(refreshed()).tokens;
    let replaced = fixture.sessions.replace(&old, fresh, None).await.unwrap();
    let Replaced::Stored(newest) = replaced else {
        panic!("{replaced:?}");
    };
    let Attempt::Done(Outcome::Renewed(found)) = fixture.refresher.attempt(Arc::clone(&old)).await
    else {
        panic!("the provider was called again");
    };
    assert_eq!(found.version(), newest.version());
    fixture
        .sessions
        .end(newest.key(), EndReason::SignedOut)
        .await
        .unwrap();
    let ended = fixture.refresher.attempt(old).await;
    assert!(matches!(ended, Attempt::Done(Outcome::Ended)));
}

#[tokio::test(start_paused = true)]
async fn f_18_there_is_always_a_pause_between_two_attempts() {
    let fixture = Fixture::new(Handle::current());
    // The clock was set back, so `not_before` is in the future.
    let life = Lifetime {
        expires_at: Some(NOW),
        not_before: NOW.plus(Duration::from_hours(1)),
        ..Lifetime::default()
    };
    let session = fixture.open(life).await;
    let mut waiter = fixture.refresher.join(&session, NOW, MAX_WAIT).unwrap();
    // If the shared refresh did not pause between attempts, the only thread of this test would
    // never run other tasks.
    let mut before = None;
    for _ in 0..4 {
        let Progress::Paused(_) = waiter.next_progress().await else {
            panic!("the flight did not pause");
        };
        let now = fixture.clock.instant();
        assert!(before.is_none_or(|before| now >= before + LEAST_PAUSE));
        before = Some(now);
    }
}

#[tokio::test]
async fn advancing_the_clock_ends_the_pause_of_a_refresh() {
    let fixture = Fixture::new(Handle::current());
    let session = fixture.expired().await;
    let mut waiter = fixture.refresher.join(&session, NOW, MAX_WAIT).unwrap();
    let Progress::Paused(pause) = waiter.progress().await else {
        panic!("the flight did not pause");
    };
    fixture.clock.set(pause.until);
    // Ten seconds are much shorter than the pause.
    let soon = Duration::from_secs(10);
    let again = timeout(soon, waiter.next_progress()).await.unwrap();
    let Progress::Paused(next) = again else {
        panic!("{again:?}");
    };
    assert!(next.until > pause.until);
}
