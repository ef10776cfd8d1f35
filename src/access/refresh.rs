//! Renewing access tokens: one refresh for each session, whoever asks and however many.
//!
//! A refresh is a task of the control plane. It is shared by everybody who needs its result and
//! belongs to none of them; its result is stored before anybody uses it. What cannot be stored is
//! kept, and its refresh goes on, whoever waits, until it is stored or the session has ended: a
//! refresh token that was used up is not used a second time.
//!
//! A refresh that fails for a reason that passes is tried again after a pause that grows; somebody
//! who waits stays as long as the next try comes within their max_wait. Nobody is signed out but by
//! the authorization server's own word that the grant has ended.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use super::backoff::{Backoffs, FIRST_PAUSE, LONGEST_ASKED, Reason, SessionFailure};
use super::flight::{FinishUnwaited, Flights, Leader, Waiter};
use super::outcome::{Fetched, Outcome, RetryPause};
use super::report::{
    FlightLog, log_ended, log_operator_must_act, log_refreshed, log_temporary_failure,
    log_tokens_lost, store_failure,
};
use super::unstored::{Kept, RefreshResult, Unstored};
use crate::clock::{Clock, Timestamp};
use crate::provider::{
    ExchangeError, Provider, Providers, RefreshError, RefreshRequest, Refreshed, Sent, Verdict,
};
use crate::session::{
    EndReason, EndedVersion, Replaced, Session, SessionKey, SessionState, Sessions, StoreError,
};
use crate::telemetry::{Metrics, TokenCall};

/// The pause of a session that cannot even be asked about until an operator mends something.
const ALARM_PAUSE: Duration = Duration::from_secs(30);

/// For how long one claim keeps others from starting a refresh. They would only join it.
const CLAIM: Duration = Duration::from_secs(5);

/// The longest pause before what could not be stored is tried again.
const STORE_PAUSE: Duration = Duration::from_secs(10);

/// The least that is waited between two tries, whatever the clock says of the pause.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

/// The longest that the end of the process waits for refreshes under way: the deadline that their
/// calls have unless it is set, and what it takes to store a result.
const DRAIN_WAIT: Duration = Duration::from_secs(65);

/// A refresh that goes on with another try at once.
const NO_PAUSE: SessionFailure = SessionFailure {
    reason: Reason::at_provider("refresh_slow"),
    retry_after: Duration::ZERO,
};

/// How the pause before a try ended.
enum PauseEnd {
    /// The next try is due.
    Over,
    /// Nobody waits for it, and nothing is to be stored.
    NoWaiters(SessionFailure),
    /// The process ends.
    Draining(SessionFailure),
}

/// Refreshes sessions, and fetches those that are not in memory. Shared by all workers.
#[derive(Debug)]
pub(crate) struct Refresher {
    providers: ArcSwap<Providers>,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    clock: Clock,
    control: Handle,
    refreshes: Arc<Flights<SessionKey, RetryPause, Outcome>>,
    fetches: Arc<Flights<SessionKey, RetryPause, Fetched>>,
    backoffs: Backoffs,
    unstored: Unstored,
    draining: watch::Sender<bool>,
}

/// One try.
enum Try {
    Done(Outcome),
    /// This session may be tried again after a pause.
    Failed(Arc<Session>),
}

impl Refresher {
    /// Refreshes `sessions` at `providers` by tasks of `control`.
    pub(crate) fn new(
        providers: Arc<Providers>,
        sessions: Arc<Sessions>,
        metrics: Arc<Metrics>,
        clock: Clock,
        control: Handle,
    ) -> Self {
        Self {
            providers: ArcSwap::new(providers),
            sessions,
            metrics,
            clock,
            refreshes: Flights::new(control.clone()),
            fetches: Flights::new(control.clone()),
            control,
            backoffs: Backoffs::default(),
            unstored: Unstored::default(),
            draining: watch::Sender::new(false),
        }
    }

    /// From now on sessions are refreshed at these providers. A refresh that is under way ends
    /// where it began.
    pub(crate) fn refresh_at(&self, providers: Arc<Providers>) {
        self.providers.store(providers);
    }

    /// The provider that signed a session's person in.
    fn provider(&self, session: &Session) -> Option<Arc<Provider>> {
        self.providers
            .load()
            .get(session.provider())
            .map(Arc::clone)
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Runs what must not stop when a request does.
    pub(super) async fn on_control_plane<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.control.spawn(work).await.ok()
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Has a session refreshed ahead of its token's end; nobody waits for it.
    pub(super) fn refresh_ahead(self: &Arc<Self>, session: &Arc<Session>, now: Timestamp) {
        if session.claim_refresh(now, now.plus(CLAIM)) {
            drop(self.refresh(session));
        }
    }

    /// A waiter in the refresh of a session whose token cannot be used.
    ///
    /// # Errors
    ///
    /// When the next try comes later than after `max_wait`.
    pub(super) fn join(
        self: &Arc<Self>,
        session: &Arc<Session>,
        now: Timestamp,
        max_wait: Duration,
    ) -> Result<Waiter<RetryPause, Outcome>, SessionFailure> {
        if let Some(waiter) = self.under_way(session.key()) {
            return Ok(waiter);
        }
        match self.backoffs.find(session.key(), now) {
            Some(failure) if failure.retry_after > max_wait => Err(failure),
            Some(_) | None => Ok(self.refresh(session)),
        }
    }

    /// A waiter in the refresh of a session, if one is under way.
    pub(super) fn under_way(&self, key: &SessionKey) -> Option<Waiter<RetryPause, Outcome>> {
        self.refreshes.waiter(key)
    }

    fn refresh(self: &Arc<Self>, session: &Arc<Session>) -> Waiter<RetryPause, Outcome> {
        self.refreshes.join(*session.key(), |leader| {
            let (refresher, session) = (Arc::clone(self), Arc::clone(session));
            async move { refresher.run(session, leader).await }
        })
    }

    /// A waiter where a session is fetched that is not in memory.
    pub(super) fn fetch(self: &Arc<Self>, key: SessionKey) -> Waiter<RetryPause, Fetched> {
        self.fetches.join(key, |leader| {
            let refresher = Arc::clone(self);
            async move {
                let fetched = refresher.sessions.fetch(&key).await;
                leader.finish(match fetched {
                    Ok(Some(_session)) => Fetched::InMemory,
                    Ok(None) => Fetched::Unknown,
                    Err(error) => Fetched::Failed(store_failure(&error, "fetched")),
                });
            }
        })
    }

    /// Waits until every refresh under way has come to its end and is stored, or until that takes
    /// longer than one can.
    ///
    /// # Cancel safety
    ///
    /// Cancelling it leaves what is under way to itself.
    pub(crate) async fn drained(&self) {
        self.draining.send_replace(true);
        let ended = timeout(DRAIN_WAIT, self.refreshes.none()).await;
        if ended.is_err() {
            tracing::error!(reason = "refresh_unfinished", "A refresh did not end");
        }
    }

    /// One flight: tries, and pauses in between as long as somebody waits or something is to be
    /// stored.
    async fn run(
        self: Arc<Self>,
        mut session: Arc<Session>,
        mut leader: Leader<SessionKey, RetryPause, Outcome>,
    ) {
        // Until nobody can meet this flight any more.
        let _counted = self.metrics.refreshing();
        let mut log = FlightLog {
            metrics: &self.metrics,
            provider: session.provider().into(),
            key: *session.key(),
            finished: false,
        };
        let mut least = Duration::ZERO;
        let outcome = loop {
            let began = self.clock.now();
            match self.pause(&session, least, &leader).await {
                PauseEnd::Over => {}
                PauseEnd::NoWaiters(failure) => {
                    session.postpone_refresh(began.plus(failure.retry_after));
                    match leader.finish_unwaited(Outcome::Failed(failure)) {
                        FinishUnwaited::Finished => {
                            log.finished = true;
                            return;
                        }
                        FinishUnwaited::Joined(joined) => leader = joined,
                    }
                    continue;
                }
                PauseEnd::Draining(failure) => {
                    // What is to be stored would be tried for ever, so it is tried once more.
                    if self.is_unstored(&session)
                        && let Try::Done(outcome) = self.attempt(Arc::clone(&session)).await
                    {
                        break outcome;
                    }
                    session.postpone_refresh(began.plus(failure.retry_after));
                    break Outcome::Failed(failure);
                }
            }
            match self.attempt(Arc::clone(&session)).await {
                Try::Done(outcome) => {
                    // Whoever ended or replaced it has no use for what was not stored.
                    let used = session.tokens().refresh_token();
                    drop(used.and_then(|used| self.unstored.take(used)));
                    break outcome;
                }
                Try::Failed(newest) => session = newest,
            }
            least = LEAST_PAUSE;
        };
        log.finished = true;
        leader.finish(outcome);
    }

    /// Waits until the pause after earlier failures is over, and for `least` at the least.
    async fn pause(
        &self,
        session: &Session,
        least: Duration,
        leader: &Leader<SessionKey, RetryPause, Outcome>,
    ) -> PauseEnd {
        let mut failure = self
            .backoffs
            .find(session.key(), self.clock.now())
            .unwrap_or(NO_PAUSE);
        failure.retry_after = failure.retry_after.max(least);
        if failure.retry_after.is_zero() {
            return PauseEnd::Over;
        }
        leader.pause(RetryPause {
            until: self.clock.now().plus(failure.retry_after),
            reason: failure.reason,
        });
        let unstored = self.is_unstored(session);
        let mut draining = self.draining.subscribe();
        tokio::select! {
            biased;
            () = leader.no_waiters(), if !unstored => PauseEnd::NoWaiters(failure),
            _draining = draining.wait_for(|draining| *draining) => PauseEnd::Draining(failure),
            () = self.clock.sleep(failure.retry_after) => {
                leader.resume();
                PauseEnd::Over
            }
        }
    }

    /// One try. A session that somebody else has replaced meanwhile needs none.
    async fn attempt(&self, mut session: Arc<Session>) -> Try {
        let now = self.clock.now();
        match session.state() {
            SessionState::Live => {}
            SessionState::Ended => return Try::Done(Outcome::Ended),
            SessionState::Superseded => match self.sessions.fetch(session.key()).await {
                Ok(Some(newest)) => {
                    let replaced = newest.version() != session.version();
                    if replaced && !newest.tokens().is_expired(now) {
                        return Try::Done(Outcome::Renewed(newest));
                    }
                    session = newest;
                }
                Ok(None) => return Try::Done(Outcome::Ended),
                Err(error) => return self.not_stored(session, &error, "fetched"),
            },
        }
        // Whatever asks: a token that was just made is not made anew.
        let young = session.tokens().lifetime().wait_before_refresh(now);
        if !young.is_zero() {
            if !session.tokens().is_expired(now) {
                return Try::Done(Outcome::Renewed(session));
            }
            self.postpone(&session, Reason::at_provider("refreshed_just_now"), young);
            return Try::Failed(session);
        }
        let Some(refresh_token) = session.tokens().refresh_token() else {
            self.note_failure(
                &session,
                Reason::at_provider("no_refresh_token"),
                ALARM_PAUSE,
            );
            return Try::Failed(session);
        };
        match self.unstored.take(refresh_token) {
            Some(result) => self.store(session, result).await,
            None => self.call_provider(session).await,
        }
    }

    /// Asks the provider, once.
    async fn call_provider(&self, session: Arc<Session>) -> Try {
        let Some(provider) = self.provider(&session) else {
            // It was taken out of the settings while its sessions stayed in the store.
            self.note_failure(
                &session,
                Reason::at_provider("unknown_provider"),
                ALARM_PAUSE,
            );
            return Try::Failed(session);
        };
        let asked = self.clock.instant();
        let refreshing = RefreshRequest {
            tokens: session.tokens(),
            identity: session.identity(),
        };
        let answered = provider.refresh(&refreshing, &self.clock).await;
        let sent = |unrefreshed: &RefreshError| unrefreshed.error.class().sent;
        if answered.as_ref().err().map(sent) != Some(Sent::Nothing) {
            let took = self.clock.instant().saturating_duration_since(asked);
            let error = answered.as_ref().err();
            let result = error.map_or("ok", |unrefreshed| unrefreshed.error.reason());
            let name = session.provider();
            self.metrics
                .token_call(name, TokenCall::Refresh, result, took);
        }
        match answered {
            Ok(refreshed) => {
                self.store(session, RefreshResult::New(Box::new(refreshed)))
                    .await
            }
            Err(unrefreshed) => self.handle_failure(session, unrefreshed).await,
        }
    }

    /// Stores what came before anybody uses it. Signing out wins.
    async fn store(&self, session: Arc<Session>, result: RefreshResult) -> Try {
        let copy = result.copy();
        let refresh_token_only = matches!(result, RefreshResult::RefreshTokenOnly(_));
        let Refreshed { tokens, identity } = result.into();
        let name = session.provider();
        match self.sessions.replace(&session, tokens, identity).await {
            // It has a refresh token again, and still no access token.
            Ok(Replaced::Stored(newest) | Replaced::Newer(newest)) if refresh_token_only => {
                Try::Failed(newest)
            }
            Ok(Replaced::Stored(newest) | Replaced::Newer(newest)) => {
                self.backoffs.forget(session.key());
                self.metrics.refresh(name, "renewed", "ok");
                log_refreshed(&newest);
                Try::Done(Outcome::Renewed(newest))
            }
            Ok(Replaced::Ended) => {
                self.backoffs.forget(session.key());
                self.metrics.refresh(name, "ended", "signed_out");
                Try::Done(Outcome::Ended)
            }
            Err(error) => {
                self.keep_for_retry(&session, copy);
                self.metrics.refresh(name, "kept", error.reason());
                self.not_stored(session, &error, "stored")
            }
        }
    }

    /// Whether something came for a session that could not be stored.
    fn is_unstored(&self, session: &Session) -> bool {
        let used = session.tokens().refresh_token();
        used.is_some_and(|used| self.unstored.holds(used))
    }

    /// Keeps what could not be stored for the next try.
    fn keep_for_retry(&self, session: &Session, copy: Option<RefreshResult>) {
        let used = session.tokens().refresh_token();
        let kept = used
            .zip(copy)
            .map(|(used, copy)| self.unstored.keep(used, copy));
        if kept != Some(Kept::Yes) {
            log_tokens_lost(session);
        }
    }

    /// What becomes of a session whose refresh failed.
    async fn handle_failure(&self, session: Arc<Session>, unrefreshed: RefreshError) -> Try {
        let RefreshError {
            error,
            verdict,
            salvaged,
        } = unrefreshed;
        let (name, reason) = (session.provider(), error.reason());
        let class = error.class();
        let wait = match verdict {
            Verdict::GrantEnded => return self.end_session(session, &error).await,
            Verdict::OperatorMustAct => {
                self.metrics.refresh(name, "alarm", reason);
                log_operator_must_act(&session, &error);
                // A new secret that reaches the server a moment before us is mended at once.
                self.backoffs.next_pause(session.key())
            }
            Verdict::Temporary => {
                self.metrics.refresh(name, "kept", reason);
                log_temporary_failure(&session, &error);
                class.retry_after.map_or_else(
                    || self.backoffs.next_pause(session.key()),
                    |asked| asked.clamp(FIRST_PAUSE, LONGEST_ASKED),
                )
            }
        };
        // A call that was held back is no failure of this session's.
        if class.passes && class.sent == Sent::Nothing {
            self.postpone(&session, Reason::at_provider(reason), wait);
        } else {
            self.note_failure(&session, Reason::at_provider(reason), wait);
        }
        let Some(tokens) = salvaged else {
            return Try::Failed(session);
        };
        // The refresh token before is used up: the one that came must not be lost.
        self.store(session, RefreshResult::RefreshTokenOnly(*tokens))
            .await
    }

    /// The server says that the grant has ended. A session that somebody replaced meanwhile has
    /// another grant.
    async fn end_session(&self, session: Arc<Session>, error: &ExchangeError) -> Try {
        let why = EndReason::GrantEnded;
        match self.sessions.end_version(&session, why).await {
            Ok(EndedVersion::Newer(newest)) => return Try::Done(Outcome::Renewed(newest)),
            Ok(EndedVersion::Ended) => {}
            Err(error) => return self.not_stored(session, &error, "ended"),
        }
        self.backoffs.forget(session.key());
        self.metrics
            .refresh(session.provider(), "ended", error.reason());
        log_ended(&session, error);
        Try::Done(Outcome::Ended)
    }

    fn not_stored(&self, session: Arc<Session>, error: &StoreError, what: &'static str) -> Try {
        let failure = store_failure(error, what);
        let pause = self.backoffs.next_pause(session.key()).min(STORE_PAUSE);
        self.note_failure(&session, failure.reason, pause);
        Try::Failed(session)
    }

    /// Notes a failure of a session, after which it is not tried for a while.
    fn note_failure(&self, session: &Session, reason: Reason, wait: Duration) {
        let now = self.clock.now();
        self.backoffs
            .add_failure(session.key(), reason, now.plus(wait), now);
    }

    /// Notes that a session is not tried for a while, though nothing has failed.
    fn postpone(&self, session: &Session, reason: Reason, wait: Duration) {
        let now = self.clock.now();
        self.backoffs
            .postpone(session.key(), reason, now.plus(wait), now);
    }
}

#[cfg(test)]
#[path = "refresh_tests.rs"]
pub(super) mod tests;
