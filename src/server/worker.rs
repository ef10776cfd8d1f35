//! Workers: threads that accept and serve connections and check their deadlines.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::coarse_clock::CoarseClock;
use super::connection::{Serving, serve};
use super::deadline::ConnectionState;
use super::dormant::CROWD;
use super::listener::{accept, prepare};
use super::overdue::{Overdue, close_longest_idle};
use super::proxy_protocol::read_header;
use super::reading::ReadFailure;
use super::{Connection, Endpoint, Error, Handler, Protocols, Security, Settings, Setup};
use crate::clock::Clock;
use crate::tls::Acceptor;

/// The maximum number of socket events that a worker processes before it runs its tasks. `EVENTS`
/// is small, so that a worker forwards a request while the data of the request is still in the
/// processor's cache.
const EVENTS: usize = 16;

/// The last part of the drain time, during which tunnels may send a close frame.
const TUNNEL_CLOSE_TIME: Duration = Duration::from_secs(1);

/// The threads that serve connections. Dropping this value starts the drain, and does not wait for
/// the end of the drain.
#[derive(Debug)]
pub(crate) struct Workers {
    drain: watch::Sender<bool>,
    reports: Vec<oneshot::Receiver<usize>>,
}

/// The result of a drain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Drained {
    /// The number of unfinished requests that were stopped when the drain time was over.
    pub cut: usize,
    /// The number of workers that had already ended because of a panic in the gateway's code.
    pub lost: usize,
}

/// A listening socket of one worker.
struct WorkerListener {
    listener: std::net::TcpListener,
    protocols: Protocols,
}

/// The arguments of a worker's thread.
struct WorkerSetup {
    listeners: Vec<WorkerListener>,
    settings: Settings,
    clock: Clock,
    slots: Arc<Semaphore>,
    drain: watch::Receiver<bool>,
}

impl Workers {
    /// Starts the threads. Each thread calls `make` inside its runtime to create its own handler.
    /// Blocks until all threads are ready.
    ///
    /// # Errors
    ///
    /// [`Error::Share`], [`Error::Spawn`], [`Error::WorkerLost`]. After an error, the workers that
    /// have already started begin to drain.
    pub(crate) fn start<H: Handler>(
        setup: Setup<'_>,
        make: impl Fn() -> H + Clone + Send + 'static,
    ) -> Result<Self, Error> {
        let Setup {
            name,
            workers: count,
            endpoints,
            settings,
            clock,
        } = setup;
        let (drain, drained) = watch::channel(false);
        let connections = settings.limits.connections.min(Semaphore::MAX_PERMITS);
        let slots = Arc::new(Semaphore::new(connections));
        let mut workers = Self {
            drain,
            reports: Vec::new(),
        };
        let (ready, started) = mpsc::channel();
        for index in 0..count.get() {
            let listeners = endpoints
                .iter()
                .map(WorkerListener::of)
                .collect::<Result<_, _>>()?;
            let (slots, drain) = (Arc::clone(&slots), drained.clone());
            let worker_setup = WorkerSetup {
                listeners,
                settings,
                clock: clock.clone(),
                slots,
                drain,
            };
            let (report, reported) = oneshot::channel();
            let (make, ready) = (make.clone(), ready.clone());
            thread::Builder::new()
                .name(format!("{name}-{index}"))
                .spawn(move || run(worker_setup, make, ready, report))
                .map_err(Error::Spawn)?;
            workers.reports.push(reported);
        }
        // The next line drops `ready`, so that only the workers have senders of the channel. If all
        // workers end, the channel is closed, and `recv` returns an error instead of waiting
        // forever.
        drop((ready, endpoints));
        for _worker in 0..count.get() {
            started.recv().map_err(|_closed| Error::WorkerLost)??;
        }
        Ok(workers)
    }

    /// Starts the drain. The workers still accept the connections that the kernel has already
    /// queued, but no newer connections. Idle connections are closed. Connections with requests in
    /// flight are closed after these requests (`Connection: close`, GOAWAY).
    pub(crate) fn begin_drain(&self) {
        self.drain.send_replace(true);
    }

    /// Starts the drain if the drain has not begun. Waits until all requests in flight are
    /// finished, but not longer than [`super::Deadlines::drain`]. When the drain time is over, ends
    /// the remaining requests.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the drain continues, and only the result is lost.
    pub(crate) async fn drained(self) -> Drained {
        self.begin_drain();
        let mut drained = Drained { cut: 0, lost: 0 };
        for report in self.reports {
            match report.await {
                Ok(cut) => drained.cut = drained.cut.saturating_add(cut),
                Err(_lost) => drained.lost = drained.lost.saturating_add(1),
            }
        }
        drained
    }
}

impl WorkerListener {
    fn of(endpoint: &Endpoint) -> Result<Self, Error> {
        Ok(Self {
            listener: endpoint.listener.duplicate()?,
            protocols: endpoint.protocols.clone(),
        })
    }
}

/// The main function of a worker's thread.
fn run<H: Handler>(
    worker_setup: WorkerSetup,
    make: impl Fn() -> H,
    ready: mpsc::Sender<Result<(), Error>>,
    report: oneshot::Sender<usize>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_io_events_per_tick(EVENTS)
        .build_local(LocalOptions::default())
    {
        Ok(runtime) => runtime,
        Err(source) => return report_start(&ready, Err(Error::Spawn(source))),
    };
    let cut = runtime.block_on(async {
        let (settings, drain) = (worker_setup.settings, worker_setup.drain);
        let listeners = worker_setup.listeners.into_iter().map(|listener| {
            Ok::<_, io::Error>((
                TcpListener::from_std(listener.listener)?,
                listener.protocols,
            ))
        });
        let listeners = match listeners.collect::<Result<Vec<_>, _>>() {
            Ok(listeners) => listeners,
            Err(source) => {
                report_start(&ready, Err(Error::Spawn(source)));
                return 0;
            }
        };
        let handler = Rc::new(make());
        let registry = Registry::new(settings, worker_setup.slots, worker_setup.clock);
        let worker = Rc::new(Worker { handler, registry });
        let acceptors = listeners
            .into_iter()
            .map(|(listener, protocols)| worker.accept(listener, protocols, drain.clone()))
            .collect();
        report_start(&ready, Ok(()));
        // The worker has already reported its start, so the worker drops the sender `ready`. If a
        // worker panics before the worker has reported its start, `start` detects the panic only
        // after all senders are dropped.
        drop(ready);
        let drain_begins = || worker.handler.drain_begins();
        let drain_ends = || worker.handler.drain_ends();
        let phases = (drain_begins, drain_ends);
        worker.registry.run(acceptors, drain, phases).await
    });
    // The end of the process must not wait for a blocking call, such as a name look-up.
    runtime.shutdown_background();
    // If [`Workers`] was dropped before [`Workers::drained`] was called, no code receives the
    // number `cut`.
    report.send(cut).unwrap_or_default();
}

fn report_start(ready: &mpsc::Sender<Result<(), Error>>, state: Result<(), Error>) {
    // If the start of another worker has already failed, no code receives this result.
    ready.send(state).unwrap_or_default();
}

/// The data that all tasks of a worker share.
pub(super) struct Worker<H> {
    pub(super) handler: Rc<H>,
    pub(super) registry: Rc<Registry>,
}

impl<H: Handler> Worker<H> {
    fn accept(
        self: &Rc<Self>,
        listener: TcpListener,
        protocols: Protocols,
        drain: watch::Receiver<bool>,
    ) -> JoinHandle<()> {
        let (worker, protocols) = (Rc::clone(self), Rc::new(protocols));
        tokio::task::spawn_local(accept(listener, drain, move |stream, peer| {
            let (worker, protocols) = (Rc::clone(&worker), Rc::clone(&protocols));
            async move { worker.open(stream, peer, &protocols).await }
        }))
    }

    /// Waits until the limit of connections allows one more connection, and then serves the
    /// connection in a task of its own.
    pub(super) async fn open(
        self: &Rc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        protocols: &Protocols,
    ) {
        let slots = Arc::clone(&self.registry.slots);
        // The semaphore is never closed, so this call always returns a slot.
        let Ok(slot) = slots.acquire_owned().await else {
            return;
        };
        if let Err(error) = prepare(&stream) {
            tracing::debug!(client.address = %peer, %error, "Connection has already ended");
            return;
        }
        let registration = self.registry.enter(peer, slot);
        let state = Rc::clone(&registration.state);
        let config = protocols.tls.as_ref().map(Acceptor::config);
        let task = if protocols.proxies.contain(peer) {
            let (worker, proxies) = (Rc::clone(self), protocols.proxies.clone());
            tokio::task::spawn_local(async move {
                let header = Box::pin(read_header(&registration.state, stream, &proxies));
                if let Some((stream, stated)) = header.await {
                    let serving = worker.serving(&registration, stated, config.is_some());
                    serve(serving, stream, config).await;
                }
                drop(registration);
            })
        } else {
            let serving = self.serving(&registration, None, config.is_some());
            tokio::task::spawn_local(async move {
                serve(serving, stream, config).await;
                drop(registration);
            })
        };
        state.spawned(task.abort_handle());
    }

    /// Creates the data for the requests of a connection. `stated` is the address in the PROXY
    /// header.
    fn serving(
        &self,
        registration: &Registration,
        stated: Option<SocketAddr>,
        is_encrypted: bool,
    ) -> Rc<Serving<H>> {
        let state = &registration.state;
        let security = if is_encrypted {
            Security::Tls
        } else {
            Security::Plain
        };
        let per_connection = self.handler.connection_opened(Connection {
            peer: stated.unwrap_or(state.peer),
            socket_peer: state.peer,
            security,
        });
        Rc::new(Serving {
            handler: Rc::clone(&self.handler),
            per_connection: Rc::new(per_connection),
            state: Rc::clone(state),
            settings: self.registry.settings,
            tunnel: Rc::default(),
        })
    }
}

/// The open connections of one worker.
pub(super) struct Registry {
    settings: Settings,
    slots: Arc<Semaphore>,
    pub(super) coarse_clock: Rc<CoarseClock>,
    pub(super) connections: RefCell<HashMap<u64, Rc<ConnectionState>>>,
    last: Cell<u64>,
    draining: Cell<bool>,
    emptied: Notify,
}

/// The entry of a connection in the registry. When a `Registration` is dropped, the entry is
/// removed.
pub(super) struct Registration {
    registry: Rc<Registry>,
    state: Rc<ConnectionState>,
    key: u64,
    _slot: OwnedSemaphorePermit,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut connections = self.registry.connections.borrow_mut();
        connections.remove(&self.key);
        if connections.is_empty() {
            self.registry.emptied.notify_one();
        }
    }
}

impl Registry {
    pub(super) fn new(settings: Settings, slots: Arc<Semaphore>, clock: Clock) -> Rc<Self> {
        Rc::new(Self {
            settings,
            slots,
            coarse_clock: CoarseClock::new(clock),
            connections: RefCell::default(),
            last: Cell::new(0),
            draining: Cell::new(false),
            emptied: Notify::new(),
        })
    }

    pub(super) fn enter(
        self: &Rc<Self>,
        peer: SocketAddr,
        slot: OwnedSemaphorePermit,
    ) -> Registration {
        let state = ConnectionState::new(peer, &self.coarse_clock);
        // A connection that is accepted during the drain closes after its first request.
        if self.draining.get() {
            state.close();
        }
        let key = self.last.get().wrapping_add(1);
        self.last.set(key);
        self.connections.borrow_mut().insert(key, Rc::clone(&state));
        Registration {
            registry: Rc::clone(self),
            state,
            key,
            _slot: slot,
        }
    }

    /// Checks the connections until the drain begins, and then until all connections are closed or
    /// the drain time is over. Returns the number of requests that were stopped before they were
    /// finished.
    async fn run(
        self: &Rc<Self>,
        acceptors: Vec<JoinHandle<()>>,
        mut drain: watch::Receiver<bool>,
        (drain_begins, drain_ends): (impl FnOnce(), impl FnOnce()),
    ) -> usize {
        let sweeping = Rc::clone(self);
        // The sweep task ends when the worker drops all its tasks.
        let _sweeper = tokio::task::spawn_local(async move { sweeping.sweep_forever().await });
        // If `wait_for` fails, [`Workers`] was dropped. Dropping [`Workers`] also starts the drain.
        drop(drain.wait_for(|drain| *drain).await);
        self.draining.set(true);
        self.coarse_clock.set(self.coarse_clock.clock().instant());
        for state in self.connections.borrow().values() {
            state.close();
        }
        drain_begins();
        let finished = async {
            for acceptor in acceptors {
                if let Err(error) = acceptor.await {
                    tracing::error!(%error, "A listener has stopped accepting connections");
                }
            }
            while !self.connections.borrow().is_empty() {
                self.emptied.notified().await;
            }
        };
        let mut finished = pin!(finished);
        let drain = self.settings.deadlines.drain;
        let close_time = drain
            .checked_div(2)
            .unwrap_or_default()
            .min(TUNNEL_CLOSE_TIME);
        if timeout(drain.saturating_sub(close_time), &mut finished)
            .await
            .is_err()
        {
            drain_ends();
            for state in self.connections.borrow().values() {
                state.stop_streams();
            }
            // The next statement counts the requests that were not finished before the timeout. The
            // worker drops the unfinished requests when it ends.
            timeout(close_time, finished).await.unwrap_or_default();
        }
        self.connections
            .borrow()
            .values()
            .map(|state| state.in_flight())
            .sum()
    }

    async fn sweep_forever(&self) {
        let mut interval = interval(self.settings.deadlines.sweep());
        // Missed sweeps are not repeated, because one sweep checks all connections.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.sweep(self.coarse_clock.clock().instant());
        }
    }

    /// Checks all connections, and ends the connections that have missed a deadline.
    pub(super) fn sweep(&self, now: Instant) {
        self.coarse_clock.set(now);
        let deadlines = &self.settings.deadlines;
        let lowest = self.settings.lowest_answer_rate();
        let mut slow = Vec::new();
        let connections = self.connections.borrow();
        self.coarse_clock.set_crowded(connections.len() > CROWD);
        for state in connections.values() {
            let client = state.peer;
            let streams = state.end_blocked_streams(now, (deadlines.write, lowest));
            slow.extend(state.slow_readers());
            if streams > 0 {
                tracing::debug!(client.address = %client, streams, "Streams are closed because their client does not read");
            }
            let too_slow = state.is_too_slow(now, lowest).then_some(Overdue::TooSlow);
            let Some(overdue) = too_slow.or_else(|| state.overdue(now, deadlines)) else {
                state.ask_dormant();
                continue;
            };
            let reason = overdue.reason();
            tracing::debug!(client.address = %client, reason, "Connection is closed");
            match overdue {
                // An idle connection is closed gracefully, so that TLS and HTTP/2 can send their
                // closing messages.
                Overdue::Idle => state.close(),
                Overdue::Write => state.fail(ReadFailure::Stalled),
                Overdue::TooSlow => state.fail(ReadFailure::TooSlow),
                Overdue::Linger => state.end_linger(),
                Overdue::FirstByte | Overdue::Handshake | Overdue::Head | Overdue::Closing => {
                    state.abort();
                }
            }
        }
        // New connections wait for free slots, so the sweep closes some idle connections.
        if self.slots.available_permits() == 0 {
            close_longest_idle(connections.values());
        }
        drop(connections);
        // The function `client_is_slow` can start a task, so the list of connections must not be
        // borrowed here.
        for reader in slow {
            reader.client_is_slow();
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("connections", &self.connections.borrow().len())
            .finish_non_exhaustive()
    }
}
