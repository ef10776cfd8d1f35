//! Renewing access tokens: one refresh for each session, whoever asks and however many.
//!
//! A refresh is a task of the control plane. It is shared by everybody who needs its result and
//! belongs to none of them; its result is stored before anybody uses it. What cannot be stored is
//! kept, and its refresh goes on, whoever waits, until it is stored or the session has ended: a
//! refresh token that was used up is not used a second time.
//!
//! A refresh that fails for a reason that passes is tried again after a pause that grows; somebody
//! who waits stays as long as the next try comes within their patience. Nobody is signed out but by
//! the authorization server's own word that the grant has ended.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use super::flight::{Deserted, Flights, Pilot, Seat};
use super::outcome::{Fetched, Outcome, Rest};
use super::report::{
    FlightLog, say_ended, say_lost, say_ours, say_passing, say_refreshed, unstorable,
};
use super::trouble::{FIRST_PAUSE, LONGEST_ASKED, Reason, SessionFailure, Troubles};
use super::unstored::{Brought, Kept, Unstored};
use crate::clock::{Clock, Timestamp};
use crate::provider::{
    ExchangeError, Provider, Providers, Refreshed, Refreshing, Sent, Unrefreshed, Verdict,
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
const LAST_WAIT: Duration = Duration::from_secs(65);

/// A refresh that goes on with another try at once.
const GOES_ON: SessionFailure = SessionFailure {
    reason: Reason::at_provider("refresh_slow"),
    retry_after: Duration::ZERO,
};

/// How the pause before a try ended.
enum Pause {
    /// The next try is due.
    Over,
    /// Nobody waits for it, and nothing is to be stored.
    Deserted(SessionFailure),
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
    refreshes: Arc<Flights<SessionKey, Rest, Outcome>>,
    fetches: Arc<Flights<SessionKey, Rest, Fetched>>,
    troubles: Troubles,
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
            troubles: Troubles::default(),
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
    pub(super) fn begin(self: &Arc<Self>, session: &Arc<Session>, now: Timestamp) {
        if session.claim_refresh(now, now.plus(CLAIM)) {
            drop(self.refresh(session));
        }
    }

    /// A seat in the refresh of a session whose token cannot be used.
    ///
    /// # Errors
    ///
    /// When the next try comes later than after `patience`.
    pub(super) fn join(
        self: &Arc<Self>,
        session: &Arc<Session>,
        now: Timestamp,
        patience: Duration,
    ) -> Result<Seat<Rest, Outcome>, SessionFailure> {
        if let Some(seat) = self.under_way(session.key()) {
            return Ok(seat);
        }
        match self.troubles.find(session.key(), now) {
            Some(failure) if failure.retry_after > patience => Err(failure),
            Some(_) | None => Ok(self.refresh(session)),
        }
    }

    /// A seat in the refresh of a session, if one is under way.
    pub(super) fn under_way(&self, key: &SessionKey) -> Option<Seat<Rest, Outcome>> {
        self.refreshes.seat(key)
    }

    fn refresh(self: &Arc<Self>, session: &Arc<Session>) -> Seat<Rest, Outcome> {
        self.refreshes.join(*session.key(), |pilot| {
            let (refresher, session) = (Arc::clone(self), Arc::clone(session));
            async move { refresher.fly(session, pilot).await }
        })
    }

    /// A seat where a session is fetched that is not in memory.
    pub(super) fn fetch(self: &Arc<Self>, key: SessionKey) -> Seat<Rest, Fetched> {
        self.fetches.join(key, |pilot| {
            let refresher = Arc::clone(self);
            async move {
                let fetched = refresher.sessions.fetch(&key).await;
                pilot.land(match fetched {
                    Ok(Some(_session)) => Fetched::InMemory,
                    Ok(None) => Fetched::Unknown,
                    Err(error) => Fetched::Failed(unstorable(&error, "fetched")),
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
        let ended = timeout(LAST_WAIT, self.refreshes.none()).await;
        if ended.is_err() {
            tracing::error!(reason = "refresh_unfinished", "A refresh did not end");
        }
    }

    /// One flight: tries, and pauses in between as long as somebody waits or something is to be
    /// stored.
    async fn fly(
        self: Arc<Self>,
        mut session: Arc<Session>,
        mut pilot: Pilot<SessionKey, Rest, Outcome>,
    ) {
        // Until nobody can meet this flight any more.
        let _counted = self.metrics.refreshing();
        let mut log = FlightLog {
            metrics: &self.metrics,
            provider: session.provider().into(),
            key: *session.key(),
            landed: false,
        };
        let mut least = Duration::ZERO;
        let outcome = loop {
            let began = self.clock.now();
            match self.rest(&session, least, &pilot).await {
                Pause::Over => {}
                Pause::Deserted(failure) => {
                    session.postpone_refresh(began.plus(failure.retry_after));
                    match pilot.land_deserted(Outcome::Failed(failure)) {
                        Deserted::Yes => {
                            log.landed = true;
                            return;
                        }
                        Deserted::No(joined) => pilot = joined,
                    }
                    continue;
                }
                Pause::Draining(failure) => {
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
        log.landed = true;
        pilot.land(outcome);
    }

    /// Waits until the pause after earlier failures is over, and for `least` at the least.
    async fn rest(
        &self,
        session: &Session,
        least: Duration,
        pilot: &Pilot<SessionKey, Rest, Outcome>,
    ) -> Pause {
        let mut failure = self
            .troubles
            .find(session.key(), self.clock.now())
            .unwrap_or(GOES_ON);
        failure.retry_after = failure.retry_after.max(least);
        if failure.retry_after.is_zero() {
            return Pause::Over;
        }
        pilot.rest(Rest {
            until: self.clock.now().plus(failure.retry_after),
            reason: failure.reason,
        });
        let unstored = self.is_unstored(session);
        let mut draining = self.draining.subscribe();
        tokio::select! {
            biased;
            () = pilot.deserted(), if !unstored => Pause::Deserted(failure),
            _draining = draining.wait_for(|draining| *draining) => Pause::Draining(failure),
            () = self.clock.sleep(failure.retry_after) => {
                pilot.go_on();
                Pause::Over
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
        let young = session.tokens().life().youth(now);
        if !young.is_zero() {
            if !session.tokens().is_expired(now) {
                return Try::Done(Outcome::Renewed(session));
            }
            self.hold(&session, Reason::at_provider("refreshed_just_now"), young);
            return Try::Failed(session);
        }
        let Some(refresh_token) = session.tokens().refresh_token() else {
            self.note(
                &session,
                Reason::at_provider("no_refresh_token"),
                ALARM_PAUSE,
            );
            return Try::Failed(session);
        };
        match self.unstored.take(refresh_token) {
            Some(brought) => self.keep(session, brought).await,
            None => self.ask(session).await,
        }
    }

    /// Asks the provider, once.
    async fn ask(&self, session: Arc<Session>) -> Try {
        let Some(provider) = self.provider(&session) else {
            // It was taken out of the settings while its sessions stayed in the store.
            self.note(
                &session,
                Reason::at_provider("unknown_provider"),
                ALARM_PAUSE,
            );
            return Try::Failed(session);
        };
        let asked = self.clock.instant();
        let refreshing = Refreshing {
            tokens: session.tokens(),
            identity: session.identity(),
        };
        let answered = provider.refresh(&refreshing, &self.clock).await;
        let sent = |unrefreshed: &Unrefreshed| unrefreshed.error.class().sent;
        if answered.as_ref().err().map(sent) != Some(Sent::Nothing) {
            let took = self.clock.instant().saturating_duration_since(asked);
            let error = answered.as_ref().err();
            let result = error.map_or("ok", |unrefreshed| unrefreshed.error.reason());
            let name = session.provider();
            self.metrics
                .token_call(name, TokenCall::Refresh, result, took);
        }
        match answered {
            Ok(refreshed) => self.keep(session, Brought::New(Box::new(refreshed))).await,
            Err(unrefreshed) => self.refused(session, unrefreshed).await,
        }
    }

    /// Stores what came before anybody uses it. Signing out wins.
    async fn keep(&self, session: Arc<Session>, brought: Brought) -> Try {
        let spare = brought.copy();
        let salvaged = matches!(brought, Brought::Salvaged(_));
        let Refreshed { tokens, identity } = brought.into();
        let name = session.provider();
        match self.sessions.replace(&session, tokens, identity).await {
            // It has a refresh token again, and still no access token.
            Ok(Replaced::Stored(newest) | Replaced::Newer(newest)) if salvaged => {
                Try::Failed(newest)
            }
            Ok(Replaced::Stored(newest) | Replaced::Newer(newest)) => {
                self.troubles.forget(session.key());
                self.metrics.refresh(name, "renewed", "ok");
                say_refreshed(&newest);
                Try::Done(Outcome::Renewed(newest))
            }
            Ok(Replaced::Ended) => {
                self.troubles.forget(session.key());
                self.metrics.refresh(name, "ended", "signed_out");
                Try::Done(Outcome::Ended)
            }
            Err(error) => {
                self.put_by(&session, spare);
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
    fn put_by(&self, session: &Session, spare: Option<Brought>) {
        let used = session.tokens().refresh_token();
        let kept = used
            .zip(spare)
            .map(|(used, spare)| self.unstored.keep(used, spare));
        if kept != Some(Kept::Yes) {
            say_lost(session);
        }
    }

    /// What becomes of a session whose refresh failed.
    async fn refused(&self, session: Arc<Session>, unrefreshed: Unrefreshed) -> Try {
        let Unrefreshed {
            error,
            verdict,
            salvaged,
        } = unrefreshed;
        let (name, reason) = (session.provider(), error.reason());
        let class = error.class();
        let wait = match verdict {
            Verdict::Fatal => return self.end(session, &error).await,
            Verdict::Ours => {
                self.metrics.refresh(name, "alarm", reason);
                say_ours(&session, &error);
                // A new secret that reaches the server a moment before us is mended at once.
                self.troubles.next_pause(session.key())
            }
            Verdict::Passing => {
                self.metrics.refresh(name, "kept", reason);
                say_passing(&session, &error);
                class.retry_after.map_or_else(
                    || self.troubles.next_pause(session.key()),
                    |asked| asked.clamp(FIRST_PAUSE, LONGEST_ASKED),
                )
            }
        };
        // A call that was held back is no failure of this session's.
        if class.passes && class.sent == Sent::Nothing {
            self.hold(&session, Reason::at_provider(reason), wait);
        } else {
            self.note(&session, Reason::at_provider(reason), wait);
        }
        let Some(tokens) = salvaged else {
            return Try::Failed(session);
        };
        // The refresh token before is used up: the one that came must not be lost.
        self.keep(session, Brought::Salvaged(*tokens)).await
    }

    /// The server says that the grant has ended. A session that somebody replaced meanwhile has
    /// another grant.
    async fn end(&self, session: Arc<Session>, error: &ExchangeError) -> Try {
        let why = EndReason::GrantEnded;
        match self.sessions.end_version(&session, why).await {
            Ok(EndedVersion::Newer(newest)) => return Try::Done(Outcome::Renewed(newest)),
            Ok(EndedVersion::Ended) => {}
            Err(error) => return self.not_stored(session, &error, "ended"),
        }
        self.troubles.forget(session.key());
        self.metrics
            .refresh(session.provider(), "ended", error.reason());
        say_ended(&session, error);
        Try::Done(Outcome::Ended)
    }

    fn not_stored(&self, session: Arc<Session>, error: &StoreError, what: &'static str) -> Try {
        let failure = unstorable(error, what);
        let pause = self.troubles.next_pause(session.key()).min(STORE_PAUSE);
        self.note(&session, failure.reason, pause);
        Try::Failed(session)
    }

    /// Notes a failure of a session, after which it is not tried for a while.
    fn note(&self, session: &Session, reason: Reason, wait: Duration) {
        let now = self.clock.now();
        self.troubles
            .note(session.key(), reason, now.plus(wait), now);
    }

    /// Notes that a session is not tried for a while, though nothing has failed.
    fn hold(&self, session: &Session, reason: Reason, wait: Duration) {
        let now = self.clock.now();
        self.troubles
            .hold(session.key(), reason, now.plus(wait), now);
    }
}

#[cfg(test)]
#[path = "refresh_tests.rs"]
pub(super) mod tests;
