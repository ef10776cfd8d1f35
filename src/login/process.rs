//! What outlives a reload.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::Error;
use super::throttle::Throttle;
use super::used::UsedStates;
use crate::clock::Clock;
use crate::session::Sessions;
use crate::telemetry::Metrics;

/// What the flow needs and remembers whatever the settings are: it outlives a reload.
#[derive(Debug)]
pub struct ProcessState {
    pub(super) sessions: Arc<Sessions>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    control: Handle,
    // Taken once in a login, never on the path of a signed-in request.
    #[expect(
        clippy::disallowed_types,
        reason = "held for one look-up, in logins only"
    )]
    used: std::sync::Mutex<UsedStates>,
    pub(super) throttle: Throttle,
}

impl ProcessState {
    /// Nothing is remembered yet. `control` is the control plane's runtime.
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

    /// Runs work that must not stop when the browser goes away.
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
