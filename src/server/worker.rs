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

use tokio::net::TcpListener;
use tokio::runtime::LocalOptions;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::coarse_clock::CoarseClock;
use super::deadline::ConnectionState;
use super::dormant::CROWD;
use super::heartbeat::{Heartbeat, Heartbeats};
use super::overdue::Overdue;
use super::reading::ReadFailure;
use super::report::Reports;
use super::slots::{Slot, Slots};
use super::{Drained, Endpoint, Error, Handler, Protocols, Settings, Setup};
use crate::clock::Clock;

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
    pub(super) heartbeats: Heartbeats,
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
    slots: Arc<Slots>,
    drain: watch::Receiver<bool>,
    heartbeat: Heartbeat,
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
            metrics,
        } = setup;
        let (drain, drained) = watch::channel(false);
        let slots = Slots::new(&settings.limits, Reports::new(metrics));
        let mut workers = Self {
            drain,
            reports: Vec::new(),
            heartbeats: Heartbeats::new(count.get()),
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
                heartbeat: workers.heartbeats.of(index),
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
        let run = (acceptors, worker_setup.heartbeat);
        worker.registry.run(run, drain, phases).await
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

/// The open connections of one worker.
pub(super) struct Registry {
    pub(super) settings: Settings,
    pub(super) slots: Arc<Slots>,
    /// The index of the worker.
    pub(super) index: usize,
    /// The number of searches for connections of clients that have reached their limit, since the
    /// last sweep.
    pub(super) searches: Cell<usize>,
    /// Whether, since the last sweep, no worker has closed a connection of a client with more than
    /// its share, although there is such a client: all its connections have requests in progress.
    pub(super) asked_in_vain: Cell<bool>,
    pub(super) coarse_clock: Rc<CoarseClock>,
    pub(super) connections: RefCell<HashMap<u64, Rc<ConnectionState>>>,
    last: Cell<u64>,
    draining: Cell<bool>,
    emptied: Notify,
}

/// The entry of a connection in the registry. When a `Registration` is dropped, the entry is
/// removed, and the slot of the connection is free.
pub(super) struct Registration {
    registry: Rc<Registry>,
    pub(super) state: Rc<ConnectionState>,
    key: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.state.place.leave();
        let mut connections = self.registry.connections.borrow_mut();
        connections.remove(&self.key);
        if connections.is_empty() {
            self.registry.emptied.notify_one();
        }
    }
}

impl Registry {
    pub(super) fn new(settings: Settings, slots: Arc<Slots>, clock: Clock) -> Rc<Self> {
        Rc::new(Self {
            settings,
            index: slots.next_worker(),
            slots,
            searches: Cell::new(0),
            asked_in_vain: Cell::new(false),
            coarse_clock: CoarseClock::new(clock),
            connections: RefCell::default(),
            last: Cell::new(0),
            draining: Cell::new(false),
            emptied: Notify::new(),
        })
    }

    pub(super) fn enter(self: &Rc<Self>, peer: SocketAddr, slot: Slot) -> Registration {
        let state = ConnectionState::new(peer, &self.coarse_clock);
        state.place.occupy(slot);
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
        }
    }

    /// Checks the connections until the drain begins, and then until all connections are closed or
    /// the drain time is over. Returns the number of requests that were stopped before they were
    /// finished.
    async fn run(
        self: &Rc<Self>,
        (acceptors, heartbeat): (Vec<JoinHandle<()>>, Heartbeat),
        mut drain: watch::Receiver<bool>,
        (drain_begins, drain_ends): (impl FnOnce(), impl FnOnce()),
    ) -> usize {
        let sweeping = Rc::clone(self);
        // The two tasks end when the worker drops all its tasks.
        let _sweeper =
            tokio::task::spawn_local(async move { sweeping.sweep_forever(&heartbeat).await });
        let shedding = Rc::clone(self);
        let _shedder = tokio::task::spawn_local(async move { shedding.shed_for_others().await });
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
                state.stop.begin();
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

    async fn sweep_forever(&self, heartbeat: &Heartbeat) {
        let mut interval = interval(self.settings.deadlines.sweep());
        // Missed sweeps are not repeated, because one sweep checks all connections.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            heartbeat.beat();
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
            let client = state.client();
            state.sweep_bodies(now);
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
                Overdue::FirstByte
                | Overdue::Handshake
                | Overdue::Head
                | Overdue::HalfClosed
                | Overdue::Closing => state.abort(),
            }
        }
        drop(connections);
        self.shed_in_sweep();
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
