//! A TCP forwarder between a gateway and another server, such as its session store. A test can block
//! the forwarder, as if a firewall dropped every packet, can cut its connections, or can let new
//! connections lead to another server.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// The state that all connections follow.
#[derive(Clone, Copy, Debug)]
struct State {
    /// The server to which new connections lead.
    behind: SocketAddr,
    blocked: bool,
    /// The number of times at which all connections were cut.
    cuts: usize,
}

/// A forwarder. The forwarder stops when its value is dropped.
pub(crate) struct Gate {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    task: JoinHandle<()>,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Gate {
    /// Starts on a free port of 127.0.0.1, and forwards each connection to `behind`.
    pub(crate) async fn start(behind: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(watch::Sender::new(State {
            behind,
            blocked: false,
            cuts: 0,
        }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _peer)) = listener.accept().await {
                let state = shared.subscribe();
                connections.spawn(forward(stream, state));
            }
        });
        Self {
            address,
            state,
            task,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forwards nothing from now on, in both directions. Connections stay open.
    pub(crate) fn block(&self) {
        self.state.send_modify(|state| state.blocked = true);
    }

    /// Forwards again, also the data of the blocked time.
    pub(crate) fn unblock(&self) {
        self.state.send_modify(|state| state.blocked = false);
    }

    /// Lets new connections lead to another server. Open connections stay open.
    pub(crate) fn redirect(&self, behind: SocketAddr) {
        self.state.send_modify(|state| state.behind = behind);
    }

    /// Closes all connections.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }
}

async fn forward(stream: TcpStream, mut state: watch::Receiver<State>) {
    let cuts = state.borrow().cuts;
    let mut cut = state.clone();
    let both_ways = async {
        // A blocked forwarder accepts the connection and then says nothing.
        let behind = state.wait_for(|state| !state.blocked).await.ok()?.behind;
        let server = TcpStream::connect(behind).await.ok()?;
        let (from_client, to_client) = stream.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            () = copy(from_client, to_server, state.clone()) => {}
            () = copy(from_server, to_client, state.clone()) => {}
        }
        Some(())
    };
    tokio::select! {
        _ended = both_ways => {}
        _cut = cut.wait_for(|state| state.cuts != cuts) => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut chunk = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        let open = state.wait_for(|state| !state.blocked).await.is_ok();
        if !open || to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
}
