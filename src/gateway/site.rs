//! The site: everything that is made from the settings, as one value.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_local;

use super::Settings;
use crate::access::{self, Access, Refresher, RouteTable};
use crate::clock::Clock;
use crate::fields::OwnedFields;
use crate::login::{Login, OWN_PREFIX, PublicUrl};
use crate::provider::Providers;
use crate::session::Sessions;
use crate::target::Prefix;
use crate::telemetry::{Counted, Metrics, RequestCounters};

/// What a [`Site`] is made from.
#[derive(Debug)]
pub(crate) struct Parts {
    /// What the walk needs from the operator.
    pub(crate) settings: Settings,
    /// The routes, with the upstreams they lead to.
    pub routes: RouteTable,
    /// The providers by their configured names.
    pub providers: Arc<Providers>,
    /// The login flow at these providers.
    pub login: Arc<Login>,
    /// How long a request waits for a session that has to be refreshed or fetched first.
    pub(crate) max_wait: Duration,
}

/// What outlives a site: it is the same before and after a reload.
#[derive(Clone, Debug)]
pub struct ProcessState {
    /// Who is signed in.
    pub sessions: Arc<Sessions>,
    /// The refreshes under way.
    pub(crate) refresher: Arc<Refresher>,
    /// All figures of the process.
    pub(crate) metrics: Arc<Metrics>,
    /// The time.
    pub(crate) clock: Clock,
}

/// Everything that is made from the settings, as one immutable value. It is built whole or not at
/// all. A reload builds the next one and puts it in the place of this one; requests that began
/// before end on the site on which they began.
#[derive(Debug)]
pub(crate) struct Site {
    parts: Parts,
    process: ProcessState,
    owned: OwnedFields,
    own: Prefix,
    counters: RequestCounters,
    _counted: Counted,
}

impl Site {
    /// Builds a site.
    pub(crate) fn new(parts: Parts, process: ProcessState) -> Self {
        let mut routes: Vec<_> = parts.routes.iter().collect();
        routes.sort_unstable_by_key(|route| route.index());
        let names = routes.into_iter().map(|route| route.name().into());
        let counters = process.metrics.request_counters(names);
        Self {
            owned: OwnedFields::new(parts.settings.assertions.iter()),
            // The prefix is a constant that parses. With the default, every path would be ours, so
            // nothing would be forwarded.
            own: Prefix::parse(OWN_PREFIX).unwrap_or_default(),
            counters,
            _counted: process.metrics.site(),
            parts,
            process,
        }
    }
}

/// One worker's copy of the site. Requests count their references to it without atomics, so that
/// workers do not write to memory of each other.
#[derive(Debug)]
pub(super) struct WorkerSite {
    shared: Arc<Site>,
    pub(super) access: Rc<Access>,
    public_urls: Vec<Rc<PublicUrl>>,
}

impl WorkerSite {
    fn new(shared: Arc<Site>) -> Rc<Self> {
        let (parts, process) = (&shared.parts, &shared.process);
        let settings = access::Settings {
            routes: &parts.routes,
            names: &parts.settings.assertions,
            providers: &parts.providers,
            max_wait: parts.max_wait,
        };
        let (sessions, refresher) = (
            Arc::clone(&process.sessions),
            Arc::clone(&process.refresher),
        );
        let public_urls = parts.settings.public_urls.iter();
        Rc::new(Self {
            access: Access::new(&settings, sessions, refresher),
            public_urls: public_urls.cloned().map(Rc::new).collect(),
            shared,
        })
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.shared.parts.settings
    }

    /// The origin with this canonical authority.
    pub(super) fn public_url(&self, authority: &str) -> Option<&Rc<PublicUrl>> {
        let mut urls = self.public_urls.iter();
        urls.find(|url| url.authority() == authority)
    }

    pub(super) fn owned(&self) -> &OwnedFields {
        &self.shared.owned
    }

    pub(super) fn login(&self) -> &Arc<Login> {
        &self.shared.parts.login
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.shared.process.metrics
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.shared.process.clock
    }

    pub(super) fn counters(&self) -> &RequestCounters {
        &self.shared.counters
    }

    /// Whether a path is one of our own endpoints, in whatever spelling. Those never reach an
    /// upstream.
    pub(super) fn is_own(&self, path: &str) -> bool {
        self.login().redirection().is_own_path(path) || self.shared.own.covers(path)
    }
}

/// The site that a worker's next request is decided by.
#[derive(Debug)]
pub(super) struct CurrentSite {
    sites: RefCell<watch::Receiver<Arc<Site>>>,
    site: RefCell<Rc<WorkerSite>>,
}

impl CurrentSite {
    /// Follows `sites`. It panics where no local task can be spawned.
    pub(super) fn follow(mut sites: watch::Receiver<Arc<Site>>) -> Rc<Self> {
        let first = WorkerSite::new(Arc::clone(&sites.borrow_and_update()));
        let mut changes = sites.clone();
        let current = Rc::new(Self {
            sites: RefCell::new(sites),
            site: RefCell::new(first),
        });
        // Without this task a worker that has nothing to do would keep an old site for ever.
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

    /// The site for a request that comes now.
    pub(super) fn get(&self) -> Rc<WorkerSite> {
        // An error says that no site will follow, since the process ends.
        if self.sites.borrow().has_changed().unwrap_or(false) {
            self.update();
        }
        Rc::clone(&self.site.borrow())
    }

    fn update(&self) {
        let mut sites = self.sites.borrow_mut();
        if sites.has_changed().unwrap_or(false) {
            let next = WorkerSite::new(Arc::clone(&sites.borrow_and_update()));
            *self.site.borrow_mut() = next;
        }
    }
}
