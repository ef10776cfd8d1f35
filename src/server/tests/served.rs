//! One worker that a test drives itself, with a clock that the test advances.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::rc::Rc;

use tokio::net::TcpListener;
use tokio::task::{LocalSet, yield_now};
use tokio::time::Instant;

use super::*;
use crate::server::deadline::{ConnectionState, Phase};
use crate::server::dormant::{DORMANT_AFTER, Stage};
use crate::server::report::Reports;
use crate::server::slots::Slots;
use crate::server::worker::{Registry, Worker};

/// One worker without a thread of its own.
pub(super) struct Served {
    pub(super) worker: Rc<Worker<Site>>,
    now: Cell<Instant>,
    pub(super) probe: Probe,
    pub(super) events: mpsc::UnboundedReceiver<Event>,
    listener: TcpListener,
    pub(super) acceptor: Acceptor,
    written: DevelopmentFiles,
    _dir: TempDir,
}

/// The limits of a server that may have this number of connections.
pub(super) fn slots(connections: usize) -> Arc<Slots> {
    let limits = Limits {
        connections,
        ..Limits::default()
    };
    Slots::new(&limits, Reports::new(None))
}

impl Served {
    pub(super) async fn start(deadlines: Deadlines) -> Self {
        let dir = TempDir::new().unwrap();
        let written = development_certificates(dir.path(), &[], NOW).unwrap();
        let identity = ServerIdentity {
            certificate: written.certificate.clone(),
            key: written.key.clone(),
        };
        let acceptor = Acceptor::load(&identity, Clock::manual(NOW)).unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let probe = Probe {
            events: sender,
            release: Arc::new(Semaphore::new(0)),
            produced: Arc::default(),
        };
        let clock = Clock::system();
        let slots = slots(10);
        let worker = Rc::new(Worker {
            handler: Rc::new(Site(probe.clone())),
            registry: Registry::new(with(deadlines), slots, clock.clone()),
        });
        // `now` is read after the worker has read its clock, so `now` is not earlier than the time
        // of the worker.
        let now = Cell::new(clock.instant());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Self {
            worker,
            now,
            probe,
            events,
            listener,
            acceptor,
            written,
            _dir: dir,
        }
    }

    /// Accepts the connection of the next client.
    pub(super) async fn accept(&self, tls: Option<&Acceptor>) {
        let (stream, peer) = self.listener.accept().await.unwrap();
        let protocols = Protocols {
            tls: tls.cloned(),
            ..Protocols::default()
        };
        self.worker.open(stream, peer, &protocols).await;
    }

    pub(super) async fn client(&self) -> Client<TcpStream> {
        let address = self.listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        self.accept(None).await;
        Client(client)
    }

    pub(super) async fn secure_client(&self, alpn: &[u8]) -> Client<Tls> {
        let address = self.listener.local_addr().unwrap();
        let protocols = [alpn];
        let handshake = handshake(address, &self.written, &protocols);
        let (client, ()) = tokio::join!(handshake, self.accept(Some(&self.acceptor)));
        Client(client.unwrap())
    }

    /// The state of the only connection.
    pub(super) fn state(&self) -> Rc<ConnectionState> {
        let connections = self.worker.registry.connections.borrow();
        let mut states = connections.values();
        let state = states.next().expect("a connection is open");
        assert!(states.next().is_none());
        Rc::clone(state)
    }

    pub(super) fn pass(&self, time: Duration) {
        let now = self.now.get().checked_add(time).unwrap();
        self.now.set(now);
        self.worker.registry.sweep(now);
    }

    pub(super) async fn until_stage(&self, stage: Stage) {
        until(|| self.state().dormancy().stage() == stage).await;
    }

    pub(super) async fn until_phase(&self, phase: Phase) {
        until(|| self.state().phase() == phase).await;
    }

    pub(super) async fn make_dormant(&self) {
        self.until_phase(Phase::Idle).await;
        self.pass(DORMANT_AFTER);
        self.until_stage(Stage::Dormant).await;
    }

    /// Lets the tasks of the worker run. Returns true if a handler has reported its end.
    pub(super) async fn has_left(&mut self) -> bool {
        for _ in 0..100 {
            yield_now().await;
        }
        matches!(self.events.try_recv(), Ok(Event::Left(_)))
    }

    pub(super) async fn until_closed(&self) {
        until(|| self.worker.registry.connections.borrow().is_empty()).await;
    }
}

/// Runs the other tasks until the condition is true.
pub(super) async fn until(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            yield_now().await;
        }
    })
    .await;
}

pub(super) async fn local(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}
