//! One running gateway: the rooms brought together.
//!
//! [`Instance::start`] binds the listeners, starts the control plane (one small multi-thread
//! runtime for everything that talks to a provider) and the workers (one current-thread runtime
//! each), and gives back a handle that drains them.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::access::Refresher;
use crate::admin::{Admin, Readiness};
use crate::clock::Clock;
use crate::config::{Config, SiteConfig};
use crate::gateway::{self, Site, SiteParts, Worker};
use crate::login::{self, Login};
use crate::provider::Providers;
use crate::seal::KeyRing;
use crate::server::{self, Drained, Endpoint, Listener, Workers};
use crate::session::{self, Maintained, Sessions, StoreError};
use crate::telemetry::{Metrics, chain};
use crate::tls::{Acceptor, Refreshed};

/// Threads of the control plane: calls of providers wait, they do not compute.
const CONTROL_THREADS: usize = 2;

/// Between two full batches of expired sessions: workers get the cache in between.
const BETWEEN_BATCHES: Duration = Duration::from_millis(10);

/// How often certificates are looked at.
const CERTIFICATES: Duration = Duration::from_secs(10);

/// Why an instance did not start. Side: gateway.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The control plane's threads could not be started.
    #[error("the control plane cannot start")]
    Control(#[source] std::io::Error),
    /// A listener or a worker could not be started.
    #[error("the server cannot start")]
    Server(#[from] server::Error),
    /// Sessions could not be kept.
    #[error("there is no place for sessions")]
    Sessions(#[from] session::StartError),
}

/// A running gateway. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct Instance {
    address: SocketAddr,
    operations_address: Option<SocketAddr>,
    workers: Workers,
    operations: Option<Workers>,
    readiness: Readiness,
    lasting: Lasting,
    sites: watch::Sender<Arc<Site>>,
    control: Control,
}

/// What every site of the process shares.
#[derive(Debug)]
struct Lasting {
    site: gateway::Lasting,
    login: Arc<login::Lasting>,
}

impl Lasting {
    /// Opens the store of sessions, and starts with nothing remembered otherwise.
    fn start(
        (settings, keys): (session::Settings, KeyRing),
        providers: &Arc<Providers>,
        (metrics, clock): (Arc<Metrics>, &Clock),
        control: Handle,
    ) -> Result<Self, Error> {
        let fingerprints = providers.iter();
        let fingerprints = fingerprints.map(|(name, it)| (name.clone(), it.fingerprint()));
        let sessions = Sessions::start(settings, keys, &fingerprints.collect(), clock.now())?;
        let sessions = Arc::new(sessions);
        let refresher = Arc::new(Refresher::new(
            Arc::clone(providers),
            Arc::clone(&sessions),
            (Arc::clone(&metrics), clock.clone()),
            control.clone(),
        ));
        let login = login::Lasting::new(
            Arc::clone(&sessions),
            Arc::clone(&metrics),
            clock.clone(),
            control,
        );
        Ok(Self {
            site: gateway::Lasting {
                sessions,
                refresher,
                metrics,
                clock: clock.clone(),
            },
            login: Arc::new(login),
        })
    }

    /// Makes the site of these settings.
    fn site(&self, config: SiteConfig) -> Arc<Site> {
        let (login, keys) = config.login;
        let (providers, lasting) = (Arc::clone(&config.providers), Arc::clone(&self.login));
        let parts = SiteParts {
            settings: config.gateway,
            routes: config.routes,
            providers: config.providers,
            login: Arc::new(Login::new(login, keys, providers, lasting)),
            patience: config.patience,
        };
        Arc::new(Site::new(parts, self.site.clone()))
    }
}

/// The control plane's runtime; dropped without waiting, since it may be dropped inside another.
#[derive(Debug)]
struct Control(Option<Runtime>);

impl Control {
    fn start() -> std::io::Result<(Self, Handle)> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder
            .worker_threads(CONTROL_THREADS)
            .thread_name("control");
        let runtime = builder.enable_all().build()?;
        let handle = runtime.handle().clone();
        Ok((Self(Some(runtime)), handle))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Instance {
    /// Starts serving. Blocks until all workers do.
    ///
    /// # Errors
    ///
    /// [`Error`]; what had started is stopped again.
    pub fn start(config: Config, clock: &Clock) -> Result<Self, Error> {
        let listener = Listener::bind(config.listen)?;
        let address = listener.local_addr()?;
        let operations = config.operations.map(Listener::bind).transpose()?;
        let operations_address = operations.as_ref().map(Listener::local_addr).transpose()?;
        let (control, handle) = Control::start().map_err(Error::Control)?;
        announce(&config);
        look_after(&handle, &config, clock);
        let metrics = Arc::new(Metrics::default());
        let endpoint = match config.tls.clone() {
            Some(acceptor) => Endpoint::tls(listener, acceptor),
            None => Endpoint::plain(listener),
        };
        let (server, count) = (config.server, config.workers);
        let shared = (Arc::clone(&metrics), clock);
        let providers = &config.site.providers;
        let lasting = Lasting::start(config.session, providers, shared, handle.clone())?;
        let readiness = Readiness::default();
        handle.spawn(keep_house(lasting.site.clone(), readiness.clone()));
        let (sites, site) = watch::channel(lasting.site(config.site));
        let make = move || Worker::new(site.clone());
        let workers = Workers::start("worker", count, vec![endpoint], server, make)?;
        let admin = Admin::new(metrics, readiness.clone());
        let operations = operations
            .map(|listener| operate(listener, admin))
            .transpose()?;
        readiness.ready();
        // Not before: a file of sessions that is refused ends the start.
        let also = operations_address.map(tracing::field::display);
        tracing::info!(server.address = %address, operations = also, "Listening");
        Ok(Self {
            address,
            operations_address,
            workers,
            operations,
            readiness,
            lasting,
            sites,
            control,
        })
    }

    /// The public address, with the port that was chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The operations listener's address.
    pub fn operations_address(&self) -> Option<SocketAddr> {
        self.operations_address
    }

    /// Stops accepting, finishes what is in flight, and tells how that went.
    ///
    /// # Cancel safety
    ///
    /// Cancelling it cuts what is in flight.
    pub async fn drain(self) -> Drained {
        self.readiness.draining();
        tracing::info!("Draining");
        let drained = self.workers.drained().await;
        // What is still being refreshed is stored before the store closes.
        self.lasting.site.refresher.drained().await;
        if let Some(operations) = self.operations {
            operations.drained().await;
        }
        if let Err(error) = self.lasting.site.sessions.close().await {
            let reason = error.reason();
            tracing::error!(reason, error = chain(&error), "Sessions not closed");
        }
        drop(self.control);
        tracing::info!(
            requests.cut = drained.cut,
            workers.lost = drained.lost,
            "Stopped"
        );
        drained
    }
}

/// Starts the tasks that look after what lies outside: providers and certificate files.
fn look_after(control: &Handle, config: &Config, clock: &Clock) {
    for provider in config.site.providers.values() {
        control.spawn(provider.maintain(clock.clone()));
    }
    if let Some(acceptor) = &config.tls {
        control.spawn(keep_certificates(acceptor.clone()));
    }
}

/// Starts the operations listener on a thread of its own, so that it answers when all workers are
/// busy.
fn operate(listener: Listener, admin: Admin) -> Result<Workers, server::Error> {
    let endpoints = vec![Endpoint::plain(listener)];
    let make = move || admin.clone();
    Workers::start(
        "operations",
        NonZeroUsize::MIN,
        endpoints,
        server::Settings::default(),
        make,
    )
}

/// Says what an operator should know at the start: what is open above all.
fn announce(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if config.random_keys {
        tracing::warn!(
            key = "login.state_key_file",
            "No key file is set, so logins under way start again after a restart"
        );
    }
    for route in config.site.routes.iter().filter(|route| route.is_public()) {
        tracing::warn!(
            route = route.name(),
            prefix = route.prefix(),
            "Route is open to everybody"
        );
    }
    for url in config.site.gateway.public_urls.iter() {
        for provider in config.site.providers.keys() {
            let redirect_uri = config.site.login.0.redirection.redirect_uri(url, provider);
            tracing::info!(%url, provider = &**provider, redirect_uri, "Serving");
        }
    }
}

/// Frees expired sessions a batch at a time, and brings the figures up to date. Notices when the
/// thread that keeps sessions is gone: nobody can sign in or out any more, and only a restart helps.
async fn keep_house(lasting: gateway::Lasting, readiness: Readiness) {
    let gateway::Lasting {
        sessions,
        metrics,
        clock,
        ..
    } = lasting;
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // What could not be written was reported, and is tried again in a second.
        let maintained = loop {
            match sessions.maintain(clock.now()).await {
                Ok(Maintained::More) => sleep(BETWEEN_BATCHES).await,
                end @ (Ok(Maintained::Done) | Err(_)) => break end,
            }
        };
        // Closed is what it is at the end of a drain, and at no other time.
        if matches!(maintained, Err(StoreError::Closed)) && readiness.broken() {
            let reason = "sessions_lost";
            tracing::error!(
                reason,
                "Sessions can no longer be changed; only a restart helps"
            );
        }
        metrics.sessions(sessions.count(), sessions.pushed_out());
    }
}

/// Reads certificate and key again when they change; bad ones are reported and the old ones kept.
async fn keep_certificates(acceptor: Acceptor) {
    let mut ticks = interval(CERTIFICATES);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let acceptor = acceptor.clone();
        let refreshed = tokio::task::spawn_blocking(move || acceptor.refresh()).await;
        match refreshed {
            Ok(Ok(Refreshed::Replaced)) => tracing::info!("Certificate replaced"),
            Ok(Ok(Refreshed::Unchanged)) => {}
            Ok(Err(error)) => {
                tracing::error!(
                    error = chain(&error),
                    "Certificate not replaced, the old one stays"
                );
            }
            Err(_stopping) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::seal::{Keys, Purpose};
    use crate::session::{Registrations, Settings, StoreSettings};

    #[tokio::test]
    async fn a_process_whose_sessions_are_lost_says_that_it_is_broken() {
        let settings = Settings {
            idle: Duration::from_hours(1),
            absolute: Duration::from_hours(8),
            capacity: 1024 * 1024,
            per_person: 10,
            refresh_wait: Duration::from_secs(10),
            store: StoreSettings::Memory,
        };
        let keys = Keys::random().unwrap().ring(Purpose::Sessions).unwrap();
        let clock = Clock::manual(Timestamp::from_millis(1_800_000_000_000));
        let sessions =
            Arc::new(Sessions::start(settings, keys, &Registrations::new(), clock.now()).unwrap());
        // The same that is left of a thread that panicked: nobody to take what is asked.
        sessions.close().await.unwrap();
        let readiness = Readiness::default();
        readiness.ready();
        let metrics = Arc::new(Metrics::default());
        let lasting = gateway::Lasting {
            refresher: Arc::new(Refresher::new(
                Arc::default(),
                Arc::clone(&sessions),
                (Arc::clone(&metrics), clock.clone()),
                Handle::current(),
            )),
            sessions,
            metrics,
            clock,
        };
        let keeping = tokio::spawn(keep_house(lasting, readiness.clone()));
        while readiness.is_ready() {
            tokio::task::yield_now().await;
        }
        assert!(!readiness.broken(), "it was said");
        assert!(!keeping.is_finished());
    }
}
