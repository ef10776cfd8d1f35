//! Refreshes access tokens. For each session at most one refresh runs at a time, and all requests
//! that need the refresh share its result.
//!
//! A refresh is a task of the control plane, so the refresh continues even if all waiting requests
//! are cancelled. The result of a refresh is stored before a request uses the new tokens. If the
//! store fails, the new tokens are kept in memory. The refresh then continues until the tokens are
//! stored or the session has ended, even if no request waits. The gateway keeps the result because
//! the used refresh token must not be sent a second time.
//!
//! A refresh that fails for a temporary reason is retried after a pause. Each further failure makes
//! the pause longer. A request continues to wait only if the next attempt starts before the
//! deadline of the request. A failed refresh ends the session only if the provider reports that the
//! grant has ended.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::backoff::{Backoffs, FIRST_PAUSE, LONGEST_ASKED, Reason, SessionFailure};
use super::flight::{FinishUnwaited, Flights, Leader, Waiter};
use super::outcome::{Attempt, Fetched, Outcome, PauseEnd, RetryPause};
use super::report::{
    FlightLog, log_ended, log_operator_must_act, log_refreshed, log_temporary_failure,
    store_failure,
};
use super::unstored::{RefreshResult, Unstored};
use crate::clock::{Clock, Timestamp};
use crate::provider::{
    ExchangeError, Provider, Providers, RefreshError, RefreshRequest, Refreshed, Sent, Verdict,
};
use crate::secret::Secret;
use crate::session::{
    EndReason, EndedVersion, Replaced, Session, SessionKey, Sessions, StoreError,
};
use crate::telemetry::{EventLimiter, Metrics, TokenCall};

/// The pause between attempts for a session that cannot be refreshed until the operator fixes the
/// cause.
pub(super) const ALARM_PAUSE: Duration = Duration::from_secs(30);

/// The minimum time between the starts of two early refreshes of one session. If two requests start
/// a refresh at the same time, the second request joins the shared refresh of the first request.
const CLAIM: Duration = Duration::from_secs(5);

/// The longest pause before the gateway tries again to store the result of a refresh.
const STORE_PAUSE: Duration = Duration::from_secs(10);

/// The shortest pause between two attempts, even if the clock was changed.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

/// The longest time that a drain waits for running refreshes: the default timeout of a call to the
/// provider, plus the time to store a result.
pub(super) const DRAIN_WAIT: Duration = Duration::from_secs(65);

/// A failure without a pause: the next attempt can start immediately.
const NO_PAUSE: SessionFailure = SessionFailure {
    reason: Reason::at_provider("refresh_slow"),
    retry_after: Duration::ZERO,
};

/// Refreshes sessions, and fetches sessions that are not in memory. All workers share one
/// refresher.
#[derive(Debug)]
pub(crate) struct Refresher {
    providers: ArcSwap<Providers>,
    pub(super) sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    clock: Clock,
    control: Handle,
    refreshes: Arc<Flights<SessionKey, RetryPause, Outcome>>,
    fetches: Arc<Flights<SessionKey, RetryPause, Fetched>>,
    backoffs: Backoffs,
    pub(super) unstored: Unstored,
    /// The users for whom the log already contains a warning about too many groups.
    pub(super) groups_reported: EventLimiter,
    /// The sessions and routes for which the log contains an event about a rule that is not enforced.
    pub(super) unenforced_reported: EventLimiter,
    pub(super) draining: watch::Sender<bool>,
}

impl Refresher {
    /// Creates a refresher that refreshes the tokens of `sessions` with calls to `providers`. The
    /// tasks of the refresher run on the runtime `control`.
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
            groups_reported: EventLimiter::new(Duration::from_hours(1)),
            unenforced_reported: EventLimiter::new(Duration::from_hours(1)),
            draining: watch::Sender::new(false),
        }
    }

    /// Replaces the providers for the refreshes that start after this call. A refresh that is
    /// already running still uses the provider with which the refresh began.
    pub(crate) fn refresh_at(&self, providers: Arc<Providers>) {
        self.providers.store(providers);
    }

    /// Returns the provider at which the user of the session signed in.
    pub(super) fn provider(&self, session: &Session) -> Option<Arc<Provider>> {
        self.providers
            .load()
            .get(session.provider())
            .map(Arc::clone)
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Runs `work` as a task of the control plane, so that `work` continues when the request is
    /// cancelled.
    pub(super) async fn on_control_plane<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.control.spawn(work).await.ok()
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Starts a refresh before the token expires. The request that starts the refresh does not wait
    /// for the result of the refresh.
    pub(super) fn refresh_ahead(self: &Arc<Self>, session: &Arc<Session>, now: Timestamp) {
        if session.claim_refresh(now, now.plus(CLAIM)) {
            drop(self.refresh(session));
        }
    }

    /// Returns a waiter for the refresh of a session whose access token cannot be used. Starts the
    /// refresh if no refresh of the session is running.
    ///
    /// # Errors
    ///
    /// Returns the failure of the last attempt if the pause before the next attempt is longer than
    /// `max_wait`.
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

    /// Joins the refresh of the session, if a refresh is running.
    pub(super) fn under_way(&self, key: &SessionKey) -> Option<Waiter<RetryPause, Outcome>> {
        self.refreshes.waiter(key)
    }

    fn refresh(self: &Arc<Self>, session: &Arc<Session>) -> Waiter<RetryPause, Outcome> {
        self.refreshes.join(*session.key(), |leader| {
            let (refresher, session) = (Arc::clone(self), Arc::clone(session));
            async move { refresher.run(session, leader).await }
        })
    }

    /// Returns a waiter for the fetch of a session that is not in memory. Starts the fetch if no
    /// fetch of the session is running.
    pub(super) fn fetch(self: &Arc<Self>, key: SessionKey) -> Waiter<RetryPause, Fetched> {
        self.fetches.join(key, |leader| {
            let refresher = Arc::clone(self);
            async move {
                let fetched = refresher.sessions.fetch(&key).await;
                leader.finish(match fetched {
                    Ok(Some(session)) => Fetched::Found(session),
                    Ok(None) => Fetched::Unknown,
                    Err(error) => Fetched::Failed(store_failure(&error, "fetched")),
                });
            }
        })
    }

    /// Waits until all running refreshes have ended and their results are stored, or until the time
    /// limit [`DRAIN_WAIT`] is over.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, running refreshes continue.
    pub(crate) async fn drained(&self) {
        self.draining.send_replace(true);
        let ended = timeout(DRAIN_WAIT, self.refreshes.none()).await;
        if ended.is_err() {
            tracing::error!(
                reason = "refresh_unfinished",
                "A refresh did not end in time"
            );
        }
    }

    /// Runs one shared refresh: makes attempts, with pauses between the attempts. If no request
    /// waits and every result is stored, the shared refresh ends early, without a further attempt.
    async fn run(
        self: Arc<Self>,
        mut session: Arc<Session>,
        mut leader: Leader<SessionKey, RetryPause, Outcome>,
    ) {
        // `_counted` counts this shared refresh in a metric until this function returns.
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
                    // During the pause after a failed attempt, requests with a valid token must not
                    // start a new shared refresh.
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
                    // Before the process ends, the gateway tries only one more time to store the
                    // result. If the store is broken, further attempts to store the result could
                    // delay the end of the process without limit.
                    if self.is_unstored(&session)
                        && let Attempt::Done(outcome) = self.attempt(Arc::clone(&session)).await
                    {
                        break outcome;
                    }
                    session.postpone_refresh(began.plus(failure.retry_after));
                    break Outcome::Failed(failure);
                }
            }
            match self.attempt(Arc::clone(&session)).await {
                Attempt::Done(outcome) => {
                    // The session has ended or has newer tokens, so an unstored result is no longer
                    // needed.
                    let used = session.tokens().refresh_token();
                    drop(used.and_then(|used| self.unstored.take(used)));
                    break outcome;
                }
                Attempt::Failed(newest) => session = newest,
            }
            least = LEAST_PAUSE;
        };
        log.finished = true;
        leader.finish(outcome);
    }

    /// Waits until the pause after earlier failures is over. The argument `least` is the minimum
    /// length of the pause. The pause ends earlier if the process begins to drain. The pause also
    /// ends earlier if no request waits, unless the session has a refresh result that is not stored
    /// yet.
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
            // With the keyword `biased`, `select!` first checks whether a request still waits. If
            // no request waits, the shared refresh ends, even if the next attempt is due.
            biased;
            () = leader.no_waiters(), if !unstored => PauseEnd::NoWaiters(failure),
            _draining = draining.wait_for(|draining| *draining) => PauseEnd::Draining(failure),
            () = self.clock.sleep(failure.retry_after) => {
                leader.resume();
                PauseEnd::Over
            }
        }
    }

    /// Sends one refresh request to the provider.
    /// The request must be sent until `latest`.
    pub(super) async fn call_provider(&self, session: Arc<Session>, latest: Instant) -> Attempt {
        let Some(provider) = self.provider(&session) else {
            // The operator removed the provider from the settings, but sessions of the provider are
            // still in the store.
            self.note_failure(
                &session,
                Reason::at_provider("unknown_provider"),
                ALARM_PAUSE,
            );
            return Attempt::Failed(session);
        };
        let asked = self.clock.instant();
        let refreshing = RefreshRequest {
            tokens: session.tokens(),
            identity: session.identity(),
            latest,
            replicas: self.sessions.replicas(),
        };
        let answered = provider.refresh(&refreshing, &self.clock).await;
        let sent = |unrefreshed: &RefreshError| unrefreshed.error.class().sent;
        // The metric shows how fast the provider answers, so an attempt without a request to the
        // provider is not recorded.
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

    /// Stores the result of a refresh. If the user has signed out during the refresh, the session
    /// stays ended.
    pub(super) async fn store(&self, session: Arc<Session>, result: RefreshResult) -> Attempt {
        let copy = result.copy();
        let refresh_token_only = matches!(result, RefreshResult::RefreshTokenOnly(_));
        let Refreshed { tokens, identity } = result.into();
        let refresh_token = tokens.refresh_token().cloned();
        let name = session.provider();
        match self.sessions.replace(&session, tokens, identity).await {
            // The session has a new refresh token but no new access token yet, so the refresh
            // continues.
            Ok(Replaced::Stored(newest) | Replaced::Newer(newest)) if refresh_token_only => {
                Attempt::Failed(newest)
            }
            Ok(Replaced::Stored(newest) | Replaced::Newer(newest)) => {
                self.backoffs.forget(session.key());
                self.metrics.refresh(name, "renewed", "ok");
                log_refreshed(&newest);
                Attempt::Done(Outcome::Renewed(newest))
            }
            Ok(Replaced::Ended) => {
                self.backoffs.forget(session.key());
                self.metrics.refresh(name, "ended", "signed_out");
                // The sign-out has revoked the old refresh token, but the provider has replaced it.
                if let Some(token) = refresh_token {
                    self.revoke(&session, token);
                }
                Attempt::Done(Outcome::Ended)
            }
            Err(error) => {
                self.keep_for_retry(&session, copy);
                self.metrics.refresh(name, "kept", error.reason());
                self.not_stored(session, &error, "stored")
            }
        }
    }

    /// Starts a task of the control plane that revokes a refresh token of an ended session.
    fn revoke(&self, session: &Session, token: Secret<String>) {
        if let Some(provider) = self.provider(session) {
            let (clock, key) = (self.clock.clone(), session.key().log_prefix());
            drop(
                self.control
                    .spawn(async move { provider.revoke(&token, &clock, &key).await }),
            );
        }
    }

    /// Handles a failed call to the provider.
    async fn handle_failure(&self, session: Arc<Session>, unrefreshed: RefreshError) -> Attempt {
        let RefreshError {
            error,
            verdict,
            tokens_to_store,
        } = unrefreshed;
        let (name, reason) = (session.provider(), error.reason());
        let class = error.class();
        let wait = match verdict {
            Verdict::GrantEnded => return self.end_session(session, &error).await,
            Verdict::OperatorMustAct => {
                self.metrics.refresh(name, "alarm", reason);
                log_operator_must_act(&session, &error);
                // The operator may have changed the client secret at the provider, but not yet in
                // the settings of the gateway. After the operator corrects the settings, the next
                // attempt can succeed, so the pause is short.
                self.backoffs.next_pause(session.key())
            }
            Verdict::Temporary => {
                self.metrics.refresh(name, "kept", reason);
                log_temporary_failure(&session, &error);
                class.retry_after.map_or_else(
                    || self.backoffs.next_pause(session.key()),
                    // If the provider asks for a pause of zero, the minimum prevents too many
                    // requests to the provider. If the provider asks for a pause of several hours,
                    // the gateway waits only for the maximum, so the user can use the app again
                    // sooner.
                    |asked| asked.clamp(FIRST_PAUSE, LONGEST_ASKED),
                )
            }
        };
        // The gateway sent no request to the provider, so the error is not counted as a failure of
        // this session.
        if class.passes && class.sent == Sent::Nothing {
            self.postpone(&session, Reason::at_provider(reason), wait);
        } else {
            self.note_failure(&session, Reason::at_provider(reason), wait);
        }
        let Some(tokens) = tokens_to_store else {
            return Attempt::Failed(session);
        };
        // The previous refresh token is used up, so the new refresh token must not be lost.
        self.store(session, RefreshResult::RefreshTokenOnly(*tokens))
            .await
    }

    /// Ends the session, because the provider reports that the grant has ended. `session` is the
    /// version whose refresh token the gateway sent to the provider. If the session has a newer
    /// version now, this function does not end the session.
    async fn end_session(&self, session: Arc<Session>, error: &ExchangeError) -> Attempt {
        let why = EndReason::GrantEnded;
        match self.sessions.end_version(&session, why).await {
            Ok(EndedVersion::Newer(newest)) => return Attempt::Done(Outcome::Renewed(newest)),
            Ok(EndedVersion::Ended) => {}
            Err(error) => return self.not_stored(session, &error, "ended"),
        }
        self.backoffs.forget(session.key());
        self.metrics
            .refresh(session.provider(), "ended", error.reason());
        log_ended(&session, error);
        Attempt::Done(Outcome::Ended)
    }

    pub(super) fn not_stored(
        &self,
        session: Arc<Session>,
        error: &StoreError,
        what: &'static str,
    ) -> Attempt {
        let failure = store_failure(error, what);
        let pause = self.backoffs.next_pause(session.key()).min(STORE_PAUSE);
        self.note_failure(&session, failure.reason, pause);
        Attempt::Failed(session)
    }

    /// Counts a failed attempt to refresh a session. The next attempt to refresh the session starts
    /// only after the duration `wait`.
    pub(super) fn note_failure(&self, session: &Session, reason: Reason, wait: Duration) {
        let now = self.clock.now();
        self.backoffs
            .add_failure(session.key(), reason, now.plus(wait), now);
    }

    /// Delays the next refresh of a session, but does not count a failed refresh.
    pub(super) fn postpone(&self, session: &Session, reason: Reason, wait: Duration) {
        let now = self.clock.now();
        self.backoffs
            .postpone(session.key(), reason, now.plus(wait), now);
    }
}

#[cfg(test)]
#[path = "refresh_tests.rs"]
pub(super) mod tests;
