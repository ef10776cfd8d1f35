//! A running gateway, which connects all modules.
//!
//! [`Instance::start`] binds the listeners and starts the control plane and the workers. The
//! control plane is one small multi-thread runtime for all calls to providers. Each worker has a
//! current-thread runtime. The result of the start is a handle that can reload the settings and
//! drain the gateway.

mod explainer;
mod housekeeping;
mod process;
mod reload;
mod reload_trigger;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;

pub use self::explainer::Explainer;
use self::housekeeping::{maintain_sessions, watch_certificates};
use self::process::ProcessState;
use self::reload::CurrentSettings;
pub use self::reload::{ReloadError, Reloaded};
pub use self::reload_trigger::ReloadCause;
use self::reload_trigger::ReloadTrigger;
use crate::admin::{self, Admin, AdminSocket, AskedExplanation, SocketError};
use crate::clock::Clock;
use crate::config::{Config, Upstreams};
use crate::gateway::{Site, Worker};
use crate::server::{
    self, Drained, Endpoint, Listener, OPERATIONS_CONNECTIONS, Readiness, Watch, Workers,
    raise_descriptor_limit,
};
use crate::session;
use crate::telemetry::{Metrics, chain};
use crate::tls::Acceptor;

/// The number of threads of the control plane. Two threads are enough for the control plane,
/// because calls to providers mostly wait.
const CONTROL_THREADS: usize = 2;

/// The reason why an instance did not start. Responsible: the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The threads of the control plane did not start.
    #[error("the control plane cannot start")]
    Control(#[source] std::io::Error),
    /// The admin socket was not created.
    #[error("the admin socket cannot be used")]
    AdminSocket(#[from] SocketError),
    /// A listener or a worker did not start.
    #[error("the server cannot start")]
    Server(#[from] server::Error),
    /// The session store did not open.
    #[error("the session store cannot be opened")]
    Sessions(#[from] session::StartError),
}

/// A running gateway. When an `Instance` is dropped, the gateway stops and aborts the running
/// requests.
#[derive(Debug)]
pub struct Instance {
    address: SocketAddr,
    operations_address: Option<SocketAddr>,
    workers: Workers,
    watch: Watch,
    operations: Option<Workers>,
    admin_socket: Option<AdminSocket>,
    readiness: Readiness,
    acceptor: Option<Acceptor>,
    process: ProcessState,
    current: CurrentSettings,
    trigger: ReloadTrigger,
    upstreams: watch::Sender<Upstreams>,
    sites: watch::Sender<Arc<Site>>,
    handle: Handle,
    control: Control,
}

/// The runtime of the control plane. Dropping `Control` does not wait until the runtime of the
/// control plane has ended. The caller can be in another runtime, and the drop must not block this
/// other runtime.
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
    /// Starts the gateway. Blocks until all workers accept connections.
    ///
    /// # Errors
    ///
    /// [`Error`]. If the start fails, the parts that have already started are stopped.
    pub fn start(config: Config, clock: &Clock) -> Result<Self, Error> {
        raise_descriptor_limit();
        let listener = Listener::bind(config.listen)?;
        let address = listener.local_addr()?;
        let operations = config.operations.map(Listener::bind).transpose()?;
        let operations_address = operations.as_ref().map(Listener::local_addr).transpose()?;
        let (control, handle) = Control::start().map_err(Error::Control)?;
        announce(&config);
        let (acceptor, current) = (config.tls.clone(), CurrentSettings::of(&config));
        let trigger = ReloadTrigger::new(&config, clock.clone());
        let (upstreams, of_files) = watch::channel(config.site.upstreams.clone());
        for provider in config.site.providers.values() {
            handle.spawn(provider.maintain(clock.clone()));
        }
        handle.spawn(watch_certificates(acceptor.clone(), of_files));
        let metrics = Arc::new(Metrics::default());
        let endpoint = endpoint(listener, acceptor.clone()).behind(config.proxies);
        let shared = (Arc::clone(&metrics), clock);
        let providers = &config.site.providers;
        let process = ProcessState::start(config.session, providers, shared, handle.clone())?;
        let readiness = process.site.readiness.clone();
        handle.spawn(maintain_sessions(process.site.clone()));
        let (sites, site) = watch::channel(process.site(config.site));
        let make = move || Worker::new(site.clone());
        let setup = server::Setup {
            name: "worker",
            workers: config.workers,
            endpoints: vec![endpoint],
            settings: config.server,
            clock: clock.clone(),
            metrics: Some(Arc::clone(&metrics)),
        };
        let workers = Workers::start(setup, make)?;
        let watch = workers.watch(readiness.clone(), Arc::clone(&metrics))?;
        let admin = Admin::new(metrics, readiness.clone());
        let operations = operations
            .map(|listener| start_operations(listener, admin, clock))
            .transpose()?;
        let service = admin_service(&process, &sites, clock);
        let path = config.admin_socket.as_deref();
        let admin_socket = path.map(|path| AdminSocket::start(path, service, &handle));
        let admin_socket = admin_socket.transpose()?;
        readiness.mark_ready();
        // The event `Listening` is logged last, because an earlier step, such as reading the
        // session file, can fail.
        log_listening(address, operations_address);
        Ok(Self {
            address,
            operations_address,
            workers,
            watch,
            operations,
            admin_socket,
            readiness,
            acceptor,
            process,
            current,
            trigger,
            upstreams,
            sites,
            handle,
            control,
        })
    }

    /// The public address, with the actual port if the settings contain port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the operations listener.
    pub fn operations_address(&self) -> Option<SocketAddr> {
        self.operations_address
    }

    /// Stops accepting connections, and finishes the running requests. Returns the number of
    /// requests that were aborted.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the running requests are aborted.
    pub async fn drain(self) -> Drained {
        // Load balancers read the readiness and then stop sending requests to this process.
        self.readiness.mark_draining();
        tracing::info!("Draining");
        // During the drain, each worker ends when all its connections are closed.
        drop(self.watch);
        let drained = self.workers.drained().await;
        // The results of running refreshes have to be stored before the store closes. The
        // revocations of sign-outs end at the same time.
        let refreshes = self.process.site.refresher.drained();
        tokio::join!(refreshes, self.process.login.drained());
        // The operations listener stops after the workers, so that the metrics and the readiness
        // can be read during the drain.
        if let Some(operations) = self.operations {
            operations.drained().await;
        }
        drop(self.admin_socket);
        if let Err(error) = self.process.site.sessions.close().await {
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

/// Creates the public address, with TLS if there is a certificate.
fn endpoint(listener: Listener, acceptor: Option<Acceptor>) -> Endpoint {
    match acceptor {
        Some(acceptor) => Endpoint::tls(listener, acceptor),
        None => Endpoint::plain(listener),
    }
}

/// Returns the parts of the gateway that the admin socket uses.
fn admin_service(
    process: &ProcessState,
    sites: &watch::Sender<Arc<Site>>,
    clock: &Clock,
) -> admin::Service {
    let explainer = Explainer::of_running(sites);
    admin::Service {
        sessions: Arc::clone(&process.site.sessions),
        clock: clock.clone(),
        explain: Arc::new(move |asked: &AskedExplanation| explainer.explain_asked(asked)),
    }
}

/// Starts the operations listener on its own thread, so that the listener answers even if all
/// workers are busy.
fn start_operations(
    listener: Listener,
    admin: Admin,
    clock: &Clock,
) -> Result<Workers, server::Error> {
    let mut settings = server::Settings::default();
    settings.limits.connections = OPERATIONS_CONNECTIONS;
    let setup = server::Setup {
        name: "operations",
        workers: NonZeroUsize::MIN,
        endpoints: vec![Endpoint::plain(listener)],
        settings,
        clock: clock.clone(),
        metrics: None,
    };
    Workers::start(setup, move || admin.clone())
}

/// Logs that the gateway accepts connections. `operations` is the address of the operations listener.
fn log_listening(address: SocketAddr, operations: Option<SocketAddr>) {
    let operations = operations.map(tracing::field::display);
    tracing::info!(server.address = %address, operations, "Listening");
}

/// Logs the facts that an operator should know at the start, in particular the public routes.
fn announce(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if config.key_file.is_none() {
        tracing::warn!(
            key = "login.state_key_file",
            "No key file is set, so pending logins have to start again after a restart"
        );
    }
    for route in config.site.routes.iter().filter(|route| route.is_public()) {
        tracing::warn!(
            route = route.name(),
            prefix = route.prefix(),
            "Route is open to everybody"
        );
    }
    for (route, forms) in config.site.routes.unusual_paths() {
        tracing::warn!(route = route.name(), forms, "Route allows unusual paths");
    }
    let login = &config.site.login.0;
    let login_host = login.host.as_ref();
    // With a login host, all hosts share the redirect URI of the login host.
    let urls = config.site.gateway.public_urls.listed();
    for url in urls.filter(|url| login_host.is_none_or(|host| host.url == **url)) {
        for provider in config.site.providers.keys() {
            let redirect_uri = login.redirection.redirect_uri(url, provider);
            tracing::info!(%url, provider = &**provider, redirect_uri, "Serving");
        }
    }
    if let Some(host) = login_host {
        let served: Vec<String> = host.served.names().collect();
        tracing::info!(login.host = %host.url, served = ?served, "Hosts share one sign-in");
    }
}
