//! Renewing access tokens: one refresh for each session, whoever asks and however many.
//!
//! A refresh is a task of the control plane. It is shared by everybody who needs its result and
//! belongs to none of them; its result is stored before anybody uses it. What cannot be stored is
//! remembered for a while, so that a refresh token that was used up is not used a second time.
//!
//! A refresh that fails for a reason that passes is tried again after a pause that grows; somebody
//! who waits stays as long as the next try comes within their patience. Nobody is signed out but by
//! the authorization server's own word that the grant has ended.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::flight::{Flights, Pilot, Progress, Seat};
use crate::clock::{Clock, Timestamp};
use crate::identity::Identity;
use crate::provider::{self, Provider, Refreshed, Refreshing, Unrefreshed, Verdict};
use crate::secret::{Secret, random};
use crate::session::{EndedVersion, Replaced, Session, SessionKey, Sessions, State, StoreError};
use crate::telemetry::{Metrics, TokenCall, chain};
use crate::token::TokenSet;

/// The first pause after a failure that passes, and the longest; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// The pause after a refusal that only an operator can mend.
const ALARM_PAUSE: Duration = Duration::from_secs(30);

/// A server may ask for a longer pause, up to this. What seems to be longer comes of a clock that
/// was set back.
const LONGEST_ASKED: Duration = Duration::from_mins(5);

/// For how long one claim keeps others from starting a refresh. They would only join it.
const CLAIM: Duration = Duration::from_secs(5);

/// For how long a result that could not be stored is remembered, and how many.
const REMEMBERED: Duration = Duration::from_secs(30);
const MOST_REMEMBERED: usize = 10_000;

/// How many sessions in trouble are remembered before the list is gone through.
const MANY_TROUBLES: usize = 10_000;

/// The longest that the end of the process waits for refreshes under way: a call's own deadline,
/// and what it takes to store its result.
const LAST_WAIT: Duration = Duration::from_secs(20);

/// What came of a refresh.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The session with the newest tokens that can be had.
    Renewed(Arc<Session>),
    /// The session has ended: the server said that the grant has, or somebody signed out.
    Ended,
    /// There are no new tokens now. The session stays.
    Failed(Failure),
}

/// Why there are no new tokens now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Failure {
    /// A stable code.
    pub(super) reason: &'static str,
    /// When it is tried again.
    pub(super) retry_after: Duration,
}

/// A pause before the next try.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    until: Instant,
    reason: &'static str,
}

/// What a session is that had to be fetched from the store.
pub(super) type Fetched = Result<Option<Arc<Session>>, Failure>;

/// Refreshes sessions, and fetches those that are not in memory. Shared by all workers.
#[derive(Debug)]
pub struct Refresher {
    providers: BTreeMap<Box<str>, Arc<Provider>>,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    clock: Clock,
    control: Handle,
    patience: Duration,
    refreshes: Arc<Flights<SessionKey, Rest, Outcome>>,
    fetches: Arc<Flights<SessionKey, Rest, Fetched>>,
    // Both are looked at when something is refreshed, never for a token that is fresh.
    #[expect(clippy::disallowed_types, reason = "held for one look-up")]
    troubles: std::sync::Mutex<HashMap<SessionKey, Trouble>>,
    #[expect(clippy::disallowed_types, reason = "held for one look-up")]
    unstored: std::sync::Mutex<HashMap<[u8; 32], Unstored>>,
    draining: watch::Sender<bool>,
}

/// Failures of one session in a row.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    failures: u32,
    until: Timestamp,
    reason: &'static str,
}

/// A result that could not be stored.
#[derive(Debug)]
struct Unstored {
    refreshed: Refreshed,
    until: Timestamp,
}

/// One try.
enum Try {
    Done(Outcome),
    /// This session may be tried again after a pause.
    Failed(Arc<Session>),
}

impl Refresher {
    /// Refreshes `sessions` at `providers` by tasks of `control`. A request waits for `patience` at
    /// the most.
    pub fn new(
        providers: BTreeMap<Box<str>, Arc<Provider>>,
        sessions: Arc<Sessions>,
        (metrics, clock): (Arc<Metrics>, Clock),
        (control, patience): (Handle, Duration),
    ) -> Self {
        #[expect(clippy::disallowed_types, reason = "see the fields")]
        let (troubles, unstored) = (std::sync::Mutex::default(), std::sync::Mutex::default());
        Self {
            providers,
            sessions,
            metrics,
            clock,
            patience,
            refreshes: Flights::new(control.clone()),
            fetches: Flights::new(control.clone()),
            control,
            troubles,
            unstored,
            draining: watch::Sender::new(false),
        }
    }

    /// Until when a request that comes now waits.
    pub(super) fn deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.patience).unwrap_or(now)
    }

    /// The provider that a session is of.
    pub(super) fn provider(&self, session: &Session) -> Option<&Arc<Provider>> {
        self.providers.get(session.provider())
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
    /// When the next try is further away than anybody waits.
    pub(super) fn join(
        self: &Arc<Self>,
        session: &Arc<Session>,
        now: Timestamp,
    ) -> Result<Seat<Rest, Outcome>, Failure> {
        if let Some(seat) = self.under_way(session.key()) {
            return Ok(seat);
        }
        match self.trouble(session.key(), now) {
            Some(failure) if failure.retry_after > self.patience => Err(failure),
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
                pilot.land(fetched.map_err(|error| unstorable(&error, "fetched")));
            }
        })
    }

    /// Waits until every refresh under way has come to its end and is stored, or until that takes
    /// longer than one can.
    ///
    /// # Cancel safety
    ///
    /// Cancelling it leaves what is under way to itself.
    pub async fn drained(&self) {
        self.draining.send_replace(true);
        let ended = timeout(LAST_WAIT, self.refreshes.none()).await;
        if ended.is_err() {
            tracing::error!(reason = "refresh_unfinished", "A refresh did not end");
        }
    }

    /// One flight: tries, and pauses in between as long as somebody waits.
    async fn fly(
        self: Arc<Self>,
        mut session: Arc<Session>,
        pilot: Pilot<SessionKey, Rest, Outcome>,
    ) {
        loop {
            if let Some(failure) = self.rest(session.key(), &pilot).await {
                session.postpone_refresh(self.clock.now().plus(failure.retry_after));
                return pilot.land(Outcome::Failed(failure));
            }
            match self.attempt(session).await {
                Try::Done(outcome) => return pilot.land(outcome),
                Try::Failed(same) => session = same,
            }
        }
    }

    /// Waits for the end of the pause that failures before have brought. Gives the failure when
    /// there is nobody to wait for.
    async fn rest(
        &self,
        key: &SessionKey,
        pilot: &Pilot<SessionKey, Rest, Outcome>,
    ) -> Option<Failure> {
        let failure = self.trouble(key, self.clock.now())?;
        let now = Instant::now();
        pilot.rest(Rest {
            until: now.checked_add(failure.retry_after).unwrap_or(now),
            reason: failure.reason,
        });
        let mut draining = self.draining.subscribe();
        tokio::select! {
            biased;
            () = pilot.deserted() => Some(failure),
            _draining = draining.wait_for(|draining| *draining) => Some(failure),
            () = sleep(failure.retry_after) => {
                pilot.go_on();
                None
            }
        }
    }

    /// One try. A session that somebody else has replaced meanwhile needs none.
    async fn attempt(&self, mut session: Arc<Session>) -> Try {
        let now = self.clock.now();
        match session.state() {
            State::Live => {}
            State::Ended => return Try::Done(Outcome::Ended),
            State::Superseded => match self.sessions.fetch(session.key()).await {
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
        let young = session.tokens().life().not_before.since(now);
        if !young.is_zero() {
            if !session.tokens().is_expired(now) {
                return Try::Done(Outcome::Renewed(session));
            }
            self.note(session.key(), "refreshed_just_now", young);
            return Try::Failed(session);
        }
        let Some(refresh_token) = session.tokens().refresh_token() else {
            self.note(session.key(), "no_refresh_token", ALARM_PAUSE);
            return Try::Failed(session);
        };
        let hash = fingerprint(refresh_token);
        match self.remembered(&hash) {
            Some(refreshed) => self.keep(session, hash, refreshed).await,
            None => self.ask(session, hash).await,
        }
    }

    /// Asks the provider, once.
    async fn ask(&self, session: Arc<Session>, hash: [u8; 32]) -> Try {
        let Some(provider) = self.provider(&session) else {
            // It was taken out of the settings while its sessions stayed in the store.
            self.note(session.key(), "unknown_provider", ALARM_PAUSE);
            return Try::Failed(session);
        };
        let asked = self.clock.instant();
        let refreshing = Refreshing {
            tokens: session.tokens(),
            identity: session.identity(),
        };
        let answered = provider.refresh(&refreshing, &self.clock).await;
        let sent_nothing =
            matches!(&answered, Err(unrefreshed) if unrefreshed.error.sent_nothing());
        if !sent_nothing {
            let took = self.clock.instant().saturating_duration_since(asked);
            let error = answered.as_ref().err();
            let result = error.map_or("ok", |unrefreshed| unrefreshed.error.reason());
            let name = session.provider();
            self.metrics
                .token_call(name, TokenCall::Refresh, result, took);
        }
        match answered {
            Ok(refreshed) => self.keep(session, hash, refreshed).await,
            Err(unrefreshed) => self.refused(session, unrefreshed).await,
        }
    }

    /// Stores new tokens before anybody uses them. Signing out wins.
    async fn keep(&self, session: Arc<Session>, hash: [u8; 32], refreshed: Refreshed) -> Try {
        let Refreshed { tokens, identity } = refreshed;
        let spare = copy(&tokens).map(|tokens| Refreshed {
            tokens,
            identity: identity.clone(),
        });
        let name = session.provider();
        match self.replace(&session, tokens, identity).await {
            Ok(Some(newest)) => {
                self.metrics.refresh(name, "renewed", "ok");
                let version = newest.version();
                tracing::debug!(
                    provider = name,
                    session.key = session.key().log_prefix(),
                    session.version = version,
                    "Session refreshed"
                );
                Try::Done(Outcome::Renewed(newest))
            }
            Ok(None) => {
                self.metrics.refresh(name, "ended", "signed_out");
                Try::Done(Outcome::Ended)
            }
            Err(error) => {
                if let Some(spare) = spare {
                    self.remember(hash, spare);
                }
                self.metrics.refresh(name, "kept", error.reason());
                self.not_stored(session, &error, "stored")
            }
        }
    }

    /// Replaces a session; nothing comes back when it has ended meanwhile.
    async fn replace(
        &self,
        session: &Arc<Session>,
        tokens: TokenSet,
        identity: Option<Identity>,
    ) -> Result<Option<Arc<Session>>, StoreError> {
        let replaced = self.sessions.replace(session, tokens, identity).await?;
        self.troubles().remove(session.key());
        Ok(match replaced {
            Replaced::Stored(newest) | Replaced::Newer(newest) => Some(newest),
            Replaced::Ended => None,
        })
    }

    /// What becomes of a session whose refresh failed.
    async fn refused(&self, session: Arc<Session>, unrefreshed: Unrefreshed) -> Try {
        let Unrefreshed {
            error,
            verdict,
            salvaged,
        } = unrefreshed;
        let (name, reason) = (session.provider(), error.reason());
        let wait = match verdict {
            Verdict::Fatal => return self.end(session, &error).await,
            Verdict::Ours => {
                self.metrics.refresh(name, "alarm", reason);
                say_ours(&session, &error);
                ALARM_PAUSE
            }
            Verdict::Passing => {
                self.metrics.refresh(name, "kept", reason);
                say_passing(&session, &error);
                let asked = error.retry_after();
                asked.map_or_else(
                    || jittered(self.next_pause(session.key())),
                    |asked| asked.clamp(FIRST_PAUSE, LONGEST_ASKED),
                )
            }
        };
        self.note(session.key(), reason, wait);
        let Some(tokens) = salvaged else {
            return Try::Failed(session);
        };
        // The refresh token before is used up: the one that came must not be lost.
        match self.sessions.replace(&session, *tokens, None).await {
            Ok(Replaced::Stored(newest) | Replaced::Newer(newest)) => Try::Failed(newest),
            Ok(Replaced::Ended) => Try::Done(Outcome::Ended),
            Err(error) => self.not_stored(session, &error, "stored"),
        }
    }

    /// The server says that the grant has ended. A session that somebody replaced meanwhile has
    /// another grant.
    async fn end(&self, session: Arc<Session>, error: &provider::Error) -> Try {
        match self.sessions.end_version(&session).await {
            Ok(EndedVersion::Newer(newest)) => return Try::Done(Outcome::Renewed(newest)),
            Ok(EndedVersion::Ended) => {}
            Err(error) => return self.not_stored(session, &error, "ended"),
        }
        self.troubles().remove(session.key());
        let (name, reason) = (session.provider(), error.reason());
        self.metrics.refresh(name, "ended", reason);
        tracing::info!(
            provider = name,
            session.key = session.key().log_prefix(),
            reason,
            error = chain(error),
            "Session ended by its provider"
        );
        Try::Done(Outcome::Ended)
    }

    fn not_stored(&self, session: Arc<Session>, error: &StoreError, what: &'static str) -> Try {
        let failure = unstorable(error, what);
        self.note(session.key(), failure.reason, failure.retry_after);
        Try::Failed(session)
    }

    fn next_pause(&self, key: &SessionKey) -> Duration {
        pause(
            self.troubles()
                .get(key)
                .map_or(0, |trouble| trouble.failures),
        )
    }

    /// The pause that a session is in.
    fn trouble(&self, key: &SessionKey, now: Timestamp) -> Option<Failure> {
        let trouble = *self.troubles().get(key)?;
        let retry_after = trouble.until.since(now);
        let reason = trouble.reason;
        (!retry_after.is_zero() && retry_after <= LONGEST_ASKED).then_some(Failure {
            reason,
            retry_after,
        })
    }

    fn note(&self, key: &SessionKey, reason: &'static str, wait: Duration) {
        let now = self.clock.now();
        let mut troubles = self.troubles();
        if troubles.len() >= MANY_TROUBLES {
            // Those whose pause ended long ago are of sessions that nobody uses.
            troubles.retain(|_, trouble| trouble.until.plus(LONGEST_ASKED) > now);
        }
        let failures = troubles.get(key).map_or(0, |trouble| trouble.failures);
        let trouble = Trouble {
            failures: failures.saturating_add(1),
            until: now.plus(wait),
            reason,
        };
        troubles.insert(*key, trouble);
    }

    /// The result of an earlier refresh with this very token, which could not be stored.
    fn remembered(&self, hash: &[u8; 32]) -> Option<Refreshed> {
        let unstored = self.unstored().remove(hash)?;
        (unstored.until > self.clock.now()).then_some(unstored.refreshed)
    }

    fn remember(&self, hash: [u8; 32], refreshed: Refreshed) {
        let now = self.clock.now();
        let mut unstored = self.unstored();
        unstored.retain(|_, result| result.until > now);
        if unstored.len() < MOST_REMEMBERED {
            let until = now.plus(REMEMBERED);
            unstored.insert(hash, Unstored { refreshed, until });
        }
    }

    fn troubles(&self) -> MutexGuard<'_, HashMap<SessionKey, Trouble>> {
        let troubles = self.troubles.lock();
        troubles.unwrap_or_else(PoisonError::into_inner)
    }

    fn unstored(&self) -> MutexGuard<'_, HashMap<[u8; 32], Unstored>> {
        let unstored = self.unstored.lock();
        unstored.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits in a seat until `deadline`, or for as long as it makes sense.
///
/// # Cancel safety
///
/// Cancel safe: what is waited for goes on.
pub(super) async fn wait<T: Clone>(
    mut seat: Seat<Rest, T>,
    deadline: Instant,
) -> Result<T, Failure> {
    let mut news = tokio::time::timeout_at(deadline, seat.news()).await;
    loop {
        match news {
            Ok(Progress::Landed(end)) => return Ok(end),
            Ok(Progress::Resting(rest)) if rest.until > deadline => {
                return Err(Failure {
                    reason: rest.reason,
                    retry_after: rest.until.saturating_duration_since(Instant::now()),
                });
            }
            Ok(Progress::Resting(_) | Progress::UnderWay) => {
                news = tokio::time::timeout_at(deadline, seat.other_news()).await;
            }
            Ok(Progress::Lost) => {
                return Err(Failure {
                    reason: "refresh_lost",
                    retry_after: FIRST_PAUSE,
                });
            }
            Err(_elapsed) => {
                return Err(Failure {
                    reason: "refresh_slow",
                    retry_after: FIRST_PAUSE,
                });
            }
        }
    }
}

fn unstorable(error: &StoreError, what: &'static str) -> Failure {
    let reason = error.reason();
    tracing::error!(
        reason,
        error = chain(error),
        "A session could not be {what}"
    );
    Failure {
        reason,
        retry_after: FIRST_PAUSE,
    }
}

fn say_ours(session: &Session, error: &provider::Error) {
    tracing::error!(
        provider = session.provider(),
        session.key = session.key().log_prefix(),
        reason = error.reason(),
        error = chain(error),
        "Session not refreshed until somebody mends this; it is kept"
    );
}

/// What was not even sent was said by the call before it.
fn say_passing(session: &Session, error: &provider::Error) {
    let (provider, reason) = (session.provider(), error.reason());
    let (key, cause) = (session.key().log_prefix(), chain(error));
    let said = "Session not refreshed yet";
    if error.sent_nothing() {
        tracing::debug!(provider, session.key = key, reason, error = cause, "{said}");
    } else {
        tracing::warn!(provider, session.key = key, reason, error = cause, "{said}");
    }
}

/// The same tokens once more.
fn copy(tokens: &TokenSet) -> Option<TokenSet> {
    let refresh_token = tokens.refresh_token().map(|token| token.expose().as_str());
    let copy = TokenSet::new(tokens.access_token(), refresh_token, *tokens.life());
    Some(
        copy.ok()?
            .with_authentication(tokens.authentication().cloned()),
    )
}

fn fingerprint(refresh_token: &Secret<String>) -> [u8; 32] {
    let mut hash = [0; 32];
    let digest = digest(&SHA256, refresh_token.expose().as_bytes());
    hash.copy_from_slice(digest.as_ref());
    hash
}

/// The pause after so many failures before this one.
fn pause(failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE)
}

/// Between half of a pause and all of it, so that those who failed together do not try together.
fn jittered(pause: Duration) -> Duration {
    // Without random bytes all try at once, which is no worse than without this.
    let [byte] = random::<1>().unwrap_or_default();
    pause.mul_f64(0.5 + f64::from(byte) / 510.0)
}
