//! The process-wide data that a reload does not change, and the function that creates a site.

use std::sync::Arc;

use tokio::runtime::Handle;

use crate::access::Refresher;
use crate::clock::Clock;
use crate::config::{SiteConfig, registrations};
use crate::gateway::{self, Site, SiteParts};
use crate::login::{self, Login};
use crate::provider::Providers;
use crate::seal::KeyRing;
use crate::server::Readiness;
use crate::session::{self, Sessions, StartError};
use crate::telemetry::Metrics;

/// The data that all sites of the process share.
#[derive(Debug)]
pub(super) struct ProcessState {
    pub(super) site: gateway::ProcessState,
    pub(super) login: Arc<login::ProcessState>,
}

impl ProcessState {
    /// Opens the session store, and creates the other data of the process, such as empty metrics.
    pub(super) fn start(
        (settings, keys): (session::Settings, Arc<KeyRing>),
        providers: &Arc<Providers>,
        (metrics, clock): (Arc<Metrics>, &Clock),
        control: Handle,
    ) -> Result<Self, StartError> {
        let sessions = Sessions::start(settings, keys, &registrations(providers), clock)?;
        let sessions = Arc::new(sessions);
        let refresher = Arc::new(Refresher::new(
            Arc::clone(providers),
            Arc::clone(&sessions),
            Arc::clone(&metrics),
            clock.clone(),
            control.clone(),
        ));
        let login = login::ProcessState::new(
            Arc::clone(&sessions),
            Arc::clone(&metrics),
            clock.clone(),
            control,
        );
        Ok(Self {
            site: gateway::ProcessState {
                sessions,
                refresher,
                buffers: gateway::Budgets::new(&metrics),
                readiness: Readiness::default(),
                metrics,
                stream_counts: gateway::StreamCounts::default(),
                event_counts: gateway::StreamCounts::default(),
                refusal_warnings: gateway::RefusalWarnings::default(),
                clock: clock.clone(),
            },
            login: Arc::new(login),
        })
    }

    /// Builds a site from `config`.
    pub(super) fn site(&self, config: SiteConfig) -> Arc<Site> {
        let (login, keys) = config.login;
        let (providers, process) = (Arc::clone(&config.providers), Arc::clone(&self.login));
        let parts = SiteParts {
            settings: config.gateway,
            routes: config.routes,
            providers: config.providers,
            login: Arc::new(Login::new(login, keys, providers, process)),
            max_wait: config.max_wait,
        };
        Arc::new(Site::new(parts, self.site.clone()))
    }
}
