//! The gateway processes as the visitors see them, and one request to any of them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::raw::{Raw, Response};

/// The longest time that a visitor waits for an answer: longer than the gateway waits for a token.
const TEST_TIMEOUT: Duration = Duration::from_mins(3);

/// One gateway process.
#[derive(Debug)]
pub(super) struct Replica {
    address: SocketAddr,
    /// Whether a load balancer would send requests to the process.
    up: AtomicBool,
    /// The number of times at which the process was killed or stopped.
    incidents: AtomicUsize,
}

impl Replica {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            up: AtomicBool::new(true),
            incidents: AtomicUsize::new(0),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Records that the process is being killed or stopped.
    pub(super) fn goes_down(&self) {
        self.up.store(false, Ordering::SeqCst);
        self.incidents.fetch_add(1, Ordering::SeqCst);
    }

    /// Records that the process runs again.
    pub(super) fn comes_up(&self) {
        self.up.store(true, Ordering::SeqCst);
    }

    fn incidents(&self) -> usize {
        self.incidents.load(Ordering::SeqCst)
    }
}

/// The first process that is up, from the process `start` on.
fn next_up(replicas: &[Replica], start: usize) -> usize {
    let mut places = (0..replicas.len()).map(|step| (start + step) % replicas.len());
    let up = places.find(|place| replicas[*place].up.load(Ordering::SeqCst));
    up.expect("only one process is down at a time")
}

/// The answer to a request.
pub(super) struct Asked {
    /// `None` if the process closed the connection without an answer.
    pub(super) response: Option<Response>,
    /// The number of attempts without an answer, because the process was killed or stopped
    /// meanwhile.
    pub(super) interrupted: usize,
}

/// The open connections of a visitor, at most one to each process, and the incidents of the process
/// at the time of the connection.
#[derive(Default)]
pub(super) struct Connections(HashMap<usize, (usize, Raw)>);

impl Connections {
    /// Sends a request to a process that is up. The first choice is the process `start`. If the
    /// process is killed or stopped before its answer, another process gets the same request.
    pub(super) async fn ask(
        &mut self,
        replicas: &Arc<[Replica]>,
        start: usize,
        (method, request): (&'static str, &str),
    ) -> Asked {
        let mut interrupted = 0;
        loop {
            let place = next_up(replicas, start + interrupted);
            let replica = &replicas[place];
            let incidents = replica.incidents();
            let response = self
                .exchange(place, incidents, replica.address, (method, request))
                .await;
            if response.is_some() || replica.incidents() == incidents {
                return Asked {
                    response,
                    interrupted,
                };
            }
            interrupted += 1;
        }
    }

    async fn exchange(
        &mut self,
        place: usize,
        incidents: usize,
        address: SocketAddr,
        (method, request): (&'static str, &str),
    ) -> Option<Response> {
        let open = self.0.remove(&place);
        let open = open.filter(|(opened_at, _connection)| *opened_at == incidents);
        let mut connection = match open {
            Some((_, connection)) => connection,
            None => Raw::try_connect(address, None)
                .await
                .ok()?
                .waiting_for(TEST_TIMEOUT),
        };
        connection.forget();
        connection.send(request).await;
        let response = connection.response(method).await?;
        let field = response.head.value("connection").unwrap_or_default();
        if !field.eq_ignore_ascii_case("close") {
            self.0.insert(place, (incidents, connection));
        }
        Some(response)
    }
}
