//! Workers: threads that each accept, serve and sweep their own connections.

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

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::connection::{Serving, serve};
use super::deadline::{CoarseClock, ConnectionState, Overdue};
use super::listener::accept;
use super::{Connection, Endpoint, Error, Handler, Security, Settings, Setup};
use crate::clock::Clock;
use crate::tls::Acceptor;

/// How many sockets a worker looks after at a time: what a request touches on its way in is still in
/// the processor's caches when it goes on to the app.
const EVENTS: usize = 16;

/// The end of the drain time in which tunnels may still send a close frame.
const TUNNEL_CLOSE_TIME: Duration = Duration::from_secs(1);

/// At the cap of connections, this part of the idle ones is closed per sweep, the oldest first.
const IDLE_SHARE: usize = 8;

/// The threads that serve. Dropping them starts the drain and does not wait for its end.
#[derive(Debug)]
pub(crate) struct Workers {
    drain: watch::Sender<bool>,
    reports: Vec<oneshot::Receiver<usize>>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Drained {
    /// Requests that were cut at the deadline.
    pub cut: usize,
    /// Workers that had ended by themselves before, by a panic of ours.
    pub lost: usize,
}

/// A listening socket of one worker.
struct WorkerListener {
    listener: std::net::TcpListener,
    tls: Option<Acceptor>,
}

/// What a worker's thread starts with.
struct WorkerSetup {
    listeners: Vec<WorkerListener>,
    settings: Settings,
    clock: Clock,
    slots: Arc<Semaphore>,
    drain: watch::Receiver<bool>,
}

impl Workers {
    /// Starts the threads. Each makes its own handler by `make`, on its thread and inside its
    /// runtime. Returns when all serve; blocks until then.
    ///
    /// # Errors
    ///
    /// [`Error::Share`], [`Error::Spawn`], [`Error::WorkerLost`]. Workers that had started drain.
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
                .spawn(move || run(worker_setup, make, &ready, report))
                .map_err(Error::Spawn)?;
            workers.reports.push(reported);
        }
        // With this end gone, a worker that panics closes the channel.
        drop((ready, endpoints));
        for _worker in 0..count.get() {
            started.recv().map_err(|_closed| Error::WorkerLost)??;
        }
        Ok(workers)
    }

    /// Starts to stop: no new connections but those the kernel has queued, idle ones are closed,
    /// the others close after their request (`Connection: close`, GOAWAY).
    pub(crate) fn begin_drain(&self) {
        self.drain.send_replace(true);
    }

    /// Starts to stop if [`Workers::begin_drain`] has not, and waits until everything in flight is
    /// finished or [`super::Deadlines::drain`] has passed and the rest is cut.
    ///
    /// # Cancel safety
    ///
    /// Cancelling it goes on draining and loses the report.
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
            tls: endpoint.tls.clone(),
        })
    }
}

/// A worker's thread.
fn run<H: Handler>(
    worker_setup: WorkerSetup,
    make: impl Fn() -> H,
    ready: &mpsc::Sender<Result<(), Error>>,
    report: oneshot::Sender<usize>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_io_events_per_tick(EVENTS)
        .build_local(LocalOptions::default())
    {
        Ok(runtime) => runtime,
        Err(source) => return report_start(ready, Err(Error::Spawn(source))),
    };
    let cut = runtime.block_on(async {
        let (settings, drain) = (worker_setup.settings, worker_setup.drain);
        let listeners = worker_setup.listeners.into_iter().map(|listener| {
            Ok::<_, io::Error>((TcpListener::from_std(listener.listener)?, listener.tls))
        });
        let listeners = match listeners.collect::<Result<Vec<_>, _>>() {
            Ok(listeners) => listeners,
            Err(source) => {
                report_start(ready, Err(Error::Spawn(source)));
                return 0;
            }
        };
        let handler = Rc::new(make());
        let registry = Registry::new(settings, worker_setup.slots, worker_setup.clock);
        let worker = Rc::new(Worker { handler, registry });
        let acceptors = listeners
            .into_iter()
            .map(|(listener, tls)| worker.accept(listener, tls, drain.clone()))
            .collect();
        report_start(ready, Ok(()));
        worker.registry.run(acceptors, drain).await
    });
    // A blocking call (name resolution) must not hold up the end of the process.
    runtime.shutdown_background();
    // Nobody listens when the workers were dropped without waiting.
    report.send(cut).unwrap_or_default();
}

fn report_start(ready: &mpsc::Sender<Result<(), Error>>, state: Result<(), Error>) {
    // Nobody listens when another worker has failed already.
    ready.send(state).unwrap_or_default();
}

/// What a worker's tasks share.
struct Worker<H> {
    handler: Rc<H>,
    registry: Rc<Registry>,
}

impl<H: Handler> Worker<H> {
    fn accept(
        self: &Rc<Self>,
        listener: TcpListener,
        tls: Option<Acceptor>,
        drain: watch::Receiver<bool>,
    ) -> JoinHandle<()> {
        let worker = Rc::clone(self);
        tokio::task::spawn_local(accept(listener, drain, move |stream, peer| {
            let (worker, tls) = (Rc::clone(&worker), tls.clone());
            async move { worker.open(stream, peer, tls.as_ref()).await }
        }))
    }

    /// Serves a connection in a task of its own, as soon as the cap allows it.
    async fn open(&self, stream: TcpStream, peer: SocketAddr, tls: Option<&Acceptor>) {
        let slots = Arc::clone(&self.registry.slots);
        let Ok(slot) = slots.acquire_owned().await else {
            return;
        };
        if let Err(error) = prepare(&stream) {
            tracing::debug!(client.address = %peer, %error, "Connection is gone already");
            return;
        }
        let registration = self.registry.enter(peer, slot);
        let state = Rc::clone(&registration.state);
        let security = if tls.is_some() {
            Security::Tls
        } else {
            Security::Plain
        };
        let per_connection = self
            .handler
            .connection_opened(Connection { peer, security });
        let serving = Serving {
            handler: Rc::clone(&self.handler),
            per_connection: Rc::new(per_connection),
            state: Rc::clone(&state),
            settings: self.registry.settings,
            tunnel: Rc::default(),
        };
        let config = tls.map(Acceptor::config);
        let task = tokio::task::spawn_local(async move {
            serve(serving, stream, config).await;
            drop(registration);
        });
        state.spawned(task.abort_handle());
    }
}

/// The live connections of one worker.
struct Registry {
    settings: Settings,
    slots: Arc<Semaphore>,
    coarse_clock: Rc<CoarseClock>,
    connections: RefCell<HashMap<u64, Rc<ConnectionState>>>,
    last: Cell<u64>,
    draining: Cell<bool>,
    emptied: Notify,
}

/// A connection's place among the live ones.
struct Registration {
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
    fn new(settings: Settings, slots: Arc<Semaphore>, clock: Clock) -> Rc<Self> {
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

    fn enter(self: &Rc<Self>, peer: SocketAddr, slot: OwnedSemaphorePermit) -> Registration {
        let state = ConnectionState::new(peer, &self.coarse_clock);
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

    /// Sweeps until the drain begins, then until nothing is live or its time is over. Returns how
    /// many requests were cut.
    async fn run(
        self: &Rc<Self>,
        acceptors: Vec<JoinHandle<()>>,
        mut drain: watch::Receiver<bool>,
    ) -> usize {
        let sweeping = Rc::clone(self);
        // It ends with the worker, which drops its tasks.
        let _sweeper = tokio::task::spawn_local(async move { sweeping.sweep_forever().await });
        // An error means that the workers were dropped, which is the same wish.
        drop(drain.wait_for(|drain| *drain).await);
        self.draining.set(true);
        self.coarse_clock.update();
        for state in self.connections.borrow().values() {
            state.close();
        }
        let finished = async {
            for acceptor in acceptors {
                if let Err(error) = acceptor.await {
                    tracing::error!(%error, "Accepting ended early");
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
            for state in self.connections.borrow().values() {
                state.stop_tunnel();
            }
            // On time-out what is left is counted here and dropped with the worker.
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
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.sweep();
        }
    }

    /// Looks at every connection once and ends those that are late.
    fn sweep(&self) {
        let now = self.coarse_clock.update();
        let deadlines = &self.settings.deadlines;
        let connections = self.connections.borrow();
        for state in connections.values() {
            let client = state.peer;
            let streams = state.cut_blocked_streams(now, deadlines.write);
            if streams > 0 {
                tracing::debug!(client.address = %client, streams, "Streams are cut: nobody reads");
            }
            let Some(overdue) = state.overdue(now, deadlines) else {
                continue;
            };
            let reason = overdue.reason();
            tracing::debug!(client.address = %client, reason, "Connection is closed");
            if overdue == Overdue::Idle {
                // Politely: TLS and HTTP/2 have a word for it.
                state.close();
            } else {
                state.cut();
            }
        }
        if self.slots.available_permits() == 0 {
            close_longest_idle(connections.values());
        }
    }
}

fn close_longest_idle<'a>(connections: impl Iterator<Item = &'a Rc<ConnectionState>>) {
    let mut idle: Vec<_> = connections
        .filter_map(|state| state.idle_since().map(|since| (since, state)))
        .collect();
    idle.sort_unstable_by_key(|(since, _state)| *since);
    let share = idle.len().div_ceil(IDLE_SHARE);
    for (_since, state) in idle.into_iter().take(share) {
        state.close();
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("connections", &self.connections.borrow().len())
            .finish_non_exhaustive()
    }
}

/// What may lie in the kernel unsent. Without a bound a slow client's socket counts as full for
/// minutes, and a healthy download looks like one that has stopped.
const UNSENT: u32 = 128 * 1024;

/// A client that vanished is noticed even where nothing is sent for hours.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_mins(1))
    .with_interval(Duration::from_secs(10))
    .with_retries(6);

/// Sets the options of an accepted socket. Small writes leave at once; bodies are written in large
/// pieces anyway.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.set_tcp_notsent_lowat(UNSENT)
}
