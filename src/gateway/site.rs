//! The site: one value with everything that is made from the settings.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_local;

use super::Settings;
use super::body_buffer::{BodyBuffer, BufferSizes};
use super::buffers::{Budgets, Reservation};
use super::refusals::RefusalWarnings;
use super::spill::{Spill, SpillReports, SpillRoom};
use super::streams::StreamCounts;
use crate::access::{self, Access, Refresher, Route, RouteTable};
use crate::clock::Clock;
use crate::fields::OwnedFields;
use crate::login::{Login, OwnPaths, PublicUrl};
use crate::provider::Providers;
use crate::server::Readiness;
use crate::session::Sessions;
use crate::telemetry::{EventLimiter, GaugeGuard, Metrics, RequestCounters};
use crate::upstream::Owner;

/// The pause between two warnings with the same cause.
const WARNING_PAUSE: Duration = Duration::from_hours(24);

/// The values from which a [`Site`] is built.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The operator's settings that apply to all requests, such as the maximum size of a body.
    pub(crate) settings: Settings,
    /// The routes, with their upstreams.
    pub routes: RouteTable,
    /// The providers by their configured names.
    pub providers: Arc<Providers>,
    /// The login flow with the providers of the site.
    pub login: Arc<Login>,
    /// The longest time that a request waits for a refresh, or for its session to be read from the
    /// store.
    pub(crate) max_wait: Duration,
}

/// The parts of the process that no reload replaces.
#[derive(Clone, Debug)]
pub struct ProcessState {
    /// The sessions.
    pub sessions: Arc<Sessions>,
    /// The refresher, which runs the refreshes of all sessions.
    pub(crate) refresher: Arc<Refresher>,
    /// All metrics of the process.
    pub(crate) metrics: Arc<Metrics>,
    /// The number of open tunnels of each client.
    pub(crate) stream_counts: StreamCounts,
    /// The number of open event streams of each session.
    pub(crate) event_counts: StreamCounts,
    /// The budgets of the buffers for slow clients.
    pub(crate) buffers: Budgets,
    /// The warnings about refused requests that the log contains already.
    pub(crate) refusal_warnings: RefusalWarnings,
    /// The state of the process, for health checks.
    pub(crate) readiness: Readiness,
    /// The clock.
    pub(crate) clock: Clock,
}

/// One immutable value with everything that is made from the settings. A site is built completely
/// or not at all. A reload builds the next site, which replaces the current site. A request uses
/// the same site until the request ends.
#[derive(Debug)]
pub(crate) struct Site {
    parts: Parts,
    process: ProcessState,
    owned: OwnedFields,
    counters: RequestCounters,
    /// The warnings that the log contains already, such as the proxies that state another scheme.
    warnings: EventLimiter,
    _counted: GaugeGuard,
}

impl Site {
    /// Builds a site.
    pub(crate) fn new(parts: Parts, process: ProcessState) -> Self {
        let mut routes: Vec<_> = parts.routes.iter().collect();
        // The routes have the same order as in the settings, because the position of a route
        // selects its counter.
        routes.sort_unstable_by_key(|route| route.index());
        let names = routes.into_iter().map(|route| route.name().into());
        let counters = process.metrics.request_counters(names);
        Self {
            owned: OwnedFields::new(&parts.settings.written_fields),
            counters,
            warnings: EventLimiter::new(WARNING_PAUSE),
            _counted: process.metrics.site(),
            parts,
            process,
        }
    }
}

/// One worker's copy of the site. Each worker's copy has its own reference counts, so that workers
/// do not write to the same memory.
#[derive(Debug)]
pub(super) struct WorkerSite {
    shared: Arc<Site>,
    pub(super) access: Rc<Access>,
    /// The public URLs without a wildcard.
    public_urls: Vec<Rc<PublicUrl>>,
    /// Whether the drain time of the worker is almost over. All copies of the site share
    /// `drain_ends`.
    drain_ends: Rc<Cell<bool>>,
}

impl WorkerSite {
    pub(super) fn new(shared: Arc<Site>, drain_ends: &Rc<Cell<bool>>) -> Rc<Self> {
        let (parts, process) = (&shared.parts, &shared.process);
        let settings = access::Settings {
            routes: &parts.routes,
            providers: &parts.providers,
            max_wait: parts.max_wait,
            session_ids: parts.login.session_ids(),
        };
        let (sessions, refresher) = (
            Arc::clone(&process.sessions),
            Arc::clone(&process.refresher),
        );
        let public_urls = parts.settings.public_urls.listed();
        Rc::new(Self {
            access: Access::new(&settings, sessions, refresher),
            public_urls: public_urls.cloned().map(Rc::new).collect(),
            drain_ends: Rc::clone(drain_ends),
            shared,
        })
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.shared.parts.settings
    }

    /// Returns the public URL that has this canonical authority.
    pub(super) fn public_url(&self, authority: &str) -> Option<Rc<PublicUrl>> {
        let mut urls = self.public_urls.iter();
        if let Some(listed) = urls.find(|url| url.authority() == authority) {
            return Some(Rc::clone(listed));
        }
        let below_wildcard = self.settings().public_urls.below_wildcard(authority);
        below_wildcard.map(Rc::new)
    }

    pub(super) fn all_providers(&self) -> &Providers {
        &self.shared.parts.providers
    }

    pub(super) fn owned(&self) -> &OwnedFields {
        &self.shared.owned
    }

    pub(super) fn login(&self) -> &Arc<Login> {
        &self.shared.parts.login
    }

    pub(super) fn own(&self) -> &OwnPaths {
        self.login().own()
    }

    pub(super) fn sessions(&self) -> &Arc<Sessions> {
        &self.shared.process.sessions
    }

    pub(super) fn stream_counts(&self) -> &StreamCounts {
        &self.shared.process.stream_counts
    }

    pub(super) fn event_counts(&self) -> &StreamCounts {
        &self.shared.process.event_counts
    }

    /// Creates an empty reservation for `client` in the budget for buffers in memory.
    pub(super) fn reservation(&self, client: Owner) -> Reservation {
        let buffers = &self.shared.process.buffers;
        buffers.memory(client, self.settings().buffer_bytes)
    }

    /// Reserves at most `wanted` bytes of the budget for buffers in memory, for the receive window of
    /// an HTTP/2 connection of `client`.
    pub(super) fn window(&self, client: Owner, wanted: usize) -> Reservation {
        let buffers = &self.shared.process.buffers;
        buffers.window(client, self.settings().buffer_bytes, wanted)
    }

    /// Creates the buffer of one body.
    pub(super) fn buffer(&self, sizes: BufferSizes) -> BodyBuffer {
        let (settings, process) = (self.settings(), &self.shared.process);
        let memory = self.reservation(sizes.client);
        let spill = settings.spill.as_ref().filter(|_spill| sizes.file > 0);
        let spill = spill.map(|spill| {
            let room = SpillRoom {
                bytes: process.buffers.files(sizes.client, spill.bytes),
                file: process.buffers.open_files(sizes.client, spill.files),
            };
            let reports = SpillReports {
                metrics: Arc::clone(&process.metrics),
                warnings: Arc::clone(process.buffers.spill_warnings()),
                clock: process.clock.clone(),
            };
            Spill::new(spill, sizes.file, room, reports)
        });
        BodyBuffer::new(sizes.memory, memory, spill)
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.shared.process.metrics
    }

    pub(super) fn refusal_warnings(&self) -> &RefusalWarnings {
        &self.shared.process.refusal_warnings
    }

    pub(super) fn readiness(&self) -> &Readiness {
        &self.shared.process.readiness
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.shared.process.clock
    }

    /// Logs that a trusted proxy states another scheme than the public URL. The log contains at most
    /// one warning per day for one proxy.
    #[cold]
    pub(super) fn warn_about_scheme(&self, proxy: IpAddr, public_url: &PublicUrl) {
        let now = self.clock().since_epoch();
        if self.shared.warnings.is_due(proxy, now) {
            tracing::warn!(
                client.address = %proxy,
                public_url = public_url.origin(),
                "A trusted proxy states another scheme in X-Forwarded-Proto than public_url; the \
                 app gets the scheme of public_url"
            );
        }
    }

    /// Logs that `route` has refused a request of another site.
    #[cold]
    pub(super) fn warn_about_cross_site(&self, route: &Route) {
        self.warn_about_refusal(
            &format!("routes.{}.cross_site", route.index()),
            "A request of another site was refused",
        );
    }

    /// Logs that the gateway has refused a request that the setting `setting` would permit. The log
    /// contains at most one warning per day for one setting.
    #[cold]
    pub(super) fn warn_about_refusal(&self, setting: &str, refused: &'static str) {
        let now = self.clock().since_epoch();
        if self.shared.warnings.is_due(setting, now) {
            tracing::warn!(setting, "{refused}. This warning is logged once a day");
        }
    }

    pub(super) fn counters(&self) -> &RequestCounters {
        &self.shared.counters
    }

    /// Whether the drain time of the worker is almost over. If this function returns true, a
    /// request is dropped because the process ends, and not because the client has disconnected.
    pub(super) fn has_drain_ended(&self) -> bool {
        self.drain_ends.get()
    }

    /// Whether a path, in any spelling, belongs to the gateway's own endpoints. A request to a path
    /// of the gateway's own endpoints is never forwarded.
    pub(super) fn is_own(&self, path: &str) -> bool {
        self.login().redirection().is_own_path(path) || self.own().cover(path)
    }
}

/// Reports that a reload has replaced the current site.
pub(super) struct Reloads(watch::Receiver<Arc<Site>>);

impl Reloads {
    /// Waits for the next site. If the process ends before the next reload, this function does not
    /// return.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            pending::<()>().await;
        }
    }
}

/// The site that a worker uses for its next request.
#[derive(Debug)]
pub(super) struct CurrentSite {
    sites: RefCell<watch::Receiver<Arc<Site>>>,
    site: RefCell<Rc<WorkerSite>>,
    drain_ends: Rc<Cell<bool>>,
}

impl CurrentSite {
    /// Creates a `CurrentSite`, which always contains the latest site that `sites` has reported.
    /// Panics if no local task can be started.
    pub(super) fn follow(mut sites: watch::Receiver<Arc<Site>>) -> Rc<Self> {
        let drain_ends = Rc::default();
        let first = WorkerSite::new(Arc::clone(&sites.borrow_and_update()), &drain_ends);
        let mut changes = sites.clone();
        let current = Rc::new(Self {
            sites: RefCell::new(sites),
            site: RefCell::new(first),
            drain_ends,
        });
        // This task updates the site of an idle worker, so that the old site does not stay in
        // memory.
        let following = Rc::downgrade(&current);
        drop(spawn_local(async move {
            while changes.changed().await.is_ok() {
                let Some(current) = following.upgrade() else {
                    return;
                };
                current.update();
            }
        }));
        current
    }

    /// Returns a receiver that gets each site that a later reload creates.
    pub(super) fn reloads(&self) -> Reloads {
        let mut sites = self.sites.borrow().clone();
        sites.mark_unchanged();
        Reloads(sites)
    }

    /// Returns the site for a request that arrives now.
    pub(super) fn get(&self) -> Rc<WorkerSite> {
        // If the process is about to end, `has_changed` returns an error, and the current site
        // stays in use.
        if self.sites.borrow().has_changed().unwrap_or(false) {
            self.update();
        }
        Rc::clone(&self.site.borrow())
    }

    /// Records that the drain time of the worker is almost over.
    pub(super) fn drain_ends(&self) {
        self.drain_ends.set(true);
    }

    fn update(&self) {
        let mut sites = self.sites.borrow_mut();
        if sites.has_changed().unwrap_or(false) {
            let next = WorkerSite::new(Arc::clone(&sites.borrow_and_update()), &self.drain_ends);
            *self.site.borrow_mut() = next;
        }
    }
}
