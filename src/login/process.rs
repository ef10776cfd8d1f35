//! The data that the login flow keeps when the settings are reloaded.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::simultaneous::SimultaneousLogins;
use super::throttle::Throttle;
use super::{Error, Login};
use crate::clock::Clock;
use crate::session::Sessions;
use crate::telemetry::{EventLimiter, Metrics};

/// The longest time that a drain waits for revocations: one call to the provider, the first pause,
/// and one more call.
const REVOCATION_WAIT: Duration = Duration::from_secs(11);

/// The maximum number of logout tokens that the gateway verifies at the same time for clients that
/// have sent too many refused logout tokens.
const SLOW_VERIFICATIONS: usize = 8;

/// The data of the login flow that stays the same after a reload, such as sessions, metrics and
/// clock.
#[derive(Debug)]
pub struct ProcessState {
    pub(super) sessions: Arc<Sessions>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    control: Handle,
    /// The number of running revocations.
    revocations: watch::Sender<usize>,
    /// Compares the logins that end at the same time.
    pub(super) simultaneous: SimultaneousLogins,
    /// Counts the refused logout tokens.
    pub(super) refused_tokens: Throttle,
    /// Counts the refused requests to the webhook.
    pub(super) refused_webhooks: Throttle,
    /// Limits the verifications for clients that have sent too many refused logout tokens.
    pub(super) slow_verifications: Arc<Semaphore>,
    /// Limits the searches for an email address to one at a time, because each search reads all
    /// sessions.
    pub(super) email_searches: Semaphore,
    /// Remembers which failures of logouts the gateway has logged in the current minute.
    pub(super) failed_ends: EventLimiter,
    /// Remembers for which providers the gateway has logged in the current minute that logins wait.
    pub(super) many_codes: EventLimiter,
    /// Remembers which hints about logins the gateway has logged in the current period of 24 hours.
    pub(super) hints: EventLimiter,
}

impl ProcessState {
    /// Creates the data of the login flow when the process starts. `control` is the runtime of the
    /// control plane.
    pub fn new(
        sessions: Arc<Sessions>,
        metrics: Arc<Metrics>,
        clock: Clock,
        control: Handle,
    ) -> Self {
        Self {
            sessions,
            metrics,
            clock,
            control,
            revocations: watch::Sender::default(),
            simultaneous: SimultaneousLogins::default(),
            refused_tokens: Throttle::new(),
            refused_webhooks: Throttle::new(),
            slow_verifications: Arc::new(Semaphore::new(SLOW_VERIFICATIONS)),
            email_searches: Semaphore::new(1),
            failed_ends: EventLimiter::new(Duration::from_mins(1)),
            many_codes: EventLimiter::new(Duration::from_mins(1)),
            hints: EventLimiter::new(Duration::from_hours(24)),
        }
    }

    /// Starts the revocation `work` as a task of the control plane, and does not wait for its end.
    pub(super) fn revoke(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let running = Revocation::begin(self);
        drop(self.control.spawn(async move {
            work.await;
            drop(running);
        }));
    }

    /// Waits until all revocations have ended, but not longer than [`REVOCATION_WAIT`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, running revocations continue.
    pub(crate) async fn drained(&self) {
        let mut count = self.revocations.subscribe();
        let ended = timeout(REVOCATION_WAIT, count.wait_for(|count| *count == 0)).await;
        if ended.is_err() {
            let running = *self.revocations.borrow();
            tracing::warn!(
                running,
                "Refresh tokens are not revoked, because the process ends"
            );
        }
    }

    /// Runs `work` as a task of the control plane, so that `work` finishes even when the browser
    /// closes the connection.
    pub(super) async fn on_control_plane<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        match self.control.spawn(work).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => Err(Error::Panicked),
            // The task was cancelled, because the runtime is shutting down.
            Err(_stopping) => Err(Error::Stopped),
        }
    }
}

/// Counts a running revocation, or a task that may start revocations, until the value is dropped.
pub(super) struct Revocation(Arc<ProcessState>);

impl Revocation {
    pub(super) fn begin(process: &Arc<ProcessState>) -> Self {
        let increase = |count: &mut usize| *count = count.saturating_add(1);
        process.revocations.send_modify(increase);
        Self(Arc::clone(process))
    }
}

impl Drop for Revocation {
    fn drop(&mut self) {
        let decrease = |count: &mut usize| *count = count.saturating_sub(1);
        self.0.revocations.send_modify(decrease);
    }
}

impl Login {
    /// Returns true if the gateway has not logged a failure to end sessions with this reason in the
    /// current minute. After this call, the gateway treats the failure as logged.
    pub(crate) fn failed_end_is_due(&self, reason: &str) -> bool {
        let now = Duration::from_millis(self.process.clock.now().as_millis());
        self.process.failed_ends.is_due(reason, now)
    }

    /// Returns true if the gateway has not logged `hint` today. After this call, the gateway treats
    /// `hint` as logged today.
    pub(crate) fn hint_is_due(&self, hint: (&str, &str)) -> bool {
        let now = Duration::from_millis(self.process.clock.now().as_millis());
        self.process.hints.is_due(hint, now)
    }
}
