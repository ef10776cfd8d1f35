//! The part of the login flow that outlives a reload.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::Error;
use super::throttle::Throttle;
use super::used::UsedStates;
use crate::clock::Clock;
use crate::session::Sessions;
use crate::telemetry::Metrics;

/// The parts of the login flow that do not depend on the settings: sessions, metrics, clock, used
/// states and throttle. They outlive a reload.
#[derive(Debug)]
pub struct ProcessState {
    pub(super) sessions: Arc<Sessions>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    control: Handle,
    // Locked once per login, and never for the request of a signed-in user.
    #[expect(
        clippy::disallowed_types,
        reason = "locked for one look-up, in logins only"
    )]
    used: std::sync::Mutex<UsedStates>,
    pub(super) throttle: Throttle,
}

impl ProcessState {
    /// An empty state. `control` is the runtime of the control plane.
    pub fn new(
        sessions: Arc<Sessions>,
        metrics: Arc<Metrics>,
        clock: Clock,
        control: Handle,
    ) -> Self {
        #[expect(clippy::disallowed_types, reason = "see the field")]
        let used = std::sync::Mutex::default();
        Self {
            sessions,
            metrics,
            clock,
            control,
            used,
            throttle: Throttle::new(),
        }
    }

    /// Runs `work` as a task of the control plane, so that it finishes even when the browser closes
    /// the connection.
    pub(super) async fn on_control_plane<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        match self.control.spawn(work).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => Err(Error::Panicked),
            Err(_stopping) => Err(Error::Stopped),
        }
    }

    pub(super) fn used<T>(&self, work: impl FnOnce(&mut UsedStates) -> T) -> T {
        let used = self.used.lock();
        work(&mut used.unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}
